"""LLaMA-Factory takes what rsr writes, through the dataset_info.json beside it.

Run by `make test-trainers` in .venv-llamafactory."""
import tempfile

import pytest
import written_forms as wf
from cases import CASES, A, U, labels, lf_kto, lines, sft
from written import COLUMNS, write

from rsr.formatters.load_check import check_files, load_file, tiny_model

@pytest.fixture(scope='session')
def model():
    return tiny_model(tempfile.mkdtemp())

@pytest.mark.parametrize('fmt', ['jsonl', 'parquet'])
@pytest.mark.parametrize('method,kw', [('sft', {}), ('dpo', {}), ('kto', {}),
                                       ('multi_sft', dict(unroll=True, num_responses=2)),
                                       ('sft', dict(columns=COLUMNS)), ('dpo', dict(columns=COLUMNS)),
                                       ('kto', dict(columns=COLUMNS))],
                         ids=['sft', 'dpo', 'kto', 'unrolled', 'sft-columns', 'dpo-columns', 'kto-columns'])
def test_rows_kept_are_rows_written(method, kw, fmt, tmp_path):
    f, path, n = write(method, 'llamafactory', 'messages', fmt, tmp_path, **kw)
    assert (path.parent/'dataset_info.json').is_file()
    r, = check_files(tmp_path, [f], trainer='llamafactory')
    assert r['loaded'].startswith('llamafactory ') and r['rows']==r['kept']==r['expected']==n>=15 and not r['note']

@pytest.mark.parametrize('case', [c for c in CASES if c.target=='llamafactory'], ids=repr)
def test_lint_and_trainer_agree(case, tmp_path):
    r = load_file(case.write(tmp_path), case.method, 'llamafactory')
    assert r['loaded'] and r['kept']==r['expected']==case.kept, r['note']
    assert 'no rule' not in r['note'] and any(p['rule']==case.rule for p in r['problems'])

def tokenized(path, stage, model, out, **options):
    "The dataset as LLaMA-Factory tokenizes it."
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    m, d, t, *_ = get_train_args(dict(
        model_name_or_path=model, stage=stage, do_train=True, finetuning_type='full', dataset_dir=str(path.parent),
        dataset=path.stem, output_dir=str(out/'out'), cache_dir=str(out/'cache'), overwrite_cache=True, use_cpu=True,
        bf16=False, report_to='none', **{'template':'default', **options}))
    tok = load_tokenizer(m)
    template = get_template_and_fix_tokenizer(tok['tokenizer'], d)
    return get_dataset(template, m, d, t, stage=stage, **tok)['train_dataset'], tok['tokenizer']

def test_labels_are_read_as_written(model, tmp_path):
    _, path, n = write('kto', 'llamafactory', 'messages', 'jsonl', tmp_path)
    ds, tok = tokenized(path, 'kto', model, tmp_path)
    import json
    want = [json.loads(line)['kto_tag'] for line in path.read_bytes().splitlines()]
    assert ds['kto_tags'][:]==want and 0<sum(want)<n

def test_an_empty_desirable_answer_flips(model, tmp_path):
    "What the rule `flips` is about."
    import json

    from rsr.formatters.trainers import DATASET_INFO
    (tmp_path/'f.jsonl').write_bytes(lines([*labels(lf_kto, 2, 1), lf_kto(True, U('q'), A(''))]))
    (tmp_path/'dataset_info.json').write_text(json.dumps({'f':dict(file_name='f.jsonl', **DATASET_INFO['kto'])}))
    ds, _ = tokenized(tmp_path/'f.jsonl', 'kto', model, tmp_path)
    assert ds['kto_tags'][:]==[True, True, False, False]

def test_pairs_are_learned_whole(model, tmp_path):
    _, path, n = write('dpo', 'llamafactory', 'messages', 'jsonl', tmp_path)
    ds, tok = tokenized(path, 'rm', model, tmp_path)
    answers = [tok.decode([i for i in r['chosen_labels'] if i!=-100]) for r in ds]
    assert len(ds)==n and answers[0].startswith('3') and answers[-1].startswith('A')

def test_default_cut_off(model, tmp_path):
    "2048 tokens: a longer row is cut, none is dropped."
    (tmp_path/'f.jsonl').write_bytes(lines([sft(U('q'), A('a')), sft(U('q'), A('x'*2100)), sft(U('x'*2100), A('a'))]))
    r = load_file(tmp_path/'f.jsonl', 'sft', 'llamafactory', model)
    assert r['kept']==r['rows']==3 and r['over_long']==2 and {p['effect'] for p in r['problems']}=={'cuts'}

# ---- thinking, tools, images: every row is kept, and read as it was written

STAGES = dict(sft='sft', dpo='rm', kto='kto')

def said(ds, tok, column='labels'):
    return [tok.decode([i for i in r[column] if i!=-100]) for r in ds]

@pytest.mark.parametrize('method', ['sft', 'dpo', 'kto'])
def test_thinking_is_kept(method, model, tmp_path):
    f, path, n = wf.write(wf.thinking(), method, 'llamafactory', tmp_path)
    r, = check_files(tmp_path, [f], trainer='llamafactory')
    assert r['kept']==r['rows']==n>=8 and not r['note']
    ds, tok = tokenized(path, STAGES[method], model, tmp_path)
    column = dict(dpo='chosen_labels').get(method, 'labels')
    assert '<think>\nHm.\n</think>\n\nyes' in said(ds, tok, column)[0]

@pytest.mark.parametrize('method', ['sft', 'dpo', 'kto'])
def test_tools_are_kept(method, model, tmp_path):
    f, path, n = wf.write(wf.tools(), method, 'llamafactory', tmp_path)
    r, = check_files(tmp_path, [f], trainer='llamafactory')
    assert r['kept']==r['rows']==r['expected']==n>=8 and not r['note'] and not r['problems']
    ds, tok = tokenized(path, STAGES[method], model, tmp_path)
    column, ids = dict(dpo=('chosen_labels', 'chosen_input_ids')).get(method, ('labels', 'input_ids'))
    assert 'weather' in said(ds, tok, column)[0] and 'Bern' in said(ds, tok, column)[0]
    asked = [tok.decode(r[ids]) for r in ds]
    assert any('12:00' in a and 'Get the time.' in a for a in asked)

# ---- rows with earlier turns of the assistant: with mask_history the last turn alone is learned

TURNS = dict(weather='Action: weather\nAction Input: {"city": "Bern"}',
             time='Action: time\nAction Input: {"zone": "CET"}')

def spoken(answer):
    thought, _, text = answer.rpartition('|')
    return (f'<think>\n{thought}\n</think>\n\n' if thought else '')+TURNS.get(text, text)+'<|im_end|>\n'

def in_batches(ds, tok):
    "(all tokens, those with a label) of each row as the collator of its SFT gives them to the model, as texts."
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    template = get_template_and_fix_tokenizer(tok, DataArguments(template='default'))
    collate = SFTDataCollatorWith4DAttentionMask(template=template, tokenizer=tok, pad_to_multiple_of=8,
                                                 label_pad_token_id=-100)
    batch = collate([dict(r) for r in ds])
    for ids, learned, real in zip(batch['input_ids'], batch['labels'], batch['attention_mask']):
        yield tok.decode(ids[real==1]), tok.decode(learned[learned!=-100])

@pytest.mark.parametrize('fmt', ['jsonl', 'parquet'])
@pytest.mark.parametrize('name', [name for name in wf.EARLIER if name!='exchange_calls'])
def test_the_last_turn_only_is_learned(name, fmt, model, tmp_path):
    groups, options, answers = wf.EARLIER[name]
    f, path, n = wf.write(groups(), 'sft', 'llamafactory', tmp_path, format=fmt, **options)
    r, = check_files(tmp_path, [f], trainer='llamafactory')
    assert r['kept']==r['rows']==r['expected']==n==4*len(answers), r['note']
    ds, tok = tokenized(path, 'sft', model, tmp_path, mask_history=True)
    assert said(ds, tok)==[spoken(a) for a in answers]*4
    rows = list(in_batches(ds, tok))
    assert [text for _, text in rows]==said(ds, tok)
    assert all(whole.endswith(f'Assistant:{text}') for whole, text in rows)

def test_without_mask_history_all_turns_are_learned(model, tmp_path):
    "What the advice of a run is about."
    groups, options, answers = wf.EARLIER['slice']
    _, path, n = wf.write(groups(), 'sft', 'llamafactory', tmp_path, **options)
    ds, tok = tokenized(path, 'sft', model, tmp_path)
    assert said(ds, tok)[2]==''.join(map(spoken, answers))

def test_ends_of_earlier_turns_are_learned_with_some_templates(model, tmp_path):
    "Those with `efficient_eos`: the end-of-text token after an earlier turn keeps its label, and nothing else does."
    groups, options, _ = wf.EARLIER['slice']
    _, path, n = wf.write(groups(), 'sft', 'llamafactory', tmp_path, **options)
    ds, tok = tokenized(path, 'sft', model, tmp_path, mask_history=True, template='glm4')
    end = tok.eos_token
    assert said(ds, tok)==['\none'+end, end+'\ntwo'+end, end*2+'\nthree'+end]*4

def test_a_user_after_a_result_has_no_form(model, tmp_path):
    "LLaMA-Factory drops such a row in silence, so none is written."
    import json

    from rsr.formatters.message_forms import USER_AFTER_RESULT
    from rsr.formatters.trainers import DATASET_INFO
    from rsr.formatters.writer import write_files
    groups, options, _ = wf.EARLIER['exchange_calls']
    f, _, n = wf.write(groups(), 'sft', 'llamafactory', tmp_path/'run', **options)
    assert n==0
    counts = write_files(groups(), [f], tmp_path/'again', single=False)[f.file]
    assert USER_AFTER_RESULT in json.dumps(counts, default=str)
    def turn(role, content):
        return dict(role=role, content=content)
    calls, right = json.dumps([dict(name='f', arguments={})]), [U('q'), A('a')]
    dropped = [U('q'), turn('function_call', calls), turn('observation', 'x'), U('And?'), A('a')]
    (tmp_path/'f.jsonl').write_bytes(lines([dict(messages=ms, tools='') for ms in (right, dropped)]))
    info = {**DATASET_INFO['sft'], 'columns':dict(messages='messages', tools='tools')}
    (tmp_path/'dataset_info.json').write_text(json.dumps({'f':dict(file_name='f.jsonl', **info)}))
    r = load_file(tmp_path/'f.jsonl', 'sft', 'llamafactory')
    assert r['rows']==2 and r['kept']==r['expected']==1 and [p['rule'] for p in r['problems']]==['order']

def test_images_are_found(tmp_path):
    "By its converter; training needs a model with vision."
    import json

    from llamafactory.data.converter import SharegptDatasetConverter
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.hparams import DataArguments
    for method in STAGES:
        _, path, n = wf.write(wf.images(tmp_path), method, 'llamafactory', tmp_path/method)
        attr = DatasetAttr('file', 'x')
        attr.join(json.loads((path.parent/'dataset_info.json').read_text())[path.stem])
        convert = SharegptDatasetConverter(dataset_attr=attr, data_args=DataArguments())
        rows = [convert(json.loads(line)) for line in path.read_bytes().splitlines()]
        assert len(rows)==n and all(r['_prompt'] and r['_response'] for r in rows)
        assert [r['_prompt'][0]['content'].count('<image>') for r in rows]==[len(r['_images'] or ()) for r in rows]

def test_two_steps_with_thinking_and_tools(model, tmp_path):
    from llamafactory.train.tuner import run_exp
    for name, groups in dict(thinking=wf.thinking(), tools=wf.tools()).items():
        _, path, n = wf.write(groups, 'sft', 'llamafactory', tmp_path/name)
        run_exp(dict(model_name_or_path=model, stage='sft', do_train=True, finetuning_type='full', max_steps=2,
                     dataset_dir=str(path.parent), dataset=path.stem, template='default', report_to='none',
                     output_dir=str(tmp_path/name/'out'), cache_dir=str(tmp_path/name/'cache'), overwrite_cache=True,
                     use_cpu=True, bf16=False, per_device_train_batch_size=2, save_strategy='no', disable_tqdm=True))
        state = (tmp_path/name/'out'/'trainer_state.json').read_text()
        assert '"global_step": 2' in state
