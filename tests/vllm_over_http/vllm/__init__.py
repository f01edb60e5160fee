"""vLLM's Python names over vLLM's HTTP contract: for tests without a GPU.

`AsyncLLM` sends requests to the server in VLLM_TEST_URL (tests/loopback.py with flavour='vllm') and returns what vLLM's
engine would: RequestOutput with token ids, finish reasons, ValueError for a prompt that is too long."""
from .sampling_params import SamplingParams  # noqa: F401
