"""Fixtures of all tests: no hub, own cache, and the folders of real data where the machine has them."""
import os
import shutil
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _shared(name):
    folder = Path(os.environ.get("LMNOTES_SHARED", ROOT.parent / "shared")) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine (set LMNOTES_SHARED to the folder that holds {name}/)")
    return folder


@pytest.fixture
def shared_data():
    "Folder of real data sets in hub layout."
    return _shared("data")


@pytest.fixture
def shared_models():
    "Folder of real pretrained models."
    return _shared("models")


CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    "Headless Chromium."
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is a development requirement: make test installs it")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package chromium to try pages and JupyterLab in a browser")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()
