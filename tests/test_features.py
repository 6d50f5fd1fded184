"""Extractors keep their contract, and agree with the definitions they claim."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ddgan_core import UserError
from ddgan_core.data import at_hand, load_images
from ddgan_core.metrics import features
from ddgan_core.metrics.features import (
    EXTRACTORS,
    Extractor,
    classify,
    inception_file,
    inception_layers,
    load_extractor,
)
from ddgan_core.metrics.inception import bicubic_matrix, clean_resize
from ddgan_core.networks import Classifier
from ddgan_core.packing import read_tensors
from ddgan_core.training import train_classifier

needs_inception = pytest.mark.skipif(
    not Path(os.environ.get("DDGAN_INCEPTION", "")).is_file(), reason="DDGAN_INCEPTION names no Inception weights"
)
needs_fashion = pytest.mark.skipif(not at_hand("fashion_mnist", "test"), reason="no FashionMNIST in DDGAN_DATA")


def grey(n: int, side: int = 28, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("name", "d"), [("fashion_classifier", 128), ("pixels", 784)])
def test_features_are_float32_rows_that_do_not_depend_on_the_batch(name: str, d: int) -> None:
    extractor, images = load_extractor(name), grey(1003)
    found = extractor(images)
    assert found.shape == (1003, d)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[998:], extractor(images[998:]), rtol=1e-4, atol=1e-5)
    assert len(extractor.hash) == 12
    assert load_extractor(name) is extractor


def test_pixels_are_the_pixels_over_255() -> None:
    images = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).view(1, 1, 2, 2)
    torch.testing.assert_close(load_extractor("pixels")(images), torch.tensor([[0.0, 0.2, 1.0, 0.4]]))


@pytest.mark.parametrize("name", ["fashion_classifier", "pixels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_anything_but_uint8_is_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(UserError, match="take uint8"):
        load_extractor(name)(grey(2).to(dtype))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (grey(2, channels=3), "3 channels"), (grey(2, side=32), "32x32"), (grey(2)[..., :20], "28x20"),
        (grey(2)[0], "shape"), (grey(2)[:0], "shape"),
    ],
)  # fmt: skip
def test_images_the_classifier_was_not_made_for_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_extractor("fashion_classifier")(images)


def test_a_damaged_classifier_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole = tmp_path / "classifier.safetensors.xz", features.CLASSIFIER_FILE.read_bytes()
    monkeypatch.setattr(features, "CLASSIFIER_FILE", path)
    for content in (whole[:-9], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="classifier.safetensors.xz is damaged"):
            features.load_classifier.__wrapped__(torch.device("cpu"))


def test_an_unknown_extractor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=", ".join(EXTRACTORS)):
        load_extractor("vgg")


@needs_fashion
def test_the_shipped_classifier_is_as_accurate_as_its_file_says() -> None:
    images, labels = load_images("fashion_mnist", "test")
    probabilities = classify(images[:2000])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2000))
    accuracy = (probabilities.argmax(1) == labels[:2000]).float().mean().item()
    # Three standard errors of 2,000 images.
    assert accuracy == pytest.approx(float(read_tensors(features.CLASSIFIER_FILE)[1]["test_accuracy"]), abs=0.017)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (32, 32), (28, 20)])
def test_the_resize_is_clean_fids(height: int, width: int) -> None:
    resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    images = grey(2, height, channels=3)[..., :width]
    ours = clean_resize(images)
    theirs = np.stack([resize(image) for image in images.permute(0, 2, 3, 1).numpy()])
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=2e-4)
    assert ours.min() >= 0
    assert ours.max() <= 255


def test_the_resize_is_no_part_of_a_networks_precision() -> None:
    exact = clean_resize(grey(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(clean_resize(grey(2)), exact)


def test_resizing_keeps_a_constant_image() -> None:
    torch.testing.assert_close(bicubic_matrix(28).sum(1), torch.ones(299), rtol=0, atol=1e-5)
    torch.testing.assert_close(bicubic_matrix(299), torch.eye(299))


@needs_inception
def test_inception_features_are_the_scripts() -> None:
    """Folding batch norm and changing the memory layout leave the features as they are, for grey as for colour."""
    images = grey(2)
    layers = torch.jit.load(inception_file(), map_location="cpu").eval().layers
    with torch.inference_mode():
        expected = layers((clean_resize(images).expand(-1, 3, -1, -1) - 128) / 128).flatten(1)
    extractor = load_extractor("inception")
    found = extractor(images)
    assert found.shape == (2, 2048)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    colour = grey(2, channels=3)
    with torch.inference_mode():
        expected = layers((clean_resize(colour) - 128) / 128).flatten(1)
    assert float((extractor(colour) - expected).norm() / expected.norm()) < 1e-5
    with pytest.raises(UserError, match="take uint8"):
        extractor(images.float())
    with pytest.raises(UserError, match="2 channels"):
        extractor(grey(1, channels=2))


def test_missing_inception_weights_end_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_INCEPTION", str(tmp_path / "nowhere.pt"))
    with pytest.raises(UserError, match="nowhere.pt: no such file"):
        inception_file()

    def offline(url: str, path: str) -> None:
        raise OSError("no network")

    monkeypatch.delenv("DDGAN_INCEPTION")
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match="could not be downloaded \\(no network\\)") as caught:
        inception_file()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_other_weights_of_that_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(Other()).save(str(path))
    monkeypatch.setenv("DDGAN_INCEPTION", str(path))
    with pytest.raises(UserError, match="other weights .hash .* than inception-2015-12-05.pt"):
        inception_layers()


def test_cudnn_is_left_on_and_tf32_off() -> None:
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
        return x.flatten(1).float()

    Extractor("seen", "0" * 12, network, torch.device("cpu"), 2)(grey(3, side=4))
    assert seen == [(True, False)] * 2


def test_the_classifier_sees_every_image_in_each_epoch_and_descends_each_batch_alone() -> None:
    seen = []

    class Watched(Classifier):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(x)
            return super().forward(x)

    torch.manual_seed(0)
    network, labels = Watched(1, (8,), 2), torch.arange(16) % 2
    images = (16 * torch.arange(16)).byte().view(16, 1, 1, 1).expand(-1, 1, 8, 8)
    list(train_classifier(network, images, labels, epochs=2, batch_size=4, lr=0.0))
    order = [((x[:, 0, 0, 0] + 1) * 127.5 / 16).round().long() for x in seen]
    epochs = [torch.cat(order[k : k + 4]).tolist() for k in (0, 4)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(16))
    assert epochs[0] != epochs[1]
    network.train()
    loss = torch.nn.functional.cross_entropy(network(seen[-1])[1], labels[order[-1]])
    parameters = list(network.parameters())  # which a rate of 0 has left as they were
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(p.grad, gradient)
