"""A report document → one HTML page that needs nothing else: no script, no network, readable on a phone.

Start at render.
"""

import re
from collections.abc import Sequence

from models.evaluation.bootstrap import CONFIDENCE
from models.evaluation.comparison import MEANS_NOTHING
from models.evaluation.groups import MIN_EXAMPLES
from models.evaluation.report_document import Head, Report
from models.evaluation.report_plots import draw_few_labels, draw_head, draw_horizons

TEMPLATE = "report.html.j2"
STANDINGS = {
    "beaten": "the model is above, beyond noise:",
    "ahead": "above, within noise:",
    "behind": "below, within noise:",
    "lost": "below, beyond noise:",
}
SHOWN_HORIZON_DAYS = 30  # the horizon whose details are open, or else the longest


def render(report: Report) -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("models.evaluation", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"number": _number, "words": _words, "slug": _slug}
    churn = [head for head in report.heads if head.horizon_days is not None]
    return environment.get_template(TEMPLATE).render(
        report=report,
        standings=STANDINGS,
        churn=churn,
        shown=_shown(churn),
        others=[head for head in report.heads if head.horizon_days is None],
        horizons=draw_horizons(churn) if churn else None,
        drawings={head.title: draw_head(head) for head in report.heads},
        few_labels=draw_few_labels(report.few_labels) if report.few_labels else None,
        percent=round(CONFIDENCE * 100),
        nothing=MEANS_NOTHING,
        min_examples=MIN_EXAMPLES,
    )


def _shown(churn: Sequence[Head]) -> Head | None:
    return next((head for head in churn if head.horizon_days == SHOWN_HORIZON_DAYS), churn[-1] if churn else None)


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-0.000", "0.000")


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)
