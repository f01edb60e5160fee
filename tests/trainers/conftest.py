"""Plain `pytest` collects nothing here: these tests need a trainer, in an environment of its own.

`make test-trainers` makes both and names the files."""
import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE='1', HF_DATASETS_OFFLINE='1', TRANSFORMERS_OFFLINE='1', TOKENIZERS_PARALLELISM='false',
                  CUDA_VISIBLE_DEVICES='')
sys.path.insert(0, str(Path(__file__).parent))
