"""04_transformer: our BERT and GPT-2 against the library's, in every configuration that changes the arithmetic."""
import copy
import math
import sys
import threading
import types
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, IBertConfig, IBertForMaskedLM, LEDConfig, LEDForConditionalGeneration, LlamaConfig, LlamaForCausalLM,
                          PreTrainedModel, T5Config, T5ForConditionalGeneration)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

import lmnotes
from lmnotes import transformer
from lmnotes.transformer import (COUNTED, GPT, PRESETS, BertLM, SelfAttention, activation_bytes, attention, bert_weights, flops_per_token, gpt_weights, model_config, parameter_count,
                                 position_limit, rotary, sinusoidal)

BERT = dict(vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=30)
GPT2 = dict(vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=40, bos_token_id=None, eos_token_id=None)
BERTS = [{}, {"num_attention_heads": 1}, {"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"hidden_act": "silu"}, {"tie_word_embeddings": False}, {"type_vocab_size": 5},
         {"layer_norm_eps": 1e-3}, {"pad_token_id": None}, {"pad_token_id": 7}, {"num_hidden_layers": 5, "intermediate_size": 7}]
GPTS = [{}, {"n_head": 1}, {"n_inner": 17}, {"activation_function": "relu"}, {"activation_function": "gelu"}, {"tie_word_embeddings": False}, {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True}, {"layer_norm_epsilon": 1e-3}, {"reorder_and_upcast_attn": True}, {"n_layer": 4}]


def scrambled(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def bert(**changes):
    return scrambled(BertForMaskedLM(BertConfig(**{**BERT, **changes})))


def gpt(**changes):
    return scrambled(GPT2LMHeadModel(GPT2Config(**{**GPT2, **changes})))


def rows_and_mask(side, vocab=90, lengths=(3, 9, 1, 6)):
    torch.manual_seed(2)
    rows = [torch.randint(1, vocab, (n,)) for n in lengths]
    ids, mask = torch.zeros(len(rows), max(lengths), dtype=torch.long), torch.zeros(len(rows), max(lengths), dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(ids.shape[1] - len(row), None)
        ids[i, where], mask[i, where] = row, 1
    return rows, ids, mask


def same_logits_and_gradients(ours, theirs, renamed, ids, **inputs):
    labels = torch.randint(ours.config.vocab_size, ids.shape)
    a, b = ours(ids, **inputs), theirs(ids, **inputs).logits
    assert ((a - b).norm() / b.norm()).item() < 1e-5
    for logits in (a, b):
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    mine = {name: p.grad for name, p in ours.named_parameters()}
    other = renamed({name: p.grad for name, p in theirs.named_parameters()})
    assert mine.keys() == other.keys()
    scale = max(g.norm() for g in other.values())
    for name, gradient in other.items():
        assert (mine[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6 * scale, name


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("changes", BERTS, ids=str)
def test_bert_equals_the_library(changes, fast):
    theirs = bert(**changes)
    _, ids, mask = rows_and_mask("right")
    segments = (torch.arange(ids.shape[1]) % theirs.config.type_vocab_size).expand_as(ids)
    same_logits_and_gradients(BertLM.from_transformers(theirs, fast), theirs, bert_weights, ids, attention_mask=None, token_type_ids=segments)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("changes", GPTS, ids=str)
def test_gpt_equals_the_library(changes, fast):
    theirs = gpt(**changes)
    _, ids, _ = rows_and_mask("right")
    same_logits_and_gradients(GPT.from_transformers(theirs, fast), theirs, gpt_weights, ids)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", [BertLM, GPT])
def test_padding_and_company_do_not_change_a_row(kind, side):
    ours = kind.from_transformers(bert() if kind is BertLM else gpt())
    rows, ids, mask = rows_and_mask(side)
    with torch.no_grad():
        together = ours(ids, mask)
        assert together.isfinite().all()
        other = ids.masked_fill(mask == 0, 55)                                     # what stands in the padding does not matter
        assert torch.equal(ours(other, mask)[mask.bool()], together[mask.bool()])
        for i, row in enumerate(rows):
            assert torch.allclose(together[i][mask[i].bool()], ours(row[None])[0], rtol=1e-4, atol=1e-5)


def test_right_padded_batch_equals_the_library():
    theirs = bert()
    _, ids, mask = rows_and_mask("right")
    assert torch.allclose(BertLM.from_transformers(theirs)(ids, mask)[mask.bool()], theirs(ids, mask).logits[mask.bool()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fast", [True, False])
def test_generation_with_and_without_cache_and_in_the_library(fast):
    theirs = gpt()
    ours = GPT.from_transformers(theirs, fast)
    rows, ids, mask = rows_and_mask("left")
    cached, uncached = (ours.generate(ids, 15, mask, cached=cached) for cached in (True, False))
    assert torch.equal(cached, uncached)
    assert torch.equal(cached, theirs.generate(ids, attention_mask=mask, max_new_tokens=15, do_sample=False, pad_token_id=0))
    samples = [ours.generate(ids, 15, mask, temperature=0.9, cached=c, generator=torch.Generator().manual_seed(3)) for c in (True, False)]
    assert torch.equal(*samples) and not torch.equal(samples[0], cached)


def test_causal_mask_hides_the_future():
    ours = GPT.from_transformers(gpt())
    ids = torch.randint(90, (2, 12))
    other = ids.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 90
    assert torch.equal(ours(ids)[:, :7], ours(other)[:, :7])


def test_half_precision_and_autocast():
    ours, ids = GPT.from_transformers(gpt()), torch.randint(90, (2, 12))
    with torch.autocast("cpu", torch.bfloat16):
        assert (ours(ids).float() - ours(ids)).abs().max() < 1
    assert (ours.bfloat16()(ids).float() - GPT.from_transformers(gpt())(ids)).abs().mean() < 0.1


def test_dropout_is_on_in_training_only():
    ours = BertLM.from_transformers(bert())
    ids = torch.randint(90, (2, 12))
    assert torch.equal(ours(ids), ours(ids))
    ours.train()
    assert not torch.equal(ours(ids), ours(ids))


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_the_fused_function(causal, scale):
    q, k, v = (torch.randn(2, 3, 7, 4, dtype=torch.float64) for _ in range(3))
    assert torch.allclose(attention(q, k, v, is_causal=causal, scale=scale), F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale), atol=1e-12)
    mask = torch.rand(2, 1, 7, 7) < 0.7
    mask |= torch.eye(7, dtype=torch.bool)
    assert torch.allclose(attention(q, k, v, mask, scale=scale), F.scaled_dot_product_attention(q, k, v, mask, scale=scale), atol=1e-12)


def test_rotary_equals_the_library():
    config = LlamaConfig(hidden_size=64, num_attention_heads=4)
    q, positions = torch.randn(2, 4, 11, 16), torch.arange(11)
    cos, sin = LlamaRotaryEmbedding(config)(q, positions[None])
    assert torch.allclose(rotary(q, positions), apply_rotary_pos_emb(q, q, cos, sin)[0], atol=1e-5)


def test_sinusoidal_by_its_definition():
    import math
    waves = sinusoidal(torch.arange(9), 6)
    assert waves.shape == (9, 6)
    for place in range(9):
        for i in range(3):
            assert math.isclose(waves[place, 2 * i].item(), math.sin(place / 10000 ** (2 * i / 6)), abs_tol=1e-6)
            assert math.isclose(waves[place, 2 * i + 1].item(), math.cos(place / 10000 ** (2 * i / 6)), abs_tol=1e-6)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_operations_are_what_pytorch_counts(family):
    if family == "llama":
        config = LlamaConfig(vocab_size=90, hidden_size=32, intermediate_size=50, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, attn_implementation="eager")
        model = LlamaForCausalLM(config)
    else:
        config = BertConfig(**BERT) if family == "bert" else GPT2Config(**GPT2, n_inner=50)
        model = (BertLM if family == "bert" else GPT)(config, fast=False)
    ids = torch.randint(90, (3, 20))
    with FlopCounterMode(display=False) as counter:
        logits = model(ids)
        F.cross_entropy(getattr(logits, "logits", logits).flatten(0, 1), ids.flatten()).backward()
    assert counter.get_total_flops() == pytest.approx(60 * flops_per_token(config, 20), rel=2e-3 if family == "llama" else 1e-9)


COUNTED_CHANGES = [*((family, {}) for family in COUNTED), ("qwen3", {"head_dim": 16}), ("llama", {"head_dim": 12}), ("electra", {"embedding_size": 16}), ("albert", {"embedding_size": 16}),
                   ("modernbert", {"local_attention": 8})]


@pytest.mark.parametrize("family, changes", COUNTED_CHANGES, ids=str)
def test_operations_of_each_family_are_what_pytorch_counts(family, changes):
    sizes = dict(vocab_size=90, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    sizes |= {"n_inner": 50} if family == "gpt2" else {"hidden_dim": 50} if family == "distilbert" else {"intermediate_size": 50}
    sizes |= {"num_key_value_heads": 2} if family in ("llama", "qwen2", "qwen3", "mistral") else {"cls_token_id": 0, "sep_token_id": 2} if family == "modernbert" else {}
    config = AutoConfig.for_model(family, **sizes, **changes)
    kind = AutoModelForMaskedLM if COUNTED.index(family) < COUNTED.index("gpt2") else AutoModelForCausalLM
    model, ids = kind.from_config(config, attn_implementation="eager"), torch.randint(5, 90, (3, 20))
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(ids).logits.flatten(0, 1), ids.flatten()).backward()
    assert counter.get_total_flops() == pytest.approx(60 * flops_per_token(config, 20), rel=3e-3)       # the library may count its rotary angles


def test_operations_of_other_families():
    assert flops_per_token(AutoConfig.for_model("opt"), 20) > 0
    with pytest.raises(TypeError, match="'t5', an encoder-decoder"):
        flops_per_token(T5Config(), 20)


def test_relative_positions_have_no_limit():
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, n_positions=512))
    assert position_limit(t5) is None and position_limit(gpt()) == 40


def test_each_side_of_led_has_positions_of_its_own():
    led = LEDConfig(vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
                    max_encoder_position_embeddings=64, max_decoder_position_embeddings=16, attention_window=8)
    assert position_limit(LEDForConditionalGeneration(led)) == 16


def test_a_quantised_table_of_positions_is_counted():
    ibert = IBertForMaskedLM(IBertConfig(vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32, pad_token_id=1))
    assert position_limit(ibert) == 30


def test_a_query_without_a_key_gets_nothing():
    q, k, v = (torch.randn(2, 3, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.rand(2, 1, 7, 7) < 0.7
    mask[:, :, 2] = False
    found, fused = attention(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask)
    assert torch.allclose(found, fused, atol=1e-12) and not found[:, :, 2].any()
    assert all(g.isfinite().all() for g in torch.autograd.grad(found.sum(), (q, k, v)))


@pytest.mark.parametrize("kind", [BertLM, GPT])
def test_masks_of_any_type_are_taken(kind):
    ours = kind.from_transformers(bert() if kind is BertLM else gpt())
    _, ids, mask = rows_and_mask("left")
    for other in (mask.float(), mask.bool()):
        assert torch.equal(ours(ids, other), ours(ids, mask))
        if kind is GPT:
            assert torch.equal(ours.generate(ids, 3, other), ours.generate(ids, 3, mask))


def test_rotary_keeps_the_type():
    q = torch.randn(2, 4, 11, 16)
    assert rotary(q.bfloat16(), torch.arange(11)).dtype == torch.bfloat16
    assert torch.allclose(rotary(q.bfloat16(), torch.arange(11)).float(), rotary(q, torch.arange(11)), atol=0.05)


def test_fields_of_a_preset():
    for heads in (2, 8):
        config = model_config("llama-mini", 64, num_attention_heads=heads)
        assert config.num_key_value_heads == heads and LlamaForCausalLM(config)(torch.tensor([[1, 2]])).logits.shape == (1, 2, 64)
    assert model_config("llama-mini", 64, num_key_value_heads=2).num_key_value_heads == 2
    assert model_config("gpt-tiny", 64, num_hidden_layers=5, hidden_size=32).n_layer == 5


def test_sizes_may_be_numpys():
    config = model_config("gpt-mini", np.int64(100), np.int32(64), hidden_size=np.int64(32), n_head=np.int64(2), pad_token_id=np.int64(3))
    assert config.to_dict() == model_config("gpt-mini", 100, 64, hidden_size=32, n_head=2, pad_token_id=3).to_dict() and type(config.pad_token_id) is int
    assert SelfAttention(np.int64(8), np.int64(2)).heads == 2 and activation_bytes(config, np.int64(8)) == activation_bytes(config, 8)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_open_with_plain_auto_classes(name, tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
    config = model_config(name, 64, block_size=32)
    if parameter_count(config) > 2e7:
        pytest.skip("large: its configuration is checked by its parameter count in the notebook")
    kind = AutoModelForMaskedLM if "bert" in name else AutoModelForCausalLM
    model = kind.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(config)
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    ids = torch.randint(64, (1, 8))
    assert torch.equal(model.eval()(ids).logits, again.eval()(ids).logits)


def test_activations_of_another_family_are_refused():
    with pytest.raises(ValueError, match="llama"):
        activation_bytes(model_config("llama-mini", 100), 32)


@pytest.mark.parametrize("call, message", [
    (lambda: SelfAttention(32, 5), "32 cannot be divided among 5 heads"),
    (lambda: BertLM(BertConfig(**{**BERT, "num_attention_heads": 5})), "5 heads"),
    (lambda: BertLM(GPT2Config(**GPT2)), "'gpt2'"),
    (lambda: BertLM(BertConfig(**BERT, is_decoder=True)), "decoder"),
    (lambda: GPT(BertConfig(**BERT)), "'bert'"),
    (lambda: GPT(GPT2Config(**GPT2, add_cross_attention=True)), "cross-attention"),
    (lambda: BertLM(BertConfig(**BERT))(torch.tensor([[1, 90]])), "input_ids hold 90, the vocabulary has the ids 0 to 89"),
    (lambda: GPT(GPT2Config(**GPT2))(torch.tensor([[-1, 2]])), "input_ids hold -1"),
    (lambda: BertLM(BertConfig(**BERT))(torch.zeros(1, 31, dtype=torch.long)), "31 tokens, the model 30 positions"),
    (lambda: GPT(GPT2Config(**GPT2))(torch.zeros(1, 41, dtype=torch.long)), "41 tokens, the model 40 positions"),
    (lambda: GPT(GPT2Config(**GPT2)).generate(torch.zeros(1, 30, dtype=torch.long), 11), "41 tokens"),
    (lambda: GPT(GPT2Config(**GPT2))(torch.zeros(3, dtype=torch.long)), "(3,)"),
    (lambda: GPT(GPT2Config(**GPT2))(torch.zeros(1, 0, dtype=torch.long)), "(1, 0)"),
    (lambda: BertLM(BertConfig(**BERT))(torch.zeros(2, 6, dtype=torch.long), torch.ones(2, 5)), "(2, 5), the tokens (cached ones included) have (2, 6)"),
    (lambda: GPT(GPT2Config(**GPT2))(torch.zeros(2, 6, dtype=torch.long), torch.ones(6)), "attention_mask has the shape (6,)"),
    (lambda: BertLM.from_transformers(gpt()), "'gpt2'"),
    (lambda: BertLM(BertConfig(**BERT))(torch.tensor([[1, 2]]), torch.tensor([[0.5, 1]])), "attention_mask holds other numbers"),
    (lambda: BertLM(BertConfig(**BERT))(torch.tensor([[1, 2]]), token_type_ids=torch.tensor([[0, 2]])), "token_type_ids hold 0 to 2, the model has the segments 0 to 1"),
    (lambda: BertLM(BertConfig(**BERT))(torch.tensor([[1, 2]]), token_type_ids=torch.tensor([[0]])), "token_type_ids have the shape (1, 1)"),
    (lambda: GPT(GPT2Config(**GPT2)).generate(torch.tensor([[1, 2]]), 1, torch.tensor([[1, 0]])), "pad on the left"),
    (lambda: GPT(GPT2Config(**GPT2)).generate(torch.tensor([[1, 2]]), 1, temperature=-1), "temperature -1"),
    (lambda: GPT(GPT2Config(**GPT2)).generate(torch.tensor([[1, 2]]), -2), "new_tokens -2"),
    (lambda: GPT(GPT2Config(**GPT2)).generate(torch.tensor([[1, 2]]), 1, temperature=float("inf")), "temperature inf must be 0 or more, and finite"),
    (lambda: attention(*torch.ones(3, 2, 4), torch.ones(2, 2, dtype=torch.bool), is_causal=True), "attn_mask and is_causal"),
    (lambda: sinusoidal(torch.arange(3), 5), "hidden 5 must be even"),
    (lambda: rotary(torch.ones(3, 5), torch.arange(3)), "vectors of 5 numbers"),
    (lambda: flops_per_token(BertConfig(**BERT), 20, 15), "predicted 15"),
    (lambda: flops_per_token(BertConfig(**BERT), -1), "block_size -1"),
    (lambda: model_config("bert-mini", 100, num_layers=12), "'num_layers' is no field of BertConfig"),
    (lambda: model_config("bert-mini", 100, hiden_size=12), "did you mean 'hidden_size'"),
    (lambda: model_config("llama-mini", 100, num_key_value_heads=3), "num_key_value_heads 3 must divide"),
    (lambda: model_config("bert-mini", 100, num_attention_heads=3), "256 cannot be divided among 3 heads"),
    (lambda: model_config("bert-mini", 100, block_size=0), "block_size 0"),
    (lambda: model_config("nothing", 100), "'nothing' is not a preset"),
    (lambda: model_config("bert-mini", "100"), "vocab_size '100' is out of range"),
    *((lambda name=name, field=field, value=value: model_config(name, 100, **{field: value}), f"{field} {value} is out of range") for name in ("bert-mini", "modernbert-mini", "gpt-mini", "llama-mini")
      for field, value in (("num_attention_heads", 0), ("num_attention_heads", -2), ("hidden_size", 0), ("num_hidden_layers", -1), ("max_position_embeddings", 0))),
    (lambda: model_config("llama-mini", 100, num_key_value_heads=0), "num_key_value_heads 0 is out of range"),
    (lambda: model_config("gpt-mini", 100, n_head=-4), "n_head -4 is out of range"),
    (lambda: SelfAttention(64, 0), "heads 0 is out of range"),
    (lambda: SelfAttention(64, -2), "heads -2 is out of range"),
    (lambda: SelfAttention(0, 2), "hidden 0 is out of range"),
    (lambda: activation_bytes(BertConfig(**BERT), "8"), "block_size '8' is out of range"),
    (lambda: activation_bytes(BertConfig(**BERT), -8), "block_size -8 is out of range"),
    (lambda: activation_bytes(BertConfig(**BERT), 8, 0), "batch_size 0 is out of range"),
    (lambda: activation_bytes(BertConfig(**BERT), 8, 1, -4), "element -4 is out of range"),
])
def test_bad_input(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


def test_weights_of_another_shape_are_named():
    theirs = bert()
    theirs.config.intermediate_size = 60
    with pytest.raises(ValueError, match=r"inner.weight' have the shape \(48, 32\), the configuration asks for \(60, 32\)"):
        BertLM.from_transformers(theirs)
    theirs.config.intermediate_size, theirs.config.num_hidden_layers = 48, 3
    with pytest.raises(ValueError, match="lack 'layers.2"):
        BertLM.from_transformers(theirs)


wide = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
FAMILIES = [lambda: bert(hidden_size=64, intermediate_size=256), lambda: gpt(n_embd=64),
            lambda: scrambled(LlamaForCausalLM(LlamaConfig(vocab_size=90, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2))),
            lambda: scrambled(T5ForConditionalGeneration(T5Config(vocab_size=90, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0)))]


@wide
@pytest.mark.parametrize("make", FAMILIES)
def test_onednn_gives_the_logits_of_the_default_products(make, monkeypatch):
    model, taken = make(), []
    monkeypatch.setattr(transformer, "_ENOUGH", 1)
    monkeypatch.setattr(transformer, "_onednn_is_faster", lambda: True)
    product = transformer._ByOneDNN.product
    monkeypatch.setattr(transformer._ByOneDNN, "product", staticmethod(lambda *given, **named: taken.append(product(*given, **named)) or taken[-1]))
    ids = torch.randint(3, 90, (3, 20))
    more = {"decoder_input_ids": ids[:, :7]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        plain = model(ids, **more).logits
        assert not taken
        with transformer.evaluating(model):
            assert torch.allclose(model(ids, **more).logits, plain, atol=1e-4)
    assert len(taken) > 8 and all(t is not None for t in taken)


def test_short_attention_is_the_definition_in_bf16_only_where_it_may_be():
    "Without a mask, a gradient or a compiled model; anything else is PyTorch's kernel."
    given, taken = torch.randn(3, 2, 4, 10, 16).bfloat16(), transformer._ShortAttention.attention
    exact = F.scaled_dot_product_attention(*given.double())
    assert torch.allclose(taken(*given).double(), exact, atol=0.03) and torch.equal(taken(*given, scale=0.25), taken(*given))                 # 16 ** -0.5
    assert torch.allclose(taken(*given, scale=1.0).double(), F.scaled_dot_product_attention(*given.double(), scale=1.0), atol=0.05)
    long, wide = torch.randn(3, 1, 1, 129, 16).bfloat16(), torch.randn(3, 2, 4, 10, 16)
    refused = [taken(*long), taken(*wide), taken(*given, attn_mask=torch.ones(10, 10, dtype=torch.bool)), taken(*given, is_causal=True), taken(*given, dropout_p=0.1),
               taken(*given, enable_gqa=True), taken(given[0], given[1][:, :1], given[2][:, :1]), taken(*given[:, 0])]
    assert refused == [None] * 8
    other = taken(given[0], torch.randn(2, 4, 7, 16).bfloat16(), torch.randn(2, 4, 7, 9).bfloat16())                # other texts, and values of another width
    assert other.shape == (2, 4, 10, 9)
    assert taken(given[0][:, :, :0], *given[1:]) is None and taken(given[0], given[1][:, :, :0], given[2][:, :, :0]) is None
    same = given[0][:, :, 3:4].expand(-1, -1, 10, -1)                                                                # asked once for all places
    assert torch.equal(taken(same, *given[1:]), taken(given[0][:, :, 3:4], *given[1:]).expand(-1, -1, 10, -1))
    for large in (200, -200):                                                                                       # exponentials that overflow, or all but vanish
        steep = given[0] * large, given[1].abs(), given[2]
        assert torch.allclose(taken(*steep).double(), F.scaled_dot_product_attention(*(t.double() for t in steep)), atol=0.3) and taken(*steep).isfinite().all()
    broken = given[0].clone()
    broken[0, 0, 0, 0] = math.nan
    assert torch.equal(taken(broken, *given[1:]).isnan(), F.scaled_dot_product_attention(*(t.double() for t in (broken, *given[1:]))).isnan())
    with transformer._ShortAttention():
        assert F.scaled_dot_product_attention(given[0].requires_grad_(), given[1], given[2]).requires_grad
        with torch.no_grad():
            assert torch.equal(F.scaled_dot_product_attention(*given), taken(*given))
            assert torch.equal(F.scaled_dot_product_attention(*wide), torch._C._nn.scaled_dot_product_attention(*wide))


def test_which_ways_are_taken_while_evaluating(monkeypatch):
    monkeypatch.setattr(transformer, "_onednn_is_faster", lambda: True)
    model = bert(hidden_size=64, intermediate_size=256).eval()
    assert type(transformer._faster_ways(model)) is transformer._ByOneDNN
    ids, seen = torch.randint(3, 90, (3, 20)), []
    model.bfloat16()
    assert type(transformer._faster_ways(model)) is transformer._ShortAttention
    with torch.no_grad():
        fused = model(ids).logits.float()
        original = transformer._ShortAttention.plain
        monkeypatch.setattr(transformer._ShortAttention, "plain", staticmethod(lambda *given: seen.append(given[0].shape) or original(*given)))
        with transformer.evaluating(model):
            short = model(ids).logits.float()
    assert len(seen) == model.config.num_hidden_layers and (short - fused).abs().mean() < 0.02 * fused.std()
    model.compile()
    assert type(transformer._faster_ways(model)).__name__ == "nullcontext"


@wide
def test_onednn_leaves_gradients_other_types_and_errors_alone(monkeypatch):
    monkeypatch.setattr(transformer, "_ENOUGH", 1)
    x, w = torch.randn(40, 16), torch.randn(8, 16)
    with transformer._ByOneDNN():
        assert F.linear(x, w.requires_grad_()).requires_grad
        with torch.no_grad():
            assert F.linear(x.bfloat16(), w.bfloat16()).dtype == torch.bfloat16 and F.linear(x.double(), w.double()).dtype == torch.float64
            with torch.autocast("cpu", torch.bfloat16):
                assert F.linear(x, w).dtype == torch.bfloat16
            assert F.linear(x[0], w[0]).shape == () and F.linear(input=x, weight=w, bias=torch.zeros(8)).shape == (40, 8)
            assert torch.addmm(torch.zeros(40, 8), x, w.T).shape == (40, 8) and torch.addmm(torch.ones(8), x, w.T, beta=0).allclose(x @ w.T, atol=1e-4)
            assert F.linear(x[:0], w).shape == (0, 8)
            with pytest.raises(RuntimeError, match="shapes"):
                F.linear(x[:, :5], w)
            with torch.backends.mkldnn.flags(enabled=False):
                assert transformer._ByOneDNN.product(x, w) is None


@wide
def test_onednn_is_not_put_under_a_compiled_model(monkeypatch):
    monkeypatch.setattr(transformer, "_onednn_is_faster", lambda: True)
    model, seen = bert(), []
    monkeypatch.setattr(transformer._ByOneDNN, "__enter__", lambda self: seen.append(1))
    monkeypatch.setattr(transformer._ByOneDNN, "__exit__", lambda *_: None)
    with transformer.evaluating(model):
        assert seen == [1]
    model.bert.encoder.layer[0]._compiled_call_impl = model.bert.encoder.layer[0]._call_impl
    with transformer.evaluating(model):
        assert seen == [1]


@pytest.mark.parametrize("told, capability, expected", [("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n", "AVX512", True), ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\n", "AVX512", False),
                                                        ("vendor_id\t: GenuineIntel\ncpu family\t: 26\n", "AVX512", False), ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\n", "AVX2", False), ("", "AVX512", False)])
def test_which_processors_have_their_products_from_onednn(tmp_path, monkeypatch, told, capability, expected):
    (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(transformer, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert transformer._onednn_is_faster.__wrapped__() is expected


def test_a_limit_below_one_is_none():
    from types import SimpleNamespace
    from lmnotes.transformer import position_limit
    config = SimpleNamespace(model_type="xlnet", max_position_embeddings=-1)
    assert position_limit(SimpleNamespace(config=config, named_modules=lambda: [])) is None


def views(rows, columns):
    "Matrices of one shape whose numbers lie in memory in every way."
    return {"plain": torch.randn(rows, columns), "transposed": torch.randn(columns, rows).T, "columns": torch.randn(rows, 3 * columns)[:, columns:2 * columns], "every second": torch.randn(rows, 2 * columns)[:, ::2],
            "rows": torch.randn(2 * rows, columns)[::2], "one row": torch.randn(1, columns).expand(rows, columns), "one column": torch.randn(rows, 1).expand(rows, columns),
            "overlapping": torch.randn(rows + columns).as_strided((rows, columns), (1, 1))}


@wide
@pytest.mark.parametrize("bias", ["none", "plain", "apart", "one"])
def test_onednn_takes_matrices_however_they_lie_in_memory(monkeypatch, bias):
    monkeypatch.setattr(transformer, "_ENOUGH", 1)
    torch.manual_seed(0)
    b = {"none": None, "plain": torch.randn(24), "apart": torch.randn(24, 5)[:, 2], "one": torch.randn(1).expand(24)}[bias]
    with torch.no_grad():
        for how, x in views(20, 16).items():
            for lying, w in views(24, 16).items():
                wanted = (x.double() @ w.double().T + (0 if b is None else b.double())).float()
                with transformer._ByOneDNN():
                    assert torch.allclose(F.linear(x, w, b), wanted, atol=1e-4), (how, lying)
                    if b is not None:
                        assert torch.allclose(torch.addmm(b, x, w.T), wanted, atol=1e-4), (how, lying)
        x = torch.randn(6, 5, 16).transpose(0, 1)
        with transformer._ByOneDNN():
            assert torch.allclose(F.linear(x, views(24, 16)["plain"] * 0 + 1), x.sum(-1, keepdim=True).expand(5, 6, 24), atol=1e-4)


def trained_once(model, ids, mask, seed=3):
    "Loss and gradients of one step on the CPU, with dropout as the trainers compute it."
    model.train().zero_grad()
    torch.manual_seed(seed)
    with transformer._fast_dropout(model):
        loss = model(ids, attention_mask=mask, labels=ids).loss
        loss.backward()
    return loss.item(), {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attend", ["sdpa", "eager"])
def test_dropout_drops_its_share_and_keeps_the_mean(attend):
    model, (_, ids, mask) = bert(num_hidden_layers=1), rows_and_mask("right")
    model.set_attn_implementation(attend)
    model.train()
    with transformer._fast_dropout(model), torch.no_grad():
        ours = torch.stack([model.bert.encoder(model.bert.embeddings(ids)).last_hidden_state for _ in range(3000)])
    with torch.no_grad():
        theirs = torch.stack([model.bert.encoder(model.bert.embeddings(ids)).last_hidden_state for _ in range(3000)])
    error = (ours.var(0) / 3000 + theirs.var(0) / 3000).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() / error).max() < 6                      # the same distribution, as far as its first two moments say
    assert (ours.std(0) / theirs.std(0)).log().abs().max() < 0.3 and abs((ours.var(0) / theirs.var(0)).mean().item() - 1) < 0.02


def test_dropout_follows_the_seed_and_is_repeated_where_activations_are_computed_again():
    model, (_, ids, mask) = bert(), rows_and_mask("right")
    loss, gradients = trained_once(model, ids, mask)
    again, same = trained_once(model, ids, mask)
    other, _ = trained_once(model, ids, mask, seed=4)
    assert loss == again != other and all(torch.equal(gradients[k], same[k]) for k in gradients)
    model.gradient_checkpointing_enable()
    saved, computed = trained_once(model, ids, mask)
    assert saved == loss and all(torch.allclose(gradients[k], computed[k], atol=1e-7) for k in gradients)


def test_which_models_are_trained_with_dropout_by_bits():
    from transformers import BartConfig, BartForConditionalGeneration
    bart = lambda share: BartForConditionalGeneration(BartConfig(vocab_size=90, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                                                                 encoder_ffn_dim=16, decoder_ffn_dim=16, dropout=share, max_position_embeddings=30))

    def taken(model):
        own = F.dropout, F.scaled_dot_product_attention
        with transformer._fast_dropout(model):
            changed = F.dropout is not own[0], F.scaled_dot_product_attention is not own[1]
        assert (F.dropout, F.scaled_dot_product_attention) == own and len(set(changed)) == 1
        return changed[0]
    assert taken(bert()) and taken(gpt()) and taken(bart(0.1)) and not taken(bart(0.0))                    # BART calls the function, without a module
    assert not taken(bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    compiled = bert()
    compiled.bert.encoder.layer[0].compile()
    assert not taken(compiled) and not taken(bert().to("meta"))


@pytest.mark.parametrize("share", [1e-6, 0.25, 0.5, 0.999999, 1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_of_any_share_and_shape(share, dtype):
    for shape in ((), (0,), (7,), (3, 5), (2, 3, 5, 7)):
        x = torch.full(shape, 2.0, dtype=dtype)
        with transformer._fast_dropout(bert()):
            y = F.dropout(x, share)
        assert y.shape == x.shape and y.dtype == dtype
        kept = y[y != 0].unique()
        assert not len(kept) or len(kept) == 1 and torch.isclose(kept.double(), torch.tensor(2 / (1 - round(share * 65536) / 65536) if share < 1 else 0.0, dtype=torch.float64), rtol=0.01)
    slanted = torch.ones(4, 6, requires_grad=True).T
    with transformer._fast_dropout(bert()):
        assert F.dropout(slanted, 0.5).shape == (6, 4) and F.dropout(torch.ones(3), 0.5, False).tolist() == [1, 1, 1]
        inside = torch.ones(1000)
        assert F.dropout(inside, 0.5, True, True) is inside and not inside.all()                          # in place is PyTorch's
        with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
            F.dropout(inside, 1.5)


def test_attention_with_dropout_is_the_formula_where_pytorch_would_take_it():
    q, k, v = torch.randn(3, 2, 4, 6, 8)

    def seeded(function, *given, **more):
        with transformer._fast_dropout(bert()):
            torch.manual_seed(0)
            return function(*given, **more)
    inside, formula = partial(seeded, transformer._attention_by_bits), partial(seeded, attention)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    assert torch.allclose(inside(q, k, v, mask, 0.3), formula(q, k, v, mask, 0.3), atol=1e-6) and torch.allclose(inside(q, k, v, dropout_p=0.3, is_causal=True), formula(q, k, v, None, 0.3, True), atol=1e-6)
    assert inside(q, k, v, mask) is None and inside(q, k, v, mask.float(), 0.3) is None and inside(q, k[:, :2], v[:, :2], None, 0.3, enable_gqa=True) is None


MASKS = {"none": None, "padding": torch.arange(7) < torch.tensor([5, 7])[:, None, None, None], "documents": torch.rand(2, 1, 6, 7, generator=torch.Generator().manual_seed(1)) < 0.6,
         "heads": torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(2)) < 0.7, "plain": torch.ones(6, 7, dtype=torch.bool).tril(1), "one row": torch.arange(7) < 6,
         "nothing": torch.arange(7)[None, None, None] < torch.tensor([0, 7])[:, None, None, None]}


@pytest.mark.parametrize("case", [*MASKS, "causal", "scale", "large", "three dimensions", "float64", "everything dropped", "other width"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_with_dropout_has_the_value_and_the_gradients_of_the_formula(case, dtype):
    torch.manual_seed(5)
    dtype = torch.float64 if case == "float64" else dtype
    given = [torch.randn(2, n, 3, 8, dtype=dtype).transpose(1, 2) for n in (6, 7, 7)]
    if case in ("causal", "scale", "large", "three dimensions"):
        given[1], given[2] = given[1][:, :, :6], given[2][:, :, :6]
    if case == "three dimensions":
        given = [t[0] for t in given]
    if case == "other width":
        given[2] = torch.randn(2, 3, 7, 5, dtype=dtype)
    share = 1 - 1e-6 if case == "everything dropped" else 0.3
    more = {"attn_mask": MASKS.get(case), "is_causal": case == "causal", "scale": 0.7 if case == "scale" else 400.0 if case == "large" else None}

    def side(attend, given, **changes):
        torch.manual_seed(0)
        ends = [t.detach().clone().requires_grad_() for t in given]
        found = attend(*ends, dropout_p=share, **more | changes)
        return [found, *torch.autograd.grad(found.float().square().sum(), ends)]
    with transformer._fast_dropout(bert()):
        ours, theirs = side(F.scaled_dot_product_attention, given), side(attention, given)
        assert [t.dtype for t in ours] == [dtype] * 4 and [t.shape for t in ours] == [t.shape for t in theirs]
        if dtype == torch.bfloat16 and case not in ("large", "nothing"):
            theirs = side(attention, [t.float() for t in given])
            assert all((a - b).abs().mean() < 0.02 * b.abs().mean() + 1e-6 for a, b in zip(ours, theirs))
        else:
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs))
        for needed in range(3):                                                          # a part of the gradients
            ends = [t.detach().clone().requires_grad_(i == needed) for i, t in enumerate(given)]
            torch.manual_seed(0)
            F.scaled_dot_product_attention(*ends, dropout_p=share, **more).float().square().sum().backward()
            assert torch.equal(ends[needed].grad, ours[1 + needed])


@wide
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_taken_with_its_product_where_nobody_looks_between(dtype, monkeypatch):
    if dtype == torch.bfloat16 and not transformer._onednn_has_bf16():
        pytest.skip("oneDNN does not multiply in bf16 on this processor")
    monkeypatch.setattr(transformer, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(transformer, "_ENOUGH", 1)
    model, (_, ids, mask), seen, taken = bert(), rows_and_mask("right"), [], []
    product = transformer._ByOneDNN.product
    monkeypatch.setattr(transformer._ByOneDNN, "product", staticmethod(lambda *given: taken.append(given[3:] == ("gelu",)) or product(*given)))
    exact = copy.deepcopy(model).double()(ids, attention_mask=mask).logits[mask.bool()]
    model.to(dtype)
    with torch.no_grad():
        plain = model(ids, attention_mask=mask).logits[mask.bool()].double()
        with transformer.evaluating(model):
            assert "forward" in vars(model.bert.encoder.layer[0].intermediate)
            fused = model(ids, attention_mask=mask).logits[mask.bool()].double()
            assert sum(taken) == model.config.num_hidden_layers
            handle = model.bert.encoder.layer[0].intermediate.dense.register_forward_hook(lambda part, given, found: seen.append(found))
            model(ids, attention_mask=mask)
            handle.remove()
            assert sum(taken) == 2 * model.config.num_hidden_layers - 1 and len(seen) == 1 and (seen[0] < -0.2).any()             # before GELU, which has nothing below -0.17
            looks = [lambda: torch.nn.modules.module.register_module_forward_hook(lambda part, given, found: seen.append(found)), lambda: replaced(model.bert.encoder.layer[0].intermediate.dense, seen)]
            for before, look in zip((0, 1), looks):                                          # a hook of all modules; accelerate's way
                seen.clear(), taken.clear()
                handle = look()
                model(ids, attention_mask=mask)
                handle.remove()
                assert sum(taken) == before * (model.config.num_hidden_layers - 1) and any(found.shape[-1] == model.config.intermediate_size and (found < -0.2).any() for found in seen if hasattr(found, "shape"))
            taken[:] = [True] * (2 * model.config.num_hidden_layers - 1)
            with torch.enable_grad():
                assert model(ids, attention_mask=mask).logits.requires_grad
            assert sum(taken) == 2 * model.config.num_hidden_layers - 1
    assert "forward" not in vars(model.bert.encoder.layer[0].intermediate)
    assert (fused - exact).abs().mean() < 1.2 * (plain - exact).abs().mean() + 1e-7


def replaced(part, seen):
    "The part with a forward of somebody else's, until `remove`."
    part.forward = lambda given, forward=part.forward: seen.append(forward(given)) or seen[-1]
    return types.SimpleNamespace(remove=lambda: vars(part).pop("forward"))


@wide
def test_a_layer_with_a_norm_before_its_product_keeps_it(monkeypatch):
    monkeypatch.setattr(transformer, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(transformer, "_ENOUGH", 1)
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("roberta-prelayernorm", vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)).eval()
    for name, tensor in model.named_parameters():
        tensor.data += 0.5 * torch.randn_like(tensor) * ("LayerNorm" in name)
    ids = torch.randint(3, 90, (3, 20))
    with torch.no_grad():
        plain = model(ids).logits
        with transformer.evaluating(model):
            assert torch.allclose(model(ids).logits, plain, atol=1e-4)


@wide
@pytest.mark.parametrize("part", ["forward", "encoder"])
def test_a_compiled_part_is_evaluated_by_its_compiler(part, monkeypatch):
    monkeypatch.setattr(transformer, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(transformer, "_ENOUGH", 1)
    for dtype in (torch.float32, torch.bfloat16):
        model, ids = bert().to(dtype), torch.randint(3, 90, (3, 20))
        with torch.no_grad():
            plain = model(ids).logits
            setattr(model.bert, part, torch.compile(getattr(model.bert, part), backend="eager"))
            with transformer.evaluating(model):
                assert torch.allclose(model(ids).logits, plain, atol=1e-4 if dtype == torch.float32 else 0.1)


def test_threads_leave_no_layer_changed(monkeypatch):
    monkeypatch.setattr(transformer, "_onednn_is_faster", lambda: True)
    model, failed = bert(num_hidden_layers=12), []

    def enter():
        try:
            for _ in range(300):
                with transformer._gelu_within(model):
                    pass
        except AttributeError as error:
            failed.append(error)
    threads = [threading.Thread(target=enter) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        [thread.start() for thread in threads], [thread.join() for thread in threads]
    finally:
        sys.setswitchinterval(before)
    assert not failed and not any("forward" in vars(part) for part in model.modules())


@wide
def test_other_activations_and_other_layers_are_left_alone(monkeypatch):
    monkeypatch.setattr(transformer, "_onednn_is_faster", lambda: True)
    for changes in ({"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"hidden_act": "gelu_python"}):
        model = bert(**changes)
        with transformer.evaluating(model):
            assert not any("forward" in vars(part) for part in model.modules())
    model = bert()
    model.bert.encoder.layer[1].intermediate.dense = torch.nn.Sequential(model.bert.encoder.layer[1].intermediate.dense)              # what an adapter does
    with transformer.evaluating(model):
        assert ["forward" in vars(layer.intermediate) for layer in model.bert.encoder.layer] == [True, False]
        with transformer.evaluating(model):                                                     # once more inside
            assert "forward" in vars(model.bert.encoder.layer[0].intermediate)
        assert "forward" in vars(model.bert.encoder.layer[0].intermediate)
    assert not any("forward" in vars(part) for part in model.modules())

    class OwnIntermediate(type(model.bert.encoder.layer[0].intermediate)):
        "A layer of somebody's own, which may do something between."
    for layer in model.bert.encoder.layer:
        layer.intermediate.__class__ = OwnIntermediate
    with transformer.evaluating(model):
        assert not any("forward" in vars(part) for part in model.modules())


def test_mpt_says_its_positions_in_its_own_word():
    from transformers import MptConfig, MptForCausalLM
    assert position_limit(MptForCausalLM(MptConfig(vocab_size=20, d_model=16, n_layers=1, n_heads=2, max_seq_len=48))) == 48


def test_no_advice_about_padding_where_rows_have_none(tmp_path, monkeypatch):
    "Transformers looks at both ends of every row without a mask, waits for the device, and tells the reader to give a mask."
    looked = []
    monkeypatch.setattr(PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda *given: looked.append(given))
    texts = ["a few words of text here and there " * 3] * 40
    tokenizer = lmnotes.train_tokenizer(texts, "bpe", 300, progress=False)
    lmnotes.pretrain(texts, tokenizer, "gpt-tiny", tmp_path / "gpt", steps=2, block_size=16, batch_size=4)
    model, tokenizer = lmnotes.load(tmp_path / "gpt")
    lmnotes.perplexity(model, texts[:3], tokenizer, progress=False)
    assert looked == []
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert len(looked) == 1                                               # outside it looks as ever
