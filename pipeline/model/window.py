"""The numbers of structural similarity (Wang et al. 2004)."""

WINDOW = 11
"""Side of the Gaussian window in pixels."""
MARGIN = WINDOW - 1
"""By how much a map is longer than the map of its windows."""
SIGMA = 1.5
"""Standard deviation of the window in pixels."""
K1, K2 = 0.01, 0.03
"""Of the stabilising constants (K1 L)² and (K2 L)², where L is the range of the data."""
