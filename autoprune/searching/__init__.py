"""Puts a search together from its parts: the only place that constructs concrete classes."""
