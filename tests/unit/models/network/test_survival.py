import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from models.data.labels import HORIZONS_DAYS
from models.network.survival import (
    Exposures,
    exposures,
    hazard_loss,
    prior_logits,
    risk,
    survival_at,
)
from schemas.time_units import DAY_MS

ENDS = np.array(HORIZONS_DAYS, float)
STARTS = np.concatenate([[0.0], ENDS[:-1]])
bin_hazards = st.lists(st.floats(0.01, 0.9), min_size=len(HORIZONS_DAYS), max_size=len(HORIZONS_DAYS))


def seen(absent: float | None, observed: float, silent: float = 0.0) -> tuple[list[float], list[float]]:
    """Exposure and return of one user, times in days."""
    found = exposures([np.nan if absent is None else absent * DAY_MS], [observed * DAY_MS], [silent * DAY_MS])
    return found.exposure[0].tolist(), found.returned[0].tolist()


def fitted(found: Exposures) -> np.ndarray:
    """The hazards that make what was seen most likely."""
    logits = torch.tensor(prior_logits(found)[None], requires_grad=True)
    exposure, returned = (torch.tensor(part) for part in found)
    optimiser = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = hazard_loss(logits.expand(len(exposure), -1), exposure, returned).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return torch.sigmoid(logits.detach())[0].numpy()


def test_a_return_ends_the_bins_that_teach_and_counts_its_own_to_the_end() -> None:
    assert seen(10, 400) == ([1, 1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0])
    assert seen(7, 400) == ([1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0, 0])


def test_watching_that_ends_within_a_bin_exposes_a_part_of_it() -> None:
    exposure, returned = seen(None, 5)
    assert exposure == [1, 1, 0.5, 0, 0, 0, 0, 0, 0]
    assert sum(returned) == 0
    assert seen(4, 5) == ([1, 1, 0.5, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0, 0])


def test_what_was_before_the_landmark_teaches_nothing() -> None:
    exposure, returned = seen(50, 400, silent=45)
    assert exposure == [0, 0, 0, 0, 0, 0.5, 0, 0, 0]
    assert returned[5] == 1
    assert sum(seen(None, 20, silent=20)[0]) == 0


def test_a_whole_bin_costs_its_cross_entropy_and_a_part_the_power_of_survival() -> None:
    logits, returned = torch.tensor([[-2.0, 0.3]]), torch.tensor([[0.0, 1.0]])
    wanted = binary_cross_entropy_with_logits(logits, returned, reduction="none").sum(1)
    assert hazard_loss(logits, torch.ones(1, 2), returned).item() == pytest.approx(wanted.item(), abs=1e-6)

    half, hazards = torch.full((1, 2), 0.5), torch.sigmoid(logits)
    found = hazard_loss(logits, half, returned).item()
    expected = -0.5 * torch.log(1 - hazards[0, 0]) - torch.log(1 - (1 - hazards[0, 1]) ** 0.5)
    assert found == pytest.approx(expected.item(), abs=1e-6)


def test_known_hazards_are_found_in_late_begun_and_cut_off_watching() -> None:
    rng = np.random.default_rng(3)
    n, hazards = 60_000, np.array([0.2, 0.15, 0.2, 0.1, 0.3, 0.25, 0.2, 0.4, 0.5])
    cumulated = np.concatenate([[0.0], np.cumsum(-np.log(1 - hazards))])  # at bin edges
    drawn = rng.exponential(size=n)
    absent = np.interp(drawn, cumulated, np.concatenate([[0.0], ENDS]), right=np.inf)
    silent = np.where(rng.random(n) < 0.5, 0.0, rng.exponential(40, n))
    observed = silent + rng.uniform(0, 300, n)
    met = absent > silent  # whoever came back before the landmark is not met at it: the longer absent, the likelier met
    absent = np.where(absent > observed, np.nan, absent)

    found = exposures(absent[met] * DAY_MS, observed[met] * DAY_MS, silent[met] * DAY_MS)

    np.testing.assert_allclose(fitted(found), hazards, atol=0.02)


def test_survival_goes_through_the_curve_at_the_bins_and_on_after_the_last() -> None:
    hazards = np.linspace(0.05, 0.5, len(HORIZONS_DAYS))[None]
    at_bins = [survival_at(hazards, [days])[0] for days in HORIZONS_DAYS]

    np.testing.assert_allclose(at_bins, np.cumprod(1 - hazards, axis=1)[0])
    beyond = survival_at(hazards, [360 + 90])[0]
    assert beyond == pytest.approx(at_bins[-1] * 0.5**0.5)


@given(bin_hazards, st.floats(0, 500), st.floats(0, 200), st.floats(0.1, 200))
def test_risk_is_conditional_survival_and_only_falls_with_the_horizon(
    hazards: list[float], silent: float, first: float, further: float
) -> None:
    one = np.array([hazards])

    near, far = risk(one, [silent], first)[0], risk(one, [silent], first + further)[0]

    assert 0 <= far <= near <= 1
    assert far == pytest.approx(near * risk(one, [silent + first], further)[0], rel=1e-6)
    assert survival_at(one, [0.0])[0] == 1


@given(st.floats(0, 400), st.floats(0, 400), st.floats(0, 400))
def test_exposures_are_parts_of_bins_and_nobody_returns_twice(absent: float, observed: float, silent: float) -> None:
    exposure, returned = seen(absent if absent > silent else None, max(observed, silent), silent)

    assert all(0 <= part <= 1 for part in exposure)
    assert sum(returned) <= 1
    assert all(part > 0 for part, back in zip(exposure, returned, strict=True) if back)
