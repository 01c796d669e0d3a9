"""Find phrases that headstrip's texts must not contain, and say what to write instead.

    python tools/prose.py docs                  README, CONTRIBUTING and the pages
    python tools/prose.py messages              error messages and help texts of src and plugins
    python tools/prose.py docstrings comments   the other texts in the code
    python tools/prose.py all                   all of these and the changelog, as in `make lint`
    python tools/prose.py messages --count      only the number of findings

Each finding is a line ``FILE:LINE: 'phrase': write ...``. The exit code is 1 when there is one.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Rule(NamedTuple):
    """A phrase that is forbidden, as a regular expression, and what to write instead.

    A space in the phrase stands for any white space, so that a line break does not hide it.
    """

    phrase: str
    instead: str


OF_WHOM = r"(?:its|their|your|our|his|one's|the user's)"
WORD = r"(?<![-\w./]){}(?![-\w=(/])"
"""A word in prose: not a part of an option, an assignment, a call or a path."""

RULES = (
    # The table of replacements.
    Rule(r"nobody(?:'s|\b)|no one's", "who does it, or 'No installed source has ...'"),
    Rule(r"\bno truth value", "'must be True or False'"),
    Rule(r"\bwhole numbers?\b", "'an integer'"),
    Rule(r"\banew\b", "'again', 'a new ...' or 'overwrite'"),
    Rule(r"\ban? (?:row|line|file|thread|test|path|predictor) an? \w+", "'one ... per ...'"),
    Rule(r"\bis (?:not )?there\b(?! (?:an?|any|no)\b)", "'exists', or leave it out"),
    Rule(r"\bare (?:not )?there\b(?! (?:any|no)\b)", "'exist', or leave it out"),
    Rule(WORD.format(r"lanes?"), "'inference thread'"),
    Rule(WORD.format(r"routes?"), "'decode mode'"),
    Rule(WORD.format(r"laws?"), "'head fidelity (column `law`)'"),
    Rule(r"\bplace of (?:an|the|its) encoder", "'device and dtype'"),
    Rule(r"\btold\b(?! (?:him|her|them|you|me|us)\b)", "'reported', or who prints what"),
    Rule(r"\bsettled?\b", "'resolved' or 'chosen'"),
    Rule(r"\bremembered\b", "'cached'"),
    # Archaic and inverted constructions.
    Rule(r"(?<!there\s)\b(?:is|are) none\b(?! of\b)", "'is not a ...' or 'there is no ...'"),
    Rule(
        r"(?<!there\s)\b(?:is|are|was|were) no (?!longer\b|more\b|better\b|less\b|larger\b)\w+",
        "'is not a ...'",
    ),
    Rule(r"\bwhose (?:one )?(?:it|they) (?:is|are|was|were)\b", "which ... it belongs to"),
    Rule(r"\bwhich \w+ is whose\b|\bwhose name is whose\b", "'which ... belongs to which'"),
    Rule(rf"\bof {OF_WHOM} own\b", "'its own ...', 'your own ...', 'separate', or leave it out"),
    Rule(r"\b(?:has|have|had) (?:to|a|something(?: else)? to|nothing to) say\b", "the fact itself"),
    Rule(r"\bsays? of (?:it|them)sel(?:f|ves)\b", "'contains' or 'describes'"),
    Rule(r"(?<!long\s)\bas (?:it|they) (?:is|are|was|were)\b(?! \w+ed\b)", "'unchanged'"),
    Rule(r"\bas ever\b", "'as usual'"),
    Rule(r"\ball the same\b", "'anyway'"),
    Rule(r"\bwhat becomes? of\b|\bwhat became of\b", "'what happens to', or the outcome"),
    Rule(r"\b(?:do|does|did) without\b", "'omit', 'not need' or 'ignore'"),
    Rule(r"\b(?:there|it) is no end of\b", "a number"),
    Rule(r"\bin silence\b", "'silently'"),
    Rule(r"\b(?:go|goes|went|gone|going) on\b", "'continue' or 'resume'"),
    Rule(r"\b(?:stand|stands|stood) (?:in|at|behind|beside|between|before)\b", "'is in'"),
    Rule(r"\b(?:lie|lies|lay|lying) (?:in|at|beside|on|behind|under)\b", "'is in'"),
    Rule(r"\b(?:has|have|had) headstrip \w+", "'makes headstrip ...' or 'headstrip ...'"),
    Rule(r"\b(?:is|are|stays?) (?!it's\b|that's\b|nobody's\b)\w+'s(?=[,.;:)])", "'belongs to ...'"),
    Rule(r"\b(?:with|in) a sentence\b", "'with an error that says ...'"),
    Rule(r"\brefused with what\b", "'refused with an error that says ...'"),
    Rule(r"\band what else\b|\bwhat else there\b", "the list, or 'other ...'"),
    Rule(r"\bbesides\b", "'also' or 'too'"),
    Rule(r"\bseldom\b", "'rarely'"),
    Rule(r"\bmend(?:s|ed|ing)?\b", "'fix'"),
    Rule(r"\btells? by\b", "'compare'"),
    Rule(r"\bto the bit\b", "'bit for bit'"),
    Rule(r"\bfound wanting\b|\bat fault\b|\bat will\b", "the fact"),
    Rule(r"\btaken? for (?:an? )?\w+s\b", "'treated as'"),
    Rule(r"\bsuch (?:it|they) (?:is|are)\b|\bso (?:it|they) (?:is|are) for\b", "the fact"),
    Rule(r"\blikeliest\b", "'most likely'"),
    Rule(r"\bnearest to others\b", "'most similar to query images'"),
    Rule(r"\bg(?:ave|iven) up\b", "'stopped' or 'failed'"),
    Rule(r"\bat hand\b", "'available' or 'on this machine'"),
    Rule(r"\bof a kind\b(?! (?:of|that)\b)", "which kind"),
    Rule(r"\ba word of\b", "the fact, or 'a message about'"),
    Rule(r"\bunlike as\b|\bsave for\b|\bbut for\b", "'except'"),
    Rule(r"\bwhosoever\b|\bwhoever\b|\bwhomever\b", "'you', 'a user' or 'anyone who'"),
    Rule(
        r"\b(?:where(?:in|of|by|upon|fore)|there(?:in|of|by|upon|to)|here(?:by|in|of)|whence|"
        r"thence|hence|lest|shall|shan't|forthwith|whilst|amongst|amidst|betwixt|ere|naught|"
        r"aught|oft|thus|nay|yonder|albeit)\b",
        "a modern word",
    ),
    Rule(r"\b(?:could|can)(?:not| not)? be had\b", "'could not be downloaded' or 'found'"),
    Rule(r"\bbegun\b", "'started'"),
    Rule(r"\bwas taken away\b", "'was removed'"),
    Rule(r"\bas \w+ never (?:does|saves)\b", "'torch never ...'"),
    Rule(r"\bdescription of itself\b", "'its description'"),
    Rule(r"\bgone by\b|\bupon\b|\bunto\b", "a modern word"),
    # Code that the formatter may not lay out.
    Rule(r"\bfmt: ?(?:skip|off)\b", "code that the formatter may lay out"),
)
_RULES = [(re.compile(rule.phrase.replace(" ", r"\s+"), re.IGNORECASE), rule) for rule in RULES]
# `None` is a value; only the word is archaic.
_VALUES = re.compile(r"\b(?:is|are)\s+None\b")


class Text(NamedTuple):
    """A text that somebody reads, and the line of its file where it starts."""

    line: int
    text: str


class Finding(NamedTuple):
    """A forbidden phrase in a file."""

    line: int
    phrase: str
    instead: str


def find(text: str, first_line: int = 1) -> Iterator[Finding]:
    """Yield the forbidden phrases of a text in their order; of two that overlap, the first."""
    matches = [
        (match.start(), match.end(), rule.instead)
        for pattern, rule in _RULES
        for match in pattern.finditer(text)
        if not _VALUES.fullmatch(match[0])
    ]
    done = 0
    for start, end, instead in sorted(matches):
        if start >= done:
            line = first_line + text.count("\n", 0, start)
            yield Finding(line, " ".join(text[start:end].split()), instead)
            done = end


_QUOTES = r"<!-- quoted from the code -->.*?(?:<!-- end of the quotes -->|\Z)"
_CODE = re.compile(
    rf"{_QUOTES}|^```.*?^```$|``[^`]+``|`[^`]*`|\]\([^)\s]*\)|<!--.*?-->", re.M | re.S
)


def without_code(text: str) -> str:
    """Blank out blocks of code, inline code, the targets of links, and HTML comments.

    What a page quotes from the code, between two comments that say so, is checked where it is
    written.
    """
    return _CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def markdown(source: str) -> Iterator[Text]:
    """Yield the prose of a page."""
    yield Text(1, without_code(source))


_PLACEHOLDER = re.compile(r"\{\w+\}")
_INDENT = re.compile(r"^ +", re.MULTILINE)
_FIELD = re.compile(r"^\w+(?=:\s)", re.MULTILINE)
"""The name of an argument or an attribute, before its description."""


def messages(source: str) -> Iterator[Text]:
    """Yield the strings of a module, and the docstrings that click prints as help texts.

    A string without a space is a name, and no message.
    """
    tree = ast.parse(source)
    docstrings = {id(node) for node, is_help in _docstrings(tree) if not is_help}
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if id(node) in docstrings or id(node) in parts:
            continue
        text = _text_of(node)
        if text is not None and " " in text.strip():
            text = _PLACEHOLDER.sub("{}", text)
            yield Text(node.lineno, without_code(text))  # type: ignore[attr-defined]  # a literal


def docstrings(source: str) -> Iterator[Text]:
    """Yield the docstrings of a module that are not help texts."""
    for node, is_help in _docstrings(ast.parse(source)):
        if not is_help:
            text = _FIELD.sub("", _INDENT.sub("", str(node.value)))
            yield Text(node.lineno, without_code(text))


def comments(source: str) -> Iterator[Text]:
    """Yield the comments of a module; lines that follow each other are one."""
    block: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and block[-1].start[0] + 1 != token.start[0]:
            yield _comment(block)
            block = []
        block.append(token)
    if block:
        yield _comment(block)


def _comment(block: Sequence[tokenize.TokenInfo]) -> Text:
    lines = "\n".join(token.string.lstrip("# ") for token in block)
    return Text(block[0].start[0], without_code(lines))


def _text_of(node: ast.AST) -> str | None:
    """Return the text of a string, with ``{}`` in place of what an f-string puts in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(part) or "{}" for part in node.values)
    return None


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _docstrings(tree: ast.Module) -> Iterator[tuple[ast.Constant, bool]]:
    """Yield each string that is a statement, and whether click prints it."""
    helped = {
        id(node.body[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any(map(_makes_command, node.decorator_list))
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value, id(node) in helped


def _makes_command(decorator: ast.expr) -> bool:
    """Whether a decorator is ``@click.command(...)``, ``@group.command`` or the like."""
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(target, ast.Attribute) and target.attr in {"command", "group"}


class Area(NamedTuple):
    """Files, and how the texts in one of them are found."""

    globs: tuple[str, ...]
    texts: Callable[[str], Iterator[Text]]


PYTHON = ("src/**/*.py", "plugins/*/src/**/*.py")
TOOLS = ("tools/*.py", "plugins/*/tools/*.py", "benchmarks/*.py", "hatch_build.py")
TESTS = ("tests/**/*.py", "plugins/*/tests/**/*.py")
AREAS = {
    "docs": Area(("README.md", "CONTRIBUTING.md", "docs/**/*.md", "plugins/*/README.md"), markdown),
    "changelog": Area(("CHANGELOG.md",), markdown),
    "messages": Area(PYTHON, messages),
    "docstrings": Area((*PYTHON, *TOOLS), docstrings),
    "comments": Area((*PYTHON, *TOOLS, *TESTS), comments),
}


def findings(area: Area, root: Path) -> Iterator[tuple[Path, Finding]]:
    """Yield what is found in an area, file by file and line by line."""
    for path in sorted({path for glob in area.globs for path in root.glob(glob)}):
        texts = area.texts(path.read_text(encoding="utf-8"))
        found = [one for text in texts for one in find(text.text, text.line)]
        yield from ((path, one) for one in sorted(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings of the areas, or their number, and return the exit code."""
    parser = argparse.ArgumentParser(description="Find phrases that are not plain English.")
    parser.add_argument(
        "areas", nargs="+", choices=(*AREAS, "all"), metavar="AREA", help=", ".join((*AREAS, "all"))
    )
    parser.add_argument("--count", action="store_true", help="print only the number, and exit 0")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of the repository")
    arguments = parser.parse_args(argv)
    areas = list(AREAS) if "all" in arguments.areas else arguments.areas
    found = [one for area in areas for one in findings(AREAS[area], arguments.root)]
    if arguments.count:
        print(f"{', '.join(areas)}: {len(found)}")
        return 0
    for path, one in found:
        name = path.relative_to(arguments.root)
        print(f"{name}:{one.line}: {one.phrase!r}: write {one.instead}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
