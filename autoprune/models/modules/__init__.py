"""Modules, whoever's they are: layers that torch lacks, and users' networks made ready to be copied and moved.

`layers` has the channel map of option-A shortcuts, `hollow` what is left of layers without weights. `portable` makes
lazy layers, copies networks and gives them one argument, with `closures` for the functions that hold layers and
`compiled` for what `torch.compile` wrapped. `randomising` draws weights in which no wrong cut can hide.
"""
