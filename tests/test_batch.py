"Runs in batches, against a server with three forms of batch APIs: faults, limits, kill -9 at every step."
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing

import pytest
from conftest import COMMANDS, read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback, draw
from loopback_batch import BatchLoopback

import rsr as package
from rsr.sampling.batch_forms import FORMS, form_of_host

FORM_NAMES = 'openai', 'mistral', 'anthropic'
PRICE = 'sampler.price={prompt: 1, completion: 2}'

def words(server, path, form='true', work_dir='run', **options):
    "The command line of a run in batches."
    more = [f'{k.replace("__", ".")}={v}' for k, v in options.items()]
    return ['run', 'sft', str(path), f'sampler.base_url={server.base_url}', 'sampler.model=m', f'sampler.batch={form}',
            f'work_dir={work_dir}', 'sampling.step_size=auto', 'progress=lines', *more]

def query(sql, *args, work_dir='run'):
    with closing(sqlite3.connect(f'{work_dir}/run.db')) as db:
        return db.execute(sql, args).fetchall()

def outcomes(work_dir='run'):
    return dict(query('SELECT outcome, count(*) FROM rollouts GROUP BY 1', work_dir=work_dir))

def asked_samples(server):
    "How often each sample was asked for, over all batches."
    found = Counter()
    for b in server.batches.values():
        for id_, _ in b['requests']:
            _, key, n = id_.split('-')
            found.update(range(int(key), int(key)+int(n)))
    return found

def check_whole(server, work_dir='run'):
    "Every sample has one outcome, none was asked for twice, and what was paid for is there."
    by = outcomes(work_dir)
    assert None not in by, by
    assert set(asked_samples(server).values()) <= {1}
    assert sum(by.get(o, 0) for o in ('kept', 'truncated', 'empty', 'filtered')) == server.batch_sold['samples']
    assert query("SELECT count(*) FROM batches WHERE ended IS NULL", work_dir=work_dir) == [(0,)]

@pytest.fixture
def batch_server():
    with BatchLoopback(delay=.2) as s:
        yield s

@pytest.mark.parametrize('form', FORM_NAMES)
def test_a_run_in_batches(here, batch_server, form):
    p = write_jsonl('p.jsonl', rows(60))
    batch_server.set(noise=True)
    done = rsr(*words(batch_server, p, form), PRICE)
    assert done.returncode == 0, done.stderr
    check_whole(batch_server)
    assert batch_server.stats()['requests'] == 0                 # nothing was asked one by one
    assert 2 <= len(batch_server.batches) <= 6
    satisfied = query("SELECT count(*) FROM prompts WHERE stop='satisfied'")[0][0]
    assert len(read_jsonl('run/train/sft.jsonl')) == satisfied > 40
    stats = json.load(open('run/summary/stats.json'))
    full = (stats['tokens']['prompt']*1+stats['tokens']['completion']*2)/1e6
    assert stats['cost'] == pytest.approx(full/2)
    assert not list((here/'run'/'batches').iterdir())            # files of requests are gone once they are sent

def test_the_same_answers_are_right_as_without_batches(here, batch_server):
    p = write_jsonl('p.jsonl', rows(20))
    assert rsr(*words(batch_server, p)).returncode == 0
    for prompt, right in query("SELECT p.id, max(s.value) FROM prompts p JOIN rollouts r ON r.prompt=p.key "
                               "JOIN scores s ON s.rollout=r.key GROUP BY 1"):
        n = query('SELECT count(*) FROM rollouts r JOIN prompts p ON p.key=r.prompt WHERE p.id=?', prompt)[0][0]
        assert right == any(draw(f'prompt {prompt[1:]}', k) for k in range(n))

def test_step_size_is_fixed_by_a_number(here, batch_server):
    p = write_jsonl('p.jsonl', rows(10))
    assert rsr(*words(batch_server, p), 'sampling.step_size=4', 'sampling.max_rollouts=8').returncode == 0
    first = next(iter(batch_server.batches.values()))
    assert sum(int(id_.split('-')[2]) for id_, _ in first['requests']) == 40
    assert len(batch_server.batches) == 2

def test_without_early_stop_all_is_asked_at_once(here, batch_server):
    p = write_jsonl('p.jsonl', rows(10))
    assert rsr(*words(batch_server, p), 'sampling.early_stop=false', 'sampling.max_rollouts=8').returncode == 0
    assert len(batch_server.batches) == 1 and batch_server.batch_sold['samples'] == 80

# ---- faults

@pytest.mark.parametrize('form', FORM_NAMES)
@pytest.mark.parametrize('end', ('expired', 'cancelled', 'failed'))
def test_what_came_is_used_and_the_rest_is_asked_again(here, batch_server, form, end):
    p = write_jsonl('p.jsonl', rows(20))
    if (form, end) == ('anthropic', 'failed'):
        pytest.skip('a batch of Anthropic\'s never fails as a whole')
    batch_server.set(ends=['ok', end])
    done = rsr(*words(batch_server, p, form))
    assert done.returncode == 0, done.stderr
    check_whole(batch_server)
    assert outcomes()['lost'] > 0
    lost = query("SELECT DISTINCT error FROM rollouts WHERE outcome='lost'")
    assert all(text for text, in lost)

@pytest.mark.parametrize('form', FORM_NAMES)
def test_an_error_line_fails_its_own_row(here, batch_server, form):
    p = write_jsonl('p.jsonl', rows(30))
    batch_server.set(line_errors=.2, noise=True)
    done = rsr(*words(batch_server, p, form))
    assert done.returncode == 0, done.stderr
    check_whole(batch_server)
    assert outcomes()['lost'] > 3 and 'failed' not in outcomes()
    assert query("SELECT count(*) FROM rollouts WHERE error LIKE '%server had an error%'")[0][0] > 3

def test_results_that_are_missing_are_asked_again(here, batch_server):
    p = write_jsonl('p.jsonl', rows(30))
    batch_server.set(missing=.2)
    assert rsr(*words(batch_server, p)).returncode == 0
    by = outcomes()
    assert by['lost'] > 3 and by['kept']+by['lost'] == batch_server.batch_sold['samples']

@pytest.mark.parametrize('form', FORM_NAMES)
@pytest.mark.parametrize('route', ('upload', 'create', 'look', 'content'))
def test_an_error_of_the_server_is_retried(here, batch_server, form, route):
    p = write_jsonl('p.jsonl', rows(5))
    batch_server.set(route_faults={route: [500, 503], 'content': [500, 'cut', 'cut'] if route == 'content' else []})
    done = rsr(*words(batch_server, p, form))
    assert done.returncode == 0, done.stderr
    check_whole(batch_server)

def test_retry_after_is_kept(here, batch_server):
    p = write_jsonl('p.jsonl', rows(3))
    batch_server.set(route_faults=dict(look=[429]), retry_after=2)
    began = time.monotonic()
    assert rsr(*words(batch_server, p)).returncode == 0
    assert time.monotonic()-began > 2

def test_a_batch_that_was_created_without_an_answer_is_found(here, batch_server):
    "The reply to the creation breaks off: the batch is there, and no second one is made."
    p = write_jsonl('p.jsonl', rows(5))
    batch_server.set(drop_reply=['create'])
    done = rsr(*words(batch_server, p))
    assert done.returncode == 0, done.stderr
    check_whole(batch_server)

def test_a_refused_request_ends_the_run_at_once(here, batch_server):
    p = write_jsonl('p.jsonl', rows(5))
    batch_server.set(bad_line=lambda body: (400, "Unsupported value: 'temperature' does not support 0.7"))
    done = rsr(*words(batch_server, p))
    assert done.returncode == 1 and 'temperature' in done.stderr and len(batch_server.batches) == 1
    assert 'Traceback' not in done.stderr

def test_a_file_that_is_not_valid_ends_the_run(here, batch_server):
    p = write_jsonl('p.jsonl', rows(5))
    batch_server.set(ends=['failed'])
    done = rsr(*words(batch_server, p))
    assert done.returncode == 1 and 'Line 1 is not valid JSON' in done.stderr

def test_a_field_that_the_server_refuses_is_renamed(here, batch_server):
    p = write_jsonl('p.jsonl', rows(5))
    why = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    batch_server.set(bad_line=lambda body: (400, why) if 'max_tokens' in body else None)
    done = rsr(*words(batch_server, p))
    assert done.returncode == 0, done.stderr
    check_whole(batch_server)
    assert outcomes()['lost'] == 5

def test_a_prompt_that_is_too_long_fails_alone(here, batch_server):
    p = write_jsonl('p.jsonl', rows(6))
    why = "This model's maximum context length is 4096 tokens. Please reduce the length of the messages."
    batch_server.set(bad_line=lambda body: (400, why) if 'prompt 3' in str(body['messages']) else None)
    done = rsr(*words(batch_server, p))
    assert done.returncode == 1
    assert query("SELECT id FROM prompts WHERE stop='failed'") == [('q3',)]

def test_batches_are_split_at_the_limits(here, batch_server, monkeypatch):
    monkeypatch.setattr(FORMS['openai'], 'most_requests', 7)
    package.sample(rows(20), base_url=batch_server.base_url, model='m', batch=True, step_size='auto', work_dir='run')
    assert [len(b['requests']) for b in batch_server.batches.values()][:3] == [7, 7, 6]
    check_whole(batch_server)

def test_batches_are_split_by_size(here, batch_server, monkeypatch):
    monkeypatch.setattr(FORMS['openai'], 'most_bytes', 1000)
    package.sample(rows(20), base_url=batch_server.base_url, model='m', batch=True, step_size='auto', work_dir='run')
    assert max(map(len, batch_server.files.values()), default=0) and len(batch_server.batches) > 3
    assert all(len(f) <= 1000 for name, f in batch_server.files.items() if b'"custom_id"' in f and b'"method"' in f)
    check_whole(batch_server)

# ---- kill -9

def start(args):
    return COMMANDS.begin(args, hears=True)

def wait_for(condition, proc, seconds=120):
    end = time.monotonic()+seconds
    while not condition():
        assert proc.poll() is None, proc.communicate()
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(.02)

def kill_where_it_hangs(server, proc):
    "Kill a run once the server holds one of its requests, and let the server answer again."
    wait_for(lambda: server.held, proc)
    proc.kill()
    proc.communicate()
    server.set(hang=None)

POINTS = 'before upload', 'upload', 'before create', 'create', 'before look', 'look', 'before content', 'content'

@pytest.mark.parametrize('form', FORM_NAMES)
@pytest.mark.parametrize('point', POINTS)
def test_kill_at_any_moment(here, batch_server, form, point):
    if form == 'anthropic' and 'upload' in point:
        pytest.skip('Anthropic has no upload')
    p = write_jsonl('p.jsonl', rows(12))
    batch_server.set(hang=point)
    proc = start(words(batch_server, p, form))
    wait_for(lambda: batch_server.held, proc)
    proc.kill()
    proc.communicate()
    waiting = outcomes().get(None, 0)
    assert waiting >= 12
    batch_server.set(hang=None)
    done = rsr(*words(batch_server, p, form))
    assert done.returncode == 0, done.stderr
    check_whole(batch_server)
    lost = outcomes().get('lost', 0)
    made = point in ('before upload', 'upload') or (form == 'anthropic' and point == 'before create')
    assert lost == (12 if made else 0)      # what was never sent is asked for anew; all else is found again

def test_files_of_requests_of_a_process_that_was_killed_are_removed(here, batch_server):
    "One whose batch was created just before, and one that the ledger does not know."
    p = write_jsonl('p.jsonl', rows(4))
    batch_server.set(hang='look')
    proc = start(words(batch_server, p))
    wait_for(lambda: batch_server.held, proc)
    proc.kill()
    proc.communicate()
    own = query('SELECT own FROM batches')[0][0]
    for name in (own, 'rsr0123456789abcdef'):
        (here/'run'/'batches'/f'{name}.jsonl').write_text('{}')
    batch_server.set(hang=None)
    assert rsr(*words(batch_server, p)).returncode == 0
    check_whole(batch_server)
    assert not list((here/'run'/'batches').iterdir())

def test_kill_between_two_batches_of_a_round(here, batch_server, monkeypatch):
    "The first is with the provider, the second was not sent."
    p = write_jsonl('p.jsonl', rows(12))
    code = ("from rsr.sampling.batch_forms import FORMS; FORMS['openai'].most_requests = 8\n"
            'from rsr.cli.entry import main; import sys; sys.exit(main(sys.argv[1:]))')
    args = words(batch_server, p)
    batch_server.set(hang='second upload')
    proc = subprocess.Popen([sys.executable, '-c', code, *args], stderr=subprocess.PIPE, text=True)
    kill_where_it_hangs(batch_server, proc)
    done = rsr(*args)
    assert done.returncode == 0, done.stderr
    check_whole(batch_server)
    assert outcomes()['lost'] == 4

def test_a_batch_of_anthropic_is_told_from_others(here, batch_server):
    "A batch of the same size that is not ours is not taken for it."
    p = write_jsonl('p.jsonl', rows(4))
    batch_server.set(hang='before create')
    proc = start(words(batch_server, p, 'anthropic'))
    wait_for(lambda: batch_server.held, proc)
    proc.kill()
    proc.communicate()
    params = dict(messages=[dict(role='user', content='x')], max_tokens=5)
    others = dict(requests=[dict(custom_id=f'other-{i}', params=params) for i in range(4)])
    batch_server.set(hang=None)
    batch_server.create('anthropic', others, {})
    done = rsr(*words(batch_server, p, 'anthropic'))
    assert done.returncode == 0, done.stderr
    assert outcomes()['lost'] == 4
    assert all(not id_.startswith('other') for (id_,) in query('SELECT own FROM batches'))

ODD = None, 0, True, '', 'x', [], {}, [{}], dict(a=1), dict(type=[]), dict(code=[1]), dict(message={})

def test_odd_replies_raise_no_other_errors():
    for f in {*FORMS.values(), *(form_of_host(f'https://{h}') for h in ('api.groq.com', 'api.together.ai'))}:
        for v in ODD:
            error = dict(code=v, message=v, type=v)
            for d in (dict(error=error), dict(error=v), dict(response=v), dict(response=dict(status_code=v, body=v)),
                      dict(response=dict(status_code=400, body=dict(error=error))), dict(result=v),
                      dict(result=dict(type='succeeded', message=dict(usage=v, content=v))),
                      dict(result=dict(type='errored', error=dict(error=error)))):
                assert len(f.result(d)) == 3
            for k in ('status', 'request_counts', 'errors', 'input_files', 'metadata', 'created_at'):
                assert f.state({'id': 'b', k: v}).id == 'b'
                f.listed(dict(data=[{'id': 'b', k: v}, v], has_more=v))
            f.listed(dict(data=v))
            f.listed(v)

def test_a_status_that_is_text_is_a_status():
    body = dict(choices=[])
    assert FORMS['openai'].result(dict(custom_id='a', response=dict(status_code='200', body=body))) == ('a', body, None)

def test_results_that_always_break_off_are_taken_as_they_are(here, batch_server, monkeypatch):
    p = write_jsonl('p.jsonl', rows(6))
    content = batch_server.content
    monkeypatch.setattr(batch_server, 'content', lambda id: (200, content(id)[1][:-30 if id == 'file-2' else None]))
    done = rsr(*words(batch_server, p))
    assert done.returncode == 0, done.stderr
    assert outcomes()['lost'] == 1 and None not in outcomes()

def test_a_line_of_results_that_is_too_long_is_told(here, batch_server, monkeypatch):
    p = write_jsonl('p.jsonl', rows(6))
    content = batch_server.content
    long = b'{"custom_id": "x", "response": "'+b'a'*2_000_000+b'"}\n'
    with monkeypatch.context() as m:
        m.setattr(batch_server, 'content', lambda id: (200, content(id)[1]+long))
        done = rsr(*words(batch_server, p), 'sampler.max_body_mb=1')
    assert done.returncode == 1 and 'sampler.max_body_mb sets the limit' in done.stderr
    assert rsr(*words(batch_server, p), 'sampler.max_body_mb=3').returncode == 0
    check_whole(batch_server)

def test_an_error_while_a_batch_is_under_way_does_not_say_that_nothing_was_paid_for(here, batch_server):
    p = write_jsonl('p.jsonl', rows(6))
    batch_server.set(route_faults=dict(look=[403]))
    done = rsr(*words(batch_server, p))
    assert done.returncode == 1 and 'fault 403' in done.stderr and 'nothing was paid' not in done.stderr
    assert rsr(*words(batch_server, p)).returncode == 0
    check_whole(batch_server)

@pytest.mark.parametrize('form', FORM_NAMES)
def test_a_batch_is_found_behind_many_newer_ones(here, batch_server, form):
    p = write_jsonl('p.jsonl', rows(4))
    batch_server.set(hang='create', forget=True)
    proc = start(words(batch_server, p, form))
    kill_where_it_hangs(batch_server, proc)
    params = dict(messages=[dict(role='user', content='x')], max_tokens=5)
    for _ in range(120):
        others = [dict(custom_id=f'other-{j}', params=params, body=params) for j in range(4)]
        file = b'\n'.join(json.dumps(r).encode() for r in others)
        id_ = batch_server.upload(dict(file=file, purpose=b'batch'))[1]['id']
        body = dict(requests=others) if form == 'anthropic' else dict(input_file_id=id_, input_files=[id_], model='m')
        batch_server.create(form, body, {})
    done = rsr(*words(batch_server, p, form))
    assert done.returncode == 0, done.stderr
    assert 'lost' not in outcomes()
    ours = [id_ for b in batch_server.batches.values() for id_, _ in b['requests'] if id_.startswith('rsr')]
    assert len(ours) == len(set(ours))

# ---- waiting, leaving, stopping

def test_a_run_that_waits_keeps_its_samples(here, batch_server):
    p = write_jsonl('p.jsonl', rows(8))
    batch_server.set(delay=None)
    left = rsr(*words(batch_server, p), 'detach=true')
    assert left.returncode == 0, left.stderr
    assert 'waiting for 1 batch (8 requests' in left.stdout and 'collect with: rsr run sft' in left.stdout
    assert outcomes() == {None: 8}
    for command in (['stats', 'run'], ['format', 'run'], ['ls', '.'], ['report', 'run']):
        done = rsr(*command)
        assert done.returncode in (0, 4), (command, done.stderr)
        assert outcomes() == {None: 8}, command
    assert rsr('ls', '.').stdout.rstrip().endswith('waiting for a batch')
    stats = json.loads(rsr('stats', 'run', 'json=true').stdout)
    assert stats['samples']['asked'] == sum(stats['samples']['by_outcome'].values()) == 8
    assert stats['batches']['waiting'] == 1 and stats['batches']['waiting_requests'] == 8
    again = rsr(*words(batch_server, p), 'detach=true')
    assert again.returncode == 0 and len(batch_server.batches) == 1
    batch_server.set(delay=0)
    while outcomes().get(None) or not query("SELECT 1 FROM prompts WHERE stop IS NOT NULL"):
        assert rsr(*words(batch_server, p), 'detach=true').returncode == 0
    assert rsr(*words(batch_server, p)).returncode == 0
    check_whole(batch_server)

def test_detach_does_not_enter_the_recipe(here, batch_server):
    p = write_jsonl('p.jsonl', rows(3))
    batch_server.set(delay=None)
    rsr(*words(batch_server, p), 'detach=true')
    assert 'detach' not in (here/'run'/'recipe.yaml').read_text()

def test_ctrl_c_leaves_the_batches_running(here, batch_server):
    p = write_jsonl('p.jsonl', rows(8))
    batch_server.set(delay=None)
    proc = start(words(batch_server, p))
    wait_for(lambda: batch_server.batches and ('GET', '/v1/batches/batch-1', 'look') in batch_server.routes, proc)
    proc.send_signal(signal.SIGINT)
    out, err = proc.communicate(timeout=120)
    assert proc.returncode == 130, err
    assert 'The batch goes on' in err and 'resume with: rsr run' in out and outcomes() == {None: 8}
    assert not any(route == 'cancel' for *_, route in batch_server.routes)
    batch_server.set(delay=0)
    assert rsr(*words(batch_server, p)).returncode == 0
    check_whole(batch_server)

def test_progress_says_what_is_waiting(here, batch_server):
    p = write_jsonl('p.jsonl', rows(8))
    batch_server.set(delay=12)
    done = rsr(*words(batch_server, p), 'sampling.max_rollouts=1')
    assert 'waiting for 1 batch (8 requests) since' in done.stderr and 'h' in done.stderr

def test_minutes_of_the_budget_end_the_waiting(here, batch_server):
    p = write_jsonl('p.jsonl', rows(4))
    batch_server.set(delay=None)
    done = rsr(*words(batch_server, p), 'budget.minutes=0.02')
    assert done.returncode == 3 and outcomes() == {None: 4}

# ---- budgets and prices

def test_a_budget_in_dollars_holds(here, batch_server):
    p = write_jsonl('p.jsonl', rows(40))
    done = rsr(*words(batch_server, p), PRICE, 'budget.usd=0.001', 'sampler.max_tokens=60')
    assert done.returncode == 3, done.stderr
    stats = json.load(open('run/summary/stats.json'))
    assert .0004 < stats['cost'] <= .001
    check_whole(batch_server)
    more = rsr(*words(batch_server, p), PRICE, 'budget.usd=1', 'sampler.max_tokens=60')
    assert more.returncode == 0, more.stderr
    check_whole(batch_server)

def test_a_price_of_batches_of_ones_own(here, batch_server):
    p = write_jsonl('p.jsonl', rows(4))
    rsr(*words(batch_server, p), 'sampler.price={prompt: 1, completion: 2, batch: 0.1}')
    stats = json.load(open('run/summary/stats.json'))
    full = (stats['tokens']['prompt']*1+stats['tokens']['completion']*2)/1e6
    assert stats['cost'] == pytest.approx(full*.1)

def test_batches_and_single_requests_are_priced_apart(here, batch_server):
    p = write_jsonl('p.jsonl', rows(10))
    assert rsr(*words(batch_server, p), PRICE, 'sampling.max_rollouts=1').returncode in (0, 4)
    before = json.load(open('run/summary/stats.json'))
    assert rsr(*words(batch_server, p), PRICE, 'sampler.batch=false').returncode == 0
    stats = json.load(open('run/summary/stats.json'))
    used = {k: stats['tokens'][k]-before['tokens'][k] for k in ('prompt', 'completion')}
    assert stats['cost'] == pytest.approx(before['cost']+(used['prompt']+2*used['completion'])/1e6)

# ---- judges

JUDGE = ['verifier.type=mcq-llm-as-judge', 'verifier.model=judge', 'verifier.batch=true']

@pytest.mark.parametrize('form', FORM_NAMES)
def test_judges_answer_in_batches(here, batch_server, form):
    p = write_jsonl('p.jsonl', rows(10))
    batch_server.set(reply=lambda body: 'ANSWER: A' if body.get('model') == 'judge' else None)
    done = rsr(*words(batch_server, p, form), *JUDGE, f'verifier.base_url={batch_server.base_url}',
               f'verifier.batch={form}')
    assert done.returncode == 0, done.stderr
    assert batch_server.stats()['requests'] == 0
    kinds = query('SELECT kind, count(*), sum(requests) FROM batches GROUP BY 1')
    assert kinds == [('judge', 1, 10), ('sampler', 1, 10)]
    assert query('SELECT count(*), count(batch) FROM calls') == [(10, 10)]
    assert query('SELECT count(*) FROM scores WHERE value=1') == [(10,)]
    assert query("SELECT count(*) FROM verdicts WHERE key LIKE 'asked/%'") == [(0,)]

@pytest.mark.parametrize('point', ('before upload', 'create', 'look', 'content'))
def test_kill_while_a_judge_is_asked(here, batch_server, point):
    p = write_jsonl('p.jsonl', rows(6))
    batch_server.set(reply=lambda body: 'ANSWER: A' if body.get('model') == 'judge' else None)
    args = [*words(batch_server, p), *JUDGE, f'verifier.base_url={batch_server.base_url}']
    wanted = 'second '+point if 'before' not in point else 'second before upload'
    batch_server.set(hang=wanted)
    proc = start(args)
    kill_where_it_hangs(batch_server, proc)
    done = rsr(*args)
    assert done.returncode == 0, done.stderr
    calls = [id_ for b in batch_server.batches.values() for id_, body in b['requests'] if body['model'] == 'judge']
    assert len(calls) == 6 and query('SELECT count(*) FROM calls') == [(6,)]

def test_a_rubric_is_judged_in_batches(here, batch_server):
    p = write_jsonl('p.jsonl', rows(5))
    def reply(body):
        if body.get('model') != 'judge':
            return None
        return json.dumps(dict(verdicts=[dict(id='short', reason='x', answer='YES')]))
    batch_server.set(reply=reply)
    (here/'r.yaml').write_text('name: r\ncategories: {form: 1}\ncriteria:\n  - id: short\n    name: Short\n'
                               '    question: Is it short?\n    category: form\n')
    done = rsr(*words(batch_server, p), 'verifier.rubric=r.yaml', 'verifier.model=judge', 'verifier.batch=true',
               f'verifier.base_url={batch_server.base_url}')
    assert done.returncode in (0, 4), done.stderr
    assert batch_server.batches and query("SELECT count(*) FROM calls WHERE batch IS NULL")[0][0] <= 5

def test_a_judge_is_asked_again_for_what_failed(here, batch_server):
    p = write_jsonl('p.jsonl', rows(12))
    batch_server.set(reply=lambda body: 'ANSWER: A' if body.get('model') == 'judge' else None, ends=['ok', 'expired'])
    done = rsr(*words(batch_server, p), *JUDGE, f'verifier.base_url={batch_server.base_url}')
    assert done.returncode == 0, done.stderr
    assert query('SELECT count(*) FROM calls') == [(12,)]

# ---- errors

def refused(*args, **kw):
    done = rsr(*args, **kw)
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    return done.stderr

def test_what_has_no_batches_is_refused(here, batch_server):
    p = write_jsonl('p.jsonl', rows(2))
    one = ['run', 'sft', p, 'sampler.batch=true', 'work_dir=run']
    assert "the sampler 'local' has no batch API" in refused(*one)
    assert "provider 'gemini' has no batch API" in refused(*one, 'sampler.model=gemini/gemini-2.0-flash')
    assert "no form 'opnai'. Did you mean 'openai'?" in refused(*words(batch_server, p, 'opnai'))
    assert 'cannot be streamed' in refused(*words(batch_server, p), 'sampler.stream=true')
    assert 'set sampler.batch=true' in refused(*words(batch_server, p, 'false'), 'detach=true')
    assert "'maybe' is not true or false" in refused(*words(batch_server, p), 'detach=maybe')
    sides = 'pairs.strong.model=s', 'pairs.weak.model=w'
    assert 'two sides' in refused('run', 'strong_vs_weak', *words(batch_server, p)[2:], *sides)
    assert 'log-probabilities' in refused(*words(batch_server, p, 'anthropic'), 'sampler.logprobs=2')
    assert not (here/'run').exists() and not batch_server.batches

def test_a_server_without_batches_is_told_before_anything_is_sampled(here):
    p = write_jsonl('p.jsonl', rows(2))
    with Loopback() as s:
        err = refused(*words(s, p))
        assert 'has no batch API (GET /batches: HTTP 404)' in err and s.stats()['requests'] == 0
    assert not (here/'run').exists()

def test_a_wrong_key_is_told_before_anything_is_sampled(here, batch_server):
    p = write_jsonl('p.jsonl', rows(2))
    batch_server.set(auth='right-key-123')
    assert 'refuses to list batches' in refused(*words(batch_server, p), 'sampler.api_key=wrong-key-123')
    for form in FORM_NAMES:
        done = rsr(*words(batch_server, p, form, work_dir=form), 'sampler.api_key=right-key-123')
        assert done.returncode == 0, done.stderr
        assert 'right-key-123' not in (here/form/'recipe.yaml').read_text()

def test_waiting_batches_are_collected_before_going_on_without(here, batch_server):
    p = write_jsonl('p.jsonl', rows(4))
    batch_server.set(delay=None)
    rsr(*words(batch_server, p), 'detach=true')
    assert '1 batch waits for answers' in refused(*words(batch_server, p, 'false'))
    assert outcomes() == {None: 4}

def test_another_model_does_not_take_over_waiting_batches(here, batch_server):
    p = write_jsonl('p.jsonl', rows(4))
    batch_server.set(delay=None)
    rsr(*words(batch_server, p), 'detach=true')
    assert 'different settings' in refused(*words(batch_server, p), 'sampler.model=other')

# ---- the ledger

def test_a_ledger_of_layout_3_is_read_and_brought_up_to_date(here, server):
    package.sample(rows(4), base_url=server.base_url, model='m', work_dir='run')
    with closing(sqlite3.connect('run/run.db')) as db:
        db.executescript('DROP INDEX rollouts_of_batch; DROP TABLE batches; ALTER TABLE rollouts DROP COLUMN batch; '
                         'ALTER TABLE calls DROP COLUMN batch; PRAGMA user_version=3')
    before = json.loads(rsr('stats', 'run', 'json=true').stdout)
    assert query('PRAGMA user_version') == [(3,)] and before['tokens']['prompt'] > 0
    assert rsr('format', 'run').returncode == 0
    assert query('PRAGMA user_version') == [(4,)]
    assert json.loads(rsr('stats', 'run', 'json=true').stdout)['tokens'] == before['tokens']

def test_memory_of_states_is_not_kept(here, batch_server):
    "Prompts that wait are not open in memory."
    seen = []
    package.sample(rows(300), base_url=batch_server.base_url, model='m', batch=True, step_size='auto', window=32,
                   work_dir='run', progress=lambda loop, last=False: seen.append(len(loop.open)))
    assert max(seen) <= 32
    check_whole(batch_server)
