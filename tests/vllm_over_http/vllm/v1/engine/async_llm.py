"The engine: one HTTP request per call of `generate`, in the loop in which the engine was made."
import asyncio
import json
import os
from types import SimpleNamespace as NS

import aiohttp

MADE = []

class EngineDeadError(Exception):
    pass

class Tokenizer:
    "Messages there and back: the ids are the bytes of the rendered text."
    def apply_chat_template(self, messages, tokenize=True, add_generation_prompt=True, return_dict=True, **kw):
        assert tokenize and add_generation_prompt and not return_dict
        return list(json.dumps(dict(messages=messages, kw=kw)).encode())

class AsyncLLM:
    @classmethod
    def from_engine_args(cls, args):
        self = cls()
        self.args, self.loop = args, asyncio.get_running_loop()
        MADE.append(self)
        return self

    async def get_tokenizer(self):
        return Tokenizer()

    async def generate(self, prompt, sampling_params, request_id):
        assert asyncio.get_running_loop() is self.loop, "another event loop than the engine's"
        sent = json.loads(bytes(prompt['prompt_token_ids']))
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
            answer = c['message']['content']
            outs.append(NS(index=i, text=answer, finish_reason=c['finish_reason'], token_ids=answer.split()))
        yield NS(prompt_token_ids=prompt['prompt_token_ids'], outputs=outs, finished=True)
