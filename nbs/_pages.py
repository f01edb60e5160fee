"The pages: which notebooks there are and in what order, and what is made of their titles (sidebar, llms.txt)."
import configparser
import json
import re
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent
ROOT, INDEX = NBS.parent, NBS/'index.ipynb'

# Packages by layer, lowest first: a notebook imports only from a lower layer, or from a lower number of its own folder.
LAYERS = (('data',), ('style',), ('sampling', 'formatters', 'sandbox'), ('verifiers',), ('rubric',), ('pairs',),
          ('run',), ('taxonomy', 'explore', 'cluster', 'rounds', 'exchange'), ('quality',), ('hub',), ('cli',))
PACKAGES = [p for layer in LAYERS for p in layer]
# Tutorials in the order in which they are best read
TUTORIALS = ('sft_distillation', 'reasoning_tools', 'dpo_pairs', 'multi_sft_pools', 'kto_labels', 'grpo_reward',
             'end_to_end', 'rounds', 'cheapest', 'at_scale')
# Pages that people look things up in, beside their place in a package
LOOK_UP = ('run/reference', 'cli/usage', 'formatters/trainers', 'quality/method_guide')


# ---- which notebooks there are

def pages():
    "Return the notebooks that make the package, in the order of dependence."
    flat = [p for name in PACKAGES if (p := NBS/f'{name}.ipynb').exists()]
    return flat + [p for name in PACKAGES for p in sorted((NBS/name).glob('[0-9]*.ipynb'))]

def numbered():
    "Return the notebooks of the package and the index."
    return pages() + ([INDEX] if INDEX.exists() else [])

def tutorials():
    "Return the tutorials, the how-to pages, then the gallery."
    order = {name: i for i, name in enumerate(TUTORIALS)}
    first = sorted((NBS/'tutorials').glob('[!_.]*.ipynb'), key=lambda p: order.get(p.stem, len(order)))
    others = [p for name in ('howto', 'gallery') for p in sorted((NBS/name).glob('[!_.]*.ipynb'))]
    return first + others

def rel(path):
    "Return `path` relative to the repository, with slashes."
    return Path(path).relative_to(ROOT).as_posix()

def module_of(path):
    "Return a page's place without its number: `sampling/loop`."
    return '/'.join([*path.parent.relative_to(NBS).parts, re.sub(r'^\d+_', '', path.stem)])

def find(name, new=False):
    "Return the notebook that `name` means: a path (`data/00_types`), a stem, or a module's name."
    parts = Path(name).with_suffix('').parts
    if 'nbs' in parts:
        parts = parts[parts.index('nbs')+1:]
    known = numbered()+tutorials()
    hits = [p for p in known if p.relative_to(NBS).with_suffix('').parts[-len(parts):] == parts]
    if not hits and len(parts) == 1:
        hits = [p for p in known if module_of(p).split('/')[-1] == parts[0]]
    if len(hits) == 1:
        return hits[0]
    if hits:
        sys.exit(f'{name}: which of {", ".join(map(rel, hits))}?')
    if new and len(parts) == 2:
        return NBS.joinpath(*parts).with_suffix('.ipynb')
    sys.exit(f'{name}: no such notebook in {rel(NBS)}; to make one, name its folder as well: data/09_name')


# ---- the sidebar, and the list of pages for language models

def text(source):
    "Return the text of a cell's source or output, which notebooks keep as a list of lines."
    return source if isinstance(source, str) else ''.join(source)

def page_title(path):
    "Return (title, subtitle) of a notebook, from its first cell."
    first = text(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source'])
    title, _, rest = first.partition('\n')
    subtitle = re.search(r'^> (.*)$', rest, re.M)
    return title.lstrip('# ').strip(), subtitle[1].strip() if subtitle else ''

def entry(path):
    "Return one page in the sidebar; a page of the package as `module: what it does`."
    name = page_title(path)[0].replace('`', '')
    if path in pages():
        name = f'{module_of(path).split("/")[-1]}: {name}'
    return dict(text=name, href=rel(path))

def sections():
    "Yield (section, its pages), in the order of the sidebar; a page to look up stands in its package too."
    by_module = {module_of(p): p for p in pages()}
    yield 'Get started', [INDEX]
    for folder, name in ('tutorials', 'Tutorials'), ('gallery', 'Recipes that run'), ('howto', 'How to'):
        yield name, [p for p in tutorials() if p.parent.name == folder]
    yield 'Look things up', [by_module[m] for m in LOOK_UP]
    for name in PACKAGES:
        found = [p for m, p in by_module.items() if m.split('/')[0] == name]
        if found:
            yield name, found

def sidebar_text():
    "Return nbs/sidebar.yml, which _quarto.yml takes in."
    import yaml
    contents = [dict(section=name, contents=[entry(p) for p in ps]) for name, ps in sections()]
    look_up = next(c for c in contents if c['section'] == 'Look things up')['contents']
    files = 'contributing', 'changelog', 'security'
    look_up += [dict(text=name.capitalize(), href=f'{name.upper()}.md') for name in files]
    sidebar = dict(website=dict(sidebar=dict(contents=contents)))
    head = '# made from the pages by `make readme`: edit their titles, not this file\n'
    return head + yaml.safe_dump(sidebar, sort_keys=False, allow_unicode=True, width=200)

def settings():
    "Return what settings.ini says."
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

def llms_text():
    "Return llms.txt: every page with its address and what it does, for language models (llmstxt.org)."
    cfg = settings()
    site = cfg['doc_host'] + cfg['doc_baseurl'].removesuffix('/nbs')
    blocks = [f'# {cfg["title"]}', f'> {cfg["description"]}']
    for name, ps in sections():
        if name == 'Look things up':
            continue
        rows = [f'- [{entry(p)["text"]}]({site}/{rel(p.with_suffix(".html"))}): {page_title(p)[1]}' for p in ps]
        blocks += [f'## {name}', '\n'.join(rows)]
    return '\n\n'.join(blocks) + '\n'

SITE = {NBS/'sidebar.yml': sidebar_text, ROOT/'llms.txt': llms_text}

def write_site():
    "Write the sidebar and llms.txt."
    for path, make in SITE.items():
        path.write_text(make(), encoding='utf-8')

def stale_site():
    "Return what is wrong with the sidebar and llms.txt: whether they are as the pages give them."
    def stale(path, make):
        return not path.exists() or path.read_text(encoding='utf-8') != make()
    return [f'{rel(path)} is not what the pages give: make readme' for path, make in SITE.items() if stale(path, make)]
