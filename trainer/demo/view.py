"""Shows the demo's progress (a live table on a terminal, log lines elsewhere) and prints its report."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from streams.cli.log_lines import draws_bars
from streams.cli.progress import log_while_silent
from streams.escapes import escape as printable

if TYPE_CHECKING:
    from streams.records import Assignment
    from streams.telemetry.observer import Observer

__all__ = ["DemoView", "print_report"]

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 2.5  # with what a busy machine adds, no interval over 5 s is silent
_DRAWS_PER_S = 4.0


class DemoView:
    """Shows what the demo does: each phase at its begin, then figures, also while the demo itself is busy.

    On a terminal it draws a table. Elsewhere it logs a line when a phase begins, and one every 2.5 s.

    Args:
        num_rows: rows of the log; None if unknown.

    Attributes:
        capacity: the capacity of the hot set, in rows; 0 as long as it is unknown.
    """

    def __init__(self, num_rows: int | None = None) -> None:
        self.capacity = 0
        self.num_rows = num_rows
        self._phase, self._waits_for, self._began_s = "", "", time.monotonic()
        self._observer: Observer | None = None
        self._stack = ExitStack()

    def __enter__(self) -> DemoView:
        if draws_bars():
            console = Console(stderr=True)
            live = Live(get_renderable=self._picture, console=console, refresh_per_second=_DRAWS_PER_S, transient=True)
            self._stack.enter_context(live)
        else:
            self._stack.enter_context(log_while_silent(lambda _: self._line(), interval_s=_LINE_EVERY_S))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def begin(self, phase: str, what: str) -> None:
        """Begins a phase, such as `starting`, and shows at once what it does."""
        self._phase, self._waits_for, self._began_s = phase, what, time.monotonic()
        if not draws_bars():
            logger.info("%s: %s", phase, what)

    def show(self, observer: Observer, waits_for: str = "") -> None:
        """Takes the figures to show, or what the demo waits for until there are any."""
        self._observer, self._waits_for = observer, waits_for

    @property
    def _title(self) -> str:
        return f"{self._phase}, {time.monotonic() - self._began_s:.0f} s"

    def _line(self) -> str:
        if self._waits_for or self._observer is None:
            return f"{self._title}: {self._waits_for}"
        return f"{self._title}: " + "; ".join(f"{name} {value}" for name, value in self._figures(self._observer))

    def _figures(self, observer: Observer) -> list[tuple[str, str]]:
        trainer = observer.trainer
        total = "" if self.num_rows is None else f" of {self.num_rows:,}"
        auc = trainer.auc if trainer else {}
        rows_per_s, lag_records = (trainer.rows_per_s, trainer.lag_records) if trainer else (0.0, 0)
        return [
            ("rows trained", f"{observer.rows_trained:,}{total} at {rows_per_s:,.0f}/s"),
            ("lag", f"{lag_records} click records"),
            ("hot", f"{observer.reader.table.num_hot:,} of {self.capacity:,}"),
            ("promotions", f"{observer.promotions:,}"),
            ("demotions", f"{observer.demotions:,}"),
            ("event to assignment", _quantiles(observer.latency.summary())),
            ("AUC adaptive", _number(auc.get("adaptive"))),
            ("AUC hash", _number(auc.get("hash"))),
        ]

    def _picture(self) -> Group:
        """The title, what the demo waits for, and the table. A long text in a cell would widen the whole column."""
        lines = [Text(f"hotstream demo: {self._title}" if self._phase else "hotstream demo", style="italic")]
        if self._waits_for:
            lines.append(Text(f" {self._waits_for}"))
        table = self._table()
        return Group(*lines, *([table] if table.row_count else []))  # an empty table is an empty line

    def _table(self) -> Table:
        table = Table(box=None, show_header=False)
        for name, value in [] if self._observer is None else self._figures(self._observer):
            table.add_row(f"[bold]{name}[/]", value)
        changes = () if self._observer is None else reversed(self._observer.last_changes)
        for number, change in enumerate(changes):
            table.add_row("" if number else "[bold]last changes[/]", _describe_change(change))
        return table


def _describe_change(change: Assignment) -> str:
    """A change in colours; a name is text, whatever brackets it has."""
    name = escape(printable(change.feature or f"{change.key:016x}", 40))
    if change.tier != "hot":
        return f"[blue]cold[/]  {name}"
    return f"[red]hot[/]   {name}  score {change.score or 0.0:.4g}, row {change.row}"


def print_report(console: Console, report: dict[str, Any]) -> None:
    """Prints the report as a table."""
    table = Table(box=None, show_header=False)
    rows, hot, latency = report["rows"], report["hot"], report["latency_ms"]
    size = report["embedding_bytes"]
    recall = f"recall of the exact top {hot['capacity']:,}: {_number(hot['recall'])}"
    lines = [
        ("rows", f"{rows['replayed']:,} replayed, {rows['in_topic']:,} in the topic, {rows['trained']:,} trained"),
        *_bad_lines(report["lines"]),
        ("importance", f"{report['importance']['records']:,} records, {report['importance']['counted']:,} counted"),
        ("hot features", f"{hot['final']:,} of {hot['capacity']:,} (at most {hot['max']:,} during the run); {recall}"),
        ("changes", _describe_changes(report["changes"])),
        *(
            (f"latency, {name.replace('_', ' ')}", _latency(name, quantiles_ms))
            for name, quantiles_ms in latency.items()
        ),
        *((f"part: {part['part']}", _describe_part(part)) for part in report.get("parts", [])),
        ("AUC, adaptive", f"{_number(report['auc'].get('adaptive'))} in {size['adaptive'] or 0:,} bytes"),
        ("AUC, plain hash", f"{_number(report['auc'].get('hash'))} in {size['hash'] or 0:,} bytes"),
        *((("[green]yes[/]" if held else "[bold red]NO[/]"), name) for name, held in report["checks"].items()),
    ]
    for name, value in lines:
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)


def _describe_changes(changes: dict[str, int]) -> str:
    """The changes of the hot set; why there are none on a short log."""
    text = f"{changes['promotions']:,} promotions, {changes['demotions']:,} demotions"
    if changes["promotions"]:
        return text
    from sketch.hotset import REVIEW_EVENTS  # noqa: PLC0415  takes seconds, and the view is the demo's first line

    return (
        f"{text}: this log is too short, as the first change comes after {REVIEW_EVENTS:,} features of click records "
        "in a shard, or after some seconds of the log's own times"
    )


def _latency(name: str, quantiles_ms: dict[str, float | None]) -> str:
    """The trainer's histogram is that of the whole run; the other is that of the paced part, if there is one."""
    return _quantiles(quantiles_ms) + ("" if name == "event_to_assignment" else ", all parts")


def _bad_lines(lines: dict[str, Any]) -> list[tuple[str, str]]:
    """What was dropped of the log, and why; nothing if every line was good."""
    if not lines["bad"]:
        return []
    share = f"{lines['bad']:,} of {lines['read']:,} ({lines['bad'] / lines['read']:.1%})"
    reasons = [f"{reason['lines']:,} x {reason['error']}: {reason['first']}" for reason in lines["reasons"]]
    return [("malformed lines", "\n".join([share, *map(escape, reasons)]))]


def _describe_part(part: dict[str, Any]) -> str:
    """The figures of a part of the replay."""
    pace, trained = part["replayed_rows_per_s"], part["trained_rows_per_s"]
    speed = "as fast as it goes" if pace is None else f"at {pace:,.0f} rows/s"
    carried = "" if trained is None or pace is not None else f", the trainer carried {trained:,.0f} rows/s"
    return f"{part['rows']:,} rows {speed}{carried}; event to assignment {_quantiles(part['event_to_assignment'])}"


def _number(value: float | None, decimals: int = 4) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _quantiles(quantiles_ms: dict[str, float | None]) -> str:
    return f"p50 {_number(quantiles_ms['p50'], 0)} ms, p99 {_number(quantiles_ms['p99'], 0)} ms"
