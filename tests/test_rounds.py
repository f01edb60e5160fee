"Rounds side by side: a change is found where it is, on the right prompts, and nothing is compared that cannot be."
import json
import random
import shutil

import pytest
from conftest import rows, rsr

from rsr import sample
from rsr.data.store import Store
from rsr.data.types import RsrError
from rsr.rounds import rounds

N = 60
OPTIONS = dict(verifier='mcq-rlvr', max_rollouts=4, step_size=2, split=dict(eval=.3, near=False), progress='none')

def prompts(n=N):
    return rows(n)

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Two rounds over the loopback server: the model of the second knows two thirds of what the first did not."
    from loopback import Loopback
    folder, rng = tmp_path_factory.mktemp('rounds'), random.Random(0)
    first = {f'prompt {i}':rng.choice((.05, .05, .9)) for i in range(N)}
    with Loopback(rate=first) as s:
        one = sample(prompts(), 'sft', base_url=s.base_url, model='m1', work_dir=str(folder/'one'), **OPTIONS)
        s.set(rate={k:.95 if int(k.split()[1])%3 else p for k, p in first.items()})
        two = sample(prompts(), 'sft', base_url=s.base_url, model='m2', work_dir=str(folder/'two'), **OPTIONS)
    return one, two

def by_group(found, step=0):
    return {x['group']:x for x in found.steps[step].rates}

def test_what_changed_is_found(runs):
    found = rounds(runs)
    groups = by_group(found)
    assert groups['all']['basis'] == groups['held out']['basis'] == 'initial'
    assert groups['trained']['basis'] == 'expected'
    assert groups['all']['prompts'] == N
    assert groups['all']['interval'][0] > .1 and groups['held out']['interval'][0] > 0
    learnt = [x['id'] for x in found.steps[0].prompts.learnt]
    assert learnt and all(int(id_[1:])%3 for id_ in learnt) and not found.steps[0].prompts.forgotten

def test_groups_are_those_of_the_files(runs):
    found = rounds(runs)
    one, two = found.rounds
    files = {side:len((runs[0].path/side/'sft.jsonl').read_text().splitlines()) for side in ('train', 'eval')}
    assert (two.prompts.group == 'trained').sum() == files['train']
    assert found.table['rows'].tolist()[0] == files['train']
    assert (one.prompts.group == 'trained').sum() == 0
    held = set(one.prompts.id[one.prompts.held])
    assert len(held) >= files['eval'] and held == set(two.prompts.id[two.prompts.group == 'held out'])

def test_a_model_that_did_not_change(runs, tmp_path):
    "A copy of a run has the same samples: no change, whatever the group, and nothing learnt."
    from rsr import copy_run
    copy_run(runs[0].path, tmp_path/'again')
    found = rounds([runs[0], tmp_path/'again'])
    groups = by_group(found)
    assert groups['all']['diff'] == 0
    assert all(x['interval'][0] <= 0 <= x['interval'][1] for x in groups.values() if x['prompts'] >= 10)
    assert not found.steps[0].prompts.learnt and not found.steps[0].prompts.forgotten

def test_prompts_go_by_content(runs, tmp_path, server):
    "Other ids, the same questions: matched. The same ids, other questions: not."
    renamed = [dict(r, id=f'other-{i}') for i, r in enumerate(prompts(30))]
    same = sample(renamed, 'sft', base_url=server.base_url, work_dir=str(tmp_path/'renamed'), **OPTIONS)
    assert by_group(rounds([runs[0], same]))['all']['prompts'] == 30
    changed = [dict(r, messages=[dict(role='user', content=f'another {i}')]) for i, r in enumerate(prompts(30))]
    other = sample(changed, 'sft', base_url=server.base_url, work_dir=str(tmp_path/'changed'), **OPTIONS)
    with pytest.raises(RsrError, match='no prompt in common'):
        rounds([runs[0], other])

def test_the_command(runs, tmp_path, capsys):
    from rsr.cli.entry import main
    paths = [str(r.path) for r in runs]
    res = rsr('rounds', *paths, f'figure={tmp_path/"f.png"}')
    assert res.returncode == 0, res.stderr
    assert 'held out' in res.stdout and 'learnt' in res.stdout and '1 → 2' in res.stdout
    assert (tmp_path/'f.png').read_bytes()[:4] == b'\x89PNG'
    assert main(['rounds', *paths, 'json=true']) == 0
    d = json.loads(capsys.readouterr().out)
    assert d['exit_code'] == 0 and len(d['rounds']) == 2 and d['steps'][0]['pass_rate'][0]['group'] == 'all'

@pytest.mark.parametrize('words, said', [(['{0}'], 'name two runs or more'), (['{0}', '{0}'], 'named twice'),
                                         (['{0}', 'nowhere'], 'nowhere: no run here'),
                                         (['{0}', '{1}', 'figure=x.doc'], 'pdf, png, svg'),
                                         (['{0}', '{1}', 'by=round'], "no option 'by'"), ([], 'usage: rsr rounds')])
def test_wrong_words(runs, words, said, capsys):
    from rsr.cli.entry import main
    assert main(['rounds', *(w.format(*(r.path for r in runs)) for w in words)]) == 2
    out, err = capsys.readouterr()
    assert said in out+err and 'Traceback' not in err

def test_a_damaged_round_is_named(runs, tmp_path):
    shutil.copytree(runs[1].path, tmp_path/'bad')
    data = (tmp_path/'bad'/'run.db').read_bytes()
    (tmp_path/'bad'/'run.db').write_bytes(data[:4096]+b'\xff'*(len(data)-4096))
    for wal in (tmp_path/'bad').glob('run.db-*'):
        wal.unlink()
    with pytest.raises(RsrError, match=str(tmp_path/'bad')):
        rounds([runs[0], tmp_path/'bad'])

def test_a_round_in_progress_is_read_and_said(runs, tmp_path):
    shutil.copytree(runs[1].path, tmp_path/'busy')
    store = Store(tmp_path/'busy')   # holds the lock, as a process that samples does
    try:
        store.put('process', dict(pid=1, host='x'))
        store.commit()
        found = rounds([runs[0], tmp_path/'busy'])
    finally:
        store.close()
    assert any('still being sampled' in note for note in found.notes) and by_group(found)['all']['prompts'] == N

def test_two_rulers_are_not_compared(runs, tmp_path, server):
    other = sample(prompts(), 'sft', base_url=server.base_url, work_dir=str(tmp_path/'other'),
                   **{**OPTIONS, 'verifier':dict(type='exact')})
    found = rounds([runs[0], other])
    assert 'scored differently' in found.notes[0] and 'mcq-rlvr' in found.notes[0]
    assert found.changes.empty and found.moved.empty and len(found.table) == 2

def test_other_options_of_the_sampler_are_said(runs, tmp_path, server):
    other = sample(prompts(), 'sft', base_url=server.base_url, work_dir=str(tmp_path/'hot'), temperature=1.5, **OPTIONS)
    assert any('temperature 0.7 → 1.5' in note for note in rounds([runs[0], other]).notes)
