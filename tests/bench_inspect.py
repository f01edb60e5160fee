"""How long a look at a large run takes: `python tests/bench.py inspect`, or this file, with `rollouts=100000`.

A run of a million rollouts in one ledger, as one machine leaves it, made without a model: eight rollouts to a prompt,
SFT and DPO files. Then `rsr format`, `stats`, `check` and `report`, each in a process of its own: wall and CPU seconds,
and peak memory. Beside them stands one scan of the rollouts by the same SQLite, which says how fast this machine is."""
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bench_tools import RSR, main, table

ROLLOUTS, PER = 1_000_000, 8
BASE = 'http://127.0.0.1:9/v1'   # nobody is asked

def _prompts(rng, words, n):
    "Rows of the table of prompts; a third of them comes in three kinds, as a taxonomy has them."
    from rsr.data.files import dumps, fingerprint
    for key in range(1, n+1):
        place = dict(taxonomy=dict(topic=rng.choice(('algebra', 'geometry', 'logic')))) if key%3==0 else {}
        row = dict(messages=[dict(role='user', content=' '.join(rng.choices(words, k=20)))],
                   metadata=dict(answer='7', **place), extra={})
        yield key, f'q{key}', dumps(row), f'line {key}', fingerprint(key), 1

def _rollouts(rng, words, n, sampler):
    "Rows of the tables of rollouts and scores, in the order of sampling: each prompt has a pass rate of its own."
    rates = [rng.betavariate(.6, .6) for _ in range(n//PER)]
    for key in range(1, n+1):
        prompt, i = divmod(key-1, PER)
        cut = rng.random()<.04
        text = f'{" ".join(rng.choices(words, k=rng.randint(20, 100)))} \\boxed{{7}}'
        tokens = 2048 if cut else len(text)//4
        yield ((key, prompt+1, i, 1+i//4, i<4, sampler, 2048, 1.7e9+key/100, 'truncated' if cut else 'kept', text, '',
                'length' if cut else 'stop', 30, tokens, rng.lognormvariate(.5, .6)),
               None if cut else (key, float(rng.random()<rates[prompt]), '7'))

def _insert(db, rows, sampler, verifier, size=10_000):
    "Insert rollouts and their scores, some at a time."
    many = [], []
    def save():
        db.executemany(f"INSERT INTO rollouts VALUES({','.join('?'*15)},NULL,NULL,NULL,NULL)", many[0])
        db.executemany(f"INSERT INTO scores VALUES(?,{verifier},?,'',?,NULL)", many[1])
        [x.clear() for x in many]
    for rollout, score in rows:
        many[0].append(rollout)
        many[1].extend([score] if score else [])
        if len(many[0])==size:
            save()
    save()

STOPS = '''UPDATE prompts SET stop=CASE WHEN (SELECT count(DISTINCT value) FROM rollouts r JOIN scores s ON
    s.rollout=r.key WHERE r.prompt=prompts.key)=2 THEN 'satisfied' ELSE 'exhausted' END'''

def synthetic_run(work, rollouts=ROLLOUTS, seed=0):
    "Make a finished run in one ledger, without its files."
    from rsr.data.store import Store
    from rsr.run.recipe import load_recipe
    from rsr.run.saved_recipe import save_recipe
    rng, words = random.Random(seed), [f'word{i}' for i in range(1000)]
    d = load_recipe(dict(sampler=dict(model='synthetic', base_url=BASE), verifier=dict(type='math-rlvr'),
                         formatter=[dict(type='sft'), dict(type='dpo')]), [('work_dir', str(work))])
    st = Store(work)
    sampler = st.config_key('sampler', dict(type='http', model='synthetic'))
    verifier = st.config_key('verifier', dict(type='math-rlvr'))
    db = st.begin()
    db.executemany('INSERT INTO prompts VALUES(?,?,?,?,?,?,NULL)', _prompts(rng, words, rollouts//PER))
    _insert(db, _rollouts(rng, words, rollouts//PER*PER, sampler), sampler, verifier)
    db.execute(STOPS)
    for k, v in dict(gen=1, verifier=verifier, seconds=3600.).items():
        st.put(k, v)
    st.commit()
    save_recipe(st, d)
    st.close()
    return Path(work)

def one_scan(work):
    "Seconds of one scan of rollouts and scores: what no look at each of them can be faster than."
    db = sqlite3.connect(work/'run.db')
    t0 = time.perf_counter()
    db.execute('SELECT sum(length(text)), sum(value) FROM rollouts JOIN scores ON rollout=key').fetchone()
    seconds = time.perf_counter()-t0
    db.close()
    return seconds

def look(command, work):
    "One command on a run, as a row of the table; the peak is that of its largest process."
    t0 = time.perf_counter()
    p = subprocess.Popen([RSR, command, work], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = p.stderr.read().decode()
    _, status, used = os.wait4(p.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):   # 1: an item of the checklist fails
        sys.exit(f'rsr {command} failed:\n{said[-2000:]}')
    return dict(command=command, seconds=time.perf_counter()-t0, cpu_s=used.ru_utime+used.ru_stime,
                peak_MB=used.ru_maxrss//1024)

def inspect(tmp, rollouts=ROLLOUTS):
    "`rsr format`, `stats`, `check` and `report` on a large run."
    work = synthetic_run(tmp/'run', rollouts)
    size, scan = (work/'run.db').stat().st_size/1e6, one_scan(work)
    rows = [look(command, work) for command in ('format', 'stats', 'check', 'report')]
    for row in rows:
        row['times_scan'] = row['seconds']/scan
    table(f'inspect: {rollouts:,} rollouts, 8 to a prompt, {size:.0f} MB; one scan takes {scan:.2f} s', rows)

ALL = dict(inspect=inspect)

if __name__=='__main__':
    n = next((int(a.split('=')[1]) for a in sys.argv[1:] if a.startswith('rollouts=')), ROLLOUTS)
    sys.argv[1:] = []
    main(dict(inspect=lambda tmp: inspect(tmp, n)))
