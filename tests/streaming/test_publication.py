"""Settings of publishing: what may be said, and that it is no part of the result."""

import pytest

from streaming.connection import Redis
from streaming.settings import Settings, SettingsError, differences, dump, parse


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[publishing]\ntargets = ["redis"]',
            r'publishing.targets must hold "directory", and each target once \(got \[\'redis\'\]\)',
        ),
        ('[publishing]\ntargets = ["directory", "redis", "redis"]', "and each target once"),
        ('[publishing]\ntargets = ["directory", "s3"]', "targets"),
        ('[publishing]\nrow_format = "fp8"', "row_format"),
        ("[publishing]\nsnapshot_every = 0", r"publishing.snapshot_every must be above 0 \(got 0\)"),
        ("[publishing]\nepsilon = -0.1", "publishing.epsilon must not be negative"),
        ("[publishing]\ndelta_interval_ms = 0", "publishing.delta_interval_ms must be above 0"),
        ('[gate]\non_refusal = "panic"', "on_refusal"),
        ("[gate]\nheld_out_share = 0.6", r"gate.held_out_share must be from 0 to 0.5 \(got 0.6\)"),
        ("[gate]\nlog_loss_ratio_most = 0.0", "gate.log_loss_ratio_most must be above 0"),
        (
            '[redis]\nurl = "redis://user:word@host:6379/0"',
            "redis.url must hold no password: .*AFTERCLICK_REDIS__PASSWORD",
        ),
        ('[redis]\nurl = "redis://host:6379/0?password=word"', "redis.url must hold no password"),
        (
            '[redis]\nurl = "http://host"',
            r"redis.url must start with redis://, rediss:// or unix:// \(got 'http://host'\)",
        ),
        ('[redis]\nmodel = "a{b}"', r"redis.model must hold no braces \(got 'a\{b\}'\)"),
    ],
)
def test_what_cannot_be_is_refused_with_the_key(text, says):
    with pytest.raises(SettingsError, match=says):
        parse(text)


def test_a_user_in_the_address_is_fine_and_the_password_stays_in_the_environment():
    text = '[redis]\nurl = "redis://user@host:6379/0"'
    settings = parse(text, {"AFTERCLICK_REDIS__PASSWORD": "word"})
    assert settings.redis.url == "redis://user@host:6379/0"
    assert "word" not in dump(settings).replace("password", "")


def test_where_weights_go_is_no_part_of_the_result_and_the_gate_is():
    plain = Settings()
    elsewhere = parse('[publishing]\ntargets = ["directory", "redis"]\nsnapshot_every = 3\n[redis]\nmodel = "other"')
    assert (elsewhere.hash, differences(plain, elsewhere)) == (plain.hash, [])
    gated = parse("[gate]\ncalibration_most = 2.0")
    assert gated.hash != plain.hash
    assert parse(dump(gated)) == gated
    assert Redis().url.startswith("redis://")
