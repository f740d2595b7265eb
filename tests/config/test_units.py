"""Quantities: what people write, read exactly, and written back."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import units
from gateway.config.docs import page
from gateway.config.units import (
    DURATION,
    MONEY,
    POINTS,
    SHARE,
    SIZE,
    TOKEN_PRICE,
    WAITING,
    Dimension,
    UnitError,
)

DIMENSIONS = (MONEY, TOKEN_PRICE, WAITING, DURATION, SHARE, SIZE)

some_dimension = st.sampled_from(DIMENSIONS)
some_value = st.floats(min_value=0, max_value=1e15, allow_nan=False, allow_subnormal=False)
some_number = st.decimals(
    min_value=0, max_value=10**12, places=6, allow_nan=False, allow_infinity=False
)


@pytest.mark.parametrize(
    ("written", "dimension", "value"),
    [
        ("0.01 usd", MONEY, 0.01),
        ("2.20usd", MONEY, 2.2),
        ("0.25 usd/Mtok", TOKEN_PRICE, 0.25e-6),
        ("2 usd/Mtok", TOKEN_PRICE, 2e-6),
        ("1 usd/ktok", TOKEN_PRICE, 0.001),
        ("0.002 usd/s", WAITING, 0.002),
        ("1.5 s", DURATION, 1.5),
        ("800 ms", DURATION, 0.8),
        ("5 m", DURATION, 300.0),
        ("2 h", DURATION, 7200.0),
        ("5 %", SHARE, 0.05),
        ("0.05", SHARE, 0.05),
        (0.97, SHARE, 0.97),
        (1, SHARE, 1.0),
        (1e-7, SHARE, 1e-7),
        (".5 %", SHARE, 0.005),
        ("32 MiB", SIZE, 33_554_432.0),
        ("64 kB", SIZE, 64_000.0),
        ("  1  s  ", DURATION, 1.0),
    ],
)
def test_reads(written: str | float, dimension: Dimension, value: float) -> None:
    assert units.parse(written, dimension) == value


@pytest.mark.parametrize(
    ("written", "dimension", "message", "mend"),
    [
        ("0.01", MONEY, "has no unit", "write `0.01 usd`"),
        (3, DURATION, "has no unit", "write `3 s`"),
        ("$0.01", MONEY, "is not money", "write `0.01 usd`"),
        ("1 USD", MONEY, "unknown unit `USD`", "did you mean `1 usd`?"),
        ("1 eur", MONEY, "unknown unit `eur`", "money is written as `0.01 usd`"),
        ("0.25 usd", TOKEN_PRICE, "unknown unit `usd`", "did you mean `0.25 usd/Mtok`?"),
        ("1 mib", SIZE, "unknown unit `mib`", "did you mean `1 MiB`?"),
        ("1 y", DURATION, "unknown unit `y`", "`1.5 s`, in one of `s`, `ms`, `m`, `h`, `d`"),
        ("-1 s", DURATION, "below zero", "written as `1.5 s`"),
        ("-1", DURATION, "`-1` is below zero", "written as `1.5 s`"),
        ("1,5 s", DURATION, "is not a time", "written as `1.5 s`"),
        ("1e3 s", DURATION, "unknown unit", "written as `1.5 s`"),
        ("soon", DURATION, "is not a time", "written as `1.5 s`"),
        ("", SHARE, "is not a share", "written as `5 %`"),
        ("1 s 2 s", DURATION, "unknown unit", "written as"),
        ("9" * 400 + " usd", MONEY, "too large", "written as"),
    ],
)
def test_refuses_with_a_mend(
    written: str | float, dimension: Dimension, message: str, mend: str
) -> None:
    with pytest.raises(UnitError) as refused:
        units.parse(written, dimension)
    assert message in refused.value.message
    assert mend in refused.value.mend


def test_the_page_of_units_lacks_none() -> None:
    table = [line for line in page().splitlines() if line.startswith("| ")]
    rows = {row.split(" | ")[1]: row.split(" | ")[2] for row in table if row.count(" | ") == 2}
    for dimension in (*DIMENSIONS, POINTS):
        (written,) = [row for example, row in rows.items() if f"`{dimension.example}`" in example]
        assert not [unit for unit in dimension.units if f"`{unit}`" not in written], dimension.what
    assert [example for example in rows if "`600/min`" in example]


@given(some_value, some_dimension)
def test_what_is_written_reads_as_the_same(value: float, dimension: Dimension) -> None:
    assert units.parse(units.format(value, dimension), dimension) == value


@given(some_number, some_dimension, st.data())
def test_writing_what_was_read_is_stable(
    number: Decimal, dimension: Dimension, data: st.DataObject
) -> None:
    unit = data.draw(st.sampled_from(sorted(dimension.units)))
    value = units.parse(f"{number:f} {unit}", dimension)
    written = units.format(value, dimension)
    assert units.format(units.parse(written, dimension), dimension) == written


@given(some_number, some_number, some_dimension, st.data())
def test_order_is_kept(
    one: Decimal, other: Decimal, dimension: Dimension, data: st.DataObject
) -> None:
    unit = data.draw(st.sampled_from(sorted(dimension.units)))
    low, high = sorted((one, other))
    assert units.parse(f"{low:f} {unit}", dimension) <= units.parse(f"{high:f} {unit}", dimension)


@given(st.text(max_size=20), some_dimension)
def test_any_text_is_a_quantity_or_refused(text: str, dimension: Dimension) -> None:
    try:
        value: float | None = units.parse(text, dimension)
    except UnitError as refused:
        value = None
        mend = refused.mend
    assert value is None or value >= 0
    assert value is not None or mend


@given(some_value, some_dimension)
def test_an_editors_pattern_takes_what_is_written(value: float, dimension: Dimension) -> None:
    assert re.search(dimension.pattern, units.format(value, dimension))


@pytest.mark.parametrize(
    ("value", "dimension", "written"),
    [
        (65536, SIZE, "64 KiB"),
        (0.25e-6, TOKEN_PRICE, "0.25 usd/Mtok"),
        (90.0, DURATION, "90 s"),
        (7200.0, DURATION, "2 h"),
        (0.8, SHARE, "80 %"),
        (0.0, MONEY, "0 usd"),
    ],
)
def test_writes_the_shortest_way(value: float, dimension: Dimension, written: str) -> None:
    assert units.format(value, dimension) == written


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_writes_no_quantity_that_cannot_be(value: float) -> None:
    with pytest.raises(ValueError, match="is not money"):
        units.format(value, MONEY)
