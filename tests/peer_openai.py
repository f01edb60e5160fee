r"""The plain script to compare with: asyncio, the openai SDK, a semaphore, nothing else.

    python tests/peer_openai.py --base_url http://127.0.0.1:PORT/v1 --prompts 1000 --slots 128 --step 4 --out peer.jsonl

Each prompt is asked for `step` answers a request, up to `budget`, until one is right; no prompt waits for another.
Prints one line of JSON: seconds since the process began, samples bought, prompts satisfied."""
import time

BEGAN = time.perf_counter() - time.process_time()  # the interpreter's own start counts too

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import resource  # noqa: E402

from openai import AsyncOpenAI, OpenAIError  # noqa: E402

RIGHT = re.compile(r'\\boxed\{A\}')

async def sample(client, gate, prompt, o, count):
    "Ask till one answer is right: the row to write, or None."
    messages = [{'role': 'user', 'content': prompt}]
    for at in range(0, o.budget, o.step):
        async with gate:
            count['requests'] += 1
            try:
                r = await client.chat.completions.create(model=o.model, messages=messages, n=min(o.step, o.budget - at),
                                                         temperature=.7)
            except OpenAIError:
                count['failed'] += 1
                return
        texts = [c.message.content or '' for c in r.choices]
        count['samples'] += len(texts)
        if good := next((t for t in texts if RIGHT.search(t)), None):
            return {'messages': [*messages, {'role': 'assistant', 'content': good}]}

async def main(o):
    count = dict(requests=0, samples=0, satisfied=0, failed=0)
    gate = asyncio.Semaphore(o.slots)
    async with AsyncOpenAI(base_url=o.base_url, api_key='none') as client:
        rows = await asyncio.gather(*(sample(client, gate, f'prompt {i}', o, count) for i in range(o.prompts)))
    rows = [r for r in rows if r]
    count['satisfied'] = len(rows)
    with open(o.out, 'w') as f:
        f.writelines(json.dumps(r) + '\n' for r in rows)
    return count

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--base_url', required=True)
    for k, v in dict(prompts=1000, slots=128, step=4, budget=16).items():
        p.add_argument(f'--{k}', type=int, default=v)
    p.add_argument('--model', default='loopback-1')
    p.add_argument('--out', default='/dev/null')
    o = p.parse_args()
    sampling = time.perf_counter()
    count = asyncio.run(main(o))
    end, use = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps(dict(wall=round(end - BEGAN, 3), sampling=round(end - sampling, 3), **count,
                          cpu=round(use.ru_utime + use.ru_stime, 3), peak_mb=round(use.ru_maxrss / 1024, 1))))
