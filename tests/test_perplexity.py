"""Perplexity: equality with independent tools and with dense loops written apart from the package, invariances, streams, and bad input."""
import argparse
import copy
import csv
import functools
import gzip
import importlib.util
import itertools
import json
import logging
import math
import re
import types
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BartConfig, BartForConditionalGeneration, BertConfig, BertForMaskedLM, EncoderDecoderConfig,
                          EncoderDecoderModel, FSMTConfig, FSMTForConditionalGeneration, GPT2Config, GPT2LMHeadModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProphetNetConfig,
                          ProphetNetForConditionalGeneration, RobertaConfig, RobertaForMaskedLM, T5Config, T5ForConditionalGeneration)
from transformers.modeling_outputs import CausalLMOutput

import lmnotes
import lmnotes.perplexity as room
from lmnotes.perplexity import _as_texts, compare, perplexity, surprisal, windows
from lmnotes.theory import SyntheticLanguage
from lmnotes.tokenization import train_tokenizer

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
TEXTS = ["the cat sat on the mat and looked at the moon .", "dogs bark", "unbelievably , the dogs barked at the cat until the moon rose over the mat",
         "a cat", "the moon over the sleeping dogs and cats was looking unbelievably bright"] * 2


@pytest.fixture(scope="module")
def wordpiece():
    return train_tokenizer(TEXTS * 20, kind="wordpiece", vocab_size=120, progress=False)


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(TEXTS * 20, kind="bpe", vocab_size=300, progress=False)


def gpt(vocab_size, positions=64):
    torch.manual_seed(0)
    return named(GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_positions=positions, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)).eval())


def bert(vocab_size, positions=64):
    torch.manual_seed(0)
    return named(BertForMaskedLM(BertConfig(vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                                      max_position_embeddings=positions, initializer_range=0.3)).eval())


def named(model):
    "A model whose configuration names its class, as every saved one does."
    model.config.architectures = [type(model).__name__]
    return model


def quiet(*arguments, **options):
    return perplexity(*arguments, device="cpu", progress=False, **options)


@torch.no_grad()
def one_by_one(model, tokenizer, texts, bos):
    "Log-likelihood of each text, one forward call each, without any batch: the definition."
    totals = []
    for text in texts:
        ids = torch.tensor([[bos] + tokenizer(text, add_special_tokens=False)["input_ids"]])
        totals.append(model(input_ids=ids).logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None]).sum().item())
    return totals


@torch.no_grad()
def masked_one_by_one(model, tokenizer, text, within_word=False):
    "Pseudo-log-likelihood (Salazar et al. 2020): the whole sentence once per token, all logits."
    encoded = tokenizer(text)
    ids, words, total = encoded["input_ids"], encoded.word_ids(), 0.0
    for i, word in enumerate(words):
        if word is None:
            continue
        row = torch.tensor([ids])
        row[0, [j for j, w in enumerate(words) if j == i or (within_word and w == word and j > i)]] = tokenizer.mask_token_id
        total += model(input_ids=row).logits[0, i].double().log_softmax(-1)[ids[i]].item()
    return total


def test_causal_equals_one_by_one(bpe):
    model = gpt(len(bpe))
    start = bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id
    ours = quiet(model, TEXTS, bpe)
    assert np.allclose(ours.log_likelihoods, one_by_one(model, bpe, TEXTS, start), rtol=1e-5)
    assert math.isclose(ours.perplexity, math.exp(-ours.log_likelihood / sum(ours.tokens)))


@pytest.mark.parametrize("batch_tokens", [1, 37, 4096])
@pytest.mark.parametrize("side", ["left", "right"])
def test_invariances(bpe, batch_tokens, side):
    model, kept = gpt(len(bpe)), bpe.padding_side
    bpe.padding_side = side
    try:
        whole = quiet(model, TEXTS, bpe)
        other = quiet(model, TEXTS[::-1], bpe, batch_tokens=batch_tokens)
    finally:
        bpe.padding_side = kept
    assert np.allclose(whole.log_likelihoods, other.log_likelihoods[::-1], rtol=1e-5)
    assert all(math.isclose(quiet(model, [t], bpe).log_likelihood, v, rel_tol=1e-5) for t, v in zip(TEXTS, whole.log_likelihoods))


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("stride", [None, 1, 5, 15])
def test_long_text_every_token_once(bpe, bos, stride):
    model, text = gpt(len(bpe), 16), " ".join(TEXTS)
    count = len(bpe(text, add_special_tokens=False)["input_ids"])
    result = quiet(model, [text], bpe, window=16, stride=stride, bos=bos)
    assert result.tokens == ((count if bos else count - 1),)


@pytest.mark.parametrize("long", [10**6, 700])
def test_what_is_not_scored_is_not_counted(bpe, long, monkeypatch):
    "Without a token before a text its first token is not scored, and neither bytes, characters nor words of it are counted; of joined texts that is one token."
    monkeypatch.setattr(room, "_LONG", long)
    model, texts = gpt(len(bpe)), ["the cat sat", "unbelievably , the dogs", "é 猫 the moon", "  dogs bark", " ".join(TEXTS * 4)]
    spans = [bpe(t, return_offsets_mapping=True)["offset_mapping"] for t in texts]
    cuts = [min(span[0][1], span[1][0]) for span in spans]                     # a character of two tokens is counted, since one of them is scored
    rest = [t[cut:] for t, cut in zip(texts, cuts)]
    off = quiet(model, texts, bpe, bos=False)
    assert off.tokens == tuple(len(span) - 1 for span in spans) and off.bytes == tuple(len(r.encode()) for r in rest)
    assert off.characters == tuple(map(len, rest)) and off.words == tuple(len(r.split()) for r in rest) and cuts[2] == 0 < min(cuts[:2])
    assert math.isclose(off.bits_per_byte, -off.log_likelihood / math.log(2) / len("".join(rest).encode())) and "not counted" in off.protocol["first window"]
    joined = quiet(model, texts, bpe, bos=False, documents="joined")
    assert joined.bytes[0] == off.bytes[0] and sum(joined.bytes) == len("\n\n".join(texts).encode()) - cuts[0]


def test_a_tokenizer_with_special_tokens_only_begins_as_pretraining_does(wordpiece, caplog):
    "The default tokenizer has neither a token of beginning nor one of end; pretraining begins documents with its [CLS], and so do we."
    from lmnotes.pretraining import _boundaries
    model = gpt(len(wordpiece))
    assert wordpiece.bos_token_id is None and wordpiece.eos_token_id is None and _boundaries(wordpiece)[0] == wordpiece.cls_token_id
    ours = quiet(model, TEXTS, wordpiece)
    assert np.allclose(ours.log_likelihoods, one_by_one(model, wordpiece, TEXTS, wordpiece.cls_token_id), rtol=1e-5) and ours.protocol["first window"] == "begins with [CLS]"
    assert ours.bytes == tuple(len(t.encode()) for t in TEXTS) and "no token that begins" not in caplog.text


def test_a_tokenizer_without_any_start_counts_what_was_scored(bpe, caplog):
    bare, texts = PreTrainedTokenizerFast(tokenizer_object=bpe.backend_tokenizer), ["the cat sat", "unbelievably bright"]
    ours, off = quiet(gpt(len(bpe)), texts, bare), quiet(gpt(len(bpe)), texts, bpe, bos=False)
    assert (ours.log_likelihoods, ours.bytes, ours.words) == (off.log_likelihoods, off.bytes, off.words) and caplog.text.count("no token that begins a text") == 1


def test_stride_one_is_full_context(bpe):
    model, text = gpt(len(bpe), 64), TEXTS[0]
    assert math.isclose(quiet(model, [text], bpe, stride=1).log_likelihood, quiet(model, [text], bpe).log_likelihood, rel_tol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 4, 15])
def test_sliding_equals_the_documentations_loop(bpe, stride):
    """The loop of the Transformers documentation on fixed-length models, from its description: windows of `max_length` tokens that begin at multiples
    of the stride; the loss of those tokens that no window scored before; the last token of a window is read in vain."""
    model, max_length = gpt(len(bpe), 16), 16
    ids = torch.tensor([bpe("\n\n".join(TEXTS), add_special_tokens=False)["input_ids"]])
    total, count, before = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + max_length, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, :-(end - before)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        total, count, before = total - model(input_ids=ids[:, begin:end], labels=labels).loss.double().item() * scored, count + scored, end
        if end == ids.shape[1]:
            break
    ours = quiet(model, ["\n\n".join(TEXTS)], bpe, window=max_length - 1, stride=stride, bos=False)
    assert ours.tokens == (count,) and math.isclose(ours.log_likelihood, total, rel_tol=1e-5)
    joined = quiet(model, TEXTS, bpe, documents="joined", window=max_length - 1, stride=stride, bos=False)
    assert sum(joined.tokens) == count and math.isclose(joined.log_likelihood, total, rel_tol=1e-5) and len(joined.tokens) == len(TEXTS)
    first = bpe.decode(ids[0, :1])
    assert sum(joined.bytes) == len("\n\n".join(TEXTS).encode()) - len(first.encode())


@torch.no_grad()
@pytest.mark.parametrize("window", [7, 16])
def test_stride_one_gives_every_token_the_whole_window(bpe, window):
    model, ids, total = gpt(len(bpe), 16), [bpe.eos_token_id if bpe.bos_token_id is None else bpe.bos_token_id] + bpe(" ".join(TEXTS), add_special_tokens=False)["input_ids"], 0.0
    for t in range(1, len(ids)):
        total += model(input_ids=torch.tensor([ids[max(0, t - window):t]])).logits[0, -1].double().log_softmax(-1)[ids[t]].item()
    assert math.isclose(quiet(model, [" ".join(TEXTS)], bpe, window=window, stride=1).log_likelihood, total, rel_tol=1e-5)


@pytest.mark.parametrize("stride", [None, 1, 3, 5])
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("further", ["text", "bos"])
def test_joined_windows_are_those_of_the_whole(bpe, stride, bos, further):
    "Cut while it is read, and cut from the whole sequence: the same windows."
    start, rule = [7] if bos else [], room._Rule("causal", 5, stride, bos, further, "joined", "", False, None, 0)
    rows = [np.arange(n) + 10 * (i + 1) for i, n in enumerate((3, 1, 0, 12, 2, 6))]
    whole = np.concatenate([start, *rows]).astype(int)
    found = list(room._joined(((i, r, None) for i, r in enumerate(rows)), start, rule))
    expected = list(room._spans([(0, whole[len(start):], None)], start, rule))
    assert [(s.row.tolist(), s.first) for s in found] == [(s.row.tolist(), s.first) for s in expected]
    assert [rows[o][p] for s in found for o, p in zip(s.owner, s.place)] == whole[1:].tolist()


@torch.no_grad()
def test_further_windows_can_begin_with_the_start_token(bpe):
    model, start = gpt(len(bpe), 16), bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id
    ids, total = bpe(" ".join(TEXTS), add_special_tokens=False)["input_ids"], 0.0
    ids = ids[:len(ids) // 16 * 16]
    text = bpe.decode(ids)
    assert bpe(text, add_special_tokens=False)["input_ids"] == ids
    for part in torch.tensor(ids).split(16):
        row = torch.cat([torch.tensor([start]), part])[None]
        total += model(input_ids=row[:, :-1]).logits[0].double().log_softmax(-1).gather(1, row[0, 1:, None]).sum().item()
    restarted = quiet(model, [text], bpe, window=16, further="bos")
    assert math.isclose(restarted.log_likelihood, total, rel_tol=1e-5)
    assert restarted.tokens == quiet(model, [text], bpe, window=16).tokens and restarted.log_likelihood != quiet(model, [text], bpe, window=16).log_likelihood


@pytest.mark.parametrize("within_word", [False, True])
def test_masked_equals_one_by_one(wordpiece, within_word):
    model = bert(len(wordpiece))
    ours = quiet(model, TEXTS, wordpiece, within_word=within_word)
    assert np.allclose(ours.log_likelihoods, [masked_one_by_one(model, wordpiece, t, within_word) for t in TEXTS], rtol=1e-5)


def test_masked_batch_does_not_matter(wordpiece):
    model = bert(len(wordpiece))
    assert np.allclose(quiet(model, TEXTS, wordpiece, batch_tokens=1).log_likelihoods, quiet(model, TEXTS, wordpiece).log_likelihoods, rtol=1e-5)


KIN = {"bert": {}, "roberta": {"pad_token_id": 0}, "xlm-roberta": {"pad_token_id": 0}, "camembert": {"pad_token_id": 0}, "electra": {"embedding_size": 32}, "electra, projected": {"embedding_size": 16}}


@pytest.mark.parametrize("case", ["plain", "within words", "long", "drawn", "one layer", "padding in the text", "eager", "chunks", "one way", "looked at", "adapted", "somebody else's forward"])
@pytest.mark.parametrize("kind", KIN)
def test_what_the_copies_share_changes_no_score(wordpiece, kind, case, monkeypatch):
    "The embeddings and the first queries, keys and values are computed of two rows for each window, the last attention for one place of each row; the scores are those of all copies."
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind.split(",")[0], vocab_size=len(wordpiece), hidden_size=32, num_hidden_layers=1 if case == "one layer" else 3, num_attention_heads=2, intermediate_size=64,
                                  max_position_embeddings=40, initializer_range=0.3, chunk_size_feed_forward=1 if case == "chunks" else 0, is_decoder=case == "one way", **KIN[kind])
    model = named(AutoModelForMaskedLM.from_config(config, attn_implementation="eager" if case == "eager" else "sdpa").eval())
    tokenizer, options = wordpiece, {"within_word": case == "within words", "masks": 3 if case == "drawn" else None, "window": 9 if case == "long" else None}
    texts = [f"the cat {tokenizer.pad_token} sat on {tokenizer.pad_token} the mat", *TEXTS[:4]] if case == "padding in the text" else TEXTS[:5]
    for vector in (p for p in model.parameters() if p.ndim == 1):
        torch.nn.init.normal_(vector, std=0.3)
    first, last, seen = *(model.base_model.encoder.layer[at].attention.self for at in (0, -1)), []
    if case == "adapted":
        peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["value"], init_lora_weights=False), model)
    looks = []
    watch = last.key.register_forward_hook(lambda *_: looks.append(1)) if case == "looked at" else None
    if case == "somebody else's forward":
        first.key.forward = functools.partial(torch.nn.Linear.forward, first.key)
    handle = first.key.register_forward_hook(lambda part, given, _: seen.append((len(given[0]), "forward" in vars(part))))
    shared = quiet(model, texts, tokenizer, **options)
    handle.remove()
    assert watch is None or looks
    monkeypatch.setattr(room, "_after_attention", lambda _: None)
    assert np.allclose(shared.log_likelihoods, quiet(model, texts, tokenizer, **options).log_likelihoods, rtol=2e-5)
    if case == "somebody else's forward":
        assert first.key.__dict__.pop("forward").func is torch.nn.Linear.forward
    elif case not in ("long", "drawn", "chunks"):                                    # few copies of a window
        assert any(way for _, way in seen) == (kind != "electra, projected")
    assert not any("forward" in vars(part) for part in model.modules())


def test_feed_forward_in_chunks(wordpiece):
    model = bert(len(wordpiece))
    whole = quiet(model, TEXTS[:1], wordpiece).log_likelihood
    model.config.chunk_size_feed_forward = size = len(wordpiece(TEXTS[0])["input_ids"]) // 2
    for block in model.bert.encoder.layer:
        block.chunk_size_feed_forward = size
    assert len(wordpiece(TEXTS[0])["input_ids"]) % 2 == 0 and math.isclose(quiet(model, TEXTS[:1], wordpiece).log_likelihood, whole, rel_tol=1e-5)


def test_roberta_default_window(wordpiece):
    torch.manual_seed(0)
    model = named(RobertaForMaskedLM(RobertaConfig(vocab_size=len(wordpiece), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                                             max_position_embeddings=34, pad_token_id=wordpiece.pad_token_id)).eval())
    assert quiet(model, [" ".join(TEXTS)], wordpiece).perplexity > 1


def test_model_in_hand_that_was_never_saved(bpe):
    model = gpt(len(bpe))
    model.config.architectures = None                         # as GPT2LMHeadModel(GPT2Config(...)) leaves it
    assert quiet(model, TEXTS, bpe).kind == "perplexity"


def test_stories(shared_models, shared_data):
    folder = shared_models / "stories260K"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    from datasets import load_dataset
    file = sorted(p for p in (shared_data / "tinystories").rglob("*") if p.suffix in {".parquet", ".txt", ".jsonl"})[-1]
    kind = {".parquet": "parquet", ".txt": "text", ".jsonl": "json"}[file.suffix]
    texts = [t[:400] for t in load_dataset(kind, data_files=str(file), split="train[:20]")["text"] if t.strip()]
    ours = quiet(folder, texts)
    assert np.allclose(ours.log_likelihoods, one_by_one(model, tokenizer, texts, tokenizer.bos_token_id), rtol=1e-5)
    assert ours.perplexity < 10


@pytest.mark.parametrize("texts, words", [([], "nothing to score"), (["", "  "], "nothing to score, 2 texts given, none with text"), ([""], "nothing to score, 1 text given"), (iter([" "]), "nothing to score, 1 text given, none")])
def test_nothing_to_score(bpe, texts, words):
    with pytest.raises(ValueError, match=words):
        quiet(gpt(len(bpe)), texts, bpe)


def test_empty_texts_are_counted(bpe):
    assert quiet(gpt(len(bpe)), ["", *TEXTS, "  "], bpe).skipped == 2


def test_one_token(bpe):
    word = bpe.decode([bpe("the", add_special_tokens=False)["input_ids"][0]])
    assert quiet(gpt(len(bpe)), [word], bpe).tokens == (1,)
    with pytest.raises(ValueError, match="single token"):
        quiet(gpt(len(bpe)), [word], bpe, bos=False)


def test_tokenizer_of_another_model(bpe):
    with pytest.raises(ValueError, match="not the model's tokenizer"):
        quiet(gpt(20), TEXTS, bpe)


def test_a_tokenizer_that_is_not_the_folders(bpe, tmp_path, caplog):
    "Of the same size, but with other tokens: refused; with more tokens: named; the same one that pads elsewhere: taken."
    gpt(len(bpe) + 1).save_pretrained(tmp_path), bpe.save_pretrained(tmp_path)
    whole = quiet(tmp_path, TEXTS)
    other = train_tokenizer(["a completely different text with other words"] * 20, kind="bpe", vocab_size=280, progress=False)
    with pytest.raises(ValueError, match=r"ids stand for other tokens in '.*', id \d+ for '.*' and not '.*': it is not the model's tokenizer; leave it out"):
        quiet(tmp_path, TEXTS, other)
    same = AutoTokenizer.from_pretrained(tmp_path, padding_side="left")
    assert quiet(tmp_path, TEXTS, same).log_likelihoods == whole.log_likelihoods and "the tokenizer has" not in caplog.text
    same.add_tokens(["<more>"])
    assert quiet(tmp_path, TEXTS, same).log_likelihoods == whole.log_likelihoods and f"the tokenizer has {len(bpe) + 1} tokens" in caplog.text


def test_no_mask_token(bpe):
    with pytest.raises(ValueError, match="mask token"):
        quiet(bert(len(bpe)), TEXTS, bpe)


@pytest.mark.parametrize("count", [1, 10])
def test_nan_names_document_and_position(bpe, count):
    model = gpt(len(bpe))
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="document 0"):
        quiet(model, TEXTS[:count], bpe)


def test_nan_in_a_text_of_one_token(bpe):
    model = gpt(len(bpe))
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="token 0 of document 0"):
        quiet(model, [bpe.decode([bpe("the", add_special_tokens=False)["input_ids"][0]])], bpe)


def test_nan_names_the_given_document(bpe):
    model = gpt(len(bpe))
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="document 1"):
        quiet(model, ["", TEXTS[0]], bpe)


@pytest.mark.parametrize("stride", [0, 17, 400])
def test_stride_over_window(bpe, stride):
    with pytest.raises(ValueError, match="stride"):
        quiet(gpt(len(bpe), 16), [" ".join(TEXTS)], bpe, window=16, stride=stride)


def test_missing_file_and_column(bpe, tmp_path):
    from datasets import Dataset
    with pytest.raises(FileNotFoundError, match="missing.txt"):
        quiet(gpt(len(bpe)), tmp_path / "missing.txt", bpe)
    with pytest.raises(ValueError, match="text_column"):
        quiet(gpt(len(bpe)), Dataset.from_dict({"body": TEXTS}), bpe)


def test_surprisal_adds_up(bpe):
    model = gpt(len(bpe))
    bits = surprisal(model, TEXTS[0], bpe, device="cpu")
    assert math.isclose(sum(bits.bits) * math.log(2), -quiet(model, [TEXTS[0]], bpe).log_likelihood, rel_tol=1e-6)
    assert all(TEXTS[0][a:b] == t for (a, b), t in zip(bits.offsets, bits.tokens))


def test_compare_across_tokenizers(bpe, wordpiece):
    "Per byte of the same texts, whatever the tokens are; what was compared is printed; without their first tokens they are not the same texts."
    small = train_tokenizer(TEXTS * 20, kind="bpe", vocab_size=265, progress=False)
    a, b = quiet(gpt(len(bpe)), TEXTS, bpe), quiet(gpt(len(small)), TEXTS, small)
    found = compare(a, b)
    assert sum(a.tokens) < sum(b.tokens) and a.bytes == b.bytes and math.isclose(found.difference, a.bits_per_byte - b.bits_per_byte)
    assert repr(found).startswith(f"perplexity of GPT2LMHeadModel ({a.protocol['weights']}) less that of GPT2LMHeadModel ({b.protocol['weights']}) on 10 documents, {sum(a.bytes)} bytes: difference ")
    with pytest.raises(ValueError, match="bytes of the same texts were scored, since their first tokens .*: score both with bos=True"):
        compare(a, quiet(gpt(len(small)), TEXTS, small, bos=False))
    with pytest.raises(ValueError, match="pseudo-perplexity on .* cannot be compared"):
        compare(a, quiet(bert(len(wordpiece)), TEXTS, wordpiece))


def test_compare(bpe):
    a, b = quiet(gpt(len(bpe)), TEXTS, bpe), quiet(gpt(len(bpe), 32), TEXTS, bpe)
    assert compare(a, a).difference == 0 and math.isclose(compare(a, b).difference, -compare(b, a).difference)
    with pytest.raises(ValueError, match="same texts"):
        compare(a, quiet(gpt(len(bpe)), TEXTS[:3], bpe))


@pytest.mark.parametrize("kind", ["Llama", "Gemma2", "GPTNeoX", "OPT", "Bloom", "Qwen2", "Granite", "ModernBertDecoder"])
def test_heads_of_other_families(bpe, kind):
    import transformers
    sizes = dict(vocab_size=len(bpe), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64, head_dim=16,
                 max_position_embeddings=64, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    if kind == "OPT":
        sizes |= dict(word_embed_proj_dim=32, ffn_dim=64, pad_token_id=1)
    if kind == "Granite":
        sizes |= dict(logits_scaling=4.0)
    if kind == "ModernBertDecoder":                              # whose `decoder` is the head
        sizes |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    torch.manual_seed(0)
    model = named(getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes)).eval())
    start = bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id
    values = one_by_one(model, bpe, TEXTS, start)
    assert np.allclose(quiet(model, TEXTS, bpe).log_likelihoods, values, rtol=1e-5)
    assert math.isclose(sum(surprisal(model, TEXTS[0], bpe, device="cpu").bits) * math.log(2), -values[0], rel_tol=1e-5)


@pytest.mark.parametrize("kind", ["OPT", "Bart", "Blenderbot"])
def test_decoders_that_are_a_part_of_the_base_model(bpe, kind):
    "They read each text once, and keep no cache: transformers counts its layers by the encoder's."
    import transformers
    sizes = dict(word_embed_proj_dim=16, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=2) if kind == "OPT" else dict(
        d_model=32, encoder_layers=1, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64)
    torch.manual_seed(0)
    model = named(getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(vocab_size=len(bpe), max_position_embeddings=64, **sizes)).eval())
    read = []
    first = model.get_decoder().layers[0]
    first.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].shape[0]))
    start = bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id
    values = quiet(model, TEXTS, bpe).log_likelihoods
    assert sum(read) == len(TEXTS)
    model.config.use_cache = False
    assert np.allclose(values, one_by_one(model, bpe, TEXTS, start), rtol=1e-5)


# ---- sequence to sequence

SOURCES = ["a cat", "dogs", "the moon over the mat", "the dogs looked", "bright"] * 2


def with_ends(tokenizer):
    "The same tokenizer, with an end-of-text token after each text, as T5's and BART's have."
    from tokenizers.processors import TemplateProcessing
    made = PreTrainedTokenizerFast(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()), eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token)
    made.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {made.eos_token}", special_tokens=[(made.eos_token, made.eos_token_id)])
    return made


@pytest.mark.parametrize("kind", ["GPT", "BERT", "T5", "Gemma2"])
def test_the_vocabulary_in_tiles(bpe, wordpiece, kind, monkeypatch):
    "The head cut into tiles gives the values of the whole; a model that changes its logits afterwards is not cut."
    model, tokenizer, options = gpt(len(bpe)), bpe, {}
    if kind == "BERT":
        model, tokenizer = bert(len(wordpiece)), wordpiece
        torch.nn.init.normal_(model.cls.predictions.bias)
    if kind == "T5":
        torch.manual_seed(0)
        tokenizer, options = with_ends(bpe), {"sources": SOURCES}
        model = named(T5ForConditionalGeneration(T5Config(vocab_size=len(bpe), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0)).eval())
    if kind == "Gemma2":
        from transformers import Gemma2Config, Gemma2ForCausalLM
        model = named(Gemma2ForCausalLM(Gemma2Config(vocab_size=len(bpe), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64, head_dim=16,
                                                     max_position_embeddings=64, final_logit_softcapping=5.0)).eval())
    cut, original = [], room._before_head
    monkeypatch.setattr(room, "_before_head", lambda *a: cut.append(original(*a)) or cut[-1])
    monkeypatch.setattr(room, "_TILE_LOGITS", 35)
    monkeypatch.setattr(room, "_TILE_ROWS", 5)
    tiled = quiet(model, TEXTS, tokenizer, **options)
    assert cut and all((vectors is None) == (kind == "Gemma2") for vectors in cut)
    monkeypatch.setattr(room, "_before_head", lambda *a: None)
    assert np.allclose(tiled.log_likelihoods, quiet(model, TEXTS, tokenizer, **options).log_likelihoods, rtol=1e-6)
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize("kind", ["BERT", "T5"])
def test_logits_that_are_not_tiled_are_held_a_part_at_a_time(bpe, wordpiece, kind, monkeypatch):
    "Where the vocabulary cannot be cut into tiles, a batch goes through the model in parts of rows: their logits are few, and the values the same."
    model, tokenizer, options = (bert(len(wordpiece)), wordpiece, {}) if kind == "BERT" else (named(t5(len(bpe)).eval()), with_ends(bpe), {"sources": SOURCES})
    monkeypatch.setattr(room, "_before_head", lambda *_: None)
    shapes, original = [], room._log_probs
    monkeypatch.setattr(room, "_log_probs", lambda logits, *more: shapes.append(tuple(logits.shape)) or original(logits, *more))
    whole, at_once = quiet(model, TEXTS, tokenizer, **options), max(shapes)[0]
    longest = max(whole.tokens) if kind == "T5" else 2
    monkeypatch.setattr(room, "_HEAD_FLOATS", 2 * longest * len(tokenizer))
    shapes.clear()
    parts = quiet(model, TEXTS, tokenizer, **options)
    assert np.allclose(parts.log_likelihoods, whole.log_likelihoods, rtol=1e-5)
    assert max(shapes)[0] <= 2 * longest < at_once and {columns for _, columns in shapes} == {model.config.vocab_size} and sum(rows for rows, _ in shapes) == sum(whole.tokens)


@torch.no_grad()
def test_a_model_without_a_plain_head_is_noticed_once(wordpiece, monkeypatch):
    "What the head's own logits show is kept: the batches that follow run the encoder once each."
    class ScaledForMaskedLM(BertForMaskedLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 0.5
            return output
    model, read = ScaledForMaskedLM(BertConfig(vocab_size=len(wordpiece), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=0.3)).eval(), []
    model.bert.register_forward_hook(lambda *_: read.append(1))
    batches, original = [], room._masked_values
    monkeypatch.setattr(room, "_masked_values", lambda *a, **k: batches.append(1) or original(*a, **k))
    quiet(model, TEXTS, wordpiece)
    assert len(batches) > 1 and len(read) == len(batches) + 1 and model in room._whole


def test_a_head_of_no_number_in_a_tile():
    "NaN in one tile is not hidden by the others, and a token that cannot be (a bias of minus infinity) does no harm."
    weight, hidden, bias = torch.randn(30, 8), torch.randn(4, 8), torch.zeros(30)
    bias[3] = -torch.inf
    values = room._running_log_probs(hidden, weight, bias, torch.arange(4))
    assert torch.allclose(values, F.linear(hidden, weight, bias).log_softmax(1)[range(4), range(4)], atol=1e-5) and values[3] == -torch.inf
    weight[20] = torch.nan
    assert room._running_log_probs(hidden, weight, None, torch.arange(4)).isnan().all()


def test_logits_far_below_zero_and_tokens_that_cannot_be(monkeypatch):
    "Logits as GPT-2's, around -110, tiles of nothing but minus infinity, and tiles that begin with it."
    monkeypatch.setattr(room, "_TILE_LOGITS", 4 * 512)
    weight, hidden, bias = torch.randn(5000, 8), torch.randn(4, 8), torch.full((5000,), -110.0)
    for impossible in (slice(0, 0), slice(512, 513), slice(0, 1500), slice(4000, 5000)):
        some = bias.clone()
        some[impossible] = -torch.inf
        wanted = F.linear(hidden, weight, some).log_softmax(1)[range(4), [0, 512, 2000, 4999]]
        assert torch.allclose(room._running_log_probs(hidden, weight, some, torch.tensor([0, 512, 2000, 4999])), wanted, atol=1e-4)


def t5(size):
    return T5ForConditionalGeneration(T5Config(vocab_size=size, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, initializer_factor=3.0))


def bart(size):
    return BartForConditionalGeneration(BartConfig(vocab_size=size, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64,
                                                   decoder_ffn_dim=64, max_position_embeddings=64, init_std=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1))


def two_berts(size):
    parts = [BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, initializer_range=0.3, is_decoder=d, add_cross_attention=d) for d in (False, True)]
    return EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(*parts, decoder_start_token_id=1, pad_token_id=0))


def fsmt(size):
    "Its output layer is said to be its table of embeddings."
    return FSMTForConditionalGeneration(FSMTConfig(langs=["a", "b"], src_vocab_size=size, tgt_vocab_size=size, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                                                   encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, init_std=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1))


def prophetnet(size):
    "Its output layer reads a state for each of the next tokens."
    return ProphetNetForConditionalGeneration(ProphetNetConfig(vocab_size=size, hidden_size=32, num_encoder_layers=1, num_decoder_layers=1, num_encoder_attention_heads=2, num_decoder_attention_heads=2, ngram=2,
                                                               encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1))


@torch.no_grad()
@pytest.mark.parametrize("make", [t5, bart, two_berts, fsmt, prophetnet])
@pytest.mark.parametrize("batch_tokens", [1, 60, "auto"])
def test_targets_given_sources_equal_the_library_loss(bpe, make, batch_tokens):
    torch.manual_seed(0)
    tokenizer = with_ends(bpe)
    model = make(len(tokenizer)).eval()
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    ours, totals = quiet(model, TEXTS, tokenizer, sources=SOURCES, batch_tokens=batch_tokens), []
    for text, source in zip(TEXTS, SOURCES):
        labels, read = tokenizer(text_target=text, return_tensors="pt")["input_ids"], tokenizer(source, return_tensors="pt")["input_ids"]
        shifted = torch.cat([torch.tensor([[room._decoder_start(model)]]), labels[:, :-1]], 1)
        totals.append(model(input_ids=read, decoder_input_ids=shifted, use_cache=False).logits[0].double().log_softmax(-1).gather(1, labels[0, :, None]).sum().item())
    assert ours.kind == "conditional perplexity" and np.allclose(ours.log_likelihoods, totals, rtol=1e-5)
    if make in (t5, bart):
        loss = model(input_ids=read, labels=labels).loss.item()
        assert math.isclose(-ours.log_likelihoods[-1] / ours.tokens[-1], loss, rel_tol=1e-4)


def test_sources_must_fit(bpe):
    tokenizer, texts = with_ends(bpe), TEXTS[:3]
    model = t5(len(tokenizer)).eval()
    for wrong, words in ((None, "sources are missing"), (SOURCES[:2], "sources has 2 texts and texts has more"), (SOURCES[:4], "texts has 3 texts and sources has more")):
        with pytest.raises(ValueError, match=words):
            quiet(model, texts, tokenizer, sources=wrong)
    with pytest.raises(ValueError, match="do not go with a causal model"):
        quiet(gpt(len(bpe)), texts, bpe, sources=SOURCES[:3])
    with pytest.raises(ValueError, match="document 0 has"):
        quiet(bart(len(tokenizer)).eval(), [" ".join(TEXTS) * 3], tokenizer, sources=["a cat"])
    with pytest.raises(ValueError, match="sources=..."):
        surprisal(model, "a cat", tokenizer, device="cpu")


# ---- masked, more

@torch.no_grad()
@pytest.mark.parametrize("within_word", [False, True])
def test_masked_windows_are_centred(wordpiece, within_word):
    "A text longer than the window: each token with its neighbours on both sides, the definition written out."
    model, text, window = bert(len(wordpiece), 16), " ".join(TEXTS[:5]), 16
    encoded = wordpiece(text, add_special_tokens=False)
    ids, words, total, room_ = encoded["input_ids"], encoded.word_ids(), 0.0, window - 2
    for i in range(len(ids)):
        begin = min(max(0, i - room_ // 2), len(ids) - room_)
        piece = list(ids[begin:begin + room_])
        for j in range(begin, begin + room_):
            if j == i or within_word and j > i and words[j] == words[i]:
                piece[j - begin] = wordpiece.mask_token_id
        row = torch.tensor([[wordpiece.cls_token_id, *piece, wordpiece.sep_token_id]])
        total += model(input_ids=row).logits[0, i - begin + 1].double().log_softmax(-1)[ids[i]].item()
    assert len(ids) > 2 * window
    for batch_tokens in (1, 100, "auto"):
        assert math.isclose(quiet(model, [text], wordpiece, within_word=within_word, batch_tokens=batch_tokens).log_likelihood, total, rel_tol=1e-5)


def test_masked_memory_is_bounded(wordpiece):
    "A sentence of 350 words is scored in sub-batches: no call sees more tokens than batch_tokens."
    model, seen = bert(len(wordpiece), 512), []
    model.register_forward_pre_hook(lambda _, __, given: seen.append(tuple(given["input_ids"].shape)), with_kwargs=True)
    quiet(model, [" ".join(itertools.islice(itertools.cycle(TEXTS[0].split()), 350))], wordpiece, batch_tokens=2048, masks=8)
    assert max(a * b for a, b in seen) <= 2048 and len(seen) == 2 and seen[0][1] > 350
    seen.clear()
    quiet(model, TEXTS, wordpiece, batch_tokens=100)
    assert max(a * b for a, b in seen) <= 100


def test_no_padding_in_masked_batches(wordpiece):
    model, seen = bert(len(wordpiece)), []
    model.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"]), with_kwargs=True)
    quiet(model, TEXTS, wordpiece)
    assert not any((ids == wordpiece.pad_token_id).any() for ids in seen)


def test_drawn_masks_estimate_the_whole(wordpiece):
    model = bert(len(wordpiece))
    texts = [" ".join(TEXTS[:3]), *TEXTS]
    whole = quiet(model, texts, wordpiece)
    drawn = [quiet(model, texts, wordpiece, masks=6, seed=s) for s in range(60)]
    values, errors = np.array([r.log_likelihood for r in drawn]), np.array([r.standard_error for r in drawn])
    assert abs(values.mean() - whole.log_likelihood) < 4 * values.std() / math.sqrt(len(drawn))        # unbiased
    assert 0.7 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.4                                # and its error is what it says
    assert drawn[0].tokens == whole.tokens and whole.variances == () and whole.standard_error == 0
    assert math.isclose(quiet(model, texts, wordpiece, masks=1000).log_likelihood, whole.log_likelihood, rel_tol=1e-9)
    assert "standard error" in repr(drawn[0]) and drawn[0].protocol["drawn"] == "6 of each text, seed 0"
    with pytest.raises(ValueError, match="masks 1 must be at least 2"):
        quiet(model, texts, wordpiece, masks=1)


@pytest.mark.parametrize("window, stride, says", [(0, None, "window 0 must be at least 1"), (4, 0, "stride 0"), (4, 5, "stride 5 must be at least 1 and at most the window, 4")])
def test_windows_that_would_not_end_or_leave_out_are_refused(window, stride, says):
    with pytest.raises(ValueError, match=says):
        windows(10, window, stride)


def test_choices_of_another_kind_of_model_are_refused(bpe, wordpiece):
    for options, says in ((dict(masks=2), "masks 2 is for masked models"), (dict(within_word=True), "within_word True is for masked models")):
        with pytest.raises(ValueError, match=says):
            quiet(gpt(len(bpe)), TEXTS, bpe, **options)
    with pytest.raises(ValueError, match="stride 2 is for causal models, and this one is masked"):
        quiet(bert(len(wordpiece)), TEXTS, wordpiece, stride=2)


def test_of_several_splits_the_held_out_one_is_scored(bpe):
    from datasets import Dataset, DatasetDict
    model, rows = gpt(len(bpe)), lambda part: Dataset.from_dict({"text": TEXTS[part]})
    found = quiet(model, DatasetDict(train=rows(slice(0, 2)), validation=rows(slice(2, 4))), bpe)
    assert found.log_likelihoods == quiet(model, TEXTS[2:4], bpe).log_likelihoods and found.protocol["split"] == "validation"
    with pytest.raises(ValueError, match="parts a, b, and none of test, validation, train"):
        quiet(model, DatasetDict(a=rows(slice(0, 2)), b=rows(slice(0, 2))), bpe)


def test_a_pair_that_is_too_long_is_named_by_its_row(bpe):
    with pytest.raises(ValueError, match="the pair of document 2 has"):
        quiet(t5(len(bpe)).eval(), ["a cat", " ", " ".join(TEXTS * 4)], bpe, sources=["a", "b", "c"], window=20)


# ---- streams, files, data sets

def test_forms_of_texts(bpe, tmp_path):
    model = gpt(len(bpe))
    whole = quiet(model, TEXTS, bpe)
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    data = Dataset.from_dict({"body": TEXTS, "other": [1] * len(TEXTS)})
    for texts, options in ((iter(TEXTS), {}), (tuple(TEXTS), {}), (tmp_path / "texts.txt", {}), (str(tmp_path / "texts.txt"), {}), (data, {"text_column": "body"}),
                           (data.to_iterable_dataset(), {"text_column": "body"}), ([*TEXTS, "more"], {"max_texts": len(TEXTS)})):
        found = quiet(model, texts, bpe, **options)
        assert np.allclose(found.log_likelihoods, whole.log_likelihoods, rtol=1e-5) and found.protocol["texts"] == whole.protocol["texts"]


@pytest.mark.parametrize("documents", ["each", "joined"])
def test_a_stream_is_read_while_it_is_scored(bpe, documents, monkeypatch):
    "When the model is first called, no more has been read than the look-ahead takes."
    monkeypatch.setattr(room, "_LOOK_AHEAD", 2000)
    monkeypatch.setattr(room, "_GROUP", 16)
    model, read, at_calls = gpt(len(bpe)), [0], []
    model.transformer.register_forward_pre_hook(lambda *_: at_calls.append(read[0]))

    def stream():
        for text in itertools.islice(itertools.cycle(TEXTS), 2000):
            read[0] += 1
            yield text
    result = quiet(model, stream(), bpe, documents=documents)
    assert at_calls[0] < 300 and read[0] == 2000 and len(result.tokens) == 2000
    assert not any(isinstance(x, str) for column in (result.log_likelihoods, result.tokens, result.bytes) for x in column[:10])
    if documents == "each":
        assert np.allclose(result.log_likelihoods[:10], quiet(model, TEXTS, bpe).log_likelihoods, rtol=1e-5)


# ---- memory and dtype

class Short:
    "A forward that has memory for so many tokens only."

    def __init__(self, inner, limit, error):
        self.inner, self.limit, self.error = inner, limit, error

    def __call__(self, *arguments, **options):
        if (arguments[0] if arguments else options["input_ids"]).numel() > self.limit:
            raise self.error
        return self.inner(*arguments, **options)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")])
def test_batches_halve_when_memory_is_short(bpe, wordpiece, error, caplog):
    for model, tokenizer, part in ((gpt(len(bpe)), bpe, "transformer"), (bert(len(wordpiece)), wordpiece, "bert")):
        whole, inner = quiet(model, TEXTS, tokenizer), getattr(model, part)
        inner.forward = Short(inner.forward, 60, error)
        with caplog.at_level(logging.WARNING):
            halved = quiet(model, TEXTS, tokenizer)
        assert np.allclose(halved.log_likelihoods, whole.log_likelihoods, rtol=1e-5) and "batch_tokens is now" in caplog.text
        inner.forward.limit = 0
        with pytest.raises(MemoryError, match="smaller window="):
            quiet(model, TEXTS, tokenizer)


def test_other_errors_of_the_model_are_not_hidden(bpe):
    model = gpt(len(bpe))
    model.transformer.forward = Short(model.transformer.forward, 0, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        quiet(model, TEXTS, bpe)


def test_dtype(bpe, tmp_path):
    model = gpt(len(bpe))
    whole, half = quiet(model, TEXTS, bpe, dtype="float32"), quiet(model, TEXTS, bpe, dtype="bfloat16")
    assert model.dtype == torch.float32 and half.protocol["dtype"] == "bfloat16" and whole.protocol["dtype"] == "float32"
    assert half.perplexity != whole.perplexity and math.isclose(half.perplexity, whole.perplexity, rel_tol=0.05)
    model.save_pretrained(tmp_path), bpe.save_pretrained(tmp_path)
    assert math.isclose(quiet(tmp_path, TEXTS, dtype="bfloat16").perplexity, half.perplexity, rel_tol=1e-6)
    with pytest.raises(ValueError, match="dtype 'int8'"):
        quiet(model, TEXTS, bpe, dtype="int8")


@pytest.mark.parametrize("batch_tokens", [0, "all", 1.5])
def test_bad_batch_tokens(bpe, batch_tokens):
    with pytest.raises(ValueError, match="batch_tokens"):
        quiet(gpt(len(bpe)), TEXTS, bpe, batch_tokens=batch_tokens)


# ---- the result

def test_protocol_repeats_the_number(bpe, wordpiece):
    card = ("model", "tokenizer", "weights", "texts", "window", "first window", "further windows", "documents", "words", "dtype", "versions", "stride")
    for model, tokenizer, options in ((gpt(len(bpe), 16), bpe, dict(stride=3, further="bos", documents="joined")), (gpt(len(bpe), 16), bpe, dict(bos=False, window=9)),
                                      (bert(len(wordpiece)), wordpiece, dict(within_word=True, masks=2, seed=4))):
        first = quiet(model, TEXTS, tokenizer, **options)
        again = quiet(model, iter(TEXTS), tokenizer, **first.options)
        assert again.log_likelihoods == first.log_likelihoods and again.protocol == first.protocol and again == first
        assert all(f"{k}=" in repr(first) and k in first._repr_html_() for k in (card if first.kind == "perplexity" else card[:-1]))
    assert quiet(gpt(len(bpe)), TEXTS, bpe).protocol["weights"] != quiet(gpt(len(bpe), 32), TEXTS, bpe).protocol["weights"]


def test_protocol_names_what_stands_first_in_each_window_and_the_versions(bpe, wordpiece):
    start = bpe.convert_ids_to_tokens(bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id)
    cards = [quiet(gpt(len(bpe)), TEXTS, bpe, **options).protocol for options in ({}, dict(further="bos"), dict(bos=False))]
    cards += [quiet(bert(len(wordpiece)), TEXTS[:2], wordpiece).protocol, quiet(t5(len(bpe)), TEXTS[:2], bpe, sources=TEXTS[:2]).protocol]
    assert [(c["first window"], c["further windows"]) for c in cards] == [
        (f"begins with {start}", "begin with the text before"), (f"begins with {start}", f"begin with {start}"),
        ("its first token is not scored, and what that alone covers of the text not counted", "begin with the text before"),
        ("between [CLS] and [SEP]", "likewise, each centred on its masked token"), (f"the decoder begins with {bpe.convert_ids_to_tokens(0)}", "none, a longer pair is refused")]
    for card in cards:
        assert all(f"{name} {version}" in card["versions"] for name, version in (("lmnotes", lmnotes.__version__), ("torch", torch.__version__)))


def test_protocol_names_the_split_and_the_most_texts(bpe, tmp_path):
    "Of a folder with several splits the most held-out one is scored; `options` repeat that fewer texts were."
    splits = {"train": TEXTS, "validation": TEXTS[1:5], "test": TEXTS[:3]}
    for chosen, names in ((None, ["train"]), ("validation", ["train", "validation"]), ("test", list(splits))):
        DatasetDict({name: Dataset.from_dict({"text": splits[name]}) for name in names}).save_to_disk(tmp_path / names[-1])
        found = quiet(gpt(len(bpe)), tmp_path / names[-1], bpe)
        assert found.protocol.get("split") == chosen and len(found.tokens) == len(splits[names[-1]])
    first = quiet(gpt(len(bpe)), tmp_path / "test", bpe, max_texts=2)
    assert first.protocol["max_texts"] == "2" and "max_texts" not in found.protocol and "split=test, max_texts=2" in repr(first)
    assert quiet(gpt(len(bpe)), tmp_path / "test", bpe, **first.options) == first


def test_numbers_of_the_result(bpe):
    r = quiet(gpt(len(bpe)), TEXTS, bpe)
    total = math.fsum(r.log_likelihoods)
    size = {"tokens": sum(len(bpe(t)["input_ids"]) for t in TEXTS), "words": len(" ".join(TEXTS).split()), "bytes": len("".join(TEXTS).encode()), "characters": len("".join(TEXTS))}
    for unit, n in size.items():
        assert sum(getattr(r, unit)) == n and math.isclose(r.per(unit), math.exp(-total / n)) and math.isclose(r.per(n), r.per(unit))
    assert math.isclose(r.bits_per_byte, -total / math.log(2) / size["bytes"]) and math.isclose(r.bits_per_character, -total / math.log(2) / size["characters"])
    assert math.isclose(r.mean_of_documents, np.mean([math.exp(-a / n) for a, n in zip(r.log_likelihoods, r.tokens)]))
    assert all(f"{n:,} {unit}" in repr(r) for unit, n in size.items())
    draws = np.random.default_rng(3).integers(0, 10, (1, 10))
    assert r.interval(samples=500, seed=3) == r.interval(samples=500, seed=3) != r.interval(samples=500, seed=4)
    low, high = r.interval(samples=1, seed=3)
    assert math.isclose(low, math.exp(-sum(r.log_likelihoods[i] for i in draws[0]) / sum(r.tokens[i] for i in draws[0]))) and low == high
    assert all(math.isnan(x) for x in quiet(gpt(len(bpe)), TEXTS[:1], bpe).interval())


def test_interval_covers(bpe):
    "Of texts drawn from a population, the 95 % interval holds the population's value about as often as it says."
    draw, population = np.random.default_rng(0), quiet(gpt(len(bpe)), [f"{a} {b} {c}" for a in TEXTS[:5] for b in TEXTS[:5] for c in TEXTS[:5]], bpe)
    ll, tokens, hits = np.array(population.log_likelihoods), np.array(population.tokens), 0
    for i in range(100):
        at = draw.integers(0, len(ll), 40)
        low, high = room._bootstrap(-ll[at], tokens[at], 0.95, 200, i, np.exp)
        hits += low <= population.perplexity <= high
    assert hits >= 85


def test_a_tokenizer_that_loses_bytes_is_named(bpe, wordpiece, caplog):
    with caplog.at_level(logging.WARNING):
        lost = quiet(bert(len(wordpiece)), ["THE CAT", "the cat"], wordpiece)
    upper, total = sum(c.isupper() for c in "THE CAT"), len("THE CATthe cat")
    assert lost.protocol["bytes lost by the tokenizer"] == f"{upper / total:.2%}" and "not lossless" in caplog.text
    caplog.clear()
    assert "bytes lost by the tokenizer" not in quiet(gpt(len(bpe)), ["THE  CAT\n", "é 猫"], bpe).protocol and "lossless" not in caplog.text


def test_no_pad_token_is_needed(bpe, wordpiece):
    bare = PreTrainedTokenizerFast(tokenizer_object=bpe.backend_tokenizer, bos_token=bpe.bos_token or bpe.eos_token)
    assert bare.pad_token is None
    assert np.allclose(quiet(gpt(len(bpe)), TEXTS, bare).log_likelihoods, quiet(gpt(len(bpe)), TEXTS, bpe).log_likelihoods, rtol=1e-5)


def test_ids_beyond_the_vocabulary(bpe, wordpiece):
    with pytest.raises(ValueError, match=r"gives id \d+ and the model's embedding has 3 rows"):
        quiet(bert(3), TEXTS, wordpiece)
    grown = PreTrainedTokenizerFast(tokenizer_object=bpe.backend_tokenizer, bos_token="<an added token>")
    with pytest.raises(ValueError, match="not the model's tokenizer"):
        quiet(gpt(len(bpe)), TEXTS, grown)


def test_what_cannot_be_scored(bpe):
    with pytest.raises(TypeError, match="Linear"):
        quiet(torch.nn.Linear(2, 2), TEXTS, bpe)
    for options, words in ((dict(documents="all"), "documents 'all'"), (dict(further="nothing"), "further 'nothing'"), (dict(window=65), "window 65"), (dict(window=1), "window 1")):
        with pytest.raises(ValueError, match=words):
            quiet(gpt(len(bpe)), TEXTS, bpe, **options)


# ---- independent tools

@torch.no_grad()
def test_values_of_hugging_faces_metric(bpe):
    """The metric of `evaluate`, from its published description: right-padded batches with the start token, cross-entropy of all places,
    those of padding left out by the attention mask, each text's mean exponentiated, and `mean_perplexity` their mean."""
    model, start = gpt(len(bpe)), bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id
    rows, values = [[start] + bpe(t, add_special_tokens=False)["input_ids"] for t in TEXTS], []
    for i in range(0, len(rows), 3):
        batch = rows[i:i + 3]
        ids, mask = (torch.tensor([f(r) + [0] * (max(map(len, batch)) - len(r)) for r in batch]) for f in (list, lambda r: [1] * len(r)))
        losses = torch.nn.CrossEntropyLoss(reduction="none")(model(ids, attention_mask=mask).logits[:, :-1].transpose(1, 2), ids[:, 1:]) * mask[:, 1:]
        values += (losses.sum(1) / mask[:, 1:].sum(1)).exp().tolist()
    ours = quiet(model, TEXTS, bpe)
    assert np.allclose(ours.document_perplexities, values, rtol=1e-5) and math.isclose(ours.mean_of_documents, np.mean(values), rel_tol=1e-5)


def rolling(model, tokenizer, text, max_length):
    "lm-evaluation-harness's rolling log-likelihood, from its description: prefix token, disjoint windows with one token of context, the last one filled up to the left."
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids, total, done = tokenizer(text, add_special_tokens=False)["input_ids"], 0.0, 0
    while done < len(ids):
        new = min(max_length, len(ids) - done)
        inputs = ([prefix] + ids[:new - 1]) if not done else ids[done + new - max_length - 1:done + new - 1]
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([inputs])).logits[0, -new:].double().log_softmax(-1)
        total, done = total + logs.gather(1, torch.tensor(ids[done:done + new])[:, None]).sum().item(), done + new
    return total


@pytest.mark.parametrize("max_length", [8, 16])
def test_rolling_by_its_description(bpe, max_length):
    model, texts = gpt(len(bpe), 16), [" ".join(TEXTS), *TEXTS]
    ours = quiet(model, texts, bpe, window=max_length)
    assert np.allclose(ours.log_likelihoods, [rolling(model, bpe, t, max_length) for t in texts], rtol=1e-5)


def harness(model, tokenizer, texts, max_length):
    "lm_eval's own values of some texts."
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: `rolling` above stands in for it")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=max_length, device="cpu")
    return peer.loglikelihood_rolling([Instance(request_type="loglikelihood_rolling", doc={}, arguments=(t,), idx=i) for i, t in enumerate(texts)], disable_tqdm=True)


def test_lm_evaluation_harness(bpe):
    model, texts = gpt(len(bpe), 16), [" ".join(TEXTS), *TEXTS]
    theirs = harness(model, bpe, texts, 16)
    from lm_eval.api.metrics import weighted_perplexity
    ours = quiet(model, texts, bpe, window=16)
    assert np.allclose(ours.log_likelihoods, theirs, rtol=1e-5)
    word = weighted_perplexity([(ll, len(re.split(r"\s+", t))) for ll, t in zip(theirs, texts)])
    byte = weighted_perplexity([(ll, len(t.encode("utf-8"))) for ll, t in zip(theirs, texts)])
    assert math.isclose(ours.per("words"), word, rel_tol=1e-5) and math.isclose(ours.per("bytes"), byte, rel_tol=1e-5)


def benchmark():
    "`benchmarks/evaluation.py` as a module."
    spec = importlib.util.spec_from_file_location("benchmark_of_evaluation", RESULTS.parent / "evaluation.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_lm_evaluation_harness_on_stories(shared_models, shared_data):
    folder = shared_models / "stories260K"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = [t.strip() for t in Dataset.from_parquet(str(next((shared_data / "tinystories").glob("*.parquet"))))[:5]["text"]]
    ours = quiet(folder, texts, window=256)
    assert np.allclose(ours.log_likelihoods, [rolling(model, tokenizer, t, 256) for t in texts], rtol=1e-5) and 2 < ours.perplexity < 10
    assert np.allclose(ours.log_likelihoods, harness(model, tokenizer, texts, 256), rtol=1e-5)


def test_the_results_of_stories_are_measured_again(shared_models, shared_data):
    "What `benchmarks/results/stories.json`, and the page, say of stories260K: a run gives it again."
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: test_stories stands in for it")
    stored, name = json.loads((RESULTS / "stories.json").read_text(encoding="utf-8"))["rows"], lambda row: re.sub(r" \d+\.\d+\.\d+", "", row["compared with"])
    found = benchmark().stories(shared_models.parent)
    assert len(found) == len(stored) == 6
    for row, kept in zip(found, stored):
        assert name(row) == name(kept) and float(row["largest relative difference"]) < 1e-5
        for side in ("theirs", "ours"):
            assert math.isclose(float(row[side].replace(",", "")), float(kept[side].replace(",", "")), rel_tol=1e-5)


class SourceConfig(PretrainedConfig):
    model_type = "a_source_of_text"


class SourceForCausalLM(PreTrainedModel):
    "The synthetic language itself, as a model: its answers are the true probabilities."
    config_class = SourceConfig

    def __init__(self, config, language=None):
        super().__init__(config)
        self.language, self.table = language, torch.nn.Embedding(len(language.words) + 1, 1)

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids=None, use_cache=None, **_):
        "A beginning-of-text token (the last id) stands in front; what follows it is the language's."
        ids, size = input_ids.numpy(), len(self.language.words)
        first = np.log(np.maximum(self.language.emission[0], 1e-300))
        later = self.language.logits(np.where(ids[:, 1:] < size, ids[:, 1:], 0)) if ids.shape[1] > 1 else np.zeros((len(ids), 0, size))
        logits = np.concatenate([np.broadcast_to(first, (len(ids), 1, size)), np.maximum(later, -700)], 1)
        return CausalLMOutput(logits=torch.from_numpy(np.pad(logits, ((0, 0), (0, 0), (0, 1)), constant_values=-700)))


def as_model(language):
    "The language as a model, with its tokenizer by words."
    from tokenizers import Tokenizer, models, pre_tokenizers
    words = {w: i for i, w in enumerate([*language.words, "<s>"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return SourceForCausalLM(SourceConfig(), language).eval(), PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


def test_the_source_scores_its_entropy_rate():
    language = SyntheticLanguage()
    model, tokenizer = as_model(language)
    texts = [" ".join(language.sample(400, seed=s)) for s in range(60)]
    result = quiet(model, texts, tokenizer, task="causal")
    assert np.allclose(result.log_likelihoods, [language.log_prob(t.split()) for t in texts], rtol=1e-5)
    low, high = result.interval()
    assert low < math.exp(language.entropy(400) / 400) < high and low < language.perplexity < high and high - low < 0.1


# ---- surprisal by words

def test_words_and_their_places(bpe):
    model, text = gpt(len(bpe)), "  the cat\n\nsat , unbelievably  bright "
    bits = surprisal(model, text, bpe, device="cpu")
    assert bits.words == tuple(text.split()) and [text[a:b] for a, b in bits.word_offsets] == text.split()
    assert math.isclose(sum(bits.word_bits), sum(bits.bits), rel_tol=1e-9)
    assert math.isclose(sum(bits.bits) * math.log(2), -quiet(model, [text], bpe).log_likelihood, rel_tol=1e-6)


@torch.no_grad()
def test_correction_for_leading_spaces_by_hand(bpe):
    """Pimentel and Meister 2024: p(w | before) = p(pieces of w | before) × P(a word ends | before, w) / P(a word ends | before),
    where a word ends if the next piece begins with a space, or the text ends; computed here from dense probabilities."""
    model, text = gpt(len(bpe)), "the cat sat unbelievably bright"
    start = bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id
    ids, pieces = bpe(text, add_special_tokens=False)["input_ids"], bpe.convert_ids_to_tokens(range(len(bpe)))
    p = model(input_ids=torch.tensor([[start] + ids])).logits[0].double().softmax(-1)
    ends = [i for i, piece in enumerate(pieces) if piece[0] in "ĠĊĉč" or i in (bpe.eos_token_id, bpe.bos_token_id)]
    edge, expected, at = p[:, ends].sum(1), [], 0
    for k, word in enumerate(text.split()):
        n = len(bpe((" " if k else "") + word, add_special_tokens=False)["input_ids"])
        value = math.prod(p[at + j, ids[at + j]].item() for j in range(n)) * edge[at + n].item() / (edge[at].item() if k else 1)
        expected.append(-math.log2(value))
        at += n
    bits = surprisal(model, text, bpe, device="cpu")
    assert at == len(ids) and np.allclose(bits.corrected_word_bits, expected, rtol=1e-5) and not np.allclose(bits.word_bits, expected, rtol=1e-3)


class TableForCausalLM(PreTrainedModel):
    "A model whose next token depends on the last one only, by a table of probabilities."
    config_class = SourceConfig

    def __init__(self, config, table=None):
        super().__init__(config)
        self.logs, self.table = torch.from_numpy(np.log(table)), torch.nn.Embedding(len(table), 1)

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids=None, use_cache=None, **_):
        return CausalLMOutput(logits=self.logs[input_ids])


def test_corrected_words_are_a_distribution():
    "The corrected probabilities of all words after a context sum to 1; the uncorrected ones, which count a word as a beginning of longer words too, to more."
    from tokenizers import Tokenizer, models, pre_tokenizers
    inner = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "Ġa": 2, "Ġb": 3, "</s>": 4, "Ġ": 5}, merges=[("Ġ", "a"), ("Ġ", "b")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="</s>", eos_token="</s>")
    table = np.random.default_rng(0).dirichlet(np.ones(6), 6) * [0.4, 0.4, 1, 1, 0, 0] + [0, 0, 0.1, 0.1, 1e-12, 1e-12]
    model = TableForCausalLM(SourceConfig(), table / table.sum(1, keepdims=True)).eval()
    words = ["".join(w) for n in range(1, 7) for w in itertools.product("ab", repeat=n)]
    found = [surprisal(model, f"b {w}", tokenizer, task="causal", device="cpu") for w in words]
    assert 0.97 < sum(2 ** -f.corrected_word_bits[1] for f in found) <= 1 + 1e-6 and sum(2 ** -f.word_bits[1] for f in found) > 1.2


def test_words_are_corrected_by_the_first_and_the_last_of_their_tokens():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 30):
        for size in (1, 3, 40):
            owner, marked = np.sort(rng.integers(0, count, size)), rng.random(size) < .6
            bits, edge_bits, totals = rng.random(size), rng.random(size + 1), np.zeros(count)
            for word in range(count):
                places = np.flatnonzero(owner == word)
                totals[word] = bits[places].sum()
                if len(places):
                    begin, after = places[0], places[-1] + 1
                    whole = (begin == 0 or marked[begin]) and (after == size or marked[after])
                    totals[word] += edge_bits[after] - (edge_bits[begin] if marked[begin] else 0) if whole else np.nan
            assert np.allclose(room._corrected(bits, edge_bits, owner, marked, count), totals, equal_nan=True)


def test_surprisal_as_a_table(bpe, wordpiece, tmp_path):
    bits = surprisal(gpt(len(bpe)), TEXTS[0], bpe, device="cpu")
    rows = bits.to_table()
    assert [r["word"] for r in rows] == TEXTS[0].split() and list(rows[0]) == ["word", "begin", "end", "bits", "corrected_bits"]
    assert [r["token"] for r in bits.to_table("token")] == list(bits.tokens)
    with open(bits.to_csv(tmp_path / "words.csv"), encoding="utf-8", newline="") as file:
        back = list(csv.DictReader(file))
    assert [float(r["bits"]) for r in back] == list(bits.word_bits) and back[1]["word"] == "cat"
    with pytest.raises(ValueError, match="by 'letter'"):
        bits.to_table("letter")
    masked = surprisal(bert(len(wordpiece)), TEXTS[2], wordpiece, device="cpu")
    assert masked.corrected_word_bits is None and "corrected_bits" not in masked.to_table()[0]


def test_surprisal_shows_the_whole_text(bpe):
    from html import unescape
    for text in ("a  cat <sat>\n on", "猫 é the 😀 cat"):
        shown = surprisal(gpt(len(bpe)), text, bpe, device="cpu")._repr_html_()
        assert unescape(re.sub(r"<[^>]*>", "", shown)) == text


def test_surprisal_of_a_long_text_and_of_one_token(bpe):
    model = gpt(len(bpe), 16)
    long = " ".join(TEXTS)
    assert math.isclose(sum(surprisal(model, long, bpe, device="cpu").bits) * math.log(2), -quiet(model, [long], bpe).log_likelihood, rel_tol=1e-6)
    with pytest.raises(ValueError, match="single token"):
        surprisal(model, "a", bpe, bos=False, device="cpu")
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="token 0 of the text"):
        surprisal(model, "the cat", bpe, device="cpu")


def test_compare_is_paired(bpe):
    "The interval of the difference is that of the documents' differences, drawn together; other texts are refused even of the same size."
    a, b = quiet(gpt(len(bpe)), TEXTS, bpe), quiet(gpt(len(bpe), 32), TEXTS, bpe)
    found, draw, values = compare(a, b, samples=50, seed=1), np.random.default_rng(1), []
    for _ in range(50):
        at = draw.integers(0, 10, 10)
        values.append(sum((b.log_likelihoods[i] - a.log_likelihoods[i]) / math.log(2) for i in at) / sum(a.bytes[i] for i in at))
    assert np.allclose([found.low, found.high], np.quantile(values, [0.025, 0.975]))
    with pytest.raises(ValueError, match="same texts"):
        compare(a, quiet(gpt(len(bpe)), [t.swapcase() for t in TEXTS], bpe))


def test_the_command_offers_the_options(bpe, tmp_path, capsys, monkeypatch):
    from lmnotes.cli import COMMANDS, execute
    monkeypatch.chdir(tmp_path)
    model = gpt(len(bpe), 16)
    model.save_pretrained("model"), bpe.save_pretrained("model")
    (tmp_path / "book.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    words = "perplexity model book.txt --device cpu --window 16 --stride 4 --documents joined --no-bos --dtype bfloat16 --batch-tokens auto".split()
    assert execute(COMMANDS, words) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("per byte", "stride=4", "documents=joined by", "dtype=bfloat16", "its first token is not scored"))
    for wrong, needle in ((["--documents", "all"], "documents"), (["--stride", "17"], "stride 17"), (["--dtype", "int8"], "dtype"), (["--sources", "book.txt"], "sources"), (["--batch-tokens", "many"], "batch_tokens")):
        assert execute(COMMANDS, ["perplexity", "model", "book.txt", "--device", "cpu", *wrong]) == 2
        assert needle in capsys.readouterr().err


def test_pairs_of_files_stay_pairs(tmp_path, wordpiece):
    "Rows without text keep their place, plain text is read by lines, and max_texts counts pairs."
    torch.manual_seed(0)
    model = named(t5(len(wordpiece))).eval()
    sources, targets = ["the cat", "", "dogs bark", "the moon"], ["the dogs", "the mat", "", "the cat sat"]
    for name, rows in (("s", sources), ("t", targets)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
        (tmp_path / f"{name}.txt").write_text("".join(r + "\n" for r in rows))
        with gzip.open(tmp_path / f"{name}.txt.gz", "wt") as file:
            file.writelines(r + "\n" for r in rows)
    expected = quiet(model, targets, wordpiece, sources=sources).log_likelihoods
    for kind in ("jsonl", "txt", "txt.gz"):
        assert np.allclose(quiet(model, tmp_path / f"t.{kind}", wordpiece, sources=tmp_path / f"s.{kind}").log_likelihoods, expected, rtol=1e-6)
    assert np.allclose(quiet(model, targets, wordpiece, sources=sources, max_texts=2).log_likelihoods, expected[:2], rtol=1e-6)
    with pytest.raises(ValueError, match="max_texts -1"):
        quiet(model, targets, wordpiece, sources=sources, max_texts=-1)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_long_text_is_tokenized_in_parts(kind, bpe, wordpiece, monkeypatch):
    "The parts have the tokens of the whole, and so the same value; a text that cannot be cut is taken whole."
    monkeypatch.setattr(room, "_LONG", 700)
    tokenizer, text = {"bpe": bpe, "wordpiece": wordpiece}[kind], "  the moon\n\n".join(TEXTS * 8)
    ids = lambda t: tokenizer(t, add_special_tokens=False)["input_ids"]
    parts = room._parts(tokenizer, text)
    assert len(parts) > 3 and max(map(len, parts)) <= 700 and "".join(parts) == text and [i for p in parts for i in ids(p)] == ids(text)
    assert room._parts(tokenizer, "x" * 2000) == ["x" * 2000]
    model, texts = (gpt if kind == "bpe" else bert)(len(tokenizer)), [TEXTS[0], text[:900], TEXTS[1]]
    ours = quiet(model, texts, tokenizer)
    monkeypatch.setattr(room, "_LONG", 10**6)
    whole = quiet(model, texts, tokenizer)
    assert np.allclose(ours.log_likelihoods, whole.log_likelihoods, rtol=1e-6) and ours.words == whole.words and ours.bytes == whole.bytes


def test_a_model_without_positions_takes_any_window(bpe):
    "BLOOM has no limit: no window is refused for one that it does not have."
    from transformers import BloomConfig, BloomForCausalLM
    torch.manual_seed(0)
    model = named(BloomForCausalLM(BloomConfig(vocab_size=len(bpe), hidden_size=16, n_layer=1, n_head=2)).eval())
    text = " ".join(TEXTS * 30)
    assert len(bpe(text)["input_ids"]) > 1100
    assert np.isclose(quiet(model, [text], bpe, window=2048).log_likelihood, quiet(model, [text], bpe, window=4096).log_likelihood, rtol=1e-6)


def test_more_bad_input(bpe, wordpiece):
    "Each is refused before anything is scored, with its name."
    for call, words in ((lambda: quiet(gpt(len(bpe)), TEXTS, bpe, task="clm"), "task 'clm'"), (lambda: quiet(bert(len(wordpiece)), TEXTS, wordpiece, window=2), "window 2"),
                        (lambda: quiet(gpt(len(bpe)), TEXTS, bpe, window=0), "window 0"), (lambda: quiet(gpt(len(bpe)), ["ab \ud800 c"], bpe), "texts: element 0 holds half")):
        with pytest.raises(ValueError, match=words):
            call()


def test_the_benchmark_records_its_arguments():
    "The table says with which command line, and each row of which share of the texts, it was measured; rows of an earlier run keep theirs."
    bench = benchmark()
    args = argparse.Namespace(quick=False, only=["metric", "short"], scale=3, repeats=2, minicons=None)
    line = bench.command(args, narrow=False)
    assert line == "python benchmarks/evaluation.py --only metric short --scale 3 --repeats 2 --bf16 no"
    assert bench.command(argparse.Namespace(**{**vars(args), "quick": True, "minicons": "/home/python"}), True).endswith("--scale 10 --repeats 1 --bf16 yes --minicons PYTHON")
    text = bench.report({**bench.machine(), "command": line, "rows": [{"part": "a", "scale": 3}, {"part": "b"}], "note": ""})
    assert f"`{line}`" in text and "| a | 3 |" in text and "| b |  |" in text


def test_a_long_text_in_place_of_a_path_is_cut():
    with pytest.raises(FileNotFoundError, match="texts 'the cat .* …'? ?is no file or folder: give a list of texts, or a path") as error:
        quiet(None, "the cat sat " * 500)
    assert len(str(error.value)) < 300


def test_texts_of_a_file_begin_without_its_byte_order_mark(bpe, tmp_path):
    model = gpt(len(bpe))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "\n\n".join(TEXTS[:3]).encode())
    assert quiet(model, tmp_path / "a.txt", bpe).characters == quiet(model, TEXTS[:3], bpe).characters
    (tmp_path / "b.txt").write_bytes(b"a cat\n\ncaf\xe9 s")
    for sources in (None, tmp_path / "b.txt"):
        with pytest.raises(ValueError, match=r"b.txt is not UTF-8: byte 10 cannot be read; save the file as UTF-8$"):
            quiet(model, tmp_path / "b.txt", bpe) if sources is None else list(_as_texts(sources, aligned=True)[0])


def test_a_table_of_surprisal_replaces_nothing(bpe, tmp_path):
    bits = surprisal(gpt(len(bpe)), TEXTS[0], bpe, device="cpu")
    bits.to_csv(tmp_path / "words.csv")
    with pytest.raises(FileExistsError, match="words.csv' is there: name another file, or allow overwrite=True"):
        bits.to_csv(tmp_path / "words.csv", by="token")
    assert "token" in bits.to_csv(tmp_path / "words.csv", by="token", overwrite=True).read_text()


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_folders_without_a_training_split_are_scored(tmp_path, form):
    from datasets import Dataset
    from lmnotes.perplexity import _as_texts
    for names, chosen, split in ((("test",), "test", None), (("validation", "test"), "test", "test"), (("dev",), "dev", None)):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            getattr(Dataset.from_dict({"text": [f"of {name}", "", "more"]}), f"to_{form}")(folder / f"{name}.{form}")
        texts, told = _as_texts(str(folder))
        assert list(texts) == [f"of {chosen}", "more"] and told == split


# ---- conventions that silently gave another number

@pytest.mark.parametrize("documents", ["each", "joined"])
@pytest.mark.parametrize("stride", [None, 5])
def test_further_windows_without_a_start_token_keep_all_their_tokens(bpe, documents, stride):
    model, text = gpt(len(bpe), 16), " ".join(TEXTS)
    count = len(bpe(text, add_special_tokens=False)["input_ids"])
    both = [quiet(model, [text], bpe, bos=False, further=further, window=16, stride=stride, documents=documents) for further in ("bos", "text")]
    assert both[0].tokens == both[1].tokens == (count - 1,) and both[0].log_likelihoods == both[1].log_likelihoods


def test_wikitext_is_spelled_and_counted_as_in_the_harness():
    "What page 07 does by hand with one line, by the harness's own functions."
    theirs = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext", reason="lm-evaluation-harness is not installed")
    page = json.loads((Path(__file__).parents[1] / "nbs" / "07_perplexity.ipynb").read_text(encoding="utf-8"))
    lines = next("".join(cell["source"]) for cell in page["cells"] if "published = " in "".join(cell["source"])).splitlines()[:3]
    found = {"re": re}
    exec("\n".join(lines), found)                              # published, spelled and n
    assert theirs.wikitext_detokenizer({"page": found["published"]}) == found["spelled"]
    assert theirs.process_results({"page": found["published"]}, (-1.0,))["word_perplexity"] == (-1.0, found["n"])


@pytest.mark.parametrize("kind", ["XLM", "Flaubert"])
def test_models_that_see_both_sides_are_masked(wordpiece, kind):
    "XLM and FlauBERT end in LMHeadModel and read from both sides, unless their configuration says that they are causal."
    import transformers
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(wordpiece), emb_dim=32, n_layers=1, n_heads=2, max_position_embeddings=64, pad_index=0)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}WithLMHeadModel")(config).eval()
    ours = quiet(model, TEXTS[:2], wordpiece)
    assert ours.kind == "pseudo-perplexity" and np.allclose(ours.log_likelihoods, [masked_one_by_one(model, wordpiece, t) for t in TEXTS[:2]], rtol=1e-4)
    model.config.causal = True
    assert room.task_of(model) == room.task_of(named(model).config) == "causal"


def test_models_that_cannot_be_read_are_refused_in_words(bpe, wordpiece):
    from transformers import BertForPreTraining, CpmAntConfig, CpmAntForCausalLM, MarianConfig, MarianMTModel, XLNetConfig, XLNetLMHeadModel
    small = dict(vocab_size=len(wordpiece), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
    with pytest.raises(ValueError, match="XLNetLMHeadModel predicts in an order"):
        quiet(XLNetLMHeadModel(XLNetConfig(vocab_size=len(bpe), d_model=32, n_layer=1, n_head=2, d_inner=48)), TEXTS, bpe)
    with pytest.raises(ValueError, match="CpmAntForCausalLM reads its whole text in both directions"):
        quiet(CpmAntForCausalLM(CpmAntConfig(vocab_size=len(bpe), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, dim_head=16, dim_ff=48)), TEXTS, bpe)
    with pytest.raises(ValueError, match="BertForPreTraining has two heads: .* BertForMaskedLM"):
        quiet(BertForPreTraining(BertConfig(**small)), TEXTS, wordpiece)
    assert room.task_of(MarianMTModel(MarianConfig(vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=0))) == "seq2seq"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["MBart", "PLBart"])
def test_decoders_that_begin_with_the_code_of_their_language(bpe, kind):
    import transformers
    tokenizer = with_ends(bpe)
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
                                                    decoder_ffn_dim=48, max_position_embeddings=64, init_std=0.3, pad_token_id=2, bos_token_id=0, eos_token_id=1, decoder_start_token_id=3)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    ours = quiet(model, TEXTS[:3], tokenizer, sources=SOURCES[:3])
    for text, source, value, count in zip(TEXTS, SOURCES, ours.log_likelihoods, ours.tokens):
        labels, read = tokenizer(text_target=text, return_tensors="pt")["input_ids"], tokenizer(source, return_tensors="pt")["input_ids"]
        assert math.isclose(-value / count, model(input_ids=read, labels=labels).loss.item(), rel_tol=1e-4)
    assert "the target's last token" in ours.protocol["first window"]


def test_special_tokens_that_stand_in_the_text_are_not_lost(bpe, caplog):
    model, end = gpt(len(bpe)), bpe.eos_token
    for found in (quiet(model, TEXTS, bpe, documents="joined", separator=end), quiet(model, [f"a cat{end}dogs bark"], bpe)):
        assert "bytes lost by the tokenizer" not in found.protocol and "not lossless" not in caplog.text


def dna(text="ACGTACGT TTGA CCGA"):
    "A tokenizer that knows the letters of a text, and has no token for any other."
    import tokenizers
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.train_from_iterator([text] * 5, tokenizers.trainers.BpeTrainer(vocab_size=30, special_tokens=["[PAD]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")


def test_special_tokens_do_not_depend_on_one_letter():
    tokenizer = dna()
    model = bert(len(tokenizer))
    assert not tokenizer("a", add_special_tokens=False)["input_ids"] and room._specials(tokenizer) == ([1], [2])
    assert math.isclose(quiet(model, ["ACGTTTGA CCGA"], tokenizer).log_likelihood, masked_one_by_one(model, tokenizer, "ACGTTTGA CCGA"), rel_tol=1e-5)
    tokenizer = dna("XYXY YX")
    assert room._specials(tokenizer) == ([1], [2])             # found by its own pieces
    tokenizer.get_vocab = dict
    with pytest.raises(ValueError, match="no telling which before and which after"):
        room._specials(tokenizer)


def test_texts_without_a_token_are_told_from_texts_of_one():
    tokenizer = dna()
    for model in (gpt(len(tokenizer)), bert(len(tokenizer))):
        with pytest.raises(ValueError, match="the tokenizer gives none for any of the 2 texts"):
            quiet(model, ["中文", "日本"], tokenizer)
        with pytest.raises(ValueError, match="text: no token to score, the tokenizer gives none"):
            surprisal(model, "中文", tokenizer, device="cpu")


def test_a_table_gives_its_column(bpe):
    import pandas
    import pyarrow
    model, columns = gpt(len(bpe)), {"text": TEXTS[:3], "label": [0, 1, 2]}
    wanted = quiet(model, TEXTS[:3], bpe).log_likelihoods
    rows = [{"text": t} for t in TEXTS[:3]]
    for table in (pandas.DataFrame(columns), pyarrow.table(columns), rows, iter(rows)):
        assert quiet(model, table, bpe).log_likelihoods == wanted
    for table in (pandas.DataFrame(columns), pyarrow.table(columns), rows, iter(rows)):
        with pytest.raises(ValueError, match="text_column 'body' is not there: the columns are text"):
            quiet(model, table, bpe, text_column="body")
    with pytest.raises(ValueError, match="text_column 'body' is for rows with columns"):
        quiet(model, TEXTS, bpe, text_column="body")


def test_rolling_of_the_harness_where_the_tokenizer_begins_texts_itself(bpe):
    "As Llama's does: the harness puts another token before that, and scores it too; with add_bos_token=False it does not."
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    import tokenizers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    backend = tokenizers.Tokenizer.from_str(bpe.backend_tokenizer.to_str())
    begin = bpe.bos_token or bpe.eos_token
    backend.post_processor = tokenizers.processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, bpe.convert_tokens_to_ids(begin))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=begin, eos_token=begin, pad_token=begin)
    model, request = gpt(len(bpe), 16), [Instance(request_type="loglikelihood_rolling", doc={}, arguments=(TEXTS[0],), idx=0)]
    theirs = [HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=16, device="cpu", **more).loglikelihood_rolling(request, disable_tqdm=True)[0] for more in ({}, {"add_bos_token": False})]
    ours = quiet(model, TEXTS[:1], tokenizer, window=16).log_likelihood
    assert math.isclose(ours, theirs[1], rel_tol=1e-5) and not math.isclose(ours, theirs[0], rel_tol=1e-3)


def test_words_of_a_text_without_spaces_are_beyond_numbers(bpe, recwarn):
    model = gpt(len(bpe))
    found = quiet(model, ["中文自然语言处理是一个有趣的领域" * 20] * 2, bpe)
    assert found.per("words") == math.inf and "beyond all numbers per word" in repr(found) and math.isnan(found.interval("words")[1]) and not [w for w in recwarn if w.category is RuntimeWarning]


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2003"])
def test_words_beside_spaces_that_tokens_do_not_mark_are_not_corrected(bpe, space):
    model = gpt(len(bpe))
    values = surprisal(model, f"the{space}cat sat", bpe, device="cpu").corrected_word_bits
    assert np.isnan(values).tolist() == [True, True, False] and np.isfinite(surprisal(model, "the cat sat", bpe, device="cpu").corrected_word_bits).all()


def test_a_source_without_a_token_is_named_by_its_row(bpe):
    model = t5(len(bpe)).eval()
    for sources, row in ((["", "the cat"], 0), (["the cat", ""], 1), (["", ""], 0)):
        with pytest.raises(ValueError, match=f"sources: row {row} has no token"):
            quiet(model, TEXTS[:2], bpe, sources=sources)


def test_the_interval_is_drawn_once(bpe, monkeypatch):
    found, draws, own = quiet(gpt(len(bpe)), TEXTS, bpe), [], room._bootstrap
    monkeypatch.setattr(room, "_bootstrap", lambda *a: draws.append(1) or own(*a))
    assert repr(found) == repr(found) and found._repr_html_() and len(draws) == 1


def test_a_path_begins_at_home(bpe, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "texts.txt").write_text("the cat sat\n", encoding="utf-8")
    assert len(quiet(gpt(len(bpe)), "~/texts.txt", bpe).tokens) == 1


def test_bars_of_words_or_tokens_only(bpe):
    with pytest.raises(ValueError, match="by 'letters' is not known"):
        surprisal(gpt(len(bpe)), "the cat", bpe, device="cpu").plot(by="letters")


@pytest.mark.parametrize("wrong, error, says", [
    (dict(texts=None), TypeError, "texts is NoneType"), (dict(texts=5), TypeError, "texts is int"), (dict(window="16"), TypeError, "window '16'"), (dict(window=16.0), TypeError, "window 16.0"),
    (dict(stride=2.5), TypeError, "stride 2.5"), (dict(max_texts="3"), TypeError, "max_texts '3'"), (dict(max_texts=2.5), TypeError, "max_texts 2.5"), (dict(documents="joined", separator=None), TypeError, "separator None"),
    (dict(tokenizer="gpt2"), TypeError, "tokenizer 'gpt2' is a name"), (dict(masks=2.5), TypeError, "masks 2.5"), (dict(seed=-1), ValueError, "seed -1 must be at least 0")])
def test_wrong_arguments_are_named(bpe, wrong, error, says):
    with pytest.raises(error, match=says):
        quiet(gpt(len(bpe)), **{"texts": TEXTS, "tokenizer": bpe, **wrong})


def test_wrong_questions_to_a_result_are_named(bpe):
    found = quiet(gpt(len(bpe)), TEXTS, bpe)
    for ask, says in ((lambda: found.per("token"), "unit 'token' is not known"), (lambda: found.per(0), "unit 0 must be"), (lambda: found.interval("letters"), "unit 'letters'"),
                      (lambda: found.interval(confidence=95), "confidence 95 must lie between 0 and 1"), (lambda: found.interval(samples=0), "samples 0 must be at least 1")):
        with pytest.raises(ValueError, match=says):
            ask()
    with pytest.raises(TypeError, match="b is NoneType: give a result"):
        compare(found, None)


def test_names_of_files_are_not_scored_as_texts(bpe, tmp_path):
    "A list of names is refused; a text beside a name, and names of files that are not there, are texts."
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    assert quiet(gpt(len(bpe)), names, bpe).tokens
    for name in names:
        Path(name).write_text(TEXTS[0])
    for texts in (names, tuple(names), names[:1]):
        with pytest.raises(ValueError, match=r"texts: .*a\.txt.* names? of .*read one file at a time.*or give the texts"):
            quiet(gpt(len(bpe)), texts, bpe)
    assert len(quiet(gpt(len(bpe)), [names[0], "the cat"], bpe).tokens) == 2


def test_the_embedded_corpus_is_scored_on_texts_that_were_not_trained_on(tmp_path, monkeypatch):
    "Copies of a training text stood in the test split, for it was read with its duplicates."
    monkeypatch.setenv("LMNOTES_CACHE", str(tmp_path))
    texts, split = _as_texts("docstrings:asyncio")
    texts = list(texts)
    assert split == "test" and texts and not set(texts) & set(lmnotes.load_corpus("docstrings:asyncio")["train"]["text"])


@pytest.mark.parametrize("given, said", (("folder", "tokenizer 'folder' is a name: give the tokenizer itself"), (3, "tokenizer is int: give a tokenizer")))
def test_what_is_no_tokenizer_is_named(bpe, tmp_path, given, said):
    model = gpt(len(bpe))
    model.save_pretrained(tmp_path), bpe.save_pretrained(tmp_path)
    for of in (model, tmp_path):
        for scored in (lambda: quiet(of, ["the cat"], given), lambda: surprisal(of, "the cat", given)):
            with pytest.raises(TypeError, match=said):
                scored()


@pytest.mark.parametrize("wrong", ({"bos": "no"}, {"bos": None}, {"within_word": 1}))
def test_what_is_neither_true_nor_false_is_named(bpe, wrong):
    (name, value), = wrong.items()
    with pytest.raises(TypeError, match=f"{name} {value!r} must be True or False"):
        quiet(gpt(len(bpe)), ["the cat"], bpe, **wrong)


def test_tokens_of_a_batch_are_a_whole_number(bpe):
    model, texts = gpt(len(bpe)), ["the cat sees", "a dog"]
    assert quiet(model, texts, bpe, batch_tokens=np.int64(64)).perplexity == quiet(model, texts, bpe, batch_tokens=64).perplexity
    with pytest.raises(ValueError, match="batch_tokens True must be 'auto' or a whole number"):
        quiet(model, texts, bpe, batch_tokens=True)


@pytest.mark.parametrize("make, task", ((gpt, "masked"), (bert, "causal")))
def test_a_task_that_the_model_is_not_for_is_refused(wordpiece, tmp_path, make, task):
    model = make(len(wordpiece))
    with pytest.raises(ValueError, match=f"task '{task}' is not what the model is for"):
        quiet(model, ["the cat"], wordpiece, task=task)
    model.save_pretrained(tmp_path), wordpiece.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is not what the model is for|Masked"):
        quiet(tmp_path, ["the cat"], wordpiece, task=task)
    assert "causal" in (task, room._task(model)) and quiet(model, ["the cat"], wordpiece, task=room._task(model)).tokens


def test_numbers_of_an_interval_are_checked(bpe):
    result = quiet(gpt(len(bpe)), ["the cat sees", "a dog"], bpe)
    for wrong, kind, said in (({"confidence": "0.9"}, TypeError, "confidence '0.9' must be a number"), ({"seed": "x"}, TypeError, "seed 'x' must be a whole number"), ({"seed": -1}, ValueError, "seed -1 must be at least 0")):
        for drawn in (result.interval, functools.partial(compare, result, result)):
            with pytest.raises(kind, match=said):
                drawn(**wrong)
    for unit in ([3], True):
        with pytest.raises(TypeError, match="unit .* must be a number"):
            result.per(unit)
    assert result.per(np.float32(7)) == pytest.approx(result.per(7))


def test_a_table_that_cannot_be_written_is_named(bpe, tmp_path):
    found = surprisal(gpt(len(bpe)), "the cat", bpe)
    with pytest.raises(FileNotFoundError, match="path .*no.csv' cannot be written: No such file or directory; name a file in a folder that is there"):
        found.to_csv(tmp_path / "none" / "no.csv")
    with pytest.raises(IsADirectoryError, match="cannot be written: Is a directory"):
        found.to_csv(tmp_path, overwrite=True)
    with pytest.raises(TypeError, match="path None must be the name of a file"):
        found.to_csv(None)


def test_the_vocabulary_is_looked_through_once(bpe, monkeypatch):
    "Which tokens end a word is kept for a tokenizer, and looked up anew where it has got more of them."
    model, tokenizer, calls, looked = gpt(len(bpe)), copy.deepcopy(bpe), [], room._edges_of
    monkeypatch.setattr(room, "_edges_of", lambda *given: calls.append(given) or looked(*given))
    first, again = (surprisal(model, TEXTS[0], tokenizer) for _ in range(2))
    assert len(calls) == 1 and repr(first) == repr(again)
    tokenizer.add_tokens(["\u0120zzz"])
    model.resize_token_embeddings(len(tokenizer))
    surprisal(model, TEXTS[0], tokenizer)
    assert len(calls) == 2
