"""Drivers that judge the health of instances."""
