"""Secrets lie in files, such as systemd's credentials: never in settings, arguments or logs."""

from __future__ import annotations

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
