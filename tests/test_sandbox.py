# ruff: noqa: E501 (tables of attacks and cases)
"Code of a model in the sandbox: what it must not be able to do, and what honest code may."
import asyncio
import json
import os
import resource
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
from test_crash import hears_signals

from rsr.data.types import RsrError
from rsr.sandbox.bubblewrap import call_filter, no_fork_filter, python_folders
from rsr.sandbox.local_sessions import Sandbox, watcher_program
from rsr.sandbox.pool import check_sandbox
from rsr.verifiers.code import code as score_code
from rsr.verifiers.code_tests import last_code_block
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
    options = {'time_limit': 0.5, **options}
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
        import threading, time
        x = []
        for _ in range(8): threading.Thread(target=lambda: x.append(b'x'*(200<<20))).start()
        time.sleep(60)''',
    loop='while True: pass',
    loop_in_c='10**10**9',
    loop_in_threads='import threading\ndef g():\n    while True: pass\nfor _ in range(3): threading.Thread(target=g).start()\ng()',
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

AS_FUNCTION = [name for name in ATTACKS if any(part in name for part in ('call', 'value', 'equals', 'fake', 'json', 'text'))]

@sandboxed
@pytest.mark.parametrize('name,form', [*((name, form) for name in ATTACKS for form in ('asserts', 'programs')),
                                       *((name, 'function') for name in AS_FUNCTION)])
def test_attack(name, form):
    if 'fork' in name and not no_fork_filter():
        pytest.skip('no filter of system calls for this machine')
    s = score(ATTACKS[name], FORMS[form])
    assert s.value == 0.0, s
    assert s.reason and s.reason.isprintable() and len(s.reason) < 250
    assert SECRET not in s.reason or 'not' in s.reason or 'assert' in s.reason

REFUSED = 'failed test 1 of 1: PermissionError: [Errno 1] Operation not permitted'

@sandboxed
@pytest.mark.parametrize('name,form,reason', [
    ('loop', 'asserts', 'timeout'), ('loop_in_c', 'asserts', 'timeout'), ('loop_in_threads', 'programs', 'timeout'),
    ('allocation', 'asserts', 'out of memory'), ('allocations', 'function', 'out of memory'),
    ('many_allocations', 'asserts', 'out of memory'), ('fork_bomb', 'programs', REFUSED),
    ('spawn_bomb', 'asserts', REFUSED), ('thread_bomb', 'asserts', 'too many threads'),
    ('exit', 'asserts', 'ended its process'),
    ('exit_in_call', 'function', 'ended its process'), ('crash', 'function', 'crashed (signal 11)'),
    ('crash', 'asserts', 'crashed (signal 11)'), ('output', 'programs', 'too much output'),
    ('bad_syntax', 'asserts', 'failed test 1 of 1: SyntaxError: invalid syntax (solution.py, line 1)')])
def test_reasons(name, form, reason):
    assert score(ATTACKS[name], FORMS[form], time_limit=1 if reason == 'timeout' else 5).reason.startswith(reason)

def test_the_attacks_are_real():
    "Where code and tests share a process, the code can read the tests."
    if WHY:
        pytest.skip(WHY)
    for name in ('frames', 'garbage_collector'):
        assert score(ATTACKS[name], ASSERTS, same_process=True).value == 1.0, name

@sandboxed
def test_a_daemon_does_not_survive():
    for form in FORMS.values():
        score(ATTACKS['daemon'], form)
    end = time.monotonic()+5
    while processes('98765.4321') and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes('98765.4321')

@sandboxed
def test_nothing_is_written_outside(tmp_path):
    outside = [Path.home(), Path('/tmp'), Path(sys.prefix), Path.cwd(), tmp_path]
    code = f'import os\nfor p in {[*map(str, outside)]}:\n    try: open(p+"/zq_was_here", "w").write("x")\n' \
           '    except OSError: pass\nprint(sorted(os.listdir("/tmp"))==["zq_was_here"])'
    assert score(code, {'inputs': [''], 'outputs': ['True']}).value == (1.0 if not sys.prefix.startswith('/tmp') else 0.0)
    assert not [p for p in outside if (p/'zq_was_here').exists()]

@sandboxed
def test_no_network_and_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-'+SECRET)
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path/'.netrc').write_text(SECRET)
    with socket.create_server(('127.0.0.1', 0)) as server:
        server.settimeout(0.3)
        code = f'''
            import os, socket
            for address in (('127.0.0.1', {server.getsockname()[1]}), ('1.1.1.1', 53)):
                try: socket.create_connection(address, timeout=1)
                except OSError: pass
                else: print('connected')
            print({SECRET!r} in str(os.environ), os.path.exists({str(tmp_path)!r}), os.path.exists('/etc/passwd'),
                  os.path.exists(os.path.expanduser('~/.netrc')))
            try: socket.socket(40, socket.SOCK_STREAM)
            except OSError: print('no socket to the host')
            '''
        s = score(code, {'inputs': [''], 'outputs': ['False False False False\nno socket to the host']})
        assert s.value == 1.0, s
        with pytest.raises(TimeoutError):
            server.accept()

# ---- forged verdicts: none of these knows what is expected

FORGED = dict(
    exception_without_a_name=("E = type('', (Exception,), {})\ndef f(x): raise E()", ASSERTS),
    exception_that_is_not_shown=("E = type('\\x01', (Exception,), {})\ndef f(x): raise E()", ASSERTS),
    exception_in_preparation=("E = type('', (Exception,), {})\nraise E()", ASSERTS),
    exception_in_place_of_null=("E = type('', (Exception,), {})\ndef f(x): raise E()",
                                {'function': 'f', 'args': [[2]], 'expected': [None]}),
    error_in_place_of_null=("import os, time\ndef f(x):\n    os.write(4, b'{\"error\": {}}\\n')\n    time.sleep(1)",
                            {'function': 'f', 'args': [[2]], 'expected': [None]}),
    reply_of_watcher=("import os, time\ndef f(x):\n    os.write(4, b'{\"broken\": \"\"}\\n')\n    time.sleep(1)", FUNCTION),
    all_beside_module=('def all(x): return True\ndef f(x): return 0',
                       {'tests': 'import solution\nassert all(solution.f(i)==i+5 for i in range(3))'}),
    all_beside_class=('def all(x): return True\nclass Solution:\n    @staticmethod\n    def f(x): return 0',
                      {'tests': 'assert all(Solution.f(i)==i+5 for i in range(3))'}),
    abs_beside_map=('def abs(x): return 0\ndef f(x): return 0', {'tests': 'assert abs(sum(map(f, [1, 2]))-3)<1e-6'}),
    builtins_in_names=("""
        import os, time
        def abs(x): return 0
        os.write(4, b'{"value": {"f": 1, "__builtins__": ["builtins.dict", [["abs", 1]]]}}\\n')""",
                       {'tests': 'assert abs(-3)==3'}),
    difference=('class A:\n    __sub__ = __rsub__ = lambda self, other: 0\ndef f(x): return A()',
                {'tests': 'assert abs(f(2)-3.5)<1e-6'}),
    difference_in_steps=("""
        class B:
            __abs__ = lambda self: 0
            __pow__ = __round__ = lambda self, n: 0
        class A:
            __sub__ = __rsub__ = __truediv__ = lambda self, other: B()
        def f(x): return A()""", {'tests': ['assert abs(3.5-f(2))<1e-6', 'assert (f(2)-3.5)**2<1e-6',
                                            'assert round(f(2)-3.5, 3)==0', 'assert abs(f(2)/3.5-1)<.1']}),
    difference_of_number=('class A(float): __sub__ = __rsub__ = __abs__ = lambda *args: 0.\ndef f(x): return A(9)',
                          {'tests': 'assert abs(f(2)-3.5)<1e-6'}),
    stop_iteration_in_map=('def f(x): raise StopIteration', {'tests': 'assert all(map(lambda i: f(i)==i+5, range(3)))'}),
    half_in_place_of_whole=('def f(x): return x/2', {'function': 'f', 'args': [[2469135]], 'expected': [1234567]}),
    set_of_one_number=('def f(x): return {1.0, 1.0000001}', {'function': 'f', 'args': [[2]], 'expected': [[1.0, 5.0]]}))

@sandboxed
@pytest.mark.parametrize('name', FORGED)
def test_forged_verdict(name):
    code, metadata = FORGED[name]
    s = score(code, metadata, partial=True, time_limit=3)
    if name == 'builtins_in_names':
        assert s.value == 1.0   # the tests' own abs
    else:
        assert s.value == 0.0 and s.reason, s

@sandboxed
@pytest.mark.parametrize('value', [
    b'["fractions.Fraction", "1e999999999"]', b'["numpy.ndarray", "U500000000", ["builtins.list", ["a", "b"]]]',
    b'["decimal.Decimal", "1e999999999"]', b'["builtins.range", "0x0", "0xffffffffffffffffffff", "0x1"]'])
def test_value_that_would_fill_the_memory_of_the_host(value):
    start = time.monotonic()
    s = score(f"import os, time\ndef f(x):\n    os.write(4, b'{{\"value\": '+{value!r}+b'}}\\n')\n    time.sleep(1)", FUNCTION)
    assert s.value == 0.0 and s.reason.isprintable() and time.monotonic()-start < 10

# ---- honest code

CLASSES = '''
from dataclasses import dataclass
from collections import namedtuple, Counter, defaultdict, OrderedDict, deque
from enum import Enum, IntEnum
from decimal import Decimal
from fractions import Fraction
import datetime, math
class Stack:
    size = 0
    def __init__(self, items=()): self.items = list(items)
    def push(self, x): self.items.append(x); self.size += 1; return self
    def pop(self):
        if not self.items: raise Empty('nothing', 3)
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, i): return self.items[i]
    def __contains__(self, x): return x in self.items
    def __eq__(self, other): return isinstance(other, Stack) and self.items==other.items
    def __add__(self, other): return Stack(self.items+other.items)
    def __repr__(self): return f'Stack({self.items})'
    def __enter__(self): return self
    def __exit__(self, *args): self.items.clear()
    @property
    def top(self): return self.items[-1]
    @staticmethod
    def make(n): return Stack(range(n))
class Empty(LookupError):
    def __init__(self, text, code): super().__init__(text, code); self.code = code
@dataclass
class P:
    x: int
    y: int = 2
Pair = namedtuple('Pair', 'a b')
class Color(Enum): RED = 1
class Level(IntEnum): LOW = 1
def gen(n):
    for i in range(n): yield i
def sort_in_place(a): a.sort()
def fill(d, s, b): d['k'] = [1]; s.add(5); b[0] = 65
def apply(f, *xs): return [f(x) for x in xs]
def total(xs): return sum(xs)
def fail(kind): raise kind('bad')
async def later(x): return x+1
def make_adder(n): return lambda x: x+n
def say(x): print('said', x); return None
def div(a, b): return a/b
def tree_sum(node): return node.val+(tree_sum(node.left) if node.left else 0)+(tree_sum(node.right) if node.right else 0)
def relink(node): node.val = 7; return node
def kinds(): return Counter('aab'), deque([1]), Decimal('1.5'), Fraction(1, 2), datetime.date(2024, 1, 2), {1: (2, {3})}, b'x', 1j
def dd():
    d = defaultdict(list); d['a'].append(1); return d
def big(): return 10**5000
VALUE = 7
'''
HONEST = '''
s = Stack(); s.push(1).push(2)
assert len(s)==2 and list(s)==[1, 2] and s[0]==1 and 2 in s and 3 not in s and s.top==2 and s.size==2
assert s.pop()==2 and s==Stack([1]) and s!=Stack([2]) and repr(s)=='Stack([1])' and str(s)=='Stack([1])'
assert (s+Stack([5])).items==[1, 5] and isinstance(s, Stack) and not isinstance(3, Stack) and bool(Stack()) is False
assert [x for x in Stack.make(3)]==[0, 1, 2] and Stack.make(2)==Stack([0, 1])
with Stack([1]) as t: assert len(t)==1
assert len(t)==0
try: Stack().pop()
except Empty as e: caught = e
assert caught.args==('nothing', 3) and caught.code==3 and isinstance(caught, LookupError)
try: Stack().pop()
except LookupError: pass
else: assert False
p = P(1); p.x = 5
assert p.x==5 and p.y==2 and P(1)==P(1) and P(1)!=P(2) and repr(p)=='P(x=5, y=2)'
assert Pair(1, 2)==(1, 2) and Pair(1, 2).b==2 and isinstance(Pair(1, 2), tuple) and Pair(1, 2)._asdict()=={'a': 1, 'b': 2}
assert Color.RED.value==1 and Color.RED==Color.RED and Color.RED.name=='RED' and Level.LOW==1 and Level.LOW<2
assert list(gen(3))==[0, 1, 2] and next(gen(1))==0 and sum(gen(4))==6 and sorted(gen(3), reverse=True)==[2, 1, 0]
a = [3, 1, 2]; sort_in_place(a); assert a==[1, 2, 3]
d, q, b = {}, {1}, bytearray(b'xy'); fill(d, q, b); assert d=={'k': [1]} and q=={1, 5} and b==b'Ay'
assert apply(lambda x: x*2, 1, 2)==[2, 4] and apply(str, 1)==['1'] and apply(make_adder(2), 1)==[3]
assert total(x for x in range(4))==6 and total(iter([1, 2]))==3
for kind in (ValueError, KeyError, ZeroDivisionError):
    try: fail(kind); assert False, 'no error'
    except kind as e: assert e.args==('bad',)
import asyncio
assert asyncio.run(later(1))==2
import io, contextlib
out = io.StringIO()
with contextlib.redirect_stdout(out): assert say(3) is None
assert out.getvalue()=='said 3\\n'
class Node:
    def __init__(self, val, left=None, right=None): self.val, self.left, self.right = val, left, right
assert tree_sum(Node(1, Node(2), Node(3, Node(4))))==10
n = Node(1); assert relink(n) is n and n.val==7
assert kinds()==(Counter('aab'), deque([1]), Decimal('1.5'), Fraction(1, 2), datetime.date(2024, 1, 2), {1: (2, {3})}, b'x', 1j)
assert dd()['a']==[1] and dd()=={'a': [1]} and big()==10**5000
assert math.isclose(div(1, 3), 0.3333333333) and abs(div(1, 3)-1/3)<1e-9 and div(b=2, a=4)==2.0 and VALUE==7
try: div(1, 0)
except ZeroDivisionError as e: assert str(e)=='division by zero'
assert callable(div) and div.__name__=='div' and Stack.__name__=='Stack'
import unittest
class TestStack(unittest.TestCase):
    def setUp(self): self.s = Stack([1])
    def test_pop(self):
        self.assertEqual(self.s.pop(), 1)
        self.assertEqual(kinds()[0], {'a': 2, 'b': 1})
        with self.assertRaises(Empty): self.s.pop()
        with self.assertRaisesRegex(ZeroDivisionError, 'division'): div(1, 0)
        self.assertAlmostEqual(div(1, 3), 0.33333333)
        self.assertIsInstance(self.s, Stack); self.assertTrue(self.s==Stack()); self.assertIn(1, Stack([1]))
def test_plain():
    from solution import div as d
    import solution
    assert d(4, 2)==2 and solution.div(4, 2)==2
async def test_async(): assert await later(1)==2
class TestPlain:
    def test_it(self): assert list(gen(2))==[0, 1]
if __name__ == '__main__':
    unittest.main()
'''

@sandboxed
def test_honest_code_in_asserts():
    s = score(CLASSES, {'tests': HONEST}, partial=True, time_limit=10)
    assert (s.value, s.reason) == (1.0, '')
    assert s.detail['tests'] > 25
    wrong = score(CLASSES.replace('return self.items.pop()', 'return 0'), {'tests': HONEST}, time_limit=10)
    assert wrong.value == 0.0

@sandboxed
@pytest.mark.parametrize('code,metadata', [
    ('def add(a, b): return a+b', {'test_list': ['assert add(1,2)==3'], 'test_setup_code': '', 'test_imports': ['import math']}),
    ('def add(a, b): return a+b', {'test': 'METADATA = {}\n\ndef check(candidate):\n    assert candidate(1, 2)==3\n', 'entry_point': 'add'}),
    ('def sum(a, b): return a*b', {'tests': 'assert sum(2, 3)==6'}),
    ('def max(a): return 5', {'test': 'def check(candidate):\n    assert candidate([1])==5', 'entry_point': 'max'}),
    ('import math\ndef f(x): return math.sqrt(x)', {'tests': ['assert math.isclose(f(4), 2)', 'assert all([f(1)==1])']}),
    ('def f(x): return x', {'tests': 'from solution import *\nfrom solution import f as g\nassert g(1)==f(1)==1'}),
    ('def f(x): return x', {'answer': 'assert f(1)==1'}),
    ('class Solution:\n    def twoSum(self, a, t): return [0, 1]', {'fn_name': 'twoSum', 'inputs': '[[[1, 2], 3]]', 'outputs': '[[[0, 1]]]'}),
    ('class Solution:\n    def f(self, a): return a', {'function': 'Solution.f', 'args': [['x']], 'expected': ['x']}),
    ('def f(a, b): return {a: (b, None)}', {'function': 'f', 'args': [[1, 2.5]], 'expected': [{'1': [2.5, None]}]}),
    ('def f(d): return sorted(d.items())', {'function': 'f', 'args': [[{'x': 1}]], 'expected': [[['x', 1]]]}),
    ('def f(a): return a*10**30', {'input_output': json.dumps(dict(fn_name='f', inputs=[[3]], outputs=[[3*10**30]]))}),
    ('n = int(input())\nprint(*[int(x)*2 for x in input().split()], sep="\\n")', {'inputs': ['2\n3 4\n'], 'outputs': ['6\n8\n']}),
    ('import sys\nprint(sum(map(int, sys.stdin.read().split())))', {'input_output': {'inputs': [['1', '2'], '3 4'], 'outputs': [['3'], '7']}}),
    ('import os\nn = int(open(0).readline()); os.write(1, f"{n+1}\\n".encode()); import sys; sys.exit()', {'inputs': ['4'], 'outputs': ['5']}),
    ('print(open("/dev/stdin").read().upper())', {'inputs': ['é'], 'outputs': ['É']}),
    ('def main():\n    print(input())\nif __name__ == "__main__": main()', {'tests': [{'input': 'a b', 'output': 'a  b '}]}),
    ('import sys, threading\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1+f(n-1)\ndef main(): print(f(50000))\n'
     'threading.stack_size(1<<27)\nthreading.Thread(target=main).start()', {'inputs': [''], 'outputs': ['50000']}),
    ('import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1+f(n-1)\nprint(f(50000))', {'inputs': [''], 'outputs': ['50000']}),
    ('from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(8) as ex:\n'
     '    print(sum(ex.map(lambda x: x*x, range(10))))', {'inputs': [''], 'outputs': ['285']}),
    ('import tempfile\nwith tempfile.NamedTemporaryFile("w+") as t:\n    t.write("x"); t.flush()\n    print(open(t.name).read())',
     {'inputs': [''], 'outputs': ['x']}),
    ('import numpy as np\ndef f(x): return np.arange(x)', {'tests': 'import numpy as np\nassert (f(3)==np.array([0, 1, 2])).all()\nassert np.allclose(f(2), [0, 1])'}),
    ('import numpy as np\ndef f(x): return np.arange(x)', {'function': 'f', 'args': [[3]], 'expected': [[0, 1, 2]]}),
    ('import atexit\natexit.register(lambda: print("bye"))\nprint("hi")', {'inputs': [''], 'outputs': ['hi\nbye']}),
    ('from __future__ import annotations\nimport functools, re, itertools, heapq, bisect, string\n@functools.lru_cache\n'
     'def f(n: int) -> list[int]: return n if n<2 else f(n-1)+f(n-2)', {'tests': ['assert f(80)==23416728348467685']}),
    ('print(0.1+0.2)', {'inputs': [''], 'outputs': ['0.3']}),
    ('print(3)', {'inputs': ['\n'], 'outputs': ['3']})])
def test_honest_code(code, metadata):
    s = score(code, metadata, time_limit=10)
    assert (s.value, s.reason) == (1.0, ''), s

@sandboxed
@pytest.mark.parametrize('code,metadata,reason', [
    ('def f(x): return x', {'tests': ['assert f(1)==1', 'assert f(2)==4', 'assert f(3)==3']}, 'failed test 2 of 3: assert f(2)==4'),
    ('def g(x): return x', {'tests': ['assert f(1)==1']}, "failed test 1 of 1: NameError: name 'f' is not defined"),
    ('def f(x): return x', {'function': 'g', 'args': [[1]], 'expected': [1]},
     "failed test 1 of 1: AttributeError: module 'solution' has no attribute 'g'"),
    ('def f(x): return x', {'function': 'f', 'args': [[1], [2]], 'expected': [1, 3]}, 'failed test 2 of 2: f(2) is 2, not 3'),
    ('print(input())', {'inputs': ['1', ''], 'outputs': ['1', '2']}, 'failed test 2 of 2: EOFError: EOF when reading a line'),
    ('print(3)\nraise SystemExit(3)', {'inputs': ['1'], 'outputs': ['3']}, 'failed test 1 of 1: exit code 3'),
    ('print(3)', {'inputs': ['1'], 'outputs': ['4']}, r"failed test 1 of 1: printed '3\n', not '4'")])
def test_wrong_code(code, metadata, reason):
    s = score(code, metadata)
    assert (s.value, s.reason) == (0.0, reason)

@sandboxed
def test_partial():
    tests = {'tests': ['assert f(1)==1', 'assert f(2)==4', 'assert f(3)==9', 'assert f(4)==16']}
    s = score('def f(x): return 1 if x==1 else 16', tests, partial=True)
    assert (s.value, s.reason, s.detail) == (0.5, 'failed 2 of 4 tests: assert f(2)==4', dict(passed=2, tests=4))
    programs = {'inputs': list('1234'), 'outputs': ['1', '4', '9', '16']}
    s = score('import os\nn = int(input())\nif n==2: os.kill(os.getpid(), 11)\nprint(n*n)', programs, partial=True)
    assert (s.value, s.reason) == (0.75, 'crashed (signal 11)')
    s = score('n = int(input())\nwhile n==3: pass\nprint(n*n)', programs, partial=True)
    assert (s.value, s.reason) == (0.5, 'timeout')

@sandboxed
@pytest.mark.parametrize('metadata,reason', [
    ({}, 'no tests'), ({'answer': ''}, 'no tests'), ({'tests': 'assert f('}, "the tests are not Python: '(' was never closed, line 1"),
    ({'tests': ['assert f(1)==1', 3]}, 'tests is list: allowed are text, a list of texts, or inputs and outputs'),
    ({'tests': 'import no_such_package\nassert f(1)==1'},
     'the tests need the module no_such_package, which the sandbox does not have'),
    ({'inputs': ['1', '2'], 'outputs': ['1']}, 'inputs has 2 items, outputs has 1'),
    ({'inputs': [1.5, None], 'outputs': ['1', '2']}, 'an item of inputs is NoneType, not text')])
def test_wrong_tests_leave_it_unscored(metadata, reason):
    s = score('def f(x): return x', metadata)
    assert (s.value, s.reason) == (None, reason)

def test_problem_is_found_before_the_first_request():
    check = score_code.problem
    assert check({'tests': 'assert f(1)==1'}) == ''
    assert check({}) == 'no tests'
    assert 'not asserts' in check({'tests': 'assert f(1)==1'}, language='cpp')
    for odd in (3, [], [[]], {'inputs': 3}, ['x', {}], '\0', '('*10**5, '[' * 10**5, {'fn_name': 3, 'inputs': [[1]], 'outputs': [1]}):
        assert check({'tests': odd})

# ---- code blocks

@pytest.mark.parametrize('text,code', [
    ('```python\nx\n```', 'x'), ('```py\nx\n```\n```python3\ny\n```', 'y'), ('```\nx\n```', 'x'), ('~~~python\nx\n~~~', 'x'),
    ('```Python\nx\n```\noutput:\n```\n3\n```', 'x'), ('```{python}\nx\n```', 'x'), ('```python title="a.py"\nx\n```', 'x'),
    ('1. So\n   ```python\n   if x:\n       y\n   ```', 'if x:\n    y'), ('````python\n"""\n```\nx\n```\n"""\n````', '"""\n```\nx\n```\n"""'),
    ('```python\nx', None), ('```python\nx\n```\nand\n```python\ny', None), ('x = 1', None), ('', None), ('```python\n\n```', None),
    ('```bash\nls\n```', None), ('```java\nx\n```\n```python\ny\n```\n```text\n4\n```', 'y'), ('use ```x``` here', None),
    ('```python\r\nx = 1\r\n```\r\n', 'x = 1')])
def test_last_code_block(text, code):
    assert last_code_block(text) == code

def test_code_blocks_are_found_in_linear_time():
    start = time.monotonic()
    for text in ('`'*10**5, '```\n'*10**5, '```python\n'+'`` '*10**5, ' '*10**5+'```', '~'*10**5, '`~'*10**5):
        last_code_block(text)
    assert time.monotonic()-start < 5

# ---- the program, the interpreter, what is missing

def test_the_program_is_whole():
    import ast
    tree = ast.parse(watcher_program())
    names = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    assert len(names) == len(set(names)), 'two pages define the same name'
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.level or (n.module or '').startswith('rsr'))]

@pytest.mark.parametrize('machine', ['x86_64', 'aarch64'])
def test_filters_of_calls(machine):
    for code in (call_filter(machine), no_fork_filter(machine)):
        assert len(code)%8 == 0 and len(code)//8 < 200

@sandboxed
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('call', [
    'os.fork()', 'os.posix_spawn("/bin/true", ["true"], {})', 'subprocess.run(["true"])', 'assert os.system("true")==0',
    'multiprocessing.Process(target=print).start()', 'assert libc.syscall(57)!=-1', 'assert libc.vfork()!=-1',
    'assert libc.syscall(56, 17, 0, 0, 0, 0)!=-1', 'assert libc.syscall(0x40000000|57)!=-1', 'assert libc.unshare(0x10000000)!=-1'])
def test_no_process_starts(call, form):
    code = f"""
        import ctypes, multiprocessing, os, subprocess, sys
        libc = ctypes.CDLL(None)
        pid = os.getpid()
        try:
            {call}
            answer = {SECRET!r}
        except (OSError, AssertionError):
            answer = 'refused'
        def f(x): return answer
        if os.getpid()==pid: print(answer)"""
    s = score(code, FORMS[form])
    assert s.value == 0.0 and (form != 'function' or 'refused' in s.reason), s

def test_interpreter_that_is_none():
    with pytest.raises(RsrError, match='is not a program'):
        python_folders('/no/such/python')
    with pytest.raises(RsrError, match='is not a Python interpreter'):
        python_folders('false')

@sandboxed
def test_python_under_tmp_is_not_hidden(tmp_path):
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path/'venv'], check=True)
    python = str(tmp_path/'venv'/'bin'/'python')
    s = score('import sys\nprint(sys.executable)', {'inputs': [''], 'outputs': [python]}, python=python, time_limit=10)
    assert (s.value, s.reason) == (1.0, '')

def test_without_bubblewrap_it_refuses(monkeypatch):
    monkeypatch.setenv('PATH', '/nowhere')
    check_sandbox.cache_clear()
    with pytest.raises(RsrError, match='apt-get install bubblewrap'):
        load_verifier('code')
    with pytest.raises(RsrError, match='apt-get install bubblewrap'):
        verify('code', '```python\nx = 1\n```', 'assert x==1')
    monkeypatch.undo()
    check_sandbox.cache_clear()

def test_bubblewrap_that_does_not_work(monkeypatch, tmp_path):
    fake = tmp_path/'bwrap'
    fake.write_text('#!/bin/sh\necho "bwrap: No permissions to create new namespace" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    check_sandbox.cache_clear()
    with pytest.raises(RsrError, match='No permissions to create new namespace.*--security-opt'):
        load_verifier('code')
    s = score('x = 1', {'tests': 'assert x==1'})
    assert s.value is None and 'No permissions' in s.reason
    monkeypatch.undo()
    check_sandbox.cache_clear()

def test_unsafe_warns_once_and_works(capsys):
    check_sandbox.cache_clear()
    for _ in range(2):
        assert verify('code', '```python\ndef f(x): return x\n```', 'assert f(1)==1', unsafe=True) == 1.0
    assert capsys.readouterr().err.count('all your rights') == 1
    assert verify('code', '```python\ndef f(x): return x+1\n```', 'assert f(1)==1', unsafe=True) == 0.0
    assert verify('code', '```python\nimport os\nos._exit(0)\n```', 'assert f(1)==1', unsafe=True) == 0.0
    check_sandbox.cache_clear()

def test_unsafe_leaves_no_process():
    code = 'import os\nos.setsid()\nos.execvp("sleep", ["sleep", "98764.321"])'
    for form in FORMS.values():
        assert score(code, form, unsafe=True).value == 0.0
    end = time.monotonic()+5
    while processes('98764.321') and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes('98764.321')

@pytest.mark.parametrize('options,text', [
    (dict(time_limit=0), 'time_limit is 0'), (dict(time_limit='x'), "time_limit is 'x'"), (dict(memory_mb=1), 'memory_mb is 1'),
    (dict(language='cpp'), "language 'cpp' needs sandbox_url"), (dict(sandbox_url='localhost'), 'not the address of a server'),
    (dict(concurrent_runs=0), 'concurrent_runs is 0'), (dict(partal=True), "Did you mean 'partial'")])
def test_wrong_options(options, text):
    with pytest.raises(RsrError, match=text):
        load_verifier('code', **options)

# ---- no blocking, nothing left behind

@sandboxed
def test_the_event_loop_goes_on():
    async def main():
        ticks, v = 0, load_verifier('code', time_limit=1)
        task = asyncio.gather(*[v.score('```python\nwhile True: pass\n```', ASSERTS) for _ in range(2)])
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks, await task
    ticks, scores = asyncio.run(main())
    assert ticks > 20 and [s.value for s in scores] == [0.0, 0.0]
    assert verify('code', '```python\ndef f(x): return x\n```', 'assert f(1)==1') == 1.0

@sandboxed
def test_many_at_once():
    async def main():
        v = load_verifier('code', time_limit=10)
        good = '```python\ndef f(x): return x\n```'
        bad = '```python\nimport os\nos._exit(0)\n```'
        return await asyncio.gather(*[v.score(good if i%2 else bad, {'tests': f'assert f({i})=={i}'}) for i in range(60)])
    assert [s.value for s in asyncio.run(main())] == [0.0, 1.0]*30

@sandboxed
def test_beside_more_open_files_than_select_takes():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2000:
        pytest.skip('needs 2,000 open files')
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(2000, limits[0]), limits[1]))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert score(f'def f(x): return "{SECRET}"', ASSERTS).value == 1
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

@sandboxed
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind(how, tmp_path):
    mark = f'9{how.value}765.{os.getpid()}'
    program = f'''if 1:
        import asyncio
        from rsr.verifiers.verifiers import load_verifier
        code = '```python\\nimport os\\nos.execvp("sleep", ["sleep", "{mark}"])\\n```'
        async def main():
            v = load_verifier('code', time_limit=30)
            await asyncio.gather(*[v.score(code, {{'tests': 'assert f(1)==1'}}) for _ in range(3)])
        asyncio.run(main())
    '''
    env = dict(os.environ, TMPDIR=str(tmp_path), PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    p = subprocess.Popen([sys.executable, '-c', program], env=env, stderr=subprocess.DEVNULL,
                         preexec_fn=hears_signals)
    end = time.monotonic()+60
    while len(processes(mark)) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert processes(mark), 'it did not start'
    p.send_signal(how)
    p.wait(20)
    end = time.monotonic()+10
    while processes(mark) and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes(mark)
    assert not [*tmp_path.iterdir()]

# ---- a server

class Runner(BaseHTTPRequestHandler):
    "A server of the SandboxFusion contract, without any protection."
    def do_POST(self):
        job = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.server.jobs.append(job)
        plan = self.server.plan.pop(0) if self.server.plan else 'run'
        if plan == 'busy':
            return self.say(503, dict(detail='busy'))
        if plan == 'broken':
            return self.say(200, dict(status='SandboxError', message='no workers', run_result=None))
        try:
            command = [sys.executable, '-c', job['code']] if job['language'] == 'python' else ['cat']
            out = subprocess.run(command, input=job['stdin'], capture_output=True, text=True, timeout=job['run_timeout'])
            result = dict(status='Finished', return_code=out.returncode, stdout=out.stdout, stderr=out.stderr)
        except subprocess.TimeoutExpired as e:
            result = dict(status='TimeLimitExceeded', return_code=None, stdout=(e.stdout or b'').decode(), stderr='')
        self.say(200, dict(status='Success' if result['return_code'] == 0 else 'Failed', message='', run_result=result))

    def say(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass

@pytest.fixture
def runner():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Runner)
    server.jobs, server.plan, server.url = [], [], f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()

def test_server(runner):
    options = dict(sandbox_url=runner.url, time_limit=5)
    assert score('def f(x): return x', {'tests': 'assert f(1)==1'}, **options).value == 1.0
    assert score('def f(x): return x', {'tests': 'assert f(1)==2'}, **options).reason == 'failed test 1 of 1: assert f(1)==2'
    assert score('print(input())', {'inputs': ['1', '2'], 'outputs': ['1', '2']}, **options).value == 1.0
    assert score('def f(x): return x', {'function': 'f', 'args': [[1]], 'expected': [1]}, **options).value == 1.0
    assert score('while True: pass', ASSERTS, sandbox_url=runner.url, time_limit=0.5).reason == 'timeout'
    for name in ('exit', 'equals_all', 'frames', 'garbage_collector', 'proc_files', 'open_files', 'main_module', 'fake_reply'):
        assert score(ATTACKS[name], ASSERTS, **options).value == 0.0, name
    assert {job['language'] for job in runner.jobs} == {'python'}

def test_server_in_another_language(runner):
    text = '```cpp\nint main() {}\n```'
    good = asyncio.run(score_code(text, {'inputs': ['7'], 'outputs': ['7']}, language='cpp', sandbox_url=runner.url))
    assert good.value == 1.0 and runner.jobs[-1]['language'] == 'cpp' and runner.jobs[-1]['code'] == 'int main() {}'

def test_server_that_fails(runner):
    runner.plan = ['busy', 'run']
    assert score('def f(x): return x', {'tests': 'assert f(1)==1'}, sandbox_url=runner.url, time_limit=5).value == 1.0
    runner.plan = ['broken']
    s = score('def f(x): return x', {'tests': 'assert f(1)==1'}, sandbox_url=runner.url)
    assert (s.value, s.reason) == (None, 'sandbox: the server failed: no workers')
    with pytest.raises(RsrError, match='does not work here'):
        load_verifier('code', sandbox_url='http://127.0.0.1:9')

# ---- a run

@sandboxed
def test_a_run_over_attacks_and_answers(here):
    from conftest import read_jsonl, rsr, write_jsonl
    def reply(code):
        return f'So:\n```python\n{textwrap.dedent(code)}\n```'
    bad = [reply(ATTACKS[name]) for name in ('exit', 'fork_bomb', 'equals_all', 'frames', 'allocation', 'fake_reply')]
    rows = [dict(id=f'q{i}', messages=[dict(role='user', content=f'Write f{i}.')], responses=[bad[i], reply('def f(x): return x*x')],
                 metadata=dict(tests=['assert f(3)==9'])) for i in range(6)]
    write_jsonl('in.jsonl', rows)
    r = rsr('run', 'sft', 'data.input_path=in.jsonl', 'data.responses=responses', 'verifier.type=code', 'work_dir=run')
    assert r.returncode == 0 and 'passed 6, failed 6' in r.stdout+r.stderr, r.stdout+r.stderr
    assert [row['messages'][-1]['content'] for row in read_jsonl('run/train/sft.jsonl')] == [reply('def f(x): return x*x')]*6
    write_jsonl('bad.jsonl', [dict(rows[0], metadata=dict(tests='assert f('))])
    r = rsr('run', 'sft', 'data.input_path=bad.jsonl', 'verifier.type=code', 'work_dir=run2')
    assert r.returncode == 2 and "the tests are not Python: '(' was never closed, line 1" in r.stderr
