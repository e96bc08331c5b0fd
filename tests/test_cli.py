"""The command line: its generator against small functions, its errors and exit codes, its start, every example."""
import dataclasses
import json
import os
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
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (step, step))
    assert call(f"fails stop --output-dir {tmp_path}") == 130
    assert capsys.readouterr().err == f"lmnotes: interrupted; {tmp_path / 'checkpoint-10'} is the last checkpoint\n"


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
