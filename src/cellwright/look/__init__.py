"""Looking inside: checks and views of cells."""
