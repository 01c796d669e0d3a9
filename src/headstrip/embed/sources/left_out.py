"""What a source leaves out: files with other suffixes, and links to folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

from headstrip.embed.sources.names import HEIF_SUFFIXES, heif_is_installed

LINKS = "links to folders"
"""What links to folders are counted as."""

Note = Callable[[str], None]
"""Called with the name of each file that is left out; that of a linked folder ends in a slash."""

_SUFFIXES_WITHOUT_PICTURES = """
.aae .arrow .avi .cfg .ckpt .cls .css .csv .db .doc .docx .ds_store .feather .flac .gitattributes
.gitignore .gitkeep .gz .h5 .hdf5 .htm .html .ini .ipynb .js .json .jsonl .log .m4v .md .md5 .mkv
.mov .mp3 .mp4 .ndjson .npy .npz .ods .onnx .parquet .pdf .pkl .ppt .pptx .pt .pth .py .rar .rst
.safetensors .sh .sha256 .sqlite .srt .tar .toml .tsv .txt .wav .webm .xls .xlsx .xml .xmp .yaml
.yml .zip .7z
"""
NO_PICTURES = frozenset(_SUFFIXES_WITHOUT_PICTURES.split())
"""Suffixes of files that hold no picture. They are counted, and ``sentence`` omits them."""

_SUFFIX = re.compile(r"[^.].*(\.[a-z0-9_+-]{1,14})|(\.[a-z0-9_+-]{1,14})", re.DOTALL)
_MOST_KINDS = 1000
_SHOWN = 8


class LeftOut:
    """How many files were left out, by suffix, and how many links to folders."""

    def __init__(self) -> None:
        """Start with none."""
        self._counts: Counter[str] = Counter()

    def note(self, name: str) -> None:
        """Count a file by its suffix, or a link to a folder; see ``Note``."""
        if name.endswith("/"):
            self._counts[LINKS] += 1
            return
        match = _SUFFIX.fullmatch(name.rpartition("/")[2].lower())
        suffix = (match[1] or match[2]) if match else ""
        if suffix not in self._counts and len(self._counts) >= _MOST_KINDS:
            suffix = ""
        self._counts[suffix] += 1

    def counts(self) -> dict[str, int]:
        """Return the number by lower-case suffix (``""`` for none) and kind, largest first."""
        return dict(sorted(self._counts.items(), key=lambda pair: (-pair[1], pair[0])))


def ignore(name: str) -> None:
    """Do not count a file that is left out."""


def sentence(counts: Mapping[str, int]) -> str | None:
    """Return which files were left out, or None where none of them can be a picture.

    Example:
        >>> sentence({".ico": 2, "": 1, ".txt": 9})
        '3 files were left out: 2 .ico, 1 without a suffix. Images are known by their suffix.'
    """
    sentences = [_of_files(counts), _of_links(counts.get(LINKS, 0))]
    return " ".join(filter(None, sentences)) or None


def _of_links(count: int) -> str:
    if not count:
        return ""
    return (
        f"{count} {'links to folders were' if count > 1 else 'link to a folder was'} not followed. "
        "To follow one, name it in a pattern, such as 'photos/{**,link/**}'."
    )


def _of_files(counts: Mapping[str, int]) -> str:
    shown = {kind: n for kind, n in counts.items() if kind not in NO_PICTURES and kind != LINKS}
    if not shown:
        return ""
    total = sum(shown.values())
    kinds = [f"{count} {suffix or 'without a suffix'}" for suffix, count in shown.items()]
    if len(kinds) > _SHOWN:
        kinds[_SHOWN:] = [f"and files of {len(kinds) - _SHOWN} more kinds"]
    text = (
        f"{total} {'files were' if total > 1 else 'file was'} left out: {', '.join(kinds)}. "
        "Images are known by their suffix."
    )
    if HEIF_SUFFIXES & shown.keys() and not heif_is_installed():
        text += " Run pip install 'headstrip[heif]' to read .heic and .heif."
    return text
