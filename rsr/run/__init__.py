"A run: recipe, input, sampling, files, results."
from pathlib import Path

from rsr.data.arguments import document
from rsr.data.earlier import looks_back
from rsr.run.reward import make_rewards
from rsr.run.recipe import load_recipe
from rsr.run.results import Run, load_run
from rsr.run.execution import executor
from rsr.run.run import sample

__all__ = ['Run', 'load_recipe', 'load_run', 'make_rewards', 'sample']


# Packages above `run` add to it. They are heavy, so they are imported when they are first used.

def _method_of_run(f):
    "Make a function a method of `Run`, under its name without the underscore."
    f.__name__ = f.__name__.removeprefix('_')
    f.__qualname__ = f'Run.{f.__name__}'
    setattr(Run, f.__name__, f)
    return f

@_method_of_run
def _check(self, **options)->dict:
    "Work through the data quality checklist before training."
    from rsr.quality.checklist import checklist
    return checklist(self, **options)

@_method_of_run
def _report(self, path=None, **options)->Path:
    "Write figures, tables, checklist and sample rows into one HTML file."
    from rsr.quality.report import write_report
    return write_report(self, path, **options)

@_method_of_run
def _explore(self, annotator:str=None):
    "Explore the run in a notebook: move thresholds, read responses, label them, review pairs, write the files."
    from rsr.explore.widget import explore
    return explore(self, annotator)

@_method_of_run
def _next(self, prompts=None, **options):
    "Sample the next round: the recipe of the run, with what it found of each prompt, and other options on top."
    from rsr.rounds.next import begin_next
    return begin_next(self, prompts, **options)

@executor('ray')
def _execute_on_cluster(*args, **kwargs):
    "Run a recipe on a Ray cluster, with the arguments of `execute`."
    from rsr.cluster.driver import execute_cluster
    return execute_cluster(*args, **kwargs)

@looks_back
def _remember(*args, **kwargs):
    "Read the round before into a new run's ledger."
    from rsr.rounds.look_back import remember
    return remember(*args, **kwargs)


# The comments behind the arguments go into the docstrings, where help() shows them.
for _function in sample, load_run, make_rewards, Run.format, Run.label, Run.copy, Run.check_files:
    document(_function)
_PACKAGE = Path(__file__).parents[1]
document(_check, _PACKAGE/'quality'/'checklist.py', 'checklist', drop=['run'])
document(_report, _PACKAGE/'quality'/'report.py', 'write_report', drop=['run'])
document(_next, _PACKAGE/'rounds'/'next.py', 'begin_next', drop=['run'])
document(_explore, _PACKAGE/'explore'/'widget.py', 'explore', drop=['run'])
