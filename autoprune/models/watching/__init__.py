"""Forward passes watched below Python, operation by operation, whatever it is for.

`dispatch` is the base of every watcher. `operations` numbers convolutions, linear layers, batch norms and additions, so
that those of a cut network are found in the dense one; `records` is what an operation leaves behind, `origins` tells
tensors that depend on the image from those that only parameters make.
"""
