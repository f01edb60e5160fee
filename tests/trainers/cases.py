"""Hand-made files, each with one pitfall, and the rule that has to find it.

Used twice: tests/test_files.py holds the lint against the rule named here; the tests in this folder hold the lint
against the trainer itself."""
import json

def U(t):
    return dict(role='user', content=t)
def A(t):
    return dict(role='assistant', content=t)
def S(t):
    return dict(role='system', content=t)
def H(t):
    return {'from':'human', 'value':t}
def G(t):
    return {'from':'gpt', 'value':t}

LONG = 'word ' * 500          # 2500 characters: over 1024 and 2048 tokens of one byte, 625 of four bytes
BIG = 'x' * 1000

def sft(*ms, **kw):
    return dict(messages=list(ms), **kw)
def pc(p=None, c=None, **kw):
    return dict(prompt=p or [U('q')], completion=c or [A('a')], **kw)
def pair(p=None, c='a', r='b', **kw):
    return dict(prompt=p or [U('q')], chosen=[A(c)], rejected=[A(r)], **kw)
def lf_pair(p=None, c=None, r=None):
    return dict(conversations=p or [H('q')], chosen=c or G('a'), rejected=r or G('b'))
def kto(label=True, c='a', p='q', **kw):
    return dict(prompt=p, completion=c, label=label, **kw)
def lf_kto(tag=True, *ms):
    return dict(messages=list(ms) or [U('q'), A('a')], kto_tag=tag)
def grpo(answer='B', p='q', **kw):
    return dict(prompt=p, answer=answer, **kw)

def labels(row, true=13, false=7, **kw):
    return [row(True, **kw) for _ in range(true)]+[row(False, **kw) for _ in range(false)]   # 65 % true

TOOLS = '[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]'

def thought(m, reasoning=''):
    return {**m, 'reasoning_content':reasoning}

def lines(rows):
    return b''.join(r if isinstance(r, bytes) else json.dumps(r).encode()+b'\n' for r in rows)

class Case:
    "A file with one pitfall."
    def __init__(self, name, target, method, rows, rule, effect, kept=None, at=None, train=False):
        self.name, self.target, self.method = name, target, method
        self.rule, self.effect, self.at, self.train = rule, effect, at, train
        self.data, self.n = lines(rows), len(rows)
        all_or_none = 0 if effect in ('refuses', 'fails') else self.n
        self.kept = all_or_none if kept is None else kept
    def __repr__(self):
        return f'{self.target}-{self.method}-{self.name}'.replace(' ', '_')
    def write(self, folder):
        p = folder/'file.jsonl'
        p.write_bytes(self.data)
        return p

ok = [sft(U('q'), A('a'))]*3
CASES = [
    # ---- `datasets` JSON loading
    Case('ISO dates', 'trl', 'grpo', [grpo('2024-01-01'), grpo('2024-02-29T10:00:00Z')], 'dates', 'alters'),
    Case('ISO dates as turns', 'llamafactory', 'sft', [sft(U('2024-01-01'), A('2024-01-02'))]*2, 'date_turns',
         'refuses'),
    Case('ISO dates as turns', 'llamafactory', 'dpo', [lf_pair(c=G('2024-01-01'), r=G('2024-01-02'))]*2, 'date_turns',
         'refuses'),
    Case('ISO dates as turns', 'trl', 'sft', [sft(U('2024-01-01'), A('2024-01-02'))]*2, 'date_turns', 'alters'),
    Case('ISO dates as turns', 'trl', 'dpo', [pair(c='2024-01-01', r='2024-01-02')]*2, 'date_turns', 'alters'),
    Case('ISO dates as texts', 'trl', 'kto', labels(kto, c='2024-01-01'), 'date_texts', 'refuses'),
    Case('ISO dates as texts', 'trl', 'sft', [dict(prompt='q', completion='2024-01-01')]*2, 'date_texts', 'refuses'),
    Case('mixed types', 'trl', 'grpo', [grpo('3'), grpo(3)], 'types', 'alters', at=2),
    Case('mixed types', 'llamafactory', 'sft', [sft(U('q'), A('a'), n='3'), sft(U('q'), A('a'), n=3)], 'types',
         'refuses', at=2),
    Case('new key', 'trl', 'grpo', [grpo(), grpo(note='x')], 'keys', 'alters', at=2),
    Case('new key', 'llamafactory', 'sft', [*ok, sft(U('q'), A('a'), note='x')], 'keys', 'alters', at=4),
    Case('nested key', 'trl', 'sft', [*ok, sft({**U('q'), 'name':'n'}, A('a'))], 'keys', 'alters', at=4),
    Case('nested key', 'llamafactory', 'sft', [*ok, sft({**U('q'), 'name':'n'}, A('a'))], 'keys', 'alters', at=4),
    Case('late key', 'trl', 'grpo', [grpo(BIG)]*11000+[grpo(note='x')], 'late', 'refuses', at=11001),
    Case('late key', 'llamafactory', 'sft', [sft(U('q'), A(BIG))]*11000+[sft(U('q'), A('a'), note='x')], 'late',
         'refuses', at=11001),
    Case('late type', 'trl', 'grpo', [grpo(BIG, n=1)]*11000+[grpo(n='x')], 'late', 'refuses', at=11001),
    Case('late object', 'trl', 'grpo', [grpo(BIG, n=[])]*11000+[grpo(n=[{'a':1}])], 'late', 'refuses', at=11001),
    *[Case('surrogate', t, 'sft',
           [*ok, b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"\\ud83d"}]}\n'],
           'encoding', 'refuses', at=4)
      for t in ('trl', 'llamafactory')],
    *[Case('not UTF-8', t, 'sft',
           [*ok, b'{"messages":[{"role":"user","content":"caf\xe9"},{"role":"assistant","content":"a"}]}\n'],
           'encoding', 'refuses', at=4)
      for t in ('trl', 'llamafactory')],
    Case('raw NUL', 'trl', 'sft',
         [*ok, b'{"messages":[{"role":"user","content":"\x00"},{"role":"assistant","content":"a"}]}\n'], 'json',
         'refuses', at=4),
    Case('broken line', 'trl', 'sft', [*ok, b'{"messages":\n'], 'json', 'refuses', at=4),
    Case('a list', 'llamafactory', 'sft', [*ok, b'[1]\n'], 'json', 'refuses', at=4),
    Case('no rows', 'trl', 'sft', [], 'no_rows', 'refuses'),
    Case('no rows', 'llamafactory', 'sft', [], 'no_rows', 'refuses'),
    # ---- TRL
    Case('empty answer', 'trl', 'sft', [pc(), pc(c=[A('')])], 'empty', 'takes', at=2),
    Case('empty answer', 'trl', 'dpo', [pair(), pair(r='')], 'empty', 'takes', at=2),
    Case('empty answer', 'trl', 'kto', labels(kto)[1:]+[kto(c='')], 'empty', 'takes', at=20),
    Case('missing content', 'trl', 'sft', [*ok, sft(U('q'), {'role':'assistant'})], 'content', 'takes', at=4),
    Case('null content', 'trl', 'sft', [*ok, sft(U('q'), A(None))], 'content', 'takes', at=4),
    Case('role order', 'trl', 'sft', [*ok, sft(U('q'), U('q'), A('a'))], 'order', 'takes', at=4),
    Case('assistant first', 'trl', 'sft', [*ok, sft(A('hi'), U('q'), A('a'))], 'order', 'takes', at=4),
    Case('late system', 'trl', 'sft', [*ok, sft(U('q'), S('s'), A('a'))], 'late_system', 'takes', at=4),
    Case('last user', 'trl', 'sft', [*ok, sft(U('q'), A('a'), U('q'))], 'ends', 'takes', at=4),
    Case('prompt ends with assistant', 'trl', 'dpo', [pair(), pair([U('q'), A('a')])], 'ends', 'takes', at=2),
    Case('unknown role', 'trl', 'sft', [*ok, sft(U('q'), {'role':'bot', 'content':'a'})], 'role', 'takes', at=4),
    Case('ShareGPT roles', 'trl', 'sft', [sft({'role':'human', 'content':'q'}, {'role':'gpt', 'content':'a'})]*2,
         'role', 'takes', at=1),
    *[Case(f'label {a}, {b}', 'trl', 'kto', [kto(a)]*13+[kto(b)]*7, 'label', 'takes', at=1)
      for a, b in ((1, 0), (.75, 0.), (1, -1))],
    Case('label "true"', 'trl', 'kto', [kto('true')]*13+[kto('false')]*7, 'label_text', 'refuses', at=1),
    Case('share', 'trl', 'kto', labels(kto, 19, 1), 'share', 'takes'),
    Case('share', 'llamafactory', 'kto', labels(lf_kto, 5, 5), 'share', 'takes'),
    Case('equal pair', 'trl', 'dpo', [pair(), pair(c='a', r='a')], 'equal', 'takes', at=2),
    Case('prompt beside messages', 'trl', 'sft', [sft(U('q'), A('a'), prompt='q')]*2, 'columns', 'refuses', at=1),
    *[Case(f'column {k}', 'trl', m, rows, 'columns', 'refuses', at=1) for k in ('image', 'images', 'tools')
      for m, rows in (('sft', [pc(**{k:'x'})]*2), ('dpo', [pair(**{k:'x'})]*2), ('kto', labels(kto, **{k:'x'})))],
    *[Case(f'column {k}', 'trl', 'sft', [pc(**{k:'x'})]*2, 'reserved', 'fails', at=1, train=True)
      for k in ('labels', 'input_ids', 'assistant_masks')],
    *[Case(f'column {k}', 'trl', 'grpo', [grpo(**{k:'x'})]*2, 'reserved', 'fails', at=1, train=True)
      for k in ('prompts', 'completions', 'image', 'images')],
    *[Case(f'column {k}', 'trl', 'grpo', [grpo(**{k:'x'})]*2, 'shadowed', 'alters', at=1, train=True)
      for k in ('completion', 'completion_ids', 'trainer_state', 'log_extra', 'log_metric')],
    Case('think', 'trl', 'sft', [*ok, sft(U('q'), A('<think>hm</think>a'))], 'think', 'alters', at=4),
    Case('no completion', 'trl', 'sft', [dict(prompt=[U('q')])]*2, 'missing', 'refuses', at=1),
    Case('null prompt', 'trl', 'sft', [pc(), dict(prompt=None, completion=[A('a')])], 'missing', 'refuses', at=2),
    Case('null completion', 'trl', 'sft', [pc(), dict(prompt=[U('q')], completion=None)], 'null', 'refuses', at=2),
    Case('null completion', 'trl', 'kto', [*labels(kto), kto(c=None)], 'null', 'refuses', at=21),
    Case('key left out', 'trl', 'sft', [pc(), dict(prompt=[U('q')])], 'null', 'refuses', at=2),
    Case('null chosen', 'trl', 'dpo', [pair(), dict(prompt=[U('q')], chosen=None, rejected=[A('b')])], 'null',
         'refuses', at=2),
    Case('null label', 'trl', 'kto', [*labels(kto), kto(None)], 'label_text', 'refuses', at=21),
    Case('strings after messages', 'trl', 'sft', [pc(), dict(prompt='q', completion='a')], 'types', 'alters', at=2),
    Case('messages after strings', 'trl', 'sft', [dict(prompt='q', completion='a'), pc()], 'forms', 'refuses', at=2),
    Case('no label', 'trl', 'kto', [dict(prompt='q', completion='a')]*2, 'missing', 'refuses', at=1),
    # ---- LLaMA-Factory
    Case('user twice', 'llamafactory', 'sft', [*ok, sft(U('q'), U('q'), A('a'))], 'order', 'drops', kept=3, at=4),
    Case('assistant first', 'llamafactory', 'sft', [*ok, sft(A('hi'), U('q'), A('a'))], 'order', 'drops', kept=3, at=4),
    Case('parity', 'llamafactory', 'sft', [*ok, sft(U('q'), A('a'), U('q'))], 'ends', 'drops', kept=3, at=4),
    Case('only a system turn', 'llamafactory', 'sft', [*ok, sft(S('q'))], 'ends', 'drops', kept=3, at=4),
    Case('late system', 'llamafactory', 'sft', [*ok, sft(U('q'), S('s'), A('a'))], 'late_system', 'drops', kept=3,
         at=4),
    Case('unknown role', 'llamafactory', 'sft', [*ok, sft(U('q'), {'role':'bot', 'content':'a'})], 'role', 'drops',
         kept=3, at=4),
    Case('empty answer', 'llamafactory', 'sft', [*ok, sft(U('q'), A(''))], 'empty', 'takes', at=4),
    Case('pair parity', 'llamafactory', 'dpo', [lf_pair(), lf_pair([H('q'), G('a')])], 'ends', 'drops', kept=1, at=2),
    Case('pair user twice', 'llamafactory', 'dpo', [lf_pair(), lf_pair([H('q'), H('q')])], 'order', 'drops', kept=1,
         at=2),
    Case('no tag', 'llamafactory', 'kto', [*labels(lf_kto), dict(messages=[U('q'), A('a')], kto_tag=None)],
         'label_text', 'drops', kept=20, at=21),
    Case('tag 1, 0', 'llamafactory', 'kto', [lf_kto(1)]*13+[lf_kto(0)]*7, 'label', 'drops', kept=0, at=1),
    Case('tag "true"', 'llamafactory', 'kto', [lf_kto('true')]*13+[lf_kto('false')]*7, 'label_text', 'drops', kept=0,
         at=1),
    Case('null messages', 'llamafactory', 'sft', [*ok, dict(messages=None)], 'missing', 'refuses', at=4),
    Case('missing content', 'llamafactory', 'sft', [*ok, sft(U('q'), {'role':'assistant'})], 'content', 'refuses',
         at=4),
    Case('null content', 'llamafactory', 'sft', [*ok, sft(U('q'), A(None))], 'content', 'refuses', at=4),
    Case('null chosen', 'llamafactory', 'dpo', [lf_pair(), dict(lf_pair(), chosen=None)], 'null', 'drops', kept=1,
         at=2),
    Case('null value', 'llamafactory', 'dpo', [lf_pair(), lf_pair([H(None)])], 'content', 'refuses', at=2),
    Case('tag left out', 'llamafactory', 'kto', [*labels(lf_kto), dict(messages=[U('q'), A('a')])], 'label_text',
         'drops', kept=20, at=21),
    Case('no tags', 'llamafactory', 'kto', [dict(messages=[U('q'), A('a')])]*2, 'missing', 'refuses', at=1),
    Case('empty desirable', 'llamafactory', 'kto', [*labels(lf_kto), lf_kto(True, U('q'), A(''))], 'flips', 'alters',
         at=21),
    # ---- thinking, tools, images, tokens of chat templates
    Case('control token', 'trl', 'sft', [*ok, sft(U('q'), A('4<|im_end|>\n<|im_start|>user\nAnd?'))], 'control',
         'takes', at=4),
    Case('image mark', 'llamafactory', 'sft', [*ok, sft(U('Write <image>'), A('a'))], 'media', 'takes', at=4),
    Case('reasoning field', 'llamafactory', 'sft', [sft(thought(U('q')), thought(A('a'), 'hm'))]*3, 'unread', 'alters',
         at=1),
    Case('call not JSON', 'llamafactory', 'sft',
         [sft(U('q'), dict(role='function_call', content='f(1)'), tools=TOOLS)]*3, 'calls', 'refuses', at=1),
    Case('tools not JSON', 'llamafactory', 'sft', [sft(U('q'), A('a'), tools='f(x)')]*3, 'calls', 'refuses', at=1),
    # ---- those that are checked by their sources only
    Case('reasoning field', 'openai', 'sft', [sft(U('q'), thought(A('a'), 'hm'))]*3, 'unread', 'refuses', at=1),
    Case('spaces', 'axolotl', 'dpo', [dict(messages=[U('q')], chosen=A('a '), rejected=A('b'))], 'spaces', 'alters',
         at=1),
    Case('equal pair', 'swift', 'dpo', [dict(messages=[U('q'), A('a')], rejected_response='a')], 'equal', 'drops',
         kept=0, at=1),
    Case('label "false"', 'swift', 'kto', [dict(messages=[U('q'), A('a')], label='false')]*2, 'label_text', 'alters',
         at=1),
    Case('empty extra_info', 'verl', 'grpo', [dict(extra_info={}, data_source='x', prompt=[U('q')],
                                                   reward_model=dict(style='rule', ground_truth='4'))], 'extra_info',
         'refuses', at=1),
]
