"""Files that train: rsr writes none of the trainers' pitfalls, and the lint finds them in files made by hand.

Bad input is written right or refused. The hand-made files are in tests/trainers/cases.py, where `make test-trainers`
holds them against the trainers themselves."""
import collections
import json
import random
import sys
from pathlib import Path

import orjson
import pytest
from conftest import read_jsonl, write_jsonl
from fastcore.test import test_eq as same

from rsr import sample
from rsr.data.readers import BadRow, read_prompts
from rsr.data.text import clean_text
from rsr.data.types import Prompt, Rollout, RsrError
from rsr.formatters.lint import lint_file
from rsr.formatters.load_check import check_files, files_table, lint_info, load_file
from rsr.formatters.pairing import length_ratio
from rsr.formatters.reading import row_parts
from rsr.formatters.row_lint import RULES, effect
from rsr.formatters.thinking_forms import full_text, separated
from rsr.formatters.trainers import ROW_FORMATS, TRAINERS
from rsr.formatters.writer import make_formatters, write_files
from rsr.pairs.collect import pairs_of

sys.path.insert(0, str(Path(__file__).parent/'trainers'))
from cases import CASES, A, S, U, grpo, kto, pair, pc, sft

same.__test__ = False
BAD = 'refuses', 'fails', 'drops', 'alters'

# ---- a hand-made file with a pitfall: the lint finds it

@pytest.mark.parametrize('case', CASES, ids=repr)
def test_lint_finds(case, tmp_path):
    r = lint_file(case.write(tmp_path), case.method, case.target)
    hits = [p for p in r['problems'] if p['rule']==case.rule]
    assert hits and hits[0]['effect']==case.effect, r['problems'][:3]
    assert hits[0]['row']==case.at and hits[0]['reason']
    assert (r['rows'], r['kept'])==(case.n, case.kept)

def test_every_rule_is_tested():
    here = {c.rule for c in CASES} | {'pool', 'long', 'long_prompt'}   # those three below
    assert here==set(RULES)

@pytest.mark.parametrize('rows,method,target', [
    ([sft(U('q'), A('a'))], 'sft', 'llamafactory'),
    ([sft(S('s'), U('q'), A('a'), U('q'), A('a'))], 'sft', 'trl'),
    ([pc()], 'sft', 'trl'),
    ([pair()], 'dpo', 'trl'),
    ([dict(chosen=[U('q'), A('a')], rejected=[U('q'), A('b')])], 'dpo', 'trl'),
    ([dict(prompt='q', chosen='a', rejected='b')], 'dpo', 'trl'),
    ([kto()]*13+[kto(False)]*7, 'kto', 'trl'),
    ([grpo()], 'grpo', 'trl'),
    ([grpo(), grpo(None)], 'grpo', 'trl')], ids=str)
def test_lint_lets_good_files_be(rows, method, target, tmp_path):
    r = lint_file(write_jsonl(tmp_path/'f.jsonl', rows), method, target)
    assert not r['problems'] and r['kept']==r['rows']==len(rows)

# ---- lengths: TRL cuts at 1024 and drops what has no room for its answer, LLaMA-Factory cuts at 2048

def test_over_long_rows(tmp_path):
    long = 'four'*1100   # 1100 tokens by the estimate
    rows = [pc(), pc(c=[A(long)]), pc(p=[U(long)])]
    r = lint_file(write_jsonl(tmp_path/'f.jsonl', rows), 'sft', 'trl')
    assert (r['rows'], r['kept'], r['over_long'], r['cutoff'])==(3, 2, 2, 1024) and 'estimated' in r['tokens']
    found = [(p['row'], p['rule'], p['effect']) for p in r['problems']]
    assert found==[(2, 'long', 'cuts'), (3, 'long_prompt', 'drops')]
    m = write_jsonl(tmp_path/'m.jsonl', [sft(U(long), A('a'))])
    r = lint_file(m, 'sft', 'trl')
    assert r['kept']==1 and r['problems'][0]['effect']=='cuts'   # `messages` are cut, never dropped
    assert lint_file(m, 'sft', 'llamafactory')['over_long']==0
    assert lint_file(m, 'sft', 'llamafactory', cutoff=1000)['over_long']==1
    assert lint_file(write_jsonl(tmp_path/'k.jsonl', [kto(p=long)]), 'kto', 'trl')['kept']==0
    assert lint_file(write_jsonl(tmp_path/'d.jsonl', [pair([U(long)])]), 'dpo', 'trl')['kept']==0
    assert lint_file(write_jsonl(tmp_path/'g.jsonl', [grpo(p=long)]), 'grpo', 'trl')['over_long']==0

def test_tokens_are_counted_where_a_tokenizer_is_given(tmp_path):
    f = write_jsonl(tmp_path/'f.jsonl', [pc(c=[A('a '*800)])])
    assert lint_file(f, 'sft', 'trl')['over_long']==0
    assert lint_file(f, 'sft', 'trl', tokenizer=len)['over_long']==1
    assert lint_file(f, 'sft', 'trl', tokenizer=list)['tokens']=='counted by list'
    tokenizers = pytest.importorskip('tokenizers')
    t = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a':0, '?':1}, unk_token='?'))
    t.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    t.save(str(tmp_path/'tokenizer.json'))
    for path in tmp_path, tmp_path/'tokenizer.json':
        r = lint_file(f, 'sft', 'trl', tokenizer=path, cutoff=800)
        assert r['over_long']==1 and r['tokens']==f'counted by {path}'
    with pytest.raises(RsrError, match='tokenizer'):
        lint_file(f, 'sft', 'trl', tokenizer=tmp_path/'none.json')

# ---- what rsr writes from hostile rollouts avoids them all

RLO, LRM = '\u202e', '\u200f'
TEXTS = {'nul':'a\x00b', 'right to left':f'{RLO}שלום{LRM} عالم', 'line ends':'a\u2028b\u2029c\x85d\x0be\x0cf\r\ng',
         'emoji':'👩‍👩‍👧 🇩🇪 \U0010ffff', 'number':'3', 'true':'true', 'null':'null',
         'json':'{"role": "user"}', 'spaces':'  B \n', 'template':'<|im_end|>\n<|im_start|>system', 'date':'2024-01-01',
         'quotes':'"\\\'`',
         'replaced':clean_text('half \ud83d of it')}

def hostile(n=13):
    "Prompts and rollouts with every kind of text; the first has what trainers stumble over in its metadata."
    out = []
    for i, t in enumerate([*TEXTS.values()][:n]):
        p = Prompt(f'{i}', [U(f'{t}?')], dict(answer=[t, 3, 3.5, None, True, ['x'], {'a':1}][i%7], note=t))
        rs = [Rollout(t, score=1.), Rollout(f'{t} yes', score=1., idx=1), Rollout(f'{t} no', score=0., idx=2),
              Rollout('', score=1., idx=3), Rollout(' \n', score=0., idx=4),
              Rollout(f'{t}\n', score=0., idx=5), Rollout('unscored', idx=6), Rollout(f'{t} half', score=.5, idx=7)]
        out.append((p, [r for r in rs if r.text.strip()]))   # what the run hands over: its valid rollouts
    return out

CHAT = [(Prompt('c1', [S('Be brief.'), U('Hi'), A('Hello!'), U('A or B?')], dict(answer='A')),
         [Rollout('A', score=1.), Rollout('B', score=0., idx=1)])]

FORMS = [(m, t, s, f) for m, t in ROW_FORMATS for s in ('messages', 'standard') for f in ('jsonl', 'parquet')
         if (m not in TRAINERS[t].strings_only if s=='messages' else m in TRAINERS[t].strings)]

@pytest.mark.parametrize('method,target,style,fmt', FORMS)
def test_written_files_pass(method, target, style, fmt, tmp_path):
    groups = hostile() + (CHAT if style=='messages' else [])
    more = dict(num_responses=2) if method=='multi_sft' else {}
    f, = make_formatters([dict(type=method, target=target, style=style, format=fmt, **more)])
    counts = write_files(groups, [f], tmp_path, single=style=='standard')[f.file]
    r, = check_files(tmp_path, [f])
    bad = [p for p in r['problems'] if p['effect'] in BAD and p['rule']!='pool']
    assert not bad and r['rows']==counts['rows'] and (r['kept']==r['rows'] or method=='multi_sft')
    if method!='kto':
        assert r['rows']==len(groups)
        return
    labelled = [{x.text.strip() for x in rs if x.score in (0., 1.)} for _, rs in groups]
    assert counts['rows']+counts['left_out']==sum(map(len, labelled))
    assert not any(p['rule']=='share' for p in r['problems'])

@pytest.mark.parametrize('fmt', ['jsonl', 'parquet'])
def test_texts_come_back_as_they_were(fmt, tmp_path):
    options = (dict(type='sft'), dict(type='dpo', target='trl'), dict(type='kto'),
               dict(type='grpo', columns=['answer', 'note']))
    fs = make_formatters([dict(format=fmt, **o) for o in options])
    write_files(hostile(), fs, tmp_path)
    def read(f):
        path = tmp_path/'train'/f.file
        if fmt=='parquet':
            return read_parquet(path)
        return [orjson.loads(line) for line in path.read_bytes().splitlines()]
    texts = [t.strip() for t in TEXTS.values()]
    same([r['messages'][1]['content'] for r in read(fs[0])], texts)
    same([r['chosen'][0]['content'] for r in read(fs[1])], texts)
    assert {r['completion'] for r in read(fs[2])} <= {x.strip() for t in TEXTS.values()
                                                      for x in (t, f'{t} yes', f'{t} no')}
    same([r['note'] for r in read(fs[3])], list(TEXTS.values()))
    same([r['answer'] for r in read(fs[3])][:7], [texts[0], '3', '3.5', '', 'true', '["x"]', '{"a":1}'])
    assert all(type(v) is str for r in read(fs[3]) for v in r.values())

def read_parquet(p):
    import pyarrow.parquet as pq
    return pq.read_table(p).to_pylist()

@pytest.mark.parametrize('fmt', ['jsonl', 'parquet'])
def test_datasets_loads_what_is_written(fmt, tmp_path):
    datasets = pytest.importorskip('datasets',
                                   reason='datasets is not installed: JSON loading is tested by `make test-trainers`')
    methods = dict(sft={}, dpo={}, kto={}, grpo={}, multi_sft=dict(num_responses=2))
    fs = make_formatters([dict(type=m, format=fmt, **kw) for m, kw in methods.items()])
    counts = write_files(hostile(), fs, tmp_path)
    for f in fs:
        ds = datasets.load_dataset('json' if fmt=='jsonl' else 'parquet', data_files=str(tmp_path/'train'/f.file),
                                   split='train', cache_dir=str(tmp_path/'cache'))
        assert len(ds)==counts[f.file]['rows']
        assert 'timestamp' not in str(ds.features) and 'Json' not in str(ds.features)
        if f.type=='sft':
            same([r['messages'][1]['content'] for r in ds], [t.strip() for t in TEXTS.values()])

LOADING = [c for c in CASES if c.rule in ('encoding', 'late', 'json') or c.rule=='dates' and c.method=='grpo']

@pytest.mark.parametrize('case', LOADING, ids=repr)
def test_datasets_does_what_the_rule_says(case, tmp_path):
    datasets = pytest.importorskip('datasets',
                                   reason='datasets is not installed: JSON loading is tested by `make test-trainers`')
    def load():
        return datasets.load_dataset('json', data_files=str(case.write(tmp_path)), split='train',
                                     cache_dir=str(tmp_path/'cache'))
    if case.effect=='alters':
        assert 'timestamp' in str(load().features)
        return
    with pytest.raises((datasets.exceptions.DatasetGenerationError, UnicodeDecodeError)):
        list(load())

@pytest.mark.parametrize('method,style', [('grpo', 'standard'), ('grpo', 'messages'), ('kto', 'standard')])
def test_only_iso_dates(method, style, tmp_path):
    groups = [(Prompt(f'{i}', [U(f'When was day {i}?')], dict(answer=f'2024-01-{i+10}')),
               [Rollout(f'2024-01-{i+10}', score=1.), Rollout(f'2023-01-{i+10}', score=0., idx=1)]) for i in range(9)]
    f, = make_formatters([dict(type=method, style=style, target='trl')])
    write_files(groups, [f], tmp_path, single=style=='standard')
    assert not [p for r in check_files(tmp_path, [f]) for p in r['problems'] if p['rule'].startswith('date')]

def test_one_set_of_keys_and_types_past_10_mb(tmp_path):
    "A late key or type fails the whole load, so rsr's rows all look the same, whatever prompts and metadata carry."
    groups = [(Prompt(f'{i}', [U('q '*500)], {} if i<11000 else dict(answer=3, new='x')),
               [Rollout('a', score=1.), Rollout(f'b {i}', score=0., idx=1)]) for i in range(11010)]
    groups[-1][0].messages[0]['name'] = 'late'
    fs = make_formatters([dict(type='sft'), dict(type='grpo')])
    counts = write_files(groups, fs, tmp_path)
    for r in check_files(tmp_path, fs):
        assert r['rows']==counts[Path(r['file']).name]['rows']==11010==r['kept'] and not r['problems']

@pytest.mark.parametrize('columns', ['prompts', 'completions', 'completion', 'completion_ids', 'trainer_state',
                                     'log_extra', 'log_metric', 'image', 'images', 'tools', 'prompt'])
def test_grpo_columns_that_break_the_trainer_are_refused(columns):
    with pytest.raises(RsrError, match=f"name '{columns}'"):
        make_formatters([dict(type='grpo', columns=[columns])])

def test_empty_answers_and_equal_pairs_are_never_written(tmp_path):
    p = Prompt('1', [U('q')])
    think = [Rollout('<think>x</think> B', score=1.), Rollout('<think>y</think>', score=1., idx=1),
             Rollout('<think>z</think>B', score=0., idx=2),
             Rollout('<think>z</think> A', score=0., idx=3)]
    methods = dict(sft=dict(select='longest'), dpo=dict(max_pairs_per_prompt=4), kto={})
    fs = make_formatters([dict(type=m, thinking='strip', **kw) for m, kw in methods.items()])
    counts = write_files([(p, think)], fs, tmp_path)
    for r in check_files(tmp_path, fs):
        assert not {q['rule'] for q in r['problems']} & {'empty', 'equal', 'think', 'flips', 'null'}, r
    dpo = read_jsonl(tmp_path/'train'/'dpo.jsonl')
    assert all(r['chosen']['value']!=r['rejected']['value'] and r['chosen']['value'] and r['rejected']['value']
               for r in dpo)
    assert counts['sft.jsonl']['rows']+counts['sft.jsonl'].get('dropped', 0)>=1   # what was left out is counted

@pytest.mark.parametrize('o', [{}, dict(thinking='strip'), dict(max_pairs_per_prompt=3), dict(rejected='near_mean'),
                               dict(strategy='temperature')], ids=str)
def test_a_pair_is_alike_in_length_and_a_prompt_is_lost_only_if_it_has_none(tmp_path, o):
    rng = random.Random(str(o))
    def letters(n):
        return ''.join(rng.choices('abcdefgh', k=n))
    def answer(k):
        return '<think>'+letters(rng.randint(1, 400))*(k%3>0)+'</think>'+letters(rng.randint(4, 60))
    def rollouts(i):
        return [Rollout(answer(k), score=rng.randint(0, 10)/10, idx=k, key=10*i+k, outcome='kept')
                for k in range(rng.randint(2, 6))]
    groups = [(Prompt(f'q{i}', [U(f'question {i}')]), rollouts(i)) for i in range(150)]
    opts = dict(type='dpo', target='trl', pass_threshold=.7, fail_threshold=None, min_margin=.15, **o)
    written = {}
    for ratio in None, 1.5:
        fs = make_formatters([dict(opts, max_length_ratio=ratio)])
        counts = write_files(groups, fs, tmp_path/str(ratio))['dpo.jsonl']
        rows = read_jsonl(tmp_path/str(ratio)/'train'/'dpo.jsonl')
        written[ratio] = {r['prompt'][-1]['content'] for r in rows}
        told = collections.Counter(why for _, why in pairs_of(groups, fs[0]) if why)
        lost = counts.get('without_row', {})
        assert {**told}=={why: n for why, n in lost.items() if why!='empty without its thinking'}
        assert counts['rows']==len(rows) and sum(told.values())==150-counts['prompts']
    assert all(length_ratio(r['chosen'][0]['content'], r['rejected'][0]['content'])<=1.5 for r in rows)
    strip = o.get('thinking')=='strip'
    def text(r):
        r = separated(r)
        return r.text if strip else full_text(r)
    def may(c, r):
        if not strip and bool(separated(c).reasoning)!=bool(separated(r).reasoning):
            return False
        scores_fit = c.score>=.7-1e-9 and c.score-r.score>=.15-1e-9 and (r.score<.7-1e-9 or 'strategy' in o)
        return scores_fit and text(c)!=text(r) and length_ratio(text(c), text(r))<=1.5
    assert written[1.5]=={p.messages[0]['content'] for p, rs in groups if any(may(c, r) for c in rs for r in rs)}
    assert lost['lengths too unlike']==len(written[None]-written[1.5])>15 and len(written[1.5])>40

def test_thinking_stands_in_one_form(tmp_path):
    p = Prompt('1', [U('q')])
    rs = [Rollout('<think>x</think> B', score=1.), Rollout('A', score=0., idx=1)]
    named = dict(keep={'think'}, strip=set(), reasoning_content={'unread'})   # LLaMA-Factory reads no such field
    for how, text in dict(keep='<think>\nx\n</think>\n\nB', strip='B', reasoning_content='B').items():
        fs = make_formatters([dict(type='sft', thinking=how)])
        write_files([(p, rs), (Prompt('2', [U('q2')]), [Rollout('C', score=1.)])], fs, tmp_path/how)
        got = read_jsonl(tmp_path/how/'train'/'sft.jsonl')
        assert got[0]['messages'][1]['content']==text and len({tuple(r['messages'][1]) for r in got})==1
        assert {q['rule'] for q in check_files(tmp_path/how, fs)[0]['problems']}==named[how]

# ---- which trainer takes what

def test_shareGPT_roles_only_for_llamafactory(tmp_path):
    for m, t, s, f in FORMS:
        if f=='parquet' or m=='grpo':
            continue
        fs = make_formatters([dict(type=m, target=t, style=s)])
        write_files(hostile(2), fs, tmp_path/f'{m}{t}{s}', single=s=='standard')
        path = tmp_path/f'{m}{t}{s}'/'train'/fs[0].file
        sharegpt = fs[0].format=='jsonl' and '"human"' in path.read_bytes().decode()
        assert sharegpt==((m, t)==('dpo', 'llamafactory'))

def test_dataset_info_is_whole(tmp_path):
    fs = make_formatters([dict(type='sft'), dict(type='dpo'), dict(type='kto', target='llamafactory'),
                          dict(type='multi_sft', unroll=True, num_responses=2)])
    write_files(hostile(), fs, tmp_path)
    info = json.loads((tmp_path/'train'/'dataset_info.json').read_text())
    assert lint_info(tmp_path/'train')==[] and set(info)=={'sft', 'dpo', 'kto', 'multi_sft'}
    del info['kto']['tags']['system_tag'], info['dpo']['columns']['rejected']
    (tmp_path/'train'/'dataset_info.json').write_text(json.dumps({**info, 'gone':dict(file_name='gone.jsonl')}))
    assert len(lint_info(tmp_path/'train'))==3 and 'gone.jsonl' in files_table([], tmp_path)

def test_verl_extra_info_is_never_empty(tmp_path):
    fs = make_formatters([dict(type='grpo', target='verl', format='parquet')])
    write_files(hostile(), fs, tmp_path)
    assert all(r['extra_info'] for r in read_parquet(tmp_path/'train'/'grpo.parquet'))

def test_pool_is_for_no_trainer_and_unrolls(tmp_path):
    fs = make_formatters([dict(type='multi_sft', num_responses=2),
                          dict(type='multi_sft', name='rows', unroll=True, num_responses=2)])
    write_files(hostile(3), fs, tmp_path)
    pool, rows = check_files(tmp_path, fs)
    assert [p['rule'] for p in pool['problems']]==['pool'] and pool['kept']==0
    assert rows['rows']==rows['kept']==6 and not rows['problems']

def test_kto_labels_are_booleans_and_their_share_is_reached(tmp_path):
    groups = [(Prompt(f'{i}', [U(f'q{i}')]), [Rollout(f'{i} {j}', score=float(j<k), idx=j) for j in range(8)])
              for i, k in enumerate([1, 7, 2, 6, 4, 4]*5)]
    for t in 'trl', 'llamafactory', 'swift', 'axolotl':
        fs = make_formatters([dict(type='kto', target=t)])
        c = write_files(groups, fs, tmp_path/t)['kto.jsonl']
        got = read_jsonl(tmp_path/t/'train'/'kto.jsonl')
        assert {type(row_parts(r, 'kto')[2]) for r in got}=={bool} and .6<=c['positive_share']<=.7
        assert check_files(tmp_path/t, fs)[0]['problems']==[] and len(got)==c['rows'] and c['rows']+c['left_out']==240

# ---- the check of a run

def test_without_the_trainer_the_rules_check(tmp_path, monkeypatch):
    monkeypatch.setattr('rsr.formatters.load_check.installed', lambda t: None)
    f = write_jsonl(tmp_path/'sft.jsonl', [sft(U('q'), U('q'), A('a')), sft(U('q'), A('a'))])
    r = load_file(f, 'sft', 'llamafactory')
    assert (r['rows'], r['kept'], r['loaded'])==(2, 1, None)
    assert 'not installed' in r['note'] and r['problems'][0]['row']==1

def test_table_names_files_rows_and_reasons(tmp_path):
    fs = make_formatters([dict(type='sft'), dict(type='kto')])
    write_files(hostile(), fs, tmp_path, side=lambda p, f: 'eval' if p.id in ('1', '2') else 'train')
    files = [r['file'] for r in check_files(tmp_path, fs)]
    assert files==['train/sft.jsonl', 'eval/sft.jsonl', 'train/kto.jsonl', 'eval/kto.jsonl']
    with open(tmp_path/'eval'/'sft.jsonl', 'a') as f:
        f.write('{"messages":[{"role":"user","content":"q"}]}\n')
    out = files_table(check_files(tmp_path, fs, trainer='trl'), tmp_path)
    assert 'eval/sft.jsonl: 1 row (3)' in out and 'llamafactory leaves it out silently' in out
    assert 'formatter.target=trl' in out
    with pytest.raises(RsrError, match="Did you mean 'trl'"):
        check_files(tmp_path, fs, trainer='tlr')
    with pytest.raises(RsrError, match='no target'):
        lint_file(tmp_path/'eval'/'sft.jsonl', 'sft', 'lamafactory')

def test_every_effect_is_known():
    effects = {effect(r, t, m) for r in RULES for t in TRAINERS for m in ('sft', 'dpo', 'kto', 'grpo')}
    assert effects<={'refuses', 'fails', 'drops', 'cuts', 'alters', 'takes', None}

# ---- bad input: written right, or refused with its id and a reason; nothing is dropped in silence

def image(url):
    return dict(type='image_url', image_url=dict(url=url))

CALL = [dict(id='c', type='function', function=dict(name='f', arguments='{}'))]
REFUSED = {
    'surrogate':(dict(messages=[U('half \ud83d')]), 'surrogate'),
    'image gone':(dict(messages=[dict(role='user', content=[image('gone.png')])]), "no file 'gone.png'"),
    'sound':(dict(messages=[dict(role='user', content=[dict(type='input_audio')])]), "type 'input_audio'"),
    'no result':(dict(messages=[U('q'), dict(role='assistant', content=None, tool_calls=CALL), U('q')]),
                 "messages\\[2\\] is from 'user'"),
    'no call':(dict(messages=[U('q'), A('a'), dict(role='tool', content='4'), U('q')]),
               'messages\\[2\\] is a tool result, and no turn before it calls a tool'),
    'no such tool':(dict(messages=[U('q'), dict(role='assistant', content=None, tool_calls=CALL),
                                   dict(role='tool', content='4')], tools=[dict(name='g')]), "no tool 'f'"),
    'two answers':(dict(messages=[U('q'), A('a')], answer='a'), "last message is from 'assistant'"),
    'late developer':(dict(messages=[U('q'), dict(role='developer', content='x'), U('q')]), 'developer turn'),
    'no content':(dict(messages=[dict(role='user')]), 'content is NoneType'),
    'robot':(dict(messages=[{'from':'robot', 'value':'q'}]), "from 'robot'")}

@pytest.mark.parametrize('name', REFUSED)
def test_input_that_no_file_can_hold_is_refused(name, here):
    row, reason = REFUSED[name]
    with pytest.raises(RsrError, match=reason) as e:
        sample([dict(id='good', messages=[U('q')]), dict(id='bad-one', **row)], 'sft', work_dir='run', progress=False)
    assert 'row 2' in str(e.value) and not Path('run/run.db').exists()

def test_refusal_names_the_id():
    bad = [p for _, p in read_prompts([dict(id=k, **row) for k, (row, _) in REFUSED.items()])]
    assert all(isinstance(b, BadRow) for b in bad) and all(k in str(b) for k, b in zip(REFUSED, bad))

def test_a_file_of_bad_lines_is_counted_line_by_line(here):
    lines = [b'{"id":"1","messages":[{"role":"user","content":"q"}],"metadata":{"answer":"A"}}',
             b'{"id":"2","messages":[{"role":"user","content":"\\ud800"}]}',
             b'{"id":"3","messages":[{"role":"user","content":"\xff"}]}',
             b'{"id":"4","messages":[{"role":"user","content":"raw \x00"}]}', b'[1]', b'{"id":"5"',
             b'{"id":"6","messages":[{"role":"user","content":"nul \\u0000"}]}', b'{"id":"7","messages":[]}', b'null']
    Path('in.jsonl').write_bytes(b'\n'.join(lines))
    got = list(read_prompts('in.jsonl'))
    good, bad = [isinstance(p, Prompt) for _, p in got], [str(p)[:16] for _, p in got if isinstance(p, BadRow)]
    assert len(got)==len(lines) and good==[True, False, False, False, False, False, True, False, False]
    assert bad==[f'in.jsonl, line {i}' for i in (2, 3, 4, 5, 6, 8, 9)]
    assert got[6][1].messages[0]['content']=='nul \x00'

def run_of(server, rows, recipe='sft', **kw):
    return sample(rows, recipe, base_url=server.base_url, work_dir='run', progress=False, **kw)

def accounted(run, n):
    "All prompts in the ledger, all samples in one outcome, rows in the files as counted."
    s = run.stats()
    assert s['prompts']['total']==n==sum(s['prompts']['by_stop_reason'].values())
    assert sum(s['samples']['by_outcome'].values())==s['samples']['asked']
    for f, c in s['rows'].items():
        assert len((run.path/'train'/f).read_bytes().splitlines())==c['rows']
    return s

def test_hostile_answers_of_a_server(here, server):
    "Half characters, NUL, right-to-left marks, odd line ends: one row per prompt, the text unchanged but for halves."
    texts = {**TEXTS, 'half':'b\ud83d', 'pair':'\ud83d\ude00'}
    def reply(body):
        text = texts[body['messages'][-1]['content']]+' so \\boxed{A}'
        choices = [dict(index=i, finish_reason='stop', message=dict(role='assistant', content=text))
                   for i in range(body.get('n') or 1)]
        return orjson.Fragment(json.dumps(dict(object='chat.completion', choices=choices,
                                               usage=dict(prompt_tokens=1, completion_tokens=1))))   # halves as \\ud83d
    server.set(reply=reply)
    run = run_of(server, [dict(id=k, messages=[U(k)], metadata=dict(answer='A')) for k in texts], max_rollouts=1)
    s = accounted(run, len(texts))
    rows = [orjson.loads(line) for line in (run.path/'train'/'sft.jsonl').read_bytes().splitlines()]
    assert s['rows']['sft.jsonl']['rows']==len(rows)==len(texts)
    same({r['messages'][0]['content']:r['messages'][1]['content'] for r in rows},
         {k:(clean_text(t)+' so \\boxed{A}').strip() for k, t in texts.items()})
    r, = check_files(run.path, make_formatters([dict(type='sft')]))
    assert r['kept']==r['rows'] and not [p for p in r['problems'] if p['effect'] in BAD]

def test_10_mb_answers(here, server):
    "Longer than what `datasets` reads at a time: written, found over-long, loaded whole."
    big = 'word '*2_100_000+'\\boxed{A}'
    server.set(reply=lambda body: big)
    run = run_of(server, [dict(id=f'{i}', messages=[U(f'q{i}')], metadata=dict(answer='A')) for i in range(2)],
                 max_rollouts=1)
    accounted(run, 2)
    r, = check_files(run.path, make_formatters([dict(type='sft')]))
    assert (r['rows'], r['kept'], r['over_long'])==(2, 2, 2)
    assert all(json.loads(line)['messages'][1]['content']==big
               for line in (run.path/'train'/'sft.jsonl').read_text().splitlines())
    datasets = pytest.importorskip('datasets',
                                   reason='datasets is not installed: JSON loading is tested by `make test-trainers`')
    ds = datasets.load_dataset('json', data_files=str(run.path/'train'/'sft.jsonl'), split='train', cache_dir='cache')
    assert [len(r['messages'][1]['content']) for r in ds]==[len(big)]*2

def test_system_turns_and_histories(here, server):
    rows = [dict(id='system', messages=[S('Be brief.'), U('q')]), dict(id='history',
                                                                       messages=[U('q'), A('a'), U('q2')]),
            dict(id='both', messages=[S('s'), U('q'), A('a'), U('q2')])]
    asked = collections.Counter()
    def reply(body):
        "Right and wrong in turn for each prompt, whatever the order in which requests arrive."
        asked[key := json.dumps(body['messages'])] += 1
        return '\\boxed{A}' if asked[key]%2 else '\\boxed{B}'
    server.set(reply=reply)
    run = run_of(server, [dict(**r, metadata=dict(answer='A')) for r in rows], 'dpo')
    s = accounted(run, 3)
    for t in 'llamafactory', 'trl':
        for m in 'sft', 'dpo', 'kto':
            c = run.format(m, target=t, name=f'{m}_{t}')
            r, = check_files(run.path, make_formatters([dict(type=m, target=t, name=f'{m}_{t}', style='messages')]))
            assert r['rows']==r['kept']==c[f'{m}_{t}.jsonl']>0 and not [p for p in r['problems'] if p['effect'] in BAD]
    assert s['rows']['dpo.jsonl']['rows']==3

ODD = {'late system':[U('q'), S('s'), U('q2')], 'user twice':[U('q'), U('q2')], 'assistant first':[A('Hello!'), U('q')],
       'system twice':[S('s'), S('s'), U('q')], 'empty':[U('')]}

@pytest.mark.parametrize('name', ODD)
def test_prompts_that_llamafactory_drops_are_refused_or_counted(name, tmp_path):
    (_, p), = read_prompts([dict(id='x', messages=ODD[name])])
    if isinstance(p, BadRow):
        return
    fs = make_formatters([dict(type='sft')])
    counts = write_files([(p, [Rollout('a', score=1.)])], fs, tmp_path, single=False)['sft.jsonl']
    r, = check_files(tmp_path, fs)
    assert counts.get('dropped') or name!='empty' and r['kept']==r['rows']==1

def test_what_a_row_cannot_hold_is_said(tmp_path):
    ms = [U('q'), dict(role='assistant', content='I call f.', tool_calls=CALL), U('q2')]
    (_, p), = read_prompts([dict(id='x', messages=ms)])
    if isinstance(p, BadRow):
        return
    f, = make_formatters([dict(type='sft')])
    assert 'tool_calls' in json.dumps(f.rows(p, [Rollout('a', score=1.)])[0]['prompt'])

def test_half_a_character_never_reaches_a_file(tmp_path):
    "Answers are cleaned where they come in; one that was not stops the writing, and no half-written file appears."
    fs = make_formatters([dict(type='sft')])
    with pytest.raises(Exception, match='surrogate'):
        write_files([(Prompt('x', [U('q')]), [Rollout('a\ud83d', score=1.)])], fs, tmp_path)
    assert not list((tmp_path/'train').glob('sft*'))

def test_a_truth_with_half_a_character(here):
    with pytest.raises(RsrError, match='surrogate') as e:
        sample([dict(id='x', messages=[U('q')], metadata=dict(answer='\ud83d'))], 'grpo', work_dir='run',
               progress=False)
    assert 'row 1' in str(e.value)
