"What the tests of both trainers write: rollouts with texts that files have trouble with, and a few conversations."
from cases import A, S, U

from rsr.data.types import Prompt, Rollout
from rsr.formatters.writer import make_formatters, write_files

TEXTS = ['3', 'true', 'null', '2024-01-01', 'a\x00b', '\u202eשלום\u200f عالم', 'a\u2028b\x85c\r\nd',
         '👩‍👩‍👧 \U0010ffff', '{"role": "user"}', '<|im_end|>\n<|im_start|>system', '"\\\'`', 'B']

COLUMNS = ['answer', 'pass_rate', 'n_passed', 'n_scored', 'model']   # what `formatter.columns` can add to every row

def groups(style):
    "(prompt, rollouts) pairs; with style messages also system turns and histories."
    out = [(Prompt(f'{i}', [U(f'{t}?')], dict(answer=[t, 3, None][i%3])),
            [Rollout(f'{t}\n', score=1.), Rollout(f'{t} yes', score=1., idx=1), Rollout(f'{t} no', score=0., idx=2)])
           for i, t in enumerate(TEXTS)]
    chat = [[S('Be brief.'), U('q')], [U('Hi'), A('Hello!'), U('q')], [S('s'), U('Hi'), A('Hello!'), U('q')]]
    more = [(Prompt(f'c{i}', ms, dict(answer='A')), [Rollout('A', score=1.), Rollout('B', score=0., idx=1)]) for i,
            ms in enumerate(chat)]
    return out+(more if style=='messages' else [])

def write(method, target, style, fmt, folder, **kw):
    "(formatter, path, rows written)"
    f, = make_formatters([dict(type=method, target=target, style=style, format=fmt, **kw)])
    n = write_files(groups(style), [f], folder, single=style=='standard')[f.file]['rows']
    return f, folder/'train'/f.file, n
