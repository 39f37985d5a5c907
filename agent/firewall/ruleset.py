"""The table that refuses the packets of lost nodes: a pure function from whom to refuse to the text that nft reads.

Packets are judged one by one, whatever connection they belong to: what was connected before is cut off, too. They are judged before any
translation of addresses, when they come in, and after it, when they go out: so what containers of this node get and send is judged by the
ports that the other node sees. A port is admitted for connections to it, in either direction; a connection *from* such a port is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from gestalt.model import Refused

Address = IPv4Address | IPv6Address

FAMILY, TABLE = "inet", "gestalt"

_HEAD = f"table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"  # the first line, so that there is one to delete

_RULES = """\
    set refused4 { type ipv4_addr; %(refused4)s}
    set refused6 { type ipv6_addr; %(refused6)s}
    set admitted4 { type ipv4_addr . inet_service; %(admitted4)s}
    set admitted6 { type ipv6_addr . inet_service; %(admitted6)s}
    chain incoming {
        type filter hook prerouting priority raw; policy accept;
        ip saddr . tcp dport @admitted4 accept
        ip saddr . tcp sport @admitted4 tcp flags & (syn | ack) != syn accept
        ip saddr @refused4 counter drop
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        ip6 saddr . tcp dport @admitted6 accept
        ip6 saddr . tcp sport @admitted6 tcp flags & (syn | ack) != syn accept
        ip6 saddr @refused6 counter drop
    }
    chain outgoing {
        type filter hook postrouting priority 300; policy accept;
        ip daddr . tcp dport @admitted4 accept
        ip daddr . tcp sport @admitted4 tcp flags & (syn | ack) != syn accept
        ip daddr @refused4 counter drop
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        ip6 daddr . tcp dport @admitted6 accept
        ip6 daddr . tcp sport @admitted6 tcp flags & (syn | ack) != syn accept
        ip6 daddr @refused6 counter drop
    }
"""


def judge(refused: Mapping[str, Refused], own: str) -> tuple[dict[str, Refused], dict[str, str]]:
    """Return whom this node can refuse, and why not the others, both by node id. `own`: the address of this node."""
    good: dict[str, Refused] = {}
    bad: dict[str, str] = {}
    for node, item in sorted(refused.items()):
        if why := _objection(item.address, own):
            bad[node] = why
        else:
            good[node] = item
    return good, bad


def _objection(text: str, own: str) -> str:
    try:
        address = _address(text)
    except ValueError:
        return f"{text!r} is no address"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return f"{text!r} is an address of one link only"
    if address.is_loopback or address.is_unspecified or address.is_multicast or address == _address(own):
        return f"{text} is an address of this node itself, or of no node"
    return ""


def render(refused: Mapping[str, Refused]) -> str:
    """Return the commands that replace the table by one that refuses these nodes, all at once. None: the table is removed.

    Each must have passed `judge`.
    """
    if not refused:
        return _HEAD
    first = {_address(item.address): f"{node} {item.incarnation}" for node, item in sorted(refused.items(), reverse=True)}
    ports = {(_address(item.address), port) for item in refused.values() for port in item.admitted_ports}
    sets = {}
    for version in (4, 6):
        ours = sorted((address for address in first if address.version == version), key=int)
        sets[f"refused{version}"] = _elements(f'{address} comment "{first[address]}"' for address in ours)
        admitted = sorted((int(address), port, address) for address, port in ports if address.version == version)
        sets[f"admitted{version}"] = _elements(f"{address} . {port}" for _, port, address in admitted)
    return f"{_HEAD}table {FAMILY} {TABLE} {{\n{_RULES % sets}}}\n"


def _elements(items: Iterable[str]) -> str:
    text = ", ".join(items)
    return f"elements = {{ {text} }} " if text else ""


def _address(text: str) -> Address:
    """Return an address; one of version 4 in the clothes of version 6 is what it is on the wire."""
    address = ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
