"The five pair strategies as runs: on a real server, through the command line, killed and resumed, reviewed, rewritten."
import hashlib
import json
import signal
import sqlite3
import subprocess
import time
from dataclasses import replace

import pytest
from conftest import RSR, read_jsonl, rsr, write_jsonl
from loopback import Loopback

import rsr as package
from rsr import load_run
from rsr.data.messages import turn_text
from rsr.data.store import Store
from rsr.data.types import Prompt, Rollout, RsrError, Score
from rsr.formatters.writer import make_formatters
from rsr.pairs import collect
from rsr.pairs.collect import count_pairs, join
from rsr.pairs.references import with_reference
from rsr.pairs.shortcuts import as_pair
from rsr.pairs.strategies import ChosenResponses
from rsr.run.results import pair_runs

VERIFIER = '''
import re
def score(response, metadata):
    "The number that the response gives itself."
    m = re.search(r"quality ([01]\\.\\d+)", response)
    return float(m[1]) if m else 0.0
'''

def draw(*parts):
    return int.from_bytes(hashlib.sha256('/'.join(map(str, parts)).encode()).digest()[:6], 'big')/2**48

class Model:
    "Better when cold, strong, or given a reference; rewrites when a flaw is requested. Counts requests by prompt."
    def __init__(self):
        self.n, self.bodies = {}, []
    def __call__(self, body):
        self.bodies.append(body)
        first, user = body['messages'][0], body['messages'][-1]['content']
        system = first['content'] if first['role']=='system' else ''
        out = []
        for _ in range(body.get('n') or 1):
            k = self.n[user] = self.n.get(user, -1)+1
            luck = draw(user, k, body['temperature'], body['model'])
            q = .95-.5*max(0, body['temperature']-.7)-.3*(body['model']=='weak')+.1*('warranty' in system)-.15*luck
            if 'REWRITE' in user or 'so that it has this flaw' in user:
                q = .6
            out.append(f"I'm glad you asked. You could look at page {k}. It has what you need about this. "
                       f'quality {min(1, max(0, q)):.4f}')
        return out

def questions(n):
    return [dict(id=f'q{i}', messages=[dict(role='user', content=f'question {i}')]) for i in range(n)]

@pytest.fixture
def model():
    return Model()

@pytest.fixture
def place(here, model):
    (here/'v.py').write_text(VERIFIER)
    write_jsonl('in.jsonl', questions(30))
    with Loopback(reply=model) as s:
        yield s

def options(s, *more):
    return ['data.input_path=in.jsonl', f'sampler.base_url={s.base_url}', 'sampler.model=strong',
            'verifier.type=v.py:score', 'formatter.pass_threshold=0.8',
            'work_dir=w', 'sampler.max_tokens=100', *more]

CASES = dict(temperature=[], strong_vs_weak=['pairs.weak.model=weak'],
             with_vs_without_reference=['pairs.reference=ref.txt', 'pairs.min_margin=0.05'],
             rubric_selection=['pairs.min_margin=0.05'],
             flawed=['pairs.flaws=[too_verbose]', 'pairs.flaws_file=own.yaml'])

@pytest.mark.parametrize('name', CASES)
def test_every_strategy_makes_pairs_and_a_second_run_buys_nothing(place, model, here, name):
    (here/'ref.txt').write_text('The warranty lasts two years.')
    (here/'own.yaml').write_text('too_verbose: {description: Long., prompt: REWRITE it at length.}')
    p = rsr('run', name, *options(place, *CASES[name]))
    assert p.returncode==0, p.stderr
    pairs = load_run('w').pairs()
    assert len(pairs)>=20, p.stdout
    for x in pairs:
        assert x['chosen_score']>=.8-1e-9
        assert x['margin']>=(.05 if len(CASES[name]) and 'min_margin' in CASES[name][-1] else .15)-1e-9
        assert x['chosen']!=x['rejected'] and x['strategy']==name and not x['swapped']
    assert len(read_jsonl('w/train/dpo.jsonl'))==len(pairs) and 'pairs' in rsr('stats', 'w').stdout
    bought = place.stats()['samples']
    s = load_run('w').stats()
    assert s['samples']['asked']==bought and s['pairs']['dpo']['pairs']==len(pairs)
    assert s['prompts']['by_stop_reason'].get('satisfied', 0)>=len(pairs)
    p = rsr('run', *options(place)[-2:-1], )     # rsr run work_dir=w: the run knows its recipe
    assert p.returncode==0, p.stderr
    assert place.stats()['samples']==bought
    if name=='with_vs_without_reference':
        assert {'warranty' in b['messages'][0]['content'] for b in model.bodies}=={True, False}
        # the model is to know it, not to be told
        assert 'warranty' not in (here/'w'/'train'/'dpo.jsonl').read_text()
    if name=='flawed':
        rejected = {x['flaw'] for x in pairs}
        assert rejected=={'too_verbose'} and any('REWRITE' in b['messages'][-1]['content'] for b in model.bodies)

def test_rejected_responses_are_bought_only_where_chosen_passed(place, model):
    p = rsr('run', 'temperature', *options(place, 'formatter.pass_threshold=0.93', 'sampling.max_rollouts=1'))
    assert p.returncode==0, p.stderr
    per = load_run('w').rollouts.groupby('prompt').score
    passed = set(per.max()[per.max()>=.93-1e-9].index)
    assert 0<len(passed)<30
    hot = {b['messages'][-1]['content'] for b in model.bodies if b['temperature']==1.2}
    assert hot=={f'question {i[1:]}' for i in passed}
    assert load_run('w').stats()['prompts']['by_stop_reason']['max_rollouts']>=30-len(passed)

def test_an_ordinary_run_is_the_chosen_side(place, model):
    assert rsr('run', 'sft', *options(place, 'sampler.temperature=0.3', 'sampling.step_size=1')).returncode==0
    cold = place.stats()['samples']
    p = rsr('run', 'temperature', *options(place))
    assert p.returncode==0, p.stderr
    assert sum(b['temperature']==.3
               for b in model.bodies)==len([b for b in model.bodies[:cold] if b['temperature']==.3])
    assert len(load_run('w').pairs())==30

def test_inverted_pairs_are_dropped_and_counted_or_swapped(place):
    # the wrong way round on purpose
    args = ['pairs.chosen=1.2', 'pairs.rejected=0.0', 'formatter.pass_threshold=0.5', 'pairs.min_margin=0.1']
    p = rsr('run', 'temperature', *options(place, *args, 'sampling.max_rollouts=2'))
    s = load_run('w').stats()['pairs']['dpo']
    assert p.returncode==4 and s['pairs']==0 and s['dropped']['inverted']==30
    assert not (load_run('w').path/'train'/'dpo.jsonl').exists()
    assert rsr('format', 'w', 'formatter.inverted=swap').returncode==0
    pairs = read_jsonl('w/train/dpo.jsonl')
    assert len(pairs)==30
    assert all('quality 0.9' in x['chosen']['value'] or 'quality 0.8' in x['chosen']['value'] for x in pairs)

def test_implausible_sides_are_asked_again(here):
    (here/'v.py').write_text(VERIFIER)
    write_jsonl('in.jsonl', questions(10))
    asked = {}
    def reply(body):
        user = body['messages'][-1]['content']
        if body['temperature']<1:
            return 'quality 0.9500'
        k = asked[user] = asked.get(user, -1)+1
        return ["I'm sorry, but I can't help with that.", 'and so on '*80,
                'A weaker answer. quality 0.5000'][k] if k<3 else 'quality 0.1'
    with Loopback(reply=reply) as s:
        p = rsr('run', 'temperature', *options(s))
        assert p.returncode==0, p.stderr
        assert {x['rejected'] for x in load_run('w').pairs()}=={'A weaker answer. quality 0.5000'}
        assert set(asked.values())=={2}                                     # three tries each, not one more
        p = rsr('run', 'temperature', *options(s, 'pairs.floor=0.6', 'work_dir=w2', 'sampling.max_rollouts=4'))
        assert load_run('w2').stats()['pairs']['dpo']['dropped']=={'rejected: below the floor score':10}

def test_a_rejected_side_of_another_length_is_asked_again(here):
    (here/'v.py').write_text(VERIFIER)
    write_jsonl('in.jsonl', questions(10))
    asked = {}
    def reply(body):
        user = body['messages'][-1]['content']
        if body['temperature']<1:
            return 'A good answer, in a few words. quality 0.9500'
        k = asked[user] = asked.get(user, -1)+1
        if user=='question 7':
            return 'No. quality 0.5000'
        return ['It depends on what you want, on what you have, and on many other things besides. quality 0.4000',
                'A weaker one, in a few words. quality 0.5000'][min(k, 1)]
    with Loopback(reply=reply) as s:
        p = rsr('run', 'temperature', *options(s, 'pairs.max_length_ratio=1.5', 'sampling.max_rollouts=4'))
        assert p.returncode==0, p.stderr
    run = load_run('w')
    assert {x['rejected'] for x in run.pairs()}=={'A weaker one, in a few words. quality 0.5000'}
    assert len(read_jsonl('w/train/dpo.jsonl'))==9
    # two tries each, and four where nothing fits
    assert asked.pop('question 7')==3 and set(asked.values())=={1}
    assert run.stats()['pairs']['dpo']['dropped']=={'lengths too unlike':1}
    assert run.stats()['rows']['dpo.jsonl']['without_row']=={'lengths too unlike':1}
    assert rsr('format', 'w', 'formatter.max_length_ratio=null').returncode==0
    assert len(read_jsonl('w/train/dpo.jsonl'))==10
    assert 'without_row' not in load_run('w').stats()['rows']['dpo.jsonl']

def test_flawed_by_rubric_needs_the_target_to_flip_and_the_rest_to_hold(here):
    (here/'c.py').write_text('def warm(prompt, response): return "glad" in response\n'
                             'def short(prompt, response): return len(response)<120\n'
                             'def named(prompt, response): return "page" in response\n')
    criteria = ''.join(f'- {{id: {i}, category: all, question: "?", weight: {w}, function: "c.py:{i}"}}\n'
                       for i, w in (('warm', .4), ('short', .3), ('named', .3)))
    (here/'r.yaml').write_text('name: r\npass_threshold: 0.9\ncategories: {all: 1.0}\ncriteria:\n' + criteria)
    (here/'own.yaml').write_text('cold: {description: Cold., prompt: REWRITE coldly., criteria: [warm]}\n')
    write_jsonl('in.jsonl', questions(9))
    def reply(body):
        user = body['messages'][-1]['content']
        if 'REWRITE' not in user:
            return 'I am glad to help. See page 3.'
        i = int(user.split('question ')[1].split()[0])
        # right; something else changed; not flawed
        return ['Kindly see page 3.', 'Kindly see chapter 3.', 'I am glad to help; see page 4.'][i%3]
    with Loopback(reply=reply) as s:
        p = rsr('run', 'flawed', 'data.input_path=in.jsonl', f'sampler.base_url={s.base_url}', 'work_dir=w',
                'verifier.type=rubric', 'verifier.rubric=r.yaml',
                'pairs.flaws_file=own.yaml', 'sampling.max_rollouts=1')
        assert p.returncode==0, p.stderr
    pairs = load_run('w').pairs()
    assert [x['prompt_id'] for x in pairs]==['q0', 'q3', 'q6']
    assert {x['rejected'] for x in pairs}=={'Kindly see page 3.'}
    assert load_run('w').stats()['pairs']['dpo']['dropped']=={'flaw: others changed: named':3,
                                                              'flaw: criterion did not flip':3}

@pytest.mark.parametrize('when', [10, 40])
def test_killed_and_resumed(place, model, when):
    place.set(median=.03)
    cmd = [RSR, 'run', 'temperature', *options(place, 'sampler.concurrent_requests=4')]
    p = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time()+120
    while place.stats()['samples']<when and time.time()<end:
        time.sleep(.005)
    p.send_signal(signal.SIGKILL)
    p.wait()
    kept = set(sqlite3.connect('w/run.db').execute("SELECT key, text FROM rollouts WHERE outcome='kept'"))
    assert len(kept)>=when-4
    p = rsr(*cmd[1:])
    assert p.returncode==0, p.stderr
    assert kept<=set(sqlite3.connect('w/run.db').execute("SELECT key, text FROM rollouts WHERE outcome='kept'"))
    s = load_run('w').stats()
    assert s['pairs']['dpo']['pairs']==30 and sum(s['samples']['by_outcome'].values())==s['samples']['asked']<=60+when+8

def test_a_budget_ends_it_and_says_what_is_missing(place):
    p = rsr('run', 'temperature', *options(place, 'budget.tokens=1500'))
    assert p.returncode==3 and 'stopped: budget.tokens' in p.stdout
    s = load_run('w').stats()
    assert s['prompts']['by_stop_reason'].get('budget', 0)>0 and sum(s['prompts']['by_stop_reason'].values())==30

def test_people_have_the_last_word(place):
    assert rsr('run', 'temperature', *options(place)).returncode==0
    a, b, c = load_run('w').pairs()[:3]
    st = Store('w')
    st.review(a['chosen_key'], 'reject', a['rejected_key'])
    st.review(b['chosen_key'], 'swap', b['rejected_key'])
    st.review(c['chosen_key'], 'fail')
    st.commit()
    st.close()
    got = {x['prompt_id']:x for x in load_run('w').pairs()}
    assert a['prompt_id'] not in got or got[a['prompt_id']]['rejected']!=a['rejected']
    assert (got[b['prompt_id']]['chosen'], got[b['prompt_id']]['rejected'])==(b['rejected'], b['chosen'])
    assert c['prompt_id'] not in got or got[c['prompt_id']]['chosen']!=c['chosen']

def test_two_runs_are_two_sides(place, here):
    for w, t in (('cold', .3), ('hot', 1.2)):
        assert rsr('run', 'multi_sft',
                   *options(place, f'sampler.temperature={t}', f'work_dir={w}', 'formatter.num_responses=2',
                            'sampling.max_rollouts=2')).returncode in (0, 4)   # the hot one passes nothing
    bought = place.stats()['samples']
    out = pair_runs('cold', 'hot', 'both', pass_threshold=.8)
    assert out['pairs']==len(read_jsonl('both/train/dpo.jsonl'))>=20 and place.stats()['samples']==bought
    (here/'v2.py').write_text(VERIFIER)
    assert rsr('run', 'sft',
               *options(place, 'work_dir=third', 'verifier.type=v2.py:score', 'sampling.max_rollouts=1')).returncode==0
    with pytest.raises(RsrError, match='different verifiers'):
        pair_runs('cold', 'third', 'x')

BAD = {'pairs.strategy=temprature':"Did you mean 'temperature'?", 'pairs.chosen=hot':'pairs.chosen',
       'pairs.top_k=3':'pairs.top_k', 'pairs.inverted=turn':'inverted',
       'pairs.min_margin=2':'min_margin', 'pairs.max_length_ratio=1':'max_length_ratio: 1 is not a number above 1',
       'pairs.rejected=0.3':'sampled alike', 'formatter=[{type: sft}]':'needs a formatter of type dpo'}

@pytest.mark.parametrize('bad', BAD)
def test_bad_options_say_so_before_anything_is_sampled(place, bad):
    p = rsr('run', 'temperature', *options(place, bad))
    assert p.returncode==2 and BAD[bad] in p.stderr and 'Traceback' not in p.stderr
    assert place.stats()['samples']==0

def test_another_temperature_is_another_side(place):
    assert rsr('run', 'temperature', *options(place, 'sampling.max_rollouts=1')).returncode==0
    p = rsr('run', 'temperature', *options(place, 'pairs.rejected=1.5'))
    assert p.returncode==2 and '1.2 before, 1.5 now' in p.stderr, p.stderr

def test_a_run_of_an_older_layout_is_brought_up_to_date(here, place):
    assert rsr('run', 'sft', *options(place)).returncode==0
    db = sqlite3.connect('w/run.db')
    db.executescript('DROP INDEX rollouts_of_batch; DROP TABLE batches; ALTER TABLE rollouts DROP COLUMN batch; '
                     'ALTER TABLE calls DROP COLUMN batch; ALTER TABLE rollouts DROP COLUMN source; '
                     'ALTER TABLE rollouts DROP COLUMN more; DROP TABLE reviews; PRAGMA user_version=1')
    db.close()
    p = rsr('stats', 'w')
    assert p.returncode==2 and 'rsr format w' in p.stderr
    assert rsr('format', 'w').returncode==0 and rsr('stats', 'w').returncode==0

def test_from_python(place):
    run = package.sample('in.jsonl', recipe='temperature', model='strong', base_url=place.base_url,
                         verifier='v.py:score',
                         formatter=dict(pass_threshold=.8), work_dir='py', progress=False)
    assert len(run.pairs())==30
    assert json.loads(open('py/summary/stats.json').read())['sides']['chosen']['scores']['passed']>=30

def test_sampling_goes_on_until_a_pair_is_alike_in_length(here):
    from rsr.formatters.pairing import length_ratio
    (here/'v.py').write_text('def f(response, metadata): return float(response.startswith("right"))\n')
    n = {}
    def reply(body):
        user, out = body['messages'][-1]['content'], []
        for _ in range(body.get('n') or 1):
            k = n[user] = n.get(user, -1)+1
            out.append(['wrong', 'right, at great length and with many words', 'right, again at great length',
                        'right.'][min(k, 3)])
        return out
    def go(d, **o):
        n.clear()
        with Loopback(reply=reply) as s:
            return package.sample(questions(8), dict(formatter=[dict(type='dpo', **o)]), base_url=s.base_url,
                                  verifier='v.py:f',
                                  work_dir=d, progress=False, step_size=1, max_rollouts=8)
    assert len(go('any').rollouts)==16
    run = go('alike', max_length_ratio=1.5)
    assert len(run.rollouts)==32 and run.stats()['prompts']['by_stop_reason']=={'satisfied':8}
    assert all(length_ratio(r['chosen']['value'], r['rejected']['value'])<=1.5
               for r in read_jsonl('alike/train/dpo.jsonl'))
    assert run.stats()['rows']['dpo.jsonl']['rows']==8

def test_a_writer_that_never_succeeds_is_given_up(here):
    "With the figure, after as many copies as the bound takes; a resume does not begin anew, and the option decides."
    (here/'v.py').write_text(VERIFIER)
    write_jsonl('in.jsonl', questions(260))
    copies = []
    def reply(body):
        user = body['messages'][-1]['content']
        if 'so that it has this flaw' not in user:
            return 'You could look at the first page. quality 0.9000'
        copies.append(user)
        return 'I would rather not. quality 0.5000'
    with Loopback(reply=reply) as s:
        more = ['pairs.flaws=[too_verbose,wrong_tone]', 'sampler.concurrent_requests=4', 'sampling.max_rollouts=4']
        p = rsr('run', 'flawed', *options(s, *more))
        assert p.returncode in (0, 4), p.stderr
        assert 189<=len(copies)<230 and p.stderr.count('of 189 flawed copies make a pair, so at most 2.0% do')==1
        assert 'gave_up 2' in p.stdout and 'flaw: not there: use another writer' in p.stdout
        first = len(copies)
        p = rsr('run', 'work_dir=w')
        assert len(copies)==first and 'flawed copies make a pair' in p.stderr
        p = rsr('run', 'work_dir=w', 'pairs.give_up=null')
        assert len(copies)==4*260, p.stderr

def test_one_flaw_is_given_up_and_the_other_goes_on(place, here):
    "The writer of this model can be verbose, and nothing else."
    write_jsonl('in.jsonl', questions(420))
    asked = {'too_verbose':0, 'wrong_tone':0}
    def reply(body):
        user = body['messages'][-1]['content']
        if 'so that it has this flaw' not in user:
            return "You could look at the first page. quality 0.9000"
        flaw = next(f for f in asked if f'{f}:' in user)
        asked[flaw] += 1
        long = 'You could look at the first page. That is the page that you could look at first. '
        return long*(flaw=='too_verbose')+'quality 0.5000'
    with Loopback(reply=reply) as s:
        p = rsr('run', 'flawed', *options(s, 'pairs.flaws=[too_verbose,wrong_tone]', 'sampler.concurrent_requests=4'))
        assert p.returncode==0 and p.stderr.count('make a pair, so at most')==1, p.stderr
    assert '0 of 189 copies with wrong_tone make a pair' in p.stderr and asked['wrong_tone']<210
    pairs = load_run('w').pairs()
    assert {x['flaw'] for x in pairs}=={'too_verbose'} and len(pairs)==asked['too_verbose']>200

# ---- tools, parts, thinking beside the text

CALL = dict(id='c1', type='function', function=dict(name='find', arguments='{"q": "hours"}'))
TOOLS = [dict(type='function', function=dict(name='find'))]

def ledger(path, rollouts, **prompt):
    "A ledger with one prompt; `rollouts`: (Rollout, score, side)."
    st = Store(path)
    st.add_prompts([('row 1', Prompt('a', [dict(role='user', content='Until when are you open?')], **prompt))])
    ver, (prompt, *_) = st.config_key('verifier', {}), next(iter(st.walk()))
    st.put('verifier', ver)
    sides = {}
    for i, (r, score, side) in enumerate(rollouts):
        sampler = st.config_key('sampler', dict(side=side))
        sides.setdefault(side, []).append(sampler)
        (key,) = st.ask(prompt.key, [i], 1, sampler, None, True)
        st.answer(replace(r, key=key, outcome='kept'))
        st.add_score(key, ver, Score(score))
    st.put('sides', sides)
    st.stop(prompt.key, 'max_rollouts')
    st.commit()
    return st, prompt

def of_side(st):
    return [(p, rollouts) for p, _, rollouts in st.walk(outcomes=('kept',), detail=True)]

def test_pairs_keep_tools_calls_and_thinking(tmp_path):
    st, _ = ledger(tmp_path/'r', [(Rollout('', 'Look it up.', tool_calls=[CALL]), 1., 'chosen'),
                                  (Rollout('Until nine.', 'I guess.'), 0., 'rejected')], tools=TOOLS)
    (p, rollouts), = of_side(st)
    pair = collect._as_pair(p, *rollouts, False, 'strong_vs_weak')
    assert pair['tools']==TOOLS and pair['chosen_tool_calls']==[CALL] and 'rejected_tool_calls' not in pair
    assert (pair['chosen_reasoning'], pair['rejected_reasoning'])==('Look it up.', 'I guess.')
    back = as_pair(pair)
    assert back['chosen']=='<think>\nLook it up.\n</think>\nfind({"q": "hours"})' and 'I guess' in back['rejected']

def test_a_flaw_is_put_into_a_text_only(tmp_path):
    f, = make_formatters([dict(type='dpo', strategy='flawed', pass_threshold=.8)])
    called, said = (Rollout('', tool_calls=[CALL]), 1., 'chosen'), (Rollout('Until six.'), .9, 'chosen')
    both = Rollout('Let me look.', tool_calls=[CALL]), 1., 'chosen'
    for i, (rollouts, best) in enumerate([([called], None), ([called, both], None), ([called, said], 'Until six.')]):
        st, prompt = ledger(tmp_path/str(i), rollouts, tools=TOOLS)
        chosen = ChosenResponses(st, .8, texts_only=True)
        r = chosen.find(prompt.key)
        assert (r and r.text)==best and chosen.keys()==([prompt.key] if best else [])
        reason = 'no rejected side' if best else 'flaw: the chosen response calls a tool'
        assert count_pairs(of_side(st), f)['dropped']=={reason:1}
        assert ChosenResponses(st, .8).find(prompt.key).tool_calls   # another strategy takes it
        st.close()

@pytest.mark.parametrize('role', ['system', 'developer'])
@pytest.mark.parametrize('content', ['Be brief.', [dict(type='text', text='Be brief.')]])
def test_a_reference_goes_into_the_first_turn(role, content):
    first = dict(role=role, content=content)
    user = dict(role='user', content=[dict(type='image_url', image_url=dict(url='a.png'))])
    new, *rest = with_reference([first, user], 'Two years.')
    assert new['role']==first['role'] and rest==[user] and type(new['content']) is type(first['content'])
    text = turn_text(new)
    assert text.startswith('Be brief.\n') and text.endswith('\n\nTwo years.') and 'do not mention it' in text
    (system, *same) = with_reference([user], 'Two years.')
    assert system['role']=='system' and same==[user]

def test_two_runs_join_only_where_the_tools_are_the_same(tmp_path):
    runs = [ledger(tmp_path/str(i), [(Rollout('B'), 1., 'chosen')], tools=tools)[0]
            for i, tools in enumerate([TOOLS, TOOLS, None])]
    assert len(list(join(runs[0], runs[1])))==1 and not list(join(runs[0], runs[2]))

def test_a_label_holds_for_equal_calls_only(tmp_path):
    other = {**CALL, 'function':dict(name='find', arguments='{"q":"prices"}')}
    same = {**CALL, 'id':'c9', 'function':dict(name='find', arguments='{"q":"hours"}')}
    calls = [[CALL], [other], [same], None]
    st, _ = ledger(tmp_path/'r', [(Rollout('', tool_calls=c), .5, 'chosen') for c in calls])
    keys = [r.key for _, rollouts in of_side(st) for r in rollouts]
    st.review(keys[0], 'pass', annotator='ann')
    st.commit()
    assert [st.reviews().get((k, 0)) for k in keys]==['pass', None, 'pass', None]
