"The shape of the project: what is packaged, what an import costs, and how the notebooks are laid out."
import ast
import configparser
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
CFG = configparser.ConfigParser(delimiters=['='])
CFG.read(ROOT/'settings.ini', encoding='utf-8')
CFG = CFG['DEFAULT']

def cells(p): return json.loads(p.read_text(encoding='utf-8'))['cells']
def source(c): return ''.join(c['source'])
def code(p): return [source(c) for c in cells(p) if c['cell_type'] == 'code']
def is_export(s): return bool(re.match(r'\s*#\|\s*exporti?s?\s*$', s, re.M))
def default_exp(p): return next((m[1] for s in code(p) if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M))), None)
def names(ps): return [p.stem for p in ps]

each = pytest.mark.parametrize('nb', NOTEBOOKS, ids=names(NOTEBOOKS))


# ---- the package

@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    "The names in the wheel and in the sdist (the wheel is built from the sdist, so nothing left over in build/ gets in)."
    out = tmp_path_factory.mktemp('dist')
    res = subprocess.run([sys.executable, '-m', 'build', '--outdir', out, ROOT], capture_output=True, text=True)
    assert res.returncode == 0, res.stdout[-3000:]+res.stderr[-3000:]
    (whl,), (sdist,) = out.glob('*.whl'), out.glob('*.tar.gz')
    with zipfile.ZipFile(whl) as z, tarfile.open(sdist) as t:
        meta = z.read(next(n for n in z.namelist() if n.endswith('METADATA'))).decode()
        entry = z.read(next(n for n in z.namelist() if n.endswith('entry_points.txt'))).decode()
        return dict(wheel=z.namelist(), sdist=[n.split('/', 1)[-1] for n in t.getnames()], meta=meta, entry=entry)

@pytest.mark.slow
def test_wheel_holds_all_that_is_shipped(dist):
    shipped = [p.relative_to(ROOT).as_posix() for pat in ('rsr/*.py', 'rsr/*.yaml', 'rsr/*/*.yaml', 'rsr/examples/*.jsonl', 'rsr/py.typed')
               for p in ROOT.glob(pat)]
    assert {Path(p).suffix for p in shipped} >= {'.py', '.yaml', '.jsonl', '.typed'}
    assert not set(shipped) - set(dist['wheel'])
    assert not set(shipped) - set(dist['sdist'])

@pytest.mark.slow
def test_wheel_holds_nothing_else(dist):
    assert {n.split('/')[0] for n in dist['wheel']} == {'rsr', f'rsr-{CFG["version"]}.dist-info'}
    assert not [n for n in dist['wheel'] if n.endswith(('.ipynb', '.pyc', '.db'))]

@pytest.mark.slow
def test_licence_and_metadata(dist):
    assert [n for n in dist['wheel'] if n.endswith('LICENSE')] and 'LICENSE' in dist['sdist'] and 'settings.ini' in dist['sdist']
    assert 'rsr = rsr.cli:main' in dist['entry']
    for v in ('3.10', '3.11', '3.12', '3.13'): assert f'Classifier: Programming Language :: Python :: {v}' in dist['meta']
    for x in ('dev', 'local', 'parquet'): assert f'Provides-Extra: {x}' in dist['meta']
    assert not re.search(r'^Requires-Dist: (nbdev|execnb|pytest)(?!.*extra ==)', dist['meta'], re.M), 'a dev tool is required at run time'

def test_no_cap_on_fastcore_at_run_time():
    assert not re.search(r'fastcore\S*<', CFG['requirements'])
    assert re.search(r'fastcore\S*<2', CFG['dev_requirements'])

def test_version():
    import rsr
    assert rsr.__version__ == CFG['version']

def test_import_is_light(tmp_path):
    heavy = ['litellm', 'pandas', 'matplotlib', 'IPython', 'ipywidgets', 'nbdev', 'sympy', 'xllamacpp', 'pyarrow']
    prog = f'import sys, rsr; print([m for m in {heavy} if m in sys.modules])'
    res = subprocess.run([sys.executable, '-c', prog], cwd=tmp_path, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    assert res.stdout.strip() == '[]', f'`import rsr` imports {res.stdout.strip()}: import them where they are first used'

def test_no_pyproject():
    assert not (ROOT/'pyproject.toml').exists(), 'settings.ini and setup.py hold the settings; tools have ruff.toml and pytest.ini'


# ---- the notebooks

def imported(src):
    "The modules of rsr that `src` imports, wherever in it."
    for n in ast.walk(ast.parse(re.sub(r'^\s*[%!].*$', '', src, flags=re.M))):
        if isinstance(n, ast.Import): yield from (a.name.split('.')[1] for a in n.names if a.name.startswith('rsr.'))
        elif isinstance(n, ast.ImportFrom) and n.level: yield '.'
        elif isinstance(n, ast.ImportFrom) and n.module == 'rsr': yield from (a.name for a in n.names)
        elif isinstance(n, ast.ImportFrom) and n.module.startswith('rsr.'): yield n.module.split('.')[1]

@each
def test_imports_only_from_lower_numbers(nb):
    number = {default_exp(p): p.stem for p in NOTEBOOKS}   # 04_choices comes before 04_verifiers
    for src in filter(is_export, code(nb)):
        for mod in imported(src):
            assert mod != '.', f'write `from rsr.x import y`, nbdev makes it relative:\n{src}'
            if mod in number: assert number[mod] < nb.stem, f'{nb.stem} imports {mod}, which comes later:\n{src}'

@each
def test_begins_and_ends_as_all_do(nb):
    cs = cells(nb)
    title = re.fullmatch(r'# \S.*\n+> \S.*(\n+- \S+: \S+)*\n*', source(cs[0]))
    assert title, 'the first cell is the title and one line of `> subtitle`, and no more: the site turns it into the head of the page'
    assert any('default_exp' in source(c) for c in cs[1:3]), '`#| default_exp` comes right after the title'
    assert default_exp(nb) == nb.stem[3:], 'the module has the name of its notebook'
    assert 'nbdev_export(' in source(cs[-1]) and '#| hide' in source(cs[-1]), 'the last cell is hidden, and exports'

@each
def test_nothing_is_defined_twice(nb):
    "A cell that was split or moved must not leave its copy behind."
    seen, twice = set(), []
    for s in filter(is_export, code(nb)):
        for n in ast.parse(s).body:
            if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or n.name == '_': continue
            patched = any('patch' in ast.unparse(d) for d in n.decorator_list)
            of = ast.unparse(n.args.args[0].annotation) if patched else ''
            if (of, n.name) in seen: twice.append((of, n.name))
            seen.add((of, n.name))
    assert not twice

@each
def test_exported_cells_are_short(nb):
    long = {s.strip().splitlines()[1]: len(s.splitlines()) for s in filter(is_export, code(nb)) if len(s.splitlines()) > 25}
    assert not long, f'25 lines at most: {long}'

@each
def test_exported_functions_say_what_they_do(nb):
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    defs = [d for s in filter(is_export, code(nb)) for d in ast.parse(s).body if isinstance(d, kinds)]
    mute = [d.name for d in defs if not d.name.startswith('_') and not ast.get_docstring(d)]
    assert not mute, f'no docstring: {mute}'

@each
def test_saved_outputs(nb):
    errors = [source(c) for c in cells(nb) for o in c.get('outputs', []) if o['output_type'] == 'error']
    assert not errors, f'show an error with test_fail or try/except; these cells failed: {errors}'
    assert not [c['id'] for c in cells(nb) if c.get('execution_count')], 'run nbdev_clean'

def test_module_of_every_notebook():
    assert not [p.stem for p in NOTEBOOKS if not (ROOT/'rsr'/f'{default_exp(p)}.py').exists()], 'run nbdev_export'
    made = {default_exp(p) for p in NOTEBOOKS}
    assert not [p.name for p in (ROOT/'rsr').glob('[!_]*.py') if p.stem not in made], 'a module without a notebook'


# ---- the Makefile

def test_readme_commands_exist():
    targets = set(re.findall(r'^([a-z]+):', (ROOT/'Makefile').read_text(encoding='utf-8'), re.M))
    assert targets >= set('install model demo test notebooks tutorials readme lint check bench clean help'.split())
    asked = set(re.findall(r'^\s*\$?\s*make ([a-z]+)', (ROOT/'README.md').read_text(encoding='utf-8'), re.M))
    assert asked >= {'demo', 'test'} and asked <= targets
