"Quarto ipynb filter (stdin: notebook, cwd: its folder): nbdev's doc processors, and links that hold on the site."
import ast
import json
import os
import re
import sys
from pathlib import Path

from execnb.nbio import dict2nb, nb2str
from nbdev.config import get_config
from nbdev.processors import FilterDefaults, exec_show_docs

NBS = Path(__file__).resolve().parent
IMPORT = ast.Import, ast.ImportFrom
FENCE = re.compile(r'(^ *```.*?^ *```)', re.M | re.S)
SITE = re.escape(get_config().doc_host + get_config().doc_baseurl)
# what nbdev makes of `name`: [`name`](https://site/package/module.html#name)
AUTO = re.compile(rf'\[(`[^`\]]+`)\]\({SITE}/?([^)#\s]*)(#[^)\s]*)?\)')
# a link whose text may hold automatic ones
OUTER = re.compile(rf'\[((?:[^\[\]`]|`[^`\n]*`|{AUTO.pattern})+)\](\([^)\s]+\))')
# prose means the word: `pairs`, `explore`, `audit` are left alone, `make_pairs`, `Store` and `audit()` are links;
# names that begin with _ have no heading to link to
WORD = re.compile(r'`([a-z]+|_\w+)`')


class exec_exports(exec_show_docs):
    "Run what the documentation needs, exported cells and imports, but no example that happens to import something."
    def __call__(self, cell):
        trees = cell.parsed_() or []
        exported = any(k.startswith('export') for k in cell.directives_)
        imports_only = all(isinstance(t, IMPORT) for t in trees)
        some_import = any(isinstance(n, IMPORT) for t in trees for n in ast.walk(t))
        if exported or imports_only or not some_import:
            super().__call__(cell)

class Filter(FilterDefaults):
    def base_procs(self):
        return [exec_exports if p is exec_show_docs else p for p in super().base_procs()]


# ---- links

def notebooks():
    "Map each page on nbdev's site (`sampling/loop.html`) to its notebook below nbs/ (`sampling/06_loop.ipynb`)."
    found = [p.relative_to(NBS) for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts]
    return {(p.parent/re.sub(r'^\d+_', '', p.stem)).as_posix()+'.html': p for p in found}

def relative(link, here, pages):
    "Return an automatic link as one to the notebook, relative to the folder `here`, or as bare code if it has no page."
    text, page, anchor = link[1], link[2], link[3] or ''
    if WORD.fullmatch(text) or page not in pages:
        return text
    return f'[{text}]({os.path.relpath(NBS/pages[page], here).replace(os.sep, "/")}{anchor})'

def unnest(text):
    "Take automatic links out of the text of other links, where they would nest."
    return OUTER.sub(lambda m: '[' + AUTO.sub(r'\1', m[1]) + ']' + m[m.re.groups], text)

def relink(text, here, pages):
    "Markdown with links that hold on the site: none in code, none inside another, and all of them relative."
    parts = FENCE.split(text)
    for i, part in enumerate(parts):
        in_code = i % 2
        if in_code:
            parts[i] = AUTO.sub(lambda m: m[1].strip('`'), part)
        else:
            parts[i] = AUTO.sub(lambda m: relative(m, here, pages), unnest(part))
    return ''.join(parts)

def as_text(o):
    return o if isinstance(o, str) else ''.join(o)

def relink_cells(nb, here):
    "Relink the Markdown cells of a notebook, and the Markdown among its outputs."
    pages = notebooks()
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = relink(cell.source, here, pages)
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            if 'text/markdown' in data:
                data['text/markdown'] = relink(as_text(data['text/markdown']), here, pages)


# ---- the filter

def ids(nb):
    return {c.get('id') for c in nb['cells']}

def as_page(src, folder):
    "Return the notebook `src` (a dict), of the folder `folder`, as Quarto should render it."
    # Quarto does not say which notebook this is; its cells do
    mine = ids(src)
    same = {p: len(ids(json.loads(p.read_text(encoding='utf-8'))) & mine) for p in sorted(folder.glob('*.ipynb'))}
    nb = dict2nb(src)
    nb.path_ = max(same, key=same.get)
    Filter()(nb)
    relink_cells(nb, folder)
    return nb

def main():
    src = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr  # what the cells print is no part of the page
    out.write(nb2str(as_page(src, Path.cwd())))

if __name__ == '__main__':
    main()
