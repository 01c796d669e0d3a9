"""The tool that finds phrases which are not plain English."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "prose.py"))
FORBIDDEN = "The name 'x' is nobody's."


def run(root: Path, *arguments: str) -> int:
    code: int = TOOL["main"]([*arguments, "--root", str(root)])
    return code


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/how-to/x.md"])
def test_a_phrase_in_a_page_is_found_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write(tmp_path, name, "# Title\n\nThe name is\nnobody's.\n")
    assert run(tmp_path, "docs") == 1
    assert capsys.readouterr().out.startswith(f'{name}:4: "nobody\'s": write ')


@pytest.mark.parametrize(
    "code",
    [
        f'raise ValueError("{FORBIDDEN}")',
        f'raise ValueError(f"{{value!r}}: {FORBIDDEN}")',
        'raise ValueError("The name is "\n    "nobody\'s.")',
        f'option("--x", help="{FORBIDDEN}")',
        f'@click.command("x")\ndef x():\n    """{FORBIDDEN}"""',
        f'@group.command\ndef x():\n    """{FORBIDDEN}"""',
    ],
)
def test_a_phrase_in_an_error_message_or_a_help_text_is_found(tmp_path: Path, code: str) -> None:
    write(tmp_path, "src/package/x.py", code)
    assert run(tmp_path, "messages") == 1
    assert run(tmp_path, "docstrings", "comments") == 0


@pytest.mark.parametrize(
    "code",
    [
        "anew = lanes(told=1)",
        'settings["lanes"] = told["route"]',
        'raise ValueError("Pass lanes=2 (--lanes 2), or `map` where `x is none`.")',
        'raise ValueError("model is None, and the file is no longer open.")',
        'print("{lanes} at once".format(lanes=1))',
        'def x(lanes):\n    """Run.\n\n    Args:\n        lanes: How many threads.\n    """\n',
    ],
)
def test_a_name_in_code_is_not_a_phrase(tmp_path: Path, code: str) -> None:
    write(tmp_path, "src/package/x.py", code)
    assert run(tmp_path, "messages", "docstrings", "comments") == 0


def test_blocks_of_code_and_the_targets_of_links_are_not_prose(tmp_path: Path) -> None:
    write(tmp_path, "README.md", "```python\n>>> anew\n```\n\n[A page](anew.md) about `anew`.\n")
    assert run(tmp_path, "docs") == 0


@pytest.mark.parametrize(
    ("area", "code"),
    [
        ("docstrings", 'def x():\n    """The run starts\n    anew."""\n'),
        ("comments", "x = 1\n# The run starts\n# anew.\n"),
    ],
)
def test_docstrings_and_comments_are_separate_areas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], area: str, code: str
) -> None:
    write(tmp_path, "src/package/x.py", code)
    assert run(tmp_path, "messages") == 0
    assert run(tmp_path, area) == 1
    assert capsys.readouterr().out.startswith("src/package/x.py:3: 'anew'")


@pytest.mark.parametrize("folder", ["src/package", "tests", "tools", "benchmarks"])
def test_code_excluded_from_the_formatter_is_found(tmp_path: Path, folder: str) -> None:
    write(tmp_path, f"{folder}/x.py", "x = [1,2]  # fmt: skip\n")
    assert run(tmp_path, "all") == 1


def test_a_count_is_printed_without_failing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "src/package/x.py", f'raise ValueError("{FORBIDDEN}")')
    assert run(tmp_path, "messages", "--count") == 0
    assert capsys.readouterr().out == "messages: 1\n"
