"""Decoder-only language models as decoders: the memory fills the first slots of their input, text follows.

As X-LLM (Chen et al. 2023, arXiv 2305.04160) and SLAM-ASR (Ma et al. 2024, arXiv 2402.08846) do: to the model, memory
frames are embeddings like those of tokens. The network is transformers' own (extra `llm`): any of its causal language
models that takes `inputs_embeds` and keeps keys and values. Only safetensors are read, and no code of a checkpoint.

Letters: B rows, K hypotheses of a row, R hypotheses over all rows, U tokens, M slots of the memory, S earlier tokens, D
width, V vocabulary, H heads of the keys, C head width.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmx.errors import CheckpointError, InputError
from mmx.model import Model
from mmx.nn.block import Groups
from mmx.seq import Seq, concat, take
from mmx.state import State, leaves, subtree, tensor
from mmx.text.languages import find_language

MODEL_TYPES = ()
"""Folders of Hugging Face's are recognized by `is_folder`, whatever their type is."""

INSTRUCTION = "\nWrite what is said, in {language}:"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the decoder is built from.

    Attributes:
        settings: Hugging Face's `config.json`, as text: its names are not ours, and a card has no word for null.
        before: tokens ahead of the memory: what the tokenizer puts before every text.
        instruction: text between the memory and what is written; `{language}` becomes the language's English name.
    """

    settings: str
    before: Sequence[int] = ()
    instruction: str = INSTRUCTION


class CausalLM(nn.Module):
    """A causal language model of transformers' behind mmx's `Decoder` protocol.

    All that a search remembers is in its `State`. What the model made of the memory stands under `memory`, once for all
    hypotheses of a row, the keys and values of the text under `self`, `(B, K, H, S, C)` a layer. Each call copies them
    into a cache of transformers' and back; its own beam search copies as often.

    Args:
        lm: from `AutoModelForCausalLM`.
        before: tokens ahead of the memory.
    """

    def __init__(self, lm: nn.Module, before: Sequence[int] = ()):
        super().__init__()
        self.lm, self.before = lm, tuple(before)
        self.ctx: int = getattr(lm.config, "max_position_embeddings", None) or 1 << 30
        takes = signature(lm.forward).parameters
        self._keeps, self._placed = "logits_to_keep" in takes, "position_ids" in takes
        self._cache = "cache" if "cache" in takes else "past_key_values"  # its name since transformers 5, and before
        self.head = nn.Identity()

    def _apply(self, fn: Any, recurse: bool = True) -> "CausalLM":
        """Casts and moves; buffers keep their precision: rotary frequencies in half of it lose their place."""
        before = {name: buffer for name, buffer in self.named_buffers() if buffer.is_floating_point()}
        super()._apply(fn, recurse)
        for name, old in before.items():
            owner, _, leaf = name.rpartition(".")
            module = self.get_submodule(owner)
            setattr(module, leaf, old.to(getattr(module, leaf).device))
        return self

    @property
    def token(self) -> nn.Embedding:
        """The embedding of tokens, whose width the memory must have."""
        return self.lm.get_input_embeddings()  # type: ignore[operator]

    @property
    def width(self) -> int:
        """D of the memory."""
        return self.token.embedding_dim

    @property
    def dtype(self) -> torch.dtype:
        """Of the memory."""
        return self.token.weight.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.token.weight.device

    def forward(
        self,
        tokens: Tensor,
        memory: Seq,
        state: State | None = None,
        at: Sequence[int] | None = None,
        owner: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits of the next token, `(R, U or len(at), V)`; see `mmx.interfaces.Decoder`.

        Raises:
            ValueError: memory and text together are longer than the model can read.
        """
        logits_RUV = self.hidden(tokens, memory, state, owner)
        return logits_RUV if at is None else logits_RUV[:, list(at)]

    def hidden(
        self, tokens: Tensor, memory: Seq, state: State | None = None, owner: Sequence[int] | None = None
    ) -> Tensor:
        """Logits `(R, U, V)` already, which `head` leaves as they are.

        Models scale and bound their logits in many ways, so that the model's own output is taken, not its states.
        """
        groups = Groups(owner, len(tokens), len(memory.x))
        if state is None:
            return self._whole(tokens, memory.rows(torch.tensor(groups.owner, device=memory.x.device)))
        return self._step(tokens, memory, state, groups)

    def init_state(self, batch: int, capacity: int, hypotheses: int = 1) -> State:
        """Nothing yet: the shapes follow from the first call."""
        return {"self": {}, "memory": {}}

    def _whole(self, tokens: Tensor, memory: Seq) -> Tensor:
        """Logits `(B, U, V)` over whole texts in one pass, without a cache."""
        n_tokens = tokens.shape[1]
        slots = self._slots(memory)
        # Text follows the row's own slots, padding comes last: a causal model never sees it, and needs no mask.
        seq = concat(slots, Seq(self.token(tokens), torch.full_like(slots.lengths, n_tokens)))
        self._require_room(int(seq.lengths.max()))
        seq = seq._replace(x=seq.x[:, : int(seq.lengths.max())])
        keep = seq.x.shape[1] - int(slots.lengths.min())
        options = {"logits_to_keep": keep} if self._keeps else {}
        logits_BTV = self.lm(inputs_embeds=seq.x, use_cache=False, **options).logits
        first_B = slots.lengths - (seq.x.shape[1] - logits_BTV.shape[1])
        return take(logits_BTV, first_B[:, None] + torch.arange(n_tokens, device=tokens.device))

    def _slots(self, memory: Seq) -> Seq:
        """The memory as the model's first embeddings, `before` ahead of it; zeros beyond the lengths."""
        like = self.token.weight
        frames = memory._replace(x=memory.masked).to(like.dtype)
        if not self.before:
            return frames
        ids = torch.tensor(self.before, device=like.device).expand(len(memory.x), -1)
        seq = concat(Seq(self.token(ids), torch.full_like(memory.lengths, len(self.before))), frames)
        return seq._replace(x=seq.masked)

    def _require_room(self, n_slots: int) -> None:
        if n_slots > self.ctx:
            raise ValueError(f"expected at most {self.ctx} memory frames and tokens, got {n_slots}: shorten the input")

    # -------------------- with a state

    def _step(self, tokens_RU: Tensor, memory: Seq, state: State, groups: Groups) -> Tensor:
        held, own = subtree(state, "memory"), subtree(state, "self")
        if not held:
            held.update(self._read(memory))
        shared, empty_B = subtree(held, "layers"), tensor(held, "empty")
        owner_R = torch.tensor(groups.owner, device=tokens_RU.device)
        slot_R = torch.tensor(groups.slots, device=tokens_RU.device)
        n_slots, n_past = _positions(shared), _positions(shared) + _positions(own)
        cache = _cache(shared, own, owner_R, slot_R)
        out = self.lm(
            inputs_embeds=self.token(tokens_RU),
            use_cache=True,
            **{self._cache: cache},
            **self._places(n_past, tokens_RU.shape[1], empty_B[owner_R]),
        )
        n_hypotheses = tensor(subtree(own, "0"), "k").shape[1] if own else groups.width
        for i, pair in enumerate(_pairs(cache)):
            entry: State = {}
            for name, value_RHTC in zip(("k", "v"), pair, strict=True):
                new_RHSC = value_RHTC[:, :, n_slots:]
                room = new_RHSC.new_zeros(len(memory.x), n_hypotheses, *new_RHSC.shape[1:])
                entry[name] = room.index_put((owner_R, slot_R), new_RHSC)
            own[str(i)] = entry
        return out.logits

    def _places(self, n_past: int, n_new: int, empty_R: Tensor) -> dict[str, Tensor]:
        """What tells the model which earlier slots hold nothing, and where the new tokens stand."""
        self._require_room(n_past + n_new - int(empty_R.min()))
        steps_T = torch.arange(n_past + n_new, device=empty_R.device)
        out = {}
        if bool(empty_R.any()):
            out["attention_mask"] = (steps_T >= empty_R[:, None]).long()
        if self._placed:
            out["position_ids"] = steps_T[n_past:] - empty_R[:, None]
        return out

    def _read(self, memory: Seq) -> State:
        """What the model makes of the memory: its keys and values `(B, H, M, C)`, each row's at the end of the M.

        `empty` `(B,)` counts the slots before a row's first. At the end, so that the nearest slots are the latest ones
        for a model that looks back over a window.
        """
        slots = self._slots(memory)
        width = int(slots.lengths.max()) if len(slots.lengths) else 0
        self._require_room(width)
        empty_B = width - slots.lengths
        if not width:
            return {"layers": {}, "empty": empty_B}
        # A cache of the model's own choice may drop what a window has passed, which right padding would put amiss.
        cache = _cache({}, {}, empty_B, empty_B)
        self.lm(inputs_embeds=slots.x[:, :width], use_cache=True, **{self._cache: cache})
        index_BM = torch.arange(width, device=empty_B.device) - empty_B[:, None]
        layers: State = {}
        for i, (k, v) in enumerate(_pairs(cache)):
            ends = [take(t.transpose(1, 2), index_BM).transpose(1, 2) for t in (k, v)]
            layers[str(i)] = {"k": ends[0], "v": ends[1]}
        return {"layers": layers, "empty": empty_B}


def _positions(layers: State) -> int:
    """How many positions the layers hold."""
    return next((value.shape[-2] for _, value in leaves(layers)), 0)


def _cache(shared: State, own: State, owner_R: Tensor, slot_R: Tensor) -> Any:
    """A cache of transformers' with the keys and values of each hypothesis, memory and text: `(R, H, M + S, C)`."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for i in range(max(len(shared), len(own))):
        pair = []
        for name in ("k", "v"):
            parts = [tensor(subtree(shared, str(i)), name)[owner_R]] if shared else []
            parts += [tensor(subtree(own, str(i)), name)[owner_R, slot_R]] if own else []
            pair.append(torch.cat(parts, dim=2))
        cache.update(*pair, i)
    return cache


def _pairs(cache: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values of each layer, all that were seen."""
    for entry in cache:
        yield entry[0], entry[1]


# -------------------- building


class _EmptyOnMeta(TorchFunctionMode):
    """Puts what `torch.empty` makes on the meta device: the parameters. Buffers are computed, and stay."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build(config: Config) -> Model:
    """The decoder without weights; under `torch.device("meta")` its parameters allocate next to nothing."""
    transformers = _transformers()
    numbers = json.loads(config.settings)
    settings = transformers.AutoConfig.for_model(numbers.pop("model_type"), **numbers)
    if torch.empty(0).is_meta:
        # Buffers that no checkpoint holds (rotary frequencies) must be real.
        with torch.device("cpu"), _EmptyOnMeta():
            lm = transformers.AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    else:
        lm = transformers.AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    return Model(front={}, encoders={}, decoder=CausalLM(lm, config.before))


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder of Hugging Face's with a causal language model."""
    settings = _read_json(Path(path).expanduser() / "config.json")
    kinds = settings.get("architectures") or [""]
    return settings.get("format") != "mmx" and str(kinds[0]).endswith(("ForCausalLM", "LMHeadModel"))


def open_folder(path: str | Path, instruction: str = INSTRUCTION) -> tuple[Model, Config]:
    """Read a folder that `is_folder`, in float32.

    Raises:
        InputError: transformers is not installed, or the model has no keys and values to keep.
        CheckpointError: no safetensors, or a model that needs code of its own.
    """
    transformers, path = _transformers(), Path(path).expanduser()
    if not any(path.glob("*.safetensors")):
        raise CheckpointError(
            f"expected model.safetensors in {path}, got none: other formats may hold code and are not read; save the "
            "model again with save_pretrained"
        )
    try:
        lm = transformers.AutoModelForCausalLM.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as e:
        raise CheckpointError(
            f"expected a language model at {path} that transformers {transformers.__version__} has code for, got "
            f"{str(e).splitlines()[0] if str(e) else type(e).__name__}: update it, or use another model"
        ) from e
    if getattr(lm, "_is_stateful", False):
        raise InputError(f"expected a model that keeps keys and values, got {type(lm).__name__}: use a Transformer")
    numbers = {k: v for k, v in lm.config.to_diff_dict().items() if k not in ("dtype", "torch_dtype")}
    before: Sequence[int] = ()
    if (path / "tokenizer.json").is_file():
        before = _raw_tokenizer(path / "tokenizer.json").encode("").ids
    ends = _ends(numbers)
    kept = tuple(i for i in before if i not in ends or i == numbers.get("bos_token_id"))
    settings = json.dumps({**numbers, "model_type": lm.config.model_type}, sort_keys=True)
    config = Config(settings=settings, before=kept, instruction=instruction)
    return Model(front={}, encoders={}, decoder=CausalLM(lm.float().eval(), kept)), config


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as e:
        raise InputError(
            "expected transformers, which runs language models as decoders, got none: pip install 'mmx[llm]'"
        ) from e
    return transformers


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _ends(numbers: Mapping[str, Any]) -> list[int]:
    """The ids that end a text; `config.json` has one, several or none."""
    found = numbers.get("eos_token_id")
    return [] if found is None else [found] if isinstance(found, int) else list(found)


# -------------------- tokenizer


def _raw_tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as e:  # tokenizers raises nothing narrower
        raise CheckpointError(f"expected a tokenizer at {file}, got something else ({e}): download it again") from e


class Tokenizer:
    """Text to ids and back; a language steers by an instruction in words.

    Args:
        raw: of the `tokenizers` package.
        eot: id that ends a text.
        n_vocab: rows of the model's embedding.
        instruction: see `Config`.

    Attributes:
        language_ids: none, since no token names a language.
        control_ids: ids that no text holds, without the end.
    """

    language_ids: Mapping[str, int] = MappingProxyType({})

    def __init__(self, raw: Any, eot: int, n_vocab: int, instruction: str = INSTRUCTION):
        self.raw, self.eot, self.n_vocab, self.instruction = raw, eot, n_vocab, instruction
        special = {i for i, token in raw.get_added_tokens_decoder().items() if token.special}
        beyond = range(raw.get_vocab_size(with_added_tokens=True), n_vocab)
        self.control_ids = sorted((special | set(beyond)) - {eot})

    def language(self, text: str) -> str:
        """The tag of a language; see `mmx.text.languages.find_language`. Whether the model knows it, its text tells."""
        return find_language(text).tag

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without what the tokenizer puts around one."""
        return self.raw.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special tokens leave nothing."""
        return self.raw.decode(list(map(int, ids)), skip_special_tokens=True)

    def prompt(self, language: str) -> list[int]:
        """What the decoder starts from, after the memory, to write `language`."""
        return self.encode(self.instruction.format(language=find_language(language).name))

    def split_words(self, ids: Iterable[int]) -> list[tuple[str, list[int]]]:
        """Group ids into words: each word's text, with its leading space, and its ids; together they are the input."""
        words: list[tuple[str, list[int]]] = []
        used: list[int] = []
        waiting: list[int] = []
        written = ""
        for i in ids:
            waiting.append(i)
            text = self.decode([*used, *waiting])
            if text.endswith("\ufffd"):
                continue  # a letter of several tokens
            new, written = text[len(written) :], text
            if not words or new[:1].isspace():
                words.append((new, waiting))
            else:
                words[-1] = (words[-1][0] + new, [*words[-1][1], *waiting])
            used, waiting = [*used, *waiting], []
        return [*words, ("", waiting)] if waiting else words


def tokenizer(file: Path, config: Config) -> Tokenizer:
    """The tokenizer of `tokenizer.json`. Raises `CheckpointError` when the model has no token that ends a text."""
    settings = _transformers().AutoConfig.for_model(**json.loads(config.settings))
    ends = _ends(settings.to_dict())
    if not ends:
        raise CheckpointError(f"expected eos_token_id in the language model's config.json, got none (for {file})")
    return Tokenizer(_raw_tokenizer(file), ends[0], settings.vocab_size, config.instruction)
