"""docs/metrics.md and an exposition, in a form in which they can be compared."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

PAGE = (Path(__file__).parents[1] / "docs/metrics.md").read_text()
_OWN_LABELS = {"le"}  # of a histogram's buckets

type Metrics = dict[str, tuple[str, frozenset[str]]]
"""Name → type and labels."""


def documented(prefix: str) -> Metrics:
    rows = re.findall(rf"^\| `({prefix}\w+)` \| (\w+) \|(.*?)\|", PAGE, re.MULTILINE)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def exposed(prefix: str, text: str) -> Metrics:
    """A family without a sample has no labels to be seen: let everything happen once before."""
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        labels = frozenset(label for sample in samples for label in sample.labels) - _OWN_LABELS
        name = samples[0].name if family.type == "counter" else family.name
        if name.startswith(prefix) and samples:
            found[name] = (family.type, labels)
    return found
