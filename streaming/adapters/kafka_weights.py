"""Published weights in a compacted topic: writes each version in one transaction. Decides nothing about weights.

One partition, and by key:

    epoch                            the newest epoch that was issued
    held                             why publishing is held; empty once it is not
    current                          name of the version to serve
    NAME                             manifest.json; headers: sha256 of it, chunks
    NAME/PART/NUMBER/DIGEST          the bytes of a chunk

The writers of a model share one transactional id, so a new one fences those before it: what a stale trainer sends is refused by the
broker, whole. Read what is committed, and nothing is half visible. Versions that are too old are deleted by empty records.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import kafka
import kafka.errors

from models.chains import retained
from models.manifest import DamagedWeightsError, Published, decode_manifest, parse_name, version_name
from streaming.adapters.kafka_connection import BrokerError, connected
from streaming.adapters.kafka_weights_source import SHORT, KafkaWeightsError, WeightsTopic, reaching_weights
from streaming.chunks import Chunked, split
from streaming.connection import Credentials, Kafka
from streaming.ports import GapError, HeldError, StaleVersionError

_FENCED = (
    kafka.errors.ProducerFencedError,
    kafka.errors.InvalidProducerEpochError,
    kafka.errors.InvalidProducerIdMappingError,  # a producer that wrote nothing for a week is forgotten
)
_TRIES = 5  # to begin anew, where two begin at one moment and fence each other
_DELIVERY_MS = 30_000
_TRANSACTION_MS = 300_000  # for all of a version
_FLUSH_BYTES = 16_777_216  # on their way at once: each record must be there within _DELIVERY_MS
_SPARE = 16_384  # bytes of a request beside the chunk in it


class KafkaTarget:
    """Publishes the versions of a model into its topic.

    Args:
        settings: which brokers and model. secret: who asks.
        versions_kept: how many of the newest versions stay, and all that they are deltas to.

    Raises:
        KafkaWeightsError: the brokers cannot be reached.
    """

    def __init__(self, settings: Kafka, secret: Credentials, *, versions_kept: int) -> None:
        self._settings, self._secret = settings, secret
        self._versions_kept = versions_kept
        self._name = settings.topic("weights")
        self._epoch = 0
        self._producer: Any = None
        self._topic = WeightsTopic(settings, secret)

    def issue_epoch(self, *, at_least: int = 1) -> int:
        """A new epoch, greater than any that was issued or published here; the one issued last, if that is `at_least` as great.

        From here on, whoever wrote before is refused.
        """
        if self._epoch >= at_least > 1:
            return self._epoch
        for _ in range(_TRIES):
            self._begin()
            epoch = max(self.newest_epoch() + 1, at_least)
            if self._wrote([("epoch", str(epoch).encode(), [])], "issue an epoch"):
                self._epoch = epoch
                return epoch
        raise KafkaWeightsError(
            f"{self._name}: no epoch could be issued, {_TRIES} times another run began at the same moment: start one of them"
        )

    def newest_epoch(self) -> int:
        """The greatest epoch that was issued or published here; 0 before the first."""
        self._topic.read_to_end()
        current = self._topic.short.get("current")
        return max(self._topic.epoch, parse_name(current.decode())[0] if current else 0)

    def publish(self, published: Published, *, past_hold: bool = False) -> str:
        """Writes a version and makes it the current one, in one transaction. The same one may be published again.

        Raises:
            StaleVersionError, GapError, HeldError: it was refused, and what readers see has not changed.
            KafkaWeightsError: it could not be written; readers see nothing of it, or all.
        """
        name = published.manifest.name
        chunked, pieces = split(published, self._settings.weights_chunk_bytes)
        records: list[tuple[str, bytes | None, list[tuple[str, bytes]]]] = [
            (f"{name}/{chunk.name}", data, []) for chunk, data in pieces
        ]
        headers = [("sha256", chunked.sha256.encode()), ("chunks", chunked.chunks)]
        records += [(name, chunked.manifest, headers), ("current", name.encode(), [])]
        for _ in range(_TRIES):
            if self._producer is None:
                self._begin()
            self._topic.read_to_end()
            if self._stands(published, chunked, past_hold=past_hold):
                return name
            if self._wrote(records + self._deletions(name), f"publish version {name}"):
                self._topic.manifests[name] = chunked
                return name
        raise KafkaWeightsError(
            f"{self._name}: version {name} was not written, {_TRIES} times another writer came between"
        )

    def _stands(self, published: Published, chunked: Chunked, *, past_hold: bool) -> bool:
        """Whether the version is the current one already; refuses it if it must not become that."""
        topic, manifest = self._topic, published.manifest
        name, base = manifest.name, manifest.base_name
        current = topic.short.get("current", b"").decode()
        refused = f"{self._name}: version {name} was refused"
        if current == name and topic.manifests.get(name) == chunked:
            return True
        if current >= name or topic.epoch > manifest.epoch:
            if topic.epoch > manifest.epoch:
                current = max(current, version_name(topic.epoch, 1))
            raise StaleVersionError(
                f"{refused}, a newer run publishes here, {current} or later is current: end this one, or give it a kafka.model of its own",
                current=current,
            )
        if (why := topic.short.get("held")) and not past_hold:
            raise HeldError(
                f"{refused}, publishing is held: {why.decode()}; `afterclick weights release` lets it go on"
            )
        if base is not None and base not in topic.manifests:
            raise GapError(f"{refused}, it is a delta to {base}, which is not there: publish a snapshot")
        return False

    def _deletions(self, name: str) -> list[tuple[str, bytes | None, list[tuple[str, bytes]]]]:
        """Empty records for every key of the versions that are too old once this one is there."""
        bases: dict[str, str | None] = {}
        for old, chunked in self._topic.manifests.items():
            try:
                bases[old] = decode_manifest(chunked.manifest).base_name
            except DamagedWeightsError:
                bases[old] = None
        kept = retained(bases, self._versions_kept)
        gone = {old for old in bases if old < name and old not in kept}
        keys = [*sorted(gone), *sorted(key for key in self._topic.offsets if key.partition("/")[0] in gone)]
        return [(key, None, []) for key in keys]

    def hold(self, why: str) -> None:
        """Refuses every further version, until `release`."""
        self._set_held(why.encode())

    def release(self) -> None:
        """Lets versions be published again."""
        self._set_held(b"")

    def _set_held(self, why: bytes) -> None:
        for _ in range(_TRIES):
            if self._producer is None:
                self._begin()
            if self._wrote([("held", why, [])], "hold or release publishing"):
                return
        raise KafkaWeightsError(
            f"{self._name}: could not hold or release publishing, another writer came between: try again"
        )

    def held(self) -> str | None:
        """Why publishing is held; None if it is not."""
        self._topic.read_to_end()
        return self._topic.short.get("held", b"").decode() or None

    def _begin(self) -> None:
        """A producer of its own, which fences those before it."""
        self._let_go()
        longest = self._settings.weights_chunk_bytes + _SPARE
        try:
            self._producer = connected(
                kafka.KafkaProducer,
                self._settings,
                self._secret,
                transactional_id=f"afterclick-{self._name}",
                transaction_timeout_ms=_TRANSACTION_MS,
                max_request_size=max(longest, 1_048_576),
                delivery_timeout_ms=_DELIVERY_MS,
                request_timeout_ms=_DELIVERY_MS // 2,
                max_block_ms=self._settings.connect_timeout_ms,
                allow_auto_create_topics=False,
            )
        except BrokerError as error:
            raise KafkaWeightsError(str(error)) from error
        try:
            with reaching_weights(self._settings, self._secret, f"begin to write to {self._name}"):
                self._producer.init_transactions()
        except KafkaWeightsError:
            self._let_go()
            raise

    def _wrote(self, records: Sequence[tuple[str, bytes | None, list[tuple[str, bytes]]]], intent: str) -> bool:
        """Whether records were written, all of them; not, if another writer has begun since. The next try begins anew."""
        try:
            with reaching_weights(self._settings, self._secret, intent):
                self._producer.begin_transaction()
                sent, unflushed = [], 0
                for key, value, headers in records:
                    sent.append(self._producer.send(self._name, value, key=key.encode(), headers=headers, partition=0))
                    unflushed += len(value or b"")
                    if unflushed > _FLUSH_BYTES:
                        self._producer.flush()
                        unflushed = 0
                self._producer.flush()
                for future in sent:
                    future.get(timeout=_DELIVERY_MS / 1000)
                self._producer.commit_transaction()
            for key, value, _ in records:
                if key in SHORT:  # readers see it in a moment; who wrote it must know at once
                    self._topic.short[key] = value or b""
        except KafkaWeightsError as error:
            self._let_go()
            if _is_fenced(error):
                return False
            raise
        return True

    def _let_go(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(kafka.errors.KafkaError):
                producer.close(timeout=1)

    def close(self) -> None:
        """Lets go of the brokers."""
        self._let_go()
        self._topic.close()


def _is_fenced(error: BaseException) -> bool:
    """Whether the brokers let this producer write no more; the client tells that by type, among the arguments or in words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return any(kind.__name__ in repr(error) for kind in _FENCED)
