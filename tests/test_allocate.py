"""Which prompt is sampled next: the order of the input, by worth, evenly, or hard prompts first.

The real loop on an in-process sampler with draws that repeat, the real command line on a loopback server."""
import asyncio
import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from conftest import rows, rsr, write_jsonl
from loopback import draw, pass_rate

from rsr.data.store import Store
from rsr.data.threads import run_sync
from rsr.data.types import Prompt, Rollout
from rsr.formatters.writer import make_formatters
from rsr.sampling.budget import Budget
from rsr.sampling.loop import Loop
from rsr.sampling.schedule import Sampling
from rsr.verifiers.verifiers import load_verifier

class Instant:
    "A sampler that answers at once; the k-th answer to a prompt is always the same."
    config, drop_truncated, max_tokens, max_n = dict(type='instant'), True, 2048, 2**31
    patience, max_retries, price = 600, 5, None
    def __init__(self, slots=1, asked=None):
        self.concurrent_requests, self.k, self.order = slots, Counter(asked or {}), []
    async def ask(self, messages, n=1, seed=None):
        await asyncio.sleep(0)
        p, out = messages[-1]['content'], []
        for _ in range(n):
            right = draw(p, self.k[p], 0)
            text = rf'Answer {self.k[p]}: \boxed{{{"A" if right else "B"}}}'
            out.append(Rollout(text, '', 'stop', 'kept', prompt_tokens=10, completion_tokens=10))
            self.k[p] += 1
            self.order.append(p)
        return out
    async def close(self):
        pass

COUNTS = 'SELECT p.id, count(*) FROM rollouts r JOIN prompts p ON p.key=r.prompt GROUP BY 1'

def work(folder, n=300, samples=None, slots=1, types=('sft',), **o):
    "Sample prompts with a budget of so many samples; return (loop, {prompt: its number of samples})."
    store, limit = Store(folder), None if samples is None else 20*samples
    if not store.db.execute('SELECT 1 FROM prompts LIMIT 1').fetchone():
        store.add_prompts((f'line {i}', Prompt(f'q{i}', [dict(role='user', content=f'prompt {i}')], dict(answer='A')))
                          for i in range(n))
    had = {f'prompt {id_[1:]}':n for id_, n in store.db.execute(COUNTS)}
    formatters = make_formatters([t if isinstance(t, dict) else dict(type=t) for t in types])
    loop = Loop(store, Instant(slots, had), load_verifier('mcq-rlvr'), formatters, Sampling(**o), Budget(tokens=limit))
    run_sync(loop.run)
    counts = dict(store.db.execute(COUNTS))
    loop.rows = store.db.execute("SELECT count(*) FROM prompts WHERE stop='satisfied'").fetchone()[0]
    store.close()
    return loop, counts

ORDERS = 'rows', 'even', 'hard'

# ---- what is sampled

@pytest.mark.parametrize('types', [('sft',), ('dpo',), ('sft', 'dpo'), (dict(type='multi_sft', num_responses=3),)])
@pytest.mark.parametrize('allocate', ORDERS)
def test_without_a_limit_every_order_samples_the_same(tmp_path, allocate, types):
    "Only the order differs: in the end each prompt has what step_size auto would have given it."
    _, auto = work(tmp_path/'auto', types=types, step_size='auto')
    _, counts = work(tmp_path/'other', types=types, allocate=allocate)
    assert counts==auto

@pytest.mark.parametrize('allocate', ORDERS)
@pytest.mark.parametrize('window', [1, 7, 64])
def test_parked_prompts_come_back(tmp_path, allocate, window):
    whole, counts = work(tmp_path/'whole', allocate=allocate, slots=16)
    loop, parked = work(tmp_path/'parked', allocate=allocate, window=window, slots=16)
    assert parked==counts and loop.rows==whole.rows and not loop.has_waiting

def test_the_default_order_is_as_ever(tmp_path):
    loop, counts = work(tmp_path, 20)
    order = loop.sampler.order
    assert loop.waiting==() and order[:8]==[f'prompt {i}' for i in (0, 0, 0, 0, 1, 1, 1, 1)]

# ---- rows

def test_more_rows_of_as_many_samples(tmp_path):
    for types, least in ((('sft',), 1.4), ((dict(type='multi_sft', num_responses=4),), 2.), (('dpo',), 1.05)):
        name = str(types)
        given, _ = work(tmp_path/f'{name}', 500, samples=900, types=types)
        best, _ = work(tmp_path/f'{name} rows', 500, samples=900, types=types, allocate='rows')
        assert best.rows>=least*given.rows, (types, best.rows, given.rows)

def test_new_prompts_before_those_that_failed(tmp_path):
    "With one pass needed, a prompt that failed is worth less than one that nobody has tried."
    loop, counts = work(tmp_path, 300, samples=200, allocate='rows')
    assert set(counts.values())=={1} and len(counts)==200

def test_prompts_that_no_sample_was_spent_on_stay_untouched(tmp_path):
    work(tmp_path, 300, samples=100, allocate='rows')
    with closing(sqlite3.connect(tmp_path/'run.db')) as db:
        assert db.execute("SELECT count(DISTINCT prompt) FROM rollouts").fetchone()[0]==100
        assert {stop for stop, in db.execute('SELECT stop FROM prompts')}=={'satisfied', 'budget'}

# ---- even

@pytest.mark.parametrize('slots', [1, 32])
@pytest.mark.parametrize('window', [16, 4096])
def test_even_gives_no_prompt_a_sample_before_the_others(tmp_path, slots, window):
    loop, counts = work(tmp_path, 200, samples=700, allocate='even', slots=slots, window=window)
    seen = Counter()
    satisfied = set()
    for p in loop.sampler.order:
        open_ = [n for q, n in ((f'prompt {i}', seen[f'prompt {i}']) for i in range(200)) if q not in satisfied]
        assert seen[p]<=min(open_)+(0 if slots==1 else 1)
        if draw(p, seen[p], 0):
            satisfied.add(p)
        seen[p] += 1

# ---- hard

def test_hard_brings_more_rows_of_hard_prompts(tmp_path):
    "The hardest fifth by the true pass rates."
    rates = {f'q{i}':pass_rate(f'prompt {i}', 0) for i in range(1000)}
    hardest = set(sorted(rates, key=rates.get)[:200])
    found = {}
    for allocate in (None, 'rows', 'hard'):
        folder = tmp_path/str(allocate)
        work(folder, 1000, samples=1500, allocate=allocate, max_rollouts=32)
        with closing(sqlite3.connect(folder/'run.db')) as db:
            satisfied = [id_ for id_, in db.execute("SELECT id FROM prompts WHERE stop='satisfied'")]
            found[allocate] = sum(id_ in hardest for id_ in satisfied)
    assert found['hard']>=1.5*found['rows'] and found['hard']>=1.5*found[None], found

# ---- memory and resume

def test_few_prompts_are_open_at_a_time(tmp_path, monkeypatch):
    sizes = []
    park = Loop.park
    monkeypatch.setattr(Loop, 'park', lambda self: (park(self), sizes.append(len(self.open)))[0])
    work(tmp_path, 3000, allocate='even', window=100, slots=16)
    assert max(sizes)<=100+64+16

@pytest.mark.parametrize('allocate', ORDERS)
def test_resumed_it_goes_on_as_it_would_have(tmp_path, allocate):
    whole, counts = work(tmp_path/'whole', 500, samples=1000, allocate=allocate)
    for samples in (300, 301, 700, 1000):
        parts, resumed = work(tmp_path/'parts', 500, samples=samples, allocate=allocate)
    assert sum(resumed.values())==sum(counts.values())
    assert abs(parts.rows-whole.rows)<=.04*whole.rows
    share = lambda c: Counter(c.values())
    assert sum((share(counts)-share(resumed)).values())<=.15*len(counts)

def test_resumed_no_prompt_is_opened_while_another_is_worth_more(tmp_path):
    work(tmp_path, 300, samples=350, allocate='rows')
    loop, counts = work(tmp_path, 300, samples=400, allocate='rows')
    assert len(counts)==300 and max(counts.values())==2

# ---- the command line

def test_from_the_shell(tmp_path, server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl('in.jsonl', rows(100))
    words = ['data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'sampler.max_tokens=64',
             'budget.tokens=3500']
    made = {}
    for allocate in ('null', 'rows', 'even', 'hard'):
        p = rsr('run', 'sft', *words, f'work_dir=w_{allocate}', f'sampling.allocate={allocate}')
        assert p.returncode==3, p.stderr
        made[allocate] = (tmp_path/f'w_{allocate}'/'train'/'sft.jsonl').read_text().count('\n')
    assert min(made['rows'], made['even'])>1.2*made['null'], made
    assert 'allocate: hard\n' in (tmp_path/'w_hard'/'recipe.yaml').read_text()
