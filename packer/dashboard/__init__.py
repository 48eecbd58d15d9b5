"""A job as a page in a browser on the same machine: it can be looked at, and nothing can be done with it."""
