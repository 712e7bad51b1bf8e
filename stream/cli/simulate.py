"""Define `footfall simulate`, which writes the event log of a simulated shop.

Bad input exits with code 2 before anything is written. Start at simulate_command.
"""

from datetime import UTC, datetime
from typing import Annotated

import typer

from schemas.errors import FootfallError
from stream.cli.answer import fail, print_json
from stream.cli.log_output import Out, stderr_console, summarise, write_events
from stream.cli.options import AsJson

TRUTH = "truth.json"


def simulate_command(
    out: Out,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same log.")] = 1,
    shoppers: Annotated[int, typer.Option(help="Number of shoppers.")] = 300,
    days: Annotated[int, typer.Option(help="Length of the simulated period, in days.")] = 60,
    start: Annotated[str, typer.Option(help="First day, YYYY-MM-DD in UTC.")] = "2026-01-01",
    late: Annotated[float, typer.Option(help="Fraction of events that arrive late.")] = 0.0,
    duplicates: Annotated[float, typer.Option(help="Fraction of events that arrive twice.")] = 0.0,
    malformed: Annotated[float, typer.Option(help="Fraction of events to add a malformed record for.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Simulate a shop's event log with known interests, churn dates and injected bad records, listed in truth.json."""
    import msgspec

    from stream.logs.event_log import refuse_used
    from stream.logs.simulate.dirt import truth
    from stream.logs.simulate.shop import simulate
    from stream.logs.simulate.shopper import SimulatorConfig

    console = stderr_console()
    try:
        config = SimulatorConfig(
            seed=seed,
            shoppers=shoppers,
            days=days,
            start_ms=int(datetime.strptime(start, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000),
            late=late,
            duplicates=duplicates,
            malformed=malformed,
        )
        refuse_used(out)
        with console.status("simulating events"):
            events = simulate(config)
        manifest = write_events(console, out, [event.logged for event in events], f"footfall simulate, seed {seed}")
    except (FootfallError, ValueError, OSError) as error:
        fail(error)
    known = truth(config, events)
    (out / TRUTH).write_bytes(msgspec.json.encode(known) + b"\n")
    summarise(console, out, manifest)
    console.print(
        f"truth: {len(known.shoppers)} shoppers, {known.churned} churn within the period; injected: {known.dirt or 'none'}"
    )
    if as_json:
        print_json({"log": str(out), "manifest": manifest, "churned": known.churned, "dirt": known.dirt})
