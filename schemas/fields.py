"""Define the field types of wire structs, with the limits on their values.

A limit on a field is a `msgspec.Meta` of its type, so the decoder, the JSON Schemas and the documentation cannot disagree.
The codec checks two limits in code: the size of a message, and the pattern of an event's user id. Start at UserId.
"""

from typing import Annotated

from msgspec import Meta

from schemas.time_units import DAY_MS

MAX_EVENT_BYTES = 256_000
MAX_TEXT_CHARS = 2_000
MAX_LINES = 200
MAX_ID_CHARS = 64

USER_ID_PATTERN = r"^[A-Za-z0-9:._-]{1,64}(?!\n)$"
USER_ID_DESCRIPTION = "Pseudonymous user id; also the record key."
UserId = Annotated[str, Meta(pattern=USER_ID_PATTERN, description=USER_ID_DESCRIPTION)]
EventUserId = Annotated[  # for source events: the codec checks the pattern on the record key, with a cache per user
    str, Meta(description=USER_ID_DESCRIPTION, extra_json_schema={"pattern": USER_ID_PATTERN})
]
EventId = Annotated[
    str, Meta(min_length=1, max_length=MAX_ID_CHARS, description="Producer's unique id of the event; makes retries idempotent.")
]
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Category = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Millis = Annotated[int, Meta(ge=0, le=4_102_444_800_000, description="Milliseconds since 1970-01-01T00:00Z (UTC).")]
DurationMs = Annotated[int, Meta(ge=0, le=DAY_MS, description="Milliseconds, at most one day.")]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]
Price = Annotated[float, Meta(ge=0.0, le=1e9, description="Price of one unit in the purchase's currency.")]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}(?!\n)$", description="ISO 4217 code.")]
Stars = Annotated[float, Meta(ge=1.0, le=5.0)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
