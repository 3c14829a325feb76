"""The search itself, from its first look at a network to its results.

`api` is called by Python and the command line, and `running` is what it calls. `preparation` gathers what a search
needs before its first candidate, `latency` what it needs of measured times; `resuming` tells whether one goes on where
it began. `workers` evaluate candidates, `finish` rebuilds and tests the incumbent, `results` writes what is left.
"""
