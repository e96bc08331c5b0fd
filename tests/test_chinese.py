"""The tour on real Chinese text: a tokenizer, and perplexity per character; where the novel is on this machine."""
import math

import pytest

import lmnotes
from lmnotes.tokenization import tokenizer_report


@pytest.fixture
def novel(shared_data):
    "Paragraphs of a classical novel: (training, validation)."
    corpus = lmnotes.load_corpus(shared_data / "chinese_novel")
    cut = lambda split, n: [text for chapter in corpus[split]["text"] for text in chapter.splitlines() if len(text.strip()) > 20][:n]
    train, held_out = cut("train", 400), cut("validation", 8)
    if not train or not held_out:
        pytest.skip("chinese_novel has no paragraphs in its text column")
    return train, held_out


def test_tokenizers_write_a_chinese_novel_without_loss(novel):
    train, held_out = novel
    reports = {}
    for kind in ("wordpiece", "bpe"):
        tokenizer = lmnotes.train_tokenizer(train, kind, vocab_size=5000, limit_alphabet=6000, min_frequency=1, progress=False)
        reports[kind] = tokenizer_report(tokenizer, held_out)
    tokens = {kind: report.tokens / report.characters for kind, report in reports.items()}
    assert 0.9 < tokens["wordpiece"] <= 1 + 1e-9                   # a token for each character
    assert reports["wordpiece"].unknown_tokens < 0.02 * reports["wordpiece"].tokens
    assert reports["bpe"].unknown_tokens == 0 and tokens["bpe"] < 1.2
    assert reports["bpe"].round_trips == reports["bpe"].texts
    poor = lmnotes.train_tokenizer(train, "wordpiece", vocab_size=5000, limit_alphabet=200, min_frequency=1, progress=False)
    assert tokenizer_report(poor, held_out).unknown_tokens > 10 * max(1, reports["wordpiece"].unknown_tokens)      # what a small alphabet costs


def test_perplexity_per_character_falls_and_agrees_with_its_definition(novel, tmp_path):
    from datasets import Dataset, DatasetDict
    train, held_out = novel
    corpus = DatasetDict(train=Dataset.from_dict({"text": train}), validation=Dataset.from_dict({"text": held_out}))
    tokenizer = lmnotes.train_tokenizer(corpus, "bpe", vocab_size=2000, progress=False)
    result = lmnotes.pretrain(corpus, tokenizer, "gpt-tiny", tmp_path / "model", steps=20, block_size=32, batch_size=8, learning_rate=3e-3)
    model, tokenizer = lmnotes.load(result.output_dir)
    measured = lmnotes.perplexity(model, held_out, tokenizer)
    characters = sum(map(len, held_out))
    assert sum(measured.characters) == characters
    assert math.isclose(measured.per("characters"), math.exp(-measured.log_likelihood / characters))
    assert measured.per("characters") != pytest.approx(measured.perplexity, rel=0.01) or sum(measured.tokens) == characters
    assert result.loss_after < result.loss_before - 0.5
