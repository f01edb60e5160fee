"What a plan forecasts for each way to sample, against runs on a real server; rows by difficulty."
import json
import re
import shlex

import numpy as np
import pytest
from conftest import rows, rsr, write_jsonl
from loopback import TOKENS, Loopback

from rsr.data.difficulty import Difficulty
from rsr.data.kept_plans import compare_plan, sampling_signature
from rsr.data.plays import play
from rsr.data.policies import Costs, Policy, Task, draw_prompts
from rsr.data.statistics import chance
from rsr.data.store import Store
from rsr.explore.score_figures import difficulty_data
from rsr.quality.checklist import checklist
from rsr.run.recipe import load_recipe
from rsr.run.results import load_run
from rsr.run.run import sample

PRICE = 'sampler.price={prompt: 100, completion: 200}'

def shell(*args):
    "Exit code, data and text of a command."
    p = rsr(*args, 'json=true')
    assert p.stdout.startswith('{'), p.stdout+p.stderr
    return p.returncode, json.loads(p.stdout), p.stderr

@pytest.fixture
def base(here, server):
    "Options of a run of 300 prompts on the server."
    write_jsonl('in.jsonl', rows(300))
    return ['data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', PRICE]

def within(numbers, x, slack=0.):
    "Check whether a number lies in an interval, with some slack on both sides."
    _, low, high = numbers
    return low*(1-slack) <= x <= high*(1+slack)

def follow(line, found):
    "Run the command of a line; return the run's statistics."
    assert line['command'].startswith('rsr run ')
    p = rsr(*shlex.split(line['command'])[1:], 'progress=none')
    assert p.returncode in (0, 3), p.stderr
    return shell('stats', 'w')[1]

def line_of(found, start):
    "The line of a table whose name begins so."
    return next(line for line in found['levers']['lines'] if line['name'].startswith(start))

# ---- the table

def test_every_line_fits_the_terminal_and_has_its_command(base):
    p = rsr('plan', 'sft', 'pilot=20', *base, 'work_dir=w')
    assert p.returncode == 0, p.stderr
    text = p.stdout[p.stdout.index('levers'):]
    table, commands = text.split('\n\n')[:2]
    assert all(len(line) <= 100 for line in table.splitlines())
    for name in ('fixed n=16', 'early stop, step 4', 'auto', 'give up below 0.1', 'rows first, to 80%', 'even',
                 'hard first'):
        assert name in table
    numbers = re.findall(r'^ ?(\d+) rsr run sft ', commands, re.M)
    assert numbers == [str(i+1) for i in range(len(numbers))] and len(numbers) >= 7
    assert 'best mix' in table and 'dollars a row' in table and 'hardest' in table

@pytest.mark.parametrize('recipe,more,start', [
    ('sft', [], 'auto'), ('sft', [], 'early stop'), ('sft', ['goal.sft=200'], 'auto'),
    ('sft', ['budget.usd=3'], 'auto, rows'), ('dpo', [], 'auto'), ('kto', [], 'auto'),
    ('multi_sft', ['formatter.num_responses=3', 'sampling.max_rollouts=16'], 'auto')])
def test_a_run_comes_out_as_its_line_says(recipe, more, start, base):
    code, found, _ = shell('plan', recipe, 'pilot=40', *base, *more, 'work_dir=w')
    assert code == 0 and found['levers']['why'] is None
    stats = follow(line_of(found, start), found)
    check = stats['forecast']
    assert check['name'] == line_of(found, start)['name']
    for k in 'rows', 'usd':
        assert within(check[k]['forecast'], check[k]['actual'], .03), (k, check[k])

def test_stats_say_how_far_off_the_plan_was(base):
    _, found, _ = shell('plan', 'sft', 'pilot=30', *base, 'work_dir=w')
    assert 'forecast' not in shell('stats', 'w')[1]   # only the pilot so far
    follow(line_of(found, 'auto'), found)
    text = rsr('stats', 'w').stdout
    assert re.search(r'^forecast +auto$', text, re.M) and re.search(r'rows forecast \(95%: .*\), \d+ now', text), text
    rsr('run', 'sft', *base, 'work_dir=w', 'sampling.max_rollouts=20')
    assert 'none for the way in which this run was sampled' in rsr('stats', 'w').stdout

def test_a_goal_out_of_reach_is_said_with_what_is(base, server):
    server.set(rate=lambda p: .6 if int(p.split()[1])%2 else 0.)
    p = rsr('plan', 'sft', 'pilot=60', *base, 'goal.sft=290', 'work_dir=w')
    said = re.search(r'the goal of 290 rows cannot be reached: about (\d+) are', p.stdout)
    assert said and 120 <= int(said[1]) <= 190, p.stdout

def test_without_prices_samples_are_counted(here, server):
    write_jsonl('in.jsonl', rows(60))
    p = rsr('plan', 'sft', 'pilot=20', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w')
    assert 'samples a row' in p.stdout and 'dollars' not in p.stdout.split('levers')[1].split('\n\n')[0]

@pytest.mark.parametrize('options,why', [
    (['grpo', 'formatter.band=null'], 'need no samples'), (['sft', 'sampling.early_stop=false'], 'early_stop'),
    (['sft', 'formatter.pass_threshold={quantile: 0.5}'], 'pass_threshold')])
def test_why_there_is_no_table(options, why, base):
    code, found, _ = shell('plan', *options, 'pilot=5', *base, 'work_dir=w')
    assert why in found['levers']['why'] and found['levers']['lines'] == []

def test_an_interrupted_pilot_has_a_table_of_what_it_has(base):
    code, found, _ = shell('plan', 'sft', 'pilot=20', *base, 'budget.usd=0.2', 'work_dir=w')
    assert code == 3 and found['levers']['pilot'] <= 20 and found['levers']['lines']

def test_rows_held_out_are_not_in_train(base):
    _, whole, _ = shell('plan', 'sft', 'pilot=20', *base, 'work_dir=w')
    _, split, _ = shell('plan', 'sft', 'pilot=20', *base, 'work_dir=v', 'split.eval=0.5')
    ratio = line_of(split, 'auto')['rows'][0]/line_of(whole, 'auto')['rows'][0]
    assert .4 < ratio < .6

# ---- policies

def test_auto_takes_what_theory_says():
    d, most = Difficulty(((.6, .9),)), 16
    task = Task(lambda s, f: () if s else ((1, 0),), lambda s, f: int(s > 0), most)
    o = play(Policy(), d, draw_prompts(d, 20_000, most), task, Costs()).outcome()
    expected = sum(1-chance(.6, .9, 0, 0, k, 1) for k in range(most))
    assert o.samples == pytest.approx(20_000*expected, rel=.03)
    assert o.rows == pytest.approx(20_000*chance(.6, .9, 0, 0, most, 1), rel=.02)

def test_a_budget_is_never_passed_and_a_goal_ends_a_play():
    d = Difficulty(((.6, 1.2), (1.2, .6)), .7)
    prompts = draw_prompts(d, 1000, 16)
    task = Task(lambda s, f: () if s else ((1, 0),), lambda s, f: int(s > 0), 16)
    costs = Costs((1., 10.), (.5, 5.), (4, 4), (1., 1.), (8, 8), (.5, .5))
    for policy in (Policy(), Policy(step=4), Policy(order='rows'), Policy(order='even'), Policy(after=4),
                   Policy(rounds=4)):
        p = play(policy, d, prompts, task, costs, 500)
        assert p.outcome(budget=2000).usd <= 2000*(1+1e-9)
        assert p.outcome(goal=500).rows >= 500 and p.outcome(goal=500).usd <= p.outcome().usd
    assert not play(Policy(models=(0,)), d, prompts, task, costs).outcome(goal=999).reached

def test_pairs_of_one_model_cost_more_than_mixed_ones():
    d = Difficulty(((.6, 1.2), (1.2, .6)), .7)
    prompts, costs = draw_prompts(d, 2000, 16), Costs((1., 10.), (0., 0.), (1, 1), (1., 1.), (8, 8), (.5, .5))
    def cost(own):
        def needs(s, f):
            return () if s and f else ((int(not s), int(not f)),)
        task = Task(needs, lambda s, f: int(s > 0 and f > 0), 16, own=own)
        return play(Policy(order='rows'), d, prompts, task, costs).outcome(goal=1950).usd
    assert cost(True) > 1.05*cost(False)

# ---- keeping

def test_a_signature_ignores_defaults_and_sees_what_decides():
    plain = sampling_signature(load_recipe('sft'))
    same = ['sampling.early_stop=true', 'sampler.concurrent_requests=3']
    assert plain == sampling_signature(load_recipe('sft', same))
    for option in ('sampling.step_size=2', 'sampling.give_up=0.2', 'sampler.model=x', 'budget.usd=3',
                   'sampling.early_stop=false'):
        assert plain != sampling_signature(load_recipe('sft', [option])), option

def test_rows_beyond_a_goal_are_within():
    line = dict(name='a', signature=dict(goal=dict(sft=10)), rows=(10, 10, 10), usd=(1, .5, 2), hours=None)
    found = compare_plan(dict(rollouts=1, lines=[line]), line['signature'], dict(rows=12, usd=3., hours=1., rollouts=9))
    assert found['rows']['within'] and not found['usd']['within'] and 'hours' not in found

# ---- rows by difficulty

def test_quintiles_are_honest_under_early_stopping(here, server):
    "Early stops must not make prompts look easier than without them."
    server.set(rate=lambda p: int(p.split()[1])%5/5+.1)
    def hardest(name, **o):
        run = sample(rows(400), 'sft', base_url=server.base_url, work_dir=name, progress=False, **o)
        server.reset()
        return run.stats()['quintiles']
    stopped = hardest('a', step_size='auto', max_rollouts=32)
    whole = hardest('b', early_stop=False, max_rollouts=32)
    for q in stopped, whole:
        assert sum(q['prompts']) == pytest.approx(400) and all(60 < n < 100 for n in q['prompts'])
        assert sum(q['rows']['sft.jsonl']) == pytest.approx(400, abs=30)
    assert np.allclose(stopped['edges'], whole['edges'], atol=.08)

def test_quintiles_of_files_sum_to_their_rows(here, server):
    server.set(rate=lambda p: .95 if int(p.split()[1])%2 else .02)
    run = sample(rows(200), ['sft', 'kto'], base_url=server.base_url, work_dir='w', progress=False, max_rollouts=8,
                 split=dict(eval=.2))
    s = run.stats()
    for name in 'sft', 'kto':
        written = sum(v['rows'] for file, v in s['rows'].items() if file.removeprefix('eval/').startswith(name))
        assert sum(sum(v) for k, v in s['quintiles']['rows'].items() if k.startswith(name)) == pytest.approx(written)
    item = next(i for i in checklist(run)['items'] if i['key'] == 'difficulty')
    assert item['verdict'] == 'warn' and 'sampling.allocate=hard' in item['command']
    assert 'quintiles' in run.summary()
    frame = difficulty_data(run.rollouts)
    assert sum(frame['prompts']) == pytest.approx(200) and 80 < sum(frame['rows']['with a pass']) < 130

def test_few_prompts_have_no_quintiles(here, server):
    run = sample(rows(19), 'sft', base_url=server.base_url, work_dir='w', progress=False)
    assert 'quintiles' not in run.stats() and difficulty_data(run)['why']

# ---- a cascade

PRICES = dict(cheap=1., strong=10.)   # dollars a sample
MODELS = {name: dict(a=a, b=b, price=dict(prompt=0, completion=1e6*PRICES[name]/TOKENS[1]))
          for name, a, b in (('cheap', .6, 1.2), ('strong', 1.2, .6))}

@pytest.fixture
def two(here):
    "A server of two models, and the options of a run of 500 prompts on both."
    with Loopback(models=MODELS, seed=3) as s:
        write_jsonl('in.jsonl', rows(500))
        entries = [dict(model=m, price=MODELS[m]['price'], base_url=s.base_url, max_tokens=TOKENS[1]) for m in MODELS]
        d = dict(sampler=entries, verifier=dict(type='mcq-rlvr'), formatter=[dict(type='sft')],
                 sampling=dict(max_rollouts=32, step_size='auto'))
        (here/'recipe.yaml').write_text(json.dumps(d))
        yield s

def plan_two(*more):
    return shell('plan', 'recipe.yaml', 'data.input_path=in.jsonl', 'work_dir=w', *more)[1]

def test_a_pilot_tries_every_model_on_its_prompts(two):
    found = plan_two('pilot=20')
    store = Store(load_run('w').path, write=False)
    tried = store.db.execute('SELECT count(*) FROM rollouts GROUP BY prompt, sampler').fetchall()
    store.close()
    assert len(tried) == 40 and all(n >= 4 for n, in tried)
    assert found['levers']['rho'] > 0 and len(found['levers']['arms']) == 2 and found['levers']['models'] == [*MODELS]
    assert 'satisfied' not in found['forecast']   # the pilot asks more than the run will

@pytest.mark.parametrize('more,start', [([], 'cascade'), (['goal.sft=400'], 'cascade')])
def test_a_cascade_comes_out_as_its_line_says(two, more, start):
    found = plan_two('pilot=40', *more)
    cascade, strong = line_of(found, start), line_of(found, 'auto, strong')
    assert cascade['usd'][0] < strong['usd'][0]
    stats = follow(cascade, found)
    check = stats['forecast']
    assert check['name'] == cascade['name']
    assert within(check['rows']['forecast'], check['rows']['actual'], .1)   # what is in flight at the goal is used
    assert within(check['usd']['forecast'], check['usd']['actual'], .15), check['usd']

def test_one_model_alone_can_be_run_from_the_pilot(two):
    line = line_of(plan_two('pilot=10'), 'auto, strong')
    assert '"model": "strong"' in line['command']
    before = two.stats()['models']['cheap']['samples']
    follow(line, None)
    assert two.stats()['models']['cheap']['samples'] == before
