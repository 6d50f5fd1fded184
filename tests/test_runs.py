"""What a run is: configs that survive the trip to disk, and everything that must be refused with one line."""

import hashlib
import json
import lzma
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ddgan_core import UserError
from ddgan_core.evaluation.scores import COLUMNS, load_evaluations, read_evaluations
from ddgan_core.runner import _record_every, train_run
from ddgan_core.runs import PRESETS, Run, RunConfig, all_runs, results_dir, write_atomic

SMOKE = RunConfig(**PRESETS["smoke"], preset="smoke")

ROOT = Path(__file__).parent.parent


def refusal(call: object, *args: object, **options: object) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_survives_json(preset: str) -> None:
    config = RunConfig(**PRESETS[preset], preset=preset, tag="lr3e-4", divergence="wasserstein", lr_critic=3.3e-4)
    again = RunConfig().changed(**json.loads(config.to_json()))
    assert again == config
    assert again.hash == config.hash
    assert isinstance(again.widths, tuple)


def test_the_hash_covers_every_field() -> None:
    others = {
        "dataset": "digits", "schedule": "linear", "preset": "full", "tag": "x", "precision": "bf16",
        "widths": (8,), "critic_widths": (8,), "critic_detail": True, "attention": True, "level_weight": 1e-3,
        "shared_fakes": True, "critic_divergence": "kl", "step_weights": (4, 3, 2, 1),
    }  # fmt: skip
    base = RunConfig()
    hashes = {base.hash, base.changed(divergence="kl").hash, base.changed(method="ddpm", divergence="none").hash}
    for field in fields(base):
        if field.name not in ("method", "divergence"):
            now = getattr(base, field.name)
            other = others[field.name] if field.name in others else now / 2 if isinstance(now, float) else now + 1
            hashes.add(base.changed(**{field.name: other}).hash)
    assert len(hashes) == len(fields(base)) + 1


def test_ten_and_ten_point_zero_are_one_configuration() -> None:
    a, b = RunConfig(penalty_weight=10), RunConfig(penalty_weight=10.0)
    assert a == b
    assert a.hash == b.hash


def test_ids_are_readable() -> None:
    assert RunConfig(divergence="squared_hellinger").run_id == "squared_hellinger_T04_s0_cpu"
    assert RunConfig(T=10, seed=2, tag="sweep-lr3e-4").run_id == "non_saturating_js_T10_s2_cpu_sweep-lr3e-4"
    assert RunConfig(method="ddpm", divergence="none", T=1000).run_id == "ddpm_T1000_s0_cpu"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("T", 0), ("T", 1001), ("T", -4), ("method", "gan"), ("precision", "fp16"), ("batch_size", 0),
        ("batch_size", -8), ("updates", 0), ("z_dim", -1), ("penalty_every", 0), ("critic_steps", 0), ("seed", -1),
        ("lr_generator", -1e-4), ("lr_critic", -1.0), ("lr_final", -1.0), ("penalty_weight", -0.1), ("ema_decay", 1.0),
        ("ema_decay", -0.1), ("widths", ()), ("widths", (8, -1)), ("widths", (8, 28)), ("critic_widths", (0,)),
        ("step_weights", (2, 1)), ("step_weights", (0, 1, 1, 1)), ("step_weights", (1, 1, 1, 1, 1)),
        ("lr_generator", float("nan")), ("penalty_weight", float("inf")), ("divergence", "none"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(field: str, value: object) -> None:
    assert field in refusal(SMOKE.changed, **{field: value})


@pytest.mark.parametrize("bad", ["../../etc", "a/b", "..", "/tmp", "a b", "x\n", "a\x00b"])
@pytest.mark.parametrize("field", ["dataset", "tag", "preset", "divergence"])
def test_no_name_leads_out_of_the_results(field: str, bad: str, results: Path) -> None:
    if field == "tag" and bad == "..":  # harmless: it ends the name of a folder
        assert Run(SMOKE.changed(tag=bad)).path.parent == results / "runs" / "digits"
        return
    message = refusal(SMOKE.changed, **{field: bad})
    assert field in message
    assert repr(bad) in message


def test_unknown_settings_are_refused_with_the_known_ones() -> None:
    message = refusal(SMOKE.changed, learning_rate=1)
    assert "learning_rate" in message
    assert "lr_generator" in message


def test_a_field_added_later_changes_no_older_run() -> None:
    older = json.loads(SMOKE.to_json())
    assert older.pop("attention") is RunConfig.attention  # as if it had not existed yet
    assert RunConfig().changed(**older) == SMOKE
    only_T = hashlib.sha256(b'{"T": 2}').hexdigest()[:12]
    assert RunConfig(T=2).hash == only_T
    assert RunConfig(T=2, attention=True).hash != only_T


def test_results_live_where_the_environment_says(results: Path) -> None:
    assert results_dir() == results
    assert Run(SMOKE).path.is_relative_to(results)
    assert list(results.iterdir()) == []  # looking writes nothing


def test_a_refused_tag_is_told_what_a_tag_may_be() -> None:
    message = refusal(SMOKE.changed, tag="a_b")
    assert "tag = 'a_b': letters, digits, '.' and '-' only" in message
    assert "'_' and '-' only" in refusal(SMOKE.changed, preset="Cpu")


def test_create_then_open(results: Path) -> None:
    run = Run.create(SMOKE)
    assert Run.open(SMOKE.run_id).config == SMOKE
    assert Run.open(SMOKE.run_id, "digits").path == run.path
    assert Run.create(SMOKE).path == run.path  # again is fine
    assert [r.config for r in all_runs()] == [SMOKE]
    assert all_runs("cifar10") == []
    assert run.status == {"state": "missing", "reason": ""}
    assert run.history.empty
    assert run.weights is None
    run.set_status("running", "stopped", step=3)
    assert run.status == {"state": "running", "reason": "stopped", "step": 3}


def test_an_unknown_id_is_refused_with_the_ids_there_are(results: Path) -> None:
    assert "none in" in refusal(Run.open, "kl_T04_s0_cpu")
    Run.create(SMOKE)
    message = refusal(Run.open, "kl_T04_s0_cpu")
    assert "'kl_T04_s0_cpu' does not exist" in message
    assert SMOKE.run_id in message
    assert "of cifar10 does not exist: there are none in" in refusal(Run.open, "kl_T04_s0_cpu", "cifar10")
    assert f"'{SMOKE.run_id}' of cifar10 does not exist: it is one of digits" in refusal(
        Run.open, SMOKE.run_id, "cifar10"
    )
    for dataset in ("../runs/digits", "**", "/etc", "digits/.."):
        refusal(Run.open, SMOKE.run_id, dataset)
        assert all_runs(dataset) == []
    for elsewhere in ("..", "../..", f"../digits/{SMOKE.run_id}", ""):
        refusal(Run.open, elsewhere)


def test_all_runs_are_those_that_opening_each_gives(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where two datasets have a run of one id, and one of three is not what its name says."""
    configs = [SMOKE.changed(dataset="cifar10"), SMOKE, SMOKE.changed(seed=1)]
    for config in configs:
        Run.create(config).set_status("running", "", step=3)
    found, opened = all_runs(), [Run.open(config.run_id, config.dataset) for config in configs]
    assert [run.config for run in found] == configs
    assert [vars(run) for run in found] == [vars(run) for run in opened]
    assert [run.config for run in all_runs("digits")] == configs[1:]
    found[1].path.rename(found[1].path.with_name("renamed"))
    assert "the folder was renamed" in refusal(lambda: all_runs(damaged=True))
    for _ in range(2):
        assert [run.config for run in all_runs()] == [configs[0], configs[2]]
    assert capsys.readouterr().err.count("passed over: ") == 1


def test_another_config_under_the_same_id_is_refused_field_by_field(results: Path) -> None:
    Run.create(SMOKE.changed(batch_size=99))  # nothing was trained by it, so that it holds no name
    run = Run.create(SMOKE)
    assert Run.read(run.path / "config.json").config == SMOKE
    run.set_status("running")
    before = (run.path / "config.json").read_bytes()
    message = refusal(Run.create, SMOKE.changed(batch_size=99, widths=(8, 24)))
    assert "batch_size 16 there, 99 asked for" in message
    assert "widths (8, 16) there, (8, 24) asked for" in message
    assert "updates" not in message
    assert "--tag" in message
    assert (run.path / "config.json").read_bytes() == before


def test_an_edited_config_is_refused(results: Path) -> None:
    path = Run.create(SMOKE).path / "config.json"
    path.write_text(path.read_text().replace('"batch_size": 16', '"batch_size": 32'))
    message = refusal(Run.open, SMOKE.run_id)
    assert "edited by hand" in message
    assert str(path) in message
    assert SMOKE.hash in message
    refusal(Run.create, SMOKE)
    refusal(lambda: all_runs(damaged=True))


def test_a_config_that_is_no_json_is_refused(results: Path) -> None:
    path = Run.create(SMOKE).path / "config.json"
    for content in (path.read_bytes()[:40], b"", b"[]", b"null", b"3", b"\xff\xfe\x00", b"[" * 100_000, b'{"T": 0}'):
        path.write_bytes(content)
        assert str(path) in refusal(Run.open, SMOKE.run_id)
        refusal(lambda: all_runs(damaged=True))


def test_a_renamed_folder_is_refused(results: Path) -> None:
    path = Run.create(SMOKE).path
    path.rename(path.with_name("kl_T04_s0_smoke"))
    assert "renamed" in refusal(Run.open, "kl_T04_s0_smoke")


def test_own_weights_come_before_shipped_ones(results: Path) -> None:
    run = Run.create(SMOKE)
    shipped = results / "checkpoints" / "digits" / f"{SMOKE.run_id}.safetensors.xz"
    write_atomic(shipped, b"shipped")
    assert run.weights == shipped
    write_atomic(run.path / "ema.safetensors", b"own")
    assert run.weights == run.path / "ema.safetensors"


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_whole_number_is_one_however_it_is_written() -> None:
    """In a process of its own: here arguments are checked against their annotations before the code sees them."""
    code = (
        "from ddgan_core.runs import RunConfig as C; "
        "print(C(updates=5000.0).hash == C(updates=5000).hash, C(seed=1.0).run_id == C(seed=1).run_id); "
        "C(batch_size=2.5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"]
    assert "UserError: batch_size = 2.5: a whole number" in done.stderr


def test_a_value_of_another_kind_is_refused() -> None:
    """In a process of its own: here the signatures are checked before the configuration is."""
    code = """
from ddgan_core import UserError
from ddgan_core.runs import RunConfig
wrong = {"updates": "5", "T": True, "critic_detail": "false", "widths": (8.0, 16), "seed": None, "tag": 3,
         "critic_widths": 8, "lr_critic": 10**400, "self": 1}
for change in ({name: value} for name, value in wrong.items()):
    try:
        RunConfig().changed(**change)
    except UserError as error:
        print(str(error).split()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == [
        "updates", "T", "critic_detail", "widths", "seed", "tag", "critic_widths", "lr_critic", "unknown",
    ]  # fmt: skip


def test_a_damaged_status_is_named(results: Path) -> None:
    run = Run.create(RunConfig())
    (run.path / "status.json").write_text('{"state": "do')
    for content in (
        b'{"state": "do', b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"state": "great", "reason": ""}',
        b'{"state": "done"}', b'{"state": "done", "reason": "", "step": "1"}',
        b'{"state": "done", "reason": "", "seconds": NaN}',
    ):  # fmt: skip
        (run.path / "status.json").write_bytes(content)
        with pytest.raises(UserError, match="status.json is damaged"):
            assert run.status


def test_a_status_edited_by_hand_is_named(results: Path) -> None:
    run = Run.create(SMOKE)
    run.set_status("done", step=SMOKE.updates)
    assert Run.open(SMOKE.run_id).status["state"] == "done"
    run.set_status("done", step=3)
    assert f"edited by hand: done at step 3 of {SMOKE.updates}" in refusal(Run.open, SMOKE.run_id)
    refusal(lambda: all_runs(damaged=True))


def test_a_status_without_a_configuration_is_half_a_copy(results: Path) -> None:
    run = Run.create(SMOKE)
    run.set_status("done", step=SMOKE.updates)
    (run.path / "config.json").unlink()
    with pytest.raises(UserError, match="no config.json"):
        assert run.status
    refusal(train_run, SMOKE)
    assert [path.name for path in run.path.iterdir()] == ["status.json"]


def test_a_history_has_as_many_records_as_are_drawn() -> None:
    """Ninety updates apart where that gives 50 to 200; every update of the shortest."""
    apart = {30: 1, 1_000: 20, 4_500: 90, 9_000: 90, 18_000: 90, 90_000: 450}
    assert {updates: _record_every(updates) for updates in apart} == apart


def test_tables_that_cannot_be_read_are_named(results: Path) -> None:
    run = Run.create(SMOKE)
    (run.path / "history.csv.xz").write_bytes(lzma.compress(b"\n"))  # of a run that was stopped before its first record
    assert run.history.empty
    whole = lzma.compress(b"a\n1\n")
    for content in (b"\xff\x00", whole[:-9], lzma.compress(b"a\n1\n2,3,4\n")):
        (run.path / "history.csv.xz").write_bytes(content)
        with pytest.raises(UserError, match=r"history.csv.xz is damaged"):
            assert run.history.empty
    for content in (b"", b"\xff\x00", b"a\n1\n2,3,4\n", b"a,b\n1,2\n", ",".join(COLUMNS).encode() + b"\n" + b"x," * 40):
        (run.path / "evaluations.csv").write_bytes(content)
        assert "evaluations.csv is no table of scores" in refusal(read_evaluations, run.path / "evaluations.csv")
        assert "evaluations.csv is no table of scores" in refusal(load_evaluations, "digits"), "many at once"
    (run.path / "evaluations.csv").write_text("n,frechet,tag\n10,2.5,x\n20,8.37575"[:-3])  # 8.37: another number
    assert "evaluations.csv is damaged (its last line is cut off)" in refusal(lambda: run.evaluations)
