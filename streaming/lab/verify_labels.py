"""The examples that must have left, worked out a second time from the joined facts, in SQL; must not know how they were joined.

A kind is a query over `joined`, which has a row an impression (`verify_sql`), or over `observed`, its clicks at the end of their
observation window; a method is the kinds it sees. All methods see UNCLICKED, CLICKED, AGED and OUTCOME.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import NamedTuple

from streaming.lab.verify_lines import VerifyError

_OF_ALL = ("CLICK", "AGED", "OUTCOME")
_SOON = ("IMMEDIATE_POSITIVE", "OBSERVED_NEGATIVE", "DELAYED_POSITIVE")
_SETTLED = (*_SOON, "REAL_NEGATIVE")
_REVISITED = (*_SETTLED, "REVISIT")


class Labels(NamedTuple):
    """What decides which examples a method has: the kinds on a click it sees, and whether it observes at the click (w_o = 0)."""

    kinds: tuple[str, ...]
    observes_at_click: bool = False


METHODS = {
    "mature": Labels(("MATURED",)),
    "window": Labels(("IMMEDIATE_POSITIVE", "OBSERVED_NEGATIVE")),
    "fnw": Labels(_SOON, observes_at_click=True),
    "fnc": Labels(_SOON, observes_at_click=True),
    "es_dfm": Labels(_SOON),
    "defer": Labels(_SETTLED),
    "defuse": Labels(_SOON),
    "ddfm": Labels(_SETTLED),
    "survival": Labels(_REVISITED),
    "bi_defuse": Labels(_SOON),
    "dfm": Labels(_REVISITED),
    "oracle": Labels(("ORACLE",)),
}
"""The methods of docs/formats.md."""


def labels_of(method: str) -> Labels:
    """What a method sees; one of a user's own is asked.

    Raises:
        VerifyError: there is no such method here.
    """
    if method in METHODS:
        return METHODS[method]
    module, colon, name = method.partition(":")
    if not colon:
        raise VerifyError(
            f"labels.method {method!r} cannot be verified (can be: {', '.join(METHODS)}, or module:NAME): "
            "replay the log with one of these; the joined facts are the same under every method"
        )
    try:
        own = getattr(importlib.import_module(module), name)
        return Labels(tuple(event.name for event in own.sees), observes_at_click=own.observes_at_click)
    except (ImportError, AttributeError) as error:
        raise VerifyError(
            f"labels.method {method!r} cannot be asked what it sees ({error}): verify where the run was made, its module on PYTHONPATH"
        ) from error


# What is shared by all: impressions with the facts that were found for them, and clicks as they stood when first looked at.
_HEAD = """
CREATE TABLE expected AS
WITH joined AS (
    SELECT shown.id AS impression_id, shown.t AS impression_ms, click_ms, click_at_ms, conversion_ms, conversion_at_ms, record.value,
           click_ms + attribution_window() AS outcome_ms
    FROM shown LEFT JOIN converted ON converted.shown_n = shown.n LEFT JOIN record ON record.n = converted.n
), observed AS (
    SELECT *, greatest(click_ms + observation_window(), click_at_ms) AS observed_ms,
           coalesce(conversion_at_ms <= observed_ms AND conversion_ms - click_ms <= observation_window(), false) AS is_soon
    FROM joined WHERE click_ms IS NOT NULL
), due AS (
"""

_TAIL = """
)
SELECT impression_id, slot, kind, 0::BIGINT AS p, due_ms, impression_ms, click_ms,
       CASE WHEN kind = 'ORACLE' OR conversion_at_ms <= due_ms THEN conversion_ms END AS conversion_ms, label AS converted,
       CASE WHEN kind = 'ORACLE' OR conversion_at_ms <= due_ms THEN value END AS value
FROM due WHERE due_ms < final_watermark();
"""

_KINDS = {
    "CLICK": """
    SELECT *, 'click' AS slot, CASE WHEN click_ms IS NULL THEN 'UNCLICKED' ELSE 'CLICKED' END AS kind,
           impression_ms + click_window() AS due_ms, false AS label FROM joined""",
    "IMMEDIATE_POSITIVE": """
    SELECT *, 'observed' AS slot, 'IMMEDIATE_POSITIVE' AS kind, observed_ms AS due_ms, true AS label FROM observed WHERE is_soon""",
    "OBSERVED_NEGATIVE": """
    SELECT *, 'observed' AS slot, 'OBSERVED_NEGATIVE' AS kind, observed_ms AS due_ms, false AS label FROM observed WHERE NOT is_soon""",
    "REVISIT": """
    SELECT observed.*, 'revisit_' || k AS slot, 'REVISIT' AS kind, greatest(click_ms + age_ms, click_at_ms) AS due_ms, false AS label
    FROM observed, look WHERE conversion_at_ms IS NULL OR conversion_at_ms > greatest(click_ms + age_ms, click_at_ms)""",
    "AGED": """
    SELECT observed.*, 'aged_' || k AS slot, 'AGED' AS kind, greatest(click_ms + age_ms, conversion_at_ms) AS due_ms, true AS label
    FROM observed, edge WHERE conversion_ms - click_ms <= age_ms""",
    "DELAYED_POSITIVE": """
    SELECT *, 'settled' AS slot, 'DELAYED_POSITIVE' AS kind, conversion_at_ms AS due_ms, true AS label
    FROM observed WHERE conversion_ms IS NOT NULL AND NOT is_soon""",
    "REAL_NEGATIVE": """
    SELECT *, 'settled' AS slot, 'REAL_NEGATIVE' AS kind, outcome_ms AS due_ms, false AS label FROM observed WHERE conversion_ms IS NULL""",
    "MATURED": """
    SELECT *, 'settled' AS slot, 'MATURED' AS kind, outcome_ms AS due_ms, conversion_ms IS NOT NULL AS label FROM observed""",
    # What the log itself, not closed, says in the end; a click of which it does not say has none.
    "ORACLE": """
    SELECT *, 'observed' AS slot, 'ORACLE' AS kind, click_at_ms AS due_ms, conversion_ms IS NOT NULL AS label
    FROM observed WHERE outcome_ms < reached_watermark()""",
    "OUTCOME": """
    SELECT *, 'outcome' AS slot, 'OUTCOME' AS kind, outcome_ms AS due_ms, conversion_ms IS NOT NULL AS label FROM observed""",
}


def expected_examples(labels: Labels) -> str:
    """The statement that makes the table `expected`: the examples that must have left, with the facts known when due."""
    return _HEAD + "\n    UNION ALL BY NAME".join(_KINDS[kind] for kind in (*_OF_ALL, *labels.kinds)) + _TAIL


def ages(name: str, numbered_ms: Iterable[tuple[int, int]]) -> str:
    """The statement that makes a table of ages: number `k`, `age_ms`."""
    rows = [f"({k}, {age_ms})" for k, age_ms in numbered_ms]
    return f"CREATE TABLE {name} AS SELECT * FROM (VALUES {', '.join(['(0, 0)', *rows])}) row(k, age_ms) WHERE k > 0"
