"""JupyterLab in a browser, on a fresh clone: a chapter runs by "Run All Cells" without an error, and pretraining shows its live curve."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = "nbs/zh/01_theory.ipynb"                               # the quickest page
LIMIT = 150                                                      # seconds for a notebook, on a busy machine
LIVE = """import lmnotes
texts = [f"the {a} {b} sees the {c}" for a in ("small", "large", "old", "new") for b in ("cat", "dog", "owl") for c in ("moon", "river", "house")] * 20
tokenizer = lmnotes.train_tokenizer(texts, vocab_size=80, progress=False)
from datasets import Dataset, DatasetDict
corpus = DatasetDict(train=Dataset.from_dict({"text": texts}), validation=Dataset.from_dict({"text": texts[:36]}))
result = lmnotes.pretrain(corpus, tokenizer, "bert-tiny", "runs/live", minutes=0.4, block_size=16, batch_size=4)
print("finished", result.loss_after < result.loss_before)"""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a fresh clone needs a repository of git")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    "A fresh clone of the repository, with one more notebook that pretrains."
    if shutil.which("git") is None:
        pytest.skip("git is not on this machine")
    folder = tmp_path_factory.mktemp("lab") / "lmnotes"
    done = subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cell = {"cell_type": "code", "id": "live0001", "metadata": {}, "execution_count": None, "outputs": [], "source": LIVE}
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    (folder / "nbs" / "live.ipynb").write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def lab(clone, tmp_path_factory):
    "Address of a JupyterLab on the clone."
    pytest.importorskip("jupyterlab")
    home = tmp_path_factory.mktemp("jupyter")
    said = home / "settings" / "@jupyterlab" / "apputils-extension"
    said.mkdir(parents=True)
    (said / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}', encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
                   "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={clone}", "--LabApp.collaborative=False"]
    with open(home / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=clone, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text(encoding="utf-8")[-2000:]
                time.sleep(0.25)
        else:
            pytest.fail("JupyterLab did not start: " + (home / "log").read_text(encoding="utf-8")[-2000:])
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def run_all(browser, address, path):
    "Open a notebook and choose Run, Run All Cells; give the page."
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.goto(f"{address}/lab/tree/{path}?reset", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector("#jp-main-statusbar >> text=/\\| Idle/")                                      # the kernel has started
    page.click("#jp-MainMenu >> text=Run")
    page.click(".lm-Menu-itemLabel >> text=/^Run All Cells$/")
    time.sleep(1)
    if page.locator(".jp-Dialog button.jp-mod-accept").count():                                       # on a slow machine JupyterLab asks for the kernel that is there
        page.click(".jp-Dialog button.jp-mod-accept")
    return page


def code_cells(path):
    "Code cells of a notebook that was saved, without those that hold directives only."
    found = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    return [cell for cell in found if any(line.strip() for line in "".join(cell["source"]).splitlines())]


def saved_when_done(page, path):
    "Save again and again until every cell has run; give the code cells."
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        time.sleep(2)
        page.keyboard.press("Control+s")
        time.sleep(1)
        try:
            cells = code_cells(path)
        except json.JSONDecodeError:                             # it is being written
            continue
        failed = ["".join(output["traceback"])[-800:] for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        assert not failed, failed[0]
        if all(cell["execution_count"] for cell in cells):
            return cells
    page.screenshot(path=os.environ.get("LMNOTES_SCREENSHOT", str(path.with_suffix(".png"))))
    pytest.fail(f"{path.name} did not finish in {LIMIT} s")


def test_a_chapter_runs_by_run_all(browser, lab, clone):
    page = run_all(browser, lab, CHAPTER)
    cells = saved_when_done(page, clone / CHAPTER)
    assert len(cells) > 8 and any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    page.wait_for_selector("mjx-container", state="attached")    # MathJax has set the formulas,
    assert page.locator("mjx-merror").count() == 0               # and understood all that are shown
    page.close()


def test_pretraining_shows_its_live_curve(browser, lab, clone):
    page = run_all(browser, lab, "nbs/live.ipynb")
    curve = page.wait_for_selector(".jp-OutputArea img", timeout=LIMIT * 1000)
    assert curve.evaluate("image => image.naturalWidth") > 200
    cell, = saved_when_done(page, clone / "nbs" / "live.ipynb")
    assert any("finished True" in "".join(output.get("text", "")) for output in cell["outputs"])
    page.close()
