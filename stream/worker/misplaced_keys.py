"""Count records whose key belongs to another partition, and log one warning about the first. Start at MisplacedKeys.count."""

from collections import Counter
from collections.abc import Sequence

import structlog

from stream.fold.placement import REMEDIES, Placement
from stream.fold.records import Misplaced

log = structlog.get_logger()


class MisplacedKeys:
    """Count misplaced records by topic since process start, in `found`."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self.found: Counter[str] = Counter()

    def count(self, misplaced: Sequence[Misplaced]) -> None:
        """Count the misplaced records of a folded chunk; log the first one of this process."""
        if misplaced and not self.found:
            self._warn(misplaced[0])
        for record in misplaced:
            self.found[record.topic] += 1

    def _warn(self, record: Misplaced) -> None:
        placement = self._placement
        taken = "accepted it" if placement.accepts_misplaced else "sent it to the dead letters"
        log.warning(
            "misplaced_key",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            expected_partition=record.expected,
            partitions=placement.partitions,
            partitioner=placement.partitioner,
            fact="this topic's producer places keys by another partitioner, so its users would be split over rows",
            action=f"{taken}; {REMEDIES[placement.partitioner]}; footfall_misplaced_keys counts further ones",
        )
