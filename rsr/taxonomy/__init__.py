"Prompts from a taxonomy: plan combinations, write prompts, label production, measure coverage and diversity."
from rsr.taxonomy.taxonomy import Taxonomy, load_taxonomy
from rsr.taxonomy.combinations import combinations, template_prompts
from rsr.taxonomy.classify import label_agreement, label_rows
from rsr.taxonomy.coverage import coverage, coverage_table
from rsr.taxonomy.coverage_figures import plot_coverage, plot_pairs
from rsr.taxonomy.refit import fit   # also adds Taxonomy.fit
from rsr.taxonomy.diversity import diversity, diversity_table, plot_diversity
from rsr.taxonomy.generate import make_prompts

__all__ = ['Taxonomy', 'combinations', 'coverage', 'coverage_table', 'diversity', 'diversity_table', 'fit',
           'label_agreement', 'label_rows', 'load_taxonomy', 'make_prompts', 'plot_coverage', 'plot_diversity',
           'plot_pairs', 'template_prompts']
