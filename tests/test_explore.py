"What the explorer says is what is written; what it shows is text; what people say is kept. All of it without a page."
import html
import json
import random
import re
import shlex
import sqlite3
import subprocess
import sys
from base64 import b64decode
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import read_jsonl, rows
from conftest import rsr as command

from rsr import load_run, sample
from rsr.data.statistics import initial_rates
from rsr.data.store import Store
from rsr.data.types import Prompt, Rollout, RsrError, Score, failed, passed
from rsr.explore import state, thresholds
from rsr.explore.conversation import prompt_html, rollout_html
from rsr.explore.explorer import explore
from rsr.explore.front import take_message
from rsr.explore.html import (
    diff_html,
    one_line,
    preview_html,
    prompt_line,
    rollout_line,
    shown,
    text_box,
)
from rsr.explore.prompts import prompt_rollouts, prompt_table
from rsr.explore.score_figures import scores_data
from rsr.explore.score_index import read_scores, read_splits, read_texts, text_mode
from rsr.explore.state import Exploration
from rsr.explore.thresholds import histogram, preview_counts, read_wheres, with_thresholds
from rsr.explore.widget import Explorer
from rsr.formatters.methods import FORMATTERS, formatter
from rsr.formatters.pairing import makes_pair
from rsr.formatters.thinking_forms import full_text, separated
from rsr.formatters.writer import make_formatters
from rsr.run.files import valid_outcomes, write_formats
from rsr.run.results import Run

HOSTILE = ['<script>window.hacked=1</script>', '<img src=x onerror="window.hacked=1">',
           '</pre></div><style>*{display:none}</style>',
           '\u202egnp.exe\u202c \x00\x07', '$x^2$ **b** [l](javascript:alert(1))',
           "' onmouseover='hacked=1", '" onclick="hacked=1', '<svg/onload=hacked=1>', '&lt;script&gt;',
           'a\u2028b\ufeffc']
RECIPE = [dict(type='sft', pass_threshold=.8), dict(type='dpo', pass_threshold=.8, fail_threshold=.4, min_margin=.15),
          dict(type='multi_sft', pass_threshold=.8, num_responses=4),
          dict(type='kto', pass_threshold=.8, fail_threshold=.4), dict(type='grpo', pass_threshold=.8, band=[0, 1])]

def messy(path, n=40, k=8, seed=0, formatters=RECIPE, texts=6, hostile=False, **recipe):
    "A run with everything: repeated texts, thinking, truncated and empty answers, missing scores, empty prompts."
    rng, st = random.Random(seed), Store(path)
    def pick(other):
        return rng.choice(HOSTILE) if hostile else other
    st.add_prompts((f'row {i}', Prompt(f'q{i}'+pick(''), [dict(role='user', content=f'{pick("prompt")} {i}')],
                                       dict(answer='A'))) for i in range(n))
    s, v = st.config_key('sampler', dict(model='m')), st.config_key('verifier', dict(type='v'))
    st.put('verifier', v)
    for i, (p, *_) in enumerate(list(st.walk())):
        for key in st.ask(p.key, range(k if i%13 else 0), 1, s, 64):
            text = rng.choice(['', ' ', '<think>so</think>', '<think>or so</think>\n'])
            text += f'Answer {rng.randrange(texts)}!'[:rng.choice([9, 10])]
            text += rng.choice(['', '\n'])
            text += pick('')
            outcome = rng.choices(['kept', 'truncated', 'failed'], [.85, .1, .05])[0]
            if outcome=='truncated' and rng.random()<.4:
                text = rng.choice(['', ' \n'])
            st.answer(Rollout('' if outcome=='failed' else text, outcome=outcome, key=key,
                              error='429' if outcome=='failed' else None))
            x = rng.choice([0., 1., rng.randrange(21)/20, .1+.2, .1*7])
            if outcome=='kept' and rng.random()<.9:
                st.add_score(key, v, Score(x, pick(''), text[:9], dict(clear=dict(answer='YES', reason=pick('')))))
    st.close()
    recipe = dict(sampler=dict(model='m', base_url='http://127.0.0.1:1/v1'), formatter=formatters, **recipe)
    (Path(path)/'recipe.yaml').write_text(yaml.safe_dump(recipe))
    return Run(path)

def told_and_written(run, configs, read=True):
    "({file: figures that are told}, {file: figures of what is written})"
    st = Store(run.path)
    try:
        return told_and_written_by(st, run, configs, read)
    finally:
        st.close()

def told_and_written_by(st, run, configs, read=True):
    d, fs = {**run.recipe, 'formatter':configs}, make_formatters(configs)
    s = read_scores(st, valid_outcomes(d))
    for m in {text_mode(f) for f in fs} if read else ():
        read_texts(s, st, m)
    if read:
        read_splits(s, st, d, fs)
        read_wheres(s, st, fs)
    return {w['file']:w for w in preview_counts(s, fs)}, write_formats(st, d, make_formatters(configs))

def same(told, written):
    "The figures are those of the files, to the row."
    for file, w in written.items():
        if file.startswith('eval/') and not any(f.startswith('eval/') for f in told):
            assert not w['rows']
            continue   # nothing is held out
        t = told[file.replace('.parquet', '.jsonl')]
        assert (file, t['rows'])==(file, w['rows']) and t['exact'], (file, t, w)
        assert t['prompts']==w['prompts'], (file, t, w)
        if 'positive_share' in w:
            assert t['positive_share']==pytest.approx(w['positive_share'], abs=1e-4)
    return sum(w['rows'] for w in written.values())

# ---- the figures are what is written

@pytest.mark.parametrize('at', [dict(), dict(pass_threshold=1., fail_threshold=0.),
                                dict(pass_threshold=.5, fail_threshold=None),
                                dict(pass_threshold=.3, fail_threshold=.1, min_margin=.7),
                                dict(pass_threshold=.7, fail_threshold=.3, min_margin=0.)], ids=str)
@pytest.mark.parametrize('seed', [0, 1])
def test_what_is_told_is_what_is_written(tmp_path, seed, at):
    assert same(*told_and_written(messy(tmp_path/'r', seed=seed), with_thresholds(RECIPE, **at)))>60

@pytest.mark.parametrize('o', [
    dict(type='sft', thinking='strip'), dict(type='sft', select='shortest'), dict(type='dpo', rejected='near_mean'),
    dict(type='dpo', fail_threshold=None, max_margin=.5, min_margin=.2),
    dict(type='dpo', fail_threshold=None, max_pairs_per_prompt=3, min_margin=.2),
    dict(type='dpo', max_pairs_per_prompt=8, fail_threshold=.6),
    dict(type='dpo', thinking='strip', max_pairs_per_prompt=2),
    dict(type='dpo', rejected='near_mean', max_pairs_per_prompt=3, fail_threshold=None),
    dict(type='multi_sft', unroll=True),
    dict(type='multi_sft', unroll=True, num_responses=2),
    dict(type='multi_sft', min_responses=3), dict(type='multi_sft', unique='normalised', unroll=True),
    dict(type='multi_sft', thinking='strip', min_responses=2),
    dict(type='kto', positive_share=.3), dict(type='kto', thinking='strip', positive_share=.9), dict(type='grpo'),
    dict(type='grpo', band=[.2, .6])], ids=str)
def test_every_option(tmp_path, o):
    limits = dict(pass_threshold=.7, **dict(fail_threshold=.3) if o['type'] in ('dpo', 'kto') else {})
    o = {**limits, **o}
    assert same(*told_and_written(messy(tmp_path/'r', 60, seed=3), [o]))

@pytest.mark.parametrize('unroll', [True, False])
def test_a_pool_that_can_never_be_full_enough_gives_no_row(tmp_path, unroll):
    o = dict(type='multi_sft', pass_threshold=.5, num_responses=2, min_responses=3, unroll=unroll)
    assert same(*told_and_written(messy(tmp_path/'r'), [o]))==0

@pytest.mark.parametrize('at', [(1., 0.), (.8, .4), (.7, None), (0., None)])
def test_the_rules_say_the_same_of_an_array(at):
    scores = np.array([0., .3, .1+.2, .4, .7, .1*7, .8-1e-10, 1.])
    top, bottom = at
    assert passed(scores, top).tolist()==[passed(x, top) for x in scores.tolist()]
    assert failed(scores, top, bottom).tolist()==[failed(x, top, bottom) for x in scores.tolist()]
    for limits in (dict(), dict(min_margin=.3), dict(min_margin=.1, max_margin=.4)):
        pairs = makes_pair((top, None), (scores, None), **limits).tolist()
        assert pairs==[makes_pair((top, 'a'), (x, 'b'), **limits) for x in scores.tolist()]

@pytest.mark.parametrize('d', [dict(split=dict(eval=.3)), dict(split=dict(eval=.2, near=False), stages=['sft', 'dpo']),
                               dict(stages=dict(sft=.25, dpo=.75)), dict(sampler=True)], ids=str)
def test_splits_stages_and_cut_answers(tmp_path, d):
    run = messy(tmp_path/'r', 80, **({} if 'sampler' in d else d))
    if 'sampler' in d:
        sampler = dict(model='m', base_url='http://127.0.0.1:1/v1', drop_truncated=False)
        (run.path/'recipe.yaml').write_text(yaml.safe_dump(dict(formatter=RECIPE, sampler=sampler)))
    assert same(*told_and_written(run, RECIPE))

def test_contaminated_prompts_are_in_no_file(tmp_path):
    (tmp_path/'bench.txt').write_text('prompt 3\nprompt 4\n')
    run = messy(tmp_path/'r', decontaminate=str(tmp_path/'bench.txt'))
    told, written = told_and_written(run, [dict(type='grpo')])
    assert same(told, written)==38

def test_after_reviews(tmp_path):
    run = messy(tmp_path/'r', seed=5)
    before = {k:w['rows'] for k, w in told_and_written(run, RECIPE)[0].items()}
    rng, ex = random.Random(1), Exploration(run)
    for key in rng.sample(sorted(ex.scores.key.tolist()), 40):
        ex.review(key, rng.choice(['pass', 'fail']))
    for _ in range(12):
        ex.next_pair()
        assert ex.pairs and ex.pairs[0]['verdict'] is None
        ex.judge_pair(rng.choice(['accept', 'swap', 'reject']))
    told, written = told_and_written(run, RECIPE)
    assert same(told, written) and {k:w['rows'] for k, w in told.items()}!=before
    # what it took over is what it would read
    assert {w['file']:w['rows'] for w in ex.counts}=={k:w['rows'] for k, w in told.items()}

def test_of_a_real_run(here, server):
    (here/'v.py').write_text('import zlib\ndef score(response, metadata): return zlib.crc32(response.encode())%11/10\n')
    run = sample(rows(40), dict(formatter=RECIPE), base_url=server.base_url, work_dir='run', progress=False,
                 verifier='v.py:score')
    for at in (dict(), dict(pass_threshold=.6), dict(pass_threshold=.5, fail_threshold=None, min_margin=.4)):
        configs = with_thresholds(run.recipe['formatter'], **at)
        told, written = told_and_written(run, configs)
        assert same(told, written)>100
        assert {f:w['rows'] for f, w in told.items()}=={f.name:sum(1 for _ in open(f))
                                                        for f in (run.path/'train').glob('*.jsonl')}

@pytest.mark.parametrize('seed', range(3))
def test_an_upper_bound_is_one(tmp_path, monkeypatch, seed):
    configs = [dict(type='dpo', pass_threshold=.6, fail_threshold=None, max_margin=.5, rejected='near_mean',
                    max_pairs_per_prompt=2),
               dict(type='multi_sft', pass_threshold=.6, min_responses=3),
               dict(type='multi_sft', name='near', pass_threshold=.6, unroll=True, unique='near'),
               dict(type='kto', pass_threshold=.6),
               dict(type='sft', thinking='strip', pass_threshold=.6)]
    run = messy(tmp_path/'r', seed=seed)
    monkeypatch.setattr(thresholds, 'MOST_CALLS', 0)
    for read in (False, True):
        told, written = told_and_written(run, configs, read)
        assert not read==told['dpo.jsonl']['exact'] or not read
        for f, w in written.items():
            if f!='kto.jsonl' or read:
                assert told[f]['rows']>=w['rows'], f
        assert not told['dpo.jsonl']['exact'] and not told['near.jsonl']['exact'] and told['kto.jsonl']['exact']==read

@pytest.mark.parametrize('o', [dict(max_length_ratio=1.2), dict(max_length_ratio=1.2, max_pairs_per_prompt=4),
                               dict(max_length_ratio=1.01, max_pairs_per_prompt=2, thinking='strip'),
                               dict(rejected='near_mean', max_pairs_per_prompt=4),
                               dict(max_margin=.6, max_pairs_per_prompt=4),
                               dict(strategy='temperature', max_length_ratio=1.2),
                               dict(min_rejected_chars=9, max_pairs_per_prompt=4)], ids=str)
def test_rules_that_leave_pairs_out_are_told_as_at_most(tmp_path, monkeypatch, o):
    monkeypatch.setattr(thresholds, 'MOST_CALLS', 0)
    gaps = []
    for seed in range(4):
        run = messy(tmp_path/f'r{seed}', seed=seed)
        for least in (0., .3, .6):
            told, written = told_and_written(run, [dict(type='dpo', pass_threshold=.7, fail_threshold=None,
                                                        min_margin=least, **o)])
            t, w = told['dpo.jsonl'], written['dpo.jsonl']
            assert not t['exact'] and t['margin'] is None, (seed, least)
            assert t['rows']>=w['rows'] and t['prompts']>=w['prompts'], (seed, least)
            gaps.append(t['rows']-w['rows'])
    assert any(gaps) and '≤' in preview_html([t])

def test_a_ratio_that_is_set_costs_pairs_and_the_explorer_says_at_most(tmp_path):
    ex = Explorer(messy(tmp_path/'r', formatters=[dict(type='sft', pass_threshold=.7),
                                                  dict(type='dpo', pass_threshold=.7, fail_threshold=None,
                                                       max_length_ratio=1.01)]))
    assert ex.ui and '≤' in ex.widgets['counts'].value and ex.counts[0]['exact']
    assert 0<ex.write()['dpo.jsonl']<ex.counts[1]['rows']
    judged = set()
    for _ in range(100):
        ex.next_pair()
        if ex.message:
            break
        judged.add(ex.prompt)
        ex.judge_pair('accept')
    # prompts whose pairs differ in length are passed over
    assert ex.message=='no pairs left to review' and len(judged)==ex.files['dpo.jsonl']

def test_sides_of_a_pair_strategy(tmp_path):
    configs = [dict(type='sft', pass_threshold=.5), dict(type='kto', pass_threshold=.5, fail_threshold=.3),
               dict(type='multi_sft', pass_threshold=.5, min_responses=2),
               dict(type='grpo', band=[0, 1]), dict(type='dpo', name='plain', pass_threshold=.5, fail_threshold=.3)]
    run = messy(tmp_path/'r', 60)
    st = Store(run.path)
    weak = st.config_key('sampler', dict(model='weak'))
    st.begin().execute('UPDATE rollouts SET sampler=? WHERE idx%3=0', (weak,))
    alike = {k:w['rows'] for k, w in told_and_written_by(st, run, configs)[0].items()}
    st.put('sides', dict(chosen=[1], rejected=[weak]))
    st.commit()
    told, written = told_and_written_by(st, run, configs)
    assert same(told, written) and told['sft.jsonl']['rows']<alike['sft.jsonl']
    assert told['plain.jsonl']['rows']==alike['plain.jsonl']
    told, written = told_and_written_by(st, run, [dict(type='dpo', strategy='model_tiers', pass_threshold=.5,
                                                       min_margin=.2, max_pairs_per_prompt=3)])
    st.close()
    assert told['dpo.jsonl']['rows']>=written['dpo.jsonl']['rows']>10 and not told['dpo.jsonl']['exact']

def test_a_formatter_of_ones_own_is_not_guessed_at(tmp_path):
    formatter('mine', lambda seen, **_: (0, 0))(lambda prompt, rollouts: [dict(n=len(rollouts))])
    try:
        run = messy(tmp_path/'r', formatters=[dict(type='sft'), dict(type='mine')])
        ex = Explorer(run)
        assert ex.counts[1]['rows'] is None and '>?<' in re.sub('</?b>', '', preview_html(ex.counts)) and ex.ui
        assert ex.write()['mine.jsonl']==40
    finally:
        del FORMATTERS['mine']

# ---- scores, histogram, table of prompts

@pytest.fixture
def run(tmp_path):
    return messy(tmp_path/'run')

@pytest.fixture
def opened(run):
    st = Store(run.path, write=False)
    yield st, read_scores(st), run.rollouts
    st.close()

def test_scores_are_those_of_the_run(opened):
    st, s, df = opened
    assert s.key.tolist()==df.key.tolist() and (s.valid==(df.outcome=='kept')).all()
    assert np.allclose(s.score, df.score.astype(float), atol=1e-11, equal_nan=True)
    assert (np.isnan(s.score)==df.score.isna()).all()

@pytest.mark.parametrize('at', [(1., 0.), (.8, .4), (.7, None), (.5, .49), (.15, 0.), (0., None)])
def test_histogram_counts_every_score_once(opened, at):
    st, s, df = opened
    h = histogram(s, *at, bins=20)
    x = df[(df.outcome=='kept') & df.score.notna()].score
    ok = x>=at[0]-1e-9
    bad = ~ok & (True if at[1] is None else x<=at[1]+1e-9)
    assert h['total']==dict(passed=ok.sum(), failed=bad.sum(), between=len(x)-ok.sum()-bad.sum())
    assert h['unscored']==(df.outcome=='kept').sum()-len(x)
    want = np.bincount(np.minimum((x*20+1e-8).astype(int), 19), minlength=20)
    assert (h['failed']+h['between']+h['passed']==want).all()

def test_table_of_prompts(opened):
    st, s, df = opened
    df = df[df.outcome=='kept']
    def rate(scores):
        return (scores>=.8-1e-9).sum()/scores.notna().sum() if scores.notna().any() else None
    by = {p:rate(g.score) for p, g in df.groupby('prompt')}
    def ids(show, **kw):
        return [r['id'] for r in prompt_table(st, s, .8, show, size=1000, **kw)['rows']]
    assert ids('never')==[p for p in map('q{}'.format, range(40)) if by.get(p)==0]
    assert set(ids('always'))=={p for p, x in by.items() if x==1}
    assert set(ids('mixed'))=={p for p, x in by.items() if x is not None and 0<x<1}
    assert ids('all', sort='input')==[f'q{i}' for i in range(40)] and {'q0', 'q13', 'q26', 'q39'}<=set(ids('unscored'))
    rates = [by[p] for p in ids('all', sort='-rate') if by.get(p) is not None]
    assert rates==sorted(rates, reverse=True) and ids('all', sort='rate')[-4:]==['q0', 'q13', 'q26', 'q39']
    pages = [prompt_table(st, s, .8, sort='mean', page=i, size=7) for i in range(6)]
    assert [r['id'] for p in pages for r in p['rows']]==ids('all', sort='mean') and {p['total'] for p in pages}=={40}

def test_search_is_for_text_not_for_patterns(opened):
    st, s, _ = opened
    def hits(t):
        return prompt_table(st, s, search=t)['total']
    assert (hits('prompt 1'), hits('PROMPT 17'), hits('q39'), hits('%'), hits('_'), hits("'; DROP TABLE prompts"),
            hits('messages'), hits('\\'))==(11, 1, 1, 0, 0, 0, 0, 0)

@pytest.mark.parametrize('kw', [dict(show='nevr'), dict(sort='rats')])
def test_a_wrong_filter_is_named(opened, kw):
    with pytest.raises(RsrError, match='Did you mean'):
        prompt_table(*opened[:2], **kw)
    with pytest.raises(RsrError, match='no prompt with key 99999'):
        prompt_rollouts(opened[0], 99999)

def test_one_prompt_with_all_its_rollouts(opened):
    st, s, df = opened
    d = prompt_rollouts(st, 3)
    assert d['prompt'].id=='q2' and [r['key'] for r in d['rollouts']]==df[df.prompt=='q2'].key.tolist()
    for r, (_, row) in zip(d['rollouts'], df[df.prompt=='q2'].iterrows()):
        assert (r['score'] is None)==np.isnan(row.score) and ('think' in row.text)==bool(r['thinking'])
        assert '<think>' not in r['text']

# ---- text is text

class Tags(HTMLParser):
    "What a browser would make of a piece of HTML: its tags, its attributes, its text."
    def __init__(self, s):
        super().__init__()
        self.tags, self.attrs, self.text = set(), set(), ''
        self.feed(s)
        self.close()
    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attrs |= {a for a, _ in attrs}
    def handle_data(self, data):
        self.text += data

OURS = set('div span b h4 table thead tbody tr th td details summary svg rect path text title del ins style'.split())
ATTRS = set('class style title role aria-label open dir x y d width height fill viewbox stroke stroke-width '
            'stroke-dasharray opacity font-size font-weight text-anchor'.split())

def safe(s):
    t = Tags(re.sub(r'<style>.*?</style>', '', s, count=1, flags=re.S))
    assert t.tags<=OURS, t.tags-OURS
    assert t.attrs<=ATTRS, t.attrs-ATTRS
    return t

def test_shown_keeps_the_text():
    for t in HOSTILE:
        said = safe(shown(t)).text
        assert re.sub(r'U\+([0-9A-F]{4,5})', lambda m: chr(int(m[1], 16)), said)==t
        assert not re.search('[\u202a-\u202e\x00-\x08]', said) and '\n' not in one_line(t)
    assert shown(None)=='' and shown(0)=='0'

@pytest.mark.parametrize('seed', range(20))
def test_differences_keep_the_texts(seed):
    rng = random.Random(seed)
    words = [w for t in HOSTILE[:3] for w in t.split()]+['a', 'b', 'the', '\n', '\n\n', 'x<y', '&amp;']
    a = [rng.choice(words) for _ in range(rng.randrange(40))]
    b = [w if rng.random()<.8 else rng.choice(words) for w in a]+[rng.choice(words)]
    a, b = ' '.join(a), ' '.join(b)
    left, right, like = diff_html(a, b)
    assert (safe(left).text, safe(right).text)==(a, b) and 0<=like<=1
    unmarked = '<ins' not in right and '<del' not in left
    assert '<ins' not in left and '<del' not in right and (a.split()==b.split())==unmarked or like<.2

def test_long_texts_are_compared_in_time():
    import time
    rng = random.Random(0)
    a, b = (' '.join(rng.choices(['alpha', 'beta', 'gamma', 'delta', 'so', 'then'], k=20_000)) for _ in 'ab')
    start = time.perf_counter()
    diff_html(a, b)
    diff_html(a.replace('so ', 'so\n'), b.replace('so ', 'so\n'))
    assert time.perf_counter()-start<5

def test_all_views_are_safe():
    r = dict(key=1, idx=0, outcome='kept', score=.5, given=.5, label=True, answer=HOSTILE[0], reason=HOSTILE[1],
             thinking=HOSTILE[2], text=' '.join(HOSTILE),
             tokens=3, detail={HOSTILE[0]:dict(answer=HOSTILE[5], reason=HOSTILE[6])})
    d = dict(prompt=Prompt(HOSTILE[0], [dict(role='system', content=HOSTILE[2]), dict(role='user', content=HOSTILE[1])],
                           {HOSTILE[5]:HOSTILE[6]}), stop='max_rollouts')
    for s in (rollout_html(r, .8), rollout_html(r, .8, .2, diff_html(r['text'], HOSTILE[0])[0]), prompt_html(d),
              text_box(HOSTILE[0], HOSTILE[1], fold=True),
              preview_html([dict(file=HOSTILE[0], rows=1, prompts=1, lost=0, positive_share=None, margin=None,
                                 exact=False)], {HOSTILE[0]:3})):
        safe(s)
    assert '\n' not in rollout_line(r)+prompt_line(dict(id=HOSTILE[0], text=HOSTILE[9], passed=0, scored=0,
                                                        truncated=0))

def test_every_widget_shows_hostile_texts_as_text(tmp_path):
    ex = explore(messy(tmp_path/HOSTILE[5].strip("' "), 20, hostile=True))
    assert ex.ui
    import ipywidgets as w
    seen = 0
    for key in ex.scores.prompts.tolist():
        ex.prompt = key
        for r in ex.rollouts[:4]:
            ex.pick('right', r['key'])
            for x in ex.widgets.values():
                if isinstance(x, w.HTML):
                    seen += len(safe(x.value).text)
    assert seen and not [x for x in ex.widgets.values() if getattr(x, 'description_allow_html', False)]

# ---- traits

def test_thresholds_move_the_figures_both_ways(run):
    ex = Explorer(run)
    ws = ex.ui and ex.widgets
    before = [w['rows'] for w in ex.counts]
    assert (ex.pass_threshold, ex.fail_threshold, ex.min_margin, ex.formatter)==(.8, .4, .15, '')
    assert ws['both'].value==(.4, .8)
    ws['both'].value = (.2, .6)
    assert (ex.fail_threshold, ex.pass_threshold)==(.2, .6) and [w['rows'] for w in ex.counts]!=before
    assert 'pass ≥ 0.60' in ws['hist'].value
    ex.pass_threshold, ex.fail_threshold = .8, .4
    assert ws['both'].value==(.4, .8) and [w['rows'] for w in ex.counts]==before
    ws['margin'].value = .95
    assert ex.min_margin==.95 and ex.counts[1]['rows']<before[1] and ex.counts[0]['rows']==before[0]
    ws['rest'].value = True
    assert ex.fail_threshold is None and ws['one'].layout.display=='' and ws['both'].layout.display=='none'
    ws['one'].value = .3
    assert ex.pass_threshold==.3 and ws['rest'].value
    ws['rest'].value = False
    assert 0<=ex.fail_threshold<.3 and not ex.message

def test_a_slider_does_not_round_what_the_recipe_says(tmp_path):
    "In a browser a slider answers with its value rounded to its step, as soon as it is shown."
    ex = Explorer(messy(tmp_path/'r', formatters=[dict(type='dpo', pass_threshold=.875, fail_threshold=1/3,
                                                       min_margin=.155)]))
    ws = ex.ui and ex.widgets
    ws['both'].value, ws['margin'].value = (.33, .88), .16
    assert (ex.pass_threshold, ex.fail_threshold, ex.min_margin)==(.875, 1/3, .155)
    assert ex.configs==ex.recipe['formatter'] and 'pass ≥ 0.875' in ws['hist'].value
    ws['both'].value = (.33, .86)
    assert (ex.pass_threshold, ex.fail_threshold)==(.86, 1/3)

def test_thresholds_are_typed(run):
    ex = Explorer(run)
    ws = ex.ui and ex.widgets
    ws['high'].value = .765
    assert (ex.pass_threshold, ex.fail_threshold, ws['both'].value)==(.765, .4, (.4, .765))
    ws['low'].value = .9
    assert (ex.fail_threshold, ws['low'].value)==(.755, .755) and not ex.message
    ws['rest'].value = True
    assert ws['low'].layout.display=='none'
    ws['high'].value = .5
    assert (ex.pass_threshold, ex.fail_threshold)==(.5, None)

def test_core_widgets_only(run):
    "VS Code shows the same as JupyterLab: no module but those of ipywidgets, and no button with an icon alone."
    ex = Explorer(run)
    assert ex.ui
    import ipywidgets as w
    for x in ex.widgets.values():
        assert {x._model_module, x._view_module}<={'@jupyter-widgets/controls', '@jupyter-widgets/base'}
        assert not isinstance(x, w.Button) or x.description

@pytest.mark.parametrize('to', [(.5, .5), (1., 1.), (0., 0.), (0., 1.), (.99, 1.)])
def test_handles_may_meet(run, to):
    ex = Explorer(run)
    assert ex.ui
    ex.widgets['both'].value = to
    assert not ex.message and (ex.fail_threshold is None or ex.fail_threshold<ex.pass_threshold)
    assert {w['file']:w['rows'] for w in ex.counts}==ex.write()

def test_thresholds_of_one_formatter(tmp_path):
    run = messy(tmp_path/'r', formatters=[dict(type='sft', pass_threshold=1.),
                                          dict(type='dpo', pass_threshold=.6, fail_threshold=.2),
                                          dict(type='sft', name='loose', pass_threshold=.5)])
    ex = Explorer(run)
    assert ex.ui and ex.formatter=='sft' and ex.pass_threshold==1. and ex.widgets['margin'].layout.display=='none'
    was = [w['rows'] for w in ex.counts]
    ex.widgets['formatter'].value = 'dpo'
    assert (ex.pass_threshold, ex.fail_threshold)==(.6, .2) and [w['rows'] for w in ex.counts]==was
    assert ex.widgets['margin'].layout.display==''
    ex.pass_threshold = .9
    now = [w['rows'] for w in ex.counts]
    assert now[1]<was[1] and (now[0], now[2])==(was[0], was[2])
    ex.widgets['formatter'].value = ''
    ex.pass_threshold = .7
    assert ex.counts[0]['rows']==ex.counts[2]['rows']

def test_a_pair_strategy_has_no_fail_threshold(tmp_path):
    ex = Explorer(messy(tmp_path/'r', formatters=[dict(type='dpo', strategy='temperature', pass_threshold=.8,
                                                       min_margin=.15)]))
    assert ex.ui and ex.fail_threshold is None and ex.widgets['rest'].layout.display=='none'
    assert '≤' in ex.widgets['counts'].value
    ex.widgets['one'].value = .6
    assert ex.configs==[dict(type='dpo', strategy='temperature', pass_threshold=.6, min_margin=.15)]
    assert ex.write()['dpo.jsonl']<=ex.counts[0]['rows']

def test_a_threshold_that_cannot_be_is_refused_in_words(run):
    ex = Explorer(run)
    assert ex.ui
    was = ex.counts
    ex.pass_threshold = .3
    assert 'fail_threshold: 0.4 is not below pass_threshold 0.3' in ex.message
    assert 'is not below' in ex.widgets['note'].value and ex.counts==was
    ex.fail_threshold = .1
    assert ex.message=='' and ex.counts!=was

def test_lists_filter_sort_search_and_turn(run):
    ex = Explorer(run)
    ws = ex.ui and ex.widgets
    assert len(ws['prompts'].options)==12 and ws['place'].value=='1 to 12 of 40'
    ws['next'].click()
    ws['next'].click()
    ws['next'].click()
    ws['next'].click()
    assert ex.page==3 and ws['place'].value=='37 to 40 of 40' and ws['next'].disabled
    ws['show'].value = 'mixed'
    assert ex.page==0 and ex.table['total']==ex.table['counts']['mixed']
    assert f"mixed ({ex.table['total']})" in [o[0] for o in ws['show'].options]
    ws['sort'].value, ws['search'].value = '-rate', 'prompt 1'
    assert all('prompt 1' in r['text'] for r in ex.table['rows']) and ex.table['total']<ex.table['counts']['mixed']
    ws['search'].value = 'nothing like it'
    assert ws['prompts'].options==() and ws['place'].value=='none'

def test_a_click_opens_a_prompt_best_beside_worst(run):
    ex = Explorer(run)
    ws = ex.ui and ex.widgets
    assert ws['opened'].layout.display=='none'
    ws['prompts'].value = 2
    scores = {r['key']:r['score'] for r in ex.rollouts if r['score'] is not None}
    assert ws['opened'].layout.display=='' and 'q1' in ws['turns'].value
    assert scores[ex.left]==max(scores.values()) and scores[ex.right]==min(scores.values())
    ws['right'].value = other = next(k for k in scores if k not in (ex.left, ex.right))
    assert ex.right==other and f'#{next(r["idx"] for r in ex.rollouts if r["key"]==other)} ' in ws['right_view'].value
    ws['marks'].value = False
    assert '<del>' not in ws['left_view'].value
    ws['show'].value = 'never'
    assert ex.prompt==2   # stays open when the list no longer holds it
    ex.prompt = 1         # one without rollouts
    assert ex.rollouts==[] and 'no rollout' in ws['left_view'].value

def test_labels_and_pairs_are_kept_and_honoured(run):
    ex = Explorer(run)
    ws = ex.ui and ex.widgets
    ex.next_pair()
    pair = ex.pairs[0]
    assert (ex.left, ex.right)==(pair['chosen'], pair['rejected'])   # what is judged is what is shown
    def written():
        ex.run.format('dpo')
        st = Store(run.path, write=False)
        text = {k:full_text(separated(Rollout(t))) for k, t in st.db.execute('SELECT key, text FROM rollouts')}
        st.close()
        turn = prompt['prompt'].messages[-1]['content']
        row = next((r for r in read_jsonl(run.path/'train/dpo.jsonl') if r['conversations'][0]['value']==turn), None)
        return row and (row['chosen']['value'], row['rejected']['value']), text
    prompt = ex.opened
    row, text = written()
    assert row==(text[pair['chosen']], text[pair['rejected']])
    ws['swap'].click()
    assert written()[0]==row[::-1] and 'swapped' in ws['pair'].value and ex.pairs[0]['verdict']=='swap'
    ws['clear'].click()
    ws['reject'].click()
    assert written()[0]!=row
    reviews, answer = Explorer(run).scores.reviews, {r['key']:r['text'].strip() for r in ex.rollouts}
    assert reviews[pair['chosen'], pair['rejected']]=='reject'   # and of equal texts
    assert {(answer[a], answer[b], v) for (a, b), v in reviews.items()}=={
        (answer[pair['chosen']], answer[pair['rejected']], 'reject')}
    ws['left_label'].value = 'fail'
    st = Store(run.path, write=False)
    assert st.reviews()[ex.left, 0]=='fail'
    st.close()
    assert next(r for r in ex.rollouts if r['key']==ex.left)['label'] is False
    assert 'labelled fail' in ws['left_view'].value
    ws['left_label'].value = ''
    assert next(r for r in ex.rollouts if r['key']==ex.left)['label'] is None

def test_a_run_in_use_says_so_and_stays_readable(run):
    code = f'from rsr.data.store import Store; s = Store({str(run.path)!r}); print(1, flush=True); input()'
    held = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        held.stdout.readline()
        ex = Explorer(run)
        assert ex.ui
        ex.prompt = 2
        ex.review(ex.left, 'pass')
        assert f'in use by process {held.pid}' in ex.message and 'in use' in ex.widgets['note'].value
        assert ex.scores.reviews=={}
        assert not ex.write() and 'rsr copy' in ex.message and not (run.path/'train').exists()
    finally:
        held.communicate(b'\n')

def test_what_is_shown_reproduces_the_files(run, tmp_path):
    ex = Explorer(run)
    assert ex.ui
    ex.set(fail_threshold=None, min_margin=.3, pass_threshold=.6)
    ex.widgets['write'].click()
    files = {p.name:p.read_bytes() for p in (run.path/'train').glob('*.jsonl')}
    rows_written = {k:v.count(b'\n') for k, v in files.items()}
    assert rows_written=={k:n for k, n in ex.files.items() if n}
    assert rows_written=={w['file']:w['rows'] for w in ex.counts if w['rows']}
    assert html.escape(ex.yaml) in ex.widgets['written'].value
    assert html.escape(ex.command) in ex.widgets['written'].value
    for p in (run.path/'train').glob('*'):
        p.unlink()
    done = command(*shlex.split(ex.command)[1:])
    assert done.returncode==0, done.stderr
    assert {p.name:p.read_bytes() for p in (run.path/'train').glob('*.jsonl')}==files
    d = {**run.recipe, **yaml.safe_load(ex.yaml)}
    st = Store(run.path)
    write_formats(st, d, make_formatters(d['formatter']))
    st.close()
    assert {p.name:p.read_bytes() for p in (run.path/'train').glob('*.jsonl')}==files

def test_many_rollouts_are_read_in_the_background(run, monkeypatch):
    want = Explorer(run).counts
    monkeypatch.setattr(state, 'MOST_AT_ONCE', 10)
    ex = Explorer(run)
    assert ex.ui
    ex.thread.join(20)
    assert ex.counts==want and '≤' not in ex.widgets['counts'].value

@pytest.mark.parametrize('what', ['no rollouts', 'no scores'])
def test_runs_with_little_in_them(tmp_path, what):
    run = messy(tmp_path/'r', 5, 0 if what=='no rollouts' else 4)
    st = Store(run.path)
    st.begin().execute('DELETE FROM scores')
    st.close()
    ex = Explorer(run)
    assert ex.ui and [w['rows'] for w in ex.counts]==[0]*5 and ex.table['counts']['unscored']==5
    ex.prompt = 3
    ex.next_pair()
    ex.pass_threshold = .9
    assert ex.message=='' and ex.write()

def test_run_explore(run):
    assert isinstance(load_run(run.path).explore(), Explorer) and isinstance(explore(str(run.path)), Explorer)
    with pytest.raises(RsrError, match='no run here'):
        explore('nowhere')

def test_a_run_under_way_is_read_again(run):
    ex = Explorer(run)
    assert ex.ui
    ex.prompt = 2
    before, n = ex.counts, len(ex.rollouts)
    st = Store(run.path)
    for key in st.ask(2, range(8, 10), 3, 1, 64):
        st.answer(Rollout('One more.', outcome='kept', key=key))
        st.add_score(key, st.get('verifier'), Score(1.))
    st.close()
    ex.widgets['again'].click()
    assert len(ex.rollouts)==n+2 and ex.counts!=before and len(ex.scores.key)==290
    assert same(*told_and_written(run, RECIPE))

# ---- what is judged is what is shown

def pairs_said(run, annotator=None):
    "The pair reviews of the ledger."
    st = Store(run.path, write=False)
    try:
        return {pair:v for pair, v in st.reviews(annotator=annotator).items() if pair[1]}
    finally:
        st.close()

@pytest.fixture
def distinct(tmp_path):
    "A run in which hardly two texts are equal."
    return messy(tmp_path/'run', 20, texts=10**6)

def test_a_label_that_changes_the_pair_leaves_nothing_to_judge(distinct):
    ex = Explorer(distinct, 'anna')
    ws = ex.ui and ex.widgets
    ex.next_pair()
    two = ex.left, ex.right
    assert ws['show_pair'].layout.display=='none' and not ws['accept'].disabled
    ws['left_label'].value = 'fail'
    assert (ex.left, ex.right)==two and ex.pairs and ex.on_screen is None
    assert 'not what is shown' in ws['pair'].value and ws['show_pair'].layout.display==''
    assert all(ws[name].disabled for name in ('accept', 'swap', 'reject', 'clear'))
    for verdict in ('accept', 'swap', 'reject'):   # by a key that was pressed before the buttons went
        ex.open_prompt(keep=True)
        ex.left, ex.right = two
        ex.judge_pair(verdict)
        assert 'Not saved' in ex.message and pairs_said(distinct)=={} and ex.on_screen==ex.pairs[0]
    ws['swap'].click()   # now that it is on screen
    assert pairs_said(distinct)=={(ex.left, ex.right):'swap'} and ex.message==''

def test_nothing_that_is_labelled_fail_is_chosen(distinct):
    "Whatever was said of the pair before, and in whatever order."
    for formatters in (RECIPE, [dict(type='dpo', strategy='rubric_selection', pass_threshold=.8)]):
        configs = [dict(f, min_margin=.1) if f['type']=='dpo' else f for f in formatters]
        (distinct.path/'recipe.yaml').write_text(yaml.safe_dump(dict(Run(distinct.path).recipe, formatter=configs)))
        for verdict in ('accept', 'swap'):
            ex = Exploration(Run(distinct.path), 'anna')
            ex.next_pair()
            chosen, rejected = ex.left, ex.right
            ex.judge_pair(verdict)
            ex.review(rejected if verdict=='swap' else chosen, 'fail')
            labelled = {key for (key, other), v in ex.scores.reviews.items() if not other and v=='fail'}
            assert not labelled & {p['chosen_key'] for p in Run(distinct.path).pairs()}

def test_a_late_click_names_what_stood_beside_the_button(distinct):
    ex = Explorer(distinct, 'anna')
    ws = ex.ui and ex.widgets
    ex.next_pair()
    first, accept, label = (ex.left, ex.right), ws['accept'], ws['left_label']
    ex.next_pair()
    second = ex.left, ex.right
    assert first!=second and ws['accept'] is not accept
    accept.click()   # the page still showed the first pair
    assert pairs_said(distinct)=={first:'accept'} and (ex.left, ex.right)==second
    label.value = 'fail'
    assert ex.scores.own[first[0], 0]=='fail' and (second[0], 0) not in ex.scores.own

def test_a_stale_review_of_another_tab_is_refused_and_shown_anew(distinct):
    tabs = [Explorer(distinct, name) for name in ('anna', 'ben')]
    assert all(ex.ui for ex in tabs)
    tabs[0].next_pair()
    tabs[1].prompt = tabs[0].prompt
    chosen = tabs[0].left
    tabs[1].review(chosen, 'fail')
    tabs[0].widgets['accept'].click()
    assert 'is not a pair any more' in tabs[0].message and pairs_said(distinct)=={}
    assert tabs[0].on_screen==tabs[0].pairs[0] and 'Not saved' in tabs[0].widgets['note'].value
    assert {w['file']:w['rows'] for w in tabs[0].counts}=={w['file']:w['rows'] for w in tabs[1].counts}

def test_rollouts_that_came_meanwhile_make_a_review_stale(distinct):
    ex = Exploration(distinct, 'anna')
    ex.next_pair()
    st = Store(distinct.path)
    best, worst = st.ask(ex.prompt, [50, 51], 9, 1, 64)
    for key, score, text in (best, 1., 'the best'), (worst, 0., 'the worst'):
        st.answer(Rollout(text, outcome='kept', key=key))
        st.add_score(key, st.get('verifier'), Score(score))
    for r in ex.rollouts:   # the others leave the pair
        st.review(r['key'], 'fail', annotator='ben')
    st.close()
    ex.judge_pair('accept')
    assert 'not a pair any more' in ex.message and pairs_said(distinct)=={}
    assert ex.left==best

def test_a_label_that_could_not_be_saved_is_not_shown(distinct):
    ex = Explorer(distinct, 'anna')
    ws = ex.ui and ex.widgets
    ex.prompt = 2
    st = Store(distinct.path)
    try:
        ws['left_label'].value = 'pass'
        assert 'in use' in ex.message and ws['left_label'].value==''
    finally:
        st.close()

def test_next_and_previous_follow_the_list(run):
    ex = Explorer(run, 'anna')
    assert ex.ui
    seen = []
    for _ in range(14):
        ex.step()
        seen.append(ex.prompt)
    assert seen==ex.scores.prompts[:14].tolist() and ex.page==1
    ex.step(-1), ex.step(-1), ex.step(-1)
    assert ex.prompt==seen[10] and ex.page==0
    ex.show = 'never'
    first, second = [r['key'] for r in ex.table['rows']][:2]
    ex.prompt = None
    ex.step()
    assert ex.prompt==first
    ex.review(next(r['key'] for r in ex.rollouts if r['outcome']=='kept' and r['text']), 'pass')
    assert first not in [r['key'] for r in ex.table['rows']]
    ex.step()   # the label took the prompt off the list
    assert ex.prompt==second
    for _ in range(30):
        ex.step()
    assert 'last prompt' in ex.message

# ---- labels of several annotators, and of equal texts

def kept(ex):
    return [r for r in ex.rollouts if r['outcome']=='kept' and r['text'].strip()]

def twins(ex):
    "Two rollouts of some prompt that say the same; their prompt is opened."
    for key in ex.scores.prompts.tolist():
        ex.prompt, by_text = key, {}
        for r in kept(ex):
            if r['text'].strip() in by_text:
                return by_text[r['text'].strip()], r
            by_text[r['text'].strip()] = r

def test_a_label_holds_for_equal_texts_everywhere(run):
    ex = Exploration(run, 'anna')
    a, b = twins(ex)
    ex.review(a['key'], 'pass')
    assert {r['key']:r['label'] for r in ex.rollouts}[b['key']] is True
    ex.review(b['key'], 'fail')   # the same response: the later word holds
    assert all(r['label'] is False for r in ex.rollouts if r['text'].strip()==a['text'].strip())
    st = Store(run.path)
    late, = st.ask(ex.prompt, [50], 9, 1, 64)   # sampled after the label
    st.answer(Rollout(f'<think>something else</think>{a["text"]} ', outcome='kept', key=late))
    st.add_score(late, st.get('verifier'), Score(1.))
    st.close()
    assert run.rollouts.set_index('key').score[[a['key'], b['key'], late]].tolist()==[0., 0., 0.]
    assert run.stats()['labels']['responses']==1 and run.stats()['labels']['annotators']['anna']['labels']==1
    assert same(*told_and_written(run, RECIPE))
    ex.review(a['key'], None)
    assert 'labels' not in run.stats() and run.rollouts.set_index('key').score[late]==1.

def everything(run):
    "Label and review as three annotators; the explorer of the last."
    rng = random.Random(3)
    for name in ('anna', 'ben', 'carl'):
        st = Store(run.path)
        st.begin().execute('UPDATE rollouts SET blind=1')   # all are initial samples
        for key in rng.sample(range(1, 289), 120):
            st.review(key, rng.choice(['pass', 'fail']), annotator=name)
        st.close()
        ex = Exploration(run, name)
        for _ in range(5):
            ex.next_pair()
            ex.judge_pair(rng.choice(['accept', 'swap', 'reject']))
    return ex

def test_all_count_labels_alike(run):
    ex = everything(run)
    for decide in 'majority', 'ben':
        ex.decide_by(decide)
        labels_count_alike(run, decide)

def labels_count_alike(run, decide):
    ex = Exploration(run, 'carl')
    st = Store(run.path, write=False)
    by_prompt = [(p.id, r) for p, _, rs in st.walk(outcomes=('kept',)) for r in rs]
    walked, rates = {r.key:r for _, r in by_prompt}, initial_rates(st, .8)
    st.close()
    scored = [r.score for r in walked.values() if r.score is not None]
    frame = run.rollouts[run.rollouts.outcome=='kept']
    stats, figure, rows = run.stats(), scores_data(run), {r['key']:r for r in ex.table['rows']}
    passes = sum(passed(x, .8) for x in scored)
    assert sum(r.label is not None for r in walked.values())>80
    assert stats['scores']['passed']==figure['counts']['passed']==ex.histogram['total']['passed']+sum(
        passed(r.score, .8) for r in walked.values() if r.score is not None and not r.text.strip())==passes
    assert stats['scores']['unscored']==figure['counts']['unscored']==len(walked)-len(scored)==frame.score.isna().sum()
    assert rates and stats['pass_rate']['pooled']==pytest.approx(passes/len(scored))
    known = {k:r.score for k, r in walked.items() if r.score is not None}
    assert frame.set_index('key').score.dropna().to_dict()==known
    for id_, v in rates.items():
        own = [r.score for p, r in by_prompt if p==id_ and r.score is not None]
        assert v['rate']==pytest.approx(sum(passed(x, .8) for x in own)/len(own))
    for key in list(rows)[:6]:
        ex.prompt = key
        assert {r['key']:r['score'] for r in ex.rollouts if r['outcome']=='kept'}=={
            k:walked[k].score for k in (r['key'] for r in ex.rollouts) if k in walked}
    assert same(*told_and_written(run, RECIPE))
    labels = stats['labels']
    assert labels==ex.people and labels['decide']==decide
    assert labels['agreement']['labels']['annotators']==['anna', 'ben', 'carl']
    assert labels['agreement']['labels']['n']>=labels['agreement']['labels']['cases']>20
    line = next(line for line in run.summary().splitlines() if line.startswith('agreement'))
    assert f"{labels['agreement']['labels']['kappa']:.2f}" in line

def test_the_majority_or_one_decides(run):
    ex = {name:Exploration(run, name) for name in ('anna', 'ben', 'carl')}
    for e in ex.values():
        e.prompt = 2
    key = kept(ex['anna'])[0]['key']
    def holds():
        ex['anna'].open_prompt(keep=True)
        return next(r['label'] for r in ex['anna'].rollouts if r['key']==key)
    ex['anna'].review(key, 'pass')
    ex['ben'].review(key, 'fail')
    assert holds() is False             # a tie: the latest
    ex['carl'].review(key, 'pass')
    assert holds() is True
    done = command('format', run.path, 'labels.decide=ben')
    assert done.returncode==0, done.stderr
    assert holds() is False
    assert command('format', run.path).returncode==0
    assert holds() is False             # until something else is said
    wrong = command('format', run.path, 'labels.decide=bem')
    assert wrong.returncode==2 and "no annotator 'bem'" in wrong.stderr and "Did you mean 'ben'" in wrong.stderr
    ex['ben'].review(key, None)
    assert holds() is True              # where ben says nothing, the others decide

def test_each_annotator_reviews_every_pair(distinct):
    anna, ben = Exploration(distinct, 'anna'), Exploration(distinct, 'ben')
    anna.next_pair()
    anna.judge_pair('reject')
    ben.next_pair()
    assert ben.prompt==anna.prompt and ben.on_screen['votes']=={'anna':'reject'} and ben.scores.done.tolist()==[]
    if {ben.left, ben.right}!={anna.left, anna.right}:
        ben.left, ben.right = anna.left, anna.right
    ben.judge_pair('reject')
    assert pairs_said(distinct, 'anna')==pairs_said(distinct, 'ben')==pairs_said(distinct)!={}
    anna.next_pair()
    assert anna.prompt!=ben.prompt

def test_a_ledger_of_before_keeps_its_labels(run):
    "One annotator without a name; of two labels of one text the later rollout's holds, and that is said."
    ex = Exploration(run, 'anna')
    a, b = twins(ex)
    other = next(r for r in kept(ex) if r['text'].strip()!=a['text'].strip())
    st = Store(run.path)
    old = [(a['key'], 0, 'pass'), (b['key'], 0, 'fail'), (a['key'], other['key'], 'reject')]
    st.begin().executemany('INSERT INTO reviews VALUES(?,?,?)', old)
    st.close()
    st = Store(run.path, write=False)
    reviews = st.reviews()
    st.close()
    assert reviews[a['key'], 0]==reviews[b['key'], 0]=='fail' and reviews[b['key'], other['key']]=='reject'
    labels = run.stats()['labels']
    assert labels['annotators']=={'unnamed':dict(labels=1, pairs=1)} and labels['contradicted']==1
    assert 'the later one holds' in run.summary()
    ex.review(a['key'], 'pass')
    assert {r['key']:r['label'] for r in ex.rollouts}[b['key']] is True   # the latest
    assert list(run.stats()['labels']['annotators'])==['anna', 'unnamed']
    Exploration(run, 'unnamed').review(b['key'], None)
    assert run.stats()['labels']['annotators']['unnamed']['labels']==0

def test_names_of_annotators_are_text(tmp_path):
    run = messy(tmp_path/'run', 6)
    for name in HOSTILE:
        if not name.isprintable():
            with pytest.raises(RsrError, match='is not a name'):
                Exploration(run, name)
            continue
        ex = Explorer(run, name)
        ws = ex.ui and ex.widgets
        ex.next_pair()
        ex.review(ex.left, 'pass')
        ex.judge_pair('accept')
        page = ws['people'].value+ws['pair'].value+ws['left_view'].value
        assert not re.search(r'<(script|img|svg/|/pre)', page) and html.escape(name) in page
    for name in ('', ' ', 'majority', 'x'*61, 5):
        with pytest.raises(RsrError, match='annotator'):
            explore(run, name)

def test_a_rubric_of_functions_says_that_there_is_nothing_to_label(run):
    ex = Explorer(run)
    assert ex.ui and 'functions' not in ex.widgets['people'].value
    st = Store(run.path)
    st.put('verifier', st.config_key('verifier', dict(type='rubric', rubric=dict(criteria=[]), judges=[])))
    st.close()
    ex = Explorer(run)
    assert ex.ui and 'The rubric consists of functions' in ex.widgets['people'].value


# ---- conversations: tools, calls and results, images, thinking that was split off, refusals

def call(name, arguments, id_='call_0'):
    return dict(id=id_, type='function', function=dict(name=name, arguments=arguments))

def talking(path, evil=HOSTILE, **recipe):
    "A run in which names, arguments, results, images, tools and refusals are hostile texts."
    st = Store(path)
    for p in prompts_of(evil):
        p.metadata['answer'] = 'A'
    st.add_prompts((f'row {p.id}', p) for p in prompts_of(evil))
    st.begin().execute("UPDATE prompts SET row=replace(row,'https://here/','')")   # as paths: of images, or of none
    s, v = st.config_key('sampler', dict(model='m')), st.config_key('verifier', dict(type='v'))
    st.put('verifier', v)
    for q, *_ in list(st.walk()):
        for j, key in enumerate(st.ask(q.key, range(4), 1, s, 64)):
            x = evil[(q.key+j)%len(evil)]
            r = Rollout('' if j==0 else f'Answer {j} {x}', 'so '+x, outcome='kept', key=key)
            r.tool_calls, r.refusal = [call(x, x)] if j<2 else None, x if j==3 else ''
            st.answer(r)
            st.add_score(key, v, Score(float(j<2)))
    st.close()
    recipe = dict(sampler=dict(model='m', base_url='http://127.0.0.1:1/v1'), formatter=RECIPE[:1], **recipe)
    (Path(path)/'recipe.yaml').write_text(yaml.safe_dump(recipe))
    return Run(path)

def prompts_of(evil):
    for i, x in enumerate(evil):
        tool = dict(type='function', function=dict(name=x, description=x, parameters={x:x}))
        yield Prompt(f'q{i}', [
            dict(role='developer', content=x),
            dict(role='user', content=[dict(type='text', text=x), dict(type='image_url', image_url=dict(url='https://here/'+x)),
                                       dict(type='image_url', image_url=dict(url='https://example.org/'+x))]),
            dict(role='assistant', content=None, reasoning_content=x, tool_calls=[call(x, x, x)]),
            dict(role='tool', content=x, tool_call_id=x, name=x)], {x:x}, tools=[tool], request=dict(tool_choice=x))

def test_conversations_with_hostile_texts_are_texts(tmp_path):
    run = talking(tmp_path/'run')
    st = Store(run.path, write=False)
    for p, *_ in list(st.walk()):
        d = prompt_rollouts(st, p.key)
        x = HOSTILE[int(p.id[1:])]
        told = safe(prompt_html(d)).text
        assert told.count(safe(shown(x)).text)>9
        for r in d['rollouts']:
            safe(rollout_html(r))
            assert not re.search('[\u202e\x07]', rollout_line(r))
    st.close()
    page = Path(run.report()).read_text()
    t = Tags(page[page.index('<h2'):])
    assert not t.tags & {'script', 'svg', 'iframe', 'object'} and not {a for a in t.attrs if a.startswith('on')}
    assert not re.search('[\u202e\x07]|src="(?!data:image/)', page)

def test_a_conversation_is_shown_whole(tmp_path):
    image = tmp_path/'dot.png'
    image.write_bytes(b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ'
                                'RU5ErkJggg=='))
    run = talking(tmp_path/'run', ['plain words', str(image)])
    st = Store(run.path, write=False)
    seen = prompt_html(prompt_rollouts(st, 1))
    for text in ('developer', 'result of', '1 tool: plain words', 'calls', 'thinking', '[image] https://example'):
        assert text in seen, text
    assert seen.count('<img')==0 and prompt_html(prompt_rollouts(st, 2)).count('src="data:image/png;base64,')==1
    first, second, _, last = prompt_rollouts(st, 1)['rollouts']
    assert 'split off by the server' in rollout_html(first) and '>response<' not in rollout_html(first)
    assert 'calls' in rollout_html(second) and '>response<' in rollout_html(second)
    assert '>refusal<' in rollout_html(last)
    assert 'plain words(plain words)' in rollout_line(prompt_rollouts(st, 2)['rollouts'][0])
    row = prompt_table(st, read_scores(st))['rows'][0]
    assert 'plain words' in row['text'], 'the last question, not the result of a tool'
    st.close()

def test_responses_that_only_call_are_counted_apart_by_their_calls(tmp_path):
    run = talking(tmp_path/'run', ['x', 'y'])
    kto = [dict(type='kto', target='swift', pass_threshold=.8, fail_threshold=.4, positive_share=.5)]
    st = Store(run.path)
    st.begin().execute("UPDATE prompts SET row=json_remove(row,'$.messages[1].content[2]','$.messages[1].content[1]')")
    st.begin().execute("UPDATE prompts SET row=json_set(row,'$.messages[2].tool_calls[0].function.arguments','{}')")
    st.begin().execute("""UPDATE rollouts SET more=json_set(more,'$.tool_calls[0].function.arguments',
        '{"a":'||idx||'}') WHERE json_type(more,'$.tool_calls') IS NOT NULL""")
    st.commit()
    st.close()
    told, written = told_and_written(run, kto)
    assert same(told, written)==8


# ---- the board

def two_runs(tmp_path):
    return [messy(tmp_path/name, 20, seed=seed) for name, seed in (('one', 1), ('two', 2))]

def test_several_runs_are_matched_by_content(tmp_path):
    both = explore(two_runs(tmp_path), 'anna')
    both.board.choose(group='only 0')
    assert both.board.view['rows'] and both.board.step()
    solved = [any(r['score'] is not None and passed(r['score'], .8) for r in side.rollouts) for side in both.sides]
    assert solved==[True, False] and both.sides[0].opened['prompt'].id!=''

def test_runs_that_share_no_prompt_are_refused_at_the_shell(tmp_path, here):
    one, other = messy('a', 5), talking('b')
    for words, said in (([one.path, other.path], 'nothing to compare'), ([one.path, one.path], 'named twice'),
                        (['nowhere'], 'no run here')):
        p = command('explore', *map(str, words), 'browser=false')
        assert p.returncode==2 and ('anywidget' in p.stderr or said in p.stderr) and 'Traceback' not in p.stderr

def test_a_label_moves_the_pass_rates_of_the_board(tmp_path):
    ex = explore(messy(tmp_path/'r', 20), 'anna')
    ex.board.choose(group='never')
    n = ex.board.view['rows']
    assert ex.board.step()
    ex.review(ex.rollouts[0]['key'], 'pass')
    assert ex.board.view['rows']==n-1

def test_a_choice_that_cannot_be_is_refused_in_words(tmp_path):
    board = explore(messy(tmp_path/'r', 6), 'anna').board
    before = board.view
    class Front:
        def send(self, message):
            assert message['do']=='done'
    for values, said in ((dict(search='x'*10**5), '100,000 characters'), (dict(ranges=[1]), 'first bin'),
                         (dict(ranges=dict(score=['a', 1])), 'first bin'), (dict(group=5), 'not a text'),
                         (dict(by='x'), 'Allowed')):
        take_message(board, Front(), dict(do='choose', values=values))
        assert said in board.view['error'] and {**board.view, 'error':''}==before

def test_a_ledger_of_the_oldest_layout_is_explored_beside_a_new_one(tmp_path):
    old, new = two_runs(tmp_path)
    db = sqlite3.connect(old.path/'run.db')
    db.executescript('DROP INDEX rollouts_of_batch; DROP TABLE batches; ALTER TABLE calls DROP COLUMN batch;'
                     'ALTER TABLE rollouts DROP COLUMN batch; ALTER TABLE rollouts DROP COLUMN more;'
                     'PRAGMA user_version=2')
    db.close()
    both = explore([old, new], 'anna')
    both.board.choose(by='responses')
    assert both.board.rows(0, 5) and both.board.step() and all(side.rollouts for side in both.sides)

@pytest.mark.parametrize('outcome', ['failed', None])
def test_a_run_without_an_answer_beside_a_normal_one(tmp_path, outcome):
    one = messy(tmp_path/'one', 6)
    st = Store(tmp_path/'other')
    with closing(Store(one.path, write=False)) as first:
        st.add_prompts((f'row {p.id}', p) for p, *_ in list(first.walk()))
    for key in st.ask(1, range(2), 1, st.config_key('sampler', dict(model='m')), 64) if outcome else ():
        st.answer(Rollout('', outcome=outcome, key=key, error='HTTP 500'))
    st.close()
    (tmp_path/'other'/'recipe.yaml').write_bytes((one.path/'recipe.yaml').read_bytes())
    both = explore([one, Run(tmp_path/'other')], 'anna')
    assert both.ui and both.board.step()
    assert [len(side.scores.key)>0 for side in both.sides]==[True, bool(outcome)]
    json.dumps(both.board.view, allow_nan=False)

WRONG_FILTERS = ['scor < 1', 'score <', 'model == "x"', '__import__("os") == 1', 'score < 1 # x', 'é < scor']

@pytest.mark.parametrize('text', WRONG_FILTERS)
def test_a_wrong_filter_says_where_it_is_wrong_and_changes_nothing(tmp_path, text):
    board = explore(messy(tmp_path/'r', 6), 'anna').board
    left = board.view['total']
    board.choose(filter=text)
    assert board.view['error'].startswith('filter: ') and board.view['total']==left
