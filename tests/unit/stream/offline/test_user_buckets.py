"""Split records by user into buckets: every record once, in order, a user's records together."""

from pathlib import Path

import pytest

from schemas.errors import LogError
from stream.offline import user_buckets
from stream.offline.replay_log import LogRecord
from stream.offline.user_buckets import Numbered, bucket_count, in_user_buckets

RECORDS: list[Numbered] = [
    (n, "click", LogRecord("clicks", 0, n, 1_000 + n, None if n % 50 == 7 else b"u-%d" % (n % 37), b"%d" % n, (("h", b"v"),)))
    for n in range(1_000)
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_buckets, "BUCKET_RECORDS", 100)
    monkeypatch.setattr(user_buckets, "BLOCK_RECORDS", 9)


def test_every_record_comes_once_and_in_order_with_all_others_of_its_user() -> None:
    buckets = [list(bucket) for bucket in in_user_buckets(RECORDS, len(RECORDS))]

    assert len(buckets) == bucket_count(len(RECORDS)) == 10
    assert sorted((record for bucket in buckets for record in bucket), key=lambda found: found[0]) == RECORDS
    assert all(bucket == sorted(bucket, key=lambda found: found[0]) for bucket in buckets)
    homes = [{record.key for _, _, record in bucket} for bucket in buckets]
    assert sum(map(len, homes)) == len(set().union(*homes)), "no user is in two buckets"
    assert None in homes[0]


def test_records_that_fit_in_memory_are_written_to_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryDirectory", None)
    records = RECORDS[:100]

    (bucket,) = in_user_buckets(records, len(records))

    assert bucket is records


def test_a_file_that_cannot_be_written_names_the_folder_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"temporary file in .*gone.*set TMPDIR"):
        user_buckets._append(tmp_path / "gone" / "0", list(RECORDS[:3]))
