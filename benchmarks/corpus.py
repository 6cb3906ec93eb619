"""How fast the corpus is generated, on one core: python benchmarks/corpus.py [DOCUMENTS].

Prints JSON, one record a setting: megabytes (1e6 bytes) of UTF-8 text for each second of
processor time and of wall time, the best of three rounds. The target is 20 MB/s.
"""

import json
import sys
import time

from x1 import corpus


def measure(name: str, count: int) -> dict[str, float | str | int]:
    """Generate `count` documents of a setting three times; the fastest round."""
    setting = corpus.SETTINGS[name]
    corpus.documents(setting, 0, 0, count)  # fills the tables and the spelling cache
    rounds = []
    for round_number in range(1, 4):
        wall, processor = time.perf_counter(), time.process_time()
        documents = corpus.documents(setting, 0, round_number * count, count)
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        size = sum(len(document.encode()) for document in documents)
        rounds.append((size / processor / 1e6, size / wall / 1e6, size))
    by_processor, by_wall, size = max(rounds)
    return {
        "setting": name,
        "documents": count,
        "bytes": size,
        "mb_per_processor_s": round(by_processor, 1),
        "mb_per_wall_s": round(by_wall, 1),
    }


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    print(json.dumps([measure(name, count) for name in corpus.SETTINGS], indent=1))
