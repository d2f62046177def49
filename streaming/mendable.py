"""Which errors are told as a sentence, since a person can mend what they are about. Must not know what is said or done then."""

from __future__ import annotations


def mendable() -> tuple[type[Exception], ...]:
    """The errors whose message says what to do; anything else is a fault of ours and keeps its traceback."""
    from models.manifest import DamagedWeightsError
    from streaming.adapters.files import LogError
    from streaming.adapters.ingest_process import IngestProcessError
    from streaming.adapters.join_snapshots import SnapshotError
    from streaming.adapters.kafka_connection import BrokerError
    from streaming.adapters.run_directory import RunDirectoryError
    from streaming.adapters.tape import TapeError
    from streaming.checkpoint import CutError
    from streaming.gate import VersionRefusedError
    from streaming.join_ports import JoinError
    from streaming.lab.compare.files import ResultsError
    from streaming.lab.explain import ExplainError
    from streaming.lab.importers import SourceError
    from streaming.lab.report.files import RunFilesError
    from streaming.lab.verify import VerifyError
    from streaming.pipeline import RunEndedError
    from streaming.ports import TargetError
    from streaming.standing_run import BackfillError

    return (
        DamagedWeightsError, TargetError, IngestProcessError, LogError, RunDirectoryError, CutError, ExplainError, ResultsError, RunFilesError, SourceError,
        VerifyError, RunEndedError, BackfillError, BrokerError, TapeError, JoinError, SnapshotError, VersionRefusedError, OSError,
    )  # fmt: skip
