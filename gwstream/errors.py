"""Everything gwstream raises on purpose.

    GwstreamError
    ├── ConfigError      a setting is wrong: says which key, its value, and what is allowed (exit 78)
    ├── ModelError       a model folder is missing, broken, or does not match its conditioning (exit 65)
    ├── SourceError      strain cannot be had: directory, file or channel (exit 66)
    ├── SamplesError     draws cannot be had, or are not those of the message (exit 66)
    ├── EngineError      the network could not be run (exit 70)
    ├── PublishError     the broker refuses us for good (exit 69)
    ├── SubscribeError   the broker cannot be reached by a subscriber, or does not let it read (exit 69)
    └── AskError         a trigger was refused, or nobody answered (exit 66)

Foreign errors are translated where they enter, with ``from``. The exit codes are those of ``sysexits.h``, so that
systemd's ``RestartPreventExitStatus=`` can tell a wrong setting from a bad day.
"""

from __future__ import annotations

from typing import Any


class GwstreamError(Exception):
    """Base of the tree; its text is fit to be shown to a user as it stands."""

    exit_code = 70


class ConfigError(GwstreamError):
    """A setting is wrong."""

    exit_code = 78


class ModelError(GwstreamError):
    """A model folder cannot be used."""

    exit_code = 65


class SourceError(GwstreamError):
    """Strain cannot be had."""

    exit_code = 66


class SamplesError(GwstreamError):
    """A posterior's draws cannot be had."""

    exit_code = 66


class EngineError(GwstreamError):
    """The network could not be run."""

    exit_code = 70


class PublishError(GwstreamError):
    """The broker refuses us for good."""

    exit_code = 69


class SubscribeError(GwstreamError):
    """A subscriber cannot reach the broker, or may not read there."""

    exit_code = 69


class AskError(GwstreamError):
    """A trigger was refused, or nobody answered it. ``answers``: those of other detectors."""

    exit_code = 66

    def __init__(self, text: str, answers: dict[str, Any]) -> None:
        super().__init__(text)
        self.answers = answers
