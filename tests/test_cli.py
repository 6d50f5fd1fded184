"""The command line: each command does its work. Mistakes are in test_cli_mistakes.py."""

import argparse
import io
import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddgan_core.__main__ import main, of_the_system, prepare_streams
from ddgan_core.commands import HANDLERS
from ddgan_core.commands.arguments import make_parser
from ddgan_core.runner import emulates_bfloat16
from ddgan_core.runs import Run
from ddgan_core.study import configure

ROOT = Path(__file__).parent.parent
CPUINFO = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
INSTRUCTIONS = {word for line in re.findall(r"^flags.*", CPUINFO, re.M) for word in line.split()}
COMMANDS = ("train", "sample", "evaluate", "study status", "study run", "report", "doctor")


pytestmark = pytest.mark.usefixtures("outside")


def run(line: str) -> int:
    return main(line.split())


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        [sys.executable, "-m", "ddgan_core", *arguments], capture_output=True, text=True, env=variables, timeout=300
    )


def test_mistake_in_a_process_of_its_own():
    done = command("train", "--T", "1001")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_gives_an_example(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*name.split(), "--help"])
    assert f"example:\n  python -m ddgan_core {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["study", "bench"])
def test_help_of_a_group_names_its_parts(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    said = capsys.readouterr().out
    assert f"examples:\n  python -m ddgan_core {name} " in said
    named = re.search(rf"{name} \[-h\]\s+([\w|]+)", said)
    assert named is not None
    parts = re.findall(r"^    (\w+)  ", said, re.M)
    assert named[1].split("|") == parts


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom ddgan_core.__main__ import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_threads_are_pinned_before_torch_is_imported() -> None:
    """OpenMP reads OMP_NUM_THREADS once, when it is loaded."""
    code = (
        "import argparse, os, sys; from ddgan_core.commands import common; "
        "asked = common.default_threads; "
        "common.default_threads = lambda: print('torch' in sys.modules, asked() > 0, 'torch' in sys.modules) or 1; "
        "common.prepare(argparse.Namespace(threads=None)); print(os.environ['OMP_NUM_THREADS'])"
    )
    usual = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=usual)
    assert done.stdout.split() == ["False", "True", "False", "1"]


def test_train_sample_evaluate(results, capsys):
    """A run from nothing to a score; one that was stopped goes on; images do not depend on how they are asked for."""
    train = ["train", "--preset", "smoke", "--divergence", "squared_hellinger", "--T", "2"]
    train += ["--tag", "few", "--set", "updates=6"]
    name = "squared_hellinger_T02_s0_smoke_few"
    assert main([*train, "--minutes", "1e-9"]) == 0
    assert f"{name}: running" in capsys.readouterr().out
    assert main(train) == 0
    assert f"{name}: done at step 6 of 6" in capsys.readouterr().out
    assert main([*train, "--set", "batch_size=8"]) == 2
    assert "batch_size 16 there, 8 asked for" in capsys.readouterr().err

    assert main(["sample", "--run", name, "-n", "5", "-o", "new/grid.png"]) == 0
    assert Path("new/grid.png").read_bytes().startswith(b"\x89PNG")
    for n in "35":
        assert main(["sample", "--run", name, "-n", n, "--seed", "1", "-o", f"{n}.npy"]) == 0
    three, five = np.load("3.npy"), np.load("5.npy")
    assert (five.dtype, five.shape) == (np.uint8, (5, 1, 8, 8))
    assert (three == five[:3]).all()
    capsys.readouterr()
    for mistake in ("--steps 3", "--sampler ddim"):
        assert main(["sample", "--run", name, *mistake.split(), "-o", "no.png"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not Path("no.png").exists()

    evaluate = ["evaluate", "--run", name, "--features", "pixels", "--n", "20"]
    assert main(evaluate) == 0
    assert main(evaluate) == 0
    assert len((results / "runs/digits" / name / "evaluations.csv").read_text().splitlines()) == 2
    assert main(["evaluate", "--baseline", "noise", "--dataset", "digits", "--features", "pixels", "--n", "20"]) == 0
    assert (results / "baselines/digits.csv").exists()

    (results / "runs/digits" / name / "ema.safetensors").write_bytes(b"not weights")
    capsys.readouterr()
    assert main(["sample", "--run", name, "-o", "no.png"]) == 2
    assert "not a whole weights file" in capsys.readouterr().err


def test_what_the_system_refuses_is_said_of_the_file_that_was_meant() -> None:
    refused = PermissionError(13, "Permission denied", "out/.grid.png.27689-140343242996608.part")
    assert of_the_system(refused).startswith("out/grid.png: Permission denied: name another place")
    assert of_the_system(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"


def test_an_output_that_takes_no_such_character_is_given_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    monkeypatch.setattr(sys, "stderr", None)  # closed
    prepare_streams()
    print("\xb1", flush=True)
    print("nothing", file=sys.stderr)
    assert sys.stdout.buffer.getvalue() == b"\\xb1\n"


def test_of_a_run_that_is_done_elsewhere_it_is_said_how_to_get_weights(capsys):
    """As of most committed runs: `train` has nothing to do, `sample` nothing to draw from."""
    train, config = "train --preset smoke --T 1", configure("smoke", T=1)
    elsewhere = Run.create(config)
    assert run(f"sample --run {config.run_id} -o no.png") == 2
    assert "train it first" in capsys.readouterr().err
    elsewhere.set_status("done")
    way = f"`train` one like it under another tag (--tag again), or delete {elsewhere.path} to train it anew\n"
    assert run(train) == 0
    assert capsys.readouterr().out.splitlines(True)[1:] == [f"its weights were not shipped: {way}"]
    assert run(f"sample --run {config.run_id} -o no.png") == 2
    assert capsys.readouterr().err.endswith(f"has no weights here, its own or shipped ones: {way}")
    assert run(f"{train} --tag again") == 0
    assert f"next: python -m ddgan_core sample --run {config.run_id}_again" in capsys.readouterr().out
    assert run(f"sample --run {config.run_id}_again -n 4 -o grid.png") == 0
    shutil.rmtree(elsewhere.path)
    assert run(train) == 0
    assert run(f"sample --run {config.run_id} -n 4 -o grid.png") == 0


def test_a_score_is_shown_and_tabled_beside_a_run_that_is_damaged(results, capsys):
    """A line tells of a run that is damaged, once in a process. A damaged table is an error, after the score."""
    bad = Run.create(configure("smoke", T=1))
    (bad.path / "status.json").write_text('{"state": "do')
    evaluate = "evaluate --baseline noise --dataset digits --features pixels --n 20"
    assert run(evaluate) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^frechet +\d", out, re.M)
    assert err.count("\n") == 1
    assert f"passed over: {bad.path}/status.json is damaged" in err
    assert "noise" in lzma.decompress((results / "tables" / "evaluations_digits.csv.xz").read_bytes()).decode()
    (Run.create(configure("smoke", T=2)).path / "evaluations.csv").write_text("no,table\n")
    assert run(evaluate) == 2
    out, err = capsys.readouterr()
    assert re.search(r"^frechet +\d", out, re.M)
    assert err.count("\n") == 1
    assert "evaluations.csv is no table of scores" in err


def test_ddpm_is_sampled_in_fewer_steps(capsys):
    assert run("train --preset smoke --method ddpm --tag few --set updates=4") == 0
    assert run("sample --run ddpm_T50_s0_smoke_few -n 4 --sampler ddim --steps 5 -o grid.png") == 0
    assert "ddim, 5 steps" in capsys.readouterr().out


def test_diverged_training_ends_in_one_line(capsys):
    arguments = "train --preset smoke --divergence wasserstein --tag few --set lr_critic=1e30 --set updates=50"
    assert run(arguments) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("ddgan_core: training diverged: step ")


def test_what_does_not_fit_into_memory_is_one_line(capsys):
    assert run("train --preset smoke --tag wide --set z_dim=100000000000000") == 1
    assert capsys.readouterr().err == "ddgan_core: error: not enough memory for such widths, batches or images\n"


@pytest.mark.parametrize(("precision", "emulated"), [("bf16", True), ("bf16", False), ("fp32", True)])
def test_training_in_an_emulated_bfloat16_says_that_it_is_slow(precision, emulated, monkeypatch, capsys):
    monkeypatch.setattr("ddgan_core.runner.emulates_bfloat16", lambda device: emulated)
    tag = f"{precision}-{emulated}"
    assert run(f"train --preset smoke --tag {tag} --set precision={precision} --set updates=1 --device cpu") == 0
    said = f"non_saturating_js_T04_s0_smoke_{tag}: bfloat16 is emulated here, some ten times as slow"
    assert (said in capsys.readouterr().err) == (precision == "bf16" and emulated)


@pytest.mark.skipif(not INSTRUCTIONS, reason="needs /proc/cpuinfo of an x86 processor")
def test_a_cpu_without_avx_512_emulates_bfloat16():
    assert emulates_bfloat16("cpu") == (not {"avx512vl", "avx512bw", "avx512dq"} <= INSTRUCTIONS)


def test_study_status(capsys):
    assert main(["study", "status", "--preset", "smoke"]) == 0
    out = capsys.readouterr().out
    assert "squared_hellinger_T02_s0_smoke" in out
    assert out.splitlines()[-2].endswith(" missing")
    assert out.splitlines()[-1].startswith("training by one worker: spent 0 minutes, left ")


def test_doctor_names_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("DDGAN_INCEPTION", raising=False)
    assert main(["doctor"]) == 0
    lines = {line[6:30].strip(): line for line in capsys.readouterr().out.splitlines()}
    hints = {"FashionMNIST": "--dataset digits", "Inception weights": "DDGAN_INCEPTION", "trained weights": " train"}
    for name, hint in hints.items():
        assert lines[name].startswith("todo")
        assert hint in lines[name]
    for name in ("PyTorch", "packages", "digits", "disk", "threads", "bfloat16", "results"):
        assert lines[name].startswith("ok")
    assert "no run was trained here" in lines["time of a run"]
    assert list(tmp_path.glob("no-data")) == list(tmp_path.glob("cache")) == []


def test_a_reader_that_has_gone_is_no_error() -> None:
    """As with `study status | head`: nothing is said about a pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ddgan_core", "study", "status", "--preset", "smoke"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_a_ddgan_of_many_steps_is_sampled_by_all_of_them(tmp_path: Path) -> None:
    assert run("train --preset smoke --T 120 --tag one --set updates=1") == 0
    assert run(f"sample --run non_saturating_js_T120_s0_smoke_one -n 1 -o {tmp_path / 'one.png'}") == 0


def test_doctor_says_why_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    from ddgan_core import doctor

    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2)
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (6.0, 6.0, 6.0))
    config = configure("smoke", T=2)
    run = Run.create(config)
    run.set_status("done", seconds=180.0, device="CPU, 1 threads")
    (run.path / "checkpoints").mkdir()
    committed = Run.create(configure("smoke", T=1))  # whose weights and checkpoints are on another machine
    committed.set_status("done", seconds=6000.0, device="CPU, 1 threads")
    assert main(["doctor", "--threads", "1"]) == 0
    lines = {line[6:30].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert lines["device"].startswith("todo")
    assert "CUDA build" in lines["device"]
    assert lines["load"].startswith("todo")
    assert "3.0 times as long" in lines["load"]
    assert "1 of 2 cores; the rest is free" in lines["threads"]
    assert "on CPU, 1 threads: smoke ddgan 3 minutes; not measured" in lines["time of a run"]
    assert "2 finished runs of 2" in lines["results"]
    (results / "tables").mkdir()
    (results / "tables" / "bench_training_cpu_cpu_32.csv").write_text('device\n"CPU, 1 threads"\n')
    shutil.rmtree(run.path / "checkpoints")
    assert main(["doctor", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "no run was trained here, on CPU, 1 threads, yet; bench tables" in said
    assert "perhaps from another machine: bench_training_cpu_cpu_32" in said


def test_every_command_is_carried_out_by_something() -> None:
    def named(parser: argparse.ArgumentParser) -> set[str]:
        parts = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        inner = [named(each) for part in parts for each in part.choices.values()]
        return set().union(*inner, {parser.get_default("handler")} - {None})

    assert named(make_parser()) == set(HANDLERS)
