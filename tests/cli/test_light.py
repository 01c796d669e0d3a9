"""What must stay light: neither torch nor anything else that is heavy is imported for it."""

from __future__ import annotations

import pytest
from tests.distributions import run_python

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "huggingface_hub",
    "numpy",
    "PIL",
    "pyarrow",
    "rich",
    "safetensors",
}

TORCH_FREE = (
    "headstrip",
    "headstrip.registry.catalog",
    "headstrip.cli",
    "headstrip.cli.classify",
    "headstrip.cli.doctor",
    "headstrip.cli.embed",
    "headstrip.cli.list",
    "headstrip.cli.neighbors",
    "headstrip.cli.plugins",
    "headstrip.cli.show",
    "headstrip.cli.weights",
    "headstrip.embed",
    "headstrip.embed.files",
    "headstrip.embed.sources",
    "headstrip.errors",
    "headstrip.families",
    "headstrip.hookspecs",
    "headstrip.plugins.loader",
    "headstrip.images.preprocessing",
    "headstrip.registry.registry",
    "headstrip.plugins.validation",
    "headstrip.factory.selection",
    "headstrip.spec",
    "headstrip.weights",
    "headstrip.weights.caches",
    "headstrip.weights.checking",
    "headstrip.weights.downloading",
    "headstrip.weights.locating",
    "headstrip.weights.removing",
    "headstrip.weights.repairing",
    "headstrip.weights.trust",
)
"""Every module that imports no torch, neither directly nor through another."""


def imported(code: str) -> set[str]:
    """Run code in a process of its own, and return the packages that are loaded afterwards."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    wrapped = f"try:\n{code}\nexcept SystemExit:\n    pass\n{report}"
    done = run_python("-c", wrapped)
    assert done.returncode == 0
    return set(done.stderr.splitlines()[-1].split())


def test_the_torch_free_modules_import_nothing_heavy() -> None:
    code = "\n".join(f"    import {module}" for module in TORCH_FREE)
    assert not imported(code) & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["embed", "--help"],
        ["classify", "--help"],
        ["list"],
        ["list", "vit*", "--json"],
        ["show", "vit_h_14"],
        ["show", "resnet51"],
        ["embed", "none", "-b", "resnet18", "-o", "out.parquet"],
        ["classify", "a.jpg", "-b", "resnet18", "--weights", "none.pth"],
    ],
    ids=" ".join,
)
def test_a_light_command_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"    from headstrip.cli import main\n    main({arguments!r}, prog_name='headstrip')"
    assert not imported(code) & HEAVY


def test_help_reads_no_catalog_and_loads_no_plugin() -> None:
    code = (
        "    from headstrip.cli import main\n    try: main(['--help'])\n"
        "    finally:\n"
        "        import sys\n"
        "        loaded = {*sys.modules}\n"
        "        assert not {'headstrip.registry', 'headstrip.plugins.loader', 'pluggy'} & loaded"
    )
    assert "headstrip" in imported(code)
