"""Which channels to keep, and how their consumers make up for the others.

`calibration` passes images through the dense network once; `similarity`, `feature_maps` and `profiling` read statistics
off it. `selection` ranks channels by what is lost with them, `elimination` by what a reconstruction misses. `merging`
makes the cut network work: sliced, channels added, least squares per consumer, or `reconstruction` layer by layer, with
the closed forms of `ridge`.
"""
