"""Find assigned partitions that are not being read: the broker has sent no fetch response for a while.

A partition with fetched records that still wait for the fold is being read, however long they wait. Start at
UnreadPartitions.find.
"""

from collections.abc import Collection
from typing import Any

UNREAD_SECONDS = 10.0


class UnreadPartitions:
    """Remember since when each assigned partition waits for its next fetch response."""

    def __init__(self) -> None:
        """Begin without partitions."""
        self._since: dict[Any, tuple[Any, float]] = {}  # by partition: its state in the consumer, monotonic seconds

    def find(self, consumer: Any, topics: Collection[str], now: float, wall: float) -> dict[tuple[str, int], float]:
        """Return the seconds without a fetch response, by partition of `topics`, where they exceed UNREAD_SECONDS.

        A partition also counts as unread if it is not assigned, and that of another topic is. `consumer` is aiokafka's, `now`
        the monotonic and `wall` the epoch time in seconds.
        """
        subscription = consumer._subscription.subscription  # None until the consumer has subscribed
        assignment = None if subscription is None else subscription.assignment
        waiting: dict[Any, tuple[Any, float]] = {}
        if assignment is None:
            self._since = waiting
            return {}
        assigned = {tuple(tp) for tp in assignment.tps if tp.topic in topics}
        for tp in {(topic, partition) for topic in topics for _, partition in assigned}:
            state = assignment.state_value(tp) if tp in assigned else None
            if state is not None and (state.paused or tp in consumer._fetcher._records):
                continue
            known, since = self._since.get(tp, (state, now))
            if state is not None and state.timestamp is not None:  # milliseconds of the wall clock
                since = max(since, now - max(0.0, wall - state.timestamp / 1000))
            waiting[tp] = (state, since if known is state else now)
        self._since = waiting
        return {tp: now - since for tp, (_, since) in waiting.items() if now - since > UNREAD_SECONDS}
