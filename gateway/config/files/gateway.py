"""`gateway.yaml` as a whole."""

from pydantic import Field

from gateway.config.fields import CoordinatorUrl, Name, StoreUrl, Text
from gateway.config.files.backends import AnyBackend
from gateway.config.files.compositions import AnyComposition
from gateway.config.files.limits import QuotasPart
from gateway.config.files.part import Part
from gateway.config.files.server import ClassifierPart, CoordinatorPart, RetentionPart, ServerPart
from gateway.types.snapshot import Server

_SERVER = Server()


class GatewayFile(Part):
    """`gateway.yaml`: every backend, model, adapter and price, each declared once."""

    server: ServerPart = Field(
        default=ServerPart(),
        description="The gateway's own side.",
        examples=[{"listen": "127.0.0.1:8080"}],
    )
    store: StoreUrl = Field(
        default=_SERVER.store,
        description="Where requests, keys and revisions are kept.",
        examples=["postgresql://user@host/switchboard"],
    )
    retention: RetentionPart = Field(
        default=RetentionPart(),
        description="How long that is kept.",
        examples=[{"text": "30 d", "requests": "400 d"}],
    )
    coordinator: CoordinatorPart | CoordinatorUrl | None = Field(
        default=None,
        description="Redis: needed only with several workers or hosts. Its URL, or a mapping.",
        examples=["redis://host:6379", {"url": "redis://host:6379", "name": "switchboard"}],
    )
    classifier: ClassifierPart = Field(
        default=ClassifierPart(),
        description="How a text's route is learned.",
        examples=[{"kind": "lexical"}],
    )
    aliases: dict[Text, Text] = Field(
        default={},
        description="Names that applications already send, and the route or target meant, or"
        " `auto`.",
        examples=[{"gpt-4o": "auto"}],
    )
    default_route: Name = Field(
        description="The route of whatever no other route is recognised in.", examples=["general"]
    )
    limits: QuotasPart = Field(
        default=QuotasPart(),
        description="Limits and budgets of keys and tenants.",
        examples=[{"every_key": {"requests": "600/min", "budget": {"day": "10 usd"}}}],
    )
    backends: dict[Name, AnyBackend] = Field(
        min_length=1,
        description="Servers and providers by name.",
        examples=[
            {
                "local": {
                    "kind": "vllm",
                    "replicas": ["http://gpu-1:8000"],
                    "models": {"qwen": {"id": "Qwen/Qwen3-8B"}},
                }
            }
        ],
    )
    compositions: dict[Name, AnyComposition] = Field(
        default={},
        description="Targets made of other targets, by name; `composed/NAME` is one. See"
        " [compositions.md](compositions.md).",
        examples=[
            {
                "careful": {
                    "kind": "cascade",
                    "steps": ["local/qwen+support", "openai/mini"],
                    "checks": [{"kind": "regex", "pattern": "(billing|shipping)"}],
                }
            }
        ],
    )
