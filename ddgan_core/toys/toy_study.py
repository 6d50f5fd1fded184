"""The toy study: rows x data x T x seeds, trained, measured against the truth, kept in results/toys.

A cell is (data, row, T) with all its seeds. One <data>.csv.xz a data set, one line for each seed and each `t`: "2" to
"T" hold divergences of the learned step from the true one, "1" and "chain" what samples keep of the data; a cell that
is in the file is not trained again. Beside it <data>_shown.csv.xz has what the pictures need of the first seed.
"""

import hashlib
import io
import json
import lzma
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import pandas as pd
import torch

from ddgan_core import UserError
from ddgan_core.diffusion import random_generator, vp_schedule
from ddgan_core.divergences import Divergence, get_divergence
from ddgan_core.locks import locked
from ddgan_core.packing import pack_text
from ddgan_core.runs import results_dir, write_atomic
from ddgan_core.shapes import Tensor
from ddgan_core.tables import read_table
from ddgan_core.toys.gan import ToyGAN, ToySettings, train_toy
from ddgan_core.toys.measures import (
    SAMPLE_MEASURES,
    StepScale,
    density_grid,
    learned_log_density,
    quasi_normal,
    sample_measures,
)
from ddgan_core.toys.mixtures import (
    GaussianMixture,
    grid_25,
    isotropic,
    kl_divergence,
    ring,
    true_posterior,
    two_modes,
)

SAMPLES = 4000  # of x_0, for the measures at t = 1 and of the chain
POINTS = {1: 32, 2: 16}  # x_t at which a step's density is compared, by the dimension
LATENTS = 1024  # z for each x_t, quasi-random
SHOWN = 250  # samples kept for the pictures, of 2-D data


@dataclass(frozen=True)
class Toy:
    """A data set with one characteristic that a reader may recognise in his own, and the measure that speaks of it.

    The measure (a column of `measures.sample_measures`) was fixed before the grid was run.
    """

    characteristic: str
    measure: str
    mixture: GaussianMixture


def _unequal_grid() -> GaussianMixture:
    """2-D: 3 x 3 Gaussians, each 0.7 times as heavy as the one before: from 0.31 to 0.018."""
    means = [[x, y] for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)]
    return isotropic([0.7**k for k in (0, 5, 2, 7, 4, 8, 3, 6, 1)], means, 0.08)


TOYS = {
    "two_near": Toy("modes that overlap", "w1", isotropic([0.5, 0.5], [[-0.3], [0.3]], 0.15)),
    "two_far": Toy("modes far apart", "smear", two_modes()),
    "rare": Toy("a rare mode (0.1)", "weight_error", two_modes(0.9)),
    "grid_25": Toy("many equal modes", "covered", grid_25(0.06)),
    "grid_unequal": Toy("many modes of unequal weight", "weight_error", _unequal_grid()),
    "ring": Toy("a thin curve", "smear", ring()),
}
ROWS = ("non_saturating_js", "squared_hellinger", "reverse_kl", "total_variation", "wasserstein", "kl")
STEPS = (4, 2, 1, 8)  # T, in order of what it tells
# Other weights than the rows' own, which are for images. 0.1 instead of 10: so did Gulrajani et al. (2017) in the code
# of their toy experiments; with 10 the row misses most of the 25 modes (results/LOG.md).
PENALTY_WEIGHTS = {"wasserstein": 0.1}
SETTINGS = {
    "smoke": ToySettings(seeds=2, updates=20, batch_size=16, width=8),
    "short": ToySettings(),
    "cpu": ToySettings(),
    "full": ToySettings(),
}
MEASURED, PICTURED = ".csv.xz", "_shown.csv.xz"  # ends of the names of a data set's files
CELL = ["data", "row", "T"]
NOTED = ("seconds", "device")  # of the cell that a line is of; the first ones were made without


@dataclass(frozen=True)
class ToyCell:
    """A row on some data at T, with all its seeds: what `study` gets done. Raises UserError for what is not known."""

    data: str
    row: str
    T: int
    preset: str = "cpu"

    def __post_init__(self) -> None:
        if self.data not in TOYS:
            raise UserError(f"toy data {self.data!r} are not known: choose among {', '.join(TOYS)}")
        get_divergence(self.row)
        folder(self.preset)

    @property
    def run_id(self) -> str:
        """Readable and unique, e.g. two_far_reverse_kl_T04_toys; the end says where it lies."""
        return f"{self.data}_{self.row}_T{self.T:02d}_{folder(self.preset).name}"


def folder(preset: str) -> Path:
    """Where a preset's results are; all but smoke share theirs, it never mixes with them."""
    if preset not in SETTINGS:
        raise UserError(f"preset {preset!r} is not known: choose one of {', '.join(SETTINGS)}")
    return results_dir() / ("toys_smoke" if preset == "smoke" else "toys")


def cells(
    preset: str = "cpu", data: Sequence[str] = tuple(TOYS), rows: Sequence[str] = ROWS, steps: Sequence[int] = STEPS
) -> tuple[ToyCell, ...]:
    """In the order in which they are trained: T = 4 and 2 of every data set first. Raises UserError as ToyCell does."""
    return tuple(ToyCell(d, row, T, preset) for T in steps for d in data for row in rows)


def load(preset: str = "cpu") -> pd.DataFrame:
    """All measured lines, `t` as text; columns that a data set does not have are NaN. Empty where nothing has run.

    Raises UserError for a file that is damaged, or of other settings or data than there are now.
    """
    paths = [folder(preset) / f"{name}{MEASURED}" for name in TOYS]
    found = [(path, path.stat()) for path in paths if path.exists()]
    tables = [_read(path, (at.st_ino, at.st_mtime_ns, at.st_size), SETTINGS[preset]) for path, at in found]
    if tables:
        return pd.concat(tables, ignore_index=True)
    columns = ["data", "row", "T", "seed", "t", "settings", "diverged", *SAMPLE_MEASURES, *NOTED]
    return pd.DataFrame(columns=columns).astype({"T": int, "seed": int, "diverged": bool, "seconds": float})


@lru_cache(maxsize=len(TOYS))
def _read(path: Path, version: tuple[int, ...], settings: ToySettings) -> pd.DataFrame:
    """A data set's file, its cells checked to be whole and of these settings; another version is read again."""
    name = path.name.removesuffix(MEASURED)
    kinds = {"t": str, "settings": str, "device": str, "T": int, "seed": int, "diverged": bool}
    try:
        table = pd.read_csv(io.BytesIO(lzma.decompress(path.read_bytes())), dtype=kinds)
        for (data, row, T), own in table.groupby(CELL):
            if data != name or (own["settings"] != _mark(settings, data, row)).any():
                raise ValueError(f"{data}, {row}, T = {T} is of other settings or data than there are now")
            if not len(own) == len(own.drop_duplicates(["seed", "t"])) == settings.seeds * (T + 1):
                raise ValueError(f"{row}, T = {T} is not whole")
    except (lzma.LZMAError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not this study's ({str(error).strip()}): restore it, or move away {name}*.xz"
        ) from None
    return table.assign(**{name: math.nan for name in NOTED if name not in table}).astype({"device": object})


def load_shown(preset: str, data: str) -> pd.DataFrame:
    """What the pictures need: columns row, T, x, y; see `run_cell`. Empty where nothing has run."""
    table = read_table(folder(preset) / f"{data}{PICTURED}")
    return table if len(table) else pd.DataFrame(columns=["row", "T", "x", "y"])


def run_cell(cell: ToyCell, progress: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One cell: its measured lines, and what is shown of its first seed.

    A seed whose weights or measures are not finite is marked `diverged`; its line stays, with what could be measured.
    shown, in 1-D: x, y = p(x_{t-1} | x_t) at t = 2 and the x_t of `shown_x_t`; in 2-D: samples of the chain.
    """
    data, row, T, settings = cell.data, cell.row, cell.T, SETTINGS[cell.preset]
    mixture, seeds = TOYS[data].mixture, range(settings.seeds)
    gan = train_toy(mixture, _row(row), T, seeds, settings, label=cell.run_id if progress else "")
    measured: dict[str, list[dict[str, float]]] = {}
    for t in range(2, T + 1):
        values = _scale(data, T, t, settings.z_dim).measure(gan.predict, len(seeds))
        measured[str(t)] = [{name: float(v[k]) for name, v in values.items()} for k in range(len(seeds))]
    chain = gan.sample_chain(SAMPLES)
    for t, x in (("1", _last_step(gan)), ("chain", chain)):
        measured[t] = [sample_measures(x[k], mixture, reference(data, k)) for k in range(len(seeds))]
    bad, mark, lines = gan.diverged(), _mark(settings, data, row), []
    for t, of_seeds in measured.items():
        for seed, values in zip(seeds, of_seeds, strict=True):
            finite = torch.isfinite(torch.tensor(list(values.values()))).all()
            where = {"data": data, "row": row, "T": T, "seed": seed, "t": t, "settings": mark}
            lines.append(where | {"diverged": bool(bad[seed] or not finite)} | values)
    return pd.DataFrame(lines), _shown(gan, data, row, chain[0])


def keep(cell: ToyCell, lines: pd.DataFrame, shown: pd.DataFrame) -> None:
    """Put a cell's results into the files of its data, whole or not at all; other cells may be put there meanwhile."""
    home = folder(cell.preset)
    with locked(home):
        _put(cell, home / f"{cell.data}{PICTURED}", shown)  # first: the lines say that the cell is done
        _put(cell, home / f"{cell.data}{MEASURED}", lines)


def reference(data: str, seed: int, purpose: str = "toy reference") -> Tensor:
    """Exact samples [SAMPLES, d] against which `w1` is measured; another purpose gives the floor of every measure."""
    return TOYS[data].mixture.sample(SAMPLES, random_generator(seed, purpose))


def floors(data: str, seeds: Sequence[int]) -> pd.DataFrame:
    """What exact samples score, one line a seed: no model can be told from the data below that."""
    return pd.DataFrame(
        sample_measures(reference(data, s, purpose="toy floor"), TOYS[data].mixture, reference(data, s)) for s in seeds
    )


def shown_x_t(data: str, T: int) -> Tensor:
    """[1, 1]: the x_t of 1-D data, t = 2, that adds most to the expected KL(q(x_{t-1} | x_t) || its best Gaussian)."""
    mixture, schedule = TOYS[data].mixture, vp_schedule(T)
    x_t = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None]
    q = true_posterior(mixture, schedule, x_t, 2)
    loss = mixture.diffused(schedule, 2).log_prob(x_t).exp() * kl_divergence(q, q.best_gaussian())
    return x_t[loss.argmax()][None]


@cache
def _scale(data: str, T: int, t: int, z_dim: int) -> StepScale:
    mixture = TOYS[data].mixture
    return StepScale(mixture, vp_schedule(T), t, z_dim, points=POINTS[mixture.d], latents=LATENTS)


def _last_step(gan: ToyGAN) -> Tensor:
    """x_0 hat from true x_1: the last step alone, without what earlier ones did wrong."""
    random = [random_generator(seed, "toy last step") for seed in gan.seeds]
    x_1 = torch.stack([gan.mixture.diffused(gan.schedule, 1).sample(SAMPLES, r) for r in random])
    z = torch.stack([torch.randn(SAMPLES, gan.settings.z_dim, generator=r, dtype=torch.float64) for r in random])
    return gan.predict(x_1, 1, z)


def _shown(gan: ToyGAN, data: str, row: str, chain: Tensor) -> pd.DataFrame:
    """See `run_cell`: picture data of the first seed."""
    if gan.mixture.d == 2:
        points = {"x": chain[:SHOWN, 0], "y": chain[:SHOWN, 1]}
    elif gan.T == 1:
        return pd.DataFrame(columns=["row", "T", "x", "y"])
    else:
        x_t = shown_x_t(data, gan.T)
        axis = density_grid(gan.mixture, gan.schedule, 2)
        z = quasi_normal(LATENTS, gan.settings.z_dim).expand(len(gan.seeds), -1, -1)
        x_0 = gan.predict(x_t.expand(len(gan.seeds), LATENTS, 1), 2, z)[0]
        points = {"x": axis, "y": learned_log_density(x_0[None], x_t, gan.schedule, 2, axis)[0].exp()}
    return pd.DataFrame({"row": row, "T": gan.T} | {name: values.numpy() for name, values in points.items()})


def _row(name: str) -> Divergence:
    """The row with its weight for toys."""
    row = get_divergence(name)
    return replace(row, penalty_weight=PENALTY_WEIGHTS[name]) if name in PENALTY_WEIGHTS else row


def _mark(settings: ToySettings, data: str, row: str) -> str:
    """Eight digits that change with any setting, with the data, and with a penalty that is not the usual one."""
    mixture = TOYS[data].mixture
    facts = [asdict(settings), *(x.tolist() for x in (mixture.weights, mixture.means, mixture.covariances))]
    chosen = _row(row)
    if row in PENALTY_WEIGHTS or not chosen.lazy:
        facts += [chosen.penalty_weight, chosen.lazy]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


def _put(cell: ToyCell, path: Path, new: pd.DataFrame) -> None:
    """The file with a cell's lines, in place of any there were; four significant digits, whole or not at all."""
    if path.exists():
        old = read_table(path)
        new = pd.concat([old[(old["row"] != cell.row) | (old["T"] != cell.T)], new], ignore_index=True)
    for left in path.parent.glob(f".{path.name}.*.part"):  # by a process that was killed
        left.unlink()
    write_atomic(path, pack_text(new.to_csv(index=False, float_format="%.4g")))
