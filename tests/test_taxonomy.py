"Taxonomies: errors that name the place and the fix, exact shares, covered pairs, conditions, template prompts."
import json
import os
import random
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from copy import deepcopy
from itertools import combinations as pairs_of
from itertools import product

import pytest

from rsr.data.readers import check_row
from rsr.data.text import minhash, normalised
from rsr.data.types import RsrError
from rsr.pairs.flaws import load_flaws
from rsr.rubric.criteria import load_rubric
from rsr.taxonomy.combinations import SAMPLERS, combinations, marginals, template_prompts
from rsr.taxonomy.coverage import coverage
from rsr.taxonomy.designs import Design, covering_rows, independent_rows, possible_pairs
from rsr.taxonomy.dimensions import Dimension, Value, fits, under
from rsr.taxonomy.quotas import apportion, fill_up, off_plan, quota_rows
from rsr.taxonomy.taxonomy import Taxonomy, load_taxonomy, taxonomy_names
from rsr.taxonomy.templates import SeenTexts, placeholders

SHOP = dict(
    name='shop',
    dimensions=dict(
        what=dict(
            description='topic',
            values=dict(
                billing=dict(weight=0.4, subtopics=dict(refund=0.6, invoice=0.4)),
                delivery=0.35,
                account=dict(weight=0.25, never_with=dict(stance='furious')),
            ),
        ),
        stance=dict(calm=0.7, furious=0.3),
        who=dict(private=0.8, business=0.2),
    ),
    edge_cases=dict(share=0.15, values={'empty': 0.5, 'two': {'weight': 0.5, 'with': {'what': 'delivery'}}}),
)

def changed(path, value):
    "SHOP with one thing changed; a value of None takes it out."
    d = deepcopy(SHOP)
    *path, last = path.split('.')
    o = d
    for k in path:
        o = o.setdefault(k, {})
    if value is None:
        del o[last]
    else:
        o[last] = value
    return d


# ---- errors

WRONG = [
    ('dimensions', {}, 'shop', 'give at least one'),
    ('dimensions', None, 'shop', 'give at least one'),
    (
        'dimensions.stance',
        {'calm': 0.7, 'furious': 0.27},
        "dimension 'stance': the weights sum to 0.97",
        '0.03 too little',
    ),
    ('dimensions.stance', {'calm': 0.7, 'furious': 0.27}, "dimension 'stance'", 'normalize: true'),
    ('dimensions.stance', {'calm': 0.7, 'furious': 0.4}, "dimension 'stance': the weights sum to 1.1", '0.1 too much'),
    ('dimensions.stance', {'calm': 0, 'furious': 0}, "dimension 'stance'", 'above 0'),
    ('dimensions.stance', {'calm': 1.5, 'furious': -0.5}, "dimension 'stance', value 'furious'", '0 to 1'),
    ('dimensions.stance', {'calm': float('nan'), 'furious': 0.5}, "dimension 'stance', value 'calm'", '0 to 1'),
    ('dimensions.stance', {'calm': '70%', 'furious': 0.3}, "dimension 'stance', value 'calm'", 'not a number'),
    ('dimensions.stance', {'calm': True, 'furious': 0.3}, "dimension 'stance', value 'calm'", 'not a number'),
    (
        'dimensions.stance',
        {'calm': {'description': 'x'}, 'furious': 0.3},
        "dimension 'stance', value 'calm'",
        'calm: 0.25',
    ),
    ('dimensions.stance', {'calm': None, 'furious': 0.3}, "dimension 'stance', value 'calm'", 'calm: 0.25'),
    ('dimensions.stance', {}, "dimension 'stance'", 'calm: 0.7'),
    ('dimensions.stance', ['calm', 'furious'], "dimension 'stance'", 'calm: 0.7'),
    ('dimensions.stance', {True: 0.7, False: 0.3}, "dimension 'stance'", 'quotes'),
    (
        'dimensions.stance',
        {'description': 'mood', 'vales': {}},
        "dimension 'stance': no key 'vales'",
        "Did you mean 'values'",
    ),
    ('dimensions.stance.a/b', 0.0, "dimension 'stance'", "'/'"),
    ('dimensions.edge_case', {'a': 1.0}, "dimension 'edge_case'", 'choose another'),
    (
        'dimensions.what.values.delivery',
        {'weight': 0.35, 'subtopcis': {}},
        "dimension 'what', value 'delivery': no key 'subtopcis'",
        "Did you mean 'subtopics'",
    ),
    (
        'dimensions.what.values.billing.subtopics',
        {'refund': 0.6, 'invoice': 0.5},
        "dimension 'what', subtopics of 'billing'",
        '0.1 too much',
    ),
    (
        'dimensions.what.values.account.never_with',
        {'stanc': 'furious'},
        "dimension 'what', value 'account', never_with: no dimension 'stanc'",
        "Did you mean 'stance'",
    ),
    (
        'dimensions.what.values.account.never_with',
        {'stance': 'furius'},
        "dimension 'what', value 'account', never_with: stance: no value 'furius'",
        "Did you mean 'furious'",
    ),
    (
        'dimensions.what.values.account.never_with',
        {'what': 'billing'},
        "dimension 'what', value 'account'",
        'another dimension',
    ),
    ('dimensions.what.values.account.only_if', {'stance': 'furious'}, "dimension 'what', value 'account'", 'drop one'),
    ('dimensions.what.values.account.only_if', 'calm', "dimension 'what', value 'account': only_if", 'a mapping'),
    (
        'dimensions.what.values.account.with',
        {'stance': 'calm'},
        "dimension 'what', value 'account': no key 'with'",
        'only_if',
    ),
    ('edge_cases.share', None, 'edge_cases', 'share: 0.15'),
    ('edge_cases.share', 15, 'edge_cases: share: 15', '0.15'),
    ('edge_cases.values', None, 'edge_cases', 'name the edge cases'),
    ('edge_cases.values', {'empty': 0.5, 'two': 0.4}, 'edge_cases: the weights sum to 0.9', 'normalize: true'),
    ('edge_cases.values', {'none': 1.0}, "edge_cases: value 'none'", 'choose another'),
    (
        'edge_cases.values',
        {'two': {'weight': 1.0, 'with': {'what': 'delivry'}}},
        "edge_cases, value 'two', with: what: no value 'delivry'",
        "Did you mean 'delivery'",
    ),
    ('style_dimension', 'how', "style_dimension: no dimension 'how'", 'stance'),
    ('word_limits', {'default': [20, 5]}, 'word_limits: default', '[3, 15]'),
    ('word_limits', {'terse': [2, 5]}, "word_limits: no key 'terse'", 'default'),
    (
        'templates',
        ['I have a {problem}.'],
        "template 1, 'I have a {problem}.': no slot or dimension 'problem'",
        'define it under slots',
    ),
    ('templates', ['{what|loud}'], 'template 1', "no filter 'loud'"),
    (
        'templates',
        [{'text': 'x', 'only_if': {'stance': 'clam'}}],
        "template 1, only_if: stance: no value 'clam'",
        "Did you mean 'calm'",
    ),
    ('templates', [{'txt': 'x'}], "template 1: no key 'txt'", "Did you mean 'text'"),
    ('templates', [None], 'template 1', 'quotes'),
    ('templates', 'Hello', 'templates', 'a list'),
    ('slots', {'a': []}, "slot 'a'", 'at least one text'),
    ('slots', {'what': ['x']}, "slot 'what'", 'choose another'),
    ('slots', {'a': ['x {b}'], 'b': ['y {a}']}, "slot 'a'", 'a → b → a'),
    (
        'examples',
        [{'text': 'Hi', 'combination': {'what': 'refund'}}],
        "example 1: combination: what: no value 'refund'",
        "Did you mean 'billing/refund'",
    ),
    ('examples', [{'combination': {}}], 'example 1', 'no text'),
    ('normalise', True, "shop': no key 'normalise'", "Did you mean 'normalize'"),
]

@pytest.mark.parametrize('path,value,place,fix', WRONG, ids=[f'{i}-{w[0]}' for i, w in enumerate(WRONG)])
def test_errors_name_the_place_and_the_fix(path, value, place, fix):
    with pytest.raises(RsrError) as e:
        load_taxonomy(changed(path, value))
    assert place in str(e.value) and fix in str(e.value)

def test_files(here):
    for src, says in [
        ('none.yaml', 'no taxonomy file none.yaml'),
        ('customer_suport', "Did you mean 'customer_support'"),
    ]:
        with pytest.raises(RsrError, match=says):
            load_taxonomy(src)
    (here/'a.yaml').write_text('a: [1')
    with pytest.raises(RsrError, match='a.yaml is not YAML'):
        load_taxonomy(here/'a.yaml')
    (here/'a.yaml').write_text('- a\n')
    with pytest.raises(RsrError, match='a.yaml: a taxonomy is a mapping'):
        load_taxonomy('a.yaml')
    (here/'a.yaml').write_text('dimensions: {mood: {calm: 0.5, cross: 0.4}}\n')
    with pytest.raises(RsrError, match="a.yaml, dimension 'mood'.*0.1 too little"):
        load_taxonomy('a.yaml')
    (here/'a.yaml').write_text('normalize: true\ndimensions: {mood: {calm: 3, cross: 1}}\n')
    assert (
        load_taxonomy('a.yaml').planned('mood') == {'calm': 0.75, 'cross': 0.25} and load_taxonomy('a.yaml').name == 'a'
    )

@pytest.mark.parametrize('share,warned', [(.01, True), (.05, False), (.3, False), (.31, True)])
def test_edge_share_outside_5_to_30_percent_is_warned_about(share, warned):
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        load_taxonomy(changed('edge_cases.share', share))
    assert bool(ws) == warned and all('edge_cases: the share is' in str(w.message) for w in ws)

def test_bad_calls():
    for kw, says in [
        (dict(how='random'), 'independent'),
        (dict(n=0), 'whole number'),
        (dict(n=2.5), 'whole number'),
        (dict(n=None), 'whole number'),
    ]:
        with pytest.raises(RsrError, match=says):
            combinations(SHOP, **{'n': 5, **kw})
    with pytest.raises(RsrError, match='they need 10'):
        combinations(SHOP, 9, 'pairwise')
    with pytest.raises(RsrError, match='no templates'):
        template_prompts(SHOP, 5)
    with pytest.raises(RsrError, match='near: 2'):
        template_prompts('customer_support', 5, near=2)
    with pytest.raises(RsrError, match='warn'):
        template_prompts('customer_support', 5, short='raise')


# ---- the definition

def test_round_trip(here):
    t = load_taxonomy(
        {
            **SHOP,
            'style_dimension': 'stance',
            'word_limits': {'calm': (3, 9), 'default': [1, 5]},
            'slots': {'größe': ['S', 'M – 漢字']},
            'templates': ['{größe} {what}', {'text': ['a', 'b'], 'only_if': {'stance': 'calm'}}],
            'examples': [{'text': 'Grüß Gott 🙂', 'combination': {'what': 'delivery'}}],
        }
    )
    assert load_taxonomy(t.to_dict()) == t and load_taxonomy(t) is t
    t.to_yaml(here/'t.yaml')
    again = load_taxonomy(here/'t.yaml')
    assert (
        again == t
        and again.to_yaml() == t.to_yaml()
        and 'Grüß Gott 🙂' in (here / 't.yaml').read_text(encoding='utf-8')
    )
    assert combinations(again, 50, 'quota') == combinations(t, 50, 'quota')

def test_classes_and_dicts_are_the_same():
    t = Taxonomy(
        'shop',
        dimensions=[
            Dimension(
                'what',
                [
                    Value('billing', 0.4, subtopics=[Value('refund', 0.6), Value('invoice', 0.4)]),
                    Value('delivery', 0.35),
                    Value('account', 0.25, never_with={'stance': ['furious']}),
                ],
                'topic',
            ),
            Dimension('stance', [Value('calm', 0.7), Value('furious', 0.3)]),
            Dimension('who', [Value('private', 0.8), Value('business', 0.2)]),
        ],
        edge_cases=[Value('empty', 0.5), Value('two', 0.5, with_={'what': 'delivery'})],
        edge_share=0.15,
    )
    assert t == load_taxonomy(SHOP)
    with pytest.raises(RsrError, match="dimension 'a' is defined twice"):
        Taxonomy(dimensions=[Dimension('a', [Value('x', 1)])]*2)
    with pytest.raises(RsrError, match="value 'x' is defined twice"):
        Taxonomy(dimensions=[Dimension('a', [Value('x', .5)]*2)])

def test_what_is_inside_and_allowed():
    t = load_taxonomy(SHOP)
    assert t.check({'what': 'billing/refund', 'stance': 'calm', 'edge_case': None}) is None and t.check({}) is None
    for c, says in [
        ({'what': 'billing'}, "no value 'billing'"),
        ({'mood': 'calm'}, "no dimension 'mood'"),
        ({'edge_case': 'empt'}, "Did you mean 'empty'"),
        ({'what': None}, "no value 'None'"),
    ]:
        assert says in t.check(c)
    assert t.allowed({'what': 'account', 'stance': 'calm'}) and not t.allowed({'what': 'account', 'stance': 'furious'})
    assert (
        t.allowed({'what': 'delivery', 'edge_case': 'two'})
        and not t.allowed({'what': 'billing/refund', 'edge_case': 'two'})
        and t.allowed({'edge_case': 'two'})
    )

def test_conditions_of_topics_hold_for_subtopics_at_any_depth():
    t = load_taxonomy(
        dict(
            dimensions=dict(
                a=dict(
                    x=dict(
                        weight=0.5, only_if=dict(b='p'), subtopics=dict(y=dict(weight=1, subtopics=dict(z=0.5, w=0.5)))
                    ),
                    v=0.5,
                ),
                b=dict(p=dict(weight=0.6, subtopics=dict(q=0.5, r=0.5)), s=0.4),
            )
        )
    )
    assert [p for p, _, _ in t.dimension('a').leaves()] == ['x/y/z', 'x/y/w', 'v']
    assert t.allowed({'a': 'x/y/z', 'b': 'p/r'}) and not t.allowed({'a': 'x/y/z', 'b': 's'})
    cs = combinations(t, 100, 'quota')
    assert (
        all(map(t.allowed, cs))
        and marginals(cs, 'a', 1) == {'x': 0.5, 'v': 0.5}
        and t.planned('a', 2) == {'x/y': 0.5, 'v': 0.5}
    )


# ---- sampling

def random_taxonomy(rng, conditions=True):
    "Two to five dimensions with subtopics, conditions and edge cases; None where the conditions contradict each other."
    def weights(k):
        ws = [rng.random()+.05 for _ in range(k)]
        return [w/sum(ws) for w in ws]
    def more(depth):
        return {'subtopics': values(rng.randint(1, 3), depth-1)} if depth and rng.random() < .3 else {}
    def values(k, depth):
        return {f'v{i}': dict(weight=w, **more(depth)) for i, w in enumerate(weights(k))}
    dims = {f'd{i}': dict(values=values(rng.randint(2, 5), 2)) for i in range(rng.randint(2, 5))}
    for k, d in dims.items():
        for v in d['values'].values():
            if conditions and rng.random() < .3:
                o = rng.choice([x for x in dims if x != k])
                names = [*dims[o]['values']]
                v[rng.choice(['only_if', 'never_with'])] = {o: rng.sample(names, rng.randint(1, len(names)-1))}
    d = dict(name='random', dimensions=dims)
    if rng.random() < .5:
        d['edge_cases'] = dict(
            share=rng.choice([0.05, 0.15, 0.3]), values={f'e{i}': w for i, w in enumerate(weights(rng.randint(1, 3)))}
        )
    try:
        return load_taxonomy(d)
    except RsrError as e:
        assert 'leave no combination' in str(e)

def all_nodes(t):
    for k in t.columns:
        for p, (w, _) in t.nodes(k).items():
            yield k, p, w

def count(cs, k, p):
    return sum((c[k] or 'none') == p or (c[k] or '').startswith(p+'/') for c in cs)

@pytest.mark.parametrize('seed', range(12))
def test_quota_is_within_one_on_every_level(seed):
    rng = random.Random(seed)
    t = random_taxonomy(rng, conditions=False)
    for n in (1, 7, 200, rng.randint(2, 500)):
        cs = combinations(t, n, 'quota', seed)
        assert len(cs) == n
        for k, p, w in all_nodes(t):
            assert abs(count(cs, k, p)-n*w) < 1, (k, p)
        if t.edge_cases:
            assert abs(sum(c['edge_case'] is not None for c in cs)-n*t.edge_share) < 1

def test_flat_quota_is_the_largest_remainder():
    assert apportion(10, dict(a=.7, b=.2, c=.1)) == dict(a=7, b=2, c=1)
    assert apportion(3, dict(a=.45, b=.35, c=.2)) == dict(a=1, b=1, c=1)
    assert apportion(100, dict(a=1, b=1, c=1)) == dict(a=34, b=33, c=33)
    assert {tuple(apportion(1, dict(a=0.5, b=0.5), random.Random(s)).values()) for s in range(20)} == {
        (1, 0),
        (0, 1),
    }, 'ties depend on the seed'

@pytest.mark.parametrize('seed', range(24))
def test_conditions_hold_under_all_three(seed):
    rng = random.Random(seed)
    if not (t := random_taxonomy(rng)):
        pytest.skip('contradictory')
    for how in SAMPLERS:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            cs = combinations(t, None if how == 'pairwise' else 150, how, seed)
        assert all(map(t.allowed, cs)) and not any(map(t.check, cs)) and all([*c] == t.columns for c in cs), how

def test_quota_reaches_whatever_can_be_reached():
    "The shares of a set that exists are reached exactly, conditions or not."
    tried = 0
    for seed in range(30):
        rng = random.Random(seed)
        if not (t := random_taxonomy(rng)):
            continue
        d = t.design()
        rows = independent_rows(d, n := rng.choice([30, 150, 400]), rng)
        seen = [{v: Counter(r[c] for r in rows)[i] for i, v in enumerate(vs)} for c, vs in enumerate(d.values)]
        same = Design(dict(zip(d.columns, seen)), ok=d.ok)
        got = quota_rows(same, n, rng)
        assert off_plan(same, got) == [] and all(map(same.holds, got)), seed
        tried += 1
    assert tried > 15

def test_tight_chains_come_right():
    d = Design({k: {'1': .25, '2': .75} for k in 'abcd'})
    for c in range(3):
        d.forbid(c, 0, c+1, 0b10)
    for n in (4, 100, 2000):
        rows = quota_rows(d, n, random.Random(0))
        assert off_plan(d, rows) == [] and all(map(d.holds, rows))

def test_shares_that_cannot_be_are_named():
    t = load_taxonomy(
        dict(
            dimensions=dict(
                what=dict(bulk=dict(weight=0.5, only_if=dict(who='business')), rest=0.5),
                who=dict(private=0.8, business=0.2),
            )
        )
    )
    with pytest.warns(UserWarning, match="what 'bulk' planned 100, reached 40; what 'rest' planned 100, reached 160"):
        cs = combinations(t, 200, 'quota')
    assert all(map(t.allowed, cs)) and marginals(cs, 'who') == {'private': .8, 'business': .2}

def test_edge_share_holds_where_conditions_press_on_it():
    t = load_taxonomy(
        dict(
            dimensions=dict(what=dict(a=0.05, b=0.95)),
            edge_cases=dict(share=0.2, values={'x': {'weight': 1, 'with': {'what': 'a'}}}),
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert marginals(combinations(t, 200, 'quota'), 'edge_case') == {'none': .8, 'x': .2}
    got = marginals(combinations(t, 5000), 'edge_case')['x']
    assert abs(got-.2) < .02

def pairs_in(cs):
    return {((a, c[a]), (b, c[b])) for c in cs for a, b in pairs_of(c, 2)}

@pytest.mark.parametrize('seed', range(15))
def test_pairwise_covers_every_pair_that_some_combination_can_hold(seed):
    rng = random.Random(seed)
    if not (t := random_taxonomy(rng)):
        pytest.skip('contradictory')
    d = t.design()
    if len(d.columns) > 4:
        pytest.skip('too many to list')
    def product(cols):
        return [[]] if not cols else [[i, *r] for i in range(cols[0]) for r in product(cols[1:])]
    every = [r for r in product([len(v) for v in d.values]) if d.holds(r)]
    want = {(a, r[a], b, r[b]) for r in every for a, b in pairs_of(range(len(r)), 2)}
    got = covering_rows(d, rng)
    assert {(a, r[a], b, r[b]) for r in got for a, b in pairs_of(range(len(r)), 2)} == want
    n = sum(len(d.values[a])*len(d.values[b]) for a, b in pairs_of(range(len(d.values)), 2))
    assert len(possible_pairs(d)[1]) == n-len(want)

@pytest.mark.parametrize('sizes,most', [([4]*5, 22), ([3]*10, 20), ([2]*8, 9), ([7, 5, 4], 37), ([5], 5), ([6, 1], 6)])
def test_size_of_covering_arrays(sizes, most):
    d = Design({f'c{i}': {f'v{j}': 1/k for j in range(k)} for i, k in enumerate(sizes)})
    top = sorted(sizes)[-2:]
    assert (
        top[0] * top[-1] <= len(covering_rows(d, random.Random(1))) <= most
        or len(sizes) == 1
        and len(covering_rows(d, random.Random(1))) == 5
    )

def test_pairwise_is_filled_up_to_n_with_the_shares_in_mind():
    cs = combinations(SHOP, 200, 'pairwise')
    assert len(cs) == 200 and pairs_in(cs) >= pairs_in(combinations(SHOP, how='pairwise'))
    t = load_taxonomy(SHOP)
    for k, p, w in all_nodes(t):
        assert abs(count(cs, k, p)-200*w) <= 1
    d = t.design()
    assert len(fill_up(d, [], 7, random.Random(0))) == 7

def test_what_is_impossible_is_listed():
    gone = load_taxonomy(SHOP).infeasible()
    assert (
        (('what', 'account'), ('stance', 'furious')) in gone
        and (('what', 'billing/refund'), ('edge_case', 'two')) in gone
        and len(gone) == 4
    )

def test_values_of_weight_0_are_kept_but_never_drawn():
    t = load_taxonomy(dict(dimensions=dict(a=dict(x=1, y=0), b=dict(p=.5, q=.5))))
    assert t.check({'a': 'y'}) is None
    assert all(c['a'] == 'x' for how in SAMPLERS for c in combinations(t, 20, how))

def test_ten_thousand_are_fast():
    import time
    start = time.process_time()
    cs = combinations('customer_support', 10_000, 'quota')
    assert len(cs) == 10_000 and time.process_time()-start < 3

PROGRAM = '''
import hashlib, json, sys
from rsr.taxonomy.combinations import combinations, template_prompts
out = [combinations('customer_support', 150, how, 7) for how in ('independent', 'quota', 'pairwise')]
out += [template_prompts('customer_support', 40, seed=7)]
print(hashlib.sha256(json.dumps(out).encode()).hexdigest())
'''

def test_same_seed_same_result_in_another_process():
    def run(h):
        return subprocess.run(
            [sys.executable, '-c', PROGRAM],
            env={**os.environ, 'PYTHONHASHSEED': h},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert run('0') == run('12345') != ''
    assert combinations(SHOP, 20, 'quota', 1) != combinations(SHOP, 20, 'quota', 2)


# ---- prompts from templates

def test_the_shipped_taxonomy_gives_500_distinct_prompts():
    assert 'customer_support' in taxonomy_names()
    t = load_taxonomy('customer_support')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        rows = template_prompts(t, 500, seed=3)
    texts = [r['messages'][0]['content'] for r in rows]
    assert len(rows) == len({normalised(s) for s in texts}) == len({r['id'] for r in rows}) == 500
    assert re.fullmatch('customer_support-[0-9a-f]{6}-00001', rows[0]['id'])
    assert not any(map(check_row, rows)) and not any('{' in s or '}' in s for s in texts)
    labels, cs = [r['metadata']['taxonomy'] for r in rows], combinations(t, 500, 'quota', 3)
    assert all({**c, **label} == c or c['what'].startswith(label['what']) for c, label in zip(cs, labels))
    whole = [k for k in t.columns if all(k in label for label in labels)]
    assert whole == ['how', 'who', 'stance', 'presentation', 'edge_case']
    silent = {c['edge_case'] for c, label in zip(cs, labels) if 'what' not in label}
    assert silent <= {'no_details', 'injection', 'contradiction'}
    for k, p, w in all_nodes(t):
        assert abs(count(cs, k, p)-500*w) <= 1, (k, p)
    for c, s in zip(cs, texts):
        assert t.word_limits[c['how']][0] <= len(s.split()) <= t.word_limits[c['how']][1], s
    hashes = [minhash(s) for s in texts]
    assert all(a.jaccard(b) < .8 for a, b in pairs_of(hashes[:150], 2))
    assert {c['edge_case'] for c in cs} == {None, *(v.name for v in t.edge_cases)}
    json.dumps(rows)

def test_every_combination_of_the_shipped_taxonomy_has_a_text():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        rows = template_prompts('customer_support', how='pairwise')
    assert len(rows) == len(combinations('customer_support', how='pairwise'))

TEA = dict(
    name='tea',
    dimensions=dict(mood=dict(calm=0.5, cross=0.5)),
    slots=dict(drink=['tea', 'cocoa', 'coffee']),
    templates=[
        'May I have some {drink}?',
        dict(text='Where is my {drink}, and why does it take so long?', only_if=dict(mood='cross')),
    ],
)

def test_too_few_texts_are_said():
    with pytest.warns(
        UserWarning, match=r'of 20 prompts are missing.*for \{mood: calm\} \(at most 3 different texts\)'
    ):
        rows = template_prompts(TEA, 20)
    assert len({r['messages'][0]['content'] for r in rows}) == len(rows) == 6 and len({r['id'] for r in rows}) == 6
    with pytest.raises(RsrError, match='Add templates or slot texts'):
        template_prompts(TEA, 20, short='stop')

def test_a_combination_without_a_template():
    with pytest.raises(RsrError, match="no template can be filled for {'mood': 'calm'}"):
        template_prompts({**TEA, 'templates': [dict(text='{drink}', only_if=dict(mood='cross'))]}, 4)

def test_slots_are_the_same_within_a_prompt_and_other_texts_are_tried():
    t = dict(dimensions=dict(mood=dict(calm=.5, cross=.5)), templates=['{n} {n|upper} {{n}} {x}'], slots=dict(
        n=[f'n{i}' for i in range(50)], x=['{y}', 'z'], y=[dict(text='y', only_if=dict(mood='cross'))]))
    for r in template_prompts(t, 40, near=None):
        a, b, c, d = r['messages'][0]['content'].split()
        assert b == a.upper() and c == '{n}' and (d == 'z' or r['metadata']['taxonomy']['mood'] == 'cross')

def test_seen():
    s = SeenTexts(.8)
    long = (
        'I ordered a blue kettle on Monday, was promised delivery by Wednesday, and it is Friday now. '
        'Where is order {}?'
    )
    assert (
        s.add('Where is it?', 'a') is None
        and s.add('Where is it?') == ('exact', 'a')
        and s.add('WHERE is it') == ('normalised', 'a')
    )
    assert s.add(long.format(1), 'b') is None and s.add(long.format(2)) == ('near', 'b')
    assert s.add('漢字かな', 'c') is None and s.add('!!!') is None and s.add('???') is None
    exact = SeenTexts(None)
    assert exact.add(long.format(1)) is None and exact.add(long.format(2)) is None


# ---- labels hold only what the text says

ALLERGY = dict(fish=.5, nuts=.5)
def menu(*templates, dims=None, **kw):
    return dict(name='menu', dimensions=dict(drink=dict(tea=.5, coffee=.5), allergy=ALLERGY, **(dims or {})),
                templates=list(templates), **kw)
def only(text, **condition):
    return dict(text=text, only_if=condition)
def never(text, **condition):
    return dict(text=text, never_with=condition)
def quiet(f, *args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args, **kw)
EITHER = only('{drink}, no fish', allergy='fish'), only('{drink}, no nuts', allergy='nuts')
DEEP = dict(food=dict(sea=dict(weight=.5, subtopics=dict(cod=.5, eel=.5)), land=.5))

@pytest.mark.parametrize('taxonomy, missing', [
    (menu('One {drink}.'), dict(allergy=dict(fish=None, nuts=None))),                          # nothing uses it
    (menu('One {drink}.', EITHER[0]), dict(allergy=dict(nuts=None))),                          # one value only
    (menu('One {drink} without {allergy}.'), {}),                                              # a slot of its name
    (menu(*EITHER), {}),
    (menu('One {drink}, {a}', slots=dict(a=['{b}'], b=['{c}'], c=[only('?', allergy='fish'), '-'])),
     dict(allergy=dict(nuts=None))),
    (menu('One {drink}, {a}', slots=dict(a=[only('please', allergy=['fish', 'nuts'])])),       # the same for both
     dict(allergy=dict(fish=None, nuts=None))),
    (menu('One {drink}, {a}', slots=dict(a=[only('no', allergy='fish'), only('no', allergy='nuts')])),   # the same text
     dict(allergy=dict(fish=None, nuts=None))),
    (menu(never('{drink}!', allergy='fish'), never('{drink}?', allergy='nuts')), {}),          # by exclusion
    (menu('One {drink}.', slots=dict(a=['{allergy}'])), dict(allergy=dict(fish=None, nuts=None))),   # an unused slot
    (menu(only('{drink} {a}', drink='tea'), only('{drink}', drink='coffee'),                   # never reached
          slots=dict(a=[only('{allergy}', drink='coffee'), 'please'])), dict(allergy=dict(fish=None, nuts=None))),
    (menu(*EITHER, dims=DEEP), dict(food={'sea/cod': None, 'sea/eel': None, 'land': None})),
    (menu(*EITHER, 'and {f}', dims=DEEP, slots=dict(f=[only('a fish', food='sea'), only('a cow', food='land')])),
     dict(food={'sea/cod': 'sea', 'sea/eel': 'sea'})),
    (menu(*EITHER, dims=dict(place=dict(here=1.))), dict(place=dict(here=None))),              # one value
    (menu(*EITHER, 'at {place}', dims=dict(place=dict(here=1.))), {}),
    (menu(*EITHER, dims=dict(size=dict(small=1., huge=0.))), dict(size=dict(small=None))),     # never drawn
    (menu(*EITHER, edge_cases=dict(share=.1, values=dict(rude=1.))), dict(edge_case=dict(rude=None))),
    (menu(*EITHER, only('Tea, now', edge_case='rude'), edge_cases=dict(share=.1, values=dict(rude=1.))), {}),
    (menu(*EITHER, only('{drink}, {temper}', temper='hot', mood='calm'),              # what the conditions forbid
          dims=dict(mood=dict(calm=.5, cross=.5),
                    temper=dict(hot=dict(weight=.5, never_with=dict(mood='calm')), cool=.5))),
     dict(mood=dict(calm=None, cross=None), temper=dict(hot=None, cool=None))),
    (menu(), {})])                                                                             # a model is told all
def test_values_that_no_template_depends_on(taxonomy, missing):
    assert quiet(load_taxonomy, taxonomy).unsaid == missing
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        load_taxonomy(taxonomy)
    assert len(said) == bool(missing)
    for k, values in missing.items():
        assert re.search(rf'no template depends on .*{k}.*{list(values)[0]}', str(said[0].message))

def test_three_allergy_prompts_that_say_nothing_of_allergies_cover_none():
    rows = quiet(template_prompts, menu('One {drink}.', 'A {drink}, please.', 'Is there {drink}?'), 6)
    assert rows and all(list(r['metadata']['taxonomy']) == ['drink'] for r in rows)
    d = quiet(coverage, menu('One {drink}.'), rows)
    assert d['dimensions']['allergy'][0]['planned_generated'] is None
    assert d['dimensions']['drink'][0]['planned_generated']['tv'] is not None

def every_text(t, combo, slot=None):
    "All texts that templates can give for a combination, by brute force; slots are used once a template."
    out = set()
    for e in t.texts[slot]:
        if fits(combo, e['only_if'], e['never_with']):
            options = [every_text(t, combo, k) if k in t.texts else {(combo[k] or 'none').rpartition('/')[2]}
                       for k, _ in placeholders(e['text'])]
            for parts in product(*options):
                out.add(re.sub(r'\{[^{}]+\}', lambda m, left=iter(parts): next(left), e['text']))
    return out

@pytest.mark.parametrize('seed', range(12))
def test_a_label_is_never_given_to_a_text_that_another_value_could_have(seed):
    "Random taxonomies with distinct texts: what a label says, no prompt of another value can look like."
    rng = random.Random(seed)
    dims = dict(a=dict(x=.5, y=dict(weight=.5, subtopics=dict(p=.5, q=.5))), b=dict(u=.4, v=.3, w=.3))
    paths = dict(a=['x', 'y', 'y/p', 'y/q'], b=['u', 'v', 'w'])
    def entry(text):
        e = dict(text=text)
        for kind in ('only_if', 'never_with'):
            if rng.random() < .5:
                k = rng.choice('ab')
                e[kind] = {k: rng.sample(paths[k], rng.choice([1, 1, 2]))}
        return e
    slots = {f's{i}': [f's{i}-plain', *(entry(f's{i}-{j}') for j in range(3))] for i in range(2)}
    ends = ' {s0} {s1}', ' {s1}', ' {s0} {b}', ''
    templates = ['T {s0}', *(entry(f'T{i}{rng.choice(ends)}') for i in range(4))]
    t = quiet(load_taxonomy, dict(dimensions=dims, templates=templates, slots=slots))
    rows = quiet(template_prompts, t, 60, seed=seed, near=None)
    combos = [dict(a=a, b=b) for a in t.planned('a') for b in t.planned('b')]
    texts = {(c['a'], c['b']): every_text(t, c) for c in combos}
    given = 0
    for r in rows:
        text = r['messages'][0]['content']
        for k, v in r['metadata']['taxonomy'].items():
            given += 1
            assert not any(text in texts[c['a'], c['b']] for c in combos if not under(c[k], [v])), (text, k, v)
    assert given
    never_said = {(k, v) for k, of in t.unsaid.items() for v, topic in of.items() if topic is None}
    assert not never_said & {(k, v) for r in rows for k, v in r['metadata']['taxonomy'].items()}

def test_plans_over_dimensions_that_no_template_uses():
    t = quiet(load_taxonomy, menu('One {drink}, {a}.', slots=dict(a=[f'with {i} spoons' for i in range(30)])))
    assert len(quiet(combinations, t, how='pairwise')) >= 4          # the plan stays whole: a model may write it
    rows = quiet(template_prompts, t, 20, near=None)
    assert [r['metadata']['taxonomy'] for r in rows] == [dict(drink=c['drink']) for c in combinations(t, 20, 'quota')]
    child = dict(weight=.5, only_if=dict(allergy='nuts'))
    with pytest.warns(UserWarning) as said:
        assert len(template_prompts(t, how='pairwise', near=None)) == len(combinations(t, how='pairwise'))
        template_prompts(load_taxonomy(menu('One {drink}.')), how='pairwise')
    said = [str(w.message) for w in said]
    assert any('allergy (fish, nuts); 4 of 4 prompts get no label there' in x for x in said)
    assert any('asks for allergy, on which no template depends' in x for x in said)
    tied = quiet(load_taxonomy, menu('One {drink}.', dims=dict(who=dict(child=child, adult=.5))))
    assert all(c['allergy'] == 'nuts' for c in combinations(tied, 20, 'quota') if c['who'] == 'child')

def test_a_huge_taxonomy_loads_in_seconds():
    dims = {f'd{i}': {f'v{j}': 1/20 for j in range(20)} for i in range(20)}
    slots = {f's{i}': [only(f's{i} {j} '+('' if i == 19 else f'{{s{i+1}}} {{s{min(i+2, 19)}}}'), **{f'd{i}': f'v{j}'})
                       for j in range(20)] for i in range(20)}
    start = time.process_time()
    t = load_taxonomy(dict(dimensions=dims, slots=slots, templates=['{s0}'], normalize=True))
    assert t.unsaid == {} and time.process_time()-start < 20

def test_an_empty_template_is_no_prompt():
    with pytest.raises(RsrError, match='template 2: it is empty'):
        load_taxonomy(menu('One {drink} without {allergy}.', ' '))

def test_ids_of_two_plans_do_not_meet():
    ids = [r['id'] for kw in (dict(), dict(seed=1), dict(n=21), dict(how='independent'))
           for r in template_prompts('customer_support', **{**dict(n=20), **kw})]
    assert len(set(ids)) == len(ids)
    assert [r['id'] for r in template_prompts('customer_support', 20)] == ids[:20]

@pytest.mark.parametrize('load', [load_taxonomy, load_rubric, load_flaws])
def test_a_key_that_stands_twice_is_refused(load, tmp_path):
    path = tmp_path/'twice.yaml'
    path.write_text('name: a\nname: b\n')
    with pytest.raises(RsrError, match="twice.yaml: the key 'name' stands in line 1 and again in line 2"):
        load(str(path))
