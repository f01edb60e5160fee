"Who makes an engine decides its defaults."
from enum import Enum

class UsageContext(Enum):
    LLM_CLASS, ENGINE_CONTEXT = 'LLM_CLASS', 'ENGINE_CONTEXT'
