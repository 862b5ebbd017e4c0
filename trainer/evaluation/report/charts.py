"""Charts as SVG that lies in a page and takes the page's own colours and font."""

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np

Points = Sequence[tuple[float, float]]

# Okabe and Ito: told apart by those who see no red or no green, on white and on black.
COLOURS = ("#2b8fd8", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
INK = "#010203"  # stands for the page's text colour


class Chart:
    """One chart; call what it shows, then `svg`."""

    def __init__(self, name: str, x: str, y: str, *, height: float = 2.6):
        """An empty chart.

        Args:
          name: unique in its page; what can't stand in an id is replaced.
          x, y: what the axes show, with units.
          height: inches, for 5 of width.
        """
        # Not pyplot: it keeps every figure, and asks for a display.
        from matplotlib.figure import Figure

        self.name = re.sub(r"[^-\w]", "-", name)
        self.figure = Figure(figsize=(5, height), layout="constrained")
        self.axes = self.figure.subplots()
        self.axes.set(xlabel=_plain(x), ylabel=_plain(y))
        self.axes.grid(alpha=0.25)
        for side in ("top", "right"):
            self.axes.spines[side].set_visible(False)
        self.drawn = 0

    def lines(self, series: Mapping[str, Points], *, smooth: bool = False) -> "Chart":
        """A line a series; smoothed, with the values themselves faint behind."""
        for label, points in series.items():
            if not points:
                continue
            xs, ys = ([point[axis] for point in points] for axis in (0, 1))
            colour = self._next()
            if smooth and len(ys) > 20:
                self.axes.plot(xs, ys, color=colour, alpha=0.3, linewidth=1)
                ys = smoothed(ys)
            mark = "o" if len(ys) < 20 else None
            label = _plain(label)
            self.axes.plot(xs, ys, color=colour, label=label, marker=mark, markersize=3)
        return self

    def dots(self, series: Mapping[str, Points]) -> "Chart":
        """A cloud a series, each with a mark of its own."""
        for label, points in series.items():
            mark = "osD^vP"[self.drawn % 6]
            colour = self._next()
            label = _plain(label)
            if points:
                xs, ys = zip(*points, strict=True)
                self.axes.scatter(
                    xs, ys, 16, color=colour, marker=mark, alpha=0.7, label=label
                )
        return self

    def _next(self) -> str:
        self.drawn += 1
        return COLOURS[(self.drawn - 1) % len(COLOURS)]

    def svg(self, describe: str) -> str:
        """The element.

        Args:
          describe: the chart in words, for those who can't see it.
        """
        from html import escape

        import matplotlib
        from matplotlib.text import Text

        if len(self.axes.get_legend_handles_labels()[1]) > 1:
            self.axes.legend(frameon=False, fontsize=9)
        for item in self.axes.findobj(Text):
            item.set_color(INK)
        for spine in self.axes.spines.values():
            spine.set_edgecolor(INK)
        self.axes.tick_params(colors=INK)
        text = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(
                text, format="svg", transparent=True, metadata={"Date": None}
            )
        found = text.getvalue()
        found = found[found.index("<svg") :].replace(INK, "currentColor")
        found = re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.S)
        found = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px inherit", found)
        # Names of parts, which several charts of a page would share.
        found = re.sub(r'id="', f'id="{self.name}-', found)
        found = re.sub(r'((?:href="|url\()#)', rf"\1{self.name}-", found)
        begin = 'width="100%" role="img"'
        begin += f' aria-label="{escape(describe)}"'
        return re.sub(
            r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
            lambda match: f'<svg viewBox="{match[1]}" {begin}>',  # \1 in it is text
            found,
            count=1,
        )


def _plain(label: str) -> str:
    """A label that matplotlib takes neither for a formula nor for a secret."""
    return ("\u200b" if label.startswith("_") else "") + label.replace("$", r"\$")


def smoothed(values: Sequence[float]) -> list[float]:
    """A running mean over a twentieth of the values, around each.

    >>> smoothed([1.0, 1.0, 4.0])
    [1.0, 1.0, 4.0]
    """
    window = np.ones(2 * (len(values) // 40) + 1)
    count = np.convolve(np.ones(len(values)), window, "same")
    return (np.convolve(values, window, "same") / count).tolist()
