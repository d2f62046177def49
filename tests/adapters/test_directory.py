"""Versions in a directory: whole or not there, never back, refused by name once damaged."""

import fcntl
import hashlib
import resource
import shutil
import threading
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.manifest import DamagedWeightsError, Manifest, Published, encode_manifest
from models.schema import Network
from models.weights import Weights, decode, encode
from streaming.adapters.directory import DirectoryPublisher
from streaming.adapters.directory_source import (
    DirectoryError,
    current_name,
    list_versions,
    read_version,
)
from streaming.ports import StaleVersionError


def version(epoch, number, value=1.0, size=4):
    manifest = Manifest(
        epoch=epoch,
        version=number,
        settings_hash="a",
        method="mature",
        torch_version="2",
        features=(),
        network=Network(),
    )
    tensors = {
        "dense.bias": torch.full((size,), value),
        "table_2.ids": torch.tensor([5]),
        "table_2.vectors": torch.ones(1, 2),
    }
    return encode(Weights(manifest, tensors))


def everything_in(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def names(path):
    return [listed.name for listed in list_versions(path)]


def test_what_was_published_is_read_back_and_is_current(tmp_path):
    publisher = DirectoryPublisher(tmp_path / "weights", versions_kept=3)
    published = version(publisher.issue_epoch(), 1)
    assert publisher.publish(published) == "000001-0000000001" == current_name(tmp_path / "weights")
    assert read_version(tmp_path / "weights") == published
    assert torch.equal(decode(read_version(tmp_path / "weights")).tensors["dense.bias"], torch.ones(4))


def test_a_named_version_is_read_beside_the_current_one(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=3)
    for number in (1, 2):
        publisher.publish(version(1, number, value=number))
    assert read_version(tmp_path).manifest.version == 2
    assert read_version(tmp_path, "000001-0000000001") == version(1, 1, value=1)


def test_every_start_gets_an_epoch_of_its_own_greater_than_any_before(tmp_path):
    assert [DirectoryPublisher(tmp_path, versions_kept=1).issue_epoch() for _ in range(3)] == [1, 2, 3]
    DirectoryPublisher(tmp_path, versions_kept=1).publish(version(9, 1))  # brought here from elsewhere
    assert DirectoryPublisher(tmp_path, versions_kept=1).issue_epoch() == 10


def test_starts_at_one_moment_get_different_epochs(tmp_path):
    issued = []
    publishers = [DirectoryPublisher(tmp_path, versions_kept=1) for _ in range(8)]
    starts = [threading.Thread(target=lambda p=p: issued.append(p.issue_epoch())) for p in publishers]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert sorted(issued) == list(range(1, 9))


def test_only_the_last_versions_are_kept(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=2)
    for number in range(1, 6):
        publisher.publish(version(1, number))
        assert names(tmp_path) == [f"000001-{kept:010d}" for kept in range(max(1, number - 1), number + 1)]
    assert not list(tmp_path.glob(".*"))


def test_a_later_epoch_goes_before_a_greater_version(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=2)
    publisher.publish(version(1, 7))
    publisher.publish(version(2, 1))
    assert current_name(tmp_path) == "000002-0000000001"


@pytest.mark.parametrize(("epoch", "number"), [(1, 9), (2, 2)], ids=["of an older run", "of the same run"])
def test_a_stale_version_is_refused_and_nothing_changes(tmp_path, epoch, number):
    publisher = DirectoryPublisher(tmp_path, versions_kept=5)
    publisher.publish(version(2, 3))
    before = everything_in(tmp_path)
    with pytest.raises(StaleVersionError, match="000002-0000000003 is current: a newer run publishes here"):
        publisher.publish(version(epoch, number))
    assert everything_in(tmp_path) == before


def test_a_run_overtaken_while_it_was_writing_does_not_move_the_pointer_back(tmp_path):
    # dead run:  look at current: 1-1 | write 1-2 | wait for the lock .......... | look again: 2-1, refused
    # new run:                                    | lock | current -> 2-1 | unlock
    publisher = DirectoryPublisher(tmp_path, versions_kept=5)
    publisher.publish(version(1, 1))
    refused = []

    def publish():
        try:
            publisher.publish(version(1, 2))
        except StaleVersionError as error:
            refused.append(error)

    thinks_it_lives = threading.Thread(target=publish)
    with (tmp_path / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thinks_it_lives.start()
        for _ in range(3_000):
            if (tmp_path / "000001-0000000002").exists():
                break
            thinks_it_lives.join(0.01)
        (tmp_path / "current").write_text("000002-0000000001\n")
    thinks_it_lives.join()
    assert len(refused) == 1
    assert current_name(tmp_path) == "000002-0000000001"


def test_the_same_version_may_be_published_again_and_another_of_its_name_may_not(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=5)
    publisher.publish(version(1, 1))
    before = everything_in(tmp_path)
    assert publisher.publish(version(1, 1)) == "000001-0000000001"
    with pytest.raises(DirectoryError, match="holds other bytes than version 000001-0000000001 has now"):
        publisher.publish(version(1, 1, value=2.0))
    assert everything_in(tmp_path) == before


def test_a_crash_before_current_moved_is_mended_by_publishing_again(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=5)
    publisher.publish(version(1, 1))
    publisher.publish(version(1, 2))
    (tmp_path / "current").write_text("000001-0000000001\n")  # as a crash between the two renames leaves it
    publisher.publish(version(1, 2))
    assert current_name(tmp_path) == "000001-0000000002"


def test_leftovers_of_a_crash_are_not_seen_and_go_with_the_next_version(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=5)
    publisher.publish(version(1, 1))
    for leftover in (".writing-000001-0000000002", ".deleting-000001-0000000000"):
        shutil.copytree(tmp_path / "000001-0000000001", tmp_path / leftover)
    (tmp_path / ".current").write_text("half")
    assert names(tmp_path) == ["000001-0000000001"]
    publisher.publish(version(1, 2))
    assert not list(tmp_path.glob(".*"))


def test_what_a_newer_run_is_writing_is_left_alone(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=5)
    (tmp_path / ".writing-000002-0000000001").mkdir(parents=True)
    publisher.publish(version(1, 1))
    assert (tmp_path / ".writing-000002-0000000001").is_dir()


@contextmanager
def files_of_at_most(size):
    """Writes beyond `size` bytes fail, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_of_the_version_and_the_old_one_current(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=1)
    publisher.publish(version(1, 1))
    before = everything_in(tmp_path)
    with (
        files_of_at_most(10_000),
        pytest.raises(DirectoryError, match=r"000001-0000000002: could not write the version .*free space"),
    ):
        publisher.publish(version(1, 2, size=10_000))
    assert everything_in(tmp_path) == before
    assert not list(tmp_path.glob(".*"))
    publisher.publish(version(1, 2, size=10_000))
    assert read_version(tmp_path).manifest.version == 2


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "weights").write_text("")
    with pytest.raises(DirectoryError, match="weights: could not make the directory"):
        DirectoryPublisher(tmp_path / "weights", versions_kept=1)


def test_keeping_no_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="versions_kept must be 1 or more"):
        DirectoryPublisher(tmp_path, versions_kept=0)


def test_bytes_that_are_not_those_of_the_manifest_are_not_published(tmp_path):
    published = version(1, 1)
    broken = Published(published.manifest, {**published.parts, "rows.safetensors": b""})
    with pytest.raises(DamagedWeightsError, match=r"rows\.safetensors of version 000001-0000000001 is damaged"):
        DirectoryPublisher(tmp_path, versions_kept=1).publish(broken)
    assert names(tmp_path) == []


FILES = ["manifest.json", "manifest.sha256", "dense.safetensors", "rows.safetensors"]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_of_any_file_is_refused_by_the_name_of_the_version(tmp_path, file, place, change):
    DirectoryPublisher(tmp_path, versions_kept=1).publish(version(1, 1))
    path = tmp_path / "000001-0000000001" / file
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(damaged))] ^= change
    path.write_bytes(damaged)
    named = "manifest.json" if file.startswith("manifest") else file
    with pytest.raises(DamagedWeightsError, match=f"{named} of version 000001-0000000001 is damaged"):
        read_version(tmp_path)
    path.write_bytes(whole)
    assert read_version(tmp_path) == version(1, 1)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused_by_name(tmp_path, file):
    DirectoryPublisher(tmp_path, versions_kept=1).publish(version(1, 1))
    (tmp_path / "000001-0000000001" / file).unlink()
    with pytest.raises((DirectoryError, DamagedWeightsError), match="000001-0000000001"):
        read_version(tmp_path)


def test_a_folder_renamed_to_another_version_is_refused(tmp_path):
    DirectoryPublisher(tmp_path, versions_kept=1).publish(version(1, 1))
    (tmp_path / "000001-0000000001").rename(tmp_path / "000001-0000000002")
    with pytest.raises(DamagedWeightsError, match="version 000001-0000000002 is that of version 000001-0000000001"):
        read_version(tmp_path, "000001-0000000002")


def test_a_damaged_version_is_listed_with_its_damage_beside_the_others(tmp_path):
    publisher = DirectoryPublisher(tmp_path, versions_kept=5)
    publisher.publish(version(1, 1))
    publisher.publish(version(1, 2))
    (tmp_path / "000001-0000000001" / "manifest.json").write_bytes(b"{}")
    damaged, whole = list_versions(tmp_path)
    assert (damaged.name, damaged.is_current, damaged.manifest) == ("000001-0000000001", False, None)
    assert "manifest.json of version 000001-0000000001 is damaged" in damaged.damage
    assert (whole.is_current, whole.manifest, whole.damage) == (True, version(1, 2).manifest, None)


def test_an_absent_or_empty_directory_has_no_versions(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        assert list_versions(path) == []
        assert current_name(path) is None
        with pytest.raises(DirectoryError, match="has no current version: nothing was published"):
            read_version(path)


def test_asking_for_a_version_that_is_not_there_says_which_are(tmp_path):
    DirectoryPublisher(tmp_path, versions_kept=1).publish(version(1, 1))
    for name in ("000001-0000000009", "../secret", ""):
        with pytest.raises(DirectoryError, match=r"has no version .*; it has 000001-0000000001"):
            read_version(tmp_path, name)


def test_a_pointer_that_names_no_version_is_refused(tmp_path):
    DirectoryPublisher(tmp_path, versions_kept=1).publish(version(1, 1))
    (tmp_path / "current").write_bytes(b"\xff../elsewhere")
    with pytest.raises(DirectoryError, match="which is no version: write the name of one of"):
        read_version(tmp_path)


def test_a_manifest_that_names_a_part_elsewhere_is_refused(tmp_path):
    published = version(1, 1)
    DirectoryPublisher(tmp_path, versions_kept=1).publish(published)
    evil = encode_manifest(published.manifest).replace(b'"rows.safetensors": {', b'"../rows.safetensors": {')
    folder = tmp_path / "000001-0000000001"
    (folder / "manifest.json").write_bytes(evil)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(evil).hexdigest()}  manifest.json\n")
    with pytest.raises(DamagedWeightsError, match=r"names a part '\.\./rows\.safetensors' outside of its folder"):
        read_version(tmp_path)
