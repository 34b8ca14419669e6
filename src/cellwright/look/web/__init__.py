"""Pages in the browser: a local server that answers its own pages alone."""
