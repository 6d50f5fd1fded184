"""Finished runs from one machine to another, as a few zip files: what a lent GPU has to hand back.

A file holds whole runs: config, status, history, scores and samples, and the EMA weights in half precision. Importing
checks everything before it writes anything: names, hashes, that what is there already is the same.
"""

import io
import json
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as safetensors_bytes

from ddgan_core import UserError
from ddgan_core.checkpoints import read_weights
from ddgan_core.runs import Run, RunConfig, all_runs, results_dir, write_atomic
from ddgan_core.scores import add_evaluation, read_evaluations, same_key

MEGABYTES, FILES = 16.0, 8  # a file and how many of them, at most
RUN_FILES = ("status.json", "config.json", "history.csv", "evaluations.csv", "samples.png")
WEIGHTS = "weights.safetensors"
LARGEST = 64e6  # bytes of one member: more is no run of this study


def export_runs(
    folder: Path, run_ids: Sequence[str] = (), *, megabytes: float = MEGABYTES, files: int = FILES,
    results: Path | None = None,
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """Pack finished and failed runs into at most so many zip files of at most so many megabytes (10^6 bytes) each.

    run_ids: only these, by default every run. Returns the files, and the ids of the runs that found no room: export
    those by their ids. Raises UserError for an unknown id, or a run that is larger than a file may be.
    """
    runs = [Run.open(name, results=results) for name in run_ids] or all_runs(results=results)
    packed = [(run, _pack(run)) for run in runs if run.status["state"] in ("done", "failed")]
    bins: list[list[tuple[Run, bytes]]] = []
    left_out = []
    for run, content in sorted(packed, key=lambda pair: -len(pair[1])):  # first fit, the largest first
        if len(content) + 1000 > megabytes * 1e6:
            raise UserError(f"run {run.config.run_id} takes {len(content) / 1e6:.1f} MB: a file may have {megabytes:g}")
        room = (b for b in bins if sum(len(c) for _, c in b) + len(content) + 1000 * (len(b) + 1) <= megabytes * 1e6)
        if (chosen := next(room, None)) is not None:
            chosen.append((run, content))
        elif len(bins) < files:
            bins.append([(run, content)])
        else:
            left_out.append(run.config.run_id)
    paths = []
    for number, chosen in enumerate(bins, 1):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # its members are compressed already
            for run, content in chosen:
                archive.writestr(f"{run.config.dataset}/{run.config.run_id}.zip", content)
        paths.append(folder / f"runs-{number}-of-{len(bins)}.zip")
        write_atomic(paths[-1], buffer.getvalue())
    return paths, left_out


def _pack(run: Run) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in RUN_FILES:
            if (path := run.path / name).exists():
                archive.writestr(name, path.read_bytes())
        if run.weights is not None:
            tensors = {k: v.half() for k, v in read_weights(run.weights, run.config.hash).items()}
            archive.writestr(WEIGHTS, safetensors_bytes(tensors, {"config_hash": run.config.hash}))
    return buffer.getvalue()


def import_runs(paths: Iterable[Path], results: Path | None = None) -> dict[str, str]:
    """Merge exported files into the results; {run id: "new", "merged" (scores added) or "same"}.

    Raises UserError, nothing written, for a file that is damaged or foreign, and for a run that is here already with
    another configuration or other weights.
    """
    results = results_dir() if results is None else results
    arrived = [pair for path in paths for pair in _unpack(Path(path))]
    for config, parts in arrived:  # all of them, before the first is written
        here = Run(config, results)
        if (here.path / "config.json").exists():
            there = Run.open(config.run_id, config.dataset, results)
            if there.config != config:
                raise UserError(f"run {config.run_id} is here with another configuration: import into other results")
            mine, its = (status.get("weights_hash") for status in (there.status, json.loads(parts["status.json"])))
            if there.status["state"] == "done" and mine != its:
                raise UserError(f"run {config.run_id} is here with other weights ({mine}; these are {its}): keep one")
    return {config.run_id: _merge(config, parts, results) for config, parts in arrived}


def _merge(config: RunConfig, parts: dict[str, bytes], results: Path) -> str:
    run = Run(config, results)
    if run.status["state"] == "done":
        return "merged" if _add_scores(run.path / "evaluations.csv", parts.get("evaluations.csv", b"")) else "same"
    if WEIGHTS in parts:
        write_atomic(results / "checkpoints" / config.dataset / f"{config.run_id}.safetensors", parts[WEIGHTS])
    for name in reversed(RUN_FILES):  # the configuration and "done" come last: half an import is none
        if name in parts:
            write_atomic(run.path / name, parts[name])
    return "new"


def _add_scores(path: Path, content: bytes) -> int:
    """How many scores were not here yet; they are now."""
    with tempfile.TemporaryDirectory() as folder:
        arrived = Path(folder) / path.name
        arrived.write_bytes(content)
        table = read_evaluations(arrived) if content else read_evaluations(Path())
    rows = [row for row in table.to_dict("records") if not same_key(read_evaluations(path), row).any()]
    for row in rows:
        add_evaluation(path, row)
    return len(rows)


def _unpack(path: Path) -> list[tuple[RunConfig, dict[str, bytes]]]:
    """The runs of a file, each checked: members by name and size, configuration and weights by hash."""
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            if min((member.header_offset for member in archive.infolist()), default=0) > 0:
                raise zipfile.BadZipFile("it ends within a run")  # whose own directory was taken for the file's
            for member in archive.infolist():
                where = PurePosixPath(member.filename)
                if member.file_size > LARGEST or len(where.parts) != 2 or where.suffix != ".zip":
                    raise UserError(f"{path} holds {member.filename!r}: not a file of `study export`")
                found.append(_unpack_run(path, where, archive.read(member)))
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise UserError(f"{path} is not a whole zip file ({error}): copy it again") from None
    return found


def _unpack_run(path: Path, where: PurePosixPath, content: bytes) -> tuple[RunConfig, dict[str, bytes]]:
    name = where.stem
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.filename not in (*RUN_FILES, WEIGHTS) or member.file_size > LARGEST:
                raise UserError(f"{path}: run {name} holds {member.filename!r}: not a file of `study export`")
        parts = {member.filename: archive.read(member) for member in archive.infolist()}
    try:
        stored = json.loads(parts["config.json"])
        expected = stored.pop("hash")
        config = RunConfig.from_json(json.dumps(stored))
        json.loads(parts["status.json"])
    except (KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: run {name} has no readable {error}: copy it again") from None
    if config.hash != expected or (config.dataset, config.run_id) != (where.parts[0], name):
        raise UserError(f"{path}: run {name} is not what its configuration says: it was edited or renamed")
    if WEIGHTS in parts:
        _check_weights(path, config, parts[WEIGHTS])
    return config, parts


def _check_weights(path: Path, config: RunConfig, content: bytes) -> None:
    try:
        tensors = load_safetensors(content)
    except SafetensorError as error:
        raise UserError(f"{path}: the weights of {config.run_id} are damaged ({error}): copy it again") from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    if header.get("__metadata__", {}).get("config_hash") != config.hash:
        raise UserError(f"{path}: the weights of {config.run_id} belong to another configuration")
    if any(value.dtype != torch.float16 or not value.isfinite().all() for value in tensors.values()):
        raise UserError(f"{path}: the weights of {config.run_id} are not finite half precision")
