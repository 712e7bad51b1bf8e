"""Define the seven source events that a shop sends: what a shopper did, when, and to which item.

Each topic carries one struct as JSON. Readers ignore unknown fields and refuse wrong types. A new field always has a
default, and existing fields stay as they are. To change the meaning of a field, define a new topic version. Start at Event.
"""

from typing import Annotated

from msgspec import Meta, Struct

from schemas.fields import (
    MAX_LINES,
    Category,
    Currency,
    DurationMs,
    EventId,
    EventUserId,
    Id,
    Millis,
    Price,
    Quantity,
    Stars,
    Text,
)


class Event(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The fields of every source event; the record key is `user_id` in UTF-8."""

    user_id: EventUserId
    event_time_ms: Millis
    event_id: EventId | None = None
    schema_version: Annotated[int, Meta(ge=1)] = 1


class Visit(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A shopper opened a page or an application."""

    page: Text | None = None
    referrer: Text | None = None
    derived: bool = False


class Browse(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A shopper viewed an item for `dwell_ms`."""

    item_id: Id
    dwell_ms: DurationMs = 0
    category: Category | None = None
    title: Text | None = None
    price: Price | None = None


class Click(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A shopper clicked an item; `target` is what was clicked, such as a link, the cart or the favourites."""

    item_id: Id
    category: Category | None = None
    title: Text | None = None
    target: Id | None = None


class Search(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A shopper searched and saw `result_count` results."""

    query: Text
    result_count: Annotated[int, Meta(ge=0)] = 0


class PurchaseLine(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One item of a purchase; `returned` marks goods sent back, at the same price."""

    item_id: Id
    quantity: Quantity
    unit_price: Price
    category: Category | None = None
    title: Text | None = None
    returned: bool = False


class Purchase(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A shopper paid for, or returned, up to 200 lines."""

    currency: Currency
    lines: Annotated[list[PurchaseLine], Meta(min_length=1, max_length=MAX_LINES)]
    order_id: Id | None = None


class Review(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A shopper reviewed an item; `review_id` identifies the text permanently."""

    review_id: Id
    item_id: Id
    text: Text
    category: Category | None = None


class Rating(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A shopper gave an item one to five stars."""

    item_id: Id
    rating: Stars
    category: Category | None = None
