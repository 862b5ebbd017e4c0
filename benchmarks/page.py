"""What all benchmarks measured, on one page with a chart a question."""

import itertools
import pathlib

import jinja2

import trainer.evaluation.report
from benchmarks.record import Row, read
from trainer.evaluation.report.charts import COLOURS, INK, Chart

OURS = ("this project", "this project, TensorFlow", "trainer")  # in one colour
HERE = pathlib.Path(__file__).parent
TEMPLATES = [HERE, pathlib.Path(trainer.evaluation.report.__path__[0]) / "templates"]


def page(results: list[dict]) -> str:
    """The page, HTML.

    Args:
      results: contents of the JSON files, in order.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True
    )
    template = environment.get_template("page.html")
    return template.render(title="Benchmarks", parts=list(map(_part, results)))


def _part(result: dict) -> dict:
    rows = read(result)
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    shown = [_cells(row) for row in rows]
    return {**result, "charts": charts(rows), "rows": shown, "machine": machine}


def _cells(row: Row) -> dict[str, str | int]:
    at = f"{row.of} {row.at:g}" if row.at is not None else ""
    return {
        "what": ", ".join(filter(None, [row.quantity, row.group, at])),
        "side": row.side,
        "unit": row.unit,
        "median": f"{row.median:,.4g}",
        "least": f"{min(row.samples):,.4g}",
        "most": f"{max(row.samples):,.4g}",
        "count": len(row.samples),
    }


def charts(rows: list[Row]) -> list[dict[str, str]]:
    """Curves where the work grows, bars where it doesn't; one for each quantity."""

    def which(row: Row) -> tuple[str, str, str, str]:
        return row.quantity, row.unit, row.group if row.of else "", row.of

    drawn = []
    for (quantity, unit, group, of), each in itertools.groupby(
        sorted(rows, key=which), key=which
    ):
        some = list(each)
        title = f"{quantity}, {group}" if group else quantity
        chart = _curves(some, title) if of else _bars(some, title)
        words = "; ".join(
            f"{cells['side']} {cells['what']}: {cells['median']} {unit}"
            for cells in map(_cells, some)
        )
        drawn.append({"title": title, "svg": chart.svg(words)})
    return drawn


def _curves(rows: list[Row], title: str) -> Chart:
    """Medians by the amount of work; times on a logarithmic scale, memory from 0."""
    chart = Chart(title, rows[0].of, rows[0].unit, height=3.2)
    sides = dict.fromkeys(row.side for row in rows)
    chart.lines(
        {
            side: sorted((row.at, row.median) for row in rows if row.side == side)
            for side in sides
        }
    )
    chart.axes.set_xscale("log")
    work = sorted({row.at for row in rows if row.at is not None})
    chart.axes.set_xticks(work, [f"{at:,.0f}" for at in work])
    chart.axes.xaxis.minorticks_off()
    if rows[0].unit == "s":
        chart.axes.set_yscale("log")
    else:
        chart.axes.set_ylim(bottom=0)
    return chart


def _bars(rows: list[Row], title: str) -> Chart:
    """A bar a side, with whiskers; groups below each other."""
    chart = Chart(title, rows[0].unit, "", height=0.9 + 0.28 * len(rows))
    sides = list(dict.fromkeys(row.side for row in rows))
    for place, row in enumerate(rows):
        below, above = row.median - min(row.samples), max(row.samples) - row.median
        colour = COLOURS[0 if row.side in OURS else 1 + sides.index(row.side) % 5]
        chart.axes.barh(place, row.median, color=colour, alpha=0.8)
        chart.axes.errorbar(
            row.median, place, xerr=[[below], [above]], color=INK, capsize=2
        )
    chart.axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    chart.axes.invert_yaxis()
    return chart


def _label(row: Row) -> str:
    return f"{row.group}: {row.side}" if row.group else row.side
