"""Secrets lie in files, such as systemd's credentials: never in settings, arguments or logs."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from gwstream.errors import ConfigError


def secret(key: str, path: Path | None) -> str | None:
    """The text of a file of one secret, without its line's end; raises `ConfigError` that names ``key`` and file."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{key} = '{path}': it is not UTF-8 text") from None  # the error would quote the secret
    except OSError as problem:
        raise ConfigError(f"{key} = '{path}' cannot be read: {problem.strerror}") from None
    if not text:
        raise ConfigError(f"{key} = '{path}': the file is empty")
    return text


def tls(
    name: Callable[[str], str], ca_file: Path | None, certificate_file: Path | None, key_file: Path | None
) -> ssl.SSLContext:
    """A client's side of TLS, which checks chain and host name; None: the system's authorities, no certificate.

    ``name`` says how an error calls "ca_file" and the others. Raises `ConfigError`, which never quotes a secret.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as problem:  # SSLError is one
        raise ConfigError(f"{name('ca_file')} = '{ca_file}' cannot be used: {_plain(problem)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate_file is not None and key_file is not None:
        try:  # without a password, OpenSSL would ask for one on the terminal
            context.load_cert_chain(certificate_file, key_file, password="")
        except OSError as problem:
            raise ConfigError(
                f"{name('certificate_file')} = '{certificate_file}', {name('key_file')} = '{key_file}': "
                f"cannot be used: {_plain(problem)}"
            ) from None
    return context


def _plain(problem: OSError) -> str:
    if isinstance(problem, ssl.SSLError):
        return (problem.reason or "not in PEM").replace("_", " ").lower()
    return problem.strerror or str(problem)
