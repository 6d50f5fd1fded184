"""The study at work: what is said of its cells, slots of time, and what stops one cell alone."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddgan_core import UserError, runner, study
from ddgan_core.__main__ import main
from ddgan_core.evaluation import samples, scoring
from ddgan_core.evaluation.piles import TimeIsUp
from ddgan_core.locks import alone, is_held
from ddgan_core.runs import Run
from ddgan_core.study import Study, configure, make_study, run, status
from ddgan_core.study import work as study_work

ROOT = Path(__file__).parent.parent


def test_minutes_left_are_this_devices_own(results: Path) -> None:
    one, other = configure("smoke", T=1, updates=4), configure("smoke", T=2, updates=8)
    whole = Study("", (one, other))
    assert status(whole).minutes_left.isna().all()
    trained = runner.train_run(one, progress=False)
    facts = {"step": 4, "device": study_work.device_name("cpu"), "weights_hash": ""}
    trained.set_status("done", seconds=120.0, **facts)
    table = status(whole)
    assert table.minutes_left.tolist() == [0, 4]  # half a minute an update
    assert status(Study("", (other.changed(precision="bf16", tag="bf16"),))).minutes_left.isna().all(), "another pace"
    assert table.state.tolist() == ["done", "missing"]
    trained.set_status("done", seconds=120.0, **facts | {"device": "CPU, 64 threads"})
    assert status(whole).minutes_left.tolist() == [0, 4]
    trained.set_status("running", seconds=30.0, **facts | {"step": 1})
    assert status(whole).minutes_left.tolist() == [1.5, 4], "a stopped run's pace is that of the updates it made"
    trained.set_status("done", seconds=120.0, **facts | {"device": "another"})
    assert status(whole).minutes_left.isna()[1]
    trained.set_status("done", seconds=120.0, **facts)
    (trained.path / "ema.safetensors").unlink()  # as of a run that was made elsewhere and imported
    assert status(whole).minutes_left.isna().tolist() == [False, True], "what is done needs no more time"


def test_a_slot_of_time_scores_what_is_trained_first(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = configure("smoke", T=1, updates=4), configure("smoke", T=2, updates=4)
    runner.train_run(other, progress=False)
    order = []
    monkeypatch.setattr(study_work, "score", lambda run, **how: order.append(("scored", run.config.run_id)))
    whole = runner.train_run

    def train_run(config, **how):
        order.append(("trained", config.run_id))
        return whole(config, **how)

    monkeypatch.setattr(study_work, "train_run", train_run)
    run(Study("", (one, other)), progress=False)
    assert [what for what in order if what[0] == "scored"] == [("scored", other.run_id), ("scored", one.run_id)]


def test_workers_are_given_what_lacks_something(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, fresh, trained = (configure("smoke", T=T, updates=2) for T in (1, 2, 3))
    run(Study("", (whole,)), progress=False)
    runner.train_run(trained, progress=False)
    jobs = []
    monkeypatch.setattr(study_work, "local", lambda cells, *rest, **how: jobs.extend(cells) or {})
    study.run_local(Study("", (whole, fresh, trained)), "smoke", "paper", workers=2)
    assert jobs == [trained.run_id, fresh.run_id]


def test_a_training_that_diverged_is_a_result_and_not_tried_again(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = (make_study("paper", "smoke").cells[k] for k in (1, 2))
    Run.create(bad).set_status("failed", "step 3: the critic's loss is nan", step=3)
    monkeypatch.setattr(study_work, "train_run", lambda cell, **how: pytest.fail("it was trained again"))
    assert study.to_do(Study("", (bad, good))) == [good]
    monkeypatch.setattr(study_work, "local", lambda cells, *rest, **how: dict.fromkeys(cells, 0))
    for table in (run(Study("", (bad,))), study.run_local(Study("", (bad,)), "smoke", "paper", workers=2)):
        (line,) = table.to_dict("records")
        assert (line["state"], line["step"], line["minutes_left"] > 0) == ("failed", 3, False)
        assert line["reason"].startswith("step 3: the critic's loss is nan; a result")
        assert "`train` it" in line["reason"]
    study.complete(bad)  # as a worker does whose list is older than the failure
    assert Run(bad).status["state"] == "failed"
    cells = ["--cell", bad.run_id, "--cell", good.run_id]
    assert main(["study", "slurm", "--preset", "smoke", *cells]) == 0
    assert f"jobs=({good.run_id})" in capsys.readouterr().out
    assert main(["study", "slurm", "--preset", "smoke", *cells[:2]]) == 2
    assert "is done or has failed: there is nothing to put into a queue" in capsys.readouterr().err


def test_a_failed_run_is_tried_again_by_train(results: Path) -> None:
    failed = Run.create(configure("smoke", T=1, updates=2))
    failed.set_status("failed", "step 1: the critic's loss is nan", step=1)
    assert runner.train_run(failed.config, progress=False).status["state"] == "done"


def test_workers_are_spread_over_the_gpus(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(study_work, "local", lambda cells, *rest, places: asked.append(places) or {})
    for count, device, kind in ((2, None, "paper"), (2, "cuda:1", "paper"), (2, None, "toys"), (1, None, "paper")):
        monkeypatch.setattr(study_work.torch.cuda, "device_count", lambda count=count: count)
        study.run_local(Study("", (configure("smoke", T=1),)), "smoke", kind, workers=2, device=device)
    assert asked == [[["--device", "cuda:0"], ["--device", "cuda:1"]], [[]], [[]], [[]]]


def test_workers_are_given_the_minutes_that_are_left_and_none_is_started_without(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, given = configure("smoke", T=1), []
    monkeypatch.setattr(study_work, "time", SimpleNamespace(monotonic=lambda: 0.0))  # none passes
    monkeypatch.setattr(study_work, "local", lambda cells, command, *rest, **how: given.append(command(*cells)) or {})
    for minutes in (2, 0.0004, 0, None):
        study.run_local(Study("", (cell,)), "smoke", "paper", workers=1, minutes=minutes)
    first, *late, unlimited = given
    assert first[-2:] == ["--minutes", "2.000"]
    assert late == [None, None]
    assert "--minutes" not in unlimited


def test_a_slot_ends_with_a_checkpoint_and_the_next_goes_on(results: Path) -> None:
    cell = configure("smoke", T=1, updates=10**6)
    after = make_study("paper", "smoke").cells[-1]
    table = run(Study("", (cell, after)), minutes=1 / 60, progress=False)
    assert table.state.tolist() == ["stopped", "missing"]
    first = Run(cell).status["step"]
    assert 0 < first < 10**6
    table = run(Study("", (cell,)), minutes=1 / 60, progress=False)
    assert table.step[0] > first


def test_after_the_deadline_no_score_is_begun(results: Path) -> None:
    trained = runner.train_run(configure("smoke", T=1, updates=2), progress=False)
    study.score(trained, deadline=time.monotonic() - 1)
    assert len(trained.evaluations) == 0
    study.score(trained)
    assert len(trained.evaluations) == 1


def test_a_run_with_other_settings_is_not_the_one_asked_for(results: Path, capsys: pytest.CaptureFixture) -> None:
    config = configure("smoke", T=1, updates=1)
    runner.train_run(config.changed(critic_detail=False), progress=False)
    assert study.ensure([config], False) == []
    assert f"{config.run_id} is here with other settings" in capsys.readouterr().out


def test_who_asks_for_a_run_is_not_refused_for_another_that_is_damaged(results: Path) -> None:
    bad, good, missing = (configure("smoke", T=T, updates=3) for T in (1, 2, 3))
    (Run.create(bad).path / "status.json").write_text('{"state": "do')
    Run.create(good)
    assert [r.config for r in study.ensure([good, missing], False)] == [good]
    with pytest.raises(UserError, match=f"{bad.run_id}/status.json is damaged"):
        study.ensure([good, bad], False)


def test_a_run_that_another_process_has_ended_meanwhile_is_left_alone(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Run.create

    def ended(config):
        made = create(config)
        made.set_status("done")
        return made

    monkeypatch.setattr(runner.Run, "create", ended)
    monkeypatch.setattr(runner, "_train", lambda *_: pytest.fail("it was trained again"))
    assert runner.train_run(configure("smoke", T=1), progress=False).status["state"] == "done"


def test_a_cell_that_another_process_takes_meanwhile_is_left_to_it(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the cells were listed. That is no failure of a study; who asks for the run is told, the others done."""
    held, free = make_study("paper", "smoke").cells[1:3]
    monkeypatch.setattr(study_work, "to_do", lambda study: list(study.cells))
    with alone(Run.create(held).lock, ""):
        assert main(["study", "run", "--preset", "smoke", "--cell", held.run_id, "--cell", free.run_id]) == 0
        assert "1 running, 1 done" in capsys.readouterr().out
        with pytest.raises(UserError, match=f"being trained by another process: {held.run_id}: wait for it, or stop"):
            study.ensure([held, free], True)


def test_a_cell_that_another_process_is_at_is_left_to_it(results: Path) -> None:
    """So that a study may be run twice at the same time."""
    held, free = (configure("smoke", T=T, updates=3) for T in (1, 2))
    with alone(Run.create(held).lock, ""):
        table = run(Study("two", (held, free)), progress=False)
    assert table["state"].tolist() == ["running", "done"]


def test_a_run_whose_weights_are_elsewhere_is_left_unscored(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a clone: done, with a score missing, and nothing to draw samples from. That is told, and is no error."""
    bare, free = make_study("paper", "smoke").cells[1:3]
    Run.create(bare).set_status("done")
    whole = Study("two", (bare, free))
    assert study.to_do(whole) == [free]
    assert [r.config for r in study.ensure([bare], True)] == [bare]
    cells = ["--cell", bare.run_id, "--cell", free.run_id]
    assert main(["study", "slurm", "--preset", "smoke", *cells]) == 0
    assert f"jobs=({free.run_id})" in capsys.readouterr().out
    table = run(whole, progress=False)
    assert table["state"].tolist() == ["done", "done"]
    assert table["scores"].str.startswith("0/").tolist() == [True, False]
    assert table["reason"].tolist() == ["its weights are not here", ""]
    assert study.to_do(whole) == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\n(and where)"), "CUDA out of memory.*2 GiB.$"),
        (NotImplementedError(), r"NotImplementedError\(\)$"),
    ],
)
def test_what_torch_refuses_in_one_cell_does_not_stop_the_others(
    error: RuntimeError, told: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = (configure("smoke", T=T, updates=3) for T in (1, 2))
    whole = runner.train_run

    def train_run(config, **how):
        if config == large:
            raise error
        return whole(config, **how)

    monkeypatch.setattr(study_work, "train_run", train_run)
    with pytest.raises(UserError, match=f"1 of 2 runs could not be done: {large.run_id}: {told}"):
        run(Study("two", (large, small)), progress=False)
    assert status(Study("two", (small,)))["scores"].tolist() == ["1/1"]
    assert (results / "tables" / "evaluations_digits.csv.xz").exists()


def test_a_damaged_cell_does_not_stop_the_others(results: Path) -> None:
    bad, good = (configure("smoke", T=T, updates=3) for T in (1, 2))
    (Run.create(bad).path / "status.json").write_text("{")
    with pytest.raises(UserError, match=f"{bad.run_id}/status.json is damaged"):
        run(Study("two", (bad, good)), progress=False)
    assert Run(good).status["state"] == "done"


def test_a_score_is_left_in_time_and_gone_on_with(
    results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of 200 images in batches of 50, those drawn before the time was up are not drawn again."""
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))
    trained = runner.train_run(configure("smoke", T=1, updates=2), progress=False)
    how, drawn, whole = {"n": 200, "features": "pixels"}, [], samples.sample_images
    monkeypatch.setattr(samples, "fast_batch", lambda *_: 50)

    def slow(step, steps, shape, n, seed, device, batch_size, start, begin):
        drawn.append(start)
        time.sleep(0.3)
        return whole(step, steps, shape, n, seed, device, batch_size, start, begin)

    monkeypatch.setattr(samples, "sample_images", slow)
    with pytest.raises(TimeIsUp, match="of 200 images are drawn"):
        scoring.evaluate(trained, **how, deadline=time.monotonic() + 0.5)
    assert drawn == [0]
    scoring.evaluate(trained, **how, deadline=time.monotonic() + 60)
    assert drawn == [0, 50, 100, 150]


def test_scores_counted_are_those_that_are_due(results: Path) -> None:
    from ddgan_core.evaluation.scoring import evaluate

    cell = configure("smoke", T=1, updates=2)
    made = runner.train_run(cell, progress=False)
    for other in ({"n": 50}, {"n": 200, "seed": 1}, {"n": 200, "reference": "train"}):
        evaluate(made, features="pixels", **other)  # not what the preset asks for
    assert status(Study("one", (cell,)))["scores"].tolist() == ["0/1"]
    study.work.score(made)
    assert status(Study("one", (cell,)))["scores"].tolist() == ["1/1"]


def test_training_and_scoring_need_no_more_than_a_bare_gpu_machine_has(results: Path) -> None:
    """Torch, numpy, pandas, matplotlib with Pillow, safetensors, tqdm; not the digits, which are scikit-learn's."""
    code = """
import importlib.machinery, sys
ABSENT = {"scipy", "sklearn", "torchvision", "seaborn", "papermill", "cleanfid", "nbformat", "nbconvert", "IPython",
          "jupyter_client", "ipywidgets", "ipykernel", "jaxtyping", "beartype", "ray", "latex2mathml", "diffusers"}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ModuleNotFoundError(spec.name)
    exec_module = create_module
sys.meta_path.insert(0, Absent())
import numpy
from ddgan_core import data
random = numpy.random.default_rng(0)
data._digits = lambda split: (random.integers(0, 256, (500, 1, 8, 8), dtype=numpy.uint8), numpy.arange(500) % 10)
from ddgan_core.__main__ import main
ids = "ddpm_T50_s0_smoke", "wasserstein_T01_s0_smoke"
assert main(["study", "run", "--preset", "smoke", "--threads", "1", *(w for i in ids for w in ("--cell", i))]) == 0
assert main(["study", "run", "--study", "toys", "--preset", "smoke", "--cell", "rare_kl_T01_toys_smoke"]) == 0
assert main(["study", "export", "-o", sys.argv[1]]) == 0
"""
    made = subprocess.run([sys.executable, "-c", code, str(results / "out")], capture_output=True, text=True, cwd=ROOT)
    assert made.returncode == 0, made.stderr
    assert "3/3" in made.stdout
    assert (results / "out" / "runs-1-of-1.zip").exists()


def test_who_only_asks_whether_a_run_is_held_refuses_nobody(results: Path) -> None:
    import threading

    made = Run.create(configure("smoke", T=1))
    (made.path / ".lock").touch()
    stop, asked = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            asked.append(is_held(made.lock))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(100):
            with alone(made.lock, ""):
                pass
    finally:
        stop.set()
        thread.join()
    assert asked
