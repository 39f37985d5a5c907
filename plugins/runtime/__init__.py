"""Drivers that run instances."""
