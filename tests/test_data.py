"""Image sets: exact crossings between uint8 and floats, verified files, one clear line for what is missing."""

import gzip
import hashlib
import io
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch

from ddgan_core import UserError, data
from ddgan_core.data import at_hand, data_hash, draw_batch, get_dataset, load_images, read_images, to_float, to_uint8


def fake_fashion(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, Path]:
    """Twelve training images and labels in the published layout, with their sums in place of the published ones."""
    monkeypatch.setenv("DDGAN_DATA", str(root))
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    content = {
        "train-images-idx3-ubyte.gz": gzip.compress(bytes(16) + images.tobytes()),
        "train-labels-idx1-ubyte.gz": gzip.compress(bytes(8) + bytes(range(12))),
    }
    for name, packed in content.items():
        (folder / name).write_bytes(packed)
    sums = tuple((name, hashlib.md5(packed).hexdigest()) for name, packed in content.items())
    monkeypatch.setattr(data, "_FASHION_FILES", {"train": sums})
    return images, folder / "train-images-idx3-ubyte.gz"


def no_network(*args: object, **options: object) -> None:
    raise urllib.error.URLError("Name or service not known")


def test_the_round_trip_is_exact_for_all_values() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(images)), images)
    assert to_float(images).min() == -1
    assert to_float(images).max() == 1


def test_floats_outside_the_range_are_clamped_never_wrapped() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 5)
    assert to_uint8(x).flatten().tolist() == [0, 0, 128, 255, 255]


def test_half_precision_samples_are_quantised_like_floats() -> None:
    x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    assert (to_uint8(x.bfloat16()).int() - to_uint8(x).int()).abs().max() <= 1


def test_digits_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    images, labels = load_images("digits")
    test_images, test_labels = load_images("digits", "test")
    assert images.shape == (1500, 1, 8, 8)
    assert test_images.shape == (297, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert images.unique().tolist() == [round(k * 255 / 16) for k in range(17)]
    assert labels.unique().tolist() == list(range(10)) == test_labels.unique().tolist()
    assert data_hash(images) != data_hash(test_images)
    assert len(data_hash(images)) == 12


def test_the_data_folder_does_not_depend_on_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DDGAN_DATA", raising=False)
    here = data.data_dir()
    monkeypatch.chdir(tmp_path)  # as a notebook stands in its own folder
    assert data.data_dir() == here == Path(data.__file__).parent.parent / "data"
    monkeypatch.setenv("DDGAN_DATA", "elsewhere")
    assert data.data_dir() == Path("elsewhere")


def test_fashion_mnist_is_read_in_its_published_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, _ = fake_fashion(tmp_path, monkeypatch)
    images, labels = load_images("fashion_mnist")
    assert np.array_equal(images.numpy(), written[:, None])
    assert labels.tolist() == list(range(12))


@pytest.mark.parametrize("damage", ["truncated", "corrupted", "empty"])
def test_a_damaged_file_is_named_with_its_sums(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = fake_fashion(tmp_path, monkeypatch)
    content = path.read_bytes()
    flipped = bytes([content[1000] ^ 1])
    bad = {"truncated": content[:5000], "corrupted": content[:1000] + flipped + content[1001:], "empty": b""}[damage]
    path.write_bytes(bad)
    with pytest.raises(UserError) as error:
        load_images("fashion_mnist")
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert "Delete it" in message
    assert hashlib.md5(bad).hexdigest() in message
    assert hashlib.md5(content).hexdigest() in message
    assert f"{len(bad):,} bytes" in message
    assert path.read_bytes() == bad  # nothing is overwritten


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_missing_and_offline_names_three_ways_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setenv("DDGAN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError) as error:
        load_images(name)
    message = str(error.value)
    assert "\n" not in message
    assert "Name or service not known" in message
    for way in ("network", "DDGAN_DATA", "--data-dir", "--dataset digits"):
        assert way in message
    assert not (tmp_path / "nowhere").exists()


def test_a_download_is_verified_and_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, path = fake_fashion(tmp_path / "served", monkeypatch)
    served = path.parent

    def download(url: str, target: str) -> None:
        Path(target).write_bytes((served / url.rpartition("/")[2]).read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("DDGAN_DATA", str(tmp_path / "new"))
    images, _ = load_images("fashion_mnist")
    assert np.array_equal(images[:, 0].numpy(), written)
    assert sorted(p.name for p in (tmp_path / "new" / "FashionMNIST" / "raw").iterdir()) == sorted(
        p.name for p in served.iterdir()
    )


def test_a_split_is_at_hand_only_where_its_own_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fetches two of four files: reading a report must not fetch the others."""
    monkeypatch.setenv("DDGAN_DATA", str(tmp_path))
    assert at_hand("digits", "test")
    assert not at_hand("fashion_mnist", "train")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").touch()
    assert not at_hand("fashion_mnist", "train"), "its labels are missing"
    (raw / "train-labels-idx1-ubyte.gz").touch()
    assert at_hand("fashion_mnist", "train")
    assert not at_hand("fashion_mnist", "test")
    assert not at_hand("cifar10", "test")
    (tmp_path / "cifar-10-binary.tar.gz").touch()
    assert at_hand("cifar10", "test")


def test_cifar10_comes_by_the_same_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = np.random.default_rng(0).integers(0, 256, (4, 3073), dtype=np.uint8)
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.size = records.size
        archive.addfile(member, io.BytesIO(records.tobytes()))
    monkeypatch.setattr(data, "_CIFAR_FILE", (path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setenv("DDGAN_DATA", str(tmp_path))
    images, labels = load_images("cifar10", "test")
    assert images.shape == (4, 3, 32, 32)
    assert labels.tolist() == records[:, 0].tolist()
    assert images[2, 1, 0, 5].item() == records[2, 1 + 1024 + 5]  # channel by channel, row by row


def test_cifar10_is_trained_on_in_five_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for k in (3, 1, 5, 2, 4):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/data_batch_{k}.bin")
            member.size = 3073
            archive.addfile(member, io.BytesIO(bytes([k]) * 3073))
    monkeypatch.setattr(data, "_CIFAR_FILE", (path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setenv("DDGAN_DATA", str(tmp_path))
    images, labels = load_images("cifar10", "train")
    assert labels.tolist() == images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'mnist'.*fashion_mnist, cifar10, digits"):
        get_dataset("mnist")
    with pytest.raises(UserError, match="'valid'.*train or test"):
        load_images("digits", "valid")


def test_batches_are_drawn_from_the_generator_alone() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    a, b = (draw_batch(images, 4000, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (4000, 1, 1, 1)
    assert a.dtype == torch.float32
    assert a.mean().item() == pytest.approx(0, abs=0.05)
    assert len(a.unique()) == 256


def png(path, pixels, mode=None) -> None:
    from PIL import Image

    Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode).save(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_pngs_and_a_npy_are_the_same_pile(tmp_path, channels):
    images = torch.randint(0, 256, (3, channels, 5, 4), dtype=torch.uint8)
    for i, image in enumerate(images):
        png(tmp_path / f"{i}.png", image[0] if channels == 1 else image.permute(1, 2, 0))
    np.save(tmp_path / "pile.npy", images.numpy())
    assert torch.equal(read_images(tmp_path), images)
    assert torch.equal(read_images(tmp_path / "pile.npy"), images)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 1, 4, 4), np.nan), "float64"),
        (np.zeros((2, 1, 4, 4), np.float32), "float32"),
        (np.full((2, 1, 4, 4), 300), "int64"),
        (np.zeros((2, 4, 4), np.uint8), r"shape \(2, 4, 4\)"),
        (np.zeros((2, 2, 4, 4), np.uint8), "c = 1 or 3"),
        (np.zeros((0, 1, 4, 4), np.uint8), "shape"),
        (np.array(["no", None]), "not a whole .npy file"),
    ],
)
def test_a_npy_of_anything_but_uint8_images_is_refused(tmp_path, array, message):
    np.save(tmp_path / "pile.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        read_images(tmp_path / "pile.npy")


def test_folders_that_are_no_pile_are_refused(tmp_path, monkeypatch):
    from PIL import Image

    with pytest.raises(UserError, match="holds no .png files"):
        read_images(tmp_path)
    png(tmp_path / "a.png", np.zeros((4, 4)))
    png(tmp_path / "b.png", np.zeros((4, 5)))
    with pytest.raises(UserError, match="b.png is of shape"):
        read_images(tmp_path)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(UserError, match="b.png is not a whole PNG"):
        read_images(tmp_path)
    png(tmp_path / "b.png", np.zeros((4, 4, 4)))
    with pytest.raises(UserError, match="b.png is of mode RGBA"):
        read_images(tmp_path)
    with Image.open(tmp_path / "a.png") as image:
        image.save(tmp_path / "b.png", format="JPEG")
    with pytest.raises(UserError, match="b.png is not a whole PNG"):
        read_images(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)  # PIL refuses more than twice as many
    with pytest.raises(UserError, match="a.png is not a whole PNG .*exceeds limit"):
        read_images(tmp_path)
    with pytest.raises(UserError, match="give a folder of .png files or a .npy"):
        read_images(tmp_path / "a.png")


def test_an_archive_of_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros((2, 1, 4, 4), np.uint8))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(UserError, match="x.npy is not a whole .npy file .it is a .npz"):
        read_images(tmp_path / "x.npy")
