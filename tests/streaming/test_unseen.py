"""The share of ids without a row: of the newest ones, by feature, and when it is an alarm."""

from __future__ import annotations

from streaming.unseen import UnseenShares


def test_counts_add_up_and_a_feature_without_ids_has_no_share():
    shares = UnseenShares(window=1_000, alarm_share=0.5)
    shares.add({"user": 3, "tags": 0}, {"user": 1})
    shares.add({"user": 2, "tags": 0}, {"user": 2})
    assert (shares.seen, shares.unseen) == ({"user": 5, "tags": 0}, {"user": 3, "tags": 0})
    assert (shares.share("user"), shares.share("tags"), shares.share("nobody")) == (0.6, None, None)


def test_the_share_is_of_the_newest_ids():
    shares = UnseenShares(window=100, alarm_share=0.5)
    for _ in range(50):
        shares.add({"user": 10}, {"user": 10})
    assert shares.alarms() == ["user"]
    for _ in range(50):
        shares.add({"user": 10}, {"user": 0})
    share = shares.share("user")
    assert share is not None
    assert share < 0.01
    assert shares.alarms() == []


def test_a_share_of_few_ids_is_no_alarm():
    shares = UnseenShares(window=100, alarm_share=0.5)
    shares.add({"user": 9}, {"user": 9})
    assert shares.alarms() == []
    shares.add({"user": 1}, {"user": 1})
    assert shares.alarms() == ["user"]


def test_an_alarm_at_1_never_rises():
    shares = UnseenShares(window=10, alarm_share=1.0)
    shares.add({"user": 9}, {"user": 9})
    assert shares.alarms() == []
