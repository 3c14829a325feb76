"""Measurements that are kept: experiment files, methods against each other, proxies against finetunes.

`runner` carries out experiment files and writes results files, whose `provenance` says where figures come from.
`comparison` sets methods side by side on one network; `proxies` scores structures by cheap evaluations and by what
these stand for, and `agreement` says how far two rankings agree.
"""
