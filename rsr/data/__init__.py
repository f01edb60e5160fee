"Prompts, rollouts, scores; the ledger that keeps them, and what can be counted in it."
from rsr.data.types import OUTCOMES, Prompt, Rollout, RsrError, RunBroken, STOPS, Score
from rsr.data.readers import read_prompts, read_rows
from rsr.data.safekeeping import copy_run
from rsr.data.store import Store
from rsr.data.statistics import corrected_rate

__all__ = [
    'OUTCOMES', 'Prompt', 'Rollout', 'RsrError', 'RunBroken', 'STOPS', 'Score', 'Store', 'copy_run', 'corrected_rate',
    'read_prompts', 'read_rows',
]
