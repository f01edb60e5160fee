"The `rsr` command."
from rsr.cli import inspect  # noqa: F401 (its commands register themselves)
from rsr.cli.usage import command
from rsr.cli.entry import main

__all__ = ['command', 'main']
