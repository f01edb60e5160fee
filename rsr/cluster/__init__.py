"A run spread over a Ray cluster."
from rsr.cluster.driver import execute_cluster

__all__ = ['execute_cluster']
