"Runs that are scored by a rubric: judged through the engine, into the ledger; only what changed is judged again."
import json
import sqlite3

import pytest
from conftest import read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback
from test_rubric import MINE, asked, material, mine, verdicts

from rsr import sample
from rsr.data.types import RunBroken
from rsr.run.recipe import load_recipe

def judge(body):
    if 'You judge one response' not in body['messages'][0]['content']:
        return None
    text, ids, _ = material(body)
    return verdicts(ids, lambda i: 'YES' if i!='right' and hash(i+text)%2 or r'\boxed{A}' in text else 'NO')
RUB = mine(criteria=[{**c, 'gate':False} for c in MINE['criteria']])

def go(base, rubric=RUB, **kw):
    judged = kw.pop('ver', None) or dict(base_url=base, model='j')
    d = dict(sampling=dict(max_rollouts=8, step_size=4, max_steps=2), formatter=[dict(type='sft'), dict(type='dpo')],
             verifier=dict(type='rubric', rubric=rubric, **judged))
    return sample(rows(12), d, base_url=base, work_dir='run', progress=False, **kw)

def test_run(here):
    with Loopback(reply=judge, rate=.5) as s:
        r = go(s.base_url)
        st = r.stats()
        n = lambda: [e['body'] for e in s.log if 'You judge' in e['body']['messages'][0]['content']]
        k = len(n())
        assert st['scores']['unscored']==0 and k==st['samples']['asked']
        detail, = sqlite3.connect('run/run.db').execute('SELECT detail FROM scores').fetchone()
        assert set(json.loads(detail))=={'right', 'kind', 'brief', 'crisp'}
        assert read_jsonl('run/train/dpo.jsonl')
        sft, dpo = r.recipe['formatter']
        assert dpo['min_margin']==.15 and dpo['fail_threshold'] is None and sft['pass_threshold']==.8
        go(s.base_url, {**RUB, 'categories':dict(content=.5, form=.5)})
        assert len(n())==k                                  # other weights: nobody is asked
        go(s.base_url, {**RUB, 'criteria':[{**c, 'question':'Other?'} if c['id']=='kind' else c
                                           for c in RUB['criteria']]})
        # one question edited: it alone is asked
        assert [asked(b) for b in n()[k:k+st['samples']['asked']]]==[['kind']]*st['samples']['asked']

def test_two_judges_and_down(here):
    with Loopback(reply=judge, rate=.5) as s, Loopback(reply=judge) as t:
        r = go(s.base_url, ver=dict(judges=[dict(base_url=s.base_url, model='a'), dict(base_url=t.base_url, model='b')],
                                    combine='strictest'))
        assert len(t.log)==r.stats()['samples']['asked'] and r.stats()['scores']['unscored']==0

def test_judge_401(here):
    with Loopback(reply=judge, rate=.5) as s, Loopback(reply=judge, auth='sk') as t:
        with pytest.raises(RunBroken):
            go(s.base_url, ver=dict(base_url=t.base_url, model='a'))
        t.set(auth=None)
        r = go(s.base_url, ver=dict(base_url=t.base_url, model='a'))
        assert r.stats()['scores']['unscored']==0

def test_shipped_recipe_takes_a_rubrics_thresholds(here):
    d = load_recipe('dpo', ['verifier.type=rubric', 'verifier.rubric=helpful_answer'])
    assert 'pass_threshold' not in d['formatter'][0]
    assert load_recipe('dpo', ['formatter.pass_threshold=0.9',
                               'verifier.type=rubric'])['formatter'][0]['pass_threshold']==.9

def test_rubric_command(here):
    assert 'customer_support' in rsr('rubric').stdout
    assert rsr('rubric', 'validate').returncode==2
    write_jsonl('labels.jsonl', [])
    p = rsr('rubric', 'validate', 'helpfull_answer', 'labels=labels.jsonl')
    assert p.returncode==2 and 'helpful_answer' in p.stderr and 'Traceback' not in p.stderr

def test_the_judges_tokens_have_their_own_price(here):
    with Loopback(reply=judge, rate=.5) as s:
        mine_, theirs = dict(prompt=1., completion=2.), dict(prompt=100., completion=200.)
        r = go(s.base_url, price=mine_, ver=dict(base_url=s.base_url, model='j', price=theirs))
        db = sqlite3.connect('run/run.db')
        sums = [db.execute(f'SELECT sum(prompt_tokens), sum(completion_tokens) FROM {t}').fetchone()
                for t in ('rollouts', 'calls')]
        cost = sum((p*q['prompt']+c*q['completion'])/1e6 for (p, c), q in zip(sums, (mine_, theirs)))
        assert sums[1][0] and r.stats()['cost']==pytest.approx(cost)
        again = go(s.base_url, {**RUB, 'name':'other',
                                'criteria':[{**c, 'question':c['question']+' Really?'} for c in RUB['criteria']]},
                                price=mine_,
                   ver=dict(base_url=s.base_url, model='j', price=theirs), overrides=['budget.usd=0.002'])
        assert again.exit_code==3          # the judge's dollars end the run
