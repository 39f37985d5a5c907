"""The template: the part of a description whose change makes a new version."""

from __future__ import annotations

import hashlib
import json

from .schema import AppSpec

RUN_STATE = frozenset({"path", "instances", "autoscale"})


def template_document(spec: AppSpec) -> dict[str, object]:
    """Return the template as plain JSON values: the description without its run state."""
    return spec.model_dump(mode="json", exclude=set(RUN_STATE))


def template_hash(spec: AppSpec) -> str:
    """Return 16 hex digits that are equal exactly when two templates are."""
    text = json.dumps(template_document(spec), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
