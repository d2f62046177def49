"""The reader: newest whole version or the one before it, never back, never two at once, and the trainer's own predictions."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from scorers import FakeSource, Told, probability, small_run, tiny

from models.manifest import Published
from models.schema import Feature
from streaming.adapters.directory import DirectoryPublisher
from streaming.adapters.directory_source import DirectorySource
from streaming.features import FeatureReader
from streaming.ids import Salt
from streaming.reader import NoWeightsError, WeightsReader, following

ONE = [b'{"user":"a"}']


class Clock:
    def __init__(self) -> None:
        self.now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


def reader_of(source: FakeSource) -> WeightsReader:
    return WeightsReader(source, clock=Clock())


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("scorers"))


def assert_equal(told: Told) -> None:
    kinds = [published.manifest.kind for published in told.versions]
    assert kinds.count("delta") > 5
    assert kinds.count("snapshot") > 1
    source = FakeSource()
    reader = reader_of(source)
    for published, (pctr, pcvr) in zip(told.versions, told.expected, strict=True):
        source.publish(published)
        assert reader.poll()
        scores = reader.score(told.rows)
        np.testing.assert_allclose(scores.pctr, pctr, rtol=0, atol=1e-6)
        np.testing.assert_allclose(scores.pcvr, pcvr, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(scores.pctcvr, scores.pctr * scores.pcvr)
        assert scores.manifest.offsets == published.manifest.offsets
        assert scores.manifest.watermark_ms == published.manifest.watermark_ms
    assert np.ptp(scores.pcvr) > 0.01, "a model that has learned nothing shows nothing"


def test_scores_are_those_of_the_trainer_for_every_version(folder):
    assert_equal(small_run(folder))


def test_scores_are_corrected_by_the_maps_of_the_run(folder):
    told = small_run(folder, recalibrated=True)
    assert any(entry.shape[0] for entry in [told.versions[-1].manifest.tensors["recalibration.value.ids"]])
    assert_equal(told)


@pytest.mark.parametrize("method", ["dfm", "bi_defuse", "fnc"])
def test_scores_of_methods_with_heads_of_their_own_are_those_of_the_trainer(folder, method):
    assert_equal(small_run(folder, method=method, objective="composed"))


def test_rows_beside_a_context_score_as_rows_that_hold_it_all():
    source = FakeSource(tiny(1, 1, rows={int(Salt("user").ids(["a"])[0]): 1.0}))
    reader = reader_of(source)
    reader.poll()
    served = reader.served
    assert served is not None
    scores = served.score([b"{}", b'{"user":"b"}'], shared=ONE[0])
    assert (scores.seen, scores.unseen) == ({"user": 2}, {"user": 1})


def test_mappings_are_scored_as_their_json_is():
    reader = reader_of(FakeSource(tiny(1, 1, logit=1.0)))
    reader.poll()
    assert (
        reader.score([{"user": "a"}]).pctr.tolist()
        == reader.score(ONE).pctr.tolist()
        == pytest.approx([probability(1)])
    )
    assert len(reader.score([]).pctr) == 0


def test_nothing_can_be_scored_before_the_first_version():
    reader = reader_of(FakeSource())
    assert not reader.poll()
    with pytest.raises(NoWeightsError, match="nothing was published yet; start the run"):
        reader.score(ONE)
    assert (reader.watermark_age_ms(), reader.version_age_ms()) == (None, None)


def test_it_never_goes_back():
    source = FakeSource(tiny(1, 1), tiny(2, 5))
    reader = reader_of(source)
    assert reader.poll()
    for older in ((1, 1), (2, 4)):
        source.newest = older
        assert not reader.poll()
        assert reader.served is not None
        assert reader.served.version == (2, 5)
    source.newest = None
    assert not reader.poll()
    assert reader.score(ONE).weights_version == (2, 5)


def test_a_new_epoch_is_newer_whatever_its_version():
    source = FakeSource(tiny(1, 9))
    reader = reader_of(source)
    reader.poll()
    source.publish(tiny(2, 1, logit=2.0))
    assert reader.poll()
    assert reader.score(ONE).pctr[0] == pytest.approx(probability(2))


def test_deltas_are_laid_over_the_version_in_service():
    a, b = (int(Salt("user").ids([name])[0]) for name in "ab")
    source = FakeSource(tiny(1, 1, rows={a: 1.0}))
    reader = reader_of(source)
    reader.poll()
    for version in (2, 3, 4):
        source.publish(tiny(1, version, logit=float(version), rows={a: 1.0, b: 1.0}, base=version - 1))
    source.fetched.clear()
    assert reader.poll()
    assert source.fetched == [(1, 4), (1, 3), (1, 2)], "the base in service is not fetched again"
    scores = reader.score([b'{"user":"b"}'])
    assert scores.unseen == {"user": 0}
    assert scores.pctr[0] == pytest.approx(probability(4))


def test_a_delta_is_laid_over_no_version_of_the_same_name_that_another_run_published():
    a, b = (int(Salt("user").ids([name])[0]) for name in "ab")
    source = FakeSource(tiny(1, 1, rows={a: 1.0}), tiny(1, 2, rows={a: 9.0}, base=1))
    reader = reader_of(source)
    assert reader.poll()
    source.versions.clear()
    snapshot = tiny(1, 1, logit=3.0, rows={a: 3.0})
    delta = tiny(1, 2, logit=4.0, rows={a: 4.0}, base=1, base_digest=snapshot.manifest.digest)
    for published in (
        snapshot,
        delta,
        tiny(1, 3, logit=5.0, rows={a: 4.0, b: 5.0}, base=2, base_digest=delta.manifest.digest),
    ):
        source.publish(published)
    assert reader.poll()
    assert source.fetched[-3:] == [(1, 3), (1, 2), (1, 1)]
    late = reader_of(source)
    assert late.poll()
    served, expected = reader.served, late.served
    assert served is not None
    assert expected is not None
    for name, tensor in expected.weights.tensors.items():
        assert served.weights.tensors[name].tolist() == tensor.tolist(), name


def test_a_chain_of_two_runs_is_refused_as_damaged():
    a = int(Salt("user").ids(["a"])[0])
    source = FakeSource(tiny(1, 1, rows={a: 1.0}))
    other = tiny(1, 1, rows={a: 2.0}).manifest.digest
    source.publish(tiny(1, 2, rows={a: 3.0}, base=1, base_digest=other))
    reader = reader_of(source)
    assert not reader.poll()
    assert reader.refused["damaged"] == 1
    assert "is a delta to another 000001-0000000001 than this one" in str(reader.last_refusal)


@pytest.mark.parametrize(
    ("newest", "says"), [((1, 9), "000001-0000000009 is current there"), (None, "nothing is published there any more")]
)
def test_a_new_run_in_the_place_of_the_one_followed_is_told_once(newest, says):
    source = FakeSource(tiny(2, 5))
    reader = reader_of(source)
    reader.poll()
    source.newest = newest
    for _ in range(3):
        assert not reader.poll()
    assert reader.refused["older"] == 1
    assert f"{says}, which is older than 000002-0000000005, in service" in str(reader.last_refusal)
    source.publish(tiny(2, 6))
    assert reader.poll()
    assert reader.last_refusal is None


def test_who_starts_late_goes_back_to_a_snapshot():
    source = FakeSource(tiny(1, 1), tiny(1, 2, base=1), tiny(1, 3, logit=3.0, base=2))
    reader = reader_of(source)
    assert reader.poll()
    assert source.fetched == [(1, 3), (1, 2), (1, 1)]
    assert reader.score(ONE).pctr[0] == pytest.approx(probability(3))


def test_a_gap_is_refused_and_the_next_snapshot_heals_it():
    source = FakeSource(tiny(1, 1))
    reader = reader_of(source)
    reader.poll()
    source.publish(tiny(1, 3, base=2))
    assert not reader.poll()
    assert "1-2" in (reader.last_refusal or "")
    assert reader.refused == {"damaged": 0, "missing": 1, "unreadable": 0, "older": 0}
    assert reader.score(ONE).weights_version == (1, 1)
    source.publish(tiny(1, 4))
    assert reader.poll()
    assert reader.last_refusal is None
    assert reader.score(ONE).weights_version == (1, 4)


def test_a_damaged_part_is_refused_by_name_and_the_old_version_stays():
    source = FakeSource(tiny(1, 1))
    reader = reader_of(source)
    reader.poll()
    good = tiny(1, 2, logit=1.0)
    damaged = Published(
        good.manifest, dict(good.parts) | {"rows.safetensors": b"x" + good.parts["rows.safetensors"][1:]}
    )
    source.publish(damaged)
    for _ in range(3):
        assert not reader.poll()
    assert "rows.safetensors of version 000001-0000000002 is damaged" in (reader.last_refusal or "")
    assert reader.refused == {"damaged": 1, "missing": 0, "unreadable": 0, "older": 0}, "one version is counted once"
    assert reader.score(ONE).weights_version == (1, 1)
    source.publish(good)
    assert any(reader.poll() for _ in range(70)), "it is tried again, more and more rarely"
    assert reader.score(ONE).weights_version == (1, 2)


@pytest.mark.parametrize(
    ("spoiled", "says"),
    [
        (lambda good: replace_tensor(good), r"dense.entrance.bias as \(3,\), its features and network need \(2,\)"),
        (lambda good: replace(good, manifest=tiny(1, 7).manifest), "gave 000001-0000000007"),
    ],
)
def test_what_does_not_fit_is_refused(spoiled, says):
    source = FakeSource(tiny(1, 1))
    reader = reader_of(source)
    reader.poll()
    source.publish(tiny(1, 2))
    source.versions[1, 2] = spoiled(tiny(1, 2))
    assert not reader.poll()
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(reader.last_refusal)
    assert reader.score(ONE).weights_version == (1, 1)


def replace_tensor(good: Published) -> Published:
    import torch

    from models.weights import Weights, decode, encode

    weights = decode(good)
    return encode(Weights(weights.manifest, dict(weights.tensors) | {"dense.entrance.bias": torch.zeros(3)}))


def test_a_source_that_cannot_be_reached_leaves_the_version_in_service():
    faults: list[Exception] = []

    def fails() -> None:
        if faults:
            raise faults[0]

    source = FakeSource(tiny(1, 1), fails=fails)
    reader = reader_of(source)
    reader.poll()
    source.publish(tiny(1, 2))
    faults.append(ConnectionError("refused"))
    assert not reader.poll()
    assert not reader.poll()
    assert (reader.last_refusal, reader.refused["unreadable"]) == ("refused", 1)
    faults.clear()
    assert reader.poll()
    assert reader.last_refusal is None


def test_ages_are_told_by_event_time_and_by_processing_time():
    clock, source = Clock(), FakeSource(tiny(1, 1, watermark_ms=1_000))
    reader = WeightsReader(source, clock=clock)
    clock.now_ms = 1_500
    reader.poll()
    clock.now_ms = 4_000
    assert (reader.watermark_age_ms(), reader.version_age_ms(), reader.looked_ms) == (3_000, 2_500, 1_500)


def test_a_new_set_of_features_is_read_from_its_own_version_on():
    source = FakeSource(tiny(1, 1))
    reader = reader_of(source)
    reader.poll()
    first = reader.served
    source.publish(tiny(1, 2))
    reader.poll()
    second = reader.served
    assert first is not None
    assert second is not None
    assert first.features is second.features, "faults go on being counted"
    assert FeatureReader([Feature(name="user", kind="categorical")]).faults == {}


def test_swaps_under_load_fail_nobody_and_every_answer_is_of_one_version():
    source = FakeSource(tiny(1, 1, logit=0.0))
    rows = [b'{"user":"u%d"}' % number for number in range(20)]
    wrong: list[str] = []
    done = threading.Event()
    answered = [0] * 4

    def ask(number: int) -> None:
        while not done.is_set():
            try:
                scores = reader.score(rows)
            except Exception as error:
                wrong.append(repr(error))
                return
            expected = probability((scores.manifest.version - 1) / 10)
            if not np.allclose(scores.pctr, expected, atol=1e-6):
                wrong.append(f"{scores.pctr} of version {scores.manifest.name}")
            answered[number] += 1

    with following(reader_of(source), poll_ms=1) as reader:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for version in range(2, 22):
            before, swaps = sum(answered), reader.swaps
            source.publish(tiny(1, version, logit=(version - 1) / 10))
            while not wrong and (reader.swaps == swaps or sum(answered) < before + 8):
                done.wait(0.001)
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert reader.swaps == 21
    assert reader.score(rows).weights_version == (1, 21)


def test_a_directory_is_followed(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=2)
    reader = WeightsReader(DirectorySource(tmp_path), clock=Clock())
    assert not reader.poll()
    for version in (1, 2, 3):
        publisher.publish(tiny(1, version, logit=float(version)))
        assert reader.poll()
        assert reader.score(ONE).pctr[0] == pytest.approx(probability(version))
    (tmp_path / "current").write_text("nonsense\n")
    assert not reader.poll()
    assert "is no version" in (reader.last_refusal or "")
    assert reader.score(ONE).weights_version == (1, 3)
