"""Theory: n-gram models against nltk, KenLM and a second implementation; the synthetic language against closed forms."""
import itertools
import math
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lmnotes import theory
from lmnotes.theory import NGramLanguageModel, SyntheticLanguage

LANGUAGE = SyntheticLanguage()


def sentences(length, seed):
    "Sentences of the synthetic language, each with its stop."
    out = [[]]
    for word in LANGUAGE.sample(length, seed):
        out[-1].append(word)
        if word == ".":
            out.append([])
    return [s for s in out if s]


TRAIN, TEST = sentences(3000, 1), sentences(400, 2) + [["my", "unicorn", "sleeps", "."]]


# --- n-gram models against nltk, where both define the same thing ---

def nltk_model(kind, order, sequences, padded, **options):
    lm, util = pytest.importorskip("nltk.lm"), pytest.importorskip("nltk.util")
    words = [w for s in sequences for w in s] + (["</s>", "<s>"] if padded else [])
    model = getattr(lm, kind)(order=order, vocabulary=lm.Vocabulary(words), **options)
    pad = lambda s: ["<s>"] * (order - 1) + s + ["</s>"] if padded else s
    model.fit([list(util.everygrams(pad(s), max_len=order)) for s in sequences])
    return model


def nltk_log_probs(model, sequence, padded):
    order = model.order
    tokens = ["<s>"] * (order - 1) + sequence + ["</s>"] if padded else sequence
    first = order - 1 if padded else 0
    p = [model.score(tokens[i], tokens[max(0, i - order + 1):i]) for i in range(first, len(tokens))]
    with np.errstate(divide="ignore"):
        return np.log(p)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_maximum_likelihood_is_nltks(order):
    ours, theirs = NGramLanguageModel(order, "mle").fit(TRAIN), nltk_model("MLE", order, TRAIN, True)
    for sequence in TEST:
        np.testing.assert_allclose(ours.log_probs(sequence), nltk_log_probs(theirs, sequence, True), rtol=1e-12)


@pytest.mark.parametrize("order, k", [(1, 1.0), (2, 1.0), (3, 0.1), (4, 0.01)])
def test_add_k_is_nltks_lidstone(order, k):
    "nltk's vocabulary has the mark of the beginning as a word: a word that never occurs stands for it in ours."
    words = ["<never>"] + sorted({w for s in TRAIN for w in s})
    ours = NGramLanguageModel(order, "add_k", k=k, vocabulary=words).fit(TRAIN)
    theirs = nltk_model("Lidstone", order, TRAIN, True, gamma=k)
    assert ours.n_words == len(theirs.vocab)
    for sequence in TEST:
        np.testing.assert_allclose(ours.log_probs(sequence), nltk_log_probs(theirs, sequence, True), rtol=1e-12)


@pytest.mark.parametrize("order, discount", [(2, 0.1), (2, 0.75), (3, 0.5), (4, 0.75)])
def test_kneser_ney_is_nltks_for_the_same_discount(order, discount):
    "nltk takes the discount as given, none from the unigrams, and has no uniform distribution below them."
    stream = [w for s in TRAIN for w in s]
    given = [0.0] + [discount] * (order - 1)
    ours = NGramLanguageModel(order, "kneser_ney", discounts=given, boundaries=False, unknown=None).fit([stream])
    theirs = nltk_model("KneserNeyInterpolated", order, [stream], False, discount=discount)
    test = [w for s in TEST[:-1] for w in s][:200]
    np.testing.assert_allclose(ours.log_probs(test)[order - 1:], nltk_log_probs(theirs, test, False)[order - 1:], rtol=1e-12)


# --- against a second implementation with dictionaries, straight from the paper's formulas ---

def by_dictionaries(sequences, order, n_words, single):
    "Interpolated (modified) Kneser–Ney of Chen and Goodman 1998, recursively, without any array."
    counts = [{} for _ in range(order + 1)]
    for s in sequences:
        s = ("<s>", *s, "</s>")
        for n in range(1, order + 1):
            for i in range(len(s) - n + 1):
                if not (n == 1 and i == 0):
                    counts[n][s[i:i + n]] = counts[n].get(s[i:i + n], 0) + 1
    used = [{} for _ in range(order + 1)]
    used[order] = counts[order]
    for n in range(1, order):
        used[n] = {g: c if g[0] == "<s>" else sum(h[1:] == g for h in counts[n + 1]) for g, c in counts[n].items()}

    def discount(n, c):
        of = [sum(v == i for v in used[n].values()) for i in range(5)]
        y = of[1] / (of[1] + 2 * of[2])
        if single or c == 0:
            return y if c else 0.0
        c = min(c, 3)
        return c - (c + 1) * y * of[c + 1] / of[c]

    def probability(word, context):
        if context and not any(g[:-1] == context for g in used[len(context) + 1]):
            return probability(word, context[1:])
        n = len(context) + 1
        following = {g[-1]: c for g, c in used[n].items() if g[:-1] == context}
        total = sum(following.values())
        left = sum(discount(n, c) for c in following.values()) / total
        below = probability(word, context[1:]) if context else 1 / n_words
        c = following.get(word, 0)
        return (c - discount(n, c)) / total + left * below
    return probability


@pytest.mark.parametrize("smoothing", ["kneser_ney", "modified_kneser_ney"])
def test_kneser_ney_is_the_papers(smoothing):
    rng = np.random.default_rng(0)
    draw = lambda n: [[f"w{int(w)}" for w in rng.zipf(1.4, 8) if w < 400] for _ in range(n)]
    train, test = draw(120), draw(10)
    model = NGramLanguageModel(3, smoothing).fit(train)
    assert (model.discounts_[:, 1:] > 0).all()
    reference = by_dictionaries(train, 3, model.n_words, smoothing == "kneser_ney")
    for s in test:
        marked = ("<s>", *[w if w in model.ids else "<unk>" for w in s], "</s>")
        expected = [math.log(reference(marked[i], marked[max(0, i - 2):i])) for i in range(1, len(marked))]
        np.testing.assert_allclose(model.log_probs(s), expected, rtol=1e-10)


def wikitext(shared_data, split, unknown="<unk>"):
    pd = pytest.importorskip("pandas")
    texts = pd.read_parquet(shared_data / "wikitext2" / f"{split}.parquet")["text"]
    return [[unknown if w == "<unk>" else w for w in text.split()] for text in texts if text.strip()]


def test_wikitext2_order_5_is_kenlms(shared_data):
    "`lmplz -o 5`, `query -v summary` of KenLM on the same lines gave these (benchmarks/ngrams.py --kenlm)."
    model = NGramLanguageModel(5).fit(wikitext(shared_data, "train", "UNK"))
    assert model.perplexity(wikitext(shared_data, "test", "UNK")) == pytest.approx(224.81159125434064, rel=1e-6)
    assert model.perplexity(wikitext(shared_data, "validation", "UNK")) == pytest.approx(239.98401839596673, rel=1e-6)
    kenlm = [[0.729716, 1.15964, 1.49569], [0.866965, 1.27126, 1.47995], [0.942337, 1.41604, 1.53705], [0.959168, 1.52824, 1.50737]]
    np.testing.assert_allclose(model.discounts_[1:, 1:], kenlm, rtol=1e-5)


def test_wikitext2_as_one_stream_with_every_published_token(shared_data):
    pd = pytest.importorskip("pandas")
    stream = {s: [w for t in pd.read_parquet(shared_data / "wikitext2" / f"{s}.parquet")["text"] for w in t.split() + ["<eos>"]]
              for s in ("train", "validation", "test")}
    assert [len(s) for s in stream.values()] == [2_088_628, 217_646, 245_569]      # as in Merity et al. 2016, table 1
    model = NGramLanguageModel(5, boundaries=False).fit([stream["train"]])
    assert model.n_words == 33_278
    assert model.perplexity([stream["validation"]]) == pytest.approx(232.509, abs=1e-2)
    assert model.perplexity([stream["test"]]) == pytest.approx(217.802, abs=1e-2)


# --- n-gram models: what must hold whatever the data ---

@pytest.mark.parametrize("smoothing", theory.SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("boundaries", [True, False])
def test_distributions_sum_to_one_and_agree_with_log_probs(smoothing, order, boundaries):
    model = NGramLanguageModel(order, smoothing, k=0.5, boundaries=boundaries).fit(TRAIN)
    tokens = TEST[0] + TEST[1]
    scored = model.log_probs(tokens)
    for i in range(len(tokens)):
        p = model.distribution(tokens[:i])
        assert p.shape == (model.n_words,) and (p >= 0).all()
        assert p.sum() == pytest.approx(1) or (smoothing == "mle" and p.sum() == 0)
        with np.errstate(divide="ignore"):
            assert np.log(p[model.ids[tokens[i]]]) == pytest.approx(scored[i], rel=1e-12)
    assert model.distribution(["unicorn", "unicorn", "unicorn"]).sum() == pytest.approx(1) or smoothing == "mle"


def test_probabilities_of_all_sequences_sum_to_one():
    "With an end that is predicted, the model is a distribution over sequences of every length."
    model = NGramLanguageModel(2, "add_k", k=0.3, unknown=None).fit([["a", "b"], ["a"], []])
    total = sum(math.exp(model.log_prob(s)) for n in range(11) for s in itertools.product("ab", repeat=n))
    assert 0.9 < total < 1
    longer = total + sum(math.exp(model.log_prob(s)) for s in itertools.product("ab", repeat=11))
    assert total < longer < 1


def test_unknown_words_and_min_count():
    model = NGramLanguageModel(2, min_count=2).fit([["a", "b", "a"], ["c", "a", "a"]])
    assert model.words == ["<unk>", "</s>", "a", "<s>"]
    np.testing.assert_array_equal(model.log_probs(["never", "a"]), model.log_probs(["b", "a"]))
    assert NGramLanguageModel(2, vocabulary=["x", "a"]).fit([["a", "b"]]).words == ["<unk>", "</s>", "x", "a", "<s>"]


def test_tokens_may_be_integers_and_arrays():
    ids = np.random.default_rng(0).integers(0, 5, 300)
    model = NGramLanguageModel(3, boundaries=False, unknown=None).fit([ids])
    assert model.perplexity([ids]) == model.perplexity([ids.tolist()])
    assert model.perplexity(iter([ids[:50], ids[50:]])) > 0


def test_sample_ends_repeats_and_follows_the_model():
    model = NGramLanguageModel(5).fit(TRAIN)
    assert model.sample(30, seed=3) == model.sample(30, seed=3) != model.sample(30, seed=4)
    assert all(model.sample(40, seed=i)[-1] == "." for i in range(5))           # every training sentence stops there
    assert model.sample(1, context=["the", "dog", "near", "the"])[0] in LANGUAGE.words + ["<unk>"]
    assert NGramLanguageModel(2, "mle", boundaries=False, unknown=None).fit([["a", "b"]]).sample(9, context=["b"]) == []


def test_order_beyond_the_sequences_changes_little():
    short = [["a", "b"], ["b"]]
    assert len(NGramLanguageModel(9, "mle").fit(short).log_probs(["a", "b"])) == 3
    assert NGramLanguageModel(9).fit(short).distribution(["a"]).sum() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the largest resident size of a process is read from /proc: getrusage counts that of the process it was started by, too")
def test_five_million_tokens_of_order_five_in_two_gigabytes():
    "The seconds are measured by `benchmarks/ngrams.py`."
    script = textwrap.dedent("""
        import re
        from pathlib import Path
        import numpy as np
        from lmnotes.theory import NGramLanguageModel
        tokens = np.minimum(np.random.default_rng(0).zipf(1.2, 5_000_000), 50_000)      # hardly an n-gram occurs twice
        model = NGramLanguageModel(5, boundaries=False).fit([tokens])
        print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20, sum(map(len, model.keys)))
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(__import__("pathlib").Path(theory.__file__).parent.parent)})
    gigabytes, _ = map(float, done.stdout.split())
    assert gigabytes < 2


# --- bad input ---

def fitted(order, boundaries=False):
    "A model of the synthetic language."
    return NGramLanguageModel(order, vocabulary=LANGUAGE.words, unknown=None, boundaries=boundaries).fit([LANGUAGE.sample(300, 1)])


def test_an_empty_sentence_has_an_end():
    model = NGramLanguageModel(2).fit([["a", "b"], ["a"], []])
    assert model.perplexity([[]]) == pytest.approx(math.exp(-model.log_prob([]))) and model.perplexity([[], ["a"]]) > 1


def test_a_failed_fit_leaves_the_model_as_it_was():
    model = NGramLanguageModel(2, unknown=None, vocabulary=["a", "b"])
    with pytest.raises(ValueError, match="'c' is not in the vocabulary"):
        model.fit([["a", "c"]])
    with pytest.raises(ValueError, match="not fitted"):
        model.log_prob(["a"])
    before = model.fit([["a", "b"], ["a"]]).log_prob(["a"])
    with pytest.raises(ValueError):
        model.fit([["b", "c"]])
    assert model.log_prob(["a"]) == before and "not fitted" not in repr(model)


@pytest.mark.parametrize("call, error, words", [
    (lambda: NGramLanguageModel(0), ValueError, "order is 0"),
    (lambda: NGramLanguageModel(-1), ValueError, "order is -1"),
    (lambda: NGramLanguageModel(2.5), ValueError, "order is 2.5"),
    (lambda: NGramLanguageModel(True), ValueError, "order is True"),
    (lambda: NGramLanguageModel(2, "witten_bell"), ValueError, "choose one of mle"),
    (lambda: NGramLanguageModel(2, "add_k", k=0), ValueError, "k is 0"),
    (lambda: NGramLanguageModel(2, "add_k", k=float("nan")), ValueError, "k is nan"),
    (lambda: NGramLanguageModel(2, discounts=1.5), ValueError, "discounts is 1.5"),
    (lambda: NGramLanguageModel(2, discounts=[0.1, 0.2, 0.3, 0.4]), ValueError, "discounts is"),
    (lambda: NGramLanguageModel(2, min_count=0), ValueError, "min_count is 0"),
    (lambda: NGramLanguageModel(2).fit([]), ValueError, "sequences is empty"),
    (lambda: NGramLanguageModel(2).fit([[], []]), ValueError, "sequences is empty"),
    (lambda: NGramLanguageModel(2).fit("the cat"), TypeError, "text.split"),
    (lambda: NGramLanguageModel(2).fit(["the cat"]), TypeError, "text.split"),
    (lambda: NGramLanguageModel(2).fit([1, 2]), TypeError, "sequence of tokens"),
    (lambda: NGramLanguageModel(2).fit([["a", "</s>"]]), ValueError, "</s>"),
    (lambda: NGramLanguageModel(2).fit([["a"]]).log_probs(["<s>", "a"]), ValueError, "<s>"),
    (lambda: NGramLanguageModel(2).fit([["a"]]).log_probs(["a", "</s>"]), ValueError, "</s>"),
    (lambda: NGramLanguageModel(2).log_prob(["a"]), ValueError, "not fitted"),
    (lambda: NGramLanguageModel(2).fit([["a"]]).perplexity([]), ValueError, "sequences is empty"),
    (lambda: NGramLanguageModel(2, unknown=None).fit([["a"]]).log_prob(["b"]), ValueError, "'b' is not in the vocabulary"),
    (lambda: theory.perplexity([]), ValueError, "log_probs is empty"),
    (lambda: theory.perplexity([0.2, 0.5]), ValueError, "log_probs holds 0.2.*pass logarithms"),
    (lambda: theory.perplexity([-1.0, float("nan")]), ValueError, "log_probs holds nan"),
    (lambda: theory.bits_per_byte([-1.0], 0), ValueError, "n_bytes is 0"),
    (lambda: theory.bits_per_byte([-1.0], float("nan")), ValueError, "n_bytes is nan"),
    (lambda: theory.bits_per_byte([], 5), ValueError, "log_probs is empty"),
    (lambda: theory.bits_per_byte([0.5], 5), ValueError, "log_probs holds 0.5"),
    (lambda: theory.cross_entropy([1.0], [0.5, 0.5]), ValueError, "p has shape (1,.*q (2,"),
    (lambda: theory.kl_divergence([0.5, 0.5], [1.0]), ValueError, "p has shape (2,.*q (1,"),
    (lambda: NGramLanguageModel(2, discounts=float("nan")), ValueError, "discounts is nan"),
    (lambda: NGramLanguageModel(2, discounts=[0.5, float("inf")]), ValueError, "discounts is"),
    (lambda: LANGUAGE.cross_entropy(fitted(2, boundaries=True)), ValueError, "boundaries=False"),
    (lambda: LANGUAGE.cross_entropy(fitted(5), order=2), ValueError, "order is 2, and the model's is 5"),
    (lambda: LANGUAGE.cross_entropy(lambda ids: ids), ValueError, "order is None"),
    (lambda: LANGUAGE.cross_entropy(lambda ids: ids, order=2), ValueError, "shape"),
    (lambda: LANGUAGE.cross_entropy(lambda ids: np.full((len(ids), len(LANGUAGE.words)), 3), order=2), ValueError, "the one of context 0 sums to .*, not 1"),
    (lambda: LANGUAGE.cross_entropy(lambda ids: np.full((len(ids), len(LANGUAGE.words)), 1 / len(ids)), order=3), ValueError, "softmax over the last axis"),
    (lambda: LANGUAGE.conditional_entropy(0), ValueError, "order is 0"),
    (lambda: LANGUAGE.conditional_entropy(-2), ValueError, "order is -2"),
    (lambda: NGramLanguageModel(2, unknown=None, vocabulary=["a"]).fit([["a", "b"]]), ValueError, "'b' is not in the vocabulary"),
    (lambda: LANGUAGE.cross_entropy(NGramLanguageModel(2, boundaries=False).fit([["the", "dog"]])), ValueError, "does not know the word 'my'"),
    (lambda: LANGUAGE.cross_entropy(NGramLanguageModel(2)), ValueError, "not fitted"),
    (lambda: theory.entropy([1, 2]), ValueError, "p is no distribution"),
    (lambda: theory.cross_entropy([0.5, 0.5], [0.9, 0.2]), ValueError, "q is no distribution"),
    (lambda: theory.entropy([]), ValueError, "p is no distribution"),
    (lambda: SyntheticLanguage({"a": {"x": (0.5, "a")}}), ValueError, "no distribution"),
    (lambda: SyntheticLanguage({"a": {"x": (1.0, "b")}}), ValueError, "no such state"),
    (lambda: SyntheticLanguage({"a": {"x": (1.0, "a"), "y": (-0.5, "a")}}), ValueError, "'a' -> 'y' has the probability -0.5"),
    (lambda: SyntheticLanguage({"a": {"x": (float("nan"), "a")}}), ValueError, "'a' -> 'x' has the probability nan"),
    (lambda: LANGUAGE.entropy(-3), ValueError, "length is -3: pass a whole number"),
    (lambda: LANGUAGE.entropy(2.5), ValueError, "length is 2.5"),
    (lambda: LANGUAGE.sample(-1), ValueError, "length is -1"),
    (lambda: LANGUAGE.contexts(-1), ValueError, "length is -1"),
    *((partial(measure, *p, base=base), ValueError, f"base is {base}: pass a number above 1") for base in (1, 0, -2, float("nan"))
      for measure, p in ((theory.entropy, [[0.5, 0.5]]), (theory.cross_entropy, [[0.5, 0.5]] * 2), (theory.kl_divergence, [[0.5, 0.5]] * 2))),
    (lambda: NGramLanguageModel(2, boundaries=False).fit([["a"]]).perplexity([[]]), ValueError, "sequences is empty"),
    (lambda: SyntheticLanguage({}), ValueError, "rules"),
    (lambda: SyntheticLanguage({s: {s: (1.0, s)} for s in "ab"}), ValueError, "separate parts"),
    (lambda: LANGUAGE.log_prob(["the", "unicorn"]), ValueError, "'unicorn' is not a word"),
    (lambda: LANGUAGE.logits([0, 1, 2]), ValueError, "ids has the shape (3,.*ids.None."),
    (lambda: LANGUAGE.logits(np.zeros((2, 0), int)), ValueError, "ids has the shape (2, 0"),
    (lambda: LANGUAGE.logits([]), ValueError, "ids has the shape (0,"),
    (lambda: LANGUAGE.logits([[-18]]), ValueError, "ids holds -18, .* from 0 to 17"),
    (lambda: LANGUAGE.logits([[1, 18]]), ValueError, "ids holds 18, .* from 0 to 17"),
    (lambda: LANGUAGE.logits([[0.5]]), ValueError, "ids holds 0.5, .* a whole number"),
])
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words.replace("(", r"\(")):
        call()


# --- entropy and its relatives ---

def test_entropies_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    p, q = np.random.default_rng(0).dirichlet(np.ones(6), (2, 4))
    np.testing.assert_allclose(theory.entropy(p), stats.entropy(p, axis=-1))
    np.testing.assert_allclose(theory.entropy(p, 2), stats.entropy(p, base=2, axis=-1))
    np.testing.assert_allclose(theory.kl_divergence(p, q), stats.entropy(p, q, axis=-1))
    assert theory.entropy([1, 0]) == 0 and theory.kl_divergence([0.5, 0.5], [1, 0]) == np.inf
    assert theory.cross_entropy([0, 1], [0, 1]) == 0
    near = theory.kl_divergence(p, p * (1 + 1e-12 * np.arange(6)) / (p * (1 + 1e-12 * np.arange(6))).sum(-1, keepdims=True))
    assert (near >= 0).all() and (theory.kl_divergence(p, p) == 0).all()


def test_perplexity_of_uniform_and_of_the_impossible():
    assert theory.perplexity(np.log(np.full(7, 1 / 12))) == pytest.approx(12)
    assert theory.perplexity([0.0, -np.inf]) == np.inf
    assert theory.bits_per_byte(np.log([0.5, 0.25]), 3) == pytest.approx(1)
    assert theory.perplexity([1e-9]) == pytest.approx(1) and str(theory.bits_per_byte([0.0], 5)) == "0.0"          # rounding may pass 0


def test_tensors_of_any_type_are_numbers():
    import torch
    for tensor in (torch.tensor([-1.0, -3.0], requires_grad=True), torch.tensor([-1.0, -3.0], dtype=torch.bfloat16)):
        assert theory.perplexity(tensor) == pytest.approx(math.exp(2)) and theory.bits_per_byte(tensor, 4) == pytest.approx(1 / math.log(2))
        assert theory.entropy(tensor / -4) == theory.entropy([0.25, 0.75])


def test_tables_and_weights_can_be_compared():
    model, again = (NGramLanguageModel(2).fit(TRAIN) for _ in range(2))
    tables = [theory.count_ngrams(np.arange(5), np.arange(5), 2, 5)[1] for _ in range(2)]
    assert model.weights[1] != again.weights[1] and tables[0] != tables[1] and model.weights[1] in model.weights and tables[0] == tables[0]


# --- the synthetic language ---

GOLDEN = {"a": {"1": (0.5, "b"), "0": (0.5, "a")}, "b": {"0": (1.0, "a")}}            # no two 1s in a row
EVEN = {"a": {"0": (0.5, "a"), "1": (0.5, "b")}, "b": {"1": (1.0, "a")}}             # 1s come in even runs: no finite memory


@pytest.mark.parametrize("rules", [GOLDEN, EVEN])
def test_entropy_rate_of_known_processes(rules):
    "Both spend two thirds of the time in the state with one bit of choice."
    assert SyntheticLanguage(rules).entropy_rate == pytest.approx(2 / 3 * math.log(2), rel=1e-12)


def test_a_state_left_for_ever_has_no_share():
    language = SyntheticLanguage({"start": {"go": (1.0, "a")}, **GOLDEN})
    assert language.stationary[0] == 0 and language.entropy_rate == pytest.approx(2 / 3 * math.log(2), rel=1e-12)
    never = lambda ids: np.tile([0.0, 0.5, 0.5], (len(ids), 1))                         # no probability for the word of the start
    assert language.words[0] == "go" and language.cross_entropy(never, order=1) == pytest.approx(math.log(2))


def test_conditional_entropies_fall_to_the_rate():
    golden, even = SyntheticLanguage(GOLDEN), SyntheticLanguage(EVEN)
    assert golden.conditional_entropy(2) == pytest.approx(golden.entropy_rate)          # one token tells the state
    falling = [even.conditional_entropy(n) for n in range(1, 12)]
    assert all(a > b > even.entropy_rate for a, b in zip(falling, falling[1:]))         # no finite context ever does
    floors = [LANGUAGE.conditional_entropy(n) for n in range(1, 8)]
    assert all(a >= b - 1e-12 > LANGUAGE.entropy_rate for a, b in zip(floors, floors[1:]))


def test_a_random_markov_chain_has_its_textbook_entropy_rate():
    p = np.random.default_rng(1).dirichlet(np.ones(5), 5)
    language = SyntheticLanguage({i: {j: (p[i, j], j) for j in range(5)} for i in range(5)})
    values, vectors = np.linalg.eig(p.T)
    stationary = np.real(vectors[:, np.argmax(values.real)])
    stationary /= stationary.sum()
    np.testing.assert_allclose(language.stationary, stationary, atol=1e-12)
    assert language.entropy_rate == pytest.approx(-(stationary @ (p * np.log(p)).sum(1)))


def test_exact_entropy_of_a_length_is_that_of_all_texts():
    for rules in (GOLDEN, EVEN):
        language = SyntheticLanguage(rules)
        log_p = np.array([language.log_prob(text) for text in itertools.product("01", repeat=8)])
        possible = log_p[np.isfinite(log_p)]
        assert np.exp(possible).sum() == pytest.approx(1)
        assert language.entropy(8) == pytest.approx(-(np.exp(possible) * possible).sum())
    assert LANGUAGE.entropy(5000) / 5000 == pytest.approx(LANGUAGE.entropy_rate, rel=1e-3)


def test_contexts_are_the_frequencies_of_a_long_text():
    ids, joint = LANGUAGE.contexts(2)
    text = [LANGUAGE.ids[w] for w in LANGUAGE.sample(200_000, seed=5)]
    seen = {}
    for pair in zip(text, text[1:]):
        seen[pair] = seen.get(pair, 0) + 1
    assert joint.sum() == pytest.approx(1) and set(seen) <= {tuple(c) for c in ids.tolist()}
    for context, p in zip(ids.tolist(), joint.sum(1)):
        assert seen.get(tuple(context), 0) / len(text) == pytest.approx(p, abs=0.004)


def test_the_source_scores_its_own_entropy_rate():
    log_p = LANGUAGE.log_probs(LANGUAGE.sample(300_000, seed=9))
    error = 4 * log_p.std() / math.sqrt(len(log_p))
    assert -log_p.mean() == pytest.approx(LANGUAGE.entropy_rate, abs=error)


def test_a_text_may_be_read_once_only():
    text = LANGUAGE.sample(50, 1)
    assert LANGUAGE.log_prob(iter(text)) == LANGUAGE.log_prob(text) < 0


def test_an_impossible_text_has_probability_zero():
    assert LANGUAGE.log_prob(["the", "dog", "sleep"]) == -np.inf
    assert np.isfinite(LANGUAGE.log_prob(["the", "dogs", "near", "my", "cat", "sleep", "."]))
    assert LANGUAGE.log_probs([]).shape == (0,)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_no_n_gram_model_passes_the_floor_in_expectation(order):
    model = NGramLanguageModel(order, boundaries=False, unknown=None, vocabulary=LANGUAGE.words).fit([LANGUAGE.sample(20_000, 1)])
    exact = LANGUAGE.cross_entropy(model)
    assert exact >= LANGUAGE.conditional_entropy(order) >= LANGUAGE.entropy_rate
    text = LANGUAGE.sample(100_000, seed=2)
    assert -model.log_probs(text).mean() == pytest.approx(exact, abs=0.02)


def test_logits_are_those_of_a_perfect_causal_model():
    text = LANGUAGE.sample(50, seed=3)
    ids = np.array([[LANGUAGE.ids[w] for w in text]])
    logits = LANGUAGE.logits(ids)
    assert logits.shape == (1, 50, len(LANGUAGE.words))
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1)
    scored = logits[0, np.arange(49), ids[0, 1:]]                                       # position t predicts token t + 1
    np.testing.assert_allclose(scored, LANGUAGE.log_probs(text)[1:])
    impossible = LANGUAGE.logits([[LANGUAGE.ids[w] for w in ("the", "dog", "sleep", "the")]])[0]
    np.testing.assert_allclose(np.exp(impossible[2:]), 1 / len(LANGUAGE.words))


def test_exact_cross_entropy_of_a_function_is_that_of_the_model():
    model = NGramLanguageModel(3, "add_k", boundaries=False, unknown=None, vocabulary=LANGUAGE.words).fit([LANGUAGE.sample(2000, 1)])
    as_function = lambda ids: np.array([model.distribution([LANGUAGE.words[i] for i in row]) for row in ids])
    assert LANGUAGE.cross_entropy(as_function, order=3) == pytest.approx(LANGUAGE.cross_entropy(model))
    uniform = lambda ids: np.full((len(ids), len(LANGUAGE.words)), 1 / len(LANGUAGE.words))
    assert LANGUAGE.cross_entropy(uniform, order=1) == pytest.approx(math.log(len(LANGUAGE.words)))
    silent = NGramLanguageModel(5, "mle", boundaries=False, unknown=None, vocabulary=LANGUAGE.words).fit([LANGUAGE.sample(300, 1)])
    assert LANGUAGE.cross_entropy(silent) == np.inf


def test_the_best_model_of_an_order_is_the_languages_own_conditional_distribution():
    for order in (1, 2, 4):
        ids, joint = LANGUAGE.contexts(order - 1)
        best = joint @ LANGUAGE.emission / joint.sum(1, keepdims=True)
        assert LANGUAGE.cross_entropy(lambda _: best, order) == pytest.approx(LANGUAGE.conditional_entropy(order), rel=1e-12)


def test_theory_imports_without_torch():
    code = "import sys, lmnotes.theory; assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
