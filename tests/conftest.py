"What several test files need: prompts, a loopback server, the command line in a process of its own."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from forked import Commands
from loopback import Loopback

def rows(n, start=0, answer='A', **kw):
    "Input rows whose right answer is the one that the loopback server calls right."
    return [dict(id=f'q{i}', messages=[dict(role='user', content=f'prompt {i}')], metadata=dict(answer=answer), **kw)
            for i in range(start, start+n)]

def write_jsonl(path, items):
    Path(path).write_text(''.join(json.dumps(r)+'\n' for r in items))
    return str(path)

def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]

RSR = str(Path(sys.executable).parent/'rsr')

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
