"""What a step costs and decides: known laws are found again, runs that differ in more are left out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ddgan_core.diffusion import vp_schedule
from ddgan_core.evaluation.information import decided
from ddgan_core.evaluation.scores import add_evaluation
from ddgan_core.notebook.held import held
from ddgan_core.notebook.steps import (
    budget_figure,
    by_updates,
    equal_images,
    equal_steps,
    gains,
    repeated,
    schedule_figure,
    shares_figure,
    unequal,
)
from ddgan_core.runner import train_run
from ddgan_core.runs import Run
from ddgan_core.study import configure, make_study, score

TIMES = [(1, 500), (2, 500), (4, 500), (1, 2_000), (2, 4_000), (4, 2_000)]


def made_up(law: object) -> pd.DataFrame:
    table = pd.DataFrame(TIMES, columns=["T", "updates"]).assign(schedule="vp", usual_batch=True, batch_size=32)
    table["per_step"] = table["updates"] / table["T"]
    table["frechet"] = [law(row) for row in table.itertuples()]
    table = table.assign(features="pixels", n=200)
    return table.assign(frechet_error=0.1, recall=0.5, recall_error=0.01, coverage=0.4, coverage_error=0.01)


def test_a_power_of_the_updates_is_found_again_for_each_number_of_steps() -> None:
    table = made_up(lambda row: 50 * row.updates ** (-0.5 * row.T))
    others = ({"schedule": "cosine"}, {"batch_size": 64, "usual_batch": False})
    found = gains(pd.concat([table, *(table.assign(updates=1_000, frechet=9.0, **other) for other in others)]))
    assert found[["T", "updates", "longer"]].to_numpy().tolist() == [[1, 500, 2_000], [2, 500, 4_000], [4, 500, 2_000]]
    assert found["power"].tolist() == pytest.approx([0.5, 1, 2])
    assert (found["then"] / found["frechet"]).tolist() == pytest.approx([0.5, 1 / 8, 1 / 16])


def test_runs_stand_side_by_side_where_each_step_saw_as_many_images() -> None:
    table = made_up(lambda row: row.T).assign(batch_size=[32, 32, 32, 32, 34, 32])  # 2,000 of each step: T = 1 and 2
    table = pd.concat([table, table[3:4].assign(schedule="cosine", T=8)])
    found = equal_images(table)
    said = {T: f"{T}.00 (0.50, 0.40)" for T in (1, 2, 4)}
    assert found.to_dict("index") == {"16": said | {2: ""}, "64 to 68": said | {4: ""}}
    assert equal_images(table, within=1.01).index.tolist() == ["16"]
    again = pd.concat([table, table[:1].assign(frechet=9.0, recall=0.3)])
    assert equal_images(again, within=10).iloc[0][1].split("; ")[0] == "3.00 (0.40, 0.40), 2 runs"


def test_repeats_of_a_training_are_one_point() -> None:
    """Two seeds a factor 4 apart: the power is that of their geometric mean, in figure and tables alike."""
    table = made_up(lambda row: 8 if row.updates == 500 else 2)
    seeds = pd.concat([table.assign(frechet=table["frechet"] * times, seed=times) for times in (0.5, 2.0)])
    assert gains(seeds).equals(gains(table).assign(runs=2))
    assert repeated(seeds)["frechet"].tolist() == pytest.approx(table["frechet"].tolist())
    by_all = budget_figure(seeds).axes[0]
    assert [list(line.get_ydata()) for line in by_all.lines if line.get_linestyle() == "-"] == [
        pytest.approx([8, 2])
    ] * 3


def test_runs_that_differ_in_more_than_steps_updates_and_schedule_are_left_out() -> None:
    wanted = [
        configure("smoke", T=1, updates=2), configure("smoke", T=2, updates=8, tag="x4"),
        configure("smoke", T=2, updates=4, schedule="cosine", tag="cosine"),
        configure("smoke", T=4, updates=8, batch_size=32, tag="b32", precision="bf16"),
    ]  # fmt: skip
    wanted += [  # repeats of the second
        configure("smoke", T=2, updates=8, tag="x4", seed=1),
        configure("smoke", T=2, updates=8, tag="bf16", precision="bf16"),
    ]
    others = [
        configure("smoke", T=2, updates=4, critic_detail=False, tag="plain"),
        configure("smoke", T=2, updates=4, divergence="kl"),
    ]  # fmt: skip
    wide = tuple(2 * width for width in configure("smoke").critic_widths)
    others += [configure("smoke", T=2, updates=4, critic_widths=wide, tag="wide-critic")]
    for config in wanted + others:
        score(train_run(config, progress=False))
    table = by_updates("smoke", "non_saturating_js")
    assert set(table["run_id"]) == {config.run_id for config in wanted}
    assert table["per_step"].tolist() == [2, 2, 2, 4, 4, 4]
    assert table[["seed", "arithmetic"]].to_numpy().tolist()[3:] == [[0, "fp32"], [0, "bf16"], [1, "fp32"]]
    assert repeated(table)["runs"].tolist() == [1, 1, 1, 3]
    assert by_updates("smoke", "non_saturating_js", critic_width=2)["run_id"].tolist() == [others[-1].run_id]
    assert table.set_index("batch_size")["usual_batch"].to_dict() == {16: True, 32: False}
    last = {config.run_id: Run(config).history["critic_t1"].tail(2) for config in wanted if config.updates == 8}
    seen = table.set_index("run_id")["seen_t1"]
    assert seen[list(last)].tolist() == pytest.approx([-own.mean() for own in last.values()]), "of the last quarter"
    figure = budget_figure(table)
    assert [ax.get_xlabel() for ax in figure.axes[1:]] == ["thousand images of each step"] * 3
    points = [line for line in figure.axes[1].lines if line.get_marker() == "s"]
    assert [line.get_xdata().tolist() for line in points] == [[8 * 32 / 4 / 1000]], "batches count"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["batches of 32", "cosine schedule"]
    joined = [line.get_xdata().tolist() for line in figure.axes[1].lines if line.get_linestyle() == "-"]
    assert joined == [[0.032], [0.064], [0.064]], "T = 1, 2 and 4, the cosine schedule in no line"


def test_runs_whose_steps_are_taught_unequally_stand_below_their_twins() -> None:
    """The second seed is not there yet; one of the runs has a FID."""
    late, _, middle, *_ = (c for c in make_study("steps", "smoke").cells if c.tag.startswith("bf16-shared"))
    twin = next(cell for cell in make_study("shared", "smoke").cells if cell.seed == 0)
    for config in (middle, late, twin):
        score(train_run(config, progress=False))
    more = {"features": "inception", "n": 2_000, "frechet": 80.0, "frechet_error": 2.0}
    add_evaluation(Run(twin).path / "evaluations.csv", Run(twin).evaluations.iloc[0].to_dict() | more)
    table = unequal("smoke")
    assert list(table.index) == [(4, "10, 25, 60, 5", 0), (4, "25, 25, 25, 25", 0), (4, "53, 27, 13, 7", 0)]
    assert table["FID"].tolist() == pytest.approx([np.nan, 80, np.nan], nan_ok=True)
    distance, fid = shares_figure(table).axes
    points, line = distance.lines
    assert points.get_ydata().tolist() == pytest.approx(table["distance"].tolist())
    assert line.get_xdata().tolist() == pytest.approx([25, 100 * 8 / 15]), "middle is not taught later and more"
    assert line.get_ydata().tolist() == pytest.approx(table["distance"].tolist()[1:])
    assert fid.lines[-1].get_ydata().tolist() == pytest.approx([80])
    for config, line in zip((middle, twin, late), table.itertuples(), strict=True):
        own = Run(config).evaluations.iloc[0]
        assert (line.distance, line.recall) == pytest.approx((own["frechet"], own["recall"]))
        last = Run(config).history.query("step > 22")
        seen = [-last[f"critic_t{t}"].mean() for t in (1, 2, 3, 4)]  # some records saw no t = 4
        assert [line.seen_t1, line.seen_t2, line.seen_t3, line.seen_t4] == pytest.approx(seen)


def test_what_is_said_of_the_steps_shares_is_in_the_committed_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.setenv("DDGAN_RESULTS", str(root / "results"))
    runs = unequal("cpu").reset_index().query("T == 4")
    first = runs[runs["seed"] == 0].set_index("shares")
    by_seed = runs[runs["last"].between(20, 60)].set_index(["shares", "seed"])[["distance", "FID", "recall"]]
    alike, late = (by_seed.loc[shares].to_numpy() for shares in ("25, 25, 25, 25", "53, 27, 13, 7"))
    assert ((late < alike) == [True, True, False]).all(), "better by both rulers and both seeds, and recalls more"
    assert first[["distance", "FID"]].idxmax().tolist() == ["10, 25, 60, 5"] * 2, "the worst"
    both = [
        f"{a:.1f} and {b:.1f} for {c:.1f} and {d:.1f}" for (a, b), (c, d) in zip(late.T[:2], alike.T[:2], strict=True)
    ]
    recalls = "recall {:.2f} and {:.2f} for {:.2f} and {:.2f}".format(*late.T[2], *alike.T[2]).replace("0.", ".")
    said = (root / "FINDINGS.md").read_text(encoding="utf-8")
    for claim in (
        "With {:.0f}, {:.0f}, {:.0f} and {:.0f} % of the updates for the last step".format(*first["last"]),
        "the first seed has distance {:.1f}, {:.1f}, {:.1f} and {:.1f}".format(*first["distance"]),
        "FID {:.1f}, {:.1f}, {:.1f} and {:.1f}".format(*first["FID"]),
        f"distance {both[0]}, FID {both[1]}, {recalls}",
    ):
        assert claim in said, claim
    eight = unequal("cpu").loc[8, "distance"]
    assert "eight steps late teaching has distance {1:.1f} for {0:.1f}".format(*eight) in said
    table = held("cpu", 4, "b64(-bf16-late)?").sort_values("FID")
    shared, taught_late = table[table["divergence"] == "non_saturating_js"].itertuples()
    scores = (taught_late.distance, taught_late.FID, taught_late.recall, shared.distance, shared.FID, shared.recall)
    longer = "late has distance {:.1f}, FID {:.1f} and recall {:.2f}, alike {:.1f}, {:.1f} and {:.2f}"
    assert longer.format(*scores).replace("0.", ".") in said
    short = "FID {:.0f} and {:.0f} for {:.0f} and {:.0f}".format(*late.T[1], *alike.T[1])
    assert short in (root / "README.md").read_text(encoding="utf-8")


def test_without_runs_there_is_nothing_to_show() -> None:
    assert by_updates("smoke", "non_saturating_js").empty
    assert unequal("smoke").empty


def test_every_step_has_its_part_of_the_bar() -> None:
    snr = np.geomspace(1e-5, 1e4, 40)
    table = pd.DataFrame({"snr": snr, "error": 1 / (1 + snr), "nats": np.log1p(snr) / 2})
    right = schedule_figure(table, ("vp", "cosine"), (2, 4)).axes[1]
    assert len(right.patches) == 2 * (2 + 4)
    assert [patch.get_width() for patch in right.patches[:2]] == pytest.approx(
        decided(table, vp_schedule(2))["share"].tolist()
    )


def test_one_step_is_one_and_a_step_that_decides_nothing_is_none() -> None:
    snr = np.geomspace(1e-9, 1e4, 400)
    table = pd.DataFrame({"snr": snr, "error": 1 / (1 + snr), "nats": np.log1p(snr) / 2})  # x_0 of variance 1
    found = equal_steps(table, ("vp",), (1, 2, 4)).loc["vp"]
    assert found[1] == pytest.approx(1.0, abs=0.01)
    # e = 1 - alpha_bar: a step decides alpha_bar(t - 1) - alpha_bar(t), the first also what its start has of signal.
    signal = vp_schedule(2).alpha_bar.double()
    share = (signal[:-1] - signal[1:]).clamp(min=1e-12)
    assert found[2] == pytest.approx(float((-(share * share.log()).sum()).exp()), abs=0.02)
    assert found[2] < 2
