"""Pages in the browser: a local server that talks to one page and to nobody else."""
