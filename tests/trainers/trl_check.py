"""TRL takes what rsr writes, and does with a hand-made file what the lint says.

Run by `make test-trainers` in .venv-trl."""
import json
import tempfile

import pytest
import written_forms as wf
from cases import CASES, A, U, kto, lines, pair, pc, sft
from written import COLUMNS, write

from rsr.formatters.load_check import check_files, load_file, tiny_model, trl_trainer

@pytest.fixture(scope='session')
def model():
    return tiny_model(tempfile.mkdtemp())

def config(method):
    return dict(num_generations=2, max_completion_length=8) if method=='grpo' else dict(max_length=None)

def make_reward():
    "What a generated train/reward.py gives TRL."
    from rsr.run.reward import make_rewards
    return make_rewards(type='mcq-rlvr')[1]

@pytest.mark.parametrize('fmt', ['jsonl', 'parquet'])
@pytest.mark.parametrize('style', ['messages', 'standard'])
@pytest.mark.parametrize('method', ['sft', 'dpo', 'kto', 'grpo'])
def test_two_steps(method, style, fmt, model, tmp_path):
    "Rows kept are the rows written, and two steps run."
    f, path, n = write(method, 'trl', style, fmt, tmp_path)
    t = trl_trainer(path, method, model, tmp_path, reward=make_reward(), max_steps=2, **config(method))
    assert len(t.train_dataset)==n>=12
    assert t.train().global_step==2

@pytest.mark.parametrize('style', ['messages', 'standard'])
@pytest.mark.parametrize('method', ['sft', 'dpo', 'kto', 'grpo'])
def test_check_files_loads(method, style, tmp_path):
    f, path, n = write(method, 'trl', style, 'jsonl', tmp_path)
    r, = check_files(tmp_path, [f], trainer='trl')
    assert r['loaded'].startswith('trl ') and r['rows']==r['kept']==r['expected']==n and not r['note']

@pytest.mark.parametrize('method', ['sft', 'dpo', 'kto', 'grpo'])
def test_further_columns(method, model, tmp_path):
    "They change nothing for SFT, DPO and KTO; the reward of GRPO sees them."
    seen = []
    def reward(prompts, completions, **columns):
        seen.append(columns)
        return [0.]*len(completions)
    _, path, n = write(method, 'trl', 'messages', 'jsonl', tmp_path, columns=COLUMNS)
    r = load_file(path, method, 'trl')
    assert r['kept']==r['expected']==n and {p['rule'] for p in r['problems']}<={'control'}   # one of the texts has one
    t = trl_trainer(path, method, model, tmp_path, reward=reward, max_steps=2, **config(method))
    assert len(t.train_dataset)==n and t.train().global_step==2
    assert method!='grpo' or set(COLUMNS)<=set(seen[0])

def test_messages_form(model, tmp_path):
    "The form that all trainers share, as TRL reads it, and unrolled Multi-SFT."
    for kw in dict(method='sft'), dict(method='multi_sft', unroll=True, num_responses=2):
        _, path, n = write(kw.pop('method'), 'llamafactory', 'messages', 'jsonl', tmp_path, **kw)
        t = trl_trainer(path, 'sft', model, tmp_path, max_steps=2, max_length=None)
        assert len(t.train_dataset)==n and t.train().global_step==2

def test_the_answer_only_is_learned(model, tmp_path):
    _, path, n = write('sft', 'trl', 'messages', 'jsonl', tmp_path)
    t = trl_trainer(path, 'sft', model, tmp_path, max_length=None)
    tok = t.processing_class
    said = [tok.decode([i for i in r['labels'] if i!=-100]) for r in t.train_dataset]
    assert all('?' not in s for s in said) and said[0].startswith('3<|im_end|>')

@pytest.mark.parametrize('case', [c for c in CASES if c.target=='trl'], ids=repr)
def test_lint_and_trainer_agree(case, tmp_path):
    r = load_file(case.write(tmp_path), case.method, 'trl')
    assert r['loaded'] and r['kept']==r['expected']==case.kept, r['note']
    assert 'no rule' not in r['note'] and any(p['rule']==case.rule for p in r['problems'])

@pytest.mark.parametrize('case', [c for c in CASES if c.target=='trl' and c.train], ids=repr)
def test_columns_that_the_training_uses(case, model, tmp_path):
    "They load; then the training fails, or the reward never sees them."
    seen = []
    def reward(prompts, completions, **columns):
        seen.append(columns)
        return [0.]*len(completions)
    def go():
        return trl_trainer(case.write(tmp_path), case.method, model, tmp_path, reward=reward, max_steps=2,
                           **(config('grpo') if case.method=='grpo' else {})).train()
    if case.effect=='fails':
        with pytest.raises((TypeError, ValueError)):
            go()
    else:
        go()
        assert seen and all(c.get(case.name.split()[1]) not in (['x'], ['x', 'x']) for c in seen)

@pytest.mark.parametrize('method,rows,kept,cut', [
    ('sft', [pc(), pc(c=[A('x'*1100)]), pc([U('x'*1100)])], 2, 1),
    ('sft', [sft(U('q'), A('a')), sft(U('x'*1100), A('a'))], 2, 1),
    ('dpo', [pair(), pair(c='x'*1100), pair([U('x'*1100)])], 2, 1),
    ('kto', [kto(), kto(False, c='x'*1100), kto(p='x'*1100)], 2, 1)])
def test_default_cut_off(method, rows, kept, cut, model, tmp_path):
    "1024 tokens: a prompt that fills them silently drops its row, a longer row is cut; the lint says the same."
    (tmp_path/'f.jsonl').write_bytes(lines(rows))
    r = load_file(tmp_path/'f.jsonl', method, 'trl', model)
    assert r['kept']==r['expected']==kept and 'no rule' not in r['note']
    assert sum(p['effect']=='cuts' for p in r['problems'])==cut
    assert load_file(tmp_path/'f.jsonl', method, 'trl')['kept']==len(rows)   # without a model no cut-off is in force

# ---- thinking and tools: every row is kept, and two steps run

TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m['content'] or '' }}{% if m.tool_calls %}{% for c in m.tool_calls %}<tool_call>\n"
    "{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>"
    "{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")

@pytest.fixture(scope='session')
def tool_model(model):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TOOL_TEMPLATE
    return tiny_model(tempfile.mkdtemp(), tokenizer)

def learned(t):
    "What the loss is on, as text."
    return [t.processing_class.decode([i for i in r['labels'] if i!=-100]) for r in t.train_dataset]

@pytest.mark.parametrize('form', ['keep', 'reasoning_content'])
@pytest.mark.parametrize('method', ['sft', 'dpo', 'kto'])
def test_thinking_is_trained_on(method, form, tool_model, tmp_path):
    _, path, n = wf.write(wf.thinking(), method, 'trl', tmp_path, thinking=form)
    assert load_file(path, method, 'trl')['kept']==n>=8
    t = trl_trainer(path, method, tool_model, tmp_path, max_steps=2, **config(method))
    assert len(t.train_dataset)==n and t.train().global_step==2
    assert method!='sft' or {*learned(t)}=={'<think>\nHm.\n</think>\n\nyes<|im_end|>\n'}

@pytest.mark.parametrize('method', ['sft', 'dpo', 'kto'])
def test_tools_are_trained_on(method, tool_model, tmp_path):
    _, path, n = wf.write(wf.tools(), method, 'trl', tmp_path)
    r = load_file(path, method, 'trl')
    assert r['kept']==n==r['expected']>=8 and not r['problems'] and not r['note']
    t = trl_trainer(path, method, tool_model, tmp_path, max_steps=2, **config(method))
    assert len(t.train_dataset)==n and t.train().global_step==2
    if method=='sft':
        said, asked = learned(t), [t.processing_class.decode(r['input_ids']) for r in t.train_dataset]
        assert said[0].startswith('<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}')
        assert 'Get the time.' in asked[0] and 'Get the' not in asked[2] and '12:00' in asked[1]

# ---- rows with earlier turns of the assistant: the last turn alone is learned

CALLED = dict(weather='{"city": "Bern"}', time='{"zone": "CET"}')

def spoken(answer, fmt):
    "An answer as the template writes it; in Parquet the arguments of a call are a text."
    thought, _, text = answer.rpartition('|')
    if text in CALLED:
        arguments = CALLED[text] if fmt=='jsonl' else json.dumps(CALLED[text])
        text = f'<tool_call>\n{{"name": "{text}", "arguments": {arguments}}}\n</tool_call>'
    return (f'<think>\n{thought}\n</think>\n\n' if thought else '')+text+'<|im_end|>\n'

def in_batches(t):
    "(all tokens, those with a label) of each row as the collator gives them to the model, as texts."
    decode = t.processing_class.decode
    for batch in t.get_train_dataloader():
        for ids, labels, real in zip(batch['input_ids'], batch['labels'], batch['attention_mask']):
            yield decode(ids[real==1]), decode(labels[labels!=-100])

@pytest.mark.parametrize('fmt', ['jsonl', 'parquet'])
@pytest.mark.parametrize('name', wf.EARLIER)
def test_the_last_turn_only_is_learned(name, fmt, tool_model, tmp_path):
    groups, options, answers = wf.EARLIER[name]
    _, path, n = wf.write(groups(), 'sft', 'trl', tmp_path, format=fmt, **options)
    r = load_file(path, 'sft', 'trl')
    assert r['kept']==r['rows']==r['expected']==n==4*len(answers), r['note']
    t = trl_trainer(path, 'sft', tool_model, tmp_path, max_steps=2, max_length=None)
    assert learned(t)==[spoken(a, fmt) for a in answers]*4
    rows = list(in_batches(t))
    assert len(rows)==n and all(whole.endswith('<|im_start|>assistant\n'+said) for whole, said in rows)
    assert sorted(said for _, said in rows)==sorted(learned(t))
    assert t.train().global_step==2

@pytest.mark.parametrize('method', ['sft', 'dpo', 'kto', 'grpo'])
def test_images_are_found(method, tmp_path):
    from datasets import load_dataset
    from trl.data_utils import prepare_multimodal_messages
    _, path, n = wf.write(wf.images(tmp_path), method, 'trl', tmp_path)
    rows = load_dataset('json', data_files=str(path), split='train', cache_dir=str(tmp_path/'cache'))
    ready = [prepare_multimodal_messages(r['prompt'], images=r['images']) for r in rows]
    assert len(ready)==n and ready[0][0]['content'][0]['image'].endswith('.png')
