"Stacks of verifiers in runs: components in the ledger, cascades, gates, groups, costs, and what a wrong recipe says."
import json
import sqlite3
import subprocess
from pathlib import Path

import pytest
from conftest import RSR, read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback
from test_crash import wait_for

import rsr as r
from rsr.data.types import RsrError, components
from rsr.run.recipe import load_recipe

QUIET = dict(work_dir='run', progress=False)
FORMATTER = dict(type='sft', pass_threshold=.5)

def table(sql):
    return sqlite3.connect('run/run.db').execute(sql).fetchall()

def details():
    "The details of the scores of the stack, by rollout."
    key, = next(iter(table("SELECT value FROM meta WHERE key='verifier'")))
    return {k: json.loads(d) for k, d in table(f'SELECT rollout, detail FROM scores WHERE verifier={key}')}

def said(body):
    "A judge of letters that reads the option off the text, as the letter judge asks."
    messages = body['messages']
    if 'You read which option' not in messages[0]['content']:
        return None
    shown = messages[-1]['content'].split('The response:')[1]
    return 'It says so.\nANSWER: '+('A' if r'\boxed{A}' in shown or 'the first' in shown else 'NONE')

@pytest.fixture
def own(here):
    "A file of the user's own functions, which note each call."
    Path('mine.py').write_text('''
def note(name):
    open(name, 'a').write('.')
def right(response, metadata):
    note('right')
    return float('\\\\boxed{A}' in response)
def short(response, metadata, most=200):
    note('short')
    return min(1, most/max(1, len(response)))
def parts(response, metadata):
    return dict(right=float('\\\\boxed{A}' in response), short=.5, nothing=None)
def fails(response, metadata):
    return None
''')
    return here

def calls(name):
    return len(Path(name).read_text()) if Path(name).exists() else 0

def go(server, stages, n=6, **more):
    d = dict(verifier=stages, formatter=[FORMATTER], sampling=dict(max_rollouts=4, step_size=4, max_steps=1))
    return r.sample(rows(n), d, base_url=server.base_url, **{**QUIET, **more})

def test_components_are_in_the_ledger_and_one_changed_stage_is_scored_alone(own, server):
    stages = [dict(type='mine.py:right', weight=3), dict(type='mine.py:short')]
    run = go(server, stages)
    n = run.stats()['samples']['asked']
    assert calls('right')==calls('short')==n and n>=6
    assert all(components(d).keys()=={'right', 'short'} for d in details().values())
    for rollout, d in details().items():
        parts = components(d)
        (value,), = table(f"SELECT value FROM scores WHERE rollout={rollout} AND detail IS NOT NULL")
        assert value==pytest.approx((3*parts['right']+parts['short'])/4)
    go(server, [dict(stages[0], weight=1), stages[1]])                 # other weights: nothing runs again
    assert (calls('right'), calls('short'))==(n, n)
    again = go(server, [stages[0], dict(stages[1], most=100)])         # one stage changed: that one runs
    assert calls('right')==again.stats()['samples']['asked'] and calls('short')>=2*n
    assert again.stats()['samples']['asked']>=n

def test_a_stage_alone_before_is_not_scored_again_in_a_stack(own, server):
    go(server, 'mine.py:right')
    n = calls('right')
    run = go(server, ['mine.py:right', 'mine.py:short'])
    assert calls('right')==run.stats()['samples']['asked']>=n

def test_a_gate_makes_the_score_zero_and_saves_what_comes_behind_it(own, server):
    run = go(server, [dict(type='mine.py:right', gate=True, weight=0), 'mine.py:short'])
    n = run.stats()['samples']['asked']
    failed = [d for d in details().values() if d['components']['right']['value']==0]
    assert failed and all(list(d['components'])==['right'] and d['decided']=='right' for d in failed)
    assert calls('short')==n-len(failed)
    assert {v for v, in table("SELECT value FROM scores WHERE detail LIKE '%\"decided\":\"right\"%'")}=={0.0}

def test_a_cascade_asks_the_judge_only_about_what_the_rule_rejected(here):
    with Loopback(reply=said, rate=.5) as s:
        judge = dict(type='mcq-llm-as-judge', when='failed', base_url=s.base_url, model='j', name='judge')
        run = go(s, ['mcq-rlvr', judge])
        asked = [e for e in s.log if 'You read which option' in e['body']['messages'][0]['content']]
        decided = [d['decided'] for d in details().values()]
        assert len(asked)==decided.count('judge')>0 and decided.count('mcq_rlvr')>0
        assert run.stats()['scores']['unscored']==0
        config = [json.loads(c) for c, in table("SELECT config FROM configs WHERE kind='judge'")]
        assert [c['stage'] for c in config]==['judge']                 # calls can be counted per stage
        n = len(s.log)
        go(s, ['mcq-rlvr', {**judge, 'weight':2}])
        assert len(s.log)==n                                           # no verdict is paid for twice

def test_a_judge_that_is_down_leaves_the_whole_unscored_or_is_skipped(here):
    with Loopback(reply=said, rate=.5) as s, Loopback(reply=lambda body: 'I would rather not.') as down:
        judge = dict(type='mcq-llm-as-judge', when='failed', base_url=down.base_url, model='j', name='judge')
        run = go(s, ['mcq-rlvr', judge], n=2)
        assert run.stats()['scores']['unscored']>0
        why = {w for w, in table("SELECT reason FROM scores WHERE value IS NULL AND detail LIKE '%components%'")}
        assert why and all(w.startswith('judge: judge: no verdict') for w in why)
        run = go(s, ['mcq-rlvr', {**judge, 'on_unscored':'skip'}], n=2)
        assert run.stats()['scores']['unscored']==0

def test_metadata_names_the_stages_of_a_row(own, server):
    write_jsonl('in.jsonl', [{**row, 'metadata':{**row['metadata'], 'verifier':name}}
                             for row, name in zip(rows(4), ['right', ['short'], ['right', 'short'], 'shirt'])])
    d = dict(verifier=['mine.py:right', 'mine.py:short'], formatter=[FORMATTER], sampling=dict(max_rollouts=1))
    run = r.sample('in.jsonl', d, base_url=server.base_url, **QUIET)
    ran = sorted(sorted(d['components']) for d in details().values())
    assert ran==[['right'], ['right', 'short'], ['short']]
    assert run.stats()['prompts']['by_stop_reason']['no_reference']==1

def test_the_command_takes_stages_and_changes_them(own, server):
    write_jsonl('in.jsonl', rows(3))
    base = ['sft', 'in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=run', 'formatter.pass_threshold=0.1']
    stages = 'verifier=[{type: mine.py:right}, {type: mine.py:short, name: brief}]'
    p = rsr('run', *base, stages, 'verifier.stages.brief.weight=3', 'verifier.stages.0.gate=true')
    assert p.returncode==0, p.stderr
    saved = load_recipe('run/recipe.yaml')['verifier']
    assert saved['stages']==[dict(type='mine.py:right', gate=True), dict(type='mine.py:short', name='brief', weight=3)]
    p = rsr('run', 'run/recipe.yaml')
    assert p.returncode==0, p.stderr                                   # resumes from its own recipe
    d = load_recipe('run/recipe.yaml', ['verifier.type=rlvr'])
    assert d['verifier']==dict(type='rlvr')                            # another verifier takes the place of all stages

@pytest.mark.parametrize('stages, text', [
    ('[]', 'is not a list of stages'), ('[{}]', 'verifier[0]: it has no type'), ('[7]', 'verifier[0]: 7'),
    ('[rlvr, rlvr]', "two stages are named 'rlvr'"), ('[{type: rlvr, when: failed}]', 'the first stage runs always'),
    ('[rlvr, {type: exct}]', "stage 'exct'"), ('[{type: rlvr, weight: heavy}]', "'heavy' is not a number"),
    ('[{type: rlvr, weight: -1}]', 'is below 0'), ('[{type: rlvr, gate: 1}]', 'is not true or false'),
    ('[{type: rlvr, when: passd}]', "Did you mean 'passed'?"), ('[{type: rlvr, name: a b}]', 'digits and _'),
    ('[{type: rlvr, words: 3}]', "no option 'words'"),
    ('[{type: mcq-llm-as-judge}]', 'verifier.stages.mcq_llm_as_judge.base_url'),
    ('[{type: rlvr, stages: [rlvr]}]', 'a stack inside a stack'), ('[{rubric: no_such}]', 'no_such')])
def test_wrong_stages_end_before_anything_is_sampled(here, server, stages, text):
    write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=run', f'verifier={stages}')
    assert p.returncode==2 and text in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert not server.log and not Path('run').exists()

def test_beside_stages_there_is_nothing_else(here):
    with pytest.raises(RsrError, match="beside stages, no option 'time_limit'"):
        load_recipe(dict(verifier=dict(stages=['rlvr'], time_limit=3), formatter='sft'))
    with pytest.raises(RsrError, match="no stage 'x'"):
        load_recipe(dict(verifier=['rlvr'], formatter='sft'), ['verifier.stages.x.weight=1'])

def test_a_functions_dict_has_components(own, server):
    go(server, 'mine.py:parts')
    assert all(components(d).keys()=={'right', 'short', 'nothing'} for d in details().values())
    assert {v for v, in table('SELECT value FROM scores')}=={.25, .75}

def test_verify_takes_the_same_stack(own):
    stack = ['math-rlvr', dict(type='mine.py:short', weight=3, most=5)]
    s = r.verify(stack, r'\boxed{4}', 4, detail=True)
    assert components(s.detail)=={'math_rlvr':1.0, 'short':5/9} and s.value==pytest.approx((1+3*5/9)/4)
    assert r.verify(stack, r'\boxed{4}', 4)==s.value
    assert r.verify('mine.py:short', 'abc', detail=True).value==1.0
    with pytest.raises(RsrError, match="stage 'rubric': `verify` has no rubrics"):
        r.verify([dict(rubric='helpful_answer')], 'x')
    with Loopback(reply=said) as s:
        judge = dict(type='mcq-llm-as-judge', when='failed', base_url=s.base_url, model='j')
        assert r.verify(['mcq-rlvr', judge], r'I say \boxed{A}', 'A')==1.0
        got = r.verify(['mcq-rlvr', judge], 'I take the first one.', 'A', detail=True)
        assert got.detail['decided']=='mcq_llm_as_judge'
        assert r.verify('mcq-llm-as-judge', r'\boxed{A}', 'A', base_url=s.base_url, model='j')==1.0
    with pytest.raises(RsrError, match='none is named'):
        r.verify('mcq-llm-as-judge', 'A', 'A')

def test_a_reward_of_a_stack(own):
    reward, trl, verl = r.make_rewards(stages=['math-rlvr', dict(type='mine.py:short', most=5)])
    assert reward('2+2?', r'\boxed{4}', answer='4')==pytest.approx((1+5/9)/2)
    assert trl(['p', 'p'], [r'\boxed{4}', r'\boxed{5}'], answer=['4', '4'])[1]<.5

# ---- verifiers of groups

def boxes(*answers, **options):
    "A server whose responses to each prompt give these answers in turn."
    count = {}
    def reply(body):
        key, n = json.dumps(body['messages']), body.get('n') or 1
        first = count.get(key, 0)
        count[key] = first+n
        return [rf'So it is \boxed{{{answers[i%len(answers)]}}}.' for i in range(first, first+n)]
    return Loopback(reply=reply, **options)

def vote(s, n=1, max_rollouts=16, step=4, **options):
    d = dict(verifier=dict(type='majority', **options), formatter=['sft'],
             sampling=dict(max_rollouts=max_rollouts, step_size=step, max_steps=99))
    plain = [dict(row, metadata={}) for row in rows(n)]
    return r.sample(plain, d, base_url=s.base_url, **QUIET)

def test_majority_waits_for_its_votes_and_stops_there(here):
    with boxes(4, 4, 4, 5) as s:
        run = vote(s, n=3)
        assert run.stats()['samples']['asked']==24 and run.stats()['prompts']['by_stop_reason']=={'satisfied':3}
        assert run.stats()['scores']['passed']==18 and len(read_jsonl('run/train/sft.jsonl'))==3
        n = len(s.log)
        assert vote(s, n=3).stats()['samples']['asked']==24 and len(s.log)==n     # nothing is left to do

def test_majority_without_a_consensus_samples_on_and_gives_up_when_it_is_settled(here):
    with boxes(4, 5, 6, 7) as s:
        run = vote(s)
        st = run.stats()
        assert st['prompts']['by_stop_reason']=={'gave_up':1} and st['samples']['asked']<16
        assert st['scores']['unscored']==st['samples']['asked']

def test_majority_again_with_other_options_samples_nothing_that_is_there(here):
    with boxes(4, 4, 5, 4, 6, 4) as s:
        vote(s, max_rollouts=6, step=6, min_votes=6, consensus=.9)
        n = len(s.log)
        run = vote(s, max_rollouts=6, step=6, min_votes=6, consensus=.6)
        assert len(s.log)==n and run.stats()['scores']['passed']==4

def test_majority_is_killed_and_resumed(here):
    write_jsonl('in.jsonl', [dict(row, metadata={}) for row in rows(20)])
    with boxes(4, 4, 4, 5, median=.05) as s:
        command = [RSR, 'run', 'sft', 'in.jsonl', f'sampler.base_url={s.base_url}', 'work_dir=run',
                   'verifier=majority', 'sampler.concurrent_requests=4']
        p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(s.log)>12)
        p.kill()
        p.wait()
        assert rsr(*command[1:]).returncode==0
        run = r.load_run('run').stats()
        assert run['prompts']['by_stop_reason']=={'satisfied':20} and run['scores']['unscored']==0
        kept, = table("SELECT count(*) FROM rollouts WHERE outcome='kept'")
        assert kept==(160,) and 100<=run['scores']['passed']<=160

def test_majority_needs_enough_rollouts(here, server):
    with pytest.raises(RsrError, match='sampling.max_rollouts: 4 responses to a prompt are fewer than the 8'):
        vote(server, max_rollouts=4)
    assert not server.log

@pytest.mark.parametrize('options, text', [('consensus: 0.4', 'not above 0.5'), ('min_votes: 1', 'from 2'),
                                           ('answer: maths', 'verifier.answer'), ('votes: 3', "no option 'votes'")])
def test_wrong_options_of_majority(here, server, options, text):
    write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', f'verifier={{type: majority, {options}}}')
    assert p.returncode==2 and text in p.stderr and 'Traceback' not in p.stderr, p.stderr

def test_an_own_verifier_of_groups(here, server):
    Path('mine.py').write_text('''
def longest(prompt, rollouts):
    most = max(len(r.text) for r in rollouts)
    return [float(len(r.text)==most) for r in rollouts]
def wrong(prompt, rollouts):
    return [1.0]
''')
    d = dict(verifier='mine.py:longest', formatter=['dpo'], sampling=dict(max_rollouts=4, early_stop=False))
    run = r.sample(rows(3), d, base_url=server.base_url, **QUIET)
    assert run.stats()['scores']['passed']>=3 and run.stats()['scores']['unscored']==0
    with pytest.raises(RsrError, match='returned 1 values for 4 rollouts'):
        r.sample(rows(3), {**d, 'verifier':'mine.py:wrong'}, base_url=server.base_url, **{**QUIET, 'work_dir':'other'})
    with pytest.raises(RsrError, match='all responses to a prompt together'):
        r.verify('mine.py:longest', 'x')

def test_groups_in_a_stack(own, server):
    vote_first = dict(type='majority', answer='mcq-rlvr', min_votes=2)
    d = dict(verifier=[vote_first, dict(type='mine.py:short', when='passed')],
             formatter=[FORMATTER], sampling=dict(max_rollouts=8, early_stop=False))
    r.sample([dict(row, metadata={}) for row in rows(4)], d, base_url=server.base_url, **QUIET)
    ran = [set(d['components']) for d in details().values()]
    assert {'majority', 'short'} in ran and {'majority'} in ran
    assert calls('short')==sum('short' in names for names in ran)      # once for each rollout

def test_groups_go_with_no_strategy_that_samples_two_sides(here, server):
    d = dict(verifier='majority', pairs=dict(strategy='strong_vs_weak', strong=dict(model='a'), weak=dict(model='b')),
             formatter=['dpo'])
    with pytest.raises(RsrError, match='scores all responses to a prompt together'):
        r.sample(rows(2), d, base_url=server.base_url, **QUIET)

def test_a_reward_of_groups_scores_each_prompt_of_a_batch_together(here):
    reward, trl, verl = r.make_rewards('majority', min_votes=3)
    assert trl(['a', 'b', 'a', 'a'], ['4', '6', '4', '5'], answer=[None]*4)==[1.0, None, 1.0, 0.0]
    with pytest.raises(RsrError, match='use trl_reward'):
        reward('a', '4')

def test_a_failed_gate_cannot_pass_among_negative_rewards(here, server):
    Path('mine.py').write_text('from rsr.verifiers import verifier\n@verifier("negative", raw=True)\n'
                               'def negative(response, metadata):\n    return -3.0\n')
    stages = [dict(type='mcq-rlvr', gate=True, weight=0, name='right'), 'mine.py:negative']
    d = dict(verifier=stages, sampling=dict(max_rollouts=2))
    low = dict(type='sft', pass_threshold=-5)
    with pytest.raises(RsrError, match="where='right >= 1'"):
        r.sample(rows(4), {**d, 'formatter':[low]}, base_url=server.base_url, **QUIET)
    run = r.sample(rows(4), {**d, 'formatter':[{**low, 'where':'right >= 1'}]}, base_url=server.base_url, **QUIET)
    right = {k for k, in table("SELECT rollout FROM scores WHERE value=-3")}
    assert len(read_jsonl('run/train/sft.jsonl'))<=len(right) and run.stats()['rows']['sft.jsonl']['rows']>=0

# ---- what must not go wrong

def test_a_stage_that_raises_leaves_its_component_unscored(own, server):
    Path('bad.py').write_text('def boom(response, metadata):\n'
                              '    raise ValueError("boom sk-abcdefghijklmnopqrstuvwx")\n')
    run = go(server, ['mine.py:right', dict(type='bad.py:boom', on_unscored='skip')])
    assert run.stats()['scores']['unscored']==0
    part = next(iter(details().values()))['components']['boom']
    assert part=={'value':None, 'reason':'ValueError: boom ***'}
    run = go(server, ['bad.py:boom', dict(type='mine.py:right', when='unscored')], work_dir='run2')
    assert run.stats()['scores']['unscored']==0
    with pytest.raises(RsrError, match="raised 10 times in a row.*boom"):
        go(server, ['mine.py:right', 'bad.py:boom'], work_dir='run3')
    with pytest.raises(ValueError):
        r.verify(['bad.py:boom'], 'x')

def test_responses_that_no_judge_was_asked_about_do_not_stop_the_run(own, server):
    Path('unsure.py').write_text('def unsure(response, metadata):\n    return None\n')
    with Loopback(reply=said, rate=.5) as s:
        judge = dict(type='mcq-llm-as-judge', when='failed', base_url=s.base_url, model='j', name='judge')
        run = go(s, ['unsure.py:unsure', judge], n=12)
        assert run.stats()['scores']['unscored']==run.stats()['samples']['asked']>=12
        assert not [e for e in s.log if 'You read which option' in str(e['body'])]

@pytest.mark.parametrize('body, reason', [
    ("Score(1., '\\ud800', ['a'], {'x':{1, 2}, 'y':10**30, 'z':float('nan'), '\\ud801':'\\udfff'})", '�'),
    ("Score(1., {'a':1}, detail={'components':{'<b>\\x1b[31m':{'value':1}}})", "{'a': 1}")])
@pytest.mark.parametrize('stacked', [False, True])
def test_a_score_of_the_user_may_hold_anything(own, server, body, reason, stacked):
    Path('odd.py').write_text(f'from rsr.data.types import Score\ndef odd(response, metadata):\n    return {body}\n')
    run = go(server, ['odd.py:odd', 'mine.py:right'] if stacked else 'odd.py:odd', n=2)
    assert run.stats()['scores']['unscored']==0 and reason in {why for why, in table('SELECT reason FROM scores')}
    assert len(run.scores)==run.stats()['samples']['asked'] and str(run)
    p = rsr('report', 'run')
    assert p.returncode==0, p.stderr
    pages = [f.read_text() for f in Path('run').rglob('*.html')]
    assert pages and not [text for text in pages if '<b>\\x1b' in text or '<b>[31m' in text]
    assert '\x1b' not in ''.join([p.stdout, str(run), rsr('stats', 'run').stdout, *pages])

@pytest.mark.parametrize('detail, text', [
    ("{'components':'all'}", "allowed: {name: {'value'"), ("{'components':{'a':3}}", 'a number or None'),
    ('[1, 2]', 'list'),
    ("{'components':{'a':{'value':'x'}}}", 'a number or None'), ("'text'", 'allowed: a dict'),
    ("{'components':None}", 'value')])
def test_a_score_of_the_user_with_wrong_components(own, server, detail, text):
    Path('odd.py').write_text(f'from rsr.data.types import Score\ndef odd(response, metadata):\n'
                              f'    return Score(1., detail={detail})\n')
    with pytest.raises(RsrError) as e:
        go(server, 'odd.py:odd', n=2)
    assert text in str(e.value)

@pytest.mark.parametrize('stage, text', [
    (dict(name='score'), 'stands for the whole score'), (dict(name='aﬁ'), 'letters'),
    (dict(weight=float('inf')), '1e9'),
    (dict(pass_threshold=float('nan')), 'not a number'), (dict(weight=1e300), '1e9'), (dict(name='__class__'), ''),
    (dict(name='components'), ''), (dict(name='decided'), ''), (dict(name='and'), '')])
def test_odd_stages(own, server, stage, text):
    stages = ['mine.py:right', dict(type='mine.py:short', **stage)]
    if text:
        with pytest.raises(RsrError, match=text):
            go(server, stages)
        return
    formatter = dict(FORMATTER, where=f"'{stage['name']}' > 0 and score >= 0")
    run = go(server, stages, n=2, formatter=[formatter])
    assert {*next(iter(details().values()))['components']}=={'right', stage['name']}
    assert len(run.scores) and rsr('report', 'run').returncode==0

@pytest.mark.parametrize('named, why', [
    ('judge', 'runs only behind another stage'), (5, '[5] is not the name'), ([], 'is not the name'),
    ([[]], 'is not the name'),
    ({'a':1}, 'is not the name'), ([None], 'is not the name'), ('', 'no stage'), ('\x1b[31m', 'no stage')])
def test_what_a_row_may_name(own, server, named, why):
    write_jsonl('in.jsonl', [{**row, 'metadata':{**row['metadata'], 'verifier':named}} for row in rows(1)])
    d = dict(verifier=['mine.py:right', dict(type='mine.py:short', name='judge', when='failed')], formatter=[FORMATTER])
    with pytest.raises(RsrError) as e:
        r.sample('in.jsonl', d, base_url=server.base_url, **QUIET)
    assert why in str(e.value) and 'metadata.verifier' in str(e.value) and not server.log
    p = rsr('run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', 'verifier=[mine.py:right]',
            'work_dir=run2')
    assert p.returncode==2 and '\x1b' not in p.stderr
    assert r.verify(d['verifier'], 'x', {'verifier':named}, detail=True).value is None

def test_no_key_of_a_stage_is_written_anywhere(own):
    key = 'topsecretvalue123'
    with Loopback(reply=said, rate=.5) as s:
        judge = dict(type='mcq-llm-as-judge', when='failed', base_url=s.base_url, model='j', name='judge', api_key=key)
        go(s, ['mcq-rlvr', judge], n=3, formatter=[FORMATTER, dict(type='grpo')])
        assert [e for e in s.log if 'You read which option' in str(e['body'])]
    written = [p for p in Path('.').rglob('*') if p.is_file() and key.encode() in p.read_bytes()]
    assert not written
    with pytest.raises(RsrError) as e:
        go(s, ['mcq-rlvr', {**judge, 'api_kei':key}], work_dir='run2')
    assert key not in str(e.value)

def test_a_stack_is_killed_between_its_stages_and_resumed(own):
    "No response is scored twice by a stage that gave a value, and none stays without a score."
    Path('slow.py').write_text('import time\ndef slow(response, metadata):\n    time.sleep(.05)\n'
                               "    open('slow', 'a').write('.')\n    return 1\n")
    write_jsonl('in.jsonl', rows(15))
    with Loopback(reply=said, rate=.5) as s:
        judge = f'{{type: mcq-llm-as-judge, name: judge, weight: 0, base_url: "{s.base_url}", model: j}}'
        command = [RSR, 'run', 'sft', 'in.jsonl', f'sampler.base_url={s.base_url}', 'work_dir=run',
                   'formatter.pass_threshold=0.1', 'sampling.max_rollouts=4', 'sampling.max_steps=1',
                   f'verifier=[mine.py:right, {judge}, slow.py:slow]']
        p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: calls('slow')>8)
        p.kill()
        p.wait()
        known = table('SELECT count(*) FROM calls')[0][0]
        assert rsr(*command[1:]).returncode==0
        run = r.load_run('run').stats()
        kept, = table("SELECT count(*) FROM rollouts WHERE outcome='kept'")[0]
        keys = table("SELECT verifier, count(*), count(value) FROM scores GROUP BY 1")
        assert len(keys)==4 and all(n==kept==scored for _, n, scored in keys) and run['scores']['unscored']==0
        asked = sum('You read which option' in str(e['body']) for e in s.log)
        assert kept<=asked<=kept+24 and calls('slow')<=kept+24 and known<=asked   # those under way when it was killed

def test_a_run_begun_with_one_verifier_goes_on_with_a_stack(own, server):
    write_jsonl('in.jsonl', rows(4))
    base = ['run', 'sft', 'in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=run',
            'formatter.pass_threshold=0.5', 'sampling.max_rollouts=2']
    assert rsr(*base, 'verifier.type=mine.py:right').returncode==0
    before, n = calls('right'), len(server.log)
    p = rsr(*base, 'verifier=[mine.py:right, {type: mine.py:short, gate: true, pass_threshold: 0.01}]')
    assert p.returncode in (0, 4), p.stderr
    assert calls('right')-before==len(server.log)-n          # only what is new
    back = rsr(*base, 'verifier.type=mine.py:right')
    assert back.returncode in (0, 4), back.stderr

def test_what_no_stage_can_score_is_said_of_the_stack(here, server, capsys):
    data = [*rows(1), *rows(1, start=1)]
    data[1]['metadata']['verifier'] = 'rul'
    given = dict(base_url=server.base_url, verifier=[dict(name='rule', type='mcq-rlvr')], max_rollouts=1, **QUIET)
    r.sample(data, 'sft', **given)
    assert "the stack cannot score 1 of 2 prompts (metadata.verifier: no stage 'rul'" in capsys.readouterr().err
    with pytest.raises(RsrError, match='the stack can score no prompt; nothing was sampled. Prompt .q1.: metad'):
        r.sample(data[1:], 'sft', **{**given, 'work_dir': 'other'})

def test_a_judge_of_a_stage_is_named_by_its_stage(here, server):
    stages = ['mcq-rlvr', dict(type='equivalence', name='second', when='failed', model='no-such-model-anywhere')]
    with pytest.raises(RsrError, match='verifier.stages.second.model: LiteLLM knows no provider'):
        r.sample(rows(1), 'sft', base_url=server.base_url, verifier=stages, **QUIET)

@pytest.mark.parametrize('given', [dict(type='regex', pattern='b$'), dict(stages=[dict(type='regex', pattern='b$')])])
def test_verify_takes_a_verifier_as_a_recipe_has_it(given):
    assert (r.verify(given, 'ab'), r.verify(given, 'a')) == (1., 0.)

def test_types_with_commas_are_a_list(here):
    with pytest.raises(RsrError, match=r'A list of them is a stack: verifier=\[rlvr,exact\]'):
        r.verify('rlvr,exact', 'B', 'B')

def test_a_gate_that_could_not_tell_is_stood_in_for(own, server):
    "What a check before the run promises: a stage for what is unscored makes up for a gate without a value."
    run = go(server, [dict(type='mine.py:fails', gate=True), dict(type='mine.py:right', when='unscored')], n=2)
    assert run.stats()['scores']['unscored']==0
    assert {d['decided'] for d in details().values()}=={'right'}
