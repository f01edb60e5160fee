"Weighted criteria, judged by models or functions, and checked against human labels."
from rsr.rubric.criteria import Criterion, Rubric, load_rubric
from rsr.rubric.agreement import agreement
from rsr.rubric.labels import label
from rsr.rubric.validate import validate

__all__ = ['Criterion', 'Rubric', 'agreement', 'label', 'load_rubric', 'validate']
