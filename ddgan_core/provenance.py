"""Which code made a number, on which device: what a row of scores or of a bench says beside it."""

import functools
import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device_name(device: "torch.device | str") -> str:
    """The device as a table should name it: CPU results depend on the number of threads."""
    import torch  # not above: the cores are counted, and the threads pinned, before it is imported

    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def provenance(device: "torch.device | str") -> dict[str, str]:
    """{"device", "torch", "commit"}: what a row says beside its numbers. To be asked before the work begins."""
    import torch

    return {"device": device_name(device), "torch": torch.__version__, "commit": code_version()}


def usable_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def code_version() -> str:
    """$DDGAN_COMMIT, else the commit of the package, with + where its files differ from it; "unknown" where git keeps
    no history of them.

    As it was when this process asked first: what takes long asks before it begins. $DDGAN_COMMIT is for a copy of the
    files without their history, such as a batch machine gets.
    """
    if told := os.environ.get("DDGAN_COMMIT"):
        return told
    git = ("git", "-C", str(Path(__file__).parent))
    questions = (
        ("ls-files", "--error-unmatch", "__init__.py"),  # fails where the repository is that of another project
        ("rev-parse", "--short", "HEAD"),
        ("status", "--porcelain", "--", "."),
    )
    try:
        _, commit, changed = (
            subprocess.run([*git, *ask], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for ask in questions
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changed else "")


def source_hash(*modules: str) -> str:
    """64 hex digits of the source of these modules of the package, such as "data" or "metrics/features", as it is now.

    A process that keeps what it computes asks at import: files may change while it computes.
    """
    package = Path(__file__).parent
    return hashlib.sha256(b"".join((package / f"{name}.py").read_bytes() for name in modules)).hexdigest()
