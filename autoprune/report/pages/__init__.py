"""Pages that need neither network nor server.

`run` is the report of a run, `comparison` sets several side by side: both of the `markup` and the `style` that reports
share, with `sections` that need no picture. `front` is the page of the front, which `front_style` lays out and a script
draws (`front_picture`) and steers (`front_script`). The `frame` of every page lets nothing in and nothing out.
"""
