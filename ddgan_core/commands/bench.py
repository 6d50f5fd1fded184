"""`bench` and its parts, and calibrate."""

import argparse
from typing import Any

from ddgan_core.commands.common import prepare, refuse


def show(table: Any, digits: int) -> int:
    print(table.round(digits).to_string(index=False))
    return 0


def bench_metrics(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench.metrics import bench_metrics

    return show(bench_metrics(args.n, dataset=args.dataset, repeats=args.repeats, device=device), 4)


def bench_network(args: argparse.Namespace) -> int:
    prepare(args)
    from ddgan_core.bench.metrics import bench_network

    return show(bench_network(args.n, repeats=args.repeats), 6)


def bench_training(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench.training import bench_training

    return show(bench_training(args.batch_size, preset=args.preset, repeats=args.repeats, device=device), 3)


def bench_ddpm(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench.peers import bench_ddpm

    return show(bench_ddpm(args.batch_size, preset=args.preset, repeats=args.repeats, device=device), 3)


def bench_sampling(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench.limits import bench_sampling

    return show(bench_sampling(args.n, preset=args.preset, repeats=args.repeats, device=device), 3)


def bench_limits(args: argparse.Namespace) -> int:
    device = prepare(args)
    from ddgan_core.bench.limits import bench_limits

    return show(bench_limits(preset=args.preset, device=device), 3)


def bench_workers(args: argparse.Namespace) -> int:
    from ddgan_core.bench.workers import bench_workers

    return show(bench_workers(workers=args.workers), 3)


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
