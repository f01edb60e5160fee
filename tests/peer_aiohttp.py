r"""The least a script can do, to compare with: asyncio, aiohttp, orjson, a semaphore; no retries, no checks, no ledger.

    python tests/peer_aiohttp.py --base_url http://127.0.0.1:PORT/v1 --prompts in.jsonl --slots 128 --out out.jsonl

Each prompt of the file is asked for `step` answers a request, up to `budget`, until one is right; no prompt waits for
another. Prints one line of JSON: requests, samples bought, prompts satisfied."""
import argparse
import asyncio
import re

import aiohttp
import orjson

RIGHT = re.compile(r'\\boxed\{A\}')

async def sample(session, gate, row, o, count):
    "Ask till one answer is right: the row to write, or None."
    for at in range(0, o.budget, o.step):
        n = min(o.step, o.budget - at)
        body = orjson.dumps(dict(model=o.model, messages=row['messages'], n=n, temperature=.7, max_tokens=2048))
        async with gate:
            async with session.post(f'{o.base_url}/chat/completions', data=body) as r:
                reply = orjson.loads(await r.read())
        texts = [c['message']['content'] or '' for c in reply['choices']]
        count['requests'] += 1
        count['samples'] += len(texts)
        if good := next((t for t in texts if RIGHT.search(t)), None):
            return {'messages': [*row['messages'], {'role': 'assistant', 'content': good}]}

async def main(o):
    with open(o.prompts, 'rb') as f:
        prompts = [orjson.loads(line) for line in f]
    count, gate = dict(requests=0, samples=0, satisfied=0), asyncio.Semaphore(o.slots)
    headers = {'Content-Type': 'application/json'}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:
        rows = await asyncio.gather(*(sample(session, gate, row, o, count) for row in prompts))
    rows = [r for r in rows if r]
    count['satisfied'] = len(rows)
    with open(o.out, 'wb') as f:
        f.writelines(orjson.dumps(r) + b'\n' for r in rows)
    return count

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for k in 'base_url', 'prompts':
        p.add_argument(f'--{k}', required=True)
    for k, v in dict(slots=128, step=4, budget=16).items():
        p.add_argument(f'--{k}', type=int, default=v)
    p.add_argument('--model', default='loopback-1')
    p.add_argument('--out', default='/dev/null')
    o = p.parse_args()
    print(orjson.dumps(asyncio.run(main(o))).decode())
