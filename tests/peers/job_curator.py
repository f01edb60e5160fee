"The job with Curator 0.1.31: each prompt four times, the first right one is kept."
import json
import re
import sys

from bespokelabs import curator

class Solver(curator.LLM):
    def prompt(self, row):
        return row['question']

    def parse(self, row, response):
        boxed = re.findall(r'\\boxed\{(.*?)\}', response or '')
        return dict(row, text=response, passed=bool(boxed) and boxed[-1] == row['answer'])

def main(base_url, prompts, out, n=4):
    rows = [json.loads(line) for line in open(prompts)]
    data = [dict(id=r['id'], sample=i, question=r['messages'][0]['content'], answer=r['metadata']['answer'])
            for r in rows for i in range(n)]
    solver = Solver(model_name='openai/loopback-1', backend='litellm',
                    generation_params=dict(temperature=.8, max_tokens=512),
                    backend_params=dict(base_url=base_url, api_key='none', max_requests_per_minute=100_000,
                                        max_tokens_per_minute=100_000_000))
    found, kept = solver(data), {}
    for row in getattr(found, 'dataset', found):
        if row['passed']:
            kept.setdefault(row['id'], [dict(role='user', content=row['question']),
                                        dict(role='assistant', content=row['text'])])
    with open(out, 'w') as f:
        f.writelines(json.dumps(dict(messages=messages))+'\n' for messages in kept.values())

main(*sys.argv[1:])
