"""What goes wrong again and again, told once: a store that is away would fill the log otherwise."""

import logging


class Complaint:
    """One thing that may be wrong for a while."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        """`what` begins what is told."""
        self._log = log
        self._what = what
        self._said = ""

    def about(self, error: Exception) -> None:
        """It is wrong; told unless the same was told before."""
        text = str(error) or type(error).__name__
        if text != self._said:
            self._said = text
            self._log.warning("%s: %s", self._what, text)

    def over(self) -> None:
        """It is right again; told if it was wrong."""
        if self._said:
            self._said = ""
            self._log.warning("%s: it is well again", self._what)
