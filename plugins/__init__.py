"""Drivers, one file each, under a folder per kind."""
