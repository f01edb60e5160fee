"Code of a model in the sandbox: what it must not be able to do, and what honest code may."
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rsr.data.types import RsrError
from rsr.sandbox.bubblewrap import call_filter, python_folders
from rsr.sandbox.local_sessions import Limits, LocalSession, Sandbox, watcher_program
from rsr.sandbox.pool import check_sandbox
from rsr.verifiers.code import code as score_code
from rsr.verifiers.code_tests import last_code_block, read_tests
from rsr.verifiers.one_response import verify
from rsr.verifiers.verifiers import load_verifier

def broken():
    "Why there is no sandbox here; '' if there is one."
    try:
        check_sandbox(Sandbox())
    except RsrError as e:
        return str(e)
    return ''

WHY = broken()
sandboxed = pytest.mark.skipif(bool(WHY), reason=WHY)
SECRET = 'zq83471xv'   # stands in the tests only: whoever returns it has read them
ASSERTS = {'tests': [f'assert f(2)=="{SECRET}"']}
PROGRAMS = {'inputs': ['2\n'], 'outputs': [f'{SECRET}\n']}
FUNCTION = {'function': 'f', 'args': [[2]], 'expected': [SECRET]}
FORMS = dict(asserts=ASSERTS, programs=PROGRAMS, function=FUNCTION)

def score(code, metadata, **options):
    "The score of a response whose code is `code`."
    options = {'time_limit': 2, **options}
    return asyncio.run(score_code(f'```python\n{textwrap.dedent(code)}\n```', metadata, **options))

def processes(text):
    "The processes of this machine with a text in their command."
    found = []
    for p in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if text.encode() in p.read_bytes():
                found.append(int(p.parent.name))
        except OSError:
            pass
    return found

# ---- attacks. Each tries to print SECRET, or to return it from f, or to pass in another way

LOOK = '''
import re, os, sys, gc
found = set()
def look(data):
    if isinstance(data, bytes):
        data = data.decode('latin1')
    for m in re.findall(r'zq\\d{5}xv', str(data)):
        found.add(m)
'''
ANSWER = '''
def f(x): return next(iter(found), None)
print(next(iter(found), ''))
'''

ATTACKS = dict(
    exit='import os\nos._exit(0)',
    exit_in_call='import os\ndef f(x): os._exit(0)\nf(2)',
    sys_exit='import sys\nsys.exit(0)',
    sys_exit_in_call='import sys\ndef f(x): sys.exit(0)\nf(2)',
    interrupt='raise KeyboardInterrupt',
    fork_bomb='import os\nwhile True: os.fork()',
    fork_bomb_in_call='import os\ndef f(x):\n    while True: os.fork()\nf(1)',
    spawn_bomb='import subprocess, sys\nps = [subprocess.Popen(["sleep", "60"]) for _ in range(500)]',
    thread_bomb='import threading, time\nwhile True: threading.Thread(target=time.sleep, args=[60]).start()',
    allocation='x = bytearray(10**10)',
    allocation_in_call='def f(x): return bytearray(10**10)\nf(2)',
    allocations='x = []\nwhile True: x.append(bytearray(10**7))',
    many_allocations='''
        import os, time
        for _ in range(8): os.fork()
        x = b'x'*(200<<20)
        time.sleep(60)''',
    loop='while True: pass',
    loop_in_c='10**10**9',
    loop_in_children='import os\nfor _ in range(3): os.fork()\nwhile True: pass',
    ignores_signals='''
        import signal
        for s in range(1, 64):
            try: signal.signal(s, signal.SIG_IGN)
            except (OSError, ValueError): pass
        while True: pass''',
    raises_limits='''
        import resource
        for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
            try: resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except (ValueError, OSError): pass
        x = bytearray(10**10)''',
    stops_itself='import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)',
    kills_all='''
        import os, signal
        for pid in (1, os.getppid(), -1):
            for s in (signal.SIGSTOP, signal.SIGKILL):
                try: os.kill(pid, s)
                except OSError: pass''',
    kills_in_call='''
        import os, signal
        def f(x):
            for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
                if pid!=os.getpid():
                    try: os.kill(pid, signal.SIGKILL)
                    except OSError: pass
        f(2)''',
    daemon='''
        import os, time
        if os.fork()==0:
            os.setsid()
            if os.fork()==0:
                os.execvp('sleep', ['sleep', '98765.4321'])
            os._exit(0)
        time.sleep(0.2)
        os._exit(0)''',
    fake_reply='''
        import os, json
        reply = json.dumps(dict(value='zq', ready=True, done=True, test=1, error='', results=[dict(test=1, error='')]))
        for number in range(3, 256):
            try: os.write(number, reply.encode()+b'\\n')
            except OSError: pass
        def f(x): return 'zq'
        print(reply)''',
    fake_reply_of_watcher='''
        import os
        for pid in os.listdir('/proc'):
            for number in range(20):
                try:
                    with open(f'/proc/{pid}/fd/{number}', 'w') as out:
                        out.write('{"test": 1, "error": ""}\\n{"done": true}\\n')
                except OSError: pass''',
    frames=LOOK+'''
frame = sys._getframe()
while frame:
    look(frame.f_locals); look(frame.f_globals); look(frame.f_code.co_consts)
    frame = frame.f_back
def f(x):
    frame = sys._getframe()
    while frame:
        look(frame.f_locals); look(frame.f_code.co_consts)
        frame = frame.f_back
    return next(iter(found), None)
'''+ANSWER.partition('\n')[0],
    garbage_collector=LOOK+'for o in gc.get_objects(): look(o)\n'+ANSWER,
    main_module=LOOK+'import __main__\nlook(vars(__main__)); look(sys.argv); look(sys.orig_argv)\n'+ANSWER,
    proc_files=LOOK+'''
for pid in os.listdir('/proc'):
    for name in ('cmdline', 'environ', 'stack', 'maps', 'comm', 'fd/0', 'fd/3', 'fd/4', 'fd/5'):
        try: look(os.read(os.open(f'/proc/{pid}/{name}', os.O_RDONLY|os.O_NONBLOCK), 1<<20))
        except OSError: pass
'''+ANSWER,
    proc_mem=LOOK+'''
def read_memory(pid):
    for line in open(f'/proc/{pid}/maps'):
        a, b = [int(x, 16) for x in line.split()[0].split('-')]
        with open(f'/proc/{pid}/mem', 'rb', 0) as mem:
            mem.seek(a)
            look(mem.read(min(b-a, 1<<22)))
def f(x):
    for pid in filter(str.isdigit, os.listdir('/proc')):
        if int(pid)!=os.getpid():
            try: read_memory(pid)
            except (OSError, ValueError): pass
    return next(iter(found), None)
print(f(1))
''',
    ptrace=LOOK+'''
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    buffer = ctypes.create_string_buffer(4096)
    for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
        if pid!=os.getpid():
            assert libc.ptrace(16, pid, 0, 0)==-1
            assert libc.process_vm_readv(pid, buffer, 1, buffer, 1, 0)==-1
print(f(1))
''',
    open_files=LOOK+'''
for number in range(256):
    try:
        os.set_blocking(number, False)
        look(os.read(number, 1<<20))
    except OSError: pass
'''+ANSWER,
    close_files='import os\nos.closerange(0, 256)\ndef f(x): return 1',
    other_tests=LOOK+'''
for folder, _, names in os.walk('/tmp'):
    for name in names: look(open(f'{folder}/{name}', 'rb').read())
'''+ANSWER,
    equals_all='''
        class Any(str):
            __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = lambda self, *other: True
            __ne__ = lambda self, other: False
            __hash__ = lambda self: 0
        def f(x): return Any()
        print(Any())''',
    equals_all_object='''
        class Meta(type):
            __eq__ = lambda self, other: True
            __instancecheck__ = lambda self, other: True
            __hash__ = type.__hash__
        class Any(metaclass=Meta):
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = lambda self: 0
            __class__ = str
        def f(x): return Any()''',
    equals_all_class='''
        class Meta(type):
            __eq__ = lambda self, other: True
            __hash__ = type.__hash__
        class f(metaclass=Meta):
            def __new__(cls, x): return cls''',
    looks_like_text='''
        class str2: pass
        str2.__module__, str2.__qualname__ = 'builtins', 'str'
        def f(x): return str2()''',
    no_json='''
        class d(dict):
            def items(self): return [(d(), d())]
        def f(x): return {d: d} if x else [[]]''',
    builtins_patched='''
        import builtins
        for name in ('AssertionError', 'all', 'any', 'isinstance', 'compile', 'exec', 'print', 'len', 'open'):
            setattr(builtins, name, lambda *args, **named: True)
        def f(x): return True''',
    json_patched='''
        import json, sys
        json.dumps = lambda *a, **k: '{"value": "zq", "results": [{"test": 1, "error": ""}], "done": true}'
        def f(x): return 1''',
    names_of_builtins='''
        class AssertionError(Exception): pass
        def all(x): return True
        def f(x): return "a"
        __builtins__ = {}''',
    import_rsr='''
        import rsr.verifiers.code as c
        c.score_outcomes = c.same_value = c.same_output = lambda *a, **k: True
        def f(x): return 1''',
    files='''
        import os, sys
        for folder in ('/', '/usr', '/etc', '/root', '/home', '/proc', '/dev', sys.prefix, sys.base_prefix):
            try:
                open(f'{folder}/zq_was_here', 'w').close()
                print('zq83471xv')
            except OSError: pass''',
    disk='''
        import os
        for folder in ('/tmp', '/dev/shm', '.'):
            try:
                for i in range(100):
                    with open(f'{folder}/x{i}', 'wb') as out:
                        for _ in range(100): out.write(bytes(1<<20))
                print('zq83471xv')
            except OSError: pass''',
    hidden_memory='''
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            os.memfd_create('x')
            print('zq83471xv')
        except OSError: pass
        if libc.shmget(0, 1<<30, 0o1600)!=-1 or libc.unshare(0x10000000)!=-1: print('zq83471xv')''',
    output='while True: print("x"*10**6)',
    error_output='import sys\nwhile True: sys.stderr.write("x"*10**6)',
    odd_output=r'print("\0\x1b[31m\ud800\u202e zq"); raise ValueError("\0\x1b]0;x\7\u202e\ud800")',
    recursion='import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x+1)\nf(0)',
    deep_value='def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a',
    cyclic_value='def f(x):\n    a = []\n    a.append(a)\n    return a',
    endless_value='def f(x):\n    while True: yield 1',
    large_value='def f(x): return "x"*10**8',
    crash='import ctypes\nctypes.string_at(0)',
    crash_in_call='import ctypes\ndef f(x): ctypes.string_at(0)\nf(1)',
    bad_syntax='def f(x: return',
    nul='def f(x): return 1\0',
    odd_exception='''
        class E(Exception):
            def __str__(self): raise self
            __repr__ = __str__
        def f(x): raise E(E)
        raise E''',
    stop_iteration='def f(x): raise StopIteration("zq")\nraise GeneratorExit',
    skips='import unittest\ndef f(x): raise unittest.SkipTest("skip")\nf(1)',
    atexit='import atexit, os\natexit.register(lambda: os._exit(0))',
    excepthook='import sys\nsys.excepthook = sys.unraisablehook = lambda *a: None\nsys.settrace(lambda *a: None)')

@sandboxed
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('name', ATTACKS)
def test_attack(name, form):
    s = score(ATTACKS[name], FORMS[form])
    assert s.value == 0.0, s
    assert s.reason and s.reason.isprintable() and len(s.reason) < 250
    assert SECRET not in s.reason or 'not' in s.reason or 'assert' in s.reason

@sandboxed
@pytest.mark.parametrize('name,form,reason', [
    ('loop', 'asserts', 'timeout'), ('loop_in_c', 'asserts', 'timeout'), ('loop_in_children', 'programs', 'timeout'),
    ('allocation', 'asserts', 'out of memory'), ('allocations', 'function', 'out of memory'),
    ('many_allocations', 'asserts', 'out of memory'), ('fork_bomb', 'programs', 'too many processes'),
    ('spawn_bomb', 'asserts', 'too many processes'), ('exit', 'asserts', 'ended its process'),
    ('exit_in_call', 'function', 'ended its process'), ('crash', 'function', 'crashed (signal 11)'),
    ('crash', 'asserts', 'crashed (signal 11)'), ('bad_syntax', 'asserts', "failed test 1 of 1: SyntaxError: '(' was "
     'never closed (solution.py, line 2)')])
def test_reasons(name, form, reason):
    assert score(ATTACKS[name], FORMS[form]).reason == reason
