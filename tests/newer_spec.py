"""Run a footfall command as a later release would: its feature spec has one more feature, in front of the others.

Tests pass this file to a Python process. Nothing else of the release differs.
"""

from typing import Any

from models.features import snapshot as old_snapshot
from models.features import spec

FIRST = spec.Feature("test.constant", "a constant", "life")
spec.FEATURE_SPEC = spec.make_spec((FIRST, *spec.FEATURE_SPEC.features))

from stream.cli.main import main  # noqa: E402, after the spec that it imports
from stream.roles import features_fold  # noqa: E402


def snapshot(state: Any, ttl_ms: int) -> Any:
    """Return the snapshot with the value of the added feature."""
    made = old_snapshot.snapshot(state, ttl_ms)
    return type(made)(**{name: getattr(made, name) for name in made.__struct_fields__} | {"features": [1.0, *made.features]})


features_fold.snapshot = snapshot
if __name__ == "__main__":
    main()
