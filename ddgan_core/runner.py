"""Getting one run done, whatever happens: budgets, checkpoints, progress, a lock, signals."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save as safetensors_bytes

from ddgan_core import tell
from ddgan_core.checkpoints import load_checkpoint, save_checkpoint, write_weights
from ddgan_core.data import load_images, to_float
from ddgan_core.locks import alone
from ddgan_core.networks import Classifier, tensors_hash
from ddgan_core.packing import as_named, pack_text
from ddgan_core.progress import Progress
from ddgan_core.provenance import code_version, device_name
from ddgan_core.runs import HISTORY, Run, RunConfig, write_atomic
from ddgan_core.training import Trainer, TrainingDiverged, initialised, train, train_classifier

CHECKPOINT_SECONDS = 120
FEWEST, MOST, APART = 50, 200, 90  # records of a history, and updates between two where that leaves the number free


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def emulates_bfloat16(device: torch.device | str) -> bool:
    """Does PyTorch compute bfloat16 there without instructions made for it, some ten times as slowly as float32?"""
    if torch.device(device).type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def train_run(
    config: RunConfig, *, minutes: float | None = None, device: str | None = None, progress: bool = True
) -> Run:
    """Train the run of this config to its end, or for so many minutes; a run that was begun goes on where it stopped.

    Writes the history and status.json with each checkpoint, and ema.safetensors at the end. SIGTERM and Ctrl-C leave a
    checkpoint (of a run that is ending, all of it); then the one exits with 143, the other raises KeyboardInterrupt. A
    second stops at once. Raises TrainingDiverged, noted in status.json, and
    UserError if another process trains the run.
    """
    if Run(config).status["state"] == "done":
        return Run.create(config)
    # All that can be wrong with a configuration shows before its folder is made.
    trainer = Trainer(config, load_images(config.dataset)[0], device or default_device())
    with alone(Run(config).lock, f"run {config.run_id}"), _stop_requests() as stop:
        run = Run.create(config)  # here, as it may write the configuration that another process trains
        if run.status["state"] != "done":  # another process may have ended it since the first look
            _train(run, trainer, minutes, progress, stop)
    if stop:
        raise KeyboardInterrupt if signal.SIGINT in stop else SystemExit(143)
    return run


def _train(run: Run, trainer: Trainer, minutes: float | None, progress: bool, stop: list[int]) -> None:
    config, folder = run.config, run.path / "checkpoints"
    history: list[dict[str, float]] = []
    seconds = 0.0
    code_version()  # of the code that trains: files may change meanwhile
    for name in ("checkpoints/", ".config.json", ".ema.safetensors", f".{HISTORY}", ".status.json"):  # killed saves
        for left in run.path.glob(f"{name}.*.part"):
            left.unlink(missing_ok=True)
    if (state := load_checkpoint(folder)) is not None:
        trainer.load_state(state)
        history, seconds = state["history"], state["seconds"]
        before, here = run.status.get("device"), device_name(trainer.device)
        if before not in (None, here):
            print(f"{config.run_id}: goes on on {here}, begun on {before}: the weights depend on both")
    if config.precision == "bf16" and emulates_bfloat16(trainer.device):
        tell(f"{config.run_id}: bfloat16 is emulated here, some ten times as slow as float32 (precision=fp32)")
    start = saved = time.monotonic()
    bar = Progress(config.run_id, trainer.step, config.updates, "updates", shown=progress)

    def keep(state: str, reason: str = "") -> None:
        spent = seconds + time.monotonic() - start
        if state == "running":
            save_checkpoint(folder, trainer.step, trainer.state() | {"history": history, "seconds": spent})
        records = pd.DataFrame(history).to_csv(index=False, float_format="%.4g")
        write_atomic(run.path / HISTORY, pack_text(records))
        run.set_status(
            state, reason, step=trainer.step, seconds=round(spent, 1), device=device_name(trainer.device),
            weights_hash=tensors_hash(trainer.ema.state_dict()), torch=torch.__version__, commit=code_version(),
        )  # fmt: skip

    for record in _noting_divergence(train(trainer, _record_every(config.updates)), keep):
        if len(record) > 1:
            history.append(record)
        bar.show(trainer.step)
        now = time.monotonic()
        unfinished = trainer.step < config.updates
        if unfinished and stop:
            keep("running", f"stopped by a signal after step {trainer.step} of {config.updates}")
            return
        if unfinished and minutes is not None and now - start > 60 * minutes:
            keep("running", f"stopped after step {trainer.step} of {config.updates}, its minutes being over")
            return
        if unfinished and now - saved > CHECKPOINT_SECONDS:
            keep("running")
            saved = now
    write_weights(run.path / "ema.safetensors", trainer.ema.state_dict(), config.hash)
    keep("done")
    for checkpoint in folder.glob("*.pt"):
        checkpoint.unlink()


def _record_every(updates: int) -> int:
    return max(1, updates // min(MOST, max(FEWEST, updates // APART)))


def _noting_divergence(records: Iterator[dict[str, float]], keep: Callable[..., None]) -> Iterator[dict[str, float]]:
    try:
        yield from records
    except TrainingDiverged as error:
        keep("failed", str(error))
        raise


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """What SIGTERM or SIGINT is added to, so that training stops between two updates; only a main thread can ask."""
    stop: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(signum: int, frame: object) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(signum)

    before = {signum: signal.signal(signum, ask) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def make_classifier(path: Path) -> dict[str, Any]:
    """Train the classifier behind the features `fashion_classifier` and write it with its facts, which are returned.

    The shipped one (features.CLASSIFIER_FILE) was made by this recipe from other initial weights, once. Another is
    another ruler: its hash, which is in every score, differs.
    """
    images, labels = load_images("fashion_mnist", "train")
    test_images, test_labels = load_images("fashion_mnist", "test")
    widths = (24, 48, 128)
    network = initialised(lambda: Classifier(1, widths, 10), 0, "classifier")
    for record in train_classifier(network, images, labels, epochs=5):
        if record["step"] % 100 == 0:
            print(f"classifier: {record['step']} of {record['steps']} updates, loss {record['loss']:.3f}", flush=True)
    with torch.no_grad():
        probabilities = torch.cat([network(to_float(x))[1].softmax(1) for x in test_images.split(500)])
    facts = {
        "widths": widths,
        "test_accuracy": (probabilities.argmax(1) == test_labels).double().mean().item(),
        "test_top_probability": probabilities.max(1).values.double().mean().item(),
    }
    content = safetensors_bytes(network.state_dict(), {k: json.dumps(v) for k, v in facts.items()})
    write_atomic(path, as_named(path, content, 4))
    return facts
