"What the tests of both trainers write with thinking, tools and images."
import base64
import json
from pathlib import Path

from cases import A, U

from rsr.data.types import Prompt, Rollout
from rsr.formatters.writer import make_formatters, write_files

PNG = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=')

TOOLS = [dict(type='function', function=dict(name=name, description=f'Get the {name}.', parameters=dict(
    type='object', properties={key:dict(type='string')}, required=[key])))
    for name, key in (('weather', 'city'), ('time', 'zone'))]

def call(name, id='c1', **arguments):
    return dict(id=id, type='function', function=dict(name=name, arguments=json.dumps(arguments)))

def thinking(n=8):
    "Half split off by the server, half in the text."
    def r(i, text, score, idx):
        return Rollout(text, reasoning='Hm.', score=score, idx=idx) if i%2 else Rollout(f'<think>Hm.</think>{text}',
                                                                                       score=score, idx=idx)
    return [(Prompt(f'{i}', [U(f'q{i}')]), [r(i, 'yes', 1., 0), r(i, 'no', 0., 1)]) for i in range(n)]

def tools(n=8):
    "A call as the answer, results in the history, and rows without tools."
    past = [U('Weather?'), dict(role='assistant', content=None, tool_calls=[call('weather', 'a', city='Bern'),
                                                                            call('time', 'b', zone='CET')]),
            dict(role='tool', content='Sunny', tool_call_id='a'), dict(role='tool', content='12:00', tool_call_id='b')]
    asks = [Rollout('', score=1., tool_calls=[call('weather', city='Bern')]),
            Rollout('', score=0., idx=1, tool_calls=[call('time', zone='CET')])]
    says = [Rollout('Sunny, and noon.', score=1.), Rollout('Rain.', score=0., idx=1)]
    chat = [U('Hi'), A('Hello!'), U('So?')]
    kinds = [([U('Weather in Bern?')], TOOLS, asks), (past, TOOLS, says), (chat, None, says)]
    return [(Prompt(f'{i}', messages, tools=tools), rs) for i, (messages, tools, rs) in enumerate((kinds*n)[:n])]

def images(folder, n=6):
    out = []
    for i in range(n):
        path = Path(folder)/f'{i}.png'
        path.write_bytes(PNG)
        parts = [dict(type='image_url', image_url=dict(url=str(path))), dict(type='text', text='What?')]
        content = 'No image here' if i==n-1 else parts
        out.append((Prompt(f'{i}', [dict(role='user', content=content)]),
                    [Rollout('a cat', score=1.), Rollout('a dog', score=0., idx=1)]))
    return out

def write(groups, method, target, folder, **kw):
    "(formatter, path, rows written)"
    f, = make_formatters([dict(type=method, target=target, style='messages', **kw)])
    n = write_files(groups, [f], folder, single=False)[f.file]['rows']
    return f, folder/'train'/f.file, n
