"""Perplexity: equality with dense loops written apart from the package, invariances, and bad input."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForMaskedLM

from lmnotes.perplexity import compare, perplexity, surprisal, windows
from lmnotes.tokenization import train_tokenizer

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


def test_stride_one_is_full_context(bpe):
    model, text = gpt(len(bpe), 64), TEXTS[0]
    assert math.isclose(quiet(model, [text], bpe, stride=1).log_likelihood, quiet(model, [text], bpe).log_likelihood, rel_tol=1e-5)


@torch.no_grad()
def test_sliding_equals_the_documentations_loop(bpe):
    model, window, stride = gpt(len(bpe), 16), 16, 4
    ids = bpe(" ".join(TEXTS), add_special_tokens=False)["input_ids"]
    total, scored = 0.0, 1
    for begin, first, end in [(b, f, e) for b, f, e in windows(len(ids), window, stride)]:
        logs = model(input_ids=torch.tensor([ids[begin:end]])).logits[0].double().log_softmax(-1)
        for position in range(max(first, 1), end):
            total += logs[position - begin - 1, ids[position]].item()
    assert math.isclose(quiet(model, [" ".join(TEXTS)], bpe, window=window, stride=stride, bos=False).log_likelihood, total, rel_tol=1e-5)


@pytest.mark.parametrize("within_word", [False, True])
def test_masked_equals_one_by_one(wordpiece, within_word):
    model = bert(len(wordpiece))
    ours = quiet(model, TEXTS, wordpiece, within_word=within_word)
    assert np.allclose(ours.log_likelihoods, [masked_one_by_one(model, wordpiece, t, within_word) for t in TEXTS], rtol=1e-5)


def test_masked_batch_does_not_matter(wordpiece):
    model = bert(len(wordpiece))
    assert np.allclose(quiet(model, TEXTS, wordpiece, batch_tokens=1).log_likelihoods, quiet(model, TEXTS, wordpiece).log_likelihoods, rtol=1e-5)


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


@pytest.mark.parametrize("texts, words", [([], "nothing to score"), (["", "  "], "nothing to score")])
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


@pytest.mark.parametrize("stride", [0, 17, 16])
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


def test_compare(bpe):
    a, b = quiet(gpt(len(bpe)), TEXTS, bpe), quiet(gpt(len(bpe), 32), TEXTS, bpe)
    assert compare(a, a).difference == 0 and math.isclose(compare(a, b).difference, -compare(b, a).difference)
    with pytest.raises(ValueError, match="same texts"):
        compare(a, quiet(gpt(len(bpe)), TEXTS[:3], bpe))


@pytest.mark.parametrize("kind", ["Llama", "Gemma2", "GPTNeoX", "OPT", "Bloom", "Qwen2", "Granite"])
def test_heads_of_other_families(bpe, kind):
    import transformers
    sizes = dict(vocab_size=len(bpe), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64, head_dim=16,
                 max_position_embeddings=64, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    if kind == "OPT":
        sizes |= dict(word_embed_proj_dim=32, ffn_dim=64, pad_token_id=1)
    if kind == "Granite":
        sizes |= dict(logits_scaling=4.0)
    torch.manual_seed(0)
    model = named(getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes)).eval())
    start = bpe.bos_token_id if bpe.bos_token_id is not None else bpe.eos_token_id
    assert np.allclose(quiet(model, TEXTS, bpe).log_likelihoods, one_by_one(model, bpe, TEXTS, start), rtol=1e-5)
