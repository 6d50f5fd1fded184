"""What the notebooks, the package, README and FINDINGS cite is in references.bib, and what is there is cited."""

import json
import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAME = r"[A-Z][\w'\-]*[a-z][\w'\-]*"
CITATION = re.compile(
    rf"(?<![\w-])({NAME})(?:, {NAME})*(?:,? (?:and|&) {NAME}| et al\.)?,? \(?(19\d\d|20[0-2]\d)[a-z]?\b(?![-\d])"
)
ENTRY = re.compile(r"^@(\w+)\{([^,\s]+),\n((?:  \w+ *= \{.*\},\n)+)\}$", re.MULTILINE)
FIELD = re.compile(r"^  (\w+) *= \{(.*)\},$", re.MULTILINE)
NO_AUTHORS = {"Copyright", "January", "November", "December"}  # capitalised words that a year may follow


def plain(text: str) -> str:
    """Without accents, whether of Unicode or of LaTeX."""
    text = re.sub(r"\{?\\[\"'`^~](\w)\}?|\{\\([lL])\}", lambda m: m[1] or m[2], text)
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().replace("{", "").replace("}", "")


def cited(text: str) -> set[str]:
    """Keys, first author and year, of what a text cites."""
    text = " ".join(line.strip().lstrip("#").strip() for line in plain(text).splitlines())
    return {f"{name.lower()}{year}" for name, year in CITATION.findall(text) if name not in NO_AUTHORS}


def sources() -> dict[str, str]:
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.glob("ddgan_core/**/*.py"))}
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        texts[path.name] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return texts | {name: (ROOT / name).read_text() for name in ("README.md", "FINDINGS.md")}


BIB = (ROOT / "references.bib").read_text()
ENTRIES = {key: dict(FIELD.findall(body)) for _, key, body in ENTRY.findall(BIB)}
KINDS = {key: kind for kind, key, _ in ENTRY.findall(BIB)}
SOURCES = sources()
WHERE = {  # what a reader needs to find it
    "article": {"journal", "volume", "pages"}, "inproceedings": {"booktitle"}, "book": {"publisher"}, "misc": set(),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_cited_has_an_entry(name: str) -> None:
    missing = cited(SOURCES[name]) - ENTRIES.keys()
    assert not missing, f"{name} cites {', '.join(sorted(missing))}: add to references.bib"


def test_every_entry_is_cited() -> None:
    everything = set().union(*map(cited, SOURCES.values()))
    assert set(ENTRIES) <= everything, f"cited nowhere: {', '.join(sorted(set(ENTRIES) - everything))}"


def test_the_file_parses_whole() -> None:
    left = re.sub(r"^%.*$", "", ENTRY.sub("", BIB), flags=re.MULTILINE).strip()
    assert left == "", f"not an entry: {left[:200]!r}"
    assert len(ENTRIES) == len(ENTRY.findall(BIB)), "a key is there twice"
    assert BIB.count("{") == BIB.count("}")


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_is_complete_and_its_key_says_whose_it_is(key: str) -> None:
    entry = ENTRIES[key]
    assert {"author", "title", "year"} | WHERE[KINDS[key]] <= entry.keys()
    assert KINDS[key] != "misc" or {"eprint", "url"} & entry.keys()
    assert key == plain(entry["author"].split(",")[0]).lower() + entry["year"]
    assert all(", " in author for author in entry["author"].split(" and ")), "Family, Given and Family, Given"
    if "eprint" in entry:  # an arXiv number begins with the year and month it was sent in: near that of the venue
        assert re.fullmatch(r"\d{4}\.\d{4,5}", entry["eprint"])
        assert abs(int(entry["year"]) - (2000 + int(entry["eprint"][:2]))) <= 1


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("as shown (Ho et al. 2020, eq. 14; Nichol and Dhariwal 2021)", {"ho2020", "nichol2021"}),
        ("of Xiao et al. (2021), after Cressie & Read 1984", {"xiao2021", "cressie1984"}),
        ("Bhatia, Jain and Lim 2019, and Jolicoeur-Martineau 2019", {"bhatia2019", "jolicoeur-martineau2019"}),
        ("(Kynkäänniemi et al.\n    # 2019)", {"kynkaanniemi2019"}),
        ("Jeffreys 1946: KL + reverse KL", {"jeffreys1946"}),
        ("(Song et al. 2021a, eq. 12), the DDGAN (2021)", {"song2021"}),
        ("Inception gives 2048 features, T = 2000, on 2026-11-22", set()),
    ],
)
def test_the_pattern_finds_citations(text: str, keys: set[str]) -> None:
    assert cited(text) == keys
