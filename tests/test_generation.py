"""Generation: what is read and asked for, decoding beside the library, batches that change nothing, and bad input."""
import json
import logging
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, BartConfig, BartForCausalLM, DistilBertConfig, GenerationConfig, GPT2LMHeadModel, LEDConfig, MarianConfig,
                          MarianForCausalLM, MarianMTModel, PreTrainedTokenizerFast, RecurrentGemmaConfig, RecurrentGemmaForCausalLM, RobertaConfig, RoFormerConfig, RoFormerForCausalLM, RwkvConfig, RwkvForCausalLM,
                          XLNetConfig)

from lmnotes import generation
from lmnotes.checkpoints import info, load
from lmnotes.generation import (IGNORED, SEPARATOR, completion_features, encoder_decoder_config, end_of_text, generate_texts, generation_collator, generation_features,
                                generation_loss, generator_family, open_generator, seq2seq_features, warm_start)
from lmnotes.perplexity import perplexity
from lmnotes.pretraining import fast_config, save_folder
from lmnotes.tokenization import train_tokenizer
from lmnotes.transformer import model_config

WORDS = "red green blue cat dog bird sees hears and the a one two three".split()
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, 3 + i % 9)) for i in range(120)]
SOURCES = [TEXTS[i] for i in (3, 17, 8, 0, 40, 3)]


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: train_tokenizer(TEXTS, kind, vocab_size=size, progress=False) for kind, size in (("bpe", 300), ("wordpiece", 90), ("unigram", 60))}


def wide(model):
    "The model with larger weights, so that its choices differ from text to text."
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval()


def causal(tokenizer, kind="gpt2", positions=48):
    torch.manual_seed(0)
    sizes = {"gpt2": lambda v: model_config("gpt-tiny", v, positions, n_embd=32, n_layer=2, n_head=2, n_inner=64),
             "llama": lambda v: model_config("llama-mini", v, positions, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64),
             "fast": lambda v: fast_config(v, 2, 32, 2, positions)}
    return wide(AutoModelForCausalLM.from_config(sizes[kind](-(-len(tokenizer) // 8) * 8)))


def seq2seq(tokenizer, kind="bart", **changes):
    torch.manual_seed(0)
    return wide(AutoModelForSeq2SeqLM.from_config(encoder_decoder_config(tokenizer, kind, **{"layers": 1, "hidden": 32, "heads": 2, "max_length": 48, **changes})))


def write(model, tokenizer, sources, **options):
    return generate_texts(model, tokenizer, sources, **{"max_new_tokens": 6, "progress": False, **options})


# ---- features

@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_completion_has_its_end_and_the_prompt_no_label(tokenizers, kind):
    tokenizer = tokenizers[kind]
    features = completion_features(tokenizer, ["the cat", ""], ["sees a dog", "one"], separator=" and")
    for row, target in zip(features.rows, ("sees a dog", "one")):
        labels = [label for label in row["labels"] if label != IGNORED]
        assert row["input_ids"][-len(labels):] == labels and labels[-1] == end_of_text(tokenizer) and labels.count(labels[-1]) == 1
        assert tokenizer.decode(labels, skip_special_tokens=True).strip() == target
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["attention_mask"]) and row["labels"][0] == IGNORED
    assert (features.cut_sources, features.cut_targets) == (0, 0) and "0 sources" in repr(features) and "<table>" in features._repr_html_()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(1, 30), st.integers(4, 40))
def test_cut_keeps_the_end_of_the_prompt_and_some_of_the_target(source, target, length):
    tokenizer = _bpe()
    whole = completion_features(tokenizer, [" cat" * source], [" dog" * target], 1000, " and").rows[0]
    features = completion_features(tokenizer, [" cat" * source], [" dog" * target], length, " and")
    row = features.rows[0]
    labels, full = [x for x in row["labels"] if x != IGNORED], [x for x in whole["labels"] if x != IGNORED]
    prompt, before = row["input_ids"][:-len(labels)], whole["input_ids"][:-len(full)]
    assert len(row["input_ids"]) == min(length, len(whole["input_ids"]))
    assert labels == full[:len(labels)] and prompt and prompt == before[-len(prompt):] and len(labels) >= min(len(full), length // 2)
    assert features.cut_targets == (len(labels) < len(full)) and features.cut_sources == (len(prompt) < len(before))


_KEPT = []


def _bpe():
    if not _KEPT:
        _KEPT.append(train_tokenizer(TEXTS, "bpe", vocab_size=300, progress=False))
    return _KEPT[0]


def test_first_special_token_of_a_cut_prompt_stays(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    row = completion_features(tokenizer, ["cat dog bird red green blue"], ["two"], max_length=6, separator="").rows[0]
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["[CLS]", "red", "green", "blue", "two", "[SEP]"]


def test_sources_and_targets_of_an_encoder_decoder_are_closed_and_cut(tokenizers, caplog):
    for tokenizer in tokenizers.values():
        end = end_of_text(tokenizer)
        with caplog.at_level(logging.INFO, "lmnotes.generation"):
            features = seq2seq_features(tokenizer, ["the cat sees a dog", "", "one"], ["a", "one two three one two three", "two"], 5, 5)
        assert all(row[-1] == end and len(row) <= 5 for name in ("input_ids", "labels") for row in features.rows[name])
        assert features.cut_targets >= 1 and "and cut" in caplog.text
        assert features.source_tokens == sum(map(len, features.rows["input_ids"]))


def test_bad_examples_are_refused(tokenizers):
    tokenizer = tokenizers["bpe"]
    for make in (completion_features, seq2seq_features):
        with pytest.raises(ValueError, match=r"targets\[1\] is empty.*leave the example out"):
            make(tokenizer, ["a", "b"], ["a", " \n"])
        with pytest.raises(ValueError, match="the number of sources is 2 and of targets 1"):
            make(tokenizer, ["a", "b"], ["a"])
        with pytest.raises(TypeError, match=r"sources\[0\] is int"):
            make(tokenizer, [3], ["a"])
        with pytest.raises(TypeError, match="targets is one text"):
            make(tokenizer, ["a"], "a")
    with pytest.raises(ValueError, match="max_length 3 must be 4"):
        completion_features(tokenizer, ["a"], ["a"], max_length=3)
    with pytest.raises(ValueError, match="max_target_length 2 must be 3"):
        seq2seq_features(tokenizer, ["a"], ["a"], max_target_length=2)
    assert len(completion_features(tokenizer, [], []).rows) == len(seq2seq_features(tokenizer, [], []).rows) == 0


# ---- loss

@pytest.mark.parametrize("make", [causal, seq2seq, lambda t: seq2seq(t, "t5")], ids=["gpt2", "bart", "t5"])
def test_loss_is_the_librarys_and_does_not_see_padding(tokenizers, make):
    tokenizer = tokenizers["bpe"]                                       # pads with its end of text
    model = make(tokenizer)
    features = generation_features(model, tokenizer, SOURCES, SOURCES[::-1], 40, 20, " and")
    collate = generation_collator(model, tokenizer)
    with torch.no_grad():
        batch = collate(list(features.rows))
        together, library = generation_loss(model, **batch), model(**batch).loss
        alone = [(generation_loss(model, **b, items=1.0).item(), int((b["labels"] != IGNORED).sum())) for b in (collate([row]) for row in features.rows)]
    assert np.isclose(together.item(), library.item(), rtol=1e-5)
    assert np.isclose(together.item(), sum(a for a, _ in alone) / sum(n for _, n in alone), rtol=1e-4)


def test_causal_loss_does_not_ask_for_the_prompt(tokenizers):
    tokenizer = tokenizers["bpe"]
    model = causal(tokenizer)
    rows = completion_features(tokenizer, [TEXTS[4]], [TEXTS[5]]).rows
    batch = generation_collator(model, tokenizer)(list(rows))
    everything = {**batch, "labels": batch["input_ids"]}
    assert abs(generation_loss(model, **batch).item() - generation_loss(model, **everything).item()) > 1e-3


def test_conditional_perplexity_is_the_loss(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    model = seq2seq(tokenizer, "t5")
    features = generation_features(model, tokenizer, SOURCES[:3], SOURCES[3:])
    with torch.no_grad():
        loss = generation_loss(model, **generation_collator(model, tokenizer)(list(features.rows))).item()
    measured = perplexity(model, SOURCES[3:], tokenizer, sources=SOURCES[:3], device="cpu", progress=False)
    assert np.isclose(np.log(measured.perplexity), loss, rtol=1e-5)


# ---- decoding

MODELS = {"gpt2": lambda t: (causal(t["bpe"]), t["bpe"]), "llama": lambda t: (causal(t["bpe"], "llama"), t["bpe"]), "fast": lambda t: (causal(t["bpe"], "fast"), t["bpe"]),
          "gpt2-wordpiece": lambda t: (causal(t["wordpiece"]), t["wordpiece"]), "bart": lambda t: (seq2seq(t["bpe"]), t["bpe"]),
          "bart-wordpiece": lambda t: (seq2seq(t["wordpiece"]), t["wordpiece"]), "t5": lambda t: (seq2seq(t["unigram"], "t5"), t["unigram"])}


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_writes_what_single_calls_write_in_order(tokenizers, name):
    model, tokenizer = MODELS[name](tokenizers)
    some, state = SOURCES[:5] + [""], torch.get_rng_state()
    for way in ({}, {"num_beams": 3, "length_penalty": 0.5}, {"temperature": 0.8, "top_k": 12, "top_p": 0.95, "seed": 3}):
        together = write(model, tokenizer, some, **way)
        assert together == [write(model, tokenizer, [source], **way)[0] for source in some]
        assert together == write(model, tokenizer, some, batch_tokens=1, **way) == write(model, tokenizer, some[::-1], batch_tokens=60, **way)[::-1]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_decoding_is_the_librarys(tokenizers, name):
    model, tokenizer = MODELS[name](tokenizers)
    for options in ({}, {"num_beams": 4, "length_penalty": 2.0}, {"no_repeat_ngram_size": 2}):
        config = GenerationConfig(max_new_tokens=6, eos_token_id=end_of_text(tokenizer), pad_token_id=end_of_text(tokenizer), decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
                                  do_sample=False, **options)
        for source in SOURCES[:3]:
            ids = tokenizer(source + (tokenizer.eos_token if name == "bart" else ""), return_tensors="pt")["input_ids"]
            out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, (1 if name == "bart" else ids.shape[1]):]
            assert write(model, tokenizer, [source], **options) == [tokenizer.decode(out, skip_special_tokens=True)]


def test_sampling_follows_the_seed_and_the_probabilities(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    model = causal(tokenizer)
    model.eval()
    a, b, again = (write(model, tokenizer, ["the cat"] * 20, temperature=1.0, seed=seed) for seed in (1, 2, 1))
    assert a == again and a != b and len(set(a)) > 1                    # the same source again gets another text
    assert write(model, tokenizer, SOURCES, temperature=1.0, top_k=1) == write(model, tokenizer, SOURCES)
    ids = torch.tensor([tokenizer("the cat")["input_ids"][:-1]])
    p = model(ids).logits[0, -1].softmax(-1).detach().numpy()
    drawn = write(model, tokenizer, ["the cat"] * 400, temperature=1.0, max_new_tokens=1)
    likeliest = tokenizer.decode([int(p.argmax())], skip_special_tokens=True)
    assert abs(np.mean([text == likeliest for text in drawn]) - p.max()) < 0.12


def test_a_part_of_the_sources_draws_as_the_whole_does():
    "What is counted goes on from part to part, so equal sources in two parts have other numbers."
    sources, seen = ["a", "b", "a", "a", "b", "a"], Counter()
    times = [t for part in (sources[:2], sources[2:5], sources[5:]) for t in generation._times_before(part, seen)]
    assert times == [0, 0, 1, 2, 1, 3] == generation._times_before(sources, Counter())
    drawn = np.concatenate([generation._numbers(sources[i:j], 4, 0, times[i:j]) for i, j in ((0, 2), (2, 5), (5, 6))])
    assert (drawn == generation._numbers(sources, 4, 0, times)).all() and len({tuple(row) for row in drawn}) == 6


def test_no_ngram_is_written_twice_and_the_length_holds(tokenizers, monkeypatch):
    model, tokenizer = MODELS["bart"](tokenizers)
    generate, out = model.generate, []
    monkeypatch.setattr(model, "generate", lambda **options: out.append(generate(**options)) or out[-1])
    write(model, tokenizer, SOURCES, no_repeat_ngram_size=1, max_new_tokens=9)
    for row in (row for batch in out for row in batch[:, 1:].tolist()):
        words = [i for i in row if i != end_of_text(tokenizer)]
        assert len(row) <= 9 and len(set(words)) == len(words)
    assert write(model, tokenizer, []) == []


def test_model_comes_back_as_it_was(tokenizers):
    model, tokenizer = MODELS["gpt2"](tokenizers)
    model.train()
    before = model.generation_config.to_dict()
    write(model, tokenizer, SOURCES)
    assert model.training and model.generation_config.to_dict() == before and all(p.grad is None for p in model.parameters())


def test_what_a_folder_says_of_decoding_does_not_apply(tokenizers):
    model, tokenizer = MODELS["bart"](tokenizers)
    plain = write(model, tokenizer, SOURCES)
    model.generation_config.repetition_penalty, model.generation_config.min_length, model.generation_config.num_beams = 3.0, 30, 5
    assert write(model, tokenizer, SOURCES) == plain


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_nothing_that_a_folder_says_of_decoding_applies(tokenizers, name):
    "Options that we do not name, too: the library would take them from the model's own."
    model, tokenizer = MODELS[name](tokenizers)
    plain = write(model, tokenizer, SOURCES)
    own = model.generation_config
    own.suppress_tokens, own.num_beam_groups, own.bad_words_ids, own.min_new_tokens, own.encoder_no_repeat_ngram_size = list(range(3, 40)), None, [[i] for i in range(40, 60)], 6, 1
    assert write(model, tokenizer, SOURCES) == plain and model.generation_config is own


def test_padding_is_not_written_where_a_folder_forbids_it(tokenizers):
    "Marian's has no bias against it: all its translations would be empty."
    tokenizer = tokenizers["unigram"]
    torch.manual_seed(1)
    pad, end = tokenizer.pad_token_id, end_of_text(tokenizer)
    model = MarianMTModel(MarianConfig(vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
                                       max_position_embeddings=64, pad_token_id=pad, eos_token_id=end, decoder_start_token_id=pad)).eval()
    model.final_logits_bias[:], model.final_logits_bias[0, pad] = -5, 0
    model.get_input_embeddings().weight.data[pad] = 0
    assert set(write(model, tokenizer, SOURCES)) == {""}
    model.generation_config.bad_words_ids = [[pad], [end]]
    texts = write(model, tokenizer, SOURCES, max_new_tokens=8)
    model.generation_config.bad_words_ids, model.generation_config.forced_eos_token_id = [[pad]], None
    expected = model.generate(**tokenizer(SOURCES, padding=True, return_tensors="pt", return_token_type_ids=False), max_new_tokens=8, num_beams=1, do_sample=False)
    assert texts == write(model, tokenizer, SOURCES, max_new_tokens=8) == [text.strip() for text in tokenizer.batch_decode(expected, skip_special_tokens=True)] and all(texts)


@pytest.mark.parametrize("kind", ["roberta", "camembert", "data2vec-text"])
def test_decoders_of_robertas_kin_stand_at_their_own_positions(tokenizers, kind):
    "The library's `generate` counts from 0, and their training from the position after that of padding."
    tokenizer = tokenizers["bpe"]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64,
                                                                  is_decoder=True, pad_token_id=1, bos_token_id=0, eos_token_id=2, initializer_range=0.4)).eval()
    torch.nn.init.normal_(next(m for name, m in model.named_modules() if name.endswith("position_embeddings")).weight)
    sources, expected = ["the cat", "a dog sees the red bird", "one"], []
    for source in sources:
        ids = tokenizer(source, return_tensors="pt")["input_ids"]
        first = ids.shape[1]
        with torch.no_grad():
            for _ in range(6):
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        ends = [n for n, token in enumerate(ids[0, first:].tolist()) if token == 2]
        expected.append(tokenizer.decode(ids[0, first:first + ends[0] if ends else None], skip_special_tokens=True).strip())
    assert [text.strip() for text in write(model, tokenizer, sources)] == expected and len(set(expected)) > 1


def test_an_end_that_a_source_is_written_with_stays(tokenizers):
    tokenizer = tokenizers["bpe"]
    end = end_of_text(tokenizer)
    row, = generation._prompts(tokenizer, ["the cat" + tokenizer.convert_ids_to_tokens(end)], "", end)
    assert row[-1] == end and generation._prompts(tokenizer, ["the cat"], "", end)[0] == [token for token in row if token != end]
    wordpiece = tokenizers["wordpiece"]
    closed = wordpiece.sep_token_id
    assert wordpiece("the cat")["input_ids"][-1] == closed != generation._prompts(wordpiece, ["the cat"], "", closed)[0][-1]
    assert [generation._prompts(wordpiece, [text], "", closed)[0].count(closed) for text in ("the cat", "the cat [SEP]")] == [0, 1]


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_source_is_read_as_far_as_it_is_asked(tokenizers, name, caplog):
    model, tokenizer = MODELS[name](tokenizers)
    ids = [tokenizer(s)["input_ids"] for s in SOURCES]
    short = [tokenizer.decode(row[-4:] if name == "gpt2" else row[:3]) for row in ids]
    assert all(tokenizer(s)["input_ids"] == (row[-4:] if name == "gpt2" else row[:3]) for s, row in zip(short, ids))
    with caplog.at_level(logging.WARNING, "lmnotes.generation"):
        assert write(model, tokenizer, SOURCES, max_source_length=4) == write(model, tokenizer, short) != write(model, tokenizer, SOURCES)
    assert "longer than 4 tokens" in caplog.text
    with pytest.raises(ValueError, match="max_source_length 0 must be a whole number, 1 or more"):
        write(model, tokenizer, SOURCES, max_source_length=0)


def test_no_token_twice_is_the_same_in_batches(tokenizers):
    "A causal model's padding would count as a token that came before."
    model, tokenizer = MODELS["gpt2"](tokenizers)
    together = write(model, tokenizer, SOURCES, no_repeat_ngram_size=1, max_new_tokens=9)
    assert together == [write(model, tokenizer, [s], no_repeat_ngram_size=1, max_new_tokens=9)[0] for s in SOURCES]


def test_long_sources_are_cut_as_in_training_and_counted(tokenizers, caplog):
    tokenizer, long = tokenizers["bpe"], " ".join(TEXTS)
    for model, kept in ((causal(tokenizer), tokenizer.decode(tokenizer(long)["input_ids"][-42:])), (seq2seq(tokenizer), tokenizer.decode(tokenizer(long)["input_ids"][:47]))):
        with caplog.at_level(logging.WARNING, "lmnotes.generation"):
            assert write(model, tokenizer, [long, "cat"]) == write(model, tokenizer, [kept, "cat"])
        assert "1 of 2 sources are longer than 4" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("options, words", [
    ({"max_new_tokens": 0}, "max_new_tokens 0"), ({"num_beams": 0}, "num_beams 0"), ({"num_beams": 1.5}, "num_beams 1.5"), ({"temperature": -1}, "temperature -1"),
    ({"temperature": float("nan")}, "temperature nan"), ({"temperature": 1, "top_k": 0}, "top_k 0"), ({"temperature": 1, "top_p": 0.0}, "top_p 0.0"), ({"temperature": 1, "top_p": 1.1}, "top_p 1.1"),
    ({"num_beams": 2, "temperature": 1.0}, "num_beams 2 .* temperature 1.0"), ({"top_p": 0.9}, "temperature 0 does not sample"), ({"length_penalty": float("inf")}, "length_penalty inf"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size -1"), ({"batch_tokens": 0}, "batch_tokens 0"), ({"max_new_tokens": 48}, "max_new_tokens 48 leaves no room in the model's 48 positions")])
def test_parameters_out_of_range_are_refused(tokenizers, options, words):
    model, tokenizer = MODELS["gpt2"](tokenizers)
    with pytest.raises(ValueError, match=words):
        write(model, tokenizer, ["cat"], **options)


# ---- models

@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoder_has_its_tokens_and_learns_to_copy_its_end(tokenizers, kind, tmp_path):
    for name, tokenizer in tokenizers.items():
        model = seq2seq(tokenizer, kind)
        config = model.config
        assert config.eos_token_id == end_of_text(tokenizer) and config.pad_token_id == config.decoder_start_token_id == tokenizer.pad_token_id and config.vocab_size % 8 == 0
        folder = save_folder(tmp_path / f"{kind}-{name}", model, tokenizer)
        again, its_own = load(folder, device="cpu")
        assert info(folder).task == "seq2seq" and write(again, its_own, SOURCES) == write(model, tokenizer, SOURCES)


def test_encoder_decoder_config_refuses_what_cannot_be(tokenizers):
    for options, words in (({"kind": "rnn"}, "kind 'rnn' is unknown: choose t5 or bart"), ({"layers": 0}, "layers 0"), ({"hidden": 30, "heads": 4}, "hidden 30 cannot be divided among 4 heads"), ({"dropout": 1.0}, "dropout 1.0"),
                           ({"feed_forward": -8}, "feed_forward -8 must be 1 or more"), ({"feed_forward": 0}, "feed_forward 0 must be 1 or more")):
        with pytest.raises(ValueError, match=words):
            encoder_decoder_config(tokenizers["bpe"], **options)
    assert encoder_decoder_config(tokenizers["bpe"], hidden=32).d_ff == 128 and encoder_decoder_config(tokenizers["bpe"], "bart", hidden=32, feed_forward=40).encoder_ffn_dim == 40


@pytest.fixture(scope="module")
def folders(tokenizers, tmp_path_factory):
    "A BERT, a GPT-2 with the same tokenizer, and a BERT with another."
    root, tokenizer = tmp_path_factory.mktemp("folders"), tokenizers["wordpiece"]
    torch.manual_seed(0)
    bert = lambda t: AutoModelForMaskedLM.from_config(model_config("bert-tiny", len(t), 48, hidden_size=32, num_attention_heads=2, intermediate_size=64))
    save_folder(root / "bert", bert(tokenizer), tokenizer)
    save_folder(root / "gpt", causal(tokenizer), tokenizer)
    save_folder(root / "bpe", causal(tokenizers["bpe"]), tokenizers["bpe"])
    save_folder(root / "other", bert(tokenizers["unigram"]), tokenizers["unigram"])
    return root


@pytest.mark.parametrize("decoder", ["bert", "gpt"])
def test_warm_start_keeps_both_and_saves_as_an_ordinary_folder(folders, tmp_path, decoder):
    state = torch.get_rng_state()
    model, tokenizer = warm_start(folders / "bert", folders / decoder, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    source, _ = load(folders / "bert", device="cpu")
    for name, tensor in source.bert.encoder.state_dict().items():
        assert torch.equal(tensor, model.encoder.state_dict()[f"encoder.{name}"])
    assert all("cross" in name for name, _ in model.decoder.named_parameters() if name not in load(folders / decoder, device="cpu")[0].state_dict())
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.sep_token_id and model.config.decoder_start_token_id == tokenizer.cls_token_id
    save_folder(tmp_path / "joined", model, tokenizer)
    again, its_own = load(tmp_path / "joined", device="cpu")
    batch = generation_collator(model, tokenizer)(list(generation_features(model, tokenizer, SOURCES, SOURCES).rows))
    with torch.no_grad():
        assert torch.allclose(generation_loss(model.eval(), **batch), generation_loss(again, **batch), atol=1e-6)
    assert write(again, its_own, SOURCES) == write(model, tokenizer, SOURCES) and not list((tmp_path / "joined").glob("*.bin"))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), warm_start(folders / "bert", folders / decoder, seed=1)[0].state_dict().values()))


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_nothing_that_is_read_is_new_but_cross_attention(folders, tokenizers, tmp_path, kind):
    "Of both sides; the pooling layer that the library's class adds is never read, and the folder holds all of it, so that nothing is random when it is opened."
    tokenizer, small = tokenizers["wordpiece"], dict(vocab_size=len(tokenizers["wordpiece"]), max_position_embeddings=50, pad_token_id=tokenizers["wordpiece"].pad_token_id)
    if kind == "bert":
        place = folders / "bert"
    else:
        torch.manual_seed(0)
        config = (RobertaConfig(**small, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64) if kind == "roberta"
                  else DistilBertConfig(**small, dim=32, n_layers=2, n_heads=2, hidden_dim=64))
        place = save_folder(tmp_path / kind, AutoModelForMaskedLM.from_config(config), tokenizer)
    decoder = place if kind == "roberta" else folders / "bert"
    model, _ = warm_start(place, decoder)
    before = {name.removeprefix(f"{kind}.") for name in load(place, device="cpu")[0].state_dict()}, set(load(decoder, device="cpu")[0].state_dict())
    new = {f"{side}.{name}" for side, part, known in (("encoder", model.encoder, before[0]), ("decoder", model.decoder, before[1])) for name, _ in part.named_parameters() if name not in known}
    unread = {name for name in new if ".crossattention." not in name}
    assert unread == (set() if kind == "distilbert" else {"encoder.pooler.dense.weight", "encoder.pooler.dense.bias"}) and len(new) > len(unread)
    batch = generation_collator(model, tokenizer)(list(generation_features(model, tokenizer, SOURCES, SOURCES).rows))
    loss = generation_loss(model.eval(), **batch)
    loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == unread
    with torch.no_grad():
        for name in unread:
            model.get_parameter(name).add_(1.0)
        assert torch.equal(generation_loss(model, **batch), loss)
    again, _ = load(save_folder(tmp_path / "joined", model, tokenizer), device="cpu")
    assert again.state_dict().keys() == model.state_dict().keys() and all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_counts_of_one_are_singular_and_only_what_was_given_is_named(tokenizers):
    one = completion_features(tokenizers["bpe"], ["red green blue cat dog bird"], ["cat"], max_length=6)
    assert one.cut_sources == 1 and repr(one).startswith("1 example of ") and "cut: 1 source, 0 targets" in repr(one)
    for options, words in (({"top_k": 5}, "^top_k 5 chooses what"), ({"top_p": 0.9}, "^top_p 0.9 chooses what"), ({"top_k": 5, "top_p": 0.9}, "^top_k 5 and top_p 0.9 choose what")):
        with pytest.raises(ValueError, match=words):
            generation.check_decoding(**options)


def test_warm_start_refuses_what_does_not_fit(folders, tokenizers, tmp_path):
    with pytest.raises(ValueError, match="differ: both sides need one vocabulary"):
        warm_start(folders / "bert", folders / "other")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        warm_start(folders / "nowhere")
    save_folder(tmp_path / "llama", causal(tokenizers["wordpiece"], "llama"), tokenizers["wordpiece"])
    with pytest.raises(ValueError, match="'llama' has no place for attention to an encoder"):
        warm_start(folders / "bert", tmp_path / "llama")


def test_open_generator_gives_each_family_its_tokens(folders, tmp_path):
    state = torch.get_rng_state()
    model, tokenizer = open_generator(folders / "bpe")
    assert generator_family(model) == "causal" and model.training and model.config.prompt_separator == SEPARATOR and model.generation_config.eos_token_id == end_of_text(tokenizer)
    random = [open_generator(folders / "bpe", seed=seed, from_scratch=True)[0].state_dict()["transformer.wte.weight"] for seed in (1, 1, 2)]
    assert torch.equal(random[0], random[1]) and not torch.equal(random[0], random[2]) and not torch.equal(random[0], model.state_dict()["transformer.wte.weight"])
    assert torch.equal(state, torch.get_rng_state())
    folder = save_folder(tmp_path / "tuned", model, tokenizer)
    again, its_own = load(folder, device="cpu")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["prompt_separator"] == SEPARATOR
    marked = generation_features(again, its_own, ["the cat"], ["dog"]).rows[0]["input_ids"]
    assert marked == its_own("the cat" + SEPARATOR)["input_ids"] + its_own("dog")["input_ids"] + [end_of_text(its_own)]
    plain = load(folders / "bpe", device="cpu")[0]
    assert write(again, its_own, ["the cat"]) == write(plain, its_own, ["the cat" + SEPARATOR])


def test_open_generator_refuses_the_wrong_family_and_damage(folders, tokenizers, tmp_path):
    with pytest.raises(ValueError, match="BertForMaskedLM is a masked one.*warm_start"):
        open_generator(folders / "bert")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        open_generator("nothing_here")
    with pytest.raises(TypeError, match="model is int"):
        open_generator(3)
    with pytest.raises(ValueError, match="use the model's own tokenizer"):
        open_generator(folders / "gpt", tokenizers["bpe"])
    folder = save_folder(tmp_path / "cut", causal(tokenizers["bpe"]), tokenizers["bpe"])
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is not whole"):
        open_generator(folder)
    masked, tokenizer = load(folders / "bert", device="cpu")
    with pytest.raises(ValueError, match="writes no text"):
        write(masked, tokenizer, ["cat"])


def test_a_pretrained_model_goes_on_with_a_story(shared_models):
    model, tokenizer = load(shared_models / "stories260K", device="cpu")
    together = write(model, tokenizer, ["Once upon a time", "The dog", "Lily saw a"], max_new_tokens=12)
    assert together == [write(model, tokenizer, [s], max_new_tokens=12)[0] for s in ("Once upon a time", "The dog", "Lily saw a")]
    assert "there was" in together[0]


@pytest.mark.parametrize("sources", ["the cat", b"the cat", {"text": ["the cat"]}, pd.DataFrame({"text": ["the cat"]}), Dataset.from_dict({"text": ["the cat"]}).with_format("arrow")[:]])
def test_letters_and_names_of_columns_are_no_sources(tokenizers, sources):
    with pytest.raises(TypeError, match=f"sources is .*{type(sources).__name__ if not isinstance(sources, str) else 'one text'}.*give a list of texts"):
        write(causal(tokenizers["bpe"]), tokenizers["bpe"], sources)
    with pytest.raises(TypeError, match="targets is"):
        completion_features(tokenizers["bpe"], ["the cat"], sources)


def test_half_a_character_is_refused_in_words(tokenizers):
    with pytest.raises(ValueError, match=r"sources\[1\] holds half of a pair of surrogates.*mend it"):
        write(causal(tokenizers["bpe"]), tokenizers["bpe"], ["the cat", "a\ud83d"])


def test_numbers_of_numpy_choose_as_plain_ones(tokenizers):
    model, tokenizer = causal(tokenizers["bpe"]), tokenizers["bpe"]
    numbers = dict(max_new_tokens=4, max_source_length=8, temperature=0.8, top_k=5, top_p=0.9, seed=3, batch_tokens=64)
    plain = write(model, tokenizer, SOURCES, **numbers)
    assert write(model, tokenizer, SOURCES, **{name: np.int64(v) if isinstance(v, int) else np.float64(v) for name, v in numbers.items()}) == plain
    for top_k in (2.5, "5"):
        with pytest.raises(ValueError, match=f"top_k {top_k!r} must be 1 or more, and whole"):
            write(model, tokenizer, SOURCES, temperature=1.0, top_k=top_k)


# ---- what others' folders hold
def bare(tokenizer):
    "The tokenizer without any special token of its own."
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)


@pytest.mark.parametrize("make", (causal, seq2seq))
@pytest.mark.parametrize("ends", (0, [0, 3]))
def test_the_end_of_text_is_the_configuration_s_where_the_tokenizer_has_none(tokenizers, make, ends):
    tokenizer = bare(tokenizers["bpe"])
    model = make(tokenizers["bpe"])
    model.config.eos_token_id, model.generation_config.eos_token_id = ends, None
    assert generation._end_ids(model, tokenizer) == (ends if isinstance(ends, list) else [ends])
    assert write(model, tokenizer, SOURCES) == write(model, tokenizers["bpe"], SOURCES)
    model.config.eos_token_id = None
    assert generation._end_ids(model, tokenizer) == [] and len(write(model, tokenizer, SOURCES)) == len(SOURCES)


@pytest.mark.parametrize("pad", (5, -1, 10**6))
def test_a_padding_that_is_a_word_or_no_token_is_never_read_as_text(tokenizers, pad):
    tokenizer = tokenizers["bpe"]
    model = causal(tokenizer)
    model.config.pad_token_id = pad
    for seed in range(6):
        way = {"temperature": 2.0, "seed": seed, "max_new_tokens": 12}
        assert write(model, tokenizer, WORDS, **way) == [write(model, tokenizer, [word], **way)[0] for word in WORDS]


@pytest.mark.parametrize("size", (1, 2, 3))
def test_padding_is_no_n_gram_that_came_before(tokenizers, size):
    tokenizer = tokenizers["bpe"]
    for seed in range(8):
        model = causal(tokenizer)
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
        model.config.eos_token_id = model.config.pad_token_id = tokenizer.eos_token_id
        assert write(model, tokenizer, ["", "the cat sees a dog"], no_repeat_ngram_size=size)[0] == write(model, tokenizer, [""], no_repeat_ngram_size=size)[0]


def test_xlnet_writes_in_a_batch_what_it_writes_alone(tokenizers):
    tokenizer, sources = tokenizers["bpe"], ["the", "the cat sees a dog and hears one bird"]
    for seed in range(4):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(XLNetConfig(vocab_size=len(tokenizer), d_model=32, n_layer=2, n_head=4, d_inner=64, bos_token_id=None, eos_token_id=None, pad_token_id=0))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
        assert write(model, tokenizer, sources) == [write(model, tokenizer, [source])[0] for source in sources]


def test_a_continuation_begins_as_it_does_after_its_prompt(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    prompt, word, part = (tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in ("the cat", "dog", "the"))
    piece = [next(i for token, i in tokenizer.get_vocab().items() if token.startswith("##"))]
    assert generation._continuation(tokenizer, prompt, word) == " dog" and generation._continuation(tokenizer, prompt, []) == ""
    assert generation._continuation(tokenizer, prompt, piece) == tokenizer.convert_ids_to_tokens(piece)[0][2:]
    model = causal(tokenizer)
    plain = write(model, tokenizer, SOURCES)
    model.config.prompt_separator = ""                         # taught on prompts with completions: an answer stands alone
    assert [text.lstrip() for text in plain] == [text.removeprefix("##") for text in write(model, tokenizer, SOURCES)]
    assert any(text.startswith(" ") for text in plain) and not any(text.startswith("##") for text in plain)


@pytest.mark.parametrize("temperature", (1e-31, 1e-45, 1e-300))
def test_a_temperature_that_no_logit_can_be_divided_by_is_refused(tokenizers, temperature):
    with pytest.raises(ValueError, match=f"temperature {temperature} is too small.*or 0 for the likeliest"):
        write(causal(tokenizers["bpe"]), tokenizers["bpe"], ["the"], temperature=temperature)
    assert write(causal(tokenizers["bpe"]), tokenizers["bpe"], SOURCES, temperature=1e-30) == write(causal(tokenizers["bpe"]), tokenizers["bpe"], SOURCES)


def test_scores_that_are_no_numbers_are_not_drawn_from():
    with pytest.raises(ValueError, match="no numbers"):
        generation._Draw(np.array([[0.5]]), 1)(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[0.0, float("nan")]]))


def spelled():
    "A tokenizer that spells in bytes what it has no token for, as SentencePiece's do."
    vocab = {token: i for i, token in enumerate(["<unk>", "</s>", "a", *(f"<0x{byte:02X}>" for byte in range(256))])}
    whole = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    whole.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="<unk>", eos_token="</s>")


def test_whole_characters_stay_when_the_last_one_is_unfinished():
    tokenizer, text = spelled(), "aé你a🙂好"
    ids, ends = tokenizer(text)["input_ids"], np.cumsum([len(c.encode()) for c in text]).tolist()
    for length in range(len(ids) + 1):
        whole = text[:sum(end <= length for end in ends)]
        for tail in ([], [tokenizer.eos_token_id]):
            assert generation._text_of(tokenizer, ids[:length] + tail) == whole
            assert generation._continuation(tokenizer, tokenizer("a你")["input_ids"], ids[:length] + tail) == whole


@pytest.mark.parametrize("wrong", ({"seed": -1}, {"seed": 1.5}, {"seed": 2**32}, {"max_source_length": 2.5}))
def test_seeds_and_lengths_that_are_none_are_named(tokenizers, wrong):
    (name, value), = wrong.items()
    with pytest.raises(ValueError, match=f"{name} {value} must be a whole number"):
        write(causal(tokenizers["bpe"]), tokenizers["bpe"], ["the"], temperature=1.0, **wrong)


def test_led_reads_more_than_it_writes(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    model = wide(AutoModelForSeq2SeqLM.from_config(LEDConfig(vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
                                                             decoder_ffn_dim=16, max_encoder_position_embeddings=32, max_decoder_position_embeddings=16, attention_window=8, pad_token_id=0, eos_token_id=3)))
    long = " ".join(WORDS * 4)
    rows, cut = generation._inputs(model, tokenizer, [long, "the cat"], None, 6)
    assert len(rows[0]) == 32 and cut == [0] and len(write(model, tokenizer, [long])) == 1
    row = generation_features(model, tokenizer, [long], [long], 100, 100).rows[0]
    assert len(row["input_ids"]) == 32 and len(row["labels"]) == 16
    with pytest.raises(ValueError, match="max_new_tokens 20 leaves no room in the model's 16 positions"):
        write(model, tokenizer, ["the cat"], max_new_tokens=20)


class OfColumns(GPT2LMHeadModel):
    "A model that takes positions and counts columns instead."

    def forward(self, *arguments, position_ids=None, **options):
        return super().forward(*arguments, **options)


def padded_to_harm(kind, tokens):
    "A causal model that numbers columns, padding too, or whose state goes over padding."
    sizes = dict(vocab_size=tokens, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=48)
    decoder = dict(vocab_size=tokens, d_model=32, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=64, max_position_embeddings=48)
    torch.manual_seed(0)
    model = {"bart": lambda: BartForCausalLM(BartConfig(**decoder)), "marian": lambda: MarianForCausalLM(MarianConfig(**decoder, pad_token_id=0)),
             "roformer": lambda: RoFormerForCausalLM(RoFormerConfig(**sizes, is_decoder=True)), "columns": lambda: OfColumns(model_config("gpt-tiny", tokens, 48, n_embd=32, n_layer=2, n_head=2, n_inner=64)),
             "gemma": lambda: RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**{**sizes, "num_hidden_layers": 3}, lru_width=32, attention_window_size=8)),
             "rwkv": lambda: RwkvForCausalLM(RwkvConfig(vocab_size=tokens, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=64))}[kind]()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() == 2 else None
    model.config.pad_token_id, model.config.eos_token_id, model.generation_config.eos_token_id = 0, None, None
    return model.eval()


@pytest.mark.parametrize("kind", ("bart", "marian", "roformer", "columns", "gemma", "rwkv"))
def test_models_that_do_not_pass_over_padding_write_in_a_batch_what_they_write_alone(tokenizers, kind):
    tokenizer, sources = tokenizers["bpe"], ["the cat sees a dog and hears one bird", "the", "red cat", "dog and", "two three one"]
    model = padded_to_harm(kind, len(tokenizer))
    for way in ({}, {"temperature": 1.0}, {"num_beams": 2}):
        assert write(model, tokenizer, sources, **way) == [write(model, tokenizer, [source], **way)[0] for source in sources]


@pytest.mark.parametrize("kind", ("gemma", "rwkv"))
def test_models_with_a_state_write_the_likeliest_tokens(tokenizers, kind):
    tokenizer = tokenizers["bpe"]
    model = padded_to_harm(kind, len(tokenizer))
    ids = tokenizer(["the cat", "dog and"])["input_ids"]
    assert len(ids[0]) == len(ids[1])                          # of one length: in one batch
    for row, text in zip(ids, write(model, tokenizer, ["the cat", "dog and"])):
        whole = list(row)
        for _ in range(6):
            whole.append(model(input_ids=torch.tensor([whole]), use_cache=False).logits[0, -1].argmax().item())
        assert text == generation._continuation(tokenizer, row, whole[len(row):])


@pytest.mark.parametrize("kind", ("gpt2", "llama"))
def test_models_that_pass_over_padding_are_padded(tokenizers, kind):
    assert generation._passes_over_padding(causal(tokenizers["bpe"], kind))


@pytest.mark.parametrize("way", ({}, {"num_beams": 2}, {"temperature": 1.0}))
@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_a_damaged_model_writes_nothing(tokenizers, way, value):
    model = causal(tokenizers["bpe"])
    model.transformer.ln_f.weight.data.fill_(value)
    with pytest.raises(FloatingPointError, match="scores of the next token are no numbers: its weights are damaged"):
        write(model, tokenizers["bpe"], ["the"], **way)


def test_a_tokenizer_of_another_model_is_named(tokenizers):
    model = causal(tokenizers["unigram"])
    with pytest.raises(ValueError, match="tokenizer gives id .* and the model's embedding has .* rows: it is not the model's tokenizer"):
        write(model, tokenizers["bpe"], [" ".join(WORDS)])


def test_what_is_no_model_or_tokenizer_is_named(tokenizers):
    tokenizer = tokenizers["bpe"]
    with pytest.raises(TypeError, match="model is str: give the model itself"):
        write("folder", tokenizer, ["the"])
    with pytest.raises(TypeError, match="tokenizer 'folder' is a name: give the tokenizer itself"):
        write(causal(tokenizer), "folder", ["the"])
    with pytest.raises(TypeError, match="tokenizer is NoneType: give a tokenizer"):
        write(causal(tokenizer), None, ["the"])


@pytest.mark.parametrize("wrong", ({"temperature": "1"}, {"temperature": None}, {"top_p": "x", "temperature": 1.0}, {"length_penalty": "a"}))
def test_choices_that_are_no_numbers_are_named(tokenizers, wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(TypeError, match=f"{name} {value!r} must be a number"):
        write(causal(tokenizers["bpe"]), tokenizers["bpe"], ["the"], **wrong)


@pytest.mark.parametrize("name", ("num_beams", "max_new_tokens", "batch_tokens", "no_repeat_ngram_size", "top_k", "max_source_length"))
def test_true_is_no_number(tokenizers, name):
    with pytest.raises(ValueError, match=f"{name} True must be .*whole"):
        write(causal(tokenizers["bpe"]), tokenizers["bpe"], ["the"], **{"temperature": 1.0 * (name == "top_k"), name: True})


def test_lengths_seeds_and_separators_of_another_type_are_named(tokenizers, tmp_path):
    tokenizer = tokenizers["wordpiece"]
    with pytest.raises(TypeError, match="max_length 'x' must be a whole number"):
        completion_features(tokenizer, ["a"], ["the"], max_length="x")
    with pytest.raises(TypeError, match="max_source_length 3.5 must be a whole number"):
        seq2seq_features(tokenizer, ["a"], ["the"], max_source_length=3.5)
    save_folder(tmp_path / "bert", AutoModelForMaskedLM.from_config(model_config("bert-tiny", len(tokenizer), 48)), tokenizer)
    with pytest.raises(ValueError, match="seed 'x' must be a whole number"):
        warm_start(tmp_path / "bert", seed="x")
    for wrong in (lambda: open_generator(tmp_path / "bert", separator=3), lambda: completion_features(tokenizer, ["a"], ["the"], separator=3)):
        with pytest.raises(TypeError, match="separator 3 must be text"):
            wrong()
