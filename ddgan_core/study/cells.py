"""Which runs make the study: cells as data, most informative first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ddgan_core import UserError
from ddgan_core.data import get_dataset
from ddgan_core.diffusion import make_schedule
from ddgan_core.divergences import DIVERGENCES, get_divergence
from ddgan_core.runs import PRESETS, RunConfig
from ddgan_core.study.due import SWEEP_SEED
from ddgan_core.toys.toy_study import ToyCell
from ddgan_core.toys.toy_study import cells as toy_cells

PAPER_ROWS = ("non_saturating_js", "squared_hellinger", "reverse_kl", "total_variation", "wasserstein")
SMOOTH = tuple(row for row in PAPER_ROWS if DIVERGENCES[row].curvature is not None)  # f-divergences, f'' at 1
OF_CRITIC = dict(zip(("js", "sh", "rkl"), SMOOTH, strict=True))  # in tags: whose loss trains the critic
PAPER_T = (4, 2, 8, 10, 1, 3, 5, 6, 7, 9)  # in order of what they tell

# What a DDPM changes in each preset: it has no critic to pay for, so it gets more updates from the same minutes.
DDPM = {
    "smoke": {"T": 50, "schedule": "vp", "updates": 60, "lr_generator": 2e-3},
    "short": {"T": 1000, "schedule": "linear", "updates": 5_000, "lr_generator": 5e-4},
    "cpu": {"T": 1000, "schedule": "linear", "updates": 20_000, "lr_generator": 5e-4},
    "full": {"T": 1000, "schedule": "linear", "updates": 30_000, "lr_generator": 5e-4},
}

MOST_SIGNAL = 0.01  # of an image's variance in x_T, which sampling takes for noise
LATE = {2: (4, 1), 4: (8, 4, 2, 1), 8: (16, 11, 8, 6, 4, 3, 2, 1)}  # by T, how often t = 1..T are taught
CRITIC_SHARE = 0.433  # of an update's time, on a CPU thread: with four critic steps it takes 2.3 times as long

Cell = RunConfig | ToyCell


@dataclass(frozen=True)
class Study:
    """A named list of cells of one kind, most informative first."""

    name: str
    cells: tuple[Cell, ...]


def configure(
    preset: str = "cpu", *, method: str = "ddgan", divergence: str | None = None, T: int | None = None,
    seed: int = 0, tag: str = "", **overrides: Any,
) -> RunConfig:  # fmt: skip
    """The RunConfig of a cell: the preset's numbers, the row's learning rates and penalty, then the overrides.

    divergence: of a DDGAN, non_saturating_js by default. T: 4 by default for a DDGAN, the preset's own for a DDPM.
    Raises UserError for anything unknown.
    """
    if preset not in PRESETS:
        raise UserError(f"preset {preset!r} is not known: choose one of {', '.join(PRESETS)}")
    if method == "ddpm":
        if divergence is not None:
            raise UserError(f"divergence {divergence!r} for a ddpm: it has none; leave it out, or choose method ddgan")
        chosen: dict[str, Any] = PRESETS[preset] | DDPM[preset] | {"method": "ddpm", "divergence": "none"}
    else:
        row = get_divergence(divergence or "non_saturating_js")
        chosen = PRESETS[preset] | {
            "method": method, "divergence": row.name, "penalty_weight": row.penalty_weight,
            "lr_generator": row.lr_generator, "lr_critic": row.lr_critic, "critic_detail": True,
        } | ({} if row.lazy else {"penalty_every": 1})  # fmt: skip
    chosen |= {} if T is None else {"T": T}
    config = RunConfig(preset=preset, seed=seed, tag=tag).changed(**(chosen | overrides))
    get_dataset(config.dataset)
    if (left := float(make_schedule(config.schedule, config.T).alpha_bar[-1])) > MOST_SIGNAL:
        raise UserError(
            f"schedule {config.schedule} of T = {config.T} ends with {left:.2g} of an image's variance, where a chain "
            "begins with none: choose schedule vp or cosine, or a T near 1000"
        )
    return config


def paper_study(preset: str = "cpu") -> Study:
    """The source paper's grid, each cell trained at its own T: a DDPM; five rows at T = 1..10, three seeds at 4.

    The smooth rows have three at T = 2 as well, where their first seeds lie farthest apart, and at T = 1, the nearest.
    """
    times = (1, 2) if preset == "smoke" else PAPER_T
    seeds = (0,) if preset == "smoke" else (0, 1, 2)
    cells = [configure(preset, method="ddpm")]
    cells += [configure(preset, divergence=row, T=T) for T in times for row in PAPER_ROWS]
    for T, rows in ((4, PAPER_ROWS), (2, SMOOTH), (1, SMOOTH)):
        cells += [configure(preset, divergence=row, T=T, seed=seed) for seed in seeds[1:] for row in rows]
    return Study(f"paper-{preset}", tuple(cells))


def sweep_study(preset: str = "cpu") -> Study:
    """For each row at T = 4, settings to choose from, each trained as long as the preset's runs, by a seed of its own.

    Both learning rates by 2, 1 and 1/2; the penalty's weight by 1/10. Wasserstein also with five critic steps, as
    published (Gulrajani et al. 2017), at as many images for the critic: a fifth of the generator's updates.
    """
    cells = []
    for rate, penalty in ((2.0, 1.0), (1.0, 1.0), (0.5, 1.0), (1.0, 0.1)):
        for row in PAPER_ROWS:
            usual = configure(preset, divergence=row, seed=SWEEP_SEED, tag=f"sweep-lr{rate:g}-penalty{penalty:g}")
            cells.append(usual.changed(
                lr_generator=rate * usual.lr_generator, lr_critic=rate * usual.lr_critic,
                penalty_weight=penalty * usual.penalty_weight,
            ))  # fmt: skip
    usual = configure(preset, divergence="wasserstein", seed=SWEEP_SEED, tag="sweep-critic5")
    cells.insert(2 * len(PAPER_ROWS), usual.changed(critic_steps=5, updates=max(1, usual.updates // 5)))
    return Study(f"sweep-{preset}", tuple(cells))


def schedule_study(preset: str = "cpu") -> Study:
    """JS at several T by the cosine schedule, whose steps all take away signal; the paper's cells are its VP twins."""
    times = (1, 2) if preset == "smoke" else (4, 2, 8, 1)
    cells = (configure(preset, T=T, schedule="cosine", tag="cosine") for T in times)
    return Study(f"schedule-{preset}", tuple(cells))


def budget_study(preset: str = "cpu") -> Study:
    """JS trained twice or half as long as the preset's runs: does T count, or the updates that each step gets?

    At T = 1 the smooth rows twice as long by three seeds: the nearest, where short runs do not tell them apart. A DDPM
    five times as long, by two seeds: what is still to be had from it. JS by batches twice as large, 2.2 times the
    images; the longest run, four times the images, in bfloat16. The smooth rows by the larger batches in bfloat16, at
    T = 2 by two seeds, where JS uses its latent, and at T = 1, JS by two. JS at T = 4 so, by a critic twice as wide.
    """
    cells = []
    for T, times in ((2, 2.0), (1, 0.5), (4, 2.0)):
        usual = configure(preset, divergence=SMOOTH[0], T=T, tag=f"x{times:g}")
        cells.append(usual.changed(updates=max(1, round(times * usual.updates))))
    cells += [_twice(preset, row, seed) for seed in (0, 1, 2) for row in SMOOTH]
    usual = configure(preset, method="ddpm", tag="x5")
    cells += [usual.changed(updates=5 * usual.updates, seed=seed) for seed in (0, 1)]
    cells += [_later(preset, "fp32", T=T) for T in (4, 8, 2, 1)]
    usual = _later(preset, T=4)
    cells.append(usual.changed(tag="long", updates=2 * PRESETS[preset]["updates"]))
    later = [(T, seed, row) for T, seed in ((2, 0), (2, 1), (1, 0)) for row in SMOOTH] + [(1, 1, SMOOTH[0])]
    cells += [_later(preset, divergence=row, T=T, seed=seed) for T, seed, row in later]
    cells.append(usual.changed(tag=f"{usual.tag}-wide-critic", critic_widths=tuple(2 * w for w in usual.critic_widths)))
    return Study(f"budget-{preset}", tuple(cells))


def _twice(preset: str, row: str, seed: int) -> RunConfig:
    """In one step, twice as long as the preset's runs."""
    usual = configure(preset, divergence=row, T=1, seed=seed, tag="x2")
    return usual.changed(updates=2 * usual.updates)


def _later(preset: str, precision: str = "bf16", **chosen: Any) -> RunConfig:
    """Trained on until JS uses its latent at T = 2: twice the batches, usually in bfloat16, a twelfth more updates."""
    batch = 2 * PRESETS[preset]["batch_size"]
    tag = f"b{batch}" + "-bf16" * (precision == "bf16")
    usual = configure(preset, tag=tag, batch_size=batch, precision=precision, **chosen)
    return usual.changed(updates=usual.updates * 13 // 12)


def minimax_study(preset: str = "cpu") -> Study:
    """Minimax JS, eq. (8), wherever the non-saturating loss has seeds: does its divergence lead, or how it is trained?

    Its generator descends the JS that its critic, the same one, estimates; all other rows are minimax, too. Then the
    generators of the other smooth rows by that critic, at T = 2 and, by two seeds, at T = 1 twice as long as usual:
    is it what a generator descends, or who estimates the ratio?
    """
    cells = [configure(preset, divergence="jensen_shannon", T=T, seed=seed) for T in (4, 2) for seed in (0, 1, 2)]
    js, *others = SMOOTH
    crossed = [_later(preset, divergence=row, T=2) for row in others]
    crossed += [_twice(preset, row, seed) for seed in (0, 1) for row in others]
    crossed = [cell.changed(tag=f"{cell.tag}-js-critic", critic_divergence=js) for cell in crossed]
    return Study(f"minimax-{preset}", (*cells, _later(preset, divergence="jensen_shannon", T=2), *crossed))


def penalty_study(preset: str = "cpu") -> Study:
    """R1 as hard on one row as on another: is that why JS leads where the smooth rows are trained on?

    R1 has the same weight in every row's own logit. In the log ratio, as a share of the curvature of the critic's loss,
    that is four times as much for JS as for squared Hellinger and twice as much as for reverse KL. So each of the two
    held as JS is (reverse KL by two seeds) and JS held as squared Hellinger is, beside the budget study's at T = 2;
    and at T = 1 (squared Hellinger by two seeds), where by their usual weight they lose modes; there, twice as long as
    usual, by a third seed beside the crossed study's.
    """
    js = _later(preset, T=2)
    cells = [js.changed(tag=f"{js.tag}-r1x0.25", penalty_weight=js.penalty_weight / 4)]
    later = (("sh", 2, 0), ("rkl", 2, 0), ("rkl", 2, 1), ("sh", 1, 0), ("rkl", 1, 0), ("sh", 1, 1))
    cells += [_taught(_later(preset, divergence=OF_CRITIC[own], T=T, seed=seed), own) for own, T, seed in later]
    cells += [_taught(_twice(preset, OF_CRITIC[own], 2), own) for own in ("rkl", "sh")]
    return Study(f"penalty-{preset}", tuple(cells))


def crossed_study(preset: str = "cpu") -> Study:
    """Each smooth row's generator by each one's critic, held by R1 as hard as JS's: which of the two tells them apart?

    At T = 1, twice as long as usual, by two seeds. Those by JS's critic are the minimax study's and the budget study's.
    At T = 2, trained on, by two seeds, JS's generator by the others' critics; by its own, and theirs, in those and the
    penalty study.
    """
    cells = []
    for apart in (0, 1, 2):  # a row's generator by its own critic, by the next one's, by the one before
        for seed, (place, row) in ((seed, at) for seed in (0, 1) for at in enumerate(SMOOTH)):
            cells.append(_taught(_twice(preset, row, seed), list(OF_CRITIC)[(place + apart) % len(SMOOTH)]))
    cells += [_taught(_later(preset, T=2, seed=seed), critic) for seed in (0, 1) for critic in ("rkl", "sh")]
    return Study(f"crossed-{preset}", tuple(cells))


def _taught(usual: RunConfig, critic: str) -> RunConfig:
    """By the critic of a row of OF_CRITIC, which R1 holds as hard as JS's."""
    times, row = {"js": 1.0, "sh": 4.0, "rkl": 2.0}[critic], OF_CRITIC[critic]
    own = row == usual.divergence
    tag = usual.tag + ("" if own else f"-{critic}-critic") + (f"-r1x{times:g}" if times != 1 else "")
    return usual.changed(tag=tag, penalty_weight=times * usual.penalty_weight, critic_divergence="" if own else row)


def shared_study(preset: str = "cpu") -> Study:
    """JS by the fastest update, in bfloat16 and with fakes that are made once for both players: is it as good?

    Beside the paper's seeds at T = 4, in float32 and with the generator's own fakes.
    """
    fast = {"precision": "bf16", "shared_fakes": True, "tag": "bf16-shared"}
    cells = (configure(preset, T=4, seed=seed, **fast) for seed in (0, 1, 2))
    return Study(f"shared-{preset}", tuple(cells))


def steps_study(preset: str = "cpu") -> Study:
    """JS whose steps are taught unequally often: is it the number of steps that costs, or that all share alike?

    Late: half as often from each quarter of the chain to the next, most often t = 1, which draws the texture; steep: a
    quarter as often; middle: about as often as a step settles of an image's variance (notebook 13), most often t = 3
    of 4. At T = 4 by the fastest update and two seeds, beside the shared study's; late at T = 2 and 8, beside the
    paper's; and late at T = 4 trained on, beside the budget study's.
    """
    weights = {"late": LATE[4], "steep": (64, 16, 4, 1), "middle": (2, 5, 12, 1)}
    alike = [cell for cell in shared_study(preset).cells if cell.seed < 2]
    cells = [cell.changed(tag=f"{cell.tag}-{of}", step_weights=w) for cell in alike for of, w in weights.items()]
    usual = _later(preset, T=4)
    cells.append(usual.changed(tag=f"{usual.tag}-late", step_weights=LATE[4]))
    cells += [configure(preset, T=T, tag="late", step_weights=LATE[T]) for T in (8, 2)]
    return Study(f"steps-{preset}", tuple(cells))


def headline_study(preset: str = "cpu") -> Study:
    """JS with four steps, and with one, by more of what helped on a CPU; with two; and the other smooth rows with four.

    Batches twice as large, bfloat16, a critic four times as wide, 1.7 times the preset's updates. The rows with four
    steps also at a quarter of the critic's rate: the usual one broke wide critics of losses with exponentials.
    """
    cells, (js, *others) = [], SMOOTH
    for row, T in ((js, 4), (js, 1), (js, 2), *((row, 4) for row in others)):
        usual = _later(preset, divergence=row, T=T)
        wide = tuple(4 * width for width in usual.critic_widths)
        usual = usual.changed(tag=f"{usual.tag}-wide-critic4", critic_widths=wide)
        cells.append(usual.changed(updates=PRESETS[preset]["updates"] * 17 // 10))
    cells += [cell.changed(tag=f"{cell.tag}-slow", lr_critic=cell.lr_critic / 4) for cell in cells if cell.T == 4]
    return Study(f"headline-{preset}", tuple(cells))


def causes_study(preset: str = "cpu") -> Study:
    """Runs that went wrong, again with one thing changed that is held to be the cause.

    JS at T = 8, whose critic saw nothing, with four critic steps to one of the generator; total variation at T = 4 and
    10, where the logits had drifted away together, with a weight that holds their level. Then JS with two and four
    critic steps in the time of one: is it the critic's steps, or the time that they take? And JS at T = 4, whose FID
    falls short: another average of its weights or none (the same training, where the code is the same), self-attention,
    a generator or a critic twice as wide, a critic at a quarter of its rate; and without the latent, of which the
    generators make little (notebook 10). And what keeps squared Hellinger and reverse KL steady: both without R1, and
    at 3e-4, the higher of the source paper's rates, for both players. And reverse KL, which larger networks broke, and
    the other smooth rows: by a critic four times as wide, in bfloat16, at the usual rate and at a quarter of it.
    """
    held = {"divergence": "total_variation", "tag": "level", "level_weight": 1e-3}
    cells = [configure(preset, T=8, tag="critic4", critic_steps=4)]
    cells += [configure(preset, T=T, seed=seed, **held) for T, seed in ((4, 1), (10, 0))]
    for steps in (2, 4):
        usual = configure(preset, T=8, tag=f"critic{steps}-time", critic_steps=steps)
        cells.append(usual.changed(updates=round(usual.updates / (1 + CRITIC_SHARE * (steps - 1)))))
    cells += [configure(preset, T=4, tag=f"ema{decay:g}", ema_decay=decay) for decay in (0.0, 0.99)]
    usual = configure(preset, T=4)
    cells += [usual.changed(tag="attention", attention=not usual.attention)]
    cells += [usual.changed(tag="wide", widths=tuple(2 * width for width in usual.widths))]
    cells += [usual.changed(tag="wide-critic", critic_widths=tuple(2 * width for width in usual.critic_widths))]
    cells += [usual.changed(tag="slow-critic", lr_critic=usual.lr_critic / 4)]
    cells += [configure(preset, T=T, tag="no-z", z_dim=0) for T in (4, 1)]
    for row in ("squared_hellinger", "reverse_kl"):
        cells += [configure(preset, divergence=row, T=4, tag="no-r1", penalty_weight=0.0)]
        cells += [configure(preset, divergence=row, T=4, tag="rates", lr_generator=3e-4, lr_critic=3e-4)]
    for row in reversed(SMOOTH):
        usual = configure(preset, divergence=row, T=4, tag="bf16-wide-critic4", precision="bf16")
        usual = usual.changed(critic_widths=tuple(4 * width for width in usual.critic_widths))
        cells += [usual, usual.changed(tag=f"{usual.tag}-slow", lr_critic=usual.lr_critic / 4)]
    return Study(f"causes-{preset}", tuple(cells))


def toys_study(preset: str = "cpu", **chosen: Any) -> Study:
    """Toy data whose true posteriors are known (notebook 09); chosen: data, rows or steps, as `toy_study.cells`."""
    return Study(f"toys-{preset}", toy_cells(preset, **chosen))


STUDIES = {
    "paper": paper_study, "sweep": sweep_study, "schedule": schedule_study, "budget": budget_study,
    "causes": causes_study, "minimax": minimax_study, "penalty": penalty_study, "crossed": crossed_study,
    "shared": shared_study, "steps": steps_study, "headline": headline_study, "toys": toys_study,
}  # fmt: skip


def make_study(name: str = "paper", preset: str = "cpu", cells: Sequence[str] = ()) -> Study:
    """The study of that name, or those of its cells that are named by their run ids. Raises UserError for others."""
    if name not in STUDIES:
        raise UserError(f"study {name!r} is not known: choose one of {', '.join(STUDIES)}")
    study = STUDIES[name](preset)
    known = {cell.run_id: cell for cell in study.cells}
    for cell in cells:
        if cell not in known:
            raise UserError(
                f"cell {cell!r} is not of study {study.name}: see study status --study {name} --preset {preset}"
            )
    return replace(study, cells=tuple(known[cell] for cell in dict.fromkeys(cells))) if cells else study
