"""Which addresses headstrip may read. Addresses in a list or from a server are untrusted data."""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from headstrip.errors import HeadstripError

SCHEMES = frozenset({"abfs", "abfss", "az", "gs", "hf", "http", "https", "s3"})
"""The schemes that may be read without ``allow_schemes``."""

HTTP = frozenset({"http", "https"})

_ON_THIS_MACHINE = frozenset({"file", "local", "memory"})
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):")
_NAME = re.compile(r"[a-z][a-z0-9+.-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_HOST_IN_BRACKETS = re.compile(r"^[^/?#\[\]]*\[[0-9A-Za-z:.%_-]*\]")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PORTS = {"http": 80, "https": 443}
_CHAIN = "headstrip does not read chained urls ('::'). Write %3A%3A where '::' is part of a name."


@dataclass(frozen=True)
class Access:
    """Which addresses may be read.

    Attributes:
        schemes: Schemes that the user allowed beyond ``SCHEMES``, in lower case.
        private: Whether http may lead to addresses that are not public.
        offline: Whether addresses of a network are refused.
        home: Scheme, host and port of the address that the user typed as the source, which may be
            private; empty for a source on this machine.
    """

    schemes: frozenset[str] = frozenset()
    private: bool = False
    offline: bool = False
    home: str = ""

    @classmethod
    def of(
        cls,
        source: str,
        schemes: Iterable[str] = (),
        *,
        private: bool = False,
        offline: bool = False,
    ) -> Access:
        """Check what a user allowed for a source, given as it was typed; see the attributes.

        Raises:
            HeadstripError: A scheme is not a valid name.
        """
        names = [schemes] if isinstance(schemes, str) else list(schemes)
        lower = [str(name).lower().removesuffix("://") for name in names]
        for given, name in zip(names, lower, strict=True):
            if not _NAME.fullmatch(name):
                raise HeadstripError(
                    f"{given!r} cannot be the scheme of an address. Pass a scheme such as 'ftp' to "
                    "--allow-scheme (allow_schemes=)."
                )
        home = origin(source) if scheme_of(source) in HTTP else ""
        return cls(frozenset(lower), private, offline, home)

    def describe(self) -> dict[str, Any]:
        """Return what the user allowed, as plain JSON values.

        A later run that allows more reads the rows again that this one refused.
        """
        allowed = {"allow_schemes": sorted(self.schemes), "allow_private": self.private}
        return {name: value for name, value in allowed.items() if value}


def is_url(text: str) -> bool:
    """Whether a text names a file by a scheme, as in ``s3://bucket/photo.jpg``."""
    return _URL.match(text) is not None


def scheme_of(url: str) -> str:
    """Return the scheme of a url in lower case, empty for a path."""
    return url.partition("://")[0].lower() if is_url(url) else ""


def refusal(url: str, access: Access, *, is_row: bool = False) -> str | None:
    """Return why a url may not be read, or None where it may. Opens and resolves nothing.

    Args:
        url: The address.
        access: What is allowed.
        is_row: Whether it is a row of a list, whose text goes into the results.

    Example:
        >>> refusal("https://example.org/cat.jpg", Access())
        >>> refusal("ftp://example.org/cat.jpg", Access())[:41]
        "headstrip does not read 'ftp:' addresses."
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if _CONTROL.search(url):
        return "its address has a control character. Take it out of the address."
    if "::" in _HOST_IN_BRACKETS.sub("", rest, count=1):
        return _CHAIN
    if scheme not in SCHEMES | access.schemes:
        return unknown_scheme(scheme)
    if scheme not in _ON_THIS_MACHINE and (setting := _forbidding(scheme, access)):
        return (
            f"{setting} forbids reading addresses of a network. Unset it, or copy the file to "
            "this machine."
        )
    return _http_refusal(url, access, is_row) if scheme in HTTP else None


def local_refusal(path: str) -> str | None:
    """Return why a missing path is not one that a file could have, or None.

    Example:
        >>> local_refusal("in/cat.jpg")
        >>> local_refusal("zip:a.jpg")[:41]
        "headstrip does not read 'zip:' addresses."
    """
    if "::" in path:
        return _CHAIN
    match = _SCHEME.match(path)
    scheme = match[1].lower() if match else ""
    return unknown_scheme(scheme) if scheme and scheme not in SCHEMES else None


def unknown_scheme(scheme: str) -> str:
    """Return the sentences about a scheme that is not allowed."""
    return (
        f"headstrip does not read '{scheme}:' addresses. Copy the file to this machine; or, where "
        f"you trust every address of the source, pass --allow-scheme {scheme} (allow_schemes=)."
    )


def private_refusal(host: str) -> str:
    """Return the sentence about an address that is not public."""
    return (
        f"it leads to {host}, which is not a public address. Pass --allow-private "
        "(allow_private=True) to read from there"
    )


def origin(url: str) -> str:
    """Return the scheme, host and port of an http url, empty where they are malformed."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return ""
    return f"{parts.scheme}://{_host(parts)}:{port}"


def is_private(address: str) -> bool:
    """Whether an IP address is not a public one.

    An IPv6 address that stands for an IPv4 address counts as that one.

    Example:
        >>> is_private("::ffff:10.0.0.1"), is_private("1.1.1.1")
        (True, False)
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        found = _inner(found) or found
    return not found.is_global or found.is_multicast or found.is_reserved or found.is_unspecified


def literal_address(host: str) -> str | None:
    """Return the IP address that a host name spells, None for a name that DNS has to resolve.

    Example:
        >>> literal_address("0x7f000001"), literal_address("example.org")
        ('127.0.0.1', None)
    """
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        # Systems accept 127.1, 0x7f000001 and 2130706433 as addresses too.
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _http_refusal(url: str, access: Access, is_row: bool) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = _host(parts), parts.port
    except ValueError:
        return "its host or its port cannot be read. Check the address."
    if not host:
        return "its address names no host. Check the address."
    if is_row and "@" in parts.netloc:
        return (
            "its address has a user name or a password, which would be written into the results. "
            "Take it out of the address."
        )
    if access.private or origin(url) == access.home:
        return None
    address = literal_address(host)
    if address is not None and is_private(address):
        return f"{private_refusal(host)}."
    return None


def _host(parts: SplitResult) -> str:
    # Clients map digits and dots of other scripts to ASCII ones.
    return unicodedata.normalize("NFKC", parts.hostname or "").lower()


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


def _forbidding(scheme: str, access: Access) -> str | None:
    if access.offline:
        return "offline=True"
    # Each process that decodes imports this module, and most of them read no address.
    from headstrip.weights import hub

    return hub.hub_offline() if scheme == "hf" else hub.offline()
