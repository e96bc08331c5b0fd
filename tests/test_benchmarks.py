"""Benchmarks: equality with one-by-one definitions and with lm-evaluation-harness, GLUE's layouts and resumption, and bad input."""
import copy
import glob
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import (BertConfig, BertForMaskedLM, BertForSequenceClassification, BloomConfig, BloomForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoConfig,
                          GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, OPTConfig, OPTForCausalLM)

import lmnotes.perplexity as room
from lmnotes import benchmarks, finetuning
from lmnotes.benchmarks import GLUE, agreement_pairs, cloze, cloze_passages, compare_pairs, glue, glue_average, glue_data, harness_tasks, leaderboard, load_pairs, minimal_pairs
from lmnotes.pretraining import save_folder
from lmnotes.tokenization import train_tokenizer

TEXTS = ["the cat sits on the mat and looks at the moon .", "the dogs bark at the moon", "dogs and cats are unbelievably loud", "the moon rises over the mat",
         "the cats sit on the mat .", "a dog barks at the cat and the cat sits"] * 8
PAIRS = [("the cat sits on the mat", "the cat sit on the mat"), ("the dogs bark at the moon", "the dogs barks at the moon"), ("cats are loud", "cats is unbelievably loud"),
         ("the moon rises", "rises the moon the"), ("dogs and cats are loud", "dogs and cats are"), ("the mat", "the mat")]
PASSAGES = ["the cat sits on the mat and the cat looks at the mat", "dogs bark at the moon and cats look at the moon", "the dog", "unbelievably loud are the cats and the dogs and the cats"]


@pytest.fixture(scope="module")
def wordpiece():
    return train_tokenizer(TEXTS, kind="wordpiece", vocab_size=90, progress=False)


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(TEXTS, kind="bpe", vocab_size=300, progress=False)


def made(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    model.config.architectures = [kind.__name__]
    return model


def gpt(vocabulary, positions=64):
    return made(GPT2LMHeadModel, GPT2Config(vocab_size=vocabulary, n_positions=positions, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3))


def causal(kind, vocabulary):
    if kind == "gpt2":
        return gpt(vocabulary)
    small = dict(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64)
    if kind == "llama":
        return made(LlamaForCausalLM, LlamaConfig(intermediate_size=48, initializer_range=0.3, **small))
    if kind == "gemma2":                                        # its logits go through a tanh: not the plain product of the head
        return made(Gemma2ForCausalLM, Gemma2Config(intermediate_size=48, head_dim=16, num_key_value_heads=2, final_logit_softcapping=2.0, initializer_range=0.3, **small))
    return made(OPTForCausalLM, OPTConfig(ffn_dim=48, init_std=0.3, word_embed_proj_dim=32, **small))


def bert(vocabulary):
    return made(BertForMaskedLM, BertConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64, initializer_range=0.3))


def quiet(*arguments, **options):
    return minimal_pairs(*arguments, device="cpu", progress=False, **options)


@torch.no_grad()
def log_likelihood(model, row, start=1):
    "Sum over the tokens from `start` on, one call: the definition."
    scores = model(input_ids=torch.tensor([row])).logits[0, :-1].double().log_softmax(-1)
    return scores.gather(1, torch.tensor(row)[1:, None])[start - 1:].sum().item()


# ---- minimal pairs

@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "gemma2"])
@pytest.mark.parametrize("before", ["", " "])
def test_margins_of_causal_models_are_those_of_whole_sentences(bpe, kind, before):
    model, begin = causal(kind, len(bpe)), [bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id]
    wanted = [log_likelihood(model, begin + bpe(before + g, add_special_tokens=False)["input_ids"]) - log_likelihood(model, begin + bpe(before + b, add_special_tokens=False)["input_ids"]) for g, b in PAIRS]
    result = quiet(model, PAIRS, bpe, before=before)
    np.testing.assert_allclose(result.margins, wanted, atol=2e-4)
    assert result.identical == 1 and result.ties == 1 and result.accuracy == np.mean([1.0 if w > 1e-9 else 0.0 for w in wanted[:-1]] + [0.5])


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_the_normaliser_is_left_out_only_where_both_tokens_follow_the_same_ones(bpe, kind, monkeypatch):
    "Where both sentences have a token at the first difference, two logits decide it; not where one sentence has ended, nor after other tokens."
    model, places, original = causal(kind, len(bpe)), [], room._running_log_probs
    monkeypatch.setattr(room, "_running_log_probs", lambda hidden, *rest: places.append(len(hidden)) or original(hidden, *rest))
    ids = lambda text: bpe(text, add_special_tokens=False)["input_ids"]
    begin, pairs = [bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id], [("the cat", "the mat"), ("the cat", "the cat sits on"), ("the mat", "cat")]
    for bos in (True, False):
        for good, bad in pairs:
            one, two = (begin * bos + ids(s) for s in (good, bad))
            same = next((i for i, (a, b) in enumerate(zip(one, two)) if a != b), min(len(one), len(two)))
            places.clear()
            margin = quiet(model, [(good, bad)], bpe, bos=bos).margins[0]
            assert margin == pytest.approx(log_likelihood(model, one) - log_likelihood(model, two), abs=2e-4)
            both = 1 <= same < min(len(one), len(two))
            assert both == (bos or same > 0) * (pairs[1] != (good, bad)) and (kind == "gemma2" or sum(places) == len(one) + len(two) - 2 * max(1, same) - 2 * both)


@pytest.mark.parametrize("kind, joined", [("gpt2", True), ("llama", True), ("opt", True), ("gemma2", False)])
def test_what_a_pair_shares_is_read_once_where_the_model_allows_it(bpe, kind, joined, monkeypatch):
    "Where a model takes mask and positions as given, a beginning of both is read once; else each sentence for itself. The margins are the same."
    model = causal(kind, len(bpe))
    quiet(model, PAIRS, bpe)                                    # what can be seen of the model once, such as whether its head is a plain product, is seen
    ids = lambda text: bpe(text, add_special_tokens=False)["input_ids"]
    rows = [(ids(g), ids(b)) for g, b in PAIRS]
    shared = [min(next((d for d, (a, b) in enumerate(zip(g, b)) if a != b), len(g)), len(g) - 1, len(b) - 1) for g, b in rows]
    read = lambda **options: (seen.clear(), quiet(model, PAIRS[:5], bpe, **options).margins, sum(seen))[1:]
    seen, original = [], benchmarks._logits_at
    monkeypatch.setattr(benchmarks, "_logits_at", lambda model, inputs, *rest, **more: seen.append(inputs.numel() if "use_cache" in more and not trying else 0) or original(model, inputs, *rest, **more))
    trying, takes = [], benchmarks._takes_branches
    monkeypatch.setattr(benchmarks, "_takes_branches", lambda *given: (trying.append(1), takes(*given), trying.clear())[1])
    margins, count = read()
    monkeypatch.setattr(benchmarks, "_takes_branches", lambda *given: False)
    apart, every = read()
    np.testing.assert_allclose(margins, apart, atol=1e-4)
    begin = 1                                                   # the token that begins a text is shared by all
    ended = len(rows[4][1]) - 1 + begin                         # of the fifth pair the good sentence goes on where the bad one ends: nothing is asked of that
    assert every == sum(len(g) + len(b) - 2 + 2 * begin for g, b in rows[:5]) - ended
    assert count == every + joined * (ended - sum(s + begin for s in shared[:5]))


def test_branches_hide_each_other_and_count_from_where_they_part(bpe):
    "By hand: two shared tokens, two of the first end, one of the second; a row without ends is causal."
    given = benchmarks._branched(gpt(len(bpe)), [(2, 2), (5, 0)], 5)
    assert given["position_ids"].tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 3, 4]]
    assert given["attention_mask"][0, 0].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert torch.equal(given["attention_mask"][1, 0], torch.ones(5, 5).tril().bool())


def test_a_model_that_looks_at_neighbours_only_is_never_given_branches(bpe):
    "In a joined row the second end stands farther from the beginning than it is: models that count distances in the row are found out at the longest row."
    small = dict(vocab_size=len(bpe), max_position_embeddings=64)
    windowed = made(MistralForCausalLM, MistralConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=48, sliding_window=4, initializer_range=0.3, **small))
    local = made(GPTNeoForCausalLM, GPTNeoConfig(hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=8, initializer_range=0.3, **small))
    linear = made(BloomForCausalLM, BloomConfig(vocab_size=len(bpe), hidden_size=32, n_layer=2, n_head=2, initializer_range=0.3))
    begin = [bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id]
    pairs = PAIRS + [("the dogs and the cats look at the moon and sit on the mat", "the dogs and the cats looks at the moon and sit on the mat")]
    for model in (windowed, local, linear):
        whole = lambda text: log_likelihood(model, begin + bpe(text, add_special_tokens=False)["input_ids"])
        np.testing.assert_allclose(quiet(model, pairs, bpe).margins, [whole(g) - whole(b) for g, b in pairs], atol=2e-4)


def test_margins_do_not_depend_on_batches_order_or_neighbours(bpe):
    model = gpt(len(bpe))
    whole = quiet(model, PAIRS, bpe).margins
    np.testing.assert_allclose(quiet(model, PAIRS, bpe, batch_tokens=8).margins, whole, atol=1e-4)
    np.testing.assert_allclose(quiet(model, PAIRS[::-1], bpe).margins[::-1], whole, atol=1e-4)
    np.testing.assert_allclose([quiet(model, [p], bpe).margins[0] for p in PAIRS], whole, atol=1e-4)


@torch.no_grad()
def test_margins_of_masked_models_are_pseudo_log_likelihoods(wordpiece):
    model = bert(len(wordpiece))

    def one(sentence):
        ids, total = torch.tensor([wordpiece(sentence)["input_ids"]]), 0.0
        for place in range(1, ids.shape[1] - 1):
            hidden = ids.clone()
            hidden[0, place] = wordpiece.mask_token_id
            total += model(input_ids=hidden).logits[0, place].double().log_softmax(-1)[ids[0, place]].item()
        return total
    np.testing.assert_allclose(quiet(model, PAIRS, wordpiece).margins, [one(g) - one(b) for g, b in PAIRS], atol=2e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_a_constant_model_scores_exactly_one_half(bpe, wordpiece, masked):
    tokenizer = wordpiece if masked else bpe
    model = bert(len(tokenizer)) if masked else gpt(len(tokenizer))
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    equal = [p for p in [("the cat", "the mat"), ("the moon", "the mat"), ("the mat", "the moon")] if len(tokenizer(p[0])["input_ids"]) == len(tokenizer(p[1])["input_ids"])]
    result = quiet(model, equal, tokenizer)
    assert result.accuracy == 0.5 and result.ties == len(equal) > 0 and result.interval() == (0.5, 0.5)


@pytest.mark.parametrize("masked", [False, True])
def test_pairs_that_the_tokenizer_does_not_tell_apart_tie_exactly(bpe, wordpiece, masked, caplog):
    "Whatever their batches: computed twice, the two sentences would differ by rounding."
    from tokenizers.normalizers import Lowercase
    tokenizer = copy.deepcopy(wordpiece if masked else bpe)
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    alike = [(text, text.swapcase()) for text in {" ".join(TEXTS[i % 6].split()[:n]) for i in range(6) for n in range(2, 9)}]
    assert all(tokenizer(g)["input_ids"] == tokenizer(b)["input_ids"] for g, b in alike)
    for batch_tokens in (None, 40, 64, 200):
        result = quiet(bert(len(tokenizer)) if masked else gpt(len(tokenizer)), [*alike, PAIRS[0]], tokenizer, batch_tokens=batch_tokens)
        assert result.ties == len(alike) > 20 and result.identical == 0 and set(result.margins[:-1]) == {0.0} and result.margins[-1] != 0
    assert f"{len(alike)} pairs differ in nothing that the tokenizer keeps" in caplog.text


def test_intervals_take_little_memory_and_are_drawn_once(monkeypatch):
    "A sample is a count of each value, not a number for each pair (60,000 pairs took 0.9 GiB and 30 s), and the distribution is that of drawing pairs."
    import tracemalloc
    margins = np.random.default_rng(0).choice([1, -1, 0], 60_000, p=[0.6, 0.3, 0.1])
    large, word = result_of(["x"] * 60_000, margins), benchmarks.ClozeResult("m", ("word",) * 60_000, (-1.0,) * 60_000, tuple(margins > 0), 0, {})
    tracemalloc.start()
    (low, high), of_words = large.interval(), word.interval()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    error = 1.96 * large.credits.std() / 60_000 ** 0.5
    assert peak < 2**25 and low == pytest.approx(large.accuracy - error, abs=error / 5) and high == pytest.approx(large.accuracy + error, abs=error / 5)
    assert of_words[0] < word.accuracy < of_words[1]
    drawn, original = [], benchmarks._bootstrap_within
    monkeypatch.setattr(benchmarks, "_bootstrap_within", lambda *arguments: drawn.append(1) or original(*arguments))
    for result in (large, word):
        assert repr(result) == repr(result) and result._repr_html_() and len(drawn) == 1
        drawn.clear()


def test_accuracy_is_the_mean_of_the_paradigms():
    result = benchmarks.MinimalPairsResult("m", ("a", "a", "a", "b"), (1.0, 1.0, -1.0, 0.0), 0, {})
    assert result.by_paradigm == {"a": pytest.approx(2 / 3), "b": 0.5} and result.accuracy == pytest.approx((2 / 3 + 0.5) / 2)
    assert "0.583" in repr(result) and "<table>" in result._repr_html_()


def test_layouts_of_pairs_are_read_alike(tmp_path):
    rows = [{"UID": u, "sentence_good": g, "sentence_bad": b, "field": "x"} for u, (g, b) in zip("aabbcc", PAIRS)]
    (tmp_path / "blimp").mkdir()
    for name in "abc":                                                  # as BLiMP's repository: one file for each paradigm
        (tmp_path / "blimp" / f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in rows if r["UID"] == name), encoding="utf-8")
    (tmp_path / "blimp" / "README.md").write_text("a card")
    Dataset.from_list(rows).to_parquet(str(tmp_path / "pairs.parquet"))
    Dataset.from_list(rows).to_csv(str(tmp_path / "pairs.csv"))
    wanted = load_pairs(rows).to_list()
    for data in (tmp_path / "blimp", tmp_path / "pairs.parquet", str(tmp_path / "pairs.csv"), Dataset.from_list(rows), DatasetDict(train=Dataset.from_list(rows)), load_pairs(rows)):
        assert load_pairs(data).to_list() == wanted
    assert [r["good"] for r in load_pairs(PAIRS)] == [g for g, _ in PAIRS]


def test_bad_pairs_are_refused_in_one_sentence(bpe, tmp_path):
    model = gpt(len(bpe))
    (tmp_path / "empty").mkdir()
    (tmp_path / "pairs.txt").write_text("a\tb")
    for data, kind, words in (([], ValueError, "nothing"), ([("a", "")], ValueError, "empty sentence"), ([("a",)], ValueError, "good and a bad"), ([{"sentence_good": "a"}], ValueError, "sentence_bad"),
                              (tmp_path / "empty", ValueError, "no row"), (tmp_path / "pairs.txt", ValueError, "no kind"), ("none/of/this", FileNotFoundError, "none/of/this")):
        with pytest.raises(kind, match=words):
            quiet(model, data, bpe)
    with pytest.raises(ValueError, match="tokenizer is missing"):
        quiet(model, PAIRS)
    with pytest.raises(ValueError, match="max_pairs 0"):
        quiet(model, PAIRS, bpe, max_pairs=0)
    with pytest.raises(ValueError, match="not the model's tokenizer"):
        quiet(gpt(20), PAIRS, bpe)
    with pytest.raises(ValueError, match="the good sentence of pair 0 has"):
        quiet(gpt(len(bpe), positions=4), [("unbelievably loud cats and dogs", "cat")], bpe)
    torch.nn.init.constant_(model.get_output_embeddings().weight, float("nan"))
    with pytest.raises(FloatingPointError, match="token . of the .* sentence of pair"):
        quiet(model, PAIRS, bpe)


def test_two_models_are_compared_pair_by_pair():
    a, b = (benchmarks.MinimalPairsResult("m", ("x",) * 40, tuple(m), 0, {}) for m in ([1.0] * 30 + [-1.0] * 10, [1.0] * 20 + [-1.0] * 10 + [1.0] * 5 + [0.0] * 5))
    found = compare_pairs(a, b)
    from scipy.stats import binomtest
    assert (found.only_a, found.only_b) == (10, 5) and found.p_value == pytest.approx(binomtest(10, 15).pvalue)
    assert found.difference == pytest.approx((10 - 5 - 2.5) / 40) and found.low <= found.difference <= found.high
    with pytest.raises(ValueError, match="same pairs"):
        compare_pairs(a, benchmarks.MinimalPairsResult("m", ("x",), (1.0,), 0, {}))


def result_of(paradigms, margins):
    return benchmarks.MinimalPairsResult("m", tuple(paradigms), tuple(map(float, margins)), 0, {})


def test_the_difference_of_two_models_is_that_of_their_accuracies():
    "The small paradigm counts as much as the large one, in the accuracy and in the comparison."
    paradigms = ["x"] * 2 + ["y"] * 18
    a, b = result_of(paradigms, [1] * 2 + [-1] * 8 + [1] * 10), result_of(paradigms, [-1, 1] + [1] * 15 + [-1] * 3)
    found = compare_pairs(a, b)
    assert found.difference == a.accuracy - b.accuracy > 0 and found.low <= found.difference <= found.high
    means = [np.mean([part[np.random.default_rng(seed).integers(0, len(part), len(part))].mean() for part in np.split(a.credits - b.credits, [2])]) for seed in range(2000)]
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.07) and found.high == pytest.approx(np.quantile(means, 0.975), abs=0.07)


def test_a_single_item_has_no_interval():
    "Drawn again it stays as it is, which is no certainty; a paradigm of one pair does not make the whole look certain."
    one, word = result_of("x", [1]), benchmarks.ClozeResult("m", ("word",), (-1.0,), (True,), 0, {})
    for found in (one.interval(), word.interval(), result_of("xxxy", [1, -1, 1, 1]).interval(), result_of("xxxy", [1, -1, 1, 1]).interval("y"), (compare_pairs(one, one).low, compare_pairs(one, one).high)):
        assert np.isnan(found).all()
    assert np.isfinite(result_of("xxxy", [1, -1, 1, 1]).interval("x")).all()
    assert "accuracy 1.000, 1 pair, 0 ties" in repr(one) and "1 passage," in repr(word) and "nan" not in repr(one) + repr(word) + one._repr_html_() + word._repr_html_()


def test_other_sentences_of_the_same_paradigms_are_not_compared(bpe):
    model = gpt(len(bpe))
    a = quiet(model, PAIRS, bpe)
    assert compare_pairs(a, quiet(model, PAIRS, bpe, before=" ")).only_a >= 0 and a.protocol["pairs"] == quiet(model, load_pairs(PAIRS), bpe).protocol["pairs"]
    for other in (PAIRS[::-1], [(b, g) for g, b in PAIRS]):
        with pytest.raises(ValueError, match="6 pairs and 6 pairs with other sentences, or in another order"):
            compare_pairs(a, quiet(model, other, bpe))


@pytest.mark.parametrize("which", [0, 1])
def test_no_number_names_pair_sentence_and_position(bpe, which, monkeypatch):
    "One token of one sentence has no number: its place is said, counted without the token that begins the text."
    pair = ["the cat sits on the mat", "the cat sits on the mat"]
    pair[which] = "the cat sits on the moon"
    ids, scored = bpe(pair[which], add_special_tokens=False)["input_ids"], benchmarks._by_tiles
    assert ids[-1] not in bpe(pair[1 - which], add_special_tokens=False)["input_ids"]

    def broken(model, hidden, targets, bare):
        return np.where(targets.numpy() == ids[-1], np.nan, scored(model, hidden, targets, bare))
    monkeypatch.setattr(benchmarks, "_by_tiles", broken)
    with pytest.raises(FloatingPointError, match=f"no number for token {len(ids) - 1} of the {('good', 'bad')[which]} sentence of pair 1: its weights are damaged"):
        quiet(gpt(len(bpe)), [("the cat", "the dogs"), tuple(pair)], bpe)


def test_no_number_names_the_passage(bpe):
    model = gpt(len(bpe))
    torch.nn.init.constant_(model.get_output_embeddings().weight, float("nan"))
    with pytest.raises(FloatingPointError, match="no number for token 0 of the last word of passage 2"):
        cloze(model, ["word", " ", "the cat"], bpe, device="cpu", progress=False)


def test_a_model_in_hand_stays_in_its_mode(bpe, wordpiece):
    "It is scored in evaluation mode, and afterwards each of its parts is in the mode in which it was."
    for model, tokenizer in ((gpt(len(bpe)), bpe), (bert(len(wordpiece)), wordpiece)):
        calm = quiet(model, PAIRS, tokenizer).margins
        model.train()
        model.get_output_embeddings().eval()
        modes = [part.training for part in model.modules()]
        assert quiet(model, PAIRS, tokenizer).margins == calm and [part.training for part in model.modules()] == modes
    model = gpt(len(bpe)).train()
    cloze(model, PASSAGES, bpe, device="cpu", progress=False)
    assert model.training


def test_a_causal_model_with_special_tokens_only(wordpiece):
    "The default tokenizer puts [CLS] before and [SEP] after a text: sentences begin as in pretraining, and the last word ends before [SEP]."
    model, begin = gpt(len(wordpiece)), [wordpiece.cls_token_id]
    bare = lambda text: begin + wordpiece(text, add_special_tokens=False)["input_ids"]
    result = quiet(model, PAIRS, wordpiece)
    np.testing.assert_allclose(result.margins, [log_likelihood(model, bare(g)) - log_likelihood(model, bare(b)) for g, b in PAIRS], atol=2e-4)
    assert result.protocol["beginning"] == wordpiece.cls_token
    for bos in (None, True):
        words = cloze(model, PASSAGES, wordpiece, bos=bos, device="cpu", progress=False)
        wanted = [log_likelihood(model, bare(p), len(bare(p.rsplit(" ", 1)[0]))) for p in PASSAGES]
        np.testing.assert_allclose(words.log_likelihoods, wanted, atol=2e-4)


def test_a_tokenizer_that_is_not_the_folders_is_refused(bpe, tmp_path):
    folder = save_folder(tmp_path / "model", gpt(len(bpe)), bpe)
    other = train_tokenizer(["another text with entirely different words"] * 20, kind="bpe", vocab_size=270, progress=False)
    for call in (lambda: quiet(str(folder), PAIRS, other), lambda: cloze(str(folder), PASSAGES, other, device="cpu", progress=False)):
        with pytest.raises(ValueError, match="stand for other tokens in .* it is not the model's tokenizer"):
            call()


def test_pairs_and_passages_are_made_by_rule():
    made = agreement_pairs(["The values are sorted. The array is new, and this is not one.", "these boxes are full.", "The class is done."])
    assert {(p["good"], p["bad"]) for p in made} == {("The values are sorted.", "The values is sorted."), ("The array is new, and this is not one.", "The array are new, and this is not one."),
                                                    ("these boxes are full.", "these boxes is full."), ("The class is done.", "The class are done.")}
    assert cloze_passages(["the array has one two three four five six seven eight nine ten values in the array. Next."]) == ["the array has one two three four five six seven eight nine ten values in the array"]
    with pytest.raises(ValueError, match="no sentence"):
        agreement_pairs(["nothing"])


def test_passages_of_a_long_text_are_those_of_its_whole_beginning():
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "w" * 1500, "delta", "epsilon " * 3 + "\n" * 700, "zeta", "a"]
    text = " ".join(w + "." * bool(rng.random() < .2 and w.isalpha() and len(w) > 3) for w in rng.choice(words, 900))
    slow = {}
    for match in re.finditer(r"\b([a-z]{4,})\.(?=\s|$)", text):
        found = text[:match.end(1)].split()[-60:]
        if len(found) >= 12 and match[1] in found[:-1]:
            slow.setdefault(match[1] + " " + " ".join(found[:8]), " ".join(found))
    assert len(slow) > 20 and sorted(cloze_passages([text], 10_000)) == sorted(slow.values())


# ---- cloze

def test_cloze_is_its_definition(bpe):
    model = gpt(len(bpe))
    result = cloze(model, PASSAGES + ["word", "  "], bpe, device="cpu", progress=False)
    assert result.skipped == 2 and result.words == ("mat", "moon", "dog", "cats")
    for passage, found, right in zip(PASSAGES, result.log_likelihoods, result.right):
        row, cut = bpe(passage)["input_ids"], len(bpe(passage.rsplit(" ", 1)[0])["input_ids"])
        assert found == pytest.approx(log_likelihood(model, row, cut), abs=2e-4)
        written = model.generate(torch.tensor([row[:cut]]), attention_mask=torch.ones(1, cut, dtype=torch.long), max_new_tokens=len(row) - cut, min_new_tokens=len(row) - cut, do_sample=False, pad_token_id=0)[0, cut:].tolist()
        assert right == (written == row[cut:])
    assert result.perplexity == pytest.approx(np.exp(-np.mean(result.log_likelihoods))) and result.accuracy == np.mean(result.right)


def test_cloze_cuts_long_contexts_on_the_left(bpe):
    model, long = gpt(len(bpe), positions=16), " ".join(TEXTS[:12]) + " moon"
    found = cloze(model, [long], bpe, device="cpu", progress=False)
    row = bpe(long)["input_ids"]
    cut = len(row) - len(bpe(" moon", add_special_tokens=False)["input_ids"])
    kept = row[-17:]
    assert found.log_likelihoods[0] == pytest.approx(log_likelihood(model, kept[:], cut - (len(row) - len(kept))) if len(kept) <= 16 else _windowed(model, kept, cut - (len(row) - 17)), abs=2e-4)


@torch.no_grad()
def _windowed(model, kept, start):
    scores = model(input_ids=torch.tensor([kept[:-1]])).logits[0].double().log_softmax(-1)
    return scores.gather(1, torch.tensor(kept)[1:, None])[start - 1:].sum().item()


def test_cloze_refuses_what_it_cannot_score(bpe, wordpiece):
    for model, texts, tokenizer, words in ((gpt(len(bpe)), ["word"], bpe, "no.* last word|none of"), (gpt(len(bpe)), [], bpe, "nothing"), (bert(len(wordpiece)), PASSAGES, wordpiece, "causal"),
                                           (gpt(len(bpe)), [{"passage": "a b"}], bpe, "'text' is not there")):
        with pytest.raises(ValueError, match=words):
            cloze(model, texts, tokenizer, device="cpu", progress=False)


def test_a_last_word_longer_than_the_model_is_refused(bpe):
    "Of one that is cut only a part would be scored; one that fills the model is scored whole."
    model, tokens = gpt(len(bpe), positions=16), lambda n: len(bpe(" " + "q7" * n, add_special_tokens=False)["input_ids"])
    fits = next(n for n in range(20, 0, -1) if tokens(n) <= 16)
    row = bpe("the cat " + "q7" * fits)["input_ids"][-17:]
    assert cloze(model, ["the cat " + "q7" * fits], bpe, device="cpu", progress=False).log_likelihoods[0] == pytest.approx(_windowed(model, row, len(row) - tokens(fits)), abs=2e-4)
    with pytest.raises(ValueError, match="the last word 'q7q7.* of a passage that begins with 'the cat' has .* tokens, more than the model's 16: leave the passage out"):
        cloze(model, ["the cat " + "q7" * (fits + 1)], bpe, device="cpu", progress=False)


def test_a_last_word_without_a_token_is_refused(bpe, monkeypatch):
    "It would count as right, with probability 1."
    model = gpt(len(bpe))
    monkeypatch.setattr(type(bpe), "__call__", lambda self, text, **options: {"input_ids": self.encode(text.replace("\u200b", "").rstrip(), add_special_tokens=False)})
    with pytest.raises(ValueError, match="no token for .*, the last word of .*: leave the passage out"):
        cloze(model, ["the cat \u200b"], bpe, device="cpu", progress=False)


def test_passages_come_from_the_split_that_is_held_out(bpe, tmp_path, monkeypatch):
    model, rows = gpt(len(bpe)), lambda n: Dataset.from_dict({"text": PASSAGES[n:n + 1]})
    words = lambda texts: cloze(model, texts, bpe, device="cpu", progress=False).words
    assert words(DatasetDict(train=rows(0), validation=rows(1), test=rows(2))) == ("dog",) and words(DatasetDict(train=rows(0), validation=rows(1))) == ("moon",) and words(DatasetDict(train=rows(0))) == ("mat",)
    for name, n in (("train", 0), ("test", 3)):
        rows(n).to_parquet(tmp_path / f"{name}-00000-of-00001.parquet")
    assert words(tmp_path) == ("cats",)
    asked = []
    monkeypatch.setattr(benchmarks, "get_dataset_config_names", lambda name: {"one/set": ["plain"], "many/set": ["de", "en"], "own/set": ["default", "en"]}[name])
    monkeypatch.setattr(benchmarks, "load_dataset", lambda name, config: asked.append((name, config)) or DatasetDict(train=rows(0), test=rows(2)))
    assert words("one/set") == words("many/set:en") == words("own/set") == ("dog",) and asked == [("one/set", "plain"), ("many/set", "en"), ("own/set", "default")]
    with pytest.raises(ValueError, match="'many/set' has the configurations de, en: choose one, many/set:de"):
        words("many/set")


def test_the_harness_gets_the_passages_that_are_asked(tmp_path):
    harness_tasks(tmp_path / "t", passages=["the cat sits \n", "word", " word "])
    assert [json.loads(line) for line in (tmp_path / "t" / "my_cloze.jsonl").read_text().splitlines()] == [{"text": "the cat sits"}]


@pytest.mark.parametrize("count", [0, -1])
def test_numbers_of_texts_below_one_are_refused(bpe, count):
    model = gpt(len(bpe))
    with pytest.raises(ValueError, match=f"max_texts {count} must be at least 1, or None for all"):
        cloze(model, PASSAGES, bpe, max_texts=count, device="cpu", progress=False)
    with pytest.raises(ValueError, match=f"max_texts {count} must be at least 1"):
        leaderboard("no/such/model", texts=TEXTS, max_texts=count)
    assert cloze(model, PASSAGES, bpe, max_texts=2, device="cpu", progress=False).words == cloze(model, Dataset.from_dict({"text": PASSAGES}), bpe, max_texts=2, device="cpu", progress=False).words == ("mat", "moon")


def test_numbers_equal_those_of_the_harness(bpe, tmp_path):
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    model = gpt(len(bpe))
    folder = save_folder(tmp_path / "model", model, bpe)
    names = harness_tasks(tmp_path / "tasks", PAIRS, PASSAGES)
    theirs = lm_eval.simple_evaluate(model=HFLM(str(folder), device="cpu", batch_size=4, dtype="float32"), tasks=names, task_manager=TaskManager(include_path=str(tmp_path / "tasks")), log_samples=True, bootstrap_iters=0)
    pairs, words = quiet(str(folder), PAIRS, before=" "), cloze(str(folder), PASSAGES, device="cpu", progress=False)
    samples = sorted(theirs["samples"]["my_pairs"], key=lambda s: s["doc_id"])
    np.testing.assert_allclose(pairs.margins, [s["filtered_resps"][0][0] - s["filtered_resps"][1][0] for s in samples], atol=2e-4)
    credit = [1.0 if m >= 0 else 0.0 for m in pairs.margins]               # there a tie goes to the first, the good one
    assert theirs["results"]["my_pairs"]["acc,none"] == pytest.approx(np.mean(credit)) and pairs.accuracy == pytest.approx(np.mean(credit) - 0.5 * pairs.ties / len(PAIRS))
    samples = sorted(theirs["samples"]["my_cloze"], key=lambda s: s["doc_id"])
    np.testing.assert_allclose(words.log_likelihoods, [s["filtered_resps"][0][0] for s in samples], atol=2e-4)
    assert words.right == tuple(bool(s["filtered_resps"][0][1]) for s in samples)
    assert theirs["results"]["my_cloze"]["acc,none"] == words.accuracy and theirs["results"]["my_cloze"]["perplexity,none"] == pytest.approx(words.perplexity, rel=1e-5)


def test_tasks_for_the_harness_are_written_whole(tmp_path):
    with pytest.raises(ValueError, match="both missing"):
        harness_tasks(tmp_path / "t")
    harness_tasks(tmp_path / "t", PAIRS, name="own")
    facts = json.loads((tmp_path / "t" / "own_pairs.yaml").read_text())
    assert Path(facts["dataset_kwargs"]["data_files"]["test"]).read_text().count("\n") == len(PAIRS)
    with pytest.raises(FileExistsError):
        harness_tasks(tmp_path / "t", PAIRS)
    harness_tasks(tmp_path / "t [1]", PAIRS, name="own")                   # datasets takes the name for a pattern
    facts = json.loads((tmp_path / "t [1]" / "own_pairs.yaml").read_text())
    assert glob.glob(facts["dataset_kwargs"]["data_files"]["test"]) == [str(tmp_path / "t [1]" / "own_pairs.jsonl")]


# ---- GLUE

def example(task, i, labelled=True):
    "One made-up example of a task, in the hub's columns."
    texts = [f"{TEXTS[i % 6]} {part} \"{i}\"" for part in ("one", "two")][:len(GLUE[task].texts)]
    label = (round(5 * (i % 7) / 6, 3) if not GLUE[task].labels else i % len(GLUE[task].labels)) if labelled else (-1.0 if not GLUE[task].labels else -1)
    return {**dict(zip(GLUE[task].texts, texts)), "label": label, "idx": i}


def splits_of(task):
    "Made-up splits of a task."
    if task == "ax":
        return {"test": [example(task, i, False) for i in range(5)]}
    both = ["_matched", "_mismatched"] if task == "mnli" else [""]
    return {"train": [example(task, i) for i in range(12)], **{f"validation{s}": [example(task, i + 20) for i in range(7)] for s in both},
            **{f"test{s}": [example(task, i, False) | {"idx": i} for i in range(5)] for s in both}}


def write_hub(folder):
    "All tasks as the hub has them: Parquet in parts."
    for task in GLUE:
        (folder / task).mkdir(parents=True)
        for split, rows in splits_of(task).items():
            halves = [rows[:4], rows[4:]] if split == "train" else [rows]
            for n, part in enumerate(halves):
                Dataset.from_list(part).to_parquet(str(folder / task / f"{split}-{n:05d}-of-{len(halves):05d}.parquet"))
    return folder


def write_tsv(folder):
    "All tasks as the benchmark's own archives have them."
    more = {"mrpc": (["#1 ID", "#2 ID"], ["7", "8"]), "qqp": (["qid1", "qid2"], ["7", "8"]), "stsb": (["genre", "filename", "year", "old_index", "source1", "source2"], ["g", "f", "y", "o", "s", "s"]),
            "mnli": (["promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"], ["x"] * 7)}
    for task, facts in GLUE.items():
        place = folder / ("diagnostic" if task == "ax" else facts.title)
        place.mkdir(parents=True)
        for split, rows in splits_of(task).items():
            labelled, (extra, filler) = not split.startswith("test"), more.get(task, ([], []))
            show = lambda row: f"{row['label']:.3f}" if not facts.labels else facts.labels[row["label"]] if facts.named else str(row["label"])
            table = [["id" if task == "qqp" else "index", *extra, *facts.tsv[:-1], *([facts.tsv[-1]] if labelled else [])]]
            table += [[str(row["idx"]), *filler, *(row[c] for c in facts.texts), *([show(row)] if labelled else [])] for row in rows]
            if task == "mnli" and labelled:
                table.append([*table[1][:-1], "-"])                                # no agreement: left out
            if task in ("cola", "sst2") and labelled:
                table = [["source", str(row["label"]), "*", row["sentence"]] for row in rows] if task == "cola" else [["sentence", "label"]] + [[row["sentence"], str(row["label"])] for row in rows]
            name = "diagnostic" if task == "ax" else split.replace("validation", "dev")
            mark = "\ufeff" if task == "mrpc" else ""
            (place / f"{name}.tsv").write_text(mark + "".join("\t".join(line) + ("\r\n" if task == "rte" else "\n") for line in table), encoding="utf-8", newline="")
    return folder


def test_every_layout_gives_the_hubs_columns_and_labels(tmp_path):
    hub, tsv = write_hub(tmp_path / "hub"), write_tsv(tmp_path / "tsv")
    for task, facts in GLUE.items():
        wanted = splits_of(task)
        for folder, name in ((hub, task), (tsv, facts.title)):
            data = glue_data(name, folder)
            assert set(data) == set(wanted), (task, name)
            for split, rows in wanted.items():
                columns = [*facts.texts, "label"]
                assert [{c: r[c] for c in columns} for r in data[split]] == [{c: r[c] for c in columns} for r in rows], (task, split)
                assert (data[split].features["label"].names == list(facts.labels)) if facts.labels else data[split].features["label"].dtype == "float64"
            if "test" in data:
                assert list(data["test"]["idx"]) == [r["idx"] for r in wanted["test"]]


def test_diagnostics_with_labels_are_read_too(tmp_path):
    (tmp_path / "AX").mkdir()
    lines = ["Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel", "\t\t\t\tNews\tthe cat sits\tthe cat\tentailment", "\t\t\t\tNews\tthe dog\tno\tneutral"]
    (tmp_path / "AX" / "diagnostic-full.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "AX" / "diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\tx\ty\n")
    assert [(r["premise"], r["label"]) for r in glue_data("ax", tmp_path)["test"]] == [("the cat sits", 0), ("the dog", 1)]


def test_glue_of_the_hub_has_all_splits_of_a_task(monkeypatch):
    "The name of the data set and of the task are asked for, every split is kept, and what cannot be had is named."
    asked = []

    def hub(*name):
        asked.append(name)
        return DatasetDict({split: Dataset.from_list(rows) for split, rows in splits_of(name[1]).items()})
    monkeypatch.setattr(benchmarks, "load_dataset", hub)
    for task in ("rte", "mnli", "stsb", "ax"):
        data = glue_data(task)
        assert asked[-1] == ("nyu-mll/glue", task) and {name: len(rows) for name, rows in data.items()} == {name: len(rows) for name, rows in splits_of(task).items()}
        assert [r["label"] for r in next(iter(data.values()))] == [r["label"] for r in next(iter(splits_of(task).values()))]

    def absent(*_):
        raise ConnectionError("no network")
    monkeypatch.setattr(benchmarks, "load_dataset", absent)
    with pytest.raises(FileNotFoundError, match="rte: nyu-mll/glue cannot be had from the hub: give a local folder, data_dir="):
        glue_data("rte")


def test_bad_glue_data_is_named(tmp_path, caplog):
    place = tmp_path / "RTE"
    place.mkdir()
    for call, kind, words in ((lambda: glue_data("xnli", tmp_path), ValueError, "cola, sst2"), (lambda: glue_data("rte", tmp_path / "no"), FileNotFoundError, "no folder"),
                              (lambda: glue_data("cola", tmp_path), FileNotFoundError, "'cola' or 'CoLA'"), (lambda: glue_data("rte", tmp_path), FileNotFoundError, "train, validation")):
        with pytest.raises(kind, match=words):
            call()
    (place / "train.tsv").write_text("index\tsentence1\tlabel\n0\ta\tentailment\n")
    with pytest.raises(ValueError, match="column 'sentence2' is not in train.tsv"):
        glue_data("rte", tmp_path)
    (place / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tbroken\n2\ta\tb\tmaybe\n")
    (place / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n")
    with pytest.raises(ValueError, match="'maybe' of example 1 of train is none of entailment"):
        glue_data("rte", tmp_path)
    assert "1 of 3 lines of train.tsv does not have 4 columns and is left out" in caplog.text
    (tmp_path / "STS-B").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "STS-B" / f"{split}.tsv").write_text("index\tsentence1\tsentence2\tscore\n0\ta\tb\t2.5\n1\ta\tb\tabc\n")
    with pytest.raises(ValueError, match="stsb: label 'abc' of example 1 of validation is no number"):
        glue_data("stsb", tmp_path)
    (place / "train.tsv").write_bytes("index\tsentence1\tsentence2\tlabel\n0\tcafé\tb\tentailment\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train\.tsv is not utf-8: byte 37 cannot be read; save it as UTF-8"):
        glue_data("rte", tmp_path)
    (tmp_path / "SST-2").mkdir()
    Dataset.from_list([{"text": "a", "label": 0}]).to_parquet(str(tmp_path / "SST-2" / "train.parquet"))
    with pytest.raises(ValueError, match="column 'sentence' is not in train.parquet"):
        glue_data("sst2", tmp_path)


@pytest.mark.parametrize("task, wrong, says", [
    ("stsb", {"label": float("nan")}, "stsb: label nan of example 2 of validation is no number from 0 to 5"), ("stsb", {"label": 99.0}, "label 99.0 of example 2"), ("stsb", {"label": float("inf")}, "label inf of"),
    ("stsb", {"label": -0.5}, "label -0.5 of"), ("stsb", {"label": "abc"}, "label 'abc' of"), ("sst2", {"label": [1]}, r"sst2: label \[1\] of example 2 of validation is none of negative"),
    ("sst2", {"label": float("nan")}, "label nan of"), ("sst2", {"sentence": None}, "sst2: column 'sentence' of example 2 of validation holds None, not text: write a text"),
    ("rte", {"sentence2": 3}, "column 'sentence2' of example 2 of validation holds 3"), ("rte", "sentence2", "column 'sentence2' of example 2 of validation holds None")])
def test_examples_that_cannot_be_scored_are_refused_before_training(task, wrong, says, encoder, tmp_path, monkeypatch):
    "In a later row, too: a label out of range or no number would make every correlation 0, a text that is missing would stop the run after training."
    monkeypatch.setattr(benchmarks, "finetune", lambda *a, **k: pytest.fail("trained"))
    splits = splits_of(task)
    bad = splits["validation"][2]
    splits["validation"][2] = {c: v for c, v in bad.items() if c != wrong} if isinstance(wrong, str) else bad | wrong
    (tmp_path / task).mkdir()
    for split, rows in splits.items():
        (tmp_path / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        glue(encoder, task, tmp_path / "run", data_dir=tmp_path, **FAST)


def test_a_correlation_is_0_for_constants_only():
    assert benchmarks._metrics("stsb", [2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) == {"pearson": 0.0, "spearman": 0.0}
    with pytest.raises(FloatingPointError, match="stsb: the model's predictions hold what is no number"):
        benchmarks._metrics("stsb", [2.0, float("nan"), 1.0], [1.0, 2.0, 3.0])


def test_the_average_is_the_benchmarks():
    scores = {"mrpc": {"f1": 0.8, "accuracy": 0.6}, "mnli": {"accuracy_matched": 0.9, "accuracy_mismatched": 0.7}, "rte": {"accuracy": 0.5}, "ax": {"mcc": 0.0}}
    assert glue_average(scores) == pytest.approx((0.7 + 0.8 + 0.5) / 3)
    with pytest.raises(ValueError):
        glue_average({"ax": {"mcc": 1.0}})


@pytest.fixture(scope="module")
def encoder(wordpiece, tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("models") / "bert", bert(len(wordpiece)), wordpiece)


FAST = dict(epochs=1, batch_size=8, max_length=24, device="cpu", precision="fp32")


def test_all_of_glue_and_its_submission(encoder, tmp_path):
    data = write_hub(tmp_path / "data")
    result = glue(encoder, output_dir=tmp_path / "run", data_dir=data, wnli_majority=True, **FAST)
    assert result.complete and set(result.scores) == set(GLUE) - {"ax"} and set(result.scores["mnli"]) == {"accuracy_matched", "accuracy_mismatched"}
    assert result.average == pytest.approx(np.mean([np.mean(list(m.values())) for m in result.scores.values()]))
    assert set(result.scores["qqp"]) == {"f1", "accuracy"} and set(result.scores["stsb"]) == {"pearson", "spearman"} and result.majority["cola"]["mcc"] == 0
    names = {"CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX"}
    assert {Path(n).stem for n in result.submission} == names and set(zipfile.ZipFile(tmp_path / "run" / "submission.zip").namelist()) == {f"{n}.tsv" for n in names}
    for name in names:
        lines = (tmp_path / "run" / "submission" / f"{name}.tsv").read_text().splitlines()
        assert lines[0] == "index\tprediction" and [line.split("\t")[0] for line in lines[1:]] == list("01234")
        answers = {line.split("\t")[1] for line in lines[1:]}
        if name == "STS-B":
            assert all(0 <= float(a) <= 5 for a in answers)
        else:
            allowed = {"entailment", "neutral", "contradiction"} if name.startswith(("MNLI", "AX")) else {"entailment", "not_entailment"} if name in ("QNLI", "RTE") else {"0", "1"}
            assert answers <= allowed, name
    assert result.protocol["by_majority"] == ["wnli"] and result.scores["wnli"] == result.majority["wnli"] and not (tmp_path / "run" / "wnli" / "model").exists()
    assert "test server" in (tmp_path / "run" / "results.md").read_text() and json.loads((tmp_path / "run" / "results.json").read_text())["complete"]
    assert "84.6" in repr(result) and "<table>" in result._repr_html_()
    assert all("Devlin et al. 2019, table 1" in text for text in (repr(result), result._repr_html_(), result.markdown()))


def test_a_task_is_answered_by_the_threshold_of_its_model(wordpiece):
    "As the fine-tuned model itself answers, and not by the likeliest label."
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(wordpiece), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64, num_labels=2, problem_type="single_label_classification")).eval()
    split = Dataset.from_dict({"sentence": TEXTS[:6]})
    for threshold, wanted in ((0.0, [0] * 6), (1.01, [1] * 6)):
        model.config.decision_threshold, model.config.decision_label = threshold, 0
        assert benchmarks._predicted(model, wordpiece, "sst2", split, 32) == wanted


def test_a_run_goes_on_where_it_stopped(encoder, tmp_path, monkeypatch):
    data, trained, own = write_hub(tmp_path / "data"), [], benchmarks.finetune
    stop = {"at": "rte"}

    def finetune(model, splits, folder, *arguments, **options):
        task = "rte" if splits["train"].features["label"].names[0] == "entailment" else "cola"
        trained.append(task)
        if task == stop["at"]:
            raise KeyboardInterrupt
        return own(model, splits, folder, *arguments, **options)
    monkeypatch.setattr(benchmarks, "finetune", finetune)
    run = lambda **changes: glue(encoder, ["cola", "RTE"], tmp_path / "run", data_dir=data, **{**FAST, **changes})
    with pytest.raises(KeyboardInterrupt, match="^finished tasks in .*run are kept; the same command goes on from there$"):
        run()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["cola", "glue.json"]          # nothing half-written
    stop["at"] = None
    first = run(resume=True, checkpoint_steps=7, keep=1)                                          # they say nothing about the result
    assert trained == ["cola", "rte", "rte"]
    again = run()
    assert trained == ["cola", "rte", "rte"] and again.scores == first.scores
    result = tmp_path / "run" / "rte" / "result.json"
    result.write_text(result.read_text().replace('"accuracy": ', '"accuracy": 1'))                # a changed result is not believed
    assert run().scores == first.scores and trained[3:] == ["rte"]
    with pytest.raises(FileExistsError, match="epochs was 1 and is 2"):
        run(epochs=2)
    assert run(epochs=2, overwrite=True).protocol["epochs"] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(FileExistsError):
        glue(encoder, ["cola"], tmp_path / "mine", data_dir=data, **FAST)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"


def test_glue_refuses_before_it_trains(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "finetune", lambda *a, **k: pytest.fail("trained"))
    data = write_hub(tmp_path / "data")
    same = [example("cola", 0) for _ in range(4)]
    one = tmp_path / "one" / "cola"
    one.mkdir(parents=True)
    for split in ("train", "validation"):
        Dataset.from_list(same).to_parquet(str(one / f"{split}.parquet"))
    hidden = tmp_path / "hidden" / "cola"
    hidden.mkdir(parents=True)
    Dataset.from_list([example("cola", i) for i in range(4)]).to_parquet(str(hidden / "train.parquet"))
    Dataset.from_list([example("cola", i, False) for i in range(4)]).to_parquet(str(hidden / "validation.parquet"))
    for tasks, folder, kind, words in ((["rte", "xnli"], data, ValueError, "xnli"), (["ax"], data, ValueError, "mnli"), (["cola"], tmp_path / "one", ValueError, "one label only"), ([], data, FileNotFoundError, "none was named"),
                                       (["cola"], tmp_path / "hidden", ValueError, "without a label"), (["cola"], tmp_path / "no", FileNotFoundError, "no folder"), (None, tmp_path / "one" / "cola", FileNotFoundError, "no folder of a task")):
        with pytest.raises(kind, match=words):
            glue(encoder, tasks, tmp_path / "run", data_dir=folder, **FAST)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("choice, tasks, says", [
    ({"class_weight": "balanced"}, ["cola", "stsb", "rte"], r"^stsb: class_weight is for classes, and this task has numbers: leave it out, or name the other tasks, tasks=\['cola', 'rte'\]$"),
    ({"threshold": True}, ["cola", "mnli"], r"^mnli: threshold is for two classes, and this task has 3 of them: leave it out, or name the other tasks, tasks=\['cola'\]$"),
    ({"threshold": True}, ["stsb"], "^stsb: threshold is for two classes, and this task has numbers: leave it out$")])
def test_choices_that_a_task_cannot_have_are_refused_before_training(choice, tasks, says, encoder, tmp_path, monkeypatch):
    data = write_hub(tmp_path / "data")
    monkeypatch.setattr(benchmarks, "finetune", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(ValueError, match=says):
        glue(encoder, tasks, tmp_path / "run", data_dir=data, **choice, **FAST)
    assert not (tmp_path / "run").exists()


def test_choices_for_classes_are_taken_where_all_tasks_have_them(encoder, tmp_path):
    assert set(glue(encoder, ["mrpc", "wnli"], tmp_path / "run", data_dir=write_hub(tmp_path / "data"), wnli_majority=True, class_weight="balanced", threshold=True, **FAST).scores) == {"mrpc", "wnli"}


def test_unlabelled_tests_and_part_of_the_data_are_fine(encoder, tmp_path):
    data = write_hub(tmp_path / "data")
    for file in (data / "rte").glob("test*"):
        file.unlink()
    result = glue(encoder, "rte", tmp_path / "run", data_dir=data, train_examples=8, test_examples=4, **FAST)
    assert result.submission == () and result.examples == {"rte": 4} and result.protocol["train_examples_used"] == {"rte": 8}


# ---- fine-tuning on pairs and numbers

@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_logits_of_pairs_do_not_depend_on_the_batch(wordpiece, bpe, kind, tmp_path):
    tokenizer = wordpiece if kind == "bert" else bpe
    folder = save_folder(tmp_path / "m", bert(len(tokenizer)) if kind == "bert" else gpt(len(tokenizer)), tokenizer)
    model, tokenizer = finetuning._open(folder, "classification", ["x", "y"], 0, False)
    left, right = [g for g, _ in PAIRS], [b for _, b in PAIRS]
    whole = finetuning.predict_logits(model, tokenizer, left, pairs=right)
    single = [finetuning.predict_logits(model, tokenizer, [a], pairs=[b])[0] for a, b in zip(left, right)]
    np.testing.assert_allclose(whole, single, atol=1e-4)
    assert np.abs(whole - finetuning.predict_logits(model, tokenizer, right, pairs=left)).max() > 1e-3        # which comes first matters
    if kind == "bert":
        encoded = tokenizer(left[0], right[0], return_tensors="pt")
        assert set(encoded["token_type_ids"][0].tolist()) == {0, 1}
        np.testing.assert_allclose(whole[0], model(**encoded).logits[0].detach().numpy(), atol=1e-4)
    else:
        assert tokenizer.eos_token_id in finetuning._encoded(tokenizer, left[:1], right[:1], 64)["input_ids"][0]
    long = finetuning.predict_logits(model, tokenizer, [" ".join(TEXTS)], pairs=["the cat"], max_length=1000)          # cut at what the model takes
    assert np.isfinite(long).all()


def test_columns_of_pairs_and_numbers_are_found():
    rows = {"premise": ["a b", "c", ""], "hypothesis": ["d", "e", "f"], "label": ["x", "y", "x"]}
    data = finetuning.load_task({"train": Dataset.from_dict(rows), "test": Dataset.from_dict(rows)})
    assert set(data["train"].column_names) == {"text", "text_pair", "label"} and len(data["train"]) == 2          # the empty one is left out
    numbers = Dataset.from_dict({"sentence1": ["a"] * 6, "sentence2": ["b"] * 6, "label": [0.5, 1, 2, 3, 4, 5]})
    assert finetuning.load_task({"train": numbers, "test": numbers})["test"].features["label"].dtype == "float64"
    assert finetuning.load_task({"train": numbers, "test": numbers}, regression=False)["test"].features["label"].names
    assert finetuning.load_task({"train": numbers, "test": numbers}, text_column="sentence2")["test"].column_names == ["text", "label"]
    for options, words in ((dict(text_column=["sentence1", "x"]), "'x'"), (dict(text_column=["a", "b", "c"]), "the two of a pair"), (dict(label_column="y"), "label_column 'y'")):
        with pytest.raises(ValueError, match=words):
            finetuning.load_task({"train": numbers, "test": numbers}, **options)
    with pytest.raises(ValueError, match="no number"):
        finetuning.load_task({"train": Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})}, regression=True)


def test_a_number_is_learned_and_saved(encoder, tmp_path):
    rows = [{"text": t, "label": 1.5 if "cat" in t else 0.0} for t in TEXTS]
    data = {"train": Dataset.from_list(rows), "test": Dataset.from_list(rows)}                # equal texts are never parted where the split is made
    result = finetuning.finetune(encoder, data, tmp_path / "f", epochs=20, batch_size=8, max_length=24, device="cpu", precision="fp32", learning_rate=1e-3)
    assert result.labels == () and result.scores["rmse"] < result.majority["rmse"] and result.majority["pearson"] == 0 and result.scores["pearson"] > 0.5
    assert json.loads((tmp_path / "f" / "config.json").read_text())["problem_type"] == "regression" and "Pearson" in repr(result) and "pearson" in result._repr_html_()
    with pytest.raises(ValueError, match="no labels"):
        result.confusion()


# ---- the board, the command, and real data

def test_leaderboard_ranks_and_refuses(wordpiece, bpe, encoder, tmp_path):
    save_folder(tmp_path / "gpt", gpt(len(bpe)), bpe, {"tokens": 123})
    board = leaderboard([encoder, tmp_path / "gpt"], PAIRS, PASSAGES, TEXTS[:4], device="cpu", progress=False)
    best = [row["minimal pairs"] for row in board.rows]
    assert best == sorted(best, reverse=True) and {row["kind"] for row in board.rows} == {"masked", "causal"}
    row = next(r for r in board.rows if r["kind"] == "causal")
    assert row["tokens seen"] == 123 and row["bits per byte (pseudo)"] is None and row["cloze"] is not None
    assert board.markdown().count("\n") == 3 and "<table>" in board._repr_html_() and "cloze" in repr(board)
    assert len(leaderboard(tmp_path / "gpt", texts=TEXTS[:2], device="cpu", progress=False).rows) == 1
    for folders, options in (([], {"pairs": PAIRS}), ({}, {"pairs": PAIRS}), ([encoder], {})):
        with pytest.raises(ValueError):
            leaderboard(folders, **options)


@pytest.mark.parametrize("second, data, error, says", [
    ("/none/of/this", {"pairs": PAIRS}, FileNotFoundError, "/none/of/this"), (None, {"pairs": PAIRS}, TypeError, "model is NoneType"), ("gpt", {"pairs": PAIRS, "texts": "/no/file.txt"}, FileNotFoundError, "no/file.txt"),
    ("gpt", {"pairs": PAIRS, "texts": []}, ValueError, "texts: nothing to score"), ("gpt", {"pairs": PAIRS, "passages": ["abc"]}, ValueError, "passages: none of 1 passage has a last word")])
def test_leaderboard_refuses_before_it_measures(second, data, error, says, bpe, tmp_path, monkeypatch):
    folder = save_folder(tmp_path / "gpt", gpt(len(bpe)), bpe)
    monkeypatch.setattr(benchmarks, "_measured", lambda *_: pytest.fail("measured"))
    with pytest.raises(error, match=says):
        leaderboard([folder, folder if second == "gpt" else second], **data)


def test_leaderboard_without_folders_or_without_a_measure_for_them(encoder):
    for folders in (None, 3):
        with pytest.raises(TypeError, match=f"folders {folders}: give a list of folders"):
            leaderboard(folders, PAIRS)
    with pytest.raises(ValueError, match="passages: cloze is for causal models, and here is none: give pairs or texts"):
        leaderboard([encoder], passages=PASSAGES, device="cpu", progress=False)


def test_texts_that_can_be_read_once_are_read_for_every_model(bpe, tmp_path):
    folder = save_folder(tmp_path / "gpt", gpt(len(bpe)), bpe)
    first, second = leaderboard({"a": folder, "b": folder}, texts=iter(TEXTS[:4]), device="cpu", progress=False).rows
    assert first["bits per byte"] == second["bits per byte"] > 0


def test_leaderboard_names_models_and_counts_what_is_known_of_their_training(bpe, tmp_path):
    "Two folders of one name are told apart by names of one's own; untrained is 0 tokens; what went on from another model has seen more than its last run tells."
    facts = {"untrained": {"tokens": 0}, "trained": {"tokens": 123}, "continued": {"tokens": 45, "parent": "trained"}, "unknown": {}}
    for name, known in facts.items():
        save_folder(tmp_path / name / "model", gpt(len(bpe)), bpe, known)
    board = leaderboard({name: tmp_path / name / "model" for name in facts}, PAIRS, device="cpu", progress=False)
    rows = {row["model"]: row for row in board.rows}
    assert {name: row["tokens seen"] for name, row in rows.items()} == {"untrained": 0, "trained": 123, "continued": None, "unknown": None}
    assert all(row["architecture"] == "gpt2" for row in rows.values()) and "| untrained | causal | gpt2 |" in board.markdown() and "| 0 |" in board.markdown()
    assert [row["model"] for row in leaderboard([tmp_path / "trained" / "model"], PAIRS, device="cpu", progress=False).rows] == ["model"]


def test_leaderboard_of_texts_does_not_mix_two_quantities(monkeypatch):
    "Bits per byte rank within a kind: pseudo ones, however low, do not stand among those of causal models."
    found = {"a": ("causal", 2.0), "b": ("masked", 1.0), "c": ("causal", 3.0), "d": ("masked", 4.0)}

    def measured(folder, *_):
        kind, bits = found[folder]
        return {"model": folder, "kind": kind, "minimal pairs": None, "cloze": None, "bits per byte": bits if kind == "causal" else None, "bits per byte (pseudo)": bits if kind == "masked" else None}
    monkeypatch.setattr(benchmarks, "_measured", measured)
    monkeypatch.setattr(benchmarks, "_check_model", lambda folder: None)                # these are names only
    assert [row["model"] for row in leaderboard(list("dcba"), texts=TEXTS).rows] == ["a", "c", "b", "d"]


def test_real_glue_files_and_the_trap_of_wnli(shared_data):
    sizes = {"cola": (8551, 1043), "rte": (2490, 277), "wnli": (635, 71), "sst2": (67349, 872)}
    for task, (train, validation) in sizes.items():
        data = glue_data(task, shared_data)
        assert (len(data["train"]), len(data["validation"])) == (train, validation)
    data = glue_data("wnli", shared_data)
    assert np.bincount(list(data["validation"]["label"])).tolist() == [40, 31]
    seen = {}
    for row in data["train"]:
        seen.setdefault(row["sentence1"], []).append(row["label"])
    known = [(seen[r["sentence1"]], r["label"]) for r in data["validation"] if r["sentence1"] in seen]
    assert len(known) > 20 and np.mean([round(np.mean(labels)) == label for labels, label in known]) < 0.5          # remembered answers are worse than a coin


def test_real_minimal_pairs_with_a_real_model(shared_data, shared_models):
    result = minimal_pairs(shared_models / "stories260K", shared_data / "blimp5", max_pairs=20, device="cpu", progress=False)
    assert len(result.by_paradigm) == 5 and len(result.margins) == 100 and result.accuracy > 0.5
    assert cloze(shared_models / "stories260K", pq.read_table(shared_data / "lambada" / "test.parquet")["text"].to_pylist(), max_texts=5, device="cpu", progress=False).perplexity > 1


def test_the_commands(encoder, bpe, tmp_path, monkeypatch, capsys):
    from lmnotes.cli import COMMANDS, execute
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path / "gpt", gpt(len(bpe)), bpe)
    write_hub(tmp_path / "data")
    Path("pairs.jsonl").write_text("\n".join(json.dumps({"sentence_good": g, "sentence_bad": b}) for g, b in PAIRS))
    Path("passages.jsonl").write_text("\n".join(json.dumps({"text": p}) for p in PASSAGES))
    assert execute(COMMANDS, ["minimal-pairs", "gpt", "pairs.jsonl", "--device", "cpu"]) == 0 and "6 pairs" in capsys.readouterr().out
    assert execute(COMMANDS, ["cloze", "gpt", "passages.jsonl", "--device", "cpu"]) == 0 and "4 passages" in capsys.readouterr().out
    assert execute(COMMANDS, ["glue", str(encoder), "--data-dir", "data", "--tasks", "rte", "--epochs", "1", "--max-length", "24", "--device", "cpu"]) == 0
    assert "RTE.tsv" in capsys.readouterr().out and Path("runs/glue/submission/RTE.tsv").is_file()
    for words, needle in ((["minimal-pairs", "gpt", "none.jsonl"], "none.jsonl"), (["glue", str(encoder), "--data-dir", "data", "--tasks", "xnli"], "xnli"), (["cloze", str(encoder), "passages.jsonl"], "causal")):
        assert execute(COMMANDS, words) == 2, words
        err = capsys.readouterr().err
        assert needle in err and "Traceback" not in err


def test_pairs_that_cannot_be_read(tmp_path):
    "A broken line is named with its file and number; numbers are no sentences."
    (tmp_path / "p.jsonl").write_text('{"sentence_good": "a b", "sentence_bad": "b a"}\n{"sentence_good": "a b", \n')
    with pytest.raises(ValueError, match=r"p\.jsonl', line 2, is no JSON"):
        load_pairs(tmp_path / "p.jsonl")
    with pytest.raises(ValueError, match="pair 0 of paradigm 'all' holds 3 and 4"):
        load_pairs([{"good": 3, "bad": 4}])
    for name, row in (("q.jsonl", '{"sentence_good": "café", "sentence_bad": "b a"}'), ("q.json", '[{"sentence_good": "café", "sentence_bad": "b a"}]'), ("q.csv", "sentence_good,sentence_bad\ncafé,b a\n")):
        (tmp_path / name).write_bytes(row.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"{name} is not utf-8: byte \d+ cannot be read; save it as UTF-8"):
            load_pairs(tmp_path / name)


def test_what_the_makers_and_the_harness_raise_is_documented(tmp_path):
    for call, kind in ((lambda: agreement_pairs(["no such sentence"]), ValueError), (lambda: agreement_pairs(TEXTS, 0), ValueError), (lambda: agreement_pairs(TEXTS, 1.5), TypeError),
                       (lambda: cloze_passages(TEXTS, 0), ValueError), (lambda: cloze_passages(TEXTS, 1.5), TypeError),
                       (lambda: harness_tasks(tmp_path / "h", PAIRS, name="a/b"), ValueError), (lambda: glue(3), TypeError)):
        with pytest.raises(kind):
            call()
    said = lambda function: function.__doc__.partition("Raises")[2]
    assert all("TypeError" in said(f) and "ValueError" in said(f) for f in (agreement_pairs, cloze_passages, glue)) and "`name`" in said(harness_tasks)


# ---- conventions that silently gave another number

def test_a_sentence_without_a_token_wins_no_pair(bpe):
    from transformers import PreTrainedTokenizerFast
    import tokenizers
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"</s>": 0, "a": 1, "c": 2, "t": 3}, []))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    with pytest.raises(ValueError, match="the tokenizer gives no token for '猫'"):
        quiet(gpt(4), [("猫", "a cat")], tokenizer)


def test_long_sentences_are_named_by_pair_and_counted_against_what_the_model_takes(bpe):
    "RoBERTa's first positions are for padding: with 18 it takes 16 tokens."
    from transformers import RobertaConfig, RobertaForCausalLM
    model = made(RobertaForCausalLM, RobertaConfig(vocab_size=len(bpe), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=18, is_decoder=True, pad_token_id=1))
    text = lambda count: bpe.decode(bpe(" ".join(TEXTS), add_special_tokens=False)["input_ids"][:count])
    assert len(quiet(model, [(text(16), "a cat")], bpe).margins) == 1
    with pytest.raises(ValueError, match="the bad sentence of pair 1 has 18 tokens, more than the model's 16"):
        quiet(model, [("a cat", "the cat"), ("a cat", text(17))], bpe)


def test_a_passage_that_brings_its_beginning_gets_no_second_one(bpe):
    import tokenizers
    from transformers import PreTrainedTokenizerFast
    begin = bpe.bos_token or bpe.eos_token
    backend = tokenizers.Tokenizer.from_str(bpe.backend_tokenizer.to_str())
    backend.post_processor = tokenizers.processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, bpe.convert_tokens_to_ids(begin))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=begin, eos_token=begin)
    for bos in (None, True):
        found = [cloze(gpt(len(bpe)), [passage], tokenizer, bos=bos, device="cpu", progress=False).log_likelihoods for passage in (f"{begin}the cat sits", "the cat sits")]
        assert found[0] == found[1]


def test_protocols_tell_data_weights_and_tokenizer(bpe, caplog):
    model, other = gpt(len(bpe)), gpt(len(bpe))
    other.get_output_embeddings().weight.data += 1
    words = lambda model, passages: cloze(model, passages, bpe, device="cpu", progress=False).protocol
    one = words(model, PASSAGES)
    assert one == words(gpt(len(bpe)), list(PASSAGES)) and {k for k, v in words(model, PASSAGES[::-1]).items() if v != one[k]} == {"passages"}
    assert {k for k, v in words(other, PASSAGES).items() if v != one[k]} == {"weights"} and quiet(model, PAIRS, bpe).protocol["weights"] == one["weights"] and one["tokenizer"]
    a = quiet(model, PAIRS, bpe)
    compare_pairs(a, quiet(other, PAIRS, bpe))
    assert not caplog.records
    for changes, says in ((dict(before=" "), "before"), (dict(bos=False), "first token scored': False")):
        caplog.clear()
        compare_pairs(a, quiet(model, PAIRS, bpe, **changes))
        assert "two ways" in caplog.text and says in caplog.text


def test_a_paradigm_that_is_not_there_has_no_interval(bpe):
    with pytest.raises(ValueError, match="paradigm 'nope' is not there: choose of all"):
        quiet(gpt(len(bpe)), PAIRS, bpe).interval("nope")


@pytest.mark.parametrize("count", [0, -1])
def test_no_last_item_is_dropped(count):
    for make in (agreement_pairs, cloze_passages):
        with pytest.raises(ValueError, match=f"count {count} must be at least 1"):
            make(["The values are sorted."], count=count)


def test_a_wrong_model_takes_no_folder(encoder, tmp_path):
    data = write_hub(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="/nope"):
        glue("/nope", ["rte"], tmp_path / "run", data_dir=data, **FAST)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_over_other_examples(encoder, tmp_path, monkeypatch):
    data = write_hub(tmp_path / "data")
    run = lambda **changes: glue(encoder, ["rte"], tmp_path / "run", data_dir=data, **{**FAST, **changes})
    first = run()
    monkeypatch.setattr(benchmarks, "finetune", lambda *a, **k: pytest.fail("trained"))
    assert run().scores == first.scores
    file = next((data / "rte").glob("validation*"))
    rows = pq.read_table(file).to_pylist()
    Dataset.from_list([{**row, "label": 1 - row["label"]} for row in rows]).to_parquet(str(file))
    with pytest.raises(FileExistsError, match="a run on other examples of rte"):
        run()


def test_of_two_files_of_a_split_one_is_read(tmp_path):
    folder = tmp_path / "rte"
    folder.mkdir()
    rows = [{"sentence1": "a", "sentence2": "b", "label": i % 2, "idx": i} for i in range(4)]
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_parquet(str(folder / f"{split}.parquet"))
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + "".join(f"{i}\ta\tb\tentailment\n" for i in range(4)))
    assert {name: len(split) for name, split in glue_data("rte", tmp_path).items()} == {"train": 4, "validation": 4}
    (folder / "train.parquet").unlink()
    for i in range(2):
        Dataset.from_list(rows).to_parquet(str(folder / f"train-0000{i}-of-00002.parquet"))
    assert len(glue_data("rte", tmp_path)["train"]) == 8


def test_the_diagnostic_is_no_task_however_it_is_spelled():
    assert glue_average({"RTE": {"accuracy": 0.5}, "AX": {"mcc": 1.0}}) == 0.5
    for bare in ({"rte": {}}, {"rte": 0.5}):
        with pytest.raises(ValueError, match="scores: task 'rte' has .* no metric by its name"):
            glue_average(bare)


def test_wrong_arguments_are_named(bpe, tmp_path):
    model, good = gpt(len(bpe)), {"good": "a cat", "bad": "cat a"}
    for call, error, says in ((lambda: load_pairs([1, 2]), ValueError, "element 0 is 1"), (lambda: load_pairs([("a", "b"), good]), ValueError, "element 1 is"), (lambda: load_pairs([good, ("a", "b")]), ValueError, "element 0 is"),
                              (lambda: cloze(model, ["a b c", None], bpe), TypeError, "element 1 is NoneType"), (lambda: cloze(model, PASSAGES, bpe, batch_tokens="auto"), TypeError, "batch_tokens 'auto'"),
                              (lambda: quiet(model, PAIRS, bpe, batch_tokens=0), ValueError, "batch_tokens 0"), (lambda: quiet(model, PAIRS, bpe, before=None), TypeError, "before None must be text"),
                              (lambda: quiet(model, PAIRS, bpe, max_pairs=1.5), TypeError, "max_pairs 1.5"), (lambda: harness_tasks(tmp_path / "tasks", PAIRS, name="a/b"), ValueError, "name 'a/b'")):
        with pytest.raises(error, match=says):
            call()
    assert not (tmp_path / "tasks").exists()


def test_what_is_no_text_no_number_or_no_result_is_named(tmp_path):
    result = result_of("x", [1])
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 damaged")
    for call, error, says in ((lambda: agreement_pairs([None]), TypeError, "texts: item 0 is of type NoneType, no text"), (lambda: cloze_passages(["a", 1]), TypeError, "texts: item 1 is of type int, no text"),
                              (lambda: harness_tasks(tmp_path / "tasks", PAIRS, name=3), ValueError, "name 3 must be letters"), (lambda: harness_tasks(tmp_path / "tasks", passages=["abc"]), ValueError, "passages: none of 1 passage has a last word"),
                              (lambda: compare_pairs(result, benchmarks.ClozeResult("m", ("a",), (-1.0,), (True,), 0, {})), TypeError, "b is ClozeResult: give what `minimal_pairs` returns"),
                              (lambda: glue_average({"cola": {"mcc": float("nan")}}), ValueError, "scores: 'mcc' of task 'cola' is nan, no number"), (lambda: glue_average({"cola": {"mcc": "x"}}), ValueError, "'mcc' of task 'cola' is 'x'"),
                              (lambda: load_pairs(tmp_path / "pairs.parquet"), ValueError, "pairs.parquet' is no whole Parquet file .*: get it again")):
        with pytest.raises(error, match=says):
            call()
    assert not (tmp_path / "tasks").exists()


def test_paradigms_are_found_in_whichever_row_names_them(tmp_path):
    rows = [{"good": "a b", "bad": "b a"}, {"good": "c d", "bad": "d c", "UID": "x"}]
    for first in (rows[0], {**rows[0], "UID": None}, {**rows[0], "UID": float("nan")}, {**rows[0], "UID": " "}):
        with pytest.raises(ValueError, match="pair 0 has no paradigm and others have one: fill in its paradigm or UID, or leave"):
            load_pairs([first, rows[1]])
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"pair 0 \(.*pairs\.jsonl', row 1\) has no paradigm"):
        load_pairs(tmp_path / "pairs.jsonl")
    assert load_pairs([{**row, "UID": uid} for row, uid in zip(rows, (3, "x"))])["paradigm"][:] == ["3", "x"]
    assert load_pairs([{"sentence_good": "a b", "sentence_bad": "b a", "paradigm": "y"}, rows[1]]).to_list() == [{"paradigm": "y", "good": "a b", "bad": "b a"}, {"paradigm": "x", "good": "c d", "bad": "d c"}]
    assert load_pairs([{**row, "UID": None} for row in rows])["paradigm"][:] == ["all"] * 2


@pytest.mark.parametrize("name, content, words", [
    ("a.csv", "good,bad\na b,b a\nc d,d c,e\n", r"a\.csv', line 3, has 3 fields and the header 2: put a text with commas in quotation marks"),
    ("b.jsonl", '{"good": "a b", "bad": "b a"}\n{"good": "a b", "bad": 5}\n', r"pair 1 of paradigm 'all' \(.*b\.jsonl', row 2\) holds 'a b' and 5, not two sentences: write texts"),
    ("c.jsonl", '{"good": "a b", "bad": "b a"}\n[1, 2]\n', r"c\.jsonl', row 2, is '\[1, 2\]' and has no columns: write it as"),
    ("d.json", '[{"good": "a b", "bad": "b a"}, "c d"]', r"d\.json', row 2, is 'c d' and has no columns"),
])
def test_mistakes_in_files_are_named_by_file_and_row(name, content, words, bpe, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        load_pairs(tmp_path / name)
    if name[0] != "b":
        with pytest.raises(ValueError, match=words):
            cloze(gpt(len(bpe)), tmp_path / name, bpe, text_column="good", device="cpu", progress=False)


def test_several_files_of_passages_are_read(bpe, tmp_path, monkeypatch, capsys):
    "Their names were scored as passages, with accuracy 0."
    from lmnotes.cli import COMMANDS, execute
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path / "gpt", gpt(len(bpe)), bpe)
    for name, passages in (("my file.jsonl", PASSAGES[:2]), ("b c.jsonl", PASSAGES[3:])):
        Path(name).write_text("\n".join(json.dumps({"text": p}) for p in passages))
    model, wanted = gpt(len(bpe)), PASSAGES[:2] + PASSAGES[3:]
    words = lambda texts: cloze(model, texts, bpe, device="cpu", progress=False).words
    assert words(["my file.jsonl", Path("b c.jsonl")]) == words(wanted) == ("mat", "moon", "cats")
    with pytest.raises(ValueError, match="'b c.jsonl' is a file and 'b d.jsonl' is none: check the name, or give passages only"):
        words(["b d.jsonl", "b c.jsonl"])
    assert execute(COMMANDS, ["cloze", "gpt", "my file.jsonl", "b c.jsonl", "--device", "cpu"]) == 0 and "3 passages" in capsys.readouterr().out
    assert execute(COMMANDS, ["cloze", "gpt", "b d.jsonl", "c d.jsonl"]) == 2 and "texts 'b d.jsonl' is no file" in capsys.readouterr().err
    Path("five.jsonl").write_text('{"text": "a b"}\n{"text": 5}\n')
    with pytest.raises(TypeError, match=r"passage 1 \('five\.jsonl', row 2\) holds 5 in the column 'text', not text"):
        words("five.jsonl")


def test_an_empty_name_is_not_the_folder_where_one_is(bpe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text('{"good": "a b", "bad": "b a", "text": "a b"}')
    for name in ("", " "):
        with pytest.raises(ValueError, match=f"pairs '{name}' is an empty name: give a file, a folder or a hub name"):
            load_pairs(name)
        with pytest.raises(ValueError, match=f"texts '{name}' is an empty name"):
            cloze(gpt(len(bpe)), name, bpe)


@pytest.mark.parametrize("choices, says", [(dict(confidence=-0.9), "confidence -0.9"), (dict(confidence=95), "confidence 95"), (dict(confidence=float("nan")), "confidence nan"),
                                           (dict(samples=0), "samples 0"), (dict(samples=2.5), "samples 2.5")])
def test_intervals_refuse_what_cannot_be(bpe, choices, says):
    for found in (quiet(gpt(len(bpe)), PAIRS, bpe), cloze(gpt(len(bpe)), TEXTS, bpe, device="cpu", progress=False)):
        with pytest.raises((ValueError, TypeError), match=says):
            found.interval(**choices)


@pytest.mark.parametrize("wrong", ["The values are sorted.", b"x", {"text": TEXTS}, pd.DataFrame({"text": TEXTS})])
@pytest.mark.parametrize("make", [agreement_pairs, cloze_passages])
def test_letters_and_names_of_columns_are_no_texts(make, wrong):
    with pytest.raises(TypeError, match="texts is .*give a list of texts"):
        make(wrong)


@pytest.mark.parametrize("form", [lambda d: Dataset.from_dict(d), lambda d: pd.DataFrame(d), lambda d: Dataset.from_dict(d).with_format("arrow")[:]])
def test_tables_columns_and_arrays_are_read_as_lists_are(bpe, form):
    ask = lambda texts: cloze(gpt(len(bpe)), texts, bpe, device="cpu", progress=False).log_likelihoods
    table, expected = form({"text": TEXTS}), ask(TEXTS)
    assert ask(table) == ask(table["text"]) == ask(np.array(TEXTS)) == expected
    rows = [("the cat sat", "the cat sit"), ("a dog", "an dog")]
    made = form({"good": [good for good, _ in rows], "bad": [bad for _, bad in rows]})
    assert load_pairs(made)[:] == load_pairs(np.array(rows))[:] == load_pairs(rows)[:]
    for nothing in ([], np.array([]), pd.DataFrame()):
        with pytest.raises(ValueError, match="there is nothing in"):
            load_pairs(nothing)
    with pytest.raises(ValueError, match="a dict is no list, data set, path or hub name"):
        load_pairs({"good": ["a b"], "bad": ["b a"]})


def test_an_earlier_run_stays_until_a_task_of_the_new_one_is_finished(encoder, tmp_path, monkeypatch):
    data, own = write_hub(tmp_path / "data"), benchmarks.finetune
    (tmp_path / "run").symlink_to("real")                                            # a link to a folder that is to be
    run = lambda model=encoder, tasks=("cola", "rte"), **changes: glue(model, list(tasks), tmp_path / "run", data_dir=data, **{**FAST, **changes})
    run(tasks=("cola", "wnli"))
    before = {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path / "real").rglob("*") if p.is_file()}
    same = lambda: before == {p.relative_to(tmp_path): p.read_bytes() for p in (tmp_path / "real").rglob("*") if p.is_file()} and len(list(tmp_path.iterdir())) == 3
    cut = tmp_path / "run" / ".." / "cut"
    cut.mkdir()
    for file in encoder.iterdir():
        (cut / file.name).write_bytes(file.read_bytes()[:1000])
    monkeypatch.setattr(benchmarks, "glue_data", lambda *a: pytest.fail("read"))
    with pytest.raises(ValueError, match="checkpoint .*cut' is not whole: .*model.safetensors"):
        run(cut, overwrite=True)
    with pytest.raises(ValueError, match="output_dir .*run' is the folder of the model .*, or holds it"):
        run(tmp_path / "real" / "cola" / "model", overwrite=True)
    monkeypatch.undo()
    for file in cut.iterdir():
        file.unlink()
    cut.rmdir()
    assert same()

    def finetune(model, splits, folder, *arguments, **options):
        if "rte" in str(folder) or stop == "cola":
            raise KeyboardInterrupt
        return own(model, splits, folder, *arguments, **options)
    monkeypatch.setattr(benchmarks, "finetune", finetune)
    stop = "cola"
    with pytest.raises(KeyboardInterrupt, match="run is as it was before$"):
        run(overwrite=True, epochs=2)
    assert same() and run(tasks=("cola", "wnli")).protocol["epochs"] == 1              # nothing to do
    stop = "rte"
    with pytest.raises(KeyboardInterrupt, match="are kept; the same command without --overwrite goes on from there$"):
        run(overwrite=True, epochs=2)
    assert sorted(p.name for p in (tmp_path / "real").iterdir()) == ["cola", "glue.json"] and (tmp_path / "run").is_symlink()
    monkeypatch.setattr(benchmarks, "finetune", own)
    assert set(run(epochs=2).scores) == {"cola", "rte"} and len(list(tmp_path.iterdir())) == 3


def test_a_misspelt_model_does_not_wait_for_the_network(tmp_path, monkeypatch):
    from transformers import AutoTokenizer
    asked = []
    own = AutoTokenizer.from_pretrained
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *a, **k: (asked.append(k), own(*a, **k))[1])
    with pytest.raises(FileNotFoundError, match="model 'ber-tiny' is no folder, and the hub's cache on this machine does not hold it"):
        glue("ber-tiny", ["rte"], tmp_path / "run", data_dir=write_hub(tmp_path / "data"), **FAST)
    assert asked == [{"local_files_only": True, "trust_remote_code": False}] and not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["{", "", "[1]", "3", b"\xff"])
def test_a_damaged_note_of_a_run_is_named(content, encoder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "glue.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"run/glue.json', the note of the run there, is damaged \(.*\): choose another folder, or overwrite=True \(--overwrite\)"):
        glue(encoder, ["wnli"], tmp_path / "run", data_dir=write_hub(tmp_path / "data"), wnli_majority=True, **FAST)
    assert glue(encoder, ["wnli"], tmp_path / "run", data_dir=tmp_path / "data", wnli_majority=True, overwrite=True, **FAST).scores


def test_a_full_disk_names_the_run(encoder, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(benchmarks, "_run_task", full)
    with pytest.raises(OSError, match="No space left on device: output_dir '.*run' cannot be written; finished tasks stay, and the same call goes on from there") as error:
        glue(encoder, ["wnli"], tmp_path / "run", data_dir=write_hub(tmp_path / "data"), **FAST)
    assert error.value.errno == 28


def test_a_missing_row_of_a_test_file_moves_no_answer(tmp_path, caplog):
    data = glue_data("rte", write_tsv(tmp_path / "whole"))["test"]
    file = write_tsv(tmp_path / "cut") / "RTE" / "test.tsv"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines[:3], "2\tbroken", *lines[4:]]) + "\n", encoding="utf-8")
    cut = glue_data("rte", tmp_path / "cut")["test"]
    assert cut["idx"] == [0, 1, 3, 4]
    written = lambda task, split, answers: benchmarks._write_submission(tmp_path, task, "out", split, answers) or (tmp_path / "out.tsv").read_text().splitlines()[1:]
    assert written("rte", data, [0, 1, 1, 0, 0]) == ["0\tentailment", "1\tnot_entailment", "2\tnot_entailment", "3\tentailment", "4\tentailment"]
    caplog.clear()
    assert written("rte", cut, [1, 1, 0, 1]) == ["0\tnot_entailment", "1\tnot_entailment", "2\tnot_entailment", "3\tentailment", "4\tnot_entailment"]
    assert "out.tsv: the test file has no row 2: answered by the most frequent label, since the site takes whole files only; get the file again" in caplog.text
    assert written("stsb", cut, [1.0, 2.0, 3.0, 4.0]) == ["0\t1.000", "1\t2.000", "2\t2.500", "3\t3.000", "4\t4.000"]
    for ids in ([0, 0, 1, 2], [10**9, 7, 8, 9]):
        caplog.clear()
        assert [line.split("\t")[0] for line in written("rte", cut.remove_columns("idx").add_column("idx", ids), [1, 1, 0, 1])] == list("0123")
        assert "the test rows' ids are no places from 0, so the answers are numbered in the order of the rows" in caplog.text
