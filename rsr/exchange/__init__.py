"Take in rollouts that other tools made; join runs, and split them."
from rsr.exchange.importers import importer
from rsr.exchange.imports import formats, import_rollouts

__all__ = ['formats', 'import_rollouts', 'importer']
