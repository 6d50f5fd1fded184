"""The commands by themselves: train, sample, evaluate, calibrate, anatomy, information, bands, critics, report,
doctor."""

import argparse
import io
import math
import sys

from ddgan_core import UserError
from ddgan_core.commands.common import open_run, prepare, refuse

OF_A_GAN = (
    "critic_divergence", "critic_widths", "critic_detail", "critic_steps", "lr_critic", "penalty_weight",
    "penalty_every", "level_weight", "z_dim", "shared_fakes",
)  # fmt: skip


def train(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core import study
    from ddgan_core.checkpoints import way_to_weights
    from ddgan_core.runner import train_run

    changes = dict(args.set) | ({"dataset": args.dataset} if args.dataset else {})
    if args.method == "ddpm" and (idle := [name for name, _ in args.set if name in OF_A_GAN]):
        raise UserError(f"--set {idle[0]}: of a GAN alone, and a DDPM has none: leave it out")
    of_preset = {"method": args.method, "divergence": args.divergence, "seed": args.seed, "tag": args.tag}
    config = study.configure(args.preset, **of_preset, T=args.T, **changes)
    usual = study.configure(args.preset, **of_preset)  # at its own T, by which no other number of it goes
    other = [name for name, _ in args.set if getattr(config, name) != getattr(usual, name)]
    if other and not args.tag:
        raise UserError(
            f"--set {other[0]}={getattr(config, other[0])}: preset {args.preset} has {getattr(usual, other[0])}, and "
            "the run would go under the study's own name: give --tag NAME to keep it apart"
        )
    run = train_run(config, minutes=args.minutes, device=device)
    status = run.status
    print(f"{config.run_id}: {status['state']} at step {status.get('step', 0)} of {config.updates}, in {run.path}")
    if status["state"] == "done" and run.weights is None:
        print(f"its weights were not shipped: {way_to_weights(run)}")
    elif status["state"] == "done":
        print(f"next: python -m ddgan_core sample --run {config.run_id} --dataset {config.dataset} -n 64 -o grid.png")
    else:
        print("the same command goes on from there")
    return 0


def sample(args: argparse.Namespace) -> int:
    device = prepare(args)
    import time

    from ddgan_core.evaluation import samples
    from ddgan_core.runs import write_atomic

    run = open_run(args)
    steps = args.steps or (min(run.config.T, 100) if run.config.method == "ddpm" else None)
    sampler, steps = samples.resolve_sampler(run, args.sampler, steps)
    start = time.perf_counter()
    images = samples.sample(run, args.n, sampler=sampler, steps=steps, seed=args.seed, device=device)
    seconds = time.perf_counter() - start
    if args.output.suffix == ".png":
        from ddgan_core.figures.grids import write_png_grid

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
    if args.run is None:
        refuse(args, ("sampler", "steps"), "only with --run, whose images are drawn now")
    if args.images is not None:
        refuse(args, ("seed",), "not with --images, which are there already")
    device = prepare(args)
    import pandas as pd

    from ddgan_core.evaluation import scoring
    from ddgan_core.study import write_tables

    run = open_run(args) if args.run is not None else None
    dataset, n = run.config.dataset if run else args.dataset or "fashion_mnist", args.n or 10_000
    scoring.check_features(args.features, dataset, device)
    how = {"reference": args.reference, "device": device, "force": args.force}
    if run is not None:
        how |= {"sampler": args.sampler, "steps": args.steps, "features": args.features}
        table = scoring.evaluate(run, n=n, seed=args.seed or 0, **how)
    elif args.images is not None:
        scores = [scoring.evaluate_images(args.images, dataset, n=args.n, features=f, **how) for f in args.features]
        table = pd.concat(scores)
    else:
        how |= {"n": n, "seed": args.seed or 0}
        table = pd.concat(scoring.evaluate_baseline(args.baseline, dataset, features=f, **how) for f in args.features)
    for _, score in table.iterrows():
        for name, value in score.items():
            if value == value and value != "":  # not what this score does not have
                print(f"{name:<18} {value:.5g}" if isinstance(value, float) else f"{name:<18} {value}")
    write_tables()  # last: a table of another run may be damaged, and this score is stored
    return 0


def calibrate(args: argparse.Namespace) -> int:
    if args.reference:
        refuse(args, ("sizes", "draws"), "not with --reference, which takes the whole split once")
    else:
        refuse(args, ("minutes",), "only with --reference")
    device = prepare(args)
    from ddgan_core.evaluation import calibration

    if args.reference:
        how = {"minutes": args.minutes, "device": device}
        print(calibration.make_reference(args.features, args.dataset, args.reference, **how))
        return 0
    sizes = {"sizes": args.sizes, "floor_sizes": args.sizes} if args.sizes else {}
    table = calibration.calibrate(args.features, dataset=args.dataset, draws=args.draws or 4, device=device, **sizes)
    print(calibration.summary(table).xs("mean", axis=1, level=1).round(4).to_string())
    return 0


def anatomy(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.evaluation.anatomy import measure
    from ddgan_core.notebook import rows

    runs = rows.beside(args.preset, args.T, tag=args.tag)
    if not any(run.weights for run in runs):
        which = f"--preset {args.preset} --T {args.T}" + (f" --tag {args.tag}" if args.tag else "")
        missing = f"none of the {len(runs)} runs of {which} has weights here" if runs else f"there is no run of {which}"
        raise UserError(f"{missing}: train one, python -m ddgan_core train {which}")
    done = measure(runs, features=args.features, device=device, force=args.force)
    print(f"measured: {', '.join(done) or 'none, all are in the tables'}")
    return 0


def information(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.evaluation.information import measure

    print(measure(open_run(args), n=args.n, device=device))
    return 0


def bands(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.evaluation.bands import measure

    print(measure(open_run(args), features=args.features, n=args.n, device=device))
    return 0


def critics(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.evaluation.critics import measure

    run, how = open_run(args), {"batch_size": args.batch_size, "seeds": args.seeds, "n": args.n}
    print(measure(run, updates=args.updates, **how, device=device))
    return 0


def report(args: argparse.Namespace) -> int:
    prepare(args)
    from ddgan_core.report.execution import ReportError, build

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
        print(f"{'ok  ' if fine else 'todo'}  {name:<24} {text}")
    return 0
