"""Every test runs with the shapes in the signatures checked, on one thread of a CPU, with results in its own folder."""

import os
from collections.abc import Callable
from pathlib import Path

# Before numpy and torch start their thread pools. CPU results depend on the number of threads.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
# By default a GPU is used where there is one; but tests compare bit for bit, and fork, which CUDA does not survive.
_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest  # noqa: E402
import torch  # noqa: E402
from beartype import BeartypeConf, beartype  # noqa: E402

# Importing jaxtyping first turns the annotations of `ddgan_core.shapes` into its types; the hook checks each call.
from jaxtyping import install_import_hook  # noqa: E402

torch.set_num_threads(1)


def check(function: Callable) -> Callable:
    """beartype, with the usual reading of `float`: a whole number is one too (PEP 484)."""
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))


install_import_hook("ddgan_core", "conftest.check")


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder that is thrown away: no test can write beside the committed runs."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setenv("DDGAN_RESULTS", str(folder))
    return folder


@pytest.fixture
def with_gpus() -> dict[str, str]:
    """The environment of a process that is to see the GPUs that are hidden from this one."""
    others = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return others if _GPUS is None else others | {"CUDA_VISIBLE_DEVICES": _GPUS}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, so that a stray file would show; main() sets these variables, so they are restored."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DDGAN_DATA", str(tmp_path / "no-data"))
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def made(results: Path) -> Path:
    """Results with two finished runs, those of `transferred`."""
    from transferred import CONFIGS

    from ddgan_core.study import Study, run

    run(Study("", CONFIGS), progress=False)
    return results
