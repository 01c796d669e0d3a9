"""Every measured number in README and docs matches the committed tables and constants."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from headstrip.images.size_limit import MAX_BYTES
from headstrip.registry.catalog import read_catalog

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/README.md"))
README = "README.md"
EMBED = "docs/how-to/embed-images.md"
ENGINES = "docs/reference/engines.md"
IMAGES = "docs/reference/images.md"
SOURCES = "docs/reference/sources.md"
SEARCH = "docs/how-to/search-embeddings.md"
REPRODUCE = "docs/how-to/reproduce-runs.md"
USE_TIMM = "docs/how-to/use-timm.md"
LITE_README = "plugins/headstrip-efficientnet-lite/README.md"
TIMM_README = "plugins/headstrip-timm/README.md"
MEMORY = "docs/reference/memory.md"
CLUSTER = "docs/how-to/embed-on-a-cluster.md"
RUNS = "docs/explanation/embedding-runs.md"
WEIGHTS_FILES = "docs/explanation/weights-files.md"
FIT = "docs/how-to/fit-predictors.md"
FINE_TUNE = "docs/how-to/fine-tune.md"
COMPARE = "docs/how-to/compare-backbones.md"
COMPARING = "docs/explanation/comparing-backbones.md"
# These tables are written by tools, and the sums at their heads are compared below.
GENERATED = {
    "builds.md",
    "inputs.md",
    "lossless.md",
    "map-proofs.md",
    "memory.md",
    "timm-proofs.md",
    "weights-faults.md",
}
DOCUMENTS = [
    README,
    *(
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.glob("docs/**/*.md"))
        if path.name not in GENERATED
    ),
    *(f"plugins/{name}/README.md" for name in PLUGINS),
]


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


@cache
def measured(name: str) -> Any:
    return json.loads(text_of(f"benchmarks/{name}.json"))


@cache
def proofs(document: str) -> Counter[tuple[str, str]]:
    """Count the rows of a table of proofs by head fidelity or mechanism, and by outcome."""
    rows = re.findall(
        r"^\| `[\w:]+` \|(.*)\|$", text_of(f"docs/reference/{document}"), re.MULTILINE
    )
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    place = 0 if document == "builds.md" else 1
    return Counter((row[place], row[-1].partition(":")[0]) for row in cells)


def specs(folder: str) -> list[Any]:
    return read_catalog(ROOT / folder / "catalog.tsv")


TIMM = "plugins/headstrip-timm/src/headstrip_timm"
LITE = "plugins/headstrip-efficientnet-lite/src/headstrip_efficientnet_lite"


def rows_in(file: str) -> int:
    lines = text_of(file).splitlines()
    return sum(bool(line) and not line.startswith("#") for line in lines) - 1


def input_side(name: str) -> str:
    (spec,) = [spec for spec in specs("src/headstrip") if spec.name == name]
    return str(spec.input_shape[-1])


def images_a_second(way: str, name: str) -> float:
    found = measured("embed")["results"][name]["images_per_second"]
    if way == "dataloader":
        return float(max(value for key, value in found.items() if key.startswith(way)))
    if way == "floor":
        return float(measured("embed")["results"][name]["floor"]["images_per_second"])
    return float(found[way])


def speed_row(way: str) -> list[str]:
    networks = ("resnet50", "vit_b_16", "efficientnet_lite0")
    return [f"{images_a_second(way, name):.1f}" for name in networks]


def ratio(way: str) -> str:
    return f"{images_a_second(way, 'resnet50') / images_a_second('dataloader', 'resnet50'):.1f}"


def lost(rule: str) -> list[str]:
    """Return what a rule of batches loses on average and at most, in percent."""
    networks = measured("batches")["images_per_second"].values()
    shares = [1 - rates[rule] / max(rates.values()) for rates in networks]
    return [f"{sum(shares) / len(shares):.0%}"[:-1], f"{max(shares):.0%}"[:-1]]


def ray() -> list[str]:
    many = measured("embed_ray")["images"][1]
    here, there = (measured("embed_ray")["seconds"][way] for way in ("here", "ray"))
    each = (there[1] - there[0]) / (here[1] - here[0])
    return [
        f"{there[0] - here[0]:.1f}",
        f"{each:.2f}",
        f"{many:,}",
        f"{there[1]:.1f}",
        f"{here[1]:.1f}",
    ]


def soak_difference() -> str:
    few, many = re.findall(r"\| ([\d,]+) MiB \|", text_of(MEMORY))
    return str(int(many.replace(",", "")) - int(few.replace(",", "")))


def built() -> list[str]:
    rows = proofs("builds.md")
    equal = {kind: count for (kind, outcome), count in rows.items() if outcome == "yes"}
    not_run = sum(count for (_, outcome), count in rows.items() if outcome == "not run")
    return [
        f"{sum(rows.values()):,}",
        f"{sum(equal.values()):,}",
        f"{equal['assigned']:,}",
        str(equal["ordinary"]),
        str(not_run),
    ]


class Claim(NamedTuple):
    """A sentence of a document as a pattern, and the numbers that its groups must have."""

    document: str
    pattern: str
    numbers: Callable[[], list[str]]


def exact(document: str) -> str:
    return f"{proofs(document)['exact', 'yes']:,}"


def same_backbone() -> list[str]:
    """Return the number of comparisons of a backbone with itself, and how many have a winner."""
    found = measured("compare")["same_backbone"]
    winners = sum(one["winner"] for one in found)
    return [str(len(found)), str(winners), f"{winners / len(found):.0%}"[:-1]]


def points(score: dict[str, float]) -> list[str]:
    return [f"{100 * score[key]:.1f}" for key in ("value", "low", "high")]


def words(text: str) -> str:
    """Return a pattern for a text; a space in a claim matches any white space."""
    return " ".join(map(re.escape, text.split()))


def fit_row() -> list[str]:
    found = measured("fit")
    losses = found["compared"].values()
    assert all(abs(one["log_loss"] - one["sklearn_log_loss"]) < 1e-3 for one in losses)
    return [
        str(found["attributes"]),
        f"{found['rows']:,}",
        f"{found['dim']:,}",
        f"{found['headstrip_seconds']:.0f}",
        str(found["ratio"]),
        str(len(losses)),
    ]


RATES = ("size", "lr", "backbone_lr")


def fine_tuned(run: str) -> Any:
    return measured("fine_tune")[run]


CLAIMS = [
    Claim(
        README,
        r"(\d+) of torchvision's (\S+) classifiers",
        lambda: [exact("lossless.md"), str(rows_in("src/headstrip/catalog.tsv"))],
    ),
    Claim(
        README,
        r"\[(\S+) of timm's (\S+) architectures\]",
        lambda: [exact("timm-proofs.md"), f"{rows_in(f'{TIMM}/catalog.tsv'):,}"],
    ),
    Claim(
        README,
        r"# (\S+) architectures of timm, (\S+) sets of weights",
        lambda: [f"{rows_in(f'{TIMM}/{name}.tsv'):,}" for name in ("catalog", "weights")],
    ),
    Claim(
        README,
        r"(\d+) pixels for `vit_h_14`, (\d+) for `inception_v3`",
        lambda: [input_side("vit_h_14"), input_side("inception_v3")],
    ),
    Claim(
        README,
        r"(\S+) times as many images a second as a DataLoader script with a ResNet-50 "
        r"on a CPU",
        lambda: [ratio("headstrip")],
    ),
    *(
        Claim(
            RUNS,
            rf"\| {title} \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|",
            lambda way=way: speed_row(way),
        )
        for title, way in (
            ("headstrip", "headstrip"),
            ("a plain loop", "loop"),
            ("DataLoader, the best of 0, 1 and 2 workers", "dataloader"),
            ("transformers' pipeline", "transformers"),
            ("Ray Data's template", "ray data"),
            ("the floor: the network alone, and decoding alone, on all cores", "floor"),
            ("headstrip with the options that `--calibrate` printed", "headstrip calibrated"),
        )
    ),
    Claim(
        RUNS,
        r"Of the last line's time ([\d.]+), ([\d.]+) and ([\d.]+) s are",
        lambda: [
            f"{found['preparing_seconds']['headstrip calibrated']:.1f}"
            for found in measured("embed")["results"].values()
        ],
    ),
    Claim(
        RUNS,
        r"with 16 images and\s+one thread (\d+) % on average and (\d+) % at most, with 8 images "
        r"and one thread (\d+) % and (\d+) %",
        lambda: [*lost("16 images, 1 thread"), *lost("8 images, 1 thread")],
    ),
    Claim(
        RUNS,
        r"One batch on both cores loses\s+(\d+) % or more on average",
        lambda: [min((lost(f"{size} images, 2 threads")[0] for size in (4, 8, 16, 32)), key=int)],
    ),
    Claim(
        RUNS,
        r"a run over a million images took (\d+) MiB more than one over 10,000",
        lambda: [soak_difference()],
    ),
    Claim(
        CLUSTER,
        r"a cluster took ([\d.]+) s longer to start than a run without one, and ([\d.]+) times as "
        r"long for each image \(`benchmarks/embed_ray.py`: ([\d,]+) images with "
        r"efficientnet_lite0 in ([\d.]+) s, without a cluster in ([\d.]+) s\)",
        ray,
    ),
    Claim(IMAGES, r"at most (\d+) MiB a file", lambda: [str(MAX_BYTES >> 20)]),
    Claim(SOURCES, r"At most (\d+) MiB of one image", lambda: [str(MAX_BYTES >> 20)]),
    Claim(
        WEIGHTS_FILES,
        r"requires torch ([\d.]+) or newer",
        lambda: re.findall(r'"torch>=([\d.]+)"', text_of("pyproject.toml")),
    ),
    Claim(
        WEIGHTS_FILES,
        r"Of torchvision's and timm's (\S+) architectures, (\S+) were built both ways and "
        r"compared. All are equal: (\S+) were built without initialising and (\S+) the ordinary "
        r"way \(\[one by one\]\(../reference/builds.md\)\). The other (\d+) are",
        built,
    ),
    Claim(
        TIMM_README,
        r"for headstrip, (\S+) in timm 1.0.31, and all (\S+) sets of their weights",
        lambda: [f"{rows_in(f'{TIMM}/{name}.tsv'):,}" for name in ("catalog", "weights")],
    ),
    *(
        Claim(
            LITE_README,
            rf"`efficientnet-lite:{spec.name}` \| (\d+) x (\d+) \| (\d+) \| (\S+) M \|",
            lambda spec=spec: [
                *map(str, spec.input_shape[1:]),
                str(spec.dim),
                f"{spec.params / 1e6:.1f}",
            ],
        )
        for spec in specs(LITE)
    ),
    Claim(
        FINE_TUNE,
        r"two epochs on (\d+) pictures .* from ([\d.]+) to ([\d.]+) accuracy .* ([\d.]+) to "
        r"([\d.]+)\), at (\d+) pixels with learning rates of (\S+) and (\S+) for",
        lambda: [
            str(fine_tuned("fit_112")["pictures"]),
            *(f"{fine_tuned('fit_112')[name]:.2f}" for name in ("frozen", "tuned")),
            *(f"{-fine_tuned('fit_112')[name]:.2f}" for name in ("high", "low")),
            *(f"{fine_tuned('fit_112')['settings'][name]:g}" for name in RATES),
        ],
    ),
    Claim(
        FINE_TUNE,
        r"with the backbone frozen reached ([\d.]+), and with all weights ([\d.]+)\.",
        lambda: [f"{fine_tuned('trained_112')[name]:.2f}" for name in ("frozen", "tuned")],
    ),
    Claim(
        FINE_TUNE,
        r"At (\d+) pixels with (\S+) and (\S+) it changed nothing [^(]* was ([\d.]+) and then "
        r"([\d.]+) \((\S+) to ([\d.]+)\)",
        lambda: [
            *(f"{fine_tuned('fit_224')['settings'][name]:g}" for name in RATES),
            *(f"{fine_tuned('fit_224')[name]:.2f}" for name in ("frozen", "tuned", "low", "high")),
        ],
    ),
    Claim(
        FIT,
        r"(\d+) attributes and (\S+) x (\S+) embeddings\. On two cores headstrip "
        r"took (\d+) s .* scikit-learn took (\S+) times as long, extrapolated from "
        r"(\d+) attributes",
        fit_row,
    ),
    Claim(
        COMPARING,
        r"In (\d+) comparisons of two copies .*, (\d+) declared a winner, (\d+) %",
        same_backbone,
    ),
    Claim(
        COMPARING,
        r"The table has (\d+) pictures",
        lambda: [str(measured("compare")["stamps"]["images"])],
    ),
    *(
        Claim(
            COMPARING,
            rf"\| {words(one['name'])} \| (\S+) \| (\S+) to (\S+) \| ([^|]*) \|",
            lambda one=one: [*points(one["score"]), one.get("verdict", "control")],
        )
        for kind in ("backbones", "controls")
        for one in json.loads(text_of("benchmarks/compare.json"))["stamps"][kind]
    ),
]

# Numbers without a table: the document, a pattern and the reason. A new number needs a claim
# above, or a reason here.
EXPLAINED = [
    (README, r"about 0\.1 s for a ViT-B", "compared below"),
    (EMBED, r"1,024 rows", "a constant of headstrip.embed.parallelism"),
    (RUNS, r"1,024 rows", "a constant of headstrip.embed.parallelism"),
    (RUNS, r"over 10,000\b", "the smaller run of the claim above"),
    (RUNS, r"0\.99998", "measured on 15 photographs; no table is committed"),
    (EMBED, r"first 2,000 images", "a constant of headstrip.embed.profile"),
    (ENGINES, r"Of those within 0\.999", "the tolerance"),
    (IMAGES, r"89,478,485", "Pillow's default"),
    (IMAGES, r"^\|.*\|$", "the rows are compared by tests/embed/test_hostile.py"),
    (IMAGES, r"So 0\.999 holds", "the tolerance of engines.md"),
    (IMAGES, r"at most 10,000 pages of a TIFF", "a constant of headstrip.images.tiff"),
    (
        REPRODUCE,
        r"numbers up to 100,000|may have 4 times|side of an image 16,384",
        "constants of headstrip.encoder.bounds",
    ),
    (SOURCES, r"^\|.*\|$", "the rows are compared by tests/embed/sources/test_hostile_rows.py"),
    (SOURCES, r"16 MiB of a Parquet", "a constant of headstrip.embed.sources.parquet"),
    (SEARCH, r"2 MiB at a time|some 50 MB", "a block's size, and Python's own memory"),
    (USE_TIMM, r"119 architectures", "counted over timm 1.0.31 by building each"),
    (LITE_README, r"\d\d MB", "sizes of others' files"),
    (FIT, r"holds out 20 %|20 % of the others", "defaults of headstrip.attributes.fit"),
    (FIT, r"1,000,000 embeddings|1\.9 GiB at|2\.9 GiB", "measured once; no table is committed"),
    (FIT, r"as 256 MiB hold", "a constant of headstrip.attributes.streaming"),
    (FIT, r"95 % interval", "a constant of headstrip.attributes.measures"),
    (COMPARE, r"95 % interval", "a constant of headstrip.attributes.measures"),
    (COMPARING, r"95 % interval", "a constant of headstrip.attributes.measures"),
    (COMPARING, r"correlation above 0\.995", "a constant of headstrip.compare.pixels"),
    (COMPARING, r"20 % of the training part", "a constant of headstrip.compare.probe"),
    (COMPARING, r"uses\s+10,000, stratified", "a constant of headstrip.compare.probe"),
    (COMPARING, r"1,000 bootstrap samples", "a constant of headstrip.compare.scoring"),
    (COMPARING, r"test gives 0\.125", "2 / 16, as tests/compare/test_verdicts.py compares"),
    (
        COMPARING,
        r"at 5 % a power of 80 %|the 5 % are divided",
        "constants of headstrip.compare.verdicts",
    ),
    (
        COMPARING,
        r"backbones on 100,000 images|Embeddings of 4,096 numbers",
        "measured once; no table is committed",
    ),
]

_UNITS = (
    r"(?:times|ms|s|seconds?|minutes?|hours?|[kMGT]i?B|images/s|architectures|images a second)\b|%"
)
NUMBER = re.compile(
    r"(?<![\w.,-])(?:"
    r"(?:all|All) \d[\d,]*\b(?!\.)"
    r"|\d{1,3}(?:,\d{3})+\b"
    rf"|\d+(?:\.\d+)?[ -](?:{_UNITS})"
    r"|\d+\.\d{3,}\b"
    r"|\d+ of (?:torchvision|timm)'s"
    r")"
)
# A limit is a property of the code, not a measurement.
LIMIT = re.compile(
    r"(?:at most|up to|longer than|more than|less than|within|below|after|or more)\s+(?:about )?$"
)
NO_PROSE = re.compile(
    r"^```.*?^```$|<!-- (tools/\S+) -->.*?<!-- end of the table -->|`[^`\n]*`",
    re.MULTILINE | re.DOTALL,
)


def blanked(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def measured_in(text: str) -> list[re.Match[str]]:
    """Return the numbers in the prose of a document that look measured."""
    prose = NO_PROSE.sub(blanked, text)
    return [one for one in NUMBER.finditer(prose) if not LIMIT.search(prose[: one.start()])]


def spans(document: str, patterns: list[str], text: str) -> list[tuple[int, int]]:
    return [m.span() for one in patterns for m in re.finditer(one, text, re.MULTILINE)]


@pytest.mark.parametrize(
    "claim", CLAIMS, ids=lambda claim: f"{claim.document}-{claim.pattern[:30]}"
)
def test_a_number_matches_the_committed_tables(claim: Claim) -> None:
    found = re.search(claim.pattern.replace(" ", r"\s+"), text_of(claim.document))
    assert found, f"{claim.document} no longer says {claim.pattern!r}"
    assert list(found.groups()) == claim.numbers()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_number_that_looks_measured_is_computed_or_explained(document: str) -> None:
    text = text_of(document)
    known = [one.pattern.replace(" ", r"\s+") for one in CLAIMS if one.document == document]
    known += [pattern for other, pattern, _ in EXPLAINED if other == document]
    covered = spans(document, known, text)
    unknown = [
        f"{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for match in measured_in(text)
        if not any(start <= match.start() and match.end() <= end for start, end in covered)
    ]
    assert not unknown, f"{document} has numbers that no claim in {__name__} computes: {unknown}"


@pytest.mark.parametrize(("document", "pattern", "why"), EXPLAINED)
def test_every_explained_number_is_in_its_document(document: str, pattern: str, why: str) -> None:
    assert re.search(pattern, text_of(document), re.MULTILINE), why


def test_the_readme_states_the_measured_time_to_build_a_vit_b() -> None:
    seconds = measured("build")["architectures"]["vit_b_16"]["ways"]["headstrip"]["build_s"]
    assert f"about {seconds:.1f} s for a ViT-B" in text_of(README)


@pytest.mark.parametrize("document", ["builds.md", "timm-proofs.md"])
def test_the_sums_above_a_table_match_its_rows(document: str) -> None:
    head = re.findall(
        r"^\| ([\w-]+) \| (\d+) \| (\d+) \| (\d+) \|$",
        text_of(f"docs/reference/{document}"),
        re.MULTILINE,
    )
    counts = proofs(document)
    outcomes = ("yes", "no", "not run")
    assert {kind: [int(one) for one in row] for kind, *row in head} == {
        kind: [counts[kind, outcome] for outcome in outcomes] for kind, _ in counts
    }


def test_the_stated_difference_in_memory_matches_its_table() -> None:
    assert f"The difference is {soak_difference()} MiB" in text_of(MEMORY)


@pytest.mark.parametrize(
    ("sentence", "numbers"),
    [
        ("It holds for all 1,265 of them, twice.", ["all 1,265"]),
        ("It is 2.5 times as fast, and saves 40 % of 3 GiB.", ["2.5 times", "40 %", "3 GiB"]),
        ("It takes 12 ms, 30 s or 14.2 images/s.", ["12 ms", "30 s", "14.2 images/s"]),
        ("The least cosine is 0.99913.", ["0.99913"]),
        ("Proven for 88 of torchvision's networks.", ["88 of torchvision's"]),
        ("Wait at most 10 s for `1,000` images of 224 x 224 with torch 2.10.", []),
    ],
)
def test_numbers_that_look_measured_are_found(sentence: str, numbers: list[str]) -> None:
    assert [match[0] for match in measured_in(sentence)] == numbers
