"""The network families of the papers, with the parameter names of their public weights."""
