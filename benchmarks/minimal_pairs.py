"""Minimal pairs and the last word: accuracy of a real model, and speed beside minicons.

    python benchmarks/minimal_pairs.py --minicons /path/to/venv/bin/python [--shared ../shared] [--pairs 40]

minicons 0.3.39 needs transformers 4, so it runs in an environment of its own, in a process that loads the same folders and
scores the same sentences; both sides take turns, and only scoring is timed (best of three). Values must agree.
"""
import argparse
import copy
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

WORKER = '''
import json, sys, time, torch
from minicons import scorer
torch.set_num_threads(int(sys.argv[1]))
loaded = {}
for line in sys.stdin:
    job = json.loads(line)
    if job["folder"] not in loaded:
        kind = scorer.MaskedLMScorer if job["masked"] else scorer.IncrementalLMScorer
        loaded[job["folder"]] = kind(job["folder"], "cpu")
    model, options = loaded[job["folder"]], {} if job["masked"] else {"bos_token": True}
    start, values = time.perf_counter(), []
    for i in range(0, len(job["texts"]), job["batch"]):
        values += model.sequence_score(job["texts"][i:i + job["batch"]], reduction=lambda x: x.sum(0).item(), **options)
    print("RESULT " + json.dumps({"seconds": time.perf_counter() - start, "values": values}), flush=True)
'''


def models(folder, shared):
    "Folders of small random models with published vocabularies (GPT-2's, BERT's), which both sides open."
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    torch.manual_seed(0)
    words = (shared / "data" / "vocabularies" / "bert-base-uncased-vocab.txt").read_text(encoding="utf-8").splitlines()
    piece = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    piece.normalizer, piece.pre_tokenizer, piece.decoder = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    piece.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))])
    BertForMaskedLM(BertConfig(vocab_size=len(words), hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)).save_pretrained(folder / "bert")
    PreTrainedTokenizerFast(tokenizer_object=piece, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]").save_pretrained(folder / "bert")
    bpe = json.loads((shared / "data" / "vocabularies" / "gpt2-vocab.json").read_text(encoding="utf-8"))
    merges = [tuple(line.split(" ")) for line in (shared / "data" / "vocabularies" / "gpt2-merges.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    merges = [m for m in merges if len(m) == 2 and m[0] in bpe and m[1] in bpe and m[0] + m[1] in bpe]
    byte = Tokenizer(models.BPE(bpe, merges))
    byte.pre_tokenizer, byte.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    GPT2LMHeadModel(GPT2Config(vocab_size=max(bpe.values()) + 8, n_embd=256, n_layer=4, n_head=4, n_positions=512)).save_pretrained(folder / "gpt")
    PreTrainedTokenizerFast(tokenizer_object=byte, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>").save_pretrained(folder / "gpt")


def as_version_4(folder):
    "Name the tokenizer's class as transformers 4 knows it; both versions open that."
    file = folder / "tokenizer_config.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**{k: v for k, v in facts.items() if k != "backend"}, "tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")


def side_by_side(folder, masked, pairs, batches, python, threads):
    "Seconds of both sides, in turns, and the largest difference of a margin."
    import torch
    from lmnotes.benchmarks import load_pairs, minimal_pairs
    from lmnotes.checkpoints import load
    from lmnotes.pretraining import use_bf16
    data = load_pairs(pairs)
    texts = [s for p in data for s in (p["good"], p["bad"])]
    model, tokenizer = load(folder, device="cpu")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""}
    worker = subprocess.Popen([python, "-c", WORKER, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True, env=environment)

    def theirs(batch, some):
        worker.stdin.write(json.dumps({"folder": str(folder), "masked": masked, "batch": batch, "texts": some}) + "\n")
        worker.stdin.flush()
        for line in worker.stdout:
            if line.startswith("RESULT "):
                return json.loads(line[7:])
        raise RuntimeError(f"minicons ended with code {worker.wait()}")

    def ours(some, model=model):
        start = time.perf_counter()
        margins = minimal_pairs(model, some, tokenizer, device="cpu", progress=False).margins
        return {"seconds": time.perf_counter() - start, "values": margins}
    half = copy.deepcopy(model).bfloat16() if use_bf16("auto", torch.device("cpu")) else None
    theirs(batches[0], texts[:2]), ours(data.select(range(2)))                        # warm
    found = {b: [] for b in batches}
    mine, narrow = [], []
    for _ in range(3):
        for b in batches:
            found[b].append(theirs(b, texts))
        mine.append(ours(data))
        if half is not None:
            narrow.append(ours(data, half))
    worker.stdin.close()
    best = {b: min(r["seconds"] for r in runs) for b, runs in found.items()}
    fast = min(best, key=best.get)
    values = found[fast][0]["values"]
    gap = max(abs((g - b) - m) for g, b, m in zip(values[::2], values[1::2], mine[0]["values"]))
    seconds = min(r["seconds"] for r in mine)
    row = {"model": Path(folder).name, "pairs": len(data), "minicons seconds": round(best[fast], 3), "its best batch": fast, "seconds": round(seconds, 3), "times faster": round(best[fast] / seconds, 1), "largest difference of a margin": float(f"{gap:.2g}")}
    if narrow:
        seconds = min(r["seconds"] for r in narrow)
        other = sum((a > 0) != (b > 0) for a, b in zip(mine[0]["values"], narrow[0]["values"]))
        row |= {"bf16 seconds": round(seconds, 3), "times faster in bf16": round(best[fast] / seconds, 1), "pairs that bf16 decides otherwise": other}
    return row


def table(rows):
    "Rows of equal keys as a Markdown table."
    return "\n".join(["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])] + ["| " + " | ".join(f"{v:,}" if isinstance(v, (int, float)) else str(v) for v in r.values()) + " |" for r in rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minicons", help="Python of an environment with minicons 0.3.39; without it only accuracies")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of each of five paradigms for the speed")
    parser.add_argument("--limit", type=int, default=200, help="pairs of each paradigm, and passages, for the accuracy")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch
    import transformers
    from lmnotes.benchmarks import _at_most, cloze, load_pairs, minimal_pairs
    torch.set_num_threads(args.threads)
    stories, blimp = args.shared / "models" / "stories260K", args.shared / "data" / "blimp5"
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    family = next((f"family {line.split(':')[1].strip()}, " for line in cpu.splitlines() if line.startswith("cpu family")), "")
    result = {"date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores, {platform.machine()}, {family}{args.threads} threads", "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    pairs = minimal_pairs(stories, blimp, max_pairs=args.limit, device="cpu", progress=False)
    words = cloze(stories, args.shared / "data" / "lambada", max_texts=args.limit, device="cpu", progress=False)
    result["blimp5"] = [{"paradigm": n, "accuracy": round(v, 3), "95 %": "[{:.3f}, {:.3f}]".format(*pairs.interval(n))} for n, v in {**pairs.by_paradigm}.items()]
    result["blimp5"].append({"paradigm": f"mean of {len(pairs.by_paradigm)}", "accuracy": round(pairs.accuracy, 3), "95 %": "[{:.3f}, {:.3f}]".format(*pairs.interval())})
    result["lambada"] = [{"passages": len(words.words), "accuracy": round(words.accuracy, 4), "95 %": "[{:.3f}, {:.3f}]".format(*words.interval()), "perplexity of the last word": round(words.perplexity, 1)}]
    text = f"# Minimal pairs and cloze\n\n{result['date']}, {result['machine']}, Python {result['python']}, torch {result['torch']}, transformers {result['transformers']}; `python benchmarks/minimal_pairs.py`\n\n"
    text += f"## stories260K on five paradigms of BLiMP, {args.limit} pairs of each, {pairs.ties} ties\n\n{table(result['blimp5'])}\n\n## stories260K on LAMBADA, the first {args.limit} passages, original case\n\n{table(result['lambada'])}\n\n"
    if args.minicons:
        some = _at_most(load_pairs(blimp), args.pairs)
        with tempfile.TemporaryDirectory() as tmp:
            models(Path(tmp), args.shared)
            for name in ("gpt", "bert"):
                as_version_4(Path(tmp) / name)
            result["speed"] = [side_by_side(folder, masked, some if not masked else _at_most(some, max(1, args.pairs // 4)), batches, args.minicons, args.threads)
                               for folder, masked, batches in ((Path(tmp) / "gpt", False, (1, 16, 64)), (Path(tmp) / "bert", True, (1, 16)))]
        text += f"## Beside minicons 0.3.39 (fp32, same folders and sentences, in turns, best of three; its fastest batch size)\n\n{table(result['speed'])}\n\nRandom models of 4 layers, 256 wide, with GPT-2's and BERT's published vocabularies: speed does not depend on what the weights are.\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "minimal_pairs.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "minimal_pairs.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
