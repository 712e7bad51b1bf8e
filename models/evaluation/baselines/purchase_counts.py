"""Count the purchases of each example's user, which models of repeat buying need: how many, the first and the last.

A pure return is no purchase, and nothing before the first purchase matters. A dataset carries the counts. For an older one
they are derived from the request if it determines them. Start at purchases_of.
"""

from models.data.examples import Example, Purchases, seen_until_ms
from models.features.snapshot import gap_statistics
from models.features.spec import FEATURE_SPEC, KINDS
from schemas.errors import CannotFit
from schemas.scoring import ScoreRequest

_AT = {name: place for place, name in enumerate(FEATURE_SPEC.names)}


def purchases_of(example: Example) -> Purchases:
    """Return the purchases of a user until the landmark.

    Raises:
        CannotFit: the dataset does not carry them, and the request does not determine them.
    """
    found = example.purchases or _derived(example.request)
    if found is None:
        raise CannotFit(
            f"found a dataset that does not count purchases apart from returns (user {example.request.user_id}), expected "
            "the column purchases: make the dataset again with footfall dataset"
        )
    return found


def actions_of(example: Example) -> Purchases:
    """Return a user's purchases, or all events as if they were purchases for a user who bought nothing.

    Raises:
        CannotFit: the purchases are not known.
    """
    found = purchases_of(example)
    if found.count:
        return found
    request = example.request
    newest_ms = seen_until_ms(request)
    events = sum(request.features[_AT[f"{kind}.count.life"]] or 0 for kind in KINDS)
    return Purchases(int(events), newest_ms - int(request.features[_AT["user.tenure_ms"]] or 0), newest_ms)


def _derived(request: ScoreRequest) -> Purchases | None:
    """Derive the purchases from a history that holds all purchase events; None if features contradict the result.

    An event worth less than nothing is taken for a pure return. That is right if no event mixes sold and returned goods,
    so that the sums of both equal the features, and if the gaps between the purchases equal the features, too.
    """
    values = request.features
    entries = [entry for entry in request.history if entry.kind == "purchase"]
    bought = [entry for entry in entries if entry.amount >= 0]
    sold, returned = sum(entry.amount for entry in bought), -sum(entry.amount for entry in entries if entry.amount < 0)
    times = [entry.event_time_ms for entry in bought]
    if (
        len(entries) != (values[_AT["purchase.count.life"]] or 0)
        or sold != (values[_AT["purchase.amount.life"]] or 0)
        or returned != (values[_AT["purchase.returned_amount.life"]] or 0)
        or (any(entry.amount == 0 for entry in entries) and values[_AT["purchase.returned_lines.life"]])
        or gap_statistics(times) != [values[_AT[f"purchase.gap_{name}"]] for name in ("mean_hours", "variance_hours2")]
    ):
        return None
    return Purchases(len(times), times[0], times[-1]) if times else Purchases()
