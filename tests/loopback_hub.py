r"""A hub on 127.0.0.1 for tests, which speaks to huggingface_hub: create, preupload, LFS, commit, info and download.

    with LoopbackHub(token='hf_test') as hub: … hub.url, hub.repos, hub.log, hub.set(fault=403), hub.stop()"""
import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OPTIONS = dict(
    token='hf_loopback_token_0123456789',   # to be sent with everything that writes, and for private repositories
    owners=('me',),                         # who exists
    fault=None,                             # a status for every request
    regular=4096)                           # files up to this many bytes go into the commit, larger ones through LFS

class LoopbackHub:
    "A hub in a thread: `repos` is {owner/name: {private, files: {path: bytes}, commits}}."
    def __init__(self, **options):
        self.o, self.repos, self.objects, self.log = {**OPTIONS, **options}, {}, {}, []
        handler = type('Handler', (Handler,), dict(hub=self))
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def set(self, **options):
        self.o.update(options)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

class Handler(BaseHTTPRequestHandler):
    protocol_version, hub = 'HTTP/1.1', None

    def log_message(self, *a):
        pass

    def reply(self, status, body=b'', **head):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for k, v in {'Content-Type': 'application/json', **head, 'Content-Length': str(len(data))}.items():
            self.send_header(k.replace('_', '-'), v)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def error(self, status, why, code=''):
        self.reply(status, dict(error=why), X_Error_Code=code, X_Error_Message=why)

    def handle_any(self):
        n = int(self.headers.get('Content-Length') or 0)
        chunked = 'chunked' in self.headers.get('Transfer-Encoding', '')
        self.body = self.chunks() if chunked else self.rfile.read(n)
        path = self.path.partition('?')[0]
        self.hub.log.append((self.command, path))
        if self.hub.o['fault']:
            return self.error(self.hub.o['fault'], 'as the test wants')
        for pattern, route in ROUTES:
            m = re.fullmatch(pattern, f'{self.command} {path}')
            if m:
                return getattr(self, route)(*m.groups())
        return self.error(404, f'no route {self.command} {path}')

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def chunks(self):
        data = b''
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def may_write(self):
        if self.headers.get('Authorization') == f"Bearer {self.hub.o['token']}":
            return True
        self.error(401, 'Invalid username or password.')

    def repo(self, name):
        found = self.hub.repos.get(name)
        if found and (not found['private'] or self.headers.get('Authorization') == f"Bearer {self.hub.o['token']}"):
            return found
        self.error(404 if self.headers.get('Authorization') else 401, 'Repository not found', 'RepoNotFound')

    # ---- write

    def create(self):
        if not self.may_write():
            return None
        d = json.loads(self.body)
        owner = d.get('organization') or 'me'
        name = f"{owner}/{d['name']}"
        if owner not in self.hub.o['owners']:
            return self.error(403, f'You do not have the rights to create a dataset under {owner}')
        if name in self.hub.repos:
            url = f'{self.hub.url}/datasets/{name}'
            return self.reply(409, dict(error='You already created this dataset repo', url=url))
        private = d.get('private') or d.get('visibility') == 'private'
        self.hub.repos[name] = dict(private=bool(private), files={}, commits=[], type=d.get('type'))
        return self.reply(200, dict(url=f'{self.hub.url}/datasets/{name}', name=name))

    def valid_yaml(self):
        self.reply(200, dict(errors=[], warnings=[]))

    def preupload(self, name):
        if self.may_write() and self.repo(name) is not None:
            asked, most = json.loads(self.body)['files'], self.hub.o['regular']
            files = [dict(path=f['path'], uploadMode='regular' if f['size'] <= most else 'lfs', shouldIgnore=False)
                     for f in asked]
            self.reply(200, dict(files=files))

    def lfs_batch(self, name):
        if self.may_write():
            up = lambda o: dict(upload=dict(href=f"{self.hub.url}/lfs/{o['oid']}", header={}))
            objects = [dict(oid=o['oid'], size=o['size'], actions=up(o)) for o in json.loads(self.body)['objects']]
            self.reply(200, dict(transfer='basic', objects=objects))

    def lfs_put(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self.reply(200)

    def commit(self, name):
        repo = self.repo(name) if self.may_write() else None
        if repo is None:
            return
        for line in map(json.loads, self.body.splitlines()):
            v = line['value']
            if line['key'] == 'file':
                repo['files'][v['path']] = base64.b64decode(v['content'])
            elif line['key'] == 'lfsFile':
                repo['files'][v['path']] = self.hub.objects[v['oid']]
            elif line['key'] == 'deletedFile':
                del repo['files'][v['path']]
        repo['commits'].append(hashlib.sha1(self.body).hexdigest())
        sha = repo['commits'][-1]
        self.reply(200, dict(success=True, commitOid=sha, commitUrl=f'{self.hub.url}/datasets/{name}/commit/{sha}'))

    # ---- read

    def info(self, name, revision=None):
        repo = self.repo(name)
        if repo is not None:
            files = [dict(rfilename=path) for path in repo['files']]
            self.reply(200, dict(id=name, sha=repo['commits'][-1], private=repo['private'], siblings=files, tags=[],
                                 downloads=0, likes=0, lastModified='2026-01-01T00:00:00.000Z'))

    def tree(self, name, revision, under=''):
        repo = self.repo(name)
        if repo is not None:
            self.reply(200, [dict(type='file', path=p, oid=hashlib.sha1(d).hexdigest(), size=len(d))
                             for p, d in repo['files'].items() if p.startswith(under)])

    def resolve(self, name, revision, path):
        repo = self.repo(name)
        if repo is not None and path not in repo['files']:
            self.error(404, 'Entry not found', 'EntryNotFound')
        elif repo is not None:
            data = repo['files'][path]
            self.reply(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=repo['commits'][-1])

NAME = r'([\w.-]+/[\w.-]+)'
ROUTES = (('POST /api/repos/create', 'create'), ('POST /api/validate-yaml', 'valid_yaml'),
          (rf'POST /api/datasets/{NAME}/preupload/main', 'preupload'),
          (rf'POST /datasets/{NAME}\.git/info/lfs/objects/batch', 'lfs_batch'), (r'PUT /lfs/(\w+)', 'lfs_put'),
          (rf'POST /api/datasets/{NAME}/commit/main', 'commit'), (rf'GET /api/datasets/{NAME}', 'info'),
          (rf'GET /api/datasets/{NAME}/revision/([^/]+)', 'info'),
          (rf'GET /api/datasets/{NAME}/tree/([^/]+)/?(.*)', 'tree'),
          (rf'(?:GET|HEAD) /datasets/{NAME}/resolve/([^/]+)/(.+)', 'resolve'))
