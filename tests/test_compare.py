"Two runs side by side: a known difference is found where it is, and only there; nothing changed is nothing moved."
import json
import random

import pytest
from test_checklist import make

from rsr.data.differences import changes, dotted
from rsr.data.store import Store
from rsr.data.types import Prompt, Rollout, RsrError, Score
from rsr.formatters.writer import make_formatters
from rsr.quality.compare import compare, compare_table, holm, plot_changes, points, scorer_changes
from rsr.run.execution import close_run
from rsr.run.recipe import load_recipe
from rsr.run.saved_recipe import save_recipe

WHAT = 'billing', 'delivery', 'account', 'returns'
CRIT = [dict(id=i, question=f'Is it {i}?', category='all') for i in ('correct', 'polite', 'short')]
CRIT[2]['scale'] = [1, 2, 3, 4, 5]

def scorer(crit=CRIT, judge='j1', name='desk'):
    return dict(type='rubric', version=1, rubric=dict(name=name, categories={'all':1.}, criteria=crit),
                judges=[dict(model=judge)])

def fill(path, chance, n=240, seed=0, options=(), config=None, ids=lambda i: f'q{i}',
         text=lambda i: f'My order {i} is late'):
    "A rubric-scored run; `chance(what, mood, criterion)` is how often a criterion is met."
    rng = random.Random(seed)
    d = load_recipe('dpo', [f'work_dir={path}', 'verifier.type=rubric', 'verifier.rubric=desk.yaml',
                            'formatter.pass_threshold=0.8', 'formatter.fail_threshold=null', *options])
    st = Store(path)
    combo = lambda i: dict(what=WHAT[i%4], mood='furious' if i%5==0 else 'calm', edge_case=None)
    st.add_prompts((f'row {i}', Prompt(ids(i), [dict(role='user', content=text(i))], dict(taxonomy=combo(i))))
                   for i in range(n))
    smp, ver = st.config_key('sampler', dict(model='demo')), st.config_key('verifier', config or scorer())
    st.put('verifier', ver)
    for q, *_ in list(st.walk()):
        t, scores = q.metadata['taxonomy'], []
        for j, k in enumerate(st.ask(q.key, range(4), 1, smp, 256, True)):
            met = {c['id']:rng.random()<chance(t['what'], t['mood'], c['id']) for c in CRIT}
            scores.append(sum(met.values())/3)
            st.answer(Rollout(f'{j} {q.id} {seed}', finish_reason='stop', outcome='kept', prompt_tokens=60,
                              completion_tokens=40, key=k))
            answers = {k:(5 if v else 1) if k=='short' else 'YES' if v else 'NO' for k, v in met.items()}
            st.add_score(k, ver,
                         Score(scores[-1], '', None, {i:dict(answer=a, reason='…') for i, a in answers.items()}))
        st.stop(q.key, 'satisfied' if max(scores)>.9>min(scores) else 'max_rollouts')
    st.commit()
    save_recipe(st, d)
    close_run(st, d, make_formatters(d['formatter']))
    st.close()
    return path

flat = lambda what, mood, c: .8
mended = lambda what, mood, c: .8-.4*(c=='polite' and mood=='furious')-.3*(c=='correct' and what=='returns')

def truth(dimension=None, value=None):
    "The true change of the pass rate in a cell: a response passes if it meets all three criteria."
    at = [(WHAT[i%4], 'furious' if i%5==0 else 'calm') for i in range(20)]
    at = [t for t in at if dimension in (None, 'edge_case') or t[('what', 'mood').index(dimension)]==value]
    prod = lambda f, t: f(*t, 'correct')*f(*t, 'polite')*f(*t, 'short')
    return sum(prod(mended, t)-prod(flat, t) for t in at)/len(at)

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('compare')
    return dict(a=fill(tmp/'a', flat), again=fill(tmp/'again', flat, seed=5), big=fill(tmp/'big', flat, n=1200, seed=2),
                b=fill(tmp/'b', mended, n=1200, seed=1,
                       options=['sampler.temperature=0.9', 'formatter.dpo.name=pairs']))

def covers(r, x):
    return r['interval'][0]<=x<=r['interval'][1]

def test_a_known_difference_is_found_where_it_is(runs):
    d = compare(runs['big'], runs['b'])
    crit = {r['criterion']:r for r in d['criteria']}
    assert set(crit)=={'correct', 'polite', 'short'}
    assert all(r['paired'] and r['n']==[1200, 1200] for r in crit.values())
    assert covers(crit['polite'], -.4/5) and covers(crit['correct'], -.3/4) and covers(crit['short'], 0)
    assert crit['polite']['p_holm']<.05 and crit['correct']['p_holm']<.05<crit['short']['p_holm']
    assert abs(crit['short']['a']-.8)<.03
    cell = {(r['dimension'], r['value']):r for r in d['cells']}
    assert set(cell)=={('what', w) for w in WHAT}|{('mood', 'calm'), ('mood', 'furious'), ('edge_case', 'none')}
    sure = {k for k, r in cell.items() if r['p_holm']<.05}
    assert {('what', 'returns'), ('mood', 'furious')}<=sure and covers(d['pass_rate'], truth())
    assert all(covers(r, truth(*k)) for k, r in cell.items())
    assert {c['value'] for c in d['cells'][:2]}=={'furious', 'returns'}
    assert {'sampler.temperature', 'formatter.pairs.type'}<={c['key'] for c in d['recipe']}
    table = compare_table(d)
    assert 'what: returns' in table
    assert '*' in next(line for line in table.splitlines() if 'what: returns' in line)
    assert json.loads(json.dumps(d))==d

def test_identical_runs_give_zero(runs):
    d = compare(runs['a'], runs['a'])
    for r in (d['pass_rate'], *d['criteria'], *d['cells']):
        assert r['diff']==0 and covers(r, 0) and r['p']==1.
    assert d['recipe']==[] and d['scorer']['same'] and d['notes']==[]
    assert d['flipped']['gained']==d['flipped']['lost']==d['flipped']['moved']==[]
    assert 'nothing in recipe or rubric' in compare_table(d) and '*' not in compare_table(d).replace('* p below', '')

def test_the_same_recipe_twice_moves_nothing(runs):
    d = compare(runs['a'], runs['again'])
    assert covers(d['pass_rate'], 0) and all(r['p_holm']>.05 for r in d['criteria']+d['cells'])

def test_flips_and_costs_by_hand(tmp_path):
    # the same prompts and answers
    a, b = make(tmp_path/'a', n=30, chance=lambda i: .5), make(tmp_path/'b', n=30, chance=lambda i: .5)
    st = Store(b)
    st.stop(1, 'satisfied')
    st.stop(2, 'max_rollouts')
    st.commit()
    st.close()
    sa = Store(a)
    sa.stop(1, 'max_rollouts')
    sa.stop(2, 'satisfied')
    sa.commit()
    sa.close()
    d = compare(a, b)
    assert (d['flipped']['gained'], d['flipped']['lost'], d['flipped']['shared'])==(['q0'], ['q1'], 30)
    c = d['cost']['a']
    assert c['tokens']==30*4*100 and c['tokens_each']==c['tokens']/c['satisfied']
    assert c['rollouts']==120 and c['usd'] is None
    assert '1 (q0) newly satisfied, 1 (q1) no longer' in compare_table(d)

def test_other_prompts_are_not_paired(runs, tmp_path):
    other = fill(tmp_path/'other', flat, seed=3, ids=lambda i: f'new{i}')
    d = compare(runs['a'], other)
    assert not d['pass_rate']['paired'] and d['pass_rate']['n']==[240, 240]
    assert d['flipped']['shared']==0 and covers(d['pass_rate'], 0)
    # the same ids, other messages
    changed = fill(tmp_path/'changed', flat, seed=3, text=lambda i: f'Your order {i} is late')
    assert not compare(runs['a'], changed)['pass_rate']['paired']
    wide, narrow = d['pass_rate']['interval'], compare(runs['a'], runs['again'])['pass_rate']['interval']
    assert wide[1]-wide[0]>narrow[1]-narrow[0]*.9

def test_a_changed_rubric_is_named(runs, tmp_path):
    crit = [{**CRIT[0], 'weight':2.0}, CRIT[1], dict(id='kind', question='Is it kind?', category='all')]
    d = compare(runs['a'], fill(tmp_path/'r', flat, config=scorer(crit, 'j2')))
    s = d['scorer']
    assert (s['added'], s['removed'], s['same'])==(['kind'], ['short'], False)
    assert s['changed']=={'correct':[dict(key='weight', a=None, b=2.0)]}
    assert dict(key='judges.0.model', a='j1', b='j2') in s['other'] and 'scored differently' in d['notes'][0]
    assert {r['criterion']:r['changed'] for r in d['criteria']}=={'correct':True, 'polite':False}
    table = compare_table(d)
    assert 'criterion kind: added' in table and 'criterion correct, weight: not set → 2.0' in table
    assert 'note: the runs were scored differently' in table

def test_other_thresholds_are_noted(runs, tmp_path):
    d = compare(runs['a'],
                fill(tmp_path/'t', flat, options=['formatter.pass_threshold=0.5', 'formatter.fail_threshold=0.4']))
    assert any('passes from 0.8, B from 0.5' in n for n in d['notes']) and d['pass_rate']['diff']>.1

def test_a_rule_against_a_rubric_and_runs_without_scores(runs, tmp_path):
    rule, empty = make(tmp_path/'rule', n=40), make(tmp_path/'empty', n=3, samples=0)
    d = compare(runs['a'], rule)
    assert d['criteria']==[] and d['scorer']['a']=='rubric desk' and d['scorer']['b']=='mcq-rlvr'
    assert not d['pass_rate']['paired']
    for a, b in ((empty, rule), (rule, empty), (empty, empty)):
        d = compare(a, b)
        assert d['pass_rate']['diff'] is None and 'too few prompts' in compare_table(d)
    with pytest.raises(RsrError, match='no run here'):
        compare(rule, tmp_path/'nowhere')

def test_hostile_names_stay_in_their_line(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'WHAT', ('a\nb', '\x1b[31mred', '<script>', '$x_{'))
    a = fill(tmp_path/'a', flat, ids=lambda i: f'q{i}\n\x1b[2J')
    d = compare(a, fill(tmp_path/'b', flat, seed=1, ids=lambda i: f'q{i}\n\x1b[2J'))
    assert all(c.isprintable() or c=='\n' for c in compare_table(d)) and 'what: a b' in compare_table(d)
    plot_changes(d).figure.canvas.draw()

def test_small_cells_are_marked(tmp_path):
    a, b = fill(tmp_path/'a', lambda *_: .2, n=8), fill(tmp_path/'b', lambda *_: 1., n=8)
    d = compare(a, b)
    assert d['pass_rate']['diff']>.5 and ', few' in compare_table(d) and ' *\n' not in compare_table(d)

@pytest.mark.parametrize('ps, out', [([], []), ([.04], [.04]), ([.01, .04, .03], [.03, .06, .06]),
                                     ([.5, .6], [1., 1.]), ([.01, .01], [.02, .02])])
def test_holm(ps, out):
    assert [round(p, 6) for p in holm(ps)]==out

@pytest.mark.parametrize('answer, scale, worth',
                         [('YES', None, 1.), ('NO', None, 0.), ('NA', None, None), ('ERROR', None, None),
                          (3, [1, 2, 3, 4, 5], .5), (.25, None, .25),
                                                  (True, None, None), (None, None, None)])
def test_points(answer, scale, worth):
    assert points(answer, scale)==worth

def test_dotted():
    assert dotted(dict(a=dict(b=1, c={}), d=[1, 2]))=={'a.b':1, 'd':[1, 2]}
    named = dotted(dict(f=[dict(type='sft'), dict(type='dpo', name='x', n=1)]))
    assert named=={'f.sft.type':'sft', 'f.x.type':'dpo', 'f.x.name':'x', 'f.x.n':1}
    assert changes(dict(work_dir=1, a=1), dict(work_dir=2, a=1), drop=('work_dir',))==[]
    assert scorer_changes({}, {})['same'] and changes(dict(a=[1]), dict(a=[1, 2]))==[dict(key='a', a=[1], b=[1, 2])]

def test_the_figure_shows_what_was_compared(runs, tmp_path):
    import matplotlib
    matplotlib.use('Agg')
    d = compare(runs['a'], runs['b'])
    ax = plot_changes(d)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert len(labels)==1+len(d['criteria'])+len(d['cells']) and labels[-1].startswith('pass rate')
    ax.figure.savefig(tmp_path/'f.png')
    plot_changes(compare(make(tmp_path/'e', n=3, samples=0), runs['a']))        # nothing to draw is no error
