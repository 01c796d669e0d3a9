"""File names, labels, plugins and arguments reach the terminal only as visible text."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from tests.cli.conftest import Run
from tests.cli.terminal import in_terminal
from tests.distributions import catalog_of, install_distribution, run_python, weights_of
from tests.sampling import mostly_slow

from headstrip import BackboneSpec, WeightsEntry
from headstrip.cli.output import warnings_as_sentences
from headstrip.printable import printable

# Title of the window, clear the screen, right-to-left override, the C1 form of ESC [, delete, a
# separate line, and a byte that is not UTF-8.
HOSTILE = "\x1b]0;x\x07\x1b[2J\u202e\x9b31m\x7f\nError: forged\r\udcff"
NAME = f"a{HOSTILE}"
SHOWN = "a\\x1b]0;x\\x07\\x1b[2J\\u202e\\x9b31m\\x7f\\nError: forged\\r\\xff"
CLI = Path(__file__).parents[2] / "src/headstrip/cli"


def check(result: Result) -> Result:
    """Assert that nothing but visible lines was printed, and that none of them is forged."""
    for text in (result.stdout, result.stderr):
        hidden = {repr(c) for c in text if not c.isprintable() and c != "\n"}
        assert not hidden, f"{hidden} in {text!r}"
        assert not [line for line in text.splitlines() if line.startswith("Error: forged")]
    return result


def test_printable_escapes_once_and_keeps_readable_text() -> None:
    assert printable(NAME) == SHOWN
    assert printable(SHOWN) == SHOWN
    assert printable("Zoë's 猫, שלום: 100 %.jpg") == "Zoë's 猫, שלום: 100 %.jpg"


ARGUMENTS = [
    [NAME],
    [f"--{NAME}"],
    ["-" + NAME],
    ["--no-plugin", NAME, "list"],
    ["list", NAME],
    ["list", "a", NAME],
    ["list", f"--{NAME}"],
    ["list", "--family", NAME],
    ["list", "--source", NAME],
    ["list", "--max-params", NAME],
    ["list", "--input", NAME],
    ["list", "--law", NAME],
    ["list", "--dim", NAME],
    ["show", NAME],
    ["show", f"torchvision:{NAME}"],
    ["show", f"resnet18.{NAME}"],
    ["show", f"{NAME}:net"],
    ["verify", f"*{NAME}"],
    ["catalog", NAME],
    ["catalog", "write", NAME],
    ["catalog", "check", NAME],
    ["catalog", "write", "example", "--to", NAME],
    ["new-plugin", NAME],
    ["new-plugin", "mine", "--to", f"{NAME}/b/c"],
    ["weights", NAME],
    ["weights", "list", NAME],
    ["weights", "path", NAME],
    ["weights", "path", f"{NAME}*"],
    ["weights", "fetch", NAME],
    ["weights", "fetch", f"{NAME}.pth"],
    ["weights", "fetch", f"./{NAME}"],
    ["weights", "fetch", f"{NAME}*"],
    ["weights", "verify", f"./{NAME}.pth"],
    ["weights", "verify", f"{NAME}=x"],
    ["weights", "remove", NAME],
    ["weights", "repair", NAME],
    ["weights", "optimize", NAME],
    ["classify", NAME, "-b", NAME],
    ["classify", NAME, "-b", f"{NAME}.json"],
    ["classify", NAME, "-b", "resnet18", "--weights", NAME],
    ["classify", NAME, "-b", "resnet18", "--weights", f"{NAME}={NAME}"],
    ["classify", NAME, "-b", "resnet18", "--weights", f"{NAME}.pth"],
    ["classify", NAME, "-b", "resnet18", "-k", NAME],
    ["embed", NAME, "-b", "resnet18", "-o", "x.parquet"],
    ["embed", f"{NAME}://x", "-b", "resnet18", "-o", "x.parquet"],
    ["embed", f"{NAME}*.jpg", "-b", "resnet18", "-o", "x.parquet"],
    ["embed", ".", "-b", "resnet18", "-o", f"{NAME}.csv"],
    ["embed", ".", "-b", "resnet18", "-o", f"{NAME}/x.parquet"],
    ["embed", ".", "-b", "resnet18", "-o", "x.parquet", "--engine", NAME],
    ["neighbors", NAME, "-q", NAME],
    ["neighbors", NAME],
]


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("arguments", mostly_slow(ARGUMENTS), ids=range(len(ARGUMENTS)))
def test_a_hostile_argument_is_printed_as_visible_text(
    run: Run,
    arguments: list[str],
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = check(run(*arguments, *options))
    assert result.exit_code in {1, 2}
    assert result.stderr


@pytest.fixture
def _hostile_plugin(site: Path) -> None:
    """A plugin with a hostile catalog, hostile weights, labels and errors."""
    line = HOSTILE.replace("\n", "").replace("\r", "").replace("\udcff", "")
    spec = BackboneSpec(
        "net",
        "evil",
        f"evil:{line}",
        "evil",
        "image",
        (3, 8, 8),
        3,
        9,
        f"T{line}",
        ((line, line),),
        "exact",
    )
    entry = WeightsEntry(
        f"T{line}",
        (f"https://example.org/{line}",),
        license=line,
        labels=line,
        options=((line, line),),
        metrics=((line, line),),
        num_classes=2,
    )
    files = {
        "evil_net/__init__.py": f"raise ValueError({HOSTILE!r})\n",
        "evil_net/catalog.tsv": catalog_of(spec),
        "evil_net/weights.tsv": weights_of(("net", entry)),
    }
    install_distribution(site, "evil", {"evil": "evil_net"}, files, version="1.0")
    install_distribution(site, "odd", {f"odd{line}": f"odd{line}"}, {}, version="1.0")


@pytest.mark.usefixtures("_hostile_plugin")
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    "arguments",
    mostly_slow(
        [
            ["list", "evil:*"],
            ["list", "--license", "x", "evil:*"],
            ["show", "evil:net"],
            ["show", "evil:net.nothing"],
            ["plugins"],
            ["doctor"],
            ["classify", "x.png", "-b", "evil:net", "--weights", "nothing"],
            ["weights", "list", "evil:*"],
            ["weights", "path", "evil:net"],
            ["weights", "remove", "evil:net"],
            ["catalog", "check", "evil"],
        ]
    ),
    ids=" ".join,
)
def test_hostile_text_of_a_plugin_is_printed_as_visible_text(
    run: Run,
    arguments: list[str],
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / f"home{HOSTILE}"))
    monkeypatch.setenv(f"HEADSTRIP_{HOSTILE}", HOSTILE)
    result = check(run(*arguments, *options))
    if options and result.stdout:
        json.loads(result.stdout)


@pytest.mark.usefixtures("_hostile_plugin")
def test_a_shell_completes_no_name_with_a_control_character(site: Path) -> None:
    done = run_python(
        "-m",
        "headstrip.cli",
        site=site,
        _HEADSTRIP_COMPLETE="bash_complete",
        COMP_WORDS="headstrip show evil:net.T",
        COMP_CWORD="2",
    )
    assert done.stdout.strip() == ""


@pytest.fixture
def odd_photos(tmp_path: Path) -> Path:
    """A photo and a text file with hostile names, and a photo with a plain name."""
    folder = tmp_path / "odd"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    for name in (f"{HOSTILE}.png", "plain.png"):
        Image.fromarray(noise).save(folder / name)
    (folder / f"text{HOSTILE}.png").write_text("no picture")
    return folder


def test_hostile_image_names_are_printed_visibly_and_complete_in_json(
    run: Run, odd_photos: Path, tmp_path: Path, weights_of: Callable[[str], Path]
) -> None:
    weights = tmp_path / f"{HOSTILE}.pth"
    weights.write_bytes(weights_of("mobilenet_v3_small").read_bytes())
    about = ["-b", "mobilenet_v3_small", "--weights", weights]
    bad = odd_photos / f"text{HOSTILE}.png"
    good = odd_photos / f"{HOSTILE}.png"
    out = tmp_path / f"out{HOSTILE}.parquet"
    page = tmp_path / f"page{HOSTILE}.html"

    classified = check(run("classify", bad, good, *about))
    assert classified.exit_code == 1

    found = json.loads(check(run("classify", good, *about, "--json")).stdout)
    assert found[0]["image"] == str(good)

    check(run("embed", odd_photos, *about, "-o", out, "--workers", 0))
    again = check(run("embed", odd_photos, *about, "-o", out, "--workers", 0, "--json"))
    assert json.loads(again.stdout)["out"] == str(out)

    ask = ["neighbors", out, "--weights", weights, "-q", good, "-q", bad, "--root", odd_photos]
    assert "\\x1b[2J" in check(run(*ask, "--html", page)).stdout
    (first, _) = json.loads(check(run(*ask, "--json")).stdout)
    assert first["query"] == str(good)

    check(run("weights", "verify", weights))
    (row,) = json.loads(check(run("weights", "verify", weights, "--json")).stdout)
    assert row["path"] == str(weights)


def test_the_name_of_a_damaged_weights_file_is_printed_as_visible_text(
    run: Run, tmp_path: Path
) -> None:
    for suffix in (".pth", ".safetensors"):
        file = tmp_path / f"{HOSTILE}{suffix}"
        file.write_bytes(HOSTILE.encode("utf-8", "surrogateescape") * 9)
        check(run("classify", file, "-b", "resnet18", "--weights", file))
        check(run("weights", "verify", file))
        check(run("weights", "optimize", file))


def test_a_traceback_is_printed_as_visible_text(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr("headstrip.registry.registry.Registry.short_name", fail)
    for options in ([], ["--debug"]):
        result = run(*options, "list")
        assert result.exit_code == 1
        assert not {c for c in result.stderr if not c.isprintable()} - {"\n"}


def test_a_warning_from_any_library_is_one_visible_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_as_sentences():
        warnings.simplefilter("default")
        warnings.warn(HOSTILE, UserWarning, stacklevel=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert line.startswith("Warning: \\x1b]0;x")


def test_markup_and_emoji_codes_in_a_cell_are_printed_literally() -> None:
    code = (
        "from headstrip.cli.output import Column, print_table\n"
        "print_table([Column('name')], [['[bold]:cat:[/bold]'], ['\\x1b[2J']])\n"
    )
    shown = in_terminal(columns=80, program=["-c", code])
    assert "[bold]:cat:[/bold]" in shown
    assert "\\x1b[2J" in shown


@pytest.mark.parametrize("path", sorted(CLI.glob("[!o]*.py")), ids=lambda path: path.stem)
def test_commands_print_only_through_one_module(path: Path) -> None:
    calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    names = {ast.unparse(call) for call in calls}
    assert not names & {"print", "click.echo", "click.secho", "sys.stdout.write"}
