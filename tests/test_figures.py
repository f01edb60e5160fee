"Figures: their numbers by hand, that each draws whatever it is given, and that both pages and all eyes can read them."
import inspect
import json
import math
import sys
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import rsr

from rsr.data.store import Store
from rsr.data.types import Prompt, Rollout, RsrError, Score
from rsr.explore.breakdown_figures import compare_data, components_data, criteria_data, plot_compare, taxonomy_data
from rsr.explore.figures import all_figures
from rsr.explore.ledger_view import FIGURES
from rsr.explore.run_figures import (
    latency_data,
    outcomes_data,
    rollouts_to_satisfaction_data,
    tokens_data,
    yield_budget_data,
)
from rsr.explore.score_figures import (
    beta_masses,
    margins_data,
    pass_rates_data,
    plot_scores,
    score_length_data,
    scores_data,
    spearman,
)
from rsr.run.results import Run
from rsr.run.run import sample
from rsr.style import COLOURS, ENDS, INK, LOOKS

sys.path.append(str(Path(__file__).parent.parent/'nbs'/'explore'))
from demo_runs import two_models

NAMES = ['scores', 'pass_rates', 'difficulty', 'rollouts_to_satisfaction', 'outcomes', 'tokens', 'latency',
         'yield_budget', 'score_length', 'margins', 'components', 'criteria', 'taxonomy', 'models', 'compare']
RECIPE = dict(sampler=dict(model='m', temperature=.7, max_tokens=100),
              verifier=dict(type='rubric', rubric='helpful_answer'),
              formatter=[dict(type='sft', pass_threshold=.8),
                         dict(type='dpo', pass_threshold=.8, fail_threshold=None, min_margin=.15)])

def make_run(path, prompts, recipe=RECIPE, taxonomy=None):
    "A run filled by hand: [(stop, [(outcome, score, tokens, blind) …]) …]; a score of '-' is no score row."
    st = Store(path)
    (path/'recipe.yaml').write_text(yaml.safe_dump(recipe))
    if prompts:
        st.add_prompts([(f'line {i}', Prompt(f'q{i}', [dict(role='user', content='?')],
                                             dict(taxonomy=taxonomy[i]) if taxonomy else {}))
                        for i in range(len(prompts))])
    smp = st.config_key('sampler', recipe['sampler'])
    ver = st.config_key('verifier', dict(rubric=dict(criteria=[dict(id='depth', scale=[1, 2, 3, 4, 5])])))
    st.put('verifier', ver)
    for key, (stop, rs) in enumerate(prompts, 1):
        for i, (outcome, score, tokens, blind) in enumerate(rs):
            k, = st.ask(key, [i], 1, smp, 100, blind=blind)
            if outcome:
                st.answer(Rollout('x'*tokens*4, outcome=outcome, key=k, prompt_tokens=10, completion_tokens=tokens,
                                  latency=tokens/100))
            if outcome == 'kept' and score != '-':
                answer = 'ERROR' if score is None else 'YES' if score >= .5 else 'NO'
                detail = dict(right=dict(answer=answer, reason='r'), depth=dict(answer=5 if score == 1 else 2))
                st.add_score(k, ver, Score(score, detail=detail))
        if stop:
            st.stop(key, stop)
    st.commit()
    st.close()
    return Run(path)

K = 'kept'
FULL = [('satisfied', [(K, 1., 10, True), (K, 0., 20, True)]),
        ('satisfied', [(K, .8, 30, True), (K, .7, 40, True), ('truncated', None, 100, False), (K, .3, 50, False)]),
        ('max_rollouts', [(K, .2, 60, True), (K, .1, 70, True), (K, 0., 80, False), ('failed', None, 0, False)]),
        ('gave_up', [(K, None, 90, True), ('empty', None, 0, True)]),
        (None, [(K, .9, 95, True), (None, None, 0, False)])]
CELLS = [dict(what='a', how='x'), dict(what='a', how='y'), dict(what='b', how='x'), dict(what='b', how=None),
         dict(what='a', how='x')]

@pytest.fixture
def full(tmp_path):
    return make_run(tmp_path/'full', FULL, taxonomy=CELLS)

def stacked(names=('rule', 'style', 'reward', 'never')):
    "Rollouts whose scores have components: 0 or 1, a share, a raw number, and one that is never scored."
    values = [(1., .7, -3.5, None), (0., .2, 12.25, None), (1., None, 2., None)]
    return pd.DataFrame([dict(prompt='p', score=v[0], detail=dict(components={
        n: dict(value=x) for n, x in zip(names, v)}, decided=None)) for v in values])

matplotlib.use('Agg')

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


# ---- numbers

def test_scores(full):
    d = scores_data(full, bins=5)
    # 1, .8, .9; the rest fails, as the verifier is a rubric
    assert d['counts'] == dict(passed=3, between=0, failed=6, unscored=1) and d['n'] == 9
    assert d['bins']['passed'] == [0, 0, 0, 0, 3] and d['bins']['failed'] == [3, 2, 0, 1, 0]   # 0 .1 0 | .2 .3 | | .7 |
    assert (d['pass_threshold'], d['fail_threshold']) == (.8, None)
    moved = scores_data(full, bins=5, pass_threshold=.95, fail_threshold=.2)
    assert moved['counts'] == dict(passed=1, between=4, failed=4, unscored=1)
    assert sum(map(sum, moved['bins'].values())) == 9

def test_scores_of_a_rule(tmp_path):
    "A verifier's run: pass 1, fail 0, and what lies between is neither."
    recipe = dict(RECIPE, verifier=dict(type='mcq-rlvr'), formatter=[dict(type='dpo')])
    run = make_run(tmp_path/'r', FULL, recipe)
    assert scores_data(run)['counts'] == dict(passed=1, between=6, failed=2, unscored=1)

def test_figures_agree_with_the_table_of_the_run(full):
    s = full.stats()
    assert {k: s['scores'][k] for k in ('passed', 'failed', 'between', 'unscored')} == scores_data(full)['counts']
    d = pass_rates_data(full)
    for k in ('plain', 'pooled', 'corrected', 'interval'):
        assert d[k] == pytest.approx(s['pass_rate'][k])
    assert outcomes_data(full)['outcomes'] == {k.replace('_', ' '): n for k, n in s['samples']['by_outcome'].items()}
    assert outcomes_data(full)['stops'] == s['prompts']['by_stop_reason']

def test_one_side_of_a_run_that_makes_pairs(full):
    st = Store(full.path)
    weak = st.config_key('sampler', dict(model='weak'))
    st.put('sides', dict(chosen=[1], rejected=[weak]))
    st.begin().execute('UPDATE rollouts SET sampler=? WHERE prompt=2', (weak,))
    st.commit()
    st.close()
    assert scores_data(full)['n'] == 9
    assert scores_data(full, side='chosen')['counts'] == dict(passed=2, between=0, failed=4, unscored=1)
    assert scores_data(full, side='rejected')['counts'] == dict(passed=1, between=0, failed=2, unscored=0)
    assert pass_rates_data(full, side='rejected')['plain'] == pytest.approx(1/3)
    with pytest.raises(RsrError, match="Did you mean 'chosen'"):
        scores_data(full, side='choosen')

def test_truncated_rollouts_count_where_the_recipe_keeps_them(tmp_path):
    recipe = dict(RECIPE, sampler=dict(RECIPE['sampler'], drop_truncated=False))
    assert scores_data(make_run(tmp_path/'r', FULL, recipe))['counts']['unscored'] == 2

def test_pass_rates(full):
    d = pass_rates_data(full, bins=4)
    # 1/2, 1/3, 0/3, 1/1
    assert (d['prompts'], d['never'], d['always'], d['n'], d['rollouts']) == ([1, 1, 1, 1], 1, 1, 4, 9)
    assert d['plain'] == pytest.approx((1/2+1/3+0+1)/4) and d['pooled'] == pytest.approx(3/9)
    # blind ones only
    assert d['corrected'] == pytest.approx((1/2+1/2+0+1)/4)
    assert sum(d['expected']) == pytest.approx(4)

@pytest.mark.parametrize('a, b, edges, mass', [
    (1, 1, [0, .25, 1], [.25, .75]), (2, 2, [0, .5, 1], [.5, .5]), (3, 1, [0, .5, 1], [.125, .875]),
    (1, 2, [0, .1, 1], [.19, .81]),
    (.5, .5, [0, .1, .9, 1], [2/math.pi*math.asin(.1**.5), 1-4/math.pi*math.asin(.1**.5), 2/math.pi*math.asin(.1**.5)]),
    (.02, .02, [0, .5, 1], [.5, .5])])
def test_beta_masses(a, b, edges, mass):
    assert beta_masses(a, b, edges) == pytest.approx(mass, abs=2e-4)

def test_rollouts_to_satisfaction(full):
    d = rollouts_to_satisfaction_data(full)
    assert (d['rollouts'], d['satisfied'], d['censored']) == ([1, 2, 3, 4], [0, 1, 0, 1], [0, 2, 0, 1])
    assert d['cumulative'] == pytest.approx([0, .2, .2, .4]) and d['unlimited'] == pytest.approx([0, .2, .2, 1-.8*.5])
    assert (d['total'], d['n'], d['unasked']) == (2, 5, 0)

def test_prompts_of_an_earlier_input_are_left_out(tmp_path):
    run = make_run(tmp_path/'r', FULL[:2])
    st = Store(run.path)
    st.add_prompts([('line 1', Prompt('new', [dict(role='user', content='!')]))])
    st.close()
    assert rollouts_to_satisfaction_data(run)['n'] == 0 and outcomes_data(run)['stops'] == {'open': 1}

def test_tokens_and_latency(full):
    d = tokens_data(full, bins=4)
    assert d['edges'] == [0, 26, 52, 78, 104] and d['bins'] == dict(kept=[2, 3, 2, 3], truncated=[0, 0, 0, 1])
    assert d['total'] == 645 and d['tokens'] == dict(kept=545, truncated=100) and d['limits'] == [100]
    assert d['median'] == 60
    e = latency_data(full)
    assert e['median'] == .5 and e['p99'] == 1. and e['n'] == 13 and sum(map(sum, e['bins'].values())) == 13
    assert e['edges'][0] == pytest.approx(.001) and e['edges'][-1] == pytest.approx(1.)

def test_yield(full):
    d = yield_budget_data(full)
    assert d['spent'] == list(range(15)) and d['satisfied'] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert d['average'] == 7 and d['marginal'] is None and d['last'] == 0 and d['prompts'] == 5
    t = yield_budget_data(full, 'tokens')
    assert t['spent'][-1] == 645+13*10 and t['satisfied'][-1] == 2
    few = yield_budget_data(full, points=3)
    assert few['spent'] == [0, 5, 10, 14] and few['satisfied'] == [0, 1, 2, 2]

def test_yield_of_a_run_in_parts(full):
    "Parts number their rollouts apart; then the time of asking is the order."
    was = yield_budget_data(full), yield_budget_data(full, 'tokens')
    st = Store(full.path)
    q = st.begin().execute
    q('UPDATE rollouts SET asked=key')
    q('UPDATE scores SET rollout=rollout+100000000*(rollout%2)')
    q('UPDATE rollouts SET key=key+100000000*(key%2)')
    st.commit()
    st.close()
    assert (yield_budget_data(full), yield_budget_data(full, 'tokens')) == was

def test_yield_counts_the_judge(full):
    st = Store(full.path)
    st.add_call('judge', 2, 1, Rollout('{}', outcome='kept', prompt_tokens=500, completion_tokens=7))
    st.commit()
    st.close()
    assert yield_budget_data(full, 'tokens')['spent'][2:4] == [10+10+10+20+507, 10+10+10+20+507+40]

def test_spearman_is_that_of_ranks():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 300), rng.integers(0, 4, 300)
    y = y+x//2
    counted = pd.DataFrame(dict(x=x, y=y)).value_counts().reset_index().to_numpy().tolist()
    assert spearman(counted) == pytest.approx(np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1])

def test_score_length(full):
    d = score_length_data(full, bins=3)
    assert d['count'] == [3, 3, 3] and d['mean'] == pytest.approx([1.8/3, 1.2/3, 1/3]) and d['n'] == 9
    assert score_length_data(full, 'characters', bins=3)['centre'] == pytest.approx([4*c for c in d['centre']])
    assert d['rho'] == pytest.approx(score_length_data(full, 'characters')['rho'])

def test_intervals_of_score_length_count_prompts_not_rollouts():
    "Ten copies of each prompt's rollouts say nothing new."
    def frame(copies):
        return pd.DataFrame([dict(prompt=p, score=s, completion_tokens=10)
                             for p, s in enumerate([0., 0., 1., 1., .5, .8]) for _ in range(copies)])
    (one,), (ten,) = score_length_data(frame(1))['interval'], score_length_data(frame(10))['interval']
    assert one == pytest.approx(ten)
    sd = np.std([0., 0., 1., 1., .5, .8], ddof=1)
    assert one[1]-one[0] == pytest.approx(2*1.96*sd/6**.5)

def test_draws_whole_prompts_and_the_same_ones():
    df = pd.DataFrame([dict(prompt=p, score=float(p % 2), completion_tokens=10+p % 7) for p in range(2000)
                       for _ in range(3)])
    d = score_length_data(df, most=1500)
    assert d['share'] == .25 and d['n'] % 3 == 0 and 1350 < d['n'] < 1650 and d == score_length_data(df, most=1500)

def test_margins(full):
    d = margins_data(full, bins=10)
    # .8-.3 and 1-0
    assert d['n'] == 2 and d['prompts'] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1] and d['mean'] == pytest.approx(.75)
    assert (d['only_passed'], d['only_failed'], d['neither'], d['below'], d['min_margin']) == (1, 1, 0, 0, .15)
    assert margins_data(full, min_margin=.5)['below'] == 0 and margins_data(full, min_margin=.6)['below'] == 1
    assert margins_data(full, fail_threshold=.05)['n'] == 1

def test_criteria(full):
    d = criteria_data(full)
    assert d['criteria'] == ['depth', 'right'] and d['columns'] == ['YES', 'NO', 'ERROR', 'level'] and d['n'] == 10
    assert d['shares'][0] == [0, 0, 0, 1] and d['shares'][1] == pytest.approx([.4, .5, .1, 0])
    k = criteria_data(full, by='kinds')
    assert k['columns'] == ['passed', 'failed']
    # 5 of 1…5 is 1, 2 is a quarter
    assert k['shares'][1] == pytest.approx([1, 1/6]) and k['shares'][0] == pytest.approx([(1+.25+.25)/3, .25])

def test_components(full):
    d = components_data(stacked(), bins=4)
    assert [(c['name'], c['ran'], c['scored']) for c in d['components']] == [
        ('never', 3, 0), ('reward', 3, 3), ('rule', 3, 3), ('style', 3, 2)] and d['n'] == 3
    never, reward, rule, style = d['components']
    assert rule['bins'] == dict(passed=[0, 0, 0, 2], between=[0]*4, failed=[1, 0, 0, 0])
    assert (rule['lo'], rule['hi']) == (0, 1)
    assert (reward['lo'], reward['hi']) == (-3.5, 12.25) and reward['bins']['failed'] == [0, 0, 0, 1]
    assert style['bins']['passed'] == [0, 0, 1, 0] and not any(map(sum, never['bins'].values()))
    assert components_data(full)['why'] and not components_data(full)['n']

def test_criteria_of_a_rubric_in_a_stack():
    "A stage named `answer`, and criteria one level below."
    part = dict(value=.5, detail=dict(right=dict(answer='YES', reason='r'), clear=dict(answer='NO', reason='')))
    detail = dict(components=dict(answer=dict(value=1., answer='4'), judge=part), decided=None)
    df = pd.DataFrame([dict(prompt='p', score=1., detail=detail), dict(prompt='q', score=0., detail=None)])
    d = criteria_data(df)
    assert d['criteria'] == ['clear', 'right'] and d['columns'] == ['YES', 'NO'] and d['n'] == 1
    assert criteria_data(stacked())['why']

def test_criteria_of_details_that_are_no_rubrics_answers(tmp_path):
    run = make_run(tmp_path/'r', FULL)
    st = Store(run.path)
    st.begin().execute("UPDATE scores SET detail=?",
                       (json.dumps(dict(votes=[1, 2], how='majority', sure=True, nested=dict(x=1))),))
    st.commit()
    st.close()
    assert 'rubric' in criteria_data(run)['why']

def test_taxonomy(full):
    d = taxonomy_data(full)
    got = {(v['dimension'], v['value']): v for v in d['values']}
    assert d['n'] == 5 and d['blind']
    assert {k: v['prompts'] for k, v in got.items()} == {('how', 'x'): 3, ('how', 'y'): 1, ('how', 'none'): 1,
                                                         ('what', 'a'): 3, ('what', 'b'): 2}
    assert got['what', 'a']['rate'] == pytest.approx((.5+.5+1)/3) and got['what', 'a']['share'] == .6
    assert got['how', 'none']['rate'] is None and got['what', 'b']['rate'] == 0
    few = taxonomy_data(full, most=2)
    assert few['left_out'] == 3 and [v['value'] for v in few['values']] == ['x', 'a']

def test_compare(tmp_path):
    runs = [make_run(tmp_path/f'{t}', FULL, dict(RECIPE, sampler=dict(RECIPE['sampler'], temperature=t)))
            for t in (.2, 1.2)]
    d = compare_data(runs)
    assert d['by'] == 'sampler.temperature' and [r['label'] for r in d['runs']] == ['0.2', '1.2']
    assert d['runs'][0]['cost'] == 7 and d['runs'][0]['corrected'] == pytest.approx(.5)
    assert [r['label'] for r in compare_data(runs, by='sampler.model')['runs']] == ['m', 'm']
    assert compare_data({'a': runs[0], 'b': runs[1].rollouts},
                        pass_threshold=.95)['runs'][1]['plain'] == pytest.approx(.5/4)
    with pytest.raises(RsrError, match="Did you mean 'sampler.temperature'"):
        compare_data(runs, by='sampler.temprature')


# ---- a run and its DataFrame

def test_a_dataframe_gives_what_its_run_gives(full):
    df, limits = full.rollouts, dict(pass_threshold=.8, fail_threshold=None, min_margin=.15)
    for f in (scores_data, margins_data):
        assert f(df, **limits) == f(full)
    assert latency_data(df) == latency_data(full)
    assert {**tokens_data(df), 'limits': [100]} == tokens_data(full)
    assert {**score_length_data(df)} == score_length_data(full)
    assert outcomes_data(df)['outcomes'] == outcomes_data(full)['outcomes']
    d, e = pass_rates_data(df, pass_threshold=.8), pass_rates_data(full)
    assert all(d[k] == e[k] for k in ('prompts', 'plain', 'pooled', 'n')) and d['corrected'] is None

def test_a_dataframe_with_more_columns_gives_more(full):
    p = full.prompts.set_index('id')
    df = full.rollouts.assign(stop=lambda d: d.prompt.map(p.stop), metadata=lambda d: d.prompt.map(p.metadata))
    assert rollouts_to_satisfaction_data(df) == rollouts_to_satisfaction_data(full)
    assert [v['prompts'] for v in taxonomy_data(df)['values']] == [v['prompts'] for v in taxonomy_data(full)['values']]

def test_dataframes_of_any_type():
    df = pd.DataFrame(dict(prompt=[1, 1, '1', None, None], score=[1, 0, True, np.float32(.5), '0'],
                           outcome=['kept', 'kept', 'kept', 'kept', 'refused'],
                           completion_tokens=np.array([5, 6, 7, 8, 9], dtype='int16'), text=[None, 1, 'x', ['a'], 'y'],
                           latency=pd.array([1, None, 3, 4, 5], dtype='Int64')))
    assert scores_data(df)['counts'] == dict(passed=2, between=1, failed=1, unscored=0)
    assert pass_rates_data(df)['n'] == 3 and latency_data(df)['n'] == 4
    assert list(tokens_data(df)['bins']) == ['kept', 'refused']

def test_tables_that_are_not_pandas(full):
    pa = pytest.importorskip('pyarrow')
    assert scores_data(pa.Table.from_pandas(full.rollouts), pass_threshold=.8,
                       fail_threshold=None)['counts'] == scores_data(full)['counts']

@pytest.mark.parametrize('call, says', [
    (lambda r: scores_data(r, pass_treshold=.5), "Did you mean 'pass_threshold'"),
    (lambda r: scores_data(r, pass_threshold='high'), 'not a number'),
    (lambda r: scores_data(pd.DataFrame(dict(score=[1]))), "a column 'prompt'"),
    (lambda r: scores_data(pd.DataFrame(dict(prompt=['a'], score=['good']))),
     "the column 'score' .* is not of numbers"),
    (lambda r: scores_data([1]), 'list is not a run'), (lambda r: scores_data(None), 'NoneType is not a run'),
    (lambda r: scores_data('nowhere'), 'no run here'),
    (lambda r: scores_data(r, side='chosen'), 'does not make pairs'),
    (lambda r: yield_budget_data(r, 'euros'), "no unit 'euros'"),
    (lambda r: criteria_data(r, by='answer'), "Did you mean 'answers'"),
    (lambda r: list(all_figures(r, ['score'])), "Did you mean 'scores'")])
def test_mistakes_are_named(full, call, says):
    with pytest.raises(RsrError, match=says):
        call(full)


# ---- drawing

@pytest.fixture(scope='module')
def given(tmp_path_factory):
    return dict(things(tmp_path_factory.mktemp('given')))

def forty():
    "Rollouts of forty prompts, from easy to hard."
    return pd.DataFrame([dict(prompt=i, score=float(k*8 >= i)) for i in range(40) for k in range(5)])

def things(tmp_path):
    yield 'full', make_run(tmp_path/'a', FULL, taxonomy=CELLS)
    yield 'no prompts', make_run(tmp_path/'b', [])
    yield 'nothing asked', make_run(tmp_path/'c', [(None, [])]*3)
    unscored = [(s, [(o and 'kept', '-', t, b) for o, _, t, b in rs]) for s, rs in FULL]
    yield 'nothing scored', make_run(tmp_path/'d', unscored)
    yield 'all failed', make_run(tmp_path/'e', [('failed', [('failed', None, 0, False)]*2)])
    yield 'one rollout', make_run(tmp_path/'f', [('satisfied', [(K, 1., 5, True)])])
    yield 'DataFrame', make_run(tmp_path/'g', FULL).rollouts
    yield 'components', stacked()
    yield 'bare DataFrame', pd.DataFrame(dict(prompt=['a', 'b'], score=[1., .5]))
    yield 'empty DataFrame', pd.DataFrame(dict(prompt=[], score=[]))

def test_registered():
    assert list(FIGURES) == NAMES
    for plot, caption in FIGURES.values():
        assert caption.endswith('.') and '\n' not in caption and len(caption) < 120
        assert {'ax', 'dark'} <= set(inspect.signature(plot).parameters) and plot.__doc__

@pytest.mark.parametrize('name', NAMES)
def test_draws_whatever_it_is_given(name, given):
    for what, run in given.items():
        ax = FIGURES[name][0](run)
        ax.figure.canvas.draw()
        if ax.figure_why:
            assert [t.get_text() for t in ax.texts] and not ax.axison, f'{name} of {what}'
        else:
            assert ax.get_title(loc='left') and any(c.isdigit() for c in ax.get_title(loc='left')), f'{name} of {what}'
        plt.close(ax.figure)

def test_which_figures_a_run_has(given):
    has = {what: [n for n, *_ in all_figures(run)] for what, run in given.items()}
    others = 'components', 'difficulty', 'models', 'compare'
    assert has['full'] == [n for n in NAMES if n not in others] and 'components' in has['components']
    assert has['no prompts'] == has['nothing asked'] == has['empty DataFrame'] == []
    assert has['nothing scored'] == ['rollouts_to_satisfaction', 'outcomes', 'tokens', 'latency', 'yield_budget']
    assert has['DataFrame'] == ['scores', 'pass_rates', 'outcomes', 'tokens', 'latency', 'score_length', 'margins']
    assert has['bare DataFrame'] == ['scores', 'pass_rates', 'outcomes']

def test_all_figures_pass_thresholds_on_and_close(full):
    ax = {n: a for n, _, a in all_figures(full, ['scores', 'tokens', 'compare'], beside=[full], pass_threshold=.5,
                                          fail_threshold=.1)}
    assert list(ax) == ['scores', 'tokens', 'compare'] and not plt.get_fignums()
    assert {t.get_text() for t in ax['scores'].get_legend().get_texts()} >= {'pass from 0.5', 'fail up to 0.1'}
    assert len(list(all_figures(full, skip=False))) == len(NAMES)

def test_draws_into_axes_of_others(full):
    fig, (a, b) = plt.subplots(1, 2)
    before = dict(matplotlib.rcParams)
    assert plot_scores(full, ax=a, dark=True) is a and plot_compare([full, full], ax=b) is b
    assert a.yaxis.label.get_color() == INK[True] and a.get_title(loc='left') and dict(matplotlib.rcParams) == before

@pytest.mark.parametrize('name', NAMES)
def test_nothing_is_cut_off_and_no_legend_lies_on_data(name, full):
    of = dict(compare=[full, full], components=stacked(['$x^{', 'y'*200, 'a\nb', '<i>']), difficulty=forty(),
              models=two_models())
    ax = FIGURES[name][0](of.get(name, full))
    fig = ax.figure
    fig.canvas.draw()
    page, legend = fig.bbox, ax.get_legend()
    ticks = [t for t in ax.get_yticklabels() if min(ax.get_ylim()) <= t.get_position()[1] <= max(ax.get_ylim())]
    texts = [ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts, *ticks, *(legend.get_texts() if legend else ())]
    for t in texts:
        b = t.get_window_extent()
        assert not t.get_text() or (b.x0 >= -1 and b.x1 <= page.x1+1 and b.y0 >= -1 and b.y1 <= page.y1+1), t.get_text()
    if legend:
        box, title = legend.get_window_extent(), ax._left_title.get_window_extent()
        assert box.y0 >= ax.get_window_extent().y1-1 and box.y1 <= title.y0+1

def test_labels_with_units(full):
    units = dict(pass_rates='(%)', rollouts_to_satisfaction='(%)', outcomes='(%)', tokens='completion tokens',
                 latency='(s', score_length='(tokens)',
                 taxonomy='(%)', criteria='(%)', scores='(0 to 1)', yield_budget='rollouts spent')
    for name, _, ax in all_figures(full):
        label = ax.get_xlabel()+' '+ax.get_ylabel()
        assert units.get(name, '') in label and ax.get_xlabel(), name

def test_hostile_names_are_text(tmp_path):
    "Values of a taxonomy may be anything: no mathematics, no line breaks, no endless labels."
    bad = ['$\\frac{1}{0', 'a\nb\nc', 'x'*5000, '<b>', '{0}']
    run = make_run(tmp_path/'r', [FULL[0]]*5, taxonomy=[dict(what=v) for v in bad])
    fig, mine = plt.subplots()
    for ax in (FIGURES['taxonomy'][0](run), FIGURES['taxonomy'][0](run, ax=mine)):
        ax.figure.canvas.draw()
        assert all(len(t.get_text()) < 50 and '\n' not in t.get_text() for t in ax.get_yticklabels())

@pytest.mark.parametrize('model', ['red\x1b[31m\u202emodel\x00', 'a-model-with-a-long-name/'*3])
def test_names_in_a_comparison_are_spelt_out_and_its_title_fits(tmp_path, model):
    "No font has a glyph for a control character, and a title may not leave its figure."
    def made(name, **sampler):
        return make_run(tmp_path/name, FULL, dict(RECIPE, sampler=dict(RECIPE['sampler'], **sampler)))
    runs = [made('a', model=model, temperature=.3), made('b', max_tokens=200)]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ax = plot_compare(runs)
        ax.figure.canvas.draw()
    title = next(t for t in ax.get_children() if getattr(t, 'get_text', str)().startswith('2 runs by'))
    assert title.get_window_extent().x1<=ax.figure.bbox.x1
    assert all(label.get_text().isprintable() for label in ax.get_yticklabels())
    plt.close(ax.figure)



# ---- pages and eyes

def linear(c):
    return np.array([x/12.92 if x <= .04045 else ((x+.055)/1.055)**2.4
                     for x in (int(c[i:i+2], 16)/255 for i in (1, 3, 5))])
def luminance(c):
    return float(linear(c) @ [.2126, .7152, .0722])
def contrast(a, b):
    a, b = sorted((luminance(a), luminance(b)))
    return (b+.05)/(a+.05)

WHITE, DARK = '#ffffff', '#111111'

def test_text_on_any_page():
    "No colour has more than the root of the pages' own contrast against both; ours has nearly that."
    best = contrast(WHITE, DARK)**.5
    assert min(contrast(INK[None], p) for p in (WHITE, DARK)) > best-.02 > 4.3
    assert contrast(INK[False], WHITE) > 7 and contrast(INK[True], DARK) > 7

@pytest.mark.parametrize('page', [WHITE, DARK])
def test_marks_on_any_page(page):
    "WCAG 2.2, 1.4.11: graphical objects have 3:1."
    assert all(contrast(c, page) >= 2.99 for c in COLOURS.values())

# Machado, Oliveira & Fernandes 2009, severity 1
EYES = dict(normal=np.eye(3),
            deuteranopia=np.array([[.367322, .860646, -.227968], [.280085, .672501, .047413],
                                   [-.011820, .042940, .968881]]),
            protanopia=np.array([[.152286, 1.052583, -.204868], [.114503, .786281, .099216],
                                 [-.003882, -.048116, 1.051998]]),
            tritanopia=np.array([[1.255528, -.076749, -.178779], [-.078411, .930809, .147602],
                                 [.004733, .691367, .303900]]))

def lab(rgb):
    to_xyz = np.array([[.4124, .3576, .1805], [.2126, .7152, .0722], [.0193, .1192, .9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1)/[.9505, 1, 1.089]
    f = np.where(xyz > .008856, np.cbrt(xyz), 7.787*xyz+16/116)
    return np.array([116*f[1]-16, 500*(f[0]-f[1]), 200*(f[1]-f[2])])

def apart(a, b, eye):
    return float(np.linalg.norm(lab(EYES[eye] @ linear(a))-lab(EYES[eye] @ linear(b))))

@pytest.mark.parametrize('eye', EYES)
@pytest.mark.parametrize('pair', ['passed failed', 'passed between', 'between failed', 'passed open', 'failed open'])
def test_kinds_are_told_apart(pair, eye):
    "By colour (CIE76 ΔE of 20 is plain at a glance), and by hatch where the eye sees no colour at all."
    a, b = (LOOKS[k] for k in pair.split())
    assert apart(a['facecolor'], b['facecolor'], eye) > 20 and a['hatch'] != b['hatch']

def test_looks_differ_where_meanings_do():
    looks = [(v['facecolor'], v['hatch']) for k, v in LOOKS.items() if k not in ('filtered',)]
    assert len(set(looks)) == len(looks)
    ends = [ENDS[k] for k in ('kept', 'truncated', 'filtered', 'empty', 'in flight')]+[LOOKS['other']]
    ends = [(v['facecolor'], v['hatch']) for v in ends]
    assert len(set(ends)) == len(ends)

def test_letters_of_other_scripts_are_one_warning_at_most(here):
    kinds = '数学🤖', '한국어', 'ภาษาไทย'
    made = [dict(id=f'问题{i}', messages=[dict(role='user', content=f'{i} + {i}?')], given=[f'It is {2*i}.'],
                 metadata=dict(answer=str(2*i), taxonomy=dict(类别=kinds[i%3]))) for i in range(1, 10)]
    sample(made, ['sft'], data=dict(responses='given'), verifier=['math-rlvr'], max_rollouts=0, work_dir='运行',
               progress=False)
    p = rsr('report', '运行')
    assert p.returncode == 0 and 'Glyph' not in p.stderr and 'findfont' not in p.stderr, p.stderr
    assert p.stderr.count('\n') <= 1, p.stderr
