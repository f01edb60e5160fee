"""What spreading a run costs and brings: `python tests/bench_cluster.py sampling formatting [rollouts=1000000]`.

Sampling: the same 1000 prompts against the loopback server (100 ms), by the plain loop and by 1, 2 and 4 actors of a
Ray cluster on this machine. Formatting: parts of a million synthetic rollouts, copied into the index, then written as
SFT and DPO files; rows per second and peak memory.
The numbers of one call can be compared with each other; they are not a scoreboard."""
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bench import SEED, SLOTS
from bench_tools import prompts_file, table
from loopback import spawn

HERE = Path(__file__).parent
RUN = '''import json, resource, sys, time
d, engine = json.loads(sys.argv[1]), sys.argv[2]
t0 = time.perf_counter()
if engine=='ray': from rsr.cluster.driver import execute_cluster as go
else: from rsr.run.execution import execute as go
go(d, progress=False)
print(json.dumps(dict(wall=time.perf_counter()-t0)))'''

def python(code, *args):
    "Run code in a process of its own; what its last line says, as JSON."
    p = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True)
    if p.returncode:
        sys.exit(p.stderr[-3000:])
    return json.loads(p.stdout.splitlines()[-1])

def sampling(tmp, n=1000):
    "Throughput, and slot time beside the server's latency, per rollout."
    from rsr.run.recipe import load_recipe
    file, out = str(prompts_file(tmp/'in.jsonl', n)), []
    with spawn(median=.1, seed=SEED) as server:
        for actors in (0, 1, 2, 4):
            server.reset()
            d = load_recipe('sft', [('data.input_path', file), ('sampler.base_url', server.base_url),
                                    ('sampler.concurrent_requests', SLOTS), ('work_dir', str(tmp/f'w{actors}'))])
            d = {**d, 'cluster':dict(actors=actors, block=n//8), 'engine':'ray'} if actors else d
            wall, s = python(RUN, json.dumps(d), d.get('engine', 'plain'))['wall'], server.stats()
            span = s['last_response']-s['first_request']
            out.append(dict(engine=f'ray, {actors} actors' if actors else 'one process', rollouts=s['samples'],
                            wall_s=wall, sampling_s=span, rollouts_per_s=s['samples']/span,
                            utilisation=s['latency']/SLOTS/span,
                            overhead_ms_per_rollout=1000*(span*SLOTS-s['latency'])/s['samples']/SLOTS))
    table(f'sampling: {n} prompts, SFT, step 4, {SLOTS} slots in all, 100 ms median latency', out)

# ---- formatting

def synthetic(work, rollouts, per=8, size=500):
    "Parts of a finished run, without a model."
    from rsr.data.files import dumps, fingerprint
    from rsr.data.parts import TABLES, block_keys, key_range, part_path, write_part
    from rsr.data.store import Store
    from rsr.run.recipe import load_recipe
    from rsr.run.saved_recipe import save_recipe
    rng, words = random.Random(0), [f'word{i}' for i in range(1000)]
    configs = [('sampler', fingerprint('s'), '{"type":"synthetic"}'),
               ('verifier', fingerprint('v'), '{"type":"math-rlvr"}')]
    d = load_recipe(dict(formatter=[dict(type='sft'), dict(type='dpo')]), [('work_dir', str(work))])
    for block in range(-(-rollouts//(per*size))):
        key, ps, rs, ss = key_range(block)[0], [], [], []
        for k in block_keys(block, size):
            row = dict(messages=[dict(role='user', content=' '.join(rng.choices(words, k=20)))],
                       metadata=dict(answer='7'), extra={})
            ps.append((k, f'q{k}', dumps(row), 'x', 'x', 1, 'satisfied'))
            for i in range(per):
                rs.append((key, k, f'q{k}', i, 1, i<4, configs[0][1], 2048, 0., 'kept',
                           ' '.join(rng.choices(words, k=60)), '', 'stop', 30, 90, 1., None, None))
                ss.append((key, configs[1][1], float(rng.random()<.5), '', '7', None))
                key += 1
        rows = dict(prompts=[ps], rollouts=[rs], scores=[ss], calls=[], verdicts=[])
        facts = dict(block=block, gen=1, seconds=0., verifier=configs[1][1], sides={}, configs=configs, state='x',
                     open=0)
        for t in sorted(TABLES, key=lambda t: t=='rollouts'):
            write_part(part_path(work, t, block), t, rows[t], facts)
    st = Store(work)
    st.put('block', size)
    st.commit()
    save_recipe(st, d)
    st.close()
    return d

INDEX = '''import json, resource, sys, time
from rsr.data.index import index_parts
t0 = time.perf_counter(); n = index_parts(sys.argv[1]); seconds = time.perf_counter()-t0
mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
print(json.dumps(dict(seconds=seconds, blocks=n, mb=mb)))'''
FORMAT = '''import json, resource, sys, time
from rsr.formatters.writer import make_formatters
from rsr.run.files import format_files
d = json.loads(sys.argv[2])
t0 = time.perf_counter(); rows = format_files(sys.argv[1], d, make_formatters(d['formatter']))
seconds, mb = time.perf_counter()-t0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
print(json.dumps(dict(seconds=seconds, rows=sum(rows.values()), mb=mb)))'''

def formatting(tmp, rollouts=1_000_000):
    "Index and files of a large run; memory of a run a tenth as large beside it."
    out = []
    for n in (rollouts//10, rollouts):
        work = tmp/f'f{n}'
        d = synthetic(work, n)
        size = sum(p.stat().st_size for p in (work/'parts').iterdir())/1e6
        for what, got in (('index', python(INDEX, work)), ('files', python(FORMAT, work, json.dumps(d)))):
            out.append(dict(what=what, rollouts=n, parts_mb=size, seconds=got['seconds'],
                            rollouts_per_s=n/got['seconds'], rows=got.get('rows', ''), peak_mb=got['mb']))
    table('formatting: 8 rollouts per prompt, SFT and DPO, blocks of 500 prompts', out)

def main():
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    args = sys.argv[1:] or ['sampling', 'formatting']
    n = next((int(a.split('=')[1]) for a in args if a.startswith('rollouts=')), 1_000_000)
    mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
    print(f'{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {mb} MB, {time.strftime("%Y-%m-%d %H:%M")}')
    with tempfile.TemporaryDirectory() as tmp:
        if 'sampling' in args:
            sampling(Path(tmp))
        if 'formatting' in args:
            formatting(Path(tmp), n)

if __name__ == '__main__':
    main()
