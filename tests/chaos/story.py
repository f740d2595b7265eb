"""What happened when: who was surely healthy, and the timeline that a failure is told with."""

import time
from collections.abc import Callable

import msgspec


class Ill(msgspec.Struct):
    """From before a server was harmed until it was seen to be well again."""

    server: str
    since: float
    until: float | None = None


class Story:
    """The run's timeline, on one clock. Times in seconds since its beginning."""

    def __init__(self, *, aloud: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`aloud` prints each line as it is told."""
        self._aloud = aloud
        self._clock = clock
        self._began = clock()
        self._ills: list[Ill] = []
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

    def around(self, since: float, until: float, margin: float = 3.0) -> str:
        """The timeline of that time and a little before and after."""
        return "\n".join(
            f"  {at:8.3f}  {what}"
            for at, what in self.lines
            if since - margin <= at <= until + margin
        )
