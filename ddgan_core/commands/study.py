"""`study` and its parts."""

import argparse
import sys
from typing import Any

from ddgan_core import UserError
from ddgan_core.commands.common import default_threads, open_run, prepare, refuse


def asked_for(args: argparse.Namespace) -> Any:
    """The study that the options name. Raises UserError for options that would change nothing in it."""
    from ddgan_core import study

    if args.study == "toys":
        refuse(args, ("device", "gpus", "data_dir"), "not with --study toys, which takes the CPU and no images")
    return study.make_study(args.study, args.preset, args.cell)


def show(table: Any) -> int:
    """The lines of `study.status`, then what is to be read whole."""
    print(table.drop(columns="reason").to_string(index=False, na_rep="?"))
    for line in table[table["reason"] != ""].itertuples():
        print(f"{line.run_id} is {line.state}: {line.reason}")
    print(", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items()))
    spent = _time(table["minutes"], "not noted for all")
    left = _time(table["minutes_left"], "not known on this device before a run of each size")
    print(f"training by one worker: spent {spent}, left {left}")
    return 0


def _time(minutes: Any, unknown: str) -> str:
    total = minutes.sum(skipna=False)
    return unknown if total != total else f"{total / 60:.1f} hours" if total > 120 else f"{total:.0f} minutes"


def study_status(args: argparse.Namespace) -> int:
    from ddgan_core import study

    table = study.status(asked_for(args))
    if not args.json:
        return show(table)
    print(table.to_json(orient="records", indent=1))
    return 0


def study_run(args: argparse.Namespace) -> int:
    if args.on == "ray":
        refuse(args, ("workers", "device"), "not with --on ray, which places tasks by --threads and --gpus")
    else:
        refuse(args, ("gpus", "address"), "only with --on ray")
    device, what = prepare(args), asked_for(args)
    from ddgan_core import study

    how = {"minutes": args.minutes}
    if args.on == "ray":
        threads = args.threads or 1
        table = study.run_on_ray(what, threads=threads, gpus=args.gpus or 0.0, address=args.address, **how)
    elif args.workers is not None:
        threads = args.threads or max(1, default_threads() // args.workers)
        table = study.run_local(what, args.preset, args.study, args.workers, threads=threads, device=args.device, **how)
    else:
        table = study.run(what, device=device, **how)
    return show(table)


def study_table(args: argparse.Namespace) -> int:
    from ddgan_core.notebook.documents import TABLES, markdown, write_table

    make, usual, _ = TABLES[args.of]
    table = make(preset=args.preset or usual)
    if args.write is not None and args.preset not in (None, usual):
        raise UserError(f"--preset {args.preset} with --write: the marks of {args.of} are of {usual}; leave one out")
    if args.write is None:
        print(markdown(table))
    else:
        print(f"{args.write}: {'new results' if write_table(args.write, table, args.of) else 'as it was'}")
    return 0


def study_slurm(args: argparse.Namespace) -> int:
    from ddgan_core import study
    from ddgan_core.study.executors import slurm_script

    what = asked_for(args)
    if not (missing := [cell.run_id for cell in study.to_do(what)]):
        raise UserError(f"every run of {what.name} is done or has failed: there is nothing to put into a queue")
    words = [sys.executable, "-m", "ddgan_core", "study", "run", "--study", args.study, "--preset", args.preset]
    words += ["--threads", str(args.threads), "--cell"]
    print(slurm_script(missing, words, minutes=args.minutes, cpus=args.threads, gpus=args.gpus or 0), end="")
    return 0


def study_export(args: argparse.Namespace) -> int:
    from ddgan_core.study.transfer import TOO_LARGE, export_runs

    paths, left_out = export_runs(args.output, args.run, args.dataset)
    for path in paths:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if not paths and not left_out:
        print("no run has ended: there is nothing to export", file=sys.stderr)
    for what in dict.fromkeys(left_out.values()):
        whose = ", ".join(name for name, why in left_out.items() if why == what)
        then = "copy what `study ship` makes of them" if what == TOO_LARGE else "export these with --run, elsewhere"
        print(f"no room for {whose} ({what}): {then}", file=sys.stderr)
    return 0


def study_import(args: argparse.Namespace) -> int:
    from ddgan_core.study import write_tables
    from ddgan_core.study.transfer import import_runs

    for name, what in import_runs(args.files).items():
        print(f"{name}: {what}")
    write_tables()
    return 0


def study_ship(args: argparse.Namespace) -> int:
    from ddgan_core import study

    target = study.ship(open_run(args))
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, bfloat16")
    return 0


def study_classifier(args: argparse.Namespace) -> int:
    prepare(args)
    from ddgan_core.runner import make_classifier

    facts = make_classifier(args.output)
    print(f"{args.output}: test accuracy {facts['test_accuracy']:.4f}")
    return 0
