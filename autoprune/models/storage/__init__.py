"""Networks on disk, without pickle.

`saved` writes and rebuilds the folders that autoprune reads itself; `exports` has the formats for everybody else.
"""
