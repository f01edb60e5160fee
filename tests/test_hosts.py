"A run over two hosts: network namespaces with an address each, a Ray node in each, and one shared folder."
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import RSR, rows, write_jsonl
from loopback import Conn, Loopback
from test_cluster import balanced, figures, holders, wait_for

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not os.environ.get('RSR_HOSTS'),
                                 reason='two hosts are network namespaces, as root: make test-hosts')]
pytest.importorskip('ray', reason="needs pip install 'rejection-sampling-recipes[ray]'")
HEAD, OTHER, PORT = '10.77.0.1', '10.77.0.2', 6379

def ip(*args):
    return subprocess.run(['ip', *map(str, args)], check=True, capture_output=True, text=True).stdout

def pids(name):
    return {int(p) for p in ip('netns', 'pids', name).split()}

def down(name):
    "A host that loses power."
    for p in pids(name):
        os.kill(p, signal.SIGKILL)

class Host(Loopback):
    "The loopback server at an address of a host; only its socket lives there, so a test can speak to it."
    def __init__(self, name, address):
        super().__init__()
        self.name, self.address = name, address
    @property
    def url(self):
        return f'http://{self.address}:{self.port}'
    async def _listen(self):
        if self.listener:
            return
        made = []
        def there():
            fd = os.open(f'/run/netns/{self.name}', os.O_RDONLY)
            if ctypes.CDLL(None, use_errno=True).setns(fd, 0):
                raise OSError(ctypes.get_errno(), 'setns')
            made.append(socket.create_server((self.address, self.port)))
            os.close(fd)
        t = threading.Thread(target=there)   # setns is for one thread, which then ends
        t.start()
        t.join()
        self.listener = await self.loop.create_server(lambda: Conn(self), sock=made[0], backlog=4096)
        self.port = made[0].getsockname()[1]

def inside(name, command):
    return ['ip', 'netns', 'exec', name, 'unshare', '--uts', '--mount', 'sh', '-c', command]

def cable(a, b):
    "Two namespaces and a cable between them; a reason where that is not allowed."
    if os.name!='posix' or os.geteuid() or not shutil.which('ip') or not shutil.which('unshare'):
        return 'hosts are network namespaces: needs root, ip and unshare'
    try:
        for n in (a, b):
            ip('netns', 'add', n)
        ip('link', 'add', 'rsr0', 'netns', a, 'type', 'veth', 'peer', 'name', 'rsr0', 'netns', b)
    except subprocess.CalledProcessError as e:
        for n in (a, b):
            subprocess.run(['ip', 'netns', 'del', n], capture_output=True)
        return f'network namespaces are not allowed here: {e.stderr.strip()}'
    for n, own, other in ((a, HEAD, OTHER), (b, OTHER, HEAD)):
        ip('-n', n, 'addr', 'add', f'{own}/24', 'dev', 'rsr0')
        for dev in ('lo', 'rsr0'):
            ip('-n', n, 'link', 'set', dev, 'up')
        ip('-n', n, 'route', 'add', 'default', 'via', other)

@pytest.fixture(scope='module')
def hosts():
    "Two hosts with a Ray node each, a server on the first, and how to start a run there; each has its own `tmp`."
    a, b = f'rsr-a{os.getpid()}', f'rsr-b{os.getpid()}'
    if (why := cable(a, b)):
        pytest.skip(why)
    tmp = Path(tempfile.mkdtemp(prefix='rsr', dir='/tmp'))   # paths of Ray's sockets must be short
    env = {**os.environ, 'RAY_USAGE_STATS_ENABLED':'0', 'RAY_AUTH_MODE':'disabled', 'RAY_ADDRESS':f'{HEAD}:{PORT}'}
    ray, size = Path(sys.executable).parent/'ray', f'--num-cpus 2 --object-store-memory {80*2**20}'
    options = ('engine=ray', 'sampling.max_rollouts=8', 'sampler.concurrent_requests=12')
    def drive(*more):
        return subprocess.Popen(['ip', 'netns', 'exec', a, RSR, 'run', 'sft', *options, *more], env=env,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        start_head = (f'{ray} start {size} --node-ip-address {HEAD} --head --port {PORT} '
                      f'--include-dashboard=false --temp-dir {tmp}')
        start_other = (f'hostname host-b && mount -t tmpfs own {tmp} && '
                       f'{ray} start {size} --node-ip-address {OTHER} --address {HEAD}:{PORT}')
        for command in (inside(a, start_head), inside(b, start_other)):
            p = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
            assert p.returncode==0, p.stdout+p.stderr
        with Host(a, HEAD) as server:
            yield SimpleNamespace(a=a, b=b, server=server, drive=drive, tmp=tmp)
    finally:
        for n in (a, b):
            down(n)
            ip('netns', 'del', n)
        shutil.rmtree(tmp, ignore_errors=True)

@pytest.fixture
def run(here, hosts):
    hosts.server.reset()
    hosts.server.set(median=0., rate=None, sigma=.2, words=20)
    def run(work, *options, wait=True):
        p = hosts.drive(f'sampler.base_url={hosts.server.base_url}', f'work_dir={work}', *options)
        if not wait:
            return p
        out, _ = p.communicate(timeout=120)
        return p.returncode, out
    return run

def test_what_one_host_cannot_see(here, hosts, run):
    write_jsonl('in.jsonl', rows(2))
    code, out = run(hosts.tmp/'w', 'data.input_path=in.jsonl')
    assert code==2
    assert 'must lie on a file system that all nodes of the cluster share' in out
    assert f'node host-b ({OTHER}) does not see it' in out
    assert 'Traceback' not in out
    assert not (hosts.tmp/'w').exists()
    assert hosts.server.stats()['requests']==0

def test_a_run_over_two_hosts(here, hosts, run):
    "One budget; then, resumed with more of it, one of the hosts goes down."
    hosts.server.set(median=.02, rate=0.)
    write_jsonl('in.jsonl', rows(60))
    work = ('w', 'data.input_path=in.jsonl', 'cluster={actors: 2, block: 15, num_cpus: 2}')   # an actor fills a host
    code, out = run(*work, 'budget.tokens=6000')
    spent = sum(figures('w')['tokens'][k] for k in ('prompt', 'completion'))
    assert code==3 and 'budget.tokens: 6,000' in out and 5000<spent<=6600, out
    assert hosts.server.stats()['max_inflight']<=12
    hosts.server.set(median=.1)
    p = run(*work, wait=False)
    wait_for(lambda: p.poll() is not None or all(holders('w')&pids(n) for n in (hosts.a, hosts.b)))
    down(hosts.b)
    out, _ = p.communicate(timeout=120)
    assert p.returncode==0, out
    s = balanced('w', hosts.server)
    assert s['prompts']['by_stop_reason']=={'max_rollouts':60} and s['samples']['by_outcome']['kept']==480
    assert s['samples']['by_outcome'].get('lost', 0)<=6*4   # its requests, of four each
    assert not Path('w/blocks').exists() and len(list(Path('w/parts').glob('rollouts-*')))==4
