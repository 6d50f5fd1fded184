"""What is here, what is missing, and what to do about it: the command `doctor`."""

import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from ddgan_core import UserError, __version__, data, evaluation, features, runs

PACKAGES = ("torchvision", "numpy", "pandas", "scipy", "scikit-learn", "clean-fid", "papermill", "jupyterlab")


def examine() -> dict[str, tuple[bool, str]]:
    """{thing: (there and whole, what it is or what to do)}; reads and verifies files, downloads nothing."""
    cuda = torch.cuda.is_available()
    return {
        "ddgan_core": (True, f"{__version__}, commit {evaluation.code_version()}"),
        "Python": (True, f"{platform.python_version()}, {platform.platform()}"),
        "PyTorch": (True, torch.__version__),
        "packages": _attempt(_packages),
        "device": (
            True,
            torch.cuda.get_device_name() if cuda else "CPU; every preset but full is made for it",
        ),
        "threads": (True, f"{torch.get_num_threads()} of {os.cpu_count()} cores (--threads, or OMP_NUM_THREADS)"),
        "FashionMNIST": _attempt(_fashion_mnist),
        "CIFAR-10": (True, _cifar10()),
        "digits": _attempt(lambda: f"{len(data.load_images('digits')[0]):,} training images, embedded"),
        "FashionMNIST classifier": _attempt(lambda: f"hash {features.load_extractor('fashion_classifier').hash}"),
        "Inception weights": _attempt(_inception),
        "trained weights": _attempt(_weights),
        "disk": _attempt(_disk),
    }


def _attempt(check: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, check()
    except (UserError, ImportError, OSError) as error:
        return False, str(error)


def _packages() -> str:
    try:
        return ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    except PackageNotFoundError as missing:
        raise UserError(f"{missing.name} is missing: pip install -c constraints.txt -e .") from None


def _fashion_mnist() -> str:
    raw = data.data_dir() / "FashionMNIST" / "raw"
    if len(list(raw.glob("*-ubyte.gz"))) < 4:
        raise UserError(
            f"not in {raw.resolve()}: downloaded when first needed; or point DDGAN_DATA (or --data-dir) at a copy; "
            "or use --dataset digits"
        )
    train, test = (len(data.load_images("fashion_mnist", split)[0]) for split in ("train", "test"))
    return f"{train:,} + {test:,} images, checksums verified, in {raw}"


def _cifar10() -> str:
    archive = data.data_dir() / "cifar-10-binary.tar.gz"
    return str(archive) if archive.exists() else "not here; only --dataset cifar10 needs it, and downloads it"


def _inception() -> str:
    if "DDGAN_INCEPTION" not in os.environ and not (features.cache_dir() / features.INCEPTION_FILE).exists():
        raise UserError(
            "not here: downloaded when --features inception first needs them; or name them in DDGAN_INCEPTION"
        )
    return str(features.inception_file())


def _weights() -> str:
    held = [run for run in runs.all_runs() if run.weights is not None]
    if not held:
        raise UserError(
            f"none under {runs.results_dir()}: restore results/checkpoints, or train a run: python -m ddgan_core train"
        )
    for run in held:
        evaluation.load_model(run)
    return f"{len(held)} runs can be sampled: {', '.join(run.config.run_id for run in held)}"


def _disk() -> str:
    results = runs.results_dir().resolve()
    place = next(p for p in (results, *results.parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free < 1:
        raise UserError(f"{free:.1f} GB free at {place}: free some, or set DDGAN_RESULTS to a folder elsewhere")
    return f"{free:.0f} GB free at {place}"
