"""How a cluster and its members come to be: the first machine by `gestaltctl cluster init`, the others by joining with a token."""
