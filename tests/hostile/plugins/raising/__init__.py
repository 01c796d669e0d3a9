"""Each of its hooks raises."""

from headstrip import hookimpl

FAMILIES = ("net",)


@hookimpl
def build_model(spec, options):
    raise KeyError("build_model")


@hookimpl
def strip_head(model, family, spec, entry):
    raise RuntimeError("strip_head")


@hookimpl
def weights(spec):
    raise OSError("weights")


@hookimpl
def adapt_state_dict(loaded, model, entry):
    raise IndexError("adapt_state_dict")


@hookimpl
def load_model(spec, entry):
    raise SystemExit("load_model")


@hookimpl
def preprocessing(spec):
    raise ZeroDivisionError("preprocessing")


@hookimpl
def find_backbone(name):
    raise RecursionError("find_backbone")


@hookimpl
def backbones():
    raise StopIteration("backbones")


@hookimpl
def reference(model, x, family):
    raise GeneratorExit("reference")
