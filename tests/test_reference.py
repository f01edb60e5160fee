"The configuration reference says what the code does: keys, defaults, descriptions, and the page that shows them."
import inspect
import json
import re
import shutil
from pathlib import Path

import pytest

from rsr.data.types import RsrError
from rsr.formatters.methods import FORMATTERS
from rsr.formatters.splits import SPLIT, check_split
from rsr.formatters.writer import COMMON, make_formatter, make_formatters
from rsr.pairs.strategies import PAIR_DEFAULTS, STRATEGIES, check_pairs, make_plan
from rsr.rubric.criteria import Criterion, Rubric, load_rubric
from rsr.run.execution import build
from rsr.run.help_texts import HELP
from rsr.run.overrides import TOP_KEYS, parse_override, schema
from rsr.run.recipe import check_recipe, load_recipe
from rsr.run.reference import NOTES, reference, reference_markdown, targets, yaml_value
from rsr.run.reward import make_scorer
from rsr.sampling.budget import Budget
from rsr.sampling.providers import make_sampler
from rsr.sampling.samplers import HttpSampler
from rsr.sampling.schedule import Sampling
from rsr.verifiers.registry import VERIFIERS
from rsr.verifiers.verifiers import load_verifier

ROWS = reference()
BASE = dict(formatter=[dict(type='sft')])
SECTIONS = list(dict.fromkeys(r['section'] for r in ROWS))
PAGE = Path(__file__).resolve().parents[1]/'nbs'/'run'/'06_reference.ipynb'

def keys(section):
    return [r['key'] for r in ROWS if r['section'] == section]
def tail(key):
    return key.rpartition('.')[2]
def ids(r):
    return f"{r['section']} {r['key']}"


# ---- everything is in it

def test_every_key_of_the_schema():
    for s, opts in schema().items():
        assert keys(s) == [f'{s}.{k}' for k in opts]
    assert keys('recipe') == list(TOP_KEYS)

@pytest.mark.parametrize('name', FORMATTERS)
def test_every_option_of_a_formatter(name):
    assert set(map(tail, keys(f'formatter: {name}'))) == set(make_formatter(name).options)
    assert set(map(tail, keys('formatter'))) == {'type', 'name', *COMMON}

@pytest.mark.parametrize('name', STRATEGIES)
def test_every_option_of_a_strategy(name):
    with pytest.raises(RsrError) as e:
        check_pairs({'strategy': name, 'no_such_option': 1})
    allowed = set(re.findall(r'pairs\.(\w+)', str(e.value).partition('Allowed: ')[2]))
    assert allowed == set(map(tail, keys('pairs'))) | set(map(tail, keys(f'pairs: {name}')))

@pytest.fixture(autouse=True)
def code_needs_its_sandbox(request):
    "Reading a recipe with `code` tries the sandbox."
    if 'verifier: code' in request.node.name and not shutil.which('bwrap'):
        pytest.skip('bubblewrap is not installed')

def loaded(name):
    "A verifier with default options, whether its sandbox is installed or not."
    return load_verifier(name, **({'unsafe': True} if name == 'code' else {}))

def test_every_option_of_a_verifier():
    for name in VERIFIERS:
        v = loaded(name)
        filled_in = {'response', 'metadata', 'ask', 'prompt', 'reasoning', 'tool_calls', 'tools', 'rollouts', 'cache'}
        assert set(map(tail, keys(f'verifier: {name}'))) == v.takes - filled_in
    with pytest.raises(RsrError) as e:
        make_scorer(dict(type='rubric', no_such_option=1))
    allowed = set(re.findall(r'verifier\.(\w+)', str(e.value).partition('Allowed: ')[2]))
    assert allowed == set(map(tail, keys('verifier: rubric'))) | set(inspect.signature(HttpSampler).parameters)

def test_every_key_of_split_and_rubric():
    assert set(map(tail, keys('split'))) == set(SPLIT)
    with pytest.raises(RsrError) as e:
        load_rubric(dict(no_such=1))
    assert set(str(e.value).partition('Allowed: ')[2].split(', ')) == set(keys('rubric file'))
    with pytest.raises(RsrError) as e:
        Rubric('r', {'c': 1}, [dict(no_such=1)])
    assert set(str(e.value).partition('Allowed: ')[2].split(', ')) == set(keys('rubric file: criteria'))

@pytest.mark.parametrize('r', ROWS, ids=ids)
def test_each_is_described(r):
    assert len(r['what']) > 3 and r['what'] != r['allowed'], 'put a comment behind the parameter, or a line in HELP'
    assert not re.search(r'\b(None|True|False)\b|\bseed \'', r['what']), 'a recipe is YAML'
    assert r['type'] in ('int', 'float', 'bool', 'str', 'dict', 'list', 'any', 'list or dict', 'dict or int')

def test_nothing_is_explained_that_is_not_there():
    assert set(HELP) <= {r['key'] for r in ROWS} and set(NOTES) <= set(SECTIONS)
    seen = [(r['section'], r['key']) for r in ROWS]
    assert len(seen) == len(set(seen))


# ---- defaults, from what is built without the key

def built():
    "{(section, key): value} of everything that a recipe without options makes."
    d = build(load_recipe(BASE, ['sampler.base_url=http://localhost:1/v1']))
    out = {('sampling', f'sampling.{k}'): v for k, v in vars(d['sampling']).items()}
    plain = vars(make_sampler('openai-compatible-api', base_url='http://localhost:1/v1'))
    options = [k for k in inspect.signature(HttpSampler).parameters if k not in ('base_url', 'api_key', 'temperature')]
    out |= {(s, f'{s}.{k}'): plain[k] for s in ('sampler', 'verifier') for k in options}
    _, (judge,) = make_scorer(dict(type='mcq-llm-as-judge', model='m'))
    out |= {('sampler', 'sampler.temperature'): plain['temperature'],
            ('verifier', 'verifier.temperature'): judge['temperature'],
            ('verifier', 'verifier.type'): d['verifier'].name}
    out |= {('budget', f'budget.{k}'): v for k, v in d['budget'].limits.items()} | {('resume', 'resume.mix'): d['mix']}
    for n in FORMATTERS:
        out |= {(f'formatter: {n}', f'formatter.{k}'): v for k, v in make_formatter(n).options.items()}
    out |= {('formatter', f'formatter.{k}'): getattr(make_formatter('sft'), k) for k in ('thinking', 'keep_system')}
    out |= {('split', f'split.{k}'): v for k, v in check_split({}).items()}
    out |= {('pairs', f'pairs.{k}'): v for k, v in PAIR_DEFAULTS.items()}
    plan, hot = make_plan(dict(strategy='rubric_selection'), {}), make_plan(dict(strategy='temperature'), {})
    out |= {('pairs: rubric_selection', 'pairs.n'): plan.sampling['max_rollouts'],
            ('pairs: rubric_selection', 'pairs.temperature'): plan.chosen['temperature'],
            ('pairs: temperature', 'pairs.chosen'): hot.chosen['temperature'],
            ('pairs: temperature', 'pairs.rejected'): hot.rejected['temperature']}
    r, c = Rubric('r', {'c': 1}, [dict(id='a', question='?', category='c')]), Criterion('a')
    rubric_keys = 'description', 'pass_threshold', 'mode', 'combine', 'structured'
    out |= {('rubric file', k): getattr(r, k) for k in rubric_keys}
    # null: 50, or what the engine takes (a sampler sets it when it is made)
    out |= {(s, f'{s}.concurrent_requests'): None for s in ('sampler', 'verifier')}
    out.pop(('verifier', 'verifier.drop_truncated'))   # of a judge there is no such thing
    return out | {('rubric file: criteria', k): getattr(c, k) for k in vars(c) if k != 'id'}

def test_each_default_is_what_is_built():
    made, listed = built(), {(r['section'], r['key']): r['default'] for r in ROWS}
    assert made.keys() <= listed.keys() and len(made) > 80
    assert {k: v for k, v in made.items() if v != listed[k]} == {}
    not_made = {key for section, key in listed if section in ('sampling', 'sampler') and (section, key) not in made}
    assert not_made == {'sampler.type', 'sampler.base_url', 'sampler.api_key'}

def test_targets():
    for n in FORMATTERS:
        assert targets(n)[0] == make_formatter(n).target
        for t in targets(n):
            make_formatter(n, target=t)


# ---- what it names is accepted, and nothing else is

def recipe_with(r, key, value):
    "A recipe with one key, checked as far as that goes without a model."
    head, _, name = r['section'].partition(': ')
    more = {}
    if head == 'pairs':
        more = dict(pairs=dict(strategy=name or 'temperature'))
    if head == 'verifier' and name:
        more = dict(verifier=dict(stages=['rlvr']) if name == 'stack' else dict(type=name))
    if head == 'formatter':
        more = dict(formatter=[dict(type=name or 'sft')])
    if head == 'pairs':
        more['formatter'] = [dict(type='dpo')]
    d = load_recipe({**BASE, **more}, [(key, value)])
    make_formatters(d['formatter'])
    if head == 'verifier' and name:
        asks = name in ('rubric', 'reward-model') or name != 'stack' and load_verifier(name).needs_judge
        judge = {'base_url': 'http://localhost:1/v1'} if asks else {}
        judge |= {'rubric': 'helpful_answer'} if name == 'rubric' else {}
        make_scorer({**judge, **d['verifier']})
    if d.get('pairs'):
        check_pairs(d['pairs'])
    return d

GOOD = {'formatter': [dict(type='sft')], 'formatter.type': 'sft', 'pairs.strategy': 'temperature',
        'pairs': dict(strategy='temperature'), 'split': {}, 'verifier.rubric': 'helpful_answer',
        'verifier.stages': ['rlvr']}
IN_RECIPE = [r for r in ROWS if not r['section'].startswith(('rubric file', 'verifier: stage'))]

@pytest.mark.parametrize('r', IN_RECIPE, ids=ids)
def test_each_key_is_accepted(r):
    d = recipe_with(r, r['key'], GOOD.get(r['key'], r['default']))
    assert check_recipe(d)

@pytest.mark.parametrize('r', [r for r in IN_RECIPE if r['section'] != 'verifier'], ids=ids)
def test_a_key_that_is_not_in_it_is_refused(r):
    wrong = r['key']+'x'
    assert wrong not in {r['key'] for r in ROWS}
    with pytest.raises(RsrError, match=f"{tail(wrong)}'"):
        recipe_with(r, wrong, 1)

def test_each_key_of_a_stage_is_accepted():
    stage = [r for r in ROWS if r['section'] == 'verifier: stage']
    assert {'name', 'weight', 'gate', 'when', 'pass_threshold', 'on_unscored'} == {tail(r['key']) for r in stage}
    for r in stage:
        value = json.dumps('rule' if tail(r['key']) == 'name' else r['default'])
        given = load_recipe(BASE, ['verifier=[math-rlvr]', r['key'].replace('NAME', 'math-rlvr')+'='+value])
        assert tail(r['key']) in given['verifier']['stages'][0]
    with pytest.raises(RsrError, match='this recipe has no stack'):
        load_recipe(BASE, ['verifier.stages.rule.weight=2'])

def test_a_verifier_refuses_what_the_reference_has_not():
    with pytest.raises(RsrError, match='no option'):
        make_scorer(load_recipe(BASE, ['verifier.tpe=1'])['verifier'])

RANGED = [r for r in ROWS if re.fullmatch(r'[\d.,]+ to ([\d.,]+|10\^\d+)(, or auto)?', r['allowed'])]

@pytest.mark.parametrize('r', RANGED, ids=ids)
def test_the_ranges_are_those_that_are_checked(r):
    lo, hi = r['allowed'].removesuffix(', or auto').split(' to ')
    lo, hi = float(lo.replace(',', '')), 10**int(hi[3:]) if '^' in hi else float(hi.replace(',', ''))
    num = int if r['type'] == 'int' else float
    for v in (lo, hi):
        load_recipe(BASE, [(r['key'], num(v))])
    for v in (num(lo)-1, num(hi)+1):
        with pytest.raises(RsrError, match='is not in'):
            load_recipe(BASE, [(r['key'], v)])

CHOOSE = [r for r in ROWS if re.fullmatch(r'\w+(, \w+)+', r['allowed'])
          and r['section'].startswith(('formatter: ', 'data', 'recipe')) and r['key'] != 'formatter']

@pytest.mark.parametrize('r', CHOOSE, ids=ids)
def test_each_choice_is_one(r):
    for v in r['allowed'].split(', '):
        recipe_with(r, r['key'], v)
    with pytest.raises(RsrError):
        recipe_with(r, r['key'], 'no such choice')

WITH_DEFAULT = [r for r in ROWS if r['section'] in schema() and r['default'] is not None]

@pytest.mark.parametrize('r', WITH_DEFAULT, ids=ids)
def test_a_default_can_be_copied_into_a_command(r):
    assert parse_override(f"{r['key']}={yaml_value(r['default'])}".replace("''", ''))[1] in (r['default'], None, '')


# ---- the page

def test_the_page_is_what_the_code_says_now():
    cells = json.loads(PAGE.read_text(encoding='utf-8'))['cells']
    data = [o.get('data', {}) for c in cells for o in c.get('outputs', [])]
    saved = [''.join(d['text/markdown']) for d in data if 'text/markdown' in d]
    assert saved == [reference_markdown()], 'run the notebook again: nbs/_build.py run --only run/06_reference'

def test_the_tables_are_tables():
    lines = [x for x in reference_markdown().splitlines() if x.startswith('| `')]
    assert len(lines) == len(ROWS)
    assert {len(re.findall(r'(?<!\\)\|', x)) for x in lines} == {6}
    assert [re.match(r'\| `([^`]+)`', x)[1] for x in lines] == [r['key'] for r in ROWS]

def test_sampling_and_budget_have_no_more_than_their_sections():
    assert set(vars(Sampling())) == set(map(tail, keys('sampling')))
    assert set(Budget().limits) == set(map(tail, keys('budget')))
