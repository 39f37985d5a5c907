"""Drivers that route requests to instances."""
