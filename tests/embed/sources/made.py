"""Helpers for the tests of sources: read a source, and write archives and tables of images."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headstrip import ImageError
from headstrip.embed.sources import Source, source_of

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def contents(source: Source | str | Path, **options: Any) -> dict[str, bytes | str]:
    """Return the bytes of each image by its path, or the reason why it cannot be read."""
    if not isinstance(source, Source):
        source = source_of(source, **options)
    items = list(source.items())
    assert len({item.path for item in items}) == len(items)
    # A worker gets the reader in a pickle.
    reader = pickle.loads(pickle.dumps(source.reader()))
    found: dict[str, bytes | str] = {}
    for item in items:
        try:
            found[item.path] = reader.read(item)
        except ImageError as error:
            found[item.path] = str(error)
    return found


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_tar(path: Path, files: Mapping[str, bytes], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in files.items():
            add(archive, name, content)
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def write_images(path: Path, images: Iterable[bytes | None], **options: Any) -> Path:
    """Write a Parquet file as Hugging Face's datasets do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(image_table(images), path, **options)
    return path


def image_table(images: Iterable[bytes | None]) -> pa.Table:
    cells = [None if image is None else {"bytes": image, "path": "a.jpg"} for image in images]
    return pa.table({"image": pa.array(cells, IMAGE), "label": list(range(len(cells)))})


def save_to_disk(folder: Path, files: Mapping[str, list[bytes | None]]) -> Path:
    """Write a dataset as ``datasets.Dataset.save_to_disk`` lays it out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, images in files.items():
        table = image_table(images)
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as w,
        ):
            w.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in files], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder
