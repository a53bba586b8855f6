"""Shows the demo's progress (a live table on a terminal, log lines elsewhere) and prints its report."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from streams.telemetry.observer import Observer

__all__ = ["DemoView", "print_report"]

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 5.0
_DRAW_EVERY_S = 0.25


class DemoView:
    """Shows the progress that an observer measures.

    Args:
        console: the console to draw on.
        capacity: the capacity of the hot set, in rows.
        num_rows: rows of the log; None if unknown.
    """

    def __init__(self, console: Console, capacity: int, num_rows: int | None) -> None:
        self._console = console
        self._capacity = capacity
        self._num_rows = num_rows
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown_s = 0.0

    def __enter__(self) -> DemoView:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def show(self, observer: Observer, phase: str) -> None:
        """Draws the table or writes a log line, if the last one is old enough."""
        now_s = time.monotonic()
        if now_s - self._shown_s < (_DRAW_EVERY_S if self._live else _LINE_EVERY_S):
            return
        self._shown_s = now_s
        if self._live is not None:
            self._live.update(self._table(observer, phase), refresh=True)
        else:
            logger.info("%s: %s", phase, "; ".join(f"{name} {value}" for name, value in self._lines(observer)))

    def _lines(self, observer: Observer) -> list[tuple[str, str]]:
        trainer = observer.trainer
        total = "" if self._num_rows is None else f" of {self._num_rows:,}"
        auc = trainer.auc if trainer else {}
        rows_per_s, lag_records = (trainer.rows_per_s, trainer.lag_records) if trainer else (0.0, 0)
        latency = observer.latency.summary()
        return [
            ("rows trained", f"{observer.rows_trained:,}{total} at {rows_per_s:,.0f}/s"),
            ("lag", f"{lag_records} click records"),
            ("hot", f"{observer.reader.table.num_hot:,} of {self._capacity:,}"),
            ("promotions", f"{observer.promotions:,}"),
            ("demotions", f"{observer.demotions:,}"),
            ("event to assignment", f"p50 {latency['p50'] or 0:.0f} ms, p99 {latency['p99'] or 0:.0f} ms"),
            ("AUC adaptive", _number(auc.get("adaptive"))),
            ("AUC hash", _number(auc.get("hash"))),
        ]

    def _table(self, observer: Observer, phase: str) -> Table:
        table = Table(title=f"hotstream demo: {phase}", box=None, show_header=False, title_justify="left")
        for name, value in self._lines(observer):
            table.add_row(f"[bold]{name}[/]", value)
        return table


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
        ("changes", f"{report['changes']['promotions']:,} promotions, {report['changes']['demotions']:,} demotions"),
        *((f"latency, {name.replace('_', ' ')}", _quantiles(quantiles_ms)) for name, quantiles_ms in latency.items()),
        ("AUC, adaptive", f"{_number(report['auc'].get('adaptive'))} in {size['adaptive'] or 0:,} bytes"),
        ("AUC, plain hash", f"{_number(report['auc'].get('hash'))} in {size['hash'] or 0:,} bytes"),
        *((("[green]yes[/]" if held else "[bold red]NO[/]"), name) for name, held in report["checks"].items()),
    ]
    for name, value in lines:
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)


def _bad_lines(lines: dict[str, Any]) -> list[tuple[str, str]]:
    """What was dropped of the log, and why; nothing if every line was good."""
    if not lines["bad"]:
        return []
    share = f"{lines['bad']:,} of {lines['read']:,} ({lines['bad'] / lines['read']:.1%})"
    reasons = [f"{reason['lines']:,} x {reason['error']}: {reason['first']}" for reason in lines["reasons"]]
    return [("malformed lines", "\n".join([share, *map(escape, reasons)]))]


def _number(value: float | None, decimals: int = 4) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _quantiles(quantiles_ms: dict[str, float | None]) -> str:
    return f"p50 {_number(quantiles_ms['p50'], 0)} ms, p99 {_number(quantiles_ms['p99'], 0)} ms"
