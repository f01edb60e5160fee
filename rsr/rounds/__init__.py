"Compare rounds of sampling and training, and begin the next one."

__all__ = []
