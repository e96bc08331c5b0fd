"""N-gram models: time and memory of training, and perplexity on WikiText-2 beside KenLM's and the literature's.

    python benchmarks/ngrams.py                                   about two minutes
    python benchmarks/ngrams.py --kenlm BUILD/bin                 with KenLM's own `lmplz` and `query`, where they were built

Needs ../shared/data/wikitext2 and ../shared/data/english_mix (or the folder named by LMNOTES_SHARED).
Writes benchmarks/results/ngrams.json and .md.
"""
import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LMNOTES_SHARED", ROOT.parent / "shared")) / "data"
RESULTS = ROOT / "benchmarks" / "results"
LITERATURE = [  # test perplexity on the same split, all published tokens and line ends
    ("LSTM (Grave et al. 2016, arXiv 1612.04426)", 99.3),
    ("Variational LSTM (Merity et al. 2016, arXiv 1609.07843)", 96.3),
    ("AWD-LSTM (Merity et al. 2017, arXiv 1708.02182)", 65.8),
    ("Mogrifier LSTM (Melis et al. 2019, arXiv 1909.01792)", 55.1),
]


def column(folder, split):
    "All texts of one split, whatever the files are called."
    import pandas as pd
    files = sorted(folder.glob(f"{split}*.parquet"))
    frame = pd.concat(pd.read_parquet(f) for f in files)
    return frame["text"].tolist()


def wikitext(split):
    "One stream with every published token, a line's end as <eos>."
    return [word for text in column(SHARED / "wikitext2", split) for word in text.split() + ["<eos>"]]


def wikitext_lines(split):
    "Lines as sequences, as KenLM reads them (it refuses the word <unk>, so that is spelled UNK)."
    return [["UNK" if w == "<unk>" else w for w in text.split()] for text in column(SHARED / "wikitext2", split) if text.strip()]


def train_once(tokens, order):
    "In a process of its own: seconds and peak memory of one fit on that many tokens of real text."
    from lmnotes.theory import NGramLanguageModel
    words = wikitext("train")
    for text in column(SHARED / "english_mix", "train"):
        words += text.split()
    if len(words) < tokens:
        words = (words * (tokens // len(words) + 1))
    words = words[:tokens]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.process_time()
    model = NGramLanguageModel(order, boundaries=False).fit([words])
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"tokens": len(words), "order": order, "seconds": round(seconds, 2), "peak_gib": round(peak, 2),
                      "words_in_memory_gib": round(before, 2), "words": model.n_words, "n_grams": sum(map(len, model.keys))}))


def speed():
    "Rows of time and memory, each measured in a fresh process on one core."
    rows = []
    for tokens, order in [(500_000, 5), (1_000_000, 5), (2_000_000, 5), (5_000_000, 1), (5_000_000, 2), (5_000_000, 3), (5_000_000, 4), (5_000_000, 5)]:
        done = subprocess.run([sys.executable, __file__, "--once", str(tokens), str(order)], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def nltk_speed(tokens=200_000):
    "The same counting by nltk (nested dictionaries), order 5, and by us."
    from nltk.lm import MLE
    from nltk.util import everygrams
    from lmnotes.theory import NGramLanguageModel
    words = wikitext("train")[:tokens]
    start = time.process_time()
    MLE(5).fit([list(everygrams(words, max_len=5))], vocabulary_text=words)
    theirs = time.process_time() - start
    start = time.process_time()
    NGramLanguageModel(5, boundaries=False).fit([words])
    ours = time.process_time() - start
    return {"tokens": tokens, "nltk_seconds": round(theirs, 2), "seconds": round(ours, 2), "times_faster": round(theirs / ours, 1)}


def perplexities():
    "WikiText-2 as one stream: validation and test perplexity for every smoothing and order."
    from lmnotes.theory import NGramLanguageModel
    train, validation, test = (wikitext(s) for s in ("train", "validation", "test"))
    rows = []
    for smoothing in ("mle", "add_k", "kneser_ney", "modified_kneser_ney"):
        for order in range(1, 7):
            k = {} if smoothing != "add_k" else {"k": 0.01}
            model = NGramLanguageModel(order, smoothing, boundaries=False, **k).fit([train])
            rows.append({"smoothing": smoothing + (" (k = 0.01)" if k else ""), "order": order,
                         "validation": round(model.perplexity([validation]), 3), "test": round(model.perplexity([test]), 3)})
    return rows


def kenlm(folder):
    "Order 5 by lines: ours and KenLM's own estimate, same text, and the seconds of both estimations."
    from lmnotes.theory import NGramLanguageModel
    lines = {s: wikitext_lines(s) for s in ("train", "validation", "test")}
    start = time.process_time()
    model = NGramLanguageModel(5).fit(lines["train"])
    row = {"seconds": round(time.process_time() - start, 2), **{s: model.perplexity(lines[s]) for s in ("validation", "test")}}
    if folder is None:
        return row
    with tempfile.TemporaryDirectory() as tmp:
        for s, rows in lines.items():
            Path(tmp, s).write_text("\n".join(map(" ".join, rows)) + "\n")
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        with open(f"{tmp}/train") as source, open(f"{tmp}/arpa", "w") as arpa:
            subprocess.run([f"{folder}/lmplz", "-o", "5", "-S", "1G", "-T", tmp], stdin=source, stdout=arpa, check=True, capture_output=False, stderr=subprocess.DEVNULL)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        row["kenlm_seconds"] = round(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime, 2)
        for s in ("validation", "test"):
            with open(f"{tmp}/{s}") as source:
                out = subprocess.run([f"{folder}/query", "-v", "summary", f"{tmp}/arpa"], stdin=source, capture_output=True, text=True, check=True).stdout
            row[f"kenlm_{s}"] = float(out.splitlines()[0].split()[-1])
    return row


def table(rows):
    "Rows of equal keys as a Markdown table."
    head = list(rows[0])
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + ["| " + " | ".join(f"{r[h]:,}" if isinstance(r[h], (int, float)) else str(r[h]) for h in head) + " |" for r in rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kenlm", help="folder of KenLM's lmplz and query")
    parser.add_argument("--once", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        return train_once(*args.once)
    result = {"date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
              "training": speed(), "nltk": nltk_speed(), "wikitext2": perplexities(), "wikitext2_lines_order_5": kenlm(args.kenlm), "literature": LITERATURE}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ngrams.json").write_text(json.dumps(result, indent=1) + "\n")
    text = f"# N-gram models\n\n{result['date']}, {result['machine']}, one core (`OMP_NUM_THREADS=1`), CPU seconds; `python benchmarks/ngrams.py`\n\n"
    text += f"## Training, modified Kneser–Ney (WikiText-2 and English mix)\n\n{table(result['training'])}\n\nThe memory includes the words themselves as Python lists.\n\n"
    text += f"## Counting beside nltk\n\n{table([result['nltk']])}\n\n## WikiText-2, perplexity per token, one stream, line ends counted\n\n{table(result['wikitext2'])}\n\n"
    text += f"## WikiText-2 by lines, order 5, beside KenLM (`lmplz -o 5`)\n\n{table([result['wikitext2_lines_order_5']])}\n\n"
    text += f"## Published test perplexities on the same split\n\n{table([dict(model=m, test=p) for m, p in LITERATURE])}\n\n"
    text += "No published Kneser–Ney figure for WikiText-2 by words was found; KenLM's own run on the same lines stands in for it.\n"
    (RESULTS / "ngrams.md").write_text(text)
    print(text)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
