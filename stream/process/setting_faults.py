"""Describe invalid settings and unknown environment variables as error texts.

The caller passes the names of all settings, or an error of pydantic. Start at unknown_variables and explain.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

PREFIX = "FOOTFALL_"
ELSEWHERE = ("FOOTFALL_CONFIG", "FOOTFALL_STATUS_FILE", "FOOTFALL_FAULT", "FOOTFALL_LOGS", "FOOTFALL_KAFKA")
FAMILIES = ("FOOTFALL_FAUST_", "FOOTFALL_CHAOS_", "FOOTFALL_BENCH_")
KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)")  # variables that it sets for services named footfall-…


def unknown_variables(environment: Mapping[str, str], settings: Iterable[str]) -> list[str]:
    """Name each FOOTFALL_ variable that is no setting, and the nearest one; `settings` are the variables of all settings."""
    known = [*settings, *ELSEWHERE]
    found = [
        name
        for name, value in environment.items()
        if name.upper().startswith(PREFIX)
        and name.upper() not in known
        and not name.upper().startswith(FAMILIES)
        and not KUBERNETES.search(name)
        and not value.startswith(("tcp://", "udp://"))
    ]
    return [f"variable {name}: no such setting{_nearest(name.upper(), known)}" for name in sorted(found)]


def _nearest(name: str, known: Iterable[str]) -> str:
    without = name.removeprefix(PREFIX)  # for FOOTFALL_ written before KAFKA_
    near = get_close_matches(name, known, 1, 0.0) if without not in known else [without]
    return f", the nearest is {near[0]}; `footfall settings --help` lists the settings"


def explain(problem: Any) -> str:
    """Describe an error of pydantic: setting, variable, value found, value expected; never a secret."""
    name, *inner = (str(part) for part in problem["loc"] or [""])
    name = name.lower()
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"setting {name}: no such setting; `footfall settings --help` lists the settings"
    if not name:
        return f"setting {message}"
    found = "a hidden value" if "password" in name else repr(problem["input"])
    variable = name.upper() if name.startswith("kafka_") else f"FOOTFALL_{name.upper()}"
    place = f", at {'.'.join(inner)}" if inner else ""
    return f"setting {name} ({variable}){place}: found {found}, expected: {message}"
