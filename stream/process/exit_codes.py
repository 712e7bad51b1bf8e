"""End a worker process with an exit code and one log line that names the reason and the action.

Start at end_process.
"""

import logging
import os
import sys
from collections.abc import Awaitable
from typing import NoReturn

import structlog
from aiokafka.errors import ProducerFenced

from schemas.errors import RowVersionError, StartRefused
from stream.process.access_faults import access_fault

EXIT_RESTART, EXIT_CONFIG = 75, 78

log = structlog.get_logger()


def end_process(reason: str, *, code: int = EXIT_RESTART, **facts: object) -> NoReturn:
    """End the process at once, without further acknowledgements or commits: 75 means restart, 78 needs a person."""
    restart = "restart the worker (`footfall up` does so by itself); it resumes from the last commit"
    action = restart if code == EXIT_RESTART else "correct the cause, then start the worker again"
    log.error("exit", reason=reason, code=code, action=action, **facts)
    logging.shutdown()  # writes what waits, for at most a second
    os._exit(code)


def end_stopped(role: str, fact: str) -> NoReturn:
    """End the process with 0 after a stop request: chunks in flight are durable, or will be read again.

    It does not wait for threads: those of a model, or of a client whose broker does not respond, cannot be stopped.
    """
    log.info("stopped", role=role, fact=fact, action="exiting with code 0; the next worker resumes from the last commit")
    sys.stdout.flush()
    logging.shutdown()  # writes what waits, for at most a second
    os._exit(0)


def end_crashed(what: str, error: BaseException | None) -> NoReturn:
    """End the process because of an error: with 78 if it is a missing ACL or a wrong setting, else with 75."""
    if fault := access_fault(error):
        end_process(f"{what}: {fault}", code=EXIT_CONFIG)
    end_process(f"{what}: {error!r}")


async def crash_only(what: str, work: Awaitable[None]) -> None:
    """Run a part of the main path; end the process on any error that it raises."""
    try:
        await work
    except (StartRefused, RowVersionError) as error:
        end_process(f"{what}: {error}", code=EXIT_CONFIG)
    except ProducerFenced:
        end_process(
            f"{what}: the broker fenced this worker (ProducerFenced): another process took over the partition, or the "
            "transaction timed out"
        )
    except Exception as error:  # the top of a worker: no caller can recover
        if access_fault(error):
            end_crashed(what, error)
        log.exception(
            "unexpected_error",
            part=what,
            action="ending the process; unless the broker caused the error, report this traceback as a bug",
        )
        end_process(f"{what}: {error!r}")
