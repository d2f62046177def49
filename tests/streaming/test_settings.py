"""Settings: every rule is seen to refuse, every key survives being written out, overrides reach every key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from models.schema import Feature
from streaming.settings import Batching, Settings, SettingsError, Windows, differences, dump, load, parse

FEATURE = '[[features]]\nname = "f"\nkind = "categorical"\n'
NUMERIC = '[[features]]\nname = "f"\nkind = "numeric"\n'

REFUSED = {
    "no TOML": ("click_window_ms: 5", r"settings is not TOML: .*line 1"),
    "an unknown section": ("[window]", r"settings: .*unknown field `window`.*`afterclick init LOG` writes every key"),
    "an unknown key": ("[windows]\nclick_window = 5", r"unknown field `click_window`.*windows"),
    "a wrong type": ('[windows]\nclick_window_ms = "5"', r"Expected `int`, got `str`.*windows\.click_window_ms"),
    "a fraction": ("[windows]\nclick_window_ms = 1.5", r"Expected `int`, got `float`"),
    "an unknown unit": ('[log.clicks]\ntime_unit = "h"', r"Invalid enum value 'h'.*log\.clicks\.time_unit"),
    "a negative window": (
        "[windows]\nclick_window_ms = -1",
        r"windows\.click_window_ms must not be negative \(got -1\): set it to 0 or more milliseconds",
    ),
    "a negative count": (
        "[optimizer]\nwarmup_steps = -1",
        r"optimizer\.warmup_steps must not be negative \(got -1\): set it to 0 or more$",
    ),
    "no broker": ("[kafka]\nbootstrap_servers = []", r"kafka\.bootstrap_servers must name a broker at least"),
    "a broker without a port": ('[kafka]\nbootstrap_servers = ["a"]', r"must be host:port, .*\(got 'a'\)"),
    "an impossible port": ('[kafka]\nbootstrap_servers = ["a:99999"]', r"a port up to 65535 \(got 'a:99999'\)"),
    "a name that no topic has": ('[kafka]\nmodel = "a b"', r"kafka\.model must be of letters, .*\(got 'a b'\)"),
    "no name for topics": ('[kafka]\nmodel = ""', r"kafka\.model must be of letters, .*\(got ''\)"),
    "two streams in a topic": (
        '[kafka.topics]\nclicks = "afterclick.impressions"',
        r"kafka\.topics must be different topics \(got 'afterclick\.impressions' twice\)",
    ),
    "too short a session": ("[kafka]\nsession_timeout_ms = 10", r"kafka\.session_timeout_ms must be from 6000 to"),
    "no batch size": ("[batching]\nbatch_size = 0", r"batching\.batch_size must be above 0 \(got 0\)"),
    "no cut interval": ("[cuts]\ncut_interval_ms = 0", r"cuts\.cut_interval_ms must be above 0"),
    "no attribution window": ("[windows]\nattribution_window_ms = 0", r"attribution_window_ms must be above 0"),
    "no threads": ("[network]\nthreads = 0", r"network\.threads must be above 0"),
    "too many threads": ("[network]\nthreads = 1_025", r"network\.threads must be at most 1024 \(got 1025\)"),
    "too large a seed": (
        "[network]\nseed = 0x8000_0000_0000_0000",
        r"network\.seed must be at most \d{19} \(got \d{19}\)",
    ),
    "too small a seed": ("[network]\nseed = -9223372036854775809", r"network\.seed must be at least -\d{19} \(got"),
    "an endless window": (
        "[windows]\nattribution_window_ms = 100_000_000_000_001",
        r"windows\.attribution_window_ms must be at most 100000000000000 \(got 100000000000001\)",
    ),
    "no limit of refusals": ("[safeguards]\nbreaker_limit = 0", r"safeguards\.breaker_limit must be above 0"),
    "infinity": ("[optimizer]\ndense_learning_rate = inf", r"dense_learning_rate must be a finite number \(got inf\)"),
    "no number": ("[safeguards]\nloss_limit = nan", r"safeguards\.loss_limit must be a finite number \(got nan\)"),
    "a prior of nothing": ("[network]\nprior_ctr = 0", r"network\.prior_ctr must lie between 0 and 1 \(got 0.*logit"),
    "a prior of certainty": ("[network]\nprior_cvr = 1.0", r"network\.prior_cvr must lie between 0 and 1 \(got 1\.0\)"),
    "a tower of no width": ("[network]\ntowers = [8, 0]", r"towers must hold widths of 1 or more \(got \[8, 0\]\)"),
    "attribution before observation": (
        "[windows]\nattribution_window_ms = 1_000_000\nobservation_window_ms = 2_000_000",
        r"attribution_window_ms must be at least windows\.observation_window_ms \(got 1000000 < 2000000\).*first label",
    ),
    "attribution before the click window": (
        "[windows]\nattribution_window_ms = 5\nobservation_window_ms = 5",
        r"attribution_window_ms must be at least windows\.click_window_ms \(got 5 < 900000\)",
    ),
    "alignment within the disorder": (
        "[event_time]\nalignment_ms = 10_000",
        r"alignment_ms must exceed event_time\.out_of_orderness_ms \(got 10000 <= 10000\)",
    ),
    "a short hold": (
        "[event_time]\norphan_hold_ms = 901_999",
        r"orphan_hold_ms must be at least click_window_ms \+ clock_skew_ms = 902000 \(got 901999\)",
    ),
    "a feature twice": (FEATURE * 2, r"features\.f stands twice"),
    "a feature without a kind": ('[[features]]\nname = "f"', r"missing required field `kind`.*features\[0\]"),
    "a feature of no width": (FEATURE + "width = 0", r"features\.f\.width must be 1 or more \(got 0\)"),
    "a list of no length": (FEATURE + "max_length = 0", r"features\.f\.max_length must be 1 or more \(got 0\)"),
    "a scale of nothing": (NUMERIC + "scale = 0", r"features\.f\.scale must not be 0"),
    "a transform of ids": (
        FEATURE + 'transform = "log"',
        r"features\.f\.transform is for numeric features \(got 'log' on 'categorical'\)",
    ),
    "boundaries that fall": (
        NUMERIC + 'transform = "buckets"\nboundaries = [2, 1]',
        r"features\.f\.boundaries must ascend without repeats \(got \[2\.0, 1\.0\]\)",
    ),
    "boundaries that repeat": (NUMERIC + 'transform = "buckets"\nboundaries = [1, 1]', r"must ascend without repeats"),
    "buckets without boundaries": (NUMERIC + 'transform = "buckets"', r'features\.f: transform = "buckets" and bound'),
    "boundaries without buckets": (NUMERIC + "boundaries = [1]", r"one was given without the other"),
    "a cross of nothing": ('[[features]]\nname = "f"\nkind = "crossed"', r'features\.f: kind = "crossed" and inputs'),
    "inputs of no cross": (FEATURE + 'inputs = ["g", "h"]', r"one was given without the other"),
    "a cross of one": (
        FEATURE + '[[features]]\nname = "x"\nkind = "crossed"\ninputs = ["f"]',
        r"features\.x\.inputs must name two or more features \(got \['f'\]\)",
    ),
    "a cross with a stranger": (
        FEATURE + '[[features]]\nname = "x"\nkind = "crossed"\ninputs = ["f", "g"]',
        r"features\.x\.inputs names 'g', which is no categorical feature",
    ),
    "ids of a stranger": (FEATURE + 'ids_of = "g"', r"features\.f\.ids_of names 'g', which is no feature with ids"),
    "ids of a number": (
        NUMERIC + '[[features]]\nname = "x"\nkind = "multi"\nids_of = "f"',
        r"features\.x\.ids_of names 'f', which is no feature with ids",
    ),
    "ids of a borrower": (FEATURE + 'ids_of = "f"', r"features\.f\.ids_of: 'f' must have ids of its own and the same"),
    "ids of another width": (
        FEATURE + '[[features]]\nname = "x"\nkind = "multi"\nids_of = "f"\nwidth = 3',
        r"features\.x\.ids_of: 'f' must have ids of its own and the same width",
    ),
}


@pytest.mark.parametrize("says", REFUSED)
def test_refused(says: str) -> None:
    text, match = REFUSED[says]
    with pytest.raises(SettingsError, match=match):
        parse(text)


def test_the_least_that_each_rule_allows_is_allowed() -> None:
    parse("[windows]\nclick_window_ms = 0\nobservation_window_ms = 0\nattribution_window_ms = 1")
    parse("[windows]\nclick_window_ms = 7\nobservation_window_ms = 7\nattribution_window_ms = 7")
    parse("[event_time]\nout_of_orderness_ms = 0\nclock_skew_ms = 0\nalignment_ms = 1\norphan_hold_ms = 900_000")
    parse("[network]\nseed = -3")


def test_the_hold_follows_the_windows_unless_it_is_set() -> None:
    assert parse("[windows]\nclick_window_ms = 10\n[event_time]\nclock_skew_ms = 3").orphan_hold_ms == 13
    assert parse("[event_time]\norphan_hold_ms = 1_000_000").orphan_hold_ms == 1_000_000


# --- overrides -------------------------------------------------------------------------------------------------------------------


def test_an_override_wins_over_the_file_and_is_read_as_toml() -> None:
    environ = {
        "AFTERCLICK_WINDOWS__CLICK_WINDOW_MS": "5_000",
        "AFTERCLICK_NETWORK__TOWERS": "[4, 2]",
        "AFTERCLICK_LABELS__METHOD": "window",
        "AFTERCLICK_LOG__CLICKS__TIME_UNIT": '"us"',
        "AFTERCLICK_CRASH_AT": "3",
        "OTHER_WINDOWS__CLICK_WINDOW_MS": "7",
    }
    settings = parse("[windows]\nclick_window_ms = 9", environ)
    assert settings.windows.click_window_ms == 5_000
    assert settings.network.towers == (4, 2)
    assert settings.labels.method == "window"
    assert settings.log.clicks.time_unit == "us"
    assert settings.log.impressions.time_unit == "ms"


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("AFTERCLICK_WINDOWS__CLICK", "5", "unknown field `click`"),
        ("AFTERCLICK_WINDOW__CLICK_WINDOW_MS", "5", "unknown field `window`"),
        ("AFTERCLICK_WINDOWS__CLICK_WINDOW_MS", "soon", "Expected `int`, got `str`"),
        ("AFTERCLICK_WINDOWS__CLICK_WINDOW_MS", "-5", "must not be negative"),
        ("AFTERCLICK_FEATURES__F", "5", "AFTERCLICK_FEATURES__F cannot override features, which is no table: edit the"),
        ("AFTERCLICK_WINDOWS__CLICK_WINDOW_MS__X", "5", "cannot override windows.click_window_ms, which is no table"),
    ],
)
def test_an_override_is_checked_like_the_file(name: str, value: str, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        parse(FEATURE + "[windows]\nclick_window_ms = 9", {name: value})


# --- files -----------------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_and_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[batching]\nbatch_size = 7", encoding="utf-8")
    assert load(path, {}) == Settings(batching=Batching(batch_size=7))
    assert load(path, {"AFTERCLICK_BATCHING__BATCH_SIZE": "8"}).batching.batch_size == 8
    assert load(None, {}) == Settings()
    path.write_text("[batching]\nsize = 7", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"settings\.toml: .*unknown field `size`"):
        load(path, {})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--config .*nothing\.toml does not exist; `afterclick init LOG > "):
        load(tmp_path / "nothing.toml", {})
    with pytest.raises(SettingsError, match=r"--config .* cannot be read: .*directory"):
        load(tmp_path, {})
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"--config .*bytes\.toml cannot be read: .*utf-8"):
        load(tmp_path / "bytes.toml", {})


RICH = Settings(
    windows=Windows(click_window_ms=1, observation_window_ms=2, attribution_window_ms=3),
    features=(
        Feature(name="a", kind="categorical", path="x.y", width=3),
        Feature(name="b", kind="categorical"),
        Feature(name="c", kind="numeric", transform="buckets", boundaries=(0.1, 1e-9 + 0.1, 7.0)),
        Feature(name="d", kind="crossed", inputs=("a", "b"), task="cvr"),
        Feature(name='odd "name" ü\n', kind="multi", ids_of="b", max_length=3),
    ),
)


@pytest.mark.parametrize("settings", [Settings(), RICH])
def test_written_out_and_read_again_they_are_the_same(settings: Settings) -> None:
    again = parse(dump(settings))
    assert again == settings
    assert again.hash == settings.hash


def test_every_key_is_written_out() -> None:
    text = dump(Settings())
    for section in ("windows", "event_time", "labels", "batching", "network", "optimizer", "safeguards", "cuts"):
        for key, value in msgspec.structs.asdict(getattr(Settings(), section)).items():
            assert (f"{key} = " in text) == (value is not None), key


def test_differences_are_told_by_key() -> None:
    other = msgspec.structs.replace(RICH, batching=Batching(batch_size=7), features=RICH.features[:1])
    assert differences(RICH, RICH) == []
    found = differences(RICH, other)
    assert found[0] == "batching.batch_size: 2048 != 7"
    gone = [feature.name for feature in RICH.features[1:]]
    assert found[1:] == [f"features.{name}: only in the first" for name in sorted(gone)]
    turned = msgspec.structs.replace(RICH, features=RICH.features[::-1])
    assert differences(RICH, turned) == ["features: in another order"]
    assert RICH.hash != other.hash


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pctr_exponent = -1", "serving.pctr_exponent must not be negative"),
        ("max_items = 0", "serving.max_items must be above 0"),
        ("factors = {bid = 20, age = -6}", "exponents of 25 at most in all"),
        ("factors = {bid = nan}", "exponents of 25 at most in all"),
        ("unseen_alarm_share = 1.5", "serving.unseen_alarm_share must lie above 0 and be at most 1"),
        ("api_key = 's3cret'", "api_key"),
    ],
)
def test_a_way_to_serve_that_cannot_be_is_refused(text, says):
    with pytest.raises(SettingsError, match=says):
        parse(f"[serving]\n{text}")


def test_how_scores_are_served_is_no_part_of_a_result():
    one, other = Settings(), parse("[serving]\nfactors = {bid = 1.0}", {"AFTERCLICK_SERVING__API_KEY": "s3cret"})
    assert one.hash == other.hash
    assert differences(one, other) == []
    assert "s3cret" not in dump(other)
    assert parse(dump(other)) == other
