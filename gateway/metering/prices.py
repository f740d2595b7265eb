"""What an answer costs, and how much of it there was when the backend did not say."""

from gateway.types.backends import Price
from gateway.types.records import Usage

BYTES_PER_TOKEN = 4
"""OpenAI's rule of thumb for English, "1 token ~= 4 chars", taken on UTF-8 bytes, so that scripts
of three bytes a character, which take more tokens, are not counted too low."""


def cost(usage: Usage, price: Price) -> float:
    """US dollars. `usage.input` counts all input tokens, the cached ones among them."""
    cached = min(usage.cached_input, usage.input)
    return (
        (usage.input - cached) * price.input
        + cached * price.cached_input
        + usage.output * price.output
    )


def estimate_tokens(text: str | bytes) -> int:
    """Tokens of a text by BYTES_PER_TOKEN, rounded up."""
    size = len(text) if isinstance(text, bytes) else len(text.encode(errors="replace"))
    return -(-size // BYTES_PER_TOKEN)
