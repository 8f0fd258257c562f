"""The exact posterior against an independent sampler: bilby's dynesty with gwstream's likelihood, three signals.

bilby is no dependency of gwstream, so it gets an environment of its own that also sees this one's packages:

    make bench-sampler
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from typing import Any

import bilby
import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gwstream.inference import load_model
from gwstream.inference.likelihood import Templates, log_ratio
from gwstream.prior import Prior
from gwstream.settings import default_model
from gwstream.training.dataset import Member, Simulator, family
from gwstream.training.exact import exact
from gwstream.waveforms import chirp_mass

NAMES = ("chirp_mass", "mass_ratio", "effective_distance", "time", "phase")
SIGNALS = ((36.0, 29.0, 12.0), (60.0, 45.0, 9.0), (28.0, 22.0, 20.0))  # masses in Msun, SNR


class WindowLikelihood(bilby.Likelihood):  # type: ignore[misc]
    """ln likelihood ratio of a window; masses enter as the sampler's own chirp mass and ratio."""

    def __init__(self, samples: NDArray[np.float64], templates: Templates, prior: Prior) -> None:
        super().__init__()
        self.samples, self.templates, self.prior = samples, templates, prior

    def log_likelihood(self, parameters: dict[str, float]) -> float:
        chirp, ratio = parameters["chirp_mass"], parameters["mass_ratio"]
        mass_1 = chirp * (1 + ratio) ** 0.2 / ratio**0.6
        x = np.array([[mass_1, mass_1 * ratio, *(parameters[name] for name in NAMES[2:])]])
        if not np.isfinite(self.prior.log_density(x)[0]):
            return -1e300
        # bilby's priors are uniform in chirp mass and ratio; ours in the masses: dm1 dm2 = m1^2 / Mc dMc dq
        log_l = float(log_ratio(self.samples, self.templates.waveforms(x))[0])
        return log_l + 2 * math.log(mass_1) - math.log(chirp)


def priors(prior: Prior) -> Any:
    """Uniform boxes; the constraint on the component masses is in the likelihood."""
    low, high = prior.chirp_mass
    limits = ((low, high), (prior.min_ratio, 1.0), prior.distance, prior.time, (0.0, np.pi))
    boundary = {"phase": "periodic"}
    return bilby.core.prior.PriorDict(
        {
            name: bilby.core.prior.Uniform(*edge, name, boundary=boundary.get(name))
            for name, edge in zip(NAMES, limits, strict=True)
        }
    )


def volume(prior: Prior) -> float:
    """ln of the box of `priors` over the volume of ours: what turns the sampler's evidence into ours."""
    low, high = prior.chirp_mass
    return float(np.log((high - low) * (1.0 - prior.min_ratio) / prior.mass_area))


def compare(number: int, templates: Templates, simulator: Simulator, member: Member, live: int) -> str:
    """One row of the table."""
    prior, rng = simulator.prior, np.random.default_rng(number)
    mass_1, mass_2, snr = SIGNALS[number]
    x = np.array([[mass_1, mass_2, 1.0, 0.74, 0.9]])
    x[0, 2] = np.linalg.norm(templates.waveforms(x)) / snr
    samples = simulator.windows(member, x, 1, torch.Generator().manual_seed(number))[0].double().numpy()
    judged = exact(samples, templates, prior)
    draws = judged.draw(rng, 20_000)
    ours = np.column_stack([chirp_mass(draws[:, 0], draws[:, 1]), draws[:, 1] / draws[:, 0], draws[:, 2:]])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = bilby.run_sampler(
            WindowLikelihood(samples, templates, prior),
            priors(prior),
            sampler="dynesty",
            nlive=live,
            outdir=folder,
            label="signal",
            seed=number,
            resume=False,
            save=False,
        )
    minutes = (time.monotonic() - began) / 60
    theirs = result.posterior[list(NAMES)].to_numpy()
    about = ours[:, 4]
    ours, theirs = (np.column_stack([v[:, :4], unwrapped(v[:, 4], about)]) for v in (ours, theirs))
    shifts = (np.median(theirs, axis=0) - np.median(ours, axis=0)) / ours.std(axis=0)
    cells = (
        f"{mass_1:.0f}+{mass_2:.0f} Msun, SNR {snr:.0f}",
        f"{judged.log_bayes:.2f}",
        f"{result.log_evidence + volume(prior):.2f} ± {result.log_evidence_err:.2f}",
        str(result.num_likelihood_evaluations),
        f"{minutes:.1f}",
        ", ".join(f"{value:+.2f}" for value in shifts),
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--live", type=int, default=1000)
    live = arguments.parse_args().live
    torch.set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")
    model = load_model(default_model())
    member = family(model.spec, model.bank, 1, np.random.default_rng(31))[0]
    simulator = Simulator(model.spec, model.bank)
    templates = Templates(model.spec.conditioning, model.bank, member.whitener)
    print(f"bilby {bilby.__version__}, dynesty, {live} live points\n")
    names = ", ".join(NAMES)
    print(f"| signal | ln B exact | ln B dynesty | evaluations | minutes | median shift / sd: {names} |")
    print("|---|---|---|---|---|---|")
    for number in range(len(SIGNALS)):
        print(compare(number, templates, simulator, member, live), flush=True)


def unwrapped(phase: NDArray[np.float64], about: NDArray[np.float64]) -> NDArray[np.float64]:
    """Phases of period pi within half a turn of the circular mean of ``about``."""
    middle = 0.5 * np.angle(np.mean(np.exp(2j * about)))
    return np.asarray(middle + np.mod(phase - middle + np.pi / 2, np.pi) - np.pi / 2)


if __name__ == "__main__":
    main()
