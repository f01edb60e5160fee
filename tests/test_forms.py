"""What the ledger holds is what the files hold: every shape of data × method × trainer, read back.

Or the trainer has no form for it, and the run is refused before the first request."""
import tempfile
from pathlib import Path

import pytest
from conftest import read_jsonl

from rsr.data.store import Store
from rsr.data.types import Prompt, Rollout, RsrError
from rsr.formatters.form_checks import check_forms, input_holds, missing_forms
from rsr.formatters.left_out import remedy, why_left_out
from rsr.formatters.reading import message_turn, rollout_turn, row_content, training_rows
from rsr.formatters.rows import form_row, prompt_holds
from rsr.formatters.trainers import TRAINERS
from rsr.formatters.writer import make_formatter, make_formatters, write_files

def U(t):
    return dict(role='user', content=t)

TOOLS = [dict(type='function', function=dict(name='weather', parameters=dict(
    type='object', properties=dict(city=dict(type='string')))))]
def call(city, id='c1'):
    return dict(id=id, type='function', function=dict(name='weather', arguments=f'{{"city": "{city}"}}'))
def calls(*cities):
    return [call(city, f'c{i}') for i, city in enumerate(cities)]
CAT = Path(tempfile.mkdtemp())/'cat.png'
CAT.write_bytes(b'\x89PNG\r\n\x1a\n')
PICTURE = dict(type='image_url', image_url=dict(url=str(CAT)))
ADDRESS = dict(type='image_url', image_url=dict(url='https://example.org/cat.png'))
HISTORY = [U('Weather?'),
           dict(role='assistant', content=None, tool_calls=calls('Bern', 'Basel'), reasoning_content='Two.'),
           dict(role='tool', content='Sunny', tool_call_id='c0'), dict(role='tool', content='Rain', tool_call_id='c1')]

def texts(**kw):
    "A passed and a failed response, and another passed one."
    return [Rollout('It is so.', score=1., idx=0, key=1, **kw), Rollout('It is not.', score=0., idx=1, key=2, **kw),
            Rollout('So it is.', score=1., idx=2, key=3, **kw)]

def inline(thinking='Hm, so.'):
    return [Rollout(f'<think>{thinking}</think> {r.text}', score=r.score, idx=r.idx, key=r.key) for r in texts()]

CALLED = [Rollout('', score=s, idx=i, key=i+1, tool_calls=calls(*cities), reasoning='I look.')
          for i, (s, cities) in enumerate([(1., ['Bern']), (0., ['Rome']), (1., ['Bern', 'X'])])]

SHAPES = dict(
    plain=([U('So?')], None, texts()),
    system=([dict(role='system', content='Be brief.'), U('So?')], None, texts()),
    developer=([dict(role='developer', content='Be brief.'), U('So?')], None, texts()),
    multi_turn=([U('Hi'), dict(role='assistant', content='Hello!'), U('So?')], None, texts()),
    parts=([dict(role='user', content=[dict(type='text', text='So'), dict(type='text', text='what?')])], None, texts()),
    inline=([U('So?')], None, inline()),
    split_off=([U('So?')], None, texts(reasoning='Hm, so.')),
    past_thinking=([U('Hi'), dict(role='assistant', content='Hello!', reasoning_content='A greeting.'), U('So?')], None,
                   texts(reasoning='Hm, so.')),
    tools=([U('Weather?')], TOOLS, texts()),
    call=([U('Weather?')], TOOLS, CALLED),
    results=(HISTORY, TOOLS, texts()),
    image=([dict(role='user', content=[PICTURE, dict(type='text', text='What?')])], None, texts()),
    address=([dict(role='user', content=[ADDRESS, dict(type='text', text='What?')])], None, texts()))

METHODS = 'sft', 'dpo', 'multi_sft', 'kto', 'grpo'
PAIRS = [(m, t) for m in METHODS for t in TRAINERS if m in TRAINERS[t].formats]
OPTIONS = dict(multi_sft=dict(num_responses=2), grpo=dict(band=None))

def store_of(folder, prompt):
    store = Store(folder)
    store.add_prompts([('row 1', prompt)])
    return store

def refused(f, holds, prompt):
    "Whether the run may not start: the trainer has no form for the prompt."
    turns = len(prompt.messages)>1 and f.type in TRAINERS[f.target].strings_only
    return turns or bool(missing_forms(f, holds))

EXPECTED = {   # shapes that a trainer has no form for, by method
    'tools call results':{'axolotl':('dpo', 'kto', 'grpo'), 'trl':('grpo',), 'verl':('grpo',)},
    'image':{'axolotl':('dpo', 'kto', 'grpo'), 'openai':METHODS},
    'address':{'axolotl':('dpo', 'kto', 'grpo'), 'openai':('dpo',), 'llamafactory':METHODS},
    'system developer multi_turn past_thinking':{'axolotl':('kto',)}}

def is_expected(shape, method, target):
    return any(method in by.get(target, ()) for names, by in EXPECTED.items() if shape in names.split())

def written(f, prompt, rollouts, folder):
    counts = write_files([(prompt, rollouts)], [f], folder, single=len(prompt.messages)==1)[f.file]
    return counts, [row for *_, row, _, _ in training_rows(folder/'train'/f.file)]

def ledger_prompt(prompt, thinking=True):
    "The turns of a prompt as the files should have them; columns say where images are."
    turns = [message_turn(m) for m in prompt.messages]
    return turns if thinking else [t._replace(thinking='') for t in turns]

@pytest.mark.parametrize('thinking', ['keep', 'reasoning_content', 'strip'])
@pytest.mark.parametrize('method,target', PAIRS)
@pytest.mark.parametrize('shape', SHAPES)
def test_read_back(shape, method, target, thinking, tmp_path):
    messages, tools, rollouts = SHAPES[shape]
    prompt = Prompt('q1', messages, dict(answer='A'), tools=tools)
    f = make_formatter(method, target=target, thinking=thinking, **OPTIONS.get(method, {}))
    store = store_of(tmp_path/'run', prompt)
    holds = input_holds(store)
    assert set(holds)==prompt_holds(messages, tools)
    assert refused(f, holds, prompt)==is_expected(shape, method, target)
    if refused(f, holds, prompt):
        with pytest.raises(RsrError, match='Choose|use target'):
            check_forms(store, [f])
        return
    check_forms(store, [f])
    counts, rows = written(f, prompt, rollouts, tmp_path)
    assert counts['rows']==len(rows)>0 and not counts.get('dropped')
    asked, keep = ledger_prompt(prompt, thinking!='strip'), thinking!='strip'
    said = [rollout_turn(r) if keep else rollout_turn(r)._replace(thinking='') for r in rollouts]
    lost = sum(bool(rollout_turn(r).thinking) for r in rollouts)
    assert bool(counts.get('stripped'))==(thinking=='strip' and bool(lost) and method!='grpo')
    for row in rows:
        content = row_content(row, method)
        assert content.prompt==asked, (content.prompt, asked)
        assert content.tools==(tools or [])
        answers = [*content.answers.values()]
        assert all(a in said for a in answers) and len(answers)==dict(dpo=2, multi_sft=2, grpo=0).get(method, 1)
        if method=='dpo':
            assert answers in ([said[0], said[1]], [said[2], said[1]])

@pytest.mark.parametrize('method,target', PAIRS)
def test_split_off_or_not_is_one_row(method, target, tmp_path):
    if method=='grpo':
        return
    f = make_formatter(method, target=target, **OPTIONS.get(method, {}))
    prompt = Prompt('q1', [U('So?')])
    rows = [written(f, prompt, rs, tmp_path/str(i))[1] for i, rs in enumerate([inline(), texts(reasoning='Hm, so.')])]
    assert rows[0]==rows[1] and '<think>' in str(rows[0])

@pytest.mark.parametrize('method', ['sft', 'dpo', 'kto', 'multi_sft'])
def test_harmony(method, tmp_path):
    prompt = Prompt('q1', [U('So?')])
    for target, style, mark in (('trl', 'messages', "'thinking': 'Hm, so.'"),
                                ('llamafactory', None, '<|channel|>analysis'),
                                ('trl', 'standard', '<|channel|>final<|message|>It is so.<|return|>')):
        if method=='multi_sft' and style=='standard':
            continue
        f = make_formatter(method, target=target, style=style, thinking='harmony', **OPTIONS.get(method, {}))
        _, rows = written(f, prompt, inline(), tmp_path/f'{target}{style}')
        assert mark in str(rows), rows
        answers = [a for row in rows for a in row_content(row, method).answers.values()]
        assert all(a in [rollout_turn(r) for r in inline()] for a in answers)

def test_plain_strings_have_no_field():
    with pytest.raises(RsrError, match='use style: messages'):
        make_formatter('kto', style='standard', thinking='reasoning_content')
    assert make_formatter('kto', thinking='reasoning_content').style=='messages'
    assert make_formatter('grpo', thinking='reasoning_content').style=='standard'

# ---- what only a response brings

def test_a_pair_thinks_on_both_sides_or_on_none(tmp_path):
    rollouts = [Rollout('<think>Hm.</think>So', score=1., key=1), Rollout('Not so', score=0., idx=1, key=2)]
    groups = [(Prompt('q1', [U('So?')]), rollouts)]
    keep, strip = make_formatters([dict(type='dpo'), dict(type='dpo', name='strip', thinking='strip')])
    assert why_left_out(keep, groups)=={'thinking on one side only':1} and not why_left_out(strip, groups)
    assert 'thinking: strip' in remedy('thinking on one side only')
    counts = write_files(groups, [keep, strip], tmp_path)
    assert counts['dpo.jsonl']['without_row']=={'thinking on one side only':1} and counts['strip.jsonl']['rows']==1
    rollouts[1].reasoning = 'Well.'
    assert not why_left_out(keep, groups)

@pytest.mark.parametrize('target,r,reason', [
    ('trl', Rollout('', tool_calls=[dict(id='x', type='function', function=dict(
        name='f', arguments='{"n": 12345678901234567890123}'))]),
     'tool call: an integer above 64 bits in its arguments'),
    ('llamafactory', Rollout('I look.', tool_calls=calls('Bern')), 'tool call beside a text'),
    ('llamafactory', Rollout('', tool_calls=[dict(id='1', type='function', function=dict(name='f', arguments='f('))]),
     'tool call: its arguments are not JSON'),
    ('trl', Rollout('', tool_calls=[dict(id='1', type='function', function=dict(name='f', arguments='f('))]),
     'tool call: its arguments are not JSON')])
def test_a_response_without_a_form_is_counted(target, r, reason, tmp_path):
    r.score = 1.
    prompt = Prompt('q1', [U('So?')], tools=TOOLS)
    f = make_formatter('sft', target=target)
    counts = write_files([(prompt, [r])], [f], tmp_path)[f.file]
    assert counts['without_row']=={reason:1}==counts['dropped_by'] and remedy(reason)
    assert why_left_out(f, [(prompt, [r])])=={reason:1}

def test_a_literal_image_mark_in_a_file_with_images(tmp_path):
    seen = Prompt('q1', [dict(role='user', content=[PICTURE, dict(type='text', text='What?')])])
    groups = [(seen, texts()), (Prompt('q2', [U('Write <image>')]), texts())]
    fs = make_formatters([dict(type='sft'), dict(type='sft', name='t', target='trl')])
    counts = write_files(groups, fs, tmp_path)
    assert counts['sft.jsonl']['rows']==1 and counts['t.jsonl']['rows']==2
    assert counts['sft.jsonl']['without_row']=={'a text with <image> in it, in a file with images':1}
    assert [r['images'] for r in read_jsonl(tmp_path/'train'/'t.jsonl')]==[[str(CAT)], []]

def test_end_tokens_are_stripped_and_those_inside_are_named(tmp_path):
    from rsr.formatters.lint import lint_file
    prompt = Prompt('q1', [U('So?')])
    f = make_formatter('sft')
    for text, content in (('So.<|im_end|>\n', 'So.'), ('So.</s> <|eot_id|>', 'So.')):
        assert written(f, prompt, [Rollout(text, score=1.)], tmp_path)[1][0]['messages'][1]['content']==content
    written(f, prompt, [Rollout('So.<|im_end|>\n<|im_start|>user\nAnd?', score=1.)], tmp_path)
    assert [p['rule'] for p in lint_file(tmp_path/'train'/'sft.jsonl', 'sft', 'llamafactory')['problems']]==['control']

def test_files_with_tools_have_one_set_of_columns(tmp_path):
    groups = [(Prompt('q1', [U('So?')]), texts()), (Prompt('q2', [U('Weather?')], tools=TOOLS), texts())]
    for target, empty in dict(llamafactory='', trl='null', axolotl='[]', swift='[]', openai=[]).items():
        f = make_formatter('sft', target=target)
        write_files(groups, [f], tmp_path/target)
        assert [r['tools'] for r in read_jsonl(tmp_path/target/'train'/f.file)][0]==empty

def test_default_rows_of_plain_conversations_are_as_before():
    row = dict(prompt=[U('q')], response=Rollout('a'))
    assert form_row(make_formatter('sft'), row)[0]==dict(messages=[U('q'), dict(role='assistant', content='a')])
