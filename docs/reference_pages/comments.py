"""An enum's source → the comment behind each member. Start at comments_of."""

import inspect
import re
from enum import Enum

MEMBER = re.compile(r"^\s+([A-Z][A-Z0-9_]*)\s*=.*?#\s*(.+?)\s*$", re.MULTILINE)


def comments_of(enum: type[Enum]) -> dict[str, str]:
    """Return what the comment behind each member says.

    Raises:
        ValueError: a member has no comment.
    """
    found = dict(MEMBER.findall(inspect.getsource(enum)))
    if missing := [name for name in enum.__members__ if name not in found]:
        raise ValueError(f"{enum.__name__}: found no comment behind {', '.join(missing)}, expected one that says what it means")
    return found
