"""Runs with one thing changed stand beside their twins."""

from types import SimpleNamespace

import pandas as pd
import pytest

from ddgan_core.notebook import causes as module
from ddgan_core.notebook.causes import causes
from ddgan_core.study import causes_study, configure


def history(late: float) -> pd.DataFrame:
    each = {
        "critic_t1": [0.0] * 6 + [-late] * 2,
        "logit_real": [9.0] * 6 + [1.0] * 2,
        "logit_fake": [9.0] * 6 + [3.0] * 2,
    }
    return pd.DataFrame(each | {"gradient_generator": [1.0] * 7 + [late / 1000]})


def test_a_cell_stands_beside_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    critic, level, *_ = causes_study("smoke").cells
    twin = configure("smoke", T=8)
    alone = [SimpleNamespace(config=c, history=history(h)) for c, h in ((twin, 0.1), (critic, 2.0), (level, 1.0))]
    runs = {run.config.run_id: run for run in alone}
    scored = [
        {"run_id": name, "sampler": sampler, "frechet": 10.0 * k, "frechet_error": 0.1, "recall": 0.4, "coverage": 0.2}
        for k, name in enumerate(runs, 1)
        for sampler in ("ddgan", "truncated")
    ]
    monkeypatch.setattr(module, "kin", lambda preset: [preset])
    monkeypatch.setattr(module, "training_table", lambda runs: pd.DataFrame(dict.fromkeys(module.HARD, [8.0])))
    monkeypatch.setattr(module, "comparable", lambda _: pd.DataFrame(scored))
    monkeypatch.setattr(module, "ensure", lambda cells, _: [runs[c.run_id] for c in cells if c.run_id in runs])
    found = causes("smoke")
    assert found.index.tolist() == [(twin.run_id, "none"), (twin.run_id, "critic_steps = 4")], "level has no twin here"
    assert found["frechet"].tolist() == [10.0, 20.0]
    assert found["bound"].tolist() == pytest.approx([0.1, 2.0])
    assert found["logit"].tolist() == [2.0, 2.0]
    assert found["broke down"].tolist() == [True, False]
    assert found["critic, worst"].tolist() == [8.0, 8.0]
    monkeypatch.setattr(module, "comparable", lambda _: pd.DataFrame())
    assert not len(causes("smoke"))
