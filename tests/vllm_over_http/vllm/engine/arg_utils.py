"The engine's arguments."
class AsyncEngineArgs:
    def __init__(self, model, enable_prefix_caching=None, disable_log_stats=False, tensor_parallel_size=1,
                 data_parallel_size=1, max_model_len=None):
        self.__dict__.update(locals())
