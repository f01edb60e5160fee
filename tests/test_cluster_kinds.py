"""Pairs, existing responses, batches, rounds and revisions on Ray: as on one machine, whoever dies.

Each recipe is run on one machine first, against the same server with the same draws."""
import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from conftest import at_length, rows, write_jsonl
from loopback import Loopback
from loopback_batch import BatchLoopback
from test_batch import asked_samples, check_whole
from test_cluster import PATTERN, driver, figures, holders, interrupted, killed, spread, start, wait_for
from test_pairs import CASES, VERIFIER, Model, options, questions

from rsr import load_run
from rsr.data.types import RsrError
from rsr.run.execution import execute
from rsr.run.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('cluster')]
pytest.importorskip('ray', reason="needs pip install 'ray[data]' pyarrow")
def on_ray(d, **cluster):
    return {**d, 'engine':'ray', 'cluster':{**dict(actors=2, block=4), **cluster}}

def recipe(server, work, *more, name='sft', **sections):
    pairs = [('sampler.base_url', server.base_url), ('sampler.model', 'm'), ('sampler.concurrent_requests', 12),
             ('data.input_path', 'in.jsonl'), ('work_dir', str(work)), *more]
    return load_recipe({**dict(formatter=[dict(type=name)]), **sections}, pairs)

def query(sql, *args, work='w'):
    with closing(sqlite3.connect(f'{work}/run.db')) as db:
        return db.execute(sql, args).fetchall()

def files(work):
    return {p.name:sorted(p.read_text().splitlines()) for p in Path(work, 'train').glob('*.jsonl')}

SAME = 'prompts', 'samples', 'scores', 'tokens', 'rows', 'pairs', 'revisions', 'pass_rate', 'cost'

def same(one, many):
    "Two runs have the same files and figures."
    a, b = load_run(one).stats(), load_run(many).stats()
    for k in SAME:
        assert a.get(k)==b.get(k), k
    assert files(one)==files(many)
    assert not Path(many, 'blocks').exists()
    return b

# ---- pairs

OTHERS = [pytest.param(case, marks=at_length) for case in (*CASES, 'by rule') if case!='flawed']

@pytest.mark.parametrize('case', ['flawed', *OTHERS])
def test_pairs_are_those_of_one_machine(here, case):
    name, more = ('flawed', ['pairs.by=rule']) if case=='by rule' else (case, CASES[case])
    Path('v.py').write_text(VERIFIER)
    Path('ref.txt').write_text('The warranty lasts two years.')
    Path('own.yaml').write_text('too_verbose: {description: Long., prompt: REWRITE it at length.}')
    write_jsonl('in.jsonl', questions(8))
    for work in 'one', 'many':
        with Loopback(reply=Model()) as s:
            d = load_recipe(name, options(s, *more, f'work_dir={here/work}', 'sampling.step_size=1'))
            execute(d, progress=False) if work=='one' else spread(on_ray(d))
            bought = s.stats()['samples']
            if work=='many' and case in ('temperature', 'flawed'):
                spread(on_ray(d))
                assert s.stats()['samples']==bought      # nothing is bought twice
    found = same('one', 'many')
    assert found['samples']['asked']==bought or name=='flawed'
    assert found['pairs']['dpo']['pairs']>=6 or case=='by rule'
    side = "SELECT value FROM meta WHERE key='sides'"
    assert bool(query(side, work='one'))==bool(query(side, work='many'))

@at_length
def test_pairs_survive_their_actor(here):
    Path('v.py').write_text(VERIFIER)
    write_jsonl('in.jsonl', questions(24))
    model = Model()
    with Loopback(reply=model, median=.05) as s:
        d = on_ray(load_recipe('temperature', options(s, f'work_dir={here/"w"}', 'sampling.step_size=1')), block=12)
        t, out = start(d)
        wait_for(lambda: any(b['temperature']==1.2 for b in model.bodies) and holders('w'))   # the second side
        os.kill(min(holders('w')), signal.SIGKILL)
        t.join(90)
        assert out and out[0].stop_reason is None, out
        by = figures('w')['samples']['by_outcome']
        assert by['kept']+by.get('lost', 0)>=s.stats()['samples']>=by['kept']
    assert figures('w')['pairs']['dpo']['pairs']==24

# ---- what the input brings

RIGHT, WRONG = r'It is \boxed{A}.', r'It is \boxed{B}.'

def with_responses(n):
    return [{**row, 'generations':[RIGHT, WRONG][:i%3] or None} for i, row in enumerate(rows(n))]

def test_existing_responses_come_along(here, server):
    write_jsonl('in.jsonl', with_responses(11))
    more = ('data.responses', 'generations'), ('sampling.step_size', 1)
    execute(recipe(server, here/'one', *more, name='dpo'), progress=False)
    bought = server.stats()['samples']
    server.reset()
    d = on_ray(recipe(server, here/'many', *more, name='dpo'))
    spread(d)
    assert server.stats()['samples']==bought
    s = same('one', 'many')
    assert s['samples']['given']==dict(kept=10)
    # again: nothing is taken or bought twice; then a file with one more, of a block that was finished
    server.reset()
    spread(d)
    assert server.stats()['requests']==0 and load_run('many').stats()['samples']==s['samples']
    more = with_responses(11)
    more[0]['generations'] = ['and another']
    write_jsonl('in.jsonl', more)
    spread(d)
    assert load_run('many').stats()['samples']['given']==dict(kept=11) and server.stats()['requests']==0

@at_length
def test_rows_of_a_prompt_are_one_and_the_last_turn_is_its_response(here, server):
    def row(i, text):
        turns = [dict(role='user', content=f'prompt {i}'), dict(role='assistant', content=text)]
        return dict(id=f'q{i}', messages=turns, metadata=dict(answer='A'))
    Path('in').mkdir()
    write_jsonl('in/a.jsonl', [row(i, RIGHT) for i in range(6)])
    write_jsonl('in/b.jsonl', [row(i, WRONG) for i in range(6)])     # of the same prompts, in another file
    more = ('data.input_path', 'in'), ('data.group_by', 'id'), ('data.last_turn', 'response')
    execute(recipe(server, here/'one', *more, name='dpo'), progress=False)
    spread(on_ray(recipe(server, here/'many', *more, name='dpo')))
    assert same('one', 'many')['samples']['given']==dict(kept=12) and server.stats()['requests']==0
    more = ('data.input_path', 'in/a.jsonl'), ('data.last_turn', 'response')
    spread(on_ray(recipe(server, here/'third', *more, ('sampling.max_rollouts', 0))))
    assert load_run('third').stats()['samples']['given']==dict(kept=6) and server.stats()['requests']==0

def test_responses_are_for_no_side(here, server):
    write_jsonl('in.jsonl', with_responses(2))
    with pytest.raises(RsrError, match='belong to neither side of temperature'):
        recipe(server, here/'w', ('data.responses', 'generations'), name='dpo', pairs=dict(strategy='temperature'))

# ---- rounds

def test_a_round_comes_after_a_run_in_blocks(here, server):
    server.set(rate={f'prompt {i}':[0., 1., .5][i%3] for i in range(12)})
    write_jsonl('in.jsonl', rows(12))
    sampling = ('sampling.max_rollouts', 4), ('sampling.step_size', 2)
    split = dict(split=dict(eval=.3, near=False))
    spread(on_ray(recipe(server, here/'first', *sampling, **split)))
    after = (*sampling, ('round.after', str(here/'first')), ('round.exclude_seen', True))
    server.reset()
    execute(recipe(server, here/'one', *after, **split), progress=False)
    server.reset()
    d = on_ray(recipe(server, here/'many', *after, **split))
    spread(d)
    s = same('one', 'many')
    assert s['round']['number']==2 and s['round']['known']==12
    stops = query('SELECT id, stop FROM prompts ORDER BY key', work='many')
    assert stops==query('SELECT id, stop FROM prompts ORDER BY key', work='one')
    assert {'hopeless', 'checked'} & {stop for _, stop in stops}
    for table in 'earlier_known', 'earlier_of', 'trained', 'split_groups', 'earlier':
        every = f'SELECT * FROM {table}'
        assert sorted(map(str, query(every, work='many')))==sorted(map(str, query(every, work='one'))), table
    server.reset()
    spread(d)                                                        # it is resumed, and its index made again
    Path('many/run.db').unlink()
    spread(d)
    assert server.stats()['samples']==0 and figures('many')['rows']==s['rows']
    # a third one, after a round in blocks, without an input of its own
    more = ('round.after', str(here/'many')), ('data.input_path', '???')
    spread(on_ray(recipe(server, here/'third', *sampling, *more, **split)))
    assert load_run('third').stats()['round']['number']==3

# ---- revisions

def test_revisions_and_their_critic(here):
    def reply(body):
        user = body['messages'][-1]['content']
        if body.get('model')=='critic':
            return 'The letter is wrong.'
        number, revised = int(body['messages'][0]['content'].split()[-1]), len(body['messages'])>1
        return RIGHT if revised and number%2 or number%5==0 else WRONG+(' '+user[-5:])*revised
    write_jsonl('in.jsonl', rows(11))
    more = (('verifier.type', 'math-rlvr'), ('sampling.max_rollouts', 1), ('refine.rounds', 2),
            ('refine.critique.model', 'critic'), ('refine.critique.price', dict(prompt=3, completion=9)),
            ('sampler.price', dict(prompt=1, completion=2)))
    for work in 'one', 'many':
        with Loopback(reply=reply) as s:
            d = recipe(s, here/work, *more)
            execute(d, progress=False) if work=='one' else spread(on_ray(d))
            sent = len(s.log)
            if work=='many':
                spread(on_ray(d))
                assert len(s.log)==sent
                # all blocks are opened again: what the critic said is known
                spread(on_ray({**d, 'formatter':[{**d['formatter'][0], 'pass_threshold':.9}]}))
                assert len(s.log)==sent
    found = same('one', 'many')
    assert found['revisions']['passed']==4 and query("SELECT count(*) FROM calls WHERE kind='critique'", work='many')

# ---- batches

@pytest.fixture
def batches():
    with BatchLoopback(delay=.2) as s:
        yield s

IN_BATCHES = ('sampler.batch', True), ('sampler.price', dict(prompt=1, completion=2)), ('sampling.step_size', 'auto')

def whole(server, work='w'):
    check_whole(server, work)
    outcomes = dict(query('SELECT outcome, count(*) FROM rollouts GROUP BY 1', work=work))
    assert sum(asked_samples(server).values())==sum(outcomes.values())
    s = load_run(work).stats()
    assert s['cost']==pytest.approx((s['tokens']['prompt']+2*s['tokens']['completion'])/2e6)   # at half the price
    return s

def test_batches_are_those_of_one_machine(here, batches):
    write_jsonl('in.jsonl', rows(20))
    more = ('sampler.batch', True), ('sampling.step_size', 2), ('sampling.max_rollouts', 4)
    execute(recipe(batches, here/'one', *more), progress=False)
    batches.reset()
    d = on_ray(recipe(batches, here/'many', *more), block=5)
    spread(d)
    s = same('one', 'many')
    check_whole(batches, 'many')
    assert batches.stats()['requests']==0 and s['batches']['batches']==len(batches.batches)>=4
    n = len(batches.batches)
    spread(d)
    assert len(batches.batches)==n

@at_length
def test_judges_answer_in_batches(here, batches):
    write_jsonl('in.jsonl', rows(8))
    more = (*IN_BATCHES, ('verifier.type', 'mcq-llm-as-judge'), ('verifier.model', 'j'), ('verifier.batch', True),
            ('verifier.base_url', batches.base_url), ('sampling.max_rollouts', 2))
    spread(on_ray(recipe(batches, here/'w', *more)))
    kinds = Counter(kind for kind, in query('SELECT kind FROM batches'))
    assert kinds['judge']>=2 and kinds['sampler']>=2 and batches.stats()['requests']==0
    judged = query('SELECT count(*), count(batch) FROM calls')[0]
    assert judged[0]==judged[1]>0 and query('SELECT count(*) FROM batches WHERE ended IS NULL')==[(0,)]

@at_length
def test_an_actor_dies_while_its_batches_are_at_the_provider(here, batches):
    write_jsonl('in.jsonl', rows(24))
    batches.set(delay=None)
    t, out = start(on_ray(recipe(batches, here/'w', *IN_BATCHES), block=6, actors=1))
    wait_for(lambda: len(batches.batches)==4 and len([*Path('w/blocks').glob('[0-9]*/run.db')])==4)
    wait_for(lambda: not [*Path('w/blocks').glob('*/batches/*.jsonl')])       # all of them are noted
    holder, = holders('w')
    os.kill(holder, signal.SIGKILL)
    batches.set(delay=.2)
    t.join(120)
    assert out and getattr(out[0], 'stop_reason', 0) is None, out
    assert whole(batches)['prompts']['total']==24 and not Path('w/blocks').exists()

def test_the_driver_dies_or_hears_ctrl_c_and_leaves_its_batches(here, batches, cluster):
    write_jsonl('in.jsonl', rows(12))
    batches.set(delay=None)
    d = on_ray(recipe(batches, here/'w', *IN_BATCHES, PATTERN), block=6, address=cluster.address)
    _, err = killed(driver(d), lambda: len(batches.batches)==2)
    assert len(batches.batches)==2, err
    seen = len(batches.routes)
    err = interrupted(driver(d), lambda: len(batches.routes)>=seen+4)   # it asks how they are
    assert 'The 2 batches go on at' in err and len(batches.batches)==2
    batches.set(delay=.2)
    run = spread(d)
    assert run.stop_reason is None and whole(batches)['samples']['by_outcome'].get('lost', 0)==0

@at_length
def test_a_run_leaves_its_batches_and_collects_them(here, batches):
    write_jsonl('in.jsonl', rows(24))
    batches.set(delay=None)
    d = on_ray(recipe(batches, here/'w', *IN_BATCHES, ('sampling.max_rollouts', 2)), block=4)
    d = load_recipe(dict(d))
    d.detach = True
    run = spread(d)
    assert run.stop_reason=='detached' and '6 batches' in run.message and 'collects' in run.message
    assert load_run('w').stats()['batches']['waiting']==6==len(batches.batches)
    with pytest.raises(RsrError, match='6 batches wait for answers'):
        spread({**d, 'sampler':{**d['sampler'], 'batch':None}})
    batches.set(delay=.1)
    d.detach = False
    assert spread(d).stop_reason is None
    whole(batches)

def test_one_budget_for_all_batches(here, batches):
    write_jsonl('in.jsonl', rows(12))
    batches.set(rate=0.)
    more = (*IN_BATCHES, ('sampler.max_tokens', 64), ('sampling.max_rollouts', 4), ('sampling.step_size', 2))
    run = spread(on_ray({**recipe(batches, here/'w', *more), 'budget':dict(tokens=900)}, block=6))
    t = whole(batches)['tokens']
    assert run.stop_reason=='budget' and 400<t['prompt']+t['completion']<=1000, run.message
    n = batches.batch_sold['samples']
    again = spread(on_ray({**recipe(batches, here/'w', *more), 'budget':dict(tokens=900)}, block=6))
    assert again.stop_reason=='budget' and batches.batch_sold['samples']<=n+4
    assert spread(on_ray(recipe(batches, here/'w', *more), block=6)).stop_reason is None
    assert whole(batches)['samples']['by_outcome']['kept']==12*4
