"Whole runs on the embedded model, as a user starts them."
import json
import os
from pathlib import Path

import pytest
from conftest import read_jsonl, rsr, write_jsonl

from rsr import load_run, sample

pytestmark = pytest.mark.e2e
GSM8K = Path(os.environ.get('RSR_GSM8K', Path(__file__).parents[2]/'shared'/'data'/'gsm8k'/'train_300.jsonl'))

def test_demo(here):
    p = rsr('demo', 'data.limit=16', 'sampling.max_rollouts=4', 'work_dir=demo')   # half of it, for the time it takes
    assert p.returncode==0, p.stderr
    for word in ('prompts    16:', 'rollouts', 'pass rate', 'time', 'sft.jsonl, first row:', 'dpo.jsonl, first row:',
                 'demo/train/sft.jsonl', 'demo/train/dpo.jsonl'):
        assert word in p.stdout
    sft, dpo, s = read_jsonl('demo/train/sft.jsonl'), read_jsonl('demo/train/dpo.jsonl'), load_run('demo').stats()
    assert len(sft)>=5 and len(dpo)>=2 and s['seconds']>0
    assert sum(s['samples']['by_outcome'].values())==s['samples']['asked']
    satisfied = load_run('demo').prompts.query("stop=='satisfied'")
    assert {id.split('-')[0] for id in satisfied.id}=={'sum', 'choice'}

def test_a_seed_makes_a_run_reproducible(here):
    data = [dict(id=f'q{i}', messages=[dict(role='user', content=f'What is {i} + 2? Answer with a number.')],
                 metadata=dict(answer=str(i+2))) for i in range(4)]
    # requests side by side would differ: rounding depends on the neighbours in a batch
    kw = dict(recipe='sft', verifier='math-rlvr', max_rollouts=2, max_tokens=32, seed=3, concurrent_requests=1,
              progress=False)
    a, b = (sample(data, work_dir=w, **kw) for w in 'ab')
    key = ['prompt', 'idx']
    assert list(a.rollouts.sort_values(key).text)==list(b.rollouts.sort_values(key).text)
    assert sample(data, work_dir='c', **{**kw, 'seed':4}).rollouts.text.tolist()!=a.rollouts.text.tolist()

@pytest.mark.skipif(not GSM8K.exists(), reason=f'no GSM8K rows at {GSM8K} (RSR_GSM8K names them)')
def test_gsm8k_with_a_transform(here):
    (here/'gsm.py').write_text("""
def shape(row):
    return dict(id=f"gsm-{row['row']}", messages=[dict(role='user', content=row['question'])],
                metadata=dict(answer=row['answer']))
""")
    write_jsonl('gsm8k.jsonl', [json.loads(line) for line in GSM8K.read_text().splitlines()[:3]])
    p = rsr('run', 'sft', 'data.input_path=gsm8k.jsonl', 'data.transform=gsm.py:shape', 'verifier.type=math-rlvr',
            'sampling.max_rollouts=4', 'sampler.max_tokens=120', 'work_dir=w')
    s = load_run('w').stats()
    assert p.returncode==(0 if s['scores']['passed'] else 4), p.stderr   # the embedded model seldom solves one
    assert s['prompts']['total']==3 and s['scores']['unscored']==0
    assert s['scores']['passed']+s['scores']['failed']==s['samples']['by_outcome']['kept']
