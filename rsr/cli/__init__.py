"The `rsr` command."
import signal
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

def _interrupt(*_):
    raise KeyboardInterrupt

def _listen():
    "Let SIGTERM and SIGHUP interrupt as Ctrl-C does."
    signal.signal(signal.SIGTERM, _interrupt)
    hangup = getattr(signal, 'SIGHUP', None)   # Windows has none
    if hangup and signal.getsignal(hangup)!=signal.SIG_IGN:   # nohup has it ignored
        signal.signal(hangup, _interrupt)

def _interrupted(argv):
    "Say that the command was interrupted before it began; return the exit code."
    from rsr.cli.usage import undashed_line, wants_json
    print('Interrupted.', file=sys.stderr)
    if wants_json(undashed_line(argv)):
        print('{"error": "Interrupted.", "exit_code": 130}')
    return 130

def main(argv=None):
    """Run the `rsr` command and return its exit code.
    Ctrl-C, SIGTERM and SIGHUP are no traceback, not even while Python still imports."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        _listen()
        from rsr.cli.entry import main
        return main(argv)
    except KeyboardInterrupt:
        return _interrupted(argv)
