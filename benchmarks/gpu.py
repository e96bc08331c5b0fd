"""Pretraining on one CUDA GPU side by side with the Trainer recipe, and a run with its curve.

    python benchmarks/gpu.py                                     both parts
    python benchmarks/gpu.py --only throughput                   BERT-base (block 512) and GPT-2 small (block 1,024) in bf16: tokens a second, share of peak
    python benchmarks/gpu.py --only run --minutes 10 --text T    GPT-2 small on T/train.jsonl, examined on T/validation.jsonl (a column `text`)

The recipe is that of run_mlm.py and run_clm.py: Trainer with bf16=True, its collator, its fused AdamW, logits and loss for
all tokens, the same batch; once as it is and once with torch_compile=True. Ours is the engine behind `pretrain`, with the
same AdamW, plain and compiled, and with Muon. Rows go to benchmarks/results/gpu.json and gpu.md (or the folder of `--results`)
with the date and the name of the GPU. `--quick` runs a few steps of a small size, on a CPU too: a check that all works.
"""
import argparse
import datetime
import gc
import json
import logging
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast, TrainerCallback

from lmnotes.corpora import load_corpus
from lmnotes.pretraining import peak_flops, pretrain, resolve_device
from lmnotes.tokenization import train_tokenizer
from lmnotes.transformer import flops_per_token, model_config
from pretraining import hf_trainer, train_ours, words_tokenizer                                   # the script beside this one

WORK = tempfile.TemporaryDirectory(prefix="lmnotes-gpu-")
SIZES = {"bert-base": dict(vocabulary=30522, block=512, batch=64, causal=False), "gpt-small": dict(vocabulary=50257, block=1024, batch=32, causal=True)}
QUICK = {"bert-tiny": dict(vocabulary=3052, block=64, batch=4, causal=False), "gpt-tiny": dict(vocabulary=5025, block=64, batch=4, causal=True)}
RECIPES = {"Trainer": dict(), "Trainer, torch_compile": dict(torch_compile=True)}
OURS = {"ours": dict(), "ours, compiled": dict(compile=True), "ours, compiled, Muon": dict(compile=True, optimizer="muon"), "ours, compiled, twice the batch": dict(compile=True),
        "ours, compiled, four times the batch": dict(compile=True)}
LARGER = {"twice the batch": 2, "four times the batch": 4}


class Timer(TrainerCallback):
    "Time of the steps after the first ones, the device's work included."

    def __init__(self, device, skip):
        self.device, self.skip, self.steps = device, skip, 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1
        if self.steps == self.skip or state.global_step == state.max_steps:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            if self.steps == self.skip:
                self.start = time.perf_counter()
            self.seconds = time.perf_counter() - self.start


def recipe(model, blocks, tokenizer, timer, device, size, steps, **changes):
    "Trainer as run_mlm.py and run_clm.py set it up."
    hf_trainer(model, blocks, tokenizer, timer, size["causal"], max_steps=steps, per_device_train_batch_size=size["batch"], bf16=True, use_cpu=device.type == "cpu",
               dataloader_pin_memory=True, learning_rate=1e-4, **changes).train()


def ours(model, blocks, tokenizer, timer, device, size, steps, **changes):
    "The engine of `pretrain`, with the same AdamW where no other optimizer is named."
    train_ours(model, blocks, tokenizer, timer, size["causal"], **{**dict(steps=steps, device=str(device), batch_size=size["batch"], block_size=size["block"], precision="bf16", learning_rate=1e-4), **changes})


def fresh(name, size, ours_):
    "A model as published; ours pads the vocabulary to a multiple of 8, as `pretrain` does."
    vocabulary = -(-size["vocabulary"] // 8) * 8 if ours_ else size["vocabulary"]
    torch.manual_seed(0)
    return (AutoModelForCausalLM if size["causal"] else AutoModelForMaskedLM).from_config(model_config(name, vocabulary))


def rate(name, size, run, steps, skip, device, **changes):
    "Tokens a second, share of peak of the operations that are needed, and peak memory."
    gc.collect()
    tokenizer, blocks = words_tokenizer(size["vocabulary"]), np.random.default_rng(0).integers(5, size["vocabulary"], (4 * size["batch"], size["block"])).astype(np.int32)
    model, timer = fresh(name, size, run is ours), Timer(device, skip)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run(model, blocks, tokenizer, timer, device, size, steps, **changes)
    tokens = (steps - skip) * size["batch"] * size["block"] / timer.seconds
    peak = peak_flops(device, True)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0
    return {"tokens/s": round(tokens), "share of peak": round(tokens * flops_per_token(model_config(name, size["vocabulary"]), size["block"], 1.0 if size["causal"] else 0.15) / peak, 4) if peak else None,
            "peak memory (GiB)": round(memory, 1), "seconds with start": round(time.perf_counter() - start, 1)}


def throughput(args, add):
    "Tokens a second and share of peak, in bf16; every row runs in this process, one after the other."
    device, steps, skip = resolve_device("auto"), (6 if args.quick else args.steps), (3 if args.quick else args.skip)
    for name, size in (QUICK if args.quick else SIZES).items():
        best = 0
        for label in args.rows or [*RECIPES, *OURS]:
            this = {**size, "batch": LARGER.get(label.rpartition(", ")[2], 1) * size["batch"]}
            try:
                found = rate(name, this, ours if label in OURS else recipe, steps, skip, device, **{**RECIPES, **OURS}[label])
            except Exception as error:                                                            # the other rows still come
                add(model=name, run=label, error=f"{type(error).__name__}: {str(error)[:300]}")
                continue
            finally:
                torch._dynamo.reset()
            best = best if label in OURS else max(best, found["tokens/s"])
            add(model=name, block=size["block"], batch=this["batch"], run=label, **found, **({"times the faster recipe": round(found["tokens/s"] / best, 2)} if label in OURS and best else {}))


def run(args, add):
    "GPT-2 small on text, for so many minutes, with its curve."
    text = Path(args.text)
    corpus = {split: load_corpus(str(text / f"{split}.jsonl"), validation_fraction=0)["train"] for split in ("train", "validation")}
    start = time.perf_counter()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.tokenizer) if args.tokenizer else train_tokenizer(corpus, kind="bpe", vocab_size=1000 if args.quick else 50257)
    print(f"tokenizer of {len(tokenizer)} tokens after {time.perf_counter() - start:.0f} s", flush=True)
    size = dict(block_size=64, batch_size=4) if args.quick else dict(block_size=1024, batch_size=64)
    result = pretrain(corpus, tokenizer, "gpt-tiny" if args.quick else "gpt-small", args.folder or f"{WORK.name}/run", resume=bool(args.folder), minutes=args.minutes, recipe=args.recipe, compile=not args.quick, learning_rate=args.learning_rate,
                      schedule="wsd", decay=0.4, warmup=0.05, weight_decay=0.1, evaluations=20, validation_blocks=64, checkpoint_minutes=1e6, **size)
    print(result, flush=True)
    for row in [r for r in result.history if "validation_loss" in r]:
        add(**{"tokens": row["tokens"], "seconds": round(row["seconds"], 1), "training loss": round(row["loss"], 4), "validation loss": round(row["validation_loss"], 4), "tokens/s": row["tokens_per_second"],
               "share of peak": row.get("share_of_peak")})
    add(tokens=result.tokens, seconds=round(result.seconds, 1), **{"validation loss": round(result.loss_after, 4), "parameters": result.parameters, "blocks": result.data["blocks"]})
    (args.results / "gpu-history.json").write_text(json.dumps(result.history))
    figure = result.plot().figure
    figure.savefig(args.results / "gpu-run.png", dpi=110, bbox_inches="tight")


PARTS = {"throughput": throughput, "run": run}


def machine():
    "Date, GPU and versions."
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{datetime.date.today()}, {name}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--rows", nargs="+", choices=[*RECIPES, *OURS], help="rows of throughput, by default all")
    parser.add_argument("--steps", type=int, default=40, help="steps of a throughput row")
    parser.add_argument("--skip", type=int, default=10, help="of these, steps that are not timed")
    parser.add_argument("--minutes", type=float, default=10, help="length of the run")
    parser.add_argument("--text", help="folder with train.jsonl and validation.jsonl for the run")
    parser.add_argument("--tokenizer", help="folder of a tokenizer for the run; trained where none is given")
    parser.add_argument("--folder", help="folder of the run, which goes on there if it was stopped")
    parser.add_argument("--recipe", default="standard", help="recipe of the run: standard is GPT-2 as published, fast a modern decoder of its size")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="of the run")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder for what is measured")
    parser.add_argument("--quick", action="store_true", help="a few steps of a small size")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.quick:
        sys.exit("this benchmark needs a CUDA device; --quick checks it on a CPU")
    logging.disable(logging.WARNING)
    os.environ.setdefault("LMNOTES_CACHE", f"{WORK.name}/cache")
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / "gpu.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    print(machine(), flush=True)
    for part in args.only:
        rows = []

        def add(**row):
            rows.append(row)
            print("  " + ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
            held[part] = {"machine": machine(), "note": PARTS[part].__doc__, "rows": rows}
            write(held, args.results)
        PARTS[part](args, add)


def write(held, folder):
    "The rows as JSON and as a page."
    (folder / "gpu.json").write_text(json.dumps(held, indent=1) + "\n")
    lines = ["# On a GPU", "", "Made by `python benchmarks/gpu.py`; each part has the date and the machine of its own run.", ""]
    for part, found in held.items():
        names = list(dict.fromkeys(k for row in found["rows"] for k in row))
        lines += [f"## {part}", "", found["note"], "", found["machine"], "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(str(row.get(k, '')) for k in names)} |" for row in found["rows"]] + [""]
    (folder / "gpu.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
