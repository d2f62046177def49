"""What joiners send, for tests: the blocks of each join partition of a log, made here without Kafka or Faust."""

from __future__ import annotations

from pathlib import Path

import msgspec
from fakes import ListLog
from worlds import lines_of

from streaming.example_blocks import Told, encode_block, encode_claim
from streaming.metrics import IngestFigures
from streaming.partitioning import partitions_of
from streaming.partitions import join_partition
from streaming.settings import Settings


def split(log: Path, partitions: int) -> list[dict[str, list[bytes]]]:
    """The lines of a log by join partition; those that nobody can read go to the first."""
    parts: list[dict[str, list[bytes]]] = [{} for _ in range(partitions)]
    for name, lines in lines_of(log).items():
        keys = [_key(line) for line in lines]
        found = partitions_of([key or b"" for key in keys], partitions, "murmur2")
        assert found is not None
        for part in parts:
            part[name] = []
        for line, key, p in zip(lines, keys, found.tolist(), strict=True):
            parts[p if key else 0][name].append(line)
    return parts


def _key(line: bytes) -> bytes | None:
    try:
        found = msgspec.json.decode(line)["impression_id"]
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
        return None
    return found.encode() if isinstance(found, str) else None


def blocks_of(log: Path, settings: Settings, partitions: int) -> list[list[bytes]]:
    """The records of `examples`, by partition: a claim, then blocks; the last of each says that it is idle."""
    found: list[list[bytes]] = []
    for p, lines in enumerate(split(log, partitions)):
        partition, blocks = join_partition(settings, p, None), [encode_claim(p)]
        figures = IngestFigures()
        for arrivals in ListLog(lines, settings, block=50):
            partition.on_arrivals(arrivals, figures)
            if partition.watermark_ms is not None:
                examples, _, _ = partition.advance(partition.watermark_ms, is_halt=False)
                blocks.append(
                    encode_block(
                        p,
                        examples,
                        watermark_ms=partition.watermark_ms,
                        is_idle=arrivals.is_last,
                        told=Told(0, number=len(blocks)),
                    )
                )
        found.append(blocks)
    return found
