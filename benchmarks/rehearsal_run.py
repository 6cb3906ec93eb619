"""How long `x1 rehearse` takes, and how much memory: python benchmarks/rehearsal_run.py

Writes docs/measured/rehearsal-run.json. The peak is that of the largest single process.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from provenance import provenance

from x1 import config, folder

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    source = provenance(config.build("rehearsal").train.threads)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        command = [str(Path(sys.executable).with_name("x1")), "rehearse"]
        code = subprocess.run(command, cwd=scratch).returncode
        seconds = time.monotonic() - started
        (run,) = Path(scratch, "runs").iterdir()
        rates = [line["clock"]["tokens_per_s"] for line in folder.curve(run) if "loss" in line]
    record = {
        "format": "x1-measured-1",
        "what": "x1 rehearse from start to finish: wall clock and memory",
        "what_es": "x1 rehearse de principio a fin: tiempo y memoria",
        **source,
        "exit_code": code,
        "minutes": round(seconds / 60, 2),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6, 2),
        "median_tokens_per_s": round(sorted(rates)[len(rates) // 2]),
    }
    folder.write_json(ROOT / "docs/measured/rehearsal-run.json", record)
    sys.exit(code)


if __name__ == "__main__":
    main()
