"""Write all log lines, ours and those of libraries, in one format, and keep the keys and values of records out of them.

Lines go to stderr, by default as JSON on a pipe and as text on a terminal. A thread writes them, so a reader that stopped
reading blocks nothing. Library lines that may contain keys or values of records are scrubbed or dropped. The same library
line passes at most once a second, because it repeats while a broker is down. Start at configure_logging.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

import structlog
from structlog.typing import EventDict, Processor

from stream.process.line_writer import LineWriter
from stream.process.settings import Settings

FLUSH_SECONDS = 1.0  # how long the end of a process waits for a reader of its last lines
PAYLOAD_LINES = (  # message templates of Faust that carry keys and values of records
    "DROPPED MESSAGE",
    "_on_published error",
    "Skipping message",
    "Error decoding key",
    "Error decoding value",
)
BYTES_LITERAL = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""")
MAX_TEXT = 500
MAX_KEYS = 1000
UNPRINTABLE = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
PLAIN = (str, int, float, bool, type(None))


def configure_logging(settings: Settings, role: str, *, stream: IO[str] | None = None) -> None:
    """Send all log lines of this process to `stream` (default stderr), as configured; add `role` to every line.

    Only stderr is written by a thread. Replaces all handlers of the root logger; call it once, at start.
    """
    out = sys.stderr if stream is None else stream
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and out.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _with_role(role),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    formatting: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
    ]
    if as_text:
        formatting += [_printable, structlog.dev.ConsoleRenderer(colors=out.isatty(), timestamp_key="ts", pad_event_to=0)]
    else:
        formatting += [_bounded, structlog.processors.JSONRenderer(ensure_ascii=True, default=lambda value: str(_safe(value)))]
    handler = ThreadedHandler(sys.stderr.fileno()) if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=formatting))
    handler.addFilter(LibraryLines(time.monotonic))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)  # they would be written to stderr by the thread that causes them
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


class ThreadedHandler(logging.StreamHandler[LineWriter]):
    """Pass lines to a thread that writes them; dropped ones are counted in a line of their own."""

    def __init__(self, fd: int) -> None:
        """Write to the file descriptor `fd`."""
        super().__init__(LineWriter(fd, self._notice))

    def close(self) -> None:
        """Wait for the lines in the queue, for at most FLUSH_SECONDS; logging.shutdown() calls it."""
        self.stream.drain(FLUSH_SECONDS)
        super().close()

    def _notice(self, count: int) -> str:
        facts = {"lines": count, "action": "dropped log lines, because the reader of stderr did not keep up"}
        line = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": "log_lines_dropped"}
        return self.format(logging.makeLogRecord(line | facts)) + self.terminator


class LibraryLines(logging.Filter):
    """Pass library warnings at most once a second per template, without payloads; pass our own lines unchanged.

    A line is ours if structlog created it: Faust also logs under the names of our modules. Library lines below warning
    level never pass, because debug lines carry records.
    """

    def __init__(self, monotonic: Callable[[], float], *, seconds: float = 1.0) -> None:
        """Repeat a line of the same logger and template after `seconds` at the earliest."""
        super().__init__()
        self._monotonic, self._seconds = monotonic, seconds
        self._last: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Scrub a library line and return whether it passes; the next one that passes counts those held back."""
        if isinstance(record.msg, dict):
            return True
        template = str(record.msg)
        if record.levelno < logging.WARNING or any(known in template for known in PAYLOAD_LINES):
            return False
        key, now = (record.name, _shape(template)), self._monotonic()
        if now - self._last.get(key, -self._seconds) < self._seconds:
            self._held[key] = self._held.get(key, 0) + 1
            return False
        if len(self._last) >= MAX_KEYS:
            self._last.clear()
            self._held.clear()
        self._last[key] = now
        record.logger = record.name
        if held := self._held.pop(key, 0):
            record.held_back = held
        _scrub(record)
        return True


def _shape(template: str) -> str:
    """Return the part of a line that repeats: replace numbers and addresses that some libraries format into it."""
    return re.sub(r"0x[0-9a-f]+|\d+", "#", template)[:200]


def _scrub(record: logging.LogRecord) -> None:
    """Replace record keys, values and message objects by sizes and types; limit the length of the text."""
    if isinstance(record.args, Mapping):
        record.args = {name: _safe(value) for name, value in record.args.items()}
    elif record.args:
        record.args = tuple(_safe(value) for value in record.args)
    try:
        text = record.getMessage()
    except (TypeError, ValueError):
        text = str(record.msg)
    text = BYTES_LITERAL.sub("<bytes>", text)
    text = re.sub(r"\b(k|v|key|value)=(?!<)[^,>\s]+", r"\1=<hidden>", text)
    record.msg, record.args = text[:MAX_TEXT], ()
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        record.error = f"{type(error).__name__}: {_first_line(error)}"
        if where is not None:
            record.error_at = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
        record.exc_info, record.exc_text = None, None


def _first_line(error: BaseException) -> str:
    return BYTES_LITERAL.sub("<bytes>", str(error)).split("\n", 1)[0][:MAX_TEXT]


def _safe(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {_first_line(value)}"
    if type(value).__name__ in ("Message", "Event", "ConsumerMessage", "ConsumerRecord", "FutureMessage", "PendingMessage"):
        return f"<{type(value).__name__}>"
    return value


def _with_role(role: str) -> Processor:
    def add(_: Any, __: str, event: EventDict) -> EventDict:
        event.setdefault("role", role)
        return event

    return add


def _bounded(_: Any, __: str, event: EventDict) -> EventDict:
    """Replace all bytes in a line, including our own, by their length."""
    return {name: _without_bytes(name, value) for name, value in event.items()}


def _without_bytes(name: str, value: Any) -> Any:
    return BYTES_LITERAL.sub("<bytes>", value) if name == "exception" else _safe(value)


def _printable(_: Any, __: str, event: EventDict) -> EventDict:
    """Escape control characters, which could forge lines or control a terminal; a traceback keeps its newlines."""
    shown: EventDict = {}
    for name, value in event.items():
        safe = _without_bytes(name, value)
        text = safe if isinstance(safe, PLAIN) else str(safe)
        if isinstance(text, str):
            keep = "\n" if name == "exception" else ""
            text = text.translate({code: out for code, out in UNPRINTABLE.items() if chr(code) not in keep})
        shown[name] = text
    return shown
