"""The results in one table: from a table of scores made up here, and in the README from those of the project."""

from pathlib import Path

import pandas as pd
import pytest
from scored import GAN, add

from ddgan_core import UserError
from ddgan_core.__main__ import main
from ddgan_core.metrics.features import CLASSIFIER_FILE
from ddgan_core.notebook.claims import gather
from ddgan_core.notebook.documents import TABLES, claims_table, markdown, marks, write_table
from ddgan_core.notebook.summary import curves_table, results_table, rows_table, sampling_seconds, sampling_times
from ddgan_core.packing import read_tensors
from ddgan_core.runs import HISTORY, write_atomic

ROOT = Path(__file__).parent.parent


def test_a_table_of_few_scores(results: Path) -> None:
    more = {"frechet_error": 0.123, "precision": 0.8, "recall": 0.5, "recall_error": 0.01, "top_probability": 0.9}
    add(results, "kl_T04_s0_cpu", 10_000, 5.678, **GAN, **more)
    add(results, "kl_T04_s0_cpu", 1_000, 1.0, **GAN)  # of no column
    add(results, "kl_T04_s0_cpu", 10_000, 1.0, **GAN, sample_seed=1)  # other draws
    add(results, "kl_T04_s0_cpu", 10_000, 1.0, **GAN, reference="train")
    add(results, "kl_T04_s0_cpu", 10_000, 9.0, **GAN | {"sampler": "truncated", "steps": 2, "protocol": "as_published"})
    add(results, "ddpm_T1000_s0_cpu_x5", 10_000, 7.0, method="ddpm", divergence="none", T=1000,
        sampler="ddim", steps=4, tag="x5")  # fmt: skip
    add(results, "real", 10_000, 0.1)
    (results / "tables").mkdir()
    for preset, seconds in (("cpu", 12.34), ("full", 1)):
        text = f"sampler,steps,preset,seconds_per_1000\nddgan,4,{preset},{seconds}\n"
        (results / "tables" / f"bench_sampling_{preset}_cpu.csv").write_text(text)
    table = results_table()
    assert table["model"].tolist() == ["real training images", "DDGAN, KL", "DDPM, DDIM, 5 × updates"]
    assert table.iloc[1].to_dict() == {
        "model": "DDGAN, KL", "steps": "4", "classifier, N = 10,000": "5.68 ± 0.12",
        "precision": "0.80", "recall": "0.50 ± 0.01", "confidence": "0.90",
        "s / 1,000 images": "12.3", "preset": "cpu", "commit": "abc+",
    }  # fmt: skip
    # With an Inception score, that comes first, and its precision and recall are the ones shown.
    add(results, "noise", 2_000, 300.0, features="inception", precision=0.1, recall=0.0)
    add(results, "kl_T04_s0_cpu", 2_000, 40.0, features="inception", precision=0.4, recall=0.3, **GAN)
    table = results_table()
    assert table["FID, N = 2,000"].tolist() == ["40.0", "300.0", "–", "–"], "what lacks the first comes last"
    assert table["precision"].tolist() == ["0.40", "0.10", "–", "–"]
    assert table["classifier, N = 10,000"].tolist() == ["5.68 ± 0.12", "–", "0.10", "7.00"]
    # By more images, but of fewer lines: a column, and the rest stays.
    add(results, "real", 2_000, 9.9, features="inception", precision=0.8, recall=0.8)
    add(results, "kl_T04_s0_cpu", 10_000, 30.0, features="inception", precision=0.5, recall=0.2, **GAN)
    add(results, "noise", 10_000, 290.0, features="inception", precision=0.0, recall=0.0)
    table = results_table()
    assert table["FID, N = 10,000"].tolist() == ["–", "30.0", "290.0", "–"]
    assert table["precision"].tolist() == ["0.80", "0.40", "0.10", "–"]


def test_scores_of_two_networks_are_not_mixed(results: Path) -> None:
    add(results, "kl_T04_s0_cpu", 10_000, 5.0, **GAN)
    add(results, "noise", 10_000, 99.0, features_hash="one")
    add(results, "noise", 10_000, 0.1, features_hash="another")
    with pytest.raises(UserError, match="2 scores of noise, fashion_classifier, N = 10,000"):
        results_table()


def test_times_are_those_of_the_bench(results: Path) -> None:
    assert sampling_seconds("cpu") == {}
    (results / "tables").mkdir()
    head = "sampler,steps,preset,seconds_per_1000,speedup,speedup_low,speedup_high"
    for preset, line in (("cpu", "ddgan,4,cpu,12.5,80,70,90"), ("full", "ddgan,4,full,1,1,1,1")):
        (results / "tables" / f"bench_sampling_{preset}_cpu.csv").write_text(f"{head}\n{line}\n")
    assert sampling_seconds("cpu") == {("ddgan", 4): 12.5}
    assert sampling_times("cpu").loc[("ddgan", 4), "speedup_high"] == 90
    assert sampling_seconds("full") == {("ddgan", 4): 1}
    assert sampling_seconds("short") == {("ddgan", 4): 12.5}, "of the same networks"


def test_a_run_that_was_scored_on_a_gpu_does_not_decide_whose_times_are_shown(results: Path) -> None:
    """It is the last one, and `bench sampling` has not been run on its GPU."""
    add(results, "reverse_kl_T04_s0_cpu", 10_000, 5.0, **GAN | {"divergence": "reverse_kl"})
    add(results, "wasserstein_T04_s0_cpu", 10_000, 6.0, **GAN | {"divergence": "wasserstein"}, device="NVIDIA H200")
    head = "sampler,steps,preset,seconds_per_1000,speedup,speedup_low,speedup_high\n"
    write_atomic(results / "tables" / "bench_sampling_cpu_cpu.csv", head + "ddgan,4,cpu,12.5,80,70,90\n")
    assert results_table()["s / 1,000 images"].tolist() == ["12.5", "12.5"]
    assert gather("cpu", "fashion_mnist").times.index.tolist() == [("ddgan", 4)]
    write_atomic(results / "tables" / "bench_sampling_cpu_cuda.csv", head + "ddgan,4,cpu,0.5,8,7,9\n")
    assert sampling_seconds("cpu") == {("ddgan", 4): 12.5}, "of both kinds of device the CPU's"
    (results / "tables" / "bench_sampling_cpu_cpu.csv").unlink()
    assert sampling_seconds("cpu") == {("ddgan", 4): 0.5}


def test_it_goes_where_it_is_marked_and_nowhere_else(tmp_path: Path, results: Path) -> None:
    add(results, "kl_T04_s0_cpu", 10_000, 5.0, **GAN)
    table, page = results_table(), tmp_path / "page.md"
    begin, end = marks("results")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    assert write_table(page, table)
    assert page.read_text() == f"before\n{begin}\n{markdown(table)}\n{end}\nafter\n"
    assert not write_table(page, table)
    page.write_text("no marks")
    for path in (page, tmp_path / "absent.md"):
        with pytest.raises(UserError, match=path.name):
            write_table(path, table)
    assert page.read_text() == "no marks"


def test_without_scores_of_a_model_it_says_what_to_do(results: Path) -> None:
    with pytest.raises(UserError, match="study run"):
        results_table()
    add(results, "real", 10_000, 0.1)
    add(results, "kl_T04_s0_cpu", 1_000, 1.0, **GAN)  # of no column
    with pytest.raises(UserError, match="no scores of preset 'cpu'.*study run"):
        results_table()


def test_an_unknown_preset_leaves_the_file_as_it_was(results: Path, tmp_path: Path, capsys) -> None:  # noqa: ANN001
    add(results, "real", 10_000, 0.1)
    page, (begin, end) = tmp_path / "page.md", marks("results")
    page.write_text(f"{begin}\nall models\n{end}\n")
    known = "'tiny' is not known: choose one of smoke, short, cpu, full"
    for preset, said in (("tiny", known), ("full", "no scores of")):
        assert main(["study", "table", "--preset", preset, "--write", str(page)]) == 2
        assert said in capsys.readouterr().err
    assert "all models" in page.read_text()


def test_each_preset_is_looked_for_on_its_own_dataset(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The runs that are made are of smoke, on digits."""
    table = results_table("smoke")
    assert sorted(table["model"]) == ["DDGAN, JS (non-saturating)", "DDGAN, Wasserstein-GP"]
    assert table.columns[2] == "pixels, N = 200"
    assert curves_table("smoke")["divergence"].tolist() == ["JS (non-saturating)", "Wasserstein-GP"]
    for words in (["--of", "curves"], []):
        assert main(["study", "table", "--preset", "smoke", *words]) == 0
        assert "Wasserstein-GP" in capsys.readouterr().out
        assert main(["study", "table", "--preset", "full", *words]) == 2
        assert "on fashion_mnist yet: python -m ddgan_core study run --preset full" in capsys.readouterr().err


def test_curves_are_means_over_seeds_as_trained(results: Path) -> None:
    with pytest.raises(UserError, match="no scores of DDGANs of preset 'cpu'.*study run"):
        curves_table(preset="cpu")
    more = GAN | {"recall": 0.5, "coverage": 0.25}
    for row, T, frechet in (("reverse_kl", 4, 4.0), ("squared_hellinger", 4, 7.0), ("reverse_kl", 2, 9.0)):
        add(results, f"{row}_T{T:02d}_s0_cpu", 10_000, frechet, **more | {"divergence": row, "T": T, "steps": T})
    other = {"sampler": "truncated", "steps": 2, "protocol": "as_published", "divergence": "reverse_kl"}
    add(results, "reverse_kl_T04_s0_cpu", 10_000, 99.0, **more | other)
    again = {"divergence": "reverse_kl", "recall": 0.3}
    add(results, "reverse_kl_T04_s1_cpu", 10_000, 9.0, **more | again | {"seed": 1})
    add(results, "reverse_kl_T04_s100_cpu", 10_000, 1.0, **more | again | {"seed": 100})  # of the sweep
    add(results, "reverse_kl_T04_s0_cpu_plain", 10_000, 1.0, **more | {"divergence": "reverse_kl", "tag": "plain"})
    again = {"divergence": "squared_hellinger", "recall": 0.1, "seed": 1}
    add(results, "squared_hellinger_T04_s1_cpu", 10_000, 40.0, **more | again)
    sizes = pd.DataFrame({"step": range(20), "gradient_generator": [1.0] * 17 + [1e-5] * 3})  # it broke down
    sizes.to_csv(results / "runs" / "fashion_mnist" / "squared_hellinger_T04_s1_cpu" / HISTORY, index=False)
    assert curves_table(preset="cpu").to_numpy().tolist() == [
        ["Squared Hellinger", "", "7.0 (0.50, 0.25); 40.0† (0.10, 0.25)"],
        ["Reverse KL", "9.0 (0.50, 0.25)", "6.0 [4.0 to 9.0] (0.40, 0.25)"],
    ]  # fmt: skip


def test_each_row_is_set_beside_js(results: Path) -> None:
    more = GAN | {"recall": 0.5, "coverage": 0.25}
    told = {"non_saturating_js": (2.0, 4.0, 8.0), "reverse_kl": (4.0, 8.0, 16.0)}
    for row, distances in told.items():
        for T, frechet in zip((2, 3, 4), distances, strict=True):
            cell = more | {"divergence": row, "T": T, "steps": T}
            add(results, f"{row}_T{T:02d}_s0_cpu", 10_000, frechet, **cell)
    again = more | {"divergence": "reverse_kl", "seed": 1}
    add(results, "reverse_kl_T04_s1_cpu", 10_000, 9.0, **again)
    later = more | {"divergence": "reverse_kl", "T": 2, "steps": 2, "tag": "b64-bf16"}
    add(results, "reverse_kl_T02_s0_cpu_b64-bf16", 10_000, 3.0, **later)
    table = rows_table("cpu").set_index("divergence")
    assert table["T = 2, longer"].tolist() == ["–", "3.00"]
    assert table["T = 2, short"].tolist() == ["2.0", "4.0"]
    assert table["T = 4, short"].tolist() == ["8.0", "12.0 [9.0 to 16.0]"]
    assert table["ratio to JS's, T = 1 to 4"].tolist() == ["1", "2.00 (2.00 to 2.00)"]
    assert table["ratio to JS's, T = 5 to 10"].tolist() == ["1", "–"]
    assert table["FID, T = 4, long"].tolist() == ["–", "–"]
    add(results, "reverse_kl_T02_s1_cpu_b64-bf16", 10_000, 12.0, **later | {"seed": 1})
    assert rows_table("cpu")["T = 2, longer"].tolist() == ["–", "6.00 [3.00 to 12.00]"]
    sizes = pd.DataFrame({"step": range(20), "gradient_generator": [1.0] * 17 + [1e-5] * 3})  # it broke down
    for seed, said in ((1, "3.00; 1 broke down"), (0, "2 broke down")):
        sizes.to_csv(results / "runs" / "fashion_mnist" / f"reverse_kl_T02_s{seed}_cpu_b64-bf16" / HISTORY, index=False)
        assert rows_table("cpu")["T = 2, longer"].tolist() == ["–", said]


def test_the_table_of_rows_is_of_small_networks(results: Path) -> None:
    for preset in ("smoke", "full"):
        with pytest.raises(UserError, match=f"preset '{preset}': the table of rows is of .* short and cpu"):
            rows_table(preset)


def test_the_fid_of_a_row_is_its_first_seeds_by_as_many_images_as_all_have(results: Path) -> None:
    reverse_kl = GAN | {"divergence": "reverse_kl", "recall": 0.5, "coverage": 0.25}
    add(results, "reverse_kl_T04_s0_cpu", 10_000, 5.0, **reverse_kl)
    inception = reverse_kl | {"features": "inception"}
    for n, frechet, other in (
        (2_000, 40.0, {}), (10_000, 30.0, {}), (2_000, 50.0, {"sample_seed": 1}), (2_000, 20.0, {"reference": "train"})
    ):  # fmt: skip
        add(results, "reverse_kl_T04_s0_cpu", n, frechet, **inception | other)
    add(results, "reverse_kl_T04_s1_cpu", 2_000, 60.0, **inception | {"seed": 1})
    for T, n, frechet in ((2, 2_000, 25.0), (2, 10_000, 24.0), (1, 2_000, 90.0)):
        later = {"T": T, "steps": T, "tag": "b64-bf16"}
        add(results, f"reverse_kl_T{T:02d}_s0_cpu_b64-bf16", n, frechet, **inception | later)
    (line,) = rows_table("cpu").to_dict("records")
    assert (line["FID, T = 4, long"], line["FID, T = 2, longer"]) == ("40.0", "25.0")


def test_each_claim_stands_beside_its_verdict(results: Path) -> None:
    more = GAN | {"recall": 0.5, "coverage": 0.25}
    for T, frechet in ((1, 2.0), (2, 4.0), (4, 8.0)):
        add(results, f"reverse_kl_T{T:02d}_s0_cpu", 10_000, frechet, **more | {"divergence": "reverse_kl", "T": T})
    table = claims_table("cpu")
    assert table.columns.tolist() == ["", "the source paper says", "here", "by"]
    assert table[""].tolist() == ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]
    assert set(table["here"]) == {"undecided"}
    assert not table["by"].str.contains("_").any(), "rows by their labels"


def test_documents_have_the_tables_of_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDGAN_RESULTS", str(ROOT / "results"))
    for name, (table, preset, document) in TABLES.items():
        text = (ROOT / document).read_text(encoding="utf-8")
        begin, end = marks(name)
        assert text.split(begin)[1].split(end)[0].strip() == markdown(table(preset)), f"stale: {begin[5:-4]}"
    text = (ROOT / "FINDINGS.md").read_text(encoding="utf-8")
    recorded = read_tensors(CLASSIFIER_FILE)[1]
    assert f"mean top probability, {float(recorded['test_top_probability']):.2f} on the test images" in text


def test_what_stands_under_a_mark_is_of_the_preset_that_it_names(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(results, "kl_T04_s0_cpu", 10_000, 5.0, **GAN)
    page, (begin, end) = tmp_path / "page.md", marks("curves")
    page.write_text(f"{begin}\nall curves\n{end}\n")
    assert main(["study", "table", "--of", "curves", "--preset", "cpu", "--write", str(page)]) == 2
    assert "the marks of curves are of short" in capsys.readouterr().err
    assert main(["study", "table", "--of", "rows", "--preset", "short"]) == 2
    assert "no scores of rows of preset 'short'" in capsys.readouterr().err
    assert "all curves" in page.read_text()


def test_a_new_sampler_goes_by_its_name(results: Path) -> None:
    add(results, "ddpm_T1000_s0_cpu", 10_000, 8.0, method="ddpm", divergence="none", T=1000, sampler="heun", steps=4)
    assert results_table()["model"].tolist() == ["DDPM, heun"]
