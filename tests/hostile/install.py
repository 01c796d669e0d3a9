"""Install twelve hostile plugins into a folder, to see how headstrip handles them.

python tests/hostile/install.py SITE
PYTHONPATH=SITE headstrip plugins
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # A script that is run by hand finds only its own folder.
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.distributions import catalog_of, install_distribution

from headstrip.spec import BackboneSpec

SOURCES = Path(__file__).parent / "plugins"


def install_hostile(site: Path) -> None:
    """Install the twelve plugins into ``site``; one of them comes in two distributions."""
    for folder in sorted(SOURCES.iterdir()):
        name = folder.name
        code = (folder / "__init__.py").read_text(encoding="utf-8")
        if name == "twice":
            _install(site, "twice_again", name, code, spec_of(name))
        plugin = "vgg" if name == "posing_as_vgg" else name
        _install(site, name, plugin, code, spec_of(plugin))


def spec_of(plugin: str) -> BackboneSpec:
    """Describe the one backbone that a hostile plugin lists."""
    if plugin == "vgg":
        return BackboneSpec("vgg11", "torchvision", "vgg", "vgg", "image", (3, 8, 8), 8, 8)
    return BackboneSpec("net", plugin, f"{plugin}:net", plugin, "image", (3, 8, 8), 8, 1581)


def _install(site: Path, name: str, plugin: str, code: str, spec: BackboneSpec) -> None:
    module = f"hostile_{name}"
    value = f"{module}:plugin" if name == "no_hooks" else module
    files = {f"{module}/__init__.py": code, f"{module}/catalog.tsv": catalog_of(spec)}
    install_distribution(site, f"hostile-{name.replace('_', '-')}", {plugin: value}, files)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tests/hostile/install.py SITE")
    install_hostile(Path(sys.argv[1]))
    print(
        f"Twelve hostile plugins are in {sys.argv[1]}. PYTHONPATH={sys.argv[1]} headstrip plugins"
    )
