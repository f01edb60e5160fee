"What the benchmarks share: input files, processes that are timed, tables."
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RSR, HERE = str(Path(sys.executable).parent/'rsr'), Path(__file__).parent

def prompts_file(path, n):
    "Input rows `prompt 0` … whose right answer is A."
    with open(path, 'w') as f:
        for i in range(n):
            f.write(json.dumps(dict(id=f'q{i}', messages=[dict(role='user', content=f'prompt {i}')],
                                    metadata=dict(answer='A')))+'\n')
    return path

# as an installation has it: with compiled modules, which some machines for tests switch off
ENV = {k:v for k, v in os.environ.items() if k!='PYTHONDONTWRITEBYTECODE'}

def process(cmd, ok=(0,)):
    "Run a command that ends with one of these codes: (wall seconds, CPU seconds, output)."
    t0, c0 = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    p = subprocess.run(list(map(str, cmd)), capture_output=True, text=True, env=ENV)
    c1 = resource.getrusage(resource.RUSAGE_CHILDREN)
    if p.returncode not in ok:
        sys.exit(f'{cmd} ended with {p.returncode}:\n{p.stderr[-2000:]}')
    return time.perf_counter()-t0, c1.ru_utime+c1.ru_stime-c0.ru_utime-c0.ru_stime, p.stdout

def table(title, rows):
    "Print dicts as columns."
    print(f'\n## {title}')
    cols = list(rows[0])
    cells = [cols]+[[f'{v:.3g}' if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    wide = [max(len(r[i]) for r in cells) for i in range(len(cols))]
    for r in cells:
        print('  '.join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, wide))), flush=True)

def main(benchmarks):
    "Run the benchmarks that the command line names, or all; each gets an empty folder."
    names = [a for a in sys.argv[1:] if not a.startswith('-')] or list(benchmarks)
    print(f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}')
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            benchmarks[name](Path(folder))
