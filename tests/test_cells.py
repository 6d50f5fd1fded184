"""Which cells a study has, and what scores each is due: nothing is trained here."""

import itertools
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ddgan_core import UserError, study
from ddgan_core.figures.labels import CRITICS
from ddgan_core.notebook.held import AS_LONG, hardness
from ddgan_core.runs import all_runs
from ddgan_core.study import (
    PAPER_ROWS,
    PAPER_T,
    SMOOTH,
    SWEEP_SEED,
    configure,
    make_study,
    reference_split,
    scores_due,
)
from ddgan_core.study.cells import OF_CRITIC


def test_a_constraint_is_not_lazy() -> None:
    assert configure("cpu", divergence="wasserstein").penalty_every == 1
    assert configure("cpu", divergence="reverse_kl").penalty_every == 16
    assert configure("cpu", divergence="wasserstein", penalty_every=4).penalty_every == 4


def test_the_papers_grid_is_whole() -> None:
    cells = make_study("paper", "cpu").cells
    assert cells[0].method == "ddpm"
    grid = {(c.divergence, c.T) for c in cells if c.method == "ddgan" and c.seed == 0}
    assert grid == set(itertools.product(PAPER_ROWS, range(1, 11)))
    assert {(c.divergence, c.T, c.seed) for c in cells if c.seed} == {
        *itertools.product(PAPER_ROWS, (4,), (1, 2)), *itertools.product(SMOOTH, (1, 2), (1, 2))
    }  # fmt: skip
    assert SMOOTH == ("non_saturating_js", "squared_hellinger", "reverse_kl")
    assert tuple(dict.fromkeys(c.T for c in cells[1:])) == PAPER_T


def test_what_went_wrong_is_repeated_with_one_thing_changed() -> None:
    for cell in make_study("causes", "short").cells:
        usual = configure("short", divergence=cell.divergence, T=cell.T, seed=cell.seed)
        changed = {f.name for f in fields(cell) if getattr(cell, f.name) != getattr(usual, f.name)}
        as_long, wide = {"critic_steps", "updates"}, {"critic_widths", "precision"}
        if "bf16-wide-critic4" in cell.tag:  # twins of each other: one thing changed between them
            assert changed - {"tag"} == (wide | {"lr_critic"} if cell.tag.endswith("-slow") else wide)
        else:
            assert len(changed - {"tag"}) == 1 or changed - {"tag"} in (as_long, {"lr_generator", "lr_critic"})
        assert usual.run_id in {c.run_id for c in make_study("paper", "short").cells}


def test_larger_networks_differ_in_row_and_steps_alone() -> None:
    *cells, _, _, _ = study = make_study("headline", "full").cells
    assert [(c.divergence, c.T) for c in cells] == [
        ("non_saturating_js", 4), ("non_saturating_js", 1), ("non_saturating_js", 2),
        ("squared_hellinger", 4), ("reverse_kl", 4),
    ]  # fmt: skip
    assert len({c.changed(divergence="kl", T=4).hash for c in cells}) == 1
    assert cells[0].critic_widths == tuple(4 * width for width in configure("full").critic_widths)
    slow = [c for c in study if c.tag.endswith("-slow")]
    usual = [c.changed(tag=f"{c.tag}-slow", lr_critic=c.lr_critic / 4) for c in cells if c.T == 4]
    assert slow == usual


def test_the_fastest_update_is_tried_beside_the_usual_one() -> None:
    usual = {c.run_id: c for c in make_study("paper", "cpu").cells}
    for cell in make_study("shared", "cpu").cells:
        twin = cell.changed(precision="fp32", shared_fakes=False, tag="")
        assert usual[twin.run_id] == twin


def test_steps_are_taught_unequally_beside_a_twin_that_teaches_all_alike() -> None:
    usual = {c.run_id: c for name in ("shared", "paper") for c in make_study(name, "short").cells}
    cells = make_study("steps", "short").cells
    for cell in (c for c in cells if "b64" not in c.tag):
        twin = cell.changed(step_weights=(), tag=re.sub("-?(late|steep|middle)$", "", cell.tag))
        assert usual[twin.run_id] == twin
    shares = {(c.tag.split("-")[-1], c.step_weights.index(max(c.step_weights)) + 1) for c in cells}
    assert shares == {("late", 1), ("steep", 1), ("middle", 3)}
    assert sorted((c.T, c.seed) for c in cells) == [(2, 0), *[(4, 0)] * 4, *[(4, 1)] * 3, (8, 0)]


@pytest.mark.parametrize(("name", "keeps"), [("late", 1 / 2), ("steep", 1 / 4)])
def test_a_quarter_of_the_chain_keeps_so_much_of_the_share_of_the_next(name: str, keeps: float) -> None:
    for cell in make_study("steps", "cpu").cells:
        if cell.tag.endswith(name):
            share = [weight / sum(cell.step_weights) for weight in cell.step_weights]
            ideal = [keeps ** (4 * t / cell.T) for t in range(cell.T)]
            assert share == pytest.approx([part / sum(ideal) for part in ideal], abs=0.015)


def test_a_longer_late_run_differs_from_its_twin_in_its_shares_and_precision() -> None:
    (longer,) = (c for c in make_study("steps", "cpu").cells if c.tag == "b64-bf16-late")
    twin = next(c for c in make_study("budget", "cpu").cells if (c.T, c.tag) == (4, "b64"))
    assert longer.changed(step_weights=(), precision="fp32", tag="b64") == twin


def test_a_longer_ddpm_is_scored_by_the_most_images_alone() -> None:
    """Samplers are compared by the preset's own run."""
    longer, again = make_study("budget", "cpu", ["ddpm_T1000_s0_cpu_x5", "ddpm_T1000_s1_cpu_x5"]).cells
    assert again == longer.changed(seed=1)
    due, usual = scores_due(longer), scores_due(configure("cpu", method="ddpm"))
    assert longer.updates == 100_000
    assert set(due) < set(usual)
    assert {n for *_, n in due} == {10_000}


@pytest.mark.parametrize("name", study.STUDIES)
@pytest.mark.parametrize("preset", ["smoke", "cpu", "full"])
def test_no_two_cells_share_an_id(name: str, preset: str) -> None:
    cells = make_study(name, preset).cells
    assert len({c.run_id for c in cells}) == len(cells) > 1


def test_the_sweep_reports_nothing() -> None:
    """Its seed is not one of the study's, its ruler the training images; rows have equal trials and updates."""
    cells = make_study("sweep", "cpu").cells
    assert {c.seed for c in cells} == {SWEEP_SEED}
    assert SWEEP_SEED not in {c.seed for c in make_study("paper", "cpu").cells}
    assert {reference_split(c) for c in cells} == {"train"}
    assert {reference_split(c) for c in make_study("paper", "cpu").cells} == {"test"}
    plain = [c for c in cells if c.critic_steps == 1]
    assert len({sum(c.divergence == row for c in plain) for row in PAPER_ROWS}) == 1
    assert len({c.updates for c in plain}) == 1


def test_more_critic_steps_are_tried_at_equal_images_for_the_critic() -> None:
    cells = [c for c in make_study("sweep", "cpu").cells if c.divergence == "wasserstein"]
    assert {c.critic_steps for c in cells} == {1, 5}
    assert len({c.critic_steps * c.updates for c in cells}) == 1


def test_the_sweep_tries_what_its_tags_say() -> None:
    tried = ((2.0, 1.0), (1.0, 1.0), (0.5, 1.0), (1.0, 0.1))
    for row in PAPER_ROWS:
        usual = configure("cpu", divergence=row)
        found = {c.tag: c for c in make_study("sweep", "cpu").cells if c.divergence == row and c.critic_steps == 1}
        assert list(found) == [f"sweep-lr{rate:g}-penalty{penalty:g}" for rate, penalty in tried]
        for cell, (rate, penalty) in zip(found.values(), tried, strict=True):
            players = [cell.lr_generator / usual.lr_generator, cell.lr_critic / usual.lr_critic]
            assert [*players, cell.penalty_weight / usual.penalty_weight] == pytest.approx([rate, rate, penalty])


def test_longer_trainings_are_as_long_as_is_said() -> None:
    """By their tags; larger batches have 2.2 times the preset's images, the longest run four times."""
    usual = configure("cpu")
    for cell in (c for c in make_study("budget", "cpu").cells if c.method == "ddgan"):
        if cell.tag.startswith("x"):
            assert cell.updates == float(cell.tag[1:]) * usual.updates
            assert cell.batch_size == usual.batch_size
        else:
            times = cell.updates * cell.batch_size / (usual.updates * usual.batch_size)
            assert times == pytest.approx(4.0 if cell.tag == "long" else 2.2, abs=0.05)
            assert (cell.precision == "bf16") == (cell.tag == "long" or "bf16" in cell.tag)
    assert make_study("headline", "full").cells[0].updates == 1.7 * configure("full").updates


def test_twins_are_in_the_study() -> None:
    """Of the cosine schedule by the usual one; of minimax JS by the loss that does not saturate."""
    known = {*make_study("paper", "cpu").cells, *make_study("budget", "cpu").cells}
    cosine, minimax = (make_study(name, "cpu").cells for name in ("schedule", "minimax"))
    minimax = [c for c in minimax if not c.critic_divergence]  # of the others: test_crossed_cells
    assert {c.schedule for c in cosine} == {"cosine"}
    assert {c.changed(schedule="vp", tag="") for c in cosine} <= known
    assert {c.divergence for c in minimax} == {"jensen_shannon"}
    assert {c.changed(divergence="non_saturating_js") for c in minimax} <= known


def test_a_cause_is_changed_as_its_tag_says() -> None:
    cells, usual = {c.tag: c for c in make_study("causes", "cpu").cells}, configure("cpu")
    for tag, times in {"critic2-time": 1 + 1.3 / 3, "critic4-time": 2.3}.items():  # four steps take 2.3 times as long
        assert cells[tag].updates * times == pytest.approx(usual.updates, rel=0.01)
    for tag, name, times in (
        ("wide", "widths", 2), ("wide-critic", "critic_widths", 2), ("bf16-wide-critic4", "critic_widths", 4)
    ):  # fmt: skip
        assert getattr(cells[tag], name) == tuple(times * width for width in getattr(usual, name))
    for tag in ("slow-critic", "bf16-wide-critic4-slow"):
        assert 4 * cells[tag].lr_critic == pytest.approx(usual.lr_critic)


def test_a_cell_named_twice_is_one() -> None:
    name = make_study("budget", "cpu").cells[0].run_id
    assert len(make_study("budget", "cpu", [name, name]).cells) == 1


def test_cells_are_chosen_by_their_ids() -> None:
    wanted = ("wasserstein_T02_s0_smoke", "ddpm_T50_s0_smoke")
    assert tuple(c.run_id for c in make_study("paper", "smoke", wanted).cells) == wanted
    with pytest.raises(UserError, match="cell 'nothing' is not of study paper-smoke"):
        make_study("paper", "smoke", ["nothing"])
    with pytest.raises(
        UserError,
        match="study 'toy' is not known: choose one of paper, .*, minimax, penalty, crossed, shared, .*, toys",
    ):
        make_study("toy")


@pytest.mark.parametrize("preset", ["short", "cpu"])
def test_crossed_cells_differ_in_the_critics_loss_alone(preset: str) -> None:
    twins = {cell.run_id: cell for cell in make_study("budget", preset).cells}
    crossed = [cell for cell in make_study("minimax", preset).cells if cell.critic_divergence]
    for cell in crossed:
        twin = cell.changed(tag=cell.tag.removesuffix("-js-critic"), critic_divergence="")
        assert twins[twin.run_id] == twin != cell
    seeds = {(2, 0), (1, 0), (1, 1)}
    expected = {(row, *at) for row in ("squared_hellinger", "reverse_kl") for at in seeds}
    assert {(cell.divergence, cell.T, cell.seed) for cell in crossed} == expected


def test_js_generator_by_each_critic_held_as_hard_as_js() -> None:
    at_2 = [cell for cell in make_study("crossed", "cpu").cells if cell.T == 2]
    twins = {cell.run_id: cell for cell in make_study("budget", "cpu").cells}
    assert {(cell.critic_divergence, cell.seed) for cell in at_2} == set(itertools.product(SMOOTH[1:], (0, 1)))
    assert len(at_2) == 4
    for cell in at_2:
        twin = cell.changed(tag="b64-bf16", penalty_weight=0.02, critic_divergence="")
        assert (hardness(cell), twins[twin.run_id]) == (pytest.approx(0.04), twin)
        assert re.fullmatch(AS_LONG, cell.tag)


def test_each_smooth_generator_by_each_critic_held_as_hard() -> None:
    cells = [cell for cell in make_study("crossed", "short").cells if cell.T == 1]
    judged = [(cell.divergence, cell.critic_divergence or cell.divergence, cell.seed) for cell in cells]
    assert sorted(judged) == sorted(itertools.product(SMOOTH, SMOOTH, (0, 1)))
    twins = {cell.run_id: cell for name in ("budget", "minimax") for cell in make_study(name, "short").cells}
    for cell, (_, critic, _) in zip(cells, judged, strict=True):
        assert hardness(cell) == pytest.approx(0.04)
        short = next(short for short, row in OF_CRITIC.items() if row == critic)
        assert (f"-{short}-critic" in cell.tag) == bool(cell.critic_divergence)
        twin = cell.changed(tag="x2", penalty_weight=0.02, critic_divergence="")
        assert twins[twin.run_id] == twin
    known = [cell for cell in cells if cell.run_id in twins]
    assert all(twins[cell.run_id] == cell for cell in known)
    assert sorted((c.divergence, c.seed) for c in known) == sorted(itertools.product(SMOOTH, (0, 1))), "by JS's critic"
    assert OF_CRITIC.keys() == CRITICS.keys()


def test_what_was_trained_is_what_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of the committed runs of the paper's grid: another default would be another study."""
    monkeypatch.setenv("DDGAN_RESULTS", str(Path(__file__).parent.parent / "results"))
    for preset, least in (("short", 20), ("cpu", 5)):
        cells = {(c.dataset, c.run_id): c for c in make_study("paper", preset).cells}
        found = [run.config for run in all_runs() if (run.config.dataset, run.config.run_id) in cells]
        assert len(found) >= least
        assert [c for c in found if c != cells[c.dataset, c.run_id]] == []
