"Components of scores: `where` of a formatter, tables, statistics, the explorer and the report."
import json
import sqlite3
from pathlib import Path

import pytest
import yaml
from conftest import read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback
from test_explore import same, told_and_written

import rsr as r
from rsr.data.types import RsrError

QUIET = dict(work_dir='run', progress=False)
RIGHT = r'\boxed{A}'

@pytest.fixture
def own(here):
    "The user's own functions: is it right, how short is it, and both at once."
    Path('mine.py').write_text('''
def right(response, metadata):
    return float('\\\\boxed{A}' in response)
def brief(response, metadata):
    return min(1, 60/max(1, len(response)))
def parts(response, metadata):
    right = float('\\\\boxed{A}' in response)
    return {'right':right, 'is brief':min(1, 60/max(1, len(response))), 'nothing':None}
''')
    return here

STAGES = [dict(type='mine.py:right'), dict(type='mine.py:brief', weight=0)]

def go(server, formatters, stages=STAGES, n=20, **more):
    d = dict(verifier=stages, formatter=formatters, sampling=dict(max_rollouts=12, step_size=1, max_steps=12))
    return r.sample(rows(n), d, base_url=server.base_url, **{**QUIET, **more})

def brevity(text):
    return min(1, 60/max(1, len(text)))

def table(sql):
    return sqlite3.connect('run/run.db').execute(sql).fetchall()

def answers(file):
    return [row['messages'][1]['content'] for row in read_jsonl(f'run/train/{file}.jsonl')]

# ---- where

def test_sampling_goes_on_until_each_file_has_what_it_needs_under_its_where(own):
    with Loopback(rate=.6, words=12) as s:
        plain = go(s, [dict(type='sft')], work_dir='plain')
        run = go(s, [dict(type='sft', where='brief > 0.7'), dict(type='sft', name='any')])
    assert run.stats()['samples']['asked']>plain.stats()['samples']['asked']
    short = answers('sft')
    assert short and all(brevity(t)> .7 for t in short) and len(answers('any'))>=len(short)
    satisfied = run.prompts[run.prompts.stop=='satisfied']
    df = run.rollouts
    good = df[(df.score==1)&(df.text.map(brevity)> .7)].groupby('prompt').size()
    assert set(satisfied.id)==set(good.index)
    for id_, of in df.groupby('prompt'):            # no sample is bought behind the first that fulfils it
        fits = (of.score==1)&(of.text.map(brevity)> .7)
        assert not fits.iloc[:-1].any()
    why = run.stats()['rows']['sft.jsonl'].get('without_row', {})
    assert sum(why.values())==20-len(short) and set(why)<={'none passed', 'where is false for all that passed'}
    assert 'where is false' not in str(why) or 'loosen formatter.where' in run.summary()

def test_a_resume_knows_what_counts(own):
    with Loopback(rate=.6, words=12) as s:
        first = go(s, [dict(type='sft')], n=10)
        n = first.stats()['samples']['asked']
        assert len(answers('sft'))==10
        again = go(s, [dict(type='sft', where='brief > 0.7')], n=10)
        more = again.stats()['samples']['asked']
        assert more>n                                                # prompts that lacked a short one were reopened
        assert all(brevity(t)> .7 for t in answers('sft'))
        go(s, [dict(type='sft', where='brief > 0.7')], n=10)
        assert again.stats()['samples']['asked']==more               # nothing is bought twice
        loose = go(s, [dict(type='sft', where='brief > 0.01')], n=10)
        assert loose.stats()['samples']['asked']==more and len(answers('sft'))==10

def test_what_passes_without_where_is_neither_chosen_nor_rejected(own):
    with Loopback(rate=.5, words=12) as s:
        formatters = [dict(type=t, where='brief > 0.7', fail_threshold=None) for t in ('dpo', 'kto')]
        run = go(s, formatters, n=30)
    pairs = read_jsonl('run/train/dpo.jsonl')
    assert pairs
    for row in pairs:
        chosen, rejected = row['chosen']['value'], row['rejected']['value']
        assert RIGHT in chosen and brevity(chosen)> .7 and RIGHT not in rejected
    labelled = read_jsonl('run/train/kto.jsonl')
    assert all(row['label']==(RIGHT in row['completion']) for row in labelled)
    assert all(brevity(row['completion'])> .7 for row in labelled if row['label'])
    assert {row['label'] for row in labelled}=={True, False}
    assert any(brevity(row['completion'])< .7 for row in labelled)     # those that fail need not fulfil it

def test_a_label_decides_alone(own):
    with Loopback(rate=1., words=30) as s:
        run = go(s, [dict(type='sft', where='brief > 2')], n=3)
        assert not run.stats()['rows']['sft.jsonl']['rows']
        run.label('q1', 0, 'pass')
        assert run.format()=={'sft.jsonl':1}
        n = run.stats()['samples']['asked']
        go(s, [dict(type='sft', where='brief > 2')], n=3)
        assert run.stats()['samples']['asked']==n

@pytest.mark.parametrize('seed', [1, 2, 3])
def test_the_explorer_tells_what_is_written(own, seed):
    with Loopback(rate=.5, words=12, seed=seed) as s:
        run = go(s, [dict(type='grpo', band=[0, 1])], n=40)
    run.label('q3', 0, 'pass')
    run.label('q4', 1, 'fail')
    where = 'brief > 0.7 or score < 1'
    for at in (1., .5):
        configs = [dict(type=t, where=where, pass_threshold=at, **more) for t, more in
                   (('sft', {}), ('dpo', {}), ('kto', {}), ('multi_sft', dict(min_responses=2)), ('grpo', dict(band=[0, 1])))]
        configs += [dict(type='dpo', name='plain', max_pairs_per_prompt=3), dict(type='kto', name='strip', thinking='strip',
                                                                                 where="not brief > 0.7")]
        assert same(*told_and_written(run, configs))>60
    told, _ = told_and_written(run, configs, read=False)
    assert not told['sft.jsonl']['exact'] and told['plain.jsonl']['file']=='plain.jsonl'

def test_a_function_may_name_components_and_a_wrong_one_is_a_reason(own, server):
    run = go(server, [dict(type='sft', where="right >= 1 and 'is brief' > 0.1", pass_threshold=.1)], 'mine.py:parts')
    assert answers('sft') and all(RIGHT in t for t in answers('sft'))
    run.format(where='styel > 0.5')
    assert not run.file_counts['sft.jsonl']['rows']
    assert "where is false for all that passed (no component 'styel')" in run.summary()

@pytest.mark.parametrize('where, text', [
    ('brif > 0.5', "no component 'brif'. Did you mean 'brief'?"), ('brief >', 'it cannot be read'),
    ('brief = 1', 'equality is written =='), ('brief', 'is compared with nothing'), ('brief + 1 > 2', 'neither a component'),
    ('__import__("os").system("touch pwned") > 0', 'neither a component nor a number'), ('[1]', 'is not a condition'),
    ('5', 'is not a condition'), ('brief > 1 '*100, 'at most 500')])
def test_a_wrong_condition_ends_before_anything_is_sampled(own, server, where, text):
    write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=run',
            'verifier=[{type: mine.py:right}, {type: mine.py:brief}]', f'formatter.where={where}')
    assert p.returncode==2 and text in p.stderr and 'formatter' in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert not server.log and not Path('run').exists() and not Path('pwned').exists()

def test_the_command_line_takes_where_and_rewrites_files_with_another(own):
    write_jsonl('in.jsonl', rows(12))
    with Loopback(rate=.6, words=12) as s:
        p = rsr('run', 'sft', 'in.jsonl', f'sampler.base_url={s.base_url}', 'work_dir=run',
                'verifier=[{type: mine.py:right}, {type: mine.py:brief, weight: 0}]', 'formatter.where=brief > 0.6')
    assert p.returncode==0, p.stderr
    assert all(brevity(t)>.6 for t in answers('sft'))
    p = rsr('format', 'run', 'formatter.where=brief > 0.75')
    assert p.returncode==0 and all(brevity(t)> .75 for t in answers('sft')), p.stderr
    p = rsr('format', 'run', 'formatter.where=brevity > 0.75')
    assert p.returncode==2 and "no component 'brevity'" in p.stderr and 'Traceback' not in p.stderr
    p = rsr('format', 'run', 'formatter.where=null')
    assert p.returncode==0 and len(answers('sft'))>0, p.stderr
