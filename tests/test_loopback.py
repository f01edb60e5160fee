"The loopback server does as it says, asked over real connections."
import http.client
import json
import math
import re
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from loopback import ERRORS, FAULTS, TOKENS, Loopback, ask, draw, error, joint_rate, least, pass_rate, spawn
from scipy.stats import spearmanr

KEY = 'sk-test-0123456789abcdef'

def post(s, prompt='prompt 1', path='/chat/completions', key=None, timeout=5, **body):
    "(status, headers, text) of one chat request."
    body = dict(model='m', messages=[{'role': 'user', 'content': prompt}]) | body
    headers = {'Content-Type': 'application/json'} | ({'Authorization': f'Bearer {key}'} if key else {})
    req = Request(s.base_url + path, json.dumps(body).encode(), headers)
    try:
        with urlopen(req, timeout=timeout) as r:
            return r.status, r.headers, r.read().decode()
    except HTTPError as e:
        return e.code, e.headers, e.read().decode()

def chat(s, prompt='prompt 1', n=1, **body):
    return json.loads(post(s, prompt, n=n, **body)[2])
def texts(s, prompt='prompt 1', n=1, **body):
    return [c['message']['content'] for c in chat(s, prompt, n, **body)['choices']]
def finishes(out):
    return [c['finish_reason'] for c in out['choices']]

# ---- draws

def test_answer_has_the_shape_of_openai():
    with Loopback() as s:
        out = chat(s, n=3, model='mine')
    assert out['object'] == 'chat.completion' and out['model'] == 'mine' and out['id'].startswith('chatcmpl-')
    assert [c['index'] for c in out['choices']] == [0, 1, 2] and set(finishes(out)) == {'stop'}
    words = sum(len(c['message']['content'].split()) for c in out['choices'])
    assert out['usage']['completion_tokens'] == words and out['usage']['prompt_tokens'] > 0

def test_draws_are_the_same_whoever_asks():
    with Loopback(seed=3) as s:
        a = texts(s, n=8)
    with Loopback(seed=3) as s:
        b = texts(s, n=2) + texts(s, 'another') * 0 + texts(s, n=5) + texts(s)
    assert a == b and len(set(a)) == 8
    assert [r'\boxed{A}' in t for t in a] == [draw('prompt 1', k, 3) for k in range(8)]
    assert all(re.search(r'The answer is \\boxed\{[AB]\}$', t) for t in a)

def test_draws_follow_the_pass_rate():
    rates = [pass_rate(f'p{i}') for i in range(2000)]
    assert abs(statistics.mean(rates) - .5) < .03
    assert abs(statistics.variance(rates) - .25 / 2.2) < .01  # both are those of Beta(.6, .6)
    assert abs(statistics.mean(draw('p', k, rate=.2) for k in range(5000)) - .2) < .02
    assert pass_rate('p1') == pass_rate('p1') != pass_rate('p1', seed=1)

def test_least():
    assert least('p', rate=1.) == (1, True) and least('p', rate=0.) == (16, False)
    assert least('p', rate=1., passes=4, within=32) == (4, True)
    assert least('p', rate=1., fails=1, within=32) == (32, False)
    k, ok = least('p', rate=.5, fails=1, within=32)
    draws = [draw('p', i, rate=.5) for i in range(k)]
    assert ok and set(draws) == {True, False} and len(set(draws[:-1])) == 1

@pytest.mark.parametrize('rate', [1., {'prompt 1': 1.}, lambda prompt: float(prompt == 'prompt 1')])
def test_given_rates(rate):
    with Loopback(rate=rate, answers=('yes', 'no')) as s:
        assert all(r'\boxed{yes}' in t for t in texts(s, n=8))

def test_last_user_message_and_parts():
    parts = [dict(type='text', text='prompt'), dict(type='text', text=' 1')]
    messages = [dict(role='system', content='s'), dict(role='user', content=parts), dict(role='assistant', content='x')]
    with Loopback() as s:
        a = texts(s, n=4, messages=messages, seed=7)
        assert s.log[0]['prompt'] == 'prompt 1' and s.log[0]['seed'] == 7 and s.log[0]['n'] == 4
        s.reset()
        assert a == texts(s, n=4)

def test_words_and_max_tokens():
    with Loopback(words=100) as s:
        sizes = [len(t.split()) for t in texts(s, n=64)]
        assert 90 < statistics.mean(sizes) < 120 and min(sizes) > 50
        out = chat(s, max_tokens=5, n=2)
        assert finishes(out) == ['length'] * 2 and len(out['choices'][0]['message']['content'].split()) == 5
        assert out['usage']['completion_tokens'] == 10

@pytest.mark.parametrize('field', [True, 'reasoning', 'think'])
def test_reasoning(field):
    with Loopback(rate=1., reasoning=field) as s:
        m = chat(s)['choices'][0]['message']
    if field == 'think':
        thought, m['content'] = m['content'].split('</think>')
    else:
        thought = m['reasoning_content' if field is True else field]
    assert r'\boxed{B}?' in thought and r'\boxed{A}' in m['content'] and r'\boxed{B}' not in m['content']

@pytest.mark.parametrize('option,finish', [('truncate', 'length'), ('filter', 'content_filter'), ('empty', 'stop')])
def test_spoiled_choices(option, finish):
    with Loopback(rate=1., **{option: .25}) as s:
        out = chat(s, n=400)
    bad = [c for c in out['choices'] if 'boxed' not in (c['message']['content'] or '')]
    assert {c['finish_reason'] for c in bad} == {finish} and .18 < len(bad) / 400 < .32
    if option == 'empty':
        assert {c['message']['content'] for c in bad} == {None, ''}
    if option == 'truncate':
        assert all(c['message']['content'] for c in bad)

# ---- several models

TWO = dict(cheap=dict(a=.6, b=1.2, price=dict(prompt=0, completion=10_000)),
           strong=dict(a=1.2, b=.6, price=dict(prompt=1000, completion=100_000)))

def rates(name, rho, n=3000):
    return [joint_rate(f'p{i}', name, TWO[name]['a'], TWO[name]['b'], 0, rho) for i in range(n)]

@pytest.mark.parametrize('rho', [0., .7, 1.])
def test_rates_of_two_models(rho):
    cheap, strong = rates('cheap', rho), rates('strong', rho)
    assert abs(statistics.mean(cheap) - 1/3) < .02 and abs(statistics.mean(strong) - 2/3) < .02
    for of in cheap, strong:
        assert abs(statistics.variance(of) - 2/9 / 2.8) < .006
    assert rates('cheap', rho) == cheap and rates('cheap', rho, 5) != rates('strong', rho, 5)
    spearman = 6 / math.pi * math.asin(rho / 2)
    assert abs(spearmanr(cheap, strong).statistic - spearman) < .04

def test_two_models_answer_and_are_sold():
    with Loopback(models=TWO, rho=.7) as s:
        assert [m['id'] for m in ask(s.base_url + '/models')['data']] == ['cheap', 'strong']
        assert post(s, model='other')[0] == 404
        out = chat(s, n=8, model='cheap')
        cheap, strong = [c['message']['content'] for c in out['choices']], texts(s, n=2, model='strong')
        again = texts(s, n=1, model='cheap')
        assert out['usage']['completion_tokens'] == 8 * TOKENS[1] and len({*cheap, *strong, *again}) == 11
        right = {name: [draw('prompt 1', k, rate=s.rate_of('prompt 1', name), name=name) for k in range(n)]
                 for name, n in dict(cheap=9, strong=2).items()}
        assert [r'\boxed{A}' in t for t in [*cheap, *again]] == right['cheap']
        assert [r'\boxed{A}' in t for t in strong] == right['strong']
        stats = s.stats()
        assert stats['models']['cheap'] == dict(samples=9, right=sum(right['cheap']), usd=pytest.approx(9))
        usd = 2 * TOKENS[1] * .1 + TOKENS[0] * .001
        assert stats['models']['strong'] == dict(samples=2, right=sum(right['strong']), usd=pytest.approx(usd))
        assert stats['prompts'] == 1 and stats['usd'] == pytest.approx(9 + usd)
        s.serve(dict(model='cheap', messages=[dict(role='user', content='prompt 2')], n=3), factor=.5)
        assert s.stats()['usd'] == pytest.approx(10.5 + usd) and s.asked['cheap', 'prompt 2'] == 3

def test_accepted():
    with Loopback(models=TWO) as s:
        s.outcomes.update({('p', 'cheap'): [1, 0], ('p', 'strong'): [0, 2], ('q', 'cheap'): [2, 1]})
        assert s.accepted() == {'p', 'q'} and s.accepted(passes=2) == {'q'}
        assert s.accepted(1, 1) == {'q'} and s.accepted(1, 1, mix=True) == {'p', 'q'}
        assert ask(s.url + '/accepted')['prompts'] == ['p', 'q'] and s.stats()['accepted'] == 2
        s.reset()
        assert s.accepted() == set()

def test_a_fault_is_not_sold():
    with Loopback(models=TWO, fault=['500', 'malformed']) as s:
        post(s, model='cheap')
        post(s, model='cheap')
        assert s.stats()['usd'] == 0
        post(s, model='cheap')
        assert s.stats()['models']['cheap']['samples'] == 1 and s.asked['cheap', 'prompt 1'] == 1

# ---- latency

def test_latency_is_log_normal_and_in_sync():
    def total(per, n=4):
        with Loopback(median=.02, sigma=.8, per=per) as s:
            with ThreadPoolExecutor(32) as pool:
                list(pool.map(lambda i: chat(s, f'prompt {i}', n), range(200)))
            return s.stats()
    one, again, slowest = total('request'), total('request'), total('choice')
    assert one['latency'] == pytest.approx(again['latency'])
    assert .017 < one['latency'] / 200 < .04 < slowest['latency'] / 200  # the mean of the one is .0275
    assert 8 < one['max_inflight'] <= 32 and one['by_status'] == {'200': 200} and one['samples'] == 800
    assert one['last_response'] - one['first_request'] > one['latency'] / 33

# ---- n, faults, refusals

def test_n_modes():
    with Loopback(n_mode='clamp') as s:
        assert len(texts(s, n=4)) == 1
        s.set(n_mode='refuse')
        status, _, text = post(s, n=4)
        err = json.loads(text)['error']
        assert status == 400 and err['param'] == 'n' and "Invalid 'n'" in err['message'] and 'got 4' in err['message']
        assert len(texts(s)) == 1 and s.stats()['samples'] == 2

@pytest.mark.parametrize('kind', [*ERRORS, *FAULTS])
def test_every_fault_then_the_same_draws(kind):
    with Loopback(fault=[kind]) as s:
        try:
            status, _, text = post(s, timeout=.2)
        except OSError:
            status, text = None, ''
        except http.client.IncompleteRead:
            status, text = 'cut', ''
        broken = {'reset': None, 'timeout': None, 'hang_after_headers': None, 'cut': 'cut'}
        want = {**{k: v[0] for k, v in ERRORS.items()}, **broken}
        assert status == want.get(kind, 200)
        if kind == 'malformed':
            pytest.raises(ValueError, json.loads, text)
        if kind == 'no_choices':
            assert json.loads(text)['choices'] == []
        if kind == 'null_content':
            assert json.loads(text)['choices'][0]['message']['content'] is None
        if kind == 'error200':
            assert json.loads(text)['error']['code'] == 502
        assert (r'\boxed{A}' in texts(s)[0]) == draw('prompt 1', 0)  # no draw was used up
        assert s.log[0]['fault'] == kind and s.log[1]['fault'] is None and s.log[1]['k'] == 0
        stats = s.stats()
        assert stats['by_fault'] == {kind: 1} and stats['samples'] == 1 and stats['lost'] == 0
        assert stats['requests'] == 2 and stats['max_inflight'] <= 2

def test_reset_is_a_reset():
    with Loopback(fault='reset') as s:
        pytest.raises(ConnectionResetError, post, s)

def test_faults_by_rate():
    with Loopback(faults={'429': .2, '500': .3}) as s:
        for _ in range(300):
            post(s)
        by = s.stats()['by_status']
        assert 35 < by['429'] < 85 and 60 < by['500'] < 120 and by['200'] == 300 - by['429'] - by['500']
        s.set(faults={})
        assert post(s)[0] == 200

def test_unknown_options_and_faults():
    pytest.raises(TypeError, Loopback, medain=1)
    with Loopback() as s:
        pytest.raises(ValueError, s.set, fault='nonsense')
        assert urlcode(s.url + '/set', dict(medain=1)) == 400

def urlcode(url, body):
    try:
        ask(url, body)
    except HTTPError as e:
        return e.code

def test_rate_limit_and_retry_after():
    with Loopback(rate_limit=5, burst=3, retry_after=2) as s:
        got = [post(s) for _ in range(5)]
        assert [g[0] for g in got] == [200, 200, 200, 429, 429] and got[3][1]['Retry-After'] == '2'
        assert json.loads(got[3][2])['error']['code'] == 'rate_limit_exceeded'
        time.sleep(.45)
        s.set(retry_after='date')
        assert [post(s)[0] for _ in range(2)] == [200, 200]
        late = next(h for code, h, _ in (post(s) for _ in range(9)) if code == 429)['Retry-After']
        assert 0 < parsedate_to_datetime(late).timestamp() - time.time() <= 2
        s.set(retry_after=None, fault='503')
        assert 'Retry-After' not in post(s)[1]

def test_storm():
    with Loopback(storm=(.2, .4)) as s:
        codes, began = [post(s)[0]], time.monotonic()
        while codes[-1] == 200 and time.monotonic() - began < 5:
            codes.append(post(s)[0])
        start = time.monotonic() - began
        while codes[-1] == 429 and time.monotonic() - began < 5:
            codes.append(post(s)[0])
        end = time.monotonic() - began
    assert codes[0] == codes[-1] == 200 and 429 in codes and .15 < start < end and end > .35

def test_auth():
    with Loopback(auth=KEY) as s:
        assert post(s, key=KEY)[0] == 200 and s.log[0]['headers']['authorization'] == f'Bearer {KEY}'
        status, _, text = post(s, key='sk-wrong-0123456789')
        assert status == 401 and json.loads(text)['error']['code'] == 'invalid_api_key' and '0123456789' not in text
        assert urlcode(s.base_url + '/models', None) == 401
        s.set(echo_key=True)
        assert 'sk-wrong-0123456789' in post(s, key='sk-wrong-0123456789')[2]

def test_bad_request_and_context():
    with Loopback(bad_request=True) as s:
        assert post(s)[0] == 400
        s.set(bad_request='no such parameter')
        assert json.loads(post(s)[2])['error']['message'] == 'no such parameter'
        s.set(bad_request=False, context_over=100)
        assert post(s)[0] == 200
        status, _, text = post(s, 'x' * 101)
        assert status == 400 and json.loads(text)['error']['code'] == 'context_length_exceeded'

@pytest.mark.parametrize('flavour', ['openai', 'vllm', 'llamacpp'])
def test_flavours(flavour):
    for kind in ERRORS:
        status, ctype, body = error(kind, flavour, key='k', n=2, why='why', model='m', limit=1, tokens=2)
        assert status >= 400 and b'{' not in body.replace(b'{"', b'')
        if ctype == 'application/json':
            assert json.loads(body)['error']
    assert b'context' in error('context', flavour, limit=1, tokens=2)[2]

# ---- replies of the test's own

async def later(body):
    return 'later'

@pytest.mark.parametrize('reply,want', [
    (lambda b: b['messages'][-1]['content'].upper(), (200, 'PROMPT 1', 'stop')),
    (lambda b: ['one', 'two'], (200, 'one', 'stop')),
    (lambda b: dict(content='cut', finish_reason='length'), (200, 'cut', 'length')),
    (lambda b: dict(choices=[dict(index=0, message=dict(role='assistant', content='raw'), finish_reason='stop')]),
     (200, 'raw', 'stop')),
    (later, (200, 'later', 'stop')),
    (lambda b: (418, dict(error='teapot')), (418, None, None)),
    (lambda b: 1 / 0, (400, None, None))])
def test_reply(reply, want):
    with Loopback(reply=reply) as s:
        status, _, text = post(s)
    choice = json.loads(text).get('choices', [{}])[0]
    assert (status, choice.get('message', {}).get('content'), choice.get('finish_reason')) == want

def test_reply_may_decline_and_is_counted():
    with Loopback(reply=lambda b: 'judged' if 'judge' in b['messages'][-1]['content'] else None) as s:
        assert texts(s, 'judge this', n=2) == ['judged'] * 2 and 'boxed' in texts(s)[0]
        assert s.stats()['samples'] == 3 and s.stats()['prompts'] == 1

# ---- HTTP

def test_models_health_and_others():
    with Loopback(model='tiny') as s:
        assert ask(s.base_url + '/models')['data'][0]['id'] == 'tiny' and ask(s.url + '/health') == {'status': 'ok'}
        assert urlcode(s.url + '/nowhere', None) == 404 and s.stats()['requests'] == 0

def raw(s, data, wait=.3):
    "What comes back for these bytes, sent one part at a time."
    with socket.create_connection(('127.0.0.1', s.port), timeout=wait) as c:
        for part in data:
            c.sendall(part)
            time.sleep(.02)
        out = b''
        try:
            while got := c.recv(65536):
                out += got
        except TimeoutError:
            pass
    return out

def test_keep_alive_parts_chunks_and_expect():
    body = json.dumps(dict(messages=[dict(role='user', content='hé')]), ensure_ascii=False).encode()
    head = b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n'
    plain = head + b'Content-Length: %d\r\n\r\n' % len(body) + body
    half = len(body) // 2
    parts = body[:half], body[half:]
    chunks = b''.join(b'%x;ext=1\r\n%s\r\n' % (len(x), x) for x in parts) + b'0\r\nTrailer: 1\r\n\r\n'
    chunked = head + b'Transfer-Encoding: chunked\r\n\r\n' + chunks
    with Loopback() as s:
        pieces = [plain[:10], plain[10:-5], plain[-5:], chunked[:-20], chunked[-20:], plain + plain]
        assert raw(s, pieces).count(b'HTTP/1.1 200 OK') == 4
        assert s.stats()['connections'] == 1 and {e['prompt'] for e in s.log} == {'hé'}
        expect = head + b'Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n' % len(body)
        out = raw(s, [expect, body], wait=5)
        assert out.startswith(b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK') and b'connection: close' in out
        assert raw(s, [b'nonsense\r\n\r\n'], wait=5).startswith(b'HTTP/1.1 400')
        assert raw(s, [head + b'Connection: close\r\nContent-Length: 3\r\n\r\n{"a'], wait=5).startswith(b'HTTP/1.1 400')

def test_requests_sent_before_the_answer_wait_their_turn():
    body = json.dumps(dict(messages=[dict(role='user', content='p')])).encode()
    one = b'POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n' % len(body) + body
    with Loopback(median=.02, sigma=.1) as s:
        assert raw(s, [one * 3]).count(b'200 OK') == 3 and s.stats()['max_inflight'] == 1

def test_outage():
    with Loopback(median=1., sigma=.01) as s:
        url = s.base_url
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(post, s)
            while not s.stats()['inflight']:
                time.sleep(.01)
            s.stop()
            pytest.raises(OSError, waiting.result, 5)
        with pytest.raises(OSError) as e:
            post(s)
        assert isinstance(e.value.reason, ConnectionRefusedError)
        s.start()
        s.set(median=0.)
        assert s.base_url == url and post(s)[0] == 200
        assert s.stats()['lost'] == 1 and s.stats()['by_status'] == {'lost': 1, '200': 1}

def test_a_client_that_goes_away_has_lost_its_sample():
    with Loopback(median=1., sigma=.01) as s:
        pytest.raises(TimeoutError, post, s, timeout=.05)
        while s.stats()['inflight']:
            time.sleep(.01)
        assert s.stats()['lost'] == 1 and s.stats()['samples'] == 0 and s.log[0]['status'] is None

def test_process_of_its_own():
    with spawn(median=0, answers=['X', 'Y'], rate=1.) as s:
        assert r'\boxed{X}' in texts(s)[0] and s.stats()['samples'] == 1
        s.set(fault='500')
        assert post(s)[0] == 500 and s.stats()['by_status'] == {'200': 1, '500': 1}
        s.reset(fault=None)
        assert s.stats()['requests'] == 0 and r'\boxed{X}' in texts(s)[0] and s.stats()['cpu'] < 1
    pytest.raises(OSError, ask, s.url + '/stats')
