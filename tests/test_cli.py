"""The command line: its generator against small functions, its errors and exit codes, its start, every example."""
import dataclasses
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterable, Literal, Optional, Sequence, Union

import pytest

from lmnotes import cli
from lmnotes.cli import Command, command_options, described, execute, options_of, readable
from lmnotes.pretraining import PretrainingOptions

SEEN = {}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of `train`.

    Parameters
    ----------
    steps : int
        Number of steps.
    learning_rate : float or str
        Rate, or ``"auto"``.
    names : tuple
        Not for the command line.
    """

    steps: int = 10
    learning_rate: Union[float, str] = "auto"
    names: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
    value: float
    path: Path

    def __repr__(self):
        return f"Result of {self.value}"


def load_words(source="builtin", *, fraction: float = 0.5, seed: int = 0):
    """Load.

    Parameters
    ----------
    source : str
        Where from.
    fraction : float
        Share kept.
    seed : int
        Seed of the split.
    """
    SEEN["loaded"] = (source, fraction, seed)
    return source.split()


def train(words, kind: Literal["small", "large"] = "small", *, block_size: Optional[int] = None, deduplicate: bool = True,
          shuffle=False, files: Sequence[str] = (), output_dir="runs/x", seed=1, hook=None, options: Optional[Settings] = None, **changes):
    """Train on words.

    Longer text.

    Parameters
    ----------
    words : list
        The words, loaded.
    kind : {"small", "large"}
        Size of
        the model.
    block_size : int, optional
        Length of a block in tokens.
    deduplicate, shuffle : bool
        What is done first.
    files : sequence of str
        More files.
    output_dir : path
        Folder.
    seed : int
        Seed.
    hook : callable
        Called at each step.
    options : Settings
        All at once.
    **changes
        Single settings.

    Returns
    -------
    Result
        What came out.
    """
    SEEN["call"] = {k: v for k, v in locals().items()}
    return Result(float("nan"), Path("a") / "b")


def fails(how: str, output_dir: str = "out"):
    """Fail.

    Parameters
    ----------
    how : str
        Which error.
    output_dir : str
        Folder.
    """
    if how == "full":
        raise OSError(28, "No space left on device", "model.safetensors")
    kinds = {"value": ValueError, "type": TypeError, "key": KeyError, "runtime": RuntimeError, "pipe": BrokenPipeError, "stop": KeyboardInterrupt}
    raise kinds[how]("first line\n  second line") if how != "stop" else KeyboardInterrupt


TABLE = {
    "train": Command(train, "Train a thing.", ("lmnotes train words.txt --steps 3",), loaders={"words": load_words}, rest=Settings, hidden=("options",)),
    "fails": Command(fails, "Fail as asked."),
}


@pytest.fixture
def call():
    def run(line):
        SEEN.clear()
        return execute(TABLE, shlex.split(line))
    return run


def test_described_reads_numpydoc():
    found = described(train.__doc__)
    assert found["kind"] == ('{"small", "large"}', "Size of the model.")
    assert found["shuffle"] == ("bool", "What is done first.") and found["deduplicate"] == found["shuffle"]
    assert found["changes"] == ("", "Single settings.")
    assert "Result" not in found
    assert described(None) == {} and described("One line.") == {}
    assert described("A.\n\nAttributes\n----------\nx : int\n    An x.\n\n    More.")["x"] == ("int", "An x. More.")


@pytest.mark.parametrize("annotation, kind, default, expected", [
    (Optional[int], "", None, [int]),
    (int | None, "", None, [int]),
    (Union[str, Path], "", None, [str]),
    (Literal["a", "b"], "", None, [Literal["a", "b"]]),
    (list[str], "", None, [list[str]]),
    (Iterable[str], "", None, [list[str]]),
    (tuple[int, ...], "", (), [list[int]]),
    (Union[str, list[str]], "", None, [str, list[str]]),
    (dict, "", {}, []),
    (cli.inspect.Parameter.empty, "int or None, optional", None, [int]),
    (cli.inspect.Parameter.empty, "str or path", None, [str]),
    (cli.inspect.Parameter.empty, "{'a', 'b'}", "a", [Literal["a", "b"]]),
    (cli.inspect.Parameter.empty, "list of str", None, [list[str]]),
    (cli.inspect.Parameter.empty, "", 0.5, [float]),
    (cli.inspect.Parameter.empty, "callable, optional", None, []),
])
def test_readable(annotation, kind, default, expected):
    assert readable(annotation, kind, default) == expected


def test_options_of_function_and_dataclass():
    found = options_of(train)
    assert list(found)[:3] == ["words", "kind", "block_size"] and "changes" not in found
    assert found["words"].required and not found["kind"].required
    assert found["hook"].types == ()
    assert options_of(Settings)["learning_rate"].types == (float, str)


def test_command_options_collects_and_refuses():
    found = command_options(TABLE["train"])
    assert {"steps", "learning_rate", "fraction"} <= set(found) and not {"hook", "names", "options", "source"} & set(found)
    assert found["seed"].default == 1                                   # the command's own wins over the loader's
    with pytest.raises(TypeError, match="'words'"):
        command_options(Command(train, ""))


def test_only_what_was_given_is_passed(call, capsys):
    assert call("train words.txt") == 0
    assert SEEN["loaded"] == ("words.txt", 0.5, 0)
    assert SEEN["call"]["changes"] == {} and SEEN["call"]["block_size"] is None and SEEN["call"]["words"] == ["words.txt"]
    assert capsys.readouterr().out == "Result of nan\n"


def test_all_kinds_of_options(call):
    line = ("train 'a b' --kind large --block-size 3e0 --no-deduplicate --shuffle --files x --files y --output-dir o "
            "--seed 7 --steps 3 --learning-rate 1e-3 --fraction 0.1")
    assert call(line) == 0
    got = SEEN["call"]
    assert SEEN["loaded"] == ("a b", 0.1, 7)
    assert (got["words"], got["kind"], got["block_size"], got["deduplicate"], got["shuffle"]) == (["a", "b"], "large", 3, False, True)
    assert (got["files"], got["output_dir"], got["seed"]) == (["x", "y"], "o", 7)
    assert got["changes"] == {"steps": 3, "learning_rate": 1e-3}
    assert call("train a --learning-rate auto") == 0 and SEEN["call"]["changes"] == {"learning_rate": "auto"}


def test_one_or_many():
    seen = []

    def read(source: Union[str, list[str]] = "docstrings"):
        seen.append(source)
    table = {"read": Command(read, "Read.", arguments=("source",)), "other": Command(fails, "")}
    assert [execute(table, ["read", *words]) for words in ([], ["a"], ["a", "b"])] == [0, 0, 0]
    assert seen == ["docstrings", "a", ["a", "b"]]


def test_json_is_json(call, capsys):
    assert call("train words.txt --json") == 0
    assert json.loads(capsys.readouterr().out) == {"value": None, "path": str(Path("a") / "b")}


def test_plain_takes_arrays():
    import numpy as np
    assert cli.plain({"a": np.arange(2), "b": (np.float32(1.5), {3}), "c": float("inf")}) == {"a": [0, 1], "b": [1.5, [3]], "c": None}


@pytest.mark.parametrize("line, says", [
    ("train", "Missing argument"), ("train a --block-size many", "--block-size takes a whole number, not 'many'"), ("train a --block-size 1.5", "1.5"), ("train a --kind middle", "middle"), ("train a --wrong 1", "--wrong"),
    ("trian a", "did you mean 'train'?"), ("--wrong", "--wrong"),
    ("fails value", "first line second line"), ("fails type", "first line second line"),
    ("fails full", "No space left on device: model.safetensors"),
])
def test_users_errors_are_one_line_and_2(call, capsys, line, says):
    assert call(line) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lmnotes: error: ") and err.count("\n") == 1 and err.endswith("\n") and says in err


@pytest.mark.parametrize("how", ["key", "runtime"])
def test_other_errors_are_one_line_and_1(call, capsys, how):
    assert call(f"fails {how}") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--debug" in err and err.startswith("lmnotes: error: ")


@pytest.mark.parametrize("line", ["--debug fails value", "fails value --debug", "fails --debug value"])
def test_debug_shows_the_traceback(call, capsys, line):
    assert call(line) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and 'raise kinds[how]' in err and "lmnotes: error: first line second line" in err


def test_debug_after_two_dashes_is_a_text(capsys):
    def echo(text: str):
        return text
    table = {"echo": Command(echo, ""), "other": Command(fails, "")}
    assert execute(table, ["echo", "--", "--debug"]) == 0 and capsys.readouterr().out == "--debug\n"


def test_library_errors_of_the_user(capsys):
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    def load(kind: int):
        raise (DatasetNotFoundError, DatasetsError)[kind]("no such data set")
    for kind in (0, 1):
        assert execute({"load": Command(load, ""), "other": Command(fails, "")}, ["load", str(kind)]) == 2
        assert capsys.readouterr().err == "lmnotes: error: no such data set\n"


def test_interrupt_says_what_was_saved(call, capsys, tmp_path):
    assert call(f"fails stop --output-dir {tmp_path / 'none'}") == 130
    assert capsys.readouterr().err == "lmnotes: interrupted; nothing was saved\n"
    for step in (5, 10):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        os.utime(tmp_path / "checkpoints" / f"step-{step:08d}", (step, step))
    assert call(f"fails stop --output-dir {tmp_path}") == 130
    assert capsys.readouterr().err == f"lmnotes: interrupted; {tmp_path / 'checkpoints' / 'step-00000010'} is the last checkpoint\n"


def test_an_interruption_between_two_results_ends_its_sentence(capsys):
    def answers():
        yield "one"
        raise KeyboardInterrupt

    def asks():
        return answers()
    assert execute({"asks": Command(asks, ""), "other": Command(fails, "")}, ["asks"]) == 130
    out = capsys.readouterr()
    assert out.err == "lmnotes: interrupted; nothing was written\n" and out.out == "one\n"


@pytest.mark.parametrize("read, end", [("who\n", "> > \n"), ("who\n\n", "> > ")], ids=["end-of-input", "empty-line"])
def test_the_end_of_input_closes_the_line_of_the_prompt(monkeypatch, capsys, read, end):
    monkeypatch.setattr(sys, "stdin", io.StringIO(read))
    assert list(cli._asked(True)) == ["who"] and capsys.readouterr().out == end


def test_other_processes_are_silent(call, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert call("train words.txt") == 0 and call("train") == 2
    assert capsys.readouterr() == ("", "")
    assert call("fails value") == 2
    assert capsys.readouterr().err == "lmnotes (process 1): error: first line second line\n"


def test_help_of_the_group_builds_nothing(capsys):
    table = {"x": Command("no.such.module:f", "Summary of x.", ("lmnotes x --y 1",)), "other": Command(fails, "")}
    for argv in (["--help"], []):
        assert execute(table, argv) == 0
        out = capsys.readouterr().out
        assert "Summary of x." in out and "Examples:\n  lmnotes x --y 1" in out


def test_help_of_a_command(call, capsys):
    assert call("train --help") == 0
    out = " ".join(capsys.readouterr().out.split())
    for part in ("Train a thing.", "Length of a block in tokens.", "--deduplicate / --no-deduplicate", "small|large", "[default: auto]",
                 "Number of steps.", "Share kept.", "Examples:", "lmnotes train words.txt --steps 3", "--json", "--debug"):
        assert part in out, part
    assert "--hook" not in out


def test_version_imports_nothing_heavy():
    code = "import sys, lmnotes.cli as c; code = c.main(['--version']); print(code, [m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in out[:-1]] == ["lmnotes", "Python", "torch", "transformers", "datasets"]
    assert out[-1] == "0 []"


# --- the command as a process ---------------------------------------------------------------------------------------

def lmnotes(*words, env=None, **kwargs):
    "Run the command as a process of its own."
    return subprocess.run([sys.executable, "-m", "lmnotes.cli", *map(str, words)], capture_output=True, text=True,
                          env={**os.environ, **(env or {})}, timeout=300, **kwargs)


def test_as_a_module():
    done = lmnotes("--help")
    assert done.returncode == 0 and done.stderr == "" and "Examples:" in done.stdout
    done = lmnotes("wrong")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_entry_point():
    from importlib.metadata import entry_points
    found = [entry for entry in entry_points(group="console_scripts") if entry.name == "lmnotes"]
    if not found:
        pytest.skip("lmnotes is not installed here")
    assert found[0].value == "lmnotes.cli:main"


def test_reader_that_leaves():
    code = ("import sys; from lmnotes import cli\ndef many(n: int = 5):\n    return 'x' * 10**6\n"
            "sys.exit(cli.execute({'many': cli.Command(many, ''), 'b': cli.Command(many, '')}, ['many']))")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONUNBUFFERED": ""})
    assert process.stdout.read(1) == "x"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(30) == 141
    process.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_output():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "lmnotes.cli", "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr == "lmnotes: error: No space left on device\n"


def test_ctrl_c(tmp_path):
    code = ("import signal, sys, time; from lmnotes import cli\nsignal.signal(signal.SIGINT, signal.default_int_handler)    # what runs in the background of a shell ignores it\n"
            "def work(output_dir='out'):\n    print('ready', flush=True); time.sleep(60)\n"
            "sys.exit(cli.execute({'work': cli.Command(work, ''), 'b': cli.Command(work, '')}, ['work']))")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == "lmnotes: interrupted; nothing was saved\n"


def test_terminal_without_unicode():
    code = ("import sys; from lmnotes import cli\ndef fail(n: int = 1):\n    print('π'); raise ValueError('π')\n"
            "cli.COMMANDS.update(a=cli.Command(fail, '')); sys.exit(cli.main(['a']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (2, "\\u03c0\n") and done.stderr.startswith("lmnotes: error: ")


@pytest.mark.parametrize("words", ["import lmnotes", "import lmnotes.cli as c; c.main(['--help'])", "import lmnotes.cli as c; c.main(['--version'])"])
def test_start_imports_nothing_heavy(words):
    "What makes a start slow is what is imported; `benchmarks/cli.py` has the seconds."
    heavy = ("torch", "transformers", "datasets", "numpy", "pandas", "matplotlib", "sklearn", "scipy", "pydantic", "huggingface_hub", "asyncio", "rich")
    done = subprocess.run([sys.executable, "-c", f"{words}\nimport sys; print([m for m in {heavy} if m in sys.modules])"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_torchrun_prints_once():
    pytest.importorskip("torch")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "lmnotes.cli"]
    done = subprocess.run([*launch, "--version"], capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["lmnotes", "Python", "torch", "transformers", "datasets"]


# --- the table ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_for_every_option(name, capsys):
    options = command_options(cli.COMMANDS[name])
    assert [option.name for option in options.values() if not option.help] == []
    assert execute(cli.COMMANDS, [*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert cli.COMMANDS[name].summary in " ".join(out.split()) and "Examples:" in out
    asked = [option for option in options.values() if option.required]
    assert all(choice in out for option in asked for choice in cli._choices(option)) and "[default: ]" not in out


@pytest.mark.parametrize("name, example", [(name, example) for name, command in cli.COMMANDS.items() for example in command.examples])
def test_every_example_parses(name, example):
    words = name.split()
    program, *rest = shlex.split(example)
    assert [program, *rest[:len(words)]] == ["lmnotes", *words]
    rest = rest[len(words):]
    command = cli.build_command(name, cli.COMMANDS[name])
    with command.make_context(name, rest) as context:
        given = {key: value for key, value in context.params.items() if value not in (None, [], ())}
    options = command_options(cli.COMMANDS[name])
    for key in set(given) - {"json", "debug"}:
        cli._read(options[key], given[key])


def test_a_command_of_two_words_comes_before_that_of_its_first(tmp_path, capsys):
    (tmp_path / "letters.txt").write_text("Write to anna@example.org, please.\n\nNothing here.\n", encoding="utf-8")
    assert execute(cli.COMMANDS, ["corpus", "scrub", str(tmp_path / "letters.txt"), "--output-dir", str(tmp_path / "clean")]) == 0
    clean = "".join(p.read_text(encoding="utf-8") for p in (tmp_path / "clean").rglob("*.txt"))
    assert "anna@example.org" not in clean and "Nothing here." in clean
    assert execute(cli.COMMANDS, ["corpus", "scrub"]) == 2 and "lmnotes corpus scrub --help" in capsys.readouterr().err
    assert execute(cli.COMMANDS, ["corpus", str(tmp_path / "nowhere.txt")]) == 2 and "nowhere.txt" in capsys.readouterr().err       # one word still


# --- fill-mask and generate -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "A folder with two small random models, masked and causal, and their tokenizers."
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    folder = tmp_path_factory.mktemp("models")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {word: n for n, word in enumerate(special + "the array is returned as a list of numbers .".split())}
    masked = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    masked.pre_tokenizer, masked.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    masked.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    torch.manual_seed(0)
    PreTrainedTokenizerFast(tokenizer_object=masked, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
                            mask_token="[MASK]").save_pretrained(folder / "masked")
    BertForMaskedLM(BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=12)).save_pretrained(folder / "masked")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    causal = Tokenizer(models.BPE({**{letter: n for n, letter in enumerate(alphabet)}, "<end>": 256}, []))
    causal.pre_tokenizer, causal.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    causal.add_special_tokens(["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=causal, eos_token="<end>", bos_token="<end>").save_pretrained(folder / "causal")
    config = GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=256, eos_token_id=256, initializer_range=0.5)
    GPT2LMHeadModel(config).save_pretrained(folder / "causal")
    return folder


def test_fill_mask_equals_the_pipeline(models):
    from transformers import pipeline
    text = "the [MASK] is returned as a [MASK] ."
    got = cli.fill_mask(models / "masked", text, top=3, device="cpu")
    expected = pipeline("fill-mask", model=str(models / "masked"), device="cpu")(text, top_k=3)
    assert [[token for token, _ in gap] for gap in got.gaps] == [[row["token_str"] for row in gap] for gap in expected]
    for gap, rows in zip(got.gaps, expected):
        assert [share for _, share in gap] == pytest.approx([row["score"] for row in rows], rel=1e-5)
    assert repr(got).splitlines()[0] == got.text and "[MASK]" not in got.text


def _bias(network, tokenizer, token, folder):
    "Save the masked network so that a token is the likeliest in each gap."
    import torch
    with torch.no_grad():
        network.cls.predictions.bias[tokenizer.convert_tokens_to_ids(token)] = 100.0
    network.save_pretrained(folder), tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("token, text, filled", [
    ("list", "The  你好 [MASK] x, ([MASK])\n", "The  你好 list x, (list)\n"), ("##s", "array [MASK] [UNK] number[MASK].", "arrays [UNK] numbers."),
    ("[SEP]", "the [MASK] list", "the [SEP] list"), ("list", "[MASK]", "list")])
def test_fill_mask_keeps_the_text_around_its_gaps(models, tmp_path, token, text, filled):
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    network, tokenizer = (kind.from_pretrained(models / "masked") for kind in (AutoModelForMaskedLM, AutoTokenizer))
    tokenizer.backend_tokenizer.model = type(tokenizer.backend_tokenizer.model)({**{"##s" if word == "of" else word: n for word, n in tokenizer.get_vocab().items()}}, unk_token="[UNK]")
    _bias(network, tokenizer, token, tmp_path)
    assert cli.fill_mask(tmp_path, text, device="cpu").text == filled


@pytest.mark.parametrize("token, text, filled", [("Ġlist", "the 你 <mask>, a", "the 你 list, a"), ("s", "the array [MASK]", "the arrays"), ("<unk>", "the [MASK] a", "the <unk> a"), ("Ġlist", "[MASK] a", "list a")])
def test_fill_mask_where_the_gap_takes_the_space_before_it(models, tmp_path, token, text, filled):
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast
    inner = Tokenizer(BPE({word: n for n, word in enumerate(["<unk>", "<mask>", "Ġlist", "Ġ", *"thearys"])}, [], unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", mask_token=AddedToken("<mask>", lstrip=True))
    _bias(AutoModelForMaskedLM.from_pretrained(models / "masked"), tokenizer, token, tmp_path)
    assert cli.fill_mask(tmp_path, text, device="cpu").text == filled


@pytest.mark.parametrize("text, top, says", [("a [MASK]", 2.5, "top=2.5 must be a whole number"), ("no gap", 5, r"\[MASK\]"), ("a [MASK] " * 9, 5, "12"), ("a [MASK]", 0, "top=0"), ("a [MASK]", 10**6, "top=")])
def test_fill_mask_refuses(models, text, top, says):
    with pytest.raises(ValueError, match=says):
        cli.fill_mask(models / "masked", text, top=top)


def test_families_are_told_apart(models):
    with pytest.raises(ValueError, match="BertForMaskedLM.*causal"):
        cli.generate(models / "masked", "the")
    with pytest.raises(ValueError, match="GPT2LMHeadModel.*masked"):
        cli.fill_mask(models / "causal", "the [MASK]")


@pytest.mark.parametrize("temperature", [0, 1.0, 3.0])
def test_generation_streams_the_same_text(models, temperature):
    import torch
    pieces, state = [], torch.random.get_rng_state()
    got = cli.generate(models / "causal", "the π", max_new_tokens=40, temperature=temperature, seed=3, device="cpu", on_text=pieces.append)
    assert "".join(pieces) == got.text and got.text.startswith("the π") and pieces[0] == "the π"
    assert got.new_tokens <= 40 and got.ended == (got.new_tokens < 40)
    assert got == cli.generate(models / "causal", "the π", max_new_tokens=40, temperature=temperature, seed=3, device="cpu")
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("spelled, text", [("a E4 BD A0 b", "a你b"), ("a E4 BD A0 E5 A5", "a你"), ("E4 BD A0 E5 b E5", "����b"), ("E4 <end> BD A0 <end>", "你"), ("41 E4 BD b", "���b")])
@pytest.mark.parametrize("length", [0, 2])
def test_bytes_of_characters_are_streamed_as_they_are_returned(spelled, text, length):
    import torch
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast
    names = ["<unk>", "<end>", "a", "b", *(f"<0x{number:02X}>" for number in range(256))]
    inner = Tokenizer(BPE({name: number for number, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True))
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>")
    ids = tokenizer.convert_tokens_to_ids(["b", "b"][:length] + [f"<0x{word}>" if len(word) == 2 else word for word in spelled.split()])
    streamed, shown = [], cli._shown(tokenizer, "b b", length)
    pieces = cli._pieces(shown, streamed.append)
    for number in ids:
        pieces.put(torch.tensor([number]))
    pieces.end()
    assert "".join(streamed) == shown(ids) == ("b b\n" if length else "") + text


def test_a_piece_of_a_word_joins_the_word_before_the_new_line(models):
    from tokenizers.models import WordPiece
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(models / "masked")
    tokenizer.backend_tokenizer.model = WordPiece({"##s" if word == "of" else word: number for word, number in tokenizer.get_vocab().items()}, unk_token="[UNK]")
    prompt = tokenizer.convert_tokens_to_ids(["[CLS]", "the", "array"])
    shown = cli._shown(tokenizer, "the array", len(prompt))
    assert shown(prompt + tokenizer.convert_tokens_to_ids(["##s", "list", "##s"])) == "the array\ns lists"
    assert shown(prompt + tokenizer.convert_tokens_to_ids(["list", "##s"])) == "the array\nlists"


def test_a_model_that_was_taught_a_separator_gets_it(models, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lmnotes.generation import SEPARATOR, generate_texts
    network, tokenizer = (kind.from_pretrained(models / "causal") for kind in (AutoModelForCausalLM, AutoTokenizer))
    network.config.prompt_separator = SEPARATOR
    network.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    for prompt in ("the array", "", "π "):
        pieces = []
        got = cli.generate(tmp_path, prompt, max_new_tokens=20, temperature=0, device="cpu", on_text=pieces.append)
        written, = generate_texts(network, tokenizer, [prompt], max_new_tokens=20, progress=False)
        assert got.text == f"{prompt}\n{written}" == "".join(pieces) and pieces[0] == f"{prompt}\n" and got.prompt == prompt
    assert written not in cli.generate(models / "causal", prompt, max_new_tokens=20, temperature=0, device="cpu").text


def test_sampling_parameters(models):
    def run(**kwargs):
        return cli.generate(models / "causal", "the", max_new_tokens=30, device="cpu", **kwargs).text
    greedy = run(temperature=0)
    assert run(top_k=1, seed=5) == greedy and run(top_p=1e-9, seed=6) == greedy and run(temperature=1e-4, seed=7) == greedy
    assert len({run(temperature=2.0, seed=seed) for seed in range(3)}) == 3


def test_greedy_is_the_argmax(models):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    network, tokenizer = (kind.from_pretrained(models / "causal") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("a list", return_tensors="pt").input_ids
    for _ in range(10):
        ids = torch.cat([ids, network(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert cli.generate(models / "causal", "a list", max_new_tokens=10, temperature=0, device="cpu").text == tokenizer.decode(ids[0], skip_special_tokens=True)


def test_what_a_folder_says_of_sampling_does_not_apply(models, tmp_path):
    import shutil
    shutil.copytree(models / "causal", tmp_path / "own")
    facts = json.loads((tmp_path / "own" / "generation_config.json").read_text())
    (tmp_path / "own" / "generation_config.json").write_text(json.dumps(facts | {"repetition_penalty": 3.0, "num_beams": 4, "min_p": 0.5, "suppress_tokens": list(range(60, 120)), "no_repeat_ngram_size": 1}))
    for temperature in (0, 1.0):
        assert len({cli.generate(folder, "the", max_new_tokens=20, temperature=temperature, device="cpu").text for folder in (models / "causal", tmp_path / "own")}) == 1


def test_generation_stops_where_the_folder_says(models, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    network, tokenizer = (kind.from_pretrained(models / "causal") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("the", return_tensors="pt").input_ids
    free = network.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1]:].tolist()
    stop = next(number for number in free if number != free[0])                 # so that it is not the first token that ends the text
    network.generation_config.eos_token_id = [256, stop]
    network.save_pretrained(tmp_path / "several"), tokenizer.save_pretrained(tmp_path / "several")
    theirs = network.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1]:].tolist()
    network.generation_config.eos_token_id = network.config.eos_token_id = None
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop)
    network.save_pretrained(tmp_path / "tokenizer"), tokenizer.save_pretrained(tmp_path / "tokenizer")
    for name in ("several", "tokenizer"):
        got = cli.generate(tmp_path / name, "the", max_new_tokens=12, temperature=0, device="cpu")
        assert got.ended and got.new_tokens == free.index(stop) == len(theirs) - 1 < 11


@pytest.mark.parametrize("end", [None, 3])
def test_the_separator_of_word_pieces_ends_a_text_and_closes_no_prompt(models, tmp_path, end):
    import torch
    from transformers import AutoTokenizer, BertConfig, BertLMHeadModel

    from lmnotes.generation import generate_texts
    tokenizer = AutoTokenizer.from_pretrained(models / "masked")
    torch.manual_seed(1)
    network = BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                                         max_position_embeddings=32, is_decoder=True, eos_token_id=end, initializer_range=0.5)).eval()
    with torch.no_grad():                                                       # the likeliest word after a few others is the separator
        network.cls.predictions.bias[tokenizer.sep_token_id] = 2.0
    network.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    got = cli.generate(tmp_path, "the array", max_new_tokens=20, temperature=0, device="cpu")
    written, = generate_texts(network, tokenizer, ["the array"], max_new_tokens=20, progress=False)
    ids = tokenizer("the array").input_ids[:-1]
    theirs = network.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=tokenizer.sep_token_id, pad_token_id=0)[0]
    assert got.text == tokenizer.decode(theirs, skip_special_tokens=True) == f"the array{written}" and got.ended and 0 < got.new_tokens < 20


def test_a_model_that_tells_replaced_tokens_fills_no_gaps(models, tmp_path):
    import shutil
    from transformers import AutoTokenizer, ElectraConfig, ElectraForPreTraining
    shutil.copytree(models / "masked", tmp_path / "electra")
    size = len(AutoTokenizer.from_pretrained(tmp_path / "electra"))
    ElectraForPreTraining(ElectraConfig(vocab_size=size, embedding_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)).save_pretrained(tmp_path / "electra")
    with pytest.raises(ValueError, match="holds ElectraForPreTraining, which is no masked language model"):
        cli.fill_mask(tmp_path / "electra", "the [MASK]", device="cpu")


def test_empty_prompt_begins_with_the_start_of_text(models):
    assert cli.generate(models / "causal", "", max_new_tokens=3, device="cpu").new_tokens <= 3


@pytest.mark.parametrize("change, says", [({"max_new_tokens": 0}, "max_new_tokens=0"), ({"max_new_tokens": 2.5}, "max_new_tokens=2.5"), ({"seed": None}, "seed None must be a whole number"), ({"max_new_tokens": 65}, "64 positions"), ({"temperature": -1.0}, "temperature"),
                                          ({"temperature": float("nan")}, "temperature"), ({"top_k": 0}, "top_k 0"), ({"top_p": 1.5}, "top_p 1.5"),
                                          ({"temperature": 0, "top_k": 3}, "top_k 3 chooses what is sampled from, and temperature 0 does not sample")])
def test_generate_refuses(models, change, says):
    with pytest.raises(ValueError, match=says):
        cli.generate(models / "causal", "the", **{"device": "cpu", **change})


def test_a_temperature_too_small_to_divide_by_is_refused(models, capsys):
    assert execute(cli.COMMANDS, ["generate", str(models / "causal"), "the", "--temperature", "1e-45", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "temperature 1e-45" in said and len(said.splitlines()) == 1


def test_missing_models_and_devices(models, monkeypatch):
    for name in ("nowhere", "runs/nowhere", "./a/b/c"):
        with pytest.raises(FileNotFoundError, match=name):
            cli.generate(name, "the")
    import torch
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="cuda"):
        cli.generate(models / "causal", "the", device="cuda")


def test_commands_of_models(models, capsys):
    assert execute(cli.COMMANDS, ["fill-mask", str(models / "masked"), "the [MASK] .", "--top", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["gaps"]) == 1 and len(found["gaps"][0]) == 2
    assert execute(cli.COMMANDS, ["generate", str(models / "causal"), "the", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("the")


def test_a_terminal_streams(models):
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "lmnotes.cli", "generate", str(models / "causal"), "the array", "--max-new-tokens", "5", "--temperature", "0"],
                               stdout=follower, stderr=subprocess.DEVNULL)
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 1000):
            shown += chunk
    except OSError:                                         # the other side is closed
        pass
    os.close(leader)
    text = cli.generate(models / "causal", "the array", max_new_tokens=5, temperature=0, device="cpu").text
    assert process.wait(60) == 0 and shown.decode(errors="replace").replace("\r\n", "\n") == text + "\n"


def test_real_model_tells_a_story(shared_models):
    got = cli.generate(shared_models / "stories260K", "Once upon a time", max_new_tokens=20, temperature=0, device="cpu")
    assert got.text.startswith("Once upon a time, there was a little girl")


# --- what the user can mend -----------------------------------------------------------------------------------------

def test_errors_that_the_user_can_mend_are_2(capsys):
    import torch
    from safetensors import SafetensorError
    kinds = [FloatingPointError("lower the learning rate"), ModuleNotFoundError('pip install "lmnotes[onnx]"'), MemoryError(), SafetensorError("incomplete metadata"), torch.OutOfMemoryError("CUDA out of memory")]

    def fail(number: int):
        raise kinds[number]
    for number, says in enumerate(("lower the learning rate", "lmnotes[onnx]", "memory is full: take smaller", "a file of weights cannot be read or written: incomplete", "CUDA out of memory")):
        assert execute({"fail": Command(fail, ""), "other": Command(fails, "")}, ["fail", str(number)]) == 2
        err = capsys.readouterr().err
        assert says in err and "--debug" not in err and err.count("\n") == 1


@pytest.fixture
def whole(models, tmp_path):
    "A masked model in a folder with checksums, which a test may damage."
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from lmnotes.checkpoints import save
    return save(AutoModelForMaskedLM.from_pretrained(models / "masked"), AutoTokenizer.from_pretrained(models / "masked"), tmp_path / "whole")


def _flip(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def _pickle(folder):
    import torch
    from safetensors.torch import load_file
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink(), (folder / "SHA256SUMS").unlink()


def _cut(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    (folder / "SHA256SUMS").unlink()


@pytest.mark.parametrize("damage, says", [(_flip, "model.safetensors"), (_pickle, "model.safetensors is missing"), (_cut, "model.safetensors is damaged"),
                                          (lambda folder: (folder / "config.json").write_text("{"), "config.json")])
def test_a_damaged_model_is_not_asked(whole, damage, says, capsys):
    assert execute(cli.COMMANDS, ["fill-mask", str(whole), "the [MASK] ."]) == 0
    damage(whole)
    assert execute(cli.COMMANDS, ["fill-mask", str(whole), "the [MASK] ."]) == 2
    err = capsys.readouterr().err
    assert "is not whole" in err and says in err and "--debug" not in err


def test_fill_mask_without_a_mask_token(models, tmp_path):
    import shutil
    from transformers import PreTrainedTokenizerFast
    shutil.copytree(models / "masked", tmp_path / "m")
    (tmp_path / "m" / "tokenizer_config.json").unlink()
    PreTrainedTokenizerFast(tokenizer_file=str(models / "masked" / "tokenizer.json"), unk_token="[UNK]").save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="has no mask token"):
        cli.fill_mask(tmp_path / "m", "the [MASK]", device="cpu")


def test_open_tokenizer_says_what_is_missing(models, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json"):
        cli.open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be opened .*train it again"):
        cli.open_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="no tokenizer at 'runs/nowhere': give"):
        cli.open_tokenizer("runs/nowhere")
    assert len(cli.open_tokenizer(models / "masked")) > 5


def test_a_pipe_streams(capsys, monkeypatch):
    seen = []

    def speak(words: int, on_text=None):
        for number in range(words):
            (on_text or (lambda _: None))(f"{number} ")
            seen.append(capsys.readouterr().out)
        return "".join(f"{number} " for number in range(words))
    table = {"speak": Command(speak, "", stream="on_text"), "other": Command(fails, "")}
    assert execute(table, ["speak", "2"]) == 0 and seen == ["0 ", "1 "] and capsys.readouterr().out == "\n"
    seen.clear()
    assert execute(table, ["speak", "2", "--json"]) == 0 and seen == ["", ""] and json.loads(capsys.readouterr().out) == "0 1 "


def test_generate_writes_the_same_bytes_to_a_pipe(models, capsys):
    assert execute(cli.COMMANDS, ["generate", str(models / "causal"), "the π", "--max-new-tokens", "20", "--temperature", "0", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == cli.generate(models / "causal", "the π", 20, temperature=0, device="cpu").text + "\n"


def test_a_document_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9")
    with pytest.raises(ValueError, match=r"document '.*a.txt' is not UTF-8: byte 6 .*save the file as UTF-8"):
        cli.chat(tmp_path, tmp_path / "a.txt")


def test_a_default_of_line_feeds_is_shown_as_such(capsys):
    def join(separator: str = "\n\n"):
        return separator
    assert execute({"join": Command(join, ""), "other": Command(fails, "")}, ["join", "--help"]) == 0
    assert r"[default: '\n\n']" in capsys.readouterr().out


@pytest.mark.parametrize("line, needle", [
    ("pretrain CORPUS tok --mask-rate 2", "mask_rate 2.0"), ("pretrain CORPUS tok --device cuda:77", "cuda:77"), ("pretrain CORPUS tok --model bert-foo", "bert-foo"),
    ("pretrain CORPUS tok --block-size 9000", "block_size 9000"), ("pretrain CORPUS tok --output-dir full", "full"), ("pretrain CORPUS broken", "tokenizer 'broken'"),
    ("tokenizer CORPUS --kind foo", "foo"), ("tokenizer CORPUS --vocab-size 0", "vocab_size 0"), ("tokenizer CORPUS --output-dir full", "full"),
])
def test_what_needs_no_corpus_is_refused_before_it_is_read(line, needle, tmp_path, monkeypatch, capsys):
    from lmnotes import tokenization
    monkeypatch.chdir(tmp_path)
    tokenization.train_tokenizer(["the cat sat on the mat"] * 9, vocab_size=60, progress=False).save_pretrained("tok")
    for name in ("full", "broken"):
        Path(name).mkdir()
        Path(name, "tokenizer.json").write_text("{")
    monkeypatch.setitem(cli.COMMANDS, "pretrain", dataclasses.replace(cli.COMMANDS["pretrain"], loaders={**cli.COMMANDS["pretrain"].loaders, "corpus": unread}))
    monkeypatch.setitem(cli.COMMANDS, "tokenizer", dataclasses.replace(cli.COMMANDS["tokenizer"], loaders={"corpus": unread}))
    assert execute(cli.COMMANDS, shlex.split(line)) == 2 and needle in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["broken", "full", "tok"]                # nothing was made


def unread(source: str):
    """Stand in for a corpus that takes long.

    Parameters
    ----------
    source : str
        Its name.
    """
    pytest.fail("the corpus was read")


def test_a_home_folder_behind_an_equals_sign_is_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert execute(TABLE, ["train", "words.txt", "--output-dir=~/runs/x"]) == 0 and SEEN["call"]["output_dir"] == str(tmp_path / "runs" / "x")


def test_a_column_is_named_once(tmp_path, monkeypatch, capsys):
    "Loading calls the column `text`; training must not look for the name that the file had."
    monkeypatch.chdir(tmp_path)
    Path("body.csv").write_text("body,label\n" + "".join(f"the cat number {i} sat on the mat,1\n" for i in range(40)), encoding="utf-8")
    assert execute(cli.COMMANDS, ["tokenizer", "body.csv", "--text-column", "body", "--vocab-size", "60", "--output-dir", "t"]) == 0, capsys.readouterr().err
    assert Path("t", "tokenizer.json").is_file()
    assert execute(cli.COMMANDS, ["tokenizer", "--help"]) == 0 and "by default text" in " ".join(capsys.readouterr().out.split())


def test_a_tokenizer_is_made_from_the_column_that_is_named(tmp_path):
    from datasets import Dataset
    report = cli.make_tokenizer({"train": Dataset.from_dict({"body": ["the cat sat on the mat"] * 9})}, tmp_path / "t", vocab_size=60, text_column="body", progress=False)
    assert report.unknown_tokens == 0


def test_what_only_the_loader_takes_is_not_handed_on(call):
    command = dataclasses.replace(TABLE["train"], loaded=("seed",))
    assert command_options(command)["seed"].help == options_of(load_words)["seed"].help
    cli.call(command, {"words": "w.txt", "seed": 3})
    assert SEEN["loaded"][2] == 3 and SEEN["call"]["seed"] == 1             # its own default


def test_a_corpus_that_is_counted_is_no_stream(tmp_path, capsys):
    assert "streaming" not in command_options(cli.COMMANDS["corpus"]) and "streaming" in command_options(cli.COMMANDS["tokenizer"])
    with pytest.raises(ValueError, match="streaming=True: .*leave streaming out"):
        cli.make_corpus(tmp_path / "c", source=tmp_path / "nowhere.txt", streaming=True)


@pytest.mark.parametrize("seed", [-1, 2**32, 10**23])
@pytest.mark.parametrize("name", [name for name, command in cli.COMMANDS.items() if "seed" in command_options(command)])
def test_a_seed_that_cannot_be_is_refused_first_in_the_same_words(name, seed):
    from lmnotes.pretraining import _check_seed
    with pytest.raises(ValueError) as said:
        _check_seed(seed)
    values = {option.name: "x" for option in command_options(cli.COMMANDS[name]).values() if option.required}
    with pytest.raises(ValueError) as found:
        cli.call(cli.COMMANDS[name], {**values, "seed": seed})
    assert str(found.value) == str(said.value)


def test_no_bar_of_the_library_for_local_folders(tmp_path, monkeypatch, capfd):
    from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

    from lmnotes.tokenization import train_tokenizer
    tokenizer = train_tokenizer(["who eats the soup in the city"] * 9, vocab_size=90)
    small = dict(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    for name, kind in (("c", BertForSequenceClassification), ("q", BertForQuestionAnswering)):
        kind(BertConfig(**small)).save_pretrained(tmp_path / name), tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "a.txt").write_text("the soup\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("who\n"))
    capfd.readouterr()
    for line in (["predict", str(tmp_path / "c"), str(tmp_path / "a.txt"), "--no-progress"], ["chat", str(tmp_path / "q"), str(tmp_path / "a.txt")]):
        assert execute(cli.COMMANDS, line) == 0
    assert "Loading weights" not in capfd.readouterr().err


def test_generate_looks_at_the_seed_before_the_model():
    for seed in (-1, 10**23):
        with pytest.raises(ValueError, match=rf"seed {seed} must be a whole number from 0 to 2\*\*32 - 1"):
            cli.generate("runs/nowhere", "the", seed=seed)


@pytest.mark.parametrize("command, says", [
    ("corpus ''", "source '' is empty: name a file, a folder"), ("corpus scrub ''", "source '' is empty: name a file or folder"), ("corpus de.txt --encoding utf-16", "de.txt is not utf-16 (UTF-16 stream"),
    ("corpus scrub de.txt --encoding nope", "encoding 'nope' is not known to Python"), ("corpus scrub de.txt --encoding utf-16", "de.txt is not utf-16: name its encoding"),
    ("score classification de.txt de.txt --samples -1", "samples -1 must be 0 (no intervals) or more")])
def test_what_the_user_can_mend_is_named(tmp_path, monkeypatch, capsys, command, says):
    (tmp_path / "de.txt").write_text("Grüße\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert execute(cli.COMMANDS, shlex.split(command)) == 2
    assert f"error: {says}" in capsys.readouterr().err


def test_only_what_shares_its_work_runs_in_several_processes(call, capsys, monkeypatch):
    SEEN.clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert [name for name, command in cli.COMMANDS.items() if command.shared] == ["pretrain", "finetune"]
    for rank, says in (("0", "lmnotes: error: train is for one process, and 2 were started (WORLD_SIZE=2): start it without torchrun or accelerate, which are for pretrain and finetune (see lmnotes train --help)\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert execute(TABLE, ["train", "w.txt"]) == 2 and capsys.readouterr().err == says and not SEEN
        assert execute(TABLE, ["train", "--help"]) == 0
        assert execute({"train": dataclasses.replace(TABLE["train"], shared=True)}, ["train", "w.txt"]) == 0 and SEEN
        SEEN.clear(), capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "1"), monkeypatch.setenv("RANK", "0")
    assert execute(TABLE, ["train", "w.txt"]) == 0
    for rank in ("", "x"):                                                                  # what no launcher sets counts as not set
        monkeypatch.setenv("RANK", rank), monkeypatch.setenv("WORLD_SIZE", "")
        assert execute(TABLE, ["train", "w.txt"]) == 0 and PretrainingOptions(steps=1).check()


@pytest.mark.parametrize("words", [["generate", "runs/nowhere", "\udcff\udcfe x"], ["fill-mask", "runs/nowhere", "\udcff [MASK]"]])
def test_a_text_that_the_locale_cannot_read_is_refused(words, capsys):
    assert execute(cli.COMMANDS, words) == 2
    assert re.search(r"error: (prompt|text) '\\udcff.*' is not UTF-8: type it again, or take it from a file that is saved as UTF-8$", capsys.readouterr().err.strip())


def test_a_text_in_utf8_is_read_in_any_locale(models, capsys):
    text = "Ü 文 list"
    raw = text.encode().decode("ascii", "surrogateescape")                     # as Python has the words of a command line in the locale C
    for ask in (lambda given: cli.fill_mask(models / "masked", f"{given} [MASK]"), lambda given: cli.generate(models / "causal", given, max_new_tokens=2, temperature=0)):
        assert ask(raw) == ask(text)


def test_chat_needs_standard_input(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("the soup")
    monkeypatch.setattr(sys, "stdin", None)                                    # as Python has it where it is closed
    assert execute(cli.COMMANDS, ["chat", "runs/nowhere", str(tmp_path / "a.txt")]) == 2
    assert "standard input is closed, and the questions are read from it" in capsys.readouterr().err


def test_results_that_come_one_by_one_are_shown_line_by_line(capsys, monkeypatch):
    turns = [cli.Turn("who ?", "n7", 3, 5, 0.25), cli.Turn("when ?", "", 0, 0, float("nan"))]
    read = []

    def come():
        for turn in turns:
            read.append(capsys.readouterr().out)
            yield turn
    cli.show(come())
    assert read == ["", "n7  (0.25)\n"] and capsys.readouterr().out == "no answer  (nan)\n"
    cli.show(come(), as_json=True)
    assert json.loads(read[3]) == {"question": "who ?", "answer": "n7", "start": 3, "end": 5, "confidence": 0.25} and json.loads(capsys.readouterr().out)["confidence"] is None


@pytest.mark.parametrize("line", [
    "corpus lines --output-dir lines --overwrite", "corpus corpus --output-dir corpus --overwrite", "corpus link --output-dir corpus --overwrite",
    "tokenizer corpus --output-dir corpus --overwrite", "tokenizer ./corpus --output-dir link --overwrite", "pretrain corpus tok --output-dir corpus --overwrite", "pretrain corpus tok --output-dir corpus --resume",
    "corpus scrub rows/a.txt --output-dir rows --overwrite", "corpus scrub rows --output-dir rows --overwrite"])
def test_no_output_replaces_what_it_is_made_of(line, tmp_path, monkeypatch, capsys):
    from datasets import Dataset, DatasetDict

    from lmnotes import tokenization
    monkeypatch.chdir(tmp_path)
    rows = [f"the cat number {i} sat on the mat" for i in range(40)]
    tokenization.train_tokenizer(rows, vocab_size=60, progress=False).save_pretrained("tok")
    for folder in ("home/corpus", "lines"):
        DatasetDict({"train": Dataset.from_dict({"text": rows})}).save_to_disk(folder)
    os.symlink("home/corpus", "corpus")
    os.symlink("corpus", "link")
    for name in ("in/a.txt", "in/b.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mail a@example.org")
    assert execute(cli.COMMANDS, ["corpus", "scrub", "in", "--output-dir", "rows"]) == 0
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    assert execute(cli.COMMANDS, shlex.split(line)) == 2
    said = capsys.readouterr().err
    assert "or holds it, and the source would be lost: choose another folder" in said, said
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("line, says", [
    ("pretrain de.txt tok --model gpt-tiny --masking words", "masking belongs to masked language modelling"), ("pretrain de.txt tok --model gpt-tiny --mask-rate 0.3", "mask_rate belongs to"),
    ("corpus scrub de.txt --text-column text", "text_column 'text' is for files with columns"), ("predict nowhere de.txt --text-column text", "text_column is for files with columns"),
    ("corpus -dash.txt", "for the file '-dash.txt' write ./-dash.txt, or -- before it")])
def test_what_would_have_no_effect_is_refused(line, says, tmp_path, monkeypatch, capsys):
    from lmnotes import tokenization
    monkeypatch.chdir(tmp_path)
    for name in ("de.txt", "-dash.txt"):
        Path(name).write_text("the cat sat on the mat\n" * 9)
    tokenization.train_tokenizer(["the cat sat on the mat"] * 9, vocab_size=60, progress=False).save_pretrained("tok")
    assert execute(cli.COMMANDS, shlex.split(line)) == 2 and says in capsys.readouterr().err
    assert sorted(os.listdir()) == ["-dash.txt", "de.txt", "tok"]


def test_an_output_that_cannot_be_written_is_said_before_the_model_is_opened(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("a\n")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for place in ("out.jsonl", "new/out.jsonl"):
        assert execute(cli.COMMANDS, ["predict", "nowhere", str(tmp_path / "a.txt"), "--output", str(tmp_path / place)]) == 2
        assert f"cannot be written: {tmp_path} is not a writable folder" in capsys.readouterr().err


def test_an_interruption_says_whether_the_output_is_complete(tmp_path):
    out, since = tmp_path / "out.jsonl", time.time() - 60
    assert cli._saved(None, since, str(out)) == cli._saved(None, since) == "nothing was saved"
    out.write_text("{}\n")
    assert cli._saved(None, since, str(out)) == f"{out} is complete" and cli._saved(None, time.time() + 60, str(out)) == f"{out} is as it was before"

    def predict(output: str):
        "Stop behind the last row."
        time.sleep(0.05)
        Path(output).write_text("{}\n")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match=r"out\.jsonl is complete"):
        cli._attempt(cli.Command(predict, ""), {}, {"output": str(out)})


@pytest.mark.parametrize("line", ["predict nowhere {}", "perplexity {models}/causal {}", "corpus {}", "corpus scrub {}", "finetune nowhere {}", "chat nowhere {}"])
def test_a_folder_a_pipe_and_nothing_in_place_of_a_file_are_told_apart(line, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder"), os.mkfifo("pipe")
    says = {"pipe": "'pipe' is a pipe or a device, and is read more than once: save it to a file first"}
    if line.split()[0] in ("predict", "chat"):
        says |= {"folder": "'folder' is a folder: name a file in it", "none": "'none' is no file or folder here: check the path"}
    for name, text in says.items():
        assert execute(cli.COMMANDS, line.format(name, models=models).split()) == 2 and text in capsys.readouterr().err


def test_json_holds_the_numbers_that_are_shown(models, tmp_path, capsys):
    from lmnotes.benchmarks import ClozeResult, MinimalPairsResult
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("the array is", "a list of numbers", "returned as a list")))
    line = ["perplexity", str(models / "causal"), str(tmp_path / "a.jsonl"), "--no-progress"]
    assert execute(cli.COMMANDS, line) == 0
    shown = capsys.readouterr().out
    assert execute(cli.COMMANDS, [*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    low, high = found["interval"]
    assert f"{found['perplexity']:.3f} per token [{low:.3f}, {high:.3f}], {found['per_word']:.2f} per word, {found['per_byte']:.4f} per byte, {found['bits_per_byte']:.4f} bits per byte" in shown
    for result in (MinimalPairsResult("m", ("a", "a", "b", "b"), (1.0, -1.0, 2.0, 0.0), 1, {}), ClozeResult("m", ("x", "y", "z"), (-1.0, -2.0, -3.0), (True, False, True), 0, {})):
        cli.show(result, as_json=True)
        found = json.loads(capsys.readouterr().out)
        low, high = found["interval"]
        assert f"accuracy {found['accuracy']:.3f} [{low:.3f}, {high:.3f}]" in str(result)
        assert {field.name for field in dataclasses.fields(result)} < set(found)
    assert f"perplexity {found['perplexity']:.1f} of the last word" in str(result)


def test_predictions_go_to_standard_output_for_a_dash(tmp_path, monkeypatch, capsys):
    from types import SimpleNamespace

    from lmnotes import applications
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a\n")
    monkeypatch.setattr(applications, "predict_file", lambda model, file, output, *more, **options: print(output) or SimpleNamespace(rows=1, errors=0, output=output))
    assert execute(cli.COMMANDS, ["predict", "nowhere", "a.txt", "--output", "-"]) == 0
    assert capsys.readouterr().out == "None\n" and os.listdir() == ["a.txt"]


@pytest.mark.parametrize("line, says", [("corpus -- -dash.txt --json", "; options stand before --, and --json stands behind it"), ("corpus -- -dash.txt more", "(more) (see lmnotes corpus --help)\n"),
                                        ("corpus --nope -- -dash.txt", "--nope (see lmnotes corpus --help)\n"), ("corpus -dash.txt", "for the file '-dash.txt' write ./-dash.txt, or -- before it")])
def test_two_dashes_are_advised_only_where_there_are_none(line, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("-dash.txt").write_text("the cat sat on the mat\n" * 9)
    assert execute(cli.COMMANDS, shlex.split(line)) == 2 and says in capsys.readouterr().err


def test_a_model_is_not_pretrained_into_its_own_folder(models, tmp_path, capsys):
    import shutil
    shutil.copytree(models / "masked", tmp_path / "m")
    assert execute(cli.COMMANDS, ["pretrain", str(tmp_path / "no.txt"), str(tmp_path / "m"), "--model", str(tmp_path / "m"), "--output-dir", str(tmp_path / "m"), "--overwrite"]) == 2
    assert "or holds it, and the source would be lost: choose another folder" in capsys.readouterr().err
