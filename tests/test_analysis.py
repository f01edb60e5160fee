"The commands that read a run (check, report, pairs, compare, methods, coverage), completion, and background runs."
import json
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from conftest import RSR, read_jsonl, rows, rsr, write_jsonl
from loopback import Loopback

import rsr as package
from rsr.cli.entry import main
from rsr.data.live_panel import panel_html
from rsr.data.types import RsrError, RunBroken
from rsr.run.live import Live

TAX = dict(topic=['refund', 'delivery'])

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "Two runs over the same prompts, the second by a model that passes more often; prompts carry a taxonomy."
    d = tmp_path_factory.mktemp('two')
    items = rows(80)
    for i, r in enumerate(items):
        r['metadata']['taxonomy'] = dict(topic=TAX['topic'][i%2])
    src = write_jsonl(d/'in.jsonl', items)
    for name, rate in (('a', .3), ('b', .8)):
        with Loopback(rate=rate, seed=3) as s:
            p = rsr('run', 'sft_dpo', f'data.input_path={src}', f'sampler.base_url={s.base_url}',
                    f'sampler.model={name}', f'work_dir={d/name}',
                    'split.eval=0.1', 'sampler.api_key=sk-very-secret-key')
            assert p.returncode==0, p.stderr
    return d

def test_check_works_through_the_checklist(two):
    p = rsr('check', two/'a')
    assert 'Traceback' not in p.stderr and re.search(r'^train: (yes|no) \(pass \d+', p.stdout, re.M), p.stdout+p.stderr
    assert p.returncode==('train: no' in p.stdout) and 'dpo.jsonl' in p.stdout
    assert p.stdout.splitlines()[-1].startswith('train: ')
    d = json.loads(rsr('check', two/'a', 'json=true').stdout)
    assert {i['verdict'] for i in d['items']}<={'pass', 'warn', 'fail', 'n/a'} and len(d['items'])>=15
    assert {i['item'] for i in d['items'] if i['verdict']=='fail'} or d['train']
    names = ' '.join(i['item'] for i in d['items'])
    for word in ('rubric', 'taxonomy', 'pass rate', 'format', 'held', 'margins', 'GRPO', 'truncation', 'duplicates',
                 'balance', 'volume',
                 'length', 'contamination', 'thinking', 'refusals'):
        assert word in names, names

def test_report_is_one_file_without_a_network(two):
    p = rsr('report', two/'a')
    assert p.returncode==0, p.stderr
    page = Path(p.stdout.strip()).read_text()
    assert page.count('src="data:image/png')>=6 and '<script' not in page and 'sk-very-secret' not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "default-src 'none'" in page
    assert 'Checklist' in page and 'Sample rows' in page and 'row 1</summary>' in page

def test_report_as_json_and_without_matplotlib(two, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    monkeypatch.setitem(sys.modules, 'matplotlib.pyplot', None)
    assert main(['report', str(two/'a'), 'json=true'])==0
    page = Path(json.loads(capsys.readouterr().out)['report']).read_text()
    assert 'no figures:' in page and 'pip install rejection-sampling-recipes' in page
    assert 'Checklist' in page and 'data:image' not in page

def test_compare_sees_the_better_model(two):
    d = json.loads(rsr('compare', two/'a', two/'b', 'json=true').stdout)
    text = rsr('compare', two/'a', two/'b').stdout
    assert 'sampler.model: a → b' in text and 'pass rate, corrected for early stopping' in text
    diff = d['pass_rate']['diff']
    assert diff>.2, d
    assert 'refund' in text and 'delivery' in text

def test_pairs_audit_join_compare(two, here):
    run = json.loads(rsr('pairs', 'audit', two/'a', 'json=true').stdout)
    file = json.loads(rsr('pairs', 'audit', two/'a'/'train'/'dpo.jsonl', 'json=true').stdout)
    assert run['n']>=file['n']>10          # the run's pairs, and those of them that are not held out
    p = rsr('pairs', 'join', two/'b', two/'a', 'both', 'pass_threshold=1.0')
    assert p.returncode==0 and len(read_jsonl('both/train/dpo.jsonl'))==int(p.stdout.split()[0]), p.stdout+p.stderr
    p = rsr('pairs', 'compare', two/'a', two/'b')
    assert p.returncode==0 and 'rollouts per pair' in p.stdout, p.stderr

def test_coverage_and_fit(two, here):
    (here/'t.yaml').write_text('name: t\ndimensions:\n  topic: {refund: 0.9, delivery: 0.1}\n')
    p = rsr('coverage', 't.yaml', two/'in.jsonl', f"production={two/'in.jsonl'}", 'fit=fitted.yaml')
    assert p.returncode==0, p.stderr
    assert 'topic' in p.stdout and '0.4' in p.stdout
    import yaml
    w = yaml.safe_load((here/'fitted.yaml').read_text())
    assert abs(sum(_weights(w))-1)<1e-6 and abs(max(_weights(w))-.5)<.02

def _weights(w):
    topic = w['dimensions']['topic']
    return [v['weight'] if isinstance(v, dict) else v for v in (topic.get('values') or topic).values()]

def test_methods_and_completion():
    assert 'GRPO' in rsr('methods').stdout and 'DPO' in rsr('methods', 'goal=quality', 'pairs=true').stdout
    assert rsr('methods', 'gaol=quality').returncode==2
    script = rsr('completion', 'bash').stdout
    line = 'COMP_WORDS=(rsr run te); COMP_CWORD=2; COMP_LINE="rsr run te"; COMP_POINT=10'
    call = f'{script}\n{line}; rsr() {{ command {RSR} "$@"; }}; _rsr; echo "${{COMPREPLY[@]}}"'
    out = subprocess.run(['bash', '-c', call], capture_output=True, text=True)
    assert 'temperature' in out.stdout, out.stdout+out.stderr
    assert 'sampler.temperature=' in rsr('completion', 'words', 'run', 'sft', 'sam').stdout

@pytest.mark.parametrize('args,words', [
    (['pairs'], 'usage: rsr pairs'), (['pairs', 'audit'], 'usage: rsr pairs'), (['compare', 'x'], 'usage: rsr compare'),
    (['report', 'nowhere'], 'no run here'), (['explore', 'nowhere'], 'no run here'),
    (['coverage', 'nowhere.yaml', 'x.jsonl'], 'nowhere.yaml'), (['completion', 'fish'], 'usage: rsr completion'),
    (['prompts', 'customer_suport'], "Did you mean 'customer_support'?"),
    (['check', 'nowhere', 'trainr=trl'], 'trainer')])
def test_bad_input_is_one_message(here, args, words):
    p = rsr(*args)
    assert p.returncode==2 and words in p.stderr and 'Traceback' not in p.stderr and not p.stdout, p.stdout+p.stderr

def test_help_names_every_command():
    text = rsr('--help').stdout
    from rsr.cli.usage import COMMANDS
    for name in COMMANDS:
        assert f'  rsr {name} ' in text
        assert f'example: {COMMANDS[name][2]}' in rsr(name, '--help').stdout

def test_prompts_from_a_taxonomy_feed_a_run(here, server):
    p = rsr('prompts', 'customer_support', 'n=30', 'out=p.jsonl')
    assert p.returncode==0 and len(read_jsonl('p.jsonl'))==30, p.stdout+p.stderr
    (here/'v.py').write_text('def score(response, metadata): return 1.0 if metadata["taxonomy"]["how"] else 0.0\n')
    p = rsr('run', 'sft', 'data.input_path=p.jsonl', f'sampler.base_url={server.base_url}',
            'verifier.type=v.py:score', 'work_dir=w')
    assert p.returncode==0 and len(read_jsonl('w/train/sft.jsonl'))==30, p.stderr


# ---- what a run is, and what went wrong in it

def test_stats_say_which_prompts_failed_and_which_have_no_score(here, capsys):
    items = rows(12)
    for r in items[8:10]:
        r['metadata'] = {}                       # no reference answer
    def reply(body):
        text = body['messages'][-1]['content']
        if text in ('prompt 3', 'prompt 5'):
            return 500, dict(error=dict(message='the engine is dead'))
        return '' if text=='prompt 6' else None
    write_jsonl('in.jsonl', items)
    with Loopback(rate=.5, reply=reply) as s:
        code = main(['run', 'sft', 'data.input_path=in.jsonl', 'work_dir=w', f'sampler.base_url={s.base_url}',
                     'sampler.max_retries=1', 'sampling.max_rollouts=2', 'sampling.step_size=2'])
    assert code==1
    capsys.readouterr()
    assert main(['stats', 'w'])==0
    out = capsys.readouterr().out
    assert re.search(r'^failed     2 prompts \(q3, q5\): HTTP 500.*engine is dead', out, re.M), out
    assert 'no_reference 2, ' in out and ' (1 without a response)' in out and 'error ' not in out
    rate = r'pass rate  [\d.]+% \(95%: [\d.]+% to [\d.]+%; 7 prompts\), corrected for early stopping; raw'
    assert re.search(rate, out), out
    assert main(['stats', 'w', 'json=true'])==0
    p = json.loads(capsys.readouterr().out)['prompts']
    assert p['failed'][0]['ids']==['q3', 'q5'] and sum(p['unscored'].values())==1 and sum(p['unanswered'].values())==1

def test_a_pass_rate_that_cannot_be_known_says_why(here):
    with Loopback(rate=.5) as s:
        Path('v.py').write_text('def unsure(response, metadata): return None\n')
        none = package.sample(rows(3), base_url=s.base_url, verifier='v.py:unsure', max_rollouts=2, progress=False)
    assert re.search(r'^pass rate  unknown: \d+ responses, none with a score$', none.summary(), re.M), none.summary()

def test_what_is_not_a_run_is_said_as_what_it_is(here, capsys):
    with Loopback() as s:
        main(['run', 'sft', f"data.input_path={write_jsonl('in.jsonl', rows(3))}", 'work_dir=w',
              f'sampler.base_url={s.base_url}'])
    ledger = Path('w/run.db').read_bytes()
    newer = bytearray(ledger)
    newer[60:64] = (9).to_bytes(4, 'big')            # SQLite's user_version
    files = dict(lone=ledger, newer=newer, empty=b'', garbage=bytes(range(256))*20, text=b'hello',
                 torn=ledger[:100]+bytes(range(256))*40)
    for name, content in files.items():
        Path(name).mkdir()
        (Path(name)/'run.db').write_bytes(content)
    Path('folder').mkdir()
    (Path('nested')/'run.db').mkdir(parents=True)
    Path('file.txt').write_text('x')
    words = dict(lone='rollouts, but the recipe.yaml beside it', newer='upgrade rsr', empty='run.db is empty',
                 garbage='not an SQLite database', text="begins with 'hello'", torn='torn/run.db cannot be used',
                 folder='no run here', nested='no run here', nowhere='no run here', **{'file.txt':'no run here'})
    for name, said in words.items():
        for command in 'stats', 'check', 'report':
            capsys.readouterr()
            assert main([command, name])==2, (command, name)
            out, err = capsys.readouterr()
            assert said in err and 'Traceback' not in err and not out, (command, name, err)
            assert err.isascii() and err.count('\n')==1, (command, name, err)

def test_methods_of_a_run_keep_their_arguments():
    "Also once the packages that they come from are imported."
    for module in 'explore.explorer', 'quality.checklist', 'quality.report':
        import_module(f'rsr.{module}')
    for method, said in (('check', 'waive='), ('report', 'summary/report.html'), ('explore', 'who labels')):
        doc = getattr(package.Run, method).__doc__
        assert 'Arguments:' in doc and said in doc, (method, doc)

# ---- in the background

def test_a_run_in_the_background_is_seen_stopped_and_resumed(here, server):
    server.set(median=.2, rate=.2)
    opts = dict(base_url=server.base_url, work_dir='w', concurrent_requests=8, progress=False)
    live = package.sample(rows(120), background=True, **opts)
    assert isinstance(live, Live) and not live.wait(0)
    end = time.time()+20
    def kept():
        seen = live.last or {}
        return seen.get('prompts') and seen['rollouts']['outcomes'].get('kept', 0)
    while not (kept() or 0)>40 and time.time()<end:
        time.sleep(.05)
    assert live.state=='' and len(live.run.rollouts)>=40      # read while it grows
    assert live.last['scores']['pass_rate'] is not None
    live._ipython_display_()
    assert 'of 120 done' in panel_html(live.last)
    live.stop()
    run = live.wait(30)
    assert run.exit_code==130 and 'interrupted' in panel_html(live.last)
    server.set(median=0)
    again = package.sample(rows(120), background=True, **opts)
    s = again.wait(60).stats()
    assert s['prompts']['by_stop_reason'].keys()<={'satisfied', 'max_rollouts'}
    assert sum(s['samples']['by_outcome'].values())==s['samples']['asked']

def test_in_the_background_what_sample_refuses_is_refused_at_once(here, server, monkeypatch):
    opts = dict(base_url=server.base_url, work_dir='w', background=True, progress=False)
    for bad, words in [(dict(prompts='none.jsonl'), 'no file none.jsonl'),
                       (dict(prompts=[dict(id='a', messages=[])]), 'messages is empty'),
                       (dict(prompts=rows(2), max_rollouts=-1), 'not in 0 to'),
                       (dict(prompts=rows(2), api_key='${NO_SUCH_KEY}'), 'NO_SUCH_KEY'),
                       (dict(prompts=[dict(rows(1)[0], metadata=dict(answer='4'))]), 'verifier.type=math-rlvr'),
                       (dict(prompts=rows(2), verifier='v.py:f'), 'no file')]:
        with pytest.raises(RsrError, match=re.escape(words)):
            package.sample(**{**opts, **bad})
        assert not Path('w').exists()
    assert not server.log
    first = package.sample(rows(4), **opts)
    first.wait(30)
    with pytest.raises(RsrError, match='0.7 before, 0.1 now'):
        package.sample(rows(4), **opts, temperature=.1)

def test_what_breaks_in_the_background_is_raised_by_wait(here, server):
    server.set(fault='quota')
    live = package.sample(rows(4), base_url=server.base_url, work_dir='w', background=True)
    with pytest.raises(RunBroken, match='exceeded your current quota'):
        live.wait(20)
    assert live.state.startswith('stopped:') and live.process==''      # it ended in order

def test_report_on_two_runs_beside_each_other(two):
    p = rsr('report', two/'a', two/'b')
    assert p.returncode==0, p.stderr
    path = Path(p.stdout.strip())
    page = path.read_text()
    assert path==two/'b'/'summary'/'report_with_a.html'
    assert page.count('class="verdict')==2 and page.index('class="verdict') < page.index('Checklist</h2>')
    assert page.index('Checklist</h2>') < page.index('What changed</h2>') < page.index('Figures</h2>')
    assert 'sampler.model: a → b' in page and page.count('src="data:image/png')>=12
    assert '<script' not in page and 'sk-very-secret' not in page and '@media print' in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    p = rsr('report', two/'a', two/'a')
    assert p.returncode==2 and 'the same run' in p.stderr and 'Traceback' not in p.stderr
