"""What stands beside every measured result: command, commit, hardware, versions, date."""

import os
import shlex
import sys
from typing import Any

from x1 import folder, hardware


def provenance(threads: int) -> dict[str, Any]:
    """Where a result comes from. Run the script from the repository's root, as `command` says."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "git_commit": hardware.git_commit(),
        "date": folder.now(),
        "hardware": {
            "cpu": hardware.cpu_name(),
            "cores": os.cpu_count(),
            "threads": threads,
            "load_average": round(os.getloadavg()[0], 1),
        },
        "versions": hardware.versions(),
    }
