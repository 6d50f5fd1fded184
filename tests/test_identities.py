"""Rows prove themselves, wrong rows are caught at the right line, and a reader's own row goes all the way."""

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from ddgan_core import UserError
from ddgan_core.divergences import DIVERGENCES, Divergence, alpha_divergence, get_divergence, register
from ddgan_core.identities import IDENTITIES, check_row
from ddgan_core.report import execution

README = Path(__file__).parent.parent / "README.md"
(OWN_ROW,) = (b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "register(" in b)
ROW = OWN_ROW[OWN_ROW.index("row = register(") : OWN_ROW.index("check_row(row)")].strip()
EVERY = [identity.name for identity in IDENTITIES]
FOR_ALL = [
    "no critic gains where P = Q", "a larger logit is more real", "float32 gradients are right",
    "losses and gradients stay finite",
]  # fmt: skip
# What a row does not have, its table does not show; everything else must be there.
NOT_FOR = {
    "jeffreys": {"f*(f'(u)) = u f'(u) - f(u)"},  # its f* needs Lambert's W
    "total_variation": {  # a kink at u = 1, and no finite optimal logit
        "f''(1) = curvature", "log_ratio inverts h* = f'(u)", "the critic is stationary at log_ratio",
        "the generator's weight is u^2 f''(u)",
    },
    "non_saturating_js": {  # f is the generator's, the bound is the critic's
        "f*(f'(u)) = u f'(u) - f(u)", "the activation maps into dom f*, non-decreasing",
        "critic = f*(h_fake) - h_real", "generator = -f*(h_fake)", "log_ratio inverts h* = f'(u)",
        "the bound is tight for two Gaussians", "the bound is tight for discrete distributions",
        "no critic exceeds D_f",
    },
    "wasserstein": set(EVERY) - set(FOR_ALL), "relativistic": set(EVERY) - set(FOR_ALL),
}  # fmt: skip


COMPOSED = {"critic = f*(h_fake) - h_real", "generator = -f*(h_fake)"}


def failures(row: Divergence) -> set[str]:
    table = check_row(row)
    return set(table.loc[~table.passed, "identity"])


def changed(name: str, **pieces: object) -> Divergence:
    return dataclasses.replace(DIVERGENCES[name], **pieces)


@pytest.fixture(autouse=True)
def same_rows_after() -> Iterator[None]:
    before = dict(DIVERGENCES)
    yield
    DIVERGENCES.clear()
    DIVERGENCES.update(before)


@pytest.mark.parametrize("row", DIVERGENCES.values(), ids=lambda row: row.name)
def test_a_row_proves_itself(row: Divergence) -> None:
    table = check_row(row)
    assert list(table.columns) == ["identity", "compared", "error", "passed"]
    assert list(table.identity) == [name for name in EVERY if name not in NOT_FOR.get(row.name, set())]
    assert table.passed.all(), table[~table.passed].to_string()


@pytest.mark.parametrize("a", [-2.0, 0.5, 3.0])
def test_any_alpha_proves_itself(a: float) -> None:
    assert failures(alpha_divergence(a)) == set()


def test_a_wrong_conjugate_is_caught() -> None:
    """That of eq. (26), t without its max, is wrong only below -1/2: no logit gets there, and eq. (27) is unharmed."""
    wrong = changed("squared_hellinger", conjugate=lambda t: t / (1 - t) + 0.01 * t)
    assert failures(wrong) == {"f*(f'(u)) = u f'(u) - f(u)", *COMPOSED}
    printed = changed("total_variation", conjugate=lambda t: t)
    assert failures(printed) == set()


def test_a_decreasing_activation_is_caught() -> None:
    """Eqs. (20) and (23) as printed, beside our losses; and with losses that decrease too, the optimum unchanged."""
    assert failures(changed("squared_hellinger", activation=lambda v: 1 - v.exp())) == {
        "the activation maps into dom f*, non-decreasing", "log_ratio inverts h* = f'(u)", *COMPOSED,
    }  # fmt: skip
    printed = changed(
        "squared_hellinger", activation=lambda v: 1 - v.exp(), log_ratio=lambda v: -2 * v,
        critic=lambda real, fake: real.exp() + (-fake).exp() - 2, generator=lambda _, fake: 1 - (-fake).exp(),
    )  # fmt: skip
    assert {"the activation maps into dom f*, non-decreasing", "a larger logit is more real"} <= failures(printed)
    assert not failures(printed) & {"log_ratio inverts h* = f'(u)", *COMPOSED}


@pytest.mark.parametrize(
    ("pieces", "line"),
    [
        ({"curvature": 1.0}, "f''(1) = curvature"),
        ({"f": lambda u: (u.sqrt() - 1).square() + 0.1}, "f(1) = 0"),
        ({"critic": lambda real, fake: (-real).exp() + fake.exp() - 2}, "losses and gradients stay finite"),
    ],
)
def test_one_wrong_piece_fails_its_line(pieces: dict[str, object], line: str) -> None:
    found = failures(changed("squared_hellinger", **pieces))
    if "f" in pieces:  # the value of f enters Young's equality and the bound as well
        assert line in found
        assert "f is convex" not in found
    else:
        assert found == {line}


def test_what_is_no_number_does_not_pass() -> None:
    nothing = changed("squared_hellinger", conjugate=lambda t: math.nan * t, f_prime=lambda u: math.nan * u)
    assert failures(nothing) >= {"f' is the derivative of f", "f*(f'(u)) = u f'(u) - f(u)"}


def test_a_generator_of_another_divergence_is_caught() -> None:
    """ "-D": where the optimal logit is finite by its weight too, for total variation by its value alone."""
    raised = {"generator": lambda _, fake: -fake}
    assert failures(changed("squared_hellinger", **raised)) == {
        "the generator's weight is u^2 f''(u)", "generator = -f*(h_fake)"
    }  # fmt: skip
    assert failures(changed("total_variation", **raised)) == {"generator = -f*(h_fake)"}


def test_a_concave_f_a_wrong_ratio_and_a_bound_that_promises_too_much() -> None:
    assert "f is convex" in failures(changed("kl", f=lambda u: u.log()))
    assert failures(changed("reverse_kl", log_ratio=lambda v: 1.1 * v)) >= {
        "log_ratio inverts h* = f'(u)", "the critic is stationary at log_ratio", "the generator's weight is u^2 f''(u)",
        "the bound is tight for two Gaussians", "the bound is tight for discrete distributions",
    }  # fmt: skip
    offset = changed("kl", critic=lambda real, fake: DIVERGENCES["kl"].critic(real, fake) - 0.1)
    assert failures(offset) >= {"critic = f*(h_fake) - h_real", "no critic exceeds D_f", "no critic gains where P = Q"}
    assert failures(changed("kl", activation=lambda v: v + 1)) >= {"log_ratio inverts h* = f'(u)"}


def test_a_slope_that_float32_rounds_away_is_caught() -> None:
    """exp(min(v, b)) + e^b (v - min(v, b)) is right in value, and its slope at 0 is 0 in float32 at b = 20."""

    def summed(v: torch.Tensor) -> torch.Tensor:
        low = v.clamp(max=20.0)
        return low.exp() + torch.tensor(20.0).exp() * (v - low)

    neyman = DIVERGENCES["neyman"]
    fake = lambda v: neyman.critic(torch.zeros_like(v), v) - 1  # noqa: E731
    wrong = changed("neyman", critic=lambda v_real, v_fake: summed(-v_real) + fake(v_fake))
    assert "float32 gradients are right" in failures(wrong)


def test_a_row_that_raises_fails_its_line_and_nothing_else() -> None:
    def broken(u: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("no such thing")

    table = check_row(changed("kl", conjugate=broken)).set_index("identity")
    line = table.loc["f*(f'(u)) = u f'(u) - f(u)"]
    assert (line.compared, line.passed) == ("raised ArithmeticError: no such thing", False)
    assert table.loc["f is convex"].passed


def le_cam(**pieces: object) -> Divergence:
    """The README's row, not registered."""
    expression = ROW.removeprefix("row = register(").removesuffix(")")
    return dataclasses.replace(eval(expression, {"Divergence": Divergence}), **pieces)


def test_register_adds_a_row_that_is_known_from_then_on() -> None:
    assert register(le_cam()) is get_divergence("le_cam")
    assert failures(le_cam()) == set()
    with pytest.raises(UserError, match="'le_cam' is there already.*replace=True"):
        register(le_cam())
    assert register(le_cam(label="another"), replace=True) is get_divergence("le_cam")


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ({"name": "kl"}, "'kl' is there already"),
        ({"name": "Le Cam"}, "row name 'Le Cam': small letters"),
        ({"name": "none"}, "none and ddpm are taken"),
        ({"latex": ""}, "has no latex"),
        ({"f_prime": None}, "has no f_prime"),
        ({"generator": lambda real, fake: fake - real}, r"generator fails.*relativistic=True"),
        ({"critic": lambda real, fake: (real - fake).mean()}, r"critic gives shape \(\) for three logits"),
        ({"critic": lambda real: real}, "critic fails on three logits"),
    ],
)
def test_register_refuses_what_is_not_a_row(pieces: dict[str, object], message: str) -> None:
    before = dict(DIVERGENCES)
    with pytest.raises(UserError, match=message) as error:
        register(le_cam(**pieces))
    assert "\n" not in str(error.value)
    assert before == DIVERGENCES


def test_the_readmes_row_is_right() -> None:
    namespace: dict = {}
    exec(OWN_ROW, namespace)
    assert failures(namespace["row"]) == set()
    assert len(ROW.splitlines()) < 10


def cell(source: str, **metadata: object) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata=metadata)


def test_a_readers_row_is_registered_trained_scored_and_plotted_from_a_notebook(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = new_notebook(
        cells=[
            cell('preset: str = "smoke"\ncompute: bool = True', tags=["parameters"]),
            cell(
                "from ddgan_core.report.execution import check_parameters\n"
                'check_parameters(globals(), preset=("smoke", "cpu"), compute=bool)'
            ),
            cell(
                "import matplotlib.pyplot as plt\nfrom ddgan_core import figures, study\n"
                "from ddgan_core.divergences import Divergence, register\nfrom ddgan_core.identities import check_row\n"
                "from ddgan_core.evaluation.scores import load_evaluations"
            ),
            cell(f"{ROW}\nassert check_row(row).passed.all()"),
            cell("(run,) = study.ensure([study.configure(preset, divergence=row.name, T=2)], compute)"),
            cell(
                'assert run.status["state"] == "done"\nscores = load_evaluations("digits", preset)\n'
                "fig, ax = plt.subplots()\nfigures.fid_curve(ax, scores)\n"
                'assert "Le Cam" in {text.get_text() for text in ax.texts}\nplt.show()'
            ),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, tmp_path / "own_row.ipynb")
    out = execution.execute(tmp_path / "own_row.ipynb", tmp_path / "out.ipynb")
    outputs = [o for c in nbformat.read(out, as_version=4).cells for o in c.get("outputs", [])]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    scores = (results / "runs" / "digits" / "le_cam_T02_s0_smoke" / "evaluations.csv").read_text().splitlines()
    assert len(scores) == 2  # a header and the preset's one score


def test_another_process_does_not_know_a_registered_row() -> None:
    """What `register` says of the command line: it knows the rows of the package's own file."""
    register(le_cam())
    words = [sys.executable, "-m", "ddgan_core", "train", "--preset", "smoke", "--divergence", "le_cam"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "divergence 'le_cam' is not known" in ended.stderr
