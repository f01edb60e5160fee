"vllm-offline: the sampler's interface over vLLM's contract without a GPU, and the real engine where there is one."
import asyncio
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import rows, rsr, write_jsonl
from loopback import Loopback

from rsr import load_run
from rsr.sampling.providers import make_sampler

OVER_HTTP = Path(__file__).parent/'vllm_over_http'

@pytest.fixture
def vllm(monkeypatch):
    "A loopback server with vLLM's contract, and vLLM's names in front of it; the environment that a command needs."
    with Loopback(flavour='vllm') as s:
        yield s, dict(PYTHONPATH=f'{OVER_HTTP}{os.pathsep}{os.environ.get("PYTHONPATH", "")}', VLLM_TEST_URL=s.base_url)

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
from rsr.sampling.providers import make_sampler
from rsr.sampling.errors import CallError
from rsr.data.threads import run_sync'''

def ask(s, code, **env):
    "Run a few lines with vLLM's names; what they print."
    prog = f'{IMPORTS}\n{code}'
    path = f'{OVER_HTTP}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'
    env = {**os.environ, 'PYTHONPATH':path, 'VLLM_TEST_URL':s.base_url, **env}
    out = subprocess.run([sys.executable, '-c', prog], env=env,
                         capture_output=True, text=True, timeout=60)
    assert out.returncode==0, out.stderr
    return out.stdout.strip()

def test_one_engine_serves_several_event_loops(vllm):
    code = '''
a, b = make_sampler('vllm-offline', model='m'), make_sampler('vllm-offline', model='m', temperature=0.)
for s in (a, b, a):
    print(len(run_sync(lambda: s.ask([dict(role='user', content='x')], 3, 7))))
from vllm.v1.engine.async_llm import MADE
print(len(MADE), MADE[0].args.enable_prefix_caching)'''
    assert ask(vllm[0], code).split()==['3', '3', '3', '1', 'True']

def test_parameters_and_template(vllm):
    code = '''
s = make_sampler('vllm-offline', model='m', top_p=.9, max_tokens=33, system_prompt='Be brief.',
                 extra_params=dict(top_k=5, chat_template_kwargs=dict(enable_thinking=False)))
run_sync(lambda: s.ask([dict(role='user', content='x')], 2, 7))'''
    ask(vllm[0], code)
    body = vllm[0].log[-1]['body']
    assert body['messages'][0]==dict(role='system', content='Be brief.')
    assert body['chat_template_kwargs']==dict(enable_thinking=False)
    sent = dict(n=2, seed=7, top_k=5, top_p=.9, max_tokens=33, temperature=.7)
    assert {k:body[k] for k in sent}==sent

@pytest.mark.parametrize('fault,kind', [('context', 'context'), ('500', 'fatal')])
def test_failures_have_their_kind(vllm, fault, kind):
    vllm[0].set(fault=[fault])
    code = '''
s = make_sampler('vllm-offline', model='m')
try:
    run_sync(lambda: s.ask([dict(role='user', content='x')]))
except CallError as e:
    print(e.kind)'''
    assert ask(vllm[0], code)==kind

BAD = {'extra_params=dict(topk=5)':'does not take these parameters',
       'engine_args=dict(tensor_parallel=2)':'sampler.engine_args'}

@pytest.mark.parametrize('bad', BAD)
def test_wrong_options_are_named(vllm, bad):
    code = f'''
from rsr.data.types import RsrError
s = make_sampler('vllm-offline', model='m', {bad})
try:
    run_sync(lambda: s.ask([dict(role='user', content='x')]))
except (CallError, RsrError) as e:
    print(e)'''
    assert BAD[bad] in ask(vllm[0], code)

@pytest.mark.skipif(bool(find_spec('vllm')), reason='vLLM is installed here')
def test_without_vllm_the_error_says_what_to_install(here):
    src = write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', f'data.input_path={src}', 'sampler.type=vllm-offline', 'sampler.model=m', 'work_dir=w')
    assert p.returncode==2 and 'pip install vllm' in p.stderr
    assert 'Traceback' not in p.stderr and not Path('w').exists()

def why_no_gpu():
    "Why the real engine cannot be tried here; None if it can."
    if not find_spec('vllm'):
        return 'vLLM is not installed'
    import torch
    return None if torch.cuda.is_available() else 'no GPU'

@pytest.mark.skipif(why_no_gpu() is not None, reason=f'vllm-offline for real: {why_no_gpu()}')
def test_on_a_gpu():
    model = os.environ.get('RSR_VLLM_MODEL', 'HuggingFaceTB/SmolLM2-135M-Instruct')
    s = make_sampler('vllm-offline', model=model, max_tokens=40,
                     engine_args=dict(max_model_len=1024, gpu_memory_utilization=.3))
    async def many():
        questions = [dict(role='user', content=f'What is {i} + 1?') for i in range(32)]
        return await asyncio.gather(*[s.ask([q], 4, i) for i, q in enumerate(questions)])
    out = asyncio.run(many())
    assert [len(o) for o in out]==[4]*32
    assert {r.outcome for o in out for r in o}<={'kept', 'truncated'}
    assert all(o[0].prompt_tokens>5 for o in out)
