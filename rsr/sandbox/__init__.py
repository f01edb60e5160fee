"Run code of a model under limits, and its tests out of its reach."

__all__ = []
