"""How a worker process ends when it must: one log line that says why and what to do, and an exit code.

Start at end_process.
"""

import os
import sys
from collections.abc import Awaitable
from typing import NoReturn

import structlog
from aiokafka.errors import ProducerFenced

from schemas.errors import RowVersionError, StartRefused

EXIT_RESTART, EXIT_CONFIG = 75, 78

log = structlog.get_logger()


def end_process(reason: str, *, code: int = EXIT_RESTART, **facts: object) -> NoReturn:
    """End the process at once: 75 asks for a restart, 78 for a person. Nothing more is acknowledged or committed."""
    action = "restart; the group goes on from the last commit" if code == EXIT_RESTART else "correct it, then start again"
    log.error("exit", reason=reason, code=code, action=action, **facts)
    sys.stderr.flush()
    os._exit(code)


def end_stopped(role: str, fact: str) -> NoReturn:
    """End the process with 0: it was asked to stop, and what it had in work is durable or is read again.

    It does not wait for threads: that of a model, or of a client whose broker does not answer, cannot be asked to end.
    """
    log.info("stopped", role=role, fact=fact)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def crash_only(what: str, work: Awaitable[None]) -> None:
    """Run a part of the main path; any error that it lets out ends the process."""
    try:
        await work
    except (StartRefused, RowVersionError) as error:
        end_process(f"{what}: {error}", code=EXIT_CONFIG)
    except ProducerFenced:
        end_process(f"{what}: fenced, another worker took the partition over while this one was away (ProducerFenced)")
    except Exception as error:  # the top of a worker: nothing above can put this right
        log.exception("unexpected", part=what)
        end_process(f"{what}: {error!r}")
