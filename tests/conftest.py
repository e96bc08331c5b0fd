"""Fixtures of all tests: no hub, own cache, and the folders of real data where the machine has them."""
import os
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
