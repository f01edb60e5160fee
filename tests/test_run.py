"Runs against a real HTTP server: what is sampled, kept and written."
import asyncio
import gzip
import json
import sqlite3
import subprocess
import time

import pytest
from conftest import RSR, read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback, least

from rsr import load_run, sample
from rsr.data.types import RsrError, RunBroken
from rsr.sampling.providers import LiteLLMSampler
from rsr.sampling.samplers import HttpSampler

def go(n=20, base_url=None, work_dir='run', recipe='sft', data=None, **kw):
    return sample(rows(n) if data is None else data, recipe, base_url=base_url, work_dir=work_dir, progress=False, **kw)

def db(run):
    return sqlite3.connect(run.path/'run.db')

def balanced(run):
    "Outcomes sum to the samples asked; every file row belongs to a prompt."
    s = run.stats()
    assert sum(s['samples']['by_outcome'].values())==s['samples']['asked']
    assert 'in_flight' not in s['samples']['by_outcome']
    assert sum(s['prompts']['by_stop_reason'].values())==s['prompts']['total']
    return s

# ---- files

def test_rows_of_sft_and_dpo_files(here, server):
    run = go(60, server.base_url, recipe='sft_dpo')
    s = balanced(run)
    sft, dpo = read_jsonl('run/train/sft.jsonl'), read_jsonl('run/train/dpo.jsonl')
    assert s['prompts']['satisfied']==len(dpo)>10 and len(sft)>=len(dpo)
    for r in sft:
        assert list(r)==['messages'] and [list(m) for m in r['messages']]==[['role', 'content']]*2
        assert r'\boxed{A}' in r['messages'][1]['content']
    for r in dpo:
        assert list(r)==['conversations', 'chosen', 'rejected'] and r['conversations'][0]['from']=='human'
        assert r['chosen']['from']==r['rejected']['from']=='gpt'
        assert r'\boxed{A}' in r['chosen']['value'] and r'\boxed{B}' in r['rejected']['value']
    assert {k:v['rows'] for k, v in s['rows'].items()}=={'sft.jsonl':len(sft), 'dpo.jsonl':len(dpo)}

def test_multi_sft(here, server):
    server.set(rate=.9)
    run = go(10, server.base_url, recipe='multi_sft', formatter=[dict(type='multi_sft', num_responses=5)])
    for r in read_jsonl('run/train/multi_sft.jsonl'):
        assert len(r['responses'])==len(set(r['responses']))==5
    assert balanced(run)['prompts']['satisfied']==10

def test_several_formatters_stop_when_all_are_satisfied(here, server):
    server.set(rate=.5)
    one = go(30, server.base_url, 'a', 'sft').stats()['samples']['asked']
    server.reset(rate=.5)
    both = go(30, server.base_url, 'b', 'sft_dpo').stats()['samples']['asked']
    assert both>one

# ---- how many are asked

def test_the_sft_recipe_step_by_step(here, server):
    server.set(rate={'prompt 0':1., 'prompt 1':0.})
    run = go(2, server.base_url)
    by = run.rollouts.groupby('prompt').size()
    assert by['q0']==4 and by['q1']==16   # one step; four steps
    assert dict(run.prompts.set_index('id').stop)=={'q0':'satisfied', 'q1':'max_rollouts'}

@pytest.mark.parametrize('kw,stop,n', [(dict(max_steps=2), 'max_steps', 8), (dict(max_rollouts=6), 'max_rollouts', 6),
                                       (dict(max_rollouts=32, max_steps=3, step_size=5), 'max_steps', 15)])
def test_limits(here, server, kw, stop, n):
    server.set(rate=0.)
    run = go(3, server.base_url, **kw)
    assert set(run.prompts.stop)=={stop} and (run.rollouts.groupby('prompt').size()==n).all()

def test_early_stop_false(here, server):
    run = go(5, server.base_url, early_stop=False)
    assert (run.rollouts.groupby('prompt').size()==16).all()

def test_auto_buys_the_least(here, server):
    server.set(median=.002)
    run = go(120, server.base_url, step_size='auto', concurrent_requests=8)
    least_n = sum(least(f'prompt {i}')[0] for i in range(120))
    assert least_n<=run.stats()['samples']['asked']<=1.1*least_n

@pytest.mark.parametrize('mode', ['honour', 'clamp', 'refuse'])
def test_n(here, server, mode):
    server.set(n_mode=mode, rate=0.)
    run = go(6, server.base_url)
    s = balanced(run)
    assert s['samples']['by_outcome']=={'kept':96}
    assert (run.rollouts.groupby('prompt').idx.apply(lambda x: sorted(x)==list(range(16)))).all()

def test_siblings_not_yet_sent_are_dropped(here, server):
    server.set(n_mode='refuse', rate=1., median=.01)
    run = go(3, server.base_url, concurrent_requests=1)
    # a step is four, but the first passed; the first request was for four, and was refused
    assert run.stats()['samples']['by_outcome']=={'kept':3, 'failed':3}
    assert (run.rollouts.groupby('prompt').size()==[4, 1, 1]).all()

# ---- outcomes

def test_truncated_are_dropped_and_made_up_for(here, server):
    server.set(truncate=.3, filter=.1, empty=.1, rate=.5)
    run = go(30, server.base_url, early_stop=False, max_rollouts=8, step_size=4, max_steps=2)
    s = balanced(run)
    outcomes = s['samples']['by_outcome']
    assert outcomes['truncated']>20 and outcomes['filtered'] and outcomes['empty']
    valid = run.rollouts[run.rollouts.outcome=='kept'].groupby('prompt').size()
    asked = run.rollouts.groupby('prompt').size()
    assert ((valid==8)|(asked==16)).all() and (asked<=16).all()
    kept = {t.strip() for t in run.rollouts[run.rollouts.outcome=='kept'].text}
    assert all(r['messages'][-1]['content'] in kept for r in read_jsonl('run/train/sft.jsonl'))

def test_what_a_verifier_cannot_tell_is_unscored_not_wrong(here, server):
    (here/'v.py').write_text("def f(response, metadata): return ('A}' in response)*1. if metadata else None\n")
    data = rows(4)
    data[0]['metadata'] = {}
    run = go(base_url=server.base_url, data=data, recipe='dpo', verifier='v.py:f')
    s = balanced(run)
    assert s['scores']['unscored']==8 and s['scores']['why_unscored']
    p = run.prompts.set_index('id')
    assert p.stop['q0']=='gave_up' and p.rollouts['q0']==8   # one step, then no more money for what cannot be scored
    assert run.rollouts[run.rollouts.prompt=='q0'].score.isna().all()

def test_reasoning_is_kept_apart(here, server):
    server.set(reasoning='reasoning_content')
    run = go(5, server.base_url)
    assert (run.rollouts.reasoning.str.len()>0).all()

def test_system_prompt_steers_but_stays_out(here, server):
    kw = dict(sampler=dict(system_prompt='Be brief.', prompt_template='Q: {prompt}'), max_rollouts=4, step_size=4)
    server.set(rate=1.)
    go(2, server.base_url, 'a', **kw)
    body = server.log[0]['body']
    assert body['messages']==[dict(role='system', content='Be brief.'), dict(role='user', content='Q: prompt 0')]
    assert [m['role'] for m in read_jsonl('a/train/sft.jsonl')[0]['messages']]==['user', 'assistant']
    load_run('a').format('sft', keep_system=True)
    assert read_jsonl('a/train/sft.jsonl')[0]['messages'][:2]==body['messages']

# ---- resuming and minimal recompute

def test_resume_asks_nothing(here, server):
    go(20, server.base_url)
    n = len(server.log)
    go(20, server.base_url)
    assert len(server.log)==n

def test_more_prompts_ask_only_for_these(here, server):
    go(20, server.base_url)
    n = len(server.log)
    go(25, server.base_url)
    assert {e['prompt'] for e in server.log[n:]}=={f'prompt {i}' for i in range(20, 25)}

def test_moving_a_threshold_makes_no_call(here, server):
    run = go(20, server.base_url, recipe='dpo')
    n = len(server.log)
    assert run.format('dpo', pass_threshold=.9, fail_threshold=.1)=={'dpo.jsonl':len(read_jsonl('run/train/dpo.jsonl'))}
    run.format()
    assert len(server.log)==n

def test_a_formatter_added_to_a_finished_run(here, server):
    go(30, server.base_url, recipe='sft', max_rollouts=16)
    n, have = len(server.log), load_run('run').prompts.set_index('id')
    run = go(30, server.base_url, recipe='sft', max_rollouts=16, formatter=[dict(type='sft'), dict(type='dpo')])
    asked_again = {f"q{e['prompt'].split()[1]}" for e in server.log[n:]}
    lacking = {i for i, r in have.iterrows() if r.mean_score in (0., 1.) and r.scored<16}
    assert asked_again==lacking and balanced(run)['rows']['dpo.jsonl']['rows']>0

def test_raised_max_tokens_asks_truncated_prompts_again(here, server):
    server.set(rate=1., truncate=1.)
    run = go(5, server.base_url, max_tokens=10)
    assert set(run.prompts.stop)=={'max_rollouts'} and run.stats()['samples']['by_outcome']=={'truncated':160}
    go(5, server.base_url, max_tokens=10)
    assert run.stats()['samples']['asked']==160
    server.set(truncate=0.)
    run = go(5, server.base_url, max_tokens=1000)
    assert run.stats()['samples']['by_outcome']=={'truncated':160, 'kept':20} and set(run.prompts.stop)=={'satisfied'}

def test_another_verifier_scores_only(here, server, tmp_path):
    go(20, server.base_url, max_rollouts=4)
    n = len(server.log)
    (tmp_path/'v.py').write_text('def always(response, metadata): return 1.0\n')
    run = go(20, server.base_url, max_rollouts=4, verifier='v.py:always')
    assert len(server.log)==n and run.stats()['prompts']['satisfied']==20
    assert run.scores.verifier.nunique()==2   # the old scores are still there

def test_corrected_answer_scores_only(here, server):
    server.set(rate=1.)
    run = go(5, server.base_url, max_rollouts=4)
    assert run.stats()['prompts']['satisfied']==5
    n = len(server.log)
    data = rows(5)
    data[0]['metadata'] = dict(answer='B')
    run = go(base_url=server.base_url, data=data, max_rollouts=4)
    assert len(server.log)==n and run.stats()['prompts']['satisfied']==4

def test_another_sampler_is_refused_or_mixed(here, server):
    go(5, server.base_url)
    before = (here/'run'/'recipe.yaml').read_text()
    with pytest.raises(RsrError, match='temperature: 0.7 before, 0.1 now'):
        go(5, server.base_url, temperature=.1)
    assert (here/'run'/'recipe.yaml').read_text()==before
    go(6, server.base_url, temperature=.1, mix=True)

def test_changed_messages_are_refused(here, server):
    go(2, server.base_url)
    data = rows(2)
    data[1]['messages'][0]['content'] = 'another question'
    with pytest.raises(RsrError, match="messages of id 'q1' .*differ"):
        go(base_url=server.base_url, data=data)
    assert go(2, server.base_url).stats()['prompts']['total']==2

def test_a_smaller_input_is_said_and_loses_nothing(here, server, capfd):
    go(10, server.base_url)
    n, before = len(server.log), {r['messages'][0]['content']:r for r in read_jsonl('run/train/sft.jsonl')}
    assert 'missing from the input' not in capfd.readouterr().err
    run = go(4, server.base_url)
    assert '6 prompts in this run are missing from the input' in capfd.readouterr().err
    assert run.stats()['prompts']['total']==4 and len(run.rollouts.prompt.unique())==10
    left = {r['messages'][0]['content'] for r in read_jsonl('run/train/sft.jsonl')}
    assert left=={p for p in before if int(p.split()[1])<4}
    go(10, server.base_url)
    assert {r['messages'][0]['content']:r for r in read_jsonl('run/train/sft.jsonl')}==before and len(server.log)==n

def test_plain_texts_are_prompts(here, server):
    server.set(rate=1.)
    (here/'v.py').write_text('def f(response, metadata): return 1.0\n')
    run = go(data=['prompt 7', 'prompt 8'], base_url=server.base_url, verifier='v.py:f')
    assert list(run.prompts.id)==['1', '2'] and {e['prompt'] for e in server.log}=={'prompt 7', 'prompt 8'}
    with pytest.raises(RsrError, match="messages of id '1' .*differ"):
        go(data=['prompt 9'], base_url=server.base_url, verifier='v.py:f')
    with pytest.raises(RsrError, match='row 2'):
        go(data=[rows(1)[0], 'prompt 8'], base_url=server.base_url, work_dir='mixed')

def test_a_killed_run_is_known_by_its_lock(here, server):
    server.set(median=.05, rate=0.)
    write_jsonl('in.jsonl', rows(300))
    command = [RSR, 'run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
               'sampler.concurrent_requests=4']
    p = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time()+120
    while len(server.log)<20 and time.time()<end:
        time.sleep(.05)
    server.set(median=60.)   # so that the run is under way however long the next command takes
    assert f'under way: process {p.pid} on ' in rsr('stats', 'w').stdout
    p.kill()
    p.wait()
    out = rsr('stats', 'w').stdout
    assert f'process {p.pid} on ' in out and 'died before the run ended' in out and 'rsr run work_dir=w' in out, out
    assert json.loads(rsr('stats', 'w', 'json=true').stdout)['process']==load_run('w').process
    server.set(median=0.)
    p = rsr('run', 'work_dir=w', 'sampling.max_rollouts=4')
    assert p.returncode==4 and 'process' not in rsr('stats', 'w').stdout, p.stderr
    assert balanced(load_run('w'))['samples']['by_outcome']['lost']

# ---- which options a file was written with

def test_files_are_judged_by_the_options_that_they_were_written_with(here, server):
    run = go(30, server.base_url, recipe='sft_dpo')
    assert run.written==run.recipe
    assert run.format('dpo', target='trl', style='messages')['dpo.jsonl']>5
    (dpo,) = [r for r in run.check_files()['files'] if r['file']=='train/dpo.jsonl']
    assert dpo['target']=='trl' and not dpo['problems'] and dpo['kept']==dpo['rows']
    p = rsr('check', 'run')
    assert 'no problems found' in p.stdout and 'trl' in p.stdout, p.stdout+p.stderr
    run.format('sft', name='lax', pass_threshold=0.)                     # a file that the recipe does not name
    assert [c.get('name', c['type']) for c in run.written['formatter']]==['sft', 'dpo', 'lax']
    assert len(run.check_files()['files'])==3
    (here/'run/train/lax.jsonl').unlink()
    run = go(30, server.base_url, recipe='sft_dpo')                      # written again at its end
    assert [f.get('target') for f in run.recipe['formatter']]==[None, 'trl']   # as it was chosen
    assert run.written==run.recipe and 'lax.jsonl' not in run.stats()['rows']

def test_stats_and_pairs_go_by_the_files(here, server):
    (here/'v.py').write_text('def f(response, metadata): return 1.0 if "{A}" in response else 0.6\n')
    run = go(30, server.base_url, recipe='dpo', verifier='v.py:f', formatter=dict(fail_threshold=.7))
    n = len(run.pairs())
    assert n==len(read_jsonl('run/train/dpo.jsonl'))>5
    assert run.stats()['scores']['failed'] and not run.format('dpo', min_margin=.5).get('eval/dpo.jsonl')
    assert run.pairs()==[] and not (here/'run/train/dpo.jsonl').exists()   # the options last chosen are the run's
    assert run.format('dpo', min_margin=0.)=={'dpo.jsonl':n}==run.format()
    assert run.format('dpo', fail_threshold=.5, name='strict')=={'strict.jsonl':0}
    rsr('format', 'run', 'split.eval=0.3')
    assert run.written['split']==run.recipe['split']=={'eval':.3}
    assert sum(v['rows'] for v in run.stats()['rows'].values())==n

# ---- faults

@pytest.mark.parametrize('fault', ['429', '500', '503', 'reset', 'malformed', 'no_choices', 'error200', 'cut'])
def test_transient_faults_lose_nothing(here, server, fault):
    server.set(faults={fault:.3}, rate=0.)
    run = go(6, server.base_url, sampler=dict(max_retries=20))
    assert balanced(run)['samples']['by_outcome']=={'kept':96}

def test_read_timeout_is_retried(here, server):
    server.set(faults={'timeout':.2, 'hang_after_headers':.1}, rate=0.)
    run = go(4, server.base_url, timeout=.5, sampler=dict(max_retries=20))
    assert balanced(run)['samples']['by_outcome']=={'kept':64}

def test_null_content_is_made_up_for(here, server):
    server.set(faults={'null_content':.3}, rate=0.)
    run = go(6, server.base_url)
    s = balanced(run)
    assert s['samples']['by_outcome']['kept']==96 and s['samples']['by_outcome']['empty']>4

def test_rate_limit_is_found(here, server):
    server.set(rate_limit=40, burst=10, rate=1., median=.02)
    run = go(100, server.base_url, concurrent_requests=64)
    assert balanced(run)['samples']['by_outcome']=={'kept':400}
    refused = server.stats()['by_status'].get('429', 0)+server.stats()['by_status'].get(429, 0)
    assert 0<refused<300

@pytest.mark.parametrize('after', [None, 1, 'date'])
def test_a_storm_of_429(here, server, after):
    server.set(storm=(.1, 2.5), retry_after=after, rate=1., median=.05)
    run = go(80, server.base_url, concurrent_requests=16)
    assert balanced(run)['samples']['by_outcome']=={'kept':320}
    assert 'failed' not in run.stats()['prompts']['by_stop_reason']

def test_minutes(here, server):
    server.set(median=.2, rate=0.)
    run = go(200, server.base_url, minutes=.02, concurrent_requests=4)
    assert run.exit_code==3 and 'budget.minutes' in run.message and run.stats()['seconds']<5

def test_quota_is_fatal_though_it_is_a_429(here, server):
    server.set(fault='quota')
    with pytest.raises(RunBroken, match='exceeded your current quota'):
        go(2, server.base_url)

def test_fatal_errors_stop_with_the_providers_message(here, server):
    server.set(auth='sk-right-key', echo_key=True)
    with pytest.raises(RunBroken, match='Incorrect API key provided: \\*\\*\\*'):
        go(5, server.base_url, api_key='sk-wrong-key')
    server.set(auth=None, bad_request=True)
    with pytest.raises(RunBroken, match='refused'):
        go(5, server.base_url, 'b')

def test_context_fails_one_prompt(here, server):
    server.set(context_over=100, rate=1.)
    data = rows(4)
    data[1]['messages'][0]['content'] = 'long '*100
    run = go(base_url=server.base_url, data=data)
    s = balanced(run)
    assert s['prompts']['by_stop_reason']=={'satisfied':3, 'failed':1} and run.exit_code==1
    assert any('context' in e for e in s['samples']['errors'])

def test_nobody_there_is_said_soon(here):
    with pytest.raises(RunBroken, match='no answer for'):
        go(2, 'http://127.0.0.1:9/v1', sampler=dict(patience=1))

def test_outage_is_ridden_out(here, server):
    import threading
    server.set(median=.02)
    def outage():
        server.stop()
        threading.Event().wait(1.5)
        server.start()
    t = threading.Timer(.3, outage)
    t.start()
    run = go(60, server.base_url, concurrent_requests=8)
    t.join()
    s = balanced(run)
    assert set(s['samples']['by_outcome'])=={'kept'} and 'failed' not in s['prompts']['by_stop_reason']

def test_broken_verifier_stops_the_run_and_keeps_the_rollouts(here, server):
    (here/'v.py').write_text('def f(response, metadata): raise KeyError("oops")\n')
    with pytest.raises(RunBroken, match='KeyError'):
        go(50, server.base_url, verifier='v.py:f', concurrent_requests=2)
    n = len(server.log)
    assert n<50
    (here/'v.py').write_text('def f(response, metadata): return 1.0\n')
    run = go(50, server.base_url, verifier='v.py:f')
    assert balanced(run)['prompts']['satisfied']==50

# ---- budgets

def test_token_budget_is_met_and_resumable(here, server):
    run = go(50, server.base_url, tokens=3000, concurrent_requests=4)
    s = balanced(run)
    assert run.exit_code==3 and run.stop_reason=='budget' and s['prompts']['by_stop_reason']['budget']
    assert sum(s['tokens'][k] for k in ('prompt', 'completion'))<=3600
    run = go(50, server.base_url)
    assert run.exit_code==0 and 'budget' not in balanced(run)['prompts']['by_stop_reason']

def test_money_needs_a_price(here, server):
    with pytest.raises(RsrError, match='sampler.price'):
        go(2, server.base_url, usd=1.)
    run = go(50, server.base_url, usd=.001, price=dict(prompt=1, completion=1))
    assert run.exit_code==3 and run.stats()['cost']<=.0013

# ---- input

def test_input_forms(here, server):
    import pandas as pd
    data = rows(3)
    write_jsonl('a.jsonl', data)
    with gzip.open('a.jsonl.gz', 'wt') as f:
        f.write((here/'a.jsonl').read_text())
    pd.DataFrame(data).to_parquet('a.parquet')
    server.set(rate=1.)
    want = None
    for i, src in enumerate(['a.jsonl', 'a.jsonl.gz', 'a.parquet', pd.DataFrame(data), data]):
        sample(src, base_url=server.base_url, work_dir=f'r{i}', progress=False, max_rollouts=4)
        got = [r['messages'][0] for r in read_jsonl(f'r{i}/train/sft.jsonl')]
        want = want or got
        assert got==want and len(got)==3

def test_bad_rows_stop_before_the_first_call(here, server):
    lines = ['{"id": ', '{"messages": []}', '{"id": "a", "messages": []}',
             '{"id":"b","messages":[{"role":"bot","content":"x"}]}',
             '{"id":"c","messages":[{"role":"user","content":[7]}]}',
             '{"id":"d","messages":[{"role":"user","content":"x"}],"answer":"A"}',
             '{"id":"d","messages":[{"role":"user","content":"x"}]}']
    (here/'bad.jsonl').write_text('\n'.join(lines)+'\n')
    args = ['run', 'sft', 'data.input_path=bad.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w']
    p = rsr(*args)
    assert p.returncode==2 and 'Traceback' not in p.stderr and not (here/'w').exists() and not server.log
    for i, why in [(1, 'broken JSON'), (2, 'messages is empty'), (3, 'messages is empty'), (4, "unknown role 'bot'"),
                   (5, 'a part of content is int'), (7, "'d' is already used by bad.jsonl, line 6")]:
        assert any(f'line {i}' in ln and why in ln for ln in p.stderr.splitlines()), (i, why, p.stderr)
    p = rsr(*args, 'data.on_bad_row=skip')
    assert p.returncode==0 and load_run('w').stats()['prompts']['bad_rows']==6

# ---- samplers

@pytest.mark.parametrize('kw', [dict(cls=HttpSampler), dict(cls=LiteLLMSampler)])
def test_one_interface(server, kw):
    model = 'openai/m' if kw['cls'] is LiteLLMSampler else 'm'
    s = kw['cls'](model=model, base_url=server.base_url, api_key='sk-test', temperature=.5)
    async def ask():
        try:
            return await s.ask([dict(role='user', content='prompt 1')], n=3)
        finally:
            await s.close()
    out = asyncio.run(ask())
    assert len(out)==3 and all(r.outcome=='kept' and r.finish_reason=='stop' for r in out)
    assert all(r.completion_tokens>0 and r.latency>=0 for r in out)
    e = server.log[-1]
    assert e['body']['n']==3 and e['body']['temperature']==.5 and e['body']['model']=='m'

def test_litellm_run(here, server):
    server.set(faults={'429':.2, '500':.2}, rate=.5)
    run = sample(rows(6), 'sft', model='openai/m', base_url=server.base_url, work_dir='run', progress=False,
                 sampler=dict(type='litellm', api_key='sk-test'))
    assert set(balanced(run)['samples']['by_outcome'])=={'kept'}

def test_litellm_errors_are_fatal_where_they_are(here, server):
    server.set(auth='sk-right')
    opts = dict(model='openai/m', base_url=server.base_url, work_dir='run', progress=False)
    with pytest.raises(RunBroken):
        sample(rows(2), 'sft', sampler=dict(type='litellm', api_key='sk-wrong'), **opts)

def test_in_a_running_loop(here, server):
    async def cell():
        return go(3, server.base_url)
    assert asyncio.run(cell()).stats()['prompts']['total']==3

def test_keep_alive(here):
    with Loopback() as s:
        go(30, s.base_url, concurrent_requests=4)
        assert len({e.get('conn') for e in s.log})<=4 or 'conn' not in s.log[0]

# ---- planning

def test_plan_then_run_buys_nothing_twice(here, server):
    write_jsonl('in.jsonl', rows(200))
    args = ['data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
            'sampler.price={prompt: 1, completion: 2}']
    p = rsr('plan', 'sft', 'pilot=20', *args)
    assert p.returncode==0 and 'for 200 prompts, from 20' in p.stdout and 'US dollars' in p.stdout, p.stderr
    assert 'run all of it with: rsr run sft' in p.stdout and 'budget' not in p.stdout, p.stderr
    interval = p.stdout.split('rollouts')[1].split('95%: ')[1].split(')')[0]
    low, high = (int(x.replace(',', '')) for x in interval.split(' to '))
    pilot = {e['prompt'] for e in server.log}
    assert len(pilot)==20
    n = len(server.log)
    assert rsr('run', 'sft', *args).returncode==0
    assert not pilot & {e['prompt'] for e in server.log[n:]}
    s = load_run('w').stats()
    assert low*.7<=s['samples']['asked']<=high*1.3

def test_give_up_and_corrected_rate(here, server):
    server.set(rate=lambda p: .9 if int(p.split()[1])%2 else 0.)
    full = go(200, server.base_url, 'a', step_size='auto')
    server.reset()
    some = go(200, server.base_url, 'b', step_size='auto', give_up=.3)
    a, b = full.stats(), some.stats()
    assert b['prompts']['by_stop_reason']['gave_up']>60 and b['samples']['asked']<.7*a['samples']['asked']
    assert b['prompts']['satisfied']>=.88*a['prompts']['satisfied']
    lo, hi = a['pass_rate']['interval']
    assert lo<=.45<=hi and a['pass_rate']['pooled']<.2

def test_drop_truncated_false_keeps_them(here, server):
    server.set(truncate=1., rate=1.)
    run = go(4, server.base_url, sampler=dict(drop_truncated=False))
    s = balanced(run)
    assert set(s['samples']['by_outcome'])=={'truncated'}
    assert s['scores']['passed']+s['scores']['failed']==s['samples']['asked'] and s['scores']['unscored']==0
