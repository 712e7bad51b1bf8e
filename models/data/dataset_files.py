"""Write and read datasets: a directory with dataset.json, examples.parquet, reviews.parquet and perhaps categories.json.

The manifest dataset.json is written last, so a directory without it is not a complete dataset. Each example stores its
score request as JSON, which decodes to exactly the same request. Further columns hold its labels, and some of the request's
fields for queries. Start at read_examples.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from models.data.examples import Example, Purchases, ReviewExample, Slice
from models.data.labels import Labelling
from models.data.landmarks import Period, Sampling
from models.data.parquet_files import ParquetFiles
from schemas.errors import DatasetError
from schemas.scoring import ScoreRequest

MANIFEST, EXAMPLES, REVIEWS, CATEGORIES = "dataset.json", "examples.parquet", "reviews.parquet", "categories.json"
FORMAT_VERSION = 1
EMBARGO = "labels end where their slice ends, so no label reaches into a later slice; an embargo is further distance"

_EXAMPLE_COLUMNS = {
    "slice": "VARCHAR",
    "user_id": "VARCHAR",
    "landmark_ms": "BIGINT",
    "since_ms": "BIGINT",
    "observed_ms": "BIGINT",
    "absent_ms": "BIGINT",
    "purchases": "BIGINT",
    "first_purchase_ms": "BIGINT",
    "last_purchase_ms": "BIGINT",
    "categories": "VARCHAR[]",
    "items": "VARCHAR[]",
    "event_time_ms": "BIGINT",
    "kind": "VARCHAR",
    "due": "VARCHAR",
    "request_id": "VARCHAR",
    "request": "VARCHAR",
}
_PURCHASES = ("purchases", "first_purchase_ms", "last_purchase_ms")  # columns that older datasets do not have
_REVIEW_COLUMNS = {
    "slice": "VARCHAR",
    "user_id": "VARCHAR",
    "event_time_ms": "BIGINT",
    "text": "VARCHAR",
    "language": "VARCHAR",
    "stars": "DOUBLE",
    "positive": "BOOLEAN",
    "category": "VARCHAR",
}
_decode_request = msgspec.json.Decoder(ScoreRequest).decode


class DatasetManifest(Struct, frozen=True, kw_only=True):
    """The content of dataset.json; `periods` are the time periods of the slices, `counts` are by slice and label.

    `refused` counts events that no role would fold, by reason. `fingerprint` is the SHA-256 of every record of the log;
    `feature_names` is the order of a request's features.
    """

    source: str
    fingerprint: str
    spec_version: str
    feature_names: tuple[str, ...]
    periods: tuple[Period, ...]
    embargo_days: float
    sampling: Sampling
    labelling: Labelling
    cluster_categories: int
    horizons_days: tuple[int, ...]
    counts: dict[str, dict[str, Any]]
    reviews: dict[str, dict[str, int]]
    reviews_left_out: dict[str, int] = {}
    refused: dict[str, int] = {}
    lint: dict[str, Any] = {}
    embargo: str = EMBARGO
    format_version: int = FORMAT_VERSION


def write_examples(
    directory: Path, examples: Iterable[Example], reviews: Iterable[ReviewExample], categories: Mapping[str, str]
) -> None:
    """Write all files but the manifest; equal examples in equal order give equal rows.

    Raises:
        DatasetError: the directory holds something already.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DatasetError(f"{directory} is not an empty directory: choose another or delete it")
    directory.mkdir(parents=True, exist_ok=True)
    with ParquetFiles(directory, {EXAMPLES: _EXAMPLE_COLUMNS, REVIEWS: _REVIEW_COLUMNS}) as files:
        for example in examples:
            files.add(EXAMPLES, _example_row(example))
        for review in reviews:
            row = msgspec.structs.asdict(review) | {"slice": str(review.slice)}
            files.add(REVIEWS, tuple(row[name] for name in _REVIEW_COLUMNS))
    if categories:
        (directory / CATEGORIES).write_bytes(msgspec.json.format(msgspec.json.encode(categories)) + b"\n")


def write_manifest(directory: Path, manifest: DatasetManifest) -> None:
    """Write dataset.json, which completes the dataset."""
    (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


def read_manifest(directory: Path) -> DatasetManifest:
    """Read dataset.json.

    Raises:
        DatasetError: there is no dataset, or one of another format.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise DatasetError(
            f"{directory} has no {MANIFEST}, expected a dataset: make one with footfall dataset LOG --out {directory}"
        )
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=DatasetManifest)
    except msgspec.DecodeError as error:
        raise DatasetError(f"{path} is not a dataset's manifest ({error}): make the dataset again") from error
    if manifest.format_version != FORMAT_VERSION:
        raise DatasetError(f"{path} has format {manifest.format_version}, expected {FORMAT_VERSION}: make the dataset again")
    return manifest


def read_examples(directory: Path, slices: Sequence[Slice] | None = None) -> list[Example]:
    """Read the examples of some slices, or of all, in order of slice, landmark and user.

    Raises:
        DatasetError: there is no dataset.
    """
    read_manifest(directory)
    columns = ("request", "landmark_ms", "slice", "categories", "items", "observed_ms", "absent_ms", "since_ms", *_PURCHASES)
    return [
        Example(
            request=_decode_request(request),
            landmark_ms=landmark_ms,
            slice=Slice(name),
            categories=None if categories is None else tuple(categories),
            items=None if items is None else tuple(items),
            observed_ms=observed_ms,
            absent_ms=absent_ms,
            since_ms=since_ms,
            purchases=None if bought[0] is None else Purchases(*bought),
        )
        for request, landmark_ms, name, categories, items, observed_ms, absent_ms, since_ms, *bought in _rows(
            directory / EXAMPLES, columns, slices
        )
    ]


def read_reviews(directory: Path, slices: Sequence[Slice] | None = None) -> list[ReviewExample]:
    """Read the reviews of some slices, or of all, in order of time.

    Raises:
        DatasetError: there is no dataset.
    """
    read_manifest(directory)
    columns = ReviewExample.__struct_fields__
    rows = (dict(zip(columns, row, strict=True)) for row in _rows(directory / REVIEWS, columns, slices))
    return [ReviewExample(**row | {"slice": Slice(row["slice"])}) for row in rows]


def read_categories(directory: Path) -> dict[str, str]:
    """Read the categories that were clustered from titles (item → name); empty if the log has its own categories."""
    path = directory / CATEGORIES
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.is_file() else {}


def _example_row(example: Example) -> tuple[Any, ...]:
    request, purchases = example.request, example.purchases
    bought = (None, None, None) if purchases is None else msgspec.structs.astuple(purchases)
    row = {
        "slice": str(example.slice),
        "user_id": request.user_id,
        "landmark_ms": example.landmark_ms,
        "since_ms": example.since_ms,
        "observed_ms": example.observed_ms,
        "absent_ms": example.absent_ms,
        **dict(zip(_PURCHASES, bought, strict=True)),
        "categories": None if example.categories is None else list(example.categories),
        "items": None if example.items is None else list(example.items),
        "event_time_ms": request.event_time_ms,
        "kind": request.kind,
        "due": request.due,
        "request_id": request.request_id,
        "request": msgspec.json.encode(request).decode(),
    }
    return tuple(row[name] for name in _EXAMPLE_COLUMNS)


def _rows(path: Path, columns: Sequence[str], slices: Sequence[Slice] | None) -> list[tuple[Any, ...]]:
    import duckdb

    with duckdb.connect() as database:
        database.execute("SET threads = 1")
        found = {row[0] for row in database.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()}
        wanted = (f"NULL AS {name}" if name in _PURCHASES and name not in found else name for name in columns)
        return database.execute(
            f"SELECT {', '.join(wanted)} FROM read_parquet(?) WHERE list_contains(?, slice)",
            [str(path), [str(name) for name in (tuple(Slice) if slices is None else slices)]],
        ).fetchall()
