"Ask a model for samples, within slots and budgets, until every prompt is done."
from rsr.sampling.errors import CallError
from rsr.sampling.samplers import sampler
from rsr.sampling.providers import make_sampler
from rsr.sampling.budget import Budget
from rsr.data.threads import run_sync
from rsr.sampling.engine import Engine
from rsr.sampling.schedule import Sampling, Schedule
from rsr.sampling.loop import Loop
from rsr.sampling import live_status as live_status   # adds to Loop, as the next does
from rsr.sampling import outlook as outlook

__all__ = ['Budget', 'CallError', 'Engine', 'Loop', 'Sampling', 'Schedule', 'make_sampler', 'run_sync', 'sampler']
