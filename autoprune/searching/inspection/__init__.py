"""Reports on networks and runs; nothing is searched or trained.

`networks` tells what can be cut, what a structure costs and how a saved model does; `reporting` writes the pages of
finished runs, with `layer_costs` for where their multiply-accumulates are.
"""
