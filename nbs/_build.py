"The notebooks' tools: `python nbs/_build.py {run,readme,py,nb,check,wheel}`; CONTRIBUTING.md says when to use which."
import argparse
import difflib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

from _pages import INDEX, NBS, ROOT, find, numbered, rel, stale_site, text, tutorials, write_site

README, QUARTO = ROOT/'README.md', ROOT/'_quarto.yml'
WIDGET_VIEW, WIDGET_STATE = 'application/vnd.jupyter.widget-view+json', 'application/vnd.jupyter.widget-state+json'
ANSI = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')
HEAVY = 'litellm', 'pandas', 'matplotlib', 'IPython', 'nbdev'  # must not come with `import rsr`


def save(nb, path):
    "Write `nb` (a plain dict) cleaned, the way `nbdev_clean` would leave it."
    from execnb.nbio import write_nb
    from nbdev.clean import clean_nb
    nb['metadata']['kernelspec'] = dict(name='python3', display_name='python3', language='python')
    clean_nb(nb)
    nb['metadata'].pop('jupytext', None)
    write_nb(nb, path)


# ---- run: execute in place, and save outputs that a second run on another machine would give again

def tidy_text(s, folder):
    "Return what a terminal would show of `s`, without colours, folders of this machine and random names."
    s = ANSI.sub('', s)
    s = re.sub(r'[^\n]*\r(?!\n)', '', s)
    for a,b in [(folder, '.'), (ROOT, os.path.relpath(ROOT, folder)), (Path.home(), '~')]:
        if len(str(a)) > 1:
            s = re.sub(rf'(?<![\w.~/-]){re.escape(str(a))}(?![\w.-])', b, s)
    return re.sub(rf'({re.escape(tempfile.gettempdir())}/tmp)[a-z0-9_]{{8}}\b', r'\1', s)

def is_bar(o):
    "Tell whether an output is a progress bar, which never looks the same twice."
    s = text(o.get('text') or o.get('data', {}).get('text/plain', ''))
    if o['output_type'] == 'stream':
        return o['name'] == 'stderr' and bool(re.search(r'\r|\d+%\|', s))
    return WIDGET_VIEW in o.get('data', {}) and bool(re.search(r'\d+%\|', s))

def tidy_outputs(nb, folder):
    for c in nb['cells']:
        if c['cell_type'] != 'code':
            continue
        c['outputs'] = [o for o in c['outputs'] if not is_bar(o)]
        for o in c['outputs']:
            for d,k in [(o, 'text'), *((o.get('data', {}), k) for k in o.get('data', {}) if k.startswith('text/'))]:
                if k in d:
                    d[k] = tidy_text(text(d[k]), folder).splitlines(True)
            if 'traceback' in o:
                o['traceback'] = [tidy_text(s, folder) for s in o['traceback']]
            if o['output_type'] in ('display_data', 'execute_result'):
                o['metadata'] = {}

def tidy_widgets(nb, name):
    "Keep only the widget models that are shown, and number them instead of naming them at random."
    state = nb['metadata'].get('widgets', {}).get(WIDGET_STATE, {}).get('state', {})
    views = [o['data'] for c in nb['cells'] for o in c.get('outputs', []) if WIDGET_VIEW in o.get('data', {})]
    todo = [data[WIDGET_VIEW]['model_id'] for data in views]
    names = {}
    while todo:
        k = todo.pop(0)
        if k in names or k not in state:
            continue
        names[k] = hashlib.md5(f'{name}/{len(names)}'.encode()).hexdigest()
        todo += re.findall(r'IPY_MODEL_([0-9a-f]{32})', json.dumps(state[k]))
    if not names:
        nb['metadata'].pop('widgets', None)
    if not names:
        return nb
    for k in names:
        if state[k]['model_name'] == 'LayoutModel':
            state[k]['state'] = {a: v for a,v in state[k]['state'].items() if v is not None}
    nb['metadata']['widgets'][WIDGET_STATE]['state'] = {k: state[k] for k in names}
    return json.loads(re.sub('|'.join(names), lambda m: names[m[0]], json.dumps(nb)))

def skipped(cell):
    "Cells that `nbdev_test` leaves out too: `#| eval: false`, and the export at the end."
    return bool(re.search(r'^#\|\s*eval:\s*false', cell.source, re.M)) or 'nbdev_export(' in cell.source

def execute(path, timeout):
    "Run the notebook at `path` in its folder and save it with its outputs; return an error message, or None."
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class Client(NotebookClient):
        at = 0
        def create_kernel_manager(self):  # this Python, whatever kernels are installed
            self.km = AsyncKernelManager(kernel_name='python3', kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
            return self.km
        async def async_execute_cell(self, cell, cell_index, **kw):
            self.at = cell_index
            if cell.cell_type == 'code' and skipped(cell):
                return cell
            return await super().async_execute_cell(cell, cell_index, **kw)

    nb = nbformat.read(path, as_version=4)
    run = Client(nb, timeout=timeout, record_timing=False, coalesce_streams=True,
                 resources={'metadata': {'path': str(path.parent)}}, extra_arguments=['--IPKernelApp.log_level=ERROR'])
    env = dict(os.environ, PYTHONHASHSEED='0', PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    try:
        run.execute(env=env)
    except Exception as e:
        why = ANSI.sub('', getattr(e, 'traceback', '') or f'{type(e).__name__}: {e}').strip()
        return f'{rel(path)}, cell {run.at} of {len(nb.cells)} failed; the file was left as it was.\n\n{why}'
    nb = json.loads(nbformat.writes(nb))
    tidy_outputs(nb, path.parent)
    save(tidy_widgets(nb, path.stem), path)

def run(only, tutorials_, timeout):
    "Execute notebooks in place, in the order of their numbers; stop at the first that fails."
    nbs = [find(o) for o in only] or (tutorials() if tutorials_ else numbered())
    for i,p in enumerate(nbs, 1):
        print(f'[{i}/{len(nbs)}] {rel(p)} …', end=' ', flush=True)
        start = time.perf_counter()
        err = execute(p, timeout)
        print('FAILED' if err else f'{time.perf_counter()-start:.1f} s', flush=True)
        if err:
            sys.exit(err)


# ---- readme: README.md from index.ipynb

class Table(HTMLParser):
    "The rows of an HTML table, as lists of text."
    def __init__(self, s):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(s)
    def handle_starttag(self, tag, attrs):
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')
            self.inside = True
    def handle_endtag(self, tag):
        if tag in ('td', 'th'):
            self.inside = False
    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += ' '.join(data.replace('|', r'\|').split('\n'))

    def markdown(self):
        "Return a pipe table, or None if rows differ in length."
        if len(self.rows) < 2 or len({len(r) for r in self.rows}) > 1:
            return
        head, *body = (f'| {" | ".join(c.strip() for c in r)} |' for r in self.rows)
        return '\n'.join([head, '|---'*len(self.rows[0])+'|', *body])

def fence(s, lang):
    ticks = '```'
    while ticks in s:
        ticks += '`'
    return f'{ticks}{lang}\n{s.rstrip()}\n{ticks}'

def output_md(o, images):
    "One output as Markdown; pictures are added to `images` (path → bytes)."
    d = {k: text(v) for k,v in o.get('data', {}).items() if isinstance(v, (str, list))}
    if o['output_type'] == 'stream':
        return fence(text(o['text']), 'text') if o['name'] == 'stdout' else None
    if o['output_type'] == 'error':
        return fence(f'{o["ename"]}: {o["evalue"]}', 'text')
    if 'text/markdown' in d:
        return d['text/markdown'].strip()
    if 'image/png' in d:
        p = NBS/'images'/f'readme_{len(images)+1}.png'
        images[p] = b64decode(d['image/png'])
        return f'![]({rel(p)})'
    table = Table(d.get('text/html', '')).markdown()
    return table or ('text/plain' in d and fence(d['text/plain'], 'text')) or None

def relink(s):
    "Links of a page in nbs/ as a page in the top folder needs them."
    def sub(m):
        return f']({Path(os.path.normpath("nbs/"+m[1])).as_posix()}{m[2] or ""})'
    parts = re.split(r'(^```.*?^```)', s, flags=re.M|re.S)
    link = re.compile(r'\]\((?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?\)')
    return ''.join(p if i%2 else link.sub(sub, p) for i, p in enumerate(parts))   # odd parts are code

def cell_md(cell, images):
    "One cell as a list of Markdown blocks."
    from nbdev.process import extract_directives
    if cell.cell_type == 'raw':
        return []
    if cell.cell_type == 'markdown':
        return [relink('\n'.join(o for o in cell.source.strip().splitlines() if not o.startswith(':::')))]
    dirs = {k.rstrip(':'): v for k,v in extract_directives(cell).items()}
    if dirs.keys() & {'hide', 'export', 'exporti', 'default_exp'} or dirs.get('include') == ['false']:
        return []
    hidden = re.compile(r'^#\||#\|\s*hide_line\s*$')
    lines = [line for line in cell.source.strip().splitlines() if not hidden.search(line)]
    src = [fence('\n'.join(lines), 'python')] if lines and dirs.get('echo') != ['false'] else []
    return src + ([output_md(o, images) for o in cell.outputs] if dirs.get('output') != ['false'] else [])

def readme_text():
    "Return README.md and its pictures (path → bytes), as index.ipynb gives them."
    from execnb.nbio import read_nb
    images = {}
    blocks = [b for c in read_nb(INDEX).cells if text(c.source).strip() for b in cell_md(c, images)]
    head = '<!-- made from nbs/index.ipynb by `make readme`: edit the notebook, not this file -->'
    return '\n\n'.join([head, *filter(None, blocks)])+'\n', images

def readme(check=False):
    "Write README.md, the sidebar and llms.txt; with `check`, return what is stale instead."
    new, images = readme_text()
    if not check:
        write_site()
        README.write_text(new, encoding='utf-8')
        for p,b in images.items():
            p.parent.mkdir(exist_ok=True)
            p.write_bytes(b)
        return []
    old = README.read_text(encoding='utf-8') if README.exists() else ''
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), 'README.md', 'nbs/index.ipynb', lineterm='')
    diff = '\n'.join(lines)
    stale = [rel(p) for p,b in images.items() if not p.exists() or p.read_bytes() != b]
    says = 'is not what nbs/index.ipynb gives: make readme'
    return ([f'README.md {says}\n{diff}'] if old != new else []) + [f'{p} {says}' for p in stale]


# ---- py, nb: edit a notebook as text

def to_py(name, out=None):
    "Write the notebook as a percent script, and say where."
    import jupytext
    nb = jupytext.read(find(name))
    nb.metadata = {'jupytext': {'notebook_metadata_filter': '-all', 'cell_metadata_filter': '-all'}}
    out = Path(out or Path(tempfile.gettempdir())/f'{find(name).stem}.py')
    out.write_text(jupytext.writes(nb, 'py:percent'), encoding='utf-8')
    print(out)

def to_nb(name, src):
    "Merge a percent script into the notebook (or make it): cells keep their ids, and unchanged cells their outputs."
    import jupytext
    import nbformat
    path = find(name, new=True)
    new = json.loads(nbformat.writes(jupytext.reads(Path(src).read_text(encoding='utf-8'), 'py:percent')))
    was = json.loads(path.read_text(encoding='utf-8')) if path.exists() else dict(cells=[], metadata={})
    new.update(metadata=was['metadata'], nbformat=4, nbformat_minor=5)
    old = was['cells']
    key = lambda c: (c['cell_type'], text(c['source']))
    match = difflib.SequenceMatcher(None, [*map(key, old)], [*map(key, new['cells'])], autojunk=False)
    for op, a, b, i, j in match.get_opcodes():
        if op not in ('equal', 'replace'):
            continue
        for o,n in zip(old[a:b], new['cells'][i:j]):
            n['id'] = o['id']
            if op == 'equal' and 'outputs' in o:
                n['outputs'] = o['outputs']
    save(tidy_widgets(new, path.stem), path)
    print(f'{rel(path)}: {len(new["cells"])} cells')


# ---- check: notebooks, package, README and site say the same

def tracked():
    "Return every file that exporting and cleaning may touch, with its bytes."
    files = [p for pat in ('nbs/**/*.ipynb', 'rsr/**/*.py') for p in ROOT.glob(pat)]
    files = [p for p in files if not p.parent.name.startswith(('.', '_'))]
    return {p: p.read_bytes() for p in files}

def check_step():
    "`nbdev_export` and `nbdev_clean` must change nothing."
    before = tracked()
    for cmd in ('export', 'clean'):
        code = f'from nbdev.{"doclinks" if cmd == "export" else cmd} import nbdev_{cmd}; nbdev_{cmd}.__wrapped__()'
        subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
    after = tracked()
    return [f'{rel(p)} changed under nbdev_export and nbdev_clean: run both, and commit what they leave'
            for p in sorted(before.keys() | after.keys()) if before.get(p) != after.get(p)]

def globs(pats):
    "Files that the paths and patterns `pats` of _quarto.yml name, in order, and the plain paths that are missing."
    hits, missing = [], []
    for o in pats:
        found = sorted(p for p in ROOT.glob(o.lstrip('/')) if not p.name.startswith(('_', '.')))
        if not found and '*' not in o:
            missing.append(o)
        hits += found
    return hits, missing

def check_site():
    "Return what is wrong with _quarto.yml: a missing file or filter, a notebook that is not rendered."
    import yaml
    cfg = yaml.safe_load(QUARTO.read_text(encoding='utf-8'))
    render, gone = globs(cfg['project']['render'])
    named = [*cfg['metadata-files'], *cfg['project']['resources'], cfg['website']['favicon']]
    missing = [p for p in named if not (ROOT/p).exists()]
    all_nbs = numbered()+tutorials()
    filters = {p.parent/f for p in all_nbs for f in cfg['ipynb-filters'] if not (p.parent/f).exists()}
    return ([f'_quarto.yml names {p}, which does not exist' for p in gone+missing+sorted(map(rel, filters))]
        + [f'_quarto.yml: {rel(p)} is not rendered' for p in all_nbs if p not in render]
        + (['_quarto.yml: the index must be rendered first'] if render[:1] != [INDEX] else [])
        + stale_site())

def check_paths(path):
    "Return what a notebook names of the machine it was run on: nothing may stand there."
    s = path.read_text(encoding='utf-8')
    def named(p):
        return len(p) > 1 and re.search(rf'(?<![\w.~/-]){re.escape(p)}(?=[/"\\])', s)
    return [f'{rel(path)} names {p}, a folder of this machine' for p in (str(ROOT), str(Path.home())) if named(p)]

def check():
    "Run every check; return what is wrong."
    nbs = numbered()+tutorials()
    todo = {'export and clean change nothing': check_step, 'README.md is the index': lambda: readme(check=True),
            'the site renders every notebook, its sidebar names them': check_site,
            'no path of this machine': lambda: [error for path in nbs for error in check_paths(path)]}
    wrong = []
    def say(what, errs):
        print(f'{"FAILED" if errs else "ok":7}{what}', flush=True)
        wrong.extend(errs)
    for what,f in todo.items():
        say(what, f())
    return wrong


# ---- wheel: what a user gets who installs it with no dev extra, and what each light extra adds

ELSEWHERE = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}   # where this checkout is not in the way
PIP = '-m', 'pip', '--disable-pip-version-check'
DIST = 'rejection-sampling-recipes'
LIGHT = ['local', 'parquet', 'hub', *(['constraints'] if sys.version_info >= (3, 11) else [])]

def call(*cmd, cwd=None):
    "Run `cmd` quietly; its standard output. What it wrote is shown only where it fails."
    res = subprocess.run(cmd, cwd=cwd, env=ELSEWHERE, capture_output=True, text=True)
    if res.returncode:
        sys.exit(f'{" ".join(map(str, cmd))} failed:\n{res.stdout}{res.stderr}')
    return res.stdout

def fastest(*cmd, cwd, n=3):
    "Return the seconds of the fastest of `n` runs of `cmd`."
    def once(start):
        call(*cmd, cwd=cwd)
        return time.perf_counter()-start
    return min(once(time.perf_counter()) for _ in range(n))

def environment(tmp, name, base=None):
    "Make an empty environment, or one in which the packages of another can be imported too; return its Python."
    py = tmp/name/'bin/python'
    call(sys.executable, '-m', 'venv', *(['--without-pip'] if base else []), tmp/name)
    if base:
        site = ['-c', 'import sysconfig; print(sysconfig.get_path("purelib"))']
        (Path(call(py, *site).strip())/'base.pth').write_text(call(base, *site), encoding='utf-8')
    return py

def try_base(py, tmp):
    "Import rsr from the wheel, and measure it."
    code = f'import sys, rsr; print(rsr.__version__, rsr.__file__, *(m for m in {HEAVY} if m in sys.modules))'
    version, file, *heavy = call(py, '-I', '-c', code, cwd=tmp).split()
    if not Path(file).is_relative_to(tmp):
        sys.exit(f'rsr came from {file}, not from the wheel')
    if heavy:
        sys.exit(f'`import rsr` also imports {", ".join(heavy)}: import them on first use')
    t_import = fastest(py, '-I', '-c', 'import rsr', cwd=tmp)
    t_help = fastest(py.parent/'rsr', '--help', cwd=tmp)
    fastcore = call(py, '-c', 'from importlib.metadata import version; print(version("fastcore"))', cwd=tmp).strip()
    print(f'ok     rsr {version} in an empty environment, with fastcore {fastcore}:',
          f'import {t_import:.2f} s, rsr --help {t_help:.2f} s')
    for what,t in [('import rsr', t_import), ('rsr --help', t_help)]:
        if t > 0.3:
            print(f'note   {what} took {t:.2f} s: it should stay under 0.3 s')

def use(py, extra, tmp):
    "Use what an extra enables, as tests/extras.py does; return the exit code and the last line of what it said."
    res = subprocess.run([py, ROOT/'tests/extras.py', extra], cwd=tmp, env=ELSEWHERE, capture_output=True, text=True)
    said = [*res.stderr.splitlines(), *res.stdout.splitlines()] if not res.returncode or res.returncode==3 else \
        [*res.stdout.splitlines(), *res.stderr.splitlines()]
    return res.returncode, said[-1] if said else ''

def try_extra(base, whl, extra, tmp):
    "Without an extra, the message names its command; with it, what it enables works."
    doctor = f'import sys; from rsr.cli import main; sys.exit(main(["doctor", "{extra}"]))'
    code, said = use(base, extra, tmp)
    if code != 3 or f"pip install '{DIST}[{extra}]'" not in said:
        sys.exit(f'without the extra {extra}: exit code {code}, {said}')
    if subprocess.run([base, '-c', doctor], cwd=tmp, env=ELSEWHERE, capture_output=True).returncode != 1:
        sys.exit(f'rsr doctor {extra} finds nothing missing')
    py = environment(tmp, extra, base)
    call(base, *PIP, '--python', py, 'install', '--no-compile', f'{whl}[{extra}]', cwd=tmp)
    call(py, '-c', doctor, cwd=tmp)
    code, said = use(py, extra, tmp)
    print(f'{"FAILED" if code else "ok":7}extra {extra}: {said}', flush=True)
    return code

def wheel(extras):
    "Build, install into an empty environment, use it from another folder, then each extra in one of its own."
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        call(sys.executable, '-m', 'build', '--outdir', tmp/'dist', ROOT)
        whl, = (tmp/'dist').glob('*.whl')
        print(f'ok     built {whl.name} ({whl.stat().st_size/1024:.0f} kB) by way of its sdist', flush=True)
        base = environment(tmp, 'env')
        call(base, *PIP, 'install', '--no-compile', whl, cwd=tmp)
        try_base(base, tmp)
        failed = [try_extra(base, whl, extra, tmp) for extra in extras]
        if any(failed):
            sys.exit('an extra does not work')


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    sub = ap.add_subparsers(dest='cmd', required=True)
    p = sub.add_parser('run', help='execute notebooks in place and save their outputs')
    p.add_argument('--only', action='append', default=[], metavar='NAME', help='just this one (can be given again)')
    p.add_argument('--tutorials', action='store_true', help='nbs/tutorials/ instead of the numbered ones and the index')
    p.add_argument('--timeout', type=int, default=1800, help='seconds a cell may take')
    p = sub.add_parser('readme', help='make README.md from index.ipynb, and the sidebar and llms.txt from the pages')
    p.add_argument('--check', action='store_true', help='compare only')
    p = sub.add_parser('py', help='write a notebook as a percent script')
    p.add_argument('name')
    p.add_argument('out', nargs='?', help='where to (default: the temporary folder)')
    p = sub.add_parser('nb', help='merge a percent script into its notebook')
    p.add_argument('name')
    p.add_argument('src')
    sub.add_parser('check', help='notebooks, package, README and site in step?')
    p = sub.add_parser('wheel', help='build, install into an empty environment, import; then try extras')
    p.add_argument('extras', nargs='*', metavar='EXTRA', help=f'default: {" ".join(LIGHT)}')
    a = ap.parse_args()
    if a.cmd == 'run':
        run(a.only, a.tutorials, a.timeout)
    elif a.cmd == 'py':
        to_py(a.name, a.out)
    elif a.cmd == 'nb':
        to_nb(a.name, a.src)
    elif a.cmd == 'wheel':
        wheel(a.extras or LIGHT)
    else:
        wrong = readme(a.check) if a.cmd == 'readme' else check()
        if wrong:
            sys.exit('\n'+'\n\n'.join(wrong))

if __name__ == '__main__':
    main()
