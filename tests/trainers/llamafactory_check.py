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

def tokenized(path, stage, model, out):
    "The dataset as LLaMA-Factory tokenizes it."
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    m, d, t, *_ = get_train_args(dict(
        model_name_or_path=model, stage=stage, do_train=True, finetuning_type='full', dataset_dir=str(path.parent),
        dataset=path.stem, template='default', output_dir=str(out/'out'), cache_dir=str(out/'cache'),
        overwrite_cache=True, use_cpu=True, bf16=False, report_to='none'))
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
