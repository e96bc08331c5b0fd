"""What a GPU computes is what the CPU computes, for every kind of work; skipped with a reason where there is no GPU. Tokenizer and models are made here."""
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from lmnotes import pretraining
from lmnotes.benchmarks import minimal_pairs
from lmnotes.finetuning import finetune
from lmnotes.generation import generate_texts
from lmnotes.perplexity import perplexity
from lmnotes.pretraining import pretrain, save_folder
from test_finetuning import SIZES, TEXTS, bpe, classes, questions, tags, tokenizer  # noqa: F401

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
RUN = dict(block_size=32, batch_size=8, steps=8, validation_blocks=4, evaluations=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMNOTES_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tokenizer, bpe, tmp_path_factory):  # noqa: F811
    "A masked and a causal model."
    where = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    masked = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **SIZES))
    causal = GPT2LMHeadModel(GPT2Config(vocab_size=len(bpe), n_layer=2, n_embd=32, n_head=2, n_positions=64, bos_token_id=bpe.bos_token_id, eos_token_id=bpe.eos_token_id))
    return {"masked": save_folder(where / "masked", masked, tokenizer), "causal": save_folder(where / "causal", causal, bpe)}


@pytest.mark.parametrize("family", ["masked", "causal"])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_perplexity(folders, family, dtype, tolerance):
    here, there = (perplexity(folders[family], TEXTS[:20], dtype=d, device=where, progress=False) for d, where in (("float32", "cpu"), (dtype, "cuda")))
    assert "cuda" in there.protocol["device"] and there.perplexity == pytest.approx(here.perplexity, rel=tolerance)
    assert perplexity(folders[family], TEXTS[:5], progress=False).protocol["device"].startswith("cuda")                        # chosen by itself


@pytest.mark.parametrize("family", ["masked", "causal"])
def test_minimal_pairs(folders, family):
    pairs = [{"sentence_good": a, "sentence_bad": b} for a, b in zip(TEXTS[:20], TEXTS[20:40])]
    here, there = (minimal_pairs(folders[family], pairs, device=where, progress=False) for where in ("cpu", "cuda"))
    assert repr(here) == repr(there)


def test_generation(folders):
    model = {where: AutoModelForCausalLM.from_pretrained(folders["causal"]).to(where) for where in ("cpu", "cuda")}
    from transformers import AutoTokenizer
    its = AutoTokenizer.from_pretrained(folders["causal"])
    here, there = (generate_texts(model[where], its, [" ".join(t.split()[:5]) for t in TEXTS[:6]], max_new_tokens=12) for where in ("cpu", "cuda"))
    assert list(here) == list(there)


@pytest.mark.parametrize("model", ["bert-tiny", "gpt-tiny"])
@pytest.mark.parametrize("compiled", [False, True])
def test_pretraining(tokenizer, bpe, tmp_path, model, compiled):  # noqa: F811
    its = tokenizer if model.startswith("bert") else bpe
    there = pretrain(TEXTS, its, model, tmp_path / "there", compile=compiled, **RUN)
    here = pretrain(TEXTS, its, model, tmp_path / "here", device="cpu", precision="fp32", **RUN)
    facts = json.loads((tmp_path / "there" / "lmnotes.json").read_text())
    assert facts["hardware"]["device"].startswith("cuda") and there.loss_after < there.loss_before
    assert there.loss_before == pytest.approx(here.loss_before, rel=5e-3) and there.loss_after == pytest.approx(here.loss_after, rel=3e-2)
    single = {k: v.dtype for k, v in load_file(tmp_path / "there" / "model.safetensors").items()}
    assert set(single.values()) == {torch.float32}


@pytest.mark.parametrize("family", ["masked", "causal"])
def test_the_compiled_loss_of_many_logits_is_that_of_the_plain_one(folders, family, monkeypatch):
    model = (BertForMaskedLM if family == "masked" else GPT2LMHeadModel).from_pretrained(folders[family]).cuda().eval()
    ids = torch.randint(5, 100, (8, 32), device="cuda")
    labels = torch.where(torch.rand(8, 32, device="cuda") < 0.5, ids, -100)
    found = []
    for compiled, logits, kernel in ((False, 10**9, None), (False, 1000, pretraining.triton), (True, 1000, None), (True, 1000, pretraining.triton)):      # the library's loss, and ours in all its forms
        monkeypatch.setattr(pretraining, "_LOGITS", logits)
        monkeypatch.setattr(pretraining, "triton", kernel)
        if compiled and not found[-1][2]:
            pretraining._compile_layers(model)
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = pretraining.language_model_loss(model, ids, labels, causal=family == "causal", items=torch.tensor(100, device="cuda"))
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), compiled))
    plain, one, _ = found[0]
    for fused, other, _ in found[1:]:
        assert fused == pytest.approx(plain, rel=2e-3) and (one - other).norm() < 0.05 * one.norm()


@pytest.mark.skipif(not pretraining.triton, reason="no Triton here")
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("rows, columns", [(300, 50257), (5, 2**21 + 3)])
def test_the_kernel_of_the_loss_is_the_librarys(dtype, close, rows, columns):
    torch.manual_seed(0)
    logits = (3 * torch.randn(rows, columns, device="cuda")).to(dtype).requires_grad_()
    targets = torch.randint(columns, (rows,), device="cuda")
    targets[1::3] = -100
    expected = torch.nn.functional.cross_entropy(logits.float(), targets)
    for by in (1, 2.5):                                                     # the second one must be multiplied in
        theirs, = torch.autograd.grad(by * expected, logits, retain_graph=True)
        loss = pretraining._cross_entropy(logits, targets, (targets != -100).sum())
        ours, = torch.autograd.grad(by * loss, logits)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and (ours - theirs).float().norm() <= close * theirs.float().norm() and not ours[1].any()


@pytest.mark.parametrize("family, model", [("masked", "bert-tiny"), ("causal", "gpt-tiny")])
def test_no_step_waits_for_the_device(tokenizer, bpe, tmp_path, family, model):  # noqa: F811
    import warnings

    def waits(steps):
        "Places that wait for the device in a run of so many steps, each as often as it does."
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                pretrain(TEXTS, tokenizer if family == "masked" else bpe, model, tmp_path / str(steps), log_steps=100, **{**RUN, "steps": steps, "evaluations": 0})
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing CUDA operation" in str(w.message)]
    few, many = waits(10), waits(40)                                       # weights are moved and saved in both, so what is more belongs to the thirty steps
    assert few and len(many) - len(few) < 10, {place: (few.count(place), many.count(place)) for place in set(many) if few.count(place) != many.count(place)}


def test_a_run_goes_on_where_it_stopped(tokenizer, tmp_path, monkeypatch):  # noqa: F811
    options = {**RUN, "checkpoint_steps": 4}
    pretrain(TEXTS, tokenizer, "bert-tiny", tmp_path / "whole", **options)
    step_end = pretraining._Watch.on_step_end

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 6:
            self.interrupted.set()
        return step_end(self, args, state, control, **kwargs)
    monkeypatch.setattr(pretraining._Watch, "on_step_end", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(TEXTS, tokenizer, "bert-tiny", tmp_path / "parts", **options)
    monkeypatch.undo()
    monkeypatch.setenv("LMNOTES_CACHE", str(tmp_path / "cache"))
    resumed = pretrain(TEXTS, tokenizer, "bert-tiny", tmp_path / "parts", resume=True, **options)
    assert resumed.steps == 8
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert max((one[k] - other[k]).abs().max() for k in one) < 1e-3


@pytest.mark.parametrize("task", [classes, tags, questions])
@pytest.mark.parametrize("method", [{}, {"method": "lora"}])
def test_finetuning(folders, tmp_path, task, method):
    options = dict(epochs=1, learning_rate=3e-3, max_length=48, samples=20, **method)
    there = finetune(str(folders["masked"]), task(), tmp_path / "there", **options)
    here = finetune(str(folders["masked"]), task(), tmp_path / "here", device="cpu", precision="fp32", **options)
    assert json.loads((tmp_path / "there" / "lmnotes.json").read_text())["hardware"]["device"].startswith("cuda")
    assert there.steps == here.steps and set(there.scores) == set(here.scores)
    assert there.history[0]["loss"] == pytest.approx(here.history[0]["loss"], rel=5e-2)


def test_what_flows_between_the_parts_is_bf16_and_the_rest_stays(folders):
    model = BertForMaskedLM.from_pretrained(folders["masked"]).cuda()
    kinds = []
    watch = model.bert.encoder.layer[1].register_forward_pre_hook(lambda module, inputs: kinds.append(inputs[0].dtype))
    with torch.autocast("cuda", torch.bfloat16):
        with pretraining._bf16_between(model, True):
            model(input_ids=torch.ones(2, 8, dtype=torch.long, device="cuda"))
        model(input_ids=torch.ones(2, 8, dtype=torch.long, device="cuda"))
    watch.remove()
    assert kinds == [torch.bfloat16, torch.float32] and {p.dtype for p in model.parameters()} == {torch.float32}
