"The shape of the project: what is packaged, what an import costs, and how the notebooks are laid out."
import ast
import configparser
import inspect
import json
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from statistics import median

import pytest

from rsr.data.extras import BASE, DIST, EXTRAS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'nbs'))
from _pages import LAYERS, PACKAGES, module_of, pages

NOTEBOOKS = pages()
CFG = configparser.ConfigParser(delimiters=['='])
CFG.read(ROOT/'settings.ini', encoding='utf-8')
CFG = CFG['DEFAULT']

def cells(p):
    return json.loads(p.read_text(encoding='utf-8'))['cells']
def source(c):
    return ''.join(c['source'])
def code(p):
    return [source(c) for c in cells(p) if c['cell_type'] == 'code']
def is_export(s):
    return bool(re.match(r'\s*#\|\s*exporti?s?\s*$', s, re.M))
def default_exp(p):
    return next((m[1] for s in code(p) if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M))), None)

NAMES = [p.relative_to(ROOT/'nbs').with_suffix('').as_posix() for p in NOTEBOOKS]
each = pytest.mark.parametrize('nb', NOTEBOOKS, ids=NAMES)


# ---- the package

@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    "The names in the wheel and in the sdist (the wheel is built from the sdist: nothing left over in build/ gets in)."
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
    patterns = 'rsr/**/*.py', 'rsr/shipped/*/*', 'rsr/py.typed'
    shipped = [p.relative_to(ROOT).as_posix() for pat in patterns for p in ROOT.glob(pat)]
    assert {Path(p).suffix for p in shipped} >= {'.py', '.yaml', '.jsonl', '.typed'}
    assert len(shipped) > 100
    assert not set(shipped) - set(dist['wheel'])
    assert not set(shipped) - set(dist['sdist'])

@pytest.mark.slow
def test_wheel_holds_nothing_else(dist):
    assert {n.split('/')[0] for n in dist['wheel']} == {'rsr', f'rejection_sampling_recipes-{CFG["version"]}.dist-info'}
    assert not [n for n in dist['wheel'] if n.endswith(('.ipynb', '.pyc', '.db'))]

@pytest.mark.slow
def test_licence_and_metadata(dist):
    assert [n for n in dist['wheel'] if n.endswith('LICENSE')]
    assert {'LICENSE', 'settings.ini'} <= set(dist['sdist'])
    assert 'rsr = rsr.cli:main' in dist['entry']
    for v in ('3.10', '3.11', '3.12', '3.13'):
        assert f'Classifier: Programming Language :: Python :: {v}' in dist['meta']
    assert 'Name: rejection-sampling-recipes' in dist['meta']
    for x in (*EXTRAS, 'all', 'dev'):
        assert f'Provides-Extra: {x}' in dist['meta']
    dev = re.search(r'^Requires-Dist: (nbdev|execnb|pytest)(?!.*extra ==)', dist['meta'], re.M)
    assert not dev, 'a dev tool is required at run time'

def names(requirements):
    "The distributions of a list of requirements."
    return {re.match(r'[\w-]+', r)[0].lower() for r in shlex.split(requirements)}

def test_the_table_of_extras_is_that_of_the_settings():
    wanted = {k.removesuffix('_requirements'): names(v) for k, v in CFG.items() if k.endswith('_requirements')}
    assert names(CFG['requirements']) == set(BASE) and CFG['dist_name'] == DIST
    assert {name: set(e.packages) for name, e in EXTRAS.items()} == {k: v for k, v in wanted.items() if k != 'dev'}
    assert set(CFG['all_extras'].split()) == set(EXTRAS)-{'vllm'}

def test_no_page_names_another_distribution():
    "`pip install rsr` would install somebody else's package."
    pages = [*ROOT.glob('*.md'), *(ROOT/'nbs').rglob('*.ipynb'), *(ROOT/'rsr').rglob('*.py')]
    other = re.compile(r'pip install[^\n]{0,30}\brsr\b(\[|\W*$)', re.M)
    wrong = [p.name for p in pages if other.search(p.read_text(encoding='utf-8'))]
    assert not wrong, wrong

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
    extra = res.stdout.strip()
    assert extra == '[]', f'`import rsr` imports {extra}: import them where they are first used'

def test_no_pyproject():
    why = 'settings.ini and setup.py hold the settings; tools have ruff.toml and pytest.ini'
    assert not (ROOT/'pyproject.toml').exists(), why


# ---- the notebooks

def imported(src):
    "The modules of rsr that `src` imports, wherever in it, as dotted names."
    for n in ast.walk(ast.parse(re.sub(r'^\s*[%!].*$', '', src, flags=re.M))):
        if isinstance(n, ast.Import):
            yield from (a.name for a in n.names if a.name.startswith('rsr.'))
        elif isinstance(n, ast.ImportFrom) and n.level:
            yield '.'
        elif isinstance(n, ast.ImportFrom) and (n.module == 'rsr' or n.module.startswith('rsr.')):
            yield from (d if (d := f'{n.module}.{a.name}') in MODULES else n.module for a in n.names)

def place(module):
    "(layer, package, number) of a module, by its notebook."
    nb = MODULES[module]
    package = nb.stem if nb.parent.name == 'nbs' else nb.parent.name
    layer = next(i for i, names in enumerate(LAYERS) if package in names)
    return layer, package, nb.name

MODULES = {f'rsr.{default_exp(p)}': p for p in NOTEBOOKS}

def test_every_notebook_is_found():
    "The other tests of this file must not pass by finding nothing."
    on_disk = {p for p in (ROOT/'nbs').rglob('[0-9]*.ipynb') if '.ipynb_checkpoints' not in p.parts}
    assert on_disk <= set(NOTEBOOKS) and len(NOTEBOOKS) >= 75
    assert {p.parent.name for p in on_disk} == set(PACKAGES)-{'style'}

@each
def test_imports_only_downward(nb):
    "From a lower layer, or from a lower number of the same package; no circle can arise."
    mine = place(f'rsr.{default_exp(nb)}')
    for src in filter(is_export, code(nb)):
        for mod in imported(src):
            assert mod != '.', f'write `from rsr.x.y import z`, nbdev makes it relative:\n{src}'
            if mod == 'rsr':
                continue
            assert mod in MODULES, f'import from the module that defines the name, not from {mod}:\n{src}'
            theirs = place(mod)
            ok = theirs[0] < mine[0] or theirs[1] == mine[1] and theirs[2] < mine[2]
            assert ok, f'{mine[1]}/{mine[2]} imports {mod}, which comes later or stands beside it:\n{src}'

@each
def test_no_import_by_name_goes_upward(nb):
    "Only rsr/__init__.py, which stands above all packages, imports a module of rsr by its name."
    for src in filter(is_export, code(nb)):
        assert not re.search(r"import_module\(\s*f?['\"]rsr|__import__\(\s*f?['\"]rsr", src), src

def defined(tree):
    "Names that a generated module defines itself."
    for n in tree.body:
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield n.name
        elif isinstance(n, (ast.Assign, ast.AnnAssign)):
            yield from (x.id for x in ast.walk(n) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store))

def test_names_are_imported_from_where_they_are_defined():
    "No re-exports between modules: only the face of a package gathers names, and it is for users."
    trees = {m: ast.parse((ROOT/(m.replace('.', '/')+'.py')).read_text(encoding='utf-8')) for m in MODULES}
    names = {m: set(defined(t)) for m, t in trees.items()}
    for nb in NOTEBOOKS:
        for src in filter(is_export, code(nb)):
            for n in ast.walk(ast.parse(src)):
                if isinstance(n, ast.ImportFrom) and n.module in MODULES:
                    wrong = [a.name for a in n.names if a.name not in names[n.module]]
                    assert not wrong, f'{nb.name}: {n.module} does not define {wrong}'

@each
def test_begins_and_ends_as_all_do(nb):
    cs = cells(nb)
    title = re.fullmatch(r'# \S.*\n+> \S.*(\n+- \S+: \S+)*\n*', source(cs[0]))
    why = 'the first cell is the title and one line of `> subtitle`: the site turns it into the head of the page'
    assert title, why
    assert any('default_exp' in source(c) for c in cs[1:3]), '`#| default_exp` comes right after the title'
    name = module_of(nb).replace('/', '.')
    assert default_exp(nb) == name, 'the module has the name of its notebook'
    assert 'nbdev_export(' in source(cs[-1]) and '#| hide' in source(cs[-1]), 'the last cell is hidden, and exports'

@each
def test_nothing_is_defined_twice(nb):
    "A cell that was split or moved must not leave its copy behind."
    seen, twice = set(), []
    for s in filter(is_export, code(nb)):
        for n in ast.parse(s).body:
            if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or n.name == '_':
                continue
            patched = any('patch' in ast.unparse(d) for d in n.decorator_list)
            of = ast.unparse(n.args.args[0].annotation) if patched else ''
            if (of, n.name) in seen:
                twice.append((of, n.name))
            seen.add((of, n.name))
    assert not twice

@each
def test_exported_cells_are_short(nb):
    lengths = [(len(s.splitlines()), s) for s in filter(is_export, code(nb))]
    long = {s.strip().splitlines()[1]: n for n, s in lengths if n > 25}
    assert not long, f'25 lines at most: {long}'
    assert not lengths or median(n for n, _ in lengths) <= 8, 'cut cells by meaning: 8 lines at the median'

@each
def test_modules_are_short(nb):
    lines = sum(len(s.splitlines()) for s in filter(is_export, code(nb)))
    assert lines <= 400, f'{lines} exported lines: split the page by meaning'

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

BY_HAND = {'rsr/reward.py'}   # the import path of reward modules that older runs wrote

def test_module_of_every_notebook():
    made = {'rsr/'+default_exp(p).replace('.', '/')+'.py' for p in NOTEBOOKS}
    there = {p.relative_to(ROOT).as_posix() for p in (ROOT/'rsr').rglob('*.py') if not p.name.startswith('_')}
    assert made <= there, f'run nbdev_export: {made-there}'
    assert there <= made | BY_HAND, f'a module without a notebook: {there-made-BY_HAND}'

def test_every_package_has_a_face():
    "A short `__init__.py`, written by hand, that says what the package is and gathers what users import from it."
    for name in set(PACKAGES)-{'style'}:
        tree = ast.parse((ROOT/'rsr'/name/'__init__.py').read_text(encoding='utf-8'))
        public = [n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '__all__']
        assert ast.get_docstring(tree) and public, name

def test_reward_modules_of_older_runs_still_import():
    "`train/reward.py` names its import path, and lies on disk for as long as the run does."
    import rsr
    from rsr.reward import make_rewards
    assert make_rewards is rsr.make_rewards


# ---- the Makefile

def test_readme_commands_exist():
    targets = set(re.findall(r'^([a-z]+):', (ROOT/'Makefile').read_text(encoding='utf-8'), re.M))
    assert targets >= set('install model demo test notebooks tutorials readme lint check bench clean help'.split())
    asked = set(re.findall(r'^\s*\$?\s*make ([a-z]+)', (ROOT/'README.md').read_text(encoding='utf-8'), re.M))
    assert asked >= {'demo', 'test'} and asked <= targets

def test_no_method_of_the_loop_hides_another_of_the_same_name():
    "The loop is a chain of classes: what redefines a method has its arguments, or it is another method by accident."
    from rsr.sampling.batch_loop import BatchLoop
    found = {}
    for cls in BatchLoop.__mro__[:-1]:
        for name, value in vars(cls).items():
            if inspect.isfunction(value) and not name.startswith('__'):
                found.setdefault(name, []).append((cls.__name__, [*inspect.signature(value).parameters]))
    for name, versions in found.items():
        (first, names), *others = versions
        for cls, given in others:
            assert names[:len(given)]==given, f'{first}.{name}{names} hides {cls}.{name}{given}'


# ---- the workflows and the release

FLOWS = sorted((ROOT/'.github/workflows').glob('*.yml'))

def test_actions_are_pinned_and_need_no_secret():
    for flow in FLOWS:
        text = flow.read_text(encoding='utf-8')
        assert 'secrets.' not in text, flow.name
        for action in re.findall(r'uses: (\S+)', text):
            if not action.startswith('quarto-dev/'):
                assert re.search(r'@[0-9a-f]{40}$', action), f'{flow.name}: {action} is not pinned to a commit'
                assert re.search(re.escape(action)+r'  # v\d', text), f'{flow.name}: say which version {action} is'

def test_only_the_last_job_of_a_release_may_publish():
    import yaml
    jobs = yaml.safe_load((ROOT/'.github/workflows/release.yml').read_text(encoding='utf-8'))['jobs']
    assert jobs['publish']['permissions'] == {'id-token': 'write'} and jobs['publish']['environment']['name'] == 'pypi'
    assert 'permissions' not in jobs['build'] and not any('run' in step for step in jobs['publish']['steps'])

def test_one_version_everywhere():
    import yaml
    citation = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    dates = dict(re.findall(r'^## \[([\d.]+)\] - (\S+)$', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M))
    assert citation['version'] == CFG['version'] and dates.get(CFG['version']) == citation['date-released']
