"""Figures of a training and of samples: what was not recorded is said, lines are named, slopes are in their units."""

import math
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ddgan_core.diffusion import make_schedule
from ddgan_core.figures import comparisons, curves, grids
from ddgan_core.figures.labels import training_label
from ddgan_core.notebook import rows
from ddgan_core.penalties import gradient_penalty, r1_penalty, r1_r2_penalty
from ddgan_core.runs import Run
from ddgan_core.study import SCORES, configure, scores_due


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def history(T: int = 2, **columns: float) -> pd.DataFrame:
    """Forty records of constants, each by t as well: t times the value."""
    table = {"step": np.arange(1, 41) * 10}
    for name, value in columns.items():
        table |= {name: np.full(40, value)} | {f"{name}_t{k}": np.full(40, k * value) for k in range(1, T + 1)}
    return pd.DataFrame(table)


def texts(ax: plt.Axes) -> list[str]:
    return [t.get_text() for t in ax.texts]


def heavy(ax: plt.Axes) -> list[float]:
    return [float(line.get_ydata()[-1]) for line in ax.lines if line.get_linewidth() > 1]


FULL = {"critic": -0.5, "penalty": 2.0, "gradient_critic": 3.0, "gradient_generator": 4.0}
LOGITS = {"logit_real": 2.0, "logit_fake": -1.0}


def test_bound_is_minus_the_loss_and_slope_undoes_the_half_of_r1():
    figure = curves.training_figure(history(**FULL, **LOGITS), configure("smoke", T=2))
    bound, logits, gradients, slope = figure.axes
    assert heavy(bound) == [0.5, 1.0]
    assert sorted(texts(bound)) == ["t = 1", "t = 2"]
    assert heavy(logits) == [3.0, 6.0], "real less fake"
    assert heavy(gradients) == [3.0, 4.0]
    assert heavy(slope) == pytest.approx([2.0, math.sqrt(8)])


@pytest.mark.parametrize(("penalty", "slope"), [(gradient_penalty, 2), (r1_r2_penalty, 2), (r1_penalty, 8**0.5)])
def test_each_penalty_has_its_slope(penalty, slope):
    assert curves._slope_of(SimpleNamespace(penalty=penalty))[0](4.0, 1) == slope


def test_a_line_is_a_running_median_and_its_band_holds_eight_in_ten():
    """Of 20 records about 200, of which one is a spike."""
    steps = pd.Series(np.arange(400.0))
    _, ax = plt.subplots()
    curves._record(ax, steps, steps.where(steps != 205, 1e6), "k", "-")
    assert ax.lines[0].get_ydata()[200] == 199.5
    corners = ax.collections[0].get_paths()[0].vertices
    assert sorted(set(corners[corners[:, 0] == 200, 1])) == pytest.approx([191.9, 208.1])


def test_a_gradient_penalty_leaves_the_level_free():
    table = history(**FULL, **LOGITS)
    table.loc[20, ["logit_real_t1", "logit_fake_t1"]] = 300.0
    figure = curves.training_figure(table, configure("smoke", divergence="wasserstein", T=2))
    _, logits, _, slope = figure.axes
    assert heavy(logits) == [0.5, 1.0], "the level of both, as their gap is the bound"
    assert max(logits.lines[0].get_ydata()) == 300 < logits.get_ylim()[1], "its swings are seen"
    assert not logits.collections
    assert heavy(slope) == pytest.approx([math.sqrt(2), 2.0])


def test_what_an_older_history_lacks_is_said():
    figure = curves.training_figure(history(**FULL), configure("smoke", T=2))
    assert texts(figure.axes[1]) == ["not recorded when this run was made"]
    figure = curves.training_figure(pd.DataFrame(), configure("smoke", T=2))
    assert [texts(ax) for ax in figure.axes] == [["not run yet"]] * 4


def test_table_of_trainings_finds_the_spike():
    run = Run.create(configure("smoke", T=2))
    table = history(**FULL)
    table.loc[30, "gradient_critic"] = 30.0
    table.loc[0, "gradient_critic"] = 900.0  # the first tenth is left out
    table.loc[36:, "critic"] = -0.7  # the last one
    table.to_csv(run.path / "history.csv.xz", index=False)
    line = curves.training_table([run]).loc[run.config.run_id]
    assert line["critic, worst"] == 10
    assert (line["critic"], line["generator"], line["bound"], line["bound, t = 1"]) == (3, 4, 0.7, 0.5)
    assert math.isnan(line["largest logit"]), "not recorded"


def piles() -> pd.DataFrame:
    lines = []
    for row, ratio in (("real", 1.0), ("kl", 3.0)):
        for stripes in ("horizontal", "vertical"):
            for classes, period in (("all", 0.0), ("all", 4.0), ("all", 2.0), ("bag", 0.0)):
                line = {"row": row, "stripes": stripes, "classes": classes, "period": period}
                value = ratio * (1 if stripes == "horizontal" else 5)
                lines.append(line | {"ratio": value, "low": value / 2, "high": value * 2})
    return pd.DataFrame(lines)


def test_stripes_are_drawn_by_direction_and_class():
    figure = comparisons.textures_figure(piles(), ["coat", "bag"])
    across, along, classes = figure.axes
    assert set(texts(across)) == set(texts(along)) == {"training images", "KL"}
    assert [line.get_ydata().tolist() for line in across.lines] == [[1.0, 1.0], [3.0, 3.0]]
    assert [line.get_ydata().tolist() for line in along.lines] == [[5.0, 5.0], [15.0, 15.0]]
    assert across.lines[0].get_xdata().tolist() == [1 / 4, 1 / 2], "the finer the farther to the right"
    assert [line.get_xdata().tolist() for line in classes.lines[:2]] == [[1.0], [3.0]], "horizontal ones"
    assert [bar.get_segments()[0][:, 0].tolist() for bar in classes.collections] == [[0.5, 2.0], [1.5, 6.0]]
    assert [t.get_text() for t in classes.get_yticklabels()] == ["bag"], "a class that was not measured has no line"
    empty = comparisons.textures_figure(pd.DataFrame(), ["bag"])
    assert [texts(ax) for ax in empty.axes] == [["not run yet"]] * 3


def test_modes_are_drawn_for_any_set_of_runs():
    shares = pd.DataFrame({"row": ["real", "kl"], "class": ["bag"] * 2, "value": [0.5, 0.4], "low": 0.3, "high": 0.6})
    scores = pd.DataFrame(
        {"row": ["real", "kl"], "score": ["recall"] * 2, "value": [0.9, 0.4], "low": 0.3, "high": 0.95}
    )
    figure = comparisons.modes_figure(shares, scores, "kl")
    assert [float(line.get_xdata()[0]) for line in figure.axes[1].lines] == [0.9, 0.4]
    assert len(figure.axes[0].collections) == 2, "intervals of the row and of real images"
    assert [1, 1] in [list(line.get_xdata()) for line in figure.axes[0].lines], "an even share of one class is all"
    assert len(comparisons.modes_figure(shares, scores, "wasserstein").axes[0].collections) == 1, "others have none"
    assert set(texts(figure.axes[1])) == {"training images", "KL"}
    assert texts(comparisons.modes_figure(pd.DataFrame(), pd.DataFrame(), "kl").axes[0]) == ["not run yet"]


def test_a_result_section_opens_where_nothing_has_run(capsys):
    config = configure("smoke", T=2)
    run = rows.open_run(config, False)
    assert run is None
    assert "not run yet" in capsys.readouterr().out
    assert rows.samples(run) == "no samples yet"
    assert rows.scores(run) == "no scores yet"
    assert rows.samples_at_each_T("smoke", config.divergence, 0) is None
    _, ax = plt.subplots()
    assert not len(rows.against_T("smoke", config.divergence, ax))
    assert texts(ax) == ["not run yet"]
    assert rows.beside("smoke", 2) == []


def test_samples_at_each_T_are_those_of_the_runs_grids():
    for T in (1, 3):
        run = Run.create(configure("smoke", divergence="kl", T=T))
        grids.write_png_grid(np.full((100, 1, 8, 8), 40 * T, np.uint8), run.path / "samples.png")
    figure = rows.samples_at_each_T("smoke", "kl", 0)
    assert texts(figure.axes[0])[:2] == ["T = 1", "T = 3"]
    assert figure.axes[0].images[0].get_array().shape[:2] == (16, 80)


def test_presets_of_the_same_networks_stand_beside_each_other(monkeypatch):
    def table(name):
        common = {"method": "ddgan", "tag": ""}
        return pd.DataFrame([common | {"run_id": f"{r}{T}", "divergence": r, "T": T} for r, T in tables[name]])

    tables = {"cpu": [("kl", 4), ("js", 4)], "short": [("kl", 4)], "full": [("kl", 1)]}
    monkeypatch.setattr(rows, "comparable", table)
    assert rows.kin("cpu") == rows.kin("short") == ["cpu", "short"], "as many T, more runs"
    tables["short"] += [("kl", 2)]
    assert rows.kin("cpu") == ["short", "cpu"]
    assert rows.kin("cpu", "js") == ["cpu"]
    assert rows.kin("cpu", "jeffreys") == ["cpu"], "nowhere"
    assert rows.kin("full") == ["full"], "which has other networks"


def test_larger_batches_share_a_curve_where_they_have_several_T(monkeypatch):
    made = [("", 1), ("", 2), ("b64", 2), ("b64", 4), ("long", 4), ("plain", 2), ("plain", 4)]
    table = pd.DataFrame(made, columns=["tag", "T"]).assign(method="ddgan", divergence="kl", run_id="kl")
    monkeypatch.setattr(rows, "comparable", lambda _: table)
    assert rows.trainings("full", "kl") == [("full", ""), ("full", "b64")]


def test_scores_are_listed_by_T(monkeypatch):
    common = {"method": "ddgan", "tag": "", "divergence": "kl", "seed": 0, "precision": 0.9, "coverage": 0.8}
    common |= {"frechet_error": 0.1, "recall_error": 0.1}
    made = [("ddgan", 4, 3.0, 0.5), ("truncated", 4, 9.0, 0.1), ("ddgan", 1, 2.0, 0.2)]
    names = ["sampler", "T", "frechet", "recall"]
    table = pd.DataFrame([common | {"run_id": "kl", "preset": "full"} | dict(zip(names, m, strict=True)) for m in made])
    monkeypatch.setattr(rows, "comparable", lambda _: table)
    found = rows.scores_against_T("full", "kl")
    assert found["recall"].to_dict() == {("full", "", 1, 0): 0.2, ("full", "", 4, 0): 0.5}
    assert not len(rows.scores_against_T("full", "js"))


def test_rows_are_shown_by_what_their_critics_see(monkeypatch):
    scored = [("kl", "", 4.0), ("kl", "plain", 5.0), ("wasserstein", "", 6.0), ("jeffreys", "plain", 7.0)]
    common = {"features": "pixels", "n": 200, "reference": "test", "sample_seed": 0, "protocol": ""}
    common |= {"sampler": "ddgan", "method": "ddgan", "T": 2, "seed": 0, "features_hash": "0a", "reference_n": 100}
    table = pd.DataFrame([
        common | {"run_id": row + tag, "divergence": row, "tag": tag, "frechet": value} for row, tag, value in scored
    ])  # fmt: skip
    found = {"run_id": "kl", "classes": "all", "period": 0.0, "stripes": "horizontal", "ratio": 1.5}
    monkeypatch.setattr(rows, "load_evaluations", lambda *_: table)
    monkeypatch.setattr(rows.anatomy, "table", lambda *_: pd.DataFrame([found]))
    shown = rows.critics("smoke", 2)
    assert shown["frechet"].to_dict() == {
        ("jeffreys", "plain"): 7.0, ("kl", "plain"): 5.0, ("kl", "shown fine detail"): 4.0
    }  # fmt: skip
    assert shown.loc[("kl", "shown fine detail"), "stripes"] == 1.5
    assert shown["stripes"].isna().sum() == 2
    assert not len(rows.critics("smoke", 3))


def test_log_ratios_are_in_one_unit(monkeypatch):
    def run(divergence: str, logits: list[float]) -> SimpleNamespace:
        config = configure("smoke", divergence=divergence, T=2)
        each = {"logit_largest": logits, "logit_real_t1": [9, 9, 9, 0.5], "logit_fake_t1": [0, 0, 0, -1.0]}
        return SimpleNamespace(config=config, history=pd.DataFrame(each).astype(float))

    runs = [run("non_saturating_js", [1, 3, 2, 2]), run("squared_hellinger", [2, 1, 1, 1]), run("wasserstein", [9] * 4)]
    own = runs[0].config.changed(divergence="le_cam")  # a notebook's row, unknown here
    runs += [SimpleNamespace(config=own, history=runs[0].history)]
    monkeypatch.setattr(rows, "all_runs", lambda _: runs)
    found = rows.log_ratios("smoke")[2]
    assert found["largest"].to_dict() == {"non_saturating_js": 3.0, "squared_hellinger": 4.0}
    assert found["gap"].to_dict() == {"non_saturating_js": 1.5, "squared_hellinger": 3.0}
    assert found["typical"].to_dict() == {"non_saturating_js": 1.5**0.5, "squared_hellinger": 3.0**0.5}
    monkeypatch.setattr(rows, "all_runs", lambda _: [])
    assert not len(rows.log_ratios("smoke"))


def test_what_critics_saw_is_the_late_bound_at_t_1(monkeypatch):
    def run(seed: int, T: int, tag: str = "") -> SimpleNamespace:
        losses = [0.0] * 6 + [-0.2 / T, -0.4 / T]
        config = configure("smoke", divergence="squared_hellinger", T=T, seed=seed, tag=tag)
        return SimpleNamespace(config=config, history=pd.DataFrame({"critic_t1": losses}))

    runs = [run(0, 2), run(0, 1), run(1, 4), run(0, 4, "plain")]
    monkeypatch.setattr(rows, "all_runs", lambda _: runs)
    found = rows.sight("smoke")
    assert found.columns.tolist() == [1, 2]
    assert found.loc["squared_hellinger"].tolist() == pytest.approx([0.3, 0.15])
    monkeypatch.setattr(rows, "all_runs", lambda _: [])
    assert not len(rows.sight("smoke"))


def test_every_timed_model_has_its_place_in_the_trilemma():
    common = {"method": "ddgan", "sampler": "ddgan", "steps": 4, "frechet_error": 0.1}
    common |= {"features": "inception", "n": 2_000, "tag": "", "seed": 0, "recall_error": 0.2}
    scored = pd.DataFrame([
        common | {"divergence": "kl", "frechet": 4.0, "recall": 0.5},
        common | {"divergence": "none", "method": "ddpm", "sampler": "ddim", "frechet": 5.0, "recall": 0.9, "steps": 9},
        common | {"divergence": "none", "method": "ddpm", "sampler": "ddim", "frechet": 5.0, "recall": 0.7},
        common | {"divergence": "none", "method": "ddpm", "sampler": "ddim", "frechet": 2, "recall": 0.8, "tag": "x5"},
        common | {"divergence": "wasserstein", "steps": 8, "frechet": 3.0, "recall": 0.6},  # was not timed
    ])  # fmt: skip
    seconds = {("ddgan", 4): 2.0, ("ddim", 4): 1.0, ("ddim", 9): 3.0}
    quality, coverage = comparisons.trilemma_figure(scored, seconds, floor=1.0).axes
    said = [t.get_text() for t in quality.figure.legends[0].get_texts()]
    assert said == ["KL", "DDPM, DDIM", "hollow: trained longer", "real images"]
    drawn = [line for line in coverage.lines if line.get_marker() != "None"]
    assert [line.get_xydata().tolist() for line in drawn] == [
        [[2.0, 0.5]], [[1.0, 0.7], [3.0, 0.9]], [[1.0, 0.8]]
    ]  # fmt: skip
    assert [line.get_markerfacecolor() == "white" for line in drawn] == [False, False, True]
    for ax, ends in ((quality, [3.9, 4.1]), (coverage, [0.3, 0.7])):
        assert ax.collections[0].get_segments()[0][:, 1].tolist() == pytest.approx(ends), "half to each side"
    assert quality.get_ylabel().startswith("FID (Inception features)\nN = 2,000")
    assert coverage.get_ylabel().startswith("recall (Inception features)\nN = 2,000")
    assert texts(comparisons.trilemma_figure(scored, {}).axes[0]) == ["not run yet"]


def test_chains_cut_short_stand_beside_the_whole_one(monkeypatch):
    config = configure("smoke", divergence="kl", T=4)
    _, _, features, n = SCORES["smoke"]["ddgan"][0]
    due = scores_due(config)
    assert due == [("ddgan", 4, features, n)] + [("truncated", t, features, n) for t in (1, 2, 3)]
    assert len(scores_due(config.changed(seed=1))) == len(scores_due(config.changed(tag="plain"))) == 1
    common = {"features": features, "n": n, "reference": "test", "sample_seed": 0, "tag": ""}
    common |= {"method": "ddgan", "protocol": "as_trained", "T": 4, "features_hash": "0a", "reference_n": 100}
    scored = [{"run_id": "kl", "divergence": "kl", "sampler": s, "steps": t, "frechet": 10.0 - t} for s, t, *_ in due]
    scored[1:] = [row | {"protocol": "as_published"} for row in scored[1:]]
    scored += [{"run_id": "js", "divergence": "js", "sampler": "ddgan", "steps": 4, "frechet": 1.0}]
    monkeypatch.setattr(rows, "load_evaluations", lambda *_: pd.DataFrame([common | row for row in scored]))
    table = rows.cut_short("smoke")
    assert table.loc[("smoke", 4, "kl")].tolist() == [9, 8, 7, 6]
    assert table.loc[("smoke", 4, "alpha_bar")].tolist() == pytest.approx(make_schedule("vp", 4).alpha_bar[1:].tolist())
    assert len(table) == 2, "what was not cut short is left out"
    _, drawn = rows.beside_cut_short("smoke")
    assert sorted(drawn["sampler"]) == ["ddgan"] * 2 + ["truncated"] * 3, "each model with its own T, too"
    scored += [dict(scored[1], T=2), dict(scored[0], T=2, steps=2), dict(scored[0], T=8, steps=8)]
    _, drawn = rows.beside_cut_short("smoke")
    assert sorted(drawn.loc[drawn["sampler"] == "ddgan", "T"]) == [2, 4, 4, 8]
    assert set(drawn.loc[drawn["sampler"] == "truncated", "T"]) == {4}, "the longest T that was cut short"
    monkeypatch.setattr(rows, "load_evaluations", lambda *_: pd.DataFrame([common | scored[-1]]))
    assert not len(rows.cut_short("smoke"))
    assert not len(rows.beside_cut_short("smoke")[1])


@pytest.mark.parametrize(
    ("preset", "tag", "said"),
    [
        ("short", "", "short"), ("cpu", "", "long"), ("cpu", "long", "longest"), ("cpu", "b64", "longer"),
        ("short", "x2", "twice as long"), ("cpu", "x2", "long, 2 × updates"),
        ("cpu", "b64-bf16-wide-critic", "longer, bfloat16, critic twice as wide"), ("smoke", "mine", "smoke, mine"),
        ("full", "b128-bf16-wide-critic4", "larger networks"), ("full", "b128", "full, batches of 128"),
        ("short", "b64-bf16", "short, batches of 64, bfloat16"), ("short", "long", "short, longest run"),
        ("full", "b128-bf16-wide-critic4-slow", "larger networks, critic's rate a quarter"),
        ("short", "bf16-wide-critic4-slow", "short, bfloat16, critic four times as wide, its rate a quarter"),
        ("short", "bf16-shared", "short, bfloat16, shared fakes"),
        ("short", "sweep-lr1-penalty0.1", "short, penalty × 0.1"),
        ("short", "sweep-lr1-penalty1", "short, usual settings"), ("cpu", "plain", "long, plain critic"),
    ],
)  # fmt: skip
def test_a_training_is_named_as_in_the_readme(preset: str, tag: str, said: str) -> None:
    assert training_label(preset, tag) == said
