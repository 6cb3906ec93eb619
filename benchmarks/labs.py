"""How long each lab takes in the learner's setting, references and predictions filled in.

python benchmarks/labs.py --out docs/measured/labs.json
"""

import argparse
import json
from pathlib import Path

from provenance import provenance

from x1 import folder
from x1.course import execute
from x1.course.source import lab_folders, labs_folder, read_lab

MOST_S = 180.0  # of compute on two CPU cores


def main() -> int:
    """Run every lab; 1 if one fails or takes longer than a lab may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    rows, failed = [], False
    for place in lab_folders(labs_folder()):
        lab = read_lab(place)
        small = execute.run(lab, small=True, threads=given.threads)
        done = execute.run(lab, small=False, threads=given.threads)
        print(f"{lab.name}: {done.seconds:.0f} s, {small.seconds:.0f} s in the small setting")
        if done.code or small.code:
            print((done if done.code else small).output[-3000:])
        failed = failed or bool(done.code or small.code) or done.seconds > MOST_S
        rows.append(
            {
                "lab": lab.name,
                "seconds": round(done.seconds, 1),
                "cpu_s": round(done.cpu_s, 1),
                "small_seconds": round(small.seconds, 1),
                "small_cpu_s": round(small.cpu_s, 1),
                "minutes_stated": lab.minutes,
            }
        )
    record = {
        "format": "x1-measured-1",
        "what": "How long each lab takes from top to bottom with the reference solutions in it: "
        "in the learner's setting, and in the small one that the tests use.",
        "what_es": "Cuánto tarda cada laboratorio de principio a fin con las soluciones de "
        "referencia: en el modo del estudiante y en el reducido que usan las pruebas.",
        **provenance(given.threads),
        "rows": rows,
    }
    if failed:
        return 1
    folder.write_atomically(given.out, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
