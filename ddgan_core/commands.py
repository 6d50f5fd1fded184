"""What each command does with its arguments; returns the exit status. It imports what it needs: --help is quick."""

import argparse
import io
import math
import os
import sys
from typing import Any

from ddgan_core import UserError


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
    from ddgan_core.runner import train_run

    changes = dict(args.set) | ({"dataset": args.dataset} if args.dataset else {})
    config = study.configure(
        args.preset, method=args.method, divergence=args.divergence, T=args.T, seed=args.seed, tag=args.tag, **changes
    )
    run = train_run(config, minutes=args.minutes, device=device)
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
    steps = args.steps or (min(run.config.T, 100) if run.config.method == "ddpm" else None)
    sampler, steps = evaluation.resolve_sampler(run, args.sampler, steps)
    start = time.perf_counter()
    images = evaluation.sample(run, args.n, sampler=sampler, steps=steps, seed=args.seed, device=device)
    seconds = time.perf_counter() - start
    if args.output.suffix == ".png":
        from ddgan_core.figures import write_png_grid

        write_png_grid(images, args.output, columns=math.ceil(args.n**0.5))
    else:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, images.numpy())
        write_atomic(args.output, buffer.getvalue())
    how = f"{sampler}, {steps} steps, seed {args.seed}, {seconds:.1f} s"
    print(f"{args.output}: {args.n} images of {run.config.run_id}, {how}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    if sum(given is not None for given in (args.run, args.baseline, args.images)) != 1:
        raise UserError("give one of --run ID, --images PATH (PNGs or .npy), --baseline real or noise; see --help")
    device = prepare(args)
    from ddgan_core import evaluation
    from ddgan_core.runs import Run

    how = {"reference": args.reference, "device": device, "force": args.force, "features": args.features}
    dataset, n = args.dataset or "fashion_mnist", args.n or 10_000
    if args.run is not None:
        run = Run.open(args.run, args.dataset)
        table = evaluation.evaluate(run, sampler=args.sampler, steps=args.steps, n=n, seed=args.seed, **how)
    elif args.images is not None:
        table = evaluation.evaluate_images(args.images, dataset, n=args.n, **how)
    else:
        table = evaluation.evaluate_baseline(args.baseline, dataset, n=n, seed=args.seed, **how)
    for name, value in table.iloc[0].items():
        if value == value and value != "":  # not what this score does not have
            print(f"{name:<18} {value:.5g}" if isinstance(value, float) else f"{name:<18} {value}")
    return 0


def study_status(args: argparse.Namespace) -> int:
    from ddgan_core import study

    table = study.status(study.make_study(args.study, args.preset, args.cell))
    if args.json:
        print(table.to_json(orient="records", indent=1))
        return 0
    print(table.to_string(index=False, max_colwidth=60, na_rep="?"))
    print(", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items()))
    left = table["minutes_left"]
    guess = f"{left.sum():.0f}" if left.notna().all() else "not known on this device before a run of each method"
    print(f"minutes of one worker: {table['minutes'].sum():.0f} spent on training, left to train: {guess}")
    return 0


def study_run(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core import study

    what, how = study.make_study(args.study, args.preset, args.cell), {"minutes": args.minutes}
    if args.on == "ray":
        threads = args.threads or 1
        table = study.run_on_ray(what, threads=threads, gpus=args.gpus, address=args.address, **how)
    elif args.workers is not None:
        threads = args.threads or max(1, default_threads() // args.workers)
        table = study.run_local(what, args.preset, args.study, args.workers, threads=threads, device=device, **how)
    else:
        table = study.run(what, device=device, **how)
    print(table.to_string(index=False, max_colwidth=60, na_rep="?"))
    return 0


def study_table(args: argparse.Namespace) -> int:
    from ddgan_core.summary import markdown, results_table, write_table

    table = results_table(preset=args.preset, features=args.features)
    if args.write is None:
        print(markdown(table))
    else:
        print(f"{args.write}: {'new results' if write_table(args.write, table) else 'as it was'}")
    return 0


def study_slurm(args: argparse.Namespace) -> int:
    from ddgan_core import study
    from ddgan_core.executors import slurm_script

    what = study.make_study(args.study, args.preset, args.cell)
    table = study.status(what)
    if not len(missing := list(table["run_id"][table["state"] != "done"])):
        raise UserError(f"every run of {what.name} is done: there is nothing to put into a queue")
    words = [sys.executable, "-m", "ddgan_core", "study", "run", "--study", args.study, "--preset", args.preset]
    words += ["--threads", str(args.threads), "--cell"]
    print(slurm_script(missing, words, minutes=args.minutes, cpus=args.threads, gpus=args.gpus), end="")
    return 0


def study_export(args: argparse.Namespace) -> int:
    from ddgan_core.transfer import export_runs

    paths, left_out = export_runs(args.output, args.run)
    for path in paths:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if left_out:
        print(f"no room for {', '.join(left_out)}: export these with --run", file=sys.stderr)
    return 0


def study_import(args: argparse.Namespace) -> int:
    from ddgan_core.study import write_tables
    from ddgan_core.transfer import import_runs

    for run_id, what in import_runs(args.files).items():
        print(f"{run_id}: {what}")
    write_tables()
    return 0


def study_ship(args: argparse.Namespace) -> int:
    from ddgan_core import study
    from ddgan_core.runs import Run

    target = study.ship(Run.open(args.run, args.dataset))
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, half precision")
    return 0


def study_classifier(args: argparse.Namespace) -> int:
    prepare(args)
    from ddgan_core.runner import make_classifier

    facts = make_classifier(args.output)
    print(f"{args.output}: test accuracy {facts['test_accuracy']:.4f}")
    return 0


def show(table: Any, digits: int) -> int:
    print(table.drop(columns=["torch", "clean_fid", "commit"]).round(digits).to_string(index=False))
    return 0


def bench_metrics(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench import bench_metrics

    return show(bench_metrics(args.n, dataset=args.dataset, repeats=args.repeats, device=device), 4)


def bench_network(args: argparse.Namespace) -> int:
    prepare(args)
    from ddgan_core.bench import bench_network

    return show(bench_network(args.n, repeats=args.repeats), 6)


def bench_training(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench_training import bench_training

    return show(bench_training(args.batch_size, preset=args.preset, repeats=args.repeats, device=device), 3)


def bench_ddpm(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench_peers import bench_ddpm

    return show(bench_ddpm(preset=args.preset, repeats=args.repeats, device=device), 3)


def bench_sampling(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench_limits import bench_sampling

    return show(bench_sampling(args.n, preset=args.preset, repeats=args.repeats, device=device), 3)


def bench_limits(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench_limits import bench_limits

    return show(bench_limits(preset=args.preset, device=device), 3)


def calibrate(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core import calibration

    if args.reference:
        how = {"minutes": args.minutes, "device": device}
        print(calibration.make_reference(args.features, args.dataset, args.reference, **how))
        return 0
    sizes = {"sizes": args.sizes, "floor_sizes": args.sizes} if args.sizes else {}
    table = calibration.calibrate(args.features, dataset=args.dataset, draws=args.draws, device=device, **sizes)
    print(calibration.summary(table).xs("mean", axis=1, level=1).round(4).to_string())
    return 0


def anatomy(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core import rows
    from ddgan_core.anatomy import measure

    done = measure(rows.beside(args.preset, args.T, tag=args.tag), device=device, force=args.force)
    print(f"measured: {', '.join(done) or 'none, all are in the tables'}")
    return 0


def toys(args: argparse.Namespace) -> int:
    prepare(args)
    from ddgan_core.toy_study import cells, work

    work(cells(args.data, args.row, args.T), args.preset, args.minutes)
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


HANDLERS = {f.__name__: f for f in (
    train, sample, evaluate, study_status, study_run, study_table, study_slurm, study_export, study_import,
    study_ship, study_classifier, bench_metrics, bench_network, bench_training, bench_ddpm, bench_sampling,
    bench_limits, calibrate, anatomy, toys, report, doctor,
)}  # fmt: skip
