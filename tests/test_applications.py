"""Predictions against transformers' own pipelines and forward passes; files, faults and resuming; explanations, errors, dialogue."""
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (BertConfig, BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel,
                          PreTrainedTokenizerFast, pipeline)

from lmnotes import applications as app
from lmnotes import cli
from lmnotes.applications import (Dialogue, LabelPrediction, PredictionOptions, converse, explain, predict, predict_file, worst_errors)
from lmnotes.checkpoints import load, save

transformers.logging.set_verbosity_error()
WORDS = "the a soup bread was is good bad cold hot very not and in paris rome new york on monday what when who where opens closes at five six".split()
LABELS = ["complaint", "praise", "question"]


def wordpiece():
    "A tokenizer of a few words, their letters, and marks."
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{c}" for c in letters), *".,?!"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", model_max_length=32)


def bert(kind, names=None, **more):
    "A random BERT whose answers vary."
    torch.manual_seed(0)
    tokenizer = wordpiece()
    head = {} if names is None else {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=32, initializer_range=0.6, **head, **more)
    return kind(config).eval(), tokenizer


def byte_level():
    "A tokenizer of bytes, with an end of text."
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({**{letter: n for n, letter in enumerate(alphabet)}, "<end>": 256}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<end>"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", bos_token="<end>")


@pytest.fixture(scope="module")
def classifier():
    return bert(BertForSequenceClassification, LABELS, problem_type="single_label_classification")


@pytest.fixture(scope="module")
def tagger():
    return bert(BertForTokenClassification, ["O", "B-CITY", "I-CITY", "B-DAY"])


@pytest.fixture(scope="module")
def answerer():
    return bert(BertForQuestionAnswering)


@pytest.fixture(scope="module")
def writer():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=256, eos_token_id=256, initializer_range=0.5)).eval(), byte_level()


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "classifier"
    save(*classifier, path)
    return path


def sentences(count, seed=0, longest=12):
    "Sentences of uneven length."
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, longest))) + " ." for _ in range(count)]


# --- one call -------------------------------------------------------------------------------------------------------

def test_labels_are_the_pipelines(classifier, folder):
    texts = sentences(60)
    theirs = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)(texts)
    ours = predict(folder, texts, batch_tokens=64)
    for rows, p, text in zip(theirs, ours, texts):
        assert p.text == text and p.label == rows[0]["label"] and p.confidence == pytest.approx(rows[0]["score"], abs=1e-5)
        assert p.probabilities == pytest.approx({r["label"]: r["score"] for r in rows}, abs=1e-5) and list(p.probabilities) == LABELS
    assert len({p.label for p in ours}) > 1
    one = predict(classifier, texts[7])
    assert one.label == ours[7].label and one.confidence == pytest.approx(ours[7].confidence, abs=1e-5)
    assert predict(classifier, []) == [] and [p.label for p in predict(classifier, iter(texts[:3]))] == [p.label for p in ours[:3]]


def test_several_labels_and_numbers_are_the_pipelines(tmp_path):
    texts = sentences(20)
    several = bert(BertForSequenceClassification, LABELS, problem_type="multi_label_classification")
    save(*several, tmp_path / "several")
    theirs = pipeline("text-classification", model=str(tmp_path / "several"), device="cpu", top_k=None)(texts)
    for rows, p in zip(theirs, predict(several, texts, threshold=0.3)):
        assert p.probabilities == pytest.approx({r["label"]: r["score"] for r in rows}, abs=1e-5)
        assert set(p.labels) == {r["label"] for r in rows if r["score"] >= 0.3}
    number = bert(BertForSequenceClassification, ["LABEL_0"], problem_type="regression")
    save(*number, tmp_path / "number")
    theirs = pipeline("text-classification", model=str(tmp_path / "number"), device="cpu")(texts)
    assert [p.value for p in predict(number, texts)] == pytest.approx([r["score"] for r in theirs], abs=1e-4)


def test_pairs(classifier):
    model, tokenizer = classifier
    pairs = [("the soup was cold", "what"), ("a", "who was in paris and rome"), ("very good", "not bad")]
    for p, pair in zip(predict(classifier, pairs), pairs):
        expected = model(**tokenizer(*pair, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        assert list(p.probabilities.values()) == pytest.approx(expected, abs=1e-5) and p.text == pair
    alone = predict(classifier, {"text": "very good", "text_pair": "not bad"})
    assert alone.probabilities == pytest.approx(predict(classifier, pairs)[2].probabilities, abs=1e-5)
    with pytest.raises(ValueError, match="some inputs are pairs"):
        predict(classifier, [("a", "b"), "c"])
    with pytest.raises(ValueError, match="input 0: an input has 3 texts"):
        predict(classifier, [("a", "b", "c")])


def test_a_causal_classifier_without_padding_token():
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=1, n_head=2, num_labels=2, initializer_range=0.5)).eval()
    texts, tokenizer = ["a", "the soup", "the soup was cold"], byte_level()
    expected = [model(**tokenizer(t, return_tensors="pt")).logits.softmax(-1)[0].tolist() for t in texts]
    assert [list(p.probabilities.values()) for p in predict((model, tokenizer), texts)] == [pytest.approx(row, abs=1e-5) for row in expected]
    assert predict((model, tokenizer), texts[0]).label in ("LABEL_0", "LABEL_1")


def test_tags_are_the_pipelines(tagger, tmp_path):
    save(*tagger, tmp_path / "tagger")
    pipe = pipeline("token-classification", model=str(tmp_path / "tagger"), aggregation_strategy="first", device="cpu")
    found = 0
    for text in sentences(30):
        theirs, ours = pipe(text), predict(tagger, text)
        assert [(e.label, e.start, e.end) for e in ours.entities] == [(e["entity_group"], e["start"], e["end"]) for e in theirs]
        assert [e.confidence for e in ours.entities] == pytest.approx([e["score"] for e in theirs], abs=1e-5)
        assert all(text[e.start:e.end] == e.text for e in ours.entities + ours.words)
        found += len(theirs)
    assert found > 10


def test_words_given_and_long_texts(tagger):
    words = "the soup , in New-York !".split()
    got = predict(tagger, [words])[0]
    assert [w.text for w in got.words] == words and got.text == " ".join(words)
    assert got.words == predict(tagger, tuple(words)).words == predict(tagger, {"tokens": words}).words
    long = predict(tagger, " ".join(sentences(20)))
    assert len(long.words) > 64 and all(0 < w.confidence <= 1 for w in long.words)
    with pytest.raises(ValueError, match="list of words is empty"):
        predict(tagger, [[]])


def test_words_by_another_pattern(tagger):
    assert [w.text for w in predict(tagger, "soup.bread, a", word_pattern=r"[\w.]+").words] == ["soup.bread", "a"]


@pytest.mark.parametrize("text, words", [("हिन्दी भाषा में लिखा", 4), ("Jose\u0301 Garci\u0301a", 2), ("مَرْحَبًا بِالعالم", 2), ("so\u00adft می\u200cخواهم ❤\ufe0f", 3)])
def test_marks_stay_with_their_letters(tagger, text, words):
    "UTS 18, annex C: a mark is a part of its word; Python's `re` cuts there."
    assert [w.text for w in predict(tagger, text).words] == text.split() and len(text.split()) == words


def test_words_without_marks_are_cut_as_ever(tagger):
    text = "It's 3,5 % (x² + a_b)!  Größe—naïve;\x1c \x1f\t文字 и слово…"
    assert [w.text for w in predict(tagger, text).words] == re.findall(r"\w+|[^\w\s]", text)


def test_a_question_that_is_not_read_whole_says_so(answerer, tmp_path, caplog):
    context = "soup in the city " * 4
    long, short = "the " * 100 + "city", "the city"
    found = predict(answerer, [(long, context), (short, context)])
    assert [a.cut for a in found] == [True, False] and "question not read whole" in repr(found[0]) and "not read whole" not in repr(found[1]) and "question not read whole" in found[0]._repr_html_()
    assert "1 of 2 questions are longer than the" in caplog.text
    save(*answerer, tmp_path / "m")
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"question": q, "context": context}) + "\n" for q in (long, short)))
    report = predict_file(tmp_path / "m", tmp_path / "q.jsonl", tmp_path / "out.jsonl", progress=False)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert report.cut == 1 and "1 not read whole" in repr(report) and rows[0]["cut"] is True and "cut" not in rows[1]


@pytest.mark.parametrize("choice, models", [({"threshold": 0.9}, "models of several labels"), ({"word_pattern": "x"}, "models that label words"), ({"stride": 3}, "models that label words or answer questions"),
                                            ({"n_best": 3}, "models that answer questions"), ({"max_answer_length": 2}, "models that answer questions"), ({"no_answer_threshold": 0.0}, "models that answer questions")])
def test_choices_of_another_family_are_refused(classifier, tagger, answerer, writer, folder, tmp_path, choice, models):
    name, value = next(iter(choice.items()))
    fits = {"models of several labels": (), "models that label words": (tagger,), "models that label words or answer questions": (tagger, answerer), "models that answer questions": (answerer,)}[models]
    for model, given in ((classifier, "soup"), (tagger, "x soup"), (answerer, ("who", "the soup")), (writer, "soup")):
        if any(model is one for one in fits):
            predict(model, given, **choice)
        else:
            with pytest.raises(ValueError, match=f"^{name} {value} is for {models}, and this one is for .*: leave it out$"):
                predict(model, given, **choice)
    (tmp_path / "a.txt").write_text("soup\n")
    if not any(classifier is one for one in fits):
        with pytest.raises(ValueError, match=f"{name} {value} is for"):
            predict_file(folder, tmp_path / "a.txt", tmp_path / "out.jsonl", progress=False, **choice)
        assert not (tmp_path / "out.jsonl").exists()


def test_the_models_own_threshold():
    model, tokenizer = bert(BertForSequenceClassification, ["ham", "spam"], problem_type="single_label_classification")
    texts = sentences(30)
    before = predict((model, tokenizer), texts)
    model.config.decision_threshold, model.config.decision_label = 0.1, 1
    after = predict((model, tokenizer), texts)
    assert [p.label for p in after] == ["spam" if p.probabilities["spam"] >= 0.1 else "ham" for p in before] != [p.label for p in before]
    assert all(p.confidence == p.probabilities[p.label] for p in after)


def test_tags_without_beginnings():
    got = predict(bert(BertForTokenClassification, ["NOUN", "VERB"]), "the soup was cold")
    assert got.entities == got.words and [w.text for w in got.words] == "the soup was cold".split()


def test_answers(answerer):
    model, tokenizer = answerer
    question, context = "when opens", "the soup opens at five and closes at six ."
    got = predict(answerer, (question, context), n_best=3)
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets, output = encoded.pop("offset_mapping")[0].tolist(), model(**encoded)
    inside = [i for i, part in enumerate(encoded.sequence_ids(0)) if part == 1]
    first, last = output.start_logits[0], output.end_logits[0]
    best = max(((first[i] + last[j]).item(), offsets[i][0], offsets[j][1]) for i in inside for j in inside if j >= i)
    assert (got.start, got.end) == best[1:] and got.answer == context[got.start:got.end] and got.candidates[0].score == pytest.approx(best[0], abs=1e-4)
    assert len(got.candidates) == 3 and got.confidence == got.candidates[0].probability
    assert predict(answerer, question, context=context) == predict(answerer, {"question": question, "context": context})
    many = predict(answerer, [question, "who"], context=context)
    assert [m.question for m in many] == [question, "who"] and many[0].answer == got.answer
    assert predict(answerer, question, context=" ".join(sentences(30))).answer


@pytest.mark.parametrize("changes", [dict(temperature=1.5, top_k=3), dict(temperature=2.0, top_p=0.3), dict(num_beams=3, length_penalty=-2.0), dict(no_repeat_ngram_size=1)])
def test_decoding_is_passed_on(writer, changes):
    from lmnotes.generation import generate_texts
    sources = ["the soup", "a"]
    found = [t.text for t in predict(writer, sources, max_new_tokens=12, **changes)]
    assert found == generate_texts(*writer, sources, max_new_tokens=12, progress=False, **changes) != generate_texts(*writer, sources, max_new_tokens=12, progress=False)


@pytest.mark.parametrize("changes, says", [
    (dict(top_k=0, temperature=1.0), "top_k 0 must be 1 or more"), (dict(top_p=1.5, temperature=1.0), "top_p 1.5 must lie in"), (dict(top_k=5), "temperature 0 does not sample"),
    (dict(length_penalty=float("nan")), "length_penalty nan"), (dict(no_repeat_ngram_size=-1), "no_repeat_ngram_size -1"), (dict(num_beams=2, temperature=1.0), "choose num_beams=1 or temperature=0")])
def test_decoding_refused(writer, changes, says):
    with pytest.raises(ValueError, match=says):
        predict(writer, "the soup", **changes)


def test_written_texts(writer):
    model, tokenizer = writer
    sources = ["the soup", "a"]
    for source, got in zip(sources, predict(writer, sources, max_new_tokens=8)):
        ids = tokenizer(source, return_tensors="pt")
        expected = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=256)[0, ids.input_ids.shape[1]:]
        assert (got.source, got.text) == (source, tokenizer.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def test_a_cut_text_says_so(classifier):
    model, tokenizer = classifier
    texts = ["soup " * 29 + "was", "soup " * 30 + "was", "soup"]
    got = predict(classifier, texts)
    assert [p.cut for p in got] == [False, True, False] and "end not read" in repr(got[1])
    assert [p.cut for p in predict(classifier, texts, max_length=8)] == [True, True, False]
    expected = model(**tokenizer(texts[1], truncation=True, max_length=32, return_tensors="pt")).logits.softmax(-1)[0].tolist()
    assert list(got[1].probabilities.values()) == pytest.approx(expected, abs=1e-5)


def test_the_model_is_left_as_it_was(classifier):
    model = classifier[0].train()
    predict(classifier, "the soup"), explain(classifier, "the soup", method="gradient")
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()


@pytest.mark.parametrize("text, says", [("", "the text is empty"), (" \n", "the text is empty"), (3, "not a text"), (None, "not a text"), ("a\udcff", "not UTF-8")])
def test_texts_that_are_none(classifier, text, says):
    with pytest.raises(ValueError, match=f"input 1: .*{says}"):
        predict(classifier, ["soup", text])


def test_wrong_models_and_inputs(classifier, answerer, tagger, writer, tmp_path):
    with pytest.raises(ValueError, match="has no context"):
        predict(answerer, "who")
    with pytest.raises(ValueError, match="the context is empty"):
        predict(answerer, ("who", " "))
    with pytest.raises(ValueError, match="'question' is missing: the keys are q, context"):
        predict(answerer, [{"q": "who", "context": "soup"}])
    with pytest.raises(ValueError, match="context is for a model that answers questions"):
        predict(classifier, "soup", context="bread")
    with pytest.raises(ValueError, match="BertForMaskedLM.*fine-tune"):
        predict(bert(BertForMaskedLM), "soup")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        predict(tmp_path / "nowhere", "soup")
    with pytest.raises(TypeError, match="model is Ber"):
        predict(classifier[0], "soup")
    with pytest.raises(ValueError, match="batch_tokens 0"):
        predict(classifier, "soup", batch_tokens=0)
    for seed in (-1, 1.5, 2**32):
        with pytest.raises(ValueError, match=f"seed {seed} must be a whole number from 0"):
            predict(writer, "soup", seed=seed)
    with pytest.raises(ValueError, match="word_pattern '\\['"):
        predict(tagger, "soup", word_pattern="[")
    for pattern in ("", r"\w*"):
        with pytest.raises(ValueError, match="word_pattern .* finds words without letters"):
            predict(tagger, "soup", word_pattern=pattern)
    assert [w.text for w in predict(tagger, "a soup", word_pattern=r"\b|soup").words] == ["soup"]
    with pytest.raises(ValueError, match="the text 'soup' has no word that word_pattern '\\[0-9\\]\\+' finds"):
        explain(tagger, "soup", word_pattern="[0-9]+")
    for value in (float("nan"), float("-inf")):
        with pytest.raises(ValueError, match=f"no_answer_threshold {value} must be a finite number"):
            predict(answerer, "who", context="soup", no_answer_threshold=value)
    with pytest.raises(ValueError, match="threshold 2"):
        predict(classifier, "soup", threshold=2)


def test_results_are_shown_and_frozen(classifier, tagger, answerer):
    for got in (predict(classifier, "soup <b>"), predict(tagger, "soup <b> in paris"), predict(answerer, ("who <b>", "soup <b> in paris"))):
        assert "&lt;" in got._repr_html_() and got._repr_html_().count("<b>") <= 1 and ("soup" in repr(got) or "who" in repr(got))
        with pytest.raises(FrozenInstanceError):
            got.text = "other"


def test_a_fine_tuned_folder_gives_the_answers_of_its_test(tmp_path):
    from datasets import Dataset, DatasetDict

    from lmnotes.finetuning import finetune
    save(*bert(BertForMaskedLM), tmp_path / "pretrained")
    texts = sentences(60)
    rows = {"text": texts, "label": ["cold" if "cold" in t or "bad" in t else "warm" for t in texts]}
    data = DatasetDict({"train": Dataset.from_dict(rows).select(range(40)), "validation": Dataset.from_dict(rows).select(range(20)), "test": Dataset.from_dict(rows).select(range(40, 60))})
    result = finetune(tmp_path / "pretrained", data, output_dir=tmp_path / "tuned", epochs=1, max_length=32, device="cpu")
    found = predict(result.output_dir, texts[40:])
    assert [p.label for p in found] == [result.labels[i] for i in result.predictions]
    assert worst_errors(result, texts=texts[40:]).errors == sum(a != b for a, b in zip(result.predictions, result.references))
    assert predict_file(result.output_dir, _lines(tmp_path / "a.txt", texts), tmp_path / "out.jsonl", progress=False).errors == 0


def test_blank_words_are_asked_about_as_they_were_learned_from(tmp_path):
    from datasets import Dataset, DatasetDict

    from lmnotes.finetuning import finetune
    save(*bert(BertForMaskedLM), tmp_path / "pretrained")
    rows = [["soup", ("", "\u00a0", "paris")[i % 3], text.split()[0]] for i, text in enumerate(sentences(60))] + [[""], ["\u00a0", " "]]
    given = lambda part: Dataset.from_dict({"tokens": part, "tags": [["B-A" if word == "paris" else "O" for word in row] for row in part]})
    data = DatasetDict({"train": given(rows[:40]), "test": given(rows[40:])})
    result = finetune(tmp_path / "pretrained", data, output_dir=tmp_path / "tuned", epochs=1, max_length=32, device="cpu")
    asked = rows[40:]
    found = predict(result.output_dir, asked)
    assert [tuple(word.label for word in p.words) for p in found] == [tuple(row) for row in result.predictions] and [[word.text for word in p.words] for p in found] == asked
    assert worst_errors(result, texts=asked).errors == sum(tuple(a) != tuple(b) for a, b in zip(result.predictions, result.references))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"tokens": row}) + "\n" for row in asked))
    assert predict_file(result.output_dir, tmp_path / "a.jsonl", tmp_path / "out.jsonl", progress=False).errors == 0
    assert explain(result.output_dir, ["soup", "\u00a0", ""], word=1).label == "O of '\\xa0'" and predict(result.output_dir, [["soup", ""]])[0]._repr_html_()
    for wrong, says in (([], "list of words is empty"), (["soup", None], "the word is NoneType, not a text"), (["\ud800"], "the word is not UTF-8")):
        with pytest.raises(ValueError, match=says):
            predict(result.output_dir, [wrong])


def _lines(path, texts):
    "A file of texts."
    path.write_text("\n".join(texts))
    return path


# --- files ----------------------------------------------------------------------------------------------------------

def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(app, "_CHUNKS", dict.fromkeys(app._CHUNKS, 8))


def test_files_of_all_kinds_say_the_same(folder, classifier, tmp_path, small_chunks):
    texts = sentences(30)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode())
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(texts)))
    (tmp_path / "a.tsv").write_text("remark\tid\n" + "".join(f"{t}\t{i}\n" for i, t in enumerate(texts)))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t} if i % 2 else t) + "\n" for i, t in enumerate(texts)))
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "a.json")
    expected = predict(classifier, texts)
    for name in ("a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json"):
        report = predict_file(folder, tmp_path / name, tmp_path / "out" / f"{name}.jsonl", text_column="remark" if name.endswith("tsv") else None, progress=False)
        rows = read(tmp_path / "out" / f"{name}.jsonl")
        assert (report.rows, report.errors, report.resumed) == (30, 0, 0) and [r["row"] for r in rows] == list(range(1, 31))
        assert [r["label"] for r in rows] == [p.label for p in expected] and [r["confidence"] for r in rows] == pytest.approx([p.confidence for p in expected], abs=1e-5)
    assert len({(tmp_path / "out" / f"{n}.jsonl").read_bytes() for n in ("a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json")}) == 1
    assert not list((tmp_path / "out").glob("*.part*"))


def test_numbers_are_the_texts_that_training_makes_of_them(classifier, answerer, tmp_path):
    expected = predict(classifier, ["5", "1.5", "True"])
    assert [p.probabilities for p in predict(classifier, [{"text": v} for v in (5.0, 1.5, True)])] == [p.probabilities for p in expected]
    (tmp_path / "a.jsonl").write_text('{"text": 5}\n{"text": 1.5}\n{"text": true}\n')
    predict_file(classifier, tmp_path / "a.jsonl", tmp_path / "a.out", progress=False)
    assert [row["confidence"] for row in read(tmp_path / "a.out")] == pytest.approx([p.confidence for p in expected], abs=1e-5)
    assert predict(answerer, {"question": 5, "context": "the soup"}).question == "5"
    with pytest.raises(ValueError, match="not a text"):
        predict(classifier, {"text": float("nan")})


def test_a_json_list_is_read_as_lines_are(folder, tmp_path):
    texts = sentences(12)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts) + '"soup"\n3\n')
    (tmp_path / "a.json").write_text("\ufeff\n" + json.dumps([*({"text": t} for t in texts), "soup", 3], indent=1), encoding="utf-8")
    reports = [predict_file(folder, tmp_path / name, tmp_path / f"{name}.out", progress=False) for name in ("a.jsonl", "a.json")]
    assert [(r.rows, r.errors) for r in reports] == [(14, 1), (14, 1)]
    assert (tmp_path / "a.jsonl.out").read_bytes() == (tmp_path / "a.json.out").read_bytes()
    (tmp_path / "b.json").write_text('[{"text": "soup"},')
    with pytest.raises(ValueError, match="b.json' is no JSON list .*mend it"):
        predict_file(folder, tmp_path / "b.json", tmp_path / "b.out", progress=False)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_of_squads_nested_form_is_laid_flat(answerer, classifier, tmp_path, indent):
    asked = [("when", "the soup opens at five ."), ("who", "the soup opens at five ."), ("what", "bread is in rome")]
    questions = [{"id": str(i), "question": q, "answers": [{"text": "the", "answer_start": 0}] * (i == 0), "is_impossible": i > 0} for i, (q, _) in enumerate(asked)]
    parts = [{"context": asked[0][1], "qas": questions[:2]}, {"context": asked[2][1], "qas": questions[2:]}]
    (tmp_path / "a.json").write_text(json.dumps({"version": "v2.0", "data": [{"title": "a", "paragraphs": parts}]}, indent=indent))
    report = predict_file(answerer, tmp_path / "a.json", tmp_path / "a.out", progress=False)
    assert (report.rows, report.errors) == (3, 0) and [row["answer"] for row in read(tmp_path / "a.out")] == [p.answer for p in predict(answerer, asked)]
    with pytest.raises(ValueError, match="the columns are id, question, context, answers"):
        predict_file(classifier, tmp_path / "a.json", tmp_path / "b.out", progress=False)
    (tmp_path / "b.json").write_text('{"question": "when", "context": "the \\"paragraphs\\""\n' + "".join(json.dumps({"question": q, "context": c, "paragraphs": 1}) + "\n" for q, c in asked))
    report = predict_file(answerer, tmp_path / "b.json", tmp_path / "b.out", progress=False)
    assert (report.rows, report.error_rows) == (4, (1,))


def test_a_file_without_a_readable_row_is_an_error(folder, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("[1]\nnot json\n")
    (tmp_path / "b.csv").write_text("text\n\"\"\n\" \"\n")
    (tmp_path / "c.jsonl.gz").write_bytes(b"\x1f\x8b")
    for name, says in (("a.jsonl", "has no row that can be read; the first: the row is list"), ("c.jsonl.gz", "is packed: unpack it first"), ("b.csv", "none of its 2 rows")):
        assert cli.execute(cli.COMMANDS, ["predict", str(folder), str(tmp_path / name), "--output", str(tmp_path / "out")]) == 2
        assert says in capsys.readouterr().err and (tmp_path / "out").exists() == (name == "b.csv")


def test_bad_rows_are_reported(folder, tmp_path):
    (tmp_path / "a.csv").write_bytes(b'text,id\n"two\nlines",1\n,2\nsoup\ncaf\xe9,4\n"' + b"x" * 200_000 + b'",5\nbread,6\n\nsoup,8\n')
    report = predict_file(folder, tmp_path / "a.csv", tmp_path / "a.out", progress=False)
    errors = {r["row"]: r["error"] for r in read(tmp_path / "a.out") if "error" in r}
    assert report.rows - report.errors == 4 and report.errors == len(errors) and report.error_rows == (2, 3, 4) and "2, 3, 4" in repr(report)
    assert "empty" in errors[2] and "1 field, and the header 2" in errors[3] and "UTF-8" in errors[4]
    (tmp_path / "b.jsonl").write_text('{"text": "soup"}\n{"text": 3}\nnot json\n\n[1]\n{"other": 1}\n{"text": null}\n' + "[" * 100_000 + '\n{"text": "bread"}')
    report = predict_file(folder, tmp_path / "b.jsonl", tmp_path / "b.out", progress=False)
    assert (report.rows, report.errors) == (9, 6) and "label" in read(tmp_path / "b.out")[-1]


def test_a_first_row_without_the_column_is_one_bad_row(folder, tmp_path):
    for rows, bad in (('{"id": 1}\n{"text": "soup"}\n{"text": "bread"}\n', (1,)), ('{"text": "a"}\n{"text": "soup", "text_pair": "bread"}\n{"text_pair": "a", "text": "the"}\n', (1,))):
        (tmp_path / "a.jsonl").write_text(rows)
        assert predict_file(folder, tmp_path / "a.jsonl", tmp_path / "a.out", progress=False, overwrite=True).error_rows == bad
    assert read(tmp_path / "a.out")[1]["probabilities"] != predict(folder, "soup").probabilities
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"other": 2}\n')
    with pytest.raises(ValueError, match="columns are id, other"):
        predict_file(folder, tmp_path / "a.jsonl", tmp_path / "b.out", progress=False)


def test_a_row_that_brings_the_model_to_fall(folder, tmp_path, monkeypatch):
    real = app.predict_logits

    def fall(model, tokenizer, texts, *rest):
        if any("bad" in text for text in texts):
            raise RuntimeError("not enough memory")
        return real(model, tokenizer, texts, *rest)
    monkeypatch.setattr(app, "predict_logits", fall)
    (tmp_path / "a.txt").write_text("soup\nbad\nbread\n")
    report = predict_file(folder, tmp_path / "a.txt", tmp_path / "a.jsonl", progress=False)
    assert report.error_rows == (2,) and [("label" in r) for r in read(tmp_path / "a.jsonl")] == [True, False, True]


def test_other_families_in_files(tagger, answerer, writer, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps({"tokens": ["the", "soup"]}) + "\n" + json.dumps({"tokens": "the soup"}) + "\n")
    predict_file(tagger, tmp_path / "a.jsonl", tmp_path / "tags.jsonl", progress=False)
    rows = read(tmp_path / "tags.jsonl")
    assert set(rows[0]) == {"row", "entities"} and rows[0]["entities"] == rows[1]["entities"]
    (tmp_path / "w.csv").write_text("tokens,tags\nthe  u.s. 's soup,O O O O\n\"['new york', 'soup']\",O O\n")
    words = [[text[a:b] for a, b in places] for text, places in app._records(app._Lines(tmp_path / "w.csv"), "tokens", PredictionOptions(), None)]
    assert words == [["the", "u.s.", "'s", "soup"], ["new york", "soup"]]                      # cut as `load_task` cuts them
    assert [w.text for w in predict(tagger, {"tokens": "the u.s."}).words] == ["the", "u.s."] and len(predict(tagger, "the u.s.").words) == 5
    (tmp_path / "b.csv").write_text("context,question\nthe soup was cold,what was cold\n")
    predict_file(answerer, tmp_path / "b.csv", tmp_path / "answers.jsonl", progress=False)
    row, = read(tmp_path / "answers.jsonl")
    assert "the soup was cold"[row["start"]:row["end"]] == row["answer"] and len(row["candidates"]) <= 5
    (tmp_path / "c.txt").write_text("the soup\n")
    predict_file(writer, tmp_path / "c.txt", max_new_tokens=5, progress=False)
    assert set(json.loads(capsys.readouterr().out)) == {"row", "text"}
    with pytest.raises(ValueError, match="no column question and context.*columns are text"):
        predict_file(answerer, tmp_path / "c.txt", tmp_path / "none.jsonl")


@pytest.mark.parametrize("family, columns, says", [("answerer", "question", "question names 1 column, and a model for question-answering reads two, .*text_column=.'question', 'context'."),
                                                   ("folder", ["question", "context", "text"], "names 3 columns, and a model for classification reads one, or the two of a pair"),
                                                   ("tagger", ["text", "context"], "text, context names 2 columns, and a model for tokens reads one")])
def test_as_many_columns_as_the_model_reads_before_anything_is_written(family, columns, says, request, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "who ?", "context": "the cook .", "text": "soup"}))
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(ValueError, match=says):
        predict_file(request.getfixturevalue(family), tmp_path / "a.jsonl", out, columns, overwrite=True, progress=False)
    assert out.read_text() == "mine"


def test_wrong_files(folder, tmp_path):
    (tmp_path / "a.csv").write_text("id,remark\n1,soup\n")
    (tmp_path / "b.txt").write_bytes("soup".encode("utf-16"))
    out = tmp_path / "out.jsonl"
    for file, error, says, options in (("no.csv", FileNotFoundError, "no.csv", {}), ("a.csv", ValueError, "columns are id, remark", {}), ("b.txt", ValueError, "UTF-16", {}),
                                       ("a.csv", ValueError, "text_column 'review' is not there: the columns are id, remark", {"text_column": "review"})):
        with pytest.raises(error, match=says):
            predict_file(folder, tmp_path / file, out, **options)
    (tmp_path / "c.csv").write_bytes(b"text,label\rgood,1\rbad,0\r")
    (tmp_path / "d.csv").write_text('"text\n' + "a b c\n" * 30000)
    (tmp_path / "e.parquet").write_bytes(b"PAR1")
    for file, says in (("c.csv", "the header cannot be read"), ("d.csv", "close the quotation mark"), ("e.parquet", "save it as CSV, TSV or JSON Lines")):
        with pytest.raises(ValueError, match=says) as error:
            predict_file(folder, tmp_path / file, out)
        assert len(str(error.value)) < 1000
    with pytest.raises(IsADirectoryError, match="is a folder"):
        predict_file(folder, tmp_path / "a.csv", tmp_path)
    with pytest.raises(ValueError, match="is the file to read"):
        predict_file(folder, tmp_path / "a.csv", tmp_path / "a.csv", overwrite=True)
    assert not list(tmp_path.glob("out*")) and (tmp_path / "a.csv").read_text() == "id,remark\n1,soup\n"
    (tmp_path / "empty.txt").write_text("")
    assert predict_file(folder, tmp_path / "empty.txt", out, progress=False).rows == 0 and out.read_bytes() == b""


def test_files_that_no_run_left_stay(classifier, folder, tmp_path, capsys):
    "The file to read may stand where the lines are gathered, and so may a stranger's."
    (tmp_path / "z.jsonl.part").write_text('{"text": "soup"}\n')
    with pytest.raises(ValueError, match="output .*z.jsonl' would overwrite .*z.jsonl.part', which is the file to read: name another"):
        predict_file(classifier, tmp_path / "z.jsonl.part", tmp_path / "z.jsonl", overwrite=True, progress=False)
    (tmp_path / "a.txt").write_text("soup\n")
    for name, content, says in (("b.part", "my words\n", "b.part' is there without 'b.part.json'.*may be yours"), ("c.part.json", '{"mine": 1}', "c.part.json' is no note of a run"),
                                ("e.part.json", "mine", "e.part.json' is no note of a run")):
        (tmp_path / "e.part").write_text("my words\n")
        (tmp_path / name).write_text(content)
        with pytest.raises(FileExistsError, match=says):
            predict_file(classifier, tmp_path / "a.txt", tmp_path / name[0], overwrite=True, progress=False)
        assert (tmp_path / name).read_text() == content and not (tmp_path / name[0]).exists()
    (tmp_path / "d.part.json").write_text('{"model": "a')                     # a run was stopped while it wrote its note
    assert predict_file(classifier, tmp_path / "a.txt", tmp_path / "d", progress=False).rows == 1 and not (tmp_path / "d.part.json").exists()
    for model, file in ((tmp_path / "nowhere", "a.txt"), (folder, "none.txt")):
        with pytest.raises(FileNotFoundError):
            predict_file(model, tmp_path / file, tmp_path / "new" / "deep" / "out.jsonl", progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("stop", [False, True])
def test_sampling_over_a_file_does_not_depend_on_its_chunks(writer, tmp_path, monkeypatch, small_chunks, stop):
    "Equal prompts get other texts in every chunk, those of one call; also where a run goes on."
    prompts = ["so"] * 20 + ["", "a", "so", "a"]
    expected = [p.text for p in predict(writer, [p for p in prompts if p], temperature=1.0, max_new_tokens=6)]
    file, out = _lines(tmp_path / "a.txt", prompts), tmp_path / "out.jsonl"
    if stop:
        real, calls = app._survived, []
        with monkeypatch.context() as patch:
            patch.setattr(app, "_survived", lambda *rest: calls.append(1) or (real(*rest) if len(calls) < 3 else (_ for _ in ()).throw(KeyboardInterrupt)))
            with pytest.raises(KeyboardInterrupt, match="holds 16 rows"):
                predict_file(writer, file, out, temperature=1.0, max_new_tokens=6, progress=False)
    predict_file(writer, file, out, temperature=1.0, max_new_tokens=6, progress=False)
    assert [row["text"] for row in read(out) if "text" in row] == expected and len(set(expected)) > 20


@pytest.fixture
def stopped(folder, tmp_path, small_chunks, monkeypatch):
    "A file, the output of an undisturbed run, and a part of a run that Ctrl-C stopped."
    file, whole, out = tmp_path / "a.txt", tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    texts = sentences(50)
    texts[11] = ""
    file.write_text("\n".join(texts))
    predict_file(folder, file, whole, progress=False)
    real, calls = app._survived, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)
    monkeypatch.setattr(app, "_survived", interrupted)
    with pytest.raises(KeyboardInterrupt, match="out.jsonl.part holds 24 rows; the same command"):
        predict_file(folder, file, out, progress=False)
    monkeypatch.setattr(app, "_survived", real)
    assert not out.exists()
    return file, whole.read_bytes(), out


def test_a_pair_of_columns_goes_on_too(folder, tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("x,y\nsoup,bread\n")
    with monkeypatch.context() as patch:
        patch.setattr(app, "_survived", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict_file(folder, tmp_path / "a.csv", tmp_path / "a.out", text_column=("x", "y"), progress=False)
    assert predict_file(folder, tmp_path / "a.csv", tmp_path / "a.out", text_column=("x", "y"), progress=False).errors == 0


@pytest.mark.parametrize("keep", ["all", "half a line", "in a chunk", "half a character", "zeros", "nothing", "no file"])
def test_a_stopped_run_goes_on(folder, stopped, keep):
    file, whole, out = stopped
    part = out.with_name("out.jsonl.part")
    lines = part.read_bytes().splitlines(keepends=True)
    assert b"".join(lines) == b"".join(whole.splitlines(keepends=True)[:24])
    left = {"all": b"".join(lines), "half a line": b"".join(lines[:20]) + lines[20][:9], "in a chunk": b"".join(lines[:13]), "half a character": b"".join(lines[:2]) + b'{"row": 3, "\xc3',
            "zeros": b"".join(lines[:5]) + b"\0" * 40, "nothing": b"", "no file": b""}[keep]
    part.write_bytes(left) if keep != "no file" else part.unlink()
    moved = shutil.copytree(folder, out.parent / "moved")
    report = predict_file(moved, file, out, progress=False)
    assert out.read_bytes() == whole and report.resumed == {"all": 24, "half a line": 20, "in a chunk": 13, "half a character": 2, "zeros": 5}.get(keep, 0)
    assert (report.rows, report.error_rows) == (50, (12,)) and not list(out.parent.glob("*.part*"))


def test_another_run_is_not_gone_on_with(folder, stopped, tmp_path):
    file, whole, out = stopped
    other = tmp_path / "other"
    model, tokenizer = load(folder)
    with torch.no_grad():
        model.classifier.bias += 1
    save(model, tokenizer, other)
    for call, says in ((lambda: predict_file(other, file, out), "another model"), (lambda: predict_file(folder, file, out, max_length=8), "other options")):
        with pytest.raises(FileExistsError, match=says):
            call()
    text = file.read_bytes()
    file.write_bytes(text + b"\nsoup")
    with pytest.raises(FileExistsError, match="another file"):
        predict_file(folder, file, out)
    file.write_bytes(text)
    report = predict_file(other, file, out, overwrite=True, progress=False)
    assert report.resumed == 0 and report.rows == 50
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match="earlier predictions"):
        predict_file(folder, file, out)
    assert out.read_bytes() == before != whole
    predict_file(folder, file, out, overwrite=True, progress=False)
    assert out.read_bytes() == whole


def test_the_file_is_read_in_parts(folder, tmp_path, small_chunks):
    (tmp_path / "a.txt").write_text("soup\n" * 200_000)
    lines = app._Lines(tmp_path / "a.txt")
    first = next(app._output_lines(app._opened(folder), lines, PredictionOptions(), None, progress=False))
    assert len(first) == 8 and lines.read < 1000


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_command_goes_on(folder, tmp_path):
    file, out = tmp_path / "a.txt", tmp_path / "out.jsonl"
    file.write_text("\n".join(sentences(6000)))
    code = ("import sys, time; from lmnotes import cli, applications as app; app._CHUNKS['classification'] = 100; real = app._survived\n"
            "def slow(*a):\n    time.sleep(float(sys.argv[1])); return real(*a)\napp._survived = slow; sys.exit(cli.main(sys.argv[2:]))")
    words = [sys.executable, "-c", code, "0.05", "predict", str(folder), str(file), "--output", str(out)]
    process, part = subprocess.Popen(words, stderr=subprocess.PIPE), tmp_path / "out.jsonl.part"
    end = time.time() + 120
    while not (part.exists() and part.stat().st_size > 0) and time.time() < end and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert part.exists() and not out.exists()
    words[3] = "0"
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and "from an earlier run" in done.stdout, done.stderr
    words[-1] = str(tmp_path / "whole.jsonl")
    assert subprocess.run(words, capture_output=True).returncode == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


# --- explanations and errors ----------------------------------------------------------------------------------------

def test_occlusion_is_another_question(classifier):
    model, tokenizer = classifier
    got = explain(classifier, "the soup was coldy .", batch_tokens=16)
    ids = tokenizer("the soup was coldy .")["input_ids"]
    at = LABELS.index(got.label)
    share = lambda row: model(input_ids=torch.tensor([row])).logits.softmax(-1)[0, at].item()
    expected = [share(ids) - share(ids[:i] + ids[i + 1:]) for i in range(1, len(ids) - 1)]
    assert [t[3] for t in got.tokens] == pytest.approx(expected, abs=1e-5) and got.value == pytest.approx(share(ids), abs=1e-5)
    assert [t[0] for t in got.tokens] == ["the", "soup", "was", "cold", "y", "."] and "soup" in got._repr_html_()
    assert explain(classifier, "the soup", label="question").label == "question"


def test_gradient_is_a_slope(classifier):
    model, tokenizer = classifier
    got = explain(classifier, "the soup was cold", method="gradient", label="praise")
    vectors = model.get_input_embeddings()(tokenizer("the soup was cold", return_tensors="pt").input_ids).detach().double()
    twin = bert(BertForSequenceClassification, LABELS)[0].double().eval()
    twin.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    for i, (*_, value) in enumerate(got.tokens, 1):
        step = torch.zeros_like(vectors)
        step[0, i] = vectors[0, i] * 1e-6
        with torch.no_grad():
            slope = (twin(inputs_embeds=vectors + step).logits - twin(inputs_embeds=vectors - step).logits)[0, 1] / 2e-6
        assert value == pytest.approx(slope.item(), abs=1e-3, rel=1e-3)


def test_explanations_refused(classifier, tagger, answerer, writer):
    with pytest.raises(ValueError, match="label 'anger' is not one of the model's: complaint, praise, question"):
        explain(classifier, "soup", label="anger")
    with pytest.raises(ValueError, match="method 'lime'"):
        explain(classifier, "soup", method="lime")
    with pytest.raises(ValueError, match="the text is empty"):
        explain(classifier, "")
    with pytest.raises(ValueError, match="word is for a model that tags words"):
        explain(classifier, "soup", word="soup")
    with pytest.raises(ValueError, match="word 'tea' is not one of the text's: soup, bread"):
        explain(tagger, "soup bread", word="tea")
    with pytest.raises(ValueError, match="word 2 must lie between 0 and 1"):
        explain(tagger, "soup bread", word=2)
    with pytest.raises(ValueError, match="label 'ANGER' is not one of the model's: O, B-CITY"):
        explain(tagger, "soup bread", label="ANGER")
    with pytest.raises(ValueError, match="label 'tea' does not stand in the context"):
        explain(answerer, ("who", "soup in paris"), label="tea")
    with pytest.raises(ValueError, match="has no context"):
        explain(answerer, "who")
    with pytest.raises(ValueError, match="more tokens than the 64"):
        explain(writer, "soup " * 40, label="bread")


def shares(logits, place, at):
    "A probability at one place."
    return logits[0, place].softmax(-1)[at].item()


def test_a_tag_is_explained_with_the_mask_in_place(tagger):
    model, tokenizer = tagger
    got = explain(tagger, "in coldy paris", word="coldy", label="B-DAY")
    ids = tokenizer("in coldy paris")["input_ids"]
    hidden = [ids[:i] + [tokenizer.mask_token_id] + ids[i + 1:] for i in range(1, len(ids) - 1)]
    p = [shares(model(input_ids=torch.tensor([row])).logits, 2, 3) for row in (ids, *hidden)]
    assert got.label == "B-DAY of 'coldy'" and got.value == pytest.approx(p[0], abs=1e-5)
    assert [t[0] for t in got.tokens] == ["in", "cold", "y", "paris"] and [t[3] for t in got.tokens] == pytest.approx([p[0] - q for q in p[1:]], abs=1e-5)
    assert all(got.text[a:b] == token for token, a, b, _ in got.tokens) and "coldy" not in got._repr_html_().replace("of &#x27;coldy", "")
    words = [w for w in predict(tagger, "in coldy paris").words]
    surest = max(words, key=lambda w: (w.label != "O", w.confidence))
    assert explain(tagger, ["in", "coldy", "paris"]).label == f"{surest.label} of {surest.text!r}"
    long = explain(tagger, " ".join(["soup"] * 60 + ["paris"]), word="paris", max_length=16, stride=4)          # in the window where the word stands
    assert long.tokens[-1][0] == "paris" and len(long.tokens) <= 14


def test_a_tag_is_read_as_the_tagger_reads_it():
    "Also by a tokenizer that marks the beginnings of words by a blank, and in windows."
    from transformers import GPT2ForTokenClassification
    torch.manual_seed(0)
    pair = GPT2ForTokenClassification(GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=256, eos_token_id=256, initializer_range=0.5, num_labels=3)).eval(), byte_level()
    words = "in cold paris on monday at six".split()
    for choices in ({}, {"max_length": 12, "stride": 4}):
        for i, tagged in enumerate(predict(pair, [words], **choices)[0].words):
            got = explain(pair, words, word=i, **choices)
            assert got.value == pytest.approx(tagged.confidence, abs=1e-5) and got.label == f"{tagged.label} of {words[i]!r}"
            assert all(got.text[a:b] == token for token, a, b, _ in got.tokens)
    assert "".join(t[0] for t in explain(pair, words, word=2).tokens) == " ".join(words)


def test_an_answer_is_explained_by_question_and_context(answerer):
    model, tokenizer = answerer
    got = explain(answerer, ("who", "soup in paris on monday"), label="paris on")
    ids = tokenizer("who", "soup in paris on monday")["input_ids"]                               # [CLS] who [SEP] soup in paris on monday [SEP]

    def both(row):
        out = model(input_ids=torch.tensor([row]))
        return (out.start_logits.softmax(-1)[0, 5] * out.end_logits.softmax(-1)[0, 6]).item()
    expected = [both(ids) - both(ids[:i] + [tokenizer.mask_token_id] + ids[i + 1:]) for i in (1, 3, 4, 5, 6, 7)]
    assert got.text == "who\nsoup in paris on monday" and [t[0] for t in got.tokens] == ["who", "soup", "in", "paris", "on", "monday"]
    assert [t[3] for t in got.tokens] == pytest.approx(expected, abs=1e-5) and got.value == pytest.approx(both(ids), abs=1e-5)
    best = predict(answerer, ("who", "soup in paris on monday"))
    assert explain(answerer, "who", context="soup in paris on monday").label == best.answer
    blanks = explain(answerer, ("  who", "soup in paris on monday"), label="paris on")                    # read as the answerer reads it
    assert blanks.value == pytest.approx(got.value, abs=1e-6) and [t[0] for t in blanks.tokens] == [t[0] for t in got.tokens] == [blanks.text[a:b] for _, a, b, _ in blanks.tokens]
    long = explain(answerer, ("who " * 60, "soup in paris on monday"), label="paris")             # of a question that is too long a half is read
    assert "paris" in [t[0] for t in long.tokens] and len(long.tokens) < 32
    far = explain(answerer, ("who", " ".join(["soup"] * 60 + ["rome"])), label="rome")            # in the window that holds it
    assert far.tokens[-1][0] == "rome" and far.text[slice(*far.tokens[-1][1:3])] == "rome"


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_what_is_written_is_explained_by_its_source(writer, family):
    from transformers import BartConfig, BartForConditionalGeneration
    tokenizer = byte_level()
    torch.manual_seed(0)
    model = writer[0] if family == "causal" else BartForConditionalGeneration(BartConfig(vocab_size=257, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, init_std=0.5, pad_token_id=256, bos_token_id=256, eos_token_id=256,
                decoder_start_token_id=256, forced_eos_token_id=None)).eval()
    source, target = tokenizer("soup")["input_ids"], tokenizer("hot")["input_ids"] + [256]

    def likelihood(kept):
        kept = torch.tensor([kept if family == "causal" else [*kept, 256]])
        if family == "causal":
            logits = model(input_ids=torch.cat([kept, torch.tensor([target])], 1)).logits[0, kept.shape[1] - 1:-1]
        else:
            logits = model(input_ids=kept, decoder_input_ids=torch.tensor([[256, *target[:-1]]])).logits[0]
        return logits.log_softmax(-1)[range(len(target)), target].sum().item()
    got = explain((model, tokenizer), "soup", label="hot", batch_tokens=12)
    assert got.value == pytest.approx(likelihood(source), abs=1e-4) and [t[0] for t in got.tokens] == list("soup")
    assert [t[3] for t in got.tokens] == pytest.approx([likelihood(source) - likelihood(source[:i] + source[i + 1:]) for i in range(4)], abs=1e-4)
    assert len(explain((model, tokenizer), "soup", label="hot", method="gradient").tokens) == 4
    assert got.label == "hot" and explain((model, tokenizer), "soup", max_new_tokens=4).label == predict((model, tokenizer), "soup", max_new_tokens=4).text


def test_slopes_of_every_family(tagger, answerer, writer):
    "The gradient times the vector is what a small step along the vector changes."
    for pair, item, choice, score in (
            (tagger, "in paris", dict(word="paris", label="B-CITY"), lambda out: out.logits[0, 2, 1]),
            (answerer, ("who", "soup in paris"), dict(label="paris"), lambda out: out.start_logits[0, 5] + out.end_logits[0, 5]),
            (writer, "so", dict(label="up"), lambda out: out.logits[0, 1:4].log_softmax(-1)[range(3), [*pair[1]("up")["input_ids"], 256]].sum())):
        model, tokenizer = pair[0].double(), pair[1]
        try:
            got = explain(pair, item, method="gradient", **choice)
            ids = tokenizer(*(item if isinstance(item, tuple) else [item]), return_tensors="pt")
            ids = dict(ids) if pair is not writer else {"input_ids": torch.tensor([[*ids.input_ids[0].tolist(), *tokenizer("up")["input_ids"], 256]])}
            vectors = model.get_input_embeddings()(ids.pop("input_ids")).detach()
            ids.pop("attention_mask", None)
            places = [1, 2] if pair is tagger else [1, 3, 4, 5] if pair is answerer else [0, 1]
            for i, (*_, value) in zip(places, got.tokens, strict=True):
                step = torch.zeros_like(vectors)
                step[0, i] = vectors[0, i] * 1e-6
                with torch.no_grad():
                    slope = (score(model(inputs_embeds=vectors + step, **ids)) - score(model(inputs_embeds=vectors - step, **ids))) / 2e-6
                assert value == pytest.approx(slope.item(), abs=1e-5, rel=1e-4)
        finally:
            model.float()


def test_pairs_are_explained(classifier):
    model, tokenizer = classifier
    got = explain(classifier, ("hot soup", "cold bread"), label="praise")
    batch = tokenizer("hot soup", "cold bread", return_tensors="pt")
    assert got.value == pytest.approx(model(**batch).logits.softmax(-1)[0, 1].item(), abs=1e-5)
    assert [t[0] for t in got.tokens] == ["hot", "soup", "cold", "bread"] == [got.text[a:b] for _, a, b, _ in got.tokens]
    assert got._repr_html_().count("<span") == 4


def test_a_pair_is_explained_as_it_is_predicted():
    "A tokenizer without a separator gets its end of text between the two, which is no part of them."
    torch.manual_seed(0)
    pair = GPT2ForSequenceClassification(GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=1, n_head=2, num_labels=2, initializer_range=0.5)).eval(), byte_level()
    told = predict(pair, ("hot soup", "bread"))
    got = explain(pair, ("hot soup", "bread"))
    assert got.label == told.label and got.value == pytest.approx(told.confidence, abs=1e-5)
    assert [t[0] for t in got.tokens] == list("hot soupbread") == [got.text[a:b] for _, a, b, _ in got.tokens]
    without = predict(pair, ("hot soup", "read")).probabilities[told.label]
    assert got.tokens[8][3] == pytest.approx(told.confidence - without, abs=1e-5)


@pytest.mark.parametrize("kind", ["tokens", "label"])
def test_a_t5_is_explained_by_its_gradient(kind):
    "Its encoder does not call the embeddings that the model names."
    from transformers import T5Config, T5ForSequenceClassification, T5ForTokenClassification
    torch.manual_seed(0)
    tokenizer = wordpiece()
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2, num_labels=3, decoder_start_token_id=0, pad_token_id=0, eos_token_id=3)
    model = (T5ForTokenClassification if kind == "tokens" else T5ForSequenceClassification)(config).eval()
    got = explain((model, tokenizer), "hot soup", method="gradient")
    assert [t[0] for t in got.tokens] == ["hot", "soup"] and any(t[3] for t in got.tokens)
    assert not any(part._forward_hooks for part in model.modules())


def test_explains_numbers():
    model, tokenizer = bert(BertForSequenceClassification, ["LABEL_0"], problem_type="regression")
    got = explain((model, tokenizer), "the soup")
    assert got.label == "number" and got.value == pytest.approx(predict((model, tokenizer), "the soup").value, abs=1e-5)


def test_a_model_with_a_threshold_is_explained_by_what_it_answers():
    model, tokenizer = bert(BertForSequenceClassification, ["rare", "usual"], problem_type="single_label_classification")
    texts = ["the hot soup", "cold bread", "the bread was cold", "soup"]
    for threshold in (0.0, 1.01):
        model.config.decision_threshold, model.config.decision_label = threshold, 0
        said = ["rare" if threshold == 0 else "usual"] * 4
        assert [p.label for p in predict((model, tokenizer), texts)] == said == [explain((model, tokenizer), text).label for text in texts]
    number = bert(BertForSequenceClassification, ["LABEL_0"], problem_type="regression")
    with pytest.raises(ValueError, match="label 'rare' is not one of the model's, which gives a number"):
        explain(number, "the soup", label="rare")


def test_a_source_of_one_token_is_explained_beside_an_empty_prompt(writer):
    "Without its only token, the beginning of a text stands before what is written, so that as many tokens are scored."
    model, tokenizer = writer
    got = explain(writer, "a", label="bc")
    ids = tokenizer("bc")["input_ids"] + [tokenizer.eos_token_id]

    def score(first):
        with torch.no_grad():
            return model(torch.tensor([[first, *ids]])).logits[0, :-1].double().log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum().item()
    one = tokenizer("a")["input_ids"][0]
    assert got.value == pytest.approx(score(one), abs=1e-4) and got.tokens[0][3] == pytest.approx(score(one) - score(tokenizer.bos_token_id), abs=1e-4)


@pytest.mark.parametrize("output", ["a.out", None])
def test_a_choice_that_no_row_can_be_written_with_is_refused_before_anything_is(writer, tmp_path, capsys, output):
    (tmp_path / "a.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="max_new_tokens 64 leaves no room in the model's 64 positions"):
        predict_file(writer, tmp_path / "a.txt", output and tmp_path / output, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and not capsys.readouterr().out


@pytest.mark.parametrize("family", ["classifier", "writer"])
def test_what_is_cut_is_said_once_and_counted_at_the_end(family, request, tmp_path, small_chunks, monkeypatch, caplog, capsys):
    model, options = request.getfixturevalue(family), {"max_new_tokens": 2} if family == "writer" else {}
    (tmp_path / "a.txt").write_text("".join("soup " * (40 if i % 2 else 1) + f"{i % 10}\n" for i in range(40)))
    report, cut = predict_file(model, tmp_path / "a.txt", tmp_path / "a.out", progress=False, **options), [row.get("cut", False) for row in read(tmp_path / "a.out")]
    assert report.cut == sum(cut) == 20 and repr(report).endswith("40 rows; 40 predicted, 0 errors, 20 not read whole")
    assert len([r for r in caplog.records if "are longer than" in r.getMessage()]) == 1
    assert predict_file(model, tmp_path / "a.txt", progress=False, **options).cut == 20 and '"cut": true' in capsys.readouterr().out
    predict(model, ["soup " * 40], **options)                                  # what is asked later warns again
    assert len([r for r in caplog.records if "are longer than" in r.getMessage()]) == 3
    answers, calls = app._answers_of, []

    def stop(*rest):
        calls.append(rest)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answers(*rest)
    monkeypatch.setattr(app, "_answers_of", stop)
    with pytest.raises(KeyboardInterrupt):
        predict_file(model, tmp_path / "a.txt", tmp_path / "b.out", progress=False, **options)
    again = predict_file(model, tmp_path / "a.txt", tmp_path / "b.out", progress=False, **options)
    assert again.resumed and again.cut == 20


@pytest.mark.parametrize("choice", [{"num_beams": 4}, {"max_new_tokens": 5}, {"temperature": 0.7}, {"temperature": 1.0, "top_k": 3}, {"length_penalty": 2.0}, {"no_repeat_ngram_size": 2}])
def test_choices_of_what_is_written_are_refused_where_nothing_is(classifier, tagger, answerer, tmp_path, choice):
    (tmp_path / "a.txt").write_text("soup\n")
    says = f"{next(iter(choice))} {next(iter(choice.values()))} is for models that write texts, and this one is for "
    for ask in (lambda: predict(classifier, "soup", **choice), lambda: predict(tagger, "soup", **choice), lambda: predict(answerer, ("who", "soup"), **choice), lambda: explain(classifier, "soup", **choice),
                lambda: predict_file(classifier, tmp_path / "a.txt", tmp_path / "a.out", progress=False, **choice), lambda: Dialogue(answerer, "soup", options=PredictionOptions(**choice))):
        with pytest.raises(ValueError, match=says):
            ask()
    assert not (tmp_path / "a.out").exists()
    assert predict(classifier, "soup", num_beams=1, max_new_tokens=64).label                     # the defaults choose nothing


def test_a_source_that_is_not_read_whole_says_so(writer, tmp_path):
    long, short = predict(writer, ["a" * 90, "a"], max_new_tokens=4)
    assert long.cut and not short.cut and "not read whole" in repr(long) and "not read whole" in long._repr_html_() and "not read" not in repr(short)
    assert predict(writer, "abcdef", max_new_tokens=4, max_length=2).text == predict(writer, "ef", max_new_tokens=4).text
    (tmp_path / "a.txt").write_text("a" * 90 + "\nb\n")
    predict_file(writer, tmp_path / "a.txt", tmp_path / "a.out", max_new_tokens=4, progress=False)
    assert [json.loads(line).get("cut", False) for line in (tmp_path / "a.out").read_text().splitlines()] == [True, False]


def test_a_quotation_mark_that_stays_open_is_an_error_of_its_row(classifier, tmp_path):
    "It takes the rest of the file, and that is said, also where the field is the last one of its row."
    (tmp_path / "a.tsv").write_text('id\ttext\n1\tsoup\n2\t"bread was good\n3\tsoup\n4\tbread\n')
    predict_file(classifier, tmp_path / "a.tsv", tmp_path / "a.out", progress=False)
    first, second = (json.loads(line) for line in (tmp_path / "a.out").read_text().splitlines())
    assert first["label"] in LABELS and "takes this line and the 2 after it: close it" in second["error"]
    (tmp_path / "b.csv").write_text('text,id\n"two\nlines",1\nsoup 5" wide,2\n')
    predict_file(classifier, tmp_path / "b.csv", tmp_path / "b.out", progress=False)
    assert all("label" in json.loads(line) for line in (tmp_path / "b.out").read_text().splitlines())


def test_worst_errors(classifier, folder):
    texts = sentences(40)
    found = predict(classifier, texts)
    truth = [LABELS[i % 3] for i in range(40)]
    got = worst_errors(found, truth, count=5)
    losses = {i: -np.log(p.probabilities[t]) for i, (p, t) in enumerate(zip(found, truth)) if p.label != t}
    assert [r["number"] for r in got.rows] == sorted(losses, key=lambda i: -losses[i])[:5] and got.errors == len(losses)
    assert got.confusion.sum() == 40 and np.trace(got.confusion) == 40 - got.errors and got.labels == tuple(LABELS)
    assert worst_errors(found, [i % 3 for i in range(40)], count=5).rows == got.rows
    assert got.rows[0]["text"] in got._repr_html_() and "taken for" in repr(got)
    with pytest.raises(ValueError, match="labels anger, which the model does not know: it knows complaint, praise, question"):
        worst_errors(found, ["anger", *truth[1:]])
    with pytest.raises(ValueError, match="40 predictions and 39 references"):
        worst_errors(found, truth[1:])
    result = SimpleNamespace(output_dir=str(folder), references=tuple(i % 3 for i in range(40)))
    assert [r["number"] for r in worst_errors(result, count=5, texts=texts).rows] == [r["number"] for r in got.rows]
    with pytest.raises(ValueError, match="texts is missing"):
        worst_errors(result)
    with pytest.raises(ValueError, match="40 predictions and 0 references"):
        worst_errors(found)
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    assert got.plot().get_xlabel() == "predicted label"


def test_what_is_raised_for_model_and_output_is_documented(classifier, tmp_path):
    file = _lines(tmp_path / "a.txt", ["the soup was cold"])
    for call in (lambda: predict(3, "a"), lambda: explain(3, "a"), lambda: predict_file(3, file), lambda: Dialogue(3, "a")):
        with pytest.raises(TypeError, match="model is int: give a folder, a hub name, or the pair"):
            call()
    with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
        predict_file(classifier, file, tmp_path)
    assert all("TypeError" in f.__doc__.partition("Raises")[2] for f in (predict, explain, predict_file, Dialogue, converse)) and "IsADirectoryError" in predict_file.__doc__


def test_names_that_are_numbers_are_no_places():
    found = [LabelPrediction("a", label, 0.6, {"1": 0.2, "2": 0.6, "3": 0.2}) for label in "122"]
    named = worst_errors(found, ["1", "2", "1"])
    for truth in ([1, 2, 1], [1.0, 2.0, 1.0], list(np.array([1, 2, 1]))):
        got = worst_errors(found, truth)
        assert (got.confusion == named.confusion).all() and got.rows == named.rows and got.errors == 1
    with pytest.raises(ValueError, match="the labels 0, which the model does not know: it knows 1, 2, 3"):
        worst_errors(found, [0, 1, 2])
    truths = [LabelPrediction("a", "True", 0.6, {"False": 0.4, "True": 0.6})]
    assert worst_errors(truths, [True]).errors == worst_errors(truths, [np.bool_(True)]).errors == 0 and worst_errors(truths, [False]).errors == 1
    sets = [app.LabelsPrediction("a", ("2",), {"1": 0.1, "2": 0.9})]
    assert worst_errors(sets, [[2]]).errors == 0 and worst_errors(sets, [[1]]).rows[0]["true"] == "1"
    tags = [app.TaggedText("a", (), (app.Entity("1", "a", 0, 1, 0.9),))]
    assert worst_errors(tags, [[1]]).errors == 0


def test_the_references_of_a_result_are_places(tmp_path):
    model = bert(BertForSequenceClassification, ["1", "2", "3"], problem_type="single_label_classification")
    save(*model, tmp_path / "model")
    texts = sentences(12)
    told = [int(p.label) for p in predict(model, texts)]
    result = SimpleNamespace(output_dir=str(tmp_path / "model"), references=tuple(t - 1 for t in told))
    assert worst_errors(result, texts=texts).errors == worst_errors(result, told, texts=texts).errors == 0


def test_worst_errors_of_a_result_are_those_of_its_scores(tmp_path, caplog):
    from datasets import Dataset, DatasetDict

    from lmnotes.finetuning import finetune
    save(*bert(BertForMaskedLM), tmp_path / "pretrained")
    caplog.set_level("INFO", "lmnotes.finetuning")
    texts = sentences(60, longest=20)
    rows = {"text": texts, "label": ["cold" if "cold" in t or "bad" in t else "warm" for t in texts]}
    data = DatasetDict({"train": Dataset.from_dict(rows).select(range(40)), "test": Dataset.from_dict(rows).select(range(40, 60))})
    result = finetune(tmp_path / "pretrained", data, output_dir=tmp_path / "tuned", epochs=1, max_length=6, device="cpu", samples=0)
    lines = [r.getMessage() for r in caplog.records if "are not read" in r.getMessage()]
    long = [len(wordpiece()(t)["input_ids"]) > 6 for t in texts]
    assert len(lines) == 1 and lines[0].startswith(f"{sum(long[:40])} of 40 training and {sum(long[40:])} of 20 test texts have more than 6 tokens") and sum(long) > 20
    asked = worst_errors(result, texts=texts[40:], count=20)
    assert result.choices["max_length"] == 6 and {r["number"] for r in asked.rows} == {i for i, (a, b) in enumerate(zip(result.predictions, result.references)) if a != b}
    assert np.array_equal(asked.confusion, result.confusion())
    saved = json.loads((tmp_path / "tuned" / "lmnotes.json").read_text())
    assert saved["choices"]["max_length"] == 6
    words = {"tokens": [t.split() for t in texts], "tags": [["O" if w != "cold" else "B-COLD" for w in t.split()] for t in texts]}
    data = DatasetDict({"train": Dataset.from_dict(words).select(range(40)), "test": Dataset.from_dict(words).select(range(40, 60))})
    result = finetune(tmp_path / "pretrained", data, output_dir=tmp_path / "tagger", task="tokens", epochs=1, max_length=8, stride=1, device="cpu", samples=0)
    asked = worst_errors(result, texts=words["tokens"][40:])
    assert np.array_equal(asked.confusion, result.confusion()) and asked.labels == result.labels


def test_worst_errors_of_other_families(tagger, answerer, writer):
    tagged = predict(tagger, ["the soup", "in paris"])
    true = [[w.label for w in t.words] for t in tagged]
    assert worst_errors(tagged, true).errors == 0
    true[1][1] = "B-DAY" if true[1][1] != "B-DAY" else "O"
    assert [(r["number"], r["badness"]) for r in worst_errors(tagged, true).rows] == [(1, 0.5)]
    got = worst_errors(tagged, true)
    assert got.confusion.sum() == 4 and np.trace(got.confusion) == 3 and set(got.labels) == {t for row in true for t in row} | {w.label for t in tagged for w in t.words}
    with pytest.raises(ValueError, match="reference 0 has 1 tag, and its text 2 words"):
        worst_errors(tagged, [["O"], ["O", "O"]])
    answers = predict(answerer, ["who", "when"], context="the soup was cold")
    got = worst_errors(answers, [{"text": [answers[0].answer]}, "paris"])
    assert [(r["number"], r["badness"]) for r in got.rows] == [(1, 1.0)] and worst_errors(answers, [[], []]).errors == 2
    written = predict(writer, ["a"], max_new_tokens=4)
    assert worst_errors(written, [written[0].text]).errors == 0
    numbers = [app.NumberPrediction("a", 1.0), app.NumberPrediction("b", 2.0)]
    assert [r["badness"] for r in worst_errors(numbers, [1.5, 5.0]).rows] == [3.0, 0.5]
    with pytest.raises(ValueError, match="no confusion matrix"):
        worst_errors(numbers, [1.5, 5.0]).plot()
    missed = worst_errors(numbers, [1.0001, 5.0]), worst_errors(written, [written[0].text + " x"])         # numbers and texts nearly always differ a little
    assert [m.errors for m in missed] == [2, 1] and [repr(m).splitlines()[0] for m in missed] == ["the worst of 2 by difference", "the worst of 1 by 1 - chrF / 100"]
    assert not any("missed" in repr(m) + m._repr_html_() for m in missed) and "the worst of 2" in missed[0]._repr_html_()
    assert all(f"{m.errors} of 2 missed" in repr(m) and f"{m.errors} of 2 missed" in m._repr_html_() for m in (worst_errors(tagged, true), got))
    sets = [app.LabelsPrediction("a", ("x",), {"x": 0.9, "y": 0.2})]
    assert worst_errors(sets, [["x", "y"]]).rows[0]["badness"] == 1.0
    with pytest.raises(ValueError, match="labels z"):
        worst_errors(sets, [["z"]])


# --- dialogue and commands ------------------------------------------------------------------------------------------

def test_dialogue_remembers_what_fits(answerer):
    document = "the soup opens at five and closes at six ."
    talk = Dialogue(answerer, document, history_tokens=6)
    assert talk.with_history("when opens") == "when opens" and "ask something" in repr(talk)
    talk.ask("what is the soup"), talk.ask("when opens")
    assert talk.with_history("who") == "when opens who" and talk.with_history("when closes at six") == "when opens when closes at six"
    assert talk.with_history("soup " * 9) == "soup " * 9
    assert [t.question for t in talk.turns] == ["what is the soup", "when opens"]
    first, second = converse(answerer, document, ["what is the soup", "when opens"])
    assert second.answer == predict(answerer, "what is the soup when opens", context=document).answer and first == talk.turns[0]
    apart = list(converse(answerer, document, ["what is the soup", "when opens"], history_tokens=0))
    assert apart[1].answer == predict(answerer, "when opens", context=document).answer


def test_dialogue_keeps_the_newest_question_in_the_window(answerer):
    talk = Dialogue(answerer, "the soup opens at five and closes at six .", history_tokens=1000)
    for question in ("what is the soup", "when opens the soup and where", "who closes the bread at six", "where is the cold bread"):
        asked = talk.with_history(question)
        assert asked.endswith(question) and len(answerer[1](asked, add_special_tokens=False)["input_ids"]) <= 14      # half of 32 less three
        talk.ask(question)
    assert asked == "who closes the bread at six where is the cold bread"
    short = Dialogue(answerer, "the soup opens at five .", options=PredictionOptions(max_length=11), turns=talk.turns)
    assert short.with_history("who closes") == "who closes"


def test_dialogue_refused(answerer, classifier):
    with pytest.raises(ValueError, match="the document is empty"):
        Dialogue(answerer, "")
    with pytest.raises(ValueError, match="for classification: a dialogue needs"):
        Dialogue(classifier, "soup")
    with pytest.raises(ValueError, match="questions 'who' is one text.*give a list, \\['who'\\]"):
        list(converse(answerer, "soup", "who"))
    with pytest.raises(ValueError, match="the question is empty"):
        Dialogue(answerer, "soup").ask(" ")


def test_command_predict(folder, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("id,text\n1,the soup was cold\n2,\n")
    assert cli.execute(cli.COMMANDS, ["predict", str(folder), str(tmp_path / "a.csv")]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["label"] in LABELS and second == {"row": 2, "error": "the text is empty: give one with words, or leave it out"}
    line = ["predict", str(folder), str(tmp_path / "a.csv"), "--output", str(tmp_path / "out.jsonl"), "--max-length", "16"]
    assert cli.execute(cli.COMMANDS, line) == 0 and "2 rows; 1 predicted, 1 error (row 2)" in capsys.readouterr().out
    assert cli.execute(cli.COMMANDS, line) == 2 and "--overwrite" in capsys.readouterr().err
    assert cli.execute(cli.COMMANDS, [*line, "--overwrite", "--text-column", "remark"]) == 2
    assert "the columns are id, text" in capsys.readouterr().err and len(read(tmp_path / "out.jsonl")) == 2


def test_command_chat(answerer, tmp_path, capsys, monkeypatch):
    save(*answerer, tmp_path / "model")
    (tmp_path / "a.txt").write_text("the soup opens at five and closes at six .")
    monkeypatch.setattr(sys, "stdin", io.StringIO("when opens\nwho\n\nnot asked\n"))
    assert cli.execute(cli.COMMANDS, ["chat", str(tmp_path / "model"), str(tmp_path / "a.txt")]) == 0
    out = capsys.readouterr().out.splitlines()
    expected = converse(tmp_path / "model", (tmp_path / "a.txt").read_text(), ["when opens", "who"])
    assert out == [f"{t.answer}  ({t.confidence:.2f})" for t in expected]
    assert cli.execute(cli.COMMANDS, ["chat", str(tmp_path / "model"), str(tmp_path / "b.txt")]) == 2
    assert "b.txt" in capsys.readouterr().err


def test_an_output_has_one_writer(classifier, tmp_path, small_chunks, monkeypatch):
    "A second process is refused; a lock that a killed one left is none."
    file, out = tmp_path / "a.txt", tmp_path / "out.jsonl"
    file.write_text("\n".join(sentences(30)) + "\n")
    assert predict_file(classifier, file, tmp_path / "alone.jsonl", progress=False).rows == 30
    (tmp_path / ".out.jsonl.lock").write_text("123")
    own, refused = app._as_row, []

    def interrupted(number, prediction):
        if number == 20:                                     # by the first, while it writes
            with pytest.raises(BlockingIOError, match=rf"output .*out.jsonl' is being written by another process \({os.getpid()}\): wait for its end, stop it, or name another file"):
                predict_file("runs/nowhere", file, out, overwrite=True, progress=False)
            with pytest.raises(BlockingIOError, match="another process"):
                app._to_file(app._opened(classifier), file, out, {}, PredictionOptions(), None, True, False)
            refused.append(number)
        return own(number, prediction)
    monkeypatch.setattr(app, "_as_row", interrupted)
    assert predict_file(classifier, file, out, progress=False).rows == 30 and refused == [20]
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes() and sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "alone.jsonl", "out.jsonl"]
    with pytest.raises(FileExistsError, match="holds earlier predictions"):      # another process has ended while this one opened its model
        app._to_file(app._opened(classifier), file, out, {}, PredictionOptions(), None, False, False)


def test_what_is_no_file_is_not_replaced_and_links_are_followed(classifier, tmp_path):
    (tmp_path / "a.txt").write_text("soup\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop"), (tmp_path / "null").symlink_to("/dev/null"), (tmp_path / "to-pipe").symlink_to("pipe")
    for name in ("pipe", "loop", "null", "to-pipe"):
        with pytest.raises(ValueError, match=f"output .*{name}' is no ordinary file.*name a file"):
            predict_file(classifier, tmp_path / "a.txt", tmp_path / name, overwrite=True, progress=False)
    with pytest.raises(ValueError, match="output '/dev/null' is no ordinary file"):
        predict_file(classifier, tmp_path / "a.txt", "/dev/null", overwrite=True, progress=False)
    assert (tmp_path / "pipe").is_fifo() and os.readlink(tmp_path / "null") == "/dev/null"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "old.jsonl").write_text("old")
    for name, overwrite in (("old", True), ("new", False)):
        link, target = tmp_path / f"{name}.jsonl", tmp_path / "other" / f"{name}.jsonl"
        link.symlink_to(f"other/{name}.jsonl")
        assert predict_file(classifier, tmp_path / "a.txt", link, overwrite=overwrite, progress=False).rows == 1
        assert link.is_symlink() and read(target)[0]["row"] == 1
        with pytest.raises(FileExistsError, match="earlier predictions"):
            predict_file(classifier, tmp_path / "a.txt", link, progress=False)
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == ["new.jsonl", "old.jsonl"]


def test_a_full_disk_is_named(classifier, tmp_path, small_chunks, monkeypatch):
    file, out, own = tmp_path / "a.txt", tmp_path / "out.jsonl", app._errors
    file.write_text("\n".join(sentences(30)) + "\n")

    def full(lines):
        if app._errors.calls:
            raise OSError(28, "No space left on device")
        app._errors.calls += 1
        return own(lines)
    full.calls = 0
    monkeypatch.setattr(app, "_errors", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*out.jsonl.part' holds \d+ rows; the same command goes on from there") as error:
        predict_file(classifier, file, out, progress=False)
    assert error.value.errno == 28
    monkeypatch.setattr(app, "_errors", own)
    assert predict_file(classifier, file, out, progress=False).rows == 30 and len(read(out)) == 30


def test_the_callers_model_and_tokenizer_stay_as_they_are():
    "Without a padding token, of texts of several lengths; also where an error is raised."
    torch.manual_seed(0)
    tokenizer = byte_level()
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=1, n_head=2, num_labels=3, initializer_range=0.5)).eval()
    state = lambda: (tokenizer.pad_token, tokenizer.pad_token_id, dict(tokenizer.special_tokens_map), len(tokenizer), model.config.to_dict())
    before = state()
    single = [predict((model, tokenizer), text) for text in ("the soup is cold", "bread")]
    together = predict((model, tokenizer), ["the soup is cold", "bread"])
    assert [p.label for p in together] == [p.label for p in single] and state() == before
    assert together[1].confidence == pytest.approx(single[1].confidence, abs=1e-5)
    assert explain((model, tokenizer), "the soup is cold").tokens and state() == before
    with pytest.raises(ValueError, match="empty"):
        predict((model, tokenizer), ["bread", ""])
    assert state() == before


@pytest.mark.parametrize("wrong, kind", [(pd.DataFrame({"text": ["bad soup"]}), "DataFrame"), (b"bad soup", "bytes"), (datasets.Dataset.from_dict({"text": ["bad soup"]}).with_format("arrow")[:], "Table")])
def test_names_of_columns_are_no_inputs(classifier, wrong, kind):
    with pytest.raises(TypeError, match=f"inputs is .*{kind}.*give a list of texts"):
        predict(classifier, wrong)
    if kind == "DataFrame":
        assert predict(classifier, wrong["text"]) == predict(classifier, ["bad soup"])
    with pytest.raises(ValueError, match="the text is list, not a text: many inputs are a list"):
        predict(classifier, {"text": ["bad soup", "good bread"]})


def test_mistakes_can_be_compared(classifier):
    one, two = (worst_errors(predict(classifier, ["bad soup", "good bread"]), ["praise", "praise"]) for _ in range(2))
    assert one == one and one != two and len({one, two}) == 2 and np.array_equal(one.confusion, two.confusion)


def test_command_chat_writes_json_lines(answerer, tmp_path, capsys, monkeypatch):
    save(*answerer, tmp_path / "model")
    (tmp_path / "a.txt").write_text("the soup opens at five and closes at six .")
    monkeypatch.setattr(sys, "stdin", io.StringIO("when opens\nwho\n"))
    assert cli.execute(cli.COMMANDS, ["chat", str(tmp_path / "model"), str(tmp_path / "a.txt"), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = converse(tmp_path / "model", (tmp_path / "a.txt").read_text(), ["when opens", "who"])
    assert rows == [{"question": t.question, "answer": t.answer, "start": t.start, "end": t.end, "confidence": t.confidence} for t in expected]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_command_chat_reads_utf8_in_any_locale(answerer, tmp_path, capsys, monkeypatch, encoding):
    save(*answerer, tmp_path / "model")
    (tmp_path / "a.txt").write_text("the soup opens at five and closes at six .")
    asked = lambda raw: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding=encoding))
    line = ["chat", str(tmp_path / "model"), str(tmp_path / "a.txt"), "--json"]
    asked("when Ü 文\n".encode())
    assert cli.main(line) == 0 and json.loads(capsys.readouterr().out)["question"] == "when Ü 文"
    asked("when Ü\n".encode("latin-1"))
    assert cli.main(line) == 2 and r"question 'when \udcdc\n' is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("choice, says", [
    ({"threshold": "a"}, "threshold 'a' must be a number"), ({"max_length": "5"}, "max_length '5' must be a whole number"), ({"max_length": True}, "max_length True must be a whole number"), ({"max_length": 2.5}, "max_length 2.5"),
    ({"n_best": "3"}, "n_best '3'"), ({"n_best": 2.5}, "n_best 2.5 must be a whole number"), ({"stride": 1.5}, "stride 1.5 must be a whole number"), ({"temperature": "1"}, "temperature '1' must be a number"),
    ({"no_answer_threshold": "0"}, "no_answer_threshold '0' must be a number"), ({"word_pattern": 5}, "word_pattern 5 is no regular expression")])
def test_choices_of_another_kind_are_named(classifier, choice, says):
    with pytest.raises(ValueError, match=says):
        predict(classifier, "good soup", **choice)


def test_options_of_another_kind_are_named(classifier, answerer, tmp_path):
    (tmp_path / "a.txt").write_text("good soup\n", encoding="utf-8")
    for call in (lambda: predict(classifier, "good", options={"n_best": 1}), lambda: explain(classifier, "good", options={}), lambda: predict_file(classifier, tmp_path / "a.txt", tmp_path / "b.jsonl", options={"n_best": 1}),
                 lambda: next(converse(answerer, "the soup", ["what"], options={"n_best": 1}))):
        with pytest.raises(TypeError, match="options is a dict: give PredictionOptions"):
            call()


def test_dialogues_and_explanations_name_what_cannot_be(answerer, tagger, writer):
    for history, kind in ((-1, ValueError), ("x", TypeError), (1.5, TypeError)):
        with pytest.raises(kind, match=f"history_tokens {history!r} must be"):
            Dialogue(answerer, "the soup was good", history)
    with pytest.raises(TypeError, match="questions is a NoneType: give a list of questions"):
        next(converse(answerer, "the soup was good", None))
    with pytest.raises(TypeError, match="word 1.5 must be a whole number"):
        explain(tagger, "in paris", word=1.5)
    with pytest.raises(TypeError, match="label 5 is a int: give the name of a label, or a text"):
        explain(writer, "a", label=5)


def test_tags_of_the_truth_may_be_places_and_must_be_known(tagger):
    names = ["O", "B-CITY", "I-CITY", "B-DAY"]
    tagged = predict(tagger, ["in new york on monday", "soup in rome"])
    assert tagged[0].labels == tuple(names)
    truth = [["O", "B-CITY", "I-CITY", "O", "B-DAY"], ["O", "O", "B-CITY"]]
    places = [[names.index(tag) for tag in row] for row in truth]
    named = worst_errors(tagged, truth)
    for given in (places, [np.array(row) for row in places], [torch.tensor(row) for row in places]):
        got = worst_errors(tagged, given)
        assert got.rows == named.rows and got.labels == named.labels and (got.confusion == named.confusion).all()
    for wrong, says in (([["NOPE", *truth[0][1:]], truth[1]], "labels NOPE, which the model does not know: it knows O, B-CITY"), ([[9, *places[0][1:]], places[1]], "labels 9, which"),
                        (["OOOOO", truth[1]], "reference 0 is 'OOOOO': give a list of tags"), ([None, truth[1]], "reference 0 is 'None': give a list of tags")):
        with pytest.raises(ValueError, match=says):
            worst_errors(tagged, wrong)


@pytest.mark.parametrize("family, truth, says", [
    ("sets", ["ab", "b"], r"references\[0\] is 'ab': multi-label needs a list of labels"), ("sets", [None, ["b"]], r"references\[0\] is None: multi-label needs"),
    ("answers", [None, "a"], r"references\[0\] is 'None': give a text, or a list"), ("answers", [{"answer": "a"}, "a"], r"references\[0\] is .*give a text, or a list"),
    ("numbers", ["a", 1.0], r"references\[0\] is 'a', no finite number"), ("numbers", [1.0, None], r"references\[1\] is 'None', no finite number"), ("numbers", [math.nan, 1.0], "is 'nan', no finite number"),
    ("texts", [None, "a"], r"references\[0\] is 'None': give a text")])
def test_truths_of_another_form_are_refused(family, truth, says):
    found = {"sets": [app.LabelsPrediction("x", ("a",), {"a": 0.9, "b": 0.1})] * 2, "answers": [app.AnswerPrediction("q", "a b", "a", 0, 1, 0.5, ())] * 2,
             "numbers": [app.NumberPrediction("x", 1.0)] * 2, "texts": [app.GeneratedText("x", "a")] * 2}[family]
    with pytest.raises(ValueError, match=says):
        worst_errors(found, truth)
    good = {"sets": [["a"], ["a"]], "answers": ["a", {"text": ["a"]}], "numbers": [1, np.float32(1)], "texts": ["a", "a"]}[family]
    assert worst_errors(found, good).errors == 0


def test_the_count_of_the_worst_and_their_lists_are_checked(classifier):
    found = predict(classifier, sentences(3))
    for count, kind in (("3", TypeError), (-1, ValueError), (2.5, TypeError)):
        with pytest.raises(kind, match=f"count {count!r} must be"):
            worst_errors(found, LABELS, count=count)
    with pytest.raises(TypeError, match="references is one reference: give a list"):
        worst_errors(found, "praise")
    with pytest.raises(TypeError, match="predictions is a LabelPrediction: give a list"):
        worst_errors(found[0], ["praise"])


def test_semicolons_in_place_of_commas_are_named(folder, tmp_path):
    (tmp_path / "a.csv").write_text("\ufefftext;label\nsoup;1\n", encoding="utf-8")
    for column in (None, "text"):
        with pytest.raises(ValueError, match=r"the columns are text;label \(the cells seem to be separated by semicolons: save the file with commas\)"):
            predict_file(folder, tmp_path / "a.csv", text_column=column)
