"""What differs, by key path; and no secret in it."""

from collections.abc import Mapping

from gateway.revisions.diff import HIDDEN, Change, Written, differences
from tests.config.trees import CONTRACTS, FILES, GATEWAY


def diff(changes: Mapping[str, str | None], environment: str | None = None) -> list[Change]:
    files = {name: text for name, text in {**FILES, **changes}.items() if text is not None}
    return differences(Written(FILES), Written(files, environment))


def test_layout_comments_and_order_are_no_difference() -> None:
    moved = "# all of it\n" + GATEWAY.replace("default_route: general\n", "")
    assert diff({"gateway.yaml": moved + "default_route:   'general'   # here\n"}) == []


def test_each_difference_is_told_by_its_key() -> None:
    changed = diff(
        {
            "gateway.yaml": GATEWAY.replace("output: 2 usd/Mtok", "output: 3 usd/Mtok").replace(
                "{gpt-4o: auto}", "{gpt-5: auto}"
            ),
            "routes/contract-summary.yaml": CONTRACTS.replace("0.97", "0.9").replace(
                "lessee", "lessor"
            ),
            "routes/general.yaml": None,
            "prompts/contracts-base.md": "You summarise clauses.\nBriefly.\n",
        }
    )
    told = {each.path: (each.kind, each.old, each.new) for each in changed}
    gone = told.pop("routes.general")
    assert gone[0] == "removed"
    assert told == {
        "backends.openai.models.mini.price.output": ("changed", "2 usd/Mtok", "3 usd/Mtok"),
        "aliases.gpt-4o": ("removed", "auto", ""),
        "aliases.gpt-5": ("added", "", "auto"),
        "routes.contract-summary.candidates[local/qwen+contracts].quality": (
            *("changed", "0.97", "0.9"),
        ),
        "routes.contract-summary.match.keywords[lessee]": ("removed", "lessee", ""),
        "routes.contract-summary.match.keywords[lessor]": ("added", "", "lessor"),
        "prompts.prompts/contracts-base.md": (
            *("changed", "1 line, 22 characters", "2 lines, 31 characters"),
        ),
    }


def test_what_may_be_a_secret_is_never_shown() -> None:
    secret = GATEWAY.replace("${OPENAI_API_KEY}", "sk-in-the-file").replace(
        "    url: https://api.openai.com/v1",
        "    url: https://me:pass-word@api.openai.com/v1\n    headers: {x-team: hush-hush}",
    )
    changed = diff({"gateway.yaml": secret + "store: postgresql://a:pass-word@db/x\n"})
    said = "\n".join(map(str, changed))
    assert not any(each in said for each in ("sk-in-the-file", "pass-word", "hush-hush"))
    (key,) = (each for each in changed if each.path == "backends.openai.api_key")
    assert (key.old, key.new) == ("${OPENAI_API_KEY}", HIDDEN)
    assert [each.path for each in changed if each.at_start] == ["store"]


def test_a_default_of_a_variable_counts_and_shows() -> None:
    one, two = (GATEWAY.replace("general", "${R:-" + each + "}", 1) for each in ("a", "b"))
    (change,) = differences(Written({"gateway.yaml": one}), Written({"gateway.yaml": two}))
    assert (change.old, change.new) == ("${R:-a}", "${R:-b}")


def test_an_overlay_counts_where_it_is_chosen() -> None:
    overlay = {"gateway.prod.yaml": "aliases: {gpt-4o: null, big: general}\n"}
    assert [each.path for each in diff(overlay, "prod")] == ["aliases.gpt-4o", "aliases.big"]
    assert diff(overlay) == []
