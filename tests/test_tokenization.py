"""Tokenizers: equality with the library and the published vocabularies, round trips, saving, bad input."""
import json
import os
import random
import subprocess
import sys

import pytest
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertConfig, GPT2Config

from lmnotes.tokenization import KINDS, BytePairEncoding, WordPiece, bert_normalize, bert_words, byte_characters, gpt2_words, tokenizer_report, train_tokenizer, viterbi

STRANGE = ["", " ", "\n\n", "naïve café e\u0301", "東京は日本の首都です", "😀👩‍👩‍👧🏽", "\u200b\u200d\u0301", "مرحبا", "한국어", "x" * 300, bytes(range(256)).decode("latin-1"), "İstanbul ΑΣ ß", "a\u00a0b\u2003c\u3000d"]


def sentences(n=2000, seed=0):
    "Repeatable text of invented words with a long tail."
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgkqjxz", weights=range(26, 0, -1), k=rng.randint(2, 9))) for _ in range(800)]
    return [" ".join(rng.choices(words, weights=[1 / (i + 1) for i in range(800)], k=20)).capitalize() + rng.choice(".!?") for _ in range(n)]


TEXTS = sentences()


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    return request.param, train_tokenizer(TEXTS, request.param, 900, progress=False)


def test_exact_size_saved_and_reopened(trained, tmp_path):
    kind, tokenizer = trained
    assert len(tokenizer) == 900 and sorted(tokenizer.get_vocab().values()) == list(range(900))
    tokenizer.save_pretrained(tmp_path)
    (GPT2Config() if kind == "bpe" else BertConfig()).save_pretrained(tmp_path)      # as beside a model
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = TEXTS[:20] + STRANGE
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert again("a b", "c").data == tokenizer("a b", "c").data
    assert again.model_max_length == 512 and again.special_tokens_map == tokenizer.special_tokens_map


def test_opens_without_lmnotes(tmp_path):
    tokenizer = train_tokenizer(TEXTS, "wordpiece", 500, progress=False)
    tokenizer.save_pretrained(tmp_path)
    code = f"import sys; from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained({str(tmp_path)!r}); assert 'lmnotes' not in sys.modules; print(t('a word').input_ids)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == tokenizer("a word").input_ids


def test_special_tokens_and_pairs():
    tokenizer = train_tokenizer(TEXTS, "wordpiece", 500, progress=False)
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pair = tokenizer("a", "a")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == ["[CLS]", "a", "[SEP]", "a", "[SEP]"] and pair["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tokenizer.tokenize("a [MASK] e")[1] == "[MASK]"
    assert "##e" not in tokenizer.all_special_tokens and tokenizer.decode(tokenizer("estate").input_ids, skip_special_tokens=True).replace(" ", "") == "estate"


def test_wordpiece_is_the_same_in_every_process():
    code = "import sys, hashlib; sys.path.insert(0, 'tests'); from test_tokenization import TEXTS, train_tokenizer; print(sorted(train_tokenizer(TEXTS, 'wordpiece', 700, progress=False).get_vocab().items()))"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    outs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout for _ in range(2)}
    assert len(outs) == 1


def test_any_corpus_gives_the_same_tokenizer():
    data = Dataset.from_dict({"text": TEXTS[:500], "other": TEXTS[500:1000]})
    want = train_tokenizer(TEXTS[:500], "bpe", 400, progress=False).get_vocab()
    for corpus in (data, DatasetDict(train=data), data.to_iterable_dataset(), iter(TEXTS[:500]), tuple(TEXTS[:500])):
        assert train_tokenizer(corpus, "bpe", 400, progress=False).get_vocab() == want
    assert train_tokenizer(data, "bpe", 400, text_column="other", progress=False).get_vocab() != want


@pytest.mark.parametrize("arguments, changes, message", [
    ((TEXTS, "word"), {}, "wordpiece, bpe, unigram"), ((TEXTS, "bpe", 256), {}, "vocab_size 256"), ((TEXTS, "wordpiece", 40), {}, "vocab_size 40"),
    ((TEXTS, "unigram", 20), {}, "vocab_size 20"), ((TEXTS, "bpe", 0), {}, "vocab_size 0"), (([], "bpe"), {}, "empty"), (([" ", "\n"], "wordpiece"), {}, "empty"),
    (("text", "bpe"), {}, "single string"), ((["a", None], "bpe"), {}, "row 1 is None"), ((7, "bpe"), {}, "corpus is a int"),
    ((Dataset.from_dict({"body": ["a"]}), "bpe"), {}, "columns are body"), ((Dataset.from_dict({"body": ["a"]}).to_iterable_dataset(), "bpe"), {}, "columns are body"),
    ((DatasetDict(test=Dataset.from_dict({"text": ["a"]})), "bpe"), {}, "no 'train' split"), ((TEXTS, "bpe", 400), {"text_column": "x"}, None)])
def test_bad_input(arguments, changes, message):
    if message is None:                                              # a column means nothing to a list of strings
        assert len(train_tokenizer(*arguments, progress=False, **changes)) == 400
        return
    with pytest.raises(ValueError, match=message):
        train_tokenizer(*arguments, progress=False, **changes)


def test_warns_where_the_corpus_is_too_small(caplog):
    tokenizer = train_tokenizer(["a few words"], "bpe", 400, progress=False)
    assert len(tokenizer) < 400 and "gave only" in caplog.text


def test_report():
    tokenizer = train_tokenizer(TEXTS, "bpe", 500, progress=False)
    texts = STRANGE + TEXTS[:1200]
    report = tokenizer_report(tokenizer, texts)
    assert report.texts == len(texts) and report.bytes == sum(len(t.encode()) for t in texts) and report.characters == sum(map(len, texts))
    assert report.tokens == sum(len(tokenizer(t, add_special_tokens=False).input_ids) for t in texts)
    assert report.round_trip_rate == 1 and report.unknown_rate == 0 and report.words == sum(len(t.split()) for t in texts)
    assert "tokens per word" in repr(report) and report._repr_html_().startswith("<table>")
    worst = [len(t.encode()) / max(1, len(tokenizer(t).input_ids)) for t in texts if t]
    first = texts[report.worst[0]]
    assert len(first.encode()) / len(tokenizer(first).input_ids) == min(worst)
    assert tokenizer_report(train_tokenizer(TEXTS, "wordpiece", 500, progress=False), ["☃ ☃"]).unknown_rate == 1
    for wrong in ("text", [], ["a", 3]):
        with pytest.raises(ValueError, match="texts"):
            tokenizer_report(tokenizer, wrong)


def test_bpe_training_equals_library():
    ours = BytePairEncoding.train(TEXTS + STRANGE + ["----- aaaaaaa =====" * 3], 700)
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.train_from_iterator(TEXTS + STRANGE + ["----- aaaaaaa =====" * 3], trainers.BpeTrainer(vocab_size=700, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    assert ours.merges == [tuple(m) for m in json.loads(library.to_str())["model"]["merges"]]
    assert [ours.encode(t) for t in TEXTS[:200]] == [e.ids for e in library.encode_batch(TEXTS[:200])]


def test_bpe_round_trips_and_errors():
    ours = BytePairEncoding.train(TEXTS[:200], 400)
    rng = random.Random(0)
    texts = STRANGE + ["".join(chr(rng.choice((rng.randrange(128), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(50)) for _ in range(300)]
    texts.append(rng.randbytes(5000).decode("latin-1"))
    tokenizer = train_tokenizer(TEXTS[:200], "bpe", 400, progress=False)
    for text in texts:
        assert ours.decode(ours.encode(text)) == text == tokenizer.decode(tokenizer(text, verbose=False).input_ids)
        assert "".join(gpt2_words(text)) == text
    assert isinstance(ours.decode(ours.encode("lone \ud800 surrogate")), str)
    with pytest.raises(ValueError, match="99999"):
        ours.decode([99999])
    with pytest.raises(ValueError, match="vocab_size 10 "):
        BytePairEncoding.train(TEXTS, 10)
    with pytest.raises(ValueError, match="vocab_size 10 "):
        WordPiece.train(TEXTS, 10)


def test_viterbi_equals_library():
    tokenizer = train_tokenizer(TEXTS, "unigram", 500, progress=False)
    scores = dict(map(tuple, json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]))
    for word in " ".join(TEXTS[:100]).split() + ["☃☃a", "東京"]:
        assert viterbi("▁" + word, scores) == tokenizer.tokenize(word)


def real_texts(folder, n=10_000):
    "Lines of Chinese, German and English, from the machine's data."
    import pandas as pd
    read = lambda name, split: pd.concat(pd.read_parquet(f) for f in sorted((folder / name).rglob(f"{split}*.parquet")))
    out = [line for text in read("chinese_novel", "train")["text"].head(40) for line in text.splitlines()]
    out += [row[language] for row in read("multi30k", "train")["translation"].head(2000) for language in ("en", "de")]
    out += [" ".join(tokens) for tokens in read("wnut17", "train")["tokens"].head(1500)]
    out += list(read("sms_spam", "train")["sms"].head(2000)) + list(read("wikitext2", "train")["text"].head(6000))
    return random.Random(0).sample(out, n)


def test_published_bert(shared_data):
    path = shared_data / "vocabularies" / "bert-base-uncased-vocab.txt"
    vocabulary = {token: i for i, token in enumerate(path.read_text("utf-8").split("\n")[:30522])}
    library = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ours, texts = WordPiece(vocabulary), real_texts(shared_data) + STRANGE
    for text, encoding in zip(texts, library.encode_batch(texts)):
        assert ours.encode(text) == encoding.ids, text
        assert bert_words(bert_normalize(text, False)) == [w for w, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalizers.BertNormalizer(lowercase=False).normalize_str(text))], text


def test_published_gpt2(shared_data):
    folder = shared_data / "vocabularies"
    stored = json.loads((folder / "gpt2-vocab.json").read_text("utf-8"))
    merges = [tuple(line.split(" ")) for line in (folder / "gpt2-merges.txt").read_text("utf-8").split("\n")[1:] if line]
    # the stored vocabulary was changed by the project that it came from (a few of GPT-2's tokens are replaced): number the
    # tokens by GPT-2's own rule, bytes and then merges, and compare with what was left
    tokens = [*byte_characters().values(), *map("".join, merges), "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    assert len(vocabulary) == 50257 and sum(stored.get(token) == i for token, i in vocabulary.items()) > 50200
    library = Tokenizer(models.BPE(vocabulary, merges))
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ours, texts = BytePairEncoding(merges, vocabulary), real_texts(shared_data) + STRANGE
    assert [ours.encode("Hello world")] == [[15496, 995]]            # as published
    for text, encoding in zip(texts, library.encode_batch(texts)):
        assert ours.encode(text) == encoding.ids and ours.decode(encoding.ids) == text, text
