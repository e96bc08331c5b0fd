"""x"""
import copy
import csv
import hashlib
import logging
import os
import re
import sys
import types
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from html import escape
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .checkpoints import load, task_of
from .corpora import load_corpus
from .pretraining import resolve_device

logger = logging.getLogger(__name__)


def windows(length, window, stride=None):
    """Cut a sequence into windows in which each token but the first is scored once.

    Parameters
    ----------
    length : int
        Tokens of the sequence, a beginning-of-text token included.
    window : int
        Most tokens that the model reads at once.
    stride : int, optional
        Tokens by which a window moves, at most `window`; by default windows score disjoint stretches.

    Returns
    -------
    list of tuple of int
        (begin, first, end) of each window: tokens `begin` to `end - 2` are read, tokens `first` to `end - 1` are scored.
    """
    spans, scored, begin = [], 1, 0
    while scored < length:
        end = min((scored if stride is None else begin + 1) + window, length)
        spans.append((max(0, end - 1 - window) if stride is None else begin, scored, end))
        scored, begin = end, begin + (stride or 0)
    return spans


class _Span(NamedTuple):
    "A window: what a causal model reads, and what of it is scored."
    row: np.ndarray        # tokens read, and one more: the last one scored
    first: int             # place in `row` of the first token scored
    owner: object          # number of the document; an array of them, one for each token scored, where documents are joined
    place: object          # place in its document of the first token scored, or of each
    alike = False          # whether a batch must hold jobs of one length only

    @property
    def cost(self):
        "Tokens that the model reads."
        return len(self.row) - 1

    @property
    def scored(self):
        "Tokens that are scored."
        return len(self.row) - self.first


def _spans(documents, start, rule):
    "Windows of each document by itself; `start` is a list with the beginning-of-text token, or empty."
    for number, ids, _ in documents:
        row = np.concatenate([start, ids]) if start else ids
        for begin, first, end in windows(len(row), rule.window, rule.stride):
            yield _Span(_restarted(row[begin:end], begin, start, rule), first - begin, number, first - len(start))


def _restarted(row, begin, start, rule):
    "A further window, with the beginning-of-text token in place of its first if the rule says so."
    return np.concatenate([start, row[1:]]) if begin and rule.further == "bos" else row


def _causal_values(model, batch, edges=None):
    "Log-probabilities of the tokens that a batch of windows scores, one window after another."
    lengths, first = np.array([s.cost for s in batch])[:, None], np.array([s.first for s in batch])[:, None]
    columns = np.arange(lengths.max())
    there = columns < lengths                                  # padding stands on the right, where a causal model does not look
    inputs, targets = np.zeros(there.shape, np.int64), np.zeros(there.shape, np.int64)
    inputs[there], targets[there] = np.concatenate([s.row[:-1] for s in batch]), np.concatenate([s.row[1:] for s in batch])
    wanted = torch.from_numpy(there & (columns >= first - 1)).to(model.device)      # neither padding nor tokens scored before reach the head
    inputs, targets = torch.from_numpy(inputs).to(model.device), torch.from_numpy(targets).to(model.device)[wanted]
    base = model.base_model
    if base is not model:
        output = base(input_ids=inputs, use_cache=False)
        output.last_hidden_state = output.last_hidden_state[wanted]
        values = _head(model, output, targets, edges)
        if values is not None:
            return values
    return _log_probs(model(input_ids=inputs).logits[wanted], targets, edges)       # the head cannot be reached alone, as in OPT


def _log_probs(logits, targets, edges=None):
    "Log-probability of each target, in float32; with `edges` also that of any token of that set, in a second column."
    logits = logits.float()
    values = -F.cross_entropy(logits, targets, reduction="none")
    if edges is not None:
        values = torch.stack([values, logits[:, edges].logsumexp(-1) - logits.logsumexp(-1)], 1)
    return values.double().cpu().numpy()


_HEAD_FLOATS = 2**23            # logits that are held at a time: 32 MiB in float32


def _head(model, output, targets, edges=None):
    "Log-probability of each target by the model's own head (with its scale and caps), a chunk of places at a time; None if it cannot be reached."
    base, hidden, found, calls = model.base_model, output.last_hidden_state, [], []
    own = vars(base).get("forward")
    base.forward = lambda *_, **__: calls.append(1) or output
    rows = max(64, _HEAD_FLOATS // model.get_input_embeddings().weight.shape[0])
    try:
        for part, target in zip(hidden.split(rows), targets.split(rows)):
            output.last_hidden_state = part[None]
            logits = model(input_ids=target.new_zeros(1, 1)).logits[0]            # the replaced encoder answers, whatever the input
            if not calls:
                return None
            found.append(_log_probs(logits, target, edges))
    finally:
        vars(base).pop("forward")
        vars(base).update({"forward": own} if own else {})
    return np.concatenate(found)


_LOOK_AHEAD = 2**20             # tokens that are sorted by length at a time
_START_TOKENS = {"cpu": 4096, "cuda": 65536}


def _run(jobs, score, budget, progress):
    "Give batches of jobs with their values: a bounded look-ahead is sorted by length, and a batch holds jobs of one length, or almost."
    jobs, bar = iter(jobs), tqdm(desc="perplexity", unit=" tokens", unit_scale=True, disable=not progress)
    with bar:
        while chunk := _ahead(jobs):
            chunk.sort(key=lambda job: -job.cost)
            while chunk:
                size = max(1, budget[0] // chunk[0].cost)
                batch, chunk = _cut(chunk, size)
                yield batch, _halving(score, batch, budget)
                bar.update(sum(job.scored for job in batch))


def _ahead(jobs):
    "The next jobs, as many as the look-ahead takes."
    chunk, total = [], 0
    for job in jobs:
        chunk.append(job)
        total += job.cost
        if total >= _LOOK_AHEAD:
            break
    return chunk


def _cut(chunk, size):
    "The first jobs of a sorted chunk, at most `size`, and the rest; jobs that must not be padded end where the length changes."
    if chunk[0].alike:
        size = next((i for i, job in enumerate(chunk[:size]) if job.cost != chunk[0].cost), size)
    return chunk[:size], chunk[size:]


def _halving(score, batch, budget):
    "Values of a batch; where memory is short, of its halves, and the batches that follow are smaller."
    try:
        return score(batch)
    except RuntimeError as error:                              # torch.OutOfMemoryError is one
        if not _out_of_memory(error):
            raise
        if len(batch) == 1:
            raise MemoryError(f"memory does not hold one window of {batch[0].cost} tokens: give a smaller window=, dtype='bfloat16', or device='cpu'") from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(batch) // 2
    budget[0] = max(1, min(budget[0], len(batch) * batch[0].cost) // 2)
    logger.warning("out of memory: batch_tokens is now %d", budget[0])
    return np.concatenate([_halving(score, batch[:half], budget), _halving(score, batch[half:], budget)])


def _out_of_memory(error):
    "Whether an error says that the device's memory, or the machine's, is full."
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory"))


def _joined(documents, start, rule):
    "Windows over the concatenation of all documents, cut while it is read: no more than a document and two windows of tokens are held."
    row, owner, place = np.array(start, np.int64), np.full(len(start), -1), np.zeros(len(start), np.int64)
    scored, begin, gone = 1, 0, 0                              # places in the whole sequence; `gone` tokens in front were dropped
    for number, ids, _ in chain(documents, [(None, (), None)]):
        row, place = np.append(row, ids).astype(np.int64), np.append(place, np.arange(len(ids)))
        owner = np.append(owner, np.full(len(ids), number or 0))
        last = gone + len(row)
        while scored < last:
            end = (scored if rule.stride is None else begin + 1) + rule.window
            if end > last and number is not None:
                break                                          # the window is not full, and more may come
            end = min(end, last)
            first = max(0, end - 1 - rule.window) if rule.stride is None else begin
            part = slice(scored - gone, end - gone)
            yield _Span(_restarted(row[first - gone:end - gone], first, start, rule), scored - first, owner[part], place[part])
            scored, begin = end, begin + (rule.stride or 0)
        cut = max(0, (scored - 1 - rule.window if rule.stride is None else begin) - gone)
        row, owner, place, gone = row[cut:], owner[cut:], place[cut:], gone + min(cut, len(row))


class _Gap(NamedTuple):
    "A token to be masked, in its window."
    ids: np.ndarray        # tokens of the window, without special ones
    words: object          # number of the word of each, or None
    at: int                # which of them is masked
    owner: int             # number of the document
    place: int             # place in the document
    around: int            # special tokens before and after
    alike = True           # batches hold windows of one length only, so that nothing is padded
    scored = 1

    @property
    def cost(self):
        "Tokens that the model reads."
        return len(self.ids) + self.around


def _gaps(documents, around, rule):
    "One gap for each token, or for `masks` tokens of each document drawn without replacement; windows of long documents are centred."
    room = rule.window - around
    for number, ids, words in documents:
        length = min(len(ids), room)
        for place in _drawn(len(ids), number, rule):
            begin = min(max(0, place - room // 2), len(ids) - length)
            yield _Gap(ids[begin:begin + length], words if words is None else words[begin:begin + length], place - begin, number, place, around)


def _drawn(count, number, rule):
    "Places to be masked in a document."
    if rule.masks is None or rule.masks >= count:
        return range(count)
    return sorted(np.random.default_rng([rule.seed, number]).choice(count, rule.masks, replace=False).tolist())


def _masked_values(model, batch, before, after, mask):
    "Log-probability of the masked token of each gap; the head sees the masked places only."
    rows, at, each = np.array([g.ids for g in batch]), np.array([g.at for g in batch]), np.arange(len(batch))
    targets, columns = torch.from_numpy(rows[each, at]), np.arange(rows.shape[1])
    hidden = columns == at[:, None]
    if batch[0].words is not None:                             # later tokens of the same word, too
        words = np.array([g.words for g in batch])
        hidden |= (words == words[each, at][:, None]) & (columns > at[:, None])
    rows[hidden] = mask
    inputs = np.hstack([np.tile(np.array(before, np.int64), (len(batch), 1)), rows, np.tile(np.array(after, np.int64), (len(batch), 1))])
    logits = _logits_at(model, torch.from_numpy(inputs).to(model.device), torch.from_numpy(at + len(before)).to(model.device))
    return _log_probs(logits, targets.to(model.device))


def _logits_at(model, inputs, at):
    "Logits at one place of each row."
    rows, calls = torch.arange(len(at), device=at.device), []

    def keep(module, arguments, output):
        calls.append(1)
        output.last_hidden_state = output.last_hidden_state[rows, at][None]
        return output
    if model.base_model is not model:
        handle = model.base_model.register_forward_hook(keep)
        try:
            logits = model(input_ids=inputs).logits
        finally:
            handle.remove()
        return logits[0] if calls else logits[rows, at]
    return model(input_ids=inputs).logits[rows, at]


def _specials(tokenizer):
    "Special tokens that the tokenizer puts before and after a text."
    row, inner = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    for i in range(len(row) - len(inner) + 1):
        if row[i:i + len(inner)] == inner:
            return row[:i], row[i + len(inner):]
    return [], []


class _Pair(NamedTuple):
    "A source and the target that is scored."
    source: np.ndarray     # with the tokenizer's special tokens
    target: np.ndarray     # likewise
    owner: int             # number of the document
    place: int = 0
    alike = False

    @property
    def cost(self):
        "Tokens that the model reads."
        return len(self.source) + len(self.target)

    @property
    def scored(self):
        "Tokens that are scored."
        return len(self.target)


def _pair_values(model, batch):
    "Log-probabilities of the targets' tokens given their sources, one target after another."
    def padded(rows):
        there = torch.arange(max(map(len, rows))) < torch.tensor([len(r) for r in rows])[:, None]
        table = torch.zeros(there.shape, dtype=torch.long)
        table[there] = torch.from_numpy(np.concatenate(rows))
        return table.to(model.device), there.to(model.device)
    sources, seen = padded([p.source for p in batch])
    targets, wanted = padded([p.target for p in batch])
    shifted = torch.cat([torch.full((len(batch), 1), _decoder_start(model), device=model.device), targets[:, :-1]], 1)
    head, calls = model.get_output_embeddings(), []
    handle = head.register_forward_pre_hook(lambda _, inputs: calls.append(1) or (inputs[0][wanted][None], *inputs[1:]))     # no padding reaches the head
    try:
        logits = model(input_ids=sources, attention_mask=seen.long(), decoder_input_ids=shifted, use_cache=False).logits
    finally:
        handle.remove()
    return _log_probs(logits[0] if calls else logits[wanted], targets[wanted])


def _decoder_start(model):
    "The token with which the decoder begins."
    for source in (model.config, getattr(model, "generation_config", None), getattr(model.config, "decoder", None)):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if getattr(source, name, None) is not None:
                return getattr(source, name)
    raise ValueError("the model does not say with which token its decoder begins: set model.config.decoder_start_token_id")


@dataclass(frozen=True)
class PerplexityResult:
    """How well a model predicts texts.

    Parameters
    ----------
    kind : str
        `perplexity` of a causal model, `pseudo-perplexity` of a masked one, `conditional perplexity` of a sequence-to-sequence one.
    log_likelihoods : tuple of float
        Of each document, in nats.
    tokens, words, bytes, characters : tuple of int
        Scored tokens, and sizes of each document (words are separated by white space, bytes are those of UTF-8).
    skipped : int
        Empty texts left out, and texts with no token to score.
    protocol : dict
        What was done, in words: all that is needed to repeat the number.
    options : dict
        The same as arguments: `perplexity(model, texts, **result.options)` gives the same number.
    variances : tuple of float
        Of the documents' log-likelihoods where they are estimates (`masks`); empty otherwise.
    """

    kind: str
    log_likelihoods: tuple
    tokens: tuple
    words: tuple
    bytes: tuple
    characters: tuple
    skipped: int
    protocol: dict
    options: dict
    variances: tuple = ()

    @property
    def log_likelihood(self):
        "Sum over all documents, in nats."
        return float(np.sum(self.log_likelihoods, dtype=np.float64))

    @property
    def standard_error(self):
        "Of `log_likelihood`, from drawing the masks; 0 where every token was scored."
        return float(np.sqrt(np.sum(self.variances, dtype=np.float64)))

    def per(self, unit="tokens"):
        "Perplexity per unit: `tokens`, `words`, `bytes`, `characters`, or a number of units that was counted elsewhere."
        return float(np.exp(-self.log_likelihood / (sum(getattr(self, unit)) if isinstance(unit, str) else unit)))

    @property
    def perplexity(self):
        "Perplexity per scored token: summed over all tokens, divided once."
        return self.per("tokens")

    @property
    def bits_per_byte(self):
        "Surprisal in bits for each byte of UTF-8; comparable between tokenizers."
        return -self.log_likelihood / np.log(2) / sum(self.bytes)

    @property
    def bits_per_character(self):
        "Surprisal in bits for each character (code point)."
        return -self.log_likelihood / np.log(2) / sum(self.characters)

    @property
    def mean_of_documents(self):
        "Mean of the documents' own perplexities: another quantity, dominated by short and odd texts."
        return float(np.mean(self.document_perplexities))

    @property
    def document_perplexities(self):
        "Perplexity per token of each document."
        return np.exp(-np.array(self.log_likelihoods) / np.array(self.tokens))

    def interval(self, unit="tokens", confidence=0.95, samples=1000, seed=0):
        "Percentile bootstrap interval of the perplexity per unit, over documents: (low, high); nan for a single document."
        return _bootstrap(-np.array(self.log_likelihoods), np.array(getattr(self, unit)), confidence, samples, seed, np.exp)

    def __repr__(self):
        return "\n".join([f"{self.kind} {self._shown()}", f"  {self._counts()}", "  protocol: " + ", ".join(f"{k}={v}" for k, v in self.protocol.items())])

    def _repr_html_(self):
        rows = {self.kind: self._shown(), "counted": self._counts(), **self.protocol}
        return "<table>" + "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in rows.items()) + "</table>"

    def _shown(self):
        "The numbers, in a line."
        low, high = self.interval()
        spread = f" [{low:.3f}, {high:.3f}]" if low == low else ""
        drawn = f", log-likelihood {self.log_likelihood:,.1f} ± {self.standard_error:,.1f} (standard error of the drawn masks)" if self.variances else ""
        return f"{self.perplexity:.3f} per token{spread}, {self.per('words'):.2f} per word, {self.per('bytes'):.4f} per byte, {self.bits_per_byte:.4f} bits per byte, {self.bits_per_character:.4f} per character{drawn}"

    def _counts(self):
        "The counts, in a line."
        return f"{len(self.tokens):,} documents, {sum(self.tokens):,} tokens, {sum(self.words):,} words, {sum(self.bytes):,} bytes, {self.skipped} skipped; log-likelihood {self.log_likelihood:,.2f} nats"


def _bootstrap(sums, sizes, confidence, samples, seed, of=lambda x: x):
    "Percentile interval of sum over size when documents are drawn again with replacement."
    if len(sizes) < 2:
        return float("nan"), float("nan")
    draw, values = np.random.default_rng(seed), np.empty(samples)
    for i in range(samples):                                   # one sample at a time: memory does not grow with `samples`
        index = draw.integers(0, len(sizes), len(sizes))
        values[i] = sums[index].sum() / sizes[index].sum()
    low, high = np.quantile(of(values), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _as_texts(texts, text_column=None, name="texts"):
    "An iterator over texts from a list, a file, a data set or a stream; a list is checked at once."
    if isinstance(texts, (str, os.PathLike)):
        embedded = str(texts).split(":")[0] == "docstrings"
        if not Path(texts).exists() and not embedded:
            raise FileNotFoundError(f"{name} {str(texts)!r} is no file or folder: give a path, 'docstrings', or a list of texts")
        corpus = load_corpus(texts, text_column=text_column, deduplicate=False, validation_fraction=0.05 if embedded else 0, streaming=not embedded)
        texts, text_column = corpus[next(s for s in ("test", "validation", "train") if s in corpus)], "text"
    if getattr(texts, "column_names", None) is not None:
        column = text_column or "text"
        if column not in texts.column_names:
            raise ValueError(f"text_column {column!r} is not there: the columns are {', '.join(texts.column_names)}")
        return _checked((row[column] for row in texts.select_columns([column])), name)
    if isinstance(texts, (list, tuple)):
        for _ in _checked(texts, name):
            pass
        if not any(t.strip() for t in texts):
            raise ValueError(f"{name}: nothing to score, {len(texts)} texts given and none has text")
    return _checked(texts, name, text_column)


def _checked(texts, name, column=None):
    "The texts one by one, each of which must be text; of the rows of a stream, their column."
    for i, text in enumerate(texts):
        text = text.get(column or "text") if isinstance(text, dict) else text
        if not isinstance(text, str):
            raise TypeError(f"{name}: element {i} is {type(text).__name__}, not text")
        yield text


def _paired(texts, sources):
    "Texts with their sources (None without), which must be as many."
    end, number = object(), -1
    for number, text in enumerate(texts):
        source = None if sources is None else next(sources, end)
        if source is end:
            raise ValueError(f"sources has {number} texts and texts has more: give one source for each text")
        yield number, text, source
    if sources is not None and next(sources, end) is not end:
        raise ValueError(f"texts has {number + 1} texts and sources has more: give one source for each text")


@dataclass(frozen=True)
class _Rule:
    "How texts are scored: what decides about the number."
    task: str              # causal, masked or seq2seq
    window: int            # tokens read at once
    stride: int            # tokens by which a window moves; None: disjoint
    bos: bool              # begin with the beginning-of-text token
    further: str           # what stands first in further windows: text or bos
    documents: str         # each or joined
    separator: str         # put between joined texts
    within_word: bool      # mask later tokens of a word, too
    masks: int             # tokens masked in each document; None: all
    seed: int              # of their draw

    def options(self, dtype):
        "The arguments of `perplexity` that say so."
        return {**asdict(self), "dtype": dtype}


def _checked_rule(model, rule):
    "The rule with its window filled in, checked against the model's positions."
    positions = _positions(model) or (sys.maxsize if rule.task == "seq2seq" else 1024)
    window = rule.window or min(positions, 1024 if rule.task != "seq2seq" else positions)
    for name, value, choices in (("documents", rule.documents, ("each", "joined")), ("further", rule.further, ("text", "bos"))):
        if value not in choices:
            raise ValueError(f"{name} {value!r} is not known: choose {' or '.join(map(repr, choices))}")
    if not 2 <= window <= positions:
        raise ValueError(f"window {window} must be at least 2 and at most the model's {positions} positions")
    if rule.stride is not None and not 1 <= rule.stride <= window:
        raise ValueError(f"stride {rule.stride} must be at least 1 and at most the window, {window}: a longer one would leave tokens out")
    if rule.masks is not None and rule.masks < 2:
        raise ValueError(f"masks {rule.masks} must be at least 2, so that its error can be estimated")
    if rule.documents == "joined" and rule.task != "causal":
        raise ValueError("documents='joined' is for causal models: others are scored text by text")
    return replace(rule, window=window)


_DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _opened(model, tokenizer, device, dtype, task):
    "Model, tokenizer, name and task; the model on the device and in the type that were asked for. A model in hand is not changed."
    if dtype not in _DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known: choose {', '.join(_DTYPES)}")
    if isinstance(model, (str, os.PathLike)):
        loaded, its_own = load(model, task=task, device=device, dtype=_DTYPES[dtype])
        return loaded, tokenizer or its_own, str(model), task or _task(loaded)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model is {type(model).__name__}: give a folder, a hub name, or a PreTrainedModel (a model of your own is one by deriving from that class)")
    if tokenizer is None:
        raise ValueError("tokenizer is missing: a model in hand needs its tokenizer, perplexity(model, texts, tokenizer)")
    name, task = type(model).__name__, task or _task(model)
    if _DTYPES[dtype] not in (None, model.dtype):
        model = copy.deepcopy(model).to(_DTYPES[dtype])
    return (model if device == "auto" else model.to(resolve_device(device))), tokenizer, name, task


def _task(model):
    "What the model is for; one that was never saved is known by its class."
    known = model.config if model.config.architectures else SimpleNamespace(architectures=[type(model).__name__])
    task = task_of(known)
    if task not in ("causal", "masked", "seq2seq"):
        raise ValueError(f"model {type(model).__name__} is for {task}: perplexity needs a causal, a masked or a sequence-to-sequence language model")
    return task


def _positions(model):
    "Positions that the model can take, if it says so; RoBERTa's first ones belong to padding."
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)


def _start(tokenizer, rule):
    "The beginning-of-text token (end-of-text where there is none), in a list that is empty without one."
    if rule.task != "causal" or not rule.bos:
        return []
    found = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None][:1]
    if not found:
        logger.warning("the tokenizer has no beginning-of-text token: the first token of each text is not scored")
    return found


_GROUP = 256                    # texts that are tokenized at a time


class _Reader:
    "Texts read once: gives their tokens, and keeps of each document numbers only."

    def __init__(self, tokenizer, rows, rule):
        self.tokenizer, self.rows, self.rule = tokenizer, rows, rule
        self.numbers, self.words, self.bytes, self.characters = [], [], [], []
        self.sums, self.squares, self.counts, self.sizes = [], [], [], []
        self.read, self.lost, self.digest = 0, None, hashlib.blake2b(digest_size=6)

    def documents(self, pairs):
        "Yield (document, ids, words or source ids) of each text that is not empty."
        while group := list(islice(pairs, _GROUP)):
            self.read = group[-1][0] + 1
            for _, text, source in group:
                self.digest.update(f"{len(text)}:{text}{source or ''}".encode("utf-8", "surrogatepass"))
            kept = [(n, t, s) for n, t, s in group if t.strip()]
            if kept:
                yield from self._encoded(kept)

    def _encoded(self, kept):
        "Tokenize a group of texts."
        texts, first = [t for _, t, _ in kept], len(self.numbers)
        glued = [self.rule.separator * bool(self.rule.documents == "joined" and first + i) + t for i, t in enumerate(texts)]
        target = self.rule.task == "seq2seq"
        encoded = self.tokenizer(**{"text_target" if target else "text": glued}, add_special_tokens=target, return_attention_mask=False, verbose=False)
        ids = [np.array(row, np.int64) for row in encoded["input_ids"]]
        if self.lost is None:
            self.lost = _bytes_lost(self.tokenizer, glued, encoded["input_ids"])
        more = self._more(kept, encoded)
        for (number, text, _), whole, row, extra in zip(kept, glued, ids, more):
            _check_ids(row, self.rows)
            self.numbers.append(number), self.words.append(max(1, len(text.split()))), self.bytes.append(len(whole.encode("utf-8", "surrogatepass"))), self.characters.append(len(whole))
            self.sums.append(0.0), self.squares.append(0.0), self.counts.append(0), self.sizes.append(len(row))
            yield len(self.numbers) - 1, row, extra

    def _more(self, kept, encoded):
        "Numbers of the words for within-word scores; sources for sequence-to-sequence models."
        if self.rule.task == "seq2seq":
            sources = self.tokenizer([s for _, _, s in kept], return_attention_mask=False, verbose=False)["input_ids"]
            return [np.array(row, np.int64) for row in sources]
        if self.rule.task == "masked" and self.rule.within_word:
            if not self.tokenizer.is_fast:
                raise ValueError("within_word needs a fast tokenizer, which knows the words: load it with AutoTokenizer")
            return [np.array(encoded.word_ids(i)) for i in range(len(kept))]
        return [None] * len(kept)

    def add(self, batch, values):
        "Add the values of a batch to their documents; a value that is no number is an error."
        counts = [job.scored for job in batch]
        owner = np.concatenate([np.broadcast_to(job.owner, n) for job, n in zip(batch, counts)]) if self.rule.documents == "joined" else np.repeat([job.owner for job in batch], counts)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            place = np.concatenate([job.place if np.ndim(job.place) else job.place + np.arange(n) for job, n in zip(batch, counts)])
            first = min(bad, key=lambda i: (owner[i], place[i]))
            raise FloatingPointError(f"the model gives no number for token {place[first]} of document {self.numbers[owner[first]]}: its weights are damaged, or their type is too narrow; try dtype='float32'")
        unique, where = np.unique(owner, return_inverse=True)
        for o, s, q, n in zip(unique.tolist(), np.bincount(where, values).tolist(), np.bincount(where, values**2).tolist(), np.bincount(where).tolist()):
            self.sums[o], self.squares[o], self.counts[o] = self.sums[o] + s, self.squares[o] + q, self.counts[o] + n


def _check_ids(row, rows):
    "Raise a `ValueError` for an id that the model's embedding does not have."
    if len(row) and row.max() >= rows:
        raise ValueError(f"the tokenizer gives id {row.max()} and the model's embedding has {rows} rows: it is not the model's tokenizer")


def _bytes_lost(tokenizer, texts, rows, limit=100):
    "Share of the bytes of the first texts that decoding does not give back (wherever it puts them): 0 for a lossless tokenizer."
    lost = total = 0
    for text, row in zip(texts[:limit], rows):
        try:
            back = tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        except Exception:
            return None
        a, b = (np.bincount(np.frombuffer(t.encode("utf-8", "surrogatepass"), np.uint8), minlength=256) for t in (text, back))
        lost, total = lost + int(np.maximum(a - b, 0).sum()), total + int(a.sum())
    return lost / total if total else 0.0


def perplexity(model, texts, tokenizer=None, *, sources=None, text_column=None, documents="each", separator="\n\n", window=None, stride=None, bos=True,
               further="text", within_word=False, masks=None, seed=0, task=None, dtype="auto", max_texts=None, batch_tokens="auto", device="auto", progress=True):
    """Perplexity of a causal model, pseudo-perplexity of a masked one, conditional perplexity of a sequence-to-sequence one, on texts.

    Parameters
    ----------
    model : str, path or PreTrainedModel
        A folder, a hub name, or a model in hand (then with its tokenizer).
    texts : str, path, list, Dataset or iterable
        A file or folder (read as a stream, as `load_corpus` does), `docstrings`, a data set, a list or any stream of texts.
    tokenizer : PreTrainedTokenizerFast, optional
        The model's tokenizer; by default that of the folder.
    sources : str, path, list or iterable, optional
        For a sequence-to-sequence model, the source of each text: a file, a list or a stream.
    text_column : str, optional
        Column of a data set or file; by default `text`.
    documents : {'each', 'joined'}
        Score each text by itself, or (causal models) the concatenation of all.
    separator : str
        What stands between joined texts; its tokens are scored too.
    window : int, optional
        Tokens that the model reads at once; by default all its positions, at most 1,024.
    stride : int, optional
        Tokens by which the window of a causal model moves; by default windows score disjoint stretches.
    bos : bool
        Put the beginning-of-text token before a causal model's text, so that the first token is scored.
    further : {'text', 'bos'}
        What stands first in a further window: the text before it, or the beginning-of-text token in place of that.
    within_word : bool
        For a masked model, hide later tokens of the same word too (Kauf and Ivanova 2023).
    masks : int, optional
        For a masked model, score so many tokens of each text, drawn at random, and estimate the rest; by default all.
    seed : int
        Seed of that draw.
    task : {'causal', 'masked', 'seq2seq'}, optional
        What the model is for; by default what its configuration or class says.
    dtype : str
        Type to compute in: `float32`, `bfloat16`, `float16`, or `auto`, that of the model.
    max_texts : int, optional
        At most so many texts.
    batch_tokens : int or str
        Tokens of a batch, which bounds the memory; `auto` begins with 4,096 (65,536 on a GPU). It halves itself when memory is short.
    device : str
        `auto`, `cpu`, `cuda`.
    progress : bool
        Show a bar.

    Returns
    -------
    PerplexityResult
        Log-likelihoods, counts and protocol. Sums run over tokens in float64 and are divided once (Salazar et al. 2020, equation 1, for masked models).

    Raises
    ------
    ValueError
        If there is nothing to score, or model, tokenizer, window and stride do not fit.
    FileNotFoundError
        If there is no such model or file.
    FloatingPointError
        If the model answers with no number.
    MemoryError
        If a single window is too much.
    """
    texts = islice(_as_texts(texts, text_column), max_texts)
    model, tokenizer, name, task = _opened(model, tokenizer, device, dtype, task)
    rule = _checked_rule(model, _Rule(task, window, stride, bos, further, documents, separator, within_word, masks, seed))
    if (sources is None) == (task == "seq2seq"):
        raise ValueError(f"sources {'are missing: a sequence-to-sequence model scores targets given sources' if sources is None else f'do not go with a {task} model: leave them out'}")
    reader = _Reader(tokenizer, _rows(model), rule)
    pairs = _paired(texts, None if sources is None else _as_texts(sources, name="sources"))
    jobs, score = _work(model, tokenizer, name, reader.documents(pairs), rule)
    with _evaluating(model):
        for batch, values in _run(jobs, score, _budget(batch_tokens, model), progress):
            reader.add(batch, values)
    return _result(reader, _protocol(model, tokenizer, name, reader, rule), rule, dtype)


def _work(model, tokenizer, name, documents, rule):
    "Jobs of the documents, and the function that scores a batch of them."
    if rule.task == "causal":
        start = _start(tokenizer, rule)
        _check_ids(np.array(start), _rows(model))
        return (_joined if rule.documents == "joined" else _spans)(documents, start, rule), partial(_causal_values, model)
    if rule.task == "seq2seq":
        return _pairs(documents, rule), partial(_pair_values, model)
    if tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer of {name!r} has no mask token, which a masked model needs: give the model's own tokenizer")
    before, after = _specials(tokenizer)
    _check_ids(np.array([tokenizer.mask_token_id, *before, *after]), _rows(model))
    return _gaps(documents, len(before) + len(after), rule), partial(_masked_values, model, before=before, after=after, mask=tokenizer.mask_token_id)


def _pairs(documents, rule):
    "Sources with their targets, none longer than the model's positions."
    for number, target, source in documents:
        if max(len(target), len(source)) > rule.window:
            raise ValueError(f"the pair of document {number} has {len(source)} source and {len(target)} target tokens, and the model takes {rule.window}: cut it into shorter ones")
        yield _Pair(source, target, number)


def _rows(model):
    "Rows of the model's embedding."
    return model.get_input_embeddings().weight.shape[0]


def _budget(batch_tokens, model):
    "Tokens of a batch, in a list, since it may shrink."
    if batch_tokens == "auto":
        return [_START_TOKENS.get(model.device.type, 4096)]
    if isinstance(batch_tokens, int) and batch_tokens >= 1:
        return [batch_tokens]
    raise ValueError(f"batch_tokens {batch_tokens!r} must be 'auto' or a whole number, at least 1")


@contextmanager
def _evaluating(model):
    "The model in evaluation mode, without gradients, and then as it was."
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


_KINDS = {"causal": "perplexity", "masked": "pseudo-perplexity", "seq2seq": "conditional perplexity"}


def _protocol(model, tokenizer, name, reader, rule):
    "The protocol card: what was done, in words."
    start = [tokenizer.convert_ids_to_tokens(i) for i in _start(tokenizer, rule)] if rule.task == "causal" else []
    card = {"model": name, "class": type(model).__name__, "parameters": f"{sum(p.numel() for p in model.parameters()):,}", "weights": _fingerprint(model),
            "tokenizer": f"{type(tokenizer).__name__} of {len(tokenizer):,} tokens, {_digest(sorted(tokenizer.get_vocab().items()))}",
            "texts": reader.digest.hexdigest(), "window": rule.window if rule.window < sys.maxsize else "whole texts", "documents": "each by itself"}
    if rule.task == "causal":
        card |= {"stride": rule.stride or "disjoint", "first window": f"begins with {start[0]}" if start else "its first token is not scored",
                 "further windows": f"begin with {start[0]}" if start and rule.further == "bos" else "begin with the text before"}
        card |= {"documents": f"joined by {rule.separator!r}"} if rule.documents == "joined" else {}
    elif rule.task == "masked":
        card |= {"masks": "within word, left to right" if rule.within_word else "one token"} | ({"drawn": f"{rule.masks} of each text, seed {rule.seed}"} if rule.masks else {})
    else:
        card |= {"targets": "with the tokenizer's special tokens"}
    if reader.lost:
        card["bytes lost by the tokenizer"] = f"{reader.lost:.2%}"
        logger.warning("the tokenizer is not lossless: %.2f%% of the bytes of the first texts cannot be had back, and what is lost costs nothing; compare per byte with care", 100 * reader.lost)
    return card | {"words": "separated by white space", "dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type,
                   "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"}


def _digest(value):
    "Twelve hexadecimal digits for a value."
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def _fingerprint(model):
    "Twelve hexadecimal digits for the weights: for some of each tensor."
    digest = hashlib.blake2b(digest_size=6)
    for key, tensor in model.state_dict().items():
        digest.update(key.encode() + tensor.detach().flatten()[:: max(1, tensor.numel() // 64)].double().cpu().numpy().tobytes())
    return digest.hexdigest()


def _result(reader, protocol, rule, dtype):
    "What the reader kept, as a result."
    if not reader.numbers:
        raise ValueError(f"texts: nothing to score, {reader.read} texts given and none has text")
    counts, sizes, sums, squares = (np.array(x, np.float64) for x in (reader.counts, reader.sizes, reader.sums, reader.squares))
    kept = np.flatnonzero(counts)
    if not len(kept):
        raise ValueError("texts: no token to score, each text has a single token and bos is off; give longer texts, or bos=True")
    variances = ()
    if rule.masks:                                             # sums over a sample without replacement (Cochran 1977, equation 2.20)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.where(counts < sizes, (squares - sums**2 / counts) / (counts - 1), 0)
            variances = tuple((sizes**2 * (1 - counts / sizes) * spread / counts)[kept].tolist())
        sums, counts = sums * sizes / np.maximum(counts, 1), sizes
    take = lambda column: tuple(np.array(column)[kept].tolist())
    return PerplexityResult(_KINDS[rule.task], take(sums), take(counts.astype(int)), take(reader.words), take(reader.bytes), take(reader.characters),
                            reader.read - len(kept), protocol, rule.options(dtype), variances)


class _CallableModule(types.ModuleType):
    "A module that, called, calls its function `perplexity`."

    def __call__(self, *arguments, **options):
        return perplexity(*arguments, **options)


if __name__ != "__main__":
    sys.modules[__name__].__class__ = _CallableModule


@dataclass(frozen=True)
class SurprisalResult:
    """Surprisal of each token and each word of a text.

    Parameters
    ----------
    text : str
        The text.
    offsets : tuple of tuple of int
        First and last-plus-one character of each token.
    bits : tuple of float
        Surprisal of each token in bits; nan for a first token that is not scored.
    word_offsets : tuple of tuple of int
        The same of each word; words are separated by white space.
    word_bits : tuple of float
        Surprisal of each word: the sum over its tokens, with the space before it.
    corrected_word_bits : tuple of float or None
        Likewise, with the space after the word in place of the one before (Pimentel and Meister 2024); None where the
        tokenizer does not mark the space before a word, or the model is not causal.
    """

    text: str
    offsets: tuple
    bits: tuple
    word_offsets: tuple = ()
    word_bits: tuple = ()
    corrected_word_bits: tuple = None

    @property
    def tokens(self):
        "Pieces of the text."
        return tuple(self.text[a:b] for a, b in self.offsets)

    @property
    def words(self):
        "Words of the text."
        return tuple(self.text[a:b] for a, b in self.word_offsets)

    def to_table(self, by="word"):
        "Rows as dictionaries, one for each `word` or `token`: text, first and last-plus-one character, bits (and corrected bits)."
        if by not in ("word", "token"):
            raise ValueError(f"by {by!r} is not known: choose 'word' or 'token'")
        offsets, bits = (self.word_offsets, self.word_bits) if by == "word" else (self.offsets, self.bits)
        rows = [{by: self.text[a:b], "begin": a, "end": b, "bits": value} for (a, b), value in zip(offsets, bits)]
        if by == "word" and self.corrected_word_bits is not None:
            rows = [{**row, "corrected_bits": value} for row, value in zip(rows, self.corrected_word_bits)]
        return rows

    def to_csv(self, path, by="word"):
        "Write `to_table(by)` as a file of comma-separated values, in UTF-8; give its path."
        rows = self.to_table(by)
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader(), writer.writerows(rows)
        return Path(path)

    def __repr__(self):
        return " ".join(f"{t.strip()}({b:.1f})" for t, b in zip(self.tokens, self.bits))

    def _repr_html_(self):
        top, at, parts = max([b for b in self.bits if b == b] or [1]) or 1, 0, []
        for (a, b), bits in zip(self.offsets, self.bits):
            parts.append(escape(self.text[at:max(at, a)]))              # what no token covers
            shade = 0 if bits != bits else max(0, bits / top)
            parts.append(f'<span title="{bits:.2f} bits" style="background:rgba(230,159,0,{shade:.2f})">{escape(self.text[max(at, a):b])}</span>')
            at = max(at, b)
        return f'<p style="white-space:pre-wrap">{"".join(parts)}{escape(self.text[at:])}</p>'

    def plot(self, ax=None, by="token"):
        "Draw a bar for each `token` or `word` on `ax` or a new figure; give the axes."
        import matplotlib.pyplot as plt
        names, bits = (self.tokens, self.bits) if by == "token" else (self.words, self.word_bits)
        ax = ax or plt.subplots(figsize=(max(6, 0.35 * len(bits)), 3))[1]
        ax.bar(range(len(bits)), bits, color="#E69F00")
        ax.set_xticks(range(len(bits)), [t.strip() for t in names], rotation=60, ha="right")
        ax.set_ylabel("surprisal (bits)"), ax.spines[["top", "right"]].set_visible(False)
        return ax


def _words_of(text, offsets):
    "Offsets of the words of a text, and for each token the number of its word: white space belongs to the word after it."
    found = [m.span() for m in re.finditer(r"\S+", text)]
    ends = np.array([end for _, end in found])
    inner = [a + len(text[a:b]) - len(text[a:b].lstrip()) for a, b in offsets]           # first character that is no space
    return found, np.minimum(np.searchsorted(ends, inner, side="right"), len(found) - 1)


def _edges(tokenizer, rows):
    "Tokens that end the word before them, as they begin with white space or end the text; None if the tokenizer does not mark spaces so."
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(rows, len(tokenizer)))))
    begins = [i for i, p in enumerate(pieces) if p and (p[0] in "Ġ▁ĊĉčĠ \n\t\r" or p in ("<0x20>", "<0x0A>", "<0x09>", "<0x0D>"))]
    if not any(p and p[0] in "Ġ▁" and len(p) > 1 for p in pieces):
        return None
    return sorted({*begins, *(i for i in (tokenizer.eos_token_id, tokenizer.bos_token_id) if i is not None)})


def _corrected(bits, edge_bits, owner, marked, count):
    """Surprisal of words with the space that follows, not the one that precedes.

    `bits` of the tokens, `edge_bits` of "a word ends here" before each token and after the last, `owner` the word of each token,
    `marked` whether a token begins with a space (Pimentel and Meister 2024, theorem 1).
    """
    totals = np.bincount(owner, bits, count)
    for word in range(count):
        places = np.flatnonzero(owner == word)
        if len(places):
            totals[word] += edge_bits[places[-1] + 1] - (edge_bits[places[0]] if marked[places[0]] else 0)
    return totals


def surprisal(model, text, tokenizer=None, *, window=None, stride=None, bos=True, within_word=False, task=None, dtype="auto", device="auto"):
    """Surprisal of each token and each word of one text.

    Parameters
    ----------
    model : str, path or PreTrainedModel
        A causal or masked language model: folder, hub name, or in hand.
    text : str
        The text.
    tokenizer : PreTrainedTokenizerFast, optional
        The model's tokenizer; by default that of the folder.
    window, stride : int, optional
        As in `perplexity`.
    bos : bool
        As in `perplexity`.
    within_word : bool
        As in `perplexity`.
    task : {'causal', 'masked'}, optional
        As in `perplexity`.
    dtype : str
        As in `perplexity`.
    device : str
        `auto`, `cpu`, `cuda`.

    Returns
    -------
    SurprisalResult
        Tokens and words, their places, and bits.

    Raises
    ------
    ValueError
        If the text is empty, or model and tokenizer do not fit.
    """
    list(_as_texts([text], name="text"))
    model, tokenizer, name, task = _opened(model, tokenizer, device, dtype, task)
    if task == "seq2seq":
        raise ValueError("surprisal is for causal and masked models: for targets given sources use perplexity(..., sources=...)")
    rule = _checked_rule(model, _Rule(task, window, stride, bos, "text", "each", "", within_word, None, 0))
    reader, encoded = _Reader(tokenizer, _rows(model), rule), tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    (_, ids, words), = reader.documents(iter([(0, text, None)]))
    edges = _edges(tokenizer, _rows(model)) if task == "causal" else None
    tail = [ids[-1]] if edges is not None else []                        # one step more, for what comes after the last word
    jobs, score = _work(model, tokenizer, name, iter([(0, np.append(ids, tail).astype(np.int64), words)]), rule)
    found = np.full((len(ids) + len(tail), 2), np.nan)
    with _evaluating(model):
        for batch, values in _run(jobs, partial(score, edges=edges) if edges is not None else score, _budget("auto", model), False):
            at = np.concatenate([job.place + np.arange(job.scored) for job in batch])
            found[at] = values.reshape(len(at), -1)
    first = int(task == "causal" and not _start(tokenizer, rule))
    if first == len(ids):
        raise ValueError("text: no token to score, it has a single token and bos is off; give a longer text, or bos=True")
    bad = np.flatnonzero(~np.isfinite(found[first:len(ids), 0]))
    if len(bad):
        raise FloatingPointError(f"the model gives no number for token {bad[0] + first} of the text: its weights are damaged, or their type is too narrow; try dtype='float32'")
    return _as_surprisal(text, encoded["offset_mapping"], -found / np.log(2), ids, edges)


def _as_surprisal(text, offsets, found, ids, edges):
    "Words from tokens."
    spans, owner = _words_of(text, offsets)
    bits = found[:len(offsets), 0]
    marked = None if edges is None else np.isin(ids, edges)
    corrected = None if edges is None else tuple(_corrected(bits, found[:, 1], owner, marked, len(spans)).tolist())
    return SurprisalResult(text, tuple(map(tuple, offsets)), tuple(bits.tolist()), tuple(spans), tuple(np.bincount(owner, bits, len(spans)).tolist()), corrected)


@dataclass(frozen=True)
class Comparison:
    """Difference of two models on the same texts.

    Parameters
    ----------
    difference, low, high : float
        Bits per byte of the first less those of the second, and a paired bootstrap interval; nan for a single document.
    """

    difference: float
    low: float
    high: float

    def __repr__(self):
        verdict = "the first is better" if self.high < 0 else "the second is better" if self.low > 0 else "undecided"
        return f"difference {self.difference:+.4f} bits per byte [{self.low:+.4f}, {self.high:+.4f}]: {verdict}"


def compare(a, b, confidence=0.95, samples=2000, seed=0):
    """Compare two models on the same texts, per byte, with a paired interval.

    Parameters
    ----------
    a, b : PerplexityResult
        Results on the same texts, of the same kind.
    confidence : float
        Of the interval.
    samples : int
        Bootstrap samples over documents.
    seed : int
        Their seed.

    Returns
    -------
    Comparison
        Difference in bits per byte; comparable between tokenizers.

    Raises
    ------
    ValueError
        If the texts are not the same, or perplexity meets pseudo-perplexity.
    """
    if a.bytes != b.bytes or a.kind != b.kind or a.protocol.get("texts") != b.protocol.get("texts"):
        raise ValueError(f"{a.kind} on {sum(a.bytes):,} bytes and {b.kind} on {sum(b.bytes):,} bytes cannot be compared: score the same texts with models of one kind")
    difference, size = (np.array(b.log_likelihoods) - np.array(a.log_likelihoods)) / np.log(2), np.array(a.bytes)
    return Comparison(float(difference.sum() / size.sum()), *_bootstrap(difference, size, confidence, samples, seed))
