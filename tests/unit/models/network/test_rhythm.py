import numpy as np
import pytest

from models.network.rhythm import FADE_DAYS, RHYTHM_NAMES, rhythm
from schemas.time_units import DAY_MS


def read(days: list[float], worth: list[int], at: float | None = None, padding: int = 0) -> dict[str, float]:
    """Rhythms of one user with events on these days, purchases where they were worth something."""
    times = (np.array([[*days, *[0.0] * padding]]) * DAY_MS).astype(np.int64)
    amounts = np.array([[*worth, *[0] * padding]], np.int64)
    present = np.arange(times.shape[1])[None] < len(days)
    now = np.array([int((days[-1] if at is None else at) * DAY_MS)]) if days else np.array([0])
    found = rhythm(present, present & (amounts > 0), times, amounts, now)[0]
    return dict(zip(RHYTHM_NAMES, np.expm1(found.astype(float)).tolist(), strict=True))


def test_gaps_are_between_distinct_days_of_the_kind_asked_for() -> None:
    found = read([100, 100.5, 103, 110], [500, 0, 0, 700])

    assert found["events.days"] == pytest.approx(3)
    assert found["events.gap.mean"] == pytest.approx(5)
    assert found["events.gap.shortest"] == pytest.approx(3)
    assert found["events.gap.longest"] == found["events.gap.newest"] == pytest.approx(7)
    assert found["events.gap.deviation"] == pytest.approx(2)
    assert found["purchases.days"] == pytest.approx(2)
    assert found["purchases.gap.mean"] == pytest.approx(10)
    assert np.isnan(found["purchases.gap.deviation"])


def test_counts_and_worth_fade_with_age() -> None:
    found = read([100, 107], [500, 900], at=107)

    assert found["purchases.fading.7d"] == pytest.approx(1 + np.exp(-1))
    assert found["purchases.worth.fading.30d"] == pytest.approx(9 + 5 * np.exp(-7 / 30))
    assert found["purchases.worth.newest"] == pytest.approx(9)
    assert found["purchases.worth.mean"] == pytest.approx(7)
    assert len([name for name in RHYTHM_NAMES if ".fading." in name]) == 2 * len(FADE_DAYS) + 2


def test_padding_does_not_matter_and_nothing_is_known_of_nobody() -> None:
    one, padded = read([100, 103], [500, 0]), read([100, 103], [500, 0], padding=5)
    nobody = read([], [], padding=3)

    np.testing.assert_array_equal(list(one.values()), list(padded.values()))
    assert nobody["events.days"] == 0
    assert np.isnan(nobody["events.gap.mean"])
    assert np.isnan(nobody["purchases.worth.newest"])
