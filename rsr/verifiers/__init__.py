"Score a response against a reference answer."
from rsr.verifiers.judge import make_judge
from rsr.verifiers.verifiers import load_verifier, verifier, verify

__all__ = ['load_verifier', 'make_judge', 'verifier', 'verify']
