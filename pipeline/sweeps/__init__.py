"""Many experiments at once: a grid or a search, in DVC's queue or on the machines of a Ray cluster."""
