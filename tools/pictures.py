"""Draw the picture of the landing page and of README, and the site's social card, from a small model trained for it.

    python tools/pictures.py              a minute or two on one core; the model stays in runs/pictures and is used again
    python tools/pictures.py --fresh      train it anew

Writes nbs/images/tour.png and nbs/images/card.png. What they show was computed: pieces, losses and surprisals are the model's.
"""
import json
import shutil
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parent.parent
RUN, IMAGES = ROOT / "runs" / "pictures", ROOT / "nbs" / "images"
CORPUS, SENTENCE = "docstrings:datasets,numpy", "Return a copy of the array, reshaped along the given axis."
TINTS, BLUE, RED, ORANGE, INK = ("#BFE3F7", "#FCE3B0", "#BDE7D9", "#F3D6E6"), "#0072B2", "#D55E00", "#E69F00", "#222222"


def train():
    "Tokenizer, model and their losses, in RUN."
    import lmnotes
    corpus = lmnotes.load_corpus(CORPUS)
    tokenizer = lmnotes.train_tokenizer(corpus, vocab_size=4096, progress=False)
    result = lmnotes.pretrain(corpus, tokenizer, "bert-tiny", RUN / "model", steps=700, block_size=64, seed=0, overwrite=True)
    measured = [{"tokens": 0, "loss": result.loss_before}, {"tokens": result.tokens, "loss": result.loss_after}]
    (RUN / "losses.json").write_text(json.dumps({"history": [{k: row[k] for k in ("tokens", "loss")} for row in result.history], "validation": measured}), encoding="utf-8")


def facts():
    "Pieces of the sentence with their bits, and the losses."
    import lmnotes
    from lmnotes.perplexity import surprisal
    model, tokenizer = lmnotes.load(RUN / "model")
    bits = surprisal(model, SENTENCE, tokenizer)
    losses = json.loads((RUN / "losses.json").read_text(encoding="utf-8"))
    return [(token.strip(), value) for token, value in zip(bits.tokens, bits.bits)], losses


def rows(ax, pieces, size):
    "Write pieces in tinted boxes, line by line, as wide as the axes; a unit of the axes is a point."
    dpi, box = ax.figure.dpi, ax.get_window_extent()
    room, height, letter = box.width * 72 / dpi, box.height * 72 / dpi, 0.602 * size
    ax.set_xlim(0, room), ax.set_ylim(0, height)
    x, y = 0.0, height - 2.3 * size
    for i, (piece, _) in enumerate(pieces):
        wide = letter * (len(piece) + 1)
        if x + wide > room:
            x, y = 0.0, y - 2.5 * size
        ax.add_patch(FancyBboxPatch((x, y), wide, 1.9 * size, boxstyle=f"round,pad=0,rounding_size={0.3 * size}", color=TINTS[i % 4]))
        ax.text(x + wide / 2, y + 0.9 * size, piece, ha="center", va="center", family="DejaVu Sans Mono", size=size, color=INK)
        x += wide + 0.4 * letter


def curve(ax, losses):
    "Loss over tokens."
    ax.plot([h["tokens"] / 1e3 for h in losses["history"]], [h["loss"] for h in losses["history"]], color=BLUE, label="training")
    ax.plot([h["tokens"] / 1e3 for h in losses["validation"]], [h["loss"] for h in losses["validation"]], "o", color=RED, label="held-out text")
    ax.set(xlabel="thousand tokens seen", ylabel="loss (nats)"), ax.legend(frameon=False)


def bars(ax, pieces):
    "Surprisal of each piece."
    ax.bar(range(len(pieces)), [bits for _, bits in pieces], color=ORANGE)
    ax.set_xticks(range(len(pieces)), [piece for piece, _ in pieces], rotation=60, ha="right", rotation_mode="anchor")
    ax.set_ylabel("surprisal (bits)")


def three(figure, cells, pieces, losses, size):
    "The three panels, each in its cell of a grid."
    axes = [figure.add_subplot(cell) for cell in cells]
    axes[0].axis("off"), curve(axes[1], losses), bars(axes[2], pieces)
    for ax, title in zip(axes, ("1  text becomes tokens", "2  a model learns to predict them", "3  and is measured, token by token")):
        ax.set_title(title, loc="left", color=INK, size=size + 1), ax.spines[["top", "right"]].set_visible(False)
    plt.gcf().draw_without_rendering()                            # the layout says how wide the first one is
    rows(axes[0], pieces, 1.15 * size)


def draw(pieces, losses):
    "Both pictures."
    IMAGES.mkdir(exist_ok=True)
    plt.rcParams.update({"font.size": 8.5, "font.family": "DejaVu Sans"})
    figure = plt.figure(figsize=(6.4, 3.4), layout="constrained")                      # about as wide as the page's text: letters keep their size
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.15), height_ratios=(1, 4.5))
    three(figure, (grid[0, :], grid[1, 0], grid[1, 1]), pieces, losses, 8.5)
    figure.savefig(IMAGES / "tour.png", dpi=200, facecolor="white", metadata={"Software": None})
    figure = plt.figure(figsize=(12, 6.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.2, h_pad=0.12)
    head, body = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    head.text(0.04, 0.6, "lmnotes", size=58, weight="bold", color=BLUE, va="center")
    head.text(0.042, 0.2, "Language models as notebooks that teach, compute and ship", size=23, color=INK, va="center")
    plt.rcParams.update({"font.size": 11})
    three(body, body.add_gridspec(1, 3, width_ratios=(1, 1, 1.15)), pieces, losses, 11)
    figure.savefig(IMAGES / "card.png", dpi=100, facecolor="white", metadata={"Software": None})
    for path in (IMAGES / "tour.png", IMAGES / "card.png"):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    if "--fresh" in sys.argv and RUN.is_dir():
        shutil.rmtree(RUN)
    if not (RUN / "losses.json").is_file():
        RUN.mkdir(parents=True, exist_ok=True)
        train()
    draw(*facts())
