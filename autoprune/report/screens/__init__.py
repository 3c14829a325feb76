"""What a terminal or a notebook shows of a search.

`live` is its progress in a terminal, with the `plot` of its front; `notebook` is that below a cell. `summary` tells
what was reached in the end, with the `widths` that were kept, `next_steps` what to type then.
"""
