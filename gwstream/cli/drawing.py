"""``get`` and ``plot``: what concerns one posterior and its draws."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gwstream.cli.base import Commands, add_command

if TYPE_CHECKING:
    from gwstream.samples import Drawn

WHERE = """
Messages carry no draws. They come from the first of these that applies: a FILE that has them, as get wrote it;
the strain (--strain), from which the posterior behind a message in FILE is computed again and checked against the
SHA-256 of that message; or the running daemon (--url), which keeps those of its last 64 posteriors."""


def get(commands: Commands) -> None:
    """Add ``get``."""
    command = add_command(
        commands,
        "get",
        _call_get,
        "Get a posterior with its draws. As JSON, as HDF5 that bilby and PESummary read, or as Parquet." + WHERE,
        "  gwstream get E-H1-1126259461687500000-3cfd2f8acac9 --format hdf5\n"
        "  gwstream get message.json --url http://daemon.example.org:9480 --token-file ~/.gwstream-token\n"
        "  gwstream get demo-output/GW150914-H1.json --strain H-H1_GWOSC_4KHZ_R1-1126259447-32.hdf5 -o GW150914.hdf5\n",
    )
    command.add_argument(
        "--format", choices=("json", "hdf5", "parquet"), help="(default: by the name of --output, or json)"
    )
    command.add_argument("-o", "--output", metavar="FILE", help="(default: ID.FORMAT; -: stdout)")
    _options(command)


def _call_get(args: argparse.Namespace) -> int:
    from gwstream.errors import ConfigError
    from gwstream.samples import files

    endings = {".json": "json", ".hdf5": "hdf5", ".h5": "hdf5", ".parquet": "parquet"}
    ending = Path(args.output or "").suffix
    form = args.format or endings.get(ending, "" if ending else "json")
    if not form:
        raise ConfigError(f"--output {args.output}: which format is that? Add --format json, hdf5 or parquet")
    drawn = _find(args)
    content = files.encode(drawn, form)
    if args.output == "-":
        sys.stdout.buffer.write(content)
        return 0
    path = Path(args.output or f"{drawn.id}.{form}")
    _write(path, content)
    print(path)
    return 0


def plot(commands: Commands) -> None:
    """Add ``plot``."""
    command = add_command(
        commands,
        "plot",
        _call_plot,
        "Draw a posterior. Corner plot, whitened strain under the waveform, and spectra, as PNG or PDF." + WHERE,
        "  gwstream plot H1-1126259461687500000-3cfd2f8acac9\n"
        "  gwstream plot GW150914.json --what corner --format pdf --output pictures\n",
    )
    kinds = ("corner", "waveform", "spectrum")
    command.add_argument("--what", nargs="+", choices=kinds, default=list(kinds), help="(default: all three)")
    command.add_argument("--format", choices=("png", "pdf"), default="png", help="(default: %(default)s)")
    command.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="(default: this folder)")
    _options(command)


def _call_plot(args: argparse.Namespace) -> int:
    drawn = _find(args)
    from gwstream.samples import pictures

    try:
        args.output.mkdir(parents=True, exist_ok=True)
        for what in args.what:
            print(pictures.draw(drawn, what, args.output / f"{drawn.id}-{what}.{args.format}"))
    except OSError as problem:
        raise _unwritten(args.output, problem) from None
    return 0


def _options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "what_of",
        metavar="ID|FILE",
        help="of a posterior or event, or a file: a message, lines of them, or what get wrote",
    )
    command.add_argument("--id", metavar="ID", help="of several in FILE (default: the last event, or posterior)")
    daemon = command.add_argument_group("from a running daemon")
    daemon.add_argument("--url", default="http://127.0.0.1:9480", help="its HTTP port (default: %(default)s)")
    daemon.add_argument("--token-file", type=Path, metavar="FILE", help="a file with its metrics.token_file's token")
    strain = command.add_argument_group("from the strain")
    strain.add_argument("--strain", type=Path, nargs="+", default=[], metavar="FILE", help="files in time order")
    strain.add_argument("--channel", default="", help="strain channel of GWF files (default: the usual one)")
    strain.add_argument(
        "--config", type=Path, help="settings of the daemon that sent it (default: as in gwstream replay)"
    )
    strain.add_argument("--model", type=Path, help="its model folder (default: of CONFIG, or the shipped one)")


def _find(args: argparse.Namespace) -> Drawn:
    from gwstream.samples.find import Places, find
    from gwstream.secrets import secret

    places = Places(
        url=args.url,
        token=secret("--token-file", args.token_file),
        strain=tuple(args.strain),
        channel=args.channel,
        config=args.config,
        model=args.model,
    )
    return find(args.what_of, places, args.id)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as problem:
        raise _unwritten(path, problem) from None


def _unwritten(path: Path, problem: OSError) -> Exception:
    from gwstream.errors import ConfigError

    return ConfigError(f"--output {path}: cannot be written: {problem.strerror}")
