"""A posterior in words and as a table, from the message alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Message = dict[str, Any]

ROWS = (
    ("chirp_mass", "chirp mass", 1),
    ("mass_1", "mass 1", 1),
    ("mass_2", "mass 2", 1),
    ("mass_ratio", "mass ratio", 2),
    ("effective_distance", "effective distance", 2),
    ("coalescence_time", "coalescence, GPS", 4),
    ("phase", "phase", 2),
)


def table(message: Message) -> Table:
    """One posterior: median, 90 % interval and unit of each parameter."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    posterior = message["posterior"]
    out = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("parameter", "left"), ("median", "right"), ("90 % interval", "right"), ("unit", "left")):
        out.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, label, digits in ROWS:
        one = posterior["parameters"][name]
        if name == "phase":
            middle, low, high, unit = one["mean"], one["arc"]["start"], one["arc"]["end"], "rad, mod π"
        else:
            middle, low, high, unit = one["median"], one["p5"], one["p95"], one["unit"].replace("1", "")
        interval = f"{text(low, digits)} to {text(high, digits)}"
        if name == "coalescence_time":
            interval = f"{1e3 * (low - middle):+.1f} to {1e3 * (high - middle):+.1f} ms"
        out.add_row(label, text(middle, digits), interval, unit)
    return out


def heading(message: Message) -> str:
    """What a reader needs before the numbers."""
    posterior = message["posterior"]
    quality = posterior["quality"]
    verdict = "[green]good[/green]"
    if quality["verdict"] != "good":
        verdict = f"[yellow]{quality['verdict']}: {', '.join(quality['reasons'])}[/yellow]"
    return (
        f"[bold]{posterior['detector']}[/bold]  SNR [bold]{text(posterior['snr'], 1)}[/bold]  "
        f"ln Bayes factor {text(posterior['log_bayes'], 1)}  "
        f"latency {latency_ms(message):.0f} ms   {verdict}"
    )


def text(value: float | None, digits: int) -> str:
    """A number as it is printed; the schema's null is a question mark."""
    return "?" if value is None else f"{value:.{digits}f}"


def latency_ms(message: Message) -> float:
    """From the frame that completed the window to the message's way out, as the daemon measured it."""
    return 1e3 * float(message["delivery"]["latency"]["total"])


def plain(value: object) -> str:
    """Text from a broker without what a terminal would take for a command."""
    return "".join(one if one.isprintable() else "�" for one in str(value))
