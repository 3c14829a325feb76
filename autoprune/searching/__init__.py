"""Puts a search together from its parts: the only place that constructs concrete classes.

From the bottom up, each importing only what stands before it: `latency`; `inputs`; `search`; what begins where a search
ends or goes without one, `trainings`, `delivery` and `inspection`; `experiments`; `coverage`.
"""
