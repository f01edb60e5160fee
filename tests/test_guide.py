"The decision guide: every leaf of the tree, what is said where no leaf is reached, the tables, the widget."
import itertools
import re
from pathlib import Path

import pytest

from rsr.data.types import RsrError
from rsr.quality.method_guide import (
    GOALS,
    QUESTIONS,
    Guide,
    advice_html,
    choose_method,
    methods_table,
    methods_text,
    recipes_table,
    typical_volume,
)
from rsr.run.overrides import recipe_names
from rsr.run.recipe import load_recipe

LEAVES = [   # answers, method, order of training, recipe
    (dict(goal='new capability'), 'sft', ['sft'], 'sft'),
    (dict(goal='format', has_capability=False), 'sft', ['sft'], 'sft'),
    (dict(goal='Style '), 'sft', ['sft'], 'sft'),
    (dict(goal='new capability', pairs=True), 'sft', ['sft', 'dpo'], 'sft_dpo'),
    (dict(goal='new capability', labels=True), 'sft', ['sft', 'kto'], 'sft'),
    (dict(goal='new capability', online=True), 'sft', ['sft', 'grpo'], 'sft'),
    (dict(goal='quality', pairs=True), 'dpo', ['dpo'], 'dpo'),
    (dict(goal='quality', pairs=True, labels=True, online=False, has_capability=True), 'dpo', ['dpo'], 'dpo'),
    (dict(goal='quality', pairs=True, has_capability=False), 'dpo', ['sft', 'dpo'], 'sft_dpo'),
    (dict(goal='quality', pairs=False, labels=True), 'kto', ['kto'], 'kto'),
    (dict(goal='quality', pairs=False, labels=True, has_capability=False), 'kto', ['sft', 'kto'], 'sft'),
    (dict(goal='quality', online=True), 'grpo', ['grpo'], 'grpo'),
    (dict(goal='online'), 'grpo', ['grpo'], 'grpo'),
    (dict(online=True, has_capability=True), 'grpo', ['grpo'], 'grpo'),
    (dict(goal='online learning', has_capability=False), 'grpo', ['sft', 'grpo'], 'sft'),
    (dict(goal='diversity'), 'multi_sft', ['multi_sft'], 'multi_sft'),
    (dict(goal='reranking', pairs=True), 'multi_sft', ['multi_sft'], 'multi_sft')]

@pytest.mark.parametrize('answers, method, stages, recipe', LEAVES)
def test_leaves(answers, method, stages, recipe):
    a = choose_method(**answers)
    assert (a.method, a.stages, a.recipe, a.question) == (method, stages, recipe, None)
    assert a.why and a.title and a.data_format.startswith('{') and a.volume and a.threshold and a.risk and a.also_serves
    assert a.recipe in recipe_names()
    assert method in [f['type'] for f in load_recipe(recipe)['formatter']] or stages[0] == recipe

OPEN = [   # answers, the question that decides, between what
    (dict(), 'goal', {'sft', 'dpo', 'kto', 'grpo', 'multi_sft'}),
        (dict(pairs=True), 'goal', {'sft', 'dpo', 'kto', 'grpo', 'multi_sft'}),
    (dict(has_capability=False), 'goal', {'sft', 'multi_sft'}), (dict(goal='quality'), 'pairs', {'dpo', 'kto'}),
        (dict(goal='quality', labels=True), 'pairs', {'dpo', 'kto'}),
    (dict(goal='quality', pairs=False), 'labels', {'kto', 'grpo'}),
        (dict(goal='quality', pairs=False, online=False), 'labels', {'kto'}),
    (dict(goal='quality', pairs=False, labels=False), 'online', {'grpo'}),
        (dict(goal='quality', pairs=False, labels=False, online=False), 'labels', {'kto', 'dpo', 'grpo'}),
    (dict(goal='quality', pairs=True, online=True), 'online', {'dpo', 'grpo'}),
        (dict(goal='online', online=False), 'online', {'grpo', 'dpo', 'kto'}),
    (dict(goal='new capability', has_capability=True), 'has_capability', {'sft', 'dpo', 'kto', 'grpo'})]

@pytest.mark.parametrize('answers, question, candidates', OPEN)
def test_no_leaf_names_the_question_that_decides(answers, question, candidates):
    a = choose_method(**answers)
    assert (a.method, a.question, set(a.candidates)) == (None, question, candidates)
    assert a.why and QUESTIONS[question] in str(a)

def test_every_combination_of_answers_gives_advice_or_a_question():
    n = 0
    for goal, *rest in itertools.product([None, *GOALS], *[(None, True, False)]*4):
        a = choose_method(goal, *rest)
        assert bool(a.method) != bool(a.question) and a.why
        assert str(a) and advice_html(a)
        if rest[3] is False and a.method in ('dpo', 'kto', 'grpo'):
            assert a.stages[0] == 'sft' and any('basic capability' in w for w in a.warnings)
        if rest[3] is True:
            assert not a.warnings or a.method == 'sft'
        n += 1
    assert n == 81*(1+len(GOALS))

def test_warns_of_beginning_with_a_method_that_refines():
    for kw in (dict(goal='quality', pairs=True), dict(goal='online'), dict(goal='quality', pairs=False, labels=True)):
        assert 'basic capability' in choose_method(**kw).warnings[0]                      # not said: look first
        assert "don't teach from scratch" in choose_method(**kw, has_capability=False).warnings[0]
        assert not choose_method(**kw, has_capability=True).warnings
    assert choose_method('quality', has_capability=False).warnings

def test_what_else_a_file_serves():
    assert any('ORPO' in s for s in choose_method('quality', pairs=True).also_serves)
    assert any('reranking' in s for s in choose_method('diversity').also_serves)

@pytest.mark.parametrize('kw, words',
                         [(dict(goal='qualty'), "Did you mean 'quality'"),
                          (dict(goal='quality', pairs='yes'), "pairs: 'yes' is not true, false or null"),
                                       (dict(gaol='quality'), "no question 'gaol'. Did you mean 'goal'")])
def test_wrong_answers(kw, words):
    with pytest.raises(RsrError, match=re.escape(words)):
        methods_text(**kw)

METHODS = '''| Aspect | SFT | DPO | KTO | GRPO |
| --- | --- | --- | --- | --- |
| Data needed | (prompt, response) | (prompt, chosen, rejected) | (prompt, response, label) | (prompt) + reward |
| Data volume | 1K-5K | 1K-3K | 2K-5K | 5K-20K |
| Complexity | Low | Medium | Low | High |
| Best for | New capabilities | Quality refinement | Binary feedback | Online learning |
| Compute | Low | Low | Low | High |
| Risk | Overfitting | Pair quality | Label noise | Reward hacking |'''
RECIPES = '''| Recipe | Goal | Early Stop | Typical Budget |
| --- | --- | --- | --- |
| SFT | 1 best correct | ≥1 pass | 16 samples |
| DPO | 1 pass + 1 fail | ≥1 pass AND ≥1 fail | 32 samples |
| Multi-SFT | N unique correct | ≥N unique pass | 64 samples |'''

def test_tables_word_for_word():
    assert methods_table('markdown') == METHODS and recipes_table('markdown') == RECIPES
    assert methods_table().loc['Data volume', 'KTO'] == '2K-5K'
    assert list(recipes_table().columns) == ['Goal', 'Early Stop', 'Typical Budget']
    for cell in METHODS.replace('|', '\n').split('\n'):
        if cell.strip(' -'):
            assert cell.strip() in methods_text()
    with pytest.raises(RsrError, match='html'):
        methods_table('html')

def test_tables_agree_with_the_rest():
    "The budgets of the recipe table are what the shipped recipes spend, the volumes what the advice says."
    for name, row in recipes_table().iterrows():
        recipe = load_recipe(name.lower().replace('-', '_'))
        assert recipe['sampling']['max_rollouts'] == int(row['Typical Budget'].split()[0])
    for m in ('sft', 'dpo', 'kto', 'grpo'):
        lo, hi = typical_volume(m)
        a = next(choose_method(**kw) for kw, method, *_ in LEAVES if method == m)
        assert a.volume.startswith(f'{lo//1000}K-{hi//1000}K') and a.risk == methods_table().loc['Risk', m.upper()]

def test_tables_are_package_data():
    import rsr
    names = {p.name for p in (Path(rsr.__file__).parent/'shipped'/'tables').glob('*.yaml')}
    assert names >= {'methods.yaml', 'recipes.yaml', 'advice.yaml'}

def test_widget_follows_the_tree():
    g = Guide()
    shown = lambda: {k for k, line in g.lines.items() if line.layout.display != 'none'}
    assert g.advice.question == 'goal' and not shown()
    g.goal.value = 'quality'
    assert g.advice.question == 'pairs' and shown() == {'has_capability', 'pairs', 'labels', 'online'}
    g.answers['pairs'].value = True
    assert g.advice.method == 'dpo' and 'DPO' in g.said.value
    g.answers['has_capability'].value = False
    assert g.advice.stages == ['sft', 'dpo'] and 'teach from scratch' in g.said.value
    g.goal.value = 'online'
    assert g.advice.method == 'grpo' and shown() == {'has_capability'}
    g.answers['has_capability'].value = None
    g.goal.value = 'new capability'                    # what was answered on another branch does not count here
    assert g.advice.method == 'sft' and g.advice.stages == ['sft'] and '<script' not in g.said.value
