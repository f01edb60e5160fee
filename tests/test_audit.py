"The pair audit and the comparison of strategies: planted defects, clean sets, all forms of file, hostile texts."
import gzip
import json
import math
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from matplotlib.colors import to_hex

from rsr.data.statistics import wilson
from rsr.data.thinking import MARKS
from rsr.data.types import Prompt, Rollout, RsrError
from rsr.formatters.trainers import ROW_FORMATS
from rsr.formatters.writer import make_formatters, write_files
from rsr.pairs.audit import ITEMS, MIN_PAIRS, audit, audit_item
from rsr.pairs.audit_report import audit_table, plot_audit
from rsr.pairs.comparison import compare_strategies, compare_table, paired_difference, plot_strategies
from rsr.pairs.shortcuts import (
    as_pair,
    facts,
    length_odds,
    log_odds,
    read_pairs,
    share,
    side_auc,
    words,
    words_accuracy,
)
from rsr.rubric.agreement import auc
from rsr.style import INK

WORDS = [a+b for a in 'ba do ke li mu na po ri su te va wo xi za gre'.split()
         for b in 'lan mor tis ven dak hul pir sob fen gar'.split()]

def text(rng, n):
    return ' '.join(rng.choice(WORDS) for _ in range(n)).capitalize()+'.'

def pairs(n=400, seed=0, chosen=(15, 30), rejected=(15, 30), **more):
    "Pairs whose sides come from one distribution, but for what is asked."
    rng = random.Random(seed)
    return [dict(prompt_id=f'q{i}', prompt=[dict(role='user', content=text(rng, 12))],
                 chosen=text(rng, rng.randint(*chosen)), rejected=text(rng, rng.randint(*rejected)),
                 chosen_score=rng.choice([.8, .9, 1.]), rejected_score=rng.choice([.3, .4, .5]), **more)
            for i in range(n)]

def user(t):
    return dict(role='user', content=t)
def says(t):
    return dict(role='assistant', content=t)
def found(d):
    return {i['item']:i['verdict'] for i in d['items'] if i['verdict']!='ok'}
def item(d, name):
    return next(i for i in d['items'] if i['item']==name)


# ---- figures by hand

def test_auc_is_the_rank_statistic():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 60):
        c, r = rng.integers(0, 9, n), rng.integers(0, 8, n)   # many ties
        assert side_auc(c, r, np.arange(n))[0] == pytest.approx(auc(c.tolist(), r.tolist()))
    assert side_auc([2, 3], [1, 2], np.arange(2))[0] == (1+.5+1+1)/4

def test_auc_interval_is_that_of_a_bootstrap_over_prompts():
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(150), 3)   # three pairs a prompt, much alike
    base = rng.normal(size=150)[g]
    c, r = base+rng.normal(.4, .5, 450)+rng.normal(size=150)[g], base+rng.normal(0, .5, 450)
    lo, hi = side_auc(c, r, g)[1]
    at = [np.flatnonzero(g==k) for k in range(150)]
    draws = []
    for _ in range(400):
        i = np.concatenate([at[k] for k in rng.integers(0, 150, 150)])
        draws.append(side_auc(c[i], r[i], np.arange(450))[0])
    assert np.abs(np.percentile(draws, [2.5, 97.5])-[lo, hi]).max() < .012
    flat = side_auc(c, r, np.arange(450))[1]
    assert hi-lo > 1.2*(flat[1]-flat[0]), 'pairs of one prompt are not independent'

def test_wilson_interval_of_a_share():
    mean, (lo, hi) = share([1]*60+[0]*40, np.arange(100))
    assert mean == .6 and (lo, hi) == pytest.approx(wilson(.6, 99))
    z, n = 1.96, 99
    mid, half = (.6+z*z/2/n)/(1+z*z/n), z*math.sqrt(.6*.4/n+z*z/4/n/n)/(1+z*z/n)
    assert (lo, hi) == pytest.approx((mid-half, mid+half))
    low = share([1]*50, np.arange(50))[1][0]
    assert low == pytest.approx(wilson(1., 50)[0]), 'all the same: not an interval of no width'

def test_log_odds_direction_and_shrinkage():
    d, z = log_odds([30, 5, 12, 1], [5, 30, 12, 0], 200)
    assert d[0] > 0 > d[1] and d[0] == pytest.approx(-d[1]) and z[0] == pytest.approx(-z[1]) and z[2] == 0
    assert 0 < z[3] < 1 < z[0], 'a word seen once is no evidence'
    a = .2*35/2
    want = math.log((30+a)/(240-30-a))-math.log((5+a)/(240-5-a))
    assert d[0] == pytest.approx(want) and z[0] == pytest.approx(want/math.sqrt(1/(30+a)+1/(5+a)))

def test_length_odds():
    rng = np.random.default_rng(2)
    n = rng.integers(10, 400, 4000)
    y = rng.random(4000) < 1/(1+np.exp(-.8*(np.log2(1+n)-np.log2(1+n).mean())))
    assert length_odds(n[y], n[~y]) == pytest.approx(math.exp(.8), rel=.12)
    assert 1 < length_odds([100]*30, [10]*30) < math.inf, 'finite where length tells everything'
    assert length_odds([5, 5], [5, 5]) == 1

def test_words_accuracy_is_out_of_sample():
    ps = [facts(p) for p in pairs(300, 3)]
    acc, (lo, hi) = words_accuracy(ps, np.arange(300))
    assert lo < .5 < hi, 'random words, thousands of them, find nothing on other prompts'


# ---- clean sets pass, planted defects are found

@pytest.mark.parametrize('seed', range(6))
def test_clean_sets_pass(seed):
    assert found(audit(pairs(seed=seed))) == {}

def end(t):
    return t.rstrip('.')+'…'
def sub(key, f, every=1):
    return lambda ps: [{**p, key:f(p[key], i)} if i%every==0 else p for i, p in enumerate(ps)]

DEFECTS = {   # name -> (what is done to clean pairs, {item: verdict} that has to come, items that may come with it)
    'chosen longer':(lambda ps: pairs(chosen=(22, 34)), {'length':'bad'}, {'words'}),
    'chosen shorter':(lambda ps: pairs(rejected=(22, 34)), {'length':'bad'}, {'words'}),
    'a little longer':(lambda ps: pairs(1000, chosen=(18, 30)), {'length':'warn'}, set()),
    'ellipsis':(sub('rejected', lambda t, i: end(t), 2), {'form':'bad'}, set()),
    'opening':(sub('chosen', lambda t, i: 'Sure thing! '+t, 3), {'form':'warn'}, set()),
    'bullets':(sub('chosen', lambda t, i: '- '+t.replace(' ', '\n- ', 1)), {'form':'bad'}, set()),
    'a word':(sub('rejected', lambda t, i: t[:-1]+' regrettably.'), {'words':'bad'}, set()),
    'empty':(sub('rejected', lambda t, i: ' \n', 100), {'unusable':'bad'}, set()),
    'same text':(lambda ps: [{**p, 'rejected':p['chosen']+' '} if i==7 else p for i, p in enumerate(ps)],
                 {'unusable':'bad'}, set()),
    'loop':(sub('rejected', lambda t, i: t+' again'*30, 100), {'unusable':'bad'}, set()),
    'wrong way round':(lambda ps: [{**p, 'chosen_score':.2, 'rejected_score':.9} if i==7 else p
                                   for i, p in enumerate(ps)], {'order':'bad', 'margins':'warn'}, set()),
    'tie':(lambda ps: [{**p, 'rejected_score':p['chosen_score']} if i==7 else p for i, p in enumerate(ps)],
           {'ties':'bad', 'margins':'warn'}, set()),
    'small margins':(lambda ps: [{**p, 'chosen_score':.6, 'rejected_score':.5} if i%5==0 else p
                                 for i, p in enumerate(ps)], {'margins':'bad'}, set()),
    'stark':(lambda ps: [{**p, 'chosen_score':.95, 'rejected_score':.1} for p in ps], {'margins':'warn'}, set()),
    'prefix':(lambda ps: [{**p, 'rejected':' '.join(p['chosen'].split()[:-3]+['x', 'y', 'z.'][:3])} for p in ps],
              {'prefix':'bad'}, {'words'}),
    'thinking, closed':(sub('chosen', lambda t, i: f'<think>{t}</think>{t}', 200), {'thinking':'warn'}, set()),
    'thinking, torn':(sub('rejected', lambda t, i: f'<think>{t}', 200), {'thinking':'bad'}, set()),
    'refusal':(sub('rejected', lambda t, i: "I'm sorry, but I can't help with that.", 200), {'refusals':'warn'}, set()),
    'refusals':(sub('rejected', lambda t, i: "I'm sorry, but I can't help with that. "+t, 20), {'refusals':'bad'},
                set()),
    'one pair again':(lambda ps: [*ps, ps[0]], {'duplicates':'warn'}, set()),
    'both directions':(lambda ps: [*ps, {**ps[0], 'chosen':ps[0]['rejected'], 'rejected':ps[0]['chosen']}],
                       {'duplicates':'bad'}, set()),
    'canned answer':(sub('rejected',
                         lambda t, i: 'We are not open at the moment, please come back tomorrow after nine.', 4),
                     {'duplicates':'bad'}, {'length', 'words', 'form'}),
    'one id for two prompts':(lambda ps: [{**p, 'prompt_id':'q0'} if i==1 else p for i, p in enumerate(ps)],
                              {'duplicates':'bad'}, set()),
    'alike prompts':(lambda ps: [{**p, 'prompt':[user(f"{ps[0]['prompt'][0]['content']} {i}")]} if i<80 else p
                                 for i, p in enumerate(ps)], {'duplicates':'warn'}, set()),
    'few prompts':(lambda ps: [{**p, 'prompt_id':(q := ps[0] if i<150 else p)['prompt_id'], 'prompt':q['prompt']}
                               for i, p in enumerate(ps)], {'per_prompt':'warn'}, set()),
}

@pytest.mark.parametrize('name', DEFECTS)
def test_a_planted_defect_is_found_and_nothing_else(name):
    plant, want, may = DEFECTS[name]
    d = audit(plant(pairs()))
    got = found(d)
    assert {k:got.get(k) for k in want} == want, audit_table(d)
    assert set(got)-may <= set(want), audit_table(d)
    for k in got:
        assert item(d, k)['todo'] and item(d, k)['detail'] and item(d, k)['number'] is not None
    assert d['verdict'] == ('bad' if 'bad' in got.values() else 'warn')

def test_numbers_behind_a_planted_length():
    ps = [{**p, 'chosen':'a b c d', 'rejected':'a b c' if i%4 else 'a b c d e'} for i, p in enumerate(pairs(400))]
    f = audit(ps, items=['length'])['figures']['length']
    assert f['longer'][0] == .75 and f['median'] == [4, 3] and f['auc'][0] == .75

def test_tokens_are_used_where_all_are_known():
    ps = [{**p, 'chosen_tokens':200, 'rejected_tokens':100} for p in pairs(100)]
    assert audit(ps)['figures']['length']['unit'] == 'tokens' and found(audit(ps))['length'] == 'bad'
    ps[3]['rejected_tokens'] = None
    assert audit(ps)['figures']['length']['unit'] == 'words'

def test_equal_pairs_of_one_prompt_are_one_piece_of_evidence():
    ps = [{**p, 'chosen':p['chosen']+' more and more of it.'} for p in pairs(3)]
    many = [{**ps[i%3], 'prompt_id':f'q{i%3}'} for i in range(90)]
    lo, hi = audit(many)['figures']['length']['longer'][1]
    assert hi-lo > .5

def test_few_pairs_are_counted_but_not_judged_by_statistics():
    d = audit(pairs(MIN_PAIRS-1, chosen=(40, 50)))
    assert found(d) == dict(length='n/a', words='n/a', form='n/a')
    assert 'too few' in item(d, 'length')['detail'] and d['verdict'] == 'n/a'
    assert audit(pairs(1))['n'] == 1


# ---- groups

def test_a_strategy_that_the_whole_hides():
    ps = [*pairs(200, 1, chosen=(24, 34), strategy='a'),
          *[{**p, 'prompt_id':'b'+p['prompt_id']} for p in pairs(200, 2, rejected=(24, 34), strategy='b')]]
    d = audit(ps)
    assert 'length' not in found(d)
    assert {k:found(g)['length'] for k, g in d['groups']['strategy'].items()} == dict(a='bad', b='bad')
    a, b = (item(d['groups']['strategy'][k], 'length')['number'] for k in 'ab')
    assert a > .5 > b

def test_flaws_are_allowed_their_mark_in_the_right_direction():
    good = audit(pairs(100, rejected=(30, 40), flaw='too_verbose'))['groups']['flaw']['too_verbose']
    wrong = audit(pairs(100, chosen=(30, 40), flaw='too_verbose'))['groups']['flaw']['too_verbose']
    other = audit(pairs(100, rejected=(30, 40), flaw='slightly_off_topic'))['groups']['flaw']['slightly_off_topic']
    assert item(good, 'length')['verdict'] == 'ok' and 'too_verbose' in item(good, 'length')['detail']
    assert item(wrong, 'length')['verdict'] == item(other, 'length')['verdict'] == 'bad'

def test_small_groups_say_so():
    d = audit([*pairs(60, strategy='a'), *pairs(5, 1, strategy='b'), *pairs(2, 2)])
    assert d['groups']['strategy']['b'] == dict(n=5, items=[]) and set(d['groups']['strategy']) == {'a', 'b'}
    assert 'too few' in audit_table(d)

def test_items_can_be_chosen_and_added():
    @audit_item('capitals')
    def capitals(ps, groups):
        n = sum(p['chosen'].isupper() for p in ps)
        return dict(verdict='warn' if n else 'ok', number=n, detail=f'{n} shouted', todo='lower them')
    try:
        assert found(audit(sub('chosen', lambda t, i: t.upper(), 300)(pairs()))) == dict(capitals='warn')
        assert [i['item'] for i in audit(pairs(60), items=['ties', 'capitals'])['items']] == ['ties', 'capitals']
    finally:
        del ITEMS['capitals']
    with pytest.raises(RsrError, match="no item 'lenght'. Did you mean 'length'"):
        audit(pairs(60), items=['lenght'])


# ---- reading

FORMS = [(t, s) for m, t in ROW_FORMATS if m=='dpo' for s in (('messages', 'standard') if t=='trl' else ('messages',))]

@pytest.mark.parametrize('fmt', ['jsonl', 'parquet'])
@pytest.mark.parametrize('target,style', FORMS)
def test_reads_what_the_formatters_write(target, style, fmt, tmp_path):
    groups = [(Prompt(f'q{i}', [user(f'Frage {i}: Wie heißt “東京”?')]),
               [Rollout(f'Tokio, {i} 🗼', score=1., idx=0), Rollout(f'Kioto, {i}', score=0., idx=1)]) for i in range(5)]
    fs = make_formatters([dict(type='dpo', target=target, format=fmt, **(dict(style=style) if target=='trl' else {}))])
    write_files(groups, fs, tmp_path)
    got = read_pairs(tmp_path/'train'/fs[0].file)
    read = [(p['prompt'][-1], p['chosen'], p['rejected']) for p in got]
    assert read == [(dict(role='user', content=p.messages[0]['content']), *[r.text for r in rs]) for p, rs in groups]
    assert len({p['prompt_id'] for p in got}) == 5 and {p['margin'] for p in got} == {None}

def test_reads_conversations_with_a_system_turn():
    ms = [dict(role='system', content='s'), dict(role='user', content='a'), dict(role='assistant', content='b'),
          dict(role='user', content='c')]
    for (m, t), f in ROW_FORMATS.items():
        if m=='dpo':
            assert as_pair(f(dict(prompt=ms, chosen='x', rejected='y'), 'messages'))['prompt'] == ms, t

FOREIGN = [
    (dict(prompt='Q', chosen=[user('Q'), says('x')], rejected=[user('Q'), says('y')], score_chosen=8,
          score_rejected=6.5), 1.5),
    (dict(chosen=[user('Q'), says('x')], rejected=[user('Q'), says('y')]), None),
    (dict(system='', question='Q', chosen='x', rejected='y'), None),
    (dict(instruction='Q', input='', chosen='x', rejected='y', margin=.4), .4),
    (dict(prompt='Q', chosen='x', rejected='y', chosen_score=float('nan'), rejected_score=True), None),
]

@pytest.mark.parametrize('row,margin', FOREIGN)
def test_reads_files_from_elsewhere(row, margin):
    p = as_pair(row)
    read = p['prompt'], p['chosen'], p['rejected'], p['margin']
    assert read == ([dict(role='user', content='Q')], 'x', 'y', margin)

def test_a_pair_read_twice_is_the_same():
    once = read_pairs([dict(prompt='Q', chosen='x', rejected='y', metadata=dict(strategy='flawed', flaw='too_verbose'),
                            chosen_score=1, rejected_score=.25)])
    assert read_pairs(once) == once and (once[0]['flaw'], once[0]['margin']) == ('too_verbose', .75)

def test_files_of_all_endings(tmp_path):
    row = dict(prompt='Q', chosen='x', rejected='y')
    (tmp_path/'a.json').write_text(json.dumps([row, row]))
    with gzip.open(tmp_path/'a.jsonl.gz', 'wt') as f:
        f.write(json.dumps(row)+'\n')
    assert len(read_pairs(tmp_path/'a.json')) == 2 and len(read_pairs(str(tmp_path/'a.jsonl.gz'))) == 1

@pytest.mark.parametrize('src,says', [
    ([dict(prompt='Q', chosen='x')], 'row 1: no rejected: the row has prompt, chosen'),
    ([dict(chosen='x', rejected='y')], 'no prompt'),
    ([7], 'the row is int'), ([{}], 'no columns'), ([dict(prompt='Q', chosen='x', rejected=7)], 'no rejected'),
    ([dict(prompt='Q', chosen=[], rejected='y')], 'no chosen'),
    ([dict(prompt=[dict(role='user')], chosen='x', rejected='y')], 'no prompt'), ([], 'there are none'),
    ('missing.jsonl', 'no file missing.jsonl'), ('.', 'is a folder'),
    ('a.json', 'broken JSON'), ('b.json', 'not a list'), ('c.jsonl', 'line 1: broken JSON'),
    ('d.txt', 'pairs: cannot read d.txt')])
def test_what_is_wrong_is_said(src, says, here):
    for name, s in (('a.json', '[{'), ('b.json', '{}'), ('c.jsonl', '{"a":\n'), ('d.txt', 'x')):
        (here/name).write_text(s)
    with pytest.raises(RsrError) as e:
        read_pairs(src)
    assert says in str(e.value)


# ---- hostile texts, size, reproducibility

HOSTILE = [   # markup, escapes, direction marks, half a character, much of one thing
    '<script>alert(1)</script>', '\x1b[31mred\x1b[0m \x07', '\u202eright to left\u202c', '$x_{1$ \\frac',
    '\ud800 half', 'x\u0000y', '🗼'*50, 'אבג דהו', '’'*20,
    '-'*3000, '*'*3000]

def test_hostile_texts_are_data():
    h = lambda i: HOSTILE[i%len(HOSTILE)]
    ps = [{**p, 'chosen':f"{h(i)} {p['chosen']}", 'rejected':f"{p['rejected']} {h(i+3)}",
           'strategy':'\x1b[2Jevil\n$a$'*9, 'flaw':'<b>'} for i, p in enumerate(pairs(220))]
    d = audit(ps)
    out = audit_table(d)
    assert all(c.isprintable() or c=='\n' for c in out) and '\x1b' not in out and '\u202e' not in out
    plot_audit(d).savefig(os.devnull, format='png')
    c = compare_strategies({'a$b_{':ps, '\x1b[2J':ps})
    assert '\x1b' not in compare_table(c)
    plot_strategies(c).savefig(os.devnull, format='png')
    json.dumps(d, allow_nan=False)

@pytest.mark.parametrize('evil', [
    ' '*300_000, '\n'*300_000, 'a'*300_000, 'a '*150_000, '- '*150_000, "'"*300_000, '...'*100_000,
    '<think>'*40_000, '|'*300_000, '\n \n'*100_000, "i'm sorry "*30_000])
def test_no_text_takes_long(evil):
    t = time.process_time()
    facts(dict(chosen=evil+'x', rejected='x'+evil))
    assert time.process_time()-t < 2

def test_twenty_thousand_pairs():
    ps = pairs(20_000, chosen=(20, 40), rejected=(20, 40), strategy='temperature')
    t = time.process_time()
    d = audit(ps)
    assert time.process_time()-t < 30 and found(d) == {}

def test_the_same_in_every_process():
    prog = "import test_audit as t, json; print(json.dumps(t.audit(t.DEFECTS['a word'][0](t.pairs(150)))))"
    run = lambda h: subprocess.run([sys.executable, '-c', prog], cwd=os.path.dirname(__file__),
                                   env={**os.environ, 'PYTHONHASHSEED':h}, capture_output=True, text=True, check=True)
    outs = {run(h).stdout for h in '01'}
    assert len(outs) == 1 and json.loads(outs.pop())['verdict'] == 'bad'

def test_words_of_all_scripts():
    found = words("L'été — 東京, don’t! ＡＢ 3.5 snake_case")
    assert found == ["l'été", '東', '京', 'don’t', 'ａｂ', '3', '5', 'snake', 'case']
    assert words('Plain ASCII, don\'t!') == ['plain', 'ascii', "don't"]

def test_the_figure_shows_what_was_found():
    fig = plot_audit(audit(sub('rejected', lambda t, i: t[:-1]+' regrettably.')(pairs())))
    ax = fig.axes
    assert [a.get_title('left').split(':')[0] for a in ax] == ['Length', 'Margins', 'Words']
    assert 'regrettably' in [t.get_text() for t in ax[2].get_yticklabels()]
    bare = plot_audit(audit([{**p, 'chosen_score':None} for p in pairs(10)]))
    assert 'the pairs carry no scores' in [t.get_text() for t in bare.axes[1].texts]

@pytest.mark.parametrize('dark', [None, False, True])
def test_figures_are_readable_on_every_page(dark):
    compared = compare_strategies(dict(a=pairs(60), b=([], dict(prompts=60))))
    for fig in plot_audit(audit(pairs(chosen=(22, 34))), dark), plot_strategies(compared, dark):
        fig.canvas.draw()
        assert fig.get_facecolor()[3] == 0 and all(a.get_facecolor()[3] == 0 for a in fig.axes)
        texts = [t for a in fig.axes if a.axison for t in (a.title, a._left_title, a.xaxis.label, *a.get_xticklabels(),
                                                           *a.get_yticklabels(), *a.texts)]
        inked = [t for t in texts if t.get_text()]
        assert len(inked) > 10 and {to_hex(t.get_color()) for t in inked} == {INK[dark]}

def test_the_advice_for_length_can_be_followed():
    assert 'formatter.dpo.max_length_ratio=1.5' in item(audit(pairs(chosen=(22, 34))), 'length')['todo']
    from rsr.pairs.collect import pairs_of
    rollouts = [Rollout('a '*30, score=1., idx=0), Rollout('b '*10, score=0., idx=1), Rollout('c '*28, score=0., idx=2)]
    group = Prompt('q', [user('Q')], key=1), rollouts
    f, = make_formatters([dict(type='dpo', max_length_ratio=1.5)])
    (p, _), = pairs_of([group], f)
    assert (p['chosen'][0], p['rejected'][0]) == ('a', 'c')


# ---- strategies side by side

def test_yield_and_cost_by_hand():
    a, b = pairs(80, 1), pairs(100, 2)[20:]   # prompts q0 to q79, and q20 to q99
    spent = dict(prompts=100, rollouts=200, tokens=40_000, usd=2., dropped=dict(inverted=15, refusal=5))
    d = compare_strategies(dict(a=(a, spent), b=(b, dict(prompts=100, rollouts=800)),
                                none=([], dict(prompts=100, tokens=10))))
    x, y, z = d['strategies']
    assert (x['share_with_pair'], x['pairs_per_prompt'], x['rollouts_per_pair'], x['tokens_per_pair'],
            x['usd_per_pair']) == (.8, .8, 2.5, 500, .025)
    assert x['share_interval'] == wilson(.8, 100) and x['dropped'] == dict(inverted=15, refusal=5)
    assert (y['rollouts_per_pair'], y['tokens_per_pair'], y['usd_per_pair']) == (10, None, None)
    assert (z['pairs'], z['tokens_per_pair'], z['margin'], z['share_with_pair']) == (0, None, None, 0)
    assert [e['difference'] for e in d['differences']] == [0, -.8]
    lo, hi = d['differences'][0]['interval']
    assert hi == pytest.approx(2.2414*math.sqrt(40)/100, rel=1e-3) and lo == -hi   # 20 won, 20 lost; two comparisons
    t = compare_table(d)
    assert 'inverted' in t and '0.0250' in t and 'none − a: -80.0 points' in t
    assert len(plot_strategies(d).axes) == 4

def test_margins_and_length_of_a_strategy():
    d = compare_strategies(dict(a=pairs(100, chosen=(30, 40)),
                                b=[{**p, 'chosen_score':.9, 'rejected_score':.4} for p in pairs(100, 1)]))
    a, b = d['strategies']
    assert a['chosen_longer'] > .95 and a['length_auc'] > .95 and 'length' in a['bad'] and b['bad'] == []
    assert (b['margin'], b['margin_low'], b['margin_high']) == pytest.approx((.5, .5, .5))
    assert len(d['notes']) == 1 and 'not known' in d['notes'][0] and d['differences'] == []

def test_other_prompts_are_not_compared():
    ps, ids = pairs(60), [f'q{i}' for i in range(60)]
    asked = dict(a=ids, b=[*ids[1:], 'q0'], c=[*ids, 'x'])
    d = compare_strategies({**{k:(ps, dict(prompts=v)) for k, v in asked.items()},
                            'd':([], dict(prompts=[f'z{i}' for i in range(60)]))})
    assert [x['strategy'] for x in d['differences']] == ['b'] and [n.split()[0] for n in d['notes']] == ['c', 'd']

def test_paired_difference():
    assert paired_difference('abc', 'bcde', 10)[0] == pytest.approx(.1)
    same = paired_difference('ab', 'ab', 1000)
    assert same[0] == 0 and 0 < same[1][1] < .01
    assert paired_difference('', 'a', 1)[1][1] <= 1

@pytest.mark.parametrize('cost,says', [
    (dict(rollout=3), "no cost 'rollout'. Did you mean 'rollouts'"), (dict(prompts=3), 'only 3 prompts'),
    (dict(usd=-1), 'a.usd: -1'), (dict(tokens='many'), "a.tokens: 'many'"),
    (dict(prompts=True), 'a.prompts: True'), (dict(prompts='q0'), "a.prompts: 'q0'"),
    (dict(dropped=3), 'a.dropped: 3'), (dict(dropped=dict(x='y')), 'a.dropped'),
    (7, 'not an object'), (dict(prompts=['q1', *'abcdefghij']), "'q0', which was never sampled")])
def test_wrong_costs_are_said(cost, says):
    with pytest.raises(RsrError) as e:
        compare_strategies(dict(a=(pairs(5), cost)))
    assert says in str(e.value)

def test_nothing_to_compare():
    with pytest.raises(RsrError):
        compare_strategies({})

def test_pairs_of_a_run_are_audited():
    from rsr.pairs.collect import pairs_of
    rng = random.Random(5)
    two = lambda: [Rollout(text(rng, 25), score=1., idx=0, completion_tokens=40),
                   Rollout(text(rng, 25), score=0., idx=1, completion_tokens=20)]
    groups = [(Prompt(f'q{i}', [user(text(rng, 12))], key=i), two()) for i in range(80)]
    groups += [(Prompt('none', [user('x')], key=99), [Rollout('y', score=1.)])]
    f, = make_formatters([dict(type='dpo')])
    made = list(pairs_of(groups, f))
    d = audit([p for p, _ in made if p])
    assert (d['n'], len(made)) == (80, 81) and d['figures']['length']['unit'] == 'tokens'
    assert found(d) == dict(length='bad')
    r, = compare_strategies({'plain':([p for p, _ in made if p], dict(prompts=81, rollouts=161))})['strategies']
    assert r['share_with_pair'] == pytest.approx(80/81) and r['margin'] == 1

def test_no_tokens_reported_is_not_length_zero():
    ps = read_pairs([{**p, 'chosen_tokens':0, 'rejected_tokens':0} for p in pairs(60)])
    assert ps[0]['chosen_tokens'] is None and audit(ps)['figures']['length']['unit'] == 'words'


# ---- tools, parts, thinking beside the text

CALL = dict(id='c1', type='function', function=dict(name='weather', arguments='{"city": "Oslo"}'))
RAIN = 'weather({"city": "Oslo"})'
PARTS = [dict(type='image_url', image_url=dict(url='sky.png')), dict(type='text', text='Will it rain?')]

@pytest.mark.parametrize('row', [
    dict(prompt=[user(PARTS)], chosen=[dict(says(None), tool_calls=[CALL])], rejected=[says('No.')]),
    dict(messages=[user(PARTS)], chosen=dict(says(''), tool_calls=[CALL]), rejected=says('No.')),
    dict(messages=[user(PARTS), dict(says(None), tool_calls=[CALL])], rejected_response='No.'),
    dict(input=dict(messages=[user(PARTS)]), preferred_output=[dict(says(None), tool_calls=[CALL])],
         non_preferred_output=[says('No.')]),
    dict(prompt=[user(PARTS)], chosen='', chosen_tool_calls=[CALL], rejected='No.', tools=[{}]),
    dict(chosen=[user(PARTS), dict(says(None), tool_calls=[CALL])], rejected=[user(PARTS), says('No.')])])
def test_calls_and_parts_are_read_in_any_form(row):
    p = as_pair(row)
    assert (p['chosen'], p['rejected']) == (RAIN, 'No.')
    assert [m['content'] for m in p['prompt']] == ['Will it rain?']

def test_sharegpt_with_function_calls():
    asked = [{'from':'human', 'value':'Rain?'}, {'from':'function_call', 'value':'{"name": "weather"}'},
             {'from':'observation', 'value':'12 mm'}]
    p = as_pair(dict(conversations=asked, chosen={'from':'gpt', 'value':'Yes.'},
                     rejected={'from':'function_call', 'value':'{"name": "clock"}'}))
    assert [m['role'] for m in p['prompt']] == ['user', 'assistant', 'tool']
    assert (p['chosen'], p['rejected']) == ('Yes.', '{"name": "clock"}')

def test_a_history_with_calls_and_results():
    talk = [user('Rain?'), dict(says(None), tool_calls=[CALL]), dict(role='tool', content='12 mm', tool_call_id='c1')]
    p = as_pair(dict(prompt=talk, chosen=[says('Yes.')], rejected=[says('No.')]))
    assert [m['content'] for m in p['prompt']] == ['Rain?', 'weather({"city":"Oslo"})', '12 mm']

@pytest.mark.parametrize('bad', [dict(chosen=7), dict(chosen=[]), dict(chosen=[{}]), dict(chosen=[says(None)]),
                                 dict(rejected=None), dict(prompt=[user(None)]), dict(prompt=[user(7)]),
                                 dict(prompt=[])])
def test_what_has_no_text_and_no_call_is_no_side(bad):
    with pytest.raises(ValueError, match='^no (prompt|chosen|rejected)'):
        as_pair(dict(prompt='Rain?', chosen='Yes.', rejected='No.') | bad)

def aside(side, share):
    "Pairs with thinking beside the text of one side, as an own field or in a message."
    def change(i, p):
        if i>=share*len(ps):
            return p
        in_message = [dict(says(p[side]), reasoning_content='Let me see.')]
        return {**p, **({side:in_message} if i%2 else {f'{side}_reasoning':'Hm.'})}
    ps = pairs(200)
    return [change(i, p) for i, p in enumerate(ps)]

def test_thinking_on_one_side_only_is_found_wherever_it_stands():
    d = item(audit(aside('chosen', .5)), 'thinking')
    assert d['verdict'] == 'bad' and '100 with thinking, 100 on one side only' in d['detail']
    both = [{**p, 'rejected_reasoning':'Hm.'} for p in aside('chosen', 1)]
    assert item(audit(both), 'thinking')['verdict'] == 'warn'
    assert item(audit(pairs(200)), 'thinking')['verdict'] == 'ok'

@pytest.mark.parametrize('family', MARKS, ids=lambda m: m.family)
def test_the_audit_knows_the_marks_of_every_family(family):
    ps = [{**p, 'chosen':family.example.replace('B', p['chosen'])} for p in pairs(200)]
    d = item(audit(ps), 'thinking')
    assert d['verdict'] == 'bad' and d['detail'] == '200 with thinking, 200 on one side only'
    torn = [{**p, 'chosen':family.example[:family.example.index('hm')]+p['chosen']} for p in pairs(200)]
    assert '200 opened and not closed' in item(audit(torn), 'thinking')['detail']

def test_equal_calls_are_the_same_text_and_calls_are_no_empty_side():
    call = [dict(says(None), tool_calls=[CALL])]
    ps = [dict(p, chosen=call, rejected=call) if i<5 else dict(p, rejected=call) for i, p in enumerate(pairs(200))]
    assert '5 with the same text on both' in item(audit(ps), 'unusable')['detail']
    assert 'empty' not in item(audit(ps), 'unusable')['detail']
