"""Logging set-up: one line a record on stderr, plain or JSON. A logger's name is its stage's word."""

from __future__ import annotations

import json
import logging
import sys
import time

from gwstream.config import ServiceConfig


class _Plain(logging.Formatter):
    """``2026-01-01T00:00:00.000Z warning publish: text``."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{moment(record)} {record.levelname.lower()} {record.name}: {_text(self, record)}"


class _Json(logging.Formatter):
    """An object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _text(self, record),
        }
        return json.dumps(fields)


def configure(config: ServiceConfig) -> None:
    """Send all logging to stderr as ``config`` says; replaces what was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if config.log_json else _Plain())
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def moment(record: logging.LogRecord) -> str:
    """UTC to the millisecond."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    return f"{text}\n{formatter.formatException(record.exc_info)}" if record.exc_info else text
