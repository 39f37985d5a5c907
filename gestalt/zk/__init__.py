"""ZooKeeper for everything of ours: one client, one place that knows the paths."""
