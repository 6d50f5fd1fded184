"""Reference statistics are found by content, survive damage and stops, and lose nothing that matters when shipped."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddgan_core import UserError
from ddgan_core.data import at_hand, data_hash, load_images
from ddgan_core.evaluation import reference
from ddgan_core.evaluation.reference import (
    BITS,
    extract,
    feature_chunks,
    pack_moments,
    reference_features,
    reference_moments,
    ship_moments,
    shipped_moments,
    unpack_moments,
)
from ddgan_core.metrics.distances import Moments, frechet_distance
from ddgan_core.metrics.features import Extractor, load_extractor
from ddgan_core.packing import PACKED, read_tensors

needs_fashion = pytest.mark.skipif(not at_hand("fashion_mnist", "test"), reason="no FashionMNIST in DDGAN_DATA")
needs_weights = pytest.mark.skipif(
    not Path(os.environ.get("DDGAN_INCEPTION", "")).is_file(), reason="DDGAN_INCEPTION names no Inception weights"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images() -> torch.Tensor:
    return load_images("digits", "train")[0]


def counting(seen: list[int]) -> Extractor:
    """Pixels, noting how many images each call computes."""
    pixels = load_extractor("pixels")

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return pixels.network(images)

    return Extractor("counted", "0" * 12, network, pixels.device, 1000)


def test_features_are_computed_once_and_go_on_after_a_stop(images: torch.Tensor) -> None:
    seen: list[int] = []
    extractor = counting(seen)
    next(feature_chunks(images, extractor))  # and stopped there
    assert seen == [500]
    assert extract(images, extractor, minutes=1e-9) == (500, 1500)
    assert seen == [500], "the chunk that was there is read"
    assert extract(images, extractor) == (1500, 1500)
    assert seen == [500, 500, 500]
    assert torch.equal(reference_features(images, extractor), load_extractor("pixels")(images))
    assert sum(seen) == 1500
    reference_features(images, replace(extractor, hash="1" * 12))
    assert sum(seen) == 3000, "another network of that name"


def test_a_damaged_chunk_is_made_again(images: torch.Tensor, cache: Path) -> None:
    seen: list[int] = []
    extractor = counting(seen)
    first = reference_features(images, extractor)
    paths = sorted(cache.rglob("*.npy"))
    paths[0].write_bytes(paths[0].read_bytes()[:200])
    paths[1].write_bytes(b"")
    assert torch.equal(reference_features(images, extractor), first)
    assert sum(seen) == 2500


def test_moments_are_kept_and_a_damaged_file_is_made_again(images: torch.Tensor, cache: Path) -> None:
    pixels = load_extractor("pixels")
    first = reference_moments("digits", "train", images, pixels)
    (path,) = (cache / "moments").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    again = reference_moments("digits", "train", images, pixels)
    kept = reference_moments("digits", "train", images, pixels)
    for other in (again, kept):
        assert torch.equal(first.mean, other.mean)
        assert torch.equal(first.covariance, other.covariance)


def test_what_other_code_computed_is_computed_again(
    images: torch.Tensor, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash of the network's tensors does not tell how they are used. What is shipped stands."""
    seen: list[int] = []
    extractor = counting(seen)
    reference_moments("digits", "train", images, extractor)
    monkeypatch.setitem(reference.SOURCES, "moments", "changed")
    reference_moments("digits", "train", images, extractor)
    assert len(list((cache / "moments").iterdir())) == 2
    assert sum(seen) == 1500, "of the same features"
    monkeypatch.setitem(reference.SOURCES, "features", "changed")
    reference_features(images, extractor)
    assert sum(seen) == 3000
    monkeypatch.setattr(reference, "SHIPPED", tmp_path)
    ship_moments("digits", "train", images, extractor, tmp_path)
    monkeypatch.setitem(reference.SOURCES, "features", "changed again")
    reference_moments("digits", "train", images, extractor)
    assert sum(seen) == 3000


def test_moments_that_are_asked_for_by_name_are_of_one_file(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "SHIPPED", tmp_path)
    assert shipped_moments("digits", "train", "pixels") is None
    pixels = load_extractor("pixels")
    ship_moments("digits", "train", images, pixels, tmp_path)
    found = shipped_moments("digits", "train", "pixels")
    torch.testing.assert_close(found.mean, Moments.of(pixels(images)).mean, rtol=1e-12, atol=0)
    ship_moments("digits", "train", images[:-1], pixels, tmp_path)
    with pytest.raises(UserError, match="has 2 files of pixels of digits, train images: keep one"):
        shipped_moments("digits", "train", "pixels")


def test_shipped_moments_come_first_and_are_known_by_content(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "SHIPPED", tmp_path)
    pixels, seen = load_extractor("pixels"), []
    path = ship_moments("digits", "train", images, pixels, tmp_path)
    expected = Moments.of(pixels(images))
    with monkeypatch.context() as patch:
        patch.setattr(reference, "feature_chunks", lambda *_: pytest.fail("computed what is shipped"))
        found = reference_moments("digits", "train", images, pixels)
    assert found.n == 1500
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-12, atol=1e-15)
    # One pixel, one image fewer, another network: not what the file holds.
    other = images.clone()
    other[0, 0, 0, 0] += 1
    assert reference_moments("digits", "train", other, pixels).n == 1500
    assert reference_moments("digits", "train", images[:-1], pixels).n == 1499
    reference_moments("digits", "train", images, counting(seen))
    assert sum(seen) == 1500
    # What was put under a name that is not its own, or is not whole, is refused in one line.
    moved = tmp_path / path.name.replace("-1500-", "-1499-").replace(data_hash(images), data_hash(images[:-1]))
    moved.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="holds the statistics of digits-train-1500-"):
        reference_moments("digits", "train", images[:-1], pixels)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="is damaged .*delete it"):
        reference_moments("digits", "train", images, pixels)


def with_spectrum(d: int, seed: int, n: int) -> Moments:
    """Gaussian moments whose eigenvalues fall as Inception's do: four decades, most of them tiny."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, d + 1, dtype=torch.float64) ** -1.3
    base, _ = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * spectrum.sqrt()
    return Moments.of((x @ base + 0.4 + 0.01 * seed).float())


@pytest.mark.parametrize("d", [pytest.param(reference.EXACT + 8), pytest.param(2048, marks=pytest.mark.slow)])
def test_fifteen_bits_of_the_root_do_not_move_the_distance(d: int) -> None:
    """By less than 1e-4, within the bound in `pack_moments`; as many bits of the covariance itself do worse."""
    real, fake = with_spectrum(d, 0, 2 * d), with_spectrum(d, 3, d)
    packed = pack_moments(real)
    assert packed["upper"].dtype == torch.int16
    shipped = unpack_moments(packed)
    assert shipped.n == real.n
    itself = frechet_distance(shipped, real)
    step = float(packed["scale"])
    assert itself < d * d * step * step / 4 + 1e-6
    moved = abs(frechet_distance(fake, shipped) - frechet_distance(fake, real))
    assert moved < 1e-4
    scale = real.covariance.abs().max() / (2 ** (BITS - 1) - 1)
    naive = Moments(real.n, real.mean, (real.covariance / scale).round() * scale * (real.n - 1))
    assert abs(frechet_distance(fake, naive) - frechet_distance(fake, real)) > 10 * moved


def root_of(packed: dict[str, torch.Tensor]) -> torch.Tensor:
    rows, columns = torch.triu_indices(2048, 2048, 1)
    upper = torch.zeros(2048, 2048, dtype=torch.float64)
    upper[rows, columns] = packed["upper"].double() * packed["scale"].double()
    return upper + upper.T + packed["diagonal"].double().diag()


def test_inceptions_moments_as_shipped_are_within_3e_4_of_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bound in `pack_moments`. For exact ones: the mean of both splits' roots, on neither's grid."""
    paths = reference.SHIPPED.glob(f"fashion_mnist-*-inception-*{PACKED}")
    train, test = (root_of(read_tensors(path)[0]) for path in paths)
    root = (train + test) / 2
    monkeypatch.setattr(Moments, "root", root)  # known: eigenvalues of this many features take long
    packed = pack_moments(Moments(2, torch.zeros(2048, dtype=torch.float64), root @ root))
    assert float((root_of(packed) - root).square().sum()) < 3e-4


def test_statistics_are_shipped() -> None:
    """The classifier's, both splits (training it anew calls for `calibrate --reference`); Inception's, test images."""
    extractor = load_extractor("fashion_classifier")
    for split, n, known in (
        ("train", 60_000, f"{extractor.name}-{extractor.hash}"),
        ("test", 10_000, f"{extractor.name}-{extractor.hash}"),
        ("test", 10_000, "inception-*"),
    ):
        assert len(list(reference.SHIPPED.glob(f"fashion_mnist-{split}-{n}-*-{known}{PACKED}"))) == 1
    sizes = [path.stat().st_size for path in reference.SHIPPED.glob(f"fashion_mnist-*{PACKED}")]
    assert sum(sizes) < 10e6


@needs_fashion
@pytest.mark.parametrize(
    ("name", "every"),
    [("fashion_classifier", 20), pytest.param("inception", 50, marks=[pytest.mark.slow, needs_weights])],
)
def test_what_is_shipped_is_what_the_network_gives(name: str, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the images by themselves: their mean strays from the shipped one as far as so many images' should."""
    extractor, pile = load_extractor(name), load_images("fashion_mnist", "test")[0]
    monkeypatch.setattr(reference, "feature_chunks", lambda *_: pytest.fail("computed what is shipped"))
    shipped, some = reference_moments("fashion_mnist", "test", pile, extractor), extractor(pile[::every]).double()
    assert shipped.n == len(pile)
    spread = shipped.covariance.diagonal().sqrt()
    z = (some.mean(0) - shipped.mean) / spread * len(some) ** 0.5
    assert 0.3 < float(z.square().mean()) < 3
    assert float(some.std(0).sum() / spread.sum()) == pytest.approx(1, abs=0.1)
