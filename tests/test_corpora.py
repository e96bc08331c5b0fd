"""Corpora: copies before splits, words with marks, folders with saved things and empty files, values that cannot be."""
import gzip
import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from lmnotes import corpora
from lmnotes.corpora import check_output_dir, corpus_report, harvest, load_corpus, minhash, near_duplicates
from lmnotes.tokenization import train_tokenizer

TEXTS = [f"Paragraph {i} tells about the number {i * i} in its own way, and about {i * i * i} too." for i in range(100)]


def texts_of(corpus):
    return {split: [row["text"] for row in rows] for split, rows in corpus.items()}


def test_a_package_named_twice_counts_once(tmp_path):
    twice = load_corpus("docstrings:json, json", deduplicate=False, cache_dir=tmp_path / "a")
    once = load_corpus("docstrings:json", deduplicate=False, cache_dir=tmp_path / "b")
    assert texts_of(twice) == texts_of(once) and harvest(["json", "json"])["name"][:] == harvest("json")["name"][:]
    with pytest.raises(ValueError, match="packages is empty: name one"):
        harvest([])


@pytest.mark.parametrize("deduplicate", [True, "exact"])
def test_copies_go_before_a_split_is_carved(deduplicate):
    loaded = load_corpus({"train": TEXTS[:20] * 50}, deduplicate=deduplicate)
    train, validation = loaded["train"]["text"][:], loaded["validation"]["text"][:]
    assert len(validation) == 1 and sorted(train + validation) == sorted(TEXTS[:20])
    assert corpus_report(loaded).duplicates_removed == {"exact": 20 * 49, "near": 0}
    tested = load_corpus({"train": TEXTS[:20] * 2, "test": TEXTS[:5]}, deduplicate=deduplicate)
    assert sorted(tested["train"]["text"][:] + tested["validation"]["text"][:]) == sorted(TEXTS[5:20]) and tested["test"]["text"][:] == TEXTS[:5]


def test_published_splits_and_copies_that_may_stay_are_left_alone():
    loaded = load_corpus({"train": TEXTS[:9] * 2, "validation": TEXTS[:2] * 2})
    assert texts_of(loaded) == {"train": TEXTS[2:9], "validation": TEXTS[:2] * 2} and corpus_report(loaded).duplicates_removed["exact"] == 11
    loaded = load_corpus({"train": TEXTS[:20] * 2}, deduplicate=False)
    assert sum(map(len, loaded.values())) == 40


def test_one_text_many_times_is_one_document():
    with pytest.raises(ValueError, match=r"one document only \(49 more repeat it.*validation_fraction=0"):
        load_corpus({"train": TEXTS[:1] * 50})
    assert texts_of(load_corpus({"train": TEXTS[:1] * 50}, validation_fraction=0)) == {"train": TEXTS[:1]}
    with pytest.raises(ValueError, match="no training text left"):
        load_corpus({"train": TEXTS[:1] * 50, "test": TEXTS[:1]})


def test_marks_belong_to_their_word():
    assert corpora._words("हिन्दी भाषा, مُحَمَّد cafe\u0301s ❤️") == ["हिन्दी", "भाषा", "مُحَمَّد", "cafe\u0301s"]
    assert not near_duplicates(["दिन", "दीन", "दान", "مُحَمَّد", "مَحْمُود", "e\u0301t\u00e9", "e\u0300te"]).any()
    assert near_duplicates(["हिन्दी भाषा।", "हिन्दी, भाषा"]).tolist() == [False, True]
    assert corpora._words("ก็ दिन 東京e\u0301") == ["ก", "็", "दिन", "東", "京", "e\u0301"]


def test_saved_things_below_a_folder_are_no_text(tmp_path):
    home, cache = tmp_path / "proj", tmp_path / "cache"
    home.mkdir()
    (home / "a.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    first = load_corpus(home, cache_dir=cache)
    first.save_to_disk(home / "out")
    first["train"].save_to_disk(home / "rows")
    train_tokenizer(TEXTS, "bpe", 300, progress=False).save_pretrained(home / "tokenizer")
    for names in (["config.json", "model.safetensors"], ["config.json", "model.safetensors.index.json"]):
        (home / names[1]).mkdir()
        for name in names + ["vocab.txt"]:
            (home / names[1] / name).write_text("{}")
    assert texts_of(load_corpus(home, cache_dir=cache)) == texts_of(first)
    (home / "package.json").write_text('{"name": "proj"}')
    with pytest.raises(ValueError, match=re.escape(str(home / "package.json")) + ": text_column 'text' is not there: the columns are name;") as error:
        load_corpus(home, cache_dir=cache)
    remedy = re.search("such as '(.*)'", str(error.value)).group(1)
    assert texts_of(load_corpus(remedy, cache_dir=cache)) == texts_of(first)
    (home / "package.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"package\.json cannot be read as json.*; mend it, or give"):
        load_corpus(home, cache_dir=cache)


BARE = {"b.txt": b"\n \n", "b.txt.gz": gzip.compress(b""), "b.csv": b"text,n\n", "b.csv.gz": gzip.compress(b"text\n"), "b.jsonl": b"\n\n", "b.json": b"[]\n", "b.parquet": None}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", BARE)
def test_a_file_without_a_row_stops_no_folder(name, streaming, tmp_path):
    home, bare, more = tmp_path / "home", tmp_path / "home" / name, {"validation_fraction": 0, "cache_dir": tmp_path / "cache", "streaming": streaming}
    home.mkdir()
    bare.write_bytes(BARE[name] or b"")
    if BARE[name] is None:
        pd.DataFrame({"text": pd.Series([], dtype=str)}).to_parquet(bare)
    for source in (home, bare):
        with pytest.raises(ValueError, match=re.escape(str(bare)) + " has no text"):
            load_corpus(source, **more)
    pd.DataFrame({"text": TEXTS}).to_parquet(home / "a.parquet")
    assert texts_of(load_corpus(home, **more)) == {"train": TEXTS}
    (home / "c.txt").write_text("one more")
    assert texts_of(load_corpus(home, **more)) == {"train": [*TEXTS, "one more"]}


@pytest.mark.parametrize("form", ["pandas", "arrow", "numpy"])
def test_data_sets_in_another_format_are_read(form):
    rows = Dataset.from_dict({"text": [*TEXTS, None]}).with_format(form)
    for source in (rows, DatasetDict(train=rows)):
        assert texts_of(load_corpus(source, validation_fraction=0)) == {"train": TEXTS}
    for stream in (rows, rows.with_format(None).to_iterable_dataset().with_format(form)):
        assert texts_of(load_corpus(stream, validation_fraction=0, streaming=True)) == {"train": TEXTS}
    assert rows.format["type"] == form                               # the caller's stays


@pytest.mark.parametrize("changes, message", [({"validation_fraction": "0.1"}, "validation_fraction '0.1' must be a number"), ({"validation_fraction": None}, "validation_fraction None must"),
                                              ({"max_documents": 2.5}, "max_documents 2.5 must be a whole number"), ({"max_documents": "3"}, "max_documents '3' must"), ({"max_documents": True}, "max_documents True must")])
def test_choices_that_cannot_be_are_named_before_anything_is_read(changes, message):
    with pytest.raises(ValueError, match=message):
        load_corpus("no_such_file.txt", **changes)


@pytest.mark.parametrize("rows, what", [([{"text": "a"}, {"text": 5}], "values of several types"), ([{"text": {"a": 1}}], "records"), ([{"text": ["a"]}], "lists"), ([{"text": 5}], "int64")])
def test_a_column_without_text_is_told_for_what_it_is(rows, what, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=rf"a\.jsonl: text_column 'text' holds {what}, not text"):
        load_corpus(tmp_path / "a.jsonl", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_text_of_a_file_is_read_as_it_is_written(streaming, tmp_path):
    more = {"validation_fraction": 0, "deduplicate": False, "cache_dir": tmp_path / "cache", "streaming": streaming}
    for number, texts in enumerate((["2020-01-01", "1984", "007"], ["True", "yes"], [*["12"] * 15000, "word"])):             # the library reads 10,000 rows at a time
        (tmp_path / f"{number}.csv").write_text("n,body\n" + "".join(f"1,{text}\n" for text in texts))
        assert texts_of(load_corpus(tmp_path / f"{number}.csv", text_column="body", **more)) == {"train": texts}
    (tmp_path / "a.csv").write_text("text\n" + "12\n" * 12000)
    with pytest.raises(ValueError, match=r"a\.csv: text_column 'text' holds int64, not text: .* in hand, {'train': \[texts\]}"):
        load_corpus(tmp_path / "a.csv", **more)
    (tmp_path / "a.jsonl").write_text('{"text": "2020-01-01"}\n{"text": "2021-02-03T00:00:00"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl: text_column 'text' holds timestamp\[s\], not text: .*texts that are dates in a CSV, or in hand, {'train'"):
        load_corpus(tmp_path / "a.jsonl", **more)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_every_type_of_string_in_a_parquet_file_is_text(kind, streaming, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    pq.write_table(pa.table({"text": pa.array(TEXTS).cast(kind)}), home / "a.parquet")
    (home / "b.txt").write_text("one more")
    for source, texts in ((home / "a.parquet", TEXTS), (home, [*TEXTS, "one more"])):
        assert texts_of(load_corpus(source, validation_fraction=0, cache_dir=tmp_path / "cache", streaming=streaming)) == {"train": texts}


@pytest.mark.parametrize("name", ["a::b.txt", "a::b/c.parquet"])
def test_a_path_that_would_be_a_chain_of_addresses_is_refused(name, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    pd.DataFrame({"text": TEXTS}).to_parquet(file) if name.endswith("parquet") else file.write_text("a text")
    for source in (file, file.parent):
        with pytest.raises(ValueError, match="a::b.*' has '::' in its path, .*: rename"):
            load_corpus(source, cache_dir=tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_refused_before_the_harvest(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(corpora, "harvest", lambda *_: pytest.fail("the long work began"))
    monkeypatch.setenv("LMNOTES_CACHE", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match="the cache folder .*file' cannot be written .*LMNOTES_CACHE"):
        load_corpus("docstrings:json")
    with pytest.raises(PermissionError, match="cache_dir"):
        load_corpus("docstrings:json", cache_dir=tmp_path / "file" / "inside")


def slow_near_duplicates(texts, threshold, fixed):
    "What `near_duplicates` says of itself, one pair after another."
    signatures, repeats = minhash(texts), [False] * len(texts)
    rows = 4 if threshold >= .67 else 2 if threshold >= .33 else 1
    for band in range(64 // rows):
        groups = {}
        for i, row in enumerate(signatures[:, rows * band:rows * band + rows]):
            groups.setdefault(tuple(row), []).append(i)
        for group in groups.values():
            for place, first in enumerate(group):
                for later in group[place + 1:] if not repeats[first] else ():
                    repeats[later] |= later >= fixed and np.mean(signatures[first] == signatures[later]) >= threshold
    return repeats


@pytest.mark.parametrize("threshold, fixed", [(.8, 0), (.8, 60), (.5, 20), (1, 0), (.05, 0)])
def test_near_duplicates_are_those_of_the_definition_in_a_frame_that_many_texts_share(threshold, fixed):
    rng = np.random.default_rng(5)
    frame = "we thank you for the order that you have placed with us and send it as soon as we can to the address of".split()
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join([*frame, *rng.choice(words, rng.integers(1, 8))]) for _ in range(150)] + [" ".join(rng.choice(words, 9)) for _ in range(50)]
    texts = [*texts, *texts[:10]]
    found = near_duplicates(texts, threshold, fixed).tolist()
    assert found == slow_near_duplicates(texts, threshold, fixed) and 10 - fixed <= sum(found) < 200


@pytest.mark.parametrize("threshold, kept", [(.3, 63), (.5, 86)])
def test_pairs_above_a_low_threshold_are_found(threshold, kept):
    rng, found, shingles = np.random.default_rng(3), [], lambda words: {tuple(words[i:i + 3]) for i in range(len(words) - 2)}
    for _ in range(60):
        words, others = (list(map(str, rng.integers(10**6, size=120))) for _ in range(2))
        others = words[:kept] + others[kept:]
        exact = len(shingles(words) & shingles(others)) / len(shingles(words) | shingles(others))
        signatures = minhash([" ".join(words), " ".join(others)])
        assert exact > threshold + .03
        found.append(near_duplicates([" ".join(words), " ".join(others)], threshold)[1] == (np.mean(signatures[0] == signatures[1]) >= threshold))
    assert np.mean(found) > .95                                      # what the estimate puts above it; 16 bands of 4 find 32 of 200 at 0.3
    assert near_duplicates([" ".join(words), " ".join(others)], exact / 2).tolist() == [False, True]


def test_a_stream_holds_out_a_text_with_its_copies():
    rows = [*TEXTS, *map(str.upper, TEXTS), *(text.replace(" ", "\n ") for text in TEXTS)]
    splits = {split: {" ".join(text.lower().split()) for text in texts} for split, texts in texts_of(load_corpus({"train": rows}, streaming=True, validation_fraction=.2)).items()}
    assert not splits["train"] & splits["validation"] and len(splits["train"]) + len(splits["validation"]) == 100


def test_a_corpus_whose_texts_a_transform_makes_is_read_through_it(tmp_path):
    rows = Dataset.from_dict({"text": ["raw"] * 30}).add_column("n", range(30))
    rows.set_transform(lambda batch: {"text": [f"made number {n} of thirty" if n else " " for n in batch["n"]]})
    corpus = load_corpus({"train": rows}, validation_fraction=0, deduplicate="exact")
    assert len(corpus["train"]) == 29


def test_a_folder_of_ones_own_is_told_from_an_earlier_result(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "beach.jpg").touch()
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="holds beach.jpg, which is no result of a run: overwrite replaces results only"):
            check_output_dir(tmp_path / "photos", overwrite)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lmnotes.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds an earlier result: choose another folder, or allow overwrite=True"):
        check_output_dir(tmp_path / "run")


def test_a_cache_that_cannot_be_written_is_told_from_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a text")
    for named, kind, says in (("/nowhere", PermissionError, r"^the cache folder cannot be written \(No such file or directory: /nowhere\): .*HF_HOME or by cache_dir=… \(--cache-dir\)$"),
                              (str(tmp_path / "a.txt"), ValueError, r"a\.txt cannot be read as text")):
        def fail(*words, **options):
            raise FileNotFoundError(2, "No such file or directory", named)
        monkeypatch.setattr(corpora, "load_dataset", fail)
        with pytest.raises(kind, match=says):
            load_corpus(tmp_path / "a.txt")


def test_semicolons_in_place_of_commas_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("text;n\na text;1\n")
    with pytest.raises(ValueError, match=r"the columns are text;n \(the cells seem to be separated by semicolons: save the file with commas\)"):
        load_corpus(tmp_path / "a.csv")
    assert corpora._separated_by(["a\tb"]).endswith("separated by tabs: save the file with commas, or with the ending .tsv)") and corpora._separated_by(["a;b", "c"]) == corpora._separated_by(["a"]) == ""


@pytest.mark.parametrize("encoding", ["latin-1", "iso2022_jp", "utf-16"])
@pytest.mark.parametrize("streaming", [False, True])
def test_packed_texts_are_read_as_utf_8_only(tmp_path, encoding, streaming):
    "The library would take their bytes for UTF-8: an error that blames the file, or rubbish."
    import gzip
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("one\n\ntwo".encode(encoding)))
    with pytest.raises(ValueError, match=f"encoding '{encoding}' is read from files that are not packed, and .*a.txt.gz is: unpack it"):
        load_corpus(tmp_path / "a.txt.gz", encoding=encoding, streaming=streaming, validation_fraction=0)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("one\n\nzwölf".encode()))
    assert list(load_corpus(tmp_path / "b.txt.gz", validation_fraction=0)["train"]["text"]) == ["one", "zwölf"]
