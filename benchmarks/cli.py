"""How long the command takes to start: wall time of whole processes, and which imports it goes to.

    python benchmarks/cli.py

Wall times are medians of five runs (after one that warms the disk's cache). The share of each import comes
from `python -X importtime`: its own time, without what it imports in turn, the five largest.
"""
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lmnotes.cli import COMMANDS, versions

RUNS = 5
BOUNDS = {"import lmnotes": 0.3, "lmnotes --help": 0.6}
MODULE = ["-m", "lmnotes.cli"]


def cases():
    "Name → the words after `python`."
    found = {"python": ["-c", "pass"], "import lmnotes": ["-c", "import lmnotes"], "lmnotes --help": [*MODULE, "--help"], "lmnotes --version": [*MODULE, "--version"]}
    return {**found, **{f"lmnotes {name} --help": [*MODULE, name, "--help"] for name in COMMANDS}}


def wall(words):
    "Median wall time of a process, in seconds."
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def imports(words, top=5):
    "The modules whose own import takes longest: pairs (module, milliseconds)."
    lines = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True).stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:") and "self [us]" not in line]
    own = sorted(((name.strip(), int(self_) / 1000) for self_, _, name in rows), key=lambda row: -row[1])
    return [(name, round(milliseconds, 1)) for name, milliseconds in own[:top]]


def main():
    rows = {name: {"seconds": round(wall(words), 3), "imports_ms": imports(words)} for name, words in cases().items()}
    machine = f"{os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}"
    lines = ["| process | median of 5 (s) | bound (s) | largest imports (own ms) |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {row['seconds']:.3f} | {BOUNDS.get(name, '')} | {', '.join(f'{module} {ms}' for module, ms in row['imports_ms'])} |" for name, row in rows.items()]
    result = {"date": datetime.date.today().isoformat(), "machine": machine, "versions": versions(), "load_average": os.getloadavg()[0], "rows": rows}
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "cli.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "cli.md").write_text(f"Start of the command, {result['date']}, {machine}, {', '.join(f'{k} {v}' for k, v in versions().items())}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    print("RESULT " + json.dumps({name: row["seconds"] for name, row in rows.items()}))
    late = [name for name, bound in BOUNDS.items() if rows[name]["seconds"] > bound]
    sys.exit(f"over the bound: {', '.join(late)}" if late else 0)


if __name__ == "__main__":
    main()
