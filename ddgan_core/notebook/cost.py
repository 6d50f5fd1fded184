"""What the study costs: hours of the device its cells were trained on, and hours by the rates that `bench` measured."""

import math
from collections.abc import Sequence

import pandas as pd

from ddgan_core.notebook.speed import DEVICES, device_of, table
from ddgan_core.study import make_study, status

AS_TRAINED = "ddgan_core, as trained"  # the loop of `bench training` that a study runs
BATCHES = (32, 128)  # that `bench training` was run with


def cost_of_study(presets: Sequence[str] = ("short", "cpu", "full")) -> pd.DataFrame:
    """The paper's grid at each preset: cells, how many are trained, minutes of one such run, hours for all.

    Minutes are the median of the trained cells, on whatever device each was trained; NaN where none is.
    """
    lines = []
    for preset in presets:
        cells = status(make_study("paper", preset))
        done = cells[cells["state"] == "done"]
        minutes = float(done["minutes"].median()) if len(done) else math.nan
        lines.append({
            "preset": preset, "cells": len(cells), "trained": len(done), "minutes a cell": minutes,
            "hours for all": minutes * len(cells) / 60,
        })  # fmt: skip
    return pd.DataFrame(lines).set_index("preset")


def cost_by_rate(presets: Sequence[str] = ("short", "cpu", "full")) -> pd.DataFrame:
    """Hours for the grid's DDGANs at each preset, if a run alone trains as fast as `bench training` did, scoring aside.

    Index: preset, device. images_per_s: by the largest measured batch that is no larger than the preset's, so that the
    hours are an upper bound where larger batches bring more images. Only where such networks were timed.
    """
    lines = []
    for preset in presets:
        cells = [cell for cell in make_study("paper", preset).cells if cell.method == "ddgan"]
        images = sum(cell.updates * cell.batch_size for cell in cells)
        timed = max((batch for batch in BATCHES if batch <= cells[0].batch_size), default=None)
        for device in DEVICES if timed else ():
            measured = table(f"training, batch {timed}", device, preset)
            if len(measured):
                rate = float(measured.set_index("loop").loc[AS_TRAINED, "updates_per_s"]) * timed
                line = {"preset": preset, "device": device_of(measured), "cells": len(cells), "images_per_s": rate}
                lines.append(line | {"hours for all": images / rate / 3600})
    return pd.DataFrame(lines).set_index(["preset", "device"]) if lines else pd.DataFrame()
