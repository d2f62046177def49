"""A live ingest that is cut anywhere, within a look too, goes on with the same batches and the same cuts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from fakes import T0, clicked, line_of, shown
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.schema import Feature
from streaming.connection import Kafka
from streaming.deliveries import Delivery, IngestState
from streaming.events import RecordKind
from streaming.ingest import Ingest
from streaming.live import LiveSource, Polled, start_places
from streaming.partitioning import partitions_of
from streaming.settings import Batching, Cuts, EventTime, Settings, Windows

N = 2
SETTINGS = Settings(
    windows=Windows(click_window_ms=20, observation_window_ms=20, attribution_window_ms=60),
    event_time=EventTime(out_of_orderness_ms=10, alignment_ms=1_000, future_skew_ms=5_000),
    batching=Batching(batch_size=4, batch_interval_ms=40, linger_ms=25),
    cuts=Cuts(cut_interval_ms=15),
    features=(Feature(name="item", kind="categorical"),),
    kafka=Kafka(model="m"),
)
NAMES = [f"m.{kind.stem}[{p}]" for kind in RecordKind for p in range(N)]
IDS = [f"i{number}" for number in range(30)]
P_OF = dict(zip(IDS, partitions_of([name.encode() for name in IDS], N, "murmur2").tolist(), strict=True))  # type: ignore[union-attr]


class Looks:
    def __init__(self, looks: list[Polled]) -> None:
        self._looks = iter(looks)

    def poll(self, paused: frozenset[str]) -> Polled | None:
        return next(self._looks, None)


@st.composite
def looks_of(draw: st.DrawFn) -> list[Polled]:
    """Impressions and clicks that go on in time, by looks of one join partition each; some streams become idle."""
    offsets, looks, ids = dict.fromkeys(NAMES, 0), [], iter(IDS)
    now, at = 0, 0
    for _ in range(draw(st.integers(1, 12))):
        now += draw(st.integers(0, 30))
        p, records = draw(st.integers(0, N - 1)), {}
        for impression_id in [name for _, name in zip(range(draw(st.integers(0, 5))), ids, strict=False)]:
            at += draw(st.integers(0, 25))
            if P_OF[impression_id] != p:
                continue
            events = {"impressions": shown(impression_id, at, b'{"item":1}')}
            if draw(st.booleans()):
                events["clicks"] = clicked(impression_id, at + draw(st.integers(0, 20)))
            for stem, event in events.items():
                name = f"m.{stem}[{p}]"
                records.setdefault(name, []).append((offsets[name], impression_id.encode(), line_of(event)))
                offsets[name] += 1
        idle = draw(
            st.dictionaries(st.sampled_from([name for name in NAMES if name.endswith(f"[{p}]")]), st.booleans())
        )
        looks.append(Polled(T0 + now, records, idle))
    return [Polled(T0, {}, {f"m.conversions[{p}]": True}) for p in range(N)] + looks


def source_of(
    looks: list[Polled], state: IngestState | None = None, tap: Callable[[Polled], None] = lambda polled: None
) -> LiveSource:
    places = start_places(dict.fromkeys(NAMES, 0)) if state is None else state.places
    source = LiveSource(Looks(looks), SETTINGS, partitions=N, places=places, tap=tap)
    if state is not None:
        source.restore(state.source)
    return source


def told(deliveries: list[Delivery]) -> tuple[object, ...]:
    """Which groups, lines and cuts, in their order."""
    groups = [
        ([(e.impression.impression_id, e.slot, e.due_ms) for e in group.examples], group.at_ms)
        for delivery in deliveries
        for group in delivery.groups
    ]
    lines = [line for delivery in deliveries for line in delivery.lines]
    return groups, lines, [delivery.cut for delivery in deliveries if delivery.cut is not None]


@given(looks_of())
@hypothesis_settings(max_examples=150)
def test_cut_anywhere_a_live_ingest_goes_on_alike(looks: list[Polled]) -> None:
    tape: list[Polled] = []
    whole: list[Delivery] = []
    cuts: list[tuple[int, int, bytes]] = []
    for delivery in Ingest(SETTINGS, source_of(looks, tap=tape.append)).deliveries():
        whole.append(delivery)
        if delivery.cut is not None:
            cuts.append((len(whole), len(tape), msgspec.msgpack.encode(delivery.cut)))
    for done, read, encoded in cuts:
        state = msgspec.msgpack.decode(encoded, type=IngestState)
        resumed = Ingest(SETTINGS, source_of(tape[read:], state))
        resumed.restore(state)
        assert told(list(resumed.deliveries())) == told(whole[done:])
