"The site: what Quarto's filter makes of every page, and whether each of its links leads somewhere."
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'nbs'))
from _build import globs
from _nbfilter import as_page
from _pages import INDEX, numbered, page_title, pages, sections, tutorials

NBS = ROOT/'nbs'
ALL = numbered()+tutorials()
CONFIG = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
each = pytest.mark.parametrize('path', ALL, ids=[p.relative_to(NBS).as_posix() for p in ALL])

def text(o):
    return o if isinstance(o, str) else ''.join(o)

def _filter(path):
    "Return the cells of a page as the filter, which works in the page's folder, makes them: JSON."
    os.chdir(path.parent)
    sys.path.insert(0, str(path.parent))
    try:
        return json.dumps(as_page(json.loads(path.read_text(encoding='utf-8')), path.parent)['cells'])
    finally:
        sys.path.remove(str(path.parent))

def _let_shells_go():
    "Let the process end at once: the shell of each page would collect all garbage then, minutes of work in all."
    from IPython.core.interactiveshell import InteractiveShell
    InteractiveShell.atexit_operations = lambda self: None

@cache
def _process():
    "Return a process for the filter, which runs cells: they patch classes, and other tests need those as they are."
    return ProcessPoolExecutor(1, mp_context=get_context('spawn'), initializer=_let_shells_go)

@cache
def filtered(path):
    "Return the cells of a page as Quarto gets them from the filter."
    return json.loads(_process().submit(_filter, path).result())

def markdown(cells):
    "The Markdown of a page: its text cells, and the outputs that are Markdown."
    for c in cells:
        if c['cell_type'] == 'markdown':
            yield text(c['source'])
        for o in c.get('outputs', []):
            if 'text/markdown' in o.get('data', {}):
                yield text(o['data']['text/markdown'])

FENCE = re.compile(r'^ *(`{3,}).*?^ *\1', re.M | re.S)
LINK = re.compile(r'\[((?:[^\[\]`]|`[^`\n]*`|!?\[[^\]]*\]\([^)]*\))*)\]\(([^()\s]+)\)')

def anchors(cells):
    "The ids of a page's headings, as Pandoc makes them."
    seen, out = {}, set()
    for md in markdown(cells):
        for line in re.findall(r'^#{1,6} +(.+?) *#*$', FENCE.sub('', md), re.M):
            if (own := re.search(r'\{[^}]*#([\w.-]+)[^}]*\}', line)):
                out.add(own[1])
                continue
            name = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', line).replace('`', '')
            name = re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', name).strip()).lower()
            name = re.sub(r'^[^a-z]+', '', name) or 'section'
            seen[name] = seen.get(name, -1)+1
            out.add(name if not seen[name] else f'{name}-{seen[name]}')
    return out

def links(cells):
    "(text, target) of the links of a page, those in code left out."
    for md in markdown(cells):
        for m in LINK.finditer(re.sub(r'(?<!\[)`[^`\n]+`(?!\])', '', FENCE.sub('', md))):
            yield m[1], m[2]


# ---- each page

@each
def test_the_filter_makes_a_page(path):
    cells = filtered(path)
    sources = [text(c['source']) for c in cells]
    assert re.search(r'^title:', sources[0], re.M), 'the page has no title'
    hidden = [s for s in sources if re.search(r'^#\|\s*(export|exporti|hide|default_exp)\b', s, re.M)]
    assert not hidden, f'a cell that should not be shown:\n{hidden}'
    bare = [s for c, s in zip(cells, sources) if 'show_doc(' in s and not c.get('outputs')]
    assert not bare, f'nothing came of {bare}'

@each
def test_every_link_leads_somewhere(path):
    rendered = set(globs(CONFIG['project']['render'])[0])
    dead = []
    for name, target in links(filtered(path)):
        if re.match(r'https?:|mailto:', target):
            dead += [target] if '.github.io' in target else []
            continue
        file, _, anchor = target.partition('#')
        goal = Path(os.path.normpath(path.parent/file)) if file else path
        is_page = goal in rendered
        if not is_page and not (goal.is_file() and goal.suffix in ('.png', '.svg', '.py', '.yaml')):
            dead.append(f'[{name}]({target}): no such page')
        elif anchor and goal in ALL and anchor not in anchors(filtered(goal)):
            dead.append(f'[{name}]({target}): no such heading')
    assert not dead, dead

@each
def test_links_do_not_nest_and_stay_out_of_code(path):
    for md in markdown(filtered(path)):
        code = ''.join(m[0] for m in FENCE.finditer(md))
        assert not re.search(r'\[`[^`]+`\]\(', code), 'a link in code'
        nested = [m[0] for m in LINK.finditer(FENCE.sub('', md)) if re.search(r'(?<!!)\[`[^`]+`\]\(', m[1])]
        assert not nested, nested

@each
def test_a_word_in_prose_is_no_link(path):
    "`pairs` is a word; `make_pairs`, `Store` and `audit()` are names."
    auto = [name for name, target in links(filtered(path)) if re.fullmatch(r'`[a-z]+`', name) and '.ipynb' in target]
    written = json.loads(path.read_text(encoding='utf-8'))['cells']
    by_hand = {name for name, _ in links(written)}
    assert not set(auto)-by_hand

def alt(cell):
    "The text for those who do not see a figure."
    return re.search(r'^#\|\s*fig-alt:\s*\S', text(cell['source']), re.M)

@each
def test_every_figure_has_a_text(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    drawn = [c for c in cells for o in c.get('outputs', []) if 'image/png' in o.get('data', {})]
    mute = [text(c['source']) for c in drawn if not alt(c)]
    assert not mute, f'#| fig-alt: … is missing in {mute}'
    bare = [m for c in cells if c['cell_type'] == 'markdown' for m in re.findall(r'!\[\]\([^)]*\)', text(c['source']))]
    assert not bare, bare


# ---- the site

def test_the_filter_as_quarto_runs_it():
    "A process in the page's folder: the notebook goes in, the page comes out, and nothing else."
    path = pages()[-1]
    command = [sys.executable, '_nbfilter.py']
    res = subprocess.run(command, input=path.read_bytes(), cwd=path.parent, capture_output=True)
    assert res.returncode == 0, res.stderr.decode()[-3000:]
    made = [text(c['source']) for c in json.loads(res.stdout)['cells']]
    assert made == [text(c['source']) for c in filtered(path)]

@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md'])
def test_every_link_of_the_top_folder_leads_somewhere(name):
    page = (ROOT/name).read_text(encoding='utf-8')
    targets = [t.partition('#')[0] for _, t in LINK.findall(FENCE.sub('', page)) if not re.match('https?:', t)]
    dead = [t for t in targets if t and not (ROOT/t).exists()]
    assert not dead, dead

def test_every_page_is_in_the_sidebar():
    shown = [p for _, ps in sections() for p in ps]
    assert set(shown) == set(ALL)
    assert shown[0] == INDEX

def test_a_section_for_each_package():
    "In the order of the packages, each with all of its pages."
    own = {name: ps for name, ps in sections() if (NBS/name).is_dir() and name != 'style'}
    assert sum(map(len, own.values())) == len(pages())-1   # style lies flat

def test_titles_say_what_a_page_does():
    "Not just the name of the module."
    for p in pages():
        title, subtitle = page_title(p)
        assert len(title.split()) > 1 or p.stem == 'style', f'{p.name}: {title}'
        assert subtitle

def test_a_workflow_names_its_quarto():
    flow = (ROOT/'.github/workflows/docs.yml').read_text(encoding='utf-8')
    assert re.search(r'quarto-actions/setup@v2\s+with:\s*\{?\s*version: "?\d+\.\d+\.\d+', flow)
