"""How fast sampling is, and how few samples it needs: `make bench`.

Or `python tests/bench.py speed start cost bad dpo overhead memory format inspect goal batch allocate prior`; the last
four, on what a row costs, are in tests/bench_cheapest.py, and `inspect`, a look at a million rollouts, in
tests/bench_inspect.py. Every number is printed beside what it is compared with, measured in the same run: ratios at one
moment on one machine, not a scoreboard. The peers are tests/peer_aiohttp.py, a bare script on aiohttp, and
tests/peer_openai.py, a plain script on the openai SDK (both step 4, no barrier between prompts)."""
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import bench_cheapest
import bench_inspect
from bench_tools import HERE, RSR, main, process, prompts_file, table
from loopback import Loopback, draw, least, spawn

# of twelve seeds the one whose draws are most like those of published measurements
SLOTS, SEED = 128, 6
VERSIONS = ', '.join(f'{name} {version(name)}' for name in ('aiohttp', 'openai'))

def rsr_run(server, file, work, *args):
    "One `rsr run` against the server: wall, CPU and what the server saw."
    server.reset()
    cmd = [RSR, 'run', *args, f'data.input_path={file}', f'sampler.base_url={server.base_url}',
           f'sampler.concurrent_requests={SLOTS}', f'work_dir={work}']
    wall, cpu, _ = process(cmd)
    return wall, cpu, server.stats()

def utilisation(s, wall):
    return s['latency']/SLOTS/wall

# ---- HTTP: speed and cost

def speed(tmp, repeats=5):
    "SFT on 1000 prompts, step 4 and auto, against the two peers, interleaved; medians, process start included."
    file = prompts_file(tmp/'p1000.jsonl', 1000)
    for median in (.1, 1.):
        with spawn(median=median, seed=SEED) as server:
            rows = interleaved(server, peers(server, file), repeats if median<1 else 1, tmp/f'{median}')
        for row in rows:
            row['times_aiohttp'] = row['wall_s']/next(r['wall_s'] for r in rows if r['client']=='aiohttp')
        table(f'speed: 1000 prompts, {SLOTS} slots, median latency {median:g} s ({VERSIONS})', rows)

def peers(server, file):
    "The command of each client; rsr ends where it writes its run."
    run = [RSR, 'run', 'sft', f'data.input_path={file}', f'sampler.base_url={server.base_url}',
           'sampler.model=loopback-1', f'sampler.concurrent_requests={SLOTS}']
    more = '--base_url', server.base_url, '--slots', SLOTS
    return {'rsr':[*run, 'work_dir={}'], 'rsr auto':[*run, 'sampling.step_size=auto', 'work_dir={}'],
            'aiohttp':[sys.executable, HERE/'peer_aiohttp.py', *more, '--prompts', file, '--out', '{}.jsonl'],
            'openai':[sys.executable, HERE/'peer_openai.py', *more, '--prompts', 1000, '--out', '{}.jsonl']}

def interleaved(server, clients, repeats, tmp):
    "Run each client in turn, `repeats` times after one for the caches: the medians of each."
    found = {name:[] for name in clients}
    tmp.mkdir()
    for i in range(repeats+1):
        for name, cmd in clients.items():
            server.reset()
            began = time.time()
            wall, cpu, _ = process([str(word).replace('{}', str(tmp/f'{name}{i}')) for word in cmd])
            s = server.stats()
            found[name].append(dict(wall_s=wall, start_s=s['first_request']-began, cpu_s=cpu, samples=s['samples'],
                                    requests=s['requests'], ms_cpu_per_request=1000*cpu/s['requests'],
                                    utilisation=utilisation(s, wall)))
    return [dict(client=name, **{k:statistics.median(r[k] for r in rows[1:]) for k in rows[0]})
            for name, rows in found.items()]

def start(tmp, repeats=9):
    "How long the shortest commands take, whole process: medians, and CPU."
    commands = {'python -c pass':'pass', 'import rsr':'import rsr', 'import aiohttp, orjson':'import aiohttp, orjson',
                'rsr --help':None, 'rsr run --help':None, 'rsr --version':None}
    cmds = {name:[sys.executable, '-c', code] if code else [RSR, *name.split()[1:]] for name, code in commands.items()}
    found = {name:[] for name in cmds}
    for _ in range(repeats+1):
        for name, cmd in cmds.items():
            found[name].append(process(cmd)[:2])
    rows = [dict(command=name, wall_s=statistics.median(w for w, _ in times[1:]),
                 cpu_s=statistics.median(c for _, c in times[1:])) for name, times in found.items()]
    table('start: whole process', rows)

def cost(tmp):
    "SFT on 4000 prompts with step_size auto: what is bought beyond the least possible, and how full the slots are."
    file, rows = prompts_file(tmp/'p4000.jsonl', 4000), []
    need = sum(least(f'prompt {i}', SEED)[0] for i in range(4000))
    for median in (.1, .3):
        with spawn(median=median, seed=SEED) as server:
            for step in ('auto', 4):
                wall, cpu, s = rsr_run(server, file, tmp/f'cost{median}{step}', 'sft', f'sampling.step_size={step}')
                span = s['last_response']-s['first_request']
                rows.append(dict(step=str(step), median_s=median, samples=s['samples'], times_least=s['samples']/need,
                                 utilisation_sampling=utilisation(s, span),
                                 wall_s=wall, ms_cpu_per_request=1000*cpu/s['requests']))
    table(f'cost: 4000 prompts, SFT; the least possible, one at a time, is {need}', rows)

# ---- prompts that the server never answers, among others

def bad_reply(bad):
    "A server's `reply`: HTTP 500 at once for the bad prompts, a right answer after 0.25 s for the others."
    async def reply(body):
        if body['messages'][-1]['content'] in bad:
            return 500, dict(error=dict(message='Internal Server Error'))
        await asyncio.sleep(.25)
        return [r'The answer is \boxed{A}']*(body.get('n') or 1)
    return reply

def bad(tmp, n=2000):
    "SFT on 2000 prompts of which one, or forty, always fail: how long the good ones take, and what they take alone."
    file, rows = prompts_file(tmp/'bad.jsonl', n), []
    for many in (0, 1, 40):
        prompts = {f'prompt {i*n//max(many, 1)+4}' for i in range(many)}
        with Loopback(reply=bad_reply(prompts), log=True) as server:
            start = time.time()
            subprocess.run([RSR, 'run', 'sft', f'data.input_path={file}', f'sampler.base_url={server.base_url}',
                            'sampling.step_size=1', f'work_dir={tmp/f"bad{many}"}'], capture_output=True)
            wall = time.time()-start
            good = max(e['time'] for e in server.log if e['prompt'] not in prompts)
            rows.append(dict(bad=many, good_s=good-start, wall_s=wall))
    for row in rows:
        row['times_alone'] = row['good_s']/rows[0]['good_s']
    table(f'bad prompts: {n} prompts, 50 slots, 0.25 s an answer', rows)

# ---- no HTTP: a sampler in the process

class Instant:
    "A sampler that answers at once, from the loopback server's draws."
    config, drop_truncated, max_tokens, max_n = dict(type='instant'), True, 2048, 2**31
    patience, max_retries, price = 600, 5, None
    def __init__(self, slots=SLOTS, rate=None):
        self.concurrent_requests, self.k, self.rate, self.asked = slots, {}, rate, 0
    async def ask(self, messages, n=1, seed=None):
        from rsr.data.types import Rollout
        await asyncio.sleep(0)   # as a real answer does, it comes in another round
        p, out = messages[-1]['content'], []
        for _ in range(n):
            k = self.k[p] = self.k.get(p, -1)+1
            right = draw(p, k, SEED) if self.rate is None else random.random()<self.rate
            answer = 'A' if right else 'B'
            content = rf'After some thought about it I am sure: the answer is \boxed{{{answer}}}'
            out.append(Rollout(content, '', 'stop', 'kept', completion_tokens=15, latency=.1))
        self.asked += n
        if self.rate is not None:
            self.k.clear()
        return out
    async def close(self):
        pass

def loop_on(work, n, sampler, formatters, **sampling):
    "Run the loop on `n` prompts with an in-process sampler: (loop, CPU seconds of loading, CPU seconds of sampling)."
    from rsr.data.store import Store
    from rsr.data.threads import run_sync
    from rsr.data.types import Prompt
    from rsr.formatters.writer import make_formatters
    from rsr.sampling.loop import Loop
    from rsr.sampling.schedule import Sampling
    from rsr.verifiers.verifiers import load_verifier
    store, t0 = Store(work), time.process_time()
    store.add_prompts((f'line {i}', Prompt(f'q{i}', [dict(role='user', content=f'prompt {i}')], dict(answer='A')))
                      for i in range(n))
    formatters = make_formatters(formatters)
    loop = Loop(store, sampler, load_verifier('mcq-rlvr'), formatters, Sampling(**sampling))
    t1 = time.process_time()
    run_sync(loop.run)
    loop.seconds = t1-t0, time.process_time()-t1
    store.close()
    return loop

def dpo(tmp, n=1000):
    "The DPO recipe: fixed step 8 against auto with give_up; pairs and samples."
    rows, base = [], None
    for label, kw in [('step 8', dict(step_size=8, max_steps=4)), ('auto', dict(step_size='auto')),
                      ('auto, give_up 0.1', dict(step_size='auto', give_up=.1)),
                      ('auto, give_up 0.2', dict(step_size='auto', give_up=.2)),
                      ('auto, give_up 0.3', dict(step_size='auto', give_up=.3))]:
        s = Instant()
        loop = loop_on(tmp/label, n, s, [dict(type='dpo')], max_rollouts=32, **kw)
        base = base or (s.asked, loop.n['satisfied'])
        rows.append(dict(rule=label, samples=s.asked, pairs=loop.n['satisfied'], samples_share=s.asked/base[0],
                         pairs_share=loop.n['satisfied']/base[1], gave_up=loop.n['gave_up']))
    table(f'DPO within 32: {n} prompts', rows)

def overhead(tmp, n=5000):
    "CPU of engine, ledger, scoring and scheduling per rollout: everything but the HTTP client."
    rows = []
    for label, kw in [('step 4', dict(step_size=4)), ('auto', dict(step_size='auto'))]:
        s = Instant()
        loop = loop_on(tmp/f'o{label}', n, s, [dict(type='sft')], max_rollouts=16, **kw)
        rows.append(dict(rule=label, rollouts=s.asked, us_cpu_per_rollout=1e6*loop.seconds[1]/s.asked,
                         us_cpu_loading_per_prompt=1e6*loop.seconds[0]/n,
                         bytes_on_disk_per_rollout=(tmp/f'o{label}'/'run.db').stat().st_size/s.asked))
    table(f'overhead: in-process sampler, {n} prompts, SFT', rows)

MEMORY = '''
import resource, sys, time; sys.path.insert(0, {here!r})
from pathlib import Path
import bench
t0 = time.perf_counter()
s = bench.Instant(rate=.7)
loop = bench.loop_on(Path({work!r}), {n}, s, [dict(type='sft')], step_size={step!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024, s.asked, time.perf_counter()-t0)
'''

def memory(tmp, sizes=(1000, 100_000, 1_000_000)):
    "Peak memory of a process that samples so many prompts."
    rows, first = [], None
    for n in sizes:
        work = tmp/f'm{n}'
        _, _, out = process([sys.executable, '-c', MEMORY.format(here=str(HERE), work=str(work), n=n, step='auto')])
        mb, asked, wall = map(float, out.split())
        first = first or mb
        rows.append(dict(prompts=n, peak_MB=mb, growth_MB=mb-first, rollouts=int(asked),
                         bytes_per_rollout=(mb-first)*2**20/asked, wall_s=wall, rollouts_per_s=asked/wall))
        for f in work.iterdir():
            f.unlink()
    table('memory: in-process sampler, step_size auto, SFT', rows)

def format_(tmp, n=20_000):
    "Writing files from the ledger, against reading and writing as many lines of plain JSON."
    from rsr.data.store import Store
    from rsr.formatters.writer import make_formatters, write_files
    work = tmp/'format'
    loop_on(work, n, Instant(rate=.6), [dict(type='sft')], step_size=1, max_rollouts=4)
    store, rows = Store(work, write=False), []
    for types in (['sft'], ['multi_sft']):
        t0 = time.perf_counter()
        counts = write_files(((p, rs) for p, _, rs in store.walk(outcomes=('kept',))),
                             make_formatters([dict(type=t) for t in types]), tmp/'out')
        t = time.perf_counter()-t0
        file = tmp/'out'/'train'/f'{types[0]}.jsonl'
        t0 = time.perf_counter()
        with open(file) as f, open(tmp/'copy', 'w') as g:
            for line in f:
                g.write(json.dumps(json.loads(line))+'\n')
        plain = time.perf_counter()-t0
        made = counts[file.name]['rows']
        rows.append(dict(formatter=types[0], rows=made, rows_per_s=int(made/t), plain_json_rows_per_s=int(made/plain),
                         times_plain=plain/t))
    table('formatting', rows)

ALL = dict(speed=speed, start=start, cost=cost, bad=bad, dpo=dpo, overhead=overhead, memory=memory, format=format_,
           **bench_inspect.ALL, **bench_cheapest.ALL)

if __name__=='__main__':
    main(ALL)
