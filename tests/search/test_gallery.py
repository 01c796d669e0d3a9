"""The page of neighbours: no name and no content of a file changes its structure."""

from __future__ import annotations

import base64
import io
import os
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import pixels
from tests.embed.pages import BROWSER, Page, browse

from headstrip import HeadstripError
from headstrip.embed.sources import source_of, stored_path
from headstrip.html.pictures import Picture
from headstrip.html.thumbnails import picture_in, pictures_of, thumbnail
from headstrip.search.gallery import gallery, write_gallery

RED = Image.new("RGB", (300, 200), (250, 10, 20))
HOSTILE = [
    '"><img src=x onerror=document.title=1>',
    "javascript:alert(1)//.png",
    "</figcaption></figure></section><script>document.title=1</script>",
    "line\nbreak\r.png",
    "\u202egnp.exe",
    "\u2066\u200f\u061c.png",
    "\x1b[2J\x00\x07.png",
    "' onload='x",
    "&lt;b&gt;&amp;&#60;",
    "<!--",
    "]]><![CDATA[<b>",
    "<style>@import url(//x)</style>",
    "{policy}%s{0}",
    "\\xff\\x5c.png",
    "\udcff\udc80.png",
    "\u2028\u2029\ufeff\u00ad",
    "שלום.png",
    "e\u0301" * 40 + "\U0001f600",
]


def page_of(name: str, reason: str | None = None) -> str:
    row = [Picture(name, name, RED), Picture(name, "0.5000", reason or RED)]
    return gallery(name, [row, row])


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_adds_an_element_or_an_attribute(name: str) -> None:
    plain, hostile = Page(page_of("plain.png")), Page(page_of(name))
    assert hostile.elements == plain.elements
    assert len(hostile.text) == len(plain.text)
    assert Page(page_of("plain.png", name)).elements == Page(page_of("plain.png", "x")).elements


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_page_is_ascii_and_has_no_invisible_characters(name: str) -> None:
    page = page_of(name)
    assert page.isascii()
    assert not {c for c in page if not c.isprintable()} - {"\n"}
    text = "".join(Page(page).text)
    assert not {c for c in text if not c.isprintable()} - {"\n"}


def test_invisible_characters_of_a_name_are_shown_escaped() -> None:
    names = ["a\nb", "\u202egnp.exe", "\x00", "\udcff", "שלום", "<b>", stored_path("a\\b")]
    page = Page(gallery("x", [[Picture(name, "", RED) for name in names]]))
    shown = [text for text in page.text if text.strip()]
    assert shown[-len(names) :] == [
        "a\\nb",
        "\\u202egnp.exe",
        "\\x00",
        "\\xff",
        "שלום",
        "<b>",
        "a\\b",
    ]


def test_the_page_fetches_nothing_and_runs_no_script() -> None:
    elements = Page(page_of('"><script src=//x>')).elements
    assert {tag for tag, _ in elements} == {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "bdi",
        "section",
        "figure",
        "img",
        "figcaption",
        "b",
    }
    (policy,) = [
        dict(attributes)["content"]
        for _, attributes in elements
        if ("http-equiv", "Content-Security-Policy") in attributes
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    addresses = [dict(attributes).get("src") for tag, attributes in elements if tag == "img"]
    assert all(str(address).startswith("data:image/jpeg;base64,") for address in addresses)
    names = {name for _, attributes in elements for name, _ in attributes}
    assert names == {"lang", "charset", "http-equiv", "content", "name", "src", "alt"}


def shown(page: str) -> list[Image.Image]:
    addresses = [dict(a)["src"] for tag, a in Page(page).elements if tag == "img"]
    data = [base64.b64decode(str(address).partition(",")[2]) for address in addresses]
    return [Image.open(io.BytesIO(one)) for one in data]


def test_a_picture_is_a_small_copy_without_the_metadata_of_its_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "my secret place"
    RED.save(tmp_path / "a.jpg", exif=exif, comment=b"my secret comment", icc_profile=b"secret" * 9)
    small = picture_in(tmp_path, "a.jpg")
    assert isinstance(small, Image.Image)
    (picture,) = shown(gallery("x", [[Picture("a.jpg", "", small)]]))
    assert picture.size == (224, 149)
    assert not {"exif", "comment", "icc_profile"} & set(picture.info)
    red = np.asarray(picture.convert("RGB"), int).mean(axis=(0, 1))
    assert np.abs(red - (250, 10, 20)).max() < 4


def test_the_picture_of_the_caller_is_not_changed() -> None:
    picture = RED.copy()
    gallery("x", [[Picture("a", "", picture)]])
    assert (picture.size, picture.tobytes()) == (RED.size, RED.tobytes())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_any_mode_is_shown(mode: str) -> None:
    colour = Image.fromarray(pixels(0))
    assert thumbnail(colour.convert("P").convert(mode) if mode == "PA" else colour.convert(mode))


def test_16_bit_pictures_are_shown_and_an_unknown_range_gives_a_reason(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 65535 // 2, np.uint16)).save(tmp_path / "wide.png")
    wide = picture_in(tmp_path, "wide.png")
    assert isinstance(wide, Image.Image)
    assert wide.getpixel((0, 0)) == (127, 127, 127)
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    assert "whose range is not known" in str(picture_in(tmp_path, "float.tif"))


@pytest.mark.parametrize("size", [(1, 1), (9000, 1), (1, 9000)])
def test_a_thumbnail_of_a_thin_strip_keeps_at_least_one_pixel(size: tuple[int, int]) -> None:
    small = thumbnail(Image.new("RGB", size))
    assert small.size == (min(size[0], 224), min(size[1], 224))


def test_a_path_that_leads_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    RED.save(tmp_path / "secret.png")
    outside = [
        "../secret.png",
        str(tmp_path / "secret.png"),
        r"\x2e\x2e/secret.png",
        r"\x2e.\x2fsecret.png",
        "x/../../secret.png",
    ]
    for path in outside:
        assert picture_in(tmp_path / "root", path) == "its path leads out of the folder."
    RED.save(tmp_path / "root" / "..a.png")
    assert isinstance(picture_in(tmp_path / "root", "..a.png"), Image.Image)


def test_a_missing_or_damaged_picture_gives_a_reason(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"not a picture")
    assert picture_in(tmp_path, "none.png") == "No such file or directory."
    assert "none of the formats" in str(picture_in(tmp_path, "torn.png"))
    assert "null" in str(picture_in(tmp_path, "a\0.png"))


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_picture_with_a_name_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\\x41\n.png")
    RED.save(tmp_path / name)
    assert isinstance(picture_in(tmp_path, stored_path(name)), Image.Image)


def test_pictures_of_an_archive_are_found_by_listing_it(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        RED.save(tmp_path / name)
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.add(tmp_path / name, name)
    source = source_of(tmp_path / "photos.tar")
    names = sorted(item.path for item in source.items())
    found = pictures_of(source, tmp_path / "photos.tar", [names[1], "none.png"])
    assert isinstance(found.pop(names[1]), Image.Image)
    assert found == {"none.png": "it is not in the source."}


def test_pictures_of_a_folder_are_opened_by_their_paths(tmp_path: Path) -> None:
    RED.save(tmp_path / "a.png")
    found = pictures_of(source_of(tmp_path), tmp_path, ["a.png", "none.png"])
    assert isinstance(found.pop("a.png"), Image.Image)
    assert found == {"none.png": "No such file or directory."}


def test_a_page_that_cannot_be_written_gives_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match="could not be written"):
        write_gallery(tmp_path / "none" / "page.html", "x", [])


needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome here")


@needs_browser
def test_in_a_browser_no_name_adds_an_element_or_an_attribute(tmp_path: Path) -> None:
    def dumped(names: list[str]) -> Page:
        rows = [[Picture(name, name, RED), Picture(name, name, name)] for name in names]
        write_gallery(tmp_path / "page.html", "x", rows)
        return Page(browse(tmp_path / "page.html", tmp_path / "profile", "--dump-dom"))

    hostile, plain = dumped(HOSTILE), dumped(["plain.png"] * len(HOSTILE))
    assert hostile.elements == plain.elements
    assert plain.elements.count(("figure", ())) == 2 * len(HOSTILE)
    assert "Nearest images" in hostile.text


@needs_browser
def test_a_browser_shows_the_pictures_and_contacts_no_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        names = [f'"><img src={address}>', f"<link rel=stylesheet href={address}>", address]
        rows = [[Picture(name, "", RED) for name in names]]
        write_gallery(tmp_path / "page.html", address, rows)
        screen = tmp_path / "screen.png"
        browse(
            tmp_path / "page.html",
            tmp_path / "profile",
            f"--screenshot={screen}",
            "--window-size=1000,600",
        )
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    pixels = np.asarray(Image.open(screen).convert("RGB"), int)
    red = (np.abs(pixels - (250, 10, 20)).max(axis=-1) < 12).sum()
    # The style is applied: three pictures of 224 by 149, side by side.
    assert red == pytest.approx(3 * 224 * 149, rel=0.05)
