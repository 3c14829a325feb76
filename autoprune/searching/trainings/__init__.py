"""Trainings of whole networks, begun by a command of their own.

`options` is what they are asked to do. `training` trains a network that is named, `finetuning` a saved one; both go
through `run`, which keeps a `journal` of every epoch. `teachers` are the networks that a finetune can be taught by,
`teamwork` spreads a training over several workers.
"""
