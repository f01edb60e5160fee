"""Texts that make a regular expression slow: its own beginning, and then one of its repeats, again and again."""
import functools
import re

try:
    from re import _parser as parser
except ImportError:   # Python 3.10
    import sre_parse as parser

CHARS = ' \na1A.,:*(<"_-\\{$中é\x00|/=#`\'[)'
CATEGORY = dict(CATEGORY_DIGIT=r'\d', CATEGORY_NOT_DIGIT=r'\D', CATEGORY_SPACE=r'\s', CATEGORY_NOT_SPACE=r'\S',
                CATEGORY_WORD=r'\w', CATEGORY_NOT_WORD=r'\W')

def _in_set(item, c):
    "Tell whether one item of a set, as Python parses it, contains a character."
    op, arg = str(item[0]), item[1]
    if op=='LITERAL':
        return ord(c)==arg
    if op=='RANGE':
        return arg[0]<=ord(c)<=arg[1]
    return op=='CATEGORY' and bool(re.match(CATEGORY[str(arg)], c))

def _first(item):
    "Return the first character of one item of a set, if it names one."
    op, arg = str(item[0]), item[1]
    return chr(arg) if op=='LITERAL' else chr(arg[0]) if op=='RANGE' else ''

def _members(items):
    "Return some characters of a set."
    negated = str(items[0][0])=='NEGATE'
    own = '' if negated else ''.join(map(_first, items))
    return [c for c in dict.fromkeys(CHARS+own) if any(_in_set(i, c) for i in items)!=negated]

REPEATS = 'MAX_REPEAT', 'MIN_REPEAT', 'POSSESSIVE_REPEAT'

def samples(nodes, times):
    "Return up to four texts that a parsed pattern matches, as far as that is easy to say; a repeat stands `times`."
    out = ['']
    for node in nodes:
        out = [a+b for a in out for b in _samples(node, times)][:4]
    return out

def _samples(node, times):
    op, arg = str(node[0]), node[1]
    if op=='LITERAL':
        return [chr(arg)]
    if op=='NOT_LITERAL':
        return [c for c in CHARS if ord(c)!=arg][:4]
    if op=='ANY':
        return ['a']
    if op=='IN':
        return _members(arg)[:4]
    if op=='BRANCH':
        return [text for branch in arg[1] for text in samples(branch, times)[:1]][:4]
    if op=='SUBPATTERN':
        return samples(arg[-1], times)
    if op in REPEATS:
        fewest, most, body = arg
        return [text*max(fewest, min(int(most), times)) for text in samples(body, times)]
    return ['']   # a position

def pumps(nodes, times):
    "Yield (beginning, unit) for each repeat of a parsed pattern; repeats in the beginning stand `times`."
    start = ''
    for node in nodes:
        yield from ((start+inner, unit) for inner, unit in _pumps(node, times))
        start += next(iter(_samples(node, times)), '')

def _pumps(node, times):
    op, arg = str(node[0]), node[1]
    if op=='BRANCH':
        for branch in arg[1]:
            yield from pumps(branch, times)
    elif op in ('SUBPATTERN', 'ATOMIC_GROUP'):
        yield from pumps(arg[-1] if op=='SUBPATTERN' else arg, times)
    elif op in ('ASSERT', 'ASSERT_NOT'):
        yield from pumps(arg[1], times)
    elif op in REPEATS:
        yield from pumps(arg[2], times)
        if int(arg[1])>5:
            yield from (('', unit) for unit in _units(arg[2]))

def _units(body):
    "Yield texts that the body of a repeat matches."
    if len(body)==1 and str(body[0][0])=='IN':
        yield from _members(body[0][1])[:12]
    else:
        for times in (0, 1, 9):
            yield from samples(body, times)

def fill(size, start, unit):
    "Return a beginning and then a unit, again and again, up to about `size` characters, and an end that fits nothing."
    return start+unit*(size//len(unit))+'\x01'

def worst_texts(pattern):
    "Return functions size -> text: each pumps one repeat of a pattern, once for the whole text and in short pieces."
    nodes = parser.parse(pattern.pattern, pattern.flags)
    found = {pump:None for times in (0, 1, 9) for pump in pumps(nodes, times) if pump[1]}
    whole = [functools.partial(fill, start=start, unit=unit) for start, unit in found]
    pieces = [functools.partial(fill, start='', unit=fill(60, start, unit)) for start, unit in found]
    return whole+pieces
