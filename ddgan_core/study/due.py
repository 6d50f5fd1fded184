"""The scores that each finished run of the study is given."""

from ddgan_core.runs import RunConfig

SWEEP_SEED = 100  # settings are chosen by a seed that no curve or mean of a row has; `pairs` takes its ratios
CUT_SHORT = (4, 10)  # T at which a row's first run is also sampled as the source paper does, from a smaller t on

# (sampler, steps, features, images) of the scores every finished run gets; None stands for the run's T.
SCORES: dict[str, dict[str, list[tuple[str, int | None, str, int]]]] = {
    "smoke": {
        "ddgan": [("ddgan", None, "pixels", 200)],
        "ddpm": [("ancestral", None, "pixels", 200), ("ddim", 5, "pixels", 200), ("shortened", 5, "pixels", 200)],
    },
    "short": {
        "ddgan": [("ddgan", None, "fashion_classifier", 10_000)],
        "ddpm": [(s, n, "fashion_classifier", 10_000) for n in (4, 10) for s in ("ancestral", "ddim")]
        + [("ancestral", 100, "fashion_classifier", 10_000)],
    },
    "cpu": {
        "ddgan": [("ddgan", None, "fashion_classifier", n) for n in (10_000, 1_000)],
        # A thousand steps for ten thousand images would take a core half a day: the long chains are compared at 1,000.
        "ddpm": [(s, n, "fashion_classifier", 10_000) for n in (4, 10) for s in ("ancestral", "ddim")]
        + [("ancestral", n, "fashion_classifier", 1_000) for n in (4, 10, 20, 50, 100, 200, 1000)]
        + [(s, n, "fashion_classifier", 1_000) for s in ("ddim", "dpm_solver") for n in (4, 10, 20, 50, 100)]
        + [("shortened", n, "fashion_classifier", 1_000) for n in (10, 20, 50, 100, 200)]
        + [("retimed", n, "fashion_classifier", 1_000) for n in (10, 50, 200)],
    },
    "full": {  # a GPU has time for Inception's features
        "ddgan": [("ddgan", None, features, 10_000) for features in ("fashion_classifier", "inception")],
        "ddpm": [("ancestral", n, "fashion_classifier", 10_000) for n in (10, 20, 50, 100, 200, 500, 1000)]
        + [(s, n, "fashion_classifier", 10_000) for s in ("ddim", "dpm_solver") for n in (10, 20, 50, 100)]
        + [(s, n, "fashion_classifier", 10_000) for n in (10, 50, 200) for s in ("shortened", "retimed")]
        + [("ancestral", n, "inception", 10_000) for n in (10, 100, 1000)]
        + [(s, 10, "inception", 10_000) for s in ("ddim", "dpm_solver")],
    },
}


def reference_split(config: RunConfig) -> str:
    """The images that a run's scores are measured against: the test images, by which nothing is chosen."""
    return "train" if config.seed == SWEEP_SEED else "test"


def scores_due(config: RunConfig) -> list[tuple[str, int, str, int]]:
    """(sampler, steps, features, images) of the scores that a run gets when it is finished."""
    usual = SCORES[config.preset][config.method]
    if config.method == "ddpm" and config.tag:  # samplers are compared by the preset's own run
        usual = [score for score in usual if score[-1] == max(n for *_, n in usual)]
    due = [(sampler, steps or config.T, features, n) for sampler, steps, features, n in usual]
    if config.method == "ddgan" and config.T in CUT_SHORT and config.seed == 0 and not config.tag:
        due += [("truncated", t, *usual[0][2:]) for t in range(1, config.T)]
    return due
