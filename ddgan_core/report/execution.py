"""Notebooks: their parameters checked, executed through papermill, gathered into a page that needs no network.

A notebook has one cell tagged `parameters` with literal assignments; the next code cell calls `check_parameters` with
what each may be, before anything that takes time.
"""

import difflib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddgan_core import UserError
from ddgan_core.report.api_page import api_page
from ddgan_core.report.pages import DOCUMENTS, captions, index, notebook_page, opening, page, tagged_table
from ddgan_core.runs import PRESETS, all_runs, results_dir, write_atomic

IPYTHON_NAMES = {"In", "Out", "exit", "quit", "get_ipython", "open"}
TITLE = "Which divergence should a denoising diffusion GAN minimise?"
FINDINGS = "What the study found"
BACK = '<nav><a href="index.html">Contents</a></nav>\n'
RESULTS_HEADING = "Results"
READING = (
    "Squared Fréchet distances to the test images, smaller is better; compare within a column. ± is half of the 95 % "
    "interval over draws of samples, not over seeds of training."
)
TAGGED = {"claims": "The source paper's claims", "errata": "Errata of the source paper's equations"}  # cells' tags
MEGABYTES_A_NOTEBOOK = 4  # executed copy and page; the first notebooks took between 0.1 and 2


class ReportError(UserError):
    """A notebook that did not run to its end, in one line: which, where, why."""


def check_parameters(namespace: dict[str, Any], **allowed: Any) -> None:
    """Called as `check_parameters(globals(), preset=("smoke", "cpu", "full"), compute=bool, T=range(1, 11))`.

    What a parameter may be is a type, a range, or a tuple of values. Raises UserError for a name that is not among
    them (the first time in a kernel: later, notebooks have names of their own), for a wrong type and for a value
    beyond what is allowed. Inside IPython, UserErrors are shown as one line from here on.
    """
    _show_user_errors_in_one_line()
    if "_parameters_checked" not in namespace:
        found = {n for n, v in namespace.items() if not n.startswith("_") and v is not check_parameters} - IPYTHON_NAMES
        _refuse_unknown(sorted(found), allowed)
    for name, rule in allowed.items():
        if name not in namespace:
            raise UserError(f"parameter {name} is missing: it is {_describe(rule)}")
        _check_value(name, namespace[name], rule)
    namespace["_parameters_checked"] = True


def _refuse_unknown(names: list[str], allowed: Mapping[str, Any]) -> None:
    for name in names:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(f"parameter {name!r} is not known{hint}: this notebook has {', '.join(allowed)}")


def _check_value(name: str, value: Any, rule: Any) -> None:
    if isinstance(rule, type):
        number = (int, float) if rule is float else rule
        fits = isinstance(value, number) and (rule is bool or not isinstance(value, bool))
    elif isinstance(rule, range):
        fits = isinstance(value, int) and not isinstance(value, bool) and value in rule
    else:
        fits = any(type(value) is type(choice) and value == choice for choice in rule)
    if not fits:
        raise UserError(f"{name} = {value!r}: it must be {_describe(rule)}")


def _describe(rule: Any) -> str:
    if isinstance(rule, type):
        words = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
        return words.get(rule, f"a {rule.__name__}")
    if isinstance(rule, range):
        return f"a whole number from {rule[0]} to {rule[-1]}" + (f" in steps of {rule.step}" if rule.step != 1 else "")
    return "one of " + ", ".join(map(str, rule))


def _show_user_errors_in_one_line() -> None:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return

    def show(shell: Any, etype: type, value: BaseException, traceback: Any, tb_offset: int | None = None) -> None:
        shell._showtraceback(etype, value, [f"{etype.__name__}: {value}"])  # in a kernel this also reports the failure

    shell.set_custom_exc((UserError,), show)


def _read(path: Path) -> Any:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a notebook of notebooks/") from None
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a notebook: {str(error).splitlines()[0][:200]}") from None


def execute(notebook: Path | str, out: Path | str, parameters: Mapping[str, Any] | None = None) -> Path:
    """Run a notebook in a kernel of this environment; `out` appears only when every cell has run. Returns it.

    Raises UserError for what is no notebook, ReportError for a failing cell, parameters that it refuses among them, or
    a dead kernel; what had run by then is kept beside `out` as *.failed.ipynb. The kernel's sockets are files: no other
    user can listen, no port can be taken. A kernel that does not come up so is tried once more, over TCP.
    """
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    notebook, out = Path(notebook), Path(out)
    _read(notebook)
    out.parent.mkdir(parents=True, exist_ok=True)
    failed = out.with_name(f"{out.stem}.failed.ipynb")
    aside = out.with_name(f".{out.stem}.{os.getpid()}.ipynb")
    for stale in (out, failed, *out.parent.glob(f".{out.stem}.*.ipynb")):
        stale.unlink(missing_ok=True)
    folder = tempfile.mkdtemp(prefix="ddgan-")
    try:
        for transport in ("ipc", "tcp"):
            sockets = {"ip": f"{folder}/kernel"} if transport == "ipc" else {}
            quiet = {"extra_arguments": ["--IPKernelApp.log_level=50"]}  # an idle kernel logs its own end as an error
            config = Config({"KernelManager": {"transport": transport} | sockets, "NotebookClient": quiet})
            reason = ""
            how = {"kernel_name": "python3", "progress_bar": False, "config": config}
            try:
                execute_notebook(notebook, aside, dict(parameters or {}), **how)
            except PapermillExecutionError as error:
                if error.ename == "UserError":
                    reason = f"cell {error.cell_index + 1}: {error.evalue}"
                else:
                    line = error.source.strip().splitlines()[0][:80] if error.source.strip() else ""
                    last = str(error.evalue).strip().splitlines()[-1:] or [""]
                    reason = f"cell {error.cell_index + 1} ({line!r}) raised {error.ename}: {last[0]}"
            except Exception as error:  # a dead kernel, a port taken: jupyter_client and zmq have many names for it
                reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"
            cells = _read(aside).cells if aside.exists() else []
            states = [c.metadata.get("papermill", {}) for c in cells if c.cell_type == "code" and c.source.strip()]
            if not reason and not all(state.get("status") == "completed" for state in states):
                reason = "papermill reported success, but not every cell has run"
            if not reason:
                aside.replace(out)
                return out
            if transport == "tcp" or any(state.get("start_time") for state in states):
                break
        if aside.exists():
            aside.replace(failed)
        raise ReportError(f"{notebook.name} did not run to its end: {reason} (what had run: {failed})")
    finally:
        aside.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def notebooks_dir() -> Path:
    """The numbered notebooks: beside the package, else ./notebooks."""
    beside = Path(__file__).parents[2] / "notebooks"
    return beside if beside.is_dir() else Path("notebooks")


def build(
    preset: str = "cpu", compute: bool = False, notebooks: list[Path] | None = None, out: Path | None = None
) -> Path:
    """Execute the notebooks and write `out`/index.html, a page for each beside it; returns the index.

    compute: train and score the runs that are missing, else committed results are shown. One notebook failing does not
    keep the others from the page; it is marked there, and ReportError is raised at the end.
    """
    if preset not in PRESETS:
        raise UserError(f"preset {preset!r} is not known: choose one of {', '.join(PRESETS)}")
    results = results_dir()
    out = Path(out or results / "report")
    paths = [Path(p) for p in notebooks] if notebooks else sorted(notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise UserError(f"no notebooks in {notebooks_dir().resolve()}: run this in a copy of the project")
    parameters = {"preset": preset, "compute": compute}
    for path in paths:
        _read(path)  # a wrong name costs no time
    timings = results / "executed" / "seconds.json"
    known: dict[str, float] = {}
    with suppress(OSError, ValueError):  # only to say how long it will take
        known = json.loads(timings.read_text())
    _announce(paths, preset, compute, known, out)
    failures, pages = [], []
    tables = {RESULTS_HEADING: _results(preset)} | dict.fromkeys(TAGGED.values(), "")
    for number, path in enumerate(paths, 1):
        start = time.monotonic()
        print(f"[{number}/{len(paths)}] {path.name} ...", flush=True)
        try:
            executed = execute(path, results / "executed" / path.name, parameters)
        except ReportError as error:
            failures.append(str(error))
            executed = results / "executed" / f"{path.stem}.failed.ipynb"
            print(f"      {error}", file=sys.stderr, flush=True)
        seconds = time.monotonic() - start
        print(f"      {seconds:.0f} s", flush=True)
        known[f"{path.stem} {preset} {compute}"] = round(seconds, 1)
        if executed.exists():
            title, body = notebook_page(executed, path.parent)
            pages.append((path.stem, title, seconds, executed.stem.endswith(".failed")))
            for tag, heading in TAGGED.items():
                tables[heading] = tables[heading] or tagged_table(executed, tag)
            write_atomic(out / f"{path.stem}.html", page(title, BACK + body))
    write_atomic(timings, json.dumps(known, indent=1))
    write_atomic(out / "api.html", page("The package, module by module", BACK + api_page()))
    begin, contents = "", out / "index.html"
    readme, findings = (notebooks_dir().parent / name for name in DOCUMENTS)
    if preset == "cpu" and readme.exists():  # it tells of these results
        begin = opening(readme)
        write_atomic(out / DOCUMENTS[findings.name], page(FINDINGS, f"{BACK}<h1>{FINDINGS}</h1>\n{opening(findings)}"))
    write_atomic(contents, page(TITLE, index(TITLE, pages, results, parameters, tables, captions(paths), begin)))
    size = sum(f.stat().st_size for f in out.glob("*.html")) / 1e6
    print(f"Wrote {contents} and {len(pages)} pages beside it ({size:.1f} MB).")
    print(f"The executed notebooks are in {results / 'executed'}.")
    if failures:
        raise ReportError(f"{len(failures)} of {len(paths)} notebooks failed: {'; '.join(failures)}")
    return contents


def _results(preset: str) -> str:
    """The study's results as an HTML table; empty where nothing is scored yet."""
    from ddgan_core.notebook.summary import results_table

    try:
        table = results_table(preset=preset).to_html(index=False, border=0)
        return f'<p>{READING}</p><div class="numbers">{table}</div>'
    except UserError:
        return ""


def _announce(paths: list[Path], preset: str, compute: bool, known: Mapping[str, float], out: Path) -> None:
    """What will be done, how long it takes as far as that is known, and the disk it needs."""
    times = [known.get(f"{p.stem} {preset} {compute}") for p in paths]
    if all(t is not None for t in times):
        expected = f"about {sum(t for t in times if t) / 60:.1f} minutes, as long as the last time"
    else:
        expected = f"not timed here yet; at half a minute each, about {max(1, round(len(paths) / 2))} minutes"
    print(f"Executing {len(paths)} notebooks (preset {preset}, compute {compute}): {expected}.")
    if compute:
        done = [r.status for r in all_runs() if r.config.preset == preset and r.status["state"] == "done"]
        minutes = [status.get("seconds", 0) / 60 for status in done]
        each = (
            f"{statistics.median(minutes):.1f} minutes each so far" if minutes else "none is finished yet to time it by"
        )
        print(f"Missing runs are trained first, on top of that ({each}); stopping is safe, finished runs are kept.")
    else:
        print("Committed results are read and shipped weights sampled; nothing long is trained.")
    out.mkdir(parents=True, exist_ok=True)
    need, free = MEGABYTES_A_NOTEBOOK * len(paths), shutil.disk_usage(out).free / 1e6
    print(f"Writes to {out}: about {need} MB of disk ({free:,.0f} MB free).", flush=True)
    if free < need:
        raise UserError(
            f"{free:,.0f} MB free at {out}, {need} MB are needed: free some, or set DDGAN_RESULTS elsewhere"
        )
