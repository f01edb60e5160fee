"What people have as input: row forms, kinds of files, several of them, and what is said of each."
import functools
import gzip
import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest
from conftest import read_jsonl, rsr, write_jsonl

from rsr import load_run, sample
from rsr.data.inputs import find_inputs
from rsr.data.readers import BadRow, RowOptions, read_prompts
from rsr.data.row_forms import FORMS, row_form
from rsr.data.types import RsrError

def U(text):
    return dict(role='user', content=text)

def A(text, **kw):
    return dict(role='assistant', content=text, **kw)

def C(name, arguments):
    return dict(id='c', type='function', function=dict(name=name, arguments=arguments))

def S(*turns):
    return [{'from':who, 'value':text} for who, text in turns]

WEATHER = dict(type='function', function=dict(name='weather', parameters=dict(type='object', required=['city'])))
CALLED = '{"name": "weather", "arguments": {"city": "Oslo"}}'
USED = [A(None, tool_calls=[{**C('weather', '{"city":"Oslo"}'), 'id':'call_0'}]),
        dict(role='tool', content='rain', tool_call_id='call_0')]

# name: (row, messages, reference answer, tools)
FORMED = {
    'own':(dict(id='q', messages=[U('q')], metadata=dict(answer='a')), [U('q')], 'a', None),
    'gsm8k':(dict(question='q', answer='2+2 = <<2+2=4>>4\n#### 4'), [U('q')], '2+2 = <<2+2=4>>4\n#### 4', None),
    'problem':(dict(problem='q', solution='a', level=3), [U('q')], 'a', None),
    'both':(dict(problem='q', solution='long', answer='a'), [U('q')], 'a', None),
    'query':(dict(query='q', response='a'), [U('q')], 'a', None),
    'prompt':(dict(prompt='q'), [U('q')], None, None),
    'completion':(dict(prompt='q', completion='a', system='s'), [dict(role='system', content='s'), U('q')], 'a', None),
    'messages as prompt':(dict(prompt=[U('q')], completion=[A('a')]), [U('q')], 'a', None),
    'alpaca':(dict(instruction='do', input='x', output='a'), [U('do\n\nx')], 'a', None),
    'alpaca alone':(dict(instruction='do', input='', output='a', history=[['h', 'i']]), [U('h'), A('i'), U('do')], 'a',
                    None),
    'sharegpt':(dict(conversations=S(('human', 'q'), ('gpt', 'a'))), [U('q')], 'a', None),
    'sharegpt with tools':(dict(conversations=S(('human', 'q'), ('function_call', CALLED), ('observation', 'rain'),
                                                ('gpt', 'a')), tools=json.dumps([WEATHER])), [U('q'), *USED], 'a',
                           [WEATHER]),
    'other column':(dict(conversation=[U('q'), A('a')]), [U('q')], 'a', None),
    'speakers in messages':(dict(messages=S(('human', 'q'), ('gpt', 'a'))), [U('q')], 'a', None),
    'json text':(dict(messages=json.dumps([U('q')]), metadata='{"answer": "a"}'), [U('q')], 'a', None),
    'ultrachat':(dict(prompt='q', prompt_id='p', messages=[U('q'), A('x'), U('r'), A('a')]), [U('q'), A('x'), U('r')],
                 'a', None),
    'batch':(dict(custom_id='r', method='POST', url='/v1', body=dict(model='m', messages=[U('q')], tools=[WEATHER])),
             [U('q')], None, [WEATHER]),
    'result with body':(dict(custom_id='r', id='b', body=dict(messages=[U('q')]), response=dict(body=dict(choices=[]))),
                        [U('q')], None, None)}

@pytest.mark.parametrize('name', FORMED)
def test_forms(name):
    row, messages, answer, tools = FORMED[name]
    (_, p), = read_prompts([row])
    assert not isinstance(p, BadRow), p
    assert (p.messages, p.tools)==(messages, tools) and p.id
    assert p.metadata.get('answer')==answer
    (_, again), = read_prompts([row])
    assert again.id==p.id==(row.get('custom_id') or row.get('id') or p.id)

@pytest.mark.parametrize('name', FORMED)
def test_forms_in_parquet(name, tmp_path):
    "Arrow gives every object the keys of all, as nulls."
    import pyarrow as pa
    import pyarrow.parquet as pq
    row, messages, answer, tools = FORMED[name]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path/'a.parquet')
    (_, p), = read_prompts(tmp_path/'a.parquet')
    assert (p.messages, p.metadata.get('answer'), p.tools)==(messages, answer, tools), p

def test_a_form_of_ones_own():
    @row_form('lines', 'lines')
    def lines(row):
        "Read lines as the user's turn."
        text = '\n'.join(row.pop('lines'))
        return {**row, 'messages':[U(text)]}
    try:
        notes = []
        (_, p), = read_prompts([dict(lines=['a', 'b'])], note=notes.append)
        assert p.messages==[U('a\nb')] and "form 'lines' (from lines): lines as the user's turn. To" in notes[0]
    finally:
        del FORMS['lines']

def test_the_last_turn():
    row = dict(id='q', messages=[U('q'), A(None, tool_calls=[C('weather', '{}')], reasoning_content='hm')])
    def read(**options):
        (_, p), = read_prompts([row], options=RowOptions(**options))
        return p
    p = read()
    assert p.messages==[U('q')] and p.metadata['answer']=='weather({})' and p.metadata['reasoning']=='hm'
    assert p.metadata['tool_calls']==[C('weather', '{}')]
    assert isinstance(read(last_turn='refuse'), BadRow)
    row['answer'] = 'a'
    assert 'data.last_turn=response' in str(read())
    assert 'tool_calls' in str(read(last_turn='response').extra)

# ---- the run

def go(server, *args, **kw):
    return rsr('run', 'sft', *args, f'sampler.base_url={server.base_url}', 'sampler.model=m', 'sampling.max_rollouts=1',
               'progress=none', *([] if any(a.startswith('work_dir') for a in args) else ['work_dir=w']), **kw)

def test_a_guess_is_said_once(here, server):
    write_jsonl('in.jsonl', [dict(question=f'prompt {i}', answer='A') for i in range(50)])
    p = go(server, 'in.jsonl')
    assert p.returncode==0 and load_run('w').stats()['prompts']['total']==50, p.stderr
    said = p.stderr.splitlines()
    assert len(said)==2 and "form 'question' (from question, answer)" in said[0] and 'data.form=' in said[0]
    assert 'no id' in said[1] and 'data.columns.id' in said[1]
    assert not go(server, 'in.jsonl', 'data.limit=60').stderr.count('missing from the input')

def test_what_cannot_be_guessed_gets_one_message_and_a_function_that_works(here, server):
    write_jsonl('in.jsonl', [dict(frage=f'prompt {i}', loesung='A', stufe=i) for i in range(30)])
    p = go(server, 'in.jsonl')
    assert p.returncode==2 and p.stderr.count('in.jsonl, line')==1 and "'prompt 0'" in p.stderr and not server.log
    text = p.stderr.partition('data.transform=convert.py:convert:\n')[2].split('\n  Or')[0]
    Path('convert.py').write_text('\n'.join(line[4:] for line in text.splitlines()))
    assert go(server, 'in.jsonl', 'data.transform=convert.py:convert').returncode==0
    assert json.loads(load_run('w').prompts.iloc[0].metadata)==dict(answer='A')
    named = 'data.columns.prompt=frage', 'data.columns.answer=loesung'
    assert go(server, 'in.jsonl', *named, 'work_dir=v').returncode==0

def test_choices_are_not_dropped(here, server):
    write_jsonl('in.jsonl', [dict(question=f'Which {i}?', choices=['x', 'y'], answer=0) for i in range(3)])
    p = go(server, 'in.jsonl')
    assert p.returncode==2 and 'choices' in p.stderr, p.stderr
    text = p.stderr.partition('data.transform=convert.py:convert:\n')[2].split('\n  Or')[0]
    Path('convert.py').write_text('\n'.join(line[4:] for line in text.splitlines()))
    assert go(server, 'in.jsonl', 'data.transform=convert.py:convert').returncode==0
    assert server.log[0]['prompt'].endswith('\nA. x\nB. y')

def test_bad_rows_are_shown_by_kind(here, server):
    lone = [dict(id=f'c{i}', messages=[U('q'), A(None, tool_calls=[C('f', '{}')]), U('q')]) for i in range(20)]
    images = [dict(id=f'i{i}', messages=[U([dict(type='image_url', image_url=dict(url=f'{i}.png'))])])
              for i in range(20)]
    write_jsonl('in.jsonl', [*lone, *images, dict(id='ok', messages=[U('prompt 1')], answer='A')])
    p = go(server, 'in.jsonl')
    assert p.returncode==2 and 'line 1 (' in p.stderr and "'0.png'" in p.stderr and len(p.stderr.splitlines())<=12
    assert '17 × messages' in p.stderr and '17 × image' in p.stderr, p.stderr
    p = go(server, 'in.jsonl', 'data.on_bad_row=skip')
    assert p.returncode==0 and '40 bad input rows skipped' in p.stderr

def test_group_by(here, server):
    right, wrong = r'It is \boxed{A}.', r'It is \boxed{B}.'
    write_jsonl('in.jsonl', [dict(id=f'q{i%2}', prompt=f'prompt {i%2}', response=text, metadata=dict(answer='A'))
                             for i, text in enumerate([right, wrong, wrong, right, right])])
    assert "'q0' is already used" in go(server, 'in.jsonl', 'data.last_turn=response', 'work_dir=v').stderr
    p = go(server, 'in.jsonl', 'data.group_by=id', 'sampling.max_rollouts=0')
    assert p.returncode==0 and not server.log, p.stderr
    s = load_run('w').stats()
    assert s['prompts']['total']==2 and s['samples']['given']==dict(kept=5)
    p = go(server, 'in.jsonl', 'data.group_by=id', 'sampling.max_rollouts=0')
    assert load_run('w').stats()['samples']['given']==dict(kept=5), p.stderr   # resumed: none is added twice
    p = rsr('run', 'dpo', 'in.jsonl', 'data.group_by=id', 'data.responses=response', 'sampling.max_rollouts=0',
            'work_dir=x')
    assert p.returncode==0 and len(read_jsonl('x/train/dpo.jsonl'))==2, p.stderr

def test_requests_and_results_of_a_batch(here, server):
    write_jsonl('a.jsonl', [dict(custom_id=f'r{i}', body=dict(messages=[U(f'prompt {i}')], tools=[WEATHER]))
                            for i in range(3)])
    message = [A(r'It is \boxed{A}.', reasoning_content='hm'), A(None, tool_calls=[C('weather', '{}')]),
               A(None, refusal='I cannot.')]
    write_jsonl('b.jsonl', [dict(custom_id=f'r{i}', id='x', error=None, response=dict(status_code=200, body=dict(
        choices=[dict(message=m, finish_reason='stop')]))) for i, m in enumerate(message)])
    Path('v.py').write_text('def f(response, metadata): return 1.0\n')
    p = go(server, 'b.jsonl', 'verifier=v.py:f')
    assert p.returncode==2 and 'data.group_by=id' in p.stderr
    p = go(server, 'a.jsonl', 'b.jsonl', 'data.group_by=id', 'verifier=v.py:f', 'sampling.max_rollouts=0')
    assert p.returncode==0 and not server.log, p.stderr
    rollouts = load_run('w').rollouts
    assert list(rollouts.outcome)==['kept']*3 and list(rollouts.text)==[r'It is \boxed{A}.', '', 'I cannot.']
    assert rollouts.reasoning[0]=='hm'
    p = go(server, '[a.jsonl,b.jsonl]', 'data.group_by=id', 'verifier=v.py:f', 'sampling.max_rollouts=0')
    assert load_run('w').stats()['samples']['given']==dict(kept=3), p.stderr

# ---- files

ROWS = [dict(question=f'prompt {i}', answer='A', n=2**70+i) for i in range(3)]

def saved(path):
    datasets = pytest.importorskip('datasets')
    datasets.Dataset.from_list([dict(question=r['question'], answer='A') for r in ROWS]).save_to_disk(path)

def csv_of(path, opener=open, sep=','):
    with opener(path, 'wt') as f:
        f.write(f'question{sep}answer{sep}n\n'+''.join(f'{r["question"]}{sep}A{sep}{r["n"]}\n' for r in ROWS))

KINDS = {'a.jsonl':lambda p: write_jsonl(p, ROWS), 'a.json':lambda p: Path(p).write_text(json.dumps(ROWS)),
         'b.json':lambda p: Path(p).write_text(json.dumps(dict(version=1, data=ROWS), indent=1)),
         'c.json':lambda p: write_jsonl(p, ROWS), 'a.csv':csv_of, 'b.csv':functools.partial(csv_of, sep=';'),
         'a.tsv':functools.partial(csv_of, sep='\t'), 'a.csv.gz':functools.partial(csv_of, opener=gzip.open),
         'saved':saved}

@pytest.mark.parametrize('name', KINDS)
def test_kinds_of_files(name, tmp_path):
    KINDS[name](str(tmp_path/name))
    got = [p for _, p in read_prompts(tmp_path/name)]
    assert [p.messages for p in got]==[[U(r['question'])] for r in ROWS], got
    assert all(p.metadata==dict(answer='A') for p in got)
    assert name=='saved' or [p.extra['n'] for p in got]==[str(r['n']) for r in ROWS]

def test_zst(tmp_path):
    pa = pytest.importorskip('pyarrow')
    with pa.CompressedOutputStream(str(tmp_path/'a.jsonl.zst'), 'zstd') as f:
        f.write(b'{"question": "q"}\n')
    (where, p), = read_prompts(tmp_path/'a.jsonl.zst')
    assert p.messages==[U('q')] and where.endswith('a.jsonl.zst, line 1')

def test_large_integers_keep_their_digits_to_the_file(here, server):
    write_jsonl('in.jsonl', [dict(id='q', messages=[U('prompt 1')], metadata=dict(answer='A', n=2**70, m=2**63))])
    assert go(server, 'in.jsonl', 'sampling.max_rollouts=4').returncode==0
    assert json.loads(load_run('w').prompts.iloc[0].metadata)==dict(answer='A', n=str(2**70), m=2**63)
    large = dict(id='q', messages=[U('prompt 1')], metadata=dict(answer='A', n=-2**70))
    run = sample([large], base_url=server.base_url, work_dir='v', progress=False, max_rollouts=4)
    assert json.loads(run.prompts.iloc[0].metadata)['n']==str(-2**70)

def test_cells_of_any_size_and_broken_tables(tmp_path):
    (tmp_path/'a.csv').write_text('id,question\n1,"'+'long\n'*100_000+'"\n2\n007,q\n')
    got = list(read_prompts(tmp_path/'a.csv'))
    assert len(got[0][1].messages[0]['content'])==500_000 and got[2][1].id=='007'
    assert str(got[1][1]).endswith('a.csv, line 100003: 1 cells, and the first line names 2 columns')
    (tmp_path/'b.csv').write_text('a,a\n1,2\n')
    with pytest.raises(RsrError, match="two columns are named 'a'"):
        list(read_prompts(tmp_path/'b.csv'))
    (tmp_path/'c.json').write_text('[{"id": 1},')
    with pytest.raises(RsrError, match='broken JSON'):
        list(read_prompts(tmp_path/'c.json'))

def test_several_files(here, server):
    from PIL import Image
    for name in 'x', 'y':
        Path(name).mkdir()
        Image.new('RGB', (2, 2), name and 'red').save(f'{name}/i.png')
        write_jsonl(f'{name}/a.jsonl', [dict(id=name, question=f'prompt {name}', image='i.png', answer='A')])
    Path('x/README.md').write_text('no rows')
    for src in '.', 'x,y', '[x, y/a.jsonl]', '*/a.jsonl', ['x', 'y']:
        got = [p for _, p in read_prompts(src)]
        assert [p.id for p in got]==['x', 'y'] and find_inputs(src), got
        images = [part['image_url']['url'] for p in got for part in p.messages[0]['content'] if 'image_url' in part]
        assert images==[str(Path(f'{name}/i.png').resolve()) for name in 'xy']
    with pytest.raises(RsrError, match='no file z'):
        list(read_prompts(['x', 'z']))
    p = go(server, 'x', 'y')
    assert p.returncode==0 and load_run('w').stats()['prompts']['total']==2, p.stderr
    Path('recipe.yaml').write_text('data:\n  input_path: [x/a.jsonl, y/a.jsonl]\nformatter: sft\n')
    assert rsr('run', 'recipe.yaml', f'sampler.base_url={server.base_url}', 'work_dir=v').returncode==0
    run = sample([Path('x'), Path('y')], base_url=server.base_url, work_dir='u', progress=False, max_rollouts=1)
    assert run.stats()['prompts']['total']==2

def test_home(here, monkeypatch):
    monkeypatch.setenv('HOME', str(here))
    write_jsonl('in.jsonl', ROWS)
    assert len(list(read_prompts('~/in.jsonl')))==3

def test_standard_input(here, server):
    lines = ''.join(json.dumps(r)+'\n' for r in ROWS)
    assert go(server, '-', input=lines).returncode==0 and load_run('w').stats()['prompts']['total']==3
    p = go(server, '-', input='')
    assert p.returncode==0 and 'goes on with the 3 prompts' in p.stderr, p.stderr
    p = go(server, '-', 'work_dir=v', input='')
    assert p.returncode==2 and '< prompts.jsonl' in p.stderr
    assert go(server, '-', 'work_dir=v', input='\n '+json.dumps(ROWS)).returncode==0

# ---- the Hub, from a server that answers as it does

class Hub(http.server.BaseHTTPRequestHandler):
    files = {}
    def log_message(self, *a):
        pass
    def do_HEAD(self):
        self.do_GET()
    def do_GET(self):
        path = self.path.partition('?')[0]
        data, status, head = b'{}', 404, {'X-Error-Code':'EntryNotFound'}
        if path.startswith('/api/datasets/me/sums/tree/'):
            data, status, head = json.dumps([dict(type='file', path=k, oid='0'*40, size=len(v)) for k, v in
                                             self.files.items()]).encode(), 200, {'Content-Type':'application/json'}
        name = path.removeprefix('/datasets/me/sums/resolve/').partition('/')[2]
        if name in self.files:
            data, status = self.files[name], 200
            head = {'ETag':f'"{hashlib.sha1(data).hexdigest()}"', 'X-Repo-Commit':'1'*40}
        self.send_response(status)
        for k, v in {**head, 'Content-Length':str(len(data))}.items():
            self.send_header(k, v)
        self.end_headers()
        if self.command=='GET':
            self.wfile.write(data)

def test_the_hub(here, server):
    pytest.importorskip('huggingface_hub')
    one = {split:''.join(json.dumps(r)+'\n' for r in rows).encode()
           for split, rows in (('train', ROWS), ('test', ROWS[:1]))}
    Hub.files = {'README.md':b'x', 'train.jsonl':one['train'], 'data/test-00000.jsonl':one['test']}
    hub = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    env = dict(HF_ENDPOINT=f'http://127.0.0.1:{hub.server_port}', HF_HOME=str(here/'hf'), HF_HUB_DISABLE_XET='1',
               PYTHONUNBUFFERED='1')
    try:
        for address, n in (('', 3), (':test', 1), ('@main:train', 3)):
            p = go(server, f'hf://datasets/me/sums{address}', f'work_dir=w{n}{len(address)}', env=env)
            assert p.returncode in (0, 4), p.stderr   # 4: the only prompt has no right answer
            assert load_run(f'w{n}{len(address)}').stats()['prompts']['total']==n
        assert 'read from train.jsonl' in p.stderr
        p = go(server, 'hf://datasets/me/sums:dev', 'work_dir=v', env=env)
        assert p.returncode==2 and 'names no file to read' in p.stderr and 'train.jsonl' in p.stderr, p.stderr
        p = go(server, 'hf://datasets/me/gone', 'work_dir=v', env=env)
        assert p.returncode==2 and 'HF_TOKEN' in p.stderr and 'Traceback' not in p.stderr, p.stderr
    finally:
        hub.shutdown()

def test_results_of_calls_stand_in_the_order_of_the_calls():
    calls = [{**C('weather', '{}'), 'id':id_} for id_ in 'ab']
    results = [dict(role='tool', content=id_, tool_call_id=id_) for id_ in 'ba']
    (_, p), = read_prompts([dict(id='q', messages=[U('q'), A(None, tool_calls=calls), *results], tools=[WEATHER])])
    assert [m['content'] for m in p.messages[2:]]==['a', 'b']   # trainers without ids tell them apart by the order

@pytest.mark.parametrize('row, said', [
    (dict(messages=[U('q'), A(None, tool_calls=[C('weather', '{"city":')]), dict(role='tool', content='x')]),
     'arguments of tool_calls[0] are not a JSON object'),
    (dict(messages=[U('<image><image>q')], images=['a.png']), 'more <image> marks (2) than there are images left (1)'),
    (dict(messages=[U('q'), A(None, tool_calls=[C('weather', '{}')]), U('r')]), "the tool call 'c' has no result"),
    (dict(prompt='q'), "data.group_by: no column 'nr'")])
def test_a_bad_row_says_what_is_wrong(row, said):
    options = RowOptions(group_by='nr') if 'prompt' in row else RowOptions()
    (_, bad), = read_prompts([dict(row, id='q')], options=options)
    assert isinstance(bad, BadRow) and said in str(bad), bad

DEEP = {}
for _ in range(300):
    DEEP = {'a':DEEP}

@pytest.mark.parametrize('row,says', [
    (dict(question='q', tools=[dict(name='f', parameters=DEEP)]), 'tools[0] cannot be written as JSON'),
    (dict(question='q', tools=[dict(name='f', description='\ud800')]), 'tools[0] cannot be written as JSON'),
    (dict(conversations=[{'from':['human'], 'value':'q'}]), "is from ['human']"),
    (dict(prompt='<image>', images=['iVBORw0KGgo'*500]), 'as a data URL'),
    (dict(messages=[dict(role='user', content='q'), dict(role='assistant', content='a', reasoning=['hm'])]),
     'its thinking is list, not a text')])
def test_odd_values_are_told_and_do_not_end_the_reading(row, says):
    bad = [p for _, p in read_prompts([row, dict(question='next')])]
    assert isinstance(bad[0], BadRow) and says in bad[0].reason and len(bad[0].reason)<300
    assert bad[1].messages[0]['content']=='next'

def test_many_levels_beside_many_digits(here):
    deep = '['*100_000+']'*100_000   # Python 3.13 reads 1,000 levels
    Path('a.jsonl').write_text('{"question":"q","n":[12345678901234567890123,'+deep+']}\n{"question":"next"}\n')
    bad, good = (p for _, p in read_prompts('a.jsonl'))
    assert 'broken JSON' in bad.reason and good.messages[0]['content']=='next'

def test_nulls_that_a_json_file_has_are_kept(here):
    schema = dict(type='object', properties=dict(unit=dict(enum=['C', None], default=None)))
    made = dict(function=dict(name='f', arguments=dict(unit=None)))
    write_jsonl('a.jsonl', [dict(messages=[dict(role='user', content='q'), dict(role='assistant', tool_calls=[made]),
                                           dict(role='tool', content='x')], tools=[dict(name='f', parameters=schema)])])
    (_, p), = read_prompts('a.jsonl')
    assert p.tools[0]['function']['parameters']==schema
    assert p.messages[1]['tool_calls'][0]['function']['arguments']=='{"unit":null}'
