"A run: recipe, input, sampling, files, results."
from rsr.run.reward import make_rewards
from rsr.run.recipe import load_recipe
from rsr.run.results import Run, load_run
from rsr.run.run import sample

__all__ = ['Run', 'load_recipe', 'load_run', 'make_rewards', 'sample']
