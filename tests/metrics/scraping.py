"""What Prometheus would have, from one scrape or the sum of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from eventstore import EventStore
from eventstore.metrics import exposition

Series = tuple[str, tuple[tuple[str, str], ...]]


class Scrape:
    """Series by name and labels, without ``schema``, which all have."""

    def __init__(self, series: Counter[Series]) -> None:
        self.series = series

    @classmethod
    def of(cls, text: bytes) -> Scrape:
        found: Counter[Series] = Counter()
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                labels = dict(sample.labels)
                assert labels.pop("schema")
                found[sample.name, tuple(sorted(labels.items()))] = sample.value  # type: ignore[assignment]
        return cls(found)

    @classmethod
    def sum(cls, scrapes: Iterable[Scrape]) -> Scrape:
        total: Counter[Series] = Counter()
        for scrape in scrapes:
            total.update(scrape.series)
        return cls(total)

    def __getitem__(self, key: str | tuple[str, dict[str, str]]) -> float:
        name, labels = (key, {}) if isinstance(key, str) else key
        return self.series[name, tuple(sorted(labels.items()))]

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.series}

    def labels(self, name: str, label: str) -> set[str]:
        return {dict(labels)[label] for found, labels in self.series if found == name}


async def scrape(store: EventStore, **options: object) -> Scrape:
    return Scrape.of(await exposition(store, **options))  # type: ignore[arg-type]
