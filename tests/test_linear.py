"""Every regular expression, and every function that meets a model's or a user's text, takes linear time."""
import ast
import functools
import importlib
import inspect
import pkgutil
import re
import signal
import time
from functools import partial
from itertools import chain

import pytest
from worst_texts import worst_texts

import rsr
from rsr.data.patterns import LazyRegexp

N = 100_000      # characters
LIMIT = 0.2      # seconds of CPU time for them; the best of four, because other work on the machine slows a core
PATIENCE = 2.    # seconds of CPU time after which a call is given up

UNITS = ['<', '>', '\n', ' ', '\t', '\r\n', '\n ', ' \n', '\n\n', '1', '12 ', '1,', '1,234,', '1.', '1 ', '1/',
         '+1', '-1', '1+', '=1', 'x=', 'x = ', 'a', 'A', 'é', '中', '中 ', '。', '_', '-', '–', '.', ',', ', ', ';',
         ':', '(', ')', '[', ']', '{', '}', '()', '[]', '{}', '{"":', '{"a":[', '\\', '\\(', '\\)', '\\[',
         '\\boxed{', '\\boxed{1}', '\\boxed ', '\\frac', '\\frac{1', '\\frac{1}{2}', '\\text{', '\\text{ and',
         '\\sqrt', 'sqrt(', '^', '^2', '^{1', '$', '$$', '$1', '`', '```', '```\n', '<think>', '</think>', '<a ',
         '</', '<<', '>>', '<<<BEGIN ', '<<<END X>>>', '<|', '<|a|>', '<|channel|>', '"', "'", '\\"', "n't ", '’',
         '*', '**', '* ', '#', '####', '# ', '|', '| ', '=', '==', '~', '%', '½', '/', '@', 'a@', ':a', '://',
         'http://', 'a://', 'a.', 'a ', 'A ', 'aa ', 'A)', '(A', '(A) ', 'A, ', 'A\n', 'B. ', 'I ', "I'm ", 'not ',
         'but ', 'if ', 'no ', 'and ', ' and', 'of ', 'answer is ', 'Answer: ', 'ANSWER: ', 'the answer is ',
         'the ', 'is ', 'so ', '答案', 'note: ', 'sorry ', 'word count: ', 'Here is ', '⟦', '⟧', '\u200b', '\u0301',
         'e\u0301', '😀', '\ud800', '\x00', '\ufffd']
FRAMES = ('', ''), ('x', '!'), ('(1 answer is ', '\n;A)>')

def framed(size, start, unit, end):
    "Return a unit, again and again up to about `size` characters, between a beginning and an end."
    return start+unit*(size//len(unit))+end

TEXTS = [partial(framed, start=a, unit=unit, end=b) for unit in UNITS for a, b in FRAMES]   # size -> text

class TooSlow(Exception):
    pass

def _give_up(*_):
    raise TooSlow

def seconds(call):
    "Return the CPU time of a call in seconds; `PATIENCE` for one that takes longer."
    before = signal.signal(signal.SIGVTALRM, _give_up)
    start = time.thread_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        call()
    except TooSlow:
        return PATIENCE
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return time.thread_time()-start

def is_slow(call):
    "Check whether a call takes longer than `LIMIT`, four times."
    return all(seconds(call)>LIMIT for _ in range(4))

def modules():
    "Return every module of the package."
    return [importlib.import_module(m.name) for m in pkgutil.walk_packages(rsr.__path__, 'rsr.')
            if not m.name.startswith('rsr.shipped')]

def patterns_in(value):
    "Yield every compiled pattern in a value."
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, LazyRegexp):
        yield re.compile(value.pattern, value.flags)
    elif isinstance(value, dict):
        for v in chain(value, value.values()):
            yield from patterns_in(v)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for v in value:
            yield from patterns_in(v)

RE_CALLS = {'sub', 'subn', 'search', 'match', 'fullmatch', 'findall', 'finditer', 'split', 'compile'}

def is_re_call(node):
    "Check whether a node of a syntax tree calls a function of `re` that takes a pattern."
    f = node.func if isinstance(node, ast.Call) else None
    return isinstance(f, ast.Attribute) and ast.unparse(f.value)=='re' and f.attr in RE_CALLS

def calls_in_functions(module):
    "Yield (function, call) for every call of `re` inside a function; what a module compiles is found among its names."
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from ((node.name, call) for call in ast.walk(node) if is_re_call(call))

FLAGS_AT = dict(compile=1, search=2, match=2, fullmatch=2, findall=2, finditer=2, split=3, sub=4, subn=4)

def pattern_of(module, call):
    "Return the compiled pattern of a call of `re`, or None if it depends on local names."
    flags = [k.value for k in call.keywords if k.arg=='flags'] or call.args[FLAGS_AT[call.func.attr]:][:1]
    parts = [call.args[0], *flags]
    try:
        return re.compile(*[eval(ast.unparse(part), dict(vars(module))) for part in parts])
    except NameError:
        return None

@functools.cache
def collect():
    "Return ({place: pattern} of the whole package, [places with a pattern made of local names])."
    found, local = {}, []
    for module in modules():
        for name, value in vars(module).items():
            found.update({f'{module.__name__}.{name}.{i}':p for i, p in enumerate(patterns_in(value))})
        for function, call in calls_in_functions(module):
            place, pattern = f'{module.__name__}.{function}', pattern_of(module, call)
            if pattern is None:
                local.append(place)
            else:
                found[f'{place}:{call.lineno}'] = pattern
    places = {}
    for place, pattern in found.items():
        if isinstance(pattern.pattern, str):
            places.setdefault(pattern, place)
    return {place:pattern for pattern, place in places.items()}, local

EXEMPT = {'rsr.cli.usage._dict_source', 'rsr.run.help_texts.allowed_by',   # they read rsr's own source and messages
          'rsr.verifiers.multiple_choice._statement',                      # its patterns stand in tables of the module
          'rsr.data.secrets._written_forms',                               # the user's secrets, without repetition
          'rsr.data.patterns.__getattr__',                                 # patterns that are collected here
          'rsr.data.inputs._of_split'}                                     # the name of a split, without repetition

def test_no_pattern_escapes():
    "A pattern that is put together inside a function would not be tried below: compile it at the top of its module."
    _, local = collect()
    assert set(local)<=EXEMPT
    assert len(collect()[0])>100

READS = {   # module or pattern: characters that are read of a text, where it is cut before
    'rsr.verifiers.multiple_choice':20_000, 'rsr.data.notations._BASED':100, 'rsr.data.notations._CONGRUENCE':100,
    'rsr.data.notations._UNIT_BEHIND':120}

SMALL = 2_000    # characters of a first try: what is not linear is slow here already, compared with what is

def may_be_slow(call, limit, size=N):
    "Check whether `call(characters)` may need more than `limit` for `size` characters, by two short tries."
    first, times = seconds(partial(call, SMALL)), size/SMALL
    if first<=limit/times**2 if times<=4 else first<=limit/times/8:
        return False
    second = seconds(partial(call, 4*SMALL)) if times>4 else PATIENCE
    return second>5.5*first or second>limit*4/times   # it grows faster than the text, or is slow as it is

def finds(pattern, text):
    "Find every match, as `sub` and `split` do."
    for _ in pattern.finditer(text):
        pass

@pytest.mark.parametrize('place', collect()[0])
def test_pattern(place):
    "100,000 characters of any text, or all that are read of it, cost a pattern less than 0.2 s."
    pattern = collect()[0][place]
    size = next((n for module, n in READS.items() if place.startswith(module)), N)
    for text in [*TEXTS, *worst_texts(pattern)]:
        if not may_be_slow(lambda n, text=text: finds(pattern, text(n)), LIMIT, size):
            continue
        long = text(size)
        assert not is_slow(partial(finds, pattern, long)), (pattern.pattern[:200], long[:200])

FUNCTION_LIMIT = 0.5   # seconds: a function tries many patterns

def _criterion():
    from rsr.rubric.criteria import Criterion
    return Criterion('c', 'Is it good?')

def _functions():
    "Return {name: function of a text} for what meets the texts of models and users."
    from rsr.data import text as data_text
    from rsr.data import thinking
    from rsr.data.secrets import redact
    from rsr.formatters.row_lint import lint_row
    from rsr.pairs import flaws, references, shortcuts
    from rsr.rubric import verdicts
    from rsr.taxonomy import message_rules, similarity, templates
    from rsr.verifiers import (
        answers,
        json_schema,
        judge,
        letter_judge,
        maths,
        text_answers,
        tool_calls,
    )
    request = [dict(role='user', content='hello there my friend how are you')]
    def called(s):
        return [dict(id='c', type='function', function=dict(name='f', arguments=s))]
    def compare(a, b):
        try:
            maths.equal_answers(a, b, lambda a, b: False)
        except maths.NotCompared:
            pass
    return dict(
        split_thinking=thinking.split_thinking, boxes=data_text.boxes, is_refusal=data_text.is_refusal,
        is_garbled=data_text.is_garbled, normalised=data_text.normalised, clean_text=data_text.clean_text,
        number=maths.extract_math, reference=lambda s: compare(s, '1'),
        answer=lambda s: compare('1', s), same=lambda s: compare(s, s),
        mcq=lambda s: answers.mcq_rlvr(s, {'answer':'A'}), mcq_to=lambda s: answers.mcq_rlvr('A', {'answer':s[:2000]}),
        maths=lambda s: answers.math_rlvr('1', {'answer':s}),
        exact=lambda s: text_answers.exact(s, {'answer':[s, 'B']}),
        exact_to=lambda s: text_answers.exact('1', {'answer':s}),
        final=text_answers.extract_exact, key=text_answers.answer_key, f1=lambda s: text_answers.f1(s, {'answer':s}),
        f1_all=lambda s: text_answers.f1(s, {'answer':s}, read='response'),
        regex=lambda s: text_answers.regex(s, {'pattern':'(a+)+$'}),
        pattern=lambda s: text_answers.regex('1', {'pattern':s}),
        json=json_schema.find_json, schema=lambda s: json_schema.json_schema(s, {'schema':s}),
        tool_call=lambda s: tool_calls.tool_call(s, {'answer':s}, called(s), None),
        call_error=lambda s: tool_calls.call_error(called(s)[0], {'f':{}}),
        rlvr=lambda s: answers.rlvr('1', {'answer':s}), letter=letter_judge._named_letter,
        letter_request=lambda s: letter_judge._judge_messages(s, s), objects=judge.find_objects,
        fence=lambda s: judge.fence(s, 'RESPONSE', 'mark'),
        verdicts=lambda s: verdicts.parse_verdicts(s, [_criterion()]),
        reason=lambda s: verdicts.parse_verdicts('{"c": {"reason": "'+s+'", "verdict": "YES"}}', [_criterion()]),
        rubric=lambda s: verdicts.judge_messages([_criterion()], [dict(role='user', content=s)], s),
        rubric_calls=lambda s: verdicts.judge_messages([], [dict(role='tool', content=s)], s, calls=called(s)),
        pair=lambda s: shortcuts.as_pair(dict(prompt=s, rejected=s, chosen=dict(reasoning=s, tool_calls=called(s)))),
        clean_message=message_rules.clean_message, why_not=lambda s: message_rules.why_not(s, (1, 5), request),
        echo=lambda s: message_rules.why_not('hello there my friend how are you', None, [dict(role='user', content=s)]),
        clip=lambda s: message_rules.clip_to(s, 5), clip_late=lambda s: message_rules.clip_to(s, N//3),
        rules=lambda s: [rule(s) for rule in flaws.RULES.values()],
        checks=lambda s: [f(s, s, s) for f in flaws.CHECKS.values()],
        facts=lambda s: shortcuts.facts(dict(chosen=s, rejected=s+'a')), marks=thinking.thinking_marks,
        passages=lambda s: references.nearest_passages(s, [s, s]), words=similarity.words, slots=templates.placeholders,
        bare=lambda s: templates.FILTERS['bare'](s, None), redact=redact,
        lint=lambda s: lint_row(dict(prompt=s, chosen=s, rejected=s), 'dpo', 'trl'))

@pytest.mark.parametrize('name', _functions())
def test_function(name):
    "No text of 100,000 characters freezes a function, or makes it raise."
    f = _functions()[name]
    for text in TEXTS:
        if may_be_slow(lambda n, text=text: f(text(n)), FUNCTION_LIMIT):
            call = partial(f, text(N))
            assert any(seconds(call)<FUNCTION_LIMIT for _ in range(4)), (name, text.keywords)

def _nested(depth):
    "Return a list in a list in a list …"
    out = []
    for _ in range(depth):
        out = [out]
    return out

def _score(found, name, response, reference):
    from rsr.verifiers.registry import VERIFIERS
    found.append(VERIFIERS[name](response, {'answer':reference}))

ODD = [10**5000, 10**100_000, float('inf'), float('nan'), {'a':1}, b'x', '\ud800', '9'*N, '9**9**9**9', '10^{1000000}',
       '1e999', '('*N, '{'*N, '\\frac{'*(N//6), '\\boxed{'*(N//7)+'}'*(N//7),
       '\\boxed{1}'*(N//9), '$'*N, '-'*N, '7!!!!!!!']

@pytest.mark.parametrize('name', ['mcq-rlvr', 'math-rlvr', 'rlvr'])
@pytest.mark.parametrize('odd', range(len(ODD)+1))
def test_odd_answers(name, odd):
    "Whatever a reference or a response is, a verifier gives a score, or none and the reason."
    value = _nested(N) if odd==len(ODD) else ODD[odd]
    pairs = [('\\boxed{7}', value)]
    if isinstance(value, str):
        pairs += [(value, '7'), (value, 'B'), (f'\\boxed{{{value}}}', '7'), (value, value)]
    for response, reference in pairs:
        found = []
        assert seconds(partial(_score, found, name, response, reference))<PATIENCE
        out = found[0]
        assert out.value in (0., 1.) or (out.value is None and out.reason)

def test_filler_words():
    "Words that may be followed by spaces or a colon, six of them, are read in one way only."
    from rsr.verifiers.multiple_choice import extract_choice
    assert seconds(lambda: extract_choice('答案是'+('选'+' '*9)*6+'zz'))<LIMIT

def test_judge_reply_nested():
    "Objects nested as deep as the JSON reader goes are a malformed verdict, not an exception."
    from rsr.rubric.verdicts import parse_verdicts
    for depth in (100, 900, 980, 990, 995, 1000, N):
        for inner in ('['*depth+']'*depth, '{"c":'*depth+'1'+'}'*depth):
            reply = f'{{"c": {{"reason": "r", "verdict": {inner}}}}}'
            assert parse_verdicts(reply+reply, [_criterion()])[1]
