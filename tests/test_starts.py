"""When critics begin to see, by made-up histories."""

from types import SimpleNamespace

import pandas as pd
import pytest

from ddgan_core.notebook import latents, starts
from ddgan_core.notebook.starts import begun, starts_figure
from ddgan_core.study import make_study

LOSSES = {"non_saturating_js": [2.0, -0.5, 0.0, -0.4, -0.5], "squared_hellinger": [900.0, 30.0, 0.0, 0.0, -0.05]}


@pytest.fixture
def table(results, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Of the study's cells of T = 4 at preset smoke two rows at the usual rate, and one that has just begun."""
    path = latents.path_of("digits")
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"snr": [1e-6, 1e6], "error": [0.5, 0.5]}).to_csv(path, index=False)
    runs = []
    for config in make_study("headline", "smoke").cells:
        if config.T == 4 and config.divergence == "reverse_kl":
            runs.append(SimpleNamespace(config=config, history=pd.DataFrame()))
        elif config.T == 4 and config.divergence in LOSSES and not config.tag.endswith("-slow"):
            history = pd.DataFrame({"step": [1, 2, 3, 4, 5], "critic_t1": LOSSES[config.divergence]})
            history["logit_largest"] = history["critic_t1"].abs() + 1
            if config.divergence == "non_saturating_js":
                history = history.assign(**{f"variance_by_latent_t{t}": [0.0] * 5 for t in (1, 2, 3)})
                history = history.assign(variance_by_latent_t4=[0, 0, 0.1, 0.2, 0.3])
            runs.append(SimpleNamespace(config=config, history=history))
    for module in (latents, starts):
        monkeypatch.setattr(module, "all_runs", lambda *_: runs)
    return starts.starts("headline", "smoke", 4)


def test_a_critic_sees_from_where_its_loss_stays_low(table: pd.DataFrame) -> None:
    found = begun(table)
    js, hellinger = (found.loc[row] for row in ("JS (non-saturating)", "Squared Hellinger"))
    assert js["sees after"] == pytest.approx(4 / 5), "not after two, from where it is blind again"
    assert pd.isna(hellinger["sees after"])
    assert (js["first largest logit"], hellinger["first largest logit"]) == (3, 901)
    assert js["z at the end"] == pytest.approx(0.6)
    assert pd.isna(hellinger["z at the end"])
    assert (js["loss at the end"], hellinger["loss at the end"]) == (-0.5, -0.05)


def test_runs_at_another_rate_have_a_name_of_their_own(table: pd.DataFrame) -> None:
    both = pd.concat([table, table.assign(run_id=table["run_id"] + "-slow", slowed=4.0)])
    assert begun(both).index[-1] == "Squared Hellinger, critic's rate / 4"
    assert [line.get_linestyle() for line in starts_figure(both).axes[0].lines[:4]] == ["-", "-", "--", "--"]


def test_a_quarter_of_the_rate_is_slowed_by_four(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [c for c in make_study("headline", "smoke").cells if (c.divergence, c.T) == ("non_saturating_js", 4)]
    history = pd.DataFrame({"step": [1], "critic_t1": [0.0], "logit_largest": [1.0]})
    monkeypatch.setattr(starts, "all_runs", lambda *_: [SimpleNamespace(config=c, history=history) for c in cells])
    assert starts.starts("headline", "smoke", 4)["slowed"].tolist() == [1, 4]


def test_each_run_has_a_line_in_both_panels(table: pd.DataFrame) -> None:
    loss, share = starts_figure(table).axes
    assert [line.get_ydata().tolist() for line in loss.lines[:2]] == list(LOSSES.values())
    assert len(share.lines) >= 1
    assert loss.get_yscale() == "symlog"


def test_without_runs_it_says_so() -> None:
    empty = pd.DataFrame(columns=starts.COLUMNS)
    assert begun(empty).empty
    assert [text.get_text() for text in starts_figure(empty).axes[0].texts] == ["no such run yet"]
