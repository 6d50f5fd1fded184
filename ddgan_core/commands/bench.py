"""`bench` and its parts."""

import argparse
from typing import Any

from ddgan_core.commands.common import prepare


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
