"Take in rollouts that other tools made; join runs, and split them."
from rsr.exchange.merge import Merged, merge_runs
from rsr.exchange.split import split_run

__all__ = ['Merged', 'merge_runs', 'split_run']
