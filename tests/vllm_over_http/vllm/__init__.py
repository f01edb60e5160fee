"""vLLM's Python names over vLLM's HTTP contract: for tests without a GPU.

`AsyncLLM` sends requests to the server in VLLM_TEST_URL (tests/loopback.py with flavour='vllm') and returns what vLLM's
engine would: RequestOutput with token ids, finish reasons, ValueError for a prompt that is too long. Each engine has a
process of its own, as vLLM's have: started by fork or spawn as VLLM_WORKER_MULTIPROC_METHOD says, it prints to stdout,
it can be killed, and it takes memory of GPUs, of which there are VLLM_TEST_GPUS. Every engine is a line in the file
VLLM_TEST_ENGINES."""
from .sampling_params import SamplingParams  # noqa: F401
