"""What a network costs, counted by running it: independent of the arithmetic of the cost model.

`counting` counts MACs and parameters, `conventions` what published tables count beside them, and `layer_calls` lists
the calls of layers, so that each can be run and timed alone. The peak of activations is part of a trace, see
`models.tracing.memory`.
"""
