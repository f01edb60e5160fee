"Look at a run: an explorer for notebooks and browsers, and figures."
from rsr.explore.widget import explore
from rsr.explore.serve import serve
from rsr.explore.figures import (
    FIGURES,
    plot_compare,
    plot_criteria,
    plot_latency,
    plot_margins,
    plot_outcomes,
    plot_pass_rates,
    plot_rollouts_to_satisfaction,
    plot_score_length,
    plot_scores,
    plot_taxonomy,
    plot_tokens,
    plot_yield_budget,
)

__all__ = [
    'FIGURES', 'explore', 'plot_compare', 'plot_criteria', 'plot_latency', 'plot_margins', 'plot_outcomes',
    'plot_pass_rates', 'plot_rollouts_to_satisfaction', 'plot_score_length', 'plot_scores', 'plot_taxonomy',
    'plot_tokens', 'plot_yield_budget', 'serve',
]
