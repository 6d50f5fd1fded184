"""Executed notebooks, figures and tables as pages that need no network: everything they show is inside them."""

import html
import re
import string
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddgan_core.figures.files import palette_png
from ddgan_core.tables import read_table

DOCUMENTS = {"README.md": "index.html", "FINDINGS.md": "findings.html"}  # and the pages that have them

# A function's name before its argument: the converter leaves out the thin space of LaTeX.
_FUNCTION = re.compile(r"(<mi>(?:log|ln|exp|sin|cos|tanh|sinh|cosh|min|max|sup|inf|arg))(</mi><m[^o])")

# Browsers know no mathvariant but normal: 𝔼 is a letter of its own.
_VARIANT = re.compile(r'<(m[in]) mathvariant="(double-struck|script|bold|bold-italic)">(&#x\w+;|\w)</m[in]>')
# pandas gives the name of an index a line of its own.
_HEAD = re.compile(
    r"(<thead>\s*<tr[^>]*>\s*)<th></th>((?:(?!</?tr).)*</tr>)\s*<tr>\s*(<th>[^<]*</th>)(?:\s*<th></th>)+\s*</tr>",
    re.S,
)


def notebook_page(notebook: Path, folder: Path) -> tuple[str, str]:
    """(title, body) of an executed notebook: formulas as MathML, images inside, nothing fetched from anywhere.

    folder: that of the source notebook, from which its relative image paths lead.
    """
    import nbconvert
    import nbformat
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return mathml(body)

        def block_math(self, body: str) -> str:
            return mathml(body, block=True)

        def latex_environment(self, name: str, body: str) -> str:
            return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

        def link(self, text: str, url: str, title: str | None = None) -> str:
            """Another notebook is another page; a picture is put in; any other file here is only named."""
            path = folder / url.split("#")[0]
            if path.suffix == ".ipynb":
                return super().link(text, f"{path.stem}.html", title)
            if "://" in url or url.startswith("#"):
                return super().link(text, url, title)
            return self.image(text, url) if path.suffix in (".png", ".svg") else text

        def image(self, text: str, url: str, title: str | None = None) -> str:
            path = folder / url
            return _image(path, text) if path.exists() else f"<em>{html.escape(text or path.name)}: not made yet</em>"

    class Exporter(nbconvert.HTMLExporter):
        def markdown2html(self, context: Any, source: str) -> str:
            return MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True)).render(source)

    Exporter.markdown2html.__dict__.update(nbconvert.HTMLExporter.markdown2html.__dict__)  # jinja's mark for filters
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):  # half the page's weight
                smaller = palette_png(b64decode(output.data["image/png"]))
                output.data["image/png"] = b64encode(smaller).decode()
            if "text/latex" in output.get("data", {}):  # sympy's; the page has no MathJax
                output.data["text/html"] = mathml(output.data["text/latex"].strip("$\n "), block=True)
    prose = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    titles = [line for line in prose.splitlines() if line.startswith("# ")]
    body, _ = Exporter(template_name="basic").from_notebook_node(content)
    return (titles[0][2:].strip() if titles else notebook.stem), _HEAD.sub(r"\1\3\2", body)


def mathml(latex: str, block: bool = False) -> str:
    """MathML, which browsers draw themselves; LaTeX that cannot be converted is shown as it is."""
    from latex2mathml.converter import convert

    try:
        converted = str(convert(latex, display="block" if block else "inline"))
        converted = _VARIANT.sub(_letter, converted).replace(r">\|<", ">&#x2016;<")  # which \Big\| leaves as it is
        return _FUNCTION.sub(r"\1&#x2009;\2", converted)
    except Exception:  # the converter raises whatever it stumbles on
        return f"<code>{html.escape(latex)}</code>"


def _letter(found: re.Match[str]) -> str:
    """A letter or digit of another alphabet, by its name in Unicode; as it is where there is none."""
    tag, variant, character = found[1], found[2].upper().replace("BOLD-", "BOLD "), html.unescape(found[3])
    name = re.sub(r"^(LATIN|GREEK) (\w+) LETTER", r"\2", unicodedata.name(character))
    for full in (f"MATHEMATICAL {variant} {name}", f"{variant} {name}"):
        try:
            return f"<{tag}>&#x{ord(unicodedata.lookup(full)):X};</{tag}>"
        except KeyError:
            continue
    return found[0]


def _image(path: Path, text: str) -> str:
    """The picture itself; PNG files have twice the pixels of their size, for screens that have them."""
    from PIL import Image

    size = f' width="{Image.open(path).width // 2}"' if path.suffix == ".png" else ""
    kind = {"svg": "svg+xml", "jpg": "jpeg"}.get(path.suffix[1:], path.suffix[1:])
    data = b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(text)}"{size} src="data:image/{kind};base64,{data}">'


def opening(document: Path) -> str:
    """What a markdown document says above its first block of code, but its title; figures are put in.

    Links lead to the same figure, notebook or document in the report; to what is not in it their words stay.
    """
    import mistune

    text = document.read_text(encoding="utf-8").split("\n```", 1)[0].split("\n", 1)[1]
    text = re.sub(r"(?<!!)\[([^]]+)\]\((?!http)(.*?)\)", lambda m: _link(m[1], m[2]), text)
    text = re.sub(r"!\[(.*?)\]\((.*?)\)", lambda m: f"<figure>{_image(document.parent / m[2], m[1])}</figure>", text)
    body = str(mistune.html(text)).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return re.sub(r"<h2>(.*?)</h2>", lambda m: f'<h2 id="{_anchor(m[1])}">{m[1]}</h2>', body)


def _anchor(heading: str) -> str:
    """As GitHub names it: `Why: toys` is `why-toys`."""
    return re.sub(r"[^\w -]", "", html.unescape(heading)).lower().replace(" ", "-")


def _link(words: str, to: str) -> str:
    path, _, part = to.partition("#")
    folder, stem = Path(path).parent.name, Path(path).stem
    there = {"figures": f"index.html#{stem}", "notebooks": f"{stem}.html"}.get(folder)
    if path in DOCUMENTS:
        there = DOCUMENTS[path] + (f"#{part}" if part and path != "README.md" else "")
    return f"[{words}]({there})" if there else words


def page(title: str, body: str) -> str:
    """A whole HTML document."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    # Only the letters' colours: the ground is the page's own.
    code = re.sub(r"background(-color)?: [^;}]+;?", "", f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}")
    template = string.Template((Path(__file__).parent / "template.html").read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(title), body=body, code=code)


def tagged_table(notebook: Path, tag: str) -> str:
    """The last table that the cell with this tag has shown in an executed notebook; empty without one."""
    import nbformat

    for cell in nbformat.read(notebook, as_version=4).cells:
        if tag in cell.metadata.get("tags", []):
            shown = [o.data["text/html"] for o in cell.get("outputs", []) if "text/html" in o.get("data", {})]
            if shown:
                return _HEAD.sub(r"\1\3\2", re.sub(r"<style scoped>.*?</style>", "", shown[-1], flags=re.DOTALL))
    return ""


def captions(notebooks: Sequence[Path]) -> dict[str, str]:
    """{file stem of a figure: what a notebook says that it shows}."""
    import nbformat

    cells = [cell for path in notebooks for cell in nbformat.read(path, as_version=4).cells]
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return {stem: said for said, stem in re.findall(r"!\[([^]]+)\]\([^)]*figures/(\w+)\.(?:png|svg)\)", prose)}


def index(
    title: str, pages: list[tuple[str, str, float, bool]], results: Path, parameters: Mapping[str, Any],
    tables: Mapping[str, str], captions: Mapping[str, str], begin: str = "",
) -> str:  # fmt: skip
    """How it begins, contents, what was found, figures and all tables.

    pages: (file stem, title, seconds, failed?) of each notebook. tables: heading -> HTML of what is shown at once;
    results/tables come folded at the end. captions: a figure's file stem -> what it shows.
    """
    rows = [
        f'<tr><td><a href="{stem}.html">{html.escape(name)}</a></td><td>{seconds:.0f} s</td>'
        f"<td>{'failed' if failed else 'done'}</td></tr>"
        for stem, name, seconds, failed in pages
    ]
    said = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        begin,
        f"<h2>Contents</h2><p>Made by executing the notebooks with {said}.</p>",
        "<table><thead><tr><th>notebook</th><th>time</th><th></th></tr></thead>",
        f"<tbody>{''.join(rows)}</tbody></table>",
        '<p><a href="api.html">The package, module by module</a></p>',
    ]
    figures = {p.stem: p for kind in ("png", "svg") for p in sorted((results / "figures").glob(f"*.{kind}"))}
    files = sorted(path for path in (results / "tables").glob("*.csv*") if path.suffix in (".csv", ".xz"))
    found = [heading for heading, table in tables.items() if table]
    found += ["Figures"] * bool(figures) + ["All tables"] * bool(files)
    links = [f'<a href="#part{i}">{html.escape(heading)}</a>' for i, heading in enumerate(found)]
    parts.append(f"<p>Below: {' · '.join(links)}</p>")
    heads = {h: f'<h2 id="part{i}">{html.escape(h)}</h2>' for i, h in enumerate(found)}
    for heading, table in tables.items():
        parts += [f'{heads[heading]}<div class="wide words">{table}</div>'] if table else []
    parts += [heads["Figures"], "<p>A click shows one large.</p>"] if figures else []
    for stem in sorted(figures):
        said = f"{stem}: {captions[stem]}" if stem in captions else stem
        shown = f"{_image(figures[stem], said)}<figcaption>{html.escape(said)}</figcaption>"
        parts.append(f'<figure id="{html.escape(stem)}">{shown}</figure>')
    parts += [heads["All tables"]] if files else []
    for path in files:
        table = read_table(path).to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format)
        name = html.escape(path.name.partition(".csv")[0])
        parts.append(f'<details><summary>{name}</summary><div class="wide">{table}</div></details>')
    return "\n".join(parts)
