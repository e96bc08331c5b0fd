"""Labelled data: every family, layout and mistake, splits that do not leak, the embedded tasks against independent counts."""
import json
import logging
import os
from decimal import Decimal

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Translation, Value

from lmnotes import tasks
from lmnotes.metrics import spans
from lmnotes.tasks import (class_weights, heuristic_predictions, heuristic_score, load_task, parameters_in, recognise, repair_bio, signature_defaults, signature_names,
                           stratified_split, task_card)

TEXTS = [f"text number {i}" for i in range(40)]
LABELS = ["rare" if i % 10 == 0 else "usual" for i in range(40)]
SQUAD = {"id": ["1", "2"], "question": ["What?", "Who?"], "context": ["It is an int.", "Nobody."], "answers": [{"text": ["int"], "answer_start": [9]}, {"text": [], "answer_start": []}]}


def both(columns, features=None):
    "The same rows as training and test split."
    rows = Dataset.from_dict(columns, features=features)
    return {"train": rows, "test": rows}


# ---- families

@pytest.mark.parametrize("columns, family, kept", [
    ({"sms": TEXTS, "label": LABELS}, "classification", ["text", "label"]),
    ({"id": list(range(40)), "premise": TEXTS, "hypothesis": TEXTS, "label": LABELS}, "classification", ["text", "text_pair", "label"]),
    ({"sentence": TEXTS, "label": [i / 3 for i in range(40)]}, "regression", ["text", "label"]),
    ({"text": TEXTS, "labels": [["a", "b"], ["a"], [], ["c"]] * 10}, "multi-label", ["text", "labels"]),
    ({"words": [["in", "Paris"]] * 40, "ner_tags": [["O", "B-LOC"]] * 40}, "tokens", ["tokens", "tags"]),
    ({"tokens": ["in Paris"] * 40, "tags": ["O B-LOC"] * 40}, "tokens", ["tokens", "tags"]),
    ({"tokens": [["in", "Paris"]] * 40, "pos_tags": [[0, 7]] * 40}, "tokens", ["tokens", "tags"]),
    (SQUAD, "question-answering", ["id", "question", "context", "answers"]),
    ({"question": ["What?"], "context": ["an int"], "answer": ["int"]}, "question-answering", ["id", "question", "context", "answers"]),
    ({"prompt": TEXTS, "completion": TEXTS}, "generation", ["source", "target"]),
    ({"id": TEXTS, "article": TEXTS, "highlights": TEXTS}, "generation", ["source", "target"]),
    ({"translation": [{"en": t, "de": t.upper()} for t in TEXTS]}, "generation", ["source", "target"]),
    ({"de": TEXTS, "en": TEXTS}, "generation", ["source", "target"]),
    ({"text": TEXTS}, "generation", ["source", "target"]),
])
def test_families_are_recognised_and_take_one_form(columns, family, kept):
    data = both(columns)
    assert recognise(data) == recognise(data["train"]) == family
    loaded = load_task(data)
    assert loaded["train"].column_names == kept and len(loaded["train"]) == len(loaded["test"]) == len(data["train"])
    assert recognise(loaded) == family                                       # the form is read as what it is
    again = load_task(loaded)
    assert {s: d.features for s, d in again.items()} == {s: d.features for s, d in loaded.items()}
    assert sorted(map(str, again["test"])) == sorted(map(str, loaded["test"]))


def test_numbers_that_are_hidden_are_no_numbers(caplog):
    "STS-B's test split has -1 for each; a split of real numbers, -1 among them, stays."
    rows = lambda values: Dataset.from_dict({"sentence1": TEXTS, "sentence2": TEXTS[::-1], "label": values})
    real = [i / 8 - 1 for i in range(40)]
    loaded = load_task({"train": rows(real), "validation": rows(real), "test": rows([-1.0] * 40)}, "regression")
    assert loaded["test"]["label"][:] == real and sorted(loaded["train"]["label"]) == real and "none of its 40 rows has a label" in caplog.text


def test_names_of_labels_keep_their_order():
    assert load_task(both({"text": TEXTS, "label": [str(i % 12) for i in range(40)]}))["train"].features["label"].names == [str(i) for i in range(12)]
    declared = Features({"text": Value("string"), "label": ClassLabel(names=["z", "a"])})
    loaded = load_task(both({"text": TEXTS, "label": [0, 1] * 20}, declared))
    assert loaded["test"].features["label"].names == ["z", "a"] and loaded["test"]["label"][:2] == [0, 1]
    tags = load_task(both({"tokens": [["a", "b", "c"]], "tags": [["B-X", "O", "B-A"]]}))["train"].features["tags"].feature.names
    assert tags == ["O", "B-A", "B-X"]
    assert load_task(both({"text": TEXTS, "label": [1.0, 2.0] * 20}))["train"].features["label"].names == ["1", "2"]
    assert load_task(both({"text": TEXTS, "label": [-1, 0, 1, 1] * 10}))["train"].features["label"].names == ["-1", "0", "1"]


def test_columns_and_family_may_be_said():
    rows = {"body": TEXTS, "title": [t.upper() for t in TEXTS], "kind": LABELS, "stars": [i % 5 for i in range(40)]}
    loaded = load_task(both(rows), text_column="body", label_column="kind")
    assert loaded["test"].features["label"].names == ["rare", "usual"]
    assert load_task(both(rows), "regression", text_column="body", label_column="stars")["test"].features["label"].dtype == "float64"
    pair = load_task(both(rows), text_column=["title", "body"], label_column="kind")["test"]
    assert pair[0]["text"] == TEXTS[0].upper() and pair[0]["text_pair"] == TEXTS[0]
    written = load_task(both(rows), "summarization", text_column="body", label_column="title")["test"]
    assert written[3] == {"source": TEXTS[3], "target": TEXTS[3].upper()}
    assert load_task(both(rows), "generation", text_column="body")["test"][0] == {"source": "", "target": TEXTS[0]}
    translation = both({"translation": [{"en": "cat", "de": "Katze"}] * 4}, Features({"translation": {"en": Value("string"), "de": Value("string")}}))       # Arrow before 22 puts the languages in the order of the alphabet
    assert load_task(translation)["test"][0] == {"source": "cat", "target": "Katze"}
    assert load_task(translation, text_column="de")["test"][0] == load_task(translation, text_column="de", label_column="en")["test"][0] == {"source": "Katze", "target": "cat"}
    asked = load_task(both({"q": ["What?"], "passage": ["an int"], "reply": ["int"]}), "question-answering", text_column=["q", "passage"], label_column="reply")
    assert asked["test"][0]["answers"] == {"text": ["int"], "answer_start": [3]}


# ---- layouts

def test_files_and_folders(tmp_path):
    rows = Dataset.from_dict({"text": [*TEXTS, "say \"None\", or NA"], "label": [*LABELS, "NA"]})
    rows = rows.select([*range(40), 40, 40])
    wanted = sorted((t, l) for t, l in zip(rows["text"], rows["label"]))
    rows.to_csv(tmp_path / "a.csv"), rows.to_csv(tmp_path / "a.tsv", sep="\t"), rows.to_json(tmp_path / "a.jsonl"), rows.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(list(rows)), encoding="utf-8")
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.csv").read_bytes())
    read = lambda d: sorted((r["text"], d.features["label"].names[r["label"]]) for r in d)
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "bom.csv"):
        assert read(load_task({"train": tmp_path / name, "test": str(tmp_path / name)}, cache_dir=tmp_path / "cache")["test"]) == wanted, name
    whole = load_task(tmp_path / "a.csv", cache_dir=tmp_path / "cache")
    assert sorted(read(whole["train"]) + read(whole["test"])) == wanted
    folder = tmp_path / "folder"
    folder.mkdir()
    rows.to_csv(folder / "train.csv"), rows.select(range(4)).to_csv(folder / "dev.csv"), rows.select(range(6)).to_json(folder / "test.jsonl")
    assert {s: len(d) for s, d in load_task(folder, cache_dir=tmp_path / "cache").items()} == {"train": 42, "validation": 4, "test": 6}
    DatasetDict(both({"text": TEXTS, "label": LABELS})).save_to_disk(tmp_path / "disk")
    assert len(load_task(tmp_path / "disk")["test"]) == 40
    Dataset.from_dict({"text": TEXTS, "label": LABELS}).save_to_disk(tmp_path / "one")
    assert sum(map(len, load_task(str(tmp_path / "one")).values())) == 40


def test_official_squad_files(tmp_path):
    nested = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "It is an int.", "qas": [
        {"id": "a", "question": "What?", "answers": [{"text": "int", "answer_start": 9}], "is_impossible": False},
        {"id": "b", "question": "Who?", "answers": [], "is_impossible": True, "plausible_answers": []}]}]}]}
    (tmp_path / "dev-v2.0.json").write_text(json.dumps(nested), encoding="utf-8")
    path = tmp_path / "dev-v2.0.json"
    loaded = load_task({"train": path, "test": path})
    assert list(loaded["test"]) == [{"id": "a", "question": "What?", "context": "It is an int.", "answers": {"text": ["int"], "answer_start": [9]}},
                                    {"id": "b", "question": "Who?", "context": "It is an int.", "answers": {"text": [], "answer_start": []}}]


# ---- splits

def test_a_split_is_stratified_and_keeps_equal_texts_together():
    texts = [f"text {i // 2}" if i % 2 else f"Text  {i // 2} " for i in range(200)]
    labels = ["rare" if i < 12 else "usual" for i in range(200)]
    held = stratified_split(texts, labels)
    assert (held[::2] == held[1::2]).all() and (held == stratified_split(texts, labels)).all() and (held != stratified_split(texts, labels, seed=1)).any()
    assert held[:12].sum() == 2 and held[12:].sum() == 18
    assert not stratified_split(["a", "a"], ["x", "x"]).any()               # nothing can be held out of one text
    for fraction in (-1, 0, 1, 5, float("nan")):
        with pytest.raises(ValueError, match=f"fraction {fraction} must lie between 0 and 1, as 0.1"):
            stratified_split(texts, labels, fraction)
    order = np.random.default_rng(0).permutation(200)
    assert (stratified_split([texts[i] for i in order], [labels[i] for i in order]) == held[order]).all()


@pytest.mark.parametrize("columns, key", [
    ({"text": [f"t{i % 30}" for i in range(120)], "label": [("x", "y")[i % 2] for i in range(120)]}, "text"),
    ({"text": [f"t{i % 30}" for i in range(120)], "labels": [["x"] * (i % 2) for i in range(120)]}, "text"),
    ({"text": [f"t{i % 30}" for i in range(120)], "label": [i / 7 for i in range(120)]}, "text"),
    ({"question": [f"q{i}" for i in range(120)], "context": [f"c{i % 30} int" for i in range(120)], "answer": ["int"] * 120}, "context"),
    ({"source": [f"s{i % 30}" for i in range(120)], "target": TEXTS * 3}, "source"),
    ({"text": [f"t{i % 30}" for i in range(120)]}, "target"),
])
def test_nothing_stands_on_both_sides(columns, key):
    loaded = load_task(Dataset.from_dict(columns))
    assert set(loaded) == {"train", "test"} and len(loaded["train"]) + len(loaded["test"]) == 120 and 8 <= len(loaded["test"]) <= 40
    assert not set(loaded["train"][key]) & set(loaded["test"][key])


def test_choices_are_nested_and_repeat():
    data = both({"text": TEXTS, "label": LABELS})
    small, large = (set(load_task(data, train_examples=n)["train"]["text"]) for n in (5, 20))
    assert small < large and len(small) == 5 and len(large) == 20
    assert load_task(data, train_examples=5)["train"]["text"][:] == load_task(data, train_examples=5)["train"]["text"][:]
    assert load_task(data)["test"]["text"][:] == TEXTS and len(load_task(data, test_examples=7)["test"]) == 7
    assert small != set(load_task(data, train_examples=5, seed=1)["train"]["text"])


def test_a_test_split_without_labels_is_reported(caplog):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["x", "y"])})
    rows, hidden = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 20}, features=features), Dataset.from_dict({"text": TEXTS, "label": [-1] * 40}, features=features)
    with caplog.at_level(logging.WARNING):
        loaded = load_task({"train": rows, "validation": rows.select(range(6)), "test": hidden})
    assert set(loaded) == {"train", "test"} and len(loaded["test"]) == 6 and "none of its 40 rows has a label" in caplog.text and "validation split" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        loaded = load_task({"train": rows, "test": rows.remove_columns("label")})
    assert len(loaded["train"]) + len(loaded["test"]) == 40 and "no column 'label'" in caplog.text


def test_texts_that_stand_in_training_too_are_counted(caplog):
    train, test = Dataset.from_dict({"text": TEXTS, "label": LABELS}), Dataset.from_dict({"text": ["TEXT number 3", "other"], "label": ["rare", "usual"]})
    with caplog.at_level(logging.WARNING):
        load_task({"train": train, "test": test})
    assert "test: 1 of 2" in caplog.text


# ---- mistakes

def test_rows_without_text_or_label_are_counted(caplog):
    with caplog.at_level(logging.WARNING):
        loaded = load_task(both({"text": ["a", " ", None, "d", "e", "f"], "label": ["x", "x", "y", None, "", "y"]}))
    assert len(loaded["train"]) == 2 and "train: 4 of 6 rows" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        loaded = load_task(both({"source": ["a", "b", ""], "target": ["A", "", "C"]}))
    assert len(loaded["train"]) == 1 and "2 of 3 rows" in caplog.text


def test_answers_are_found_again_or_left_out(caplog):
    context = "axis is an int and depth is an int"
    columns = {"question": ["a", "b", "c", "d", "e"], "context": [context] * 5, "answer": ["int", "int", "float", None, "int"], "answer_start": [11, 30, 3, None, None]}
    with caplog.at_level(logging.WARNING):
        loaded = load_task(both(columns))
    starts = {row["question"]: row["answers"]["answer_start"] for row in loaded["train"]}
    assert starts == {"a": [11], "b": [31], "d": [], "e": [11]} and len(loaded["test"]) == 5
    assert {row["question"]: row["answers"]["answer_start"] for row in loaded["test"]}["c"] == [-1]
    assert "train: 1 answer stood at another place than its offset said and was found" in caplog.text
    assert "train: 1 question has an answer that is not in its context and was left out" in caplog.text and "test: 1 question has an answer that is not in its context; it stays" in caplog.text


def test_bio_is_repaired_and_counted(caplog):
    rows = [["I-A", "I-A", "O", "I-B"], ["B-A", "I-A", "I-B", "O"], ["O", "B-B", "B-B", "I-B"]]
    assert [repair_bio(r) for r in rows] == [["B-A", "I-A", "O", "B-B"], ["B-A", "I-A", "B-B", "O"], rows[2]]
    rng = np.random.default_rng(0)
    for _ in range(200):
        tags = rng.choice(["O", "B-A", "I-A", "B-B", "I-B"], rng.integers(0, 9)).tolist()
        assert spans(repair_bio(tags)) == spans(tags) and repair_bio(repair_bio(tags)) == repair_bio(tags)
    with caplog.at_level(logging.WARNING):
        loaded = load_task(both({"tokens": [list("abcd")] * 3, "tags": rows}))
    assert "train: 3 tags I-" in caplog.text
    names = loaded["test"].features["tags"].feature.names
    assert [[names[t] for t in row] for row in loaded["test"]["tags"]] == [repair_bio(r) for r in rows]
    with pytest.raises(ValueError, match="tag 1 is 'X'"):
        repair_bio(["O", "X"])
    assert load_task(both({"tokens": [["a", "b"]], "tags": [["B-A", "E-A"]]}))["train"].features["tags"].feature.names == ["B-A", "E-A"]      # another scheme stays


ROWS = both({"text": TEXTS, "label": LABELS})


@pytest.mark.parametrize("call, words", [
    (lambda: load_task(ROWS, text_column="body"), "text_column 'body' is not there: the columns are text, label"),
    (lambda: load_task(ROWS, label_column="kind"), "label_column 'kind' is not there: the columns are text, label"),
    (lambda: load_task(both({"words": TEXTS, "rows": LABELS, "label": LABELS})), "text or sentence"),
    (lambda: load_task(ROWS, "tokens"), "the columns are text, label"),
    (lambda: load_task(ROWS, "question-answering"), "question and context"),
    (lambda: load_task(both({"text": TEXTS, "label": ["x"] * 40})), "one label only, x"),
    (lambda: load_task(both({"tokens": [["a"]], "tags": [["O"]]})), "one label only, O"),
    (lambda: load_task({"train": ROWS["train"], "test": Dataset.from_dict({"text": ["a"], "label": ["new"]})}), "label new stands in a held-out split and not in training.*training examples of it"),
    (lambda: load_task({"train": Dataset.from_dict({"tokens": [["a", "b"]], "tags": [["O", "B-A"]]}), "test": Dataset.from_dict({"tokens": [["a", "b"]], "tags": [["B-Z", "B-Y"]]})}), "labels B-Y, B-Z stand in .*training examples of them"),
    (lambda: load_task(both({"tokens": [["a", "b"], ["c"]], "tags": [["O", "B-A"], ["O", "O"]]})), "train, row 1: 1 token and 2 tags"),
    (lambda: load_task(ROWS, "regression"), "no number"),
    (lambda: load_task(both({"text": TEXTS, "label": [float("inf")] * 40}), "regression"), "no finite number"),
    (lambda: load_task(ROWS, "multi-label"), "holds no lists"),
    (lambda: load_task(ROWS, "sentiment"), "task 'sentiment' is not known"),
    (lambda: load_task(ROWS, "tokens", regression=True), "say different things"),
    (lambda: load_task(ROWS, train_examples=0), "train_examples 0"),
    (lambda: load_task({"test": ROWS["test"]}), "no split train"),
    (lambda: load_task(Dataset.from_dict({"text": [""], "label": ["x"]})), "no training example"),
    (lambda: load_task(Dataset.from_dict({"text": ["a"], "label": ["x"]})), "no test split and too few"),
    (lambda: load_task(both({"text": [["a"], ["b"]], "label": ["x", "y"]}), text_column="text"), "not text"),
    (lambda: load_task(both({"text": TEXTS, "labels": [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]] * 20})), "train: the lists of column 'labels' hold 0 and 1 only.*flatnonzero"),
    (lambda: load_task(both({"text": TEXTS, "labels": [[True, False], [False, True]] * 20})), "hold 0 and 1 only"),
    (lambda: load_task(both({"tokens": [["a", "b"]] * 2, "tags": [[0, 1], [1, -100]]})), "train, row 1: tag 1 of column 'tags' is -100"),
    (lambda: load_task(both({"question": TEXTS, "answer": [True, False] * 20, "passage": TEXTS})), "text or sentence.*columns are question, answer, passage"),
    (lambda: load_task(both({"question": TEXTS, "answer": ["yes", "no"] * 20, "passage": TEXTS})), "text or sentence"),
    (lambda: load_task("docstrings/sentiment"), "no embedded task"),
    (lambda: task_card("sst2"), "no embedded task"),
    (lambda: class_weights([]), "at least one"),
    (lambda: class_weights([3], 2), "below 2"),
])
def test_mistakes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_task("missing.csv")
    with pytest.raises(FileNotFoundError, match="hub"):
        load_task("nobody/nothing")
    with pytest.raises(TypeError, match="list"):
        load_task([1])
    with pytest.raises(TypeError, match="data IterableDataset cannot be read: give"):
        load_task({"train": ROWS["train"].to_iterable_dataset()})
    for name in ("latin.csv", "latin.jsonl", "latin.json"):
        (tmp_path / name).write_bytes('{"text": "caf\xe9", "label": "x"}\n'.encode("latin-1"))
        with pytest.raises(ValueError, match=f"{name} is not utf-8: byte \\d+ cannot be read; save it as UTF-8"):
            load_task(tmp_path / name, cache_dir=tmp_path / "cache")
    for name, content, words in (("a.txt", "text", "endings are"), ("a.csv", "", "is empty"), ("a.jsonl", "{broken", "cannot be read as json")):
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            load_task(tmp_path / name, cache_dir=tmp_path / "cache")


def written(path, text):
    "The training split of a file with this text, and the cache beside it."
    path.write_text(text, encoding="utf-8")
    return load_task(path, cache_dir=path.parent / "cache")["train"]


def test_types_of_a_file_are_guessed_from_all_of_it(tmp_path):
    late = "text,label,note\n" + "".join(f"doc {i},{3.5 if i > 10500 else i % 5},{'hello' if i > 10500 else ''}\n" for i in range(10600))
    assert written(tmp_path / "late.csv", late).features["label"].dtype == "float64"


def test_numbers_and_dates_can_be_texts(tmp_path):
    sums = written(tmp_path / "a.csv", "source,target\n" + "".join(f"{i}+{i},{2 * i}\n" for i in range(30)))
    assert all(row["target"] == str(2 * int(row["source"].split("+")[0])) for row in sums)
    dates = [f"2021-05-{i:02d}{'T10:00:00' * (i % 2)}" for i in range(1, 30)]
    rows = written(tmp_path / "b.jsonl", "".join(json.dumps({"source": f"day {i}", "target": d}) + "\n" for i, d in enumerate(dates)))
    assert all(dates[int(row["source"].split()[1])] == row["target"] for row in rows)
    years = written(tmp_path / "c.csv", "question,context,answer\n" + "".join(f"when {i}?,It was 19{i} there,{'' if i == 20 else f'19{i}'}\n" for i in range(10, 40)))
    assert all(row["answers"]["text"] == ([] if row["question"] == "when 20?" else [row["context"].split()[2]]) for row in years)
    assert tasks._as_text(1.5) == "1.5" and tasks._as_text(float("nan")) is tasks._as_text(None) is None and tasks._answer_pairs([1950], None) == [("1950", None)]


def test_a_csv_file_is_read_as_it_is_written(tmp_path):
    "No type is guessed; only labels with fractions are numbers, and whole ones keep their names."
    kept = ["5.50", "005", "1e3", "true", "False", "9007199254740993", "1_0", "None", "NA", "2021-01-01"]
    for name, mark in (("a.csv", ","), ("a.tsv", "\t")):
        rows = written(tmp_path / name, f"source{mark}target\n" + "".join(f"{v} {i}{mark}{v}\n" for v in kept for i in range(3)))
        assert {row["source"].split()[0] for row in rows} >= {row["target"] for row in rows} and set(rows["target"]) == set(kept)
    numbers = written(tmp_path / "b.csv", "text,label,remark\n" + "".join(f"00{i}.50,{'' if i == 3 else f'0{i % 2}'},\n" for i in range(30)))
    assert numbers.features["label"].names == ["00", "01"] and all(text.startswith("00") and text.endswith(".50") for text in numbers["text"])
    answers = written(tmp_path / "c.csv", "question,context,answer,answer_start\n" + "".join(f"is it {i}?,it is true {i},true,{'' if i % 2 else 6.0}\n" for i in range(30)))
    assert len(answers) > 20 and all(row["answers"] == {"text": ["true"], "answer_start": [6]} for row in answers)
    assert written(tmp_path / "d.csv", "text,label\n" + "".join(f"a{i},{i / 4}\n" for i in range(30))).features["label"].dtype == "float64"
    assert written(tmp_path / "e.csv", "text,label\n" + "".join(f"a{i},{i % 2}.0\n" for i in range(30))).features["label"].names == ["0", "1"]
    (tmp_path / "f.csv").write_text("words,stars\n" + "".join(f"a{i},{i / 4}\n" for i in range(30)))
    assert load_task(tmp_path / "f.csv", text_column="words", label_column="stars", cache_dir=tmp_path / "cache")["train"].features["label"].dtype == "float64"


def test_a_column_of_numbers_is_not_taken_for_the_text(tmp_path):
    rows = written(tmp_path / "a.csv", "sms,length,read,label\n" + "".join(f"a{i},{i},{bool(i % 2)},{'xy'[i % 2]}\n" for i in range(30)))
    assert all(text.startswith("a") for text in rows["text"])
    assert len(written(tmp_path / "b.csv", "code,label\n" + "".join(f"{i},{'xy'[i % 2]}\n" for i in range(30)))) > 20


def test_values_of_several_types_are_read_plainly(tmp_path):
    mixed = [{"text": i if i % 3 else f"t{i}", "label": i % 2 if i < 20 else "spam"} for i in range(30)]
    rows = written(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in mixed))
    assert rows.features["label"].names == ["0", "1", "spam"] and set(rows["text"]) < {str(row["text"]) for row in mixed}
    lists = written(tmp_path / "b.jsonl", "".join(json.dumps({"text": f"t{i}", "labels": [1, "spam"][:i % 3]}) + "\n" for i in range(30)))
    assert lists.features["labels"].feature.names == ["1", "spam"]


def test_the_hubs_translations():
    split = Dataset.from_dict({"id": ["0", "1"], "translation": [{"en": "cat", "de": "Katze"}] * 2}, features=Features({"id": Value("string"), "translation": Translation(languages=["en", "de"])}))
    data = {"train": split, "test": split}
    assert recognise(data) == "generation" and load_task(data)["test"][0] == {"source": "cat", "target": "Katze"}
    assert load_task(data, "translation", text_column="de")["test"][0] == {"source": "Katze", "target": "cat"}


def test_a_label_that_is_named_twice_counts_once(caplog):
    loaded = load_task(both({"text": TEXTS, "labels": [["a", "b", "a"], ["b"], [], ["a", "a"]] * 10}))
    names = loaded["test"].features["labels"].feature.names
    assert [[names[i] for i in row] for row in loaded["test"]["labels"][:4]] == [["a", "b"], ["b"], [], ["a"]] and "train: 20 rows name a label twice" in caplog.text


def test_counts_of_one_are_singular(caplog):
    labels = lambda rows: Dataset.from_dict({"text": [f"t{i}" for i in range(len(rows))], "labels": rows})
    words = lambda tags: Dataset.from_dict({"tokens": [["a", "b"]] * len(tags), "tags": tags})
    with caplog.at_level(logging.WARNING):
        load_task({"train": labels([["a", "a"], ["b"], ["a"]]), "test": labels([["a"]])})
        load_task({"train": words([["O", "I-A"], ["O", "B-A"]]), "test": words([["O", "B-A"]])})
        load_task({"train": ROWS["train"], "test": Dataset.from_dict({"text": ["new", ""], "label": ["usual", "usual"]})})
        load_task({"train": ROWS["train"], "validation": Dataset.from_dict({"text": ["new"], "label": ["usual"]}), "test": Dataset.from_dict({"text": ["a"], "label": [None]}, features=ROWS["train"].features)})
    for said in ("train: 1 row names a label twice", "train: 1 tag I- without its B- was made B-", "test: 1 of 1 different text stands in the training split, too, and flatters",
                 "test: 1 of 2 rows lacks text, label or a usable answer and was left out", "test: its only row lacks a label, and the split is left out"):
        assert said in caplog.text, said


def test_only_names_of_embedded_tasks_are_embedded(tmp_path, monkeypatch):
    "A file or a folder whose name begins with docstrings is a file or a folder."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "load_corpus", lambda source, **_: {"train": Dataset.from_dict({"text": TEXTS, "package": LABELS, "name": TEXTS}), "test": Dataset.from_dict({"text": TEXTS, "package": LABELS, "name": TEXTS})})
    (tmp_path / "docstrings_labelled").mkdir(), (tmp_path / "docstrings" / "package").mkdir(parents=True)
    for name in ("docstrings.csv", "docstrings_labelled/train.csv", "docstrings/mine.csv", "docstrings/package/train.csv"):
        Dataset.from_dict({"text": TEXTS, "label": [("x", "y")[i % 2] for i in range(40)]}).to_csv(tmp_path / name)
    for name in ("docstrings.csv", "docstrings_labelled", "docstrings_labelled/train.csv", "docstrings/mine.csv"):
        assert load_task(name, cache_dir=tmp_path / "cache")["train"].features["label"].names == ["x", "y"], name
    for name in ("docstrings/package", "docstrings/package:numpy"):                     # an embedded task stays one, whatever stands here
        assert load_task(name)["train"].features["label"].names == ["rare", "usual"]
    for name in ("docstrings/sentiment", "docstrings/sentiment:numpy", "docstrings:numpy"):
        with pytest.raises(ValueError, match=f"data '{name.partition(':')[0]}' is no embedded task: there are docstrings/package"):
            load_task(name)
    with pytest.raises(FileNotFoundError, match="docstrings_other.csv"):
        load_task("docstrings_other.csv")


def test_two_splits_of_one_usual_name_are_refused(tmp_path):
    for names in (("train", "training"), ("train", "validation", "dev"), ("train", "test", "Test")):
        with pytest.raises(ValueError, match=f"'{names[-2]}' and '{names[-1]}' are both the split {names[-2]}"):
            load_task(dict.fromkeys(names, ROWS["train"]))
    for first, second in (("train.csv", "training.csv"), ("test.csv", "test.tsv")):
        folder = tmp_path / second
        folder.mkdir()
        for name in {"train.csv", first, second}:
            (folder / name).write_text("text,label\na,x\nb,y\n")
        with pytest.raises(ValueError, match=f"'{first}' and '{second}' are both the split"):
            load_task(folder)
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(2):
        (folder / f"train-0000{i}-of-00002.csv").write_text("text,label\n" + "".join(f"{i} {t},{l}\n" for t, l in zip(TEXTS, LABELS)))
    assert sum(map(len, load_task(folder, cache_dir=tmp_path / "cache").values())) == 80


def test_words_in_csv(tmp_path):
    spelt = written(tmp_path / "a.csv", "tokens,tags\n" + "".join(f"\"['EU{i}', 'rejects it']\",\"['B-ORG', 'O']\"\n" for i in range(20)))
    assert spelt.features["tags"].feature.names == ["O", "B-ORG"] and all(len(row["tokens"]) == 2 and row["tokens"][1] == "rejects it" for row in spelt)
    with pytest.raises(ValueError, match="train, row 0: column 'tokens' has .* which is no list"):
        written(tmp_path / "b.csv", "tokens,tags\n" + "['a' 'b'],O B-X\n" * 20)
    marked = written(tmp_path / "c.csv", "tokens,tags\n" + "".join(f"[CLS] a{i} [SEP],O B-X O\n" for i in range(20)))
    assert all(row["tokens"][::2] == ["[CLS]", "[SEP]"] for row in marked)


def test_a_word_for_each_label_is_a_token_task():
    assert recognise(both({"tokens": [f"a b{i}" for i in range(30)], "labels": ["O B-X"] * 30})) == "tokens"
    assert recognise(both({"tokens": ["a b", "c"], "ner_tags": ["O B-X", None]})) == "tokens"
    assert recognise(both({"tokens": ["a b", "c d"], "labels": ["good", "bad"]})) == recognise(both({"tokens": ["a", "b"], "labels": ["good", "bad"]})) == "classification"


# ---- weights and scores without learning

def test_weights_are_balanced():
    weights = class_weights([0] * 6 + [2] * 2, 4)
    np.testing.assert_allclose(weights, [8 / 12, 0, 2, 0])
    np.testing.assert_allclose(class_weights([[0, 1], [1], []], 2), [2, 0.5])
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.random.default_rng(0).choice(4, 50, p=[0.7, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(class_weights(labels), sklearn.compute_class_weight("balanced", classes=np.unique(labels), y=labels))


@pytest.mark.parametrize("columns, name, value", [
    ({"text": TEXTS, "label": LABELS}, "accuracy", 0.9),
    ({"text": TEXTS, "label": [0.5, 1.5] * 20}, "root_mean_squared_error", 0.5),
    ({"text": TEXTS, "labels": [["a"], ["a", "b"]] * 20}, "subset_accuracy", 0.5),
    ({"tokens": [["in", "Paris"]] * 2, "tags": [["O", "B-LOC"]] * 2}, "span_f1", 1),
    ({"question": ["What is the axis?"], "context": ["Nobody knows. The axis is an int."], "answer": ["The axis is an int."]}, "exact_match", 1),
    ({"source": ["One cat sat. It slept."], "target": ["One cat sat."]}, "rouge1", 1),
])
def test_scores_without_learning(columns, name, value):
    loaded = load_task(both(columns))
    assert heuristic_score(loaded)[name] == pytest.approx(value) and len(heuristic_predictions(loaded)) == len(loaded["test"])


# ---- embedded tasks

DOCSTRING = """Do it.

Parameters
----------
x, *args : array_like or None
    Data: the values. More of it.
copy : bool, default: True
    Whether to copy.

See Also
--------
other : Something else.
"""


def test_parameters_of_both_styles_are_found_by_their_places():
    parts = lambda text: [([text[slice(*n)] for n in p.names], *(text[slice(*s)] if s else None for s in (p.type, p.default, p.description))) for section in parameters_in(text) for p in section]
    assert parts(DOCSTRING) == [(["x", "args"], "array_like or None", None, "Data: the values. More of it."), (["copy"], "bool", "True", "Whether to copy.")]
    google = "Do it.\n\nArgs:\n    x (`int`, *optional*, defaults to 3):\n        The `x` (see y): more.\n    **kw: The rest.\n\nReturns:\n    z (int): No parameter.\n"
    assert parts(google) == [(["x"], "`int`", "3", "The `x` (see y): more."), (["kw"], None, None, "The rest.")]
    assert parameters_in("No section here: at all.") == [] and parameters_in("") == []


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return {name: load_task(f"docstrings/{name}:datasets", cache_dir=cache) for name in ("package", "parameters", "qa", "summary")
            if name != "package"} | {"cache": cache}


def test_embedded_tasks_hold_together(embedded):
    from lmnotes.corpora import load_corpus
    corpus = load_corpus("docstrings:datasets", cache_dir=embedded["cache"])
    for name, family in (("parameters", "tokens"), ("qa", "question-answering"), ("summary", "generation")):
        assert recognise(embedded[name]) == family and len(embedded[name]["train"]) > 50
    texts = {s: set(d["text"]) for s, d in corpus.items()}
    for split, rows in embedded["qa"].items():
        assert set(rows["context"]) <= texts[split]                          # modules stay on their side
        for row in rows:
            assert all(row["context"][s:s + len(t)] == t for t, s in zip(row["answers"]["text"], row["answers"]["answer_start"]))
    assert 0.02 < np.mean([not a["text"] for a in embedded["qa"]["train"]["answers"]]) < 0.4
    names = embedded["parameters"]["train"].features["tags"].feature.names
    for row in embedded["parameters"]["train"]:
        tags = [names[t] for t in row["tags"]]
        assert tags == repair_bio(tags) and "B-NAME" in tags and len(tags) == len(row["tokens"])
    for row in embedded["summary"]["train"]:
        assert row["target"].rstrip(".").lower() not in " ".join(row["source"].split()).lower()
    again = load_task("docstrings/qa:datasets", cache_dir=embedded["cache"])
    assert {s: list(d) for s, d in again.items()} == {s: list(d) for s, d in embedded["qa"].items()}


def test_documented_names_stand_in_the_signature(embedded):
    from lmnotes.corpora import load_corpus
    import datasets
    import inspect
    corpus = load_corpus("docstrings:datasets", cache_dir=embedded["cache"])["train"]
    agreed = []
    for row in corpus:
        there = signature_names("datasets", row["module"], row["name"])
        agreed += [row["text"][slice(*n)] in there for section in parameters_in(row["text"]) for p in section for n in p.names] if there else []
    assert len(agreed) > 300 and np.mean(agreed) > 0.85
    live = set(inspect.signature(datasets.Dataset.map).parameters) - {"self"}
    assert signature_names("datasets", "datasets.arrow_dataset", "datasets.arrow_dataset.Dataset.map") == live
    assert signature_names("datasets", "datasets.nothing", "datasets.nothing.f") is signature_defaults("datasets", "datasets.nothing", "datasets.nothing.f") is None


def test_defaults_are_those_of_the_signature():
    import datasets
    import inspect
    live = {name: p.default for name, p in inspect.signature(datasets.Dataset.map).parameters.items() if p.default is not p.empty}
    assert signature_defaults("datasets", "datasets.arrow_dataset", "datasets.arrow_dataset.Dataset.map") == live


def test_definitions_in_a_source(tmp_path, monkeypatch):
    source = """from typing import overload
@overload
def f(a: int = ..., b: str = ...): ...
def f(a, /, b=-1, c=("x", None), *args, d, e="y", g=1 << 20, **kwargs):
    "Do it."
class C:
    def __init__(self, h=None): ...
class D:
    pass
"""
    (tmp_path / "part.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(tasks, "_package_folder", lambda package: tmp_path)
    assert signature_names("p", "p.part", "p.part.f") == {"a", "b", "c", "args", "d", "e", "g", "kwargs"}
    assert signature_defaults("p", "p.part", "p.part.f") == {"b": -1, "c": ("x", None), "e": "y"}                # what is computed is no literal
    assert signature_defaults("p", "p.part", "p.part.C") == {"h": None}
    assert signature_names("p", "p.part", "p.part.D") is signature_defaults("p", "p.part", "p.part.missing") is None


def test_cards_count_what_is_there(embedded):
    card = task_card("docstrings/parameters:datasets", cache_dir=embedded["cache"])
    assert card.sizes == {s: len(d) for s, d in embedded["parameters"].items()} and 0 < card.baseline["span_f1"] < 1
    assert sum(card.share.values()) == pytest.approx(1) and "docstrings/parameters" in repr(card) and "<table>" in card._repr_html_()
    assert task_card("docstrings/summary:datasets", cache_dir=embedded["cache"]).baseline["rougeL"] > 0


# ---- real data

@pytest.mark.parametrize("name, family, sizes", [
    ("sst2", "classification", {"train": 67349, "test": 872}), ("cola", "classification", {"train": 8551, "test": 1043}), ("rte", "classification", {"train": 2490, "test": 277}),
    ("wnli", "classification", {"train": 635, "test": 71}), ("sms_spam", "classification", {"train": 4459, "test": 1115}),
    ("wnut17", "tokens", {"train": 3394, "validation": 1009, "test": 1287}), ("ud_english_ewt", "tokens", {"train": 12544, "validation": 2001, "test": 2077}),
    ("squad_dev", "question-answering", {"train": 7961, "test": 2609}), ("multi30k", "generation", {"train": 29000, "validation": 1014, "test": 1000}),
    ("thucnews", "classification", {"train": 10000, "test": 10000})])
def test_real_data_loads_without_parameters(shared_data, name, family, sizes):
    loaded = load_task(shared_data / name)
    assert recognise(loaded) == family and {s: len(d) for s, d in loaded.items()} == sizes


def test_numbers_stay_numbers_where_the_chosen_ones_are_whole():
    "The baseline of a regression does not look at labels to learn its family."
    splits = {s: Dataset.from_dict({"text": ["a", "b", "c"], "label": [1.0, 2.0, 3.0]}) for s in ("train", "test")}
    assert heuristic_predictions(splits) == [2.0] * 3


def test_names_with_brackets_are_no_patterns(tmp_path):
    (tmp_path / "b [1].csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(TEXTS, LABELS)))
    (tmp_path / "b 1.csv").write_text("text,label\nwrong,wrong\n")
    assert "wrong" not in load_task(tmp_path / "b [1].csv")["train"]["text"]


def test_a_long_text_in_place_of_data_is_cut():
    for text in ("a film that " * 500, "a film\nthat"):
        with pytest.raises(ValueError, match="is a text of .* characters: give a path or name, or a Dataset") as error:
            load_task(text)
        assert len(str(error.value)) < 300


def test_numbers_with_fractions_that_are_written_as_text_are_no_names(tmp_path):
    "One field `nan` made 93 classes of a scale."
    def file(name, lacking):
        (tmp_path / name).write_text("text,label\n" + "".join(f"{text},{lacking if i % 12 == 5 else i / 8 + 0.01}\n" for i, text in enumerate(TEXTS)))
        return tmp_path / name
    for lacking in ("nan", "NaN", "-nan", "NA", "n/a", "None"):
        with pytest.raises(ValueError, match=rf"label_column 'label' holds 37 numbers as text, some with fractions, and 3 texts without one \({lacking}\): empty those fields.* or say task='classification'"):
            load_task(file("a.csv", lacking), cache_dir=tmp_path / "cache")
    assert load_task(file("b.csv", ""), cache_dir=tmp_path / "cache")["train"].features["label"].dtype == "float64"           # the remedy
    assert "nan" in load_task(file("a.csv", "nan"), "classification", cache_dir=tmp_path / "cache")["train"].features["label"].names
    data = both({"text": TEXTS, "label": [f"{i % 4 + 0.5}" for i in range(40)]})
    for call in (load_task, recognise):
        with pytest.raises(ValueError, match="holds 40 numbers as text, some with fractions: say task='regression', or say task='classification'"):
            call(data)
    assert load_task(data, "regression")["train"].features["label"].dtype == "float64"
    assert load_task(data, regression=False)["train"].features["label"].names == ["0.5", "1.5", "2.5", "3.5"]
    for real in (["1", "nan"], ["v1.5", "2.5"], ["1.0", "2.0"], ["nan", "none"], ["0.5", "high"]):
        assert load_task(both({"text": TEXTS, "label": real * 20}))["train"].features["label"].names == sorted(real)


@pytest.mark.parametrize("data", ["", " ", {"train": ""}])
def test_an_empty_name_is_not_the_folder_where_one_is(data):
    with pytest.raises(ValueError, match="data '.?' is an empty name: give a path or a name"):
        load_task(data)


@pytest.mark.parametrize("strata", [["x"] * 8, torch.tensor([1] * 8), list(torch.tensor([1] * 8)), np.array([np.nan] * 8), [float("nan") for _ in range(8)], [None, float("nan")] * 4])
def test_strata_of_any_kind_are_those_of_a_list(strata):
    assert tasks.stratified_split(list("abcdefgh"), strata, 0.5).tolist() == tasks.stratified_split(list("abcdefgh"), [0] * 8, 0.5).tolist()
    with pytest.raises(ValueError, match="8 .*7.*one for each"):
        tasks.stratified_split(list("abcdefgh"), strata[1:], 0.5)


@pytest.mark.parametrize("call, words", [
    (lambda: recognise({}), "splits is empty"),
    (lambda: recognise("x.csv"), "splits is str.*load_task"),
    (lambda: recognise({"train": [{"text": "a", "label": 0}]}), "splits.*list"),
    (lambda: heuristic_predictions(DatasetDict({"train": ROWS["train"]})), "no split test.*load_task"),
    (lambda: heuristic_score(DatasetDict({"test": ROWS["train"]})), "no split train.*load_task"),
    (lambda: load_task(ROWS, regression="yes"), "regression 'yes' must be True, False or None"),
    (lambda: load_task(ROWS, "regression", regression=[]), r"regression \[\] must be"),
])
def test_what_is_not_there_or_of_another_kind_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


GOOD = Dataset.from_dict({"text": [f"text {i}" for i in range(8)], "label": list("xy" * 4)})


@pytest.mark.parametrize("choice, kind, says", [
    ({"text_column": 5}, TypeError, "text_column 5 is no name"), ({"text_column": ["text", 5]}, TypeError, r"text_column \['text', 5\] is no name"), ({"label_column": ["label"]}, TypeError, r"label_column \['label'\] is no name"),
    ({"task": ["classification"]}, TypeError, r"task \['classification'\] is no name"), ({"train_examples": "5"}, TypeError, "train_examples '5' must be a whole number"),
    ({"test_examples": 2.5}, TypeError, "test_examples 2.5 must be a whole number"), ({"seed": -1}, ValueError, "seed -1 must be 0 or more"), ({"seed": "a"}, TypeError, "seed 'a' must be a whole number")])
def test_choices_of_another_kind_are_named(choice, kind, says):
    with pytest.raises(kind, match=says):
        load_task(GOOD, **choice)
    if "column" in next(iter(choice)):
        with pytest.raises(kind, match=says):
            recognise(GOOD, **choice)


def test_labels_groups_and_names_of_another_kind_are_named():
    with pytest.raises(ValueError, match=r"name None is no embedded task: there are docstrings/package"):
        tasks.task_card(None)
    for labels in (["a", "b"], [0.5, 1.0], [["a"], ["b"]]):
        with pytest.raises(ValueError, match="labels must be ids from 0 on, and at least one: there are"):
            class_weights(labels)
    with pytest.raises(TypeError, match=r"groups\[1\] is None, no text"):
        stratified_split(["a", None], ["x", "y"])


@pytest.mark.parametrize("odd, says", [("b", "row 2: label_column 'labels' holds a text or number here, 'b', and other forms"), ({"b": 1}, "row 2: label_column 'labels' holds an object")])
def test_labels_in_several_forms_are_refused_by_their_row(tmp_path, odd, says):
    rows = [{"text": f"text {i}", "labels": odd if i % 3 == 2 else [["a"], ["b", "a"]][i % 2]} for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for task in (None, "multi-label", "classification"):
        with pytest.raises(ValueError, match=says):
            load_task(tmp_path / "a.jsonl", task)


def test_decimals_are_numbers(tmp_path):
    rating = {"text": TEXTS, "label": [Decimal(n % 9) / 2 + 1 for n in range(40)]}
    Dataset.from_dict(rating).to_parquet(tmp_path / "rating.parquet")
    for read in (both(rating), str(tmp_path / "rating.parquet")):
        loaded = load_task(read)
        assert recognise(loaded) == "regression" and set(loaded["train"]["label"]) <= {n / 2 + 1 for n in range(9)}
    whole = load_task(both({"text": TEXTS, "label": [Decimal(f"{n % 2}.00") for n in range(40)]}))
    assert recognise(whole) == "classification" and whole["train"].features["label"].names == ["0", "1"]


def test_numbers_beside_names_are_to_be_cast():
    train = Dataset.from_dict({"text": TEXTS, "label": [n % 2 for n in range(40)]}, features=Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])}))
    test = Dataset.from_dict({"text": TEXTS[:8], "label": [0, 1] * 4})
    with pytest.raises(ValueError, match=r"test: labels 0, 1 are numbers, and training has the names neg, pos: let test name them, too, by test.cast_column\('label', train.features\['label'\]\)"):
        load_task({"train": train, "test": test})
    assert load_task({"train": train, "test": test.cast_column("label", train.features["label"])})["test"]["label"] == [0, 1] * 4
    with pytest.raises(ValueError, match=r"by test.cast_column\('mood', train.features\['mood'\]\)"):                   # the column's own name
        load_task({"train": train.rename_column("label", "mood"), "test": test.rename_column("label", "mood")}, label_column="mood")
    with pytest.raises(ValueError, match="label 2 stands in a held-out split and not in training"):
        load_task({"train": train, "test": Dataset.from_dict({"text": ["a"], "label": [2]})})


def test_columns_that_were_not_named_and_cells_that_commas_do_not_separate(tmp_path):
    with pytest.raises(ValueError, match=r"^no text_column is named, and there is no text or sentence: the columns are words, rows, label; name it by text_column=… \(--text-column\), .* task=… \(--task\)$"):
        load_task(both({"words": TEXTS, "rows": LABELS, "label": LABELS}))
    with pytest.raises(ValueError, match=r"^label_column 'kind' is not there: .*label_column=… \(--label-column\)"):
        load_task(ROWS, label_column="kind")
    (tmp_path / "a.csv").write_text("\ufefftext;label\n" + "".join(f"{t};{label}\n" for t, label in zip(TEXTS, LABELS)), encoding="utf-8")
    for choice in ({"text_column": "text"}, {"task": "classification"}):
        with pytest.raises(ValueError, match=r"the columns are text;label \(the cells seem to be separated by semicolons: save the file with commas\)"):
            load_task(tmp_path / "a.csv", **choice)


def test_pipes_and_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="is a pipe or a device, and is read more than once: save it to a file first"):
        load_task(tmp_path / "pipe")
    (tmp_path / "a.csv").write_text("text,label\na,b\n")

    def fail(*words, **options):
        raise FileNotFoundError(2, "No such file or directory", "/nowhere")
    monkeypatch.setattr(tasks, "load_dataset", fail)
    with pytest.raises(PermissionError, match="the cache folder cannot be written .No such file or directory: /nowhere.*HF_HOME.*cache_dir"):
        load_task(tmp_path / "a.csv")


def test_many_whole_numbers_as_labels_are_met_with_the_advice_to_say_regression(caplog):
    advice = r"task='regression' \(--task regression\)"
    rows = lambda labels: Dataset.from_dict({"text": [f"text {i} of them" for i in range(len(labels))], "label": labels})
    prices = [100.0 + i for i in range(80)]
    with pytest.raises(ValueError, match=f"too few different texts of each label to cut one off: .*{advice}"):
        load_task(rows(prices))
    with pytest.raises(ValueError, match=f"leave these rows out; or say {advice}"):
        load_task(DatasetDict(train=rows(prices[:60]), test=rows(prices[60:])))
    load_task(rows([18.0 + i % 30 for i in range(90)]))
    assert "30 different numbers, and each is a class of its own; or say task='regression'" in caplog.text
    caplog.clear()
    load_task(rows([i % 30 for i in range(90)])), load_task(rows([float(i % 5) for i in range(90)]))
    assert not caplog.text
    with pytest.raises(ValueError, match="cut one off: give a split named test, or more examples$"):
        load_task(rows([f"c{i}" for i in range(30)]))


def test_an_instruction_is_read_with_what_it_is_about():
    "Alpaca's and Dolly's form: the source stands in two columns, the second often empty."
    rows = [{"instruction": f"do {i}", "input": f"data {i}" * (i % 2), "output": f"done {i}"} for i in range(30)]
    wanted = {(f"do {i}" + f"\n\ndata {i}" * (i % 2), f"done {i}") for i in range(30)}
    found = lambda task: {(row["source"], row["target"]) for split in task.values() for row in split}
    assert found(load_task(Dataset.from_list(rows))) == found(load_task(Dataset.from_list(rows), task="generation", text_column=["instruction", "input"], label_column="output")) == wanted
    dolly = [{"instruction": row["instruction"], "context": row["input"] or None, "response": row["output"], "category": "open"} for row in rows]
    assert found(load_task(Dataset.from_list(dolly))) == wanted
    assert found(load_task(Dataset.from_list(rows), text_column="instruction")) == {(f"do {i}", f"done {i}") for i in range(30)}
    assert found(load_task(Dataset.from_list([{k: v for k, v in row.items() if k != "input"} for row in rows]))) == {(f"do {i}", f"done {i}") for i in range(30)}
