"""One run on 1, 2 and 4 processes: the same losses, each block read once, one process that writes (gloo, on this machine)."""
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer, AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, GPT2Config

from lmnotes.corpora import load_corpus
from lmnotes.pretraining import pretrain
from lmnotes.tokenization import train_tokenizer

HERE = Path(__file__).resolve().parent
WORDS = "the cat dog bird fish sat ran flew swam on under over a mat log tree sea and then it slept".split()
TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 25)) + f" number {i}" for i in range(400)]
OPTIONS = ["--steps", "50", "--batch-size", "8", "--block-size", "16", "--precision", "fp32", "--device", "cpu", "--validation-blocks", "8", "--optimizer", "adamw"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    "A folder with text, a tokenizer, and two small models without dropout."
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "text.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    tokenizer = train_tokenizer(TEXTS, vocab_size=120, progress=False)
    tokenizer.save_pretrained(folder / "tokenizer")
    bert = BertConfig(vocab_size=120, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=32,
                      hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    gpt = GPT2Config(vocab_size=120, n_embd=32, n_layer=1, n_head=2, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    for name, kind, config in (("masked", AutoModelForMaskedLM, bert), ("causal", AutoModelForCausalLM, gpt)):
        kind.from_config(config).save_pretrained(folder / name)
    return folder


def free_port():
    "A port of the loopback interface that nobody uses."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launched(work, name, launcher, model="masked", options=(), timeout=240):
    "Run the command under a launcher; give its facts and the folder."
    folder = work / name
    folder.mkdir()
    words = [*launcher, str(HERE / "logged.py"), str(folder), "pretrain", str(work / "text.txt"), str(work / "tokenizer"), "--model", str(work / model),
             "--output-dir", str(folder / "run"), *OPTIONS, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "LMNOTES_CACHE": str(work / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "run" / "lmnotes.json").read_text(encoding="utf-8")), folder


def torchrun(n):
    "The words that start n processes on this machine."
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), "--master-addr", "127.0.0.1", "--master-port", str(free_port())]


def accelerate(n):
    "The same with accelerate; its launcher of several processes is called that of several GPUs, and needs none."
    return [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(n), "--num_machines", "1", "--mixed_precision", "no",
            "--dynamo_backend", "no", "--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]


def losses(facts):
    "Training losses of all fifty steps, and what was measured before and after."
    return [row["loss"] for row in facts["history"]] + [facts["loss_before"], facts["loss_after"]]


def taken(folder, seed=0):
    "For each process, the positions that it read for training."
    rows = {}
    for path in sorted(folder.glob("read-*")):
        rows[path.name] = [row[1] for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if row[0] == seed]
    return rows


@pytest.fixture(scope="module")
def one(work):
    "The run on one process."
    return launched(work, "one", torchrun(1))


@pytest.mark.parametrize("n", [2, 4])
def test_processes_share_a_run(work, one, n):
    facts, folder = launched(work, f"torchrun{n}", torchrun(n))
    assert facts["history"][-1]["step"] == facts["steps"] == 50 and facts["tokens"] == one[0]["tokens"] == 50 * 8 * 16
    assert losses(facts) == pytest.approx(losses(one[0]), abs=1e-4)
    assert losses(facts)[0] - losses(facts)[-1] > 0.1, "it learns"
    rows = taken(folder)
    assert len(rows) == n
    counts = Counter(position for positions in rows.values() for position in positions)
    assert set(range(400)) <= set(counts) and max(counts.values()) == 1, "each block of the fifty steps is read once, by one process"
    assert sorted(set(counts)) == sorted(set(p for p in taken(one[1])["read-0"])) or max(counts) < 400 + 8 * n, "none but those that are read ahead"
    for step in range(50):
        assert all(len([p for p in positions if p // 8 == step]) == 8 // n for positions in rows.values()), "equal shares of every step"
    assert [p.name for p in sorted(folder.glob("wrote-*")) if p.stat().st_size] == ["wrote-0"], "only one process writes"


def test_accelerate_runs_the_same_command_on_a_causal_model(work):
    facts, folder = launched(work, "accelerate2", accelerate(2), "causal")
    options = {k.removeprefix("--").replace("-", "_"): v if not v.isdigit() else int(v) for k, v in zip(OPTIONS[::2], OPTIONS[1::2])}
    corpus = load_corpus(str(work / "text.txt"), cache_dir=work / "cache")
    pretrain(corpus, AutoTokenizer.from_pretrained(work / "tokenizer"), str(work / "causal"), work / "alone", **options)
    alone = json.loads((work / "alone" / "lmnotes.json").read_text(encoding="utf-8"))
    assert losses(facts) == pytest.approx(losses(alone), abs=1e-4) and len(taken(folder)) == 2


def test_accelerate_with_fsdp_deals_the_model_out(work, one):
    "What `accelerate launch --use_fsdp` asks for is sharded=True, with the losses of one process; what it would do beside that and is not done here is refused."
    launcher = ["--use_fsdp" if word == "--multi_gpu" else word for word in accelerate(2)]
    facts, folder = launched(work, "fsdp2", launcher)
    assert facts["options"]["sharded"] and losses(facts) == pytest.approx(losses(one[0]), abs=1e-4)
    assert [p.name for p in sorted(folder.glob("wrote-*")) if p.stat().st_size] == ["wrote-0"]


def test_a_batch_that_cannot_be_dealt_out_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    tokenizer = train_tokenizer(TEXTS, vocab_size=90, progress=False)
    with pytest.raises(ValueError, match="batch_size 6.*4"):
        pretrain({"train": [{"text": t} for t in TEXTS]}, tokenizer, "bert-tiny", tmp_path / "x", steps=2, batch_size=6, block_size=16, device="cpu")
    assert not (tmp_path / "x").exists()
