"""The repository agrees with itself: versions, requirements, pages, sidebar, and what a wheel holds."""
import ast
import base64
import configparser
import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def place(stem):
    "Where a page stands in the book: by number, 08a and 08b after 08; what has no number comes last."
    number = re.match(r"(\d+)([a-z]?)_", stem)
    return (0, int(number[1]), number[2], stem) if number else (1, 0, "", stem)


NOTEBOOKS = sorted((p for p in (ROOT / "nbs").glob("*.ipynb") if not p.name.startswith("_")), key=lambda p: place(p.stem))
CHAPTERS = [p for p in NOTEBOOKS if p.stem not in ("index", "glossary")]
CHINESE = sorted((ROOT / "nbs" / "zh").glob("*.ipynb"))
MODULES = sorted(p for p in (ROOT / "lmnotes").glob("*.py") if p.name != "_modidx.py")
DISTRIBUTIONS = {"sklearn": "scikit-learn", "rouge_score": "rouge-score", "huggingface_hub": "huggingface-hub", "stdnum": "python-stdnum"}    # modules whose distribution has another name
NOT_IMPORTED = {"accelerate"}                                  # transformers' Trainer needs it, and does not require it
NOTEBOOK_ONLY = {"IPython", "ipywidgets"}                      # imported only where a notebook has them already
FIGURES_WITHOUT_TEXT = set()                                   # pages in which a figure lacks `#| fig-alt`: none
ABSOLUTE = re.compile(r"(?:/tmp|/work|/root|/home/\w|/Users/\w|/usr/l|/opt|/private|[A-Z]:\\Users)[/\\]?[\w.-]*")


def settings():
    "What settings.ini says."
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def name_of(requirement):
    "The normalised name of a requirement or a constraint."
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


def cells(path, kind=None):
    "The cells of a notebook, with their source as one string."
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found if kind in (None, cell["cell_type"])]


def constraints(name):
    "Constraints as a list of (name, version, marker)."
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    rows = [re.fullmatch(r"([\w.-]+)==([\w.+]+)(?: ; (.+))?", line) for line in lines if line]
    assert all(rows), f"{name} has a line that is not an exact version"
    return [(name_of(row[1]), row[2], row[3]) for row in rows]


def imported(path):
    "Top-level modules from elsewhere that a file imports, in functions too."
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"lmnotes"}


# ---- versions and requirements

def test_version_is_the_same_everywhere():
    import lmnotes
    version = settings()["version"]
    assert lmnotes.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "lmnotes.cli", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert version in (done.stdout or version)


def test_requirements_are_what_the_package_imports():
    required = {name_of(r) for r in settings()["requirements"].split()}
    found = {module for path in MODULES for module in imported(path)} - NOTEBOOK_ONLY
    found = {DISTRIBUTIONS.get(module, module).lower() for module in found}
    assert found - required == set(), "imported by lmnotes/, absent from requirements in settings.ini"
    assert required - found - NOT_IMPORTED == set(), "in requirements of settings.ini, imported nowhere in lmnotes/"


def test_package_imports_nothing_of_nbdev():
    for path in MODULES:
        assert not imported(path) & {"nbdev", "fastcore", "execnb", "ghapi"}, path.name


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_constraints_are_exact_and_cover_the_requirements(name):
    rows = constraints(name)
    assert {name_of(r) for r in settings()["requirements"].split()} <= {row[0] for row in rows}
    assert not any(row[0].startswith(("nvidia-", "triton")) for row in rows)
    seen = {}
    for package, version, marker in rows:                       # two versions need two markers
        seen.setdefault(package, []).append(marker)
    assert all(len(markers) == 1 or (None not in markers and len(set(markers)) == len(markers)) for markers in seen.values())


def test_constraints_cover_the_development_requirements():
    assert {name_of(r) for r in settings()["dev_requirements"].split()} <= {row[0] for row in constraints("constraints.txt")}


def test_oldest_versions_are_the_stated_lower_bounds():
    oldest = {package: version for package, version, _ in constraints("constraints-oldest.txt")}
    for requirement in settings()["requirements"].split():
        package, bound = requirement.split(">=")
        numbers = lambda version: [int(part) for part in re.findall(r"\d+", version)]
        stated, pinned = numbers(bound), numbers(oldest[name_of(package)])
        assert pinned[:len(stated)] == stated, f"{requirement}, but the oldest tested is {oldest[name_of(package)]}"


def test_import_is_light():
    code = "import sys, lmnotes; print([m for m in ('torch', 'transformers', 'datasets', 'numpy', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "[]"


# ---- pages

@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_page_begins_with_title_and_one_line(path):
    lines = cells(path)[0]["source"].strip().splitlines()
    assert cells(path)[0]["cell_type"] == "markdown" and len([line for line in lines if line]) == 2
    assert lines[0].startswith("# ") and lines[-1].startswith("> ")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_page_has_its_badge_and_its_end(path):
    prose = "\n".join(cell["source"] for cell in cells(path, "markdown"))
    assert f"colab-badge.svg)](https://colab.research.google.com/github/lmnotes/lmnotes/blob/main/nbs/{path.name})" in prose
    assert re.findall(r"^## .*", prose, re.M)[-3:] == ["## Summary", "## Exercises", "## References"]
    exercises = prose.split("\n## Exercises")[1].split("\n## References")[0]
    assert exercises.count("<details") == exercises.count("</details>") == 3


@pytest.mark.parametrize("path", [*NOTEBOOKS, *CHINESE], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_page_stores_clean_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"]
    for cell in cells(path, "code"):
        for output in cell["outputs"]:
            where = f"{path.name}, the cell that begins {cell['source'][:60]!r}"
            assert output["output_type"] != "error" and output.get("name") != "stderr", where
            data = {"text/plain": output.get("text", ""), **output.get("data", {})}
            assert "application/vnd.jupyter.widget-view+json" not in data, where
            texts = ["".join(value) for kind, value in data.items() if kind.startswith("text/")]
            assert not [found for text in texts for found in ABSOLUTE.findall(re.sub(r"https?://\S+|base64,\S+", "", text))], where
            if "image/png" in data:
                assert base64.b64decode("".join(data["image/png"])).startswith(b"\x89PNG"), where


@pytest.mark.parametrize("path", [*CHAPTERS, *CHINESE], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_figures_have_alternative_text(path, request):
    if path.stem in FIGURES_WITHOUT_TEXT:
        request.applymarker(pytest.mark.xfail(reason="a figure of this page still lacks `#| fig-alt`", strict=True))
    for cell in cells(path, "code"):
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            assert re.search(r"^#\| *fig-alt: *\S", cell["source"], re.M), f"{path.name}: {cell['source'][:80]!r}"


@pytest.mark.parametrize("path", [*NOTEBOOKS, *CHINESE], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_page_has_distinct_cell_ids_and_was_run(path):
    found = [cell["id"] for cell in cells(path)]
    assert len(found) == len(set(found))
    assert any(cell["outputs"] for cell in cells(path, "code"))


def test_rooms_import_only_earlier_rooms():
    room = {}
    for path in NOTEBOOKS:
        exp = re.search(r"^#\| *default_exp +(\w+)", "\n".join(c["source"] for c in cells(path, "code")), re.M)
        if exp:                                                 # the questions and the glossary are no rooms
            room[exp[1]] = path.stem
    for path in MODULES:
        if path.stem == "__init__":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in [n for n in tree.body if isinstance(n, ast.ImportFrom)]:
            if node.module and (node.level or node.module.startswith("lmnotes.")):
                other = node.module.removeprefix("lmnotes.").split(".")[0]
                assert other not in room or place(room[other]) < place(room[path.stem]), f"{path.name} imports {other}"


@pytest.mark.parametrize("path", CHINESE, ids=lambda p: p.stem)
def test_chinese_page_uses_the_package_and_exports_nothing(path):
    first = [line for line in cells(path)[0]["source"].splitlines() if line]
    assert first[0].startswith("# ") and first[1].startswith("> ") and first[2:] == ["- lang: zh", "- open-graph: {locale: zh_CN}"]
    code = "\n".join(cell["source"] for cell in cells(path, "code"))
    assert "lmnotes" in code and not re.search(r"^#\| *(export|exports|default_exp)\b", code, re.M)
    prose = "".join(cell["source"] for cell in cells(path, "markdown"))
    assert f"blob/main/nbs/zh/{path.name})" in prose and len(re.findall(r"[\u4e00-\u9fff]", prose)) > 300


def test_every_notebook_first_installs_the_package_where_it_is_missing(capsys):
    pytest.importorskip("nbformat")
    spec = importlib.util.spec_from_file_location("first_cell", ROOT / "tools" / "first_cell.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main(["--check"]) == 0, capsys.readouterr().out
    pytest.importorskip("IPython")
    from IPython.core.inputtransformer2 import TransformerManager
    source = TransformerManager().transform_cell(tool.SOURCE)
    for found, expected in ((object(), []), (None, [("pip", "install --quiet git+https://github.com/lmnotes/lmnotes")])):
        calls, original = [], importlib.util.find_spec
        shell = type("Shell", (), {"run_line_magic": lambda self, *args: calls.append(args)})()
        importlib.util.find_spec = lambda name: found
        try:
            exec(source, {"get_ipython": lambda: shell})
        finally:
            importlib.util.find_spec = original
        assert calls == expected


def test_glossary_is_in_order_and_leads_to_pages():
    lines = [line for cell in cells(ROOT / "nbs" / "glossary.ipynb", "markdown") for line in cell["source"].splitlines() if line.startswith("- ")]
    rows = [re.fullmatch(r"- \*\*(.+?)\*\*(?: \((.+?)\))?: (.+[.?]) \[(.+?)\]\((\w+\.ipynb)\)", line) for line in lines]
    assert all(rows), [line for line, row in zip(lines, rows) if not row]
    names = [re.sub(r"\W+", " ", row[1].casefold()) for row in rows]
    assert len(names) > 50 and names == sorted(set(names))
    assert all((ROOT / "nbs" / row[5]).is_file() for row in rows)


def test_index_lists_every_chapter_in_order():
    prose = "\n".join(cell["source"] for cell in cells(ROOT / "nbs" / "index.ipynb", "markdown"))
    table = prose.split("## The chapters")[1].split("\n## ")[0]
    assert re.findall(r"^\| \[.+?\]\((\w+\.ipynb)\)", table, re.M) == [*(p.name for p in CHAPTERS), "glossary.ipynb"]


def test_the_ablation_on_the_page_is_that_of_the_benchmark():
    page = "".join("".join(cell["source"]) for cell in json.loads((ROOT / "nbs" / "05_pretraining.ipynb").read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "markdown")
    shown = re.findall(r"^\| .+ \| (\d\.\d{4}) \| (\d+\.\d) \|$", page, re.M)
    measured = json.loads((ROOT / "benchmarks" / "results" / "pretraining-ablation.json").read_text(encoding="utf-8"))["rows"]
    assert len(measured) == 10 and shown == [(f"{row['validation loss (nats)']:.4f}", f"{row['ms a step']:.1f}") for row in measured]
    loss = {row["without"].split(" (")[0]: row["validation loss (nats)"] for row in measured}
    costs = {name: loss[name] - loss["nothing"] for name in loss}
    assert (f"the size of the steps ({costs['large steps']:.2f} nats), Muon, which alone bears steps that large ({costs['Muon']:.2f}), the architecture as a whole ({costs['all of the architecture']:.2f}), "
            f"and now the decay, too ({costs['linear decay']:.2f})") in page and f"a Llama with its gated units is even {-costs['query-key norm and squared ReLU']:.2f} better" in page


def test_stories_on_the_page_of_perplexity_are_those_of_the_benchmark():
    page = "\n".join(cell["source"] for cell in cells(ROOT / "nbs" / "07_perplexity.ipynb", "markdown"))
    measured = [line for line in (ROOT / "benchmarks" / "results" / "stories.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len(measured) == 8 and "\n".join(measured) in page and "benchmarks/results/stories.md" in page and "4.46635" in measured[-1] and "of 4.47 per token" in page


def test_fine_tuning_on_the_page_is_that_of_the_benchmark():
    rows = json.loads((ROOT / "benchmarks" / "results" / "finetuning.json").read_text(encoding="utf-8"))["rows"]
    code = next(cell["source"] for cell in cells(ROOT / "nbs" / "09_finetuning.ipynb", "code") if "measured = {" in cell["source"])
    shown = ast.literal_eval(next(node.value for node in ast.parse(code).body if isinstance(node, ast.Assign) and node.targets[0].id == "measured"))
    value = [row for row in rows if row["part"] == "value"]
    assert len(value) == sum(len(task[kind]) for task in shown.values() for kind in ("pretrained", "random twin")) > 20
    for row in value:
        task = shown[row["data"].removeprefix("docstrings/")]
        assert task[row["side"]][row["train_examples"]] == tuple(round(score, 3) for score in row["scores"])
    page = "\n".join(cell["source"] for cell in cells(ROOT / "nbs" / "09_finetuning.ipynb", "markdown"))
    table = re.findall(r"^\| (?!data \|).+? \| .+? \| (\d\.\d{3})(?: \(\d\.\d{3}\))? \| (\[.*?\]|) \| .*? \| (\d+\.\d) \|$", page, re.M)
    keys = {"sst2": "accuracy", "wnut17": "span_f1", "ewt": "token_accuracy", "sms": "spam_f1", "rte": "accuracy", "cola": "matthews_correlation", "squad": "token_f1"}
    real = [row for part in keys for row in rows if row["part"] == part]
    intervals = ["" if row["part"] == "sms" else f"[{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]" for row in real]
    log = (ROOT / "benchmarks" / "LOG.md").read_text(encoding="utf-8")
    chosen, = re.findall(r"validation split \(span F1 ([\d., ]+)\).+ they had (0\.\d+) and (0\.\d+)\.", page)
    assert all(number in log for number in (*chosen[0].split(", "), *chosen[1:]))
    assert len(table) >= 6 and table == [(f"{row[keys[row['part']]]:.3f}", interval, f"{row['minutes']:.1f}") for row, interval in zip(real, intervals)]
    chinese = {kind: [row["accuracy"] for row in rows if row["part"] == "thucnews" and row["side"] == kind] for kind in ("pretrained", "random twin")}
    in_words = {kind: "{:.3f}, {:.3f} and {:.3f}".format(*values) for kind, values in chinese.items()}
    assert f"has {in_words['pretrained']} of 10,000 test headlines right with 500, 2,000 and 10,000" in page and f"from random weights {in_words['random twin']}." in page
    assert f"with 500 pretraining is worth {100 * (chinese['pretrained'][0] - chinese['random twin'][0]):.0f} points" in page
    counted = "{:.3f}, {:.3f} and {:.3f}".format(*[row["accuracy"] for row in rows if row["part"] == "characters"])
    assert f"counts of one and two characters, which has {counted} (`--only characters`)" in page


def test_products_on_the_page_are_those_of_the_benchmark():
    measured = json.loads((ROOT / "benchmarks" / "results" / "products.json").read_text(encoding="utf-8"))
    row, = [row for row in measured["rows"] if row["shape"] == "4096 x 256 x 1024"]
    short = [row for row in measured["attention"] if row["tokens"] <= 128]
    page = "\n".join(cell["source"] for cell in cells(ROOT / "nbs" / "04_transformer.ipynb", "markdown"))
    assert f"about twice as fast by oneDNN ({row['MKL, fp32']} and {row['oneDNN, fp32']} billion operations a second" in page and 1.8 < row["times MKL"] < 2.5
    assert f"({min(row['times fused'] for row in short)} to {max(row['times fused'] for row in short)} times for texts of 8 to 128 tokens" in page
    assert all(float(row["mean error, plain"]) < 2 * float(row["mean error, fused"]) for row in short)
    row, = [row for row in measured["gelu"] if row["type"] == "bfloat16"]
    assert f"{row['PyTorch, ms']} ms by PyTorch, {row['at once, ms']} at once" in page and float(row["mean error, at once"]) < float(row["mean error, PyTorch"])


def test_what_the_rows_of_the_embeddings_cost_is_that_of_the_benchmark():
    measured = json.loads((ROOT / "benchmarks" / "results" / "finetuning.json").read_text(encoding="utf-8"))
    row, = [row for row in measured["rows"] if row.get("side") == "all rows of the embeddings"]
    page = "\n".join(cell["source"] for cell in cells(ROOT / "nbs" / "09_finetuning.ipynb", "markdown"))
    assert f"this takes {round(100 * (row['share_of_all_ways'] - 1))} % of a step (`python benchmarks/finetuning.py --only ways`)" in page


def test_translation_on_the_page_is_that_of_the_benchmark():
    page = "\n".join(cell["source"] for cell in cells(ROOT / "nbs" / "08b_generation.ipynb", "markdown"))
    measured, written = re.findall(r"^\|(?:.+\|\n)+", (ROOT / "benchmarks" / "results" / "translation.md").read_text(encoding="utf-8"), re.M)
    assert len(measured.splitlines()) == 8 and measured in page and written in page
    facts = json.loads((ROOT / "benchmarks" / "results" / "translation.json").read_text(encoding="utf-8"))
    low, high = facts["interval of BLEU"]
    assert f"{facts['with beams']['bleu']} [{low}, {high}]; the source copied as it is has {facts['source copied']}" in page


def test_the_report_on_evaluation_is_made_from_its_numbers():
    spec = importlib.util.spec_from_file_location("evaluation", ROOT / "benchmarks" / "evaluation.py")
    evaluation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(evaluation)
    results = ROOT / "benchmarks" / "results"
    assert evaluation.report(json.loads((results / "evaluation.json").read_text(encoding="utf-8"))) == (results / "evaluation.md").read_text(encoding="utf-8")


def test_memory_on_the_page_is_that_of_the_benchmark():
    page = "\n".join(cell["source"] for cell in cells(ROOT / "nbs" / "07_perplexity.ipynb", "markdown"))
    rows = json.loads((ROOT / "benchmarks" / "results" / "streams.json").read_text(encoding="utf-8"))["rows"]
    more = {(row["file, MB"], row["documents"]): row["more, MiB"] for row in rows}
    assert f"took {more[10, 'each by itself']} MiB beside the loaded model, one of 100 MB {more[100, 'each by itself']} MiB" in page and f"one of 100 MB took {more[100, 'one for the whole file']} MiB" in page


def test_measured_numbers_of_readme_stand_in_the_results():
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is measured")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \(\[(\w+)\]\(https://github\.com/lmnotes/lmnotes/blob/main/(benchmarks/results/\w+\.md)\)\) \|$", table, re.M)
    assert len(rows) >= 5
    for _, _, result, _, path in rows:
        text = (ROOT / path).read_text(encoding="utf-8")
        for number in re.findall(r"\d[\d.,]*(?:e-\d+)?(?<![.,])", result):
            assert number in text, f"{path} does not have {number}: the benchmark was run again, so change nbs/index.ipynb"


# ---- site

def test_sidebar_lists_every_notebook_in_order():
    yaml = pytest.importorskip("yaml")
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))

    def links(entries):
        for entry in entries:
            yield from [entry] if isinstance(entry, str) else [entry["href"]] if "href" in entry else links(entry["contents"])

    chinese = sorted((f"zh/{p.name}" for p in CHINESE), key=lambda name: (name != "zh/index.ipynb", name))
    sidebars = {sidebar["id"]: list(links(sidebar["contents"])) for sidebar in site["website"]["sidebar"]}
    assert sidebars == {"en": ["index.ipynb", *(p.name for p in CHAPTERS), "glossary.ipynb", "bibliography.qmd"], "zh": chinese}
    assert set(site["format"]["html"]["theme"]) == {"light", "dark"}
    assert (ROOT / "nbs" / "_quarto.yml").resolve() == ROOT / "_quarto.yml"


# ---- files and distribution

def test_files_that_a_stranger_looks_for():
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", ".gitignore"):
        assert (ROOT / name).stat().st_size, name
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    ci = ROOT / ".ci" / "run"
    assert ci.stat().st_mode & 0o111 and "make test" in ci.read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.index("make demo") < readme.index("make test")


def test_nothing_is_unpickled_and_nothing_star_imported():
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)), path.name
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("pickle.load", "pickle.loads", "torch.load")), path.name


def test_make_says_what_it_can_do():
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for target in ("demo", "test", "test-oldest", "notebooks", "docs", "lab", "clean"):
        assert f"make {target} " in done.stdout


def test_make_names_the_remedy_for_an_old_python(tmp_path):
    old = tmp_path / "python"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$(printf "import sys\\nsys.version_info = (3, 9, 1)\\nsys.version = \\"3.9.1 x\\"\\n%s" "$2")"\n', encoding="utf-8")
    old.chmod(0o755)
    done = subprocess.run(["make", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", "demo"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Python 3.10 or newer is needed, this is 3.9.1" in done.stderr and "PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_wheel_holds_the_package_and_the_command(tmp_path):
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "lmnotes").mkdir()
    for path in (ROOT / "lmnotes").iterdir():
        if path.is_file():
            (source / "lmnotes" / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel, = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
        metadata = archive.read(f"{info}/METADATA").decode()
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert {f"lmnotes/{path.name}" for path in MODULES} | {"lmnotes/py.typed"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"lmnotes", info}
    assert "lmnotes = lmnotes.cli:main" in entry_points
    required = {name_of(line.split(": ")[1]) for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line}
    assert required == {name_of(r) for r in settings()["requirements"].split()}
    assert f"Version: {settings()['version']}" in metadata and "Requires-Python: >=3.10" in metadata
    assert f"{info}/licenses/LICENSE" in names


@pytest.mark.parametrize("path", [*NOTEBOOKS, *CHINESE], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_each_name_of_a_page_is_defined_and_each_import_used(path):
    "A name that an edit left without its import, also in cells that run only on CUDA."
    checker, messages = pytest.importorskip("pyflakes.checker"), pytest.importorskip("pyflakes.messages")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    plain = [re.match(r"\s*", line)[0] + "pass" if line.lstrip().startswith(("%", "!")) else line for line in lines]      # magics
    found = checker.Checker(ast.parse("\n".join(plain)), path.name).messages
    wrong = [str(m) for m in found if isinstance(m, (messages.UndefinedName, messages.UnusedImport, messages.UndefinedLocal))]
    assert not wrong, wrong


@pytest.mark.parametrize("path", [*NOTEBOOKS, *CHINESE], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_solutions_stay_inside_their_fold(path):
    "A fold of several paragraphs under a list item is indented; else the list ends, and the solution lies open below it."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        lines = "".join(cell["source"]).splitlines() if cell["cell_type"] == "markdown" else []
        for n, line in enumerate(lines):
            assert not (n and line.startswith("<details>") and "</details>" not in line and re.match(r"\d+\. ", lines[n - 1])), line
