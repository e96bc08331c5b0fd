"""Memorisation, membership, personal data, and private training: against definitions, against Opacus, and wrong usage."""
import csv
import gzip
import importlib.metadata
import io
import json
import math
import string
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmnotes import cli, privacy
from lmnotes.privacy import (Canary, Finding, exposure, extract, find_personal_data, letter_entropy, membership_inference, per_sample_gradients,
                             personal_data_examples, plant_canaries, score_findings, scrub, scrub_corpus, sentence_log_likelihoods, train_privately)

TEXTS = [f"the {a} {b} {c} the {d} ." for a in ("old", "red", "tall") for b in ("dog", "cat", "child") for c in ("sees", "likes") for d in ("house", "tree")]


@pytest.fixture(scope="module")
def tokenizer():
    from lmnotes.tokenization import train_tokenizer
    return train_tokenizer(TEXTS * 3, kind="bpe", vocab_size=290, progress=False)


def tiny(tokenizer, positions=32, **changes):
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(0)
    sizes = dict(n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=positions, **{**sizes, **changes}))


@pytest.fixture(scope="module")
def remembering(tokenizer):
    "A model that has learned one canary by heart."
    canary = Canary("code Q is ", "42")
    model, optimizer = tiny(tokenizer), None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    row = torch.tensor([[0] + tokenizer(canary.text).input_ids])
    for _ in range(60):
        optimizer.zero_grad(), model(row, labels=row).loss.backward(), optimizer.step()
    return model.eval(), canary


# ---- canaries and exposure

@pytest.mark.parametrize("kind", ["list", "dataset", "splits"])
def test_canaries_are_planted_as_often_as_said(kind):
    from datasets import Dataset, DatasetDict
    data = Dataset.from_dict({"text": TEXTS})
    corpus = {"list": list(TEXTS), "dataset": data, "splits": DatasetDict(train=data, validation=data)}[kind]
    planted, canaries = plant_canaries(corpus, (0, 1, 5), each=3, seed=4)
    assert type(planted) is type(corpus)
    texts = list(planted if kind == "list" else planted["text"] if kind == "dataset" else planted["train"]["text"])
    assert len(texts) == len(TEXTS) + 18 and sorted(t for t in texts if t in TEXTS) == sorted(TEXTS)
    assert [texts.count(c.text) for c in canaries] == [c.repeats for c in canaries] == [0] * 3 + [1] * 3 + [5] * 3
    assert len({c.before for c in canaries}) == 9 and plant_canaries(corpus, (0, 1, 5), each=3, seed=4)[1] == canaries
    if kind == "splits":
        assert list(planted["validation"]["text"]) == TEXTS


def test_candidates_are_the_whole_space():
    canary = Canary("a ", "ba", " z", alphabet="abc")
    assert canary.space == 9 and len({canary.candidate(n) for n in range(9)}) == 9
    assert canary.candidate(3) == canary.text == "a ba z"
    assert Canary("", "4831").candidate(4831) == "4831"


def test_sentence_likelihoods_are_those_of_perplexity(tokenizer):
    from lmnotes.perplexity import perplexity
    model = tiny(tokenizer).eval()
    texts = [*TEXTS[:5], *[Canary("code Q is ", "00").candidate(n) for n in range(0, 100, 9)], "a"]
    expected = perplexity(model, texts, tokenizer, device="cpu", progress=False).log_likelihoods
    assert np.allclose(sentence_log_likelihoods(model, tokenizer, texts), expected, atol=1e-4)
    assert np.allclose(sentence_log_likelihoods(model, tokenizer, texts, batch_numbers=1), expected, atol=1e-4)


def test_exposure_is_the_definition(tokenizer, remembering):
    model, canary = remembering
    others = [Canary("code Q is ", f"{n:02d}") for n in (7, 55)]
    values = sentence_log_likelihoods(model, tokenizer, [canary.candidate(n) for n in range(100)])
    for found in exposure(model, tokenizer, [canary, *others]):
        rank = 1 + int((values > values[int(found.canary.secret)]).sum())
        assert (found.rank, found.method) == (rank, "exact") and found.exposure == pytest.approx(math.log2(100 / rank))
    assert exposure(model, tokenizer, [canary])[0].exposure == pytest.approx(math.log2(100))


def test_exposure_of_equal_candidates_is_no_exposure_of_all(tokenizer):
    model = tiny(tokenizer)
    for p in model.parameters():
        p.data.zero_()                                            # all texts of a length are equally likely
    found, = exposure(model, tokenizer, [Canary("code Q is ", "42")])
    assert found.exposure < 1.5


def test_sampled_exposure_is_near_the_rank(tokenizer):
    model = tiny(tokenizer).eval()
    canaries = [Canary("code Q is ", f"{n:03d}") for n in (7, 123, 500, 731)]
    exact, sampled = exposure(model, tokenizer, canaries), exposure(model, tokenizer, canaries, exact_limit=10, samples=400)
    assert all(s.method == "sampled" and s.rank is None for s in sampled)
    assert max(abs(a.exposure - b.exposure) for a, b in zip(exact, sampled) if a.exposure < 6) < 1.5


@pytest.mark.parametrize("length", [16, 32, 400])
def test_candidates_are_drawn_evenly_at_every_place(monkeypatch, length):
    "Numbers with 53 random bits, cut into digits, left the last places of a long secret the same in every candidate."
    canary, read = Canary("key ", "0" * length, ".", alphabet=string.hexdigits[:16]), []
    monkeypatch.setattr(privacy, "sentence_log_likelihoods", lambda model, tokenizer, texts: read.extend(texts) or np.random.default_rng(0).normal(-50, 3, len(texts)))
    found = privacy._exposure(None, None, canary, 10_000, 2_000, np.random.default_rng(0))
    drawn = [text.removeprefix("key ").removesuffix(".") for text in read[1:]]
    counts = [Counter(places) for places in zip(*drawn)]
    assert len(drawn) == 2_000 and len(counts) == length and all(len(count) == 16 and 60 < min(count.values()) <= max(count.values()) < 200 for count in counts)
    assert found.method == "sampled" and math.isfinite(found.exposure) and f"of {math.log2(16) * length:.2f} bits" in repr(found)


def test_extraction(tokenizer, remembering):
    model, canary = remembering
    found, other = extract(model, tokenizer, [canary, Canary("code Q is ", "99")], samples=8)
    assert found.found and found.hits >= 6 and found.samples == 8 and not other.found and other.hits <= 2
    assert extract(model, tokenizer, [canary], samples=0)[0].hits == 0


@pytest.mark.parametrize("change, says", [({"template": "no place"}, "template"), ({"length": 0}, "length 0"), ({"alphabet": "aa"}, "alphabet"), ({"repeats": ()}, "repeats"), ({"repeats": (-1,)}, "repeats"), ({"repeats": 4}, r"repeats 4 must be a sequence .*\(4,\)"), ({"repeats": (1.5,)}, "repeats"),
                                          ({"block_size": 5}, "and a block 5")])
def test_planting_refuses(tokenizer, change, says):
    with pytest.raises(ValueError, match=says):
        plant_canaries(TEXTS, **{"tokenizer": tokenizer, **change})


def test_canary_longer_than_the_model(tokenizer):
    model = tiny(tokenizer, positions=8)
    for call in (exposure, extract):
        with pytest.raises(ValueError, match="tokens .* block 8"):
            call(model, tokenizer, [Canary("the code of the door is ", "4831")])
    from transformers import BertConfig, BertForMaskedLM
    with pytest.raises(ValueError, match="causal"):
        exposure(BertForMaskedLM(BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)), tokenizer, [Canary("a ", "1")])
    with pytest.raises(TypeError, match="corpus is a str"):
        plant_canaries("docstrings")


# ---- membership

def test_membership_curve_is_sklearns_and_the_definition(tokenizer):
    model = tiny(tokenizer)
    members, others = TEXTS[:6], TEXTS[20:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = privacy._text_rows(members, tokenizer, 24)[0]
    for _ in range(60):
        logits = model(rows[:, :-1].clamp(min=0)).logits
        optimizer.zero_grad(), torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], ignore_index=-100).backward(), optimizer.step()
    fresh = tiny(tokenizer)
    for reference in (None, "zlib", fresh):
        found = membership_inference(model, tokenizer, members, others, reference, device="cpu")
        pairs = np.mean([(a > b) + 0.5 * (a == b) for a in found.scores[:6] for b in found.scores[6:]])
        assert found.auc == pytest.approx(pairs) and found.auc > 0.8 and found.accuracy >= 0.5
        threshold = np.sort(found.scores[6:])[-1]
        assert found.true_positive_rate(0.0) == np.mean(found.scores[:6] > threshold)
    same = membership_inference(model, tokenizer, members, others, model, device="cpu")
    assert np.allclose(same.scores, 0) and same.auc == pytest.approx(0.5)


@pytest.mark.parametrize("members, others, reference, says", [([], ["a"], None, "0 members"), (["a"], ["a"], None, "both|members and non_members"), (["a", " "], ["b"], None, "empty text"), (["a"], ["b"], "gzip", "gzip")])
def test_membership_refuses(tokenizer, members, others, reference, says):
    with pytest.raises(ValueError, match=says):
        membership_inference(tiny(tokenizer), tokenizer, members, others, reference)


@pytest.mark.parametrize("reference", [None, "zlib", "model"])
def test_membership_refuses_texts_of_which_the_tokenizer_keeps_nothing(reference):
    from transformers import BertConfig, BertForMaskedLM
    from lmnotes.tokenization import train_tokenizer
    pieces = train_tokenizer(["hello world the code of door"] * 20, kind="wordpiece", vocab_size=41, progress=False)
    bert = BertForMaskedLM(BertConfig(vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
    reference = bert if reference == "model" else reference
    with pytest.raises(ValueError, match=r"^members: the tokenizer gives no token for '\\u200b\\u200b': leave"):
        membership_inference(bert, pieces, ["hello world", "\u200b\u200b", "the code"], ["code of door", "hello door"], reference)
    with pytest.raises(ValueError, match=r"^non_members: the tokenizer gives no token for '\\u200b', '\\u200c': leave"):
        membership_inference(bert, pieces, ["hello world"], ["\u200b", "code of door", "\u200c"], reference)
    assert membership_inference(bert, pieces, ["hello", "the code"], ["code of door"], reference).labels.tolist() == [1, 1, 0]


@pytest.fixture
def headless():
    "A tokenizer of letters with no token that begins a text, and a model of its size."
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    letters = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("_abcd0123456789")}, unk_token="_"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters = PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="_")
    return tiny(letters, bos_token_id=None, eos_token_id=None).eval(), letters


def test_membership_refuses_single_tokens_that_nothing_stands_before(headless):
    with pytest.raises(ValueError, match="^members: the tokenizer gives a single token, which is not scored, or none for 'a', 'b': leave"):
        membership_inference(*headless, ["ab", "a", "b", "cd"], ["ba", "dc"])
    assert len(membership_inference(*headless, ["ab", "cd"], ["ba"]).scores) == 3


def test_extraction_needs_a_token_to_begin_with(headless):
    with pytest.raises(ValueError, match="canaries: the tokenizer gives no token for '', .*'42'.* put words before the secret"):
        extract(*headless, [Canary("", "42")], samples=0)
    assert extract(*headless, [Canary("a", "42")], samples=0)[0].samples == 0


# ---- personal data

@pytest.mark.parametrize("seed", [0, 1, 2])
def test_precision_and_recall(seed):
    examples = personal_data_examples(25, seed)
    report = score_findings([there for _, there in examples], [find_personal_data(text) for text, _ in examples])
    for kind in privacy.KINDS:
        assert report.precision(kind) >= 0.95, report
        assert report.recall(kind) >= (0.55 if kind == "name" else 0.95), report
    assert "precision" in repr(report) and "<table>" in report._repr_html_()


@pytest.mark.parametrize("text, kinds", [
    ("write to jürgen.o'neil@büro.example.de", ["email"]), ("zhang@example.com是我的邮箱", ["email"]), ("我的邮箱是zhang@example.com。", ["email"]), ("@property a@b", []), ("x@2x.png", []),
    ("Failed login src=93.184.216.34 user=bob", ["ip"]), ("REMOTE_ADDR=93.184.216.34", ["ip"]), ("/x?ip=93.184.216.34&x", ["ip"]), ("driver = 93.184.216.34", ["ip"]), ("host:=93.184.216.34", ["ip"]),
    *((f"{before}93.184.216.34", []) for before in ("version=", "version = ", "VERSION=", "app_version=", "__version__ = ", "release=", "ver=", "ver. ", "v=", "v ", "?v=", "a==", "a == ", "a===", "a>=", "a<=", "a~=", "a!=", "a~", "a^", "a<", "a>", "a > ")),
    ("bob@example.com-- Bob", ["email"]), ("bob@example.com - Bob", ["email"]), ("bob@example.com-", ["email"]), ("bob@example.com-pany", []), ("bob@example.com-2", []), ("bob@example.com-@", []),
    ("server 93.184.216.34:80", ["ip"]), ("2606:4700:4700::1111", ["ip"]), ("std::vector a::b 12:30:45", []), ("numpy 1.2.3.4.5, v8.8.8.8, ==8.8.8.8, 192.168.0.1, 999.1.1.1", []),
    ("ftp://a:b@h/x", ["url"]), ("https://h/x?token=abcdefgh123", ["url"]), ("https://h/x?page=12", []),
    ("-----BEGIN PRIVATE KEY-----\nabc\ndef\n-----END PRIVATE KEY-----", ["secret"]), ("password: correct4horse", ["secret"]), ("password = os.environ['PASSWORD1']", []), ("tokens = tokenizer1.encode(text)", []), ("密码是abc12345678", ["secret"]),
    ("sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", []), ("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", []),
    ("4111111111111111", ["card"]), ("4111111111111112", []), ("3782 822463 10005", ["card"]), ("订单号：4111111111111111", []), ("1.4111111111111111", []),
    ("GB82 WEST 1234 5698 7654 32", ["iban"]), ("GB82 WEST 1234 5698 7654 33", []), ("DE89370400440532013000 EUR", ["iban"]),
    ("身份证号11010519491231002X，", ["identity"]), ("110105194912310021", []), ("11010519491331002X", []), ("SSN 536-90-4399", ["identity"]), ("000-12-3456 666-12-3456", []), ("RSSMRA85T10A562S", ["identity"]),
    ("+49 30 901820", ["phone"]), ("手机13812345678", ["phone"]), ("18612345678", ["phone"]), ("2024-11-24 10:30:00", []), ("ISBN 978-0-306-40615-7", []), ("order 212-555-0187", []), ("1234567890 bytes", []),
    ("juan@correo.com.py, maria@una.py", ["email"] * 2), ("logo@2x.png, mod@2x.py, lodash@4.17.js", []), ("alice@example.com/bob@example.com", ["email"] * 2), ("-alice@example.com", ["email"]), ("https://bob@example.com/x", []),
    ("身份证编号：11010519491231002X", ["identity"]), ("证件编号：11010519491231002X", ["identity"]), ("订单编号：4111111111111111", []),
    ("border: 4111111111111111", ["card"]), ("My counterpart 4111111111111111", ["card"]), ("order: 4111111111111111", []), ("part no. 4111111111111111", []),
    ("Anna,13812345678,Beijing", ["phone"]), ("姓名:张三,13812345678", ["name", "phone"]), ("Contact:13812345678", ["phone"]), ("Ph:415-555-2671", ["phone"]), ("x,2125550187,y 12:30:45 $1,381,234,567 order:13812345678", []),
    ("我是程序员。", []), ("我是高中生。", []), ("我是任务。", []), ("我是王小明。", ["name"]), ("我是高一鸣。", ["name"]),
    ("Dear Ms. Rossi,", ["name"]), ("Hello World", []), ("Dr. No-one", []), ("感谢王小明先生", ["name"]), ("感谢王先生", ["name"]), ("任何先生", []), ("基金经理", []), ("", []), ("\ud800 \x00", []),
])
def test_findings(text, kinds):
    found = find_personal_data(text)
    assert [f.kind for f in found] == kinds
    assert all(text[f.start:f.end] == f.text for f in found)


@pytest.mark.parametrize("text, kind, values", [
    ("inet addr:8.8.8.8  Bcast:8.8.4.255", "ip", ["8.8.8.8", "8.8.4.255"]), ("IP:8.8.8.8", "ip", ["8.8.8.8"]), ('{"ip":"8.8.8.8"}', "ip", ["8.8.8.8"]), ("IP:2606:4700:4700::1111", "ip", ["2606:4700:4700::1111"]), ("IP地址:8.8.8.8", "ip", ["8.8.8.8"]),
    ("card 4111\u00a01111\u00a01111\u00a01111", "card", ["4111\u00a01111\u00a01111\u00a01111"]), ("4111\u20111111\u20111111\u20111111", "card", ["4111\u20111111\u20111111\u20111111"]), ("3782\u202f822463\u202f10005", "card", ["3782\u202f822463\u202f10005"]),
    ("IBAN DE89\u202f3704\u202f0044\u202f0532\u202f0130\u202f00.", "iban", ["DE89\u202f3704\u202f0044\u202f0532\u202f0130\u202f00"]), ("iban de89 3704 0044 0532 0130 00 eur", "iban", ["de89 3704 0044 0532 0130 00"]), ("gb82west12345698765432", "iban", ["gb82west12345698765432"]),
    ("DJANGO_KEY=hT7qLm29ZkRx4VbN8sWdYc31", "secret", ["hT7qLm29ZkRx4VbN8sWdYc31"]), ("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", "secret", ["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"]),
    *((f"{before} {name}, hello", "name", [name]) for before, name in (("Dear", "Łukasz Nowak"), ("Mr.", "Wałęsa"), ("Mr.", "Erdoğan"), ("Frau", "Šimková"), ("Dr.", "Dvořák"), ("Mr.", "DeVito"), ("Dear", "Nguyễn Văn An"))),
    ("mail jo@müller.de, now", "email", ["jo@müller.de"]), ("ivan@почта.рф.", "email", ["ivan@почта.рф"]), ("иван@почта.рф", "email", ["иван@почта.рф"]), ("bob@view.example.com", "email", ["bob@view.example.com"]),
])
def test_spellings_are_found(text, kind, values):
    assert [(f.kind, f.text) for f in find_personal_data(text)] == [(kind, value) for value in values]


@pytest.mark.parametrize("text", ["0x4111111111111111", "0X5555555555554444", "int max 2 147 483 647", "np.dot 3 2 147 483 647", "1 000 000 000 rows", "np.matmul(a@b.transpose)", "X@W.data", "x@self.w.weight", "torch 2.1.0.1", "python 3.11.0.1",
                                  "image nginx:1.25.3.1", "std:8.8.8.8", "MODEL=AutoModelForSequenceClassification2V3", "in de89 the quick brown fox ran away", "de89 3704 0044 0532 0130 01", "SG.short.key", "Dear LaTeX users"])
def test_code_and_numbers_are_no_personal_data(text):
    assert find_personal_data(text) == []


def test_spans_of_names_and_urls_are_exact():
    assert [f.text for f in find_personal_data("感谢王先生，请找欧阳修教授。Dear Mr. J. R. van der Berg, hi")] == ["王", "欧阳修", "J. R. van der Berg"]
    assert [f.text for f in find_personal_data("见https://a:b1@h.example/x?y=1。谢谢")] == ["https://a:b1@h.example/x?y=1"]


def test_resident_numbers_of_later_counties():
    "The library knows a county for the years of its existence only; people keep their first number."
    from stdnum.cn import ric
    number = "51010719700505123"
    number += ric.calc_check_digit(number + "0")
    older = importlib.metadata.version("python-stdnum") == "2.1"                 # it knows a county for all years
    assert ric.is_valid(number) == older and [f.kind for f in find_personal_data(number)] == ["identity"]


def test_all_valid_lengths_of_cards_by_luhn():
    from stdnum import luhn
    for number in ("4222222222222", "30569309025904", "6011000990139424", "3530111333300000", "5555555555554444", "2223003122003222"):
        assert luhn.is_valid(number) and [f.kind for f in find_personal_data(f"paid with {number} today")] == ["card"]


def test_long_texts_take_linear_time():
    for text in ("a" * 200_000, "1" * 200_000, "a@" * 50_000, "王" * 50_000, "1 " * 50_000, "A1" * 50_000, "-" * 200_000, "-a@" * 50_000, "/a@b" * 50_000, "-----BEGIN PRIVATE KEY-----" * 500, "-----BEGIN PRIVATE KEY-----" + "a " * 100_000, "Dear Anna " * 5_000,
                 "é" * 200_000, "'a" * 100_000, "a@example.org " * 8_000):
        find_personal_data(text)


@pytest.mark.parametrize("unit", ["http://a?token=&", "http://", "http://a?", "token=abcdefgh&http://a?"])
def test_urls_take_linear_time(unit):
    "Twice the text took four times as long: 6.9 s for 40 thousand characters."
    took = []
    for size in (20_000, 80_000):
        text = (unit * size)[:size]
        start = time.process_time()
        list(privacy._urls(text))
        took.append(time.process_time() - start)
    assert took[1] < 8 * took[0] + 0.5


def test_regions_and_kinds():
    text = "Call 030 901820 or mail a@example.org"
    assert [f.kind for f in find_personal_data(text, regions=("DE",))] == ["phone", "email"]
    assert [f.kind for f in find_personal_data(text, kinds=("email",))] == ["email"]
    for wrong in (dict(kinds=("mail",)), dict(kinds="email"), dict(kinds=()), dict(regions=("UK",))):
        with pytest.raises(ValueError, match="kind|region"):
            find_personal_data(text, **wrong)


def test_scrub_replaces_and_counts():
    done = scrub(["a@example.org and b@example.org", "nothing", "Dear Anna Novak,"])
    assert done.texts == ("[EMAIL] and [EMAIL]", "nothing", "Dear [NAME],") and done.counts == {"email": 2, "name": 1} and done.documents == 2
    assert not any(find_personal_data(text) for text in done.texts)
    for text, there in personal_data_examples(5, seed=9):
        assert all(f.text not in scrub(text).texts[0] for f in there if f.kind != "name")


def test_pseudonyms():
    texts = ["a@example.org", "A@example.org b@example.org", "+1 212 555 0187", "+1 (212) 555-0187"]
    first, again, other = (scrub(texts, pseudonyms=True, key=key).texts for key in ("k", "k", "l"))
    assert first == again != other and first[0] in first[1] and first[2] == first[3] and len(set(first[1].split())) == 2
    assert scrub(texts, pseudonyms=True).texts != scrub(texts, pseudonyms=True).texts            # a new key each time
    with pytest.raises(ValueError, match="pseudonyms"):
        scrub(texts, key="k")
    with pytest.raises(TypeError, match="NoneType"):
        scrub([None])


def test_names_by_a_model(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, PreTrainedTokenizerFast
    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "jordan", "sleeps", "[CLS]", "[SEP]"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tok = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=32)
    sizes = dict(vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, max_position_embeddings=32)
    model = BertForTokenClassification(BertConfig(**sizes, id2label={0: "O", 1: "B-PER"}, label2id={"O": 0, "B-PER": 1}))
    for p in model.parameters():
        p.data.zero_()
    model.bert.embeddings.word_embeddings.weight.data[2] = torch.tensor([1.0, -1] * 4)
    model.bert.embeddings.LayerNorm.weight.data.fill_(1), model.bert.encoder.layer[0].attention.output.LayerNorm.weight.data.fill_(1), model.bert.encoder.layer[0].output.LayerNorm.weight.data.fill_(1)
    model.classifier.weight.data[1], model.classifier.bias.data[0] = torch.tensor([1.0, -1] * 4), 1.0
    model.save_pretrained(tmp_path / "tagger"), tok.save_pretrained(tmp_path / "tagger")
    assert [(f.kind, f.text) for f in find_personal_data("jordan sleeps", model=str(tmp_path / "tagger"))] == [("name", "jordan")]
    BertForSequenceClassification(BertConfig(**sizes)).save_pretrained(tmp_path / "other"), tok.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="token classifier"):
        find_personal_data("jordan", model=str(tmp_path / "other"))


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_bytes("Dear Anna Novak,\r\n\r\nmail a@example.org\r\n-----BEGIN PRIVATE KEY-----\nab\n\ncd\n-----END PRIVATE KEY-----\n\nλ no end".encode())
    (folder / "b.jsonl").write_text('{"id":  1, "text": "plain λ"}\n' + json.dumps({"id": 2, "text": "a@example.org", "more": ["b@example.org", 3, None]}) + "\n\n", encoding="utf-8")
    with open(folder / "c.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "note"], ["a@example.org, or\nthere", "b@example.org"]])
    with gzip.open(folder / "deep" / "d.txt.gz", "wt", encoding="utf-8") as file:
        file.write("tel +1 212 555 0187\n")
    from datasets import Dataset
    Dataset.from_dict({"text": ["a@example.org", None], "n": [1, 2]}).to_parquet(folder / "e.parquet")
    return folder


def test_whole_files(files, tmp_path):
    from datasets import load_dataset
    out = tmp_path / "out"
    report = scrub_corpus(files, out)
    assert report.files == 5 and report.counts == {"secret": 1, "email": 6, "phone": 1, "name": 1} and "6 email" in repr(report)
    assert (out / "a.txt").read_bytes() == "Dear [NAME],\r\n\r\nmail [EMAIL]\r\n[SECRET]\n\nλ no end".encode()
    lines = (out / "b.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines[0] == '{"id":  1, "text": "plain λ"}' and json.loads(lines[1]) == {"id": 2, "text": "[EMAIL]", "more": ["[EMAIL]", 3, None]} and lines[2:] == ["", ""]
    assert list(csv.reader((out / "c.csv").open(newline="", encoding="utf-8"))) == [["text", "note"], ["[EMAIL], or\nthere", "[EMAIL]"]]
    assert gzip.open(out / "deep" / "d.txt.gz", "rt").read() == "tel [PHONE]\n"
    assert load_dataset("parquet", data_files=str(out / "e.parquet"), split="train", cache_dir=str(tmp_path / "cache")).to_dict() == {"text": ["[EMAIL]", None], "n": [1, 2]}
    assert "example.org" not in (out / "result.json").read_text(encoding="utf-8")
    with pytest.raises(FileExistsError, match="output_dir"):
        scrub_corpus(files, out)
    assert scrub_corpus(files, out, overwrite=True).counts == report.counts


@pytest.mark.parametrize("before, inner", [(199_900, 200), (150_000, 99_000), (0, 60_000), (0, 99_900)])
def test_a_private_key_is_never_cut(tmp_path, before, inner):
    from lmnotes.privacy import _PIECE, _paragraphs
    key = "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: a - b\n\n" + ("aaaa " * 9 + "\n") * (inner // 46) + "=Ab1d\n-----END PGP PRIVATE KEY BLOCK-----\n"
    text = "plain words of a text\n" * (before // 22) + key + "after it\n" + "plain words of a text\n" * 100
    assert _PIECE == 200_000 and "".join(_paragraphs(text.splitlines(keepends=True))) == text
    (tmp_path / "a.txt").write_text(text)
    assert scrub_corpus(tmp_path / "a.txt", tmp_path / "out").counts == {"secret": 1}
    assert (tmp_path / "out" / "a.txt").read_text() == text.replace(key, "[SECRET]\n")
    assert scrub(text).texts[0] == text.replace(key, "[SECRET]\n")


def test_one_column(files, tmp_path):
    scrub_corpus(files / "c.csv", tmp_path / "csv", text_column="note")
    assert list(csv.reader((tmp_path / "csv" / "c.csv").open(newline="", encoding="utf-8")))[1] == ["a@example.org, or\nthere", "[EMAIL]"]
    for name in ("c.csv", "b.jsonl", "e.parquet"):
        with pytest.raises(ValueError, match="text_column 'body'"):
            scrub_corpus(files / name, tmp_path / "no", text_column="body")
    assert not (tmp_path / "no").exists()


def test_parquet_columns_of_any_type_that_holds_text(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    mail = "a@example.org"
    columns = {"chat": pa.array([[{"role": "user", "content": mail, "n": 13812345678}], None] * 600, pa.list_(pa.struct([("role", pa.string()), ("content", pa.large_string()), ("n", pa.int64())]))),
               "list": pa.array([[mail, None], []] * 600, pa.large_list(pa.string())), "map": pa.array([[(mail, mail)], None] * 600, pa.map_(pa.string(), pa.string())),
               "category": pa.array([mail, None] * 600, pa.dictionary(pa.int8(), pa.string())), mail: pa.array([{mail: "x"}, None] * 600, pa.struct([(mail, pa.string())])), "ids": pa.array([[1], None] * 600)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert scrub_corpus(tmp_path / "a.parquet", tmp_path / "out").counts == {"email": 600 * 5}
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert table.schema.equals(pq.read_table(tmp_path / "a.parquet").schema) and table.num_rows == 1200
    assert table.slice(1198, 1).to_pylist() == [{"chat": [{"role": "user", "content": "[EMAIL]", "n": 13812345678}], "list": ["[EMAIL]", None], "map": [("[EMAIL]", "[EMAIL]")], "category": "[EMAIL]", mail: {mail: "x"}, "ids": [1]}]
    scrub_corpus(tmp_path / "a.parquet", tmp_path / "one", text_column="list")
    one = pq.read_table(tmp_path / "one" / "a.parquet")
    assert one["list"].to_pylist() == table["list"].to_pylist() and one.drop(["list"]).equals(pa.table(columns).drop(["list"]))
    with pytest.raises(ValueError, match="text_column 'ids'"):
        scrub_corpus(tmp_path / "a.parquet", tmp_path / "no", text_column="ids")


def test_json_keys_and_numbers(tmp_path):
    row = {"a@example.org": 1, "b@example.org": {"c@example.org": 2}, "[EMAIL]": 3, "n": [13812345678, 4111111111111111, 13912, True, 1.5, 10**18], "t": "x"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"n": 12345678901}) + "\n", encoding="utf-8")
    report = scrub_corpus(tmp_path / "a.jsonl", tmp_path / "out")
    first, second = (tmp_path / "out" / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(first) == {"[EMAIL] 2": 1, "[EMAIL] 3": {"[EMAIL]": 2}, "[EMAIL]": 3, "n": ["[PHONE]", "[CARD]", 13912, True, 1.5, 10**18], "t": "x"} and json.loads(second) == {"n": 12345678901}
    assert report.counts == {"email": 3, "card": 1, "phone": 1} and report.documents == 1 and report.characters == 1
    scrub_corpus(tmp_path / "a.jsonl", tmp_path / "one", kinds=("email",))
    assert json.loads((tmp_path / "one" / "a.jsonl").read_text(encoding="utf-8").splitlines()[0])["n"] == row["n"]


def test_csv_without_a_header_and_with_long_cells(tmp_path):
    (tmp_path / "a.csv").write_text("a@example.org,1\nb@example.org," + "x" * 200_000 + "\n", encoding="utf-8")
    before = csv.field_size_limit()
    scrub_corpus(tmp_path / "a.csv", tmp_path / "out")
    assert (tmp_path / "out" / "a.csv").read_text(encoding="utf-8") == "[EMAIL],1\n[EMAIL]," + "x" * 200_000 + "\n" and csv.field_size_limit() == before


def test_csv_that_cannot_be_read_names_its_line():
    class Lines(list):
        name = "a.csv"
    with pytest.raises(ValueError, match="a.csv, line 2, is no CSV"):
        list(privacy._csv_rows(Lines(["a,b\n", "c\rd,e\n"])))


def test_damaged_gzip(tmp_path):
    (tmp_path / "plain.txt.gz").write_text("a@example.org\n", encoding="utf-8")
    whole = gzip.compress("".join(f"line {n}\n" for n in range(2000)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 2000)[:-9])
    (tmp_path / "broken.csv.gz").write_bytes(whole[:40] + b"\xff" * 40 + whole[80:])
    for name in ("plain.txt.gz", "cut.jsonl.gz", "broken.csv.gz"):
        with pytest.raises(ValueError, match=f"{name} is damaged or no gzip file"):
            scrub_corpus(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding, letter", [("utf-8", "\ud83d"), ("utf-16", "\ud83d"), ("latin-1", "中"), ("gb18030", "\ud83d")])
def test_json_with_letters_that_the_encoding_has_not(tmp_path, encoding, letter):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": f"é a@example.org {letter}"}) + "\n" + json.dumps({"text": "é b@example.org"}) + "\n", encoding=encoding)
    scrub_corpus(tmp_path / "a.jsonl", tmp_path / "out", encoding=encoding)
    first, second = (tmp_path / "out" / "a.jsonl").read_text(encoding=encoding).splitlines()
    assert json.loads(first) == {"text": f"é [EMAIL] {letter}"} and second == '{"text": "é [EMAIL]"}'


def test_nothing_half_written(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "x"}\n', encoding="utf-8")
    (tmp_path / "in" / "b.jsonl").write_text('{"text": \n', encoding="utf-8")
    with pytest.raises(ValueError, match="b.jsonl, line 1"):
        scrub_corpus(tmp_path / "in", tmp_path / "out")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="encoding"):
        scrub_corpus(tmp_path / "latin.txt", tmp_path / "out")
    assert scrub_corpus(tmp_path / "latin.txt", tmp_path / "latin", encoding="latin-1").characters == 5
    (tmp_path / "x.pdf").write_bytes(b"x")
    with pytest.raises(ValueError, match="x.pdf cannot be scrubbed"):
        scrub_corpus(tmp_path / "x.pdf", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        scrub_corpus(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_command(files, tmp_path, capsys):
    assert cli.execute(cli.COMMANDS, ["corpus", "scrub", str(files / "b.jsonl"), "--output-dir", str(tmp_path / "o"), "--kinds", "email", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"email": 2}
    assert cli.execute(cli.COMMANDS, ["corpus", "scrub", str(files / "b.jsonl"), "--output-dir", str(tmp_path / "p"), "--kinds", "mail"]) == 2
    assert capsys.readouterr().err.startswith("lmnotes: error: kind 'mail'")


def test_beside_presidio():
    "The pattern recognisers of Presidio find nothing in these texts that we miss, of the kinds that both know."
    recognizers = pytest.importorskip("presidio_analyzer.predefined_recognizers")
    examples = personal_data_examples(20, seed=3)
    for kind, theirs in (("email", recognizers.EmailRecognizer()), ("iban", recognizers.IbanRecognizer()), ("card", recognizers.CreditCardRecognizer())):
        for text, there in examples:
            if [f.kind for f in there] == [kind] and theirs.analyze(text, theirs.supported_entities):
                assert [f.kind for f in find_personal_data(text)] == [kind]


def test_entropy():
    assert letter_entropy("aaaa") == 0 and letter_entropy("abcd") == 2 and letter_entropy("aabb") == 1
    with pytest.raises(ValueError, match="1 texts have known findings"):
        score_findings([[Finding("email", 0, 1, "a")]], [])


# ---- private training

@pytest.mark.parametrize("tied", [True, False])
def test_per_sample_gradients_are_backward_passes(tokenizer, tied):
    model, rows = tiny(tokenizer, tie_word_embeddings=tied), privacy._text_rows(TEXTS[:3] + ["a"], tokenizer, 24)[0]
    was = dict(model.config.to_dict(), attention=model.config._attn_implementation)
    found = per_sample_gradients(model, rows)
    assert dict(model.config.to_dict(), attention=model.config._attn_implementation) == was
    for i, row in enumerate(rows):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(row[None, :-1].clamp(min=0)).logits[0], row[1:], ignore_index=-100).backward()
        for name, p in model.named_parameters():
            assert torch.allclose(found[name][i], p.grad, atol=1e-6), name


def test_a_step_clips_each_text_and_adds_the_noise_once(tokenizer):
    "Against the formula: w - lr * (sum of clipped gradients + noise) / expected batch, for SGD in place of AdamW, in one part and in several."
    from opacus.optimizers import DPOptimizer
    rows, moved = privacy._text_rows(TEXTS[:6], tokenizer, 24)[0], []
    for microbatch in (6, 4):
        model = tiny(tokenizer)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        gradients = per_sample_gradients(model, rows)
        lengths = sum(g.flatten(1).pow(2).sum(1) for g in gradients.values()).sqrt()
        optimizer = DPOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=0.5, expected_batch_size=6)
        parts = rows.split(microbatch)
        for i, part in enumerate(parts):
            optimizer.signal_skip_step(do_skip=i < len(parts) - 1)
            privacy._fill_gradients(model, part)
            optimizer.step(), optimizer.zero_grad()
        for name, p in model.named_parameters():
            step = torch.einsum("i,i...->...", (0.5 / lengths).clamp(max=1), gradients[name]) / 6
            assert torch.allclose(before[name] - step, p, atol=1e-5), name
        moved.append(float(torch.cat([(p.detach() - before[name]).flatten() for name, p in model.named_parameters()]).norm()))
    assert moved[0] == pytest.approx(moved[1], rel=1e-4) and moved[0] <= 0.5 + 1e-5


def test_guarantee_is_kept_and_saved(tokenizer, tmp_path):
    import lmnotes
    runs = [train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=e, steps=3, batch_size=8, device="cpu", accountant=a, seed=7) for e, a in ((2, "prv"), (2, "rdp"), (20, "rdp"), (math.inf, "prv"))]
    assert all(run.epsilon <= e + 0.02 for run, e in zip(runs, (2, 2, 20, math.inf))) and runs[0].epsilon > 1.9
    assert runs[1].noise_multiplier >= runs[0].noise_multiplier > runs[3].noise_multiplier == 0 and runs[1].noise_multiplier > runs[2].noise_multiplier > 0
    assert runs[0].delta < 1 / len(TEXTS) and runs[0].cut == 0 and "not counted: tokenizer" in repr(runs[0])
    again = train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=2, steps=3, batch_size=8, device="cpu", output_dir=tmp_path / "m", seed=7)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), runs[0].model.parameters()))
    model, _ = lmnotes.load(tmp_path / "m", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), model.parameters()))
    assert json.loads((tmp_path / "m" / "lmnotes.json").read_text(encoding="utf-8"))["differential_privacy"]["epsilon"] == pytest.approx(again.epsilon)
    with pytest.raises(FileExistsError, match="output_dir"):
        train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=2, steps=3, batch_size=8, output_dir=tmp_path / "m")


def test_without_noise_it_learns(tokenizer):
    run = train_privately("gpt-tiny", tokenizer, TEXTS, epsilon=math.inf, steps=25, batch_size=12, block_size=24, device="cpu", seed=0)
    assert np.nanmean(run.losses[-5:]) < 0.6 * run.losses[0] and math.isinf(run.epsilon)


def test_all_bits_of_a_seed_count_and_the_noise_is_normal(tokenizer):
    "PyTorch's generator on a CPU takes the lower 32 bits of a seed: 5 and 5 + 7 * 2**32 gave the same noise."
    train = lambda model, seed: train_privately(model, tokenizer, TEXTS, epsilon=4, steps=2, batch_size=8, block_size=16, device="cpu", accountant="rdp", seed=seed)
    for make in (lambda: "gpt-tiny", lambda: tiny(tokenizer)):                                 # weights, draws and noise; draws and noise
        first, again, other = (torch.nn.utils.parameters_to_vector(train(make(), seed).model.parameters()) for seed in (5, 5, 5 + 7 * 2**32))
        assert torch.equal(first, again) and not torch.equal(first, other)
    model, states = tiny(tokenizer), []
    for seed in (5, 5 + 7 * 2**32):
        optimizer = type("Sums", (), dict(noise_multiplier=1.5, max_grad_norm=2.0, params=list(model.parameters())))
        for p in optimizer.params:
            p.summed_grad = torch.full_like(p, 10.0)
        privacy._add_noise(optimizer, np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[2]))
        states.append(torch.cat([p.grad.flatten() for p in optimizer.params]).numpy())
    assert abs(np.corrcoef(*states)[0, 1]) < 0.05
    assert abs(states[0].mean() - 10) < 0.15 and abs(states[0].std() - 3) < 0.1


def test_a_seed_that_nobody_knows_has_128_bits(tokenizer, monkeypatch):
    asked, spawn = [], np.random.SeedSequence
    monkeypatch.setattr(np.random, "SeedSequence", lambda entropy=None: asked.append(spawn(entropy)) or asked[-1])
    for _ in range(2):
        train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=math.inf, steps=1, batch_size=8, device="cpu")
    assert asked[0].entropy != asked[1].entropy and max(seed.entropy for seed in asked) > 2**100


def test_empty_draws_are_steps_of_noise(tokenizer):
    run = train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=5, steps=6, batch_size=1, device="cpu", seed=2, accountant="rdp")
    assert any(math.isnan(loss) for loss in run.losses) and all(torch.isfinite(p).all() for p in run.model.parameters())


def test_texts_longer_than_the_block_are_counted(tokenizer):
    run = train_privately(tiny(tokenizer), tokenizer, TEXTS + ["the dog " * 60], epsilon=5, steps=1, batch_size=4, device="cpu", accountant="rdp")
    assert run.cut == 1 and run.texts == len(TEXTS) + 1


@pytest.mark.parametrize("change, says", [({"epsilon": 0}, "epsilon 0 must be above 0"), ({"epsilon": -1.0}, "epsilon"), ({"epsilon": float("nan")}, "epsilon"), ({"delta": 0}, "delta 0"), ({"delta": 0.5}, "delta 0.5"),
                                          ({"batch_size": 1000}, "batch_size 1000"), ({"steps": 0}, "steps 0"), ({"clip": 0}, "clip 0"), ({"accountant": "magic"}, "magic"), ({"accountant": "gdp"}, "accountant 'gdp' approximates .* guarantees nothing: choose prv or rdp"),
                                          ({"steps": 1.5}, "steps 1.5 must be a whole number"), ({"microbatch": 2.5}, "microbatch 2.5"), ({"batch_size": True}, "batch_size True"), ({"seed": -1}, "seed -1")])
def test_private_training_refuses(tokenizer, change, says):
    model = tiny(tokenizer)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=says):
        train_privately(model, tokenizer, TEXTS, **{"batch_size": 8, "device": "cpu", **change})
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_nothing_warns(tokenizer, recwarn):
    train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=1, steps=2, batch_size=8, device="cpu", accountant="rdp")
    assert [str(w.message) for w in recwarn if "alpha" in str(w.message) or "performance drop" in str(w.message)] == []


def test_a_key_that_stands_twice_keeps_no_first_value(tmp_path):
    "JSON's readers take the last value of such a key; the first one is not left in the file."
    (tmp_path / "a.jsonl").write_text('{"text": "alice@example.com", "text": "y"}\n{"text": "kept  as it is",   "n": 1}\n')
    scrub_corpus(tmp_path / "a.jsonl", tmp_path / "out")
    assert (tmp_path / "out" / "a.jsonl").read_text() == '{"text": "y"}\n{"text": "kept  as it is",   "n": 1}\n'


def test_pseudonyms_tell_values_apart_and_know_their_spellings():
    ips = scrub(["host 23.1.12.3 up", "host 23.11.2.3 up"], pseudonyms=True, key="k").texts
    assert ips[0] != ips[1]
    one, other, third = scrub(["see 2a00:1450:4009:80b::2004 now", "see 2a00:1450:4009:080b:0:0:0:2004 now", "see 2a00:1450:4009:80b::2005 now"], pseudonyms=True, key="k").texts
    assert one == other != third and "IP_" in one
    spelt = scrub(["call (415) 555-0132 now", "call 415-555-0132 now"], pseudonyms=True, key="k").texts
    assert spelt[0] == spelt[1] and "PHONE_" in spelt[0]
    accounts = scrub(["to DE89 3704 0044 0532 0130 00", "to de89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000"], pseudonyms=True, key="k").texts
    cards = scrub(["by 4111-1111-1111-1111", "by 4111\u20111111\u20111111\u20111111"], pseudonyms=True, key="k").texts
    assert accounts[0] == accounts[1] and "IBAN_" in accounts[0] and cards[0] == cards[1] and "CARD_" in cards[0]


def test_models_that_read_in_both_directions_are_refused(tokenizer):
    from transformers import BertConfig, BertLMHeadModel
    sizes = dict(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=32)
    both = BertLMHeadModel(BertConfig(**sizes))
    for call in (lambda: train_privately(both, tokenizer, TEXTS, batch_size=8, device="cpu"), lambda: exposure(both, tokenizer, [Canary("a ", "12")]), lambda: extract(both, tokenizer, [Canary("a ", "12")])):
        with pytest.raises(ValueError, match="both directions"):
            call()
    decoder = BertLMHeadModel(BertConfig(**sizes, is_decoder=True))
    assert exposure(decoder, tokenizer, [Canary("a ", "12")])[0].rank >= 1


@pytest.mark.parametrize("kind", ["CpmAnt", "XLNet"])
def test_causal_by_name_and_not_by_reading(tokenizer, kind):
    import transformers
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, dim_head=8, dim_ff=16) if kind == "CpmAnt" else dict(d_model=16, n_layer=1, n_head=2, d_inner=16)
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **sizes)
    with pytest.raises(ValueError, match="sees (the token that|what) it is to predict"):
        exposure(transformers.AutoModelForCausalLM.from_config(config), tokenizer, [Canary("a ", "12")])


def test_losses_are_those_of_steps_and_the_seed_is_told(tokenizer):
    for microbatch in (3, 64):
        run = train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=math.inf, steps=4, batch_size=12, microbatch=microbatch, device="cpu", seed=3)
        assert len(run.losses) == run.steps == 4 and all(0 < loss < 10 for loss in run.losses)
    unknown = [train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=5, steps=2, batch_size=8, device="cpu", accountant="rdp") for _ in range(2)]
    assert not torch.equal(unknown[0].model.lm_head.weight, unknown[1].model.lm_head.weight) and "seed" not in repr(unknown[0])
    known = train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=np.int64(5), steps=2, batch_size=8, device="cpu", accountant="rdp", seed=1)
    assert "do not know the seed" in repr(known)


def test_texts_without_a_token_and_texts_too_long(tokenizer):
    model = tiny(tokenizer).eval()
    long = "the dog " * 40
    assert sentence_log_likelihoods(model, tokenizer, []).shape == (0,)
    alone = sentence_log_likelihoods(model, tokenizer, ["the dog"])
    assert sentence_log_likelihoods(model, tokenizer, ["", "the dog", ""]) == pytest.approx([0, alone[0], 0])
    with pytest.raises(ValueError, match="positions"):
        sentence_log_likelihoods(model, tokenizer, [long])


def test_exposure_far_in_the_tail_is_a_number(remembering, tokenizer, monkeypatch):
    model, canary = remembering
    from scipy import stats
    monkeypatch.setattr(stats.skewnorm, "fit", lambda costs: (4.06, 50.1, 0.05))
    found = exposure(model, tokenizer, [canary], exact_limit=10, samples=50)[0]
    assert math.isfinite(found.exposure) and found.exposure > 100
    for wrong, says in ((dict(samples=0), "samples 0"), (dict(canaries=[Canary("a ", "xy")]), "alphabet"), (dict(canaries=[Canary("a ", "")]), "alphabet")):
        with pytest.raises(ValueError, match=says):
            exposure(model, tokenizer, wrong.pop("canaries", [canary]), exact_limit=10, **wrong)


def test_extraction_does_not_depend_on_the_mode(remembering, tokenizer):
    model, canary = remembering
    noisy = tiny(tokenizer, attn_pdrop=0.9, resid_pdrop=0.9, embd_pdrop=0.9)
    noisy.load_state_dict(model.state_dict())
    assert [e.greedy for e in extract(noisy.train(), tokenizer, [canary], samples=0)] == [e.greedy for e in extract(model, tokenizer, [canary], samples=0)] and noisy.training


def test_the_ratio_to_compressed_bytes_is_that_of_the_whole_text(remembering, tokenizer):
    import zlib
    from lmnotes.perplexity import perplexity
    model, texts = remembering[0], ["the old dog", "the red cat sees the house", "a child", "the tall tree"]
    found = membership_inference(model, tokenizer, texts[:2], texts[2:], reference="zlib", device="cpu")
    values = perplexity(model, texts, tokenizer, device="cpu", progress=False).log_likelihoods
    assert found.scores == pytest.approx([v / len(zlib.compress(t.encode())) for v, t in zip(values, texts)])


def test_a_copy_can_be_scrubbed_again_and_a_spreadsheet_named_by_its_column(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.csv").write_bytes("\ufeff\"text\",n\r\nmail a@example.org,1\r\n".encode())
    scrub_corpus(tmp_path / "in", tmp_path / "once", kinds=("phone",), text_column="text")
    assert scrub_corpus(tmp_path / "once", tmp_path / "twice", text_column="text").counts == {"email": 1}
    assert (tmp_path / "twice" / "x.csv").read_bytes() == "\ufeff\"text\",n\r\nmail [EMAIL],1\r\n".encode()
    (tmp_path / "in" / "result.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="result.json"):
        scrub_corpus(tmp_path / "in", tmp_path / "other")


def test_findings_of_another_kind_are_named():
    with pytest.raises(ValueError, match="'person'"):
        score_findings([[]], [[Finding("person", 0, 1, "a")]])


@pytest.mark.parametrize("before, after", [
    ('name;text\n"Müller";"Hallo, schreib an a.b@example.com"\n', 'name;text\n"Müller";"Hallo, schreib an [EMAIL]"\n'),
    ('text\tnote\r\n"x, ""y""; a@example.org"\t 1 \r\nplain\t5" pipe b@example.org', 'text\tnote\r\n"x, ""y""; [EMAIL]"\t 1 \r\nplain\t5" pipe [EMAIL]'),
    ('text,note (a; b)\n"a\nb",a@example.org\n\n,""\n', 'text,note (a; b)\n"a\nb",[EMAIL]\n\n,""\n'),
    ('\ufeff"a;b";"c, d"\r\nx;"see, a@example.org"\r\n', '\ufeff"a;b";"c, d"\r\nx;"see, [EMAIL]"\r\n'),
    ('text\none, two; three\n"a@example.org, b"\n', 'text\none, two; three\n"[EMAIL], b"\n'),
    ('a,b\n"x"y,a@example.org\r\n', 'a,b\nxy,[EMAIL]\r\n'), ("", ""), ("a;b\n", "a;b\n"),
])
def test_csv_stays_as_it_is_written(tmp_path, before, after):
    for name in ("a.csv", "b.csv.gz"):
        (tmp_path / name).write_bytes((gzip.compress if name.endswith("gz") else bytes)(before.encode()))
        scrub_corpus(tmp_path / name, tmp_path / "out", overwrite=True)
        found = (tmp_path / "out" / name).read_bytes()
        assert (gzip.decompress if name.endswith("gz") else bytes)(found).decode() == after


def test_csv_by_column_and_sign(tmp_path):
    (tmp_path / "a.csv").write_text("text;note\na@example.org;b@example.org\n", encoding="utf-16")
    scrub_corpus(tmp_path / "a.csv", tmp_path / "out", text_column="note", encoding="utf-16")
    assert (tmp_path / "out" / "a.csv").read_text(encoding="utf-16") == "text;note\na@example.org;[EMAIL]\n"
    (tmp_path / "b.csv").write_text("a;b,c\n1;2,3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"b\.csv has ',' and ';' in its header, .*put the cells .* into quotes"):
        scrub_corpus(tmp_path / "b.csv", tmp_path / "no")
    assert not (tmp_path / "no").exists()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["", "x", 'q"q', "a, b; c\td", "two\nlines", "a@example.org", 'say "a@example.org", then', " y "]), min_size=2, max_size=2), max_size=5),
       st.sampled_from(",;\t"), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(["\n", "\r\n"]))
def test_csv_of_any_form(rows, sign, quoting, end):
    source, target, want = (io.StringIO(newline="") for _ in range(3))
    csv.writer(source, delimiter=sign, quoting=quoting, lineterminator=end).writerows([["one", "two"], *rows])
    csv.writer(want, delimiter=sign, quoting=quoting, lineterminator=end).writerows([["one", "two"], *([cell.replace("a@example.org", "[EMAIL]") for cell in row] for row in rows)])
    privacy._scrub_csv(source, target, privacy._Scrubber(("email",), ("US",), False, None, None))
    assert target.getvalue() == want.getvalue()


def test_encodings_and_sources_of_scrubbing_are_refused_first(tmp_path):
    (tmp_path / "de.txt").write_text("Grüße an a@example.org\n", encoding="utf-8")
    for encoding in ("nope", "base64", ""):
        with pytest.raises(ValueError, match=f"^encoding '{encoding}' is not known to Python: use for example 'utf-8'"):
            scrub_corpus(tmp_path / "de.txt", tmp_path / "out", encoding=encoding)
    with pytest.raises(ValueError, match=r"de\.txt is not utf-16: name its encoding"):
        scrub_corpus(tmp_path / "de.txt", tmp_path / "out", encoding="utf-16")
    for source in ("", "  "):
        with pytest.raises(ValueError, match=f"^source '{source}' is empty: name a file or folder"):
            scrub_corpus(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["<td>{}</td>", '<td class="a">\n  {}</td>', "-> {}", "=> {}", "> {}", "mx <{}>", "mx <{}:25> ready", "<{}> 250 OK", "<b><i>{}", "<br/>{}", "<!-- host -->{}"])
def test_addresses_in_tags_brackets_and_behind_arrows_are_found(text):
    for address in ("93.184.216.34", "2606:4700:4700::1111")[:2 - (":25" in text)]:
        assert [f.text for f in find_personal_data(text.format(address))] == [address]


@pytest.mark.parametrize("text", ["numpy<2.0.0.1", "numpy <2.0.0.1", "numpy >1.0.0.1,<2.0.0.1", "numpy>1.0.0.1<2.0.0.1", "numpy<2.0.0.1>1.0.0.1", "numpy[all] > 8.0.0.1", "Requires-Dist: numpy (>8.0.0.1)", 'numpy = ">8.0.0.1"',
                                  "numpy  >= 8.0.0.1", "numpy >1.0.0.1 <2.0.0.1", "<version>8.0.0.1</version>", "<numpy.version>8.0.0.1<", '<td class="version">8.0.0.1</td>'])
def test_signs_of_requirements_say_version(text):
    assert find_personal_data(text) == []


def _as_kinds(values):
    "The same names in every form that can be walked through."
    import pandas
    return [iter(values), (v for v in values), np.array(values), pandas.Series(values), set(values), dict.fromkeys(values)]


def test_kinds_and_regions_are_asked_for_each_text(tmp_path):
    text, clean = "Write to anna@example.org or call (212) 555-2345", "Write to [EMAIL] or call [PHONE]"
    for kinds, regions in zip(_as_kinds(["phone", "email"]), _as_kinds(["GB", "US"])):
        assert scrub([text] * 2, kinds=kinds, regions=regions).texts == (clean, clean)
    for kinds, regions in zip(_as_kinds(["phone", "email"]), _as_kinds(["GB", "US"])):
        assert [f.kind for f in find_personal_data(text, kinds=kinds, regions=regions)] == ["email", "phone"]
    (tmp_path / "a.txt").write_text(text)
    report = scrub_corpus(tmp_path / "a.txt", tmp_path / "out", kinds=(k for k in privacy.KINDS if k != "url"), regions=iter(("US",)))
    assert report.counts == {"email": 1, "phone": 1} and (tmp_path / "out" / "a.txt").read_text() == clean
    for wrong in (dict(kinds=iter(())), dict(kinds=np.array(["mail"])), dict(regions=iter(["UK"])), dict(regions="US")):
        with pytest.raises(ValueError, match="kind|region"):
            find_personal_data(text, **wrong)


def test_names_of_columns_and_letters_are_no_texts(tokenizer):
    import pandas
    from datasets import Dataset, DatasetDict
    rows, model = {"text": ["the old dog", "a@example.org"]}, tiny(tokenizer).eval()
    table, data = pandas.DataFrame(rows), Dataset.from_dict(rows)
    for call in (scrub, lambda texts: sentence_log_likelihoods(model, tokenizer, texts)):
        for wrong in (rows, table, DatasetDict(train=data), b"a@example.org", None):
            with pytest.raises(TypeError, match=rf"^texts is a {type(wrong).__name__}: give a list of texts, .*\.tolist\(\) for a table"):
                call(wrong)
        with pytest.raises(TypeError, match=r"^texts: item 0 is of type dict, no text: give texts, data\['text'\]"):
            call(data)
    with pytest.raises(TypeError, match=r"^texts is one text: give a list of texts, \[text\] for a single text"):
        sentence_log_likelihoods(model, tokenizer, "the old dog")
    assert scrub("a@example.org").texts == ("[EMAIL]",)
    for texts in (table["text"], data["text"], iter(rows["text"]), np.array(rows["text"])):
        assert scrub(texts).texts == ("the old dog", "[EMAIL]")


def test_canaries_may_come_one_by_one(remembering, tokenizer):
    model, canary = remembering
    assert exposure(model, tokenizer, iter([canary])) == exposure(model, tokenizer, [canary]) != []
    assert extract(model, tokenizer, iter([canary]), samples=0) == extract(model, tokenizer, [canary], samples=0) != []


def test_results_of_attacks_are_equal_to_themselves_only():
    one, other = (privacy.MembershipResult("loss", np.array([1.0, 0.0, 1.0]), 1) for _ in range(2))
    assert one == one and one != other and len({one, other}) == 2


def other_architecture(name, rows):
    "A tiny causal model that says nothing of its positions, or says it in another way."
    from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM, MptConfig, MptForCausalLM
    torch.manual_seed(0)
    ends = dict(vocab_size=rows, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    return {"bloom": lambda: BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, **ends)),
            "mamba": lambda: MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=4, **ends)),
            "mpt": lambda: MptForCausalLM(MptConfig(d_model=16, n_layers=1, n_heads=2, max_seq_len=48, **ends))}[name]()


@pytest.mark.parametrize("name", ["bloom", "mamba", "mpt"])
def test_models_that_do_not_tell_their_positions(name, tokenizer):
    model, canary = other_architecture(name, len(tokenizer)), Canary("code Q is ", "42")
    assert exposure(model, tokenizer, [canary])[0].method == "exact" and extract(model, tokenizer, [canary], samples=1)[0].samples == 1
    train = lambda: train_privately(model, tokenizer, TEXTS, steps=1, batch_size=4, accountant="rdp", seed=0)
    if name == "bloom":
        for call in (train, lambda: per_sample_gradients(model, torch.tensor([[1, 2, 3]]))):
            with pytest.raises(ValueError, match="model of type 'bloom' .* choose another architecture"):
                call()
    else:
        assert train().steps == 1
    if name == "mpt":
        with pytest.raises(ValueError, match="and a block 48"):
            exposure(model, tokenizer, [Canary("code " * 50, "42")])


def test_looking_whether_a_model_can_be_trained_draws_nothing(tokenizer):
    model = tiny(tokenizer, resid_pdrop=0.5).train()
    torch.manual_seed(3)
    per_sample_gradients(model, torch.tensor([[1, 2, 3, 4]]))
    after = torch.rand(1)
    torch.manual_seed(3)
    with privacy._vectorisable(model):
        torch.func.vmap(torch.func.grad(lambda p, row: privacy._text_loss(model, p, row)), in_dims=(None, 0), randomness="different")({n: p.detach() for n, p in model.named_parameters()}, torch.tensor([[1, 2, 3, 4]]))
    assert torch.equal(after, torch.rand(1))


def test_a_tokenizer_of_another_model_is_refused_before_the_noise_is_sought(tokenizer, monkeypatch):
    model, canary = other_architecture("mpt", 60), Canary("code Q is ", "42")
    monkeypatch.setattr(privacy, "_noise", lambda *some: pytest.fail("sought"))
    for call in (lambda: exposure(model, tokenizer, [canary]), lambda: extract(model, tokenizer, [canary]), lambda: train_privately(model, tokenizer, TEXTS, batch_size=4)):
        with pytest.raises(ValueError, match="the tokenizer gives id .* and the model's embedding has 60 rows: it is not the model's tokenizer"):
            call()


def test_an_epsilon_that_prv_does_not_reach_is_refused_at_once(tokenizer):
    with pytest.raises(ValueError, match="epsilon 1000 is above 100.*accountant='rdp'"):
        train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=1000, steps=2, batch_size=4)
    assert train_privately(tiny(tokenizer), tokenizer, TEXTS, epsilon=1000, steps=2, batch_size=4, accountant="rdp").epsilon <= 1000


def test_arguments_of_another_kind(tokenizer):
    model, canary = tiny(tokenizer), Canary("code Q is ", "42")
    for samples in (-1, 2.5, True):
        with pytest.raises(ValueError, match=f"samples {samples} must be a whole number"):
            extract(model, tokenizer, [canary], samples=samples)
    for changes, needle in ((dict(delta="1e-5"), "delta '1e-5' must lie"), (dict(seed=2**64), "seed 18446744073709551616 must be")):
        with pytest.raises(ValueError, match=needle):
            train_privately(model, tokenizer, TEXTS, batch_size=4, **changes)
    for call, needle in ((lambda: train_privately(model, tokenizer, [1, 2, 3]), "corpus holds a int at place 0"), (lambda: plant_canaries(["a", 1]), "at place 1"),
                         (lambda: exposure(model, tokenizer, ["42"]), "canaries hold a str"), (lambda: train_privately(model, tokenizer, TEXTS, options={"steps": 3}), "options is a dict")):
        with pytest.raises(TypeError, match=needle):
            call()
    assert exposure(model, tokenizer, canary) == exposure(model, tokenizer, [canary])


def test_rows_of_json_behind_a_mark_and_texts_of_another_encoding(tmp_path):
    rows = '\ufeff{"text": "mail a@example.org"}\r\n{"n": 1}\n'.encode()
    (tmp_path / "x.jsonl").write_bytes(rows)
    assert scrub_corpus(tmp_path / "x.jsonl", tmp_path / "out").counts == {"email": 1}
    assert (tmp_path / "out" / "x.jsonl").read_bytes() == '\ufeff{"text": "mail [EMAIL]"}\n{"n": 1}\n'.encode()
    (tmp_path / "de.txt").write_text("Grüße an a@example.org\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"de\.txt is not utf-8: byte 2 cannot be read; .*\(--encoding latin-1\)"):
        scrub_corpus(tmp_path / "de.txt", tmp_path / "other")
    (tmp_path / "u.txt").write_text("Grüße", encoding="utf-16")
    with pytest.raises(ValueError, match=r"u\.txt is not utf-8: .*\(--encoding utf-16\)"):
        scrub_corpus(tmp_path / "u.txt", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("text, names", [("Mr. Smith's car", ["Smith"]), ("Prof. Dr. Hans Müller came", ["Hans Müller"]), ("Frau Dr. Merkel", ["Merkel"]), ("Sincerely,\r\nJohn Smith", ["John Smith"]),
                                         ("Kind regards,\n\nJohn Smith", ["John Smith"]), ("Thanks\n\nHowever it is", []), ("def f(name: Optional[str] = None, g: int = 1):", []), ("def g(name: Path)", []), ("name: Anna", ["Anna"]),
                                         ("Name: Anna | Tel", ["Anna"]), ("the owner (name: Anna)", ["Anna"])])
def test_names_with_endings_titles_and_closings(text, names):
    assert [f.text for f in find_personal_data(text, kinds=["name"])] == names


@pytest.mark.parametrize("text, found", [("connect to host 2001:4860:4860::8888: refused", ["2001:4860:4860::8888"]), ("8.8.8.8-8.8.4.4", ["8.8.8.8", "8.8.4.4"]), ("8.8.8.8-9", []),
                                         ("# 2.0    2021-12-31  Drop", []), ("## [7.1] - 2015-04-14", []), ("2001-07-19 9.7", []), ("43.5503 5.1568", []), ("call 415-555-2671", ["415-555-2671"])])
def test_addresses_before_signs_and_dates_beside_versions(text, found):
    assert [f.text for f in find_personal_data(text, kinds=["ip", "phone"])] == found


def test_the_name_of_a_field_tells_what_a_value_is(tmp_path):
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    row = {"token": "1990s-era", "access_token": "hunter2abc1", "password": "hunter2abc1", "phone": "4155552671", "mobile_no": 4155552671, "text": "4155552671", "number": 4155552671, "user": {"tel": ["4155552671"]}}
    (source / "a.jsonl").write_text(json.dumps(row) + "\n")
    (source / "b.csv").write_text("password,phone,number\nhunter2abc1,4155552671,4155552671\n")
    pq.write_table(pa.table({"phone": ["4155552671"], "number": ["4155552671"]}), source / "c.parquet")
    scrub_corpus(source, target)
    assert json.loads((target / "a.jsonl").read_text()) == {"token": "1990s-era", "access_token": "[SECRET]", "password": "[SECRET]", "phone": "[PHONE]", "mobile_no": "[PHONE]", "text": "4155552671", "number": 4155552671, "user": {"tel": ["[PHONE]"]}}
    assert (target / "b.csv").read_text() == "password,phone,number\n[SECRET],[PHONE],4155552671\n"
    assert pq.read_table(target / "c.parquet").to_pylist() == [{"phone": "[PHONE]", "number": "4155552671"}]
