from itertools import islice, permutations

import pytest

from models.data.examples import Purchases, Slice
from models.data.landmarks import Period, Sample, SampleReservoir, Sampling, check_cuts, draw_landmarks, period_at, periods_of
from schemas.time_units import DAY_MS
from stream.offline.build_dataset import slice_ends
from tests.builders import NOW_MS, score_request

ENDS = [NOW_MS + days * DAY_MS for days in (50, 60, 75, 100)]
PERIODS = periods_of(NOW_MS, ENDS)


def look(user: str, number: int, slice_: Slice = Slice.TRAIN) -> Sample:
    return Sample(score_request(user_id=user, request_id=f"{user}-{number}"), NOW_MS + number, slice_, Purchases())


def test_slices_follow_each_other_without_a_gap_and_none_holds_a_moment_of_another() -> None:
    assert [(period.start_ms, period.end_ms) for period in PERIODS] == list(zip([NOW_MS, *ENDS], ENDS, strict=False))
    assert period_at(PERIODS, ENDS[0] - 1) == PERIODS[0]
    assert period_at(PERIODS, ENDS[0]) == PERIODS[1]
    assert period_at(PERIODS, NOW_MS - 1) is None
    assert period_at(PERIODS, ENDS[-1]) is None


def test_an_embargo_is_time_that_no_slice_holds() -> None:
    periods = periods_of(NOW_MS, ENDS, 3 * DAY_MS)

    assert [period.end_ms for period in periods] == ENDS
    assert [period_at(periods, end_ms + 3 * DAY_MS - 1) for end_ms in ENDS[:-1]] == [None, None, None]
    assert period_at(periods, ENDS[0] + 3 * DAY_MS) == periods[1]


def test_an_empty_slice_leaves_no_embargo_of_its_own() -> None:
    periods = periods_of(NOW_MS, [ENDS[0], ENDS[0], ENDS[2], ENDS[3]], 3 * DAY_MS)

    assert periods[1] == Period(Slice.VALIDATION, ENDS[0], ENDS[0])
    assert periods[2] == Period(Slice.CALIBRATION, ENDS[0] + 3 * DAY_MS, ENDS[2])


@pytest.mark.parametrize(
    ("ends", "embargo_days", "found"),
    [
        (ENDS[:3], 0, "found 3 ends of slices, expected 4"),
        (ENDS[::-1], 0, "expected them in order of time"),
        (ENDS, 10, "an embargo as long as slice validation"),
        ([NOW_MS, *ENDS[1:]], 0, "an empty train or test slice"),
    ],
)
def test_slices_that_cannot_be_are_refused(ends: list[int], embargo_days: int, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        periods_of(NOW_MS, ends, embargo_days * DAY_MS)


def test_shares_cut_the_whole_of_the_time() -> None:
    assert slice_ends(0, 1000, [0.5, 0.1, 0.15, 0.25]) == [500, 600, 750, 1000]
    with pytest.raises(ValueError, match="expected four that add up to 1"):
        slice_ends(0, 1000, [0.5, 0.5])


def test_landmarks_lie_in_their_slices_and_depend_on_seed_and_user_alone() -> None:
    sampling = Sampling(seed=3, landmarks=5)

    drawn = draw_landmarks("u-1", PERIODS, sampling)

    assert [sum(period_at(PERIODS, at_ms) == period for at_ms in drawn) for period in PERIODS] == [5, 5, 5, 5]
    assert drawn == draw_landmarks("u-1", PERIODS, sampling)
    assert drawn != draw_landmarks("u-2", PERIODS, sampling)
    assert drawn != draw_landmarks("u-1", PERIODS, Sampling(seed=4, landmarks=5))


def test_landmarks_are_spread_evenly_over_a_slice() -> None:
    train = PERIODS[0]
    drawn = [at_ms for user in range(400) for at_ms in draw_landmarks(f"u-{user}", [train], Sampling(landmarks=5))]

    tenths = [sum(int((at_ms - train.start_ms) / (5 * DAY_MS)) == tenth for at_ms in drawn) for tenth in range(10)]

    assert sum(tenths) == 2000
    assert min(tenths) > 150


def test_cuts_stand_in_for_random_landmarks_of_their_slice() -> None:
    cut_ms = ENDS[2]
    sampling = Sampling(landmarks=2, cuts_ms=(cut_ms,))

    drawn = draw_landmarks("u-1", PERIODS, sampling)

    assert check_cuts(PERIODS, sampling.cuts_ms) == {Slice.TEST}
    assert [at_ms for at_ms in drawn if at_ms >= ENDS[2]] == [cut_ms]
    assert len(drawn) == 7
    with pytest.raises(ValueError, match="expected one inside a slice"):
        check_cuts(PERIODS, [ENDS[3]])


def test_what_is_kept_does_not_depend_on_the_order_of_offers() -> None:
    offers = [(rank * 7 % 11, look(f"u-{rank % 3}", rank)) for rank in range(11)]
    kept = []
    for order in islice(permutations(offers), 0, 40_000, 701):
        draws = SampleReservoir(sizes={"landmark": 2}, limit=3)
        for rank, offered in order:
            draws.offer("landmark", rank, offered)
        kept.append([found.request.request_id for found in draws.kept()])

    assert len(kept) > 50
    assert all(found == kept[0] for found in kept)
    assert len(kept[0]) == 3


def test_a_user_has_at_most_so_many_looks_of_a_sort_in_a_slice() -> None:
    draws = SampleReservoir(sizes={"landmark": 2, "event": 1}, limit=100)
    for number in range(10):
        for slice_ in (Slice.TRAIN, Slice.TEST):
            draws.offer("landmark", number, look("u-1", number, slice_))
            draws.offer("event", number, look("u-1", 100 + number, slice_))

    assert [(found.slice, found.landmark_ms - NOW_MS) for found in draws.kept()] == [
        (Slice.TRAIN, 100),
        (Slice.TEST, 100),
        (Slice.TRAIN, 0),
        (Slice.TEST, 0),
        (Slice.TRAIN, 1),
        (Slice.TEST, 1),
    ]
