"""From the graph of a cell to what an engine runs. It knows the language alone."""
