"""Simulate a shop's last year as one stream of events that ends before now. Start at SimulatedYear."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from schemas.time_units import DAY_MS
from stream.logs.event_log import LoggedEvent
from stream.logs.simulate.shop import simulate
from stream.logs.simulate.shopper import SimulatorConfig

MONTH_DAYS, MONTHS = 30, 12
LEFT_OUT_DAYS = 7  # dropped from the first month, so that reviews of earlier purchases appear from the start
LATE, DUPLICATES, MALFORMED = 0.01, 0.01, 0.005  # fractions of the simulated events


class SimulatedYear:
    """Events in order of arrival; a thread simulates each month while the previous one is read."""

    def __init__(self, seed: int, shoppers: int, now_ms: int) -> None:
        """Start simulating the first month; the same arguments on the same day give the same events."""
        self._seed, self._shoppers = seed, shoppers
        self._first_ms = (now_ms // DAY_MS - MONTHS * MONTH_DAYS) * DAY_MS
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="simulator")
        self._next = self._threads.submit(self._make, 0)

    def __enter__(self) -> Iterator[LoggedEvent]:
        return self._read()

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _make(self, month: int) -> list[LoggedEvent]:
        config = SimulatorConfig(
            seed=self._seed + month,
            shoppers=self._shoppers,
            days=MONTH_DAYS,
            start_ms=self._start_ms(month),
            late=LATE,
            duplicates=DUPLICATES,
            malformed=MALFORMED,
        )
        return [event.logged for event in simulate(config)]

    def _start_ms(self, month: int) -> int:
        return self._first_ms + month * MONTH_DAYS * DAY_MS

    def _read(self) -> Iterator[LoggedEvent]:
        waiting: list[LoggedEvent] = []  # late events, which arrive after their month
        for month in range(MONTHS):
            events = sorted([*waiting, *self._next.result()], key=lambda event: event.record_ms)
            if month + 1 < MONTHS:
                self._next = self._threads.submit(self._make, month + 1)
            waiting = [event for event in events if event.record_ms >= self._start_ms(month + 1)]
            ready = events[: len(events) - len(waiting)]
            yield from (event for event in ready if event.record_ms >= self._start_ms(0) + LEFT_OUT_DAYS * DAY_MS)
