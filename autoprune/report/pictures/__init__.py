"""Pictures, drawn once for pages and for files.

`svg` draws, in the `colours` of pages, and `png` rasterises what was drawn. `front` is the picture of the front,
`figures` has the other ones of a report, `overlays` those of several runs.
"""
