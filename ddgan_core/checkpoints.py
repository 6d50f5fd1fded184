"""Tensors to files and back, verified: checkpoints to resume from, and EMA weights to share.

A checkpoint's name carries the SHA-256 of its content, because neither torch.save nor safetensors notices a flipped
bit. Nothing pickled is loaded: `weights_only` for checkpoints, safetensors for weights.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ddgan_core import UserError
from ddgan_core.networks import tensors_hash
from ddgan_core.packing import as_named, read_tensors
from ddgan_core.runs import Run, write_atomic
from ddgan_core.shapes import Tensor

NAMES = "[0-9]" * 8 + "*-*.pt"
KEEP = 2  # checkpoints kept: the newest, and one to fall back on should it be damaged


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write a state of plain containers and tensors; older checkpoints than the last `KEEP` are removed."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    write_atomic(path, content)
    others = [other for other in sorted(folder.glob(NAMES)) if other != path]
    # One of this step or a later one is damaged, else training had gone on from it.
    kept = [other for other in others if int(other.name.partition("-")[0]) < step][1 - KEEP :]
    for other in others:
        if other not in kept:
            other.unlink(missing_ok=True)
    return path


def trained_here(run: Run) -> bool:
    """Whether this machine has weights or checkpoints of the run itself: of committed runs neither is there."""
    return (run.path / "ema.safetensors").exists() or (run.path / "checkpoints").exists()


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None; a damaged one is passed over with a word on it.

    Raises UserError for a file that has its hash in its name and is no state of a training: it was put there.
    """
    for path in sorted(folder.glob(NAMES), reverse=True):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] != path.stem.partition("-")[2]:
            print(f"checkpoint {path.name} is damaged: going back to the one before it")
            continue
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch promises no kind of its own for what it refuses
            raise UserError(f"{path} is no checkpoint of a training ({type(error).__name__}): delete it") from None
        if not isinstance(state, dict) or not {"step", "config_hash", "history", "seconds"} <= state.keys():
            raise UserError(f"{path} is no checkpoint of a training: delete it")
        return state
    return None


def write_weights(path: Path, state: dict[str, Tensor], config_hash: str, dtype: torch.dtype = torch.float32) -> None:
    """EMA weights as safetensors that remember which configuration they belong to; a path in `PACKED` is packed."""
    tensors = {name: value.detach().cpu().to(dtype).contiguous() for name, value in state.items()}
    content = save(tensors, {"config_hash": config_hash})
    write_atomic(path, as_named(path, content))


def run_weights(run: Run) -> dict[str, Tensor]:
    """The run's EMA weights in float32: its own, verified by the hash in its status.json, else the shipped ones.

    Raises UserError where there are none, and where they are damaged or not those of the run.
    """
    config, path = run.config, run.weights
    if path is None:
        raise UserError(f"run {config.run_id} has no weights here, its own or shipped ones: {way_to_weights(run)}")
    state, now = read_weights(path, config.hash), run.status
    if path.parent == run.path and now["state"] == "done":  # the shipped ones are rounded: another hash
        found = tensors_hash(state)
        if (expected := now.get("weights_hash") or found) != found:
            raise UserError(
                f"{path} was changed after the training: its hash is {found}, status.json says {expected}: restore it, "
                f"or delete {run.path} to train it anew"
            )
    return state


def way_to_weights(run: Run) -> str:
    """What to do about a run without weights here: one that is done, as most committed ones, is not trained again."""
    now = run.status
    if now["state"] == "running":
        return f"it is at step {now.get('step', 0)} of {run.config.updates}: go on with it, or wait for it"
    if now["state"] != "done":
        return f"it {now['state']} ({now['reason']})" if now["state"] == "failed" else "train it first"
    return f"`train` one like it under another tag (--tag again), or delete {run.path} to train it anew"


def read_weights(path: Path, config_hash: str) -> dict[str, Tensor]:
    """The weights in float32. Raises UserError when the file is damaged or belongs to another configuration."""
    try:
        tensors, facts = read_tensors(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a whole weights file ({error}): restore it, or delete its run's folder to train it anew"
        ) from None
    if (found := facts.get("config_hash")) != config_hash:
        raise UserError(
            f"{path} belongs to configuration {found}, this run's is {config_hash}: delete it or use its own run"
        )
    return {name: value.float() for name, value in tensors.items()}
