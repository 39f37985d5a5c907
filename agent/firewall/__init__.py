"""What the agent keeps in the kernel's packet filter, in a table of its own."""
