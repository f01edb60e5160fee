"`rsr doctor`: what it finds, what it says of a recipe, a run and an extra, and what it never says."
import json
import os
import subprocess
import sys

import pytest

from rsr.cli.doctor import doctor_data, recipe_needs
from rsr.data.extras import DIST, EXTRAS

MAIN = 'import sys; from rsr.cli import main; sys.exit(main(sys.argv[1:]))'

def doctor(*words, cwd, **env):
    res = subprocess.run([sys.executable, '-c', MAIN, 'doctor', *words], cwd=cwd, env={**os.environ, **env},
                         capture_output=True, text=True)
    assert 'Traceback' not in res.stderr
    return res.returncode, res.stdout, res.stderr

def test_an_installation(tmp_path):
    code, said, _ = doctor('json=true', cwd=tmp_path)
    found = json.loads(said)
    assert code == found['exit_code'] == 0 and found['ok']
    assert {e['name'] for e in found['extras']} == set(EXTRAS)
    for extra in found['extras']:
        assert extra['ok'] == (extra['command'] is None)
        assert extra['ok'] or f"'{DIST}[{extra['name']}]'" in extra['command']

RECIPE = '''
sampler: {base_url: "http://localhost:1/v1", api_key: "${DOCTOR_KEY}", headers: {X-Other: "${NO_SUCH_VARIABLE}"}}
verifier: {type: math-rlvr}
formatter: {type: sft}
'''

def test_a_recipe_that_lacks_something_and_a_secret(tmp_path):
    (tmp_path/'my.yaml').write_text(RECIPE)
    code, said, _ = doctor('my.yaml', cwd=tmp_path, DOCTOR_KEY='sk-0123456789-secret')
    assert code == 1 and '${NO_SUCH_VARIABLE}' in said and 'export NO_SUCH_VARIABLE=' in said
    assert 'sk-0123456789-secret' not in said
    code, said, _ = doctor('my.yaml', cwd=tmp_path, DOCTOR_KEY='x'*20, NO_SUCH_VARIABLE='y'*20)
    assert code == 0 and 'MISSING' not in said

@pytest.mark.parametrize('word', ['no-such-recipe', 'broken.yaml', 'list.yaml', '', '.'])
def test_a_word_that_is_nothing(tmp_path, word):
    (tmp_path/'broken.yaml').write_text('formatter: [')
    (tmp_path/'list.yaml').write_text('- 1')
    code, said, err = doctor(word, cwd=tmp_path)
    assert code == 2 and err.startswith('rsr: ') and not said

FILES = """
sampler: {base_url: "http://localhost:1/v1", model: m}
data: {input_path: [in.jsonl, "part-*.jsonl"], transform: shape.py:shape}
verifier: [math-rlvr, {type: "v.py:rate", when: passed}]
formatter: {type: sft}
"""

def test_files_that_a_recipe_names(tmp_path):
    (tmp_path/'my.yaml').write_text(FILES)
    code, said, _ = doctor('my.yaml', cwd=tmp_path)
    missing = [line for line in said.splitlines() if line.startswith('MISSING')]
    assert code == 1 and len(missing) == 4 and 'verifier.stages.1.type' in said and 'no file part-*.jsonl' in said, said
    for name in 'in.jsonl', 'part-1.jsonl':
        (tmp_path/name).write_text('{"question": "q", "answer": "1"}\n')
    (tmp_path/'shape.py').write_text('raise SystemExit("run")\nfrom elsewhere import shape\n')   # read, not run
    (tmp_path/'v.py').write_text('def rat(response, metadata): return 1\n')
    code, said, _ = doctor('my.yaml', cwd=tmp_path)
    assert code == 1 and said.count('MISSING') == 1 and "'rat'?" in said, said
    for found in 'rate: object = lambda response, metadata: 1', 'try:\n    from x import *\nexcept ImportError: pass':
        (tmp_path/'v.py').write_text(found)
        assert doctor('my.yaml', cwd=tmp_path)[0] == 0
    (tmp_path/'v.py').write_text('def rate(')
    code, said, _ = doctor('my.yaml', cwd=tmp_path)
    assert code == 1 and 'is no Python' in said and 'Traceback' not in said, said

def test_a_missing_extra_by_name(tmp_path):
    missing = [name for name in EXTRAS if not doctor_data(name)['ok'] and name != 'code']
    for name in missing[:1]:
        code, said, _ = doctor(name, cwd=tmp_path)
        assert code == 1 and f"pip install '{DIST}[{name}]'" in said

def test_needs():
    code = dict(type='code')
    assert set(recipe_needs({})) == {'local', 'embedded model'}
    server = dict(base_url='http://x/v1')
    stack = [dict(type='exact'), code]
    assert recipe_needs(dict(sampler=server, verifier=stack)) == {'bubblewrap': 'verifier.1.type: code'}
    assert not recipe_needs(dict(sampler=server, verifier={**code, 'sandbox_url': 'http://y'}))
    assert set(recipe_needs(dict(sampler=dict(type='vllm-offline', model='m')))) == {'vllm', 'GPU'}
    data = dict(input_path=['hf://a/b', 'c.parquet'])
    assert set(recipe_needs(dict(sampler=server, data=data))) == {'hub', 'parquet', 'input c.parquet'}
    assert 'input ???' not in recipe_needs(dict(sampler=server, data=dict(input_path='???')))

def test_a_hostile_recipe_cannot_write_to_the_terminal(tmp_path):
    (tmp_path/'x.yaml').write_text('data: {input_path: "hf://\\e[2Ja/b"}\nsampler: {base_url: "http://l/v1"}\n')
    _, said, err = doctor('x.yaml', cwd=tmp_path)
    assert '\x1b' not in said+err
