"""The watermark and the join once more, in SQL over a whole log; must not know how a stream does it, nor what a label is.

Nothing here steps through time. Every record gets the instant `at_ms` at which it takes effect and its turn `pos` among all
effects; what belongs to what is then a question of which `pos` and which `at_ms` lie in which interval.

```
an impression     |-- open --------------------|-- remembered ------------|
                  at_ms, pos                leaves                 leaves + hold
clicks            used, duplicate              duplicate, late,           none of this impression
                                               out of window
a held fact   x- - - ->  applied if the impression takes effect by  t + hold
```

The settings are macros without arguments (`click_window()`), in ms; `final_watermark()` is one too, made after `ARRIVAL`.
Kinds are 0 impression, 1 click, 2 conversion. `n` ascends by file and line.
"""

from __future__ import annotations

ARRIVAL = """
-- Stamped in the future: ahead of each of the next 16 of its file. Where fewer follow, ahead of all else in the file, by as
-- much more as its stream may run ahead: at the end of a file a record on time may have only late ones behind it.
CREATE TABLE ahead AS
SELECT n, file, t, count(*) OVER next16 AS follow, max(t) OVER next16 AS following,
       future_skew() + CASE kind WHEN 0 THEN 0 WHEN 1 THEN click_window() ELSE attribution_window() END AS leeway
FROM record WINDOW next16 AS (PARTITION BY file ORDER BY n ROWS BETWEEN 1 FOLLOWING AND 16 FOLLOWING);

CREATE TABLE contradicted AS
WITH RECURSIVE body AS (
    SELECT n, file, t, t > following + future_skew() AS is_future FROM ahead WHERE follow = 16
), step AS (
    SELECT file, 16 AS follow, NULL::BIGINT AS n, false AS is_future, max(body.t) FILTER (NOT body.is_future) AS largest
    FROM (SELECT DISTINCT file FROM ahead) LEFT JOIN body USING (file) GROUP BY file
    UNION ALL
    SELECT step.file, step.follow - 1, ahead.n, t > greatest(largest, following) + leeway,
           CASE WHEN t > greatest(largest, following) + leeway THEN largest ELSE greatest(largest, t) END
    FROM step LEFT JOIN ahead ON ahead.file = step.file AND ahead.follow = step.follow - 1
    WHERE step.follow > 1
)
SELECT n FROM body WHERE is_future UNION ALL SELECT n FROM step WHERE is_future;

-- The last of a file: ahead of everything else in the log.
CREATE TABLE future AS
WITH others AS (SELECT max(t, 2) AS largest FROM ahead ANTI JOIN contradicted USING (n))
SELECT n FROM contradicted
UNION ALL
SELECT n FROM ahead, others
WHERE follow = 0 AND t > CASE WHEN t = largest[1] THEN largest[2] ELSE largest[1] END + leeway;

-- Reading the file with the smallest next event time is sorting by the running maximum within the file.
CREATE TABLE arrival AS
WITH keyed AS (
    SELECT n, kind, id, t, max(t) OVER (PARTITION BY file ORDER BY n ROWS UNBOUNDED PRECEDING) AS key
    FROM record ANTI JOIN future USING (n)
)
SELECT n, kind, id, t, key - out_of_orderness() AS watermark, t < key - out_of_orderness() AS is_late,
       row_number() OVER (ORDER BY key, n) AS arrived
FROM keyed;
"""

FINAL_WATERMARK = "SELECT max(t) - out_of_orderness() FROM arrival"

EFFECTS = """
CREATE TABLE effect AS
WITH turns AS (
    SELECT arrival.*, CASE WHEN is_late THEN watermark ELSE arrival.t END AS at_ms,
           row_number() OVER (ORDER BY arrival.t, arrival.kind, arrival.id, raw, arrived) AS turn
    FROM arrival JOIN record USING (n)
)
SELECT n, kind, id, t, is_late, at_ms, turn,
       row_number() OVER (ORDER BY at_ms, NOT is_late, CASE WHEN is_late THEN arrived ELSE turn END) AS pos
FROM turns
WHERE is_late OR t < final_watermark();

-- Impressions in state, `shown`: those first of their id while it is neither open nor remembered.
-- Its columns click_* are of the click that makes the label; `since` is how long an earlier impression of the id was known.
CREATE TABLE shown (
    id VARCHAR, n BIGINT, t BIGINT, at_ms BIGINT, pos BIGINT, since BIGINT, round INTEGER,
    click_n BIGINT, click_ms BIGINT, click_at_ms BIGINT, click_pos BIGINT, click_turn BIGINT, leaves BIGINT);

-- Those that may still become so: in their window when they take effect, which only a late one may not be.
CREATE TABLE waiting AS
SELECT id, n, t, at_ms, pos, 0::BIGINT AS since FROM effect WHERE kind = 0 AND at_ms <= t + click_window();
"""

ROUND = """
-- A round settles the next impression of every id: ids are rarely used twice, so there is mostly one round.
INSERT INTO shown
WITH next AS (
    SELECT * FROM waiting WHERE pos IN (SELECT min(pos) FROM waiting GROUP BY id)
), belonging AS (
    SELECT next.n AS shown_n, click.n AS click_n, greatest(click.t, next.t) AS click_ms,
           greatest(click.at_ms, next.at_ms) AS click_at_ms, greatest(click.pos, next.pos) AS click_pos, click.turn AS click_turn
    FROM next JOIN effect click ON click.id = next.id AND click.kind = 1
    WHERE click.t BETWEEN next.t - clock_skew() AND next.t + click_window()
      AND click.at_ms > next.since
      AND CASE WHEN click.pos > next.pos THEN click.at_ms <= next.t + click_window() ELSE next.at_ms <= click.t + hold() END
), label AS (
    SELECT * FROM belonging
    QUALIFY row_number() OVER (PARTITION BY shown_n ORDER BY click_pos, click_turn) = 1
)
SELECT next.*, $round, label.* EXCLUDE (shown_n),
       coalesce(label.click_ms + attribution_window(), next.t + click_window())
FROM next LEFT JOIN label ON label.shown_n = next.n;
"""

NEXT_ROUND = """
CREATE OR REPLACE TABLE waiting AS
SELECT waiting.* REPLACE (leaves + hold() AS since)
FROM waiting JOIN shown USING (id)
WHERE shown.round = $round AND waiting.at_ms > leaves + hold();
"""

FATES = """
-- Impressions: one that is not `shown` met another of its id, or came too late for its window.
CREATE TABLE fate AS
SELECT n, 'future' AS fate FROM future
UNION ALL SELECT n, 'dead_letters' FROM malformed
UNION ALL SELECT n, 'open' FROM arrival ANTI JOIN effect USING (n)
UNION ALL SELECT n, 'used' FROM shown
UNION ALL
SELECT other.n, CASE WHEN shown.n IS NULL THEN 'late' ELSE 'duplicates' END
FROM (SELECT * FROM effect WHERE kind = 0 AND n NOT IN (SELECT n FROM shown)) other
LEFT JOIN shown ON shown.id = other.id AND shown.pos < other.pos AND other.at_ms <= shown.leaves + hold();

-- Clicks: applied to the impression that is there, or to one that comes within the hold; never to more than one.
INSERT INTO fate
SELECT click.n, CASE
    WHEN shown.n IS NULL AND click.t + hold() >= final_watermark() THEN 'open'
    WHEN shown.n IS NULL THEN CASE WHEN click.is_late THEN 'late' ELSE 'orphans' END
    WHEN click.n = click_n THEN 'used'
    WHEN click_n IS NOT NULL AND (greatest(click.pos, shown.pos), click.turn) > (click_pos, click_turn) THEN 'duplicates'
    WHEN click.is_late AND click.t BETWEEN shown.t - clock_skew() AND shown.t + click_window() THEN 'late'
    ELSE 'out_of_window' END
FROM (SELECT * FROM effect WHERE kind = 1) click
LEFT JOIN shown ON shown.id = click.id
  AND CASE WHEN shown.pos < click.pos THEN click.at_ms <= leaves + hold()
           ELSE click.at_ms > since AND shown.at_ms <= click.t + hold() END;

-- Conversions: applied to the click that is there (first in click_pos), or to one that comes within the hold.
CREATE TABLE follow AS
SELECT conversion.n, conversion.is_late, conversion.turn, shown.n AS shown_n,
       greatest(conversion.t, click_ms) AS conversion_ms, greatest(conversion.at_ms, click_at_ms) AS conversion_at_ms,
       greatest(conversion.pos, click_pos) AS applied_pos, click_ms + attribution_window() AS outcome_ms,
       conversion.t BETWEEN click_ms - clock_skew() AND click_ms + attribution_window() AS belongs
FROM effect conversion JOIN shown ON shown.id = conversion.id
WHERE conversion.kind = 2 AND click_n IS NOT NULL
  AND CASE WHEN click_pos < conversion.pos THEN conversion.at_ms <= leaves + hold() ELSE click_at_ms <= conversion.t + hold() END
QUALIFY row_number() OVER (PARTITION BY conversion.n ORDER BY click_pos) = 1;

CREATE TABLE converted AS
SELECT * FROM follow WHERE belongs AND conversion_at_ms <= outcome_ms
QUALIFY row_number() OVER (PARTITION BY shown_n ORDER BY applied_pos, turn) = 1;

INSERT INTO fate
SELECT conversion.n, CASE
    WHEN follow.n IS NULL AND conversion.t + hold() >= final_watermark() THEN 'open'
    WHEN follow.n IS NULL THEN CASE WHEN conversion.is_late THEN 'late' ELSE 'orphans' END
    WHEN follow.n = converted.n THEN 'used'
    WHEN (follow.applied_pos, follow.turn) > (converted.applied_pos, converted.turn) AND converted.n IS NOT NULL
        THEN 'duplicates'
    WHEN follow.is_late AND follow.belongs THEN 'late'
    ELSE 'out_of_window' END
FROM (SELECT * FROM effect WHERE kind = 2) conversion
LEFT JOIN follow USING (n)
LEFT JOIN converted ON converted.shown_n = follow.shown_n;
"""
