"""Ingest on the live path, cut within a look: whoever goes on from there makes the same batches, lingering ones too."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from polled_logs import NOW_MS, polled_log, split_at
from worlds import HOUR_MS

from streaming.deliveries import IngestState
from streaming.ingest import Ingest
from streaming.live import LiveSource, Polled, start_places
from streaming.settings import Settings

Batches = list[list[tuple[int, int]]]


class Looks:
    def __init__(self, looks: Iterable[Polled]) -> None:
        self._looks = iter(looks)
        self.taken = 0

    def poll(self, paused: frozenset[str]) -> Polled | None:
        look = next(self._looks, None)
        self.taken += look is not None
        return look


@pytest.fixture(scope="module")
def polled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[Polled]]:
    """Forty looks, 400 ms apart, at two days of traffic; cuts every hour of it, and batches that may wait for a second."""
    settings, records = polled_log(
        tmp_path_factory.mktemp("looks") / "log", impressions=2_000, days=2.0, late_share=0.0, future_share=0.0
    )
    replace = msgspec.structs.replace
    settings = replace(
        settings,
        cuts=replace(settings.cuts, cut_interval_ms=HOUR_MS),
        batching=replace(settings.batching, batch_size=64, linger_ms=1_000, batch_interval_ms=100 * HOUR_MS),
        event_time=replace(settings.event_time, alignment_ms=1_000 * HOUR_MS, stall_hold_ms=1),
    )
    looks = split_at(records, [number / 40 for number in range(1, 40)])
    return settings, [replace(look, now_ms=NOW_MS + 400 * number) for number, look in enumerate(looks)]


def went(
    settings: Settings, looks: list[Polled], state: IngestState | None = None
) -> tuple[Batches, list[tuple[int, int, IngestState]]]:
    """Batches as (due, kind) of their rows; and after how many batches and looks each cut came."""
    names = [settings.kafka.topic(stem) + "[0]" for stem in ("impressions", "clicks", "conversions")]
    places = start_places(dict.fromkeys(names, 0)) if state is None else state.places
    polls = Looks(looks)
    source = LiveSource(polls, settings, partitions=1, places=places)
    ingest = Ingest(settings, source)
    if state is not None:
        source.restore(state.source)
        ingest.restore(state)
    batches: Batches = []
    cuts = []
    for delivery in ingest.deliveries():
        for group in delivery.groups:
            batches.append(list(zip(group.examples.due_ms.tolist(), group.examples.kinds.tolist(), strict=True)))
        if delivery.cut is not None:
            cuts.append((len(batches), polls.taken, delivery.cut))
    return batches, cuts


def test_cut_within_a_look_the_batches_that_follow_are_those_of_a_run_that_was_not_cut(
    polled: tuple[Settings, list[Polled]],
) -> None:
    settings, looks = polled
    whole, cuts = went(settings, looks)
    within = [cut for cut in cuts if cut[2].look is not None]
    assert len(within) > 20
    assert len({len(batch) for batch in whole}) > 5, "some batches lingered, and were not full"
    for made, taken, state in within[:: max(len(within) // 25, 1)]:
        assert went(settings, looks[taken:], state)[0] == whole[made:]
