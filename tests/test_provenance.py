"""The commit beside a number is the package's own, or unknown; and the source of its modules, told apart."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddgan_core import provenance
from ddgan_core.provenance import code_version, source_hash


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DDGAN_COMMIT", raising=False)
    code_version.cache_clear()
    yield
    code_version.cache_clear()


def git(folder: Path, *words: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", folder, *name, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package installed in a folder that a project's repository ignores."""
    package = tmp_path / ".venv" / "ddgan_core"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "another project")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return package


def test_it_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_version() == "unknown"


def test_a_repository_around_it_is_not_its_own(package: Path) -> None:
    assert code_version() == "unknown"


def test_its_own_commit_says_whether_its_files_differ(package: Path) -> None:
    git(package, "add", "--force", ".")
    git(package, "commit", "-m", "the package")
    commit = git(package, "rev-parse", "--short", "HEAD").strip()
    assert code_version() == commit
    (package / "__init__.py").write_text("changed = True\n")
    assert code_version() == commit, "as when it was asked first"
    code_version.cache_clear()
    assert code_version() == commit + "+"


def test_what_the_environment_says_comes_first(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a copy that came without its history, wherever it is."""
    git(package, "add", "--force", ".")
    git(package, "commit", "-m", "a copy in a project's own repository")
    monkeypatch.setenv("DDGAN_COMMIT", "0a1b2c3")
    assert code_version() == "0a1b2c3"


def test_the_source_of_each_module_counts(package: Path) -> None:
    before = source_hash("__init__")
    (package / "data.py").write_text("")
    (package / "__init__.py").write_text("changed = True\n")
    after = source_hash("__init__")
    assert after != before
    (package / "data.py").write_text("x = 1\n")
    assert source_hash("__init__") == after
    assert source_hash("__init__", "data") != after
