"""The tools of the repository: README from its notebook, the check that changes nothing, the runner of notebooks."""
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "tools").is_dir(), reason="tools/ is only in a checkout")


def tool(name):
    "Load a script of tools/ as a module."
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(source, *outputs):
    "A code cell with its outputs."
    return {"cell_type": "code", "id": "c", "metadata": {}, "execution_count": None, "source": source, "outputs": list(outputs)}


def prose(source):
    "A markdown cell."
    return {"cell_type": "markdown", "id": "m", "metadata": {}, "source": source}


def printed(text, name="stdout"):
    "What a cell printed."
    return {"output_type": "stream", "name": name, "text": text}


def result(data):
    "What a cell's last line gave."
    return {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data}


def notebook(*cells):
    "A notebook of these cells."
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


SAMPLE = notebook(
    prose("# lmnotes\n> One line"),
    prose(["Two ", "parts."]),
    code("#| default_exp __init__"),
    code("#| hide\nsecret = 1"),
    code("#| export\ndef exported(): pass"),
    code("#| fig-alt: a curve\nprint(1)", printed("1\n"), printed("a warning\n", "stderr")),
    code("draw()", result({"image/png": "AAAA", "text/plain": "<Figure size 640x480>"})),
    code("1 + 1", result({"text/plain": ["2"]})),
    code("#| echo: false\n"),
)


def test_readme_of_a_sample():
    made = tool("readme").readme(SAMPLE)
    assert "# lmnotes\n\n> One line" in made and "Two parts." in made
    assert "```python\nprint(1)\n```\n\n```text\n1\n```" in made
    assert "```python\n1 + 1\n```\n\n```text\n2\n```" in made
    assert "```python\ndraw()\n```" in made and made.endswith("```\n")
    for absent in ("#|", "secret", "exported", "default_exp", "warning", "Figure", "AAAA"):
        assert absent not in made, absent


@pytest.fixture
def checkout(tmp_path):
    "A checkout of one page, its module and the tools."
    (tmp_path / "nbs").mkdir()
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "nbs" / "index.ipynb").write_text(json.dumps(SAMPLE), encoding="utf-8")
    return tmp_path


def run(folder, *argv):
    "Run a tool of a checkout."
    return subprocess.run([sys.executable, folder / "tools" / argv[0], *argv[1:]], cwd=folder, capture_output=True, text=True)


def test_readme_is_written_and_checked(checkout):
    readme = checkout / "README.md"
    absent = run(checkout, "readme.py", "--check")
    assert absent.returncode == 1 and absent.stdout.count("\n") == 1 and not readme.exists()
    assert run(checkout, "readme.py").returncode == 0 and "Two parts." in readme.read_text(encoding="utf-8")
    assert run(checkout, "readme.py", "--check").returncode == 0
    readme.write_text(readme.read_text(encoding="utf-8") + "by hand\n", encoding="utf-8")
    differs = run(checkout, "readme.py", "--check")
    assert differs.returncode == 1 and "python tools/readme.py" in differs.stdout
    assert "by hand" in readme.read_text(encoding="utf-8")               # checking changed nothing


def test_readme_says_when_its_notebook_is_absent(checkout):
    (checkout / "nbs" / "index.ipynb").unlink()
    for argv in (["readme.py"], ["readme.py", "--check"]):
        done = run(checkout, *argv)
        assert done.returncode == 1 and "index.ipynb" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_check_finds_what_is_not_clean_or_not_exported_and_changes_nothing(checkout):
    pytest.importorskip("nbdev")
    page = notebook(prose("# Page\n> One line"), code("#| default_exp page"), code("#| export\ndef one():\n    \"One.\"\n    return 1"))
    page["cells"] = [{**cell, "id": f"cell{i:04d}"} for i, cell in enumerate(page["cells"])]
    target = checkout / "nbs" / "01_page.ipynb"
    target.write_text(json.dumps(page), encoding="utf-8")
    (checkout / "nbs" / "index.ipynb").write_text(json.dumps(notebook({**prose("# lmnotes\n> One line"), "id": "first001"})), encoding="utf-8")
    environment = Path(sys.executable).parent
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([environment / command], cwd=checkout, check=True, capture_output=True)
    assert run(checkout, "readme.py").returncode == 0
    clean = run(checkout, "check.py")
    assert clean.returncode == 0, clean.stdout + clean.stderr
    assert [line for line in clean.stdout.splitlines() if line.startswith("==")] == clean.stdout.splitlines()

    dirty = json.loads(target.read_text(encoding="utf-8"))
    dirty["cells"][2]["execution_count"] = 7
    dirty["cells"][2]["source"] = "#| export\ndef one():\n    \"One.\"\n    return 2"
    target.write_text(json.dumps(dirty), encoding="utf-8")
    before = {p: p.read_bytes() for p in checkout.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    found = run(checkout, "check.py")
    assert found.returncode == 1
    assert "nbdev_clean would change: 01_page.ipynb" in found.stdout and "nbdev_export would change: " in found.stdout and "page.py" in found.stdout
    after = {p: p.read_bytes() for p in checkout.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert before == after


def test_runner_stores_outputs_without_stderr_and_fails_on_an_error(tmp_path):
    pytest.importorskip("ipykernel")
    runner = tool("run_notebooks")
    page = tmp_path / "page.ipynb"
    cells = [code("import os, sys\nprint(sorted(os.listdir('.')))\nprint('progress', file=sys.stderr)"),
             code("#| eval: false\nraise ValueError('left out')", printed("kept\n")), code("#| cuda\nraise ValueError('left out')")]
    page.write_text(json.dumps(notebook(*[{**cell, "id": f"cell{i:04d}"} for i, cell in enumerate(cells)])), encoding="utf-8")
    untouched = page.read_bytes()
    runner.run(page, store=False)
    assert page.read_bytes() == untouched
    runner.run(page, store=True)
    stored = json.loads(page.read_text(encoding="utf-8"))["cells"]
    assert ["".join(o["text"]) for o in stored[0]["outputs"]] == ["[]\n"]   # an empty folder, and no stderr
    assert "".join(stored[1]["outputs"][0]["text"]) == "kept\n" and all(c["cell_type"] == "code" for c in stored)
    page.write_text(json.dumps(notebook({**code("1 / 0"), "id": "cell0000"})), encoding="utf-8")
    with pytest.raises(runner.CellExecutionError, match="ZeroDivisionError"):
        runner.run(page, store=True)


def test_runner_takes_the_package_from_its_wheel(tmp_path):
    pytest.importorskip("ipykernel")
    pytest.importorskip("nbclient")
    page = tmp_path / "page.ipynb"
    source = "import os, shutil, sys\nimport lmnotes, lmnotes.theory, torch\nassert sys.prefix in lmnotes.__file__, lmnotes.__file__\nassert not os.listdir('.')\nassert shutil.which('lmnotes').startswith(sys.prefix)"
    page.write_text(json.dumps(notebook({**code(source), "id": "cell0000"})), encoding="utf-8")
    done = subprocess.run([sys.executable, ROOT / "tools" / "run_notebooks.py", "--check", "--wheel", page], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "1 of 1 notebooks" in done.stdout, done.stdout + done.stderr


def test_the_reference_shows_every_section_of_a_docstring():
    pytest.importorskip("fastcore")
    docstring = "Do it.\n\nParameters\n----------\nx : int\n    A number.\n\nAttributes\n----------\ny : str\n    A word.\n\nYields\n------\nfloat\n    A share.\n\nRaises\n------\nValueError\n    If not.\n"
    text = tool("docentry").sections(docstring)
    for title, entry in (("Parameters", "**x** : *int*\n:   A number."), ("Attributes", "**y** : *str*\n:   A word."), ("Yields", "*float*\n:   A share."), ("Raises", "*ValueError*\n:   If not.")):
        assert f"**{title}**\n\n{entry}" in text, title


def test_links_to_private_names_are_taken_out_of_prepared_pages(tmp_path):
    pytest.importorskip("nbdev")
    link = "[`{0}`](https://lmnotes.github.io/lmnotes/pretraining.html#{0})"
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": [prose(f"{link.format('_gradient')}\nand {link.format('pretrain')}")]}), encoding="utf-8")
    tool("prepare_pages").finish(tmp_path)
    assert json.loads((tmp_path / "page.ipynb").read_text(encoding="utf-8"))["cells"][0]["source"] == ["`_gradient`\n", f"and {link.format('pretrain')}"]


def test_prepared_pages_fold_exported_source_and_lead_to_full_entries():
    pytest.importorskip("nbdev")
    finished = tool("prepare_pages").finished
    shown = '#| code-fold: show\n#| code-summary: "Exported source"\n'
    assert finished(code(f"{shown}def _f(): ...\n\nclass C:\n    def f(): ...")) == '#| code-fold: true\n#| code-summary: "Source of `_f`, `C`"\ndef _f(): ...\n\nclass C:\n    def f(): ...'
    assert finished(code(f"{shown}x = 1")) == '#| code-fold: true\n#| code-summary: "Source"\nx = 1'
    assert finished(code("f()")) == "f()"
    assert finished(prose("## References\n\n- A 2020")) == "## References\n\n- A 2020\n\nFull entries: [References](bibliography.qmd)."
    assert finished(prose("## 参考文献\n\n- A 2020")).endswith("\n\n完整书目：[References](../bibliography.qmd)。")
    assert finished(prose("Of references:\n\n- A 2020")) == "Of references:\n\n- A 2020"


def test_prepared_pages_wrap_printed_sentences_and_no_tables():
    pytest.importorskip("nbdev")
    finished, wrapped = tool("prepare_pages").finished, tool("prepare_pages").wrapped
    sentence, table = "ValueError: " + "a long refusal with its remedy " * 5, "preset        family        layers" + "        12" * 10
    shown = {"output_type": "execute_result", "data": {"text/plain": [f"Sizes({'layers=1, ' * 20})"]}}
    assert wrapped([printed(sentence)]) == wrapped([printed("short\n"), shown]) == ["wrap-narrow", "wrap-wide"]
    assert wrapped([printed(sentence[:60])]) == ["wrap-narrow"] and wrapped([printed(f"{table[:80]}\n{sentence}")]) == ["wrap-wide"]
    for outputs in ([], [printed("short\n")], [printed(table[:80])], [printed(f"{table}\n{sentence}\n")], [{**shown, "data": {**shown["data"], "text/html": ["<table>"]}}]):
        assert wrapped(outputs) == []
    assert finished(code("f()", printed(sentence))) == "#| classes: [wrap-narrow, wrap-wide]\nf()"


def test_the_finished_site_loads_nothing_and_finds_each_formula_once(tmp_path):
    formula = "<math><semantics><mrow>{0}</mrow><annotation encoding=\"application/x-tex\">{1}</annotation></semantics></math>"
    page = "<script src=\"https://cdnjs.cloudflare.com/jquery.js\"></script>\n<script type=\"application/javascript\">define('jquery', [])</script>\n<script src=\"own.js\"></script>\n"
    page += f"<p>Where we let {formula.format('<mi>n</mi>', 'n')} be {formula.format('<mi>x</mi><mo>&lt;</mo><mn>2</mn>', 'x &lt; 2')}, and <code>nn &amp; n</code>.</p>"
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "search.json").write_text(json.dumps([{"href": "page.html#a", "text": "Where we let nn be x&lt;2x &lt; 2, and nn & n."}]), encoding="utf-8")
    tool("finish_site").finish(tmp_path)
    assert json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))[0]["text"] == "Where we let n be x&lt;2, and nn & n."
    finished = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert finished.startswith('<script src="own.js">') and finished.count("<annotation") == 2
