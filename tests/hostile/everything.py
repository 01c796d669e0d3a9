"""Use headstrip in one process with all installed plugins, and print the results as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from headstrip.errors import HeadstripError
from headstrip.plugins.records import PluginRecord
from headstrip.registry.registry import Registry, get_registry


def imported() -> list[str]:
    """Return the imported modules of third parties, and torch if it is imported."""
    return sorted(name for name in sys.modules if name.startswith("hostile_") or name == "torch")


def attempt(name: str) -> dict[str, object]:
    """Build an encoder with random weights, and return its name and width, or the error."""
    from headstrip import build_encoder

    try:
        encoder = build_encoder(name, weights=None)
    except HeadstripError as error:
        cause = error.__cause__
        return {"error": type(error).__name__, "message": str(error), "cause": repr(cause)}
    return {"name": encoder.spec.qualified_name, "dim": encoder.output_dim}


def smoke_test_all(registry: Registry) -> list[PluginRecord]:
    """Test all plugins of third parties in this process, and return the records of all plugins."""
    from headstrip.authoring.smoke_test import smoke_test

    for record in registry.records():
        if record.status in {"found", "loaded"} and record.origin != "built-in":
            smoke_test(registry, record.name)
    return registry.records()


def main() -> None:
    """Resolve, list, build and load, in this order."""
    registry = get_registry()
    facts: dict[str, object] = {
        "meanings": {
            spec.name: registry.resolve(spec.name)[0].qualified_name
            for spec in registry.specs()
            if spec.source == "torchvision"
        },
        "listed": [spec.qualified_name for spec in registry.specs()],
        "after listing": imported(),
    }
    facts["core"] = {name: attempt(name) for name in ("resnet18", "vgg11", "squeezenet1_1")}
    facts["after core"] = imported()
    facts["hostile"] = {name: attempt(name) for name in sys.argv[1:]}
    facts["records"] = {
        record.name: asdict(record)
        for record in smoke_test_all(registry)
        if record.origin != "built-in"
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
