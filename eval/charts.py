"""Small charts as inline SVG, for reports that are one file: no scripts, no fonts, colours from the page's stylesheet.

Classes used in the marks: `dot`, `bar`, `line`, `rule`, `grid`, `tick`, `axis`, `label`, and `accent` for what stands
out. Numbers are in the units of the data; a chart only ever reads finished results.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

from matplotlib.ticker import LogLocator, MaxNLocator

WIDTH, HEIGHT = 640, 400  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 14, 48  # margins
LINE = 15  # least distance between two labels


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis: its text, and the data that it has to span."""

    text: str
    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, text: str, values: Sequence[float], log: bool = False) -> Axis:
        """An axis that spans the finite values with a little air."""
        empty = cls(text, 0.0, 1.0, log)
        kept = [value for value in values if empty.shows(value)]
        low, high = (min(kept), max(kept)) if kept else (1.0, 2.0)
        if log:
            return cls(text, low / 1.6, high * 1.6, log)
        air = 0.04 * (high - low) or 0.5
        return cls(text, low - air, high + air)

    def shows(self, value: float) -> bool:
        """Whether a value has a place on it: it is finite, and positive where the axis is logarithmic."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def share(self, value: float) -> float:
        """Where a value lies between the ends: 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values within the ends."""
        locator = LogLocator() if self.log else MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10])
        return [float(tick) for tick in locator.tick_values(self.low, self.high) if self.low <= tick <= self.high]


class Chart:
    """Marks on two axes; `svg` gives the drawing."""

    def __init__(self, title: str, x: Axis, y: Axis) -> None:
        """An empty chart.

        Args:
            title: what it shows, for those who cannot see it.
            x: the horizontal axis.
            y: the vertical axis.
        """
        self._title, self._x, self._y = title, x, y
        self._marks: list[str] = []
        self._labels: list[tuple[float, float, str, str]] = []

    def point(
        self,
        x: float,
        y: float,
        low: float = math.nan,
        high: float = math.nan,
        tooltip: str = "",
        style: str = "",
        label: str = "",
    ) -> None:
        """A dot, with an interval on the vertical axis where one is given; shown in full as a tooltip. What the axes do
        not show is left out."""
        if not (self._x.shows(x) and self._y.shows(y)):
            return
        across, up = self._across(x), self._up(y)
        if self._y.shows(low) and self._y.shows(high):
            ends = f'x1="{across:.1f}" y1="{self._up(low):.1f}" x2="{across:.1f}" y2="{self._up(high):.1f}"'
            self._marks.append(f'<line class="bar {style}" {ends}/>')
        title = f"<title>{html.escape(tooltip)}</title>" if tooltip else ""
        self._marks.append(f'<circle class="dot {style}" cx="{across:.1f}" cy="{up:.1f}" r="3.5">{title}</circle>')
        if label:
            self._labels.append((across, up, label, style))

    def line(self, points: Sequence[tuple[float, float]], style: str = "") -> None:
        """A line through those points that the axes show."""
        shown = [(x, y) for x, y in points if self._x.shows(x) and self._y.shows(y)]
        path = " ".join(f"{self._across(x):.1f},{self._up(y):.1f}" for x, y in shown)
        self._marks.append(f'<polyline class="line {style}" points="{path}"/>')

    def rule(self, y: float, text: str) -> None:
        """A horizontal line at a level that means something."""
        if not math.isfinite(y) or not self._y.low <= y <= self._y.high:
            return
        up = self._up(y)
        self._marks.append(f'<line class="rule" x1="{LEFT}" y1="{up:.1f}" x2="{WIDTH - RIGHT}" y2="{up:.1f}"/>')
        anchor = f'x="{LEFT + 8}" y="{up - 5:.1f}"'
        self._marks.append(f'<text class="label" {anchor}>{html.escape(text)}</text>')

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """Names by style, in the lower right corner."""
        for place, (text, style) in enumerate(reversed(entries)):
            up = HEIGHT - BOTTOM - 14 - 18 * place
            self._marks.append(f'<circle class="dot {style}" cx="{WIDTH - RIGHT - 12}" cy="{up - 4}" r="3.5"/>')
            anchor = f'x="{WIDTH - RIGHT - 24}" y="{up}" text-anchor="end"'
            self._marks.append(f'<text class="label {style}" {anchor}>{html.escape(text)}</text>')

    def svg(self) -> str:
        """The drawing as one SVG element."""
        parts = [*self._axes(), *self._marks, *self._placed_labels()]
        head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(self._title, quote=True)}">'
        return "\n".join([head, *parts, "</svg>"])

    def _across(self, value: float) -> float:
        return LEFT + self._x.share(value) * (WIDTH - LEFT - RIGHT)

    def _up(self, value: float) -> float:
        return HEIGHT - BOTTOM - self._y.share(value) * (HEIGHT - TOP - BOTTOM)

    def _axes(self) -> list[str]:
        base, parts = HEIGHT - BOTTOM, []
        for tick in self._y.ticks():
            up = self._up(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" y1="{up:.1f}" x2="{WIDTH - RIGHT}" y2="{up:.1f}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 8}" y="{up + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for tick in self._x.ticks():
            across = self._across(tick)
            parts.append(f'<line class="grid" x1="{across:.1f}" y1="{TOP}" x2="{across:.1f}" y2="{base}"/>')
            parts.append(f'<text class="tick" x="{across:.1f}" y="{base + 18}" text-anchor="middle">{tick:g}</text>')
        middle, height = (LEFT + WIDTH - RIGHT) / 2, (TOP + base) / 2
        parts.append(
            f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(self._x.text)}</text>'
        )
        turned = f'x="15" y="{height}" text-anchor="middle" transform="rotate(-90 15 {height})"'
        parts.append(f'<text class="axis" {turned}>{html.escape(self._y.text)}</text>')
        return parts

    def _placed_labels(self) -> list[str]:
        """Labels beside their dots, those that would overlap pushed down."""
        parts, taken = [], list[tuple[float, float, float]]()
        for across, up, text, style in sorted(self._labels, key=lambda label: label[1]):
            width, left = 6.2 * len(text), across > (LEFT + WIDTH) / 2
            start = across - 8 - width if left else across + 8
            level = up + 4
            while any(abs(level - y) < LINE and start < end and start + width > begin for begin, end, y in taken):
                level += 3
            taken.append((start, start + width, level))
            at, side = (across - 8, "end") if left else (across + 8, "start")
            anchor = f'x="{at:.1f}" y="{level:.1f}" text-anchor="{side}"'
            parts.append(f'<text class="label {style}" {anchor}>{html.escape(text)}</text>')
        return parts
