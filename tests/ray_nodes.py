"""One Ray of two nodes on this machine, for all tests that need one and follow each other in a process.

Each run on it starts its own actors: processes that import Ray and rsr. That is most of what such a test takes."""
import os
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

MEM = 80*1024*1024
SETTINGS = dict(RAY_USAGE_STATS_ENABLED='0', RAY_worker_niceness='0',   # as fast as the rest of the test
                RAY_agent_register_timeout_ms='300000',
                RAY_health_check_period_ms='1000', RAY_health_check_timeout_ms='20000')

LIGHT = str(Path(__file__).parent/'light')
sys.modules.setdefault('rfc3987_syntax', None)   # here as in the processes of Ray: see `light/rfc3987_syntax.py`

def raylet_died():
    "Check whether the node that this process has started last is gone: a busy machine may make Ray end it."
    psutil = import_module('psutil')
    raylets = [p for p in psutil.Process().children() if p.name()=='raylet']
    return not raylets or max(raylets, key=lambda p: p.create_time()).status()==psutil.STATUS_ZOMBIE

def wait_for(cond, seconds=240):
    end = time.time()+seconds
    while not (r := cond()):
        assert time.time()<end, 'timed out'
        time.sleep(.01)
    return r

def patiently(start, tries=5):
    "Start a node and wait until it is there, for longer than the 30 s after which Ray gives up; again if it died."
    services = import_module('ray._private.services')
    get_node = services.get_node
    def once_there(*args):
        found = []
        def look():
            try:
                return found.append(get_node(*args)) or found
            except RuntimeError:      # not yet
                return raylet_died()
        wait_for(look)
        return found[0] if found else get_node(*args)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(services, 'get_node', once_there)
        for _ in range(tries-1):
            try:
                return start()
            except Exception as e:
                if 'timed out during startup' not in str(e):
                    raise
        return start()

class Nodes:
    "Two nodes with two CPUs each, started when they are first asked for."
    def __init__(self):
        self.cluster, self.env = None, pytest.MonkeyPatch()

    def start(self):
        "Return the cluster of `ray.cluster_utils`, to which this process is connected."
        if not self.cluster:
            self.env.setenv('PYTHONPATH', LIGHT, prepend=os.pathsep)
            for name, value in SETTINGS.items():
                self.env.setenv(name, os.environ.get(name, value))
            ray, cluster = import_module('ray'), import_module('ray.cluster_utils').Cluster()
            for dashboard in (dict(include_dashboard=False), {}):
                self.add(cluster, **dashboard)
            ray.init(address=cluster.address, log_to_driver=False, logging_level='ERROR')
            self.cluster = cluster
        return self.cluster

    def add(self, cluster, **options):
        "Add a node; return it."
        return patiently(lambda: cluster.add_node(num_cpus=2, object_store_memory=MEM, **options))

    def stop(self):
        if self.cluster:
            import_module('ray').shutdown()
            self.cluster.shutdown()
            self.cluster = None
            self.env.undo()

NODES = Nodes()
