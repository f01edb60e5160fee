"What several test files need: prompts, a loopback server, the command line in a process of its own."
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from forked import Commands
from loopback import Loopback
from ray_nodes import NODES

# files that take a minute or more, the longest first: no worker is left alone with one at the end
LONG = ('test_cluster', 'test_cluster_goals', 'test_cluster_kinds', 'test_batch', 'test_plan', 'test_ledger',
        'test_browser', 'test_linear', 'test_sandbox', 'test_scripts', 'test_verifiers', 'test_start', 'test_vllm',
        'test_servers', 'test_cascade', 'test_watch', 'test_goal', 'test_crash', 'test_cheapest', 'test_explore_hosts',
        'test_taxonomy', 'test_explore', 'test_site', 'test_e2e')

# tests on a cluster that show once more, of another kind, what others show
at_length = pytest.mark.skipif(not os.environ.get('RSR_CLUSTER'), reason='takes long: make test-cluster runs it')

def pytest_collection_modifyitems(items):
    "Put the files that take minutes first."
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))

# ---- one Ray for all tests on a cluster

def is_on_ray(nodeid):
    "Check whether a test belongs to those that share a cluster."
    return '/test_cluster' in f'/{nodeid}' or nodeid.endswith('on_a_cluster')

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "Let one process run all tests on a cluster, and any other file as a whole."
    if config.getvalue('dist')!='loadfile':
        return None
    from xdist.scheduler import LoadFileScheduling
    class OneCluster(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return 'on a cluster' if is_on_ray(nodeid) else super()._split_scope(nodeid)
    return OneCluster(config, log)

@pytest.fixture
def cluster():
    "Ray with two nodes, to which this process is connected; it lasts until a test follows that has no use for it."
    pytest.importorskip('ray', reason="needs pip install 'rejection-sampling-recipes[ray]'")
    return NODES.start()

@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if not (nextitem and is_on_ray(nextitem.nodeid)):
        NODES.stop()

def rows(n, start=0, answer='A', **kw):
    "Input rows whose right answer is the one that the loopback server calls right."
    return [dict(id=f'q{i}', messages=[dict(role='user', content=f'prompt {i}')], metadata=dict(answer=answer), **kw)
            for i in range(start, start+n)]

def write_jsonl(path, items):
    Path(path).write_text(''.join(json.dumps(r)+'\n' for r in items))
    return str(path)

def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]

RSR = shutil.which('rsr', path=sysconfig.get_path('scripts')) or 'rsr'   # on Windows not beside the interpreter

COMMANDS = Commands()

def rsr(*args, cwd=None, env=None, **kw):
    """Run the command line in a process of its own; return the finished process with text output.

    With further options of `subprocess.run`, or for variables that Python itself reads, the installed command is
    started; else the command is forked from a process that has made its imports."""
    args, env, own = [*map(str, args)], {**os.environ, **(env or {})}, env or {}
    if kw or any(k.startswith(('PYTHON', 'LANG', 'LC_', 'LD_', 'PATH')) for k in own) or not hasattr(os, 'fork'):
        return subprocess.run([RSR, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=600, **kw)
    return COMMANDS.run(args, cwd, env, 600)

@pytest.fixture
def server():
    with Loopback() as s:
        yield s

@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path
