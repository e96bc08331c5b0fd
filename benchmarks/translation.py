"""Translation of Multi30k from scratch with a small encoder–decoder: BLEU on test against training time, and its alignment.

    python benchmarks/translation.py [--shared ../shared] [--minutes 20] [--from de --to en] [--kind bart] [--layers 3] [--hidden 256]

One tokenizer for both languages is trained on the training split. The clock runs while the model trains and stands while it is
measured; the learning rate falls to zero with the clock. Test is looked at for the curve only: nothing is chosen by it.
"""
import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

OWN = {"de": ["Ein alter Mann sitzt auf einer Bank und liest.", "Zwei Kinder werfen einen Ball über einen Zaun.", "Eine Frau in einem roten Mantel wartet auf den Bus."],
       "en": ["An old man sits on a bench and reads.", "Two children throw a ball over a fence.", "A woman in a red coat is waiting for the bus."]}    # ours: what results show of texts is not Multi30k's
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def read(shared, first, second):
    "Sources and targets of each split."
    from datasets import load_dataset
    splits = load_dataset("parquet", data_files={s: str(shared / "data" / "multi30k" / f"{s}.parquet") for s in ("train", "validation", "test")})
    return {name: tuple([pair[side].strip() for pair in split["translation"]] for side in (first, second)) for name, split in splits.items()}


def batches(rows, budget, generator):
    "Endless batches of like length: at most `budget` tokens of sources and targets, padding included."
    sizes = [(len(s), len(t)) for s, t in zip(rows["input_ids"], rows["labels"])]
    while True:
        noise = generator.random(len(sizes))
        order = sorted(range(len(sizes)), key=lambda i: (sizes[i][0] + int(4 * noise[i]), sizes[i][1]))
        made, batch = [], []
        for i in order:
            widest = [max(sizes[j][k] for j in [*batch, i]) for k in (0, 1)]
            if batch and (len(batch) + 1) * sum(widest) > budget:
                made.append(batch)
                batch = []
            batch.append(i)
        for n in generator.permutation(len(made)):
            yield made[n]


def train(model, tokenizer, rows, args, measure):
    "Train for the minutes; call `measure(seconds, step, tokens)` at points of the clock."
    import numpy as np
    import torch
    import torch.nn.functional as F
    from lmnotes.generation import generation_collator
    from lmnotes.pretraining import use_bf16
    device, half = model.device, use_bf16(args.precision, model.device)
    columns = {name: rows[name] for name in ("input_ids", "attention_mask", "labels")}
    decay = [p for p in model.parameters() if p.dim() > 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": args.weight_decay}, {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0}],
                                  lr=args.learning_rate, betas=(0.9, 0.98), fused=True)
    collate, source = generation_collator(model, tokenizer), batches(columns, args.batch_tokens, np.random.default_rng(args.seed))
    budget, spent, step, tokens = 60 * args.minutes, 0.0, 0, 0
    points = [budget * 2.0 ** -k for k in reversed(range(args.points))]                # each twice as late as the one before
    model.train()
    while points:
        start = time.perf_counter()
        index = next(source)
        batch = collate([{name: values[i] for name, values in columns.items()} for i in index]).to(device)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (step + 1) / args.warmup) * max(0.0, 1 - spent / budget)
        labels = batch.pop("labels")
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = model(**batch, use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), label_smoothing=args.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, tokens = step + 1, tokens + int(batch["attention_mask"].sum()) + int((labels != -100).sum())
        spent += time.perf_counter() - start
        if spent >= points[0]:
            while points and spent >= points[0]:
                points.pop(0)
            measure(spent, step, tokens)
            model.train()


def draw_curve(curve, path, title):
    "BLEU over training time."
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(5.6, 3.4))
    ax.plot([p["seconds"] / 60 for p in curve], [p["bleu"] for p in curve], "o-", color="#0072B2")
    ax.set(xscale="log", xlabel="training time (minutes)", ylabel="BLEU on test (0 to 100)", title=title, ylim=(0, None))
    minutes = [p["seconds"] / 60 for p in curve]
    ax.set_xticks(minutes, [f"{m:.2g}" for m in minutes]), ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    fig.tight_layout(), fig.savefig(path, dpi=130), plt.close(fig)


def draw_alignment(model, tokenizer, source, target, path):
    "Cross-attention of the last layer, mean over heads: where the decoder looks as it writes each token of the target."
    import matplotlib.pyplot as plt
    import torch
    from transformers import AutoModelForSeq2SeqLM
    from lmnotes.generation import generation_collator, seq2seq_features
    looked = AutoModelForSeq2SeqLM.from_config(model.config, attn_implementation="eager").to(model.device).eval()
    looked.load_state_dict(model.state_dict())
    rows = seq2seq_features(tokenizer, [source], [target]).rows
    with torch.no_grad():
        weights = looked(**generation_collator(looked, tokenizer)(list(rows)).to(model.device), output_attentions=True).cross_attentions[-1][0].mean(0).float().cpu()
    names = [[tokenizer.decode([i]).strip() or "·" for i in rows[0][column]] for column in ("input_ids", "labels")]
    fig, ax = plt.subplots(figsize=(1.6 + 0.32 * len(names[0]), 1.4 + 0.28 * len(names[1])), layout="constrained")
    image = ax.imshow(weights, cmap="cividis", vmin=0, vmax=float(weights.max()))
    ax.set_xticks(range(len(names[0])), names[0], rotation=60, ha="right"), ax.set_yticks(range(len(names[1])), names[1])
    ax.set(xlabel="read", ylabel="written")
    fig.colorbar(image, label="attention weight (share)", shrink=0.7), fig.savefig(path, dpi=130), plt.close(fig)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--minutes", type=float, default=20.0, help="training time")
    parser.add_argument("--points", type=int, default=6, help="points of the curve, each at twice the time of the one before")
    parser.add_argument("--from", dest="first", default="de", choices=("de", "en"))
    parser.add_argument("--to", dest="second", default="en", choices=("de", "en"))
    parser.add_argument("--kind", default="bart", choices=("bart", "t5"))
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--feed-forward", type=int, default=1024)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--beams", type=int, default=4, help="of the last measurement")
    parser.add_argument("--length-penalty", type=float, default=1.0)
    parser.add_argument("--train-examples", type=int)
    parser.add_argument("--test-examples", type=int)
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="translation", help="of the result files")
    args = parser.parse_args()
    if args.first == args.second:
        parser.error(f"--from {args.first} and --to {args.second} are the same language")
    sys.path.insert(0, str(ROOT))
    import matplotlib
    matplotlib.use("Agg")
    import sacrebleu
    import torch
    import transformers
    from transformers import AutoModelForSeq2SeqLM
    from lmnotes.generation import encoder_decoder_config, generate_texts, seq2seq_features
    from lmnotes.metrics import score
    from lmnotes.pretraining import resolve_device, use_bf16
    from lmnotes.tokenization import train_tokenizer
    if args.threads:
        torch.set_num_threads(args.threads)
    data = read(args.shared, args.first, args.second)
    sources, targets = (side[:args.train_examples] for side in data["train"])
    test = tuple(side[:args.test_examples] for side in data["test"])
    tokenizer = train_tokenizer(sources + targets, "bpe", vocab_size=args.vocab_size, progress=False)
    features = seq2seq_features(tokenizer, sources, targets, 96, 96)
    torch.manual_seed(args.seed)
    config = encoder_decoder_config(tokenizer, args.kind, layers=args.layers, hidden=args.hidden, heads=args.heads, feed_forward=args.feed_forward, max_length=160, dropout=args.dropout)
    model = AutoModelForSeq2SeqLM.from_config(config).to(resolve_device(args.device))
    print(f"{features}; {model.num_parameters():,} parameters", flush=True)
    write = lambda texts=test[0], **options: [t.strip() for t in generate_texts(model, tokenizer, texts, max_new_tokens=64, progress=False, batch_tokens=8192, **options)]
    curve = []

    def measure(seconds, step, tokens):
        found = score("translation", write(), test[1], samples=0)
        curve.append({"seconds": round(seconds, 1), "steps": step, "tokens": tokens, "bleu": round(found["bleu"], 2), "chrf": round(found["chrf"], 2)})
        print(curve[-1], flush=True)
    train(model, tokenizer, features.rows, args, measure)
    written = write(num_beams=args.beams, length_penalty=args.length_penalty)
    final = score("translation", written, test[1])
    copied = score("translation", list(test[0]), test[1], samples=0)
    facts = {"date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} threads, {model.device.type}", "python": platform.python_version(),
             "torch": torch.__version__, "transformers": transformers.__version__, "sacrebleu": sacrebleu.__version__, "precision": "bf16" if use_bf16(args.precision, model.device) else "fp32",
             "parameters": model.num_parameters(), "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "shared"}, "train": len(sources), "test": len(test[0]),
             "curve, greedy": curve, "with beams": {k: round(v, 2) for k, v in final.values.items()}, "interval of BLEU": [round(v, 2) for v in final.intervals["bleu"]], "protocol": final.protocol,
             "source copied": round(copied["bleu"], 2), "examples": [{"source": s, "written": w} for s, w in zip(OWN[args.first], write(OWN[args.first], num_beams=args.beams, length_penalty=args.length_penalty))]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{args.name}.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_curve(curve, RESULTS / f"{args.name}_curve.png", f"Multi30k {args.first} → {args.second}, {model.num_parameters() / 1e6:.1f} M parameters, from scratch")
    draw_alignment(model, tokenizer, OWN[args.first][0], facts["examples"][0]["written"] or OWN[args.second][0], RESULTS / f"{args.name}_alignment.png")
    text = f"# Translation of Multi30k, {args.first} → {args.second}, from scratch\n\n{facts['date']}, {facts['machine']}, {facts['precision']}, Python {facts['python']}, torch {facts['torch']}, transformers {facts['transformers']}, sacrebleu {facts['sacrebleu']}; `python benchmarks/translation.py {' '.join(sys.argv[1:])}`\n\n"
    text += f"{args.kind}, {args.layers} + {args.layers} layers, {args.hidden} wide, {model.num_parameters():,} parameters, one BPE of {len(tokenizer):,} tokens; {len(sources):,} training and {len(test[0]):,} test pairs (test_2016_flickr), cased, one seed.\n\n"
    text += "| training time (s) | steps | tokens | BLEU, greedy | chrF, greedy |\n|---|---|---|---|---|\n" + "\n".join(f"| {p['seconds']:,} | {p['steps']:,} | {p['tokens']:,} | {p['bleu']} | {p['chrf']} |" for p in curve)
    text += f"\n\nAt the end with {args.beams} beams: BLEU {facts['with beams']['bleu']} [{facts['interval of BLEU'][0]}, {facts['interval of BLEU'][1]}], chrF {facts['with beams']['chrf']}; the source copied as it is: BLEU {facts['source copied']}. Protocol: {final.protocol['bleu']}\n\n"
    text += f"![BLEU on test over training time, rising]({args.name}_curve.png)\n\n![Cross-attention between a source and what was written for it]({args.name}_alignment.png)\n\n"
    text += "Sentences of our own:\n\n| source | written |\n|---|---|\n" + "\n".join(f"| {e['source']} | {e['written']} |" for e in facts["examples"]) + "\n"
    (RESULTS / f"{args.name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
