"""Elements of pages: no text becomes an element, an attribute or an invisible character."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.embed.pages import Page

from headstrip.html.elements import element, joined, name
from headstrip.html.page import page


@given(st.text(max_size=40))
def test_no_text_adds_an_element_or_an_attribute(text: str) -> None:
    def shown(one: str) -> Page:
        return Page(page(one, element("p", one, name(one)), one, joined([one, one], ", ")))

    hostile, plain = shown(text), shown("plain")
    assert hostile.elements == plain.elements
    assert not {one for one in "".join(hostile.text) if not one.isprintable()} - {"\n"}


@given(st.text(max_size=40))
def test_the_value_of_an_attribute_cannot_add_attributes(text: str) -> None:
    ((tag, attributes),) = Page(element("p", title=text)).elements
    assert (tag, [key for key, _ in attributes]) == ("p", ["title"])


def test_markup_passed_as_a_plain_string_is_escaped() -> None:
    bold = element("b", "x")
    assert element("p", f"{bold}") == "<p>&lt;b&gt;x&lt;/b&gt;</p>"
    assert element("p", bold, None, class_="wide", stroke_width=2, id=None) == (
        '<p class="wide" stroke-width="2"><b>x</b></p>'
    )


def test_a_page_uses_the_width_of_the_device() -> None:
    elements = Page(page("x", style="p { color: red; }")).elements
    assert (
        "meta",
        (("name", "viewport"), ("content", "width=device-width, initial-scale=1")),
    ) in elements
