"""What of a network can be cut together, read off one forward pass on channel labels.

`tracer` runs the forward. `labels` say which channel an element belongs to, `views` follow parameters that are moved
about, and `rules` say what operations do to labels: `movement` of data, `indexing`, `products` as in attention,
`vision` for torchvision's own. `assembly` turns the labels into groups, axes and costs, `memory` into the peak of
activations; `auxiliary` adds heads that run only in training.
"""
