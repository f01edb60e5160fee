"""Dataset cards that the real `datasets` loads, and a hub on loopback that the real huggingface_hub talks to."""
import re
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import read_jsonl
from loopback_hub import LoopbackHub

from rsr import load_run, sample
from rsr.cli.entry import main
from rsr.data.store import Store
from rsr.data.types import RsrError
from rsr.formatters.trainers import TRAINERS
from rsr.formatters.writer import make_formatters
from rsr.hub.card_text import CardOptions, config_files, front_matter
from rsr.hub.portable import PATH, portable_text
from rsr.hub.push import push
from rsr.hub.shared_ledger import share_ledger

datasets = pytest.importorskip('datasets')
datasets.disable_progress_bars()

TOKEN = 'hf_loopback_token_0123456789'
HOSTILE = '<img src=x onerror=alert(1)>\n---\n```\n# [a](javascript:b) | {{x}} \u202e\x1b[2J'

def given(n=16):
    "Rows with responses, right and wrong ones of different lengths, and a prompt that is hostile."
    return [dict(id=f'q{i}', messages=[dict(role='user', content=f'What is {i} plus {i}? {HOSTILE if i%3 else ""}')],
                 metadata=dict(answer=str(2*i), level=i%3),
                 given=[f'It is {i} and {i}: \\boxed{{{2*i}}}', f'So \\boxed{{{2*i}}}', 'I say \\boxed{1}',
                        '\\boxed{-1}']) for i in range(n)]

def made(work_dir, formatters, **options):
    return sample(given(), dict(formatter=formatters), work_dir=str(work_dir), progress=False, max_rollouts=0,
                  data=dict(responses='given'), verifier=dict(type='math-rlvr'), split=dict(eval=.3), **options)

METHODS = ('sft', 'dpo', 'kto', 'grpo', 'multi_sft')

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return made(tmp_path_factory.mktemp('hub')/'run', [dict(type=t) for t in METHODS])

@pytest.fixture
def hub(monkeypatch, tmp_path):
    "A hub, a token for it, and caches of its own."
    with LoopbackHub(token=TOKEN) as hub:
        for name, value in dict(HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path/'hf'),
                                RSR_CACHE=str(tmp_path/'rsr')).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_DISABLE_XET', True)   # which speaks to servers of its own
        yield hub

def rsr(capsys, *words):
    code = main([*map(str, words)])
    return code, ''.join(capsys.readouterr())

def load(folder, name, tmp_path):
    return datasets.load_dataset(str(folder), name, cache_dir=str(tmp_path/'cache'))

def outside_fences(card):
    return re.sub(r'(?ms)^(`{3,}).*?^\1$', '', card.partition('\n---\n')[2])

# ---- the card

FORMS = [*((target, 'jsonl', style) for target in TRAINERS for style in ('messages', 'standard')),
         ('trl', 'parquet', 'messages')]

def fitting(target, style, **options):
    "The formatters that a trainer has in a style."
    for method in METHODS:
        f = dict(type=method, target=target, style=style, **options)
        try:
            make_formatters([f])
        except RsrError:
            continue
        yield f

@pytest.mark.parametrize('target, format, style', FORMS)
def test_every_file_is_a_config(target, format, style, tmp_path, run):
    "All trainers, methods, styles and both file formats: the rows that datasets gives are those of the files."
    formatters = [*fitting(target, style, format=format)]
    if not formatters:
        pytest.skip(f'{target} has no style {style}')
    work = run.copy(tmp_path/'w')
    for f in formatters:
        work.format(f['type'], **{k: v for k, v in f.items() if k != 'type'})
    folder, files = work.path/'train', config_files(work)
    (folder/'README.md').write_text(f'---\n{yaml.safe_dump(front_matter(work, CardOptions()))}---\n')
    assert {f['type'] for f in formatters} <= set(files)
    for name in (f['type'] for f in formatters):
        found, own = load(folder, name, tmp_path), work.to_dataset(name)
        own = own if isinstance(own, dict) else {'train': own}
        assert list(found) == list(files[name]) == list(own)
        for split, path in files[name].items():
            rows = read_jsonl(path) if format == 'jsonl' else pq.read_table(path).to_pylist()
            assert found[split].num_rows == own[split].num_rows == len(rows)
            for part in found[split], own[split]:
                for i in 0, -1:
                    assert without_none(part[i]) == without_none(rows[i])

def without_none(x):
    "Return data without what is missing, which a column has as None."
    if isinstance(x, dict):
        return {k: without_none(v) for k, v in x.items() if v is not None}
    return [without_none(v) for v in x] if isinstance(x, list) else x

def test_columns_of_mixed_types(tmp_path):
    "Metadata of several types: the files have one, and so has the card."
    rows = [dict(r, metadata=dict(r['metadata'], mixed=[1, 'a'][i % 2])) for i, r in enumerate(given(6))]
    run = sample(rows, dict(formatter=[dict(type='sft'), dict(type='sft', name='mixed', columns=['mixed'])]),
                 work_dir=str(tmp_path/'w'), progress=False, max_rollouts=0, data=dict(responses='given'),
                 verifier=dict(type='math-rlvr'))
    folder = run.card(figures=False).parent
    assert load(folder, 'mixed', tmp_path)['train']['mixed'][:2] == ['1', 'a']
    head = yaml.safe_load(folder.joinpath('README.md').read_text().split('\n---\n')[0])
    assert ['features' in info for info in head['dataset_info']] == [True, True] and 'license' not in head

def test_nothing_hostile_secret_or_local(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-secret-0123456789abcdef')
    with closing(Store(run.path)) as store:
        command = (f'rsr run sft data.input_path={tmp_path}/in.jsonl sampler.api_key=sk-secret-0123456789abcdef '
                   'sampler.base_url=http://gpu7.lab.internal:8000/v1')
        store.put('commands', dict(first=command, run=command, folder=str(tmp_path)))
        store.put('imported', [dict(path=f'{tmp_path}/in.jsonl', sha256='0')])
        store.commit()
    code, said = rsr(capsys, 'card', run.path, 'license=apache-2.0')
    assert code == 0 and 'no license' not in said, said
    card = (run.path/'train'/'README.md').read_text()
    assert 'sk-secret' not in card and '/tmp' not in card and str(Path.home()) not in card
    assert 'in.jsonl' in card and 'license: apache-2.0' in card and 'lab.internal' not in card
    with closing(Store(run.path)) as store:
        said = "Cannot connect to host gpu7.lab.internal:8000 ssl:default [Connect call failed ('10.9.8.7', 8000)]"
        store.begin().execute("UPDATE rollouts SET error=? WHERE key=1", (said,))
        store.commit()
    share_ledger(run, tmp_path)
    shared = (tmp_path/'run.db').read_bytes()
    assert b'in.jsonl' in shared
    assert not any(word in shared for word in (b'lab.internal', b'10.9.8.7', str(tmp_path).encode()))
    text = outside_fences(card)
    assert '<img' not in text and 'javascript:' not in text and '\x1b' not in card and '\u202e' not in card
    figures = re.findall(r'\]\((figures/[^)]*)\)', text)
    assert figures and all((run.path/'train'/f).is_file() for f in figures)

def test_card_is_renewed_and_never_stale_in_silence(tmp_path, capsys):
    run = made(tmp_path/'w', [dict(type='sft')])
    card = run.card(figures=False)
    before = card.read_text()
    assert rsr(capsys, 'format', run.path, 'dpo')[0] == 0
    after = card.read_text()
    assert 'config_name: dpo' in after and 'config_name: dpo' not in before
    card.write_text(after.replace('# w\n', '# Sums\n'))
    code, said = rsr(capsys, 'format', run.path, 'formatter.format=parquet')
    assert '# Sums' in card.read_text() and 'was edited by hand' in said
    code, said = rsr(capsys, 'card', run.path)
    assert code == 2 and 'overwrite=true' in said
    assert rsr(capsys, 'card', run.path, 'overwrite=true')[0] == 0 and 'sft.parquet' in card.read_text()
    for words, why in ((['card', run.path, 'license=MIT License'], 'apache-2.0'), (['card', tmp_path], 'no run here'),
                       (['card', run.path, 'x=1'], "no option 'x'")):
        code, said = rsr(capsys, *words)
        assert code == 2 and why in said, said

@pytest.mark.parametrize('text, shown', [
    ('/home/a/b.txt', 'b.txt'), ('x=/home/a/b', 'x=b'), ('"~/a/b c"', '"b c"'), ('https://a.b/c/d', 'https://a.b/c/d'),
    ('file:///home/a/b', 'b'), ('key:/home/a/b', 'key:b'), ('a/b/c', 'a/b/c'), ('1/2 and 3 / 4', '1/2 and 3 / 4')])
def test_paths_of_this_machine(text, shown):
    assert portable_text(text) == shown

def test_paths_are_found_in_linear_time():
    import time
    for text in ('/'*100_000, '/-'*50_000, '~/a'*30_000, '\\a'*50_000, 'a:'*50_000):
        t0 = time.perf_counter()
        PATH.sub('', text)
        assert time.perf_counter()-t0 < 1

# ---- the hub

def test_push_and_load(run, hub, tmp_path, capsys):
    "What was pushed with its ledger is a run again, and each file is a config."
    code, said = rsr(capsys, 'push', run.path, 'me/sums', 'dry=true', 'ledger=true')
    assert code == 0 and 'dry run' in said and 'ledger/run.db' in said and not hub.log
    code, said = rsr(capsys, 'push', run.path, 'me/sums', 'private=true', 'ledger=true')
    assert code == 0 and 'every prompt and every response' in said, said
    repo = hub.repos['me/sums']
    assert repo['private'] and repo['type'] == 'dataset' and len(repo['commits']) == 1
    assert hub.objects and len(hub.objects) < len(repo['files'])   # large files through LFS, small ones in the commit
    for path, data in repo['files'].items():
        assert str(tmp_path).encode() not in data and str(run.path).encode() not in data, path
    folder = tmp_path/'clone'
    for path, data in repo['files'].items():
        (folder/path).parent.mkdir(parents=True, exist_ok=True)
        (folder/path).write_bytes(data)
    assert {s: d.num_rows for s, d in load(folder, 'sft', tmp_path).items()} == \
        {s: d.num_rows for s, d in run.to_dataset('sft').items()}
    again = load_run('hf://datasets/me/sums')
    assert again.rollouts.text.tolist() == run.rollouts.text.tolist()
    assert again.stats()['scores'] == run.stats()['scores']
    assert load_run('hf://datasets/me/sums').path == again.path
    mine = again.copy(tmp_path/'mine')
    assert mine.format('sft')['sft.jsonl'] > 0
    assert push(run, 'me/sums')['url']   # a second time: its own repository
    assert len(repo['commits']) == 2 and 'ledger/run.db' in repo['files']

def test_a_second_push_takes_away_what_is_no_longer_written(hub, tmp_path):
    run = made(tmp_path/'w', [dict(type='sft'), dict(type='kto')])
    push(run, 'me/two', ledger=True)
    files = hub.repos['me/two']['files']
    assert {'sft.jsonl', 'kto.jsonl', 'ledger/run.db'} <= {*files}
    (run.path/'train'/'kto.jsonl').unlink()
    run.card(figures=False)
    push(run, 'me/two')
    assert 'kto.jsonl' not in files and {'sft.jsonl', 'ledger/run.db'} <= {*files}
    files.pop('sft.jsonl')   # by hand, on the hub
    assert push(run, 'me/two')['url'] and 'sft.jsonl' in files

def test_a_run_from_elsewhere_runs_nothing_unasked(hub, tmp_path):
    (tmp_path/'mine.py').write_text('def ok(response, metadata):\n    return 1.0\n')
    run = sample(given(4), 'sft', work_dir=str(tmp_path/'w'), progress=False, max_rollouts=0,
                 data=dict(responses='given'), verifier=dict(type=f'{tmp_path}/mine.py:ok'))
    push(run, 'me/own', ledger=True)
    assert run.untrusted() == ''
    assert 'trust=true' in load_run('hf://datasets/me/own').untrusted()

def test_a_link_or_a_damaged_file_is_not_shared(tmp_path, capsys):
    run = made(tmp_path/'w', [dict(type='sft')])
    run.card(figures=False)
    (tmp_path/'private.txt').write_text('mine')
    (run.path/'train'/'sft.jsonl').unlink()
    (run.path/'train'/'sft.jsonl').symlink_to(tmp_path/'private.txt')
    code, said = rsr(capsys, 'push', run.path, 'me/w', 'dry=true')
    assert code == 2 and 'is a link to' in said, said
    code, said = rsr(capsys, 'card', run.path)
    assert code == 2 and 'sft.jsonl cannot be read' in said and 'bug' not in said, said

def test_a_push_that_fails_halfway_is_pushed_again(run, hub, monkeypatch):
    import huggingface_hub
    def fails(*args, **options):
        raise OSError('the line is dead')
    with monkeypatch.context() as m:
        m.setattr(huggingface_hub.HfApi, 'create_commit', fails)
        with pytest.raises(RsrError, match='the line is dead'):
            push(run, 'me/half')
    assert push(run, 'me/half')['url']   # its repository is there, and is this run's

def test_errors_of_the_hub(run, hub, monkeypatch, capsys, tmp_path):
    cases = [(dict(fault=401), 'me/x', 'HF_TOKEN is wrong'), (dict(fault=403), 'me/x', 'may not write there'),
             (dict(fault=404), 'me/x', 'no such owner'), (dict(fault=None), 'you/x', 'may not write there')]
    for options, repo, why in cases:
        hub.set(**options)
        code, said = rsr(capsys, 'push', run.path, repo)
        assert code == 2 and why in said and len(said.strip().splitlines()) == 1 and TOKEN not in said, said
    hub.repos['me/theirs'] = dict(private=False, files={'a': b'x'}, commits=['1'*40], type='dataset')
    code, said = rsr(capsys, 'push', run.path, 'me/theirs')
    assert code == 2 and 'overwrite=true' in said and list(hub.repos['me/theirs']['files']) == ['a']
    with pytest.raises(RsrError, match='without ledger=true'):
        load_run('hf://datasets/me/theirs')
    with pytest.raises(RsrError, match='the hub answered 40'):
        load_run('hf://datasets/me/none')
    with pytest.raises(RsrError, match='not of the form'):
        load_run('hf://me')
    assert rsr(capsys, 'push', run.path, 'sums')[0] == 2
    monkeypatch.setenv('HF_TOKEN', '')
    code, said = rsr(capsys, 'push', run.path, 'me/x')
    assert code == 2 and 'set HF_TOKEN' in said
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr('time.sleep', lambda s: None)   # huggingface_hub's own retries
    code, said = rsr(capsys, 'push', run.path, 'me/x')
    assert code == 2 and 'cannot be reached' in said, said
