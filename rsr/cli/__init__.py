"The `rsr` command."
import gc
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
    """Note Ctrl-C, SIGTERM and SIGHUP from now on; return [those that came], and what each has to do later.
    To raise an error amid an import is not safe: orjson's ends in a segmentation fault."""
    usual = signal.getsignal(signal.SIGINT) or _interrupt
    came, later = [], {signal.SIGINT:usual, signal.SIGTERM:_interrupt}
    if hasattr(signal, 'SIGHUP'):   # Windows has none
        later[signal.SIGHUP] = _interrupt
    for number in list(later):
        if signal.getsignal(number)==signal.SIG_IGN and number!=signal.SIGTERM:
            del later[number]   # as nohup has SIGHUP, and `&` Ctrl-C
        else:
            signal.signal(number, lambda number, _: came.append(number))
    return came, later

def main(argv=None):
    """Run the `rsr` command and return its exit code.
    Ctrl-C, SIGTERM and SIGHUP are no traceback, not even while Python still imports."""
    is_own = argv is None   # is the process here for this command?
    if is_own:
        gc.set_threshold(200_000, 20, 50)   # many objects, few cycles: a tenth of its CPU was spent on looking for them
    argv = list(sys.argv[1:] if is_own else argv)
    came, later = _listen()
    try:
        from rsr.cli.entry import main
        from rsr.cli.usage import undashed_line, wants_json
        for number, handler in later.items():
            signal.signal(number, handler)
        if came:
            raise KeyboardInterrupt
        return main(argv)
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        if wants_json(undashed_line(argv)):
            print('{"error": "Interrupted.", "exit_code": 130}')
        return 130
    finally:
        if is_own:
            gc.freeze()   # what is left goes with the process; Python would look through it first, for a tenth of a second
