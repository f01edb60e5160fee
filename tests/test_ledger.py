"Ledgers that look empty, are damaged, locked or out of reach; run directories that go away; pipes that close."
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from conftest import RSR, rows, rsr, write_jsonl
from test_crash import counts, hears_signals, start, wait_for

import rsr as package
from rsr import load_run
from rsr.data.files import Atomic
from rsr.data.parts import open_block
from rsr.data.safekeeping import check_place
from rsr.data.store import Store
from rsr.data.types import RsrError

N = 8

def command(server, work_dir='w', *args):
    return ['run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', f'work_dir={work_dir}',
            *args]

def contents(folder):
    "The training files of a run, with their bytes."
    return {str(p): p.read_bytes() for p in sorted(Path(folder).glob('train/*'))}

def no_traceback(p):
    text = p.stdout+p.stderr
    assert 'Traceback' not in text and 'bug in rsr' not in text and 'Exception ignored' not in text, text

@pytest.fixture
def done(here, server):
    "A finished run in w/."
    write_jsonl('in.jsonl', rows(N))
    p = rsr(*command(server))
    assert p.returncode == 0, p.stderr
    return here

# ---- a ledger that looks empty: nothing is deleted, nothing is bought

def change(*statements):
    "Run SQL on the ledger of w/, or on a new database in its place."
    db = sqlite3.connect('w/run.db')
    with db:
        for statement in statements:
            db.execute(statement)
    db.close()

def emptied():
    Path('w/run.db').write_bytes(b'')

def removed():
    for p in Path('w').glob('run.db*'):
        p.unlink()

def no_tables():
    removed()
    change('PRAGMA journal_mode=WAL')

def no_rows():
    change('DELETE FROM rollouts', 'DELETE FROM scores')

def fewer_rows():
    change('DELETE FROM rollouts WHERE key > 5')

def no_rows_no_summary():
    no_rows()
    shutil.rmtree('w/summary')
    change("DELETE FROM meta WHERE key IN ('rows', 'written')")

def emptied_only_recipe():
    emptied()
    shutil.rmtree('w/summary')
    shutil.rmtree('w/train')

def removed_only_train():
    removed()
    shutil.rmtree('w/summary')
    Path('w/recipe.yaml').unlink()

def lfs_pointer():
    Path('w/run.db').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n')

def text():
    Path('w/run.db').write_text('this is not a database at all, but a long text of somebody\n'*9)

def directory():
    removed()
    Path('w/run.db').mkdir()

def other_program():
    removed()
    change('CREATE TABLE bookmarks(url)')

def newer():
    change('PRAGMA user_version=9')

def beginning_only():
    "An interrupted copy: the first kilobytes of the file."
    data = Path('w/run.db').read_bytes()
    Path('w/run.db').write_bytes(data[:5000])

def garbage_inside():
    data = bytearray(Path('w/run.db').read_bytes())
    for page in range(4096, len(data), 4096):
        data[page:page+600] = b'\xa5'*600
    Path('w/run.db').write_bytes(data)

LOST = [emptied, removed, no_tables, no_rows, fewer_rows, no_rows_no_summary, emptied_only_recipe, removed_only_train]
OTHER = [lfs_pointer, text, directory, other_program, newer, beginning_only, garbage_inside]

@pytest.mark.parametrize('harm', LOST+OTHER, ids=lambda f: f.__name__)
def test_nothing_is_deleted_or_bought(done, server, harm):
    harm()
    before, asked = contents('w'), len(server.log)
    for args in [('format', 'w'), ('format', 'w', 'formatter.pass_threshold=0.5'), ('stats', 'w'), command(server),
                 ('run', 'work_dir=w')]:
        p = rsr(*args)
        no_traceback(p)
        assert p.returncode == 2, (args, p.returncode, p.stdout, p.stderr)
        assert any(told in p.stderr for told in ('w/run.db', 'no run.db', 'no run here to resume')), p.stderr
        if harm in LOST and len(args) > 2 and args[0] == 'run':
            assert 'rsr copy' in p.stderr and 'work_dir' in p.stderr
    assert contents('w') == before and len(server.log) == asked
    if harm is not directory and harm not in (removed, removed_only_train):
        assert Path('w/run.db').exists()

def test_the_message_names_what_was_found(done, server):
    emptied()
    p = rsr(*command(server))
    n = len(load_run_rollouts('w'))
    assert f'{n} rollouts' in p.stderr and 'is empty' in p.stderr

def load_run_rollouts(path):
    return range(json.loads(Path(path, 'summary/stats.json').read_text())['samples']['asked'])

def test_the_wal_of_another_run(done, server):
    "SQLite takes any journal that lies beside a database for its own."
    write_jsonl('in.jsonl', rows(N, start=100))
    p = start(server, 60)
    p.kill()
    p.wait()
    shutil.rmtree('w2', ignore_errors=True)
    write_jsonl('in.jsonl', rows(60, start=100))
    cmd = [RSR, *command(server, 'w2', 'sampler.concurrent_requests=2')]
    server.set(median=.05)
    p = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: Path('w2/summary/ledger.json').exists() and len(server.log) > 40)
    p.kill()
    p.wait()
    shutil.copy('w2/run.db-wal', 'w/run.db-wal')
    seen = []
    def settled():   # what was under way when the process was killed has arrived
        seen.append(len(server.log))
        time.sleep(.3)
        return len(server.log) == seen[-1]
    wait_for(settled)
    before, asked = contents('w'), len(server.log)
    for args in [('format', 'w'), command(server)]:
        p = rsr(*args)
        no_traceback(p)
        assert p.returncode == 2 and contents('w') == before and len(server.log) == asked, (p.stdout, p.stderr)

@pytest.mark.parametrize('what', ['all', 'recipe'])
def test_a_copy_without_the_journal(here, server, what):
    "cp of a run in mid-write, without run.db-wal: neither a resume nor a format takes it for a run that begins."
    server.set(median=.05)
    p = start(server, 200)
    wait_for(lambda: len(server.log) > 40)
    ignore = shutil.ignore_patterns('*-wal', '*-shm', '*.tmp', *(['summary'] if what == 'recipe' else []))
    shutil.copytree('w', 'c', ignore=ignore)
    p.kill()
    p.wait()
    asked = len(server.log)
    for args in command(server, 'c'), ['format', 'c']:
        q = rsr(*args)
        no_traceback(q)
        assert q.returncode == 2 and 'rsr copy' in q.stderr, q.stderr
    assert len(server.log) == asked

def test_a_copy_of_a_checkpointed_file(here, server):
    "Most of a long run is in run.db itself, and only its end in the journal."
    server.set(median=.2, words=1500)
    p = start(server, 300)
    def lags():
        "Copy the run; does the file lack what the note counts?"
        shutil.rmtree('c', ignore_errors=True)
        shutil.copytree('w', 'c', ignore=shutil.ignore_patterns('*-wal', '*-shm', '*.tmp'))   # .tmp is gone in a moment
        with closing(sqlite3.connect('c/run.db')) as db, suppress(sqlite3.DatabaseError):   # torn: once more
            found = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] and db.execute(
                'SELECT max(key) FROM rollouts').fetchone()[0]
            return found and found < noted()
    def noted():
        return json.loads(Path('c/summary/ledger.json').read_text())['rollouts']
    wait_for(lambda: os.path.exists('w/run.db') and os.path.getsize('w/run.db') > 2_000_000, 60)
    wait_for(lags, 60)
    p.kill()
    p.wait()
    asked = len(server.log)
    q = rsr(*command(server, 'c'))
    assert q.returncode == 2 and f'{noted():,}' in q.stderr and len(server.log) == asked, q.stderr
    server.set(median=0.)
    q = rsr(*command(server))   # the run itself goes on
    assert q.returncode == 0, q.stderr

# ---- no false alarms

def test_killed_before_the_first_request(here, server):
    server.set(median=5.)
    write_jsonl('in.jsonl', rows(N))
    p = start(server, N)
    wait_for(lambda: len(server.log) > 0)
    p.kill()
    p.wait()
    change('DELETE FROM rollouts')      # as if killed a moment earlier
    shutil.rmtree('w/summary', ignore_errors=True)
    server.set(median=0)
    p = rsr(*command(server))
    assert p.returncode == 0, p.stderr

def test_an_own_recipe_in_a_new_directory(here, server):
    write_jsonl('in.jsonl', rows(N))
    os.mkdir('w')
    Path('w/recipe.yaml').write_text('work_dir: w\nformatter: [{type: sft}]\ndata: {input_path: in.jsonl}\n'
                                     f'sampler: {{base_url: "{server.base_url}"}}\n')
    p = rsr('run', 'w/recipe.yaml')
    assert p.returncode == 0, p.stderr

def test_a_start_that_failed_leaves_nothing_that_is_taken_for_a_run(here, server):
    write_jsonl('in.jsonl', rows(N))
    os.mkdir('w')
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', 'sampler.type=vllm-offline', 'sampler.model=no/such',
            'work_dir=w')
    assert p.returncode != 0
    p = rsr(*command(server))
    assert p.returncode == 0, p.stderr

def test_other_options_still_remove_rows(done):
    p = rsr('format', 'w', 'decontaminate=in.jsonl')
    assert p.returncode == 4 and '0 rows' in p.stdout, p.stderr
    assert not Path('w/train/sft.jsonl').exists()
    p = rsr('format', 'w', 'decontaminate=null')
    assert p.returncode == 0 and Path('w/train/sft.jsonl').exists()

def test_a_run_of_before_the_notes(done, server):
    "An old run directory has no summary/ledger.json and no id in its ledger."
    Path('w/summary/ledger.json').unlink()
    change("DELETE FROM meta WHERE key='id'")
    assert rsr('format', 'w').returncode == 0
    assert rsr('run', 'work_dir=w').returncode == 0
    write_jsonl('in.jsonl', rows(N+4))
    p = rsr(*command(server))
    assert p.returncode == 0 and len(load_run('w').prompts) == N+4
    assert json.loads(Path('w/summary/ledger.json').read_text())['rollouts'] == len(load_run('w').rollouts)

def test_grpo_rows_need_no_rollouts(here, server):
    write_jsonl('in.jsonl', rows(N))
    args = ['run', 'grpo', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
            'sampling.max_rollouts=0']
    assert rsr(*args).returncode in (0, 4)
    p = rsr('format', 'w')
    assert p.returncode in (0, 4), p.stderr

# ---- rsr copy

def test_copy_in_mid_write_and_resume(here, server):
    server.set(median=.5, rate=.2)
    p = start(server, 100)
    wait_for(lambda: len(server.log) > 60)
    q = rsr('copy', 'w', 'backup/c')
    assert q.returncode == 0 and p.poll() is None, q.stderr
    assert '100 prompts' in q.stdout and 'rollouts' in q.stdout and 'work_dir=backup/c' in q.stdout
    p.kill()
    p.wait()
    copied = sqlite3.connect('backup/c/run.db')
    assert copied.execute('PRAGMA integrity_check').fetchone() == ('ok',)
    kept = set(copied.execute("SELECT key, text FROM rollouts WHERE outcome='kept'"))
    assert kept and not copied.execute('SELECT 1 FROM rollouts WHERE outcome IS NULL').fetchone()
    copied.close()
    assert kept <= set(sqlite3.connect('w/run.db').execute("SELECT key, text FROM rollouts WHERE outcome='kept'"))
    assert sorted(p.name for p in Path('backup').iterdir()) == ['c']
    server.set(median=0)
    q = rsr('run', 'work_dir=backup/c')
    assert q.returncode == 0, q.stderr
    s = load_run('backup/c').stats()
    assert sum(s['samples']['by_outcome'].values()) == s['samples']['asked'] and s['prompts']['total'] == 100
    copied = sqlite3.connect('backup/c/run.db')
    assert kept <= set(copied.execute("SELECT key, text FROM rollouts WHERE outcome='kept'"))

def test_a_copy_stands_alone(done):
    q = rsr('copy', 'w', 'c')
    assert q.returncode == 0 and f'{N} prompts' in q.stdout and 'training rows' in q.stdout
    assert contents('c').values() and [*contents('c').values()] == [*contents('w').values()]
    assert 'work_dir: c' in Path('c/recipe.yaml').read_text()
    assert 'process' not in rsr('stats', 'c').stdout
    assert rsr('format', 'c').returncode == 0
    package.copy_run('w', 'd')
    assert len(load_run('w').copy('e/f').rollouts) == len(load_run('d').rollouts)

@pytest.mark.parametrize('to,words', [('full', 'not empty'), ('in.jsonl', 'is a file'), ('w/copy', 'in the run itself'),
                                      ('w', 'in the run itself'), ('in.jsonl/c', 'cannot be written')])
def test_copy_refuses(done, to, words):
    os.mkdir('full')
    Path('full/mine').touch()
    before = sorted(map(str, Path('.').rglob('*')))
    q = rsr('copy', 'w', to)
    no_traceback(q)
    assert q.returncode == 2 and words in q.stderr, q.stderr
    assert sorted(map(str, Path('.').rglob('*'))) == before

def test_copy_of_what_is_no_run(done):
    for path in 'nothing', 'in.jsonl':
        q = rsr('copy', path, 'c')
        no_traceback(q)
        assert q.returncode == 2 and not os.path.exists('c')
    emptied()
    assert rsr('copy', 'w', 'c').returncode == 2 and not os.path.exists('c')
    assert 'usage: rsr copy' in rsr('copy', 'w').stderr and 'rsr copy RUN TO' in rsr('--help').stdout

def test_copy_to_a_full_disk(done):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    q = rsr('copy', 'w', 'c', preexec_fn=limit)
    no_traceback(q)
    assert q.returncode in (1, 2) and not os.path.exists('c') and not list(Path('.').glob('.c*')), q.stderr

# ---- errors of the disk, of memory, of limits

def test_corrupt_pages_of_a_long_run(here, server):
    server.set(words=400)
    write_jsonl('in.jsonl', rows(60))
    assert rsr(*command(server)).returncode == 0
    data = bytearray(Path('w/run.db').read_bytes())
    middle = len(data)//8192*4096
    data[middle:middle+8*4096] = b'\xa5'*8*4096
    Path('w/run.db').write_bytes(data)
    before, asked = contents('w'), len(server.log)
    for args in ['stats', 'w'], ['format', 'w'], ['check', 'w'], ['report', 'w'], ['copy', 'w', 'c']:
        p = rsr(*args)
        no_traceback(p)
        if p.returncode != 0:
            assert 'damaged' in p.stderr and 'w/run.db' in p.stderr, (args, p.stderr)
            assert 'disk full' not in p.stderr and 'disk is full' not in p.stderr
    p = rsr(*command(server))
    no_traceback(p)
    assert len(server.log) == asked
    assert contents('w').keys() == before.keys()

def test_locked_by_another_program(done, server):
    db = sqlite3.connect('w/run.db', isolation_level=None)
    db.execute('PRAGMA locking_mode=EXCLUSIVE')
    db.execute('BEGIN EXCLUSIVE')
    p = rsr(*command(server))
    db.close()
    no_traceback(p)
    assert p.returncode == 2 and 'locked' in p.stderr and 'Is the disk full' not in p.stderr, p.stderr

def test_a_file_limit_is_not_a_full_disk(here, server):
    server.set(rate=0., words=400)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    p = start(server, 100, preexec_fn=limit)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 1 and 'could not be written' in err and 'ulimit -f' in err and 'full' not in err, err
    assert not [*Path('w').rglob('*.tmp')]

def test_a_file_limit_at_the_start(here, server):
    write_jsonl('in.jsonl', rows(N))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    p = rsr(*command(server), preexec_fn=limit)
    no_traceback(p)
    assert p.returncode in (1, 2) and 'ulimit -f' in p.stderr, p.stderr
    assert not server.log and not [*Path('.').rglob('*.tmp')]
    assert rsr(*command(server)).returncode == 0

def test_training_files_that_do_not_fit(done):
    before = contents('w')
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
    p = rsr('format', 'w', preexec_fn=limit)
    no_traceback(p)
    assert p.returncode in (1, 2), p.stderr
    assert not [*Path('w').rglob('*.tmp')] and contents('w') == before

def test_open_files(here, server):
    write_jsonl('in.jsonl', rows(N))
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (90, 90))
    p = rsr(*command(server, 'w', 'sampler.concurrent_requests=200'), preexec_fn=limit)
    no_traceback(p)
    assert p.returncode == 2 and 'ulimit -n' in p.stderr and 'sampler.concurrent_requests=' in p.stderr, p.stderr
    assert not server.log
    soft = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (90, 4096))
    p = rsr(*command(server, 'w', 'sampler.concurrent_requests=200'), preexec_fn=soft)   # raised by rsr itself
    assert p.returncode == 0, p.stderr

@pytest.mark.parametrize('kb', [250_000, 400_000])
def test_little_memory(here, server, kb):
    write_jsonl('in.jsonl', rows(N))
    p = rsr(*command(server), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (kb*1024, kb*1024)))
    assert 'bug in rsr' not in p.stdout+p.stderr, p.stderr
    assert p.returncode == 0 or 'memory' in p.stderr or p.returncode < 0, p.stderr

def test_a_directory_that_is_a_file_or_read_only(here, server):
    write_jsonl('in.jsonl', rows(N))
    for work_dir in 'in.jsonl', 'in.jsonl/w', '/proc/w', '/dev/full/w':
        p = rsr(*command(server, work_dir))
        no_traceback(p)
        assert p.returncode == 2 and work_dir in p.stderr, p.stderr

def test_a_temporary_file_never_stays(tmp_path):
    with pytest.raises(OSError) as e, Atomic(tmp_path/'x') as f:
        os.close(f.fileno())
        f.write(b'1')
    assert not [*tmp_path.iterdir()], e
    with open('/dev/full', 'wb') as full, pytest.raises(OSError) as e, Atomic(tmp_path/'y') as f:
        os.dup2(full.fileno(), f.fileno())      # the disk is full, which shows when the file is closed
        f.write(b'1')
    assert not [*tmp_path.iterdir()] and e.value.filename == str(tmp_path/'y')

def test_what_a_killed_process_left_is_swept(done):
    dead = subprocess.Popen(['true'])
    dead.wait()
    left = Path(f'w/train/.sft.jsonl.{dead.pid}.tmp')
    left.touch()
    own = Path(f'w/train/.mine.{os.getpid()}.tmp')
    own.touch()
    assert rsr('format', 'w').returncode == 0
    assert not left.exists() and own.exists()

# ---- the run directory goes away

def gone(server, how, *args):
    server.set(median=.3, sigma=.1, rate=0.)
    p = start(server, 400, *args)
    wait_for(lambda: len(server.log) > 40)
    how()
    then = len(server.log)
    at = time.time()
    out, err = p.communicate(timeout=120)
    return p, out, err, then, time.time()-at

def test_removed_in_mid_run(here, server):
    p, out, err, then, took = gone(server, lambda: shutil.rmtree('w'))
    assert p.returncode == 1 and 'w: this run directory was removed' in err and 'Traceback' not in err, err
    assert len(server.log) <= then+16*10 and took < 20     # 16 at once, .3 s each
    assert 'w_saved' in err and 'work_dir=' in err and not os.path.exists('w')
    saved = [q for q in os.listdir('.') if q.startswith('w_saved')]
    c = dict(sqlite3.connect(f'{saved[0]}/run.db').execute('SELECT outcome, count(*) FROM rollouts GROUP BY 1'))
    assert c == {'kept': 4*len(server.log)}
    server.set(median=0.)
    before = len(server.log)
    q = rsr('run', f'work_dir={saved[0]}')
    assert q.returncode == 4 and len(server.log)-before < 400*4-before+8, q.stderr   # finished; none passed

def test_moved_in_mid_run(here, server):
    p, out, err, then, took = gone(server, lambda: os.rename('w', 'moved'))
    assert p.returncode == 1 and 'moved' in err and 'Traceback' not in err and not os.path.exists('w'), err
    c = dict(sqlite3.connect('moved/run.db').execute('SELECT outcome, count(*) FROM rollouts GROUP BY 1'))
    assert c == {'kept': 4*len(server.log)}
    server.set(median=0.)
    assert rsr('run', 'work_dir=moved').returncode == 4

def test_replaced_in_mid_run(here, server):
    def replace():
        os.rename('w', 'old')
        shutil.copytree('old', 'w', ignore=shutil.ignore_patterns('*-wal', '*-shm', '*.tmp'))
    p, out, err, then, took = gone(server, replace)
    assert p.returncode == 1 and 'old' in err and len(server.log) <= then+16*10, err

def without_override():
    "Let permissions mean something to root: drop CAP_DAC_OVERRIDE from what the next program may have."
    hears_signals()
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)

def permissions_hold():
    code = "import os; os.mkdir('sealed'); os.chmod('sealed', 0o555); print(os.access('sealed', os.W_OK))"
    p = subprocess.run([sys.executable, '-c', code], preexec_fn=without_override, capture_output=True, text=True)
    os.rmdir('sealed')
    return p.stdout.strip() == 'False'

def test_made_read_only_in_mid_run(here, server):
    if not permissions_hold():
        pytest.skip('permissions mean nothing to this user')
    server.set(median=.3, sigma=.1, rate=0.)
    p = start(server, 400, preexec_fn=without_override)
    wait_for(lambda: len(server.log) > 40)
    os.chmod('w', 0o555)
    then = len(server.log)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 1 and 'w: this run directory can no longer be written' in err and 'Traceback' not in err, err
    assert len(server.log) <= then+16*10
    assert counts() == {'kept': 4*len(server.log)}
    q = rsr(*command(server), preexec_fn=without_override)
    no_traceback(q)
    assert q.returncode == 2 and 'cannot be' in q.stderr, q.stderr
    os.chmod('w', 0o755)

# ---- output that nobody reads

def until_done(server, shell, seconds=60):
    "Run a shell line with $RUN; return its exit code, and what it printed."
    write_jsonl('in.jsonl', rows(40))
    run = ' '.join([RSR, *command(server)])
    p = subprocess.run(['bash', '-c', shell.replace('$RUN', run)], capture_output=True, text=True, timeout=seconds)
    return p

@pytest.mark.parametrize('shell', [
    '{ $RUN 2>&1; echo $? > code; } | true', '{ $RUN; echo $? > code; } | true',
    '{ $RUN 2>&1 >/dev/null; echo $? > code; } | true',
    '{ $RUN 2>&1; echo $? > code; } | head -c 1', '$RUN >&-; echo $? > code', '$RUN 2>&-; echo $? > code',
    '$RUN >&- 2>&-; echo $? > code', '$RUN <&- >&- 2>&-; echo $? > code'])
def test_a_closed_pipe_ends_nothing(here, server, shell):
    server.set(median=.02)
    p = until_done(server, shell)
    assert Path('code').read_text().strip() == '0', p.stderr
    assert not any(w in p.stderr for w in ('Traceback', 'Exception ignored', 'BrokenPipe')), p.stderr
    assert sqlite3.connect('w/run.db').execute('PRAGMA integrity_check').fetchone() == ('ok',)
    assert len(load_run('w').prompts) == 40 and Path('w/summary/stats.json').exists()

def test_the_pipe_closes_in_mid_run(here, server):
    "The reader goes while the bar is drawn, at a terminal's pace."
    server.set(median=.15, sigma=.1)
    write_jsonl('in.jsonl', rows(150))
    r, w = os.pipe()
    p = subprocess.Popen([RSR, *command(server)], stdout=w, stderr=w)
    os.close(w)
    os.read(r, 1)
    os.close(r)
    assert p.wait(timeout=120) == 0
    assert len(load_run('w').prompts) == 150

def test_a_script_whose_reader_goes(here, server):
    "The same from Python: the bar may not keep its lock."
    server.set(median=.1)
    write_jsonl('in.jsonl', rows(60))
    Path('s.py').write_text('import rsr, sys\nsys.stderr.isatty = lambda: True\n'
                            f'run = rsr.sample("in.jsonl", base_url="{server.base_url}", work_dir="w")\n'
                            'open("ended", "w").write(str(run.exit_code))\n')
    p = subprocess.run(['bash', '-c', f'{sys.executable} s.py 2>&1 | head -c 5'], timeout=120)
    assert p.returncode == 0
    wait_for(lambda: os.path.exists('ended'))
    assert Path('ended').read_text() in ('0', '')

def test_a_warning_whose_reader_is_gone_ends_nothing(here, server):
    "The warning of the served model's name comes before the first request: the pipe is closed by then."
    write_jsonl('in.jsonl', rows(4))
    Path('s.py').write_text('import os, sys, rsr\nread, write = os.pipe()\nos.close(read)\nos.dup2(write, 2)\n'
                            f'run = rsr.sample("in.jsonl", base_url="{server.base_url}", work_dir="w")\n'
                            'open("ended", "w").write(str(run.exit_code))\n')
    subprocess.run([sys.executable, 's.py'], timeout=120)
    assert Path('ended').read_text()=='0'

def test_stats_to_head(done):
    p = subprocess.run(['bash', '-c', f'{{ {RSR} stats w; echo $? > code; }} | true'], capture_output=True, text=True)
    assert Path('code').read_text().strip() == '0' and not p.stderr

def test_results_that_cannot_be_written_are_an_error(done):
    p = subprocess.run(['bash', '-c', f'{RSR} stats w > /dev/full'], capture_output=True, text=True)
    assert p.returncode == 1 and 'space' in p.stderr and 'Traceback' not in p.stderr, p.stderr

# ---- signals

def test_sighup_ends_a_run_as_sigterm_does(here, server):
    server.set(median=.3, sigma=.1, rate=0.)
    p = start(server, 100)
    wait_for(lambda: len(server.log) > 40)
    p.send_signal(signal.SIGHUP)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 130 and 'resume with: rsr run sft' in out and 'Traceback' not in err, (out, err)
    assert counts() == {'kept': 4*len(server.log)}

def test_sighup_of_a_closed_terminal(here, server):
    "The terminal goes with the connection: SIGHUP, and writing to it fails."
    import pty
    server.set(median=.3, sigma=.1, rate=0.)
    write_jsonl('in.jsonl', rows(100))
    master, slave = pty.openpty()
    p = subprocess.Popen([RSR, *command(server)], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                         preexec_fn=lambda: (hears_signals(), __import__('fcntl').ioctl(0, 0x540E, 0)))
    os.close(slave)
    wait_for(lambda: len(server.log) > 40)
    os.close(master)
    assert p.wait(timeout=120) == 130
    assert set(counts()) == {'kept'} and Path('w/summary/stats.json').exists()

def test_nohup_stays_deaf(here, server):
    server.set(median=.05, sigma=.1)
    p = start(server, 40, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for(lambda: len(server.log) > 5)
    p.send_signal(signal.SIGHUP)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 0, (out, err)

def test_sighup_of_other_commands(here, server):
    server.set(median=.5)
    p = subprocess.Popen([RSR, 'prompts', 'customer_support', 'n=60', 'work_dir=p', 'out=p.jsonl', 'templates=false',
                          f'sampler.base_url={server.base_url}'], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, preexec_fn=hears_signals)
    wait_for(lambda: len(server.log) > 5)
    p.send_signal(signal.SIGHUP)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 130 and 'resume with' in (out+err).lower() and 'Traceback' not in err, (out, err)

# ---- two processes on one run

def test_the_lock_holds_for_all_writers(here, server):
    server.set(median=.3, rate=0.)
    p = start(server, 200)
    wait_for(lambda: len(server.log) > 20)
    assert rsr('copy', 'w', 'c').returncode == 0
    assert rsr('stats', 'w').returncode == 0
    q = rsr(*command(server))
    assert q.returncode == 2 and f'in use by process {p.pid}' in q.stderr and 'rsr copy' in q.stderr
    with pytest.raises(RsrError, match='in use'):
        package.sample('in.jsonl', base_url=server.base_url, work_dir='w', progress=False)
    db = sqlite3.connect('w/run.db')
    assert not db.execute("SELECT 1 FROM meta WHERE key='written'").fetchone()
    q = rsr('format', 'w')      # reads, and notes nothing in the ledger of another process
    no_traceback(q)
    assert not db.execute("SELECT 1 FROM meta WHERE key='written'").fetchone() and p.poll() is None
    p.kill()
    p.wait()

# ---- files that a run needs beside its ledger

def outcomes(path):
    return dict(sqlite3.connect(path).execute('SELECT outcome, count(*) FROM rollouts GROUP BY 1'))

@pytest.mark.parametrize('how', ['removed', 'replaced'])
def test_the_journal_goes_in_mid_run(here, server, how):
    def harm():
        os.unlink('w/run.db-wal')
        if how == 'replaced':
            Path('w/run.db-wal').touch()
    p, out, err, then, took = gone(server, harm)
    assert p.returncode == 1 and 'run.db-wal' in err and 'w_saved' in err and 'Traceback' not in err, err
    assert len(server.log) <= then+16*10 and outcomes('w_saved/run.db') == {'kept': 4*len(server.log)}
    server.set(median=0.)
    before = len(server.log)
    q = rsr('run', 'work_dir=w_saved')
    assert q.returncode == 4 and len(server.log)-before < 400*4-before+8, q.stderr   # finished; none passed

@pytest.mark.parametrize('how', ['removed', 'second process'])
def test_the_lock_goes_in_mid_run(here, server, how):
    second = []
    def harm():
        os.unlink('w/.lock')
        if how != 'removed':
            second.append(start(server, 400))
    p, out, err, then, took = gone(server, harm)
    for q in second:
        q.kill()
        q.wait()
    assert p.returncode == 1 and 'w/.lock was removed or replaced' in err and 'UNIQUE' not in err, err
    assert 'Traceback' not in err, err
    assert sqlite3.connect('w/run.db').execute('PRAGMA integrity_check').fetchone() == ('ok',)
    if how == 'removed':
        assert outcomes('w/run.db') == {'kept': 4*len(server.log)} and len(server.log) <= then+16*10

def test_readers_leave_the_journal(done):
    "A reader in this process drops none of its locks, or the next reader would take the journal away."
    store = Store('w')
    store.put('answer', 42)
    store.commit()
    for _ in range(2):
        Store('w', write=False).close()
        assert load_run('w').stats()
        assert rsr('stats', 'w').returncode == 0 and os.path.exists('w/run.db-wal')
    store.db.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    check_place(store)
    store.close()

# ---- runs on a cluster, and folders of their names

@pytest.mark.parametrize('folder', ['parts', 'blocks'])
@pytest.mark.parametrize('harm', [emptied, removed, no_tables], ids=lambda f: f.__name__)
def test_a_folder_of_a_name_proves_nothing(done, server, harm, folder):
    harm()
    Path('w', folder).mkdir()
    before, asked = contents('w'), len(server.log)
    for args in [command(server), ('format', 'w')]:
        p = rsr(*args)
        assert p.returncode == 2 and contents('w') == before and len(server.log) == asked, (p.stdout, p.stderr)

@pytest.mark.parametrize('harm', [emptied, no_tables], ids=lambda f: f.__name__)
def test_the_index_of_a_cluster_run_is_begun_by_no_other_engine(done, server, harm):
    open_block('w', 0).close()
    harm()
    before, asked = contents('w'), len(server.log)
    for args in [command(server), ('format', 'w')]:
        p = rsr(*args)
        assert p.returncode == 2 and 'engine=ray' in p.stderr and 'cluster' in p.stderr, p.stderr
        assert 'same command again' not in p.stderr and contents('w') == before and len(server.log) == asked
    assert Store('w', index=True).fresh     # as that engine opens it

@pytest.mark.parametrize('path', ['train/mine.jsonl', 'eval/held_out.jsonl', 'train/mine.parquet'])
def test_files_of_the_user_are_no_evidence(here, server, path):
    write_jsonl('in.jsonl', rows(N))
    own = Path('w', path)
    own.parent.mkdir(parents=True)
    own.write_text('{}\n')
    p = rsr(*command(server))
    assert p.returncode == 0 and own.read_text() == '{}\n', p.stderr

def test_nobody_is_told_to_delete_a_folder(done, server):
    emptied()
    p = rsr(*command(server))
    assert 'delete' not in p.stderr and 'set another work_dir' in p.stderr and 'move' in p.stderr, p.stderr

# ---- limits and full disks, once more

def test_a_small_file_limit_in_a_new_directory(here, server):
    write_jsonl('in.jsonl', rows(N))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    p = rsr(*command(server, 'new'), preexec_fn=limit)
    no_traceback(p)
    assert p.returncode in (1, 2) and 'ulimit -f' in p.stderr and 'No such file' not in p.stderr, p.stderr

def test_copy_under_a_file_limit(here, server):
    server.set(words=400)
    write_jsonl('in.jsonl', rows(60))
    assert rsr(*command(server)).returncode == 0
    size = os.path.getsize('w/run.db')
    assert size > 200_000
    for most in 65536, size-70_000:
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
        q = rsr('copy', 'w', 'c', preexec_fn=limit)
        no_traceback(q)
        assert q.returncode in (1, 2) and 'ulimit -f' in q.stderr and not os.path.exists('c'), q.stderr

def test_reading_on_a_full_disk(done):
    "A full tmpfs: what only reads works, what writes says that the disk is full."
    script = f'''mount -t tmpfs -o size=1m none mnt && cp -r w mnt/w && rm -f mnt/w/run.db-* || exit 77
cat /dev/zero > mnt/fill 2>/dev/null
for c in stats format report; do {RSR} $c mnt/w > $c.out 2> $c.err; echo $? > $c.rc; done'''
    os.mkdir('mnt')
    p = subprocess.run(['unshare', '-rm', 'sh', '-c', script], capture_output=True, text=True)
    if p.returncode:
        pytest.skip('no tmpfs can be mounted here')
    assert Path('stats.rc').read_text().strip() == '0', Path('stats.err').read_text()
    for c in 'format', 'report':
        assert Path(f'{c}.rc').read_text().strip() != '0' and 'No space left' in Path(f'{c}.err').read_text()

def test_help_that_cannot_be_written(here):
    for args in '--help', '--version', '', 'run --help':
        p = subprocess.run(['bash', '-c', f'{RSR} {args} > /dev/full'], capture_output=True, text=True)
        assert p.returncode == 1 and 'space' in p.stderr and 'Traceback' not in p.stderr, p.stderr

def test_minutes_are_short(here, server):
    write_jsonl('in.jsonl', rows(N))
    p = rsr(*command(server, 'w', 'budget.minutes=0.00001'))
    said = re.search(r'budget.minutes: (\S+) \((\S+) spent', p.stdout+p.stderr)
    assert said and len(said[2]) <= 6, p.stdout+p.stderr
