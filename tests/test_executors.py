"""Processes, tasks and scripts that do the runs: order, width, restarts, and the same results whoever does them."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from ddgan_core import UserError
from ddgan_core.runs import Run
from ddgan_core.study import Study, executors, make_study, run, run_local, run_on_ray, toys_study
from ddgan_core.study import work as study_work
from ddgan_core.study.executors import local, on_ray, slurm_script

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def package_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_so_many_at_a_time_in_order(tmp_path: Path) -> None:
    def command(job: str) -> list[str]:
        code = "import sys, time; f = open(sys.argv[1], 'a'); f.write(f'{time.monotonic()} '); f.flush(); "
        return [*python(code + "time.sleep(.4); f.write(f'{time.monotonic()} ')"), str(tmp_path / job)]

    jobs = ["a", "b", "c", "d", "e"]
    assert local(jobs, command, workers=2) == dict.fromkeys(jobs, 0)
    spans = {job: [float(t) for t in (tmp_path / job).read_text().split()] for job in jobs}
    for begin, _ in spans.values():
        assert sum(b <= begin < e for b, e in spans.values()) <= 2
    begins = [spans[job][0] for job in jobs]
    assert max(begins[:2]) < min(begins[2:4]) < begins[4]


def test_a_killed_process_is_started_again_an_error_is_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    note = f"import os, pathlib; p = pathlib.Path({str(log)!r}); n = len(p.read_text()) if p.exists() else 0; "
    note += "p.write_text('x' * (n + 1)); "
    code = {
        "killed": note + "os.kill(os.getpid(), 9) if n < 2 else print('third time')",
        "wrong": "raise SystemExit(5)",
    }
    assert local(list(code), lambda job: python(code[job]), workers=1) == {"killed": 0, "wrong": 5}
    out, err = capfd.readouterr()
    assert out == "third time\n"
    assert err.count("killed: killed by signal 9, started again") == 2


def test_it_gives_up_after_so_many_tries() -> None:
    command = python("import os; os.kill(os.getpid(), 9)")
    assert local(["job"], lambda job: command, workers=1) == {"job": -9}


def test_when_time_is_up_no_more_are_started(capfd: pytest.CaptureFixture[str]) -> None:
    commands = {"a": python("0"), "b": None, "c": python("0")}
    assert local(list(commands), commands.__getitem__, workers=1) == {"a": 0}
    killed = iter([python("import os; os.kill(os.getpid(), 9)"), None])
    assert local(["a"], lambda job: next(killed), workers=1) == {}, "nor again: it goes on another time"
    assert "started again" not in capfd.readouterr().err


def test_a_reader_that_has_gone_stops_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a pipe holds, and nobody to hear it: as by `| head`."""

    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(executors, "print", gone, raising=False)
    assert local(["a"], lambda job: python("print('x' * 200_000); [print(k) for k in range(9999)]"), 1) == {"a": 0}


def test_processes_are_spread_over_the_places_that_are_free(capfd: pytest.CaptureFixture[str]) -> None:
    """The first holds its place while three others go through the second."""
    code = "import sys, time; print(*sys.argv[1:]); time.sleep(2 if sys.argv[1] == 'a' else .1)"
    jobs = ["a", "b", "c", "d"]
    assert local(jobs, lambda job: [*python(code), job], 2, places=[["x"], ["y"]]) == dict.fromkeys(jobs, 0)
    assert sorted(capfd.readouterr().out.splitlines()) == ["a x", "b y", "c y", "d y"]


def test_the_last_lines_of_a_process_come_before_it_counts_as_ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Though who prints them is slow."""
    slow = print
    monkeypatch.setattr(executors, "print", lambda *a, **k: (time.sleep(0.2), slow(*a, **k)), raising=False)
    assert local(["a"], lambda job: python("print('one\\ntwo\\nthree')"), workers=1) == {"a": 0}
    assert capfd.readouterr().out == "one\ntwo\nthree\n"


def test_a_job_named_twice_is_done_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert local(["a", "a"], lambda job: python("print('once')"), workers=2) == {"a": 0}
    assert capfd.readouterr().out == "once\n"


def test_no_workers_are_refused() -> None:
    with pytest.raises(UserError, match="workers = 0: 1 or more"):
        local(["a"], lambda job: python("0"), workers=0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_reaches_every_process(how: signal.Signals, tmp_path: Path) -> None:
    """And nothing else does: Ctrl-C is sent to all of the group of the process that started them."""
    child = (
        "import signal, sys, time, pathlib; p = pathlib.Path(sys.argv[1]); "
        "signal.signal(signal.SIGTERM, lambda *a: (p.write_text('stopped'), sys.exit(143))); p.write_text('on'); "
        "time.sleep(60)"
    )
    parent = (
        "import sys; from ddgan_core.study.executors import local; "
        f"local(['a', 'b'], lambda j: [sys.executable, '-S', '-c', {child!r}, {str(tmp_path)!r} + '/' + j], 2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell puts aside ignores it
    )  # fmt: skip
    files = [tmp_path / "a", tmp_path / "b"]
    for _ in range(3000):
        if all(f.exists() and f.read_text() == "on" for f in files):
            break
        time.sleep(0.02)
    os.killpg(process.pid, how)
    assert process.wait(60) == (143 if how == signal.SIGTERM else -how)
    assert [f.read_text() for f in files] == ["stopped", "stopped"]


def test_a_slurm_script_runs_its_element(tmp_path: Path) -> None:
    words = [sys.executable, "-S", "-c", "import sys; print('did', sys.argv[1])"]
    text = slurm_script(["one", "two two"], words, minutes=90, cpus=4, gpus=1)
    for line in ("#SBATCH --array=0-1", "#SBATCH --time=01:30:00", "#SBATCH --cpus-per-task=4", "#SBATCH --gpus=1"):
        assert line in text.splitlines()
    (tmp_path / "srun").write_text('#!/bin/sh\ntest "${1%=*}" = --cpus-per-task && shift && exec "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(["bash", "-s"], input=text, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "did two two\n"
    assert "--gpus" not in slurm_script(["one"], words, minutes=1, cpus=1, gpus=0)


def test_a_stopped_slurm_element_is_queued_again(tmp_path: Path) -> None:
    text = slurm_script(["one"], [sys.executable, "-S", "-c", "raise SystemExit(143)"], minutes=9, cpus=1, gpus=0)
    (tmp_path / "srun").write_text('#!/bin/sh\ntest "${1%=*}" = --cpus-per-task && shift && exec "$@"\n')
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@"\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "17",
    }  # fmt: skip
    done = subprocess.run(["bash", "-s"], input=text, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "requeue 17_0\n")


# The same cells by each executor; only seconds may differ.
CELLS = ("non_saturating_js_T01_s0_smoke", "wasserstein_T02_s0_smoke", "ddpm_T50_s0_smoke")


def outcomes(results: Path) -> dict[str, tuple[str, bytes, pd.DataFrame]]:
    found = {}
    for cell in make_study("paper", "smoke", CELLS).cells:
        there = Run(cell, results)
        assert there.status["state"] == "done"
        scores = there.evaluations.drop(columns=["seconds_per_image", "commit"])  # someone may commit meanwhile
        found[cell.run_id] = there.status["weights_hash"], (there.path / "history.csv.xz").read_bytes(), scores
    return found


def assert_same(a: Path, b: Path) -> None:
    one, other = outcomes(a), outcomes(b)
    for run_id in CELLS:
        assert one[run_id][:2] == other[run_id][:2]
        pd.testing.assert_frame_equal(one[run_id][2], other[run_id][2])


@pytest.mark.slow
def test_processes_end_as_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one is killed while it trains, and started again."""
    study = make_study("paper", "smoke", CELLS)
    monkeypatch.setenv("DDGAN_RESULTS", str(tmp_path / "serial"))
    run(study, progress=False)
    monkeypatch.setenv("DDGAN_RESULTS", str(tmp_path / "local"))
    start, begun = executors._start, []

    def start_and_kill_the_first(words: list[str]) -> "tuple[subprocess.Popen[str], threading.Thread]":
        begun.append(start(words))
        if len(begun) == 1:
            for _ in range(6000):
                if list((tmp_path / "local").glob("runs/*/*/.lock")):
                    break
                time.sleep(0.01)
            begun[0][0].kill()
        return begun[-1]

    monkeypatch.setattr(executors, "_start", start_and_kill_the_first)
    table = run_local(study, "smoke", "paper", workers=2, threads=1, device="cpu")
    assert len(begun) == len(CELLS) + 1
    assert table.state.tolist() == ["done"] * 3
    assert_same(tmp_path / "serial", tmp_path / "local")


def ray_workers() -> list[int]:
    """The processes that are at a task just now; Ray puts the task's name into their titles."""
    titles = {path.parent.name: path for path in Path("/proc").glob("[0-9]*/cmdline")}
    found = []
    for pid, path in titles.items():
        with contextlib.suppress(OSError):
            if path.read_text().startswith("ray::_do"):
                found.append(int(pid))
    return found


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_ends_as_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node has one CPU; a worker is killed in the middle of a run, and Ray does its task again."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    short = make_study("paper", "smoke", CELLS)
    study = replace(short, cells=tuple(cell.changed(updates=10 * cell.updates) for cell in short.cells))
    monkeypatch.setenv("DDGAN_RESULTS", str(tmp_path / "serial"))
    run(study, progress=False)
    monkeypatch.setenv("DDGAN_RESULTS", str(tmp_path / "ray"))
    killed = []

    def kill_one() -> None:
        for _ in range(6000):
            if list((tmp_path / "ray").glob("runs/*/*/.lock")) and (workers := ray_workers()):
                time.sleep(0.5)
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
                return
            time.sleep(0.02)

    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, include_dashboard=False)
        thread = threading.Thread(target=kill_one)
        thread.start()
        run_on_ray(study, threads=1, address=cluster.address)
        thread.join()
    finally:
        cluster.shutdown()
    assert len(killed) == 1
    assert_same(tmp_path / "serial", tmp_path / "ray")


@pytest.mark.parametrize(
    "study", [make_study("paper", "smoke", CELLS[:1]), toys_study("smoke", rows=["kl"], steps=[1])]
)
def test_what_a_ray_task_is_given_travels_and_does_its_cell(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task reaches its worker as bytes. Ray itself is stood in for."""

    def on_ray(jobs: list[str], task: Callable[[str], None], **how: object) -> dict[str, str]:
        return {job: pickle.loads(pickle.dumps(task))(job) or "" for job in jobs}

    monkeypatch.setattr(study_work, "on_ray", on_ray)
    first = replace(study, cells=study.cells[:1])
    assert run_on_ray(first).state.tolist() == ["done"]


def test_what_ray_cannot_place_or_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that no node has room for would wait for ever. Ray itself is stood in for: what it says is what counts."""
    asked, done = {}, []

    def start(**how: object) -> None:
        asked.update(how)
        if how["address"]:
            raise Exception("nobody\nanswers")

    ray = SimpleNamespace(
        is_initialized=lambda: False,
        init=start,
        shutdown=lambda: done.append(1),
        cluster_resources=lambda: {"CPU": 2.0},
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("DDGAN_RESULTS", "here")
    monkeypatch.setenv("DDGAN_COMMIT", "abc1234")
    for how, words in {
        (("gpus", 1.5),): "gpus = 1.5: a share of one GPU, or a whole number",
        (("gpus", 0.25),): "a task of 0.25 GPUs would wait for ever: Ray sees 0",
        (("cpus", 3),): "a task of 3 CPUs would wait for ever: Ray sees 2",
        (("address", "nowhere"),): "address 'nowhere': no Ray cluster there .nobody answers",
    }.items():
        with pytest.raises(UserError, match=words):
            on_ray(["job"], print, **dict(how))
    assert done == [1, 1]  # what was started is stopped
    told = asked["runtime_env"]["env_vars"]
    assert told["DDGAN_RESULTS"] == str(Path("here").resolve()), "a worker is in another folder"
    assert told["DDGAN_COMMIT"] == "abc1234", "which is no path"


def test_status_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    from ddgan_core.__main__ import main

    assert main(["study", "status", "--preset", "smoke", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {line["state"] for line in table} == {"missing"}
    assert {"run_id", "step", "updates", "minutes", "minutes_left", "scores", "reason"} <= table[0].keys()
