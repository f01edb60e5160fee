"The `rsr` command."
from rsr.cli import inspect  # noqa: F401 (its commands register themselves)
from rsr.cli.usage import command
from rsr.cli.make import main

__all__ = ['command', 'main']
