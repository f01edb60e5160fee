"Rounds for the examples in this folder: ledgers filled by hand, so that no model is called."
import random
import tempfile
from pathlib import Path

from rsr.data.store import Store
from rsr.data.types import Prompt
from rsr.formatters.writer import make_formatters
from rsr.run.execution import close_run
from rsr.run.recipe import load_recipe
from rsr.run.results import load_run
from rsr.run.saved_recipe import save_recipe

FIRST = 2   # initial samples of a prompt

def prompt(i):
    "Return a prompt of the demo."
    return Prompt(f'q{i}', [dict(role='user', content=f'Question {i}?')], dict(answer=str(i)))

def sample(rate, most, rng):
    "Return the scores of a prompt: two at first, then one after the other until one passes."
    scores = [rng.random()<rate for _ in range(min(FIRST, most))]
    while not any(scores) and len(scores)<most:
        scores.append(rng.random()<rate)
    return scores

def fill(store, rates, most, rng, sampler, verifier):
    "Sample prompts, by their pass rates; prompts without one are left out."
    rows, scores, stops, key = [], [], [], 0
    for prompt, id_ in store.db.execute('SELECT key, id FROM prompts ORDER BY key').fetchall():
        rate = rates.get(id_)
        found = [] if rate is None else sample(rate, most, rng)
        for idx, ok in enumerate(found):
            key += 1
            text = f'It is {id_[1:] if ok else "unknown"}.'
            rows.append((key, prompt, idx, 1, idx<FIRST, sampler, 64, float(key), 'kept', text, 'stop', 20, 12))
            scores.append((key, verifier, float(ok)))
        stops.append(('solved' if rate is None else 'satisfied' if any(found) else 'max_rollouts', prompt))
    columns = ('key,prompt,idx,step,blind,sampler,max_tokens,asked,outcome,text,finish_reason,prompt_tokens,'
               'completion_tokens')
    db = store.begin()
    db.executemany(f'INSERT INTO rollouts({columns}) VALUES({",".join("?"*13)})', rows)
    db.executemany('INSERT INTO scores(rollout,verifier,value) VALUES(?,?,?)', scores)
    db.executemany('UPDATE prompts SET stop=? WHERE key=?', stops)
    store.commit()

def write_round(path, n, rates, seed=0, most=6, options=(), verifier='math-rlvr', formats=True):
    "Write a run over `n` prompts as if it had been sampled; `rates`: {id: pass rate} of those that it samples."
    d = load_recipe('sft', [f'work_dir={path}', f'verifier.type={verifier}', 'split.eval=0.2', 'split.near=false',
                            'sampler.model=student', f'sampling.max_rollouts={most}', *options])
    store = Store(path)
    store.add_prompts((f'row {i}', prompt(i)) for i in range(n))
    sampler = store.config_key('sampler', dict(type='demo', model=f'student-{Path(path).name}'))
    scorer = store.config_key('verifier', dict(type=verifier))
    store.put('verifier', scorer)
    fill(store, rates, most, random.Random(seed), sampler, scorer)
    save_recipe(store, d)
    if formats:
        close_run(store, d, make_formatters(d['formatter']))
    store.close()
    return load_run(path)

def first_rates(n, seed=0):
    "Return {id: pass rate} of `n` prompts before any training."
    rng = random.Random(seed)
    return {f'q{i}':rng.betavariate(.5, 1) for i in range(n)}

def trained(rates, gain=.45):
    "Return the pass rates after training: each prompt moves a part of the way to 1, a few to 0."
    return {k:p/4 if hash_of(k)<.04 else p+gain*(1-p) for k, p in rates.items()}

def hash_of(id_):
    "Return a number in [0, 1) that depends only on an id."
    return random.Random(id_).random()

def three_rounds(n=300, solved='one', **kw):
    "Return three rounds; a prompt that passed at once twice is checked with one sample later, or skipped."
    folder, rates, runs, known = Path(tempfile.mkdtemp()), first_rates(n), [], set()
    for i in range(3):
        asked = {k:p for k, p in rates.items() if solved!='skip' or k not in known}
        runs.append(write_round(folder/f'round{i+1}', n, asked, seed=i, **kw))
        known |= solved_in(runs[-1])
        rates = trained(rates)
    return runs

def solved_in(run):
    "Return the ids of the prompts that always passed."
    found = run.prompts
    return {*found.id[(found.mean_score==1) & (found.scored>=FIRST)]}
