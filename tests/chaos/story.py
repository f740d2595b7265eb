"""What happened when: who was surely healthy, who drained, and the timeline of a failure."""

import time
from collections.abc import Callable, Collection

import msgspec


class Ill(msgspec.Struct):
    """From before a server was harmed until it was seen to be well again."""

    server: str
    since: float
    until: float | None = None


class Drain(msgspec.Struct):
    """A target, backend or replica that is to get no requests.

    `since` is before it was commanded and `until` after it was enabled again; between `kept_since`
    and `kept_until` it was certainly drained. None where that has not come, or not been done.
    """

    subject: str
    since: float
    kept_since: float | None = None
    kept_until: float | None = None
    until: float | None = None


class Story:
    """The run's timeline, on one clock. Times in seconds since its beginning."""

    def __init__(self, *, aloud: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`aloud` prints each line as it is told."""
        self._aloud = aloud
        self._clock = clock
        self._began = clock()
        self._ills: list[Ill] = []
        self.drains: list[Drain] = []
        self.lines: list[tuple[float, str]] = []

    def now(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began

    def tell(self, what: str) -> None:
        """One line of the timeline."""
        self.lines.append((self.now(), what))
        if self._aloud:
            print(f"{self.now():8.3f}  {what}", flush=True)

    def ill(self, server: str) -> Ill:
        """Said before the server is harmed; end it by `well`."""
        ill = Ill(server, self.now())
        self._ills.append(ill)
        return ill

    def well(self, ill: Ill) -> None:
        """Said after the server was seen to answer again."""
        ill.until = self.now()

    def healthy(self, server: str, since: float, until: float) -> bool:
        """Whether the server was well all the time from `since` to `until`."""
        return not any(
            ill.server == server
            and ill.since <= until
            and (ill.until is None or ill.until >= since)
            for ill in self._ills
        )

    def drain(self, subject: str) -> Drain:
        """Said before it is drained; what is known later is noted in it."""
        drain = Drain(subject, self.now())
        self.drains.append(drain)
        return drain

    def offered(self, subjects: Collection[str], since: float, until: float) -> bool:
        """Whether none of these was, or may have been, drained between `since` and `until`."""
        return not any(
            drain.subject in subjects
            and drain.since <= until
            and (drain.until is None or drain.until >= since)
            for drain in self.drains
        )

    def around(self, since: float, until: float, margin: float = 3.0) -> str:
        """The timeline of that time and a little before and after."""
        return "\n".join(
            f"  {at:8.3f}  {what}"
            for at, what in self.lines
            if since - margin <= at <= until + margin
        )
