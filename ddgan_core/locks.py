"""One process at a time: locks that die with the process that holds them."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ddgan_core import UserError


class Held(UserError):
    """Another process is at this work."""


@contextmanager
def alone(lock: Path, who: str) -> Iterator[None]:
    """One process is at this work; `who` says what it is in the error, Held, where another one is at it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        for last in (False,) * 20 + (True,):  # for a second: who only asks (`is_held`) has the lock for a moment
            try:
                _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if last:
                    raise Held(f"{who} is being trained by another process: wait for it, or stop it") from None
                time.sleep(0.05)
        yield


def is_held(lock: Path) -> bool:
    """Is a process `alone` at this work just now? What it has written may be of one that was killed since."""
    if not lock.exists():
        return False
    with open(lock) as file:
        try:
            _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # over NFS the other kind needs a file open for writing
        except BlockingIOError:
            return True
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time adds to the files of a folder, the others wait: by a file in it.

    Not by the folder itself, whose lock a server of files (NFS) does not pass on, nor by the file that `alone` holds
    in the folder of a run, which may be scored by the process that trains it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".write.lock", "w") as file:
        _flock(file, fcntl.LOCK_EX)
        yield


def _flock(file: IO[str], how: int) -> None:
    """flock that names the file where the file system has no locks; BlockingIOError where another process has it."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"it cannot be locked ({error.strerror})", file.name) from None
