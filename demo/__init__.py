"""The demo: `make demo` and `make demo-down`."""
