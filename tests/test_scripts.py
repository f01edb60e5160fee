"What a script sees: one JSON object, exit codes, progress in a log, a list of runs, and Ctrl-C at any moment."
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import RSR, read_jsonl, rows, write_jsonl
from test_crash import hears_signals, wait_for

from rsr import sample
from rsr.cli import main
from rsr.run.runs import list_runs

@pytest.fixture
def shell(capsys):
    "Run a command in this process; (exit code, its JSON object, the error stream)."
    def run(*words):
        capsys.readouterr()
        code = main([*map(str, words), 'json=true'])
        out, err = capsys.readouterr()
        data = json.loads(out)
        assert isinstance(data, dict) and data['exit_code']==code and 'NaN' not in out, out
        return code, data, err
    return run

@pytest.fixture
def base(here, server):
    write_jsonl('in.jsonl', rows(12))
    return ['data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'sampler.model=loopback-1']

def failing(*prompts):
    "A server that answers HTTP 500 to some prompts."
    def reply(body):
        if body['messages'][-1]['content'] in prompts:
            return 500, '{"error": {"message": "boom"}}'
    return reply


# ---- json=true

def test_a_finished_run(shell, base, server):
    server.set(rate=1.)
    code, d, err = shell('run', 'sft', *base, 'work_dir=w')
    assert code==0 and d['run']=='w' and d['files']=={'train/sft.jsonl':12}
    assert d['stop_reason'] is d['message'] is d['resume'] is None and d['failed']==[]
    assert d['stats']['prompts']['satisfied']==12 and 'prompts    12' in err

def test_a_run_out_of_budget_says_what_to_raise(shell, base, server):
    server.set(rate=.1)
    code, d, err = shell('run', 'sft', *base, 'work_dir=w', 'budget.tokens=900', 'sampler.max_tokens=50')
    assert code==3 and d['stop_reason']=='budget' and 'spent' in d['message']
    assert d['resume'].endswith('work_dir=w budget.tokens=…') and 'budget.tokens=900' not in d['resume']
    assert 'raise the limit: rsr run' in err and 'resume with' not in err

def test_minutes_count_anew_so_the_same_command_resumes(shell, base, server):
    server.set(rate=.1)
    code, d, err = shell('run', 'sft', *base, 'work_dir=w', 'budget.minutes=0')
    assert code==3 and 'budget.minutes=0' in d['resume'] and 'resume with: rsr run' in err

def test_failed_prompts_are_named(shell, base, server):
    server.set(rate=1., reply=failing('prompt 3', 'prompt 7'))
    code, d, err = shell('run', 'sft', *base, 'work_dir=w', 'sampler.max_retries=1')
    assert code==1 and d['stop_reason'] is None
    why, = d['failed']
    assert why['ids']==['q3', 'q7'] and why['prompts']==2 and 'boom' in why['reason']
    assert 'failed     2 prompts (q3, q7)' in err and 'HTTP 500' in err and 'then resume with: rsr run' in err
    server.set(reply=None)
    assert main(d['resume'].split()[1:])==0     # the command that it gives

def test_a_run_that_was_never_answered_is_not_resumed(shell, base, server):
    server.set(auth='sk-right')
    code, d, err = shell('run', 'sft', *base, 'work_dir=w')
    assert code==1 and d['stop_reason']=='broken' and d['resume'] is None and '401' in d['error']
    assert 'Nothing was answered, and nothing was paid for' in err and 'Resume' not in err

def test_a_run_that_breaks_says_how_far_it_came(shell, base, server, here):
    (here/'v.py').write_text('def judge(response, metadata): return metadata["nothing"]\n')
    code, d, err = shell('run', 'sft', *base, 'work_dir=w', 'verifier.type=v.py:judge')
    assert code==1 and d['stop_reason']=='broken' and d['run']=='w' and d['stats']['samples']['asked']>=10
    assert d['resume'].startswith('rsr run sft') and 'times in a row' in d['error'] and 'Traceback' not in err

@pytest.mark.parametrize('words,said', [
    (['run'], 'usage: rsr run'), (['run', 'sfft'], "Did you mean 'sft'?"), (['rnu'], "Did you mean 'run'?"),
    (['run', 'work_dir=none', 'budget.usd=3'], 'none: no run here to resume; to start one, name a recipe: rsr run sft'),
    (['run', 'sft', 'data.input_path=no.jsonl'], 'no file no.jsonl'), (['stats', 'nowhere'], 'no run here'),
    (['run', 'sft', 'progress=fast'], 'Allowed: bar, lines, none'), (['explore', 'w'], "no option 'json'"),
    (['ls', 'nowhere'], 'no such folder'), (['coverage', 'customer_support'], 'usage: rsr coverage')])
def test_an_error_is_an_object_too(shell, here, words, said):
    code, d, err = shell(*words)
    assert code==2 and said in d['error'] and said in err and 'Traceback' not in err
    assert set(d)=={'error', 'exit_code'} and not list(here.iterdir())

def test_json_must_be_true_or_false(here, capsys):
    assert main(['run', 'sft', 'json=1'])==2 and "json: '1' is not true or false" in capsys.readouterr().err
    assert main(['init', 'json=false'])==0 and 'multi_sft' in capsys.readouterr().out

@pytest.mark.parametrize('switch', ['--json', '-json', '--json=true', 'json=yes'])
def test_any_way_to_ask_for_json_gives_one_object(base, server, capsys, switch):
    server.set(rate=1.)
    for line in (['run', 'sft', *base, 'work_dir=w'], ['plan', 'sft', *base, 'work_dir=p', 'pilot=2'], ['ls', '.'],
                 ['format', 'w'], ['stats', 'w'], ['check', 'w'], ['compare', 'w', 'w'], ['report', 'w'],
                 ['prompts', 'customer_support', 'n=3', 'out=p.jsonl', 'overwrite=yes'], ['run', 'sfft'], ['stats'],
                 ['run', 'sft', '--seed'], ['run', 'sft', '--progress=fast']):
        code = main([*line, switch])
        out = capsys.readouterr().out
        assert json.loads(out)['exit_code']==code, line

def test_completing_a_line_that_asks_for_json(capsys):
    assert main(['completion', 'words', 'run', '--json', 'sam'])==0
    assert 'sampling.max_rollouts=' in capsys.readouterr().out.split()

def test_a_refused_command_says_nothing_of_the_run_that_is_there(shell, base, server):
    server.set(rate=1.)
    main(['run', 'sft', *base, 'work_dir=w'])
    code, d, err = shell('run', 'work_dir=w', 'sampler.temperature=1.5')
    assert code==2 and set(d)=={'error', 'exit_code'}
    with open('w/.lock') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, d, err = shell('run', 'work_dir=w')
    assert code==2 and set(d)=={'error', 'exit_code'} and 'in use' in d['error']

def test_format_without_a_row_exits_with_4_and_the_run_does_not(shell, base, server):
    server.set(rate=1.)
    main(['run', 'sft', *base, 'work_dir=w'])
    code, d, err = shell('format', 'w', 'multi_sft', 'formatter.min_responses=16')
    assert code==4 and d['files']=={'train/multi_sft.jsonl':0} and '0 rows: 12 × fewer than min_responses=16' in err
    assert shell('run', 'work_dir=w')[0]==0     # the recipe's own file has rows
    assert shell('format', 'w', 'sft')[0]==0

def test_null_is_no_split(here):
    from rsr.run.recipe import load_recipe
    for words in (['split.eval='], ['split.eval=null'], ['split.eval=0.2', 'split.eval=']):
        assert load_recipe('sft', ['data.input_path=in.jsonl', *words])['split'] is None

def test_stages_alone_have_no_held_out_files(shell, base, server):
    server.set(rate=.5)
    code, d, err = shell('run', 'sft_dpo', *base, 'work_dir=w', 'stages=[sft, dpo]')
    assert set(d['files'])=={'train/sft.jsonl', 'train/dpo.jsonl'}=={f'train/{f}' for f in d['stats']['rows']}
    assert not Path('w/eval').exists()
    code, d, err = shell('format', 'w', 'split.eval=0.3')
    assert {'eval/sft.jsonl', 'eval/dpo.jsonl'}<=set(d['files'])
    code, d, err = shell('format', 'w', 'split=null')
    assert not any(f.startswith('eval/') for f in d['files']) and not list(Path('w/eval').glob('*.jsonl'))

def test_every_command_that_prints_data(shell, base, server, here):
    server.set(rate=.6)
    assert shell('plan', 'dpo', *base, 'work_dir=w', 'pilot=4')[1]['forecast']['pilot']==4
    assert shell('run', 'work_dir=w')[0] in (0, 4)
    for words in (['stats', 'w'], ['check', 'w'], ['compare', 'w', 'w'], ['pairs', 'audit', 'w'], ['ls', '.'],
                  ['pairs', 'compare', 'w', 'w'], ['pairs', 'join', 'w', 'w', 'both', 'min_margin=0'], ['methods'],
                  ['methods', 'goal=quality'], ['copy', 'w', 'w2'], ['report', 'w'], ['rubric'], ['prompts'], ['init'],
                  ['init', 'sft', 'mine.yaml']):
        code, d, _ = shell(*words)
        assert code<2 and len(d)>1, words
    code, d, _ = shell('format', 'w', 'formatter.name=z')
    assert d['files']=={'train/z.jsonl':len(read_jsonl('w/train/z.jsonl'))}
    assert Path(shell('report', 'w')[1]['report']).is_file()

def test_coverage_fits_and_still_prints_one_object(shell, here):
    code, d, _ = shell('prompts', 'customer_support', 'n=20', 'out=p.jsonl')
    assert code==0 and d['prompts']==d['planned']==20 and d['path']=='p.jsonl' and d['missing']==0
    code, d, err = shell('coverage', 'customer_support', 'p.jsonl', 'production=p.jsonl', 'fit=t.yaml')
    assert code==0 and d['fitted']=='t.yaml' and d['coverage'] and Path('t.yaml').exists()

@pytest.mark.parametrize('second', [False, True])
def test_an_interrupted_run(base, server, second):
    server.set(median=2.5 if second else 1., sigma=.01, rate=1.)
    p = subprocess.Popen([RSR, 'run', 'sft', *base, 'work_dir=w', 'json=true'], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, preexec_fn=hears_signals)
    wait_for(lambda: len(server.log)>5)
    p.send_signal(signal.SIGINT)
    said = p.stderr.readline()
    assert re.match(r'rsr: Interrupted: waiting up to 15 s for \d+ requests? in flight; press Ctrl-C again', said), said
    if second:
        time.sleep(1.1)     # two signals within a second are one: schedulers send them so
        p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    d = json.loads(out)
    assert p.returncode==d['exit_code']==130 and d['stop_reason']=='interrupted' and 'Traceback' not in err
    assert d['resume'].startswith('rsr run sft') and d['run']=='w'
    assert ('error' in d)==second
    assert {r['state'] for r in list_runs('.')}=={'stopped: interrupted'}


# ---- Ctrl-C before anything has begun

def test_ctrl_c_in_the_first_second(base, server):
    "At twenty moments; before Python runs any line of rsr, what it prints is its own affair."
    server.set(median=30., sigma=.01)
    started = []
    for i in range(20):
        cmd = [RSR, 'run', 'sft', *base, f'work_dir=w{i}']
        p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears_signals)
        time.sleep(i*.05)
        p.send_signal(signal.SIGINT)
        if server.log:
            time.sleep(1.1)
            p.send_signal(signal.SIGINT)     # not to wait for what is in flight
        started.append((p, *p.communicate(timeout=100)))
    for p, out, err in started:
        early = 'Traceback' in err and not re.search(r'rsr/(__init__|cli|data|run)', err)
        assert early or 'Traceback' not in err and p.returncode in (130, -signal.SIGINT), (p.returncode, out, err)

EARLY = """
import os, signal, sys, rsr.cli
class Signalled:
    "Sends a signal to this process when it imports the commands."
    @staticmethod
    def find_spec(name, *args):
        if name=='rsr.cli.entry':
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
sys.meta_path.insert(0, Signalled)
sys.exit(rsr.cli.main(sys.argv[2:]))
"""

@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_a_signal_while_python_imports(here, name):
    line = [sys.executable, '-c', EARLY, name, 'init', '--json']
    p = subprocess.run(line, capture_output=True, text=True, preexec_fn=hears_signals)
    assert p.returncode==130 and json.loads(p.stdout)==dict(error='Interrupted.', exit_code=130)
    assert p.stderr.strip()=='Interrupted.'

def test_nohup_is_not_interrupted_while_python_imports(here):
    line = [sys.executable, '-c', EARLY, 'SIGHUP', 'init', '--json']
    ignores = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    p = subprocess.run(line, capture_output=True, text=True, preexec_fn=ignores)
    assert p.returncode==0 and 'recipes' in json.loads(p.stdout)


# ---- progress

def test_a_log_has_lines(base, server, capfd):
    server.set(rate=1.)
    for how in 'bar', 'lines':
        assert main(['run', 'sft', *base, f'work_dir={how}', f'progress={how}'])==0
        err = capfd.readouterr().err
        assert '\r' not in err and err.count('12 of 12 prompts done (100%)')==1, err
    assert main(['run', 'sft', *base, 'work_dir=none', 'progress=none'])==0
    assert 'prompts done' not in capfd.readouterr().err
    sample('in.jsonl', 'sft', model='loopback-1', base_url=server.base_url, work_dir='py', progress='lines')
    assert '12 of 12 prompts done' in capfd.readouterr().err

def test_commands_without_progress_take_the_option_too(shell, base, server):
    server.set(rate=1.)
    main(['run', 'sft', *base, 'work_dir=w'])
    for how in 'bar', 'lines', 'none':
        assert shell('format', 'w', f'progress={how}')[0]==0
        assert shell('report', 'w', f'progress={how}')[0]==0
    for command in 'format', 'report':
        assert 'Allowed: bar, lines, none' in shell(command, 'w', 'progress=fast')[1]['error']

def on_a_terminal(*words, **env):
    "Run a command on a terminal of its own; what it showed."
    pid, fd = pty.fork()
    if not pid:
        os.environ.update(env)
        os.execv(RSR, [RSR, *words])
    shown = b''
    while True:
        try:
            new = os.read(fd, 1<<16)
        except OSError:
            break
        if not new:
            break
        shown += new
    os.waitpid(pid, 0)
    os.close(fd)
    return shown.decode().replace('\r\n', '\n')

def test_a_terminal_has_a_bar_unless_it_is_dumb(base, server):
    server.set(rate=1., median=.05)
    words = ['run', 'sft', *base]
    shown = on_a_terminal(*words, 'work_dir=a', TERM='xterm', COLUMNS='200')
    assert '12/12 prompts' in shown and '\r' in shown
    shown = on_a_terminal(*words, 'work_dir=b', TERM='dumb')
    assert '12 of 12 prompts done' in shown and '\r' not in shown and '\x1b' not in shown

def test_counts_are_the_runs_also_when_it_is_resumed(base, server, capfd):
    server.set(rate=.3)
    main(['plan', 'sft', *base, 'work_dir=w', 'pilot=5'])
    capfd.readouterr()
    main(['run', 'work_dir=w'])
    err = capfd.readouterr().err
    shown = re.findall(r'(satisfied|rollouts|tokens) ([\d,]+)', err.splitlines()[-1])
    n = {k:int(v.replace(',', '')) for k, v in shown}
    st = sqlite3.connect('w/run.db')
    satisfied, = st.execute("SELECT count(*) FROM prompts WHERE stop='satisfied'").fetchone()
    rollouts, tokens = st.execute('SELECT count(*), sum(prompt_tokens+completion_tokens) FROM rollouts').fetchone()
    assert n==dict(satisfied=satisfied, rollouts=rollouts, tokens=tokens)

def test_the_edge_of_a_budget_is_named(base, server, capfd, monkeypatch):
    from rsr.sampling.progress import ProgressLines
    monkeypatch.setattr(ProgressLines, 'every', 0)
    server.set(rate=.1, median=.02)
    main(['run', 'sft', *base, 'budget.tokens=6000', 'sampler.max_tokens=1000', 'progress=lines'])
    assert 'near the budget: waiting for answers in flight' in capfd.readouterr().err


# ---- rsr ls

def test_ls_reads_whatever_lies_there(base, server, here, shell):
    server.set(rate=1.)
    main(['run', 'sft', *base, 'work_dir=runs/done'])
    main(['plan', 'dpo', *base, 'work_dir=runs/deep/pilot', 'pilot=3'])
    runs = here/'runs'
    (runs/'empty').mkdir()
    (runs/'file').write_text('x')
    for name, data in dict(text=b'no database', none=b'').items():
        (runs/name).mkdir()
        (runs/name/'run.db').write_bytes(data)
    shutil.copytree(runs/'done', runs/'newer')
    db = sqlite3.connect(runs/'newer'/'run.db')
    db.execute('PRAGMA user_version=99')
    db.close()
    shutil.copytree(runs/'done', runs/'damaged')
    (runs/'damaged'/'run.db').write_bytes((runs/'done'/'run.db').read_bytes()[:5000])
    shutil.copytree(runs/'done', runs/'odd')
    (runs/'odd'/'recipe.yaml').write_text('- [')
    (runs/'odd'/'summary'/'stats.json').write_text('[]')
    (runs/'loop').symlink_to(runs)
    shutil.copytree(runs/'done', runs/'died')
    db = sqlite3.connect(runs/'died'/'run.db')
    process = json.dumps(dict(pid=1, host=os.uname().nodename))
    db.execute("INSERT OR REPLACE INTO meta VALUES('process', ?)", (process,))
    db.commit()
    db.close()
    code, d, err = shell('ls', 'runs')
    state = {Path(r['run']).name:r['state'] for r in d['runs'] if 'loop' not in r['run']}
    expected = dict(done='finished', pilot='pilot', text='damaged', none='not started', odd='finished',
                    newer='other version', damaged='damaged', died='died')
    assert code==0 and state==expected
    row = next(r for r in d['runs'] if r['run']=='runs/done')
    told = [row[k] for k in ('recipe', 'model', 'prompts', 'rows', 'pass_rate')]
    assert told==['sft', 'loopback-1', 12, 12, 1.]
    assert main(['ls', 'runs'])==0 and main(['ls', 'runs/done'])==0

def test_ls_survives_strange_statistics(base, server, here, shell):
    server.set(rate=1.)
    main(['run', 'sft', *base, 'work_dir=runs/good'])
    strange = ['{"cost": "x"}', '{"cost": [1]}', '{"cost": true}', '{"pass_rate": {"plain": "high"}}', '"x"', '[[]]',
               '{"pass_rate": 1}', '{"pass_rate": {"plain": [1]}}', '{"pass_rate": {"corrected": {}, "plain": 0.5}}']
    for i, text in enumerate(strange):
        shutil.copytree('runs/good', f'runs/{i}')
        Path(f'runs/{i}/summary/stats.json').write_text(text)
    code, d, _ = shell('ls', 'runs')
    assert code==0 and len(d['runs'])==len(strange)+1 and {r['state'] for r in d['runs']}=={'finished'}
    assert {r['pass_rate'] for r in d['runs']}=={1., .5, None} and {r['cost'] for r in d['runs']}=={None}
    assert main(['ls', 'runs'])==0

def test_ls_lists_a_run_once(base, server, here):
    server.set(rate=1.)
    main(['run', 'sft', *base, 'work_dir=runs/w'])
    for name in 'a', 'self':
        (here/'runs'/name).symlink_to('.')
    (here/'runs'/'alias').symlink_to('w')
    (here/'other').mkdir()
    (here/'other'/'link').symlink_to(here/'runs'/'w')
    assert [r['run'] for r in list_runs('runs')]==['runs/w'] and [r['run'] for r in list_runs('runs/w')]==['runs/w']
    assert [r['run'] for r in list_runs('other')]==['other/link']

def test_a_run_in_progress_is_running(base, server):
    server.set(median=30., sigma=.01)
    p = subprocess.Popen([RSR, 'run', 'sft', *base, 'work_dir=runs/w', 'progress=none'], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(server.log)>0)
        assert [r['state'] for r in list_runs('runs')]==['running']
    finally:
        p.kill()
        p.wait()
    assert [r['state'] for r in list_runs('runs')]==['died']

def test_two_hundred_runs(base, server, here):
    server.set(rate=1.)
    main(['run', 'sft', *base, 'work_dir=runs/0'])
    for i in range(1, 200):
        shutil.copytree('runs/0', f'runs/{i}')
    began = time.process_time()
    assert {r['state'] for r in list_runs('runs')}=={'finished'}
    assert time.process_time()-began<2

def test_ls_without_runs(here, capsys):
    assert main(['ls'])==0 and 'no runs in output' in capsys.readouterr().out
    assert main(['ls', 'json=true'])==0
    assert json.loads(capsys.readouterr().out)==dict(folder='output', runs=[], exit_code=0)


# ---- help

@pytest.mark.parametrize('words,said', [
    ('help', 'rsr run RECIPE'), ('help run', 'usage: rsr run'), ('run --help', 'usage: rsr run'),
    ('--help run', 'usage: rsr run'), ('help run verifier', 'verifier.model='),
    ('run --help verifier', 'verifier.model='),
    ('help format labels', 'labels.decide='), ('help run', 'split.eval=   '), ('format --help', 'split.eval=   '),
    ('help kto', 'positive_share'), ('help ls', 'usage: rsr ls'), ('help json', 'json=false')])
def test_help_by_any_name(words, said, capsys):
    assert main(words.split())==0 and said in capsys.readouterr().out

def test_help_for_nothing_known_names_the_nearest(capsys):
    assert main(['help', 'verifer'])==2 and "Did you mean 'verifier'?" in capsys.readouterr().err
    assert main(['help', 'formt'])==2 and "Did you mean 'format'?" in capsys.readouterr().err

def test_run_alone_helps(capsys):
    assert main(['run'])==2
    err = capsys.readouterr().err
    assert 'example: rsr run dpo' in err and 'options: rsr run --help' in err and 'recipes: demo, dpo' in err
    assert main(['run', 'data.input_path=in.jsonl'])==2
    assert 'name a recipe before the options: rsr run sft data.input_path=in.jsonl' in capsys.readouterr().err

HEAVY = ['asyncio', 'ssl', 'yaml', 'numpy', 'pandas', 'aiohttp', 'litellm', 'urllib.request', 'email', 'statistics',
         'importlib.resources', 'rsr.run', 'rsr.sampling', 'rsr.verifiers', 'rsr.formatters', 'rsr.data.store']

@pytest.mark.parametrize('code', ['import rsr', 'from rsr.cli import main; main(["--help"])',
                                  'from rsr.cli import main; main(["--version"])'])
def test_help_loads_no_library(tmp_path, code):
    prog = f'import sys; {code}; print([m for m in {HEAVY} if m in sys.modules])'
    res = subprocess.run([Path(RSR).parent/'python', '-c', prog], cwd=tmp_path, capture_output=True, text=True)
    assert res.stdout.splitlines()[-1]=='[]', res.stdout+res.stderr
