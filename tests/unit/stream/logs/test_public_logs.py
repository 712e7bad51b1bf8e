"""On the public logs, the baselines reach what others measured on the same splits; skipped where the logs are absent.

A baseline that reaches less would let a model win too easily.
"""

import csv
import io
import os
import zipfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold

from models.data.examples import Example, Slice
from models.evaluation.baselines.bg_nbd import bg_nbd
from models.evaluation.baselines.churn_baselines import gradient_boosting, recency, rfm_logistic
from models.evaluation.baselines.item_baselines import co_occurrence
from models.evaluation.baselines.review_baselines import tf_idf
from models.evaluation.metrics import ranking_statistics
from models.evaluation.outcomes import stayed_away
from schemas.codec import event_decoder
from schemas.events import Purchase
from schemas.time_units import DAY_MS
from stream.logs.importers.online_retail import import_online_retail
from tests.made_examples import examples_of

pytestmark = pytest.mark.logs

CUT_MS = round(datetime(2011, 9, 10, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture(scope="module")
def logs() -> Path:
    if not (found := os.environ.get("FOOTFALL_LOGS")):
        pytest.skip("FOOTFALL_LOGS is not set: no public event logs here")
    return Path(found)


@pytest.fixture(scope="module")
def retail(logs: Path) -> list[Example]:
    """Look at all customers of UCI Online Retail at one cut, without what they sent back."""
    events, _ = import_online_retail(logs / "online_retail_uci" / "by-day")
    decode, purchases = event_decoder(Purchase), defaultdict[str, list[Purchase]](list)
    for event in events:
        if event.kind == "purchase":
            bought = decode(event.key, event.value)
            if not any(line.returned for line in bought.lines):
                purchases[bought.user_id].append(bought)
    ordered = {user: sorted(bought, key=lambda event: event.event_time_ms) for user, bought in purchases.items()}
    return examples_of(ordered, CUT_MS, CUT_MS + 90 * DAY_MS + 1, Slice.TRAIN)


@pytest.mark.parametrize(
    ("baseline", "floor"), [(recency, 0.683), (rfm_logistic, 0.739), (gradient_boosting, 0.726), (bg_nbd, 0.715)]
)
def test_churn_baselines_reach_their_floors_on_uci_online_retail(retail: list[Example], baseline, floor: float) -> None:  # type: ignore[no-untyped-def]
    away = stayed_away(retail, 90)
    assert (len(retail), round(away.mean(), 3)) == (3368, 0.431)
    found = np.zeros(len(retail))
    for fitted, asked in KFold(5, shuffle=True, random_state=0).split(retail):
        found[asked] = baseline([retail[row] for row in fitted], [retail[row] for row in asked], 90)
    assert roc_auc_score(away, found) > floor - 0.005


def sessions(logs: Path, day: int, part: str) -> list[list[str]]:
    import duckdb

    path = logs / "yoochoose_t4rec" / f"day{day}_{part}.parquet"
    rows = duckdb.sql(f"SELECT \"item_id-list_seq\" FROM read_parquet('{path}')").fetchall()
    return [[str(item) for item in row[0] if item] for row in rows]


def test_co_occurrence_reaches_its_floor_on_every_day_of_yoochoose(logs: Path) -> None:
    floors = {179: (0.527, 0.242), 180: (0.474, 0.207), 181: (0.588, 0.253), 182: (0.589, 0.250)}
    learnt: list[list[str]] = []
    weights: list[float] = []
    for day, (hit_rate, reciprocal) in floors.items():
        newest = sessions(logs, day - 1, "train")
        learnt, weights = learnt + newest, [0.8 * weight for weight in weights] + [1.0] * len(newest)
        asked = [session for session in sessions(logs, day, "valid") if len(session) > 1]
        ranked = co_occurrence(learnt, [session[:-1] for session in asked], weights)
        found = ranking_statistics(ranked, [session[-1:] for session in asked])
        reached = [found[name](np.ones((1, len(asked))))[0] for name in ("next_hit_rate_20", "next_mrr_20")]
        assert reached[0] > hit_rate - 0.005
        assert reached[1] > reciprocal - 0.005


def test_characters_come_near_their_floor_on_part_of_the_chinese_reviews(logs: Path) -> None:
    with zipfile.ZipFile(logs / "zh_reviews" / "online_shopping_10_cats.zip") as archive:
        text = archive.read(archive.namelist()[0]).decode("utf-8-sig")
    labels = {row["review"].strip(): row["label"] for row in csv.DictReader(io.StringIO(text)) if row["review"].strip()}
    every = list(labels)
    texts = [every[row] for row in np.random.default_rng(0).permutation(len(every)).tolist()]
    truth = np.array([int(labels[text]) for text in texts])
    asked, checked, learnt = slice(6_000), slice(6_000, 9_000), slice(9_000, 29_000)  # all 56,000 would take longer
    found = tf_idf((texts[learnt], truth[learnt]), (texts[checked], truth[checked]), texts[asked], 2)
    assert (found.argmax(1) == truth[asked]).mean() > 0.92
