"""What the documents name is there: files, commands with their options, runs to sample, figures of the notebooks."""

import io
import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from ddgan_core.__main__ import main
from ddgan_core.checkpoints import trained_here
from ddgan_core.commands.arguments import make_parser
from ddgan_core.evaluation.scores import load_evaluations
from ddgan_core.runs import Run
from ddgan_core.study import configure

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "FINDINGS.md", "CONTRIBUTING.md", "CHANGELOG.md"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def links(text: str) -> list[str]:
    """Targets of markdown links and images that lie in this tree."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link.partition("#")[0] for link in found if not re.match(r"[a-z]+:|#", link)]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    missing = [link for link in links((ROOT / name).read_text(encoding="utf-8")) if not (ROOT / link).exists()]
    assert not missing


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "Makefile"])
def test_sections_that_are_named_are_there(name: str) -> None:
    named = re.findall(r"README, [\"'](.+?)[\"']", (ROOT / name).read_text(encoding="utf-8"))
    there = re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert named
    assert set(named) <= set(there)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_shows_figures_that_are_there(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = links("".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"))
    assert not [link for link in shown if not (path.parent / link).exists()]


def commands(text: str) -> list[str]:
    """Every `python -m ddgan_core ...` of a document's blocks of code, without comments and placeholders."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    lines = re.findall(r"python -m ddgan_core ([^\n#>]*)", "\n".join(blocks))
    return [line.strip() for line in lines if "<" not in line and line.strip() not in ("", "COMMAND")]


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name in DOCUMENTS for line in commands((ROOT / name).read_text("utf-8"))]
)
def test_commands_are_understood(name: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_samples").mkdir()
    monkeypatch.chdir(tmp_path)
    args = make_parser().parse_args([str(word) for word in shlex.split(line)])
    if args.command == "sample":
        assert list((ROOT / "results/checkpoints").glob(f"*/{args.run}.safetensors.xz")), "to be sampled from a clone"
    if args.command == "train":
        row = {"method": args.method, "divergence": args.divergence, "T": args.T, "seed": args.seed, "tag": args.tag}
        run = Run(configure(args.preset, **row, **dict(args.set)), ROOT / "results")
        assert not run.path.exists() or trained_here(run), "to be trained in a clone, where the committed runs are done"


def test_there_are_commands_to_check() -> None:
    assert len(commands((ROOT / "README.md").read_text("utf-8"))) > 10


def test_the_table_of_scores_is_that_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`evaluate` and `study run` rebuild it; by hand: python -m ddgan_core study table."""
    monkeypatch.setenv("DDGAN_RESULTS", str(ROOT / "results"))
    found = load_evaluations("fashion_mnist")
    written = pd.read_csv(ROOT / "results" / "tables" / "evaluations_fashion_mnist.csv.xz")
    again = pd.read_csv(io.StringIO(found.to_csv(index=False, float_format="%.6g")))
    pd.testing.assert_frame_equal(written, again)


def test_the_readmes_images_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "my_samples" in block)
    exec(code, {})
    (line,) = (line for line in commands(text) if "--images my_samples/ --dataset" in line)
    assert main(shlex.split(line)) == 0
    assert "my_samples" in capsys.readouterr().out
