"""What commands share: threads, data and device, the run that is named, options that would change nothing."""

import argparse
import os
import re
from typing import TYPE_CHECKING

from ddgan_core import UserError

if TYPE_CHECKING:
    from ddgan_core.runs import Run


def prepare(args: argparse.Namespace) -> str:
    """Pin the threads, here and in notebook kernels; point to the data; return the device, checked."""
    if getattr(args, "data_dir", None) is not None:
        os.environ["DDGAN_DATA"] = str(args.data_dir.resolve())
    threads = args.threads or default_threads()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    from ddgan_core.runner import default_device

    torch.set_num_threads(threads)
    device = getattr(args, "device", None) or default_device()
    known = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if not known:
        raise UserError(f"device {device!r} is not known: choose cpu, cuda or cuda:N")
    if device != "cpu" and int(known[1] or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device!r}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices")
    return device


def open_run(args: argparse.Namespace) -> "Run":
    """The run of --run and --dataset. Raises UserError for a dataset that is not known, and a run that is not there."""
    from ddgan_core.data import get_dataset
    from ddgan_core.runs import Run

    if args.dataset is not None:
        get_dataset(args.dataset)
    return Run.open(args.run, args.dataset)


def refuse(args: argparse.Namespace, names: tuple[str, ...], because: str) -> None:
    """Raise UserError if any of these options is given where it would change nothing."""
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(args, name, None) is not None]:
        raise UserError(f"{' and '.join(given)}: {because}")


def default_threads() -> int:
    """$OMP_NUM_THREADS, else every core this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    from ddgan_core.provenance import usable_cores

    return usable_cores()
