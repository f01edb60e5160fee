"Rounds: what a run knows of the one before, what it then samples, and what it writes."
import shutil
import sqlite3
import subprocess
import time

import pytest
from conftest import RSR, read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback

from rsr import load_run, sample
from rsr.data.types import RsrError
from rsr.exchange import import_rollouts
from rsr.rounds import rounds as compare

N = 24
RATES = {f'prompt {i}':(0., .5, 1.)[i%3] for i in range(100)}   # a third hopeless, a third mixed, a third solved

@pytest.fixture(scope='module')
def known():
    "A server whose pass rates are known."
    with Loopback(rate=RATES) as s:
        yield s

def first(server, data=None, recipe='sft', **kw):
    data, work_dir = rows(N) if data is None else data, kw.pop('work_dir', 'one')
    return sample(data, recipe, base_url=server.base_url, work_dir=work_dir, progress=False, **kw)

def table(run, sql):
    with sqlite3.connect(run.path/'run.db') as db:
        return db.execute(sql).fetchall()

def stops(run):
    return dict(table(run, 'SELECT id, stop FROM prompts ORDER BY key'))

def asked(run):
    sql = 'SELECT p.id, count(r.key) FROM prompts p LEFT JOIN rollouts r ON r.prompt=p.key GROUP BY 1'
    return dict(table(run, sql))

def kind(id_):
    return ('hopeless', 'mixed', 'solved')[int(id_[1:])%3]

# ---- the whole way

def test_a_round_from_the_shell(here, known):
    write_jsonl('in.jsonl', rows(N))
    p = rsr('run', 'sft', 'in.jsonl', f'sampler.base_url={known.base_url}', 'work_dir=out/one')
    assert p.returncode==0, p.stderr
    p = rsr('next', 'out/one', 'json=true')
    assert p.returncode==0, p.stderr
    two = load_run('out/one-2')
    assert [id_ for id_, stop in stops(two).items() if stop=='hopeless']==[f'q{i}' for i in range(0, N, 3)]
    assert all(n==(0 if kind(id_)=='hopeless' else 1) for id_, n in asked(two).items() if kind(id_)!='mixed')
    assert two.recipe['round']=={'after':'out/one'} and len(read_jsonl('out/one-2/train/sft.jsonl'))==2*N//3
    assert 'hopeless 8' in rsr('stats', 'out/one-2').stdout

# ---- what is sampled

def test_round_two_buys_less_for_the_same_rows(here, known):
    one = first(known, step_size='auto')
    two = one.next(progress=False)
    plain = first(known, work_dir='plain', step_size='auto')
    rows_of = [len(read_jsonl(run.path/'train'/'sft.jsonl')) for run in (two, plain)]
    bought = [run.stats()['samples']['asked'] for run in (two, plain)]
    assert rows_of[0]==rows_of[1]==2*N//3 and bought[0]<60 and bought[1]>16*N//3   # what is hopeless costs nothing
    assert two.stats()['round']=={'number':2, 'after':'one', 'known':N, 'solved':2*N//3-sum(
        n>1 and kind(id_)=='mixed' for id_, n in asked(one).items()), 'hopeless':N//3, 'trained':2*N//3}
    assert two.summary().startswith('round      2, after one: knew 24 prompts') and '8 skipped' in two.summary()

def test_a_solved_prompt_that_fails_goes_on(here):
    with Loopback(rate=1.) as s:
        one = first(s, rows(4), 'sft_dpo')
        s.set(rate=0.)
        two = one.next(progress=False, model='forgets')
        assert set(stops(two).values())=={'max_rollouts'} and set(asked(two).values())=={32}
        s.set(rate=1.)
        three = one.next(progress=False, work_dir='three')
        assert set(stops(three).values())=={'checked'} and set(asked(three).values())=={1}
        assert three.exit_code==4 and len(read_jsonl('three/train/sft.jsonl'))==4   # one sample makes no pair

def test_choices_for_solved_and_hopeless(here, known):
    one = first(known)
    skipped = one.next(progress=False, overrides=['round.solved=skip', 'round.return_after=1', 'work_dir=a'])
    assert {kind(i):stop for i, stop in stops(skipped).items() if stop!='satisfied' and kind(i)!='mixed'}=={
        'solved':'solved', 'hopeless':'max_rollouts'}
    every = one.next(progress=False, round=dict(solved='all', return_after=1), work_dir='b')
    assert not {'solved', 'hopeless', 'checked'} & set(stops(every).values())
    assert all(n==4 for i, n in asked(every).items() if kind(i)=='solved')
    assert {'solved', 'checked', 'hopeless'} & set(every.stats()['prompts']['by_stop_reason'])==set()

def test_hopeless_prompts_come_back_and_give_up_sooner(here, known):
    one = first(known, give_up=.1, step_size=1, max_steps=16, concurrent_requests=1)
    two = one.next(progress=False, round=dict(memory=1))
    three = two.next(progress=False)
    hopeless = [i for i, stop in stops(two).items() if stop=='hopeless']
    assert len(hopeless)>=N//3 and all(stops(three)[i]!='hopeless' for i in hopeless)
    before, after = asked(one), asked(three)
    assert sum(after[i] for i in hopeless)<sum(before[i] for i in hopeless), (before, after)
    assert (three.path.name, three.stats()['round']['number'])==('one-3', 3)

def test_a_round_after_a_run_of_an_older_layout(here, known):
    one = first(known, rows(6))
    with sqlite3.connect('one/run.db') as db:
        db.executescript('DROP INDEX rollouts_of_batch; DROP TABLE batches; ALTER TABLE rollouts DROP COLUMN batch; '
                         'ALTER TABLE calls DROP COLUMN batch; ALTER TABLE rollouts DROP COLUMN more; '
                         'PRAGMA user_version=2')
    two = load_run('one').next(progress=False)
    assert two.stats()['round']['known']==6 and [*stops(two).values()].count('hopeless')==2
    assert 'round 2: one-2' in str(compare([one, two])) and table(one, 'PRAGMA user_version')==[(2,)]

def test_places_that_are_freed_go_to_new_prompts(here, known):
    data = write_jsonl('in.jsonl', rows(60))
    one = first(known, data, overrides=['data.limit=12'])
    two = one.next(progress=False)
    fresh = [i for i in stops(two) if i not in stops(one)]
    busy = [i for i, stop in stops(two).items() if stop!='hopeless']
    solved = table(two, "SELECT count(*) FROM earlier WHERE solved>0")[0][0]
    assert set(stops(one))<=set(stops(two)) and len(fresh)==4+solved and len(busy)==12+solved
    again = sample(work_dir='one-2', progress=False)   # a resume takes the same ones
    assert stops(again)==stops(two) and asked(again)==asked(two)

def test_a_goal_and_a_cascade_go_by_what_is_known(here, known):
    one = first(known, step_size='auto', overrides=['sampler=[small, large]'], price=dict(prompt=1, completion=1))
    two = one.next(progress=False, goal=dict(sft=8))
    arms = [a for a, in table(two, 'SELECT arms FROM earlier')]
    assert all(a and len(eval(a))==2 for a in arms) and two.stats()['goal']['reached']
    assert two.stats()['samples']['asked']<=20 and two.exit_code==0

# ---- what is written

def test_rows_that_were_trained_on_are_left_out(here):
    texts = iter(range(10**6))
    with Loopback(reply=lambda body: [r'It is \boxed{A}.']*body.get('n', 1)) as s:
        one = first(s, rows(4))
        two = one.next(progress=False, round=dict(exclude_seen=True, solved='all'), max_rollouts=8)
        assert not (two.path/'train'/'sft.jsonl').exists() and set(asked(two).values())=={8}
        assert two.file_counts['sft.jsonl']['without_row']=={'all that passed is in the files of an earlier round':4}
        assert 'round.exclude_seen' in two.summary() and table(two, 'SELECT count(*) FROM trained')==[(4,)]
        s.set(reply=lambda body: [rf'{next(texts)}: \boxed{{A}}.' for _ in range(body.get('n', 1))])
        three = one.next(progress=False, round=dict(exclude_seen=True), work_dir='three')
        assert len(read_jsonl('three/train/sft.jsonl'))==4
        four = three.next(progress=False)
        assert table(four, 'SELECT count(*) FROM trained')==[(8,)]

def test_what_was_trained_on_is_known_in_every_process(here):
    "Texts are named by a hash that is the same in each process: Python's own is not."
    with Loopback(reply=lambda body: [r'It is \boxed{A}.']*body.get('n', 1)) as s:
        two = first(s, rows(3)).next(progress=False, round=dict(exclude_seen=True, solved='all'), max_rollouts=2)
        found = rsr('format', two.path, 'sft', env=dict(PYTHONHASHSEED='1'))
        assert found.returncode==4 and not (two.path/'train'/'sft.jsonl').exists(), found

def test_the_split_holds_whatever_comes_before(here, known):
    data = write_jsonl('in.jsonl', rows(40))
    one = first(known, data, split=dict(eval=.3))
    write_jsonl('in.jsonl', rows(20, start=100)+rows(40)[::-1])
    two = one.next(progress=False, round=dict(solved='all', return_after=1))
    def held_out(run):
        return {r['messages'][0]['content'] for r in read_jsonl(run.path/'eval'/'sft.jsonl')}
    def trained(run):
        return {r['messages'][0]['content'] for r in read_jsonl(run.path/'train'/'sft.jsonl')}
    assert held_out(one) and not held_out(one)&trained(two) and not trained(one)&held_out(two)

# ---- where it begins, and how it ends

def test_a_killed_round_goes_on(here):
    with Loopback(rate=RATES, median=.02) as s:
        one = first(s, rows(60), overrides=['sampling.max_rollouts=4'])
        args = [RSR, 'next', 'one', 'work_dir=two', 'sampling.max_rollouts=64', 'sampling.max_steps=16',
                'round.solved=all', 'round.return_after=1']
        p = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.time()+60
        while p.poll() is None and s.stats()['samples']<700 and time.time()<end:
            time.sleep(.005)
        p.kill()
        p.wait()
        shutil.rmtree(one.path)   # all that is needed of it is in the ledger
        done = sample(work_dir='two', progress=False)
    counts = done.stats()['samples']['by_outcome']
    assert p.returncode==-9 and 60<counts['kept'] and set(stops(done).values())<={'satisfied', 'max_rollouts'}
    assert done.stats()['round']=={'number':2, 'after':'one', 'known':60, **{
        k:done.stats()['round'][k] for k in ('solved', 'hopeless', 'trained')}} and done.stats()['round']['trained']>=20

def test_a_prompt_whose_revision_passed_is_not_hopeless(here):
    def reply(body):
        return '\\boxed{A}' if len(body['messages'])>1 and 'prompt 1' in str(body) else '\\boxed{B}'
    with Loopback(reply=reply) as s:
        one = first(s, rows(3), 'revised')
        two = one.next(progress=False)
    assert stops(one)=={'q0':'max_rollouts', 'q1':'satisfied', 'q2':'max_rollouts'}
    assert stops(two)=={'q0':'hopeless', 'q1':'satisfied', 'q2':'hopeless'}
    assert len(read_jsonl('one-2/train/dpo.jsonl'))==1

def test_a_budget_stops_a_round(here, known):
    one = first(known)
    two = one.next(progress=False, budget=dict(tokens=300))
    assert two.stop_reason=='budget' and two.exit_code==3
    with pytest.raises(RsrError, match='one that has not ended. Resume it: rsr run work_dir=one-2'):
        one.next()
    done = sample(work_dir='one-2', progress=False, overrides=['budget.tokens=null'])
    assert set(stops(done).values())=={'satisfied', 'hopeless'} and one.next(progress=False).path.name=='one-3'

def test_without_its_input_the_prompts_of_the_round_before_serve(here, known, capsys):
    data = write_jsonl('in.jsonl', rows(N))
    one = first(known, data)
    (here/'in.jsonl').unlink()
    two = one.next(progress=False)
    assert list(stops(two))==list(stops(one)) and 'no file in.jsonl' in capsys.readouterr().err

def test_a_round_whose_input_is_gone_resumes(here, known, capsys):
    one = first(known, write_jsonl('in.jsonl', rows(N)))
    (here/'in.jsonl').unlink()
    assert one.next(progress=False, budget=dict(tokens=300)).stop_reason=='budget'
    shutil.rmtree(one.path)
    capsys.readouterr()
    done = sample(work_dir='one-2', progress=False, overrides=['budget.tokens=null'])
    assert set(stops(done).values())=={'satisfied', 'hopeless'} and len(stops(done))==N
    assert 'no file in.jsonl' in capsys.readouterr().err

def test_the_round_after_an_import_samples(here, known):
    items = [dict(id=f'q{i}', prompt=f'prompt {i}', response='?', answer='A', score=i%3!=0) for i in range(6)]
    old = import_rollouts('jsonl', write_jsonl('log.jsonl', items), 'old', progress=False)
    with pytest.raises(RsrError, match='cannot score a new response'):
        old.next(model='m', base_url=known.base_url, progress=False)
    two = old.next(model='m', base_url=known.base_url, verifier='math-rlvr', progress=False)
    assert {kind(i):n for i, n in asked(two).items() if kind(i)!='mixed'}=={'hopeless':0, 'solved':1}

def test_a_mistyped_input_samples_nothing(here, known):
    one = first(known, write_jsonl('in.jsonl', rows(4)))
    for given in dict(prompts='inn.jsonl'), dict(overrides=['data.input_path=inn.jsonl']):
        with pytest.raises(RsrError, match='no file inn.jsonl in .*; nothing was sampled'):
            one.next(progress=False, **given)
    assert not (here/'one-2').exists()

def test_a_prompt_is_known_by_what_it_asks(here, known):
    one = first(known, rows(6))
    data = rows(6)
    data[0]['messages'][0]['content'] = 'prompt 40'   # another prompt under the id of a hopeless one
    data[3]['metadata']['answer'] = 'B'               # another reference answer
    data[2]['id'] = 'new'                             # another id
    two = one.next(data, progress=False)
    assert stops(two)['q0']!='hopeless' and stops(two)['q3']=='satisfied' and asked(two)['new']==1
    assert two.stats()['round']['known']==4

def test_what_cannot_be_the_round_before_is_refused(here, known):
    one = first(known, rows(4))
    for path, said in ('none', 'no run here'), ('new', 'directory of this run itself'):
        with pytest.raises(RsrError, match=said):
            first(known, rows(4), work_dir='new', overrides=[f'round.after={path}'])
        assert not (here/'new').exists()
    wrong = {'round.memory=1.5':'round.memory: 1.5 is not in 0 to 1',
             'round.solved=never':'Allowed: all, one, skip', 'work_dir=one':'of this run itself'}
    for option, said in wrong.items():
        with pytest.raises(RsrError, match=said):
            one.next(overrides=[option], progress=False)
    (here/'one'/'run.db').write_bytes(b'no database')
    p = rsr('next', 'one')
    assert p.returncode==2 and 'is not an SQLite database' in p.stderr and not (here/'one-2').exists()
    assert 'no run here' in rsr('next', 'nowhere').stderr

def test_another_run_cannot_take_the_place_of_the_one_before(here, known):
    one = first(known, rows(4))
    two = one.next(progress=False)
    first(known, rows(4), work_dir='other')
    for work_dir, said in (two.path, 'came after one'), ('other', 'holds a run that began without it'):
        with pytest.raises(RsrError, match=said):
            sample(work_dir=work_dir, round=dict(after='other' if work_dir==two.path else 'one'), progress=False)

def test_a_round_that_trains_on_what_was_held_out_says_so(here, known, capsys):
    one = first(known, rows(12), split=dict(eval=.4))
    one.next(progress=False, overrides=['split=null'])
    assert 'held out more prompts' in capsys.readouterr().err
    one.next(progress=False)
    assert 'held out' not in capsys.readouterr().err
