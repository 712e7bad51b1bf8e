"""Deterministic ids: the same source event gives the same output ids after a crash, at any speed, and in a replay.

Start at output_id.
"""

import uuid

_NAMESPACE = uuid.UUID("5f1d3b52-7f0a-5a53-9d55-0f7f0077fa11")


def position_id(topic: str, partition: int, offset: int) -> str:
    """Return the event id of a source event that came without one."""
    return str(uuid.uuid5(_NAMESPACE, f"{topic}|{partition}|{offset}"))


def output_id(user_id: str, kind: str, event_id: str, output: str, ordinal: int = 0) -> str:
    """Return the id of the `ordinal`-th `output` that one source event causes."""
    return str(uuid.uuid5(_NAMESPACE, f"{user_id}|{kind}|{event_id}|{output}|{ordinal}"))


def trigger_id(signal_id: str, campaign_id: str, outcome: str) -> str:
    """Return the id of what one campaign decided about one signal."""
    return str(uuid.uuid5(_NAMESPACE, f"{signal_id}|{campaign_id}|{outcome}"))
