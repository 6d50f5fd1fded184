"""One truth for dependencies: pyproject.toml; the pins, the conda environment and the Makefile agree with it."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS["dev"]]  # what `make` installs
ON_REQUEST = [Requirement(line) for name, lines in EXTRAS.items() if name != "dev" for line in lines]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "exact pins only, without local labels"
    return {canonicalize_name(name): pinned for name, _, pinned in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_pin_is_allowed_and_installed(requirement, pins):
    pinned = pins[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned)
    assert requirement.specifier.contains(version(requirement.name).partition("+")[0])


@pytest.mark.parametrize("requirement", ON_REQUEST, ids=lambda r: r.name)
def test_what_is_installed_on_request_is_pinned_too(requirement, pins):
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_the_scores_need_an_older_scipy():
    """clean-fid 0.1.35 calls sqrtm(disp=...), which SciPy 1.18 no longer has."""
    scipy = next(r for r in REQUIREMENTS if r.name == "scipy")
    assert not scipy.specifier.contains("1.18.0")


def test_environment_yml_installs_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"], "PyTorch's own channel is discontinued"
    python, pip, from_pip = environment["dependencies"]
    assert pip == "pip"
    name, _, wanted = python.partition("=")
    assert (name, Requirement(f"python{PROJECT['requires-python']}").specifier.contains(wanted)) == ("python", True)
    constraints, editable = from_pip["pip"]
    assert constraints == "-c constraints.txt"
    assert editable == "-e .[dev]", "as the Makefile does"


def test_workflow_runs_the_supported_pythons():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert any(step.get("run") == "make test" for step in job["steps"])


def test_every_folder_of_the_package_is_packed():
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "ddgan_core").rglob("__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == folders


def test_package_data_is_there():
    for pattern in PYPROJECT["tool"]["setuptools"]["package-data"]["ddgan_core"]:
        assert list((ROOT / "ddgan_core").glob(pattern)), pattern


def printed_by_make(*arguments):
    """What `make -n` would do, also where the tests themselves were started by make."""
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PRESET", "COMPUTE", "VENV")
    env = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("target", ["report", "test", "test-long", "lab", "study", "lint"])
def test_make_target_builds_the_environment_first(target, tmp_path):
    """Without .venv each target installs; `make -n` shows what would be done."""
    printed = printed_by_make(target, f"VENV={tmp_path}/venv")
    install = printed.index("-c constraints.txt -e '.[dev]'")
    assert printed.index(f"-m venv {tmp_path}/venv") < install
    assert printed.rindex(f"{tmp_path}/venv/bin/") > install


def test_make_report_passes_its_parameters(tmp_path):
    (tmp_path / "bin").mkdir()
    for given, expected in {
        "": "--preset cpu",
        "COMPUTE=0": "--preset cpu",
        "PRESET=smoke COMPUTE=1": "--preset smoke --compute",
    }.items():
        printed = printed_by_make("report", f"VENV={tmp_path}", *given.split())
        assert printed.splitlines()[-1].strip().endswith(f"ddgan_core report {expected}")


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    import ddgan_core

    assert citation["version"] == ddgan_core.__version__
    assert citation["license"] == PROJECT["license"]
