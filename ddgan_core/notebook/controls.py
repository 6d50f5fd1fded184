"""Controls around a figure, in a notebook: one helper for all of them, which stays silent where nobody is there."""

import io
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ddgan_core import UserError

if TYPE_CHECKING:
    from ipywidgets import IntSlider, ValueWidget
    from matplotlib.figure import Figure


def slider(value: int, last: int, description: str) -> "IntSlider":
    """A control that chooses a whole number from 0 to `last`, or to `value` where that is more."""
    from ipywidgets import IntSlider

    return IntSlider(value, 0, max(last, value), description=description)


def has_front_end() -> bool:
    """Is a control of use here? Kernels of a Jupyter server, VS Code and Colab have signs; papermill's have none."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    in_vs_code = shell is not None and "__vsc_ipynb_file__" in shell.user_ns
    return shell is not None and (in_vs_code or bool({"JPY_SESSION_NAME", "COLAB_RELEASE_TAG"} & os.environ.keys()))


def play(draw: "Callable[..., Figure]", **controls: "ValueWidget") -> Any:
    """`draw(**values)` under its controls, drawn again when one moves, with the milliseconds it took.

    Where nobody is there to move them: one printed line, and the figure at their values. Display what is returned, or
    leave it as the last expression of a cell. A UserError from `draw` is shown in place of the time.
    """
    if not has_front_end():
        begin = time.perf_counter()
        figure = _drawn(draw, controls)
        took = 1000 * (time.perf_counter() - begin)
        said = ", ".join(f"{c.description or name} {getattr(c, 'label', c.value)}" for name, c in controls.items())
        print(f"drawn in {took:.0f} ms, without controls (no live front end): {said}")
        return figure
    from ipywidgets import HBox, Image, Label, Layout, VBox

    # An Image, not `interact`: the Output widget of that one can stall a notebook that runs without a front end.
    picture, said = Image(format="png", layout=Layout(object_fit="contain")), Label()

    def redraw(change: Any = None) -> None:
        begin, said.value = time.perf_counter(), "drawing ..."
        try:
            figure = _drawn(draw, controls)
        except UserError as error:
            said.value = str(error)
            return
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=2 * figure.dpi)  # twice, for screens that have the pixels
        picture.layout.width = f"{figure.get_figwidth() * figure.dpi:.0f}px"
        picture.value = buffer.getvalue()
        said.value = f"{1000 * (time.perf_counter() - begin):.0f} ms"

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return VBox([HBox([*controls.values()], layout=Layout(flex_flow="row wrap")), picture, said])


def _drawn(draw: "Callable[..., Figure]", controls: "dict[str, ValueWidget]") -> "Figure":
    """The figure, closed: pyplot would show it a second time at the end of the cell."""
    figure = draw(**{name: control.value for name, control in controls.items()})
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    return figure
