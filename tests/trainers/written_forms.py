"What the tests of both trainers write with thinking, tools and images."
import base64
import json
from pathlib import Path

from cases import A, S, U

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

# ---- rows with earlier turns of the assistant, which are not to be trained on: (groups, options, its answers)

def asked(i, *turns):
    return Prompt(f'{i}', [A(t) if j%2 else U(t) for j, t in enumerate(turns)])

def dialogues(n=4):
    return [(asked(i, f'q{i}', 'one', 'And?', 'two', 'So?'), [Rollout('three', score=1., key=i)]) for i in range(n)]

def dialogues_with_system(n=4):
    out = dialogues(n)
    for p, _ in out:
        p.messages.insert(0, S('Be brief.'))
    return out

def dialogues_with_thinking(n=4):
    out = dialogues(n)
    for p, rollouts in out:
        p.messages[1]['reasoning_content'] = 'Hm one.'
        rollouts[0].reasoning = 'Hm three.'
    return out

def dialogues_with_calls(n=4):
    "A turn is a call, the next one reads its result; the last answer is a call of another tool."
    out = []
    for i in range(n):
        past = [U(f'Weather {i}?'), dict(role='assistant', content=None, tool_calls=[call('weather', city='Bern')]),
                dict(role='tool', content='Sunny', tool_call_id='c1'), A('two'), U('And the time?')]
        out.append((Prompt(f'{i}', past, tools=TOOLS), [Rollout('', score=1., key=i, tool_calls=[
            call('time', zone='CET')])]))
    return out

def chain(i, *answers):
    "Answers to a prompt, each the revision of the one before it; the last passes."
    keys, last = [100*i+j+1 for j in range(len(answers))], len(answers)-1
    return [Rollout(**a, key=keys[j], idx=j, score=float(j==last), source=keys[j-1] if j else None,
                    feedback='That is wrong.' if j else '') for j, a in enumerate(answers)]

def exchanges(n=4):
    "The first prompt has one answer that passes at once."
    return [(asked(i, f'q{i}'), chain(i, *[dict(text=t) for t in ('no', 'nor', 'three')[2 if i==0 else 0:]]))
            for i in range(n)]

def exchanges_with_empty(n=4):
    return [(asked(i, f'q{i}', 'one', 'And?'), chain(i, dict(text=''), dict(text='three'))) for i in range(n)]

def exchanges_with_thinking(n=4):
    answers = [dict(text=text, reasoning=f'Hm {text}.') for text in ('no', 'three')]
    return [(asked(i, f'q{i}'), chain(i, *answers)) for i in range(n)]

def exchanges_with_calls(n=4):
    "The answer that failed called two tools; neither call was run."
    wrong = dict(text='', tool_calls=[call('time', 'a', zone='CET'), call('time', 'b', zone='UTC')])
    right = dict(text='', tool_calls=[call('weather', city='Bern')])
    return [(Prompt(f'{i}', [U(f'Weather {i}?')], tools=TOOLS), chain(i, wrong, right)) for i in range(n)]

SLICE, EXCHANGE = dict(slice=True), dict(revisions='exchange')
EARLIER = dict(
    slice=(dialogues, SLICE, ['one', 'two', 'three']),
    slice_system=(dialogues_with_system, SLICE, ['one', 'two', 'three']),
    slice_thinking=(dialogues_with_thinking, SLICE, ['Hm one.|one', 'two', 'Hm three.|three']),
    slice_calls=(dialogues_with_calls, SLICE, ['weather', 'two', 'time']),
    exchange=(exchanges, EXCHANGE, ['three']),
    exchange_empty=(exchanges_with_empty, EXCHANGE, ['three']),
    exchange_thinking=(exchanges_with_thinking, EXCHANGE, ['Hm three.|three']),
    exchange_calls=(exchanges_with_calls, EXCHANGE, ['weather']))

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
