"vllm-offline: the sampler's interface over vLLM's contract without a GPU; tests/gpu/check_vllm.py has the real engine."
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import rows, rsr, write_jsonl
from loopback import Loopback

from rsr import load_run

OVER_HTTP = Path(__file__).parent/'vllm_over_http'

@pytest.fixture
def vllm(monkeypatch, tmp_path):
    "A loopback server with vLLM's contract, and vLLM's names in front of it; the environment that a command needs."
    path = f'{OVER_HTTP}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'
    with Loopback(flavour='vllm') as s:
        yield s, dict(PYTHONPATH=path, VLLM_TEST_URL=s.base_url, VLLM_TEST_ENGINES=str(tmp_path/'engines'))

def facts(env, key):
    "The lines that engines have written with this key."
    path = Path(env['VLLM_TEST_ENGINES'])
    return [d for d in map(json.loads, path.read_text().splitlines() if path.exists() else []) if key in d]

def test_a_run_in_process_gives_what_a_run_over_http_gives(here, vllm):
    s, env = vllm
    src = write_jsonl('in.jsonl', rows(40))
    a = rsr('run', 'sft', f'data.input_path={src}', 'sampler.type=vllm-offline', 'sampler.model=m', 'work_dir=a',
            'sampler.engine_args.tensor_parallel_size=2', env=env)
    assert a.returncode==0, a.stderr
    sampled = s.stats()['samples']
    s.reset()
    b = rsr('run', 'sft', f'data.input_path={src}', f'sampler.base_url={s.base_url}', 'sampler.model=m', 'work_dir=b')
    assert b.returncode==0, b.stderr
    in_process, over_http = load_run('a').rollouts, load_run('b').rollouts
    assert sampled==s.stats()['samples']==len(in_process)
    cols = ['prompt', 'idx', 'outcome', 'score', 'text', 'finish_reason']
    in_order = lambda rollouts: rollouts[cols].sort_values(['prompt', 'idx']).reset_index(drop=True)
    assert in_order(in_process).equals(in_order(over_http))
    assert sorted(open('a/train/sft.jsonl'))==sorted(open('b/train/sft.jsonl'))
    assert 'vllm-offline' in open('a/recipe.yaml').read()

def test_truncation_is_the_engines_word(here, vllm):
    s, env = vllm
    s.set(truncate=.4)
    src = write_jsonl('in.jsonl', rows(20))
    p = rsr('run', 'sft', f'data.input_path={src}', 'sampler.type=vllm-offline', 'sampler.model=m', 'work_dir=w',
            env=env)
    assert p.returncode==0, p.stderr
    r = load_run('w').rollouts
    truncated = r[r.outcome=='truncated']
    assert len(truncated)>0 and set(truncated.finish_reason)=={'length'}
    assert (r.score.notna()==(r.outcome=='kept')).all()

IMPORTS = '''
import asyncio, os, signal, threading, time
from rsr.sampling.providers import make_sampler
from rsr.sampling.errors import CallError
from rsr.data.threads import run_sync
from rsr.data.types import RsrError
q = [dict(role='user', content='x')]
make = lambda **kw: make_sampler('vllm-offline', **{'model':'m', **kw})
ask = lambda s, q=q, n=1: run_sync(lambda: s.ask(q, n, 7))
'''

def ask(vllm, code, **env):
    "Run a few lines with vLLM's names; what they print."
    out = subprocess.run([sys.executable, '-c', f'{IMPORTS}\n{code}'], env={**os.environ, **vllm[1], **env},
                         capture_output=True, text=True, timeout=120)
    assert out.returncode==0, out.stderr
    assert not out.stderr, out.stderr
    return out.stdout.strip()

def test_one_engine_serves_several_event_loops(vllm):
    code = '''
a, b = make(), make(temperature=0.)
for s in (a, b, a):
    print(len(ask(s, n=3)))'''
    assert ask(vllm, code).split()==['3', '3', '3']
    engine, = facts(vllm[1], 'core')
    assert engine['prefix'] is True

def test_whoever_asks_first_starts_the_engine(vllm):
    "Many threads at once, none of which has called prepare(); loading takes a while."
    code = '''
s, out = make(), []
pool = [threading.Thread(target=lambda: out.append(len(ask(s, n=2)))) for _ in range(16)]
for t in pool: t.start()
for t in pool: t.join()
print(sum(out))'''
    assert ask(vllm, code, VLLM_TEST_LOAD='1')=='32' and len(facts(vllm[1], 'core'))==1

def test_a_failed_start_is_not_repeated_by_those_who_wait(vllm):
    code = '''
s, out = make(engine_args=dict(gpu_memory_utilization=1.5)), []
def one():
    try: ask(s)
    except RsrError as e: out.append(str(e))
pool = [threading.Thread(target=one) for _ in range(8)]
for t in pool: t.start()
for t in pool: t.join()
print(len(out), len(set(out)), len({e.rpartition('log: ')[2] for e in out}))'''
    n, different, logs = map(int, ask(vllm, code, VLLM_TEST_LOAD='1').split())
    assert n==8 and different==logs<=2   # a thread may come after the failure

def test_the_template_is_applied_once_per_prompt(vllm):
    code = '''
s = make()
async def go():
    return await asyncio.gather(*[s.ask([dict(role='user', content=f'{i%3}')], 2, i) for i in range(12)])
print(sum(map(len, run_sync(go))))'''
    assert ask(vllm, code)=='24' and len(facts(vllm[1], 'rendered'))==3

def test_texts_are_those_of_vllm(vllm):
    "With a stop string vLLM makes the texts, else rsr: both from the same tokens."
    said = []
    for more in dict(), dict(stop=['never']):
        vllm[0].reset()
        said.append(ask(vllm, f'print(repr([r.text for r in ask(make(extra_params={more}), n=3)]))'))
    assert said[0]==said[1] and len(said[0])>60

def test_a_dead_engine_is_replaced_once(vllm):
    code = '''
s = make()
ask(s)
import json
core = [json.loads(x)['core'] for x in open(os.environ['VLLM_TEST_ENGINES']) if 'core' in x][-1]
os.kill(core, signal.SIGKILL)
kinds = set()
while not kinds:
    try: ask(s)
    except CallError as e: kinds.add(e.kind)
async def go():
    return await asyncio.gather(*[s.ask([dict(role='user', content=str(i))]) for i in range(8)])
print(*kinds, len(run_sync(go)))'''
    assert ask(vllm, code)=='fatal 8' and len(facts(vllm[1], 'core'))==2

def test_a_killed_host_fails_what_waits_and_takes_its_engine_with_it(vllm):
    s, env = vllm
    s.set(median=30, sigma=0)
    code = '''
s = make()
s.prepare()
threading.Timer(1, lambda: os.kill(s.engine.process.pid, signal.SIGKILL)).start()
try: ask(s)
except CallError as e: print(e.kind, 'its process ended' in str(e))'''
    assert ask(vllm, code)=='fatal True'
    core = facts(env, 'core')[0]['core']
    until = time.monotonic()+20
    while alive(core) and time.monotonic()<until:
        time.sleep(.05)
    assert not alive(core)

def alive(pid):
    "Is there such a process, and not only its remains?"
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]!='Z'
    except OSError:
        return False

def test_engines_end_with_the_process_in_order(vllm):
    assert ask(vllm, 'print(len(ask(make())))')=='1'
    ended, = facts(vllm[1], 'ended')
    assert ended['in_order'] and not alive(ended['ended'])

def test_an_engine_ends_when_its_parent_is_killed(vllm):
    code = f'{IMPORTS}\nmake().prepare()\nprint("ready", flush=True)\ntime.sleep(100)'
    p = subprocess.Popen([sys.executable, '-c', code], env={**os.environ, **vllm[1]}, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline()=='ready\n'
    p.kill()
    p.wait()
    until = time.monotonic()+30
    while not facts(vllm[1], 'ended') and time.monotonic()<until:
        time.sleep(.05)
    assert [d['in_order'] for d in facts(vllm[1], 'ended')]==[True]

def test_close_frees_the_memory_and_the_next_request_starts_anew(vllm):
    code = '''
from rsr.sampling.vllm_engines import close_engines
s = make()
ask(s)
close_engines()
print(len(open(os.environ['VLLM_TEST_ENGINES']).read().split('ended'))-1, len(ask(s)))'''
    assert ask(vllm, code)=='1 1' and len(facts(vllm[1], 'core'))==2

def test_engines_of_one_process_share_the_memory(vllm, tmp_path):
    "By their weights where these are known; an engine that is idle and alone makes room for a second."
    for name, size in ('strong', 16), ('weak', 2):
        (tmp_path/name).mkdir()
        with open(tmp_path/name/'model.safetensors', 'wb') as f:
            f.truncate(size*10**9)
    code = f'''
a, b = make(model='{tmp_path}/strong'), make(model='{tmp_path}/weak')
for s in (a, b): ask(s)
c = make(model='third')
ask(c)
print(len(ask(a)))'''
    assert ask(vllm, code)=='1'
    shares = [(Path(d['model']).name, d['share']) for d in facts(vllm[1], 'core')]
    assert shares[:2]==[('strong', .546), ('weak', .354)] and [n for n, _ in shares[2:]]==['third', 'strong']
    assert all(x==.3 for _, x in shares[2:])

def test_each_gpu_gets_a_copy(vllm):
    code = '''
print(make().prepare(), make(engine_args=dict(tensor_parallel_size=4)).prepare())
print(make(engine_args=dict(data_parallel_size=1)).prepare())
s = make()
s.prepare()
print(s.concurrent_requests)'''
    assert ask(vllm, code, VLLM_TEST_GPUS='4').split()[-1]=='8192'   # twice what four copies work on
    assert [d['copies'] for d in facts(vllm[1], 'core')][:3]==[4, 1, 1]

def test_as_many_requests_as_the_engine_takes_and_as_many_again(vllm):
    code = '''
for more in (dict(), dict(engine_args=dict(max_num_seqs=96)), dict(concurrent_requests=7)):
    s = make(**more)
    s.prepare()
    print(s.concurrent_requests)'''
    assert ask(vllm, code).split()==['2048', '192', '7']

def test_the_log_goes_to_the_run(here, vllm):
    s, env = vllm
    src = write_jsonl('in.jsonl', rows(4))
    for work in 'a', 'b':
        p = rsr('run', 'sft', f'data.input_path={src}', 'sampler.type=vllm-offline', 'sampler.model=m',
                f'work_dir={work}', env=env)
        assert p.returncode==0 and 'EngineCore' not in p.stdout+p.stderr, p.stderr
        assert 'Traceback' not in p.stdout+p.stderr
        log = Path(work, 'summary', 'vllm.log').read_text()
        assert 'Initializing a V1 LLM engine' in log and 'output_handler failed' not in log

def test_parameters_and_template(vllm):
    code = '''
s = make(top_p=.9, max_tokens=33, system_prompt='Be brief.',
         extra_params=dict(top_k=5, chat_template_kwargs=dict(enable_thinking=False)))
ask(s, n=2)'''
    ask(vllm, code)
    body = vllm[0].log[-1]['body']
    assert body['messages'][0]==dict(role='system', content='Be brief.')
    assert body['chat_template_kwargs']==dict(enable_thinking=False)
    sent = dict(n=2, seed=7, top_k=5, top_p=.9, max_tokens=33, temperature=.7)
    assert {k:body[k] for k in sent}==sent

TOOLS = """
tool = dict(type='function', function=dict(name='weather', parameters=dict(type='object', properties=dict())))
call = dict(id='c', type='function', function=dict(name='weather', arguments='{"city": "Rome"}'))
ask = lambda s, q=q, **kw: run_sync(lambda: s.ask(q, 1, 7, **kw))[0]
"""

def test_tools_and_calls_go_through_the_template(vllm):
    "Arguments as objects, parts as a text, an empty text beside calls; tools as an argument of the template."
    code = TOOLS+"""
talk = [dict(role='user', content=[dict(type='text', text='Is it'), dict(type='text', text='warm?')]),
        dict(role='assistant', content=None, reasoning_content='Look.', tool_calls=[call]),
        dict(role='tool', tool_call_id='c', content='31')]
ask(make(), talk, tools=[tool])"""
    ask(vllm, code)
    body = vllm[0].log[-1]['body']
    assert body['chat_template_kwargs']['tools'][0]['function']['name']=='weather'
    user, calls, result = body['messages']
    assert user['content']=='Is it\nwarm?' and calls['content']=='' and calls['reasoning_content']=='Look.'
    assert calls['tool_calls'][0]['function']['arguments']==dict(city='Rome') and result['content']=='31'

HERMES = 'I look.\n<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'

@pytest.mark.parametrize('text, options, want', [
    (HERMES, '', ['I look.', '', 'weather', '{"city":"Rome"}']),
    ('<think>hm</think>'+HERMES, '', ['<think>hm</think>I look.', '', 'weather', '{"city":"Rome"}']),
    ('hm</think> I look. [CALL] weather: {"city"', 'engine_args=dict(tool_call_parser="bracket", '
     'reasoning_parser="think")', [' I look. ', 'hm', 'weather', '{"city"']),
    ('<tool_call>{"name"</tool_call>', '', 'only a tool call written as text')])
def test_calls_and_thinking_are_found(vllm, text, options, want):
    vllm[0].set(reply=lambda body: text)
    code = TOOLS+f"""
r = ask(make({options}), tools=[tool])
print([r.text, r.reasoning, *r.tool_calls[0]['function'].values()] if r.tool_calls else r.error)"""
    assert ask(vllm, code)==str(want)

def test_without_tools_nothing_is_taken_for_a_call(vllm):
    vllm[0].set(reply=lambda body: HERMES)
    code = TOOLS+"""
for kw in dict(), dict(tools=[tool], tool_choice='none'):
    r = ask(make(), **kw)
    print(r.tool_calls, r.outcome)
for kw in dict(tools=[tool], tool_choice='required'), dict():
    try: ask(make(), [dict(role='user', content=[dict(type='image_url', image_url=dict(url='http://x/a.png'))])], **kw)
    except RsrError as e: print(str(e)[:30])"""
    assert ask(vllm, code).splitlines()==['None kept']*2+["tool_choice: 'required' needs ",
                                                         'sampler.type: vllm-offline sam']

def test_logprobs(vllm):
    code = """
r = ask(make(logprobs=0))[0]
print(''.join(t['token'] for t in r.logprobs['content'])==r.text, r.logprobs['content'][0]['top_logprobs'])
print(ask(make())[0].logprobs)"""
    assert ask(vllm, code)=='True []\nNone'

@pytest.mark.parametrize('fault,kind', [('context', 'context'), ('500', 'fatal')])
def test_failures_have_their_kind(vllm, fault, kind):
    vllm[0].set(fault=[fault])
    code = '''
s = make()
try: ask(s)
except CallError as e: print(e.kind)
try: ask(s, [dict(role='nobody', content='x')])
except CallError as e: print(e.kind)'''
    assert ask(vllm, code).split()==[kind, 'denied']

BAD = {'extra_params=dict(topk=5)':'sampler.extra_params: vLLM',
       'engine_args=dict(tensor_parallel=2)':'sampler.engine_args',
       'engine_args=dict(gpu_memory_utilization=1.2)':'ValueError: Free memory on device',
       'engine_args=dict(tool_call_parser="hermse")':"sampler.engine_args.tool_call_parser: Tool parser 'hermse' not",
       'max_tokens=5000, engine_args=dict(max_model_len=2048)':'sampler.max_tokens: 5,000 is more than the 2,048',
       'model="./models/mine"':"sampler.model: there is no folder './models/mine'"}

@pytest.mark.parametrize('bad', BAD)
def test_wrong_options_are_named(vllm, bad):
    code = f'''
try: make({bad}).prepare()
except RsrError as e: print(e)'''
    said = ask(vllm, code)
    assert BAD[bad] in said and 'host.py' not in said, said

def test_a_load_that_fails_shows_why_and_leaves_no_run(here, vllm):
    src = write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', f'data.input_path={src}', 'sampler.type=vllm-offline', 'sampler.model=m', 'work_dir=w',
            'sampler.engine_args.gpu_memory_utilization=1.5', env=vllm[1])
    assert p.returncode==2 and 'ValueError: Free memory on device' in p.stderr and not Path('w').exists()
    kept = Path(p.stderr.rpartition('The whole log: ')[2].strip())
    assert 'Initializing a V1 LLM engine' in kept.read_text()
    kept.unlink()

@pytest.mark.skipif(bool(find_spec('vllm')), reason='vLLM is installed here')
def test_without_vllm_the_error_says_what_to_install(here):
    src = write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', f'data.input_path={src}', 'sampler.type=vllm-offline', 'sampler.model=m', 'work_dir=w')
    assert p.returncode==2 and "pip install 'rejection-sampling-recipes[vllm]'" in p.stderr
    assert 'Traceback' not in p.stderr and not Path('w').exists()

def test_on_a_gpu():
    "tests/gpu/check_vllm.py says why it has nothing to check, or checks."
    script = Path(__file__).parent/'gpu'/'check_vllm.py'
    p = subprocess.run([sys.executable, script, '--quick'], capture_output=True, text=True)
    if p.returncode==77:
        pytest.skip(p.stdout.strip())
    assert p.returncode==0, p.stdout
