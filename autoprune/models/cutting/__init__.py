"""A smaller network from a dense one, which is never touched.

`surgery` takes the kept channels of every group and returns the cut network, `attention` puts modules whose heads can
be cut in place of those that write their number down, and `folding` rewrites networks that only have to be scored.
"""
