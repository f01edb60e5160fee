"Fine-tune the embedded model with TRL on the CPU, and write it back as GGUF for rsr to serve (for end_to_end.ipynb)."
import argparse
import json
import os
import re
import resource
from pathlib import Path

import gguf
import numpy as np
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

NAMES = dict(input_layernorm='attn_norm', post_attention_layernorm='ffn_norm', q_proj='attn_q', k_proj='attn_k',
             v_proj='attn_v', o_proj='attn_output',
             gate_proj='ffn_gate', up_proj='ffn_up', down_proj='ffn_down')

def load(path):
    "Model and tokenizer of a GGUF file; the weights come back as 32-bit floats."
    path = Path(path)
    tok = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32), tok

def tensor_name(name):
    "The name that llama.cpp has for a weight of a Llama model."
    if m := re.match(r'model\.layers\.(\d+)\.(?:\w+\.)?(\w+)\.weight', name):
        return f'blk.{m[1]}.{NAMES[m[2]]}.weight'
    return {'model.embed_tokens.weight':'token_embd.weight', 'model.norm.weight':'output_norm.weight'}.get(name)

def interleaved(w, heads):
    "Rows of a query or key matrix in llama.cpp's order: rotary pairs side by side."
    return w.reshape(heads, 2, w.shape[0]//heads//2, -1).swapaxes(1, 2).reshape(w.shape)

def write_gguf(model, src, out):
    "The file `src` with the model's weights in place of its own, in 8 bits; vocabulary and template are copied."
    r, c = gguf.GGUFReader(src), model.config
    w = gguf.GGUFWriter(out, r.fields['general.architecture'].contents())
    for k, f in r.fields.items():
        if k.startswith('GGUF.') or k in ('general.architecture', 'general.file_type'):
            continue
        w.add_key_value(k, f.contents(), f.types[0], f.types[-1] if len(f.types)>1 else None)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    weights = {tensor_name(k):v.detach().numpy() for k, v in model.state_dict().items()}
    for t in r.tensors:
        x = weights[t.name]
        if '.attn_q.' in t.name:
            x = interleaved(x, c.num_attention_heads)
        if '.attn_k.' in t.name:
            x = interleaved(x, c.num_key_value_heads)
        q = gguf.GGMLQuantizationType.Q8_0 if x.ndim==2 else gguf.GGMLQuantizationType.F32
        w.add_tensor(t.name, gguf.quants.quantize(np.ascontiguousarray(x), q), raw_dtype=q)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

def main():
    p = argparse.ArgumentParser()
    for k in ('model', 'data', 'eval', 'out'):
        p.add_argument(k)
    p.add_argument('--epochs', type=float, default=3)
    p.add_argument('--lr', type=float, default=5e-5)
    a = p.parse_args()
    logging.disable_progress_bar()
    set_seed(0)
    # one core stays free: a busy machine is several times slower otherwise
    torch.set_num_threads(max(1, (os.cpu_count() or 2)-1))
    model, tok = load(a.model)
    out = Path(a.out)
    write_gguf(model, a.model, out/'before.gguf')
    # plain floats by now; the trainer refuses to train a model that is marked as quantised
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    rows = {k:load_dataset('json', data_files=str(f), split='train') for k, f in (('train', a.data), ('eval', a.eval))}
    args = SFTConfig(out/'trainer', num_train_epochs=a.epochs, learning_rate=a.lr, per_device_train_batch_size=4,
                     per_device_eval_batch_size=8,
                     eval_strategy='epoch', eval_on_start=True, lr_scheduler_type='linear', warmup_steps=3,
                     logging_steps=1, save_strategy='no', report_to=[],
                     use_cpu=True, bf16=False, gradient_checkpointing=False,
                     max_length=256, completion_only_loss=True, seed=0, disable_tqdm=True)
    t = SFTTrainer(model, args, train_dataset=rows['train'], eval_dataset=rows['eval'], processing_class=tok)
    t.train()
    write_gguf(t.model, a.model, out/'after.gguf')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
    (out/'log.json').write_text(json.dumps(dict(log=t.state.log_history, steps=t.state.global_step, peak_gb=peak)))

if __name__=='__main__':
    main()
