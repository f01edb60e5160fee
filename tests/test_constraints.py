"The verifier of instructions: a table of cases, wrong rows, hostile texts, missing data and packages, a whole run."
import json
import os
import subprocess
import sys
import time

import pytest
from conftest import read_jsonl, rsr, write_jsonl
from loopback import Loopback

pytest.importorskip('if_verifiable', reason="needs the extra `constraints`, which needs Python 3.11")

from rsr.data.types import RsrError
from rsr.verifiers.constraints import constraints, constraints_problem, instructions
from rsr.verifiers.one_response import verify
from rsr.verifiers.verifiers import load_verifier

def row(*names, **kwargs):
    "Return a row with these instructions, all with the same arguments."
    return dict(instruction_id_list=[*names], kwargs=[kwargs]*len(names))

CASES = [
    ('punctuation:no_comma', {}, 'Yes and no.', 'Yes, and no.'),
    ('keywords:existence', dict(keywords=['river', 'boat']), 'The boat is on the river.', 'The boat is here.'),
    ('keywords:frequency', dict(keyword='tea', frequency=2, relation='at least'), 'Tea and tea.', 'Tea.'),
    ('keywords:forbidden_words', dict(forbidden_words=['cat']), 'A dog.', 'A cat.'),
    ('keywords:letter_frequency', dict(letter='z', let_frequency=2, let_relation='at least'), 'jazz', 'fiz'),
    ('language:response_language', dict(language='de'), 'Das ist ein ganz gewöhnlicher deutscher Satz.',
     'This is a perfectly ordinary English sentence.'),
    ('length_constraints:number_words', dict(num_words=4, relation='less than'), 'One two three.',
     'One two three four.'),
    ('length_constraints:number_paragraphs', dict(num_paragraphs=2), 'a\n***\nb', 'a'),
    ('length_constraints:nth_paragraph_first_word', dict(num_paragraphs=2, nth_paragraph=2, first_word='then'),
     'First this.\n\nThen that.', 'First this.\n\nNow that.'),
    ('detectable_content:number_placeholders', dict(num_placeholders=1), 'Dear [name]', 'Dear name'),
    ('detectable_content:postscript', dict(postscript_marker='P.S.'), 'Bye.\nP.S. More.', 'Bye.'),
    ('detectable_format:number_bullet_lists', dict(num_bullets=2), '* a\n* b', '* a'),
    ('detectable_format:json_format', {}, '```json\n{"a": 1}\n```', '{a}'),
    ('detectable_format:title', {}, '<<A title>>\nText.', 'A title\nText.'),
    ('detectable_format:number_highlighted_sections', dict(num_highlights=1), 'It is *here*.', 'It is here.'),
    ('combination:two_responses', {}, 'one\n******\ntwo', 'one'),
    ('combination:repeat_prompt', dict(prompt_to_repeat='Say it.'), 'Say it. It.', 'It.'),
    ('startend:end_checker', dict(end_phrase='The end.'), 'So it goes. The end.', 'So it goes.'),
    ('startend:quotation', {}, '"quoted"', 'not quoted'),
    ('change_case:english_lowercase', {}, 'all of this is in lower case letters.', 'All of this is not.'),
    ('count:word_count_range', dict(min_words=2, max_words=3), 'two words', 'one'),
    ('count:numbers', dict(N=2), '1 and 2', '1'),
    ('words:palindrome', {}, 'level radar civic refer rotor madam kayak stats tenet rotator', 'no such word'),
    ('format:no_whitespace', {}, 'nospace', 'a space'),
    ('format:list', dict(sep='!?'), '!? a\n!? b', '- a\n- b')]

@pytest.mark.parametrize('name,kwargs,right,wrong', CASES, ids=[case[0] for case in CASES])
def test_instruction(name, kwargs, right, wrong):
    assert constraints_problem(row(name, **kwargs)) == ''
    assert constraints(right, row(name, **kwargs)).value == 1.0
    assert constraints(wrong, row(name, **kwargs)).value == 0.0

TWO = dict(instruction_id_list=['punctuation:no_comma', 'length_constraints:number_words'],
           kwargs=[{}, dict(num_words=3, relation='less than', num_sentences=None)])   # null: not given, as in IFEval

def test_all_or_a_share():
    out = constraints('Well, yes.', TWO)
    assert out.value == 0.0
    assert out.detail == {'components': {'punctuation:no_comma': {'value': 0.0},
                                         'length_constraints:number_words': {'value': 1.0}}}
    assert constraints('Well, yes.', TWO, partial=True).value == 0.5
    assert constraints('', TWO, partial=True).value == 0.0
    twice = row('keywords:forbidden_words', 'keywords:forbidden_words', forbidden_words=['a'])
    assert [*constraints('b', twice).detail['components']] == ['keywords:forbidden_words', 'keywords:forbidden_words#2']

def test_loose():
    metadata = row('startend:quotation')
    assert [constraints('Sure!\n"Yes."', metadata, mode=m).value for m in ('strict', 'loose')] == [0.0, 1.0]
    with pytest.raises(RsrError, match="mode='lose'. Allowed: strict, loose"):
        load_verifier('constraints', mode='lose')

@pytest.mark.parametrize('metadata,says', [
    ({}, 'has to be a list of ids'), (dict(instruction_id_list=[]), 'has to be a list of ids'),
    (dict(instruction_id_list=[3]), 'has to be a list of ids'),
    (dict(instruction_id_list='{'), 'has to be a list of ids'),
    (row('punctuation:no_coma'), 'punctuation:no_comma'),
    (dict(instruction_id_list=['punctuation:no_comma'], kwargs=[{}, {}]), 'a list of 1 mappings'),
    (dict(instruction_id_list=['punctuation:no_comma'], kwargs=['x']), 'a list of 1 mappings'),
    (row('length_constraints:number_words', num_word=3), 'num_words'),
    (row('length_constraints:number_words', num_words=3), 'missing relation'),
    (row('startend:end_checker'), 'missing end_phrase'),
    (row('keywords:frequency', keyword='a', frequency=1, relation='over'), 'over'),
    (row('keywords:frequency', keyword=3, frequency=1, relation='at least'), 'keywords:frequency')])
def test_wrong_rows(metadata, says):
    assert says in constraints_problem(metadata)
    out = constraints('text', metadata)
    assert out.value is None and out.reason

def test_rows_as_text():
    "Some copies of the data sets have the lists as JSON."
    metadata = {k: json.dumps(v) for k, v in TWO.items()}
    assert constraints_problem(metadata) == '' and constraints('Yes.', metadata).value == 1.0

HOSTILE = ['[' * 100_000, '"' * 100_000, 'A. ' * 30_000, '* a\n' * 25_000, '\n' * 100_000, 'Question 1 ' * 9_000,
           '\ud800']

@pytest.mark.parametrize('text', HOSTILE, ids=lambda t: repr(t[:12]))
def test_hostile_texts(text):
    names = ['detectable_content:number_placeholders', 'detectable_format:json_format', 'custom:mcq_count_length']
    kwargs = [dict(num_placeholders=1), {}, {}]
    start = time.monotonic()
    out = constraints(text, dict(instruction_id_list=names, kwargs=kwargs), time_limit=1)
    assert out.value in (0.0, None) and time.monotonic()-start < 30   # the machine may be busy
    assert constraints('Yes.', row('punctuation:no_comma')).value == 1.0

def fresh(code, **env):
    "Run code in a fresh interpreter; return its output."
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120,
                         env={**os.environ, **env})
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()

def test_missing_nltk_data(tmp_path):
    code = ("from rsr.verifiers.constraints import constraints as c\n"
            "m = dict(instruction_id_list=['length_constraints:number_sentences', 'punctuation:no_comma'],\n"
            "         kwargs=[dict(num_sentences=2, relation='at least'), {}])\n"
            "print(c('One. Two.', m).value, c('One. Two.', m).reason, c('One, two.', m).value)")
    out = fresh(code, NLTK_DATA=str(tmp_path), HOME=str(tmp_path))
    if 'python -m nltk.downloader' not in out:
        pytest.skip('this machine has the data of NLTK')
    assert out == 'None data of NLTK are missing: python -m nltk.downloader punkt_tab 0.0'

def test_missing_package():
    code = ("import importlib.util\nfind = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, *a: None if name=='if_verifiable' else find(name, *a)\n"
            "from rsr.verifiers.verifiers import load_verifier\n"
            "try:\n    load_verifier('constraints')\nexcept Exception as e:\n    print(type(e).__name__, e)")
    out = fresh(code)
    assert out.startswith('RsrError') and "pip install 'rejection-sampling-recipes[constraints]'" in out

def test_import_is_light():
    code = "import sys, rsr.verifiers.constraints\nprint('nltk' in sys.modules, 'datasets' in sys.modules)"
    assert fresh(code) == 'False False'

def test_verify():
    assert verify('constraints', 'Yes.', TWO) == 1.0
    assert len(instructions()) == 83

def test_run(here):
    "A run scores by instructions, and a wrong row is refused before the first request."
    data = [dict(id='a', messages=[dict(role='user', content='Say yes.')], metadata=TWO)]
    with Loopback(reply=lambda body: 'Yes.') as server:
        options = f'sampler.base_url={server.base_url}', 'verifier.type=constraints'
        p = rsr('run', 'sft', write_jsonl('d.jsonl', data), 'work_dir=run', *options)
        assert p.returncode == 0, p.stderr
        asked = len(server.log)
        wrong = write_jsonl('w.jsonl', [dict(data[0], metadata=row('punctuation:no_coma'))])
        q = rsr('run', 'sft', wrong, 'work_dir=run2', *options)
        assert len(server.log) == asked
    assert read_jsonl('run/train/sft.jsonl')[0]['messages'][1]['content'] == 'Yes.'
    assert q.returncode == 2 and 'punctuation:no_comma' in q.stderr and 'Traceback' not in q.stderr
