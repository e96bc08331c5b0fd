"""Metrics: equal to scikit-learn, SciPy, SQuAD's functions, nervaluate, sacrebleu and rouge-score on generated input; edges, intervals, bad input."""
import itertools
import json
import logging
import math
import re
import string
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sk

from lmnotes.metrics import (accuracy, bleu, bootstrap_interval, calibration_error, chrf, exact_match, matthews_correlation, mcnemar, normalize_answer,
                             paired_bootstrap, pearson, precision_recall_f1, reliability, rouge, score, score_files, span_f1, spans, spearman, token_f1)

settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("quick")

LABELS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=30)
NUMBERS = st.lists(st.tuples(*[st.integers(-50, 50).map(lambda n: n / 4)] * 2), min_size=2, max_size=30)
WORDS = st.lists(st.sampled_from("the a cat sat on mats mat, running ran. It's 12 Ünder".split()), max_size=12).map(" ".join)
TEXTS = st.lists(st.tuples(WORDS, WORDS.filter(str.strip)), min_size=1, max_size=6)
TAGS = st.lists(st.lists(st.tuples(*[st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])] * 2), max_size=9), min_size=1, max_size=5).filter(any)


def columns(pairs):
    "The two sides of a list of pairs."
    return [list(side) for side in zip(*pairs)]


# ---- against scikit-learn

@given(LABELS)
def test_labels_are_scored_as_scikit_learn_does(pairs):
    p, r = columns(pairs)
    assert accuracy(p, r) == pytest.approx(sk.accuracy_score(r, p), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert matthews_correlation(p, r) == pytest.approx(sk.matthews_corrcoef(r, p), abs=1e-12)
    for average in ("macro", "micro", "weighted"):
        theirs = sk.precision_recall_fscore_support(r, p, average=average, zero_division=0)[:3]
        assert list(precision_recall_f1(p, r, average=average).values()) == pytest.approx(list(theirs), abs=1e-12)
    names = sorted({*p, *r})
    each = precision_recall_f1(p, r, average=None)
    theirs = sk.precision_recall_fscore_support(r, p, labels=names, zero_division=0)
    assert [[each[n][k] for n in names] for k in ("precision", "recall", "f1")] == [pytest.approx(list(row), abs=1e-12) for row in theirs[:3]]
    one = precision_recall_f1(p, r, average="binary", positive=names[0])
    assert one == each[names[0]]


@given(st.lists(st.tuples(*[st.sets(st.sampled_from("abc"))] * 2), min_size=1, max_size=15).filter(lambda rows: len(set().union(*itertools.chain(*rows))) > 1))
def test_label_sets_are_scored_as_scikit_learn_does(pairs):
    p, r = columns(pairs)
    known = sorted(set().union(*p, *r))
    matrix = lambda rows: np.array([[int(label in row) for label in known] for row in rows])
    result = score("multi-label", p, r, samples=0)
    assert result["subset_accuracy"] == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert result["micro_f1"] == pytest.approx(sk.f1_score(matrix(r), matrix(p), average="micro", zero_division=0))
    assert result["macro_f1"] == pytest.approx(sk.f1_score(matrix(r), matrix(p), average="macro", zero_division=0))


def test_intervals_are_those_of_tables_of_all_labels():
    "The bootstrap counts what stands in the rows drawn; here every draw is scored by scikit-learn on a table of examples by labels."
    g = np.random.default_rng(0)
    r = [sorted(set(row)) for row in g.integers(0, 30, (60, 3)).tolist()]
    p = [row if g.random() < 0.5 else [] for row in r]
    known = sorted({label for row in r for label in row})
    said, true = (np.array([[int(label in row) for label in known] for row in rows]) for rows in (p, r))
    result, draws = score("multi-label", p, r, samples=20), [d for d in np.random.default_rng(0).integers(0, 60, (20, 60))]
    for name, measure in (("micro_f1", lambda d: sk.f1_score(true[d], said[d], average="micro", zero_division=0)), ("subset_accuracy", lambda d: (said[d] == true[d]).all(1).mean())):
        values = [measure(d) for d in draws]
        assert result.intervals[name] == pytest.approx(np.quantile(values, [0.025, 0.975]))
    p, r = ([row[0] if row else 30 for row in rows] for rows in (p, r))
    result = score("classification", p, r, samples=20)
    for name, measure in (("macro_f1", lambda d: sk.f1_score(np.array(r)[d], np.array(p)[d], average="macro", zero_division=0)), ("matthews_correlation", lambda d: sk.matthews_corrcoef(np.array(r)[d], np.array(p)[d]))):
        assert result.intervals[name] == pytest.approx(np.quantile([measure(d) for d in draws], [0.025, 0.975]))


def test_labels_may_be_numbers_arrays_and_booleans():
    p, r = np.array([1, 0, 1]), np.array([1, 1, 0])
    assert accuracy(p, r) == accuracy(p.astype(bool), r.astype(bool)) == accuracy(p.tolist(), tuple(r.tolist())) == 1 / 3
    assert precision_recall_f1(p, r, average="binary")["recall"] == 0.5


# ---- correlations

@given(NUMBERS)
def test_correlations_are_scipys(pairs):
    from scipy import stats
    x, y = columns(pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = stats.pearsonr(x, y).statistic, stats.spearmanr(x, y).statistic
    for ours, their in zip((pearson(x, y), spearman(x, y)), theirs):
        assert (math.isnan(ours) and math.isnan(their)) or ours == pytest.approx(their, abs=1e-9)


def test_correlation_of_a_constant_is_nan_and_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        assert math.isnan(pearson([0.1] * 3, [1, 2, 3])) and math.isnan(spearman([1, 2, 3], [0.3] * 3))
    assert caplog.text.count("is not defined") == 2
    result = score("regression", [0.1] * 3, [1, 2, 3], samples=20)
    assert math.isnan(result["pearson"]) and all(math.isnan(v) for v in result.intervals["pearson"]) and result["root_mean_squared_error"] > 0


def test_correlation_of_one_number_is_nan():
    assert math.isnan(pearson([1.0], [2.0]))


# ---- answers, against SQuAD's evaluation written a second time, from its description

def second_squad(said, answers):
    "Exact match and F1 of one question: words by a regular expression, shared words by taking them off a list."
    words = lambda text: [w for w in re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower()).split() if w not in ("a", "an", "the")]
    found = []
    for answer in answers or [""]:
        left, hits = words(answer), 0
        for word in words(said):
            if word in left:
                left.remove(word)
                hits += 1
        precision, recall = (hits / len(words(text)) if words(text) else 0 for text in (said, answer))
        empty = not words(said) or not words(answer)
        found.append((words(said) == words(answer), float(words(said) == words(answer)) if empty else 2 * precision * recall / (precision + recall) if hits else 0.0))
    return max(em for em, _ in found), max(f1 for _, f1 in found)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS.filter(normalize_answer), max_size=3)), min_size=1, max_size=6))
def test_answers_are_scored_as_squad_does(pairs):
    p, r = columns(pairs)
    r = [[answer for answer in answers if normalize_answer(answer)] for answers in r]
    em, f1 = np.mean([second_squad(*pair) for pair in zip(p, r)], axis=0)
    assert exact_match(p, r) == pytest.approx(em) and token_f1(p, r) == pytest.approx(f1)


def test_answers_without_content():
    assert normalize_answer("  The  Cat, an' a DOG! ") == "cat dog"
    assert exact_match([""], [[]]) == token_f1([""], [[]]) == exact_match(["the"], [[]]) == 1        # "the" is no word
    assert exact_match([""], [["x"]]) == token_f1([""], [["x"]]) == token_f1(["x"], [[]]) == 0
    assert exact_match(["x"], [{"text": ["y", "x"], "answer_start": [0, 2]}]) == 1
    result = score("question-answering", ["x", "", "y"], [["x"], [], []], samples=50)
    assert result["exact_match"] == 2 / 3 and result["has_answer_exact_match"] == 1 and result["no_answer_exact_match"] == 0.5
    assert not any("answer" in name for name in score("question-answering", ["x"], ["x"], samples=0).values)


# ---- spans

def conlleval(tags):
    "Spans by the begin and end rules of the published script, written as two predicates."
    split = [("O", "")] + [tuple(t.split("-", 1)) if "-" in t else (t, "") for t in tags] + [("O", "")]
    ends = lambda a, b: a[0] != "O" and (a[0] in "ES" or b[0] in "BSO" or a[1] != b[1])
    begins = lambda a, b: b[0] != "O" and (b[0] in "BS" or a[0] in "ESO" or a[1] != b[1])
    found, begin = [], None
    for i, (a, b) in enumerate(itertools.pairwise(split)):
        if ends(a, b):
            found.append((a[1], begin, i))
        if begins(a, b):
            begin = i
    return found


@given(st.lists(st.sampled_from(["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("X", "Y"))]), max_size=12))
def test_spans_are_conllevals(tags):
    assert spans(tags) == conlleval(tags)
    assert spans([tag.replace("E-", "L-").replace("S-", "U-") for tag in tags]) == spans(tags)


@given(TAGS)
def test_span_f1_is_nervaluates_strict(rows):
    Evaluator = pytest.importorskip("nervaluate").Evaluator
    p, r = [[a for a, _ in row] for row in rows], [[b for _, b in row] for row in rows]
    overall = Evaluator(r, p, tags=["X", "Y"], loader="list").evaluate()["overall"]["strict"]
    ours = span_f1(p, r)
    assert [ours[k] for k in ("precision", "recall", "f1")] == pytest.approx([overall.precision, overall.recall, overall.f1])


def test_spans_of_nothing_of_all_and_of_types_with_a_hyphen():
    assert spans([]) == [] and spans(["B-a-b", "I-a-b"]) == [("a-b", 0, 2)]
    assert span_f1([["O", "O"]], [["O", "O"]])["f1"] == 0
    assert span_f1([["B-X", "O"], []], [["B-X", "O"], []]) == {"precision": 1, "recall": 1, "f1": 1}
    each = span_f1([["B-X", "B-Y"]], [["B-X", "O"]], average=None)
    assert each["X"]["f1"] == 1 and each["Y"] == {"precision": 0, "recall": 0, "f1": 0}
    assert span_f1([["B-X", "B-Y"]], [["B-X", "O"]], average="macro")["f1"] == 0.5


def test_tags_that_mark_no_spans_are_scored_as_tags():
    p, r = [["NOUN", "VERB"], ["ADJ", "NOUN"]], [["NOUN", "NOUN"], ["ADJ", "NOUN"]]
    result = score("tokens", p, r, samples=20)
    flat = lambda rows: [tag for row in rows for tag in row]
    assert list(result.values) == ["token_accuracy", "macro_f1"] and result["token_accuracy"] == 3 / 4
    assert result["macro_f1"] == pytest.approx(sk.f1_score(flat(r), flat(p), average="macro", zero_division=0))
    assert "span_f1" in score("tokens", [["O"]], [["O"]], samples=0).values


# ---- texts

@given(TEXTS)
def test_bleu_and_chrf_are_sacrebleus(pairs):
    import sacrebleu
    p, r = columns(pairs)
    for tokenize in ("13a", "char", "none"):
        assert bleu(p, r, tokenize=tokenize) == pytest.approx(sacrebleu.corpus_bleu(p, [r], tokenize=tokenize, force=True).score, abs=1e-9)
    assert chrf(p, r) == pytest.approx(sacrebleu.corpus_chrf(p, [r]).score, abs=1e-9)


@given(st.lists(st.tuples(WORDS, WORDS.filter(str.strip), WORDS.filter(str.strip)), min_size=1, max_size=5))
def test_several_references_are_scored_as_sacrebleu_does(triples):
    import sacrebleu
    p, first, second = columns(triples)
    assert bleu(p, list(zip(first, second)), lowercase=True) == pytest.approx(sacrebleu.corpus_bleu(p, [first, second], lowercase=True).score, abs=1e-9)
    assert chrf(p, list(zip(first, second))) == pytest.approx(sacrebleu.corpus_chrf(p, [first, second]).score, abs=1e-9)


@given(TEXTS, st.booleans())
def test_rouge_is_the_library(pairs, stemmer):
    from rouge_score.rouge_scorer import RougeScorer
    p, r = columns(pairs)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)
    theirs = [scorer.score(b, a) for a, b in pairs]
    ours = rouge(p, r, stemmer=stemmer)
    assert all(ours[name] == pytest.approx(np.mean([t[name].fmeasure for t in theirs])) for name in ("rouge1", "rouge2", "rougeL"))


def test_rouge_lsum_takes_lines_or_cuts_sentences():
    from rouge_score.rouge_scorer import RougeScorer
    a, b = "Dogs bark. Cats sleep!\nBirds sing.", "Cats sleep here.\nDogs bark."
    library = RougeScorer(["rougeLsum"], use_stemmer=True)
    assert rouge([a], [b])["rougeLsum"] == pytest.approx(library.score(b, a)["rougeLsum"].fmeasure)
    one_line, lines = "Dogs bark. Cats sleep!", "Dogs bark.\nCats sleep!"
    assert rouge([one_line], [b])["rougeLsum"] == pytest.approx(library.score(b, lines)["rougeLsum"].fmeasure)


def test_texts_perfect_and_empty():
    text = ["The cat sat on the mat, and slept."]
    assert bleu(text, text) == pytest.approx(100) and chrf(text, text) == pytest.approx(100) and set(rouge(text, text).values()) == {1.0}
    assert bleu([""], text) == chrf([""], text) == 0 and set(rouge([""], text).values()) == {0.0}
    assert bleu(["x"], [""]) == chrf(["x"], [""]) == 0


def test_texts_are_scored_without_a_network(monkeypatch):
    import socket
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was opened"))
    assert set(score("generation", ["a cat. sat"], ["a cat. sat"], samples=2).values) == {"bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum"}


# ---- calibration

def test_calibration_error_is_its_definition():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 3))
    probabilities, truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True), generator.integers(0, 3, 500)
    total = 0
    for low, high in itertools.pairwise(np.linspace(0, 1, 16)):
        inside = (probabilities.max(1) > low) & (probabilities.max(1) <= high)
        if inside.any():
            total += inside.sum() * abs(probabilities.max(1)[inside].mean() - (probabilities.argmax(1) == truth)[inside].mean())
    assert calibration_error(probabilities, truth) == pytest.approx(total / 500)
    parts = reliability(probabilities, truth)
    assert parts["count"].sum() == 500 and np.nansum(parts["count"] * np.abs(parts["confidence"] - parts["accuracy"])) / 500 == pytest.approx(total / 500)


def test_calibration_edges():
    assert calibration_error([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == 0 and calibration_error([[1.0, 0.0]], [1]) == 1
    assert calibration_error([0.9, 0.2], [1, 0]) == pytest.approx(calibration_error([[0.1, 0.9], [0.8, 0.2]], [1, 0])) == pytest.approx(0.15)
    assert calibration_error([[0.9, 0.1]], ["ham"], labels=["ham", "spam"]) == pytest.approx(0.1)
    assert reliability([[0.5, 0.5]], [0], bins=2)["count"].tolist() == [1, 0]                    # a bin holds its upper edge


# ---- real data, where the machine has it

def test_real_tags_with_noise_are_scored_as_nervaluate_does(shared_data):
    Evaluator, parquet = pytest.importorskip("nervaluate").Evaluator, pytest.importorskip("pyarrow.parquet")
    name = lambda i: "O" if i == 0 else f"{'BI'[(i - 1) % 2]}-{(i - 1) // 2}"
    truth = [list(map(name, row)) for row in parquet.read_table(shared_data / "wnut17" / "test.parquet")["ner_tags"].to_pylist()]
    generator = np.random.default_rng(0)
    noisy = [[name(generator.integers(0, 13)) if generator.random() < 0.1 else tag for tag in row] for row in truth]
    strict = Evaluator(truth, noisy, tags=[str(i) for i in range(6)], loader="list").evaluate()["overall"]["strict"]
    assert span_f1(noisy, truth)["f1"] == pytest.approx(strict.f1) and 0 < strict.f1 < 1
    assert span_f1(truth, truth)["f1"] == 1


def test_real_translations_are_scored_as_sacrebleu_does(shared_data):
    import sacrebleu
    parquet = pytest.importorskip("pyarrow.parquet")
    pairs = parquet.read_table(shared_data / "multi30k" / "test.parquet")["translation"].to_pylist()[:300]
    english = [pair["en"] for pair in pairs]
    output = [" ".join(word for i, word in enumerate(text.split()) if i % 5 != 3) for text in english]
    assert bleu(output, english) == pytest.approx(sacrebleu.corpus_bleu(output, [english]).score) and chrf(output, english) == pytest.approx(sacrebleu.corpus_chrf(output, [english]).score)
    result = score("translation", output, english, samples=100)
    low, high = result.intervals["bleu"]
    assert low < result["bleu"] < high and result["chrf"] > score("translation", [pair["de"] for pair in pairs], english, samples=0)["chrf"]


# ---- intervals and differences

def test_interval_is_the_same_for_ours_and_for_any_function():
    p, r = ["a", "b", "b", "a", "c", "a"], ["a", "b", "a", "a", "c", "b"]
    for metric, theirs in ((accuracy, lambda p, r: sk.accuracy_score(r, p)), (matthews_correlation, lambda p, r: sk.matthews_corrcoef(r, p))):
        assert bootstrap_interval(metric, p, r, samples=100, seed=3) == pytest.approx(bootstrap_interval(theirs, p, r, samples=100, seed=3))
    macro = bootstrap_interval(precision_recall_f1, p, r, samples=100, average="macro")
    assert macro["f1"] == pytest.approx(bootstrap_interval(lambda p, r: sk.f1_score(r, p, average="macro", zero_division=0), p, r, samples=100))
    texts = ["a cat sat on the mat", "dogs ran in a park", "b"]
    other = ["the cat sat on the mat", "dogs ran in the park", "b c"]
    for metric in (bleu, chrf):                                              # prepared once, as computed anew
        assert bootstrap_interval(metric, texts, other, samples=30) == pytest.approx(bootstrap_interval(lambda p, r: metric(p, r), texts, other, samples=30))


def test_interval_covers_as_often_as_it_says():
    "300 test sets of 100 answers, each right with probability 0.8: about 95 % of the intervals hold 0.8."
    generator = np.random.default_rng(0)
    inside = 0
    for seed in range(300):
        right = (generator.random(100) < 0.8).astype(int)
        low, high = bootstrap_interval(accuracy, right, [1] * 100, samples=200, seed=seed)
        inside += low <= 0.8 <= high
    assert 0.90 <= inside / 300 <= 0.98


def test_interval_of_a_correlation_covers_too():
    "A bivariate normal distribution with correlation 0.6."
    generator = np.random.default_rng(1)
    inside = 0
    for seed in range(150):
        x, noise = generator.normal(size=(2, 100))
        low, high = bootstrap_interval(pearson, x, 0.6 * x + 0.8 * noise, samples=150, seed=seed)
        inside += low <= 0.6 <= high
    assert 0.89 <= inside / 150 <= 0.98


def test_interval_narrows_and_repeats():
    p, r = [1, 1, 0, 1], [1, 0, 0, 1]
    width = lambda n: np.subtract(*bootstrap_interval(accuracy, p * n, r * n)[::-1])
    assert width(5) > width(50) > 0 and bootstrap_interval(accuracy, p, r, seed=1) == bootstrap_interval(accuracy, p, r, seed=1)
    low, high = bootstrap_interval(accuracy, p * 5, r * 5, confidence=0.5)
    assert high - low < width(5)


def test_paired_bootstrap_finds_what_is_there():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 400)
    flip = lambda rate: np.where(generator.random(400) < rate, 1 - truth, truth)
    good, bad = flip(0.1), flip(0.3)
    there, back, none = (paired_bootstrap(accuracy, *pair, truth) for pair in ((good, bad), (bad, good), (good, good)))
    assert there.low > 0 and there.p_value < 0.01 and "the first is higher" in repr(there)
    assert back.difference == -there.difference and back.p_value == there.p_value and "the second is higher" in repr(back)
    assert none.difference == none.low == none.high == 0 and none.p_value == 1 and "undecided" in repr(none)
    assert set(paired_bootstrap(precision_recall_f1, good, bad, truth, samples=20)) == {"precision", "recall", "f1"}


def test_a_label_that_one_model_alone_predicts_has_a_difference():
    a, b, truth = ["a", "c", "a", "b"], ["a", "b", "b", "b"], ["a", "b", "a", "b"]
    found = paired_bootstrap(precision_recall_f1, a, b, truth, average=None, samples=200)
    named = paired_bootstrap(precision_recall_f1, a, b, truth, average=None, labels=["a", "b", "c"], samples=200)          # what the measure itself gives for a label that is never there
    assert found == named and set(found) == {"a", "b", "c"} and all(d.difference == d.low == d.high == 0 for d in found["c"].values())
    back = paired_bootstrap(precision_recall_f1, b, a, truth, average=None, samples=200)
    assert {(label, name): d.difference for label, row in back.items() for name, d in row.items()} == {(label, name): -d.difference for label, row in found.items() for name, d in row.items()}
    by_type = paired_bootstrap(span_f1, [["B-X"]], [["B-Y"]], [["B-Y"]], average=None, samples=20)
    assert set(by_type) == {"X", "Y"} and by_type["Y"]["f1"].difference == -1 and by_type["X"]["f1"].difference == 0


def test_a_metric_of_ones_own_may_leave_labels_out_of_a_sample():
    a, b, truth = ["a", "c", "a", "b"], ["a", "b", "b", "b"], ["a", "b", "a", "b"]
    own = lambda p, r: precision_recall_f1(p, r, average=None)                     # knows the labels of its sample only
    assert paired_bootstrap(own, a, b, truth, samples=100) == paired_bootstrap(precision_recall_f1, a, b, truth, average=None, samples=100)
    assert bootstrap_interval(own, a, truth, samples=100) == bootstrap_interval(precision_recall_f1, a, truth, average=None, samples=100)


def test_paired_bootstrap_is_rarely_wrong_when_there_is_nothing():
    generator = np.random.default_rng(2)
    significant = 0
    for seed in range(120):
        a, b = (generator.random((2, 80)) < 0.7).astype(int)
        significant += paired_bootstrap(accuracy, a, b, [1] * 80, samples=200, seed=seed).p_value < 0.05
    assert significant / 120 < 0.12


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 5))
def test_mcnemar_is_the_binomial_tail(first, second, both):
    a, b = [1] * first + [0] * second + [1] * both + [0], [0] * first + [1] * second + [1] * both + [0]
    n, result = first + second, mcnemar(a, b, [1] * len(a))
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1)) / 2**n
    assert (result.only_a, result.only_b) == (first, second) and result.p_value == pytest.approx(min(1, 2 * tail))
    assert mcnemar(b, a, [1] * len(a)).p_value == pytest.approx(result.p_value)


# ---- score

TASKS = {"classification": (["a", "b", "a", "b"], ["a", "b", "b", "b"]), "multi-label": ([["a"], [], ["a", "b"]], [["a"], ["b"], ["a", "b"]]),
         "regression": ([1.0, 2.0, 3.5], [1.5, 2.0, 3.0]), "tokens": ([["B-X", "O"], ["O", "O"]], [["B-X", "O"], ["B-Y", "O"]]),
         "question-answering": (["x", ""], [["x", "y"], []]), "translation": (["a cat sat", "b"], ["the cat sat", ["b", "c"]]),
         "summarization": (["a cat sat", "b"], ["the cat sat", "b c"]), "generation": (["a cat sat", "b"], ["the cat sat", "b c"])}


@pytest.mark.parametrize("task", TASKS)
def test_score_gives_value_interval_and_protocol(task):
    p, r = TASKS[task]
    result = score(task, p, r, samples=50)
    assert set(result.values) == set(result.intervals) == set(result.protocol) - {"intervals"} and result.examples == len(p)
    for name, value in result.values.items():
        assert type(value) is float and result[name] == value and name in repr(result) and name in result._repr_html_()
        low, high = result.intervals[name]
        assert math.isnan(low) or low <= high
    assert json.loads(json.dumps(result.values)) and "seed 0" in repr(result)
    backwards = score(task, p[::-1], r[::-1], samples=0)
    assert backwards.values == pytest.approx(result.values, nan_ok=True) and backwards.intervals == {}


def test_score_takes_probabilities_and_a_positive_label():
    result = score("classification", [1, 0, 1], [1, 0, 0], probabilities=[[0.2, 0.8], [0.9, 0.1], [0.4, 0.6]], positive=1, samples=20)
    assert result["precision"] == 0.5 and result["recall"] == 1 and result["calibration_error"] == pytest.approx(calibration_error([0.8, 0.1, 0.6], [1, 0, 0]))
    with pytest.raises(KeyError, match="'bleu' is no metric of classification"):
        result["bleu"]


@pytest.mark.filterwarnings("ignore:A single label")
def test_one_class_only():
    result = score("classification", ["a"] * 5, ["a"] * 5, samples=20)
    assert result["accuracy"] == result["macro_f1"] == 1 and result["matthews_correlation"] == 0 == sk.matthews_corrcoef(["a"] * 5, ["a"] * 5)
    assert score("classification", ["a"] * 5, ["b"] * 5, samples=20)["macro_f1"] == 0


def test_html_is_escaped():
    assert "<b>" not in score("classification", ["<b>"], ["<b>"], positive="<b>", samples=2)._repr_html_()


# ---- files

def as_file(folder, name, lines, end="\n"):
    "A file with these lines."
    (folder / name).write_bytes(end.join([*lines, ""]).encode("utf-8"))
    return folder / name


@pytest.mark.parametrize("task, lines", [
    ("classification", lambda x: x), ("multi-label", ", ".join), ("regression", str), ("tokens", " ".join)])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_files_are_scored_as_lists(tmp_path, task, lines, end):
    p, r = TASKS[task]
    files = [as_file(tmp_path, name, map(lines, side), end) for name, side in (("p.txt", p), ("r.txt", r))]
    assert repr(score_files(task, *files, samples=20)) == repr(score(task, p, r, samples=20))


@pytest.mark.parametrize("task", TASKS)
def test_json_files_are_scored_as_lists(tmp_path, task):
    p, r = TASKS[task]
    files = [as_file(tmp_path, name, map(json.dumps, side)) for name, side in (("p.jsonl", p), ("r.jsonl", r))]
    assert repr(score_files(task, *map(str, files), samples=20)) == repr(score(task, p, r, samples=20))


def test_an_empty_line_is_an_empty_answer(tmp_path):
    p, r = as_file(tmp_path, "p.txt", ["Nile", "", "a\u2028b"]), as_file(tmp_path, "r.jsonl", ['["Nile"]', "[]", '"a b"'])
    assert score_files("question-answering", p, r, samples=0)["exact_match"] == 1


def test_unreadable_files_are_named(tmp_path):
    numbers, broken, empty = as_file(tmp_path, "n.txt", ["1", "one"]), as_file(tmp_path, "b.jsonl", ['"x"', "{"]), tmp_path / "e.txt"
    empty.write_bytes(b"")
    for call, words in ((lambda: score_files("regression", numbers, numbers), "line 2 is 'one', no number"), (lambda: score_files("translation", broken, broken), "line 2 is '{', no JSON value"),
                        (lambda: score_files("translation", empty, empty), "nothing to score"), (lambda: score_files("classification", numbers, empty), "2 predictions and 0 references")):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(FileNotFoundError, match="references .* is no file"):
        score_files("classification", numbers, tmp_path / "none.txt")


def test_the_command_scores_files(tmp_path):
    pytest.importorskip("typer")
    p, r = as_file(tmp_path, "p.txt", ["a", "b", "b"]), as_file(tmp_path, "r.txt", ["a", "b", "a"])
    run = lambda *words: subprocess.run([sys.executable, "-m", "lmnotes.cli", "score", *map(str, words)], capture_output=True, text=True)
    done = run("classification", p, r, "--samples", 50, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["values"]["accuracy"] == 2 / 3
    done = run("classification", p, r, "--labels", "a")
    assert done.returncode == 2 and "predictions[1] is 'b', not among the labels 'a'" in done.stderr


# ---- bad input

@pytest.mark.parametrize("call, words", [
    (lambda: accuracy([1], [1, 2]), "1 prediction and 2 references"),
    (lambda: accuracy([], []), "predictions and references are empty"),
    (lambda: accuracy(["x"], ["y"], labels=["y", "z"]), r"predictions\[0\] is 'x', not among the labels 'y', 'z'"),
    (lambda: accuracy([0], [7], labels=range(3)), r"references\[0\] is 7"),
    (lambda: accuracy([1], ["1"]), "predictions hold numbers, references text"),
    (lambda: accuracy([[0.1, 0.9]], [1]), r"predictions\[0\] is '\[0.1, 0.9\]', no label"),
    (lambda: accuracy([1], [math.nan]), r"references\[0\] is 'nan', no label"),
    (lambda: accuracy([1], [None]), r"references\[0\] is 'None', no label"),
    (lambda: precision_recall_f1([1], [1], average="mean"), "average 'mean' must be one of"),
    (lambda: precision_recall_f1(["a"], ["b"], average="binary"), "positive 1 is not among the labels"),
    (lambda: score("multi-label", ["ab"], [["a"]]), "multi-label needs a list of labels"),
    (lambda: score("multi-label", [["a"]], [["b"]], labels=["a"]), "'b' is not among the labels"),
    (lambda: score("multi-label", [[]], [[]]), "no example has a label"),
    (lambda: pearson([1.0, math.inf], [1, 2]), r"predictions\[1\] is 'inf', no finite number"),
    (lambda: spearman(["1", "2"], [1, 2]), "no finite number"),
    (lambda: exact_match([None], ["x"]), r"predictions\[0\] is 'None', a NoneType"),
    (lambda: token_f1(["x"], [3]), r"references\[0\] is '3'"),
    (lambda: span_f1([["O"]], [["O", "O"]]), "sentence 0 has 1 predicted tag and 2 true"),
    (lambda: span_f1([["O"], ["PER"]], [["O"], ["O"]]), r"predictions\[1\], tag 0 is 'PER'"),
    (lambda: span_f1([["B-X"]], [["B-Y"]], labels=["X"]), "'Y' is not among the labels"),
    (lambda: span_f1(["B-X"], ["B-X"]), "give a list of tags for each sentence"),
    (lambda: span_f1([[]], [[]]), "no sentence has a tag"),
    (lambda: bleu(["a"], [[]]), "one or more reference texts"),
    (lambda: bleu(["a"], ["a"], tokenize="flores200"), "tokenize 'flores200' must be one of"),
    (lambda: chrf([1], ["a"]), r"predictions\[0\] is '1', a int"),
    (lambda: rouge([], []), "nothing to score"),
    (lambda: calibration_error([[1.5, -0.5]], [0]), "numbers between 0 and 1"),
    (lambda: calibration_error([[0.5, 0.2]], [0]), r"probabilities\[0\] add up to 0.7"),
    (lambda: calibration_error([[0.5, 0.5]], ["a"], labels=["a"]), "1 label and 2 columns"),
    (lambda: calibration_error([[0.5, 0.5]], [2]), r"references\[0\] is 2"),
    (lambda: calibration_error([[0.5, 0.5]], [0], bins=0), "bins 0 must be 1 or more"),
    (lambda: bootstrap_interval(accuracy, [1], [1], confidence=95), "confidence 95 must lie between 0 and 1"),
    (lambda: bootstrap_interval(accuracy, [1], [1], samples=0), "samples 0 must be 1 or more"),
    (lambda: mcnemar([1], [1, 2], [1]), "2 predictions and 1 reference: give"),
    (lambda: score("ner", [1], [1]), "task_type 'ner' must be one of 'classification'"),
    (lambda: score("regression", [1.0], [1.0], labels=[1]), "labels is not for task_type 'regression'"),
])
def test_wrong_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_what_is_raised_is_documented():
    "Texts, dicts and what has no length are no examples, and a set is no order of labels; each metric says so."
    tables = [calibration_error, reliability]
    for metric in (accuracy, precision_recall_f1, matthews_correlation, span_f1, pearson, spearman, exact_match, token_f1, bleu, chrf, rouge):
        for wrong in ("ab", {"a": 1}, 3):
            with pytest.raises(TypeError, match="predictions is a"):
                metric(wrong, ["a"])
    for metric in tables:
        for wrong in ("ab", {"a": 1}):
            with pytest.raises(TypeError, match="references is a"):
                metric([[0.5, 0.5]], wrong, labels=["a", "b"])
        with pytest.raises(TypeError, match="labels"):
            metric([[0.5, 0.5]], ["a"], labels={"a", "b"})
    with pytest.raises(TypeError, match="predictions is a str"):
        mcnemar("a", ["a"], ["a"])
    with pytest.raises(TypeError, match="references is a str"):
        score("classification", ["a"], "a")
    for metric in (accuracy, precision_recall_f1, matthews_correlation, span_f1, pearson, spearman, exact_match, token_f1, bleu, chrf, rouge, *tables, score, mcnemar, bootstrap_interval, paired_bootstrap):
        assert "TypeError\n" in metric.__doc__.partition("Raises")[2] and "ValueError\n" in metric.__doc__.partition("Raises")[2], metric.__name__


def test_counts_agree_with_their_nouns():
    assert repr(score("regression", [1.0], [1.0], samples=0)).startswith("regression, 1 example\n") and repr(score("regression", [1.0, 2.0], [1.0, 2.0], samples=0)).startswith("regression, 2 examples\n")
    answered = score("question-answering", ["cat", ""], ["cat", ""], samples=0)
    assert answered.protocol["no_answer_exact_match"] == "the same on 1 question"


def test_a_text_in_place_of_a_list_is_named():
    with pytest.raises(TypeError, match="predictions is a str: give a list"):
        bleu("a cat", ["a cat"])


def test_the_room_is_entered_quickly():
    code = "import sys, lmnotes.metrics; print([m for m in ('torch', 'scipy', 'sklearn', 'sacrebleu', 'nltk', 'rouge_score') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_lists_of_scalars_of_arrays():
    "Predictions gathered one by one, as NumPy's or PyTorch's scalars, are as good as the array."
    import torch
    truth, found = np.array([1, 0, 1, 1]), np.array([1, 1, 1, 0])
    assert accuracy(list(found), list(truth)) == accuracy(list(torch.tensor(found)), truth.tolist()) == accuracy(found, truth) == 0.5
    assert score("regression", list(np.float32([1, 2, 3])), [1.0, 2.0, 4.0], samples=0).values["pearson"] == pytest.approx(np.corrcoef([1, 2, 3], [1, 2, 4])[0, 1])


def test_sets_of_labels_may_hold_scalars_of_arrays():
    "Also as an array for each example, and with a label named twice."
    whole = score("multi-label", [[1, 2], []], [[1], [2]], samples=0).values
    for p, r in (([[np.int64(1), np.int64(2)], []], [[np.int64(1)], [np.int64(2)]]), ([np.array([1, 2]), np.array([], dtype=int)], [[1], [np.int32(2)]])):
        assert score("multi-label", p, r, samples=0).values == whole
    with pytest.raises(ValueError, match=r"predictions\[0\] is 1, 1 and names a label twice"):
        score("multi-label", [[np.int64(1), 1]], [[1]], samples=0)


def test_indicator_columns_are_no_lists_of_labels():
    "Rows of 0 and 1 would all be the labels {0, 1}, and always right."
    p, r = np.array([[1, 0, 0], [0, 1, 1]]), np.array([[0, 1, 0], [1, 0, 0]])
    for given in ((p, r), (p.tolist(), r.tolist())):
        with pytest.raises(ValueError, match="flatnonzero"):
            score("multi-label", *given, samples=0)
    values = score("multi-label", [np.flatnonzero(row) for row in p], [np.flatnonzero(row) for row in r], samples=0).values
    assert values["micro_f1"] == 0


def test_many_labels_take_little_memory():
    "A label for each example, as text that was given as labels: no table of all pairs of them."
    texts = [f"label {i}" for i in range(30_000)]
    found = score("classification", texts[1:] + texts[:1], texts, samples=2)
    assert found.values["accuracy"] == 0


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_that_is_not_utf8_is_named_with_its_byte(tmp_path, mark):
    (tmp_path / "a.txt").write_bytes(mark + b"one\ncaf\xe9\n")
    with pytest.raises(ValueError, match=rf"predictions '.*a.txt' is not UTF-8: byte {7 + len(mark)} cannot be read; save the file as UTF-8"):
        score_files("classification", tmp_path / "a.txt", tmp_path / "a.txt")


# ---- conventions that silently gave another number

@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_correlations_of_very_large_and_very_small_numbers(size):
    assert pearson([size, 2 * size, 3 * size], [1, 2, 3]) == pytest.approx(1) and pearson([size, 3 * size, 2 * size], [1, 2, 3]) == pytest.approx(0.5)


def test_columns_of_probabilities_have_the_names_of_labels(caplog):
    true, sure = ["cat", "dog", "dog"], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]
    with pytest.raises(ValueError, match="name the label of each column in order, labels="):
        score("classification", true, true, probabilities=sure)
    assert score("classification", true, true, labels=["cat", "dog"], probabilities=sure)["calibration_error"] < 0.3 and not caplog.records
    score("classification", true, true, labels=["dog", "cat"], probabilities=sure)
    assert "not the predicted one in 3 of 3 examples" in caplog.text


def test_probabilities_of_any_kind_of_tensor():
    import torch
    rows = [[0.75, 0.25], [0.5, 0.5]]
    for given in (torch.tensor(rows, dtype=torch.bfloat16), torch.tensor(rows, requires_grad=True)):
        assert calibration_error(given, [0, 1]) == calibration_error(rows, [0, 1])
    with pytest.raises(ValueError, match="probabilities are no table of numbers"):
        calibration_error([[0.5, 0.5], [1.0]], [0, 1])


def test_tags_of_two_kinds_are_refused():
    with pytest.raises(ValueError, match="predictions hold numbers, references text: write the tags of both in the same way"):
        score("tokens", [[0, 1]], [["NOUN", "VERB"]])
    with pytest.raises(ValueError, match="None"):
        score("tokens", [["NOUN", None]], [["NOUN", "VERB"]])
    assert score("tokens", [np.array([0, 1])], [[np.int64(0), 1]], samples=0)["token_accuracy"] == 1


@pytest.mark.parametrize("call, error, says", [
    (lambda: bootstrap_interval(accuracy, [1], None), TypeError, "references is a NoneType"), (lambda: bootstrap_interval(accuracy, [1], [1], samples=10.5), TypeError, "samples 10.5"),
    (lambda: paired_bootstrap(accuracy, [1], [1], None), TypeError, "references is a NoneType: give a list"), (lambda: paired_bootstrap(accuracy, [1], [1], iter([1])), TypeError, "references is a list_iterator"),
    (lambda: score("classification", ["a"], ["a"], labels="ab"), TypeError, "labels 'ab' must be a list"), (lambda: score("regression", [1], [1], labels="ab"), ValueError, "labels is not for task_type"),
    (lambda: bootstrap_interval(accuracy, [1], [1], seed=-1), ValueError, "seed -1"), (lambda: bootstrap_interval(accuracy, [1], [1], confidence="95%"), ValueError, "confidence '95%'"),
    (lambda: reliability([[0.5, 0.5]], [0], bins=2.5), TypeError, "bins 2.5"), (lambda: accuracy(["a"], ["b"], labels="ab"), TypeError, "labels 'ab' must be a list"),
    (lambda: accuracy(["a"], ["b"], labels={"a", "b"}), TypeError, "must be a list of labels, in an order")])
def test_wrong_arguments_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_json_labels_are_as_they_are_written(tmp_path):
    written = ["true", "false", "1", "1.5", "-3", "0"]
    p, r = as_file(tmp_path, "p.jsonl", written), as_file(tmp_path, "r.txt", written)
    assert score_files("classification", p, r, samples=0)["accuracy"] == score_files("classification", r, p, samples=0)["accuracy"] == 1
    assert score_files("classification", p, as_file(tmp_path, "q.jsonl", map(json.dumps, written)), samples=0)["accuracy"] == 1
    for value in ("null", '["a"]', '{"label": "a"}'):
        with pytest.raises(ValueError, match=r"references '.*x\.jsonl', line 2 is '.*', no label: give one text or number"):
            score_files("classification", p, as_file(tmp_path, "x.jsonl", ["1", value]), samples=0)


def test_no_intervals_is_a_choice_and_fewer_samples_are_none():
    with pytest.raises(ValueError, match=r"^samples -1 must be 0 \(no intervals\) or more$"):
        score("classification", ["a"], ["a"], samples=-1)
    assert score("classification", ["a"], ["a"], samples=0).intervals == {}


@pytest.mark.parametrize("task, predictions, references, more", [("classification", ["a", "b"], ["a", "a"], dict(probabilities=[[0.9, 0.1], [0.2, 0.8]])), ("multi-label", [["a"], []], [["b"], ["a"]], {}), ("tokens", [["a"]], [["b"]], {})])
def test_labels_may_come_one_by_one(task, predictions, references, more):
    expected = score(task, predictions, references, labels=["a", "b"], samples=20, **more)
    for labels in (iter(["a", "b"]), np.array(["a", "b"]), {"a": 0, "b": 1}.keys()):
        assert score(task, predictions, references, labels=labels, samples=20, **more) == expected


def test_options_of_a_metric_are_read_again_for_each_sample():
    share = lambda predictions, references, labels: len(list(labels)) / 2
    assert bootstrap_interval(share, ["a"], ["b"], labels=iter("ab"), samples=5) == (1, 1)
    for metric in (accuracy, share):
        found, expected = (paired_bootstrap(metric, ["a"], ["b"], ["a"], labels=labels, samples=5) for labels in (iter("ab"), ["a", "b"]))
        assert found == expected


@pytest.mark.parametrize("call, kind, says", [
    (lambda: calibration_error([0.5], None), TypeError, "references is a NoneType: give a list"), (lambda: calibration_error([0.5], 0), TypeError, "references is a int"),
    (lambda: spans("O"), TypeError, "tags is a str: give a list with one element for each token"), (lambda: spans(None), TypeError, "tags is a NoneType"),
    (lambda: bootstrap_interval("accuracy", [1], [1]), TypeError, "metric 'accuracy' is no function"), (lambda: bootstrap_interval(accuracy, [1], [1], confidence=None), ValueError, "confidence None must lie"),
    (lambda: bootstrap_interval(accuracy, [1], [1], positive=1), TypeError, "^accuracy takes no option 'positive': it takes labels"), (lambda: paired_bootstrap(pearson, [1], [1], [1], labels=[1]), TypeError, "^pearson takes no option 'labels': it takes none"),
    (lambda: score(["a"], [1], [1]), ValueError, r"task_type \['a'\] must be one of"), (lambda: accuracy(["a"], ["b"], labels=[["a"], "b"]), ValueError, r"labels\[0\] is \"\['a'\]\", no label"),
    (lambda: pearson([10**400], [1]), ValueError, r"predictions\[0\] is '10000.*no finite number"), (lambda: normalize_answer(None), TypeError, "text None is a NoneType")])
def test_wrong_kinds_are_named(call, kind, says):
    with pytest.raises(kind, match=says):
        call()


def test_labels_of_numpy_are_labels():
    assert accuracy([0, 1], [0, 0], labels=np.arange(2)) == accuracy([0, 1], [0, 0], labels=list(np.arange(2))) == 0.5 and accuracy(["a"], ["a"], labels=np.array(["a"])) == 1


def test_the_p_value_is_two_sided_and_larger_than_that_of_sacrebleu():
    generator = np.random.default_rng(1)
    truth = np.ones(60, int)
    a, b = (generator.random(60) < 0.8).astype(int), (generator.random(60) < 0.6).astype(int)
    found = paired_bootstrap(accuracy, a, b, truth, samples=2000)
    from lmnotes.metrics import _draws
    drawn = np.array([(a[i] == 1).mean() - (b[i] == 1).mean() for i in _draws(60, 0.95, 2000, 0)])
    theirs = np.abs(drawn) - np.abs(drawn).mean()                              # sacrebleu.significance, _paired_bs_test and _compute_p_value
    sided = ((theirs > found.difference).sum() + 1) / 2001
    own = (np.sum(np.abs(drawn - drawn.mean()) >= found.difference) + 1) / 2001
    assert found.p_value == own > sided and "to either side" in " ".join(paired_bootstrap.__doc__.split()) and "as sacrebleu's" not in paired_bootstrap.__doc__


@pytest.mark.parametrize("name", ["p.csv", "p.TSV"])
def test_a_table_is_not_scored_line_by_line(tmp_path, name):
    (tmp_path / name).write_text("label,id\na,1\n")
    (tmp_path / "r.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match=f"references .*{name}' is a table.*write the column alone"):
        score_files("classification", tmp_path / "r.txt", tmp_path / name)
