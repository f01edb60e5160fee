"Before the first request: references, forms of options, files that are something else, output in any encoding."
import gzip
import json
import os
import subprocess
import sys

import pytest
from conftest import RSR, read_jsonl, rows, rsr, write_jsonl

import rsr as toolkit
from rsr import load_run, sample, verify
from rsr.cli import main
from rsr.data.types import RsrError

def go(server, given, work_dir='run', recipe='sft', **kw):
    return sample(given, recipe, base_url=server.base_url, work_dir=work_dir, progress=False, **kw)

def stops(run):
    return dict(run.prompts.set_index('id').stop)

# ---- reference answers

RULES = ['mcq-rlvr', 'math-rlvr', 'rlvr', 'mcq-llm-as-judge']

@pytest.mark.parametrize('type', RULES)
def test_without_any_reference_nothing_is_bought(here, server, type):
    data = [dict(r, metadata={}) for r in rows(5)]
    judge = dict(base_url=server.base_url) if 'judge' in type else {}
    with pytest.raises(RsrError, match='no prompt of the input has a reference answer') as e:
        go(server, data, verifier=dict(type=type, **judge))
    assert e.value.exit_code==2 and not server.log and not (here/'run').exists()

def test_the_answer_beside_the_messages(here, server):
    server.set(rate=1.)
    bare = [dict(id=r['id'], messages=r['messages']) for r in rows(3)]
    run = go(server, [dict(r, answer='A') for r in bare])
    assert run.exit_code==0 and set(stops(run).values())=={'satisfied'} and len(read_jsonl('run/train/sft.jsonl'))==3
    n = len(server.log)
    for where in (dict(solution='A'), dict(metadata=dict(solution='A'))):
        data = [dict(r, **where) for r in bare]
        with pytest.raises(RsrError, match='data.columns.answer=solution uses it'):
            go(server, data, 'other')
        assert len(server.log)==n and not (here/'other').exists()
        write_jsonl('in.jsonl', data)
        assert main(['run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', f'work_dir=w{len(where)}{n}',
                     'data.columns.answer=solution'])==0
        n = len(server.log)
    with pytest.raises(RsrError, match="data.columns.answer: no column 'solutoin'. Did you mean 'solution'"):
        go(server, data, 'other', data=dict(columns=dict(answer='solutoin')))

def test_responses_are_no_reference(here, server):
    data = [dict(id='a', messages=rows(1)[0]['messages'], answer='It is A.')]
    with pytest.raises(RsrError, match='no prompt of the input has a reference answer'):
        go(server, data, data=dict(responses='answer'))
    assert not server.log

def test_some_without_a_reference_are_skipped_until_they_have_one(here, server, capfd):
    server.set(rate=1.)
    data = rows(6)
    data[1]['metadata'], data[4]['metadata'] = {}, dict(answer='many')
    run = go(server, data)
    err = capfd.readouterr().err
    assert '2 of 6 prompts have no reference answer that mcq-rlvr can use' in err and 'q1, q4' in err
    assert {i for i, stop in stops(run).items() if stop=='no_reference'}=={'q1', 'q4'} and run.exit_code==0
    assert {e['prompt'] for e in server.log}=={f'prompt {i}' for i in (0, 2, 3, 5)}
    assert run.stats()['prompts']['by_stop_reason']=={'satisfied':4, 'no_reference':2}
    assert 'no_reference 2' in run.summary()
    data[1]['metadata'] = dict(answer='A')
    n = len(server.log)
    run = go(server, data)
    assert {e['prompt'] for e in server.log[n:]}=={'prompt 1'} and stops(run)['q1']=='satisfied'
    assert [i for i, stop in stops(run).items() if stop=='no_reference']==['q4']

def test_what_needs_no_reference_is_left_alone(here, server):
    server.set(rate=1.)
    data = [dict(r, metadata={}) for r in rows(2)]
    (here/'v.py').write_text('def any(response, metadata): return 1.0\n'
                             'def some(response, metadata): return 1.0\n'
                             'some.problem = lambda metadata: "" if "tests" in metadata else "no tests"\n')
    assert set(stops(go(server, data, verifier='v.py:any')).values())=={'satisfied'}
    with pytest.raises(RsrError, match='none of the 2 reference answers in the input .no tests'):
        go(server, data, 'some', verifier='v.py:some')
    data[0]['metadata'] = dict(tests=1)
    assert stops(go(server, data, 'some', verifier='v.py:some'))=={'q0':'satisfied', 'q1':'no_reference'}
    assert go(server, data, 'grpo', 'grpo', formatter=dict(band=None)).exit_code==0   # samples nothing

def test_pairs_and_plan_pass_over_them_too(here, server):
    data = rows(12)
    for r in data[:8]:
        r['metadata'] = {}
    server.set(rate=.5)
    run = go(server, data, recipe='temperature')
    assert {e['prompt'] for e in server.log}<={f'prompt {i}' for i in range(8, 12)}
    assert list(stops(run).values()).count('no_reference')==8
    write_jsonl('in.jsonl', data)
    n = len(server.log)
    p = rsr('plan', 'sft', 'in.jsonl', 'pilot=3', f'sampler.base_url={server.base_url}', 'work_dir=plan')
    assert p.returncode==0 and 'for 4 prompts, from 3 that were sampled' in p.stdout, p.stdout+p.stderr
    assert len({e['prompt'] for e in server.log[n:]})==3

# ---- a run without rows

@pytest.mark.parametrize('rate,why', [(1., '3 × all passed: too easy for this model'),
                                      (0., '3 × none passed: raise sampling.max_rollouts')])
def test_a_file_without_rows_says_why(here, server, rate, why, capfd):
    server.set(rate=rate)
    write_jsonl('in.jsonl', rows(3))
    args = 'run', 'sft_dpo', 'in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w', 'sampling.max_rollouts=4'
    assert main(args)==4
    assert why in capfd.readouterr().out and ('sft.jsonl: 3 rows' in load_run('w').summary())==bool(rate)
    assert load_run('w').exit_code==4 and json.load(open('w/summary/stats.json'))['rows']['dpo.jsonl']['without_row']
    assert main(['run', 'work_dir=w'])==4          # the same, when it is resumed
    server.set(rate=None, fault='400')
    write_jsonl('more.jsonl', rows(4))
    assert main([*args, 'data.input_path=more.jsonl'])==1      # a prompt that failed comes first
    write_jsonl('in.jsonl', [*rows(3), dict(rows(1, 3)[0], metadata={})])
    server.set(fault=None)
    assert main(args)==4 and '1 × no reference answer' in load_run('w').summary()

def test_the_other_codes_come_first(here, server):
    server.set(rate=1.)
    run = go(server, rows(30), recipe='dpo', budget=dict(tokens=400))
    assert run.exit_code==3 and load_run('run').exit_code!=3 and run.stop_reason=='budget'
    run = go(server, rows(3), 'two', 'dpo', max_rollouts=4)
    assert run.exit_code==4 and run.format('sft')=={'sft.jsonl':3}
    assert run.format(['sft', 'dpo'])==run.format('sft,dpo')=={'sft.jsonl':3, 'dpo.jsonl':0}

# ---- a typo in a model's name

def only(name):
    "Return a reply that knows one model: 404 for every other."
    def reply(body):
        if body['model']!=name:
            return 404, dict(error=dict(message=f"The model `{body['model']}` does not exist.", type='NotFoundError',
                                        code=404))
        return None
    return reply

@pytest.mark.parametrize('kw', [{}, dict(type='litellm')], ids=['http', 'litellm'])
def test_a_sampler_without_an_answer_does_not_count(here, server, kw):
    server.set(rate=1., reply=only('right'))
    name = 'openai/{}'.format if kw else '{}'.format
    extra = dict(kw, api_key='k') if kw else kw
    with pytest.raises(RsrError, match='does not exist'):
        go(server, rows(4), sampler=dict(model=name('rihgt'), max_retries=0, **extra))
    run = go(server, rows(4), sampler=dict(model=name('right'), temperature=0.3, **extra))
    assert run.exit_code==0 and set(stops(run).values())=={'satisfied'}
    with pytest.raises(RsrError, match='sampled with different settings'):    # now it does
        go(server, rows(4), sampler=dict(model=name('other'), **extra))

def test_a_side_of_pairs_without_an_answer_does_not_count(here, server):
    server.set(rate=.5, reply=only('right'))
    given = [dict(r, metadata=dict(answer='A')) for r in rows(6)]
    with pytest.raises(RsrError, match='does not exist'):
        go(server, given, recipe='temperature', model='rihgt')
    run = go(server, given, recipe='temperature', model='right')
    assert run.exit_code in (0, 4) and run.stats()['samples']['by_outcome']['kept']

def test_a_judge_without_an_answer_does_not_count(here, server):
    server.set(rate=1., reply=lambda body: only('judge')(body) if 'judge' in body['model'] or 'jugde' in body['model']
               else None)
    judged = dict(type='mcq-llm-as-judge', base_url=server.base_url)
    with pytest.raises(RsrError, match='does not exist'):
        go(server, rows(2), verifier=dict(judged, model='jugde'))
    bought = len([e for e in server.log if e['body'] and e['body'].get('model')!='jugde'])
    run = go(server, rows(2), verifier=dict(judged, model='judge'))
    assert run.stats()['samples']['asked']<=bought*4 and run.path.exists()

# ---- forms

def recipe_of(*words, recipe='sft'):
    from rsr.run.recipe import load_recipe
    return load_recipe(recipe, words)

@pytest.mark.parametrize('word', ['formatter=[sft,dpo]', 'formatter=sft,dpo', 'formatter=[{type: sft}, dpo]',
                                  'formatter=[ sft , dpo ]'])
def test_formatters_by_name(word):
    assert [f['type'] for f in recipe_of(word)['formatter']]==['sft', 'dpo']

def test_a_formatter_by_name_keeps_the_options_of_the_recipe():
    d = recipe_of('formatter.dpo.min_margin=0.2', 'formatter=dpo', recipe='sft_dpo')
    threshold = dict(pass_threshold=1., fail_threshold=0., rejected='worst')
    assert d['formatter']==[dict(type='dpo', **threshold, min_margin=.2)]
    with pytest.raises(RsrError, match="Did you mean 'dpo'"):
        from rsr.formatters.writer import make_formatters
        make_formatters(recipe_of('formatter=dpoo')['formatter'])

@pytest.mark.parametrize('recipe', [['sft', 'dpo'], ('sft', 'dpo'), 'sft,dpo', 'sft, dpo'])
def test_recipes_together(here, server, recipe):
    server.set(rate=.5)
    run = go(server, rows(3), recipe=recipe)
    assert set(run.stats()['rows'])=={'sft.jsonl', 'dpo.jsonl'} and run.recipe['sampling']['max_rollouts']==32

def test_recipes_that_cannot_be_joined():
    for recipe, why in [(['sft', 'flawed'], 'cannot be joined'), ([], 'names none'),
                        (['sft', 'dpoo'], "Did you mean 'dpo'")]:
        with pytest.raises(RsrError, match=why):
            recipe_of(recipe=recipe)

def test_the_verifier_by_its_name(here, server, tmp_path):
    server.set(rate=1., answers=('42', '7'))
    given = [dict(r, metadata=dict(answer='42')) for r in rows(2)]
    write_jsonl('in.jsonl', given)
    (tmp_path/'mine.yaml').write_text('verifier: math-rlvr\nformatter: sft\ndata: in.jsonl\n')
    url = f'sampler.base_url={server.base_url}'
    assert main(['run', 'sft', 'in.jsonl', 'verifier=math-rlvr', url, 'work_dir=a'])==0
    assert main(['run', 'mine.yaml', url, '--work-dir=b', '--sampling.max-rollouts=4'])==0
    assert load_run('a').recipe['verifier']==load_run('b').recipe['verifier']==dict(type='math-rlvr')
    d = load_run('b').recipe
    assert d['sampling']['max_rollouts']==4 and d['data']['input_path']=='in.jsonl'

def test_a_rubric_implies_its_type(here):
    d = recipe_of('verifier.rubric=helpful_answer', recipe='dpo')
    assert d['verifier']==dict(rubric='helpful_answer', type='rubric')
    assert d['formatter']==[dict(type='dpo', rejected='worst')]
    assert recipe_of('verifier.rubric=helpful_answer', recipe='demo')['verifier']['type']=='rubric'
    d = recipe_of(recipe=dict(verifier=dict(rubric='helpful_answer'), formatter='sft'))
    assert d['verifier']['type']=='rubric'
    (here/'in.jsonl').write_text(json.dumps(rows(1)[0])+'\n')
    with pytest.raises(RsrError, match='verifier.rubric=helpful_answer'):
        sample('in.jsonl', verifier='helpful_answer', base_url='http://127.0.0.1:9/v1')
    with pytest.raises(RsrError, match='verifier.model'):
        toolkit.make_rewards(rubric='helpful_answer')

def test_verify_takes_a_bare_reference():
    assert [verify('math-rlvr', 'It is 5.', ref) for ref in ('5', 5, 5., '6', '', None)]==[1., 1., 1., 0., None, None]
    assert verify('mcq-rlvr', 'It is (B)', 'B')==verify('mcq-rlvr', 'It is (B)', dict(answer='B'))==1.

def test_a_run_is_resumed_with_its_own_recipe(here, server):
    server.set(rate=.5)
    go(server, rows(6), recipe='sft_dpo', max_rollouts=8, temperature=.3)
    n = len(server.log)
    for kw in dict(work_dir='run'), dict(overrides=['work_dir=run']):
        run = sample(None, progress=False, **kw)
        assert set(run.stats()['rows'])=={'sft.jsonl', 'dpo.jsonl'} and len(server.log)==n
    assert sample(rows(7), work_dir='run', progress=False).stats()['prompts']['total']==7
    with pytest.raises(RsrError, match='data.input_path is missing'):
        sample(work_dir='nothing here', progress=False)

def test_texts_and_rows_by_themselves(here, server):
    import numpy as np
    import pandas as pd
    server.set(rate=1.)
    with pytest.raises(RsrError, match=r"Give texts as a list: \['What is 2\+2\?'\]"):
        sample('What is 2+2?')
    with pytest.raises(RsrError, match='no file'):
        sample('x'*5000+'.jsonl')
    (here/'v.py').write_text('def f(response, metadata): return 1.0\n')
    for i, given in enumerate([['one', 'two'], pd.Series(['one', 'two']), np.array(['one', 'two']), rows(1)[0]]):
        run = go(server, given, f'w{i}', verifier='v.py:f', max_rollouts=1, step_size=1)
        assert len(run.prompts)==(1 if isinstance(given, dict) else 2)

def test_help_shows_the_arguments():
    for f, words in [(sample, ['base_url=None', 'an OpenAI-compatible endpoint']), (verify, ['metadata=None', '"B"']),
                     (toolkit.Run.check, ['trainer=None', 'tokenizer']), (toolkit.Run.format, ['type=None']),
                     (load_run, ['a run directory']), (toolkit.Run.label, ["'pass' or 'fail'"])]:
        assert all(w in f.__doc__ for w in ['Arguments:', *words]), f.__doc__

# ---- data.limit and numbers

def test_limit_takes_the_first_and_a_larger_one_goes_on(here, server, capfd):
    server.set(rate=1.)
    write_jsonl('in.jsonl', rows(10))
    args = ['run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w']
    assert main([*args, 'data.limit=3'])==0 and [*load_run('w').prompts.id]==['q0', 'q1', 'q2']
    n = len(server.log)
    assert main([*args, '--data.limit=5'])==0
    assert {e['prompt'] for e in server.log[n:]}=={'prompt 3', 'prompt 4'}
    assert 'missing' not in capfd.readouterr().err
    assert main([*args, 'data.limit=2'])==0 and len(load_run('w').prompts)==2
    assert '3 prompts in this run are missing from the input or beyond data.limit=2' in capfd.readouterr().err
    assert main([*args, 'data.limit='])==0 and len(load_run('w').prompts)==10
    (here/'bad.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows(2))+'{"broken\n')
    assert len(go(server, 'bad.jsonl', 'b', limit=2).prompts)==2

@pytest.mark.parametrize('word,says', [
    ('data.limit=2k', 'Did you mean 2000?'), ('sampling.max_rollouts=1e3', 'Did you mean 1000?'),
    ('sampling.max_rollouts=2,000', 'Did you mean 2000?'), ('sampling.max_rollouts=16.0', 'Did you mean 16?'),
    ("sampling.max_rollouts='16'", 'Did you mean 16?'), ('budget.tokens=1.5M', 'Did you mean 1500000?'),
    ('sampler.temperature=70%', 'Did you mean 0.7?'), ('sampler.temperature=0,7', 'Did you mean 0.7?'),
    ('data.limit=0', 'not in 1 to'), ('data.limit=all', 'not a whole number'), ('budget=5', 'budget.usd='),
    ('sampler=gpt-4o', 'sampler.model='), ('data.columns={answr: x}', "Did you mean 'data.columns.answer'"),
    ('data.columns.answer=[x]', 'not the name of a column'), ('formatter=5', 'not a formatter'),
    ('formatter=[{type: sft, type: dpo}]', "the key 'type' stands twice in line 1"),
    ('sampling.seed=2026-02-30', 'whole number'),
])
def test_what_was_meant(word, says):
    with pytest.raises(RsrError) as e:
        recipe_of(word)
    assert says in str(e.value)

# ---- YAML

TWICE = 'sampling:\n  max_rollouts: 4\nformatter: sft\nsampling:\n  step_size: 2\n'

@pytest.mark.parametrize('args', [
    ['run', 'bad.yaml', 'data.input_path=in.jsonl'], ['prompts', 'bad.yaml'],
    ['rubric', 'validate', 'bad.yaml', 'labels=in.jsonl'], ['run', 'sft', 'in.jsonl', 'verifier.rubric=bad.yaml'],
    ['run', 'flawed', 'in.jsonl', 'pairs.flaws_file=bad.yaml', 'sampler.base_url=http://127.0.0.1:9/v1'],
    ['coverage', 'bad.yaml', 'in.jsonl']], ids=lambda a: '_'.join(a[:2]))
@pytest.mark.parametrize('data,says', [
    (TWICE.encode(), "the key 'sampling' stands in line 1 and again in line 4"),
    ('# é\na: 1\n'.encode('latin-1'), 'line 1: not UTF-8 (byte 2 is 0xe9)'),
    (gzip.compress(b'a: 1'), 'it is a gzip file'), ('a: 1'.encode('utf-16'), 'text in UTF-16'),
    (b'a: [1', 'is not YAML'), (b'['*3_000, 'nested too deep')], ids='twice latin1 gzip utf16 broken deep'.split())
def test_yaml_that_is_wrong(here, capfd, args, data, says):
    (here/'bad.yaml').write_bytes(data)
    write_jsonl('in.jsonl', rows(1))
    assert main(args)==2
    err = capfd.readouterr().err
    assert 'bad.yaml' in err and says in err and 'Traceback' not in err, err
    assert not (here/'output').exists()

# ---- files that are something else

FILES = {'a.parquet':b'{"id": 1}', 'b.parquet':b'', 'c.parquet':b'PAR1 and then nothing',
         'd.parquet':gzip.compress(b'x'),
         'a.jsonl.gz':b'{"id": 1}\n', 'b.jsonl.gz':gzip.compress(b'{"id": 1}\n'*99)[:30], 'c.jsonl.gz':b'',
         'd.jsonl.gz':gzip.compress(b'x'*99)[:12]+b'nonsense'*9,
         'a.jsonl':gzip.compress(b'x'), 'b.jsonl':b'PAR1....PAR1', 'c.jsonl':b'\x28\xb5\x2f\xfd....',
         'd.jsonl':'{"id": 1}'.encode('utf-16'), 'e.jsonl':'{"id": "é"}\n'.encode('latin-1'), 'f.jsonl':b'\x00'*99,
         'g.jsonl':b'', 'a.jsonl.zst':b'\x28\xb5\x2f\xfd', 'a.txt':b'What is 2+2?', 'a.csv':b'id,q\n1,2\n'}

@pytest.mark.parametrize('name', FILES)
def test_a_file_that_is_something_else(here, server, name, capfd):
    (here/name).write_bytes(FILES[name])
    write_jsonl('in.jsonl', rows(2))
    assert main(['run', 'sft', name, f'sampler.base_url={server.base_url}'])==2
    err = capfd.readouterr().err
    assert (name in err or 'no usable row' in err) and 'Traceback' not in err and 'This is a bug' not in err, err
    assert not server.log and not (here/'output').exists()
    assert main(['rubric', 'validate', 'helpful_answer', f'labels={name}', 'judge.base_url=http://127.0.0.1:9/v1'])==2
    if name[0]!='g':
        assert name in capfd.readouterr().err

def test_a_benchmark_that_is_not_utf8(here, server, capfd):
    write_jsonl('in.jsonl', rows(2))
    for name, data in ('b.txt', b'one\ntwo \xff\n'), ('b.jsonl.gz', b'no gzip'), ('b.jsonl', b'\x1f\x8b0000'):
        (here/name).write_bytes(data)
        assert main(['run', 'sft', 'in.jsonl', f'decontaminate={name}', f'sampler.base_url={server.base_url}'])==2
        assert name in capfd.readouterr().err
    assert not server.log

# ---- output in any encoding

@pytest.fixture(scope='module')
def a_run(tmp_path_factory):
    "A finished run of prompts with many letters, in its own folder."
    from loopback import Loopback
    folder = tmp_path_factory.mktemp('letters')
    given = [dict(r, id=f'é–{i}', messages=[dict(role='user', content=f'中文 “{i}” →')]) for i, r in enumerate(rows(6))]
    with Loopback(rate=.5) as s:
        sample(given, 'sft_dpo', base_url=s.base_url, work_dir=str(folder/'w'), progress=False)
    return folder

ENCODINGS = [dict(PYTHONIOENCODING='ascii'), dict(PYTHONIOENCODING='latin-1'), dict(PYTHONIOENCODING='cp1252'),
             dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')]
COMMANDS = ['stats w', 'stats w json=true', 'check w', 'check w json=true', 'methods', 'init', 'rubric', 'prompts',
            'compare w w', 'pairs audit w', 'report w', 'run --help all', '--help', 'copy w c{i}', 'format w',
            'coverage customer_support w/train/sft.jsonl', 'stats nowhere–中', 'run sft data.input_path=é.jsonl']

@pytest.mark.parametrize('env', ENCODINGS, ids=lambda env: '_'.join(env.values()))
def test_output_in_any_encoding(a_run, env):
    "All commands in one process, so that the interpreter starts once."
    program = ('import sys, rsr.cli, json, io\n'
               'codes = []\n'
               'for line in json.load(open("commands.json")):\n'
               '    codes.append(rsr.cli.main(line))\n'
               'sys.stdout.flush()\n'
               'json.dump(codes, open("codes.json", "w"))')
    few = [c for c in COMMANDS if c.split()[0] in ('stats', '--help', 'format', 'run')]
    commands = COMMANDS if env==ENCODINGS[0] else few
    lines = [c.replace('{i}', str(abs(hash(str(env))))).split() for c in commands]
    (a_run/'commands.json').write_text(json.dumps(lines))
    p = subprocess.run([sys.executable, '-c', program], cwd=a_run, env={**os.environ, **env}, capture_output=True)
    codes = json.loads((a_run/'codes.json').read_text())
    assert p.returncode==0 and b'Traceback' not in p.stderr and b'This is a bug' not in p.stderr, p.stderr[-2000:]
    assert set(codes)<={0, 1, 2} and codes[0]==codes[1]==0 and codes[-1]==codes[-2]==2, dict(zip(commands, codes))

def test_json_stays_json_in_ascii(a_run):
    for encoding in 'ascii', 'latin-1':
        p = subprocess.run([RSR, 'stats', 'w', 'json=true'], cwd=a_run, capture_output=True,
                           env={**os.environ, 'PYTHONIOENCODING':encoding})
        assert json.loads(p.stdout.decode(encoding))['prompts']['total']==6

def test_a_reader_that_goes_away(a_run):
    for command in 'stats w', 'run --help all':
        p = subprocess.Popen([RSR, *command.split()], cwd=a_run, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdout.close()
        assert b'Traceback' not in p.stderr.read() and p.wait() in (0, 1)

# ---- odd arguments

ROW = rows(1)[0]
BARE = dict(id='a', messages=ROW['messages'])

@pytest.mark.parametrize('given,kw,says', [
    (None, {}, 'data.input_path is missing'), ('', {}, 'no file'), ('hello', {}, 'no file hello'), (5, {}, '5 is int'),
    (b'hello', {}, 'is bytes'), ([], {}, 'no usable row'), ([1], {}, 'the row is int'),
    (['a', ROW], {}, 'row 1: the row'),
    (dict(id=['a'], messages=[[]]), {}, 'id is list'), (['What is 2+2?'], {}, 'no prompt of the input has a reference'),
    ([ROW], dict(recipe=5), '5 is int'), ([ROW], dict(recipe={'sft'}), 'is set'),
    ([ROW], dict(recipe=','), 'names none'),
    ([ROW], dict(recipe='sft,nope'), "no recipe 'nope'"), ([ROW], dict(recipe='x'*500), '…'),
    ([ROW], dict(formatter=None), 'none is named'), ([ROW], dict(formatter=[]), 'none is named'),
    ([ROW], dict(formatter=[None]), 'None has no type'), ([ROW], dict(formatter='sft,sft'), 'two would write'),
    ([ROW], dict(verifier=5), "quotes: '5'"), ([ROW], dict(verifier=['rlv']), "stage 'rlv': no verifier"),
    ([ROW], dict(verifier=True), 'not a mapping'), ([ROW], dict(pairs='temprature'), "Did you mean 'temperature'"),
    ([ROW], dict(split=2), 'not a share'), ([ROW], dict(limit=True), 'not a whole number'),
    ([ROW], dict(limit=1.0), 'Did you mean 1?'), ([ROW], dict(columns='answer'), 'not a mapping'),
    ([ROW], dict(columns=dict(answer='id')), "no column 'id'"), ([ROW], dict(work_dir='in.jsonl'), 'is a file'),
    ([ROW], dict(overrides=['--seed=1']), 'no dashes in front: seed=1'), ([ROW], dict(overrides=['seed']), 'key=value'),
    ([dict(BARE, answer='  ')], {}, 'no prompt of the input'), ([dict(BARE, answer=dict(x=1))], {}, 'cannot use the'),
    ([dict(BARE, answer=True)], dict(verifier='math-rlvr'), 'neither text nor a number'),
    ([dict(BARE, answer='4')], {}, 'Set verifier.type=math-rlvr'),
    ([dict(BARE, gold='4')], dict(verifier='rlvr'), 'data.columns.answer=gold'),
])
def test_odd_arguments_are_refused(here, given, kw, says):
    (here/'in.jsonl').write_text('')
    with pytest.raises(RsrError) as e:
        sample(given, **{**dict(base_url='http://127.0.0.1:9/v1', progress=False), **kw})
    assert says in str(e.value) and e.value.exit_code==2 and not (here/'output').exists()

@pytest.mark.parametrize('given,kw', [
    (ROW, {}), ((ROW,), {}), (iter([ROW]), {}), ([dict(BARE, answer=['A'])], {}), ([dict(BARE, answer='(a)')], {}),
    ([dict(BARE, metadata=None, gold_target='A')], {}), ([dict(BARE, metadata=dict(answer=None), answer='A')], {}),
    ([dict(BARE, metadata=dict(g='A'))], dict(columns=dict(answer='metadata.g'))), ([ROW], dict(columns={})),
    ([ROW], dict(recipe=['sft', dict(formatter='dpo')])), ([ROW], dict(recipe='sft,')), ([ROW], dict(verifier='')),
    ([ROW], dict(formatter=('sft', 'kto'))), ([ROW], dict(overrides='sampling.seed=1')), ([ROW], dict(split=None)),
    ([ROW], dict(overrides={'sampling.seed':1})), ([ROW], dict(data=dict(limit=5))), ([ROW], dict(verifier=None)),
])
def test_odd_arguments_are_understood(here, server, given, kw):
    server.set(rate=1.)
    run = sample(given, base_url=server.base_url, work_dir=here/'w', progress=False, max_rollouts=2, **kw)
    assert run.stats()['prompts']['satisfied']+run.stats()['prompts']['by_stop_reason'].get('max_rollouts', 0)==1

@pytest.mark.parametrize('line,says', [
    ('run in.jsonl', 'name a recipe before it: rsr run sft in.jsonl'),
    ('run sft in.jsonl in.jsonl', 'is already used by'),
    ('run sft sft', 'key=value'), ('run sft --data.input_path in.jsonl', "its value behind '='"),
    ('run --', "behind '='"),
    ('run sft -data.limit=2k in.jsonl', 'Did you mean 2000?'), ('run sft =x', 'key=value'),
    ('run sft in.jsonl sampler.api_key=${NO_SUCH_KEY}', 'sampler.api_key names ${NO_SUCH_KEY}, which is not set'),
    ('run sft in.jsonl verifier.api_key=${NO_SUCH_KEY}', 'verifier.api_key names ${NO_SUCH_KEY}, which is not set'),
    ('run sft in.jsonl verifier=helpful_answer', 'verifier.rubric=helpful_answer'),
    ('run sft in.jsonl verifier.type=rlvr verifier.rubric=helpful_answer', "no option 'rubric'"),
    ('run sft,flawed in.jsonl', 'cannot be joined'), ('run . in.jsonl', "no recipe '.'"), ('stats --json', 'usage'),
    ('stats . --what=1', "no option 'what'"), ('format . --formatter.pass-threshold=2', 'no run here'),
    ('stats ../é', 'é'),
])
def test_odd_command_lines(here, capfd, monkeypatch, line, says):
    monkeypatch.delenv('NO_SUCH_KEY', raising=False)
    write_jsonl('in.jsonl', rows(1))
    assert main([*line.split(), 'sampler.base_url=http://127.0.0.1:9/v1'] if 'in.jsonl' in line else line.split())==2
    err = capfd.readouterr().err
    assert says in err and 'Traceback' not in err and 'This is a bug' not in err, err
    assert not (here/'output').exists()

def test_format_says_why_a_file_is_empty(a_run, capfd, monkeypatch):
    monkeypatch.chdir(a_run)
    assert main(['format', 'w', 'formatter=[{type: multi_sft, min_responses: 16, name: many}]'])==4
    assert '0 rows: 6 × fewer than min_responses=16 passed' in capfd.readouterr().out

@pytest.mark.parametrize('data', [b'a: [1', b'sampling: {}\nsampling: {}\n', b'', b'x', b'\xff'])
def test_a_run_whose_recipe_was_spoilt(a_run, tmp_path, capfd, data):
    import shutil
    shutil.copytree(a_run/'w', tmp_path/'w')
    (tmp_path/'w'/'recipe.yaml').write_bytes(data)
    assert main(['stats', str(tmp_path/'w')])==2
    err = capfd.readouterr().err
    assert 'recipe.yaml' in err and 'This is a bug' not in err

# ---- what is imported when

AT_CONNECT = """
import json, sys
seen = []
sys.addaudithook(lambda event, args: seen.extend(sys.modules) if event=='socket.connect' and not seen else None)
from rsr.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, seen, [*sys.modules]]))
"""

def test_a_run_imports_only_what_it_needs(here, server):
    "Before its first connection, and until its files are written; patterns that no answer needs are not compiled."
    server.set(rate=.5)
    write_jsonl('in.jsonl', rows(30))
    words = 'run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', 'sampler.model=m', 'work_dir=w'
    p = subprocess.run([sys.executable, '-c', AT_CONNECT, *words], capture_output=True, text=True)
    code, before, all_ = json.loads(p.stdout.splitlines()[-1])
    never = ['numpy', 'pandas', 'matplotlib', 'aiohttp', 'litellm', 'sympy', 're2', 'jsonschema', 'datasketch',
             'IPython', 'ipywidgets']
    later = ['urllib.request', 'http.client', 'email', 'importlib.resources', 'rsr.explore', 'rsr.cluster',
             'rsr.quality', 'rsr.taxonomy', 'rsr.hub', 'vllm']
    assert code==0 and before and not [m for m in never+later if m in before], p.stderr
    assert not [m for m in never if m in all_]
