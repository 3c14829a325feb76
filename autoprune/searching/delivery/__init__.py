"""Networks made and handed over: tested, saved, exported, registered.

`picking` makes any candidate of a search a network, `pruning` one structure by one method, without a search.
`exporting` writes formats for everybody, `registering` models in MLflow; a `second_process` gets both ready meanwhile.
"""
