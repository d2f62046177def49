"""What the examples and predictions of a run add up to, in bounded memory; must not know what a page looks like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import msgspec

from streaming.lab.report.files import RunFilesError
from streaming.metrics import RunMetrics, TaskMetrics

HOUR_MS = 3_600_000
# DuckDB sorts and joins in this much and spills the rest beside its scratch file.
_MEMORY_LIMIT = "1GB"
# What a file without score bins in metrics.json is cut into.
_BINS = 20
# Predictions are clipped to this distance from 0 and 1 in a log loss computed here, so that it stays finite.
_EPSILON = 1e-12

_EXAMPLES = {
    "kind": "VARCHAR",
    "slot": "VARCHAR",
    "due_ms": "BIGINT",
    "impression_id": "VARCHAR",
    "impression_ms": "BIGINT",
    "click_ms": "BIGINT",
    "conversion_ms": "BIGINT",
    "converted": "BOOLEAN",
    "pos": "DOUBLE",
    "neg": "DOUBLE",
    "step": "BIGINT",
}
_PREDICTIONS = {
    "impression_id": "VARCHAR",
    "event_time_ms": "BIGINT",
    "pctr": "DOUBLE",
    "pcvr": "DOUBLE",
    "whose": "VARCHAR",
}


class Taught(msgspec.Struct, frozen=True):
    """What one hour of due time taught: `kappa` is the mean over its UNCLICKED rows, masses are of the clicked kinds."""

    hour_ms: int
    rows: int
    kappa: float | None
    positive_mass: float
    negative_mass: float


class RunSums:
    """The examples and predictions of a run, joined with the truth where it is known, ready to be added up.

    Lines that are no JSON (the torn end of a run that was killed) are left out.

    Args:
        scratch: an empty directory to work in.
        run: the run directory.
        log: the log with `truth.parquet`; None, or without that file, and `has_truth` is False.
        metrics: its `hours` say which hours are complete.
    """

    def __init__(self, scratch: Path, run: Path, log: Path | None, metrics: RunMetrics) -> None:
        self._db = duckdb.connect(str(scratch / "run.duckdb"), config={"memory_limit": _MEMORY_LIMIT})
        self._scratch = scratch
        self.has_examples = self._load("examples", run / "examples.jsonl.zst", _EXAMPLES)
        self.has_predictions = self._load("predictions", run / "predictions.jsonl.zst", _PREDICTIONS)
        self.has_truth = self._load_truth(None if log is None else log / "truth.parquet")
        self._score(metrics)

    def _load(self, table: str, path: Path, columns: dict[str, str]) -> bool:
        if not path.exists():
            self._db.execute(f"create table {table} ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")
            return False
        types = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
        self._db.execute(
            f"create table {table} as select * from read_json({self._plain(path)}, format='newline_delimited', "
            f"compression='zstd', ignore_errors=true, columns={{{types}}}) where impression_id is not null"
        )
        return True

    def _load_truth(self, path: Path | None) -> bool:
        if path is None or not path.exists():
            self._db.execute("create view truth as select '' impression_id, 0.0 pctr, 0.0 pcvr where false")
            return False
        self._db.execute(
            f"create view truth as select impression_id, pctr, pcvr from read_parquet({self._plain(path)})"
        )
        return True

    def _plain(self, path: Path) -> str:
        # DuckDB takes * ? [ in a path for patterns; a link in the scratch directory has a name without any.
        link = self._scratch / path.name
        link.symlink_to(path.resolve())
        return f"'{link}'"

    def _score(self, metrics: RunMetrics) -> None:
        # One row a prediction, with its labels as far as they are out: clicked, and after its OUTCOME converted.
        self._db.execute(
            f"""create table labelled as
            select p.event_time_ms - p.event_time_ms % {HOUR_MS} as hour_ms, p.whose, p.pctr, p.pcvr,
                   t.pctr as true_pctr, t.pcvr as true_pcvr, c.kind = 'CLICKED' as clicked, o.converted
            from predictions p
            left join (select impression_id, kind from examples where slot = 'click') c using (impression_id)
            left join (select impression_id, converted from examples where slot = 'outcome') o using (impression_id)
            left join truth t using (impression_id)"""
        )
        self._db.execute("create table hours (task varchar, whose varchar, hour_ms bigint, is_complete boolean)")
        columns = [
            [getattr(hour, name) for hour in metrics.hours] for name in ("task", "whose", "hour_ms", "is_complete")
        ]
        self._db.execute(
            "insert into hours select unnest(?::varchar[]), unnest(?::varchar[]), unnest(?::bigint[]), "
            "unnest(?::boolean[])",
            columns,
        )
        # CVR rows wait for nobody: their positives and negatives come after the same time. Nor does a task without hours.
        self._db.execute(
            """create view scored as
            with tasks as (
                select 'ctr' task, whose, hour_ms, pctr p, true_pctr truth, clicked::int y from labelled
                where clicked is not null
                union all
                select 'cvr', whose, hour_ms, pcvr, true_pcvr, converted::int from labelled
                where converted is not null
                union all
                select 'ctcvr', whose, hour_ms, pctr * pcvr, true_pctr * true_pcvr, coalesce(converted, false)::int
                from labelled
                where not clicked or (clicked and converted is not null))
            select s.* from tasks s left join hours h using (task, whose, hour_ms)
            where task = 'cvr' or h.is_complete or (task, whose) not in (select (task, whose) from hours)"""
        )

    def close(self) -> None:
        """Lets go of the scratch directory."""
        self._db.close()

    def scores(self, task: str, whose: str, *, of: str = "p", bins: int = _BINS) -> TaskMetrics | None:
        """The figures of one task over complete hours, with the exact AUC; None if nothing was scored.

        Args:
            task: "ctr", "cvr" or "ctcvr".
            whose: "model" or "served".
            of: "p" scores the predictions, "truth" what the same rows were drawn with.
            bins: equal-mass score bins for ECE and reliability.
        """
        column = {"p": "p", "truth": "truth"}[of]
        rows = f"(select {column} p, y from scored where task = $task and whose = $whose and {column} is not null)"
        who = {"task": task, "whose": whose}
        clipped = f"greatest(least(p, 1 - {_EPSILON}), {_EPSILON})"
        n, sum_p, sum_y, sum_log_loss = self._db.execute(
            f"select count(*), sum(p), sum(y), -sum(if(y = 1, ln({clipped}), ln(1 - {clipped}))) from {rows}", who
        ).fetchall()[0]
        if not n:
            return None
        reliability = [
            (float(mean_p), float(mean_y), int(count))
            for mean_p, mean_y, count in self._db.execute(
                f"""select avg(p), avg(y), count(*) from (select p, y, ntile({bins}) over (order by p) bin from {rows})
                group by bin order by bin""",
                who,
            ).fetchall()
        ]
        rate = sum_y / n
        has_both = 0 < rate < 1
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate)) if has_both else None
        return TaskMetrics(
            n=n,
            sum_p=sum_p,
            sum_y=float(sum_y),
            sum_log_loss=sum_log_loss,
            calibration=sum_p / sum_y if sum_y else None,
            log_loss=sum_log_loss / n,
            normalized_entropy=None if entropy is None else sum_log_loss / n / entropy,
            ece=sum(count * abs(mean_p - mean_y) for mean_p, mean_y, count in reliability) / n,
            auc=self._auc(rows, who) if has_both else None,
            auc_error=0.0 if has_both else None,
            reliability=reliability,
        )

    def _auc(self, rows: str, who: dict[str, str]) -> float:
        """The share of (positive, negative) pairs in the right order; a tie counts half. Sorts on disk if it must."""
        [(auc,)] = self._db.execute(
            f"""with ranks as (select p, sum(y)::double pos, (count(*) - sum(y))::double neg from {rows} group by p),
            below as (select pos, neg, sum(neg) over (order by p) - neg as neg_below from ranks)
            select sum(pos * (neg_below + neg / 2)) / (sum(pos) * sum(neg)) from below""",
            who,
        ).fetchall()
        return float(auc)

    def truth_by_bin(self, task: str, whose: str, *, bins: int = _BINS) -> list[tuple[float, float, int]]:
        """(mean prediction, mean truth, rows) of each equal-mass score bin: reliability without the noise of labels."""
        return self._db.execute(
            f"""select avg(p), avg(truth), count(*) from
            (select p, truth, ntile({bins}) over (order by p) bin from scored
             where task = $task and whose = $whose and truth is not null)
            group by bin order by bin""",
            {"task": task, "whose": whose},
        ).fetchall()

    def against_truth(self) -> list[tuple[str, str, int, float, float, int]]:
        """(task, whose, hour, sum of predictions, sum of truths, rows): every predicted impression, labelled or not.

        CVR is over the clicked ones, where it is used.
        """
        return self._db.execute(
            """select task, whose, hour_ms, sum(p), sum(truth), count(*) from (
                select 'ctr' task, whose, hour_ms, pctr p, true_pctr truth from labelled
                union all select 'cvr', whose, hour_ms, pcvr, true_pcvr from labelled where clicked or converted is not null
                union all select 'ctcvr', whose, hour_ms, pctr * pcvr, true_pctr * true_pcvr from labelled)
            where truth is not null group by all order by 3, 1, 2"""
        ).fetchall()

    def facts_by_hour(self) -> dict[str, list[tuple[int, int]]]:
        """Joined impressions, clicks and conversions -> (hour of their own event time, how many)."""

        def by_hour(column: str, where: str) -> list[tuple[int, int]]:
            return self._db.execute(
                f"""select t - t % {HOUR_MS} as hour, count(*) from
                (select min({column}) t from examples where {where} group by impression_id) group by 1 order by 1"""
            ).fetchall()

        return {
            "impressions": by_hour("impression_ms", "slot = 'click' and impression_ms is not null"),
            "clicks": by_hour("click_ms", "kind = 'CLICKED' and click_ms is not null"),
            "conversions": by_hour("conversion_ms", "conversion_ms is not null"),
        }

    def examples_by_hour(self) -> list[tuple[str, int, int]]:
        """(kind, hour of due time, examples)."""
        return self._db.execute(
            f"select kind, due_ms - due_ms % {HOUR_MS}, count(*) from examples where kind is not null "
            "and due_ms is not null group by 1, 2 order by 2, 1"
        ).fetchall()

    def taught_by_hour(self) -> list[Taught]:
        """What was taught, by hour of due time."""
        return [
            Taught(hour_ms=hour, rows=rows, kappa=kappa, positive_mass=pos or 0.0, negative_mass=neg or 0.0)
            for hour, rows, kappa, pos, neg in self._db.execute(
                f"""select due_ms - due_ms % {HOUR_MS} as hour, count(*), avg(neg) filter (kind = 'UNCLICKED'),
                    sum(pos) filter (slot <> 'click'), sum(neg) filter (slot <> 'click')
                from examples where step is not null and due_ms is not null group by 1 order by 1"""
            ).fetchall()
        ]

    def delay_quantiles(self, kind: str, start: str, end: str, shares: Sequence[float]) -> tuple[int, list[int]]:
        """How long after `start` the `end` came, in milliseconds at each share of the examples of a kind that have both.

        Returns:
            How many there are, and one delay a share (none where there are none).
        """
        columns = {"impression_ms", "click_ms", "conversion_ms"}
        assert {start, end} <= columns, "columns are ours, never a caller's text"
        [(count, quantiles)] = self._db.execute(
            f"""select count(*), quantile_disc(greatest({end} - {start}, 0), $shares) from examples
            where kind = $kind and {end} is not null and {start} is not null""",
            {"kind": kind, "shares": list(shares)},
        ).fetchall()
        return count, list(quantiles or [])

    def share_within(self, limits_ms: Sequence[int]) -> list[float]:
        """The share of OUTCOME conversions that came within each limit after their click."""
        columns = ", ".join(f"avg((conversion_ms - click_ms <= {int(limit)})::int)" for limit in limits_ms)
        [row] = self._db.execute(
            f"select {columns} from examples where kind = 'OUTCOME' and conversion_ms is not null "
            "and click_ms is not null"
        ).fetchall()
        return [share for share in row if share is not None]


@contextmanager
def open_run_sums(run: Path, log: Path | None, metrics: RunMetrics) -> Iterator[RunSums]:
    """`RunSums` over a scratch database that is gone afterwards.

    Raises:
        RunFilesError: an examples or predictions file, or the truth, is not what it should be.
    """
    with TemporaryDirectory(prefix="afterclick-report-") as scratch:
        try:
            files = RunSums(Path(scratch), run, log, metrics)
        except duckdb.Error as error:
            raise RunFilesError(
                f"the files of {run} cannot be read: {str(error).splitlines()[0]}; `docs/formats.md` says how they should be"
            ) from error
        with closing(files):
            yield files
