"""Plots: pixels as they are, curves of comparable numbers only, files that do not change when written again."""

import io
from itertools import pairwise

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from ddgan_core import UserError
from ddgan_core.divergences import DIVERGENCES, get_divergence
from ddgan_core.figures import files, grids, plots
from ddgan_core.figures.labels import label_ends

GREYS = 2  # of 255: half a step between the 64 greys that a grid is saved in


def same_picture(shown: np.ndarray, expected: np.ndarray) -> None:
    """Equal pixel by pixel but for the palette: each grey is shown as one grey, half a step from it at most."""
    np.testing.assert_allclose(shown, expected, atol=GREYS)
    pairs = {(int(a), int(b)) for a, b in zip(expected.ravel(), shown.ravel(), strict=True)}
    assert len(pairs) == len(np.unique(expected)), "a grey is shown as two: pixels have been mixed"


@pytest.fixture(autouse=True)
def _styled_and_closed():
    plots.use_style()
    yield
    plt.close("all")


def evaluations(**changes) -> pd.DataFrame:
    base = {
        "dataset": "fashion_mnist", "method": "ddgan", "divergence": "squared_hellinger", "seed": 0, "preset": "cpu",
        "tag": "", "sampler": "ddgan", "protocol": "as_trained", "features": "inception", "features_hash": "0a1b2c",
        "reference": "test", "reference_n": 10_000, "n": 2_000,
    }  # fmt: skip
    return pd.DataFrame([base | changes | {"steps": T, "frechet": 40.0 / T} for T in (1, 2, 4)])


def noise_images(n: int, c: int = 1, h: int = 5, w: int = 7) -> torch.Tensor:
    return torch.randint(0, 256, (n, c, h, w), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("c", [1, 3])
def test_tiles_touch_and_keep_their_place(c):
    images = noise_images(7, c)
    canvas = grids.tile(images, columns=3)
    assert canvas.shape == (15, 21, c)
    np.testing.assert_array_equal(canvas[5:10, 14:21], images[5].permute(1, 2, 0))
    assert (canvas[10:, 7:] == 255).all(), "places left over are white"


def test_gaps_are_white_and_move_nothing_else():
    images = noise_images(6)
    canvas = grids.tile(images, columns=3, gap=2)
    assert canvas.shape == (2 * 7 - 2, 3 * 9 - 2, 1)
    np.testing.assert_array_equal(canvas[7:, 18:], images[5].permute(1, 2, 0))
    assert (canvas[5:7] == 255).all()
    assert (canvas[:, 7:9] == 255).all()


def test_png_grid_has_every_pixel_twice_in_both_directions(tmp_path):
    images = noise_images(6)
    grids.write_png_grid(images, tmp_path / "deep" / "grid.png", columns=3)
    shown = np.asarray(Image.open(tmp_path / "deep" / "grid.png"))
    np.testing.assert_array_equal(shown, grids.tile(images, 3)[..., 0].repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("channels", "scale"), [(1, 1), (3, 2)])
def test_a_png_grid_gives_its_images_back(tmp_path, channels, scale):
    images = torch.randint(0, 256, (5, channels, 8, 8), dtype=torch.uint8)
    grids.write_png_grid(images, tmp_path / "grid.png", columns=3, scale=scale)
    found = grids.read_png_grid(tmp_path / "grid.png", 8, columns=3)
    assert found.shape == (6, channels, 8, 8)
    assert torch.equal(found[:5], images)
    assert found[5].min() == 255, "the place left over is white"


def test_image_grid_has_whole_pixels_whatever_the_style(tmp_path):
    plots.use_style()
    images = noise_images(20, h=28, w=28)
    (png,) = files.save(grids.image_grid(images), tmp_path / "grid")
    shown = np.asarray(Image.open(png).convert("L"), dtype=float)
    scale = shown.shape[0] // 56
    assert shown.shape == (56 * scale, 280 * scale)
    same_picture(shown, grids.tile(images)[..., 0].repeat(scale, 0).repeat(scale, 1))


def test_row_labels_stand_beside_the_images_not_on_them(tmp_path):
    images = noise_images(20, h=28, w=28)
    (png,) = files.save(grids.image_grid(images, labels=["real", "samples"]), tmp_path / "grid")
    shown = np.asarray(Image.open(png).convert("L"), dtype=float)
    expected = grids.tile(images)[..., 0].repeat(4, 0).repeat(4, 1)
    same_picture(shown[:, -expected.shape[1] :], expected)


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 4, 4), torch.zeros(4, 4, dtype=torch.uint8)])
def test_only_quantised_images_are_shown(images):
    with pytest.raises(UserError, match="uint8"):
        grids.image_grid(images)


def test_chain_strip_runs_from_noise_to_image():
    states = [torch.full((2, 1, 8, 8), v) for v in (-1.0, 0.0, 1.0)]
    figure = grids.chain_strip(states)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.texts] == ["t = 2", "t = 1", "t = 0"]
    row = axes.images[0].get_array()[0, :, 0]
    np.testing.assert_array_equal(row[::9], [0, 128, 255])
    assert (row[8::9] == 255).all(), "white between images of different times"


def test_long_chains_are_thinned_evenly_and_keep_both_ends():
    figure = grids.chain_strip([torch.zeros(1, 1, 8, 8)] * 1001)
    assert [t.get_text() for t in figure.axes[0].texts] == [f"t = {t}" for t in range(1000, -1, -100)]


def test_curve_names_its_ruler_and_labels_its_lines():
    both = pd.concat([evaluations(), evaluations(divergence="wasserstein")])
    _, ax = plt.subplots()
    plots.fid_curve(ax, both, floor=3.1, ceiling=300.0)
    assert ax.get_ylabel().startswith("FID")
    assert all(said in ax.get_title("left") for said in ("Inception", "2,000 samples", "10,000 test images"))
    assert ax.get_yscale() == "log"
    texts = {t.get_text() for t in ax.texts}
    assert texts == {"Squared Hellinger", "Wasserstein-GP", "real images", "noise 300 ↑"}, "far off: no line"


@pytest.mark.parametrize(
    "other",
    [{"features": "pixels"}, {"n": 10_000}, {"preset": "full"}, {"reference": "train"}, {"dataset": "digits"}],
)
def test_curve_refuses_what_cannot_be_compared(other):
    _, ax = plt.subplots()
    with pytest.raises(UserError, match=next(iter(other))):
        plots.fid_curve(ax, pd.concat([evaluations(), evaluations(divergence="wasserstein", **other)]))


def test_seeds_are_averaged_on_one_line_and_shown_each():
    seeds = [evaluations(seed=s, frechet_error=1.0).assign(frechet=[10.0 + s, 5.0 + s, 2.0 + s]) for s in (0, 2)]
    (_, ax), (_, alone) = plt.subplots(), plt.subplots()
    plots.fid_curve(ax, pd.concat(seeds))
    bars = [end[1] for bar in ax.collections for part in bar.get_segments() for end in part]
    assert bars == [10, 12, 5, 7, 2, 4], "the range of seeds alone"
    plots.fid_curve(alone, seeds[0])
    assert [part[:, 1].tolist() for part in alone.collections[0].get_segments()] == [[9, 11], [4, 6], [1, 3]]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.sqrt([10 * 12, 5 * 7, 2 * 4]))
    assert len(ax.lines[1].get_ydata()) == 6


def test_what_broke_down_is_hollow_and_in_no_line():
    seeds = pd.concat([evaluations().assign(broken=False), evaluations(seed=1).assign(broken=[False, True, False])])
    lost = evaluations(divergence="kl").assign(broken=True)
    _, ax = plt.subplots()
    plots.fid_curve(ax, pd.concat([seeds, lost]))
    hollow = [line.get_xdata().tolist() for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [[2], [1, 2, 4]]
    assert [line.get_xdata().tolist() for line in ax.lines if line.get_linestyle() == "-"] == [[1, 2, 4]]
    assert {t.get_text() for t in ax.texts} == {"Squared Hellinger", "KL"}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["broke down: in no mean"]


def test_chains_cut_short_of_several_rows_are_named_once():
    cut = [evaluations(divergence=d, sampler="truncated", T=8) for d in ("kl", "wasserstein")]
    _, ax = plt.subplots()
    plots.fid_curve(ax, pd.concat([evaluations(T=8), *cut]), title="as published")
    assert [t.get_text() for t in ax.texts] == ["Squared Hellinger"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["T = 8 cut short"]
    assert ax.get_title("left").startswith("as published\nFID")


def test_samplers_of_a_ddpm_are_lines_of_their_own():
    rows = [
        evaluations(method="ddpm", divergence="none", sampler=s, protocol="respaced") for s in ("ancestral", "ddim")
    ]
    _, ax = plt.subplots()
    plots.fid_curve(ax, pd.concat(rows))
    assert {t.get_text() for t in ax.texts} == {"DDPM, ancestral", "DDPM, DDIM"}


def test_the_source_papers_protocol_is_a_dotted_line_of_its_own():
    _, ax = plt.subplots()
    cut = evaluations(sampler="truncated", protocol="as_published", steps=2, T=4)
    short = evaluations(method="ddpm", divergence="none", sampler="shortened", protocol="as_published")
    plots.fid_curve(ax, pd.concat([evaluations(), cut, short]))
    styles = {line.get_label(): line.get_linestyle() for line in ax.lines if not line.get_label().startswith("_")}
    dotted = {name for name, style in styles.items() if style == ":"}
    assert len(styles) == 3
    assert {name.removeprefix("DDPM, ") for name in dotted} == {"T = 4 cut short", "as published"}


def test_end_labels_do_not_overlap():
    close = [evaluations(divergence=d) for d in DIVERGENCES]
    figure, ax = plt.subplots()
    plots.fid_curve(ax, pd.concat(close))
    figure.canvas.draw()
    boxes = sorted((Text.get_window_extent(t) for t in ax.texts), key=lambda box: box.y0)  # without leader lines
    assert all(low.y0 + 0.8 * low.height < high.y0 for low, high in pairwise(boxes))


def test_nothing_to_plot_is_said():
    for plot in (plots.fid_curve, lambda ax, table: plots.history_plot(ax, table, "critic")):
        _, ax = plt.subplots()
        plot(ax, pd.DataFrame())
        assert [t.get_text() for t in ax.texts] == ["not run yet"]


def test_history_is_drawn_per_t():
    history = pd.DataFrame({"step": [1, 2], "loss": [1.0, 2.0]} | {f"loss_t{k}": [1.0, 2.0] for k in range(1, 11)})
    _, ax = plt.subplots()
    plots.history_plot(ax, history, "loss", T=1005)
    assert [line.get_label() for line in ax.lines][::9] == ["t ≤ 101", "t ≤ 1005"]
    with pytest.raises(UserError, match=r"no column 'critic'.*loss"):
        plots.history_plot(ax, history, "critic")


def test_every_row_has_a_look_of_its_own(monkeypatch):
    names = ["ddpm", *DIVERGENCES]
    assert len({plots.COLOURS[n] for n in names}) == len({plots.MARKERS[n] for n in names}) == len(names)
    monkeypatch.setitem(DIVERGENCES, "registered_later", get_divergence("kl"))
    later = plots._Look(0)
    assert later["registered_later"] not in [plots.COLOURS[n] for n in names]
    monkeypatch.undo()  # as another process sees its scores
    assert plots._Look(0)["registered_later"] in {colour for colour, _ in plots._SPARE_LOOKS}


def test_saved_files_do_not_change(tmp_path):
    contents = []
    for folder in ("a", "b"):
        figure, ax = plt.subplots()
        plots.fid_curve(ax, evaluations())
        paths = files.save(figure, tmp_path / folder / "fig.4")
        assert [p.name for p in paths] == ["fig.4.svg", "fig.4.png"]
        contents.append([p.read_bytes() for p in paths])
    assert [p.name for p in files.save(figure, tmp_path / "c" / "09_matrix")] == ["09_matrix.png"], "no paper's figure"
    assert contents[0] == contents[1]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["fig.4.png", "fig.4.svg"], "no litter"


def test_points_at_the_left_edge_are_named_beyond_it_and_in_their_order():
    figure, ax = plt.subplots()
    ax.plot([4, 1000], [50, 1], color="0.5")
    ends = [(4.0, 10.0, "low", "0"), (4.0, 12.0, "middle", "0"), (4.0, 60.0, "a long name above", "0")]
    for x, y, *_ in ends:
        ax.plot(x, y, "o")
    ax.set_xscale("log")
    label_ends(ax, ends)
    figure.canvas.draw()
    boxes = {t.get_text(): Text.get_window_extent(t) for t in ax.texts}
    assert boxes["low"].y0 < boxes["middle"].y0 < boxes["a long name above"].y0
    assert max(box.x1 for box in boxes.values()) < ax.transData.transform((4, 10))[0], "on the points"
    assert min(box.x0 for box in boxes.values()) > ax.get_window_extent().x0, "on the axis"


def test_a_line_without_an_end_is_not_named():
    """A batch of few images has none at some of many t; with an arrow to nowhere the figure could not be drawn."""
    figure, ax = plt.subplots()
    ax.plot([1, 2, 3], [1, 2, 3])
    label_ends(ax, [(3.0, 3.0, "named", "k"), (3.0, np.nan, "not named", "k")])
    figure.draw_without_rendering()
    assert [text.get_text() for text in ax.texts] == ["named"]


def test_a_chain_cut_short_ends_in_the_whole_one():
    _, ax = plt.subplots()
    whole = pd.concat([evaluations(T=4, seed=1).assign(frechet=30.0).iloc[2:], evaluations(T=4).iloc[2:]])
    cut = evaluations(sampler="truncated", protocol="as_published", T=4).iloc[:2]
    plots.fid_curve(ax, pd.concat([whole, cut]))
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata().tolist() for line in dotted] == [[1, 2], [2, 4]]
    assert [line.get_ydata()[1] for line in dotted] == pytest.approx([20, 10]), "of its own seed"


def test_ticks_close_together_leave_the_last_one():
    _, ax = plt.subplots()
    ax.set_xscale("log")
    table = pd.concat([evaluations(T=10).iloc[:1].assign(steps=T) for T in (*range(1, 11), 100)])
    plots.fid_curve(ax, table)
    named, ticks = ([int(t) for t in ax.get_xticks(minor=minor)] for minor in (False, True))
    assert named[:2] == [100, 10]
    assert 9 in ticks, "there is no room for its name"
    assert sorted(named + ticks) == [*range(1, 11), 100]


def test_a_title_stands_above_the_images():
    plain, titled = (grids.image_grid(noise_images(4), columns=2, title=t) for t in ("", "whose they are"))
    assert titled.get_figheight() > plain.get_figheight()
    assert [t.get_text() for t in titled.axes[0].texts] == ["whose they are"]


def test_a_rows_colour_is_saved_as_it_is_however_little_of_it_there_is() -> None:
    """A cut of all colours in proportion to their pixels shows squared Hellinger and total variation in one orange."""
    picture = np.full((90, 90, 3), 255, np.uint8)
    picture[:30] = np.linspace(0, 255, 90, dtype=np.uint8)[:, None]
    rows = ["squared_hellinger", "total_variation", "wasserstein"]
    exact = [tuple(round(255 * part) for part in to_rgb(plots.COLOURS[row])) for row in rows]
    for k, colour in enumerate(exact):
        picture[50, 10 * k] = colour
    Image.fromarray(picture).save(buffer := io.BytesIO(), "png")
    small = Image.open(io.BytesIO(files.palette_png(buffer.getvalue(), 16)))
    assert len(small.getcolors()) <= 16
    shown = np.asarray(small.convert("RGB"))
    assert [tuple(shown[50, 10 * k]) for k in range(3)] == exact
    assert tuple(shown[80, 80]) == (255, 255, 255)


def test_colours_of_few_pixels_are_told_apart_among_many_of_one() -> None:
    """Lines of one map and translucent markers, on what are mostly other colours."""
    picture = np.full((200, 200, 3), 255, np.uint8)
    picture[:150] = np.linspace((255, 240, 230), (140, 200, 255), 200).round()
    few = [tuple(round(255 * c) for c in plt.get_cmap("viridis")(k / 9)[:3]) for k in range(10)]
    for k, colour in enumerate(few):
        picture[155:195, 20 * k : 20 * k + 10] = colour
    Image.fromarray(picture).save(buffer := io.BytesIO(), "png")
    shown = np.asarray(Image.open(io.BytesIO(files.palette_png(buffer.getvalue(), 64))).convert("RGB")).astype(int)
    assert max(np.abs(shown[160, 20 * k] - colour).max() for k, colour in enumerate(few)) <= 32
