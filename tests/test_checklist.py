"The checklist: clean runs of every method pass, and a planted defect moves its own item and no other."
import json
import random
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import read_jsonl, rows, write_jsonl
from loopback import Loopback

from rsr.cli.entry import main
from rsr.data.files import dumps
from rsr.data.statistics import change_verdict, compare_rates, rate_difference
from rsr.data.store import Store
from rsr.data.thinking import thinking_marks
from rsr.data.types import Prompt, Rollout, RsrError, Score
from rsr.data.verdict_cache import VerdictCache
from rsr.formatters.writer import make_formatters
from rsr.pairs.shortcuts import length_auc
from rsr.quality.check_items import ITEMS, CheckContext, pass_rate_stable
from rsr.quality.checklist import checklist, checklist_options, checklist_table
from rsr.quality.hygiene import repeats
from rsr.rubric.criteria import load_rubric
from rsr.rubric.evaluate import RubricVerifier
from rsr.rubric.verdicts import verdict_key
from rsr.run.execution import build, close_run
from rsr.run.recipe import load_recipe
from rsr.run.results import Run
from rsr.run.saved_recipe import save_recipe

WORDS = ('river stone market letter winter garden engine harbour signal copper window teacher forest '
         'number paper circle island bottle summer travel history morning planet village kitchen doctor '
         'pencil bridge candle mirror pocket ticket shadow carpet museum').split()

def make(path, recipe='dpo', n=1500, options=(), chance=lambda i: .6, seed=0, samples=4, taxonomy=None,
         scores=(0., 1.), answer=lambda i: 'ABCD'[i%4], scorer=None):
    "A run as if it had been sampled: every prompt has `samples` blind rollouts, of which `chance` pass."
    rng = random.Random(seed)
    words = lambda lo, hi: ' '.join(rng.choices(WORDS, k=rng.randint(lo, hi)))
    d = load_recipe(recipe, [f'work_dir={path}', 'split.eval=0.1', *options])
    scorer, st = scorer or build(d)['verifier'].config, Store(path)
    meta = lambda i: dict(answer=answer(i), **({'taxonomy':taxonomy(i)} if taxonomy else {}))
    st.add_prompts((f'row {i}', Prompt(f'q{i}', [dict(role='user', content=f'{words(14, 18)}: A, B, C or D?')],
                                       meta(i))) for i in range(n))
    smp, ver = st.config_key('sampler', dict(model='demo')), st.config_key('verifier', scorer)
    st.put('verifier', ver)
    for i, (q, *_) in enumerate(list(st.walk())):
        x, passes = rng.betavariate(8*chance(i), 8*(1-chance(i))), 0
        for k in st.ask(q.key, range(samples), 1, smp, 256, True):
            ok = rng.random()<x
            letter = answer(i) if ok else rng.choice([c for c in 'ABCD' if c!=answer(i)])
            st.answer(Rollout(f'{words(15, 30)}. The answer is {letter}.', finish_reason='stop', outcome='kept',
                              prompt_tokens=40, completion_tokens=60, key=k))
            st.add_score(k, ver, Score(scores[ok]))
            passes += ok
        st.stop(q.key, 'satisfied' if 0<passes<samples else 'max_rollouts')
    st.commit()
    save_recipe(st, d)
    close_run(st, d, make_formatters(d['formatter']))
    st.close()
    return Path(path)

def verdicts(d):
    return {i['item']:i['verdict'] for i in d['items']}
def moved_items(a, b):
    return {k for k in a if a[k]!=b[k]}
def number(d, name):
    return next(i['number'] for i in d['items'] if i['item']==name)
NOT_PASS = 'warn', 'fail'

def rubric_run(path, agree=.95, n=100, labelled=80):
    "A run that a rubric scored, with its verdicts in the ledger, and people's labels of some."
    rng, folder = random.Random(1), Path(path).parent
    crit = [dict(id=i, question=f'Is it {i}?', category='all') for i in ('clear', 'polite')]
    (folder/'rubric.yaml').write_text(json.dumps(dict(name='r', categories=dict(all=1.), criteria=crit)))
    r, judge = load_rubric(folder/'rubric.yaml'), dict(model='judge-1')
    make(path, n=n, options=['verifier.type=rubric', f"verifier.rubric={folder/'rubric.yaml'}",
                             'verifier.base_url=http://127.0.0.1:1/v1', 'formatter.pass_threshold=0.8',
                             'formatter.fail_threshold=null', 'formatter.min_margin=0.15'],
         scorer=RubricVerifier(r, [judge]).config)
    st, labels = Store(path), []
    for q, _, rs in list(st.walk())[:labelled]:
        said = {c.id:rng.choice(['YES', 'NO']) for c in r.criteria}
        for c in r.criteria:
            VerdictCache(st).put(verdict_key(c, judge, q.messages, rs[0].text), dumps([said[c.id], 'because']))
        labels.append(dict(messages=q.messages, response=rs[0].text,
                           labels={k:v if rng.random()<agree else {'YES':'NO', 'NO':'YES'}[v]
                                   for k, v in said.items()}))
    st.close()
    return labels

@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    p = tmp_path_factory.mktemp('bench')/'bench.txt'
    p.write_text('Which one of these rivers is the longest of all the rivers in the world as it was known then?\n')
    return p

@pytest.fixture(scope='module')
def bases(tmp_path_factory, bench):
    "Clean runs, made once."
    tmp, made = tmp_path_factory.mktemp('runs'), {}
    options = dict(dpo=['formatter.pass_threshold=0.85', 'formatter.fail_threshold=0.84'], grpo=['formatter.band=null'])
    def get(name):
        if name not in made:
            kw = dict(grpo=dict(n=1400, samples=1), kto=dict(n=1200), sft=dict(n=1300)).get(name, {})
            made[name] = make(tmp/name, name, **kw, options=[*options.get(name, []), f'decontaminate={bench}'])
        return made[name]
    return get

@pytest.fixture(scope='module')
def clean(bases):
    "The checklists of the clean runs, made once."
    made = {}
    return lambda name: made.setdefault(name, None) or made.update({name:checklist(bases(name))}) or made[name]

@pytest.fixture
def copy(bases, tmp_path):
    def get(name):
        shutil.copytree(bases(name), tmp_path/name)
        return tmp_path/name
    return get

@pytest.mark.parametrize('name', ['sft', 'dpo', 'kto', 'grpo', 'sft_dpo'])
def test_a_clean_run_passes(name, clean):
    d = clean(name)
    small = ['volume'] if name=='grpo' else []                            # 5,000 prompts would take the test long
    assert d['train'] and [i['item'] for i in d['items'] if i['verdict'] in NOT_PASS]==small, checklist_table(d)
    assert [i['item'] for i in d['items'] if i['seed']]==['rubric validated', 'taxonomy covers production',
                                                          'pass rate stable', 'format valid', 'held-out set',
                                                          'DPO margins',
                                                         'GRPO reward on edge cases']
    assert json.loads(json.dumps(d))==d
    not_here = {k for k, v in verdicts(d).items() if v=='n/a'}
    assert ('DPO margins' in not_here)==('dpo' not in name)
    assert ('GRPO reward on edge cases' in not_here)==(name!='grpo')
    assert ('class balance' in not_here)==(name!='kto')
    assert [i['item'] for i in d['items'] if i['next']]==[i['item'] for i in d['items'] if i['command']]==small


# ---- planted defects: (run, how it is spoilt, the item, its verdict)

def edit(run, file, change):
    "Rewrite the rows of a training file."
    rows = read_jsonl(run/file)
    write_jsonl(run/file, change(rows))

def sql(run, *queries):
    st = Store(run)
    for q in queries:
        st.begin().execute(q)
    st.commit()
    st.close()

def drift(run, _):
    sql(run, "UPDATE scores SET value=0 WHERE value>0 AND rollout%10<3 AND rollout>(SELECT max(key)/2 FROM rollouts)")
def bad_role(run, _):
    edit(run, 'train/dpo.jsonl', lambda rs: rs+[{**rs[0], 'conversations':[{'from':'moderator', 'value':'hm'}]}])
def torn_line(run, _):
    with open(run/'train'/'dpo.jsonl', 'a') as f:
        f.write('{"conversations": [\n')
def no_eval(run, _):
    shutil.rmtree(run/'eval')
def leak(run, _):
    edit(run, 'train/dpo.jsonl', lambda rs: rs+read_jsonl(run/'eval/dpo.jsonl')[:1])
def near_leak(run, _):
    def near(r):
        text = r['conversations'][0]['value'].replace(': A, B, C or D?', ': A, B, C, or else D?')
        return {**r, 'conversations':[{'from':'human', 'value':text}]}
    edit(run, 'train/dpo.jsonl', lambda rs: rs+[near(r) for r in read_jsonl(run/'eval/dpo.jsonl')[:10]])
def thin(run, _):
    sql(run, 'UPDATE scores SET value=CASE value WHEN 1.0 THEN 0.9 ELSE 0.8 END WHERE rollout%40<8')
def stark_tie(run, _):
    sql(run, 'UPDATE rollouts SET text=\'Sure! \'||text WHERE key IN (SELECT rollout FROM scores WHERE value<0.5)')
def cut(run, _):
    sql(run, "INSERT INTO rollouts(prompt,idx,step,blind,sampler,max_tokens,asked,outcome) "
             "SELECT prompt,idx+100,2,0,sampler,max_tokens,asked,'truncated' FROM rollouts WHERE idx<2")
def repeated(run, _):
    sql(run, 'UPDATE prompts SET row=(SELECT row FROM prompts q WHERE q.key=prompts.key-1) WHERE key%10=0')
def few_true(run, _):
    edit(run, 'train/kto.jsonl', lambda rs: [r for i, r in enumerate(rs) if not r['label'] or i%2])
def few_rows(run, _):
    edit(run, 'train/dpo.jsonl', lambda rs: rs[:300])
    edit(run, 'eval/dpo.jsonl', lambda rs: rs[:33])
def chosen(run, say):
    edit(run, 'train/dpo.jsonl', lambda rs: [{**r, 'chosen':{'from':'gpt', 'value':say(i, r['chosen']['value'])}}
                                             for i, r in enumerate(rs)])
def long_chosen(run, _):
    chosen(run, lambda i, t: t+f' And then, {i}, there is more to be said of it all.'*3)
def decline(run, _):
    chosen(run, lambda i, t: t if i%10 else f"I'm sorry, but I cannot help you with question {i} of this list.")
def think_some(run, _):
    say = lambda m: {**m, 'value':'<think>let me see</think>'+m['value']}
    edit(run, 'train/dpo.jsonl',
         lambda rs: [{**r, 'chosen':say(r['chosen']), 'rejected':say(r['rejected'])} if i%2 else r
                     for i, r in enumerate(rs)])
def think_open(run, _):
    say = lambda m: {**m, 'value':'<think>let me see '+m['value']}
    edit(run, 'train/dpo.jsonl',
         lambda rs: [{**r, 'chosen':say(r['chosen']), 'rejected':say(r['rejected'])} if i%20==0 else r
                     for i, r in enumerate(rs)])
def in_bench(run, kw):
    text = read_jsonl(run/'train/dpo.jsonl')[5]['conversations'][0]['value']
    (run/'bench.jsonl').write_text(json.dumps(dict(question=text)))
    kw['decontaminate'] = str(run/'bench.jsonl')
def cheated(run, kw):
    (run/'always.py').write_text('def score(response, metadata): return 1.0\n')
    p = run/'recipe.yaml'
    p.write_text(p.read_text().replace('type: mcq-rlvr  # default mcq-rlvr', f"type: '{run/'always.py'}:score'"))
    assert 'always.py' in p.read_text()
    kw['trust'] = True   # the file lies in the run directory

DEFECTS = [('dpo', drift, 'pass rate stable', 'fail'), ('dpo', bad_role, 'format valid', 'fail'),
           ('dpo', torn_line, 'format valid', 'fail'),
           ('dpo', no_eval, 'held-out set', 'fail'),
           ('dpo', leak, 'held-out set', 'fail'), ('dpo', near_leak, 'held-out set', 'fail'),
           ('dpo', thin, 'DPO margins', 'fail'), ('dpo', stark_tie, 'pair audit', 'warn'),
           ('dpo', cut, 'truncation', 'fail'), ('dpo', repeated, 'duplicates', 'fail'),
           ('kto', few_true, 'class balance', 'fail'), ('dpo', few_rows, 'volume', 'warn'),
           ('dpo', long_chosen, 'length bias', 'fail'), ('dpo', in_bench, 'contamination', 'fail'),
           ('dpo', think_some, 'thinking tags', 'warn'),
           ('dpo', think_open, 'thinking tags', 'fail'), ('dpo', decline, 'refusals', 'fail'),
           ('grpo', cheated, 'GRPO reward on edge cases', 'fail')]

@pytest.mark.parametrize('name, spoil, item, verdict', DEFECTS, ids=[f'{s.__name__}' for _, s, *_ in DEFECTS])
def test_a_planted_defect_moves_its_item_and_no_other(name, spoil, item, verdict, copy, clean):
    run, kw = copy(name), {}
    spoil(run, kw)
    d = checklist(run, **kw)
    assert moved_items(verdicts(clean(name)), verdicts(d))=={item}, checklist_table(d)
    found = next(i for i in d['items'] if i['item']==item)
    assert found['verdict']==verdict and found['next'] and found['detail'] and d['train']==(verdict!='fail')
    table = checklist_table(d)
    assert found['next'] in table and found['command'] in table
    assert f"train: {'no' if verdict=='fail' else 'yes'}" in table.splitlines()[-1]
    if found['command'].startswith('rsr format'):
        assert main(shlex.split(found['command'])[1:])==0
        again = CheckContext(run, **kw)
        again.checked = again.run.check_files()
        assert ITEMS[found['key']].check(again)['verdict']=='pass', found['command']


# ---- waived items, and next steps that work

def given(d, key):
    return next(i for i in d['items'] if i['key']==key)

def test_a_waived_item_is_listed_and_fails_nothing(copy, capsys):
    run = copy('dpo')
    no_eval(run, {})
    few_rows_of_train = read_jsonl(run/'train'/'dpo.jsonl')[:300]
    write_jsonl(run/'train'/'dpo.jsonl', few_rows_of_train)
    assert main(['check', str(run)])==1
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith('train: no (pass')
    assert out[-1].endswith(f': split; for a pilot: rsr check {run} waive=split')
    assert sum('train: ' in line for line in out)==1      # one verdict, and it is the last line
    assert main(['check', str(run), 'waive=split,volume,pairs'])==0
    out = capsys.readouterr().out
    assert 'waived (FAIL) held-out set' in out and 'waived (warn) volume' in out and 'waived 2' in out.splitlines()[-1]
    assert 'waived (pass)' not in out                     # nothing to waive
    assert main(['check', str(run), 'waive=split', 'json=true'])==0
    d = json.loads(capsys.readouterr().out)
    assert d['train'] and given(d, 'split')['waived'] and given(d, 'split')['verdict']=='fail'
    assert not given(d, 'volume')['waived']
    assert main(['check', str(run), 'json=true'])==1 and not json.loads(capsys.readouterr().out)['train']
    assert Run(run).check(waive=['split'])['train'] and not Run(run).check()['train']
    assert main(['check', str(run), 'waive=splitt'])==2
    err = capsys.readouterr().err
    assert "waive: no item 'splitt'. Did you mean 'split'?" in err and all(k in err for k in ITEMS)
    assert main(['report', str(run), 'waive=split'])==0
    assert 'waived (fail)' in (run/'summary'/'report.html').read_text()

def test_a_fall_of_the_pass_rate_in_a_sorted_input_is_waived(copy):
    run = copy('dpo')
    drift(run, {})
    command = given(checklist(run), 'pass_rate')['command']
    assert main(shlex.split(command)[1:])==0 and 'waive=pass_rate' in command

def test_thinking_in_the_ledger_is_stripped(copy):
    run = copy('dpo')
    sql(run, "UPDATE rollouts SET text='<think>let me see</think>'||text WHERE prompt%2")
    assert main(['format', str(run)])==0
    i = given(checklist(run), 'thinking')
    assert i['verdict']=='warn' and main(shlex.split(i['command'])[1:])==0
    assert ITEMS['thinking'].check(CheckContext(run))['verdict']=='pass'

def test_next_steps_of_a_small_run(tmp_path, monkeypatch):
    "A tenth of few prompts may be none, truncated samples are sampled again, and prompts are added to the input."
    monkeypatch.chdir(tmp_path)
    write_jsonl('in.jsonl', rows(6))
    step = lambda d, key: main(shlex.split(given(d, key)['command'])[1:])
    with Loopback(rate=.5, truncate=.6, seed=2) as s:
        options = [f'sampler.base_url={s.base_url}', 'sampling.max_rollouts=2', 'sampling.step_size=2']
        main(['run', 'dpo', 'data.input_path=in.jsonl', 'work_dir=my run', *options])
        d, before = checklist('my run'), Run('my run').stats()
        s.set(truncate=0)
        assert given(d, 'truncation')['verdict']=='fail' and step(d, 'truncation')==0
        after = Run('my run').stats()
        assert after['samples']['asked']>before['samples']['asked']
        assert after['prompts']['satisfied']>before['prompts']['satisfied']
        d = checklist('my run')
        assert "'my run'" in given(d, 'split')['command'] and given(d, 'split')['verdict']=='fail'
        assert step(d, 'split')==0 and given(checklist('my run'), 'split')['number']>0
        write_jsonl('in.jsonl', rows(40))
        assert given(d, 'volume')['verdict']=='fail' and step(d, 'volume')==0
        assert Run('my run').stats()['rows']['dpo.jsonl']['rows']>after['rows']['dpo.jsonl']['rows']

def test_one_prompt_cannot_be_split(tmp_path):
    i = given(checklist(make(tmp_path/'run', 'sft', n=1, samples=8, options=['split=null'])), 'split')
    assert i['verdict']=='fail' and 'too few different prompts' in i['next']

def test_repeated_prompts_leave_with_the_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    items = rows(20)
    for r in items[10:]:
        r['messages'] = items[0]['messages']
    write_jsonl('in.jsonl', items)
    with Loopback(rate=.5) as s:
        main(['run', 'sft', 'data.input_path=in.jsonl', 'work_dir=w', f'sampler.base_url={s.base_url}'])
        i = given(checklist('w'), 'duplicates')
        write_jsonl('in.jsonl', items[:10])
        assert i['verdict']=='fail' and main(shlex.split(i['command'])[1:])==0
    assert ITEMS['duplicates'].check(CheckContext('w'))['number']==0

def test_a_judge_that_says_yes_to_all_is_not_validated(tmp_path):
    "AC1 is high if nearly all labels are YES; a kappa of 0 says that the judge found none of the others."
    labels = rubric_run(tmp_path/'run', agree=1.)
    st = Store(tmp_path/'run')
    rubric, judge = load_rubric(tmp_path/'rubric.yaml'), dict(model='judge-1')
    for i, r in enumerate(labels):
        r['labels'] = dict.fromkeys(r['labels'], 'NO' if i%12==0 else 'YES')
        for c in rubric.criteria:
            VerdictCache(st).put(verdict_key(c, judge, r['messages'], r['response']), dumps(['YES', 'because']))
    st.close()
    i = given(checklist(tmp_path/'run', labels=labels), 'rubric')
    assert i['verdict']=='fail' and 'AC1 0.9' in i['detail'] and 'κ 0.00' in i['detail'], i


# ---- the pass rate

def test_against_an_earlier_run(bases, tmp_path):
    base = bases('dpo')
    look = lambda **kw: pass_rate_stable(CheckContext(base, **kw))
    assert look(earlier=[base])['verdict']=='pass' and '+0.000' in look(earlier=[Run(base)])['detail']
    # the same prompts: compared pair by pair
    better = make(tmp_path/'old', 'dpo', chance=lambda i: .75)
    i = look(earlier=[better])
    assert i['verdict']=='fail' and -.2<i['number']<-.1 and 'shared prompts' in i['detail']
    other = make(tmp_path/'other', 'dpo', seed=9)                                 # other prompts: not paired
    i = look(earlier=[str(other)])
    assert i['verdict']=='pass' and 'shared' not in i['detail'] and 'since other' in i['detail']

def test_few_prompts_are_no_proof(tmp_path):
    assert verdicts(checklist(make(tmp_path/'few', 'dpo', n=30)))['pass rate stable']=='warn'

def test_difference_by_hand():
    d = rate_difference([0., 1.], [1., 1.], True)
    assert d['diff']==.5 and d['n']==[2, 2] and d['interval'][0]<0<.5<d['interval'][1]
    same = rate_difference([.25]*50, [.25]*50, True)
    assert same['diff']==0 and same['p']==1. and same['interval'][0]<0<same['interval'][1]
    assert rate_difference([], [.5])['diff'] is None and change_verdict(rate_difference([], [.5]))=='warn'
    sure = rate_difference([0.]*400, [1.]*400)
    assert sure['p']<1e-6 and change_verdict(sure)=='fail' and sure['interval'][1]<=1
    a = {f'q{i}':dict(rate=.5, digest=i) for i in range(30)}
    assert compare_rates(a, {k:dict(rate=1., digest=v['digest']) for k, v in a.items()})['paired']
    assert not compare_rates(a, {k:dict(rate=1., digest=-1) for k in a})['paired']     # the same ids, other messages

def test_intervals_cover():
    "95 % intervals hold the truth about 95 times of 100, paired or not, with few prompts too."
    rng = random.Random(3)
    draw = lambda n, p: [sum(rng.random()<q for _ in range(4))/4
                         for q in (rng.betavariate(6*p, 6*(1-p)) for _ in range(n))]
    for n, paired in ((12, False), (60, False), (12, True), (60, True)):
        hits = 0
        for _ in range(400):
            lo, hi = rate_difference(draw(n, .4), draw(n, .6), paired)['interval']
            hits += lo<=.2<=hi
        assert .92<hits/400<=1, (n, paired, hits/400)

def test_p_values_are_even_where_nothing_changed():
    rng = random.Random(5)
    draw = lambda n: [sum(rng.random()<q for _ in range(4))/4 for q in (rng.betavariate(3, 3) for _ in range(n))]
    assert .02<sum(rate_difference(draw(60), draw(60))['p']<.05 for _ in range(500))/500<.08


# ---- rubric, taxonomy

def test_rubric_validated(tmp_path):
    labels = rubric_run(tmp_path/'run')
    assert verdicts(checklist(tmp_path/'run'))['rubric validated']=='fail'
    d = checklist(tmp_path/'run', labels=labels)
    assert verdicts(d)['rubric validated']=='pass' and number(d, 'rubric validated')>.8
    assert 'on 80 labelled responses' in checklist_table(d)
    assert verdicts(checklist(tmp_path/'run', labels=labels[:30]))['rubric validated']=='warn'       # too few
    assert verdicts(checklist(tmp_path/'run', labels=labels[:5]))['rubric validated']=='fail'
    other = [{**r, 'response':'something that was never judged'} for r in labels]
    assert verdicts(checklist(tmp_path/'run', labels=other))['rubric validated']=='fail'              # nobody is asked

def test_rubric_validated_from_a_report(tmp_path):
    labels = rubric_run(tmp_path/'run', n=60)
    rep = CheckContext(tmp_path/'run', labels=labels[:60]).report
    (tmp_path/'run'/'summary'/'validation.json').write_text(json.dumps(rep))
    assert verdicts(checklist(tmp_path/'run'))['rubric validated']=='pass'
    assert verdicts(checklist(tmp_path/'run', validation=rep))['rubric validated']=='pass'
    rep['criteria']['other'] = rep['criteria'].pop('clear')
    assert verdicts(checklist(tmp_path/'run', validation=rep))['rubric validated']=='fail'
    (tmp_path/'run'/'summary'/'validation.json').write_text('not JSON')
    with pytest.raises(RsrError, match='validation.json is not the JSON'):
        checklist(tmp_path/'run')
    with pytest.raises(RsrError, match='no file'):
        checklist(tmp_path/'run', validation='gone.json')

def test_a_judge_that_disagrees(tmp_path):
    labels = rubric_run(tmp_path/'run', agree=.6)
    d = checklist(tmp_path/'run', labels=labels)
    assert verdicts(d)['rubric validated']=='fail' and 'low on clear, polite' in checklist_table(d) and not d['train']

TAXONOMY = dict(name='t', dimensions=dict(what=dict(billing=.5, delivery=.5), mood=dict(calm=.7, furious=.3)))

def test_taxonomy_covers_production(tmp_path, monkeypatch):
    rng = random.Random(2)
    plan = lambda i: dict(what=('billing', 'delivery')[i%2], mood='calm' if i%10<7 else 'furious')
    run = make(tmp_path/'run', n=400, taxonomy=plan)
    assert verdicts(checklist(run))['taxonomy covers production']=='warn'
    assert verdicts(checklist(run, taxonomy=TAXONOMY))['taxonomy covers production']=='pass'
    like = [dict(taxonomy=dict(what=rng.choice(['billing', 'delivery']),
                               mood=rng.choices(['calm', 'furious'], [.7, .3])[0])) for _ in range(500)]
    assert verdicts(checklist(run, taxonomy=TAXONOMY, production=like))['taxonomy covers production']=='pass'
    skewed = [dict(taxonomy=dict(what=rng.choices(['billing', 'delivery'], [.9, .1])[0], mood='calm'))
              for _ in range(500)]
    d = checklist(run, taxonomy=TAXONOMY, production=skewed)
    assert verdicts(d)['taxonomy covers production']=='fail'
    assert .3<number(d, 'taxonomy covers production')<.45
    assert 'largest on what' in checklist_table(d)
    (tmp_path/'tax.yaml').write_text(json.dumps(TAXONOMY))
    write_jsonl(tmp_path/'prod.jsonl', skewed)
    write_jsonl(tmp_path/'made.jsonl', [dict(r, metadata=dict(taxonomy=plan(i))) for i, r in enumerate(rows(40))])
    command = given(checklist(run, taxonomy=str(tmp_path/'tax.yaml'), production=str(tmp_path/'prod.jsonl')),
                    'taxonomy')['command']
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command.replace('PROMPTS', 'made.jsonl'))[1:])==0 and Path('fitted.yaml').is_file()
    foreign = [dict(taxonomy=dict(what='returns', mood='calm')) if i%5==0 else r for i, r in enumerate(like)]
    # a fifth lies outside
    assert verdicts(checklist(run, taxonomy=TAXONOMY, production=foreign))['taxonomy covers production']=='warn'


# ---- odd runs, options, small parts

def test_a_run_with_nothing_in_it(tmp_path):
    run = make(tmp_path/'run', n=3, samples=0)
    d = checklist(run)
    assert not d['train'] and verdicts(d)['format valid']=='fail'
    assert verdicts(d)['pass rate stable']=='n/a' and verdicts(d)['truncation']=='n/a'
    with pytest.raises(RsrError, match='no run here'):
        checklist(tmp_path/'nowhere')
    assert checklist(Run(run))['train'] is False

def test_system_prompts_in_the_rows_do_not_hide_the_prompts(tmp_path):
    run = make(tmp_path/'run', n=200, options=['sampler.prompt_template={prompt} Think.', 'formatter.keep_system=true'])
    sql(run, 'UPDATE prompts SET row=(SELECT row FROM prompts q WHERE q.key=prompts.key-1) WHERE key%10=0')
    assert verdicts(checklist(run))['duplicates']=='fail'

def test_trl_and_multi_turn_files(tmp_path):
    from rsr.quality.hygiene import read_files
    run = make(tmp_path/'run', 'sft_dpo', n=300, options=['formatter.target=trl'])
    files = {f.file:f for f in read_files(run, make_formatters(Run(run).recipe['formatter']))}
    assert set(files)=={'train/sft.jsonl', 'train/dpo.jsonl', 'eval/sft.jsonl', 'eval/dpo.jsonl'}
    for f in files.values():
        assert all(p.endswith('A, B, C or D?') for p in f.prompts)
        assert [a.good for a in f.answers[0]]==([True] if f.method=='sft' else [True, False])

@pytest.mark.parametrize('method, targets',
                         [('sft', ('llamafactory', 'trl', 'verl')),
                          ('dpo', ('llamafactory', 'trl', 'axolotl', 'swift', 'openai')),
                          ('kto', ('trl', 'axolotl', 'llamafactory', 'swift')),
                          ('grpo', ('trl', 'swift', 'verl')), ('multi_sft', ('llamafactory',))])
def test_reads_every_form(method, targets, tmp_path):
    from rsr.quality.hygiene import read_files
    run = Run(make(tmp_path/'run', method, n=60,
                   options=['split=null', *(['formatter.band=null'] if method=='grpo' else [])]))
    prompts = [json.loads(m)[0]['content'] for m in run.prompts['messages']]
    for t in targets:
        run.format(method, target=t, name=f'{method}_{t}')
        f, = read_files(run.path, make_formatters([{**run.recipe['formatter'][0], 'target':t, 'name':f'{method}_{t}'}]))
        assert f.prompts and set(f.prompts)<=set(prompts), t
        good, bad = [[a for x in f.answers for a in x if a.good==g] for g in (True, False)]
        if method=='dpo':
            assert len(good)==len(bad)==len(f.prompts)
        if method=='kto':
            assert len(good)==sum(f.labels) and len(bad)==len(f.labels)-sum(f.labels) and bad
        if method in ('sft', 'multi_sft'):
            assert good and not bad
        if method=='grpo':
            assert not good+bad

def test_a_pool_is_no_fault(tmp_path):
    d = checklist(make(tmp_path/'run', 'multi_sft', n=1200))
    assert d['train'] and verdicts(d)['format valid']=='warn' and verdicts(d)['volume']=='n/a'
    assert 'pool' in checklist_table(d)

def test_a_benchmark_that_is_gone_warns(tmp_path):
    (tmp_path/'b.txt').write_text('a b c')
    run = make(tmp_path/'run', n=30, options=[f"decontaminate={tmp_path/'b.txt'}"])
    (tmp_path/'b.txt').unlink()
    assert 'benchmark file is missing' in checklist_table(checklist(run))
    with pytest.raises(RsrError, match='no file'):
        checklist(run, decontaminate=str(tmp_path/'b.txt'))

def test_options():
    assert checklist_options(dict(trainer='trl', earlier='a,b'))==dict(trainer='trl', earlier=['a', 'b'])
    with pytest.raises(RsrError, match="Did you mean 'taxonomy'"):
        checklist_options(dict(taxonomi='x'))
    with pytest.raises(RsrError, match='labels: True is not a text'):
        checklist_options(dict(labels=True))

@pytest.mark.parametrize('text, what', [('B', ''), ('<think>a</think>B', 'whole'), ('<thinking>a</thinking>B', 'whole'),
                                        ('<think>a', 'torn'), ('a</think>B', 'torn'), ('</think><think>', 'torn'),
                                        ('<think>a</think><think>b</think>', 'whole'), ('I think <b>so</b>', '')])
def test_thinking_marks(text, what):
    assert thinking_marks(text)==what

def test_length_auc_by_hand():
    assert length_auc([3, 3], [3, 3])==.5 and length_auc([9], [1, 2, 3])==1
    assert length_auc([2], [1, 2, 3])==.5 and length_auc([0], [1])==0

def test_repeats_by_hand():
    long = 'one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen'
    same, near, n = repeats([long, long.upper()+'!', long+' seventeen',
                             'something else entirely, with no word in common'])
    assert (same, near, n)==(.25, .5, 4)
