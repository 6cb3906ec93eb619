"""Which measured results were made by code that has changed since: python benchmarks/stale.py

Every result in docs/measured/ names the commit of the code that made it. It is stale when what its
kind depends on has changed between that commit and the files as they are now.
"""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOOP = ("config", "data", "evaluate", "model", "optim", "ranks", "stability", "tokenizer", "train")
# What a result depends on where that is not the training loop, by the file's name.
OTHERS = {
    "corpus-settings": (*LOOP, "corpus"),
    "clipping": ("corpus", "data", "model", "tokenizer"),
    "damage": ("checkpoint", "saved", "folder"),
    "kills": (*LOOP, "checkpoint", "saved", "folder"),
    "rehearsal": (*LOOP, "corpus"),
    "rehearsal-run": (*LOOP, "corpus", "rehearse"),
    "mfu-cpu": ("config", "flops", "ladder", "model", "train"),
    "scaling-fit": ("scaling",),
    "first-loss": (*LOOP, "corpus"),
    "explosions": (*LOOP, "drill", "injections"),
    "verify": (*LOOP, "corpus", "replay"),
    "launch": ("launch", "launch_send", "launch_fetch", "launch_machine", "launch_ssh", "ssh"),
    "guard": ("guard", "ledger", "supervise", "price", "deadman", "money"),
    "guard-checks": ("guard", "ledger", "supervise", "price", "deadman", "keeper"),
}


def changed_since(commit: str, modules: tuple[str, ...]) -> list[str]:
    """The modules that differ; raises CalledProcessError when there is no such commit."""
    paths = [f"src/x1/{module}.py" for module in modules]
    done = subprocess.run(
        ["git", "diff", "--name-only", commit, "--", *paths],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [Path(line).stem for line in done.stdout.splitlines()]


def verdict(path: Path) -> str:
    """Either "fresh", or why the result in `path` should be measured again."""
    commit = json.loads(path.read_text("utf-8")).get("git_commit")
    if not commit:
        return "stale: names no commit"
    try:
        changed = changed_since(commit.removesuffix("+changes"), OTHERS.get(path.stem, LOOP))
    except subprocess.CalledProcessError:
        return f"stale: commit {commit[:9]} is not in this repository"
    if changed:
        return f"stale: {', '.join(changed)} changed since {commit[:9]}"
    if commit.endswith("+changes"):
        return f"fresh, but measured with changes on top of {commit[:9]}"
    return "fresh"


def main() -> None:
    results = sorted((ROOT / "docs/measured").glob("*.json"))
    width = max(len(path.stem) for path in results)
    for path in results:
        print(f"{path.stem:{width}}  {verdict(path)}")


if __name__ == "__main__":
    main()
