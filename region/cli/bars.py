"""An import on a terminal: a bar per image. It imports rich, so it is imported where a bar is drawn."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from region.cli import words
from region.cli.client import Item
from region.cli.names import shown
from region.cli.run import ENDED, IN_ALL, Pace, images_of, waiting_words

BAR_COLUMNS = 24


class Bars:
    """A bar per image, or a line that says what is waited for."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._clock = progress, clock
        self._pace = Pace()
        self._tasks: dict[str, TaskID] = {}

    def update(self, run: Item) -> None:
        """Show this state of it."""
        found = images_of(run)
        if not found and run.get("state") not in ENDED:
            self._draw("", waiting_words(run), None, 0, "")
            return
        if (waiting := self._tasks.pop("", None)) is not None:
            self._progress.remove_task(waiting)
        if len(found) > 1:
            done, total = run.get("bytes_done") or 0, run.get("bytes_total") or 0
            self._draw(IN_ALL, IN_ALL, total, done, "", self._pace.left(self._clock(), done, total))
        for image, state in found.items():
            error = str(state.get("error") or "")
            self._draw(image, shown(image), state.get("bytes_total"), state.get("bytes_done", 0), error)

    def _draw(self, key: str, told: str, total: int | None, done: int, error: str, left: str = "") -> None:
        told = words.printable(told)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(told, total=total, error="", left="")
        task = self._progress.tasks[self._progress.task_ids.index(self._tasks[key])]
        if error and not task.fields["error"]:
            self._progress.print(Text(words.slashed(words.printable(f"{told}: failed. {error}")), "red"))
        self._progress.update(task.id, description=told, total=total, completed=done, error=error, left=left)


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Inside, bars are drawn; the last state of each stays."""
    with Progress(
        SpinnerColumn(style="cyan", finished_text=" "),
        TextColumn("{task.description}", markup=False),
        BarColumn(BAR_COLUMNS, complete_style="cyan", finished_style="green", pulse_style="cyan"),
        _Amount(),
        console=console,
    ) as progress:
        yield Bars(progress)


class _Amount(ProgressColumn):
    """Percent, bytes and rate; the word when it failed."""

    def render(self, task: Task) -> Text:
        """The text beside a bar."""
        if task.fields["error"]:
            return Text("failed", "red")
        if task.total is None:
            return Text()
        amount = f"{words.size(int(task.completed))} of {words.size(int(task.total))}"
        rate = f"  {words.size(int(task.speed))}/s" if task.speed and not task.finished else ""
        return Text(f"{task.percentage:>3.0f}%  {amount}{rate}{task.fields['left']}")
