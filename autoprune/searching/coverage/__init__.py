"""Which networks can be pruned? Whole families, from the trace to a fresh process.

`covering` takes each network the whole way, `reloading` loads what it saved in another process, and `files` keeps the
outcomes and the page that shows them.
"""
