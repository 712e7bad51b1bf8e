"""Run Footfall's fold in Bytewax, with a recovery store and a snapshot of each changed row (as bytes) per epoch.

Run by `footfall bench features` with the settings in the environment, in its own venv (tests/bench/peers/setup).
State and input offsets are exactly-once, outputs at least once; its recovery store is local SQLite without a
replica. It reads the partitions of the seven topics as records arrive, without event-time alignment.
"""

import os
import time
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from models.features.row_codec import decode_row, encode_row
from models.features.spec import KINDS
from schemas.codec import encode
from stream.fold.records import PartitionTotals
from stream.offline.replay_log import LogRecord
from stream.process.settings import load_settings
from stream.roles.build import features_fold
from stream.roles.features_fold import FeaturesFold

EPOCH = timedelta(seconds=1)


class UserLogic(StatefulBatchLogic):
    """One user's row: decoded in memory, encoded when Bytewax takes a snapshot at the end of an epoch."""

    def __init__(self, fold: FeaturesFold, totals: PartitionTotals, row: bytes | None) -> None:
        self._fold, self._totals = fold, totals
        self._rows = {} if row is None else {None: decode_row(row)}

    def on_batch(self, values: list[KafkaSourceMessage]) -> tuple[list[KafkaSinkMessage], bool]:
        records = [LogRecord(m.topic, m.partition, m.offset, m.timestamp[1], m.key, m.value) for m in values]
        key = records[0].key
        if None in self._rows:
            self._rows = {key: self._rows.pop(None)}
        folded = self._fold.fold(self._rows, self._totals, records, int(time.time() * 1000))
        requests = [
            KafkaSinkMessage(output.key, encode(output.message)) for output in folded.outputs if output.kind == "score-request"
        ]
        return requests, StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes | None:
        return next((encode_row(row) for row in self._rows.values()), None)


def main() -> None:
    settings = load_settings()
    names = {kind: topic.name for kind, topic in settings.topics().items()}
    brokers = settings.kafka_bootstrap_servers.split(",")
    recovery = Path(os.environ["FOOTFALL_BENCH_RECOVERY"])
    init_db_dir(recovery, 1)
    fold, totals = features_fold(settings, settings.partition_count), PartitionTotals()
    flow = Dataflow("features")
    events = op.input("events", flow, KafkaSource(brokers, [names[kind] for kind in KINDS]))
    keyed = op.map("keyed", events, lambda message: (message.key.decode(), message))
    requests = op.stateful_batch("fold", keyed, lambda row: UserLogic(fold, totals, row))
    sink = KafkaSink(
        brokers, names["score-request"], {"acks": "all", "enable.idempotence": "true", "partitioner": "murmur2_random"}
    )
    op.output("requests", op.map("plain", requests, lambda item: item[1]), sink)
    cli_main(flow, epoch_interval=EPOCH, recovery_config=RecoveryConfig(recovery, EPOCH))


if __name__ == "__main__":
    main()
