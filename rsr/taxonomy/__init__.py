"Prompts from a taxonomy: dimensions, combinations, coverage, diversity."
from rsr.taxonomy.taxonomy import Taxonomy, combinations, load_taxonomy, template_prompts
from rsr.taxonomy.coverage import coverage
from rsr.taxonomy.diversity import diversity
from rsr.taxonomy.generate import make_prompts

__all__ = ['Taxonomy', 'combinations', 'coverage', 'diversity', 'load_taxonomy', 'make_prompts', 'template_prompts']
