"""Run the `rsr` command in a process of its own without waiting for its imports: a server, started once, has made them,
and forks for every command. Its children have their own folder, environment, output files and signals.

As a program: `python forked.py SOCKET` is that server."""
import atexit
import gc
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

MODULES = ('pandas', 'matplotlib.figure', 'matplotlib.backends.backend_agg', 'aiohttp', 'orjson', 'yaml', 'tqdm',
           'math_verify', 'datasketch', 'rsr.cli.entry', 'rsr.run', 'rsr.run.forecast', 'rsr.quality.report',
           'rsr.pairs.comparison', 'rsr.taxonomy.generate', 'rsr.taxonomy.coverage', 'rsr.rubric.validate',
           'rsr.explore.figures')


# ---- the server

def redirect(request):
    "Give this process the folder, the environment and the output files of a command."
    os.chdir(request['cwd'])
    os.environ.clear()
    os.environ.update(request['env'])
    for fd, name in (0, os.devnull), (1, request['out']), (2, request['err']):
        target = os.open(name, os.O_RDWR|os.O_CREAT|os.O_TRUNC*(fd > 0), 0o600)
        os.dup2(target, fd)
        os.close(target)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, 'r', closefd=False), 'utf-8')
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, 'w', closefd=False)), 'utf-8')
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, 'w', closefd=False)), 'utf-8', 'backslashreplace',
                                  line_buffering=True)

def leave(code):
    """End this process as Python ends, after its threads and its exit functions, but leave the modules as they are.

    To take them apart copies every page that is shared with the server, at six times the cost of a small command."""
    threading._shutdown()
    atexit._run_exitfuncs()
    gc.collect()   # what was never closed or awaited says so
    for stream in sys.stdout, sys.stderr:
        stream.flush()
    os._exit(code)

def run_command(request):
    "Run one command and end this process with its exit code."
    from rsr.cli import main
    redirect(request)
    if request.get('hears'):   # as a process that was not started in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = ['rsr', *request['args']]
    try:
        code = main()
    except SystemExit as e:
        code = e.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if not isinstance(code, (int, type(None))):
        print(code, file=sys.stderr)
        code = 1
    leave(code or 0)

def handle(connection):
    "Run the command that a client sends in a child process; answer with its process id, at its end with its exit code."
    with connection:
        line = connection.makefile('r', encoding='utf-8').readline()
        if not line:   # a client that only asked whether the server is there
            os._exit(0)
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            connection.close()
            run_command(request)
        connection.sendall(f'{child}\n'.encode())
        _, status = os.waitpid(child, 0)
        connection.sendall(f'{os.waitstatus_to_exitcode(status)}\n'.encode())
    os._exit(0)

def serve(path):
    "Import what commands import, then fork for each client until the process that started this one is gone."
    from importlib import import_module
    for name in MODULES:
        import_module(name)
    import_module('rsr.sampling.budget').model_price('gpt-4o')   # reads the table of prices
    gc.collect()
    gc.freeze()   # a collection in a child leaves the server's objects, and with them the shared pages, as they are
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)   # handlers are not waited for
    parent, listener = os.getppid(), socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    listener.settimeout(1)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.settimeout(None)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            handle(connection)
        connection.close()


# ---- the client

class Commands:
    "The server of this process, started when it is first asked for."
    def __init__(self):
        self.socket = None

    def start(self):
        folder = tempfile.mkdtemp(prefix='rsr-forked-')
        self.socket = f'{folder}/s'
        env = dict(os.environ, OPENBLAS_NUM_THREADS='1', OMP_NUM_THREADS='1')
        self.process = subprocess.Popen([sys.executable, __file__, self.socket], env=env, stdin=subprocess.DEVNULL)
        while not self.answers():
            if self.process.poll() is not None:
                raise RuntimeError(f'{__file__} ended with exit code {self.process.returncode}')
            time.sleep(.02)

    def answers(self):
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(self.socket) == 0

    def begin(self, args, cwd=None, env=None, hears=False):
        """Start a command and return it; it has the methods of `subprocess.Popen` that tests use.

        With `hears`, Ctrl-C reaches it also where this process ignores it, as one in the background does."""
        if not self.socket:
            self.start()
        return Command([*map(str, args)], self.socket, dict(cwd=str(cwd or os.getcwd()), hears=hears,
                                                            env=dict(os.environ if env is None else env)))

    def run(self, args, cwd, env, timeout):
        command = self.begin(args, cwd, env)
        out, err = command.communicate(timeout)
        return subprocess.CompletedProcess(['rsr', *args], command.returncode, out, err)

class Command:
    "A command that runs: `pid`, `poll`, `wait`, `communicate`, `send_signal` and `kill`, as of `subprocess.Popen`."
    def __init__(self, args, server, request):
        self.args, self.folder, self.returncode = ['rsr', *args], tempfile.mkdtemp(prefix='rsr-command-'), None
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        request |= dict(args=args, out=f'{self.folder}/out', err=f'{self.folder}/err')
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(server)
        self.socket.sendall(json.dumps(request).encode()+b'\n')
        self.lines = self.socket.makefile('rb', buffering=0)
        self.pid = int(self.lines.readline())

    def wait(self, timeout=None):
        if self.returncode is None:
            ready = select.poll()   # `select` takes no number above 1,023
            ready.register(self.socket, select.POLLIN)
            if not ready.poll(None if timeout is None else 1000*timeout):
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self.lines.readline())
            self.lines.close()
            self.socket.close()
        return self.returncode

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def told(self):
        "What it has written so far to its output and to its errors."
        files = (Path(self.folder, k) for k in ('out', 'err'))
        return tuple(f.read_text(encoding='utf-8') if f.exists() else '' for f in files)

    def communicate(self, timeout=None):
        self.wait(timeout)
        return self.told()

    def send_signal(self, sig):
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self):
        self.send_signal(signal.SIGKILL)

if __name__ == '__main__':
    serve(sys.argv[1])
