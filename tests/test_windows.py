"What Windows does not have: every module imports without it, and a run goes from prompts to files."
import json
import subprocess
import sys

HIDE = '''
import asyncio, concurrent.futures.process, multiprocessing.synchronize, os, platform, signal, sqlite3, ssl, sys, types
import aiohttp, numpy, orjson, webbrowser, yaml   # what stands below rsr is loaded while it can see this system
platform.uname()
HIDDEN = 'fcntl', 'resource', 'pwd', 'grp', 'termios', 'tty', 'pty', 'syslog'
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in HIDDEN:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
for name in HIDDEN:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Hide())
for name in 'fork killpg getuid geteuid setsid uname pread sched_getaffinity statvfs sysconf mkfifo'.split():
    delattr(os, name)
if hasattr(os, 'process_cpu_count'):   # Python 3.13 made it by what is now hidden
    os.process_cpu_count = os.cpu_count
for name in 'SIGHUP SIGPROF SIGALRM SIGUSR1 setitimer alarm pthread_sigmask'.split():
    delattr(signal, name)
held = set()
def locking(fd, mode, n):
    place = os.fstat(fd).st_ino, os.lseek(fd, 0, os.SEEK_CUR)
    if place in held:
        raise OSError(13, 'Permission denied')
    held.add(place)
sys.modules['msvcrt'] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
'''

def without(program, *args, cwd):
    "Run a program where what Windows lacks is hidden."
    return subprocess.run([sys.executable, '-c', HIDE+program, *args], cwd=cwd, capture_output=True, text=True)

IMPORT = '''
import importlib, pathlib, rsr
root, bad = pathlib.Path(rsr.__file__).parent, []
for path in sorted(root.rglob('*.py')):
    module = '.'.join(path.relative_to(root.parent).with_suffix('').parts).removesuffix('.__init__')
    if 'shipped' not in path.parts:
        try:
            importlib.import_module(module)
        except Exception as e:
            bad.append(f'{module}: {type(e).__name__}: {e}')
print('\\n'.join(bad))
'''

def test_every_module_imports(tmp_path):
    res = without(IMPORT, cwd=tmp_path)
    assert (res.returncode, res.stdout.strip()) == (0, ''), res.stdout+res.stderr

MAIN = '''
from rsr.cli import main
sys.exit(main(sys.argv[1:]))
'''

def test_a_run_from_prompts_to_files(tmp_path):
    rows = [dict(id=f'q{i}', messages=[dict(role='user', content=f'{i} + {i}?')], metadata=dict(answer=str(2*i)),
                 responses=[f'It is {2*i}.', 'It is 99.']) for i in range(8)]
    (tmp_path/'prompts.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows))
    line = ['run', 'dpo', 'data.input_path=prompts.jsonl', 'data.responses=responses', 'verifier.type=math-rlvr',
            'sampler.base_url=http://127.0.0.1:9/v1', 'sampler.model=never-asked', 'work_dir=run']
    res = without(MAIN, *line, cwd=tmp_path)
    assert res.returncode == 0, res.stdout+res.stderr
    assert len((tmp_path/'run/train/dpo.jsonl').read_text().splitlines()) == 8
    for words in (['stats', 'run'], ['format', 'run', 'sft'], ['ls', '.'], ['--help'], ['run', 'work_dir=run']):
        res = without(MAIN, *words, cwd=tmp_path)
        assert res.returncode == 0, (words, res.stdout+res.stderr)

TWICE = '''
from rsr.data.files import lock_file
from rsr.data.types import RsrError
first = lock_file('.lock')
try:
    lock_file('.lock')
except RsrError as e:
    print(e)
first.close()
held.clear()
lock_file('.lock')
'''

def test_the_lock_of_a_run_is_taken_once(tmp_path):
    "Windows locks bytes at the current position: that of a file that another process has written is elsewhere."
    res = without(TWICE, cwd=tmp_path)
    assert res.returncode == 0 and 'this run is in use by process' in res.stdout, res.stdout+res.stderr
