"Servers as public bug reports describe them: what an error means, and what one bad prompt may cost the others."
import json
import threading
from collections import Counter

import pytest
from conftest import read_jsonl, rows
from loopback import Loopback

from rsr import sample
from rsr.data.secrets import add_secret
from rsr.data.types import RsrError, RunBroken
from rsr.sampling.errors import CallError, call_error
from rsr.sampling.replies import parse_json, parse_reply

def go(base_url, n=40, data=None, recipe='sft', work_dir='run', **kw):
    kw = dict(step_size=1, max_rollouts=2, concurrent_requests=4)|kw
    return sample(rows(n) if data is None else data, recipe, base_url=base_url, work_dir=work_dir, progress=False, **kw)

def outcomes(run):
    return run.stats()['samples']['by_outcome']

def stops(run):
    return run.stats()['prompts']['by_stop_reason']

def error(status, message, **more):
    return status, json.dumps(dict(error=dict(message=message, **more)))

def completion(text='The answer is \\boxed{A}', n=1, finish='stop', usage=None, **message):
    message = dict(role='assistant', content=text, **message)
    choices = [dict(index=i, message=dict(message), finish_reason=finish) for i in range(n)]
    usage = usage or dict(prompt_tokens=9, completion_tokens=7)
    return dict(id='x', object='chat.completion', choices=choices, usage=usage)

def for_one(bad, prompt='prompt 4', good=None):
    "A server's `reply` that gives `bad` for one prompt (or several), and a right answer for all others."
    prompts = {prompt} if isinstance(prompt, str) else set(prompt)
    def reply(body):
        is_bad = body['messages'][-1]['content'] in prompts
        return bad if is_bad else good or completion(n=body.get('n') or 1)
    return reply

# ---- what an error means

GEMINI_429 = json.dumps([dict(error=dict(
    code=429, status='RESOURCE_EXHAUSTED',
    message='You exceeded your current quota, please check your plan and billing details. * Quota exceeded for metric: '
            'generate_content_free_tier_requests, limit: 10\nPlease retry in 1.2s.',
    details=[dict(violations=[dict(quotaId='GenerateRequestsPerMinutePerProjectPerModel-FreeTier')]),
             dict(retryDelay='1s')]))])
OPENROUTER_RAW = json.dumps(dict(error=dict(
    message='Provider returned error', code=400,
    metadata=dict(raw=json.dumps(dict(error=dict(message='Content Exists Risk', code='invalid_request_error')))))))
ECHO_422 = json.dumps(dict(detail=[dict(type='missing', loc=['body', 'x'], msg='Field required',
                                        input=dict(messages=[dict(content='What is a rate limit? Was it flagged?')]))]))

KINDS = [
    # a rate limit, whatever it advertises
    ('rate', 429, 'Rate limit reached on tokens per minute (TPM): Limit 6000. Please try again in 0.77s. '
                  'Need more tokens? Upgrade at https://console.example.com/settings/billing'),
    ('rate', 429, GEMINI_429),
    ('rate', 429, 'Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 requests per day'),
    ('rate', 429, 'Resource exhausted. Please try again later.'),
    ('rate', 400, 'ThrottlingException: Too many tokens, please wait before trying again.'),
    ('rate', 400, 'Too many requests, please slow down'),
    # a spent quota
    ('quota', 429, '{"error":{"message":"You exceeded your current quota, please check your plan and billing details.",'
                   '"type":"insufficient_quota","code":"insufficient_quota"}}'),
    ('quota', 402, 'Insufficient Balance'),
    ('quota', 400, 'Your credit balance is too low to access the API.'),
    ('quota', 400, 'Access denied, please make sure your account is in good standing. (Arrearage) overdue-payment'),
    # the content of one prompt
    ('filtered', 400, 'Content Exists Risk'),
    ('filtered', 400, OPENROUTER_RAW),
    ('filtered', 400, '{"error":{"message":"Invalid prompt: your prompt was flagged as potentially violating our usage '
                      'policy.","code":"invalid_prompt"}}'),
    ('filtered', 400, "The response was filtered due to the prompt triggering Azure OpenAI's content management "
                      'policy.'),
    ('filtered', 400, '{"error":{"code":"data_inspection_failed",'
                      '"message":"Input data may contain inappropriate content."}}'),
    ('filtered', 400, 'Output blocked by content filtering policy'),
    ('filtered', 400, 'The request was rejected because it was considered high risk'),
    ('filtered', 400, '{"error":{"code":"1301","message":"系统检测到输入或生成内容可能包含不安全或敏感内容"}}'),
    ('filtered', 400, 'input new_sensitive'),
    ('filtered', 403, '{"error":{"code":403,"message":"Input was flagged","metadata":{"reasons":["violence"]}}}'),
    ('filtered', 403, 'Content violates usage guidelines.'),
    ('filtered', 422, 'Your request was rejected as a result of our safety system.'),
    ('filtered', 451, 'Unavailable For Legal Reasons'),
    # too long
    ('context', 400, "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."),
    ('context', 400, 'The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).'),
    ('context', 400, 'Range of input length should be [1, 30720]'),
    ('context', 400, 'too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 9000.'),
    ('context', 400, 'prompt is too long: 208310 tokens > 200000 maximum'),
    ('context', 400, 'Prompt contains 40000 tokens, too large for model with 32768 maximum context length'),
    ('context', 400, "The input (9000 tokens) is longer than the model's context length (4096 tokens)."),
    ('context', 400, 'the request exceeds the available context size, try increasing it'),
    ('context', 400, '{"error":{"message":"Please reduce the length of the messages or completion.",'
                     '"code":"context_length_exceeded"}}'),
    ('context', 413, '<html><body>413 Request Entity Too Large</body></html>'),
    ('context', 413, 'Request too large for model on tokens per minute (TPM): Limit 6000, Requested 12328'),
    ('context', 500, 'exceed_context_size_error'),
    # come back later
    ('server', 400, '{"error":{"message":"Provider returned error: server is busy","code":"model_overloaded"}}'),
    *[('server', status, 'later') for status in (408, 409, 420, 423, 424, 425, 449, 460, 499)],
    *[('server', status, '<!DOCTYPE html>') for status in (500, 502, 503, 504, 507, 520, 522, 524, 529, 530, 598)],
    ('server', 204, ''),
    # the recipe, or one prompt: how many meet it decides
    ('request', 400, 'System role not supported'),
    ('request', 400, '`temperature` and `top_p` cannot both be specified for this model.'),
    ('request', 400, 'Invalid token at position 7'),
    ('request', 422, ECHO_422),
    ('request', 500, 'image input is not supported - hint: you may need to provide the mmproj'),
    ('request', 500, 'tools param requires --jinja flag'),
    # hopeless
    ('denied', 400, 'API key not valid. Please pass a valid API key.'),
    ('fatal', 401, 'Incorrect API key provided'),
    ('denied', 403, 'Country, region, or territory not supported'),
    ('denied', 404, 'The model `x` does not exist'),
    # the name of a parameter sounds like another kind
    ('request', 400, 'The guardrail identifier or version provided in the request does not exist'),
    ('request', 400, 'Unrecognized request argument supplied: moderation'),
    ('request', 400, "Unsupported parameter: 'content_filter' is not supported with this model."),
    ('request', 400, "Unknown parameter: 'moderation'."),
    ('request', 422, 'rate_limit_policy: extra fields not permitted'),
    ('request', 422, '{"detail":[{"loc":["body","billing"],"msg":"Extra inputs are not permitted: billing"}]}'),
    ('request', 400, '`top_k` is temporarily disabled'),
    ('request', 400, "service_tier: 'flex' is currently unavailable"),
    ('request', 400, "Invalid parameter: 'safety_check' must be a boolean"),
    ('request', 400, 'got an unexpected keyword argument: throttle'),
    ('filtered', 400, 'Invalid parameter: messages contain sensitive content'),
    ('request', 400, "Invalid value: 'moderation'. Supported values are: 'a' and 'b'."),
    ('filtered', 400, 'The parameter prompt is not allowed: contains sensitive content'),
    ('filtered', 400, '{"error":{"message":"Invalid prompt: we have limited access to this content for safety.",'
                      '"type":"invalid_request_error","param":"prompt","code":"invalid_prompt"}}'),
    ('filtered', 400, '{"error":{"message":"The response was filtered","type":null,"param":"prompt","status":400,'
                      '"code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}'),
    ('server', 400, 'my_model is temporarily unavailable'),
    # the limit of the answer alone
    ('request', 400, 'max_tokens exceeds the maximum number of tokens allowed'),
    ('request', 400, 'max_tokens (100000) exceeds the maximum number of tokens allowed'),
    ('request', 400, 'max_tokens is too large: 100000. This model supports at most 16384 completion tokens'),
    ('context', 400, "'max_tokens' is too large: 1000. This model's maximum context length is 4096 tokens and your "
                     'request has 4000 input tokens'),
    # links
    ('request', 400, 'Unusual value. See https://example.com/docs/guides/rate-limits'),
    ('request', 400, 'Unusual value. See /docs/guides/rate-limits or example.com/settings/billing.'),
    ('rate', 400, 'Rate limit reached, see https://example.com/docs'),
    # a quoted prompt
    ('request', 400, 'cannot render prompt: "How do I fix an invalid API key error?"'),
    ('request', 400, 'cannot render prompt: "what is billing"'),
    ('request', 400, "cannot render prompt: 'What's an invalid API key'"),
    ('request', 400, 'cannot render prompt: `is my request flagged for content`'),
    ('request', 400, 'cannot render prompt: “is the server overloaded today”'),
    ('request', 400, 'cannot render prompt: «is the server overloaded today»'),
    ('request', 400, 'cannot render prompt: "say \\"no\\" to an invalid API key"'),
    ('request', 400, 'cannot render prompt: "How do I fix an invalid API key err...'),
    ('request', 400, json.dumps(dict(error=dict(message='cannot render: "'+'long '*900+'invalid API key"')))),
    ('context', 400, "Error code: 400 - {'error': {'message': \"This model's maximum context length is 4096\"}}"),
    ('context', 400, 'litellm.BadRequestError: {"error":{"message":"This prompt is too long for us"}}'),
    ('request', 400, "Bad body: {'message': 'We do not like it', 'input': 'What is a rate limit today'}"),
    ('context', 400, '"This model\'s maximum context length is 4096 tokens"'),
    # too long, once more
    ('context', 400, 'input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000'),
    ('context', 400, 'Input Tokens Exceeded: Number of input tokens exceeds maximum length.'),
    ('context', 400, 'Invalid request: Your request exceeded model token limit: 131072 (requested: 140000)'),
    ('context', 400, "This model's maximum prompt length is 131072 but the request contains 140000 tokens."),
    ('context', 400, 'Requested input length 200000 exceeds maximum input length 163840'),
    ('context', 400, '{"error":{"code":"1261","message":"Prompt 超长"}}'),
    ('context', 400, '{"error":{"code":"1261","message":"Prompt exceeds max length"}}'),
    ('context', 422, 'Input validation error: `inputs` must have less than 4096 tokens. Given: 5000'),
    ('context', 422, 'Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193.'),
    ('context', 400, '<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]'),
    # spent, once more
    ('quota', 400, 'You have reached your specified API usage limits. You will regain access on 2026-01-01.'),
    ('quota', 400, '{"error":{"message":"Budget has been exceeded! Current cost: 10.1","type":"budget_exceeded"}}'),
    ('quota', 412, 'Account foo is suspended, possibly due to reaching the monthly spending limit.'),
    # later, once more
    ('server', 400, 'litellm.APIConnectionError: Connection error.'),
    ('server', 400, 'The model has crashed without additional information. (Exit code: 18446744072635812000)'),
    ('server', 400, '{"error":{"message":"Failed to generate JSON.","code":"json_validate_failed"}}'),
    ('server', 400, 'Bedrock is unable to process your request.'),
    ('server', 400, '<html><head><title>400 Bad Request</title></head><body><hr>nginx</body></html>'),
    # a firewall that dislikes one prompt, and one that knows another protocol
    ('request', 403, '<!DOCTYPE html><h1>Sorry, you have been blocked</h1>'),
    ('request', 400, '<html>400 The plain HTTP request was sent to HTTPS port</html>')]

@pytest.mark.parametrize('kind,status,body', KINDS)
def test_what_an_error_means(kind, status, body):
    assert call_error(status, body).kind==kind

def test_a_window_makes_a_429_a_rate_limit():
    quota = 'You exceeded your current quota, please check your plan and billing details.'
    assert call_error(429, quota, {'Retry-After':'2'}).kind=='rate'
    assert call_error(429, quota, {'retry-after-ms':'300'}).retry_after==.3
    assert call_error(429, GEMINI_429).retry_after==1.2

# ---- one prompt against the run

REFUSALS = {'content':error(400, 'Content Exists Risk', code='invalid_request_error'),
            'policy':error(400, 'Invalid prompt: your prompt was flagged', code='invalid_prompt'),
            'blocked':dict(id='x', choices=[], promptFeedback=dict(blockReason='PROHIBITED_CONTENT')),
            'long':error(400, 'Range of input length should be [1, 30720]'),
            'unknown':error(400, 'Prompt 4 does not please us', code='E-77'),
            'unknown 422':(422, '{"detail":[{"msg":"String should not match"}]}')}

@pytest.mark.parametrize('name', REFUSALS)
@pytest.mark.parametrize('prompt', ['prompt 0', 'prompt 4', 'prompt 39'])
def test_a_refused_prompt_fails_alone(here, server, name, prompt):
    server.set(reply=for_one(REFUSALS[name], prompt))
    run = go(server.base_url)
    assert len(read_jsonl('run/train/sft.jsonl'))==39 and stops(run)['satisfied']==39
    asked = Counter(e['prompt'] for e in server.log)
    assert asked[prompt]<=4
    before = len(server.log)
    go(server.base_url)                                  # a resume meets it again, and asks nothing else
    assert {e['prompt'] for e in server.log[before:]}<={prompt}

ALWAYS = [error(500, 'Internal Server Error'), dict(id='x', choices=[], usage=dict(prompt_tokens=9)),
          (200, b'<html>'), (503, 'no', {'Retry-After':'1'}), (429, 'no', {'Retry-After':'0'})]

@pytest.mark.parametrize('bad', ALWAYS)
@pytest.mark.parametrize('prompt', ['prompt 0', 'prompt 79'])
def test_a_prompt_that_always_fails_is_given_up_alone(here, server, bad, prompt):
    async def slow(body):
        import asyncio
        await asyncio.sleep(.01)
        return completion(n=body.get('n') or 1)
    reply = for_one(bad, prompt, good='slow')
    async def answer(body):
        r = reply(body)
        return await slow(body) if r=='slow' else r
    server.set(reply=answer)
    run = go(server.base_url, 80, max_retries=2, sampler=dict(patience=600))
    assert stops(run)=={'satisfied':79, 'failed':1} and run.exit_code==1
    tries = sum(e['prompt']==prompt for e in server.log)
    assert tries<=(9 if bad==(429, 'no', {'Retry-After':'0'}) else 3)              # four 429s count as one failure

def test_many_bad_prompts_do_not_take_the_slots_of_the_good(here, server):
    bad = [f'prompt {i}' for i in range(0, 60, 3)]
    server.set(reply=for_one(error(500, 'Internal Server Error'), bad), median=.01)
    run = go(server.base_url, 60, concurrent_requests=4, max_retries=3)
    assert stops(run)=={'satisfied':40, 'failed':20}
    done = [e['prompt'] for e in server.log]
    last_good = max(i for i, p in enumerate(done) if p not in bad)
    assert len(done)-1-last_good>=10, 'the good ones waited for the bad'

def test_an_outage_at_full_speed_fails_nothing(here, server):
    server.set(median=.02, rate=1.)
    def outage():
        server.set(fault='500')
        threading.Event().wait(2)
        server.set(fault=None)
    t = threading.Timer(.3, outage)
    t.start()
    run = go(server.base_url, 200, concurrent_requests=8, max_retries=4)
    t.join()
    assert stops(run)=={'satisfied':200} and set(outcomes(run))=={'kept'}

WALLS = {'firewall':(403, '<html>Sorry, you have been blocked</html>'), 'other firewall':(405, '<html>blocked</html>'),
         'gateway':error(404, 'No endpoints found that support this'), 'redirect':(302, 'x', {'Location':'/login'}),
         'long line':(431, 'x'), 'error in a reply':dict(error=dict(code=403, message='blocked')),
         'quoted key':error(400, 'cannot read this: no api key is in the template'), 'credits':error(402, 'credits')}

# a spent quota before any answer stops the run
PLACES = [(name, f'prompt {i}') for name in WALLS for i in (0, 20) if (name, i)!=('credits', 0)]

@pytest.mark.parametrize('name,prompt', PLACES)
def test_one_prompt_behind_a_wall_fails_alone(here, server, name, prompt):
    server.set(reply=for_one(WALLS[name], prompt))
    run = go(server.base_url, concurrent_requests=2, max_retries=2)
    assert stops(run)=={'satisfied':39, 'failed':1}
    before = len(server.log)
    go(server.base_url, concurrent_requests=2, max_retries=2) if name!='credits' else None
    assert len(server.log)-before<=4

@pytest.mark.parametrize('wall', ['firewall', 'gateway'])
def test_a_wall_before_all_prompts_stops_the_run(here, server, wall):
    server.set(reply=lambda body: WALLS[wall])
    with pytest.raises(RunBroken, match='refused'):
        go(server.base_url)
    assert len(server.log)<=8

def test_a_judge_that_refuses_all_is_said(here, server):
    with Loopback() as judge:
        judge.set(fault='404')
        server.set(rate=1.)
        with pytest.raises(RunBroken, match='refused the request.*does not exist'):
            go(server.base_url, 2, verifier=dict(type='mcq-llm-as-judge', model='judg', base_url=judge.base_url))

def test_a_wall_in_mid_run_stops_it_after_fifty(here, server):
    server.set(reply=for_one(WALLS['gateway'], [f'prompt {i}' for i in range(20, 200)]))
    with pytest.raises(RunBroken, match='No endpoints'):
        go(server.base_url, 200)
    assert len(server.log)<90

def broken_for(server, prompt, how):
    "Let a server break off its answer to one prompt."
    handle = server.chat
    def chat(conn, entry):
        if entry['body']['messages'][-1]['content']==prompt:
            server.log[-1]['prompt'] = prompt
            conn.transport.write(how)
            conn.transport.close()
        else:
            handle(conn, entry)
    server.chat = chat

@pytest.mark.parametrize('how', [b'', b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"choi', b'nonsense\r\n\r\n',
                                 b'HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n{}'])
def test_a_prompt_whose_connection_breaks_fails_alone(here, server, how):
    server.set(rate=1.)
    broken_for(server, 'prompt 7', how)
    run = go(server.base_url, 20, max_retries=2)
    assert stops(run)=={'satisfied':19, 'failed':1}

@pytest.mark.parametrize('after', ['30', '7200'])
def test_a_first_prompt_that_is_told_to_wait_holds_nobody_up(here, server, after):
    seen = Counter()
    def reply(body):
        prompt = body['messages'][-1]['content']
        seen[prompt] += 1
        held = prompt=='prompt 0' and seen['prompt 59']==0 and seen[prompt]<3
        return (429, 'later', {'Retry-After':after}) if held else completion(n=body.get('n') or 1)
    server.set(reply=reply)
    run = go(server.base_url, 60, sampler=dict(patience=20), max_retries=2)
    assert stops(run)['satisfied']>=59
    asked = [e['prompt'] for e in server.log]
    assert asked.index('prompt 59')<asked.index('prompt 0', 1)

def test_bad_prompts_in_front_of_the_good(here, server):
    server.set(reply=for_one(error(500, 'Internal Server Error'), [f'prompt {i}' for i in range(12)]))
    run = go(server.base_url, 40, max_retries=2)
    assert stops(run)=={'satisfied':28, 'failed':12}

# ---- the recipe against all prompts

@pytest.mark.parametrize('slots', [1, 4, 50])
@pytest.mark.parametrize('n', [2, 40])
def test_a_recipe_that_is_refused_stops_with_the_providers_words(here, server, slots, n):
    server.set(reply=lambda body: error(400, f"Unsupported value in {body['messages'][-1]['content']!r}: temperature"))
    with pytest.raises(RunBroken, match='Unsupported value'):
        go(server.base_url, n, concurrent_requests=slots)
    assert len(server.log)<=max(8, 2*slots)
    server.reset(reply=None, rate=1.)                    # nothing was answered: another recipe may have the directory
    assert stops(go(server.base_url, n, temperature=1.))=={'satisfied':n}

def test_refusals_after_an_answer_never_stop_the_run(here, server):
    server.set(reply=for_one(error(400, 'we do not like it'), [f'prompt {i}' for i in range(1, 40)]))
    run = go(server.base_url, concurrent_requests=1)
    assert stops(run)=={'satisfied':1, 'failed':39} and run.exit_code==1

def test_a_resumed_run_knows_that_its_recipe_was_answered(here, server):
    server.set(reply=for_one(error(400, 'we do not like it'), [f'prompt {i}' for i in range(1, 31)]))
    go(server.base_url, 40, concurrent_requests=1)
    run = go(server.base_url, 40)                        # only the refused ones are left: they are no proof
    assert stops(run)=={'satisfied':10, 'failed':30}

def test_a_wrong_key_stops_at_once(here, server):
    server.set(reply=for_one((401, 'no'), [f'prompt {i}' for i in range(3, 40)]))
    with pytest.raises(RunBroken, match='401'):
        go(server.base_url)

# ---- quotas

QUOTA = error(429, 'You exceeded your current quota, please check your plan and billing.', code='insufficient_quota')

def test_a_spent_quota_stops_before_any_answer(here, server):
    server.set(reply=lambda body: QUOTA)
    with pytest.raises(RunBroken, match='current quota'):
        go(server.base_url)
    assert len(server.log)<=4

def test_words_of_a_quota_beside_answers_are_a_rate_limit(here, server):
    seen = Counter()
    def reply(body):
        prompt = body['messages'][-1]['content']
        seen[prompt] += 1
        return QUOTA if prompt=='prompt 7' and seen[prompt]<3 else completion()
    server.set(reply=reply)
    assert stops(go(server.base_url))=={'satisfied':40}

def test_a_wait_beyond_the_patience_is_said(here, server):
    server.set(reply=lambda body: (429, 'free-models-per-day', {'Retry-After':'7200'}))
    with pytest.raises(RunBroken, match='asks to wait 7,200 s, longer than sampler.patience'):
        go(server.base_url)

# ---- what is not an answer

@pytest.mark.parametrize('finish', ['abort', 'error', 'unknown', 'load', 'OTHER', 'insufficient_system_resource',
                                    'network_error'])
def test_half_an_answer_never_reaches_a_file(here, server, finish):
    server.set(reply=lambda body: completion('It is four: \\boxed{A', finish=finish))
    run = go(server.base_url, 2)
    assert run.exit_code==1 and set(outcomes(run))=={'failed'} and not (here/'run/train/sft.jsonl').exists()
    assert any(finish in e for e in run.stats()['samples']['errors'])

@pytest.mark.parametrize('finish', ['stop', 'eos', 'eos_token', 'end_turn', 'STOP', 'stop_sequence', 'COMPLETE', None,
                                    '', 'FINISH_REASON_STOP', 'tool_calls', ' ', 1, '1', 'normal', 'endoftext',
                                    'end_of_text', 'eosFound', 'eos_found', 'stopStringFound', 'StopReason.STOP',
                                    'FinishReason.STOP', 'CompletionsFinishReason.STOPPED', '<|im_end|>'])
def test_whole_answers_are_kept(finish):
    assert parse_reply(completion(finish=finish))[0].outcome=='kept'

@pytest.mark.parametrize('finish,outcome', [
    ('length', 'truncated'), ('MAX_TOKENS', 'truncated'), ('model_length', 'truncated'),
    ('max_output_tokens', 'truncated'), ('model_context_window_exceeded', 'truncated'), ('SAFETY', 'filtered'),
    ('RECITATION', 'filtered'), ('content_filtered', 'filtered'), ('PROHIBITED_CONTENT', 'filtered'),
    ('refusal', 'filtered'), ('sensitive', 'filtered'), (2, 'truncated'), ('2', 'truncated'), (3, 'filtered'),
    ('4', 'filtered'), ('max_output', 'truncated'), ('contextLengthReached', 'truncated'),
    ('context_length_exceeded', 'truncated'), ('maxPredictedTokensReached', 'truncated'),
    ('max_total_tokens', 'truncated'), ('FinishReason.MAX_TOKENS', 'truncated'), ('MODEL_ARMOR', 'filtered'),
    ('-1', 'failed'), ('???', 'failed'), ('\ufffd', 'failed'), (0, 'failed'), ('5', 'failed'), (-1, 'failed'),
    ('userStopped', 'failed'), ('modelUnloaded', 'failed'), ('FINISH_REASON_UNSPECIFIED', 'failed')])
def test_cut_and_blocked_answers(finish, outcome):
    assert parse_reply(completion('It is', finish=finish))[0].outcome==outcome

@pytest.mark.parametrize('finish', ['???', '2', 7])
def test_a_reason_without_letters_is_no_missing_one(finish):
    rollout = parse_reply(completion(finish=finish), max_tokens=100)[0]
    assert rollout.outcome!='kept' and rollout.finish_reason==str(finish)

def test_a_stored_finish_reason_is_short_and_masked():
    add_secret('sk-echoed-by-the-server')
    finish = 'aborted\n for  key sk-echoed-by-the-server '+'and so on '*500
    rollout = parse_reply(completion(finish=finish))[0]
    assert 'echoed' not in rollout.finish_reason+rollout.error and rollout.finish_reason.startswith('aborted for key ')
    assert len(rollout.finish_reason)<=60 and len(rollout.error)<200

@pytest.mark.parametrize('bad', [None, {}, 7, dict(message=None), dict(message=7), dict(finish_reason='stop'),
                                 dict(message=dict(content='4'), finish_reason=['stop'])])
def test_a_malformed_choice_leaves_the_others(bad):
    reply = completion(n=2)
    for at in 0, 1, 2:
        choices = [*reply['choices'][:at], bad, *reply['choices'][at:]]
        assert sorted(r.outcome for r in parse_reply({**reply, 'choices':choices}))==['failed', 'kept', 'kept']
    with pytest.raises(CallError, match='unknown form'):
        parse_reply({**reply, 'choices':[bad, bad]})

BARE = [('quota', dict(base_resp=dict(status_code=1008, status_msg='insufficient balance'), choices=None)),
        ('filtered', dict(base_resp=dict(status_code=1026, status_msg='input new_sensitive'))),
        ('context', dict(object='error', message='maximum context length is 9', type='BadRequestError', code=400)),
        ('filtered', dict(code='DataInspectionFailed', message='Input data may contain inappropriate content.')),
        ('server', dict(detail='Something is wrong')), ('server', dict(detail=[dict(msg='Field required')])),
        ('fatal', dict(success=False, code=401, msg='Who are you?')),
        ('server', dict(errors=[dict(message='Not now')])),
        ('malformed', dict(base_resp=dict(status_code=0, status_msg='success'), choices=[])),
        ('malformed', dict(message=dict(content='hi'), done=True))]

@pytest.mark.parametrize('kind,reply', BARE)
def test_an_error_in_another_form_keeps_its_words(kind, reply):
    with pytest.raises(CallError) as caught:
        parse_reply(reply)
    assert caught.value.kind==kind
    words = {'insufficient balance', 'new_sensitive', 'maximum context', 'inappropriate', 'wrong', 'Field required',
             'Who are you', 'Not now', 'no choices'}
    assert any(w in str(caught.value) for w in words)

def test_one_broken_choice_leaves_the_others(here, server):
    def reply(body):
        out = completion(n=body.get('n') or 1)
        out['choices'][0] |= dict(finish_reason='error', error=dict(code=502, message='Upstream error'))
        out['choices'][0]['message']['content'] = 'It is the'
        return out
    server.set(reply=reply)
    run = go(server.base_url, 3, recipe='dpo', step_size=2, max_rollouts=4)
    got = run.rollouts.groupby('outcome').text.agg(set)
    assert got['failed']=={'It is the'} and 'It is the' not in got['kept']

# ---- malformed replies

def spoiled():
    "Replies that are wrong in one place: (name, body)."
    odd = {'list':[1], 'object':{'a':1}, 'number':7, 'true':True, 'text':'x', 'null':None}
    whole = completion()
    for name, value in odd.items():
        yield f'reply is {name}', value
        yield f'choices are {name}', {**whole, 'choices':value}
        yield f'choice is {name}', {**whole, 'choices':[value]}
        yield f'message is {name}', {**whole, 'choices':[{'message':value, 'finish_reason':'stop'}]}
        if name not in ('text', 'null', 'list'):
            yield f'content is {name}', {**whole, 'choices':[{'message':{'content':value}, 'finish_reason':'stop'}]}
        if name not in ('text', 'null'):
            yield f'finish_reason is {name}', {**whole, 'choices':[{'message':{'content':'4'}, 'finish_reason':value}]}
        if name!='null':
            yield f'error is {name}', {'error':value}
            yield f'error message is {name}', {'error':{'message':value, 'code':value}}

SPOILED = [(name, json.dumps(body)) for name, body in spoiled()]
SPOILED += [('nested lists', '['*100_000), ('nested objects', '{"choices":'*50_000), ('a lone surrogate in an error',
            '{"error":{"message":"half \\ud83d of it","code":"\\udc00"}}'), ('a lone surrogate in a choice error',
            '{"choices":[{"message":{"content":""},"finish_reason":"error","error":{"message":"\\ud83d"}}]}'),
            ('nothing', ''), ('blank lines', '\n\n\n'), ('HTML', '<html></html>'),
            ('half', json.dumps(completion())[:40])]

@pytest.mark.parametrize('name,body', SPOILED, ids=[name for name, _ in SPOILED])
def test_a_malformed_reply_is_a_call_error(name, body):
    try:
        rollouts = parse_reply(parse_json(body.encode()))
    except CallError as e:
        assert e.kind in ('malformed', 'server', 'rate') and str(e).encode()
    else:
        assert {r.outcome for r in rollouts}<={'empty', 'failed'}

def test_malformed_replies_end_no_run(here, server):
    seen = Counter()
    def reply(body):
        prompt = body['messages'][-1]['content']
        seen[prompt] += 1
        return (200, SPOILED[int(prompt.split()[1])][1].encode()) if seen[prompt]==1 else completion()
    server.set(reply=reply)
    run = go(server.base_url, len(SPOILED), max_rollouts=4, concurrent_requests=16)
    assert stops(run)=={'satisfied':len(SPOILED)}

COUNTS = ['7', 7.5, '7.5', None, [7], {'a':1}, float('nan'), float('inf'), -7, 10**30, '1e400', True, 'many']

@pytest.mark.parametrize('count', COUNTS)
def test_odd_counts_lose_no_answer(here, server, count):
    body = json.dumps(completion(usage=dict(prompt_tokens=count, completion_tokens=count))).replace('Infinity', '1e400')
    server.set(reply=lambda _: (200, body.encode()))
    run = go(server.base_url, 3)
    assert stops(run)=={'satisfied':3} and len(server.log)==3
    assert all(isinstance(n, int) and n>=0 for n in run.rollouts.completion_tokens.tolist())

@pytest.mark.parametrize('usage', [[1], 'x', 7, True])
def test_odd_usage_loses_no_answer(usage):
    assert parse_reply(completion(usage=usage))[0].outcome=='kept'

def test_a_typo_in_the_models_name_does_not_burn_the_directory(here, server):
    server.set(fault='404')
    with pytest.raises((RunBroken, RsrError), match='404|does not exist'):
        go(server.base_url, 5, sampler=dict(model='loopbak'))
    server.set(fault=None, rate=1.)
    assert stops(go(server.base_url, 5, sampler=dict(model='loopback-1')))=={'satisfied':5}
