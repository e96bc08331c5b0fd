"""Training of byte-level BPE: ours in plain Python beside the library, time and peak memory, each in a process of its own.

    python benchmarks/tokenization.py                 about a minute
    python benchmarks/tokenization.py --characters 5000000

Needs ../shared/data/english_mix (or the folder named by LMNOTES_SHARED).
Writes benchmarks/results/tokenization.json and .md.
"""
import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LMNOTES_SHARED", ROOT.parent / "shared")) / "data"
RESULTS = ROOT / "benchmarks" / "results"


def texts_of(characters):
    "English prose up to that many characters."
    import pandas as pd
    out, left = [], characters
    for f in sorted((SHARED / "english_mix").rglob("train*.parquet")):
        for text in pd.read_parquet(f)["text"]:
            if left > 0:
                out.append(text[:left])
                left -= len(out[-1])
    return out


def once(what, characters, vocab_size):
    "Seconds and peak memory in MiB, above what the texts and the imports take."
    from lmnotes import tokenization
    texts = texts_of(characters)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if what == "ours, bpe":
        size = len(tokenization.BytePairEncoding.train(texts, vocab_size).vocabulary)
    else:
        size = len(tokenization.train_tokenizer(texts, what.split(", ")[1], vocab_size, progress=False))
    seconds = time.perf_counter() - start
    return {"what": what, "characters": sum(map(len, texts)), "vocabulary": size, "seconds": round(seconds, 2), "peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=10_000_000)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(once(options.once, options.characters, options.vocab_size)))
        return
    rows = []
    for what in ("ours, bpe", "library, bpe", "library, wordpiece", "library, unigram"):
        command = [sys.executable, __file__, "--once", what, "--characters", str(options.characters), "--vocab-size", str(options.vocab_size)]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))
    machine = f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    table = ["| trainer | characters | vocabulary | seconds | peak memory above the texts (MiB) |", "|---|---|---|---|---|"]
    table += [f"| {r['what']} | {r['characters']:,} | {r['vocabulary']:,} | {r['seconds']} | {r['peak_mib']} |" for r in rows]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tokenization.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (RESULTS / "tokenization.md").write_text("\n".join([f"`python benchmarks/tokenization.py`, {machine}", "", *table]) + "\n")
    print("\n".join([*table, machine]))


if __name__ == "__main__":
    main()
