"""What a row costs, on the loopback server: `python tests/bench_cheapest.py goal batch allocate prior`.

Two models, cheap with pass rates Beta(.6, 1.2) at 1 dollar a sample, strong with Beta(1.2, .6) at 10, correlated by .7;
at most 32 samples of each to a prompt. Dollars and answers are those that the server counted. Each ratio stands beside
its target, and beside what exact dynamic programming with a known prior attains on average over prompts."""
import json
import math
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import bench_policies as best
from bench_tools import RSR, main, process, prompts_file, table
from loopback import TOKENS, joint_rate, spawn

MODELS = {name: dict(a=a, b=b, price=dict(prompt=0, completion=1e6*float(usd)/TOKENS[1]))
          for name, (a, b), usd in zip(best.NAMES, best.ARMS, best.COST)}
SEED = 1

def server(**options):
    "The loopback server with both models."
    return spawn(models=MODELS, rho=best.RHO, seed=SEED, **options)

def entry(s, name, **more):
    "A model as recipes write it."
    return dict(model=name, base_url=s.base_url, price=MODELS[name]['price'], max_tokens=TOKENS[1], **more)

def recipe(s, models, method='sft', slots=32, **more):
    "A recipe with these models."
    out = dict(sampler=[entry(s, m, concurrent_requests=slots) for m in models], verifier=dict(type='mcq-rlvr'),
               formatter=[dict(type=method)], sampling=dict(max_rollouts=best.CAP, step_size='auto'))
    if len(models)==1:
        out['sampler'] = out['sampler'][0]
    for key, value in more.items():
        out[key] = {**out[key], **value} if isinstance(value, dict) and key in out else value
    return out

def rows_of(work):
    "The rows of the files of a run."
    return [json.loads(line) for f in sorted((work/'train').glob('*.jsonl')) for line in open(f)]

def run(s, file, work, d):
    "One `rsr run` of a recipe: what the server sold, and the rows of the files."
    s.reset()
    path = work.with_suffix('.yaml')
    path.write_text(json.dumps(d))
    cmd = [RSR, 'run', path, f'data.input_path={file}', f'work_dir={work}']
    wall, _, _ = process(cmd, ok=(0, 3))   # 3: the budget is used up
    sold = s.stats()
    samples = sum(m['samples'] for m in sold['models'].values())
    batches = getattr(s, 'batches', {})
    return dict(usd=sold['usd'], samples=samples, rows=len(rows_of(work)), wall=wall, stats=sold, work=work,
                batches=len(batches), rounds=rounds_of(batches.values()))

def rounds_of(batches):
    "How often a batch was sent after all earlier ones had ended."
    n, ended = 0, 0.
    for b in sorted(batches, key=lambda b: b['created']):
        n += b['created']>=ended
        ended = max(ended, b['done'] or math.inf)
    return n

def shown(label, out, **more):
    "A row of a table."
    by = out['stats']['models']
    return dict(rule=label, rows=out['rows'], usd=out['usd'], usd_per_row=out['usd']/max(1, out['rows']),
                **{m: by.get(m, {}).get('samples', 0) for m in best.NAMES}, **more)

# ---- a goal

def goal(tmp, n=2000):
    "A goal of 90 % and of 80 % of the prompts, with both models and with one."
    file, belief = prompts_file(tmp/'in.jsonl', n), best.Belief()
    with server() as s:
        fixed = run(s, file, tmp/'fixed', recipe(s, ['strong'], sampling=dict(
            max_rollouts=16, step_size=16, early_stop=False)))
        early = run(s, file, tmp/'early', recipe(s, ['strong'], sampling=dict(max_rollouts=16)))
        per_fixed = fixed['usd']/fixed['rows']
        rows = [shown('fixed n=16, strong', fixed, ratio=1., target='', dp=''),
                shown('early stop, strong', early, ratio=early['usd']/early['rows']/per_fixed, target='', dp=.138)]
        table(f'no goal: {n} prompts; ratio to the first', rows)
        for share, alone in (.9, 'strong'), (.8, 'cheap'):
            wanted, least = dict(sft=int(share*n)), best.goal_cost(belief, share)
            one = run(s, file, tmp/f'one{share}', recipe(s, [alone], goal=wanted))
            two = run(s, file, tmp/f'two{share}', recipe(s, ['cheap', 'strong'], goal=wanted))
            per_one, per_two = one['usd']/one['rows'], two['usd']/two['rows']
            of_one = least/best.alone_cost(belief, best.NAMES.index(alone), share)
            rows = [shown(f'{alone} alone', one, ratio=1., target='', dp=1.),
                    shown('cascade', two, ratio=per_two/per_one, target=.65 if share==.9 else 1.15, dp=of_one),
                    shown('cascade, to fixed n=16', two, ratio=per_two/per_fixed, target=.1 if share==.9 else '',
                          dp=least/best.fixed_cost())]
            table(f'goal of {wanted["sft"]} rows from {n} prompts', rows)

# ---- batches

def batch(tmp, n=2000, share=.9):
    "The cascade in batches at half the price against one by one; one model in batches."
    from loopback_batch import BatchLoopback
    file, belief, wanted = prompts_file(tmp/'in.jsonl', n), best.Belief(), dict(sft=int(share*n))
    with BatchLoopback(models=MODELS, rho=best.RHO, seed=SEED, log=False, delay=.2) as s:
        one = run(s, file, tmp/'one', recipe(s, ['cheap', 'strong'], goal=wanted))
        out = run(s, file, tmp/'batch', in_batches(recipe(s, ['cheap', 'strong'], goal=wanted)))
        least = best.batch_cost(belief, share, 6)/best.goal_cost(belief, share)
        rows = [shown('one by one', one, rounds='', ratio=1., target='', dp=1.),
                shown('in batches', out, rounds=out['rounds'], ratio=out['usd']/out['rows']/(one['usd']/one['rows']),
                      target=.62, dp=least)]
        table(f'goal of {wanted["sft"]} rows from {n} prompts, batches at half the price; at most 6 rounds', rows)
        rows = []
        for arm, name in enumerate(best.NAMES):
            alone = run(s, file, tmp/f'alone{name}', recipe(s, [name]))
            out = run(s, file, tmp/f'batch{name}', in_batches(recipe(s, [name])))
            rows += [shown(f'{name} one by one', alone, batches='', ratio=1., target='', dp=1.),
                     shown(f'{name} in batches', out, batches=out['batches'], target=1.35,
                           ratio=out['samples']/alone['samples'], dp=best.rounds_alone(belief, arm, 12))]
        table(f'{n} prompts, one model: ratio of samples; at most 12 batches', rows)

def in_batches(d):
    "The recipe with every model in batches."
    for e in d['sampler'] if isinstance(d['sampler'], list) else [d['sampler']]:
        e['batch'] = True
    return d

# ---- a budget

def allocate(tmp, n=2000):
    "So many samples on average: where `allocate` spends them, against the default (step 4, in input order)."
    file, rows = prompts_file(tmp/'in.jsonl', n), []
    multi = [dict(type='multi_sft', num_responses=4, min_responses=4)]
    cases = [('sft', 'rows', 'cheap', 2, 1.4, {}), ('dpo', 'rows', 'cheap', 1.5, 1.12, {}),
             ('multi_sft', 'rows', 'cheap', 2, 2.5, dict(formatter=multi)), ('sft', 'hard', 'strong', 1, 2., {})]
    with server() as s:
        for method, how, name, mean, target, more in cases:
            usd, done = mean*n*best.COST[best.NAMES.index(name)], best.NEEDS[method]
            d = recipe(s, [name], method, budget=dict(usd=usd), **more)
            default = run(s, file, tmp/f'{method}{how}0', {**d, 'sampling': dict(max_rollouts=best.CAP, step_size=4)})
            d['sampling']['allocate'] = how
            out = run(s, file, tmp/f'{method}{how}1', d)
            ab = best.ARMS[best.NAMES.index(name)]
            if how=='hard':
                for o in default, out:
                    o['rows'] = hard_rows(o['work'])
                least, today = best.hard_rows_within(ab, mean), best.hard_rows_in_order(ab, mean)
            else:
                least, today = best.rows_within(ab, done, mean), best.rows_in_order(ab, done, mean)
            label = 'SFT rows of the hardest fifth' if how=='hard' else method
            for rule, o in ('default', default), (f'allocate: {how}', out):
                rows.append(dict(case=f'{label}, {mean} a prompt, {name}', rule=rule, samples=o['samples'],
                                 rows=o['rows'], ratio=o['rows']/max(1, default['rows']),
                                 target=target if o is out else '', dp=least/today if o is out else ''))
    table(f'{n} prompts, an equal number of samples', rows)

def hard_rows(work):
    "How many rows are of the hardest fifth of the prompts, by the strong model's pass rates."
    edge = best.hardness(best.STRONG)[0]
    rate = lambda prompt: joint_rate(prompt, 'strong', *best.STRONG, SEED, best.RHO)
    return sum(rate(re.search(r'prompt \d+', json.dumps(row))[0])<edge for row in rows_of(work))

# ---- a wrong prior

def prior(tmp, n=2000, goal=.9, seeds=4):
    "Dollars a row from a wrong start, never fitted and fitted as it goes, for those of a known prior; no server."
    from rsr.data.difficulty import Difficulty
    of = lambda cheap, strong, rho: Difficulty((cheap, strong), rho)
    starts = {'the true one': of(*best.ARMS, .7), 'correlation 0': of(*best.ARMS, 0.),
              'correlation .99': of(*best.ARMS, .99), 'uniform rates': of((1., 1.), (1., 1.), .7),
              'models swapped': of(best.STRONG, best.CHEAP, .7), 'all prompts alike': of((3., 6.), (6., 3.), .7),
              'all or nothing': of((.2, .4), (.4, .2), .7)}
    def cost(start, **kw):
        return [best.Game(n, start, seed=i, **kw).play(int(goal*n)) for i in range(seeds)]
    known, rows = cost(starts['the true one'], refit=False), []
    for label, start in starts.items():
        ratio = lambda costs: sum(a/b for a, b in zip(costs, known))/seeds
        rows.append(dict(start=label, never_fitted=ratio(cost(start, refit=False)), fitted=ratio(cost(start)),
                         target=1.04))
    table(f'goal of {goal:.0%} of {n} prompts, simulated: dollars a row for those of a known prior', rows)

ALL = dict(goal=goal, batch=batch, allocate=allocate, prior=prior)

if __name__=='__main__':
    main(ALL)
