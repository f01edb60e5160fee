"""Run the job in each way against the loopback server: `python tests/peers/measure.py NAME=PYTHON …`, e.g.
`script=.venv/bin/python rsr=.venv/bin/python distilabel=/tmp/d/bin/python curator=/tmp/c/bin/python`.
Prints requests, samples, rows, and processor seconds with those of an empty job taken off."""
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from loopback import spawn

def seconds():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime+u.ru_stime

def prompts(path, n):
    "Prompts for the loopback server, whose right answer is A."
    Path(path).write_text(''.join(json.dumps(dict(id=f'q{i}', messages=[dict(role='user', content=f'Problem {i}')],
                                                  metadata=dict(answer='A')))+'\n' for i in range(n)))

def command(name, python, base_url, rows, out):
    if name == 'rsr':
        return [python, '-c', 'import sys; from rsr.cli import main; sys.exit(main(sys.argv[1:]))', 'run', 'sft',
                f'data.input_path={rows}', f'sampler.base_url={base_url}', 'sampler.model=loopback-1',
                'verifier.type=mcq-rlvr', 'sampling.max_rollouts=4', 'sampling.step_size=auto', f'work_dir={out}',
                'sampler.temperature=0.8', 'sampler.max_tokens=512', 'sampler.concurrent_requests=32', 'progress=none']
    return [python, HERE/f'job_{name}.py', base_url, rows, out]

def main(jobs, n=400):
    env = {**os.environ, 'TELEMETRY_ENABLED': '0', 'CURATOR_DISABLE_CACHE': '1', 'CURATOR_VIEWER': '0',
           'LITELLM_LOCAL_MODEL_COST_MAP': 'True', 'HF_HUB_OFFLINE': '1', 'OPENAI_API_KEY': 'none'}
    for name, python in (job.split('=') for job in jobs):
        with tempfile.TemporaryDirectory() as tmp, spawn(median=.1) as server:
            env['HOME'] = env['CURATOR_CACHE_DIR'] = tmp
            spent = []
            for size in (1, n):
                prompts(f'{tmp}/{size}.jsonl', size)
                before, start = seconds(), time.perf_counter()
                done = subprocess.run(command(name, python, server.base_url, f'{tmp}/{size}.jsonl', f'{tmp}/out{size}'),
                                      env=env, cwd=tmp, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f'{name}: {done.stdout[-2000:]}{done.stderr[-3000:]}')
                spent.append((seconds()-before, time.perf_counter()-start))
            out = Path(tmp)/f'out{n}'
            file = out/'train/sft.jsonl' if out.is_dir() else out
            (idle, _), (busy, wall) = spent
            stats = server.stats()
            print(json.dumps(dict(name=name, rows=len(file.read_text().splitlines()), stats=stats,
                                  cpu=round(busy-idle, 2), start=round(idle, 2), wall=round(wall, 1))), flush=True)

if __name__ == '__main__':
    main(sys.argv[1:])
