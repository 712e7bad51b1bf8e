"""Load review examples from a dataset or a JSON lines file, with the fingerprint of the file's bytes.

Start at load_reviews.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from models.data.examples import ReviewExample
from schemas.errors import TrainingError

PARQUET = "reviews.parquet"


class Reviews(NamedTuple):
    """Examples in file order, and the SHA-256 of the file."""

    examples: list[ReviewExample]
    fingerprint: str


def load_reviews(path: Path) -> Reviews:
    """Read the reviews of a dataset's folder, or of a file with one ReviewExample as JSON per line.

    Raises:
        TrainingError: there is no such file, or a line is not a review.
    """
    file = path / PARQUET if path.is_dir() else path
    if not file.is_file():
        raise TrainingError(f"found no {file}, expected reviews: create a dataset with footfall dataset")
    if file.suffix == ".parquet":
        return Reviews(_from_parquet(file), _sha256(file))
    decoder = msgspec.json.Decoder(ReviewExample)
    examples = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                examples.append(decoder.decode(line))
            except msgspec.DecodeError as error:
                raise TrainingError(f"{file}:{number} is not a review ({error}), expected one as JSON: fix the line") from error
    return Reviews(examples, _sha256(file))


def _from_parquet(file: Path) -> list[ReviewExample]:
    import duckdb

    columns = ", ".join(ReviewExample.__struct_fields__)
    try:
        rows = duckdb.execute(f"SELECT {columns} FROM read_parquet(?)", [str(file)]).fetchall()
    except duckdb.Error as error:
        raise TrainingError(
            f"found no reviews in {file} ({error}), expected columns {columns}: create the dataset again"
        ) from error
    return [msgspec.convert(dict(zip(ReviewExample.__struct_fields__, row, strict=True)), ReviewExample) for row in rows]


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
