"""What commands start from: options, a network with images, the folder of an earlier run.

`options` is what a search is asked to do; `problems` loads network and images, with `digests` for images that have no
name. `run_folder` reads the records of a run, `recorded` takes options from one, and `dense` finds the network that a
saved one was cut from.
"""
