"""Controls draw again when moved, say what went wrong, and stay away where nobody is there to move them."""

import sys
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pytest
from ipywidgets import Image, Label, VBox
from matplotlib.figure import Figure

from ddgan_core import UserError
from ddgan_core.notebook import controls


class Drawing:
    """What `play` draws: remembers its values, and refuses 13."""

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def __call__(self, **values) -> Figure:
        self.calls.append(values)
        if 13 in values.values():
            raise UserError("13 is not drawn: choose another")
        figure = plt.figure(figsize=(2, 1), dpi=100)
        figure.text(0.5, 0.5, str(values))
        return figure


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A kernel without any sign of a front end."""
    for name in ("JPY_SESSION_NAME", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    shell = SimpleNamespace(user_ns={})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "has_front_end", lambda: True)


def test_signs_of_a_front_end(shell: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not controls.has_front_end(), "as under papermill"
    shell.user_ns["__vsc_ipynb_file__"] = "a.ipynb"
    assert controls.has_front_end()
    shell.user_ns.clear()
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    assert controls.has_front_end()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not controls.has_front_end(), "a script that a notebook started"


def test_without_a_front_end_one_line_and_the_figure(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(controls, "has_front_end", lambda: False)
    draw = Drawing()
    figure = controls.play(draw, seed=controls.slider(3, 9, "seed"))
    assert isinstance(figure, Figure)
    assert draw.calls == [{"seed": 3}]
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "seed 3" in said
    assert not plt.get_fignums(), "pyplot would show it again"


def test_a_moved_control_draws_again(front_end: None) -> None:
    draw, seed = Drawing(), controls.slider(3, 9, "seed")
    box = controls.play(draw, seed=seed)
    assert isinstance(box, VBox)
    row, picture, said = box.children
    assert row.children == (seed,)
    assert isinstance(picture, Image)
    assert isinstance(said, Label)
    first = bytes(picture.value)
    assert first.startswith(b"\x89PNG")
    assert picture.layout.width == "200px"
    seed.value = 4
    assert draw.calls == [{"seed": 3}, {"seed": 4}]
    assert bytes(picture.value) != first
    assert said.value.endswith(" ms")
    assert not plt.get_fignums()


def test_a_user_error_is_shown_and_the_picture_stays(front_end: None) -> None:
    seed = controls.slider(3, 20, "seed")
    _, picture, said = controls.play(Drawing(), seed=seed).children
    before = bytes(picture.value)
    seed.value = 13
    assert said.value == "13 is not drawn: choose another"
    assert bytes(picture.value) == before
    seed.value = 14
    assert said.value.endswith(" ms")


def test_a_slider_reaches_a_value_beyond_its_last() -> None:
    assert (controls.slider(7, 99, "seed").max, controls.slider(1234, 99, "seed").max) == (99, 1234)
