"A YAML file whose aliases expand without end is refused, wherever rsr reads YAML."
import json
import os
import shutil
import subprocess
import sys

import pytest

import rsr
from rsr.data.yaml_files import MOST_REPEATED
from rsr.run.overrides import RECIPES

ALL_IN_ONE = '''import contextlib, io, json, sys
from rsr.cli import main
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(words)
    print(json.dumps([words, code, said.getvalue()]), flush=True)
'''

def lists():
    "Thirty lines that stand for 9**30 values."
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]']
    lines += [f'a{i}: &a{i} [{", ".join([f"*a{i-1}"]*9)}]' for i in range(1, 30)]
    return '\n'.join(lines)+'\n'

def merges():
    "Thirty mappings, each of which merges the one before nine times."
    lines = ['a0: &a0 {k0: 1}']
    lines += [f'a{i}: &a{i} {{<<: [{", ".join([f"*a{i-1}"]*9)}], k{i}: 1}}' for i in range(1, 30)]
    return '\n'.join(lines)+'\n'

def commands(*lines):
    "Run command lines in one process, at most a minute."
    res = subprocess.run([sys.executable, '-c', ALL_IN_ONE, json.dumps([line.split() for line in lines])], timeout=60,
                         text=True, capture_output=True, env={**os.environ, 'PYTHONHASHSEED': '0'})
    assert not res.returncode, res.stderr
    return {' '.join(words): (code, said) for words, code, said in map(json.loads, res.stdout.splitlines())}

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompt = dict(id='a', messages=[dict(role='user', content='1 + 1?')], metadata=dict(answer='2'), given=['2'])
    (tmp_path/'p.jsonl').write_text(json.dumps(prompt)+'\n')
    rsr.sample([prompt], recipe='sft', verifier='math-rlvr', model='never-asked', base_url='http://127.0.0.1:9/v1',
               work_dir='run', progress=False, **{'data.responses': 'given'})
    return tmp_path

@pytest.mark.parametrize('bomb', [lists, merges])
def test_files_that_users_write(folder, bomb):
    text = bomb()
    (folder/'r.yaml').write_text(text+(RECIPES/'sft.yaml').read_text())
    (folder/'rubric.yaml').write_text(text+'criteria: *a29\n')
    (folder/'taxonomy.yaml').write_text(text+'dimensions: *a29\n')
    (folder/'flaws.yaml').write_text(text+'flaws: *a29\n')
    files = {'run r.yaml p.jsonl': 'r.yaml', 'plan r.yaml p.jsonl': 'r.yaml', 'doctor r.yaml': 'r.yaml',
             'run sft p.jsonl verifier.rubric=rubric.yaml': 'rubric.yaml',
             'rubric validate rubric.yaml labels=p.jsonl': 'rubric.yaml',
             'prompts taxonomy.yaml': 'taxonomy.yaml', 'coverage taxonomy.yaml p.jsonl': 'taxonomy.yaml',
             'run flawed p.jsonl pairs.flaws_file=flaws.yaml': 'flaws.yaml'}
    for line, (code, said) in commands(*files).items():
        assert code==2, (line, said)
        assert f'{files[line]}: its aliases' in said and f'{MOST_REPEATED:,}' in said, (line, said)

def test_the_recipe_of_a_run(folder):
    shutil.copytree('run', 'as_it_was')
    (folder/'run/recipe.yaml').write_text(lists()+(folder/'run/recipe.yaml').read_text())
    lines = ['doctor run', 'stats run', 'report run', 'check run', 'watch run', 'format run', 'copy run o2',
             'merge run as_it_was o3', 'split run by=metadata.answer o4', 'card run', 'next run',
             'compare run as_it_was',
             'rounds run as_it_was', 'plan work_dir=run', 'run work_dir=run', 'run run/recipe.yaml p.jsonl']
    found = commands('ls .', *lines)
    assert found.pop('ls .')[0]==0   # a list names the run, without what its recipe would have added
    for line, (code, said) in found.items():
        assert code==2 and 'run/recipe.yaml: its aliases' in said and 'Traceback' not in said, (line, said)

def test_an_option_and_an_alias_of_itself(folder):
    inside = ','.join(f'b{i}:&b{i}[{",".join(["*b"+str(i-1) if i else "x"]*9)}]' for i in range(30))
    inside = inside.replace(':&', ': &').replace('[', ' [').replace(',', ', ')
    (folder/'self.yaml').write_text('formatter: &a [*a]\n')
    code = 'import sys; from rsr.cli import main; sys.exit(main(sys.argv[1:]))'
    for words, at in (['sft', 'p.jsonl', f'verifier={{{inside}}}'], 'verifier: its aliases'), \
                     (['self.yaml', 'p.jsonl'], 'self.yaml: the value in line 1 contains an alias of itself'):
        res = subprocess.run([sys.executable, '-c', code, 'run', *words], timeout=60, text=True, capture_output=True)
        assert res.returncode==2 and at in res.stderr, res.stderr

def test_a_long_value_gives_a_short_message(folder):
    (folder/'r.yaml').write_text('formatter: sft\ngoal: ['+', '.join(['x']*50_000)+']\n')
    (code, said), = commands('doctor r.yaml').values()
    assert code==2 and len(said)<7000 and 'characters are left out here' in said
