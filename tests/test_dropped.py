"The item 'nothing dropped': every kind of loss is found in every method, and an intact file passes."
import json
import re
import shlex
from base64 import b64decode

import pytest
from conftest import read_jsonl, write_jsonl

from rsr.cli.entry import main
from rsr.data.store import Store
from rsr.data.types import Prompt, Rollout, Score
from rsr.explore.score_index import read_scores, read_texts
from rsr.formatters.writer import make_formatters
from rsr.quality.check_items import ITEMS, CheckContext
from rsr.quality.checklist import checklist
from rsr.quality.dropped import KINDS, compare_files, dropped_finding, read_ledger, row_facts
from rsr.quality.hygiene import read_files
from rsr.run.execution import build, close_run
from rsr.run.files import write_formats
from rsr.run.recipe import load_recipe
from rsr.run.results import Run
from rsr.run.saved_recipe import save_recipe

PNG = b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')
TOOL = dict(type='function', function=dict(name='look', description='Look it up.', parameters=dict(
    type='object', properties=dict(word=dict(type='string'), deep=dict(type='object', properties={})))))

def call(id_='call_0', **arguments):
    return dict(id=id_, type='function', function=dict(name='look', arguments=json.dumps(arguments)))

def user(text):
    return dict(role='user', content=text)

def prompts(n, image):
    "Prompts of four kinds: plain with a system turn, with tools, with calls and results, with an image."
    for i in range(n):
        ask = user(f'Question {i}: A, B, C or D?')
        history = [ask, dict(role='assistant', content=None, reasoning_content='look twice',
                             tool_calls=[call('a', word='x'), call('b', word='y')]),
                   dict(role='tool', content='{"found": 1}', tool_call_id='a'),
                   dict(role='tool', content='none', tool_call_id='b')]
        picture = [dict(role='user', content=[dict(type='text', text=f'Picture {i}?'),
                                              dict(type='image_url', image_url=dict(url=str(image)))])]
        messages = [[dict(role='system', content='Be brief.'), ask], [ask], history, picture][i%4]
        yield Prompt(f'q{i}', messages, dict(answer='A'), tools=[TOOL] if i%4 in (1, 2) else None)

def rollout(i, j, key):
    "A response: thinking split off or in the text, a call instead of a text every second time where there are tools."
    passes, thought = j%2==0, f'let me think: {i}, {j}'
    r = Rollout(f'It is {"A" if passes else "B"}, {j}.', thought, outcome='kept', key=key, finish_reason='stop')
    if i%4==1 and passes:
        r = Rollout('', thought, outcome='kept', key=key, tool_calls=[call('c', word=f'w{j}', deep={})])
    elif j%4>1:
        r = Rollout(f'<think>\n{thought}\n</think>\n\n{r.text}', outcome='kept', key=key)
    return r, float(passes)

def telling(path, recipe='sft', n=24, options=(), images=True):
    "A run whose ledger has everything that can be dropped."
    path.parent.mkdir(exist_ok=True, parents=True)
    image = path.parent/'dot.png'
    image.write_bytes(PNG)
    d, st = load_recipe(recipe, [f'work_dir={path}', *options]), Store(path)
    st.add_prompts((f'row {i}', p) for i, p in enumerate(prompts(n, image)) if images or i%4!=3)
    smp, ver = st.config_key('sampler', dict(model='m')), st.config_key('verifier', build(d)['verifier'].config)
    st.put('verifier', ver)
    for q, *_ in list(st.walk()):
        for j, key in enumerate(st.ask(q.key, range(4), 1, smp, 64, True)):
            r, score = rollout(int(q.id[1:]), j, key)
            st.answer(r)
            st.add_score(key, ver, Score(score))
        st.stop(q.key, 'satisfied')
    st.commit()
    save_recipe(st, d)
    st.close()
    return Run(path)

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return telling(tmp_path_factory.mktemp('telling')/'run')

@pytest.fixture(scope='module')
def ledger(run):
    st = Store(run.path, write=False)
    yield read_ledger(st, run.recipe)
    st.close()

def written(run, method, target, **options):
    "Write the file of a formatter; return its path and a function that compares it with the ledger."
    configs = [dict(type=method, target=target, **options)]
    st, formatters = Store(run.path), make_formatters(configs)
    try:
        write_formats(st, {**run.recipe, 'formatter':configs}, formatters)
    finally:
        st.close()
    def compare():
        with_store = Store(run.path, write=False)
        try:
            return compare_files(run.path, with_store, run.recipe, read_files(run.path, formatters))
        finally:
            with_store.close()
    return run.path/'train'/formatters[0].file, compare

METHODS = 'sft', 'dpo', 'multi_sft', 'kto'
INTACT = [(m, t) for t in ('llamafactory', 'trl', 'swift') for m in METHODS]+[('sft', 'axolotl'), ('grpo', 'swift'),
                                                                            ('sft', 'verl')]

@pytest.mark.parametrize('thinking', ['keep', 'inline', 'reasoning_content', 'harmony'])
@pytest.mark.parametrize('method, target', INTACT)
def test_an_intact_file_passes(run, method, target, thinking):
    if (method, target)==('sft', 'verl'):
        pytest.importorskip('pyarrow')
        run = telling(run.path.parent/f'verl-{thinking}'/'run', n=25)
        st, tool = Store(run.path), json.loads(json.dumps(TOOL))   # verl takes tools that are the same in all rows
        del tool['function']['parameters']['properties']['deep']   # and Parquet no empty objects
        st.begin().execute("UPDATE prompts SET row=json_set(row,'$.tools',json(?))", (json.dumps([tool]),))
        st.commit()
        st.close()
    _, compare = written(run, method, target, thinking=thinking)
    losses, = compare()
    assert not +losses.lost and losses.answers>=18 and not losses.unknown, (losses.lost, losses.unknown)
    assert all(losses.had[kind] for kind in KINDS), losses.had
    found = dropped_finding([losses])
    assert found['verdict']=='pass' and 'with thinking' in found['detail'] and 'with images' in found['detail']

@pytest.mark.parametrize('method', ['sft', 'dpo'])
def test_an_intact_file_of_openai_passes(tmp_path, method):
    _, compare = written(telling(tmp_path/'run', images=False), method, 'openai')
    losses, = compare()
    assert not +losses.lost and losses.answers>=18 and not losses.unknown
    assert all(losses.had[kind] for kind in KINDS if kind!='images')

def test_stripped_thinking_is_a_wish(run):
    for method in METHODS:
        _, compare = written(run, method, 'trl', thinking='strip')
        found = dropped_finding(compare())
        assert found['verdict']=='pass' and re.search(r'thinking was stripped from \d+, as', found['detail']), found


# ---- each kind of loss

def everywhere(value, change):
    "Apply a change to each dict of a row, the inner ones first."
    if isinstance(value, list):
        return [everywhere(v, change) for v in value]
    if isinstance(value, dict):
        return change({k:everywhere(v, change) for k, v in value.items()})
    return re.sub(r'<think>.*?</think>\s*', '', value, flags=re.S) if change is no_thinking and isinstance(
        value, str) else value

def no_thinking(d):
    return {k:v for k, v in d.items() if k!='reasoning_content'}
def no_tools(d):
    return {k:v for k, v in d.items() if k!='tools'}
def no_calls(d):
    d = {k:v for k, v in d.items() if k!='tool_calls'}
    thinking = re.match('<think>.*?</think>|', d.get('value') or d.get('content') or '', re.S)[0] if isinstance(
        d.get('content', d.get('value')), str) else ''
    if d.get('from')=='function_call':
        return {'from':'gpt', 'value':thinking}
    return {'role':'assistant', 'content':thinking} if d.get('role') in ('function_call', 'tool_call') else d
def no_images(d):
    return {**d, 'images':[]} if 'images' in d else d
def no_first_turn(d):
    for k in 'messages', 'prompt', 'conversations':
        if isinstance(d.get(k), list) and len(d[k])>1 and (d[k][0].get('role') or d[k][0].get('from'))=='system':
            d = {**d, k:d[k][1:]}
    return d
def no_result(d):
    role = 'tool', 'observation', 'tool_response'
    for k in 'messages', 'prompt', 'conversations':
        if isinstance(d.get(k), list):
            d = {**d, k:[m for m in d[k] if m.get('role') not in role and m.get('from') not in role]}
    return d

SPOILT = [('thinking', no_thinking), ('tools', no_tools), ('calls', no_calls), ('images', no_images),
          ('turns', no_first_turn), ('turns', no_result)]

@pytest.mark.parametrize('kind, spoil', SPOILT, ids=lambda x: getattr(x, '__name__', x))
@pytest.mark.parametrize('target', ['llamafactory', 'trl', 'swift'])
@pytest.mark.parametrize('method', METHODS)
def test_a_loss_is_found_and_counted(run, method, target, kind, spoil):
    path, compare = written(run, method, target)
    before, = compare()
    write_jsonl(path, [everywhere(row, spoil) for row in read_jsonl(path)])
    losses, = compare()
    lost = set(+losses.lost)
    assert lost=={kind} or (method, target, spoil)==('dpo', 'swift', no_result) and kind in lost, losses.lost
    if spoil not in (no_first_turn, no_result):
        assert losses.lost[kind]==before.had[kind]
    found = dropped_finding([losses])
    assert found['verdict']=='fail' and found['number']==losses.lost.total()
    assert f'{losses.lost[kind]} of {losses.had[kind]} have lost {KINDS[kind]} (first: row ' in found['detail']
    assert found['command'].startswith('rsr format RUN') and ('thinking=keep' in found['command'])==('thinking' in lost)

@pytest.mark.parametrize('spoil, kind', [(no_tools, 'tools'), (no_images, 'images'), (no_first_turn, 'turns')])
def test_prompts_of_grpo_are_compared_too(run, spoil, kind):
    path, compare = written(run, 'grpo', 'swift')
    write_jsonl(path, [everywhere(row, spoil) for row in read_jsonl(path)])
    losses, = compare()
    assert set(+losses.lost)=={kind}

def test_a_single_call_of_two_is_missed(run):
    path, compare = written(run, 'sft', 'trl')
    rows = read_jsonl(path)
    n = next(i for i, r in enumerate(rows) if any(len(m.get('tool_calls') or ())==2 for m in r['prompt']))
    for m in rows[n]['prompt']:
        m.update({'tool_calls':m['tool_calls'][:1]} if m.get('tool_calls') else {})
    write_jsonl(path, rows)
    losses, = compare()
    assert +losses.lost=={'calls':1} and losses.first=={'calls':n+1}

def test_rows_changed_by_hand_are_counted_apart(run):
    path, compare = written(run, 'sft', 'trl')
    rows = read_jsonl(path)
    for r in rows[:5]:
        r['completion'][0]['content'] = 'Something else.'
    write_jsonl(path, rows)
    losses, = compare()
    assert losses.unknown==5 and not +losses.lost
    found = dropped_finding([losses])
    assert found['verdict']=='pass' and '5 match no rollout' in found['detail']
    write_jsonl(path, rows[:5])
    assert dropped_finding(compare())['verdict']=='n/a'

def test_rows_of_any_shape_are_read():
    odd = [{}, {'messages':None}, {'messages':'text'}, {'messages':[1, None, 'x', {}, {'role':3, 'content':{'a':1}}]},
           {'messages':[{'role':'function_call', 'content':'[1, {"name": 2}]'}, {'from':'gpt', 'value':None}]},
           {'prompt':[], 'completion':None}, {'input':{'messages':[]}, 'preferred_output':{}}, {'responses':[None, 3]},
           {'messages':[{'role':'user', 'content':[{'type':'text'}, 5, {'type':'image'}]}], 'images':'x', 'tools':'{'},
           {'chosen':'x', 'rejected':[]}, {'tools':[{'function':{}}], 'messages':[{'tool_calls':'no'}]}]
    for row in odd:
        for method in (*METHODS, 'grpo'):
            assert all(len(found)==len(KINDS)+1 for found in row_facts(row, method))


# ---- as a command

def closed(run):
    "Write a run's files and statistics, as at its end."
    st = Store(run.path)
    close_run(st, run.recipe, make_formatters(run.recipe['formatter']))
    st.close()

def item(run, **options):
    return next(i for i in checklist(run.path, **options)['items'] if i['key']=='dropped')

def test_files_of_earlier_versions_fail_with_a_remedy_that_works(tmp_path, capsys):
    "They lack the thinking that the server had split off."
    run = telling(tmp_path/'my run', 'sft', options=['split=null'])
    closed(run)
    assert item(run)['verdict']=='pass'
    path = run.path/'train'/'sft.jsonl'
    write_jsonl(path, [everywhere(row, no_thinking) for row in read_jsonl(path)])
    found = item(run)
    assert found['verdict']=='fail' and found['detail'].startswith('train/sft.jsonl: 24 of 24 have lost their thinking')
    assert main(['check', str(run.path)])==1
    out = capsys.readouterr().out
    assert 'FAIL nothing dropped' in re.sub(r'\s+', ' ', out) and found['command'] in out
    assert main(['check', str(run.path), 'json=true'])==1
    d = json.loads(capsys.readouterr().out)
    assert next(i for i in d['items'] if i['key']=='dropped')['number']==24
    assert item(run, waive='dropped')['waived']
    assert main(['report', str(run.path)])==0
    assert '24 of 24 have lost their thinking' in (run.path/'summary'/'report.html').read_text()
    assert main(shlex.split(found['command'])[1:])==0
    assert ITEMS['dropped'].check(CheckContext(run))['verdict']=='pass'

def test_the_remedy_names_the_file_that_lost_its_thinking(tmp_path):
    run = telling(tmp_path/'run', 'sft_dpo', options=['split=null'])
    closed(run)
    path = run.path/'train'/'dpo.jsonl'
    write_jsonl(path, [everywhere(row, no_thinking) for row in read_jsonl(path)])
    found = item(run)
    assert 'train/dpo.jsonl' in found['detail'] and 'sft' not in found['detail']

def test_prompts_as_they_were_sent(tmp_path):
    run = telling(tmp_path/'run', options=['split=null', 'sampler.system_prompt=Think first.',
                                           'formatter.keep_system=true'])
    closed(run)
    assert read_jsonl(run.path/'train'/'sft.jsonl')[1]['messages'][0]['role']=='system'
    assert item(run)['verdict']=='pass'


# ---- statistics and tables

def test_statistics_say_what_responses_have_beside_their_answer(tmp_path):
    run = telling(tmp_path/'run', options=['split=null'])
    st = Store(run.path)
    st.begin().execute("UPDATE rollouts SET outcome='empty', text='', reasoning='', more=NULL, error=CASE "
                       "WHEN prompt<4 THEN 'only thinking' ELSE 'no text' END WHERE idx=3 AND prompt<6")
    st.begin().execute("""UPDATE rollouts SET more='{"refusal":"no"}' WHERE idx=1 AND prompt=1""")
    st.commit()
    st.close()
    closed(run)
    s, text = run.stats(), run.summary()
    assert s['samples']['empty']=={'only thinking':3, 'no text':2} and 'empty 5 (only thinking 3, no text 2)' in text
    assert s['replies']==dict(replies=91, split_off=54, inline=37, tool_calls=12, refusals=1, images=23)
    assert 'thinking in 91 of 91 (54 split off, 37 in the text), 12 with tool calls, 1 with refusals' in text
    assert s['rows']['sft.jsonl']['thinking']=='inline' and 'sft.jsonl: 24 rows (thinking: inline)' in text
    assert json.loads((run.path/'summary'/'stats.json').read_text())['replies']==s['replies']
    run.format(thinking='strip')
    assert 'thinking stripped from 24' in run.summary()
    df = run.rollouts
    assert df.tool_calls.notna().sum()==12 and df.tool_calls[4][0]['function']['name']=='look'
    assert df.refusal.dropna().tolist()==['no'] and 'logprobs' not in df and run.prompts.tools.notna().sum()==12

def test_a_run_of_texts_alone_has_no_more_columns_than_before(tmp_path):
    run = telling(tmp_path/'run', options=['split=null'])
    st = Store(run.path)
    st.begin().execute("UPDATE rollouts SET text='plain '||key, reasoning='', more=NULL")
    st.begin().execute("UPDATE prompts SET row=json_remove(row,'$.tools')")
    st.commit()
    st.close()
    assert not {'tool_calls', 'refusal', 'logprobs', 'more'} & {*run.rollouts} and 'tools' not in run.prompts

def test_a_ledger_of_before_is_read_as_it_is(tmp_path):
    "Layout 2 has no column for what is beside the text."
    run = telling(tmp_path/'run', options=['split=null'])
    closed(run)
    st = Store(run.path)
    st.db.execute('ALTER TABLE rollouts DROP COLUMN more')
    st.db.execute('PRAGMA user_version=2')
    st.close()
    assert run.stats()['replies']['tool_calls']==0 and 'tool_calls' not in run.rollouts
    st = Store(run.path, write=False)
    s = read_scores(st)
    read_texts(s, st)
    assert st.layout==2 and (s.texts['']!=0).sum()==96-12   # responses that only called have nothing left
    st.close()
    found = item(run)
    assert found['verdict']=='pass' and '24 answers' in found['detail']
