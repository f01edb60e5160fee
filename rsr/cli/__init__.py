"The `rsr` command."
import sys

__all__ = ['command', 'main']

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rsr.cli.usage import command

def __getattr__(name):
    "Import `command` when it is first asked for: it is for those who add commands of their own."
    if name == 'command':
        from rsr.cli.usage import command
        return command
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

def _interrupted(argv):
    "Say that the command was interrupted before it began; return the exit code."
    print('Interrupted.', file=sys.stderr)
    if 'json=true' in argv:
        print('{"error": "Interrupted.", "exit_code": 130}')
    return 130

def main(argv=None):
    "Run the `rsr` command and return its exit code; Ctrl-C is no traceback, not even while Python still imports."
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        from rsr.cli.entry import main
        return main(argv)
    except KeyboardInterrupt:
        return _interrupted(argv)
