"""Pretraining: packing against the library, objectives against their definitions, budgets, schedules, many processes, bad input."""
import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining, FNetConfig, GPT2Config, masking_utils

from lmnotes import pretraining
from lmnotes.pretraining import (Batches, Blocks, Muon, MuonAdamW, PretrainingOptions, choose_tokens, damaged_files, fast_config, language_model_loss, learning_rate_factor, mask_block, pack,
                                 peak_flops, pretrain, validation_loss, word_starts, write_blocks, zero_projections)
from lmnotes.tokenization import train_tokenizer
from lmnotes.transformer import model_config

WORDS = "the cat dog bird fish sat ran flew swam on under over a mat log tree sea and then it slept running jumper unbelievable".split()
TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 25)) + f" number {i}" for i in range(200)]
TINY = dict(block_size=16, batch_size=4, precision="fp32", device="cpu", validation_blocks=4, evaluations=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMNOTES_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def corpus():
    return DatasetDict(train=Dataset.from_dict({"text": TEXTS[:180]}), validation=Dataset.from_dict({"text": TEXTS[180:]}))


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(corpus, vocab_size=90, progress=False)


@pytest.fixture(scope="module")
def byte_tokenizer(corpus):
    return train_tokenizer(corpus, kind="bpe", vocab_size=300, progress=False)


def weights(result):
    return load_file(Path(result.output_dir) / "model.safetensors")


# --- data ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_the_file_holds_what_pack_gives(tokenizer, byte_tokenizer, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(pretraining, "PORTION", 3000)
    monkeypatch.setattr(pretraining, "_ROWS", 8)
    its = tokenizer if kind == "wordpiece" else byte_tokenizer
    blocks, file = pack(TEXTS, its, 16), write_blocks(iter(TEXTS), its, 16, tmp_path / "b.arrow")
    assert len(file) == len(blocks) and all((a == b).all() for a, b in zip((file[i] for i in range(len(file))), blocks))
    ends = [] if kind == "wordpiece" else [its.eos_token_id]
    whole = [i for t in TEXTS for i in its(t)["input_ids"] + ([] if its(t)["input_ids"][-1:] == ends else ends)]
    assert blocks.ravel().tolist() == whole[: blocks.size]
    facts = file.facts
    assert facts["tokens"] == len(whole) and facts["dropped_tokens"] == len(whole) - blocks.size and facts["documents"] == len(TEXTS) and facts["bytes"] == sum(map(len, TEXTS))
    assert Dataset.from_file(str(tmp_path / "b.arrow"))["input_ids"][:] == blocks.tolist()
    part = file[5:11]
    assert len(part) == 6 and (part[2] == blocks[7]).all() and len(file[:-3]) == len(blocks) - 3
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["b.arrow", "b.json"]


def test_a_second_run_does_not_tokenize_again(corpus, tokenizer, tmp_path, monkeypatch):
    first = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "a", steps=1, **TINY)
    monkeypatch.setattr(pretraining, "write_blocks", lambda *a, **k: pytest.fail("tokenized again"))
    second = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "b", steps=1, **TINY)
    assert first.loss_after == second.loss_after and second.data["documents"] == 180
    monkeypatch.undo()
    monkeypatch.setenv("LMNOTES_CACHE", str(tmp_path / "cache"))
    before = set((tmp_path / "cache" / "packed").iterdir())
    pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "c", steps=1, **TINY | {"block_size": 8})
    assert len(set((tmp_path / "cache" / "packed").iterdir()) - before) == 4                     # another block size: two files of two splits


@pytest.mark.parametrize("budget", [{"steps": 3}, {"minutes": 0.01}])
def test_a_stream_is_read_no_further_than_the_budget(tokenizer, tmp_path, monkeypatch, budget):
    monkeypatch.setattr(pretraining, "_STREAMED", 6000)                      # tokens for a minute
    seen = []

    def endless():
        i = 0
        while True:
            seen.append(i)
            yield {"text": TEXTS[i % 180] * 5}
            i += 1
    corpus = IterableDatasetDict(train=IterableDataset.from_generator(endless))
    pretraining_portion, pretraining.PORTION = pretraining.PORTION, 20_000
    try:
        result = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "s", **budget, **TINY)
    finally:
        pretraining.PORTION = pretraining_portion
    assert result.steps == budget.get("steps", result.steps) > 0 and len(seen) < 2000


def test_an_interrupted_packing_leaves_nothing(tokenizer, tmp_path):
    def broken():
        yield from TEXTS
        raise RuntimeError("the disk is gone")
    with pytest.raises(RuntimeError):
        write_blocks(broken(), tokenizer, 16, tmp_path / "b.arrow")
    assert not list(tmp_path.iterdir())


_MEMORY = """
import resource, sys
from lmnotes.pretraining import write_blocks
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
def texts(n):
    for i in range(n):
        yield f"the cat {i} sat on the mat and then it slept under the tree " * 20
write_blocks(texts(int(sys.argv[2])), tokenizer, 64, sys.argv[3] + ".arrow")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "t")
    sizes = [int(subprocess.run([sys.executable, "-c", _MEMORY, str(tmp_path / "t"), str(n), str(tmp_path / str(n))], capture_output=True, text=True, check=True).stdout) for n in (2000, 12000)]
    assert sizes[1] - sizes[0] < 60                       # MiB; 2.4 MB and 14 MB of text


@pytest.mark.parametrize("preset, kind", [("bert-tiny", AutoModelForMaskedLM), ("modernbert-mini", AutoModelForMaskedLM), ("gpt-tiny", AutoModelForCausalLM), ("llama-mini", AutoModelForCausalLM), ("fast", AutoModelForCausalLM)])
def test_another_neighbour_moves_no_logit(preset, kind):
    config = fast_config(60, 2, 64, 2, 64) if preset == "fast" else model_config(preset, 60, 64)
    torch.manual_seed(0)
    model, documents = kind.from_config(config).eval(), torch.tensor([[0] * 5 + [1] * 7 + [2] * 4])
    one = torch.randint(1, 60, (1, 16))
    other = one.clone()
    other[:, :5], other[:, 12:] = torch.randint(1, 60, (1, 5)), torch.randint(1, 60, (1, 4))
    with torch.no_grad():
        a, b = (model(ids, **pretraining.inside_documents(model, documents, kind is AutoModelForCausalLM)).logits[:, 5:12] for ids in (one, other))
        assert torch.equal(a, b) and torch.allclose(a, model(one[:, 5:12]).logits, atol=1e-5)
        assert not torch.equal(model(one).logits[:, 5:12], model(other).logits[:, 5:12])


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_documents_are_found_in_their_blocks(tokenizer, byte_tokenizer, kind):
    its = tokenizer if kind == "wordpiece" else byte_tokenizer
    data = Batches(pack(TEXTS, its, 64), its, kind == "bpe", 0.15, 0, 10, documents=True)
    row = data[0]
    ids = row["input_ids"] if kind == "bpe" else np.where(row["labels"] == -100, row["input_ids"], row["labels"])
    breaks = [i for i in range(1, 64) if row["documents"][i] != row["documents"][i - 1]]
    assert breaks and all(ids[i] == its.cls_token_id if kind == "wordpiece" else ids[i - 1] == its.eos_token_id for i in breaks)
    if kind == "bpe":
        assert [i for i in range(64) if row["labels"][i] == -100] == breaks


# --- masks -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("masking", ["tokens", "words", "spans"])
@pytest.mark.parametrize("rate", [0.1, 0.15, 0.4])
def test_masking_keeps_its_rate_and_its_words(masking, rate, tokenizer):
    starts, special = word_starts(tokenizer), np.zeros(len(tokenizer), bool)
    special[tokenizer.all_special_ids] = True
    assert not starts.all() and starts.any()
    blocks, shares = pack(TEXTS * 3, tokenizer, 64), []
    for i, ids in enumerate(blocks):
        chosen = choose_tokens(ids, special, starts, rate, np.random.default_rng(i), masking)
        assert not chosen[special[ids]].any()
        shares.append(chosen.sum() / (~special[ids]).sum())
        if masking != "tokens":
            inside = [t for t in range(1, 64) if not starts[ids[t]] and not special[ids[t]] and not special[ids[t - 1]]]
            assert all(chosen[t] == chosen[t - 1] for t in inside)
    assert abs(np.mean(shares) - rate) < 0.02 + 0.05 * rate
    a, b = (mask_block(blocks[0], special, 4, len(tokenizer), rate, np.random.default_rng(7), starts, masking) for _ in range(2))
    assert all((x == y).all() for x, y in zip(a, b))


def test_spans_are_longer_than_words(tokenizer):
    starts, special = np.ones(1000, bool), np.zeros(1000, bool)
    runs = []
    for i in range(300):
        chosen = choose_tokens(np.arange(512), special, starts, 0.15, np.random.default_rng(i), "spans")
        edges = np.flatnonzero(np.diff(np.concatenate(([0], chosen.astype(int), [0]))))
        runs += list(edges[1::2] - edges[::2])
    lengths = np.arange(1, 11)
    p = 0.8 ** (lengths - 1)
    mean = (lengths * p).sum() / p.sum()
    assert round(mean, 1) == 3.8 and abs(np.mean(runs) - mean) < 0.5            # as in the paper; some spans touch, the last is cut off less often


def test_the_rate_falls_over_the_run(tokenizer):
    data = Batches(pack(TEXTS, tokenizer, 64), tokenizer, False, 0.5, 0, 400, rate_end=0.1)
    early, late = (np.mean([(data[i]["labels"] != -100).mean() for i in part]) for part in (range(60), range(340, 400)))
    assert early > 0.4 and late < 0.2


def test_pairs_are_neighbours_or_strangers(tokenizer, tmp_path):
    blocks = write_blocks(TEXTS, tokenizer, 23, tmp_path / "p.arrow", pairs=True)
    data = Batches(blocks, tokenizer, False, 0.15, 3, 100, pairs=True)
    known = {tuple(blocks[i]) for i in range(len(blocks))}
    for i in range(60):
        row = data[i]
        ids = np.where(row["labels"] == -100, row["input_ids"], row["labels"])
        a, b = ids[1:11], ids[12:22]
        assert ids[0] == tokenizer.cls_token_id and ids[11] == ids[22] == tokenizer.sep_token_id and row["token_type_ids"].tolist() == [0] * 12 + [1] * 11
        if not row["next_sentence_label"]:
            assert (*a, *b) in known
    assert blocks.facts["tokens"] > blocks.facts["dropped_tokens"] > 0


# --- loss and optimizer ----------------------------------------------------------------------------
@pytest.mark.parametrize("preset", ["bert-tiny", "modernbert-mini"])
@pytest.mark.parametrize("vocab_size", [97, 30522])
def test_masked_only_loss_is_the_dense_loss(preset, vocab_size):
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(model_config(preset, vocab_size, 64))
    ids = torch.randint(0, vocab_size, (4, 32))
    labels = torch.where(torch.rand(4, 32) < 0.15, ids, -100)
    ours, dense = language_model_loss(model, ids, labels), model(input_ids=ids, labels=labels).loss
    assert abs(ours.item() - dense.item()) < 1e-5
    assert abs(language_model_loss(model, ids, labels, items=2 * (labels != -100).sum()).item() - dense.item() / 2) < 1e-5
    empty = language_model_loss(model, ids, torch.full_like(ids, -100))
    assert empty.item() == 0


@pytest.mark.parametrize("family", ["causal", "masked"])
@pytest.mark.parametrize("bf16", [False, True])
def test_many_logits_in_parts_have_the_same_gradients(family, bf16, monkeypatch):
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(model_config("bert-tiny", 97, 64)) if family == "masked" else AutoModelForCausalLM.from_config(fast_config(97, layers=2, hidden=32, heads=2, block_size=64))
    ids = torch.randint(0, 97, (4, 32))
    labels = torch.where(torch.rand(4, 32) < 0.5, ids, -100)

    def gradients(logits, items=None):
        monkeypatch.setattr(pretraining, "_LOGITS", logits)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = 3 * language_model_loss(model, ids, labels, causal=family == "causal", items=items)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for items in (None, torch.tensor(7)):
        (ours, some), (theirs, others) = gradients(800, items), gradients(10**9, items)
        assert ours == pytest.approx(theirs, rel=1e-5) and (some - others).norm() <= (1e-2 if bf16 else 1e-6) * others.norm()
    with torch.no_grad():
        assert language_model_loss(model, ids, labels, causal=family == "causal").item() == pytest.approx(theirs / 3 * 7 / float((labels[:, 1:] if family == "causal" else labels).ne(-100).sum()), rel=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_loss_of_many_logits_has_the_same_gradient(dtype, monkeypatch):
    monkeypatch.setattr(pretraining, "_LOGITS", 100)
    monkeypatch.setattr(pretraining, "_compile", lambda function: torch.compile(function, backend="aot_eager"))
    torch.manual_seed(1)
    logits, targets, model = torch.randn(40, 31).to(dtype).requires_grad_(), torch.randint(0, 31, (40,)), torch.nn.Sequential(torch.nn.Linear(2, 2))
    model[0].compile(backend="eager")
    targets[::3] = -100
    expected = torch.nn.functional.cross_entropy(logits.float(), targets)
    theirs, = torch.autograd.grad(2 * expected, logits)
    for items in (int((targets != -100).sum()), (targets != -100).sum()):
        loss = pretraining._cross_entropy(logits, targets, items, model)
        ours, = torch.autograd.grad(2 * loss, logits)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6) and (ours - theirs).norm() <= (1e-2 if dtype == torch.bfloat16 else 1e-6) * theirs.norm()


@pytest.mark.skipif(not pretraining.triton, reason="no Triton here")
def test_the_kernel_of_the_loss_in_its_interpreter():
    code = """if True:
        import torch, torch.nn.functional as F
        from lmnotes.pretraining import _FusedCrossEntropy
        for dtype, close in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
            torch.manual_seed(0)
            logits, targets = (3 * torch.randn(12, 5000)).to(dtype).requires_grad_(), torch.randint(5000, (12,))
            targets[1::3] = -100
            expected, loss = F.cross_entropy(logits.float(), targets), _FusedCrossEntropy.apply(logits, targets, 1 / (targets != -100).sum().float())
            (theirs,), (ours,) = torch.autograd.grad(2.5 * expected, logits), torch.autograd.grad(2.5 * loss, logits)
            assert abs(loss - expected) < 1e-4 and (ours - theirs).float().norm() <= close * theirs.float().norm() and not ours[1].any()
        """
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})


def test_positions_are_not_searched_while_training(corpus, byte_tokenizer, tmp_path, monkeypatch):
    from transformers import masking_utils
    calls, found = [], masking_utils.find_packed_sequence_indices
    counted = lambda positions: calls.append(1) or found(positions)
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", counted)
    result = pretrain(corpus, byte_tokenizer, "gpt-tiny", tmp_path / "run", steps=2, **TINY)
    assert not calls and masking_utils.find_packed_sequence_indices is counted
    AutoModelForCausalLM.from_pretrained(result.output_dir)(input_ids=torch.arange(8)[None], use_cache=False)
    assert calls                                                            # the library still asks by that name


def test_a_gpu_that_was_asked_for_is_used_alone(monkeypatch):
    from transformers import TrainingArguments
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for asked, index in (("cuda:2", 2), ("cuda", 1)):
        arguments = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none", per_device_train_batch_size=8)
        arguments._n_gpu = 4
        arguments = pretraining._one_device(arguments, torch.device(asked))
        assert arguments.device == torch.device("cuda", index) and chosen.pop() == index and arguments.n_gpu == 1 and arguments.train_batch_size == 8


SMALL = dict(vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "camembert", "electra", "modernbert", "distilbert"])
@pytest.mark.parametrize("state", ["plain", "checkpointed", "compiled"])
def test_the_last_block_works_at_the_masked_places_only(kind, state):
    torch.manual_seed(1)
    sizes = {"distilbert": dict(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40, dropout=0.0, attention_dropout=0.0),
             "modernbert": {k: v for k, v in SMALL.items() if "dropout" not in k} | dict(pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2)}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **sizes.get(kind, SMALL))).train()
    if state == "checkpointed":
        model.gradient_checkpointing_enable()
    if state == "compiled":
        model.base_model.encoder.layer[-1].compile(backend="eager") if kind not in sizes else pytest.skip("this kind has no such part")
    ids = torch.randint(5, 99, (4, 16))
    labels = torch.where(torch.rand(4, 16) < 0.2, ids, -100)
    part, seen = None if kind in sizes else model.base_model.encoder.layer[-1].attention.output, []
    if part is not None:
        part.register_forward_hook(lambda _, given, output: seen.append(output.shape[:2]))

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]
    (ours, some), (dense, others) = gradients(language_model_loss(model, ids, labels)), gradients(model(input_ids=ids, labels=labels).loss)
    assert abs(ours - dense) < 1e-5 and len(some) == len(others) and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(some, others))
    if part is not None:
        assert seen[0] == ((1, (labels != -100).sum()) if state == "plain" else (4, 16)) and seen[-1] == (4, 16)     # nothing is left behind


def test_short_blocks_in_bf16_take_plain_attention(corpus, tokenizer, tmp_path, monkeypatch):
    seen = []
    loss = pretraining.language_model_loss
    monkeypatch.setattr(pretraining, "language_model_loss", lambda model, *a, **k: seen.append(model.config._attn_implementation) or loss(model, *a, **k))
    for precision, block, inside, expected in (("bf16", 16, False, "eager"), ("fp32", 16, False, "sdpa"), ("bf16", 16, True, "sdpa"), ("bf16", 264, False, "sdpa")):
        seen.clear()
        model = AutoModelForMaskedLM.from_config(model_config("bert-tiny", len(tokenizer), 264))
        result = pretrain(corpus, tokenizer, model, tmp_path / "m", steps=2, block_size=block, batch_size=2, precision=precision, document_attention=inside, validation_blocks=2,
                          evaluations=0, device="cpu", overwrite=True)
        assert set(seen) == {expected} and model.config._attn_implementation == "sdpa" and math.isfinite(result.loss_after)


def test_next_sentence_loss_is_the_librarys(tokenizer):
    torch.manual_seed(1)
    model = AutoModelForPreTraining.from_config(model_config("bert-tiny", 90, 64))
    ids, types, label = torch.randint(0, 90, (4, 20)), torch.randint(0, 2, (4, 20)), torch.tensor([0, 1, 1, 0])
    labels = torch.where(torch.rand(4, 20) < 0.2, ids, -100)
    ours = language_model_loss(model, ids, labels, token_type_ids=types, next_sentence_label=label)
    assert abs(ours.item() - model(input_ids=ids, labels=labels, token_type_ids=types, next_sentence_label=label).loss.item()) < 1e-5


EXPERTS = dict(vocab_size=90, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, max_position_embeddings=32, pad_token_id=None,
               num_experts_per_tok=2, output_router_logits=True)


@pytest.mark.parametrize("kind, more", [("mixtral", dict(num_local_experts=4, router_aux_loss_coef=0.2)), ("qwen3_moe", dict(num_experts=4, moe_intermediate_size=16, router_aux_loss_coef=0.2)),
                                        ("jetmoe", dict(num_local_experts=4, kv_channels=8, aux_loss_coef=0.2))])
def test_the_balance_of_experts_is_the_librarys(kind, more):
    torch.manual_seed(1)
    model, ids = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**EXPERTS, **more})), torch.randint(0, 90, (4, 20))
    theirs = model(input_ids=ids, labels=ids)
    ours = language_model_loss(model, ids, ids, causal=True)
    (a, b) = (torch.autograd.grad(loss, [p for name, p in model.named_parameters() if ".gate" in name or "router" in name]) for loss in (ours, theirs.loss))
    assert theirs.aux_loss.item() > 1 and abs(ours.item() - theirs.loss.item()) < 1e-5 and a and all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a, b))
    alone = language_model_loss(model, ids, ids, causal=True, share=0).item()
    assert ours.item() - alone == pytest.approx(0.2 * theirs.aux_loss.item(), abs=1e-5)
    model.config.output_router_logits = False
    assert language_model_loss(model, ids, ids, causal=True).item() == pytest.approx(alone, abs=1e-6)


def test_a_step_in_parts_has_the_mean_of_their_balance_and_validation_none(corpus, byte_tokenizer, tmp_path, monkeypatch):
    "The loss that is noted for the first step, whose weights are known, against the library's parts; a coefficient of 3 would otherwise look like a run that diverged."
    config = AutoConfig.for_model("mixtral", **{**EXPERTS, "vocab_size": len(byte_tokenizer)}, num_local_experts=4, router_aux_loss_coef=3.0)
    torch.manual_seed(0)
    model, parts, loss = AutoModelForCausalLM.from_config(config), [], pretraining.language_model_loss
    first = copy.deepcopy(model)
    monkeypatch.setattr(pretraining, "language_model_loss", lambda model, *a, **k: parts.append(k) or loss(model, *a, **k))
    result = pretrain(corpus, byte_tokenizer, model, tmp_path / "m", steps=1, accumulation=2, log_steps=1, **TINY)
    monkeypatch.undo()
    parts = [k for k in parts if k.get("share") == 0.5]
    assert len(parts) == 2
    outputs = [first(input_ids=k["input_ids"], labels=k["labels"]) for k in parts]
    alone, balance = (sum(f(o) for o in outputs).item() / 2 for f in (lambda o: o.loss - 3 * o.aux_loss, lambda o: o.aux_loss))
    assert result.history[0]["loss"] == pytest.approx(alone + 3 * balance, abs=1e-4)
    assert abs(result.loss_before - math.log(len(byte_tokenizer))) < 0.3 and abs(result.loss_after - result.loss_before) < 0.5


def test_balance_of_experts_and_attention_inside_documents_exclude_each_other(corpus, byte_tokenizer, tmp_path):
    config = AutoConfig.for_model("mixtral", **{**EXPERTS, "vocab_size": len(byte_tokenizer)}, num_local_experts=4)
    with pytest.raises(ValueError, match="document_attention cannot be kept .* or output_router_logits=False"):
        pretrain(corpus, byte_tokenizer, config, tmp_path / "m", steps=1, document_attention=True, **TINY)
    config.output_router_logits = False
    pretrain(corpus, byte_tokenizer, config, tmp_path / "m", steps=1, document_attention=True, **TINY)


def test_muon_is_pytorchs(monkeypatch):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with torch 2.9")
    monkeypatch.setattr(pretraining, "use_bf16", lambda *a: True)                      # PyTorch's iteration is always in bf16
    ours, theirs = ([torch.nn.Parameter(torch.randn(s, generator=torch.manual_seed(1))) for s in ((32, 16), (32, 16), (16, 48))] for _ in range(2))
    a, b = Muon(ours, 0.02, 0.1), torch.optim.Muon(theirs, 0.02, 0.1, adjust_lr_fn="match_rms_adamw")
    start = [p.detach().clone() for p in ours]
    for step in range(4):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn(p.shape, generator=torch.manual_seed(step))
            q.grad = p.grad.clone()
        a.step(), b.step()
    for p, q, s in zip(ours, theirs, start):
        assert (p - q).norm() < 0.02 * (p - s).norm()


def test_every_parameter_has_one_optimizer():
    for config, kind in ((model_config("bert-tiny", 90), AutoModelForMaskedLM), (model_config("gpt-tiny", 90), AutoModelForCausalLM), (fast_config(90, 2, 64, 2), AutoModelForCausalLM)):
        model = kind.from_config(config)
        rest, hidden = MuonAdamW(model, 1e-3, 0.1).parts
        ids = [id(p) for part in (rest, hidden) for g in part.param_groups for p in g["params"]]
        assert len(ids) == len(set(ids)) == len(list(model.parameters()))
        assert all(p.ndim == 2 for g in hidden.param_groups for p in g["params"]) and id(model.get_input_embeddings().weight) in {id(p) for g in rest.param_groups for p in g["params"]}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_accumulation_changes_nothing(corpus, tokenizer, tmp_path, optimizer):
    runs = [pretrain(corpus, tokenizer, "bert-tiny", tmp_path / str(a), steps=6, accumulation=a, optimizer=optimizer, log_steps=1, **TINY) for a in (1, 2, 4)]
    for other in runs[1:]:
        assert np.allclose([h["loss"] for h in runs[0].history], [h["loss"] for h in other.history], atol=1e-4)


# --- models ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("preset", ["gpt-tiny", "llama-mini"])
def test_the_fast_recipe_opens_with_the_library(corpus, byte_tokenizer, tmp_path, preset):
    result = pretrain(corpus, byte_tokenizer, preset, tmp_path / "f", steps=8, recipe="fast", **TINY)
    assert type(AutoModelForCausalLM.from_pretrained(result.output_dir)).__name__ == "NanoChatForCausalLM" and AutoModel.from_pretrained(result.output_dir)
    assert abs(result.loss_before - math.log(len(byte_tokenizer))) < 0.3 and result.loss_after < result.loss_before


@pytest.mark.parametrize("preset, changes", [("bert-tiny", {}), ("modernbert-mini", {}), ("bert-tiny", {"next_sentence": True})])
def test_a_fast_masked_model_begins_at_the_loss_of_a_unigram_model(corpus, tokenizer, tmp_path, preset, changes):
    options = {**TINY, "block_size": 23, "validation_blocks": 200, "steps": 1, "learning_rate": 1e-9, **changes}
    blocks = pack(corpus["train"]["text"], tokenizer, 20)
    free = blocks[~np.isin(blocks, tokenizer.all_special_ids)]
    share = np.bincount(free, minlength=len(tokenizer)) / len(free)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    plain, fast = (pretrain(corpus, tokenizer, preset, tmp_path / recipe, recipe=recipe, **options) for recipe in ("standard", "fast"))
    assert plain.loss_before > entropy + 0.3 and fast.loss_before == pytest.approx(entropy, abs=0.15)
    again = pretrain(corpus, tokenizer, fast.output_dir, tmp_path / "again", recipe="fast", **options)
    assert again.loss_before == pytest.approx(fast.loss_after, abs=1e-4)            # a model that was trained keeps its bias


def test_a_unigram_bias_counts_and_leaves_alone_what_has_none():
    model = AutoModelForMaskedLM.from_config(model_config("bert-tiny", 8))
    pretraining.unigram_bias(model, np.array([[0, 1, 1, 3], [3, 3, 3, 0]]), left_out=[0])
    assert torch.allclose(model.get_output_embeddings().bias.exp(), torch.tensor([1, 3, 1, 5, 1, 1, 1, 1.]) / 14)
    causal = AutoModelForCausalLM.from_config(model_config("gpt-tiny", 8))
    before = copy.deepcopy(causal.state_dict())
    pretraining.unigram_bias(causal, np.zeros((2, 4), int))
    assert all(torch.equal(v, before[k]) for k, v in causal.state_dict().items())


def test_evaluations_stand_evenly_and_each_once(corpus, tokenizer, tmp_path):
    "22 parts of a run in floating point: 15 / 22 * 22 is below 15, and the fifteenth came twice."
    result = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "p", steps=44, **TINY | {"evaluations": 21})
    measured = [row["step"] for row in result.history if "validation_loss" in row]
    assert measured[:21] == list(range(2, 44, 2)) or measured[:21] == list(range(3, 45, 2))


def test_one_thread_trains_at_a_time(corpus, tokenizer, tmp_path):
    error, plain = [], (F.dropout, F.scaled_dot_product_attention, masking_utils.find_packed_sequence_indices)

    def other():
        with pytest.raises(RuntimeError, match="another thread of this process trains a model: wait for its end, or train in a process of its own") as found:
            pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "other", steps=2, **TINY)
        error.append(found)
    with pretraining._alone():
        thread = threading.Thread(target=other)
        thread.start(), thread.join()
        assert len(error) == 1
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "p", steps=2, **TINY)                      # the thread that has the turn
    pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "other", steps=2, **TINY)
    assert (F.dropout, F.scaled_dot_product_attention, masking_utils.find_packed_sequence_indices) == plain


def test_zero_projections_touch_the_blocks_only():
    model = AutoModelForMaskedLM.from_config(model_config("bert-tiny", 90))
    zero_projections(model)
    zero = {n for n, p in model.named_parameters() if p.ndim == 2 and not p.any()}
    assert zero == {f"bert.encoder.layer.{i}.{n}.weight" for i in (0, 1) for n in ("attention.output.dense", "output.dense")}


def test_next_sentence_opens_both_ways_and_goes_on(corpus, tokenizer, tmp_path):
    result = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "n", steps=4, next_sentence=True, **TINY | {"block_size": 23})
    pre, masked = AutoModelForPreTraining.from_pretrained(result.output_dir), AutoModelForMaskedLM.from_pretrained(result.output_dir)
    assert "ForPreTraining" in type(pre).__name__ and torch.equal(pre.get_input_embeddings().weight, masked.get_input_embeddings().weight)
    more = pretrain(corpus, tokenizer, result.output_dir, tmp_path / "m", steps=2, **TINY)
    assert more.objective == "masked" and more.loss_after


def test_any_configuration_trains(corpus, tokenizer, byte_tokenizer, tmp_path):
    from transformers import Qwen3Config
    qwen = Qwen3Config(vocab_size=304, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=64)
    assert pretrain(corpus, byte_tokenizer, qwen, tmp_path / "q", steps=3, document_attention=True, **TINY).objective == "causal"
    assert pretrain(corpus, tokenizer, "modernbert-mini", tmp_path / "m", steps=2, document_attention=True, masking="spans", **TINY).objective == "masked"


# --- budgets, schedules, stopping ------------------------------------------------------------------
def test_budgets_agree(corpus, tokenizer, tmp_path):
    by_steps = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "a", steps=5, **TINY)
    by_tokens = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "b", tokens=5 * 64 - 10, **TINY)
    assert by_tokens.steps == 5 and by_steps.loss_after == by_tokens.loss_after
    by_epochs = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "c", epochs=0.1, **TINY)
    assert by_epochs.steps == round(0.1 * by_epochs.data["blocks"] / 4)
    by_minutes = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "d", minutes=0.02, mask_rate_end=0.3, **TINY)
    assert 1.2 <= by_minutes.seconds and by_minutes.history[-1]["learning_rate"] < 2e-3


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
def test_schedules(schedule):
    values = [learning_rate_factor(x, 0.1, schedule, 0.25) for x in np.linspace(0, 1, 101)]
    assert values[0] == 0 and values[10] == pytest.approx(1) and values[5] == pytest.approx(0.5) and all(a >= b - 1e-12 for a, b in zip(values[10:], values[11:]))
    assert values[-1] == (1 if schedule == "constant" else 0)
    if schedule == "wsd":
        assert values[75] == 1 and values[80] == pytest.approx(0.8)


def test_patience_ends_a_run_and_keeps_the_best(corpus, tokenizer, tmp_path, monkeypatch):
    losses = iter([4.0, 3.5, 3.0, 3.2, 3.4, 3.6, 3.8, 3.9, 3.0])
    monkeypatch.setattr(pretraining, "validation_loss", lambda *a: next(losses))
    seen = []
    original = pretraining._best_or_last

    def keep(model, loss, output_dir, options, run, measure):
        best = load_file(output_dir / "checkpoints" / run["best"]["checkpoint"] / "model.safetensors")
        result = original(model, loss, output_dir, options, run, measure)
        seen.append(all(torch.equal(best[k], v) for k, v in model.state_dict().items() if k in best))
        return result
    monkeypatch.setattr(pretraining, "_best_or_last", keep)
    result = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "p", steps=40, patience=2, keep=1, **TINY | {"evaluations": 9})
    assert result.steps == 16 and seen == [True]                     # measured at 4, 8 (best), 12, 16


def test_history_is_a_table(corpus, tokenizer, tmp_path):
    result = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "h", steps=6, log_steps=1, **TINY)
    table = result.to_table()
    assert table.num_rows == 6 and {"step", "tokens", "loss", "learning_rate", "gradient_norm", "share_of_peak", "tokens_per_second", "validation_loss"} <= set(table.column_names)
    assert table["step"].to_pylist() == [1, 2, 3, 4, 5, 6] and all(n > 0 for n in table["gradient_norm"].to_pylist())
    assert peak_flops("cpu") > 1e8


def test_an_exploding_run_names_its_last_good_checkpoint(corpus, tokenizer, tmp_path):
    with pytest.raises(FloatingPointError, match=r"at step \d+ with learning rate .*step-0000000\d") as caught:
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=60, learning_rate=3, warmup=0.9, optimizer="adamw", clip=1e9, checkpoint_steps=1, log_steps=1, **TINY)
    from lmnotes.pretraining import last_checkpoint
    saved = load_file(last_checkpoint(tmp_path / "x") / "model.safetensors")
    assert all(torch.isfinite(v).all() for v in saved.values())
    bad, named = (int(re.search(form, str(caught.value))[1]) for form in (r"at step (\d+)", r"step-(\d+)"))
    assert named == bad - 2 and last_checkpoint(tmp_path / "x").name == f"step-{bad - 1:08d}"        # the weights of the step just before gave this loss


@pytest.mark.parametrize("factor", [math.nan, 1e9])
@pytest.mark.parametrize("step, every, keep, named", [(4, 1, 2, 2), (5, 2, 2, 2), (4, 2, 2, 2), (4, 1, 1, None), (3, 2, 2, None), (2, 1, 2, None), (1, 1, 2, None)])
def test_a_checkpoint_whose_weights_gave_the_bad_loss_is_not_named(corpus, tokenizer, tmp_path, monkeypatch, step, every, keep, named, factor):
    "The loss of a step is that of the weights of the step before."
    compute = pretraining._Trainer.compute_loss

    def bad(self, *arguments, **options):
        loss = compute(self, *arguments, **options)
        self.losses[-1] = self.losses[-1] * (factor if self.state.global_step == step - 1 else 1)
        return loss
    monkeypatch.setattr(pretraining._Trainer, "compute_loss", bad)
    with pytest.raises(FloatingPointError) as caught:
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=12, checkpoint_steps=every, keep=keep, log_steps=100, **TINY | {"evaluations": 0})
    assert pretraining.last_checkpoint(tmp_path / "x") is None or pretraining.last_checkpoint(tmp_path / "x").name == f"step-{(step - 1) // every * every:08d}"
    assert str(caught.value).endswith(f"the last good checkpoint is {tmp_path / 'x' / 'checkpoints' / f'step-{named:08d}'}" if named else "lower the learning rate and start anew: no good checkpoint was saved before")


def test_a_checkpoint_whose_validation_loss_is_no_number_is_not_named(corpus, tokenizer, tmp_path, monkeypatch):
    measured, calls, step_end = pretraining.validation_loss, [], pretraining._Watch.on_step_end

    def stopped(self, args, state, control, **kwargs):
        if state.global_step == 4 and not self.trainer.options.resume:
            self.interrupted.set()
        return step_end(self, args, state, control, **kwargs)
    monkeypatch.setattr(pretraining._Watch, "on_step_end", stopped)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 4"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=4, checkpoint_steps=3, **TINY | {"evaluations": 0})
    monkeypatch.setattr(pretraining, "validation_loss", lambda *a, **k: calls.append(1) or math.nan)
    with pytest.raises(FloatingPointError, match="the validation loss is nan at step 4 .*the last good checkpoint is .*step-00000003$"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=4, checkpoint_steps=3, resume=True, **TINY | {"evaluations": 0})


@pytest.mark.parametrize("step", [3, 6])
def test_a_broken_gradient_ends_the_run_before_anything_broken_is_saved(corpus, tokenizer, tmp_path, monkeypatch, step):
    clip = pretraining._Trainer._clip_grad_norm

    def broken(self, model):
        if self.state.global_step == step - 1:
            self.model.get_input_embeddings().weight.grad[5, 0] = math.inf
        return clip(self, model)
    monkeypatch.setattr(pretraining._Trainer, "_clip_grad_norm", broken)
    with pytest.raises(FloatingPointError, match=rf"norm of the gradient is (inf|nan) at step {step} .*step-0000000{step - 1}"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=6, checkpoint_steps=1, keep=1, log_steps=100, **TINY | {"evaluations": 0})
    saved = load_file(pretraining.last_checkpoint(tmp_path / "x") / "model.safetensors")
    assert all(torch.isfinite(v).all() for v in saved.values()) and not (tmp_path / "x" / "model.safetensors").exists()


@pytest.mark.parametrize("at, best", [(1, True), (1, False), (2, False)])               # in the middle, at the end
def test_a_validation_loss_that_is_no_number_ends_the_run(corpus, tokenizer, tmp_path, monkeypatch, at, best):
    measured, calls = pretraining.validation_loss, []
    monkeypatch.setattr(pretraining, "validation_loss", lambda *a, **k: calls.append(1) or (math.nan if len(calls) == at + 1 else measured(*a, **k)))
    with pytest.raises(FloatingPointError, match="the validation loss is nan at step"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=4, best=best, **TINY)
    assert not (tmp_path / "x" / "model.safetensors").exists()


def test_a_step_is_saved_once(corpus, tokenizer, tmp_path, monkeypatch):
    save, steps = pretraining._save_checkpoint, []
    monkeypatch.setattr(pretraining, "_save_checkpoint", lambda trainer, *rest: steps.append(trainer.state.global_step) or save(trainer, *rest))
    pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=6, checkpoint_steps=1, best=True, **TINY | {"evaluations": 5})
    assert steps == sorted(set(steps)) and set(range(1, 6)) <= set(steps)


def test_a_card_stands_in_the_folder_and_says_what_the_run_started_from(corpus, tokenizer, tmp_path):
    first = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "first", steps=1, **TINY)
    pretrain(corpus, tokenizer, first.output_dir, tmp_path / "second", steps=1, **TINY)
    one, two = ((tmp_path / name / "README.md").read_text() for name in ("first", "second"))
    assert "| steps | 1 |" in one and "started from" not in one and f"| started from | {first.output_dir} |" in two and damaged_files(tmp_path / "second") == []


def test_ctrl_c_while_the_last_loss_is_measured_still_saves(corpus, tokenizer, tmp_path, monkeypatch, caplog):
    measured, calls, before = pretraining.validation_loss, [], signal.getsignal(signal.SIGINT)

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:                                                     # before, and at the end
            os.kill(os.getpid(), signal.SIGINT)
        return measured(*arguments, **options)
    monkeypatch.setattr(pretraining, "validation_loss", interrupted)
    result = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=2, **TINY | {"evaluations": 0})
    assert result.steps == 2 and "the run is at its end and gets saved" in caplog.text and damaged_files(tmp_path / "x") == [] and signal.getsignal(signal.SIGINT) is before


def test_a_scheduler_that_ends_the_process_gets_what_ctrl_c_gets(corpus, tokenizer, tmp_path, monkeypatch):
    step_end, before = pretraining._Watch.on_step_end, signal.getsignal(signal.SIGTERM)

    def ended(self, args, state, control, **kwargs):
        if state.global_step == 2 and not self.trainer.options.resume:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_end(self, args, state, control, **kwargs)
    monkeypatch.setattr(pretraining._Watch, "on_step_end", ended)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 2, saved in"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=4, **TINY)
    assert signal.getsignal(signal.SIGTERM) is before
    assert pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=4, resume=True, **TINY).steps == 4


def test_a_configuration_in_hand_stays_as_it_is(corpus, tokenizer, tmp_path):
    config = model_config("bert-tiny", len(tokenizer))
    config.pad_token_id = 7
    pretrain(corpus, tokenizer, config, tmp_path / "x", steps=1, **TINY)
    assert config.pad_token_id == 7


def test_the_positions_that_roberta_leaves_unused_do_not_count(corpus, tokenizer, tmp_path):
    from transformers import RobertaConfig
    config = RobertaConfig(vocab_size=96, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, max_position_embeddings=18, pad_token_id=tokenizer.pad_token_id)
    usable = 18 - tokenizer.pad_token_id - 1
    with pytest.raises(ValueError, match=f"block_size {usable + 1} is over the {usable} positions"):
        pretrain(corpus, tokenizer, config, tmp_path / "x", steps=1, **TINY | {"block_size": usable + 1})
    assert pretrain(corpus, tokenizer, config, tmp_path / "x", steps=1, **TINY | {"block_size": usable}).steps == 1


def test_a_second_segment_from_elsewhere_is_never_the_next_one(tokenizer):
    blocks = np.arange(4 * 10).reshape(4, 10) % 80 + 5
    data = Batches(blocks, tokenizer, False, 0.15, 0, 400, pairs=True)
    for position in range(200):
        row = data[position]
        known = np.where(row["labels"] >= 0, row["labels"], row["input_ids"])
        assert (known[7:12] == known[1] + np.arange(5, 10)).all() != bool(row["next_sentence_label"])


def test_the_live_curve_is_drawn_anew_and_taken_away(monkeypatch):
    pytest.importorskip("IPython")
    import IPython.display
    shown = []

    class Handle:
        def update(self, picture, raw=False):
            shown.append((picture, raw))
    monkeypatch.setattr(IPython.display, "display", lambda picture, display_id: shown.append((picture, display_id)) or Handle())
    curve, history = pretraining._Curve(seconds=0), [{"tokens": i, "loss": 5.0 - i, **({"validation_loss": 4.5} if i == 1 else {})} for i in range(4)]
    curve.active = True
    curve.update(history[:2])
    assert not shown                                                          # too little to draw
    curve.update(history[:3]), curve.update(history), curve.close()
    assert [flag for _, flag in shown] == [True, False, True] and all(p.data.startswith(b"\x89PNG") for p, _ in shown[:2]) and shown[2][0] == {}


def test_a_line_of_text_says_how_far_the_run_is(corpus, tokenizer, tmp_path, capsys):
    pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=3, log_steps=1, **TINY)
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").split("\n") if line.startswith("pretraining: 100%")]
    assert lines and all(words in lines[-1] for words in ("loss ", " tokens/s", "gradient ")), lines


def test_tensorboard_gets_the_rows(corpus, tokenizer, tmp_path):
    pytest.importorskip("tensorboard")
    pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "t", steps=4, report_to="tensorboard", **TINY)
    assert list((tmp_path / "t-logs").rglob("events.out.tfevents.*"))


def test_a_compiler_that_fails_is_said_in_a_line(corpus, tokenizer, tmp_path, monkeypatch):
    "As where there is no compiler, or where Ctrl-C stopped it, too."
    def failing(graph, inputs):
        raise ValueError("C++ compile error\n\nCommand:\ng++ main.cpp\n\nOutput:\nmain.cpp: In function kernel\nmain.cpp:7:3: error: no such type\nmain.cpp:9:3: error: another")

    torch._dynamo.reset()                                                       # else what another test compiled may be used
    monkeypatch.setattr(pretraining, "_compile_layers", lambda model: [block.compile(backend=failing) for block in pretraining._blocks(model)])
    with pytest.raises(RuntimeError, match=r"could not be compiled here \(main.cpp:7:3: error: no such type\): leave out compile=True; checkpoints that were saved are kept$"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "m", steps=2, compile=True, **TINY)
    torch._dynamo.reset()
    assert pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "m", steps=2, **TINY).steps == 2


def test_compiled_layers_learn_the_same(corpus, tokenizer, tmp_path):
    import shutil
    if not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler here")
    plain, compiled = (pretrain(corpus, tokenizer, "bert-tiny", tmp_path / str(c), steps=3, compile=c, **TINY) for c in (False, True))
    assert abs(plain.loss_after - compiled.loss_after) < 1e-3


# --- many processes --------------------------------------------------------------------------------
_RUN = """
import sys
from datasets import Dataset, DatasetDict
from transformers import AutoModelForPreTraining, AutoTokenizer
from lmnotes import pretraining
from lmnotes.pretraining import pretrain
import json, os
texts = open(sys.argv[1]).read().split("\\n")
corpus = DatasetDict(train=Dataset.from_dict({"text": texts[:180]}), validation=Dataset.from_dict({"text": texts[180:]}))
seen, original = [], pretraining.Batches.__getitem__
def note(self, position):
    if self.length > 150:
        seen.append(position)
    return original(self, position)
pretraining.Batches.__getitem__ = note
options = json.loads(sys.argv[5])
die, step = options.pop("die", None), pretraining._Watch.on_step_end
def end(self, args, state, control, **kwargs):
    if state.global_step == die:
        os._exit(9)
    return step(self, args, state, control, **kwargs)
pretraining._Watch.on_step_end = end
model = AutoModelForPreTraining.from_pretrained(sys.argv[4]) if options.pop("in_hand", False) else sys.argv[4]
result = pretrain(corpus, AutoTokenizer.from_pretrained(sys.argv[2]), model, sys.argv[3], block_size=16, batch_size=4, precision="fp32", device="cpu", validation_blocks=4,
                  log_steps=1, **options)
with open(f"{sys.argv[3]}-seen-{os.environ.get('RANK', '0')}", "w") as file:          # standard output is shared, and lines of two processes may meet
    json.dump(seen, file)
"""


def launch(tmp_path, tokenizer, processes, name, preset="bert-tiny", **options):
    "Run in one process or under torchrun; give the history and the positions that each process read."
    (tmp_path / "texts").write_text("\n".join(TEXTS), encoding="utf-8")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "run.py").write_text(_RUN)
    start = [sys.executable] if processes == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [*start, str(tmp_path / "run.py"), str(tmp_path / "texts"), str(tmp_path / "tokenizer"), str(tmp_path / name), preset, json.dumps(options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(pretraining.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = {int(path.name.rsplit("-", 1)[1]): json.loads(path.read_text()) for path in tmp_path.glob(f"{name}-seen-*")}
    return json.loads((tmp_path / name / "lmnotes.json").read_text())["history"], seen


@pytest.mark.slow
def test_one_two_and_four_processes_make_the_same_losses(tokenizer, tmp_path):
    runs = {n: launch(tmp_path, tokenizer, n, f"n{n}", steps=50, masking="words") for n in (1, 2, 4)}
    one = [h["loss"] for h in runs[1][0]]
    assert len(one) == 50
    for n in (2, 4):
        history, seen = runs[n]
        assert np.abs(np.array([h["loss"] for h in history]) - one).max() < 1e-4
        assert sorted(seen) == list(range(n))
        read = [set(positions[: 50 * 4 // n]) for positions in seen.values()]
        assert set.union(*read) == set(range(200)) and sum(map(len, read)) == 200        # every example once, none twice
    assert all(damaged_files(tmp_path / f"n{n}") == [] for n in runs)


@pytest.mark.slow
@pytest.mark.parametrize("preset, optimizer", [("bert-tiny", "muon"), ("gpt-tiny", "adamw")])
def test_sharded_processes_make_the_same_losses_and_resume_with_the_same_bits(tokenizer, tmp_path, preset, optimizer):
    options = dict(optimizer=optimizer, best=True, evaluations=2)
    plain, _ = launch(tmp_path, tokenizer, 2, "plain", preset, steps=12, **options)
    sharded, _ = launch(tmp_path, tokenizer, 2, "sharded", preset, steps=12, sharded=True, checkpoint_steps=5, **options)
    assert np.abs(np.array([h["loss"] for h in sharded]) - [h["loss"] for h in plain]).max() < 1e-4
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in ("plain", "sharded")}
    assert weights["plain"].keys() == weights["sharded"].keys()
    assert all(torch.allclose(v, weights["sharded"][k], atol=1e-4) for k, v in weights["plain"].items())
    assert json.loads((tmp_path / "sharded" / "config.json").read_text())["architectures"] == json.loads((tmp_path / "plain" / "config.json").read_text())["architectures"]
    killed = dict(steps=12, checkpoint_steps=5, **options)
    with pytest.raises(AssertionError):
        launch(tmp_path, tokenizer, 2, "again", preset, sharded=True, die=8, **killed)
    shutil.copytree(tmp_path / "again", tmp_path / "mixed")
    launch(tmp_path, tokenizer, 2, "again", preset, sharded=True, resume=True, **killed)
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(v, again[k]) for k, v in weights["sharded"].items())
    if optimizer == "muon":                                # gone on with unsharded
        launch(tmp_path, tokenizer, 1, "mixed", preset, resume=True, **killed)
        mixed = load_file(tmp_path / "mixed" / "model.safetensors")
        assert all(torch.allclose(v, mixed[k], atol=1e-4) for k, v in weights["sharded"].items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fnet", "bert in hand", "bert in hand, sharded"])
def test_processes_train_a_model_with_parameters_that_its_loss_does_not_use(tokenizer, tmp_path, kind):
    "Poolers and heads of other objectives stay as they are, as on one process."
    config = FNetConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=0.0) if kind == "fnet" else model_config("bert-tiny", len(tokenizer), 16)
    torch.manual_seed(0)
    (AutoModelForMaskedLM if kind == "fnet" else AutoModelForPreTraining).from_config(config).save_pretrained(tmp_path / "model")
    options = dict(preset=str(tmp_path / "model"), in_hand=kind != "fnet", steps=6, accumulation=2, optimizer="adamw")
    (one, _), (two, _) = launch(tmp_path, tokenizer, 1, "one", **options), launch(tmp_path, tokenizer, 2, "two", **options, sharded="sharded" in kind)
    assert np.abs(np.array([h["loss"] for h in two]) - [h["loss"] for h in one]).max() < 1e-4
    before, alone, shared = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "one", "two"))
    left = [k for k in before if torch.equal(before[k], alone[k])]
    assert any("pooler" in k for k in left) and all(torch.equal(before[k], shared[k]) for k in left)
    assert all(torch.allclose(v, shared[k], atol=1e-4) for k, v in alone.items())


@pytest.mark.slow
def test_two_processes_stop_together_by_the_clock(tokenizer, tmp_path):
    history, seen = launch(tmp_path, tokenizer, 2, "clock", minutes=0.03, next_sentence=True, mask_rate_end=0.3)
    assert history and len(seen) == 2 and abs(len(seen[0]) - len(seen[1])) <= 2


# --- bad input -------------------------------------------------------------------------------------
@pytest.mark.parametrize("changes, needle", [
    (dict(steps=0), "steps 0"), (dict(tokens=0), "tokens 0"), (dict(minutes=-1), "minutes -1"), (dict(epochs=0), "epochs 0"), (dict(steps=1, tokens=5), "one budget"),
    (dict(mask_rate=0), "mask_rate"), (dict(mask_rate=1.0), "mask_rate"), (dict(mask_rate_end=1.5), "mask_rate_end"), (dict(block_size=600), "600"), (dict(schedule="step"), "schedule"),
    (dict(masking="letters"), "masking"), (dict(recipe="slow"), "recipe"), (dict(batch_size=6, accumulation=4), "multiple of 4"), (dict(warmup=1.0), "warmup"), (dict(patience=0), "patience"),
    (dict(next_sentence=True, document_attention=True), "exclude"), (dict(next_sentence=True, block_size=4), "5 tokens"), (dict(evaluations=-1), "evaluations"), (dict(learning_rate=0.0), "learning_rate"),
])
def test_bad_choices(corpus, tokenizer, tmp_path, changes, needle):
    with pytest.raises(ValueError, match=needle):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", **changes)
    assert not (tmp_path / "x").exists()


def test_a_batch_that_cannot_be_dealt_out(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="batch_size 6 cannot be dealt out to 4 processes: choose a multiple of 4"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=1, batch_size=6)


def test_models_and_tokenizers_that_do_not_fit(corpus, tokenizer, byte_tokenizer, tmp_path, monkeypatch):
    for model, its, change, needle in (("bert-tiny", byte_tokenizer, {}, "mask token"), ("gpt-tiny", byte_tokenizer, {"next_sentence": True}, "masked language"),
                                       ("modernbert-mini", tokenizer, {"next_sentence": True}, "needs a BERT")):
        with pytest.raises(ValueError, match=needle):
            pretrain(corpus, its, model, tmp_path / "x", steps=1, **{**TINY, **change})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="torchrun"):                                  # sharded=True, and a single process
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=1, **TINY)
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(ValueError, match="FSDP_OFFLOAD_PARAMS is set by accelerate launch"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=1, **TINY)
    assert os.environ.pop("ACCELERATE_USE_FSDP") == "true"
    with pytest.raises(ValueError, match="torchrun"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=1, sharded=True, **TINY)
    assert not (tmp_path / "x").exists()


def test_a_corpus_shorter_than_a_block(tokenizer, tmp_path):
    one_block = next(t for n in range(1, 9) if 8 <= len(tokenizer(t := " ".join(["the"] * n))["input_ids"]) < 16)
    for texts, needle in ((["a cat"], "too few"), ([one_block], "one block")):
        with pytest.raises(ValueError, match=needle):
            pretrain({"train": Dataset.from_dict({"text": texts})}, tokenizer, "bert-tiny", tmp_path / "x", steps=1, **TINY | {"block_size": 8})
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_an_unwritable_folder(corpus, tokenizer, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="closed"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "closed" / "x", steps=1, **TINY)


def test_an_output_that_is_a_file(corpus, tokenizer, tmp_path):
    (tmp_path / "x").write_text("")
    for place in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(OSError, match="x"):
            pretrain(corpus, tokenizer, "bert-tiny", place, steps=1, **TINY)


def test_a_run_from_other_weights_is_another_run(corpus, tokenizer, tmp_path):
    first, second = (pretrain(corpus, tokenizer, "bert-tiny", tmp_path / str(seed), steps=2, seed=seed, **TINY).output_dir for seed in (0, 1))
    pretrain(corpus, tokenizer, first, tmp_path / "run", steps=2, **TINY)
    there = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert pretrain(corpus, tokenizer, first, tmp_path / "run", steps=2, resume=True, **TINY).steps == 2
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == there                       # a result that is given back leaves nothing behind
    with pytest.raises(ValueError, match="cannot be resumed with another weights .*or here without resume, with overwrite=True"):
        pretrain(corpus, tokenizer, second, tmp_path / "run", steps=2, resume=True, **TINY)


def test_a_row_of_the_history_has_the_rate_of_its_own_step(corpus, tokenizer, tmp_path):
    result = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "f", steps=6, log_steps=1, learning_rate=1e-3, warmup=0.0, schedule="linear", **TINY)
    assert [h["learning_rate"] for h in result.history] == pytest.approx([1e-3 * (1 - k / 6) for k in range(1, 7)])


def test_a_schedule_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="schedule 'step' is not known: linear, cosine, wsd, constant"):
        learning_rate_factor(0.5, schedule="step")


@pytest.mark.parametrize("name, value", [("decay", 0), ("decay", 1.5), ("warmup", 1), ("warmup", -0.1), ("warmup", math.nan)])
def test_shares_of_a_schedule_that_are_none_are_named(name, value):
    for schedule in ("linear", "wsd"):
        with pytest.raises(ValueError, match=f"{name} {value}"):
            learning_rate_factor(0.5, schedule=schedule, **{name: value})
        for progress in (-1, 1.5, math.nan):
            with pytest.raises(ValueError, match=f"progress {progress} must be a share"):
                learning_rate_factor(progress, schedule=schedule)
    assert learning_rate_factor(0, warmup=0) == 1 and learning_rate_factor(0.5, 0, "wsd", 1) == 0.5


@pytest.mark.parametrize("size", [0, -4, 16.0])
def test_blocks_without_tokens_are_refused(tokenizer, tmp_path, size):
    for call in (lambda: pack(TEXTS, tokenizer, size), lambda: write_blocks(TEXTS, tokenizer, size, tmp_path / "b.arrow")):
        with pytest.raises(ValueError, match=f"block_size {size} must be a whole number above 0"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("texts, told", [("the cat", "texts is a single str"), (b"the cat", "texts is a single bytes"), ({"text": TEXTS}, "texts is a single dict"), (pd.DataFrame({"text": TEXTS}), r"single DataFrame.*table\['text'\]"),
                                         ([TEXTS[0], None], "texts holds None"), (Dataset.from_dict({"text": TEXTS}), r"texts holds {'text'.*dict")])
def test_what_is_no_collection_of_texts_is_not_packed(tokenizer, tmp_path, texts, told):
    for call in (lambda: pack(texts, tokenizer, 4), lambda: write_blocks(texts, tokenizer, 4, tmp_path / "b.arrow")):
        with pytest.raises(ValueError, match=told):
            call()
    assert not list(tmp_path.iterdir())


def test_halves_of_characters_are_packed_as_the_replacement(byte_tokenizer):
    assert np.array_equal(pack(["a \ud800 cat"] * 3, byte_tokenizer, 4), pack(["a \ufffd cat"] * 3, byte_tokenizer, 4))


def test_a_width_may_be_numpys(tokenizer, tmp_path):
    for size, pairs in ((4, False), (9, True)):
        one, other = (write_blocks(TEXTS, tokenizer, kind(size), tmp_path / "b.arrow", pairs=pairs) for kind in (int, np.int64))
        assert one.facts == other.facts and np.array_equal(one[0], other[0])


def test_the_rows_of_a_run_have_an_end(tokenizer):
    data = Batches(pack(TEXTS, tokenizer, 64), tokenizer, False, 0.15, 0, 7)
    rows = [row for row, _ in zip(data, range(100))]
    assert len(rows) == 7 and all(np.array_equal(row["input_ids"], data[i]["input_ids"]) for i, row in enumerate(rows)) and data[10**6]


def test_batches_that_cannot_be_made_are_refused(tokenizer, byte_tokenizer):
    with pytest.raises(ValueError, match="blocks is empty"):
        Batches(np.zeros((0, 8), np.int32), tokenizer, False, 0.15, 0, 5)
    with pytest.raises(ValueError, match="tokenizer has no mask token.*causal=True"):
        Batches(pack(TEXTS, byte_tokenizer, 8), byte_tokenizer, False, 0.15, 0, 5)


@pytest.mark.parametrize("masking", ["tokens", "words", "spans"])
def test_rates_that_are_no_shares_are_refused(tokenizer, masking):
    ids, special, starts = np.arange(5, 25), np.zeros(len(tokenizer), bool), np.ones(len(tokenizer), bool)
    for rate in (15, -0.1, math.nan):
        for call in (lambda: choose_tokens(ids, special, starts, rate, np.random.default_rng(0), masking), lambda: mask_block(ids, special, 4, 96, rate, np.random.default_rng(0), starts, masking),
                     lambda: Batches(pack(TEXTS, tokenizer, 64), tokenizer, False, rate, 0, 10, masking=masking), lambda: Batches(pack(TEXTS, tokenizer, 64), tokenizer, False, 0.1, 0, 10, rate, masking)):
            with pytest.raises(ValueError, match=f"{rate} must lie between 0 and 1, for example 0.15"):
                call()
    none, all_of_them = (choose_tokens(ids, special, starts, rate, np.random.default_rng(0), masking) for rate in (0, 1))
    assert not none.any() and (all_of_them.all() or masking == "spans")


def test_what_must_be_finite_is_said_to_be(corpus, tokenizer):
    for name in ("tokens", "minutes", "learning_rate"):
        with pytest.raises(ValueError, match=f"{name} inf must be a finite number above 0"):
            pretraining.PretrainingOptions(**{name: math.inf}).check()
    with pytest.raises(ValueError, match="clip 0.* must be a number above 0"):
        pretraining.PretrainingOptions(clip=0).check()
    assert pretraining.PretrainingOptions(clip=math.inf, checkpoint_minutes=math.inf).check()


def test_blocks_are_those_of_their_slice(tokenizer, tmp_path):
    blocks = pretraining.write_blocks([" ".join(["the cat sat"] * 40)] * 30, tokenizer, 16, tmp_path / "b.arrow")
    part = blocks[2:6]
    assert len(part) == 4 and np.array_equal(part[-1], blocks[5]) and np.array_equal(blocks[-1], blocks[len(blocks) - 1]) and len(list(part)) == 4 and len(blocks[5:3]) == 0
    for i in (4, -5):
        with pytest.raises(IndexError, match=f"no block {i}: they are 0 to 3"):
            part[i]
    with pytest.raises(ValueError, match="has no step"):
        blocks[::2]


def test_masking_that_cannot_be_is_named(tokenizer):
    ids, special = np.arange(8), np.zeros(len(tokenizer), bool)
    with pytest.raises(ValueError, match="masking 'word' is not known"):
        pretraining.choose_tokens(ids, special, None, 0.5, np.random.default_rng(0), "word")
    with pytest.raises(ValueError, match="give starts=word_starts"):
        pretraining.mask_block(ids, special, 3, len(tokenizer), 0.5, np.random.default_rng(0), masking="words")


def test_resuming_another_run_names_the_difference(corpus, tokenizer, tmp_path):
    done = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "r", steps=3, **TINY)
    again = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "r", steps=3, resume=True, **TINY)
    assert (again.steps, again.loss_after, again.history) == (done.steps, done.loss_after, done.history)
    other = train_tokenizer(corpus, vocab_size=80, progress=False)
    shorter = DatasetDict(train=corpus["train"].select(range(100)), validation=corpus["validation"])
    for c, t, m, change, needle in ((corpus, other, "bert-tiny", {}, "another .*tokenizer"), (shorter, tokenizer, "bert-tiny", {}, "another corpus"),
                                    (corpus, tokenizer, "bert-mini", {}, "another model"), (corpus, tokenizer, "bert-tiny", {"masking": "words"}, r"masking \(then tokens, now words\)")):
        with pytest.raises(ValueError, match=needle):
            pretrain(c, t, m, tmp_path / "r", steps=3, resume=True, **{**TINY, **change})


def test_the_command_knows_the_options(tmp_path, monkeypatch, capsys):
    from lmnotes.cli import COMMANDS, execute
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    assert execute(COMMANDS, ["tokenizer", "book.txt", "--vocab-size", "120"]) == 0
    tiny = "--block-size 16 --batch-size 4 --device cpu --validation-blocks 4 --precision fp32".split()
    words = "--tokens 200 --masking words --mask-rate 0.3 --mask-rate-end 0.15 --schedule wsd --document-attention --accumulation 2 --patience 2".split()
    assert execute(COMMANDS, ["pretrain", "book.txt", "runs/tokenizer", "--model", "bert-tiny", *tiny, *words]) == 0
    assert json.loads(Path("runs/pretrained/lmnotes.json").read_text())["options"]["masking"] == "words"
    capsys.readouterr()
    assert execute(COMMANDS, ["pretrain", "book.txt", "runs/tokenizer", "--output-dir", "y", "--masking", "letters", *tiny]) == 2 and "masking" in capsys.readouterr().err


# --- what a stopped run keeps, and what is another run ----------------------------------------------
def stopped_at(step, monkeypatch, *args, **options):
    "A run that gets Ctrl-C at this step; its message."
    look = pretraining._Watch.on_step_end

    def then_stop(watch, args, state, control, **kwargs):
        if state.global_step == step:
            watch.interrupted.set()
        return look(watch, args, state, control, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(pretraining._Watch, "on_step_end", then_stop)
        with pytest.raises(KeyboardInterrupt) as stopped:
            pretrain(*args, **{**TINY, "steps": 20, **options})
    return str(stopped.value)


def test_a_damaged_newer_checkpoint_does_not_push_out_the_one_just_written(corpus, byte_tokenizer, tmp_path, monkeypatch):
    args = corpus, byte_tokenizer, "gpt-tiny", tmp_path / "run"
    stopped_at(12, monkeypatch, *args, keep=1)
    damaged = tmp_path / "run" / "checkpoints" / "step-00000012" / "model.safetensors"
    os.truncate(damaged, damaged.stat().st_size // 2)
    assert "step-00000006" in stopped_at(6, monkeypatch, *args, keep=1, resume=True)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000006"]
    assert pretraining.last_checkpoint(tmp_path / "run").name == "step-00000006"


def test_what_is_removed_of_the_checkpoints(tmp_path):
    for name in ("step-00000002", "step-00000004", "step-00000006", "step-00000008", "step-00000012", "step-copy"):
        (tmp_path / name).mkdir()
    removed = lambda *args: [p.name[-2:] for p in pretraining._outdated(tmp_path, *args)]
    assert removed(8, 1, None) == ["12", "02", "04", "06"] and removed(8, 2, "step-00000002") == ["12", "04"] and removed(8, 1, "step-00000008") == ["12", "02", "04"]


def small(**changes):
    return GPT2Config(**{"vocab_size": 304, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32, **changes})


@pytest.fixture(scope="module")
def stopped(corpus, byte_tokenizer, tmp_path_factory):
    "A small run that was stopped, from a configuration, and the finished model of one."
    place = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMNOTES_CACHE", str(place / "cache"))
        pretrain(corpus, byte_tokenizer, small(), place / "model", steps=2, **TINY)
        stopped_at(4, patch, corpus, byte_tokenizer, small(), place / "run", steps=8)
        stopped_at(4, patch, corpus, byte_tokenizer, place / "model", place / "continued", steps=8)
    return place


@pytest.mark.parametrize("model, name", [(small(n_head=4), "model"), (small(activation_function="relu"), "model"), (small(), "validation")])
def test_another_computation_or_other_validation_data_is_another_run(stopped, corpus, byte_tokenizer, tmp_path, model, name):
    shutil.copytree(stopped / "run", tmp_path / "run")
    other = DatasetDict(train=corpus["train"], validation=Dataset.from_dict({"text": TEXTS[179:199]})) if name == "validation" else corpus
    with pytest.raises(ValueError, match=f"another {name} .then"):
        pretrain(other, byte_tokenizer, model, tmp_path / "run", resume=True, **TINY, steps=8)


def test_other_validation_blocks_are_another_run(stopped, corpus, byte_tokenizer, tmp_path):
    shutil.copytree(stopped / "run", tmp_path / "run")
    with pytest.raises(ValueError, match=r"with another validation_blocks \(then 4, now 2\): give the same"):
        pretrain(corpus, byte_tokenizer, small(), tmp_path / "run", resume=True, **TINY | {"validation_blocks": 2}, steps=8)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000004"
    facts = json.loads((checkpoint / "progress.json").read_text())
    facts["identity"].pop("validation_blocks")                                  # as earlier versions noted it
    (checkpoint / "progress.json").write_text(json.dumps(facts))
    pretraining.write_checksums(checkpoint)
    assert pretrain(corpus, byte_tokenizer, small(), tmp_path / "run", resume=True, **TINY, steps=8).steps == 8


def test_of_a_stream_other_validation_blocks_are_named_first(byte_tokenizer, tmp_path, monkeypatch):
    stream = lambda: IterableDataset.from_generator(lambda: ({"text": t} for t in TEXTS * 20))
    stopped_at(1, monkeypatch, stream(), byte_tokenizer, small(), tmp_path / "run", steps=4)
    with pytest.raises(ValueError, match=r"with another validation_blocks \(then 4, now 1100\), corpus"):
        pretrain(stream(), byte_tokenizer, small(), tmp_path / "run", resume=True, **TINY | {"validation_blocks": 1100}, steps=4)


@pytest.mark.parametrize("at", [8, 16, 40])
def test_a_run_that_is_stopped_where_it_ends_is_not_trained_on(corpus, tokenizer, tmp_path, monkeypatch, at):
    "Patience of 2 ends it at step 16: measured at 4, 8 (best), 12, 16; without patience it ends at step 40."
    losses, now = {4: 3.5, 8: 3.0, 12: 3.2, 16: 3.4, 20: 3.3, 24: 2.9, 28: 2.8, 32: 2.7, 36: 2.6}, []
    choices = dict(steps=40, checkpoint_steps=6, **TINY | {"evaluations": 9}) | ({} if at == 40 else {"patience": 2})
    measure, step = pretraining._Watch._measure, pretraining._Trainer.training_step
    monkeypatch.setattr(pretraining._Watch, "_measure", lambda watch, state: now.append(state.global_step) or measure(watch, state))
    monkeypatch.setattr(pretraining, "validation_loss", lambda *a: losses[now.pop()] if now else 3.6)
    alone = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "alone", **choices)
    args = corpus, tokenizer, "bert-tiny", tmp_path / "run"
    stopped_at(at, monkeypatch, *args, **choices)
    begun = []
    monkeypatch.setattr(pretraining._Trainer, "training_step", lambda *a: begun.append(1) or step(*a))
    resumed = pretrain(*args, resume=True, **choices)
    assert alone.steps == resumed.steps == (40 if at == 40 else 16) and alone.loss_after == resumed.loss_after and len(begun) == alone.steps - at
    assert all(torch.equal(v, weights(resumed)[k]) for k, v in weights(alone).items())
    rows = lambda result: [(h["step"], h["loss"], h.get("validation_loss")) for h in result.history]
    assert rows(alone) == rows(resumed)


def test_a_damaged_result_is_named(corpus, tokenizer, tmp_path):
    done = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "r", steps=2, **TINY)
    path = tmp_path / "r" / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="'.*r' holds a finished model that is not whole: model.safetensors is damaged .*overwrite=True"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "r", steps=2, resume=True, **TINY)
    assert pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "r", steps=2, resume=True, overwrite=True, **TINY).loss_after == done.loss_after
    assert path.read_bytes() == data
    (tmp_path / "r" / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="SHA256SUMS is missing"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "r", steps=2, resume=True, **TINY)


def test_the_card_says_which_weights_were_put_back(corpus, tokenizer, tmp_path, monkeypatch):
    losses = iter([4.0, 3.0, 3.5, 3.5, 3.0] + [4.0, 3.5, 3.0, 2.5])
    monkeypatch.setattr(pretraining, "validation_loss", lambda *a: next(losses))
    choices = dict(steps=6, best=True, **TINY | {"evaluations": 2})
    first, second = (pretrain(corpus, tokenizer, "bert-tiny", tmp_path / name, **choices) for name in "ab")
    cards = [(Path(r.output_dir) / "README.md").read_text() for r in (first, second)]
    assert "| weights put back, the best, of step | 2 |" in cards[0] and "put back" not in cards[1]


@pytest.mark.parametrize("name", ["run", "continued"])
def test_opening_padding_and_attention_do_not_make_another_run(stopped, corpus, byte_tokenizer, tmp_path, name):
    shutil.copytree(stopped / name, tmp_path / name)
    its = copy.deepcopy(byte_tokenizer)
    its(["a", "the cat sat"], padding=True, truncation=True, max_length=4)
    eager = AutoModelForCausalLM.from_pretrained(stopped / name / "checkpoints" / "step-00000004", attn_implementation="eager")
    if name == "run":
        pad, bos, eos = its.pad_token_id, its.bos_token_id, its.eos_token_id
        fresh = AutoModelForCausalLM.from_config(small(pad_token_id=pad, bos_token_id=bos, eos_token_id=eos))
        assert pretraining._settled(fresh.config.to_diff_dict()) == pretraining._settled(eager.config.to_diff_dict())
    assert pretrain(corpus, its, eager, tmp_path / name, resume=True, **TINY, steps=8).steps == 8
    shutil.rmtree(tmp_path / name), shutil.copytree(stopped / name, tmp_path / name)
    assert pretrain(corpus, its, small() if name == "run" else stopped / "model", tmp_path / name, resume=True, **TINY, steps=8).steps == 8


def test_padding_does_not_pack_a_corpus_again(corpus, byte_tokenizer, monkeypatch):
    options, its = PretrainingOptions(block_size=16), copy.deepcopy(byte_tokenizer)
    first = pretraining._packed(corpus, "train", its, options)
    its(["a", "the cat sat"], padding=True, truncation=True, max_length=4)
    monkeypatch.setattr(pretraining, "write_blocks", lambda *a, **k: pytest.fail("tokenized again"))
    assert pretraining._packed(corpus, "train", its, options).path == first.path


@pytest.mark.parametrize("sums", [True, False])
def test_going_on_from_a_damaged_folder_names_it(stopped, corpus, byte_tokenizer, tmp_path, sums):
    copied = Path(shutil.copytree(stopped / "model", tmp_path / "copy"))
    data = bytearray((copied / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "model.safetensors").write_bytes(data if sums else data[:-200])
    if not sums:
        (copied / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="copy.* is not whole: model.safetensors" if sums else "copy.* cannot be opened"):
        pretrain(corpus, byte_tokenizer, copied, tmp_path / "out", steps=1, **TINY)


def test_what_is_no_corpus_is_refused_before_the_work(tmp_path):
    from datasets import Dataset, DatasetDict
    from lmnotes.tokenization import train_tokenizer
    texts = ["the old dog sees the red house"] * 60
    tokenizer = train_tokenizer(texts, vocab_size=60, progress=False)
    run = lambda corpus, tok=tokenizer, **more: pretrain(corpus, tok, "bert-tiny", tmp_path / "m", **{"steps": 1, "block_size": 16, "device": "cpu", **more})
    rows = Dataset.from_dict({"body": texts})
    for call, kind, says in ((lambda: run("book.txt"), TypeError, "book.txt.*name or a text"), (lambda: run(tmp_path / "book.txt"), TypeError, "name or a text"),
                             (lambda: run(rows), ValueError, "no column 'text', but body"), (lambda: run(DatasetDict(test=rows)), ValueError, "no split 'train', but test"),
                             (lambda: run(texts, None), TypeError, "tokenizer is a NoneType"), (lambda: run(texts, "folder"), TypeError, "tokenizer is a str"),
                             (lambda: run(texts, steps=None, tokens=float("inf")), ValueError, "tokens inf"), (lambda: run(texts, seed=-1), ValueError, "seed -1"),
                             (lambda: run(texts, learning_rate=float("inf")), ValueError, "learning_rate inf"), (lambda: run(texts, weight_decay=float("nan")), ValueError, "weight_decay nan"),
                             (lambda: run(texts, report_to="tensorbord"), ValueError, "report_to 'tensorbord' is not known.*tensorboard")):
        with pytest.raises(kind, match=says):
            call()
    assert not (tmp_path / "m").exists()


def test_a_file_that_appears_during_a_run_neither_stops_it_nor_is_lost(tmp_path, monkeypatch):
    from lmnotes import pretraining
    from lmnotes.tokenization import train_tokenizer
    texts = ["the old dog sees the red house"] * 60
    tokenizer = train_tokenizer(texts, vocab_size=60, progress=False)
    train = pretraining._train

    def interrupted(*arguments):
        (tmp_path / "m" / "notes.txt").write_text("mine")
        return train(*arguments)
    monkeypatch.setattr(pretraining, "_train", interrupted)
    pretrain(texts, tokenizer, "bert-tiny", tmp_path / "m", steps=1, block_size=16, batch_size=2, device="cpu")
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine" and (tmp_path / "m" / "model.safetensors").is_file() and not (tmp_path / "m" / "checkpoints").exists()


def test_a_model_in_hand_gets_the_weights_of_a_complete_run_and_cut_blocks_are_packed_again(tmp_path, monkeypatch, caplog):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForMaskedLM
    from lmnotes.tokenization import train_tokenizer
    from lmnotes.transformer import model_config
    monkeypatch.setenv("LMNOTES_CACHE", str(tmp_path / "cache"))
    texts = Dataset.from_dict({"text": [f"the old dog sees the red house number {i}" for i in range(60)]})
    tokenizer = train_tokenizer(texts["text"][:], vocab_size=60, progress=False)

    def made():
        torch.manual_seed(0)
        return AutoModelForMaskedLM.from_config(model_config("bert-tiny", len(tokenizer), 16))
    choices = dict(steps=2, block_size=16, batch_size=2, device="cpu")
    first, second = made(), made()
    pretrain(texts, tokenizer, first, tmp_path / "m", **choices)
    for file in (tmp_path / "cache" / "packed").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:200])
    pretrain(texts, tokenizer, second, tmp_path / "m", resume=True, **choices)
    assert "is complete" in caplog.text and all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


def test_damaged_best_weights_are_named_and_not_taken(tmp_path, caplog):
    from types import SimpleNamespace
    import torch
    from lmnotes import pretraining
    folder = tmp_path / "checkpoints" / "step-1"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 50)
    pretraining.write_checksums(folder)
    (folder / "model.safetensors").write_bytes(b"y" * 50)
    options, run = SimpleNamespace(best=True, patience=None), {"best": {"loss": 1.0, "checkpoint": "step-1"}}
    assert pretraining._best_or_last(torch.nn.Linear(1, 1), 2.0, tmp_path, options, run, lambda: 0.0) == 2.0 and "model.safetensors" in caplog.text and "last ones are kept" in caplog.text


def test_checkpoints_come_by_the_minute_and_every_hook_of_trainer_is_known(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from lmnotes import pretraining
    from lmnotes.tokenization import train_tokenizer
    texts = ["the old dog sees the red house"] * 60
    tokenizer = train_tokenizer(texts, vocab_size=60, progress=False)

    def stop(*arguments):
        raise RuntimeError("stopped before the end")
    monkeypatch.setattr(pretraining, "_finish_run", stop)
    for minutes, expected in ((1e-9, ["step-00000001", "step-00000002"]), (60, [])):
        with pytest.raises(RuntimeError):
            pretrain(texts, tokenizer, "bert-tiny", tmp_path / str(minutes), steps=3, block_size=16, batch_size=2, device="cpu", checkpoint_minutes=minutes)
        assert sorted(p.name for p in (tmp_path / str(minutes) / "checkpoints").iterdir() if p.is_dir())[-2:] == expected
    monkeypatch.setattr(pretraining.integration_utils, "is_trackio_available", lambda: True)
    for name in ("tensorboard", "trackio", "none", "all"):
        pretraining._check_report(name)


# --- what a review found ----------------------------------------------------------------------------
LITTLE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64)


def of_experts(name="Mixtral"):
    import transformers
    more = {"Mixtral": dict(num_local_experts=2), "Qwen3Moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=16), "Olmoe": dict(num_experts=4, num_experts_per_tok=2)}
    return getattr(transformers, f"{name}Config")(vocab_size=320, num_key_value_heads=1, **LITTLE, **more[name])


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "Olmoe"])
def test_a_mixture_of_experts_resumes_with_the_same_bits(corpus, byte_tokenizer, tmp_path, monkeypatch, name):
    choices = {**TINY, "steps": 6, "checkpoint_steps": 2}
    alone = pretrain(corpus, byte_tokenizer, of_experts(name), tmp_path / "alone", **choices)
    stopped_at(5, monkeypatch, corpus, byte_tokenizer, of_experts(name), tmp_path / "run", **choices)
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    folder, told = AutoModelForCausalLM.from_pretrained(newest, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and all(torch.equal(v, folder.state_dict()[k]) for k, v in load_file(newest / "model.safetensors").items())
    resumed = pretrain(corpus, byte_tokenizer, of_experts(name), tmp_path / "run", resume=True, **choices)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (tmp_path / "alone" / "model.safetensors").read_bytes() and resumed.loss_after == alone.loss_after
    model = AutoModelForCausalLM.from_config(of_experts(name))                # in hand, it gets the weights of the run that is complete
    pretraining.shutil.rmtree(tmp_path / "run")
    torch.manual_seed(1)
    pretrain(corpus, byte_tokenizer, model, tmp_path / "run", **choices)
    other = AutoModelForCausalLM.from_config(of_experts(name))
    other.config = copy.deepcopy(model.config)
    pretrain(corpus, byte_tokenizer, other, tmp_path / "run", resume=True, **choices)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))


def test_the_best_weights_of_a_mixture_of_experts_are_put_back_and_other_names_are_refused(corpus, byte_tokenizer, tmp_path, monkeypatch):
    losses = iter([5.0, 1.0, 4.0, 4.0])
    real = pretraining.validation_loss
    seen = []

    def measured(model, *rest):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(losses, None) or real(model, *rest)
    monkeypatch.setattr(pretraining, "validation_loss", measured)
    result = pretrain(corpus, byte_tokenizer, of_experts(), tmp_path / "best", **{**TINY, "steps": 6, "evaluations": 2, "best": True})
    best, model = seen[1], AutoModelForCausalLM.from_pretrained(result.output_dir)
    assert all(torch.equal(v, best[k]) for k, v in model.state_dict().items())
    model.save_pretrained(tmp_path / "old")                                   # by the names of the library's files
    with pytest.raises(ValueError, match="other names there"):
        pretraining._put_weights(model, tmp_path / "old")


def _hold(folder, ready, go):
    with pretraining._locked(folder) as lock:
        lock.note()
        ready.set(), go.wait(60)


def test_a_folder_in_use_is_refused_and_freed_with_the_process(corpus, tokenizer, tmp_path):
    import multiprocessing
    context = multiprocessing.get_context("spawn")
    ready, go, out, lock = context.Event(), context.Event(), tmp_path / "run", tmp_path / ".run.lock"
    other = context.Process(target=_hold, args=(out, ready, go))
    other.start()
    assert ready.wait(60)
    for resume in (False, True):
        with pytest.raises(BlockingIOError, match=f"{out}.*in use.*process {other.pid}"):
            pretrain(corpus, tokenizer, "bert-tiny", out, steps=2, resume=resume, **TINY)
        with pytest.raises(BlockingIOError, match="another folder"), pretraining._prepared_folder(out, PretrainingOptions(resume=resume)):
            pass
    assert not out.exists()
    other.kill(), other.join()
    assert lock.exists()
    pretrain(corpus, tokenizer, "bert-tiny", out, steps=2, **TINY)            # the system freed it
    assert not lock.exists()


def test_a_second_run_in_one_process_follows_any_end_of_the_first(corpus, tokenizer, tmp_path, monkeypatch):
    out, lock = tmp_path / "run", tmp_path / ".run.lock"
    for error in (RuntimeError("broken"), KeyboardInterrupt()):
        with monkeypatch.context() as patch:
            patch.setattr(pretraining, "_finish_run", lambda *rest: (_ for _ in ()).throw(error))
            with pytest.raises(type(error)) as kept:
                pretrain(corpus, tokenizer, "bert-tiny", out, steps=2, overwrite=True, **TINY)
        assert kept.value is error and not lock.exists()
    with pretraining._prepared_folder(out, PretrainingOptions(resume=True)):
        assert lock.read_text() == str(os.getpid())
        with pytest.raises(BlockingIOError, match=f"in use by another run .process {os.getpid()}"):          # of this process, too
            pretrain(corpus, tokenizer, "bert-tiny", out, steps=2, resume=True, **TINY)
        assert lock.exists()
    assert not lock.exists()
    pretrain(corpus, tokenizer, "bert-tiny", out, steps=2, resume=True, **TINY)
    assert not lock.exists()


def test_where_nothing_can_be_locked_the_run_goes_on(corpus, tokenizer, tmp_path, monkeypatch):
    def unsupported(file):
        raise OSError(95, "Operation not supported")
    monkeypatch.setattr(pretraining, "_lock_file", unsupported)
    assert pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "run", steps=2, **TINY).steps == 2


@pytest.mark.parametrize("changes", [dict(resume=True), dict(overwrite=True)])
def test_checkpoints_of_others_are_kept(corpus, tokenizer, tmp_path, monkeypatch, changes):
    theirs = tmp_path / "out" / "checkpoints" / "epoch3.ckpt"
    theirs.parent.mkdir(parents=True), theirs.write_text("precious")
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "write_blocks", lambda *a, **k: pytest.fail("packed first"))
        with pytest.raises(FileExistsError, match="epoch3.ckpt.*another folder"):
            pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "out", steps=2, **changes, **TINY)
    with pytest.raises(FileExistsError, match="epoch3.ckpt"), pretraining._prepared_folder(tmp_path / "out", PretrainingOptions(**changes)):
        pass
    assert theirs.read_text() == "precious"


def test_neighbours_with_similar_names_are_kept(corpus, tokenizer, tmp_path):
    for name in (".model-original", ".model-old-backup", ".model-old-2023"):
        (tmp_path / name / "checkpoints").mkdir(parents=True), (tmp_path / name / "config.json").write_text("precious")
    (tmp_path / "model").mkdir()
    pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "model", steps=2, resume=True, **TINY)
    assert sorted(p.name for p in tmp_path.glob(".model-*") if (p / "config.json").read_text() == "precious") == [".model-old-2023", ".model-old-backup", ".model-original"]


@pytest.mark.parametrize("changes", [dict(steps=np.int64(2)), dict(steps=2, learning_rate=np.float32(1e-3)), dict(steps=2, seed=np.int64(3)), dict(steps=2, best=np.bool_(True))])
def test_numbers_of_numpy_become_plain_ones(corpus, tokenizer, tmp_path, changes):
    pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "run", checkpoint_steps=1, **{**TINY, **changes})
    options = PretrainingOptions(**changes).check()
    assert all(type(getattr(options, name)) in (int, float, bool) for name in changes)


@pytest.mark.parametrize("name, value", [("keep", 1.5), ("steps", 10.5), ("block_size", 16.0), ("batch_size", 4.0), ("accumulation", 1.0), ("validation_blocks", 3.5), ("steps", "10"), ("tokens", "1M"),
                                         ("evaluations", math.nan), ("checkpoint_steps", 2.5), ("resume", "yes"), ("steps", True), ("learning_rate", None), ("warmup", True)])
def test_choices_of_another_kind_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} {value!r} must be (a whole number|a number|True or False)"):
        PretrainingOptions(**{name: value}).check()


@pytest.mark.parametrize("changes", [dict(best=True, evaluations=0), dict(patience=9, evaluations=1), dict(patience=4)])
def test_patience_that_can_never_act_is_refused(changes):
    with pytest.raises(ValueError, match="evaluations=[0-9]+ or more"):
        PretrainingOptions(**changes).check()


def test_a_reporter_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(pretraining.integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(ModuleNotFoundError, match="report_to 'wandb'.*pip install wandb"):
        pretraining._check_report("wandb")


@pytest.mark.parametrize("kind", ["unigram", "wordpiece", "bpe"])
def test_words_are_masked_where_no_spaces_are(kind):
    letters, generator = list("春天的风吹过河边的柳树他每天早上六点起床先喝一杯热茶再去上班语言模型给每一个句子一个概率"), np.random.default_rng(0)
    chinese = ["".join(generator.choice(letters, 120)) for _ in range(60)]
    its = train_tokenizer(chinese, kind=kind, vocab_size=400, min_frequency=1, progress=False)
    special = np.isin(np.arange(len(its)), its.all_special_ids)
    for masking in ("words", "spans"):
        rates = [choose_tokens(row, special, word_starts(its), 0.15, np.random.default_rng(i), masking).mean() for i, row in enumerate(pack(chinese, its, 64))]
        assert np.mean(np.array(rates) == 0) < 0.1 and 0.1 < np.mean(rates) < 0.2 and max(rates) < 0.6


def test_a_tokenizer_of_characters_begins_a_word_at_each():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    inside = Tokenizer(models.WordPiece({"[UNK]": 0, "天": 1, "a": 2}, unk_token="[UNK]"))
    inside.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert word_starts(PreTrainedTokenizerFast(tokenizer_object=inside, unk_token="[UNK]")).all()


@pytest.mark.parametrize("name", ["Mistral", "Gemma3Text", "Qwen2", "Roberta"])
def test_documents_keep_sliding_windows_and_positions(name):
    import transformers
    more = {"Qwen2": dict(use_sliding_window=True, max_window_layers=1, sliding_window=4, num_key_value_heads=1), "Roberta": {}, "Gemma3Text": dict(sliding_window=4, head_dim=16, num_key_value_heads=1)}
    config = getattr(transformers, f"{name}Config")(vocab_size=60, pad_token_id=0, **{**LITTLE, "num_hidden_layers": 2}, **more.get(name, dict(sliding_window=4, num_key_value_heads=1)))
    torch.manual_seed(0)
    causal = name != "Roberta"
    model = (AutoModelForCausalLM if causal else AutoModelForMaskedLM).from_config(config).eval()
    ids = torch.randint(1, 60, (1, 24))
    with torch.no_grad():
        inside = model(ids, **pretraining.inside_documents(model, torch.zeros(1, 24, dtype=torch.long), causal)).logits
        assert torch.allclose(inside, model(ids).logits, atol=1e-5)
    assert pretraining._keeps_inside(model, causal, 24)


def test_a_model_that_takes_no_documents_is_refused_by_its_type(corpus, byte_tokenizer, tmp_path, monkeypatch):
    inside = pretraining.inside_documents
    monkeypatch.setattr(pretraining, "inside_documents", lambda *a: inside(*a) | {"attention_mask": None})
    with pytest.raises(ValueError, match="document_attention.*'gpt2'"):
        pretrain(corpus, byte_tokenizer, "gpt-tiny", tmp_path / "run", steps=1, document_attention=True, **TINY)


class DataFrame(dict):
    "As pandas' own, it gives the names of its columns."


@pytest.mark.parametrize("bad, told", [([*TEXTS[:3], None], "row 3 .*NoneType"), ([b"x"], "row 0 .*bytes"), ([{"tekst": "a"}], "row 0 .*no column 'text', but tekst"), (["a", "a\ud800b"], "row 1 .*surrogate"),
                                       ({"train": DataFrame(text=TEXTS)}, "DataFrame.*list"), ({"train": Dataset.from_dict({"text": ["a", None]})}, "row 1 .*NoneType")])
def test_rows_that_are_no_texts_are_named(tokenizer, tmp_path, bad, told):
    with pytest.raises((TypeError, ValueError), match=f"corpus: .*{told}"):
        pretrain(bad, tokenizer, "bert-tiny", tmp_path / "run", steps=1, **TINY)
    assert not (tmp_path / "run").exists()


def test_pairs_of_short_documents(tokenizer, tmp_path, caplog):
    choices = {**TINY, "block_size": 64, "next_sentence": True, "steps": 1}
    with pytest.raises(ValueError, match="no document.*two segments: of 300 documents.*60 tokens"):
        pretrain(["the cat sat"] * 300, tokenizer, "bert-tiny", tmp_path / "a", **choices)
    pretrain(["the cat sat"] * 30 + [" ".join(TEXTS)] * 3, tokenizer, "bert-tiny", tmp_path / "b", **choices)
    assert "30 of 33 documents" in caplog.text


def test_damaged_packed_blocks_are_packed_again(corpus, tokenizer, tmp_path):
    options = PretrainingOptions(**TINY)
    path = pretraining._packed(corpus, "train", tokenizer, options).path
    whole = path.read_bytes()
    at = whole.index(np.ascontiguousarray(Blocks(path)[3], dtype=np.uint16).tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    pretraining._packed(corpus, "train", tokenizer, options)
    assert path.read_bytes() == whole


def test_the_cache_of_generation_is_as_it_was_given(corpus, byte_tokenizer, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2, n_positions=64))
    inner = []
    save = pretraining._save_checkpoint
    monkeypatch.setattr(pretraining, "_save_checkpoint", lambda *a: inner.append(AutoConfig.from_pretrained(save(*a)).use_cache))
    pretrain(corpus, byte_tokenizer, model, tmp_path / "run", steps=2, checkpoint_steps=1, **TINY)
    assert model.config.use_cache and AutoConfig.from_pretrained(tmp_path / "run").use_cache and inner == [True]


def _of(name, **more):
    import transformers
    return getattr(transformers, f"{name}Config")(vocab_size=100, **more)


@pytest.mark.parametrize("make, told", [(lambda: _of("T5", d_model=32, num_layers=1, d_ff=64, num_heads=2), "'t5' is an encoder-decoder.*finetune"), (lambda: _of("XLNet", d_model=32, n_layer=1, n_head=2, d_inner=64), "'xlnet'"),
                                        (lambda: _of("Bert", is_decoder=True, architectures=["BertForMaskedLM"], **LITTLE), "is_decoder=False"), (lambda: _of("ViT"), "'vit' is no masked")])
def test_families_that_are_not_trained_here(corpus, tokenizer, tmp_path, make, told):
    with pytest.raises(ValueError, match=told):
        pretrain(corpus, tokenizer, make(), tmp_path / "run", steps=1, **TINY)


def test_a_decoder_is_causal(corpus, tokenizer, tmp_path):
    assert pretrain(corpus, tokenizer, _of("Bert", is_decoder=True, **LITTLE), tmp_path / "run", steps=1, **TINY).objective == "causal"


def test_blocks_are_those_that_were_trained_on(tokenizer, tmp_path):
    result, every = pretrain(TEXTS, tokenizer, "bert-tiny", tmp_path / "run", steps=1, **TINY), len(pack(TEXTS, tokenizer, 16))
    assert result.data["blocks"] == every - every // 20


def test_nothing_to_predict_is_refused(corpus, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="mask_rate 0.0001 chooses no token"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "run", steps=1, mask_rate=1e-4, **TINY)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model, told", [(3, "model is 3"), (GPT2Config, "GPT2Config, a class")])
def test_what_is_no_model_is_named(corpus, tokenizer, tmp_path, model, told):
    with pytest.raises(TypeError, match=told):
        pretrain(corpus, tokenizer, model, tmp_path / "run", steps=1, **TINY)


def test_places_that_cannot_be_are_named_before_the_work(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "write_blocks", lambda *a, **k: pytest.fail("packed first"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no model"):
        pretrain(corpus, tokenizer, str(tmp_path / "empty"), tmp_path / "run", steps=1, **TINY)
    (tmp_path / "file").mkdir(), (tmp_path / "file" / "checkpoints").write_text("x")
    with pytest.raises((NotADirectoryError, FileExistsError), match="output_dir .*checkpoints"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "file", steps=1, resume=True, **TINY)
    for place in ([f"{tmp_path}/{'x' * 300}", f"{tmp_path}/a\0b"] + ["/proc/x"] * (sys.platform == "linux")):
        with pytest.raises((OSError, ValueError), match="^output_dir .*cannot be written.*another folder"):
            pretrain(corpus, tokenizer, "bert-tiny", place, steps=1, **TINY)


def test_memory_is_kept_in_training_and_given_back_after_it(monkeypatch):
    "glibc's thresholds, on a CPU only, and not where the user has set some."
    called = []
    library = types.SimpleNamespace(mallopt=lambda *given: called.append(given), malloc_trim=lambda left: called.append("given back"))
    monkeypatch.setattr(pretraining.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(pretraining.platform, "libc_ver", lambda: ("glibc", "2.36"))
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    with pytest.raises(KeyboardInterrupt), pretraining._memory_kept(torch.device("cpu")):
        assert called == [(-3, 2**30), (-1, 2**31 - 1)]
        raise KeyboardInterrupt
    assert called[2:] == [(-3, 2**25), (-1, 2**26), "given back"]
    called.clear()
    with pretraining._memory_kept(torch.device("cuda")):
        pass
    monkeypatch.setattr(pretraining.platform, "libc_ver", lambda: ("", ""))                # macOS, Windows, musl
    with pretraining._memory_kept(torch.device("cpu")):
        pass
    monkeypatch.setattr(pretraining.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with pretraining._memory_kept(torch.device("cpu")):
        pass
    assert called == []


def test_bf16_flows_between_the_parts_only_where_a_model_is_computed_in_bf16(tokenizer):
    model, ids, kinds = AutoModelForMaskedLM.from_config(model_config("bert-tiny", len(tokenizer), 16)), torch.ones(2, 8, dtype=torch.long), []
    watch = model.bert.encoder.layer[1].register_forward_pre_hook(lambda module, inputs: kinds.append(inputs[0].dtype))
    with pretraining._bf16_between(model, True):
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids)
        model(input_ids=ids)                                             # examined outside of mixed precision
    with torch.autocast("cpu", torch.bfloat16):
        with pretraining._bf16_between(model, False):
            model(input_ids=ids)
        model(input_ids=ids)
    watch.remove()
    assert kinds == [torch.bfloat16, torch.float32, torch.float32, torch.float32] and {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_causal_block_of_one_token_is_refused(corpus, byte_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="block_size 1 leaves a causal model nothing to predict.*2 or more"):
        pretrain(corpus, byte_tokenizer, small(), tmp_path / "x", steps=1, **TINY | {"block_size": 1})


@pytest.mark.parametrize("name", ["bloom", "mamba", "mpt", "deberta-v2"])
def test_document_attention_names_no_remedy_that_cannot_be_followed(name, corpus, tokenizer, byte_tokenizer, tmp_path):
    sizes = {"bloom": dict(hidden_size=16, n_layer=1, n_head=2), "mamba": dict(hidden_size=16, num_hidden_layers=1, state_size=4), "mpt": dict(d_model=16, n_layers=1, n_heads=2),
             "deberta-v2": dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)}[name]
    config = AutoConfig.for_model(name, vocab_size=300, bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes)
    with pytest.raises(ValueError, match=f"cannot be kept in a model of type '{name}'.*leave it out, or choose another architecture"):
        pretrain(corpus, tokenizer if name == "deberta-v2" else byte_tokenizer, config, tmp_path / "x", steps=1, document_attention=True, **TINY)


def test_a_model_in_float16_is_refused_before_the_corpus_is_read(tokenizer, tmp_path):
    def texts():
        pytest.fail("read")
        yield
    model = AutoModelForMaskedLM.from_config(model_config("bert-tiny", 96)).half()
    with pytest.raises(ValueError, match=r"model is in float16.*model.float\(\)"):
        pretrain(texts(), tokenizer, model, tmp_path / "x", steps=1, **TINY)


@pytest.mark.parametrize("name, sizes", [("albert", dict(embedding_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)),
                                         ("mpt", dict(d_model=16, n_layers=1, n_heads=2))])
def test_muon_takes_the_matrices_of_other_names(name, sizes):
    config = AutoConfig.for_model(name, vocab_size=50, **sizes)
    model = (AutoModelForCausalLM if name == "mpt" else AutoModelForMaskedLM).from_config(config)
    taken = {id(p) for p in MuonAdamW(model, 1e-3, 0.1).parts[1].param_groups[0]["params"]}
    blocks = model.transformer.blocks if name == "mpt" else model.albert.encoder.albert_layer_groups
    assert taken == {id(p) for p in blocks.parameters() if p.ndim == 2}


def test_tokens_of_pairs_are_counted_as_they_are(corpus, tokenizer, tmp_path):
    seen = []
    for budget, steps in ((dict(steps=3), 3), (dict(tokens=4 * 15 * 3), 3)):
        result = pretrain(corpus, tokenizer, "bert-tiny", tmp_path / str(len(seen)), next_sentence=True, **budget, **TINY)
        seen.append(result.tokens)
        assert result.steps == steps
    assert seen == [4 * 15 * 3] * 2                                             # [CLS] 6 [SEP] 6 [SEP]


def test_options_that_are_a_dictionary_are_refused(corpus, tokenizer, tmp_path):
    with pytest.raises(TypeError, match="options is a dict: give PretrainingOptions"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", options={"steps": 3})


def test_what_a_killed_run_left_half_packed_is_removed_a_day_later(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("LMNOTES_CACHE", str(tmp_path / "cache"))
    packed = tmp_path / "cache" / "packed"
    packed.mkdir(parents=True)
    for name, age in ((".abandone.arrow", 90_000), (".growing_.arrow", 60), ("whole.arrow", 90_000)):
        (packed / name).write_bytes(b"part")
        os.utime(packed / name, (time.time() - age,) * 2)
    pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "run", steps=1, **TINY)
    assert not (packed / ".abandone.arrow").exists() and (packed / ".growing_.arrow").exists() and (packed / "whole.arrow").exists()


def test_the_model_is_not_replaced_by_what_is_made_of_it(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "write_blocks", lambda *a, **k: pytest.fail("packed first"))
    folder = pretraining.save_folder(tmp_path / "out" / "bert", AutoModelForMaskedLM.from_config(model_config("bert-tiny", len(tokenizer), 64)), tokenizer)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    (tmp_path / "out" / "lmnotes.json").write_text("{}")
    with pytest.raises(ValueError, match="is the source .*bert', or holds it, and the source would be lost: choose another folder"):
        pretrain(corpus, tokenizer, str(folder), folder, steps=2, overwrite=True, **TINY)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
