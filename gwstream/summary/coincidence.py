"""Events of several detectors that tell of one signal become one network event.

Two events agree when their coalescence times differ by no more than light needs between the sites and 3 standard
deviations of the difference, and their ln chirp masses, by the likelihoods, by no more than 3 of theirs. A network
event holds at most one event of a detector, and each two of its members agree. Where an event could be in several, the
best is taken first: most good members, then most members, then the largest combined SNR. So the network events that
stand follow from the detectors' events alone, in whatever order or how late those come: there is no clock here,
nothing is waited for, and a silent detector is no member and no veto. What changes is told at once, and names what it
replaces.

By chance, events of two detectors at rates R1 and R2 agree in time ``2 R1 R2 limit`` times a second: 10 ms of light
and 5 ms of deviations, one event an hour each, makes one in 14 years, before the chirp masses are compared.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import combinations
from typing import Any

from pydantic import TypeAdapter

from gwstream.records import NANO
from gwstream.summary.chirp_mass import Likelihood

KEPT = 256  # events of a detector; another detector's may come so many events later and still find them
LISTED = 32  # ids that a message names at most
EARTH = 2 * 6_378_137.0 / 299_792_458.0  # s of light through the Earth: for a site that is not known
LONGEST = 0.1  # s: times that may differ by more, being so uncertain, are no evidence for one signal
LEAST_TIME = 0.5e-3  # s: a posterior of few effective draws knows its own deviation too badly


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An event of one detector, as much of it as the network needs.

    ``event``, ``posterior``: ids; ``replaced``: ids of the events it stands for. ``gps_ns``: median coalescence, with
    ``time_sd`` in s. ``mass``: likelihood of the chirp mass; ``chirp_mass``: 5 %, 50 % and 95 % quantiles of its
    posterior, Msun. ``model``: the posterior's. ``reasons``: why it is suspect; none: it is good.
    """

    detector: str
    event: str
    posterior: str
    replaced: tuple[str, ...]
    gps_ns: int
    time_sd: float
    mass: Likelihood
    chirp_mass: tuple[float, float, float]
    snr: float
    log_bayes: float
    model: Mapping[str, str]
    reasons: tuple[str, ...] = ()
    simulated: bool = False
    injected: bool = False

    @property
    def usable(self) -> bool:
        """Whether there are numbers to compare."""
        return all(map(math.isfinite, (self.time_sd, self.mass.mean, self.mass.sd, self.snr)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """How two members compare: ``delay`` of the second in s, ``light_travel`` between the sites and ``limit`` of
    the delay in s, and ``mass_difference`` of the second in deviations of the difference of ln chirp mass."""

    detectors: tuple[str, str]
    delay: float
    light_travel: float
    limit: float
    mass_difference: float


@dataclass(frozen=True, slots=True)
class Network:
    """Members that agree, at least two, by name of the detector."""

    members: tuple[Member, ...]

    @property
    def id(self) -> str:
        """Follows from the members alone."""
        digest = hashlib.sha256("|".join(member.event for member in self.members).encode()).hexdigest()
        names = "".join(member.detector for member in self.members)
        return f"N-{names}-{self.loudest.gps_ns}-{digest[:12]}"

    @property
    def loudest(self) -> Member:
        return max(self.members, key=lambda member: (member.snr, member.event))

    @property
    def snr(self) -> float:
        """Root of the sum of squares."""
        return math.sqrt(sum(member.snr**2 for member in self.members))

    @property
    def log_bayes(self) -> float:
        """Sum of the ln Bayes factors: each member a signal of its own parameters, against noise in all."""
        return sum(member.log_bayes for member in self.members)

    @property
    def good(self) -> int:
        """Members free of doubts."""
        return sum(not member.reasons for member in self.members)

    @property
    def rank(self) -> tuple[int, int, float, str]:
        """The larger, the better; the id breaks ties."""
        return self.good, len(self.members), self.snr, self.id


@dataclass(frozen=True, slots=True)
class Change:
    """News of a network event: it stands and supersedes others, or it is withdrawn, its members agreeing no more."""

    network: Network
    supersedes: tuple[str, ...] = ()
    standing: bool = True


@dataclass(frozen=True, slots=True)
class _Told:
    network: Network
    replaced: tuple[str, ...]


@dataclass(slots=True)
class Coincidences:
    """State of the network: events of each detector by id, and the network events that stand.

    ``sigmas``: deviations that times and chirp masses may differ by; ``travel``: s of light between two detectors.
    """

    sigmas: float
    travel: Callable[[str, str], float]
    members: dict[str, dict[str, Member]] = field(default_factory=dict)
    told: dict[str, _Told] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Events by detector, and the network events that stand, as plain values."""
        members = {name: [asdict(one) for one in known.values()] for name, known in self.members.items()}
        return {"members": members, "told": [asdict(old) for old in self.told.values()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with these. Raises ValueError or LookupError where ``state`` is none."""
        known = TypeAdapter(dict[str, list[Member]]).validate_python(state["members"])
        self.members = {name: {member.event: member for member in members} for name, members in known.items()}
        told = TypeAdapter(list[_Told]).validate_python(state["told"])
        self.told = {old.network.id: old for old in told}

    def add(self, new: Member) -> list[Change]:
        """Take a detector's event, new or better told; what that changes, withdrawals first."""
        known = self.members.setdefault(new.detector, {})
        gone = [known.pop(name) for name in new.replaced if name in known]
        touched = {member.event: member for old in gone for member in self._agreeing(old)}
        if new.usable:
            known[new.event] = touched[new.event] = new
        self._forget(new.detector)
        group = self._joined(touched.values())
        names = {member.event for member in (*group, *gone)}
        before = {name: old for name, old in self.told.items() if names & {m.event for m in old.network.members}}
        after = {network.id: network for network in self._judge(group)}
        over = {name: self.told.pop(name) for name in before if name not in after}
        changes: list[Change] = []
        replaced: set[str] = set()
        for name, network in after.items():
            if name not in before:
                events = {event for m in network.members for event in (m.event, *m.replaced)}
                mine = [k for k, old in over.items() if events & {m.event for m in old.network.members}]
                replaced.update(mine)
                older = (one for k in mine for one in over[k].replaced if one not in self.told and one not in after)
                history = (*older, *mine)[-LISTED:]
                self.told[name] = _Told(network, history)
                changes.append(Change(network, history))
        withdrawn = [Change(old.network, standing=False) for name, old in over.items() if name not in replaced]
        return withdrawn + changes

    def pair(self, one: Member, other: Member) -> Pair:
        """Compare two members."""
        travel = self.travel(one.detector, other.detector)
        deviation = math.hypot(max(one.time_sd, LEAST_TIME), max(other.time_sd, LEAST_TIME))
        return Pair(
            detectors=(one.detector, other.detector),
            delay=(other.gps_ns - one.gps_ns) / NANO,
            light_travel=travel,
            limit=min(travel + self.sigmas * deviation, LONGEST),
            mass_difference=(other.mass.mean - one.mass.mean) / math.hypot(one.mass.sd, other.mass.sd),
        )

    def pairs(self, network: Network) -> list[Pair]:
        """All pairs of a network event's members."""
        return [self.pair(one, other) for one, other in combinations(network.members, 2)]

    def _agree(self, one: Member, other: Member) -> bool:
        if abs(one.gps_ns - other.gps_ns) > LONGEST * NANO:
            return False
        pair = self.pair(one, other)
        return abs(pair.delay) <= pair.limit and abs(pair.mass_difference) <= self.sigmas

    def _agreeing(self, member: Member) -> list[Member]:
        """Events of other detectors that agree with this one."""
        return [
            other
            for detector, known in self.members.items()
            if detector != member.detector
            for other in known.values()
            if self._agree(member, other)
        ]

    def _joined(self, start: Iterable[Member]) -> list[Member]:
        """All events that are tied to those given by steps of agreement: who is with whom hangs on no others."""
        found: dict[str, Member] = {}
        left = list(start)
        while left:
            member = left.pop()
            if member.event not in found:
                found[member.event] = member
                left += self._agreeing(member)
        return list(found.values())

    def _judge(self, group: Sequence[Member]) -> list[Network]:
        """The network events among ``group``: the best, then the best of those left, and so on."""
        chosen: list[Network] = []
        taken: set[str] = set()
        by_detector: dict[str, list[Member]] = {}
        for member in group:
            by_detector.setdefault(member.detector, []).append(member)
        columns = [by_detector[name] for name in sorted(by_detector)]
        candidates = [Network(members) for members in self._choices(columns, ()) if len(members) > 1]
        for network in sorted(candidates, key=lambda one: one.rank, reverse=True):
            events = {member.event for member in network.members}
            if not events & taken:
                chosen.append(network)
                taken |= events
        return chosen

    def _choices(self, columns: Sequence[Sequence[Member]], so_far: tuple[Member, ...]) -> Iterator[tuple[Member, ...]]:
        """Every set of at most one event of each detector in which all agree."""
        if not columns:
            yield so_far
            return
        yield from self._choices(columns[1:], so_far)
        for member in columns[0]:
            if all(self._agree(member, other) for other in so_far):
                yield from self._choices(columns[1:], (*so_far, member))

    def _forget(self, detector: str) -> None:
        """Drop the detector's earliest event where there are too many, and the network event it was in."""
        known = self.members[detector]
        if len(known) > KEPT:
            earliest = min(known.values(), key=lambda member: (member.gps_ns, member.event))
            del known[earliest.event]
            held = [name for name, old in self.told.items() if earliest in old.network.members]
            for name in held:
                del self.told[name]


def light_travel() -> Callable[[str, str], float]:
    """A function of two detectors' prefixes: s of light between them, by LAL's list of sites.

    Where a site is not in that list, it may be anywhere: light through the whole Earth, 42.6 ms.
    """
    import lal  # here, for it takes a quarter of a second

    sites = lal.cached_detector_by_prefix

    @cache
    def between(one: str, other: str) -> float:
        if one not in sites or other not in sites:
            return EARTH
        return float(lal.LightTravelTime(sites[one], sites[other])) / NANO

    return between
