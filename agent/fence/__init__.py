"""Fence: the small process that alone holds the node's ZooKeeper session and its membership, whatever the agent does."""
