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
    p.write_text(p.read_text().replace('pass_threshold: 0.5', 'pass_threshold: 0.7'))
    code, _, err = command(capfd, 'run', 'work_dir=w')   # said once: it changes
    assert code==0 and 'pass_threshold 0.5 (chosen on' in err and '→ 0.7' in err and 'this run keeps' not in err, err

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

HALF = 'def f(response, metadata): return 0.9 if "{A}" in response else 0.5\n'

@pytest.fixture
def sides(here, server):
    "Options of a run whose sides score differently, or the wrong way round, or alike."
    (here/'v.py').write_text(HALF)
    (here/'in.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows(20)))
    server.set(rate=.5)
    return ['strong_vs_weak', 'in.jsonl', 'verifier=v.py:f', f'sampler.base_url={server.base_url}', 'sampler.model=m',
            'pairs.weak.temperature=1.2', 'sampling.max_rollouts=2', 'formatter.pass_threshold=0.4', 'work_dir=p']

def test_rules_for_pairs_that_were_chosen_stay(sides, server, capfd):
    assert command(capfd, 'run', *sides)[0]==0
    few = n_rows(load_run('p'), 'dpo.jsonl')
    assert command(capfd, 'format', 'p', 'formatter.min_margin=0', 'formatter.inverted=swap')[0]==0
    many, asked = n_rows(load_run('p'), 'dpo.jsonl'), len(server.log)
    assert many>few
    for args in (['work_dir=p'], ['work_dir=p'], sides, ['work_dir=p']):
        code, _, err = command(capfd, 'run', *args)
        assert code==0 and n_rows(load_run('p'), 'dpo.jsonl')==many and 'this command changes' not in err, err
        text = Path('p/recipe.yaml').read_text()
        assert re.findall(r'min_margin: (.*)', text)==['0'] and re.findall(r'inverted: (.*)', text)==['swap']
    assert len(server.log)==asked
    code, _, err = command(capfd, 'run', *sides, 'pairs.min_margin=0.15')     # the recipe's, but named
    assert code==0 and 'formatter.dpo.min_margin 0 (chosen on' in err and '→ 0.15' in err
    p = Path('p/recipe.yaml')
    p.write_text(p.read_text().replace('strategy: strong_vs_weak\n', 'strategy: strong_vs_weak\n  min_margin: 0\n', 1))
    assert command(capfd, 'run', 'work_dir=p')[0]==0                          # an edit counts in either place
    assert load_run('p').recipe['formatter'][0]['min_margin']==0 and n_rows(load_run('p'), 'dpo.jsonl')==many
    shutil.copy('p/recipe.yaml', 'mine.yaml')
    copy = load_recipe('mine.yaml')
    build(copy)
    assert copy['formatter'][0]['min_margin']==0 and copy['formatter'][0]['inverted']=='swap'
    f, = load_recipe('strong_vs_weak', ['pairs.weak.model=x', 'formatter.min_margin=0.3'])['formatter']
    assert (f['min_margin'], f['inverted'])==(.3, 'drop')

def test_a_refused_command_leaves_the_run_as_it_is(sides, server, capfd):
    assert command(capfd, 'run', *sides)[0]==0
    run, asked = load_run('p'), len(server.log)
    before, stops = (run.path/'recipe.yaml').read_bytes(), run.stats()['prompts']
    code, _, err = command(capfd, 'run', *sides, 'pairs.weak.temperature=1.4')
    assert code==2 and 'temperature: 1.2 before, 1.4 now' in err
    assert (run.path/'recipe.yaml').read_bytes()==before and run.stats()['prompts']==stops
    assert command(capfd, 'run', 'work_dir=p')[0]==0 and len(server.log)==asked

def test_sides_that_differ_in_a_key_only(sides, server, capfd):
    sides = [o for o in sides if 'temperature' not in o]
    for option in 'api_key=secret-key-1234', 'max_tokens=9':
        code, _, err = command(capfd, 'run', *sides, f'pairs.weak.{option}')
        only = f"(they differ in {option.partition('=')[0]} only)"
        assert code==2 and f'both sides would be sampled alike {only}' in err and 'secret' not in err
        assert not server.log and not Path('p').exists()

def decides(run):
    saved = yaml.safe_load(Path(run, 'recipe.yaml').read_text())
    return load_run(run).stats()['labels']['decide'], saved['labels']['decide']

def test_who_decides_is_an_option_like_the_others(go, server, capfd):
    run = go('sft', max_rollouts=2)
    best = run.rollouts.groupby('prompt').score.max()
    prompt = best[best<1].index[0]                       # without a response that passed
    idx = int(run.rollouts.query('prompt==@prompt').idx.iloc[0])
    for who, verdict in dict(bob='fail', alice='pass', carl='fail').items():
        run.label(prompt, idx, verdict, who)
    assert command(capfd, 'format', 'w', 'labels.decide=bob')[0]==0
    assert decides('w')==('bob', 'bob')
    assert command(capfd, 'format', 'w', 'labels.decide=alice')[0]==0
    rows_then = n_rows(run)
    sft = ['sft', f'sampler.base_url={server.base_url}', 'sampler.model=m', 'verifier=v.py:f',
           'sampling.max_rollouts=2', 'work_dir=w']
    for args in ['work_dir=w'], sft, ['work_dir=w']:
        code, _, err = command(capfd, 'run', *args)
        assert code==0 and decides('w')==('alice', 'alice') and n_rows(run)==rows_then, err
        assert ('this run keeps labels={"decide":"alice"} (recipe: null), chosen on' in err)
    assert load_run('w').recipe['labels']==dict(decide='alice')
    p = run.path/'recipe.yaml'
    before, asked = p.read_bytes(), len(server.log)
    code, _, err = command(capfd, 'run', *sft, 'sampling.max_rollouts=8', 'labels.decide=bobb')
    assert code==2 and "labels.decide: no annotator 'bobb'. Did you mean 'bob'" in err
    assert len(server.log)==asked and p.read_bytes()==before and decides('w')==('alice', 'alice')
    Exploration(run).decide_by('bob')                    # in the explorer
    code, _, err = command(capfd, 'run', 'work_dir=w')
    assert code==0 and decides('w')==('bob', 'bob'), err
    code, _, err = command(capfd, 'run', 'work_dir=w', 'labels.decide=null')
    assert code==0 and decides('w')==('majority', None) and 'this command changes options of the run: labels' in err
    p.write_text(re.sub('decide: null.*', 'decide: carl', p.read_text()))
    code, _, err = command(capfd, 'run', 'work_dir=w')   # an edit counts
    assert code==0 and decides('w')==('carl', 'carl'), err

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
    assert load_run('copy').format('sft')=={'sft.jsonl':30}
    again = load_run('copy').format()                    # every file of the run
    assert again['sft.jsonl']==30 and again['kto.jsonl']


# ---- recipe.yaml

def test_recipe_yaml_holds_every_value_and_means_the_recipe(go, server):
    server.set(rate=1.)
    run = go()
    text = (run.path/'recipe.yaml').read_text()
    assert text.startswith('# rsr ')
    d = yaml.safe_load(text)
    assert list(d)==['work_dir', 'engine', 'data', 'sampling', 'sampler', 'verifier', 'pairs', 'formatter', 'goal',
                     'split', 'stages', 'decontaminate', 'labels', 'budget', 'resume']
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

def shell(here, server, *words):
    "The words of a run of three prompts."
    (here/'in.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows(3)))
    return ['run', 'sft', f'sampler.base_url={server.base_url}', 'sampler.model=m', 'verifier.type=v.py:f',
            'sampling.max_rollouts=2', *words]

def test_the_command_is_the_one_that_was_given(go, here, server, capfd):
    odd = 'a\x07b  \x1b\x7f\x85 it\'s\n\t"c" \\n \ufffe'
    words = shell(here, server, 'in.jsonl', f'sampler.system_prompt={odd}', 'work_dir=w')
    assert command(capfd, *words)[0]==0 and server.log[0]['body']['messages'][0]['content']==odd
    head = (here/'w/recipe.yaml').read_text().splitlines()[0]
    line = (here/'w/train/README.md').read_text().splitlines()[2].removeprefix('- Written by: `').removesuffix('`')
    assert line.isprintable() and head.endswith(f': {line}')
    if shutil.which('bash'):
        pasted = subprocess.run(['bash', '-c', f"printf '%s\\0' {line}"], capture_output=True, env={'LC_ALL':'C.UTF-8'})
        assert pasted.stdout.decode().split('\0')[1:-1]==words
    assert command(capfd, 'run', 'work_dir=w')[0]==0 and load_run('w').recipe['sampler']['system_prompt']==odd
    assert (here/'w/recipe.yaml').read_text().splitlines()[0]==head       # what began the run
    assert 'by: `rsr run work_dir=w`' in (here/'w/train/README.md').read_text()
    with sqlite3.connect(here/'w/run.db') as db:                          # as an older version noted it
        db.execute("UPDATE meta SET value=? WHERE key='commands'", (json.dumps({'run':"rsr run 'a\x07\nb'"}),))
    assert command(capfd, 'run', 'work_dir=w')[0]==0
    assert (here/'w/recipe.yaml').read_text().splitlines()[0].endswith(": rsr run 'a  b'")

def test_a_text_that_looks_like_a_key_has_to_be_given_again(go, here, server, capfd):
    prompt = 'sampler.system_prompt=Say api_key=a1b2c3d4e5f6'
    words = shell(here, server, 'in.jsonl', prompt, 'work_dir=w')
    assert command(capfd, *words)[0]==0
    asked = len(server.log)
    code, _, err = command(capfd, 'run', 'work_dir=w')
    assert code==2 and len(server.log)==asked and err=='rsr: sampler.system_prompt: a part of it looked like a key ' \
        'and is masked in the recipe of this run. Give it again: sampler.system_prompt=…\n'
    assert command(capfd, 'run', 'work_dir=w', prompt)[0]==0

def test_a_run_that_is_resumed_elsewhere_names_both_folders(go, here, server, capfd, monkeypatch):
    (here/'a b').mkdir()
    (here/'other').mkdir()
    monkeypatch.chdir(here/'a b')
    (here/'a b/v.py').write_text(VERIFIER)
    assert command(capfd, *shell(here/'a b', server, 'in.jsonl', 'work_dir=w'))[0]==0
    shutil.copy('v.py', here/'other')
    monkeypatch.chdir(here/'other')
    code, _, err = command(capfd, 'run', f'work_dir={here}/a b/w')
    assert code==2 and err==(f'rsr: data.input_path: no file in.jsonl in {here}/other. Resume the run in the folder '
                             f"where it began (cd '{here}/a b'), or give the path again: data.input_path=…\n")
    assert command(capfd, 'run', f'work_dir={here}/a b/w', f'data.input_path={here}/a b/in.jsonl')[0]==0

def test_names_that_are_not_utf8(go, here, server, capfd):
    odd = 's\udce9'
    words = shell(here, server, f'work_dir={odd}')
    try:
        shutil.copy('in.jsonl', f'{odd}.jsonl')
    except OSError:
        pytest.skip('names are UTF-8 here')
    for key in 'decontaminate', 'verifier.type', 'sampler.system_prompt', 'formatter.name':
        code, _, err = command(capfd, *words, 'in.jsonl', f'{key}={odd}')
        assert code==2 and err==f"rsr: {key}: 's\\udce9' is not UTF-8; give it in UTF-8\n" and not server.log
    for given in f'{odd}.jsonl', f'data.input_path={odd}.jsonl', 'sampler.system_prompt=D\udcc3\udca9':
        data = [] if 'jsonl' in given else [f'{odd}.jsonl']
        shutil.rmtree(odd, ignore_errors=True)
        assert command(capfd, *words, *data, given)[0]==0
    assert server.log[-1]['body']['messages'][0]['content']=='Dé'   # read in another encoding
    assert r"$'work_dir=s\xe9'" in (here/odd/'train/README.md').read_text()
    for words in ['run', f'work_dir={odd}'], ['format', odd], ['stats', odd], ['report', odd], ['copy', odd, f'{odd}2']:
        assert command(capfd, *words)[0]==0
    assert load_run(f'{odd}2').recipe['data']['input_path']==f'{odd}.jsonl'

def test_readme(go, capfd):
    run = go('sft_dpo', split=dict(eval=.3))
    for side, what in dict(train='Training data', eval='Held-out data').items():
        lines = (run.path/side/'README.md').read_text().splitlines()
        n = len(read_jsonl(run.path/side/'sft.jsonl'))
        assert len(lines)==3 and what in lines[0] and f'sft.jsonl {n}' in lines[1]
        rate = re.search(r'^pass rate +(.+)', run.summary(), re.M)[1]                        # the figure, and the words
        assert 'prompts), corrected for early stopping' in rate and lines[1].endswith(f' Pass rate: {rate}.')
        assert lines[2]=="- Written by: `rsr.sample(…, recipe='sft_dpo')`"
    command(capfd, 'format', 'w', 'split=null', 'formatter.sft.pass_threshold=0.5')
    assert not [*(run.path/'eval').iterdir()]
    text = (run.path/'train/README.md').read_text()
    assert 'sft.jsonl 30' in text and '`rsr format w split=null formatter.sft.pass_threshold=0.5`' in text
    for found in run.check_files()['files']:
        assert 'README' not in found['file']
    assert set(json.loads((run.path/'train/dataset_info.json').read_text()))=={'sft'}
    for mine in '---\nlicense: mit\n---\n', f'{text}\nMy notes\n':          # the user's own, or with notes
        (run.path/'train/README.md').write_text(mine)
        for _ in range(3):
            run.format()
            assert (run.path/'train/README.md').read_text()==mine
    (run.path/'train/README.md').unlink()
    run.format()
    assert 'sft.jsonl 30' in (run.path/'train/README.md').read_text()
    (run.path/'train/README.md').unlink()
    (run.path/'train/README.md').mkdir()
    run.format()
    assert go('sft_dpo').stop_reason is None and (run.path/'train/README.md').is_dir()

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

def test_an_edited_reward_is_kept(go, capfd):
    run = go('grpo')
    p, kept = run.path/'train/reward.py', run.path/'edited/train/reward.py'
    own = p.read_text()
    run.format()
    assert not kept.exists() and 'edited' not in capfd.readouterr().err
    p.write_text(f'{own}# mine\n')
    go('grpo')
    assert kept.read_text()==f'{own}# mine\n' and p.read_text()==own
    assert f'{p} was edited since rsr wrote it' in (err := capfd.readouterr().err) and str(kept) in err
    run.format()
    assert [*kept.parent.iterdir()]==[kept]

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
