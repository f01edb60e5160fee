"Turn scored rollouts into files that trainers load."
from rsr.formatters.pairing import find_pairs
from rsr.formatters.methods import FORMATTERS, formatter
from rsr.formatters.trainers import Trainer, register_trainer
from rsr.formatters.writer import make_formatter, make_formatters, write_files
from rsr.formatters.left_out import remedy, why_left_out
from rsr.formatters.lint import lint_file
from rsr.formatters.load_check import load_file

__all__ = [
    'FORMATTERS', 'Trainer', 'find_pairs', 'formatter', 'lint_file', 'load_file', 'make_formatter', 'make_formatters',
    'register_trainer', 'remedy', 'why_left_out', 'write_files',
]
