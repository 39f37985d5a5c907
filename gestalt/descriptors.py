"""What differs between the versions of protobuf that we run with."""

from __future__ import annotations

from typing import Any


def is_repeated(field: Any) -> bool:
    """Whether a field holds many values. Newer versions say it in one word, and have dropped `label`."""
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)
