"""What is told of a run, as values, before anything is drawn or written.

`run` is a run folder as a value, `rows` its candidates as flat rows, and `progress` what a search tells of itself.
`numbers` has every figure of a report, `repeats` how far those of other seeds lie apart.
"""
