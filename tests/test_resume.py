"""A run that is stopped at any moment and resumed ends as the run that was left alone: bit for bit.

Runs are real processes that really die: a process forked from a warm server (so that libraries are imported once) sends SIGKILL
to itself at the n-th touch of its output folder, as Python's audit events report them. That hits every stage of saving
without knowing how the engine saves.
"""
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer, BertConfig, MixtralConfig, trainer

from lmnotes import pretraining
from lmnotes.checkpoints import verify
from lmnotes.corpora import check_output_dir
from lmnotes.pretraining import PretrainingOptions, damaged_files, last_checkpoint, pretrain
from lmnotes.tokenization import train_tokenizer

WORDS = "the cat dog bird fish sat ran flew swam on under over a mat log tree sea and then it slept".split()
TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 25)) + f" number {i}" for i in range(60)]
TINY = dict(steps=40, checkpoint_steps=6, block_size=16, batch_size=4, precision="fp32", device="cpu", validation_blocks=4, evaluations=1)
LINUX = sys.platform == "linux"                                     # elsewhere forking with the numeric libraries loaded is not safe
CONTEXT = multiprocessing.get_context("forkserver" if LINUX else "spawn")
if LINUX:
    CONTEXT.set_forkserver_preload(["lmnotes.pretraining", "lmnotes.checkpoints", "lmnotes.tokenization"])


# ---- what runs in the process that dies

def _watch_touches(place, log, kill_at, number):
    "Count what Python does with paths under `place`; write it to `log`, or send the signal at touch `kill_at`."
    seen, place, busy = [0], str(place), [False]

    def hook(event, args):
        if busy[0] or not (event == "open" or event.startswith(("os.", "shutil.", "tempfile."))):
            return
        paths = [a for a in args if isinstance(a, (str, bytes, os.PathLike)) and place in os.fsdecode(a)]
        if not paths:
            return
        if seen[0] == kill_at:
            os.kill(os.getpid(), number)
        seen[0] += 1
        if log:
            busy[0] = True
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{event} {' '.join(os.path.relpath(os.fsdecode(p), place) for p in paths)}\n")
            busy[0] = False
    sys.addaudithook(hook)


def _corpus(streamed=False):
    "Sixty documents, ten of them held out."
    parts = {"train": Dataset.from_dict({"text": TEXTS[10:]}), "validation": Dataset.from_dict({"text": TEXTS[:10]})}
    return {k: v.to_iterable_dataset() for k, v in parts.items()} if streamed else DatasetDict(parts)


def _config():
    "A model of one layer; with dropout, so that random states matter."
    return BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=32,
                      hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)


def _experts():
    "A mixture of experts, whose weights have other names in the library's files than in memory, and whose loss keeps them in balance."
    return MixtralConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=32, num_key_value_heads=1, num_local_experts=2, output_router_logits=True)


def _run(place, name, changes, log=None, kill_at=None, number=signal.SIGKILL, streamed=False, experts=False):
    "One run of `pretrain` in a process of its own."
    import torch
    torch.set_num_threads(1)
    sys.stderr = open(Path(place).parent / "stderr", "a", encoding="utf-8")
    if log or kill_at is not None:
        _watch_touches(place, log, kill_at, number)
    pretrain(_corpus(streamed), AutoTokenizer.from_pretrained(Path(place).parent / "tokenizer"), _experts() if experts else _config(), Path(place) / name, **{**TINY, **changes})


# ---- the side that watches

@pytest.fixture(scope="module")
def work(tmp_path_factory):
    "A folder with the tokenizer."
    folder = tmp_path_factory.mktemp("resume")
    train_tokenizer(TEXTS, vocab_size=120, progress=False).save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture
def run(work, tmp_path, monkeypatch):
    "Start a run in a process of its own; give the process."
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = work / tmp_path.name
    place.mkdir()
    started = []

    def start(name, wait=True, **options):
        changes = {k: options.pop(k) for k in list(options) if k not in ("log", "kill_at", "number", "streamed", "experts")}
        process = CONTEXT.Process(target=_run, args=(str(place), name, changes), kwargs=options)
        started.append(process)
        process.start()
        if wait:
            process.join(120)
        return process
    start.place = place
    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def alone(work):
    "The run that nobody disturbs, and the list of its touches."
    (work / "alone").mkdir()
    process = CONTEXT.Process(target=_run, args=(str(work / "alone"), "run", {}, str(work / "touches")))
    process.start()
    process.join(120)
    assert process.exitcode == 0, (work / "stderr").read_text()
    return work / "alone" / "run", (work / "touches").read_text(encoding="utf-8").splitlines()


def outcome(folder):
    "What must not differ: bytes of the weights, losses, learning rates."
    facts = json.loads((folder / "lmnotes.json").read_text(encoding="utf-8"))
    rows = [{k: v for k, v in row.items() if k in ("step", "tokens", "loss", "learning_rate", "validation_loss")} for row in facts["history"]]
    return (folder / "model.safetensors").read_bytes(), facts["loss_before"], facts["loss_after"], rows


def assert_equal(folder, other):
    "Two finished runs are the same run, and nothing else lies about."
    assert verify(folder) == []
    for a, b in zip(outcome(folder), outcome(other)):
        assert a == b
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")], "leftovers beside the model"
    assert not [p for p in folder.rglob(".*")], "leftovers in the model's folder"


# ---- moments

MOMENTS = {
    "before anything is saved": r"tempfile.mkdtemp .*step-00000006",
    "while the first checkpoint is written": r"open .*/\.step-00000006.*/progress\.json",
    "while the second one's checksums are written": r"open .*/\.step-00000012.*/SHA256SUMS",
    "just before a checkpoint is moved into place": r"os.rename .* run/checkpoints/step-00000018",
    "just after a checkpoint was moved into place": r"shutil.rmtree run/checkpoints/step-00000012",                # the first touch after the move, but for a look at the folder
    "while the oldest checkpoint is removed": r"os.rmdir run/checkpoints/step-00000018",
    "while the finished model is written": r"open \.run-\w+/lmnotes\.json",
    "just before the finished model takes the folder's place": r"os.rename run ",
    "while the finished model takes the folder's place": r"os.rename \.run-\w+ run$",
}


def touch(touches, pattern):
    "Number of the first touch that fits."
    found = [i for i, line in enumerate(touches) if re.search(pattern, line)]
    assert found, f"no touch fits {pattern!r}: the engine saves in another way now, adapt MOMENTS"
    return found[0]


def assert_whole(folder):
    "What the run would go on from, if anything, is whole."
    found = last_checkpoint(folder)
    assert found is None or (damaged_files(found) == [] and json.loads((found / "progress.json").read_text())["step"] == int(found.name[5:]))
    return found


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_the_run_left_alone(run, alone, moment):
    killed = run("run", kill_at=touch(alone[1], MOMENTS[moment]))
    assert killed.exitcode == -signal.SIGKILL
    saved = assert_whole(run.place / "run")
    assert run("run", resume=True, log=str(run.place / "touches")).exitcode == 0
    assert_equal(run.place / "run", alone[0])
    redone = re.findall(r"mkdtemp .*/\.step-(\d+)", (run.place / "touches").read_text(encoding="utf-8"))
    assert saved is None or not [step for step in redone if step <= saved.name[5:]], "steps that a checkpoint held were done again"
    assert "finished" not in moment or redone == [], "the whole run was done again"


def test_resumed_again_and_again(run, alone):
    resume = False
    for k in (60, 45, 30, 20):
        killed = run("run", kill_at=k, resume=resume)
        assert killed.exitcode == -signal.SIGKILL
        resume = True
    assert run("run", resume=True).exitcode == 0
    assert_equal(run.place / "run", alone[0])


def test_killed_from_outside_when_an_aside_folder_appears(run, alone):
    process, until = run("run", wait=False), time.time() + 60
    while process.is_alive() and not list((run.place / "run" / "checkpoints").glob(".step-*")) and time.time() < until:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert_whole(run.place / "run")
    assert run("run", resume=True).exitcode == 0
    assert_equal(run.place / "run", alone[0])


def test_ctrl_c_saves_and_goes_on(run, alone):
    stopped = run("run", kill_at=touch(alone[1], "os.rename .*step-00000012"), number=signal.SIGINT)
    assert stopped.exitcode == 1
    saved = assert_whole(run.place / "run")
    assert int(saved.name[5:]) in (12, 13), "the step that was under way is the last"
    assert run("run", resume=True).exitcode == 0
    assert outcome(run.place / "run")[:3] == outcome(alone[0])[:3]      # the history has one row more, that of the step of Ctrl-C
    assert not [p for p in run.place.rglob(".*")]


def test_a_streamed_corpus_resumes_too(run):
    assert run("alone", streamed=True).exitcode == 0
    assert run("run", streamed=True, kill_at=60).exitcode == -signal.SIGKILL
    assert run("run", streamed=True, resume=True).exitcode == 0
    assert_equal(run.place / "run", run.place / "alone")


def test_a_mixture_of_experts_resumes_too(run):
    choices = dict(experts=True, best=True, evaluations=3, learning_rate=0.3, schedule="constant")           # so that the best weights are not the last
    assert run("alone", **choices).exitcode == 0
    assert run("run", kill_at=100, **choices).exitcode == -signal.SIGKILL
    assert last_checkpoint(run.place / "run")
    assert run("run", resume=True, **choices).exitcode == 0
    assert_equal(run.place / "run", run.place / "alone")
    facts = json.loads((run.place / "run" / "lmnotes.json").read_text())
    assert facts["loss_after"] <= min(h["validation_loss"] for h in facts["history"] if "validation_loss" in h)


def test_a_folder_in_use_is_not_touched_by_another_run(run, alone):
    first = run("run", wait=False, steps=400)
    until = time.time() + 60
    while not list((run.place / "run" / "checkpoints").glob("step-*")) and time.time() < until:
        time.sleep(0.01)
    for resume in (False, True):
        assert run("run", resume=resume, overwrite=not resume, steps=400).exitcode == 1
    assert f"in use by another run (process {first.pid})" in (run.place.parent / "stderr").read_text(encoding="utf-8")
    first.join(120)
    assert first.exitcode == 0 and verify(run.place / "run") == []


# ---- damage

@pytest.fixture(scope="module")
def stopped(work, alone):
    "A run that was killed when it had two checkpoints."
    (work / "stopped").mkdir()
    process = CONTEXT.Process(target=_run, args=(str(work / "stopped"), "run", {}), kwargs={"kill_at": touch(alone[1], r"open .*/\.step-00000018.*/progress\.json")})
    process.start()
    process.join(120)
    assert len(list((work / "stopped" / "run" / "checkpoints").glob("step-*"))) == 2
    return work / "stopped" / "run"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "progress.json", "config.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["truncated", "one bit", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(stopped, tmp_path, caplog, name, damage):
    shutil.copytree(stopped / "checkpoints", tmp_path / "checkpoints")
    before, newest = sorted((tmp_path / "checkpoints").glob("step-*"))
    path = newest / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:len(data) // 2] if damage == "truncated" else data[:40] + bytes([data[40] ^ 1]) + data[41:])
    if (name, damage) == ("SHA256SUMS", "truncated"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < len(data.splitlines())
    assert last_checkpoint(tmp_path) == before
    assert newest.name in caplog.text and (name in caplog.text or name == "SHA256SUMS")


def test_a_run_goes_on_from_the_checkpoint_before_the_damaged_one(run, alone):
    assert run("run", kill_at=100).exitcode == -signal.SIGKILL
    newest = sorted((run.place / "run" / "checkpoints").glob("step-*"))[-1]
    weights = newest / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 7)
    assert run("run", resume=True).exitcode == 0
    assert_equal(run.place / "run", alone[0])
    assert f"{newest.name} is left out: model.safetensors" in (run.place.parent / "stderr").read_text(encoding="utf-8")


@pytest.mark.parametrize("left", [0, 70], ids=["empty", "cut"])
def test_a_run_goes_on_where_the_list_of_checksums_is_lost(run, alone, left):
    assert run("run", kill_at=100).exitcode == -signal.SIGKILL
    newest = sorted((run.place / "run" / "checkpoints").glob("step-*"))[-1]
    os.truncate(newest / "SHA256SUMS", left)
    (newest / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"holds checkpoints/{newest.name}/notes.txt, which is no result of a run"):
        check_output_dir(run.place / "run", True)
    (newest / "notes.txt").unlink()
    assert run("run", resume=True).exitcode == 0
    assert_equal(run.place / "run", alone[0])


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_has_the_name_of_a_checkpoint_and_is_none_is_kept_and_the_remedy_told(stopped, tmp_path, kind):
    shutil.copytree(stopped, tmp_path / "run")
    strange = tmp_path / "run" / "checkpoints" / "step-00000099"
    strange.write_text("mine") if kind == "file" else strange.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="holds checkpoints/step-00000099, which is no result of a run: .*move it elsewhere or choose another folder"):
        check_output_dir(tmp_path / "run", True)
    assert strange.is_symlink() or strange.read_text() == "mine"
    strange.unlink()
    check_output_dir(tmp_path / "run", True)


def _run_with_full_disk(place, name, bytes_left):
    "A run for which, after its first checkpoint, no file can be longer than this: writes fail as on a full disk."
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    rename = os.rename

    def then_full(source, target, **options):
        rename(source, target, **options)
        if "step-00000012" in str(target):
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, bytes_left))
    os.rename = then_full
    _run(place, name, {})


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are of Unix")
@pytest.mark.parametrize("bytes_left", [0, 3000, 40_000])                # in the first file, in the weights, in the optimizer's state
def test_a_full_disk_leaves_the_earlier_checkpoint(run, alone, bytes_left):
    process = CONTEXT.Process(target=_run_with_full_disk, args=(str(run.place), "run", bytes_left))
    process.start()
    process.join(120)
    assert process.exitcode == 1
    assert assert_whole(run.place / "run").name == "step-00000012"
    assert not list((run.place / "run" / "checkpoints").glob(".*")), "what was half written is gone"
    assert run("run", resume=True).exitcode == 0
    assert_equal(run.place / "run", alone[0])


# ---- a resumed run is the same run, or is refused

def _resume(stopped, tmp_path, corpus=None, tokenizer=None, model=None, **changes):
    "Resume a copy of the stopped run in this process."
    shutil.copytree(stopped, tmp_path / "run")
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(stopped.parent.parent / "tokenizer")
    return pretrain(corpus or _corpus(), tokenizer, model or _config(), tmp_path / "run", resume=True, **{**TINY, **changes})


@pytest.mark.parametrize("name", ["corpus", "tokenizer", "model", "learning_rate", "block_size", "seed", "steps"])
def test_resuming_something_else_is_refused_by_name(stopped, tmp_path, name):
    bigger = _config()
    bigger.intermediate_size = 96
    other = {"corpus": DatasetDict(train=Dataset.from_dict({"text": TEXTS[::-1]}), validation=Dataset.from_dict({"text": TEXTS[:10]})),
             "tokenizer": train_tokenizer(TEXTS, vocab_size=90, progress=False), "model": bigger, "learning_rate": 1e-5, "block_size": 8, "seed": 7, "steps": 50}
    with pytest.raises(ValueError, match=f"another .*{name}"):
        _resume(stopped, tmp_path, **{name: other[name]})
    content = lambda folder: {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and "/." not in str(p.relative_to(folder))}
    assert content(stopped) == content(tmp_path / "run"), "the refused run is as it was, but for half-written leftovers"


def test_a_run_that_goes_on_in_other_parts_says_so_in_our_words(stopped, tmp_path, monkeypatch, caplog):
    "And one that goes on in the same says nothing."
    progress = json.loads((last_checkpoint(stopped) / "progress.json").read_text(encoding="utf-8"))
    assert (progress["processes"], progress["accumulation"]) == (1, 1)
    monkeypatch.setattr(trainer, "compare_trainer_and_checkpoint_args", own := lambda *_: pytest.fail("the library compares, too"))
    _resume(stopped, tmp_path, accumulation=2)
    assert re.findall("goes on with .*", caplog.text) == ["goes on with 1 process and accumulation 2 in place of 1 and 1: the same data in each step, but other random numbers where the model has dropout, and another balance where it has experts"]
    assert trainer.compare_trainer_and_checkpoint_args is own
    caplog.clear()
    for saved in ({}, {"processes": 1, "accumulation": 1}, {"processes": 2, "accumulation": 1}):
        pretraining._tell_of_other_parts("run", saved, PretrainingOptions(steps=1))
    assert [r.getMessage()[:55] for r in caplog.records] == ["the run in run goes on with 1 process in place of 2: th"]


def test_what_a_user_put_into_a_folder_outlives_a_kill(stopped, tmp_path):
    "The new folder had its name, and what no run wrote was not carried over yet: the lock knows the number of the run that was killed."
    shutil.copytree(stopped, tmp_path / "run"), shutil.copytree(stopped, tmp_path / ".run-old-77")
    (tmp_path / ".run-old-77" / "notes.txt").write_text("a week")
    pretraining._recover(tmp_path / "run", "77", 0)
    assert (tmp_path / "run" / "notes.txt").read_text() == "a week" and os.listdir(tmp_path) == ["run"]


def test_a_finished_run_is_not_done_again(alone, tmp_path):
    shutil.copytree(alone[0], tmp_path / "run")
    before = (tmp_path / "run" / "lmnotes.json").read_bytes()
    try:
        result = pretrain(_corpus(), AutoTokenizer.from_pretrained(tmp_path / "run"), _config(), tmp_path / "run", resume=True, **TINY)
    except ValueError as error:
        assert "complete" in str(error) or "finished" in str(error)
    else:
        assert result.steps == TINY["steps"]
    assert (tmp_path / "run" / "lmnotes.json").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    tokenizer = train_tokenizer(TEXTS, vocab_size=90, progress=False)
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        for resume in (False, True):
            with pytest.raises(OSError, match="file"):
                pretrain(_corpus(), tokenizer, _config(), place, resume=resume, **TINY)
    assert os.listdir(tmp_path) == ["file"]


def _write_as_nobody(place, report):
    "Try to pretrain into a locked folder, as a user without rights."
    tokenizer = train_tokenizer(TEXTS, vocab_size=90, progress=False)
    file = open(report, "w", encoding="utf-8")
    if os.getuid() == 0:
        os.setresuid(65534, 65534, 65534)
    try:
        pretrain(_corpus(), tokenizer, _config(), Path(place) / "run", **TINY)
    except PermissionError as error:
        file.write(str(error))
    file.close()


@pytest.mark.skipif(sys.platform == "win32", reason="rights of folders are of Unix")
def test_a_locked_folder_is_named(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "locked"
        place.mkdir()
        os.chmod(folder, 0o755), os.chmod(place, 0o555)
        process = CONTEXT.Process(target=_write_as_nobody, args=(str(place), str(tmp_path / "report")))
        process.start()
        process.join(120)
        assert "output_dir" in (tmp_path / "report").read_text() and str(place) in (tmp_path / "report").read_text()
        assert os.listdir(place) == []
        os.chmod(place, 0o755)
