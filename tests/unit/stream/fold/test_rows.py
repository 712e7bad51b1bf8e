"""Rows are held as bytes but for those in use, and leave when their user was silent for too long."""

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from models.features.recent_ids import RecentIds
from models.features.row_codec import ROW_VERSION, check_row_version, check_version, decode_row, encode_row, newest_ms, upcast
from models.features.snapshot import snapshot
from schemas.codec import encode
from schemas.errors import DamagedRowError, RowVersionError
from schemas.time_units import DAY_MS
from stream.fold.damaged_row import DAMAGED_KEY, DAMAGED_KIND, DamagedRow
from stream.fold.records import Folded, PartitionTotals
from stream.fold.rows import DECODED_BASE_BYTES, DECODED_PER_BYTE, RowRules, Rows
from stream.offline.replay_log import LogRecord
from stream.roles.features_fold import FeaturesFold
from stream.roles.scoring_policy import ScoringPolicy
from stream.roles.trigger_row import (
    TriggerState,
    check_trigger_version,
    decode_trigger_row,
    encode_trigger_row,
    trigger_newest_ms,
)
from tests.builders import NOW_MS, ROOT, click

ROW = b"ten bytes!"
ONE_ROW = DECODED_BASE_BYTES + DECODED_PER_BYTE * len(ROW)
TOPICS = {kind: kind for kind in ("visit", "browse", "click", "search", "purchase", "review", "rating", "review-sentiment")}


class State:
    """A decoded row whose only content is its newest event time."""

    def __init__(self, at_ms: int = NOW_MS) -> None:
        self.at_ms = at_ms


def age(row: Any) -> int:
    return row.at_ms if isinstance(row, State) else int(row)


def rows_of(count: int, **rules: Any) -> Rows:
    """Return rows u-0, u-1, …, each decoded and written once."""
    rows = Rows(RowRules(newest_ms=lambda row: 0, **rules))
    rows.load((f"u-{n}".encode(), ROW) for n in range(count))
    for key in list(rows):
        rows[key] = State()
    return rows


def aged(ages: dict[bytes, int], *, life_ms: int = 100) -> Rows:
    """Return rows, encoded, of users whose newest event times are given."""
    rows = Rows(RowRules(newest_ms=age, expire_after_ms=life_ms))
    rows.load((key, str(at_ms).encode()) for key, at_ms in ages.items())
    return rows


def write(rows: Rows, key: bytes, at_ms: int, *, now_ms: int = NOW_MS) -> list[tuple[bytes, None]]:
    """Let a user be heard of at a time, and return the tombstones of the barrier that follows."""
    rows[key] = State(at_ms)
    return rows.evict([(key, str(at_ms).encode())], now_ms)


def test_rows_beyond_the_limit_go_back_to_the_bytes_they_were_written_as_least_recently_used_first() -> None:
    rows = rows_of(4, decoded_bytes=2 * ONE_ROW)

    rows.evict([(b"u-1", b"written u1"), (b"u-0", b"written u0")], NOW_MS)

    assert {key: row for key, row in rows.items() if isinstance(row, bytes)} == {b"u-2": ROW, b"u-3": ROW}
    rows.evict([(b"u-1", b"again..u-1")], NOW_MS)
    rows[b"u-3"] = State()
    rows.evict([], NOW_MS)
    assert rows[b"u-0"] == b"written u0"
    assert rows.decoded == 2


def test_a_row_that_was_decoded_and_not_changed_goes_back_to_its_own_bytes() -> None:
    rows = rows_of(1, decoded_bytes=0)

    rows.evict([], NOW_MS)

    assert (rows[b"u-0"], rows.decoded) == (ROW, 0)


def test_a_row_that_was_made_for_a_record_that_changed_nothing_leaves_no_trace() -> None:
    rows = Rows(RowRules(decoded_bytes=0))
    rows[b"u-0"] = State()

    rows.evict([], NOW_MS)

    assert not rows


def test_partitions_share_what_decoded_rows_may_take() -> None:
    rules = RowRules(decoded_bytes=4 * ONE_ROW)
    rows = Rows(rules)
    rows.load((f"u-{n}".encode(), ROW) for n in range(4))
    for key in list(rows):
        rows[key] = State()

    rows.evict([], NOW_MS)
    alone = rows.decoded
    rules.partitions = 4
    rows.evict([], NOW_MS)

    assert (alone, rows.decoded) == (4, 1)


def test_bytes_set_in_place_of_a_decoded_row_are_what_is_held() -> None:
    rows = rows_of(1)
    rows[b"u-0"] = b"restored"

    rows.evict([], NOW_MS)

    assert (rows[b"u-0"], rows.decoded) == (b"restored", 0)


def test_a_user_silent_for_a_life_of_event_time_gets_one_tombstone() -> None:
    rows = aged({b"old": 1_000, b"edge": 1_902, b"new": 1_950})

    first = write(rows, b"now", 2_001)
    later = write(rows, b"now", 2_002)

    assert (first, later) == ([(b"old", None)], [])
    assert sorted(rows) == [b"edge", b"new", b"now"]


def test_a_decoded_row_expires_like_an_encoded_one() -> None:
    rows = aged({b"old": 1_000})
    rows[b"old"] = State(1_000)

    assert write(rows, b"now", 2_000) == [(b"old", None)]
    assert rows.decoded == 1


def test_tombstones_of_one_barrier_are_bounded_and_all_follow_in_the_next_ones() -> None:
    rows = aged({f"u-{n}".encode(): 1_000 for n in range(250)})

    counts = [len(write(rows, b"now", 2_000)) for _ in range(4)]

    assert counts == [100, 100, 50, 0]


def test_many_new_users_in_each_barrier_cannot_outrun_expiry() -> None:
    rows, sizes = aged({}, life_ms=10_000), []
    for barrier in range(60):
        keys = [b"%d-%d" % (barrier, n) for n in range(300)]
        for key in keys:
            rows[key] = State(1_000_000 + 1_000 * barrier)
        rows.evict([(key, b"%d" % (1_000_000 + 1_000 * barrier)) for key in keys], NOW_MS)
        sizes.append(len(rows))

    assert set(sizes[20:]) == {300 * 11}


def test_a_record_from_the_far_future_expires_nobody() -> None:
    rows = aged({b"u-1": NOW_MS - DAY_MS}, life_ms=400 * DAY_MS)

    assert write(rows, b"clock-is-wrong", NOW_MS + 40_000 * DAY_MS) == []


def test_a_row_whose_age_is_not_known_or_lies_ahead_stays_and_hides_nobody() -> None:
    rows = aged({b"unknown": 0, b"ahead": 3_000, b"old": 1_000})

    assert write(rows, b"now", 2_000) == [(b"old", None)]
    assert sorted(rows) == [b"ahead", b"now", b"unknown"]


def test_rows_are_examined_in_the_order_of_their_last_write_in_the_changelog() -> None:
    rows = aged({b"active": 1_000})
    rows.load([(b"old", b"1000"), (b"active", b"1990")])

    assert write(rows, b"now", 2_000) == [(b"old", None)]


# ------------------------------------------------------------------------------------------------ versions and damage


def one_row() -> bytes:
    rows: dict[bytes, Any] = {}
    clicks(rows, 0)
    return encode_row(rows[b"u-1"])


def clicks(rows: Any, offset: int, totals: PartitionTotals | None = None) -> Folded:
    """Fold one click of u-1 on a fresh day per offset."""
    fold = FeaturesFold(topics=TOPICS, policy=ScoringPolicy(), rates={"EUR": 1.0})
    at_ms = NOW_MS + offset * DAY_MS
    value = encode(click(event_id=f"c-{offset}", event_time_ms=at_ms))
    return fold.fold(rows, totals or PartitionTotals(), [LogRecord("click", 0, offset, at_ms, b"u-1", value)], at_ms)


def test_a_damaged_row_is_kept_beside_the_rows_and_its_user_starts_anew() -> None:
    damaged, totals = one_row()[:-9], PartitionTotals()
    rows = Rows()
    rows.load([(b"u-1", damaged)])

    folded = clicks(rows, 7, totals)
    again = clicks(rows, 8, totals)

    [kept] = folded.with_rows
    assert (kept.kind, kept.key, kept.partition) == (DAMAGED_KIND, DAMAGED_KEY + b"u-1", 0)
    assert isinstance(kept.message, DamagedRow)
    assert (kept.message.row, kept.message.offset) == (damaged, 7)
    assert (again.with_rows, totals.outputs[DAMAGED_KIND], totals.events.applied) == ([], 1, 2)
    assert rows[b"u-1"].topics[2].since == 7


@pytest.mark.parametrize(
    ("check", "row", "found"),
    [
        (check_row_version, bytes([ROW_VERSION + 1]) + b"...", ROW_VERSION + 1),
        (check_row_version, b"\0...", 0),
        (check_trigger_version, msgspec.msgpack.encode([9]), 9),
        (check_trigger_version, msgspec.msgpack.encode([0, {}, {}, {}]), 0),
    ],
)
def test_a_row_of_an_unknown_version_is_refused_with_what_can_be_read(
    check: Callable[[bytes], None], row: bytes, found: int
) -> None:
    with pytest.raises(
        RowVersionError, match=f"found a row of version {found}, expected version .*: run the Footfall version that"
    ):
        check(row)


def test_rows_of_this_version_and_damaged_ones_pass_the_check_of_versions() -> None:
    check_row_version(one_row())
    check_row_version(b"")
    check_trigger_version(encode_trigger_row(TriggerState()))
    check_trigger_version(b"\xc1")


def test_an_older_row_is_taken_through_every_version_between() -> None:
    steps = {3: lambda values: [*values, "four"], 4: lambda values: [*values, "five"]}

    assert msgspec.msgpack.decode(upcast(msgspec.msgpack.encode(["three"]), 3, 5, steps)) == ["three", "four", "five"]
    with pytest.raises(RowVersionError, match="version 2, expected version 3 to 5"):
        check_version(2, 5, steps)


def test_an_older_row_that_is_none_is_damaged_not_of_an_unknown_version() -> None:
    with pytest.raises(DamagedRowError):
        upcast(msgspec.msgpack.encode(7), 1, 2, {1: lambda values: values[0]})


@pytest.mark.parametrize("written", json.loads((ROOT / "tests/golden/rows-1.json").read_text()))
def test_a_row_of_version_1_gives_the_snapshot_it_gave_and_goes_on(written: dict[str, Any]) -> None:
    row = base64.b64decode(written["row"])

    state = decode_row(row)

    assert (row[0], encode_row(state)[0]) == (1, ROW_VERSION)
    assert json.loads(encode(snapshot(state))) == written["snapshot"]
    assert snapshot(decode_row(encode_row(state))) == snapshot(state)
    known = [topic for topic in state.topics if topic is not None and topic.ids.firsts]
    assert all(len(topic.ids.rests) == 7 * len(topic.ids.firsts) for topic in known)
    assert known


def test_a_trigger_row_of_version_1_keeps_ids_guards_and_cooldowns() -> None:
    ids, recent_ids = b"12345678abcdefgh", RecentIds(bytearray(b"1a"), bytearray(b"2345678bcdefgh"))
    row = msgspec.msgpack.encode([1, {"interest": 4}, {"interest": ids}, {"spring": NOW_MS, "autumn": NOW_MS - DAY_MS}])

    found = decode_trigger_row(row)

    assert found == TriggerState(
        4, {"interest": 4}, {"interest": recent_ids}, {"spring": NOW_MS, "autumn": NOW_MS - DAY_MS}, NOW_MS
    )
    assert trigger_newest_ms(row) == 0
    assert trigger_newest_ms(encode_trigger_row(found)) == trigger_newest_ms(found) == NOW_MS


def test_the_age_of_a_row_is_the_same_decoded_or_not() -> None:
    row = one_row()

    assert newest_ms(row) == newest_ms(decode_row(row)) == NOW_MS
    assert [newest_ms(damaged) for damaged in (b"", b"\1", row[:-9], b"\7" + row[1:])] == [0, 0, 0, 0]
