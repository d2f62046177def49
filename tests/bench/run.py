"""Runs every benchmark, one after the other, and prints their JSON lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHES = ("join_label.py", "esmm_step.py", "collate.py", "end_to_end.py", "open_impression.py", "serving.py")


def main() -> None:
    for name in BENCHES:
        print(f"# {name}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).parent / name)], check=True)


if __name__ == "__main__":
    main()
