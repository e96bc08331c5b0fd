"""The pages in a browser: nbdev's pre-processing, nbconvert to HTML, headless Chromium; no Quarto and no network.

Each page is opened at the width of a desk and of a telephone, light and dark. With a site rendered by `make docs`
in `_docs/` the same checks run on the real pages, too.
"""
import html
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
SITE = "https://lmnotes.github.io/lmnotes/"
COPIED = ("nbs", "lmnotes", "tools", "settings.ini", "pyproject.toml", "setup.py", "README.md", "_quarto.yml")
PAGES = sorted(str(p.relative_to(ROOT / "nbs").with_suffix("")) for p in (ROOT / "nbs").rglob("*.ipynb") if p.name[0] not in "_." and ".ipynb_checkpoints" not in p.parts)
MATHS = re.compile(r"\$\$.+?\$\$|(?<![\\$\w])\$[^\s$](?:[^$\n]*[^\s$\\])?\$(?!\d)", re.S)
pytestmark = pytest.mark.skipif(not (ROOT / "_quarto.yml").is_file(), reason="the site is only in a checkout")

# What a page looks like without Quarto: its own style sheet on what Bootstrap gives every page.
BASE = """
body { margin: 0; font: 16px/1.5 sans-serif; overflow-wrap: break-word; } main { max-width: 900px; margin: auto; padding: 0 12px; }
body.quarto-dark { background: #222; color: #fff; } body.quarto-dark a { color: #00bc8c; }
body.quarto-light { background: #fff; color: #343a40; } body.quarto-light a { color: #2761e3; }
img { max-width: 100%; height: auto; } pre { overflow-x: auto; } table { border-collapse: collapse; }
.highlight pre, .jp-OutputArea pre { background: transparent; }
"""


def slug(heading):
    "The anchor that Pandoc gives to a heading."
    text = re.sub(r"[^\w\s.-]", "", re.sub(r"`|\*|\[|\]\([^)]*\)", "", heading)).strip().lower()
    return re.sub(r"^[\W\d_]+", "", re.sub(r"\s+", "-", text)) or "section"


def output_name(name, notebook):
    "Path of a page on the site: nbdev leaves the chapter's number out."
    said = re.search(r"^output-file: (.+)$", "\n".join(sources(notebook)[:1]), re.M)
    return str(Path(name).parent / (said[1] if said else f"{Path(name).name}.html"))


def sources(notebook):
    "Markdown cells of a notebook, as strings."
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] in ("markdown", "raw")]


def without_code(text):
    "Markdown without its code."
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def anchors(notebook):
    "All anchors of a page: headings, and names that the documentation of a function sets."
    shown = ["".join(output.get("data", {}).get("text/markdown", "")) for cell in notebook["cells"] for output in cell.get("outputs", [])]
    text = "\n".join(re.sub(r"```.*?```", "", s, flags=re.S) for s in [*sources(notebook), *shown])
    return {slug(re.sub(r"\{.*\}$", "", m)) for m in re.findall(r"^#+ +(.+)$", text, re.M)} | set(re.findall(r"\{ ?#([\w.:-]+)", text)) | set(re.findall(r"""\b(?:id|name)=["']([^"']+)""", text))


@pytest.fixture(scope="session")
def processed(tmp_path_factory):
    "Every notebook after nbdev's pre-processing: name → notebook."
    pytest.importorskip("nbdev")
    copy = tmp_path_factory.mktemp("site") / "lmnotes"
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "runs"))
        else:
            shutil.copy2(source, copy / name)
    watched, called = copy.parent / "bin", copy.parent / "called"
    watched.mkdir()
    for name in ("pip", "sudo", "curl"):                       # what nbdev calls to install Quarto and the package
        (watched / name).write_text(f"#!/bin/sh\necho {name} >> {called}\n", encoding="utf-8")
        (watched / name).chmod(0o755)
    path = os.pathsep.join([str(watched), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(copy), "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "tools/prepare_pages.py", "--n_workers", "2"], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not called.exists(), f"preparing pages called {called.read_text()}"
    return copy / "_proc"


@pytest.fixture(scope="session")
def notebooks(processed):
    "Pre-processed notebooks by name."
    return {name: json.loads((processed / f"{name}.ipynb").read_text(encoding="utf-8")) for name in PAGES}


def site_style():
    "The site's rules of style, as a browser reads them."
    rules = (ROOT / "nbs" / "styles.scss").read_text(encoding="utf-8").split("/*-- scss:rules --*/")[1]
    return BASE + re.sub(r"^\s*//.*$", "", rules, flags=re.M)


@pytest.fixture(scope="session")
def pages(processed, notebooks):
    "Folder of HTML pages, each notebook with the site's rules of style."
    nbconvert, nbformat = pytest.importorskip("nbconvert"), pytest.importorskip("nbformat")
    exporter = nbconvert.HTMLExporter(template_name="basic")
    style = site_style()
    for name, notebook in notebooks.items():
        for cell in notebook["cells"]:
            alt = re.search(r"^#\| *fig-alt: *[\"']?(.+?)[\"']?$", "".join(cell["source"]), re.M)
            for output in cell.get("outputs", []):
                if alt and "image/png" in output.get("data", {}):
                    output["metadata"] = {"image/png": {"alt": alt[1]}}
        body, _ = exporter.from_notebook_node(nbformat.reads(json.dumps(notebook), as_version=4))
        title = re.search(r"^title: (.+)$", "\n".join(sources(notebook)[:1]), re.M)
        text = f"<!doctype html><html lang=en><head><meta charset=utf-8><link rel=icon href=data:,><meta name=viewport content='width=device-width, initial-scale=1'><title>{html.escape(title[1] if title else name)}</title><style>{style}</style></head><body class=quarto-light><main>{body}</main></body></html>"
        (processed / f"{name}.html").write_text(text, encoding="utf-8")
    return processed


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        "Say nothing."


def served(folder):
    "Serve a folder; give the server and its address."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="session")
def address(pages):
    "Where the pages are served."
    server, url = served(pages)
    yield url
    server.shutdown()


def opened(browser, url, width=1280):
    "A page that was opened, and what its console said; nothing outside this machine is reached."
    page = browser.new_page(viewport={"width": width, "height": 800})
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    local = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    page.route("**/*", lambda route: route.continue_() if route.request.url.startswith((local, "data:")) else route.fulfill(status=200, body=""))
    page.goto(url, wait_until="load")
    return page, said


WIDE = """() => [...document.querySelectorAll('main *')].filter(e => {
  let box = e.getBoundingClientRect();
  if (box.right <= window.innerWidth + 1 || !box.width) return false;
  for (let p = e; p && p !== document.body; p = p.parentElement) if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
  return true; }).map(e => e.outerHTML.slice(0, 120)).slice(0, 3)"""

DARK = "() => { document.body.classList.remove('quarto-light'); document.body.classList.add('quarto-dark'); }"
FAINT = """() => {
  const parse = c => { const n = (c.match(/[\\d.]+/g) || []).map(Number); return [n[0], n[1], n[2], n[3] === undefined ? 1 : n[3]]; };
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { const layers = []; for (let p = e; p; p = p.parentElement) layers.push(parse(getComputedStyle(p).backgroundColor));
    let base = [255, 255, 255]; for (const [r, g, b, a] of layers.reverse()) base = [r, g, b].map((v, i) => v * a + base[i] * (1 - a)); return base; };
  const found = [];
  for (const e of document.querySelectorAll('main *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length || e.closest('math, svg')) continue;
    const a = light(parse(getComputedStyle(e).color).slice(0, 3)), b = light(ground(e));
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 2.5) found.push(`${e.tagName} ${contrast.toFixed(1)} ${e.textContent.trim().slice(0, 40)}`);
  }
  return found.slice(0, 3); }"""


NAMELESS = "() => [...document.images].filter(i => !(i.getAttribute('alt') || '').trim() || i.alt.startsWith('No description')).map(i => i.src.slice(0, 60))"
ABSENT = "origin => [...document.images].filter(i => (i.src.startsWith('data:') || i.src.startsWith(origin)) && !(i.complete && i.naturalWidth)).map(i => i.src.slice(0, 80))"


@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser(browser, address, name):
    page, said = opened(browser, f"{address}/{name}.html")
    found = {"console": said, "title": [] if page.title() else ["none"], "images without text": page.evaluate(NAMELESS), "images that are absent": page.evaluate(ABSENT, address), "faint": page.evaluate(FAINT)}
    page.evaluate(DARK)
    found["faint in the dark"] = page.evaluate(FAINT)
    page.set_viewport_size({"width": 380, "height": 800})
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    found["wider than a telephone"] = page.evaluate(WIDE) or [wide] if wide > 380 else []
    page.close()
    assert not any(found.values()), {what: where for what, where in found.items() if where}


def test_the_checks_find_what_is_bad(browser, tmp_path):
    (tmp_path / "bad.html").write_text("<body style='background:#222'><main><p style='color:#333'>faint</p><div style='width:900px'>wide</div><img src=data:,><script>nothing.at.all</script></main>", encoding="utf-8")
    server, url = served(tmp_path)
    page, said = opened(browser, f"{url}/bad.html", width=380)
    assert any("nothing is not defined" in text for text in said)
    assert page.evaluate(FAINT)[0].startswith("P 1.") and page.evaluate("() => document.documentElement.scrollWidth") > 380 and "wide" in page.evaluate(WIDE)[0]
    page.close(), server.shutdown()


CUT = "selector => [...document.querySelectorAll(selector)].filter(e => e.scrollWidth > e.clientWidth + 2).map(e => e.innerText.slice(0, 60))"


def test_long_lines_wrap_and_figures_stay_readable(browser, tmp_path):
    "As Quarto marks them."
    long, cells = "a long line of words, " * 12, "<td>0.123456</td>" * 11
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="9"></svg>'
    for width in (100, 1280):
        (tmp_path / f"{width}.svg").write_text(picture.format(width), encoding="utf-8")
    body = f"<div class=sourceCode><pre><code class=sourceCode><span>{long}</span></code></pre></div><div class='cell wrap-narrow wrap-wide'><div class=cell-output><pre><code>{long}</code></pre></div></div><div class=cell><div class=cell-output><pre id=table><code>{long}</code></pre></div></div>"
    body += f"<table><tr>{cells}</tr></table><p><img class='img-fluid figure-img' src=1280.svg></p><p><img class='img-fluid figure-img' src=100.svg></p>"
    (tmp_path / "page.html").write_text(f"<!doctype html><style>.img-fluid {{ max-width: 100%; }} td {{ padding: .5rem; }} {site_style()}</style><body class='quarto-light nav-fixed'><main>{body}</main>", encoding="utf-8")
    server, url = served(tmp_path)
    for width, pictures in ((380, [496, 62]), (860, [836, 100]), (1280, [900, 100])):
        page, said = opened(browser, f"{url}/page.html", width)
        assert page.evaluate(CUT, "pre:not(#table)") == [] and page.evaluate(CUT, "#table") != [] and page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.evaluate("() => [...document.images].map(i => Math.round(i.getBoundingClientRect().width))") == pictures
        assert width < 992 or page.evaluate("() => parseFloat(getComputedStyle(document.querySelector('table')).fontSize)") < 12
        page.close()
    server.shutdown()


@pytest.mark.parametrize("name", PAGES)
def test_no_internal_link_is_broken(notebooks, processed, name):
    broken, names = [], {output_name(page, notebook): page for page, notebook in notebooks.items()}
    for text in sources(notebooks[name]):
        for link in re.findall(r"\]\(([^)\s]+)\)|href=[\"']([^\"']+)", without_code(text)):
            link = unquote(link[0] or link[1])
            if link.startswith(SITE):
                link = os.path.relpath(link.removeprefix(SITE), Path(name).parent)
            elif re.match(r"\w+:|//", link):
                continue
            path, _, anchor = link.partition("#")
            target = os.path.normpath(Path(name).parent / path) if path else f"{name}.ipynb"
            page = names.get(target) or target.removesuffix(".ipynb")
            if page in notebooks:
                if anchor and anchor not in anchors(notebooks[page]):
                    broken.append(f"{link}: no such anchor")
            elif not (processed / target).is_file() and not (processed / target).with_suffix(".qmd").is_file():
                broken.append(f"{link}: no such file")
    assert broken == [], broken


def test_chinese_pages_say_so(notebooks):
    for name in PAGES:
        if name.startswith("zh/"):
            said = sources(notebooks[name])[0]
            assert "lang: zh\n" in said and "locale: zh_CN\n" in said, said


@pytest.mark.parametrize("name", PAGES)
def test_mathematics_becomes_mathml(notebooks, name, tmp_path):
    "As the site does it: Pandoc writes MathML, and warns of what it cannot read."
    text = "\n\n".join(without_code(s) for s in sources(notebooks[name])[1:])
    formulas = MATHS.findall(text)
    if not formulas:
        return
    pandoc = [shutil.which("pandoc")] if shutil.which("pandoc") else [shutil.which("quarto"), "pandoc"] if shutil.which("quarto") else None
    if pandoc is None:
        pytest.skip("neither pandoc nor quarto is on this machine")
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    done = subprocess.run([*pandoc, "-f", "markdown", "-t", "html", "--mathml", "page.md"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Could not convert TeX math" not in done.stderr, done.stderr[:1000]
    assert done.stdout.count("<math") >= len(formulas) * 0.9
    assert not re.findall(r'<span class="math[^"]*">\s*[\\$]', done.stdout)


# ---- the real site, where it was rendered

# 404.html is served from any depth, so its links begin at the published address and lead nowhere here.
RENDERED = sorted(str(p.relative_to(ROOT / "_docs")) for p in (ROOT / "_docs").rglob("*.html") if p.name != "404.html") if (ROOT / "_docs").is_dir() else []


@pytest.fixture(scope="session")
def rendered():
    "Where the site of `make docs` is served."
    server, url = served(ROOT / "_docs")
    yield url
    server.shutdown()


@pytest.mark.skipif(not RENDERED, reason="_docs/ is not there: make docs renders the site where Quarto is installed")
@pytest.mark.parametrize("name", RENDERED or ["none"])
def test_rendered_page(browser, rendered, name):
    page, said = opened(browser, f"{rendered}/{name}")
    assert said == []
    assert page.evaluate("() => [...document.querySelectorAll('main img')].filter(i => !i.alt.trim()).map(i => i.src)") == []
    assert page.evaluate("() => document.querySelectorAll('main mjx-container, main .math:not(:has(math))').length") == 0
    assert page.evaluate(CUT, "main div.sourceCode pre, main .wrap-wide .cell-output pre") == []
    assert page.evaluate("() => document.querySelectorAll('main details.code-fold[open]').length") == 0
    around = page.evaluate("() => [...document.querySelectorAll('.nav-page a')].map(a => a.getAttribute('href'))")
    assert {"/zh/" in urlsplit(link).path for link in around} <= {name.startswith("zh/")}, f"{name} leads to another language: {around}"
    links = page.evaluate("origin => [...document.querySelectorAll('a[href]')].map(a => a.href).filter(h => h.startsWith(origin))", rendered)
    links += [link.replace(SITE, f"{rendered}/") for link in page.evaluate("() => [...document.querySelectorAll('main a[href]')].map(a => a.href)") if link.startswith(SITE)]
    for link in set(links):
        at = urlsplit(link)
        target = ROOT / "_docs" / (unquote(at.path).lstrip("/") or "index.html")
        target = target / "index.html" if target.is_dir() else target
        assert target.is_file(), f"{name} leads to {link}"
        if at.fragment and target.suffix == ".html":
            assert re.search(rf"""(?:id|name)=["']{re.escape(unquote(at.fragment))}["']""", target.read_text(encoding="utf-8")), f"{name} leads to {link}"
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 380, page.evaluate(WIDE)
    page.close()


@pytest.mark.skipif(not RENDERED, reason="_docs/ is not there: make docs renders the site where Quarto is installed")
def test_rendered_search_finds_each_formula_once():
    entries = json.loads((ROOT / "_docs" / "search.json").read_text(encoding="utf-8"))
    text = re.sub(r"\s", "", next(entry["text"] for entry in entries if entry["href"] == "transformer.html#attention-by-hand"))
    assert "attention(Q,K,V)=softmax" in text and "operatorname" not in text
