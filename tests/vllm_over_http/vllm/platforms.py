"GPUs of 80 GB, as many as VLLM_TEST_GPUS says."
import os
from types import SimpleNamespace as NS

MEMORY = 80*10**9
current_platform = NS(device_count=lambda: int(os.environ.get('VLLM_TEST_GPUS', 1)),
                      get_device_total_memory=lambda device_id=0: MEMORY)
