"What a server receives of a prompt, and what the ledger keeps of its reply: all of it, on every way to a model."
import base64
import io
import json

import pytest
from conftest import rows, write_jsonl
from loopback import Loopback

from rsr import sample
from rsr.data.store import Store
from rsr.data.threads import run_sync
from rsr.data.types import RsrError, RunBroken
from rsr.sampling.budget import estimate_prompt
from rsr.sampling.errors import CallError
from rsr.sampling.events import Events
from rsr.sampling.providers import make_sampler
from rsr.sampling.replies import parse_reply

WEATHER = dict(type='function', function=dict(name='weather', description='The weather of a city.', parameters=dict(
    type='object', properties=dict(city=dict(type='string')), required=['city'])))
CALL = dict(id='c1', type='function', function=dict(name='weather', arguments='{"city": "Rome"}'))
QUESTION = dict(role='user', content='How warm is it in Rome?')
HISTORY = [QUESTION, dict(role='assistant', content=None, reasoning_content='I look it up.', tool_calls=[CALL]),
           dict(role='tool', tool_call_id='c1', content='31 degrees')]

def image(size=(2, 2)):
    "The bytes of a PNG."
    from PIL import Image
    out = io.BytesIO()
    Image.effect_noise(size, 90).save(out, 'PNG')
    return out.getvalue()

def image_turn(url, text='What is this?'):
    return dict(role='user', content=[dict(type='image_url', image_url=dict(url=url)), dict(type='text', text=text)])

def go(base_url, data, recipe='sft', work_dir='run', **kw):
    kw = dict(step_size=1, max_rollouts=2, verifier='v.py:one')|kw
    return sample(data, recipe, base_url=base_url, work_dir=work_dir, progress=False, **kw)

@pytest.fixture(autouse=True)
def one(here):
    (here/'v.py').write_text('def one(response, metadata, tool_calls=None): return 1.0\n')

def row(messages, id='q', **kw):
    return dict(id=id, messages=messages, metadata=dict(answer='A'), **kw)

def ledger(work_dir='run'):
    "The rollouts of a run, in the order of the prompts."
    return [r for _, _, rollouts in Store(work_dir, write=False).walk() for r in rollouts]

def bodies(s):
    return [entry['body'] for entry in s.log]

def ask(s, messages=(QUESTION,), n=1, type=None, **options):
    "The rollouts that a sampler of this server gives, and the bodies it sent."
    own = {k: options.pop(k) for k in ('tools', 'tool_choice', 'parallel_tool_calls') if k in options}
    if type == 'litellm':
        options |= dict(model='openai/m', api_key='sk-none')
    sampler = make_sampler(type, **{'model': 'm', 'base_url': s.base_url, **options})
    async def run():
        try:
            return await sampler.ask(list(messages), n, 7, **own)
        finally:
            await sampler.close()
    return run_sync(run)

# ---- what is sent

def test_a_prompt_arrives_whole(server):
    tools = [WEATHER, dict(type='function', function=dict(name='time'))]
    go(server.base_url, [row(HISTORY, tools=tools, tool_choice='auto', parallel_tool_calls=False),
                         row([QUESTION], 'plain')])
    sent = {len(b['messages']): b for b in bodies(server)}
    assert sent[3]['messages'] == HISTORY and sent[3]['tools'] == tools
    assert sent[3]['tool_choice'] == 'auto' and sent[3]['parallel_tool_calls'] is False
    assert sent[1]['messages'] == [QUESTION] and not {'tools', 'tool_choice', 'parallel_tool_calls'} & set(sent[1])

def test_a_rows_own_wins_over_extra_params(server):
    extra = dict(tools=[WEATHER], tool_choice='required')
    go(server.base_url, [row([QUESTION], 'a', tools=[dict(type='function', function=dict(name='time'))],
                             tool_choice='none'), row([dict(role='user', content='Hi')], 'b')], extra_params=extra)
    sent = {b['messages'][0]['content']: b for b in bodies(server)}
    assert sent[QUESTION['content']]['tools'][0]['function']['name'] == 'time'
    assert sent[QUESTION['content']]['tool_choice'] == 'none'
    assert sent['Hi']['tools'] == [WEATHER] and sent['Hi']['tool_choice'] == 'required'

def test_both_sides_of_a_pair_get_the_tools(server):
    go(server.base_url, [row([QUESTION], tools=[WEATHER])], 'dpo', verifier='mcq-rlvr', max_rollouts=4,
       pairs=dict(strategy='strong_vs_weak', weak=dict(model='weak', base_url=server.base_url)), model='strong')
    assert {b['model'] for b in bodies(server)} == {'strong', 'weak'}
    assert all(b['tools'] == [WEATHER] for b in bodies(server))

@pytest.mark.parametrize('type', [None, 'litellm'])
def test_template_and_system_prompt_with_parts_and_tools(server, type):
    turn = dict(role='user', content=[dict(type='text', text='Look at'), dict(type='text', text='this')])
    messages = [dict(role='developer', content='You are a clerk.'), turn, *HISTORY[1:]]
    ask(server, messages, type=type, system_prompt='Be brief.', prompt_template='<{prompt}>', tools=[WEATHER])
    body = bodies(server)[0]
    first, user, *rest = body['messages']
    assert first['role'] in ('developer', 'system' if type else '')   # LiteLLM knows which provider knows which
    assert first['content'] == 'Be brief.\n\nYou are a clerk.'
    assert [p['text'] for p in user['content']] == ['<Look at', 'this>'] and body['tools'] == [WEATHER]
    assert rest[0]['tool_calls'] == [CALL] and rest[1] == HISTORY[2]

def test_images_are_sent_as_data_and_stay_paths_in_the_ledger(here, server):
    data = image()
    (here/'page.png').write_bytes(data)
    path = write_jsonl('in.jsonl', [row([image_turn('page.png')])])
    go(server.base_url, path, prompt_template='Look. {prompt}')
    (body,) = bodies(server)
    url = body['messages'][0]['content'][0]['image_url']['url']
    assert base64.b64decode(url.removeprefix('data:image/png;base64,')) == data
    assert body['messages'][0]['content'][1]['text'] == 'Look. What is this?'
    ((prompt, _, _),) = Store('run', write=False).walk()
    assert prompt.messages[0]['content'][0]['image_url']['url'].endswith('page.png')

def test_an_image_that_is_too_large_is_made_smaller_once(here, server, capfd):
    from PIL import Image
    for i in range(6):
        (here/f'{i}.png').write_bytes(image((64+i, 64)))
    server.set(image_limit=3000)
    run = go(server.base_url, [row([image_turn(f'{i}.png', f'What is {i}?')], str(i)) for i in range(6)],
             concurrent_requests=1)
    assert [e['status'] for e in server.log] == [413]+[200]*6
    urls = [b['messages'][0]['content'][0]['image_url']['url'] for b in bodies(server)]
    sizes = [Image.open(io.BytesIO(base64.b64decode(u.partition(',')[2]))).size for u in urls]
    assert sizes[0] == (64, 64) and all(y == 32 for _, y in sizes[1:])
    assert capfd.readouterr().err.count('too large for the server') == 1
    assert run.stats()['samples']['by_outcome'] == {'kept': 6}

def test_an_image_that_is_still_too_large_fails_its_prompt_alone(here, server):
    (here/'large.png').write_bytes(image((400, 400)))
    (here/'small.png').write_bytes(image())
    server.set(image_limit=3000)
    go(server.base_url, [row([image_turn('large.png', 'large')], 'a'), row([image_turn('small.png', 'small')], 'b')])
    by_prompt = {p.id: (stop, [r.outcome for r in rs]) for p, stop, rs in Store('run', write=False).walk()}
    assert by_prompt == {'a': ('failed', ['failed']), 'b': ('satisfied', ['kept'])}

def test_a_budget_counts_an_image_and_not_its_base64():
    url = 'data:image/png;base64,'+'A'*4_000_000
    assert 1000 <= estimate_prompt([image_turn(url)]) < 1100
    assert estimate_prompt([QUESTION], [WEATHER]) > estimate_prompt([QUESTION])+20
    assert estimate_prompt(HISTORY) > estimate_prompt([QUESTION])+10

def test_a_budget_with_tools_and_images(here, server):
    (here/'page.png').write_bytes(image((200, 200)))
    run = go(server.base_url, [row([image_turn('page.png')], tools=[WEATHER])], budget=dict(tokens=20_000))
    assert run.stats()['samples']['by_outcome'] == {'kept': 1}

# ---- what is kept

THINKING_FORMS = {
    'reasoning_content': dict(content='B', reasoning_content='hm'),
    'reasoning': dict(content='B', reasoning='hm'),
    'both, with details': dict(content='B', reasoning='hm', reasoning_details=[dict(type='reasoning.text', text='hm')]),
    'details alone': dict(content='B', reasoning_details=[
        dict(type='reasoning.summary', summary='h'), dict(type='reasoning.text', text='m'),
        dict(type='reasoning.encrypted', data='c2VjcmV0')]),
    'parts of a field': dict(content='B', reasoning=[dict(type='text', text='hm')]),
    'parts of the content, Mistral': dict(content=[
        dict(type='thinking', thinking=[dict(type='text', text='hm')]), dict(type='text', text='B')]),
    'parts of the content, Anthropic': dict(content=[
        dict(type='thinking', thinking='hm', signature='Er'), dict(type='redacted_thinking', data='x'),
        dict(type='text', text='B')]),
    'blocks': dict(content='B', thinking_blocks=[dict(type='thinking', thinking='hm', signature='Er')])}

@pytest.mark.parametrize('form', THINKING_FORMS)
def test_thinking_in_any_form(server, form):
    server.set(reply=lambda body: [THINKING_FORMS[form]])
    (r,) = ask(server)
    assert (r.text, r.reasoning, r.outcome) == ('B', 'hm', 'kept')

@pytest.mark.parametrize('type', [None, 'litellm'])
def test_calls_are_kept_in_the_ledger(server, type):
    message = dict(content=None, tool_calls=[CALL], reasoning_content='Look it up.', finish_reason='tool_calls')
    server.set(reply=lambda body: [message])
    options = dict(type='litellm', model='openai/m', api_key='sk-none') if type else {}
    go(server.base_url, [row([QUESTION], tools=[WEATHER])], **options)
    (r,) = ledger()
    assert (r.outcome, r.tool_calls, r.reasoning, r.text) == ('kept', [CALL], 'Look it up.', '')
    assert len(server.log) == 1 and bodies(server)[0]['tools'] == [WEATHER]

def message_of(**message):
    (r,) = parse_reply(dict(choices=[dict(message=message, finish_reason='stop')]))
    return r

def test_forms_of_calls():
    as_object = dict(id='a', function=dict(name='f', arguments={'x': 1}), index=0)
    r = message_of(content='', tool_calls=[as_object])
    assert r.tool_calls == [dict(id='a', type='function', function=dict(name='f', arguments='{"x":1}'))]
    legacy = message_of(content=None, function_call=dict(name='f', arguments='{"x": 1'))
    assert legacy.outcome == 'kept' and legacy.tool_calls[0]['function']['arguments'] == '{"x": 1'   # as it came
    blocks = message_of(content=[dict(type='text', text='I look.'), dict(type='tool_use', id='t', name='f', input={})])
    assert (blocks.text, blocks.tool_calls[0]['id']) == ('I look.', 't')
    twins = message_of(content=None, tool_calls=[dict(id='', function=dict(name='f', arguments='{}'))]*2)
    assert [c['id'] for c in twins.tool_calls] == ['call_0', 'call_1']
    with pytest.raises(CallError, match='names no function'):
        message_of(content=None, tool_calls=[dict(function=dict(arguments='{}'))])

def chunk(finish=None, logprobs=None, **delta):
    return dict(choices=[dict(index=0, delta=delta, finish_reason=finish, logprobs=logprobs)])

def streamed(*chunks):
    events = Events()
    for c in chunks:
        events.take(json.loads(json.dumps(c)))
    (r,) = parse_reply(events.reply(), logprobs=True)
    return r

def test_streams_are_put_together():
    piece = lambda i, **function: dict(index=i, function=function)
    r = streamed(chunk(role='assistant', content=''), chunk(reasoning_content='h'), chunk(reasoning_content='m'),
                 chunk(tool_calls=[dict(id='a', **piece(0, name='f', arguments=''))]),
                 chunk(tool_calls=[piece(0, arguments='{"x"')]),
                 chunk(tool_calls=[dict(id='b', **piece(1, name='g', arguments='{}'))]),
                 chunk(tool_calls=[piece(0, arguments=': 1}')]), chunk(finish='tool_calls'))
    assert r.reasoning == 'hm' and r.outcome == 'kept'
    assert [(c['id'], c['function']['name'], c['function']['arguments']) for c in r.tool_calls] == [
        ('a', 'f', '{"x": 1}'), ('b', 'g', '{}')]
    legacy = streamed(chunk(function_call=dict(name='f', arguments='')), chunk(function_call=dict(arguments='{"x"')),
                      chunk(function_call=dict(arguments=': 1}')), chunk(finish='function_call'))
    assert legacy.tool_calls[0]['function'] == dict(name='f', arguments='{"x": 1}')
    parts = streamed(chunk(content=[dict(type='thinking', thinking=[dict(type='text', text='h')])]),
                     chunk(content=[dict(type='thinking', thinking=[dict(type='text', text='m')])]),
                     chunk(content='B'), chunk(finish='stop'))
    assert (parts.text, parts.reasoning) == ('B', 'hm')
    tokens = [dict(token=t, logprob=-.1) for t in 'ab']
    r = streamed(*[chunk(content=t['token'], logprobs=dict(content=[t])) for t in tokens], chunk(finish='stop'))
    assert r.text == 'ab' and r.logprobs == dict(content=tokens)
    assert streamed(chunk(refusal='I can'), chunk(refusal='not.'), chunk(finish='stop')).refusal == 'I cannot.'

def test_a_refusal_is_what_the_model_answers(server):
    server.set(reply=lambda body: [dict(content=None, refusal='I cannot help with that.')])
    go(server.base_url, [row([QUESTION])])
    (r,) = ledger()
    assert (r.outcome, r.text, r.refusal) == ('kept', 'I cannot help with that.', 'I cannot help with that.')

@pytest.mark.parametrize('type', [None, 'litellm'])
def test_logprobs_if_they_are_asked_for(server, type):
    (r,) = ask(server, type=type)
    assert r.logprobs is None and 'logprobs' not in bodies(server)[-1]
    (r,) = ask(server, type=type, logprobs=1)
    assert bodies(server)[-1]['logprobs'] is True and bodies(server)[-1]['top_logprobs'] == 1
    assert [t['token'] for t in r.logprobs['content']] == r.text.split() and r.logprobs['content'][0]['top_logprobs']
    ask(server, type=type, logprobs=0)
    assert bodies(server)[-1]['logprobs'] is True and 'top_logprobs' not in bodies(server)[-1]

def test_logprobs_are_in_the_ledger_and_unasked_ones_are_not(server):
    go(server.base_url, rows(2), logprobs=0, work_dir='a')
    assert all(r.logprobs['content'] for r in ledger('a'))
    message = dict(content='B', logprobs=dict(content=[dict(token='B', logprob=-1.)]))
    server.set(reply=lambda body: [message])
    go(server.base_url, rows(2), work_dir='b')
    assert all(r.logprobs is None for r in ledger('b'))

# ---- what is no answer

LEAKED = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
EMPTY = {'only a tool call written as text': [
             dict(content=LEAKED), dict(content='<think>hm</think>'+LEAKED),
             dict(content='[TOOL_CALLS][{"name": "f"}]'),
             dict(content='<|channel|>commentary to=functions.weather<|message|>{}<|call|>')],
         'only thinking': [dict(content=None, reasoning_content='hm'), dict(content='<think>hm</think>'),
                           dict(content='', reasoning='hm'), dict(content='<think>hm'),
                           dict(content='<|channel>thought\nhm<channel|>')],
         'no text': [dict(content=None), dict(content=' \n')]}

@pytest.mark.parametrize('why, message', [(why, m) for why, ms in EMPTY.items() for m in ms])
def test_what_is_empty_and_why(server, why, message):
    server.set(reply=lambda body: [dict(message)])
    (r,) = ask(server)
    assert (r.outcome, r.error) == ('empty', why)
    if why == 'only thinking':
        assert 'hm' in r.text+r.reasoning   # nothing is lost in the ledger

def test_thinking_that_is_cut_is_truncated(server):
    server.set(reply=lambda body: [dict(content=None, reasoning_content='hm', finish_reason='length')])
    assert ask(server)[0].outcome == 'truncated'

def test_empty_replies_end_in_a_hint_and_not_in_32_requests(server, capfd):
    server.set(reply=lambda body: [dict(content=LEAKED)])
    run = go(server.base_url, [row([QUESTION], tools=[WEATHER])], step_size=4, max_rollouts=16, max_steps=8)
    assert server.stats()['requests'] == 8
    said = capfd.readouterr().err
    assert said.count('replies are empty') == 1 and '--tool-call-parser' in said and 'and resume' in said
    assert run.stats()['prompts']['by_stop_reason'] == {'gave_up': 1}
    server.set(reply=lambda body: [dict(content=None, tool_calls=[CALL])])
    go(server.base_url, [row([QUESTION], tools=[WEATHER])], step_size=4, max_rollouts=16, max_steps=8)   # resumed
    assert server.stats()['requests'] == 9 and [r.outcome for r in ledger()][:9] == ['empty']*8+['kept']

def test_one_empty_reply_among_many_is_no_hint(server, capfd):
    server.set(empty=.2)
    go(server.base_url, rows(30), max_rollouts=4)
    assert 'replies are empty' not in capfd.readouterr().err

# ---- what a server refuses

def refusing(text, when, status=400):
    "A server's reply: refused while `when(body)`."
    def reply(body):
        return (status, json.dumps(dict(error=dict(message=text)))) if when(body) else None
    return reply

def test_thinking_of_earlier_turns_is_left_out_if_it_is_refused(server, capfd):
    has = lambda body: any('reasoning_content' in m for m in body['messages'])
    server.set(reply=refusing("property 'messages.1.reasoning_content' is unsupported", has))
    go(server.base_url, [row(HISTORY, str(i), tools=[WEATHER]) for i in range(5)], concurrent_requests=1)
    assert [has(b) for b in bodies(server)] == [True]+[False]*5
    assert bodies(server)[-1]['messages'][1]['tool_calls'] == [CALL]
    assert capfd.readouterr().err.count('the thinking of earlier turns is not sent') == 1

@pytest.mark.parametrize('text', ["'developer' is not one of ['system', 'assistant', 'user', 'tool', 'function']",
                                  'Unexpected message role.'])
def test_a_developer_turn_becomes_a_system_turn(server, capfd, text):
    server.set(reply=refusing(text, lambda body: body['messages'][0]['role'] == 'developer'))
    go(server.base_url, [row([dict(role='developer', content='Be brief.'), QUESTION])])
    assert [b['messages'][0]['role'] for b in bodies(server)] == ['developer', 'system']
    assert 'sent as system turns' in capfd.readouterr().err

REFUSED = {
    '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set': '--tool-call-parser',
    'registry.ollama.ai/library/gemma:2b does not support tools': 'name a model that calls tools',
    'tools param requires --jinja flag': '--jinja',
    "Unsupported parameter: 'parallel_tool_calls'": 'leave parallel_tool_calls out'}

@pytest.mark.parametrize('text', REFUSED)
def test_refused_tools_are_an_error_and_never_left_out(server, text):
    server.set(reply=refusing(text, lambda body: True))
    with pytest.raises(RunBroken, match=REFUSED[text].replace('-', '.')):
        go(server.base_url, [row([QUESTION], str(i), tools=[WEATHER], parallel_tool_calls=False) for i in range(3)])
    assert all(b['tools'] == [WEATHER] and b['parallel_tool_calls'] is False for b in bodies(server))

# ---- a model that takes none

@pytest.mark.e2e
def test_the_embedded_model_says_that_it_takes_no_tools_and_no_images(here):
    (here/'page.png').write_bytes(image())
    for given, what in (dict(tools=[WEATHER]), 'tools'), (dict(messages=[image_turn(str(here/'page.png'))]), 'images'):
        with pytest.raises(RsrError, match=f'takes no {what}'):
            ask_local(**given)
    assert ask_local().text

def ask_local(messages=(QUESTION,), **own):
    sampler = make_sampler('local', max_tokens=8)
    async def run():
        try:
            return await sampler.ask(list(messages), **own)
        finally:
            await sampler.close()
    return run_sync(run)[0]

# ---- the loopback server itself

def test_the_loopback_server_calls_tools():
    with Loopback(calls=1.) as s:
        (r,) = ask(s, tools=[WEATHER])
        assert r.tool_calls[0]['function']['name'] == 'weather'
        assert json.loads(r.tool_calls[0]['function']['arguments'])['city'] in 'AB'
        assert ask(s)[0].tool_calls is None
