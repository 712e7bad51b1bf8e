"""Build the Faust app of a role from the settings, with its agent, store, barrier and clients (composition root).

Building an app starts nothing; its only side effect is install(), which patches the libraries. Start at build_app.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from models.features.row_codec import check_row_version, encode_row, newest_ms
from schemas.time_units import DAY_MS, HOUR_MS
from stream.fold.damaged_row import DAMAGED_KIND
from stream.fold.records import PartitionTotals
from stream.fold.rows import RowRules
from stream.kafka.alignment import Alignment, Limits
from stream.kafka.barrier import Barrier, Outbox
from stream.kafka.clients import faust_credentials, output_producer
from stream.kafka.positions import reset_hint
from stream.kafka.recovery import TableManager
from stream.kafka.standby import Assignor
from stream.kafka.store import RowStore, RowTable
from stream.kafka.topic_watch import TopicWatch
from stream.kafka.transport import ChunkScheduler, ChunkSchema, install
from stream.kafka.unread_partitions import UnreadPartitions
from stream.process.exit_codes import crash_only
from stream.process.settings import TABLE, Settings
from stream.roles.build import features_fold, placement, triggers_fold
from stream.roles.table import ROLE_TOPICS, Role
from stream.roles.trigger_policy import load_trigger_policy
from stream.roles.trigger_row import check_trigger_version, encode_trigger_row, trigger_newest_ms
from stream.worker.agents import fold_agent, score_agent
from stream.worker.app import FootfallApp
from stream.worker.dead_letter_limit import DeadLetterLimit
from stream.worker.feature_specs import FeatureSpecs
from stream.worker.misplaced_keys import MisplacedKeys
from stream.worker.score_requests import RequestScorer

if TYPE_CHECKING:  # only role scorer loads torch
    from stream.worker.served_model import ServedModel

CHUNKS_BUFFERED = 64
METADATA_MS = 10_000  # between two metadata refreshes of the consumer
SCORER_WAY_OUT = "start the scorer again: it reads the new topic from its first request"
HEARTBEAT_SECONDS = 0.5  # the longest time until a worker notices a rebalance
SCORER_CHUNKS_IN_WORK = 2  # one on the model, one waiting: batches form while the model is busy


def build_app(settings: Settings, role: Role, *, partitions: int, model: "ServedModel | None" = None) -> FootfallApp:
    """Build the app of one role for topics with `partitions` partitions; role scorer needs its loaded `model`.

    Call it inside the running event loop.

    Raises:
        ValueError: role scorer got no model.
    """
    install()
    topics = settings.topics()
    names = {kind: topic.name for kind, topic in topics.items()}
    aligned, unaligned = ROLE_TOPICS[role].aligned, ROLE_TOPICS[role].unaligned
    app = FootfallApp(
        settings.group(role),
        env_prefix="FOOTFALL_FAUST_",
        broker=[f"chunks://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(",")],
        broker_credentials=faust_credentials(settings),
        broker_client_id=settings.kafka_client_id,
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        web_tables_enabled=False,
        web_router_enabled=False,
        worker_redirect_stdouts=False,
        topic_partitions=partitions,
        topic_replication_factor=settings.replication_factor,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=settings.standbys,
        PartitionAssignor=Assignor,
        stream_buffer_maxsize=CHUNKS_BUFFERED,
        stream_wait_empty=True,
        stream_recovery_delay=0.0,
        broker_max_poll_records=8000,
        broker_max_poll_interval=86_400.0,
        broker_commit_interval=0.5,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_rebalance_timeout=max(30.0, settings.session_timeout_seconds),
        broker_request_timeout=max(90.0, settings.session_timeout_seconds),
        broker_heartbeat_interval=min(HEARTBEAT_SECONDS, settings.session_timeout_seconds / 5),
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=METADATA_MS,
        consumer_group_instance_id=settings.instance_id,
        producer_request_timeout=120.0,
        ConsumerScheduler=ChunkScheduler,
        TableManager=TableManager,
    )
    app.settings, app.role, app.transactions = settings, role, settings.transactions
    app.barrier_commits = settings.transactions and role != "scorer"
    app.alignment = Alignment(
        {names[kind]: rank for rank, kind in enumerate(aligned)},
        [names[kind] for kind in unaligned],
        Limits(
            chunk_records=settings.scorer_chunk_requests if role == "scorer" else settings.max_chunk_events,
            buffer_records=8 * settings.scorer_chunk_requests if role == "scorer" else settings.buffer_events,
            idle_seconds=settings.alignment_idle_ms / 1000,
            timeout_seconds=settings.alignment_timeout_seconds,
        ),
    )
    way_out = SCORER_WAY_OUT if role == "scorer" else reset_hint(role)
    watched = sorted(app.alignment.topics()) + ([] if role == "scorer" else [settings.changelog(role)])
    app.watch = TopicWatch(
        lambda: app.outbox_producer.client, watched, partitions, way_out, compare_last_records=app.compare_last_records
    )
    app.unread, app.last_records = UnreadPartitions(), {}
    app.chunks_in_work = SCORER_CHUNKS_IN_WORK if role == "scorer" else None
    app.outbox_producer = output_producer(settings)
    outbox = Outbox(app.outbox_producer, names | {DAMAGED_KIND: settings.changelog(role)})
    app.outbox = outbox
    app.scorer_totals = PartitionTotals()
    app.limit = DeadLetterLimit(
        in_a_row=settings.dlq_max_in_a_row,
        percent=settings.dlq_max_percent,
        window_records=settings.dlq_window_records,
        misplaced_percent=settings.misplaced_max_percent,
    )
    app.misplaced = MisplacedKeys(placement(settings, partitions))
    app.barrier = app.store = app.requests = None
    app.model = model
    source = app.topic(*(names[kind] for kind in (*aligned, *unaligned)), schema=ChunkSchema())
    if role == "scorer":
        if model is None:
            raise ValueError("found no model, expected one for role scorer: pass model=ServedModel(...)")
        _add_score_agent(app, source, model, outbox)
    else:
        _add_fold_agent(app, source, role, partitions, outbox)
    return app


def _add_score_agent(app: FootfallApp, source: Any, model: "ServedModel", outbox: Outbox) -> None:
    app.requests = requests = RequestScorer(
        model=model,
        specs=FeatureSpecs(app.settings),
        outbox=outbox,
        totals=app.scorer_totals,
        generation=lambda: app.consumer_generation_id,
        acknowledge=lambda ends, generation: app.consumer.ack_up_to(ends, generation),
        hold=app.alignment.hold,
        check_topics=app.check_topics,
    )

    async def score(stream: Any) -> None:
        work = score_agent(
            stream.noack().events(),
            requests=requests,
            limit=app.limit,
            generation=lambda: app.consumer_generation_id,
            acknowledge_partly=app.consumer.ack_partly,
        )
        await crash_only("scorer", work)

    app.agent(source, name=f"{app.conf.id}-agent")(score)


def _add_fold_agent(app: FootfallApp, source: Any, role: Role, partitions: int, outbox: Outbox) -> None:
    settings = app.settings
    table = RowTable(app, name=TABLE, default=bytes, partitions=partitions, key_type=bytes, value_type=bytes)
    app.tables.add(table)
    store: RowStore = table.data
    store.rules = row_rules(settings, role)
    features = role == "features"
    barrier = Barrier(
        store,
        outbox,
        changelog=settings.changelog(role),
        encode_row=encode_row if features else encode_trigger_row,
        interval_seconds=(settings.barrier_ms if features else settings.triggers_barrier_ms) / 1000,
        timeout_seconds=settings.barrier_timeout_seconds,
        max_events=settings.max_pending_events,
        max_bytes=settings.max_pending_mb << 20,
        check_topics=app.watch.check if settings.transactions else None,
    )
    app.store, app.barrier = store, barrier
    app.fold = features_fold(settings, partitions, app.watch.ids) if features else triggers_fold(settings, partitions)

    async def run(stream: Any) -> None:
        flushing = asyncio.create_task(crash_only("barrier", barrier.run()))
        work = fold_agent(
            stream.noack().events(),
            fold=app.fold,
            store=store,
            barrier=barrier,
            limit=app.limit,
            misplaced=app.misplaced,
            generation=lambda: app.consumer_generation_id,
            resumed_from_rows=app.barrier_commits,
        )
        try:
            await crash_only(role, work)
        finally:
            flushing.cancel()

    app.agent(source, name=f"{app.conf.id}-agent")(run)


def row_rules(settings: Settings, role: Role) -> RowRules:
    """Return the limits of memory and age for a role's rows.

    A row expires once no later event can need it: an event is older than its arrival by at most the allowed lateness, and a
    topic may lag a day behind the others. A row of role triggers also outlives every cooldown.
    """
    decoded_bytes = settings.decoded_mb << 20
    life_ms = round(settings.ttl_days * DAY_MS + settings.lateness_hours * HOUR_MS) + DAY_MS
    if role == "features":
        return RowRules(decoded_bytes, life_ms, newest_ms, check_row_version)
    cooldowns = [campaign.cooldown_hours for campaign in load_trigger_policy(settings.trigger_policy).campaigns]
    life_ms = max(life_ms, round(max(cooldowns, default=0.0) * HOUR_MS) + DAY_MS)
    return RowRules(decoded_bytes, life_ms, trigger_newest_ms, check_trigger_version)
