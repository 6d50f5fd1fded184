"""Parameters are refused in one line, and a notebook that did not run never looks as if it had."""

import html
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ddgan_core import UserError
from ddgan_core.figures.files import save
from ddgan_core.figures.grids import image_grid
from ddgan_core.report import execution
from ddgan_core.report.api_page import api_page
from ddgan_core.report.execution import ReportError, check_parameters
from ddgan_core.report.pages import _HEAD, index, mathml, opening

PARAMETERS = 'preset: str = "cpu"  # which runs\ncompute: bool = False\nT: int = 4'
CHECK = (
    "from ddgan_core.report.execution import check_parameters\n"
    'check_parameters(globals(), preset=("smoke", "cpu", "full"), compute=bool, T=range(1, 11))'
)
RULES = {"preset": ("smoke", "cpu", "full"), "compute": bool, "T": range(1, 11)}


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS, check: str = CHECK) -> Path:
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# A title\n\nText."), tagged, new_code_cell(check), *map(new_code_cell, sources)]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernelspec}), path)
    return path


def test_good_parameters_pass_beside_what_ipython_defines():
    namespace = {"preset": "smoke", "compute": True, "T": 10, "In": [], "_ih": [], "check_parameters": check_parameters}
    check_parameters(namespace, **RULES)
    # Run again later in the same kernel, when the notebook has names of its own.
    check_parameters(namespace | {"torch": object(), "T": 2}, **RULES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"T": 0}, r"T = 0: it must be a whole number from 1 to 10"),
        ({"T": 4.0}, r"T = 4.0"),
        ({"T": True}, r"T = True"),
        ({"preset": "cup"}, r"'cup'.*smoke, cpu, full"),
        ({"compute": 1}, r"compute = 1: it must be True or False"),
        ({"comptue": True}, r"'comptue' is not known \(did you mean compute\?\).*preset, compute, T"),
    ],
)
def test_one_line_says_what_is_wrong_with_a_parameter(wrong, message):
    with pytest.raises(UserError, match=message) as error:
        check_parameters({"preset": "cpu", "compute": False, "T": 4} | wrong, **RULES)
    assert "\n" not in str(error.value)


def test_missing_parameter_is_named():
    with pytest.raises(UserError, match="parameter T is missing"):
        check_parameters({"preset": "cpu", "compute": False}, **RULES)


@pytest.mark.parametrize("content", [None, b"{not json", b"\x89PNG\r\n"])
def test_not_a_notebook(content, tmp_path):
    path = tmp_path / "n.ipynb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"n\.ipynb"):
        execution.execute(path, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_execution_uses_the_parameters_and_leaves_one_file(tmp_path):
    notebook = write_notebook(tmp_path / "n.ipynb", "print('T is', T)")
    out = execution.execute(notebook, tmp_path / "out" / "n.ipynb", {"T": 7})
    assert nbformat.read(out, as_version=4).cells[-1].outputs[0].text == "T is 7\n"
    assert [p.name for p in out.parent.iterdir()] == ["n.ipynb"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", r"cell 4: parameter 't' is not known: this notebook has preset, compute, T"),
        ("x = 0\n1 / x", r"n\.ipynb.*cell 4.*x = 0.*ZeroDivisionError: division by zero"),
        (
            "from ddgan_core import UserError\nraise UserError('no such run: make one')",
            r"cell 4: no such run: make one",
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", r"n\.ipynb.*[Dd]ied"),
    ],
)
def test_failure_is_never_taken_for_success(source, message, tmp_path):
    notebook = write_notebook(tmp_path / "n.ipynb", source, "print('after')")
    out = tmp_path / "out" / "n.ipynb"
    out.parent.mkdir()
    out.write_text("of an earlier time")
    with pytest.raises(ReportError, match=message) as error:
        execution.execute(notebook, out, {} if source else {"t": 3})
    assert "\n" not in str(error.value)
    assert not out.exists()
    assert [p.name for p in out.parent.iterdir()] == ["n.failed.ipynb"]


def test_user_error_in_a_notebook_is_one_line_without_traceback(tmp_path):
    notebook = write_notebook(tmp_path / "n.ipynb", "from ddgan_core import UserError\nraise UserError('mend this')")
    with pytest.raises(ReportError, match="mend this"):
        execution.execute(notebook, tmp_path / "out.ipynb")
    cells = nbformat.read(tmp_path / "out.failed.ipynb", as_version=4).cells
    (shown,) = [o for o in cells[-1].outputs if o.output_type == "error"]
    assert shown.traceback == ["UserError: mend this"]


def test_kernel_that_does_not_come_up_is_tried_once_more_over_tcp(tmp_path, monkeypatch):
    import papermill

    genuine, calls = papermill.execute_notebook, []

    def first_time_in_vain(*args, **kwargs):
        calls.append(kwargs["config"].KernelManager.transport)
        if len(calls) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return genuine(*args, **kwargs)

    monkeypatch.setattr("papermill.execute_notebook", first_time_in_vain)
    assert execution.execute(write_notebook(tmp_path / "n.ipynb"), tmp_path / "out.ipynb").exists()
    assert calls == ["ipc", "tcp"]
    assert not list(Path.cwd().glob("kernel-ipc*")), "no sockets in the folder one happens to be in"
    monkeypatch.setattr("papermill.execute_notebook", lambda *a, **k: (_ for _ in ()).throw(OSError("port taken")))
    with pytest.raises(ReportError, match="port taken"):
        execution.execute(write_notebook(tmp_path / "n.ipynb"), tmp_path / "out.ipynb")


def test_report_needs_no_network(tmp_path, results, capsys):
    (results / "tables").mkdir()
    pd.DataFrame({"row": ["kl"], "frechet": [12.3456]}).to_csv(results / "tables" / "scores.csv", index=False)
    from ddgan_core.figures.files import save
    from ddgan_core.figures.grids import image_grid

    plot = "import numpy as np\nfrom ddgan_core import figures\n"
    plot += "from ddgan_core.figures import grids\nfigures.use_style()\n"
    plot += "grids.image_grid(np.zeros((2, 1, 8, 8), np.uint8))"
    good = write_notebook(
        tmp_path / "01_good.ipynb",
        plot,
        "import pandas as pd\npd.DataFrame({'a': ['found!']}).rename_axis('its index')",
    )
    with_math = nbformat.read(good, as_version=4)
    with_math.cells[-1].metadata["tags"] = ["claims"]
    text = r"With $\hat x_0$ and $$\mathbb{E}_Q[v]$$ ![Figure 9](figures/none.png) ![there](there.png)"
    text += " ![what it shows](../results/figures/fig2.png)"
    text += " [next](02_bad.ipynb#part) [a picture](there.png) [the table](../results/tables/scores.csv)"
    with_math.cells.append(new_markdown_cell(text))
    nbformat.write(with_math, good)
    save(image_grid(np.zeros((1, 1, 8, 8), np.uint8)), tmp_path / "there")
    save(image_grid(np.zeros((1, 1, 8, 8), np.uint8)), results / "figures" / "fig2")
    bad = write_notebook(tmp_path / "02_bad.ipynb", "raise RuntimeError('broken')")

    with pytest.raises(ReportError, match="1 of 2 notebooks failed.*broken"):
        execution.build("smoke", notebooks=[good, bad])
    said = capsys.readouterr().out
    assert re.search(r"Executing 2 notebooks.*minutes", said)
    assert "MB of disk" in said
    assert "[2/2] 02_bad.ipynb" in said
    pages = {p.name: p.read_text() for p in (results / "report").glob("*.html")}
    assert sorted(pages) == ["01_good.html", "02_bad.html", "api.html", "index.html"]
    for page in pages.values():
        assert not re.findall(r'(?:src|href)\s*=\s*["\']?(?:https?:)?//', page)
        assert re.findall("<script[^>]*>", page) == ["<script>"], "the page's own: a click shows an image large"
        assert "url(" not in page
    assert pages["01_good.html"].count("<math") == 2
    assert pages["01_good.html"].count("data:image/png;base64") == 3
    for page in pages.values():
        leads = [link.split("#")[0] for link in re.findall(r'href\s*=\s*"([^"]*)"', page)]
        assert {link for link in leads if link} <= set(pages), "a link leads to another page"
    assert 'href="02_bad.html"' in pages["01_good.html"]
    assert "the table" in pages["01_good.html"]
    assert "Figure 9: not made yet" in pages["01_good.html"]
    assert "broken" in pages["02_bad.html"]
    for part in (
        "A title",
        "failed",
        "12.35",
        "The source paper's claims".replace("'", "&#x27;"),
        "found!",
        "<th>its index</th>\n      <th>a</th>\n    </tr>\n  </thead>",
        "fig2: what it shows",
        "data:image/svg+xml;base64",
    ):
        assert part in pages["index.html"]
    assert "01_good smoke False" in json.loads((results / "executed" / "seconds.json").read_text())


def test_build_refuses_before_it_starts(tmp_path):
    with pytest.raises(UserError, match="'cup'"):
        execution.build("cup")
    with pytest.raises(UserError, match=r"02_b.ipynb does not exist"):
        execution.build("smoke", notebooks=[write_notebook(tmp_path / "01_a.ipynb"), tmp_path / "02_b.ipynb"])


def test_formula_that_cannot_be_converted_is_shown_as_it_is(monkeypatch):
    assert mathml(r"\frac12").startswith("<math")
    assert "log\u2009</mi><mi>u" in html.unescape(mathml(r"\log u"))
    assert "log</mi>" in mathml(r"\log(u)")
    letters = [html.unescape(mathml(f)) for f in (r"\mathbb E", r"\mathbb R", r"\mathcal N", r"\mathbf x", r"\Big\|")]
    assert all(letter in found for letter, found in zip("𝔼ℝ𝒩𝐱‖", letters, strict=True)), "no mathvariant is needed"
    assert not any("mathvariant" in found for found in letters)

    def fail(*args, **kwargs):
        raise ValueError

    monkeypatch.setattr("latex2mathml.converter.convert", fail)
    assert mathml(r"a < \frac12") == r"<code>a &lt; \frac12</code>"


def test_the_api_page_has_every_public_name_and_imports_nothing(tmp_path):
    (tmp_path / "low.py").write_text('"""Low.\n\nTwo <paragraphs>."""\nraise SystemExit\n')
    code = 'from ddgan_core.low import x\nclass A(int):\n    """An `a`."""\n    def b(self, c: int = 1) -> str:\n'
    code += '        """B.\n\n            x = y\n\n        End.\n        """\n    def _hidden(self): ...\n'
    code += "def _also(): ...\n"
    (tmp_path / "high.py").write_text(code)
    page = api_page(tmp_path)
    assert page.index('id="low"') < page.index('id="high"')
    said = ("Two &lt;paragraphs&gt;.", "class A(int)", "An <code>a</code>.", "b(self, c: int=1) -&gt; str", "<pre>")
    assert all(part in page for part in said), page
    assert "hidden" not in page
    assert "also" not in page
    whole = api_page()
    assert '<a href="#study.cells"><code>study.cells</code></a>' in whole, "contents"
    assert whole.index('<h2 id="study.cells">') < whole.index('<h2 id="study">'), "a folder after what is in it"


def test_a_table_keeps_its_own_heading():
    """pandas gives the name of an index a line of its own; tables with names for their columns, too, are left alone."""
    by_both = pd.DataFrame({"n": [1]}, index=pd.MultiIndex.from_tuples([("a", "b")], names=["pile", "N"]))
    by_name = pd.DataFrame({"n": [1]}).rename_axis("claim")
    by_both, by_name = by_both.to_html(), by_name.to_html()
    joined = _HEAD.sub(r"\1\3\2", f"{by_both}\n{by_name}")
    assert joined.startswith(by_both)
    assert re.search(r"<th>claim</th>\s*<th>n</th>", joined[len(by_both) :])


def test_the_front_page_begins_as_the_readme_does(tmp_path):
    save(image_grid(np.zeros((1, 1, 8, 8), np.uint8)), tmp_path / "main")
    (tmp_path / "README.md").write_text("# Title\n\nWhat is **asked**.\n\n![all](main.png)\n\n```\nmake\n```\n\nMore.")
    begun = opening(tmp_path / "README.md")
    assert "<strong>asked</strong>" in begun
    assert '<figure><img alt="all" width="112" src="data:image/png;base64' in begun
    assert not any(word in begun for word in ("Title", "make", "More"))


def test_links_of_the_front_page_lead_somewhere(tmp_path):
    save(image_grid(np.zeros((1, 1, 8, 8), np.uint8)), tmp_path / "figures" / "08_settings")
    links = (
        "results/figures/08_settings.png",
        "notebooks/00_x.ipynb",
        "FINDINGS.md#so",
        "README.md#at",
        "#below",
        "https://a.org/b.png",
    )
    (tmp_path / "README.md").write_text("# T\n\n" + " ".join(f"[to {link}]({link})" for link in links))
    begun = opening(tmp_path / "README.md")
    assert re.findall('href="(.*?)"', begun) == [
        "index.html#08_settings",
        "00_x.html",
        "findings.html#so",
        "index.html",
        "https://a.org/b.png",
    ]
    assert "to #below" in begun
    assert '<figure id="08_settings">' in index("T", [], tmp_path, {}, {}, {}, begun)


def test_the_front_page_shows_a_commit_as_it_is_written(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "bench_x.csv").write_text("seconds,commit\n1.5,85e4017\n")  # as a number, infinite
    assert "<td>85e4017</td>" in index("Title", [], tmp_path, {}, {}, {})


def test_compressed_tables_are_shown_too(tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ("short.csv", "long.csv.xz"):
        pd.DataFrame({"a": [1.5]}).to_csv(tmp_path / "tables" / name, index=False)
    page = index("title", [], tmp_path, {}, {}, {})
    assert page.index("<summary>long</summary>") < page.index("<summary>short</summary>")
