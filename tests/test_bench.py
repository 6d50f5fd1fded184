"""Bench: turns, ratios and gaps, by a clock that is pretended; the peers themselves where weights and packages are."""

import itertools
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.bench import metrics, turns, workers
from ddgan_core.bench.mend import mend_torchvision
from ddgan_core.bench.metrics import OURS, PEER, bench_metrics, bench_network, compete, write_pngs
from ddgan_core.bench.turns import Seconds
from ddgan_core.bench.workers import bench_workers
from ddgan_core.data import at_hand, load_images, read_images
from ddgan_core.metrics.distances import Moments, frechet_distance

needs_inception = pytest.mark.skipif(
    not Path(os.environ.get("DDGAN_INCEPTION", "")).is_file(), reason="DDGAN_INCEPTION names no Inception weights"
)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return load_images("digits", "test")[0]


def pixels(images: torch.Tensor, folder: Path) -> torch.Tensor:
    return images.flatten(1)[:, 10:30].float() / 255


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Wall and CPU time that only the contestants below advance."""
    now = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(turns.time, "process_time", lambda: now[0] / 4)
    monkeypatch.setattr(turns.os, "times", lambda: (0.0, 0.0, now[0] / 8, now[0] / 8, now[0]))
    return now


def test_contestants_take_turns_on_every_pile(images: torch.Tensor, clock: list[float]) -> None:
    calls = []

    def contestant(name: str, cost: float):
        def run(pile: torch.Tensor, folder: Path) -> torch.Tensor:
            assert torch.equal(read_images(folder), pile), "the files are the tensor"
            calls.append((name, len(pile)))
            clock[0] += cost * len(pile)
            return pixels(pile, folder)

        return run

    piles = [images[:20], images[20:50]]
    seconds, features = compete({"slow": contestant("slow", 4.0), "fast": contestant("fast", 1.0)}, piles, 4)
    assert calls[:2] == [("fast", 4), ("slow", 4)], "the first pass is small"
    # The order turns round, so that neither is always the first after the other.
    assert calls[2:] == [(n, k) for n, k in zip(
        ("slow", "fast", "fast", "slow", "slow", "fast", "fast", "slow"), (20, 20, 30, 30, 20, 20, 30, 30), strict=True
    )]  # fmt: skip
    assert seconds["slow"] == [Seconds(80, 40), Seconds(120, 60)] * 2
    assert [turn.wall for turn in seconds["fast"]] == [20, 30, 20, 30]
    for found in features.values():
        assert [len(f) for f in found] == [20, 30]
    with pytest.raises(UserError, match="repeats = 1: 2 or more"):
        compete({}, piles, 1)


def test_a_job_in_a_process_of_its_own_brings_the_seconds_it_took_there(clock: list[float]) -> None:
    def job(repeat: int) -> Seconds:
        clock[0] += 1.0
        return Seconds(5.0 + repeat, 2.0)

    assert turns.take_turns({"far": job}, 2) == {"far": [Seconds(5, 2), Seconds(6, 2)]}


def test_the_table_holds_ratios_changes_and_gaps(
    images: torch.Tensor, clock: list[float], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = itertools.cycle([2.0, 2.0, 3.0])

    def ours(device: torch.device):
        def run(pile: torch.Tensor, folder: Path) -> torch.Tensor:
            clock[0] += 10.0
            return pixels(pile, folder)

        return run

    def peer(device: torch.device):
        def run(pile: torch.Tensor, folder: Path) -> torch.Tensor:
            clock[0] += 10.0 * next(costs)
            return pixels(pile, folder)

        return run

    def moved(device: torch.device):
        def run(pile: torch.Tensor, folder: Path) -> torch.Tensor:
            clock[0] += 1.0
            return pixels(pile, folder) * 1.1

        return run

    def missing(device: torch.device):
        raise ImportError("No module named 'cleanfid'")

    monkeypatch.setattr(metrics, "_cleanfid", lambda module: Formula)
    monkeypatch.setattr(metrics, "CONTESTANTS", {PEER: peer, OURS: ours, "moved": moved, "absent": missing})
    table = bench_metrics(100, dataset="digits", repeats=4).set_index("method")
    written = pd.read_csv(results / "tables" / "bench_metrics_cpu.csv").set_index("method")
    assert list(written.index) == [PEER, OURS, "moved", "absent"]
    assert table.loc[OURS, "images_per_s"] == 10.0
    # After the warming up the peer's turns cost 2, 3, 2, 2 times ours.
    assert table.loc[OURS, ["ratio", "ratio_low", "ratio_high"]].tolist() == [2, 2, 3]
    assert table.loc[OURS, "cpu_ratio"] == 2
    piles = [Moments.of(pixels(load_images("digits", split)[0][:100], Path())) for split in ("test", "train")]
    assert table.loc[OURS, "fid"] == pytest.approx(frechet_distance(*piles), rel=1e-9)
    assert table.loc[PEER, "fid_change"] == pytest.approx(7 - frechet_distance(*piles), rel=1e-9)
    assert table.loc["moved", "fid_change"] == pytest.approx(0.21 * frechet_distance(*piles), rel=1e-4)
    larger = Moments.of(pixels(load_images("digits", "test")[0][:100], Path()) * 1.1)
    alone = frechet_distance(larger, piles[1]) - frechet_distance(*piles)
    assert table.loc["moved", "fid_change_alone"] == pytest.approx(alone, rel=1e-4)
    assert alone > table.loc["moved", "fid_change"], "the precision of one pile alone moves it more"
    assert table.loc[OURS, "fid_change_alone"] == 0
    assert "cleanfid" in table.loc["absent", "gap"]
    assert pd.isna(table.loc["absent", "images_per_s"])
    assert not table.loc[OURS, "gap"]
    assert (table[["n", "repeats"]] == [100, 4]).all().all()
    assert table[["device", "torch", "clean_fid", "commit"]].notna().all().all()


class Formula:
    """In the place of cleanfid.fid."""

    @staticmethod
    def fid_from_feats(a, b) -> float:
        assert (len(a), len(b)) == (100, 100)
        return 7.0


def test_the_peers_network_stays_on_the_device_that_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a DataParallel, which would take it to the GPUs it sees; on the meta device, so that it shows."""
    weights, given = tmp_path / "weights.pt", {}
    weights.write_bytes(b"")

    class Peer:
        @staticmethod
        def InceptionV3W(folder: str, download: bool) -> torch.nn.Module:
            assert (Path(folder) / "inception-2015-12-05.pt").exists()
            assert not download
            return torch.nn.Linear(1, 1)

        @staticmethod
        def get_folder_features(folder: str, model: torch.nn.Module, **how: object) -> None:
            given.update(how, model=model)

    monkeypatch.setattr(metrics, "_cleanfid", lambda module: Peer)
    monkeypatch.setattr(metrics, "inception_file", lambda: weights)
    metrics._peer_network.__wrapped__("meta")("folder")
    assert type(given["model"]) is torch.nn.Linear
    assert {str(p.device) for p in given["model"].parameters()} == {str(given["device"])} == {"meta"}


def test_without_weights_every_row_is_a_named_gap(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddgan_core.metrics import features

    features._inception.cache_clear()
    monkeypatch.setenv("DDGAN_INCEPTION", str(tmp_path / "nowhere.pt"))
    table = bench_metrics(10, dataset="digits", repeats=2)
    assert len(table) == 4
    assert table["gap"].str.contains("nowhere.pt: no such file").all()
    with pytest.raises(UserError, match="n = 298: choose 2 to 297"):
        bench_metrics(298, dataset="digits")


@needs_inception
@pytest.mark.slow
def test_each_change_to_the_network_computes_the_same(results: Path) -> None:
    table = bench_network(3, repeats=1).set_index("variant")
    in_use = table.index.str.endswith("(in use)")
    assert in_use.sum() == 1
    rounded = table.index.str.contains("bfloat16")
    assert (table["error"][~rounded] < 1e-5).all()
    assert (table["error"][rounded] > 1e-3).all()


@needs_inception
@pytest.mark.slow
def test_what_is_given_below_float32_is_the_same_network() -> None:
    """On a CPU, which knows no TF32; the 11 bits of float16 leave the features within a hundredth, as late rounding."""
    pile, cpu = load_images("digits", "test")[0][:4], torch.device("cpu")
    known = metrics.CONTESTANTS | metrics.ON_A_GPU
    exact = known.pop(OURS)(cpu)(pile, Path())
    known.pop(PEER)
    error = {name: (make(cpu)(pile, Path()) - exact).norm() / exact.norm() for name, make in known.items()}
    assert error["ddgan_core, TF32"] < 1e-5
    assert 1e-5 < error["ddgan_core, float16"] < 1e-2
    assert 1e-5 < error[metrics.LATE_BF16] < error[metrics.BF16] / 4
    layers = metrics.load_extractor("inception").network.late
    maps = torch.zeros(1, 192, 35, 35)
    early = layers[: metrics.FIRST_OF_17](maps)
    assert early.shape[2:] == (35, 35)
    assert layers[metrics.FIRST_OF_17](early).shape[2:] == (17, 17)


def test_workers_are_compared_by_speedup_and_cores(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a run takes 8 s, and four at a time are as fast as two: the machine has two cores."""
    now, folders = [0.0], set()

    def pretended(jobs: list[str], command, at_a_time: int) -> dict[str, int]:
        words = command(jobs[0])
        folders.add(words[1])
        assert words[-2:] == ["--seed", jobs[0]]
        now[0] += 8.0 * len(jobs) / min(at_a_time, 2)
        return dict.fromkeys(jobs, 0)

    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(workers, "local", pretended)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    table = bench_workers(2, workers=(4, 2), repeats=2)  # of four runs: there is work for all
    assert table[["workers", "seconds", "speedup", "efficiency"]].values.tolist() == [
        [1, 32, 1, 1], [4, 16, 2, 1], [2, 16, 2, 1],
    ]  # fmt: skip
    assert (results / "tables" / "bench_workers_cpu.csv").exists()
    assert len(folders) == 3 * 3
    assert not any(Path(word.split("=")[1]).exists() for word in folders)
    monkeypatch.setattr(workers, "local", lambda jobs, command, n: dict.fromkeys(jobs, 2))
    with pytest.raises(UserError, match="1 of 4 runs failed: try .*train --threads 1 --preset smoke"):
        bench_workers(4, repeats=2)


@pytest.mark.slow
def test_workers_really_train(results: Path) -> None:
    table = bench_workers(2, workers=(2,), updates=2, repeats=1)
    assert (table["seconds"] > 0).all()


def test_pngs_are_the_images_in_order(tmp_path: Path) -> None:
    for channels in (1, 3):
        pile = torch.randint(0, 256, (12, channels, 5, 4), dtype=torch.uint8)
        folder = tmp_path / str(channels)
        folder.mkdir()
        write_pngs(pile, folder)
        assert torch.equal(read_images(folder), pile)


def test_mending_torchvision_makes_it_importable() -> None:
    pytest.importorskip("cleanfid")
    mend_torchvision()
    mend_torchvision()
    import torchvision

    assert torchvision.transforms.ToTensor


@needs_inception
@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist"])
def test_fid_is_clean_fids_on_pngs(dataset: str) -> None:
    """The full path, both ways: tensors here, twice 100 PNGs there; both with their own Frechet distance."""
    pytest.importorskip("cleanfid")
    if not (at_hand(dataset, "test") and at_hand(dataset, "train")):
        pytest.skip("no FashionMNIST in DDGAN_DATA")
    table = bench_metrics(100, dataset=dataset, repeats=2).set_index("method")
    assert not table.loc[PEER, "gap"]
    assert abs(table.loc[PEER, "fid_change"]) < 1e-3
