"""Where a client connects to, and what it shows there: addresses, TLS, an API key.

What always holds: an API key leaves in the clear only for the machine itself, unless the caller
says otherwise.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

__all__ = ["OPTIONS", "Tls", "address_or_default", "check_key_is_safe", "metadata"]

OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # A proxy of the environment is for the web, not for the service next door.
    ("grpc.enable_http_proxy", 0),
    # A server that restarts is back in a moment; gRPC's own pauses grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A watch may be silent for long: this finds out that its server is gone. Servers take more
    # than one ping in five minutes for an attack.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What a connection over TLS needs; each a path to a PEM file.

    `ca_file`: who vouches for the server; the system's authorities if there is none.
    `certificate_file` and `key_file`: who the client is, for servers that ask (mTLS).
    `server_name`: the name in the server's certificate, where it is not that of the address.
    """

    ca_file: str | Path | None = None
    certificate_file: str | Path | None = None
    key_file: str | Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together; give both or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """The files' contents, for gRPC. Raises OSError for one that cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=_content(self.ca_file),
            private_key=_content(self.key_file),
            certificate_chain=_content(self.certificate_file),
        )

    def options(self) -> tuple[tuple[str, int | str], ...]:
        """The channel's options."""
        if not self.server_name:
            return OPTIONS
        return (*OPTIONS, ("grpc.ssl_target_name_override", self.server_name))


def metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What travels beside each call."""
    return () if api_key is None else (("authorization", f"Bearer {api_key}"),)


def address_or_default(address: str | None) -> str:
    """The address, or the one that the command line would take."""
    return address or os.environ.get("LIMITER_ADDRESS") or "127.0.0.1:50051"


def check_key_is_safe(address: str) -> None:
    """Raises ValueError if a key sent there without TLS could be read on its way."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return
    try:
        is_safe = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_safe = False
    if not is_safe:
        raise ValueError(
            f"the API key would travel to {address} in the clear: give tls=limiter.Tls(…), or "
            "insecure=True if nobody can listen on the way"
        )


def _content(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
