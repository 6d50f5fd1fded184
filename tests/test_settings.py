"""The smooth rows side by side in every setting in which all were trained: as a table, and as a figure."""

import json
from pathlib import Path

import pandas as pd
import pytest
from scored import GAN, add

from ddgan_core import UserError
from ddgan_core.evaluation.scores import load_evaluations
from ddgan_core.notebook.held import Setting, firsts, settings, settings_figure
from ddgan_core.notebook.latents import inception_scores
from ddgan_core.notebook.seeds import compared
from ddgan_core.notebook.summary import smooth_table, steps_table
from ddgan_core.runs import HISTORY, write_atomic
from ddgan_core.study import SMOOTH, configure

ROOT = Path(__file__).parent.parent


def test_smooth_rows_stand_side_by_side_wherever_all_were_trained(results: Path) -> None:
    """At R1's usual weight, and as hard on all as on JS: a setting each, and none without one of the rows."""
    with pytest.raises(UserError, match="no setting on fashion_mnist has scores of all of non_saturating_js, squared"):
        smooth_table("cpu")
    number = iter(range(100))

    def trained(row: str, frechet: float, T: int = 2, preset: str = "cpu", **settings: object) -> Path:
        cell = configure(preset, divergence=row, T=T, **settings)
        told = {"method": "ddgan", "divergence": row, "T": T, "seed": cell.seed, "tag": cell.tag, "sampler": "ddgan"}
        told |= {"steps": T, "preset": preset, "frechet_error": 0.25}
        add(results, cell.run_id, 10_000, frechet, **told, recall=next(number) / 100)
        add(results, cell.run_id, 2_000, 10 * frechet, **told, features="inception")
        folder = results / "runs" / "fashion_mnist" / cell.run_id
        write_atomic(folder / "config.json", json.dumps(json.loads(cell.to_json()) | {"hash": cell.hash}))
        return folder

    js, hellinger, reverse_kl = SMOOTH
    for row, frechet, seed in ((js, 2.0, 0), (js, 8.0, 1), (hellinger, 5.0, 0), (reverse_kl, 7.0, 0)):
        trained(row, frechet, seed=seed)  # recalls .00 to .03
    for row, frechet, tag, weight in (
        (js, 3.0, "x2", 0.02), (js, 9.0, "x2-r1x0.25", 0.005),
        (hellinger, 4.0, "x2", 0.02), (hellinger, 6.0, "x2-r1x4", 0.08), (hellinger, 1.0, "x2-r1x2", 0.04),
        (hellinger, 1.0, "x2-r1x8", 0.16), (reverse_kl, 5.0, "x2", 0.02), (hellinger, 1.0, "x3-r1x4", 0.08),
    ):  # fmt: skip
        trained(row, frechet, T=1, tag=tag, updates=9, penalty_weight=weight)  # .04 to .11
    for row in SMOOTH:
        trained(row, 1.0, T=8)
        trained(row, 1.0, tag="x2-js-critic", critic_divergence="kl")
    trained(js, 1.0, T=4)
    trained(hellinger, 1.0, T=4)
    table = smooth_table("cpu")
    assert table.iloc[:, :3].to_numpy().tolist() == [["long, 2 × updates", "1", "usual"], ["long", "2", "usual"]]
    assert table["JS (non-saturating)"].tolist() == ["3.00 ± 0.25 (0.04)", "4.00 [2.00 to 8.00] (0.01)"]
    assert table["Reverse KL"].tolist() == ["5.00 ± 0.25 (0.10)", "7.00 ± 0.25 (0.03); 1 of 2 seeds"]
    assert table["JS (non-saturating), FID"].tolist() == ["30.0 ± 0.2", "40.0 [20.0 to 80.0]"]

    trained(reverse_kl, 2.0, T=1, tag="x2-r1x2", updates=9, penalty_weight=0.04)  # .20
    for row in SMOOTH:
        trained(row, 1.0, T=4, preset="short", updates=8, batch_size=40)  # 320 images, where those at T = 1 saw 288
    table = smooth_table("cpu")
    assert table.iloc[:, :3].to_numpy().tolist() == [
        ["long, 2 × updates", "1", "usual"], ["long, 2 × updates", "1", "as JS's"],
        ["short", "4", "usual"], ["long", "2", "usual"],
    ]  # fmt: skip
    assert table.iloc[1, 3:].tolist() == [
        "3.00 ± 0.25 (0.04)", "6.00 ± 0.25 (0.07)", "2.00 ± 0.25 (0.20)", "30.0 ± 0.2", "60.0 ± 0.2", "20.0 ± 0.2",
    ]  # fmt: skip

    broken = trained(js, 99.0, seed=2)
    sizes = pd.DataFrame({"step": range(20), "gradient_generator": [1.0] * 17 + [1e-5] * 3})
    sizes.to_csv(broken / HISTORY, index=False)
    scores = pd.read_csv(broken.parent / "non_saturating_js_T02_s1_cpu" / "evaluations.csv")
    scores[scores["features"] != "inception"].to_csv(
        broken.parent / "non_saturating_js_T02_s1_cpu" / "evaluations.csv", index=False
    )
    last = smooth_table("cpu").iloc[-1]
    assert last["JS (non-saturating)"] == "4.00 [2.00 to 8.00] (0.01); 1 broke down", "its recall is not counted"
    assert last["JS (non-saturating), FID"] == "20.0 ± 0.2; 1 broke down (2 of 3 seeds)"


def test_js_by_its_steps_has_a_line_for_each_length(results: Path) -> None:
    with pytest.raises(UserError, match="no scores of JS with several numbers of steps on fashion_mnist"):
        steps_table("cpu")
    for preset, tag, T, seed, frechet in (
        ("cpu", "", 1, 0, 2.0), ("cpu", "", 4, 0, 6.0), ("cpu", "", 3, 0, 1.0), ("cpu", "", 1, 100, 1.0),
        ("cpu", "plain", 1, 0, 1.0), ("cpu", "plain", 2, 0, 1.0), ("cpu", "b64", 1, 0, 1.0),
        ("short", "", 8, 0, 9.0), ("short", "", 2, 0, 4.0), ("short", "", 2, 1, 9.0), ("short", "", 2, 2, 6.0),
    ):  # fmt: skip
        cell = configure(preset, T=T, seed=seed, tag=tag)
        told = {"method": "ddgan", "divergence": SMOOTH[0], "T": T, "seed": seed, "tag": tag, "steps": T}
        told |= {"sampler": "ddgan", "preset": preset, "recall": T / 10}
        add(results, cell.run_id, 10_000, frechet, **told)
        add(results, cell.run_id, 2_000, 10 * frechet, **told, features="inception")
        text = json.dumps(json.loads(cell.to_json()) | {"hash": cell.hash})
        write_atomic(results / "runs" / "fashion_mnist" / cell.run_id / "config.json", text)
    assert steps_table("cpu").to_numpy().tolist() == [
        ["short", "–", "6.00 [4.00 to 9.00] (0.20)", "–", "9.00 (0.80)", "–", "60.0 [40.0 to 90.0]", "–", "90.0"],
        ["long", "2.00 (0.10)", "–", "6.00 (0.40)", "–", "20.0", "–", "60.0", "–"],
    ]  # fmt: skip


def test_an_fid_by_another_network_is_no_seed(results: Path) -> None:
    of_run = GAN | {"divergence": "reverse_kl", "features": "inception"}
    for seed, frechet, of in ((0, 40.0, "one"), (0, 90.0, "another"), (1, 50.0, "one")):
        name = f"reverse_kl_T04_s{seed}_cpu"
        add(results, name, 2_000, frechet, **of_run, seed=seed, features_hash=of)
    scores = load_evaluations("fashion_mnist", "cpu")
    assert inception_scores(scores)["frechet"].to_dict() == {
        "reverse_kl_T04_s0_cpu": 40.0, "reverse_kl_T04_s1_cpu": 50.0,
    }  # fmt: skip


def test_each_setting_has_a_line_and_each_row_its_mark(results) -> None:
    one = {"frechet": [2.0, 8.0], "frechet_error": 0.5, "features": "pixels", "dataset": "digits"}
    runs = [configure("smoke", T=1, tag="x2", seed=seed) for seed in (0, 1)]
    for run in runs:
        text = json.dumps(json.loads(run.to_json()) | {"hash": run.hash})
        write_atomic(results / "runs" / "digits" / run.run_id / "config.json", text)
    seeds = pd.DataFrame(one | {"run_id": [run.run_id for run in runs]})
    js, hellinger, reverse_kl = SMOOTH
    scores = {js: seeds, hellinger: seeds[:1], reverse_kl: seeds[:0]}
    fid, distance = settings_figure([Setting("smoke", "x2", 1, held, 9, scores, scores) for held in (False, True)]).axes
    assert [t.get_text() for t in fid.get_yticklabels()] == [
        "T = 1, smoke, 2 × updates", "T = 1, smoke, 2 × updates, R1 as\nhard on all",
    ]  # fmt: skip
    for ax in (fid, distance):
        marks = [line for line in ax.lines if len(line.get_xdata()) == 1]
        places = [mark.get_xdata()[0] for mark in marks]
        assert places == pytest.approx([4, 2, 4, 2]), "means of seeds; none of a row without a score"
        assert [mark.get_markerfacecolor() == "white" for mark in marks] == [False, True] * 2, "fewer seeds"
        ends = [bar.get_segments()[0][:, 0].tolist() for bar in ax.collections]
        assert ends == [[2.0, 8.0], [1.5, 2.5]] * 2, "the range of seeds, the interval of a single run"


def test_the_first_of_three_is_counted_seed_by_seed(results) -> None:
    """JS is first in two blocks of three; a seed that a row lacks, and one in which a run broke down, are no blocks."""
    scores = {}
    for row, distances in zip(
        SMOOTH, ((1.0, 5.0, 1.0, 1.0, 1.0), (2.0, 4.0, 2.0, 9.0), (3.0, 6.0, 3.0, 9.0)), strict=True
    ):
        cells = [configure("cpu", divergence=row, T=2, seed=seed) for seed in range(len(distances))]
        for cell, frechet in zip(cells, distances, strict=True):
            add(results, cell.run_id, 10_000, frechet, **GAN | {"divergence": row, "T": 2, "seed": cell.seed})
        lines = [(cell.run_id, "fashion_mnist", cell.seed) for cell in cells]
        scores[row] = pd.DataFrame(lines, columns=["run_id", "dataset", "seed"]).assign(frechet=distances)
    sizes = pd.DataFrame({"step": range(20), "gradient_generator": [1.0] * 17 + [1e-5] * 3})
    sizes.to_csv(results / "runs" / "fashion_mnist" / scores[SMOOTH[1]]["run_id"].iloc[3] / HISTORY, index=False)
    found = firsts([Setting("cpu", "", 2, False, 9, scores, {row: own[:1] for row, own in scores.items()})])
    assert found["blocks"].tolist() == [1, 3, 0, 0]
    assert found["first"].tolist() == [1, 2, 0, 0]
    assert found["chance"].tolist() == pytest.approx([1 / 3, 3 * 1 / 9 * 2 / 3 + 1 / 27, 1, 1])


def test_what_is_said_of_firsts_is_in_the_committed_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_RESULTS", str(ROOT / "results"))
    found = firsts(settings("cpu"))
    (by_fid, by_distance), (fid_held, held) = (found.xs(r1).itertuples() for r1 in ("usual", "as JS's"))
    leads = f"in {by_distance.first} of {by_distance.blocks}", f"in {by_fid.first} of {by_fid.blocks}"
    assert by_distance.chance < 1e-6
    for document, claims in {
        "FINDINGS.md": (
            f"the nearest of the three {leads[0]} and has the best FID {leads[1]}",
            f"nearest {leads[0]} less than once in a million times, and have the best FID {leads[1]} once in "
            f"{1 / by_fid.chance:.0f}.",
            f"first in {held.first} of {held.blocks} by distance and in {fid_held.first} of {fid_held.blocks} by FID",
        ),
        "README.md": (f"{leads[0]} comparisons", f"has the best FID (N = 2,000 samples) {leads[1]}"),
    }.items():
        for claim in claims:
            assert claim in (ROOT / document).read_text(encoding="utf-8"), claim


def test_the_ratios_of_one_setting_are_those_of_the_committed_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_RESULTS", str(ROOT / "results"))
    usual = {(one.preset, one.tag, one.T): one for one in settings("cpu") if not one.held}

    def over(scores: dict[str, pd.DataFrame]) -> list[str]:
        table = pd.concat([own.assign(row=row, broken=False) for row, own in scores.items()])
        told = compared(table).set_index(["row", "other"]).loc[SMOOTH[0]].loc[list(SMOOTH[1:])].to_numpy()
        words = [[f"{value:.2f}".removeprefix("0") for value in line] for line in told]
        return [f"{ratio} ({low} to {high})" for ratio, low, high in words]

    two, four, twice, later = (
        usual[at] for at in (("short", "", 2), ("short", "", 4), ("short", "x2", 1), ("cpu", "b64-bf16", 2))
    )
    said = (ROOT / "FINDINGS.md").read_text(encoding="utf-8")
    hellinger, reverse_kl = over(twice.distances)
    for claim in (
        "with two {} and {}, with four {} and {}".format(*over(two.distances), *over(four.distances)),
        f"2.2 for 2.6), {hellinger}, over reverse KL {reverse_kl}; FID {{}} and {{}}".format(*over(twice.fids)),
        "two seeds, {} and {}; FID {} and {} times".format(*over(later.distances), *over(later.fids)),
    ):
        assert claim in said, claim


def test_without_runs_there_is_no_setting(results) -> None:
    assert settings("smoke") == []
    assert {t.get_text() for ax in settings_figure([]).axes for t in ax.texts} == {"not run yet"}
