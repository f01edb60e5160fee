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
from loopback_batch import BatchLoopback

PRICES = dict(cheap=1., strong=10.)   # dollars a sample
MODELS = {name: dict(a=a, b=b, price=dict(prompt=0, completion=1e6*PRICES[name]/TOKENS[1]))
          for name, a, b in (('cheap', .6, 1.2), ('strong', 1.2, .6))}
CAP = 12

@pytest.fixture
def two():
    with Loopback(models=MODELS, seed=1, median=.005) as s:
        yield s

@pytest.fixture
def batches():
    with BatchLoopback(models=MODELS, seed=1, delay=.3) as s:
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
        assert stats['cost']==pytest.approx(server.stats()['usd'])

def kill_at(server, samples, n, *args):
    "Start a run and kill it once the server has sold so many samples."
    p = start(n, *args)
    end = time.time()+120
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

def numbers():
    return json.loads(Path('w/summary/stats.json').read_text())

@pytest.mark.parametrize('allocate', ['rows', 'even', 'hard'])
def test_a_cascade_under_a_budget_that_is_raised(here, two, allocate):
    recipe(two, budget=dict(usd=150), sampling=dict(max_rollouts=CAP, step_size='auto', allocate=allocate))
    p = rsr(*command(200))
    assert p.returncode==3, p.stderr
    assert two.stats()['usd']<=150
    check(two)
    first = len(made())
    p = rsr(*command(200, 'budget.usd=500'))
    assert p.returncode==3 and 400<two.stats()['usd']<=500, p.stderr
    check(two)
    assert len(made())>first

def test_a_cascade_in_batches_killed_again_and_again(here, batches):
    recipe(batches, goal=dict(sft=90))
    d = json.loads(Path('recipe.yaml').read_text())
    for entry in d['sampler']:
        entry['batch'] = True
    Path('recipe.yaml').write_text(json.dumps(d))
    for i in range(6):
        p = start(100)
        time.sleep(.7+.15*i)
        p.kill()
        p.wait()
    p = rsr(*command(100))
    assert p.returncode==0 and 90<=len(made())<=100, p.stderr
    check(batches)
    assert set(batches.sales)=={'cheap', 'strong'}
    again = rsr(*command(100))
    assert again.returncode==0 and again.stdout.count('goal reached')==1
    check(batches)

def test_a_later_model_is_tried_on_prompts_that_the_first_one_fails(here, two):
    recipe(two, goal=dict(sft=160))
    assert rsr(*command(200)).returncode==0
    rows = ledger("SELECT r.prompt, s.value FROM rollouts r JOIN configs c ON c.key=r.sampler LEFT JOIN scores s ON "
                  "s.rollout=r.key WHERE c.config LIKE '%strong%' ORDER BY r.key LIMIT 3")
    assert rows and len({prompt for prompt, _ in rows})==len(rows)
    assert 'strong' in two.sales and two.sales['strong']['samples']<100

def test_files_and_statistics_say_the_model(here, two):
    recipe(two, goal=dict(sft=150), formatter=[dict(type='sft', columns=['model'])])
    assert rsr(*command(200)).returncode==0
    models = [row['model'] for row in made()]
    assert set(models)=={'cheap', 'strong'} and models.count('cheap')>models.count('strong')
    assert rsr('format', 'w').returncode==0 and [row['model'] for row in made()]==models
    out = rsr('stats', 'w').stdout
    assert 'cheap' in out and 'strong' in out

@pytest.mark.parametrize('mix', [False, True])
def test_a_pair_is_of_one_model(here, two, mix):
    recipe(two, goal=dict(dpo=60), formatter=[dict(type='dpo', columns=['model'], **(dict(mix=True) if mix else {}))])
    p = rsr(*command(100))
    assert p.returncode==0, p.stderr
    by_key = dict(ledger("SELECT r.text, c.config FROM rollouts r JOIN configs c ON c.key=r.sampler"))
    lines = [json.dumps(row).replace('\\\\', '\\') for row in made()]
    sides = [{model for text, model in by_key.items() if text in line} for line in lines]
    assert len(sides)>=60 and (mix or {len(s) for s in sides}=={1})
