"""Merge runs of two models, split one again, and go on with what came of it.

A real loopback server with two models, real ledgers, the real command line."""
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import read_jsonl, rows, write_jsonl
from loopback import Loopback
from loopback_batch import BatchLoopback

from rsr import load_run, sample
from rsr.cli.entry import main
from rsr.data.earlier import earlier_groups, make_tables, put_groups
from rsr.data.store import Store
from rsr.data.types import Prompt, Rollout, RsrError, Score
from rsr.exchange import import_rollouts, merge_runs, split_run
from rsr.explore.score_index import read_scores

def rsr(capsys, *words):
    "Run a command in this process; return its exit code and all that it printed."
    code = main([*map(str, words)])
    return code, ''.join(capsys.readouterr())

MODELS = dict(small=dict(a=.6, b=1.2, price=dict(prompt=1, completion=1)),
              large=dict(a=1.2, b=.6, price=dict(prompt=10, completion=30)))

def questions(first, n):
    "Rows that three topics share."
    return [dict(r, metadata=dict(r['metadata'], topic=f't{i%3}')) for i, r in enumerate(rows(n, first), first)]

def run_of(server, model, items, work_dir, **options):
    return sample(items, dict(formatter=[dict(type='sft', columns=['model'])]), work_dir=work_dir, progress=False,
                  sampler=dict(model=model, base_url=server.base_url, price=MODELS[model]['price']),
                  **dict(dict(max_rollouts=4, step_size=2, give_up=0), **options))

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Two runs that have ten of thirty prompts in common, their merged run, and the server that answered."
    folder = tmp_path_factory.mktemp('merge')
    with Loopback(models=MODELS) as server:
        a = run_of(server, 'small', questions(0, 20), str(folder/'a'), budget=dict(usd=5))
        b = run_of(server, 'large', questions(10, 20), str(folder/'b'), budget=dict(usd=9))
        a.label('q11', 0, 'fail', 'anna')
        b.label('q11', 0, 'pass', 'bert')
        yield server, a, b, merge_runs([a.path, b.path], folder/'both')

def everything(path):
    "What a run knows of its prompts, whatever its keys are."
    sql = '''SELECT p.id, p.row, p.stop, r.idx, r.outcome, r.text, r.prompt_tokens, r.completion_tokens, r.asked, c.fp,
        s.value, v.fp, s.reason, s.answer FROM prompts p LEFT JOIN rollouts r ON r.prompt=p.key
        LEFT JOIN configs c ON c.key=r.sampler LEFT JOIN scores s ON s.rollout=r.key
        LEFT JOIN configs v ON v.key=s.verifier'''
    with closing(Store(path, write=False)) as store:
        calls = store.db.execute('SELECT kind, text, prompt_tokens, rollout IS NULL FROM calls')
        votes = store.db.execute('SELECT annotator, verdict, at FROM annotations')
        return [sorted(map(repr, found)) for found in (store.db.execute(sql), calls, votes)]

def test_a_split_that_the_merge_does_not_keep_is_said(made, tmp_path, capsys):
    server, a, *_ = made
    held = run_of(server, 'large', questions(30, 6), str(tmp_path/'held'), split=dict(eval=.5))
    for runs, said in (([a.path, held.path], True), ([held.path, a.path], False)):
        code, out = rsr(capsys, 'merge', *runs, tmp_path/f'out{said}')
        assert code==0 and ('may be in train/' in out)==said, out

def test_sums_and_models(made):
    _, a, b, merged = made
    run, parts = load_run(merged.path), (a.stats(), b.stats())
    s = run.stats()
    assert (merged.prompts, merged.joined) == (30, 10)
    for name in ('prompt', 'completion', 'judge'):
        assert s['tokens'][name] == sum(p['tokens'][name] for p in parts)
    assert s['cost'] == pytest.approx(sum(p['cost'] for p in parts)) and s['cost'] > 0
    assert s['seconds'] == pytest.approx(sum(p['seconds'] for p in parts))
    assert s['samples']['asked'] == sum(p['samples']['asked'] for p in parts)
    assert {m: d['rollouts'] for m, d in s['samplers'].items()} == merged.models
    assert [d['usd'] for d in s['samplers'].values()] == pytest.approx([p['cost'] for p in parts])
    found = read_jsonl(merged.path/'train'/'sft.jsonl')
    assert {r['model'] for r in found} == {'small', 'large'}
    assert len(found) >= max(p['prompts']['satisfied'] for p in parts)

def test_labels_of_all_annotators(made):
    _, a, _, merged = made
    with closing(Store(merged.path, write=False)) as store:
        said = store.db.execute('''SELECT p.id, n.annotator, n.verdict FROM annotations n JOIN rollouts r ON
            r.key=n.rollout JOIN prompts p ON p.key=r.prompt ORDER BY 2''').fetchall()
    assert said == [('q11', 'anna', 'fail'), ('q11', 'bert', 'pass')]

def test_resuming_buys_nothing_that_is_there(made, tmp_path, capsys):
    server, _, _, merged = made
    load_run(merged.path).copy(tmp_path/'again')
    before, had = server.stats()['samples'], len(load_run(merged.path).rollouts)
    assert rsr(capsys, 'run', f'work_dir={tmp_path}/again')[0] == 0
    bought = server.stats()['samples']-before
    after = load_run(tmp_path/'again')
    assert len(after.rollouts) == had+bought
    known = load_run(merged.path).prompts.set_index('id').rollouts
    assert all(known[p] < 4 for p in after.rollouts.prompt[had:])   # only prompts that had less than they may have
    budget = after.recipe['budget']['usd']
    assert budget == pytest.approx(5+load_run(made[2].path).stats()['cost'], abs=1e-5)

def test_every_command_works_on_it(made, tmp_path, capsys):
    *_, merged = made
    load_run(merged.path).copy(tmp_path/'w')
    w = tmp_path/'w'
    for words in (['stats', w], ['format', w, 'dpo', 'formatter.columns=[model]'], ['check', w], ['report', w]):
        code, said = rsr(capsys, *words)
        assert code in (0, 1) and 'unexpected' not in said, said
        assert words[0] != 'stats' or 'small' in said
    with closing(Store(w, write=False)) as store:
        assert len(read_scores(store).score) == 116
    assert read_jsonl(w/'train'/'dpo.jsonl')[0]['model']

def test_parts_of_a_run_joined_again_are_the_whole(made, tmp_path):
    *_, merged = made
    whole = load_run(merged.path)
    parts = split_run(whole.path, 'metadata.topic', tmp_path/'parts')
    assert list(parts) == ['t0', 't1', 't2'] and sum(p['prompts'] for p in parts.values()) == 30
    stats = [load_run(p['path']).stats() for p in parts.values()]
    assert sum(s['cost'] for s in stats) == pytest.approx(whole.stats()['cost'])
    again = merge_runs([p['path'] for p in parts.values()], tmp_path/'again')
    assert everything(again.path) == everything(whole.path)
    assert load_run(again.path).stats()['cost'] == pytest.approx(whole.stats()['cost'])
    assert load_run(again.path).file_counts['sft.jsonl']['rows'] == whole.file_counts['sft.jsonl']['rows']
    with pytest.raises(RsrError, match='has .* of the rollouts of'):
        merge_runs([whole.path, parts['t1']['path']], tmp_path/'no')

@pytest.mark.parametrize('seed', range(4))
def test_any_run_can_be_split_and_joined(seed, tmp_path):
    "Random ledgers: prompts that stand twice, revisions, several verifiers, calls, reviews of pairs, lost samples."
    rng = random.Random(seed)
    store = Store(tmp_path/'run')
    values = [None, 'x', 'X', 'a/b', 3, ['l'], '..']
    prompts = [Prompt(f'p{i}', [dict(role='user', content=f'question {i//2}')], dict(answer='A', k=rng.choice(values)))
               for i in range(20)]
    store.add_prompts((f'row {i}', p) for i, p in enumerate(prompts))
    samplers = [store.config_key('sampler', dict(type='x', model=m)) for m in ('m1', 'm2')]
    verifiers = [store.config_key('verifier', dict(type=t, fingerprint=t)) for t in ('one', 'two')]
    judge = store.config_key('judge', dict(model='j'))
    store.put('verifier', verifiers[0])
    for key in range(1, 21):
        earlier = None
        for i in range(rng.randrange(4)):
            row, = store.ask(key, [i], 1, rng.choice(samplers), 9, source=earlier)
            if rng.random() < .9:
                store.answer(Rollout(f'text {rng.random()}', outcome='kept', prompt_tokens=rng.randrange(9),
                                     completion_tokens=rng.randrange(9), key=row))
                store.add_call('judge', row, judge, Rollout(f'verdict {row}', outcome='kept', prompt_tokens=3))
            for v in verifiers[:rng.randrange(3)]:
                store.add_score(row, v, Score(rng.random(), 'why', 'A'))
            if earlier and rng.random() < .5:
                store.review(row, 'accept', earlier, f'ann{rng.randrange(2)}')
            earlier = row
    store.mark_lost()
    store.close()
    recipe = 'work_dir: w\nsampler: {model: m1}\nsampling: {}\nverifier: {type: rlvr}\nformatter: [{type: sft}]\n'
    (tmp_path/'run'/'recipe.yaml').write_text(recipe)
    parts = split_run(tmp_path/'run', 'metadata.k')
    again = merge_runs([p['path'] for p in parts.values()], tmp_path/'again') if len(parts) > 1 else None
    assert len({Path(p['path']).name.lower() for p in parts.values()}) == len(parts) > 1
    assert everything(again.path) == everything(tmp_path/'run')

def test_what_cannot_be_merged(made, tmp_path, capsys):
    server, a, b, merged = made
    wrong = run_of(server, 'large', [dict(r, id=f'w{i}', metadata=dict(answer='B')) for i, r in enumerate(rows(3))],
                   str(tmp_path/'wrong'))
    code, said = rsr(capsys, 'merge', a.path, wrong.path, tmp_path/'no')
    assert code == 2 and '3 times, a prompt has two references' in said
    assert f"metadata.answer: \"A\" in {a.path} (id 'q0', row 1), \"B\" in {wrong.path} (id 'w0', row 1)" in said
    assert not (tmp_path/'no').exists() and not list(tmp_path.glob('.*'))
    for words, why in ((['merge', a.path, tmp_path/'none', tmp_path/'no'], 'no run here'),
                       (['merge', a.path, b.path, merged.path], 'not empty'),
                       (['merge', a.path, b.path], 'usage: rsr merge'),
                       (['split', a.path], 'by=metadata.KEY'),
                       (['split', a.path, 'by=metadata.nothing'], 'no prompt has metadata.nothing'),
                       (['split', a.path, 'by=metadata.topic', 'x=1'], "no option 'x'")):
        code, said = rsr(capsys, *words)
        assert code == 2 and why in said, said
    assert not (tmp_path/'no').exists()

def test_a_file_that_was_imported_twice_is_not_counted_twice(tmp_path):
    items = [dict(prompt=f'{i}?', response=str(i), score=i%2, metadata=dict(kind='ab'[i%2])) for i in range(4)]
    log, other = write_jsonl(tmp_path/'log.jsonl', items), write_jsonl(tmp_path/'other.jsonl', items[:1])
    for name, path in dict(one=log, two=log, three=other).items():
        import_rollouts('jsonl', path, tmp_path/name, progress=False)
    with pytest.raises(RsrError, match=r'one and .*two both hold the rollouts of .*log.jsonl: each would count twice'):
        merge_runs([tmp_path/'one', tmp_path/'two'], tmp_path/'no')
    assert merge_runs([tmp_path/'one', tmp_path/'three'], tmp_path/'both').rollouts==5
    with pytest.raises(RsrError, match='both hold the rollouts of'):
        merge_runs([tmp_path/'both', tmp_path/'two'], tmp_path/'no')
    parts = split_run(tmp_path/'both', 'metadata.kind', tmp_path/'parts')
    assert merge_runs([tmp_path/'parts'/name for name in 'ab'], tmp_path/'again').rollouts==5 and len(parts)==2

def test_nothing_is_half_written(made, tmp_path, monkeypatch):
    "A merge that ends in the middle leaves no run, and no temporary directory."
    _, a, b, _ = made
    def full(*args):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('rsr.exchange.merge.write_run_files', full)
    for act in (lambda: merge_runs([a.path, b.path], tmp_path/'no'),
                lambda: split_run(a.path, 'metadata.topic', tmp_path/'no')):
        with pytest.raises(OSError, match='No space left'):
            act()
        assert not list(tmp_path.iterdir())

def test_batches_keep_their_price(tmp_path):
    with BatchLoopback(rate=.5) as server:
        options = dict(model='m', base_url=server.base_url, price=dict(prompt=10, completion=10))
        a = sample(rows(6), 'sft', work_dir=str(tmp_path/'a'), progress=False, sampler=dict(options, batch=True),
                   max_rollouts=2)
        b = sample(rows(6, 6), 'sft', work_dir=str(tmp_path/'b'), progress=False, sampler=options, max_rollouts=2)
        both = load_run(merge_runs([b.path, a.path], tmp_path/'both').path)
    assert both.stats()['cost'] == pytest.approx(a.stats()['cost']+b.stats()['cost'])
    assert both.stats()['batches'] == a.stats()['batches']

def test_runs_of_older_versions_and_of_others(made, tmp_path):
    "An older layout is read as it is, also where it cannot be written; an unknown price makes the sum unknown."
    server, a, _, _ = made
    old = load_run(a.path).copy(tmp_path/'old')
    with closing(sqlite3.connect(old.path/'run.db')) as db:
        db.executescript('''DROP INDEX rollouts_of_batch; DROP TABLE batches; ALTER TABLE rollouts DROP COLUMN batch;
            ALTER TABLE calls DROP COLUMN batch; ALTER TABLE rollouts DROP COLUMN more; PRAGMA user_version=2;''')
    other = sample(rows(2, 50), 'sft', work_dir=str(tmp_path/'other'), progress=False, max_rollouts=1,
                   sampler=dict(model='small', base_url=server.base_url, temperature=.1))
    os.chmod(old.path, 0o500)
    try:
        merged = merge_runs([old.path, other.path], tmp_path/'both')
    finally:
        os.chmod(old.path, 0o700)
    assert merged.prompts == 22 and merged.unpriced == ['small']
    assert load_run(merged.path).stats()['cost'] is None
    assert load_run(merged.path).untrusted() == ''   # rlvr runs nothing of its own

def test_a_later_round_does_not_count_as_a_first_look(made, tmp_path):
    "What an earlier run has shown of a prompt decided whether it was sampled again."
    _, a, b, _ = made
    later = load_run(b.path).copy(tmp_path/'later')
    with closing(Store(later.path)) as store:
        make_tables(store)
        store.db.execute("INSERT INTO earlier_known(content,passes,fails) VALUES('x',1,1)")
        store.db.execute("INSERT INTO earlier_of SELECT key,'x' FROM prompts")
        put_groups(store, ['what is 1?', 'what is 2?'])
        store.commit()
    merged = merge_runs([a.path, later.path], tmp_path/'both')
    with closing(Store(merged.path, write=False)) as store:
        first = store.db.execute('''SELECT p.id, count(*) FROM rollouts r JOIN prompts p ON p.key=r.prompt
            WHERE blind GROUP BY 1''').fetchall()
        own = a.stats()['pass_rate']['prompts']
        assert earlier_groups(store) == ['what is 1?', 'what is 2?']   # what was trained on stays out of eval/
    assert len(first) == 30 and dict(first)['q15'] <= 2 and own == 20

def test_input_files_are_not_read_again(made, tmp_path, capsys):
    "The merged run keeps its prompts, wherever the inputs of its runs are."
    server, a, _, _ = made
    source = write_jsonl(tmp_path/'in.jsonl', questions(40, 4))
    c = run_of(server, 'small', source, str(tmp_path/'c'))
    merged = merge_runs([c.path, a.path], tmp_path/'both')
    Path(source).unlink()
    assert rsr(capsys, 'run', f'work_dir={merged.path}')[0] == 0
    assert len(load_run(merged.path).prompts) == 24
