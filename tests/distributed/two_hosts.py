"""Pretrain on two hosts, kill one, and see the job go on from its last checkpoint to the loss of the undisturbed run.

    python tests/distributed/two_hosts.py [--kill worker host] [--keep FOLDER]

The hosts are two network namespaces of this machine, joined by a virtual cable (veth): processes of one reach those of the
other only over that interface, and nothing else is reachable. Everything runs in namespaces of its own (network, mounts,
processes), so that interfaces and processes are gone when this program ends, however it ends. Needed: Linux, `ip` and `unshare`
(packages iproute2 and util-linux), and the right to make namespaces: root's, or the kernel's leave for ordinary users.

Both runs are `torchrun --nnodes 2 --rdzv-backend c10d … -m lmnotes.cli pretrain … --resume`, as on real machines with shared storage.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOSTS = {"a": "10.77.0.1", "b": "10.77.0.2"}
STEPS, EVERY = 80, 10
WORDS = "the cat dog bird fish sat ran flew swam on under over a mat log tree sea and then it slept".split()
TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 25)) + f" number {i}" for i in range(300)]


def why_not():
    "A sentence on what this machine lacks; None where it can make namespaces."
    absent = [tool for tool in ("ip", "unshare", "mount") if not shutil.which(tool)]
    if sys.platform != "linux" or absent:
        return f"two hosts need Linux with ip and unshare; here is {sys.platform} without {', '.join(absent) or 'namespaces'}"
    tried = subprocess.run([*isolated(), "sh", "-c", "mount -t tmpfs tmpfs /run && ip netns add x && ip link add v netns x type veth peer name w"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"this user may not make network namespaces here: {(tried.stderr.strip().splitlines() or ['no reason given'])[-1]}"


def isolated():
    "The words that run a command in namespaces of its own; its processes die with it."
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *rights, "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def ip(words):
    "Run `ip`."
    subprocess.run(["ip", *words.split()], check=True)


def cable():
    "Make two hosts and join them."
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)      # names of namespaces stand in /run/netns: ours, not the machine's
    for host in HOSTS:
        ip(f"netns add {host}")
    ip("link add va netns a type veth peer name vb netns b")
    for host, address in HOSTS.items():
        for words in (f"addr add {address}/24 dev v{host}", f"link set v{host} up", "link set lo up"):
            ip(f"-n {host} {words}")


def start(host, work, name, port):
    "Start torchrun on a host; give its process."
    words = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--monitor-interval", "0.2",
             "--rdzv-backend", "c10d", "--rdzv-id", name, "--rdzv-endpoint", f"{HOSTS['a']}:{port}", "--rdzv-conf", f"is_host={int(host == 'a')},timeout=120,last_call_timeout=1",
             "--local-addr", HOSTS[host], "-m", "lmnotes.cli", "pretrain", str(work / "text.txt"), str(work / "tokenizer"), "--model", str(work / "model"),
             "--output-dir", str(work / name), "--steps", str(STEPS), "--checkpoint-steps", str(EVERY), "--batch-size", "8", "--block-size", "16", "--precision", "fp32",
             "--device", "cpu", "--validation-blocks", "8", "--optimizer", "adamw", "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"v{host}", "LMNOTES_CACHE": str(work / f"cache-{host}"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
                   "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}     # else a host that comes back waits for an address that nobody tells again (torch 2.13)
    return subprocess.Popen(words, env=environment, stdout=open(work / f"{name}-{host}.log", "a"), stderr=subprocess.STDOUT)


def prepare(work):
    "Text, tokenizer and an untrained model of one layer."
    from transformers import BertConfig, BertForMaskedLM

    from lmnotes.tokenization import train_tokenizer
    (work / "text.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    train_tokenizer(TEXTS, vocab_size=120, progress=False).save_pretrained(work / "tokenizer")
    config = BertConfig(vocab_size=120, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=32,
                        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    BertForMaskedLM(config).save_pretrained(work / "model")


def next_checkpoint(folder, processes, after="", seconds=180):
    "Wait until a run has a checkpoint later than the one named; give its name."
    until = time.time() + seconds
    while time.time() < until and all(p.poll() is None for p in processes):
        found = [p.name for p in sorted((folder / "checkpoints").glob("step-*")) if p.name > after]
        if found:
            return found[-1]
        time.sleep(0.005)
    raise SystemExit(f"{folder.name}: no checkpoint after {after or 'the start'} appeared; see the logs beside it")


def kill(what, agent):
    "Kill the worker of a host, or the whole host: worker and torchrun."
    import psutil
    workers = psutil.Process(agent.pid).children(recursive=True)
    for process in ([psutil.Process(agent.pid)] if what == "host" else []) + workers:
        process.send_signal(signal.SIGKILL)
    return len(workers)


def inside(work, kinds):
    "Both runs, on the two hosts: one in peace, one disturbed."
    prepare(work)
    cable()
    peace = [start(host, work, "peace", 29500) for host in HOSTS]
    disturbed, saved = [start(host, work, "disturbed", 29600) for host in HOSTS], ""
    for what in kinds:
        saved = next_checkpoint(work / "disturbed", disturbed, saved)
        killed = kill(what, disturbed[1])
        assert killed and not (work / "disturbed" / "lmnotes.json").exists(), "the run ended before it was disturbed"
        print(f"killed {what} b when {saved} was there", flush=True)
        if what == "host":                                        # the machine boots again and joins
            disturbed[1].wait()
            disturbed[1] = start("b", work, "disturbed", 29600)
    codes = [p.wait(240) for p in peace + disturbed]
    assert codes == [0, 0, 0, 0], f"exit codes {codes}; see the logs"
    facts = {name: json.loads((work / name / "lmnotes.json").read_text()) for name in ("peace", "disturbed")}
    difference = abs(facts["peace"]["loss_after"] - facts["disturbed"]["loss_after"])
    same = (work / "peace" / "model.safetensors").read_bytes() == (work / "disturbed" / "model.safetensors").read_bytes()
    print(f"undisturbed {facts['peace']['loss_after']:.6f}, disturbed {facts['disturbed']['loss_after']:.6f} nats after {facts['disturbed']['steps']} steps; weights {'equal' if same else 'differ'}")
    assert difference <= 1e-6 and facts["disturbed"]["steps"] == STEPS
    assert facts["peace"]["loss_before"] - facts["peace"]["loss_after"] > 0.1, "it learns"


def main():
    "Run in namespaces of our own; give the exit code."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", nargs="+", choices=("worker", "host"), default=("worker", "host"), help="what dies on host b, one after the other")
    parser.add_argument("--keep", type=Path, help="folder for runs and logs (default: one that is removed)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return inside(args.keep, args.kill)
    if reason := why_not():
        sys.exit(f"skipped: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        work = args.keep or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([*isolated(), sys.executable, __file__, "--inside", "--kill", *args.kill, "--keep", str(work.absolute())])
        if done.returncode:
            for log in sorted(work.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
