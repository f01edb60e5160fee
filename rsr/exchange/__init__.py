"Take in rollouts that other tools made; join runs, and split them."

__all__ = []
