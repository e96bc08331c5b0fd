"""14_understanding: attention, heads, lens, attribution, probes and induction on four families, against hand computation, Captum and real tags."""
import logging

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel, DistilBertConfig, DistilBertForMaskedLM, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig,
                          GPTNeoXForCausalLM, ConvBertConfig, ConvBertForMaskedLM, FunnelConfig, FunnelForMaskedLM, LlamaConfig, LlamaForCausalLM, LongformerConfig, LongformerForMaskedLM, ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM,
                          T5Config, T5ForConditionalGeneration, XLNetConfig, XLNetLMHeadModel)

from lmnotes import understanding
from lmnotes.checkpoints import load, save
from lmnotes.tokenization import train_tokenizer
from lmnotes.transformer import GPT, BertLM
from lmnotes.understanding import (ablate_heads, attention_maps, attribute, control_tags, induction_scores, logit_lens, probe, tagged_sentences, without_heads)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for words, _ in tagged_sentences(300) for w in words})]
NONE = dict(bos_token_id=None, eos_token_id=None)
SIZE = dict(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
SENTENCE = "the guards near the queen watch the dog ."
GAP = "the guards near the queen [MASK] the dog ."
MASKED, CAUSAL = ("bert", "modernbert", "distilbert", "roberta"), ("gpt2", "llama", "neox")


def word_tokenizer():
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]", cls_token="[CLS]", sep_token="[SEP]")


def without_mask():
    tokenizer = word_tokenizer()
    tokenizer.mask_token = None
    return tokenizer


def scrambled(model, scale=0.2):
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * scale)
    return model.eval()


def make(family):
    torch.manual_seed(0)
    return scrambled({
        "bert": lambda: BertForMaskedLM(BertConfig(max_position_embeddings=20, **SIZE)),
        "roberta": lambda: RobertaForMaskedLM(RobertaConfig(max_position_embeddings=22, pad_token_id=0, **NONE, **SIZE)),
        "distilbert": lambda: DistilBertForMaskedLM(DistilBertConfig(vocab_size=len(WORDS), dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=20)),
        "modernbert": lambda: ModernBertForMaskedLM(ModernBertConfig(max_position_embeddings=20, pad_token_id=0, cls_token_id=None, sep_token_id=None, **NONE, **SIZE)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=20, **NONE)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(max_position_embeddings=20, num_key_value_heads=1, **NONE, **SIZE)),
        "longformer": lambda: LongformerForMaskedLM(LongformerConfig(attention_window=4, max_position_embeddings=40, pad_token_id=0, **NONE, **SIZE | {"sep_token_id": 3})),
        "funnel": lambda: FunnelForMaskedLM(FunnelConfig(vocab_size=len(WORDS), d_model=16, n_head=2, d_head=8, d_inner=24, block_sizes=[1, 1])),
        "xlnet": lambda: XLNetLMHeadModel(XLNetConfig(vocab_size=len(WORDS), d_model=16, n_layer=2, n_head=2, d_inner=24)),
        "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(max_position_embeddings=20, **NONE, **SIZE)),
    }[family]())


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture(scope="module", params=MASKED + CAUSAL)
def model(request):
    return make(request.param)


def encoded(tokenizer, text):
    return tokenizer(text, return_tensors="pt")["input_ids"]


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def is_masked(model):
    return type(model).__name__.endswith("MaskedLM")


def state(model):
    return ({n: t.clone() for n, t in model.state_dict().items()}, [m.training for m in model.modules()], model.config._attn_implementation,
            [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()])


def same_state(before, model):
    after = state(model)
    return all(torch.equal(t, after[0][n]) for n, t in before[0].items()) and before[1:3] == after[1:3]


# attention

def test_attention_rows_sum_to_one_and_the_model_is_as_before(model, tokenizer):
    model.train()
    before, ids = state(model), encoded(tokenizer, SENTENCE)
    maps = attention_maps((model, tokenizer), SENTENCE)
    assert maps.weights.shape == (2, 2, 9, 9) and maps.tokens == tuple(SENTENCE.split())
    assert np.abs(maps.weights.sum(-1) - 1).max() < 1e-5 and maps.weights.min() >= 0
    assert (np.abs(np.triu(maps.weights, 1)).max() == 0) == (not is_masked(model))
    assert same_state(before, model)
    model.eval()
    assert len(ids[0]) == 9


@pytest.mark.parametrize("family, ours", [("bert", BertLM), ("gpt2", GPT)])
def test_attention_equals_queries_times_keys(family, ours, tokenizer):
    theirs = make(family)
    mine, seen = ours.from_transformers(theirs, fast=False), []
    for layer in mine.layers:
        layer.attention.attend = lambda q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None: seen.append(
            ((q @ k.transpose(-2, -1)) * (q.shape[-1] ** -0.5 if scale is None else scale)).masked_fill(
                ~torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril() if is_causal else torch.zeros(1, 1, dtype=torch.bool), -np.inf).softmax(-1)) or seen[-1] @ v
    with torch.no_grad():
        mine(encoded(tokenizer, SENTENCE))
    maps = attention_maps(theirs, SENTENCE, tokenizer)
    assert np.abs(maps.weights - torch.stack(seen)[:, 0].numpy()).max() < 1e-5


def test_attention_of_chosen_layers_and_of_models_without_or_with_another_head(tokenizer):
    bert = make("bert")
    assert np.array_equal(attention_maps(bert, SENTENCE, tokenizer, layers=1).weights[0], attention_maps(bert, SENTENCE, tokenizer).weights[1])
    maps = attention_maps(bert, SENTENCE, tokenizer, layers=[1])
    assert maps.plot(1, 0).get_xlabel() and "layer 1" in maps._repr_html_()
    with pytest.raises(ValueError, match="layer 0 is not there: these maps have the layers 1"):
        maps.of(0, 0)
    with pytest.raises(ValueError, match="head 2 is not there"):
        maps.of(1, 2)
    assert attention_maps(BertModel(bert.config), SENTENCE, tokenizer).weights.shape == (2, 2, 9, 9)
    assert attention_maps(BertForSequenceClassification(bert.config), SENTENCE, tokenizer).weights.shape == (2, 2, 9, 9)


def test_a_folder_serves_as_a_model(tmp_path, tokenizer):
    save(make("gpt2"), tokenizer, tmp_path / "model")
    folder = tmp_path / "model"
    assert np.array_equal(attention_maps(folder, SENTENCE).weights, attention_maps(load(folder), SENTENCE).weights)
    assert logit_lens(str(folder), SENTENCE).tokens == tuple(SENTENCE.split())


def test_subword_tokens_keep_their_text():
    tokenizer = train_tokenizer([" ".join(w) for w, _ in tagged_sentences(200)] + ["naïve 汉字 emoji 🙂"], kind="bpe", vocab_size=300, progress=False)
    model = scrambled(GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=60, **NONE)))
    text = "the  guards 🙂\tnaïve 汉字"
    found = attribute(model, text, tokenizer, method="occlusion")
    assert len(found.scores) == len(found.tokens) == len(tokenizer(text)["input_ids"])
    shown = found._repr_html_()
    assert "🙂" in shown and "汉" in shown and "字" in shown and "<script" not in attribute(model, "<script>", tokenizer, method="occlusion")._repr_html_()


# heads

def test_a_silenced_head_equals_zero_columns_of_the_projection(model, tokenizer):
    ids, before = encoded(tokenizer, SENTENCE), state(model)
    whole = logits_of(model, ids)
    with without_heads(model, [(1, 0), (0, 1)]):
        silent = logits_of(model, ids)
    assert torch.equal(logits_of(model, ids), whole) and same_state(before, model) and not torch.allclose(silent, whole, atol=1e-3)
    names = {"bert": "attention.output.dense", "roberta": "attention.output.dense", "distilbert": "attention.out_lin", "modernbert": "attn.Wo", "gpt2": "attn.c_proj",
             "llama": "self_attn.o_proj", "gpt_neox": "attention.dense"}[model.config.model_type]
    found = [m for n, m in model.named_modules() if n.endswith(names)]
    kept = [m.weight.detach().clone() for m in found]
    with torch.no_grad():
        for part, head in ((found[1], 0), (found[0], 1)):
            weight = part.weight if model.config.model_type == "gpt2" else part.weight.T
            weight[head * 8:(head + 1) * 8] = 0
        by_hand = logits_of(model, ids)
        for part, weight in zip(found, kept):
            part.weight.copy_(weight)
    assert torch.allclose(silent, by_hand, atol=1e-5)


def test_hooks_go_when_the_body_fails(tokenizer):
    bert, ids = make("bert"), encoded(tokenizer, SENTENCE)
    whole = logits_of(bert, ids)
    with pytest.raises(RuntimeError, match="stop"), without_heads(bert, [(0, 0)]):
        raise RuntimeError("stop")
    assert torch.equal(logits_of(bert, ids), whole)
    with pytest.raises(ValueError, match="layer 2 is not there: the model has layers 0 to 1"), without_heads(bert, [(0, 0), (2, 0)]):
        pass
    assert torch.equal(logits_of(bert, ids), whole)


def test_ablation_measures_the_loss(model, tokenizer):
    texts, before = [" ".join(w) for w, _ in tagged_sentences(12)], state(model)
    found = ablate_heads(model, texts, tokenizer, progress=False, batch_tokens=30)
    assert same_state(before, model) and found.losses.shape == (2, 2) and len(found.ranked()) == 4
    if not is_masked(model):
        rows = [encoded(tokenizer, t) for t in texts]
        total = sum(torch.nn.functional.cross_entropy(logits_of(model, r)[0, :-1], r[0, 1:], reduction="sum").item() for r in rows)
        assert found.scored == sum(r.shape[1] - 1 for r in rows) and abs(found.loss - total / found.scored) < 1e-4
    with without_heads(model, [(1, 1)]):
        assert abs(ablate_heads(model, texts, tokenizer, progress=False).loss - found.losses[1, 1]) < 1e-5
    assert found.plot().get_ylabel() == "layer" and "most needed" in repr(found) and "<table>" in found._repr_html_()


def test_ablation_of_a_classifier(tokenizer):
    torch.manual_seed(0)
    model = scrambled(BertForSequenceClassification(BertConfig(max_position_embeddings=20, id2label={0: "one", 1: "many"}, label2id={"one": 0, "many": 1}, **SIZE)))
    by_name = ablate_heads(model, [SENTENCE, "my dog ."], tokenizer, labels=["many", "one"], progress=False)
    assert by_name.scored == 2 and by_name.loss == ablate_heads(model, [SENTENCE, "my dog ."], tokenizer, labels=[1, 0], progress=False).loss
    with pytest.raises(ValueError, match="labels: 0 given for 1 texts"):
        ablate_heads(model, [SENTENCE], tokenizer, progress=False)
    with pytest.raises(ValueError, match="label 'few' is not known: the model has one, many"):
        ablate_heads(model, [SENTENCE], tokenizer, labels=["few"], progress=False)


@pytest.mark.parametrize("settings, labels", [
    (dict(num_labels=1), [2.5, -3]), (dict(num_labels=2, problem_type="regression"), [(2.5, 0), (-3, 1)]),
    (dict(num_labels=3, problem_type="multi_label_classification"), [(1, 0, 1), (0, 0, 0)]), (dict(num_labels=3, problem_type="multi_label_classification"), [["LABEL_0", "LABEL_2"], []]),
    (dict(num_labels=3), [2, "LABEL_0"])], ids=str)
def test_the_loss_of_a_classifier_is_the_librarys(settings, labels, tokenizer):
    torch.manual_seed(0)
    model = scrambled(BertForSequenceClassification(BertConfig(max_position_embeddings=20, **settings, **SIZE)))
    texts = [SENTENCE, "my dog ."]
    found = ablate_heads(model, texts, tokenizer, labels=labels, progress=False)
    several = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    targets = torch.tensor([2, 0]) if labels[0] == 2 else torch.tensor(labels, dtype=torch.float).view(2, -1) if settings["num_labels"] < 3 else several
    with torch.no_grad():
        losses = [model(encoded(tokenizer, t), labels=target[None]).loss.item() for t, target in zip(texts, targets)]
    assert abs(found.loss - sum(losses) / 2) < 1e-5
    assert found.unit == ("squared error" if settings["num_labels"] < 3 else "nats") and found.unit in repr(found)


@pytest.mark.parametrize("settings, label, message", [(dict(num_labels=1), "good", "needs a number for each text"), (dict(num_labels=1), float("nan"), "needs a number"),
    (dict(num_labels=2, problem_type="multi_label_classification"), [1, 2], "a 0 or 1 for each of the 2"), (dict(num_labels=2, problem_type="multi_label_classification"), 1, "does not fit")])
def test_labels_that_do_not_fit(settings, label, message, tokenizer):
    model = BertForSequenceClassification(BertConfig(max_position_embeddings=20, **settings, **SIZE))
    with pytest.raises(ValueError, match=message):
        ablate_heads(model, [SENTENCE], tokenizer, labels=[label], progress=False)


@pytest.mark.parametrize("ratio, heads", [(1, 4), (2, 2), (4, 1)])
def test_heads_of_convbert_are_those_that_attend(ratio, heads, tokenizer):
    torch.manual_seed(0)
    model = scrambled(ConvBertForMaskedLM(ConvBertConfig(embedding_size=16, head_ratio=ratio, max_position_embeddings=20, **SIZE | {"num_attention_heads": 4})))
    assert attention_maps(model, SENTENCE, tokenizer).weights.shape[1] == heads == ablate_heads(model, [SENTENCE], tokenizer, progress=False).losses.shape[1]
    found, part = [], model.convbert.encoder.layer[0].attention
    handle = part.output.dense.register_forward_hook(lambda _, args, output: found.append(args[0]))
    with without_heads(model, [(0, heads - 1)]):
        logits_of(model, encoded(tokenizer, SENTENCE))
    logits_of(model, encoded(tokenizer, SENTENCE))
    handle.remove()
    width, (off, on) = part.self.attention_head_size, found
    silent = slice((heads - 1) * width, heads * width)
    assert not off[..., silent].any() and on[..., silent].all() and torch.equal(off[..., heads * width:], on[..., heads * width:])


def test_a_token_may_be_the_unknown_one_and_other_things(tokenizer):
    several = word_tokenizer()
    several.eos_token = several.bos_token = "[UNK]"
    assert attribute(make("gpt2"), SENTENCE, several, target="[UNK]").target == "log P([UNK])"


def test_a_probe_of_a_model_that_puts_tokens_first(tokenizer):
    from lmnotes.understanding import _read_words, _states, _word_states
    model, words = make("xlnet"), SENTENCE.split()
    read, found, _ = _read_words(model, tokenizer, [(words, words, "row 0 of data")], 10)
    states = _word_states(model, read)
    first = _states(model, encoded(tokenizer, SENTENCE))
    assert found == words and first[0].shape == (len(words), 1, 16)
    np.testing.assert_allclose(states, torch.stack(first)[:, :, 0].numpy(), atol=1e-5)


def test_no_hook_stays_where_a_layer_is_refused(tokenizer, monkeypatch):
    import lmnotes.understanding as understanding
    bert, real = make("bert"), understanding._projection
    before = state(bert)

    def refusing(model, layer):
        if layer:
            raise ValueError("no projection")
        return real(model, layer)
    monkeypatch.setattr(understanding, "_projection", refusing)
    with pytest.raises(ValueError, match="no projection"), without_heads(bert, [(0, 0), (1, 0)]):
        pass
    assert same_state(before, bert)


# lens

def test_the_last_row_of_the_lens_is_the_model(model, tokenizer):
    before, ids = state(model), encoded(tokenizer, SENTENCE)
    lens, own = logit_lens(model, SENTENCE, tokenizer, top=3), logits_of(model, ids)[0].softmax(-1)
    assert lens.final_probabilities.shape == (3, 9) and lens.top_probabilities.shape == (3, 9, 3)
    assert np.allclose(lens.top_probabilities[-1], own.topk(3).values, atol=1e-5) and np.abs(lens.divergences[-1]).max() < 1e-5
    assert [t[0] for t in lens.top_tokens[-1]] == [WORDS[i] for i in own.argmax(-1)]
    assert lens.divergences.min() > -1e-5 and same_state(before, model)
    assert lens.plot().get_ylabel() == "layers passed" and "after 2 layers" in repr(lens) and "<table>" in lens._repr_html_()


def test_the_lens_is_norm_and_head_of_each_state(tokenizer):
    ids = encoded(tokenizer, SENTENCE)
    for family, read in (("gpt2", lambda m, h: m.lm_head(m.transformer.ln_f(h))), ("llama", lambda m, h: m.lm_head(m.model.norm(h))), ("bert", lambda m, h: m.cls(h))):
        model = make(family)
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
            expected = [read(model, h)[0].softmax(-1).max(-1).values for h in states[:2]]
        lens = logit_lens(model, SENTENCE, tokenizer)
        for row, by_hand in zip(lens.top_probabilities, expected):
            assert np.allclose(row[:, 0], by_hand, atol=1e-5), family


# attribution

def test_shares_are_complete(model, tokenizer):
    text, before = GAP if is_masked(model) else "the guards near the queen", state(model)
    found = attribute(model, text, tokenizer, target=("watch", "watches"))
    assert abs(found.delta) <= 0.01 * abs(found.output - found.baseline_output) + 1e-5 and same_state(before, model)
    assert all(p.grad is None for p in model.parameters())
    ids = encoded(tokenizer, text)
    place = ids[0].tolist().index(WORDS.index("[MASK]")) if is_masked(model) else -1
    logits = logits_of(model, ids)[0, place]
    assert abs(found.output - (logits[WORDS.index("watch")] - logits[WORDS.index("watches")]).item()) < 1e-4
    default = attribute(model, text, tokenizer)
    assert default.target == f"log P({WORDS[logits.argmax()]})" and abs(default.output - logits.log_softmax(-1).max().item()) < 1e-4


def test_occlusion_replaces_one_token_at_a_time(tokenizer):
    bert, ids = make("bert"), encoded(tokenizer, GAP)
    found = attribute(bert, GAP, tokenizer, target="watch", method="occlusion")
    watch, place = WORDS.index("watch"), GAP.split().index("[MASK]")
    value = lambda rows: logits_of(bert, rows)[0, place].log_softmax(-1)[watch].item()
    for i in range(ids.shape[1]):
        changed = ids.clone()
        changed[0, i] = ids[0, i] if i == place else WORDS.index("[PAD]")
        assert abs(found.scores[i] - (value(ids) - value(changed))) < 1e-5


def test_input_times_gradient_by_autograd(tokenizer):
    gpt, ids = make("gpt2"), encoded(tokenizer, "my old dog")
    x = gpt.get_input_embeddings()(ids).detach().requires_grad_()
    output = gpt(inputs_embeds=x).logits[0, -1].log_softmax(-1)[WORDS.index("see")]
    by_hand = (torch.autograd.grad(output, x)[0] * x).sum(-1)[0]
    found = attribute(gpt, "my old dog", tokenizer, target="see", method="input_x_gradient")
    assert np.allclose(found.scores, by_hand.detach(), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_input_times_gradient_of_a_pair_by_autograd(family, tokenizer):
    model, text = make(family), GAP if family == "bert" else "my old dog"
    ids = encoded(tokenizer, text)
    place = text.split().index("[MASK]") if family == "bert" else -1
    x = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=x, attention_mask=torch.ones_like(ids)).logits[0, place]
    by_hand = (torch.autograd.grad(logits[WORDS.index("see")] - logits[WORDS.index("sees")], x)[0] * x).sum(-1)[0].detach()
    found = attribute(model, text, tokenizer, target=("see", "sees"), method="input_x_gradient")
    turned = attribute(model, text, tokenizer, target=("sees", "see"), method="input_x_gradient")
    assert np.allclose(found.scores, by_hand, atol=1e-4) and np.allclose(found.scores, -np.array(turned.scores), atol=1e-4)
    assert max(map(abs, found.scores)) > 0.01


@pytest.mark.parametrize("method", ["integrated_gradients", "input_x_gradient", "occlusion"])
def test_a_pair_of_targets_runs_the_model_as_often_as_one(method, tokenizer):
    model, runs = make("bert"), []
    handle = model.register_forward_pre_hook(lambda *_: runs.append(1))
    counts = []
    for target in ("see", ("see", "sees")):
        runs.clear()
        counts.append((attribute(model, GAP, tokenizer, target, method, tolerance=100.0).steps, len(runs)))
    handle.remove()
    assert counts[0] == counts[1]


def test_attribution_of_classifiers_and_regressions(tokenizer):
    torch.manual_seed(0)
    names = dict(id2label={0: "one", 1: "many", 2: "none"}, label2id={"one": 0, "many": 1, "none": 2})
    model = scrambled(BertForSequenceClassification(BertConfig(max_position_embeddings=20, **names, **SIZE)))
    found = attribute(model, SENTENCE, tokenizer, target="many")
    assert found.plot().get_ylabel() == "share (nats)" and found.target == "log P(many)" and abs(found.delta) <= 0.01 * abs(found.output - found.baseline_output) + 1e-5
    assert found.scores == attribute(model, SENTENCE, tokenizer, target=1).scores
    regression = scrambled(BertForSequenceClassification(BertConfig(max_position_embeddings=20, num_labels=1, **SIZE)))
    found = attribute(regression, SENTENCE, tokenizer)
    with torch.no_grad():
        assert abs(found.output - regression(encoded(tokenizer, SENTENCE)).logits.item()) < 1e-5
    assert found.plot().get_ylabel() == "share (in the unit of the prediction)" and "orange" in found._repr_html_()
    two = scrambled(BertForSequenceClassification(BertConfig(max_position_embeddings=20, num_labels=2, problem_type="regression", **SIZE)))
    with torch.no_grad():
        assert abs(attribute(two, SENTENCE, tokenizer, target=1).output - two(encoded(tokenizer, SENTENCE)).logits[0, 1].item()) < 1e-5
    with pytest.raises(ValueError, match="position 2 is given for a classifier"):
        attribute(model, SENTENCE, tokenizer, position=2)


def test_unknown_words_have_a_share(tokenizer):
    found = attribute(make("gpt2"), "the zebra", tokenizer, target="see", method="occlusion")
    assert found.scores[1] != 0 and found.tokens[1] == "zebra"


def test_frozen_weights_and_a_model_in_training_can_be_explained(tokenizer):
    model = make("llama").requires_grad_(False)
    free = attribute(make("llama"), "my old dog", tokenizer, target="see")
    assert np.allclose(attribute(model.train(), "my old dog", tokenizer, target="see").scores, free.scores, atol=1e-6) and model.training


def test_incomplete_shares_are_reported(tokenizer, caplog, monkeypatch):
    monkeypatch.setattr("lmnotes.understanding._MOST_STEPS", 2)
    with caplog.at_level(logging.WARNING, logger="lmnotes.understanding"):
        found = attribute(make("bert"), GAP, tokenizer, target="watch", steps=1, tolerance=1e-9)
    assert "the shares lack" in caplog.text and found.steps == 2 and not found.complete and f"delta {found.delta:+.3g} after 2 steps" in repr(found)
    whole = attribute(make("bert"), GAP, tokenizer, target="watch", tolerance=0.5)
    assert whole.complete and "delta" not in repr(whole)


# probes

def test_a_probe_reads_the_tags_and_knows_what_the_word_alone_gives(tokenizer):
    rows = tagged_sentences(120)
    result = probe(make("bert"), rows, tokenizer, progress=False)
    assert result.layers == (0, 1, 2) and result.right.shape == (3, len(result.words))
    assert min(result.accuracies) > 0.8 and 0.85 < result.of_word < 1 and result.majority < 0.5
    assert np.allclose(result.selectivity, np.array(result.accuracies) - np.array(result.control_accuracies))
    assert repr(result) == repr(probe(make("bert"), rows, tokenizer, progress=False))
    assert result.plot().get_xlabel() == "layers passed" and "<table>" in result._repr_html_()


def test_probe_takes_columns_data_sets_and_named_tags(tokenizer):
    rows, gpt = tagged_sentences(40), make("gpt2")
    names = sorted({t for _, tags in rows for t in tags})
    columns = {"tokens": [w for w, _ in rows], "tags": [t for _, t in rows]}
    data = Dataset.from_dict({"tokens": columns["tokens"], "pos_tags": [[names.index(t) for t in tags] for tags in columns["tags"]]},
                             features=Features({"tokens": List(Value("string")), "pos_tags": List(ClassLabel(names=names))}))
    first = probe(gpt, rows, tokenizer, layers=2, progress=False)
    for same in (columns, data):
        again = probe(gpt, same, tokenizer, layers=[2], progress=False)
        assert again.accuracies == first.accuracies and again.tags == first.tags
    apart = probe(gpt, rows[:30], tokenizer, layers=0, test_data=rows[30:], progress=False)
    assert apart.words == tuple(w for words, _ in rows[30:] for w in words)


def test_a_probe_of_skewed_tags(tokenizer):
    rows = [(["the", "dog", "."] * 3, ["O"] * 9) for _ in range(20)] + [(["the", "queen", "."], ["O", "N", "O"])]
    result = probe(make("gpt2"), rows, tokenizer, test_data=rows[:1], layers=0, progress=False)
    assert result.accuracies == (1.0,) and 0 <= result.control_accuracies[0] <= 1
    assert set(control_tags(["the", "dog", ".", "queen"], ["O"] * 182 + ["N"]).values()) == {"O"}            # a control of one kind


def test_words_of_several_tokens_are_the_mean_of_their_states():
    tokenizer = train_tokenizer([" ".join(w) for w, _ in tagged_sentences(200)], kind="bpe", vocab_size=270, progress=False)
    model = scrambled(GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=80, **NONE)))
    from lmnotes.understanding import _read_words, _word_states
    row = ["my", "guards", "watch", "."]
    read, words, places = _read_words(model, tokenizer, [(row, row, "row 0 of data")], 100)
    states = _word_states(model, read)
    assert words == row and places == [(0, i) for i in range(4)] and states.shape == (2, 4, 16)
    encoding = tokenizer(" ".join(row), return_tensors="pt", return_offsets_mapping=True)
    with torch.no_grad():
        hidden = model(encoding["input_ids"], output_hidden_states=True).hidden_states[0][0]
    pieces = [j for j, (a, b) in enumerate(encoding["offset_mapping"][0].tolist()) if max(a, 3) < min(b, 9)]
    assert len(pieces) > 1 and np.allclose(states[0, 1], hidden[pieces].mean(0), atol=1e-6)


def test_control_tags_belong_to_words():
    words = ["a", "b", "a", "c"] * 50
    lot = control_tags(words, ["X"] * 90 + ["Y"] * 10)
    assert set(lot) == {"a", "b", "c"} and lot == control_tags(words[::-1], ["X"] * 90 + ["Y"] * 10) and set(lot.values()) <= {"X", "Y"}


def test_real_tags(shared_data):
    data = load_dataset(str(shared_data / "ud_english_ewt"))
    rows = data["train"].select(range(300))
    tokenizer = train_tokenizer([" ".join(t) for t in rows["tokens"]], vocab_size=800, progress=False)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=512))
    result = probe(model, rows, tokenizer, test_data=data["validation"].select(range(100)), layers=0, max_words=2500, progress=False)
    assert result.majority < 0.3 < result.accuracies[0] and result.of_word > 0.5 and len(set(result.tags)) > 10


# induction

def test_induction_scores_of_known_heads(monkeypatch):
    gpt = make("gpt2")
    result = induction_scores(gpt, period=6, rows=4)
    assert result.induction.shape == (2, 2) and len(result.losses) == 11 and (result.induction >= 0).all() and result.previous.max() <= 1
    perfect = torch.zeros(4, 2, 12, 12)
    perfect[:, 0, range(5, 12), range(0, 7)] = 1                 # period 6: from t to t - 5
    perfect[:, 1, range(1, 12), range(0, 11)] = 1
    monkeypatch.setattr("lmnotes.understanding._attention", lambda model, ids, layers: [perfect, torch.full((4, 2, 12, 12), 1 / 12)])
    known = induction_scores(gpt, period=6, rows=4)
    assert known.induction[0].tolist() == [1, 0] and known.previous[0].tolist() == [0, 1] and known.heads() == [(0, 0)]
    assert known.plot().get_xlabel() == "head" and "best prefix matching: layer 0 head 0 1.00" in repr(known) and "<table>" in known._repr_html_()


def test_special_tokens_are_not_drawn(tokenizer):
    gpt, seen = make("gpt2"), []
    handle = gpt.transformer.wte.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    induction_scores((gpt, tokenizer), rows=50)
    handle.remove()
    assert min(int(ids.min()) for ids in seen) >= 5 and seen[0].shape[1] == 20


# what cannot be

LONG = " ".join(["dog"] * 21)
BAD = [
    (lambda m, t: attention_maps(m, LONG, t), ValueError, "text has 21 tokens, the model 20 positions"),
    (lambda m, t: logit_lens(m, LONG, t), ValueError, "text has 21 tokens, the model 20 positions"),
    (lambda m, t: attribute(m, LONG, t), ValueError, "text has 21 tokens, the model 20 positions"),
    (lambda m, t: ablate_heads(m, ["a dog", LONG], t, progress=False), ValueError, r"texts\[1\] has 21 tokens"),
    (lambda m, t: probe(m, [(LONG.split(), ["N"] * 21)] * 3, t, progress=False), ValueError, "row 0 of data has 21 tokens, the model 20 positions"),
    (lambda m, t: attention_maps(m, SENTENCE, t, layers=2), ValueError, "layer 2 is not there: the model has layers 0 to 1"),
    (lambda m, t: attention_maps(m, SENTENCE, t, layers=[-1]), ValueError, "layer -1 is not there"),
    (lambda m, t: attention_maps(m, SENTENCE, t, layers="last"), ValueError, "layer 'l' is not there"),
    (lambda m, t: probe(m, tagged_sentences(5), t, layers=3, progress=False), ValueError, "layer 3 is not there: the model has layers 0 to 2"),
    (lambda m, t: attention_maps(m, " ", t), ValueError, "text ' ' is empty"),
    (lambda m, t: attention_maps(m, ["the dog"], t), TypeError, "text is list, not text"),
    (lambda m, t: attention_maps(m, SENTENCE), ValueError, "tokenizer is missing"),
    (lambda m, t: attention_maps(3, SENTENCE, t), TypeError, "model is int"),
    (lambda m, t: attention_maps("no/such/folder", SENTENCE), FileNotFoundError, "no folder here"),
    (lambda m, t: ablate_heads(m, [], t), ValueError, "texts is empty"),
    (lambda m, t: ablate_heads(m, [SENTENCE], t, labels=["x"]), ValueError, "labels: 1 given for 1 texts; a classifier needs one"),
    (lambda m, t: logit_lens(m, SENTENCE, t, top=0), ValueError, "top 0"),
    (lambda m, t: logit_lens(BertForSequenceClassification(make("bert").config), SENTENCE, t), ValueError, "is for classification: this needs one for causal or masked"),
    (lambda m, t: attribute(m, SENTENCE, t, method="magic"), ValueError, "method 'magic' is not known: choose integrated_gradients"),
    (lambda m, t: attribute(m, SENTENCE, t, target="the dog"), ValueError, "target 'the dog' is 2 tokens"),
    (lambda m, t: attribute(m, SENTENCE, t, target="zebra"), ValueError, "target 'zebra' is not in the vocabulary"),
    (lambda m, t: attribute(m, SENTENCE, t, target=999), ValueError, "target 999 is no token"),
    (lambda m, t: attribute(m, SENTENCE, t, target=("a", "b", "c")), ValueError, "target has 3 parts"),
    (lambda m, t: attribute(m, SENTENCE, t, position=9), ValueError, "position 9 is not there: the text has tokens 0 to 8"),
    (lambda m, t: attribute(m, SENTENCE, t, position=1.5), ValueError, "position 1.5 is no whole number"),
    (lambda m, t: probe(m, tagged_sentences(5), t, max_words=0, progress=False), ValueError, "max_words 0 must be 1 or more"),
    (lambda m, t: probe(m, tagged_sentences(5), t, test_data=[]), ValueError, "test_data has 0 sentences: give at least one"),
    (lambda m, t: attribute(m, SENTENCE, t, baseline="zebra"), ValueError, "baseline 'zebra' is no token"),
    (lambda m, t: attribute(m, SENTENCE, t, steps=0), ValueError, "steps 0"),
    (lambda m, t: attribute(make("bert"), SENTENCE, t), ValueError, r"text has 0 mask tokens: put one \[MASK\]"),
    (lambda m, t: probe(m, [(["a"], ["X", "Y"])] * 3, t), ValueError, "row 0 of data has 1 words and 2 tags"),
    (lambda m, t: probe(m, [(["dog"], ["N"])] * 4, t, progress=False), ValueError, "data has the tag 'N' only"),
    (lambda m, t: probe(m, [(["dog"], ["N"])], t), ValueError, "data has 1 sentences"),
    (lambda m, t: probe(m, {"words": []}, t), ValueError, "data has the columns words: give tokens"),
    (lambda m, t: probe(m, tagged_sentences(5), t, test_fraction=1.0), ValueError, "test_fraction 1.0"),
    (lambda m, t: induction_scores(m, period=11), ValueError, "period 11 must be at least 2 and at most 10"),
    (lambda m, t: induction_scores(m, rows=0), ValueError, "rows 0"),
    (lambda m, t: induction_scores(m, period=2.5), ValueError, "period 2.5 must be .* whole"),
    (lambda m, t: induction_scores(m, rows=2.5), ValueError, "rows 2.5 must be .* whole"),
    (lambda m, t: logit_lens(m, SENTENCE, t, top=1.5), ValueError, "top 1.5 must be .* whole"),
    (lambda m, t: attribute(m, SENTENCE, t, steps=2.5), ValueError, "steps 2.5 must be a whole"),
    (lambda m, t: probe(m, tagged_sentences(5), t, regularisation=0, progress=False), ValueError, "regularisation 0 must be a number above 0"),
    (lambda m, t: probe(m, tagged_sentences(5), t, regularisation="a", progress=False), ValueError, "regularisation 'a' must be a number above 0"),
    (lambda m, t: attention_maps(make("longformer"), SENTENCE, t), ValueError, "gives no attention weights for every layer, token by token"),
    (lambda m, t: attention_maps(make("longformer"), "the dog see my dog", t), ValueError, "LongformerForMaskedLM gives no attention weights"),
    (lambda m, t: attention_maps(make("funnel"), SENTENCE, t), ValueError, "FunnelForMaskedLM gives no attention weights"),
    (lambda m, t: probe(make("funnel"), tagged_sentences(5), t, progress=False), ValueError, "FunnelForMaskedLM does not give a state for each token"),
    (lambda m, t: attribute(make("xlnet"), SENTENCE, t), ValueError, "XLNetLMHeadModel reads its tokens in another shape"),
    (lambda m, t: attribute(make("longformer"), GAP, t), ValueError, "LongformerForMaskedLM reads its tokens in another shape"),
    (lambda m, t: attribute(make("bert"), SENTENCE, without_mask()), ValueError, "the tokenizer has no mask token: give the place"),
    (lambda m, t: induction_scores(make("bert")), ValueError, "is for masked: this needs one for causal"),
    (lambda m, t: attention_maps(T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)), SENTENCE, t),
     ValueError, "is an encoder-decoder"),
    (lambda m, t: attention_maps(GPT2LMHeadModel(GPT2Config(vocab_size=6, n_embd=8, n_layer=1, n_head=2, n_positions=20, **NONE)), SENTENCE, t), ValueError,
     "the model's vocabulary ends at 5: give the model's own tokenizer"),
    (lambda m, t: attribute(m, SENTENCE, t, baseline=10**6), ValueError, "baseline 1000000 is no token: give its text, or a number from 0 to"),
    (lambda m, t: attribute(m, SENTENCE, t, baseline=-1), ValueError, "baseline -1 is no token"),
    (lambda m, t: attribute(m, SENTENCE, t, baseline=1.5), ValueError, "baseline 1.5 is no token"),
    (lambda m, t: attribute(m, SENTENCE, t, tolerance="x"), ValueError, "tolerance 'x' a number above 0"),
    (lambda m, t: attention_maps(m, SENTENCE, t, layers=1.0), ValueError, "layer 1.0 is not there"),
    (lambda m, t: attention_maps(m, SENTENCE, t, layers=float("nan")), ValueError, "layer nan is not there"),
    (lambda m, t: attention_maps(m, SENTENCE, t).of(1, None), ValueError, "head None is not there"),
    (lambda m, t: attention_maps(m, SENTENCE, t).of(1, [0, 1]), ValueError, r"head \[0, 1\] is not there"),
    (lambda m, t: without_heads(m, [(0, 0.5)]).__enter__(), ValueError, "head 0.5 is not there"),
    (lambda m, t: without_heads(m, [(None, 0)]).__enter__(), ValueError, "layer None is not there"),
    (lambda m, t: without_heads(m, 3).__enter__(), ValueError, "heads holds 3: name each head"),
    (lambda m, t: ablate_heads(m, [SENTENCE], t, batch_tokens="x"), TypeError, "batch_tokens 'x' must be a whole number"),
    (lambda m, t: ablate_heads(m, [SENTENCE], t, batch_tokens=0), ValueError, "batch_tokens 0 must be 1 or more"),
    (lambda m, t: ablate_heads(m, [SENTENCE], t, batch_tokens=None), TypeError, "batch_tokens None must be a whole number"),
    (lambda m, t: ablate_heads(m, [SENTENCE], t, seed=-1), ValueError, "seed -1 must be 0 or more"),
    (lambda m, t: probe(m, tagged_sentences(5), t, seed=-1), ValueError, "seed -1 must be 0 or more"),
    (lambda m, t: probe(m, tagged_sentences(5), t, max_words="x"), TypeError, "max_words 'x' must be a whole number"),
    (lambda m, t: probe(m, tagged_sentences(5), t, test_fraction="x"), ValueError, "test_fraction 'x' must be a number between 0 and 1"),
    (lambda m, t: tagged_sentences(5, seed=-1), ValueError, "seed -1 must be 0 or more"),
    (lambda m, t: tagged_sentences(2.5), TypeError, "count 2.5 must be a whole number"),
    (lambda m, t: control_tags(["a"], ["X"], seed="x"), TypeError, "seed 'x' must be a whole number"),
    (lambda m, t: induction_scores(m, seed=-1), ValueError, "seed -1 must be 0 or more"),
    (lambda m, t: probe(m, {"tokens": [["dog"]] * 4, "tags": [["N"]] * 3}, t), ValueError, "data has 4 rows of tokens and 3 of tags: give tags for each sentence"),
]


@pytest.mark.parametrize("wrong, error, sentence", BAD, ids=[sentence for _, _, sentence in BAD])
def test_wrong_usage_is_answered_in_a_sentence(wrong, error, sentence, tokenizer):
    with pytest.raises(error, match=sentence):
        wrong(make("gpt2"), tokenizer)


# ---- what silently gave another result, or a raw error

@pytest.mark.parametrize("row, says", [((LONG.split(), ["N"] * 21), "row 7 of {} has 21 tokens, the model 20 positions"), (([], []), "row 7 of {} is empty: give a sentence"), ((["the", 1], ["X", "Y"]), "row 7 of {} has the word 1, which is no text"),
                                       ((["the", "dog"], ["X", None]), "row 7 of {} has the tag None for 'dog', which is none"), ((["the", "dog"], [float("nan"), "Y"]), "row 7 of {} has the tag nan for 'the'")])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_wrong_row_of_a_probe_is_named_as_it_was_given(row, says, seed, tokenizer, monkeypatch):
    "However the rows are dealt out, by its number in the argument where it stands, and before the model is run."
    rows, model = tagged_sentences(12), make("gpt2")
    wrong = [*rows[:7], row, *rows[7:]]
    monkeypatch.setattr("lmnotes.understanding._states", lambda *_: pytest.fail("the model was run"))
    for data, test_data, name in ((wrong, None, "data"), (rows, wrong, "test_data")):
        with pytest.raises(ValueError, match=says.format(name)):
            probe(model, data, tokenizer, test_data=test_data, seed=seed, progress=False)


def test_rows_of_a_probe_may_be_dictionaries(tokenizer):
    rows, model = tagged_sentences(12), make("bert")
    wanted = probe(model, rows, tokenizer, progress=False)
    assert repr(probe(model, [{"tokens": words, "tags": tags} for words, tags in rows], tokenizer, progress=False)) == repr(wanted)
    for wrong, says in (([{"tokens": words, "labels": tags} for words, tags in rows], "data has the columns tokens, labels"), ([("ab", ["X", "Y"])] * 4, "row 0 of data is .* give a list of words and a list of tags"),
                        ([rows[0], {"tokens": 1}], "row 1 of data")):
        with pytest.raises(ValueError, match=says):
            probe(model, wrong, tokenizer, progress=False)


def test_a_model_that_gives_no_number_is_refused(tokenizer):
    model = make("gpt2")
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight.fill_(float("nan"))
    for look in (lambda: attention_maps(model, SENTENCE, tokenizer), lambda: logit_lens(model, SENTENCE, tokenizer), lambda: attribute(model, SENTENCE, tokenizer),
                 lambda: ablate_heads(model, [SENTENCE], tokenizer, progress=False), lambda: induction_scores(model, period=4, rows=2),
                 lambda: probe(model, tagged_sentences(5), tokenizer, progress=False)):
        with pytest.raises(FloatingPointError, match="GPT2LMHeadModel gives no number: its weights are damaged"):
            look()


def test_rows_of_the_embedding_without_a_token_have_a_name(tokenizer):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS) + 500, n_embd=16, n_layer=2, n_head=2, n_positions=20, **NONE)).eval()
    lens = logit_lens(model, SENTENCE, tokenizer)
    names = {name for layer in lens.top_tokens for place in layer for name in place}
    assert None not in names and any(name.startswith("<") and int(name[1:-1]) >= len(WORDS) for name in names) and lens._repr_html_()


def test_a_causal_classifier_without_padding_is_read_row_by_row(tokenizer):
    from transformers import GPT2ForSequenceClassification
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=20, num_labels=2, **NONE)).eval()
    looks = [lambda: ablate_heads(model, [SENTENCE, SENTENCE], tokenizer, labels=[0, 1], progress=False).losses]
    looks += [lambda how=how: np.array(attribute(model, SENTENCE, tokenizer, method=how).scores) for how in ("integrated_gradients", "input_x_gradient", "occlusion")]
    alone = [look() for look in looks]
    model.config.pad_token_id = len(WORDS) - 1
    assert WORDS[-1] not in SENTENCE.split()
    for look, value in zip(looks, alone):
        np.testing.assert_allclose(look(), value, atol=1e-4)


def test_empty_choices_and_wrong_heads_are_named(tokenizer):
    from transformers import MambaConfig, MambaForCausalLM
    model = make("bert")
    classifier = BertForSequenceClassification(BertConfig(max_position_embeddings=20, num_labels=3, **SIZE)).eval()
    mamba = MambaForCausalLM(MambaConfig(vocab_size=len(WORDS), hidden_size=16, state_size=4, num_hidden_layers=2))
    for wrong, says in ((lambda: attention_maps(model, SENTENCE, tokenizer, layers=[]), "layers is empty"), (lambda: attribute(classifier, SENTENCE, tokenizer, target=[]), "target has 0 parts"),
                        (lambda: ablate_heads(classifier, [SENTENCE], tokenizer, labels=[[0, 1]], progress=False), r"label \[0, 1\] is not known"), (lambda: without_heads(model, [0]).__enter__(), r"heads holds 0: .* \(layer, head\)"),
                        (lambda: ablate_heads(mamba, [SENTENCE], tokenizer, progress=False), "has no attention heads"), (lambda: attention_maps(mamba, SENTENCE, tokenizer), "gives no attention weights")):
        with pytest.raises(ValueError, match=says):
            wrong()


def test_the_layers_run_once_for_all_rows_of_the_logit_lens_and_the_model_is_left_as_it_was():
    model, runs = make("gpt2"), []
    handles = [block.attn.register_forward_hook(lambda *_: runs.append(1)) for block in model.transformer.h]
    before = {name: set(vars(part)) for name, part in model.named_modules()}
    lens = logit_lens(model, SENTENCE, word_tokenizer())
    assert len(lens.top_tokens) == 3 and len(runs) == 4                             # for the states, and for what the head sees
    assert {name: set(vars(part)) for name, part in model.named_modules()} == before
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("kind", ["XLM", "Flaubert"])
def test_a_model_without_whole_layers_is_refused_by_the_logit_lens(kind):
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(WORDS), emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=32, mask_token_id=4)
    model = getattr(transformers, f"{kind}WithLMHeadModel")(config).eval()
    with pytest.raises(ValueError, match="no list of its 2 layers"):
        logit_lens(model, SENTENCE, word_tokenizer())


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_how_many_rows_at_once_changes_no_share(method, monkeypatch):
    model, shares = make("gpt2"), []
    assert understanding._rows_at_once(torch.zeros(1, 4, dtype=torch.long)) == 64 and understanding._rows_at_once(torch.zeros(1, 5000, dtype=torch.long)) == 1
    for rows in (1, 7, 64):
        monkeypatch.setattr(understanding, "_rows_at_once", lambda ids: rows)
        shares.append(attribute(model, SENTENCE, word_tokenizer(), method=method).scores)
    assert np.allclose(shares[0], shares[1], atol=1e-5) and np.allclose(shares[0], shares[2], atol=1e-5)
