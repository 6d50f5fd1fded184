"""The commands and their options; a mistake is a UserError before anything heavy is imported."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from ddgan_core import UserError, __version__
from ddgan_core.commands.argument_types import folder, output, positive, setting, share, whole


class Parser(argparse.ArgumentParser):
    """Mistakes become UserErrors; options are written out in full, so that a misspelt one is refused."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """Every command with its options; `handler` names the function of `commands` that does it."""
    parser = Parser(
        prog="python -m ddgan_core", description="Train, sample, score and report denoising diffusion GANs."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(among: Any, name: str, handler: str, text: str, example: str) -> Any:
        this = among.add_parser(name, help=text, description=text, epilog=f"example:\n  python -m ddgan_core {example}")
        this.set_defaults(handler=handler)
        return this

    def group(name: str, text: str, *examples: str) -> Any:
        said = "\n".join(f"  python -m ddgan_core {example}" for example in examples)
        more = f"examples:\n{said}\n\nEach part has its own --help."
        return commands.add_parser(name, help=text, description=text, epilog=more)

    def computing(this: Any, device: bool = True, data: bool = True) -> None:
        this.add_argument(
            "--threads", type=whole(1, 1024), help="CPU threads (default: OMP_NUM_THREADS, else all cores)"
        )
        if device:
            this.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
        if data:
            this.add_argument(
                "--data-dir", type=folder, help="folder of FashionMNIST/raw (default: DDGAN_DATA, else data)"
            )

    preset = {"default": "cpu", "help": "smoke, short, cpu or full (default: %(default)s)"}

    text = "Train one run, or go on with it."
    this = command(commands, "train", "train", text, "train --divergence kl --T 4 --minutes 9")
    this.add_argument("--preset", **preset)
    this.add_argument("--method", default="ddgan", help="ddgan or ddpm (default: %(default)s)")
    this.add_argument("--divergence", help="of a DDGAN: a row of the table (default: non_saturating_js)")
    this.add_argument(
        "--T", type=whole(1, 1000), help="diffusion steps, 1 to 1000 (default: 4; a DDPM's: the preset's)"
    )
    this.add_argument("--seed", type=whole(0), default=0)
    this.add_argument("--tag", default="", help="distinguishes a run that differs from its preset in one more thing")
    this.add_argument("--dataset", help="fashion_mnist, cifar10 or digits (default: the preset's)")
    this.add_argument("--minutes", type=positive, help="stop after so long, with a checkpoint to go on from")
    this.add_argument(
        "--set", type=setting, action="append", default=[], metavar="FIELD=VALUE", help="any other number of the run"
    )
    computing(this)

    this = command(
        commands,
        "sample",
        "sample",
        "Draw images from a trained run.",
        "sample --run squared_hellinger_T04_s0_cpu -n 64 -o grid.png",
    )
    this.add_argument("--run", required=True, metavar="ID")
    this.add_argument("--dataset", help="where two datasets have a run of that id")
    this.add_argument("-n", "--n", type=whole(1), default=64, help="how many (default: %(default)s)")
    this.add_argument(
        "-o",
        "--output",
        type=output("picture"),
        default="grid.png",
        help="FILE.png or FILE.npy, replaced if it exists (default: %(default)s)",
    )
    this.add_argument("--seed", type=whole(0), default=0, help="image i of a seed is always the same (default: 0)")
    this.add_argument(
        "--sampler",
        help="of a DDPM: ancestral (default), ddim, dpm_solver, shortened, retimed; of a DDGAN: truncated, diffused",
    )
    this.add_argument(
        "--steps",
        type=whole(1),
        help="of a DDPM: re-spaced to so many (default: its T, at most 100); of a DDGAN's others: the last ones",
    )
    computing(this, data=False)

    example = "evaluate --run squared_hellinger_T04_s0_cpu --features fashion_classifier --n 10000"
    text = "Score a run, images or a baseline; what has a score is read."
    this = command(commands, "evaluate", "evaluate", text, example)
    this.add_argument("--run", metavar="ID")
    this.add_argument("--images", type=Path, metavar="PATH", help="a folder of PNGs, or a .npy of uint8 [n, c, h, w]")
    this.add_argument("--baseline", help="real (images of the other split) or noise")
    this.add_argument("--dataset", help="to score images or a baseline against (default: fashion_mnist), or of the run")
    known = "inception, fashion_classifier or pixels"
    this.add_argument(
        "--features",
        nargs="+",
        default=["fashion_classifier"],
        metavar="NAME",
        help=f"{known}, or several for the same samples (default: fashion_classifier)",
    )
    this.add_argument("-n", "--n", type=whole(2), help="how many images (default: 10000; of --images: all)")
    this.add_argument("--reference", default="test", help="test or train (default: %(default)s)")
    this.add_argument(
        "--sampler",
        help="of a DDPM: ancestral (default), ddim, dpm_solver, shortened, retimed; of a DDGAN: truncated, diffused",
    )
    this.add_argument(
        "--steps",
        type=whole(1),
        help="of a DDPM: re-spaced to so many (default: its T); of a DDGAN's others: the last ones",
    )
    this.add_argument("--seed", type=whole(0), help="of the samples (default: 0)")
    this.add_argument("--force", action="store_true", help="measure again what has a score")
    computing(this)

    text = "The study's runs: how far they are, going on with them, copying them."
    parts = group("study", text, "study status --preset cpu", "study run --preset cpu --minutes 60").add_subparsers(
        dest="part", required=True, metavar="status|run|table|slurm|export|import|ship|classifier"
    )

    def of_study(this: Any) -> None:
        this.add_argument(
            "--study",
            default="paper",
            help="paper, sweep, schedule, budget, causes, minimax, penalty, crossed, shared, steps, headline or toys"
            " (default: %(default)s)",
        )
        this.add_argument("--preset", **preset)
        this.add_argument("--cell", action="append", default=[], metavar="ID", help="only this run; may be repeated")

    this = command(parts, "status", "study_status", "A table of the study's runs.", "study status --preset cpu")
    of_study(this)
    this.add_argument("--json", action="store_true", help="for programs: a list of objects")

    text = (
        "Train and score what is missing, in order of what it tells. What diverged is a result; `train` tries it again."
    )
    this = command(parts, "run", "study_run", text, "study run --preset cpu --minutes 60 --workers 2 --threads 1")
    of_study(this)
    this.add_argument(
        "--minutes", type=positive, help="stop after so long; the same command goes on (default: to the end)"
    )
    this.add_argument(
        "--workers", type=whole(1), help="so many runs at a time, a process each; on several GPUs, spread"
    )
    this.add_argument("--on", choices=("local", "ray"), default="local", help="ray: tasks on a Ray cluster")
    this.add_argument("--address", help="of an existing Ray cluster, or auto (default: one started here)")
    this.add_argument("--gpus", type=share, help="GPUs for a Ray task, such as 0.25 (default: none)")
    computing(this)

    text = "The results in a small table; in markdown, or in the place marked for it in a file."
    this = command(parts, "table", "study_table", text, "study table --write FINDINGS.md")
    this.add_argument(
        "--preset", help="smoke, short, cpu or full (default: the documents', cpu; of curves short, of larger full)"
    )
    this.add_argument("--write", type=Path, metavar="FILE", help="a markdown file with the two marks")
    this.add_argument(
        "--of", choices=("results", "curves", "rows", "smooth", "steps", "claims", "larger"), default="results",
        help="all models, best first; the GANs against T; each divergence beside JS; the smooth ones in each setting; "
        "JS by its steps; the claims, judged; or all models of preset full, best first",
    )  # fmt: skip

    text = "Print a Slurm array script, an element for each run that `study run` would do."
    this = command(parts, "slurm", "study_slurm", text, "study slurm --preset full --gpus 1 > study.sbatch")
    of_study(this)
    this.add_argument("--minutes", type=positive, default=60.0, help="of each element (default: %(default)g)")
    this.add_argument("--threads", type=whole(1), default=4, help="CPU threads of each element (default: %(default)s)")
    this.add_argument("--gpus", type=whole(0), help="GPUs of each element (default: none)")

    text = "Pack finished runs into at most 8 files of 16 MB, to be imported elsewhere; weights last."
    this = command(parts, "export", "study_export", text, "study export -o out")
    this.add_argument(
        "-o", "--output", type=output("folder"), default="export", metavar="FOLDER", help="(default: export)"
    )
    this.add_argument("--run", action="append", default=[], metavar="ID", help="only this run; may be repeated")
    this.add_argument("--dataset", help="only runs of this dataset")
    this = command(parts, "import", "study_import", "Merge exported files.", "study import out/runs-1-of-1.zip")
    this.add_argument("files", nargs="+", type=Path)

    text = "Copy a finished run's weights, as bfloat16, to where they are committed."
    this = command(parts, "ship", "study_ship", text, "study ship --run squared_hellinger_T04_s0_cpu")
    this.add_argument("--run", required=True, metavar="ID")
    this.add_argument("--dataset", help="where two datasets have a run of that id")

    text = "Train the classifier behind fashion_classifier features anew (10 minutes on one core)."
    this = command(parts, "classifier", "study_classifier", text, "study classifier -o classifier.safetensors")
    this.add_argument("-o", "--output", type=output("file"), default="classifier.safetensors", metavar="FILE")
    computing(this, device=False)

    text = "Side by side with the peers, on this machine, on the same images."
    parts = group("bench", text, "bench metrics --threads 1", "bench workers --workers 1 2 4").add_subparsers(
        dest="part", required=True, metavar="metrics|network|training|ddpm|sampling|limits|workers"
    )
    text = "FID end to end: clean-fid's, this package's, and lower precisions; images a second."
    this = command(parts, "metrics", "bench_metrics", text, "bench metrics --n 128 --threads 1")
    this.add_argument("--n", type=whole(2), default=128, help="images in each of two piles (default: %(default)s)")
    this.add_argument("--repeats", type=whole(2), default=4, help="passes over a pile (default: %(default)s)")
    this.add_argument("--dataset", default="fashion_mnist", help="(default: %(default)s)")
    computing(this)
    text = "What each change to clean-fid's network gives on this CPU."
    this = command(parts, "network", "bench_network", text, "bench network --n 16 --threads 1")
    this.add_argument("--n", type=whole(1), default=16, help="images at a time (default: %(default)s)")
    this.add_argument("--repeats", type=whole(1), default=3, help="(default: %(default)s)")
    computing(this, device=False)

    text = "The training step against a plain eager loop of the same networks, change by change."
    this = command(parts, "training", "bench_training", text, "bench training --batch-size 32 --threads 1")
    this.add_argument("--preset", **preset)
    this.add_argument("--batch-size", type=whole(1), default=32, help="(default: %(default)s)")
    this.add_argument("--repeats", type=whole(1), default=3, help="turns of each loop (default: %(default)s)")
    computing(this)
    text = "A DDPM's training and sampling beside diffusers and denoising-diffusion-pytorch, with one network."
    this = command(parts, "ddpm", "bench_ddpm", text, "bench ddpm --threads 1")
    this.add_argument("--preset", **preset)
    this.add_argument("--batch-size", type=whole(1), help="(default: the preset's)")
    this.add_argument("--repeats", type=whole(1), default=3, help="turns of each (default: %(default)s)")
    computing(this)
    text = "Seconds for a thousand images against the number of steps, by each sampler, at one size of network."
    this = command(parts, "sampling", "bench_sampling", text, "bench sampling --threads 1")
    this.add_argument("--preset", **preset)
    this.add_argument("--n", type=whole(1), help="images at a time (default: as sample does)")
    this.add_argument("--repeats", type=whole(1), default=3, help="turns of each sampler (default: %(default)s)")
    computing(this)
    text = "Arithmetic of training and sampling against this device's matrix product and copy."
    this = command(parts, "limits", "bench_limits", text, "bench limits --threads 1")
    this.add_argument("--preset", **preset)
    computing(this)

    text = "What a few small runs gain by being done so many at a time: speedup, and efficiency per core."
    this = command(parts, "workers", "bench_workers", text, "bench workers --workers 1 2 4")
    this.add_argument("--workers", type=whole(1), nargs="+", default=[1, 2, 4], metavar="N", help="(default: 1 2 4)")

    text = "Floors and ceilings of every metric; with --reference, statistics of a split to ship."
    this = command(commands, "calibrate", "calibrate", text, "calibrate --features fashion_classifier")
    this.add_argument("--dataset", default="fashion_mnist", help="(default: %(default)s)")
    this.add_argument("--features", default="fashion_classifier", help="as in evaluate (default: %(default)s)")
    sizes = "(default: 1000 2000 5000 10000; real images to 30000)"
    this.add_argument("--sizes", type=whole(40), nargs="+", metavar="N", help=sizes)
    this.add_argument("--draws", type=whole(2), help="of each pile (default: 4)")
    this.add_argument("--reference", metavar="SPLIT", help="test or train: make the statistics of that split instead")
    this.add_argument("--minutes", type=positive, help="with --reference: stop after so long; the same command goes on")
    computing(this)

    text = "Stripes and modes of the samples of all rows at one T, beside a DDPM's; into results/tables."
    this = command(commands, "anatomy", "anatomy", text, "anatomy --T 4 --threads 1")
    this.add_argument("--preset", **preset)
    this.add_argument("--T", type=whole(1, 1000), default=4, help="(default: %(default)s)")
    this.add_argument("--tag", default="", help="the runs with this tag instead of the study's")
    this.add_argument("--features", default="fashion_classifier", help="as in evaluate (default: %(default)s)")
    this.add_argument("--force", action="store_true", help="measure again what is in the tables")
    computing(this)

    text = "How much of an image each level of noise leaves open, by a DDPM; into results/tables."
    this = command(commands, "information", "information", text, "information --run ddpm_T1000_s0_cpu --threads 1")
    this.add_argument("--run", required=True, metavar="ID", help="a DDPM")
    this.add_argument("--dataset", help="where two datasets have a run of that id")
    this.add_argument("--n", type=whole(2), help="test images (default: 500, or all where there are fewer)")
    computing(this)

    text = "Does a DDGAN's last step lose its distance in shapes or in fine detail; into results/tables."
    this = command(commands, "bands", "bands", text, "bands --run non_saturating_js_T04_s0_cpu --threads 1")
    this.add_argument("--run", required=True, metavar="ID", help="a DDGAN")
    this.add_argument("--dataset", help="where two datasets have a run of that id")
    this.add_argument("--features", default="inception", help="as in evaluate (default: %(default)s)")
    this.add_argument("--n", type=whole(40), default=2_000, help="training images to answer to (default: 2000)")
    computing(this)

    text = "Whose loss teaches a critic most, the generator of a DDGAN standing still; into results/tables."
    this = command(commands, "critics", "critics", text, "critics --run non_saturating_js_T01_s0_cpu_b64 --threads 1")
    this.add_argument("--run", required=True, metavar="ID", help="a DDGAN")
    this.add_argument("--dataset", help="where two datasets have a run of that id")
    this.add_argument("--updates", type=whole(16), default=1_600, help="of each critic (default: %(default)s)")
    this.add_argument("--batch-size", type=whole(1), default=32, help="real images of an update (default: %(default)s)")
    this.add_argument("--seeds", type=whole(1), default=3, help="critics of each loss (default: %(default)s)")
    this.add_argument("--n", type=whole(2), default=2_000, help="test images asked about (default: %(default)s)")
    computing(this)

    this = command(
        commands, "report", "report", "Execute the notebooks and write one page of them.", "report --preset cpu"
    )
    this.add_argument("notebooks", nargs="*", type=Path, help="only these (default: every numbered notebook)")
    this.add_argument("--preset", **preset)
    this.add_argument("--compute", action="store_true", help="train and score what is missing (default: read results)")
    this.add_argument("-o", "--output", type=output("folder"), metavar="FOLDER", help="(default: results/report)")
    computing(this, device=False)

    this = command(commands, "doctor", "doctor", "What is here, what is missing, and what to do about it.", "doctor")
    computing(this, device=False)
    return parser
