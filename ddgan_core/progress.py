"""How far something long is and how long it has to go: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

LINE_SECONDS = 30.0
Item = TypeVar("Item")


class Progress:
    """Of `total` units, of which `first` were done before: show(k) when k are done."""

    def __init__(self, label: str, first: int, total: int, unit: str, shown: bool = True, brief: bool = False) -> None:
        """brief: a line at the end only if there was one before it."""
        self.label, self.first, self.total, self.unit, self.shown, self.brief = label, first, total, unit, shown, brief
        self.start = self.said = time.monotonic()
        terminal, delay = shown and sys.stderr.isatty(), 2 if brief else 0
        self.bar = tqdm(
            total=total, initial=first, desc=label, unit=unit.rstrip("s"), delay=delay, leave=not brief
        ) if terminal else None  # fmt: skip

    def show(self, done: int) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            if done == self.total:
                self.bar.close()
            return
        ends = done == self.total and not (self.brief and self.said == self.start)
        if self.shown and (now - self.said > LINE_SECONDS or ends):
            self.said = now
            left = (now - self.start) / max(done - self.first, 1) * (self.total - done)
            print(f"{self.label}: {done} of {self.total} {self.unit}, {left / 60:.1f} minutes left", flush=True)


def watched(items: Iterable[Item], label: str, total: int, unit: str = "batches") -> Iterator[Item]:
    """The items as they come; silent where all are there within seconds."""
    progress = Progress(label, 0, total, unit, brief=True)
    for done, item in enumerate(items, 1):
        yield item
        progress.show(done)
