"""Plans: formulas against PyTorch's counts, published audits, what fits, bad input."""
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (AlbertConfig, AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, DbrxConfig, DeepseekV3Config, FalconConfig, FNetConfig, Gemma2Config, Gemma3nTextConfig, Gemma3TextConfig, Gemma4TextConfig, GemmaConfig, GPT2Config, GptOssConfig,
                          JetMoeConfig, Lfm2Config, Llama4TextConfig, LlamaConfig, MambaConfig, MiMoV2FlashConfig, MistralConfig, MixtralConfig, ModernBertConfig, NemotronHConfig, OlmoeConfig, Phi3Config, Qwen2MoeConfig, Qwen3Config, Qwen3MoeConfig, Qwen3NextConfig, ReformerConfig,
                          RobertaConfig, T5Config, ViTConfig, XLNetConfig)

from lmnotes import compute
from lmnotes.compute import PUBLISHED, Device, Plan, PlanOptions, cache_bytes, find_device, model_sizes, plan, this_machine, training_memory
from lmnotes.pretraining import MuonAdamW
from lmnotes.transformer import flops_per_token, model_config, parameter_count

SMALL = Device("small", memory=24, half=10e12, single=1e12, watts=100)


def test_the_published_energy_of_gpt3():
    audit = plan(3.14e23 / 6 / 300e9, tokens=300e9, hardware="v100", devices=10_000, utilization=24.6 / 125 / 0.75, watts=330, batch_size=1, block_size=2048)
    assert (f"{audit.days:.1f}", round(audit.energy / 1e3), round(audit.co2 / 1e3)) == ("14.8", 1287, 552)


def test_time_is_operations_over_speed():
    found = plan(1e8, tokens=2e9, hardware=SMALL, devices=1, utilization=0.5, checkpointing="no", price=3)
    assert math.isclose(found.hours, 6 * 1e8 * 2e9 / 5e12 / 3600) and math.isclose(found.cost, 3 * found.hours)
    assert math.isclose(found.energy, found.hours * 0.1 * 1.1) and math.isclose(found.co2, found.energy * 0.429)
    twice = plan(1e8, tokens=2e9, hardware=SMALL, devices=2, utilization=0.5, checkpointing="no")
    assert math.isclose(twice.hours, found.hours / 2)
    again = plan(1e8, tokens=2e9, hardware=SMALL, devices=1, utilization=0.5, checkpointing="yes")
    assert math.isclose(again.hours, found.hours * 4 / 3) and again.flops == found.flops and again.memory_gb < found.memory_gb


def test_a_configuration_is_counted():
    config = model_config("gpt-mini", 1000)
    found = plan(config, tokens=1e6, hardware="t4", block_size=256)
    assert found.parameters == parameter_count(config) and found.flops == flops_per_token(config, 256) * 1e6
    assert plan("bert-mini", tokens=1e6, hardware="t4", vocab_size=500).flops == flops_per_token(model_config("bert-mini", 500), 512, 0.15) * 1e6


def test_a_plan_says_how_operations_were_counted():
    small = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=90)
    rules = {"opt": "6 operations for each parameter and token", "qwen3": "operations counted from the configuration", "albert": "operations counted from the configuration"}
    for family, rule in rules.items():
        found = plan(AutoConfig.for_model(family, **small), tokens=1e6, hardware="t4", block_size=64)
        assert found.assumptions[0] == rule
        if family == "opt":
            assert found.flops == 6 * found.parameters * 1e6
    assert plan("1B", hardware="a100-80").assumptions[0].startswith("6 operations for each parameter and token, a width")
    shared, single = (AlbertConfig(**small | {"num_hidden_layers": n}, embedding_size=16) for n in (8, 1))
    assert parameter_count(shared) == parameter_count(single) and flops_per_token(shared, 64) > 6 * flops_per_token(single, 64)


def test_a_folder_is_read(tmp_path):
    config = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=None, eos_token_id=None)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt")
    assert model_sizes(tmp_path / "gpt").parameters == model_sizes(str(tmp_path / "gpt")).parameters == parameter_count(config)
    assert model_sizes(tmp_path / "gpt").head_share == 1.0
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="config.json"):
        plan(tmp_path / "empty")


@pytest.mark.parametrize("given, parameters", [("124M", 124e6), ("1.3B", 1.3e9), ("7e9", 7e9), ("1,000", 1000), ("1,234,567", 1_234_567), ("1_000", 1000), (".5B", 5e8), (5, 5), ("2 k", 2000),
                                               ("1e+9", 1e9), (np.int64(10**8), 1e8), (np.float32(1e9), 1e9)])
def test_numbers_are_read(given, parameters):
    assert model_sizes(given).parameters == parameters


def test_devices_for_the_time_asked():
    one = plan("1B", tokens="20B", hardware="a100-80", devices=1)
    asked = plan("1B", tokens="20B", hardware="a100-80", hours=24)
    assert asked.hours <= 24 and asked.devices == asked.devices_needed == math.ceil(one.hours / 24)
    short = plan("1B", tokens="20B", hardware="a100-80", devices=2, hours=24)
    assert short.hours > 24 and short.devices == 2 and short.devices_needed == asked.devices
    allowed = plan("1B", hardware="a100-80", devices=2, hours=24)
    assert math.isclose(allowed.hours, 24)
    assert plan("1B", hardware="a100-80").tokens == 20e9


def test_one_device_may_hold_what_two_do_not():
    card, options = Device("own", 73.7, 1e14, 1e13, 300), PlanOptions(sharding="ddp", checkpointing="no")
    half = plan("3B", hardware=card, options=options, devices=1).hours / 2
    found = plan("3B", hardware=card, options=options, devices=1, tokens="60B", hours=half)
    assert found.devices_needed is None and "none: it does not fit on so many" in repr(found)
    with pytest.raises(ValueError, match="needs 79.7 GB on each device"):
        plan("3B", hardware=card, options=options, tokens="60B", hours=half)


@pytest.mark.parametrize("memory", [20, 40, 73.7, 90])
@pytest.mark.parametrize("faster", [0.9, 1.1, 2, 3.5, 9])
@pytest.mark.parametrize("sharding", ["auto", "ddp", "fsdp"])
def test_the_fewest_devices_are_those_that_trying_finds(memory, faster, sharding):
    card = Device("own", memory, 1e14, 1e13, 300)
    hours = plan("3B", hardware=Device("large", 1000, 1e14, 1e13, 300), devices=1).hours / faster
    in_time = [n for n in range(1, 40) if compute._first_way(model_sizes("3B"), PlanOptions(sharding=sharding), card, n, True) and plan("3B", "60B", card, n, sharding=sharding).hours <= hours * (1 + 1e-9)]
    if in_time:
        assert plan("3B", "60B", card, hours=hours, sharding=sharding).devices_needed == in_time[0]
    else:
        with pytest.raises(ValueError, match="GB on each device"):
            plan("3B", "60B", card, hours=hours, sharding=sharding)


@pytest.mark.parametrize("config, block", [(XLNetConfig(d_model=32, n_layer=1, n_head=2, d_inner=32, vocab_size=64), 1024), (RobertaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=514), 512)],
                         ids=["xlnet", "roberta"])
def test_blocks_are_those_that_the_model_takes(config, block):
    assert f"blocks of {block} on" in repr(plan(config, tokens=1e6, hardware="t4"))


def test_the_simplest_way_that_fits():
    assert (plan("1B", hardware="a100-80").sharding, plan("1B", hardware="a100-80").devices) == ("ddp", 1)
    seven = plan("7B", hardware="a100-80", block_size=2048, batch_size=4)
    assert seven.sharding == "fsdp" and seven.devices > 1 and seven.memory_gb <= 80
    with pytest.raises(ValueError, match="GB on each device"):
        plan("7B", hardware="a100-80", block_size=2048, batch_size=4, devices=seven.devices - 1)


@pytest.mark.parametrize("mixed", [True, False])
def test_memory_falls_with_devices_and_checkpointing(mixed):
    sizes, options = model_sizes("7B"), PlanOptions()
    total = lambda *way: sum(training_memory(sizes, options, *way, mixed).values())
    assert total(2, "fsdp", False) > total(8, "fsdp", False) > total(64, "fsdp", False) > total(64, "fsdp", True)
    assert total(2, "ddp", False) == total(8, "ddp", False) > total(8, "fsdp", False)


@pytest.mark.parametrize("way, says", [((2, "FSDP"), "sharding='FSDP' is not known: choose ddp or fsdp"), ((2, "zero3"), "zero3"), ((0, "fsdp"), "devices=0 must be a whole number"), ((0,), "devices=0"),
                                       ((1.5, "fsdp"), "devices=1.5"), ((None,), "devices=None")])
def test_memory_of_what_cannot_be_is_refused(way, says):
    with pytest.raises(ValueError, match=says):
        training_memory(model_sizes("7B"), PlanOptions(), *way)


def test_optimizers_differ_by_what_they_keep():
    sizes = model_sizes("1B", 32_768)
    kept = {name: training_memory(sizes, PlanOptions(optimizer=name), 2)["optimizer"] for name in ("adamw", "muon", "sgd")}
    assert kept == {"adamw": 8e9, "muon": 4e9 + 4 * 32_768 * sizes.hidden, "sgd": 0}          # embeddings are AdamW's


@pytest.mark.parametrize("config, kind", [(model_config("bert-tiny", 90), AutoModelForMaskedLM), (model_config("gpt-tiny", 90), AutoModelForCausalLM),
                                          (model_config("llama-mini", 90), AutoModelForCausalLM)], ids=["bert", "gpt2", "llama"])
def test_muon_keeps_one_number_for_its_matrices_and_two_for_the_rest(config, kind):
    model = kind.from_config(config)
    parts = [sum(p.numel() for group in part.param_groups for p in group["params"]) for part in MuonAdamW(model, 1e-3, 0.0).parts]
    sizes = model_sizes(config)
    assert parts == [sizes.parameters - sizes.matrices, sizes.matrices]
    assert training_memory(sizes, PlanOptions(optimizer="muon"), 2)["optimizer"] == 4 * (2 * parts[0] + parts[1])


def test_bert_mini_leaves_almost_half_to_adamw():
    sizes = model_sizes("bert-mini", 8_192)
    assert (sizes.parameters, sizes.parameters - sizes.matrices) == (5_462_784, 2_317_056)


def test_this_machine_is_measured():
    machine = this_machine()
    assert machine.memory > 0.5 and machine.single > 1e8 and machine.name == "this machine"
    assert find_device("This Machine").memory == machine.memory
    found = plan("bert-tiny", tokens=1e6, vocab_size=500)
    assert found.hardware == "this machine" and found.cost == 0 and found.devices == 1


def test_representations():
    found = plan("bert-mini", hardware="t4", tokens="1B")
    assert "bert-mini" in repr(found) and "t4" in repr(found) and "kWh" in repr(found) and found._repr_html_().startswith("<table>")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.hours = 1


# --- bad input
@pytest.mark.parametrize("wrong, message", [
    (dict(model="1B", hardware="h1000"), "h100.*this machine"), (dict(model="bert-huge", hardware="t4"), "bert-mini"), (dict(model=0, hardware="t4"), "1 to 1e18"),
    (dict(model="1B", hardware="t4", tokens=0), "tokens=0"), (dict(model="1B", hardware="t4", tokens="many"), "tokens=many"), (dict(model="1B", hardware="t4", hours=0), "hours=0"),
    (dict(model="1B", hardware="t4", devices=0), "devices=0"), (dict(model="1B", hardware="t4", devices=1.5), "devices=1.5"), (dict(model="1B", hardware="t4", utilization=40), "utilization=40"),
    (dict(model="1B", hardware="t4", optimizer="adam"), "adamw"), (dict(model="1B", hardware="t4", sharding="tensor"), "fsdp"), (dict(model="1B", hardware="t4", price=-1), "price=-1"),
    (dict(model="1B", hardware="t4", batch_size=0), "batch_size=0"), (dict(model="1B", hardware="t4", precision="fp8"), "fp32"), (dict(model=float("nan"), hardware="t4"), "1 to 1e18"),
    (dict(model=T5Config(), hardware="t4"), "T5Config is an encoder-decoder"), (dict(model=ViTConfig(), hardware="t4"), "cannot be made as a masked or causal"),
    (dict(model="1B", hardware="t4", devices=math.inf), "devices=inf"), (dict(model="1B", hardware="t4", devices="4"), "devices='4'"), (dict(model=None, hardware="t4"), "model=None is NoneType"),
    (dict(model=True, hardware="t4"), "model=True is bool"), (dict(model="1,5B", hardware="t4"), "'1,5B' is no number"), (dict(model="1B", hardware="t4", hours="4"), "hours='4'"),
    (dict(model="1B", hardware="t4", tokens="2,5B"), "tokens=2,5B"), (dict(model=MambaConfig(hidden_size=32, num_hidden_layers=1), hardware="t4"), "has no num_attention_heads"),
    (dict(model=FNetConfig(hidden_size=32, num_hidden_layers=1), hardware="t4"), "has no num_attention_heads"), (dict(model=ReformerConfig(), hardware="t4"), "cannot be made as a masked or causal"),
    (dict(model=10**400, hardware="t4"), "1 to 1e18"), (dict(model="1B", hardware="t4", tokens=10**400), "tokens=1000"), (dict(model="1B", hardware="t4", hours=1e300, devices=1), "hours=1e\\+300"),
    (dict(model="1B", hardware="t4", batch_size="8"), "batch_size='8'"), (dict(model="1B", hardware="t4", utilization="a"), "utilization='a'"), (dict(model="1B", hardware="t4", spare=None), "spare=None"), (dict(model="1B", hardware="t4", optimizer=["adamw"]), "optimizer=.'adamw'. is not known"),
    (dict(model="", hardware="t4"), "'' is no number of parameters")])
def test_bad_input_gets_one_sentence(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        plan(**wrong)
    assert "\n" not in str(error.value)


def test_an_impossible_plan_names_memory_and_the_largest_device():
    with pytest.raises(ValueError, match=r"needs [\d,.]+ GB on each device.*largest listed device h200 141 GB"):
        plan("175B", hardware="t4", devices=8)
    with pytest.raises(ValueError, match="any number of t4"):
        plan("1000T", hardware="t4")
    with pytest.raises(ValueError, match="h200 141 GB"):
        plan("175B")                                        # on this machine


# --- laws and the reverse question
def test_a_law_is_found_again():
    n, d = (g.ravel() for g in np.meshgrid(np.geomspace(1e6, 1e9, 4), np.geomspace(1e8, 1e11, 4)))
    law = compute.fit_scaling_law(n, d, compute.BESIROGLU.loss(n, d), resamples=3)
    assert abs(law.E - 1.8172) < 0.01 and abs(law.alpha - 0.3478) < 0.01 and abs(law.beta - 0.3658) < 0.01 and law.samples.shape == (3, 5)
    low, high = law.band(1e9, 1e10)
    assert low <= high and abs(low - compute.BESIROGLU.loss(1e9, 1e10)) < 0.01


def test_the_optimum_of_a_law_is_the_lowest():
    best, tokens = compute.HOFFMANN.best(1e21)
    others = np.geomspace(best / 10, best * 10, 201)
    assert math.isclose(6 * best * tokens, 1e21) and compute.HOFFMANN.loss(best, tokens) <= compute.HOFFMANN.loss(others, 1e21 / 6 / others).min() + 1e-12


@pytest.mark.parametrize("wrong, message", [(([1] * 5,) * 3, "6 runs"), (([1] * 6, [1] * 6, [0] * 6), "positive"), (([1] * 6, [1] * 6, [2] * 6), "3 values")])
def test_runs_that_cannot_be_fitted(wrong, message):
    with pytest.raises(ValueError, match=message):
        compute.fit_scaling_law(*wrong)


@pytest.mark.parametrize("name, value", [("resamples", -1), ("resamples", 2.5), ("delta", -1), ("delta", 0), ("delta", math.nan), ("delta", math.inf), ("seed", -1)])
def test_choices_of_a_fit_that_cannot_be(name, value):
    with pytest.raises(ValueError, match=f"{name} {value} "):
        compute.fit_scaling_law([1] * 5, [1] * 5, [1] * 5, **{name: value})         # said before anything about the runs


@pytest.mark.parametrize("level", [-0.9, 0, 1, 90, 95, math.nan, "0.9"])
def test_levels_that_are_no_shares(level):
    law = dataclasses.replace(compute.HOFFMANN, samples=[[1.69, 406.4, 410.7, 0.34, 0.28]] * 3)
    for call in (lambda: law.interval("E", level), lambda: law.band(1e9, 1e10, level)):
        with pytest.raises(ValueError, match=f"level {level!r} must lie between 0 and 1"):
            call()


@pytest.mark.parametrize("samples", [None, 0, []])
def test_a_law_without_resampled_fits_has_no_bands(samples):
    law = dataclasses.replace(compute.HOFFMANN, samples=samples)
    for call in (lambda: law.interval("E"), lambda: law.band(1e9, 1e10)):
        with pytest.raises(ValueError, match="no resampled fits"):
            call()


def test_best_model_keeps_the_budget():
    day = compute.best_model(24, "a100-80")
    assert math.isclose(day.tokens / day.parameters, 20, rel_tol=1e-3) and math.isclose(day.hours, 24)
    long = compute.best_model(24 * 1000, Device("tiny", 6, 1e15, 1e14, 1), batch_size=1)       # memory, not time, is the limit
    assert long.tokens / long.parameters > 20 and long.memory_gb <= 6 and math.isclose(long.hours, 24_000)
    with pytest.raises(ValueError, match="hours=0"):
        compute.best_model(0, "t4")


def test_the_published_runs():
    run = {r.name: r for r in PUBLISHED}["T5-Small"]
    assert f"{run.petaflop_days:.2E} {run.flops:.2E}" == "2.08E+00 1.80E+20" and len(PUBLISHED) == 17


def test_the_cache_is_counted():
    assert cache_bytes(LlamaConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2), 10, 2) == 2 * 3 * 2 * 8 * 10 * 2 * 2
    for wrong in (dict(context=-5), dict(context=5, batch_size=-1)):
        with pytest.raises(ValueError, match="must be 0 or more"):
            cache_bytes(LlamaConfig(), **wrong)
    with pytest.raises(ValueError, match="context=0"):
        compute.inference_flops(LlamaConfig(), 0)


FEW = dict(vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
TWO = dict(FEW, intermediate_size=32, num_key_value_heads=2, head_dim=8)
SHARED = dict(TWO, num_hidden_layers=4, layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=16, num_kv_shared_layers=2, vocab_size_per_layer_input=64, hidden_size_per_layer_input=8,
              intermediate_size=[32] * 4)
LATENT = DeepseekV3Config(**FEW, num_key_value_heads=4, intermediate_size=32, q_lora_rank=16, kv_lora_rank=24, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4,
                          num_experts_per_tok=2, n_group=1, topk_group=1, moe_intermediate_size=16, bos_token_id=None, eos_token_id=None)


@pytest.mark.parametrize("config", [LlamaConfig(**TWO), MistralConfig(**TWO, sliding_window=16), MistralConfig(**TWO, sliding_window=64), Gemma2Config(**TWO, sliding_window=16), FalconConfig(**FEW),
                                    FalconConfig(**FEW, multi_query=False), FalconConfig(**FEW, new_decoder_architecture=True, num_kv_heads=2), LATENT,
                                    Lfm2Config(**TWO, layer_types=["conv", "full_attention", "conv"]), Gemma3nTextConfig(**SHARED, laurel_rank=8, activation_sparsity_pattern=[0.0] * 4),
                                    Gemma4TextConfig(**SHARED | {"intermediate_size": 32}, global_head_dim=16),
                                    NemotronHConfig(**TWO, mamba_num_heads=4, mamba_head_dim=16, ssm_state_size=8, n_groups=1, moe_intermediate_size=16, moe_shared_expert_intermediate_size=16)],
                         ids=["llama", "mistral", "wide mistral", "gemma2", "falcon", "falcon of many heads", "new falcon", "deepseek", "lfm2", "gemma3n", "gemma4", "nemotron"])
def test_the_cache_is_what_transformers_keeps(config):
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        kept = model(input_ids=torch.full((2, 40), 7), use_cache=True).past_key_values
    if config is LATENT and kept.layers[0].keys.shape[1] > 1:
        pytest.skip("this version of transformers keeps keys and values made of the latent vector")
    assert cache_bytes(config, 40, 2, 4) == sum(layer.keys.nbytes + layer.values.nbytes for layer in kept.layers if getattr(layer, "keys", None) is not None)


def test_the_cache_of_published_configurations():
    assert cache_bytes(DeepseekV3Config(), 1) == 2 * 61 * (512 + 64)                      # DeepSeek-V2 2024, section 2.1: the latent vector and the rotary part
    hybrid = Qwen3NextConfig()                                                            # every fourth layer attends
    assert cache_bytes(hybrid, 1000) == 12 * 2 * hybrid.num_key_value_heads * hybrid.head_dim * 1000 * 2 and hybrid.num_hidden_layers == 48
    odd = LlamaConfig(**TWO)
    odd.layer_types = ["full_attention", "compressed_sparse_attention", "full_attention"]
    with pytest.raises(ValueError, match="layers of the kind compressed_sparse_attention keep"):
        cache_bytes(odd, 10)
    with pytest.raises(ValueError, match="'mimo_v2_flash' gives its values a width of their own"):
        cache_bytes(MiMoV2FlashConfig(), 10)


@pytest.mark.parametrize("config, low", [(LlamaConfig(**FEW, intermediate_size=96), 0.9), (Phi3Config(**FEW, intermediate_size=96, pad_token_id=0), 0.85), (GemmaConfig(**TWO | {"intermediate_size": 256}), 0.9),
                                         (MixtralConfig(**TWO | {"intermediate_size": 96}, num_local_experts=4, num_experts_per_tok=2), 0.8), (Qwen3Config(**TWO | {"intermediate_size": 96, "head_dim": 32}), 0.9),
                                         (Gemma3TextConfig(**TWO | {"intermediate_size": 96, "head_dim": 32}), 0.85)], ids=["llama", "phi3", "gemma", "mixtral", "qwen3", "gemma3"])
def test_the_activations_of_gated_layers_are_those_that_are_kept(config, low):
    model, kept = AutoModelForCausalLM.from_config(config), {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)              # held, so that no address comes twice
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.nn.functional.cross_entropy(model(input_ids=torch.full((4, 32), 7)).logits.flatten(0, 1), torch.full((128,), 7))
    assert low < model_sizes(config).activation_bytes(32, 4) / sum(size for size, _ in kept.values()) < 1.1


def test_every_layer_of_albert_is_planned_for():
    one, two = (model_sizes(AlbertConfig(**FEW, embedding_size=16, intermediate_size=96, inner_group_num=number)) for number in (1, 2))
    assert two.layers == 2 * one.layers and two.activation_bytes(32, 4) > 1.5 * one.activation_bytes(32, 4)


def test_gates_are_found():
    assert model_sizes(ModernBertConfig(**FEW, pad_token_id=0)).gated and model_sizes(Gemma2Config(**TWO)).gated
    assert not any(model_sizes(model).gated for model in (GPT2Config(n_embd=32, n_layer=2, n_head=2), "bert-tiny", "1B"))


OF_EXPERTS = {                                                       # published: billions of parameters, and of those that a token meets
    "Mixtral 8x7B": (MixtralConfig(), 46.7, 12.9), "DeepSeek-V3": (DeepseekV3Config(), 671, 37), "OLMoE": (OlmoeConfig(intermediate_size=1024, vocab_size=50304), 6.9, 1.3),
    "Qwen3-30B-A3B": (Qwen3MoeConfig(vocab_size=151936, num_hidden_layers=48, head_dim=128), 30.5, 3.3), "Llama 4 Scout": (Llama4TextConfig(), 108, 17),
    "Qwen1.5-MoE-A2.7B": (Qwen2MoeConfig(), 14.3, 2.7), "JetMoE-8B": (JetMoeConfig(num_hidden_layers=24, num_key_value_heads=16), 8.5, 2.2),
    "DBRX": (DbrxConfig(d_model=6144, n_heads=48, n_layers=40, vocab_size=100352, attn_config=dict(kv_n_heads=8, rope_theta=5e5), ffn_config=dict(ffn_hidden_size=10752, moe_num_experts=16, moe_top_k=4)), 132, 36),
    "gpt-oss-20b": (GptOssConfig(num_hidden_layers=24, num_local_experts=32), 20.9, 3.6 + 0.58)}            # theirs is without the embeddings, 201,088 of 2,880 numbers


@pytest.mark.parametrize("name", OF_EXPERTS)
def test_the_parameters_that_a_token_meets_are_those_published(name):
    config, every, met = OF_EXPERTS[name]
    sizes = model_sizes(config)
    assert abs(sizes.parameters / 1e9 / every - 1) < 0.01 and abs(sizes.active * sizes.parameters / 1e9 / met - 1) < 0.06
    assert sizes.flops_per_token(1024) == 6 * sizes.active * sizes.parameters


def test_a_token_meets_the_chosen_experts_only():
    few, all_met = (MixtralConfig(**TWO, num_local_experts=8, num_experts_per_tok=k) for k in (2, 8))
    for config in (few, all_met):
        with FlopCounterMode(display=False) as counter:
            AutoModelForCausalLM.from_config(config, experts_implementation="eager")(input_ids=torch.arange(32).view(4, 8), use_cache=False)
        assert 0.8 < 3 * counter.get_total_flops() / 32 / model_sizes(config).flops_per_token(8) < 1.1
    assert training_memory(model_sizes(few), PlanOptions())["optimizer"] == training_memory(model_sizes(all_met), PlanOptions())["optimizer"]
    found = plan(few, tokens=1e6, hardware="t4", block_size=64)
    assert "parameters that it meets: 2 of 8 experts in a layer" in found.assumptions[0] and "experts" not in plan(LlamaConfig(**TWO), tokens=1e6, hardware="t4").assumptions[0]


@pytest.mark.parametrize("config, name, value, says", [(GPT2Config(), "n_layer", -3, "n_layer -3: .*at least 0"), (LlamaConfig(), "num_attention_heads", 0, "num_attention_heads 0: .*at least 1"),
                                                       (LlamaConfig(), "vocab_size", 0, "vocab_size 0"), (LlamaConfig(), "head_dim", -8, "cannot be made")])
def test_sizes_that_cannot_be_are_named(config, name, value, says):
    setattr(config, name, value)
    with pytest.raises(ValueError, match=says):
        plan(config, tokens=1e6, hardware="h200")


def test_sizes_of_zero(tmp_path):
    assert plan(GPT2Config(n_layer=0), tokens=1e6, hardware="t4").flops == 6e6 * 768 * 50257                # the head alone
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 0}')
    with pytest.raises(ValueError, match="size of 0 in its config.json"):
        plan(tmp_path, hardware="t4")


GRID = [g.ravel() for g in np.meshgrid(np.geomspace(1e7, 3e9, 4), np.geomspace(1e8, 1e11, 4))]


@pytest.mark.parametrize("tokens", [lambda n: 20 * n, lambda n: n**1.1, lambda n: 20 * n * np.tile([0.9, 1.1], 8)])
def test_sizes_and_lengths_that_grow_together_are_refused(tokens):
    with pytest.raises(ValueError, match="grow together .*add runs of one size"):
        compute.fit_scaling_law(GRID[0], tokens(GRID[0]), compute.HOFFMANN.loss(GRID[0], tokens(GRID[0])), resamples=0)


def test_runs_of_one_budget_determine_a_law(caplog):
    sizes = np.geomspace(1e7, 3e9, 16)                                   # the larger, the fewer tokens: the terms cannot change places
    law = compute.fit_scaling_law(sizes, 1e21 / 6 / sizes, compute.HOFFMANN.loss(sizes, 1e21 / 6 / sizes), resamples=0)
    assert abs(law.alpha - 0.34) < 0.01 and abs(law.beta - 0.28) < 0.01 and not caplog.text


@pytest.mark.parametrize("losses, named", [(np.full(16, 3.0), "alpha"), (1 / compute.HOFFMANN.loss(*GRID), "beta")], ids=["constant", "rising"])
def test_coefficients_that_the_runs_do_not_determine_are_named(losses, named, caplog):
    compute.fit_scaling_law(*GRID, losses, resamples=0)
    assert "the runs do not determine" in caplog.text and named in caplog.text and caplog.text.count("\n") == 1


def test_a_floor_of_zero_is_no_reason_for_a_warning(caplog):
    assert compute.fit_scaling_law(*GRID, compute.HOFFMANN.loss(*GRID) - 1.69, resamples=0).E < 1e-3 and not caplog.text


def test_a_coefficient_that_is_not_there():
    law = dataclasses.replace(compute.HOFFMANN, samples=np.ones((3, 5)))
    assert law.interval("E") == (1, 1)
    with pytest.raises(ValueError, match="'e' is no coefficient: there are E, A, B, alpha, beta"):
        law.interval("e")


@pytest.mark.parametrize("name", ["Gemma", "OPT", "GPTNeoX", "Phi", "Bloom", "NanoChat", "Gemma3Text", "Bert"])
def test_a_configuration_without_a_class_is_of_its_family(name):
    import transformers
    from lmnotes.compute import model_sizes
    assert model_sizes(getattr(transformers, f"{name}Config")()).head_share == (0.15 if name == "Bert" else 1.0)
