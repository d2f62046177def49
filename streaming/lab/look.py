"""The settings that a look at a log suggests, with their reasons; must not know how a run uses them.

A person reads what is written here before a machine does: each value stands under its meaning and what was seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.schema import Feature
from streaming.events import RecordKind
from streaming.lab.columns import Suggestion, suggest
from streaming.lab.durations import in_words
from streaming.lab.sampling import Sample, take_sample
from streaming.lab.suggest_publishing import weights_sections
from streaming.lab.suggest_time import (
    Delays,
    batching_section,
    cuts_section,
    event_time_section,
    windows_section,
)
from streaming.lab.toml_text import comment, duration, pair
from streaming.settings import Fields, Settings, parse

PRIOR_FROM, PRIOR_TO = 1e-4, 0.98  # a start outside has a logit that takes long to come back from

_STANDARD = Settings()
_MEANINGS = {
    "impression_id": "the id that links the three streams",
    "event_time": "when it happened",
    "time_unit": "as the size of the numbers, or their form, says",
    "features": "the object that holds the features",
    "value": "what the conversion was worth",
}


def suggest_settings(log: Path) -> str:
    """Commented settings for a log, from its first 50,000 records of each stream.

    Returns:
        TOML that `streaming.settings.parse` accepts. What a look at a log says nothing of is left to its default.

    Raises:
        LogError: there is no log at `log`. What is wrong inside its files becomes a WARNING comment.
    """
    sample = take_sample(log)
    delays = Delays.of(sample)
    sections = [
        _opening(log, sample),
        *_mapping(sample),
        windows_section(sample, delays),
        event_time_section(sample, delays),
        _labels(),
        batching_section(sample),
        _network(sample, delays),
        cuts_section(sample),
        *weights_sections(),
        *_features(sample),
    ]
    text = "\n\n".join(sections) + "\n"
    parse(text, source=f"the suggestion for {log}")
    return text


def _opening(log: Path, sample: Sample) -> str:
    counts = [
        f"{len(stream):,} {kind.stem}{'' if stream.is_whole else ' (there are more)'}"
        for kind, stream in sample.streams.items()
    ]
    lines = [
        f"Settings for the log {log.resolve().name}, suggested by `afterclick init` from a look at {', '.join(counts)}.",
        "Lengths of time are milliseconds of event time. What is not written here has its default.",
    ]
    for kind, stream in sample.streams.items():
        lines += [f"WARNING: {place}" for place in stream.broken]
        if stream.malformed:
            lines.append(
                f"WARNING: cannot be read: {len(stream.malformed):,} {kind.stem}, the first because: {stream.malformed[0]}. "
                "`afterclick check` shows more."
            )
        if stream.future:
            lines.append(f"WARNING: left out because they are stamped in the future: {stream.future:,} {kind.stem}.")
    return comment(*(" ".join(line.split()) for line in lines))


def _mapping(sample: Sample) -> Iterator[str]:
    for kind, stream in sample.streams.items():
        is_there = len(stream) or stream.malformed
        lines = [
            comment(
                f"WARNING: no field of the {kind.stem} looks like {name}: name it here."
                + (f" It may be one of these: {', '.join(candidates)}." if candidates else "")
            )
            for name, candidates in (stream.mapped.lacking.items() if is_there else ())
        ]
        for key, meaning in _MEANINGS.items():
            found, usual = getattr(stream.mapped.fields, key), getattr(Fields(), key)
            if found != usual:
                if not found:
                    meaning = "the records are flat: the whole record holds the features"
                lines.append(pair(key, found, f"{meaning}; the default is {usual}"))
        if lines:
            yield "\n".join(
                [comment("This log has other names or units than docs/formats.md."), f"[log.{kind.stem}]", *lines]
            )


def _labels() -> str:
    labels = _STANDARD.labels
    ages = ", ".join(in_words(age_ms) for age_ms in labels.delay_prior_ages_ms)
    return "\n".join(
        [
            comment(
                "How late conversions are taught. `afterclick compare` shows on this log what each method would have done."
            ),
            "[labels]",
            comment(
                '"mature" waits for the final label: never wrong, but attribution_window_ms behind. "window" labels after '
                "observation_window_ms and forgets what comes later: fresh, and too low. All others label early and correct what "
                "comes later: survival, es_dfm, ddfm, defer, defuse and fnw under every objective; fnc, bi_defuse and dfm with "
                'objective = "composed" in [network] only. "oracle" looks into the future of a log: for replays.',
            ),
            pair("method", labels.method),
            comment(
                '"unit": what a click is taught adds up to its label. "paper": as published, for reproduction; "composed" only.'
            ),
            pair("normalization", labels.normalization),
            comment(
                "Steps between the observation and the attribution window at which survival and dfm look at open clicks again."
            ),
            pair("horizons", labels.horizons),
            comment(
                "Whether an unclicked impression weighs as much as clicks teach at the time. Off for studies alone."
            ),
            pair("kappa", labels.kappa),
            comment(
                "Whether what is taught late is scaled by the growth of traffic since its click. Off for studies alone."
            ),
            pair("growth", labels.growth),
            comment(
                'What tells how late conversions come, to methods that ask. "hazard": by features, at every age. "global": one curve '
                'for all clicks. "heads": the papers\' two probabilities at the observation window, taught by final labels; not for survival.'
            ),
            pair("delay_model", labels.delay_model),
            duration(
                "delay_half_life_ms",
                labels.delay_half_life_ms,
                "How long it takes until what was learned about delays has lost half its weight.",
                "Shorter follows a change sooner, longer knows more.",
            ),
            comment(
                "What is believed of delays until the stream has shown them: of the conversions that ever come, the share that has "
                "come by each age. As published of the Criteo log; ages beyond the attribution window are cut there."
            ),
            f"delay_prior_ages_ms = [{', '.join(f'{age_ms:_}' for age_ms in labels.delay_prior_ages_ms)}]  # {ages}",
            f"delay_prior_shares = {list(labels.delay_prior_shares)}",
        ]
    )


def _network(sample: Sample, delays: Delays) -> str:
    shown = len(sample.streams[RecordKind.IMPRESSION].first_of_each())
    return "\n".join(
        [
            comment(
                "Shape and start of the network. Its other keys (towers, embedding_width, objective, seed, ...) have sound "
                "defaults; so have all of [optimizer] (learning rates) and [safeguards] (when a batch is refused)."
            ),
            "[network]",
            comment("Where pCTR and pCVR start. Near the truth, or the first steps only learn the averages."),
            _prior("prior_ctr", len(delays.to_click), shown, "clicks on", "impressions"),
            _prior("prior_cvr", len(delays.to_conversion), delays.clicked, "conversions of", "clicks"),
        ]
    )


def _prior(key: str, count: int, of: int, what: str, things: str) -> str:
    if not count:
        return pair(key, getattr(_STANDARD.network, key), "probability; the default: none were seen")
    rate = count / of
    prior = float(f"{min(max(rate, PRIOR_FROM), PRIOR_TO):.3g}")
    remark = f"probability; seen: {count:,} {what} {of:,} {things}"
    if not PRIOR_FROM <= rate <= PRIOR_TO:
        remark += f"; capped, since from a start nearer to {rate:.0f} the model takes long to come back"
    return pair(key, prior, remark)


def _features(sample: Sample) -> Iterator[str]:
    yield comment(
        f"What the model sees, as found in {sample.rows:,} impressions. Delete what must not be learned from.",
        "kind: categorical (one id), multi (a set of ids), sequence (ids in order, the newest max_length count), numeric "
        '(center and scale are mean and spread, after transform), crossed (kind = "crossed", inputs = ["user", "item"]).',
    )
    suggestions = [suggest(name, values, sample.rows) for name, values in sample.columns.items()]
    if not any(suggestion.feature for suggestion in suggestions):
        yield comment(
            "WARNING: no usable features were found, so the model can only learn averages. "
            "`features` in [log.impressions] says where they are."
        )
    for suggestion in suggestions:
        yield _feature(suggestion)


def _feature(suggestion: Suggestion) -> str:
    if suggestion.feature is None:
        return comment(f"{pair('name', suggestion.name).removeprefix('name = ')} is left out: {suggestion.why}.")
    feature, standard = suggestion.feature, Feature(name="", kind="categorical")
    lines = ["[[features]]", pair("name", feature.name, suggestion.why), pair("kind", feature.kind)]
    for key in ("transform", "center", "scale", "max_length"):
        value: Any = getattr(feature, key)
        if value != getattr(standard, key):
            lines.append(pair(key, value))
    return "\n".join(lines)
