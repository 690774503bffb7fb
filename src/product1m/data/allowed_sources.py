"""Where a photo may come from. A product list must not make the pipeline read anything else.

By default: the data set itself, `s3://` addresses below it, and web servers with a public address.
A server's name is resolved here, and the connection goes to the address that was checked, so an
attacker gains nothing if the name resolves differently a moment later.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from product1m.errors import ConfigError, PhotoError
from product1m.storage.base import S3

SETTING = "ingestion.allowed_sources"
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20", "5f00::/16")
)
"""Networks without public hosts that Python's `is_global` lets pass: protocol assignments
(RFC 6890), relays (RFC 7526), a site's IPv6 addresses (RFC 3879), documentation, segment routing.
"""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class AllowedSources:
    """The places from which one data set may read photos.

    Args:
        entries: host names, IP addresses, networks such as `10.0.0.0/8`, `s3://` prefixes, and
            absolute folders that links in the data set may lead to.
        dataset: the data set's address.

    Raises ConfigError for an entry that is none of these.
    """

    def __init__(self, entries: Sequence[str], dataset: str = "") -> None:
        self._hosts: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._prefixes = [_as_folder(dataset)] if dataset.startswith(S3) else []
        self._folders: list[str] = []
        for entry in entries:
            self._add(entry.strip())

    def _add(self, entry: str) -> None:
        if entry.startswith(S3):
            self._prefixes.append(_as_folder(entry))
        elif entry.startswith(("/", "~")):
            self._folders.append(os.path.realpath(Path(entry).expanduser()))
        else:
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                if not _HOST.fullmatch(entry):
                    raise ConfigError(
                        f"{SETTING}: {entry!r} is neither a host, an IP address or network, an "
                        "s3:// prefix nor an absolute folder"
                    ) from None
                self._hosts.add(entry.lower())

    def addresses(self, host: str, port: int) -> list[str]:
        """The IP addresses of a host that may be connected to.

        Raises PhotoError if there is none, and OSError if the name is unknown.
        """
        host = host.strip("[]")
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        resolved = list(dict.fromkeys(str(entry[4][0]) for entry in answers))
        if host.lower().rstrip(".") in self._hosts:
            return resolved
        allowed = [address for address in resolved if self._allows(address)]
        if not allowed:
            shown = host if host in resolved else f"{host} ({', '.join(resolved)})"
            raise PhotoError(
                f"{shown} is not a public address; to read photos there add it to {SETTING}"
            )
        return allowed

    def check_s3(self, address: str) -> None:
        """Raise PhotoError unless an `s3://` address lies below an allowed prefix."""
        if not any(address.startswith(prefix) for prefix in self._prefixes):
            raise PhotoError(
                f"{address} is outside the data set; to read photos there add its prefix to "
                f"{SETTING}"
            )

    def check_file(self, root: Path, path: Path, kind: str = "photo") -> None:
        """Raise PhotoError if a link leads from `path` out of the data set at `root`.

        `kind` is what the error calls the file.
        """
        real = os.path.realpath(path)
        inside = (os.path.realpath(root), *self._folders)
        if not any(real == folder or real.startswith(f"{folder}/") for folder in inside):
            raise PhotoError(
                f"{kind} {path.relative_to(root)} is a link out of the data set, to {real}; copy "
                f"the file, or add its folder to {SETTING}"
            )

    def _allows(self, address: str) -> bool:
        ip = ipaddress.ip_address(address)
        return _is_public(ip) or any(
            candidate in network for candidate in (ip, _inner(ip)) for network in self._networks
        )


def _is_public(ip: IpAddress) -> bool:
    inner = _inner(ip)
    special = ip.is_multicast or ip.is_reserved or ip.is_unspecified or not ip.is_global
    special = special or any(ip in network for network in _NOT_PUBLIC)
    return not special if inner is ip else _is_public(inner)


def _inner(ip: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)


def _as_folder(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/"
