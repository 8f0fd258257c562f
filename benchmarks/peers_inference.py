"""What 2000 draws of one signal's posterior cost: the field's networks on this processor, and ours.

Side by side in turn, processor time of one thread, in ms:

- gwstream: weighted by the exact likelihood, with evidence and tests of what is left over, with and without what a
  whitener takes at its first window; and unweighted, alone and in batches of 16;
- amplfi (ML4GW): its own package, at the size its repository's ``flow/cbc.yaml`` has (neural spline flow of 20
  transforms of 3 x 512 units, embedding of strain and spectra by two residual networks; 2 detectors, 3 s at 2048 Hz, 8
  parameters), and the same flow cut to our problem (1 detector, 1 s at 256 Hz, 5 parameters). With the density of each
  draw, which weights need, and without;
- VItamin (Gabbard et al.): see ``vitamin.py``.

Their weights are random, for nobody publishes weights for our problem, and cost does not depend on them; so this says
what draws cost, not how good they are. amplfi has an environment of its own, which also sees ours:

    python benchmarks/peers_inference.py
    make bench-peers
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import common
import numpy as np
import peers
import scaling
import torch
from drawings import COLOURS, panels
from threadpoolctl import threadpool_limits
from vitamin import SAMPLES, Vitamin

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, load_model

DRAWS = 2000
BATCH = 16
NOTE = "amplfi's weights and VItamin's are random"


@dataclass
class Timed:
    """One network. ``work``: makes the draws of ``windows`` signals; ms of a signal, one a round."""

    name: str
    weighs: str
    size: str
    work: Callable[[], Any]
    windows: int = 1
    times: list[float] = field(default_factory=list)

    def take(self, counts: bool) -> None:
        begin = time.process_time()
        self.work()
        if counts:
            self.times.append(1e3 * (time.process_time() - begin) / self.windows)

    @property
    def median(self) -> float:
        return float(np.median(self.times))

    def row(self, ours: Sequence[Timed]) -> list[object]:
        return [
            self.name,
            self.weighs,
            self.size,
            common.spread(self.times),
            *(f"{self.median / one.median:.1f}" for one in ours),
        ]


def size(net: torch.nn.Module) -> str:
    return f"{sum(one.numel() for one in net.parameters()) / 1e6:.2f} M"


def ours() -> list[Timed]:
    """Weighted, unweighted alone, and in batches."""
    model = load_model(common.MODEL)
    inference = Inference(model, InferenceConfig(draws=DRAWS))
    plain = Inference(model, InferenceConfig(latents=DRAWS))  # a latent a draw
    triggers = scaling.triggers(model, inference, BATCH)
    many = size(model.net)

    def first() -> None:
        inference._live.clear()
        inference.infer(triggers[0])

    return [
        Timed("gwstream", "weighted", many, lambda: inference.infer(triggers[0])),
        Timed("gwstream", "unweighted", many, lambda: plain.unweighted(triggers[:1])),
        Timed("gwstream, a whitener's first window", "weighted", many, first),
        Timed(f"gwstream, batch of {BATCH}", "unweighted", many, lambda: plain.unweighted(triggers), BATCH),
    ]


def vitamin() -> list[Timed]:
    """At its sizes, as published, and with the strain's features computed once."""
    torch.manual_seed(1)
    net = Vitamin().eval()
    strain = torch.randn(1, 3, SAMPLES)
    return [
        Timed("VItamin, as published", "unweighted", size(net), lambda: net.published(strain, DRAWS)),
        Timed("VItamin, strain seen once", "unweighted", size(net), lambda: net.once(strain, DRAWS)),
    ]


def amplfi() -> list[Timed]:
    """At its size, and cut to our problem."""
    peers.stand_in_for_torchaudio()
    from amplfi.train.architectures.embeddings import MultiModalPsd
    from amplfi.train.architectures.flows import NSF
    from ml4gw.nn.norm import GroupNorm1DGetter

    out = []
    torch.manual_seed(1)
    for name, detectors, parameters, samples in (("as published", 2, 8, 3 * 2048), ("cut to ours", 1, 5, 256)):
        embedding = MultiModalPsd(
            num_ifos=detectors,
            time_context_dim=8,
            freq_context_dim=128,
            time_layers=[5, 3, 3],
            freq_layers=[5, 3, 3],
            norm_layer=GroupNorm1DGetter(groups=8),
        )
        flow = NSF(parameters, embedding, transforms=20, hidden_features=[512, 512, 512], randperm=True).eval()
        strain = torch.randn(1, detectors, samples)
        spectra = torch.full((1, detectors, samples // 2 + 1), 1e-23)

        @torch.no_grad()
        def draw(flow: Any = flow, strain: torch.Tensor = strain, spectra: torch.Tensor = spectra) -> Any:
            return flow.sample(DRAWS, (strain, spectra.clone()))

        @torch.no_grad()
        def draw_with_density(flow: Any = flow, strain: torch.Tensor = strain, spectra: torch.Tensor = spectra) -> Any:
            """zuko, which amplfi's flow is made with, gives both in one pass."""
            return flow.flow(flow.embedding_net((strain, spectra.clone()))).rsample_and_log_prob((DRAWS,))

        out.append(Timed(f"amplfi, {name}", "unweighted", size(flow), draw))
        out.append(Timed(f"amplfi, {name}", "with density", size(flow), draw_with_density))
    return out


def draw(found: Sequence[Timed]) -> None:
    with panels(common.picture("inference"), 1, (9, 0.45 * len(found) + 1)) as axes:
        names = [f"{one.name}, {one.weighs}" for one in found]
        colours = [COLOURS[0 if one.name.startswith("gwstream") else 3] for one in found]
        axes[0].barh(names, [one.median for one in found], color=colours)
        axes[0].invert_yaxis()
        axes[0].set(xscale="log", xlabel=f"processor time of {DRAWS} draws, ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="a round runs each once (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")
    everything = peers.have("amplfi", "ml4gw")
    found = [*ours(), *vitamin(), *(amplfi() if everything else ())]
    for number in range(-1, args.rounds):  # the first, which pays for what is done once, does not count
        for one in found:
            one.take(counts=number >= 0)
    print(common.machine("openvino", "amplfi", "ml4gw", "zuko"))
    print(f"{DRAWS} draws, {args.rounds} rounds: median (quartiles). {NOTE}.")
    print(peers.NOTE if everything else "amplfi is not installed here: make bench-peers has it")
    head = ("network", "draws", "parameters", "ms a signal", "times ours, weighted", "times ours, unweighted")
    print("\n" + common.table(head, [one.row(found[:2]) for one in found]))
    draw(found)


if __name__ == "__main__":
    main()
