"""Perplexity beside Hugging Face's metric, lm-evaluation-harness and minicons: the same texts, model and machine, in one run, with the same values.

    python benchmarks/evaluation.py                  everything that is installed; some twenty minutes on two cores
    python benchmarks/evaluation.py --quick          a tenth of the texts, to try it
    python benchmarks/evaluation.py --only metric    one part: metric, rolling, short, masked
    python benchmarks/evaluation.py --minicons PYTHON    an interpreter with minicons 0.3.39 and transformers < 5
    python benchmarks/evaluation.py --stories       values only: a pretrained model of one megabyte, with lm_eval; some seconds; writes benchmarks/results/stories.json and .md
    python benchmarks/evaluation.py --streams       memory: files of 10 and 100 MB, each in a process of its own; some minutes; writes benchmarks/results/streams.json and .md

Needs ../shared/data, and ../shared/models for --stories (or the folder named by LMNOTES_SHARED). lm_eval is used where it is installed. Hugging Face's metric is loaded from the hub and
cannot be had offline: its computation is done again here from its published description; so is minicons' where no interpreter is given.
Writes benchmarks/results/evaluation.json and .md.
"""
import argparse
import copy
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LMNOTES_SHARED", ROOT.parent / "shared")) / "data"
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ["metric", "rolling", "short", "masked"]
CLOCK = time.process_time if os.environ.get("LMNOTES_CLOCK") == "cpu" else time.perf_counter       # on a busy machine: LMNOTES_CLOCK=cpu OMP_NUM_THREADS=1


def rows(name, split):
    "All texts of a split of the shared data."
    import pandas as pd
    return pd.read_parquet(SHARED / name / f"{split}.parquet")["text"].tolist()


def paragraphs(count, seed=0):
    "Paragraphs and headings of WikiText-2, as they come: some words to some hundred."
    found = [t.strip() for t in rows("wikitext2", "train") if t.strip()]
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:count]]


def sentences(count):
    "Sentences of the acceptability corpus CoLA."
    import pandas as pd
    files = sorted((SHARED / "cola").glob("**/*.parquet"))
    table = pd.concat(pd.read_parquet(f) for f in files)
    column = "sentence" if "sentence" in table else "text"
    return [t for t in table[column].tolist() if t.strip()][:count]


def small_gpt():
    "GPT-2 of 4 layers, 256 wide, random weights, and a byte-level tokenizer of GPT-2's size of vocabulary."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    folder = SHARED / "vocabularies"
    merges = [tuple(line.split(" ")) for line in (folder / "gpt2-merges.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#version")]
    from lmnotes.tokenization import byte_characters
    letters = list(byte_characters().values()) if isinstance(byte_characters(), dict) else list(byte_characters())
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*letters, *("".join(m) for m in merges), "<|endoftext|>"]))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=256, n_layer=4, n_head=4, n_positions=1024, initializer_range=0.1, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return GPT2LMHeadModel(config).eval(), tokenizer


def small_bert(layers=4, width=256):
    "BERT of 4 layers, 256 wide (or another size), random weights, and the published vocabulary of bert-base-uncased."
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast
    words = (SHARED / "vocabularies" / "bert-base-uncased-vocab.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = BertTokenizerFast(vocab={w: i for i, w in enumerate(words)})
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64, intermediate_size=4 * width, initializer_range=0.1)
    return BertForMaskedLM(config).eval(), tokenizer


@torch.no_grad()
def metric(model, tokenizer, texts, batch_size=16):
    """Hugging Face's perplexity metric, from its description: texts in their order, batches of 16 padded to the longest, the start token in front,
    logits of all places, unreduced cross-entropy over the vocabulary axis, times the attention mask, each text's mean exponentiated."""
    values = []
    for i in range(0, len(texts), batch_size):
        encoded = tokenizer(texts[i:i + batch_size], add_special_tokens=False, padding=True, truncation=True, max_length=1023, return_tensors="pt", padding_side="right")
        start = torch.full((len(encoded["input_ids"]), 1), tokenizer.bos_token_id)
        ids, mask = torch.cat([start, encoded["input_ids"]], 1), torch.cat([torch.ones_like(start), encoded["attention_mask"]], 1)
        logits = model(ids, attention_mask=mask).logits[..., :-1, :].contiguous()
        losses = torch.nn.CrossEntropyLoss(reduction="none")(logits.transpose(1, 2), ids[..., 1:].contiguous()) * mask[..., 1:]
        values += torch.exp(losses.sum(1) / mask[..., 1:].sum(1)).tolist()
    return values


@torch.no_grad()
def minicons_like(model, tokenizer, texts, batch_size=10):
    "minicons' masked scores, from its description: a copy of the sentence for each of its tokens, the copies of a batch of sentences padded together, logits of all places."
    values = []
    for i in range(0, len(texts), batch_size):
        encoded = tokenizer(texts[i:i + batch_size], padding=True, return_tensors="pt")
        copies, masks, targets, places, counts = [], [], [], [], []
        for ids, attention in zip(encoded["input_ids"], encoded["attention_mask"]):
            at = [j for j, t in enumerate(ids.tolist()) if t not in (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)]
            rows = ids.repeat(len(at), 1)
            rows[range(len(at)), at] = tokenizer.mask_token_id
            copies.append(rows), masks.append(attention.repeat(len(at), 1)), targets.extend(ids[at].tolist()), places.extend(at), counts.append(len(at))
        logits = model(torch.cat(copies), attention_mask=torch.cat(masks)).logits[range(len(places)), places]
        found = (logits - logits.logsumexp(1, keepdim=True))[range(len(targets)), targets]
        values += [v.sum().item() for v in found.split(counts)]
    return values


MINICONS = """
import json, os, sys, time, torch
clock = time.process_time if os.environ.get("LMNOTES_CLOCK") == "cpu" else time.perf_counter
from minicons import scorer
folder, texts, out = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3]
model = scorer.MaskedLMScorer(folder, "cpu")
model.sequence_score(texts[:2], reduction=lambda x: x.sum(0).item())
start, values = clock(), []
for i in range(0, len(texts), 10):
    values += model.sequence_score(texts[i:i + 10], reduction=lambda x: x.sum(0).item())
json.dump({"seconds": clock() - start, "values": values}, open(out, "w"))
"""


def real_minicons(python, model, tokenizer, texts):
    "minicons itself, in an interpreter of its own: seconds and values."
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/model"), tokenizer.save_pretrained(f"{folder}/model")
        Path(folder, "texts.json").write_text(json.dumps(texts))
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        subprocess.run([python, "-c", MINICONS, f"{folder}/model", f"{folder}/texts.json", f"{folder}/out.json"], check=True, env=environment)
        found = json.loads(Path(folder, "out.json").read_text())
    return found["seconds"], found["values"]


def harness(model, tokenizer, texts, batch_size, max_length=1024):
    "lm-evaluation-harness's rolling log-likelihoods."
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length, device="cpu")
    return peer.loglikelihood_rolling([Instance(request_type="loglikelihood_rolling", doc={}, arguments=(t,), idx=i) for i, t in enumerate(texts)], disable_tqdm=True)


def timed(function, *arguments, **options):
    "Seconds and value of one call."
    start = CLOCK()
    value = function(*arguments, **options)
    return CLOCK() - start, value


def side_by_side(name, peer, ours, repeats, same, narrow, warm=lambda **_: None):
    "Peer and ours in turn; the fastest of each; the peer's `(seconds, values)` may come from a process of its own, which scores two texts before its clock starts: `warm` does the same for ours."
    seconds = {"peer": [], "fp32": [], "bf16": []}
    for _ in range(repeats):
        spent, theirs = peer()
        seconds["peer"].append(spent)
        warm(dtype="float32")
        spent, result = timed(ours, dtype="float32")
        seconds["fp32"].append(spent)
        if narrow:
            warm(dtype="bfloat16")
            spent, half = timed(ours, dtype="bfloat16")
            seconds["bf16"].append(spent)
    best = {k: min(v) for k, v in seconds.items() if v}
    values = same(result)
    worst = float(np.max(np.abs(np.array(values) / np.array(theirs) - 1)))
    assert worst < 1e-4, f"{name}: values differ by {worst:.2e}"
    row = {"part": name, "documents": len(result.tokens), "tokens": sum(result.tokens), "peer_seconds": round(best["peer"], 2), "fp32_seconds": round(best["fp32"], 2),
           "times_faster_fp32": round(best["peer"] / best["fp32"], 2), "largest_relative_difference": f"{worst:.1e}"}
    if narrow:
        row |= {"bf16_seconds": round(best["bf16"], 2), "times_faster_bf16": round(best["peer"] / best["bf16"], 2),
                "perplexity_fp32": round(result.perplexity, 4), "perplexity_bf16": round(half.perplexity, 4)}
    print(row, flush=True)
    return row


def run(parts, scale, repeats, minicons, narrow):
    "The rows of the table."
    from lmnotes.perplexity import perplexity
    gpt, tokenizer = small_gpt()
    quick, found = dict(progress=False, device="cpu"), []
    if "metric" in parts:
        texts = paragraphs(1500 // scale)
        metric(gpt, tokenizer, texts[:16])
        found.append(side_by_side("Hugging Face's metric", lambda: timed(metric, gpt, tokenizer, texts), lambda **o: perplexity(gpt, texts, tokenizer, **o, **quick), repeats, lambda r: r.document_perplexities, narrow))
    if has_harness() and "rolling" in parts:
        long = ["\n\n".join(rows("wikitext2", "test"))[: 400_000 // scale]]
        for size in (1, 4):
            found.append(side_by_side(f"lm_eval, one long document, batches of {size}", lambda: timed(harness, gpt, tokenizer, long, size), lambda **o: perplexity(gpt, long, tokenizer, **o, **quick), repeats, lambda r: r.log_likelihoods, narrow))
    if has_harness() and "short" in parts:
        short = sentences(4000 // scale)
        for size in (1, 32):
            found.append(side_by_side(f"lm_eval, short documents, batches of {size}", lambda: timed(harness, gpt, tokenizer, short, size), lambda **o: perplexity(gpt, short, tokenizer, **o, **quick), repeats, lambda r: r.log_likelihoods, narrow))
    for layers, width in ((4, 256), (2, 128)) if "masked" in parts else ():
        bert, wordpiece = small_bert(layers, width)
        some = sentences(400 // min(scale, 4))
        peer = (lambda: real_minicons(minicons, bert, wordpiece, some)) if minicons else (lambda: timed(minicons_like, bert, wordpiece, some))
        found.append(side_by_side(f"minicons{' 0.3.39' if minicons else ', from its description'}, BERT {layers} x {width}", peer, lambda **o: perplexity(bert, some, wordpiece, **o, **quick), repeats, lambda r: r.log_likelihoods, narrow,
                                  lambda **o: perplexity(bert, some[:2], wordpiece, **o, **quick)))
    return found


@torch.no_grad()
def by_definition(model, tokenizer, texts):
    "Log-likelihoods of texts from the definition: each by itself after the start token, in one pass, weights and sums in float64."
    model, values = copy.deepcopy(model).double(), []
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        values.append(model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).sum().item())
    return values


def stories(shared=SHARED.parent, count=100):
    "The rows of stories260K, from the folder of shared models and data: the first paragraphs of TinyStories each by itself, and joined to one text that is longer than the model's 512 positions."
    import pandas as pd
    from lm_eval.api.metrics import weighted_perplexity
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from lmnotes.perplexity import perplexity
    folder = shared / "models" / "stories260K"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder, pad_token="</s>")
    texts = [t.strip() for t in pd.read_parquet(shared / "data" / "tinystories" / "test.parquet")["text"] if t.strip()][:count]
    long = ["\n".join(texts)]
    each, whole = (perplexity(folder, some, device="cpu", progress=False) for some in (texts, long))
    peers = [harness(model, tokenizer, some, 8, 512) for some in (texts, long)]
    exact, values = by_definition(model, tokenizer, texts), metric(model, tokenizer, texts)
    word = weighted_perplexity([(v, len(re.split(r"\s+", t))) for v, t in zip(peers[0], texts)])
    byte = weighted_perplexity([(v, len(t.encode())) for v, t in zip(peers[0], texts)])
    name, some = f"lm-evaluation-harness {importlib.metadata.version('lm_eval')}", f"{len(texts)} paragraphs"
    return [row_of(f"{name}, log-likelihood of {some}", sum(peers[0]), each.log_likelihood, peers[0], each.log_likelihoods),
            row_of("its word perplexity", word, each.per("words")), row_of("its byte perplexity", byte, each.per("bytes")),
            row_of(f"{name}, log-likelihood of the {some} as one text of {sum(whole.tokens):,} tokens", sum(peers[1]), whole.log_likelihood),
            row_of(f"Hugging Face's metric, its computation done again, mean of the {some}", np.mean(values), each.mean_of_documents, values, each.document_perplexities),
            row_of(f"the definition in float64, one pass a text, perplexity per token of {some}", np.exp(-sum(exact) / sum(each.tokens)), each.perplexity, exact, each.log_likelihoods)]


def row_of(compared, theirs, ours, their_values=None, our_values=None):
    "A row: what was compared, both numbers, and the largest relative difference over the texts (of the two numbers where there are no others)."
    a, b = np.atleast_1d(theirs if their_values is None else their_values), np.atleast_1d(ours if our_values is None else our_values)
    return {"compared with": compared, "theirs": f"{theirs:,.5f}", "ours": f"{ours:,.5f}", "largest relative difference": f"{np.abs(b / a - 1).max():.1e}"}


def write_stories():
    "Measure stories260K and write its results."
    facts, found = machine(), stories()
    facts["machine"] = facts["machine"].split("; ")[0]                    # no times are measured
    table = ["| " + " | ".join(found[0]) + " |", "|" + "---|" * len(found[0])] + ["| " + " | ".join(row.values()) + " |" for row in found]
    text = (f"# stories260K on TinyStories\n\n`python benchmarks/evaluation.py --stories`, {facts['date']}, {facts['machine']}, {', '.join(f'{k} {v}' for k, v in facts['versions'].items())}\n\n"
            + "\n".join(table) + "\n\nLog-likelihoods are in nats; windows of the model's 512 positions. The difference is the largest over the texts where each was compared, else that of the two numbers.\n")
    (RESULTS / "stories.json").write_text(json.dumps({**facts, "rows": found}, indent=1) + "\n")
    (RESULTS / "stories.md").write_text(text)
    print(text)


STREAM = """
import json, sys, threading, time
import torch
from lmnotes.perplexity import perplexity
folder, file, documents = sys.argv[1:4]
resident = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
perplexity(folder, ["a text to begin with"], device="cpu", progress=False)
before, most, ended = resident(), [0.0], threading.Event()

def watch():
    while not ended.wait(0.05):
        most[0] = max(most[0], resident())
threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter()
result = perplexity(folder, file, documents=documents, device="cpu", progress=False)
seconds = time.perf_counter() - start
ended.set()
print("RESULT " + json.dumps({"documents": len(result.tokens), "tokens": sum(result.tokens), "seconds": seconds, "before": before, "most": most[0], "perplexity": result.perplexity}))
"""


def generated(path, megabytes, between="\n\n", seed=0):
    "A file of so many million bytes: lines of some 300 characters, words of a Zipf law over ten thousand made-up ones; an empty line ends a document."
    generator = np.random.default_rng(seed)
    words = np.array(["".join(w) for w in generator.choice(list("etaoinshrdlu"), (10_000, 6))])
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1e6:
            drawn = words[np.minimum(generator.zipf(1.3, 43 * 1000) - 1, 9999)].reshape(1000, 43)
            file.write("".join(" ".join(line) + between for line in drawn))


def write_streams(sizes=(10, 100)):
    "Memory for files of different sizes, and write its results."
    import sys
    from transformers import GPT2Config, GPT2LMHeadModel
    from lmnotes.pretraining import save_folder
    from lmnotes.tokenization import train_tokenizer
    found = []
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        generated(folder / "sample.txt", 1)
        tokenizer = train_tokenizer((folder / "sample.txt").read_text().splitlines(), kind="bpe", vocab_size=1000, progress=False)
        torch.manual_seed(0)
        save_folder(folder / "model", GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=64, n_layer=1, n_head=2, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)), tokenizer)
        for size in sizes:
            for kind, between, documents in (("each by itself", "\n\n", "each"), ("joined", "\n\n", "joined"), ("one for the whole file", "\n", "each")):
                generated(folder / "text.txt", size, between)
                ran = subprocess.run([sys.executable, "-c", STREAM, str(folder / "model"), str(folder / "text.txt"), documents], capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
                facts = json.loads(next(line[7:] for line in ran.stdout.splitlines() if line.startswith("RESULT ")))
                found.append({"file, MB": size, "documents": kind, "number": f"{facts['documents']:,}", "tokens": f"{facts['tokens']:,}", "seconds": f"{facts['seconds']:.1f}",
                              "resident before, MiB": f"{facts['before']:.0f}", "at most, MiB": f"{facts['most']:.0f}", "more, MiB": f"{facts['most'] - facts['before']:.0f}"})
                print(found[-1], flush=True)
    facts = machine()
    table = ["| " + " | ".join(found[0]) + " |", "|" + "---|" * len(found[0])] + ["| " + " | ".join(map(str, row.values())) + " |" for row in found]
    text = (f"# Perplexity of a streamed file: memory\n\n`python benchmarks/evaluation.py --streams`, {facts['date']}, {facts['machine']}, {', '.join(f'{k} {v}' for k, v in facts['versions'].items())}\n\n"
            + "\n".join(table) + "\n\nGenerated text, lines of some 300 characters; GPT-2 of one layer, 64 wide, random weights, a vocabulary of 1,000; each row in a process of its own, after the model was loaded and had scored one text. "
            "What grows with the file are the numbers that are kept of each document; a document is held whole, with its tokens.\n")
    (RESULTS / "streams.json").write_text(json.dumps({**facts, "rows": found}, indent=1) + "\n")
    (RESULTS / "streams.md").write_text(text)
    print(text)


def has_harness():
    "Whether lm_eval is installed."
    try:
        importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        print("lm_eval is not installed: its rows are left out")
        return False
    return True


def machine():
    "What the numbers were measured on."
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    wide = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    family = next((f"family {line.split(':')[1].strip()}, " for line in flags.splitlines() if line.startswith("cpu family")), "")
    versions = {p: importlib.metadata.version(p) for p in ("torch", "transformers", "tokenizers", "lm_eval", "numpy") if p != "lm_eval" or has_harness()}
    return {"date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores, {platform.machine()}, {family}{', '.join(wide)}; {torch.get_num_threads()} thread{'' if torch.get_num_threads() == 1 else 's'}, {'CPU' if CLOCK is time.process_time else 'wall'} seconds; Python {platform.python_version()}", "versions": versions}


def command(args, narrow):
    "The command line that repeats the run."
    words = ["python benchmarks/evaluation.py", "--only", *args.only, f"--scale {10 if args.quick else args.scale}", f"--repeats {1 if args.quick else args.repeats}", f"--bf16 {'yes' if narrow else 'no'}"]
    return " ".join(words + (["--minicons PYTHON"] if args.minicons else []))


def report(result):
    "The results as Markdown."
    keys = list(dict.fromkeys(k for r in result["rows"] for k in r))
    table = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)] + ["| " + " | ".join(f"{r[k]:,}" if isinstance(r.get(k), (int, float)) else str(r.get(k, "")) for k in keys) + " |" for r in result["rows"]]
    return (f"# Evaluation\n\nThe command of the newest rows: `{result['command']}`, {result['date']}, {result['machine']}, {', '.join(f'{k} {v}' for k, v in result['versions'].items())}. "
            "Earlier rows have their own date, processor and scale. The scale divides the texts: at 3, a third of the documents is measured, and the first third of the one long document "
            "(400,000 characters at 1; of minicons' texts never less than a quarter).\n\n"
            + "\n".join(table) + "\n\nSeconds are the best of the runs, which alternate between the two sides. The values are the same (largest relative difference over the documents). "
            "Beside minicons both sides score two texts before their clock starts. Hugging Face's metric cannot be loaded offline: its computation was done again from its description, in `metric`. GPT-2: 4 layers, 256 wide; random weights, "
            f"vocabularies of 50,257 and 30,522.\n\n{result['note']}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the texts, one run each; nothing is written")
    parser.add_argument("--only", nargs="*", default=PARTS, help="parts to measure")
    parser.add_argument("--scale", type=int, default=1, help="take one in so many of the texts, and so much less of the long one")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--minicons", help="an interpreter with minicons and transformers < 5")
    parser.add_argument("--bf16", choices=["auto", "yes", "no"], default="auto", help="measure bfloat16 (auto: where the processor computes in it)")
    parser.add_argument("--stories", action="store_true", help="only compare values, with stories260K")
    parser.add_argument("--streams", action="store_true", help="only measure memory, with files of 10 and 100 MB")
    args = parser.parse_args()
    if args.stories:
        return write_stories()
    if args.streams:
        return write_streams()
    facts = machine()
    able = "avx512_bf16" in facts["machine"] or "amx_bf16" in facts["machine"]
    narrow = args.bf16 == "yes" or args.bf16 == "auto" and able
    scale = 10 if args.quick else args.scale
    result = {**facts, "command": command(args, narrow), "rows": [{**row, "scale": scale, "date": facts["date"], "processor": facts["machine"].partition(", ")[2].partition(", avx")[0]} for row in run(args.only, scale, 1 if args.quick else args.repeats, args.minicons, narrow)],
              "note": "" if narrow else "bfloat16 was not measured: this processor has no instructions for it (avx512_bf16, amx_bf16), and emulates it."}
    text = report(result)
    print(text)
    if not args.quick:
        RESULTS.mkdir(exist_ok=True)
        before = json.loads((RESULTS / "evaluation.json").read_text()) if (RESULTS / "evaluation.json").exists() else {"rows": []}
        if set(args.only) != set(PARTS):                                            # keep the rows of the other parts
            result["rows"] = [r for r in before["rows"] if r["part"] not in {n["part"] for n in result["rows"]}] + result["rows"]
            text = report(result)
        (RESULTS / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "evaluation.md").write_text(text)


if __name__ == "__main__":
    main()
