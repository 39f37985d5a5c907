"""The version is written in two places."""

from __future__ import annotations

from importlib.metadata import version

from gestalt import __version__


def test_the_version_is_that_of_the_package() -> None:
    assert __version__ == version("gestalt")
