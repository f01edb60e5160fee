"""vllm-offline on a real GPU: `python tests/gpu/check_vllm.py [--quick]`, some five minutes on a machine with vLLM.

It needs no network: the model has random weights (1.4 billion, in the shape of Qwen2.5-1.5B), and the tokenizer is
trained here. Three processes share the GPU: rsr, vLLM's AsyncLLM driven directly, and vLLM's LLM class. What rsr does
is checked one by one; then its throughput is compared with theirs, in turns. The last lines are a table; the exit code
is 0 if all holds, 1 if not, 77 if there is nothing to check here. RSR_GPU_ARGS: more engine arguments, as JSON."""
import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SPECIAL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
VOCAB = 32_000
TOKENS, LONG = 128, 512          # of a response: in the throughput runs; at most, in the rejection-sampling job
STOPS = list(range(1000, 1200))  # tokens that end a response of the job: one in 160
PASS = 3                         # of ten responses pass


# ---- a model without a download

def train_tokenizer(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = [p.read_text(errors='replace') for p in sorted(Path(os.__file__).parent.glob('*.py'))]
    t.train_from_iterator(texts, trainer)
    t.save(str(folder/'tokenizer.json'))
    config = dict(tokenizer_class='PreTrainedTokenizerFast', eos_token='<|im_end|>', pad_token='<|endoftext|>',
                  chat_template=TEMPLATE, model_max_length=32768, clean_up_tokenization_spaces=False)
    (folder/'tokenizer_config.json').write_text(json.dumps(config))

def write_model(folder, hidden, layers, heads, kv, inner):
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(architectures=['Qwen2ForCausalLM'], model_type='qwen2', hidden_size=hidden, num_hidden_layers=layers,
                  num_attention_heads=heads, num_key_value_heads=kv, intermediate_size=inner, vocab_size=VOCAB,
                  max_position_embeddings=4096, rms_norm_eps=1e-6, rope_theta=1e6, hidden_act='silu',
                  torch_dtype='bfloat16', tie_word_embeddings=True, use_sliding_window=False, bos_token_id=0,
                  eos_token_id=2)
    (folder/'config.json').write_text(json.dumps(config))

def write_models(place):
    strong, weak = place/'strong', place/'weak'
    write_model(strong, 1536, 28, 12, 2, 8960)
    write_model(weak, 512, 4, 4, 2, 2048)
    train_tokenizer(strong)
    for name in 'tokenizer.json', 'tokenizer_config.json':
        (weak/name).write_text((strong/name).read_text())
    return str(strong), str(weak)

def engine_args(model, **more):
    sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512, 640, 768, 896, 1024]
    graphs = dict(mode=0, cudagraph_mode='FULL_DECODE_ONLY', cudagraph_capture_sizes=sizes)
    own = dict(model=model, load_format='dummy', max_model_len=2048, gpu_memory_utilization=.28,
               kv_cache_memory_bytes=12<<30, enable_prefix_caching=True, disable_log_stats=True,
               compilation_config=graphs)
    return own | more | json.loads(os.environ.get('RSR_GPU_ARGS', '{}'))

EAGER = dict(enforce_eager=True, compilation_config=None, kv_cache_memory_bytes=None)


# ---- the same work for everyone

def questions(n, seed):
    rng, words = random.Random(seed), 'apple train seven river total price green number every table'.split()
    text = lambda i: f'Question {seed}-{i}: '+' '.join(rng.choices(words, k=40))+'?'
    return [dict(id=str(i), messages=[dict(role='user', content=text(i))], answer='x') for i in range(n)]

def is_good(text):
    return hashlib.md5(text.encode()).digest()[0]%10<PASS

def sampling(n, job=False):
    more = dict(max_tokens=LONG, stop_token_ids=STOPS) if job else dict(max_tokens=TOKENS)
    return dict(n=n, temperature=1., top_p=1., ignore_eos=True, **more)


# ---- sides: each a process that answers commands on its standard input

def serve(commands):
    "Answer lines of JSON, [name, arguments], until the input ends."
    say = lambda **d: print('@@'+json.dumps(d), flush=True)
    say(ready=True)
    for line in sys.stdin:
        name, args = json.loads(line)
        try:
            say(result=commands[name](**args))
        except BaseException as e:
            say(error=f'{type(e).__name__}: {e}'[:3000])

class Direct:
    "vLLM's AsyncLLM, driven directly: all requests at once, in the loop of the engine."
    def __init__(self, model):
        from vllm import SamplingParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM
        self.loop, self.Params, self.kind = asyncio.new_event_loop(), SamplingParams, RequestOutputKind.FINAL_ONLY
        async def load():
            args = AsyncEngineArgs(**engine_args(model))
            return AsyncLLM.from_engine_args(args, usage_context=UsageContext.LLM_CLASS)
        self.llm = self.loop.run_until_complete(load())
        self.tokenizer = self.llm.get_tokenizer()

    def throughput(self, prompts, n, seed):
        qs = [q['messages'] for q in questions(prompts, seed)]
        how = dict(tokenize=True, add_generation_prompt=True, return_dict=False)
        render = lambda m: self.tokenizer.apply_chat_template(m, **how)
        async def one(i, messages):
            async for out in self.llm.generate(dict(type='token', prompt_token_ids=render(messages)),
                                               self.Params(**sampling(n), output_kind=self.kind), f'{seed}-{i}'):
                last = out
            return sum(len(o.token_ids) for o in last.outputs), all(o.text is not None for o in last.outputs)
        async def go():
            return await asyncio.gather(*[one(i, messages) for i, messages in enumerate(qs)])
        start = time.perf_counter()
        tokens = sum(t for t, _ in self.loop.run_until_complete(go()))
        seconds = time.perf_counter()-start
        return dict(tokens=tokens, seconds=seconds, rate=tokens/seconds)

class Batch:
    "vLLM's LLM class: one round of all open prompts after the other."
    def __init__(self, model):
        from vllm import LLM, SamplingParams
        self.llm, self.Params = LLM(**engine_args(model)), SamplingParams

    def job(self, prompts, seed, step=4, most=8):
        open_ = [q['messages'] for q in questions(prompts, seed)]
        start, samples, passed = time.perf_counter(), 0, 0
        for _ in range(most//step):
            outs = self.llm.chat(open_, self.Params(**sampling(step, job=True)), use_tqdm=False)
            good = [any(is_good(o.text) for o in out.outputs) for out in outs]
            samples += step*len(open_)
            passed += sum(good)
            open_ = [m for m, ok in zip(open_, good) if not ok]
        seconds = time.perf_counter()-start
        return dict(samples=samples, passed=passed, seconds=seconds, rate=samples/seconds)

VERIFIER = f'''
import hashlib
def score(response, metadata):
    return float(hashlib.md5(response.encode()).digest()[0]%10<{PASS})
def any_text(response, metadata):
    return 1.0
'''

def engines():
    "The engines under the hosts of this process."
    import psutil
    hosts = [p for p in psutil.Process().children() if 'vllm_host' in ' '.join(p.cmdline())]
    below = [c for h in hosts for c in h.children()]
    return hosts, [c for c in below if 'resource_tracker' not in ' '.join(c.cmdline())]

class Rsr:
    "rsr, in a process that has used CUDA before."
    def __init__(self, models, touch=True):
        self.strong, self.weak = models
        self.runs = 0
        Path('v.py').write_text(VERIFIER)
        if touch and find_spec('torch'):
            import torch
            self.cuda = torch.zeros(1, device='cuda') if torch.cuda.is_available() else None

    def make(self, model=None, **more):
        from rsr.sampling.providers import make_sampler
        args = engine_args(model or self.strong, **more.pop('args', {}))
        model = args.pop('model')
        given = {k:v for k, v in args.items() if v is not None}
        return make_sampler('vllm-offline', model=model, engine_args=given, **more)

    def many(self, n=32, threads=8):
        "Ask from several threads at once, without prepare()."
        from rsr.data.threads import run_sync
        s, out = self.make(max_tokens=16), []
        ask = lambda i: out.append(len(run_sync(lambda: s.ask([dict(role='user', content=f'{i}')], 2, i))))
        pool = [threading.Thread(target=ask, args=[i]) for i in range(n)]
        for t in pool:
            t.start()
        for t in pool:
            t.join()
        return dict(answers=sum(out), hosts=len(engines()[0]), engines=len(engines()[1]))

    def texts(self, n=8):
        "Compare the texts that rsr makes with those that vLLM makes, one request after the other."
        from rsr.data.threads import run_sync
        plain = self.make(max_tokens=48, temperature=1.)
        vllms = self.make(max_tokens=48, temperature=1., extra_params=dict(detokenize=True))
        async def texts(s, i):
            return [r.text for r in await s.ask([dict(role='user', content=f'Say {i}')], 1, i)]
        async def go():
            return [[await texts(s, i) for s in (plain, plain, vllms)][1:] for i in range(n)]
        pairs = run_sync(go)
        return dict(same=sum(x==y for x, y in pairs), of=n, example=repr(pairs[0][0])[:60])

    def run(self, prompts, seed, n=None):
        "A whole run: throughput with n, or the rejection-sampling job without it."
        from rsr import sample
        self.runs += 1
        work, job = f'w{self.runs}', n is None
        args = engine_args(self.strong)
        extra = {k:v for k, v in sampling(1, job).items() if k in ('ignore_eos', 'stop_token_ids')}
        who = dict(type='vllm-offline', model=args.pop('model'), engine_args=args, temperature=1., drop_truncated=False,
                   max_tokens=LONG if job else TOKENS, extra_params=extra)
        how = dict(max_rollouts=8, step_size=4) if job else dict(max_rollouts=n, step_size=n, early_stop=False)
        rows = questions(prompts, seed)
        start = time.perf_counter()
        r = sample(rows, 'sft', sampler=who, sampling=how, work_dir=work, progress=False,
                   verifier=f"v.py:{'score' if job else 'any_text'}")
        whole = time.perf_counter()-start
        rolls = r.rollouts
        seconds, tokens = self.seconds(work), int(rolls.completion_tokens.sum())
        log = Path(work, 'summary', 'vllm.log')
        return dict(samples=len(rolls), tokens=tokens, seconds=whole, sampling=seconds,
                    rate=(len(rolls) if job else tokens)/whole, passed=int((rolls.score==1).sum()),
                    log=len(log.read_text().splitlines()) if log.exists() else 0)

    def seconds(self, work):
        import sqlite3
        db = sqlite3.connect(f'{work}/run.db')
        (value,), = db.execute("SELECT value FROM meta WHERE key='seconds'").fetchall()
        return float(value)

    def too_long(self):
        "Ask for more tokens than the engine has."
        from rsr.data.types import RsrError
        try:
            self.make(max_tokens=5000).prepare()
        except RsrError as e:
            return str(e)

    def dead(self):
        "Kill the engine under the sampler; ask until there is a new one."
        from rsr.data.threads import run_sync
        s = self.make(max_tokens=16)
        ask = lambda: run_sync(lambda: s.ask([dict(role='user', content='x')], 1, 1))
        ask()
        engines()[1][0].kill()
        errors = []
        for _ in range(20):
            try:
                ask()
                time.sleep(.1)
            except Exception as e:
                errors.append(f'{getattr(e, "kind", type(e).__name__)}: {e}')
                break
        async def go():
            return await asyncio.gather(*[s.ask([dict(role='user', content=f'{i}')], 1, i) for i in range(16)])
        return dict(error=errors[:1], answers=len(run_sync(go)), engines=len(engines()[1]))

    def two(self):
        "Two engines in one process, neither with a share of its own."
        from rsr.data.threads import run_sync
        from rsr.sampling.vllm_engines import close_engines
        close_engines()
        args = EAGER|dict(gpu_memory_utilization=None)
        a, b = self.make(max_tokens=16, args=args), self.make(self.weak, max_tokens=16, args=args)
        for s in a, b:
            run_sync(lambda s=s: s.ask([dict(role='user', content='x')], 2, 1))
        shares = [s.engine.facts['gpu_memory_utilization'] for s in (a, b)]
        close_engines()
        return dict(shares=shares, left=len(sum(engines(), [])))

def case(name, models):
    "A start that must fail; print what a user reads, and the seconds."
    from rsr.data.types import RsrError
    side = Rsr(models, touch=False)
    more = {'memory':dict(args=dict(gpu_memory_utilization=.995)), 'params':dict(extra_params=dict(topk=5)),
            'args':dict(args=dict(tensor_parallel=2)), 'folder':dict(model='./no/such/folder')}[name]
    try:
        side.make(**more).prepare()
    except RsrError as e:
        print(e)


# ---- the whole

class Side:
    "A side in a process of its own."
    def __init__(self, name, place, models):
        self.name, self.noise, self.replies = name, [], []
        self.p = subprocess.Popen([sys.executable, __file__, '--side', name, *models], cwd=place, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.news = threading.Condition()
        for stream in self.p.stdout, self.p.stderr:
            threading.Thread(target=self.read, args=[stream], daemon=True).start()

    def read(self, stream):
        for line in stream:
            with self.news:
                (self.replies if line.startswith('@@') else self.noise).append(line)
                self.news.notify_all()
        with self.news:
            self.replies.append('@@'+json.dumps(dict(error=f'{self.name} ended: '+''.join(self.noise[-30:]))))
            self.news.notify_all()

    def reply(self):
        with self.news:
            self.news.wait_for(lambda: self.replies, timeout=400)
            d = json.loads(self.replies.pop(0)[2:])
        if 'error' in d:
            raise RuntimeError(f'{self.name}: {d["error"]}')
        return d.get('result')

    def ask(self, name, **args):
        self.p.stdin.write(json.dumps([name, args])+'\n')
        self.p.stdin.flush()
        return self.reply()

    def end(self):
        self.p.stdin.close()
        try:
            self.p.wait(60)
        except subprocess.TimeoutExpired:
            self.p.kill()
        return self.p.returncode

def why_not():
    "Why there is nothing to check here; None if there is."
    if not find_spec('vllm'):
        return 'vLLM is not installed'
    code = 'import torch; print(torch.cuda.is_available())'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout
    return None if 'True' in out or os.environ.get('VLLM_TEST_URL') else 'no GPU'

class Table:
    def __init__(self):
        self.rows, self.start = [], time.perf_counter()

    def add(self, point, what, ok, note=''):
        self.rows.append((point, what, ok, str(note)))
        at = time.perf_counter()-self.start
        print(f'[{at:5.0f} s] {point} {what}: {"ok" if ok else "NO"}  {str(note)[:1500]}', flush=True)

    def attempt(self, point, what, fn):
        "Add a row by a function that returns (ok, note)."
        try:
            self.add(point, what, *fn())
        except Exception as e:
            self.add(point, what, False, f'{type(e).__name__}: {e}')

    def show(self):
        print(f'\n{"point":5} {"":3} what')
        for point, what, ok, note in self.rows:
            print(f'{point:5} {"ok" if ok else "NO":3} {what}: {" ".join(note.split())[:170]}')
        print(f'{time.perf_counter()-self.start:.0f} s in all')
        return all(ok for _, _, ok, _ in self.rows)

def compare(mine, theirs, repeats):
    "Run both in turns; return (median of mine, median of theirs, ratio of the medians)."
    a, b = [], []
    for i in range(repeats):
        for f, out in ((mine, a), (theirs, b)) if i%2==0 else ((theirs, b), (mine, a)):
            out.append(f(i))
    rates = [statistics.median(x['rate'] for x in out) for out in (a, b)]
    print('   mine', [{k:round(v, 2) for k, v in x.items()} for x in a], '\n   theirs',
          [{k:round(v, 2) for k, v in x.items()} for x in b], flush=True)
    return *rates, rates[0]/rates[1]

def throughput(t, rsr, direct, batch, o):
    for side, name in (rsr, 'run'), (direct, 'throughput'), (rsr, 'run'), (direct, 'throughput'):   # to warm up
        side.ask(name, prompts=200, seed=time.monotonic_ns()%10**6, n=1)
    batch.ask('job', prompts=50, seed=1)
    for n, prompts in (1, o.prompts), (4, o.prompts//4):
        def go(n=n, prompts=prompts):
            how = dict(prompts=prompts, n=n)
            mine, theirs, ratio = compare(lambda i: rsr.ask('run', seed=10*n+i, **how),
                                          lambda i: direct.ask('throughput', seed=10*n+i, **how), o.repeats)
            return ratio>=.95, f'rsr {mine/1e3:.1f} k tok/s, AsyncLLM {theirs/1e3:.1f}: {ratio:.2f} (at least 0.95)'
        t.attempt(6, f'throughput, n={n}', go)
    def job():
        mine, theirs, ratio = compare(lambda i: rsr.ask('run', prompts=o.prompts//8, seed=90+i),
                                      lambda i: batch.ask('job', prompts=o.prompts//8, seed=90+i), o.repeats)
        return ratio>=1, f'rsr {mine:.0f} samples/s, LLM.generate {theirs:.0f}: {ratio:.2f} (at least 1.0)'
    t.attempt(6, 'rejection sampling', job)

def cases(place, models):
    "Start the failing cases, side by side; return {name: process}."
    run = lambda name: subprocess.Popen([sys.executable, __file__, '--case', name, *models], cwd=place, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return {name:run(name) for name in ('memory', 'params', 'args', 'folder')}

CAUSES = dict(memory='Free memory on device', params='sampler.extra_params', args='sampler.engine_args',
              folder="there is no folder './no/such/folder'")

def check_cases(t, running):
    for name, p in running.items():
        def go(name=name, p=p):
            out = p.communicate(timeout=200)[0]
            return CAUSES[name] in out and not out.startswith('Traceback'), out[:1200]
        t.attempt(5, f'a start that fails: {name}', go)

def main(o):
    reason = why_not()
    if reason:
        print(f'skipped: {reason}')
        return 77
    place, t = Path(tempfile.mkdtemp()), Table()
    models = write_models(place)
    print(f'models at {time.perf_counter()-t.start:.0f} s', flush=True)
    running, rsr = {} if o.only_speed else cases(place, models), Side('rsr', place, models)
    sides = {} if o.only_rsr else {name:Side(name, place, models) for name in ('direct', 'batch')}
    rsr.reply()
    def many():
        d = rsr.ask('many')
        return d['answers']==64 and d['engines']==d['hosts']==1, f'{d}, CUDA used before'
    t.attempt('1, 2', 'many threads, one engine', many)
    if not t.rows[-1][2]:   # nothing else can hold
        for p in *running.values(), rsr.p, *(s.p for s in sides.values()):
            p.kill()
        return t.show() or 1
    t.attempt(5, 'max_tokens above max_model_len', lambda: ('max_model_len' in (s := rsr.ask('too_long') or ''), s))
    t.attempt(6, 'texts as vLLM makes them', lambda: ((d := rsr.ask('texts'))['same']>=.7*d['of'], d))
    check_cases(t, running)
    if sides:
        for s in sides.values():
            t.attempt('-', f'{s.name} loaded', lambda s=s: (s.reply() is None, ''))
        throughput(t, rsr, sides['direct'], sides['batch'], o)
    t.attempt(5, 'log in the run directory', lambda: ((d := rsr.ask('run', prompts=32, seed=5, n=1))['log']>=2, d))
    if o.only_speed:
        return 0 if t.show() else 1
    for s in sides.values():
        os.killpg(s.p.pid, signal.SIGKILL)   # with its engine: the memory is needed
    t.attempt(4, 'a dead engine is replaced once',
              lambda: ((d := rsr.ask('dead'))['answers']==16 and d['engines']==1, d))
    t.attempt(7, 'two engines share the memory',
              lambda: (sum((d := rsr.ask('two'))['shares'])<.95 and not d['left'], d))
    t.attempt(3, 'ends in order, nothing printed', lambda: (rsr.end()==0 and not rsr.noise, rsr.noise[:20]))
    return 0 if t.show() else 1

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--side')
    p.add_argument('--case')
    p.add_argument('--quick', action='store_true')
    p.add_argument('--only-rsr', action='store_true')
    p.add_argument('--only-speed', action='store_true')
    p.add_argument('--prompts', type=int, default=2000)
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('models', nargs='*')
    o = p.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    if o.quick:
        o.prompts, o.repeats = 1000, 1
    if o.case:
        case(o.case, o.models)
    elif o.side:
        cls, models = dict(rsr=(Rsr, o.models), direct=(Direct, o.models[0]), batch=(Batch, o.models[0]))[o.side]
        side = cls(models)
        serve({k:getattr(side, k) for k in dir(side) if not k.startswith('_')})
    else:
        sys.exit(main(o))
