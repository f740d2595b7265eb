"""Physical quantities as people write them: `0.25 usd/Mtok`, `800 ms`, `5 %`, `32 MiB`.

A quantity is a plain decimal number and a unit, with or without a space between. Everything is
read into the unit that `gateway.types` uses: dollars, dollars per token, dollars per second,
seconds, shares of 1, bytes. The arithmetic is decimal, so `0.1 usd` is exactly the float 0.1.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal, localcontext

import msgspec

from gateway.config.words import closest

_NUMBER = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_QUANTITY = re.compile(rf"\s*(?P<sign>[+-]?)(?P<number>{_NUMBER})\s*(?P<unit>[^\s0-9.,].*?)?\s*")
_DIGITS = 80
"""Decimal places to reckon with: more than any float's shortest form times any factor needs."""


class Dimension(msgspec.Struct, frozen=True):
    """A kind of quantity. `units` are factors to the first power of the domain's own unit.

    `bare` says that a number without any unit is one too.
    """

    what: str
    units: Mapping[str, Decimal]
    example: str
    bare: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression (ECMA) of what `parse` takes, for editors."""
        units = "|".join(re.escape(unit) for unit in self.units)
        return rf"^\s*({_NUMBER})\s*({units}){'?' if self.bare else ''}\s*$"


MONEY = Dimension("money", {"usd": Decimal(1)}, "0.01 usd")
TOKEN_PRICE = Dimension(
    "a price per token",
    {"usd/Mtok": Decimal("1e-6"), "usd/ktok": Decimal("1e-3"), "usd/tok": Decimal(1)},
    "0.25 usd/Mtok",
)
WAITING = Dimension(
    "a cost of waiting", {"usd/s": Decimal(1), "usd/ms": Decimal(1000)}, "0.002 usd/s"
)
DURATION = Dimension(
    "a time",
    {
        "s": Decimal(1),
        "ms": Decimal("1e-3"),
        "m": Decimal(60),
        "h": Decimal(3600),
        "d": Decimal(86400),
    },
    "1.5 s",
)
SHARE = Dimension("a share", {"%": Decimal("0.01")}, "5 %", bare=True)
POINTS = Dimension(
    "a difference of shares",
    {"points": Decimal("0.01"), "point": Decimal("0.01")},
    "2 points",
)
SIZE = Dimension(
    "a size",
    {
        "B": Decimal(1),
        "kB": Decimal(10**3),
        "MB": Decimal(10**6),
        "GB": Decimal(10**9),
        "KiB": Decimal(2**10),
        "MiB": Decimal(2**20),
        "GiB": Decimal(2**30),
    },
    "32 MiB",
)


_RATE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kM]?)\s*/\s*(s|min|h)\s*")
RATE_PATTERN = r"^\s*[0-9]+(\.[0-9]+)?\s*[kM]?\s*/\s*(s|min|h)\s*$"
"""A regular expression (ECMA) of what `parse_rate` takes."""

_PER_S = {"s": 1.0, "min": 60.0, "h": 3600.0}
_TIMES = {"": 1, "k": 1000, "M": 1_000_000}


class UnitError(ValueError):
    """What was written is not a quantity of this dimension; `mend` says what to write."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend


def parse(written: str | int | float, dimension: Dimension) -> float:
    """The quantity in the domain's own unit; raises UnitError."""
    text = f"{Decimal(repr(written)):f}" if isinstance(written, float) else str(written)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UnitError(f"`{written}` is not {dimension.what}", _mend(text, dimension))
    if match["sign"] == "-":
        raise UnitError(f"`{written}` is below zero", _mend(text, dimension))
    factor = _factor(match["number"], match["unit"], dimension)
    with localcontext(prec=_DIGITS):
        value = float(Decimal(match["number"]) * factor)
    if not math.isfinite(value):
        raise UnitError("the number is too large", _mend("", dimension))
    return value


def parse_rate(written: str) -> tuple[int, float]:
    """`600/min` or `100k/min`: how many in how many seconds; raises UnitError."""
    match = _RATE.fullmatch(written)
    if match is None:
        mend = "write a number and the time that it is for: `600/min`, `100k/min`, `10/s`"
        raise UnitError(f"`{written}` is not a rate", mend)
    amount = Decimal(match[1]) * _TIMES[match[2]]
    if amount != int(amount) or not 0 < amount <= 10**12:
        raise UnitError(f"`{written}` is not a whole number above 0", "write it as `600/min`")
    return int(amount), _PER_S[match[3]]


def format_rate(amount: int, per_s: float) -> str:
    """The shortest way to write a rate, so that `parse_rate` gives it back."""
    number = str(amount)
    for letter, times in (("M", 1_000_000), ("k", 1000)):
        if amount % times == 0:
            number = f"{amount // times}{letter}"
            break
    return f"{number}/{next(unit for unit, seconds in _PER_S.items() if seconds == per_s)}"


def format(value: float, dimension: Dimension) -> str:
    """The shortest way to write `value` exactly, so that `parse` gives it back.

    Raises ValueError for a value that is negative or not finite.
    """
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value} is not {dimension.what}")
    exact = Decimal(repr(value))
    ways = []
    with localcontext(prec=_DIGITS):
        for unit, factor in dimension.units.items():
            number = exact / factor
            if number * factor == exact:
                ways.append(f"{_plain(number)} {unit}")
    return min(ways, key=len)


def _factor(number: str, unit: str | None, dimension: Dimension) -> Decimal:
    if unit is None:
        if dimension.bare:
            return Decimal(1)
        first = next(iter(dimension.units))
        raise UnitError(f"`{number}` has no unit", f"write `{number} {first}`")
    factor = dimension.units.get(unit)
    if factor is None:
        near = next((each for each in dimension.units if each.startswith(f"{unit}/")), None)
        near = near or closest(unit, dimension.units)
        there = ", ".join(f"`{each}`" for each in dimension.units)
        mend = f"{_mend(number, dimension)}, in one of {there}"
        raise UnitError(
            f"unknown unit `{unit}`", f"did you mean `{number} {near}`?" if near else mend
        )
    return factor


def _mend(text: str, dimension: Dimension) -> str:
    dollars = re.fullmatch(rf"\s*\$\s*({_NUMBER})\s*", text)
    if dollars is not None and "usd" in dimension.units:
        return f"write `{dollars[1]} usd`"
    return f"{dimension.what} is written as `{dimension.example}`"


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
