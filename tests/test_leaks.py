"Nothing leaks: no key to disk or screen, no control character to the terminal, no request of the page to another host."
import base64
import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from conftest import RSR, read_jsonl, rows, rsr, write_jsonl

from rsr.data.secrets import redact
from rsr.data.terminal import visible
from rsr.run.execution import build
from rsr.run.recipe import load_recipe

# ---- a server that says back whatever it got

def echo_of(headers, path, body):
    "What a careless server prints of a request, in the forms in which servers print."
    auth = headers.get('Authorization', '')
    basic = auth.removeprefix('Basic ')
    said = [f'{k}: {v}' for k, v in headers.items()]+[path, body]
    if auth.startswith('Basic '):
        said.append(base64.b64decode(basic+'===').decode('utf-8', 'replace'))
    return [*said, *map(quote, said), *(json.dumps(s) for s in said)]

class Echo(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0)).decode()
        self.server.seen.append((dict(self.headers), self.path, body))
        text = '\n'.join(echo_of(self.headers, self.path, body))
        reply = json.dumps(dict(error=dict(message=f'refused: {text}', type='invalid_request_error'))).encode()
        self.send_response(self.server.status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)
    def log_message(self, *_):
        pass

@pytest.fixture
def echo():
    s = ThreadingHTTPServer(('127.0.0.1', 0), Echo)
    s.status, s.seen, s.host = 401, [], f'127.0.0.1:{s.server_address[1]}'
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()

def files(folder='.'):
    return [Path(d)/f for d, _, fs in os.walk(folder) for f in fs]

def leaks(secrets, *printed, skip=()):
    "Where each secret stands: in what was printed, or in a file below the current folder."
    found = []
    for s in secrets:
        forms = {s, quote(s, safe=''), base64.b64encode(s.encode()).decode().rstrip('=')[:-1]}
        found += [(s, 'screen') for p in printed if any(f in p for f in forms)]
        found += [(s, str(f)) for f in files() if f.name not in skip
                  and any(x.encode() in f.read_bytes() for x in forms)]
    return found

def reports(work_dir, env):
    "What the reading commands print of a run."
    return [(p := rsr(*args, env=env)).stdout+p.stderr for args in
            (('stats', work_dir), ('stats', work_dir, 'json=true'), ('report', work_dir), ('check', work_dir))]

def test_a_providers_key_that_litellm_takes_from_the_environment(here, echo):
    write_jsonl('in.jsonl', rows(2))
    secret = 'plain/words-and+more'   # in no shape that anybody knows
    env = dict(GROQ_API_KEY=secret, GROQ_API_BASE=f'http://{echo.host}/v1', RSR_API_KEY='', OPENAI_API_KEY='')
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', 'sampler.model=groq/llama', 'work_dir=w', env=env)
    assert p.returncode==1 and 'Traceback' not in p.stderr, p.stderr
    assert any(secret in str(h) for h, *_ in echo.seen), 'the key was used, and said back'
    assert '***' in p.stderr and not leaks([secret], p.stdout, p.stderr, *reports('w', env))

@pytest.mark.parametrize('status', [401, 400, 500])
@pytest.mark.parametrize('how', ['token@', 'user:pw@', 'query', 'extra_params', 'header', 'basic', 'debug'])
def test_a_secret_by_its_place(here, echo, how, status):
    echo.status = status
    write_jsonl('in.jsonl', rows(2))
    s, env = 'tok/en+w1th"all', {'OPENAI_API_KEY':'', 'RSR_API_KEY':''}
    url, q = f'http://{echo.host}/v1', quote(s, safe='')
    options = {'token@':[f'sampler.base_url=http://{q}@{echo.host}/v1'],
               'user:pw@':[f'sampler.base_url=http://me:{q}@{echo.host}/v1'],
               'query':[f'sampler.base_url={url}?api-version=2&key={q}'],
               'extra_params':[f'sampler.base_url={url}', f"sampler.extra_params={{api_key: '{s}', top_k: 5}}"],
               'header':[f'sampler.base_url={url}', f"sampler.headers={{X-Auth: '{s}', X-Team: research}}"],
               'basic':[f'sampler.base_url={url}', "sampler.headers={Authorization: 'Basic "
                        +base64.b64encode(f'me:{s}'.encode()).decode()+"'}"],
               'debug':[f'sampler.base_url={url}?token={q}', f'sampler.api_key={s}']}[how]
    if how=='debug':
        env['RSR_DEBUG'] = '1'
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', *options, 'work_dir=w', 'sampler.max_retries=0',
            'sampler.patience=2', env=env)
    assert p.returncode==1, p.stdout+p.stderr
    assert echo.seen, p.stderr
    assert not leaks([s], p.stdout, p.stderr, *reports('w', env))
    recipe = Path('w/recipe.yaml').read_text()
    assert '***' in recipe
    if how=='header':
        assert 'data:\n  input_path: in.jsonl' in recipe   # an ordinary word is masked nowhere else

def test_judges_and_sides_of_pairs_mask_theirs_too(here, server, echo):
    write_jsonl('in.jsonl', rows(2))
    secrets = [f'{w}-0123456789x' for w in ('judge', 'header', 'weak', 'extra')]
    judge, header, weak, extra = secrets
    recipe = dict(sampler=dict(base_url=server.base_url), pairs=dict(
        strategy='strong_vs_weak', weak=dict(model='weak', base_url=f'http://{weak}@{server.base_url[7:]}',
                                             extra_params=dict(auth=dict(token=extra)))),
        verifier=dict(type='rubric', rubric='helpful_answer', judges=[dict(
            model='j', base_url=f'http://{echo.host}/v1?key={judge}', headers={'X-Key':header})]),
        data=dict(input_path='in.jsonl'), formatter=[dict(type='dpo')], work_dir='w')
    Path('r.yaml').write_text(yaml.safe_dump(recipe))
    p = rsr('run', 'r.yaml')
    assert p.returncode==1 and 'Traceback' not in p.stderr and echo.seen, p.stdout+p.stderr
    assert not leaks(secrets, p.stdout, p.stderr, *reports('w', {}), skip=['r.yaml'])

def test_an_answer_is_never_masked(here, server):
    server.set(rate=1., reply=lambda body: 'The key is sk-proj-0123456789abcdef: \\boxed{A}, password=hunter22.')
    write_jsonl('in.jsonl', rows(1))
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
            'sampler.api_key=hunter22')
    assert p.returncode==0, p.stderr
    assert 'sk-proj-0123456789abcdef' in Path('w/train/sft.jsonl').read_text()
    assert 'hunter22' in Path('w/train/sft.jsonl').read_text()

@pytest.mark.parametrize('name,value', [
    ('SORT_KEY', 'created_at'), ('MAX_TOKENS', '12345678'), ('EOS_TOKEN', '<|im_end|>'),
    ('HF_TOKEN_PATH', '/home/me/token'), ('OPENAI_API_KEY', 'not-needed')])
def test_an_ordinary_value_is_masked_nowhere(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert redact(f'see {value} there')==f'see {value} there'

def test_an_address_from_a_variable_is_no_secret(here, server, monkeypatch):
    write_jsonl('in.jsonl', rows(1))
    monkeypatch.setenv('SERVER', server.base_url)
    Path('r.yaml').write_text('sampler: {base_url: "${SERVER}"}\nverifier: {type: "v.py:f"}\n'
                              'data: {input_path: in.jsonl}\nformatter: [{type: sft}]\nwork_dir: w\n')
    Path('v.py').write_text('def f(response, metadata): return 1.0\n')
    p = rsr('run', 'r.yaml')
    assert p.returncode==0, p.stderr
    build(load_recipe('r.yaml'))                   # in this process, which then knows the value
    assert redact(f'{server.base_url} there')==f'{server.base_url} there'

@pytest.mark.parametrize('name', 'AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN HF_TOKEN GOOGLE_API_KEY AZURE_OPENAI_KEY '
                         'WATSONX_APIKEY DB_PASSWORD REPLICATE_API_TOKEN VERTEXAI_CREDENTIALS GROQ_API_KEY_2'.split())
def test_a_variable_named_like_a_secret_is_masked(monkeypatch, name):
    monkeypatch.setenv(name, 'only/letters')
    assert redact('got only/letters and only%2Fletters')=='got *** and ***'
    monkeypatch.delenv(name)
    assert redact('only/letters')=='only/letters'


# ---- variables, and what a resumed run asks for

@pytest.mark.parametrize('option,word', [
    ('sampler.api_key=$MY_KEY', '${MY_KEY}'), ('sampler.headers={X-Auth: Bearer $MY_KEY}', '${MY_KEY}'),
    ('sampler.base_url=http://$MY_HOST/v1', '${MY_HOST}'), ('sampler.api_key=${NOT_SET}', 'not set'),
    ('sampler.api_key=${EMPTY}', 'empty'), ('sampler.api_key=${MY_KEY:-none}', 'without a default'),
    ('sampler.api_key=${MY_KEY', 'no closing brace'), ('sampler.extra_params={token: $MY_KEY}', '${MY_KEY}'),
    ('verifier.api_key=${NOT_SET}', 'verifier.api_key'), ('sampler.extra_params={token: "${NOT_SET}"}', 'NOT_SET')])
def test_a_variable_that_cannot_be_resolved_is_an_error(here, server, option, word):
    write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', option, 'work_dir=w',
            env=dict(MY_KEY='sk-my-0123456789', EMPTY=''))
    assert p.returncode==2 and word in p.stderr and option.partition('=')[0] in p.stderr, p.stderr
    assert 'Traceback' not in p.stderr and not server.log and not Path('w').exists()

def test_a_dollar_in_a_text_is_a_dollar(here, server):
    write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
            'sampler.system_prompt=It costs $5, write $x$ and ${y}.', 'sampler.api_key=${MY_KEY}',
            'sampler.extra_params={stop: $END, token: "${MY_KEY}"}', env=dict(MY_KEY='sk-my-0123456789'))
    assert p.returncode==0, p.stderr
    body = server.log[0]['body']
    assert body['messages'][0]['content']=='It costs $5, write $x$ and ${y}.' and body['stop']=='$END'
    assert body['token']=='sk-my-0123456789'
    recipe = Path('w/recipe.yaml').read_text()
    assert recipe.count('${MY_KEY}')==4 and not leaks(['sk-my-0123456789'], p.stdout, p.stderr)
    write_jsonl('in.jsonl', rows(3))
    p = rsr('run', 'w/recipe.yaml', env=dict(MY_KEY='sk-my-0123456789'))   # it needs nothing else
    assert p.returncode==0 and len(read_jsonl('w/train/sft.jsonl'))>=1, p.stderr

@pytest.mark.parametrize('option,key', [
    ('sampler.api_key=sk-literal-123456', 'sampler.api_key'),
    ('sampler.headers={X-Key: hdr-0123456789}', 'sampler.headers.X-Key'),
    ('sampler.extra_params={auth: {token: tok-0123456789}}', 'sampler.extra_params.auth.token'),
    ('sampler.base_url=http://me:pass-0123456789@HOST', 'sampler.base_url')])
def test_a_resumed_run_asks_for_a_literal_secret(here, server, option, key):
    write_jsonl('in.jsonl', rows(2))
    option = option.replace('HOST', server.base_url[7:])
    common = ['data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w']
    env = dict(OPENAI_API_KEY='' if '@' in option else 'sk-of-another-server', RSR_API_KEY='')
    p = rsr('run', 'sft', *common, option, 'budget.tokens=1', env=env)
    assert p.returncode==3, p.stdout+p.stderr
    n = len(server.log)
    resume = re.search(r'(?:resume with|raise the limit): (.*)', p.stdout)
    for args in (['w/recipe.yaml'], ['work_dir=w']):
        p = rsr('run', *args, env=env)
        assert p.returncode==2 and f'{key} is masked' in p.stderr and 'Traceback' not in p.stderr, p.stderr
    line = resume[1].replace('rsr', RSR, 1).replace('…', '10000')
    p = subprocess.run(line, shell=True, capture_output=True, text=True)   # has *** too
    assert p.returncode==2 and f'{key} is masked' in p.stderr and '***' in resume[1], (p.stderr, resume[1])
    assert len(server.log)==n
    p = rsr('run', 'w/recipe.yaml', option, 'budget.tokens=null', env=env)   # given again, it goes on
    assert p.returncode==0, p.stderr
    assert '***' not in json.dumps([e['headers'] for e in server.log])

def test_an_old_ledger_with_a_secret_resumes_and_loses_it(here, server):
    write_jsonl('in.jsonl', rows(2))
    url = server.base_url.replace('http://', 'http://old-token-0123@')
    args = ['run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={url}', 'work_dir=w',
            'sampler.extra_params={token: tok-0123456789, top_k: 3}']
    assert rsr(*args).returncode==0
    from rsr.data.files import dumps, fingerprint
    db = sqlite3.connect('w/run.db')
    (key, text), = db.execute("SELECT key, config FROM configs WHERE kind='sampler'").fetchall()
    old = {**json.loads(text), 'base_url':url, 'extra_params':dict(token='tok-0123456789', top_k=3)}   # as they were
    db.execute('UPDATE configs SET fp=?, config=? WHERE key=?', (fingerprint(old), dumps(old), key))
    db.commit()
    db.close()
    write_jsonl('in.jsonl', rows(4))
    n = len(server.log)
    p = rsr(*args)
    assert p.returncode==0 and len(server.log)>n, p.stderr
    db = sqlite3.connect('w/run.db')
    assert db.execute("SELECT count(*) FROM configs WHERE kind='sampler'").fetchone()==(1,)
    db.close()
    assert not leaks(['tok-0123456789', 'old-token-0123'], p.stdout, p.stderr)


# ---- the terminal

HOSTILE = '\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202eback\u2066 \x08\x08 \U000e0041'
RAW = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]')

def shown_on_a_terminal(*args):
    "Everything that the command writes to a terminal, its progress line too."
    main, side = pty.openpty()
    p = subprocess.Popen([RSR, *map(str, args)], stdin=subprocess.DEVNULL, stdout=side, stderr=side)
    os.close(side)
    out = b''
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break
        if not part:
            break
        out += part
    os.close(main)
    return p.wait(), out.decode('utf-8', 'replace')

def test_what_a_server_says_reaches_no_terminal_raw(here, server):
    write_jsonl('in.jsonl', [dict(r, id=r['id']+HOSTILE) for r in rows(3)])
    server.set(reply=lambda body: (500, dict(error=dict(message=HOSTILE))))
    code, out = shown_on_a_terminal('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}',
                                    'work_dir=w', 'sampler.patience=2', 'sampler.max_retries=1')
    plain = re.sub(r'\x1b\[[A-D]|[\r\x07]', '', out)   # tqdm's own: up a line, carriage return
    assert code==1 and 'owned' in out and not RAW.search(plain.replace('\n', '')), repr(RAW.findall(plain))
    for body in ('refused: '+HOSTILE, HOSTILE*200):
        server.set(reply=lambda _, body=body: (401, dict(error=dict(message=body))))
        p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w2')
        assert p.returncode==1 and 'owned' in p.stderr, p.stderr
        assert not RAW.search((p.stdout+p.stderr).replace('\n', '')), p.stderr

def test_what_a_model_says_reaches_no_terminal_raw(here, server):
    server.set(reply=lambda body: f'{HOSTILE} \\boxed{{A}}')
    write_jsonl('in.jsonl', [dict(r, id=r['id']+HOSTILE) for r in rows(3)]+[dict(id=HOSTILE)])
    p = rsr('run', 'grpo', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
            'data.on_bad_row=skip')
    assert p.returncode in (0, 4), p.stderr
    printed = [p.stdout+p.stderr, rsr('run', 'sft', f'data.input_path={HOSTILE}'.replace('\x00', '')).stderr]
    for args in (('stats', 'w'), ('check', 'w'), ('check', 'w', 'json=true'), ('report', 'w'), ('format', 'w'),
                 ('stats', 'w', 'json=true'), ('stats', f'no{HOSTILE}')):
        p = rsr(*args)
        assert 'Traceback' not in p.stderr, p.stderr
        printed.append(p.stdout+p.stderr)
        if args[-1]=='json=true':
            json.loads(p.stdout)
    for text in printed:
        assert not RAW.search(text.replace('\n', '')), repr(RAW.findall(text))

def test_visible_leaves_letters_alone():
    for text in 'plain', 'naïve 日本語 हिन्दी فارسی\u200cها', 'a\nb\tc', '👨\u200d👩':
        assert visible(text)==text
    assert visible('a\r\nb')=='a\nb' and RAW.search(HOSTILE) and not RAW.search(visible(HOSTILE))
    visible('\ud83d').encode('utf-8')


# ---- a stranger's run

VERIFIER = """from pathlib import Path
Path(__file__).with_name('was_run').touch()
def score(response, metadata):
    return 1.0
"""

def made(server, where, verifier):
    "A GRPO run in `where` that names a verifier's file; the mark that this file leaves when it runs."
    write_jsonl('in.jsonl', rows(4))
    Path(verifier).parent.mkdir(exist_ok=True, parents=True)
    Path(verifier).write_text(VERIFIER)
    p = rsr('run', 'grpo', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', f'work_dir={where}',
            f'verifier.type={verifier}:score', env=dict(RSR_CACHE='mine'))
    assert p.returncode in (0, 4), p.stdout+p.stderr
    mark = Path(verifier).with_name('was_run')
    mark.unlink()
    return mark

@pytest.mark.parametrize('case', ['mine', 'inside', 'copied', 'another user', 'unsigned'])
def test_a_strangers_verifier_wants_trust(here, server, case):
    mark = made(server, 'w', 'w/v.py' if case=='inside' else 'v.py')
    w, env = 'w', dict(RSR_CACHE='theirs' if case=='another user' else 'mine')
    if case=='copied':
        shutil.copytree('w', 'other')
        w = 'other'
    if case=='unsigned':
        db = sqlite3.connect('w/run.db')
        db.execute("DELETE FROM meta WHERE key='origin'")
        db.commit()
        db.close()
    for command in 'check', 'report':
        p = rsr(command, w, env=env)
        assert 'Traceback' not in p.stderr and p.returncode in (0, 1), p.stderr
        assert mark.exists()==(case=='mine'), (command, p.stdout)
        text = p.stdout if command=='check' else Path(p.stdout.strip()).read_text()
        assert ('trust=true' in text and 'v.py' in text)==(case!='mine'), text
        mark.unlink(missing_ok=True)
    for command in 'check', 'report':
        p = rsr(command, w, 'trust=true', env=env)
        assert mark.exists(), p.stdout+p.stderr
        mark.unlink()
    assert rsr('check', w, 'trust=perhaps', env=env).returncode==2
    assert 'v.py' in rsr('check', w, 'json=true', env=env).stdout or case=='mine'
    mark.unlink(missing_ok=True)
    for command, code in ('stats', 0), ('format', 4):     # all pass: the file of grpo has no row
        assert rsr(command, w, env=env).returncode==code and not mark.exists()

def test_a_strangers_judge_gets_no_key_of_mine(here, server, echo):
    write_jsonl('in.jsonl', rows(4))
    p = rsr('run', 'grpo', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w',
            env=dict(RSR_CACHE='theirs'))
    assert p.returncode in (0, 4), p.stderr
    recipe = yaml.safe_load(Path('w/recipe.yaml').read_text())
    recipe['verifier'] = dict(type='mcq-llm-as-judge', base_url=f'http://{echo.host}/v1', model='m')
    Path('w/recipe.yaml').write_text(yaml.safe_dump(recipe))
    for command in 'check', 'report':
        p = rsr(command, 'w', env=dict(RSR_CACHE='mine', OPENAI_API_KEY='sk-mine-0123456789'))
        assert 'Traceback' not in p.stderr and not echo.seen, p.stderr

def test_a_strangers_rubric_with_labels_runs_nothing(here, server):
    mark = made(server, 'w', 'v.py')
    Path('w/rubric.yaml').write_text(yaml.safe_dump(dict(
        categories=dict(a=1.0), criteria=[dict(id='c', category='a', question='Is it right?', function='v.py:score')])))
    shutil.copy('v.py', 'w/v.py')
    recipe = yaml.safe_load(Path('w/recipe.yaml').read_text())
    recipe['verifier'] = dict(type='rubric', rubric='w/rubric.yaml')
    Path('w/recipe.yaml').write_text(yaml.safe_dump(recipe))
    write_jsonl('labels.jsonl', [dict(id='q0', prompt='prompt 0', response='x', labels=dict(c='YES'))])
    for extra in ([], ['labels=labels.jsonl']):
        p = rsr('check', 'w', *extra, env=dict(RSR_CACHE='mine'))
        assert 'Traceback' not in p.stderr, p.stderr
        assert not Path('w/was_run').exists() and not mark.exists(), p.stdout

# ---- keys that look harmless, and references that lack braces

@pytest.mark.parametrize('option', [
    'sampler.api_key=$sek', 'sampler.api_key=$$MYK', 'sampler.api_key=x$sek', 'sampler.headers={A: "$sek"}',
    'sampler.headers={A: "a $MYK b"}', 'sampler.base_url=http://$sek@{host}/v1',
    'sampler.base_url=http://me:$sek@{host}/v1', 'sampler.base_url=http://{host}/v1?key=$sek',
    'sampler.extra_params={token: $sek}'])
def test_a_variable_without_braces(here, server, option):
    write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}',
            option.replace('{host}', server.base_url.split('/')[2]), 'work_dir=w', env=dict(sek='k', MYK='m'))
    name = 'MYK' if 'MYK' in option else 'sek'
    assert p.returncode==2 and f'${{{name}}}' in p.stderr and not server.log, p.stderr

def test_a_dollar_in_a_variable_is_its_own(here, server):
    write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}',
            'sampler.api_key=${MYK}', 'work_dir=w', env=dict(MYK='pa$word-x'))
    assert p.returncode==0 and 'api_key: ${MYK}' in Path('w/recipe.yaml').read_text(), p.stderr

@pytest.mark.parametrize('key', ['[k-s3cret1]', '<k-s3cret1>', '[k-s3cret1', '<k-s3cret1', '[k, s3cret1]'])
def test_a_key_in_brackets(here, server, key):
    write_jsonl('in.jsonl', rows(2))
    p = rsr('run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', f'sampler.api_key={key}',
            f"sampler.headers={{X-Auth: '{key}'}}", 'work_dir=w')
    said = [p.stdout, p.stderr, *reports('w', {})] if p.returncode==0 else [p.stderr]
    assert not leaks(['s3cret1'], *said), p.stderr

def test_a_masked_key_of_the_service_is_not_given_by_rsrs_variable(here, server):
    write_jsonl('in.jsonl', rows(2))
    args = ['run', 'sft', 'data.input_path=in.jsonl', f'sampler.base_url={server.base_url}', 'work_dir=w']
    p = rsr(*args, 'sampler.extra_params={api_key: k-s3cret1}', "sampler.headers={api_key: h-s3cret1}",
            'sampler.api_key=own-s3cret1')
    assert p.returncode==0, p.stderr
    p = rsr('run', 'work_dir=w', 'sampler.headers={}', env=dict(RSR_API_KEY='x'))
    assert p.returncode==2 and 'sampler.extra_params.api_key is masked' in p.stderr, p.stderr
    assert 'RSR_API_KEY' not in p.stderr and 'different settings' not in p.stderr
    p = rsr('run', 'work_dir=w', 'sampler.extra_params.api_key=k-s3cret1', env=dict(RSR_API_KEY='x'))
    assert p.returncode==2 and 'sampler.headers.api_key is masked' in p.stderr and 'RSR_API_KEY' not in p.stderr
    p = rsr('run', 'work_dir=w', 'sampler.extra_params.api_key=k-s3cret1', 'sampler.headers.api_key=h-s3cret1',
            env=dict(RSR_API_KEY='x'))
    assert p.returncode==0, p.stderr    # the sampler's own key may come from there


# ---- the explorer's page

CHROMIUM = Path('/usr/bin/chromium')
NEEDED = [m for m in ('playwright', 'voila') if not find_spec(m)]

@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists() or bool(NEEDED), reason='needs /usr/bin/chromium, playwright and voila')
def test_the_explorers_page_asks_no_other_host(tmp_path):
    from playwright.sync_api import sync_playwright
    from test_explore import messy
    run = messy(tmp_path/'run', 20, hostile=True)
    code = f'from rsr.explore.serve import serve; serve({str(run.path)!r}, open_browser=False)'
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    try:
        url = p.stdout.readline().split()[-1]
        with sync_playwright() as pw:
            browser = pw.chromium.launch(executable_path=str(CHROMIUM), args=['--no-sandbox'])
            page, asked, refused = browser.new_page(), [], []
            page.on('request', lambda r: asked.append(r.url))
            page.on('console', lambda m: refused.append(m.text))
            page.goto(url)
            page.wait_for_selector('svg[role=img]', timeout=90_000)
            page.wait_for_selector('.rsr-window .rsr-row:not(.rsr-waiting)')
            page.locator('.rsr-window .rsr-row:not(.rsr-waiting)').first.click()
            page.wait_for_selector('.rsr-id')
            own = re.match(r'https?://[^/]+/', url)[0]
            assert len(asked)>5 and not [u for u in asked if not u.startswith((own, 'data:', 'blob:'))]
            page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.2:9/x.png'}))")
            for _ in range(100):   # and were there such a text, the policy would stop it
                if any('127.0.0.2' in m for m in refused):
                    break
                page.wait_for_timeout(50)
            assert any('127.0.0.2' in m and 'Content Security Policy' in m for m in refused), refused
            browser.close()
    finally:
        p.send_signal(signal.SIGINT)
        assert p.wait(60)==0
