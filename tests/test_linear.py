"""Every regular expression, and every function that meets a model's or a user's text, is linear in the text's length."""
import ast, functools, importlib, inspect, pkgutil, re, signal, time
from pathlib import Path
import pytest
import rsr

N = 100_000      # characters
LIMIT = 0.2      # seconds of CPU time for them; the best of three, because other work on the machine slows a core
PATIENCE = 2.    # seconds of CPU time after which a call is given up

UNITS = ['<', '>', '\n', ' ', '\t', '\r\n', '\n ', ' \n', '\n\n', '1', '12 ', '1,', '1,234,', '1.', '1 ', '1/', '+1', '-1', '1+',
         '=1', 'x=', 'x = ', 'a', 'A', 'é', '中', '中 ', '。', '_', '-', '–', '.', ',', ', ', ';', ':', '(', ')', '[', ']',
         '{', '}', '()', '[]', '{}', '{"":', '{"a":[', '\\', '\\(', '\\)', '\\[', '\\boxed{', '\\boxed{1}', '\\boxed ',
         '\\frac', '\\frac{1', '\\frac{1}{2}', '\\text{', '\\text{ and', '\\sqrt', 'sqrt(', '^', '^2', '^{1', '$', '$$', '$1', '`', '```',
         '```\n', '<think>', '</think>', '<a ', '</', '<<', '>>', '<<<BEGIN ', '<<<END X>>>', '<|', '<|a|>', '<|channel|>', '"', "'",
         '\\"', "n't ", '’', '*', '**', '* ', '#', '####', '# ', '|', '| ', '=', '==', '~', '%', '½', '/', '@', 'a@', ':a', '://',
         'http://', 'a://', 'a.', 'a ', 'A ', 'aa ', 'A)', '(A', '(A) ', 'A, ', 'A\n', 'B. ', 'I ', "I'm ", 'not ', 'but ', 'if ',
         'no ', 'and ', ' and', 'of ', 'answer is ', 'Answer: ', 'ANSWER: ', 'the answer is ', 'the ', 'is ', 'so ', '答案', 'note: ',
         'sorry ', 'word count: ', 'Here is ', '⟦', '⟧', '\u200b', '\u0301', 'e\u0301', '\U0001f600', '\ud800', '\x00', '\ufffd']
FORMS = [lambda s: s, lambda s: 'x'+s+'!', lambda s: '(1 answer is '+s+'\n;A)>']

def texts():
    for unit in UNITS:
        body = unit*(N//len(unit))
        yield from ((f'{unit!r} in form {i}', form(body)) for i, form in enumerate(FORMS))

TEXTS = dict(texts())

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
    "Check whether a call takes longer than `LIMIT` three times."
    return all(seconds(call)>LIMIT for _ in range(3))

def modules():
    "Return every module of the package."
    return [importlib.import_module(m.name) for m in pkgutil.walk_packages(rsr.__path__, 'rsr.')
            if not m.name.startswith('rsr.shipped')]

def patterns_in(value):
    "Yield every compiled pattern in a value."
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from patterns_in(v)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for v in value:
            yield from patterns_in(v)

RE_CALLS = {'sub', 'subn', 'search', 'match', 'fullmatch', 'findall', 'finditer', 'split', 'compile'}

def inline_calls(module):
    "Yield every call of `re` in the source of a module."
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        f = node.func if isinstance(node, ast.Call) else None
        if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id=='re' and f.attr in RE_CALLS:
            yield node

def flags_of(call):
    "Return the flags of a call of `re`, as source."
    places = dict(compile=1, search=2, match=2, fullmatch=2, findall=2, finditer=2, split=3, sub=4, subn=4)
    named = [k.value for k in call.keywords if k.arg=='flags']
    given = named or call.args[places[call.func.attr]:][:1]
    return ast.unparse(given[0]) if given else '0'

def inline_pattern(module, call):
    "Return the compiled pattern of a call of `re`, or None if it depends on local names."
    names = dict(vars(module))
    try:
        return re.compile(eval(ast.unparse(call.args[0]), names), eval(flags_of(call), names))
    except NameError:
        return None

@functools.cache
def collect():
    "Return ({place: pattern}, [places whose pattern depends on local names])."
    found, unknown = {}, []
    for module in modules():
        for name, value in vars(module).items():
            found.update({f'{module.__name__}.{name}[{i}]':p for i, p in enumerate(patterns_in(value))})
        for call in inline_calls(module):
            place = f'{module.__name__}:{call.lineno}'
            pattern = inline_pattern(module, call)
            if pattern is None:
                unknown.append((place, ast.unparse(call)))
            else:
                found[place] = pattern
    by_pattern = {}
    for place, pattern in found.items():
        if isinstance(pattern.pattern, str):
            by_pattern.setdefault(pattern, place)
    return {place:pattern for pattern, place in by_pattern.items()}, unknown
