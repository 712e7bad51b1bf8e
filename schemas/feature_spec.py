"""Define the record in which role features publishes the feature spec of its requests, so that any model finds its features.

Start at PublishedSpec.
"""

from msgspec import Struct

from schemas.fields import Id


class SpecFeature(Struct, frozen=True, kw_only=True, gc=False):
    """One feature of a vector: its name, unit, rolling window, when it is null, and its name with a hash of all of them."""

    name: str
    unit: str
    window: str
    null: str
    reference: str


class PublishedSpec(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A feature spec: the features of every vector with this `version`, in order."""

    version: Id
    features: list[SpecFeature]
    schema_version: int = 1
