"""Files of results as Markdown, so that no figure is ever typed.

`results` makes the tables of experiments, `coverage` the page of networks that can be pruned.
"""
