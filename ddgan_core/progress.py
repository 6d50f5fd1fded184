"""How far something long is and how long it has to go: a bar on a terminal and in a notebook, elsewhere plain lines."""

import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

LINE_SECONDS = 30.0  # between two lines of a log
BRIEF_SECONDS = 2.0  # below which what is brief is not shown
NOTEBOOK_SECONDS, BLOCKS = 1.0, 24
Item = TypeVar("Item")


class Progress:
    """Of `total` units, of which `first` were done before: show(k) when k are done."""

    def __init__(self, label: str, first: int, total: int, unit: str, shown: bool = True, brief: bool = False) -> None:
        """brief: nothing of it stays, and a line at the end comes only if there was one before it."""
        self.label, self.first, self.total, self.unit, self.shown, self.brief = label, first, total, unit, shown, brief
        self.start = self.said = time.monotonic()
        self.output: Any = None  # in a notebook: one output, written anew each time
        self.notebook = _in_kernel()
        terminal, delay = shown and sys.stderr.isatty() and not self.notebook, BRIEF_SECONDS if brief else 0
        one = re.sub(r"(?<=ch)es$|s$", "", unit)  # an update, a batch
        self.bar = tqdm(
            total=total, initial=first, desc=label, unit=one, delay=delay, leave=not brief
        ) if terminal else None  # fmt: skip

    def show(self, done: int) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            if done == self.total:
                self.bar.close()
        elif self.shown and self.notebook:
            self._show_in_notebook(done, now)
        elif self.shown:
            ends = done == self.total and not (self.brief and self.said == self.start)
            if now - self.said > LINE_SECONDS or ends:
                self.said = now
                print(self._line(done, now), flush=True)

    def _line(self, done: int, now: float) -> str:
        left = (now - self.start) / max(done - self.first, 1) * (self.total - done)
        return f"{self.label}: {done} of {self.total} {self.unit}, {left / 60:.1f} minutes left"

    def _show_in_notebook(self, done: int, now: float) -> None:
        """A saved notebook holds the last state only, where tqdm's bar, or lines, would leave a trail."""
        since, every = (self.start, BRIEF_SECONDS) if self.output is None else (self.said, NOTEBOOK_SECONDS)
        if now - since < every and not (done == self.total and (self.output or not self.brief)):
            return
        self.said, full = now, BLOCKS * done // max(self.total, 1)
        text = {"text/plain": f"{'█' * full}{'░' * (BLOCKS - full)} {self._line(done, now)}"}
        if self.output is None:
            self.output = sys.modules["IPython.display"].display(text, raw=True, display_id=True)
        else:
            self.output.update(text, raw=True)


def _in_kernel() -> bool:
    """Is this the process of a notebook? IPython at a terminal has no kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython.display" in sys.modules else None
    return hasattr(shell, "kernel")


def watched(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """The items as they come; silent where all are there within seconds."""
    progress = Progress(label, 0, total, "batches", brief=True)
    for done, item in enumerate(items, 1):
        yield item
        progress.show(done)
