"""`TopApp`: the live view in a terminal; it draws the views of a `TopModel`, which follows in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane

from streams.errors import StreamsError
from streams.escapes import escape
from streams.top.model import TopModel
from streams.top.view import View
from streams.top.words import age, describe_agents, describe_hot_set, describe_trainer, number

__all__ = ["TopApp"]

_COLUMNS: dict[str, tuple[str, ...]] = {
    "features": ("feature", "score", "row", "age", "shard"),
    "changes": ("age", "change", "feature", "row", "score"),
    "fields": ("field", "hot", "share", "promoted", "demoted"),
    "shards": ("shard", "hot", "events/s", "behind", "epoch", "seq", "state"),
}
Row = tuple[str, ...]
_HELP = """\
1 2 3 4      features, changes, fields, shards
/  Ctrl-F    filter: only rows with this text in their feature, such as C14: or C14:7e0c
s            search: go to the next row with this text;  n  the next one
Esc          clear filter and search, or close this help
space        pause and go on
arrows PgUp PgDn Home End   move in the table
q            quit

Scores are those of the last change of a feature. NO_COLOR=1 turns colours off."""
_PLACEHOLDERS = {
    "filter": "filter by part of a feature, such as C14: or C14:7e0c; Enter keeps it, Esc clears",
    "search": "search for part of a feature; Enter goes to it, then n to the next, Esc clears",
}


def _rows(view: View) -> dict[str, list[Row]]:
    """The cells of each table."""
    hot = max(1, view.hot)
    return {
        "features": [
            (escape(one.feature), number(one.score), str(one.row), age(one.age_s), str(one.shard))
            for one in view.features
        ],
        "changes": [
            (age(one.age_s), one.tier, escape(one.feature), "-" if one.row is None else str(one.row), number(one.score))
            for one in view.changes
        ],
        "fields": [
            (escape(one.field), str(one.hot), f"{one.hot / hot:.0%}", str(one.promotions), str(one.demotions))
            for one in view.fields
        ],
        "shards": [
            (
                str(one.shard), str(one.hot), number(one.events_per_s), f"{one.lag:,}", str(one.epoch), str(one.seq),
                f"silent {age(one.silent_s)}" if one.silent_s is not None else _verdict(is_equal=one.is_verified),
            )
            for one in view.shards
        ],
    }  # fmt: skip


def _verdict(*, is_equal: bool) -> str:
    return "equal" if is_equal else "not compared yet"


class _Looked(Message):
    """A new view."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view


class _Failed(Message):
    """The model cannot follow any more."""

    def __init__(self, error: StreamsError) -> None:
        super().__init__()
        self.error = error


class _Help(ModalScreen[None]):
    """The keys."""

    CSS = """
    _Help { align: center middle; }
    _Help Static { width: auto; max-width: 100%; height: auto; border: round; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q,enter", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """A box of text."""
        yield Static(_HELP, markup=False)


class TopApp(App[None]):
    """The live view.

    Args:
        open_model: opens the model in the thread that follows.
        title: the first line.
        interval_s: the time between two pictures.

    Attributes:
        error: why the view has ended by itself; None if it has not.
    """

    TITLE = "hotstream top"
    CSS = """
    Screen { overflow: hidden; }
    TabbedContent { height: 1fr; }
    ContentSwitcher, TabPane { height: 1fr; padding: 0; }
    #title { height: 1; text-style: bold; }
    #summary { height: auto; max-height: 6; }
    #line { height: 1; border: none; padding: 0; display: none; }
    #line.shown { display: block; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("space", "pause", "Pause"),
        Binding("slash,ctrl+f", "ask('filter')", "Filter", key_display="/"),
        Binding("s", "ask('search')", "Search"),
        Binding("n", "next", "Next", show=False),
        Binding("escape", "clear", "Clear", show=False),
        Binding("question_mark,f1", "help", "Help", key_display="?"),
        *(Binding(str(number), f"tab('{name}')", show=False) for number, name in enumerate(_COLUMNS, 1)),
    ]
    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = "#table-features"

    def __init__(self, open_model: Callable[[], TopModel], *, title: str, interval_s: float = 1.0) -> None:
        super().__init__()
        self.error: StreamsError | None = None
        self._open_model, self._heading, self._interval_s = open_model, title, interval_s
        self._texts = {"filter": "", "search": ""}
        self._shown: dict[str, list[Row]] = {}
        self._asked, self._is_paused = "filter", False
        self._ends = threading.Event()

    def compose(self) -> ComposeResult:
        """The title, three lines of state, a search line and a table in each tab."""
        yield Static(self._heading, id="title", markup=False)
        yield Static("reading the assignments topic ...", id="summary", markup=False)
        yield Input(id="line")
        with TabbedContent():
            for number, name in enumerate(_COLUMNS, 1):
                with TabPane(f"{number} {name.capitalize()}", id=name):
                    yield DataTable(id=f"table-{name}", cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        """Begins to follow."""
        for name, columns in _COLUMNS.items():
            self._table(name).add_columns(*columns)
        threading.Thread(target=self._follow, name="top", daemon=True).start()

    async def action_quit(self) -> None:
        """Ends the view."""
        self._ends.set()
        self.exit()

    def on_unmount(self) -> None:
        """Ends the thread."""
        self._ends.set()

    def _table(self, name: str) -> DataTable[Text]:
        return self.query_one(f"#table-{name}", DataTable)

    def _follow(self) -> None:
        """Keeps the view current, in a thread of its own, which owns the model."""
        try:
            with self._open_model() as model:
                for _ in model.follow(self._interval_s, self._ends):
                    if not self._is_paused:
                        self.post_message(_Looked(model.view(search=self._texts["filter"])))
        except StreamsError as error:
            self.post_message(_Failed(error))

    @on(_Failed)
    def _end(self, message: _Failed) -> None:
        self.error = message.error
        self.exit()

    @on(_Looked)
    def _draw(self, message: _Looked) -> None:
        summary = self.query("#summary")
        if self._ends.is_set() or not summary:  # the last view may come when the screen is gone
            return
        view = message.view
        lines = [describe_hot_set(view), describe_agents(view), describe_trainer(view)]
        summary.first(Static).update("\n".join(lines))
        for name, rows in _rows(view).items():
            if self._shown.get(name) != rows:  # drawing takes more time than all else
                self._shown[name] = rows
                self._fill(self._table(name), rows)

    def _fill(self, table: DataTable[Text], rows: Sequence[Row]) -> None:
        """Replaces the rows, and keeps the cursor and the scroll position."""
        cursor, scroll = table.cursor_row, table.scroll_y
        table.clear()
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # a `Text`, not markup: brackets in a name are no commands
        if rows:
            table.move_cursor(row=min(cursor, len(rows) - 1), animate=False, scroll=False)
            table.scroll_to(y=scroll, animate=False)

    def action_pause(self) -> None:
        """Stops the picture, or lets it go on; the topics are followed all the time."""
        self._is_paused = not self._is_paused
        self._show_title()

    def _show_title(self) -> None:
        texts = [f"{name} {text!r}" for name, text in self._texts.items() if text]
        notes = [*(["PAUSED"] if self._is_paused else []), *texts]
        self.query_one("#title", Static).update("  ".join([self._heading, *notes]))

    def action_help(self) -> None:
        """Shows the keys."""
        self.push_screen(_Help())

    def action_ask(self, what: str) -> None:
        """Opens the line for the text of the filter or of the search."""
        self._asked, line = what, self.query_one("#line", Input)
        line.placeholder = _PLACEHOLDERS[what]
        line.value = self._texts[what]
        line.add_class("shown")
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Applies the text while it is typed."""
        if self.query_one("#line").has_class("shown"):
            self._texts[self._asked] = event.value
            self._show_title()

    def on_input_submitted(self) -> None:
        """Keeps the text, and goes back to the table; a search goes to its first row."""
        self._leave_line()
        if self._asked == "search":
            self.action_next()

    def action_next(self) -> None:
        """Moves the cursor to the next row that contains the text of the search, around the end."""
        wanted, table = self._texts["search"].casefold(), self._table(self.query_one(TabbedContent).active)
        count, cursor = table.row_count, table.cursor_row
        for row in ((cursor + step) % count for step in range(1, count + 1)):
            if wanted and any(wanted in cell.plain.casefold() for cell in table.get_row_at(row)):
                table.move_cursor(row=row)
                return

    def action_clear(self) -> None:
        """Ends filter and search."""
        self._texts = {"filter": "", "search": ""}
        self._show_title()
        self._leave_line()

    def _leave_line(self) -> None:
        self.query_one("#line", Input).remove_class("shown")
        self._table(self.query_one(TabbedContent).active).focus()

    def action_tab(self, name: str) -> None:
        """Shows a tab."""
        self.query_one(TabbedContent).active = name
        self._table(name).focus()
