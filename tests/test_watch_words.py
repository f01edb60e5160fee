"What a watched run says where it has nothing to show: rows of a killed run, a missing forecast, generated prompts."
import json
import shutil
import signal
import time

import pytest
from conftest import COMMANDS, rows, rsr, write_jsonl

from rsr import load_run
from rsr.data.types import RsrError

def wait_for(cond, seconds=90):
    end = time.time()+seconds
    while not cond():
        assert time.time()<end, 'timed out'
        time.sleep(.02)

def begin(server, *args, n):
    write_jsonl('in.jsonl', rows(n))
    return COMMANDS.begin(['run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}',
                           'work_dir=w', 'sampler.concurrent_requests=8', *args], hears=True)

def look():
    return json.loads(rsr('watch', 'w', '--once', '--json').stdout)

def test_a_killed_run_keeps_its_rows_and_says_what_is_lost(here, server):
    server.set(median=.05, rate=.5)
    run = begin(server, n=1000)
    wait_for(lambda: len(server.log)>60 and look()['rows'].get('sft.jsonl', {}).get('rows'))
    run.send_signal(signal.SIGKILL)
    run.wait()
    p = look()
    assert p['state']=='died' and p['rows']['sft.jsonl']['rows']>0 and p['no_forecast'] is None
    said = rsr('watch', 'w', '--once').stdout
    assert 'the file is written when you resume' in said and 'in flight (lost: no answer was saved)' in said

def test_a_missing_forecast_is_explained(here, server):
    server.set(median=2., rate=.1)   # the run notes more often than it is answered
    run = begin(server, n=60)
    seen = []
    def saw(words):
        p = look() if (here/'w'/'run.db').exists() else {}
        seen.extend([p] if 'no_forecast' in p else [])
        return seen and words in (seen[-1]['no_forecast'] or '')
    wait_for(lambda: saw('(20 are needed)'))
    assert all(bool(p['forecast'])!=bool(p['no_forecast']) for p in seen if p['state']=='running')
    run.send_signal(signal.SIGKILL)
    run.wait()
    run = begin(server, 'goal=60', n=60)
    wait_for(lambda: saw('a run with a goal'))
    run.send_signal(signal.SIGKILL)
    run.wait()

def test_the_directory_of_generated_prompts(here, server):
    made = rsr('prompts', 'customer_support', 'n=4', 'out=p.jsonl', 'work_dir=w', 'templates=false',
               f'sampler.base_url={server.base_url}', 'sampler.model=m')
    p = look()
    assert p['state'].startswith('finished') and p['prompts']['total']==4 and p['rows']=={} and p['resume'] is None
    assert p['rollouts']['asked'] and p['tokens']['prompt']
    assert rsr('watch', 'w').returncode==made.returncode
    for command in 'stats', 'report', 'check', 'format':
        res = rsr(command, 'w')
        assert res.returncode==2 and 'w holds prompts that `rsr prompts` wrote' in res.stderr, res.stderr

def test_a_run_that_is_removed_while_it_is_watched(here, server):
    server.set(median=.2, rate=.3)
    run = begin(server, n=300)
    wait_for(lambda: (here/'w'/'recipe.yaml').exists() and len(server.log)>10)
    panel = load_run('w').watch(.1)
    watch = COMMANDS.begin(['watch', 'w', 'every=0.1'], hears=True)
    wait_for(lambda: panel.last['prompts'])
    shutil.rmtree('w')
    out, err = watch.communicate(timeout=60)
    said = 'this run was removed, moved or replaced while it was watched', 'no run here'   # it may begin only now
    assert watch.returncode==2 and any(words in err for words in said), (out, err)
    with pytest.raises(RsrError, match='removed, moved or replaced'):
        panel.wait(60)
    assert panel.last['state']=='no longer watched' and 'removed' in repr(panel)
    run.communicate(timeout=60)
