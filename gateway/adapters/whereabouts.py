"""Where the adapters of one backend are, and should be: what its replicas hold, asked as of now.

Gathers what is known of each replica (`Residency`), how often each adapter is asked for (`Demand`)
and where each is at home (`placed`), and tells the estimates that `decide` reads. Pure but for
that: time comes in as `now`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from gateway.adapters.demand import Demand
from gateway.adapters.placement import Homes, Room, placed
from gateway.adapters.residency import Residency, Use
from gateway.policy.live import Live
from gateway.types.backends import Target

COLD = 0.5
"""P(resident) below which a request that goes elsewhere takes the adapter's home along."""


class Whereabouts:
    """The adapters of one backend, by the names that they are served under."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._held: dict[str, Residency] = {}
        self._registered: dict[str, set[str]] = {}
        self._targets: dict[str, tuple[Target, ...]] = {}
        self._pinned: frozenset[str] = frozenset()
        self._barred: dict[tuple[str, str], str] = {}
        self._load_s: dict[tuple[str, str], float] = {}
        self._demand = Demand()
        self._known: set[str] = set()
        self._uses: dict[tuple[str, str], Use] = {}
        self.homes: Homes = {}

    def serve(
        self,
        replicas: Sequence[str],
        slots: int | None,
        adapters: Mapping[str, tuple[Target, ...]],
        pinned: Collection[str],
        now: float,
    ) -> None:
        """From now on these are the replicas, with room for `slots` adapters each, and the adapters
        with the targets that they serve."""
        before = self._held
        self._held = {url: before.get(url) or Residency(slots) for url in replicas}
        self._registered = {url: self._registered.get(url, set()) for url in replicas}
        self._targets = dict(adapters)
        self._pinned = frozenset(pinned)
        self._known = set()
        self.refresh(now)
        for (replica, served), reason in self._barred.items():
            for target in self._targets.get(served, ()):
                self._live.bar(target, replica, reason)

    # ------------------------------------------------------------ what happens

    def used(self, replica: str, served: str, now: float) -> None:
        """A request for the adapter is being sent to the replica."""
        held = self._held.get(replica)
        if held is None or served not in self._targets:
            return
        self._demand.asked(served, now)
        if replica not in self.homes.get(served, ()) and not self._at_home(served, replica, now):
            self._move(served, replica)
        before = self.p_resident(replica, served, now)
        if held.slots is not None:
            # Of those that wait for one load only the first tells whether there was one.
            self._uses.setdefault((replica, served), held.use(served, now))
        pushed_out = held.used(served, now)
        if before < 1.0:
            self._tell(served, now)
        if pushed_out is not None:
            self._tell(pushed_out, now)

    def first_token(
        self, replica: str, served: str, asked: float, seconds: float, warm_s: float, load_s: float
    ) -> float:
        """A request asked at `asked` had its first token after `seconds`, of which `warm_s` were to
        be expected of a resident adapter; P(it had to be loaded, for some `load_s`)."""
        use = self._outstanding(replica, served, asked)
        held = self._held.get(replica)
        if use is None or held is None:
            return 0.0
        return held.observed(use, seconds, warm_s, load_s)

    def no_answer(self, replica: str, served: str, asked: float) -> None:
        """A request asked at `asked` has ended without an answer, and tells nothing."""
        self._outstanding(replica, served, asked)

    def _outstanding(self, replica: str, served: str, asked: float) -> Use | None:
        """The use whose answer is waited for, if it is not a later request's; done with."""
        use = self._uses.get((replica, served))
        if use is None or use.at < asked:
            return None
        return self._uses.pop((replica, served))

    def loaded(self, replica: str, served: str, seconds: float | None, now: float) -> None:
        """The replica has the adapter registered; it was loaded just now in `seconds` if given."""
        if replica not in self._held or served not in self._targets:
            return
        news = served not in self._registered[replica]
        self._registered[replica].add(served)
        if seconds is not None:
            self._load_s[replica, served] = seconds
        pushed_out = None
        if seconds is not None or (news and self._held[replica].p_resident(served, now) == 0.0):
            pushed_out = self._held[replica].used(served, now)
        if news or seconds is not None:
            self._tell(served, now, seconds)
        if pushed_out is not None:
            self._tell(pushed_out, now)

    def restarted(self, replica: str, now: float) -> None:
        """The replica was started anew: it holds nothing but what it lists."""
        held = self._held.get(replica)
        if held is not None:
            held.restarted()
            self._uses = {key: use for key, use in self._uses.items() if key[0] != replica}
            self._registered[replica].clear()
            self._known.clear()

    def holds(self, replica: str, slots: int | None, now: float) -> None:
        """The replica has room for so many adapters; None is for all."""
        held = self._held.get(replica)
        if held is not None and held.slots != slots:
            held.slots = slots
            self._known.clear()

    def gone(self, replica: str, served: str, now: float) -> None:
        """The replica does not know the adapter any more."""
        self._registered.get(replica, set()).discard(served)
        if replica in self._held:
            self._held[replica].forgotten(served)
        self._tell(served, now)

    def bar(self, replica: str, served: str, reason: str) -> None:
        """The replica cannot load the adapter; "" lets it in again."""
        if self._barred.get((replica, served), "") == reason:
            return
        self._barred[replica, served] = reason
        for target in self._targets.get(served, ()):
            self._live.bar(target, replica, reason)

    def refresh(self, now: float) -> None:
        """Works out the homes anew, and tells what time alone has changed."""
        rates = self._demand.rates(now)
        before = self.homes
        self.homes = self._placed(self._held, rates)
        shared = any(held.rate for held in self._held.values())
        for served in self._targets:
            demanded = served in rates or served in self._pinned
            unsure = served not in self._known or (demanded and shared)
            if unsure or self.homes[served] != before.get(served):
                self._tell(served, now)

    # ------------------------------------------------------------ what should be

    def homes_among(self, replicas: Collection[str], now: float) -> Homes:
        """The homes of every adapter, if these replicas were all there are."""
        return self._placed(replicas, self._demand.rates(now))

    def _placed(self, replicas: Collection[str], rates: Mapping[str, float]) -> Homes:
        rooms = [Room(url, held.slots) for url, held in self._held.items() if url in replicas]
        before = {served: homes for served, homes in self.homes.items() if served in self._targets}
        # What nobody asks for stays where it is, and takes no room.
        demand = {
            served: rates.get(served, 0.0)
            for served in self._targets
            if served in rates
            or served in self._pinned
            or not before.get(served)
            or any(home not in replicas for home in before[served])
        }
        barred = [pair for pair, reason in self._barred.items() if reason]
        found = placed(demand, rooms, before, pinned=self._pinned, barred=barred)
        return {**before, **found}

    def wanted_at(
        self, replica: str, names: Iterable[str], now: float, homes: Homes | None = None
    ) -> list[str]:
        """Which of `names` should be loaded at a replica without being asked for: those at home
        there, or that would be by `homes`, the pinned and the hottest first, as many as it
        holds."""
        held = self._held.get(replica)
        if held is None:
            return []
        rates = self._demand.rates(now)
        homes = self.homes if homes is None else homes
        here = [name for name in names if replica in homes.get(name, ())]
        here.sort(key=lambda name: (name not in self._pinned, -rates.get(name, 0.0), name))
        return here[: held.slots]

    def slipping(self, replica: str, now: float) -> list[str]:
        """The pinned ones that would soon be evicted there if nobody used them."""
        held = self._held.get(replica)
        if held is None or held.slots is None:
            return []
        return [
            served
            for served in self._pinned
            if replica in self.homes.get(served, ())
            and served in self._registered[replica]
            and (held.behind(served) >= held.slots - 1 or held.p_resident(served, now) < 0.9)
        ]

    def kept(self, replica: str, served: str, now: float) -> None:
        """It was used there only so that it stays."""
        held = self._held.get(replica)
        if held is None:
            return
        pushed_out = held.used(served, now)
        self._tell(served, now)
        if pushed_out is not None:
            self._tell(pushed_out, now)

    def used_elsewhere(self, replica: str, served: str, times: int, now: float) -> None:
        """Another worker has sent so many requests for it there: they are demand, and use."""
        if replica in self._held and served in self._targets:
            self._demand.asked(served, now, times)
            self.kept(replica, served, now)

    def p_resident(self, replica: str, served: str, now: float) -> float:
        """P(the replica has it in memory)."""
        if served not in self._registered.get(replica, ()):
            return 0.0
        return self._held[replica].p_resident(served, now)

    # ------------------------------------------------------------ telling

    def _at_home(self, served: str, apart_from: str, now: float) -> bool:
        """Whether it is likely resident where it is at home."""
        return any(
            self.p_resident(home, served, now) >= COLD
            for home in self.homes.get(served, ())
            if home != apart_from
        )

    def _move(self, served: str, replica: str) -> None:
        """It is loaded there now, so that is its home from here on."""
        self.homes = {**self.homes, served: (replica, *self.homes.get(served, ())[1:])}

    def _tell(self, served: str, now: float, seconds: float | None = None) -> None:
        """What `decide` should know of the adapter at each replica."""
        targets = self._targets.get(served)
        if not targets:
            return
        self._known.add(served)
        homes = self.homes.get(served, ())
        at = {url: self.p_resident(url, served, now) for url in self._held}
        at_home = max((at.get(home, 0.0) for home in homes), default=0.0)
        for url, resident in at.items():
            spare = 0.0 if url in homes else at_home
            load_s = self._load_s.get((url, served))
            for target in targets:
                self._live.resident(target, url, resident, load_s, spare=spare)
                if seconds is not None:
                    self._live.loaded(target, url, now)
