"""A goal: the run stops when its files have so many rows, and leaves the other prompts as they are.

Real loopback servers, the real command line in processes of its own, real ledgers."""
import json
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import RSR, read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback
from loopback_batch import BatchLoopback

from rsr import load_run, sample
from rsr.data.types import RsrError

SLOTS = 8

def command(server, *options, n=200, recipe='sft'):
    "The words of `rsr run`."
    if not Path('in.jsonl').exists():
        write_jsonl('in.jsonl', rows(n))
    return ['run', recipe, 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
            f'sampler.concurrent_requests={SLOTS}', *options]

def run(server, *options, rc=0, **kw):
    p = rsr(*command(server, *options, **kw))
    assert p.returncode==rc, p.stdout+p.stderr
    return p

def ledger(query):
    with closing(sqlite3.connect('w/run.db')) as db:
        return db.execute(query).fetchall()

def lines(file='sft.jsonl', side='train'):
    return len(read_jsonl(f'w/{side}/{file}'))

UNTOUCHED = 'SELECT count(*) FROM prompts p WHERE NOT EXISTS (SELECT 1 FROM rollouts WHERE prompt=p.key)'

# ---- it stops, and goes on

def test_a_run_stops_at_its_goal(here, server):
    server.set(rate=.5)
    p = run(server, 'goal=40')
    made = lines()
    assert 40<=made<=40+SLOTS
    (untouched,), = ledger(UNTOUCHED)
    assert untouched>60
    assert ledger(UNTOUCHED.replace('count(*)', 'DISTINCT stop'))==[(None,)]
    more = '' if made==40 else ' (40 asked for)'
    assert p.stdout.startswith(f'goal reached: {made} rows in sft.jsonl{more}, {untouched} prompts not opened\n')
    goal = json.loads(Path('w/summary/stats.json').read_text())['goal']
    assert goal==dict(files={'sft.jsonl':dict(goal=40, rows=made)}, reached=True, unopened=untouched)
    assert 'resume the run' not in p.stdout and 'left over: the goal is reached' in p.stdout
    assert rsr('ls', '.').stdout.rstrip().endswith('goal reached')

def test_a_higher_goal_goes_on_and_the_same_one_asks_nothing(here, server):
    server.set(rate=.5)
    run(server, 'goal=20')
    asked = server.stats()['samples']
    run(server, 'goal=20')
    assert server.stats()['samples']==asked
    run(server, 'goal=60')
    assert 60<=lines()<=60+SLOTS
    assert server.stats()['samples']==ledger('SELECT count(*) FROM rollouts')[0][0]
    p = rsr('run', 'work_dir=w', 'goal=null')
    assert p.returncode==0 and 'goal' not in p.stdout and ledger(UNTOUCHED)==[(0,)]
    assert 'goal' not in json.loads(Path('w/summary/stats.json').read_text())

def test_the_saved_recipe_has_the_goal(here, server):
    server.set(rate=1.)
    run(server, 'goal=5')
    assert 'goal:\n  sft: 5\n' in Path('w/recipe.yaml').read_text()
    p = rsr('run', 'work_dir=w')
    assert p.returncode==0 and p.stdout.startswith('goal reached: ')

def test_files_can_be_written_anew_afterwards(here, server):
    server.set(rate=.5)
    run(server, 'goal=30')
    p = rsr('format', 'w', 'formatter.pass_threshold=0', 'formatter.fail_threshold=0')
    assert p.returncode==2   # sft has no such option
    assert rsr('format', 'w', 'formatter.pass_threshold=0').returncode==0
    assert lines()>30
    assert load_run('w').stats()['goal']['files']['sft.jsonl']['rows']==lines()
    assert rsr('format', 'w', 'formatter.pass_threshold=1', 'formatter.name=sft').returncode==0

def test_prompts_that_a_budget_stopped_are_open_again(here, server):
    server.set(rate=.3)
    run(server, 'goal=30', 'budget.tokens=2500', rc=3)
    p = rsr('run', 'work_dir=w', 'budget.tokens=null')
    assert p.returncode==0 and 'goal reached' in p.stdout and 'budget' not in p.stdout
    assert ledger("SELECT count(*) FROM prompts WHERE stop='budget'")==[(0,)]

# ---- which rows count

def test_held_out_rows_do_not_count(here, server):
    server.set(rate=.6)
    run(server, 'goal=50', 'split.eval=0.3', 'split.near=false')
    assert 50<=lines()<=50+SLOTS and lines(side='eval')>5

def test_rows_of_near_duplicates_follow_the_first(here, server):
    server.set(rate=.6)
    texts = [f'{"abcdefghij"[i%10]*9} prompt of {i%40} words, and so on' for i in range(300)]
    write_jsonl('in.jsonl', [dict(id=f'q{i}', messages=[dict(role='user', content=text)], metadata=dict(answer='A'))
                             for i, text in enumerate(texts)])
    run(server, 'goal=40', 'split.eval=0.2')
    assert 40<=lines()<=40+SLOTS

def test_prompts_of_a_benchmark_do_not_count(here, server):
    server.set(rate=1.)
    Path('bench.txt').write_text(''.join(f'prompt {i}\n' for i in range(0, 200, 2)))
    run(server, 'goal=30', 'decontaminate=bench.txt')
    assert 30<=lines()<=30+SLOTS

def test_each_stage_has_its_own_prompts(here, server):
    server.set(rate=.5)
    run(server, 'goal.sft=20', 'goal.dpo=15', 'stages=[sft, dpo]', recipe='sft,dpo')
    assert lines()>=20 and lines('dpo.jsonl')>=15

def test_several_goals_and_one_reached_first(here, server):
    server.set(rate=.5)
    p = run(server, 'goal.sft=20', 'goal.dpo=60', recipe='sft,dpo', n=400)
    assert lines('dpo.jsonl')>=60 and lines()>=20
    assert ledger(UNTOUCHED)[0][0]>100 and p.stdout.startswith('goal reached: ')

def test_rows_that_cannot_be_written_are_made_up_for(here, server):
    "A pair of a response with thinking and one without is none; what scores promise, the file does not have."
    seen = []
    def reply(body):
        seen.append(body)
        right, thinks = len(seen)%2, len(seen)//2%3
        return ('<think>Let me see.</think>' if thinks==0 and right else '')+rf'It is \boxed{{{"A" if right else "B"}}}'
    server.set(reply=reply)
    run(server, 'goal=40', recipe='dpo')
    assert 40<=lines('dpo.jsonl')<=40+SLOTS

def test_balanced_labels_count_after_balancing(here, server):
    server.set(rate=.3)
    run(server, 'goal=60', recipe='kto')
    assert 60<=lines('kto.jsonl')<=60+2*SLOTS

@pytest.mark.parametrize('options', [(), ('formatter.unroll=true',), ('formatter.min_responses=3',)])
def test_pools(here, server, options):
    server.set(rate=.5)
    run(server, 'goal=25', 'formatter.num_responses=3', *options, recipe='multi_sft')
    file = next(Path('w/train').glob('*.jsonl')).name
    assert 25<=lines(file)<=25+3*SLOTS

def test_groups_until_both_outcomes_are_seen(here, server):
    server.set(rate=.2)
    run(server, 'goal=30', 'formatter.both_outcomes=true', 'sampling.early_stop=true', 'sampling.max_rollouts=16',
        recipe='grpo')
    made = lines('grpo.jsonl')
    assert 30<=made<=30+SLOTS
    both = '''SELECT count(*) FROM (SELECT 1 FROM rollouts r JOIN scores s ON s.rollout=r.key GROUP BY prompt
              HAVING max(value)=1 AND min(value)=0)'''
    assert ledger(both)==[(made,)]

def test_rows_without_samples_need_none(here, server):
    run(server, 'goal=50', 'sampling.max_rollouts=0', 'formatter.band=null', recipe='grpo')
    assert not server.stats()['samples'] and lines('grpo.jsonl')>=50

# ---- out of reach

def test_more_rows_than_prompts(here, server):
    server.set(rate=.5)
    p = run(server, 'goal=500', n=60)
    made = lines()
    assert f'goal not reached: {made} of 500 rows in sft.jsonl; no more are within reach of these prompts' in p.stdout
    assert load_run('w').exit_code==0

def test_out_of_reach_is_said_before_the_end(here, server):
    server.set(rate=.1, median=.05)
    p = run(server, 'goal=190', 'sampling.max_rollouts=4', 'progress=lines', 'sampler.concurrent_requests=4', n=200)
    assert 'goal: 190 rows in sft.jsonl are out of reach of these prompts with sampling.max_rollouts=4' in p.stderr
    assert ' within reach); satisfied ' in p.stderr

def test_a_budget_ends_it_before(here, server):
    server.set(rate=.05)
    p = run(server, 'goal=150', 'budget.tokens=8000', 'sampler.max_tokens=64', rc=3)
    assert p.stdout.startswith('stopped: budget.tokens') and 'goal not reached: ' in p.stdout

# ---- killed

def test_killed_and_resumed_it_buys_as_much(here, server):
    server.set(rate=.5, median=.02)
    words = command(server, 'goal=120', n=400)
    p = subprocess.Popen([RSR, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time()+120
    while server.stats()['samples']<100 and time.time()<end:
        time.sleep(.005)
    p.send_signal(signal.SIGKILL)
    p.wait()
    run(server, 'goal=120')
    assert 120<=lines()<=120+SLOTS
    lost = ledger("SELECT count(*) FROM rollouts WHERE outcome='lost'")[0][0]
    kept = ledger("SELECT count(*) FROM rollouts WHERE outcome='kept'")[0][0]
    assert lost<=SLOTS and kept<=320   # 240 on average
    assert ledger('SELECT max(n) FROM (SELECT count(*) n FROM rollouts GROUP BY prompt)')[0][0]<=3

# ---- wrong goals

@pytest.mark.parametrize('options, says', [
    (('goal.stf=5',), "goal: no formatter 'stf'. Did you mean 'sft'? Allowed: sft"),
    (('goal=0',), 'goal: 0 is not a whole number of rows above 0'),
    (('goal=2.5',), 'goal: 2.5 is not a whole number of rows above 0'),
    (('goal=true',), 'goal: True is not a whole number of rows above 0'),
    (('goal=many',), "goal: 'many' is not a whole number of rows above 0"),
    (('goal=5', 'formatter.pass_threshold={quantile: 0.8}'), 'goal: which responses are rows is known when the run'),
    (('goal=5000', 'budget.tokens=500'), 'goal: 5,000 rows in sft.jsonl take at least 5,000 samples'),
    (('goal=5000', 'budget.usd=0.001', 'sampler.price={prompt: 1, completion: 1}'), 'budget.usd is 0.001'),
    (('sampling.allocate=first',), "sampling.allocate: no choice 'first'. Allowed: even, hard, rows"),
    (('sampling.allocate=rows', 'sampling.early_stop=false'), 'sampling.allocate: rows asks what a prompt still')])
def test_wrong_goals(here, server, options, says):
    p = run(server, *options, rc=2)
    assert says in p.stderr and 'Traceback' not in p.stderr and len(p.stderr.strip().splitlines())<=2
    assert not server.stats()['samples'] and not Path('w').exists()

def test_a_number_for_several_files(here, server):
    p = run(server, 'goal=5', rc=2, recipe='sft,dpo')
    assert 'goal: 5 rows of which file? This recipe writes 2; say for example goal.sft=5' in p.stderr

def test_two_sides_have_no_goal(here, server):
    p = run(server, 'goal=5', 'pairs.strategy=strong_vs_weak', 'pairs.weak={model: small}', rc=2, recipe='dpo')
    assert 'goal: pairs.strategy strong_vs_weak samples the two sides of a pair one after the other' in p.stderr

# ---- from Python

def test_from_python(here, server):
    server.set(rate=1.)
    r = sample(rows(100), 'sft', base_url=server.base_url, goal=12, work_dir='w', progress=False, concurrent_requests=4)
    assert 12<=r.stats()['rows']['sft.jsonl']['rows']<=16 and r.exit_code==0
    assert 'goal       reached: ' in r.summary()
    with pytest.raises(RsrError, match="no formatter 'dpo'"):
        sample(rows(100), 'sft', base_url=server.base_url, goal=dict(dpo=12), progress=False)

def test_in_the_background(here, server):
    server.set(rate=1.)
    live = sample(rows(100), 'sft', base_url=server.base_url, goal=12, work_dir='w', background=True)
    r = live.wait()
    assert r.stats()['goal']['reached'] and live.last['rows']['sft.jsonl']['goal']==12

def test_a_pilot_has_no_goal(here, server):
    server.set(rate=1.)
    write_jsonl('in.jsonl', rows(100))
    p = rsr('plan', 'sft', 'pilot=10', *command(server, 'goal=5')[2:])
    assert p.returncode==0, p.stderr
    assert server.stats()['samples']>=10

# ---- rounds of batches

@pytest.mark.parametrize('step', ['auto', 4])
def test_a_goal_in_batches(here, step):
    with BatchLoopback(delay=.1, rate=.5) as s:
        words = ['sampler.model=m', 'sampler.batch=true', f'sampling.step_size={step}']
        p = run(s, 'goal=60', *words, n=400)
        assert 60<=lines()<=110 and p.stdout.startswith('goal reached: ')
        (untouched,), = ledger(UNTOUCHED)
        assert untouched>200 and ledger("SELECT count(*) FROM prompts WHERE stop='satisfied'")[0][0]==lines()
        run(s, 'goal=100', *words)
        assert 100<=lines()<=160 and ledger(UNTOUCHED)[0][0]>100

def test_no_allocation_in_batches(here, server):
    p = run(server, 'sampling.allocate=rows', 'sampler.model=m', 'sampler.batch=true', rc=2)
    assert 'sampling.allocate: with sampler.batch a round of samples is decided on together' in p.stderr

# ---- a cascade

MODELS = {'cheap': dict(a=.6, b=1.2, price=dict(prompt=0, completion=10_000)),
          'strong': dict(a=1.2, b=.6, price=dict(prompt=0, completion=100_000))}

def cascade(s, *options, rc=0, n=300):
    "Run both models of a server, the cheap one first."
    models = [dict(model=name, base_url=s.base_url, price=m['price'], max_tokens=100, concurrent_requests=4)
              for name, m in MODELS.items()]
    Path('two.yaml').write_text(json.dumps(dict(sampler=models, verifier='mcq-rlvr', formatter=['sft'])))
    write_jsonl('in.jsonl', rows(n))
    p = rsr('run', 'two.yaml', 'data.input_path=in.jsonl', 'work_dir=w', 'sampling.max_rollouts=24', *options)
    assert p.returncode==rc, p.stdout+p.stderr
    return p

BY_MODEL = "SELECT json_extract(config, '$.model'), count(*) FROM rollouts JOIN configs c ON c.key=sampler GROUP BY 1"

def test_a_goal_with_a_cascade(here):
    with Loopback(models=MODELS) as s:
        cascade(s, 'goal=150')
        assert 150<=lines()<=150+2*SLOTS and ledger(BY_MODEL)[0][0]=='cheap' and len(ledger(BY_MODEL))==1
        cascade(s, 'goal=285')
        assert 285<=lines()<=285+2*SLOTS
        sold = dict(ledger(BY_MODEL))
        assert 0<sold['strong']<.2*sold['cheap'], sold   # for the hardest only

def test_a_budget_ends_an_allocated_cascade(here):
    with Loopback(models=MODELS) as s:
        p = cascade(s, 'sampling.allocate=rows', 'budget.usd=200', rc=3)
        assert p.stdout.startswith('stopped: budget.usd') and s.stats()['usd']<=200
        first = lines()
        cascade(s, 'sampling.allocate=rows', 'budget.usd=400', rc=3)
        assert lines()>first and s.stats()['usd']<=400
