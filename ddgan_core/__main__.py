"""The command line: `python -m ddgan_core train | sample | evaluate | study | report | doctor`.

A user's mistake ends in one line on stderr and exit status 2, a training that diverges in one line and 1, an
interruption in 130 (Ctrl-C) or 143 (SIGTERM). Handlers import what they need, so that --help answers at once.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddgan_core import UserError, __version__
from ddgan_core.arguments import Parser, folder, picture, positive, setting, whole


def prepare(args: argparse.Namespace) -> str:
    """Pin the threads, here and in notebook kernels; point to the data; return the device, checked."""
    if getattr(args, "data_dir", None) is not None:
        os.environ["DDGAN_DATA"] = str(args.data_dir.resolve())
    threads = args.threads or default_threads()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    device = getattr(args, "device", None) or ("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise UserError(f"device {device!r} is not known: choose cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device!r}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices")
    return device


def default_threads() -> int:
    """$OMP_NUM_THREADS, else every core this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core import study

    changes = dict(args.set) | ({"dataset": args.dataset} if args.dataset else {})
    config = study.configure(
        args.preset, method=args.method, divergence=args.divergence, T=args.T, seed=args.seed, tag=args.tag, **changes
    )
    run = study.train_run(config, minutes=args.minutes, device=device)
    status = run.status
    print(f"{config.run_id}: {status['state']} at step {status.get('step', 0)} of {config.updates}, in {run.path}")
    if status["state"] == "done":
        print(f"next: python -m ddgan_core sample --run {config.run_id} --dataset {config.dataset} -n 64 -o grid.png")
    else:
        print("the same command goes on from there")
    return 0


def sample(args: argparse.Namespace) -> int:
    device = prepare(args)
    import time

    from ddgan_core import evaluation
    from ddgan_core.runs import Run, write_atomic

    run = Run.open(args.run, args.dataset)
    steps = args.steps or min(run.config.T, 100)
    sampler, steps = evaluation.resolve_sampler(run, args.sampler, steps)
    start = time.perf_counter()
    images = evaluation.sample(run, args.n, sampler=sampler, steps=steps, seed=args.seed, device=device)
    seconds = time.perf_counter() - start
    if args.output.suffix == ".png":
        from ddgan_core.figures import write_png_grid

        write_png_grid(images, args.output, columns=math.ceil(args.n**0.5))
    else:
        import io

        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, images.numpy())
        write_atomic(args.output, buffer.getvalue())
    how = f"{sampler}, {steps} steps, seed {args.seed}, {seconds:.1f} s"
    print(f"{args.output}: {args.n} images of {run.config.run_id}, {how}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    if (args.run is None) == (args.baseline is None):
        raise UserError("give either --run ID, to score a run, or --baseline real or noise; see --help")
    device = prepare(args)
    from ddgan_core import evaluation
    from ddgan_core.runs import Run

    shared = {"n": args.n, "reference": args.reference, "seed": args.seed, "device": device, "force": args.force}
    if args.run is not None:
        run = Run.open(args.run, args.dataset)
        table = evaluation.evaluate(run, sampler=args.sampler, steps=args.steps, features=args.features, **shared)
    else:
        dataset = args.dataset or "fashion_mnist"
        table = evaluation.evaluate_baseline(args.baseline, dataset, features=args.features, **shared)
    shown = ["dataset", "run_id", "sampler", "steps", "features", "reference", "reference_n", "n", "frechet"]
    print(table[[*shown, "classes_present", "top_probability"]].to_string(index=False))
    return 0


def study_status(args: argparse.Namespace) -> int:
    from ddgan_core import study

    table = study.status(study.paper_study(args.preset))
    print(table.to_string(index=False, max_colwidth=60))
    print(", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items()))
    return 0


def study_run(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core import study

    table = study.run(study.paper_study(args.preset), minutes=args.minutes, device=device)
    print(table.to_string(index=False, max_colwidth=60))
    return 0


def study_ship(args: argparse.Namespace) -> int:
    from ddgan_core import study
    from ddgan_core.runs import Run

    target = study.ship(Run.open(args.run, args.dataset))
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, half precision")
    return 0


def study_classifier(args: argparse.Namespace) -> int:
    prepare(args)
    from ddgan_core import study
    from ddgan_core.runs import results_dir

    path = args.output or results_dir() / "fashion_classifier.safetensors"
    facts = study.make_classifier(path)
    print(f"{path}: test accuracy {facts['test_accuracy']:.4f}")
    return 0


def report(args: argparse.Namespace) -> int:
    prepare(args)
    from ddgan_core.report import ReportError, build

    try:
        build(args.preset, compute=args.compute, notebooks=args.notebooks or None, out=args.output)
    except ReportError as error:  # not the user's mistake
        print(f"ddgan_core: error: {error}", file=sys.stderr)
        return 1
    return 0


def doctor(args: argparse.Namespace) -> int:
    prepare(args)
    from ddgan_core.doctor import examine

    for name, (fine, text) in examine().items():
        print(f"{'ok  ' if fine else 'todo'}  {name:<22} {text}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m ddgan_core", description="Train, sample, score and report denoising diffusion GANs."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(among: Any, name: str, handler: Callable[[argparse.Namespace], int], text: str, example: str) -> Any:
        this = among.add_parser(name, help=text, description=text, epilog=f"example:\n  python -m ddgan_core {example}")
        this.set_defaults(handler=handler)
        return this

    def computing(this: Any, device: bool = True, data: bool = True) -> None:
        this.add_argument("--threads", type=whole(1), help="CPU threads (default: OMP_NUM_THREADS, else all cores)")
        if device:
            this.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
        if data:
            this.add_argument(
                "--data-dir", type=folder, help="folder of FashionMNIST/raw (default: DDGAN_DATA, else data)"
            )

    preset = {"default": "cpu", "help": "smoke, cpu or full (default: %(default)s)"}

    this = command(
        commands,
        "train",
        train,
        "Train one run, or go on with it.",
        "train --divergence squared_hellinger --T 4 --minutes 9",
    )
    this.add_argument("--preset", **preset)
    this.add_argument("--method", default="ddgan", help="ddgan or ddpm (default: %(default)s)")
    this.add_argument("--divergence", default="non_saturating_js", help="a row of the table (default: %(default)s)")
    this.add_argument(
        "--T", type=whole(1, 1000), help="diffusion steps, 1 to 1000 (default: 4; a DDPM's: the preset's)"
    )
    this.add_argument("--seed", type=whole(0), default=0)
    this.add_argument("--tag", default="", help="distinguishes a run that differs from its preset in one more thing")
    this.add_argument("--dataset", help="fashion_mnist, cifar10 or digits (default: the preset's)")
    this.add_argument("--minutes", type=positive, help="stop after so long, with a checkpoint to go on from")
    this.add_argument(
        "--set", type=setting, action="append", default=[], metavar="FIELD=VALUE", help="any other number of the run"
    )
    computing(this)

    this = command(
        commands,
        "sample",
        sample,
        "Draw images from a trained run.",
        "sample --run squared_hellinger_T04_s0_cpu -n 64 -o grid.png",
    )
    this.add_argument("--run", required=True, metavar="ID")
    this.add_argument("--dataset", help="where two datasets have a run of that id")
    this.add_argument("-n", type=whole(1), default=64, help="how many (default: %(default)s)")
    this.add_argument(
        "-o",
        "--output",
        type=picture,
        default=Path("grid.png"),
        help="FILE.png or FILE.npy, replaced if it exists (default: %(default)s)",
    )
    this.add_argument("--seed", type=whole(0), default=0, help="image i of a seed is always the same (default: 0)")
    this.add_argument("--sampler", help="of a DDPM: ancestral (default) or ddim")
    this.add_argument("--steps", type=whole(1), help="of a DDPM: re-spaced to so many (default: its T, at most 100)")
    computing(this, data=False)

    example = "evaluate --run squared_hellinger_T04_s0_cpu --features fashion_classifier --n 10000"
    this = command(commands, "evaluate", evaluate, "Score a run, or a baseline; a score that exists is read.", example)
    this.add_argument("--run", metavar="ID")
    this.add_argument("--baseline", help="real (images of the other split) or noise")
    this.add_argument(
        "--dataset", help="of a baseline (default: fashion_mnist), or where two datasets have a run of that id"
    )
    this.add_argument(
        "--features",
        default="fashion_classifier",
        help="inception, fashion_classifier or pixels (default: %(default)s)",
    )
    this.add_argument("--n", type=whole(2), default=10_000, help="how many images (default: %(default)s)")
    this.add_argument("--reference", default="test", help="test or train (default: %(default)s)")
    this.add_argument("--sampler", help="of a DDPM: ancestral (default) or ddim")
    this.add_argument("--steps", type=whole(1), help="of a DDPM: re-spaced to so many (default: its T)")
    this.add_argument("--seed", type=whole(0), default=0, help="of the samples (default: 0)")
    this.add_argument("--force", action="store_true", help="measure again what has a score")
    computing(this)

    parts = commands.add_parser(
        "study", help="The study's runs: how far they are, and going on with them."
    ).add_subparsers(dest="part", required=True, metavar="status|run|ship|classifier")
    this = command(parts, "status", study_status, "A table of the study's runs.", "study status --preset cpu")
    this.add_argument("--preset", **preset)
    this = command(
        parts,
        "run",
        study_run,
        "Train and score what is missing, in order of what it tells.",
        "study run --preset cpu --minutes 60",
    )
    this.add_argument("--preset", **preset)
    this.add_argument(
        "--minutes", type=positive, help="stop after so long; the same command goes on (default: to the end)"
    )
    computing(this)

    text = "Copy a finished run's weights, in half precision, to where they are committed."
    this = command(parts, "ship", study_ship, text, "study ship --run squared_hellinger_T04_s0_cpu")
    this.add_argument("--run", required=True, metavar="ID")
    this.add_argument("--dataset", help="where two datasets have a run of that id")

    text = (
        "Train the classifier behind fashion_classifier features anew (10 minutes of one core); the shipped one stays."
    )
    this = command(parts, "classifier", study_classifier, text, "study classifier -o classifier.safetensors")
    this.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="(default: results/fashion_classifier.safetensors)"
    )
    computing(this, device=False)

    this = command(
        commands, "report", report, "Execute the notebooks and write one page of them.", "report --preset cpu"
    )
    this.add_argument("notebooks", nargs="*", type=Path, help="only these (default: every numbered notebook)")
    this.add_argument("--preset", **preset)
    this.add_argument("--compute", action="store_true", help="train and score what is missing (default: read results)")
    this.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="(default: results/report)")
    computing(this, device=False)

    this = command(commands, "doctor", doctor, "What is here, what is missing, and what to do about it.", "doctor")
    computing(this, device=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = make_parser().parse_args(argv)
        return args.handler(args)
    except UserError as error:
        print(f"ddgan_core: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ddgan_core: interrupted", file=sys.stderr)
        return 130
    except OSError as error:  # a full disk, a file that may not be written
        print(f"ddgan_core: error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if type(error).__name__ != "TrainingDiverged":  # by name: importing it would import torch
            raise
        print(f"ddgan_core: training diverged: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
