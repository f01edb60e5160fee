"A ledger with values that rsr did not write: notes are read as unknown, the rest is named; there is no traceback."
import contextlib
import io
import shutil
import sqlite3

import pytest

import rsr
from rsr.cli import main
from rsr.data.store import Store

READERS = [line.split() for line in ('stats run', 'ls .', 'check run', 'watch run once=true', 'watch run', 'card run',
                                     'copy run copied', 'compare run other', 'format run')]
FEW = READERS[0], READERS[1], READERS[4], READERS[-1]

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [dict(id=f'q{i}', messages=[dict(role='user', content=f'{i} + {i}?')], metadata=dict(answer=str(2*i)),
                 given=[f'It is {2*i}.', f'It is {2*i+1}.']) for i in range(1, 4)]
    rsr.sample(made, ['sft', 'dpo'], data=dict(responses='given'), verifier=['math-rlvr'], max_rollouts=0,
               work_dir='run', progress=False)
    shutil.copytree('run', 'other')
    return tmp_path

def said(words):
    "The exit code of a command, and what it said."
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        return main(words), out.getvalue()

def set_value(sql, *args):
    with contextlib.closing(sqlite3.connect('run/run.db')) as db:
        db.execute(sql, args)
        db.commit()

def test_an_odd_process_is_unknown(folder):
    for odd, lines in {'[]':READERS, '"x"':FEW, '7':FEW, 'null':FEW, 'not json':FEW, '{"x": []}':FEW}.items():
        set_value('INSERT OR REPLACE INTO meta VALUES(?,?)', 'process', odd)
        for words in lines:
            code, text = said(words)
            assert code in (0, 1, 4) and 'bug in rsr' not in text, (odd, words, code, text)
        assert 'finished' in said(['ls', '.'])[1]

@pytest.mark.parametrize('odd', ['[1]', '"x"', '{"x": []}'])
def test_odd_notes_are_unknown(folder, odd):
    for key in 'live ended goal rows options written stamps seconds commands earlier pairs'.split():
        was, = Store('run', write=False).db.execute('SELECT value FROM meta WHERE key=?', (key,)).fetchone()
        set_value('INSERT OR REPLACE INTO meta VALUES(?,?)', key, odd)
        for words in FEW:
            code, text = said(words)
            assert 'bug in rsr' not in text and 'Traceback' not in text, (key, words, text)
        set_value('INSERT OR REPLACE INTO meta VALUES(?,?)', key, was)

def test_an_odd_prompt_is_named(folder):
    set_value("UPDATE prompts SET row='[]' WHERE key=2")
    codes = {' '.join(words):said(words) for words in READERS}
    assert not any('bug in rsr' in text for _, text in codes.values()), codes
    assert "run/run.db: prompts.row of row 2 is '[]', which is not what rsr writes there" in codes['format run'][1]

def test_what_decides_on_spending_is_no_guess(folder):
    set_value("INSERT OR REPLACE INTO meta VALUES('verifier', '[]')")
    code, text = said(['run', 'work_dir=run'])
    assert code==2 and "its note 'verifier' cannot be read" in text, text
    with contextlib.closing(Store('run', write=False)) as store:
        assert store.get('verifier') is None

@pytest.mark.parametrize('column,odd', [
    ('rollouts.more', '[1]'), ('rollouts.more', 'not json'), ('scores.detail', '{"components": '),
    ('prompts.row', '[]'), ('prompts.row', 'not json'), ('configs.config', '7')])
def test_python_names_the_value_too(folder, column, odd):
    table, name = column.split('.')
    set_value(f'UPDATE {table} SET {name}=?', odd)
    run, failed = rsr.load_run('run'), []
    for what in 'prompts', 'rollouts', 'scores', 'stats', 'summary', 'pairs':
        try:
            found = getattr(run, what)
            found() if callable(found) else found
        except rsr.data.types.RsrError as e:
            assert f'run.db: {column} of row' in str(e) and 'Restore' in str(e), e
            failed.append(what)
    assert failed
