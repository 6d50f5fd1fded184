"""The blind ranking: pairs are fair, only a click writes an answer, and shares follow the answers."""

import collections
from pathlib import Path

import pandas as pd
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.checkpoints import write_weights
from ddgan_core.networks import Generator
from ddgan_core.notebook import ranking
from ddgan_core.notebook.ranking import Candidate, add_answer, ask, candidates, preferred, questions, read_answers
from ddgan_core.runs import PRESETS, Run, RunConfig


def make_run(divergence: str, weights: bool = True) -> Run:
    config = RunConfig(preset="smoke").changed(**PRESETS["smoke"], divergence=divergence, T=2)
    run = Run.create(config)
    if weights:
        network = Generator(1, config.widths, config.z_dim, attention=False)
        write_weights(run.path / "ema.safetensors", network.state_dict(), config.hash)
    return run


def test_candidates_can_be_sampled_while_a_person_waits() -> None:
    scored = [make_run("kl"), make_run("pearson"), make_run("jeffreys", weights=False)]
    lines = [{"run_id": run.config.run_id, "sampler": "ddgan", "steps": 2} for run in scored]
    lines += [lines[0], lines[1] | {"steps": 1000}, {"run_id": "real", "sampler": "real", "steps": 0}]
    found = candidates(pd.DataFrame(lines), "digits")
    assert [c.name for c in found] == ["kl_T02_s0_smoke/ddgan-2", "pearson_T02_s0_smoke/ddgan-2"]


def test_every_pair_comes_as_often_and_sides_by_chance() -> None:
    order = questions(["a", "b", "c"], seed=1)
    asked = [next(order) for _ in range(300)]
    assert set(collections.Counter(frozenset(q[:2]) for q in asked).values()) == {100}
    assert all(set(map(frozenset, (q[:2] for q in asked[i : i + 3]))) == {*map(frozenset, ("ab", "ac", "bc"))}
               for i in range(0, 300, 3))  # fmt: skip
    assert 30 < sum(q[:2] == ("a", "b") for q in asked) < 70
    assert len({q[2] for q in asked}) > 290, "other samples each time"
    assert [q for q, _ in zip(questions(["a", "b", "c"], seed=1), asked[:9], strict=False)] == asked[:9]
    with pytest.raises(UserError, match="2 or more"):
        next(questions(["a", "a"], seed=1))


def test_shares_are_those_of_the_answers(results: Path) -> None:
    path = results / "ratings" / "digits.csv"
    assert len(preferred(read_answers(path))) == 0
    for left, right, answer in (("a", "b", "left"), ("b", "a", "right"), ("a", "c", "cannot tell")):
        add_answer(path, left, right, 1234, answer)
    table = preferred(read_answers(path))
    assert table.loc["a"].tolist() == [3, pytest.approx(2.5 / 3)]
    assert table.loc["b"].tolist() == [2, 0]
    assert table.loc["c"].tolist() == [1, 0.5]
    with pytest.raises(UserError, match="cannot tell"):
        add_answer(path, "a", "b", 1, "both")
    assert len(read_answers(path)) == 3
    path.write_text(path.read_text().rsplit(",", 1)[0])  # cut, as by a full disk
    with pytest.raises(UserError, match=r"digits\.csv"):
        add_answer(path, "a", "b", 1, "left")


def test_nobody_is_asked_where_nobody_is(results: Path) -> None:
    assert "nobody is asked" in ask([], results / "ratings" / "digits.csv")


def test_a_click_writes_one_answer_and_nothing_else_does(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = results / "ratings" / "digits.csv"
    monkeypatch.setattr(ranking, "has_front_end", lambda: True)
    drawn: list[tuple[str, int]] = []

    def fake_sample(run: Run, n: int, *, sampler: str, steps: int, seed: int) -> torch.Tensor:
        drawn.append((run.config.run_id, seed))
        return torch.full((n, 1, 8, 8), len(drawn), dtype=torch.uint8)

    monkeypatch.setattr(ranking, "sample", fake_sample)
    models = [Candidate(make_run(name), "ddgan", 2) for name in ("kl", "pearson")]
    box = ask(models, path, seed=0)
    pictures, buttons, _ = box.children
    assert not path.exists()
    before = [picture.value for picture in pictures.children]
    buttons.children[0].click()
    (answer,) = read_answers(path).to_dict("records")
    assert answer["answer"] == "left"
    assert [answer["left"], answer["right"]] == [f"{run_id}/ddgan-2" for run_id, _ in drawn[:2]]
    assert drawn[0][1] == drawn[1][1] == answer["sample_seed"] != drawn[2][1], "one noise a pair, another for the next"
    assert [picture.value for picture in pictures.children] != before
    assert not any(button.disabled for button in buttons.children)
    assert "T02" not in box.children[2].value, "the models stay unnamed"
