r"""Batch APIs on top of the loopback server: OpenAI's form, Mistral's and Anthropic's, with delays and faults.

    with BatchLoopback(delay=.5, ends=['expired', 'ok']) as s: … s.base_url, s.batches, s.files, s.set(hang=None)

All forms are served beside each other, and the answers are those of the chat route: the k-th of a prompt is the same.
What was sold is counted apart: `.batch_sold['samples']` samples in batches, `.stats()['samples']` one by one."""
import random
import re
import threading
import time
from collections import Counter
from datetime import datetime, timezone

import orjson
from loopback import Loopback

BATCH_OPTIONS = dict(
    delay=0.,          # seconds from a batch's creation to its end; a function of its number; None: it never ends
    # how each batch ends, used up in order, then 'ok': 'expired' and 'cancelled' after `part` of the requests, 'failed'
    ends=(), part=.5,
    line_errors=0.,    # share of requests whose result is an error 500
    bad_line=None,     # custom_id or text in a prompt -> a 400 for that request: a function of the request's body
    shuffle=True,      # results out of order
    noise=False,       # results of other requests, repeated ones, and lines that are no JSON
    missing=0.,        # share of results that are left out
    # {route: [fault, …]}, used up in order; routes: upload create look list content cancel; a fault: a status, 'cut'
    route_faults={},
    hang=None,         # 'upload', 'create', 'look', 'content': done, but not answered; 'before …': nor done
                       # 'second …': only once there is a second batch, or file
    drop_reply=(),     # routes whose next reply is lost with its connection
    no_batches=False,  # there is no batch API: 404
    forget=False,      # batches keep no metadata
    retry_after=None,
    expires=86400)     # seconds

ROUTES = re.compile(r'/v1/(files|batches|batch/jobs|messages/batches)(?:/|\Z)')
JSON = 'application/json'

def now():
    return time.time()

def iso(t):
    return None if t is None else datetime.fromtimestamp(t, timezone.utc).isoformat().replace('+00:00', 'Z')

def multipart(headers, data):
    "The fields of a form, files as bytes."
    mark = headers['content-type'].partition('boundary=')[2].strip('"').encode()
    out = {}
    for part in data.split(b'--'+mark)[1:-1]:
        head, _, body = part.partition(b'\r\n\r\n')
        out[re.search(rb'name="([^"]*)"', head)[1].decode()] = body[:-2]
    return out

def as_openai(params):
    "A request of Anthropic's form in OpenAI's."
    text = lambda c: c if isinstance(c, str) else ''.join(b.get('text') or str(b.get('content') or '') for b in c)
    messages = [dict(role=m['role'], content=text(m['content'])) for m in params['messages']]
    if params.get('system'):
        messages.insert(0, dict(role='system', content=params['system']))
    tools = [dict(type='function', function=dict(name=t['name'], parameters=t['input_schema']))
             for t in params.get('tools') or ()]
    rest = {k: v for k, v in params.items() if k != 'tools'}
    return {**rest, 'messages': messages, **(dict(tools=tools) if tools else {})}

def as_anthropic(out):
    "A chat completion as a message of Anthropic's."
    choice = out['choices'][0]
    m, thinking = choice['message'], choice['message'].get('reasoning_content')
    reasons = dict(stop='end_turn', length='max_tokens', content_filter='refusal', tool_calls='tool_use')
    content = [dict(type='thinking', thinking=thinking, signature='sig')] if thinking else []
    content += [dict(type='text', text=m['content'])] if m.get('content') else []
    content += [dict(type='tool_use', id=c['id'], name=f['name'], input=orjson.loads(f['arguments']))
                for c in m.get('tool_calls') or () for f in [c['function']]]
    usage = dict(input_tokens=out['usage']['prompt_tokens'], output_tokens=out['usage']['completion_tokens'])
    return dict(id='msg_1', type='message', role='assistant', model=out['model'], content=content,
                stop_reason=reasons[choice['finish_reason']], stop_sequence=None, usage=usage)

class BatchLoopback(Loopback):
    "The loopback server with batch APIs."
    def __init__(self, port=0, **options):
        own = {k: options.pop(k) for k in [*options] if k in BATCH_OPTIONS}
        self.b = dict(BATCH_OPTIONS)
        self.lock = threading.RLock()
        super().__init__(port, **options)
        self.set(**own)

    def set(self, **options):
        own = {k: options.pop(k) for k in [*options] if k in BATCH_OPTIONS}
        self.b.update(own)
        for k in 'ends', 'route_faults', 'drop_reply':
            if k in own:
                self.b[k] = list(own[k]) if k != 'route_faults' else {r: list(f) for r, f in own[k].items()}
        super().set(**options)

    def reset(self, **options):
        super().reset(**options)
        self.files, self.batches, self.routes, self.batch_sold, self.held = {}, {}, [], Counter(), []

    # ---- routes

    def handle(self, conn, method, path, headers, data):
        path, _, query = path.partition('?')
        if not ROUTES.match(path) or self.b['no_batches']:
            return super().handle(conn, method, path, headers, data)
        entry = dict(time=now(), method=method, path=path, status=None, headers=headers)
        route, act = self.route(method, path, query, headers, data)
        self.routes.append((method, path, route))
        if not (self.allowed(headers) or headers.get('x-api-key') == self.o.auth):
            return self.tell(conn, entry, *self.unauthorized(headers))
        hang, nth = self.b['hang'] or '', sum(r == route for *_, r in self.routes)
        if hang.startswith('second '):
            hang = hang.removeprefix('second ') if nth > 1 and self.is_new(route) else ''
        if hang == f'before {route}':
            return self.held.append(route)
        faults = self.b['route_faults'].get(route)
        fault = faults.pop(0) if faults else None
        if isinstance(fault, int):
            more = [] if self.b['retry_after'] is None else [('retry-after', self.b['retry_after'])]
            return self.tell(conn, entry, fault, JSON, orjson.dumps(dict(error=dict(message=f'fault {fault}'))), more)
        with self.lock:
            status, body = act()
        if hang == route:
            return self.held.append(route)
        if route in self.b['drop_reply']:
            self.b['drop_reply'].remove(route)
            return conn.reset()
        if isinstance(body, bytes):
            self.tell(conn, entry, status, 'application/octet-stream', body, (), .5 if fault == 'cut' else 1.)
            return conn.transport.close() if fault == 'cut' else None
        self.tell(conn, entry, status, JSON, orjson.dumps(body))

    def route(self, method, path, query, headers, data):
        "(name of the route, what carries it out)"
        parts, missing = path.removeprefix('/v1/').split('/'), lambda: (404, dict(error=dict(message='no such thing')))
        if parts[0] == 'files':
            if method == 'POST':
                return 'upload', lambda: self.upload(multipart(headers, data))
            return 'content', lambda: self.content(parts[1]) if parts[1] in self.files else missing()
        form = {'batches': 'openai', 'batch': 'mistral', 'messages': 'anthropic'}[parts[0]]
        rest = parts[1:] if form == 'openai' else parts[2:]
        if method == 'POST' and not rest:
            return 'create', lambda: self.create(form, orjson.loads(data), headers)
        if not rest:
            return 'list', lambda: self.listing(form, query)
        if rest[0] not in self.batches:
            return 'look', missing
        b = self.batches[rest[0]]
        if rest[1:] == ['cancel']:
            return 'cancel', lambda: self.cancel(b)
        if rest[1:] == ['results']:
            return 'content', lambda: (200, self.finish(b)['results'])
        return 'look', lambda: (200, self.shown(self.finish(b)))

    def is_new(self, route):
        "Is this about a second batch?"
        return len(self.batches) > 1 or route in ('upload', 'create')

    # ---- files and batches

    def upload(self, fields):
        id = f'file-{len(self.files)+1}'
        self.files[id] = fields['file']
        return 200, dict(id=id, object='file', bytes=len(fields['file']), purpose=fields['purpose'].decode())

    def content(self, id):
        return 200, self.files[id]

    def requests_of(self, form, body):
        "[(custom_id, body in OpenAI's form), …]"
        if form == 'anthropic':
            return [(r['custom_id'], as_openai(r['params'])) for r in body['requests']]
        file = self.files[body['input_file_id'] if form == 'openai' else body['input_files'][0]]
        rows = [orjson.loads(line) for line in file.split(b'\n') if line]
        more = dict(model=body['model']) if form == 'mistral' else {}
        return [(r['custom_id'], {**r['body'], **more}) for r in rows]

    def create(self, form, body, headers):
        seen = next((b for b in self.batches.values() if headers.get('idempotency-key', ' ') == b['idem']), None)
        id, ends = f'batch-{len(self.batches)+1}', self.b['ends']
        requests = self.requests_of(form, body)
        if len({i for i, _ in requests}) < len(requests):
            return 400, dict(error=dict(message='custom_id is not unique', type='invalid_request_error'))
        b = dict(id=id, form=form, body=body, requests=requests, created=now(), end=ends.pop(0) if ends else 'ok',
                 done=None, counts=(0, 0), output='', errors='', idem=None, repeat=bool(seen), results=b'')
        b['number'] = len(self.batches)
        self.batches[id] = b
        return 200, self.shown(b)

    def cancel(self, b):
        if b['done'] is None:
            b['end'], b['created'] = 'cancelled', 0.
        return 200, self.shown(self.finish(b))

    def is_due(self, b):
        delay = self.b['delay'](b['number']) if callable(self.b['delay']) else self.b['delay']
        return b['end'] in ('failed',) or (b['end'] == 'cancelled' and not b['created']) or (
            delay is not None and now() >= b['created']+delay)

    def finish(self, b):
        "A batch, ended if its time has come."
        if b['done'] is not None or not self.is_due(b):
            return b
        b['done'] = now()
        if b['end'] == 'failed':
            return b
        rng, n = random.Random(b['number']), len(b['requests'])
        order = rng.sample(b['requests'], n) if self.b['shuffle'] else b['requests']
        carried = order[:int(n*self.b['part'])] if b['end'] in ('expired', 'cancelled') else order
        good, bad = [], []
        for id, body in carried:
            error = self.b['bad_line'](body) if self.b['bad_line'] else None
            if error is None and rng.random() < self.b['line_errors']:
                error = 500, 'The server had an error while processing your request'
            if error is None:
                good.append(self.good(b, id, self.completed(body)))
            else:
                bad.append(self.bad(b, id, *error))
        for id, _ in order[len(carried):]:
            bad.append(self.unprocessed(b, id))
        b['counts'] = len(good), n-len(good)
        self.write(b, [row for row in good if rng.random() >= self.b['missing']], bad, rng)
        return b

    def completed(self, body):
        "A chat completion for a request, as sold in a batch."
        if self.o.reply and (out := self.o.reply(body)) is not None:
            choice = dict(index=0, message=dict(role='assistant', content=out), finish_reason='stop')
            self.batch_sold['samples'] += 1
            return dict(choices=[choice], usage=dict(prompt_tokens=9, completion_tokens=3), model=body.get('model'))
        if self.o.models:
            out = self.serve(body, .5)
        else:
            out = self.make(body)[-1]
        self.batch_sold['samples'] += len(out['choices'])
        self.batch_sold['tokens'] += out['usage']['total_tokens']
        return out

    def good(self, b, id, out):
        if b['form'] == 'anthropic':
            return dict(custom_id=id, result=dict(type='succeeded', message=as_anthropic(out)))
        return dict(id=f'r-{id}', custom_id=id, response=dict(status_code=200, request_id='x', body=out), error=None)

    def bad(self, b, id, status, why):
        kinds = {400: 'invalid_request_error', 429: 'rate_limit_error', 500: 'api_error'}
        if b['form'] == 'anthropic':
            return dict(custom_id=id, result=dict(type='errored', error=dict(type='error', error=dict(
                type=kinds.get(status, 'api_error'), message=why))))
        error = dict(error=dict(message=why, type=kinds.get(status)))
        response = dict(status_code=status, request_id='x', body=error)
        return dict(id=f'r-{id}', custom_id=id, response=response, error=None)

    def unprocessed(self, b, id):
        if b['form'] == 'anthropic':
            return dict(custom_id=id, result=dict(type='expired' if b['end'] == 'expired' else 'canceled'))
        why = 'This request could not be executed before the completion window expired.'
        return dict(id=f'r-{id}', custom_id=id, response=None, error=dict(code=f"batch_{b['end']}", message=why))

    def write(self, b, good, bad, rng):
        "Put the results into files."
        lines = [[orjson.dumps(row) for row in rows] for rows in (good, bad)]
        if self.b['noise'] and good:
            others = [orjson.dumps({**good[-1], 'custom_id': id}) for id in ('of-another-1-1', None)]
            lines[0] += [lines[0][0], *others, b'<html>', b'', b'[1, 2]']
            rng.shuffle(lines[0])
        if b['form'] == 'anthropic':
            rows = lines[0]+lines[1]
            if self.b['shuffle']:
                rng.shuffle(rows)
            b['results'] = b'\n'.join(rows)+b'\n'
            return
        for name, rows in zip(('output', 'errors'), lines):
            if rows:
                b[name] = f'file-{len(self.files)+1}'
                self.files[b[name]] = b'\n'.join(rows)+b'\n'

    # ---- what is shown

    def shown(self, b):
        return getattr(self, f"shown_{b['form']}")(b)

    def shown_openai(self, b):
        status = 'in_progress' if b['done'] is None else dict(ok='completed').get(b['end'], b['end'])
        errors = dict(object='list', data=[dict(code='invalid_json_line', message='Line 1 is not valid JSON', line=1)])
        meta = None if self.b['forget'] else b['body'].get('metadata')
        good, bad = b['counts']
        return dict(id=b['id'], object='batch', endpoint='/v1/chat/completions', status=status, metadata=meta,
                    input_file_id=b['body']['input_file_id'], output_file_id=b['output'] or None,
                    errors=errors if status == 'failed' else None,
                    error_file_id=b['errors'] or None, created_at=int(b['created']),
                    expires_at=int(b['created']+self.b['expires']), completion_window='24h',
                    request_counts=dict(total=len(b['requests']), completed=good, failed=bad))

    def shown_mistral(self, b):
        names = dict(ok='SUCCESS', expired='TIMEOUT_EXCEEDED', cancelled='CANCELLED', failed='FAILED')
        good, bad = b['counts']
        return dict(id=b['id'], object='batch', input_files=b['body']['input_files'], model=b['body']['model'],
                    metadata=None if self.b['forget'] else b['body'].get('metadata'), output_file=b['output'] or None,
                    error_file=b['errors'] or None, status='RUNNING' if b['done'] is None else names[b['end']],
                    created_at=int(b['created']), total_requests=len(b['requests']), completed_requests=good+bad,
                    succeeded_requests=good, failed_requests=bad,
                    errors=[dict(message='the file is not valid', count=1)] if b['end'] == 'failed' else [])

    def shown_anthropic(self, b):
        (good, bad), n, over = b['counts'], len(b['requests']), b['done'] is not None
        url = f"{self.base_url}/messages/batches/{b['id']}/results"
        return dict(id=b['id'], type='message_batch', processing_status='ended' if over else 'in_progress',
                    request_counts=dict(processing=0 if over else n, succeeded=good, errored=0, canceled=0,
                                        expired=bad),
                    created_at=iso(b['created']), expires_at=iso(b['created']+self.b['expires']),
                    ended_at=iso(b['done']), results_url=url if over else None)

    def listing(self, form, query):
        found = [self.shown(self.finish(b)) for b in reversed([*self.batches.values()]) if b['form'] == form]
        given = dict(p.partition('=')[::2] for p in query.split('&') if p)
        after = given.get('after') or given.get('after_id')
        if after:
            found = found[[d['id'] for d in found].index(after)+1:]
        size = int(given.get('limit') or given.get('page_size') or 20)
        total, found = len(found), found[size*int(given.get('page', 0)):]
        return 200, dict(object='list', data=found[:size], has_more=len(found) > size, total=total)
