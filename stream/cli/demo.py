"""Run `footfall demo`: the whole system on one machine, with live metrics in the terminal. Start at demo_command."""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.options import AsJson

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from stream.demo.run_demo import DemoOptions, DemoResult, DemoState

LINE_SECONDS = 5.0  # between two lines if stderr is not a terminal
RATE_SECONDS = 5.0  # window of the rates and recent latencies shown
NEXT = """next:
  footfall simulate --out shop-log && footfall replay shop-log --out replayed    run the same roles on files
  KAFKA_BOOTSTRAP_SERVERS=host:port footfall topics plan                         use your own Kafka
  footfall settings                                                              list all settings"""


def demo_command(
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Stop this long after the first event; default: on Ctrl-C.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Send this event log instead of a simulated shop's events.")] = None,
    rate: Annotated[float, typer.Option(min=1, max=20_000, help="Events per second.")] = 300.0,
    shoppers: Annotated[int, typer.Option(min=1, max=100_000, help="Shoppers in the simulated shop.")] = 1500,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same events.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Start an embedded broker, a simulated shop and all roles, show live metrics, and clean up at the end.

    For development only: the embedded broker has no transactions.
    """
    import msgspec

    from stream.demo.run_demo import DemoOptions

    result = asyncio.run(_demo(DemoOptions(seconds=seconds, log=log, rate=rate, shoppers=shoppers, seed=seed)))
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    if result.orphan_processes:
        raise typer.Exit(1)


async def _demo(options: "DemoOptions") -> "DemoResult":
    from rich.console import Console
    from rich.live import Live

    from stream.demo.run_demo import run_demo

    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def request_stop() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C ends at once

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, request_stop)
    console = Console(stderr=True, markup=False, highlight=False)
    console.print("embedded in-memory broker without transactions: for development only", soft_wrap=True)
    figures = _Figures()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            result = await run_demo(options, stop, lambda state: live.update(figures.panel(state), refresh=True))
    else:
        result = await run_demo(options, stop, _Lines(console, figures).show)
    _summarise(console, result)
    return result


class _Figures:
    """Renders the demo's state; keeps samples of the last seconds to compute rates from."""

    def __init__(self) -> None:
        self._past: list[tuple[float, int, int]] = []

    def note(self, state: "DemoState") -> None:
        """Add a sample of the state."""
        now = time.monotonic()
        self._past = [past for past in self._past if past[0] >= now - RATE_SECONDS]
        self._past.append((now, state.roles["features"].records.get("applied", 0), state.watched.count("interest")))

    def rates(self) -> tuple[float, float]:
        """Return events and scores per second."""
        (then, events, scores), (now, events_now, scores_now) = self._past[0], self._past[-1]
        over = now - then
        return (max(0, events_now - events) / over, (scores_now - scores) / over) if over > 0 else (0.0, 0.0)

    def line(self, state: "DemoState") -> str:
        """Render the state as one line."""
        events, scores = self.rates()
        records, watched = state.roles["features"].records, state.watched
        return (
            f"{state.phase}: {state.sent.total} events sent, {events:.0f} applied per second, "
            f"consumer lag {sum(figures.lag for figures in state.roles.values())}; {watched.count('interest')} scores, "
            f"{scores:.0f} per second, {self.latency(state)}; {watched.count('ad-trigger')} triggers, "
            f"{records.get('dead_lettered', 0)} dead letters, {state.restarts} restarts"
        )

    def latency(self, state: "DemoState") -> str:
        """Render the event-to-score latency of the last seconds."""
        from stream.demo.demo_figures import percentile

        since = time.time() * 1000 - RATE_SECONDS * 1000
        took = [ms for scored_ms, ms in state.watched.recent_ms if scored_ms >= since]
        return f"event to score p50 {percentile(took, 0.5)} ms, p99 {percentile(took, 0.99)} ms" if took else "no scores yet"

    def panel(self, state: "DemoState") -> "RenderableType":
        """Render all panels for a terminal."""
        from rich.columns import Columns
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        self.note(state)
        events, scores = self.rates()
        records, watched = state.roles["features"].records, state.watched
        roles = "   ".join(f"{role} {'ready' if figures.ready else 'starting'}" for role, figures in state.roles.items())
        flow = [
            f"events     {events:6.0f} per second    {state.sent.total} sent, {records.get('applied', 0)} applied",
            f"scores     {scores:6.0f} per second    {self.latency(state)}",
            f"lag        {sum(figures.lag for figures in state.roles.values()):6d} records",
            f"refused    {records.get('dead_lettered', 0):6d} dead letters    {records.get('late_dropped', 0)} late, "
            f"{records.get('duplicate_dropped', 0)} duplicates",
            f"decided    {watched.count('ad-trigger'):6d} triggers    {watched.count('suppression')} suppressions",
        ]
        total = sum(watched.interests.values()) or 1
        top = [f"{label:<12} {count / total:4.0%}" for label, count in watched.interests.most_common(6)]
        lower = [
            Panel(Text("\n".join(top) or "-"), title="top interests"),
            Panel(Text("\n".join(reversed(watched.alerts)) or "-"), title="churn alerts"),
            Panel(Text("\n".join(reversed(watched.triggers)) or "-"), title="ad triggers"),
        ]
        head = Panel(Text("\n".join([roles, *flow])), title=state.phase, subtitle="Ctrl-C to stop")
        return Group(head, Columns(lower))


class _Lines:
    """Prints a line every LINE_SECONDS if stderr is not a terminal."""

    def __init__(self, console: "Console", figures: _Figures) -> None:
        self._console, self._figures, self._next = console, figures, 0.0

    def show(self, state: "DemoState") -> None:
        """Print the state if LINE_SECONDS have passed."""
        self._figures.note(state)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self._console.print(self._figures.line(state), soft_wrap=True)


def _summarise(console: "Console", result: "DemoResult") -> None:
    took = result.event_to_score_ms
    console.print(
        f"{result.events_in} events in = {result.applied} applied + {result.replay_skipped} skipped on replay + "
        f"{result.dead_lettered} dead letters + {result.declared_dropped} late or duplicate\n"
        f"{result.score_requests} score requests → {result.signals} → {result.triggers} triggers, "
        f"{result.suppressions} suppressions\n"
        f"first score after {result.first_score_s} s; event to score p50 {took['p50']} ms, p99 {took['p99']} ms; "
        f"{result.restarts} restarts, {result.orphan_processes} processes still running\n{NEXT}",
        soft_wrap=True,
    )
