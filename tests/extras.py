"Use what an extra enables: `python tests/extras.py NAME` in an environment with it, or without (then exit code 3)."
import os
import sys
import tempfile
from pathlib import Path

PROMPTS = [dict(id=f'q{i}', messages=[dict(role='user', content=f'What is {i} + {i}? Answer with a number.')],
                metadata=dict(answer=str(2*i))) for i in range(1, 4)]

def sampled(**options):
    "A run of the three prompts, whose responses are given: no model is needed."
    import rsr
    rows = [{**p, 'responses': ['It is '+p['metadata']['answer']]} for p in PROMPTS]
    options = {'recipe': 'sft', 'verifier': 'math-rlvr', 'data.responses': 'responses', 'progress': False,
               'base_url': 'http://127.0.0.1:9/v1', 'model': 'never-asked', **options}
    return rsr.sample(rows, work_dir='run', **options)

def local():
    import rsr
    run = rsr.sample(PROMPTS, recipe='sft', verifier='math-rlvr', max_tokens=8, work_dir='run', progress=False)
    return f'{len(run.rollouts)} responses of the embedded model'

def parquet():
    sampled(**{'formatter.format': 'parquet'})
    from rsr.data.sources import read_file
    rows = [*read_file(Path('run/train/sft.parquet'))]
    return f'{len(rows)} rows written and read'

def explore():
    import re
    import subprocess
    import urllib.request

    from rsr.data.types import RsrError
    path = str(sampled().path)
    line = f'import sys; from rsr.cli import main; sys.exit(main(["explore", {path!r}, "browser=false"]))'
    with subprocess.Popen([sys.executable, '-c', line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as server:
        said = ''
        while not (address := re.search(r'http://\S+', said)):
            if not (more := server.stdout.readline()):
                raise RsrError(said.strip())
            said += more
        try:
            page = urllib.request.urlopen(address[0], timeout=60).read()
        finally:
            server.terminate()
    return f'a page of {len(page)} bytes'

def ray():
    import rsr
    run = rsr.sample(PROMPTS, recipe='sft', verifier='math-rlvr', engine='ray', work_dir='run', progress=False,
                     max_tokens=8)
    return f'{len(run.rollouts)} responses on a cluster'

def vllm():
    import rsr
    model = {'sampler.type': 'vllm-offline', 'sampler.model': os.environ['MODEL']}
    run = rsr.sample(PROMPTS, recipe='sft', verifier='math-rlvr', work_dir='run', progress=False, **model)
    return f'{len(run.rollouts)} responses of vLLM'

def code():
    import rsr
    text = '```python\ndef double(x):\n    return 2*x\n```'
    assert rsr.verify('code', text, dict(tests=['assert double(2) == 4'])) == 1.0
    assert rsr.verify('code', text, dict(tests=['assert double(2) == 5'])) == 0.0
    return 'a right and a wrong function told apart in bubblewrap'

def constraints():
    import rsr
    metadata = dict(instruction_id_list=['punctuation:no_comma'], kwargs=[{}])
    for _ in range(3):   # the first may run out of time while the checks are loaded
        scores = [rsr.verify('constraints', text, metadata) for text in ('no comma', 'a comma, here')]
        if None not in scores:
            break
    assert scores == [1.0, 0.0], scores
    return 'an instruction checked'

def reward():
    import rsr
    try:
        import torch
        import transformers
    except ImportError:
        rsr.verify('reward-model', 'It is 4.', {}, model='model')
    from tokenizers import Tokenizer, models, pre_tokenizers
    words = ['<pad>', '<s>', '</s>', '<unk>', 'It', 'is', *map(str, range(10))]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token='<unk>'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tok, bos_token='<s>', pad_token='<pad>')
    tokenizer.chat_template = '{% for m in messages %}{{ m.content }} {% endfor %}'
    config = transformers.LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16, num_labels=1,
                                      num_hidden_layers=1, num_attention_heads=2, pad_token_id=0)
    transformers.LlamaForSequenceClassification(config).save_pretrained('model')
    tokenizer.save_pretrained('model')
    every = {'formatter.pass_threshold': -1000.0}   # the weights are random, and no response is to be asked for
    run = sampled(verifier=dict(type='reward-model', model='model'), **every)
    return f"{run.rollouts['score'].notna().sum()} rewards of a model in this process (torch {torch.__version__})"

def hub():
    return f"{len(sampled().to_dataset('sft'))} rows as a Dataset"

if __name__ == '__main__':
    from rsr.data.types import RsrError
    name = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            print(globals()[name]())
        except RsrError as e:
            print(e)
            sys.exit(3)
        finally:
            os.chdir('/')
