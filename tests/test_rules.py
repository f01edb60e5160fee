"The rules exact, regex, f1, json-schema and tool-call: tables of cases, wrong references, hostile texts, whole runs."
import json
import time

import pytest
from conftest import read_jsonl, rsr, write_jsonl
from loopback import Loopback

from rsr.data.types import RsrError
from rsr.run.reward import make_rewards
from rsr.verifiers.json_schema import find_json, json_schema, parse_json, schema_checker
from rsr.verifiers.one_response import verify
from rsr.verifiers.text_answers import (
    answer_key,
    exact,
    extract_exact,
    f1,
    f1_words,
    linear_pattern,
    references,
    regex,
    same_answer,
)
from rsr.verifiers.tool_calls import call_error, reference_calls, tool_call, tool_schemas
from rsr.verifiers.verifiers import load_verifier

N = 100_000   # characters

def in_time(call, seconds=1.):
    "Return what a call returns; fail if it takes longer, the best of three."
    best = float('inf')
    for _ in range(3):
        start = time.thread_time()
        out = call()
        best = min(best, time.thread_time()-start)
        if best<seconds:
            return out
    raise AssertionError(f'{best:.2f} s')

# ---- exact: the final answer

# response => final answer; \\n is a new line
FINAL = r'''
Paris => Paris
Paris. => Paris
**Paris** => Paris
The answer is Paris. => Paris
The answer is: Paris => Paris
The final answer is **Paris**. => Paris
So the answer to the question, then, is Paris. => Paris
Answer: Paris => Paris
**Answer:** Paris => Paris
**Answer**: Paris => Paris
Final Answer\n\nParis => Paris
**Final Answer**\n\nParis => Paris
## Answer\nParis => Paris
Answer:\n\n```\nParis\n``` => Paris
<answer>Paris</answer> => Paris
<answer>\nParis\n</answer>\n => Paris
<final_answer>Paris</final_answer> => Paris
{"answer": "Paris"} => Paris
{"reason": "it is", "answer": 42} => 42
{"answer": true} => yes
\boxed{Paris} => Paris
\boxed{\text{Paris}} => Paris
$\boxed{\mathrm{Paris}}$. => Paris
First \boxed{Lyon}, then \boxed{Paris} => Paris
\boxed{Lyon} or \boxed{Paris} => Lyon, Paris
\boxed{Lyon}\n\nThis answer is right. => Lyon
\boxed{Lyon}. Final answer: Paris => Paris
\boxed{Lyon}. So \boxed{Par => None
\boxed{Par => None
2*3 = 6\n#### 6 => 6
#### 1,234 => 1,234
It is large.\nParis => Paris
It is large:\n- Paris => Paris
It is large:\n* **Paris** => Paris
Answer: Lyon. No, wait. Answer: Paris. => Paris
Answer: Paris, because it is large. => Paris
The answer is Paris. It lies on the Seine. => Paris
The answer is J. R. R. Tolkien. => J. R. R. Tolkien
The answer is St. Louis. It lies in Missouri. => St. Louis
The answer is Mr. Darcy. => Mr. Darcy
The answer is 3.5. That is all. => 3.5
Answer: -5 => -5
Answer: 5! => 5!
Answer: 50% => 50%
The answer is not Paris. => not Paris
Réponse : Paris => Paris
La respuesta es París. => París
Die Antwort ist Köln. => Köln
Ответ: Москва => Москва
答案是巴黎。 => 巴黎
答案：巴黎 => 巴黎
所以答案为“巴黎”，因为它是首都。 => 巴黎
答えは東京です。 => 東京
答え：東京 => 東京
정답은 서울입니다. => 서울
답: 서울 => 서울
답은 서울입니다. => 서울
答：巴黎 => 巴黎
最终答案：巴黎。解析：它是首都。 => 巴黎
Respuesta final: París => París
Réponse finale : Paris => Paris
Final Answer: The final answer is $42$. I hope it is correct. => 42
Paris\n\nExplanation: it is the capital. => Paris
**Paris**\n\n**Reasoning:** it is large. => Paris
巴黎\n解析：它是首都。 => 巴黎
Answer: [Paris] => [Paris]
<think>The answer is Lyon.</think>The answer is Paris. => Paris
<think>The answer is Lyon. => None
'''

def table(text):
    "Return [(left, right)] of a table with a case on each line."
    pairs = [line.rsplit(' => ', 1) for line in text.strip('\n').split('\n')]
    return [(left.replace('\\n', '\n'), right) for left, right in pairs]

@pytest.mark.parametrize('response,want', table(FINAL))
def test_final_answer(response, want):
    assert str(extract_exact(response))==want

def test_read_response():
    assert extract_exact('Roses are red.\nAnswer: no', 'response')=='Roses are red.\nAnswer: no'
    assert extract_exact('', 'response') is None and extract_exact('  \n ') is None and extract_exact('***') is None

SAME = [('Paris', ' paris '), ('The Beatles', 'beatles'), ('a cat', 'Cat.'), ('1,234', '1234'), ('1 234', '1234'),
        ('1,234,567.50', '1234567.5'), ('3.0', '3'), ('+3', '3'), ('−5', '-5'), ('- 5', '-5'), ('.5', '0.5'),
        ('1e3', '1000'), ('２５', '25'), ('ﬁne', 'fine'), ('ÉCOLE', 'e\u0301cole'),
        ('don’t', "don't"), ('«oui»', 'Oui'),
        ('new   york', 'New York'), ('1990–95', '1990-95'), ('(b)', 'B'), ('北京。', '北京'), ('“北京”', '北京'),
        ('Straße', 'STRASSE'), ('ｱｲ', 'アイ'), (r'\text{Paris}', 'Paris'), (r'50\%', '50%'), ('$5', '5'), ('*', '*'),
        ('m²', 'm^2'), ('10⁻³', '10^{-3}'), ('٤٢', '42'), ('[Paris]', 'Paris'), ('[New York]', 'New York'),
        ('[5]', '5'), ('४२', '42'), ('H₂O', 'H2O')]
DIFFER = [('007', '7'), ('.5', '5'), ('5!', '5'), ('50%', '0.5'), ('50%', '50'), ('C++', 'C'), ('C#', 'C'),
          ('(1, 2)', '[1, 2]'), ('-5', '5'), ('no', 'not'), ('1,23', '123'), ('7', '7 km'), ('1.234', '1234'),
          ('Paris', 'Paris, France'), ('北京', '北京市'), ('θ', 'the θ b'), ('1e400', '1e401'), ('', 'a'), ('a', 'the'),
          ('1/2', '12'), ('2^3', '23'), ('x_1', 'x1'), ('1:30', '130'), ('0.30', '0.031'),
          ('5²', '52'), ('[1, 2]', '1, 2'), ('½', '12'), ('1½', '11/2')]

@pytest.mark.parametrize('a,b', SAME)
def test_same(a, b):
    assert same_answer(a, b) or answer_key(a.replace('- ', '-'))==answer_key(b)

@pytest.mark.parametrize('a,b', DIFFER)
def test_different(a, b):
    assert not same_answer(a, b)

EXACT = [('The answer is Paris.', 'Paris', 1), ('It was Paris.', 'Paris', 0), ('Paris', ['Lyon', 'Paris'], 1),
         ('Nice', ['Lyon', 'Paris'], 0), ('So I choose (B).', 'B', 1), ('The answer is (C).', 'B', 0),
         ('The answer is A: Paris', 'a', 1), ('Answer: A dog', 'A', 0), ('I am not sure', 'I', 0),
         ('Yes, it does.', 'yes', 1), ('No, it does not.', 'yes', 0), ('Yes and no.', 'yes', 0), ('Yes', True, 1),
         ('true', True, 1), ('No.', True, 0), ('No: it is not.', False, 1), ('42', 42, 1), ('42.0', 42, 1),
         ('0.3', 0.30000000000000004, 1), ('Answer: 1,234', 1234, 1), ('Answer: 1.234', 1234, 0),
         ('Answer: 007', '007', 1), ('Answer: 7', '007', 0), ('', 'Paris', 0), ('\n', 'Paris', 0),
         (r'\boxed{Par', 'Par', 0), ('答案是：北京。', '北京', 1), ('答案是：北京。', ['上海', '北京'], 1),
         ('Roses are red,\nviolets blue', 'Roses are red,\nviolets blue', 1), ('Answer: x\nAnswer: y', 'x', 0),
         ('6', 'It is 2*3=<<2*3=6>>6\n#### 6', 1), ('6', r'so \boxed{6}', 1), ('a\x00b', 'a\x00b', 1),
         ('\ud800', '\ud800', 1), ('C++', 'C', 0), ('Answer: 5!', '5', 0), ('∞', '∞', 1), ('...', 'x', 0),
         ('Answer: (C) Paris', 'Paris', 1), ('C. Paris', 'Paris', 1), ('Option B: Lyon', 'lyon', 1),
         ('(C) Paris', 'Lyon', 0),
         ('B. A', 'A', 0), ('Answer: C: Paris', 'C', 1), ('A. Smith', 'J. Smith', 0)]

@pytest.mark.parametrize('response,reference,want', EXACT)
def test_exact(response, reference, want):
    assert exact(response, {'answer': reference}).value==want
    assert verify('exact', response, reference)==want

REFERENCES = [({'answer': 'a'}, ('a',)), ({'gold_target': 'a'}, ('a',)), ({'answers': ['a', 'b']}, ('a', 'b')),
              ({'answer': 'a', 'answers': ['b']}, ('a', 'b')), ({'answer': ['a', '', None]}, ('a',)),
              ({'answers': {'text': ['a'], 'answer_start': [1]}}, ('a',)),
              ({'answer': {'value': 'a', 'aliases': ['b', 'c']}}, ('a', 'b', 'c')), ({'answer': ('a', 1)}, ('a', '1'))]

@pytest.mark.parametrize('metadata,want', REFERENCES)
def test_references(metadata, want):
    assert references(metadata)==(want, '')

ODD = [None, {}, {'answer': None}, {'answer': ''}, {'answer': ' '}, {'answer': []}, {'answer': [None, '']},
       {'answer': {'a': 1}}, {'answer': [['a']]}, {'answer': float('nan')}, {'answer': [float('nan')]},
       {'answer': object()}, {'answer': '####'}, {'answer': r'\boxed{}'}, {'answers': {'text': []}}]

@pytest.mark.parametrize('metadata', ODD)
@pytest.mark.parametrize('name', ['exact', 'f1'])
def test_odd_references(name, metadata):
    v = load_verifier(name)
    why = v.problem(metadata)
    out = v.call('Paris', metadata)
    assert (out.value, out.reason)==(None, why) and ('no ground truth' in why or 'neither text nor a number' in why)

def test_large_reference():
    for huge in (10**5000, 'x'*N, ['x'*N, 'a'], 10**100):
        assert in_time(lambda huge=huge: exact('a', {'answer': huge})).value in (0., 1.)
    assert exact(str(10**99), {'answer': 10**99}).value==1.
    assert exact('x '*N, {'answer': 'x '*N}, read='response').value==1.

# ---- regex

REGEX = [('It was in 1789.', dict(pattern=r'\b1789\b'), 1), ('It was in 1788.', dict(pattern=r'\b1789\b'), 0),
         ('1789', dict(pattern=r'\d{4}', whole=True), 1), ('in 1789', dict(pattern=r'\d{4}', whole=True), 0),
         (' 1789 \n', dict(pattern=r'\d{4}', whole=True), 1), ('Answer: 1789.', dict(pattern=r'\d{4}', whole=True), 0),
         ('Answer: 1789.', dict(pattern=r'\d{4}', whole=True, read='final'), 1), ('HELLO', dict(pattern='hello'), 0),
         ('HELLO', dict(pattern='(?i)hello'), 1), ('I cannot', dict(pattern='cannot', must='not_match'), 0),
         ('I can', dict(pattern='cannot', must='not_match'), 1), ('', dict(pattern='a'), 0),
         ('', dict(pattern='a*'), 1),
         ('北京市', dict(pattern='^北.市$'), 1), ('a\nb', dict(pattern='(?m)^b$'), 1), ('a\nb', dict(pattern='^b$'), 0),
         ('a\nb', dict(pattern='a.b', whole=True), 0), ('a\nb', dict(pattern='(?s)a.b', whole=True), 1),
         ('é', dict(pattern=r'^\pL$'), 1), ('\ud800', dict(pattern='x'), 0), ('a\x00b', dict(pattern='a\x00b'), 1)]

@pytest.mark.parametrize('response,options,want', REGEX)
def test_regex(response, options, want):
    assert verify('regex', response, {}, **options)==want

def test_pattern_of_a_prompt():
    assert verify('regex', 'abc', {'pattern': '^a'})==1. and verify('regex', 'abc', {'pattern': '^a'}, pattern='x')==1.
    v = load_verifier('regex', pattern='a')
    assert v.problem({})=='' and "metadata.pattern '(' is not a pattern: missing ): (" in v.problem({'pattern': '('})
    assert load_verifier('regex').problem({}).startswith('no pattern')
    for odd in (5, ['a'], {'a': 1}, True):
        assert 'is not a text' in load_verifier('regex').problem({'pattern': odd})
    assert v.fingerprint!=load_verifier('regex', pattern='b').fingerprint

@pytest.mark.parametrize('pattern,why', [('(', 'missing )'), ('(?=a)', 'no lookaround'), ('(?<!a)b', 'no lookaround'),
                                         (r'(a)\1', 'no backreferences'), (r'a\Z', r'write \z'),
                                         ('a{2000}', 'repetition'),
                                         (r'(?:\pL{90}\pN{90}){9}', 'too large'), ('[z-a]', 'range'),
                                         ('('*5000, 'missing )'),
                                         ('a'*6000, 'too large')])
def test_wrong_patterns(pattern, why):
    with pytest.raises(RsrError) as e:
        load_verifier('regex', pattern=pattern)
    assert why in str(e.value) and 'verifier.pattern' in str(e.value) and len(str(e.value))<500

@pytest.mark.parametrize('options', [dict(must='find'), dict(read='all'), dict(whole='yes'), dict(pattern=5)])
def test_wrong_options(options):
    with pytest.raises(RsrError, match='verifier'):
        load_verifier('regex', **{'pattern': 'a', **options})

@pytest.mark.parametrize('pattern', ['(a+)+$', '(a|a)*b', '(a|aa)+$', '(.*)*x', '(?:a?){900}a{90}', '(x+x+)+y',
                                     '(?:a|b)*a(?:a|b){400}', '^(([a-z])+.)+[A-Z]([a-z])+$'])
def test_patterns_that_freeze_re(pattern):
    for text in ('a'*N+'!', 'ab'*(N//2), 'x'*N, 'A'*N):
        assert in_time(lambda text=text: regex(text, {}, pattern=pattern)).value in (0., 1.)

def test_pattern_cache_is_small():
    assert linear_pattern.cache_info().maxsize<=128   # a compiled pattern may hold megabytes

@pytest.mark.parametrize('response,reference,want', [
    ('Answer: Paris? No, London.', 'Paris', 0), ('No, wait. Yes.', 'no', 0), ('Yes, but actually no', 'yes', 0),
    ('yes; no', 'yes', 0), ('The final answer is yes - or maybe no', 'yes', 0), ('True, false', 'true', 0),
    ('No, this is not true.', 'no', 1), ('Yes, there is no reason to doubt it.', 'yes', 1),
    ('False, that is not true.', 'false', 1),
    ('\\boxed{5}\nBut the final answer is 6', '5', 0), ('\\boxed{5}\nWait, the final answer is 6', '6', 1),
    ('\\boxed{5}\nTherefore, the final answer is 5.', '5', 1)])
def test_an_answer_that_is_taken_back(response, reference, want):
    assert verify('exact', response, reference)==want

# ---- f1

@pytest.mark.parametrize('response,reference,want', [
    ('+', '-', 0), ('👍', '👎', 0), ('5', '-5', 0), ('1.5', '15', 0), ('−5', '-5', 1), ('1.50', '1.5', 0),
    ('It is 1.5.', 'it is 1.5', 1), ('1,000', '1000', 1), ('well-known', 'wellknown', 1)])
def test_signs_that_count_in_f1(response, reference, want):
    assert verify('f1', response, reference)==want

F1 = [('Answer: Paris', 'Paris', 1), ('Answer: the city of Paris', 'Paris, France', .4),
    ('Paris', ['Lyon', 'paris'], 1),
      ('Answer: in 1789', 1789, 2/3), ('', 'Paris', 0), ('Answer: Lyon', 'Paris', 0), ('Answer: a b c d', 'a b', .5),
      ('Answer: b b b', 'b', .5), ('Answer: U.S.', 'US', 1), ('答案是北京市。', '北京', .8), ('答案是上海', '北京', 0),
      ('東京タワー', '東京タワー', 1), ('東京', '東京都', .8), ('서울 시', '서울', 2/3), ('กรุงเทพ', 'กรุงเทพ', 1),
      ('The the', 'the', 1), ('Answer: ÉCOLE', 'école', 1), ('333 m tall', '333m', 0), ('333米', '333 米', 1)]

@pytest.mark.parametrize('response,reference,want', F1)
def test_f1(response, reference, want):
    assert verify('f1', response, reference)==pytest.approx(want)

def test_f1_reads_all_of_it():
    text = 'The capital is Paris.\nI hope this helps.'
    assert verify('f1', text, 'capital is Paris', read='response')==pytest.approx(2*3/(3+7))
    assert verify('f1', text, 'capital is Paris')==0.
    with pytest.raises(RsrError, match='allowed: final, response'):
        load_verifier('f1', read='all')

def test_f1_words():
    assert f1_words("Don't: (stop) <now> $5 A-B") == ['dont', 'stop', 'now', '5', 'ab']
    assert f1_words('ｶﾞ北 2kg京') == ['ガ', '北', '2kg', '京']

# ---- hostile texts for all of them

HOSTILE = ['a'*N, ' '*N, '\n'*N, '**'*N, '`'*N, '\\boxed{'*(N//7), '\\boxed{1}'*(N//9), 'answer is '*(N//10),
           'Answer: '*(N//8), 'answer:\n'*(N//8), '####'*(N//4), '# answer\n'*(N//9), '<answer>'*(N//8),
           '{"answer":'*(N//10),
           '{"answer": "'+'x'*N+'"}', '{'*N, '['*N, '\u0301\u0316'*(N//2), 'a\u0316\u0301'*(N//3), '答案是'*(N//3),
           'A. '*(N//3), 'Mr. '*(N//4), '. A'*(N//3), '1,'*(N//2), '1 '*(N//2), '9'*N, '1e999', '-'*N, '"'*N, '。'*N,
           '\\text{'*(N//6), '- '*(N//2), '\ud800'*N, '\x00'*N, '```\n'*(N//4), '```json\n{"a": 1}\n```\n'*(N//20),
           '[1,'*(N//3), '{"a":'*(N//5), '["\\"'*(N//4), '{"a":"b",'*(N//9), '{"'*(N//2), '[t'*(N//2),
           '\\frac{1}{2}'*(N//11)]

@pytest.mark.parametrize('i', range(len(HOSTILE)))
def test_hostile(i):
    text = HOSTILE[i]
    calls = [dict(function=dict(name='f', arguments=text))]
    for response, reference in ((text, 'Paris'), ('Paris', text), (text, text)):
        for f in (exact, f1):
            out = in_time(lambda f=f, a=response, b=reference: f(a, {'answer': b}))
            assert out.value is None and out.reason or 0<=out.value<=1
    assert in_time(lambda: exact(text, {'answer': 'B'})).value==0.
    assert in_time(lambda: json_schema(text, {'schema': {'type': 'object', 'required': ['zz']}})).value==0.
    assert in_time(lambda: tool_call(text, {'answer': [dict(name='f', arguments=dict(zz=1))]}, calls, None)).value==0.
    assert in_time(lambda: tool_call(text, {'answer': text}, calls, None)).value is None

# ---- JSON

JSON = [('{"a": 1}', {'a': 1}), (' [1, 2] ', [1, 2]), ('"a"', 'a'), ('null', None), ('Here: {"a": 1}.', {'a': 1}),
        ('```json\n{"a": 1}\n```', {'a': 1}), ('```\n[1]\n```', [1]), ('{"a": 1} and {"b": 2}', {'b': 2}),
        ('```json\n{"a": 1}\n```\nor\n```json\n{"b": 2}\n```', {'b': 2}),
        ('see {"a": {"b": [1]}} [1]', {'a': {'b': [1]}}),
        ('[[1], [2]] of it', [[1], [2]]), (r'\frac{1}{2} {"a": "}{"}', {'a': '}{'}), ('{"a": 2.0}', {'a': 2}),
        ('```json\n{"a": \n```\n{"b": 1}', {'b': 1}), ('  ```json\n  {"a": 1}\n  ```', {'a': 1}),
        ('{"a": 1}\n{"b": 2}', {'b': 2}), ('{"键": "值"}。', {'键': '值'}), ('{"a": "\\ud800"}', {'a': '\ufffd'})]

@pytest.mark.parametrize('text,want', JSON)
def test_find_json(text, want):
    assert find_json(text)[0]==want

@pytest.mark.parametrize('text', ['', 'none', '{', '{a: 1}', "{'a': 1}", '{"a": 1,}', '{"a": NaN}', '[1e999]',
                         '{"a": 1',
                                  '```json\n{"a": 1', '['*N, '1'*5000, '{"a":'*100+'1'+'}'*100, '// x\n', '[Infinity]'])
def test_no_json(text):
    assert find_json(text) is None and json_schema(text, {'schema': {}}).reason=='no JSON'

PERSON = {'type': 'object', 'properties': {'name': {'type': 'string', 'pattern': '^[A-Z]'}, 'age': {'type': 'integer'}},
          'required': ['name'], 'additionalProperties': False, 'patternProperties': {'^x-': {'type': 'null'}}}
VALID = [(PERSON, '{"name": "Ada"}', 1), (PERSON, '{"name": "Ada", "age": 36.0}', 1), (PERSON, '{"name": "ada"}', 0),
         (PERSON, '{"age": 1}', 0), (PERSON, '{"name": "Ada", "age": "1"}', 0), (PERSON, '{"name": "Ada", "b": 1}', 0),
         (PERSON, '{"name": "Ada", "x-b": null}', 1), (PERSON, '{"name": "Ada", "x-b": 1}', 0), (PERSON, '[]', 0),
         (PERSON, '{"name": "Ada", "age": true}', 0), (True, '1', 1), (False, '1', 0), ({}, '1', 1),
         ({'type': 'array'}, 'It is [1] as {"a": 1} has it', 1),
         ({'type': 'object'}, 'It is [1] as {"a": 1} has it', 1),
         ({'uniqueItems': True}, '[1, 1.0]', 0), ({'uniqueItems': True}, '[1, true, "1"]', 1),
         ({'uniqueItems': True}, '[{"a": 1, "b": 2}, {"b": 2, "a": 1}]', 0), ({'const': {'a': 1}}, '{"a": 1.0}', 1),
         ({'enum': ['北京', 1]}, '"北京"', 1), ({'$defs': {'n': {'type': 'null'}}, '$ref': '#/$defs/n'}, 'null', 1),
         ({'properties': {'next': {'$ref': '#'}}, 'required': ['v']}, '{"v": 1, "next": {"v": 2}}', 1),
         ({'properties': {'next': {'$ref': '#'}}, 'required': ['v']}, '{"v": 1, "next": {}}', 0),
         ({'$schema': 'http://json-schema.org/draft-07/schema#', 'definitions': {'n': {'type': 'number'}},
           'items': {'$ref': '#/definitions/n'}}, '[1, 2.5]', 1),
         ({'$schema': 'http://json-schema.org/draft-04/schema#', 'minimum': 1, 'exclusiveMinimum': True}, '1', 0),
         ({'unevaluatedProperties': False, 'properties': {'a': {}}}, '{"b": 1}', 0), ({'format': 'date'}, '"no"', 1),
         ({'multipleOf': 0.1}, '9'*4000, 0), ({'multipleOf': 3}, '9'*4000, 1), ({'not': {}}, '1', 0)]

@pytest.mark.parametrize('schema,response,want', VALID)
def test_json_schema(schema, response, want):
    out = json_schema(response, {'schema': schema})
    assert out.value==want and bool(out.reason)==(not want)
    assert json_schema(response, {'schema': json.dumps(schema)} if isinstance(schema, dict) else {}, schema).value==want

def test_what_is_wrong_is_named():
    out = json_schema('{"name": "Ada", "age": "old"}', {'schema': PERSON})
    assert out.reason=='not valid by the schema: type'
    assert out.detail==dict(where='.age', message="'old' is not of type 'integer'")

DOUBLE = {f'd{i}': {'allOf': [{'$ref': f'#/$defs/d{i+1}'}]*2} for i in range(60)}
DEEP = {}
for _ in range(200):
    DEEP = {'items': DEEP}
WRONG = [('x', 'Expecting value'), ([], 'it is list'), (5, 'it is int'), ({'type': 'objekt'}, "schema.type: 'objekt'"),
         ({'properties': {'a': {'minimum': 'x'}}}, 'schema.properties.a.minimum'),
         ({'required': 'a'}, 'schema.required'),
         ({'items': {'pattern': '(?=a)'}}, "pattern '(?=a)'"),
         ({'patternProperties': {'(': {}}}, "patternProperties '('"),
         ({'$ref': '#'}, 'no end'), ({'$ref': '#/$defs/none'}, "$ref '#/$defs/none'"), ({'$ref': 5}, 'schema.$ref'),
         ({'properties': {'a': {'$ref': 'https://example.com/s.json'}}}, 'nothing is fetched'),
         ({'items': {'$ref': 'file:///etc/passwd'}}, 'nothing is fetched'),
         ({'$ref': '#/$defs/d0', '$defs': {**DOUBLE, 'd60': {}}}, 'no end'), (DEEP, 'nested more than 64 deep'),
         ({'patternProperties': {'a': {}}, 'unevaluatedProperties': False}, 'is not supported'),
         ({'const': float('nan')}, 'not JSON compliant'), ({'const': {1}}, 'not JSON serializable'),
         ({'$id': 'http://a/b', '$ref': 'c.json'}, 'nothing is fetched'),
         ({'city': 'string'}, 'no keyword of JSON Schema'),
         ({'name': 'x', 'schema': {'type': 'objekt'}}, 'schema.type')]

@pytest.mark.parametrize('schema,why', WRONG)
def test_wrong_schemas(schema, why):
    found = in_time(lambda: load_verifier('json-schema').problem({'schema': schema}), 10.)   # Python 3.10 takes 3 s
    assert found.startswith('metadata.schema is not a schema: ') and why in found and len(found)<400
    assert json_schema('{}', {'schema': schema}).reason==found
    if not isinstance(schema, str):
        with pytest.raises(RsrError, match='verifier.schema is not a schema'):
            load_verifier('json-schema', schema=schema)

def test_nothing_is_fetched():
    with Loopback() as server:
        for ref in (server.base_url+'/models', server.base_url+'/s.json#/a'):
            assert 'nothing is fetched' in load_verifier('json-schema').problem({'schema': {'items': {'$ref': ref}}})
        assert not server.log

LARGE = [({'items': {'enum': [*range(10_000)]}}, json.dumps([*range(30_000)])),
         ({'anyOf': [{'type': 'string'}]*1000}, json.dumps({f'k{i}':i for i in range(10_000)})),
         ({'unevaluatedProperties': False, 'properties': {'a': {}}}, json.dumps({f'k{i}':i for i in range(20_000)})),
         ({'uniqueItems': True}, json.dumps([[i] for i in range(20_000)])),
         ({'uniqueItems': True}, json.dumps([dict(a=i) for i in range(10_000)])),
         ({'patternProperties': {f'(a+)+{i}$':{} for i in range(100)}},
             json.dumps({'a'*50+str(i):1 for i in range(2000)})),
         ({'pattern': '(a+)+$'}, json.dumps('a'*N+'!')), ({'allOf': [{'pattern': '(x+x+)+y'}]*300}, json.dumps('x'*N)),
         ({'contains': {'const': -1}}, json.dumps([*range(30_000)]))]

@pytest.mark.parametrize('schema,response', LARGE)
def test_large_json(schema, response):
    out = in_time(lambda: json_schema(response, {'schema': schema}), 2.)
    assert out.value in (0., 1.) or out.reason=='too large to be checked by the schema'

def test_usual_sizes_are_checked():
    items = [dict(id=i, name=f'n{i}', tags=['a', 'b']) for i in range(2000)]
    schema = {'type': 'array', 'items': {'type': 'object', 'required': ['id', 'name'], 'properties': {
        'id': {'type': 'integer', 'minimum': 0}, 'name': {'type': 'string', 'pattern': '^n'},
        'tags': {'type': 'array', 'items': {'enum': ['a', 'b']}}}}}
    assert in_time(lambda: json_schema(json.dumps(items), {'schema': schema})).value==1.

def test_schema_file(tmp_path):
    path = tmp_path/'person.json'
    path.write_text(json.dumps(PERSON))
    v = load_verifier('json-schema', schema=str(path))
    assert v.call('{"name": "Ada"}', {}).value==1. and v.problem({})==''
    assert v.fingerprint==load_verifier('json-schema', schema=PERSON).fingerprint
    path.write_text('{"type": "array"}')
    assert v.fingerprint!=load_verifier('json-schema', schema=str(path)).fingerprint
    path.write_text('{"type": ')
    with pytest.raises(RsrError, match='person.json is not JSON'):
        load_verifier('json-schema', schema=str(path))
    with pytest.raises(RsrError, match='give a mapping or the path'):
        load_verifier('json-schema', schema=str(tmp_path/'none.json'))
    with pytest.raises(RsrError, match='verifier.schema'):
        load_verifier('json-schema', schema=str(tmp_path))
    assert load_verifier('json-schema').problem({}).startswith('no schema')

def test_only_json():
    for text, want in (('{}', 1), (' {}\n', 1), ('So: {}', 0), ('```json\n{}\n```', 0), ('{} {}', 0),
        ('<think>x</think>{}', 1)):
        assert verify('json-schema', text, {}, schema={}, only_json=True)==want

# ---- tool calls

def tool(name='weather', **schema):
    return dict(type='function', function=dict(name=name, parameters=schema))

def called(arguments=None, name='weather', id='c'):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return dict(id=id, type='function', function=dict(name=name, arguments=text))

WEATHER = tool(type='object', required=['city'], properties={
    'city': {'type': 'string'}, 'days': {'type': 'integer', 'default': 1}, 'unit': {'enum': ['C', 'F', None]},
    'at': {'anyOf': [{'$ref': '#/$defs/Place'}, {'type': 'null'}], 'default': None},
    'hours': {'type': 'array', 'items': {'type': 'number'}},
    'exact': {'type': 'boolean'}}, **{'$defs': {'Place': {'type': 'object', 'properties': {'x': {'type': 'number'}}}}})
PARIS = dict(city='Paris')

SAME_CALLS = [(PARIS, PARIS, 1), (PARIS, dict(city='Lyon'), 0), (PARIS, {}, 0), (PARIS, dict(PARIS, days=1), 1),
              (PARIS, dict(PARIS, days=2), 0), (dict(PARIS, days=2), dict(PARIS, days='2'), 1),
              (dict(PARIS, days='2'), dict(PARIS, days=2), 1), (dict(PARIS, days=2), dict(PARIS, days=2.0), 1),
              (dict(PARIS, days='two'), dict(PARIS, days=2), 0), (PARIS, dict(PARIS, unit=None), 1),
              (PARIS, dict(PARIS, unit='C'), 0), (PARIS, dict(PARIS, at=None), 1),
              (dict(PARIS, at=dict(x=1)), dict(PARIS, at=dict(x='1')), 1),
              (dict(PARIS, at=dict(x=1)), dict(PARIS, at='{"x": 1}'), 1),
              (dict(PARIS, hours=[1, 2]), dict(PARIS, hours=['1', 2.0]), 1),
              (dict(PARIS, hours=[1, 2]), dict(PARIS, hours='[1, 2]'), 1),
              (dict(PARIS, hours=[1, 2]), dict(PARIS, hours=[2, 1]), 0),
              (dict(PARIS, exact=True), dict(PARIS, exact='true'), 1),
              (dict(PARIS, exact=True), dict(PARIS, exact=1), 0), (dict(city='75'), dict(city=75), 1),
              (PARIS, dict(city=' Paris '), 1), (PARIS, dict(city='paris'), 0), (PARIS, dict(PARIS, town='x'), 0),
              (dict(city='北京'), dict(city='北京'), 1), (dict(days=2, city='Paris'), dict(city='Paris', days=2), 1),
              (PARIS, '{"city": "Paris"', 0), (PARIS, '["Paris"]', 0), (PARIS, 'null', 0), (PARIS, '{"city": NaN}', 0)]

@pytest.mark.parametrize('reference,arguments,want', SAME_CALLS)
def test_same_call(reference, arguments, want):
    out = tool_call('', {'answer': [dict(name='weather', arguments=reference)]}, [called(arguments)], [WEATHER])
    assert out.value==want and bool(out.reason)==(not want)

def test_without_tools_values_are_compared_as_they_are():
    def value(a, b):
        return tool_call('', {'answer': [dict(name='f', arguments=a)]}, [called(b, 'f')], None).value
    assert value(dict(n=2), dict(n=2.0))==1. and value(dict(n=2), dict(n='2'))==0. and value(dict(n=1),
        dict(n=True))==0.
    assert value({}, '')==1. and value(dict(n=None), {})==1. and value('{"n": 100000000000000000000}',
        dict(n=10**20+1))==0.

def test_order_number_and_share():
    a, b, c = (called(dict(city=x)) for x in ('Paris', 'Lyon', 'Nice'))
    metadata = {'tool_calls': [dict(name='weather', arguments=dict(city=x)) for x in ('Paris', 'Lyon')]}
    def value(calls, **options):
        return tool_call('', metadata, calls, [WEATHER], **options).value
    assert value([a, b])==value([b, a])==1. and value([a])==value([a, b, c])==value([a, a])==value([])==0.
    assert value([a], partial=True)==.5 and value([a, b, c], partial=True)==2/3 and value([a, a], partial=True)==.5
    assert value([], partial=True)==0. and value([c], partial=True)==0. and value([b, a], partial=True)==1.

def test_strict_and_loose():
    metadata = {'answer': [dict(name='weather', arguments=dict(city='New York', days='2'))]}
    def value(city, days, **options):
        return tool_call('', metadata, [called(dict(city=city, days=days))], [WEATHER], **options).value
    assert value('New York', '2')==1. and value('New York', '2', strict=True)==0. and value('New York', 2,
        strict=True)==1.
    assert value('new york.', 2)==0. and value('new york.', 2, loose_text=True)==1. and value('York', 2,
        loose_text=True)==0.

def test_no_call_expected():
    for none in ([], '[]', '[ ]'):
        assert verify('tool-call', 'It is sunny.', {'answer': none})==1.
        assert verify('tool-call', '', {'tool_calls': none}, tool_calls=[called(PARIS)], tools=[WEATHER])==0.
    text = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    assert tool_call(text, {'answer': []}, [], [WEATHER]).reason=='a tool call written as text'
    assert tool_call('x', {'answer': [dict(name='weather')]}, [], [WEATHER]).reason=='no tool call'

FORMS = [[dict(name='f', arguments=dict(a=1))], dict(name='f', arguments=dict(a=1)),
    [dict(name='f', arguments='{"a": 1}')],
         [dict(type='function', function=dict(name='f', arguments='{"a": 1}'))],
         '[{"name": "f", "arguments": {"a": 1}}]',
         '{"name": "f", "arguments": {"a": 1.0}}', [called(dict(a=1), 'f')]]

@pytest.mark.parametrize('given', FORMS)
@pytest.mark.parametrize('key', ['answer', 'gold_target', 'tool_calls', 'answers'])
def test_forms_of_the_reference(key, given):
    assert reference_calls({key: given})==([('f', {'a': 1})], '')

def test_xlam_has_answers_and_tools_as_text():
    row = dict(answers='[{"name": "f", "arguments": {"a": "1"}}]')
    assert tool_call('', row, [called(dict(a=1), 'f')], [tool('f', properties=dict(a=dict(type='integer')))]).value==1.

@pytest.mark.parametrize('given', ['Paris', 5, [5], [dict(arguments={})], [dict(name='')],
                         [dict(name='f', arguments='{"a":')],
                                   [dict(name='f', arguments=[1])], [dict(name=5)], ['f'], '{"a": 1}', [None], True,
                                   [dict(name='f', arguments={'a': float('nan')})]
                                   and '[{"name": "f", "arguments": {"a": NaN}}]'])
def test_wrong_references(given):
    why = load_verifier('tool-call').problem({'answer': given})
    assert 'metadata.answer' in why and 'is no list of tool calls' in why and 'or [] for no call' in why
    assert tool_call('', {'answer': given}, [], None).reason==why

def test_problems():
    assert load_verifier('tool-call').problem({})=='no ground truth'
    assert load_verifier('tool-call', check='valid').problem({})==''
    out = tool_call('', {'answer': [dict(name='wether')]}, [called(PARIS)], [WEATHER])
    assert (out.value, out.reason)==(None, "the reference calls 'wether', which the tools lack")
    v = load_verifier('tool-call')
    assert v.problem({'answer': [dict(name='wether')]}, [WEATHER])==out.reason
    assert v.problem({'answer': [dict(name='weather')]}, [WEATHER])==v.problem({'answer': [dict(name='weather')]})==''
    broken = tool(type='objekt', properties={})
    assert 'are not a schema' in load_verifier('tool-call', check='valid').problem({}, [broken])
    assert 'are not a schema' in tool_call('', {}, [called({})], [broken], check='valid').reason
    for options in (dict(check='all'), dict(partial=1), dict(strict='no'), dict(loose_text=None, partial='x')):
        with pytest.raises(RsrError, match='verifier tool-call'):
            load_verifier('tool-call', **options)

CALLS = [(called(PARIS), ''), (called(dict(PARIS, days=2)), ''), (called(dict(PARIS, days='2')), 'schema: type'),
    (called({}), 'schema: required'),
         (called(dict(PARIS, town='x')), 'schema: additionalProperties'), (called('{"city": '), 'not a JSON object'),
         (called('[]'), 'not a JSON object'), (called('', 'now'), ''), (called({}, 'wether'), 'unknown function'),
         (None, 'unknown function'),
         (dict(function=dict(name=['weather'], arguments='{}')), 'unknown function'),
         (dict(function=5), 'unknown function'),
         (dict(name='weather', arguments='{"city": "Paris"}'), ''),
         (dict(function=dict(name='weather', arguments=PARIS)), ''),
         (called('{"city":'*500+'1'+'}'*500), 'not a JSON object'), (called('{"city": "'+'x'*N+'"}'), ''),
         (called(dict(PARIS, unit=None)), ''), (called(dict(PARIS, at=dict(x='1'))), 'schema: anyOf')]

@pytest.mark.parametrize('call,why', CALLS)
def test_valid_calls(call, why):
    tools = [WEATHER, tool('now')]
    error = call_error(call, tool_schemas(tools))
    assert error.endswith(why) and bool(error)==bool(why)
    out = tool_call('', {}, [called(PARIS), call], tools, check='valid')
    assert out.value==(not why) and out.reason==(why and f'not a valid call: {error}')

XLAM = dict(name='f', parameters=dict(city=dict(type='str'), n=dict(type='List[int], optional'),
    x=dict(type='float', default=1.0),
                                      any=dict(type='Any', default='')))
BFCL = dict(name='g', parameters=dict(type='dict', required=['x'], properties=dict(
    x=dict(type='float'), t=dict(type='tuple', items=dict(type='integer')),
    o=dict(type='dict', properties=dict(a=dict(type='str'))))))

@pytest.mark.parametrize('name,arguments,want', [
    ('f', dict(city='Paris'), 1), ('f', dict(city='Paris', n=[1], x=2, any=[]), 1), ('f', {}, 0),
    ('f', dict(city=5), 0),
    ('f', dict(city='Paris', town='x'), 0), ('f', dict(city='Paris', n='1'), 0), ('g', dict(x=1), 1),
    ('g', dict(x='1'), 0),
    ('g', dict(x=1, t=[1], o=dict(a='b')), 1), ('g', dict(x=1, t=['a']), 0), ('g', dict(x=1, o=dict(a=1)), 0)])
def test_tools_as_data_sets_have_them(name, arguments, want):
    assert tool_call('', {}, [called(arguments, name)], [XLAM, BFCL], check='valid').value==want

def test_types_of_data_sets_convert_values():
    metadata = {'answer': [dict(name='g', arguments=dict(x='1.0', t='[1, 2]'))]}
    assert tool_call('', metadata, [called(dict(x=1, t=[1, 2]), 'g')], [BFCL]).value==1.

def test_valid_without_calls_or_tools():
    assert verify('tool-call', 'Sunny.', {}, check='valid')==1.
    out = tool_call('', {}, [called(PARIS)], None, check='valid')
    assert (out.value, out.reason)==(None, 'the prompt has no tools')

def test_open_schemas_take_other_arguments():
    for schema in (dict(additionalProperties=True, properties=dict(a={})),
        dict(patternProperties={'^x': {}}, properties=dict(a={})), {}):
        assert verify('tool-call', '', {}, tool_calls=[called(dict(xb=1))], tools=[tool(**schema)], check='valid')==1.
    closed = tool_schemas([tool(properties=dict(a={}))])
    assert call_error(called(dict(a=1, b=1)), closed).endswith('additionalProperties')

# ---- whole runs

def test_a_run_with_exact(here):
    data = [dict(id=f'q{i}', messages=[dict(role='user', content=f'city {i}')],
        metadata=dict(answer=['Paris', 'Paname'])) for i in range(4)]
    with Loopback(reply=lambda body: ['So the answer is **Paris**.', 'The answer is Lyon.']) as server:
        p = rsr('run', 'sft_dpo', write_jsonl('d.jsonl', data), f'sampler.base_url={server.base_url}',
            'verifier.type=exact', 'work_dir=run')
    assert p.returncode==0, p.stderr
    assert {r['messages'][1]['content'] for r in read_jsonl('run/train/sft.jsonl')}=={'So the answer is **Paris**.'}
    assert {r['rejected']['value'] for r in read_jsonl('run/train/dpo.jsonl')}=={'The answer is Lyon.'}

RUNS = [('regex', ['verifier.pattern=^So'], {}, 0, ''),
    ('f1', ['formatter.pass_threshold=0.5'], dict(answer='in Paris'), 0, ''),
        ('json-schema', ['verifier.schema=s.json'], {}, 0, ''),
        ('exact', [], dict(answer={'a': 1}), 2, 'neither text nor a number'),
        ('regex', [], {}, 2, 'no prompt of the input has a pattern that regex can use'),
        ('regex', ['verifier.pattern=(So'], {}, 2, 'missing ): (So'),
        ('regex', [], dict(pattern='(So'), 2, 'missing ): (So'), ('json-schema', [], {}, 2, 'no schema'),
        ('json-schema', ['verifier.schema=none.json'], {}, 2, 'none.json: No such file'),
        ('json-schema', [], dict(schema={'type': 'objekt'}), 2, 'schema.type'),
        ('tool-call', [], {}, 2, 'reference calls'),
        ('tool-call', [], dict(answer='x'), 2, 'no list of tool calls'),
        ('tool-call', ['verifier.check=valid'], {}, 0, '')]

@pytest.mark.parametrize('name,options,metadata,code,text', RUNS)
def test_runs(here, name, options, metadata, code, text):
    write_jsonl('s.json', [{'type': 'object', 'required': ['city']}])
    data = [dict(id=f'q{i}', messages=[dict(role='user', content=f'city {i}')], metadata=metadata) for i in range(2)]
    with Loopback(reply=lambda body: 'So {"city": "Paris"}\nAnswer: Paris') as server:
        p = rsr('run', 'sft', write_jsonl('d.jsonl', data), f'sampler.base_url={server.base_url}',
            f'verifier.type={name}', 'work_dir=run', *options)
        asked = len(server.log)
    assert p.returncode==code and 'Traceback' not in p.stderr, p.stderr
    assert text in ' '.join(p.stderr.split()) and bool(asked)==(code==0)
    if not code:
        assert len(read_jsonl('run/train/sft.jsonl'))==2

def test_a_run_with_tool_calls(here):
    call = dict(role='assistant', content=None, tool_calls=[called(PARIS)])
    data = [dict(id=f'q{i}', messages=[dict(role='user', content=f'weather {i}')], tools=[WEATHER],
                 metadata=dict(tool_calls=[dict(name='weather', arguments=dict(city=city))])) for i,
                 city in enumerate(['Paris', 'Lyon'])]
    with Loopback(reply=lambda body: dict(call)) as server:
        p = rsr('run', 'sft', write_jsonl('d.jsonl', data), f'sampler.base_url={server.base_url}',
            'verifier.type=tool-call', 'work_dir=run')
    assert p.returncode==0, p.stderr
    rows = read_jsonl('run/train/sft.jsonl')
    assert [r['messages'][0]['content'] for r in rows]==['weather 0']
    assert rows[0]['messages'][1]['role']=='function_call'

def test_majority_votes_by_exact():
    from rsr.data.types import Prompt, Rollout
    texts = ['The answer is Paris.', '**Paris**', 'Answer: paris', r'\boxed{Paris}', 'Answer: Lyon']
    out = load_verifier('majority', min_votes=3, answer='exact')
    scores = out.fn(Prompt('p', []), [Rollout(text=t) for t in texts], **out.options)
    assert [s.value for s in scores]==[1., 1., 1., 1., 0.]

def test_as_a_reward():
    reward, *_ = make_rewards('exact')
    assert reward('Where?', 'The answer is Paris.', answer='Paris')==1.
    assert reward('Where?', 'Lyon', answer=['Paris'])==0.
    reward, *_ = make_rewards('tool-call')
    completion = [dict(role='assistant', content='', tool_calls=[called(dict(PARIS, days='2'))])]
    assert reward('', completion, tools=[WEATHER], answer=[dict(name='weather', arguments=dict(PARIS, days=2))])==1.

def test_parts_are_plain_data():
    value = parse_json('{"a": [1, {"b": null}]}')
    assert json.loads(json.dumps(value))==value and schema_checker({}).is_valid(value)
