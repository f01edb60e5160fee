"Runs for the examples in this folder: ledgers filled by hand, so that no model is called."
import random
import tempfile
from pathlib import Path

import pandas as pd
import yaml

from rsr.data.store import Store
from rsr.data.types import Prompt, Rollout, Score
from rsr.rubric.criteria import load_rubric
from rsr.rubric.evaluate import RubricVerifier
from rsr.run.results import load_run

SERVER = 'http://127.0.0.1:8000/v1'
SAMPLER, VERIFIER = 1, 2   # their keys in a new ledger
HOSTILE = ['<script>window.hacked=1</script>', '<img src=x onerror="window.hacked=1">', '</pre></div><h1>gone</h1>',
           '\u202egnp.exe\u202c', '$x^2$ **bold** `code`']
REASONS = ['since it is the square and one more row.', 'which I have checked twice.',
           'as the square and the number itself say.']


# ---- products to work out: a small run to explore

def response(i, right, rng):
    "Return a response to prompt `i`, and its answer; one response in twelve holds hostile text."
    answer = i*(i+1)+(0 if right else rng.randrange(1, 9))
    thinking = f'<think>{i} times {i} is {i*i}, and {i} more.</think>'
    opening = rng.choice(['I take', 'So we have', 'That makes'])
    text = f'{thinking}{opening} {i} × {i+1} = {answer}, {rng.choice(REASONS)}'
    if rng.random()<.08:
        text += ' '+rng.choice(HOSTILE)
    return text, str(answer)

def score(right, answer, rng):
    "Return a score in steps of 0.05, with what a rubric's judge would say of it."
    value = rng.randrange(15, 21)/20 if right else rng.randrange(15)/20
    detail = dict(correct=dict(answer='YES' if right else 'NO', reason='compared with the product'),
                  explained=dict(answer='YES' if value>.5 else 'NO', reason=''))
    return Score(value, 'right and explained' if value>=.9 else 'one step is not explained', answer, detail)

def fill_prompt(store, i, key, skill, rollouts, rng):
    "Sample one prompt: some responses are truncated, a few have no score."
    for k in store.ask(key, range(rollouts), 1, SAMPLER, 512):
        right = rng.random()<skill
        text, answer = response(i, right, rng)
        cut = rng.random()<.06
        store.answer(Rollout(text, outcome='truncated' if cut else 'kept', finish_reason='length' if cut else 'stop',
                             completion_tokens=len(text)//4, key=k))
        if not cut and rng.random()<.98:
            store.add_score(k, VERIFIER, score(right, answer, rng))

def products(prompts=60, rollouts=8, seed=0):
    "Return a run of products to work out, from hopeless prompts to easy ones."
    path, rng = Path(tempfile.mkdtemp())/'run', random.Random(seed)
    store = Store(path)
    turns = [[dict(role='user', content=f'What is {i} times {i+1}? Give a reason.')] for i in range(prompts)]
    store.add_prompts((f'row {i}', Prompt(f'q{i}', t, dict(answer=str(i*(i+1))))) for i, t in enumerate(turns))
    store.config_key('sampler', dict(model='demo'))
    store.put('verifier', store.config_key('verifier', dict(type='demo')))
    for i, (prompt, *_) in enumerate(list(store.walk())):
        fill_prompt(store, i, prompt.key, (i-5)/(prompts-10), rollouts, rng)
        store.stop(prompt.key, 'satisfied' if i>prompts//5 else 'max_rollouts')
    store.close()
    limits = dict(pass_threshold=.8, fail_threshold=.4)
    formatters = [dict(type='sft', pass_threshold=.8), dict(type='dpo', **limits, min_margin=.15),
                  dict(type='multi_sft', pass_threshold=.8, num_responses=4), dict(type='kto', **limits),
                  dict(type='grpo', pass_threshold=.8, band=[0, 1])]
    recipe = dict(sampler=dict(model='demo', base_url=SERVER), formatter=formatters)
    (path/'recipe.yaml').write_text(yaml.safe_dump(recipe, sort_keys=False))
    return load_run(path)


# ---- a help desk, judged by the shipped rubric: a run to draw

def taxonomy_cell(rng):
    "Draw a prompt's place in the taxonomy."
    stance = rng.choices(['calm', 'furious', 'ironic'], [.6, .3, .1])[0]
    topic = rng.choices(['billing/refund', 'billing/invoice', 'delivery', 'account'], [.25, .15, .35, .25])[0]
    edge_case = rng.choices([None, 'two_languages', 'empty_order'], [.85, .1, .05])[0]
    return dict(what=topic, stance=stance, edge_case=edge_case)

def answers(rubric, skill, rng):
    "Draw the judge's answer to each criterion."
    def one(c):
        if c.na_valid and rng.random()<.35:
            return 'NA'
        ease = .12 if c.gate else (1., .6, .3)[len(c.id)%3]
        return 'YES' if rng.random()<skill**ease else 'NO'
    drawn = {c.id:one(c) for c in rubric.criteria}
    return {**drawn, rubric.ids[1]:'ERROR'} if rng.random()<.03 else drawn

def help_desk_rollout(store, rubric, skill, key, rng):
    "Answer one rollout and score it; return the score, or None."
    drawn = answers(rubric, skill, rng)
    tokens = int(rng.lognormvariate(4.4+.12*list(drawn.values()).count('YES'), .35))
    outcome = 'failed' if rng.random()<.01 else 'truncated' if tokens>=512 else 'kept'
    tokens = 0 if outcome=='failed' else min(512, tokens)
    latency = .15+tokens*.012*rng.lognormvariate(0, .2)
    store.answer(Rollout('word '*tokens, outcome=outcome, key=key, prompt_tokens=60, completion_tokens=tokens,
                         latency=latency))
    if outcome!='kept':
        return None
    value = rubric.compute_score(drawn)
    detail = {i:dict(answer=a, reason='') for i, a in drawn.items()}
    store.add_score(key, VERIFIER, Score(value, 'the judge gave no verdict' if value is None else '', detail=detail))
    return value

def sample_help_desk(store, rubric, skills, rng):
    "Sample four rollouts per step and prompt, until a pair is found or 16 rollouts are spent."
    seen = {k:[] for k in skills}
    for step in range(1, 5):
        for key in list(seen):
            keys = store.ask(key, range(4*step-4, 4*step), step, SAMPLER, 512, blind=step==1)
            got = [help_desk_rollout(store, rubric, skills[key], k, rng) for k in keys]
            known = seen[key] = seen[key]+[s for s in got if s is not None]
            paired = bool(known) and min(known)<.8-1e-9<=max(known) and max(known)-min(known)>=.15
            if paired or step==4 or (step==2 and rng.random()<.2):
                store.stop(key, 'satisfied' if paired else 'max_rollouts' if step==4 else 'gave_up')
                del seen[key]

def help_desk(seed=0, temperature=.7, lift=0., prompts=200):
    "Return a run of prompts to a help desk; `lift` makes its model better."
    path, rng, rubric = Path(tempfile.mkdtemp()), random.Random(seed), load_rubric('customer_support')
    recipe = dict(sampler=dict(model='small', base_url=SERVER, temperature=temperature, max_tokens=512),
                  verifier=dict(type='rubric', rubric='customer_support'),
                  formatter=[dict(type='dpo', pass_threshold=.8, fail_threshold=None, min_margin=.15)],
                  sampling=dict(max_rollouts=16, step_size=4))
    (path/'recipe.yaml').write_text(yaml.safe_dump(recipe))
    store = Store(path)
    cells = [taxonomy_cell(rng) for _ in range(prompts)]
    turns = [dict(role='user', content='Where is my order?')]
    store.add_prompts([(f'line {i}', Prompt(f'q{i}', turns, dict(taxonomy=c))) for i, c in enumerate(cells)])
    store.config_key('sampler', recipe['sampler'])
    store.put('verifier', store.config_key('verifier', RubricVerifier(rubric).config))
    skills = {key:rng.betavariate(2.5, 1)-.25*(c['stance']=='furious')+lift for key, c in enumerate(cells, 1)}
    sample_help_desk(store, rubric, {k:min(.99, max(.02, s)) for k, s in skills.items()}, rng)
    store.commit()
    store.close()
    return load_run(path)


# ---- a cascade of two models

def two_models(prompts=300, seed=0):
    "Return a run of a cascade: the small model up to ten times, then the large one up to four times."
    path, rng = Path(tempfile.mkdtemp())/'run', random.Random(seed)
    store, rates = Store(path), dict(small=(.6, 1.2), large=(1.2, .6))
    store.add_prompts((f'row {i}', Prompt(f'q{i}', [dict(role='user', content=f'Question {i}')], dict(answer='A')))
                      for i in range(prompts))
    samplers = {name: store.config_key('sampler', dict(model=name)) for name in rates}
    store.put('cascade_models', {str(key): name for name, key in samplers.items()})
    verifier = store.config_key('verifier', dict(type='demo'))
    store.put('verifier', verifier)
    for prompt, *_ in list(store.walk()):
        right, idx = False, 0
        for name, most in dict(small=10, large=4).items():
            rate = rng.betavariate(*rates[name])
            for _ in range(most):
                if right:
                    break
                key, = store.ask(prompt.key, [idx], idx+1, samplers[name], 512)
                right, idx = rng.random()<rate, idx+1
                store.answer(Rollout('A', outcome='kept', finish_reason='stop', completion_tokens=40, key=key))
                store.add_score(key, verifier, Score(float(right)))
        store.stop(prompt.key, 'satisfied' if right else 'max_rollouts')
    store.close()
    recipe = dict(sampler=dict(model='small', base_url=SERVER), formatter=[dict(type='sft')])
    (path/'recipe.yaml').write_text(yaml.safe_dump(recipe, sort_keys=False))
    return load_run(path)


# ---- rollouts in a DataFrame, to count by hand

def seven_rollouts():
    "Return seven rollouts of three prompts as a DataFrame."
    rows = [('a', 'kept', 1.), ('a', 'kept', 0.), ('a', 'truncated', None), ('b', 'kept', .5), ('b', 'kept', None),
            ('b', 'kept', 0.), ('c', 'kept', 1.)]
    return pd.DataFrame(rows, columns=['prompt', 'outcome', 'score'])
