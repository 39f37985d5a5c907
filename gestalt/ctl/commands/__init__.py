"""The commands of gestaltctl, imported one by one when they are run."""
