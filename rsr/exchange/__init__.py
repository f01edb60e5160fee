"Take in rollouts that other tools made; join runs, and split them."
from rsr.exchange.importers import importer
from rsr.exchange.imports import formats, import_rollouts
from rsr.exchange.merge import Merged, merge_runs
from rsr.exchange.split import split_run

__all__ = ['Merged', 'formats', 'import_rollouts', 'importer', 'merge_runs', 'split_run']
