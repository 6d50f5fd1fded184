"""What samples are made of: measured once, in intervals with known answers, by a last step whose stripes are known."""

import pandas as pd
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.__main__ import main
from ddgan_core.checkpoints import write_weights
from ddgan_core.data import get_dataset, load_images
from ddgan_core.diffusion import random_generator
from ddgan_core.evaluation import anatomy
from ddgan_core.evaluation.textures import fine, stripe_power
from ddgan_core.metrics.intervals import mean_interval
from ddgan_core.networks import make_model
from ddgan_core.runs import Run
from ddgan_core.study import configure


@pytest.fixture
def run() -> Run:
    """A finished run of digits, its generator untrained."""
    config = configure("smoke", T=2)
    made = Run.create(config)
    torch.manual_seed(0)
    model = make_model("ddgan", 1, config.widths, config.z_dim, config.attention)
    write_weights(made.path / "ema.safetensors", model.state_dict(), config.hash)
    made.set_status("done")
    return made


def test_what_is_measured_is_kept_and_not_measured_again(run, monkeypatch):
    assert not len(anatomy.table("textures", "digits"))
    assert anatomy.measure([run], n=80, features="pixels") == [run.config.run_id]
    tables = {kind: anatomy.table(kind, "digits") for kind in ("textures", "modes", "stripes")}
    assert set(tables["textures"]["run_id"]) == {run.config.run_id, "real"}
    assert set(tables["modes"]["group"]) == set(range(anatomy.GROUPS))
    train, test = (load_images("digits", split)[0][:80] for split in ("train", "test"))
    expected = [row["ratio"] for row in anatomy.textures(train, test, "digits")]
    control = tables["textures"].query("run_id == 'real'")["ratio"]
    assert control.tolist() == pytest.approx(expected, rel=1e-5), "the control is of the training split"
    changes = tables["stripes"].set_index("change")["sameness"]
    assert "x_1 moved by 1" in changes.index
    assert (changes["bilinear growth"] < 1 - 1e-5).all(), "another growth, other stripes"
    with monkeypatch.context() as patched:
        patched.setattr(anatomy, "sample", lambda *_, **__: pytest.fail("samples were drawn again"))
        assert anatomy.measure([run], n=80, features="pixels") == []
    assert anatomy.measure([run], n=80, features="pixels", force=True) == [run.config.run_id]
    for kind, before in tables.items():
        pd.testing.assert_frame_equal(
            anatomy.table(kind, "digits").sort_values(list(before)).reset_index(drop=True),
            before.sort_values(list(before)).reset_index(drop=True),
        )


def test_rows_of_before_their_origin_was_noted_are_kept_as_they_are(run, monkeypatch):
    made = ["device", "torch", "commit"]
    monkeypatch.setattr(anatomy, "provenance", lambda _: dict(zip(made, ("a CPU", "2.9.1", "0012345"), strict=True)))
    anatomy.measure([run], n=80, features="pixels")
    for kind in ("textures", "modes", "stripes"):
        assert anatomy.table(kind, "digits")[made].drop_duplicates().to_numpy().tolist() == [
            ["a CPU", "2.9.1", "0012345"]
        ]
        path = anatomy._path(kind, "digits")
        anatomy.table(kind, "digits").drop(columns=made).to_csv(path, index=False)
    before = anatomy.table("modes", "digits")
    assert anatomy.measure([run], n=80, features="pixels") == [], "they are known"
    other = Run.create(run.config.changed(seed=1))
    other.set_status("done")
    (other.path / "ema.safetensors").write_bytes((run.path / "ema.safetensors").read_bytes())
    monkeypatch.setattr(anatomy, "sample", lambda _, n, **__: load_images("digits", "test")[0][:n])
    monkeypatch.setattr(anatomy, "last_step", lambda *_: [{"change": "none"}])
    assert anatomy.measure([run, other], n=80, features="pixels") == [other.config.run_id]
    after = anatomy.table("modes", "digits")
    assert after.loc[after["run_id"] == other.config.run_id, "commit"].tolist() == ["0012345"] * anatomy.GROUPS
    old = after[after["run_id"] != other.config.run_id]
    assert old[made].isna().all(axis=None)
    pd.testing.assert_frame_equal(old[list(before)], before)
    assert set(anatomy.table("modes", "digits", [other])["run_id"]) == {other.config.run_id, "real"}
    assert anatomy.measure([run], n=72, features="pixels") == [run.config.run_id], "another n is another pile"


def test_a_ddpm_is_looked_at_as_its_fast_sampler_leaves_it(monkeypatch):
    run, asked = Run.create(configure("smoke", method="ddpm")), []
    (run.path / "ema.safetensors").write_bytes(b"")
    images = load_images("digits", "train")[0][:80]
    monkeypatch.setattr(anatomy, "sample", lambda *_, **how: asked.append((how["sampler"], how["steps"])) or images)
    anatomy.measure([run], n=80, features="pixels")
    assert asked == [("ddim", 10)]
    table = anatomy.table("modes", "digits").query("run_id != 'real'")
    assert table[["row", "sampler", "steps"]].drop_duplicates().to_numpy().tolist() == [["ddpm", "ddim", 10]]
    assert not len(anatomy.table("stripes", "digits")), "it has no last step of its own"


def test_too_few_images_are_refused(run):
    with pytest.raises(UserError, match="n = 39"):
        anatomy.measure([run], n=39)


def test_features_that_do_not_fit_leave_no_table(run, results):
    with pytest.raises(UserError, match="images of 8x8: fashion_classifier features take 28x28"):
        anatomy.measure([run], n=80)
    assert not list(results.rglob("*_digits.csv"))


def test_the_command_takes_features_that_its_images_fit(run, capsys):
    command = ["anatomy", "--preset", "smoke", "--T", "2", "--threads", "1"]
    assert main(command) == 2
    assert "fashion_classifier features take 28x28, pixels and inception any size" in capsys.readouterr().err
    assert main([*command, "--features", "pixels"]) == 0
    assert f"measured: {run.config.run_id}" in capsys.readouterr().out
    table = anatomy.table("modes", "digits")[["run_id", "features", "n"]].drop_duplicates()
    n = len(load_images("digits", "test")[0])  # fewer than the default
    assert table.to_numpy().tolist() == [["real", "pixels", n], [run.config.run_id, "pixels", n]]


def test_without_weights_the_command_says_what_is_missing(run, capsys):
    assert main(["anatomy", "--preset", "smoke", "--T", "3", "--tag", "own", "--threads", "1"]) == 2
    said = capsys.readouterr().err
    assert "there is no run of --preset smoke --T 3 --tag own: train one, python -m ddgan_core train --preset" in said
    (run.path / "ema.safetensors").unlink()
    assert main(["anatomy", "--preset", "smoke", "--T", "2", "--threads", "1"]) == 2
    assert "none of the 1 runs of --preset smoke --T 2 has weights here" in capsys.readouterr().err


def test_real_images_against_themselves_have_ratio_one():
    real = load_images("digits", "test")[0]
    table = pd.DataFrame(anatomy.textures(real, real, "digits"))
    assert (table["ratio"] == 1).all()
    assert ((table["low"] <= 1) & (table["high"] >= 1)).all()
    groups = pd.DataFrame(anatomy.modes(real[:80], real[:80], "digits", "pixels"))
    assert (groups[["precision", "recall", "coverage"]] == 1).all(axis=None)


def test_a_pile_is_judged_beside_real_images():
    """Each group ten times one of the real images that it meets: all of it is near them, and they are not near it."""
    real = load_images("digits", "test")[0][:80]
    groups = pd.DataFrame(anatomy.modes(real[:8].repeat(10, 1, 1, 1), real, "digits", "pixels"))
    assert (groups["precision"] == 1).all()
    assert (groups["recall"] == 0).all()
    found = anatomy.reach(groups.assign(row="kl")).set_index("score")["value"]
    assert found[["precision", "recall"]].tolist() == [1, 0]
    assert found["coverage"] == pytest.approx(groups["coverage"].mean())


def test_shares_are_those_of_the_classes(monkeypatch):
    images, labels = load_images("digits", "test")
    monkeypatch.setattr(anatomy, "_classes", lambda images, _: labels[: len(images)])
    groups = pd.DataFrame(anatomy.modes(images[:80], images[:80], "digits", "pixels"))
    found = anatomy.shares(groups.assign(row="kl"), "digits")
    assert found["value"].tolist() == pytest.approx((labels[:80].bincount(minlength=10) / 80).tolist())
    sevens = [float((labels[g:80:8] == 7).double().mean()) for g in range(8)]
    mean, half = mean_interval(sevens)
    assert found.loc[7, ["low", "high"]].tolist() == pytest.approx([mean - half, mean + half])
    assert not len(anatomy.shares(groups.drop(columns="share_0"), "digits"))


def test_a_class_is_compared_with_its_own(monkeypatch):
    """Of 600 images and 600 others, by the fine stripes of each class; of all, by each period too."""
    images, labels = load_images("digits", "train")
    some, others = images[:600], images[600:1200]
    monkeypatch.setattr(anatomy, "_classes", lambda x, _: labels[:600] if x is some else labels[600:1200])
    table = pd.DataFrame(anatomy.textures(some, others, "digits")).query("stripes == 'vertical'")
    one, other = stripe_power(some)[:, 1], stripe_power(others)[:, 1]
    line = table.query("classes == 'all' and period == 2").iloc[0]
    assert line["ratio"] == pytest.approx(float(one[:, 2].quantile(0.5) / other[:, 2].quantile(0.5)))
    assert line["ratio_of_means"] == pytest.approx(float(one[:, 2].mean() / other[:, 2].mean()))
    one, other = (x[:, fine(4)].mean(1) for x in (one[labels[:600] == 7], other[labels[600:1200] == 7]))
    line = table[table["classes"] == get_dataset("digits").classes[7]].iloc[0]
    assert line["ratio"] == pytest.approx(float(one.quantile(0.5) / other.quantile(0.5)))
    assert line["ratio_of_means"] == pytest.approx(float(one.mean() / other.mean()))
    assert line["images"] == len(one)


def test_the_smoothest_are_those_without_stripes_among_the_bright():
    rows = torch.tensor([1, -1]).repeat(4)[:, None].expand(8, 8)
    images = torch.stack([10 + 0 * rows] * 3 + [200 + 50 * rows] * 3 + [200 + 2 * rows] * 2)[:, None].to(torch.uint8)
    assert torch.equal(anatomy.smoothest(images, 2), images[6:])


class Known(torch.nn.Module):
    """A last step whose stripes are known: x_1 itself, the latent's, or rows of the grid, whatever comes in."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.grow = kind, []

    def forward(self, x, t, z):
        rows = (-1.0) ** torch.arange(x.shape[2])[:, None] * torch.ones(x.shape[3])
        if self.kind == "noise":
            return x
        return rows.expand_as(x) * (z[:, :1, None, None] if self.kind == "latent" else 1.0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("noise", {"another z": 1, "another noise": None, "x_1 moved by 1": 1, "the noise itself": None}),
        ("latent", {"another z": 0, "another noise": 1, "x_1 moved by 1": -1, "x_1 moved by 2": 1}),
        ("grid", {"another z": 1, "another noise": 1, "x_1 moved by 1": -1, "x_1 moved by 2": 1}),
    ],
)
def test_last_step_tells_noise_latent_and_grid_apart(run, monkeypatch, kind, expected):
    schedule = anatomy.load_model(run)[1]
    monkeypatch.setattr(anatomy, "Generator", Known)
    monkeypatch.setattr(anatomy, "load_model", lambda *_: (Known(kind), schedule))
    table = pd.DataFrame(anatomy.last_step(run, load_images("digits", "test")[0]))
    found = table[table["stripes"] == "horizontal"].set_index("change")["sameness"]
    moved = table["change"].str.startswith("x_1 moved")
    assert set(table.loc[moved, "stripes"]) == {"horizontal"}, "rows that move say nothing of columns"
    for change, value in expected.items():
        if value is not None:
            assert found[change] == pytest.approx(value, abs=0.25 if value == 0 else 1e-6)
    if kind == "noise":  # x_1 is signal and noise: another noise leaves the signal, the noise is a part of it
        assert found["another noise"] < found["another z"]
        assert 0.3 < found["the noise itself"] < 1
    if kind == "latent":  # stripes as strong as the latent's first number
        generator = random_generator(anatomy.SEED, "anatomy/last_step")
        torch.randn(2, anatomy.SMOOTH, 1, 8, 8, generator=generator)
        both = torch.randn(2, anatomy.SMOOTH, run.config.z_dim, generator=generator)
        z, other = both[..., 0].square().median(1).values
        power = table.query("stripes == 'horizontal'").set_index("change")["power"]
        assert power["another z"] == pytest.approx(float(other / z), rel=1e-4)


def test_differences_are_decided_by_intervals_alone():
    base = torch.randn(8, generator=torch.Generator().manual_seed(0)).tolist()
    rows = []
    for row, shift in (("reverse_kl", -1.0), ("kl", 0.0), ("pearson", -1.0), ("real", 9.0)):
        for g, b in enumerate(base):
            score = b + shift + 0.01 * (-1) ** g * (row == "kl")
            rows.append({"row": row, "run_id": f"{row}_s0", "n": 80, "group": g} | dict.fromkeys(anatomy.REACH, score))
    table = anatomy.differences(pd.DataFrame(rows), "reverse_kl")
    assert table["score"].tolist() == 2 * list(anatomy.REACH)
    table = table[table["score"] == "recall"].set_index("against")
    assert table.loc["kl", "verdict"] == "lower", "paired: what the groups share cancels"
    mean, half = mean_interval([-1 - 0.01 * (-1) ** g for g in range(8)], 1 - 0.05 / 6)  # two rows by three scores
    assert table.loc["kl", ["difference", "low", "high"]].tolist() == pytest.approx([mean, mean - half, mean + half])
    assert set(table.index) == {"kl", "pearson"}, "real images are no row to be beaten"
    assert table.loc["pearson", "verdict"] == "not decided"
    assert not len(anatomy.differences(pd.DataFrame(rows), "wasserstein"))
    for change in ({"run_id": "kl_s1"}, {"n": 160}, {"features": "pixels"}):
        rows = [{"features": "inception"} | line for line in rows]
        mixed = pd.DataFrame(rows + [rows[8 + g] | change for g in range(8)])
        with pytest.raises(UserError, match="one run a row, at one n"):
            anatomy.differences(mixed, "reverse_kl")
    with pytest.raises(UserError, match="modes of several features"):
        anatomy.reach(mixed)
