"""Plans against runs on this machine: time, after a calibrating micro-run, and peak memory.

    python benchmarks/compute.py              four runs, asserted: time within 20 %, peak memory within 15 %
    python benchmarks/compute.py --quick      two short runs, compared and not asserted

Each run is a process of its own. The micro-run takes three steps and gives the share of the peak; the plan then
predicts the long run. Memory is what the process holds at its peak above what it held before the model was made
(after a step of a small model, so that libraries are loaded). With LMNOTES_CLOCK=cpu, seconds are those of the
process, for a machine with other work (then with OMP_NUM_THREADS=1). Results: benchmarks/results/compute.json and .md.
"""
import argparse
import ctypes
import datetime
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
RESULTS = Path(__file__).resolve().parent / "results"
CASES = {"bert-mini": ("bert-mini", "adamw", 16, 40), "gpt-mini": ("gpt-mini", "adamw", 16, 30), "bert-small": ("bert-small", "muon", 16, 20), "llama-mini": ("llama-mini", "adamw", 8, 40)}
QUICK = {"bert-mini": ("bert-mini", "adamw", 8, 8), "gpt-mini": ("gpt-mini", "adamw", 8, 8)}
VOCABULARY, BLOCK, MICRO = 8192, 128, 3
CLOCK = time.process_time if os.environ.get("LMNOTES_CLOCK") == "cpu" else time.perf_counter


def measure(preset, optimizer_name, batch, steps):
    "Run in this process; print a row as JSON."
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    from lmnotes.compute import PlanOptions, model_sizes, plan, this_machine, training_memory
    from lmnotes.pretraining import PretrainingOptions, _make_optimizer, language_model_loss
    from lmnotes.transformer import fused_gelu, model_config
    causal = not preset.startswith(("bert", "modernbert"))

    def make(vocabulary):
        torch.manual_seed(0)
        config = model_config(preset, vocabulary, BLOCK)
        model = (AutoModelForCausalLM if causal else AutoModelForMaskedLM).from_config(config)
        return model, _make_optimizer(model, PretrainingOptions(steps=1, optimizer=optimizer_name)), config

    def train(model, optimizer, rows, vocabulary, count):
        start = CLOCK()
        for _ in range(count):
            ids = torch.randint(5, vocabulary, (rows, BLOCK))
            labels = ids if causal else torch.where(torch.rand(ids.shape) < 0.15, ids, -100)
            with fused_gelu(model):                                                    # as `pretrain` does
                language_model_loss(model, ids, labels, causal).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(), optimizer.zero_grad()
        return CLOCK() - start

    train(*make(100)[:2], 1, 100, 1)
    gc.collect(), ctypes.CDLL(None).malloc_trim(0)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    model, optimizer, config = make(VOCABULARY)
    train(model, optimizer, batch, VOCABULARY, 1)                                      # the first step also allocates
    machine, sizes = this_machine(), model_sizes(config)
    micro = train(model, optimizer, batch, VOCABULARY, MICRO)
    share = MICRO * batch * BLOCK * sizes.flops_per_token(BLOCK) / micro / machine.single
    options = PlanOptions(block_size=BLOCK, batch_size=batch, optimizer=optimizer_name, precision="fp32", spare=0, utilization=min(1.0, share))
    predicted = plan(config, tokens=steps * batch * BLOCK, hardware=machine, options=options).hours * 3600 * max(1.0, share)
    measured = train(model, optimizer, batch, VOCABULARY, steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    memory = sum(training_memory(sizes, options, 1, "ddp", False, False).values())
    print(json.dumps({"model": preset, "optimizer": optimizer_name, "rows": batch, "steps": steps, "parameters": sizes.parameters, "share of peak": round(share, 3), "seconds predicted": round(predicted, 2),
                      "seconds measured": round(measured, 2), "time": round(predicted / measured - 1, 3), "MiB predicted": round(memory / 2**20), "MiB measured": round(peak / 2**20),
                      "memory": round(memory / peak - 1, 3)}))


def machine_line():
    "Date, machine and versions."
    import torch
    import transformers
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return (f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {CLOCK.__name__}, Python {platform.python_version()}, "
            f"torch {torch.__version__}, transformers {transformers.__version__}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cases = QUICK if args.quick else CASES
    if args.case:
        return measure(*cases[args.case])
    rows = []
    for name in args.only or cases:
        words = [sys.executable, __file__, "--case", name] + (["--quick"] if args.quick else [])
        # glibc keeps what was freed in pieces; from this size on it is given back, and the peak is what was in use
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
        if done.returncode:
            sys.exit(done.stderr)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
        write(rows, args.quick)
    if not args.quick:
        for row in rows:
            assert abs(row["time"]) < 0.20, row
            assert abs(row["memory"]) < 0.15, row


def write(rows, quick):
    "The results, as JSON and as a table."
    RESULTS.mkdir(exist_ok=True)
    note = f"Made by `python benchmarks/compute.py{' --quick' if quick else ''}`: predicted against measured; `time` and `memory` are predicted / measured - 1."
    line = machine_line()
    (RESULTS / "compute.json").write_text(json.dumps({"machine": line, "note": note, "rows": rows}, indent=1) + "\n")
    names = list(rows[0])
    table = [note, "", line, "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *(f"| {' | '.join(str(row[n]) for n in names)} |" for row in rows)]
    (RESULTS / "compute.md").write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
