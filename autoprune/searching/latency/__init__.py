"""How long networks and layers take on this machine: FLOPs are not milliseconds.

`timing` measures anything fairly, `forward` whole passes, and `budget` makes of timed layers the prediction that a
latency budget speaks of.
"""
