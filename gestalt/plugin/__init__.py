"""Driver interfaces, one module per kind, and how drivers are found."""
