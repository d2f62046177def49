"""Deltas, holds and refused versions in a directory; and a version read whole, wherever it lies."""

from __future__ import annotations

import shutil

import pytest
import torch
from weights_made import version

from models.manifest import DamagedWeightsError, MissingWeightsError
from streaming.adapters.directory import DirectoryPublisher
from streaming.adapters.directory_source import DirectoryError, DirectorySource, current_name, list_versions
from streaming.ports import GapError, HeldError, StaleVersionError, TargetError
from streaming.rollback import release, roll_back
from streaming.whole import read_whole


@pytest.fixture
def publisher(tmp_path):
    return DirectoryPublisher(tmp_path, versions_kept=2)


def numbers(path):
    return [int(listed.name[-10:]) for listed in list_versions(path)]


def test_what_the_kept_versions_are_deltas_to_is_kept_as_well(tmp_path, publisher):
    for number, base in [(1, None), (2, 1), (3, 2), (4, 3)]:
        publisher.publish(version(1, number, base=base))
    assert numbers(tmp_path) == [1, 2, 3, 4]
    publisher.publish(version(1, 5))
    assert numbers(tmp_path) == [1, 2, 3, 4, 5]  # 4 is one of the two newest
    DirectoryPublisher(tmp_path, versions_kept=2).publish(version(1, 6, base=5))  # one who has seen none of them
    assert numbers(tmp_path) == [5, 6]


def test_a_delta_whose_base_is_not_there_is_refused(tmp_path, publisher):
    with pytest.raises(GapError, match="it is a delta to 000001-0000000001, which is not there: publish a snapshot"):
        publisher.publish(version(1, 2, base=1))
    assert numbers(tmp_path) == []


def test_held_publishing_takes_nothing_but_what_goes_past_the_hold(tmp_path, publisher):
    publisher.publish(version(1, 1))
    publisher.hold("rolled back")
    assert publisher.held() == "rolled back"
    with pytest.raises(HeldError, match="publishing is held: rolled back; `afterclick weights release` lets it go on"):
        DirectoryPublisher(tmp_path, versions_kept=2).publish(version(1, 2))
    publisher.publish(version(1, 2, republishes="000001-0000000001"), past_hold=True)
    publisher.release()
    assert publisher.held() is None
    with pytest.raises(StaleVersionError, match="a rollback has that name") as told:
        publisher.publish(version(1, 2))
    assert told.value.current == "000001-0000000002"
    publisher.publish(version(1, 3))
    assert current_name(tmp_path) == "000001-0000000003"


def test_a_rollback_goes_before_a_run_that_has_begun_and_published_nothing_yet(tmp_path):
    targets = {name: DirectoryPublisher(tmp_path / name, versions_kept=9) for name in ("one", "two")}
    sources = [DirectorySource(tmp_path / name) for name in targets]
    for target in targets.values():
        target.publish(version(target.issue_epoch(), 1))
        target.publish(version(1, 2))
    targets["two"].issue_epoch()
    assert roll_back(targets, sources, sources[0], "000001-0000000001") == "000002-0000000003"
    assert [source.current() for source in sources] == [(2, 3), (2, 3)]


def test_a_rollback_that_is_tried_again_goes_on_with_the_version_that_it_had_got_to(tmp_path):
    targets = {name: DirectoryPublisher(tmp_path / name, versions_kept=9) for name in ("one", "two")}
    sources = [DirectorySource(tmp_path / name) for name in targets]
    for target in targets.values():
        target.publish(version(target.issue_epoch(), 1))
        target.publish(version(1, 2))
    (tmp_path / "two" / "000001-0000000003").write_text("in the way")
    with pytest.raises(TargetError, match="publishing is held in one, two: give the command again"):
        roll_back(targets, sources, sources[0], "000001-0000000001")
    (tmp_path / "two" / "000001-0000000003").unlink()
    assert roll_back(targets, sources, sources[0], "000001-0000000001") == "000001-0000000003"
    assert [source.current() for source in sources] == [(1, 3), (1, 3)]
    assert numbers(tmp_path / "one") == numbers(tmp_path / "two") == [1, 2, 3]
    assert roll_back(targets, sources, sources[0], "000001-0000000002") == "000001-0000000004"


def test_an_epoch_that_is_great_enough_is_given_again(publisher):
    assert publisher.issue_epoch() == 1
    assert (
        publisher.issue_epoch(at_least=7) == publisher.issue_epoch(at_least=7) == publisher.issue_epoch(at_least=3) == 7
    )
    assert publisher.issue_epoch() == 8


def test_refused_versions_are_kept_with_their_reason_and_not_listed(tmp_path, publisher):
    for number in (1, 2, 3):
        publisher.keep_refused(version(1, number), f"reason {number}")
    publisher.keep_refused(version(1, 3), "another reason")
    kept = sorted(path.name for path in (tmp_path / "refused").iterdir())
    assert kept == ["000001-0000000002", "000001-0000000003"]
    assert (tmp_path / "refused" / kept[1] / "reason.txt").read_text() == "another reason\n"
    assert DirectorySource(tmp_path / "refused").fetch(1, 3) == version(1, 3)
    assert (numbers(tmp_path), current_name(tmp_path)) == ([], None)


def test_a_source_tells_what_is_current_and_that_a_version_is_gone(tmp_path, publisher):
    source = DirectorySource(tmp_path)
    assert source.current() is None
    publisher.publish(version(1, 1))
    assert (source.current(), source.fetch(1, 1)) == ((1, 1), version(1, 1))
    with pytest.raises(MissingWeightsError, match="has no version '000001-0000000002'; it has 000001-0000000001"):
        source.fetch(1, 2)
    (tmp_path / "000001-0000000001" / "manifest.json").unlink()
    with pytest.raises(DirectoryError, match="could not read the version"):
        source.fetch(1, 1)


def test_a_version_is_read_whole_over_all_that_it_is_a_delta_to(tmp_path, publisher):
    for number, base in [(1, None), (2, 1), (3, 2)]:
        publisher.publish(version(1, number, float(number), base=base))
    found = read_whole(DirectorySource(tmp_path), 1, 3)
    assert (found.manifest.name, found.manifest.kind) == ("000001-0000000003", "snapshot")
    assert torch.equal(found.tensors["dense.bias"], torch.full((4,), 3.0))
    assert found.tensors["table_2.vectors"].tolist() == [[3.0, 3.0]]
    shutil.rmtree(tmp_path / "000001-0000000002")
    with pytest.raises(MissingWeightsError, match="has no version '000001-0000000002'"):
        read_whole(DirectorySource(tmp_path), 1, 3)


def test_a_chain_with_a_damaged_delta_in_it_is_refused_by_the_name_of_that_delta(tmp_path, publisher):
    for number, base in [(1, None), (2, 1), (3, 2)]:
        publisher.publish(version(1, number, base=base))
    part = tmp_path / "000001-0000000002" / "rows.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedWeightsError, match=r"rows\.safetensors of version 000001-0000000002 is damaged"):
        read_whole(DirectorySource(tmp_path), 1, 3)


def test_a_link_in_place_of_an_old_version_goes_as_a_version_would(tmp_path):
    publisher = DirectoryPublisher(tmp_path / "weights", versions_kept=2)
    publisher.publish(version(1, 1))
    (tmp_path / "weights" / "000001-0000000001").rename(tmp_path / "elsewhere")
    (tmp_path / "weights" / "000001-0000000001").symlink_to(tmp_path / "elsewhere")
    for number in (2, 3, 4):
        publisher.publish(version(1, number))
    assert numbers(tmp_path / "weights") == [3, 4]
    assert (tmp_path / "elsewhere" / "manifest.json").is_file()
    assert not [path for path in (tmp_path / "weights").iterdir() if path.name.startswith(".")]


def test_who_cannot_release_one_target_releases_the_others_and_says_which(tmp_path):
    targets = {name: DirectoryPublisher(tmp_path / name, versions_kept=2) for name in ("one", "two")}
    for target in targets.values():
        target.hold("why")
    (tmp_path / "one" / "held").unlink()
    (tmp_path / "one" / "held").mkdir()  # cannot be unlinked
    with pytest.raises(TargetError, match=r"publishing is still held in one \(.*: give the command again"):
        release(targets)
    assert targets["two"].held() is None
