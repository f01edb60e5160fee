"A small OpenAI-compatible server for the pages of the gallery: a function writes each reply, the same in every run."
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def _draw(body, i):
    "A number in [0, 1) that depends on the model, the last message and the number of the sample only."
    said = f"{body.get('model')}{body['messages'][-1]['content']}{body.get('seed', 0)+i}"
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:4], 'big')/2**32

def _answer(reply, body):
    "The answer to a request: a choice for each of its samples."
    messages = [reply(body, _draw(body, i)) for i in range(body.get('n') or 1)]
    messages = [dict(content=m) if isinstance(m, str) else m for m in messages]
    choices = [dict(message=m, finish_reason='tool_calls' if m.get('tool_calls') else 'stop') for m in messages]
    words = sum(len(json.dumps(m).split()) for m in messages)
    return dict(choices=choices, usage=dict(prompt_tokens=30, completion_tokens=words))

def serve(reply):
    "Serve `reply(body, draw) -> text or message` on 127.0.0.1; return (the server, its base_url)."
    class Handler(BaseHTTPRequestHandler):
        protocol_version, wbufsize, disable_nagle_algorithm = 'HTTP/1.1', 1 << 16, True
        def log_message(self, *a):
            pass
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            data = json.dumps(_answer(reply, body)).encode()
            self.send_response(200)
            self.send_header('Content-Length', str(len(data)))
            self.end_headers()
            self.wfile.write(data)
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f'http://127.0.0.1:{server.server_port}/v1'
