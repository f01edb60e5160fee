"Rejection-sampling recipes: training data for language models, every rollout kept."
__version__ = "0.1.0"

__all__ = ['Run', 'copy_run', 'load_run', 'make_rewards', 'sample', 'verify']

# Nothing is imported before it is used: `rsr --help` answers at once, and Ctrl-C in the first second finds nothing half
# imported. Type checkers take the names from here:
TYPE_CHECKING = False
if TYPE_CHECKING:
    from rsr.data.safekeeping import copy_run
    from rsr.run import Run, load_run, make_rewards, sample
    from rsr.verifiers import verify

_HOME = dict(Run='run', copy_run='data', load_run='run', make_rewards='run', sample='run', verify='verifiers')
_PACKAGES = ('cli', 'cluster', 'data', 'exchange', 'explore', 'formatters', 'hub', 'pairs', 'quality', 'rounds',
             'rubric', 'run', 'sampling', 'taxonomy', 'verifiers')

def face(package, home, packages=()):
    "Return `__getattr__` and `__dir__` of a package that imports its names (`home`: {name: module}) on first use."
    from importlib import import_module
    from sys import modules
    def __getattr__(name):
        if name in packages:
            return import_module(f'{package}.{name}')
        if name not in home:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        value = getattr(import_module(f'{package}.{home[name]}'), name)
        setattr(modules[package], name, value)
        return value
    def __dir__():
        return sorted({*vars(modules[package]), *home, *packages})
    return __getattr__, __dir__

_import, __dir__ = face('rsr', _HOME, _PACKAGES)

def __getattr__(name):
    "Import a name of rsr on first use, with its arguments in its docstring."
    value = _import(name)
    if name in ('copy_run', 'verify'):
        from rsr.data.arguments import document
        document(value)
    elif name in _HOME:
        from rsr.run import document_arguments
        document_arguments()
    return value
