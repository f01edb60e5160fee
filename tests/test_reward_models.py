"Reward models: on servers of two kinds, in the process, and what a run makes of rewards that are not in [0, 1]."
import asyncio
import json
import math
import sqlite3
from contextlib import closing
from statistics import median

import pytest
from loopback import Loopback, drawn_reward

import rsr
from rsr.data.store import Store
from rsr.data.summary_table import stats_table
from rsr.data.thresholds import quantile, spread
from rsr.data.types import RsrError
from rsr.explore.figures import FIGURES
from rsr.explore.score_figures import margins_data, score_length_data, scores_data
from rsr.explore.widget import Explorer
from rsr.quality.checklist import checklist
from rsr.quality.report import write_report
from rsr.run.execution import build, execute
from rsr.run.recipe import load_recipe
from rsr.run.reward import make_rewards, make_scorer
from rsr.sampling.engine import NeverAnswered
from rsr.sampling.errors import CallError
from rsr.sampling.providers import make_sampler
from rsr.sampling.scoring import judge_ask
from rsr.verifiers.reward_endpoints import rewards_in

PROMPT = [dict(role='user', content='2+2?')]
CONTENT = '2+2?\n\nIt is {}.'.format   # as `chat_template: none` sends it

def gather(scores):
    return asyncio.gather(*scores, return_exceptions=True)

def reward_scores(server, texts, patience=5, **options):
    "The scores, or errors, of some responses that are scored at once."
    options = dict(type='reward-model', base_url=server.base_url, model='rm', patience=patience) | options
    v, (judge,) = make_scorer(options)
    async def score_all():
        sampler = make_sampler(section='verifier', **judge)
        sampler.prepare()
        ask = judge_ask(sampler)
        try:
            return await gather(v.score(t, {}, prompt=PROMPT, ask=ask) for t in texts)
        finally:
            await sampler.close()
    return asyncio.run(score_all())

ANSWERS = [f'It is {i}.' for i in range(70)]


# ---- servers

@pytest.mark.parametrize('options', [dict(chat_template='none'), dict(chat_template='none', endpoint='pooling'),
                                     dict(endpoint='score')])
def test_a_server_of_vllm_gets_batches(options):
    with Loopback(rewards='vllm') as s:
        out = reward_scores(s, ANSWERS, **options)
        assert [x.value for x in out] == [drawn_reward(CONTENT(i)) for i in range(70)]
        assert s.stats()['requests'] == 3 and s.log[0]['body']['use_activation'] is False
        assert min(x.value for x in out) < 0 and max(x.value for x in out) > 1

def test_the_server_applies_its_template_to_one_response_a_request():
    with Loopback(rewards='vllm') as s:
        out = reward_scores(s, ANSWERS[:3])
        assert out[1].value == drawn_reward('<|user|>2+2?<|assistant|>It is 1.')
        assert s.stats()['requests'] == 3

def test_a_server_of_sglang():
    with Loopback(rewards='sglang') as s:
        out = reward_scores(s, ANSWERS, endpoint='sglang', chat_template='none')
        assert [x.value for x in out] == [drawn_reward(CONTENT(i)) for i in range(70)]
        assert s.stats()['requests'] == 3

def test_a_template_of_ones_own(tmp_path):
    file = tmp_path/'chat.jinja'
    file.write_text('{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}')
    with Loopback(rewards='vllm') as s:
        (x,) = reward_scores(s, ['4'], chat_template=str(file))
        assert x.value == drawn_reward('[user]2+2?[assistant]4')

def test_a_template_that_refuses_leaves_the_response_unscored(tmp_path):
    file = tmp_path/'chat.jinja'
    file.write_text("{{ raise_exception('no system turns') }}")
    with Loopback(rewards='vllm') as s:
        (e,) = reward_scores(s, ['4'], chat_template=str(file))
        assert isinstance(e, CallError) and 'no system turns' in str(e)

def test_a_template_cannot_reach_the_machine(tmp_path):
    file = tmp_path/'chat.jinja'
    file.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with Loopback(rewards='vllm') as s:
        (e,) = reward_scores(s, ['4'], chat_template=str(file))
        assert isinstance(e, CallError)

def test_a_response_that_is_too_long_does_not_take_its_batch_along():
    with Loopback(rewards='vllm', context_over=40) as s:
        *fine, long = reward_scores(s, ['a', 'b', 'c'*100], chat_template='none')
        assert [x.value for x in fine] == [drawn_reward(f'2+2?\n\n{t}') for t in 'ab']
        assert isinstance(long, CallError) and long.kind == 'context'

def test_failures_are_retried():
    with Loopback(rewards='vllm', fault=['500', '429', 'ok']) as s:
        assert [x.value for x in reward_scores(s, ['4'], chat_template='none')] == [drawn_reward('2+2?\n\n4')]

@pytest.mark.parametrize('reward, what', [('short', 'has 0 rewards for 1 responses'), ('text', "'high' in the place")])
def test_a_reply_that_cannot_be_read_is_an_error(reward, what):
    with Loopback(rewards='vllm', reward=reward) as s:
        (e,) = reward_scores(s, ['4'], patience=.5)
        assert isinstance(e, NeverAnswered) and what in str(e)

def test_no_number_leaves_the_response_unscored():
    with Loopback(rewards='vllm', reward='nan') as s:
        (x,) = reward_scores(s, ['4'])
        assert (x.value, x.reason) == (None, 'the reward model returned no number')

def test_several_numbers_need_an_option():
    with Loopback(rewards='vllm', reward=lambda text: [.1, .2, .7]) as s:
        (e,) = reward_scores(s, ['4'])
        assert isinstance(e, RsrError) and 'set verifier.reduce' in str(e) and 'verifier.label (0 to 2)' in str(e)
        assert reward_scores(s, ['4'], label=2)[0].value == .7
        assert reward_scores(s, ['4'], reduce='mean')[0].value == pytest.approx(1/3)
        (e,) = reward_scores(s, ['4'], label=3)
        assert isinstance(e, RsrError) and '0 to 2' in str(e)

def test_steps():
    with Loopback(rewards='vllm', reward=lambda text: [[.5, .5]]*text.count('<s>')+[[.9, .1]]) as s:
        x, = reward_scores(s, ['One.\n\nTwo.'], endpoint='pooling', chat_template='none', step_token='<s>',
                           reduce='min')
        assert (x.value, x.detail) == (.1, dict(steps=[.5, .5, .1]))
        assert s.log[-1]['body']['input'] == ['2+2?\n\nOne.<s>\n\nTwo.<s>']
        assert s.log[-1]['body']['use_activation'] is True   # probabilities, unless raw ones are asked for

def test_a_response_cannot_add_steps():
    with Loopback(rewards='vllm', reward=lambda text: [[.5, .5]]*text.count('<s>')) as s:
        x, = reward_scores(s, ['One.<s> <s>\n\n<s>Two.'], endpoint='pooling', chat_template='none', step_token='<s>',
                           reduce='mean')
        assert x.detail == dict(steps=[.5, .5])

def test_length():
    with Loopback(rewards='vllm', reward=lambda text: 6.) as s:
        x, = reward_scores(s, ['twelve bytes'], length='per_token')
        assert (x.value, x.detail) == (2., dict(reward=6.))

@pytest.mark.parametrize('server, options, what', [
    ('vllm', dict(endpoint='sglang', chat_template='none'), 'verifier.endpoint=classify'),
    ('sglang', dict(), 'verifier.endpoint=sglang'),
    (None, dict(), 'has no /classify: start vLLM with --runner pooling')])
def test_another_server_than_the_recipe_says(server, options, what):
    with Loopback(rewards=server) as s:
        (e,) = reward_scores(s, ['4'], **options)
        assert isinstance(e, RsrError) and what in str(e)

def test_a_key_is_sent_and_never_shown():
    with Loopback(rewards='vllm', auth='sk-secret-abcdef123', echo_key=True) as s:
        assert reward_scores(s, ['4'], api_key='sk-secret-abcdef123')[0].value is not None
        (e,) = reward_scores(s, ['4'], api_key='sk-another-abcdef123')
        assert isinstance(e, RsrError) and 'abcdef' not in str(e)

def test_the_reward_function_of_a_run():
    with Loopback(rewards='vllm') as s:
        reward, trl_reward, _ = make_rewards('reward-model', base_url=s.base_url, model='rm', chat_template='none')
        assert reward(PROMPT, 'It is 4.') == drawn_reward(CONTENT(4))
        assert trl_reward([PROMPT], [[dict(role='assistant', content='It is 4.')]]) == [drawn_reward(CONTENT(4))]


# ---- options

@pytest.mark.parametrize('options, what', [
    (dict(), 'set verifier.model or verifier.base_url'),
    (dict(base_url='http://localhost/v1', endpoint='rank'), 'verifier.endpoint: no choice'),
    (dict(base_url='http://localhost/v1', endpoint='sglang'), 'sglang takes plain text'),
    (dict(base_url='http://localhost/v1', endpoint='score', chat_template='none'), 'verifier.chat_template: score'),
    (dict(base_url='http://localhost/v1', chat_template='no.jinja'), 'no.jinja is not a template'),
    (dict(base_url='http://localhost/v1', reduce='max'), 'verifier.reduce: no choice'),
    (dict(base_url='http://localhost/v1', length='words'), 'verifier.length: no choice'),
    (dict(base_url='http://localhost/v1', label='yes'), "verifier.label: 'yes' is not a whole number"),
    (dict(base_url='http://localhost/v1', batch=0), 'verifier.batch: 0 is not a whole number'),
    (dict(base_url='http://localhost/v1', activation='no'), "verifier.activation: 'no' is not true or false"),
    (dict(base_url='http://localhost/v1', step_token='<s>'), 'set verifier.reduce too'),
    (dict(base_url='http://localhost/v1', steps=3), "no option 'steps'")])
def test_wrong_options_are_found_when_the_recipe_is_read(options, what):
    with pytest.raises(RsrError) as e:
        make_scorer(dict(type='reward-model', **options))
    assert what in str(e.value)


# ---- in the process

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "Folders of tiny random reward models: of responses, and of steps."
    torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
    from tokenizers import Tokenizer, models, pre_tokenizers
    words = ['<pad>', '<s>', '</s>', '<unk>', '<step>', 'It', 'is', '.', 'user', 'assistant', *map(str, range(10))]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token='<unk>'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token='<s>', eos_token='</s>', unk_token='<unk>', pad_token='<pad>',
        additional_special_tokens=['<step>'])
    tokenizer.chat_template = '<s>{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}'
    torch.manual_seed(0)
    made = {}
    for kind, labels in (('SequenceClassification', 1), ('TokenClassification', 2), ('CausalLM', 1)):
        config = transformers.LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16,
                                          num_labels=labels, num_hidden_layers=1, num_attention_heads=2,
                                          max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        made[kind] = tmp_path_factory.mktemp(kind)
        model = getattr(transformers, f'Llama{"For"+kind}')(config)
        model.save_pretrained(made[kind])
        tokenizer.save_pretrained(made[kind])
    return made

def local_scores(texts, **options):
    v, judges = make_scorer(dict(type='reward-model', **options))
    assert judges == [] and not v.needs_judge
    async def score_all():
        return await gather(v.score(t, {}, prompt=PROMPT) for t in texts)
    return asyncio.run(score_all())

def test_a_model_in_the_process(tiny):
    texts = ['It is 4.', 'It is 4. It is 4. It is 5.', '7']
    together = local_scores(texts, model=str(tiny['SequenceClassification']))
    alone = [local_scores([t], model=str(tiny['SequenceClassification']))[0] for t in texts]
    assert [x.value for x in together] == pytest.approx([x.value for x in alone], abs=1e-5)   # whatever it is padded to
    assert len({round(x.value, 6) for x in together}) == 3
    import torch
    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny['SequenceClassification'])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny['SequenceClassification']).eval()
    ids = tokenizer('<s>user 2+2? assistant It is 4. ', add_special_tokens=False, return_tensors='pt')
    with torch.no_grad():
        assert together[0].value == pytest.approx(model(input_ids=ids['input_ids']).logits.item(), abs=1e-5)

def test_probabilities_and_other_templates(tiny):
    model = str(tiny['SequenceClassification'])
    raw, = local_scores(['4'], model=model)
    share, = local_scores(['4'], model=model, activation=True)
    assert share.value == pytest.approx(1/(1+math.exp(-raw.value)))
    other, = local_scores(['4'], model=model, chat_template='none')
    assert other.value != raw.value

def test_steps_in_the_process(tiny):
    model, text = str(tiny['TokenClassification']), 'It is 4.\n\nIt is 5.\n\n6'
    found = {how: local_scores([text], model=model, step_token='<step>', reduce=how)[0]
             for how in ('min', 'mean', 'last', 'product')}
    steps = found['min'].detail['steps']
    assert len(steps) == 3 and all(0 < s < 1 for s in steps)
    assert found['min'].value == min(steps) and found['last'].value == steps[-1]
    assert found['product'].value == pytest.approx(math.prod(steps))

def test_what_the_model_cannot_read_is_unscored(tiny):
    fine, long, empty = local_scores(['4', 'It is '*100, ' '], model=str(tiny['SequenceClassification']))
    assert fine.value is not None
    assert isinstance(long, CallError) and 'the reward model takes 64' in str(long)
    assert (empty.value, empty.reason) == (None, 'no answer')

def test_a_model_without_a_reward_head_is_refused(tiny):
    folder = tiny['CausalLM']
    with pytest.raises(RsrError, match='is not a reward model but a LlamaForCausalLM'):
        make_scorer(dict(type='reward-model', model=str(folder)))
    config = folder/'config.json'
    config.write_text(config.read_text().replace('LlamaForCausalLM', 'LlamaForSequenceClassification'))
    (e,) = local_scores(['4'], model=str(folder))
    assert isinstance(e, RsrError) and 'is not a reward model: it lacks score.weight' in str(e)

@pytest.mark.parametrize('device', ['cuda:99', 'gpu'])
def test_a_device_that_is_not_there_is_found_before_the_first_request(tiny, device):
    with pytest.raises(RsrError, match=f'verifier.device: {device} cannot be used'):
        make_scorer(dict(type='reward-model', model=str(tiny['SequenceClassification']), device=device))

def test_a_step_token_of_several_tokens_is_refused(tiny):
    (e,) = local_scores(['4'], model=str(tiny['TokenClassification']), step_token='It is', reduce='min')
    assert isinstance(e, RsrError) and 'is not one token' in str(e)

def test_no_such_model(tiny, tmp_path):
    with pytest.raises(RsrError, match='verifier.model: .* cannot be used'):
        make_scorer(dict(type='reward-model', model=str(tmp_path)))

def test_verify_takes_a_model_in_the_process(tiny):
    value = rsr.verify('reward-model', 'It is 4.', prompt=PROMPT, model=str(tiny['SequenceClassification']))
    assert value == pytest.approx(local_scores(['It is 4.'], model=str(tiny['SequenceClassification']))[0].value)


# ---- runs

def run_with_rewards(tmp_path, server, recipe='sft', prompts=12, name='run', **options):
    "A run whose responses a reward model scores, with rewards between -10 and 10."
    file = tmp_path/'in.jsonl'
    rows = [dict(id=f'q{i}', messages=[dict(role='user', content=f'What is {i}+{i}?')]) for i in range(prompts)]
    file.write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
    given = {'sampler.base_url': server.base_url, 'sampler.model': 'm', 'verifier.type': 'reward-model',
             'verifier.base_url': server.base_url, 'verifier.model': 'rm', 'verifier.chat_template': 'none',
             'work_dir': str(tmp_path/name), **options}
    d = load_recipe(recipe, [*given.items(), ('data.input_path', str(file))])
    return execute(d, progress='none')

@pytest.fixture(scope='module')
def server():
    with Loopback(rewards='vllm') as s:
        yield s

def rows_of(run, name):
    return [json.loads(line) for line in (run.path/'train'/f'{name}.jsonl').read_text().splitlines()]

def scores_of(run):
    "{prompt: scores}"
    return {p: g.score.tolist() for p, g in run.rollouts.groupby('prompt')}

def test_a_run_takes_the_best_fifth_and_never_stops_early(tmp_path, server):
    run = run_with_rewards(tmp_path, server)
    scores = [s for group in scores_of(run).values() for s in group]
    assert len(scores) == 12*16 and min(scores) < -5 and max(scores) > 5
    stats = run.stats()
    limit = stats['thresholds']['sft']['pass_threshold']
    assert limit == dict(value=quantile(scores, .8), given='quantile 0.8 of the run')
    assert stats['scores']['passed'] == sum(s >= limit['value'] for s in scores) == 38   # a fifth of 192, rounded down
    assert stats['prompts']['by_stop_reason'] == dict(satisfied=12)
    assert 'pass_threshold' in stats_table(stats) and 'quantile 0.8 of the run' in stats_table(stats)
    best = {p: max(g) for p, g in scores_of(run).items()}
    assert len(rows_of(run, 'sft')) == sum(b >= limit['value'] for b in best.values())

def test_best_of_n(tmp_path, server):
    "Whatever the threshold, the row is the response with the highest reward."
    run = run_with_rewards(tmp_path, server, **{'formatter.pass_threshold': -100})
    assert run.stats()['prompts']['by_stop_reason'] == dict(satisfied=12)
    run.format(pass_threshold=dict(quantile=0))
    rows = {r['messages'][0]['content']: r['messages'][-1]['content'] for r in rows_of(run, 'sft')}
    best = run.rollouts.sort_values('score').groupby('prompt').last()
    questions = run.prompts.set_index('id')
    for id_, r in best.iterrows():
        assert r.text.strip() in rows.values(), (id_, questions)
    assert len(rows) == 12

def test_thresholds_are_resolved_whenever_files_are_written(tmp_path, server):
    run = run_with_rewards(tmp_path, server)
    groups = scores_of(run)
    run.format(pass_threshold=dict(quantile=.5, of='prompt'))
    assert len(rows_of(run, 'sft')) == 12   # every prompt has a better half
    shown = run.stats()['thresholds']['sft']['pass_threshold']
    assert shown == dict(value=median(quantile(g, .5) for g in groups.values()), given='quantile 0.5 of the prompt')
    stats = run.stats()   # each prompt by its own threshold
    assert stats['scores']['passed'] == sum(s >= quantile(g, .5) for g in groups.values() for s in g)
    assert stats['pass_rate']['pooled'] == stats['pass_rate']['plain'] == .5
    run.format(pass_threshold=7.5)
    assert len(rows_of(run, 'sft')) == sum(max(g) >= 7.5 for g in groups.values())
    assert 'thresholds' not in run.stats()
    with pytest.raises(RsrError, match='pass_threshold: .* is not a number, or'):
        run.format(pass_threshold=dict(quantile=80))

def test_pairs(tmp_path, server):
    run = run_with_rewards(tmp_path, server, 'dpo', **{'sampling.max_rollouts': 8, 'sampling.step_size': 8,
                                                       'sampling.max_steps': 1})
    groups = scores_of(run)
    limits = {k: v['value'] for k, v in run.stats()['thresholds']['dpo'].items()}
    assert limits == dict(pass_threshold=quantile([s for g in groups.values() for s in g], .8),
                          min_margin=pytest.approx(.5*spread([*groups.values()])))
    expected = sum(max(g) >= limits['pass_threshold'] and max(g)-min(g) >= limits['min_margin']
                   for g in groups.values())
    pairs = run.pairs()
    assert len(pairs) == len(rows_of(run, 'dpo')) == expected > 0
    for p in pairs:
        group = groups[p['prompt_id']]
        assert (p['chosen_score'], p['rejected_score']) == (max(group), min(group))
    run.format(rejected='near_mean', min_margin=dict(sd=2.8))
    least = run.stats()['thresholds']['dpo']['min_margin']['value']
    again = run.pairs()
    assert all(p['margin'] >= least-1e-9 for p in again)
    assert again and len(again) < len(pairs)

def test_rubric_selection(tmp_path, server):
    run = run_with_rewards(tmp_path, server, 'rubric_selection', **{'pairs.n': 5})
    groups = scores_of(run)
    assert {len(g) for g in groups.values()} == {5}
    assert run.stats()['thresholds']['dpo']['min_margin']['given'] == '0.5 standard deviations'
    assert run.pairs() and all(p['margin'] > 0 for p in run.pairs())

@pytest.mark.parametrize('recipe, name', [('kto', 'kto'), ('multi_sft', 'multi_sft'), ('grpo', 'grpo')])
def test_other_methods(tmp_path, server, recipe, name):
    run = run_with_rewards(tmp_path, server, recipe, **{'sampling.max_rollouts': 8, 'sampling.step_size': 8,
                                                        'sampling.max_steps': 1})
    rows = rows_of(run, name)
    assert rows
    if name == 'kto':
        assert {r['label'] for r in rows} == {True, False}
    if name == 'grpo':
        assert 'reward-model' in (run.path/'train'/'reward.py').read_text()

def test_a_strategy_that_needs_the_threshold_at_once_refuses_a_quantile(tmp_path, server):
    with pytest.raises(RsrError, match=r'temperature needs it while it samples; set a number'):
        run_with_rewards(tmp_path, server, 'temperature')
    run = run_with_rewards(tmp_path, server, 'temperature', name='numbers', **{
        'formatter.pass_threshold': 0, 'pairs.min_margin': 2, 'sampling.max_rollouts': 4})
    assert all(p['margin'] >= 2 for p in run.pairs())

def load_and_build(tmp_path, threshold):
    d = load_recipe('sft', [('sampler.base_url', 'http://localhost/v1'), ('formatter.pass_threshold', threshold)])
    return build(d)

def test_what_lies_outside_0_to_1_is_refused_for_other_verifiers(tmp_path, server):
    with pytest.raises(RsrError, match=r"formatter 'sft'.pass_threshold: 7 is not a number in \[0, 1\]"):
        load_and_build(tmp_path, 7)
    run = run_with_rewards(tmp_path, server)
    run.format(pass_threshold=7)   # rewards
    assert run.stats()['scores']['passed'] > 0

def test_the_calls_are_in_the_ledger_and_cost_nothing(tmp_path, server):
    price = dict(prompt=1, completion=2)
    run = run_with_rewards(tmp_path, server, **{'sampler.price': price, 'budget.usd': 1.})
    s = run.stats()
    with sqlite3.connect(run.path/'run.db') as db:
        n, kinds, tokens = db.execute('SELECT count(*), count(DISTINCT kind), sum(prompt_tokens) FROM calls').fetchone()
        assert (n, kinds) == (192, 1) and tokens > 0
    sampled = run.rollouts
    cost = (sampled.prompt_tokens.sum()*1+sampled.completion_tokens.sum()*2)/1e6
    assert s['cost'] == pytest.approx(cost) and s['tokens']['judge'] == tokens+192
    dear = run_with_rewards(tmp_path, server, name='dear', **{'sampler.price': price, 'verifier.price': price})
    assert dear.stats()['cost'] > 1.2*cost

def test_a_server_that_goes_away_leaves_rollouts_to_be_scored_later(tmp_path):
    with Loopback(rewards='vllm', reward='nan') as s:
        with pytest.raises(RsrError, match='no verdict ten times in a row.*returned no number'):
            run_with_rewards(tmp_path, s)
        s.set(reward=None)
        run = run_with_rewards(tmp_path, s)
        assert run.rollouts.score.notna().all() and s.count['samples'] == len(run.rollouts)

def test_a_reward_server_that_never_answers_is_not_a_run_that_never_did(tmp_path, server):
    with pytest.raises(RsrError, match='is its base_url right') as e:
        run_with_rewards(tmp_path, server, **{'verifier.base_url': 'http://127.0.0.1:9/v1', 'verifier.patience': .5})
    assert e.value.answered   # the responses are saved
    assert len(run_with_rewards(tmp_path, server).rollouts) == 192

def test_equal_scores_do_not_pass_along(tmp_path):
    "Nine in ten have the lowest reward: from the best fifth on, only the others pass."
    with Loopback(rewards='vllm', reward=lambda text: float(drawn_reward(text) > 8)) as s:
        run = run_with_rewards(tmp_path, s)
        scores = run.rollouts.score
        assert scores.mean() < .2 and run.stats()['scores']['passed'] == scores.sum()

def test_a_label_passes_and_fails_by_any_threshold(tmp_path, server):
    run = run_with_rewards(tmp_path, server)
    r = run.rollouts.sort_values('score')
    worst, best = int(r.key.iloc[0]), int(r.key.iloc[-1])
    with closing(Store(run.path)) as st:
        st.review(worst, 'pass', annotator='me')
        st.review(best, 'fail', annotator='me')
    after = run.rollouts.set_index('key').score
    assert after[worst] == r.score.iloc[-1] and after[best] == r.score.iloc[0]
    run.format(pass_threshold=9.)
    labelled = run.stats()['scores']['passed']
    assert labelled == (r.score >= 9).sum()   # one more, one fewer

def test_explorer_figures_and_report_follow_the_scores(tmp_path, server):
    run = run_with_rewards(tmp_path, server, 'dpo', **{'sampling.max_rollouts': 8})
    limits = {k: v['value'] for k, v in run.stats()['thresholds']['dpo'].items()}
    e = Explorer(run)
    edges = e.histogram['edges']
    assert edges[0] <= run.rollouts.score.min() and edges[-1] >= run.rollouts.score.max()
    assert sum(sum(e.histogram[k]) for k in ('failed', 'between', 'passed')) == run.rollouts.score.notna().sum()
    assert (e.pass_threshold, e.min_margin) == pytest.approx((limits['pass_threshold'], limits['min_margin']))
    assert e.counts[0]['rows'] == len(run.pairs())
    assert e.ui
    one = e.widgets['one']
    assert (one.min, one.max, one.value) == (edges[0], edges[-1], pytest.approx(limits['pass_threshold']))
    one.value = 0.
    assert e.configs[0]['pass_threshold'] == 0. and not e.message
    expected = e.counts[0]['rows']
    assert e.write()['dpo.jsonl'] == expected == len(run.pairs())
    lengths = score_length_data(run)
    assert all(low < mean < high for mean, (low, high) in zip(lengths['mean'], lengths['interval']))
    d = scores_data(run)
    assert d['edges'][0] <= run.rollouts.score.min() and sum(map(sum, d['bins'].values())) == d['n']
    assert margins_data(run)['edges'][-1] > 1
    for plot, _ in FIGURES.values():
        plot(run)
    assert write_report(run)
    items = {i['item']: i for i in checklist(run)['items']}
    assert items['DPO margins']['verdict'] == 'pass' and 'rewards' in items['DPO margins']['detail']

def test_a_stage_of_a_stack(tmp_path, server):
    stages = [dict(type='reward-model', name='taste', base_url=server.base_url, model='rm', chat_template='none')]
    d = load_recipe(dict(data=dict(input_path=str(tmp_path/'in.jsonl')), work_dir=str(tmp_path/'stack'),
                         sampler=dict(base_url=server.base_url, model='m'), sampling=dict(max_rollouts=4, step_size=4),
                         verifier=stages, formatter=[dict(type='sft')]))
    (tmp_path/'in.jsonl').write_text(json.dumps(dict(messages=PROMPT))+'\n')
    run = execute(d, progress='none')
    assert run.stats()['thresholds']['sft']['pass_threshold']['given'] == 'quantile 0.8 of the run'
    assert run.rollouts.score.min() < 0

def test_a_run_with_a_model_in_the_process(tmp_path, tiny, server):
    run = run_with_rewards(tmp_path, server, **{
        'verifier.base_url': None, 'verifier.model': str(tiny['SequenceClassification']),
        'verifier.chat_template': None})
    assert len(set(run.rollouts.score)) > 5 and run.stats()['tokens']['judge'] == 0

@pytest.mark.parametrize('row, more, want', [
    (dict(score=1e308), {}, [None]), (dict(score=10**400), {}, [None]),
    (dict(score=-1e31), {}, [None]), (dict(score=1), {}, [1.]),
    (dict(score=1, meta_info='x'), dict(usage='x'), [1.]), (dict(score=1), dict(usage=[3]), [1.])])
def test_replies_of_a_server_that_lies(row, more, want):
    assert rewards_in(dict(data=[dict(row, index=0)], **more), 1)==[(want, 0)]
