"""The package's public names with what their docstrings say, as one page; read from the source, nothing is imported."""

import ast
import html
import re
from collections.abc import Collection
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent

Definition = ast.FunctionDef | ast.ClassDef


def api_page(package: Path = PACKAGE) -> str:
    """The page's body: a section for each module, in an order in which nothing comes before what it is built on."""
    sources = {".".join(p.relative_to(package).with_suffix("").parts): p.read_text() for p in package.rglob("*.py")}
    trees = {name.removesuffix(".__init__"): ast.parse(text) for name, text in sources.items() if name != "__init__"}
    order = TopologicalSorter()
    for name, tree in sorted(trees.items()):
        inside = {other for other in trees if other.startswith(f"{name}.")}  # a folder comes after what is in it
        order.add(name, *(_built_on(tree, trees.keys()) | inside) - {name})
    parts = ["<h1>The package, module by module</h1>", "<p>From what is built on nothing else to the command line.</p>"]
    names = list(order.static_order())
    says = {name: (ast.get_docstring(trees[name]) or "").partition("\n")[0] for name in names}
    rows = [f'<tr><td><a href="#{n}"><code>{n}</code></a></td><td>{html.escape(says[n])}</td></tr>' for n in names]
    parts += ["<table>", *rows, "</table>"]
    for name in names:
        tree = trees[name]
        public = [
            node for node in tree.body if isinstance(node, Definition) and not node.name.startswith("_")
        ]  # of what a module defines, not of what it imports
        parts += [f'<h2 id="{name}"><code>{name}</code></h2>', _prose(ast.get_docstring(tree) or "")]
        for node in public:
            parts += [_heading(node), _prose(ast.get_docstring(node) or "")]
            if isinstance(node, ast.ClassDef):
                methods = [m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
                inner = "".join(_heading(m) + _prose(ast.get_docstring(m) or "") for m in methods)
                parts += [f'<div class="inner">{inner}</div>'] if inner else []
    return "\n".join(parts)


def _built_on(tree: ast.Module, modules: Collection[str]) -> set[str]:
    """Those of the package's modules that are imported, at any depth; `from room import module` is the module's."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddgan_core"):
            below = (node.module or "").removeprefix("ddgan_core").removeprefix(".")
            names = {f"{below}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= {name if name in modules else below for name in names} & set(modules)
    return found


def _heading(node: Definition) -> str:
    """The signature, without the arguments of a class whose fields its docstring tells."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f'<p class="signature"><code>class {node.name}{f"({bases})" if bases else ""}</code></p>'
    given = ast.unparse(node.args)
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f'<p class="signature"><code>{html.escape(f"{node.name}({given}){returned}")}</code></p>'


def _prose(docstring: str) -> str:
    """Paragraphs; indented blocks keep their lines, words between backticks are code."""
    parts = []
    for block in re.split(r"\n\s*\n", docstring.strip("\n")):
        if not block.strip():
            continue
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(block, quote=False))
        parts.append(f"<pre>{text}</pre>" if block.startswith(" ") else f"<p>{text}</p>")
    return "\n".join(parts)
