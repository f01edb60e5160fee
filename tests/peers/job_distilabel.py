"The job with distilabel 1.5.3: a task with four generations, a step that verifies, the first right one is kept."
import json
import re
import sys

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepInput, step
from distilabel.steps.tasks import TextGeneration

@step(inputs=['generation', 'answer'], outputs=['passed'])
def Verify(inputs: StepInput):
    for row in inputs:
        boxed = re.findall(r'\\boxed\{(.*?)\}', row['generation'] or '')
        row['passed'] = bool(boxed) and boxed[-1] == row['answer']
    yield inputs

def main(base_url, prompts, out, n=4):
    rows = [json.loads(line) for line in open(prompts)]
    data = [dict(id=r['id'], instruction=r['messages'][0]['content'], answer=r['metadata']['answer']) for r in rows]
    with Pipeline() as pipeline:
        llm = OpenAILLM(model='loopback-1', base_url=base_url, api_key='none',
                        generation_kwargs=dict(temperature=.8, max_new_tokens=512))
        generate = TextGeneration(llm=llm, num_generations=n, input_batch_size=32)
        LoadDataFromDicts(data=data, batch_size=32) >> generate >> Verify()
    kept = {}
    for row in pipeline.run(use_cache=False)['default']['train']:
        if row['passed']:
            kept.setdefault(row['id'], [dict(role='user', content=row['instruction']),
                                        dict(role='assistant', content=row['generation'])])
    with open(out, 'w') as f:
        f.writelines(json.dumps(dict(messages=messages))+'\n' for messages in kept.values())

if __name__ == '__main__':
    main(*sys.argv[1:])
