"""Networks: building them by name, loading weights, reading their structure and cutting them.

All speak of the traced network in `network`. From the bottom up, each importing only what stands before it: `modules`;
`watching` and `cutting`; `tracing`; `costing`; `verification`, `reduction` and `zoo`; `storage`.
"""
