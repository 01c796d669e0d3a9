"""Generate docs/reference/hookspec.md from the signatures and docstrings of the hooks.

    python tools/hookspec_reference.py

A test compares the file with the generated text.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from headstrip import hookspecs, spec
from headstrip.images import preprocessing
from headstrip.network import head
from headstrip.network import levels as levels_module
from headstrip.plugins import ENTRY_POINT_GROUP
from headstrip.plugins.validation import REQUIRED
from headstrip.system.atomic import write_atomically

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "hookspec.md"
VALUES = (
    (spec, "BackboneSpec"),
    (spec, "WeightsEntry"),
    (preprocessing, "Preprocessing"),
    (head, "Stripped"),
    (levels_module, "Level"),
)
FUNCTIONS = ((head, "detach"),)

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example):$", re.MULTILINE)
_ITEM = re.compile(r"^(\w+): ", re.MULTILINE)

Node = ast.ClassDef | ast.FunctionDef


def reference() -> str:
    """Return the text of the reference."""
    contract = find(hookspecs, "HeadStripper")
    hooks = [node for node in contract.body if isinstance(node, ast.FunctionDef)]
    lines = [
        "# The hooks of a plugin",
        "",
        "This page is for authors of plugins who need the exact contract of a hook. "
        "[Write a plugin](../tutorial/write-a-plugin.md) builds one step by step. "
        "`tools/hookspec_reference.py` writes this page from the code.",
        "",
        "<!-- quoted from the code -->",
        "",
        *sections(module_text(hookspecs)),
        *sections(text_of(contract).partition("\n\n")[2]),
        f"The version of this contract is {hookspecs.API_VERSION}, the entry-point group is "
        f"`{ENTRY_POINT_GROUP}`. A hook may leave out arguments that it does not need. "
        "It must not have default values, `*` or `**`.",
        "",
        "| hook | what it does |",
        "|---|---|",
        *(f"| [`{hook.name}`](#{hook.name}) | {inline(summary(hook))} |" for hook in hooks),
        "",
    ]
    for hook in hooks:
        lines += function_lines(hook, "##")
    lines += ["## Types", "", "All of these are names of `headstrip`.", ""]
    for module, name in VALUES:
        lines += value_lines(find(module, name))
    for module, name in FUNCTIONS:
        lines += function_lines(find(module, name), "###")
    return "\n".join(lines).rstrip() + "\n"


def function_lines(function: Node, level: str) -> Iterator[str]:
    """Yield a heading, the signature and the docstring of a function."""
    yield from (f"{level} {function.name}", "", "```text", signature(function), "```", "")
    yield from sections(text_of(function))


def value_lines(value: Node) -> Iterator[str]:
    """Yield a heading, the fields and the docstring of a dataclass."""
    fields = [ast.unparse(node) for node in value.body if isinstance(node, ast.AnnAssign)]
    yield from (f"### {value.name}", "", "```text", *fields, "```", "")
    yield from sections(text_of(value))


def sections(text: str) -> Iterator[str]:
    """Yield a docstring as Markdown: its paragraphs, then its sections."""
    paragraphs, *rest = _SECTION.split(text)
    if paragraphs.strip():
        yield from (inline(paragraphs.strip()), "")
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        if title != "Example":
            yield from section(title, inspect.cleandoc(body))


def section(title: str, body: str) -> Iterator[str]:
    """Yield one section, with one line per named item."""
    items = _ITEM.split(body)[1:] if title != "Returns" else []
    if not items:
        yield from (f"**{title}** {inline(joined(body))}", "")
        return
    yield from (f"**{title}**", "")
    for name, words in zip(items[::2], items[1::2], strict=True):
        yield f"- `{name}`: {inline(joined(words))}"
    yield ""


def signature(function: Node) -> str:
    """Return a function's signature, without ``self`` and on lines that can be read."""
    assert isinstance(function, ast.FunctionDef)
    arguments = ast.unparse(function.args).removeprefix("self").removeprefix(", ")
    returns = ast.unparse(function.returns) if function.returns else "None"
    if function.name in REQUIRED:
        # A plugin that implements the hook must not return None.
        returns = returns.removesuffix(" | None")
    line = f"{function.name}({arguments}) -> {returns}"
    if len(line) <= 95:
        return line
    split = re.sub(r", (?=\w+: |\*)", ",\n    ", arguments)
    return f"{function.name}(\n    {split},\n) -> {returns}"


def find(module: ModuleType, name: str) -> Node:
    """Return a class or a function of a module, as source."""
    tree = ast.parse(inspect.getsource(module))
    (found,) = [
        node
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name
    ]
    return found


def text_of(node: Node) -> str:
    """Return a docstring without its indentation."""
    return ast.get_docstring(node) or ""


def module_text(module: ModuleType) -> str:
    """Return the docstring of a module after its first paragraph."""
    return inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2]


def summary(node: Node) -> str:
    """Return the first sentence of a docstring, without its full stop."""
    return joined(text_of(node).partition("\n\n")[0]).rstrip(".")


def joined(text: str) -> str:
    """Return a paragraph on one line."""
    return " ".join(text.split())


def inline(text: str) -> str:
    """Convert the code marks of a docstring to Markdown."""
    return text.replace("``", "`")


if __name__ == "__main__":
    write_atomically(REFERENCE, reference().encode())
