"""Revisions: a second chance for what failed narrowly, and how far it is kept apart from first answers.

Real loopback servers, real ledgers. The server answers a first request wrongly, and a revision rightly or not."""
import asyncio
import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from conftest import read_jsonl, rows
from loopback import Loopback

from rsr import load_run, sample
from rsr.data.types import RsrError, RunBroken
from rsr.pairs import read_pairs

WRONG, RIGHT = r'It is \boxed{B}', r'It is \boxed{A}'

def is_revision(body):
    return body['messages'][-1]['role']=='user' and any(m['role']=='assistant' for m in body['messages'])

def answers(first=WRONG, revised=RIGHT):
    "A server whose first answers and revisions are these texts, or functions of the request's body."
    def reply(body):
        text = revised if is_revision(body) else first
        return text(body) if callable(text) else text
    return reply

def number(body):
    "The number of the prompt: 'prompt 7' is 7."
    return int(body['messages'][0]['content'].rsplit(' ', 1)[1].rstrip('?'))

OPTIONS = {'verifier.type':'math-rlvr', 'sampling.max_rollouts':2, 'sampling.step_size':2, 'refine.rounds':1}

def run(server, recipe='sft', n=6, work_dir='w', **options):
    return sample(rows(n), recipe=recipe, base_url=server.base_url, model='m', work_dir=work_dir, progress=False,
                  **{**OPTIONS, **options})

def ledger(query, work_dir='w'):
    with closing(sqlite3.connect(f'{work_dir}/run.db')) as db:
        return db.execute(query).fetchall()

def sent(server, revisions=True):
    return [e['body'] for e in server.log if e.get('body') and is_revision(e['body'])==revisions]

# ---- the whole path

def test_only_what_first_answers_left_unsatisfied_is_revised(here):
    def first(body):
        return RIGHT if number(body)%2 else WRONG
    with Loopback(reply=answers(first)) as s:
        r = run(s)
        assert len(sent(s, False))==6 and len(sent(s))==3   # one revision for each of three prompts
        again = len(s.log)
        run(s)
        assert len(s.log)==again                            # nothing is bought twice
    stats = r.stats()
    assert stats['prompts']['by_stop_reason']=={'satisfied':6}
    assert stats['pass_rate']['pooled']==.5 and stats['pass_rate']['corrected']==.5   # of first answers
    assert stats['scores']['passed']==6 and stats['scores']['failed']==6
    one = stats['revisions']
    assert (one['asked'], one['passed'], one['rate'])==(3, 3, 1.)
    assert stats['samples']['asked']==15                    # all that was bought
    table = r.rollouts
    assert table.source.notna().sum()==3
    parents = table[table.key.isin(table.source.dropna())]
    assert set(parents.score)=={0.} and set(table[table.source.notna()].score)=={1.}
    lines = read_jsonl('w/train/sft.jsonl')
    assert len(lines)==6 and all(len(row['messages'])==2 for row in lines)

def test_what_the_model_sees(here):
    with Loopback(reply=answers()) as s:
        run(s, n=1, **{'refine.feedback':'reason'})
        body, = sent(s)
    question, answer, request = body['messages']
    assert answer==dict(role='assistant', content=WRONG)
    assert 'not right' in request['content'] and 'write the whole answer again' in request['content']

def test_the_reference_answer_is_never_told(here):
    Path('judge.py').write_text('from rsr.data.types import Score\ndef judge(response, metadata):\n'
                                "    return Score(0., f\"the answer is {metadata['answer']}, I fear\")\n")
    with Loopback(reply=answers()) as s:
        run(s, n=2, **{'verifier.type':'judge.py:judge', 'refine.feedback':'reason'})
        run(s, n=2, work_dir='w2', **{'verifier.type':'judge.py:judge'})
        said = [body['messages'][-1]['content'] for body in sent(s)]
    assert len(said)==4 and not any('I fear' in text for text in said)

def kept(path):
    "What the checklist says of the rows of a run beside its ledger."
    return next(item['detail'] for item in load_run(path).check()['items'] if item['key']=='dropped')

def test_rounds_follow_a_chain(here):
    with Loopback(reply=answers(revised=lambda b: RIGHT if len(b['messages'])>=7 else WRONG)) as s:
        r = run(s, n=2, **{'refine.rounds':3, 'formatter.revisions':'exchange'})
        assert sorted(len(b['messages']) for b in sent(s))==[3, 3, 5, 5, 7, 7]
    assert r.stats()['prompts']['satisfied']==2
    row = read_jsonl('w/train/sft.jsonl')[0]['messages']
    assert [m['role'] for m in row]==['user', 'assistant']*4
    assert row[-1]['content']==RIGHT and row[1]['content']==WRONG
    assert kept('w')=='2 answers have what the ledger has'

@pytest.mark.parametrize('target, made', [('llamafactory', 0), ('trl', 1), ('swift', 1)])
def test_an_exchange_after_a_tool_call_where_the_trainer_has_a_form(tmp_path, target, made):
    "LLaMA-Factory drops a row in which a user speaks right after the result of a call."
    from rsr.data.types import Prompt, Rollout
    from rsr.formatters.message_forms import USER_AFTER_RESULT
    from rsr.formatters.writer import make_formatters, write_files
    def call(id):
        return dict(id=id, type='function', function=dict(name='f', arguments='{}'))
    tools = [dict(type='function', function=dict(name='f', parameters=dict(type='object', properties={})))]
    wrong = Rollout('', score=0., key=1, tool_calls=[call('a'), call('b')])
    right = Rollout('', score=1., key=2, idx=1, source=1, feedback='Wrong.', tool_calls=[call('c'), call('d')])
    fs = make_formatters([dict(type='sft', target=target, revisions='exchange')])
    prompt = Prompt('p', [dict(role='user', content='q')], tools=tools)
    counts = write_files([(prompt, [wrong, right])], fs, tmp_path, single=False)['sft.jsonl']
    assert counts['rows']==made and (USER_AFTER_RESULT in json.dumps(counts, default=str))==(not made)
    if target=='swift':   # both calls of the answer, and none of the turns before
        turns = read_jsonl(tmp_path/'train'/'sft.jsonl')[0]['messages']
        assert [t['loss'] for t in turns if t['role']=='tool_call']==[False, False, True, True]

def test_no_more_than_so_many_rounds(here):
    with Loopback(reply=answers(revised=WRONG)) as s:
        r = run(s, n=2, **{'refine.rounds':2})
        assert len(sent(s))==4
        run(s, n=2, **{'refine.rounds':2})
        assert len(sent(s))==4
        run(s, n=2, **{'refine.rounds':3})
        assert len(sent(s))==6
    assert r.stats()['prompts']['by_stop_reason']=={'max_rollouts':2}
    assert 'reach' not in json.dumps(r.stats()['revisions'])

def test_a_narrow_failure_only(here):
    Path('half.py').write_text('def half(response, metadata):\n    return {"half": 0.5 if "B" in response else 0.1}\n')
    def first(body):
        return WRONG if number(body)%2 else 'no idea'
    with Loopback(reply=answers(first)) as s:
        run(s, **{'verifier.type':'half.py:half', 'refine.min_score':.4})
        assert sorted(map(number, sent(s)))==[1, 3, 5]

# ---- with what else a recipe has

def test_a_prompt_template_stays_at_the_question(here):
    with Loopback(reply=answers()) as s:
        run(s, n=1, **{'sampler.prompt_template':'Solve. {prompt}', 'sampler.system_prompt':'Be brief.',
                       'refine.temperature':.1})
        body, = sent(s)
        assert [m['role'] for m in body['messages']]==['system', 'user', 'assistant', 'user']
        assert body['messages'][1]['content']=='Solve. prompt 0' and body['temperature']==.1
        assert 'Solve.' not in body['messages'][-1]['content'] and sent(s, False)[0]['temperature']==.7

def test_a_critique_is_asked_for_once(here):
    def critic(body):
        return 'A step is wrong.' if body['model']=='critic' else (RIGHT if is_revision(body) else WRONG)
    with Loopback(reply=critic) as s:
        options = {'refine.critique':dict(model='critic', price=dict(prompt=1e6, completion=0)),
                   'sampler.price':dict(prompt=0, completion=0)}
        r = run(s, n=3, **options)
        calls = [e['body'] for e in s.log if e.get('body', {}).get('model')=='critic']
        assert len(calls)==3 and all('boxed{A}' not in json.dumps(c) for c in calls)
        assert all(b['messages'][-1]['content'].startswith('A step is wrong.') for b in sent(s))
        assert ledger("SELECT count(*) FROM calls WHERE kind='critique'")==[(3,)]
        assert r.stats()['cost']>0
        assert all(text=='A step is wrong.' for text, in ledger("SELECT text FROM calls"))

def test_a_cascade_revises_by_its_own_model(here):
    def reply(body):
        return RIGHT if is_revision(body) and body['model']=='large' else WRONG
    with Loopback(reply=reply) as s:
        r = sample(rows(4), recipe='sft', work_dir='w', progress=False, sampler=['small', 'large'], base_url=s.base_url,
                   **{**OPTIONS, 'sampling.escalate':dict(after=1), 'refine.rounds':2})
        asked = [b['model'] for b in sent(s)]
    assert asked==['large']*4   # of equals the last is revised, which is the stronger model's
    models = {tuple(row) for row in ledger('''SELECT json_extract(a.config,'$.model'), json_extract(b.config,'$.model')
        FROM rollouts r JOIN rollouts p ON p.key=r.source JOIN configs a ON a.key=r.sampler
        JOIN configs b ON b.key=p.sampler''')}
    assert models=={('large', 'large')} and ledger('SELECT count(DISTINCT sampler) FROM rollouts')==[(3,)]
    assert r.stats()['pass_rate']['pooled']==0.

def test_a_goal_counts_revisions(here):
    """A revision is answered when those before it are scored, as on a machine that is not busy: else requests are sent
    beside scores that are late. Five rows take six requests: the sixth is sent while the fifth answer is scored."""
    revised = count()
    scored = "SELECT count(*) FROM scores s JOIN rollouts r ON r.key=s.rollout WHERE source IS NOT NULL"
    async def reply(body):
        if not is_revision(body):
            return WRONG
        before = next(revised)
        while ledger(scored)[0][0]<before:
            await asyncio.sleep(.01)
        return RIGHT
    with Loopback(reply=reply) as s:
        r = run(s, n=30, goal=5, **{'sampler.concurrent_requests':1})
        assert len(sent(s))==6
    assert r.stats()['goal']['reached'] and r.stats()['rows']['sft.jsonl']['rows']==len(sent(s))

def test_a_budget_stops_revisions_and_a_resume_goes_on(here):
    with Loopback(reply=answers()) as s:
        run(s, n=8, **{'sampling.max_rollouts':1, 'sampling.step_size':1, 'refine.rounds':0})
        used, = ledger('SELECT sum(prompt_tokens+completion_tokens) FROM rollouts')[0]
        r = run(s, n=8, **{'sampling.max_rollouts':1, 'sampling.step_size':1, 'budget.tokens':used+150,
                           'sampler.max_tokens':30, 'sampler.concurrent_requests':1})
        some = len(sent(s))
        assert r.stop_reason=='budget' and 0<some<8
        run(s, n=8, **{'sampling.max_rollouts':1, 'sampling.step_size':1, 'sampler.max_tokens':30})
        assert len(sent(s))==8
    assert load_run('w').stats()['prompts']['by_stop_reason']=={'satisfied':8}

def test_what_a_critic_reads_is_held_against_the_budget(here):
    "A dear critic that reads long answers is asked as often as the budget allows, however many are asked at once."
    def reply(body):
        critic = 'did not pass a check' in body['messages'][-1]['content']
        return 'A step is wrong.' if critic else 'word '*400+WRONG
    with Loopback(reply=reply, median=.01) as s:
        dear = dict(model='critic', price=dict(prompt=1000, completion=0), max_tokens=20)
        r = run(s, n=12, **{'refine.critique':dear, 'sampler.price':dict(prompt=0, completion=0),
                            'sampler.max_tokens':600, 'budget.usd':2., 'sampling.max_rollouts':1,
                            'sampling.step_size':1})
    (n, most), = ledger('SELECT count(*), max(prompt_tokens)/1000. FROM calls')
    assert r.stop_reason=='budget' and 1<n<8 and r.stats()['cost']<=2+most

def test_a_critic_that_refuses_leaves_what_was_paid(here):
    def reply(body):
        critic = 'did not pass a check' in body['messages'][-1]['content']
        return (404, '{"error": {"message": "no such model"}}') if critic else WRONG
    with Loopback(reply=reply) as s, pytest.raises(RunBroken) as e:
        run(s, n=2, **{'refine.critique':dict(model='critic')})
    assert 'no such model' in str(e.value) and e.value.answered   # the first answers: `Resume with`, not `nothing paid`

def test_a_killed_run_buys_nothing_twice(here):
    "A process that dies in the middle of its revisions leaves those that were answered."
    with Loopback(reply=answers(), median=.02) as s:
        child = os.fork()
        if not child:   # its imports are made; the server stays with the parent
            run(s, n=40, **{'sampler.concurrent_requests':4})
            os._exit(0)
        while len(sent(s))<12:
            time.sleep(.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        before = len(sent(s))
        run(s, n=40)
        assert before<len(sent(s))<=40+4
    assert ledger("SELECT count(*) FROM rollouts WHERE source IS NOT NULL AND outcome='kept'")==[(40,)]
    assert len(read_jsonl('w/train/sft.jsonl'))==40

def test_more_first_answers_are_not_bought_for_what_a_revision_satisfied(here):
    with Loopback(reply=answers()) as s:
        run(s)
        asked = len(s.log)
        run(s, **{'sampling.max_rollouts':8})
        assert len(s.log)==asked

def test_what_a_revision_solved_is_not_hopeless_in_the_next_round(here):
    with Loopback(reply=answers()) as s:
        two = run(s, n=4).next(progress=False)
    assert two.stats()['samples']['asked']==4*2+4 and two.stats()['revisions']['passed']==4

def test_a_new_verifier_scores_revisions_too(here):
    with Loopback(reply=answers()) as s:
        run(s)
        asked = len(s.log)
        r = run(s, **{'verifier.type':'rlvr'})
        assert len(s.log)==asked
    assert r.stats()['revisions']['scored']==6 and len(read_jsonl('w/train/sft.jsonl'))==6

# ---- what they are no part of

def test_files_of_other_methods(here):
    "A revision is a desirable answer and part of a pool; it is in no group, and changes none."
    formatter = [dict(type='sft'), dict(type='kto'), dict(type='multi_sft', num_responses=1, min_responses=1),
                 dict(type='grpo', columns=['pass_rate'])]
    with Loopback(reply=answers()) as s:
        run(s, n=4, formatter=formatter)
        assert len(sent(s))==4
    labels = [(row['label'], RIGHT in json.dumps(row).replace('\\\\', '\\')) for row in read_jsonl('w/train/kto.jsonl')]
    assert labels.count((True, True))==4 and {*labels}=={(True, True), (False, False)}
    assert [row['responses'] for row in read_jsonl('w/train/multi_sft.jsonl')]==[[RIGHT]]*4
    assert not Path('w/train/grpo.jsonl').exists() or {r['pass_rate'] for r in read_jsonl('w/train/grpo.jsonl')}=={0.}

def test_columns_and_drop(here):
    with Loopback(reply=answers()) as s:
        r = run(s, n=4, **{'formatter.columns':['pass_rate', 'n_scored']})
    row = read_jsonl('w/train/sft.jsonl')[0]
    assert (row['pass_rate'], row['n_scored'])==(0., 2)
    r.format('sft', revisions='drop')
    assert not Path('w/train/sft.jsonl').exists()

# ---- what it does not go with

@pytest.mark.parametrize('options, says', [
    ({'refine.rounds':-1}, 'refine.rounds'), ({'refine.round':1}, 'refine.rounds'),
    ({'refine.feedback':'all'}, 'refine.feedback'), ({'refine.prompt':'Again.'}, '{reason}'),
    ({'refine.critique':dict(modle='x')}, 'refine.critique.model'),
    ({'sampler.batch':'openai'}, 'sampler.batch'), ({'verifier.type':'majority'}, 'majority'),
    ({'formatter.revisions':'all'}, 'exchange'), ({'refine.min_score':'high'}, 'refine.min_score')])
def test_wrong_options(here, options, says):
    with pytest.raises(RsrError, match='(?s).*'+says.replace('{', r'\{')):
        sample(rows(1), recipe='sft', base_url='http://127.0.0.1:9/v1', model='m', work_dir='w',
               **{**OPTIONS, **options})
    assert not Path('w').exists()

# ---- pairs of an answer and its revision

def test_pairs_of_an_answer_and_its_revision(here):
    "The rejected side is the first answer, also if it took two revisions; a prompt answered rightly is sampled again."
    def first(body):
        return RIGHT if number(body)==0 else WRONG
    def revised(body):
        return RIGHT if number(body)%2 or len(body['messages'])>4 else WRONG
    with Loopback(reply=answers(first, revised)) as s:
        r = run(s, 'revised', n=4, **{'refine.rounds':2})
        assert sorted(map(number, sent(s)))==[1, 2, 2, 3]
        asked = len(s.log)
        run(s, 'revised', n=4, **{'refine.rounds':2})
        assert len(s.log)==asked
    pairs = read_jsonl('w/train/dpo.jsonl')
    assert len(pairs)==3 and all(p['chosen']['value']==RIGHT and p['rejected']['value']==WRONG for p in pairs)
    stats = r.stats()
    assert stats['prompts']['by_stop_reason']=={'satisfied':3, 'max_rollouts':1}
    assert stats['pairs']['dpo']['pairs']==3 and stats['pairs']['dpo']['dropped']=={'no revision passes':1}
    assert len(read_pairs('w/train/dpo.jsonl'))==3

def test_a_revision_that_fails_makes_no_pair_and_is_tried_no_more(here):
    with Loopback(reply=answers(revised=WRONG+' again')) as s:
        run(s, 'revised', n=2)
        asked = len(s.log)
        r = run(s, 'revised', n=2)
        assert len(s.log)==asked
    assert r.stats()['prompts']['by_stop_reason']=={'max_rollouts':2}

def test_revised_needs_rounds(here):
    with pytest.raises(RsrError, match='refine.rounds is 0'):
        sample(rows(1), recipe='revised', base_url='http://127.0.0.1:9/v1', model='m', verifier='math-rlvr',
               work_dir='w', **{'refine.rounds':0})

def test_an_ordinary_dpo_file_may_choose_a_revision(here):
    with Loopback(reply=answers()) as s:
        run(s, 'dpo', n=3)
    assert len(read_jsonl('w/train/dpo.jsonl'))==3

# ---- where people look

def test_the_explorer_shows_what_a_revision_goes_back_to(here):
    from rsr.data.store import Store
    from rsr.explore.conversation import rollout_html
    from rsr.explore.prompts import prompt_rollouts
    from rsr.explore.state import Exploration
    with Loopback(reply=answers()) as s:
        r = run(s, n=3)
    store = Store('w', write=False)
    shown = prompt_rollouts(store, 1)['rollouts']
    assert [x['revises'] for x in shown]==[None, None, 1]
    assert 'revision of #1' in rollout_html(shown[2])
    store.close()
    explored = Exploration(r)
    assert [len(scores) for scores in explored.by_prompt()]==[2, 2, 2]

# ---- dialogues

def dialogue(i, scores=None):
    "A dialogue of two answered turns, and a third to be answered."
    turns = [dict(role='user', content=f'prompt {i}'), dict(role='assistant', content=f'first {i}'),
             dict(role='user', content='go on'), dict(role='assistant', content=f'second {i}'),
             dict(role='user', content='and?')]
    known = {} if scores is None else dict(turn_scores=scores)
    return dict(id=f'd{i}', messages=turns, metadata=dict(answer='A', **known))

def sliced(server, items, **options):
    return sample(items, recipe='sft', base_url=server.base_url, model='m', work_dir='w', progress=False,
                  **{'verifier.type':'math-rlvr', 'sampling.max_rollouts':1, 'sampling.step_size':1,
                     'formatter.slice':True, **options})

def test_one_row_for_each_turn_of_a_dialogue(here):
    def reply(body):
        return RIGHT if number(body)<3 else WRONG
    items = [dialogue(0), dialogue(1, [1, 0]), dialogue(2, [1, None]), dialogue(3), dialogue(4, [1, 1])]
    with Loopback(reply=reply) as s:
        sliced(s, items, **{'formatter.target':'trl', 'formatter.columns':['pass_rate']})
    made = [(row['prompt'][0]['content'], len(row['prompt']), row['completion'][0]['content'], row['pass_rate'])
            for row in read_jsonl('w/train/sft.jsonl')]
    assert made==[('prompt 0', 1, 'first 0', None), ('prompt 0', 3, 'second 0', None), ('prompt 0', 5, RIGHT, 1.),
                  ('prompt 1', 1, 'first 1', None),
                  ('prompt 2', 1, 'first 2', None), ('prompt 2', 3, 'second 2', None), ('prompt 2', 5, RIGHT, 1.),
                  ('prompt 4', 1, 'first 4', None), ('prompt 4', 3, 'second 4', None)]

@pytest.mark.parametrize('target, field, values', [
    ('openai', 'weight', [0, 0, 1]), ('swift', 'loss', [False, False, True]),
    ('axolotl', 'train', [False, False, True]), ('llamafactory', None, []), ('verl', None, [])])
def test_only_the_last_turn_trains_where_the_trainer_can_say_so(here, capsys, target, field, values):
    from rsr.formatters.lint import lint_file
    with Loopback(reply=lambda body: RIGHT) as s:
        sliced(s, [dialogue(0)], **{'formatter.target':target, 'formatter.format':'jsonl'})
    turns = read_jsonl('w/train/sft.jsonl')[-1]['messages']
    assert len(turns)==6 and [t[field] for t in turns if t['role']=='assistant' and field]==values
    assert not lint_file('w/train/sft.jsonl', 'sft', target)['problems']
    said = capsys.readouterr().err
    assert ('only the last one is trained on' in said)==(target in ('llamafactory', 'axolotl', 'verl'))

def test_parts_of_one_dialogue_are_on_one_side_and_written_once(here):
    items = []
    for i in range(30):
        whole = dialogue(i)
        items += [dict(whole, id=f'd{i}-{n}', messages=whole['messages'][:n]) for n in (1, 3, 5)]
    with Loopback(reply=lambda body: RIGHT) as s:
        sliced(s, items, **{'formatter.target':'trl', 'split.eval':.3})
    sides = [{row['prompt'][0]['content'] for row in read_jsonl(f'w/{side}/sft.jsonl')} for side in ('train', 'eval')]
    assert all(sides) and not sides[0] & sides[1]
    rows_ = [json.dumps(row) for side in ('train', 'eval') for row in read_jsonl(f'w/{side}/sft.jsonl')]
    assert len(rows_)==len(set(rows_))==30*5   # three answers, and two turns that came with the input

@pytest.mark.parametrize('items, options, says', [
    ([dialogue(0, [1])], {}, 'a list of 2 numbers'), ([dialogue(0)], {'goal':3}, 'slice'),
    ([dialogue(0)], {'formatter.slice':'yes'}, 'true or false')])
def test_wrong_slices(here, items, options, says):
    with Loopback() as s, pytest.raises(RsrError, match=says):
        sliced(s, items, **options)
