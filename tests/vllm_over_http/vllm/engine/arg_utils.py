"The engine's arguments."
class AsyncEngineArgs:
    def __init__(self, model, enable_prefix_caching=None, disable_log_stats=False, tensor_parallel_size=1,
                 pipeline_parallel_size=1, data_parallel_size=1, max_model_len=None, max_num_seqs=None,
                 max_num_batched_tokens=None, gpu_memory_utilization=.92, enforce_eager=False,
                 load_format='auto', kv_cache_memory_bytes=None, compilation_config=None):
        self.__dict__.update(locals())
