import pytest

from gateway.metering.prices import cost, estimate_tokens
from gateway.types.backends import Price
from gateway.types.records import Usage

PRICE = Price(input=2e-6, cached_input=0.5e-6, output=8e-6)


def test_cached_input_is_paid_at_its_own_price() -> None:
    usage = Usage(input=1000, cached_input=400, output=10)

    assert cost(usage, PRICE) == pytest.approx(600 * 2e-6 + 400 * 0.5e-6 + 10 * 8e-6)


def test_more_cached_than_input_is_never_a_credit() -> None:
    assert cost(Usage(input=100, cached_input=900), PRICE) == pytest.approx(100 * 0.5e-6)


def test_nothing_used_costs_nothing() -> None:
    assert cost(Usage(), PRICE) == 0.0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("日本語", 3), (b"abcdefgh", 2), ("\ud800", 1)],
)
def test_tokens_are_a_quarter_of_the_bytes(text: str | bytes, tokens: int) -> None:
    assert estimate_tokens(text) == tokens
