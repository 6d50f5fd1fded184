"""The rooms of the house: imports point strictly down, and heavy or optional packages stay out of the main path."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ddgan_core"
LAYERS = {
    "penalties": -1,  # what a row of divergences is built from
    "progress": -1, "locks": -1, "provenance": -1, "memory": -1, "graphs": -1, "packing": -1,
    "time_means": -1, "blocks": -1,
    "runs": 0, "diffusion": 0, "divergences": 0, "networks": 0, "data": 0,
    "objectives": 1, "sampling": 1, "metrics": 1, "checkpoints": 1, "identities": 1, "tables": 1,
    "training": 2, "toys": 2,
    "evaluation": 3,
    "runner": 4, "figures": 4,
    "study": 5,
    "bench": 6, "notebook": 6,
    "report": 7, "doctor": 7,
    "commands": 8,
    "__main__": 9,
}  # fmt: skip
FREE = {"__init__", "shapes"}  # importable by all, importing no room
NOTEBOOK_ROOMS = {"report"}
# Who may import each of these anywhere, at any depth: training, sampling and scoring run without them.
ONLY_IN = {
    "papermill": NOTEBOOK_ROOMS, "jupyter": NOTEBOOK_ROOMS, "nbformat": NOTEBOOK_ROOMS, "nbconvert": NOTEBOOK_ROOMS,
    "jupyter_client": NOTEBOOK_ROOMS, "IPython": NOTEBOOK_ROOMS, "jaxtyping": {"shapes"}, "beartype": set(),
    "diffusers": {"bench"}, "pytest": set(), "cleanfid": {"bench"},
    "denoising_diffusion_pytorch": {"bench"}, "ema_pytorch": {"bench"}, "ipywidgets": {"notebook"},
}  # fmt: skip
# Never at module level: importing the package must stay quick, and work where these are not installed.
LAZY = {
    "torchvision", "sklearn", "scipy", "papermill", "cleanfid", "nbconvert", "IPython", "diffusers", "ipywidgets",
}  # fmt: skip
FILES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    """A room that became a folder is named by the folder."""
    return module.split(".")[0]


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """Full names of what is imported at any depth; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((f"{prefix}.{alias.name}", node) for alias in node.names)


def wrong_edges(module: str, source: str) -> list[str]:
    """Imports of this source that its module may not have, in words."""
    tree, here, wrong = ast.parse(source), room(module), []
    at_module_level = {node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            at_module_level -= set(ast.walk(function))
    for name, node in imports(tree):
        top, *rest = name.split(".")
        if top == "":
            wrong.append(f"{module}:{node.lineno} imports relatively: write ddgan_core in full")
        elif top == "ddgan_core" and rest and rest[0] not in FREE:
            if rest[0] not in LAYERS:
                if not in_root(rest[0]):
                    wrong.append(f"{module}:{node.lineno} imports {rest[0]}, which is in no layer")
            elif rest[0] != here and (here in FREE or LAYERS[rest[0]] >= LAYERS.get(here, -1)):
                wrong.append(f"{module}:{node.lineno} imports {rest[0]}: not from a lower layer")
        if top in ONLY_IN and here not in ONLY_IN[top]:
            who = ", ".join(sorted(ONLY_IN[top])) or "tests"
            wrong.append(f"{module}:{node.lineno} imports {top}: only {who} may")
        if top in LAZY and node in at_module_level and here not in ONLY_IN.get(top, set()):
            wrong.append(f"{module}:{node.lineno} imports {top} at module level: do it where it is needed")
    return wrong


def in_root(name: str) -> bool:
    """Is it something that `ddgan_core/__init__.py` defines, such as UserError?"""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    named = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    return name in named | {
        t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    }


def test_every_module_has_its_layer() -> None:
    homeless = {room(module) for module in FILES} - LAYERS.keys() - FREE
    assert not homeless, f"give {', '.join(sorted(homeless))} a layer"


def test_no_module_is_built_on_itself() -> None:
    """Within a room, too: what a module imports, at any depth of its code, never leads back to it."""
    graph = {}
    for module, path in FILES.items():
        below = {
            ".".join(name.split(".")[1:]) for name, _ in imports(ast.parse(path.read_text())) if "ddgan_core" in name
        }
        graph[module] = {other for other in FILES if any(b == other or b.startswith(f"{other}.") for b in below)}
        graph[module].discard(module)
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module: str) -> None:
    assert wrong_edges(module, FILES[module].read_text()) == []


@pytest.mark.parametrize("module", FILES)
def test_rooms_stay_small(module: str) -> None:
    most = 310 + 30 * (module == "divergences")  # room for two rows of a reader's own
    assert len(FILES[module].read_text().splitlines()) <= most, "a room this large becomes a folder with one door"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("runs", "from ddgan_core.data import x"), ("runs", "from ddgan_core import training"),
        ("training", "import ddgan_core.evaluation.scoring"),
        ("diffusion", "def f():\n    from ddgan_core.study import run"),
        ("objectives", "from ddgan_core.sampling import x"), ("evaluation", "from ddgan_core.study import x"),
        ("data", "from .runs import Run"), ("shapes", "from ddgan_core.runs import Run"),
        ("study", "from ddgan_core import zebra"),
        ("training", "import papermill"), ("evaluation", "def f():\n    from cleanfid import fid"),
        ("data", "import sklearn.datasets"), ("networks", "from jaxtyping import Float"),
        ("__init__", "import ddgan_core.runs"),
    ],
)  # fmt: skip
def test_the_test_sees_a_wrong_edge(module: str, source: str) -> None:
    assert wrong_edges(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("training", "from ddgan_core import UserError, __version__\nfrom ddgan_core.runs import Run\nimport torch"),
        ("data", "def f():\n    from sklearn.datasets import load_digits"), ("shapes", "from jaxtyping import Float"),
        ("report", "def f():\n    import papermill"), ("__main__", "from ddgan_core.report.execution import build"),
    ],
)  # fmt: skip
def test_the_test_lets_right_edges_pass(module: str, source: str) -> None:
    assert wrong_edges(module, source) == []
