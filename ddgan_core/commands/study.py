"""`study` and its parts."""

import argparse
import sys

from ddgan_core import UserError
from ddgan_core.commands.common import default_threads, prepare, refuse


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
    if args.on == "ray":
        refuse(args, ("workers", "device"), "not with --on ray, which places tasks by --threads and --gpus")
    else:
        refuse(args, ("gpus", "address"), "only with --on ray")
    device = prepare(args)
    from ddgan_core import study

    what, how = study.make_study(args.study, args.preset, args.cell), {"minutes": args.minutes}
    if args.on == "ray":
        threads = args.threads or 1
        table = study.run_on_ray(what, threads=threads, gpus=args.gpus or 0.0, address=args.address, **how)
    elif args.workers is not None:
        threads = args.threads or max(1, default_threads() // args.workers)
        table = study.run_local(what, args.preset, args.study, args.workers, threads=threads, device=device, **how)
    else:
        table = study.run(what, device=device, **how)
    print(table.to_string(index=False, max_colwidth=60, na_rep="?"))
    return 0


def study_table(args: argparse.Namespace) -> int:
    from ddgan_core.summary import markdown, results_table, write_table

    table = results_table(preset=args.preset)
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
    if not paths:
        print("no run has ended: there is nothing to export", file=sys.stderr)
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
