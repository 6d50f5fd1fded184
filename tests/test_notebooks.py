"""Every notebook is committed clean and runs from its first cell to its last, training tiny models on the way."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from ddgan_core import UserError
from ddgan_core.report import execution
from ddgan_core.runs import PRESETS

NOTEBOOKS = sorted(Path(__file__).parent.parent.glob("notebooks/*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|mnt|content|kaggle)/|[A-Z]:\\\\")
WRONG = {"preset": ["cup", 1], "compute": ["yes", 1], "T": [0, 1001, "four", True]}


@pytest.fixture(scope="session")
def shared_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all notebooks: a run that two of them ask for is trained once."""
    return tmp_path_factory.mktemp("results")


@every_notebook
def test_committed_clean(path: Path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor >= 5) == (4, True)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}, "editors leave their metadata elsewhere"
    for cell in notebook.cells:
        assert not ABSOLUTE.search(cell.source), f"absolute path in {cell.source!r}"
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), (
                "run `jupyter nbconvert --clear-output --inplace`"
            )


@every_notebook
def test_no_heading_stands_twice(path: Path):
    """A cell that was overwritten with another's text would show here, and did once."""
    texts = [c.source for c in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells if c.cell_type == "markdown"]
    headings = [line for text in texts for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == len(set(headings))


def first_cells(path: Path) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    """The cell of parameters, before which nothing runs, and the one that checks them."""
    first, check, *rest = (c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    assert [cell is first for cell in (first, check, *rest) if "parameters" in cell.metadata.get("tags", [])] == [True]
    return first, check


@every_notebook
def test_parameters_are_typed_literals_checked_at_once(path: Path):
    first, check = first_cells(path)
    declared = {}
    for statement in ast.parse(first.source).body:
        assert isinstance(statement, ast.AnnAssign), f"{ast.unparse(statement)!r} says no type"
        declared[statement.target.id] = ast.literal_eval(statement.value)
    assert list(declared)[:2] == ["preset", "compute"], "these two mean the same everywhere and come first"
    lines = [line for line in first.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert all("#" in line for line in lines), "each parameter has its comment"
    call = ast.parse(check.source).body[-1].value
    assert ast.unparse(call).startswith("check_parameters(globals(), ")
    rules = {keyword.arg: keyword.value for keyword in call.keywords}
    assert set(rules) == set(declared), "the check covers every parameter"
    assert ast.literal_eval(rules["preset"]) == tuple(PRESETS)


@every_notebook
def test_bad_parameters_are_refused_by_the_second_cell(path: Path):
    first, check = first_cells(path)
    declared: dict = {}
    exec(first.source, declared)
    exec(check.source, dict(declared))
    bad = [{"prest": "cpu"}, {"Compute": True}]
    bad += [{name: value} for name, values in WRONG.items() if name in declared for value in values]
    for parameters in bad:
        with pytest.raises(UserError, match=re.escape(next(iter(parameters)))) as error:
            exec(check.source, declared | parameters)
        assert "\n" not in str(error.value)


@every_notebook
def test_trains_small_and_runs_to_its_end(path: Path, tmp_path: Path, shared_results: Path, monkeypatch):
    monkeypatch.setenv("DDGAN_RESULTS", str(shared_results))
    out = execution.execute(path, tmp_path / path.name, {"preset": "smoke", "compute": True})
    outputs = [o for c in nbformat.read(out, as_version=4).cells for o in c.get("outputs", [])]
    assert any("image/png" in o.get("data", {}) for o in outputs), "a notebook shows a picture"
    assert not [o.text for o in outputs if o.get("name") == "stderr" and "Traceback" in o.text]


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if "T: int" in first_cells(p)[0].source], ids=lambda p: p.stem)
def test_opens_at_another_T_than_has_been_run(path: Path, tmp_path: Path, shared_results: Path, monkeypatch):
    monkeypatch.setenv("DDGAN_RESULTS", str(shared_results))
    execution.execute(path, tmp_path / "first.ipynb", {"preset": "smoke", "compute": True})
    execution.execute(path, tmp_path / path.name, {"preset": "smoke", "compute": False, "T": 2})


@pytest.mark.slow
@every_notebook
def test_opens_where_nothing_has_been_run(path: Path, tmp_path: Path, results: Path):
    execution.execute(path, tmp_path / path.name, {"preset": "smoke", "compute": False})
    assert not list(results.glob("runs/*/*")), "compute=False makes no runs"
