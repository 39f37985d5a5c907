"""Gestalt: one resilient place to run applications on a set of RHEL-family machines."""

__version__ = "0.1.0"
"""The same as in setup.py, which a test sees to: asking the installed package would cost each process 2 MB."""
