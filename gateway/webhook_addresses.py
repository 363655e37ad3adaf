"""Which addresses notices may go to: what an account may set, and what may be connected to."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from gateway.accounts import URL_LENGTH_MAX
from gateway.errors import BadWebhookUrl, WebhookNotHttps, WebhookUrlTooLong
from gateway.settings import WebhooksSettings

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
ISATAP = (0x00005EFE, 0x02005EFE)
"""The third quarter of an address in any network that tunnels to the IPv4 address in the fourth (RFC 5214)."""

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
NEVER_PUBLIC = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's metadata server, though in public address space
    ipaddress.ip_network("192.0.0.0/24"),  # protocol assignments; Python 3.11 knows only parts of it as private
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4 relays, which lead anywhere
    ipaddress.ip_network("3fff::/20"),  # documentation, newer than Python 3.11
)

_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")
_NEVER_UNESCAPED = re.compile(r"""[<>"^`{|}]""")
"""What no URL may hold as it is (RFC 3986): dialects show an address back, and a browser may take it for HTML."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(url: str, settings: WebhooksSettings) -> None:
    """What an account may set. Raises WebhookUrlTooLong, BadWebhookUrl, WebhookNotHttps.

    A courtesy to whoever sets it: what a name leads to is known, and refused, only when a connection is made.
    """
    check_destination(url, settings)
    if _NEVER_UNESCAPED.search(url):
        raise BadWebhookUrl


def check_destination(url: str, settings: WebhooksSettings) -> None:
    """What may be sent to: also addresses with characters that could be set before. Raises as `check_url`."""
    host = _host(parsed_url(url, settings))
    if not settings.allow_private_addresses and _is_plainly_private(host):
        raise BadWebhookUrl


def is_public(address: str) -> bool:
    """Whether an IP address lies in the public internet; one that wraps an IPv4 address is judged by that."""
    return _is_public(ipaddress.ip_address(address))


def parsed_url(url: str, settings: WebhooksSettings) -> SplitResult:
    """A URL of acceptable form and scheme. Raises as `check_url`."""
    if len(url) > URL_LENGTH_MAX:
        raise WebhookUrlTooLong
    parts = _split(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and settings.allow_http):
        raise WebhookNotHttps
    return parts


def _split(url: str) -> SplitResult:
    if _NOT_IN_URL.search(url):
        raise BadWebhookUrl
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:
        raise BadWebhookUrl from None
    if not is_whole or "@" in parts.netloc:
        raise BadWebhookUrl
    return parts


def _host(parts: SplitResult) -> str:
    """The host as a resolver would be asked for it: full-width digits and dots, too, are those they stand for."""
    host = parts.hostname or ""
    if ":" in host:
        return host
    if "[" in parts.netloc:
        raise BadWebhookUrl
    try:
        name = host.encode("idna").decode().lower()
    except UnicodeError:
        raise BadWebhookUrl from None
    if not _HOST_NAME.fullmatch(name):
        raise BadWebhookUrl
    return name.removesuffix(".")


def _is_plainly_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _literal(host)
    return address is not None and not _is_public(address)


def _literal(host: str) -> Address | None:
    """The address a host spells out; None for a name. Raises BadWebhookUrl on spellings that have no honest use."""
    if "%" in host:  # a zone: an interface of this machine
        raise BadWebhookUrl
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        if ":" in host or _is_odd_address(host):
            raise BadWebhookUrl from None
        return None


def _is_odd_address(host: str) -> bool:
    """Whether the C library, and so a resolver, takes a host for an address: `127.1`, `0x7f000001`, `017700000001`."""
    try:
        return bool(socket.inet_aton(host))
    except OSError:
        return False


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if inner := _embedded(address):
            return all(map(_is_public, inner))
        is_tunnel = (int(address) >> 32) & 0xFFFFFFFF in ISATAP
        if address not in GLOBAL_UNICAST or (is_tunnel and not _is_public(_last_quarter(address))):
            return False
    is_special = address.is_multicast or address.is_reserved or address.is_private or not address.is_global
    return not is_special and not any(address in network for network in NEVER_PUBLIC)


def _embedded(address: ipaddress.IPv6Address) -> Sequence[ipaddress.IPv4Address]:
    """The IPv4 addresses that a packet to this one ends up at; none for an address of its own."""
    if address in NAT64:
        return (_last_quarter(address),)
    single = address.ipv4_mapped or address.sixtofour
    return (single,) if single else address.teredo or ()


def _last_quarter(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
