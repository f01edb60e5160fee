"Rounds: what a run knows of the one before, what it then samples, and what it writes."
import sqlite3

import pytest
from conftest import read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback

from rsr import load_run, sample

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
