"""What the latent draws over a training: as a share of what a step leaves open, and from when on for good."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ddgan_core.diffusion import make_schedule
from ddgan_core.notebook import latents, rows
from ddgan_core.notebook.latents import latents_figure, over_training, reached, used
from ddgan_core.study import configure

DRAWN = [0.0, 0.1, 0.02, 0.1, 0.2]  # of e(1) = 0.4: shares 0, .25, .05, .25, .5; and e(2) = 0.8


@pytest.fixture
def recorded(results, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A run that records, one that does not, one without a latent, and one of another preset."""
    path = latents.path_of(configure("smoke").dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    between = make_schedule("vp", 2).alpha_bar[1:].logit().mean().exp().item()
    snr = [1e-6, 0.99 * between, 1.01 * between, 1e6]
    pd.DataFrame({"snr": snr, "error": [0.8, 0.8, 0.4, 0.4]}).to_csv(path, index=False)
    history = pd.DataFrame({"step": [100, 200, 300, 400, 500], "critic_t1": 0.0})
    drawn = history.assign(variance_by_latent_t1=DRAWN, variance_by_latent_t2=[4 * x for x in DRAWN])
    runs = [
        (configure("smoke", T=2, batch_size=50), drawn), (configure("smoke", T=2, seed=1), history),
        (configure("smoke", T=2, z_dim=0, tag="no-z"), drawn * 0), (configure("cpu", T=2), drawn),
        (configure("smoke", T=2, tag="late", step_weights=(4, 1)), drawn),
    ]  # fmt: skip
    monkeypatch.setattr(latents, "all_runs", lambda *_: [SimpleNamespace(config=c, history=h) for c, h in runs])
    return over_training("smoke")


def test_shares_are_of_what_the_step_leaves_open(recorded: pd.DataFrame) -> None:
    assert recorded["run_id"].unique().tolist() == [configure("smoke", T=2).run_id]
    one, two = (recorded[recorded["t"] == t] for t in (1, 2))
    assert one["share"].tolist() == pytest.approx([0, 0.25, 0.05, 0.25, 0.5])
    assert two["share"].tolist() == pytest.approx([0, 0.5, 0.1, 0.5, 1])
    assert one["images"].tolist() == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.025])  # millions, batches of 50


def test_a_share_is_reached_when_it_is_kept(recorded: pd.DataFrame) -> None:
    when = reached(recorded, 0.2).iloc[0]
    assert when.to_dict() == pytest.approx({1: 0.02, 2: 0.02}), "not at .01, from where it falls again"
    assert math.isnan(reached(recorded, 0.6).iloc[0][1])
    assert reached(recorded, 0.0).iloc[0].tolist() == pytest.approx([0.005, 0.005])


def test_scores_stand_beside_what_is_drawn_at_the_end(recorded: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    name, quality = recorded["run_id"].iloc[0], {"precision": 0.7, "recall": 0.4, "recall_error": 0.1, "coverage": 0.3}
    lines = [
        ("pixels", 200, "ddgan", "as_trained", 5.0), ("pixels", 200, "diffused", "control", 2.0),
        ("inception", 2_000, "ddgan", "as_trained", 40.0), ("inception", 10_000, "ddgan", "as_trained", 35.0),
    ]  # fmt: skip
    table = pd.DataFrame(lines, columns=["features", "n", "sampler", "protocol", "frechet"])
    table = table.assign(run_id=name, reference="test", sample_seed=0, frechet_error=0.5, **quality)
    table = table.assign(method="ddgan", features_hash="0a", reference_n=100)
    others = ({"reference": "train"}, {"sample_seed": 1})
    table = pd.concat([table, *(table.assign(frechet=1.0, **other) for other in others)], ignore_index=True)
    for module in (latents, rows):
        monkeypatch.setattr(module, "load_evaluations", lambda *_: table)
    line = used("smoke").loc[name]
    assert (line["frechet"], line["FID"], line["recall"]) == (5.0, 40.0, 0.4)
    assert (line["z at t = 2"], line["z at t = 1"]) == pytest.approx((1.0, 0.5))


def test_a_run_alone_has_one_panel_for_all_its_steps(recorded: pd.DataFrame) -> None:
    (ax,) = latents_figure(recorded.assign(tag="b64")).axes
    assert ax.get_title("left") + ax.get_title("center") == "T = 2, JS (non-saturating)\nbatches of 64"
    last, first = ax.lines
    assert np.allclose(first.get_ydata(), 2 * last.get_ydata())
    assert {t.get_text() for t in ax.texts} == {"t = 2, the first", "t = 1, the last"}


def test_a_panel_for_each_step_the_first_of_a_chain_first(recorded: pd.DataFrame) -> None:
    both = pd.concat([recorded, recorded.assign(run_id="another", seed=1)])
    left, right = latents_figure(both).axes
    titles = [ax.get_title(loc) for ax in (left, right) for loc in ("left", "center") if ax.get_title(loc)]
    assert titles == ["T = 2, step t = 2, the first", "T = 2, step t = 1, the last"]
    assert np.allclose(left.lines[0].get_ydata(), 2 * right.lines[0].get_ydata())
    assert sorted(line.get_linestyle() for line in left.lines) == ["-", "--"]
    assert {t.get_text() for t in left.texts} == {"JS (non-saturating)", "JS (non-saturating), seed 1"}
    tagged = pd.concat([recorded.assign(tag="b64-bf16"), both.assign(run_id="third", tag="b64-bf16-r1x4")])
    left, _ = latents_figure(tagged).axes
    title = left.get_title("left") + left.get_title("center")  # where the style puts it
    assert title.splitlines()[1] == "batches of 64, bfloat16"
    assert {t.get_text() for t in left.texts} == {"JS (non-saturating)", "JS (non-saturating), R1 × 4"}
    assert sorted(line.get_linestyle() for line in left.lines) == ["-", ":"], "dotted where R1 holds otherwise"


def test_where_nothing_is_recorded_it_says_so(results) -> None:
    table = over_training("smoke")
    assert not len(table)
    assert not len(reached(table, 0.1))
    assert not len(used("smoke"))
    assert "no history" in latents_figure(table).axes[0].texts[0].get_text()
