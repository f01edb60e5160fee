"Prompts, rollouts, scores; the ledger that keeps them, and what can be counted in it."
from rsr import face

__all__ = [
    'OUTCOMES', 'Prompt', 'Rollout', 'RsrError', 'RunBroken', 'STOPS', 'Score', 'Store', 'copy_run', 'corrected_rate',
    'read_prompts', 'read_rows',
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rsr.data.readers import read_prompts
    from rsr.data.sources import read_rows
    from rsr.data.safekeeping import copy_run
    from rsr.data.statistics import corrected_rate
    from rsr.data.store import Store
    from rsr.data.types import OUTCOMES, STOPS, Prompt, Rollout, RsrError, RunBroken, Score

_face = face('rsr.data', {
    **dict.fromkeys(('OUTCOMES', 'Prompt', 'Rollout', 'RsrError', 'RunBroken', 'STOPS', 'Score'), 'types'),
    'read_prompts': 'readers', 'read_rows': 'sources',
    'Store': 'store', 'copy_run': 'safekeeping', 'corrected_rate': 'statistics'})
__getattr__ = _face[0]
__dir__ = _face[1]
