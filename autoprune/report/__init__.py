"""What people see of a search: live progress, the final table, the interactive page of its front, tables of rows.

From the bottom up, each importing only what stands before it: `formats`, `files` and `observer`; `records`, what is
told of a run, and `pictures`; where people look, `pages`, `screens`, `dashboards` and `markdown`.
"""
