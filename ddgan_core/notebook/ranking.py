"""A blind ranking that people take: two unnamed grids side by side, which looks more like photographs of garments?

Answers go to results/ratings/<dataset>.csv, a line each, with what was shown; nothing but a person's click writes one.
"""

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ddgan_core import UserError
from ddgan_core.evaluation.samples import sample
from ddgan_core.figures.grids import png_grid
from ddgan_core.locks import locked
from ddgan_core.notebook.controls import has_front_end
from ddgan_core.runs import Run, all_runs, write_atomic
from ddgan_core.tables import read_table

COLUMNS = ("when", "left", "right", "sample_seed", "answer")
ANSWERS = ("left", "right", "cannot tell")
MOST_STEPS = 20  # network evaluations of a model that is sampled while a person waits
IMAGES, SIDE = 36, 6  # of a grid, and in a row of it
FIRST_SEED = 1000  # of samples shown: not those of the published grids


@dataclass(frozen=True)
class Candidate:
    """A trained model and the way it is sampled."""

    run: Run
    sampler: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.run.config.run_id}/{self.sampler}-{self.steps}"


def candidates(scores: pd.DataFrame, dataset: str) -> list[Candidate]:
    """What a table of scores holds, as far as its weights are here and it samples within `MOST_STEPS`."""
    runs = {run.config.run_id: run for run in all_runs(dataset) if run.weights}
    found = scores[["run_id", "sampler", "steps"]].drop_duplicates().itertuples(index=False)
    return [Candidate(runs[s.run_id], s.sampler, s.steps) for s in found if s.run_id in runs and s.steps <= MOST_STEPS]


def questions(names: Sequence[str], seed: int) -> Iterator[tuple[str, str, int]]:
    """(left, right, seed of the samples) without end: every pair once before any comes again, sides by chance."""
    if len(set(names)) < 2:
        raise UserError(f"{len(set(names))} models to compare: a ranking needs 2 or more with weights")
    chance = random.Random(seed)
    while True:
        pairs = [tuple(chance.sample(pair, 2)) for pair in itertools.combinations(names, 2)]
        for left, right in chance.sample(pairs, len(pairs)):
            yield left, right, FIRST_SEED + chance.randrange(10**6)


def add_answer(path: Path, left: str, right: str, sample_seed: int, answer: str) -> None:
    """Append a person's answer. Raises UserError for one that is not of ANSWERS."""
    if answer not in ANSWERS:
        raise UserError(f"answer {answer!r}: choose one of {', '.join(ANSWERS)}")
    row = [datetime.now(UTC).isoformat(timespec="seconds"), left, right, sample_seed, answer]
    line = pd.DataFrame([row], columns=list(COLUMNS))
    with locked(path.parent):
        write_atomic(path, pd.concat([read_answers(path), line]).to_csv(index=False))


def read_answers(path: Path) -> pd.DataFrame:
    """All answers; none where nobody has been asked."""
    table = read_table(path)
    return table if len(table) else pd.DataFrame(columns=list(COLUMNS))


def preferred(answers: pd.DataFrame) -> pd.DataFrame:
    """By model: "answers" it was in, and the "share" of them that preferred it, a "cannot tell" counting half."""
    lines = []
    for row in answers.itertuples():
        won = {"left": 1.0, "right": 0.0}.get(row.answer, 0.5)
        lines += [(row.left, won), (row.right, 1 - won)]
    table = pd.DataFrame(lines, columns=["model", "won"]).groupby("model")["won"]
    return pd.DataFrame({"answers": table.size(), "share": table.mean()})


def ask(models: Sequence[Candidate], path: Path, seed: int | None = None) -> Any:
    """The controls that ask, pair after pair, for as long as the reader likes; a line of text where nobody is there."""
    if not has_front_end():
        return "The ranking is taken where this notebook is live (`make lab`): nobody is asked here."
    from ipywidgets import Button, HBox, Image, Label, Layout, VBox

    by_name = {model.name: model for model in models}
    order = questions(list(by_name), int.from_bytes(os.urandom(4)) if seed is None else seed)
    pictures = [Image(format="png", layout=Layout(width="336px", margin="0 12px 0 0")) for _ in range(2)]
    said, buttons, given = Label(), [Button(description=answer) for answer in ANSWERS], [0]
    shown: list[Any] = []

    def show_next() -> None:
        left, right, sample_seed = next(order)
        for picture, name in zip(pictures, (left, right), strict=True):
            picture.value = _grid(by_name[name], sample_seed)
        shown[:] = [left, right, sample_seed]
        said.value = f"Which looks more like photographs of garments? Answers kept in {path.name}: {given[0]}"

    def answered(button: Any) -> None:
        for each in buttons:
            each.disabled = True  # one click, one answer, though the next pair takes a moment
        add_answer(path, *shown, button.description)
        given[0] += 1
        show_next()
        for each in buttons:
            each.disabled = False

    for button in buttons:
        button.on_click(answered)
    show_next()
    return VBox([HBox(pictures), HBox(buttons), said])


def _grid(model: Candidate, seed: int) -> bytes:
    images = sample(model.run, IMAGES, sampler=model.sampler, steps=model.steps, seed=seed)
    return png_grid(images, columns=SIDE)
