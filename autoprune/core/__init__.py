"""Values and arithmetic of the search: no network, no clock, no process. Needs numpy only."""
