"""It misspells the name of a hook."""

from headstrip import hookimpl

FAMILIES = ("net",)


@hookimpl
def build_model(spec, options):
    raise NotImplementedError


@hookimpl
def strip_haed(model, family, spec, entry):
    raise NotImplementedError
