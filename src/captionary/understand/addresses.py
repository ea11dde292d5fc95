"""Which internet addresses lead out, and which lead inside."""

from __future__ import annotations

import ipaddress
import socket

__all__ = ["Address", "is_public", "numeric"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_EMBEDDING_NETWORKS = tuple(
    (ipaddress.IPv6Network(network), shift)
    for network, shift in (("64:ff9b::/96", 0), ("2002::/16", 80), ("::/96", 0), ("::ffff:0:0:0/96", 0))
)
"""Networks of IPv6 that lead to the IPv4 address inside (NAT64, 6to4, compatible, translated), and its place."""


def is_public(address: Address) -> bool:
    """Whether an address belongs to the open internet, whichever way it is written.

    Not so: private, loopback, link-local (cloud metadata), shared, reserved and multicast addresses, and IPv6
    addresses that lead to one of these in IPv4.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or address.is_site_local:
            return False
        inner = address.ipv4_mapped
        for network, shift in _EMBEDDING_NETWORKS:
            if inner is None and address in network:
                inner = ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    )


def numeric(host: str) -> ipaddress.IPv4Address | None:
    """The address that the system would make of 2130706433, 0x7f.1 or 0177.0.0.1; None for a name."""
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
