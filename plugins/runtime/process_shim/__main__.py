"""The shim as a program. Run as a file it is no part of a package until it says so (PEP 366)."""

import os
import sys

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120 - pathlib would cost a megabyte
    __package__ = "process_shim"

from .shim import main

main(sys.argv[1:])
