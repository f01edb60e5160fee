"""Goals, cascades, the order of samples and panels of judges on Ray: as on one machine, whoever dies.

Each recipe is run on one machine first, against the same server with the same draws."""
import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import at_length, rows, write_jsonl
from loopback import Loopback
from loopback_batch import BatchLoopback
from test_cluster import PATTERN, driver, holders, interrupted, killed, spread, start, wait_for
from test_rubric import MINE, by_rule

from rsr import load_run
from rsr.run.execution import execute
from rsr.run.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('cluster')]
pytest.importorskip('ray', reason="needs pip install 'ray[data]' pyarrow")
SLOTS = 12

SFT = dict(type='sft'),

def recipe(server, work, *options, formatter=SFT):
    return load_recipe(dict(formatter=list(formatter)), [
        ('data.input_path', 'in.jsonl'), *options, ('sampler.base_url', server.base_url),
        ('sampler.concurrent_requests', SLOTS), ('work_dir', work)])

def on_ray(d, **cluster):
    return {**d, 'engine':'ray', 'cluster':{**dict(actors=2, block=50), **cluster}}

def both(server, *options, **kw):
    "The statistics of the same recipe on one machine, and on Ray."
    execute(recipe(server, 'one', *options, **kw), progress=False)
    server.reset()
    spread(on_ray(recipe(server, 'many', *options, **kw)))
    return load_run('one').stats(), load_run('many').stats()

def query(sql, work='many'):
    with closing(sqlite3.connect(f'{work}/run.db')) as db:
        return db.execute(sql).fetchall()

def balanced(server, work='many'):
    "What the server gave is in the ledger once; return the samples that are lost."
    kinds = "count(*), count(DISTINCT prompt||'/'||text)"
    (kept, texts), = query(f"SELECT {kinds} FROM rollouts WHERE outcome='kept'", work)
    lost = query("SELECT count(*) FROM rollouts WHERE outcome='lost'", work)[0][0]
    assert texts==kept<=server.stats()['samples']<=kept+lost
    assert query("SELECT count(*) FROM rollouts WHERE outcome IS NULL", work)==[(0,)]
    return lost

def lines(work='many', file='sft.jsonl'):
    return len(Path(work, 'train', file).read_text().splitlines())

# ---- goals

@pytest.mark.parametrize('formatter,goal', [
    ([dict(type='kto')], {'goal':120}),
    ([dict(type='sft'), dict(type='dpo')], {'goal.sft':60, 'goal.dpo':40})])
def test_a_goal_is_reached_and_not_passed(here, server, formatter, goal):
    write_jsonl('in.jsonl', rows(400))
    server.set(median=.05)   # slower than the driver's heartbeats, as models are
    one, many = both(server, *goal.items(), formatter=formatter)
    assert many['goal']['reached'] and not balanced(server)
    for file, of in many['goal']['files'].items():
        extra = of['rows']-of['goal']
        assert extra>=0 and lines(file=file)==of['rows']
        # what is in flight when the goal is reached is used; of several files, the one that comes easily gets more
        # rows than it needs from samples for the other, on one machine too
        assert extra<=one['goal']['files'][file]['rows']-of['goal']+SLOTS
    # beside what is in flight: each actor takes the best prompt of its block, up to a tenth below the best of the run
    assert many['samples']['asked']<=1.1*one['samples']['asked']+2*SLOTS
    assert many['goal']['unopened']>0 and set(many['prompts']['by_stop_reason'])<={'satisfied', 'open', 'max_rollouts'}

@at_length
def test_a_goal_survives_its_actor_and_is_raised(here, server):
    server.set(median=.03)
    write_jsonl('in.jsonl', rows(300))
    t, out = start(on_ray(recipe(server, 'many', ('goal', 80))))
    wait_for(lambda: server.stats()['samples']>50 and holders('many') or out)
    for pid in sorted(holders('many'))[:1]:
        os.kill(pid, signal.SIGKILL)
    t.join(120)
    assert out and out[0].stop_reason is None, out
    assert 80<=lines()<=80+SLOTS and balanced(server)<=SLOTS
    asked = server.stats()['samples']
    spread(on_ray(recipe(server, 'many', ('goal', 80))))
    assert server.stats()['samples']==asked            # it is there: nothing is opened
    few = load_run('many').stats()
    run = spread(on_ray(recipe(server, 'many', ('goal', 150), ('budget.tokens', 6_000))))
    assert run.stop_reason=='budget' and lines()<150
    run = spread(on_ray(recipe(server, 'many', ('goal', 150))))
    assert run.stop_reason is None and 150<=lines()<=150+SLOTS
    assert run.stats()['samples']['asked']>few['samples']['asked'] and balanced(server)<=SLOTS
    assert query("SELECT count(*) FROM prompts WHERE stop='budget'")==[(0,)]

def test_a_goal_survives_its_driver_and_ctrl_c(here, server, cluster):
    server.set(median=.1)
    write_jsonl('in.jsonl', rows(400))
    d = on_ray(recipe(server, 'many', ('goal', 200), PATTERN), address=cluster.address)
    asked = lambda: server.stats()['samples']
    _, err = killed(driver(d), lambda: asked()>40 and holders('many'))
    assert 40<asked(), err
    before = asked()
    interrupted(driver(d), lambda: asked()>before+40)
    lost = balanced(server)
    assert before+40<asked() and lost<=2*SLOTS and lines()<200
    server.set(median=0.)
    assert spread(d).stop_reason is None
    assert 200<=lines()<=200+SLOTS and balanced(server)==lost
    goal = load_run('many').stats()['goal']
    assert goal['reached'] and goal['files']['sft.jsonl']['rows']==lines()
    assert query('SELECT max(n) FROM (SELECT count(*) n FROM rollouts GROUP BY prompt)')[0][0]<=16+lost

@at_length
def test_rows_held_out_do_not_count_and_all_prompts_may_be_too_few(here, server):
    server.set(rate=1.)
    write_jsonl('in.jsonl', rows(120))
    _, many = both(server, ('goal', 60), ('split.eval', .3))
    assert many['goal']['reached'] and 60<=lines()<=60+SLOTS and lines()<query(
        "SELECT count(*) FROM prompts WHERE stop='satisfied'")[0][0]
    server.reset()
    server.set(rate=0.)
    spread(on_ray(recipe(server, 'few', ('goal', 60), ('sampling.max_rollouts', 2))))
    goal = load_run('few').stats()['goal']
    assert not goal['reached'] and goal['files']['sft.jsonl']['reach']==0 and not goal['unopened']
    assert server.stats()['samples']==240 and not Path('few/blocks').exists()

# ---- the order of samples

@at_length
@pytest.mark.parametrize('order', ['even', 'hard'])   # rows: goals, and the cascade with a budget
def test_a_budget_buys_as_many_rows_as_on_one_machine(here, server, order):
    write_jsonl('in.jsonl', rows(200))
    one, many = both(server, ('sampling.allocate', order), ('budget.tokens', 15_000))
    rows_of = lambda s: s['rows']['sft.jsonl']['rows']
    assert rows_of(many)>=.92*rows_of(one)-2 and not balanced(server)
    assert many['samples']['asked']<=1.02*one['samples']['asked']+SLOTS
    asked = query('SELECT count(*) FROM rollouts GROUP BY prompt')
    if order=='even':   # nobody is sampled often while others are not sampled at all
        assert len(asked)==200

# ---- cascades

PRICES = dict(small=dict(prompt=1, completion=1), large=dict(prompt=10, completion=10))
MODELS = dict(small=dict(a=.6, b=1.2, price=PRICES['small']), large=dict(a=1.2, b=.6, price=PRICES['large']))
CASCADE = ('sampler', dict(cascade=[dict(model=m, price=p) for m, p in PRICES.items()]))

def spent(stats):
    return {model:s['usd'] for model, s in stats['samplers'].items()}

def test_a_cascade_costs_what_it_costs_on_one_machine(here):
    write_jsonl('in.jsonl', rows(150))
    with Loopback(models=MODELS) as s:
        one, many = both(s, CASCADE, formatter=[dict(type='sft', columns=['model'])])
        assert set(spent(one))==set(spent(many))=={'small', 'large'} and not balanced(s)
        assert sum(spent(many).values())==pytest.approx(many['cost'])
        assert many['rows']['sft.jsonl']['rows']>=.97*one['rows']['sft.jsonl']['rows']
        assert sum(spent(many).values())<=1.15*sum(spent(one).values())
        models = {json.loads(line)['model'] for line in Path('many/train/sft.jsonl').open()}
        assert models=={'small', 'large'} and s.stats()['max_inflight']<=2*SLOTS
        asked = s.stats()['samples']
        spread(on_ray(recipe(s, 'many', CASCADE, formatter=[dict(type='sft', columns=['model'])])))
        assert s.stats()['samples']==asked        # finished blocks are skipped

def test_a_cascade_buys_as_much_with_a_budget_as_on_one_machine(here):
    write_jsonl('in.jsonl', rows(150))
    with Loopback(models=MODELS) as s:
        one, many = both(s, CASCADE, ('budget.usd', .06))
        assert many['rows']['sft.jsonl']['rows']>=.95*one['rows']['sft.jsonl']['rows'] and not balanced(s)
        assert .05<many['cost']<=.06+2*SLOTS*1500e-6
        assert query("SELECT count(DISTINCT prompt) FROM rollouts")[0][0]>=.9*query(
            "SELECT count(DISTINCT prompt) FROM rollouts", 'one')[0][0]

@at_length
def test_a_cascade_by_number_is_that_of_one_machine(here):
    write_jsonl('in.jsonl', rows(60))
    with Loopback(models=MODELS) as s:
        options = CASCADE, ('sampling.escalate.after', 4), ('sampling.step_size', 2)
        one, many = both(s, *options)
        for k in 'prompts', 'samples', 'rows', 'samplers':
            assert one[k]==many[k], k
        one_lines, many_lines = (sorted(Path(w, 'train/sft.jsonl').open()) for w in ('one', 'many'))
        assert one_lines==many_lines

@at_length
def test_a_model_that_is_gone_leaves_its_prompts_for_a_resume(here):
    write_jsonl('in.jsonl', rows(60))
    def reply(body):
        return (404, dict(error=dict(message='no such model', type='x', param=None, code='model_not_found'))) \
            if body['model']=='large' and gone else None
    gone = True
    with Loopback(models=MODELS, reply=reply) as s:
        d = on_ray(recipe(s, 'many', CASCADE, ('sampling.escalate.after', 4)))
        with pytest.raises(Exception, match='large: .*wait for a resume'):
            spread(d)
        assert query("SELECT count(*) FROM prompts WHERE stop IS NULL")[0][0]>0
        small = query("SELECT count(*) FROM rollouts WHERE outcome='kept'")[0][0]
        gone = False
        assert spread(on_ray(recipe(s, 'many', CASCADE, ('sampling.escalate.after', 4)))).stop_reason is None
        assert query("SELECT count(*) FROM prompts WHERE stop IS NULL")==[(0,)]
        assert query("SELECT count(*) FROM rollouts WHERE outcome='kept'")[0][0]>small

# ---- panels

def priced(work, prices):
    "What each judge's calls cost, by the tokens in the ledger and the prices of the recipe."
    sql = ("SELECT json_extract(c.config, '$.model'), sum(prompt_tokens), sum(completion_tokens) "
           'FROM calls t JOIN configs c ON c.key=t.config GROUP BY 1')
    used = {model:(p, n) for model, p, n in query(sql, work)}
    return sum((p*prices[model]['prompt']+n*prices[model]['completion'])/1e6 for model, (p, n) in used.items())

def test_each_judge_of_a_panel_and_of_a_stage_has_its_price(here, server):
    write_jsonl('in.jsonl', rows(40))
    prices = dict(a=dict(prompt=1, completion=2), b=dict(prompt=30, completion=40), c=dict(prompt=500, completion=600))
    rubric = {**MINE, 'criteria':[{**c, 'gate':False} for c in MINE['criteria']]}
    def reply(body):
        if 'You judge one response' in body['messages'][0]['content']:
            return by_rule(body)
        return 'It says A.\nANSWER: A'
    with Loopback(reply=reply) as judge:
        panel = dict(name='panel', type='rubric', rubric=rubric, base_url=judge.base_url,
                     judges=[dict(model=m, price=prices[m]) for m in 'ab'])
        letter = dict(name='letter', type='mcq-llm-as-judge', model='c', price=prices['c'], base_url=judge.base_url)
        options = (('verifier', [letter, panel]), ('sampler.price', dict(prompt=0, completion=0)),
                   ('sampling.max_rollouts', 2), ('sampler.model', 'm'))
        one, many = both(server, *options, ('budget.usd', 100))
        assert {m for m, in query("SELECT json_extract(config, '$.model') FROM configs WHERE kind='judge'")}=={*'abc'}
        for work, stats in (('one', one), ('many', many)):
            assert stats['cost']==pytest.approx(priced(work, prices))
        limit = priced('many', prices)/2
        run = spread(on_ray(recipe(server, 'half', *options, ('budget.usd', limit))))
        assert run.stop_reason=='budget' and priced('half', prices)<=1.15*limit

@at_length
def test_votes_of_a_majority_are_those_of_one_machine(here, server):
    write_jsonl('in.jsonl', [{k:v for k, v in row.items() if k!='metadata'} for row in rows(40)])
    one, many = both(server, ('verifier.type', 'majority'), ('sampling.max_rollouts', 8))
    for k in 'prompts', 'samples', 'scores', 'rows':
        assert one[k]==many[k], k

@at_length
def test_a_pilot_tries_every_model(here):
    write_jsonl('in.jsonl', rows(30))
    with Loopback(models=MODELS) as s:
        execute(on_ray(recipe(s, 'many', CASCADE)), progress=False, choose=lambda store: [1, 2, 3, 4])
        sql = "SELECT count(DISTINCT sampler), count(*) FROM rollouts WHERE outcome='kept' GROUP BY prompt"
        assert all(models==2 and n>=8 for models, n in query(sql)) and len(query(sql))==4

def test_a_goal_in_batches(here):
    write_jsonl('in.jsonl', rows(60))
    with BatchLoopback(delay=.2) as s:
        options = ('goal', 20), ('sampler.batch', True), ('sampler.model', 'm'), ('sampling.step_size', 'auto')
        spread(on_ray(recipe(s, 'many', *options), block=20))
        stats = load_run('many').stats()
        assert stats['goal']['reached'] and lines()>=20 and not stats['samples']['by_outcome'].get('lost')
        asked = stats['samples']['asked']
        spread(on_ray(recipe(s, 'many', *options), block=20))
        assert load_run('many').stats()['samples']['asked']==asked
