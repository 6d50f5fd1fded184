"""What a run is and where it lives.

A run is one trained network with everything measured on it, in results/runs/<dataset>/<run id>/:

    config.json       the RunConfig, guarded by its hash      samples.png       a grid from fixed noise
    status.json       running / done / failed, and why        checkpoints/      to resume from; not committed
    history.csv.xz    losses over training, also per t        ema.safetensors   the EMA weights; not committed
    evaluations.csv   one row per score                       (shipped weights: results/checkpoints/, bfloat16)
"""

import hashlib
import json
import lzma
import os
import re
import threading
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from ddgan_core import UserError, tell
from ddgan_core.packing import PACKED, refuse_cut

METHODS, PRECISIONS, HISTORY = ("ddgan", "ddpm"), ("fp32", "bf16"), "history.csv.xz"


@dataclass(frozen=True)
class RunConfig:
    """Every number a training depends on, flat. Same config and thread count: same weights, bit for bit on a CPU of one
    kind; on a GPU up to rounding, which training enlarges."""

    # what is trained
    dataset: str = "fashion_mnist"
    method: str = "ddgan"
    divergence: str = "non_saturating_js"  # of the GAN; "none" for a DDPM
    critic_divergence: str = ""  # whose loss trains the critic where it is not the row's own
    T: int = 4
    schedule: str = "vp"
    seed: int = 0
    preset: str = "cpu"
    tag: str = ""  # where one more thing differs from the preset
    # the networks
    widths: tuple[int, ...] = (32, 64, 128)  # U-Net channels, finest resolution first
    critic_widths: tuple[int, ...] = (32, 64, 128)
    critic_detail: bool = False  # the critic also sees fine detail at full size
    z_dim: int = 32
    attention: bool = False
    # the training
    updates: int = 10_000
    batch_size: int = 64
    lr_generator: float = 2e-4
    lr_critic: float = 2e-4
    lr_final: float = 1e-5  # both learning rates follow a cosine down to this
    penalty_weight: float = 0.02
    penalty_every: int = 1  # lazy penalties are multiplied by this interval
    level_weight: float = 0.0  # of the mean squared logit in the critic's loss, in every update
    critic_steps: int = 1
    step_weights: tuple[int, ...] = ()  # how often t = 1..T is trained, in proportion; () is equally often
    shared_fakes: bool = False  # the generator learns from the critic's last batch, whose fakes are made once
    ema_decay: float = 0.999
    precision: str = "fp32"  # or bf16 (autocast); on a GPU convolutions of fp32 are in TF32, PyTorch's default

    def __post_init__(self) -> None:
        for field in fields(self):  # 10 and 10.0 are one configuration, so they must have one hash
            value = getattr(self, field.name)
            if field.type is float and isinstance(value, int) and abs(value) < 2**1000:  # else it is refused below
                object.__setattr__(self, field.name, float(value))
            if field.type is int and isinstance(value, float):
                if not value.is_integer():
                    raise UserError(f"{field.name} = {value}: a whole number")
                object.__setattr__(self, field.name, int(value))
            value, plain = getattr(self, field.name), field.type in (int, float, str, bool)
            whole = isinstance(value, tuple) and all(type(number) is int and number < 2**63 for number in value)
            if not (type(value) is field.type if plain else whole):
                kind = field.type.__name__ if plain else "whole numbers below 2^63"
                raise UserError(f"{field.name} = {value!r}: of the kind {kind}")
        for name, known in {"method": METHODS, "precision": PRECISIONS}.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} = {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if (self.method == "ddpm") != (self.divergence == "none"):
            raise UserError(
                f"divergence = {self.divergence!r} with method {self.method!r}: a DDPM has none, a DDGAN has one"
            )
        if not 1 <= self.T <= 1000:
            raise UserError(f"T = {self.T}: the number of diffusion steps is a whole number from 1 to 1000")
        if self.step_weights and (len(self.step_weights) != self.T or min(self.step_weights) < 1):
            raise UserError(f"step_weights = {self.step_weights}: of each step t = 1..{self.T} one, 1 or more; or none")
        for name, least in {"updates": 1, "batch_size": 1, "penalty_every": 1, "critic_steps": 1, "z_dim": 0}.items():
            if not least <= getattr(self, name) < 2**63:
                raise UserError(f"{name} = {getattr(self, name)}: a whole number of {least} or more, below 2^63")
        for name in ("seed", "lr_generator", "lr_critic", "lr_final", "penalty_weight", "level_weight"):
            if not 0 <= getattr(self, name) < float("inf"):  # NaN is refused too
                raise UserError(f"{name} = {getattr(self, name)}: a finite number of 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay = {self.ema_decay}: from 0 to just below 1")
        for name in ("widths", "critic_widths"):
            if not getattr(self, name) or any(width < 8 or width % 8 for width in getattr(self, name)):
                raise UserError(f"{name} = {getattr(self, name)}: channels in multiples of 8, finest resolution first")
        for name in ("dataset", "divergence", "preset"):
            if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", getattr(self, name)):
                raise UserError(f"{name} = {getattr(self, name)!r}: small letters, digits, '.', '_' and '-' only")
        if not re.fullmatch(r"[a-zA-Z0-9.-]*", self.tag):
            raise UserError(f"tag = {self.tag!r}: letters, digits, '.' and '-' only; '_' parts the names in a run's id")

    @property
    def run_id(self) -> str:
        """Readable and unique within a dataset, e.g. squared_hellinger_T04_s0_cpu."""
        method = "ddpm" if self.method == "ddpm" else self.divergence
        return f"{method}_T{self.T:02d}_s{self.seed}_{self.preset}" + (f"_{self.tag}" if self.tag else "")

    @property
    def hash(self) -> str:
        """Twelve hex digits over the fields that differ from their defaults.

        So a field added later changes no older run's hash, provided its default is what was done before it existed.
        """
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    def changed(self, /, **changes: Any) -> "RunConfig":
        """A copy with some fields changed; numbers given as lists become tuples. Raises UserError on unknown fields."""
        if unknown := changes.keys() - {f.name for f in fields(self)}:
            raise UserError(
                f"unknown setting {', '.join(sorted(unknown))}: a run has {', '.join(f.name for f in fields(self))}"
            )
        return replace(self, **{k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()})


_SMALL: dict[str, Any] = {
    "widths": (16, 32, 64), "critic_widths": (16, 32, 64), "z_dim": 32, "batch_size": 32, "penalty_every": 16,
}  # fmt: skip

# Presets never share a curve. `smoke` proves that everything runs; `cpu` is a laptop's, `short` a quarter of it, for
# what takes many runs (every T, seeds); `full` wants a GPU.
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "dataset": "digits", "widths": (8, 16), "critic_widths": (8, 16), "z_dim": 4,
        "updates": 30, "batch_size": 16, "ema_decay": 0.9,
    },
    "short": _SMALL | {"updates": 4_500},
    "cpu": _SMALL | {"updates": 18_000},
    "full": {
        "widths": (32, 64, 128), "critic_widths": (32, 64, 128), "z_dim": 64, "attention": True,
        "updates": 10_000, "batch_size": 64, "penalty_every": 16,
    },
}  # fmt: skip


def results_dir() -> Path:
    """Where runs live: $DDGAN_RESULTS, else the results folder beside the package, else ./results."""
    if named := os.environ.get("DDGAN_RESULTS"):
        return Path(named)
    beside = Path(__file__).parent.parent / "results"
    return beside if beside.is_dir() else Path("results")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError, naming the file, for anything else that it holds."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it, or delete the run's folder") from None
    return found


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write aside, flush to disk, rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


class Run:
    """A run's folder. Opening one checks its config against its hash; nothing is written before `create`."""

    def __init__(self, config: RunConfig, results: Path | None = None) -> None:
        self.config = config
        self.results = results_dir() if results is None else results
        self.path = self.results / "runs" / config.dataset / config.run_id

    @classmethod
    def create(cls, config: RunConfig) -> "Run":
        """The run of this config, its folder made if need be. Another that was begun under the same id is refused."""
        run = cls(config)
        existing = cls.read(run.path / "config.json").config if (run.path / "config.json").exists() else None
        if existing not in (None, config) and run.status["state"] != "missing":
            differ = [
                f"{f.name} {getattr(existing, f.name)!r} there, {getattr(config, f.name)!r} asked for"
                for f in fields(config) if getattr(existing, f.name) != getattr(config, f.name)
            ]  # fmt: skip
            raise UserError(
                f"run {config.run_id} exists with another configuration ({'; '.join(differ)}): "
                "give yours a --tag, or delete the folder"
            )
        if existing != config:
            stored = {"hash": config.hash} | json.loads(config.to_json())
            write_atomic(run.path / "config.json", json.dumps(stored, indent=1))
        return run

    @classmethod
    def open(cls, run_id: str, dataset: str | None = None, results: Path | None = None) -> "Run":
        """An existing run by its id. Raises UserError naming the dataset that has it, else runs of such a name."""
        everywhere = sorted((results := results or results_dir()).glob("runs/*/*/config.json"))
        there = [path for path in everywhere if dataset in (None, path.parts[-3])]
        found = [path for path in there if path.parent.name == run_id]
        if not found:
            names = [path.parent.name for path in there]
            near = ", ".join([*get_close_matches(run_id, names, 3, 0), f"{len(names)} in all" if names else "none"])
            others = ", ".join(path.parts[-3] for path in everywhere if path.parent.name == run_id)
            known = f"it is one of {others}" if others else f"there are {near} in {results}"
            raise UserError(f"run {run_id!r}{f' of {dataset}' if dataset else ''} does not exist: {known}")
        if len(found) > 1:
            sets = ", ".join(path.parts[-3] for path in found)
            raise UserError(f"run {run_id!r} exists for several datasets ({sets}): say which by --dataset")
        return cls.read(found[0])

    @classmethod
    def read(cls, path: Path) -> "Run":
        """The run of a config.json in its place, runs/<dataset>/<run id>/ of a results folder, and checked."""
        stored = read_object(path)
        try:
            config = RunConfig().changed(**{name: value for name, value in stored.items() if name != "hash"})
        except UserError as error:
            raise UserError(f"{path} is not a run's configuration: {error}") from None
        if stored.get("hash") != config.hash:
            raise UserError(f"{path} was edited by hand (hash {stored.get('hash')}, not {config.hash}): restore it")
        if (config.dataset, config.run_id) != path.parts[-3:-1]:
            raise UserError(f"{path} belongs to run {config.run_id} of {config.dataset}: the folder was renamed")
        run = cls(config, path.parents[3])
        now = run.status
        if now["state"] == "done" and now.get("step", config.updates) != config.updates:
            raise UserError(
                f"{run.path / 'status.json'} was edited by hand: done at step {now['step']} of {config.updates}"
            )
        return run

    @property
    def status(self) -> dict[str, Any]:
        """{"state": missing | running | done | failed, "reason": ..., and what `set_status` was given}."""
        if not (path := self.path / "status.json").exists():
            return {"state": "missing", "reason": ""}
        if not (self.path / "config.json").exists():
            raise UserError(f"{self.path} has a status and no config.json: copy it whole, or delete it")
        now = read_object(path)
        numbers = [now.get(name, 0) for name in ("step", "seconds")]
        known = now.get("state") in ("running", "done", "failed") and isinstance(now.get("reason"), str)
        if not known or not all(isinstance(x, int | float) and 0 <= x < float("inf") for x in numbers):
            raise UserError(f"{path} is damaged (no state of a run): restore it, or delete the run's folder")
        return now

    @property
    def lock(self) -> Path:
        """Held by the process that trains it: `locks.alone`."""
        return self.path / ".lock"

    def set_status(self, state: str, reason: str = "", **facts: Any) -> None:
        write_atomic(self.path / "status.json", json.dumps({"state": state, "reason": reason, **facts}, indent=1))

    @property
    def history(self) -> pd.DataFrame:
        return self._table(HISTORY)

    @property
    def evaluations(self) -> pd.DataFrame:
        return self._table("evaluations.csv")

    def _table(self, name: str) -> pd.DataFrame:
        path, text = self.path / name, dict.fromkeys(("features_hash", "commit", "tag"), str)  # may look like numbers
        try:
            refuse_cut(path)
            return pd.read_csv(path, dtype=text).fillna({"tag": ""})
        except (FileNotFoundError, pd.errors.EmptyDataError):  # as of a run that was stopped before its first record
            return pd.DataFrame()
        except (ValueError, EOFError, lzma.LZMAError) as error:
            raise UserError(f"{path} is damaged ({str(error).strip()}): restore it, or delete it") from None

    @property
    def weights(self) -> Path | None:
        """The EMA weights: this machine's own, else the shipped ones, else None."""
        shipped = self.results / "checkpoints" / self.config.dataset / f"{self.config.run_id}{PACKED}"
        return next((p for p in (self.path / "ema.safetensors", shipped) if p.exists()), None)


def all_runs(dataset: str | None = None, damaged: bool = False) -> list[Run]:
    """Every run there is, in the order of their ids. A damaged one is passed over, with a line; an error if damaged."""
    found = []
    for path in sorted(results_dir().glob("runs/*/*/config.json")):
        if dataset in (None, path.parts[-3]):
            try:
                found.append(Run.read(path))
            except UserError as error:
                if damaged:
                    raise
                tell(f"passed over: {error}")
    return found
