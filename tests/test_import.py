"""Rollouts that other tools wrote: every format by files of its own writer, then a run like any other.

tests/imports/ holds what these versions wrote: verifiers 0.4.0 (`write_episode`), verifiers 0.3.0-62-ga60a606
(`state_to_output`, legacy), lm_eval 0.4.13 (`EvaluationTracker`), inspect_ai 0.3.285 (`eval`, both log formats). The
rollouts of NeMo-Gym are rows of its repository at 07d6b0d with shortened texts. TRL's table is written as
`GRPOTrainer.log` of 1.16.0 does, those of batches as OpenAI's and vLLM's documentation have them."""
import json
import sqlite3
from pathlib import Path

import pytest
from conftest import read_jsonl, rsr, write_jsonl

from rsr import load_run, sample
from rsr.data.types import RsrError
from rsr.exchange import import_rollouts, importer
from rsr.exchange.importers import IMPORTERS, detect

FILES = Path(__file__).parent/'imports'

def take(format, paths, work_dir='w', **options):
    return import_rollouts(format, paths, work_dir=work_dir, progress=False, **options)

def by_text(run):
    return {r.text: r for r in run.rollouts.itertuples()}

def samplers(d='w'):
    with sqlite3.connect(f'{d}/run.db') as db:
        found = db.execute("SELECT config FROM configs WHERE kind='sampler' ORDER BY key").fetchall()
    return [d for d in (json.loads(c) for c, in found) if d['type'] == 'imported']

def sums(*said, q='What is 2 + 2?', **more):
    return [dict(question=q, answer='4', response=text, score=score, **more) for text, score in said]


# ---- the formats

def test_verifiers_traces(here):
    run = take('verifiers', FILES/'vf_traces')
    got = by_text(run)
    assert (got['It is 4.'].reasoning, got['It is 4.'].score, got['It is 5.'].score) == ('two and two', 1., 0.)
    assert (got['It is 4.'].prompt, got['It is 4.'].completion_tokens, got['It is 4.'].latency) == ('sums/0', 5, .5)
    assert got[''].outcome == 'failed' and got[''].error == 'TimeoutError: no answer'
    prompts = run.prompts.set_index('id')
    assert prompts.loc['sums/0', 'rollouts'] == 2 and json.loads(prompts.loc['sums/0', 'metadata']) == {'answer': '4'}
    several = json.loads(prompts.loc[got['It is 7.'].prompt, 'messages'])   # its call and the result stand before it
    assert [m['role'] for m in several] == ['system', 'user', 'assistant', 'tool']
    assert 'add' in prompts.loc[got['It is 7.'].prompt, 'tools']
    assert {'type': 'imported', 'model': 'org/small', 'format': 'verifiers'} in samplers()
    assert set(run.scores.dropna(subset='score').words) == {3.}

def test_verifiers_results(here):
    run = take('verifiers', FILES/'vf_results'/'results.jsonl')
    got = by_text(run)
    assert (got['It is'].outcome, got['It is 4.'].score, got['It is 4.'].latency) == ('truncated', 1., .812)
    assert got['It is 8.'].score != got['It is 8.'].score and got[''].outcome == 'failed'
    assert 'is nan' in run.scores.set_index('key').loc[got['It is 8.'].key].reason
    assert samplers()[0]['model'] == 'org/large'   # of metadata.json beside it

def test_nemo_gym(here):
    run = take('nemo-gym', FILES/'gym_rollouts.jsonl')
    got = by_text(run)
    assert (got[r'\boxed{[[4]]}'].reasoning, got[r'\boxed{[[4]]}'].score) == ('hm', 1.)
    assert (got[r'\boxed{[[5]]}'].prompt, got[r'\boxed{[[5]]}'].completion_tokens) == ('arc_agi_simple_agent/0', 9)
    assert {c['model'] for c in samplers()} == {'Qwen/Qwen3-30B-A3B', 'gpt-4.1-2025-04-14'}
    assert run.prompts.tools.notna().sum() == 1 and set(run.rollouts.model) == {c['model'] for c in samplers()}

def test_lm_eval(here, capsys):
    path = FILES/'org__small'/'samples_sums_2026-11-27T22-00-00.000001.jsonl'
    run = take('lm-eval', path)
    assert list(run.rollouts.score) == [1., 0.] and list(run.rollouts.prompt) == ['sums/0', 'sums/1']
    assert samplers()[0]['model'] == 'org/small' and list(run.scores.answer) == ['4', '9']
    said = capsys.readouterr().err
    assert 'scores are those of the filter strict' in said and '2 of loose' in said and 'without a response' not in said
    assert list(take('lm-eval', path, 'loose', filter='loose').rollouts.score) == [0., 0.]
    assert 'filter' not in capsys.readouterr().err
    with pytest.raises(RsrError, match='no filter .losse.. Did you mean .loose.'):
        take('lm-eval', path, 'x', filter='losse')
    with pytest.raises(RsrError, match='(?s)2 rows cannot be imported.*line 1: no response: its task compares'):
        take('lm-eval', FILES/'org__small', 'x')

@pytest.mark.parametrize('name', ['sums.json', 'sums.eval'])
def test_inspect(here, name):
    run = take('auto', FILES/name)
    got = by_text(run)
    assert (got['The answer is 4'].score, got['4'].reasoning, got['ten'].outcome) == (1., 'two and two', 'truncated')
    assert set(run.prompts.id) == {'sums/a', 'sums/2'} and got['4'].completion_tokens == 5
    assert list(run.scores.columns).count('match') == 1 and list(run.scores.columns).count('includes') == 1
    assert json.loads(run.prompts.set_index('id').loc['sums/a'].metadata) == {'k': 1, 'answer': '4'}

def test_inspect_archives_that_are_broken_or_bombs(here, monkeypatch):
    import lzma
    import zipfile

    from rsr.exchange import inspect_logs
    monkeypatch.setattr(inspect_logs, '_LARGEST', 10_000)
    with zipfile.ZipFile('bomb.eval', 'w', zipfile.ZIP_LZMA) as archive:
        archive.writestr('header.json', '{"eval": {}}')
        archive.writestr('samples/1.json', json.dumps(dict(id='a'*20_000)))
        archive.writestr('samples/2.json', json.dumps(dict(id='b'*200)))
    with pytest.raises(RsrError, match='may have 10,000'):
        take('inspect', 'bomb.eval')
    monkeypatch.setattr(inspect_logs, '_packed', lambda archive, info: archive.read(info.filename))
    def torn(archive, name):
        raise lzma.LZMAError('Corrupt input data')
    monkeypatch.setattr(zipfile.ZipFile, 'read', torn)
    with pytest.raises(RsrError, match='cut off .LZMAError'):
        take('inspect', 'bomb.eval')
    assert not Path('w').exists()

def test_values_of_odd_kinds(here):
    write_jsonl('in.jsonl', sums(('4', 1.), ('5', 1e308), finish_reason=2**70))
    run = take('jsonl', 'in.jsonl')
    assert run.rollouts.finish_reason.tolist() == [str(2**70)]*2
    assert run.scores.score.notna().tolist() == [True, False]
    write_jsonl('bad.jsonl', sums(('4', 1.), finish_reason={'a': 1}))
    with pytest.raises(RsrError, match='finish_reason is dict'):
        take('jsonl', 'bad.jsonl', 'w2')
    write_jsonl('vf.jsonl', [dict(json.loads(line), metrics=[3]) for line in
                             (FILES/'vf_results'/'results.jsonl').read_text().splitlines()])
    assert len(take('verifiers', 'vf.jsonl', 'w3').rollouts) > 1

def test_trl(here):
    import pandas as pd
    ask, said = [dict(role='user', content='2 + 2?')], [[dict(role='assistant', content=t)] for t in ('4', '5', '6')]
    Path('completions').mkdir()
    pd.DataFrame(dict(step=[1]*3, prompt=[ask]*3, completion=said, right=[1., 0., float('nan')], short=[.5, .5, .2],
                      advantage=[1., -1., 0.])).to_parquet('completions/completions_00001.parquet')
    run = take('trl', 'completions')
    assert list(run.rollouts.score) == [1.5, .5, .2] and len(run.prompts) == 1
    assert json.loads(run.scores.verifier[0])['type'] == 'imported-raw'   # sums of rewards are no probabilities
    assert run.recipe['verifier']['type'] == 'imported-raw'
    one = take('trl', 'completions', 'one', score='right', model='small')
    assert list(one.rollouts.score.fillna(-1)) == [1., 0., -1.] and samplers('one')[0]['model'] == 'small'

def batch_files():
    def body(q, **more):
        return dict(model='m', messages=[dict(role='user', content=q)], temperature=.7, **more)
    def result(id, texts):
        choices = [dict(index=i, message=dict(role='assistant', content=t), finish_reason='stop') for i, t in
                   enumerate(texts)]
        reply = dict(id='c', object='chat.completion', model='m-0601', choices=choices,
                     usage=dict(prompt_tokens=9, completion_tokens=6, total_tokens=15))
        return dict(id=f'batch_req_{id}', custom_id=id, response=dict(status_code=200, request_id='r', body=reply),
                    error=None)
    write_jsonl('requests.jsonl', [dict(custom_id=i, method='POST', url='/v1/chat/completions', body=body(q, n=2))
                                   for i, q in (('a', '2 + 2?'), ('b', '3 + 3?'))])
    failed = dict(id='x', custom_id='b', error=None,
                  response=dict(status_code=429, request_id='r', body=dict(error=dict(message='slow down'))))
    write_jsonl('results.jsonl', [result('a', ['4', '5']), failed])

def test_batch(here):
    batch_files()
    run = take('batch', ['results.jsonl', 'requests.jsonl'])
    assert sorted(run.rollouts.outcome) == ['failed', 'kept', 'kept'] and set(run.rollouts.prompt) == {'a', 'b'}
    assert run.rollouts.error.dropna().tolist() == ['slow down'] and run.stats()['tokens']['completion'] == 6
    assert samplers()[0]['sampling'] == dict(temperature=.7)
    with pytest.raises(RsrError, match="line 1: the request 'a' is in none of the files"):
        take('batch', 'results.jsonl', 'x')
    write_jsonl('requests.jsonl', 2*read_jsonl('requests.jsonl'))
    with pytest.raises(RsrError, match="line 3: the custom_id 'a' is that of requests.jsonl, line 1 too"):
        take('batch', ['requests.jsonl', 'results.jsonl'], 'x')
    assert not Path('x').exists()

def test_generations(here):
    row = dict(problem='2 + 2?', solution='Add.', answer='4', uuid='u', generations=['<think>\nhm\n</think>\n4', '5'],
               correctness_math_verify=[True, False], finish_reasons=['stop', 'length'], is_reasoning_complete=[True]*2,
               messages=[dict(role='user', content='2 + 2?'), dict(role='assistant', content='4')])
    write_jsonl('g.jsonl', [row])
    run = take('generations', 'g.jsonl')
    assert list(run.rollouts.outcome) == ['kept', 'truncated'] and list(run.rollouts.score) == [1., 0.]
    assert run.prompts.id[0] == 'u' and run.stats()['pass_rate']['corrected'] is None   # somebody may have chosen them
    write_jsonl('g.jsonl', [dict(row, finish_reasons=['stop'])])
    with pytest.raises(RsrError, match='line 1: finish_reasons has 1 values, and there are 2 responses'):
        take('generations', 'g.jsonl', 'x')

def test_conversations(here):
    "OpenThoughts: a system prompt beside the turns, thinking in marks of its own."
    said = '<|begin_of_thought|>\n\nhm\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n4\n\n<|end_of_solution|>'
    write_jsonl('o.jsonl', [dict(system='Think.', conversations=[{'from': 'user', 'value': '2 + 2?'},
                                                                 {'from': 'assistant', 'value': said}])])
    run = take('auto', 'o.jsonl')
    assert [m['role'] for m in json.loads(run.prompts.messages[0])] == ['system', 'user']
    assert run.stats()['replies']['inline'] == 1 and run.stats()['scores']['unscored'] == 1


# ---- a run like any other

def test_from_import_to_files(here, server):
    rows = [dict(question=f'What is {i} + 1?', answer=str(i+1), response=f'It is {i+1+k}.', score=float(k == 0),
                 model='small', finish_reason='stop') for i in range(8) for k in range(1+i % 2)]
    write_jsonl('d.jsonl', rows)
    p = rsr('import', 'jsonl', 'd.jsonl', 'work_dir=w', 'recipe=sft_dpo', 'progress=none')
    assert p.returncode == 0 and 'imported 12 rollouts (12 scored) of 8 prompts' in p.stderr, p.stderr
    assert len(read_jsonl('w/train/sft.jsonl')) == 8 and len(read_jsonl('w/train/dpo.jsonl')) == 4
    run = sample(work_dir='w', verifier=dict(type='math-rlvr'), progress=False)       # scored anew: nothing is sampled
    assert run.stats()['samples']['asked'] == 12 and set(run.rollouts.score) == {0., 1.} and not server.log
    with pytest.raises(RsrError, match='were imported.*resume.mix=true'):
        sample(work_dir='w', max_rollouts=2, base_url=server.base_url, model='m', progress=False)
    with pytest.raises(RsrError, match='imported keeps scores that came along'):
        sample(work_dir='w', verifier=dict(type='imported'), max_rollouts=2, progress=False)
    server.set(rate=0.)
    run = sample(work_dir='w', base_url=server.base_url, model='m', max_rollouts=2, step_size=1,
                 overrides=['resume.mix=true', 'budget.tokens=100000'], progress=False)
    assert server.log and run.stats()['samples']['given'] == {'kept': 12}
    assert (run.rollouts.groupby('prompt').size() <= 2).all()

def test_imported_tokens_cost_nothing(here, server):
    write_jsonl('d.jsonl', sums(('4', 0.), completion_tokens=10**6, model='m'))
    take('jsonl', 'd.jsonl')
    run = sample(work_dir='w', base_url=server.base_url, model='m', max_rollouts=2, step_size=1,
                 verifier=dict(type='math-rlvr'), progress=False,
                 overrides=['resume.mix=true', 'budget.tokens=5000', 'sampler.price={prompt: 1, completion: 1}'])
    assert run.stop_reason is None and run.stats()['cost'] < .01

def test_stack_keeps_imported_scores(here):
    write_jsonl('d.jsonl', sums(('It is 9.', 1.), ('It is 4.', None), ('It is 5.', None)))
    take('jsonl', 'd.jsonl')
    stack = [dict(type='imported'), dict(type='math-rlvr', when='unscored')]
    run = sample(work_dir='w', verifier=dict(stages=stack), progress=False)
    assert list(run.rollouts.score) == [1., 1., 0.]

def test_second_file_joins(here):
    write_jsonl('a.jsonl', sums(('4', 1.), model='small'))
    write_jsonl('b.jsonl', sums(('5', 0.), model='large')+sums(('6', 1.), q='3 + 3?'))
    take('jsonl', 'a.jsonl')
    run = take('jsonl', 'b.jsonl')
    assert list(run.prompts.rollouts) == [2, 1] and list(run.rollouts.model) == ['small', 'large', 'imported']
    before = Path('w/run.db').stat().st_size, len(run.rollouts)
    with pytest.raises(RsrError, match='b.jsonl was imported already'):
        take('jsonl', 'b.jsonl')
    write_jsonl('b.jsonl', sums(('7', 0.)))
    with pytest.raises(RsrError, match='b.jsonl has changed since it was imported'):
        take('jsonl', 'b.jsonl')
    write_jsonl('c.jsonl', sums(('8', 3.5)))
    with pytest.raises(RsrError, match=r'lie outside \[0, 1\]'):
        take('jsonl', 'c.jsonl')
    assert before == (Path('w/run.db').stat().st_size, len(load_run('w').rollouts))

def test_raw_scores(here):
    write_jsonl('a.jsonl', [r for i in range(5) for r in sums(('4', 2.5+i), ('5', -1.), q=f'{i} + 2?')])
    run = take('jsonl', 'a.jsonl')
    assert run.stats()['thresholds']['sft']['pass_threshold']['given'] == 'quantile 0.8 of the run'
    assert read_jsonl('w/train/sft.jsonl')


# ---- wrong files

@pytest.mark.parametrize('rows, match', [
    ('{"prompt": "2?", "response": "2"}\n{"prompt": "3?", "respon', r'line 2: broken JSON.*the file was cut off'),
    ('{"prompt": "2?", "response": "2", "score": "good"}\n', r"line 1: score is 'good', not a number"),
    ('{"prompt": "2?", "response": null, "output": 3}\n', 'line 1: the response has no text'),
    ('{"prompt": "2?", "other": "2"}\n', 'line 1: no response: no column response'),
    ('[1, 2]\n', 'line 1: the row is list, not an object'),
    ('{"id": 1, "prompt": "2?", "response": "2"}\n{"id": 1, "prompt": "3?", "response": "2"}\n',
     "line 2: the id '1' is already used"),
    ('{"question": "2?", "answer": "2", "response": "2"}\n{"question": "2?", "answer": "3", "response": "2"}\n',
     "line 2: the reference answer is '3', and '2' for the same prompt in bad.jsonl, line 1"),
    ('', 'the files hold no response')])
def test_wrong_rows(here, rows, match):
    good = ''.join(json.dumps(r)+'\n' for r in sums(('4', 1.)))
    Path('bad.jsonl').write_text(rows)
    with pytest.raises(RsrError, match=match):
        take('jsonl', 'bad.jsonl', 'new')
    assert not Path('new').exists()
    Path('good.jsonl').write_text(good)
    take('jsonl', 'good.jsonl')
    with pytest.raises(RsrError, match=match):
        take('jsonl', 'bad.jsonl')
    assert len(load_run('w').rollouts) == 1 and len(load_run('w').prompts) == 1

def test_a_killed_import_leaves_nothing_or_a_run(here, monkeypatch):
    "What is written is one transaction, recipe included: `rsr run` completes a run whose files were not written yet."
    import rsr.exchange.imports as imports
    write_jsonl('a.jsonl', sums(('4', 1.)))
    def killed(*args, **kw):
        raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(imports, 'save_recipe', killed)
        take('jsonl', 'a.jsonl')
    assert not Path('w').exists()
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(imports, 'execute', killed)
        take('jsonl', 'a.jsonl')
    assert list(sample(work_dir='w', progress=False).rollouts.score) == [1.] and read_jsonl('w/train/sft.jsonl')

def test_bad_rows_can_be_skipped(here, capsys):
    Path('a.jsonl').write_text(json.dumps(sums(('4', 1.))[0])+'\n{"torn')
    assert len(take('jsonl', 'a.jsonl', on_bad_row='skip').rollouts) == 1
    assert '1 bad row skipped' in capsys.readouterr().err

def test_wrong_format_and_options(here):
    write_jsonl('a.jsonl', sums(('4', 1.)))
    for args, match in ((('verifers', 'a.jsonl'), "Did you mean 'verifiers'"), (('nemo-gym', FILES/'vf_traces'),
                        'no file of nemo-gym in this folder'), (('jsonl', 'gone.jsonl'), 'no file gone.jsonl'),
                        (('lm-eval', FILES/'gym_rollouts.jsonl'), 'It looks like nemo-gym'),
                        (('jsonl', 'a.jsonl', 'w', dict(respons='x')), "Did you mean 'response'"),
                        (('jsonl', 'a.jsonl', 'w', dict(response='respons')), "Did you mean 'response'"),
                        (('jsonl', ['a.jsonl', './a.jsonl']), 'named twice')):
        options = args[3] if len(args) > 3 else {}
        with pytest.raises(RsrError, match=match):
            take(*args[:3], **options)
    assert not Path('w').exists()
    Path('torn.eval').write_bytes((FILES/'sums.eval').read_bytes()[:9000])
    with pytest.raises(RsrError, match='torn.eval is no log of inspect_ai, or it was cut off'):
        take('inspect', 'torn.eval')

def test_a_run_of_rsr_is_not_added_to(here):
    write_jsonl('a.jsonl', sums(('4', 1.)))
    sample([dict(id='q', messages=[dict(role='user', content='2?')], metadata=dict(answer='2'), had=['2'])],
           work_dir='w', max_rollouts=0, data=dict(responses='had'), verifier=dict(type='exact'), progress=False)
    with pytest.raises(RsrError, match='holds a run that rsr sampled'):
        take('jsonl', 'a.jsonl')
    assert len(load_run('w').rollouts) == 1

def test_detection():
    for name, path in dict(verifiers='vf_traces/traces.jsonl', inspect='sums.eval').items():
        assert detect(FILES/path).name == name
    assert detect(FILES/'vf_results'/'results.jsonl').name == 'verifiers'
    assert detect(FILES/'gym_rollouts.jsonl').name == 'nemo-gym'

def test_hostile_text_and_images(here):
    dot = ('data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ'
           'RU5ErkJggg==')
    row = dict(messages=[dict(role='user', content=[dict(type='text', text='What?'),
                                                    dict(type='image_url', image_url=dict(url=dot))])],
               response='\x1b[2J<script>alert(1)</script>\x00', model='\x1b]0;x\x07', score=1)
    write_jsonl('a.jsonl', [row])
    p = rsr('import', 'jsonl', 'a.jsonl', 'work_dir=w', 'score=score\x1b[2J', 'progress=none')
    assert p.returncode == 2 and '\x1b' not in p.stderr+p.stdout
    with pytest.raises(RsrError, match='llamafactory has no form for images'):
        take('jsonl', 'a.jsonl', 'w')
    assert not Path('w').exists()
    run = take('jsonl', 'a.jsonl', overrides=['formatter.target=trl'])
    assert len(run.rollouts) == 1 and '\x1b' not in repr(run) and '"image' in Path('w/train/sft.jsonl').read_text()

def test_format_of_ones_own(here):
    @importer('mine', 'ours', fits=lambda row: 'ask' in row)
    def mine(row, grade='grade'):
        return dict(prompt=row['ask'], responses=[dict(text=row['reply'], score=row[grade])])
    try:
        write_jsonl('a.jsonl', [dict(ask='2?', reply='2', grade=1), dict(ask='3?', reply='3')])
        with pytest.raises(RsrError, match="line 2: it cannot be read: KeyError: 'grade'"):
            take('mine', 'a.jsonl')
        assert list(take('mine', 'a.jsonl', on_bad_row='skip').rollouts.score) == [1.]
    finally:
        del IMPORTERS['mine']

def test_cli(here):
    write_jsonl('a.jsonl', sums(('It is 4.', None)))
    p = rsr('import')
    assert p.returncode == 2 and 'inspect_ai: .eval and .json logs' in p.stderr
    p = rsr('import', 'jsonl', 'a.jsonl', 'work_dir=w', 'json=true', 'progress=none')
    data = json.loads(p.stdout)
    assert p.returncode == data['exit_code'] == 0 and data['stats']['samples']['given'] == {'kept': 1}
    assert 'no score came along. To score the rollouts: rsr run work_dir=w verifier.type=…' in p.stderr
