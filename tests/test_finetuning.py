"""Fine-tuning: features and predictions against the library's own, every family, resume, methods, bad input; tokenizer and models are made here."""
import contextlib
import copy
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import transformers
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (AutoConfig, AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, BartForConditionalGeneration, BertConfig, BertForMaskedLM,
                          BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification, ByT5Tokenizer, FNetConfig, FNetForTokenClassification, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration, pipeline)

from lmnotes import finetuning, pretraining
from lmnotes.applications import explain, predict, worst_errors
from lmnotes.checkpoints import info, load, verify
from lmnotes.cli import COMMANDS, execute
from lmnotes.finetuning import (FinetuningOptions, answer_places, align_labels, baseline, best_spans, best_threshold, choose_parameters, default_learning_rate, finetune, predict_answers,
                                predict_logits, predict_tags, predicted_labels, search, token_batches, training_batches, uncorrected, word_windows)
from lmnotes.generation import SEPARATOR, encoder_decoder_config, generate_texts
from lmnotes.pretraining import last_checkpoint, save_folder
from lmnotes.tokenization import train_tokenizer
from test_resume import CONTEXT, _watch_touches, touch

WORDS = "the cat dog bird fish sat ran flew swam on under over a mat log tree sea and then it slept".split()
TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 25)) + f" number {i}" for i in range(120)]
ANIMALS = ("cat", "dog", "bird", "fish")
TINY = dict(epochs=2, learning_rate=3e-3, max_length=48, device="cpu", precision="fp32", samples=20)
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64)


def split(data, held=20, validation=True):
    "Train, test, and validation where it is wanted, by position."
    n = len(data)
    parts = {"train": data.select(range(n - 2 * held)), "test": data.select(range(n - held, n))}
    return DatasetDict(parts | ({"validation": data.select(range(n - 2 * held, n - held))} if validation else {}))


def classes(names=("has cat", "none"), validation=True):
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return split(Dataset.from_dict({"text": TEXTS, "label": [int("cat" not in t.split()[:8]) for t in TEXTS]}, features=features), validation=validation)


def classes_of_three():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["cat", "dog", "none"])})
    return split(Dataset.from_dict({"text": TEXTS, "label": [0 if "cat" in t.split()[:8] else 1 if "dog" in t.split()[:8] else 2 for t in TEXTS]}, features=features))


def sets():
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=list(ANIMALS)))})
    return split(Dataset.from_dict({"text": [t[:30] for t in TEXTS], "labels": [[i for i, w in enumerate(ANIMALS) if w in t[:30].split()] for t in TEXTS]}, features=features))


def tags():
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-A"]))})
    rows = [t.split() for t in TEXTS]
    return split(Dataset.from_dict({"tokens": rows, "tags": [[int(w in ANIMALS) for w in row] for row in rows]}, features=features))


def questions(empty=True):
    rows = []
    for i, text in enumerate(TEXTS):
        first = text.split()[0]
        if empty and i % 4 == 0:
            rows.append({"id": str(i), "question": "which dog ?", "context": "  " + text, "answers": {"text": [], "answer_start": []}})
        else:
            rows.append({"id": str(i), "question": "the number ?", "context": "  " + text, "answers": {"text": [first], "answer_start": [2]}})
    features = Features({"id": Value("string"), "question": Value("string"), "context": Value("string"), "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))}})
    return split(Dataset.from_list(rows, features=features))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=105, progress=False)


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(TEXTS, vocab_size=300, kind="bpe", progress=False)


@pytest.fixture(scope="module")
def encoder(tokenizer, tmp_path_factory):
    "A masked model, with dropout, so that random states matter."
    torch.manual_seed(0)
    return save_folder(tmp_path_factory.mktemp("encoder") / "m", BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SIZES)), tokenizer)


@pytest.fixture(scope="module")
def wide(tokenizer, tmp_path_factory):
    "A masked model with three hundred rows more than the tokenizer has tokens."
    torch.manual_seed(0)
    return save_folder(tmp_path_factory.mktemp("wide") / "m", BertForMaskedLM(BertConfig(vocab_size=len(tokenizer) + 300, **SIZES)), tokenizer)


@pytest.fixture(scope="module")
def decoder(bpe, tmp_path_factory):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(bpe), n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=None, eos_token_id=bpe.eos_token_id)
    return save_folder(tmp_path_factory.mktemp("decoder") / "m", GPT2LMHeadModel(config), bpe)


@pytest.fixture(scope="module")
def bart(bpe, tmp_path_factory):
    torch.manual_seed(0)
    config = encoder_decoder_config(bpe, "bart", layers=1, hidden=32, heads=2, max_length=64)
    return save_folder(tmp_path_factory.mktemp("bart") / "m", BartForConditionalGeneration(config), bpe)


def head(kind, tokenizer, **more):
    torch.manual_seed(1)
    return kind(BertConfig(vocab_size=len(tokenizer), **SIZES, **more)).eval()


# ---- batches

def test_batches_fit_their_budget_and_hold_each_example_once():
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    for batches in (token_batches(lengths, 256), training_batches(lengths, 256, 1, seed=3)):
        assert sorted(np.concatenate(batches).tolist()) == list(range(500))
        assert max(lengths[b].max() * len(b) for b in batches) <= 256
    assert [b.tolist() for b in token_batches([300, 2, 2], 256)] == [[1, 2], [0]] and token_batches([], 256) == []


def test_epochs_have_orders_of_their_own_and_seeds_decide():
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    whole = training_batches(lengths, 256, 2.5, seed=0)
    counts = np.bincount(np.concatenate(whole), minlength=500)
    assert counts.sum() == 1250 and set(counts) == {2, 3}
    again, other = training_batches(lengths, 256, 2.5, seed=0), training_batches(lengths, 256, 2.5, seed=1)
    assert all((a == b).all() for a, b in zip(whole, again)) and not all(len(a) == len(b) and (a == b).all() for a, b in zip(whole, other))
    padded = sum(lengths[b].max() * len(b) for b in whole) / sum(lengths[b].sum() for b in whole)
    chance = np.random.default_rng(1).permutation(500).reshape(-1, 10)
    assert padded < 1.15 < sum(lengths[b].max() * len(b) for b in chance) / lengths.sum()


# ---- predictions

def test_logits_do_not_depend_on_the_batch(tokenizer):
    model = head(BertForSequenceClassification, tokenizer, num_labels=3)
    texts = [t[: 7 + 11 * (i % 9)] for i, t in enumerate(TEXTS[:40])]
    expected = np.concatenate([model(**tokenizer(t, return_tensors="pt")).logits.detach().numpy() for t in texts])
    for budget in (1, 100, 10_000):
        np.testing.assert_allclose(predict_logits(model, tokenizer, texts, batch_tokens=budget), expected, atol=1e-5)
    assert predict_logits(model, tokenizer, []).shape == (0, 3) and np.isfinite(predict_logits(model, tokenizer, ["", "cat"])).all()
    with pytest.raises(ValueError, match="BertForSequenceClassification"):
        predict_tags(model, tokenizer, [["a"]])
    with pytest.raises(ValueError, match="2 texts and 1 pair: give"):
        predict_logits(model, tokenizer, ["a", "b"], pairs=["c"])


NEIGHBOURLY = {"xlnet": dict(d_model=32, n_layer=2, n_head=2, d_inner=64, initializer_range=0.3), "fnet": dict(hidden_size=32, num_hidden_layers=2, intermediate_size=64, initializer_range=0.3),
               "convbert": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, embedding_size=16, initializer_range=0.3),
               "nystromformer": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_landmarks=8, segment_means_seq_len=8, conv_kernel_size=9, initializer_range=0.3),
               "yoso": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=0.3),
               "mobilebert": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, embedding_size=32, true_hidden_size=16, intra_bottleneck_size=16, initializer_range=0.1),
               "funnel": dict(d_model=32, n_head=2, d_head=16, d_inner=64, block_sizes=[2, 2]),
               "canine": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_hash_buckets=64, initializer_range=0.3),
               "big_bird": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, block_size=2, num_random_blocks=1, initializer_range=0.3),
               "reformer": dict(hidden_size=32, attn_layers=["local", "lsh"], axial_pos_shape=(16, 16), axial_pos_embds_dim=(16, 16), feed_forward_size=64, attention_head_size=16, num_attention_heads=2,
                                num_buckets=8, lsh_attn_chunk_length=8, local_attn_chunk_length=8, hash_seed=0, initializer_range=0.3)}


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_text_that_spells_the_end_of_texts_goes_with_others(kind, tmp_path):
    words = ["<pad>", "</s>", "<unk>", "good", "bad", "film", "old", "price"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64)
    sizes = dict(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, initializer_factor=3.0) if kind == "t5" else dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, init_std=0.5, bos_token_id=0)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, vocab_size=len(words), num_labels=2, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **sizes)).eval()
    texts = ["good film", "<s>old</s> price", "bad film", "</s> good </s> film bad", "film"]
    alone = np.concatenate([model(**tokenizer(text, return_tensors="pt")).logits.detach().numpy() for text in texts])
    np.testing.assert_allclose(predict_logits(model, tokenizer, texts), alone, atol=1e-5)
    inputs = {**tokenizer(texts, padding=True, return_tensors="pt"), "labels": torch.tensor([0, 1, 1, 0, 1])}
    expected = F.cross_entropy(torch.tensor(alone), inputs["labels"], reduction="sum").item()
    assert finetuning._loss("classification", model, inputs).item() == pytest.approx(expected, abs=1e-4)
    slopes = []
    for loss in (finetuning._loss("classification", model, inputs), sum(F.cross_entropy(model(**tokenizer(text, return_tensors="pt")).logits, label[None]) for text, label in zip(texts, inputs["labels"]))):
        model.zero_grad(), loss.backward()
        slopes.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.allclose(slopes[0][name], slope, atol=1e-4) for name, slope in slopes[1].items()) and set(slopes[0]) == set(slopes[1])
    folder = save_folder(tmp_path / "m", model, tokenizer)
    data = Dataset.from_dict({"text": [f"good film {'bad ' * (i % 5)}" for i in range(30)] + [f"<s>old</s> price {'bad ' * (i % 5)}" for i in range(30)], "label": ["new", "old"] * 30})
    assert set(finetune(folder, split(data), tmp_path / "f", epochs=1, samples=0).labels) == {"new", "old"}
    asked = split(data)["test"]["text"][:] + texts
    assert [p.label for p in predict(tmp_path / "f", asked)] == [predict(tmp_path / "f", text).label for text in asked] and explain(tmp_path / "f", texts[1], method="occlusion")


@pytest.mark.parametrize("kind", ["xlm", "flaubert"])
def test_blocks_that_are_cut_into_lists_are_whole(kind):
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, vocab_size=99, emb_dim=32, n_layers=3, n_heads=2))
    rates = {id(p): group["lr"] for group in finetuning._make_optimizer(model, 1.0, 0.01, 0.5).param_groups for p in group["params"]}
    place = lambda name: next((int(part) for part in name.split(".") if part.isdigit()), -1)                # 3 blocks above what is below them, the head above all
    assert all(rates[id(p)] == (1.0 if "summary" in name else 0.5 ** (3 - place(name))) for name, p in model.named_parameters())
    choose_parameters(model, "last", 1)
    learned = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith("transformer.")}
    parts = {"attentions.2", "layer_norm1.2", "ffns.2", "layer_norm2.2"}
    assert {".".join(name.split(".")[1:3]) for name in learned} == parts
    assert [sum(p.numel() for p in block.parameters()) for block in finetuning._stacks(model)[0]] == 3 * [sum(p.numel() for name, p in model.named_parameters() if name in learned)]
    adapted = choose_parameters(copy.deepcopy(model), "lora")
    assert {name.split(".lora_")[0].split(".")[-2] for name, _ in adapted.named_modules() if "lora_A" in name and "attentions" in name} and any("ffns.0" in name and "lora_A" in name for name, _ in adapted.named_modules())
    bert = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=99, **SIZES))
    assert finetuning._stacks(bert)[0] == list(bert.bert.encoder.layer)


def embeddings_in(folder):
    "The matrix of the word embeddings, and the other weights."
    weights = load_file(Path(folder) / "model.safetensors")
    return weights.pop("bert.embeddings.word_embeddings.weight"), weights


@pytest.mark.parametrize("changes", [{"weight_decay": 0.0}, {}, {"layer_decay": 0.8, "weight_decay": 0.0}, {"accumulation": 2, "weight_decay": 0.0}])
def test_only_the_rows_that_the_texts_have_are_learned(wide, tmp_path, monkeypatch, changes):
    "Without decay the run is that of AdamW over all rows; with it the other rows stay as they are."
    shapes, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *rest: (shapes.append(max(p.shape[0] for group in self.param_groups for p in group["params"])), step(self, *rest))[1])
    some = finetune(wide, classes(), tmp_path / "some", **TINY | changes)
    monkeypatch.setattr(finetuning, "_seen_rows", lambda *_: contextlib.nullcontext(contextlib.nullcontext))
    whole = finetune(wide, classes(), tmp_path / "whole", **TINY | changes)
    (ours, others), (theirs, same), (given, _) = embeddings_in(tmp_path / "some"), embeddings_in(tmp_path / "whole"), embeddings_in(wide)
    assert max(shapes[: len(shapes) // 2]) < 106 and min(shapes[len(shapes) // 2:]) == len(given) == 405
    assert torch.equal(ours[-300:], given[-300:]) and (changes.get("weight_decay") == 0.0) == torch.equal(theirs[-300:], given[-300:])
    learned = (ours != given).any(1)
    assert 20 < learned.sum() < 105 and torch.allclose(ours[learned], theirs[learned], atol=1e-5) and all(torch.allclose(others[k], same[k], atol=1e-5) for k in others)
    assert some.predictions == whole.predictions and [row["loss"] for row in some.history] == pytest.approx([row["loss"] for row in whole.history], abs=1e-4)


def test_all_rows_are_learned_where_some_would_not_do(wide, encoder, tokenizer, bart, bpe):
    rows, options = [{"input_ids": list(range(10))}], FinetuningOptions()

    def taken(model, tokenizer=tokenizer, rows=rows, options=options):
        weight = model.get_input_embeddings().weight
        with finetuning._seen_rows(model, tokenizer, rows, options) as whole:
            changed = model.get_input_embeddings().weight is not weight
            with whole():
                assert model.get_input_embeddings().weight is weight
        assert model.get_input_embeddings().weight is weight and "forward" not in vars(model.get_input_embeddings())
        return changed
    classifier = lambda: AutoModelForSequenceClassification.from_pretrained(wide)
    assert taken(classifier()) and taken(get_peft_model(classifier(), LoraConfig(r=2, target_modules=["query"]))) is False
    assert not taken(classifier(), options=FinetuningOptions(compile=True)) and not taken(classifier(), rows=[{"input_ids": list(range(400))}])
    assert not taken(BertForMaskedLM.from_pretrained(wide)) and not taken(BartForConditionalGeneration.from_pretrained(bart), bpe) and not taken(classifier().to("meta"))
    frozen = classifier()
    frozen.get_input_embeddings().requires_grad_(False)
    assert not taken(frozen)
    model, batch = classifier().eval(), torch.tensor([[2, 5, 9, 3]])
    plain = copy.deepcopy(model)
    with finetuning._seen_rows(model, tokenizer, rows, options) as whole:
        inside = model(batch).logits
        with whole():
            assert torch.equal(model(torch.tensor([[2, 50, 300, 3]])).logits, plain(torch.tensor([[2, 50, 300, 3]])).logits) and torch.equal(model(batch).logits, inside)


@pytest.mark.parametrize("kind", NEIGHBOURLY)
def test_padding_changes_no_answer_of_models_that_do_not_mask_it(kind, tokenizer, tmp_path):
    "XLNet's head reads the last place, FNet mixes all of them, convolutions and pooling reach over the end of a text, and sparse attention is laid out by the length of the batch."
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), num_labels=2, **NEIGHBOURLY[kind])).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    if kind == "mobilebert":                                                                  # the vector of padding is 0 in a new one only
        torch.nn.init.normal_(model.get_input_embeddings().weight.data[tokenizer.pad_token_id])
    texts = [t[: 7 + 11 * (i % 9)] for i, t in enumerate(TEXTS[:40])]
    alone = np.concatenate([copy.deepcopy(model)(input_ids=tokenizer(t, return_tensors="pt")["input_ids"]).logits.detach().numpy() for t in texts])      # BigBird attends in full from its first short text on
    np.testing.assert_allclose(predict_logits(model, tokenizer, texts, batch_tokens=10_000), alone, atol=1e-5)
    if kind not in ("xlnet", "fnet", "convbert"):                                             # one of each way will do for what takes long
        return
    folder = save_folder(tmp_path / "m", model, tokenizer)
    result = finetune(folder, classes(), tmp_path / "f", **TINY)
    texts = classes()["test"]["text"][:]
    assert [row.label for row in predict(tmp_path / "f", texts)] == [predict(tmp_path / "f", t).label for t in texts] == [result.labels[p] for p in result.predictions]


@pytest.mark.parametrize("epochs, ends", [(22, list(range(1, 23))), (2.5, [1, 2, 2.5]), (1, [1])])
def test_validation_stands_at_the_ends_of_epochs(encoder, tmp_path, epochs, ends):
    "22 parts of a run in floating point: 15 / 22 * 22 is below 15."
    result = finetune(encoder, classes(), tmp_path / "f", **{**TINY, "epochs": epochs, "train_examples": 16, "batch_size": 4})
    assert len(result.validation) == len(ends) and all(end <= row["epoch"] < end + 0.5 for row, end in zip(result.validation, ends))
    assert len({row["step"] for row in result.validation}) == len(ends)


def test_a_slow_tokenizer_is_refused_where_places_in_the_text_are_wanted(tmp_path):
    tokenizer = ByT5Tokenizer()
    model = T5ForConditionalGeneration(T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0))
    model.save_pretrained(tmp_path / "m"), tokenizer.save_pretrained(tmp_path / "m")
    for data, task in ((tags(), "tokens"), (questions(), "question-answering")):
        with pytest.raises(ValueError, match=f"ByT5Tokenizer, which does not say where in a text its tokens stand, as a {task} task needs: give"):
            finetune(tmp_path / "m", data, tmp_path / "f", **TINY)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_classifiers_last_block_works_at_the_first_token_only(kind, method):
    torch.manual_seed(1)
    sizes = dict(vocab_size=99, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SIZES)
    if kind == "distilbert":
        sizes = dict(vocab_size=99, num_labels=3, dim=32, n_layers=2, n_heads=2, hidden_dim=64, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **sizes)).train()
    [setattr(m, "p", 0.0) for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    part, seen = None if kind == "distilbert" else model.base_model.encoder.layer[-1].attention.output, []
    if part is not None:
        part.register_forward_hook(lambda _, given, output: seen.append(output.shape[:2]))
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value"] if part is not None else ["q_lin", "v_lin"], task_type="SEQ_CLS"))
    inputs = {"input_ids": torch.randint(5, 99, (4, 11)), "attention_mask": (torch.arange(11) < torch.tensor([[11], [7], [3], [9]])).long(), "labels": torch.tensor([0, 2, 1, 1])}

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]
    ours, some = gradients(finetuning._loss("classification", model, inputs))
    theirs, others = gradients(model(**inputs).loss * 4)
    assert ours == pytest.approx(theirs, abs=1e-5) and len(some) == len(others) > 2 and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(some, others))
    assert part is None or seen == [(4, 1), (4, 11)]


def test_tags_are_those_of_the_first_sub_words(tokenizer):
    model = head(BertForTokenClassification, tokenizer, num_labels=3)
    rows = [t.split() for t in TEXTS[:3]]
    for row, found in zip(rows, predict_tags(model, tokenizer, rows)):
        encoded = tokenizer(row, is_split_into_words=True, return_tensors="pt")
        first = [encoded.word_ids().index(i) for i in range(len(row))]
        np.testing.assert_allclose(found, model(**encoded).logits[0].detach().numpy()[first], atol=1e-5)
    odd = predict_tags(model, tokenizer, [[], ["", "cat", "\x00", "\u200b"], ["x" * 400]])
    assert [len(r) for r in odd] == [0, 4, 1] and all(np.abs(r).min() > 0 for r in odd[1:])
    with pytest.raises(TypeError, match="the cat"):
        predict_tags(model, tokenizer, ["the cat sat"])


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_windows_show_each_word_once_with_the_most_context(tokenizer, bpe, kind):
    tokenizer = tokenizer if kind == "wordpiece" else bpe
    rows = [(" ".join(TEXTS[i:i + 9])).split() for i in range(3)] + [["cat"]]
    windows, where, window, place = word_windows(tokenizer, rows, 20, 8)
    assert sorted(map(tuple, where.tolist())) == [(i, j) for i, row in enumerate(rows) for j in range(len(row))]
    assert max(len(w["input_ids"]) for w in windows) <= 20 and len(windows) > 20
    for (i, j), w, p in zip(where, window, place):
        word = rows[i][j]
        first = tokenizer.decode([windows[w]["input_ids"][p]]).strip().removeprefix("##")
        assert word.startswith(first) and (first or kind == "bpe"), (word, first)         # a blank may be a token of its own
        size = len(windows[w]["input_ids"])
        assert min(p, size - 1 - p) >= 2 or j < 9 or j > len(rows[i]) - 9, "an inner word stands away from the edges"


def test_a_long_document_is_tagged_as_its_middle_windows_see_it(tokenizer):
    model = head(BertForTokenClassification, tokenizer, num_labels=2)
    long = " ".join(TEXTS[:8]).split()
    found, = predict_tags(model, tokenizer, [long], max_length=32, stride=16)
    assert found.shape == (len(long), 2) and (np.abs(found).sum(1) > 0).all()
    assert np.isfinite(predict_tags(model, tokenizer, [long], max_length=10_000)[0]).all()           # cut at what the model takes


def test_labels_stand_at_first_tokens():
    assert align_labels([None, 0, 0, 1, 2, 2, None], [5, 6, 7]) == [-100, 5, -100, 6, 7, -100, -100]


def test_answers_are_characters_of_the_context_and_equal_the_librarys(tokenizer):
    model = head(BertForQuestionAnswering, tokenizer)
    asked, contexts = ["which cat ?", "where is the dog ?"], [TEXTS[4], "  " + TEXTS[9].replace(" ", "   ")]
    for question, context, answers in zip(asked, contexts, predict_answers(model, tokenizer, asked, contexts, n_best=3)):
        assert len(answers) == 3 and answers[0].score >= answers[1].score >= answers[2].score and sum(a.probability for a in answers) <= 1 + 1e-6
        encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets, output = encoded.pop("offset_mapping")[0].tolist(), model(**encoded)
        inside = [i for i, part in enumerate(encoded.sequence_ids(0)) if part == 1]
        best = max(((output.start_logits[0, i] + output.end_logits[0, j]).item(), offsets[i][0], offsets[j][1]) for i in inside for j in inside if i <= j < i + 30)
        assert answers[0].score == pytest.approx(best[0], abs=1e-4) and (answers[0].start, answers[0].end) == best[1:]
        assert answers[0].text == context[answers[0].start:answers[0].end]
    many = predict_answers(model, tokenizer, ["which ?"] * 2, [" ".join(TEXTS[:20]), "cat"], max_length=32, stride=10)
    assert all(a.text == " ".join(TEXTS[:20])[a.start:a.end] for a in many[0])
    (none,), = predict_answers(model, tokenizer, ["which ?"], [""])
    assert (none.text, none.start, none.end, none.probability) == ("", 0, 0, 1.0)
    first = predict_answers(model, tokenizer, ["which ?"], [TEXTS[0]], no_answer_threshold=-100.0)[0][0]
    last = predict_answers(model, tokenizer, ["which ?"], [TEXTS[0]], no_answer_threshold=100.0, n_best=500)[0]
    assert first.text == "" and last[0].text != "" and sum(a.text == "" for a in last) <= 1
    assert len(predict_answers(model, tokenizer, ["which " * 400], [TEXTS[0]])[0]) == 5              # a question longer than the model


def test_an_answer_does_not_depend_on_the_other_questions(tokenizer):
    model, long = head(BertForQuestionAnswering, tokenizer), " ".join(TEXTS[:12])
    asked = ["which ?", "which " * 400, "where is the cat and then the dog on a log ?"]
    for length, stride in ((32, 14), (48, 100), (24, 6)):
        together = predict_answers(model, tokenizer, asked, [long] * 3, max_length=length, stride=stride)
        alone = [predict_answers(model, tokenizer, [question], [long], max_length=length, stride=stride)[0] for question in asked]
        assert [[(a.start, a.end) for a in row] for row in together] == [[(a.start, a.end) for a in row] for row in alone]
        np.testing.assert_allclose([[a.score for a in row] for row in together], [[a.score for a in row] for row in alone], atol=1e-4)
    for length in range(7, 20):
        assert finetuning._question_windows(tokenizer, ["which " * 400], [long], length, 1000)[0]


def test_answers_are_found_back_through_the_windows(tokenizer):
    data = questions()["train"]
    rows, owners, offsets = finetuning._question_windows(tokenizer, list(data["question"]), list(data["context"]), 24, 6)
    found = {}
    for window, owner in enumerate(owners):
        answer = data[owner]["answers"]
        if answer["text"]:
            start, end = answer_places(offsets[window], answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0]))
            if start:
                found[owner] = data[owner]["context"][offsets[window][start][0]:offsets[window][end][1]]
                assert rows[window]["input_ids"][start] not in tokenizer.all_special_ids
    assert found == {i: a["text"][0] for i, a in enumerate(data["answers"]) if a["text"]}


def test_spans_are_the_best_of_all_pairs():
    generator = np.random.default_rng(0)
    start, end = generator.normal(size=(2, 12))
    offsets = [None, None] + [(i, i + 1) for i in range(10)]
    brute = sorted(((start[i] + end[j], offsets[i][0], offsets[j][1]) for i in range(2, 12) for j in range(i, min(12, i + 4))), reverse=True)
    found = sorted(((value, a, b) for a, b, value in best_spans(start, end, offsets, 20, 4)), reverse=True)
    assert [f[1:] for f in found] == [b[1:] for b in brute] and best_spans(start, end, [None] * 12) == []


# ---- learning, by family

def test_classification_learns_validates_and_reopens(encoder, tmp_path):
    result = finetune(encoder, classes(), tmp_path / "f", **{**TINY, "epochs": 6})
    assert result.task == "classification" and result.labels == ("has cat", "none") and [v["epoch"] for v in result.validation] == sorted(v["epoch"] for v in result.validation)
    assert len(result.validation) == 6 and result.validation[-1]["epoch"] == 1 * 6 and {"step", "epoch", "loss", "learning_rate", "tokens"} <= set(result.history[-1])
    assert result.intervals["accuracy"][0] <= result.scores["accuracy"] <= result.intervals["accuracy"][1] and result.confusion().sum() == 20
    assert result.scores["accuracy"] == np.mean(np.array(result.predictions) == np.array(result.references))
    assert verify(tmp_path / "f") == [] and not (tmp_path / "f" / "checkpoints").exists() and info(tmp_path / "f").task == "classification"
    facts, card = json.loads((tmp_path / "f" / "lmnotes.json").read_text()), (tmp_path / "f" / "README.md").read_text()
    assert facts["scores"] == result.scores and facts["made_by"] == "lmnotes.finetuning" and "text-classification" in card and "learning rate" in card
    answers = pipeline("text-classification", model=str(tmp_path / "f"), device="cpu")(classes()["test"]["text"][:], truncation=True, max_length=48)
    assert [a["label"] for a in answers] == [result.labels[p] for p in result.predictions]
    assert "held-out" in repr(result) and "<table>" in result._repr_html_() and len(result.plot().lines) == 1
    shown = [repr(result).count(f"macro {name} {result.scores[key]:.3f}") for key, name in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))]
    assert shown == [1, 1, 1] and "on 20 held-out examples" in repr(result)


def test_a_set_of_labels(encoder, tmp_path):
    result = finetune(encoder, sets(), tmp_path / "f", **{**TINY, "epochs": 20})
    assert result.task == "multi-label" and result.scores["micro_f1"] > result.majority["micro_f1"] and all(set(p) <= set(ANIMALS) for p in result.predictions)
    assert json.loads((tmp_path / "f" / "config.json").read_text())["problem_type"] == "multi_label_classification"
    with pytest.raises(ValueError, match="no labels to confuse"):
        result.confusion()


def test_tags_of_documents_longer_than_the_window(encoder, tmp_path):
    result = finetune(encoder, tags(), tmp_path / "f", **{**TINY, "max_length": 16, "epochs": 4})
    assert result.task == "tokens" and result.scores["span_f1"] > 0.9 and result.majority["token_accuracy"] == 1.0      # the words decide here
    assert [len(p) for p in result.predictions] == [len(r) for r in result.references] and result.confusion().sum() == sum(map(len, result.references))
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "f")
    assert model.config.id2label == {0: "O", 1: "B-A"}


def test_questions_with_and_without_answer(encoder, tmp_path):
    result = finetune(encoder, questions(), tmp_path / "f", **{**TINY, "epochs": 10})
    assert result.task == "question-answering" and result.scores["exact_match"] > 0.5 > result.majority["exact_match"] and "no_answer_exact_match" in result.scores
    config = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "f").config
    assert config.no_answer_threshold == result.choices["no_answer_threshold"]
    asked = [(row["question"], row["context"]) for row in questions()["test"]]
    again = predict(tmp_path / "f", asked, device="cpu", **{name: result.choices[name] for name in ("max_length", "stride")})
    assert [p.answer for p in again] == list(result.predictions)                           # read as in the test
    assert worst_errors(result, texts=asked).errors == sum(p not in (list(r) or [""]) for p, r in zip(result.predictions, result.references))
    only = finetune(encoder, questions(empty=False), tmp_path / "v1", **{**TINY, "epochs": 1})
    assert "no_answer_threshold" not in only.choices and all(only.predictions)                # a model of questions that all have one always answers


def test_a_number_by_name(encoder, tmp_path):
    data = split(Dataset.from_dict({"text": TEXTS, "label": [float(len(t) % 5) for t in TEXTS]}))
    result = finetune(encoder, data, tmp_path / "f", task="regression", **TINY)
    assert result.task == "regression" and set(result.scores) == {"pearson", "spearman", "rmse"} and result.majority["pearson"] == 0


# ---- numbers of any unit

def numbers(factor=1.0, offset=0.0):
    "How many of the first words are animals."
    count = lambda text: sum(w in ANIMALS for w in text.split()[:12])
    return split(Dataset.from_dict({"text": TEXTS, "label": [factor * count(t) + offset for t in TEXTS]}))


def plain_logits(folder, texts):
    "What the library alone makes of a saved folder."
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return np.array([model(**tokenizer(t, return_tensors="pt", truncation=True, max_length=48)).logits[0, 0].item() for t in texts])


@pytest.mark.parametrize("changes", [{}, {"method": "lora"}, {"method": "frozen"}, {"method": "last", "best": True, "epochs": 5}])
def test_numbers_are_learned_in_any_unit(encoder, tmp_path, changes):
    runs = {}
    for factor, offset in ((1.0, 0.0), (4096.0, 0.0), (50.0, 700.0)):
        runs[factor, offset] = run = finetune(encoder, numbers(factor, offset), tmp_path / f"{factor}", task="regression", **{**TINY, **changes})
        np.testing.assert_allclose(run.predictions, plain_logits(tmp_path / f"{factor}", numbers()["test"]["text"]), rtol=1e-4, atol=1e-4 * factor)       # scored is what is saved
        truth = np.array(run.references)
        assert run.scores["rmse"] == pytest.approx(np.sqrt(np.mean((np.array(run.predictions) - truth) ** 2))) and run.scores["rmse"] < 1.5 * truth.std()
        assert all(v["rmse"] < 3 * truth.std() for v in run.validation) and run.history[0]["loss"] < 5
        assert run.choices["label_mean"] == pytest.approx(np.mean(numbers(factor, offset)["train"]["label"]))
    first, larger, moved = runs.values()
    assert larger.predictions == tuple(4096 * p for p in first.predictions) and [h["loss"] for h in larger.history] == [h["loss"] for h in first.history]
    np.testing.assert_allclose(moved.predictions, 50 * np.array(first.predictions) + 700, atol=0.05)
    assert [v["rmse"] for v in moved.validation] == pytest.approx([50 * v["rmse"] for v in first.validation], abs=0.05)


def test_the_adapter_of_numbers_gives_the_merged_model(encoder, tmp_path):
    from peft import PeftModel
    result = finetune(encoder, numbers(50, 700), tmp_path / "f", task="regression", method="lora", best=True, **{**TINY, "epochs": 4})
    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1)
    again = PeftModel.from_pretrained(base, tmp_path / "f" / "adapter").eval().base_model.model
    np.testing.assert_allclose(predict_logits(again, AutoTokenizer.from_pretrained(encoder), numbers()["test"]["text"], 48)[:, 0], result.predictions, atol=0.01)


def test_equal_numbers_and_a_head_without_bias(encoder, decoder, tmp_path, caplog):
    data = numbers()
    data["train"] = Dataset.from_dict({"text": data["train"]["text"], "label": [300.1] * len(data["train"])})
    assert np.allclose(finetune(encoder, data, tmp_path / "equal", task="regression", **TINY).predictions, 300.1, atol=2)
    result = finetune(decoder, numbers(1000, -2000), tmp_path / "f", task="regression", **TINY)
    assert result.choices["label_mean"] == 0 and "has no bias" not in caplog.text
    np.testing.assert_allclose(result.predictions, plain_logits(tmp_path / "f", numbers()["test"]["text"]), rtol=1e-3, atol=0.5)
    finetune(decoder, numbers(1, 300), tmp_path / "g", task="regression", **TINY)
    assert "GPT2ForSequenceClassification has no bias" in caplog.text
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1)
    model.classifier = torch.nn.Sequential(torch.nn.Identity())
    assert finetuning._scale("regression", model, data["train"]) is None and finetuning._scale("classification", model, data["train"]) is None
    with pytest.raises(ValueError, match="label 1e.39 is larger"):
        finetune(encoder, numbers(1e39 / max(numbers()["train"]["label"])), tmp_path / "h", task="regression", **TINY)


@pytest.mark.parametrize("kind, method", [("encoder", "full"), ("encoder", "lora"), ("decoder", "full")])
def test_numbers_go_on_from_what_a_folder_knows(kind, method, tmp_path, request):
    first = finetune(request.getfixturevalue(kind), numbers(50, 700), tmp_path / "f", task="regression", **TINY)
    again = finetune(tmp_path / "f", numbers(60, 500), tmp_path / "g", task="regression", method=method, **{**TINY, "learning_rate": 1e-9, "epochs": 1})
    np.testing.assert_allclose(again.predictions, first.predictions, atol=0.1)


def test_numbers_of_numpy_are_choices_like_others(encoder, tmp_path):
    choices = {**TINY, "epochs": np.float32(1), "max_length": np.int64(48), "learning_rate": np.float64(3e-3), "seed": np.int64(0)}
    result = finetune(encoder, numbers(), tmp_path / "f", task="regression", **choices)
    assert result.predictions == finetune(encoder, numbers(), tmp_path / "g", task="regression", **{**TINY, "epochs": 1.0}).predictions
    assert json.loads((tmp_path / "f" / "lmnotes.json").read_text(encoding="utf-8"))["options"]["max_length"] == 48


def test_a_folder_is_free_again_after_any_end(encoder, tmp_path, monkeypatch):
    out, lock = tmp_path / "run", tmp_path / ".run.lock"
    for error in (RuntimeError("broken"), KeyboardInterrupt()):
        with monkeypatch.context() as patch:
            patch.setattr(finetuning, "_finish", lambda *rest, error=error: _raise(error) if lock.exists() else pytest.fail("not locked"))
            with pytest.raises(type(error)):
                finetune(encoder, numbers(), out, task="regression", overwrite=True, **TINY)
        assert not lock.exists()
    first = finetune(encoder, numbers(), out, task="regression", resume=True, **TINY)
    assert not lock.exists() and finetune(encoder, numbers(), out, task="regression", resume=True, **TINY) == first and not lock.exists()         # complete: given back


def _raise(error):
    raise error


def test_search_learns_numbers_in_any_unit(encoder):
    pytest.importorskip("optuna")
    found = [search(encoder, numbers(*unit), task="regression", trials=1, **{**TINY, "epochs": 1}).score for unit in ((1.0, 0.0), (4096.0, 0.0))]
    assert found[0] == found[1]


def test_a_search_may_answer_nothing_as_finetune_may(encoder, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    given, kept = [], finetuning._answers
    monkeypatch.setattr(finetuning, "_answers", lambda *rest: given.append(kept(*rest)) or given[-1])
    result = finetune(encoder, questions(), tmp_path / "f", best=True, **{**TINY, "epochs": 2})
    validated = given[len(result.validation) - 1]                                             # the last validation, before the test
    given.clear()
    found = search(encoder, questions(), trials=1, **{**TINY, "epochs": 2})
    assert "" in validated and given[-1] == validated and found.score == result.validation[-1][found.metric]


def rewritten():
    "Sources, and a word of each to write."
    return split(Dataset.from_dict({"source": [t[:20] for t in TEXTS], "target": [t.split()[0] for t in TEXTS]}))


@pytest.mark.parametrize("kind", ["decoder", "bart"])
def test_texts_are_written_from_fine_tuning_to_prediction(kind, request, tmp_path, caplog):
    data = rewritten()
    caplog.set_level("INFO", "lmnotes.finetuning")
    result = finetune(request.getfixturevalue(kind), data, tmp_path / "f", task="translation", max_new_tokens=6, num_beams=2, length_penalty=0.5, **{**TINY, "epochs": 3, "max_length": 12})
    assert result.task == "translation" and 0 <= result.scores["bleu"] <= 100 and result.history[-1]["validation"]["loss"] < result.history[0]["loss"]
    assert result.choices["max_new_tokens"] == 6 and result.choices["num_beams"] == 2 and caplog.text.count("were cut, with max_length 12 and max_new_tokens 6") == 1
    model, tokenizer = load(tmp_path / "f", device="cpu")
    assert model.config.is_encoder_decoder == (kind == "bart") and (getattr(model.config, "prompt_separator", None) == SEPARATOR) == (kind == "decoder")
    asked = dict(max_new_tokens=6, num_beams=2, length_penalty=0.5)
    assert [p.text for p in predict(tmp_path / "f", list(data["test"]["source"]), device="cpu", max_length=12, **asked)] == list(result.predictions)
    assert generate_texts(model, tokenizer, list(data["test"]["source"]), progress=False, max_source_length=12, **asked) == list(result.predictions)
    wrong = sum(p != r for p, r in zip(result.predictions, result.references))
    assert worst_errors(result, texts=list(data["test"]["source"])).errors == wrong and verify(tmp_path / "f") == []


# ---- losses

def test_losses_are_the_librarys(tokenizer):
    rows = [{**r, "labels": np.int64(i % 2)} for i, r in enumerate(finetuning._rows(finetuning._encoded(tokenizer, TEXTS[:5], None, 48)))]
    batch, model = finetuning.collate(rows, tokenizer), head(BertForSequenceClassification, tokenizer, num_labels=2)
    assert finetuning._loss("classification", model, batch).item() / 5 == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    weights = torch.tensor([3.0, 1.0])
    expected = F.cross_entropy(model(**batch).logits, batch["labels"], weight=weights, reduction="sum")
    assert finetuning._loss("classification", model, batch, weights).item() == pytest.approx(expected.item(), rel=1e-5)
    model = head(BertForTokenClassification, tokenizer, num_labels=2)
    batch = finetuning.collate(finetuning._tag_rows(tokenizer, tags()["train"].select(range(5)), 48, 8), tokenizer)
    assert (finetuning._loss("tokens", model, batch) / finetuning._count("tokens", model, batch)).item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    model = head(BertForQuestionAnswering, tokenizer)
    batch = finetuning.collate(finetuning._answer_rows(tokenizer, questions()["train"].select(range(5)), 48, 8), tokenizer)
    assert finetuning._loss("question-answering", model, batch).item() / len(batch["input_ids"]) == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_balanced_weights_have_a_mean_of_one():
    data = classes()["train"]
    weights = finetuning._class_weights("classification", data, finetuning.FinetuningOptions(class_weight="balanced"), "cpu").numpy()
    labels = np.array(data["label"])
    assert weights[labels].mean() == pytest.approx(1) and weights[0] * (labels == 0).sum() == pytest.approx(weights[1] * (labels == 1).sum())


def test_weights_of_several_labels_are_the_losss(encoder, tokenizer, tmp_path):
    data, options = sets()["train"], finetuning.FinetuningOptions(class_weight="balanced")
    weights = finetuning._class_weights("multi-label", data, options, "cpu")
    with_each = np.array([sum(k in row for row in data["labels"]) for k in range(4)])
    np.testing.assert_allclose(weights, (len(data) - with_each) / with_each, rtol=1e-6)
    everywhere = Dataset.from_dict({"text": ["a", "b"], "labels": [[0], [0, 1]]}, features=data.features)
    assert finetuning._class_weights("multi-label", everywhere, options, "cpu").tolist() == [1, 1, 1, 1]       # of all, of half, of none
    model = head(BertForSequenceClassification, tokenizer, num_labels=4)
    batch = finetuning.collate(finetuning._examples("multi-label", model, tokenizer, data.select(range(5)), options), tokenizer)
    logits, labels = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits, batch["labels"]
    expected = -(weights * labels * F.logsigmoid(logits) + (1 - labels) * F.logsigmoid(-logits)).sum() / 4
    assert finetuning._loss("multi-label", model, batch, weights).item() == pytest.approx(expected.item(), rel=1e-5)
    assert finetune(encoder, sets(), tmp_path / "f", class_weight="balanced", **{**TINY, "epochs": 1}).task == "multi-label"


def test_the_step_without_correction_is_adams():
    "Two optimizers on one gradient: torch's, and the update written out without correction."
    gradients, m, v = [0.5, -1.0, 2.0, 0.3], 0.0, 0.0
    p, plain = torch.nn.Parameter(torch.zeros(1)), 0.0
    optimizer = torch.optim.Adam([p], lr=1.0, eps=1e-12)
    for step, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        plain -= 0.01 * m / math.sqrt(v)
        p.grad = torch.tensor([g])
        optimizer.param_groups[0]["lr"] = 0.01 * uncorrected(step)
        optimizer.step()
    assert p.item() == pytest.approx(plain, rel=1e-5) and uncorrected(1) == pytest.approx(3.16, abs=0.01) and uncorrected(100_000) == pytest.approx(1)


# ---- methods

def test_methods_change_what_they_say(encoder, tmp_path):
    before = load_file(Path(encoder) / "model.safetensors")
    for method, moved in (("frozen", []), ("last", ["encoder.layer.1"]), ("lora", ["encoder.layer.0", "encoder.layer.1"])):
        result = finetune(encoder, classes(), tmp_path / method, method=method, last_layers=1, **TINY)
        after = load_file(tmp_path / method / "model.safetensors")
        changed = {name for name, value in before.items() if name in after and not torch.equal(value, after[name])}
        assert all(any(m in name for m in moved) for name in changed) and (bool(changed) == bool(moved)), method
        assert result.trainable < result.parameters and result.training_bytes == 12 * result.trainable
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / method)               # an ordinary folder
        assert set(after) == set(model.state_dict())
        logits = predict_logits(model, AutoTokenizer.from_pretrained(tmp_path / method), classes()["test"]["text"], 48)
        assert logits.argmax(1).tolist() == list(result.predictions)
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file() and result.disk_bytes < (tmp_path / "lora" / "model.safetensors").stat().st_size / 2
    with pytest.raises(ValueError, match="leaves nothing"):
        choose_parameters(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)), "frozen")


def test_the_adapter_gives_the_merged_model(encoder, tmp_path):
    from peft import PeftModel
    finetune(encoder, classes(), tmp_path / "f", method="lora", **TINY)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "f")
    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    again = PeftModel.from_pretrained(base, tmp_path / "f" / "adapter").eval().base_model.model
    np.testing.assert_allclose(predict_logits(again, tokenizer, TEXTS[:9], 48), predict_logits(merged, tokenizer, TEXTS[:9], 48), atol=1e-5)


def test_layers_learn_at_rates_of_their_own(tokenizer):
    model = head(BertForSequenceClassification, tokenizer)
    optimizer = finetuning._make_optimizer(model, 1.0, 0.1, 0.5)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rate[id(model.classifier.weight)] == 1 and rate[id(model.bert.encoder.layer[1].output.dense.weight)] == 0.5
    assert rate[id(model.bert.encoder.layer[0].output.dense.weight)] == 0.25 and rate[id(model.bert.embeddings.word_embeddings.weight)] == 0.125
    assert len(rate) == sum(1 for _ in model.parameters()) and len(finetuning._make_optimizer(model, 1.0, 0.1, 1.0).param_groups) == 2
    assert default_learning_rate(110e6) == pytest.approx(6.7e-5, rel=0.01) and default_learning_rate(1e6) == 5e-4 and default_learning_rate(22e6, "frozen") == pytest.approx(1.5e-3)


def test_what_is_below_the_layers_learns_most_slowly(tokenizer):
    from transformers import BartConfig, DistilBertConfig, ElectraConfig, GPT2ForSequenceClassification, ModernBertConfig, T5Config, T5ForConditionalGeneration
    size = len(tokenizer)
    bart = dict(d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32)
    small = dict(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    kinds = [(BertConfig(**small), AutoModelForSequenceClassification), (ElectraConfig(**small, embedding_size=16), AutoModelForSequenceClassification),
             (DistilBertConfig(vocab_size=size, dim=16, n_layers=2, n_heads=2, hidden_dim=16), AutoModelForSequenceClassification),
             (ModernBertConfig(**small, pad_token_id=0, global_attn_every_n_layers=1), AutoModelForSequenceClassification),
             (T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2), T5ForConditionalGeneration), (BartConfig(vocab_size=size, **bart), BartForConditionalGeneration),
             (GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2), GPT2ForSequenceClassification)]
    for config, kind in kinds:
        model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
        rate = {id(p): g["lr"] for g in finetuning._make_optimizer(model, 1.0, 0.0, 0.5).param_groups for p in g["params"]}
        for name, p in model.named_parameters():
            number = re.search(r"(?:layers?|block|h)\.(\d)\.", name)
            below = "embed" in name or "shared" in name or re.search(r"\.w[tp]e\.", name)
            assert rate[id(p)] == (0.25 * 2 ** int(number[1]) if number else 0.125 if below else 1), (config.model_type, name)
        adapter = choose_parameters(model, "lora", lora_rank=2)
        learning = {name for name, p in model.named_parameters() if p.requires_grad}
        assert adapter is not None and all(any(f"{side}." in name and "lora" in name for name in learning) for side in (("encoder", "decoder") if config.is_encoder_decoder else ()))


def test_threshold_is_the_best_of_all(encoder, tmp_path):
    generator = np.random.default_rng(0)
    p, truth = generator.random(60).round(1), generator.random(60) < 0.3
    f1 = lambda t: 2 * ((p >= t) & truth).sum() / max(1, (p >= t).sum() + truth.sum())
    assert f1(best_threshold(p, truth)) == pytest.approx(max(f1(t) for t in np.arange(0, 1.1, 0.05))) and best_threshold([0.2], [False]) == 0.5
    result = finetune(encoder, classes(validation=False), tmp_path / "f", threshold=True, class_weight="balanced", **TINY)
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "f").config
    assert config.decision_threshold == result.choices["decision_threshold"] and config.decision_label == 0
    config.decision_threshold = 0.0
    assert predicted_labels(np.array([[0.0, 9.0]]), config).tolist() == [0]                       # everything is called rare from 0 on


def test_patience_keeps_the_best_epoch(encoder, tmp_path, monkeypatch):
    values = iter([0.5, 0.9, 0.6, 0.4, 0.3, 0.2, 0.1])
    own, kept = finetuning._validation, []

    def validation(task, model, *rest):
        def measure():
            kept.append({k: v.clone() for k, v in model.state_dict().items()})
            return {"accuracy": next(values)}
        return measure, "accuracy", 1
    monkeypatch.setattr(finetuning, "_validation", validation)
    own_finish, tries = finetuning._finish, []
    monkeypatch.setattr(finetuning, "_finish", lambda *rest: own_finish(*rest) if tries else (tries.append(1), 1 / 0))
    with pytest.raises(ZeroDivisionError):                                                        # stopped while it is scored, it learns no further
        finetune(encoder, classes(), tmp_path / "f", **{**TINY, "epochs": 20, "patience": 2})
    values = iter([kept.pop() and 0.4])
    result = finetune(encoder, classes(), tmp_path / "f", resume=True, **{**TINY, "epochs": 20, "patience": 2})
    assert own and len(kept) == 5 and result.history[-1]["epoch"] < 6
    after = load_file(tmp_path / "f" / "model.safetensors")
    assert all(torch.equal(kept[1][k], after[k]) for k in after)


def test_search_gives_choices_that_can_be_used(encoder, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    clip, seen = torch.nn.utils.clip_grad_norm_, []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, *rest, **named: (seen.append([p.grad is not None for p in parameters]), clip(parameters, *rest, **named))[1])
    found = search(encoder, classes(), trials=3, **{**TINY, "learning_rate": None, "epochs": 1})
    assert len(found.trials) == 3 and found.score == max(t["score"] for t in found.trials) and set(found.best) == {"learning_rate", "weight_decay"}
    assert found.trials[0]["learning_rate"] == pytest.approx(5e-4) and len({t["learning_rate"] for t in found.trials}) == 3
    assert "best of 3" in repr(found) and "<table>" in found._repr_html_()
    assert len(seen) >= 3 and all(sum(step) > 10 for step in seen)                  # each trial's own gradients are clipped
    finetune(encoder, classes(), tmp_path / "f", **{**TINY, "epochs": 1, **found.best})
    for bad, words in ((dict(trials=0), "^trials 0 must be 1 or more$"), (dict(minutes=0), "^minutes 0 must be above 0; leave it out for no limit$"), (dict(space={"dropout": (0, 1)}), "dropout"), (dict(space={"learning_rate": (2, 1)}), "learning_rate")):
        with pytest.raises(ValueError, match=words):
            search(encoder, classes(), **bad)


# ---- stopped and resumed

RUN = dict(epochs=2, learning_rate=3e-3, max_length=32, batch_size=8, device="cpu", precision="fp32", samples=0, checkpoint_steps=5)


def _run(place, encoder, name, changes, log=None, kill_at=None, number=signal.SIGKILL):
    "One run of `finetune` in a process of its own."
    torch.set_num_threads(1)
    sys.stderr = open(Path(place) / "stderr", "a", encoding="utf-8")
    if log or kill_at is not None:
        _watch_touches(place, log, kill_at, number)
    data = {"tags": tags, "questions": questions, "texts": rewritten}.get(name.partition("-")[0], classes)
    finetune(encoder, data(), Path(place) / name, **{**RUN, **changes})


@pytest.fixture(scope="module")
def start(encoder, tmp_path_factory):
    "Start a run in a process of its own; give its exit code."
    place = tmp_path_factory.mktemp("runs")

    def run(name, changes=None, model=encoder, **more):
        process = CONTEXT.Process(target=_run, args=(str(place), str(model), name, changes or {}), kwargs=more)
        process.start()
        process.join(120)
        return process.exitcode
    run.place = place
    return run


@pytest.fixture(scope="module")
def alone(start):
    "The run that nobody disturbs, and its touches of the folder."
    log = start.place.parent / "touches"
    assert start("alone", log=str(log)) == 0, (start.place / "stderr").read_text()
    return start.place / "alone", log.read_text(encoding="utf-8").splitlines()


def outcome(folder):
    "What must not differ between two runs."
    facts = json.loads((folder / "lmnotes.json").read_text(encoding="utf-8"))
    rows = [{k: row.get(k) for k in ("step", "epoch", "loss", "learning_rate", "validation")} for row in facts["history"]]
    return (folder / "model.safetensors").read_bytes(), facts["scores"], rows, (folder / "predictions.json").read_bytes()


MOMENTS = (r"open .*/\.step-00000005.*/progress\.json", r"os.rename .* alone/checkpoints/step-00000010", r"open \.alone-\w+/predictions\.json", r"os.rename \.alone-\w+ alone$")


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_the_run_left_alone(start, alone, moment):
    name = f"killed{MOMENTS.index(moment)}"
    assert start(name, kill_at=touch(alone[1], moment)) == -signal.SIGKILL
    assert start(name, {"resume": True}) == 0, (start.place / "stderr").read_text()
    assert outcome(start.place / name) == outcome(alone[0]) and verify(start.place / name) == []
    assert not [p for p in start.place.iterdir() if p.name.startswith(".")]


def test_a_run_is_not_resumed_on_another_number_of_processes(start, encoder, alone, monkeypatch):
    "Its batches are planned for so many; a checkpoint that does not tell goes on as it did."
    assert start("many", kill_at=touch(alone[1], MOMENTS[1])) == -signal.SIGKILL
    checkpoint = last_checkpoint(start.place / "many")
    progress = checkpoint / "progress.json"
    noted = json.loads(progress.read_text(encoding="utf-8"))
    for then, now, words in ((2, 1, "1 process: .* for 2; start it with 2 .torchrun --nproc-per-node 2., or anew: in another folder"), (1, 3, "3 processes: .* for 1; start it with 1 .without torchrun.")):
        progress.write_text(json.dumps({**noted, "processes": then}), encoding="utf-8")
        finetuning.write_checksums(checkpoint)
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=f"many' cannot be resumed with {words}"):
            patch.setattr(finetuning, "world_size", lambda: now)
            finetune(encoder, classes(), start.place / "many", **{**RUN, "resume": True})
    assert noted.pop("processes") == 1
    progress.write_text(json.dumps(noted), encoding="utf-8")
    finetuning.write_checksums(checkpoint)
    assert start("many", {"resume": True}) == 0, (start.place / "stderr").read_text()
    assert outcome(start.place / "many") == outcome(alone[0])


def test_ctrl_c_saves_and_goes_on(start, alone):
    assert start("interrupted", kill_at=touch(alone[1], r"open .*/\.step-00000010.*/progress\.json"), number=signal.SIGINT) == 1
    assert last_checkpoint(start.place / "interrupted") is not None
    assert start("interrupted", {"resume": True}) == 0
    assert outcome(start.place / "interrupted")[0] == outcome(alone[0])[0]


@pytest.mark.parametrize("left", [0, 70], ids=["empty", "cut"])
def test_a_run_goes_on_where_the_list_of_checksums_is_lost(start, alone, left):
    name = f"listless-{left}"
    assert start(name, kill_at=touch(alone[1], MOMENTS[1])) == -signal.SIGKILL
    newest = sorted((start.place / name / "checkpoints").glob("step-*"))[-1]
    os.truncate(newest / "SHA256SUMS", left)
    assert start(name, {"resume": True}) == 0, (start.place / "stderr").read_text()
    assert outcome(start.place / name) == outcome(alone[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_end_is_heeded(encoder, alone, tmp_path, monkeypatch, caplog, number):
    "While the last step is saved the run stops, and goes on from there; in the last validation it says that it ends, and ends."
    own, measure, steps = finetuning._Watch._save, finetuning._keep_best, json.loads((alone[0] / "lmnotes.json").read_text())["steps"]
    monkeypatch.setattr(finetuning._Watch, "_save", lambda watch: (watch.trainer.state.global_step == steps and signal.raise_signal(number), own(watch))[1])
    with pytest.raises(KeyboardInterrupt, match=rf"stopped at the end .*step-{steps:08d}.*resume=True"):
        finetune(encoder, classes(), tmp_path / "f", **RUN)
    assert last_checkpoint(tmp_path / "f").name == f"step-{steps:08d}"
    monkeypatch.setattr(finetuning._Watch, "_save", own)
    monkeypatch.setattr(finetuning, "_keep_best", lambda *rest: (signal.raise_signal(number), measure(*rest)))
    result = finetune(encoder, classes(), tmp_path / "f", resume=True, **RUN)
    assert "at its end and gets saved" in caplog.text and result.steps == steps and len(result.predictions) == 20


@pytest.mark.parametrize("changes", [{}, {"best": True, "method": "lora"}])
def test_what_was_learned_is_there_when_scoring_fails(encoder, tmp_path, monkeypatch, changes):
    data, changes = numbers(50, 700), {**RUN, **changes, "task": "regression"}
    whole = finetune(encoder, data, tmp_path / "whole", **changes)
    own = finetuning.baseline
    monkeypatch.setattr(finetuning, "baseline", lambda *rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune(encoder, data, tmp_path / "f", **changes)
    monkeypatch.setattr(finetuning, "baseline", own)
    monkeypatch.setattr(finetuning._Trainer, "train", lambda *rest, **more: pytest.fail("trained again"))
    again = finetune(encoder, data, tmp_path / "f", resume=True, **changes)
    assert outcome(tmp_path / "f") == outcome(tmp_path / "whole") and again.predictions == whole.predictions and again.steps == whole.steps


def test_another_validation_split_is_another_run(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "_finish", lambda *rest: 1 / 0)
    other = classes()
    other["validation"] = other["validation"].select(range(10))
    changes = {**TINY, "best": True, "epochs": 1}
    with pytest.raises(ZeroDivisionError):
        finetune(encoder, classes(), tmp_path / "f", **changes)
    with pytest.raises(ValueError, match="another validation split"):
        finetune(encoder, other, tmp_path / "f", resume=True, **changes)
    progress = last_checkpoint(tmp_path / "f") / "progress.json"                        # of a version that did not note the split
    facts = json.loads(progress.read_text(encoding="utf-8"))
    del facts["identity"]["validation split"]
    progress.write_text(json.dumps(facts), encoding="utf-8")
    finetuning.write_checksums(progress.parent)
    with pytest.raises(ZeroDivisionError):
        finetune(encoder, other, tmp_path / "f", resume=True, **changes)
    with pytest.raises(ZeroDivisionError):                                               # where it decides nothing, it may be another
        finetune(encoder, classes(), tmp_path / "g", **{**changes, "best": False})
    with pytest.raises(ZeroDivisionError):
        finetune(encoder, other, tmp_path / "g", resume=True, **{**changes, "best": False})


@pytest.mark.parametrize("changes", [{"method": "lora"}, {"best": True, "layer_decay": 0.5}])
def test_methods_resume_too(start, alone, changes):
    name = "-".join(changes)
    assert start(f"{name}-alone", changes) == 0, (start.place / "stderr").read_text()
    assert start(name, changes, kill_at=touch([line.replace("alone", name) for line in alone[1]], rf"os.rename .* {name}/checkpoints/step-00000010")) == -signal.SIGKILL
    assert start(name, {**changes, "resume": True}) == 0, (start.place / "stderr").read_text()
    assert outcome(start.place / name) == outcome(start.place / f"{name}-alone")


@pytest.mark.parametrize("family, method", [("tags", "full"), ("questions", "full"), ("texts", "full"), ("texts-lora", "lora")])
def test_families_resume_too(start, alone, decoder, encoder, family, method):
    changes, more = {"best": True, "max_new_tokens": 6, "method": method}, {"model": decoder if family.startswith("texts") else encoder}
    assert start(f"{family}-alone", changes, **more) == 0, (start.place / "stderr").read_text()
    moment = touch([line.replace("alone", f"{family}-killed") for line in alone[1]], rf"os.rename .* {family}-killed/checkpoints/step-00000010")
    assert start(f"{family}-killed", changes, kill_at=moment, **more) == -signal.SIGKILL
    assert last_checkpoint(start.place / f"{family}-killed") is not None and not (start.place / f"{family}-killed" / "config.json").exists()
    assert start(f"{family}-killed", {**changes, "resume": True}, **more) == 0, (start.place / "stderr").read_text()
    assert outcome(start.place / f"{family}-killed") == outcome(start.place / f"{family}-alone")


@pytest.mark.parametrize("kind", ["encoder", "decoder", "bart"])
def test_low_rank_changes_are_drawn_from_the_seed(kind, request, tmp_path):
    model, data = request.getfixturevalue(kind), classes() if kind == "encoder" else rewritten()
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)
        finetune(model, data, tmp_path / name, **{**TINY, "epochs": 0.5, "samples": 0, "max_new_tokens": 4, "train_examples": 20, "method": "lora", "seed": seed})
        found.append((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1] != found[2]


def test_a_run_that_learns_some_rows_resumes_too(start, alone, wide):
    assert start("wide-alone", {"best": True}, model=wide) == 0, (start.place / "stderr").read_text()
    assert start("wide-killed", {"best": True}, kill_at=touch([line.replace("alone", "wide-killed") for line in alone[1]], r"os.rename .* wide-killed/checkpoints/step-00000010"), model=wide) == -signal.SIGKILL
    learned = load_file(last_checkpoint(start.place / "wide-killed") / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    given = load_file(Path(wide) / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert learned.shape == given.shape and torch.equal(learned[-300:], given[-300:]) and not torch.equal(learned, given)
    assert start("wide-killed", {"best": True, "resume": True}, model=wide) == 0, (start.place / "stderr").read_text()
    assert outcome(start.place / "wide-killed") == outcome(start.place / "wide-alone")


@pytest.mark.parametrize("first", [False, True], ids=["some-then-all", "all-then-some"])
def test_a_run_goes_on_where_other_rows_of_the_embeddings_are_learned(wide, tmp_path, monkeypatch, first):
    "Compiled, and on a GPU, all rows are learned, else those of seen tokens: the optimizer's moments go to the rows of their tokens."
    some_rows, step_end, choices = finetuning._seen_rows, pretraining._Watch.on_step_end, {**RUN, "weight_decay": 0.0}

    def learn(every):
        @contextlib.contextmanager
        def rows(*given):
            with contextlib.ExitStack() as stack:
                with monkeypatch.context() as patch:
                    patch.setattr(finetuning, "world_size", lambda: 1 + every)  # several processes learn all
                    whole = stack.enter_context(some_rows(*given))
                yield whole
        monkeypatch.setattr(finetuning, "_seen_rows", rows)

    def stopped(self, args, state, control, **kwargs):
        result = step_end(self, args, state, control, **kwargs)
        if state.global_step == 12:
            raise RuntimeError("stopped")
        return result
    learn(not first)
    finetune(wide, classes(), tmp_path / "alone", **choices)
    learn(first)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(pretraining._Watch, "on_step_end", stopped)
        finetune(wide, classes(), tmp_path / "x", **choices)
    moments = {len(v) for k, v in load_file(last_checkpoint(tmp_path / "x") / "optimizer.safetensors").items() if k.endswith("exp_avg")}
    rows = len(load_file(Path(wide) / "model.safetensors")["bert.embeddings.word_embeddings.weight"])
    assert (rows in moments) is first
    learn(not first)
    finetune(wide, classes(), tmp_path / "x", resume=True, **choices)
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "x"))
    assert all(torch.allclose(found[k], value, atol=1e-6) for k, value in expected.items())


def test_moments_of_another_shape_are_refused():
    value, like = torch.ones(4, 3), torch.ones(5, 3)
    with pytest.raises(ValueError, match=r"step-1 holds exp_avg of shape \(4, 3\) where \(5, 3\) is learned here: .*start anew"):
        pretraining._at_rows(value, like, "exp_avg", "step-1")
    assert pretraining._at_rows(like, like, "exp_avg", "") is like and pretraining._at_rows(torch.tensor(2.0), like, "step", "") == 2


def test_a_damaged_checkpoint_is_passed_over_and_a_whole_run_given_back(encoder, start, alone, tmp_path, caplog):
    assert start("damaged", kill_at=touch(alone[1], r"open .*/\.step-00000015.*/progress\.json")) == -signal.SIGKILL
    newest = sorted((start.place / "damaged" / "checkpoints").glob("step-*"))[-1]
    (newest / "optimizer.safetensors").write_bytes(b"no")
    assert int(newest.name[5:]) == 10 and last_checkpoint(start.place / "damaged").name == "step-00000005"
    assert start("damaged", {"resume": True}) == 0         # in a process like that of the run left alone: sums depend on the number of threads
    assert outcome(start.place / "damaged") == outcome(alone[0])
    again = finetune(encoder, classes(), start.place / "damaged", **{**RUN, "resume": True})
    assert again.scores == json.loads((start.place / "damaged" / "lmnotes.json").read_text())["scores"] and "is complete" in caplog.text
    with pytest.raises(ValueError, match="learning_rate .then 0.003, now 0.001."):
        finetune(encoder, classes(), start.place / "damaged", **{**RUN, "resume": True, "learning_rate": 1e-3})


def test_a_damaged_result_is_named(encoder, tmp_path):
    options = {**TINY, "epochs": 0.5, "samples": 0}
    done = finetune(encoder, classes(), tmp_path / "r", **options)
    path = tmp_path / "r" / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="'.*r' holds a finished model that is not whole: model.safetensors is damaged .*overwrite=True"):
        finetune(encoder, classes(), tmp_path / "r", resume=True, **options)
    assert finetune(encoder, classes(), tmp_path / "r", resume=True, overwrite=True, **options).scores == done.scores
    assert path.read_bytes() == data and verify(tmp_path / "r") == []
    (tmp_path / "r" / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="SHA256SUMS is missing"):
        finetune(encoder, classes(), tmp_path / "r", resume=True, **options)


def test_a_run_of_other_weights_is_another_run(encoder, tmp_path):
    "The same shapes and the same tokenizer, but another model: its run is neither gone on with nor given back as this one's."
    shutil.copytree(encoder, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file({k: v + 0.01 for k, v in weights.items()}, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    for file in ("SHA256SUMS",):
        (tmp_path / "other" / file).unlink(missing_ok=True)
    first = finetune(encoder, classes(), tmp_path / "run", **TINY)
    assert finetune(encoder, classes(), tmp_path / "run", resume=True, **TINY).scores == first.scores
    with pytest.raises(ValueError, match="cannot be resumed with another weights"):
        finetune(tmp_path / "other", classes(), tmp_path / "run", resume=True, **TINY)


def test_a_plan_shorter_than_a_step_is_repeated(encoder, tmp_path):
    result = finetune(encoder, classes(), tmp_path / "f", **{**TINY, "epochs": 1, "train_examples": 8, "accumulation": 16})
    assert result.steps >= 1 and math.isfinite(result.history[-1]["loss"])


def test_no_more_is_read_than_the_tokenizer_says(encoder, tmp_path):
    shutil.copytree(encoder, tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.model_max_length = 12
    tokenizer.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "SHA256SUMS").unlink(missing_ok=True)
    result = finetune(tmp_path / "m", classes(), tmp_path / "f", **TINY)
    assert result.choices["max_length"] == 12
    again = predict(tmp_path / "f", classes()["test"]["text"][:], device="cpu", max_length=48)
    assert [result.labels.index(p.label) for p in again] == list(result.predictions)


def test_pairs_of_a_model_that_knows_no_second_segment(tokenizer, tmp_path):
    from transformers import RobertaConfig, RobertaForMaskedLM
    model = RobertaForMaskedLM(RobertaConfig(vocab_size=len(tokenizer), **{**SIZES, "max_position_embeddings": 70}, type_vocab_size=1, pad_token_id=tokenizer.pad_token_id))
    folder = save_folder(tmp_path / "m", model, tokenizer)
    assert "token_type_ids" in tokenizer("a", "b")
    data = DatasetDict({s: d.add_column("text_pair", [t[:20] for t in d["text"]]) for s, d in classes().items()})
    result = finetune(folder, data, tmp_path / "f", text_column=["text", "text_pair"], **{**TINY, "epochs": 1})
    again = predict(tmp_path / "f", list(zip(data["test"]["text"], data["test"]["text_pair"])), device="cpu", max_length=48)
    assert [result.labels.index(p.label) for p in again] == list(result.predictions)
    assert finetune(folder, questions(), tmp_path / "q", **{**TINY, "epochs": 1}).task == "question-answering"


def pairs():
    "Texts with a second one."
    return DatasetDict({s: d.map(lambda row: {"text_pair": row["text"][::-1][:20]}) for s, d in classes().items()})


def test_a_folder_without_a_separator_of_its_own_reads_pairs_as_they_were_learned(decoder, bpe, tmp_path):
    "Its tokenizer puts the end of text between them by itself, the tokens are the same, and the library alone gives the same probabilities."
    data, before = pairs(), AutoTokenizer.from_pretrained(decoder)
    finetune(decoder, data, tmp_path / "f", **{**TINY, "epochs": 1})
    after, (texts, seconds) = AutoTokenizer.from_pretrained(tmp_path / "f"), (data["test"][c][:] for c in ("text", "text_pair"))
    assert finetuning._between(before) == before.eos_token and finetuning._between(after) == ""
    for names in (["input_ids"], ["input_ids", "token_type_ids"]):
        before.model_input_names = after.model_input_names = names
        assert finetuning._encoded(after, texts, seconds, 96).data == finetuning._encoded(before, texts, seconds, 96).data
    assert after(texts, seconds)["input_ids"] == before(texts, [before.eos_token + text for text in seconds])["input_ids"]
    assert after(texts)["input_ids"] == before(texts)["input_ids"]
    plain = pipeline("text-classification", str(tmp_path / "f"), top_k=None, device="cpu")
    for text, second in list(zip(texts, seconds))[:5]:
        text = text[:40]
        theirs, ours = plain({"text": text, "text_pair": second}), predict(tmp_path / "f", (text, second), device="cpu")
        assert {row["label"]: row["score"] for row in theirs} == pytest.approx(ours.probabilities, abs=1e-5)
    assert len(explain(tmp_path / "f", (texts[0][:20], seconds[0]), device="cpu").tokens) > 2


def test_folders_of_pairs_without_a_rule_are_read_as_before(decoder, tmp_path, monkeypatch):
    "Those of earlier versions: the end of text is put before the second text."
    monkeypatch.setattr(finetuning, "_separate_pairs", lambda tokenizer: None)
    data = pairs()
    result = finetune(decoder, data, tmp_path / "f", **{**TINY, "epochs": 1})
    monkeypatch.undo()
    assert finetuning._between(AutoTokenizer.from_pretrained(tmp_path / "f")) != ""
    again = predict(tmp_path / "f", list(zip(data["test"]["text"], data["test"]["text_pair"])), device="cpu", max_length=48)
    assert [result.labels.index(p.label) for p in again] == list(result.predictions)


def test_no_rule_for_pairs_is_taken_that_would_change_their_tokens(tokenizer):
    "A tokenizer that marks by a blank where a text begins, and only there, and one with special tokens of its own."
    rules = Tokenizer(models.Unigram([("</s>", 0.0), ("?", 0.0), ("\u2581a", -1.0), ("a", -2.0), ("\u2581b", -1.0), ("\u2581", -3.0)], unk_id=1))
    rules.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    first = PreTrainedTokenizerFast(tokenizer_object=rules, eos_token="</s>", unk_token="?")
    for given in (first, copy.deepcopy(tokenizer)):
        between, own = finetuning._between(given), given.backend_tokenizer.to_str()
        finetuning._separate_pairs(given)
        assert finetuning._between(given) == between and given.backend_tokenizer.to_str() == own


def test_when_to_answer_nothing_is_chosen_without_a_validation_split_too(encoder, tmp_path, caplog):
    data = questions()
    del data["validation"]
    result = finetune(encoder, data, tmp_path / "f", **{**TINY, "epochs": 1})
    assert result.choices["no_answer_threshold"] != 0 and json.loads((tmp_path / "f" / "lmnotes.json").read_text())["examples"]["validation"] == 8
    few = DatasetDict(train=data["train"].select([0, 1]), test=data["test"])
    assert any(not a["text"] for a in few["train"]["answers"])
    assert finetune(encoder, few, tmp_path / "g", **{**TINY, "epochs": 1}).choices["no_answer_threshold"] == 0 and "2 training examples are too few" in caplog.text
    data["train"] = data["train"].filter(lambda a: len(a["text"]) > 0, input_columns="answers")
    assert "validation" not in finetuning._load(data, None, None, None, FinetuningOptions())[1]


def test_windows_may_share_nothing(encoder, tmp_path):
    assert finetuning._stride("question-answering", AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder), FinetuningOptions(stride=0, max_length=24)) == 0
    with pytest.raises(ValueError, match="stride -1 must be 0"):
        FinetuningOptions(stride=-1).check()


def test_a_choice_that_cannot_be_is_the_only_one_named():
    for name, value, words in (("warmup", 1.0, "at least 0 and below 1"), ("warmup", -0.1, "at least 0"), ("layer_decay", 0.0, "above 0 and at most 1"), ("layer_decay", 1.5, "at most 1"),
                               ("weight_decay", -1.0, "0 or more, and finite"), ("weight_decay", float("inf"), "finite"), ("samples", -1, "0 .no intervals. or more")):
        with pytest.raises(ValueError, match=f"^{name} {value} must be .*{words}") as error:
            FinetuningOptions(**{name: value}).check()
        assert not any(other in str(error.value) for other in {"warmup", "layer_decay", "weight_decay", "samples"} - {name})
    FinetuningOptions(warmup=0.0, layer_decay=1.0, weight_decay=0.0, samples=0).check()


@pytest.mark.slow
def test_two_processes_are_a_run_in_two_parts(encoder, tokenizer, tmp_path):
    quiet = save_folder(tmp_path / "quiet", BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)), tokenizer)
    data = tmp_path / "data"
    data.mkdir()
    for name, part in classes().items():
        part.cast_column("label", Value("int64")).to_json(str(data / f"{name}.jsonl"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    words = ["finetune", str(quiet), str(data), "--output-dir", str(tmp_path / "two"), "--epochs", "2", "--device", "cpu", "--precision", "fp32", "--task", "classification", "--samples", "0", "--max-length", "48"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "lmnotes.cli", *words],
                          env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert execute(COMMANDS, [*words[:3], "--output-dir", str(tmp_path / "parts"), *words[5:], "--accumulation", "2"]) == 0
    two, parts = (json.loads((tmp_path / name / "lmnotes.json").read_text()) for name in ("two", "parts"))
    assert [h["loss"] for h in two["history"]] == pytest.approx([h["loss"] for h in parts["history"]], abs=1e-4) and two["hardware"]["processes"] == 2
    assert two["scores"]["accuracy"] == pytest.approx(parts["scores"]["accuracy"]) and verify(tmp_path / "two") == []
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


_TWO = """
import json, os, signal, sys
from datasets import load_from_disk
from lmnotes import finetuning, pretraining
model, data, folder, options = sys.argv[1:]
options = json.loads(options)
die, step = options.pop("die", None), finetuning._Watch.on_step_end
def end(self, args, state, control, **kwargs):
    if state.global_step == die:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, args, state, control, **kwargs)
finetuning._Watch.on_step_end = end
finetuning.finetune(model, load_from_disk(data), folder, **options)
"""


def on_two(tmp_path, model, data, name, **options):
    "Run `finetune` on two processes; give the exit code and what was said."
    data.save_to_disk(tmp_path / "data")
    (tmp_path / "two.py").write_text(_TWO, encoding="utf-8")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, (tmp_path / "two.py", model, tmp_path / "data", tmp_path / name)), json.dumps({**RUN, **options})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


def test_unused_parameters_are_found_without_drawing(tokenizer, bpe):
    "A pooler that labels of words do not ask for, layers that are left out at random; what does not learn is not asked for either."
    bert, fnet = head(BertForTokenClassification, tokenizer), FNetForTokenClassification(FNetConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=32))
    labels = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[0, 1, -100]])}
    some = lambda model, task="tokens", batch=labels: finetuning.engine._some_unused(model, lambda *given: finetuning._loss(task, *given), batch, False)
    before = torch.get_rng_state()
    assert some(fnet.train()) and fnet.training and not some(bert) and not bert.training
    fnet.fnet.pooler.requires_grad_(False)
    assert not some(fnet) and all(p.grad is None for p in fnet.parameters()) and torch.equal(torch.get_rng_state(), before)
    for rate in (0.0, 0.1):
        bart = BartForConditionalGeneration(encoder_decoder_config(bpe, "bart", layers=1, hidden=32, heads=2, max_length=64, encoder_layerdrop=rate))
        assert some(bart, "translation", {"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[7, 8]])}) == (rate > 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes_train_a_model_with_parameters_that_the_loss_does_not_use(tokenizer, tmp_path, method):
    "FNet has a pooler, which labels of words do not ask for: it stays as it was."
    torch.manual_seed(0)
    config = FNetConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=32, max_position_embeddings=64, hidden_dropout_prob=0.0)
    folder = save_folder(tmp_path / "m", FNetForTokenClassification(config), tokenizer)
    code, said = on_two(tmp_path, folder, tags(), "two", epochs=1, method=method)
    assert code == 0, said
    parts = finetune(folder, tags(), tmp_path / "parts", **{**RUN, "epochs": 1, "method": method, "accumulation": 2})
    two = json.loads((tmp_path / "two" / "lmnotes.json").read_text(encoding="utf-8"))
    assert [h["loss"] for h in two["history"]] == pytest.approx([h["loss"] for h in parts.history], abs=1e-4)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "two" / "model.safetensors")
    pooler = [name for name in after if "pooler" in name]
    assert pooler and all(torch.equal(before[name], after[name]) for name in pooler)


@pytest.mark.slow
@pytest.mark.parametrize("family, method", [("classes", "full"), ("tags", "lora"), ("texts", "full")])
def test_two_processes_resume_with_the_same_bits(encoder, bpe, tmp_path, family, method):
    model, data = encoder, {"classes": classes, "tags": tags, "texts": rewritten}[family]()
    if family == "texts":
        torch.manual_seed(0)
        config = T5Config(vocab_size=len(bpe), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0, pad_token_id=bpe.pad_token_id, eos_token_id=bpe.eos_token_id)
        model = save_folder(tmp_path / "m", T5ForConditionalGeneration(config), bpe)
    options = dict(method=method, best=True, max_new_tokens=6)
    assert on_two(tmp_path, model, data, "alone", **options)[0] == 0
    assert on_two(tmp_path, model, data, "killed", die=7, **options)[0] != 0
    assert last_checkpoint(tmp_path / "killed").name == "step-00000005" and not (tmp_path / "killed" / "config.json").exists()
    code, said = on_two(tmp_path, model, data, "killed", resume=True, **options)
    assert code == 0 and "SIGKILL" not in said, said
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "alone") and verify(tmp_path / "killed") == []


# ---- what cannot be

def broken(data, **columns):
    "The data with other columns in its training split."
    rows = data["train"].to_dict() | columns
    return DatasetDict({**data, "train": Dataset.from_dict(rows, features=data["train"].features)})


def test_bad_input_is_refused_before_long_work(encoder, decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "_train", lambda *a, **k: pytest.fail("trained"))
    good, one = classes(), classes()
    one["train"] = one["train"].filter(lambda label: label == 1, input_columns="label")
    short = tags()
    short["train"] = short["train"].map(lambda row, i: {"tags": row["tags"][: 3 if i == 2 else None]}, with_indices=True)
    cases = [
        (encoder, good, dict(task="guess"), ValueError, "guess"), (encoder, one, {}, ValueError, "label"), (encoder, short, {}, ValueError, "tags"),
        (encoder, good, dict(epochs=0), ValueError, "epochs 0"), (encoder, good, dict(method="half"), ValueError, "half"), (encoder, good, dict(class_weight="heavy"), ValueError, "heavy"),
        (encoder, good, dict(length_penalty=math.inf), ValueError, "length_penalty inf"), (decoder, good, dict(no_repeat_ngram_size=-2), ValueError, "no_repeat_ngram_size -2"),
        (encoder, good, dict(warmup=1.5), ValueError, "warmup"), (encoder, good, dict(weight_decay=math.nan), ValueError, "^weight_decay nan must be a finite number, such as [0-9.]+$"), (encoder, good, dict(learning_rate=math.nan), ValueError, "^learning_rate nan must be a finite number$"),
        (encoder, good, dict(weight_decay=math.inf), ValueError, "weight_decay inf"), (encoder, good, dict(max_length="64"), ValueError, "max_length '64' must be a whole number"),
        (encoder, good, dict(epochs="3"), ValueError, "epochs '3' must be a number"), (encoder, good, dict(patience=True), ValueError, "patience True"), (encoder, good, dict(keep=None), ValueError, "keep None"),
        (encoder, good, dict(report_to="foo"), ValueError, "report_to 'foo' is not known"), (encoder, good, dict(report_to="foo", overwrite=True), ValueError, "report_to 'foo'"), (encoder, tags(), dict(threshold=True), ValueError, "two classes"),
        (encoder, good, dict(text_column="body"), ValueError, "body"), (decoder, questions(), {}, ValueError, "separate"), ("runs/none", good, {}, FileNotFoundError, "runs/none"),
        (encoder, "nobody/nothing", {}, FileNotFoundError, "nobody"), (3, good, {}, TypeError, "int"), (encoder, good, dict(device="cuda:9"), ValueError, "cuda:9"),
    ]
    for model, data, changes, error, words in cases:
        with pytest.raises(error, match=words):
            finetune(model, data, tmp_path / "f", **{**TINY, **changes})
        assert not (tmp_path / "f").exists(), words
    copy = tmp_path / "copy"
    shutil.copytree(encoder, copy)
    (copy / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="not whole"):
        finetune(copy, good, tmp_path / "f", **TINY)


def test_weights_of_no_classes_are_refused_before_anything_is_deleted(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning.engine, "_prepared_folder", lambda *rest: pytest.fail("deleted"))
    with pytest.raises(ValueError, match="class_weight 'balanced' is for classes, and this is a question-answering task: leave it out"):
        finetune(encoder, questions(), tmp_path / "f", **{**TINY, "overwrite": True, "class_weight": "balanced"})


def held_out(data, task=None):
    "Training and validation of data without a validation split."
    task, splits = finetuning._load(data, task, None, None, finetuning.FinetuningOptions(best=True))
    return splits["train"], splits["validation"]


def test_a_validation_split_has_the_rare_class_and_no_text_of_training():
    mail = {"text": [f"mail {i // 2}" for i in range(54)] + [f"win {i}" for i in range(6)], "label": ["ham"] * 54 + ["spam"] * 6}
    rare = {"text": mail["text"][:57], "label": mail["label"][:57]}
    for rows, spam in ((mail, 1), (rare, 1)):
        train, held = held_out({"train": Dataset.from_dict(rows), "test": Dataset.from_dict(rows)})
        assert held["label"].count(1) == spam and len(train) + len(held) == len(rows["text"]) and 4 <= len(held) <= 8
        assert not set(train["text"]) & set(held["text"])


def test_a_validation_split_of_every_family_keeps_equal_texts_together():
    cases = {"tokens": (tags(), "tokens"), "multi-label": (sets(), "text"), "question-answering": (questions(), "context"),
             "summarization": (split(Dataset.from_dict({"source": TEXTS, "target": TEXTS})), "source"),
             "regression": (split(Dataset.from_dict({"text": TEXTS, "label": [float(i) for i in range(120)]})), "text")}
    for task, (data, column) in cases.items():
        doubled = data["train"].select([*range(40), *range(40)])
        train, held = held_out(DatasetDict(train=doubled, test=data["test"]), task)
        key = lambda row: " ".join(row) if isinstance(row, list) else row
        assert not set(map(key, train[column])) & set(map(key, held[column])), task
        assert len(train) + len(held) == 80 and 4 <= len(held) <= 20 and all(n % 2 == 0 for n in Counter(map(key, held[column])).values()), task
    with pytest.raises(ValueError, match="2 training examples have too few different texts"):
        held_out(DatasetDict(train=classes()["train"].select([list(classes()["train"]["label"]).index(k) for k in (0, 1)]), test=classes()["test"]))


def test_texts_too_long_to_write_are_refused_before_training(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "_train", lambda *rest: pytest.fail("trained"))
    data = split(Dataset.from_dict({"source": TEXTS, "target": TEXTS}))
    with pytest.raises(ValueError, match="max_new_tokens 128 leaves no room in the model's 128 positions"):
        finetune(decoder, data, tmp_path / "m", max_new_tokens=128, **TINY)


def test_a_cut_that_nobody_chose_is_a_warning(encoder, tmp_path, caplog):
    long = [" ".join(TEXTS[i:i + 3]) if i % 2 else TEXTS[i] for i in range(118)]
    data = split(Dataset.from_dict({"text": long, "label": [("cat", "dog")[i % 2] for i in range(118)]}), validation=False)
    finetune(encoder, data, tmp_path / "f", **{**TINY, "epochs": 1, "max_length": None})
    warnings = [r.getMessage() for r in caplog.records if "are not read" in r.getMessage()]
    assert len(warnings) == 1 and "of 78 training and" in warnings[0] and "of 20 test texts have more than 64 tokens" in warnings[0]
    caplog.clear()
    finetune(encoder, data, tmp_path / "g", **{**TINY, "epochs": 1})                  # who chose 48 tokens is told at the level of notes
    assert "are not read" not in caplog.text


def test_one_label_that_every_example_has_is_refused_among_sets_too(encoder, tmp_path):
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=list(ANIMALS)))})
    rows = [{"text": text, "labels": [2]} for text in TEXTS]
    with pytest.raises(ValueError, match="one label only, bird, and every example has it: add another label, or examples without it"):
        finetune(encoder, split(Dataset.from_list(rows, features=features)), tmp_path / "f", **TINY)
    assert not (tmp_path / "f").exists()
    rows[3]["labels"] = []
    assert finetuning._load(split(Dataset.from_list(rows, features=features)), None, None, None, FinetuningOptions())[0] == "multi-label"


def test_few_numbers_that_are_whole_are_a_regression_all_the_same():
    rows = Dataset.from_dict({"text": TEXTS, "label": [3.5 if i == 7 else float(i % 5) for i in range(120)]})
    task, splits = finetuning._load({"train": rows, "test": rows}, None, None, None, finetuning.FinetuningOptions(train_examples=5))
    assert task == "regression" and all(v == int(v) for v in splits["train"]["label"])


@pytest.mark.parametrize("task, regression", [("classification", True), ("regression", False), ("tokens", True)])
def test_a_task_and_a_regression_that_contradict_each_other_are_refused(encoder, tmp_path, task, regression):
    with pytest.raises(ValueError, match=f"regression={regression} and task='{task}' say different things: leave one out"):
        finetune(encoder, classes(), tmp_path / "f", task=task, **TINY, regression=regression)
    assert not (tmp_path / "f").exists()


def test_nothing_is_written_over(encoder, tmp_path):
    first = finetune(encoder, classes(), tmp_path / "f", **{**TINY, "epochs": 1})
    before = (tmp_path / "f" / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="overwrite"):
        finetune(encoder, classes(), tmp_path / "f", **TINY)
    assert (tmp_path / "f" / "model.safetensors").read_bytes() == before
    again = finetune(encoder, classes(), tmp_path / "f", **{**TINY, "epochs": 1, "overwrite": True})
    assert again.scores == first.scores and (tmp_path / "f" / "model.safetensors").read_bytes() == before          # the same seed, the same run
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(FileExistsError):
        finetune(encoder, classes(), tmp_path / "mine", **{**TINY, "overwrite": True})


def test_a_loss_that_is_no_number_stops_with_step_and_rate(encoder, tmp_path, monkeypatch):
    own = finetuning._loss
    calls = []

    def loss(*arguments):
        calls.append(1)
        return own(*arguments) * (math.nan if len(calls) > 4 else 1)
    monkeypatch.setattr(finetuning, "_loss", loss)
    with pytest.raises(FloatingPointError, match=r"step \d+ with learning rate"):
        finetune(encoder, classes(), tmp_path / "f", **TINY)
    assert not (tmp_path / "f" / "model.safetensors").exists()


def test_fine_tuning_names_no_checkpoint_whose_weights_gave_the_bad_loss(encoder, tmp_path, monkeypatch):
    compute = finetuning._Trainer.compute_loss

    def bad(self, *arguments, **options):
        loss = compute(self, *arguments, **options)
        self.losses[-1] = self.losses[-1] * (math.nan if self.state.global_step == 3 else 1)
        return loss
    monkeypatch.setattr(finetuning._Trainer, "compute_loss", bad)
    with pytest.raises(FloatingPointError, match="at step 4 .*the last good checkpoint is .*step-00000002$"):
        finetune(encoder, classes(), tmp_path / "f", **{**TINY, "checkpoint_steps": 1, "log_steps": 100})


def test_a_split_without_labels_is_no_test(encoder, tmp_path):
    data = classes()
    data["test"] = Dataset.from_dict({"text": data["test"]["text"], "label": [-1] * 20}, features=data["test"].features)
    result = finetune(encoder, data, tmp_path / "f", **{**TINY, "epochs": 1})
    assert sorted(result.references) == sorted(classes()["validation"]["label"])


def test_a_fine_tuned_model_learns_another_task(encoder, tmp_path):
    finetune(encoder, classes(), tmp_path / "a", **{**TINY, "epochs": 1, "threshold": True})
    again = finetune(tmp_path / "a", tags(), tmp_path / "b", **TINY)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert again.task == "tokens" and "decision_threshold" not in config and config["architectures"] == ["BertForTokenClassification"]
    finetune(encoder, classes_of_three(), tmp_path / "c", **{**TINY, "epochs": 1})
    for before in ("a", "c"):                                                             # a span has two ends, not the labels of before
        answers = finetune(tmp_path / before, questions(), tmp_path / "d", overwrite=True, **{**TINY, "epochs": 1})
        model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "d")
        assert answers.task == "question-answering" and model.qa_outputs.out_features == 2 and model.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    data = split(Dataset.from_dict({"text": TEXTS, "label": [len(t) / 7 for t in TEXTS]}))
    finetune(tmp_path / "c", data, tmp_path / "e", **{**TINY, "epochs": 1})
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "e").config.id2label == {0: "LABEL_0"}


def test_baselines_need_no_model():
    data = classes()
    most = max(set(data["train"]["label"]), key=list(data["train"]["label"]).count)
    assert baseline("classification", data["train"], data["test"]) == [most] * 20
    assert baseline("tokens", tags()["train"], tags()["test"]) == [[("O", "B-A")[i] for i in row] for row in tags()["test"]["tags"]]
    assert len(set(baseline("question-answering", questions(False)["train"], questions(False)["test"]))) > 1


def test_a_complete_run_is_not_given_back_for_another_test_split(tmp_path):
    from transformers import AutoModelForSequenceClassification
    from lmnotes.checkpoints import save
    from lmnotes.tokenization import train_tokenizer
    from lmnotes.transformer import model_config
    texts = ["a red house", "a blue house", "a red tree", "a blue tree"] * 8
    tokenizer = train_tokenizer(texts, vocab_size=60, progress=False)
    save(AutoModelForSequenceClassification.from_config(model_config("bert-tiny", len(tokenizer), 16)), tokenizer, tmp_path / "m")
    train = Dataset.from_dict({"text": texts, "label": [0, 1] * 16})
    test = Dataset.from_dict({"text": ["one red house", "one blue tree"], "label": [0, 1]})
    other = Dataset.from_dict({"text": ["one red house", "one blue tree"], "label": [1, 0]})
    run = lambda split, **more: finetune(tmp_path / "m", DatasetDict(train=train, test=split), tmp_path / "out", epochs=1, device="cpu", **more)
    first = run(test)
    assert run(test, resume=True).scores == first.scores
    with pytest.raises(ValueError, match="another test split"):
        run(other, resume=True)
    for change in (dict(seed=-1), dict(learning_rate=float("inf"))):
        with pytest.raises(ValueError, match=next(iter(change))):
            run(test, overwrite=True, **change)


@pytest.mark.parametrize("choices, says", [
    (dict(method="last", last_layers=0), "last_layers 0 "), (dict(method="last", last_layers=-1), "last_layers -1 "), (dict(method="last", last_layers=1.5), "last_layers 1.5 "),
    (dict(method="lora", lora_rank=0), "lora_rank 0 "), (dict(method="lorra"), "method 'lorra' is not known: full, frozen, last, lora")])
def test_what_chooses_no_part_of_a_model_is_refused(choices, says):
    model = BertForSequenceClassification(BertConfig(vocab_size=50, **SIZES))
    with pytest.raises(ValueError, match=says):
        choose_parameters(model, **choices)
    assert all(p.requires_grad for p in model.parameters())                     # left as it was
    assert choose_parameters(model, "last", last_layers=np.int64(1)) is None and not all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("wrong", ["the cat", {"text": ["the cat"]}, pd.DataFrame({"text": ["the cat"]})])
def test_letters_and_names_of_columns_are_no_texts(tokenizer, wrong):
    torch.manual_seed(0)
    classifier, reader = (kind(BertConfig(vocab_size=len(tokenizer), **SIZES)) for kind in (BertForSequenceClassification, BertForQuestionAnswering))
    for call, name in ((lambda: predict_logits(classifier, tokenizer, wrong), "texts"), (lambda: predict_logits(classifier, tokenizer, ["the cat"], pairs=wrong), "pairs"),
                       (lambda: predict_answers(reader, tokenizer, wrong, ["the cat"]), "questions"), (lambda: predict_answers(reader, tokenizer, ["the cat"], wrong), "contexts")):
        with pytest.raises(TypeError, match=f"{name} is .*give a list of texts"):
            call()


@pytest.mark.parametrize("family", ["classification", "regression", "multi-label", "pair"])
@pytest.mark.parametrize("length", [1, 2])
def test_a_length_without_room_for_a_token_is_refused(encoder, tmp_path, family, length):
    label = {"regression": [i / 7 for i in range(len(TEXTS))], "multi-label": [["a", "b"][:1 + i % 2] for i in range(len(TEXTS))]}.get(family, [ANIMALS[i % 2] for i in range(len(TEXTS))])
    data = split(Dataset.from_dict({"text": TEXTS, **({"text_pair": TEXTS} if family == "pair" else {}), "labels" if family == "multi-label" else "label": label}))
    with pytest.raises(ValueError, match=f"max_length {length} leaves 0 tokens beside the special ones: give more"):
        finetune(encoder, data, tmp_path / "f", **{**TINY, "max_length": length})
    assert not (tmp_path / "f").exists()


def test_prediction_refuses_a_length_without_room(tokenizer):
    model = head(BertForSequenceClassification, tokenizer)
    for length, pairs, left in ((1, None, 0), (2, None, 0), (3, ["cat"], 0), (4, ["cat"], 1)):
        with pytest.raises(ValueError, match=f"max_length {length} leaves {left} tokens beside"):
            predict_logits(model, tokenizer, ["dog"], length, pairs=pairs)
        with pytest.raises(ValueError, match=f"max_length {length} leaves {left} tokens beside"):
            predict((model, tokenizer), ("dog", "cat") if pairs else "dog", max_length=length)
    assert predict_logits(model, tokenizer, ["dog"], 3).shape == predict_logits(model, tokenizer, ["dog"], 5, pairs=["cat"]).shape == (1, 2)


@pytest.mark.parametrize("choice, kind, says", [
    ({"space": ["learning_rate"]}, TypeError, "space is a list: give a dict"), ({"space": {"learning_rate": 0.1}}, ValueError, "space learning_rate 0.1 must be a lowest and a highest"),
    ({"space": {"learning_rate": ("a", "b")}}, ValueError, "space learning_rate"), ({"trials": "3"}, TypeError, "trials '3' must be a whole number"), ({"trials": 2.5}, TypeError, "trials 2.5 must be a whole number"),
    ({"minutes": "1"}, ValueError, "minutes '1' must be above 0"), ({"minutes": 1e-9}, ValueError, "minutes 1e-09 were over before the first trial began"), ({"options": {"seed": 1}}, TypeError, "options is a dict: give FinetuningOptions")])
def test_a_search_names_what_cannot_be(encoder, choice, kind, says):
    with pytest.raises(kind, match=says):
        search(encoder, classes(), **({} if "options" in choice else {**TINY, "epochs": 1}), **choice)


def test_thresholds_baselines_and_options_of_another_kind_are_named(encoder, tmp_path):
    with pytest.raises(ValueError, match=r"probabilities have shape \(1,\) and truths \(2,\)"):
        best_threshold([0.5], [1, 0])
    with pytest.raises(ValueError, match=r"probabilities\[0\] is nan, no finite number"):
        best_threshold([math.nan, 0.2], [1, 0])
    with pytest.raises(ValueError, match="task 'foo' is not known: classification"):
        baseline("foo", classes()["train"], classes()["test"])
    with pytest.raises(TypeError, match="options is a dict: give FinetuningOptions"):
        finetune(encoder, classes(), tmp_path / "f", options={"epochs": 1})


def test_answers_have_no_blank_at_their_ends():
    "A tokenizer in the manner of SentencePiece, whose tokens begin with their blank."
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    inner = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"▁{word}": i for i, word in enumerate(WORDS, 3)}}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64)
    contexts, questions = [" ".join(WORDS[i:i + 9]) for i in range(8)], ["the cat sat"] * 8
    assert tokenizer(contexts[0], return_offsets_mapping=True)["offset_mapping"][1] == (3, 7)          # " cat"
    model = head(BertForQuestionAnswering, tokenizer, initializer_range=0.6)
    found = [answers[0] for answers in predict_answers(model, tokenizer, questions, contexts)]
    assert any(answer.start for answer in found) and all(answer.text == answer.text.strip() == context[answer.start:answer.end] for answer, context in zip(found, contexts))
    inner.pre_tokenizer, inner.model = pre_tokenizers.WhitespaceSplit(), models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: i for i, word in enumerate(WORDS, 3)}}, unk_token="<unk>")
    plain = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64)      # the same ids, whose offsets have no blanks
    assert plain(contexts[0])["input_ids"] == tokenizer(contexts[0])["input_ids"] and found == [answers[0] for answers in predict_answers(model, plain, questions, contexts)]


@pytest.mark.parametrize("kind", ["XLNet", "XLM"])
def test_answers_of_models_whose_class_is_called_simple(tokenizer, kind, tmp_path):
    size = dict(vocab_size=len(tokenizer), d_model=16, n_layer=1, n_head=2, d_inner=32) if kind == "XLNet" else dict(vocab_size=len(tokenizer), emb_dim=16, n_layers=1, n_heads=2, max_position_embeddings=70)
    model = getattr(transformers, f"{kind}LMHeadModel" if kind == "XLNet" else "XLMWithLMHeadModel")(getattr(transformers, f"{kind}Config")(**size, pad_token_id=tokenizer.pad_token_id))
    folder = save_folder(tmp_path / "m", model, tokenizer)
    result = finetune(folder, questions(), tmp_path / "f", **{**TINY, "epochs": 1})
    test = questions()["test"]
    again = predict(tmp_path / "f", list(zip(test["question"], test["context"])), device="cpu", max_length=48)
    assert result.task == "question-answering" and [a.answer for a in again] == list(result.predictions)


@pytest.mark.parametrize("place", ["bert", "link"])
def test_the_model_is_not_replaced_by_what_is_made_of_it(encoder, tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(encoder, "out/bert")
    os.symlink("bert", "out/link")
    Path("out/lmnotes.json").write_text("{}")
    before = {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="is the folder of the model 'out/bert', or holds it, and the model would be lost"):
        finetune("out/bert", classes(), f"out/{place}", overwrite=True, **TINY)
    assert {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()} == before


def test_a_threshold_for_three_classes_names_them(encoder, tmp_path):
    with pytest.raises(ValueError, match=r"^threshold is for a classification of two classes, and this is one of 3 \(cat, dog, none\): leave it out$"):
        finetune(encoder, classes_of_three(), tmp_path / "f", threshold=True, **TINY)
