"""Deliveries as bytes: nothing is lost or changed on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import ListLog
from worlds import HOUR_MS, lines_of, small_log, small_settings

from streaming.deliveries import Delivery
from streaming.ingest import Ingest
from streaming.wire import decode_delivery, encode_delivery


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("wire") / "log", impressions=1_500, days=1.5)


def plain(value: Any) -> Any:
    """Anything that a delivery holds, so that two can be compared with ==: arrays with their type and bits."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__slots__") and not isinstance(value, msgspec.Struct | str | bytes):
        return {name: plain(getattr(value, name)) for name in value.__slots__}
    return value


@pytest.mark.parametrize("labels", [{"method": "survival"}, {"method": "es_dfm", "delay_model": "heads"}])
def test_a_delivery_comes_back_as_it_was(log: Path, labels: dict[str, object]) -> None:
    settings = small_settings(log, labels=labels, cuts={"cut_interval_ms": HOUR_MS})
    kinds: set[int] = set()
    cuts = 0
    for delivery in Ingest(settings, ListLog(lines_of(log), settings, block=500)).deliveries():
        back = decode_delivery(encode_delivery(delivery))
        assert isinstance(back, Delivery)
        assert plain(back) == plain(delivery)
        kinds |= {kind for group in delivery.groups for kind in group.examples.kinds.tolist()}
        cuts += delivery.cut is not None
        for group in back.groups:
            assert group.batch.inputs.ids.flags.writeable  # torch warns of memory that it must not write to
            assert all(
                example.impression is group.examples.impressions[place]
                for place, example in zip(group.examples.places.tolist(), group.examples.others, strict=True)
            )
    assert len(kinds) >= 5
    assert cuts > 10


def test_what_is_no_delivery_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_delivery(b"\x93\x01\x02\x03")
