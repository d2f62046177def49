"""What is good and bad about what was found in a log, and what to do; must not know how it was found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from models.delay import METHODS, check_combination
from streaming.lab.durations import clean_above, in_words, utc
from streaming.lab.findings import Following, LogFindings, Problem, StreamFindings, WindowAdvice, kind_of, without_place
from streaming.lab.suggest_time import ENOUGH, SuitedWindows
from streaming.settings import Settings

RARE = 0.001  # share of records up to which disorder, repeats and the like are the usual dirt: not worth a line
COMMON = 0.01  # share from which they are a warning
GENEROUS = 10  # a click window this many times what clicks need only makes every label late
UNSORTED_MS = 3_600_000  # one record in ten further behind than this is no disorder but no order
HALF_HOUR_MS = 1_800_000  # the step between time zones
LONGEST_DELAY_MS = {
    "clicks": 86_400_000,
    "conversions": 90 * 86_400_000,
}  # 1 d, 90 d: what comes later has a wrong clock
NAMED = 10  # features named where one of the settings is not there
_RANK = {"error": 0, "warning": 1, "note": 2}


def advice_for(found: LogFindings, settings: Settings) -> list[WindowAdvice]:
    """What the log suggests for the windows and the bound on disorder, beside what they are now."""
    windows, suited = settings.windows, SuitedWindows.suited_to(found.clicks.delay_ms, found.conversions.delay_ms)
    behind = [stream.behind_ms.nearly_all for stream in found.streams if stream.behind_ms is not None]
    return [
        WindowAdvice("windows.click_window_ms", windows.click_window_ms, suited.click_ms),
        WindowAdvice("windows.observation_window_ms", windows.observation_window_ms, suited.observation_ms),
        WindowAdvice("windows.attribution_window_ms", windows.attribution_window_ms, suited.attribution_ms),
        WindowAdvice(
            "event_time.out_of_orderness_ms",
            settings.event_time.out_of_orderness_ms,
            clean_above(max(behind)) if behind else None,
        ),
    ]


def problems_in(found: LogFindings, settings: Settings) -> list[Problem]:
    """What a person should know about a log before running over it, the worst first."""
    rules = (_of_labels, _of_streams, _of_features, _of_ids, _of_times, _of_windows, _of_rates, _of_gaps, _of_the_end)
    problems = [
        Problem(problem.severity, problem.what, problem.remedy[:1].upper() + problem.remedy[1:])
        for rule in rules
        for problem in rule(found, settings)
    ]
    return sorted(problems, key=lambda problem: _RANK[problem.severity])


def _of_labels(found: LogFindings, settings: Settings) -> Iterator[Problem]:
    labels = settings.labels
    if labels.method not in METHODS and ":" not in labels.method:
        yield Problem("error", f'there is no labels.method "{labels.method}"', f"set it to one of {', '.join(METHODS)}")
        return
    try:
        check_combination(
            labels.method,
            objective=settings.network.objective,
            normalization=labels.normalization,
            delay_model=labels.delay_model,
        )
    except ValueError as error:
        what, _, why = str(error).partition(": ")
        yield Problem("error", what, f"change one of them; {why or 'a replay refuses them together'}")


def _of_features(found: LogFindings, settings: Settings) -> Iterator[Problem]:
    if not found.sampled:
        return
    fields = settings.log.impressions
    known: set[str | None] = {fields.impression_id, fields.event_time, fields.join_key}  # a flat record has them too
    known |= {feature.path or feature.name for feature in settings.features}
    others = [name for name in found.values if name not in known]
    seen = ", ".join([*others[:NAMED], *(["..."] if len(others) > NAMED else [])]) or "nothing"
    for feature in settings.features:
        count = found.values.get(feature.path or feature.name, 0)
        if feature.kind == "crossed" or count > RARE * found.sampled:
            continue
        path = "" if feature.path is None else f" (path {feature.path})"
        yield Problem(
            "warning",
            f"feature {feature.name}{path} has a value in {count or 'none'} of {found.sampled:,} impressions looked at",
            f"is the name or path right? Seen and not in the settings: {seen}",
        )


def _of_streams(found: LogFindings, settings: Settings) -> Iterator[Problem]:
    for stream in found.streams:
        for broken in stream.broken:
            yield Problem("error", broken, "what stands behind that place is not in these figures")
        for stranger in stream.strangers[:3]:
            rule = "parts end in .jsonl, .jsonl.gz, .jsonl.zst or .parquet"
            yield Problem("warning", f"no part of the log, and not read: {stranger}", rule)
        if stream.malformed:
            yield _malformed(stream)
        if not stream.records and not stream.broken:
            yield _absent(stream)
        if stream.future and _may_be_honest(stream):
            key = "click_window_ms" if stream.stem == "clicks" else "attribution_window_ms"
            window = in_words(getattr(settings.windows, key))
            yield Problem(
                "warning",
                f"later than all the rest of the log by more than {key} = {window}: "
                f"{_of(stream.future, stream.records, stream.stem)}",
                f"the window may be too short for them: a windows.{key} above their delays keeps them. If it is long enough, "
                "look at the clock that stamped them. They go to future.jsonl and teach nothing",
            )
        elif stream.future:
            skew = in_words(settings.event_time.future_skew_ms)
            yield Problem(
                "warning",
                f"stamped more than {skew} ahead of those around them: {_of(stream.future, stream.records, stream.stem)}",
                "they go to future.jsonl and teach nothing; look at the clock that stamped them",
            )


def _may_be_honest(stream: StreamFindings) -> bool:
    """Whether what is stamped in the future may be facts that came long after what they follow."""
    longest_ms = LONGEST_DELAY_MS.get(stream.stem)
    return longest_ms is not None and stream.ahead_ms is not None and stream.ahead_ms <= longest_ms


def _malformed(stream: StreamFindings) -> Problem:
    kind, count = next(iter(stream.malformed_reasons.items()))
    # One of its kind says more than the kind, with the values left out.
    example = next((sample for sample in stream.malformed_samples if kind_of(sample.reason) == kind), None)
    reason, at = (kind, "") if example is None else (without_place(example.reason), f"for example {example.at}. ")
    most = "" if count == stream.malformed else f" ({count:,} times)"
    return Problem(
        "error" if stream.malformed > COMMON * stream.records else "warning",
        f"malformed: {_of(stream.malformed, stream.records, stream.stem)}, because{most}: {reason}",
        f"{at}They go to dead_letters.jsonl. If the log has other names or units, "
        f"[log.{stream.stem}] in the settings maps them; `afterclick init` finds most",
    )


def _absent(stream: StreamFindings) -> Problem:
    if stream.stem == "conversions":
        return Problem("warning", "there are no conversions", "only the click rate can be learned from this log")
    where = f"they belong in {stream.stem}.jsonl or a folder {stream.stem}/"
    return Problem("error", f"there are no {stream.stem}", f"nothing can be learned without them; {where}")


def _of_ids(found: LogFindings, settings: Settings) -> Iterator[Problem]:
    impressions, clicks, _ = found.streams
    if not impressions.usable:  # that is told already, and all else would follow from it
        return
    for stem, of, following in _followings(found):
        orphaned = following.orphaned - (found.view_through if stem == "conversions" else 0)
        if orphaned > RARE * following.facts:
            yield Problem(
                "error" if orphaned > 0.5 * following.facts else _severity(orphaned, following.facts),
                f"without an impression in this log: {_of(orphaned, following.facts, stem)}",
                f"is [log.{stem}] impression_id the id that impressions have? If it is, their impressions are lost or older "
                "than the log; they go to orphans.jsonl",
            )
        if following.repeated > COMMON * following.facts:
            yield Problem(
                "note",
                f"repeating one that is there already: {_of(following.repeated, following.facts, stem)}",
                f"the first makes the label, the others go to duplicates.jsonl. If each counts, the id is too coarse: one {of} is many",
            )
    if clicks.usable and found.view_through > RARE * found.conversions.facts:
        yield Problem(
            _severity(found.view_through, found.conversions.facts),
            f"of an impression without a click: {_of(found.view_through, found.conversions.facts, 'conversions')}",
            "view-through conversions teach nothing here and go to orphans.jsonl. If they were clicked, clicks are missing",
        )
    if found.repeated_impressions:
        yield Problem(
            _severity(found.repeated_impressions, impressions.usable),
            f"repeating an impression_id: {_of(found.repeated_impressions, impressions.usable, 'impressions')}",
            "the first counts, the others go to duplicates.jsonl. Many say that the id does not name a single impression",
        )


def _of_times(found: LogFindings, settings: Settings) -> Iterator[Problem]:
    bound = settings.event_time.out_of_orderness_ms
    for stream in found.streams:
        if stream.behind_ms is None or stream.late <= RARE * stream.usable:
            continue
        suited = clean_above(stream.behind_ms.nearly_all)
        remedy = f"set event_time.out_of_orderness_ms = {suited} ({in_words(suited)}), or they may come late"
        if suited <= bound:
            remedy = (
                "a few stragglers: they may come late and go to late.jsonl; late facts of open impressions still count"
            )
        elif stream.behind_ms.p90 > UNSORTED_MS:
            remedy = "the file is not in the order of time: sort it by event time"
        yield Problem(
            "error" if stream.late > 0.1 * stream.usable else "note" if suited <= bound else "warning",
            f"out of order by more than out_of_orderness_ms = {in_words(bound)}: {_of(stream.late, stream.usable, stream.stem)}",
            remedy,
        )
    skew = in_words(settings.event_time.clock_skew_ms)
    for stem, of, following in _followings(found):
        known = following.facts - following.orphaned
        zone = _time_zone(following)
        if following.before > RARE * known:
            yield Problem(
                "error" if following.before > 0.1 * known else "warning",
                f"stamped before their {of} by more than clock_skew_ms = {skew}: {_of(following.before, known, stem)}",
                zone
                or f"the clocks differ, or the times of {stem} mean something else; they go to out_of_window.jsonl",
            )
        elif zone is not None and stem == "clicks":  # conversions may well come two hours late, all of them
            yield Problem("warning", f"hardly one of the {stem} comes sooner after its {of} than the others", zone)


def _time_zone(following: Following) -> str | None:
    """A remedy, if all delays begin at about the same half hours: one of the clocks is in local time."""
    delay = following.delay_ms
    if delay is None or delay.n < ENOUGH:
        return None
    offset = round(delay.p01 / HALF_HOUR_MS) * HALF_HOUR_MS
    if offset == 0 or abs(delay.p01 - offset) > HALF_HOUR_MS / 30 or abs(delay.p50 - offset) > HALF_HOUR_MS / 2:
        return None
    return f"the delays begin at {in_words(offset)}: one of the two seems to be stamped in local time instead of UTC"


def _of_windows(found: LogFindings, settings: Settings) -> Iterator[Problem]:
    advised = {advice.key: advice for advice in found.advice}
    keys = ("windows.click_window_ms", "windows.attribution_window_ms")
    for key, (stem, _, following) in zip(keys, _followings(found), strict=True):
        now, suited = advised[key].now_ms, advised[key].suggested_ms
        known = following.facts - following.orphaned
        if suited is None:
            continue
        if following.beyond > COMMON * known:
            yield Problem(
                "warning",
                f"after {key} = {in_words(now)}, so that they do not count: {_of(following.beyond, known, stem)}",
                f"set {key} = {suited} ({in_words(suited)}) to have nearly all",
            )
        elif now > GENEROUS * suited:
            yield Problem(
                "note",
                f"{key} = {in_words(now)} is far longer than these {stem} need: labels come later than they could",
                f"{suited} ({in_words(suited)}) would do",
            )


def _of_rates(found: LogFindings, settings: Settings) -> Iterator[Problem]:
    for (stem, of, following), verb in zip(_followings(found), ("clicked", "converted"), strict=True):
        if following.rate is not None and following.rate > 0.5:
            yield Problem(
                "warning",
                f"{verb}: {_of(following.followed, following.owners, of + 's')}",
                f"were only {verb} {of}s logged? Then there is nothing that tells them from the others",
            )
        if following.facts > following.orphaned and not following.followed:
            yield Problem("error", f"no {of} has one of the {stem} within its window", "see the windows and the delays")


def _of_gaps(found: LogFindings, settings: Settings) -> Iterator[Problem]:
    for gap in found.gaps[:10]:
        yield Problem(
            "error",
            f"no {gap.stem} from {utc(gap.from_ms)} to {utc(gap.to_ms)}, where about {gap.expected:,} were to be expected",
            "the stream was dead or its records are lost: what was shown then would be taught as negative. Recover the "
            "records, or cut the stretch out of all three streams",
        )
    if len(found.gaps) > 10:
        yield Problem("error", f"{len(found.gaps) - 10:,} further silent stretches", "`--json` lists them")


def _of_the_end(found: LogFindings, settings: Settings) -> Iterator[Problem]:
    spans = [(at.first_ms, at.last_ms) for at in found.streams if at.first_ms is not None and at.last_ms is not None]
    if spans and max(first for first, _ in spans) > min(last for _, last in spans):
        remedy = "see their spans: are they of the same days, and in the units that [log] says?"
        yield Problem("error", "the streams do not overlap in time", remedy)
    if found.open_clicks:
        window = in_words(settings.windows.attribution_window_ms)
        is_all = found.open_clicks >= found.clicks.followed
        yield Problem(
            "warning" if is_all else "note",
            f"the log ends before attribution_window_ms = {window} after its last click: {found.open_clicks:,} clicks stay open"
            + (", all there are: no label becomes final" if is_all else ""),
            "the log that follows continues them; if there is none and this one is complete, replay with --close-at-end",
        )


def _followings(found: LogFindings) -> tuple[tuple[str, str, Following], ...]:
    return ("clicks", "impression", found.clicks), ("conversions", "click", found.conversions)


def _severity(count: int, of: int) -> Literal["warning", "note"]:
    return "warning" if count > COMMON * of else "note"


def _of(count: int, total: int, things: str) -> str:
    """A count in its proportion.

    Example:
        >>> _of(3, 25, "clicks"), _of(2, 2, "clicks"), _of(999_999, 1_000_000, "clicks")
        ('3 of 25 clicks (12 %)', 'all 2 clicks', '999,999 of 1,000,000 clicks (nearly 100 %)')
    """
    if count == total:
        return f"all {total:,} {things}"
    share = "nearly 100 %" if count > 0.9995 * total else f"{count / total * 100:.3g} %"
    return f"{count:,} of {total:,} {things} ({share})"
