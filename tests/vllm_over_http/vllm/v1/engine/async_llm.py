"The engine: one HTTP request per call of `generate`, in the loop in which the engine was made."
import asyncio
import json
import multiprocessing
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace as NS

import aiohttp

from ...usage.usage_lib import UsageContext

class EngineDeadError(Exception):
    pass

WORDS = []
NUMBER = {}   # of a word

def numbers(text):
    "Return the ids of the words of a text; with their spaces they make the text again."
    words = re.findall(r'\s*\S+\s*$|\s*\S+|\s+', text)
    for word in words:
        if word not in NUMBER:
            NUMBER[word] = len(WORDS)
            WORDS.append(word)
    return [NUMBER[word] for word in words]

def decode(ids, skip_special_tokens):
    "Return the text of ids; words in square brackets are special tokens."
    text = ''.join(WORDS[i] for i in ids if i>=0)
    return re.sub(r'\[[A-Z]+\]', '', text) if skip_special_tokens else text

class Tokenizer:
    "Messages there and back: the ids are the bytes of the rendered text. `_tokenizer` makes texts of words."
    rendered = 0
    def __init__(self):
        self._tokenizer = NS(decode=decode)

    def apply_chat_template(self, messages, tokenize=True, add_generation_prompt=True, return_dict=True, **kw):
        assert tokenize and add_generation_prompt and not return_dict
        if any(m['role']=='nobody' for m in messages):
            raise ValueError('Unexpected role: nobody')
        Tokenizer.rendered += 1
        note(rendered=Tokenizer.rendered)
        return [-1-b for b in json.dumps(dict(messages=messages, kw=kw)).encode()]

def token(id):
    "Return what vLLM says of a token and its probability."
    return NS(logprob=-.5, decoded_token=WORDS[id] if id>=0 else '')

def note(**facts):
    "Add a line to the file of VLLM_TEST_ENGINES."
    if path := os.environ.get('VLLM_TEST_ENGINES'):
        with open(path, 'a') as f:
            f.write(json.dumps(dict(pid=os.getpid(), **facts))+'\n')

def core(share, held, ready):
    "The engine's own process: it says what it does, holds its memory, and works until it is ended."
    print(f'(EngineCore pid={os.getpid()}) INFO 01-01 00:00:00 [core.py:1] Initializing a V1 LLM engine', flush=True)
    if held+share>1:
        print(f'(EngineCore pid={os.getpid()}) ERROR 01-01 00:00:00 [core.py:2] ValueError: Free memory on device '
              f'cuda:0 is less than desired GPU memory utilization ({share}).', flush=True)
        print('Traceback (most recent call last):\n  File "core.py", line 2, in run_engine_core', flush=True)
        sys.exit(1)
    ready.send(True)
    while True:
        time.sleep(60)

def held():
    "Return what engines that run hold of the memory, by the lines of VLLM_TEST_ENGINES."
    path = os.environ.get('VLLM_TEST_ENGINES')
    lines = [json.loads(x) for x in open(path)] if path and Path(path).exists() else []
    return sum(x['share'] for x in lines if 'share' in x and Path(f'/proc/{x["core"]}').exists())

class AsyncLLM:
    @classmethod
    def from_engine_args(cls, args, usage_context=UsageContext.ENGINE_CONTEXT):
        self = cls()
        if not re.fullmatch(r'[\w.-]+(/[\w.-]+)?', args.model) and not Path(args.model).is_dir():
            raise ValueError("Repo id must be in the form 'repo_name' or 'namespace/repo_name': "+repr(args.model))
        self.args, self.loop = args, asyncio.get_running_loop()
        seqs = args.max_num_seqs or (1024 if usage_context is UsageContext.LLM_CLASS else 128)
        self.vllm_config = NS(parallel_config=NS(data_parallel_size=args.data_parallel_size),
                              scheduler_config=NS(max_num_seqs=seqs), cache_config=args,
                              model_config=NS(max_model_len=args.max_model_len or 32768))
        print('INFO 01-01 00:00:00 [async_llm.py:1] Starting', flush=True)
        time.sleep(float(os.environ.get('VLLM_TEST_LOAD', 0)))
        self._start_core(args)
        self.output_handler = asyncio.ensure_future(self._handle())
        return self

    def _start_core(self, args):
        method = os.environ.get('VLLM_WORKER_MULTIPROC_METHOD', 'fork')
        context, before = multiprocessing.get_context(method), held()
        here, there = context.Pipe()
        self.core = context.Process(target=core, args=(args.gpu_memory_utilization, before, there))
        self.core.start()
        there.close()
        try:
            here.recv()
        except EOFError:
            raise RuntimeError('Engine core initialization failed. See root cause above. '
                               'Failed core proc(s): {}') from None
        note(core=self.core.pid, share=args.gpu_memory_utilization, model=args.model, method=method,
             copies=args.data_parallel_size, prefix=args.enable_prefix_caching)

    async def _handle(self):
        "Wait for output; end with an error in the log if the engine is gone first."
        while self.core.is_alive():
            await asyncio.sleep(.02)
        print('ERROR 01-01 00:00:00 [async_llm.py:2] AsyncLLM output_handler failed.\n'
              'Traceback (most recent call last):\nEngineDeadError: EngineCore encountered an issue.', flush=True)

    @property
    def errored(self):
        return self.output_handler.done()

    def get_tokenizer(self):
        return Tokenizer()

    def shutdown(self):
        self.core.terminate()
        self.core.join()
        note(ended=self.core.pid, in_order=self.output_handler.cancelled())

    async def generate(self, prompt, sampling_params, request_id):
        assert asyncio.get_running_loop() is self.loop, "another event loop than the engine's"
        assert prompt['type']=='token', 'a raw prompt'
        if self.errored:
            raise EngineDeadError('EngineCore encountered an issue. See stack trace (above) for the root cause.')
        sent = json.loads(bytes(-1-i for i in prompt['prompt_token_ids']))
        body = dict(model=self.args.model, messages=sent['messages'], chat_template_kwargs=sent['kw'],
                    **sampling_params.d)
        url = os.environ['VLLM_TEST_URL']+'/chat/completions'
        async with aiohttp.ClientSession() as s, s.post(url, json=body) as resp:
            text = await resp.text()
        if resp.status==400:
            d = json.loads(text)
            raise ValueError(d['error']['message'] if 'error' in d else d['message'])
        if resp.status==500:
            raise EngineDeadError('EngineCore encountered an issue')
        d = json.loads(text)
        outs = []
        for i, c in enumerate(d['choices']):
            answer, why = c['message']['content'], c['finish_reason']
            ids = numbers(answer)+[-1]*(why=='stop')   # the token that ended it
            shown = answer if sampling_params.detokenize else ''
            outs.append(NS(index=i, text=shown, finish_reason=why, token_ids=ids,
                           logprobs=[{id: token(id)} for id in ids] if sampling_params.logprobs is not None else None))
        yield NS(prompt_token_ids=prompt['prompt_token_ids'], outputs=outs, finished=True)
