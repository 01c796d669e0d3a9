"""Run the guide to feature maps with real photographs, and write the pictures that it shows."""

from __future__ import annotations

import doctest
import os
import re
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data
from skimage.io import imsave

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "use-feature-maps.md"
PICTURES = ("anomaly.png", "grad-cam.png")
COLOURS = 128
"""Colours of a written picture, so that it is small."""


def main() -> None:
    """Run the page in a folder with the photographs of the tests, and keep its pictures."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, PAGE.name, 0)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("photos").mkdir()
        imsave("photos/cat.png", data.chelsea())
        imsave("photos/coffee.png", data.coffee())
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        if runner.run(examples).failed:
            raise SystemExit(1)
        for name in PICTURES:
            written = PAGE.with_name(name)
            with Image.open(name) as picture:
                picture.quantize(COLOURS).save(written, optimize=True)
            print(f"{written.relative_to(ROOT)}: {written.stat().st_size} bytes")


if __name__ == "__main__":
    main()
