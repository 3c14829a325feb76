"""Published pruning methods and baselines: each reads a network and says which channels stay."""
