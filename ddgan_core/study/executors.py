"""Where the runs of a study are done: a process for each on this machine, tasks on a Ray cluster, a Slurm array.

All three do the same: a run resumes from its last checkpoint wherever it is asked for again, so that an executor only
has to start it, and start it again when its process dies. The folder of results is shared between all of them.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ddgan_core import UserError

RETRIES = 3  # a process that dies goes on from its checkpoint, so trying again is cheap
LAST_LINES = 5.0  # seconds to print what an ended process left; a child of its own may hold the pipe open for longer


def local(
    jobs: Sequence[str], command: Callable[[str], list[str] | None], workers: int, places: Sequence[list[str]] = ([],)
) -> dict[str, int]:
    """Run `command(job)` for each job, `workers` processes at a time, in order; {job: exit status} of those that ended.

    A process that a signal killed is started again, RETRIES times. A command of None means that time is up: no more
    are started, nor started again. places: words added to the command, of a place that fewest of the processes have at
    that time. What the processes print is printed line by line. On SIGTERM or Ctrl-C the processes get SIGTERM, leave
    their checkpoints, and are waited for.
    """
    if workers < 1:
        raise UserError(f"workers = {workers}: 1 or more")
    waiting, killed = list(dict.fromkeys(jobs)), {job: list[int]() for job in jobs}  # by which signals
    running: dict[str, tuple[subprocess.Popen[str], threading.Thread, list[str]]] = {}
    ended: dict[str, int] = {}
    with _sigterm_as_exit():
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    if (words := command(job)) is None:
                        waiting.clear()
                        break
                    if killed[job]:
                        print(f"{job}: killed by signal {killed[job][-1]}, started again", file=sys.stderr, flush=True)
                    taken = [place for *_, place in running.values()]
                    place = min(places, key=taken.count)
                    running[job] = (*_start([*words, *place]), place)
                for job, (process, reader, _) in list(running.items()):
                    if (code := process.poll()) is None:
                        continue
                    reader.join(LAST_LINES)
                    del running[job]
                    if code < 0 and len(killed[job]) < RETRIES:
                        killed[job].append(-code)
                        waiting.insert(0, job)
                    else:
                        ended[job] = code
                time.sleep(0.05)
        finally:
            for process, *_ in running.values():
                process.terminate()
            for process, reader, _ in running.values():
                process.wait()
                reader.join(LAST_LINES)
    return ended


def _start(words: list[str]) -> "tuple[subprocess.Popen[str], threading.Thread]":
    """The process, and the thread that prints what it prints."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        process_group=0,  # a terminal's Ctrl-C goes to all of this process's group: they are to get SIGTERM, and save
    )  # fmt: skip

    def show() -> None:
        for line in process.stdout or ():  # to its end, heard or not: a full pipe would stop the process
            with suppress(BrokenPipeError):
                print(line, end="", flush=True)

    reader = threading.Thread(target=show, daemon=True)
    reader.start()
    return process, reader


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """SIGTERM unwinds the stack as Ctrl-C does, so that `finally` clauses run; then the exit status is 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def on_ray(
    jobs: Sequence[str], work: Callable[[str], object], *, address: str | None = None, cpus: int = 1, gpus: float = 0.0
) -> dict[str, str]:
    """Run `work(job)` as a Ray task for each job (extra `cluster`); {job: "" or why it failed}.

    address: of an existing cluster ("auto" for the one this machine belongs to); without it, one is started here and
    stopped at the end. cpus, gpus: what a task takes; 0.25 of a GPU puts four runs on one. A task whose worker dies is
    done again by Ray, RETRIES times. `work` and what it needs must be importable on every node.
    Raises UserError where there is no Ray, no cluster, or, on one started here, never room for such a task.
    """
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"gpus = {gpus:g}: a share of one GPU, or a whole number of them")
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed: pip install 'ddgan-divergences[cluster]', or use --on local") from None
    if own := not ray.is_initialized():
        environment = {name: value for name, value in os.environ.items() if name.startswith("DDGAN_") and value}
        for name in environment.keys() - {"DDGAN_COMMIT"}:  # the others are paths, and a worker is in another folder
            environment[name] = os.path.abspath(environment[name])
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        try:
            ray.init(
                address=address, runtime_env={"env_vars": environment}, logging_level="warning",
                include_dashboard=None if address else False,
            )  # fmt: skip
        except Exception as error:  # Ray raises plain ones, too
            what = f"address {address!r}: no Ray cluster there" if address else "Ray does not start here"
            raise UserError(f"{what} ({' '.join(str(error).split()[:30])})") from None
    try:
        if own and not address:  # another cluster may grow
            there = ray.cluster_resources()
            for kind, asked in (("CPU", cpus), ("GPU", gpus)):
                if asked > there.get(kind, 0):
                    raise UserError(f"a task of {asked:g} {kind}s would wait for ever: Ray sees {there.get(kind, 0):g}")
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_do)
        pending = {task.remote(work, job): job for job in jobs}
        ended: dict[str, str] = {}
        while pending:
            (finished,), _ = ray.wait(list(pending))
            try:
                ray.get(finished)
                ended[pending[finished]] = ""
            except ray.exceptions.RayError as error:
                ended[pending[finished]] = str(error).strip().splitlines()[-1]
            del pending[finished]
        return ended
    finally:
        if own:
            ray.shutdown()


def _do(work: Callable[[str], object], job: str) -> None:
    """Ray's tasks are functions that it can import: a partial is not."""
    work(job)


def slurm_script(jobs: Sequence[str], command: Sequence[str], *, minutes: float, cpus: int, gpus: int) -> str:
    """A Slurm array, one element for each job: `command JOB`. It is told to stop two minutes before its time is over,
    leaves a checkpoint, and is put into the queue again."""
    hours, rest = divmod(max(5, round(minutes)), 60)
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=ddgan",
        f"#SBATCH --array=0-{len(jobs) - 1}",
        f"#SBATCH --time={hours:02d}:{rest:02d}:00",
        f"#SBATCH --cpus-per-task={cpus}",
        *([f"#SBATCH --gpus={gpus}"] if gpus else []),
        "#SBATCH --requeue",
        "#SBATCH --signal=TERM@120",
        "#SBATCH --output=%x_%A_%a.log",
        "",
        f"jobs=({' '.join(map(shlex.quote, jobs))})",
        f'srun --cpus-per-task={cpus} {shlex.join(command)} "${{jobs[$SLURM_ARRAY_TASK_ID]}}"',
        "code=$?",
        '[ "$code" -eq 143 ] && scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"
