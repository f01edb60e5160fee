"Look at a run: an explorer for notebooks and browsers, and figures. `rsr.explore([run, …])` opens the explorer."
import sys
from types import ModuleType

from rsr.explore.breakdown_figures import plot_compare, plot_criteria, plot_taxonomy
from rsr.explore.explorer import explore
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

__all__ = [
    'FIGURES', 'all_figures', 'explore', 'figure', 'plot_compare', 'plot_criteria', 'plot_difficulty',
    'plot_latency', 'plot_margins', 'plot_models', 'plot_outcomes', 'plot_pass_rates',
    'plot_rollouts_to_satisfaction', 'plot_score_length', 'plot_scores', 'plot_taxonomy', 'plot_tokens',
    'plot_yield_budget', 'serve',
]

class _Package(ModuleType):
    "The package, which is called like its main function: `rsr.explore(run)`."
    def __call__(self, *args, **kwargs):
        return explore(*args, **kwargs)

sys.modules[__name__].__class__ = _Package
