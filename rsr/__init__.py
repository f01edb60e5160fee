"Rejection-sampling recipes: training data for language models, every rollout kept."
__version__ = "0.0.1"

from rsr.run import Run, load_run, sample
from rsr.verifiers import verify

__all__ = ['Run', 'load_run', 'sample', 'verify']
