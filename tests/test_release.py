"""A release: what sdist and wheel say and hold, and the notes that are taken from CHANGELOG.md."""
import configparser
import email
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="setup.py is only in a checkout")


def settings():
    "What settings.ini says."
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def checkout(folder):
    "A copy of what the package is built from."
    folder.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "lmnotes", folder / "lmnotes", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "Sdist, and the wheel that is made from it: (sdist, wheel)."
    pytest.importorskip("build.__main__")                       # `build` alone is also the folder that building leaves behind
    home = tmp_path_factory.mktemp("release")
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(home / "dist"), str(checkout(home / "source"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    sdist, = (home / "dist").glob("*.tar.gz")
    wheel, = (home / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def metadata(built):
    "The wheel's metadata, as a message."
    with zipfile.ZipFile(built[1]) as archive:
        return email.message_from_bytes(archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))))


def test_twine_finds_nothing_to_say(built):
    pytest.importorskip("twine")
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, built)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_sdist_is_enough_to_build_from_and_holds_no_more(built):
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert set(FILES) <= names and "lmnotes/py.typed" in names and "lmnotes/theory.py" in names
    assert not [name for name in names if name.split("/")[0] in ("nbs", "tests", "benchmarks", "runs") or "__pycache__" in name]


def test_metadata_is_complete(metadata):
    said = settings()
    assert metadata["Name"] == said["lib_name"] and metadata["Version"] == said["version"] and metadata["Summary"] == said["description"]
    assert set(re.split(r"[,\s]+", metadata["Keywords"])) == set(said["keywords"].split())
    links = dict(value.split(", ", 1) for value in metadata.get_all("Project-URL"))
    assert {"Documentation", "Source", "Issues", "Changes"} <= set(links) and all(url.startswith("https://") for url in links.values())
    classifiers = metadata.get_all("Classifier")
    assert "Typing :: Typed" in classifiers and f"Programming Language :: Python :: {said['min_python']}" in classifiers
    assert metadata["License-Expression"] == "Apache-2.0" or metadata["License"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_description_has_no_link_that_leads_nowhere(metadata):
    text = metadata.get_payload()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 10 and all(link.startswith(("https://", "#")) for link in links)
    base = f"{settings()['git_url']}/"
    for link in links:
        inside = re.fullmatch(re.escape(base) + r"(?:blob|raw)/main/([^#]+)(?:#.*)?", link)
        assert not inside or (ROOT / inside[1]).exists(), link
    assert not text.lstrip().startswith("<!--")


def test_version_stands_in_one_place():
    version = settings()["version"]
    places = [path.name for path in (ROOT / "setup.py", ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "MANIFEST.in") if re.search(rf"\b{re.escape(version)}\b", path.read_text(encoding="utf-8"))]
    assert places == []
    assert f'__version__ = "{version}"' in (ROOT / "lmnotes" / "__init__.py").read_text(encoding="utf-8")      # nbdev writes it there from settings.ini


# ---- release notes

def tool():
    "tools/release_notes.py as a module."
    spec = importlib.util.spec_from_file_location("release_notes", ROOT / "tools" / "release_notes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notes_of_one_version():
    changes = "# Changes\n\n## 0.2.0 (unreleased)\n\n### Added\n- Two.\n\n## 0.1.0 — 2026-01-02\n\n- One.\n"
    notes = tool().notes
    assert notes(changes, "0.2.0") == "### Added\n- Two." and notes(changes, "v0.1.0") == "- One."
    with pytest.raises(KeyError, match="no version '0.3.0': it has 0.2.0, 0.1.0"):
        notes(changes, "0.3.0")
    assert notes("## 1.0\n", "1.0") == "" and notes("## 1.0", "1.0") == ""


def test_notes_of_this_version_are_printed():
    run = lambda *argv: subprocess.run([sys.executable, ROOT / "tools" / "release_notes.py", *argv], capture_output=True, text=True)
    done = run()
    assert done.returncode == 0 and done.stdout.startswith("###") and f"## {settings()['version']}" not in done.stdout.replace("###", "")
    absent = run("9.9.9")
    assert absent.returncode == 1 and absent.stdout == "" and absent.stderr.count("\n") == 1 and "9.9.9" in absent.stderr
