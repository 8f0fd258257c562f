"""Stage 4: `Batch` in; the gate on every window; behind it proposal, draws, weights: a `Posterior`.

Synchronous and pure: draws are keyed by the posterior's id, every product behind the gate has one shape, so a posterior
can be recomputed to the last bit on the same engine.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from gwstream.config import InferenceConfig
from gwstream.inference.checkpoint import Model, load_model
from gwstream.inference.features import Live, Seen, see, size
from gwstream.inference.gate import Best, best
from gwstream.inference.golden import flat
from gwstream.inference.importance import Proposal, effective, sample
from gwstream.inference.likelihood import Templates
from gwstream.inference.modes import Several, distinct, others
from gwstream.inference.noise import noise_model
from gwstream.inference.proposed import Proposed
from gwstream.inference.residual import p_values
from gwstream.inference.ridge import grid
from gwstream.inference.runners import Choice, plain
from gwstream.inference.unweighted import draws, generator, groups, places
from gwstream.prior import DistanceDensity, Prior
from gwstream.records import Batch, Floats, Posterior, Trigger, Unweighted, Whitener, Window, bucket

__all__ = ["Inference", "Model", "load_model"]

KEPT_WHITENERS = 4  # of a detector, 5 MB each: a frame's windows have two, and the next is prepared meanwhile
BEST_OF = 64  # densest draws, among which the likeliest is looked for


class Inference:
    """A model ready to judge windows, on one engine, in one thread. Raises `ConfigError` where that is not to be had.

    ``choice``: takes what runs the network, once the number of threads is set; left out, the best engine as it is.
    ``prior``: that of the posteriors. Where the settings choose another than the model's, weights bring it about.
    """

    def __init__(self, model: Model, config: InferenceConfig, choice: Choice = plain) -> None:
        torch.set_num_threads(config.threads)
        # numpy's BLAS too: idle threads that spin cost more than they bring, and rounding depends on their number
        threadpool_limits(limits=config.threads, user_api="blas")
        self.model = model
        self._config = config
        self.prior = model.spec.prior.served(config.distance_prior)
        self._runner = choice(model, config)
        self._live: defaultdict[str, OrderedDict[str, Live]] = defaultdict(OrderedDict)  # by detector
        self._nodes = grid(model.bank, model.spec.prior)
        self._tag = _tag(model, self.prior, config.likelihood)

    @property
    def engine(self) -> str:
        """Name of the engine in use."""
        return self._runner.name

    @property
    def tag(self) -> str:
        """Digest of model and settings, the end of every posterior's id."""
        return self._tag

    def warm(self, buckets: Sequence[int] = (1,)) -> None:
        """Judge made-up windows, so that the first real one does not pay for what is done once.

        ``buckets``: numbers of windows that `unweighted` will be given; those beside 1 take a second each.
        """
        spec = self.model.spec.conditioning
        window = Window(
            detector="W1",
            start=spec.rate,
            rate=spec.rate,
            samples=np.random.default_rng(0).standard_normal(spec.window),
            whitener=flat(spec, "warm-up"),
            context=np.zeros(self.model.net.features - size(self.model.bank, 0), np.float32),
        )
        (trigger,) = self.gate(Batch((window,), 1))
        self.infer(trigger)
        for count in buckets:
            if count > 1:
                self.unweighted([trigger] * count)
        self._live.clear()

    def identity(self, window: Window) -> str:
        """The posterior's id: detector, GPS ns of the window's first sample, digest of model and settings."""
        return f"{window.detector}-{window.gps_ns}-{self._tag}"

    def gate(self, batch: Batch) -> tuple[Trigger, ...]:
        """The best matched filter of every window, in the batch's order."""
        triggers: dict[int, Trigger] = {}
        for rows in groups(batch.windows):
            windows = [batch.windows[row] for row in rows]
            filters = self._filters(windows[0].whitener).gate
            samples = torch.from_numpy(np.stack([window.samples for window in windows])).float()
            found = best(filters(samples), filters.times)
            triggers |= {
                row: self._trigger(window, found, k) for k, (row, window) in enumerate(zip(rows, windows, strict=True))
            }
        return tuple(triggers[index] for index in range(len(batch.windows)))

    def _trigger(self, window: Window, found: Best, k: int) -> Trigger:
        """What the gate found in row ``k``."""
        snr, time = float(found.snr[k]), float(found.time[k])
        low, high = self.model.spec.prior.time
        return Trigger(
            window=window,
            snr=snr,
            time=time,
            phase=float(found.phase[k]) % (2 * math.pi),
            template=int(found.template[k]),
            passed=snr >= self._config.gate_snr and low <= time <= high,
        )

    def prepare(self, whitener: Whitener) -> None:
        """Filter the bank for a whitener ahead of the first window that needs it, a second later.

        It is called in a pause, so it is time for a check of the engine, too.
        """
        _ = self._filters(whitener).projector
        self._runner.recheck(busy=False)

    @torch.inference_mode()
    def propose(self, window: Window) -> Proposed:
        """The network's proposal for a window, before the likelihood has its say."""
        live = self._filters(window.whitener)
        rng = generator(self.identity(window))
        samples = torch.from_numpy(window.samples).float()[None]
        rho = live.gate(samples)
        seen = self._see(window, samples, live, rho)
        proposal = self._density(seen, samples, rng)
        anchor = self.model.net.fixed or seen.anchor
        if self.model.net.fixed is None and (rest := others(rho, live.gate.times, self.model.spec.prior)):
            first, *looks = distinct([seen, *(self._see(window, samples, live, other) for other in rest)])
            proposals = proposal, *(self._density(look, samples, rng) for look in looks)
            proposal = Several.weighed(proposals, [first, *looks])
        trigger = self._trigger(window, seen.best, 0)
        code = seen.y[0].double().numpy()
        assumed = noise_model(self._config.likelihood, window.whitener.averages)
        return Proposed(window, trigger, live.templates, self.prior, assumed, anchor, proposal, code, rng)

    def _density(self, seen: Seen, samples: Tensor, rng: np.random.Generator) -> Proposal:
        """What the network makes of ONE window's samples (1, n) as seen."""
        noise = self.model.net.noise(rng, self._config.latents)
        return self.model.net.density(*self._runner.run(seen.y, samples, *noise))

    def infer(self, trigger: Trigger, bucket: int = 1, draws: int | None = None) -> Posterior:
        """The weighted posterior of one window; ``draws``: as many as are set, unless it is given."""
        self._runner.recheck(busy=True)
        window = trigger.window
        proposed = self.propose(window)
        found = sample(proposed.proposal, proposed.log_target, draws or self._config.draws, proposed.rng)
        judged, weights = proposed.judged(found.e), found.weights
        top = judged.best(BEST_OF)
        loudest = judged.waveforms[top].astype(np.float64)
        residual_p, peak_residual_p = p_values(
            window.samples, proposed.templates, judged.x[top], window.whitener.averages, self.model.leftover
        )
        distance, latent_p = self._familiar(proposed.code)
        return Posterior(
            id=self.identity(window),
            trigger=proposed.trigger,  # of this window alone: a batch's product rounds differently
            samples=judged.x,
            weights=weights,
            log_evidence=found.log_evidence + proposed.noise.log_density(window.samples),
            log_bayes=found.log_evidence,
            log_bayes_error=found.log_evidence_error,
            ess=effective(weights),
            max_weight=float(weights.max()),
            noise_freedom=proposed.noise.freedom,
            rounds=found.rounds,
            stratified=found.stratified,
            snr=float(window.samples @ loudest / math.sqrt(max(float(loudest @ loudest), 1e-30))),
            residual_p=residual_p,
            peak_residual_p=peak_residual_p,
            latent_distance=distance,
            latent_p=latent_p,
            waveform=judged.band(weights, proposed.rng),
            engine=self.engine,
            bucket=bucket,
            model=self.model.identity,
        )

    def asked(self, window: Window, distance: DistanceDensity | None = None) -> Posterior:
        """The weighted posterior of a window, whether or not it passes the gate; ``distance``: the density of that in
        the prior, None: the one served. What is at hand for live windows stays as it is."""
        other = copy.copy(self)
        other.prior = self.prior.served(distance or self.prior.distance_density)
        other._tag = _tag(self.model, other.prior, self._config.likelihood)
        name = window.whitener.detector
        other._live = defaultdict(OrderedDict, {name: OrderedDict(self._live.get(name, {}))})
        return other.infer(other.gate(Batch((window,), 1))[0])

    def unweighted(self, triggers: Sequence[Trigger], least: int = 1) -> tuple[Unweighted, ...]:
        """What the network alone says of windows, whether or not they passed the gate: ``latents`` draws for each.

        Equal bytes for a window in equal buckets, whatever else is in them. ``least``: no smaller bucket is taken.
        """
        found: dict[int, Unweighted] = {}
        windows = [trigger.window for trigger in triggers]
        spec = self.model.spec
        for rows in groups(windows):
            chosen = [windows[row] for row in rows]
            names = [f"{self.identity(window)}-u" for window in chosen]
            size = max(bucket(len(chosen)), least)
            at = places(chosen, spec.hop, size)
            filled = dict(zip(at, chosen, strict=True))
            full = [filled.get(k, chosen[0]) for k in range(size)]
            rngs = {k: generator(name) for k, name in zip(at, names, strict=True)}
            filters = self._filters(chosen[0].whitener)
            drawn, seen = draws(self.model.net, self._runner, filters, spec.prior, full, rngs, self._config.latents)
            for k, row, name, (samples, code) in zip(at, rows, names, drawn, strict=True):
                distance, latent_p = self._familiar(code)
                found[row] = Unweighted(
                    id=name,
                    trigger=self._trigger(windows[row], seen, k),  # of this bucket: other products round otherwise
                    samples=samples,
                    latent_distance=distance,
                    latent_p=latent_p,
                    engine=self.engine,
                    bucket=size,
                    model=self.model.identity,
                )
        return tuple(found[row] for row in range(len(triggers)))

    def _familiar(self, code: Floats) -> tuple[float | None, float | None]:
        """Distance of a window's code (F,) from the training's, and its p-value; None for weights without aggregate."""
        aggregate = self.model.aggregate
        if aggregate is None:
            return None, None
        distance = aggregate.distance(code)
        return distance, aggregate.p_value(distance)

    def _filters(self, whitener: Whitener) -> Live:
        """The bank behind this whitener, from the cache of its detector's last few."""
        kept = self._live[whitener.detector]
        found = kept.get(whitener.id)
        if found is None:
            templates = Templates(self.model.spec.conditioning, self.model.bank, whitener)
            found = kept[whitener.id] = Live.of(templates, self._nodes, self.model.spec.prior)
            while len(kept) > KEPT_WHITENERS:
                kept.popitem(last=False)
        kept.move_to_end(whitener.id)
        return found

    def _see(self, window: Window, samples: Tensor, live: Live, rho: Tensor) -> Seen:
        """The window of samples (1, n) as the network sees it by the gate's SNRs (1, 2, N, lags)."""
        return see(live, samples, rho, torch.from_numpy(window.context)[None], self.model.spec.prior)


def _tag(model: Model, prior: Prior, likelihood: str) -> str:
    """Digest of what makes a posterior besides its window; prior and likelihood where they are not the usual ones."""
    served = "" if prior == model.spec.prior else json.dumps(dataclasses.asdict(prior), sort_keys=True)
    served += "" if likelihood == "gaussian" else likelihood
    return hashlib.sha256(f"{model.hash}{model.conditioning_hash}{served}".encode()).hexdigest()[:12]
