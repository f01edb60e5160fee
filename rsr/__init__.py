"Rejection-sampling recipes: training data for language models, every rollout kept."
__version__ = "0.0.1"

from rsr.data.safekeeping import copy_run
from rsr.run import Run, load_run, make_rewards, sample
from rsr.run.execution import executor
from rsr.verifiers import verify

__all__ = ['Run', 'copy_run', 'load_run', 'make_rewards', 'sample', 'verify']


# Packages above `run` add to it. They are heavy, so they are imported when they are first used.

def _method_of_run(f):
    "Make a function a method of `Run`, under its name without the underscore."
    f.__name__ = f.__name__.removeprefix('_')
    f.__qualname__ = f'Run.{f.__name__}'
    setattr(Run, f.__name__, f)
    return f

@_method_of_run
def _check(self, **options)->dict:
    """Work through the data quality checklist before training.

    Options: trainer, tokenizer, earlier, labels, taxonomy, production, validation, decontaminate, trust, waive.
    `waive=['volume', 'split']` names items that fail nothing, as in a pilot.
    `help(rsr.quality.checklist.checklist)` explains them.
    """
    from rsr.quality.checklist import checklist
    return checklist(self, **options)

@_method_of_run
def _report(self, path=None, **options):
    """Write figures, tables, checklist and sample rows into one HTML file (default: summary/report.html).

    Options are those of the checklist: trust, waive and so on.
    """
    from rsr.quality.report import write_report
    return write_report(self, path, **options)

@_method_of_run
def _explore(self):
    "Explore the run in a notebook: move thresholds, read responses, label them, review pairs, write the files."
    from rsr.explore.widget import explore
    return explore(self)

@executor('ray')
def _execute_on_cluster(*args, **kwargs):
    "Run a recipe on a Ray cluster, with the arguments of `execute`."
    from rsr.cluster.driver import execute_cluster
    return execute_cluster(*args, **kwargs)
