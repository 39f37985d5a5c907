"""Gestalt: one resilient place to run applications on a set of RHEL-family machines."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gestalt")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0"
