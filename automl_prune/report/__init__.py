"""Tables and drawings of a search, from what the service tells of it."""
