"""Run Footfall's fold in Quix Streams: exactly-once, with each row as bytes in RocksDB state and a changelog topic.

Run by `footfall bench features` with the settings in the environment, in its own venv (tests/bench/peers/setup).
The seven topics are concatenated, so Quix aligns them by event time as Footfall does. Rows are also cached decoded, which
saves Quix a decode per event. Its state has no checkpoint hook, so each event encodes and stores its row.
"""

import tempfile
import time

from quixstreams import Application, State, message_context

from models.features.row_codec import encode_row
from models.features.spec import KINDS
from schemas.codec import encode
from stream.fold.records import PartitionTotals
from stream.offline.replay_log import LogRecord
from stream.process.settings import load_settings
from stream.roles.build import features_fold


def main() -> None:
    settings = load_settings()
    names = {kind: topic.name for kind, topic in settings.topics().items()}
    app = Application(
        broker_address=settings.kafka_bootstrap_servers,
        consumer_group=f"{settings.app_id}-quix",
        processing_guarantee="exactly-once",
        commit_interval=1.0,
        auto_offset_reset="earliest",
        state_dir=tempfile.mkdtemp(),
        consumer_poll_timeout=0.1,
        loglevel="WARNING",
    )
    fold, rows, totals = features_fold(settings, settings.partition_count), {}, PartitionTotals()

    def apply(value: bytes, key: bytes, timestamp: int, headers: object, state: State) -> list[bytes]:
        at = message_context()
        if key not in rows and (row := state.get_bytes("row")) is not None:
            rows[key] = row
        record = LogRecord(at.topic, at.partition, at.offset, timestamp, key, value)
        folded = fold.fold(rows, totals, [record], int(time.time() * 1000))
        for changed in folded.dirty.values():
            state.set_bytes("row", encode_row(changed))
        return [encode(output.message) for output in folded.outputs if output.kind == "score-request"]

    frames = [app.dataframe(app.topic(names[kind], key_deserializer="bytes", value_deserializer="bytes")) for kind in KINDS]
    events = frames[0]
    for frame in frames[1:]:
        events = events.concat(frame)
    requests = app.topic(names["score-request"], key_serializer="bytes", value_serializer="bytes")
    events.apply(apply, stateful=True, metadata=True, expand=True).to_topic(requests)
    app.run()


if __name__ == "__main__":
    main()
