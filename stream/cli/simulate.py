"""`footfall simulate`: make an event log of a made shop. Bad input ends with code 2 before anything is written."""

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
    seed: Annotated[int, typer.Option(help="Equal seeds make equal logs.")] = 1,
    shoppers: Annotated[int, typer.Option(help="How many people shop.")] = 300,
    days: Annotated[int, typer.Option(help="Length of the period.")] = 60,
    start: Annotated[str, typer.Option(help="First day, YYYY-MM-DD in UTC.")] = "2026-01-01",
    late: Annotated[float, typer.Option(help="Fraction of events that arrive late.")] = 0.0,
    duplicates: Annotated[float, typer.Option(help="Fraction of events that arrive twice.")] = 0.0,
    malformed: Annotated[float, typer.Option(help="Fraction of events to add a malformed record for.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Make a shop's event log with known truth: interests, churn dates and injected dirt, in truth.json beside it."""
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
        with console.status("drawing events"):
            events = simulate(config)
        manifest = write_events(console, out, [event.logged for event in events], f"footfall simulate, seed {seed}")
    except (FootfallError, ValueError, OSError) as error:
        fail(error)
    known = truth(config, events)
    (out / TRUTH).write_bytes(msgspec.json.encode(known) + b"\n")
    summarise(console, out, manifest)
    console.print(
        f"truth: {len(known.shoppers)} shoppers, {known.churned} churn within the period; dirt {known.dirt or 'none'}"
    )
    if as_json:
        print_json({"log": str(out), "manifest": manifest, "churned": known.churned, "dirt": known.dirt})
