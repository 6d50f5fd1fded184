"""What is here, what is missing for what, why it is slow, and what to do about it: the command `doctor`."""

import os
import platform
import shutil
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from ddgan_core import UserError, __version__, data, runs
from ddgan_core.checkpoints import trained_here
from ddgan_core.evaluation.samples import load_model
from ddgan_core.metrics import features
from ddgan_core.provenance import code_version, device_name, usable_cores
from ddgan_core.runner import default_device, emulates_bfloat16
from ddgan_core.tables import read_table

PACKAGES = ("torchvision", "numpy", "pandas", "scipy", "scikit-learn", "clean-fid", "papermill", "jupyterlab")


def examine() -> dict[str, tuple[bool, str]]:
    """{thing: (there and whole, what it is or what to do)}; reads and verifies files, downloads nothing."""
    return {
        "ddgan_core": (True, f"{__version__}, commit {code_version()}"),
        "Python": (True, f"{platform.python_version()}, {platform.platform()}"),
        "PyTorch": (True, torch.__version__),
        "packages": _attempt(_packages),
        "device": _attempt(_device),
        "threads": (True, _threads()),
        "load": _attempt(_load),
        "bfloat16": (True, _bfloat16()),
        "time of a run": _attempt(_time),
        "FashionMNIST": _attempt(_fashion_mnist),
        "CIFAR-10": (True, _cifar10()),
        "digits": _attempt(lambda: f"{len(data.load_images('digits')[0]):,} training images, embedded"),
        "FashionMNIST classifier": _attempt(lambda: f"hash {features.load_extractor('fashion_classifier').hash}"),
        "Inception weights": _attempt(_inception),
        "results": _attempt(_results),
        "trained weights": _attempt(_weights),
        "disk": _attempt(_disk),
    }


def _attempt(check: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, check()
    except (UserError, ImportError, OSError, ValueError) as error:
        return False, str(error)


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}: presets cpu and full"
    if shutil.which("nvidia-smi"):
        raise UserError(f"a GPU is here, but PyTorch {torch.__version__} cannot use it: install its CUDA build")
    return "CPU: presets smoke (seconds), short (minutes a run) and cpu (hours) are made for it; full is for a GPU"


def _threads() -> str:
    used, cores = torch.get_num_threads(), usable_cores()
    idle = "; the rest is free for other runs" if used < cores else ""
    more = "; more threads than cores slow each other down" if used > cores else ""
    return f"{used} of {cores} cores{idle}{more} (--threads, or OMP_NUM_THREADS)"


def _load() -> str:
    wanted, cores = os.getloadavg()[0], usable_cores()
    if wanted > 1.5 * cores:
        raise UserError(f"{wanted:.1f} processes want {cores} cores: all take {wanted / cores:.1f} times as long")
    return f"{wanted:.1f} processes want {cores} cores"


def _bfloat16() -> str:
    """What runs of precision bf16 would meet."""
    if emulates_bfloat16(default_device()):
        return "emulated: runs with bf16 in their ids take some ten times as long as in fp32, as presets are"
    return "computed by PyTorch's fast kernels: `bench training` says what it gains; presets are fp32"


def _time() -> str:
    """By this machine's own runs on its device, and the tables of `bench` that name a device like it."""
    here = device_name(default_device())
    minutes: dict[str, list[float]] = {}
    for run in runs.all_runs(damaged=True):
        if trained_here(run) and run.status["state"] == "done" and run.status.get("device") == here:
            minutes.setdefault(f"{run.config.preset} {run.config.method}", []).append(run.status.get("seconds", 0) / 60)
    took = [f"{name} {statistics.median(each):.0f} minutes" for name, each in minutes.items()]
    tables = sorted((runs.results_dir() / "tables").glob("bench_*.csv"))
    done = [p.stem for p in tables if here in set(read_table(p).get("device", ()))]
    own = f"on {here}: {', '.join(took)}" if took else f"no run was trained here, on {here}, yet"
    if not done:
        return f"{own}; not measured: python -m ddgan_core bench training"
    return f"{own}; bench tables of such a device, which are committed, perhaps from another machine: {', '.join(done)}"


def _results() -> str:
    found = runs.all_runs(damaged=True)
    done = sum(run.status["state"] == "done" for run in found)
    missing = "" if done else "; notebooks show what they derive, and `not run yet` for the rest"
    return f"{done} finished runs of {len(found)} in {runs.results_dir()} (DDGAN_RESULTS){missing}"


def _packages() -> str:
    try:
        return ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    except PackageNotFoundError as missing:
        raise UserError(f"{missing.name} is missing: pip install -c constraints.txt -e .") from None


def _fashion_mnist() -> str:
    raw = data.data_dir() / "FashionMNIST" / "raw"
    if not (data.at_hand("fashion_mnist", "train") and data.at_hand("fashion_mnist", "test")):
        raise UserError(
            f"not in {raw.resolve()}, for training and scores: downloaded when first needed; or point DDGAN_DATA (or "
            "--data-dir) at a copy; or use --dataset digits"
        )
    train, test = (len(data.load_images("fashion_mnist", split)[0]) for split in ("train", "test"))
    return f"{train:,} + {test:,} images, checksums verified, in {raw}"


def _cifar10() -> str:
    here = data.at_hand("cifar10", "train")
    return f"in {data.data_dir()}" if here else "not here; only --dataset cifar10 needs it, and downloads it"


def _inception() -> str:
    if not os.environ.get("DDGAN_INCEPTION") and not (features.cache_dir() / features.INCEPTION_FILE).exists():
        raise UserError(
            "not here, for FID: downloaded when --features inception first needs them; or name them in DDGAN_INCEPTION"
        )
    return str(features.inception_file())


def _weights() -> str:
    held = [run for run in runs.all_runs(damaged=True) if run.weights is not None]
    if not held:
        raise UserError(
            f"none under {runs.results_dir()}, for samples and notebook 00: restore results/checkpoints, or train a "
            "run: python -m ddgan_core train"
        )
    for run in held:
        load_model(run)
    return f"{len(held)} runs can be sampled: {', '.join(run.config.run_id for run in held)}"


def _disk() -> str:
    results = runs.results_dir().resolve()
    place = next(p for p in (results, *results.parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free < 1:
        raise UserError(f"{free:.1f} GB free at {place}: free some, or set DDGAN_RESULTS to a folder elsewhere")
    return f"{free:.0f} GB free at {place}"
