"""Finished runs from one machine to another, as a few zip files: what a lent GPU has to hand back.

A file holds runs: config, status, history, scores and samples, and, as far as there is room, the EMA weights as
bfloat16; those may come later. Importing checks everything before it writes anything: names, hashes, that what reads a
run can read it, that what is there already is the same.
"""

import contextlib
import io
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes

from ddgan_core import UserError
from ddgan_core.checkpoints import run_weights
from ddgan_core.data import get_dataset
from ddgan_core.evaluation.scores import KEY, add_evaluation, read_evaluations, same_key
from ddgan_core.locks import alone, is_held
from ddgan_core.networks import make_model
from ddgan_core.packing import PACKED, pack
from ddgan_core.runs import HISTORY, Run, RunConfig, all_runs, read_object, results_dir, write_atomic

MEGABYTES, FILES = 16.0, 8  # a file and how many of them, at most
RUN_FILES = ("status.json", "config.json", HISTORY, "evaluations.csv", "samples.png")
WEIGHTS = "weights.safetensors"
OVERHEAD = 1000  # bytes that a zip file takes for a member's name and place, at most
EVERYTHING, ITS_WEIGHTS, TOO_LARGE = "all of it", "weights", "weights larger than a file"  # what found no room
LARGEST = 64e6  # bytes of all that a zip file holds: more is no run of this study
ENDED = ("done", "failed")
WORDS = ("same", "merged", "new")
PNG = b"\x89PNG\r\n\x1a\n"


def export_runs(
    folder: Path, run_ids: Sequence[str] = (), dataset: str | None = None, *, megabytes: float = MEGABYTES,
    files: int = FILES,
) -> tuple[list[Path], dict[str, str]]:  # fmt: skip
    """Pack finished and failed runs into at most so many zip files of at most so many megabytes (10^6 bytes) each.

    Everything but weights goes first, then weights while there is room. run_ids, dataset: only these, by default every
    run. Returns the files, and {run id: what of it found no room}; "ID of DATASET" where two datasets have one of that
    id. Raises UserError for an unknown dataset or id, for one of a run that has not ended, and for a folder that holds
    such files already.
    """
    if dataset is not None:
        get_dataset(dataset)
    named = [Run.open(name, dataset) for name in dict.fromkeys(run_ids)]
    for run in named:
        if run.status["state"] not in ENDED:
            raise UserError(f"run {run.config.run_id} has not ended ({run.status['state']}): go on with it first")
    if left := sorted(folder.glob("runs-*-of-*.zip")):
        raise UserError(f"{left[0]} is of an export before: import it, or delete it, or choose another folder")
    runs = named or [run for run in all_runs(dataset, damaged=True) if run.status["state"] in ENDED]
    room, packed = int(megabytes * 1e6), list[dict[str, bytes]]()

    def fits(members: dict[str, bytes], content: bytes) -> bool:
        return sum(map(len, members.values())) + len(content) + OVERHEAD * (len(members) + 1) <= room

    def placed(run: Run, content: bytes) -> bool:
        """Is it in the first file that has room, or a new one?"""
        chosen = next((members for members in packed if fits(members, content)), None)
        if chosen is None and len(packed) < files and fits({}, content):
            packed.append(chosen := {})
        if chosen is not None:
            chosen[_member(run)] = content
        return chosen is not None

    left_out = {_name(run, runs): EVERYTHING for run in runs if not placed(run, _pack(run, weights=False))}
    for run in runs:
        home = next((members for members in packed if _member(run) in members), None)
        if home is None or run.weights is None:
            continue
        bare, whole = home.pop(_member(run)), _pack(run, weights=True)
        if not placed(run, whole):
            home[_member(run)] = bare
            left_out[_name(run, runs)] = ITS_WEIGHTS if fits({}, whole) else TOO_LARGE
    packed = [members for members in packed if members]
    paths = [folder / f"runs-{number}-of-{len(packed)}.zip" for number in range(1, len(packed) + 1)]
    for path, members in zip(paths, packed, strict=True):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # its members are compressed already
            for name, content in members.items():
                archive.writestr(name, content)
        write_atomic(path, buffer.getvalue())
    return paths, left_out


def _member(run: Run) -> str:
    return f"{run.config.dataset}/{run.config.run_id}.zip"


def _pack(run: Run, weights: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in RUN_FILES:
            if (path := run.path / name).exists():
                archive.writestr(name, path.read_bytes())
        if weights:
            tensors = {k: v.bfloat16() for k, v in run_weights(run).items()}
            archive.writestr(WEIGHTS, safetensors_bytes(tensors, {"config_hash": run.config.hash}))
    return buffer.getvalue()


def import_runs(paths: Iterable[Path]) -> dict[str, str]:
    """Merge exported files into the results; {run id: "new", "merged" (scores or weights added) or "same"}.

    "ID of DATASET" where two datasets have one of that id. A run that failed elsewhere never takes the place of one
    that was begun here. Raises UserError, nothing written, for a file that is damaged or foreign, and for a run that is
    here already with another configuration or other weights, or is being trained.
    """
    with tempfile.TemporaryDirectory() as folder:
        arrived = [run for path in paths for run in _unpack(Path(path), Path(folder))]
        here = {_key(run): run for run in all_runs(damaged=True)}
        for run in arrived:  # all of them, before the first is written
            _ = Run(run.config).status  # refuses half a folder, too
            there = here.setdefault(_key(run), run)
            _refuse_conflict(run, there, "is here" if there.results == results_dir() else "arrives twice,")
            if there.status["state"] != "done":
                here[_key(run)] = run
        words: dict[str, str] = {}
        for run in arrived:
            name = _name(run, arrived)
            with alone(Run(run.config).lock, f"run {run.config.run_id}"):
                words[name] = max(_merge(run), words.get(name, "same"), key=WORDS.index)
    return words


def _key(run: Run) -> tuple[str, str]:
    return run.config.dataset, run.config.run_id


def _name(run: Run, among: Iterable[Run]) -> str:
    """Its id, with its dataset where that of another run among them is the same."""
    dataset, run_id = _key(run)
    alone = {_key(other)[0] for other in among if other.config.run_id == run_id} == {dataset}
    return run_id if alone else f"{run_id} of {dataset}"


def _refuse_conflict(run: Run, there: Run, how: str) -> None:
    if is_held(there.lock):
        raise UserError(f"run {run.config.run_id} is being trained here: import it when that has stopped")
    if run.config != there.config:
        raise UserError(f"run {run.config.run_id} {how} with another configuration: import into other results")
    mine, its = (r.status.get("weights_hash") for r in (there, run))
    if there.status["state"] == run.status["state"] == "done" and mine != its:
        raise UserError(f"run {run.config.run_id} {how} with other weights ({mine}; these are {its}): keep one")


def _merge(arrived: Run) -> str:
    run, config = Run(arrived.config), arrived.config
    state, done = run.status["state"], arrived.status["state"] == "done"
    if not done and state != "missing":
        return "same"
    gained = _add_scores(run.path / "evaluations.csv", arrived) if state == "done" else 0
    if arrived.weights is not None and (state != "done" or run.weights is None):
        write_atomic(run.results / "checkpoints" / config.dataset / arrived.weights.name, arrived.weights.read_bytes())
        gained += 1
    if state == "done":
        return "merged" if gained else "same"
    (run.path / "ema.safetensors").unlink(missing_ok=True)  # of a training that was killed as it ended
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)  # of one that stopped
    for name in reversed(RUN_FILES):  # the configuration and "done" come last: half an import is none
        if (arrived.path / name).exists():
            write_atomic(run.path / name, (arrived.path / name).read_bytes())
    return "new"


def _add_scores(path: Path, arrived: Run) -> int:
    """How many scores were not here yet; they are now."""
    table = read_evaluations(arrived.path / "evaluations.csv")
    rows = [row for row in table.to_dict("records") if not same_key(read_evaluations(path), row).any()]
    for row in rows:
        add_evaluation(path, row)
    return len(rows)


def _unpack(path: Path, folder: Path) -> list[Run]:
    """The runs of a file, each in a results folder of its own within `folder`, and checked there."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: name one that `study export` wrote")
    try:
        packed = {name: _members(content) for name, content in _members(path.read_bytes()).items()}
    except UserError as error:
        raise UserError(f"{path} holds {error}: not a file of `study export`") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} is not a whole zip file ({error}): copy it again") from None
    if not packed:
        raise UserError(f"{path} holds no runs: not a file of `study export`")
    found = []
    for name, parts in packed.items():
        own = Path(tempfile.mkdtemp(dir=folder))
        try:
            found.append(_staged(name, parts, own))
        except UserError as error:
            raise UserError(f"{path}: run {name}: {str(error).replace(f'{own}/', '')}") from None
    return found


def _members(content: bytes) -> dict[str, bytes]:
    """What a zip file holds, by name; bounded before it is unpacked."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if min((member.header_offset for member in members), default=0) > 0:
            raise zipfile.BadZipFile("it ends within a run")  # whose own directory was taken for the file's
        if len({member.filename for member in members}) < len(members):
            raise UserError("a name twice")
        if sum(member.file_size for member in members) > LARGEST:
            raise UserError(f"more than {LARGEST / 1e6:g} MB")
        return {member.filename: archive.read(member) for member in members}


def _staged(name: str, parts: dict[str, bytes], results: Path) -> Run:
    """The run as it will be read, once all that reads a run has read it."""
    if strange := parts.keys() - {*RUN_FILES, WEIGHTS}:
        raise UserError(f"it holds {min(strange)!r}: not a file of `study export`")
    if missing := {"config.json", "status.json"} - parts.keys():
        raise UserError(f"it has no {min(missing)}: copy it again")
    write_atomic(results / "config.json", parts["config.json"])
    stored = read_object(results / "config.json")
    expected = stored.pop("hash", None)
    config = RunConfig().changed(**stored)
    if config.hash != expected or name != f"{config.dataset}/{config.run_id}.zip":
        raise UserError("it is not what its configuration says: it was edited or renamed")
    run = Run(config, results)  # its names are safe: a configuration takes no others
    for part, content in parts.items():
        if part == WEIGHTS:
            write_atomic(results / "checkpoints" / config.dataset / f"{config.run_id}{PACKED}", pack(content))
        else:
            write_atomic(run.path / part, content)
    run = Run.open(config.run_id, config.dataset, results)
    if run.status["state"] not in ENDED:
        raise UserError(f"its state is {run.status['state']!r}: not a file of `study export`")
    if not parts.get("samples.png", PNG).startswith(PNG):
        raise UserError("samples.png is no PNG: not a file of `study export`")
    _check_unpacked(HISTORY, parts.get(HISTORY, b""))
    assert run.history is not None  # it can be read
    scores = read_evaluations(run.path / "evaluations.csv")
    whose = scores[["dataset", "run_id"]] == [config.dataset, config.run_id]
    if not whose.to_numpy().all() or scores.duplicated(list(KEY)).any():
        raise UserError("its scores are of another run, or one is there twice: it was edited")
    if run.weights is not None:
        _check_weights(run)
    get_dataset(config.dataset)
    return run


def _check_unpacked(name: str, packed: bytes) -> None:
    """That it is no larger than a file may be; what else is wrong with it shows when it is read."""
    inside = lzma.LZMADecompressor()
    with contextlib.suppress(lzma.LZMAError):
        inside.decompress(packed, int(LARGEST))
        if inside.unused_data or not inside.eof and not inside.needs_input:
            raise UserError(f"{name} unpacks to more than {LARGEST / 1e6:g} MB, or to more than one stream")


def _check_weights(run: Run) -> None:
    """Of the run's network, in names and shapes, and finite; nothing is built of the size that a file asks for."""
    config, weights = run.config, run_weights(run)
    with torch.device("meta"):
        channels = get_dataset(config.dataset).channels
        network = make_model(config.method, channels, config.widths, config.z_dim, config.attention)
    if {k: v.shape for k, v in network.state_dict().items()} != {k: v.shape for k, v in weights.items()}:
        raise UserError("its weights are not those of its network: it was edited")
    if not all(value.isfinite().all() for value in weights.values()):
        raise UserError("its weights are not finite")
