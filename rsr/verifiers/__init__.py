"Score a response against a reference answer."
from rsr.verifiers.judge import make_judge
from rsr.verifiers.one_response import verify
from rsr.verifiers.registry import verifier
from rsr.verifiers.verifiers import load_verifier

__all__ = ['load_verifier', 'make_judge', 'verifier', 'verify']
