"""A restore tells how far it has come, at most once a second."""

from structlog.testing import capture_logs

from stream.kafka.restore_progress import RestoreProgress


def test_progress_is_logged_at_most_once_a_second_with_share_and_rate() -> None:
    progress = RestoreProgress(total=1000, started=50.0)

    with capture_logs() as lines:
        for tenth in range(1, 26):
            progress.advance(40 * tenth, 30, 50.0 + tenth / 10)

    assert [(line["event"], line["percent"], line["changelog_records"], line["records_per_second"]) for line in lines] == [
        ("restoring", 40, 300, 300),
        ("restoring", 80, 600, 300),
    ]


def test_a_restore_that_ended_has_read_everything_though_compaction_left_fewer_rows() -> None:
    progress = RestoreProgress(total=1000, started=50.0)
    progress.advance(900, 300, 51.0)

    progress.end(52.0)

    assert (progress.read, progress.total, progress.facts()) == (
        1000,
        1000,
        {"changelog_records": 300, "seconds": 2.0, "records_per_second": 150},
    )
