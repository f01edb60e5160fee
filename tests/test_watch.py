"Watch a run from another process: what is shown, how it ends, and that the run does not notice."
import asyncio
import json
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest
from conftest import COMMANDS, RSR, rows, rsr, write_jsonl

from rsr import load_run, sample
from rsr.data.types import RsrError
from rsr.run.watch import RunView

def begin(server, *args, n=60, recipe='sft'):
    "Start a run in a process of its own."
    write_jsonl('in.jsonl', rows(n))
    return COMMANDS.begin(['run', recipe, 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}',
                           'work_dir=w', 'sampler.concurrent_requests=8', *args], hears=True)

def wait_for(cond, seconds=90):
    end = time.time()+seconds
    while not cond():
        assert time.time()<end, 'timed out'
        time.sleep(.02)

def objects(text):
    "The objects of a stream of JSON, one a line."
    return [json.loads(line) for line in text.splitlines() if line]

def watching(*args):
    "Start to watch a run that is yet to begin, and wait until it is waited for."
    watch = COMMANDS.begin(['watch', 'w', 'wait=true', *args], hears=True)
    wait_for(lambda: 'waiting for a run in w' in watch.told()[1])
    return watch

def seen(watch):
    "The objects that were told so far, whole lines only."
    return objects(watch.told()[0].rpartition('\n')[0])

class Gate:
    "A server's `reply` that answers so many requests; the others wait until there are more."
    def __init__(self, most):
        self.most, self.asked = most, 0

    async def __call__(self, body):
        self.asked += 1
        number = self.asked
        while number>self.most:
            await asyncio.sleep(.02)

PRICE = 'sampler.price={prompt: 1, completion: 2}'

def test_a_run_of_the_shell_watched_from_another_process(here, server):
    gate = Gate(40)
    server.set(rate=.3, reply=gate)
    watch = watching('every=0.2', '--json')
    run = begin(server, PRICE, 'sampling.max_rollouts=4')   # a request for each prompt
    forecasts = lambda: [p['forecast'] for p in seen(watch) if p['state']=='running' and p['forecast']]
    wait_for(forecasts)
    gate.most = 60
    out, err = watch.communicate(timeout=120)
    assert run.communicate(timeout=120) and watch.returncode==run.returncode==0, err
    told = objects(out)
    assert told[0]['state']=='running' and told[-1]['exit_code']==0
    done = [p['prompts']['done'] for p in told if p['prompts']]
    assert len(done)>3 and done==sorted(done) and done[-1]==60
    assert told[-1]['rollouts']['asked']==240 and all(f['rollouts']==[240]*3 for f in forecasts())
    assert all(f['usd'][1]<=f['usd'][0]<=f['usd'][2] for f in forecasts())
    assert forecasts()[0]['usd'][0]==pytest.approx(told[-1]['usd'], rel=.2)
    same_figures(told[-1], json.loads(rsr('stats', 'w', 'json=true').stdout))

def same_figures(p, s):
    "The figures of a run that has ended are those of `rsr stats`."
    assert p['prompts']['total']==s['prompts']['total'] and p['prompts']['satisfied']==s['prompts']['satisfied']
    assert p['rollouts']['asked']==s['samples']['asked'] and p['rollouts']['outcomes']==s['samples']['by_outcome']
    assert p['scores']['passed']==s['scores']['passed']
    assert p['tokens']=={k:s['tokens'][k] for k in ('prompt', 'completion', 'judge')}
    assert p['usd']==pytest.approx(s['cost']) if s['cost'] is not None else p['usd'] is None
    assert {f:c['rows'] for f, c in p['rows'].items()}=={f:c['rows'] for f, c in s['rows'].items()}
    for name, c in p['samplers'].items():
        assert (c['scored'], c['passed'])==(s['samplers'][name]['scored'], s['samplers'][name]['passed'])
        assert c['usd']==pytest.approx(s['samplers'][name]['usd'])
    for name, c in p['stages'].items():
        t = s['components']['components'][name]
        assert (c['ran'], c['passed'], c['unscored'])==(t['ran'], t['passed'], t['unscored']), (c, t)
        assert c['calls']==t.get('calls', 0) and c['usd']==pytest.approx(t.get('cost') or 0.)

def test_stages_and_samplers(here, server):
    "A stack of which the second stage is a judge, and a cascade of two models; some answers fail on the way."
    one = dict(a=.6, b=.6, price=dict(prompt=1, completion=2))
    server.set(models=dict(small=one, large=dict(one, a=2.), judge=one), faults={'500':.05})
    (here/'rule.py').write_text('def rule(response, metadata):\n    return float("{A}" in response)\n')
    (here/'words.py').write_text('def words(response, metadata):\n    return float(len(response)>40)\n')
    write_jsonl('in.jsonl', rows(40))
    price = '{prompt: 1, completion: 2}'
    (here/'r.yaml').write_text(f'''data: {{input_path: in.jsonl}}
work_dir: w
sampler:
  - {{base_url: "{server.base_url}", model: small, price: {price}, concurrent_requests: 4}}
  - {{base_url: "{server.base_url}", model: large, price: {price}, concurrent_requests: 4}}
verifier:
  - {{name: rule, type: "rule.py:rule", gate: true}}
  - {{name: words, type: "words.py:words"}}
formatter: [{{type: sft}}, {{type: dpo}}]
''')
    assert rsr('run', 'r.yaml').returncode in (0, 1)
    p = json.loads(rsr('watch', 'w', '--once', '--json').stdout)
    assert set(p['samplers'])=={'small', 'large'} and set(p['stages'])=={'rule', 'words'}
    assert sum(c['share'] for c in p['samplers'].values())==pytest.approx(1)
    same_figures(p, json.loads(rsr('stats', 'w', 'json=true').stdout))

def test_killed_resumed_and_interrupted(here, server):
    server.set(median=.05, rate=0.)
    run = begin(server, n=200)
    watch = COMMANDS.begin(['watch', 'w', 'wait=true', 'every=0.1'], hears=True)
    wait_for(lambda: len(server.log)>30)
    run.send_signal(signal.SIGKILL)
    run.wait()
    out, err = watch.communicate(timeout=60)
    assert watch.returncode==1 and 'its process was killed' in out and 'rsr run work_dir=w' in out, (out, err)
    p = json.loads(rsr('watch', 'w', '--once', '--json').stdout)
    assert p['state']=='died' and p['resume']=='rsr run work_dir=w' and p['rollouts']['outcomes']['in_flight']
    run = begin(server, n=200)
    watch = COMMANDS.begin(['watch', 'w', 'wait=true', 'every=0.1', 'json=true'], hears=True)
    n = len(server.log)
    wait_for(lambda: len(server.log)>n+20)
    run.send_signal(signal.SIGINT)
    assert run.wait(60)==130
    out, _ = watch.communicate(timeout=60)
    last = objects(out)[-1]
    assert watch.returncode==last['exit_code']==130 and last['state']=='stopped: interrupted'
    assert 'lost' in last['rollouts']['outcomes'] and last['resume'] and last['message']

def test_ctrl_c_ends_the_watching_only(here, server):
    server.set(median=.1, rate=0.)
    run = begin(server, n=100)
    wait_for(lambda: len(server.log)>10)
    watch = COMMANDS.begin(['watch', 'w', 'every=0.1'], hears=True)
    time.sleep(1)
    watch.send_signal(signal.SIGINT)
    out, err = watch.communicate(timeout=60)
    assert watch.returncode==130 and 'the run is not affected' in err and 'resume' not in err.lower(), err
    assert run.poll() is None
    n = len(server.log)
    wait_for(lambda: len(server.log)>n+10)   # it goes on
    run.send_signal(signal.SIGKILL)
    run.wait()

def test_a_panel_on_a_terminal_is_drawn_over_itself(here, server):
    server.set(median=.05, rate=.3, fault='429')
    run = begin(server, 'sampler.patience=60', 'sampler.model=a\x1b[31mb', n=40)
    wait_for(lambda: (here/'w'/'run.db').exists() and len(server.log)>5)
    main, side = pty.openpty()
    watch = subprocess.Popen([RSR, 'watch', 'w', 'wait=true', 'every=0.2'], stdout=side, stderr=subprocess.DEVNULL,
                             env={**os.environ, 'TERM':'xterm', 'COLUMNS':'70', 'LINES':'30'})
    os.close(side)
    text = b''
    def read():
        nonlocal text
        if select.select([main], [], [], .05)[0]:
            try:
                text += os.read(main, 65536)
            except OSError:
                return
    def saw(words):
        read()
        return words in text.decode(errors='replace')
    wait_for(lambda: saw('429'))              # what it waits for
    server.set(fault=None)
    wait_for(lambda: (read(), watch.poll() is not None)[1])
    read()
    os.close(main)
    run.communicate(timeout=60)
    drawn = text.decode()
    assert watch.returncode==run.returncode==0
    assert re.search(r'\x1b\[\d+A\x1b\[J', drawn) and '40 of 40 done' in drawn
    assert set(re.findall(r'\x1b\[[^A-Za-z]*[A-Za-z]', drawn))<={'\x1b[J', *re.findall(r'\x1b\[\d+A', drawn)}
    lines = re.sub(r'\x1b\[\d*[AJ]', '', drawn).splitlines()
    assert max(map(len, lines))<=70

def test_the_writer_is_not_disturbed(here, server):
    "Four views look without a pause, while a run writes; it ends in order, and no view holds a lock or a read open."
    server.set(median=.002, rate=.2)
    run = begin(server, n=150)
    wait_for(lambda: (here/'w'/'run.db').exists() and len(server.log)>10)
    views, looks = [RunView('w') for _ in range(4)], 0
    while run.poll() is None:
        for view in views:
            view.look(.05)
            looks += 1
    out, err = run.communicate()
    assert run.returncode==0 and looks>20 and not re.search('lock|busy|could not be written', out+err), err
    figures = [view.look() for view in views]
    for view in views:
        view.close()
    assert len({json.dumps({**p, 'at':0}, sort_keys=True) for p in figures})==1
    same_figures(figures[0], load_run('w').stats())

def test_a_look_reads_only_what_is_new(here, server):
    write_jsonl('in.jsonl', rows(2))
    sample('in.jsonl', 'sft', base_url=server.base_url, work_dir='w', progress=False)
    db = sqlite3.connect('w/run.db')
    sampler, verifier = (db.execute('SELECT max(key) FROM configs WHERE kind=?', (k,)).fetchone()[0]
                         for k in ('sampler', 'verifier'))
    def add(first, n):
        db.executemany("INSERT INTO rollouts(key,prompt,idx,step,blind,sampler,asked,outcome,text,prompt_tokens,"
                       "completion_tokens) VALUES(?,1,?,1,1,?,?,'kept','x',10,20)",
                       [(k, k, sampler, time.time()) for k in range(first, first+n)])
        scores = [(k, verifier) for k in range(first, first+n)]
        db.executemany('INSERT INTO scores VALUES(?,?,1.0,NULL,NULL,NULL)', scores)
        db.commit()
    add(1000, 50_000)
    view = RunView('w')
    view.look()
    counts = view.counts
    read = counts.chunks
    assert read>=12 and not counts.open
    add(60_000, 100)
    counts.update()
    assert counts.chunks==read+1 and sum(counts.totals()[k] for k in counts.totals() if k[0]=='asked')>50_100
    view.close()

def test_what_is_no_run(here, server):
    for path, words in [('nowhere', 'no run here'), ('odd', 'not an SQLite'), ('other', 'database of another program'),
                        ('old', 'layout 99')]:
        if path!='nowhere':
            (here/path).mkdir()
        if path=='odd':
            (here/path/'run.db').write_text('no database')
        if path=='other':
            sqlite3.connect(here/path/'run.db').execute('CREATE TABLE t(x)')
        if path=='old':
            sample(rows(1), 'sft', base_url=server.base_url, work_dir=path, progress=False)
            sqlite3.connect(here/path/'run.db').execute('PRAGMA user_version=99')
        for more in [], ['wait=true']:
            if more and path=='nowhere':
                continue
            found = rsr('watch', path, *more)
            assert found.returncode==2 and words in found.stderr and 'Traceback' not in found.stderr, found.stderr
        with pytest.raises(RsrError, match=words):
            RunView(path).look()
    found = rsr('watch', 'odd', '--json')
    assert found.returncode==2 and json.loads(found.stdout)['exit_code']==2

def test_a_damaged_ledger(here, server):
    sample(rows(40), 'sft', base_url=server.base_url, work_dir='w', progress=False)
    with open('w/run.db', 'r+b') as f:
        f.seek(8192)
        f.write(b'\xff'*40_000)
    found = rsr('watch', 'w', '--once')
    assert found.returncode==2 and 'cannot be used' in found.stderr and 'bug' not in found.stderr, found.stderr

# ---- in a notebook

def test_a_run_of_a_notebook_watched_at_the_shell_and_the_other_way_round(here, server):
    server.set(median=.05, rate=.3)
    live = sample(rows(60), 'sft', base_url=server.base_url, work_dir='w', concurrent_requests=8, background=True)
    watch = COMMANDS.begin(['watch', 'w', 'wait=true', 'every=0.2', 'json=true'], hears=True)
    panel = load_run('w').watch(.1)          # a second view, in the process that samples
    run = live.wait(90)
    out, err = watch.communicate(timeout=60)
    assert watch.returncode==0 and panel.wait(30)['state']=='finished', err
    last = objects(out)[-1]
    for key in 'prompts', 'rollouts', 'scores', 'rows', 'tokens':
        assert live.last[key]==panel.last[key]==last[key], key
    same_figures(last, run.stats())

def test_in_a_real_kernel(here, server):
    "A cell returns at once, the panel goes on to the end of the run, and what it shows is text."
    nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
    server.set(median=.05, rate=.3, model='<b>bold</b>')
    run = begin(server, n=60)
    wait_for(lambda: (here/'w'/'recipe.yaml').exists() and len(server.log)>5)
    cells = ['import rsr\np = rsr.load_run("w").watch(.2)\np', 'print(p.last["state"])', 'p.wait(90);']
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbclient.NotebookClient(nb, timeout=120, resources={'metadata':{'path':str(here)}}).execute()
    assert run.wait(60)==0
    shown, = nb.cells[0].outputs
    html = shown['data']['text/html']
    assert '60 of 60 done' in html and 'finished' in html and '<b>bold' not in html

# ---- batches, and a cluster

def test_open_batches(here):
    "Which batches are open and since when, also when no process waits for them."
    from loopback_batch import BatchLoopback
    with BatchLoopback(delay=600) as server:
        write_jsonl('in.jsonl', rows(10))
        words = ['run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', 'sampler.model=m', 'work_dir=w',
                 'sampler.batch=true', 'sampling.step_size=auto', PRICE]
        words[2] = 'data.input_path=in.jsonl'
        assert rsr(*words, 'detach=true').returncode==0
        found = rsr('watch', 'w', 'json=true')
        p = json.loads(found.stdout)
        assert found.returncode==0 and p['state']=='waiting for a batch' and p['resume']
        open_, = p['batches']
        assert open_['requests']==10 and open_['kind']=='sampler' and 0<=time.time()-open_['since']<600
        assert 'requests answered' in rsr('watch', 'w').stdout
        # its answers come, and the run ends, perhaps before a watcher has seen that it began
        watch = watching('every=0.2', 'json=true')
        server.set(delay=0)
        run = COMMANDS.begin([*words, 'sampling.max_rollouts=2'], hears=True)
        out, err = watch.communicate(timeout=120)
        run.communicate(timeout=60)
        last = objects(out)[-1]
        assert last['exit_code']==watch.returncode==run.returncode==0 and last['state']=='finished', (last, err)
        assert not last['batches'] and last['rollouts']['asked']>10

def test_a_run_too_short_to_be_seen(here, server):
    "A watcher that waits is told of a run that began and ended between two of its looks, with its exit code."
    for stop, code in ('data.limit=2', 0), ('budget.tokens=0', 3):
        watch = watching('json=true')
        watch.send_signal(signal.SIGSTOP)
        server.set(rate=1.)
        assert begin(server, stop, n=2).wait(60)==code
        watch.send_signal(signal.SIGCONT)
        out, err = watch.communicate(timeout=60)
        assert watch.returncode==code and objects(out)[-1]['exit_code']==code, (out, err)
        assert not [p for p in objects(out) if p['state']=='running']
        shutil.rmtree('w')

def test_a_run_on_a_cluster(here, server, cluster):
    "While blocks are sampled, the driver's sums are shown; at the end, what the blocks hold."
    gate = Gate(25)   # more than the requests of the first block
    server.set(rate=1., reply=gate)
    watch = watching('every=0.2', 'json=true')
    run = begin(server, PRICE, 'engine=ray', f'cluster.address={cluster.address}', 'cluster.actors=1',
                'cluster.block=20', n=40)
    wait_for(lambda: run.poll() is not None or [p for p in seen(watch) if p['state']=='running' and p['prompts']
                                                and 0<p['prompts']['done']<40 and p['rollouts']['asked'] and p['usd']])
    gate.most = 1000
    out, err = watch.communicate(timeout=200)
    told = run.communicate(timeout=60)
    assert run.returncode==watch.returncode==0, (err, told)
    assert [p for p in objects(out) if p['state']=='running']
    same_figures(objects(out)[-1], json.loads(rsr('stats', 'w', 'json=true').stdout))
