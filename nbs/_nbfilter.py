"Quarto ipynb filter (stdin: notebook, cwd: its folder): nbdev's doc processors for plain `quarto render`."
import ast
import json
import sys
from pathlib import Path

from execnb.nbio import dict2nb, nb2str
from nbdev.processors import FilterDefaults, exec_show_docs

IMPORT = ast.Import, ast.ImportFrom

class exec_exports(exec_show_docs):
    "Run what the documentation needs, exported cells and imports, but no example that happens to import something."
    def __call__(self, cell):
        trees = cell.parsed_() or []
        example = not any(k.startswith('export') for k in cell.directives_) and not all(isinstance(t, IMPORT) for t in trees)
        if not (example and any(isinstance(n, IMPORT) for t in trees for n in ast.walk(t))):
            super().__call__(cell)

class Filter(FilterDefaults):
    def base_procs(self):
        return [exec_exports if p is exec_show_docs else p for p in super().base_procs()]

def ids(nb):
    return {c.get('id') for c in nb['cells']}

src = json.load(sys.stdin)
same = {p: len(ids(json.loads(p.read_text(encoding='utf-8'))) & ids(src)) for p in sorted(Path.cwd().glob('*.ipynb'))}
nb = dict2nb(src)
nb.path_ = max(same, key=same.get)  # Quarto does not say which notebook this is; its cells do
out, sys.stdout = sys.stdout, sys.stderr  # what the cells print is no part of the page
Filter()(nb)
out.write(nb2str(nb))
