"""Personal data: precision, recall and speed beside Presidio's pattern recognisers; privacy: exposure and perplexity of longer private runs.

    python benchmarks/privacy.py [--presidio /path/to/venv/bin/python] [--count 200] [--texts 2000] [--steps 1000] [--only scrub|private]

Presidio needs spaCy (and, for names, a downloaded model), so it runs in an environment of its own (`pip install presidio-analyzer`);
its recognisers of e-mail, IBAN, card, IP, telephone and US identity numbers are called one by one, on the same texts, in turns with
ours. A hit counts for Presidio where it overlaps the value; ours must have kind and both ends right.
"""
import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
THEIRS = {"EmailRecognizer": "email", "IbanRecognizer": "iban", "CreditCardRecognizer": "card", "IpRecognizer": "ip", "PhoneRecognizer": "phone", "UsSsnRecognizer": "identity"}

WORKER = '''
import importlib.metadata, json, sys, time
from presidio_analyzer import predefined_recognizers as known
names = json.loads(sys.stdin.readline())
made = {name: getattr(known, name)() for name in names}
print("RESULT " + json.dumps(importlib.metadata.version("presidio-analyzer")), flush=True)
for line in sys.stdin:
    texts, start, found = json.loads(line), time.perf_counter(), []
    for text in texts:
        row = []
        for name, recognizer in made.items():
            row += [(names[name], r.start, r.end, r.score) for r in recognizer.analyze(text, recognizer.supported_entities, None) or []]
        found.append(row)
    print("RESULT " + json.dumps({"seconds": time.perf_counter() - start, "found": found}), flush=True)
'''


def overlapping(expected, found, threshold):
    "Precision and recall for each kind, a finding right where it overlaps one that is there."
    rows = {}
    for there, seen in zip(expected, found):
        seen = [f for f in seen if f[3] >= threshold]
        for kind in set(THEIRS.values()):
            spans = [(a, b) for k, a, b, _ in seen if k == kind]
            real = [(f.start, f.end) for f in there if f.kind == kind]
            right = sum(any(a < d and c < b for c, d in real) for a, b in spans)
            hit = sum(any(a < d and c < b for a, b in spans) for c, d in real)
            row = rows.setdefault(kind, [0, 0, 0, 0])
            for i, n in enumerate((right, len(spans), hit, len(real))):
                row[i] += n
    return {k: {"precision": r / n if n else None, "recall": h / m if m else None} for k, (r, n, h, m) in sorted(rows.items())}


def scrubbing(count, python, repeats=3):
    "Quality and speed on generated texts."
    from lmnotes.privacy import KINDS, find_personal_data, personal_data_examples, score_findings
    examples = personal_data_examples(count, seed=1)
    texts, expected = [t for t, _ in examples], [f for _, f in examples]
    report = score_findings(expected, [find_personal_data(t) for t in texts])
    result = {"texts": len(texts), "characters": sum(map(len, texts)), "ours": {k: {"precision": report.precision(k), "recall": report.recall(k)} for k in KINDS}}
    kinds = tuple(dict.fromkeys(THEIRS.values()))
    worker = None
    if python:
        worker = subprocess.Popen([python, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ""})

        def ask(value):
            worker.stdin.write(json.dumps(value) + "\n")
            worker.stdin.flush()
            while not (line := worker.stdout.readline()).startswith("RESULT "):
                if not line:
                    raise RuntimeError("the process with Presidio ended: is presidio-analyzer installed there?")
            return json.loads(line[7:])
        result["presidio"] = {"version": ask(THEIRS)}
    ours, theirs = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        for text in texts:
            find_personal_data(text, kinds=kinds)
        ours.append(time.perf_counter() - start)
        if worker:
            answer = ask(texts)
            theirs.append(answer["seconds"])
    result["seconds, ours, same kinds"] = min(ours)
    if worker:
        result["presidio"] |= {"seconds": min(theirs), "all findings": overlapping(expected, answer["found"], 0.0), "score 0.5 and above": overlapping(expected, answer["found"], 0.5)}
        worker.stdin.close()
    return result


def private(texts, steps):
    "Perplexity and exposure over epsilon, with more text and more steps than the page has."
    from lmnotes.corpora import exact_duplicates, load_corpus
    from lmnotes.perplexity import perplexity
    from lmnotes.privacy import exposure, plant_canaries, train_privately
    from lmnotes.tokenization import train_tokenizer
    corpus = [" ".join(t.split("\n\n")[0].split()) for t in load_corpus("docstrings", validation_fraction=0)["train"]["text"]]
    corpus = [t for t in corpus if 20 <= len(t) <= 120]
    corpus = [t for t, again in zip(corpus, exact_duplicates(corpus)) if not again]
    held, public, training = corpus[:1000], corpus[1000:3000], corpus[3000:3000 + texts]
    tokenizer = train_tokenizer(public, kind="bpe", vocab_size=1024, progress=False)
    planted, canaries = plant_canaries(training, (0, 1, 4, 16), each=4, tokenizer=tokenizer, block_size=64)
    rows = []
    for epsilon in (1.0, 3.0, 10.0, math.inf):
        run = train_privately("gpt-tiny", tokenizer, planted, epsilon=epsilon, steps=steps, batch_size=min(256, len(planted) // 8), block_size=64)
        found = exposure(run.model, tokenizer, canaries)
        rows.append({"epsilon": epsilon if epsilon < math.inf else None, "noise": run.noise_multiplier, "texts": run.texts, "steps": steps,
                     "perplexity": perplexity(run.model, held, tokenizer, progress=False).perplexity,
                     "exposure": {k: sum(e.exposure for e in found if e.canary.repeats == k) / 4 for k in (0, 1, 4, 16)}})
        print(rows[-1], flush=True)
    return rows


def written(result):
    "The results as Markdown."
    lines = [f"# Privacy\n\n{result['date']}, {result['machine']}, " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + f"\n\n`{result['command']}`\n"]
    if found := result.get("scrub"):
        theirs = found.get("presidio", {})
        lines += [f"## Personal data\n\n{found['texts']:,} generated texts, {found['characters']:,} characters. Ours: kind and both ends right; Presidio: any overlap.\n",
                  "| kind | precision | recall | Presidio precision | recall | Presidio ≥ 0.5 precision | recall |", "|---|---|---|---|---|---|---|"]
        number = lambda row, key: "" if not row or row.get(key) is None else f"{row[key]:.3f}"
        lines += ["| " + " | ".join([k, *(number(row, key) for row in (v, theirs.get("all findings", {}).get(k), theirs.get("score 0.5 and above", {}).get(k)) for key in ("precision", "recall"))]) + " |" for k, v in found["ours"].items()]
        lines += [f"\nSeconds for the kinds that both know: ours {found['seconds, ours, same kinds']:.2f}" + (f", Presidio {theirs['version']} {theirs['seconds']:.2f}." if theirs else "; Presidio was not at hand.")]
    if rows := result.get("private"):
        lines += ["\n## Private training\n", "| ε | noise | texts | steps | perplexity | exposure, 0 / 1 / 4 / 16 times (bits) |", "|---|---|---|---|---|---|"]
        lines += [f"| {'no noise' if r['epsilon'] is None else r['epsilon']} | {r['noise']:.2f} | {r['texts']:,} | {r['steps']:,} | {r['perplexity']:.1f} | {' / '.join(f'{v:.1f}' for v in r['exposure'].values())} |" for r in rows]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presidio", help="Python of an environment with presidio-analyzer")
    parser.add_argument("--count", type=int, default=200, help="generated texts of each kind")
    parser.add_argument("--texts", type=int, default=8000, help="private texts")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", choices=["scrub", "private"])
    args = parser.parse_args()
    names = ("torch", "transformers", "opacus", "phonenumbers", "python-stdnum")
    result = {"date": datetime.date.today().isoformat(), "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", "versions": {n: importlib.metadata.version(n) for n in names},
              "command": "python benchmarks/privacy.py " + " ".join(f"--{k} {v}" for k, v in vars(args).items() if v is not None and k != "presidio") + (" --presidio PYTHON" if args.presidio else "")}
    if args.only != "private":
        result["scrub"] = scrubbing(args.count, args.presidio)
    if args.only != "scrub":
        result["private"] = private(args.texts, args.steps)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "privacy.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (RESULTS / "privacy.md").write_text(written(result), encoding="utf-8")
    print(written(result))


if __name__ == "__main__":
    main()
