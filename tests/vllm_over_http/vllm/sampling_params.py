"The parameters, refused when unknown as vLLM refuses them."
from enum import Enum

class RequestOutputKind(Enum):
    CUMULATIVE, DELTA, FINAL_ONLY = 0, 1, 2

class SamplingParams:
    def __init__(self, n=1, temperature=1., top_p=1., top_k=0, min_p=0., max_tokens=16, seed=None, stop=None,
                 detokenize=True, logprobs=None, skip_special_tokens=True,
                 ignore_eos=False, stop_token_ids=None, output_kind=RequestOutputKind.CUMULATIVE):
        if temperature<0:
            raise ValueError(f'temperature must be non-negative, got {temperature}.')
        if stop and not detokenize:
            raise ValueError('stop strings are only supported when detokenize is True.')
        given = dict(n=n, temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens, seed=seed,
                     stop=stop)
        self.output_kind, self.d = output_kind, {k:v for k, v in given.items() if v is not None}
        self.detokenize, self.logprobs = detokenize, logprobs
