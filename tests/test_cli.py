"The command line as people use it: every command, the wrong ones too."
import json
import re

import pytest
from conftest import read_jsonl, rows, rsr, write_jsonl

@pytest.fixture
def done(here, server):
    "A finished run in ./w."
    write_jsonl('in.jsonl', rows(20))
    p = rsr('run', 'sft_dpo', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w')
    assert p.returncode==0, p.stderr
    return p

def test_run_says_what_it_did(done):
    shown = 'prompts    20:', 'rollouts', 'pass rate', 'time', 'sft.jsonl:', 'dpo.jsonl:', 'w/train/dataset_info.json'
    for word in shown:
        assert word in done.stdout
    d = json.load(open('w/summary/stats.json'))
    parts = 'prompts samples scores pass_rate tokens cost seconds rows remedies fingerprints quintiles'
    assert set(d)=={*parts.split()}

def test_stats_and_format(done, server):
    n = len(server.log)
    assert rsr('stats', 'w').stdout.splitlines()[0].startswith('prompts')
    assert json.loads(rsr('stats', 'w', 'json=true').stdout)['prompts']['total']==20
    before = read_jsonl('w/train/dpo.jsonl')
    p = rsr('format', 'w', 'formatter.dpo.name=pairs')
    assert p.returncode==0 and read_jsonl('w/train/pairs.jsonl')==before
    assert set(json.load(open('w/train/dataset_info.json')))=={'sft', 'dpo', 'pairs'}
    p = rsr('format', 'w', 'sampler.temperature=1')
    assert p.returncode==2 and 'takes formatter, split' in p.stderr
    assert len(server.log)==n

def test_check(done):
    p = rsr('check', 'w')
    assert p.returncode==1, p.stdout+p.stderr   # too few rows, none held out
    assert 'no problems found' in p.stdout and 'train/dpo.jsonl' in p.stdout, p.stdout+p.stderr
    assert 'pass  format valid' in p.stdout
    with open('w/train/sft.jsonl', 'a') as f:
        f.write('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]}\n')
    p = rsr('check', 'w')
    assert p.returncode==1 and 'problems:' in p.stdout and 'warn  format valid' in p.stdout
    assert json.loads(rsr('check', 'w', 'json=true').stdout)['files']
    p = rsr('check', 'w', 'trainer=unsloth')
    assert p.returncode==2 and 'Traceback' not in p.stderr

def test_check_prints_the_rewards_edge_cases(here, server):
    write_jsonl('in.jsonl', rows(20))
    p = rsr('run', 'grpo', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=g')
    assert p.returncode==0
    p = rsr('check', 'g')
    assert p.returncode==1 and 'judge injected' in p.stdout and ' ms' in p.stdout, p.stdout+p.stderr

def test_init_then_run(here, server):
    assert 'multi_sft' in rsr('init').stdout
    assert rsr('init', 'dpo', 'mine.yaml').returncode==0
    assert rsr('init', 'dpo', 'mine.yaml').returncode==2
    write_jsonl('in.jsonl', rows(3))
    assert rsr('run', 'mine.yaml', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}').returncode==0
    (out,) = here.glob('output/*')
    assert (out/'train'/'dpo.jsonl').exists() and out.name[:8].isdigit()

def test_transform(here, server):
    (here/'t.py').write_text("""
def shape(row):
    if row["n"]==2: return None
    return dict(id=f"r{row['n']}", messages=[dict(role="user", content=row["q"])], metadata=dict(answer="A"))
""")
    write_jsonl('raw.jsonl', [dict(n=i, q=f'prompt {i}') for i in range(4)])
    p = rsr('run', 'sft', 'data.input_path=raw.jsonl', 'data.transform=t.py:shape',
            f'sampler.base_url={server.base_url}', 'work_dir=w')
    assert p.returncode==0 and 'prompts    3:' in p.stdout

@pytest.mark.parametrize('args,words', [
    (['run'], ['usage: rsr run']),
    (['rnu'], ["Did you mean 'run'?"]),
    (['run', 'sfft', 'data.input_path=x'], ["Did you mean 'sft'?"]),
    (['run', 'no/file.yaml'], ['no recipe file no/file.yaml']),
    (['run', 'sft'], ['data.input_path is missing']),
    (['run', 'sft', 'data.input_path=nothing.jsonl'], ['no file nothing.jsonl']),
    (['run', 'sft', 'data.input_path=in.txt'], ['allowed endings']),
    (['run', 'sft', 'sampling.max_rolouts=3'], ["Did you mean 'sampling.max_rollouts'?"]),
    (['run', 'sft', 'sampling.max_rollouts=many'], ["'many' is not a whole number"]),
    (['run', 'sft', 'sampling.max_rollouts=-1'], ['not in 0 to']),
    (['run', 'sft', 'max_rollouts'], ['not of the form key=value']),
    (['run', 'sft', 'formatter.pass_threshold=2'], ['not a number in [0, 1]']),
    (['run', 'sft', 'formatter.type=sftt'], ["Did you mean 'sft'?"]),
    (['run', 'dpo', 'formatter.fail_threshold=1.0'], ['chosen and rejected at once']),
    (['run', 'sft', 'verifier.type=math_rlvr', 'data.input_path=in.jsonl'], ["Did you mean 'math-rlvr'?"]),
    (['run', 'sft', 'verifier.type=v.py:f'], ['no file']),
    (['run', 'sft', 'verifier.type=mcq-llm-as-judge', 'data.input_path=in.jsonl'], ['verifier.model']),
    (['run', 'sft', 'sampler.type=openai-compatible-api'], ['sampler.base_url is missing']),
    (['run', 'broken.yaml'], ['not YAML', 'line 2']),
    (['run', 'list.yaml'], ['mapping of sections']),
    (['stats', 'nowhere'], ['no run here']),
    (['format', 'nowhere'], ['no run here']),
])
def test_bad_input_is_one_message(here, args, words):
    (here/'in.txt').write_text('a,b\n')
    (here/'broken.yaml').write_text('sampling:\n  a: [1\n')
    (here/'list.yaml').write_text('- sft\n')
    write_jsonl('in.jsonl', rows(1))
    p = rsr(*args)
    assert p.returncode==2 and 'Traceback' not in p.stderr+p.stdout, p
    for w in words:
        assert w in p.stderr, p.stderr
    assert not (here/'output').exists()

def test_the_default_verifier_must_fit(here, server):
    question = [dict(role='user', content='2 + 2 = ?')]
    write_jsonl('in.jsonl', [dict(id='a', messages=question, metadata=dict(answer='4'))])
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}')
    assert p.returncode==2 and 'verifier.type=math-rlvr' in p.stderr and not server.log and not (here/'output').exists()
    write_jsonl('in.jsonl', [dict(id='a', messages=[dict(role='user', content='prompt 1')])])
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w')
    assert p.returncode==2 and 'no prompt of the input has a reference answer' in p.stderr and not server.log

def test_a_run_knows_its_recipe(done, server):
    n = len(server.log)
    assert rsr('run', 'work_dir=w').returncode==0 and len(server.log)==n

def test_help(here):
    p = rsr('--help')
    assert p.returncode==0 and 'rsr run RECIPE' in p.stdout
    assert 'example: rsr run dpo' in rsr('run', '--help').stdout and 'sampling.give_up' in rsr('run', '--help').stdout
    assert rsr('--version').stdout.strip()

OPTION = re.compile(r'^  (\w[\w.]*)=(\S*)', re.M)

@pytest.mark.parametrize('name,most', [('run', 41), ('plan', 42), ('demo', 41), ('format', 33), ('prompts', 30)])
def test_help_explains_each_option(here, name, most):
    p = rsr(name, '--help', env=dict(COLUMNS='120'))
    short = p.stdout.partition('Options (')[2]
    keys = [k for k, _ in OPTION.findall(short)]
    assert p.returncode==0 and 10<len(keys)==len(set(keys)) and len(short.splitlines())<=most, short
    assert all(len(line)>45 and line[35:].strip() for line in short.splitlines() if OPTION.match(line)), short
    all_of = rsr(name, 'sft', '--help', 'all').stdout
    assert set(keys)<={k for k, _ in OPTION.findall(all_of)} and len(all_of)>len(short) and '--help all' in short

def test_help_of_a_topic(here):
    p = rsr('run', '--help', 'sampler')
    assert p.returncode==0 and '0 to 5' in p.stdout
    assert {k.split('.')[0] for k, _ in OPTION.findall(p.stdout)}=={'sampler'}
    assert dict(OPTION.findall(rsr('run', '--help', 'sampler.temperature=').stdout))=={'sampler.temperature':'0.7'}
    assert 'positive_share' in rsr('format', '-h', 'kto').stdout
    p = rsr('run', '--help', 'smapler')
    assert p.returncode==2 and "Did you mean 'sampler'?" in p.stderr
    assert rsr('format', '--help', 'sampling').returncode==2      # it takes none of these

def test_all_of_help_is_what_the_command_takes(here):
    from rsr.run.recipe import load_recipe
    from rsr.taxonomy.generate import prompts_options
    for k, v in OPTION.findall(rsr('run', '--help', 'all').stdout):
        if k.split('.')[0] not in ('pairs', 'formatter', 'verifier', 'stages', 'split', 'json', 'progress'):
            load_recipe('sft', [f'{k}={v}'])
    given = dict(n='3', how='quota', turns='1', max_tries='4', stall='20', templates='true')
    for k, v in OPTION.findall(rsr('prompts', '--help', 'all').stdout):
        if k not in ('json', 'progress') and (v := given.get(k, v)):
            prompts_options([f'{k}={v}'])     # none is refused as unknown
