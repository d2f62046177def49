"""What `verify` holds a run to, one query a check: the places where it breaks the promise. Must not know how the truth was found.

A query returns `what`, `want` and `got`: what the difference is about, and what stands on either side (NULL: nothing).
"""

from __future__ import annotations

VIEWS = """
CREATE VIEW source AS
SELECT n, name || ':' || line AS place, ['impression', 'click', 'conversion'][logged.kind + 1] AS kind, id, t, raw, is_text
FROM (
    SELECT n, file, kind, line, id, t, raw FROM record
    UNION ALL SELECT n, file, kind, line, NULL, NULL, raw FROM malformed
) logged
JOIN file USING (file);

-- Both sides of the side outputs in one form. What a door leaves open is NULL on both: a malformed record has no envelope to
-- compare, a future one no watermark to compare (it moves none), a row of a Parquet file no text of its own.
CREATE TABLE want_side AS
SELECT fate AS door, kind, place, CASE WHEN fate <> 'dead_letters' THEN id END AS impression_id,
       CASE WHEN fate <> 'dead_letters' THEN t END AS event_time_ms,
       CASE WHEN fate <> 'future' THEN watermark END AS watermark_ms, CASE WHEN is_text THEN raw END AS record
FROM fate JOIN source USING (n) LEFT JOIN (SELECT n, watermark FROM arrival) USING (n)
WHERE fate NOT IN ('used', 'open');

CREATE TABLE got_side AS
SELECT side_output.file AS door, side_output.kind, side_output.place,
       CASE WHEN file <> 'dead_letters' THEN impression_id END AS impression_id,
       CASE WHEN file <> 'dead_letters' THEN event_time_ms END AS event_time_ms,
       CASE WHEN file NOT IN ('dead_letters', 'future') THEN watermark_ms END AS watermark_ms,
       CASE WHEN place NOT LIKE '%.parquet:%' THEN record END AS record
FROM side_output;
"""

EXAMPLES = """
SELECT coalesce(want.impression_id, got.impression_id) || ' ' || coalesce(want.slot, got.slot) AS what,
       CASE WHEN want.slot IS NOT NULL THEN want END AS want, CASE WHEN got.slot IS NOT NULL THEN got END AS got
FROM expected want FULL JOIN (SELECT * EXCLUDE (line) FROM example) got
ON want.impression_id = got.impression_id AND want.slot = got.slot AND want.impression_ms = got.impression_ms
WHERE want.slot IS NULL OR got.slot IS NULL OR want.kind <> got.kind OR want.p <> got.p OR want.due_ms <> got.due_ms
   OR want.click_ms IS DISTINCT FROM got.click_ms OR want.conversion_ms IS DISTINCT FROM got.conversion_ms
   OR want.converted <> got.converted OR want.value IS DISTINCT FROM got.value
ORDER BY coalesce(want.due_ms, got.due_ms), what
"""

SIDE_OUTPUT = """
SELECT coalesce(want.kind, got.kind) || ' ' || coalesce(want.place, got.place) AS what,
       CASE WHEN want.place IS NOT NULL THEN want END AS want, CASE WHEN got.place IS NOT NULL THEN got END AS got
FROM (FROM want_side WHERE door = $door) want FULL JOIN (FROM got_side WHERE door = $door) got USING (kind, place)
WHERE want.place IS NULL OR got.place IS NULL OR want.impression_id IS DISTINCT FROM got.impression_id
   OR want.event_time_ms IS DISTINCT FROM got.event_time_ms OR want.watermark_ms IS DISTINCT FROM got.watermark_ms
   OR want.record IS DISTINCT FROM got.record
ORDER BY what
"""

ONE_DOOR = """
WITH doors AS (
    SELECT place, kind, list(file ORDER BY file) AS files FROM side_output GROUP BY ALL
), inside AS (
    SELECT n, fate FROM fate WHERE fate IN ('used', 'open')
)
SELECT coalesce(source.place, doors.place) AS what, CASE WHEN source.n IS NOT NULL THEN 'exactly one door' ELSE 'no such record' END AS want,
       coalesce(nullif(array_to_string(list_concat([fate], files), ' and '), ''), 'none') AS got
FROM source FULL JOIN doors ON doors.place = source.place AND doors.kind = source.kind LEFT JOIN inside USING (n)
WHERE source.n IS NULL OR coalesce(len(files), 0) + (fate IS NOT NULL)::INTEGER <> 1
ORDER BY what
"""

DOOR_NAMES = """
SELECT place AS what, file AS want, door AS got FROM side_output WHERE door <> file ORDER BY file, line
"""

NO_LEAK = """
SELECT impression_id || ' ' || slot AS what, 'facts up to ' || due_ms AS want,
       greatest(impression_ms, click_ms, conversion_ms)::VARCHAR AS got
FROM example WHERE kind <> 'ORACLE' AND greatest(impression_ms, click_ms, conversion_ms) > due_ms
ORDER BY line
"""

UNIQUE = """
SELECT impression_id || ' ' || slot AS what, '1' AS want, count(*)::VARCHAR AS got
FROM example GROUP BY impression_id, slot, impression_ms HAVING count(*) > 1
ORDER BY what
"""

DUE_ORDER = """
WITH ranked AS (
    SELECT line, (due_ms, impression_id, list_position(['click', 'observed', 'revisit', 'aged', 'settled', 'outcome'], split_part(slot, '_', 1)),
                  coalesce(try_cast(split_part(slot, '_', 2) AS INTEGER), 0)) AS rank FROM example
)
SELECT 'examples.jsonl.zst:' || line AS what, 'after ' || previous::VARCHAR AS want, rank::VARCHAR AS got
FROM (SELECT *, lag(rank) OVER (ORDER BY line) AS previous FROM ranked)
WHERE rank < previous
ORDER BY line
"""

STRANGERS = """
(SELECT DISTINCT impression_id FROM example ANTI JOIN (SELECT id AS impression_id FROM record WHERE kind = 0) USING (impression_id))
"""

OPEN_CLICKS = """
(SELECT fate.n FROM fate JOIN record USING (n) WHERE kind = 1 AND fate = 'open'
 UNION ALL SELECT click_n FROM shown WHERE click_n IS NOT NULL AND shown.t + click_window() >= final_watermark())
"""
