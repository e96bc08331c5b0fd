"""Folders of models: round trips bit for bit, shards, types, damage, cards, sharing, export; with throwaway models."""
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard, metadata_load
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoModelForTokenClassification, BertConfig, BertForPreTraining,
                          BigBirdConfig, BigBirdForMaskedLM, GPT2Config, GPT2Model, LlamaConfig, ModernBertConfig, T5Config, T5ForConditionalGeneration, T5ForSequenceClassification)

from lmnotes.checkpoints import _compare, average, convert, energy, export, info, load, model_card, model_tokenizer, push, save, task_of, verify
from lmnotes.cli import COMMANDS, execute
from lmnotes.finetuning import finetune
from lmnotes.pretraining import pretrain, save_folder, write_checksums
from lmnotes.tokenization import train_tokenizer

TEXTS = ["the cat sat on the mat", "a dog ran over the log", "a bird flew under the tree"] * 20
SMALL = dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64)
ENDS = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)
MAKE = {"bert": lambda: AutoModelForMaskedLM.from_config(BertConfig(**SMALL)),
        "modernbert": lambda: AutoModelForMaskedLM.from_config(ModernBertConfig(**SMALL, **ENDS, cls_token_id=2, sep_token_id=3)),
        "gpt2": lambda: AutoModelForCausalLM.from_config(GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2, n_positions=64, **{**ENDS, "pad_token_id": None})),
        "llama": lambda: AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, num_key_value_heads=1, **ENDS)),
        "classifier": lambda: AutoModelForSequenceClassification.from_config(BertConfig(**SMALL, num_labels=3)),
        "tagger": lambda: AutoModelForTokenClassification.from_config(BertConfig(**SMALL, num_labels=5)),
        "reader": lambda: AutoModelForQuestionAnswering.from_config(BertConfig(**SMALL)),
        "t5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=100, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, **{**ENDS, "eos_token_id": 1}))}
TASKS = {"bert": "masked", "modernbert": "masked", "gpt2": "causal", "llama": "causal", "classifier": "classification", "tagger": "tokens", "reader": "question-answering", "t5": "seq2seq"}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=60, progress=False)


@pytest.fixture(scope="module", params=MAKE)
def model(request):
    torch.manual_seed(0)
    made = MAKE[request.param]().eval()
    made.kind = request.param
    return made


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    return MAKE["bert"]().eval()


def same(a, b):
    "Whether two models have the same names and bits; the library opens some weights of T5 in fp32, which is exact."
    kept, a, b = getattr(b, "_keep_in_fp32_modules", None), a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all((x.dtype == y.dtype or kept) and torch.equal(x, y.to(x.dtype)) for x, y in zip(a.values(), b.values()))


# ---- round trips

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard", [None, "20KB"])
def test_round_trip_is_bit_for_bit(model, tokenizer, tmp_path, dtype, shard):
    cast = MAKE[model.kind]().to(dtype)
    cast.load_state_dict({k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()})
    save(cast, tokenizer, tmp_path / "m", max_shard_size=shard)
    assert verify(tmp_path / "m") == []
    again, its = load(tmp_path / "m", device="cpu")
    assert type(again) is type(model) and same(cast, again) and not again.training
    assert its.get_vocab() == tokenizer.get_vocab() and its(TEXTS[0])["input_ids"] == tokenizer(TEXTS[0])["input_ids"]
    files = list((tmp_path / "m").glob("*.safetensors"))
    assert (len(files) > 1) == bool(shard) and (not shard or max(p.stat().st_size for p in files) < 40_000)
    described = info(tmp_path / "m")
    assert described.task == TASKS[model.kind] == task_of(again.config)
    assert described.parameters == sum(p.numel() for p in model.parameters()) and described.vocab_size == len(tokenizer)
    assert described.dtypes == ({torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype],)


def test_tied_weights_are_stored_once_and_tied_again(bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m")
    names = load_file(tmp_path / "m" / "model.safetensors").keys()
    assert "cls.predictions.decoder.weight" not in names and "bert.embeddings.word_embeddings.weight" in names
    again, _ = load(tmp_path / "m", device="cpu")
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


def test_untied_weights_stay_apart(tokenizer, tmp_path):
    model = AutoModelForMaskedLM.from_config(BertConfig(**SMALL, tie_word_embeddings=False))
    save(model, tokenizer, tmp_path / "m")
    again, _ = load(tmp_path / "m", device="cpu")
    assert same(model, again) and again.get_output_embeddings().weight is not again.get_input_embeddings().weight


def test_a_saved_folder_opens_with_the_library_alone(bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m")
    code = ("import sys; from transformers import AutoModelForMaskedLM, AutoTokenizer; m = AutoModelForMaskedLM.from_pretrained(sys.argv[1]); t = AutoTokenizer.from_pretrained(sys.argv[1]); "
            "assert 'lmnotes' not in sys.modules; print(sum(p.numel() for p in m.parameters()), len(t))")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], capture_output=True, text=True)
    assert done.stdout.split() == [str(sum(p.numel() for p in bert.parameters())), str(len(tokenizer))], done.stderr


def test_checksums_are_those_of_sha256sum(bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m")
    lines = dict(reversed(line.split("  ")) for line in (tmp_path / "m" / "SHA256SUMS").read_text().splitlines())
    assert set(lines) == {p.name for p in (tmp_path / "m").iterdir()} - {"SHA256SUMS"}
    assert all(hashlib.sha256((tmp_path / "m" / name).read_bytes()).hexdigest() == digest for name, digest in lines.items())
    if shutil.which("sha256sum"):
        assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "m").returncode == 0


def test_a_folder_without_a_tokenizer_is_described(bert, tmp_path):
    bert.save_pretrained(tmp_path / "m")
    assert info(tmp_path / "m").vocab_size == 100 and "whole" in repr(info(tmp_path / "m"))


def test_commands_say_what_a_folder_is(bert, tokenizer, tmp_path, capsys):
    save(bert, tokenizer, tmp_path / "m")
    folder, half = str(tmp_path / "m"), str(tmp_path / "half")
    assert execute(COMMANDS, ["verify", folder]) == 0 and "whole" in capsys.readouterr().out
    assert execute(COMMANDS, ["convert", folder, half, "--dtype", "bf16", "--max-shard-size", "20KB"]) == 0
    capsys.readouterr()
    assert execute(COMMANDS, ["info", half, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dtypes"] == ["BF16"]
    (tmp_path / "m" / "tokenizer.json").unlink()
    for words in (["verify", folder], ["verify", str(tmp_path / "nowhere")], ["convert", folder, str(tmp_path / "x")], ["push", folder, "you/model"], ["info", str(tmp_path / "nowhere")]):
        assert execute(COMMANDS, words) == 2, words
        assert "tokenizer.json" in (said := capsys.readouterr().err) or "nowhere" in said
    assert sorted(os.listdir(tmp_path)) == ["half", "m"]


# ---- damage, and what is refused

def test_every_changed_byte_of_every_file_is_noticed(bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m")
    for path in sorted((tmp_path / "m").iterdir()):
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
            assert verify(tmp_path / "m"), f"byte {at} of {path.name}"
            path.write_bytes(whole)
        path.write_bytes(whole[:-1])
        assert verify(tmp_path / "m") or path.name == "SHA256SUMS", path.name
        path.write_bytes(whole)
    assert verify(tmp_path / "m") == []


def test_folders_of_others_are_checked_by_headers_and_index(bert, tmp_path):
    bert.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    assert verify(tmp_path / "m") == []
    shards = sorted((tmp_path / "m").glob("*.safetensors"))
    data = shards[0].read_bytes()
    shards[0].write_bytes(data[:-8])
    shards[1].unlink()
    problems = verify(tmp_path / "m")
    assert problems[0] == f"{shards[1].name} is missing" and problems[1].startswith(f"{shards[0].name} is damaged") and len(problems) == 2
    assert verify(tmp_path / "nowhere") == [f"{str(tmp_path / 'nowhere')!r} is no folder"]


class Explosive:
    def __reduce__(self):
        return (os.mkdir, (os.environ["LMNOTES_EXPLODED"],))


def test_a_pickle_is_never_read(bert, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("LMNOTES_EXPLODED", str(tmp_path / "exploded"))
    save(bert, tokenizer, tmp_path / "m")
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "model.pkl"):
        (tmp_path / "m" / name).write_bytes(pickle.dumps(Explosive()))
    load(tmp_path / "m", device="cpu"), info(tmp_path / "m"), verify(tmp_path / "m")          # beside good weights: passed over
    (tmp_path / "m" / "model.safetensors").unlink(), (tmp_path / "m" / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        load(tmp_path / "m", device="cpu")
    with pytest.raises(ValueError, match="cannot be opened"):
        pretrain({"train": [{"text": "some words to learn from " * 40}] * 20}, tokenizer, tmp_path / "m", tmp_path / "n", steps=1, block_size=8, device="cpu")
    assert not (tmp_path / "exploded").exists()


def test_code_in_a_folder_is_not_run(bert, tokenizer, tmp_path):
    bert.save_pretrained(tmp_path / "m"), tokenizer.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForMaskedLM": "mine.Model"}}))
    (tmp_path / "m" / "mine.py").write_text(f"import os; os.mkdir({str(tmp_path / 'exploded')!r})")
    with pytest.raises((ValueError, OSError)):
        load(tmp_path / "m", device="cpu")
    assert not (tmp_path / "exploded").exists()


def test_nobody_is_asked_whether_code_is_to_be_run(bert, tokenizer, tmp_path, monkeypatch, capsys):
    "The library asks on standard input, where the first line of a pipe would be the answer."
    bert.save_pretrained(tmp_path / "m"), tokenizer.save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForMaskedLM": "mine.Model"}}))
    (tmp_path / "m" / "mine.py").write_text(f"import os; os.mkdir({str(tmp_path / 'exploded')!r})")
    (tmp_path / "t.txt").write_text("the cat sat\n")
    Dataset.from_dict({"text": [f"{text} {n}" for n, text in enumerate(TEXTS)], "label": [0, 1] * 30}).to_csv(tmp_path / "t.csv")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    for line in (["info"], ["convert", "c"], ["perplexity", "t.txt"], ["generate", "the"], ["fill-mask", "the [MASK]"], ["finetune", "t.csv", "--output-dir", "c"]):
        code = execute(COMMANDS, [line[0], str(tmp_path / "m"), *(str(tmp_path / word) if word in ("c", "t.txt", "t.csv") else word for word in line[1:])])
        said = "".join(capsys.readouterr())
        assert "needs code of its own (auto_map), which is not run" in said and code == (0 if line == ["info"] else 2), (line, code, said)
    assert asked == [] and not (tmp_path / "exploded").exists() and not (tmp_path / "c").exists()


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_weights_that_are_missing_are_named(kind, tokenizer, tmp_path):
    "The library opens such a folder with random numbers in their place."
    model = MAKE[kind]()
    model.save_pretrained(tmp_path / "m"), tokenizer.save_pretrained(tmp_path / "m")
    data = Dataset.from_dict({"text": [f"{text} {n}" for n, text in enumerate(TEXTS)], "label": [0, 1] * 30})
    whole, lost = load_file(tmp_path / "m" / "model.safetensors"), {"llama": "model.layers.1.mlp.up_proj.weight", "bert": "bert.encoder.layer.1.output.dense.weight"}[kind]
    for weights, needle in (({k: v for k, v in whole.items() if k != lost}, f"the weights '{lost}' are missing; copy or train it again"),
                            ({f"_orig_mod.{k}": v for k, v in whole.items()}, "others are missing; the names of its weights begin with '_orig_mod.'"),
                            ({f"module.{k}": v for k, v in whole.items()}, "begin with 'module.'")):
        save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
        for call in (lambda: load(tmp_path / "m", device="cpu"), lambda: convert(tmp_path / "m", tmp_path / "c"), lambda: average([tmp_path / "m"] * 2, tmp_path / "c"),
                     lambda: load(tmp_path / "m", task="classification", device="cpu"), lambda: finetune(tmp_path / "m", data, tmp_path / "c")):
            with pytest.raises(ValueError, match=needle if call.__code__.co_names[0] == "load" else "is not whole: the weights|are missing"):
                call()
    save_file(whole, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    assert same(load(tmp_path / "m", device="cpu")[0], model) and load(tmp_path / "m", task="classification", device="cpu") and not (tmp_path / "c").exists()


@pytest.mark.parametrize("make", [BertForPreTraining, AutoModel.from_config], ids=["two heads", "no head"])
def test_a_copy_keeps_every_weight(make, tokenizer, tmp_path):
    torch.manual_seed(0)
    models = [make(BertConfig(**SMALL)) for _ in range(2)]
    for n, model in enumerate(models):
        model.save_pretrained(tmp_path / f"m{n}"), tokenizer.save_pretrained(tmp_path / f"m{n}")
    copy, mean = convert(tmp_path / "m0", tmp_path / "c", dtype="bf16"), average([tmp_path / "m0", tmp_path / "m1"], tmp_path / "mean")
    first, second, copied, averaged = (load_file(tmp_path / name / "model.safetensors") for name in ("m0", "m1", "c", "mean"))
    assert copy.parameters == mean.parameters == info(tmp_path / "m0").parameters and copy.architecture == info(tmp_path / "m0").architecture and first.keys() == copied.keys() == averaged.keys()
    assert all(torch.equal(copied[key], first[key].bfloat16()) and torch.allclose(averaged[key], (first[key] + second[key]) / 2, atol=1e-7) for key in first)


@pytest.mark.parametrize("call, error, needle", [
    (lambda m, t, p: save(MAKE["bert"]().resize_token_embeddings(20) and _narrow(), t, p / "x"), ValueError, "60 tokens.*40 rows|do not belong"),
    (lambda m, t, p: convert(p / "m", p / "x", dtype="int8"), ValueError, "int8"),
    (lambda m, t, p: convert(p / "nowhere", p / "x"), FileNotFoundError, "nowhere"),
    (lambda m, t, p: convert(p / "m", p / "m", dtype="bf16"), FileExistsError, "overwrite"),
    (lambda m, t, p: load(p / "m", task="poetry"), ValueError, "poetry"),
    (lambda m, t, p: info(p / "nowhere"), FileNotFoundError, "nowhere"),
    (lambda m, t, p: energy(-1), ValueError, "seconds -1"),
    (lambda m, t, p: energy(1, watts=float("nan")), ValueError, "watts nan"),
    (lambda m, t, p: push(p / "m", "model"), ValueError, "user/model"),
    (lambda m, t, p: push(p / "nowhere", "you/model"), ValueError, "nowhere"),
])
def test_wrong_usage_is_named_and_writes_nothing(bert, tokenizer, tmp_path, call, error, needle):
    save(bert, tokenizer, tmp_path / "m")
    with pytest.raises(error, match=needle):
        call(bert, tokenizer, tmp_path)
    assert os.listdir(tmp_path) == ["m"] and verify(tmp_path / "m") == []


def _others(kind, tokenizer, folder, count=3):
    "Folders of models of one kind whose weights differ."
    for seed in range(count):
        torch.manual_seed(seed)
        save(MAKE[kind]().eval(), tokenizer, folder / f"m{seed}", {"parent": "the same", "scores": {"accuracy": 0.5}})
    return [folder / f"m{seed}" for seed in range(count)]


@pytest.mark.parametrize("kind", MAKE)
def test_the_mean_of_several_models(tokenizer, tmp_path, kind):
    folders = _others(kind, tokenizer, tmp_path)
    result = average(folders, tmp_path / "mean")
    several, (mean, _) = [load(folder, device="cpu")[0] for folder in folders], load(tmp_path / "mean", device="cpu")
    by_hand = {key: sum(m.state_dict()[key].double() for m in several) / 3 for key, tensor in mean.state_dict().items() if tensor.is_floating_point()}
    assert by_hand and all(torch.equal(mean.state_dict()[key], tensor.float()) for key, tensor in by_hand.items())
    assert type(mean) is type(several[0]) and mean.config.tie_word_embeddings == several[0].config.tie_word_embeddings
    assert result.facts == {"averaged": [str(f) for f in folders], "parent": "the same"}                # no score is taken over
    assert ", ".join(map(str, folders)) in (tmp_path / "mean" / "README.md").read_text(encoding="utf-8") and verify(tmp_path / "mean") == []


def test_the_mean_of_a_model_and_itself_is_the_model(tokenizer, tmp_path):
    folder, = _others("bert", tokenizer, tmp_path, 1)
    average([folder] * 7, tmp_path / "mean")
    assert same(load(folder, device="cpu")[0], load(tmp_path / "mean", device="cpu")[0])
    assert execute(COMMANDS, ["average", str(folder), str(folder), str(tmp_path / "command")]) == 0
    assert same(load(folder, device="cpu")[0], load(tmp_path / "command", device="cpu")[0])


@pytest.mark.parametrize("call, error, needle", [
    (lambda p: average([p / "m0"], p / "x"), ValueError, "fewer than two"),
    (lambda p: average(str(p / "m0"), p / "x"), ValueError, "fewer than two"),
    (lambda p: average([p / "m0", p / "m1"], p / "m1", overwrite=True), ValueError, "its own|own folder|lost"),
    (lambda p: average([p / "m0", p / "m1"], p / "m2"), FileExistsError, "overwrite"),
    (lambda p: average([p / "m0", p / "nowhere"], p / "x"), FileNotFoundError, "nowhere"),
    (lambda p: average([p / "m0", p / "narrow"], p / "x"), ValueError, "no mean: vocab_size is 100 and 70"),
    (lambda p: average([p / "m0", p / "classifier"], p / "x"), ValueError, "no mean: "),
    (lambda p: average([p / "m0", p / "words"], p / "x"), ValueError, "different vocabularies"),
])
def test_what_has_no_mean_is_named(tokenizer, tmp_path, call, error, needle):
    _others("bert", tokenizer, tmp_path)
    save(AutoModelForMaskedLM.from_config(BertConfig(**{**SMALL, "vocab_size": 70})), tokenizer, tmp_path / "narrow")
    save(MAKE["classifier"](), tokenizer, tmp_path / "classifier")
    save(MAKE["bert"](), train_tokenizer(["quite other words stand here"] * 3, vocab_size=50, progress=False), tmp_path / "words")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=needle):
        call(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before and all(verify(tmp_path / name) == [] for name in before)


def _narrow():
    "A model with fewer rows than the tokenizer has tokens."
    return AutoModelForMaskedLM.from_config(BertConfig(**{**SMALL, "vocab_size": 40}))


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are of Unix")
def test_a_full_disk_is_an_oserror_that_names_the_folder(bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m")
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()}
    code = f"""
import resource, signal, sys
from lmnotes.checkpoints import load, save
model, tokenizer = load({str(tmp_path / "m")!r}, device="cpu")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    save(model, tokenizer, {str(tmp_path / "m")!r}, overwrite=True)
except OSError as error:
    sys.exit(0 if "output_dir" in str(error) else str(error))
sys.exit("nothing was raised")
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    assert done.returncode == 0
    assert os.listdir(tmp_path) == ["m"] and before == {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()}


# ---- types

def test_converted_weights_are_the_rounded_ones(model, tokenizer, tmp_path):
    save(model, tokenizer, tmp_path / "m", {"steps": 7})
    for name, kind in (("bf16", torch.bfloat16), ("float16", torch.float16)):
        result = convert(tmp_path / "m", tmp_path / name, dtype=name, max_shard_size="20KB")
        stored = {}
        for path in sorted((tmp_path / name).glob("*.safetensors")):
            stored |= load_file(path)
        assert len(list((tmp_path / name).glob("*.safetensors"))) > 1 and result.problems == () and result.facts["steps"] == 7
        assert result.facts["converted"] == {"from": "float32", "to": str(kind)[6:]}
        weights = model.state_dict()
        assert all(tensor.dtype == kind and torch.equal(tensor, weights[key].to(kind)) for key, tensor in stored.items())
    convert(tmp_path / "bf16", tmp_path / "up", dtype="fp32")
    convert(tmp_path / "up", tmp_path / "again", dtype="bf16", max_shard_size="20KB")
    assert {p.name: p.read_bytes() for p in (tmp_path / "again").glob("*.safetensors")} == {p.name: p.read_bytes() for p in (tmp_path / "bf16").glob("*.safetensors")}


def test_a_weight_beyond_fp16_is_named(tokenizer, tmp_path):
    model = MAKE["bert"]()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias[3] = -70_000.0
    save(model, tokenizer, tmp_path / "m")
    with pytest.raises(ValueError, match="layer.0.output.dense.bias.*70,000.*65,504.*bfloat16"):
        convert(tmp_path / "m", tmp_path / "x", dtype="fp16")
    assert not (tmp_path / "x").exists()


# ---- cards

FACTS = {"objective": "masked", "steps": 100, "tokens": 409_600, "seconds": 7200.0, "loss_before": 8.4, "loss_after": 5.5, "parent": "google/bert-x", "options": {"learning_rate": 2e-3, "seed": 3},
         "data": {"documents": 1200, "bytes": 34_000, "tokens": 9_000}, "versions": {"torch": "2.13.0"}, "scores": {"accuracy": 0.75},
         "hardware": {"device": "cpu", "name": "x86_64", "processes": 2, "threads": 4}}


def test_the_card_says_the_facts_in_the_hub_s_form(bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m", FACTS)
    data = metadata_load(tmp_path / "m" / "README.md")
    assert data["pipeline_tag"] == "fill-mask" and data["library_name"] == "transformers" and data["base_model"] == "google/bert-x" and "license" not in data
    card = ModelCard.load(tmp_path / "m" / "README.md")
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {"accuracy": 0.75, "cross-entropy": 5.5}
    for words in ("| steps | 100 |", "| tokens seen | 409,600 |", "| documents | 1,200 |", "| bytes of text | 34,000 |", "| seed | 3 |", "| hardware | x86_64 (cpu), processes: 2, threads of each: 4 |", f"| tokens in the vocabulary | {len(tokenizer)} |",
                  "| tokenizer | WordPiece |", "0.13 kWh", "assumed 65 W", "torch 2.13.0"):
        assert words in card.content, words
    assert energy(7200.0) == pytest.approx(0.13)


@pytest.mark.parametrize("hardware, watts", [({}, 65), ({"device": "cpu", "machines": 3}, 195), ({"device": "cuda:0", "name": "NVIDIA H100 80GB HBM3", "processes": 2}, 1400),
                                             ({"device": "cuda:0", "name": "NVIDIA A100-SXM4-80GB"}, 400), ({"device": "cuda", "name": "NVIDIA GeForce RTX 4090"}, 450), ({"device": "cuda", "name": "other"}, 300)])
def test_the_power_that_is_assumed_is_that_of_the_hardware(model, hardware, watts):
    assert f"assumed {watts} W" in model_card(model, {"seconds": 10.0, "hardware": hardware}) or f"assumed {watts:g} W" in model_card(model, {"seconds": 10.0, "hardware": hardware})
    assert "assumed 5 W" in model_card(model, {"seconds": 10.0, "hardware": hardware}, watts=5)


def test_what_is_not_known_is_not_said(model):
    text = model_card(model, {})
    assert "kWh" not in text and "nan" not in text and "None" not in text and "model-index" not in text
    assert ModelCard(text).data.library_name == "transformers"
    assert "mask" not in model_card(model, {"objective": "causal", "options": {"mask_rate": 0.15, "mask_rate_end": 0.3, "masking": "spans"}}).split("| fact")[1]
    assert ModelCard(model_card(model, {"loss_after": float("nan")}, license="mit")).data.eval_results is None


def test_a_card_says_what_was_learned_where_it_is_not_the_default(model):
    plain = {"mask_rate": 0.15, "mask_rate_end": None, "masking": "tokens", "next_sentence": False, "document_attention": False}
    table = lambda objective="masked", data=None, **options: model_card(model, {"objective": objective, "options": plain | options, "data": data or {}}).split("|---|---|\n")[1].split("\n\n")[0]
    assert table() == "| objective | masked |\n| share of masked tokens | 0.15 |" and table(mask_rate_end=0.15) == table()
    assert "| share of masked tokens | 0.15, at the end 0.3; losses at 0.3 |" in table(mask_rate_end=0.3)
    assert "| what is masked | spans of words |" in table(masking="spans") and "| what is masked | whole words |" in table(masking="words")
    pairs = table(next_sentence=True, data={"documents": 9, "short_documents": 2})
    assert "| next-sentence prediction | yes, not counted in the losses |" in pairs and "| documents left out, shorter than two segments | 2 |" in pairs
    assert table("causal", document_attention=True) == "| objective | causal |\n| attention | inside documents |"


# ---- sharing

class Hub:
    "A stand-in for the hub's client."

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def create_repo(self, repo, **options):
        if self.error:
            raise self.error
        self.calls.append(("create", repo, options))

    def upload_file(self, **options):
        self.calls.append(("file", options))

    def upload_folder(self, **options):
        self.calls.append(("upload", options))
        return "https://huggingface.co/you/model/commit/1"


def test_push_sends_a_whole_folder(bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m")
    hub = Hub()
    assert push(tmp_path / "m", "you/model", private=False, api=hub).endswith("/commit/1")
    (_, repo, options), (_, sent) = hub.calls
    assert repo == "you/model" and options == {"private": False, "exist_ok": True}
    assert sent["repo_id"] == "you/model" and sent["folder_path"] == str(tmp_path / "m") and "checkpoints/*" in sent["ignore_patterns"]


def test_push_describes_a_folder_that_has_no_card(bert, tokenizer, tmp_path):
    save_folder(tmp_path / "m", bert, tokenizer, FACTS)
    hub = Hub()
    push(tmp_path / "m", "you/tiny", api=hub)
    kinds = [call[0] for call in hub.calls]
    assert kinds == ["create", "file", "upload"] and hub.calls[1][1]["path_in_repo"] == "README.md" and hub.calls[1][1]["repo_id"] == "you/tiny"
    card = ModelCard(hub.calls[1][1]["path_or_fileobj"].decode())
    assert card.data.model_name == "tiny" and "# tiny" in card.content


def test_push_says_what_is_wrong(bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m")
    with pytest.raises(ConnectionError, match="you/model.*no route.*hf auth login"):
        push(tmp_path / "m", "you/model", api=Hub(OSError("no route\nto host")))
    with pytest.raises(ConnectionError, match="you/model"):
        push(tmp_path / "m", "you/model")                                # the tests are offline: HF_HUB_OFFLINE
    (tmp_path / "m" / "config.json").write_text("{}")
    hub = Hub()
    with pytest.raises(ValueError, match="config.json is damaged.*nothing was sent"):
        push(tmp_path / "m", "you/model", api=hub)
    assert hub.calls == []


# ---- export

def exported(model, tokenizer, tmp_path):
    "Save a model and export it: the result, and a session that runs the file."
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    save(model, tokenizer, tmp_path / "m")
    result = export(tmp_path / "m", tmp_path / "onnx")
    return result, runtime.InferenceSession(result.path)


@pytest.mark.slow
def test_an_export_is_told_from_a_model_that_can_be_opened(bert, tokenizer, tmp_path):
    exported(bert, tokenizer, tmp_path)
    told = info(tmp_path / "onnx")
    assert told.dtypes == ("ONNX",) and "parameters not counted (ONNX)" in repr(told) and told.problems == ()
    for call in (lambda: load(tmp_path / "onnx"), lambda: convert(tmp_path / "onnx", tmp_path / "c"), lambda: export(tmp_path / "onnx", tmp_path / "c")):
        with pytest.raises(ValueError, match="model.onnx is an export .*give the folder that it was made from"):
            call()
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_exported_logits_are_equal(kind, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = MAKE[kind]().eval()
    result, session = exported(model, tokenizer, tmp_path)
    assert result.difference < 1e-5 and verify(tmp_path / "onnx") == [] and Path(result.path).is_file()
    for texts in (TEXTS[:1], TEXTS[:3], [" ".join(TEXTS[:8])]):
        batch = load(tmp_path / "m", device="cpu")[1](texts, padding=True, truncation=True, max_length=64, return_tensors="pt") if kind != "gpt2" else _ids(tokenizer, texts)
        with torch.no_grad():
            expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        found = session.run(None, {given.name: batch[given.name].numpy() for given in session.get_inputs()})[0]
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pairs", "reader"])
def test_a_file_tells_two_segments_apart(kind, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = MAKE["classifier" if kind == "pairs" else kind]().eval()
    for p in model.parameters():
        p.data.mul_(10 if p.dim() > 1 else 1)                                               # a segment that is not told shows
    _, session = exported(model, tokenizer, tmp_path)
    outputs = ["logits"] if kind == "pairs" else ["start_logits", "end_logits"]
    assert [given.name for given in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"] and [given.name for given in session.get_outputs()] == outputs
    batch = load(tmp_path / "m", device="cpu")[1](TEXTS[:3], TEXTS[3:6], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected, one = model(**batch), model(**{**batch, "token_type_ids": torch.zeros_like(batch["token_type_ids"])})
    for name, found in zip(outputs, session.run(outputs, {given.name: batch[given.name].numpy() for given in session.get_inputs()})):
        assert torch.allclose(torch.from_numpy(found), expected[name], atol=1e-4) and not torch.allclose(one[name], expected[name], atol=1e-2)


def _ids(tokenizer, texts):
    "Ids without padding."
    ids = torch.tensor([tokenizer(t)["input_ids"][:8] for t in texts])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("off, refused", [((0.05, 0), False), ((0, 0.05), True), ((0.2, 0), True), ((0, float("nan")), True)])
def test_each_output_of_an_export_has_its_own_bound(off, refused):
    "The first is of size 1000, the second of size 1: what is small for the one is not for the other."
    outputs, size = ["start_logits", "end_logits"], (1000.0, 1.0)
    model = lambda input_ids: {name: torch.full(input_ids.shape, value) for name, value in zip(outputs, size)}
    model.config = BertConfig(vocab_size=9)
    session = SimpleNamespace(run=lambda names, given: [np.full(given["input_ids"].shape, value + d, dtype=np.float32) for value, d in zip(size, off)])
    if refused:
        with pytest.raises(RuntimeError, match=f"differ by {sum(off):.2g} from PyTorch's"):
            _compare(session, model, ["input_ids"], outputs)
    else:
        assert _compare(session, model, ["input_ids"], outputs)[0] == pytest.approx(sum(off), rel=0.01)


def test_what_cannot_be_exported_is_refused(tokenizer, tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, type(sys)(package))
    save(MAKE["t5"](), tokenizer, tmp_path / "t5")
    with pytest.raises(ValueError, match="seq2seq"):
        export(tmp_path / "t5", tmp_path / "x")
    save(T5ForSequenceClassification(T5Config(vocab_size=100, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, **{**ENDS, "eos_token_id": 1}, decoder_start_token_id=0)), tokenizer, tmp_path / "classifier")
    with pytest.raises(ValueError, match="T5ForSequenceClassification, which looks for the end of each text"):
        export(tmp_path / "classifier", tmp_path / "x")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"onnxscript.*lmnotes\[onnx\]"):
        export(tmp_path / "t5", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("part", ["exporter", "runtime"])
def test_what_exporter_or_runtime_cannot_do_is_said_in_a_line(part, tokenizer, tmp_path, monkeypatch, capsys):
    def failing(*given, **named):
        print("a graph of many lines", file=sys.stderr)
        raise RuntimeError("of many\nlines")

    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, type(sys)(package))
    sys.modules["onnxruntime"].InferenceSession = lambda path: failing() if part == "runtime" else None
    monkeypatch.setattr(torch.onnx, "export", failing if part == "exporter" else lambda *given, **named: SimpleNamespace(save=lambda path: None))
    save(MAKE["gpt2"](), tokenizer, tmp_path / "m")
    capsys.readouterr()
    with pytest.raises(ValueError, match="is of type 'gpt2' and configured in a way that .* cannot .*: use it with PyTorch") as caught:
        export(tmp_path / "m", tmp_path / "x")
    assert "\n" not in str(caught.value) and not (tmp_path / "x").exists()
    assert part == "runtime" or "graph" not in capsys.readouterr().err


def test_attention_that_is_full_on_short_texts_only_is_not_exported(tokenizer, tmp_path, monkeypatch):
    "BigBird's blocks are sparse from 45 tokens on here; a call with fewer, such as tracing, makes the model's attention full for good."
    class Session:
        def __init__(self, path):
            self.model = BigBirdForMaskedLM.from_pretrained(tmp_path / "m", attention_type="original_full").eval()

        def run(self, names, given):
            return [self.model(**{name: torch.from_numpy(values) for name, values in given.items()})[name].numpy() for name in names]

    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, type(sys)(package))
    sys.modules["onnxruntime"].InferenceSession = Session
    monkeypatch.setattr(torch.onnx, "export", lambda network, example, **named: network(*example) and SimpleNamespace(save=lambda path: None))
    torch.manual_seed(0)
    save(BigBirdForMaskedLM(BigBirdConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=96, block_size=4, num_random_blocks=1, initializer_range=0.5)), tokenizer, tmp_path / "m")
    with pytest.raises(RuntimeError, match='PyTorch\'s on 96 tokens: nothing was written; its attention is block_sparse.*attention_type="original_full"'):
        export(tmp_path / "m", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    save(BigBirdForMaskedLM.from_pretrained(tmp_path / "m", attention_type="original_full"), tokenizer, tmp_path / "m", overwrite=True)
    result = export(tmp_path / "m", tmp_path / "x")
    assert result.shapes == ((1, 96), (1, 5), (2, 12), (3, 17)) and result.difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("positions", [5, 16])
def test_a_model_of_few_positions_is_exported(positions, tokenizer, tmp_path):
    result, _ = exported(AutoModelForCausalLM.from_config(GPT2Config(vocab_size=len(tokenizer), n_positions=positions, n_embd=16, n_layer=1, n_head=2)), tokenizer, tmp_path)
    assert max(length for _, length in result.shapes) == positions and result.difference < 1e-5


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "lmnotes.json", "model.safetensors.index.json"])
def test_a_folder_with_a_cut_file_is_described_and_not_opened(bert, tokenizer, tmp_path, name, sums):
    save(bert, tokenizer, tmp_path / "m", {"seconds": 1}, max_shard_size="20KB")
    path = tmp_path / "m" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if not sums:
        (tmp_path / "m" / "SHA256SUMS").unlink()
    described = info(tmp_path / "m")
    assert described.problems and all(problem.startswith(name) for problem in described.problems) and name in repr(described)
    assert (described.task, described.architecture) == (("?", "?") if name == "config.json" else ("masked", "BertForMaskedLM"))
    assert described.facts == ({} if name == "lmnotes.json" else {"seconds": 1}) and described.vocab_size == (0 if name.startswith(("tokenizer", "config")) else len(tokenizer))
    with pytest.raises(ValueError, match=f"is not whole: {name}"):
        load(tmp_path / "m", device="cpu")


def test_a_model_without_a_head_is_described(tokenizer, tmp_path):
    GPT2Model(GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=2, n_positions=64)).save_pretrained(tmp_path / "m")
    described = info(tmp_path / "m")
    assert (described.architecture, described.task, described.problems, described.vocab_size) == ("GPT2Model", "?", (), 100)


def test_a_discriminator_has_no_family():
    from lmnotes.checkpoints import task_of
    assert task_of("BertForPreTraining") == "masked"
    with pytest.raises(ValueError, match="say what the model is for"):
        task_of("ElectraForPreTraining")


def test_a_name_without_a_slash_is_looked_up_in_the_cache(bert, tokenizer, tmp_path, monkeypatch):
    from huggingface_hub import constants
    from lmnotes.checkpoints import model_tokenizer
    place = tmp_path / "hub" / "models--some-bert"
    save(bert, tokenizer, place / "snapshots" / "abc")
    (place / "refs").mkdir(), (place / "refs" / "main").write_text("abc")
    import transformers.utils.hub as hub
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for module in (hub, *([hub.constants] if hasattr(hub, "constants") else [])):
        for name in ("TRANSFORMERS_CACHE", "HF_HUB_CACHE"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, str(tmp_path / "hub"))
    assert len(model_tokenizer("some-bert")) == len(tokenizer)
    with pytest.raises(FileNotFoundError, match="'other-bert' is no folder.*cache"):
        model_tokenizer("other-bert")


def test_the_card_of_a_fine_tuned_model_says_what_its_scores_are_of():
    facts = {"made_by": "lmnotes.finetuning", "objective": "classification", "scores": {"accuracy": 0.75}, "majority": {"accuracy": 0.5}, "intervals": {"accuracy": [0.6, 0.9]}, "examples": {"train": 90, "test": 40}}
    text = model_card(MAKE["classifier"](), facts)
    assert "| accuracy | 0.75 | 0.6 to 0.9 | 0.5 |" in text and "test split (40 examples)" in text
    assert "losses" not in text and "part of the training data" not in text
    assert ModelCard(text).data.eval_results[0].dataset_name == "test split"
    assert "The losses are of a held-out part" in model_card(MAKE["bert"](), {"made_by": "lmnotes.pretraining", "loss_after": 1.0})
    assert "losses" not in model_card(MAKE["bert"](), {})


@pytest.mark.parametrize("make", [convert, export])
def test_a_model_is_never_replaced_by_what_is_made_of_it(make, bert, tokenizer, tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, type(sys)(package))
    folder = save(bert, tokenizer, tmp_path / "run" / "model")
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    (folder.parent / "result.json").write_text('{"task": "rte"}')              # as `glue` leaves its models
    monkeypatch.chdir(tmp_path)
    for model, place in ((folder, folder), (folder, "run/model"), (folder, tmp_path / "link"), (tmp_path / "link", folder), ("run/model", tmp_path / "run")):
        with pytest.raises(ValueError, match="output_dir .* is the folder of the model .*, or holds it, .*choose another folder"):
            make(model, place, overwrite=True)
    assert verify(folder) == [] and sorted(p.name for p in tmp_path.iterdir()) == ["link", "run"]


def plain(model, folder, tokenizer=None):
    "A folder as others write it: without checksums, with a tokenizer only where one is given."
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def changed(path, change):
    "Write a file of JSON anew, changed."
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_no_tokenizer_is_made_up(kind, tmp_path):
    folder = plain(MAKE[kind](), tmp_path / "m")
    assert verify(folder) == [] and info(folder).vocab_size == 100                            # whole as a model
    for opened in (lambda: load(folder, device="cpu"), lambda: model_tokenizer(folder)):
        with pytest.raises(ValueError, match="m' cannot be opened: it holds no tokenizer .tokenizer.json is missing.: save the one .* tokenizer.save_pretrained"):
            opened()


def test_the_remedies_for_a_missing_tokenizer_work(bert, tokenizer, tmp_path):
    step = plain(bert, tmp_path / "run" / "checkpoints" / "step-00000003")
    write_checksums(step)
    with pytest.raises(ValueError, match="run'"):
        load(step, device="cpu")
    tokenizer.save_pretrained(tmp_path / "run")                                              # what the error says
    assert len(load(step, device="cpu")[1]) == len(model_tokenizer(step)) == len(tokenizer) and verify(step) == []


def test_tokenizers_of_bytes_and_characters_need_no_vocabulary(tmp_path):
    from transformers import ByT5Tokenizer, CanineConfig, CanineForSequenceClassification, CanineTokenizer
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=384, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, **{**ENDS, "eos_token_id": 1}))
    canine = CanineForSequenceClassification(CanineConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    for model, tokenizer in ((t5, ByT5Tokenizer()), (canine, CanineTokenizer())):
        folder = plain(model, tmp_path / "m", tokenizer)
        assert verify(folder) == [] and type(load(folder, device="cpu")[1]) is type(tokenizer)


def test_a_vocabulary_of_words_alone_is_one(bert, tmp_path):
    folder = plain(bert, tmp_path / "m")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]))
    assert len(load(folder, device="cpu")[1]) == 6 and verify(folder) == []


def test_a_checkpoint_of_a_run_opens_and_is_counted_as_its_model(tokenizer, tmp_path, monkeypatch):
    import lmnotes.pretraining
    write, kept = lmnotes.pretraining._save_checkpoint, tmp_path / "kept"
    monkeypatch.setattr(lmnotes.pretraining, "_save_checkpoint", lambda *some: shutil.copytree(write(*some), kept, dirs_exist_ok=True))
    result = pretrain({"train": [{"text": text} for text in TEXTS]}, tokenizer, BertConfig(**SMALL), tmp_path / "run", steps=2, batch_size=2, block_size=8, checkpoint_steps=1, device="cpu")
    found = info(kept)
    assert verify(kept) == [] and (kept / "optimizer.safetensors").is_file() and found.parameters == result.parameters and found.vocab_size == len(tokenizer)
    assert load(kept, device="cpu")[1]("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]


def test_what_cannot_be_opened_is_not_called_whole(bert, tokenizer, tmp_path):
    folder = tmp_path / "m"
    bert.save_pretrained(folder, max_shard_size="20KB"), tokenizer.save_pretrained(folder)
    shards = sorted(p for p in folder.glob("model-*"))
    assert verify(folder) == [] and info(folder).parameters == bert.num_parameters() and len(shards) > 2
    (folder / "model.safetensors.index.json").unlink()
    assert verify(folder) == ["model.safetensors.index.json is missing"]
    shards[1].unlink()
    assert verify(folder) == [f"{shards[1].name} is missing", "model.safetensors.index.json is missing"]
    plain(bert, folder, tokenizer)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert "model.safetensors is missing, and adapter_model.safetensors" in verify(folder)[0]
    plain(bert, folder, tokenizer)
    (folder / "tokenizer.json").unlink()
    assert verify(folder) == list(info(folder).problems) == ["tokenizer.json is missing (tokenizer_config.json is there, and no vocabulary)"]


def test_weights_that_lie_there_twice_count_once(bert, tokenizer, tmp_path):
    folder = plain(bert, tmp_path / "m", tokenizer)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert info(folder).parameters == bert.num_parameters() and info(folder).problems == ()


def test_a_pickle_is_named_and_the_remedy_works(bert, tokenizer, tmp_path):
    folder = plain(bert, tmp_path / "m", tokenizer)
    (folder / "model.safetensors").unlink()
    torch.save(bert.state_dict(), folder / "pytorch_model.bin")
    run = lambda: pretrain({"train": [{"text": text} for text in TEXTS]}, tokenizer, folder, tmp_path / "n", steps=1, block_size=8, device="cpu")
    for opened in (lambda: load(folder), run):
        with pytest.raises(ValueError, match="m' .*holds its weights as a pickle .pytorch_model.bin., which is not read.*save_pretrained"):
            opened()
    assert "pickle" in verify(folder)[0]
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    assert verify(folder) == [] and same(bert, load(folder, device="cpu")[0])


@pytest.mark.parametrize("file, change, needle", [
    ("tokenizer.json", lambda held: held.pop("model"), "odel"), ("tokenizer.json", lambda held: held["model"].update(type="Foo"), ""),
    ("config.json", lambda held: held.update(hidden_size=64), "the weights have other sizes than config.json says"),
    ("config.json", lambda held: (held.clear(), held.update(architecture="resnet18", num_classes=10)), "model_type"),
    ("config.json", lambda held: (held.clear(), held.update(architecture="resnet18", num_classes=10, model_type="timm_wrapper")), "timm")])
def test_errors_of_the_libraries_name_the_folder(file, change, needle, bert, tokenizer, tmp_path):
    folder = plain(bert, tmp_path / "m", tokenizer)
    changed(folder / file, change)
    with pytest.raises(ValueError, match=f"m' cannot be opened: .*{needle}"):
        load(folder, "masked", device="cpu")
    if file == "config.json":
        with pytest.raises(ValueError, match=f"m' cannot be opened: .*{needle}"):
            pretrain(TEXTS, tokenizer, folder, tmp_path / "n", steps=1, block_size=8, device="cpu")
    else:
        with pytest.raises(ValueError, match=f"m' cannot be opened: .*{needle}"):
            model_tokenizer(folder)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_what_is_not_the_folders_fault_goes_through(stop, bert, tokenizer, tmp_path, monkeypatch):
    folder = plain(bert, tmp_path / "m", tokenizer)

    def raising(*some, **more):
        raise stop
    monkeypatch.setattr(AutoModelForMaskedLM, "from_pretrained", raising)
    with pytest.raises(stop):
        load(folder, device="cpu")
    with pytest.raises(stop):
        pretrain(TEXTS, tokenizer, folder, tmp_path / "n", steps=1, block_size=8, device="cpu")


def test_a_model_of_images_is_refused(tokenizer, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification
    seeing = ViTForImageClassification(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16))
    with pytest.raises(ValueError, match="ViTForImageClassification, which reads no tokens"):
        save(seeing, tokenizer, tmp_path / "m")


@pytest.mark.parametrize("size", ["banana", 0, -1, True, "0GB", 2.5, "GB"])
def test_sizes_of_shards_that_are_none(size, bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m", max_shard_size="1.5 MB")
    for made in (lambda: save(bert, tokenizer, tmp_path / "x", max_shard_size=size), lambda: convert(tmp_path / "m", tmp_path / "x", max_shard_size=size)):
        with pytest.raises(ValueError, match="max_shard_size .* is no size of a file"):
            made()
    assert not (tmp_path / "x").exists()


def test_names_of_types(bert, tokenizer, tmp_path):
    save(bert, tokenizer, tmp_path / "m")
    for dtype, found in (("bf16", torch.bfloat16), ("float64", torch.float64), (torch.float16, torch.float16), ("auto", torch.float32), (None, torch.float32)):
        assert load(tmp_path / "m", device="cpu", dtype=dtype)[0].dtype == found
    for dtype in ("banana", 7, "nn"):
        with pytest.raises(ValueError, match="dtype .* is not known: float32"):
            load(tmp_path / "m", device="cpu", dtype=dtype)


def test_a_folder_without_weights_whose_checksums_hold_is_described(bert, tokenizer, tmp_path):
    bert.config.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path), write_checksums(tmp_path)             # as `export` writes beside its ONNX
    assert info(tmp_path).parameters == 0 and info(tmp_path).vocab_size == len(tokenizer)


def test_a_tokenizer_that_needs_another_package_or_none_of_ours_is_not_judged(bert, tokenizer, tmp_path):
    folder = plain(bert, tmp_path / "m", tokenizer)
    (folder / "tokenizer.json").unlink()
    for name in ("MyOwnTokenizer", "BertConfig", None):
        changed(folder / "tokenizer_config.json", lambda held: held.update(tokenizer_class=name))
        assert verify(folder) == []
