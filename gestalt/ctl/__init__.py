"""gestaltctl, the operator's command line."""
