"""Print each event, and the mean masses from the draws behind it.

python events.py [HOST[:PORT] [URL of the daemon's HTTP port]]
"""

import asyncio
import sys

from gwstream.client import Gap, draws, events
from gwstream.errors import SamplesError


def lost(gap: Gap) -> None:
    print(gap, file=sys.stderr)


async def main(broker: str = "127.0.0.1", url: str = "") -> None:
    async for event in events(broker, on_gap=lost):
        verdict = "good" if event.good else "suspect: " + ", ".join(event.reasons)
        print(f"{event.id}  {event.detector}  GPS {event.gps:.4f}  SNR {event.snr:.1f}  {event.chirp_mass}  {verdict}")
        if url:
            try:
                found = await draws(event, url)
            except SamplesError as problem:  # an older one than the daemon keeps
                print(f"    {problem}")
            else:
                print(f"    mean masses {found.mean('mass_1'):.1f} and {found.mean('mass_2'):.1f} Msun")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
