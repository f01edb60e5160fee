"Look at a run: an explorer for notebooks and browsers, and figures."
from rsr.explore.breakdown_figures import plot_compare, plot_criteria, plot_taxonomy
from rsr.explore.figures import all_figures
from rsr.explore.ledger_view import FIGURES, figure
from rsr.explore.model_figures import plot_models
from rsr.explore.run_figures import (
    plot_latency,
    plot_outcomes,
    plot_rollouts_to_satisfaction,
    plot_tokens,
    plot_yield_budget,
)
from rsr.explore.score_figures import (
    plot_difficulty,
    plot_margins,
    plot_pass_rates,
    plot_score_length,
    plot_scores,
)
from rsr.explore.serve import serve
from rsr.explore.widget import explore

__all__ = [
    'FIGURES', 'all_figures', 'explore', 'figure', 'plot_compare', 'plot_criteria', 'plot_difficulty', 'plot_latency', 'plot_margins',
    'plot_models',     'plot_outcomes', 'plot_pass_rates', 'plot_rollouts_to_satisfaction', 'plot_score_length', 'plot_scores',
    'plot_taxonomy', 'plot_tokens', 'plot_yield_budget', 'serve',
]
