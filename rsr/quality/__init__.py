"Before training: which method, the checklist, the comparison of runs, the report."
from rsr.quality.method_guide import choose_method
from rsr.quality.compare import compare
from rsr.quality.checklist import checklist
from rsr.quality.report import write_report

__all__ = ['checklist', 'choose_method', 'compare', 'write_report']
