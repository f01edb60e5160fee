"Cascade, goal, allocation, batches and budgets together, killed and resumed: nothing is bought twice."
import json
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from conftest import RSR, rows, rsr, write_jsonl
from loopback import TOKENS, Loopback

PRICES = dict(cheap=1., strong=10.)   # dollars a sample
MODELS = {name: dict(a=a, b=b, price=dict(prompt=0, completion=1e6*PRICES[name]/TOKENS[1]))
          for name, a, b in (('cheap', .6, 1.2), ('strong', 1.2, .6))}
CAP = 12

@pytest.fixture
def two():
    with Loopback(models=MODELS, seed=1, median=.005) as s:
        yield s

def recipe(server, models=('cheap', 'strong'), slots=8, **more):
    "Write a recipe with these models."
    sampler = [dict(model=m, base_url=server.base_url, price=MODELS[m]['price'], max_tokens=TOKENS[1],
                    concurrent_requests=slots) for m in models]
    d = dict(sampler=sampler if len(models)>1 else sampler[0], verifier=dict(type='mcq-rlvr'),
             formatter=[dict(type='sft')], sampling=dict(max_rollouts=CAP, step_size='auto'))
    for key, value in more.items():
        d[key] = {**d.get(key, {}), **value} if isinstance(value, dict) else value
    Path('recipe.yaml').write_text(json.dumps(d))

def command(n, *args):
    write_jsonl('in.jsonl', rows(n))
    return ['run', 'recipe.yaml', 'data.input_path=in.jsonl', 'work_dir=w', *args]

def start(n, *args):
    return subprocess.Popen([RSR, *command(n, *args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def made():
    "Rows in the files of the run."
    return [json.loads(line) for f in Path('w/train').glob('*.jsonl') for line in open(f)]

def ledger(query, *args):
    return sqlite3.connect('w/run.db').execute(query, args).fetchall()

def sold(server):
    return sum(m['samples'] for m in server.sales.values())

def check(server, lost=0, usd=True):
    "What the ledger has is what the server sold, up to what was lost; no model asks a prompt too often."
    kept = ledger("SELECT count(*) FROM rollouts WHERE outcome='kept'")[0][0]
    gone = ledger("SELECT count(*) FROM rollouts WHERE outcome='lost'")[0][0]
    assert gone<=lost and kept<=sold(server)<=kept+gone
    assert max(server.asked.values())<=CAP+gone
    if usd and not gone:
        stats = json.loads(Path('w/summary/stats.json').read_text())
        assert stats['usage']['usd']==pytest.approx(server.stats()['usd'])

def kill_at(server, samples, n, *args):
    "Start a run and kill it once the server has sold so many samples."
    p = start(n, *args)
    end = time.time()+60
    while sold(server)<samples and p.poll() is None:
        assert time.time()<end
        time.sleep(.002)
    p.send_signal(signal.SIGKILL)
    p.wait()
    time.sleep(.1)

@pytest.mark.parametrize('models', [('cheap',), ('cheap', 'strong')])
def test_a_goal_and_two_kills(here, two, models):
    recipe(two, models, goal=dict(sft=120))
    for samples in 60, 260:
        kill_at(two, samples, 200)
    p = rsr(*command(200))
    assert p.returncode==0, p.stderr
    assert 120<=len(made())<=120+8*len(models)
    check(two, lost=2*8*len(models))
    before = sold(two)
    again = rsr(*command(200))
    assert again.returncode==0 and sold(two)==before and len(made())>=120
