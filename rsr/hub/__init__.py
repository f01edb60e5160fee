"Describe a run on a dataset card, share it on a hub, and load what was shared."
from rsr.hub.card import write_card
from rsr.hub.loading import load_hub_run, to_dataset
from rsr.hub.push import push

__all__ = ['load_hub_run', 'push', 'to_dataset', 'write_card']
