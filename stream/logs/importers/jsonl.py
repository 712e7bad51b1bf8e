"""Import Footfall's own events, written as JSON lines, as an event log.

A line holds an event's fields (schemas/events.py), its `kind`, and optionally `record_ms`, its arrival time (default: its
event time). A line that a role would refuse is dropped, with the reason that its dead letter would have. Start at
import_jsonl.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from schemas.codec import event_decoder, refusal
from schemas.errors import DecodeError
from schemas.fields import Millis
from schemas.topics import SOURCES
from stream.logs.event_log import ImportCounts, LoggedEvent
from stream.logs.importers.logged_events import Samples, logged, reject
from stream.logs.importers.tables import open_text

DECODERS = {kind: event_decoder(struct) for kind, struct in SOURCES.items()}


class _Head(Struct):
    kind: str
    user_id: str
    record_ms: Millis | None = None


def import_jsonl(path: Path, samples: Samples) -> tuple[Iterator[LoggedEvent], ImportCounts]:
    """Read a file, gzipped or not, line by line. The counts are complete once all events are read.

    Raises:
        LogError: there is no such file (when the events are read).
    """
    counts = ImportCounts()
    return _events(path, counts, samples), counts


def _events(path: Path, counts: ImportCounts, samples: Samples) -> Iterator[LoggedEvent]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            counts.lines_in += 1
            value = line.encode(errors="surrogateescape").strip()
            try:
                head = msgspec.json.decode(value, type=_Head)
                if head.kind not in DECODERS:
                    reject(counts, samples, number, "unknown_kind", f"found {head.kind!r}, expected {', '.join(SOURCES)}")
                    continue
                made = logged(DECODERS[head.kind](head.user_id.encode(errors="replace"), value), counts)
            except DecodeError as error:
                reject(counts, samples, number, error.reason, str(error))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                refused = refusal(error)
                reject(counts, samples, number, refused.reason, str(refused))
            else:
                counts.keep(made.kind)
                yield made if head.record_ms is None else msgspec.structs.replace(made, record_ms=head.record_ms)
