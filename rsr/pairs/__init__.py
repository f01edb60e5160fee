"Preference pairs by strategy, and what a model would learn from them."
from rsr.pairs.flaws import introduce_flaw, load_flaws
from rsr.pairs.strategies import strategy
from rsr.pairs.shortcuts import read_pairs
from rsr.pairs.audit import audit
from rsr.pairs.comparison import compare_strategies

__all__ = ['audit', 'compare_strategies', 'introduce_flaw', 'load_flaws', 'read_pairs', 'strategy']
