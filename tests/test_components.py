"Components of scores: `where` of a formatter, tables, statistics, the explorer and the report."
import json
import sqlite3
from pathlib import Path

import pytest
from conftest import read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback
from test_explore import same, told_and_written

import rsr as r

QUIET = dict(work_dir='run', progress=False)
RIGHT = r'\boxed{A}'

@pytest.fixture
def own(here):
    "The user's own functions: is it right, how short is it, and both at once."
    Path('mine.py').write_text('''
def right(response, metadata):
    return float('\\\\boxed{A}' in response)
def brief(response, metadata):
    return min(1, 60/max(1, len(response)))
def parts(response, metadata):
    right = float('\\\\boxed{A}' in response)
    return {'right':right, 'is brief':min(1, 60/max(1, len(response))), 'nothing':None}
''')
    return here

STAGES = [dict(type='mine.py:right'), dict(type='mine.py:brief', weight=0)]

def go(server, formatters, stages=STAGES, n=20, **more):
    d = dict(verifier=stages, formatter=formatters, sampling=dict(max_rollouts=12, step_size=1, max_steps=12))
    return r.sample(rows(n), d, base_url=server.base_url, **{**QUIET, **more})

def brevity(text):
    return min(1, 60/max(1, len(text)))

def table(sql):
    return sqlite3.connect('run/run.db').execute(sql).fetchall()

def answers(file):
    return [row['messages'][1]['content'] for row in read_jsonl(f'run/train/{file}.jsonl')]

# ---- where

def test_sampling_goes_on_until_each_file_has_what_it_needs_under_its_where(own):
    with Loopback(rate=.6, words=12) as s:
        plain = go(s, [dict(type='sft')], work_dir='plain')
        run = go(s, [dict(type='sft', where='brief > 0.7'), dict(type='sft', name='any')])
    assert run.stats()['samples']['asked']>plain.stats()['samples']['asked']
    short = answers('sft')
    assert short and all(brevity(t)> .7 for t in short) and len(answers('any'))>=len(short)
    satisfied = run.prompts[run.prompts.stop=='satisfied']
    df = run.rollouts
    good = df[(df.score==1)&(df.text.map(brevity)> .7)].groupby('prompt').size()
    assert set(satisfied.id)==set(good.index)
    for _, of in df.groupby('prompt'):            # no sample is bought behind the first that fulfils it
        fits = (of.score==1)&(of.text.map(brevity)> .7)
        assert not fits.iloc[:-1].any()
    why = run.stats()['rows']['sft.jsonl'].get('without_row', {})
    assert sum(why.values())==20-len(short) and set(why)<={'none passed', 'where is false for all that passed'}
    assert 'where is false' not in str(why) or 'loosen formatter.where' in run.summary()

def test_a_resume_knows_what_counts(own):
    with Loopback(rate=.6, words=12) as s:
        first = go(s, [dict(type='sft')], n=10)
        n = first.stats()['samples']['asked']
        assert len(answers('sft'))==10
        again = go(s, [dict(type='sft', where='brief > 0.7')], n=10)
        more = again.stats()['samples']['asked']
        assert more>n                                                # prompts that lacked a short one were reopened
        assert all(brevity(t)> .7 for t in answers('sft'))
        go(s, [dict(type='sft', where='brief > 0.7')], n=10)
        assert again.stats()['samples']['asked']==more               # nothing is bought twice
        loose = go(s, [dict(type='sft', where='brief > 0.01')], n=10)
        assert loose.stats()['samples']['asked']==more and len(answers('sft'))==10

def test_what_passes_without_where_is_neither_chosen_nor_rejected(own):
    with Loopback(rate=.5, words=12) as s:
        formatters = [dict(type=t, where='brief > 0.7', fail_threshold=None) for t in ('dpo', 'kto')]
        go(s, formatters, n=30)
    pairs = read_jsonl('run/train/dpo.jsonl')
    assert pairs
    for row in pairs:
        chosen, rejected = row['chosen']['value'], row['rejected']['value']
        assert RIGHT in chosen and brevity(chosen)> .7 and RIGHT not in rejected
    labelled = read_jsonl('run/train/kto.jsonl')
    assert all(row['label']==(RIGHT in row['completion']) for row in labelled)
    assert all(brevity(row['completion'])> .7 for row in labelled if row['label'])
    assert {row['label'] for row in labelled}=={True, False}
    assert any(brevity(row['completion'])< .7 for row in labelled)     # those that fail need not fulfil it

def test_a_label_decides_alone(own):
    with Loopback(rate=1., words=30) as s:
        run = go(s, [dict(type='sft', where='brief > 2')], n=3)
        assert not run.stats()['rows']['sft.jsonl']['rows']
        run.label('q1', 0, 'pass')
        assert run.format()=={'sft.jsonl':1}
        n = run.stats()['samples']['asked']
        go(s, [dict(type='sft', where='brief > 2')], n=3)
        assert run.stats()['samples']['asked']==n

@pytest.mark.parametrize('seed', [1, 2, 3])
def test_the_explorer_tells_what_is_written(own, seed):
    with Loopback(rate=.5, words=12, seed=seed) as s:
        run = go(s, [dict(type='grpo', band=[0, 1])], n=40)
    run.label('q3', 0, 'pass')
    run.label('q4', 1, 'fail')
    where = 'brief > 0.7 or score < 1'
    for at in (1., .5):
        configs = [dict(type=t, where=where, pass_threshold=at, **more) for t, more in
                   (('sft', {}), ('dpo', {}), ('kto', {}), ('multi_sft', dict(min_responses=2)),
                    ('grpo', dict(band=[0, 1])))]
        configs += [dict(type='dpo', name='plain', max_pairs_per_prompt=3),
                    dict(type='kto', name='strip', thinking='strip', where='not brief > 0.7')]
        assert same(*told_and_written(run, configs))>60
    told, _ = told_and_written(run, configs, read=False)
    assert not told['sft.jsonl']['exact'] and told['plain.jsonl']['file']=='plain.jsonl'

def test_a_function_may_name_components_and_a_wrong_one_is_a_reason(own, server):
    run = go(server, [dict(type='sft', where="right >= 1 and 'is brief' > 0.1", pass_threshold=.1)], 'mine.py:parts')
    assert answers('sft') and all(RIGHT in t for t in answers('sft'))
    run.format(where='styel > 0.5')
    assert not run.file_counts['sft.jsonl']['rows']
    assert "where is false for all that passed (no component 'styel')" in run.summary()

@pytest.mark.parametrize('where, text', [
    ('brif > 0.5', "no component 'brif'. Did you mean 'brief'?"), ('brief >', 'it cannot be read'),
    ('brief = 1', 'equality is written =='), ('brief', 'is compared with nothing'),
    ('brief + 1 > 2', 'neither a component'),
    ('__import__("os").system("touch pwned") > 0', 'neither a component nor a number'), ('[1]', 'is not a condition'),
    ('5', 'is not a condition'), ('brief > 1 '*100, 'at most 500')])
def test_a_wrong_condition_ends_before_anything_is_sampled(own, server, where, text):
    write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=run',
            'verifier=[{type: mine.py:right}, {type: mine.py:brief}]', f'formatter.where={where}')
    assert p.returncode==2 and text in p.stderr and 'formatter' in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert not server.log and not Path('run').exists() and not Path('pwned').exists()

def test_the_command_line_takes_where_and_rewrites_files_with_another(own):
    write_jsonl('in.jsonl', rows(12))
    with Loopback(rate=.6, words=12) as s:
        p = rsr('run', 'sft', 'in.jsonl', f'sampler.base_url={s.base_url}', 'work_dir=run',
                'verifier=[{type: mine.py:right}, {type: mine.py:brief, weight: 0}]', 'formatter.where=brief > 0.6')
    assert p.returncode==0, p.stderr
    assert all(brevity(t)>.6 for t in answers('sft'))
    p = rsr('format', 'run', 'formatter.where=brief > 0.75')
    assert p.returncode==0 and all(brevity(t)> .75 for t in answers('sft')), p.stderr
    p = rsr('format', 'run', 'formatter.where=brevity > 0.75')
    assert p.returncode==2 and "no component 'brevity'" in p.stderr and 'Traceback' not in p.stderr
    p = rsr('format', 'run', 'formatter.where=null')
    assert p.returncode==0 and len(answers('sft'))>0, p.stderr

# ---- tables and statistics

def letters(body):
    "A judge of letters that reads the option off the text, as the letter judge asks."
    messages = body['messages']
    if 'You read which option' not in messages[0]['content']:
        return None
    shown = messages[-1]['content'].split('The response:')[1]
    return 'It says so.\nANSWER: '+('A' if RIGHT in shown else 'NONE')

CASCADE = [dict(type='mcq-rlvr', name='rule'), dict(type='mine.py:brief', weight=0, pass_threshold=0)]

def cascade(s, **more):
    judge = dict(type='mcq-llm-as-judge', name='judge', when='failed', base_url=s.base_url, model='j',
                 price=dict(prompt=1, completion=1))
    return go(s, [dict(type='sft')], [*CASCADE, judge], price=dict(prompt=1, completion=1), **more)

def test_scores_have_a_column_for_each_component(own):
    with Loopback(rate=.5, words=12, reply=letters) as s:
        go(s, [dict(type='sft')], 'mine.py:brief', n=6)        # a stage of the stack is the run's verifier at first
        run = cascade(s, n=6)
    df = run.scores
    assert len(df)==run.stats()['samples']['asked']==df.key.nunique()
    assert df.verifier.map(lambda c: json.loads(c)['type']).unique().tolist()==['stack']
    assert {'rule', 'brief', 'judge', 'decided'}<={*df.columns} and df.brief.notna().all()
    assert (df.judge.isna()==(df.rule==1)).all() and df.judge.isna().any() and df.judge.notna().any()
    joined = run.rollouts.merge(df[['key', 'brief']], on='key')
    assert joined.brief.tolist()==pytest.approx(joined.text.map(brevity).tolist())

def test_back_to_a_stage_alone_its_rows_are_shown(own, server):
    go(server, [dict(type='sft')], n=3)
    df = go(server, [dict(type='sft')], 'mine.py:right', n=3).scores
    kinds = df.verifier.map(lambda c: json.loads(c)['type'])
    assert (kinds!='stack').sum()==(kinds=='stack').sum()==df.key.nunique()
    assert df[kinds!='stack'].brief.isna().all() and df[kinds=='stack'].brief.notna().all()

def test_a_component_whose_name_is_taken_gets_another_column(own, server):
    Path('odd.py').write_text('def f(response, metadata):\n'
                              "    return {'answer':1, 'decided':0, 'prompt':.5, 'fine':1}\n")
    df = go(server, [dict(type='sft', pass_threshold=.1)], 'odd.py:f', n=2).scores
    assert {'component answer', 'component prompt', 'component decided', 'fine', 'decided'}<={*df.columns}
    assert df['component answer'].eq(1).all() and df.decided.isna().all() and df.answer.isna().all()

def test_statistics_count_each_stage_and_what_it_cost(own):
    with Loopback(rate=.5, words=12, reply=letters) as s:
        run = cascade(s)
        asked = [e for e in s.log if 'You read which option' in e['body']['messages'][0]['content']]
    c = run.stats()['components']
    df, parts = run.scores, c['components']
    assert list(parts)==['rule', 'brief', 'judge'] and c['verdicts']==len(df)
    assert parts['rule']['ran']==len(df) and parts['rule']['passed']==(df.rule==1).sum()
    assert parts['judge']['ran']==parts['judge']['calls']==len(asked)==df.judge.notna().sum()
    assert [parts[k]['decided'] for k in parts]==[(df.decided==k).sum() for k in parts]
    assert sum(parts[k]['decided'] for k in parts)+c['together']==c['verdicts']
    assert parts['judge']['tokens']==run.stats()['tokens']['judge']>0
    assert parts['judge']['cost']==pytest.approx(parts['judge']['tokens']/1e6) and 'cost' not in parts['rule']
    assert json.loads(Path('run/summary/stats.json').read_text())['components']==c
    p = rsr('stats', 'run')
    head = next(line for line in p.stdout.splitlines() if line.startswith('component '))
    assert head.split()[:7]==['component', 'ran', 'passed', 'failed', 'unscored', 'mean', 'decided']
    assert 'US dollars' in head
    assert any(line.startswith('judge ') for line in p.stdout.splitlines())
    assert json.loads(rsr('stats', 'run', 'json=true').stdout)['components']==c

def test_a_run_without_components_says_nothing_of_them(own, server):
    run = go(server, [dict(type='sft')], 'mcq-rlvr', n=2)
    assert 'components' not in run.stats() and 'component ' not in run.summary()
    assert not {'decided'} & {*run.scores.columns}

def test_where_goes_with_thresholds_by_quantile(own):
    "Of the best of a prompt, those that are right; of the best of the run, too."
    with Loopback(rate=.5, words=12) as s:
        run = go(s, [dict(type='sft')], [dict(type='mine.py:brief'), dict(type='mine.py:right', weight=0)], n=8,
                 sampling=dict(max_rollouts=8, step_size=8, early_stop=False))
    assert len(run.rollouts)==64
    for of in ('prompt', 'run'):
        limit = dict(quantile=.5, of=of)
        run.format('sft', pass_threshold=limit, where='right >= 1')
        run.format('kto', pass_threshold=limit, where='right >= 1', fail_threshold=None)
        df = run.rollouts
        best = df.groupby('prompt').score.transform(lambda x: x.sort_values().iloc[4]) if of=='prompt' else \
            df.score.sort_values().iloc[32]
        good = df[(df.score>=best-1e-9)&df.text.str.contains(RIGHT, regex=False)]
        assert {row['completion'] for row in read_jsonl('run/train/kto.jsonl') if row['label']}<={*good.text}
        assert len(read_jsonl('run/train/sft.jsonl'))==good.prompt.nunique()

# ---- what looks at details: checklist, comparison, report, labels

RUBRIC = '''
name: brief_and_right
categories: {content: 0.7, form: 0.3}
criteria:
  - {id: answer, category: content, function: 'checks.py:right', weight: 2}
  - {id: decided, category: form, function: 'checks.py:brief'}
'''

def test_a_rubric_in_a_stack_is_read_by_everything_that_reads_rubrics(own):
    "Its criteria are named as what a stack has beside them."
    from rsr.explore.breakdown_figures import components_data, criteria_data
    from rsr.quality.checklist import checklist
    from rsr.quality.compare import compare
    from rsr.quality.report import report_html
    Path('rubric.yaml').write_text(RUBRIC)
    Path('checks.py').write_text('def right(prompt, response):\n    return "boxed{A}" in response\n'
                                 'def brief(prompt, response):\n    return len(response)<90\n')
    with Loopback(rate=.5, words=12) as s:
        judged = dict(rubric='rubric.yaml', name='judged', pass_threshold=.5)
        stack = [dict(type='mine.py:right', name='answer'), judged]
        run = go(s, [dict(type='sft', pass_threshold=.8, where='judged >= 1')], stack)
        other = go(s, [dict(type='sft', pass_threshold=.8)], [stack[0], dict(type='mine.py:brief')], work_dir='other')
        alone = go(s, [dict(type='sft')], dict(type='rubric', rubric='rubric.yaml'), work_dir='alone')
    assert all(len(t)<90 and RIGHT in t for t in answers('sft')) and answers('sft')
    assert criteria_data(run)['criteria']==criteria_data(alone)['criteria']
    assert {c['name'] for c in components_data(run)['components']}=={'answer', 'judged'}
    assert criteria_data(other)['why'] and components_data(alone)['why']
    for r_ in (run, other, alone):
        assert checklist(r_)['items'] and '<h2' in report_html(r_)
    assert compare(run, other) and compare(run, alone) and compare(other, run)
    p = rsr('compare', 'run', 'other')
    assert p.returncode==0 and 'Traceback' not in p.stderr+p.stdout, p.stderr
    assert 'judged' in p.stdout and 'brief' in p.stdout

def test_the_checklist_validates_the_rubric_of_a_stack(own):
    "Its verdicts are in the ledger; labels that agree pass, and those of another rubric do not count."
    from test_rubric_run import judge

    from rsr.quality.checklist import checklist
    judged = [dict(id=i, category='content', question=f'Is it {i}?') for i in ('right', 'kind')]
    Path('rubric.yaml').write_text(json.dumps(dict(name='judged', categories=dict(content=1), criteria=judged)))
    Path('functions.yaml').write_text(RUBRIC)
    Path('checks.py').write_text('def right(prompt, response):\n    return True\nbrief = right\n')
    def item(run, **options):
        return next(i for i in checklist(run, **options)['items'] if i['item']=='rubric validated')
    with Loopback(rate=.5, words=12, reply=judge) as s:
        rubric = dict(rubric='rubric.yaml', name='judged', base_url=s.base_url, model='j')
        functions = dict(rubric='functions.yaml', name='counted')
        run = go(s, [dict(type='sft')], [STAGES[0], functions, rubric], n=40)
        other = go(s, [dict(type='sft')], [STAGES[0], functions], n=3, work_dir='other')
        none = go(s, [dict(type='sft')], STAGES, n=3, work_dir='none')
    assert item(none)['detail']=='no stage of the verifier is a rubric (right, brief)'
    assert item(other)['detail']=='every criterion of the rubric is a function'
    assert item(run)['verdict']=='fail' and 'n = 0' in item(run)['detail']
    asked = {row['id']:row['messages'] for row in rows(40)}
    found = [(row.prompt, row.text, json.loads(d)['components']['judged']['detail'])
             for row, d in zip(run.rollouts.itertuples(), details(run))]
    labels = [dict(messages=asked[p], response=text, labels={k:v['answer'] for k, v in said.items()})
              for p, text, said in found][:60]
    assert len(labels)==60
    agreed = item(run, labels=labels)
    assert agreed['verdict']=='pass' and 'on 60 labelled responses' in agreed['detail']
    turned = [{**x, 'labels':{k:dict(YES='NO', NO='YES')[v] for k, v in x['labels'].items()}} for x in labels]
    assert item(run, labels=turned)['verdict']=='fail'

def details(run):
    "The details of the current verifier's scores, in the order of `run.rollouts`."
    sql = """SELECT s.detail FROM rollouts r JOIN scores s ON s.rollout=r.key
             WHERE s.verifier=(SELECT value FROM meta WHERE key='verifier') ORDER BY r.prompt, r.idx"""
    return [d for d, in sqlite3.connect(run.path/'run.db').execute(sql)]

def test_labels_count_in_place_of_the_stack(own):
    with Loopback(rate=.5, words=12) as s:
        run = go(s, [dict(type='sft')], n=4)
    first = run.rollouts.iloc[0]
    run.label(first.prompt, int(first.idx), 'fail' if first.score else 'pass')
    assert run.rollouts.iloc[0].score==1-first.score
    assert run.scores.iloc[0].score==first.score and run.scores.iloc[0].right==first.score   # as given
    parts = run.stats()['components']['components']
    assert parts['right']['passed']==run.scores.right.sum()

HOSTILE = '<script>window.hacked=1</script><img src=x onerror=alert(1)>\u202e$\\frac{'

def test_hostile_names_and_reasons_are_text(own, server):
    Path('evil.py').write_text(f"""from rsr.data.types import Score
def reasons(response, metadata):
    return Score(1., {HOSTILE!r}, {HOSTILE!r})
def names(response, metadata):
    return {{{HOSTILE!r}: 1, 'x'*3000: .5, '': 0, 'a\\nb\\x1b[31m': 1}}
""")
    from rsr.quality.report import report_html
    for verifier in ('evil.py:names', [dict(type='evil.py:reasons', name='evil'), 'mine.py:brief']):
        run = go(server, [dict(type='sft', pass_threshold=.1)], verifier, n=2, work_dir=f'run{len(verifier)}')
        html = report_html(run)
        assert '<script' not in html and '<img src=x' not in html and '\u202e' not in html and '\x1b' not in html
        assert html.count('<th>component</th>')==1 and 'component  ' not in html, 'a table of components, once'
        p = rsr('stats', str(run.path))
        assert p.returncode==0 and '\x1b' not in p.stdout and '\u202e' not in p.stdout
        assert max(map(len, p.stdout.splitlines()))<400
        assert not run.scores.empty

def test_the_chosen_side_of_a_strategy_goes_by_where(own):
    "The first loop samples until a response fulfils it; the second pairs that one."
    with Loopback(rate=.7, words=12) as s:
        d = dict(verifier=STAGES, pairs=dict(strategy='strong_vs_weak', strong=dict(model='a'), weak=dict(model='b')),
                 formatter=[dict(type='dpo', where='brief > 0.7', min_margin=.15)],
                 sampling=dict(max_rollouts=10, step_size=1, max_steps=10))
        run = r.sample(rows(12), d, base_url=s.base_url, **QUIET)
    pairs = run.pairs()
    assert pairs and all(RIGHT in p['chosen'] and brevity(p['chosen'])>.7 for p in pairs)
    df = run.rollouts
    chosen = df[df.side=='chosen']
    fits = (chosen.score==1)&(chosen.text.map(brevity)>.7)
    assert len(chosen)>12 and fits.groupby(chosen.prompt).sum().le(1).all()

def test_groups_score_again_and_what_counts_follows(own):
    with Loopback(rate=.8, words=12) as s:
        stack = [dict(type='majority', answer='mcq-rlvr', min_votes=4),
                 dict(type='mine.py:brief', weight=0, when='passed')]
        run = go(s, [dict(type='sft', where='brief > 0.6')], stack, n=8, sampling=dict(max_rollouts=8, step_size=4))
        n = run.stats()['samples']['asked']
        assert all(brevity(t)>.6 for t in answers('sft')) and answers('sft')
        go(s, [dict(type='sft', where='brief > 0.6')], stack, n=8, sampling=dict(max_rollouts=8, step_size=4))
    assert run.stats()['samples']['asked']==n

# ---- the explorer

def explored(run):
    from rsr.explore.widget import Explorer as explore  # as it is without a board
    return explore(run, annotator='anna')

def column(run, name):
    "The values of a component as `run.scores` gives them for the current verifier's valid rollouts."
    df = run.scores
    return df[df.key.isin(run.rollouts[run.rollouts.outcome=='kept'].key)][name]

def test_the_explorer_shows_how_each_component_is_spread(own):
    Path('reward.py').write_text('import math\nfrom rsr.data.types import Score\n'
                                 'def raw(response, metadata):\n    return None if len(response)%5==0 else '
                                 "Score(1/len(response))\n")
    with Loopback(rate=.5, words=12, reply=letters) as s:
        judge = dict(type='mcq-llm-as-judge', name='judge', when='failed', base_url=s.base_url, model='j')
        stack = [*CASCADE, dict(type='reward.py:raw', name='raw', weight=0, on_unscored='skip'), judge]
        run = go(s, [dict(type='sft')], stack)
    ex = explored(run)
    assert [c['name'] for c in ex.components]==['rule', 'brief', 'raw', 'judge']
    for c in ex.components:
        known = column(run, c['name']).dropna()
        assert c['scored']==len(known)>0 and c['mean']==pytest.approx(known.mean())
        assert (c['lo'], c['hi'])==((known.min(), known.max()) if known.min()<known.max() else (0, 1))
        tenth = (known-c['lo'])/(c['hi']-c['lo'])*10+1e-9
        assert c['bins']==[int((tenth.clip(0, 9.5)//1==i).sum()) for i in range(10)]
    raw, judged = ex.components[2], ex.components[3]
    assert raw['ran']-raw['scored']==column(run, 'raw').isna().sum()>0
    assert judged['ran']<raw['ran']==len(column(run, 'rule'))
    html = ex.ui and ex.widgets['parts'].value
    assert html.count('<svg role="img" aria-label="Histogram of ')==4 and ex.widgets['parts'].layout.display==''
    assert f"Histogram of raw: {raw['scored']:,} scored, {raw['ran']-raw['scored']} unscored, mean " in html
    ex.pass_threshold = .5
    assert ex.widgets['parts'].value==html          # no threshold changes it

def test_the_explorer_reads_components_again(own):
    with Loopback(rate=.5, words=12) as s:
        run = go(s, [dict(type='sft')], n=4)
        ex, more = explored(run), [dict(type='mine.py:right'), dict(type='mine.py:brief', name='short', weight=0)]
        before = ex.ui and ex.widgets['parts'].value
        go(s, [dict(type='sft')], more, n=4)
        assert 'Histogram of brief' in before and ex.widgets['parts'].value==before
        ex.reload()
        assert 'Histogram of short' in ex.widgets['parts'].value and 'brief' not in ex.widgets['parts'].value
        go(s, [dict(type='sft')], 'mcq-rlvr', n=4)
        ex.reload()
    assert ex.components==[] and ex.widgets['parts'].value=='' and ex.widgets['parts'].layout.display=='none'

def test_the_explorer_shows_nothing_for_runs_without_components(own, server):
    for verifier in ('mcq-rlvr', dict(type='rubric', rubric='rubric.yaml')):
        Path('rubric.yaml').write_text(RUBRIC.replace('id: answer', 'id: components'))
        Path('checks.py').write_text('def right(prompt, response):\n    return True\nbrief = right\n')
        ex = explored(go(server, [dict(type='sft')], verifier, n=2, work_dir=f'run{len(verifier)}'))
        assert ex.components==[] and ex.ui and ex.widgets['parts'].value==''
        assert ex.widgets['parts'].layout.display=='none'

def test_names_of_components_are_text_in_the_explorer(own, server):
    Path('evil.py').write_text(f"""def names(response, metadata):
    return {{{HOSTILE!r}: 1, '" onload="alert(1)': .25, 'x'*3000: .5, '': 0, 'a\\nb\\x1b[31m': 1,
            **{{f'n{{i}}':i/40 for i in range(40)}}}}
""")
    ex = explored(go(server, [dict(type='sft', pass_threshold=.1)], 'evil.py:names', n=2))
    html = ex.ui and ex.widgets['parts'].value
    assert '<script' not in html and '<img' not in html and '\u202e' not in html and '\x1b' not in html
    assert '" onload' not in html and '&quot; onload=&quot;alert(1)' in html and '&lt;script&gt;' in html
    assert 'x'*41 not in html and 'xxx…' in html and '(no name)' in html
    assert html.count('<svg')==12 and 'and 18 more components' in html and len(ex.components)==30

def test_details_of_another_form_have_no_components(own, server):
    from rsr.data.component_summary import component_bins
    from rsr.data.store import Store
    run = go(server, [dict(type='sft')], n=3)
    low, high = {'a':{'value':-1e308}, 'b':{'value':'high'}, 'c':5, 'd':{'value':0.}}, {'a':{'value':1e308}}
    other = [{'components':low}, {'components':{**high, 'd':{'value':5e-324}}}, {'components':[1]}, [1], 5, None]
    st = Store(run.path)
    keys = [k for k, in st.db.execute('SELECT rollout FROM scores WHERE verifier=?', (st.get('verifier'),))]
    details = (other*len(keys))[:len(keys)]
    with st.db:
        st.db.executemany('UPDATE scores SET detail=? WHERE rollout=?', zip(map(json.dumps, details), keys))
    found = {c['name']:c for c in component_bins(st)}
    st.close()
    assert (found['a']['lo'], found['a']['hi'])==(-1e308, 1e308) and found['a']['bins'][0]>0<found['a']['bins'][9]
    assert found['d']['bins'][0]>0<found['d']['bins'][9]
    assert found['b']['scored']==0<found['b']['ran'] and 'c' not in found and found['right']['ran']==0
    assert explored(run).ui
