"""Pretraining side by side with the recipes that it replaces, on this machine, in one run.

    python benchmarks/pretraining.py                               everything (well over an hour on 2 cores)
    python benchmarks/pretraining.py --only throughput equal       tokens a second, and the loss at equal tokens, against Hugging Face's run_mlm recipe
    python benchmarks/pretraining.py --only masked --minutes 10    time to the loss of a tuned Trainer run on English mix
    python benchmarks/pretraining.py --only causal target          time to the losses of nanoGPT's two recipes on Tiny Shakespeare
    python benchmarks/pretraining.py --only ablation               what each ingredient of recipe="fast" is worth
    python benchmarks/pretraining.py --only packing                MB of text a second, and memory

`--minutes` is the length of the longest run of a part (default 10; 1 is a quick look). Rows are printed as they
come, and written at once to benchmarks/results/pretraining-PART.json; the table of all parts that were ever run is
benchmarks/results/pretraining.md. Needs ../shared/data (or the folder named by LMNOTES_SHARED).
"""
import argparse
import datetime
import json
import logging
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LMNOTES_SHARED", ROOT.parent / "shared")) / "data"
RESULTS = ROOT / "benchmarks" / "results"
WORK = tempfile.TemporaryDirectory(prefix="lmnotes-benchmark-")

import numpy as np
import torch
import transformers
from datasets import Dataset, load_dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (AutoModelForMaskedLM, DataCollatorForLanguageModeling, GPT2Config, GPT2LMHeadModel, LlamaConfig, PreTrainedTokenizerFast, Trainer, TrainerCallback,
                          TrainingArguments)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lmnotes import pretraining
from lmnotes.pretraining import Batches, PretrainingOptions, fast_config, pack, pretrain, use_bf16, validation_loss, write_blocks
from lmnotes.tokenization import train_tokenizer
from lmnotes.transformer import model_config

CPU = torch.device("cpu")
BF16 = use_bf16("auto", CPU)
VOCABULARIES = 8192, 30522


# ---- what all parts share

class Rows:
    "Rows of one part, printed and written as they come."

    def __init__(self, part, note):
        self.part, self.rows, self.note = part, [], note

    def add(self, **row):
        self.rows.append(row)
        print("  " + ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        self.write()

    def write(self):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"pretraining-{self.part}.json").write_text(json.dumps({"machine": machine(), "note": self.note, "rows": self.rows}, indent=1) + "\n")
        report()


def report():
    "The tables of all parts that were ever run."
    lines = ["Made by `python benchmarks/pretraining.py`; each part has the date and the machine of its own run.", ""]
    for path in sorted(RESULTS.glob("pretraining-*.json")):
        held = json.loads(path.read_text())
        names = list(dict.fromkeys(k for row in held["rows"] for k in row))
        lines += [f"## {path.stem.removeprefix('pretraining-')}", "", held["note"], "", f"{held['machine']}", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(str(row.get(k, '')) for k in names)} |" for row in held["rows"]] + [""]
    (RESULTS / "pretraining.md").write_text("\n".join(lines))


def machine():
    "Date, machine and versions."
    told = dict(line.partition(":")[::2] for line in open("/proc/cpuinfo")) if Path("/proc/cpuinfo").exists() else {}
    told = {key.strip(): value.strip() for key, value in told.items()}
    cpu = f"{told['model name']} (family {told.get('cpu family')})" if "model name" in told else platform.processor() or platform.machine()
    return (f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {'bf16 in hardware' if BF16 else 'no bf16 in hardware'}, "
            f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}")


class Timer(TrainerCallback):
    "Time of each optimizer step, and an end by the clock."

    def __init__(self, seconds=None):
        self.times, self.seconds = [], seconds

    def on_train_begin(self, args, state, control, **kwargs):
        self.times = [time.perf_counter()]

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())
        if self.seconds and self.times[-1] - self.times[0] > self.seconds:
            control.should_training_stop = True

    def rate(self, tokens, skip=3):
        "Tokens a second from the median step, the first ones left out."
        return tokens / float(np.median(np.diff(self.times)[skip:]))


def english(vocab_size):
    "English mix: corpus and a WordPiece tokenizer."
    data = load_dataset(str(SHARED / "english_mix"))
    return data, train_tokenizer(data, vocab_size=vocab_size, progress=False)


def hf_arguments(**changes):
    "Arguments of a Trainer that writes nothing."
    return TrainingArguments(**{**dict(output_dir=f"{WORK.name}/hf", use_cpu=True, save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, per_device_train_batch_size=32,
                                       dataloader_pin_memory=False, seed=0), **changes})


def hf_trainer(model, blocks, tokenizer, timer, causal=False, **changes):
    "The run_mlm (or run_clm) recipe: grouped texts, dynamic masks by the library's collator, the dense loss, AdamW."
    data = Dataset.from_dict({"input_ids": blocks.tolist()})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=not causal, **({} if causal else {"mlm_probability": 0.15}))
    trainer = Trainer(model=model, args=hf_arguments(**changes), train_dataset=data, data_collator=collator, callbacks=[timer])
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def train_ours(model, blocks, tokenizer, timer, causal=False, **changes):
    "Train with our engine, without folders."
    options = PretrainingOptions(**{**dict(device="cpu", batch_size=32, block_size=128, optimizer="adamw"), **changes}).check()
    arguments = pretraining._arguments(Path(WORK.name) / "ours", options, pretraining.resolve_device(options.device))
    arguments.max_steps = options.steps
    model.to(arguments.device)
    if options.compile:
        pretraining._compile_layers(model)
    data, collate = Batches(blocks, tokenizer, causal, 0.15, 0, options.steps * options.batch_size), Batches.collate if causal else pretraining._collate_masked
    with pretraining._for_the_machine(model, arguments.bf16, options):
        trainer = pretraining._Trainer(options, causal, pretraining._Clock(options.steps, None), model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[timer])
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.train()


# ---- throughput, and the loss at equal tokens

def throughput(minutes, rows):
    "Tokens a second, BERT 4x256, block 128, batch 32; peer and ours take turns."
    steps, tokens = max(6, round(1.5 * minutes)), 32 * 128
    variants = [("fp32", "fp32", False), ("fp32, compiled", "fp32", True)] + ([("bf16", "bf16", False), ("bf16, compiled", "bf16", True)] if BF16 else [])
    for vocab_size in VOCABULARIES:
        tokenizer = words_tokenizer(vocab_size)
        blocks = np.random.default_rng(0).integers(5, vocab_size, (2048, 128)).astype(np.int32)
        fresh = lambda: AutoModelForMaskedLM.from_config(model_config("bert-mini", vocab_size))
        peers = {f"run_mlm {p}": [] for p in ["fp32"] + (["bf16"] if BF16 else [])}
        ours = {f"ours {name}": [] for name, _, _ in variants}
        for repeat in range(2):
            for name in peers:
                timer = Timer()
                hf_trainer(fresh(), blocks, tokenizer, timer, max_steps=steps, bf16="bf16" in name).train()
                peers[name].append(timer.rate(tokens))
            for name, precision, compiled in variants:
                timer = Timer()
                train_ours(fresh(), blocks, tokenizer, timer, steps=2 * steps, precision=precision, compile=compiled)
                ours[f"ours {name}"].append(timer.rate(tokens, skip=6))
            print(f"  turn {repeat + 1} of 2 at vocabulary {vocab_size}: " + ", ".join(f"{k} {v[-1]:,.0f}" for k, v in {**peers, **ours}.items()), flush=True)
        for name, rates in {**peers, **ours}.items():
            row = {"vocabulary": vocab_size, "recipe": name, "tokens/s": round(max(rates)), "both turns": " ".join(f"{r:.0f}" for r in rates)}
            rows.add(**row, **{f"times {peer}": round(max(rates) / max(of), 2) for peer, of in peers.items()})


def words_tokenizer(vocab_size):
    "A tokenizer of that many made-up tokens, with BERT's special ones."
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({**{t: i for i, t in enumerate(special)}, **{f"w{i}": i for i in range(5, vocab_size)}}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special)))


def equal(minutes, rows):
    "Validation loss after equal tokens, with equal optimizer and learning rate."
    data, tokenizer = english(8192)
    blocks, held = (pack(data[s]["text"], tokenizer, 128) for s in ("train", "validation"))
    steps = max(20, round(30 * minutes))
    order = np.random.default_rng(0).permutation(len(blocks))
    for precision in ["fp32"] + (["bf16"] if BF16 else []):
        for name in ("run_mlm", "ours"):
            torch.manual_seed(0)
            model, timer = AutoModelForMaskedLM.from_config(model_config("bert-mini", 8192)), Timer()
            if name == "run_mlm":
                hf_trainer(model, blocks[order], tokenizer, timer, max_steps=steps, learning_rate=1e-3, warmup_steps=steps // 20, weight_decay=0.01, adam_beta2=0.98, bf16=precision == "bf16").train()
            else:
                train_ours(model, blocks, tokenizer, timer, steps=steps, learning_rate=1e-3, precision=precision)
            loss = validation_loss(model, Batches(held, tokenizer, False, 0.15, 1, min(512, len(held))))
            rows.add(recipe=f"{name} {precision}", steps=steps, tokens=steps * 4096, seconds=round(timer.times[-1] - timer.times[0], 1), **{"validation loss (nats)": round(loss, 4)})
        a, b = (r["validation loss (nats)"] for r in rows.rows[-2:])
        rows.add(recipe=f"difference in {precision}", **{"validation loss (nats)": f"{100 * (b - a) / a:+.2f} %"})


# ---- time to loss, masked

def masked(minutes, rows, trainer_rate=None):
    "Trainer with AdamW, its best of three learning rates, against ours in fractions of its time."
    data, tokenizer = english(8192)
    blocks, held = (pack(data[s]["text"], tokenizer, 128) for s in ("train", "validation"))
    examination = Batches(held, tokenizer, False, 0.15, 1, min(512, len(held)))
    best_bf16 = {"bf16": BF16}
    timer = Timer()
    hf_trainer(AutoModelForMaskedLM.from_config(model_config("bert-mini", 8192)), blocks, tokenizer, timer, max_steps=8, **best_bf16).train()
    rate = 1 / float(np.median(np.diff(timer.times)[2:]))                                        # steps a second

    def trainer_run(learning_rate, length):
        torch.manual_seed(0)
        model, timer = AutoModelForMaskedLM.from_config(model_config("bert-mini", 8192)), Timer()
        steps = max(10, round(rate * 60 * length))
        hf_trainer(model, blocks, tokenizer, timer, max_steps=steps, learning_rate=learning_rate, warmup_steps=steps // 20, weight_decay=0.01, adam_beta2=0.98, **best_bf16).train()
        seconds, loss = timer.times[-1] - timer.times[0], validation_loss(model, examination)
        rows.add(recipe=f"Trainer, AdamW {learning_rate:g}", seconds=round(seconds, 1), tokens=steps * 4096, **{"validation loss (nats)": round(loss, 4)})
        return loss, seconds
    sweep = {lr: trainer_run(lr, minutes / 4)[0] for lr in (5e-4, 1e-3, 2e-3)} if trainer_rate is None else {trainer_rate: 0}
    best, seconds = trainer_run(min(sweep, key=sweep.get), minutes)
    corpus = {s: data[s] for s in ("train", "validation")}
    for share in (0.125, 0.198, 0.33):
        result = pretrain(corpus, tokenizer, "bert-mini", f"{WORK.name}/masked", minutes=seconds * share / 60, learning_rate=4e-3, recipe="fast", mask_rate=0.4, mask_rate_end=0.15, evaluations=0,
                          warmup=0.08, validation_blocks=32, checkpoint_minutes=1e6, device="cpu", overwrite=True)
        loss = validation_loss(AutoModelForMaskedLM.from_pretrained(result.output_dir), examination)
        rows.add(recipe="ours", seconds=round(result.seconds, 1), tokens=result.tokens,
                 **{"validation loss (nats)": round(loss, 4), "share of Trainer's time": round(result.seconds / seconds, 3), "reached": "yes" if loss <= best else "no"})
        if loss <= best and share >= 0.198:
            break


# ---- Tiny Shakespeare

def characters():
    "Tiny Shakespeare by characters: corpus and tokenizer."
    data = load_dataset(str(SHARED / "tiny_shakespeare"))
    alphabet = sorted(set("".join(data["train"]["text"])))
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(alphabet)}, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return data, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=" ")


def whole_validation(model, data, tokenizer, block_size):
    "Loss over the whole validation part, in blocks."
    held = pack(data["validation"]["text"], tokenizer, block_size)
    return validation_loss(model, Batches(held, tokenizer, True, 0.15, 0, len(held)), 32)


def nanogpt(data, tokenizer, steps=2000):
    "nanoGPT's CPU recipe from library parts: 4 layers, 128 wide, block 64, batch 12, AdamW 1e-3 to 1e-4 by a cosine, warm-up 100, clip 1."
    torch.manual_seed(1337)
    ids = torch.from_numpy(pack(data["train"]["text"], tokenizer, 1).ravel().astype(np.int64))
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_layer=4, n_head=4, n_embd=128, n_positions=64, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None))
    groups = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1}, {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    optimizer, start = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99)), time.perf_counter()
    for step in range(steps):
        rate = 1e-3 * step / 100 if step < 100 else 1e-4 + 0.5 * (1e-3 - 1e-4) * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        begin = torch.randint(len(ids) - 64, (12,))
        batch = torch.stack([ids[i:i + 65] for i in begin])
        loss = torch.nn.functional.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model, time.perf_counter() - start


FAST = dict(recipe="fast", device="cpu", overwrite=True, evaluations=0, validation_blocks=16, checkpoint_minutes=1e6, warmup=0.05)
SMALL = dict(layers=4, hidden=128, heads=4, block_size=64)                                        # of nanoGPT's CPU recipe
LARGE = dict(layers=3, hidden=192, heads=3, block_size=256)


def fast_run(data, tokenizer, size, **changes):
    "Ours on Tiny Shakespeare; the result and the loss over the whole validation part."
    model = fast_config(-(-len(tokenizer) // 8) * 8, **size)
    result = pretrain({s: data[s] for s in ("train", "validation")}, tokenizer, model, f"{WORK.name}/fast", **{**FAST, "block_size": size["block_size"], **changes})
    from transformers import AutoModelForCausalLM
    return result, whole_validation(AutoModelForCausalLM.from_pretrained(result.output_dir), data, tokenizer, size["block_size"])


def causal(minutes, rows):
    "nanoGPT's CPU recipe, and ours in fractions of its time."
    data, tokenizer = characters()
    steps = 2000 if minutes >= 2 else max(100, round(1000 * minutes))
    model, seconds = nanogpt(data, tokenizer, steps)
    best = whole_validation(model, data, tokenizer, 64)
    rows.add(recipe=f"nanoGPT's CPU recipe, {steps} steps", seconds=round(seconds, 1), parameters=sum(p.numel() for p in model.parameters()), **{"validation loss (nats)": round(best, 4)})
    for share in (0.1, 0.16, 0.25, 0.5):
        result, loss = fast_run(data, tokenizer, SMALL, minutes=seconds * share / 60, batch_size=16, learning_rate=1.5e-2)
        rows.add(recipe="ours, same size", seconds=round(result.seconds, 1), parameters=result.parameters, steps=result.steps,
                 **{"validation loss (nats)": round(loss, 4), "share of its time": round(result.seconds / seconds, 3), "reached": "yes" if loss <= best else "no"})
        if loss <= best and share >= 0.16:
            break


def target(minutes, rows):
    "The loss that nanoGPT's README reports for its GPU recipe, 1.4697."
    data, tokenizer = characters()
    steps = round(1400 * minutes / 10)
    for compiled in (True, False):
        result, loss = fast_run(data, tokenizer, LARGE, steps=steps, batch_size=16, learning_rate=5e-3, weight_decay=0.5, compile=compiled)
        rows.add(recipe=f"ours, 3 layers of 192{', compiled' if compiled else ''}", seconds=round(result.seconds, 1), steps=steps, parameters=result.parameters,
                 **{"tokens/s": round(result.tokens / result.seconds), "validation loss (nats)": round(loss, 4), "1.4697 reached": "yes" if loss <= 1.4697 else "no"})
        if minutes > 2:
            break


def ablation(minutes, rows):
    "One ingredient out at a time, equal steps; and a step's time."
    data, tokenizer = characters()
    steps, vocab_size = max(30, round(30 * minutes)), -(-len(tokenizer) // 8) * 8
    size = dict(layers=4, hidden=128, heads=4, block_size=128)
    config = lambda **changes: (lambda c: [setattr(c, k, v) for k, v in changes.items()] and c or c)(fast_config(vocab_size, **size))
    gated = LlamaConfig(vocab_size=vocab_size, hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=128, architectures=["LlamaForCausalLM"])
    gpt2 = GPT2Config(vocab_size=vocab_size, n_layer=4, n_head=4, n_embd=128, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, architectures=["GPT2LMHeadModel"])
    variants = {"all": {}, "Muon (AdamW, the best of three rates)": {"optimizer": "adamw"}, "squared ReLU (GELU)": {"model": config(hidden_act="gelu")},
                "projections at zero": {"recipe": "standard"}, "the cap on logits": {"model": config(final_logit_softcapping=None)},
                "query-key norm and squared ReLU (Llama)": {"model": gated}, "all of the architecture (GPT-2)": {"model": gpt2}, "warm-up": {"warmup": 0.0},
                "linear decay (constant)": {"schedule": "constant"}, "large steps (a third of the rate)": {"learning_rate": 3e-3}}
    for name, change in variants.items():
        change, runs = dict(change), []
        model = change.pop("model", None) or config()
        for rate in ((1e-3, 3e-3, 6e-3) if change.get("optimizer") == "adamw" else (change.pop("learning_rate", 1e-2),)):
            result = pretrain({s: data[s] for s in ("train", "validation")}, tokenizer, model, f"{WORK.name}/ablation", steps=steps, learning_rate=rate, batch_size=32,
                              **{**FAST, "block_size": 128, "validation_blocks": 10**6, **change})
            runs.append((result.loss_after, result.seconds, rate))
        loss, seconds, rate = min(runs)
        rows.add(without=name if name != "all" else "nothing", steps=steps, learning_rate=rate, **{"validation loss (nats)": round(loss, 4), "ms a step": round(1000 * seconds / steps, 1)})


# ---- packing

def packing(minutes, rows):
    "MB a second beside datasets.map with group_texts, and peak memory at two sizes, from memory and streamed from a file."
    sizes = (max(5, round(10 * minutes)), max(20, round(200 * minutes)))
    english(8192)[1].save_pretrained(f"{WORK.name}/tokenizer")                                 # trained here, since training it would hide what packing takes
    for what, size in (("datasets.map, group_texts", sizes[0]), ("ours", sizes[0]), ("ours", sizes[1]), ("ours, streamed from a file", sizes[0]), ("ours, streamed from a file", sizes[1])):
        done = subprocess.run([sys.executable, __file__, "--once", what, str(size), f"{WORK.name}/tokenizer"], capture_output=True, text=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "true"})
        if done.returncode:
            print(done.stderr[-2000:], flush=True)
            continue
        rows.add(**json.loads(done.stdout.splitlines()[-1]))


def once_packing(what, megabytes, folder):
    "One measurement, in a process of its own."
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    documents = load_dataset(str(SHARED / "english_mix"))["train"]["text"][:]

    def texts():
        left, i = megabytes * 10**6, 0
        while left > 0:
            text = documents[i % len(documents)]
            left -= len(text.encode())
            i += 1
            yield f"{i} {text}"
    if what.startswith("datasets"):
        from itertools import chain
        listed = Dataset.from_dict({"text": list(texts())})
        start = time.perf_counter()

        def group(batch):
            ids = list(chain.from_iterable(tokenizer(batch["text"])["input_ids"]))
            return {"input_ids": [ids[i:i + 128] for i in range(0, len(ids) // 128 * 128, 128)]}
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        listed.map(group, batched=True, remove_columns=["text"], num_proc=os.cpu_count())
    elif "file" in what:
        from lmnotes.corpora import load_corpus
        path = Path(WORK.name) / "text.txt"
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(t.replace("\n\n", "\n") + "\n\n" for t in texts())
        start = time.perf_counter()
        corpus = load_corpus(str(path), streaming=True, validation_fraction=0, cache_dir=WORK.name)
        write_blocks((row["text"] for row in corpus["train"]), tokenizer, 128, Path(WORK.name) / "b.arrow")
    else:
        start = time.perf_counter()
        write_blocks(texts(), tokenizer, 128, Path(WORK.name) / "b.arrow")
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status")                                                            # getrusage would give the parent's peak where that is higher
    peak = int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024 if status.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"what": what, "MB": megabytes, "seconds": round(seconds, 1), "MB/s": round(megabytes / seconds, 2), "peak MiB": peak}))


PARTS = {"throughput": throughput, "equal": equal, "masked": masked, "causal": causal, "target": target, "ablation": ablation, "packing": packing}


def main():
    if sys.argv[1:2] == ["--once"]:
        return once_packing(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--minutes", type=float, default=10, help="length of the longest run of a part")
    parser.add_argument("--trainer-rate", type=float, help="learning rate of Trainer in `masked`, in place of the best of three")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    os.environ["LMNOTES_CACHE"] = f"{WORK.name}/cache"
    print(machine(), flush=True)
    for part in options.only:
        rate = {"trainer_rate": options.trainer_rate} if part == "masked" and options.trainer_rate else {}
        start, rows = time.perf_counter(), Rows(part, f"{PARTS[part].__doc__} `--minutes {options.minutes:g}{f' --trainer-rate {options.trainer_rate:g}' if rate else ''}`")
        print(f"== {part}", flush=True)
        try:
            PARTS[part](options.minutes, rows, **rate)
        except Exception as error:                                                                # the other parts still run; what was measured is written
            rows.add(error=f"{type(error).__name__}: {error}")
            import traceback
            traceback.print_exc()
        print(f"== {part} took {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
