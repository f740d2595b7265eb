"""A local stand-in for a provider that speaks OpenAI's API, or for a vLLM server."""

from gateway.standin.behaviour import (
    LEAKY_HEADERS,
    Asked,
    Behaviour,
    Fault,
    FaultKind,
    Reply,
    ToolCall,
    echo,
    say,
    table,
)
from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn
from gateway.standin.wire import Seen

__all__ = [
    "LEAKY_HEADERS",
    "Asked",
    "Behaviour",
    "Fault",
    "FaultKind",
    "Reply",
    "Seen",
    "StandIn",
    "ToolCall",
    "Vllm",
    "echo",
    "say",
    "table",
]
