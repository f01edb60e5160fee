"Nothing the model gave is dropped, nothing the prompt brought is ignored: from the input row to file and check."
import base64
import json
import sqlite3
from pathlib import Path

import pytest
from conftest import read_jsonl, rsr, write_jsonl

from rsr import load_run, sample

DOT = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ'
                       'RU5ErkJggg==')
WEATHER = dict(type='function', function=dict(
    name='weather', description='The weather in a city',
    parameters=dict(type='object', properties=dict(city=dict(type='string')), required=['city'])))
RIGHT = '''
def right(response, metadata, tool_calls=None):
    calls = [c["function"]["arguments"] for c in tool_calls or ()]
    return float("right" in response or any("Rome" in c for c in calls))
'''

def call(city, id='c1'):
    return dict(id=id, type='function', function=dict(name='weather', arguments=json.dumps(dict(city=city))))

def user(text):
    return dict(role='user', content=text)

HISTORY = [user('And in Rome?'), dict(role='assistant', content=None, tool_calls=[call('Rome')]),
           dict(role='tool', content='{"sky": "clear"}', tool_call_id='c1')]
PICTURE = [dict(role='user', content=[dict(type='text', text='What is it?'),
                                      dict(type='image_url', image_url=dict(url='dot.png'))])]

def answer(good, **more):
    return dict(content='It is right.' if good else 'It is wrong.', **more)

# name: (messages, what else the row has, (k-th sample is good) -> message of the reply)
SHAPES = {
    'plain': ([user('Q')], {}, answer),
    'system': ([dict(role='system', content='Be brief.'), user('Q')], {}, answer),
    'turns': ([user('Q'), dict(role='assistant', content='A'), user('Q2')], {}, answer),
    'inline': ([user('Q')], {}, lambda good: dict(content='<think>\nhm\n</think>\n\n'+answer(good)['content'])),
    'split': ([user('Q')], {}, lambda good: answer(good, reasoning_content='hm')),
    'call': ([user('Q')], dict(tools=[WEATHER]), lambda good: dict(
        content=None, tool_calls=[call('Rome' if good else 'Oslo', id='x')], finish_reason='tool_calls')),
    'results': (HISTORY, dict(tools=[WEATHER]), answer),
    'image': (PICTURE, {}, answer)}

@pytest.fixture
def go(here, server):
    "Run a recipe on three prompts of a shape: of the samples of a prompt, every second one is good."
    (here/'v.py').write_text(RIGHT)
    (here/'dot.png').write_bytes(DOT)
    def _(shape, recipe='sft', work_dir='w', **kw):
        messages, more, reply = SHAPES[shape]
        count = {}
        def served(body):
            text = json.dumps(body['messages'])
            count[text] = count.get(text, 0)+1
            return reply(count[text]%2==0)
        server.set(reply=served)
        first, *rest = messages if messages[0]['role']!='system' else messages[1:]
        rows = []
        for i in range(3):
            content = first['content']
            content = f'{content} {i}' if isinstance(content, str) else [dict(type='text', text=f'no. {i}'), *content]
            turns = [*messages[:len(messages)-len(rest)-1], {**first, 'content':content}, *rest]
            rows.append(dict(id=f'q{i}', messages=turns, metadata=dict(answer='A'), **more))
        write_jsonl('in.jsonl', rows)
        return sample('in.jsonl', recipe, verifier='v.py:right', base_url=server.base_url, model='m',
                      work_dir=work_dir, progress=False, **kw)
    return _

@pytest.mark.parametrize('shape', SHAPES)
def test_what_was_sent_and_what_is_in_the_ledger(go, server, shape):
    run = go(shape)
    messages, more, reply = SHAPES[shape]
    sent = server.log[0]['body'] if 'body' in server.log[0] else json.loads(server.log[0]['raw'])
    assert [m['role'] for m in sent['messages']]==[m['role'] for m in messages]
    assert sent.get('tools')==more.get('tools')
    if shape=='image':
        assert sent['messages'][0]['content'][-1]['image_url']['url'].startswith('data:image/png;base64,')
    r = run.rollouts.iloc[0]
    said = reply(False)
    assert r.outcome=='kept' and (r.text or None)==said['content'], r
    assert (r.get('reasoning') or '')==said.get('reasoning_content', '')
    if shape=='call':
        assert 'Oslo' in json.dumps(r.tool_calls)

@pytest.mark.parametrize('recipe', ['sft', 'dpo', 'multi_sft', 'kto'])
@pytest.mark.parametrize('shape', SHAPES)
def test_the_check_finds_nothing_dropped(go, shape, recipe):
    more = {} if recipe!='kto' else {'formatter.target':'llamafactory', 'formatter.style':'messages'}
    run = go(shape, recipe, **more)
    name, = run.stats()['rows']
    assert run.stats()['rows'][name]['rows']>=3, run.stats()['rows']
    p = rsr('check', 'w', 'json=true')
    assert p.returncode in (0, 1), p.stdout+p.stderr
    items = {item['key']:item for item in json.loads(p.stdout)['items']}
    assert items['dropped']['verdict']=='pass', items['dropped']

def test_thinking_that_was_split_off_is_written_and_missed_if_it_is_gone(go):
    run = go('split')
    first = read_jsonl('w/train/sft.jsonl')[0]
    assert first['messages'][-1]['content']=='<think>\nhm\n</think>\n\nIt is right.'
    run.format('sft', thinking='reasoning_content')
    assert read_jsonl('w/train/sft.jsonl')[0]['messages'][-1]['reasoning_content']=='hm'
    run.format('sft', thinking='strip')
    assert read_jsonl('w/train/sft.jsonl')[0]['messages'][-1]==dict(role='assistant', content='It is right.')
    run.format('sft', thinking='keep')
    path = Path('w/train/sft.jsonl')
    path.write_text(path.read_text().replace('<think>\\nhm\\n</think>\\n\\n', ''))
    p = rsr('check', 'w', 'json=true')
    items = {item['key']:item for item in json.loads(p.stdout)['items']}
    assert p.returncode==1 and items['dropped']['verdict']=='fail' and '3' in json.dumps(items['dropped'])

def test_a_run_of_an_earlier_version_is_read_and_written_whole(go):
    go('split')
    db = sqlite3.connect('w/run.db')
    db.executescript('DROP INDEX rollouts_of_batch; DROP TABLE batches; ALTER TABLE rollouts DROP COLUMN batch; '
                     'ALTER TABLE calls DROP COLUMN batch; ALTER TABLE rollouts DROP COLUMN more; '
                     'PRAGMA user_version=2')
    db.commit()
    db.close()
    run = load_run('w')
    assert set(run.rollouts.reasoning)=={'hm'}
    assert rsr('stats', 'w').returncode==0
    assert rsr('format', 'w', 'formatter.target=trl').returncode==0
    assert read_jsonl('w/train/sft.jsonl')[0]['completion'][0]['content'].startswith('<think>\nhm\n</think>')

def test_a_model_that_only_thinks_or_writes_calls_as_text_is_said(here, server):
    (here/'v.py').write_text(RIGHT)
    server.set(reply=lambda body: '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>')
    write_jsonl('in.jsonl', [dict(id='q', messages=[user('Q')], tools=[WEATHER], metadata=dict(answer='A'))])
    p = rsr('run', 'sft', 'in.jsonl', 'verifier=v.py:right', f'sampler.base_url={server.base_url}', 'sampler.model=m',
            'work_dir=w')
    assert p.returncode==4 and 'tool-call-parser' in p.stderr, p.stderr
    assert len(server.log)<=16

@pytest.mark.parametrize('tools', [
    [dict(name='now', parameters=dict(type='object', properties={}))],
    [WEATHER, dict(name='zip', parameters=dict(type='object', properties=dict(place=dict(type='string'))))]])
def test_verl_refuses_tools_that_parquet_changes_before_the_first_request(here, server, tools):
    write_jsonl('in.jsonl', [dict(id='q', messages=[user('Q')], metadata=dict(answer='A'), tools=tools)])
    args = ['run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'sampler.model=m',
            'work_dir=w']
    p = rsr(*args, 'formatter.target=verl')
    assert p.returncode==2 and 'Parquet changes' in p.stderr and 'target: ' in p.stderr, p.stderr
    assert not server.log
