"The import path of `train/reward.py` in older runs; new ones say `from rsr import make_rewards`."
from rsr.run.reward import make_rewards

__all__ = ['make_rewards']
