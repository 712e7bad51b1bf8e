"""Draw a report's curves as SVG that a page can embed, without scripts, fonts or external links.

Text in a plot is not drawn as paths, so that the reader's own fonts show every language. Start at draw_head.
"""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from models.evaluation.report_document import Head, Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0b57a4", "#d55e00", "#009e73", "#cc79a7", "#7f6000", "#56b4e9", "#555555", "#e69f00", "#000000")
SQUARE = (3.7, 3.4)
CURVES = {"reliability": "Reliability", "roc": "ROC", "precision_recall": "Precision and recall", "gains": "Gains and lift"}
STYLE = cast(  # matplotlib types each setting separately
    Any,
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "footfall",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    },
)


class Drawing(NamedTuple):
    """One plot: its title, a caption, the SVG, and the same data as a table."""

    title: str
    caption: str
    svg: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def draw_head(head: Head) -> list[Drawing]:
    """Draw a head's curves and slices."""
    drawings = [_draw_curve(kind, head.curves[kind], head.served) for kind in CURVES if kind in head.curves]
    if "kaplan_meier" in head.curves:
        drawings.append(_draw_survival(head))
    if head.parts:
        drawings.append(_draw_parts(head.parts, head.parts_measure))
    return drawings


def draw_horizons(heads: Sequence[Head]) -> Drawing:
    """Draw the first measure of every scorer by horizon."""
    figure, axes = _figure((6.4, 3.4))
    measure = heads[0].measures[0]
    rows = []
    for place, name in enumerate(_names(heads)):
        found = [(head.horizon_days, head.scorers[name].metrics.get(measure)) for head in heads if name in head.scorers]
        points = [(days, value) for days, value in found if value is not None]
        axes.plot(
            [str(days) for days, _ in points],
            [float("nan") if value.value is None else value.value for _, value in points],
            marker="o",
            color=COLOURS[place % len(COLOURS)],
            linewidth=2.4 if name == heads[0].served else 1.2,
            label=name.replace("_", " "),
        )
        rows += [(name, days, value.value, value.low, value.high) for days, value in points]
    axes.set_xlabel("horizon, days")
    axes.set_ylabel(measure.replace("_", " "))
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    caption = f"{measure} of every scorer at every horizon; higher is better."
    return Drawing(f"{measure.upper()} by horizon", caption, _svg(figure), ("scorer", "days", measure, "low", "high"), rows)


def draw_few_labels(points: Sequence[Mapping[str, float]]) -> Drawing:
    """Draw metrics by number of labels; every key of a point except `labels` is a line."""
    figure, axes = _figure((6.4, 3.4))
    names = list(dict.fromkeys(name for point in points for name in point if name != "labels"))
    for place, name in enumerate(names):
        known = [point for point in points if name in point]
        axes.plot(
            [point["labels"] for point in known],
            [point[name] for point in known],
            marker="o",
            color=COLOURS[place % len(COLOURS)],
            label=name.replace("_", "-"),
        )
    axes.set_xscale("log")
    axes.set_xlabel("labels in training")
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    rows = [(point["labels"], *(point.get(name) for name in names)) for point in points]
    return Drawing("Few labels", "Metrics by number of labels in training.", _svg(figure), ("labels", *names), rows)


def _names(heads: Sequence[Head]) -> list[str]:
    return list(dict.fromkeys(name for head in heads for name, scorer in head.scorers.items() if scorer.metrics))


def _draw_curve(kind: str, curves: Mapping[str, Sequence[Sequence[float]]], served: str) -> Drawing:
    figure, axes = _figure(SQUARE)
    columns, caption = _axes_of(kind, axes)
    for place, (name, points) in enumerate(curves.items()):
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            color=COLOURS[place % len(COLOURS)],
            linewidth=2.2 if name == served else 1.1,
            marker="o" if kind == "reliability" else None,
            markersize=3.5,
            label=name.replace("_", " "),
        )
    axes.legend(fontsize=7, frameon=False)
    rows = [(name, *point) for name, points in curves.items() for point in points]
    return Drawing(CURVES[kind], caption, _svg(figure), ("scorer", *columns), rows)


def _axes_of(kind: str, axes: "Axes") -> tuple[tuple[str, ...], str]:
    """Label the axes of a kind of curve; return the columns of its table and its caption."""
    if kind != "precision_recall":
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    labels: dict[str, tuple[tuple[str, ...], str]] = {
        "reliability": (
            ("predicted", "observed", "examples"),
            "Observed against predicted share, in bins of equal size; the dotted line is perfect calibration.",
        ),
        "roc": (("false positive rate", "true positive rate"), "True against false positive rate; the dotted line is chance."),
        "precision_recall": (("recall", "precision"), "Precision at every recall."),
        "gains": (
            ("share of users taken", "share of positives found", "lift"),
            "Share of all positives among the best scored users; the dotted line is chance. The table has the lift.",
        ),
    }
    columns, caption = labels[kind]
    axes.set_xlabel(columns[0])
    axes.set_ylabel(columns[1])
    if kind != "reliability":
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
    return columns, caption


def _draw_survival(head: Head) -> Drawing:
    figure, axes = _figure(SQUARE)
    days, actual, predicted = head.curves["days"], head.curves["kaplan_meier"], head.curves["predicted"]
    axes.step(days, actual, where="post", color="#000000", linewidth=1.4, label="Kaplan-Meier")
    for place, (name, curve) in enumerate(predicted.items()):
        axes.plot(days, curve, color=COLOURS[place % len(COLOURS)], linewidth=2.0, label=f"mean of {name}")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("days after the landmark")
    axes.set_ylabel("share not returned")
    axes.legend(fontsize=7, frameon=False)
    rows = list(zip(days, actual, *predicted.values(), strict=True))
    caption = "Share of users who have not returned: mean prediction, and observed (Kaplan-Meier)."
    return Drawing("Survival", caption, _svg(figure), ("days", "Kaplan-Meier", *predicted), rows)


def _draw_parts(parts: Sequence[Part], measure: str) -> Drawing:
    """Draw a bar with an interval per slice for the served scorer, and a marker for the best baseline."""
    figure, axes = _figure((6.4, 0.7 + 0.22 * len(parts)))
    places = range(len(parts))
    values = [part.served.value or 0 for part in parts]
    low = [max(value - (part.served.low or value), 0) for value, part in zip(values, parts, strict=True)]
    high = [max((part.served.high or value) - value, 0) for value, part in zip(values, parts, strict=True)]
    axes.barh(places, values, color="#9dc3e6", height=0.7, label="served")
    axes.errorbar(values, places, xerr=[low, high], fmt="none", ecolor=COLOURS[0], elinewidth=1)
    axes.plot([part.baseline.value or 0 for part in parts], places, "d", color=COLOURS[1], markersize=4, label="best baseline")
    axes.set_yticks(list(places), [f"{part.by}: {part.name}" for part in parts], fontsize=8)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlabel(measure.replace("_", " "))
    axes.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    rows = [
        (part.by, part.name, part.n, part.positives, part.served.value, part.baseline.value, part.difference.value)
        for part in parts
    ]
    columns = ("by", "slice", "n", "positives", "served", "best baseline", "difference")
    return Drawing("Slices", f"{measure} by slice of the test examples, with 95 % intervals.", _svg(figure), columns, rows)


def _figure(size: tuple[float, float]) -> "tuple[Figure, Axes]":
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.add_subplot()


def _svg(figure: Any) -> str:
    """Return a figure as an SVG element that a page can embed."""
    import matplotlib as mpl

    text = StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(<svg\b[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'\sid="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|LineCollection)_\d+"', "", svg)
