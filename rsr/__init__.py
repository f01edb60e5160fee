"Rejection-sampling recipes: training data for language models, every rollout kept."
__version__ = "0.0.1"

from importlib import import_module

from rsr.run import Run, load_run, make_rewards, sample
from rsr.run.execution import EXECUTORS
from rsr.verifiers import verify

__all__ = ['Run', 'load_run', 'make_rewards', 'sample', 'verify']


def _on_first_use(module, name):
    "Return a function that imports `module` when it is first called, and calls its `name`."
    def call(*args, **kwargs):
        return getattr(import_module(module), name)(*args, **kwargs)
    return call


# Rooms above `run` that add to it, and are too heavy to import with it.
Run.check = _on_first_use('rsr.quality.checklist', 'checklist')
Run.report = _on_first_use('rsr.quality.report', 'write_report')
Run.explore = _on_first_use('rsr.explore.widget', 'explore')
EXECUTORS['ray'] = _on_first_use('rsr.cluster.driver', 'execute_cluster')
