"""TLS: from files of certificates to what each transport takes, and from certificates to names.

In: paths of PEM files. Out: an SSL context for the native transport, credentials for grpcio, and
the names by which a client's certificate calls it. Problems with a file are InvalidArgument, named
by the setting.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from limiter import errors

__all__ = ["ServerFiles", "auth_context", "peer_names"]


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """What a server shows, and by whom its clients must be certified (None: nobody asks them)."""

    certificate: Path
    key: Path
    client_ca: Path | None

    def context(self) -> ssl.SSLContext:
        """For the native transport: TLS 1.3 alone. Raises InvalidArgument."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"])
        _read(self.key, "tls_key")
        _read(self.certificate, "tls_cert")
        try:
            # A key with a password would be asked for at the terminal; nobody sits there.
            context.load_cert_chain(self.certificate, self.key, password=b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise errors.InvalidArgument.for_field(
                "tls_cert", f"{self.certificate} and {self.key} are no certificate and key: {error}"
            ) from error
        if self.client_ca is not None:
            _read(self.client_ca, "tls_client_ca")
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.client_ca)
            except (ssl.SSLError, OSError) as error:
                raise errors.InvalidArgument.for_field(
                    "tls_client_ca", f"{self.client_ca} holds no certificate: {error}"
                ) from error
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """For grpcio. Raises InvalidArgument."""
        # It says nothing about files that are none; this does.
        self.context()
        pair = (_read(self.key, "tls_key"), _read(self.certificate, "tls_cert"))
        if self.client_ca is None:
            return grpc.ssl_server_credentials([pair])
        return grpc.ssl_server_credentials(
            [pair], _read(self.client_ca, "tls_client_ca"), require_client_auth=True
        )


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.InvalidArgument.for_field(setting, f"cannot be read: {error}") from error


def _common_names(certificate: Mapping[str, Any]) -> list[str]:
    return [
        value
        for part in certificate.get("subject", ())
        for key, value in part
        if key == "commonName"
    ]


def peer_names(certificate: Mapping[str, Any] | None) -> Sequence[str]:
    """The names in a client's certificate, as `SSLSocket.getpeercert` gives it: its alternative
    names, or else its common name; none where there is no certificate."""
    if not certificate:
        return ()
    alternative = [str(value) for _kind, value in certificate.get("subjectAltName", ())]
    return alternative or _common_names(certificate)


def auth_context(certificate: Mapping[str, Any] | None, is_tls: bool) -> dict[str, list[bytes]]:
    """What grpc's handlers are told about their client's certificate."""
    if not is_tls:
        return {}
    context = {"transport_security_type": [b"ssl"]}
    if certificate:
        context["x509_common_name"] = [name.encode() for name in _common_names(certificate)]
        context["x509_subject_alternative_name"] = [
            str(value).encode() for _kind, value in certificate.get("subjectAltName", ())
        ]
    return context
