"""Locks: of two at one folder one waits, who trains there may add to it, and a disk without locks is called that."""

import errno
import fcntl
import threading
import time
from pathlib import Path

import pytest

from ddgan_core import UserError, locks
from ddgan_core.__main__ import main
from ddgan_core.locks import alone, is_held, locked
from ddgan_core.runner import train_run
from ddgan_core.runs import Run
from ddgan_core.study import configure


def test_who_adds_to_a_folder_waits_for_the_other(tmp_path: Path) -> None:
    order = []

    def other() -> None:
        with locked(tmp_path):
            order.append("other")

    thread = threading.Thread(target=other)
    with locked(tmp_path):
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "other"]


def test_who_is_refused_leaves_the_others_configuration(results: Path) -> None:
    mine, other = (configure("smoke", updates=updates, tag="a") for updates in (4, 2))
    Run.create(mine)
    with alone(Run(mine).lock, ""), pytest.raises(locks.Held):
        train_run(other, progress=False)
    assert Run.open(mine.run_id).config == mine


def test_the_lock_is_on_a_file_in_the_folder(tmp_path: Path) -> None:
    """A folder's own lock stays within one machine where the folder is on a server."""
    with locked(tmp_path / "new"):
        (file,) = (tmp_path / "new").iterdir()
        assert is_held(file)
    assert not is_held(file)


def test_who_is_alone_in_a_runs_folder_may_add_to_it(results: Path) -> None:
    run = Run.create(configure("smoke", T=1))
    refused = pytest.raises(UserError, match="it is being trained by another")
    with alone(run.lock, ""), locked(run.path), refused, alone(run.lock, "it"):
        pass


def test_who_only_asks_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """With the lock that `is_held` takes."""
    lock, asking = tmp_path / ".lock", threading.Event()
    lock.touch()

    def ask() -> None:
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            asking.set()
            time.sleep(0.3)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asking.wait(10)
    with alone(lock, "it"):
        assert is_held(lock)
    thread.join(10)


def test_a_disk_without_locks_is_not_another_process(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    for use in (lambda: alone(results / ".lock", "a run"), lambda: locked(results)):
        with pytest.raises(OSError, match="it cannot be locked .No locks available.*lock'"), use():
            pass
    assert main(["train", "--preset", "smoke", "--set", "updates=1", "--tag", "one", "--threads", "1"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "it cannot be locked (No locks available)" in line
    assert "_one/.lock" in line
