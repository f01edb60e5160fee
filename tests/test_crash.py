"Kill it, starve it, interrupt it: the ledger balances and the run goes on."
import os
import random
import resource
import signal
import sqlite3
import subprocess
import time

import pytest
from conftest import COMMANDS, RSR, rows, rsr, write_jsonl

from rsr import load_run

def hears_signals():
    "A test run in the background ignores Ctrl-C, one under nohup SIGHUP, and their children would."
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

def start(server, n, *args, preexec_fn=None):
    "A run in a process of its own: a forked one, or with a `preexec_fn` the installed command."
    write_jsonl('in.jsonl', rows(n))
    cmd = ['run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
           'sampler.concurrent_requests=16', *args]
    if not preexec_fn:
        return COMMANDS.begin(cmd, hears=True)
    return subprocess.Popen([RSR, *cmd], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            preexec_fn=preexec_fn)

def wait_for(cond, seconds=120):
    end = time.time()+seconds
    while not cond():
        assert time.time()<end, 'timed out'
        time.sleep(.005)

def counts():
    return dict(sqlite3.connect('w/run.db').execute('SELECT outcome, count(*) FROM rollouts GROUP BY 1'))

@pytest.mark.parametrize('when', [.1, .4, .8])
def test_kill_9_at_any_moment(here, server, when):
    server.set(median=.02, rate=.2)
    p, total = start(server, 150), 150*9
    wait_for(lambda: server.stats()['samples']>when*total*random.uniform(.8, 1.2) or p.poll() is not None)
    p.send_signal(signal.SIGKILL)
    p.wait()
    time.sleep(.3)
    answered = sum(1 for e in server.log if e['status']==200)*4
    c = counts()
    assert set(c)<={'kept', None} and c.get(None, 0)<=16*4, c
    assert c['kept']>=answered-16*4                    # what had arrived was committed
    keys = set(sqlite3.connect('w/run.db').execute("SELECT key, text FROM rollouts WHERE outcome='kept'"))
    p = start(server, 150)
    out, err = p.communicate(timeout=120)
    assert p.returncode==0, err
    s = load_run('w').stats()
    assert s['samples']['by_outcome'].get('lost', 0)==c.get(None, 0)
    assert sum(s['samples']['by_outcome'].values())==s['samples']['asked']
    assert keys<=set(sqlite3.connect('w/run.db').execute("SELECT key, text FROM rollouts WHERE outcome='kept'"))
    assert s['samples']['asked']>=server.stats()['samples']  # everything the server gave is a row
    assert s['prompts']['by_stop_reason'].keys()<={'satisfied', 'max_rollouts'}
    per = load_run('w').rollouts.query("outcome=='kept'").groupby('prompt').size()
    assert per.max()<=16

def test_killed_again_and_again(here, server):
    server.set(median=.01, rate=.1)
    for _ in range(6):
        p = start(server, 60)
        time.sleep(random.uniform(.05, .6))
        p.kill()
        p.wait()
    out, err = start(server, 60).communicate(timeout=120)
    s = load_run('w').stats()
    assert sum(s['samples']['by_outcome'].values())==s['samples']['asked'] and s['prompts']['total']==60
    assert load_run('w').rollouts.query("outcome=='kept'").groupby('prompt').size().max()<=16

def test_two_processes_on_one_run(here, server):
    server.set(median=.2, rate=0.)
    p = start(server, 100)
    wait_for(lambda: len(server.log)>5)
    second = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w')
    assert second.returncode==2 and f'in use by process {p.pid}' in second.stderr and 'Traceback' not in second.stderr
    assert rsr('stats', 'w').returncode==0          # reading is allowed meanwhile
    p.kill()
    p.wait()

@pytest.mark.parametrize('sig', [signal.SIGINT, signal.SIGTERM])
def test_interrupt_keeps_what_is_in_flight(here, server, sig):
    server.set(median=.3, sigma=.1, rate=0.)
    p = start(server, 100)
    wait_for(lambda: len(server.log)>40)
    p.send_signal(sig)
    out, err = p.communicate(timeout=120)
    assert p.returncode==130, (out, err)
    assert 'resume with: rsr run sft data.input_path=in.jsonl' in out
    assert out.count('work_dir=w')==1
    assert 'Traceback' not in err
    assert counts()=={'kept':4*len(server.log)}
    server.set(median=0)
    assert start(server, 100).wait(timeout=120)==4     # finished; none passed

def test_a_scheduler_signals_twice_and_an_impatient_user_later(here, server):
    server.set(median=3., sigma=.01, rate=0.)
    p = start(server, 100)
    wait_for(lambda: len(server.log)>10)
    p.send_signal(signal.SIGTERM)
    time.sleep(.02)
    p.send_signal(signal.SIGTERM)   # one stop, said twice
    out, err = p.communicate(timeout=120)
    assert p.returncode==130 and 'resume with' in out and counts()=={'kept':4*len(server.log)}, (out, err)
    p = start(server, 100)
    n = len(server.log)
    wait_for(lambda: len(server.log)>n+5)
    p.send_signal(signal.SIGINT)
    time.sleep(1.3)
    p.send_signal(signal.SIGINT)     # now
    out, err = p.communicate(timeout=120)
    assert p.returncode==130 and 'resume with' in (out+err).lower(), (out, err)
    assert 'bug' not in err and None not in counts(), (out, err)

def test_disk_full(here, server):
    server.set(rate=0., words=400)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    p = start(server, 100, preexec_fn=limit)
    out, err = p.communicate(timeout=120)
    assert p.returncode==1, (out, err)
    assert 'ledger could not be written' in err, (out, err)
    assert 'Traceback' not in err, (out, err)
    assert 'Resume with: rsr run sft' in err, (out, err)
    assert sqlite3.connect('w/run.db').execute('PRAGMA integrity_check').fetchone()==('ok',)
    kept = counts()['kept']
    assert kept>0
    p = start(server, 100)
    out, err = p.communicate(timeout=120)
    assert p.returncode==4 and counts()['kept']==1600

def test_no_secret_reaches_disk_or_screen(here, server):
    key, header, env = 'sk-recipe-0123456789', 'hdr-0123456789', 'sk-env-0123456789'
    server.set(auth='something-else', echo_key=True)
    outs = []
    cases = [([f'sampler.api_key={key}'], {}), ([f'sampler.headers={{X-Key: {header}}}'], {'OPENAI_API_KEY':env}),
             (['sampler.api_key=${MY_KEY}'], {'MY_KEY':env}), ([f'sampler.api_key={key}'], {'RSR_DEBUG':'1'})]
    for w, (extra, envs) in enumerate(cases):
        server.set(auth='something-else')
        write_jsonl('in.jsonl', rows(3))
        p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', f'work_dir={w}',
                *extra, env=envs)
        assert p.returncode==1 and ('Incorrect API key' in p.stderr or 'Traceback' in p.stderr)
        outs.append(p.stdout+p.stderr)
        server.set(auth=None)
        p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', f'work_dir={w}',
                *extra, env=envs)
        assert p.returncode==0, p.stderr
        outs.append(p.stdout+p.stderr)
    files = [os.path.join(d, f) for d, _, fs in os.walk('.') for f in fs]
    blob = '\n'.join(outs)+''.join(open(f, 'rb').read().decode('latin-1') for f in files)
    for secret in (key, header, env):
        assert secret not in blob
    assert any(e['headers'].get('authorization')==f'Bearer {env}' for e in server.log)  # and yet they were used

def test_the_ledger_needs_no_cleaning_up(here, server):
    p = start(server, 5)
    p.communicate(timeout=120)
    assert sorted(f for f in os.listdir('w') if not f.startswith('.'))==['recipe.yaml', 'run.db', 'summary', 'train']

def test_killed_before_the_tables(tmp_path):
    from rsr.data.store import Store
    sqlite3.connect(tmp_path/'run.db').execute('PRAGMA journal_mode=WAL')
    s = Store(tmp_path)
    assert s.fresh
    s.close()
