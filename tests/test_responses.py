"Responses that the input brings along: scored, counted, formatted, topped up by sampling, and never bought."
import json

import pytest
from conftest import read_jsonl, rsr, write_jsonl

from rsr import load_run, sample
from rsr.data.types import RsrError

RIGHT, WRONG = r'It is \boxed{A}.', r'It is \boxed{B}.'

def dump(*generations):
    return [dict(id=f'q{i}', messages=[dict(role='user', content=f'prompt {i}')], metadata=dict(answer='A'),
                 generations=g) for i, g in enumerate(generations)]

def go(server, rows, *options, d='w', recipe='dpo'):
    write_jsonl('in.jsonl', rows)
    return rsr('run', recipe, 'data.input_path=in.jsonl', 'data.responses=generations',
               f'sampler.base_url={server.base_url}', 'sampler.model=m', f'work_dir={d}', *options)

def bought(server):
    return sum(len(e['body'].get('messages', ())) and (e['body'].get('n') or 1) for e in server.log)

def test_what_is_there_is_not_bought(here, server):
    p = go(server, dump([RIGHT, WRONG], [RIGHT, RIGHT, WRONG], [WRONG, RIGHT]))
    assert p.returncode==0 and not server.log, p.stderr
    s = load_run('w').stats()
    assert s['prompts']['by_stop_reason']=={'satisfied':3}
    assert s['samples']['given']==dict(kept=7) and s['samples']['asked']==7
    assert s['tokens']==dict(prompt=0, completion=0, judge=0)
    assert s['rows']['dpo.jsonl']['rows']==3 and s['pass_rate']['corrected'] is None
    assert all('generations' not in r for r in read_jsonl('w/train/dpo.jsonl'))
    assert '7 of them came with the input' in p.stdout

def test_what_is_missing_is_sampled(here, server):
    server.set(rate=1.)
    p = go(server, dump([WRONG], [RIGHT, WRONG], None), 'sampling.step_size=1', 'sampling.max_rollouts=4')
    s = load_run('w').stats()
    assert p.returncode==0 and s['samples']['given']==dict(kept=3), p.stderr
    assert s['prompts']['by_stop_reason']=={'satisfied':2, 'max_rollouts':1}, p.stderr
    of = load_run('w').rollouts.groupby('prompt').size()
    assert (of['q0'], of['q1'], of['q2'])==(2, 2, 4) and s['samples']['asked']==8
    assert s['tokens']['completion']>0 and sorted(load_run('w').rollouts.query('prompt=="q0"').idx)==[0, 1]

def test_no_model_at_all(here):
    write_jsonl('in.jsonl', dump([RIGHT], [WRONG], []))
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', 'data.responses=generations', 'sampling.max_rollouts=0',
            'sampler.base_url=http://127.0.0.1:9/v1', 'sampler.model=none', 'work_dir=w')
    assert p.returncode==0, p.stderr
    assert load_run('w').stats()['prompts']['by_stop_reason']=={'satisfied':1, 'max_rollouts':2}
    assert len(read_jsonl('w/train/sft.jsonl'))==1

def test_given_once(here, server):
    rows = dump([RIGHT, RIGHT, WRONG], [dict(text='It is', finish_reason='length'),
                                        dict(role='assistant', content=RIGHT, finish_reason='stop')])
    for _ in range(3):
        assert go(server, rows, recipe='sft').returncode==0
    assert not server.log and load_run('w').stats()['samples']['by_outcome']==dict(kept=4, truncated=1)
    rows[0]['generations'].append('and another')
    assert go(server, rows, recipe='sft').returncode==0 and load_run('w').stats()['samples']['asked']==6
    assert go(server, rows, 'sampler.temperature=0.3', recipe='sft').returncode==0   # they have no sampler to differ

def test_truncated_ones_are_asked_again(here, server):
    server.set(rate=1.)
    assert go(server, dump([dict(text='It is', finish_reason='length')]), recipe='sft').returncode==0
    s = load_run('w').stats()
    assert s['samples']['by_outcome']['truncated']==1 and s['samples']['by_outcome']['kept']>=1
    assert s['prompts']['satisfied']==1

@pytest.mark.parametrize('options, message', [
    (['data.responses=generation'], "no column 'generation'. Did you mean 'generations'?"),
    (['pairs.strategy=temperature'], 'belong to neither side of temperature')])
def test_what_cannot_be_used_is_refused(here, server, options, message):
    p = go(server, dump([RIGHT]), *options)
    assert p.returncode==2 and message in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert not server.log and not (here/'w').exists(), p.stderr

@pytest.mark.parametrize('bad, message', [
    ([4], 'response 1 is int'), ([RIGHT, dict(answer='A')], 'response 2 has no text'),
    ([dict(content='', tool_calls=[1])], 'names no function')])
def test_bad_responses_name_their_row(here, server, bad, message):
    p = go(server, dump([RIGHT], bad))
    assert p.returncode==2 and message in p.stderr and 'line 2' in p.stderr and "'q1'" in p.stderr, p.stderr
    assert not (here/'w').exists(), p.stderr
    p = go(server, dump([RIGHT, WRONG], bad), 'data.on_bad_row=skip')
    assert p.returncode==0 and load_run('w').stats()['prompts']['total']==1

def test_objects_as_apis_and_parquet_give_them(here, server):
    import pyarrow as pa
    import pyarrow.parquet as pq
    rows = dump([dict(message=dict(role='assistant', content=RIGHT), finish_reason='stop'),
                 dict(message=dict(role='assistant', content=None), finish_reason='content_filter')],
                dict(choices=[dict(index=0, message=dict(content=RIGHT), finish_reason='stop')]))
    assert go(server, rows, recipe='sft').returncode==0 and not server.log
    s = load_run('w').stats()['samples']
    assert s['by_outcome']==dict(kept=2, filtered=1) and not s['errors']
    rows = dump([dict(text=RIGHT)], [dict(content=RIGHT)], [dict(content=None), None])
    pq.write_table(pa.Table.from_pylist(rows), 'in.parquet')   # all keys in every row
    args = ['data.input_path=in.parquet', 'data.responses=generations', 'sampling.max_rollouts=0',
            f'sampler.base_url={server.base_url}', 'work_dir=w2']
    p = rsr('run', 'sft', *args)
    assert p.returncode==2 and 'response 1 has no text' in p.stderr
    p = rsr('run', 'sft', *args, 'data.on_bad_row=skip')
    assert p.returncode==0 and load_run('w2').stats()['samples']['by_outcome']==dict(kept=2), p.stderr

def test_what_came_is_not_what_was_cut_here(here, server):
    p = go(server, dump(*[[dict(text='It', finish_reason='length'), RIGHT]]*5), recipe='sft')
    assert p.returncode==0 and 'sampler.max_tokens' not in p.stdout

def test_a_bad_row_is_not_hidden_by_its_column(here, server):
    rows = dump([RIGHT])
    rows[0]['id'] = 1.5
    p = go(server, rows)
    assert p.returncode==2 and 'id is float' in p.stderr and 'no column' not in p.stderr

@pytest.mark.parametrize('column', ['id', 'messages', 'metadata'])
def test_own_keys_are_no_column(here, server, column):
    p = go(server, dump([RIGHT]), f'data.responses={column}')
    assert p.returncode==2 and "rsr's own" in p.stderr and not (here/'w').exists()

def test_two_rows_of_one_id_do_not_mix(here, server):
    rows = dump([RIGHT, WRONG], [RIGHT])
    rows[1]['id'] = 'q0'
    p = go(server, rows, 'data.on_bad_row=skip')
    assert p.returncode==0 and load_run('w').stats()['samples']['given']==dict(kept=2)

def test_in_a_notebook(here, server):
    opts = dict(base_url=server.base_url, model='m', progress=False)
    run = sample(dump([RIGHT, WRONG]), 'dpo', data=dict(responses='generations'), work_dir='w', **opts)
    assert not server.log and run.rollouts.score.tolist()==[1., 0.]
    with pytest.raises(RsrError, match='no column'):
        sample(dump([RIGHT]), 'dpo', data=dict(responses='g'), work_dir='w2', **opts)
    assert json.loads((here/'w'/'summary'/'stats.json').read_text())['samples']['given']==dict(kept=2)

@pytest.mark.parametrize('given', ['[]', '0', 'false', '{"a":null}', '[1]'])
def test_arguments_that_are_no_object_stay_what_they_are(given):
    from rsr.sampling.replies import parse_reply
    call = dict(id='1', type='function', function=dict(name='f', arguments=json.loads(given)))
    r, = parse_reply(dict(choices=[dict(message=dict(content=None, tool_calls=[call]), finish_reason='tool_calls')]))
    assert r.outcome=='kept' and r.tool_calls[0]['function']['arguments']==given
