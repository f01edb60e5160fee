"The options last chosen are the run's; what lies in a run's directory says what it is."
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import read_jsonl, rows

from rsr import load_run, sample
from rsr.cli.entry import main
from rsr.data.types import RsrError
from rsr.explore.state import Exploration
from rsr.quality.compare import compare, compare_table
from rsr.run.execution import build
from rsr.run.recipe import load_recipe
from rsr.run.saved_recipe import recipe_text

VERIFIER = 'def f(response, metadata): return 1.0 if "{A}" in response else 0.6\n'

@pytest.fixture
def go(here, server):
    "Run a recipe on 30 prompts, of which some have no right response."
    (here/'v.py').write_text(VERIFIER)
    def _(recipe='sft', work_dir='w', **kw):
        opts = dict(base_url=server.base_url, model='m', verifier='v.py:f', max_rollouts=4, progress=False)
        return sample(rows(30), recipe, work_dir=work_dir, **{**opts, **kw})
    return _

def n_rows(run, name='sft.jsonl'):
    return len(read_jsonl(Path(run.path)/'train'/name))

def command(capfd, *args):
    "Run the command line in this process; return (exit code, stdout, stderr)."
    capfd.readouterr()
    code = main(list(map(str, args)))
    return (code or 0, *capfd.readouterr())


# ---- the options last chosen

def test_a_resume_keeps_what_was_chosen_and_says_so(go, server, capfd):
    few = n_rows(go())
    assert few<30
    assert command(capfd, 'format', 'w', 'formatter.pass_threshold=0.5')[1]=='w/train/sft.jsonl: 30 rows\n'
    asked = len(server.log)
    capfd.readouterr()
    run = go()                                         # the same again
    err = capfd.readouterr().err
    assert n_rows(run)==30==run.stats()['rows']['sft.jsonl']['rows'] and len(server.log)==asked
    assert re.search(r'this run keeps formatter\.sft\.pass_threshold=0\.5 \(recipe: 1\.0\), chosen on 20\d\d-\d\d-\d\d '
                     r'\d\d:\d\d by `rsr format w formatter\.pass_threshold=0\.5`\. To change that, add for example '
                     r'formatter\.sft\.pass_threshold=1\.0\n', err), err
    assert run.stats()['prompts']['by_stop_reason']=={'satisfied':30}    # early stopping goes by them as well
    code, _, err = command(capfd, 'run', 'work_dir=w')  # by its directory alone
    assert code==0 and n_rows(run)==30 and 'this run keeps formatter.sft.pass_threshold=0.5' in err
    code, _, err = command(capfd, 'run', 'work_dir=w', 'formatter.pass_threshold=1.0')
    assert code==0 and n_rows(run)==few, err
    assert 'pass_threshold 0.5 (chosen on' in err and ') → 1.0' in err and 'this run keeps' not in err
    go()
    assert n_rows(run)==few and not capfd.readouterr().err

def test_a_recipe_that_changed_wins_with_the_keys_that_changed(go, capfd):
    def recipe(**kw):
        return dict(formatter=[dict(type='dpo', pass_threshold=1., fail_threshold=.7, **kw)])
    go(recipe())
    load_run('w').format('dpo', min_margin=.1, max_pairs_per_prompt=2)
    load_run('w').format('dpo', target='trl')
    f, = go(recipe(min_margin=.2)).recipe['formatter']
    assert (f['min_margin'], f['max_pairs_per_prompt'], f['target'])==(.2, 2, 'trl')
    err = capfd.readouterr().err
    assert 'min_margin 0.1 (chosen on' in err and '→ 0.2' in err and 'formatter.dpo.target="trl" (recipe: null)' in err
    f, = go(recipe(min_margin=.2)).recipe['formatter']
    assert (f['min_margin'], f['max_pairs_per_prompt'])==(.2, 2)

def test_an_edit_in_the_runs_own_recipe_counts(go, capfd):
    run = go()
    run.format('sft', pass_threshold=.5)
    p = run.path/'recipe.yaml'
    assert 'pass_threshold: 0.5\n' in p.read_text()      # written again with what was chosen
    p.write_text(p.read_text().replace('select: best  # default best', 'select: shortest'))
    assert command(capfd, 'run', 'work_dir=w')[0]==0
    f, = run.recipe['formatter']
    assert (f['pass_threshold'], f['select'])==(.5, 'shortest') and n_rows(run)==30

def test_the_explorers_choice_is_the_runs(go):
    run = go()
    ex = Exploration(run)
    ex.pass_threshold = .5
    assert ex.write()=={'sft.jsonl':30}
    assert 'by: `rsr format w formatter.sft.pass_threshold=0.5`' in (run.path/'train'/'README.md').read_text()
    assert n_rows(go())==30
    assert load_run('w').stats()['scores']['passed']==load_run('w').stats()['samples']['by_outcome']['kept']

def test_further_files_are_rewritten_at_the_end_but_not_sampled_for(go, server, capfd):
    run = go()
    code, out, _ = command(capfd, 'format', 'w', 'kto', 'formatter.fail_threshold=0.7', 'formatter.positive_share=0.5')
    assert code==0 and out.startswith('w/train/kto.jsonl: ')
    before = run.path.joinpath('train/kto.jsonl').read_bytes()
    asked = len(server.log)
    opts = dict(base_url=server.base_url, model='m', verifier='v.py:f', max_rollouts=4, progress=False, work_dir='w')
    run = sample(rows(40), 'sft', **opts)                # ten prompts more
    assert run.path.joinpath('train/kto.jsonl').read_bytes()!=before and run.stats()['rows']['kto.jsonl']['rows']
    assert {e['prompt'] for e in server.log[asked:]}=={f'prompt {i}' for i in range(30, 40)}
    assert [f['type'] for f in run.recipe['formatter']]==['sft']
    assert [f['type'] for f in run.written['formatter']]==['sft', 'kto']
    (run.path/'train/kto.jsonl').unlink()                # not wanted any more
    run.format()
    go()
    assert not (run.path/'train/kto.jsonl').exists()

def test_a_split_that_was_chosen_stays(go, capfd):
    run = go('sft_dpo', formatter=dict(pass_threshold=1.))
    assert command(capfd, 'format', 'w', 'split.eval=0.3')[0]==4     # no pair: dpo has no row
    held = (run.path/'eval/sft.jsonl').read_bytes()
    run = go('sft_dpo', formatter=dict(pass_threshold=1.))
    assert (run.path/'eval/sft.jsonl').read_bytes()==held and run.recipe['split']=={'eval':.3}
    assert 'split={"eval":0.3} (recipe: null)' in capfd.readouterr().err
    go('sft_dpo', split=None)
    assert not (run.path/'eval').exists() or not [*(run.path/'eval').iterdir()]

def test_a_strategy_for_pairs_keeps_them_too(here, server, capfd):
    (here/'v.py').write_text(VERIFIER)
    def go():
        return sample(rows(20), 'rubric_selection', base_url=server.base_url, model='m', verifier='v.py:f',
                      work_dir='w', progress=False)
    run = go()
    pairs = len(run.pairs())
    assert pairs and run.format('dpo', min_margin=.5)=={'dpo.jsonl':0}
    run = go()
    assert run.pairs()==[] and 'formatter.dpo.min_margin=0.5 (recipe: 0.15)' in capfd.readouterr().err
    assert command(capfd, 'run', 'work_dir=w', 'formatter.min_margin=0.2')[0]==0
    assert len(run.pairs())==pairs

def test_runs_of_older_versions(go, capfd):
    "Their recipe.yaml is short, and they noted only what their files were written with."
    run = go()
    run.format('sft', pass_threshold=.5)
    run.format('kto', pass_threshold=.5, fail_threshold=.4)
    short = load_recipe('sft', [('data.input_path', '???'), ('sampler.base_url', run.recipe['sampler']['base_url']),
                                'sampler.model=m', 'verifier.type=v.py:f', 'sampling.max_rollouts=4', 'work_dir=w'])
    (run.path/'recipe.yaml').write_text(yaml.safe_dump(dict(short), sort_keys=False))
    with sqlite3.connect(run.path/'run.db') as db:
        db.execute("DELETE FROM meta WHERE key IN ('options', 'commands', 'stamps', 'earlier')")
    shutil.copytree('w', 'copy')
    old = load_run('w')
    assert old.recipe['formatter'][0]['pass_threshold']==.5 and old.stats()['rows']['kto.jsonl']
    assert compare(old, load_run('copy'))['recipe']==[]
    code, _, err = command(capfd, 'run', 'work_dir=w')
    assert code==0 and n_rows(old)==30 and 'pass_threshold=0.5 (recipe: 1.0), chosen earlier' in err, err
    assert [f['type'] for f in old.written['formatter']]==['sft', 'kto']
    assert load_run('copy').format()=={'sft.jsonl':30}


# ---- recipe.yaml

def test_recipe_yaml_holds_every_value_and_means_the_recipe(go, server):
    server.set(rate=1.)
    run = go()
    text = (run.path/'recipe.yaml').read_text()
    assert text.startswith('# rsr ')
    d = yaml.safe_load(text)
    assert list(d)==['work_dir', 'engine', 'data', 'sampling', 'sampler', 'verifier', 'pairs', 'formatter', 'split',
                     'stages', 'decontaminate', 'budget', 'resume']
    assert d['sampler']['temperature']==.7 and d['sampling']['window']==4096 and d['budget']['usd'] is None
    assert d['formatter'][0]['target']=='llamafactory'
    again = load_recipe(str(run.path/'recipe.yaml'))
    assert again==load_run('w').recipe | dict(formatter=[dict(type='sft')])
    first, second = build(load_recipe('sft', [*_options(server), 'work_dir=w'])), build(again)
    for part in 'sampler', 'verifier':
        assert first[part].config==second[part].config
    assert vars(first['sampling'])==vars(second['sampling'])
    assert [vars(f).keys() for f in first['formatters']]==[vars(f).keys() for f in second['formatters']]

def _options(server):
    return [('sampler.base_url', server.base_url), 'sampler.model=m', 'verifier.type=v.py:f', 'sampling.max_rollouts=4']

@pytest.mark.parametrize('name', ['sft', 'kto', 'grpo', 'multi_sft', 'sft_dpo', 'rubric_selection', 'temperature'])
@pytest.mark.parametrize('options', [[], ['verifier.type=rubric', 'verifier.rubric=helpful_answer', 'verifier.model=j',
                                          'verifier.base_url=http://localhost:1/v1']])
def test_a_recipe_that_was_saved_builds_the_same(tmp_path, name, options):
    d = load_recipe(name, ['sampler.base_url=http://localhost:1/v1', 'sampler.model=m', 'work_dir=w', *options])
    parts = build(d)
    (tmp_path/'recipe.yaml').write_text(recipe_text(d))
    again = load_recipe(str(tmp_path/'recipe.yaml'))
    same = build(again)
    assert parts['sampler'].config==same['sampler'].config and parts['verifier'].config==same['verifier'].config
    assert parts['sampling']==same['sampling'] and parts['mix']==same['mix']
    assert [j.config for j in parts['judges']]==[j.config for j in same['judges']]
    def options_of(f):
        return f.name, f.options, f.target, f.style, f.format, f.thinking, f.keep_system
    assert list(map(options_of, parts['formatters']))==list(map(options_of, same['formatters']))

def test_a_copied_recipe_with_another_verifier_or_method(tmp_path):
    (tmp_path/'recipe.yaml').write_text(recipe_text(load_recipe('dpo', ['sampler.model=x', 'verifier.type=math-rlvr'])))
    rubric = ['verifier.type=rubric', 'verifier.rubric=helpful_answer', 'verifier.model=local']
    d = load_recipe(str(tmp_path/'recipe.yaml'), ['sampler.base_url=http://localhost:1/v1', *rubric])
    f, = build(d)['formatters']
    assert (f.options['pass_threshold'], f.options['fail_threshold'], f.options['min_margin'])==(.8, None, .15)
    d = load_recipe(str(tmp_path/'recipe.yaml'), ['sampler.base_url=http://localhost:1/v1', 'formatter.target=trl'])
    f, = build(d)['formatters']
    assert (f.target, f.options['fail_threshold'])==('trl', 0.)
    text = (tmp_path/'recipe.yaml').read_text()
    edited = text.replace('temperature: 0.7  # default', 'temperature: 0.9  # default')   # the comment stays
    (tmp_path/'recipe.yaml').write_text(edited)
    assert load_recipe(str(tmp_path/'recipe.yaml'))['sampler']=={'model':'x', 'temperature':.9}

def test_secrets_stay_masked(go, server):
    run = go(api_key='sk-0123456789abcdef', headers={'X-Team':'secret-team-1234'})
    text = (run.path/'recipe.yaml').read_text()
    assert 'sk-0123' not in text and 'secret-team' not in text and "api_key: '***'" in text
    assert 'sk-0123' not in (run.path/'train/README.md').read_text()
    run.format()
    assert "api_key: '***'" in (run.path/'recipe.yaml').read_text()

def test_compare_fills_in_defaults(go, capfd):
    go(work_dir='a')
    go(work_dir='b', temperature=1.2)
    load_run('b').format(pass_threshold=.5)
    d = compare('a', 'b')
    assert {c['key']:(c['a'], c['b'], c['default']) for c in d['recipe']}=={
        'sampler.temperature':(.7, 1.2, ['a']), 'formatter.sft.pass_threshold':(1., .5, [])}
    assert '  sampler.temperature: 0.7 (default) → 1.2\n' in compare_table(d)


# ---- README.md, edited files, files of an earlier recipe

def test_readme(go, capfd):
    run = go('sft_dpo', split=dict(eval=.3))
    for side, what in dict(train='Training data', eval='Held-out data').items():
        lines = (run.path/side/'README.md').read_text().splitlines()
        n = len(read_jsonl(run.path/side/'sft.jsonl'))
        assert len(lines)==3 and what in lines[0] and f'sft.jsonl {n}' in lines[1] and 'responses passed' in lines[1]
        assert lines[2]=="- Written by: `rsr.sample(…, recipe='sft_dpo')`"
    command(capfd, 'format', 'w', 'split=null', 'formatter.sft.pass_threshold=0.5')
    assert not [*(run.path/'eval').iterdir()]
    text = (run.path/'train/README.md').read_text()
    assert 'sft.jsonl 30' in text and '`rsr format w split=null formatter.sft.pass_threshold=0.5`' in text
    for found in run.check_files()['files']:
        assert 'README' not in found['file']
    assert set(json.loads((run.path/'train/dataset_info.json').read_text()))=={'sft'}
    (run.path/'train/README.md').write_text('---\nlicense: mit\n---\n')     # a dataset card of the user's
    run.format()
    assert (run.path/'train/README.md').read_text().startswith('---')

def test_a_folder_with_a_readme_is_loaded_as_before(go):
    datasets = pytest.importorskip('datasets')
    run = go()
    found = datasets.load_dataset(str(run.path/'train'), cache_dir=str(run.path/'cache'))
    assert found['train'].num_rows==n_rows(run)

def test_an_edited_file_is_kept(go, capfd):
    run = go()
    p = run.path/'train'/'sft.jsonl'
    p.touch()                                            # looked at, not edited
    run.format()
    assert 'edited' not in capfd.readouterr().err and not (run.path/'edited').exists()
    mine = p.read_text()+'{}\n'
    for n in '', '_2':
        p.write_text(mine+n)
        run.format()
        kept = run.path/'edited'/'train'/f'sft{n}.jsonl'
        assert kept.read_text()==mine+n and p.read_text()!=mine+n
        assert f'{p} was edited since rsr wrote it' in (err := capfd.readouterr().err) and str(kept) in err

def test_files_of_an_earlier_recipe_are_listed_apart(go, capfd):
    first = go('dpo', formatter=dict(fail_threshold=.7))
    before = (first.path/'train/dpo.jsonl').read_bytes()
    code, out, _ = command(capfd, 'run', 'sft', *(f'{k}={v}' for k, v in [
        ('sampler.base_url', first.recipe['sampler']['base_url']), ('sampler.model', 'm'), ('verifier.type', 'v.py:f'),
        ('sampling.max_rollouts', 4), ('work_dir', 'w')]))
    assert code==0 and 'from an earlier recipe, and not written again: w/train/dpo.jsonl\n' in out
    assert 'file       dpo.jsonl' not in out and (first.path/'train/dpo.jsonl').read_bytes()==before
    text = (first.path/'train/README.md').read_text()
    assert re.search(r'Rows: sft\.jsonl \d+\. From an earlier recipe: dpo\.jsonl \d+\.', text)
    go('sft_dpo', formatter=dict(pass_threshold=1.))
    assert load_run('w').earlier_files==[] and load_run('w').stats()['rows']['dpo.jsonl']


# ---- beside a run that is being sampled

def test_format_is_refused_while_a_process_has_the_run(go, capfd):
    run = go()
    before = (run.path/'train/sft.jsonl').read_bytes(), (run.path/'recipe.yaml').read_bytes()
    code = f'from rsr.data.store import Store; s = Store({str(run.path)!r}); print(1, flush=True); input()'
    held = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        held.stdout.readline()
        with pytest.raises(RsrError, match=f'in use by process {held.pid}.*rsr copy w TO'):
            run.format('sft', pass_threshold=.5)
        code, out, err = command(capfd, 'format', 'w', 'formatter.pass_threshold=0.5')
        assert code==2 and f'in use by process {held.pid}' in err and not out
    finally:
        held.communicate(b'\n')
    assert before==((run.path/'train/sft.jsonl').read_bytes(), (run.path/'recipe.yaml').read_bytes())

def test_a_copy_has_the_same_recipe(go):
    run = go()
    run.format('sft', pass_threshold=.5)
    (run.path/'train/sft.jsonl').write_text('mine\n')
    run.format()
    copy = run.copy('a/copy')
    lines = [p.read_text().splitlines() for p in (run.path/'recipe.yaml', copy.path/'recipe.yaml')]
    assert [pair for pair in zip(*lines, strict=True) if pair[0]!=pair[1]]==[('work_dir: w', 'work_dir: a/copy')]
    assert copy.recipe==run.recipe | dict(work_dir='a/copy')
    assert (copy.path/'edited/train/sft.jsonl').read_text()=='mine\n'
    copy.format()
    assert not (copy.path/'edited/train/sft_2.jsonl').exists()    # the copied files were not edited
