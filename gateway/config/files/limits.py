"""Limits and budgets, of keys and tenants in `gateway.yaml` and of a route in its file."""

from pydantic import Field

from gateway.config.fields import HeaderValue, Money, Rated, Share, Text, Url, Whole
from gateway.config.files.part import Part


class BudgetPart(Part):
    """What may be spent."""

    day: Money | None = Field(default=None, description="In a day of UTC.", examples=["10 usd"])
    month: Money | None = Field(
        default=None, description="In a month of UTC.", examples=["200 usd"]
    )


class QuotaPart(Part):
    """Limits and budgets; each that is left out is none."""

    requests: Rated | None = Field(
        default=None,
        description="Requests in any minute (or second, or hour).",
        examples=["600/min"],
    )
    tokens: Rated | None = Field(
        default=None,
        description="Tokens, of input and output, in any minute (or second, or hour).",
        examples=["100k/min"],
    )
    concurrent: Whole | None = Field(default=None, description="Requests at once.", examples=[20])
    budget: BudgetPart = Field(
        default=BudgetPart(),
        description="What may be spent.",
        examples=[{"day": "10 usd", "month": "200 usd"}],
    )


class AlertsPart(Part):
    """Who is told when a share of a budget is spent."""

    at: list[Share] = Field(
        default=[0.5, 0.8, 1.0],
        min_length=1,
        description="At which shares of a day's or a month's budget; once each.",
        examples=[["50 %", "80 %", "100 %"]],
    )
    webhook: Url = Field(
        description="Where a JSON object is sent by POST. Redirects are not followed.",
        examples=["https://alerts.example/switchboard"],
    )
    secret: HeaderValue = Field(
        description="What it is signed with, by HMAC-SHA256.",
        examples=["${SWITCHBOARD_ALERTS_SECRET}"],
    )


class QuotasPart(Part):
    """Limits and budgets of keys and tenants."""

    every_key: QuotaPart | None = Field(
        default=None,
        description="Of each key; a key may have others: `switchboard keys limit`.",
        examples=[{"requests": "600/min", "budget": {"day": "10 usd"}}],
    )
    every_tenant: QuotaPart | None = Field(
        default=None,
        description="Of each tenant, all of its keys together.",
        examples=[{"budget": {"month": "500 usd"}}],
    )
    tenants: dict[Text, QuotaPart] = Field(
        default={},
        description="Of one tenant; what is left out is as for every tenant.",
        examples=[{"acme": {"budget": {"month": "2000 usd"}}}],
    )
    alerts: AlertsPart | None = Field(
        default=None,
        description="Who is told when a share of a budget is spent.",
        examples=[
            {
                "webhook": "https://alerts.example/switchboard",
                "secret": "${SWITCHBOARD_ALERTS_SECRET}",
            }
        ],
    )
