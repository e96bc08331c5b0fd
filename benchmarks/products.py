"""Products of fp32 matrices by PyTorch's default (MKL) and by oneDNN, and in bf16: billions of operations a second; attention in bf16.

    python benchmarks/products.py

Each shape is (rows, inputs, outputs), as of a linear layer; the sides take turns, the best of five. The differences are
between the two results in fp32, as a share of the largest number. Attention over 4,096 tokens, four heads of 64, in texts of
one length: PyTorch's fused kernel and two plain products with a softmax between. What is done to a product's result: GELU
and the bias after it, or together with it. Masks of dropout: PyTorch's, and from 16 bits. Results: benchmarks/results/products.json and .md.
"""
import datetime
import json
import os
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from lmnotes.transformer import _dropout_by_bits, _onednn_has_bf16, _onednn_is_faster, _ShortAttention

RESULTS = Path(__file__).resolve().parent / "results"
SHAPES = [(4096, 256, 256), (4096, 256, 1024), (4096, 1024, 256), (512, 256, 30522), (4096, 768, 3072), (64, 256, 1024), (8, 256, 1024), (1, 256, 1024)]


def seconds(function, calls):
    "Seconds of a call."
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def attention(tokens):
    "Milliseconds of both ways of attention, and the mean error of each in bf16."
    x = torch.randn(4096 // tokens, tokens, 3, 4, 64).bfloat16()
    given = [x[:, :, i].transpose(1, 2) for i in range(3)]
    back = lambda found: found.transpose(1, 2).reshape(-1, tokens, 256)
    sides = {"fused": lambda: back(F.scaled_dot_product_attention(*given)), "plain": lambda: back(_ShortAttention.plain(*given, 1 / 8))}
    exact = back(F.scaled_dot_product_attention(*(t.double() for t in given)))
    best = {side: min(seconds(function, 20) for _ in range(9)) for side, function in sides.items()}
    return {"tokens": tokens, **{f"{side}, ms": round(1000 * spent, 2) for side, spent in best.items()}, "times fused": round(best["fused"] / best["plain"], 2),
            **{f"mean error, {side}": f"{(function().double() - exact).abs().mean():.1e}" for side, function in sides.items()}}


def with_gelu(dtype):
    "Milliseconds of a product with bias and GELU, one after the other by PyTorch and by oneDNN, and at once."
    x, w, b = torch.randn(8192, 256).to(dtype), (torch.randn(1024, 256) / 16).to(dtype), torch.randn(1024).to(dtype)
    pointwise = lambda *after: torch.ops.mkldnn._linear_pointwise(x, w, b, *after)
    sides = {"PyTorch": lambda: F.gelu(F.linear(x, w, b)), "oneDNN, then GELU": lambda: F.gelu(pointwise("none", [], "")), "at once": lambda: pointwise("gelu", [], "none")}
    exact = F.gelu(F.linear(x.double(), w.double(), b.double()))
    best = {side: min(seconds(function, 10) for _ in range(9)) for side, function in sides.items()}
    return {"type": str(dtype).removeprefix("torch."), **{f"{side}, ms": round(1000 * spent, 2) for side, spent in best.items()},
            "mean error, PyTorch": f"{(sides['PyTorch']().double() - exact).abs().mean():.1e}", "mean error, at once": f"{(sides['at once']().double() - exact).abs().mean():.1e}"}


def dropout(shape, dtype):
    "Milliseconds of dropout of a tenth, PyTorch's and from 16 bits."
    x = torch.randn(shape).to(dtype)
    best = {side: min(seconds(function, 10) for _ in range(9)) for side, function in (("PyTorch", lambda: F.dropout(x, 0.1)), ("16 bits", lambda: _dropout_by_bits(x, 0.1)))}
    return {"numbers": f"{x.numel():,}", "type": str(dtype).removeprefix("torch."), **{f"{side}, ms": round(1000 * spent, 3) for side, spent in best.items()}, "times PyTorch": round(best["PyTorch"] / best["16 bits"], 2)}


def table(rows):
    "Rows as Markdown."
    return "\n".join(["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])] + ["| " + " | ".join(map(str, row.values())) + " |" for row in rows])


def main():
    torch.manual_seed(0)
    rows = []
    with torch.no_grad():
        for m, k, n in SHAPES:
            x, w, b, calls = torch.randn(m, k), torch.randn(n, k), torch.randn(n), max(3, 4 * 10**9 // (m * k * n))
            narrow = [t.bfloat16() for t in (x, w, b)]
            sides = {"MKL, fp32": lambda: F.linear(x, w, b), "oneDNN, fp32": lambda: torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], ""), "oneDNN, bf16": lambda: F.linear(*narrow)}
            gap = (sides["MKL, fp32"]() - sides["oneDNN, fp32"]()).abs().max() / sides["MKL, fp32"]().abs().max()
            best = {side: min(seconds(function, calls) for _ in range(5)) for side, function in sides.items()}
            rows.append({"shape": f"{m} x {k} x {n}", **{side: round(2e-9 * m * k * n / spent) for side, spent in best.items()}, "times MKL": round(best["MKL, fp32"] / best["oneDNN, fp32"], 2), "largest difference": f"{gap:.0e}"})
            print(rows[-1], flush=True)
        gelu = [with_gelu(dtype) for dtype in (torch.float32, torch.bfloat16) if dtype == torch.float32 or _onednn_has_bf16()]
        masks = [dropout(shape, dtype) for shape in ((16, 25, 384), (32, 12, 64, 64)) for dtype in (torch.float32, torch.bfloat16)]
        short = [attention(tokens) for tokens in (8, 16, 32, 64, 128, 256)]
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    family = next((line.split(":")[1].strip() for line in told.splitlines() if line.startswith("cpu family")), "unknown")
    head = (f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.machine()}, family {family}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
            f"evaluation here takes {'oneDNN' if _onednn_is_faster() else 'the default'}; `python benchmarks/products.py`")
    (RESULTS / "products.json").write_text(json.dumps({"head": head, "rows": rows, "attention": short, "gelu": gelu, "dropout": masks}, indent=1) + "\n")
    (RESULTS / "products.md").write_text(f"# Products of matrices\n\n{head}\n\nBillions of operations a second; a multiplication and an addition are two.\n\n{table(rows)}\n\n"
                                         f"## Attention in bf16\n\n4,096 tokens in texts of so many tokens, four heads of 64; errors beside double precision.\n\n{table(short)}\n\n"
                                         f"## GELU with its product\n\n8192 x 256 x 1024 with bias; errors beside double precision.\n\n{table(gelu)}\n\n## Dropout\n\n{table(masks)}\n")


if __name__ == "__main__":
    main()
