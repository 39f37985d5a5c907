"""From bare machines to a cluster: what a machine is, what it lacks, what is put on it."""
