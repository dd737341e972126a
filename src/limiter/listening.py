"""Where the server listens: from `HOST:PORT` to bound addresses, one server to a port.

What flows in: the text of the flag. What flows out: addresses as gRPC takes them, and whether all
of them can be reached from this machine alone.

What always holds: a port is never shared. gRPC's own default would let a second server listen on
the same port and get every other connection; here SO_REUSEPORT is off, and where a host name stands
for several addresses, each of them must be free.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from limiter import errors

__all__ = ["NO_PORT_SHARING", "Address", "bind", "bound_socket", "join", "parse", "resolve"]

# The channel option without which servers could share a port.
NO_PORT_SHARING: Final = ("grpc.so_reuseport", 0)

# The machine does not have such an address, though a name may stand for it.
_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class Address:
    """One address to listen on; `ip` is a literal, `port` may be 0 for any free one."""

    ip: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.ip).is_loopback

    def __str__(self) -> str:
        return join(self.ip, self.port)


def join(host: str, port: int) -> str:
    """`HOST:PORT`, with brackets where the host is an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(listen: str) -> tuple[str, int]:
    """The host and the port of `HOST:PORT` or `[IPV6]:PORT`. Raises InvalidArgument."""
    host, colon, port_text = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not port_text.isascii() or not port_text.isdigit():
        raise errors.InvalidArgument.for_field(
            "listen", f"must be HOST:PORT, such as 127.0.0.1:50051, not {listen!r}"
        )
    port = int(port_text) if len(port_text) <= 5 else 2**16
    if port >= 2**16:
        raise errors.InvalidArgument.for_field("listen", f"there is no port {port_text}")
    return host, port


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses that a host stands for. Raises FailedPrecondition if it stands for none."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise errors.FailedPrecondition(
            "ADDRESS_UNUSABLE", f"cannot listen on {join(host, port)}: {error}"
        ) from error
    unique = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
    return [Address(ip, port) for ip in unique]


def bind(
    add_port: Callable[[str], int], addresses: Sequence[Address], flag: str = "--listen"
) -> int:
    """Binds a server to all of the addresses, and to the same port on each; returns that port.

    `add_port` is the server's method that binds one, returns its port and raises RuntimeError;
    `flag` is what chooses another port.
    Raises FailedPrecondition when one is in use (PORT_IN_USE), or none of them can be had.
    """
    bound_port = 0
    problem: OSError | None = None
    for address in addresses:
        port = bound_port or address.port
        candidate = Address(address.ip, port)
        problem = _problem(candidate)
        if problem is not None:
            if problem.errno in _NO_SUCH_ADDRESS:
                continue
            raise _refused(candidate, problem, flag)
        try:
            bound_port = add_port(str(candidate))
        except RuntimeError as error:
            # Taken between the look and the leap, or something that only gRPC knows.
            raise _refused(candidate, error, flag) from error
    if bound_port == 0:
        assert problem is not None
        raise _refused(addresses[-1], problem, flag)
    return bound_port


def bound_socket(address: str, backlog: int = 128) -> socket.socket:
    """A socket that listens on `IP:PORT`, port 0 for any free one. Raises RuntimeError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, so that asyncio sees that small replies must not be held back.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, int(port)))
        # A second server that binds the same address is told so only by a listening socket.
        bound.listen(backlog)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise RuntimeError(f"cannot bind {address}: {error}") from error
    return bound


def _problem(address: Address) -> OSError | None:
    """Why an address cannot be bound, in the words of the system (gRPC does not pass them on)."""
    family = socket.AF_INET6 if ":" in address.ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.ip, address.port))
            probe.listen(1)
    except OSError as error:
        return error
    return None


def _refused(address: Address, problem: Exception, flag: str) -> errors.FailedPrecondition:
    if isinstance(problem, OSError) and problem.errno == errno.EADDRINUSE:
        return errors.FailedPrecondition(
            "PORT_IN_USE",
            f"another server listens on {address}: stop it, or choose another port with {flag}",
        )
    return errors.FailedPrecondition("ADDRESS_UNUSABLE", f"cannot listen on {address}: {problem}")
