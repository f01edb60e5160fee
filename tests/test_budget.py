"""Budgets are the run's: over resumes, sides, judges and stages; what is in flight is reserved; halves and gaps.

Real loopback servers, the real command line in processes of its own, real ledgers."""
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import RSR, read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback

from rsr import sample
from rsr.data.types import RsrError
from rsr.sampling.budget import Budget, limit_message, model_price, usage_of
from rsr.taxonomy.classify import label_rows

PRICE = 'sampler.price={prompt: 1, completion: 1}'

def sized(tokens, each=100, prompt=20):
    "A server's reply with `each` completion tokens a choice (a number, or a function of the number of requests)."
    seen = []
    def reply(body):
        seen.append(body)
        n = body.get('n', 1)
        size = [each(len(seen)) if callable(each) else each for _ in range(n)]
        choices = [dict(index=i, message=dict(role='assistant', content=r'It is \boxed{B}'), finish_reason='stop')
                   for i in range(n)]
        usage = tokens and dict(prompt_tokens=prompt, completion_tokens=sum(size))
        return dict(object='chat.completion', choices=choices, **({'usage':usage} if usage else {}))
    return reply

def command(server, n=50, *options, recipe='sft', **kw):
    "`rsr run` on prompts that never pass."
    if not Path('in.jsonl').exists():
        write_jsonl('in.jsonl', rows(n))
    return rsr('run', recipe, 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w', *options,
               **kw)

def ledger(query, work='w'):
    with closing(sqlite3.connect(f'{work}/run.db')) as db:
        return db.execute(query).fetchall()

def used(work='w'):
    return sum(ledger(f'SELECT coalesce(sum(coalesce(prompt_tokens,0)+coalesce(completion_tokens,0)),0) FROM {t}',
                      work)[0][0] for t in ('rollouts', 'calls'))

def stats(work='w'):
    return json.loads(Path(work, 'summary/stats.json').read_text())

# ---- the run's, not the process's

def test_tokens_count_over_all_processes(here, server):
    server.set(rate=0.)
    p = command(server, 50, 'budget.tokens=3000', 'sampler.max_tokens=64')
    assert p.returncode==3 and 'budget.tokens: 3,000 (' in p.stdout, p.stdout+p.stderr
    spent, sent = used(), server.stats()['requests']
    assert 2500<spent<=3000+64+20
    for _ in range(3):
        p = command(server, 50, 'budget.tokens=3000', 'sampler.max_tokens=64')
        assert p.returncode==3 and f'({spent:,} spent, all of it by earlier processes' in p.stdout, p.stdout
        assert 'raise it to go on' in p.stdout
    assert server.stats()['requests']==sent and used()==spent and Path('w/train').is_dir()
    p = command(server, 50, 'budget.tokens=6000', 'sampler.max_tokens=64')
    assert p.returncode==3 and spent<used()<=6000+64+20
    assert f'{spent:,} of it by earlier processes' in p.stdout

def test_dollars_count_over_all_processes(here, server):
    "The reported case: resumed three times, 0.002 became 0.0085."
    server.set(rate=0.)
    for _ in range(4):
        p = command(server, 50, 'budget.usd=0.002', PRICE, 'sampler.max_tokens=64')
        assert p.returncode==3, p.stdout+p.stderr
    assert stats()['cost']<=.002+2e-4 and "budget.usd: 0.002 (" in p.stdout
    assert stats()['cost']==pytest.approx(used()/1e6)

def test_what_a_killed_process_spent_counts(here, server):
    server.set(rate=0., median=.02)
    write_jsonl('in.jsonl', rows(200))
    args = [RSR, 'run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
            'budget.tokens=6000', 'sampler.max_tokens=64', 'sampler.concurrent_requests=4']
    p = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic()+120
    while server.stats()['requests']<30 and time.monotonic()<end:
        time.sleep(.02)
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    before = used()
    assert 0<before<6000
    p = rsr(*args[1:])
    assert p.returncode==3 and f'{before:,} of it by earlier processes' in p.stdout, p.stdout
    assert used()<=6000+64+20

def test_a_finished_run_is_finished_whatever_it_spent(here, server):
    server.set(rate=1.)
    assert command(server, 5).returncode==0
    assert used()>50
    n = server.stats()['requests']
    for limit in 'budget.tokens=50', 'budget.tokens=0', 'budget.minutes=0':
        p = command(server, 5, limit)
        assert p.returncode==0, p.stdout+p.stderr
    assert server.stats()['requests']==n

def test_minutes_are_a_processs(here, server):
    server.set(median=.1, rate=0.)
    for _ in range(2):
        n = server.stats()['requests']
        p = command(server, 500, 'budget.minutes=0.02', 'sampler.concurrent_requests=4')
        assert p.returncode==3 and 'budget.minutes: 0.02 (' in p.stdout and server.stats()['requests']>n

# ---- what is in flight is reserved

@pytest.mark.parametrize('step', [1, 4])
def test_long_answers_pass_a_limit_by_one_sample_at_most(here, step):
    with Loopback(reply=sized(True, 900), median=.02) as s:
        p = command(s, 50, 'budget.tokens=5000', 'sampler.max_tokens=1000', f'sampling.step_size={step}')
        assert p.returncode==3 and 3500<used()<=5000+1000+20, (used(), p.stdout)

def test_answers_that_become_long(here):
    "Short answers say little of what follows: the reservation holds all the same."
    each = lambda k: 50 if k<12 else 990
    with Loopback(reply=sized(True, each), median=.02) as s:
        p = command(s, 50, 'budget.tokens=5000', 'sampler.max_tokens=1000')
        assert p.returncode==3 and used()<=5000+1000+20, used()

def test_a_limit_below_one_answer_buys_one_sample(here):
    with Loopback(reply=sized(True, 900), median=.02) as s:
        p = command(s, 50, 'budget.tokens=500')
        assert p.returncode==3 and used()==920 and s.stats()['samples']==1

def test_the_limit_in_another_word_for_max_tokens(here):
    with Loopback(reply=sized(True, 90), median=.02) as s:
        p = command(s, 50, 'budget.tokens=5000', 'sampler.extra_params={max_tokens: null, max_completion_tokens: 100}')
        assert p.returncode==3 and 4800<used()<=5000+120 and s.stats()['max_inflight']>1

def test_a_large_budget_slows_nothing(here, server):
    server.set(rate=0., median=.1)
    write_jsonl('in.jsonl', rows(30))
    def seconds(name, **kw):
        run = sample('in.jsonl', 'sft', base_url=server.base_url, work_dir=name, max_rollouts=8, progress=False, **kw)
        assert run.exit_code==4     # none passed
        return run.stats()['seconds']
    free, limited = seconds('free'), seconds('limited', tokens=10_000_000)
    assert limited<free*2+1

def test_random_costs_never_pass_by_more_than_one_sample():
    rng = random.Random(1)
    for _ in range(200):
        most, limit, slots = rng.randint(50, 2000), rng.randint(100, 20_000), rng.randint(1, 60)
        budget, flying = Budget(tokens=limit, price=(1e-6, 1e-6)), []
        while True:
            while len(flying)<slots and not budget.over():
                n = budget.most(rng.randint(1, 8), usage_of('sampler', 0, most, budget.price, 1))
                worst = usage_of('sampler', 30, n*most, budget.price, n)
                budget.reserve(worst)
                flying.append((worst, n))
            if not flying:
                break
            worst, n = flying.pop(rng.randrange(len(flying)))
            budget.release(worst)
            budget.spend(30, sum(rng.choice((1, most//8, most)) for _ in range(n)), n=n)
        assert budget.tokens<=limit+most+30 and budget.reserved.samples==0

# ---- a limit of 0, wrong limits

@pytest.mark.parametrize('limit', ['budget.usd=0', 'budget.tokens=0', 'budget.minutes=0'])
@pytest.mark.parametrize('price', [PRICE, 'sampler.price={prompt: 0, completion: 0}'])
def test_zero_buys_nothing(here, server, limit, price):
    p = command(server, 5, limit, price)
    assert p.returncode==3 and f"{limit.split('=')[0]}: 0 (" in p.stdout, p.stdout+p.stderr
    assert server.stats()['requests']==0 and Path('w/summary/stats.json').is_file()

def test_zero_still_writes_what_is_there(here, server):
    server.set(rate=.5, seed=3)
    command(server, 30, 'budget.tokens=2000', 'sampler.max_tokens=64')
    had = read_jsonl('w/train/sft.jsonl')
    Path('w/train/sft.jsonl').unlink()
    n = server.stats()['requests']
    assert command(server, 30, 'budget.tokens=0').returncode==3
    assert had and read_jsonl('w/train/sft.jsonl')==had and server.stats()['requests']==n

@pytest.mark.parametrize('option', [f'budget.{k}={v}' for k in ('usd', 'tokens', 'minutes')
                                    for v in ('-1', '.nan', '.inf', 'much', 'true', '[1]')])
def test_wrong_limits(here, server, option):
    p = command(server, 2, option, PRICE)
    assert p.returncode==2 and option.split('=')[0] in p.stderr and 'Traceback' not in p.stderr
    assert server.stats()['requests']==0 and not Path('w').exists()

@pytest.mark.parametrize('limits', [dict(tokens=-1), dict(minutes=float('nan')), dict(usd='5'), dict(tokens=True)])
def test_wrong_limits_from_python(limits):
    with pytest.raises(RsrError, match=f'budget.{next(iter(limits))}'):
        Budget(price=(0., 0.), **limits)

# ---- prices

@pytest.mark.parametrize('price,missing', [('{prompt: 1}', 'completion is missing'), ('{completion: 1}', 'prompt is'),
                                           ('{}', 'prompt and completion are missing'),
                                           ('{prompt: 1, completion: null}', 'completion is missing'),
                                           ('{prompt: 1, completion: -1}', 'numbers from 0 up'),
                                           ('{prompt: 1, completion: .nan}', 'numbers from 0 up'),
                                           ('{prompt: 1, completion: cheap}', 'numbers from 0 up'),
                                           ('{prompt: 1, completion: true}', 'numbers from 0 up'),
                                           ('{prompt: 1, completion: 1, cached: 1}', 'is not {prompt'),
                                           ('1', 'sampler.price')])
def test_half_a_price_is_an_error(here, server, price, missing):
    p = command(server, 2, f'sampler.price={price}')
    assert p.returncode==2 and 'sampler.price' in p.stderr and missing in p.stderr, p.stderr
    assert 'Traceback' not in p.stderr and server.stats()['requests']==0 and not Path('w').exists()

@pytest.mark.parametrize('options,key', [
    (['verifier.price={prompt: 1}', 'verifier.type=mcq-llm-as-judge', 'verifier.model=j'], 'verifier.price'),
    (['verifier.type=rubric', 'verifier.rubric=helpful_answer',
      'verifier.judges=[{model: a}, {model: b, price: {prompt: 1}}]'], 'verifier.judges[1].price')])
def test_half_a_judges_price(here, server, options, key):
    p = command(server, 2, f'verifier.base_url={server.base_url}', *options)
    assert p.returncode==2 and f'{key}: completion is missing' in p.stderr, p.stderr
    assert server.stats()['requests']==0

def test_half_a_sides_price(here, server):
    p = command(server, 2, 'pairs.weak={model: w, price: {prompt: 1}}', recipe='strong_vs_weak')
    assert p.returncode==2 and 'pairs.weak.price: completion is missing' in p.stderr, p.stderr

def test_half_an_entry_of_the_table_is_no_price(monkeypatch):
    import rsr.sampling.budget as budget
    monkeypatch.setattr(budget, '_price_text', lambda: b'{"half": {"input_cost_per_token": 1e-6}}')
    assert model_price('half') is None
    with pytest.raises(RsrError, match='sampler.price'):
        Budget(usd=1, price=model_price('half'))

def test_a_judge_without_a_price_cannot_be_limited_in_dollars(here, server):
    options = ['verifier.type=mcq-llm-as-judge', 'verifier.model=mine', f'verifier.base_url={server.base_url}',
               'sampler.model=other', 'sampler.price={prompt: 0, completion: 0}', 'budget.usd=1']
    p = command(server, 2, *options)
    assert p.returncode==2 and 'budget.usd needs verifier.price' in p.stderr, p.stderr
    assert server.stats()['requests']==0
    p = command(server, 2, *options, 'verifier.price={prompt: 1, completion: 1}')
    assert p.returncode in (0, 4), p.stderr

def test_an_older_run_with_half_a_price_stays_readable(here, server):
    server.set(rate=1.)
    command(server, 3, PRICE)
    text = Path('w/recipe.yaml').read_text()
    Path('w/recipe.yaml').write_text(text.replace('    completion: 1\n', ''))
    assert '    completion: 1\n' not in Path('w/recipe.yaml').read_text()
    p = rsr('stats', 'w')
    assert p.returncode==0 and 'US dollars' in p.stdout, p.stderr

# ---- judges

def judged(judge, *options):
    return ['verifier.type=mcq-llm-as-judge', 'verifier.model=j', f'verifier.base_url={judge.base_url}',
            'sampler.max_tokens=64', 'sampling.early_stop=false', *options]

def test_a_judges_tokens_count_over_resumes(here, server):
    server.set(rate=0.)
    with Loopback(reply=lambda body: 'It says B. '*20+'\nANSWER: B') as judge:
        options = judged(judge, 'budget.tokens=8000')
        first = command(server, 50, *options)
        spent, sent = used(), (server.stats()['requests'], judge.stats()['requests'])
        assert first.returncode==3 and ledger('SELECT count(*) FROM calls')[0][0]>5 and 5000<spent<9500, spent
        again = command(server, 50, *options)
        assert again.returncode==3 and 'all of it by earlier processes' in again.stdout
        assert (server.stats()['requests'], judge.stats()['requests'])==sent and used()==spent

def test_scoring_again_stops_at_the_limit(here, server):
    "Another judge on rollouts that exist: nothing is sampled, and the limit holds."
    server.set(rate=0.)
    assert command(server, 40, 'sampling.max_rollouts=4').returncode in (0, 4)
    sampled, n = used(), server.stats()['requests']
    with Loopback(reply=lambda body: 'It says B. '*20+'\nANSWER: B', median=.01) as judge:
        options = judged(judge, 'sampling.max_rollouts=4')
        p = command(server, 40, *options, f'budget.tokens={sampled}')
        assert p.returncode==3 and judge.stats()['requests']==0, p.stdout
        p = command(server, 40, *options, f'budget.tokens={sampled+3000}')
        assert p.returncode==3 and 0<judge.stats()['requests']<160 and used()<=sampled+3000+400, p.stdout
        asked = judge.stats()['requests']
        p = command(server, 40, *options)
        assert p.returncode in (0, 4) and judge.stats()['requests']==160>asked and server.stats()['requests']==n

# ---- servers that send no usage

def test_without_usage_tokens_are_estimated(here):
    with Loopback(reply=sized(False)) as s:
        p = command(s, 50, 'budget.tokens=2000', 'sampler.max_tokens=64')
        assert p.returncode==3 and 'tokens estimated from the text' in p.stdout, p.stdout+p.stderr
        assert 1500<used()<=2000+64+20 and stats()['tokens']['estimated']
        assert 'estimated from the text' in rsr('stats', 'w').stdout
        n = s.stats()['requests']
        assert command(s, 50, 'budget.tokens=2000', 'sampler.max_tokens=64').returncode==3 and s.stats()['requests']==n
    (prompt, completion), = ledger('SELECT max(prompt_tokens), max(completion_tokens) FROM rollouts')
    assert 4<prompt<=12 and completion==-(-len(r'It is \boxed{B}')//4)

@pytest.mark.parametrize('n', [None, 0])
def test_usage_of_nothing_is_no_usage(here, n):
    def reply(body):
        choice = dict(index=0, message=dict(role='assistant', content='漢字'*30), finish_reason='stop')
        return dict(object='chat.completion', choices=[choice], usage=dict(prompt_tokens=n, completion_tokens=n))
    with Loopback(reply=reply) as s:
        command(s, 1, 'sampling.max_rollouts=1', 'sampling.step_size=1')
    assert ledger('SELECT completion_tokens FROM rollouts')==[(45,)] and stats()['tokens']['estimated']

def test_a_judge_without_usage_is_estimated(here, server):
    server.set(rate=0.)
    def reply(body):
        choice = dict(index=0, message=dict(role='assistant', content='ANSWER: B'))
        return dict(object='chat.completion', choices=[choice])
    with Loopback(reply=reply) as judge:
        command(server, 2, *judged(judge, 'sampling.max_rollouts=2', 'sampling.step_size=2'))
    calls = ledger('SELECT prompt_tokens, completion_tokens FROM calls')
    assert calls and all(p>20 and c==3 for p, c in calls) and stats()['tokens']['estimated']

def test_counts_of_the_server_are_not_touched(here, server):
    server.set(rate=1.)
    command(server, 3)
    assert 'estimated' not in stats()['tokens'] and 'estimated' not in rsr('stats', 'w').stdout

# ---- several models in one run

def test_each_sampler_counts_at_its_price(here, server):
    "After resume.mix, what the other model sampled counts at the price of that model."
    server.set(rate=0.)
    options = ['sampling.max_rollouts=4', 'sampling.max_steps=4']
    command(server, 4, 'sampler.model=gpt-4o-mini', *options)
    first = ledger('SELECT sum(prompt_tokens), sum(completion_tokens) FROM rollouts')[0]
    p = command(server, 4, 'sampler.model=mine', 'resume.mix=true', 'sampler.price={prompt: 100, completion: 200}',
                'sampling.max_rollouts=8', 'sampling.max_steps=8', 'budget.usd=100')
    assert p.returncode in (0, 4), p.stderr
    both = ledger('SELECT sum(prompt_tokens), sum(completion_tokens) FROM rollouts')[0]
    mini = model_price('gpt-4o-mini')
    want = sum(a*m for a, m in zip(first, mini))+sum((b-a)*m for a, b, m in zip(first, both, (100e-6, 200e-6)))
    assert stats()['cost']==pytest.approx(want)
    p = command(server, 4, 'sampler.model=mine', 'resume.mix=true', 'sampler.price={prompt: 100, completion: 200}',
                'sampling.max_rollouts=16', 'sampling.max_steps=16', f'budget.usd={want/2}')
    assert p.returncode==3 and 'all of it by earlier processes' in p.stdout

def test_both_sides_of_pairs_draw_on_one_budget(here, server):
    server.set(rate=.5)
    options = ['sampler.model=strong', 'pairs.weak={model: weak, price: {prompt: 0, completion: 0}}',
               'budget.tokens=3000', 'sampler.max_tokens=64']
    for _ in range(2):
        p = command(server, 30, *options, recipe='strong_vs_weak')
        assert p.returncode==3, p.stdout+p.stderr
    assert used()<=3000+64+20

def test_each_side_of_pairs_has_its_price(here, server):
    server.set(rate=.5)
    p = command(server, 6, 'sampler.model=strong', 'sampler.price={prompt: 10, completion: 20}',
                'pairs.weak={model: weak, price: {prompt: 1, completion: 2}}', 'budget.usd=10', recipe='strong_vs_weak')
    assert p.returncode in (0, 4), p.stderr
    sums = ledger("""SELECT json_extract(c.config, '$.model'), sum(prompt_tokens), sum(completion_tokens)
                     FROM rollouts r JOIN configs c ON c.key=r.sampler GROUP BY 1""")
    prices = dict(strong=(10e-6, 20e-6), weak=(1e-6, 2e-6))
    assert len(sums)==2
    assert stats()['cost']==pytest.approx(sum(p*prices[m][0]+c*prices[m][1] for m, p, c in sums))

# ---- other commands

def test_labels_count_over_calls(here):
    desk = dict(dimensions=dict(what=dict(account=.5, billing=.5)))
    with Loopback(reply=lambda body: '{"what": "account"}') as s:
        who = dict(model='j', base_url=s.base_url, concurrent_requests=1, max_tokens=50)
        texts = [f'Question {i}' for i in range(30)]
        for _ in range(3):
            _, n = label_rows(desk, texts, who, here/'w', budget=dict(tokens=1500))
            assert n['stopped']=='budget'
        assert used('w')<=1500+50+400 and 0<len(s.log)<30

# ---- amounts

def test_amounts_are_printed_in_full():
    assert limit_message('tokens', 11550, 11551).startswith('budget.tokens: 11,550 (11,551 spent)')
    assert limit_message('tokens', 100000, 100000).startswith('budget.tokens: 100,000 (100,000 spent)')
    assert limit_message('usd', .002, .0085).startswith('budget.usd: 0.002 (0.0085 spent)')
    assert limit_message('usd', 1234.5, 1234.5).startswith('budget.usd: 1,234.50 (1,234.50 spent)')
    assert limit_message('usd', 1e-5, 2e-5).startswith('budget.usd: 0.00001 (0.00002 spent)')
    assert limit_message('minutes', 1.5, 1.5).startswith('budget.minutes: 1.5 (1.5 spent)')

def test_the_help_says_per_run_and_per_process(here):
    out = ' '.join(rsr('run', '--help', 'budget').stdout.split())
    assert 'over all its processes' in out and 'wall clock of this process' in out

def test_prompts_count_over_resumes(here, server):
    from test_prompts import Writer, job
    server.set(reply=Writer())
    first = job(server, 60, budget=dict(tokens=4000))
    spent, sent = used(), server.stats()['requests']
    assert first.exit_code==3 and 2000<spent<=4000+2048+500
    again = job(server, 60, budget=dict(tokens=spent))
    assert again.exit_code==3 and server.stats()['requests']==sent and 'all of it by earlier processes' in again.message

def test_two_writers_draw_on_one_budget(here, server):
    from test_prompts import job, talker
    server.set(reply=talker([]))
    made = job(server, 30, turns=3, budget=dict(tokens=9000))
    assert made.exit_code==3 and used()<=9000+2048+500
