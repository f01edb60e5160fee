"Compare rounds of sampling and training, and begin the next one."
from rsr.rounds.comparison import Rounds, rounds
from rsr.rounds.rounds_table import rounds_table
from rsr.rounds.rounds_figure import plot_rounds

__all__ = ['Rounds', 'plot_rounds', 'rounds', 'rounds_table']
