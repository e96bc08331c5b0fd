"""Bad input, damage and interruption along the whole path, with a throwaway tokenizer and model."""
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lmnotes import checkpoints, corpora, finetuning, pretraining, privacy
from lmnotes.checkpoints import info, load, save, verify
from lmnotes.cli import COMMANDS, execute, make_corpus, make_tokenizer
from lmnotes.corpora import check_output_dir, corpus_report, load_corpus, write_aside
from lmnotes.perplexity import perplexity, surprisal
from lmnotes.pretraining import Batches, pack, pretrain, resolve_device
from lmnotes.tokenization import train_tokenizer

WORDS = "the cat dog bird fish sat ran flew swam on under over a mat log tree sea and then it slept".split()
TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 25)) + f" number {i}" for i in range(200)]
TINY = dict(block_size=16, batch_size=4, precision="fp32", device="cpu", validation_blocks=4, evaluations=1)


@pytest.fixture(scope="module")
def corpus():
    return DatasetDict(train=Dataset.from_dict({"text": TEXTS[:180]}), validation=Dataset.from_dict({"text": TEXTS[180:]}))


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return train_tokenizer(corpus, vocab_size=120, progress=False)


@pytest.fixture(scope="module")
def folder(corpus, tokenizer, tmp_path_factory):
    return pretrain(corpus, tokenizer, "bert-tiny", tmp_path_factory.mktemp("spine") / "model", steps=3, **TINY).output_dir


# --- corpora ---------------------------------------------------------------------------------------
def test_files_of_every_kind_give_the_same_documents(tmp_path):
    import gzip
    import json
    import pandas
    frame = pandas.DataFrame({"text": TEXTS})
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in TEXTS), encoding="utf-8")
    frame.to_csv(tmp_path / "c.csv", index=False)
    frame.to_parquet(tmp_path / "d.parquet")
    with gzip.open(tmp_path / "e.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n\n".join(TEXTS))
    for name in ("a.txt", "b.jsonl", "c.csv", "d.parquet", "e.txt.gz", "a.*"):
        loaded = load_corpus(str(tmp_path / name), deduplicate=False, cache_dir=tmp_path / "cache")
        assert sorted([*loaded["train"]["text"], *loaded["validation"]["text"]]) == sorted(TEXTS), name
        assert len(loaded["validation"]) == 20


def test_streams_hold_out_without_overlap(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    stream = load_corpus(str(tmp_path / "a.txt"), streaming=True, validation_fraction=0.2, cache_dir=tmp_path / "cache")
    train, held = ([row["text"] for row in stream[s]] for s in ("train", "validation"))
    assert sorted(train + held) == sorted(TEXTS) and not set(train) & set(held) and 20 < len(held) < 60


def test_docstrings_are_split_by_module_and_cached(tmp_path, monkeypatch):
    first = load_corpus("docstrings:datasets", cache_dir=tmp_path)
    monkeypatch.setattr(corpora, "harvest", lambda *_: pytest.fail("harvested again"))
    second = load_corpus("docstrings:datasets", cache_dir=tmp_path)
    assert first["train"]["text"] == second["train"]["text"]
    assert not set(first["train"]["module"]) & (set(first["validation"]["module"]) | set(first["test"]["module"]))
    assert set(first["train"].column_names) == {"text", "package", "module", "name"}


def test_real_corpora(shared_data):
    for name in ("english_mix", "wikitext2"):
        report = corpus_report(load_corpus(str(shared_data / name)))
        assert report.documents["train"] > 1000 and report.characters["validation"] > 500_000


@pytest.mark.parametrize("make, error, needle", [
    (lambda p: str(p / "missing.txt"), FileNotFoundError, "missing.txt"),
    (lambda p: (p / "empty.txt").write_text("") and 0 or str(p / "empty.txt"), ValueError, "empty"),
    (lambda p: (p / "latin.txt").write_bytes("Grüße ".encode("latin-1")) and str(p / "latin.txt"), ValueError, "byte 2"),
    (lambda p: Dataset.from_dict({"body": ["a", "b"]}), ValueError, "body"),
    (lambda p: Dataset.from_dict({"text": ["", "  "]}), ValueError, "empty"),
    (lambda p: "nobody/no-such-corpus", FileNotFoundError, "network"),
    (lambda p: "docstrings:nopackage", ValueError, "nopackage"),
    (lambda p: 17, TypeError, "int"),
])
def test_bad_corpora(make, error, needle, tmp_path):
    with pytest.raises(error, match=needle):
        load_corpus(make(tmp_path), cache_dir=tmp_path / "cache")


def test_files_with_different_other_columns_are_read_together(tmp_path):
    import json
    rows = {"a.jsonl": {"text": "first"}, "b.jsonl": {"text": "second", "url": "u"}, "c.jsonl": {"text": "third", "url": 3}, "d.jsonl": {"text": None, "url": 3}}
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, row in rows.items():
        (folder / name).write_text(json.dumps(row), encoding="utf-8")
    (folder / "e.csv").write_text("text,n\nfourth,1\n")
    (folder / "f.csv").write_text("")
    for streaming in (False, True):
        loaded = load_corpus(str(folder), validation_fraction=0, streaming=streaming, cache_dir=tmp_path / "cache")
        assert [row["text"] for row in loaded["train"]] == ["first", "second", "third", "fourth"]


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_without_text_leave_the_held_out_splits_too(streaming):
    splits = {"train": ["the cat", None, ""], "validation": [None, "a dog", " "], "test": ["a bird", None]}
    corpus = DatasetDict({s: Dataset.from_dict({"text": texts}) for s, texts in splits.items()})
    corpus = IterableDatasetDict({s: d.to_iterable_dataset() for s, d in corpus.items()}) if streaming else corpus
    loaded = load_corpus(corpus, streaming=streaming)
    assert {s: [row["text"] for row in d] for s, d in loaded.items()} == {"train": ["the cat"], "validation": ["a dog"], "test": ["a bird"]}


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"never packed", lambda data: data[:30] + b"xxxxxxxx" + data[38:]])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    import gzip
    (tmp_path / "a.txt.gz").write_bytes(damage(gzip.compress("\n\n".join(TEXTS).encode())))
    with pytest.raises(ValueError, match="a.txt.gz is damaged or no gzip file"):
        load_corpus(str(tmp_path / "a.txt.gz"), cache_dir=tmp_path / "cache")


def test_signatures_do_not_depend_on_the_parts_in_which_a_corpus_is_read(monkeypatch):
    words = [f"word{i}" for i in range(1000)]
    texts = [" ".join(words[(i * k) % 1000] for k in range(1, 2 + 40 * (i % 7))) for i in range(60)] + ["", "one two"]
    whole = corpora.minhash(texts)
    assert whole.shape == (62, 64) and corpora.minhash([]).shape == (0, 64)
    monkeypatch.setattr(corpora, "_PART", 1000)
    assert np.array_equal(corpora.minhash(texts), whole) and np.array_equal(np.concatenate([corpora.minhash([t]) for t in texts]), whole)


@pytest.mark.parametrize("first, last", [(0x4e00, 0x5200), (0x20000, 0x20400), (0x3041, 0x3097), (0x30a1, 0x30fb), (0x0e01, 0x0e2f), (0x0e94, 0x0ea3), (0x1000, 0x102b), (0x1780, 0x17a3)])
def test_near_copies_are_found_in_scripts_without_spaces(first, last):
    draw = np.random.default_rng(0)
    for _ in range(20):
        letters = draw.integers(first, last, 1500)
        letters[20::37] = ord("，")
        copy = letters.copy()
        copy[draw.choice(1500, 8, replace=False)] = draw.integers(first, last, 8)
        other = draw.integers(first, last, 1500)
        assert corpora.near_duplicates(["".join(map(chr, text)) for text in (letters, copy, other)]).tolist() == [False, True, False]


def test_words_are_as_before_in_scripts_with_spaces():
    import re
    import unicodedata
    alone = re.compile("CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH|IDEOGRAPHIC (ITERATION|CLOSING|NUMBER)|(HALFWIDTH |COMBINING )?(HIRAGANA|KATAKANA)|HENTAIGANA|THAI|LAO|MYANMAR|KHMER")
    for number in range(0x110000):
        letter = chr(number)
        if letter.lower() != letter or not letter.isalnum() and not unicodedata.category(letter).startswith("M"):
            continue
        run = f"a {letter}{letter}b"
        if alone.match(unicodedata.name(letter, "")) and unicodedata.category(letter) not in ("Nd", "No", "So"):
            assert corpora._words(run) == ["a", letter, letter, "b"], hex(number)
        else:
            assert corpora._words(run) == re.findall(r"\w+", run), hex(number)
    assert corpora._words("用GPT-2训练，共1500字。 Naïve café") == ["用", "gpt", "2", "训", "练", "共", "1500", "字", "naïve", "café"]


def test_near_duplicates_of_a_held_out_text_leave_training():
    text = " ".join(f"word{i}" for i in range(60))
    corpus = load_corpus(DatasetDict(train=Dataset.from_dict({"text": [text + " end", "something else that stays here"]}), validation=Dataset.from_dict({"text": [text]})))
    assert corpus["train"]["text"][:] == ["something else that stays here"] and corpus["validation"]["text"][:] == [text]


# --- folders ---------------------------------------------------------------------------------------
def test_an_error_while_writing_leaves_what_was_there(tmp_path):
    target = tmp_path / "out"
    with write_aside(target) as aside:
        (aside / "a").write_text("1")
        (aside / "lmnotes.json").write_text("{}")
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            with write_aside(target, overwrite=True) as aside:
                (aside / "a").write_text("2")
                raise error
    assert (target / "a").read_text() == "1" and os.listdir(tmp_path) == ["out"]
    with pytest.raises(FileExistsError, match="overwrite"):
        check_output_dir(target)


def test_a_stopped_demo_is_gone_on_with_and_a_whole_one_is_kept_until_the_new_one_is_whole(tmp_path, corpus, monkeypatch):
    from lmnotes import demo as room
    out, calls = tmp_path / "demo", []

    def steps(stop, loaded, folder, *rest):
        calls.append(sorted(os.listdir(folder)))
        (folder / ("tokenizer", "pretrained")[len(calls) - 1 & 1]).mkdir()
        if stop:
            raise KeyboardInterrupt
        return {"n": len(calls)}, []
    monkeypatch.setattr(room, "_report", lambda metrics, figures: "page")
    run = lambda stop=False, **more: (monkeypatch.setattr(room, "_steps", lambda *a: steps(stop, *a)), room.demo(**{"steps": 2, "corpus": corpus, "output_dir": out, "device": "cpu", **more}))
    with pytest.raises(FileNotFoundError, match="no run that was stopped"):
        run(resume=True)
    with pytest.raises(KeyboardInterrupt, match="resume"):
        run(stop=True)
    with pytest.raises(FileExistsError, match="was stopped"):
        run()
    with pytest.raises(ValueError, match="steps .then 2, now 3."):
        run(steps=3, resume=True)
    run(resume=True)
    assert calls == [["choices.json"], ["choices.json", "tokenizer"]] and (out / "metrics.json").is_file()
    with pytest.raises(FileExistsError, match="whole"):
        run(resume=True)
    with pytest.raises(KeyboardInterrupt):
        run(stop=True, overwrite=True)
    assert (tmp_path / "demo-previous" / "metrics.json").is_file() and not (out / "metrics.json").exists()
    run(overwrite=True)
    assert os.listdir(tmp_path) == ["demo"] and '"n": 4' in (out / "metrics.json").read_text()
    assert calls[2:] == [["choices.json"], ["choices.json"]]                     # what the stopped run had left is gone
    with pytest.raises(KeyboardInterrupt):
        run(stop=True, output_dir=tmp_path / "other")
    changed = DatasetDict({**corpus, "train": corpus["train"].select(range(len(corpus["train"]) - 1))}) if isinstance(corpus, DatasetDict) else corpus.select(range(len(corpus) - 1))
    with pytest.raises(ValueError, match="another corpus"):
        run(resume=True, output_dir=tmp_path / "other", corpus=changed)


@pytest.mark.parametrize("wrong", [dict(minutes=float("inf")), dict(minutes=float("nan")), dict(minutes=0), dict(minutes=None), dict(minutes="2"), dict(steps=0), dict(steps=2.5), dict(seed=-1)])
def test_a_demo_that_cannot_be_is_refused_before_anything_is_written(wrong, tmp_path):
    from lmnotes import demo as room
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} "):
        room.demo(corpus="no/such/corpus.txt", output_dir=tmp_path / "demo", device="cpu", **wrong)
    assert not list(tmp_path.iterdir())


def test_the_demo_goes_on_with_fine_tuning_and_takes_what_is_whole(tmp_path, folder, monkeypatch, caplog):
    from lmnotes import demo as room
    shutil.copytree(folder, tmp_path / "pretrained")
    rows = {"text": TEXTS[:40], "label": [t.split()[0] < "d" for t in TEXTS[:40]]}
    data = DatasetDict(train=Dataset.from_dict(rows), test=Dataset.from_dict(rows))
    given, steps = [], []

    def tune(*place, **more):
        given.append(more["resume"])
        return finetuning.finetune(*place, **more | {"data": data, "epochs": 1, "batch_size": 8})
    monkeypatch.setattr(room, "finetune", tune)
    ended = finetuning._Watch.on_step_end
    with monkeypatch.context() as patch:
        def on_step_end(self, *rest, **more):
            steps.append(1)
            if len(steps) == 2:
                self.interrupted.set()
            return ended(self, *rest, **more)
        patch.setattr(finetuning._Watch, "on_step_end", on_step_end)
        with pytest.raises(KeyboardInterrupt, match="go on with resume=True"):
            room._tuned(tmp_path, "twin", 0, "cpu")
        whole = room._tuned(tmp_path, "twin", 0, "cpu")                          # from the third step on
        assert len(steps) == whole.steps == 10
        assert room._tuned(tmp_path, "twin", 0, "cpu").scores == whole.scores and len(steps) == 10
        room._tuned(tmp_path, "twin", 1, "cpu")                                  # another run: from its beginning
        assert len(steps) == 20 and given == [True] * 4 + [False] and "fine-tuning begins anew" in caplog.text


def _quick_demo(monkeypatch, corpus, out, **more):
    "The demo with steps that take no time; its metrics bear the name of the run."
    from lmnotes import demo as room
    stop, name = more.pop("stop", False), more.pop("name", "new")

    def steps(loaded, folder, *rest):
        (folder / "pretrained").mkdir(exist_ok=True)
        if stop:
            raise KeyboardInterrupt
        return {"n": name}, []
    monkeypatch.setattr(room, "_report", lambda metrics, figures: "page")
    monkeypatch.setattr(room, "_steps", steps)
    return room.demo(**{"steps": 2, "corpus": corpus, "output_dir": out, "device": "cpu", **more})


def _named(folder):
    return json.loads((folder / "metrics.json").read_text())["n"] if (folder / "metrics.json").is_file() else None


def test_the_demo_leaves_a_previous_folder_alone_that_it_did_not_set_aside(tmp_path, corpus, monkeypatch):
    out, kept = tmp_path / "demo", tmp_path / "demo-previous"
    _quick_demo(monkeypatch, corpus, out, name="kept")
    out.rename(kept)                                                             # the user's way to keep a run
    _quick_demo(monkeypatch, corpus, out, name="first")
    assert (_named(kept), _named(out)) == ("kept", "first") and "set_aside" not in (out / "choices.json").read_text()
    for source in (corpus, "no/such/corpus.txt"):                                # refused before the corpus is read
        with pytest.raises(FileExistsError, match="demo-previous' is in the way.*rename or remove"):
            _quick_demo(monkeypatch, source, out, overwrite=True)
    assert (_named(kept), _named(out)) == ("kept", "first")
    with pytest.raises(KeyboardInterrupt):                                       # a stopped run has nothing to set aside
        _quick_demo(monkeypatch, corpus, tmp_path / "other", stop=True)
    kept.rename(tmp_path / "other-previous")
    _quick_demo(monkeypatch, corpus, tmp_path / "other", overwrite=True)
    assert _named(tmp_path / "other-previous") == "kept"


def test_a_run_that_took_the_place_of_the_one_set_aside_is_left_alone(tmp_path, corpus, monkeypatch):
    out, previous = tmp_path / "demo", tmp_path / "demo-previous"
    for go_on in ({"resume": True}, {"overwrite": True}):
        _quick_demo(monkeypatch, corpus, out, name="first")
        with pytest.raises(KeyboardInterrupt):
            _quick_demo(monkeypatch, corpus, out, overwrite=True, stop=True)
        assert _named(previous) == "first"
        _quick_demo(monkeypatch, corpus, out, **go_on)                           # what an interrupted demo of this folder set aside goes
        assert os.listdir(tmp_path) == ["demo"] and _named(out) == "new"
        with pytest.raises(KeyboardInterrupt):
            _quick_demo(monkeypatch, corpus, out, overwrite=True, stop=True)
        previous.rename(tmp_path / "elsewhere")
        _quick_demo(monkeypatch, corpus, previous, name="mine")
        _quick_demo(monkeypatch, corpus, out, **go_on)
        assert _named(previous) == "mine" and _named(tmp_path / "elsewhere") == "new"
        for left in ("demo", "demo-previous", "elsewhere"):
            shutil.rmtree(tmp_path / left)
    _quick_demo(monkeypatch, corpus, out, name="first")                          # the earlier run taken back by hand, and kept by hand
    with pytest.raises(KeyboardInterrupt):
        _quick_demo(monkeypatch, corpus, out, overwrite=True, stop=True)
    shutil.rmtree(out)
    previous.rename(out)
    out.rename(previous)
    _quick_demo(monkeypatch, corpus, out)
    assert (_named(previous), _named(out)) == ("first", "new")


def test_a_demo_that_is_killed_at_any_step_loses_nothing_and_clears_up_later(tmp_path, corpus, monkeypatch):
    class Killed(BaseException):
        "No handler of errors sees it."

    left = [0]

    def mortal(call):
        def wrapped(path, *rest, **more):
            if str(tmp_path) in str(path):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
            return call(path, *rest, **more)
        return wrapped
    made, unclaimed = 0, 0
    for moment in range(1, 100):
        out = tmp_path / f"run{moment}" / "demo"
        previous = out.with_name("demo-previous")
        left[0] = 0
        _quick_demo(monkeypatch, corpus, out, name="first")
        (out / ".mine").write_text("1")
        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
                patch.setattr(os, name, mortal(getattr(os, name)))
            left[0] = moment
            try:
                _quick_demo(patch, corpus, out, overwrite=True)
                break
            except Killed:
                made += 1
        assert "first" in (_named(out), _named(previous)) or _named(out) == "new"
        assert any((folder / ".mine").is_file() for folder in (out, previous))
        window = not (out / "choices.json").is_file()                            # the new run could not note yet what it set aside
        _quick_demo(monkeypatch, corpus, out, name="last", overwrite=True)
        assert _named(out) == "last" and (_named(previous) == "first" if window else not previous.exists())
        assert window or (out / ".mine").is_file()
        unclaimed += window
    assert made > 8 and unclaimed <= 2


def test_sentences_of_the_demo_hold_their_masks():
    from transformers import AutoModelForMaskedLM
    from lmnotes.demo import _first_sentence, guesses
    from lmnotes.tokenization import train_tokenizer
    from lmnotes.transformer import model_config
    assert _first_sentence("我们  今天\n去。明天 再说。") == "我们 今天 去。" and _first_sentence("One two. Three.") == "One two." and _first_sentence("one") == "one." and _first_sentence("v1.5 is out") == "v1.5 is out."
    tokenizer = train_tokenizer(["the old dog sees the red house"] * 9, vocab_size=60, progress=False)
    model = AutoModelForMaskedLM.from_config(model_config("bert-tiny", len(tokenizer), 128)).eval()
    assert len(guesses(model, tokenizer, f"the {tokenizer.mask_token} dog")) == 5
    for sentence in ("the dog", "the dog " * 90 + tokenizer.mask_token):
        with pytest.raises(ValueError, match="no mask token"):
            guesses(model, tokenizer, sentence)


def test_overwriting_never_replaces_what_no_run_wrote(tmp_path):
    (tmp_path / "holidays.jpg").write_text("1")
    for write in (lambda: check_output_dir(tmp_path, overwrite=True), lambda: write_aside(tmp_path, overwrite=True).__enter__()):
        with pytest.raises(FileExistsError, match="holidays.jpg"):
            write()
    assert os.listdir(tmp_path) == ["holidays.jpg"]


def test_a_full_disk_while_saving_keeps_the_earlier_checkpoint(folder, tokenizer, tmp_path, monkeypatch):
    model, _ = load(folder, device="cpu")
    save(model, tokenizer, tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(checkpoints, "write_checksums", full)
    with pytest.raises(OSError, match="No space"):
        save(model, tokenizer, tmp_path / "m", overwrite=True)
    assert verify(tmp_path / "m") == [] and (tmp_path / "m" / "model.safetensors").read_bytes() == before and os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_folder_is_named_and_not_opened(folder, tmp_path, name, damage):
    import shutil
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = Path(copy) / name
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-20])
    for call in (lambda: load(copy), lambda: finetuning.finetune(copy, output_dir=tmp_path / "f"), lambda: perplexity(str(copy), ["the cat"])):
        with pytest.raises(ValueError, match=name):
            call()
    assert not (tmp_path / "f").exists()


def test_a_folder_of_others_without_checksums(folder, tmp_path):
    model, tokenizer = load(folder, device="cpu")
    model.save_pretrained(tmp_path / "plain"), tokenizer.save_pretrained(tmp_path / "plain")
    again, _ = load(tmp_path / "plain", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    weights = tmp_path / "plain" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "damaged" in verify(tmp_path / "plain")[0]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    assert info(folder).parameters == sum(p.numel() for p in model.parameters())


# --- pretraining -----------------------------------------------------------------------------------
@pytest.mark.parametrize("changes, needle", [
    (dict(steps=0), "steps 0"), (dict(minutes=0), "minutes 0"), (dict(steps=1, epochs=1), "one budget"), (dict(mask_rate=1.0), "mask_rate"), (dict(block_size=600), "600"),
    (dict(device="cuda:77"), "cuda:77"), (dict(optimizer="sgd"), "sgd"),
])
def test_bad_choices_of_pretraining(corpus, tokenizer, tmp_path, changes, needle):
    with pytest.raises(ValueError, match=needle):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", **changes)
    assert not (tmp_path / "x").exists()


def test_what_does_not_fit_is_refused(corpus, tokenizer, folder, tmp_path):
    wide = train_tokenizer([f"w{i} x{i} y{i}" for i in range(400)], vocab_size=600, progress=False)
    with pytest.raises(ValueError, match="embedding"):
        pretrain(corpus, wide, folder, tmp_path / "x", steps=1)
    with pytest.raises(ValueError, match="too few"):
        pretrain({"train": Dataset.from_dict({"text": ["a cat"]})}, tokenizer, "bert-tiny", tmp_path / "x", steps=1)
    with pytest.raises(ValueError, match="mask token"):
        pretrain(corpus, train_tokenizer(corpus, kind="bpe", vocab_size=300, progress=False), "bert-tiny", tmp_path / "x", steps=1)
    with pytest.raises(FileExistsError, match="overwrite"):
        pretrain(corpus, tokenizer, "bert-tiny", folder, steps=1)
    with pytest.raises(FileNotFoundError, match="hub|local"):
        pretrain(corpus, tokenizer, "nobody/no-model", tmp_path / "x", steps=1)
    assert verify(folder) == [] and not (tmp_path / "x").exists()


def test_cuda_asked_for_and_absent():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match="cuda.*cpu"):
        resolve_device("cuda")


def test_same_seed_same_weights(corpus, tokenizer, tmp_path):
    runs = [pretrain(corpus, tokenizer, "bert-tiny", tmp_path / str(i), steps=4, seed=s, **TINY) for i, s in enumerate((5, 5, 6))]
    a, b, c = (load_file(Path(r.output_dir) / "model.safetensors") for r in runs)
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], c[k]) for k in a)
    assert runs[0].loss_after == runs[1].loss_after != runs[2].loss_after


def test_a_loss_that_is_no_number_stops_the_run(corpus, tokenizer, tmp_path):
    with pytest.raises(FloatingPointError, match="learning rate"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "x", steps=40, learning_rate=1e30, optimizer="adamw", clip=1e30, **TINY)


_RUN = """
import sys
from datasets import Dataset, DatasetDict, IterableDatasetDict
from transformers import AutoTokenizer
from lmnotes.pretraining import pretrain
texts = open(sys.argv[1]).read().split("\\n")
corpus = DatasetDict(train=Dataset.from_dict({"text": texts[:180]}), validation=Dataset.from_dict({"text": texts[180:]}))
pretrain(corpus, AutoTokenizer.from_pretrained(sys.argv[2]), "bert-tiny", sys.argv[3], steps=60, checkpoint_steps=5, resume="resume" in sys.argv,
         block_size=16, batch_size=4, precision="fp32", device="cpu", validation_blocks=4, evaluations=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_to_the_same_weights(tokenizer, tmp_path, number):
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    words = [sys.executable, "-c", _RUN, str(tmp_path / "texts"), str(tmp_path / "tokenizer")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, str(tmp_path / "alone")], check=True, env=environment, capture_output=True)
    process = subprocess.Popen([*words, str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.time() + 120
    while not list((tmp_path / "killed" / "checkpoints").glob("step-*")) and process.poll() is None and time.time() < until:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) != 0, "the run ended before it was stopped"
    newest = sorted((tmp_path / "killed" / "checkpoints").glob("step-*"))[-1]
    if number == signal.SIGKILL and len(list((tmp_path / "killed" / "checkpoints").glob("step-*"))) > 1:
        (newest / "optimizer.safetensors").write_bytes(b"damaged")         # the one before is used
    subprocess.run([*words, str(tmp_path / "killed"), "resume"], check=True, env=environment, capture_output=True)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "killed"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_resuming_with_other_choices_names_them(corpus, tokenizer, tmp_path, monkeypatch):
    original = pretraining._Watch.on_step_end

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 3:
            self.interrupted.set()
        return original(self, args, state, control, **kwargs)
    monkeypatch.setattr(pretraining._Watch, "on_step_end", stop)
    with pytest.raises(KeyboardInterrupt, match="resume"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "run", steps=8, **TINY)
    with pytest.raises(ValueError, match="learning_rate"):
        pretrain(corpus, tokenizer, "bert-tiny", tmp_path / "run", steps=8, resume=True, learning_rate=1e-5, **TINY)


# --- perplexity and fine-tuning ---------------------------------------------------------------------
def test_bad_texts(folder):
    for texts, error in (([], ValueError), (["", " "], ValueError), ([3], TypeError), ("no/such/file.txt", FileNotFoundError)):
        with pytest.raises(error):
            perplexity(folder, texts, device="cpu")
    with pytest.raises(ValueError, match="text"):
        surprisal(folder, "", device="cpu")


def test_a_broken_model_is_named(folder):
    model, tokenizer = load(folder, device="cpu")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="document 0"):
        perplexity(model, ["the cat sat on the mat"], tokenizer)


def test_masked_scores_equal_the_dense_definition(folder):
    model, tokenizer = load(folder, device="cpu")
    texts = ["the cat sat on the mat", "a dog ran"]
    result, total = perplexity(model, texts, tokenizer), 0.0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        for i in range(1, ids.shape[1] - 1):
            masked = ids.clone()
            masked[0, i] = tokenizer.mask_token_id
            with torch.no_grad():
                total += model(input_ids=masked).logits[0, i].log_softmax(-1)[ids[0, i]].item()
    assert abs(result.log_likelihood - total) < 1e-4 * abs(total)


def test_a_real_causal_model(shared_models, shared_data):
    from datasets import load_dataset
    data = load_dataset(str(shared_data / "tinystories"))
    texts = [t for t in data[next(iter(data))]["text"][:8] if t.strip()]
    model, tokenizer = load(shared_models / "stories260K", device="cpu")
    result = perplexity(model, texts, tokenizer, window=256, bos=False)
    total = count = 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        for begin, first, end in __import__("lmnotes.perplexity", fromlist=["windows"]).windows(ids.shape[1], 256, 256):
            with torch.no_grad():
                scores = model(ids[:, begin:end]).logits.log_softmax(-1)
            for t in range(max(first, begin + 1), end):
                total += scores[0, t - begin - 1, ids[0, t]].item()
                count += 1
    assert count <= sum(result.tokens) and 1 < result.perplexity < 20


def test_finetuning_learns_a_simple_rule_and_reopens(folder, tmp_path):
    rows = [{"sentence": t, "label": "has cat" if "cat" in t.split() else "none"} for t in TEXTS]
    data = Dataset.from_list(rows)
    result = finetuning.finetune(folder, data, tmp_path / "f", epochs=6, batch_size=8, max_length=32, device="cpu", precision="fp32")
    assert result.labels == ("has cat", "none") and result.scores["accuracy"] >= result.majority["accuracy"]
    from transformers import pipeline
    assert pipeline("text-classification", model=str(tmp_path / "f"))("the cat sat")[0]["label"] in result.labels
    with pytest.raises(FileExistsError):
        finetuning.finetune(folder, data, tmp_path / "f")


# --- the command -----------------------------------------------------------------------------------
def test_the_path_by_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    tiny = "--steps 3 --block-size 16 --batch-size 4 --device cpu --validation-blocks 4 --precision fp32".split()
    assert execute(COMMANDS, ["corpus", "book.txt", "--output-dir", "runs/corpus", "--deduplicate", "exact"]) == 0 and Path("runs/corpus/train").is_dir()
    assert execute(COMMANDS, ["tokenizer", "book.txt", "--vocab-size", "120"]) == 0
    assert execute(COMMANDS, ["pretrain", "book.txt", "runs/tokenizer", "--model", "bert-tiny", *tiny]) == 0
    assert execute(COMMANDS, ["perplexity", "runs/pretrained", "book.txt", "--max-texts", "3"]) == 0
    assert "pseudo-perplexity" in capsys.readouterr().out
    assert execute(COMMANDS, ["fill-mask", "runs/pretrained", "the [MASK] sat"]) == 0
    capsys.readouterr()
    for words, needle in ((["corpus", "missing.txt"], "missing.txt"), (["pretrain", "book.txt", "runs/tokenizer", *tiny], "overwrite"), (["pretrain", "book.txt", "runs/none", *tiny], "runs/none"),
                          (["pretrain", "book.txt", "runs/tokenizer", "--output-dir", "x", "--steps", "0"], "steps"), (["perplexity", "runs/none", "book.txt"], "runs/none"),
                          (["finetune", "runs/none"], "runs/none"), (["demo", "--corpus", "missing.txt"], "missing.txt"), (["demo", "--minutes", "0"], "minutes")):
        assert execute(COMMANDS, words) == 2, words
        err = capsys.readouterr().err
        assert needle in err and "Traceback" not in err and len([line for line in err.splitlines() if "rror" in line]) <= 1, err


# ---- output folders and corpora, as a careful reader tried them

def test_what_no_run_wrote_is_never_lost(tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name in ("config.json", "thesis.docx"):
        (mixed / name).write_text("1")
    with pytest.raises(FileExistsError, match="no result of a run"):                # config.json is no mark: many projects have one
        check_output_dir(mixed, overwrite=True)
    (mixed / "lmnotes.json").write_text("{}")
    with pytest.raises(FileExistsError, match="thesis.docx"):
        check_output_dir(mixed, overwrite=True)
    (mixed / ".DS_Store").write_text("2")
    with write_aside(mixed, overwrite=True) as aside:                               # it appeared while a run went on: the run is not lost, nor is the file
        (aside / "new.json").write_text("2")
    assert sorted(os.listdir(mixed)) == [".DS_Store", "new.json", "thesis.docx"] and os.listdir(tmp_path) == ["mixed"]


_KILLED = """
import os, signal, sys
from lmnotes.corpora import write_aside
def hook(event, paths):
    if event == "os.rename" and os.path.basename(paths[0]).startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
with write_aside(sys.argv[1], overwrite=True) as aside:
    (aside / "lmnotes.json").write_text('{"new": 1}')
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of Unix")
@pytest.mark.parametrize("moment", [".model-", ".notes"], ids=["between the moves", "before what no run wrote is carried over"])
def test_what_a_kill_in_a_replacement_left_is_put_right(tmp_path, moment, caplog):
    model = tmp_path / "model"
    model.mkdir()
    (model / "lmnotes.json").write_text("{}"), (model / ".notes").write_text("mine"), (model / "notes").write_text("mine")
    done = subprocess.run([sys.executable, "-c", _KILLED, str(model), moment], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=120)
    assert done.returncode == -signal.SIGKILL and len(os.listdir(tmp_path)) == 3
    if moment == ".model-":
        (old,) = [p for p in tmp_path.glob(".model-old-*") if p.is_dir()]
        assert verify(model) == [f"{str(model)!r} is no folder (it was being replaced when a process was killed, and the earlier one stands in {str(old)!r}: rename it)"]
        for opened in (lambda: load(model), lambda: info(model)):
            with pytest.raises(FileNotFoundError, match="the earlier one stands in .*model-old"):
                opened()
    with pytest.raises(FileExistsError, match="holds notes, which is no result"):      # the next who would write there, before its work
        check_output_dir(model, overwrite=True)
    assert (model / "notes").read_text() == (model / ".notes").read_text() == "mine" and os.listdir(tmp_path) == ["model"]
    assert (model / "lmnotes.json").read_text() == ("{}" if moment == ".model-" else '{"new": 1}')
    assert ("has its name back" in caplog.text) == (moment == ".model-")


def test_what_others_moved_aside_is_left_alone(tmp_path, caplog):
    "A process that lives, another machine, a folder without a note; of what was removed in part nothing is carried over."
    def aside(process, **facts):
        (tmp_path / f".model-old-{process}").mkdir()
        (tmp_path / f".model-old-{process}" / "lmnotes.json").write_text("{}"), (tmp_path / f".model-old-{process}" / "theirs").write_text("1")
        if facts:
            (tmp_path / f".model-old-{process}.json").write_text(json.dumps({"machine": platform.node(), "process": process, "aside": ".model-abcdefgh", **facts}))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    aside(os.getppid(), aside=".model-of-parent"), aside(os.getpid(), aside=".model-own"), aside(7, machine="elsewhere"), aside(2023), aside(ended.pid, carried=True)
    kept = sorted(p for p in os.listdir(tmp_path) if str(ended.pid) not in p)
    with write_aside(tmp_path / "model") as folder:
        (folder / "lmnotes.json").write_text("{}")
    corpora._put_right(tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "model"]) and os.listdir(tmp_path / "model") == ["lmnotes.json"]
    assert "process 7 of elsewhere moved it there" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="rights of files are of Unix")
def test_whoever_may_read_new_files_may_read_the_weights(folder, tokenizer, tmp_path):
    "The safetensors library lets nobody but the owner read what it wrote."
    before = os.umask(0o022)
    try:
        save(load(folder, device="cpu")[0], tokenizer, tmp_path / "m")
        with write_aside(tmp_path / "other") as aside:
            (aside / "run.sh").touch(mode=0o700), (aside / "part").mkdir(), (aside / "part" / "a").touch(mode=0o600), (aside / "link").symlink_to(tmp_path / "m" / "config.json")
        os.chmod(tmp_path / "m" / "config.json", 0o600)
        with write_aside(tmp_path / "again") as aside:
            (aside / "link").symlink_to(tmp_path / "m" / "config.json")
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (*(tmp_path / "m").iterdir(), *(tmp_path / "other").rglob("*")) if p.is_file() and not p.is_symlink()}
    assert modes.pop("run.sh") == 0o744 and modes.pop("config.json") == 0o600 and modes["model.safetensors"] == 0o644 and set(modes.values()) == {0o644}


def test_a_full_disk_names_the_folder_whoever_meets_it(corpus, folder, tokenizer, tmp_path, monkeypatch):
    "The tokenizers library raises a plain exception, Arrow an error that names no file."
    def full(*args, **kwargs):
        raise Exception("No space left on device (os error 28)")
    (tmp_path / "text.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    model, _ = load(folder, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "save_pretrained", full)
        calls = [lambda: make_tokenizer(corpus, tmp_path / "out", vocab_size=120, progress=False), lambda: save(model, tokenizer, tmp_path / "out"), lambda: pretraining.save_folder(tmp_path / "out", model, tokenizer)]
        for call in calls:
            with pytest.raises(OSError, match="No space left on device") as error:
                call()
            assert f"{str(tmp_path / 'out')!r} cannot be written" in str(error.value) and not (tmp_path / "out").exists()

    def short(*args, **kwargs):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(DatasetDict, "save_to_disk", short), monkeypatch.setattr(privacy, "_scrub_file", short)
    for call in (lambda: make_corpus(tmp_path / "out", source=str(tmp_path / "text.txt")), lambda: privacy.scrub_corpus(tmp_path / "text.txt", tmp_path / "out")):
        with pytest.raises(OSError, match="No space left on device: output_dir '.*out' cannot be written; what was there before is as it was"):
            call()
    assert os.listdir(tmp_path) == ["text.txt"]
    with pytest.raises(Exception, match="^another thing$"), corpora._named_disk("x"):
        raise Exception("another thing")


def test_output_folders_that_cannot_be_replaced_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", "", "./"):
        with pytest.raises(OSError, match="working folder"):
            check_output_dir(name)
    mount = tmp_path / "out"
    mount.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == mount)
    with pytest.raises(OSError, match="mount point.*out/model"):
        check_output_dir("out")
    assert check_output_dir("out/model") == Path("out/model")
    inside = tmp_path / "p" / "out"
    inside.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "p")
    with pytest.raises(PermissionError, match="p is not a writable"):
        check_output_dir(inside)


def test_a_link_is_followed_and_a_whole_result_outlives_a_failed_move(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "lmnotes.json").write_text("1")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with write_aside(tmp_path / "out", overwrite=True) as aside:
        (aside / "lmnotes.json").write_text("2")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "lmnotes.json").read_text() == "2" and sorted(os.listdir(tmp_path)) == ["disk", "out"]
    rename = os.rename

    def refuse(source, target):
        if Path(target).name == "model":
            raise OSError(16, "Device or resource busy")
        rename(source, target)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="stands in") as caught:
        with write_aside(tmp_path / "model") as aside:
            (aside / "a").write_text("whole")
    assert (aside / "a").read_text() == "whole" and str(aside) in str(caught.value)


def test_nothing_near_a_held_out_text_stays_in_training():
    draw = np.random.default_rng(2)
    for _ in range(20):
        words = [f"w{draw.integers(10**6)}" for _ in range(120)]
        other = [f"v{i}" for i in range(8)] + words[8:]
        third = other[:-9] + [f"u{i}" for i in range(9)]
        texts = [" ".join(t) for t in (words, other, third)]
        for held in ([texts[1]], texts[:2]):
            alone = corpora.near_duplicates([texts[1], texts[2]])[1]
            both = corpora.near_duplicates([*held, texts[2]], fixed=len(held))
            assert not both[:len(held)].any() and both[-1] >= alone
    chained = corpora.near_duplicates(texts)
    assert not chained[0] and not corpora.near_duplicates(texts, fixed=3).any()


def test_texts_without_a_word_are_not_all_the_same():
    assert corpora.near_duplicates(["😀😀", "— — —", "+++", "!!!", "→ ←", "+ ++"]).tolist() == [False] * 5 + [True]


def test_held_out_splits_never_become_training_text():
    texts = Dataset.from_dict({"text": ["exam a", "exam b", "exam c"]})
    empty = texts.select([])
    for data, says in ((empty, "is empty"), (DatasetDict(train=empty, validation=texts), "is empty"), (DatasetDict(validation=texts, test=texts), "no training split"), (DatasetDict(a=texts, b=texts), "no training split")):
        with pytest.raises(ValueError, match=says):
            load_corpus(data)
    assert list(load_corpus(DatasetDict(some=texts), validation_fraction=0)) == list(load_corpus(DatasetDict(test=texts), validation_fraction=0)) == ["train"]
    assert list(load_corpus(DatasetDict(train=texts, validation=texts, dev=texts), deduplicate=False)) == ["train", "validation", "dev"]
    assert set(load_corpus(texts, validation_fraction=0.99, deduplicate=False)) == {"train", "validation"}
    stream = IterableDatasetDict({"train": texts.to_iterable_dataset(), "dev": texts.to_iterable_dataset()})
    assert list(load_corpus(stream, streaming=True)) == ["train", "validation"]
    with pytest.raises(ValueError, match="validation split.*empty"):
        load_corpus(texts.to_iterable_dataset(), streaming=True, validation_fraction=1e-9)
    with pytest.raises(TypeError, match="is a Dataset"):
        corpus_report(texts)


def test_marks_brackets_and_broken_bytes_of_files(tmp_path):
    (tmp_path / "b [1].txt").write_bytes("\ufefffirst par\n\nsecond par".encode())
    assert load_corpus(tmp_path / "b [1].txt", validation_fraction=0)["train"]["text"][:] == ["first par", "second par"]
    (tmp_path / "module.py").write_bytes(("\ufeff'''" + "x" * 90 + "'''\n").encode())
    assert corpora._read_modules({"path": [str(tmp_path / "module.py")], "package": ["p"], "module": ["m"]})["text"] == ["x" * 90]
    for body in (b"a" * (2**20 - 1) + "é".encode()[:1] + b"b" * 5, b"a" * (2**20 - 2) + "é".encode() + b"\xff" + b"b"):
        (tmp_path / "bad.txt").write_bytes(body)
        with pytest.raises(ValueError) as caught:
            load_corpus(tmp_path / "bad.txt")
        try:
            body.decode()
        except UnicodeDecodeError as error:
            assert f"byte {error.start} " in str(caught.value)
    with pytest.raises(ValueError, match="cannot be a path"):
        load_corpus("the cat sat on the mat " * 40)


@pytest.mark.parametrize("name, package", [("docstrings:json", "json"), ("docstrings:threadpoolctl", "threadpoolctl"), ("docstrings:numpy.linalg", "numpy.linalg")])
def test_docstrings_of_any_module(name, package, tmp_path):
    found = load_corpus(name, cache_dir=tmp_path)
    assert len(found["train"]) and set(found["train"]["package"]) == {package}


def test_packages_without_docstrings_are_named(tmp_path):
    for name in ("docstrings:xxhash", "docstrings:no_such_package"):
        with pytest.raises(ValueError, match=name.partition(":")[2]):
            load_corpus(name, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="no_such_package"):
        corpora.harvest(["no_such_package"])


def test_two_processes_may_fill_the_cache(tmp_path, monkeypatch):
    aside = corpora.write_aside

    def late(folder, overwrite=False):
        monkeypatch.setattr(corpora, "write_aside", aside)
        load_corpus("docstrings:json", cache_dir=tmp_path)                       # the other one was faster
        raise OSError(39, "Directory not empty")
    monkeypatch.setattr(corpora, "write_aside", late)
    assert len(load_corpus("docstrings:json", cache_dir=tmp_path)["train"])


# ---- what a run wrote, and what it did not

def _tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _lay(folder, *names, **facts):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1")
    for name, text in facts.items():
        (folder / f"{name}.json").write_text(text)
    return folder


def _finished(folder):
    _lay(folder, "model.safetensors", "config.json", "lmnotes.json", "predictions.json", "README.md", "adapter/adapter_config.json")
    pretraining.write_checksums(folder)
    return _lay(folder, "checkpoints/step-00000005/model.safetensors", "checkpoints/.step-00000009-ab12cd34/config.json")


_KINDS = {
    "finished": _finished,
    "interrupted": lambda d: _lay(d, "checkpoints/step-00000005/model.safetensors", "checkpoints/step-00000005/progress.json", "checkpoints/.step-00000009-ab12cd34/config.json"),
    "without checksums": lambda d: _lay(d, "config.json", "generation_config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    "tokenizer": lambda d: _lay(d, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    "demo": lambda d: (_finished(d / "pretrained"), _lay(d, "choices.json", "metrics.json", "report.html", "tokenizer/tokenizer.json", "finetuned/checkpoints/step-00000001/progress.json", "again/config.json"))[1],
    "glue": lambda d: (_finished(d / "cola" / "model"), _lay(d / "cola", "CoLA.tsv", result='{"task": "cola"}'), pretraining.write_checksums(d / "cola"),
                       _lay(d, "glue.json", "results.json", "results.md", "submission/CoLA.tsv", "submission.zip", ".results.json.part"))[-1],
    "data": lambda d: (DatasetDict(train=Dataset.from_dict({"text": ["a"]}), exam=Dataset.from_dict({"text": ["b"]})).save_to_disk(d), _lay(d, "train/cache-1f.arrow"))[1],
    "scrubbed": lambda d: (_lay(d, "a.txt", "more/b.csv.gz", result='{"output_dir": "d", "files": 2, "documents": 2, "characters": 9, "counts": {}}'),
                           [os.utime(d / name, (time.time() - 60,) * 2) for name in ("a.txt", "more/b.csv.gz", "result.json")]),
    "tasks": lambda d: _lay(d, "own_pairs.jsonl", "own_pairs.yaml", lmnotes='{"tasks": ["own_pairs"]}'),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_overwriting_takes_what_a_run_of_the_kind_wrote_and_nothing_else(kind, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    _KINDS[kind](out)
    assert check_output_dir(out, overwrite=True) == out
    for mine in ("train.jsonl", "answers.jsonl", "thesis.txt", "photos/x.jpg", "secret/own.doc", "runs/old/thesis.txt", "runs/other/model.safetensors", "checkpoints/a.pt", "checkpoints/step-1/a.pt",
                 *(["adapter/mine.txt"] if kind == "finished" else []), *(["train/mine.txt"] if kind == "data" else []), *(["pretrained/notes.txt", "checkpoints/step-1/x.json"] if kind == "demo" else [])):
        _lay(out, mine)
        with pytest.raises(FileExistsError, match=rf"holds .*{mine.split('/')[0]}.*no result of a run"):
            check_output_dir(out, overwrite=True)
        with write_aside(out, overwrite=True) as aside:                             # it appeared late: it is kept
            (aside / "new.json").write_text("2")
        assert _tree(out) == sorted(["new.json", mine]) and (out / mine).read_text() == "1" and os.listdir(tmp_path) == ["out"]
        shutil.rmtree(out)
        out.mkdir()
        _KINDS[kind](out)


def test_a_text_among_scrubbed_ones_that_nothing_tells_from_them_is_kept(tmp_path):
    _KINDS["scrubbed"](tmp_path / "out")
    _lay(tmp_path / "out", "thesis.txt")
    os.utime(tmp_path / "out" / "thesis.txt", (0, 0))                               # moved there, older than the report
    with pytest.raises(FileExistsError, match="no result of a run"):
        check_output_dir(tmp_path / "out", overwrite=True)
    with write_aside(tmp_path / "out", overwrite=True) as aside:
        (aside / "a.txt").write_text("2")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "1" and (tmp_path / "out" / "a.txt").read_text() == "2"


def test_marks_of_others_are_no_results(tmp_path):
    for name, text in (("result.json", '{"score": 1}'), ("SHA256SUMS", "0  linux.iso\n"), ("metrics.json", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(text)
        _lay(tmp_path / name, "linux.iso", "config.json")
        with pytest.raises(FileExistsError, match="no result of a run"):
            check_output_dir(tmp_path / name, overwrite=True)


def test_a_home_folder_that_no_shell_named_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (lambda: check_output_dir("~/xx"), lambda: write_aside("~/xx").__enter__()):
        with pytest.raises(ValueError, match="expanduser"):
            write()
    assert os.listdir(tmp_path) == []


# ---- files of a folder, and what is no text

def _splits(source, cache, streaming, **more):
    return {split: [row["text"] for row in rows] for split, rows in load_corpus(source, cache_dir=cache, streaming=streaming, **{"validation_fraction": 0, **more}).items()}


@pytest.mark.parametrize("streaming", [False, True])
def test_files_named_by_splits_are_splits(tmp_path, streaming):
    import pandas
    for i, (files, want) in enumerate((
            ({"train.txt": "a\n\nb", "valid.txt": "c", "test.txt": "d"}, {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}),
            ({"wiki.train.tokens.txt": "a", "wiki.test.tokens.txt": "d"}, {"train": ["a"], "test": ["d"]}),
            ({"en-train.jsonl": '{"text": "a"}', "en-dev.jsonl": '{"text": "c"}', "en-test.jsonl": ""}, {"train": ["a"], "validation": ["c"]}),
            ({"train.txt": "a", "other.txt": "b"}, {"train": ["b", "a"]}),
            ({"training_test.txt": "a", "contest.txt": "b"}, {"train": ["b", "a"]}))):
        folder = tmp_path / str(i)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        assert _splits(folder, tmp_path / "cache", streaming) == want, files
    (tmp_path / "packed").mkdir()
    for name in ("train", "test"):
        pandas.DataFrame({"text": [name]}).to_parquet(tmp_path / "packed" / f"{name}.parquet")
    (tmp_path / "packed" / "notes.txt").write_text("note")
    assert _splits(tmp_path / "packed", tmp_path / "cache", streaming) == {"train": ["train"], "test": ["test"]}


@pytest.mark.parametrize("streaming", [False, True])
def test_files_named_by_held_out_splits_only_are_no_training_text(tmp_path, streaming):
    import pandas
    for i, names in enumerate((("valid.txt", "test.txt"), ("dev/a.txt", "dev/b.txt", "test/a.txt", "test/b.txt"), ("test.parquet", "validation.parquet"))):
        folder = tmp_path / str(i)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pandas.DataFrame({"text": ["a"]}).to_parquet(folder / name) if name.endswith("parquet") else (folder / name).write_text("a text")
        with pytest.raises(ValueError, match=f"no training text: its files .*{names[0]}.*are named by the splits .*test; name the one to learn from train, or give it alone, such as '{folder}"):
            _splits(folder, tmp_path / "cache", streaming)
    assert _splits(tmp_path / "0" / "test.txt", tmp_path / "cache", streaming) == {"train": ["a text"]}
    (tmp_path / "2" / "train.txt").write_text("learn")                         # Parquet files without train hide no other files
    assert _splits(tmp_path / "2", tmp_path / "cache", streaming) == {"validation": ["a"], "test": ["a"], "train": ["learn"]}


def test_files_named_by_one_split_only_are_told(tmp_path, caplog):
    folder = _lay(tmp_path / "one", "test.txt")
    assert _splits(folder, tmp_path / "cache", False) == {"train": ["1"]} and "has the split 'test' only: it is taken as the training split" in caplog.text


def test_names_that_begin_as_the_embedded_corpus_are_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _lay(tmp_path / "docstrings_labelled", "a.txt"), (tmp_path / "docstrings.csv").write_text("text\none\n")
    assert _splits("docstrings.csv", tmp_path / "cache", False) == {"train": ["one"]} and _splits("docstrings_labelled", tmp_path / "cache", False) == {"train": ["1"]}


def test_shares_and_thresholds_that_are_none_are_refused():
    for fraction in (-1, 5, float("nan")):
        with pytest.raises(ValueError, match=f"fraction {fraction} must lie between 0 and 1"):
            corpora.held_out(["a", "b"], fraction)
    for threshold in (80, 0, -0.1):
        with pytest.raises(ValueError, match=f"threshold {threshold} must lie above 0 and up to 1, for example 0.8"):
            corpora.near_duplicates(["a b c", "a b c"], threshold)
    assert corpora.held_out(["a"], 0.5) == set() and len(corpora.held_out(list("abcd"), 1)) == 3 and corpora.near_duplicates(["a b c", "a b c"], 1).tolist() == [False, True]
    with pytest.raises(ValueError, match="deduplicate 'near' is not known: True, 'exact' or False"):
        load_corpus({"train": ["a"]}, deduplicate="near")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_parquet_file_among_others_hides_none(tmp_path, streaming):
    import pandas
    folder = _lay(tmp_path / "mixed", "b.txt")
    (folder / "a.txt").write_text("one\nline\n\ntwo")
    pandas.DataFrame({"text": ["packed"]}).to_parquet(folder / "c.parquet")
    assert _splits(folder, tmp_path / "cache", streaming) == {"train": ["one\nline", "two", "1", "packed"]}


@pytest.mark.parametrize("streaming", [False, True])
def test_paragraphs_end_at_lines_of_white_space(tmp_path, streaming):
    import gzip
    import re
    text = "one\n \ntwo\n\t\n\n  three\nmore\n\n\nfour\n\u3000\nfive\n\n"
    text += "".join(f"line {i}\n" + (" \n" if i % 7 == 0 else "\n" if i % 11 == 0 else "") for i in range(2000))
    (tmp_path / "A.TXT.GZ").write_bytes(gzip.compress(text.encode()))
    found = _splits(tmp_path / "A.TXT.GZ", tmp_path / "cache", streaming)["train"]
    assert found == [part for part in re.split(r"\n\s*\n", text) if part] and found[:5] == ["one", "two", "  three\nmore", "four", "five"]


def test_the_mark_of_another_encoding_is_named(tmp_path):
    for name in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.txt").write_bytes("\ufeffhello".encode(name))
        with pytest.raises(ValueError, match="--encoding utf-16"):
            load_corpus(tmp_path / "a.txt", cache_dir=tmp_path)
        assert _splits(tmp_path / "a.txt", tmp_path / "cache", False, encoding="utf-16") == {"train": ["hello"]}


@pytest.mark.parametrize("source, error, needle", [
    ({"train": ["a", b"b"]}, TypeError, "row 1 of the split 'train' is of type bytes"),
    ({"train": ["a"], "test": ["a", 3]}, TypeError, "row 1 of the split 'test' is of type int"),
    ({"train": [{"body": "a"}]}, ValueError, "row 0 .*no column 'text', but body.*text_column"),
    ({"train": ["a", "b\ud800"]}, ValueError, "row 1 .*surrogate"),
    ({"train": "a text"}, TypeError, "of type str: give a list"),
    ([b"a"], TypeError, "item 0 .*bytes, no path"),
    ([{"text": "a"}], TypeError, "Dataset.from_list"),
    (__import__("pandas").DataFrame({"text": ["a"]}), TypeError, "Dataset.from_pandas"),
])
def test_rows_that_are_no_text_are_named(source, error, needle):
    with pytest.raises(error, match=needle):
        load_corpus(source, validation_fraction=0)


def test_lists_and_streams_in_hand():
    from datasets import IterableDataset
    lists = {"train": ["a", None, "b"], "test": [{"text": "c"}]}
    for streaming in (False, True):
        assert _splits(lists, None, streaming) == {"train": ["a", "b"], "test": ["c"]}
    stream = lambda *rows: IterableDataset.from_generator(lambda: iter(rows))
    assert _splits(stream({"text": "a"}), None, True) == {"train": ["a"]}
    with pytest.raises(ValueError, match="streaming=True"):
        load_corpus(stream({"text": "a"}))
    for row, needle in (({"text": 3}, "row 0 .*int"), ({"body": "a"}, "no column 'text', but body")):
        with pytest.raises((TypeError, ValueError), match=needle):
            load_corpus(stream(row), streaming=True)


@settings(max_examples=200, deadline=None)
@given(st.text("ab\n \t\u3000\x0b\x1c\x85\xa0", max_size=9))
def test_arrow_finds_the_lines_of_white_space_that_python_finds(text):
    assert corpora._has_gaps(Dataset.from_dict({"text": [text]})) == bool(corpora._GAP.search(text))


def test_only_an_empty_cell_of_a_csv_is_no_text(tmp_path):
    rows = ["null", "NA", "None", "nan", "N/A", "ok"]
    (tmp_path / "a.csv").write_text("n,text,m\n" + "".join(f"{'NA' if i == 2 else i},{row},{'' if i else 1.5}\n" for i, row in enumerate([*rows, ""])), encoding="utf-8")
    for streaming in (False, True):
        assert _splits(tmp_path / "a.csv", tmp_path / "cache", streaming) == {"train": rows}
    with pytest.raises(ValueError, match="text_column 'm' holds float64, not text"):
        load_corpus(tmp_path / "a.csv", text_column="m", cache_dir=tmp_path / "cache")
    (tmp_path / "b.csv").write_text("text,n\n" + "".join(f"text {i},{'' if i > 12000 else 'NA' if i > 11000 else i}\n" for i in range(13000)), encoding="utf-8")     # the library reads 10,000 rows at a time
    assert len(_splits(tmp_path / "b.csv", tmp_path / "cache", False)["train"]) == 13000
    (tmp_path / "c.csv").write_text("text,n\n", encoding="utf-8")
    with pytest.raises(ValueError, match="empty"):
        load_corpus(tmp_path / "c.csv", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("source", ["", "  ", ["a.txt", ""]])
def test_an_empty_name_is_not_the_working_folder(tmp_path, monkeypatch, source):
    (tmp_path / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^source .* is empty: name a file, a folder"):
        load_corpus(source)
    assert _splits(".", tmp_path / "cache", False) == {"train": ["one", "two"]}


def test_encodings_that_cannot_be_are_named(tmp_path):
    (tmp_path / "de.txt").write_text("Grüße\n", encoding="utf-8")
    for encoding, what in (("utf-16", r" \(UTF-16 stream does not start with BOM\): "), ("utf-32", ": byte 0 cannot be read; ")):
        with pytest.raises(ValueError, match=rf"de\.txt is not {encoding}{what}name its encoding, .*--encoding"):
            load_corpus(tmp_path / "de.txt", encoding=encoding, cache_dir=tmp_path)
    for encoding in ("nope", "base64", ""):
        with pytest.raises(ValueError, match=f"^encoding '{encoding}' is not known to Python"):
            load_corpus(tmp_path / "de.txt", encoding=encoding, cache_dir=tmp_path)


@pytest.mark.parametrize("kind", ["a text", b"bytes", {"text": TEXTS[0]}, DatasetDict(), "table", None])
@pytest.mark.parametrize("name, call", [("texts", corpora.minhash), ("texts", corpora.exact_duplicates), ("texts", corpora.near_duplicates), ("groups", lambda given: corpora.held_out(given, 0.3)), ("packages", corpora.harvest)])
def test_what_python_walks_through_by_letters_or_columns_is_no_list(name, call, kind):
    import pandas
    given = pandas.DataFrame({"text": TEXTS[:2]}) if kind == "table" else kind
    says = (ValueError, "docstrings of a text cannot be read") if (name, kind) == ("packages", "a text") else (TypeError, rf"^{name} is {'one [a-z]+' if isinstance(given, str) else f'a {type(given).__name__}'}: give a list of .*\.tolist\(\) for a table")
    with pytest.raises(says[0], match=says[1]):
        call(given)


def test_lists_of_any_kind_are_walked_through():
    import pandas
    two = [TEXTS[0]] * 2
    for given in (two, tuple(two), iter(two), pandas.Series(two), np.array(two), Dataset.from_dict({"text": two})["text"]):
        assert corpora.near_duplicates(given).tolist() == [False, True]
    for call in (corpora.exact_duplicates, corpora.near_duplicates):
        with pytest.raises(TypeError, match=r"^texts: item 1 is of type NoneType, no text"):
            call(["a", None])
        with pytest.raises(TypeError, match=r"^texts: item 0 is of type dict, no text: give texts, data\['text'\] of a data set"):
            call(Dataset.from_dict({"text": two}))
    one = corpora.harvest(["threadpoolctl"])[:]
    assert one["text"] and corpora.harvest("threadpoolctl")[:] == corpora.harvest(iter(["threadpoolctl"]))[:] == one


def test_reports_of_corpora_without_text():
    rows = lambda **columns: Dataset.from_dict(columns)
    for wrong, says in ((DatasetDict(), "corpus has no split: give"), (DatasetDict(train=rows(a=["x"], b=["y"])), "corpus: the split 'train' has no column 'text', but a, b: name"),
                        (DatasetDict(train=rows()), "'train' has no column 'text', but none"), (DatasetDict(train=rows(text=["x"]), test=rows(text=[1])), "the split 'test' holds int64, not text")):
        with pytest.raises(ValueError, match=says):
            corpus_report(wrong)
    report = corpus_report(DatasetDict(train=rows(text=["ü", None]), validation=rows(text=[]), test=rows(text=[None])))
    assert (report.documents, report.characters, report.bytes) == ({"train": 2, "validation": 0, "test": 1}, {"train": 1, "validation": 0, "test": 0}, {"train": 2, "validation": 0, "test": 0})
