r"""Make text from outside safe to print.

File names, labels, catalogs, plugins, servers and errors of other libraries can contain characters
that move a terminal's cursor, change its title, or reverse the order of the text after them.
"""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Replace every invisible character by an escape sequence in ASCII.

    The function replaces control characters, newlines, characters that change the direction of
    text, and bytes of file names that are not UTF-8. It keeps all other text, so calling it twice
    gives the same result.

    Args:
        text: Any text, such as the name of a file.

    Returns:
        The same text on one line, such as ``\x1b[2J`` with a backslash for the escape character.
    """
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def printable_lines(text: str) -> str:
    """Escape text like ``printable``, but keep newlines."""
    return "\n".join(map(printable, text.split("\n")))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        # Python uses this range for bytes of a file name that are not UTF-8.
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
