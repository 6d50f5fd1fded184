"""One process at a time: locks that die with the process that holds them."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddgan_core import UserError


@contextmanager
def alone(lock: Path, who: str) -> Iterator[None]:
    """One process is at this work; `who` says in the error what it is that another one is at."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        for last in (False,) * 20 + (True,):  # for a second: who only asks (`is_held`) has the lock for a moment
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if last:
                    raise UserError(f"{who} is being trained by another process: wait for it, or stop it") from None
                time.sleep(0.05)
        yield


def is_held(lock: Path) -> bool:
    """Is a process `alone` at this work just now? What it has written may be of one that was killed since."""
    if not lock.exists():
        return False
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # over NFS the other kind needs a file open for writing
        except BlockingIOError:
            return True
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time adds to the files of a folder, the others wait; the lock is on the folder itself."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
