"""It builds something that is not a network."""

from headstrip import detach, hookimpl

FAMILIES = ("net",)


@hookimpl
def build_model(spec, options):
    return {"weights": "none"}


@hookimpl
def strip_head(model, family, spec, entry):
    return detach(model, "fc")
