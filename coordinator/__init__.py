"""Coordinator: holds the desired state, decides, and tells the agents."""
