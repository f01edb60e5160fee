"Describe a run on a dataset card, share it on a hub, and load what was shared."

__all__ = []
