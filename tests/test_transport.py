"How requests are sent and replies are read: streams, limits, redirects, refusals, addresses, models, keys."
import asyncio
import gzip
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import read_jsonl, rows, rsr, write_jsonl

from rsr.data.http_client import CannotConnect, Connection, CutOff, HttpFailure, Session
from rsr.data.types import RsrError
from rsr.sampling.errors import CallError
from rsr.sampling.providers import make_sampler
from rsr.sampling.samplers import HttpSampler

A = r'The answer is \boxed{A}'
ASK = [dict(role='user', content='2 + 2 = ?')]
USAGE = dict(prompt_tokens=9, completion_tokens=7)


# ---- a server whose answers are functions

class Server(ThreadingHTTPServer):
    "Answers with `reply(handler, body)`; `seen`: (path, headers, body) of each request; `gets`: the paths of GET."
    daemon_threads, request_queue_size = True, 256
    def handle_error(self, *a):
        pass   # the client has hung up
    def __init__(self, reply, models=None):
        self.reply, self.models, self.seen, self.gets = reply, models, [], []
        super().__init__(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.serve_forever, args=(.02,), daemon=True).start()
    @property
    def host(self):
        return f'http://127.0.0.1:{self.server_port}'
    @property
    def url(self):
        return f'{self.host}/v1'

class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = 'HTTP/1.1', 1 << 16, True
    def log_message(self, *a):
        pass
    def do_GET(self):
        self.server.gets.append(self.path)
        if self.path.split('?')[0].endswith('/models') and self.server.models is not None:
            return self.send(200, dict(object='list', data=[dict(id=m, object='model') for m in self.server.models]))
        self.send(404, dict(error=dict(message='no such page')))
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.server.seen.append((self.path, dict(self.headers), body))
        try:
            out = self.server.reply(self, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            return
        if out is not None:
            self.send(*(out if isinstance(out, tuple) else (200, out)))
    def send(self, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for k, v in {'Content-Type': 'application/json', **dict(headers), 'Content-Length': str(len(data))}.items():
            self.send_header(k, v)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
    def start(self, **headers):
        "Begin a chunked reply."
        self.send_response(200)
        for k, v in {'Content_Type': 'text/event-stream', 'Transfer_Encoding': 'chunked', **headers}.items():
            self.send_header(k.replace('_', '-'), v)
        self.end_headers()
    def chunk(self, data):
        self.wfile.write(b'%x\r\n%s\r\n' % (len(data), data))
        self.wfile.flush()

@pytest.fixture
def serve():
    made = []
    def start(reply, models=None):
        made.append(Server(reply, models))
        return made[-1]
    yield start
    for s in made:
        s.shutdown()
        s.server_close()

def completion(*texts, finish='stop', **fields):
    messages = [dict(role='assistant', content=t) for t in texts]
    choices = [dict(index=i, message=m, finish_reason=finish) for i, m in enumerate(messages)]
    return dict(choices=choices, usage=USAGE, **fields)

def plain(handler, body):
    return completion(*[A]*(body.get('n') or 1))

def ask(sampler, n=1, times=1, **params):
    "The rollouts of a request, or of several at once."
    async def go():
        try:
            out = await asyncio.gather(*[sampler.ask(ASK, n, **params) for _ in range(times)])
            return out[0] if times == 1 else out
        finally:
            await sampler.close()
    return asyncio.run(go())

def error(sampler, **kw):
    with pytest.raises(CallError) as e:
        ask(sampler, **kw)
    return e.value


# ---- streams

def event(**choice):
    return b'data: '+json.dumps(dict(choices=[choice])).encode()+b'\n\n'

def said(*texts, finish='stop', index=0):
    "The events of one choice."
    pieces = [event(index=index, delta=dict(content=t)) for t in texts]
    return b''.join(pieces)+event(index=index, delta={}, finish_reason=finish)

DONE = b'data: [DONE]\n\n'
LAST = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 7}}\n\n'

STREAMS = {
    'as OpenAI sends it': event(index=0, delta=dict(role='assistant', content=''))+said('Füü', ' fünf')+LAST+DONE,
    'comments': b': OPENROUTER PROCESSING\n\n:\n\n'+said('Füü', ' fünf').replace(b'\n\n', b'\n\n: ping\n\n')+LAST+DONE,
    'no space after data:': said('Füü', ' fünf').replace(b'data: ', b'data:')+LAST+DONE,
    'CRLF': (said('Füü', ' fünf')+LAST+DONE).replace(b'\n', b'\r\n'),
    'CR': (said('Füü', ' fünf')+LAST+DONE).replace(b'\n', b'\r'),
    'ids and names': said('Füü', ' fünf').replace(b'data: ', b'id: 1\nevent: message\nretry: 10\ndata: ')+LAST+DONE,
    'data of several lines': said('Füü', ' fünf').replace(b'"choices": ', b'\ndata: "choices":\ndata: ')+LAST+DONE,
    'one line each': (said('Füü', ' fünf')+LAST+DONE).replace(b'\n\n', b'\n'),
    'without [DONE]': said('Füü', ' fünf')+LAST,
    'without the last line end': (said('Füü', ' fünf')+LAST).rstrip(b'\n'),
    'only [DONE]': event(index=0, delta=dict(content='Füü fünf'))+LAST+DONE,
    'usage in each': said('Füü', ' fünf').replace(b']}', b'], "usage": '+json.dumps(USAGE).encode()+b'}')+DONE,
    'usage in the choice': event(index=0, delta=dict(content='Füü fünf'))
        + event(index=0, delta={}, finish_reason='stop', usage=USAGE)+DONE,
    'empty finish reasons': event(index=0, delta=dict(content='Füü'), finish_reason='')
        + event(index=0, delta=dict(content=' fünf'), finish_reason='null')
        + event(index=0, delta=None, finish_reason='stop')+LAST+DONE,
    'a message, growing': event(index=0, message=dict(content='Füü'))
        + event(index=0, message=dict(content='Füü fünf'), finish_reason='stop')+LAST+DONE,
    'both': event(index=0, delta=dict(content='Füü'), message=dict(content='Füü'))
        + event(index=0, delta=dict(content=' fünf'), message=dict(content='Füü fünf'), finish_reason='stop')+LAST+DONE,
    'no index': said('Füü', ' fünf').replace(b'"index": 0, ', b'')+LAST+DONE,
    'a broken tail': said('Füü', ' fünf')+LAST+b'data: {"choi',
    'a byte order mark': b'\xef\xbb\xbf'+said('Füü', ' fünf')+LAST+DONE,
}

@pytest.mark.parametrize('name', STREAMS)
@pytest.mark.parametrize('size', [1, 7, 10**6])
def test_streams(serve, name, size):
    stream = STREAMS[name]
    def reply(handler, body):
        assert body['stream'] is True and body['stream_options'] == dict(include_usage=True)
        handler.start()
        for i in range(0, len(stream), size):
            handler.chunk(stream[i:i+size])
        handler.wfile.write(b'0\r\n\r\n')
    s = serve(reply)
    r, = ask(HttpSampler('m', s.url, stream=True))
    reason = None if name == 'only [DONE]' else 'stop'
    assert (r.text, r.outcome, r.finish_reason) == ('Füü fünf', 'kept', reason)
    assert (r.prompt_tokens, r.completion_tokens) == (9, 7)

def test_text_cut_inside_a_character(serve):
    delta = b'{"content": "\xf0\x9f\x98\x80 \xc3\xa4"}'
    stream = b'data: {"choices": [{"delta": '+delta+b', "finish_reason": "stop"}]}\n\n'+DONE
    def reply(handler, body):
        handler.start()
        for i in range(len(stream)):
            handler.chunk(stream[i:i+1])
        handler.wfile.write(b'0\r\n\r\n')
    r, = ask(HttpSampler('m', serve(reply).url, stream=True))
    assert r.text == '😀 ä'

def test_choices_come_in_any_order(serve):
    parts = [event(index=2, delta=dict(content='c')), event(index=0, delta=dict(reasoning_content='hm ', content=None)),
             event(index=1, delta=dict(reasoning='so ')), event(index=0, delta=dict(reasoning_content='hm')),
             event(index=1, delta=dict(reasoning='be it')), event(index=1, delta=dict(content='b')),
             said(index=2, finish='length'), event(index=0, delta=dict(content='a')), said(index=0), said(index=1)]
    s = serve(lambda h, b: (200, b''.join(parts)+LAST+DONE))
    out = ask(HttpSampler('m', s.url, stream=True), n=3)
    assert [(r.text, r.reasoning, r.outcome) for r in out] == [('a', 'hm hm', 'kept'), ('b', 'so be it', 'kept'),
                                                               ('c', '', 'truncated')]
    assert sum(r.completion_tokens for r in out) == 7 and s.seen[0][2]['n'] == 3

def test_tool_calls_are_put_together():
    from rsr.sampling.events import Events
    def call(**piece):
        return dict(choices=[dict(index=0, delta=dict(tool_calls=[piece]))])
    e = Events()
    for piece in (dict(index=0, id='a', type='function', function=dict(name='add', arguments='')),
                  dict(index=0, function=dict(arguments='{"x": ')),
                  dict(index=1, id='b', function=dict(name='mul', arguments='{}')),
                  dict(index=0, id='a', function=dict(name='add', arguments='2}'))):
        e.take(call(**piece))
    e.take(dict(choices=[dict(index=0, delta={}, finish_reason='tool_calls')]))
    calls = e.reply()['choices'][0]['message']['tool_calls']
    assert [(c['id'], c['function']) for c in calls] == [('a', dict(name='add', arguments='{"x": 2}')),
                                                         ('b', dict(name='mul', arguments='{}'))]
    e = Events()
    for id, name in ('a', 'add'), ('b', 'mul'):
        e.take(call(id=id, function=dict(name=name, arguments='{}')))
    e.done = True
    assert [c['function']['name'] for c in e.reply()['choices'][0]['message']['tool_calls']] == ['add', 'mul']

HALF = event(index=0, delta=dict(content='It is 4'))
BROKEN = {
    'cut': (HALF, 'malformed', 'ended before'), 'cut in an event': (HALF+said('.')[:30], 'malformed', 'not JSON'),
    'one of two finished': (HALF+said('4', index=1), 'malformed', 'ended before'),
    'error object': (HALF+b'data: {"error": {"message": "overloaded", "code": 503}}\n\n'+DONE, 'server', 'overloaded'),
    'error text': (HALF+b'data: {"error": "overloaded"}\n\n', 'server', 'overloaded'),
    'error, rate': (HALF+b'data: {"error": {"message": "slow down", "code": 429}}\n\n', 'rate', 'slow down'),
    'event: error': (HALF+b'event: error\ndata: {"message": "no slot"}\n\n', 'server', 'no slot'),
    'object: error': (HALF+b'data: {"object": "error", "message": "no slot", "code": 503}\n\n', 'server', 'no slot'),
    'not JSON': (b'data: It is 4\n\n'+DONE, 'malformed', 'not JSON'),
    'only comments': (b': ping\n\n'*9, 'malformed', ''),
    'only [DONE]': (DONE, 'malformed', 'choices'),
    'choices a number': (b'data: {"choices": 7}\n\n'+DONE, 'malformed', ''),
    'choice a list': (b'data: {"choices": [[1]]}\n\n'+DONE, 'malformed', ''),
    'index a text': (b'data: {"choices": [{"index": "x", "delta": {}}]}\n\n'+DONE, 'malformed', ''),
    'delta a text': (b'data: {"choices": [{"delta": "x"}]}\n\n'+DONE, 'malformed', ''),
    'tool_calls a number': (b'data: {"choices": [{"delta": {"tool_calls": 1}}]}\n\n'+DONE, 'malformed', ''),
    'invalid UTF-8': (b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n'+DONE, 'malformed', ''),
}

@pytest.mark.parametrize('name', BROKEN)
def test_broken_streams(serve, name):
    stream, kind, words = BROKEN[name]
    e = error(HttpSampler('m', serve(lambda h, b: (200, stream)).url, stream=True))
    assert e.kind == kind and words in str(e)

def test_a_connection_that_breaks(serve):
    def reply(handler, body):
        handler.start()
        handler.chunk(said('4') if body['model'] == 'finished' else HALF)
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
    s = serve(reply)
    assert error(HttpSampler('half', s.url, stream=True)).kind == 'server'
    assert ask(HttpSampler('finished', s.url, stream=True))[0].text == '4'

def test_a_stream_that_stays_open(serve):
    "The reply is there with [DONE]; a finished one without [DONE] is taken when the time is over."
    def reply(handler, body):
        handler.start()
        handler.chunk(said('4')+(DONE if body['model'] == 'done' else b''))
        try:
            for _ in range(100):
                handler.chunk(b': ping\n\n')
                time.sleep(.1)
        except OSError:
            pass
        handler.close_connection = True
    s = serve(reply)
    start = time.monotonic()
    assert ask(HttpSampler('done', s.url, stream=True, timeout=30))[0].text == '4'
    assert time.monotonic()-start < 8
    assert ask(HttpSampler('open', s.url, stream=True, timeout=1))[0].text == '4'
    assert error(HttpSampler('open', s.url, stream=True, timeout=1), n=2).kind == 'timeout'

@pytest.mark.parametrize('kind', ['text/event-stream', 'application/json', 'text/plain'])
def test_events_that_nobody_asked_for(serve, kind):
    s = serve(lambda h, b: (200, b': ping\n\n'+said('It is 4')+DONE, {'Content-Type': kind}))
    assert ask(HttpSampler('m', s.url))[0].text == 'It is 4'
    assert 'stream' not in s.seen[0][2]
    whole = json.dumps(completion('It is 4')).encode()+b'\n\ndata: [DONE]\n'
    s = serve(lambda h, b: (200, whole, {'Content-Type': kind}))
    assert ask(HttpSampler('m', s.url, stream=True))[0].text == 'It is 4'

def test_stream_options_that_a_server_refuses(serve):
    def reply(handler, body):
        if 'stream_options' in body:
            return 400, dict(error=dict(message='Unrecognized request argument supplied: stream_options'))
        return 200, said('4')+DONE
    s = serve(reply)
    sampler = HttpSampler('m', s.url, stream=True)
    assert [r.text for r, in ask(sampler, times=5)] == ['4']*5
    assert ['stream_options' in b for *_, b in s.seen].count(False) == 5
    ask(sampler)
    assert 'stream_options' not in s.seen[-1][2] and len(s.seen) <= 11

def test_stream_in_extra_params(serve):
    s = serve(lambda h, b: (200, said('4')+DONE))
    assert ask(HttpSampler('m', s.url, extra_params=dict(stream=True)))[0].text == '4'
    assert s.seen[-1][2]['stream'] is True and 'stream_options' in s.seen[-1][2]
    ask(HttpSampler('m', s.url, stream=True, extra_params=dict(stream_options=None)))
    assert 'stream_options' not in s.seen[-1][2]
    ask(HttpSampler('m', s.url, stream=True, extra_params=dict(stream=False)))
    assert s.seen[-1][2]['stream'] is False and 'stream_options' not in s.seen[-1][2]

STREAM_ONLY = ['This model only support stream mode, please enable the stream parameter to access the model. ',
               'parameter.enable_thinking must be set to false for non-streaming calls', 'Stream must be set to true',
               'Non-stream request is not supported']

@pytest.mark.parametrize('words', STREAM_ONLY)
def test_a_server_that_only_streams_says_what_to_set(serve, words):
    s = serve(lambda h, b: (200, said('4')+DONE) if b.get('stream') else (400, dict(error=dict(message=words))))
    e = error(HttpSampler('m', s.url), n=4)
    assert words.strip() in str(e) and 'sampler.stream=true' in str(e) and len(s.seen) == 1
    assert ask(HttpSampler('m', s.url, stream=True))[0].text == '4'


# ---- what is no part of the fingerprint

def test_the_fingerprint_is_as_it_was():
    url = 'http://localhost:8000/v1'
    old = dict(type='openai-compatible-api', model='m', base_url=url, temperature=.7, top_p=1.0)
    assert HttpSampler('m', url).config == old
    assert HttpSampler('m', url, stream=True, max_body_mb=1).config == old
    assert HttpSampler('', url).config == {k: v for k, v in old.items() if k != 'model'}
    assert HttpSampler('m', url, extra_params=dict(stream=True)).config == {**old, 'extra_params': dict(stream=True)}

def test_learnt_refusals_do_not_enter_the_fingerprint(serve):
    def reply(handler, body):
        if 'top_p' in body or 'max_tokens' in body:
            return 400, dict(error=dict(message='top_p and max_tokens are not supported, use max_completion_tokens'))
        return plain(handler, body)
    sampler = HttpSampler('m', serve(reply).url)
    before = sampler.config
    ask(sampler)
    assert sampler.config == before and before['top_p'] == 1.0


# ---- refusals

PAIR = '`temperature` and `top_p` cannot both be specified for this model. Please use only one.'

def refuse_pair(handler, body):
    if 'temperature' in body and 'top_p' in body:
        return 400, dict(error=dict(message=PAIR, type='invalid_request_error'))
    return plain(handler, body)

def test_temperature_and_top_p(serve):
    s = serve(refuse_pair)
    sampler = HttpSampler('m', s.url)
    assert all(r.text == A for out in ask(sampler, n=2, times=8) for r in out)
    count = len(s.seen)
    ask(sampler)
    assert len(s.seen) == count+1 and 'top_p' not in s.seen[-1][2] and s.seen[-1][2]['temperature'] == .7
    assert sampler.max_n > 4

def test_a_top_p_that_was_set_is_not_dropped(serve):
    s = serve(refuse_pair)
    e = error(HttpSampler('m', s.url, top_p=.9))
    assert PAIR in str(e) and 'sampler.top_p=1.0' in str(e) and len(s.seen) == 1

def test_top_p_is_sent_if_it_says_anything(serve):
    s = serve(plain)
    ask(HttpSampler('m', s.url))
    assert 'top_p' not in s.seen[-1][2]
    ask(HttpSampler('m', s.url, top_p=.9))
    assert s.seen[-1][2]['top_p'] == .9
    ask(HttpSampler('m', s.url, extra_params=dict(top_p=1.)))   # to servers with a default of their own
    assert s.seen[-1][2]['top_p'] == 1.

def test_a_top_p_of_one_that_is_refused_is_dropped(serve):
    s = serve(refuse_pair)
    sampler = HttpSampler('m', s.url, extra_params=dict(top_p=1.))
    ask(sampler)
    assert 'top_p' not in s.seen[-1][2]

RENAMED = ["Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
           'max_tokens is not supported for this model, please use max_completion_tokens',
           '`max_tokens` is deprecated; use `max_completion_tokens`']

@pytest.mark.parametrize('words', RENAMED)
@pytest.mark.parametrize('given', [{}, dict(max_completion_tokens=64)])
def test_max_completion_tokens(serve, words, given):
    def reply(handler, body):
        if 'max_tokens' in body:
            return 400, dict(error=dict(message=words, param='max_tokens', code='unsupported_parameter'))
        return plain(handler, body)
    s = serve(reply)
    sampler = HttpSampler('m', s.url, max_tokens=32, extra_params=given)
    assert len(ask(sampler, n=4, times=6)) == 6
    count = len(s.seen)
    ask(sampler, n=4)
    assert len(s.seen) == count+1
    body = s.seen[-1][2]
    assert body['max_completion_tokens'] == (64 if given else 32) and 'max_tokens' not in body and body['n'] == 4

def test_max_tokens_where_the_new_name_is_unknown(serve):
    def reply(handler, body):
        if 'max_completion_tokens' in body:
            loc = ['body', 'max_completion_tokens']
            return 422, dict(detail=[dict(type='extra_forbidden', loc=loc, msg='Extra inputs are not permitted')])
        return plain(handler, body)
    s = serve(reply)
    sampler = HttpSampler('m', s.url, extra_params=dict(max_tokens=None, max_completion_tokens=64))
    ask(sampler, times=3)
    assert s.seen[-1][2]['max_tokens'] == 64

def test_a_server_that_takes_neither_name(serve):
    def reply(handler, body):
        name = next(k for k in body if k.startswith('max_'))
        return 400, dict(error=dict(message=f'{name} is not supported'))
    s = serve(reply)
    e = error(HttpSampler('m', s.url), n=1)
    assert 'not supported' in str(e) and len(s.seen) <= 3

@pytest.mark.parametrize('words', ["'max_tokens' or 'max_completion_tokens' is too large: 1000. This model's maximum "
                                   'context length is 4096 tokens', 'max_tokens: must be at most 8192',
                                   'Invalid max_tokens value, the valid range of max_tokens is [1, 8192]'])
def test_a_limit_that_is_too_high_is_not_sent_under_another_name(serve, words):
    s = serve(lambda h, b: (400, dict(error=dict(message=words))))
    error(HttpSampler('m', s.url))
    assert [k for *_, b in s.seen for k in b if k.startswith('max')] == ['max_tokens']*len(s.seen)

def test_all_refusals_at_once(serve):
    def reply(handler, body):
        if 'max_tokens' in body:
            return 400, dict(error=dict(message=RENAMED[0]))
        if 'top_p' in body:
            return 400, dict(error=dict(message="Unsupported parameter: 'top_p' is not supported with this model."))
        if body.get('n', 1) > 1:
            return 400, dict(error=dict(message='Invalid n value (currently only n = 1 is supported)'))
        return plain(handler, body)
    s = serve(reply)
    sampler = HttpSampler('m', s.url, extra_params=dict(top_p=1.))
    assert len(ask(sampler, n=4)) == 1 and sampler.max_n == 1 and len(s.seen) == 4
    ask(sampler)
    assert len(s.seen) == 5

@pytest.mark.parametrize('words, fix', [
    ("Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
     'sampler.temperature=1'),
    ("Unsupported parameter: 'temperature' is not supported with this model.", 'temperature: null')])
def test_the_temperature_is_not_changed(serve, words, fix):
    s = serve(lambda h, b: (400, dict(error=dict(message=words))))
    e = error(HttpSampler('m', s.url), n=2)
    assert words in str(e) and fix in str(e) and len(s.seen) == 1

def test_a_refused_prompt_is_no_refusal_of_n(serve):
    "The error of the single request is raised, and others still get several choices."
    def reply(handler, body):
        if body['messages'][-1]['content'] == 'bad':
            return 400, dict(error=dict(message=f"This does not please us, n={body.get('n', 1)}"))
        if body['messages'][-1]['content'] == 'moody' and body.get('n', 1) > 1:
            return 400, dict(error=dict(message='Try again with a different prompt'))
        return plain(handler, body)
    s = serve(reply)
    sampler = HttpSampler('m', s.url)
    async def go():
        with pytest.raises(CallError) as e:
            await sampler.ask([dict(role='user', content='bad')], 4)
        several = len(await sampler.ask(ASK, 4))
        await sampler.ask([dict(role='user', content='moody')], 4)
        out = str(e.value), several, len(await sampler.ask(ASK, 4))
        await sampler.close()
        return out
    message, *counts = asyncio.run(go())
    assert 'n=1' in message and counts == [4, 4]


# ---- models of a server

def run(tmp_path, url, *options, n=3, recipe='sft'):
    path = write_jsonl(tmp_path/'prompts.jsonl', rows(n))
    return rsr('run', recipe, f'data.input_path={path}', f'work_dir={tmp_path}/run', f'sampler.base_url={url}',
               'sampling.max_rollouts=2', 'sampler.patience=5', *options)

def test_the_only_model_is_used_and_said(serve, tmp_path):
    s = serve(plain, models=['org/model-7b', 'text-embedding-small'])
    res = run(tmp_path, s.url)
    assert res.returncode == 0, res.stderr
    assert res.stderr.count('org/model-7b') == 1 and 'sampler.model' in res.stderr
    assert {b['model'] for *_, b in s.seen} == {'org/model-7b'} and len(s.gets) == 1
    assert len(read_jsonl(tmp_path/'run/train/sft.jsonl')) == 3
    assert "\n  model: ''  # default ''\n" in (tmp_path/'run/recipe.yaml').read_text()

def test_several_models(serve, tmp_path):
    s = serve(plain, models=['a-1', 'b-2'])
    res = run(tmp_path, s.url)
    assert res.returncode == 2 and 'sampler.model is missing; this server has: a-1, b-2' in res.stderr
    assert not s.seen and not (tmp_path/'run').exists()

def test_an_existing_run_without_a_model_resumes(serve, tmp_path):
    s = serve(plain)
    assert run(tmp_path, s.url).returncode == 0
    s.models = ['a-1', 'b-2']
    res = run(tmp_path, s.url, n=5)
    assert res.returncode == 0, res.stderr
    s.models = ['a-1']
    assert run(tmp_path, s.url, n=7).returncode == 0
    assert [b['model'] for *_, b in s.seen] == ['']*5+['a-1']*2

@pytest.mark.parametrize('models', [None, []])
def test_a_server_that_lists_no_models(serve, tmp_path, models):
    s = serve(plain, models=models)
    res = run(tmp_path, s.url)
    assert res.returncode == 0 and {b['model'] for *_, b in s.seen} == {''}

def test_a_named_model_is_not_looked_up(serve, tmp_path):
    s = serve(plain, models=['a-1', 'b-2'])
    assert run(tmp_path, s.url, 'sampler.model=c-3').returncode == 0 and not s.gets
    assert run(tmp_path, s.url, 'sampler.extra_params={model: c-3}', f'work_dir={tmp_path}/other').returncode == 0
    assert not s.gets

@pytest.mark.parametrize('status, words', [(404, 'The model `c-3` does not exist.'), (400, 'Model Not Exist'),
                                           (400, 'c-3 is not a valid model ID')])
def test_a_model_that_the_server_does_not_have(serve, status, words):
    s = serve(lambda h, b: (status, dict(error=dict(message=words))), models=['a-1', 'b-2'])
    sampler = HttpSampler('c-3', s.url)
    async def go():
        out = await asyncio.gather(*[sampler.ask(ASK) for _ in range(9)], return_exceptions=True)
        await sampler.close()
        return out
    out = asyncio.run(go())
    assert all('this server has: a-1, b-2' in str(e) and words in str(e) for e in out) and len(s.gets) == 1

def test_a_missing_v1(serve, tmp_path):
    s = serve(lambda h, b: (404, dict(error=dict(message='no such page'))))
    res = run(tmp_path, s.host, 'sampler.model=m')
    assert res.returncode == 1 and '/v1' in res.stderr

def test_the_judge_has_its_own_names(serve, tmp_path):
    s = serve(plain, models=['a-1', 'b-2'])
    res = run(tmp_path, s.url, 'sampler.model=m', 'verifier.type=mcq-llm-as-judge', f'verifier.base_url={s.url}')
    assert res.returncode == 2 and 'verifier.model is missing; this server has: a-1, b-2' in res.stderr and not s.seen


# ---- addresses

@pytest.mark.parametrize('url, better', [
    ('localhost:8000/v1', 'http://localhost:8000/v1'), ('127.0.0.1:8000/v1', 'http://127.0.0.1:8000/v1'),
    ('api.example.org/v1', 'https://api.example.org/v1'), (' http://localhost:8000/v1 ', 'http://localhost:8000/v1'),
    ('http://localhost:8000 /v1', 'http://localhost:8000/v1'), ('http:/localhost:8000/v1', 'http://localhost:8000/v1'),
    ('//localhost:8000/v1', 'http://localhost:8000/v1'), ('ftp://api.example.org/v1', 'https://api.example.org/v1'),
    ('htps://api.example.org/v1', 'https://api.example.org/v1'), ('http://', None), ('http:///v1', None),
    ('http://localhost:port/v1', None), ('http://localhost:99999/v1', None), ('http://[::1/v1', None), ('/v1', None)])
def test_a_wrong_address(here, url, better):
    write_jsonl('p.jsonl', rows(1))
    res = rsr('run', 'sft', 'data.input_path=p.jsonl', 'work_dir=run', f'sampler.base_url={url}', 'sampler.model=m')
    assert res.returncode == 2 and 'sampler.base_url' in res.stderr and 'Traceback' not in res.stderr
    assert f'sampler.base_url={better}' in res.stderr if better else 'looks like http://' in res.stderr
    assert not (here/'run').exists()

def test_a_wrong_address_of_a_judge(here, server):
    write_jsonl('p.jsonl', rows(1))
    res = rsr('run', 'sft', 'data.input_path=p.jsonl', f'sampler.base_url={server.base_url}', 'sampler.model=m',
              'verifier.type=mcq-llm-as-judge', 'verifier.base_url=localhost:1/v1', 'verifier.model=m', 'work_dir=run')
    assert res.returncode == 2 and 'verifier.base_url=http://localhost:1/v1' in res.stderr

def test_no_secret_in_the_message_about_an_address():
    with pytest.raises(RsrError) as e:
        make_sampler(base_url='me:sesame-42@localhost:8000/v1?key=sesame-43', model='m').prepare()
    assert 'sesame' not in str(e.value) and 'http://***@localhost:8000/v1' in str(e.value)

@pytest.mark.parametrize('tail, path', [
    ('/v1', '/v1/chat/completions'), ('/v1/', '/v1/chat/completions'), ('/v1/chat/completions', '/v1/chat/completions'),
    ('/v1/chat/completions/', '/v1/chat/completions'), ('', '/chat/completions'),
    ('/d/chat/completions?api-version=1', '/d/chat/completions?api-version=1'),
    ('/d?api-version=1', '/d/chat/completions?api-version=1')])
def test_where_requests_go(serve, tail, path):
    s = serve(plain)
    ask(HttpSampler('m', s.host+tail))
    assert s.seen[0][0] == path

@pytest.mark.parametrize('options, want', [
    ({}, 'Bearer sk-environment'), (dict(api_key='sk-own'), 'Bearer sk-own'),
    (dict(api_key='sk-own\n'), 'Bearer sk-own'),
    (dict(login='me:pass'), 'Basic bWU6cGFzcw=='), (dict(login='token'), 'Basic dG9rZW46'),
    (dict(login='me:pass', api_key='sk-own'), 'Bearer sk-own'), (dict(headers=dict(authorization='Own 1')), 'Own 1'),
    (dict(login='me:pass', headers=dict(Authorization='Own 1')), 'Own 1')])
def test_which_key_is_sent(serve, monkeypatch, options, want):
    monkeypatch.delenv('RSR_API_KEY', raising=False)
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-environment')
    s, login = serve(plain), options.pop('login', None) if options else None
    url = s.url.replace('//', f'//{login}@') if login else s.url
    ask(HttpSampler('m', url, **options))
    sent = {k.lower(): v for k, v in s.seen[0][1].items()}
    assert sent['authorization'] == want and list(map(str.lower, s.seen[0][1])).count('authorization') == 1

def test_headers_of_any_value(serve):
    s = serve(plain)
    ask(HttpSampler('m', s.url, headers={'X-Team': 7, 'content-type': 'application/x-json'}))
    assert s.seen[0][1]['X-Team'] == '7' and s.seen[0][1]['content-type'] == 'application/x-json'
    assert error(HttpSampler('m', s.url, headers={'X-Team': 'a\nb'})).kind == 'fatal'

def test_half_a_character_in_a_prompt(serve):
    s = serve(plain)
    async def go():
        sampler = HttpSampler('m', s.url)
        out = await sampler.ask([dict(role='user', content='half \ud83d')])
        await sampler.close()
        return out
    assert asyncio.run(go())[0].text == A


# ---- redirects

def test_a_redirect_within_the_server_is_followed(serve):
    def reply(handler, body):
        if '?r' in handler.path:
            return plain(handler, body)
        return 307 if body['model'] == 'm' else 308, b'', {'Location': '/v1/chat/completions?r=1'}
    s = serve(reply)
    for model in 'm', 'o':
        assert ask(HttpSampler(model, s.url, headers={'X-Team': 'data'}))[0].text == A
        assert s.seen[-1][2] == s.seen[-2][2] and s.seen[-1][1]['X-Team'] == 'data'

@pytest.mark.parametrize('status', [301, 302, 303, 307, 308])
def test_no_prompt_and_no_header_goes_to_another_server(serve, status):
    other = serve(plain)
    target = f'{other.url}/chat/completions?token=sesame-42'
    s = serve(lambda h, b: (status, b'', {'Location': target.replace('//', '//me:sesame-43@')}))
    e = error(HttpSampler('m', s.url, api_key='sk-own', headers={'X-Key': 'sesame-44'}))
    assert e.kind == 'denied' and f'sampler.base_url={other.url}' in str(e) and 'sesame' not in str(e)
    assert not other.seen and not other.gets

def test_redirects_of_the_same_server_that_change_the_request(serve):
    s = serve(lambda h, b: (302, b'', {'Location': '/login'}), models=['a'])
    e = error(HttpSampler('m', s.url))
    assert e.kind == 'denied' and f'{s.host}/login' in str(e) and len(s.seen) == 1 and not s.gets

def test_a_redirect_to_https_is_said(serve):
    s = serve(lambda h, b: (308, b'', {'Location': h.server.url.replace('http', 'https', 1)+'/chat/completions'}))
    e = error(HttpSampler('m', s.url))
    assert e.kind == 'denied' and f"sampler.base_url={s.url.replace('http', 'https', 1)}" in str(e)

@pytest.mark.parametrize('location', [None, 'http://[::1', 'file:///etc/passwd', '/v1/chat/completions', 'http://x:y/'])
def test_redirects_that_lead_nowhere(serve, location):
    s = serve(lambda h, b: (307, b'', {'Location': location} if location else {}))
    e = error(HttpSampler('m', s.url))
    assert e.kind == 'denied' and len(s.seen) <= 6

def test_the_list_of_models_follows_no_redirect(serve, tmp_path):
    other = serve(plain, models=['theirs'])
    s = serve(plain)
    class Redirecting(Handler):
        def do_GET(self):
            self.send(307, b'', {'Location': f'{other.url}/models'})
    s.RequestHandlerClass = Redirecting
    assert run(tmp_path, s.url).returncode == 0
    assert not other.gets and {b['model'] for *_, b in s.seen} == {''}


# ---- limits

def endless(handler, piece, **headers):
    handler.start(**headers)
    while True:
        handler.chunk(piece)

def peak_after(url, times=1, **options):
    "Megabytes that a request adds to the memory of a process of its own, at most; and its error."
    prog = f'''
import asyncio, resource
from rsr.sampling.samplers import HttpSampler
from rsr.sampling.errors import CallError
import aiohttp
s = HttpSampler('m', {url!r}, timeout=100, **{options!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
async def go():
    calls = [s.ask([dict(role='user', content='x')]) for _ in range({times})]
    out = await asyncio.gather(*calls, return_exceptions=True)
    await s.close()
    return out
out = asyncio.run(go())
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after-before)//1024, {{(getattr(e, 'kind', ''), str(e)) for e in out}})
'''
    res = subprocess.run([sys.executable, '-c', prog], capture_output=True, text=True, timeout=300)
    assert res.returncode == 0, res.stderr
    mb, _, errors = res.stdout.partition(' ')
    return int(mb), errors

ZEROS = bytes(1 << 20)

@pytest.mark.parametrize('how', ['plain', 'gzip', 'deflate', 'raw deflate', 'stream', 'one line', 'comments', 'spaces'])
def test_an_endless_body(serve, how):
    def reply(handler, body):
        if how in ('gzip', 'deflate', 'raw deflate'):
            z = zlib.compressobj(9, zlib.DEFLATED, {'gzip': 31, 'deflate': 15, 'raw deflate': -15}[how])
            handler.start(Content_Encoding=how.split()[-1])
            for _ in range(6 << 10):
                if data := z.compress(ZEROS):
                    handler.chunk(data)
            return
        piece = {'plain': b'{"a": "'+b'x'*100_000, 'stream': HALF*1000, 'comments': b': ping'*10_000+b'\n\n',
                 'spaces': b' \n'*50_000, 'one line': b'data: '+b'x'*100_000}
        endless(handler, piece[how])
    mb, errors = peak_after(serve(reply).url)
    assert 'malformed' in errors and '64 MB' in errors and 'sampler.max_body_mb' in errors
    assert mb < 150

def test_many_endless_bodies_at_once(serve):
    mb, errors = peak_after(serve(lambda h, b: endless(h, b'{"a": "'+b'x'*100_000)).url, times=12)
    assert 'malformed' in errors and mb < 12*8+150, (mb, errors)

def test_an_endless_body_that_lies_about_its_length(serve):
    def reply(handler, body):
        handler.send_response(200)
        handler.send_header('Content-Length', str(10**12))
        handler.end_headers()
        while True:
            handler.wfile.write(b' '*100_000)
    e = error(HttpSampler('m', serve(reply).url, max_body_mb=1))
    assert e.kind == 'malformed' and '1 MB' in str(e)

def test_a_bomb_of_one_packet(serve):
    data = gzip.compress(gzip.compress(bytes(1 << 28)))
    s = serve(lambda h, b: (200, data, {'Content-Encoding': 'gzip, gzip'}))
    assert error(HttpSampler('m', s.url)).kind == 'malformed'
    s = serve(lambda h, b: (200, gzip.compress(b'')*100_000, {'Content-Encoding': 'gzip'}))
    start = time.monotonic()
    assert error(HttpSampler('m', s.url)).kind == 'malformed' and time.monotonic()-start < 10

def test_an_error_is_read_to_64_kilobytes(serve):
    def reply(handler, body):
        handler.send_response(400)
        handler.send_header('Transfer-Encoding', 'chunked')
        handler.end_headers()
        for _ in range(10_000):
            handler.chunk(b'no way '*10_000)
    mb, errors = peak_after(serve(reply).url)
    assert 'no way' in errors and mb < 60
    s = serve(lambda h, b: (400, gzip.compress(b'no way'+bytes(1 << 28)), {'Content-Encoding': 'gzip'}))
    mb, errors = peak_after(s.url)
    assert 'no way' in errors and mb < 60

@pytest.mark.parametrize('encoding', ['gzip', 'x-gzip', 'GZIP', 'deflate', 'raw', 'identity', '', 'utf-8'])
def test_compressed_replies(serve, encoding):
    data = json.dumps(completion('It is 4'*1000)).encode()
    pack = dict(gzip=gzip.compress, deflate=zlib.compress, raw=lambda d: zlib.compress(d)[2:-4])
    packed = pack.get(encoding.lower().removeprefix('x-'), bytes)(data)
    s = serve(lambda h, b: (200, packed, {'Content-Encoding': encoding.replace('raw', 'deflate')}))
    assert ask(HttpSampler('m', s.url))[0].text == 'It is 4'*1000
    assert s.seen[0][1]['Accept-Encoding'] == 'gzip, deflate'

@pytest.mark.parametrize('encoding, data', [('br', b'x'), ('zstd', b'x'), ('gzip', b'not gzip'), ('gzip', b''),
                                            ('gzip', gzip.compress(json.dumps(completion('4')).encode())[:-30]),
                                            ('deflate', b'\x78\x9cbroken')])
def test_compression_that_cannot_be_read(serve, encoding, data):
    s = serve(lambda h, b: (200, data, {'Content-Encoding': encoding}))
    assert error(HttpSampler('m', s.url)).kind == 'malformed'

def test_huge_headers(serve):
    s = serve(lambda h, b: (200, completion('4'), {'X-Long': 'x'*100_000}))
    assert error(HttpSampler('m', s.url)).kind == 'server'

@pytest.mark.parametrize('status', [201, 202, 204, 206])
def test_other_kinds_of_success(serve, status):
    s = serve(lambda h, b: (status, b''))
    assert error(HttpSampler('m', s.url)).kind in ('malformed', 'server')


# ---- replies that are not what HTTP says

HTTP, CHUNKED = b'HTTP/1.1 200 OK\r\n', b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
MB = 1 << 20
HOSTILE = {
    'a chunk beyond 64 bits': (CHUNKED+b'1'+b'0'*16+b'\r\nhi', HttpFailure, 'hunk size'),
    'a chunk that is cut off': (CHUNKED+b'5\r\nhe', CutOff, 'inside the reply'),
    'a chunk that is too long': (CHUNKED+b'1\r\nab\r\n0\r\n\r\n', HttpFailure, 'chunk'),
    'a chunk with an endless extension': (CHUNKED+b'1;'+b'x'*MB, HttpFailure, '65,536'),
    'a header of 1 MB': (HTTP+b'Content-Length: 0\r\nX: '+b'x'*MB+b'\r\n\r\n', HttpFailure, '65,536'),
    'trailers of 1 MB': (CHUNKED+b'2\r\nhi\r\n0\r\n'+b'X: yyyyy\r\n'*(MB//10)+b'\r\n', HttpFailure, '65,536'),
    'trailers of 70 kB in one packet': (CHUNKED+b'2\r\nhi\r\n0\r\nX: '+b'y'*70_000+b'\r\n\r\n', HttpFailure, '65,536'),
    'headers of 1 MB': (HTTP+b'X: yyyyy\r\n'*(MB//10), HttpFailure, '65,536'),
    'headers of 1 MB behind the body': (CHUNKED+b'1\r\na\r\n0\r\n'+b'X: yyyyy\r\n'*(MB//10), HttpFailure, '65,536'),
    'interim replies of 1 MB': (b'HTTP/1.1 100 Continue\r\n\r\n'*(MB//25), HttpFailure, '65,536'),
    'another protocol': (b'HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: ws\r\n\r\n',
                         HttpFailure, 'change of protocol'),
    'a length and chunks': (HTTP+b'Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n',
                            HttpFailure, 'Content-Length'),
    'two lengths': (HTTP+b'Content-Length: 1\r\nContent-Length: 2\r\n\r\nhi', HttpFailure, 'Content-Length'),
    'a negative length': (HTTP+b'Content-Length: -1\r\n\r\n', HttpFailure, 'Content-Length'),
    'a length beyond 64 bits': (HTTP+b'Content-Length: 1'+b'0'*30+b'\r\n\r\n', HttpFailure, 'Content-Length'),
    'a body that is cut off': (HTTP+b'Content-Length: 9\r\n\r\nhi', CutOff, 'inside the reply'),
    'a header on two lines': (HTTP+b'X: a\r\n b\r\nContent-Length: 0\r\n\r\n', HttpFailure, 'not HTTP'),
    'a zero in a header': (HTTP+b'X: a\0b\r\nContent-Length: 0\r\n\r\n', HttpFailure, 'not HTTP'),
    'HTTP/2': (b'\0\0\x12\x04\0\0\0\0\0', HttpFailure, 'not HTTP'),
    'a page': (b'<html>\x1b[2J', HttpFailure, 'not HTTP'),
    'nothing': (b'', HttpFailure, 'without an answer'),
    'half of the headers': (HTTP+b'Content-Le', HttpFailure, 'inside its headers'),
}
READABLE = {
    '100, then 200': (b'HTTP/1.1 100 Continue\r\nX: y\r\n\r\n'+HTTP+b'Content-Length: 2\r\n\r\nhi', b'hi', 1),
    'chunks': (CHUNKED+b'1\r\nh\r\n1;x=y\r\ni\r\n0\r\nX: y\r\n\r\n', b'hi', 1),
    'two replies at once': ((HTTP+b'Content-Length: 2\r\n\r\nhi')*2, b'hi', 2),
    'a byte too many': (HTTP+b'Content-Length: 2\r\n\r\nhi!', b'hi', 2),
    'a body behind 204': (b'HTTP/1.1 204 No Content\r\n\r\nhi', b'', 2),
    '304 with a length': (b'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n', b'', 1),
    'the last reply': (HTTP+b'Connection: close\r\nContent-Length: 2\r\n\r\nhi', b'hi', 2),
    'HTTP/1.0': (b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi', b'hi', 2),
    'HTTP/1.0, kept': (b'HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi', b'hi', 1),
    'an empty body': (HTTP+b'Content-Length: 0\r\n\r\n', b'', 1),
}

async def with_raw_server(reply, client, ends=True, size=MB, **options):
    "What a client returns of a server that answers each request with the same bytes; and its number of connections."
    connections = []
    async def serve_one(reader, writer):
        connections.append(writer)
        try:
            while True:
                head = await reader.readuntil(b'\r\n\r\n')
                await reader.readexactly(int(head.lower().partition(b'content-length: ')[2].split(b'\r')[0] or 0))
                for i in range(0, len(reply), size):
                    writer.write(reply[i:i+size])
                    await writer.drain()
                if ends:
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()
    server = await asyncio.start_server(serve_one, '127.0.0.1', **options)
    scheme = 'https' if 'ssl' in options else 'http'
    async with server, Session(timeout=60) as session:
        out = await client(session, f'{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1')
    return out, len(connections)

@pytest.mark.parametrize('name', HOSTILE)
@pytest.mark.parametrize('size', [1, MB])
def test_replies_that_are_not_http(name, size):
    reply, kind, words = HOSTILE[name]
    async def twice(session, url):
        for _ in range(2):
            with pytest.raises(kind) as e:
                async with session.request('POST', url, b'{}') as r:
                    await r.read()
            assert type(e.value) is kind and words in str(e.value) and '\x1b' not in str(e.value), str(e.value)
            assert not any(session.idle.values()) and not session.busy
    asyncio.run(with_raw_server(reply, twice, size=max(size, len(reply)//5000)))

def test_a_timeout_says_what_was_waited_for_how_long_and_which_key_sets_it():
    async def asked(url):
        sampler = HttpSampler('m', url, timeout=.2)
        sampler.section = 'verifier'
        try:
            await sampler.ask(ASK, 1)
        except CallError as e:
            return e
        finally:
            await sampler.close()
    for reply, words in (b'', 'no answer'), (HTTP+b'Content-Length: 9\r\n\r\nhi', 'the reply was not complete'):
        async def silent(reader, writer, reply=reply):
            await reader.readuntil(b'\r\n\r\n')
            writer.write(reply)
            await reader.read(-1)   # until the client gives up
            writer.close()
        async def go(silent=silent):
            async with await asyncio.start_server(silent, '127.0.0.1') as server:
                return await asked(f'http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1')
        error = asyncio.run(go())
        assert error.kind=='timeout' and str(error)==f'{words} within 0.2 s (verifier.timeout sets the limit)', error
    async def unreachable():   # a listener whose queue is full: the connection is never accepted
        with socket.socket() as listener:
            listener.bind(('127.0.0.1', 0))
            listener.listen(0)
            taken = [socket.socket() for _ in range(8)]
            for s in taken:
                s.setblocking(False)
                s.connect_ex(listener.getsockname())
            try:
                return await asked(f'http://127.0.0.1:{listener.getsockname()[1]}/v1')
            finally:
                for s in taken:
                    s.close()
    error = asyncio.run(unreachable())
    assert error.kind=='timeout' and 'no connection to 127.0.0.1:' in str(error), error
    assert str(error).endswith(' within 0.2 s (verifier.timeout sets the limit)'), error

@pytest.mark.parametrize('name', READABLE)
def test_replies_that_can_be_read(name):
    reply, body, connections = READABLE[name]
    async def twice(session, url):
        for _ in range(2):
            async with session.request('POST', url, b'{}') as r:
                assert await r.read() == body and r.is_short(len(body))
    assert asyncio.run(with_raw_server(reply, twice, ends=False))[1] == connections

def test_a_body_that_ends_with_the_connection():
    async def once(session, url):
        async with session.request('GET', url) as r:
            assert not r.is_short(10*MB) or r.is_whole
            return await r.read()
    assert asyncio.run(with_raw_server(b'HTTP/1.1 200 OK\r\n\r\n'+b'x'*MB, once)) == (b'x'*MB, 1)

def test_the_reply_to_head_has_no_body():
    async def once(session, url):
        async with session.request('HEAD', url) as r:
            return r.headers['content-length'], await r.read()
    reply = HTTP+b'Content-Length: 9\r\n\r\n'
    assert asyncio.run(with_raw_server(reply, once, ends=False))[0] == ('9', b'')

async def until(condition):
    while not condition():
        await asyncio.sleep(.005)

def test_what_nobody_asked_for_is_no_reply():
    "A server that speaks first, and one that speaks again: neither connection is used for the next request."
    reply = HTTP+b'Content-Length: 2\r\n\r\nhi'
    async def speaks(reader, writer):
        writer.write(reply)
        await reader.read()
        writer.close()
    async def first():
        async with await asyncio.start_server(speaks, '127.0.0.1') as server:
            port = server.sockets[0].getsockname()[1]
            _, conn = await asyncio.get_running_loop().create_connection(Connection, '127.0.0.1', port)
            await until(lambda: conn.is_over)
            with pytest.raises(HttpFailure, match='before it was asked'):
                await conn.ask('POST', b'POST /v1 HTTP/1.1\r\n\r\n')
            conn.transport.abort()
    asyncio.run(first())
    async def again(session, url):
        async with session.request('POST', url, b'{}') as r:
            await r.read()
        (kept,), = session.idle.values()
        kept.data_received(reply)
        async with session.request('POST', url, b'{}') as r:
            return await r.read()
    assert asyncio.run(with_raw_server(reply, again, ends=False)) == (b'hi', 2)

def test_what_nobody_reads_stays_with_the_server():
    async def slow(session, url):
        async with session.request('POST', url, b'{}') as r:
            await until(lambda: not r.conn.transport.is_reading())
            assert r.size < 2*MB
            return len(await r.read())
    body = bytes(20*MB)
    reply = HTTP+b'Content-Length: %d\r\n\r\n' % len(body)+body
    assert asyncio.run(with_raw_server(reply, slow))[0] == len(body)

@pytest.fixture
def certificate(tmp_path):
    "The file of a certificate that nobody has signed, and of its key."
    if not shutil.which('openssl'):
        pytest.skip('needs openssl')
    files = str(tmp_path/'cert.pem'), str(tmp_path/'key.pem')
    words = 'req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1'.split()
    subprocess.run(['openssl', *words, '-out', files[0], '-keyout', files[1]], check=True, capture_output=True)
    return files

def test_tls(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    async def refused(session, url):
        with pytest.raises(CannotConnect, match='certificate'):
            async with session.request('POST', url, b'{}'):
                pass
    asyncio.run(with_raw_server(b'', refused, ssl=context))
    async def trusted(session, url):
        session.tls = ssl.create_default_context(cafile=certificate[0])
        for _ in range(2):
            async with session.request('POST', url, b'{}') as r:
                body = await r.read()
        return body
    body = b'x'*5*MB
    reply = HTTP+b'Content-Length: %d\r\n\r\n' % len(body)+body
    assert asyncio.run(with_raw_server(reply, trusted, ends=False, ssl=context)) == (body, 1)
    assert asyncio.run(with_raw_server(HTTP+b'\r\n'+body, trusted, ssl=context)) == (body, 2)
    async def by_sampler(session, url):
        with pytest.raises(CallError, match='certificate') as e:
            await HttpSampler('m', url).ask(ASK)
        return e.value.kind
    assert asyncio.run(with_raw_server(b'', by_sampler, ssl=context))[0] == 'network'



# ---- keys and models of LiteLLM, and the embedded model

NAMES = 'OPENAI_API_KEY ANTHROPIC_API_KEY GROQ_API_KEY RSR_API_KEY GEMINI_API_KEY GOOGLE_API_KEY'.split()
NO_KEYS = dict.fromkeys([*NAMES, *(k for k in os.environ if k.endswith('_API_KEY'))], '')

@pytest.mark.parametrize('model, name', [('gpt-4o-mini', 'OPENAI_API_KEY'), ('anthropic/claude-x', 'ANTHROPIC_API_KEY'),
                                         ('gemini/gemini-x', 'GEMINI_API_KEY')])
def test_a_missing_key(here, model, name):
    write_jsonl('p.jsonl', rows(1))
    res = rsr('run', 'sft', 'data.input_path=p.jsonl', f'sampler.model={model}', 'work_dir=run', env=NO_KEYS)
    assert res.returncode == 2 and name in res.stderr and model in res.stderr and not (here/'run').exists()

def test_a_model_without_a_provider(here):
    write_jsonl('p.jsonl', rows(1))
    res = rsr('run', 'sft', 'data.input_path=p.jsonl', 'sampler.model=my-finetune', 'work_dir=run')
    assert res.returncode == 2 and 'openai/my-finetune' in res.stderr and 'sampler.base_url' in res.stderr

@pytest.mark.parametrize('options', [
    dict(model='ollama/llama3'), dict(model='bedrock/anthropic.claude-x'), dict(model='vertex_ai/gemini-x'),
    dict(model='openai/x', api_key='sk-own-1234'), dict(model='openai/x', headers=dict(Authorization='Own 1234')),
    dict(type='litellm', model='openai/x', base_url='http://localhost:1/v1'), dict(model='azure/x'),
    dict(model='openai/x', extra_params=dict(api_key='sk-own-1234')), dict(model='hosted_vllm/x')])
def test_where_no_key_is_asked_for(monkeypatch, options):
    for k in NO_KEYS:
        monkeypatch.delenv(k, raising=False)
    make_sampler(**options).prepare()

@pytest.mark.parametrize('name', ['OPENAI_API_KEY', 'OPENAI_BASE_URL'])
def test_a_key_in_the_environment(monkeypatch, name):
    for k in NO_KEYS:
        monkeypatch.delenv(k, raising=False)
    with pytest.raises(RsrError):
        make_sampler(model='openai/x').prepare()
    monkeypatch.setenv(name, 'http://localhost:1')
    make_sampler(model='openai/x').prepare()

def litellm_sampler(s, **options):
    return make_sampler('litellm', model='openai/m', base_url=s.url, api_key='sk-own-1234', **options)

def test_litellm_puts_streams_together(serve):
    stream = STREAMS['as OpenAI sends it']
    s = serve(lambda h, b: (200, stream, {'Content-Type': 'text/event-stream'}))
    out = ask(litellm_sampler(s, stream=True), n=3)
    assert [r.text for r in out] == ['Füü fünf'] and out[0].completion_tokens == 7 and out[0].finish_reason == 'stop'
    assert s.seen[0][2]['stream'] is True and 'n' not in s.seen[0][2]

def test_litellm_and_the_pair(serve):
    s = serve(refuse_pair)
    assert len(ask(litellm_sampler(s), n=2)) == 2 and 'top_p' not in s.seen[-1][2]
    e = error(litellm_sampler(serve(refuse_pair), top_p=.9))
    assert 'sampler.top_p=1.0' in str(e)

def test_litellm_sends_a_key_that_was_given():
    body = make_sampler(model='mistral/x', api_key='sk-own-1234')._body(ASK, 1, None)
    assert body['api_key'] == 'sk-own-1234'

@pytest.mark.parametrize('model', ['local', 'embedded'])
def test_local_is_the_embedded_model(here, model):
    assert make_sampler(model=model).config == make_sampler().config
    assert make_sampler(model=model, base_url='http://localhost:1/v1').config['model'] == model
    write_jsonl('p.jsonl', rows(1))
    res = rsr('run', 'sft', 'data.input_path=p.jsonl', f'sampler.model={model}', 'sampling.max_rollouts=1',
              'sampler.max_tokens=8', 'work_dir=run')
    assert res.returncode in (0, 4), res.stderr
    assert 'rollouts ' in rsr('stats', 'run').stdout
