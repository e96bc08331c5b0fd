"""`predict` beside the library's pipeline at its defaults, on sentences of uneven length; answers must be equal.

    python benchmarks/applications.py [--sentences 2000] [--layers 6 --hidden 384] [--threads 4] [--repeats 3]

Random weights: speed does not depend on what they are. Both sides get the same model in hand and the same list; they take
turns, and the best of the repeats counts. `pipeline` computes one sentence at a time unless it is told otherwise; its time
with `batch_size=64` stands beside it.
"""
import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def tokenizer_of(words):
    "BERT's tokenizer over a list of words."
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    inner = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer, inner.decoder = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    inner.post_processor = processors.BertProcessing(("[SEP]", words.index("[SEP]")), ("[CLS]", words.index("[CLS]")))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", model_max_length=512)


def vocabulary(shared):
    "BERT's published vocabulary where it is at hand, else as many made-up words."
    file = shared / "data" / "vocabularies" / "bert-base-uncased-vocab.txt"
    if file.is_file():
        return file.read_text(encoding="utf-8").splitlines()
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *list(dict.fromkeys(x + y + z for x in syllables for y in syllables for z in ("", "n", "s", "ra", "to", "li", "ka", "mu", "de")))][:30522]


def sentences(words, count, median):
    "Sentences with lengths drawn from a log-normal distribution: many short ones, some of 100 words and more."
    import numpy as np
    draw = np.random.default_rng(0)
    plain = [w for w in words if w.isascii() and w.isalpha() and len(w) > 1]
    lengths = np.clip(np.exp(draw.normal(np.log(median), 0.8, count)).round().astype(int), 2, 300)
    return [" ".join(draw.choice(plain, n)) + " ." for n in lengths], lengths


def timed(call):
    "What a call gives, its seconds, and the seconds of all cores."
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def labels_differ(theirs, ours):
    "Largest difference of a confidence; the labels must be equal, but where two are as likely to five digits."
    for a, b in zip(theirs, ours):
        assert a["label"] == b.label or sorted(b.probabilities.values())[-1] - sorted(b.probabilities.values())[-2] < 1e-5, (a, b)
    return max(abs(a["score"] - b.confidence) for a, b in zip(theirs, ours))


def tags_differ(theirs, ours):
    "Largest difference of a confidence; the stretches must be equal in all but one text of a thousand, where two tags are as likely."
    same = [(a, b) for a, b in zip(theirs, ours) if [(e["entity_group"], e["start"], e["end"]) for e in a] == [(e.label, e.start, e.end) for e in b.entities]]
    assert len(same) >= len(ours) - max(1, len(ours) // 1000), f"{len(ours) - len(same)} texts differ"
    return max(abs(e["score"] - f.confidence) for a, b in same for e, f in zip(a, b.entities))


def side_by_side(task, kind, names, options, differ, words, texts, args):
    "One row of the table."
    import torch
    from lmnotes.applications import predict
    from transformers import BertConfig, pipeline
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), hidden_size=args.hidden, num_hidden_layers=args.layers, num_attention_heads=args.hidden // 64 or 1, intermediate_size=4 * args.hidden,
                        num_labels=len(names), id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}, problem_type="single_label_classification", initializer_range=0.05)
    model, tokenizer = kind(config).eval(), tokenizer_of(words)
    pipe = pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **options)
    sides = {"pipeline": lambda some: pipe(some), "pipeline, batch_size=64": lambda some: pipe(some, batch_size=64), "predict": lambda some: predict((model, tokenizer), some)}
    best, answers = {}, {}
    for side in sides.values():
        side(texts[:8])                                                                       # warm
    for _ in range(args.repeats):
        for name, side in sides.items():
            answers[name], wall, cpu = timed(lambda: side(texts))
            best[name] = min(best.get(name, (wall, cpu)), (wall, cpu))
    gap = differ(answers["pipeline"], answers["predict"])
    row = {"task": task, "parameters": sum(p.numel() for p in model.parameters())}
    for name, (wall, cpu) in best.items():
        row |= {f"{name} (s)": round(wall, 2), f"{name} (CPU s)": round(cpu, 2)}
    return {**row, "times faster": round(best["pipeline"][0] / best["predict"][0], 2), "times less CPU": round(best["pipeline"][1] / best["predict"][1], 2), "largest difference of a confidence": float(f"{gap:.1g}")}


def table(rows):
    "Rows of equal keys as a Markdown table."
    return "\n".join(["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])] + ["| " + " | ".join(f"{v:,}" if isinstance(v, (int, float)) else str(v) for v in r.values()) + " |" for r in rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--median", type=int, default=16, help="words of the median sentence")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch
    import transformers
    from transformers import BertForSequenceClassification, BertForTokenClassification
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    words = vocabulary(args.shared)
    texts, lengths = sentences(words, args.sentences, args.median)
    rows = [side_by_side("text-classification", BertForSequenceClassification, ["a", "b", "c"], {}, labels_differ, words, texts, args),
            side_by_side("token-classification", BertForTokenClassification, ["O", "B-X", "I-X"], {"aggregation_strategy": "first"}, tags_differ, words, texts, args)]
    result = {"date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores, {platform.machine()}, {args.threads} threads", "python": platform.python_version(), "torch": torch.__version__,
              "transformers": transformers.__version__, "sentences": args.sentences, "words": {"least": int(lengths.min()), "median": int(sorted(lengths)[len(lengths) // 2]), "most": int(lengths.max())}, "rows": rows}
    text = (f"# Prediction beside the pipeline\n\n{result['date']}, {result['machine']}, Python {result['python']}, torch {result['torch']}, transformers {result['transformers']}; `python benchmarks/applications.py`\n\n"
            f"{args.sentences:,} sentences of {result['words']['least']} to {result['words']['most']} words (median {result['words']['median']}), BERT of {args.layers} layers, {args.hidden} wide, random weights, fp32, best of {args.repeats}\n\n{table(rows)}\n")
    if not args.dry:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "applications.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "applications.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
