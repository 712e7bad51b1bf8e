"""Run Footfall's fold in a Faust agent as in Faust's documentation: `async for`, and one table write per event.

Run by `footfall bench features` with the settings in the environment. Rows are also cached decoded, which saves stock
Faust a decode per event. Faust writes each table update to the changelog and commits offsets itself.
"""

import tempfile
import time

import faust

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
    app = faust.App(
        f"{settings.app_id}-twin",
        broker=[f"kafka://{server}" for server in settings.kafka_bootstrap_servers.split(",")],
        store="memory://",
        datadir=tempfile.mkdtemp(),
        web_enabled=False,
        topic_partitions=settings.partitions,
        topic_replication_factor=1,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=65_536,
        broker_max_poll_records=8000,
    )
    table = app.Table("users", default=bytes, partitions=settings.partitions, key_type=bytes, value_type=bytes)
    source = app.topic(
        *(names[kind] for kind in KINDS), key_type=bytes, value_type=bytes, value_serializer="raw", key_serializer="raw"
    )
    requests = app.topic(names["score-request"], key_type=bytes, value_type=bytes, value_serializer="raw", key_serializer="raw")
    fold, rows, totals = features_fold(settings, settings.partition_count), {}, PartitionTotals()

    @app.agent(source)
    async def apply(stream):  # type: ignore[no-untyped-def]
        async for event in stream.events():
            message = event.message
            record = LogRecord(
                message.topic, message.partition, message.offset, int(message.timestamp * 1000), message.key, message.value
            )
            folded = fold.fold(rows, totals, [record], int(time.time() * 1000))
            for key, row in folded.dirty.items():
                table[key] = encode_row(row)
            for output in folded.outputs:
                if output.kind == "score-request":
                    await requests.send(key=output.key, value=encode(output.message))

    worker = faust.Worker(app, loglevel="WARNING", redirect_stdouts=False)
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()
