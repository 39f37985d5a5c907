"""The servicers: from messages to the coordinator and back, nothing else."""
