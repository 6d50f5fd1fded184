"""The command line: each mistake is one line with a way out, and leaves nothing behind."""

import re
from pathlib import Path

import numpy as np
import pytest

from ddgan_core.__main__ import main
from ddgan_core.sampling import DDPM_STEPS
from ddgan_core.study import STUDIES

pytestmark = pytest.mark.usefixtures("outside")


def run(line: str) -> int:
    return main(line.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "command"),
        ("trian", "'trian'"),
        ("study", "status|run"),
        ("train --divergense kl", "--divergense"),
        ("train --divergence js", "'js' is not known: choose one of non_saturating_js"),
        ("train --method ddpm --divergence kl", "'kl' for a ddpm: it has none"),
        ("train --T 0", "'0' is not a whole number from 1 to 1000"),
        ("train --T 1001", "'1001' is not a whole number from 1 to 1000"),
        ("train --T four", "'four' is not a whole number from 1 to 1000"),
        ("train --method gan", "'gan': choose one of ddgan, ddpm"),
        ("train --preset huge", "'huge' is not known: choose one of smoke, short, cpu, full"),
        ("train --dataset mnist", "'mnist' is not known: choose one of fashion_mnist, cifar10, digits"),
        ("train --seed -1", "'-1' is not a whole number of 0 or more"),
        ("train --tag a/b", "'a/b'"),
        ("train --tag a_b", "'a_b': letters, digits, '.' and '-' only"),
        ("train --minutes 0", "'0' is not a number above 0"),
        ("train --minutes nan", "'nan' is not a number above 0"),
        ("train --method ddpm --T 50", "schedule linear of T = 50 ends with 0.6 of an image's variance"),
        ("train --tag lin --set schedule=linear", "choose schedule vp or cosine"),
        ("study run --on ray --gpus x", "'x' is not a number of 0 or more"),
        ("train --threads 0", "'0' is not a whole number from 1 to 1024"),
        ("train --threads 100000", "'100000' is not a whole number from 1 to 1024"),
        ("train --device tpu", "'tpu' is not known: choose cpu, cuda or cuda:N"),
        ("train --device cuda:99", "cuda:99"),
        ("train --data-dir nowhere", "'nowhere' is not a folder"),
        ("train --set lr_critic", "field=value"),
        ("train --set lr_critic=high", "lr_critic is a number"),
        ("train --set lr_critic=nan", "lr_critic is a number"),
        ("train --set lr_critic=-1", "0 or more"),
        ("train --set batch_size=99999999999999999999", "a whole number of 1 or more, below 2^63"),
        ("train --set batch_size=1.5", "batch_size is a whole number"),
        ("train --set widths=8,x", "widths is whole numbers separated by commas"),
        ("train --set step_weights=8,4", "step_weights = (8, 4): of each step t = 1..4 one, 1 or more"),
        ("train --tag a --set step_weights=1,2,3,99999999999999999999", "of the kind whole numbers below 2^63"),
        ("train --tag a --set widths=99999999999999999992", "of the kind whole numbers below 2^63"),
        ("train --method ddpm --tag a --set critic_detail=true", "--set critic_detail: of a GAN alone"),
        ("train --set attention=maybe", "attention is true or false"),
        ("train --set precision=fp8", "'fp8': choose one of fp32, bf16"),
        ("train --set T=4", "--T"),
        ("train --preset smoke --set updates=6", "--set updates=6: preset smoke has 30"),
        ("train --preset short --method ddpm --T 50 --set schedule=vp", "--set schedule=vp: preset short has linear"),
        ("train --set batch_size=32 --set updates=6", "give --tag NAME to keep it apart"),
        ("train --set speed=4", "give one of critic_divergence, schedule, widths"),
        ("sample", "--run"),
        ("sample --run nothing_T04", "'nothing_T04' does not exist"),
        ("sample --run nothing_T04 --dataset ../runs/digits", "'../runs/digits' is not known: choose one of"),
        ("sample --run nothing_T04 --dataset digits", "'nothing_T04' of digits does not exist"),
        ("evaluate --run nothing_T04 --dataset mnist", "'mnist' is not known: choose one of"),
        ("information --run nothing_T04 --dataset mnist", "'mnist' is not known: choose one of"),
        ("bands --run nothing_T04", "'nothing_T04' does not exist"),
        ("critics --run nothing_T04", "'nothing_T04' does not exist"),
        ("bands --run nothing_T04 --n 20", "'20' is not a whole number of 40 or more"),
        ("study ship --run nothing_T04 --dataset mnist", "'mnist' is not known: choose one of"),
        ("study export --dataset mnist", "'mnist' is not known: choose one of"),
        ("sample --run nothing_T04 -n -3", "'-3' is not a whole number of 1 or more"),
        ("sample --run nothing_T04 -o grid.gif", ".png"),
        ("evaluate", "one of --run ID"),
        ("evaluate --run a --baseline real", "one of --run ID"),
        ("evaluate --baseline noise --steps 3 --sampler ddim", "--sampler and --steps: only with --run"),
        ("evaluate --images nowhere.npy --seed 1", "--seed: not with --images"),
        ("evaluate --images nowhere.npy --dataset digits --features pixels", "nowhere.npy: give a folder of .png"),
        ("evaluate --run nothing_T04", "'nothing_T04' does not exist"),
        ("evaluate --baseline fake --dataset digits --features pixels", "'fake' is not known: choose real or noise"),
        ("evaluate --baseline real --dataset digits --n 1", "'1' is not a whole number of 2 or more"),
        ("evaluate --baseline real --dataset digits --features vgg", "'vgg' are not known"),
        ("evaluate --baseline real --dataset digits --features pixels vgg", "'vgg' are not known"),
        ("evaluate --baseline real --dataset digits --features pixels fashion_classifier", "images of 8x8"),
        ("evaluate --baseline real --dataset digits --features pixels --reference validation", "'validation'"),
        ("evaluate --baseline real --dataset digits --features pixels --n 5000", "5000"),
        ("evaluate --baseline noise --dataset digits --features pixels --n 9223372036854775808", "of 2 or more"),
        ("study status --preset huge", "'huge' is not known"),
        ("study run --gpus 0.5", "--gpus: only with --on ray"),
        ("study run --on ray --workers 2", "--workers: not with --on ray"),
        ("calibrate --minutes 3", "--minutes: only with --reference"),
        ("calibrate --reference test --draws 3", "--draws: not with --reference"),
        ("report --preset huge", "'huge' is not known"),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing(arguments, words, results, capfd):
    assert run(arguments) == 2
    out, err = capfd.readouterr()
    assert err.startswith("ddgan_core: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not out
    assert list(results.rglob("*")) == list(Path().rglob("*")) == []


@pytest.mark.parametrize(
    "line", ["sample --run a -o", "study classifier -o", "study export -o", "report --preset smoke -o"]
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(line, monkeypatch, capsys):
    """A folder in a file's place, a file in a folder's, a file above either; also where it is the default."""
    Path("folder.png").mkdir()
    Path("file").write_text("kept")
    monkeypatch.setattr("ddgan_core.__main__.HANDLERS", {})  # nothing is begun
    of_file = line.startswith(("sample", "study classifier"))
    for at in ("folder.png" if of_file else "file", "file/a.png", "file/new/a.png"):
        assert run(f"{line} {at}") == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert repr(at) in err
        assert ("name a file" if at == "folder.png" else "'file' is a file, not a folder") in err
    default = {"sample": "grid.png", "study classifier": "classifier.safetensors"}.get(line.split(" -")[0])
    if default:
        Path(default).mkdir()
        assert run(line.removesuffix(" -o")) == 2
        assert f"'{default}' is a folder" in capsys.readouterr().err
    assert Path("file").read_text() == "kept"


def test_what_a_preset_has_anyway_needs_no_tag(capsys):
    assert run("train --preset smoke --T 1 --set batch_size=16 --set ema_decay=0.9 --minutes 1e-9") == 0
    assert "non_saturating_js_T01_s0_smoke: running" in capsys.readouterr().out


def test_piles_are_not_scored_by_the_first_of_features_that_do_not_fit(results, capsys):
    np.save("mine.npy", np.zeros((4, 1, 8, 8), np.uint8))
    assert run("evaluate --images mine.npy --dataset digits --features pixels fashion_classifier") == 2
    assert "images of 8x8: fashion_classifier features take 28x28" in capsys.readouterr().err
    assert list(results.rglob("*")) == []


def test_a_size_that_no_memory_holds_is_one_line(tmp_path, capfd):
    """As the header of a damaged file may promise it."""
    for length in (10**13, 10**30):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({length}, 1, 8, 8)}}".encode().ljust(117) + b"\n"
        (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        assert run(f"evaluate --images {tmp_path}/huge.npy --dataset digits --features pixels") == 2
        assert "huge.npy is not a whole .npy file" in capfd.readouterr().err


@pytest.mark.parametrize(("line", "names"), [("study run", STUDIES), ("sample", DDPM_STEPS), ("evaluate", DDPM_STEPS)])
def test_help_names_them_all(line, names, capsys):
    """By hand there, as help imports neither."""
    with pytest.raises(SystemExit):
        run(f"{line} --help")
    assert set(names) <= set(re.findall(r"\w+", capsys.readouterr().out))
