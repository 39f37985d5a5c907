"""Agent: makes one node match its desired state, again and again."""
