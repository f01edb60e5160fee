"The import path that `train/reward.py` of runs made before version 0.1 names; new ones say `from rsr import make_rewards`."
from rsr.run.reward import make_rewards

__all__ = ['make_rewards']
