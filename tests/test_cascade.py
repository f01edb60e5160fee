"""A cascade of models: each prompt starts with the cheap one, and moves on when another brings more rows per dollar.

Real loopback servers with two models, the real command line in processes of its own, real ledgers."""
import json
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from conftest import RSR, read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback

from rsr import sample
from rsr.data.store import Store
from rsr.data.types import RsrError
from rsr.explore.score_index import read_scores
from rsr.explore.thresholds import rows_per_prompt
from rsr.formatters.writer import make_formatter
from rsr.run.recipe import load_recipe
from rsr.run.results import load_run

MODELS = dict(small=dict(a=.6, b=1.2, price=dict(prompt=1, completion=1)),
              large=dict(a=1.2, b=.6, price=dict(prompt=10, completion=10)))
ENTRIES = [dict(model='small', price=dict(prompt=1, completion=1)),
           dict(model='large', price=dict(prompt=10, completion=10))]

@pytest.fixture
def two():
    "A server with two models, a cheap one and a strong one."
    with Loopback(models=MODELS) as s:
        yield s

def entries(server, *more):
    "The two samplers, at a server; `more`: further options of each."
    return [dict(e, base_url=server.base_url, **own) for e, own in zip(ENTRIES, more or ({}, {}))]

def listed(cascade):
    return f'sampler={json.dumps(cascade)}'

def command(cascade, n=60, *options, recipe='sft', **kw):
    if not Path('in.jsonl').exists():
        write_jsonl('in.jsonl', rows(n))
    return rsr('run', recipe, 'data.input_path=in.jsonl', listed(cascade), 'work_dir=w', 'progress=lines', *options,
               **kw)

def ledger(query, work='w'):
    with closing(sqlite3.connect(f'{work}/run.db')) as db:
        return db.execute(query).fetchall()

MODEL = "json_extract(c.config, '$.model')"

def per_model(work='w', outcome='kept'):
    "{model: samples} of an outcome."
    return dict(ledger(f"SELECT {MODEL}, count(*) FROM rollouts r JOIN configs c ON c.key=r.sampler "
                       f"WHERE outcome='{outcome}' GROUP BY 1", work))

def stats(work='w'):
    return json.loads(Path(work, 'summary/stats.json').read_text())

AUTO = 'sampling.step_size=auto', 'sampling.max_rollouts=16'


# ---- what it is for

def test_it_costs_less_than_the_strong_model_alone(here, two):
    p = command(entries(two), 200, *AUTO, 'goal.sft=170')
    assert p.returncode == 0, p.stderr
    sold = two.stats()
    s = stats()
    assert s['rows']['sft.jsonl']['rows'] >= 170
    assert s['cost'] == pytest.approx(sold['usd'], rel=.01)
    assert set(sold['models']) == {'small', 'large'}
    alone = sample('in.jsonl', recipe='sft', base_url=two.base_url, model='large', work_dir='alone', progress=False,
                   **{'sampling.step_size': 'auto', 'sampling.max_rollouts': 16, 'goal.sft': 170,
                      'sampler.price': ENTRIES[1]['price']})
    each, dear = (x['cost']/x['rows']['sft.jsonl']['rows'] for x in (s, alone.stats()))
    assert each < .75*dear, (each, dear)

def test_every_prompt_begins_with_the_cheap_model(here, two):
    assert command(entries(two), 40, *AUTO).returncode == 0
    first = ledger(f'SELECT {MODEL} FROM rollouts r JOIN configs c ON c.key=r.sampler WHERE r.idx=0')
    assert {m for m, in first} == {'small'}
    counts = per_model()
    assert counts['large'] < counts['small']

def test_a_price_turned_round_begins_with_the_other(here, two):
    "The first of the list is not asked if another one is cheaper per satisfied prompt from the start."
    turned = [dict(e, price=o['price']) for e, o in zip(entries(two), reversed(ENTRIES))]
    assert command(turned, 30, *AUTO).returncode == 0
    assert per_model().get('large', 0) > per_model().get('small', 0)

def test_after_so_many_responses(here, two):
    p = command(entries(two), 60, 'sampling.escalate={after: 3}', 'sampling.step_size=1', 'sampling.max_rollouts=8')
    assert p.returncode == 0, p.stderr
    by_prompt = ledger(f'SELECT r.prompt, {MODEL}, count(*) FROM rollouts r JOIN configs c ON c.key=r.sampler '
                       'GROUP BY 1, 2')
    assert max(n for _, model, n in by_prompt if model == 'small') == 3
    assert max(n for _, model, n in by_prompt if model == 'large') <= 8
    tried = {p for p, model, n in by_prompt if model == 'large'}
    assert tried == {p for p, model, n in by_prompt if model == 'small' and n == 3} - passed_by('small')

def passed_by(model):
    return {p for p, in ledger(f'SELECT r.prompt FROM rollouts r JOIN configs c ON c.key=r.sampler '
                               f"JOIN scores s ON s.rollout=r.key WHERE s.value>=1 AND {MODEL}='{model}'")}

def test_after_needs_no_prices(here, two):
    bare = [{k: v for k, v in e.items() if k != 'price'} for e in entries(two)]
    p = command(bare, 20, 'sampling.escalate={after: 2}', *AUTO)
    assert p.returncode == 0, p.stderr
    assert stats()['cost'] is None and stats()['samplers']['small']['usd'] is None

def test_give_up_looks_at_both(here):
    "A prompt that both models always fail is given up; not before the strong one was asked."
    with Loopback(rate=0.) as s:
        both = [dict(e, base_url=s.base_url) for e in ENTRIES]
        assert command(both, 40, *AUTO, 'sampling.give_up=0.2').returncode == 4
    assert dict(ledger('SELECT stop, count(*) FROM prompts GROUP BY 1'))['gave_up'] > 0
    assert 0 < sum(per_model().values()) < 40*32


# ---- limits of each sampler

def test_slots_of_each(here):
    "The strong model is asked one request at a time, whatever the cheap one may have in flight."
    with Loopback(rate=0., median=.02, sigma=.1) as cheap, Loopback(rate=0., median=.02, sigma=.1) as strong:
        own = [dict(ENTRIES[0], base_url=cheap.base_url, concurrent_requests=8),
               dict(ENTRIES[1], base_url=strong.base_url, concurrent_requests=1)]
        command(own, 24, 'sampling.escalate={after: 1}', 'sampling.step_size=1', 'sampling.max_rollouts=2')
        assert strong.stats()['max_inflight'] == 1
        assert cheap.stats()['max_inflight'] > 2

def test_a_budget_stops_by_what_each_costs(here, two):
    p = command(entries(two), 200, *AUTO, 'budget.usd=0.05')
    assert p.returncode == 3, p.stderr
    spent = two.stats()['usd']
    assert .03 < spent <= .05*1.0001
    p = command(entries(two), 200, *AUTO, 'budget.usd=0.08')
    assert p.returncode == 3 and two.stats()['usd'] <= .08*1.0001
    assert 'by earlier processes' in p.stdout+p.stderr


# ---- kill, resume, change

def run_and_kill(cascade, after=.2, options=AUTO):
    write_jsonl('in.jsonl', rows(300))
    process = subprocess.Popen([RSR, 'run', 'sft', 'data.input_path=in.jsonl', listed(cascade), 'work_dir=w', *options],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.time()+60
    while time.time() < deadline and not (Path('w/run.db').exists() and len(per_model_or_none()) == 2):
        time.sleep(.05)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()

def per_model_or_none():
    try:
        return per_model()
    except sqlite3.Error:
        return {}

def test_kill_and_resume(here):
    with Loopback(models=MODELS, median=.15, sigma=.3) as s:
        run_and_kill(entries(s))
        before, sold = per_model(), s.stats()['usd']
        assert len(before) == 2
        p = rsr('run', 'w/recipe.yaml')
        assert p.returncode == 0, p.stderr
        lost = sum(per_model(outcome='lost').values())
        assert s.stats()['usd'] > sold and lost <= 100
        assert stats()['cost'] <= s.stats()['usd']*1.001
    assert all(per_model()[m] >= n for m, n in before.items())
    assert ledger('SELECT count(*) FROM prompts WHERE stop IS NULL') == [(0,)]
    assert len(ledger("SELECT 1 FROM configs WHERE kind='sampler'")) == 2

def test_another_order_and_one_more(here, two):
    assert command(entries(two), 20, *AUTO).returncode == 0
    more = [dict(model='third', base_url=two.base_url, price=dict(prompt=20, completion=20)), *reversed(entries(two))]
    two.set(models={**MODELS, 'third': dict(a=2., b=.5, price=dict(prompt=20, completion=20))})
    p = command(more, 20, *AUTO)
    assert p.returncode == 0, p.stderr

def test_a_changed_entry_is_another_sampler(here, two):
    assert command(entries(two), 20, *AUTO).returncode == 0
    p = command(entries(two, {}, dict(temperature=.1)), 20, *AUTO)
    assert p.returncode == 2 and 'temperature: 0.7 before, 0.1 now' in p.stderr and 'resume.mix=true' in p.stderr
    assert command(entries(two, {}, dict(temperature=.1)), 20, *AUTO, 'resume.mix=true').returncode == 0

def test_an_entry_that_is_gone_is_named(here, two):
    assert command(entries(two), 40, *AUTO).returncode == 0
    p = rsr('run', 'w/recipe.yaml', 'sampler.model=small', f'sampler.base_url={two.base_url}')
    assert p.returncode == 2 and 'large' in p.stderr and 'resume.mix=true' in p.stderr

def test_from_one_sampler_to_a_cascade(here, two):
    write_jsonl('in.jsonl', rows(40))
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={two.base_url}', 'sampler.model=small',
            'sampler.price={prompt: 1, completion: 1}', 'work_dir=w', 'sampling.max_rollouts=2')
    assert p.returncode == 0, p.stderr
    assert command(entries(two), 40, *AUTO).returncode == 0
    assert per_model()['large'] > 0

def test_single_options(here, two):
    p = command(entries(two), 20, *AUTO, 'sampler.temperature=0.3', 'sampler.cascade.large.temperature=0.9',
                'sampler.cascade.0.max_tokens=300')
    assert p.returncode == 0, p.stderr
    by = {json.loads(c)['model']: json.loads(c) for c, in ledger("SELECT config FROM configs WHERE kind='sampler'")}
    assert (by['small']['temperature'], by['large']['temperature']) == (.3, .9)
    d = load_recipe('w/recipe.yaml')
    assert d['sampler']['cascade'][0]['max_tokens'] == 300
    assert load_recipe('w/recipe.yaml', ['sampler.model=x'])['sampler'].get('cascade') is None


# ---- a sampler that is gone

def closed_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return f'http://127.0.0.1:{s.getsockname()[1]}/v1'

def test_the_strong_one_is_gone(here):
    "The cheap one finishes its part; what waits for the strong one is found by a resume."
    with Loopback(models=MODELS) as s:
        cheap, strong = entries(s, {}, dict(patience=1))
        p = command([cheap, dict(strong, base_url=closed_port())], 60, *AUTO)
        assert p.returncode == 1, p.stderr
        assert 'large' in p.stderr and 'wait for a resume' in p.stderr and 'Traceback' not in p.stderr
        satisfied = dict(ledger('SELECT stop, count(*) FROM prompts GROUP BY 1'))['satisfied']
        assert satisfied == len(read_jsonl('w/train/sft.jsonl')) > 20
        assert ledger('SELECT count(*) FROM prompts WHERE stop IS NULL')[0][0] == 60-satisfied
        before = per_model()
        p = command([cheap, strong], 60, *AUTO)
        assert p.returncode == 0, p.stderr
    assert per_model()['large'] > 0 and per_model()['small'] >= before['small']

def test_the_cheap_one_is_gone(here):
    "Nobody asked for the strong one to do it all, at ten times the price."
    with Loopback(models=MODELS) as s:
        cheap, strong = entries(s, dict(patience=1), {})
        p = command([dict(cheap, base_url=closed_port()), strong], 60, *AUTO)
        assert p.returncode == 1, p.stderr
        assert '60 prompts wait' in p.stderr
        assert s.stats()['requests'] == 0

def test_a_wrong_name_of_the_strong_model(here, two):
    cheap, strong = entries(two)
    with Loopback(fault='404') as no:
        p = command([cheap, dict(strong, base_url=no.base_url)], 60, *AUTO)
    assert p.returncode == 1 and 'does not exist' in p.stderr, p.stderr
    assert dict(ledger('SELECT stop, count(*) FROM prompts GROUP BY 1'))['satisfied'] > 20


# ---- pairs, files, statistics

def test_pairs_are_of_one_model(here, two):
    p = command(entries(two), 60, *AUTO, 'formatter.columns=[model]', recipe='dpo')
    assert p.returncode == 0, p.stderr
    pairs = read_jsonl('w/train/dpo.jsonl')
    assert pairs and {row['model'] for row in pairs} <= {'small', 'large'}
    satisfied, = ledger("SELECT count(*) FROM prompts WHERE stop='satisfied'")[0]
    assert len(pairs) == satisfied      # what sampling took for a pair is one
    assert Counter(row['model'] for row in pairs) == Counter(stats()['rows']['dpo.jsonl']['models'])

def explorer_rows(**options):
    "Rows of dpo.jsonl as the explorer previews them."
    with closing(Store('w', write=False)) as store:
        s = read_scores(store)
        f = make_formatter('dpo', **{'mix': True, **options})
        return int(rows_per_prompt(s, f)['rows'].sum())

def test_mixed_pairs_if_asked_for(here, two):
    p = command(entries(two), 60, *AUTO, 'pairs.mix=true', 'formatter.columns=[model]', recipe='dpo')
    assert p.returncode == 0, p.stderr
    assert 'pairs: null' in Path('w/recipe.yaml').read_text()
    n = len(read_jsonl('w/train/dpo.jsonl'))
    preview = explorer_rows()
    assert preview == n
    assert any(',' in row['model'] for row in read_jsonl('w/train/dpo.jsonl'))
    assert '(formatter.dpo.mix, not pairs.mix)' in rsr('format', 'w', 'pairs.mix=false').stderr
    p = rsr('format', 'w', 'formatter.dpo.mix=false')
    assert p.returncode == 0, p.stderr
    assert not any(',' in row['model'] for row in read_jsonl('w/train/dpo.jsonl'))
    assert len(read_jsonl('w/train/dpo.jsonl')) == explorer_rows(mix=False) <= n

def test_statistics_by_sampler(here, two):
    assert command(entries(two), 60, *AUTO).returncode == 0
    s, sold = stats(), two.stats()['models']
    for name, of in s['samplers'].items():
        assert of['rollouts'] == sold[name]['samples'] and of['passed'] == sold[name]['right']
        assert of['usd'] == pytest.approx(sold[name]['usd'], rel=1e-6)
    assert sum(of['rows'] for of in s['samplers'].values()) == s['rows']['sft.jsonl']['rows']
    out = rsr('stats', 'w').stdout
    assert 'sampler    small: ' in out and 'sampler    large: ' in out
    assert ' small, large ' in rsr('ls', '.').stdout
    counts = load_run('w').rollouts.model.value_counts().to_dict()
    assert counts == {name: of['rollouts'] for name, of in s['samplers'].items()}

def test_format_and_rescore_as_ever(here, two):
    assert command(entries(two), 40, *AUTO).returncode == 0
    n = len(read_jsonl('w/train/sft.jsonl'))
    requests = two.stats()['requests']
    assert rsr('format', 'w', 'formatter=kto').returncode == 0
    p = rsr('run', 'w/recipe.yaml', 'verifier=exact', 'sampling.max_rollouts=0')
    assert p.returncode in (0, 4), p.stderr
    p = rsr('run', 'w/recipe.yaml')
    assert p.returncode == 0 and len(read_jsonl('w/train/sft.jsonl')) == n
    assert two.stats()['requests'] == requests


# ---- wrong input: exit 2, before anything is sampled

WRONG = {
    'no price': ([dict(model='small'), dict(model='large')], (), "the price of 'small' is unknown"),
    'one entry': (ENTRIES[:1], (), 'a list of two samplers or more'),
    'none': ([], (), 'a list of two samplers or more'),
    'twice': ([ENTRIES[0], ENTRIES[0]], (), 'it is the same as sampler[0]'),
    'alike': ([ENTRIES[0], dict(ENTRIES[0], patience=5)], (), 'it samples as sampler[0] does'),
    'no mapping': ([ENTRIES[0], 7], (), 'sampler[1]: 7 is not a mapping'),
    'wrong key': ([ENTRIES[0], dict(ENTRIES[1], temprature=1)], (), "Did you mean 'sampler[1].temperature'?"),
    'wrong value': ([ENTRIES[0], dict(ENTRIES[1], temperature=9)], (), 'sampler[1].temperature: 9'),
    'half a price': ([ENTRIES[0], dict(model='large', price=dict(prompt=1))], (),
                     'sampler[1].price: completion is'),
    'own system prompt': ([ENTRIES[0], dict(ENTRIES[1], system_prompt='x')], (), 'write sampler.system_prompt'),
    'escalate': (ENTRIES, ('sampling.escalate=never',), "'never' is not 'auto', or {after: n}"),
    'escalate 0': (ENTRIES, ('sampling.escalate={after: 0}',), 'with n from 1 to 10,000'),
    'a strategy': (ENTRIES, ('pairs.strategy=temperature', 'formatter=dpo'), 'samples the sides of its pairs itself'),
    'no early stop': (ENTRIES, ('sampling.early_stop=false',), 'none is ever satisfied'),
    'no such entry': (ENTRIES, ('sampler.cascade.medium.temperature=1',), "no sampler 'medium'"),
    'no such option': (ENTRIES, ('sampler.cascade.large.temprature=1',),
                       "sampler.cascade.large.temprature: no option 'temprature'. Did you mean 'temperature'?"),
    'no such type': ([ENTRIES[0], dict(ENTRIES[1], type='nope')], (), "sampler[1].type: no sampler 'nope'"),
    'mix without pairs': (ENTRIES, ('pairs.mix=true',), 'it needs a formatter of type dpo'),
}

@pytest.mark.parametrize('name', WRONG)
def test_wrong_input(here, two, name):
    cascade, options, message = WRONG[name]
    p = command(cascade, 5, f'sampler.base_url={two.base_url}', *options)
    assert p.returncode == 2, (p.returncode, p.stderr)
    assert message in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert two.stats()['requests'] == 0 and not Path('w').exists()

def test_in_python(here, two):
    run = sample(rows(20), recipe='sft', sampler=entries(two), work_dir='w', progress=False)
    assert run.stats()['samplers']['small']['rollouts'] > 0
    with pytest.raises(RsrError, match='two samplers or more'):
        sample(rows(20), recipe='sft', sampler=entries(two)[:1], work_dir='v', progress=False)

def test_a_model_that_refuses_every_prompt_does_not_stop_the_others(here):
    "It is set aside, as one that is gone; the cheap model goes on, and a resume asks for what is left."
    refuses = True
    def reply(body):
        if refuses and body['model']=='large':
            return 400, dict(error=dict(message='no such request here', type='invalid_request_error', code=None))
    with Loopback(models=MODELS, reply=reply) as s:
        options = 'sampling.escalate.after=2', 'sampling.step_size=1', 'sampling.max_rollouts=4'
        found = command(entries(s), 30, *options)
        assert found.returncode==1 and 'large: the provider refused the request' in found.stderr
        assert re.search(r'[1-9]\d* prompts wait for a resume', found.stderr) and 'Traceback' not in found.stderr
        assert ledger('SELECT count(DISTINCT prompt) FROM rollouts')==[(30,)] and set(per_model())=={'small'}
        few = len(read_jsonl('w/train/sft.jsonl'))
        refuses = False
        assert rsr('run', 'work_dir=w').returncode==0
        assert set(per_model())=={'small', 'large'} and few<len(read_jsonl('w/train/sft.jsonl'))
