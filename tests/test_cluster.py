"""Runs on a real cluster of two Ray nodes on this machine.

The same files as on one machine, one budget, and what is left when an actor, a node or the driver dies."""
import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from importlib import import_module
from itertools import count
from pathlib import Path

import pytest
from conftest import rows, write_jsonl
from loopback import Loopback, spawn
from ray_nodes import NODES, wait_for
from test_crash import hears_signals

from rsr.data.functions import load_transform
from rsr.data.readers import read_prompts
from rsr.data.store import Store
from rsr.data.summary import stats
from rsr.data.types import RsrError
from rsr.run.execution import execute
from rsr.run.recipe import load_recipe

pytestmark = pytest.mark.slow
ray = pytest.importorskip('ray', reason="needs pip install 'rejection-sampling-recipes[ray]'")
@pytest.fixture(scope='module')
def process():
    "The loopback server in a process of its own."
    with spawn() as s:
        yield s

@pytest.fixture
def server(process):
    process.reset()
    process.set(median=0., rate=None, sigma=.2, words=20)
    return process

SFT = [dict(type='sft')]

def recipe(server, work, *options, cluster=None, formatter=SFT):
    settings = [('sampler.base_url', server.base_url), ('sampler.concurrent_requests', 12),
                ('sampling.max_rollouts', 8), ('data.input_path', 'in.jsonl'), ('work_dir', str(work)), *options]
    d = load_recipe(dict(formatter=list(formatter)), settings)
    return {**d, 'engine':'ray', 'cluster':{**dict(actors=2, block=10), **(cluster or {})}}

def alone(d):
    return {k:v for k, v in d.items() if k not in ('engine', 'cluster')}

def spread(d, **kw):
    from rsr.cluster.driver import execute_cluster
    return execute_cluster(d, progress=False, **kw)

def figures(work):
    st = Store(work, write=False)
    try:
        return stats(st)
    finally:
        st.close()

def balanced(work, server):
    "Every sample that the server gave is in the ledger once; nothing was bought twice."
    s, db = figures(work), sqlite3.connect(Path(work)/'run.db')
    by = s['samples']['by_outcome']
    assert sum(by.values())==s['samples']['asked'] and 'in_flight' not in by
    given, kept = server.stats()['samples'], by['kept']
    assert kept<=given<=kept+by.get('lost', 0), (given, by)
    # the server says nothing twice
    texts = db.execute("SELECT count(*), count(DISTINCT prompt||'/'||text) FROM rollouts WHERE outcome='kept'")
    assert texts.fetchone()==(kept, kept)
    by_prompt = "SELECT count(*) n FROM rollouts WHERE outcome='kept' GROUP BY prompt"
    assert db.execute(f'SELECT max(n) FROM ({by_prompt})').fetchone()[0]<=8
    return s

def start(d, **kw):
    "A run in a thread; its result comes in the list."
    out = []
    def run():
        try:
            out.append(spread(d, **kw))
        except BaseException as e:
            out.append(e)
    t = threading.Thread(target=run, daemon=True)
    t.start()
    return t, out

PATTERN = 'data.input_path', 'in*.jsonl'   # is read without Ray Data, which starts actors of its own for each driver

def driver(d):
    "A run in a process of its own, which prints why it has stopped."
    code = ('import json, sys; from rsr.cluster.driver import execute_cluster; '
            'print(execute_cluster(json.loads(sys.argv[1]), progress=False).stop_reason)')
    return subprocess.Popen([sys.executable, '-c', code, json.dumps(d)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, preexec_fn=hears_signals)

def killed(p, cond):
    "Kill a driver when something is true; return what it wrote."
    wait_for(lambda: p.poll() is not None or cond())
    p.kill()
    return p.communicate(timeout=120)

def interrupted(p, cond):
    "Press Ctrl-C in a driver when something is true; return what it wrote."
    wait_for(lambda: p.poll() is not None or cond())
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    assert out=='interrupted\n' and 'Traceback' not in err, (out, err)
    return err

def holders(work):
    "The processes that work on a block: a ledger's lock names its holder."
    pids = set()
    for p in Path(work).glob('blocks/[0-9]*/.lock'):
        try:
            pids.add(int(p.read_text()))
        except (OSError, ValueError):
            pass
    return {p for p in pids if Path(f'/proc/{p}').exists()}

# ---- the same files

FORMATTERS = [dict(type='sft'), dict(type='dpo', name='pairs'), dict(type='multi_sft', num_responses=3, name='multi'),
              dict(type='kto'), dict(type='grpo')]

def test_the_same_files_as_on_one_machine(here, server, cluster):
    write_jsonl('in.jsonl', rows(45))
    d = recipe(server, here/'one', formatter=FORMATTERS)
    one = execute(alone(d), progress=False)
    bought = server.stats()['samples']
    server.reset()
    spread(recipe(server, here/'many', formatter=FORMATTERS))
    names = sorted(p.name for p in Path('one/train').iterdir())
    assert {'sft.jsonl', 'pairs.jsonl', 'multi.jsonl', 'kto.jsonl', 'grpo.jsonl', 'dataset_info.json'}<=set(names)
    assert sorted(p.name for p in Path('many/train').iterdir())==names
    for n in names:
        many_lines, one_lines = (Path(run, 'train', n).read_text().splitlines() for run in ('many', 'one'))
        assert sorted(many_lines)==sorted(one_lines), n
    a, b = one.stats(), balanced('many', server)
    assert server.stats()['samples']==bought and server.stats()['max_inflight']<=12
    for k in ('prompts', 'samples', 'scores', 'tokens', 'rows', 'fingerprints'):
        assert a[k]==b[k], k
    assert len(list(Path('many/parts').glob('rollouts-*.parquet')))==5 and not Path('many/blocks').exists()

    # again, with nothing to do; then with more rollouts allowed: what is missing is asked, no more
    server.reset()
    spread(recipe(server, here/'many', formatter=FORMATTERS))
    assert server.stats()['samples']==0 and figures('many')['rows']==b['rows']

def test_more_rollouts_are_asked_of_those_that_lack_them(here, server, cluster):
    server.set(rate=0.)
    write_jsonl('in.jsonl', rows(12))
    spread(recipe(server, here/'w', ('sampling.max_rollouts', 4), cluster=dict(block=6)))
    assert server.stats()['samples']==48
    write_jsonl('in.jsonl', rows(15))       # three more prompts at the end, in a new block
    run = spread(recipe(server, here/'w', cluster=dict(block=6)))
    assert run.stop_reason is None
    assert server.stats()['samples']==15*8
    counts = {'total':15, 'satisfied':0, 'by_stop_reason':{'max_rollouts':15}, 'unscored':{}, 'unanswered':{},
              'bad_rows':0, 'failed':[]}
    assert balanced('w', server)['prompts']==counts
    with pytest.raises(RsrError, match='different settings'):
        spread(recipe(server, here/'w', ('sampler.temperature', .1)))

# ---- what dies

def test_a_killed_actor_loses_what_was_in_flight(here, server, cluster):
    server.set(median=.05, rate=0.)
    write_jsonl('in.jsonl', rows(40))
    t, out = start(recipe(server, here/'w', cluster=dict(block=20)))
    wait_for(lambda: server.stats()['samples']>60 and holders('w'))
    os.kill(min(holders('w')), signal.SIGKILL)
    t.join(90)
    assert out and out[0].stop_reason is None, out
    s = balanced('w', server)
    assert s['prompts']['by_stop_reason']=={'max_rollouts':40}
    assert s['samples']['by_outcome']['kept']==320
    assert s['samples']['by_outcome'].get('lost', 0)<=24

def test_a_node_that_goes_takes_nothing_with_it(here, cluster):
    "Answers wait until the node has an actor with a block, and from the sixteenth on until the node is gone."
    psutil, answered, is_open, is_gone = import_module('psutil'), count(1), threading.Event(), threading.Event()
    async def reply(body):
        n = next(answered)
        while not (is_gone if n>15 else is_open).is_set():   # of four samples each
            await asyncio.sleep(.02)
    with Loopback(reply=reply, rate=0.) as s:
        extra = NODES.add(cluster)
        raylet = extra.all_processes['raylet'][0].process.pid
        lost = lambda: {pid for pid in holders('w') if psutil.Process(pid).ppid()==raylet}
        write_jsonl('in.jsonl', rows(60))
        t, out = start(recipe(s, here/'w', cluster=dict(block=20, actors=3, num_cpus=2)))   # an actor fills a node
        there = wait_for(lambda: lost() or out)
        is_open.set()
        wait_for(lambda: s.stats()['samples']>=60 or out)
        cluster.remove_node(extra, allow_graceful=False)
        wait_for(lambda: not any(Path(f'/proc/{pid}').exists() for pid in there))   # they notice it
        is_gone.set()
        t.join(120)
        assert out and not isinstance(out[0], BaseException), out
        found = balanced('w', s)
    assert found['prompts']['by_stop_reason']=={'max_rollouts':60}
    assert found['samples']['by_outcome']['kept']==480 and 0<found['samples']['by_outcome'].get('lost', 0)<=48

def test_a_killed_driver_is_resumed_and_ctrl_c_keeps_what_is_in_flight(here, server, cluster):
    server.set(median=.2, rate=0.)
    write_jsonl('in.jsonl', rows(40))
    d = recipe(server, here/'w', PATTERN, cluster=dict(address=cluster.address))
    asked = lambda: server.stats()['samples']
    pids = set()
    out, err = killed(driver(d), lambda: asked()>60 and (pids.update(holders('w')) or pids))
    assert pids, err
    s = subprocess.run([sys.executable, '-c',
                        'import sys; from rsr.data.index import index_parts; print(index_parts(sys.argv[1]))', 'w'],
                        capture_output=True, text=True)
    assert s.returncode==0, s.stderr     # anybody may look in between
    before = asked()
    interrupted(driver(d), lambda: asked()>before+60)
    lost = balanced('w', server)['samples']['by_outcome'].get('lost', 0)
    assert 120<asked() and lost<=2*48
    server.set(median=0.)
    assert spread(d).stop_reason is None and not pids&holders('w')
    s = balanced('w', server)
    assert s['prompts']['by_stop_reason']=={'max_rollouts':40}
    assert s['samples']['by_outcome']['kept']==320 and s['samples']['by_outcome'].get('lost', 0)==lost

def test_a_block_that_kills_its_actors_stops_the_run(here, server, cluster):
    write_jsonl('in.jsonl', rows(4))
    Path('v.py').write_text('import os\ndef f(response, metadata): os._exit(1)\n')
    with pytest.raises(RsrError, match=r'block 0 \(from prompt 1\) has lost 2 actors'):
        spread(recipe(server, here/'w', ('verifier.type', 'v.py:f'), cluster=dict(attempts=2)))
    Path('v.py').write_text('def f(response, metadata): return 1.0\n')
    assert spread(recipe(server, here/'w', ('verifier.type', 'v.py:f'))).stop_reason is None
    assert balanced('w', server)['prompts']['satisfied']==4

# ---- one budget

def test_the_budget_is_one(here, server, cluster):
    server.set(median=.01, rate=0.)
    write_jsonl('in.jsonl', rows(60))
    spent = lambda: sum(figures('w')['tokens'][k] for k in ('prompt', 'completion'))
    run = spread(recipe(server, here/'w', ('budget.tokens', 6000)))
    assert run.stop_reason=='budget' and 'budget.tokens: 6,000' in run.message and 5000<spent()<=6600
    n = server.stats()['samples']
    # spent is spent
    assert spread(recipe(server, here/'w', ('budget.tokens', 6000))).stop_reason=='budget'
    assert server.stats()['samples']<=n+8
    assert spent()<=6600
    balanced('w', server)

def test_long_answers_pass_the_budget_by_one_sample_an_actor(here, cluster):
    def reply(body):
        choice = dict(index=0, message=dict(role='assistant', content=r'It is \boxed{B}'), finish_reason='stop')
        return dict(object='chat.completion', choices=[choice], usage=dict(prompt_tokens=20, completion_tokens=900))
    with Loopback(reply=reply, median=.05) as s:
        write_jsonl('in.jsonl', rows(60))
        d = recipe(s, here/'w', ('budget.tokens', 8000), ('sampler.max_tokens', 1000))
        run = spread(d)
        spent = sum(figures('w')['tokens'][k] for k in ('prompt', 'completion'))
        assert run.stop_reason=='budget' and 4000<spent<=8000+d['cluster']['actors']*1020, run.message
        n = s.stats()['requests']
        again = spread(recipe(s, here/'w', ('budget.tokens', spent), ('sampler.max_tokens', 1000)))
        assert again.stop_reason=='budget' and s.stats()['requests']==n
        assert f'({spent:,} spent, all of it by earlier processes); raise it to go on' in again.message

def test_without_usage_tokens_are_estimated_and_zero_buys_nothing(here, cluster):
    def reply(body):
        choice = dict(index=0, message=dict(role='assistant', content=r'It is \boxed{B}'), finish_reason='stop')
        return dict(object='chat.completion', choices=[choice])
    with Loopback(reply=reply, median=.01) as s:
        write_jsonl('in.jsonl', rows(60))
        run = spread(recipe(s, here/'w', ('budget.tokens', 0)))
        assert run.stop_reason=='budget' and s.stats()['requests']==0
        run = spread(recipe(s, here/'w', ('budget.tokens', 1000), ('sampler.max_tokens', 64)))
        assert run.stop_reason=='budget' and 'tokens estimated from the text' in run.message
        assert figures('w')['tokens']['estimated'] and s.stats()['requests']>20

def test_a_judges_tokens_have_their_own_price(here, server, cluster):
    with Loopback(reply=lambda body: 'It says A. '*12+'\nANSWER: A', median=.01) as judge:
        server.set(median=.01, rate=0.)
        write_jsonl('in.jsonl', rows(60))
        verifier = dict(type='mcq-llm-as-judge', model='j', base_url=judge.base_url,
                        price=dict(prompt=.1, completion=2))
        d = recipe(server, here/'w', ('sampler.price', dict(prompt=1, completion=20)), ('verifier', verifier),
                   ('sampling.early_stop', False), ('sampler.concurrent_requests', 2))
        run = spread({**d, 'budget':dict(usd=.06)})
        t, db = figures('w')['tokens'], sqlite3.connect('w/run.db')
        by = db.execute('SELECT sum(prompt_tokens), sum(completion_tokens) FROM calls').fetchone()
        at_own = ((t['prompt']-by[0])*1+(t['completion']-by[1])*20+by[0]*.1+by[1]*2)/1e6
        # a request's samples and their judging; two are in flight, and two more may be with the judge
        each = at_own/server.stats()['requests']
        assert run.stop_reason=='budget' and .04<at_own<=.06+4*each and (t['prompt']+t['completion']*20)/1e6>1.5*at_own
        n = server.stats()['samples']
        # spent is spent, counted from the ledgers
        assert spread({**d, 'budget':dict(usd=.06)}).stop_reason=='budget' and server.stats()['samples']<=n+8

# ---- the input

def test_a_bad_row_is_named_before_anything_is_sampled(here, server, cluster):
    write_jsonl('in.jsonl', [*rows(2), dict(id='x', messages=[]), *rows(1)])
    empty, used = r"in.jsonl, line 3 \(id 'x'\): messages is empty", "id 'q0' is already used by in.jsonl, line 1"
    with pytest.raises(RsrError, match=rf'2 invalid input rows(.|\n)*{empty}(.|\n)*{used}'):
        spread(recipe(server, here/'w'))
    assert server.stats()['requests']==0 and not Path('w').exists()
    with pytest.raises(RsrError, match='no file or folder'):
        spread(recipe(server, here/'w', ('data.input_path', 'nowhere.jsonl')))

def test_columns_are_checked_and_name_the_servers_model(here, server, cluster):
    write_jsonl('in.jsonl', rows(4))
    server.set(rate=1.)
    with pytest.raises(RsrError, match="columns: no column 'answr'"):
        spread(recipe(server, here/'w', formatter=[dict(type='sft', columns=['answr'])]))
    assert server.stats()['requests']==0 and not Path('w').exists()
    spread(recipe(server, here/'w', ('data.limit', 3), formatter=[dict(type='sft', columns=['model'])]))
    assert [json.loads(line)['model'] for line in Path('w/train/sft.jsonl').read_text().splitlines()]==['loopback-1']*3

def test_inputs_are_read_as_on_one_machine(here, cluster):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rsr.cluster.ray import read_dataset
    Path('d').mkdir()
    mixed = rows(3)
    mixed[1]['metadata'], mixed[2]['source'] = dict(answer=3, tags=['a']), 'book'
    write_jsonl('d/a.jsonl', mixed)
    pq.write_table(pa.Table.from_pylist(rows(2000, 10)), 'd/b.parquet')
    Path('t.py').write_text("def odd(row): return None if row['id']=='q11' else {**row, 'seen':True}\n")
    odd = load_transform('t.py:odd')
    one = [*read_prompts('d/a.jsonl', odd), *read_prompts('d/b.parquet', odd)]
    assert list(read_dataset('d', 't.py:odd'))==one
    data = ray.data.from_items(rows(700))
    assert [(w, p.id) for w, p in read_dataset(data)]==[(f'row {i+1}', f'q{i}') for i in range(700)]

def test_a_work_dir_that_nodes_do_not_share(here, server, cluster):
    write_jsonl('in.jsonl', rows(2))
    why = 'must lie on a file system that all nodes of the cluster share.*does not see it'
    with pytest.raises(RsrError, match=why):
        spread(recipe(server, '/proc/self/cwd/w'))      # another folder in each process
    assert server.stats()['requests']==0 and not Path('w').exists()

def test_a_run_of_one_machine_stays_there(here, server, cluster):
    write_jsonl('in.jsonl', rows(2))
    d = recipe(server, here/'w')
    execute(alone(d), progress=False)
    with pytest.raises(RsrError, match='was sampled on one machine'):
        spread(d)

def test_without_ray(here):
    write_jsonl('in.jsonl', rows(2))
    code = '''import sys; sys.modules['ray'] = None
from rsr.cluster.driver import execute_cluster
try: execute_cluster(dict(work_dir='w'))
except Exception as e: print(type(e).__name__, e)'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout
    assert out.startswith("RsrError engine: ray needs Ray: pip install 'rejection-sampling-recipes[ray]'")

# ---- an object store

@pytest.fixture(scope='module')
def bucket():
    "A bucket on moto's server, and the environment that leads to it."
    pytest.importorskip('moto', reason="needs pip install 'moto[server]'")
    from moto.server import ThreadedMotoServer
    from pyarrow import fs
    s = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
    s.start()
    host, port = s.get_host_and_port()
    with pytest.MonkeyPatch.context() as m:
        for k, v in dict(AWS_ACCESS_KEY_ID='testing', AWS_SECRET_ACCESS_KEY='testing',
                         AWS_EC2_METADATA_DISABLED='true').items():
            m.setenv(k, v)
        f = fs.S3FileSystem(endpoint_override=f'http://{host}:{port}', region='us-east-1', allow_bucket_creation=True)
        f.create_dir('prompts-bucket')
        yield f, f'?scheme=http&endpoint_override={host}:{port}&region=us-east-1'
    s.stop()

def upload(f, path, data):
    with f.open_output_stream(path, compression=None) as out:
        out.write(data)

def lines(items):
    return ''.join(json.dumps(r)+'\n' for r in items).encode()

def test_prompts_in_an_object_store(here, server, bucket, cluster):
    import gzip
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    f, options = bucket
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(20, 20)), table)
    files = {'a.jsonl':lines(rows(10)), 'b.jsonl.gz':gzip.compress(lines(rows(10, 10))),
             'deep/c.parquet':table.getvalue(), 'README':b'no prompts'}
    for name, data in files.items():
        upload(f, f'prompts-bucket/in/{name}', data)
    spread(recipe(server, here/'w', ('data.input_path', f's3://testing:testing@prompts-bucket/in{options}')))
    st = Store('w', write=False)
    assert [p.id for p, *_ in st.walk()]==[f'q{i}' for i in range(40)]
    places = {r[0] for r in st.db.execute('SELECT place FROM prompts')}
    st.close()
    assert {'s3://prompts-bucket/in/a.jsonl, line 1', 's3://prompts-bucket/in/b.jsonl.gz, line 10',
            's3://prompts-bucket/in/deep/c.parquet, row 20'}<=places
    assert figures('w')['prompts']['satisfied']+figures('w')['prompts']['by_stop_reason'].get('max_rollouts', 0)==40
    assert 'testing:testing' not in Path('w/recipe.yaml').read_text()

def test_an_object_store_with_something_wrong(here, server, bucket, cluster):
    f, options = bucket
    upload(f, 'prompts-bucket/bad/a.jsonl', lines(rows(1))+b'{"id": "x"}\n')
    for path, why in (('prompts-bucket/bad', r's3://prompts-bucket/bad/a.jsonl, line 2'),
                      ('prompts-bucket/none', 'no file or folder s3://prompts-bucket/none$'),
                      ('no-such-bucket/x', 's3://no-such-bucket/x')):
        with pytest.raises(RsrError, match=why):
            spread(recipe(server, here/'w', ('data.input_path', f's3://{path}{options}')))
    with pytest.raises(RsrError, match='nowhere://x'):
        spread(recipe(server, here/'w', ('data.input_path', 'nowhere://x')))
    assert server.stats()['requests']==0 and not Path('w').exists()

def test_a_run_is_kept_in_a_file_system(here, server, cluster):
    write_jsonl('in.jsonl', rows(2))
    with pytest.raises(RsrError, match='work_dir: s3://bucket/run: .*an object store cannot hold'):
        spread(recipe(server, 's3://bucket/run'))
    assert server.stats()['requests']==0 and sorted(p.name for p in here.iterdir())==['in.jsonl']


# ---- in the background, and after `rsr format`

def test_in_the_background_and_with_the_options_last_chosen(here, server, cluster):
    from rsr import load_run, sample
    from rsr.data.live_panel import panel_html
    (here/'v.py').write_text('def f(response, metadata): return 1.0 if "{A}" in response else 0.5\n')
    write_jsonl('in.jsonl', rows(30))
    opts = dict(work_dir='w', base_url=server.base_url, verifier='v.py:f', max_rollouts=4, concurrent_requests=8,
                engine='ray', cluster=dict(actors=2, block=10), sampler=dict(price=dict(prompt=1, completion=1)))
    live = sample('in.jsonl', 'sft', background=True, **opts)
    run = live.wait(120)
    assert live.state=='ended: finished' and live.last['usd']>0
    shown = panel_html(live.last)
    assert '30 of 30 done' in shown and 'US dollars' in shown
    few = run.stats()['rows']['sft.jsonl']['rows']
    assert run.format('sft', pass_threshold=.5)=={'sft.jsonl':30} and few<30
    assert run.format('kto', pass_threshold=.5, fail_threshold=.4)['kto.jsonl']
    asked = server.stats()['samples']
    run = sample('in.jsonl', 'sft', progress=False, **opts)
    assert run.stats()['rows']['sft.jsonl']['rows']==30 and run.recipe['formatter'][0]['pass_threshold']==.5
    assert run.stats()['prompts']['by_stop_reason']=={'satisfied':30} and server.stats()['samples']==asked
    assert [c['type'] for c in load_run('w').written['formatter']]==['sft', 'kto']

def test_prompts_without_a_reference_are_skipped_until_they_have_one(here, server, cluster):
    server.set(rate=1.)
    given = rows(24)
    for i in (1, 15):
        given[i]['metadata'] = {}
    write_jsonl('in.jsonl', given)
    run = execute(recipe(server, 'w'), progress=False)
    assert run.stats()['prompts']['by_stop_reason']=={'satisfied':22, 'no_reference':2} and run.exit_code==0
    given[15]['answer'] = 'A'       # at the top of the row
    write_jsonl('in.jsonl', given)
    before = server.stats()['samples']
    run = execute(recipe(server, 'w'), progress=False)
    assert run.stats()['prompts']['by_stop_reason']=={'satisfied':23, 'no_reference':1}
    assert 0<server.stats()['samples']-before<=8
    write_jsonl('in.jsonl', [dict(r, metadata={}) for r in rows(5)])
    with pytest.raises(RsrError, match='no prompt of the input has a reference answer'):
        execute(recipe(server, 'none'), progress=False)
    assert not (here/'none').exists()

def test_tools_and_calls_on_a_cluster(cluster, server, here, capfd):
    "Every part of a row is sent and every part of a reply kept; what a worker warns of is printed here, once."
    tool = dict(type='function', function=dict(name='weather', parameters=dict(
        type='object', properties=dict(city=dict(type='string')))))
    write_jsonl('in.jsonl', [{**row, 'tools':[tool]} for row in rows(20)])
    server.set(calls=.5, rate=1., reasoning=True)
    spread(recipe(server, 'tools', ('sampling.max_rollouts', 2)))
    kept = [r for _, _, rollouts in Store('tools', write=False).walk() for r in rollouts if r.outcome=='kept']
    calls = [r for r in kept if r.tool_calls]
    assert calls and len(calls)<len(kept) and all(r.reasoning for r in kept)
    assert {r.tool_calls[0]['function']['name'] for r in calls}=={'weather'}
    server.set(empty=1., calls=0., reasoning=False)
    spread(recipe(server, 'empty', ('sampling.max_rollouts', 8)))
    assert capfd.readouterr().err.count('replies are empty (no text)')==1

def test_components_of_a_stack_survive_the_parts(here, server, cluster):
    "Scores of stages, their columns, what `where` makes of them, and the calls' counts are those of one machine."
    Path('mine.py').write_text('def right(response, metadata):\n    return float("boxed{A}" in response)\n'
                               'def brief(response, metadata):\n    return min(1, 60/max(1, len(response)))\n')
    write_jsonl('in.jsonl', rows(25))
    server.set(rate=.6, words=12, empty=0.)
    stages = [dict(type=str(here/'mine.py')+':right'), dict(type=str(here/'mine.py')+':brief', weight=0)]
    def of(work):
        return recipe(server, work, ('verifier', stages), formatter=[dict(type='sft', where='brief > 0.6')])
    one = execute(alone(of(here/'one')), progress=False)
    server.reset()
    many = spread(of(here/'many'))
    a, b = (r.scores.sort_values(['prompt', 'idx']).reset_index(drop=True) for r in (one, many))
    for column in ('prompt', 'idx', 'score', 'right', 'brief', 'decided'):
        assert a[column].equals(b[column]), column
    a, b = (r.stats()['components']['components'] for r in (one, many))
    assert list(a)==list(b)==['right', 'brief']
    for name in a:
        assert b[name]=={**a[name], 'mean':pytest.approx(a[name]['mean'])}
    assert sorted(Path('one/train/sft.jsonl').open())==sorted(Path('many/train/sft.jsonl').open())
    n = many.stats()['samples']['asked']
    spread(of(here/'many'))
    assert many.stats()['samples']['asked']==n
