"Files of every method from real runs: KTO, GRPO, targets, splits, stages, decontamination."
import collections
import contextlib
import importlib.util
import json
import subprocess
import sys

import pytest
from conftest import read_jsonl, rows, rsr, write_jsonl

from rsr import load_run, sample
from rsr.data.types import RsrError
from rsr.formatters.lint import lint_file

def go(server, n=60, recipe='sft', work_dir='run', **kw):
    return sample(rows(n), recipe, base_url=server.base_url, work_dir=work_dir, progress=False, **kw)

def test_kto_share_is_the_files(here, server):
    run = go(server, 200, 'kto')
    kto = read_jsonl('run/train/kto.jsonl')
    share = sum(r['label'] for r in kto)/len(kto)
    assert .6<=share<=.7
    assert all(list(r)==['prompt', 'completion', 'label'] and isinstance(r['label'], bool) for r in kto)
    assert {r['completion'] for r in kto}<={t.strip() for t in run.rollouts.text}   # nothing is invented
    assert run.stats()['rows']['kto.jsonl']['positive_share']==pytest.approx(share, abs=1e-3)
    again = (here/'run/train/kto.jsonl').read_bytes()
    run.format()
    assert (here/'run/train/kto.jsonl').read_bytes()==again
    run.format('kto', positive_share=.5)
    kto = read_jsonl('run/train/kto.jsonl')
    assert abs(sum(r['label'] for r in kto)/len(kto)-.5)<.03

def test_grpo_band_and_reward(here, server):
    run = go(server, 60, 'grpo')
    grpo = read_jsonl('run/train/grpo.jsonl')
    p = run.prompts
    assert len(grpo)==((p.mean_score>0)&(p.mean_score<1)).sum() and 10<len(grpo)<60
    assert all(r==dict(prompt=r['prompt'], answer='A') for r in grpo)
    assert (p.rollouts==8).all()
    spec = importlib.util.spec_from_file_location('run_reward', here/'run/train/reward.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    assert mod.trl_reward(['q']*2, [r'\boxed{A}', 'no'], answer=['A', 'A'])==[1., 0.]
    assert mod.reward('q', 'A') is None and mod.compute_score('d', 'A', 'A', {})==1.

def test_grpo_without_a_band_asks_nothing(here, server):
    go(server, 20, 'grpo', overrides=['formatter.band=null'])
    assert len(read_jsonl('run/train/grpo.jsonl'))==20 and not server.log

def test_reward_of_a_users_verifier_from_anywhere(here, server):
    (here/'v.py').write_text('def f(response, metadata): return 0.5\n')
    go(server, 3, 'grpo', verifier='v.py:f')
    code = f'import sys; sys.path.insert(0, {str(here/"run/train")!r}); import reward; print(reward.reward("q", "x"))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd='/')
    assert out.stdout.strip()=='0.5', out.stderr

TRAINED_BY = dict(sft=('llamafactory', 'trl', 'axolotl', 'swift', 'openai', 'verl'),
                  dpo=('llamafactory', 'trl', 'axolotl', 'swift', 'openai'),
                  kto=('llamafactory', 'trl', 'axolotl', 'swift'),
                  grpo=('trl', 'axolotl', 'swift', 'verl'))
TARGETS = [(method, target) for method, targets in TRAINED_BY.items() for target in targets]

def test_every_target_and_parquet(here, server):
    run = go(server, 40, 'sft_dpo')
    for method, target in TARGETS:
        for fmt in ('jsonl', 'parquet'):
            n = run.format(method, target=target, name=f'{method}_{target}', format=fmt)
            (k,) = n
            assert n[k]>0, (method, target)
            if fmt=='parquet':
                import pyarrow.parquet as pq
                assert pq.read_table(here/'run/train'/k).num_rows==n[k]
    for method, target in [('dpo', 'verl'), ('kto', 'openai'), ('grpo', 'llamafactory')]:
        with pytest.raises(RsrError, match='does not support'):
            run.format(method, target=target)

def test_strings_only_where_every_prompt_is_one_turn(here, server):
    data = rows(20)
    data[7]['messages'] = [dict(role='user', content='Hi'), dict(role='assistant', content='Hello'),
                           dict(role='user', content='prompt 7')]
    sample(data, 'kto', base_url=server.base_url, work_dir='run', progress=False)
    assert {type(r['prompt']) for r in read_jsonl('run/train/kto.jsonl')}=={list}

def test_split_is_shared_and_stable(here, server):
    def ids(path):
        return {r['messages'][0]['content'] if 'messages' in r else r['conversations'][0]['value']
                for r in read_jsonl(path)}
    go(server, 100, 'sft_dpo', overrides=['split.eval=0.3'])
    sft, sft_e, dpo, dpo_e = (ids(f'run/{s}/{f}.jsonl') for f in ('sft', 'dpo') for s in ('train', 'eval'))
    assert sft_e and dpo_e and not (sft|dpo)&(sft_e|dpo_e) and .15<len(sft_e)/len(sft|sft_e)<.45
    go(server, 150, 'sft_dpo', overrides=['split.eval=0.3'])
    assert sft_e<=ids('run/eval/sft.jsonl') and sft<=ids('run/train/sft.jsonl')
    assert json.load(open('run/eval/dataset_info.json')).keys()=={'sft', 'dpo'}

def test_split_by_metadata(here, server):
    data = rows(60)
    for i, r in enumerate(data):
        r['metadata']['doc'] = f'd{i%6}'
    sample(data, 'sft', base_url=server.base_url, work_dir='run', progress=False,
           overrides=['split={eval: 0.4, by: metadata.doc}'])
    doc = {f'prompt {i}':f'd{i%6}' for i in range(60)}
    train, held = ({doc[r['messages'][0]['content']] for r in read_jsonl(f'run/{s}/sft.jsonl')}
                   for s in ('train', 'eval'))
    assert train and held and not train&held

def test_stages_share_no_prompt(here, server):
    run = go(server, 100, 'sft_dpo', overrides=['stages=[sft, dpo]'])
    sft = {r['messages'][0]['content'] for r in read_jsonl('run/train/sft.jsonl')}
    dpo = {r['conversations'][0]['value'] for r in read_jsonl('run/train/dpo.jsonl')}
    assert sft and dpo and not sft&dpo
    with pytest.raises(RsrError, match='has no formatter'):
        go(server, 5, 'sft_dpo', 'b', overrides=['stages=[sft, grpo]'])
    with pytest.raises(RsrError, match='sum to 0.9'):
        go(server, 5, 'sft_dpo', 'b', overrides=['stages={sft: 0.5, dpo: 0.4}'])
    assert run.recipe['stages']==['sft', 'dpo']

def test_decontaminate_before_paying(here, server):
    write_jsonl('bench.jsonl', [dict(question='prompt 3'), dict(question='something else')])
    run = go(server, 10, overrides=['decontaminate=bench.jsonl'])
    assert 'prompt 3' not in {e['prompt'] for e in server.log} and run.stats()['prompts']['total']==9
    assert read_jsonl('run/summary/contaminated.jsonl')[0]['id']=='q3'
    go(server, 10, work_dir='b')
    assert load_run('b').format()['sft.jsonl']
    before = {r['messages'][0]['content'] for r in read_jsonl('b/train/sft.jsonl')}
    assert rsr('format', 'b', 'decontaminate=bench.jsonl').returncode==0
    assert before-{r['messages'][0]['content'] for r in read_jsonl('b/train/sft.jsonl')}<={'prompt 3'}

def test_thinking(here, server):
    server.set(reasoning='think', rate=1.)
    run = go(server, 5)
    assert '<think>' in read_jsonl('run/train/sft.jsonl')[0]['messages'][1]['content']
    run.format('sft', thinking='strip')
    assert all('think>' not in json.dumps(r) for r in read_jsonl('run/train/sft.jsonl'))
    run.format('sft', thinking='reasoning_content')
    assert all(r['messages'][1]['reasoning_content'] and 'think>' not in r['messages'][1]['content']
               for r in read_jsonl('run/train/sft.jsonl'))

def test_files_of_before_do_not_stay(here, server):
    "A split that is no more, another format: two truths about one prompt would be worse than none."
    run = go(server, 40, overrides=['split.eval=0.4'])
    assert (here/'run/eval/sft.jsonl').exists()
    assert rsr('format', 'run', 'split=null').returncode==0
    assert not (here/'run/eval/sft.jsonl').exists() and 'eval/sft.jsonl' not in run.stats()['rows']
    run.format('sft', format='parquet')
    assert [p.name for p in (here/'run/train').glob('sft.*')]==['sft.parquet']

def test_nothing_to_write_is_no_file(here, server):
    server.set(rate=0.)
    run = go(server, 3, max_rollouts=4)
    assert not (here/'run/train/sft.jsonl').exists()
    assert run.stats()['rows']['sft.jsonl']['rows']==0 and run.exit_code==4

def test_options_from_python(here, server):
    run = go(server, 10, 'dpo', split=dict(eval=.3), formatter=dict(target='trl'), max_rollouts=8)
    assert run.recipe['split']=={'eval':.3} and run.recipe['formatter'][0]['target']=='trl'
    go(server, 3, 'dpo', 'b', **{'formatter.min_margin':.5})
    with pytest.raises(RsrError, match="mine.py:check"):
        go(server, 3, work_dir='c', verifier=lambda response, metadata: 1.)

def test_a_split_holds_prompts_out_of_every_file_on_disk(here, server):
    "Also out of files that an earlier `rsr format` wrote, and that this one does not name."
    go(server, 40, 'dpo')
    assert rsr('format', 'run', 'formatter=kto').returncode==0 and len(read_jsonl('run/train/kto.jsonl'))
    assert rsr('format', 'run', 'split.eval=0.2').returncode==0
    def prompts(side):
        return {name:{json.dumps(r.get('prompt') or r['conversations']) for r in read_jsonl(p)}
                for p in (here/'run'/side).glob('*.jsonl') if (name := p.stem)}
    train, held = prompts('train'), prompts('eval')
    assert set(train)==set(held)=={'dpo', 'kto'}
    def text(prompt):
        return prompt if isinstance(prompt, str) else prompt[0].get('value') or prompt[0]['content']
    def texts(side):
        return {text(json.loads(x)) for f in side.values() for x in f}
    assert texts(train) and texts(held) and not texts(train)&texts(held)
    assert rsr('format', 'run').returncode==0            # the split last chosen is the run's
    assert prompts('eval')==held and rsr('format', 'run', 'split=null').returncode==0
    assert not list((here/'run'/'eval').glob('*')) and set(prompts('train'))=={'dpo', 'kto'}
    assert sum(len(v) for v in prompts('train').values())>=sum(len(v) for v in train.values())

def test_max_margin_is_asked_for(here):
    from rsr.formatters.writer import make_formatter
    f = make_formatter('dpo', max_margin=.5, fail_threshold=.6, pass_threshold=.9)
    assert f.need([(1., 1), (0., 2)])!=(0, 0) and f.need([(1., 1), (.55, 2)])==(0, 0)

def test_multi_sft_says_how_many_prompts_fall_short(here, server):
    "With the number wanted, in the statistics and in the closing lines."
    run = go(server, 30, 'multi_sft', formatter=dict(num_responses=4), max_rollouts=6)
    counts = run.stats()['rows']['multi_sft.jsonl']
    pools = [len(r['responses']) for r in read_jsonl('run/train/multi_sft.jsonl')]
    sizes = {int(size):n for size, n in counts['responses'].items()}
    assert counts['num_responses']==4 and sum(sizes.values())==30 and counts['full']==sizes[4]==pools.count(4)
    assert {k:n for k, n in sizes.items() if k}=={k:pools.count(k) for k in set(pools)} and len(sizes)>2
    short = 30-sizes[4]
    assert f'{sizes[4]} prompts with 4 responses; {short} fell short of num_responses=4 (' in run.summary()
    run.format('multi_sft', min_responses=4)
    counts = run.stats()['rows']['multi_sft.jsonl']
    none = sizes.get(0, 0)
    why = {'fewer than min_responses=4 passed':short-none, 'none passed':none}
    assert counts['without_row']=={reason:n for reason, n in why.items() if n}
    assert 'raise sampling.max_rollouts, or lower min_responses' in run.summary()

def test_every_formatter_says_why_prompts_give_no_row(here, server):
    "One count per prompt, by one function, in the file's counts and wherever it is called."
    from rsr.data.store import Store
    from rsr.formatters.left_out import remedy, why_left_out
    from rsr.formatters.writer import make_formatters
    from rsr.run.files import valid_groups
    run = go(server, 40, 'grpo')
    configs = [dict(type='grpo', band=[.3, .7]), dict(type='sft'), dict(type='dpo', min_rejected_chars=10_000),
               dict(type='kto'), dict(type='multi_sft', min_responses=3)]
    reasons = {}
    for c in configs:
        name, = run.format(**c)
        counts = run.stats()['rows'][name]
        with contextlib.closing(Store('run', write=False)) as store:
            why = why_left_out(make_formatters([c])[0], valid_groups(store, run.recipe))
        assert counts.get('without_row', {})==why and counts['prompts']+sum(why.values())==40
        assert all(map(remedy, why)) and all(remedy(w) in run.summary() for w in why)
        reasons[c['type']] = set(why)
    assert reasons['grpo']>={'pass rate too low', 'pass rate too high'}
    assert 'rejected too short' in reasons['dpo']

def test_every_reason_for_a_dropped_pair_has_a_remedy():
    "As the sources name them, so that a new reason cannot be forgotten."
    import ast
    import inspect

    from rsr.formatters import methods, pairing
    from rsr.formatters.left_out import remedy
    from rsr.pairs import flaws
    def reasons(f):
        returned = (n.value for n in ast.walk(ast.parse(inspect.getsource(f))) if isinstance(n, ast.Return) and n.value)
        texts = (c.value for v in returned for c in ast.walk(v) if isinstance(c, ast.Constant))
        return [t for t in texts if isinstance(t, str) and len(t)>3 and t not in ('rejected: ', 'pass_threshold')]
    of_pairs = (pairing.length_problem, pairing.margin_problem, pairing._try_pair, pairing.find_pairs,
                pairing._main_reason, pairing._why_unpaired, pairing._mismatch, methods._none_passed,
                methods._no_label, methods._why_no_pool, methods._side_of_band, methods.Formatter.why_no_row)
    found = [r for f in of_pairs for r in reasons(f)]
    found += [f'rejected: {r}' for f in (pairing._unusable, pairing.implausible) for r in reasons(f)]
    found += [f'flaw: {r}' for f in (flaws.flaw_problem, flaws._measured_problem, flaws._rubric_problem)
              for r in reasons(f)]
    found += ['chosen does not pass', 'made from another response', 'same text', 'fewer than min_responses=2 passed']
    assert len(found)>30
    assert [r for r in found if not remedy(r)]==['the formatter made no row']   # of a formatter of your own

def test_columns_of_the_sampling_in_every_file(here, server):
    "pass_rate, n_passed, n_scored and model, beside keys of the metadata; lint and check accept them."
    data = rows(24)
    for i, r in enumerate(data):
        r['metadata']['level'] = i%3
    columns = ['level', 'pass_rate', 'n_passed', 'n_scored', 'model']
    run = sample(data, 'sft_dpo', base_url=server.base_url, work_dir='run', progress=False,
                 formatter=[dict(type=t, columns=columns) for t in ('sft', 'dpo')])
    scores_of = {f'prompt {id[1:]}':scores for id, scores in run.rollouts.groupby('prompt').score}
    for row in read_jsonl('run/train/sft.jsonl'):
        text = row['messages'][0]['content']
        scores = scores_of[text]
        assert (row['n_passed'], row['n_scored'])==((scores==1).sum(), scores.count())
        assert row['pass_rate']==row['n_passed']/row['n_scored'] and row['level']==str(int(text.split()[1])%3)
        assert row['model']=='loopback-1'      # the only one of the server: the recipe names none
    for method, target in TARGETS:
        for format in 'jsonl', 'parquet':
            name, = run.format(method, target=target, name=f'{method}_{target}', columns=columns, format=format)
            found = lint_file(f'run/train/{name}', method, target)
            assert found['rows']==found['kept']>0 and not found['problems'], (method, target, found['problems'])
    run.format('grpo', columns=['answer', 'pass_rate'])
    assert {r['answer'] for r in read_jsonl('run/train/grpo.jsonl')}=={'A'}
    assert {type(r['pass_rate']) for r in read_jsonl('run/train/grpo.jsonl')}=={float}

def test_unknown_columns_are_refused_before_the_first_request(here, server):
    for columns, near in (['anwser'], 'answer'), (['pas_rate'], 'pass_rate'):
        with pytest.raises(RsrError, match=f"no column '{columns[0]}'. Did you mean '{near}'"):
            go(server, 3, 'grpo', formatter=dict(columns=columns))
    with pytest.raises(RsrError, match="trainers use the name 'messages'"):
        go(server, 3, 'sft', formatter=dict(columns=['messages']))
    assert not server.log and not (here/'run').exists()
    run = go(server, 3, 'grpo', verifier='mcq-rlvr')
    with pytest.raises(RsrError, match='no column'):
        run.format('sft', columns=['levle'])

def test_advice_on_options_is_given_once(here, server, capsys):
    "A share of labels that KTO does not want, and the worst of many where near_mean serves better."
    (here/'v.py').write_text('def f(response, metadata): return len(response)%10/9\n')
    every = dict(max_rollouts=12, early_stop=False)
    run = go(server, 6, 'dpo', verifier='v.py:f', formatter=dict(fail_threshold=None, pass_threshold=.8), **every)
    told = capsys.readouterr().err
    assert told.count('rejected: near_mean serves better')==1 and 'lowest of 12 scores (median' in told
    run.format('dpo', rejected='near_mean')
    run.format('kto')
    assert 'serves better' not in capsys.readouterr().err
    run.format('kto', positive_share=.4)
    assert 'kto.jsonl: positive_share 0.4 is outside the 60 to 70 %' in capsys.readouterr().err
    go(server, 6, 'dpo', work_dir='binary', **every)
    assert 'serves better' not in capsys.readouterr().err     # failed responses are all equal

def test_a_rejected_response_below_the_floor_is_sampled_again(here, server):
    "And counted where nothing longer comes."
    asked = collections.Counter()
    def reply(body):
        user = body['messages'][-1]['content']
        k = asked[user] = asked[user]+1
        if k==1:
            return r'The answer is \boxed{A}'
        return r'\boxed{B}' if k<4 or user=='prompt 3' else r'It must be \boxed{B}, by elimination of all others.'
    server.set(reply=reply)
    one_at_a_time = dict(max_rollouts=6, step_size=1, max_steps=6)
    run = go(server, 6, 'dpo', formatter=dict(min_rejected_chars=20, target='trl'), **one_at_a_time)
    assert asked=={f'prompt {i}':6 if i==3 else 4 for i in range(6)}
    assert {len(r['rejected'][0]['content'])>=20 for r in read_jsonl('run/train/dpo.jsonl')}=={True}
    assert run.stats()['rows']['dpo.jsonl']['without_row']=={'rejected too short':1}
    assert '1 × rejected too short: raise sampling.max_rollouts, or lower min_rejected_chars' in run.summary()
    assert run.format('dpo', min_rejected_chars=None)=={'dpo.jsonl':6}

def test_dates_in_every_call_are_named(tmp_path):
    def row(*dates):
        call = [dict(type='function', function=dict(name='f', arguments=dict(day=day, unit='C'))) for day in dates]
        said = dict(role='assistant', content='', tool_calls=call)
        return dict(prompt=[dict(role='user', content='q')], completion=[said])
    path = tmp_path/'a.jsonl'
    path.write_text(''.join(json.dumps(row(day))+'\n' for day in ('2026-01-02', '2026-01-03')))
    found = [p for p in lint_file(path, 'sft', 'trl')['problems'] if p['rule']=='dates']
    assert len(found)==1 and 'arguments.day' in found[0]['reason']
    path.write_text(''.join(json.dumps(row(day))+'\n' for day in ('2026-01-02', 'today')))
    assert not [p for p in lint_file(path, 'sft', 'trl')['problems'] if p['rule']=='dates']
