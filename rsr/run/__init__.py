"A run: recipe, input, sampling, files, results."
from functools import cache
from pathlib import Path

from rsr.data.arguments import document
from rsr.data.earlier import looks_back
from rsr.run.reward import make_rewards
from rsr.run.recipe import load_recipe
from rsr.run.results import HUBS, Run, load_run
from rsr.run.execution import executor
from rsr.run.run import sample
from rsr.run.train_folder import card_writer

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
    from rsr.explore.explorer import explore
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

@card_writer
def _renew_card(store):
    "Write the dataset card of a run again, after its files were written."
    from rsr.hub.card import renew_card
    return renew_card(store)

def _load_hub_run(address):
    "Open a run that was pushed to a hub with its ledger."
    from rsr.hub.loading import load_hub_run
    return load_hub_run(address)

HUBS.append(_load_hub_run)

@_method_of_run
def _card(self, **options)->Path:
    "Write a dataset card into `train/README.md`, with which `datasets.load_dataset` gives each file as a config."
    from rsr.hub.card import write_card
    return write_card(self, **options)

@_method_of_run
def _push(self, repo, **options)->dict:
    "Upload the training files with their dataset card to a hub."
    from rsr.hub.push import push
    return push(self, repo, **options)

@_method_of_run
def _to_dataset(self, name=None):
    "Return a training file as a Dataset, with held-out rows as a DatasetDict."
    from rsr.hub.loading import to_dataset
    return to_dataset(self, name)


@cache
def document_arguments():
    "Put the comments behind arguments into docstrings, where help() shows them; `rsr` does so when a name is taken."
    for function in sample, load_run, make_rewards, Run.format, Run.label, Run.copy, Run.check_files:
        document(function)
    package = Path(__file__).parents[1]
    for function, module, name in [(_check, 'quality/checklist', 'checklist'), (_report, 'quality/report', 'write_report'),
                                   (_next, 'rounds/next', 'begin_next'), (_explore, 'explore/explorer', 'explore'),
                                   (_card, 'hub/card', 'write_card'), (_push, 'hub/push', 'push'),
                                   (_to_dataset, 'hub/loading', 'to_dataset')]:
        document(function, package/f'{module}.py', name, drop=['run'])
