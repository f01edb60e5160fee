"The job as a script: four samples of each prompt, the first right one is kept."
import asyncio
import json
import re
import sys

from openai import AsyncOpenAI

async def main(base_url, prompts, out, n=4):
    client, slots = AsyncOpenAI(base_url=base_url, api_key='none'), asyncio.Semaphore(32)
    async def solve(row):
        async with slots:
            reply = await client.chat.completions.create(model='loopback-1', messages=row['messages'], n=n, seed=0,
                                                         temperature=.8, max_tokens=512)
        for choice in reply.choices:
            boxed = re.findall(r'\\boxed\{(.*?)\}', choice.message.content or '')
            if boxed and boxed[-1] == row['metadata']['answer']:
                return dict(messages=[*row['messages'], dict(role='assistant', content=choice.message.content)])
    rows = [json.loads(line) for line in open(prompts)]
    kept = [row for row in await asyncio.gather(*map(solve, rows)) if row]
    with open(out, 'w') as f:
        f.writelines(json.dumps(row)+'\n' for row in kept)

asyncio.run(main(*sys.argv[1:]))
