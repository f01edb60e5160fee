r"""An OpenAI-compatible server on 127.0.0.1 for tests and benchmarks: seeded answers, latencies and faults.

In a test:       with Loopback(fault=['429', 'ok']) as s: … s.base_url, s.log, s.stats(), s.set(fault=None), s.stop()
In a benchmark:  with spawn(median=.1) as s: … (a process of its own), or `python tests/loopback.py --median 0.1`,
                 which prints its base URL and serves GET /stats, POST /set and POST /reset beside /v1.

The k-th choice (from 0) of a prompt is the same in every process: right or wrong, its text, its latency and its finish
reason depend only on (seed, text of the last user message, k); with `models` on the model's name too. Faults, refusals
and `reply` use up no draw."""
import argparse
import asyncio
import base64
import hashlib
import importlib
import inspect
import json
import math
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from statistics import NormalDist
from types import SimpleNamespace
from urllib.request import Request, urlopen

import orjson

OPTIONS = dict(
    seed=0,                    # of pass rates, answers, texts and latencies
    rate=None,                 # pass rate: None (Beta(.6, .6) by prompt), a float, {prompt: float} or prompt -> float
    answers=('A', 'B'),        # what stands in \boxed{} when right, when wrong
    words=20,                  # mean length of an answer
    # thinking apart: True or 'reasoning_content', 'reasoning' (the field), 'think' (tags in the content)
    reasoning=False,
    # body -> str | [str] | message | response | (status, body or raw bytes[, headers]) | None (as usual); sync or async
    reply=None,
    model='loopback-1',        # listed by GET /v1/models; any model is served
    # {name: {a, b, price: {prompt, completion}}}: only these are served, the pass rates of each are Beta(a, b), its
    # usage is TOKENS whatever is said, and it is sold at the price, in dollars per million tokens
    models=None,
    rho=.7,                    # correlation of the models' pass rates (Gaussian copula)
    median=0., sigma=.8,       # log-normal latency in seconds; median 0: at once
    per='request',             # one latency per 'request', or the slowest of its choices: 'choice'
    n_mode='honour',           # 'clamp': one choice whatever n is; 'refuse': an error where n > 1
    truncate=0., filter=0., empty=0.,    # share of choices cut by length, blocked by a filter, without text
    calls=0.,                  # share of choices that call the first tool of the request, if it has any
    image_limit=None,          # bytes of an image: 413 for a larger one
    faults={},                 # {kind: probability}, drawn per request; kinds: FAULTS and the keys of ERRORS
    # one kind for every request, or a list used up in order ('ok' or None: no fault), then none
    fault=None,
    hang_after_headers=False,  # every answer stops after its headers
    # requests per second, 429 beyond; the bucket holds `burst` (default: one second's worth)
    rate_limit=None, burst=None,
    retry_after=None,          # Retry-After on 429 and 503: seconds, or 'date'
    storm=None,                # (start, end): 429 for all, in seconds since the first request
    auth=None, echo_key=False, # the key to be sent, else 401; whether the 401 repeats the key it got
    bad_request=False,         # 400 for all; a string is its message
    context_over=None,         # more characters than this in the messages: 400, context length exceeded
    flavour='openai',          # whose error bodies: 'openai', 'vllm', 'llamacpp'
    # /classify, /pooling, /score as 'vllm' or 'sglang' has them, beside /v1; None: no such path
    rewards=None,
    # text -> its reward: a number, or a list; None: drawn by the text; 'short': a row too few, 'nan', 'text'
    reward=None,
    log=True)                  # keep every request in `.log`

FAULTS = 'reset timeout hang_after_headers cut malformed no_choices null_content error200'.split()
TOKENS = 50, 100    # of a request, of each of its choices, where there are several models
AT_ONCE = {'image', '400', '401', '402', '403', '404', '429', '503', 'quota', 'n', 'context'}

# kind: (status, message, type, code, param)
ERRORS = {
    '400': (400, "{why}", 'invalid_request_error', 'unsupported_value', 'temperature'),
    '401': (401, "Incorrect API key provided: {key}. "
            "You can find your API key at https://platform.openai.com/account/api-keys.",
            'invalid_request_error', 'invalid_api_key', None),
    '402': (402, "Insufficient Balance", 'unknown_error', 'invalid_request_error', None),
    '403': (403, "Country, region, or territory not supported", 'request_forbidden',
            'unsupported_country_region_territory', None),
    '404': (404, "The model `{model}` does not exist or you do not have access to it.", 'invalid_request_error',
            'model_not_found', None),
    'image': (413, "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n"
              "<center><h1>413 Request Entity Too Large</h1></center>\r\n</body>\r\n</html>\r\n", 'html', None, None),
    '429': (429, "Rate limit reached for {model} in organization org-loopback on requests per min (RPM): "
            "Limit 500, Used 500, Requested 1. Please try again in 120ms. "
            "Visit https://platform.openai.com/account/rate-limits to learn more.",
            'requests', 'rate_limit_exceeded', None),
    'quota': (429, "You exceeded your current quota, please check your plan and billing details. "
              "For more information on this error, read the docs: "
              "https://platform.openai.com/docs/guides/error-codes/api-errors.",
              'insufficient_quota', 'insufficient_quota', None),
    '500': (500, "The server had an error while processing your request. Sorry about that!", 'server_error', None,
            None),
    '502': (502, "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
            "<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx/1.24.0</center>\r\n</body>\r\n</html>\r\n",
            'html', None, None),
    '503': (503, "The engine is currently overloaded, please try again later", 'server_error', 'service_unavailable',
            None),
    '504': (504, "upstream request timeout", 'text', None, None),
    'n': (400, "Invalid 'n': integer above maximum value. Expected a value <= 1, but got {n} instead.",
          'invalid_request_error', 'integer_above_max_value', 'n'),
    'context': (400, "This model's maximum context length is {limit} tokens. "
                "However, your messages resulted in {tokens} tokens. Please reduce the length of the messages.",
                'invalid_request_error', 'context_length_exceeded', 'messages')}
FLAVOURS = {
    'openai': {},
    'vllm': {
        '400': (400, "{why}", 'BadRequestError', 400, None),
        '401': (401, '{{"error":"Unauthorized"}}', 'json', None, None),
        '404': (404, "The model `{model}` does not exist.", 'NotFoundError', 404, None),
        '500': (500, "Internal Server Error", 'text', None, None),
        'n': (400, "n must be 1 when using greedy sampling, got {n}.", 'BadRequestError', 400, None),
        'context': (400, "This model's maximum context length is {limit} tokens. "
                    "However, you requested {tokens} tokens in the messages, Please reduce the length of the messages.",
                    'BadRequestError', 400, None)},
    'llamacpp': {
        '400': (400, "{why}", 'invalid_request_error', 400, None),
        '401': (401, "Invalid API Key", 'authentication_error', 401, None),
        '500': (500, "Compute error.", 'server_error', 500, None),
        '503': (503, "Loading model", 'unavailable_error', 503, None),
        # as its older versions say it: not a 4xx
        'n': (500, "Only one completion choice is allowed", 'server_error', 500, None),
        'context': (400, "the request exceeds the available context size, try increasing it",
                    'exceed_context_size_error', 400, None)}}
BAD = "Unsupported value: 'temperature' does not support 3 with this model. Only the default (1) value is supported."
RAW = {'html': 'text/html', 'text': 'text/plain; charset=utf-8', 'json': 'application/json'}
PHRASES = {200: 'OK', 400: 'Bad Request', 401: 'Unauthorized', 402: 'Payment Required', 403: 'Forbidden',
           404: 'Not Found',
           405: 'Method Not Allowed', 429: 'Too Many Requests', 500: 'Internal Server Error', 502: 'Bad Gateway',
           503: 'Service Unavailable', 504: 'Gateway Timeout'}
WORDS = ('we look at each part once more and keep what holds first the given terms then how they relate step by step '
         'until only one way remains open so far nothing speaks against it while several others fail early because '
         'their units differ or signs are wrong '
         'let us check again with small cases both ends agree and middle values follow this pattern too').split()
FILL = WORDS * 16
UNPACK = struct.Struct('<3Q').unpack
Z = NormalDist().inv_cdf

# ---- draws: plain functions, the same in every process

def uniforms(prompt, k, seed=0):
    "Three numbers in (0, 1) for the `k`-th choice of a prompt: of the answer, the latency and the finish."
    key = hashlib.blake2b(f'{seed}|{k}|{prompt}'.encode('utf-8', 'replace'), digest_size=24).digest()
    u, v, w = UNPACK(key)
    return (u + .5) * 2**-64, (v + .5) * 2**-64, (w + .5) * 2**-64

@lru_cache(1 << 18)
def pass_rate(prompt, seed=0):
    "A prompt's chance to be answered right, from Beta(.6, .6)."
    return random.Random(f'{seed}|{prompt}').betavariate(.6, .6)

def rate_of(prompt, seed=0, rate=None):
    "A prompt's pass rate under the option `rate`."
    if callable(rate):
        return rate(prompt)
    if isinstance(rate, dict):
        return rate[prompt] if prompt in rate else pass_rate(prompt, seed)
    return pass_rate(prompt, seed) if rate is None else rate

@lru_cache(1 << 18)
def joint_rate(prompt, name, a, b, seed=0, rho=.7):
    "A prompt's pass rate under one of several models: Beta(a, b), normal scores correlated by `rho` between models."
    from scipy.special import betaincinv
    shared, own = Z(uniforms(prompt, 'difficulty', seed)[0]), Z(uniforms(of_model(prompt, name), 'rate', seed)[0])
    return float(betaincinv(a, b, NormalDist().cdf(math.sqrt(rho) * shared + math.sqrt(1 - rho) * own)))

def of_model(prompt, name):
    "What a model's draws of a prompt depend on."
    return f'{name}|{prompt}' if name else prompt

def draw(prompt, k, seed=0, rate=None, name=None):
    "Is the `k`-th choice of this prompt (by the model of this name, if there are several) right?"
    return uniforms(of_model(prompt, name), k, seed)[0] < rate_of(prompt, seed, rate)

def least(prompt, seed=0, passes=1, fails=0, within=16, rate=None, name=None):
    "(samples, satisfied) of sampling one at a time until `passes` right and `fails` wrong ones, at most `within`."
    right = 0
    for k in range(within):
        right += draw(prompt, k, seed, rate, name)
        if right >= passes and k + 1 - right >= fails:
            return k + 1, True
    return within, False

def text(k, answer, length, w):
    "The words of the `k`-th choice, some `length` of them as `w` has it; no two of a prompt are alike."
    h = int(w * 2**40)
    at, size = h % len(WORDS), length // 2 + h % (length + 1)
    fill = (FILL if at + size <= len(FILL) else WORDS * (2 + size // len(WORDS)))[at:at + size]
    mark = WORDS[k % len(WORDS)], WORDS[k // len(WORDS) % len(WORDS)] + ':'
    return ['First', *mark, *fill, 'The', 'answer', 'is', f'\\boxed{{{answer}}}']

# ---- bodies

def ask(url, body=None, timeout=10):
    "GET `url`, or POST `body` as JSON; the JSON it answers."
    req = Request(url, None if body is None else json.dumps(body).encode(), {'Content-Type': 'application/json'})
    return json.load(urlopen(req, timeout=timeout))

def plain(content):
    "The text of a message's content, in one string or in parts."
    if isinstance(content, list):
        return ''.join(p.get('text', '') for p in content if isinstance(p, dict))
    return content or ''

def last_user(messages):
    "The text of the last user message."
    return next((plain(m.get('content')) for m in reversed(messages) if m.get('role') == 'user'), '')

def image_sizes(messages):
    "The bytes of the images in messages that are data URLs."
    parts = [p for m in messages for p in m.get('content') or () if isinstance(p, dict)]
    urls = [p['image_url']['url'] for p in parts if p.get('type') == 'image_url']
    return [len(base64.b64decode(u.partition(',')[2])) for u in urls if u.startswith('data:')]

def tool_call(tool, k, answer):
    "A call of this tool, with the answer as its first argument."
    function = tool['function']
    names = [*(function.get('parameters') or {}).get('properties', {})][:1]
    arguments = json.dumps(dict.fromkeys(names, answer))
    return dict(id=f'call_{k}', type='function', function=dict(name=function['name'], arguments=arguments))

def word_logprobs(words, top):
    "What OpenAI's API says of the probabilities of these tokens."
    of = lambda w: dict(token=w, logprob=-.5, bytes=list(w.encode()))
    return dict(content=[of(w) | dict(top_logprobs=[of(w)] * min(1, top)) for w in words], refusal=None)

def mask(key):
    return key if len(key) < 12 else f'{key[:8]}{"*" * (len(key) - 12)}{key[-4:]}'

def error(kind, flavour='openai', **fill):
    "(status, content type, body) of an error as this flavour of server prints it."
    status, message, type_, code, param = FLAVOURS[flavour].get(kind) or ERRORS[kind]
    message = message.format(**fill)
    if type_ in RAW:
        return status, RAW[type_], message.encode()
    err = dict(message=message, type=type_, param=param, code=code)
    if flavour == 'llamacpp':
        err = dict(code=status, message=message, type=type_)
    if kind == 'context' and flavour == 'llamacpp':
        err |= dict(n_prompt_tokens=fill['tokens'], n_ctx=fill['limit'])
    return status, 'application/json', orjson.dumps({'error': err})

def usage(messages, done, thought=0):
    "Token counts of all choices together, in words and quarters of characters."
    asked = sum(len(plain(m.get('content'))) for m in messages) // 4 + 4
    out = dict(prompt_tokens=asked, completion_tokens=done, total_tokens=asked + done)
    return out | dict(completion_tokens_details=dict(reasoning_tokens=thought)) if thought else out

def fixed_usage(n):
    "Token counts of `n` choices of one of several models."
    asked, done = TOKENS[0], TOKENS[1] * n
    return dict(prompt_tokens=asked, completion_tokens=done, total_tokens=asked + done)

def dollars(used, price):
    "What these tokens cost at a price per million."
    return (used['prompt_tokens'] * price['prompt'] + used['completion_tokens'] * price['completion']) / 1e6

def completion(id_, body, choices, done, thought=0, model=None):
    "A chat completion of `choices`: (message fields, finish reason)."
    rows = [dict(index=i, message={'role': 'assistant', **{k: v for k, v in m.items() if k != 'logprobs'}},
                 logprobs=m.get('logprobs'), finish_reason=f) for i, (m, f) in enumerate(choices)]
    return dict(id=f'chatcmpl-{id_:012x}', object='chat.completion', created=int(time.time()),
                model=body.get('model') or model,
                choices=rows, usage=usage(body['messages'], done, thought), system_fingerprint='fp_loopback')

def spoil(kind, out):
    "The bytes of a response with this fault in it."
    if kind == 'no_choices':
        out['choices'] = []
    if kind == 'null_content':
        for c in out['choices']:
            c['message'] = {'role': 'assistant', 'content': None}
    if kind == 'error200':
        raw = 'upstream connect error or disconnect/reset before headers'
        details = dict(message='Provider returned error', code=502, metadata=dict(raw=raw, provider_name='Loopback'))
        out = {'error': details, 'user_id': 'user_loopback'}
    data = orjson.dumps(out)
    return data[:len(data) * 2 // 3] if kind == 'malformed' else data

# ---- rewards

def reward_texts(body, dialect, path):
    "The texts of a request for rewards, or why it is refused."
    if dialect == 'sglang':
        texts = body.get('text')
        return ([texts] if isinstance(texts, str) else texts) or 'Either text or input_ids should be provided.'
    if path.endswith('/score'):
        pair = body.get('text_1'), body.get('text_2')
        if not all(isinstance(p, list) and p for p in pair) or len(pair[0]) != len(pair[1]):
            return 'Input lengths must be either 1:1, 1:N or N:N'
        return ['\n\n'.join(two) for two in zip(*pair)]
    if 'messages' in body:
        return [''.join(f"<|{m['role']}|>{plain(m.get('content'))}" for m in body['messages'])]
    texts = body.get('input')
    return ([texts] if isinstance(texts, str) else texts) or 'Field required: input'

def drawn_reward(text):
    "A reward of a text between -10 and 10."
    return round(20 * uniforms(text, 0)[0] - 10, 4)

def reward_rows(values, texts, dialect, path):
    "The body of an answer with rewards."
    tokens = [len(t) // 4 + 1 for t in texts]
    lists = [v if isinstance(v, list) else [v] for v in values]
    if dialect == 'sglang':
        return [dict(embedding=v, meta_info=dict(id=f'{i:x}', prompt_tokens=n, e2e_latency=.01))
                for i, (v, n) in enumerate(zip(lists, tokens))]
    kind = path.rpartition('/')[2]
    row = dict(classify=lambda v: dict(label='LABEL_0', probs=v, num_classes=len(v)),
               pooling=lambda v: dict(object='pooling', data=v), score=lambda v: dict(object='score', score=v[0]))[kind]
    counts = dict(prompt_tokens=sum(tokens), total_tokens=sum(tokens), completion_tokens=0, prompt_tokens_details=None)
    return dict(id=f'{kind}-0', object='list', created=int(time.time()), model='reward-1',
                data=[dict(index=i, **row(v)) for i, v in enumerate(lists)][::-1], usage=counts)

REWARD_PATHS = dict(vllm=('/classify', '/pooling', '/score', '/v1/score'), sglang=('/classify',))

# ---- HTTP

def parse_head(head):
    "(method, path, headers by lower-case name)"
    line, *rest = head.decode('latin-1').lstrip('\r\n').split('\r\n')
    method, path, _ = line.split(' ')
    return method, path, {k.strip().lower(): v.strip() for k, _, v in (x.partition(':') for x in rest)}

def dechunk(buf):
    "(body, bytes used) of a chunked body, or None until all of it is there."
    at, body = 0, b''
    while (end := buf.find(b'\r\n', at)) >= 0:
        size = int(buf[at:end].split(b';')[0], 16)
        if not size:
            stop = buf.find(b'\r\n\r\n', end)  # trailers may stand in between
            return None if stop < 0 else (body, stop + 4)
        if len(buf) < end + size + 4:
            return None
        body, at = body + buf[end + 2:end + 2 + size], end + size + 4

class Conn(asyncio.Protocol):
    "One client connection: a request is read, handed to the server and answered, then the next."
    def __init__(self, server):
        self.server, self.buf = server, bytearray()
        self.head = self.call = self.timer = self.task = None

    def connection_made(self, transport):
        self.transport = transport
        self.server.conns.add(self)
        self.server.count['connections'] += 1
        if not self.server.listener:
            self.reset()

    def connection_lost(self, exc):
        self.server.conns.discard(self)
        for waiting in (self.timer, self.task):
            waiting and waiting.cancel()
        if self.call:
            self.server.lose(self)

    def data_received(self, data):
        self.buf += data
        self.read()

    def read(self):
        "Serve what is complete in the buffer, one request at a time."
        try:
            while self.call is None and (req := self.parse()):
                self.server.handle(self, *req)
        except ValueError as e:
            self.send(400, 'text/plain', str(e).encode())
            self.transport.close()

    def parse(self):
        "(method, path, headers, body) once a whole request is there."
        if self.head is None:
            if (end := self.buf.find(b'\r\n\r\n')) < 0:
                return
            self.head = parse_head(bytes(self.buf[:end]))
            del self.buf[:end + 4]
            if 'expect' in self.head[2]:
                self.transport.write(b'HTTP/1.1 100 Continue\r\n\r\n')
        headers = self.head[2]
        if 'chunked' in headers.get('transfer-encoding', ''):
            whole = dechunk(bytes(self.buf))
        else:
            size = int(headers.get('content-length', 0))
            whole = (bytes(self.buf[:size]), size) if len(self.buf) >= size else None
        if whole is None:
            return
        del self.buf[:whole[1]]
        head, self.head = self.head, None
        return *head, whole[0]

    def send(self, status, ctype, body, headers=(), part=1.):
        "Write a response, or the given part of its body."
        more = ''.join(f'{k}: {v}\r\n' for k, v in headers)
        head = (f'HTTP/1.1 {status} {PHRASES.get(status, "Error")}\r\n'
                f'content-type: {ctype}\r\ncontent-length: {len(body)}\r\n{more}\r\n')
        self.transport.write(head.encode() + body[:int(len(body) * part)])

    def reset(self):
        "Drop the connection as a crashed peer does."
        self.transport.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.transport.abort()

# ---- the server

def new_loop():
    "uvloop's event loop where it is installed, else asyncio's."
    try:
        return importlib.import_module('uvloop').new_event_loop()
    except ImportError:
        return asyncio.new_event_loop()

class Loopback:
    "The server, in a thread of this process."
    def __init__(self, port=0, **options):
        self.port, self.thread, self.listener, self.conns, self.log = port, None, None, set(), []
        self.o = SimpleNamespace(**OPTIONS)
        self.set(**options)
        self.reset()

    # -- from any thread
    @property
    def url(self):
        return f'http://127.0.0.1:{self.port}'
    @property
    def base_url(self):
        return self.url + '/v1'

    def start(self):
        "Listen: on a free port the first time, then always on the same one."
        if not self.thread:
            self.loop = new_loop()
            self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
            self.thread.start()
        self.on_loop(self._listen)
        return self

    def stop(self):
        "An outage: connections are refused and the open ones reset, until `start()`."
        if self.listener:
            self.on_loop(self._unlisten)

    def close(self):
        "Stop for good."
        self.stop()
        if not self.thread:
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()
        self.thread = None

    def __enter__(self):
        return self.start()
    def __exit__(self, *exc):
        self.close()

    def set(self, **options):
        "Change options while it runs."
        if unknown := options.keys() - OPTIONS.keys():
            raise TypeError(f'no such option: {", ".join(sorted(unknown))}')
        kinds = [*options.get('faults', ()), *([f] if isinstance(f := options.get('fault'), str) else f or [])]
        if wrong := [k for k in kinds if k not in FAULTS and k not in ERRORS and k not in ('ok', None)]:
            raise ValueError(f'no such fault: {wrong}; one of {[*FAULTS, *ERRORS]}')
        if isinstance(f, (list, tuple)):
            options['fault'] = list(f)
        if 'storm' in options or 'rate_limit' in options:
            self.began = self.tokens = None
        self.o.__dict__.update(options)

    def reset(self, **options):
        "Forget what was asked, counted and logged; draws start again from the first choice."
        self.set(**options)
        self.asked, self.count, self.rng = Counter(), Counter(), random.Random(self.o.seed)
        self.by_status, self.by_fault = Counter(), Counter()
        self.outcomes, self.sales = {}, {}   # {(prompt, model): [right, wrong]}; {model: dict(samples, right, usd)}
        self.inflight = sum(1 for c in self.conns if c.call)
        self.most, self.first, self.last, self.latency = self.inflight, None, None, 0.
        self.began, self.tokens = None, None
        self.log.clear()
        self.cpu0 = self.cpu()

    def stats(self):
        "Counts since the start or the last reset, of chat requests."
        counts = {k: self.count[k] for k in ('requests', 'samples', 'lost', 'connections')}
        return dict(counts, prompts=len({key[1] if self.o.models else key for key in self.asked}),
                    models=self.sales, usd=sum(m['usd'] for m in self.sales.values()), accepted=len(self.accepted()),
                    latency=self.latency, by_status=dict(self.by_status), by_fault=dict(self.by_fault),
                    inflight=self.inflight,
                    max_inflight=self.most, first_request=self.first, last_response=self.last,
                    cpu=self.cpu() - self.cpu0)

    def accepted(self, passes=1, fails=0, mix=False):
        "Prompts with so many right and wrong answers, from one of the models (`mix`: from all together)."
        totals = {}
        for (prompt, model), counts in list(self.outcomes.items()):
            of = totals.setdefault(prompt, {}).setdefault(None if mix else model, [0, 0])
            of[:] = of[0] + counts[0], of[1] + counts[1]
        enough = lambda of: of[0] >= passes and of[1] >= fails
        return {p for p, by in totals.items() if any(map(enough, by.values()))}

    def on_loop(self, fn):
        "What `fn()` returns, a coroutine function run in the server's thread."
        return asyncio.run_coroutine_threadsafe(fn(), self.loop).result(10)

    def cpu(self):
        "CPU seconds of the server's thread."
        if not self.thread:
            return 0.
        return time.thread_time() if threading.get_ident() == self.thread.ident else self.on_loop(self._cpu)

    async def _cpu(self):
        return time.thread_time()

    async def _listen(self):
        if self.listener:
            return
        self.listener = await self.loop.create_server(lambda: Conn(self), '127.0.0.1', self.port, backlog=4096)
        self.port = self.listener.sockets[0].getsockname()[1]

    async def _unlisten(self):
        listener, self.listener = self.listener, None
        listener.close()
        for c in list(self.conns):
            c.reset()
        await asyncio.sleep(0.01)  # let them go before the port is taken again

    # -- in the server's thread
    def handle(self, conn, method, path, headers, data):
        "Route one request."
        path = path.partition('?')[0]
        entry = dict(time=time.time(), method=method, path=path, prompt=None, n=None, seed=None, status=None,
                     fault=None, k=None,
                     headers=headers, body=None)
        scores = self.o.rewards and path in REWARD_PATHS[self.o.rewards]
        if (path.startswith('/v1/') or scores) and self.o.log and method != 'GET':   # the list of models is no request
            self.log.append(entry)
        try:
            body = entry['body'] = orjson.loads(data) if data else {}
        except orjson.JSONDecodeError as e:
            return self.tell(conn, entry, *error('400', self.o.flavour, why=f'invalid JSON: {e}'))
        if (method, path) == ('POST', '/v1/chat/completions'):
            return self.chat(conn, entry)
        if scores and method == 'POST':
            return self.score(conn, entry, path)
        if path.startswith('/v1/') and not self.allowed(headers):
            return self.tell(conn, entry, *self.unauthorized(headers))
        try:
            out = self.manage(method, path, body)
        except (TypeError, ValueError) as e:
            return self.tell(conn, entry, *error('400', why=str(e)))
        if out is None:
            return self.tell(conn, entry, 404, 'application/json', b'{"detail":"Not Found"}')
        self.tell(conn, entry, 200, 'application/json', orjson.dumps(out))

    def manage(self, method, path, body):
        "What the routes beside chat answer, or None."
        if (method, path) == ('GET', '/v1/models'):
            return dict(object='list', data=[dict(id=name, object='model', created=1700000000, owned_by='loopback')
                                             for name in self.o.models or [self.o.model]])
        if (method, path) == ('GET', '/health'):
            return dict(status='ok')
        if (method, path) == ('GET', '/stats'):
            return self.stats()
        if (method, path) == ('GET', '/accepted'):
            return dict(prompts=sorted(self.accepted()))
        if (method, path) == ('POST', '/set'):
            return self.set(**body) or dict(ok=True)
        if (method, path) == ('POST', '/reset'):
            return self.reset(**body) or dict(ok=True)

    def tell(self, conn, entry, status, ctype, body, headers=(), part=1.):
        "Write a response and note it."
        entry['status'] = status
        if entry['headers'].get('connection', '').lower() == 'close':
            headers = [*headers, ('connection', 'close')]
        conn.send(status, ctype, body, headers, part)
        if ('connection', 'close') in headers:
            conn.transport.close()

    def chat(self, conn, entry):
        "A chat request: refused, spoiled, or answered after its latency."
        body, o = entry['body'], self.o
        entry.update(prompt=last_user(body.setdefault('messages', [])), n=body.get('n') or 1, seed=body.get('seed'))
        self.arrive(conn, entry)
        kind = entry['fault'] = self.refusal(entry) or self.fault()
        if kind:
            self.by_fault[kind] += 1
        if kind in ERRORS:
            return self.after(0 if kind in AT_ONCE else self.wait(), conn, kind, self.error(kind, entry))
        if o.reply and not kind:
            return self.reply(conn, entry)
        self.after(*self.sample(conn, entry, kind))

    def score(self, conn, entry, path):
        "A request for rewards: refused, spoiled, or answered after its latency."
        body, dialect = entry['body'], self.o.rewards
        texts = reward_texts(body, dialect, path)
        entry.update(prompt=texts[0], n=1, texts=texts)
        self.arrive(conn, entry)
        kind = entry['fault'] = None if self.allowed(entry['headers']) else '401'
        kind = entry['fault'] = kind or self.fault()
        if kind:
            self.by_fault[kind] += 1
        if kind in ERRORS:
            return self.after(self.wait(), conn, kind, self.error(kind, entry))
        if isinstance(texts, str):
            return self.after(0, conn, 0, (400, 'application/json', orjson.dumps(dict(error=dict(message=texts))), ()))
        if self.o.context_over and max(map(len, texts)) > self.o.context_over:
            why = f'the input is longer than the maximum model length of {self.o.context_over // 4} tokens'
            return self.after(0, conn, 0, (400, 'application/json', orjson.dumps(dict(error=dict(message=why))), ()))
        of = self.o.reward if callable(self.o.reward) else drawn_reward
        wrong = dict(nan=math.nan, text='high').get(self.o.reward) if isinstance(self.o.reward, str) else None
        values = [of(t) if wrong is None else wrong for t in texts]
        out = reward_rows(values[1:] if self.o.reward == 'short' else values, texts, dialect, path)
        self.after(self.wait(), conn, kind or 0, (200, 'application/json', json.dumps(out).encode(), ()))

    def arrive(self, conn, entry):
        conn.call = entry
        self.count['requests'] += 1
        self.inflight += 1
        self.most = max(self.most, self.inflight)
        self.first = self.first or entry['time']
        self.began = self.began or time.monotonic()

    def refusal(self, entry):
        "The kind of error that the options have for this request."
        o = self.o
        if not self.allowed(entry['headers']):
            return '401'
        if o.storm and o.storm[0] <= time.monotonic() - self.began < o.storm[1]:
            return '429'
        if o.rate_limit and not self.token():
            return '429'
        if o.models and entry['body'].get('model') not in o.models:
            return '404'
        if o.bad_request:
            return '400'
        if o.image_limit and max(image_sizes(entry['body']['messages']), default=0) > o.image_limit:
            return 'image'
        if o.context_over and self.chars(entry) > o.context_over:
            return 'context'
        if entry['n'] > 1 and o.n_mode == 'refuse':
            return 'n'

    def allowed(self, headers):
        return not self.o.auth or headers.get('authorization') == f'Bearer {self.o.auth}'
    def chars(self, entry):
        return sum(len(plain(m.get('content'))) for m in entry['body']['messages'])

    def token(self):
        "Take one from the bucket."
        now, size = time.monotonic(), self.o.burst or max(1, self.o.rate_limit)
        had, at = self.tokens or (size, now)
        had = min(size, had + (now - at) * self.o.rate_limit)
        self.tokens = (had - (had >= 1), now)
        return had >= 1

    def fault(self):
        "The fault this request gets, or None."
        f = self.o.fault
        if isinstance(f, list):
            f = f.pop(0) if f else None
        if f or self.o.hang_after_headers:
            return None if f == 'ok' else f or 'hang_after_headers'
        if not self.o.faults:
            return
        u = self.rng.random()
        for kind, p in self.o.faults.items():
            if u < p:
                return kind
            u -= p

    def error(self, kind, entry):
        "(status, content type, body, headers) of an error."
        if kind == '401':
            return self.unauthorized(entry['headers'])
        o = self.o
        why = o.bad_request if isinstance(o.bad_request, str) else BAD
        fill = dict(model=entry['body'].get('model') or o.model, n=entry['n'], why=why)
        if kind == 'context':
            fill |= dict(limit=(o.context_over or 16384) // 4, tokens=self.chars(entry) // 4)
        return *error(kind, o.flavour, **fill), self.retry_after() if kind in ('429', '503') else ()

    def unauthorized(self, headers):
        key = headers.get('authorization', '').removeprefix('Bearer ')
        if self.o.echo_key:
            return *error('401', 'openai', key=key), ()
        return *error('401', self.o.flavour, key=mask(key)), ()

    def retry_after(self):
        r = self.o.retry_after
        if r == 'date':
            r = formatdate(math.ceil(time.time() + 1), usegmt=True)
        return [] if r is None else [('retry-after', r)]

    def wait(self):
        "A latency of no sample in particular."
        return self.o.median and self.rng.lognormvariate(math.log(self.o.median), self.o.sigma)

    def sample(self, conn, entry, kind=None):
        "(latency, conn, kind, response): the prompt's next choices, used up unless a fault spoils them."
        entry['k'], waits, rights, out = self.make(entry['body'], spoiled=bool(kind))
        wait = max(waits) if self.o.per == 'choice' else waits[0]
        if kind:
            return wait, conn, kind, (200, 'application/json', spoil(kind, out), ())
        if self.o.models:
            entry['sale'] = rights, out
        return wait, conn, len(rights), (200, 'application/json', orjson.dumps(out), ())

    def make(self, body, spoiled=False):
        "(first k, latencies, which are right, response) of the next choices of a request; used up unless spoiled."
        o, prompt, n = self.o, last_user(body['messages']), 1 if self.o.n_mode == 'clamp' else body.get('n') or 1
        name = body['model'] if o.models else None
        key = (name, prompt) if o.models else prompt
        k = self.asked[key]
        if not spoiled:
            self.asked[key] = k + n
        rate = self.rate_of(prompt, name)
        cap = body.get('max_completion_tokens') or body.get('max_tokens') or math.inf
        choices, waits, rights, done, thought = [], [], [], 0, 0
        for i in range(k, k + n):
            u, v, w = uniforms(of_model(prompt, name), i, o.seed)
            message, finish, used, thinks = self.choice(i, u < rate, w, cap, body)
            choices.append((message, finish))
            rights.append(u < rate)
            waits.append(o.median and o.median * math.exp(o.sigma * Z(v)))
            done, thought = done + used, thought + thinks
        out = completion(self.count['requests'], body, choices, done, thought, o.model)
        if o.models:
            out['usage'] = fixed_usage(n)
        return k, waits, rights, out

    def rate_of(self, prompt, name=None):
        "A prompt's pass rate: that of the model of this name, if there are several."
        o = self.o
        if not o.models:
            return rate_of(prompt, o.seed, o.rate)
        return joint_rate(prompt, name, o.models[name]['a'], o.models[name]['b'], o.seed, o.rho)

    def sell(self, body, rights, out, factor=1.):
        "Note what was delivered: right and wrong answers, and dollars at `factor` times the price."
        name = body['model']
        of = self.outcomes.setdefault((last_user(body['messages']), name), [0, 0])
        of[:] = of[0] + sum(rights), of[1] + len(rights) - sum(rights)
        total = self.sales.setdefault(name, dict(samples=0, right=0, usd=0.))
        price = self.o.models[name]['price']
        total['samples'] += len(rights)
        total['right'] += sum(rights)
        total['usd'] += factor * dollars(out['usage'], price)

    def serve(self, body, factor=1.):
        "The response to a request that comes by another way than chat (a line of a batch), sold."
        _, _, rights, out = self.make(body)
        self.sell(body, rights, out, factor)
        return out

    def choice(self, k, right, w, cap, body):
        "(message, finish reason, tokens, of them thinking) of one choice."
        message, finish, used, thinks = self.answer(k, right, w, cap)
        if body.get('tools') and w < self.o.calls:
            call = tool_call(body['tools'][0], k, self.o.answers[not right])
            message, finish = {**message, 'content': None, 'tool_calls': [call]}, 'tool_calls'
        if body.get('logprobs') and message.get('content'):
            message['logprobs'] = word_logprobs(message['content'].split(), body.get('top_logprobs') or 0)
        return message, finish, used, thinks

    def answer(self, k, right, w, cap):
        "(message, finish reason, tokens, of them thinking) of one choice in text."
        o, thoughts, finish = self.o, [], 'stop'
        words = text(k, o.answers[not right], o.words, w)
        if o.reasoning:
            thoughts = ['Could', 'it', 'be', f'\\boxed{{{o.answers[right]}}}?', *words[1:-4]]
        if w < o.truncate:
            words, finish = words[:len(words) // 2], 'length'
        elif w < o.truncate + o.filter:
            return dict(content=''), 'content_filter', 0, 0
        elif w < o.truncate + o.filter + o.empty:
            return dict(content=None if k % 2 else ''), 'stop', 0, 0
        if (size := len(words) + len(thoughts)) > cap:
            words, finish = words[:max(0, int(cap) - len(thoughts))], 'length'
        used, content = min(size, cap), ' '.join(words)
        if not o.reasoning:
            return dict(content=content), finish, used, 0
        thinking, tag = ' '.join(thoughts[:used]), '\n</think>\n\n' if words else ''
        if o.reasoning == 'think':
            return dict(content=f'<think>\n{thinking}{tag}{content}'), finish, used, 0
        field = o.reasoning if isinstance(o.reasoning, str) else 'reasoning_content'
        return {'content': content or None, field: thinking}, finish, used, min(len(thoughts), used)

    def reply(self, conn, entry):
        "Let the user's function answer."
        try:
            out = self.o.reply(entry['body'])
        except Exception as e:
            out = self.broken(e)
        if inspect.isawaitable(out):
            conn.task = self.loop.create_task(self.await_reply(conn, entry, out))
        else:
            self.replied(conn, entry, out)

    async def await_reply(self, conn, entry, out):
        try:
            out = await out
        except Exception as e:
            out = self.broken(e)
        if conn.call is entry:
            self.replied(conn, entry, out)

    def broken(self, e):
        "A fault of the test itself: shown, and told as an error that no client repeats."
        traceback.print_exception(e)
        return 400, {'error': dict(message=f'reply failed: {e!r}', type='invalid_request_error', param=None, code=None)}

    def replied(self, conn, entry, out):
        "Send what the user's function returned."
        if out is None:
            return self.after(*self.sample(conn, entry))
        n, status, headers = 1 if self.o.n_mode == 'clamp' else entry['n'], 200, ()
        if isinstance(out, tuple):
            status, out, *headers = out
        if isinstance(out, str) and status == 200:
            out = [out] * n
        if isinstance(out, dict) and status == 200 and not out.keys() & {'choices', 'error', 'object'}:
            out = [out] * n
        if isinstance(out, list):
            rows = [dict(content=x) if isinstance(x, str) else dict(x) for x in out[:n]]
            done = sum(len(plain(m.get('content')).split()) for m in rows)
            rows = [(m, m.pop('finish_reason', 'stop')) for m in rows]
            out = completion(self.count['requests'], entry['body'], rows, done, 0, self.o.model)
        data = out if isinstance(out, bytes) else out.encode() if isinstance(out, str) else orjson.dumps(out)
        made = len(out.get('choices') or ()) if isinstance(out, dict) else 0
        self.after(self.wait(), conn, made,
                   (status, 'application/json', data, [*headers[0].items()] if headers else ()))

    def after(self, wait, conn, what, response):
        "Deliver a response in `wait` seconds; `what`: the kind of its fault, or its number of samples."
        conn.call['samples'] = 0 if isinstance(what, str) else what
        if not wait:
            return self.deliver(0, conn, what, response)
        conn.timer = self.loop.call_later(wait, self.deliver, wait, conn, what, response)

    def deliver(self, wait, conn, what, response):
        "The response goes out, unless its fault is that it does not."
        entry = conn.call
        if conn.transport.is_closing():
            return
        if what == 'timeout':
            return
        if what == 'hang_after_headers':
            return conn.send(*response, part=0)
        self.latency += wait
        if what == 'reset':
            return conn.reset()
        self.leave(conn, str(response[0]))
        self.count['samples'] += entry['samples']
        if 'sale' in entry:
            self.sell(entry['body'], *entry.pop('sale'))
        self.tell(conn, entry, *response, part=.5 if what == 'cut' else 1.)
        if what == 'cut':
            return conn.transport.close()
        if conn.buf and not conn.transport.is_closing():
            self.loop.call_soon(conn.read)

    def leave(self, conn, status):
        conn.call = conn.timer = None
        self.inflight -= 1
        self.by_status[status] += 1
        self.last = time.time()

    def lose(self, conn):
        "The connection went before the answer did."
        if conn.call['fault'] != 'reset':
            self.count['lost'] += conn.call.get('samples', 0)
        self.leave(conn, 'reset' if conn.call['fault'] == 'reset' else 'lost')

# ---- a process of its own

def value(s):
    "A command-line value: JSON, or else the string itself."
    try:
        return json.loads(s)
    except ValueError:
        return s

@contextmanager
def spawn(**options):
    "The server in a process of its own: .base_url, .stats(), .set(…), .reset()."
    args = [a for k, v in options.items() for a in (f'--{k}', json.dumps(v))]
    cmd = [sys.executable, __file__, '--until-eof', *args]
    with subprocess.Popen(cmd, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as proc:
        base = proc.stdout.readline().strip()
        if not base:
            raise RuntimeError('the loopback server did not start')
        url = base.removesuffix('/v1')
        try:
            yield SimpleNamespace(base_url=base, url=url, pid=proc.pid, stats=lambda: ask(url + '/stats'),
                                  accepted=lambda: set(ask(url + '/accepted')['prompts']),
                                   set=lambda **kw: ask(url + '/set', kw), reset=lambda **kw: ask(url + '/reset', kw))
        finally:
            proc.terminate()

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--port', type=int, default=0)
    p.add_argument('--until-eof', action='store_true', help='end with standard input')
    for k, v in OPTIONS.items():
        if k not in ('reply', 'reward'):
            p.add_argument(f'--{k}', type=value, default=False if k == 'log' else v)
    args = vars(p.parse_args())
    until_eof = args.pop('until_eof')
    with Loopback(**args) as s:
        print(s.base_url, flush=True)
        try:
            sys.stdin.read() if until_eof else threading.Event().wait()
        except KeyboardInterrupt:
            pass

if __name__ == '__main__':
    main()
