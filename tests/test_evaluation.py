"""A run becomes the same images in any batch size, and each score is written once."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ddgan_core import UserError, sampling
from ddgan_core.checkpoints import write_weights
from ddgan_core.data import load_images, to_float, to_uint8
from ddgan_core.diffusion import make_schedule
from ddgan_core.evaluation import samples, scoring
from ddgan_core.evaluation.samples import load_model, sample
from ddgan_core.evaluation.scores import COLUMNS, load_evaluations, read_evaluations
from ddgan_core.evaluation.scoring import evaluate, evaluate_baseline, evaluate_images
from ddgan_core.metrics.distances import kernel_distance, precision_recall
from ddgan_core.metrics.features import EXTRACTORS, load_extractor
from ddgan_core.networks import Generator, NoisePredictor
from ddgan_core.runs import PRESETS, Run, RunConfig

DDGAN = RunConfig(preset="smoke").changed(**PRESETS["smoke"], T=3)
DDPM = DDGAN.changed(method="ddpm", divergence="none", T=20)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_run(config: RunConfig) -> Run:
    """A run whose network is as it was initialised."""
    torch.manual_seed(0)
    run = Run.create(config)
    if config.method == "ddpm":
        network: torch.nn.Module = NoisePredictor(1, config.widths, attention=False)
    else:
        network = Generator(1, config.widths, config.z_dim, attention=False)
    write_weights(run.path / "ema.safetensors", network.state_dict(), config.hash)
    return run


@pytest.mark.parametrize(
    ("config", "sampler", "steps"), [(DDGAN, None, None), (DDPM, None, 5), (DDPM, "ddim", 4), (DDPM, "ancestral", None)]
)
def test_image_i_is_the_same_in_any_call(config: RunConfig, sampler: str | None, steps: int | None) -> None:
    run = make_run(config)
    images = sample(run, 10, sampler=sampler, steps=steps, seed=3)
    assert images.shape == (10, 1, 8, 8)
    assert images.dtype == torch.uint8
    again = sample(run, 4, sampler=sampler, steps=steps, seed=3)
    assert (images[:4].int() - again.int()).abs().max() <= 1  # rounding may differ with the batch size


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (DDGAN, {"steps": 2}, "takes the 3 it was trained for"),
        (DDGAN, {"sampler": "ddim"}, "choose ddgan or truncated or diffused"),
        (DDPM, {"steps": 21}, "choose 1 to 20"),
        (DDPM, {"steps": 0}, "choose 1 to 20"),
        (DDPM, {"sampler": "ddgan"}, "choose ancestral or ddim or dpm_solver or shortened or retimed"),
    ],
)
def test_a_sampler_that_does_not_fit_the_run_is_refused(config: RunConfig, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample(make_run(config), 4, **arguments)


def times_asked(run: Run, **how: object) -> list[int]:
    """The times at which sampling asks the run's network."""
    network, schedule = load_model(run)
    asked: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: asked.append(int(inputs[1][0])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "load_model", lambda *_: (network, schedule))
        sample(run, 2, **how)
    return asked


def test_a_truncated_chain_is_begun_from_noise_at_a_smaller_step() -> None:
    run = make_run(DDGAN)
    assert times_asked(run, sampler="truncated", steps=2) == [2, 1]
    network, schedule = load_model(run)
    images = sampling.sample_images(sampling.ddgan_step(network, schedule), 2, (1, 8, 8), 3, seed=1)
    assert torch.equal(sample(run, 3, sampler="truncated", steps=2, seed=1), to_uint8(next(iter(images))))
    row = evaluate(run, n=20, features="pixels", sampler="truncated", steps=1).iloc[0]
    assert row[["sampler", "steps", "protocol"]].tolist() == ["truncated", 1, "as_published"]


def test_a_diffused_chain_is_begun_at_real_images_with_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    run, T = make_run(DDGAN), DDGAN.T
    assert times_asked(run, sampler="diffused", steps=2) == [2, 1]
    network, schedule = load_model(run)
    seen: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = to_float(load_images(DDGAN.dataset)[0])
    n = len(images)
    with monkeypatch.context() as patch:
        patch.setattr(samples, "load_model", lambda *_: (network, schedule))
        sample(run, n, sampler="diffused", steps=1, seed=5)
    x_1 = torch.cat(seen)
    noise = sampling.SeededNoise(5, 0, n)("x_T", tuple(images.shape[1:]))
    alpha_bar = schedule.alpha_bar[1]
    x_0 = (x_1 - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
    distance, nearest = torch.cdist(x_0.flatten(1), images.flatten(1)).min(1)
    assert distance.max() < 1e-2, "the square root of what float32 leaves"
    assert nearest.unique().numel() == n
    assert not torch.equal(nearest, nearest.sort().values), "shuffled, so that any few of them are like all"
    assert torch.equal(sample(run, 70, sampler="diffused", steps=2)[:9], sample(run, 9, sampler="diffused", steps=2))
    with pytest.raises(UserError, match=f"has {n} training images"):
        sample(run, n + 1, sampler="diffused", steps=1)
    rows = [evaluate(run, n=20, features="pixels", sampler="diffused", steps=t).iloc[0] for t in (1, T)]
    assert [row["protocol"] for row in rows] == ["control", "control"], "at t = T, too, it is not the model's own start"


def test_a_shortened_table_is_a_new_one_with_small_times() -> None:
    run = make_run(DDPM)
    assert times_asked(run, sampler="ancestral", steps=4) == [20, 15, 10, 5]
    assert times_asked(run, sampler="shortened", steps=4) == [4, 3, 2, 1]
    # At times whose noise is as much: the chain starts from noise all the same, and its table ends early.
    times = times_asked(run, sampler="retimed", steps=4)
    short, long = (make_schedule(DDPM.schedule, n).alpha_bar for n in (4, 20))
    assert times == [1 + int((short[i].logit() - long[1:].logit()).abs().argmin()) for i in (4, 3, 2, 1)]
    assert times_asked(run, sampler="retimed", steps=20) == list(range(20, 0, -1))
    assert evaluate(run, n=20, features="pixels", sampler="retimed", steps=4).iloc[0]["protocol"] == "control"
    network, _ = load_model(run)
    images = sampling.sample_images(
        sampling.ancestral_step(network, make_schedule(DDPM.schedule, 4)), 4, (1, 8, 8), 6, seed=0
    )
    assert torch.equal(sample(run, 6, sampler="shortened", steps=4), to_uint8(next(iter(images))))
    row = evaluate(run, n=20, features="pixels", sampler="shortened", steps=4).iloc[0]
    assert row["protocol"] == "as_published"
    assert evaluate(run, n=20, features="pixels", sampler="shortened").iloc[0]["protocol"] == "as_trained"


def test_weights_must_be_there_and_belong_to_the_configuration() -> None:
    run = Run.create(DDGAN)
    with pytest.raises(UserError, match="no weights"):
        load_model(run)
    write_weights(run.path / "ema.safetensors", {}, "0" * 12)
    with pytest.raises(UserError, match="belongs to configuration 000000000000"):
        load_model(run)


def test_features_that_do_not_fit_are_refused_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(DDGAN)
    with monkeypatch.context() as patch:
        patch.setattr(samples, "sample_images", lambda *_: pytest.fail("drawn"))
        with pytest.raises(UserError, match="images of 8x8: fashion_classifier features take 28x28"):
            evaluate(run, n=20, features="fashion_classifier")
    with pytest.raises(UserError, match="images of 8x8"):
        evaluate(run, n=20, features=["pixels", "fashion_classifier"])
    assert run.evaluations.empty, "not even by the features that fit"


def test_shipped_bfloat16_weights_are_loaded_in_single() -> None:
    run = make_run(DDGAN)
    before, _ = load_model(run)
    (run.path / "ema.safetensors").unlink()
    shipped = run.results / "checkpoints" / "digits" / f"{run.config.run_id}.safetensors.xz"
    write_weights(shipped, before.state_dict(), run.config.hash, torch.bfloat16)
    network, schedule = load_model(run)
    assert schedule.T == 3
    assert not network.training
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, before.state_dict()[name], rtol=1 / 256, atol=1e-6)


def test_a_score_is_computed_and_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(DDGAN)
    row = evaluate(run, n=20, features="pixels")
    assert list(row.columns) == list(COLUMNS)
    assert len(row) == 1
    first = row.iloc[0]
    assert first[["sampler", "steps", "protocol", "reference_n"]].tolist() == ["ddgan", 3, "as_trained", 297]
    assert first["frechet"] > 0
    assert first["seconds_per_image"] > 0
    assert pd.isna(first["top_probability"])
    assert first[["precision", "recall", "coverage"]].between(0, 1).all()
    assert pd.isna(first["frechet_error"]), "twenty images are too few for an interval"

    with monkeypatch.context() as patch:
        patch.setattr(samples, "sample_images", lambda *_, **__: pytest.fail("sampled again"))
        again = evaluate(run, n=20, features="pixels")
        pd.testing.assert_frame_equal(row, again, rtol=1e-5)
        with pytest.raises(pytest.fail.Exception, match="sampled again"):
            evaluate(run, n=20, features="pixels", force=True)
    evaluate(run, n=20, features="pixels", force=True)
    assert len(read_evaluations(run.path / "evaluations.csv")) == 1
    evaluate(run, n=20, features="pixels", seed=1)
    evaluate(run, n=20, features="pixels", reference="train")
    assert len(read_evaluations(run.path / "evaluations.csv")) == 3


def test_the_distance_is_that_of_the_images() -> None:
    from ddgan_core.metrics.distances import Moments, frechet_distance

    run, pixels = make_run(DDPM), load_extractor("pixels")
    row = evaluate(run, sampler="ddim", steps=4, n=50, features="pixels").iloc[0]
    images, _ = load_images("digits", "test")
    a, b = Moments.of(pixels(sample(run, 50, sampler="ddim", steps=4))), Moments.of(pixels(images))
    assert row["protocol"] == "respaced"
    assert row["reference_n"] == len(images)
    assert row["frechet"] == pytest.approx(frechet_distance(a, b), rel=1e-5)


def test_writers_that_score_at_once_lose_no_row() -> None:
    run = make_run(DDGAN)
    evaluate(run, n=5, features="pixels")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: evaluate(run, n=5, features="pixels", seed=seed), range(8)))
    assert sorted(read_evaluations(run.path / "evaluations.csv")["sample_seed"]) == list(range(8))


def test_text_that_looks_like_a_number_stays_text() -> None:
    run = make_run(DDGAN)
    evaluate(run, n=5, features="pixels")
    path = run.path / "evaluations.csv"
    table = read_evaluations(path).assign(features_hash="000012345678", commit="1e5")
    table.to_csv(path, index=False)
    row = read_evaluations(path).iloc[0]
    assert (row["features_hash"], row["commit"], row["tag"]) == ("000012345678", "1e5", "")


def test_baselines_bound_a_run(results: Path) -> None:
    run = make_run(DDGAN)
    evaluate(run, n=100, features="pixels")
    for kind in ("real", "noise", "real"):
        evaluate_baseline(kind, "digits", n=100, features="pixels")
    table = load_evaluations("digits", "smoke").set_index("sampler")["frechet"]
    assert len(table) == 3
    assert table["real"] < table["noise"]
    assert table["real"] < table["ddgan"]
    assert len(load_evaluations("digits", "full")) == 2  # no runs, the dataset's baselines all the same
    assert load_evaluations("fashion_mnist").empty
    other = evaluate_baseline("real", "digits", n=100, features="pixels", seed=1).iloc[0]
    assert other["frechet"] != pytest.approx(table["real"], rel=1e-4), "other images of the split"


def test_all_features_see_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, draw, drawn = load_extractor("pixels"), scoring.sample_pile, []
    monkeypatch.setitem(EXTRACTORS, "again", lambda _: replace(pixels, name="again"))
    monkeypatch.setattr(scoring, "sample_pile", lambda *how: drawn.append(how) or draw(*how))
    rows = evaluate(make_run(DDGAN), n=20, features=["pixels", "again"])
    assert rows["features"].tolist() == ["pixels", "again"]
    assert rows["frechet"].nunique() == len(drawn) == 1


def test_a_kept_pile_is_known_by_all_that_decides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its weights and each way of drawing it: what takes long is read back by these facts alone."""
    known: list[str] = []
    one = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(samples, "draw_pile", lambda facts, *_: known.append(json.dumps(facts)) or (one, 0.0))
    run = make_run(DDPM)
    for how in (("ancestral", 5, 0), ("ddim", 5, 0), ("ancestral", 4, 0), ("ancestral", 5, 1), ("ancestral", 5, 0)):
        samples.sample_pile(run, *how[:2], 1, how[2], "cpu", None)
    assert known.pop() == known[0]
    with monkeypatch.context() as patch:
        patch.setattr(samples, "fast_batch", lambda _: 3)
        samples.sample_pile(run, "ancestral", 5, 1, 0, "cpu", None)
    other = {name: value + 1 for name, value in load_model(run)[0].state_dict().items()}
    write_weights(run.path / "ema.safetensors", other, DDPM.hash)
    samples.sample_pile(run, "ancestral", 5, 1, 0, "cpu", None)
    assert len(set(known)) == len(known) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "real", "n": 1501}, "holds 1500 images"),
        ({"kind": "real", "n": 1}, "2 images or more"),
        ({"kind": "perfect", "n": 10}, "choose real or noise"),
        ({"kind": "real", "n": 10, "reference": "valid"}, "choose train or test"),
    ],
)
def test_impossible_baselines_are_refused(arguments: dict, message: str, results: Path) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_baseline(dataset="digits", features="pixels", **arguments)
    assert not list(results.rglob("*.csv"))


def test_the_commit_is_that_of_the_code_that_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    version, draw = ["before"], scoring.sample_pile

    def meanwhile(*arguments: object) -> object:
        version[0] = "after"
        return draw(*arguments)

    monkeypatch.setattr("ddgan_core.provenance.code_version", lambda: version[0])
    monkeypatch.setattr(scoring, "sample_pile", meanwhile)
    assert evaluate(make_run(DDGAN), n=20, features="pixels").iloc[0]["commit"] == "before"


def test_each_score_carries_an_interval_and_its_companions() -> None:
    """Real images against real ones: within each other's neighbourhoods; noise is nowhere near them."""
    real, noise = (evaluate_baseline(kind, "digits", features="pixels", n=300).iloc[0] for kind in ("real", "noise"))
    assert 0 < real["frechet_error"] < real["frechet"]
    assert real[["precision", "recall", "coverage"]].min() > 0.5
    assert noise[["precision", "coverage"]].max() == 0
    assert noise["kernel"] > 10 * abs(real["kernel"])


@pytest.mark.parametrize("n", [30, 60])
def test_a_score_is_that_of_the_distances_with_an_interval_or_without(n: int, tmp_path: Path) -> None:
    """Below 40 images there is none; above, values and intervals come from one look at each pair."""
    fake, real = (load_images("digits", split)[0][:n] for split in ("train", "test"))
    np.save(tmp_path / "mine.npy", fake.numpy())
    row = evaluate_images(tmp_path / "mine.npy", "digits", features="pixels").iloc[0]
    a, b = (load_extractor("pixels")(pile) for pile in (fake, real))
    expected = precision_recall(b, a) | {"kernel": kernel_distance(a, b)}
    assert row[list(expected)].to_dict() == pytest.approx(expected, rel=1e-9)
    assert (row[[f"{name}_error" for name in expected]].notna() == (n >= 40)).all()
