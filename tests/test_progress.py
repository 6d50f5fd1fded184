"""Progress: lines where there is no terminal, none of what is over in seconds; piles of samples that go on."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddgan_core import progress
from ddgan_core.evaluation import piles
from ddgan_core.progress import Progress, watched


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_now_and_then_with_the_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress("it", 10, 100, "updates")
    for done in range(11, 101):
        clock[0] += 2.0  # 180 seconds in all
        bar.show(done)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "it: 26 of 100 updates, 2.5 minutes left"
    assert lines[-1] == "it: 100 of 100 updates, 0.0 minutes left"
    assert len(lines) == 6
    Progress("not shown", 0, 1, "updates", shown=False).show(1)
    assert not capsys.readouterr().out


def test_what_is_over_in_seconds_is_silent(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watched(range(5), "quick", 5)) == [0, 1, 2, 3, 4]
    assert not capsys.readouterr().out
    for _ in watched(range(5), "slow", 5):
        clock[0] += 20
    assert capsys.readouterr().out.splitlines()[-1] == "slow: 5 of 5 batches, 0.0 minutes left"


@pytest.mark.parametrize(("units", "rate"), [("updates", "update/s"), ("batches", "batch/s")])
def test_a_terminal_is_shown_how_many_a_second(units: str, rate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = Progress("it", 0, 2, units).bar
    assert bar is not None
    assert f" ?{rate}" in str(bar)
    bar.close()


def test_in_a_notebook_one_output_is_written_anew(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[list[str]] = []

    class Output:
        def __init__(self, text: dict[str, str]) -> None:
            outputs.append([text["text/plain"]])

        def update(self, text: dict[str, str], raw: bool) -> None:
            outputs[-1].append(text["text/plain"])

    display = SimpleNamespace(display=lambda text, raw, display_id: Output(text))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    bar = Progress("it", 0, 100, "updates")
    for done in range(1, 101):
        clock[0] += 0.5
        bar.show(done)
    (states,) = outputs
    assert states[0] == "░" * 24 + " it: 4 of 100 updates, 0.8 minutes left"
    assert states[-1] == "█" * 24 + " it: 100 of 100 updates, 0.0 minutes left"
    assert len(states) == 49, "once a second"
    assert list(watched(range(5), "quick", 5)) == [0, 1, 2, 3, 4]
    assert len(outputs) == 1


def test_a_slow_pile_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path))
    drawn: list[tuple[int, int]] = []

    def draw(start: int, count: int) -> torch.Tensor:
        drawn.append((start, count))
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return torch.arange(start, start + count, dtype=torch.uint8).reshape(-1, 1, 1, 1)

    def pile(**facts: object) -> torch.Tensor:
        return piles.draw_pile({"seed": 0} | facts, 10, 4, draw)[0].flatten()

    drawn.clear()
    monkeypatch.setattr(piles, "KEEP_SECONDS", -1)
    with pytest.raises(KeyboardInterrupt):
        pile()
    assert pile().tolist() == list(range(10))
    assert drawn == [(0, 4), (4, 4), (8, 2), (8, 2)]
    assert pile().tolist() == list(range(10))
    assert len(drawn) == 4, "drawn again"
    damaged = sorted((tmp_path / "samples").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert pile().tolist() == list(range(10))
    assert len(drawn) == 5
    assert len(piles.draw_pile({"seed": 0}, 12, 4, draw)[0]) == 12
    assert drawn.pop() == (8, 4), "a batch cut short is not a whole one"
    pile(seed=1)
    assert len(drawn) == 8, "another seed's samples taken for these"
    monkeypatch.setattr(piles, "SOURCE", "changed")
    pile()
    assert len(drawn) == 11, "another sampler's samples taken for these"
    monkeypatch.setattr(piles, "KEEP_SECONDS", 1000)
    kept = len(list((tmp_path / "samples").iterdir()))
    pile(seed=2)
    assert len(list((tmp_path / "samples").iterdir())) == kept, "what is quick is not kept"


def test_seconds_are_those_of_the_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(piles, "KEEP_SECONDS", -1)
    now = [0.0]
    monkeypatch.setattr(piles.time, "perf_counter", lambda: now[0])

    def draw(start: int, count: int) -> torch.Tensor:
        now[0] += 3.0 * count
        return torch.zeros(count, 1, 2, 2, dtype=torch.uint8)

    for _ in range(2):
        images, seconds = piles.draw_pile({}, 5, 2, draw)
        assert images.shape == (5, 1, 2, 2)
        assert seconds == pytest.approx(3.0)
    assert np.load(next((tmp_path / "samples").iterdir()))["images"].dtype == np.uint8


def test_no_batch_is_begun_that_would_end_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four that take 3 s each, two end within 7 s; they are kept, and the next call goes on."""
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path))
    now, begun = [0.0], []
    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(piles.time, clock, lambda: now[0])

    def draw(start: int, count: int) -> torch.Tensor:
        begun.append(start)
        now[0] += 3.0
        return torch.zeros(count, 1, 2, 2, dtype=torch.uint8)

    with pytest.raises(piles.TimeIsUp, match="4 of 8 images are drawn"):
        piles.draw_pile({}, 8, 2, draw, deadline=7.0)
    assert begun == [0, 2]
    assert len(piles.draw_pile({}, 8, 2, draw)[0]) == 8
    assert begun == [0, 2, 4, 6]
