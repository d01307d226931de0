"""Whisper's tokenizer and its languages.

Token ids of a Whisper model, low to high: the byte-level BPE vocabulary, then <|endoftext|>,
<|startoftranscript|>, the languages, the tasks and other marks, then 1501 timestamps 20 ms apart. The numbers
of the first two parts vary by model, so every id is looked up here and none is written down elsewhere.
"""

import base64
import binascii
import itertools
import json
import os
import string
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmx.errors import CheckpointError, InputError, nearest
from mmx.text import languages

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# In the order of their tokens. Cantonese came last and only large-v3 has it.
_CODES = """
    en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml cy
    sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am yi lo
    uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue
"""
LANGUAGES: dict[str, str] = {code: languages.find_language(code).name.lower() for code in _CODES.split()}
"""English name of each of Whisper's languages by its code there."""

# Languages that Whisper splits into characters, as they are written without spaces.
_SPLIT_BY_CHARACTER = frozenset({"zh", "ja", "th", "lo", "my", "yue"})


@lru_cache(maxsize=1)
def _code_of() -> dict[str, str]:
    """Whisper's code of each language by its ISO 639-3 code."""
    return {languages.find_language(code).code: code for code in LANGUAGES}


def find_language(text: str) -> str:
    """Return Whisper's code of a language.

    Args:
        text: A name, a code or a tag, as `mmx.text.languages.find_language` takes it.

    Raises:
        InputError: It names none of Whisper's languages; the message suggests the nearest name.
    """
    language = languages.find_language(text, among=LANGUAGES)
    if language.code not in _code_of():
        raise InputError(f"Whisper does not know {language} ({text!r}). Its languages: {', '.join(LANGUAGES)}.")
    return _code_of()[language.code]


# --- byte-level BPE --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _alphabet() -> tuple[str, ...]:
    """Return the character that stands for each byte in a byte-level vocabulary.

    Bytes that Latin-1 shows as a visible character stand for themselves; the others (space, controls) take
    the characters from U+0100 on, so that no token holds white space.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in visible}
    hidden = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}
    return tuple(letters[byte] for byte in range(256))


def _merge(token: bytes, ranks: Mapping[bytes, int], below: int) -> list[bytes]:
    """Apply byte-pair merges of rank less than `below` to one token, lowest rank first, leftmost first."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        pairs = itertools.pairwise(parts)
        rank, i = min((ranks.get(a + b, below), i) for i, (a, b) in enumerate(pairs))
        if rank >= below:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _parts_of(token: bytes, ranks: Mapping[bytes, int], rank: int) -> list[bytes]:
    """Return the two parts whose merge a token is, or more if it is none."""
    cuts = [i for i in range(1, len(token)) if ranks.get(token[:i], rank) < rank and ranks.get(token[i:], rank) < rank]
    if len(cuts) == 1:  # two of three tokens; much faster than to replay the merges
        return [token[: cuts[0]], token[cuts[0] :]]
    return _merge(token, ranks, rank)


def _merges_of(tokens: Sequence[bytes], known: Container[bytes] = ()) -> list[tuple[bytes, bytes]]:
    """Recover merges from ranks: a token is the merge of the two parts that earlier merges leave of it.

    Args:
        tokens: All tokens by rank.
        known: Tokens to leave out.

    Raises:
        CheckpointError: A token is not the merge of two others.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) < 2 or token in known:
            continue
        parts = _parts_of(token, ranks, rank)
        if len(parts) != 2:
            raise CheckpointError(
                f"Token {rank} ({token!r}) is no merge of two earlier ones, so this is no byte-pair "
                "encoding. Download the file again."
            )
        merges.append((parts[0], parts[1]))
    return merges


def _build_bpe(tokens: Sequence[bytes], merges: Iterable[tuple[bytes, bytes]]) -> "Tokenizer":
    """Return an encoder of plain text: it knows no special tokens, so no text can turn into one."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {_spell(token): i for i, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[(_spell(a), _spell(b)) for a, b in merges]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return bpe


def _spell(token: bytes) -> str:
    """Write bytes in the letters of a byte-level vocabulary."""
    return "".join(map(_alphabet().__getitem__, token))


# --- reading tokenizer files -----------------------------------------------------------------------------


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a Whisper tokenizer: {found}. Expected a Hugging Face tokenizer.json or one of "
        "OpenAI's .tiktoken files; download it again."
    )


def _bytes_in(spelled: str, byte_of: Mapping[str, int]) -> bytes:
    return bytes([byte_of[letter] for letter in spelled])


def _complete(tokens: Sequence[bytes], listed: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Add the merges that a `tokenizer.json` lacks, each in the place that its token has in the vocabulary.

    The file of the default model lacks the very first merge (space and "t"): used as it is, " to" becomes two
    tokens, where the model was trained on one.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    missing = _merges_of(tokens, known={a + b for a, b in listed})
    return sorted([*listed, *missing], key=lambda pair: ranks[pair[0] + pair[1]]) if missing else list(listed)


def _read_json(path: Path, text: str) -> tuple[list[bytes], list[tuple[bytes, bytes]], dict[str, int]]:
    """Read a Hugging Face `tokenizer.json`: its tokens by id, its merges and its special tokens."""
    byte_of = {letter: byte for byte, letter in enumerate(_alphabet())}
    try:
        data = json.loads(text)
        model = data["model"]
        specials = {str(entry["content"]): int(entry["id"]) for entry in data["added_tokens"]}
        # The vocabulary may repeat special tokens; what counts as text ends at <|endoftext|>.
        end = specials["<|endoftext|>"]
        spelled = {i: token for token, i in model["vocab"].items() if i < end}
        tokens = [_bytes_in(spelled[i], byte_of) for i in range(end)]
        # Older files have merges as "a b", newer ones as pairs.
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        listed = [(_bytes_in(a, byte_of), _bytes_in(b, byte_of)) for a, b in pairs]
        merges = _complete(tokens, listed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from error
    return tokens, merges, specials


def _read_ranks(path: Path, text: str) -> list[bytes]:
    """Read a `.tiktoken` file, a token in base64 and its rank a line: the tokens by rank."""
    tokens: dict[int, bytes] = {}
    try:
        for line in text.splitlines():
            if line.strip():
                token, rank = line.split()
                # OpenAI's multilingual file writes its one empty token as a lone padding sign.
                tokens[int(rank)] = b"" if token == "=" else base64.b64decode(token, validate=True)
    except (ValueError, binascii.Error) as error:
        raise _damaged(path, f"line {len(tokens) + 1}: {error}") from error
    missing = next((rank for rank in range(len(tokens)) if rank not in tokens), None)
    if missing is not None or len(set(tokens.values()) & {bytes([b]) for b in range(256)}) < 256:
        raise _damaged(path, "it lacks single bytes" if missing is None else f"rank {missing} is missing")
    return [tokens[rank] for rank in range(len(tokens))]


TIMESTAMPS = 1501  # 0.00 s to 30.00 s in steps of 20 ms
LARGE_V3 = 51_866  # tokens of large-v3 and turbo, which have Cantonese too

_MARKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")


def _openai_specials(n_text: int, n_vocab: int | None) -> dict[str, int]:
    """Number the special tokens as OpenAI does after `n_text` tokens of text, timestamps left out."""
    n_languages = 99 if n_vocab is None else n_vocab - n_text - 2 - len(_MARKS) - TIMESTAMPS
    if n_languages not in (99, 100):
        raise CheckpointError(
            f"A model of {n_vocab} tokens does not go with this file of {n_text}: that leaves {n_languages} "
            "languages, and Whisper has 99 or 100. Use multilingual.tiktoken for a multilingual model and "
            "gpt2.tiktoken for an English-only one."
        )
    names = ["endoftext", "startoftranscript", *list(LANGUAGES)[:n_languages], *_MARKS]
    return {f"<|{name}|>": n_text + i for i, name in enumerate(names)}


# --- the tokenizer ---------------------------------------------------------------------------------------


class WhisperTokenizer:
    """Text to token ids and back, and the special tokens of one Whisper model.

    Attributes:
        n_vocab: Number of ids, 51864 (English-only), 51865 or 51866 (with Cantonese).
        multilingual: False for an English-only model, whose prompt names neither language nor task.
        language_ids: The id of each language, in order, by its code.
        eot, sot, transcribe, translate, no_timestamps, no_speech, sot_prev, sot_lm: Ids of the special
            tokens.
        timestamp_begin: Id of the timestamp 0.00 s.
        control_ids: What no text holds, without the end: it all stands behind that.
        recognizer: Module that decodes recordings to texts with timestamps; see `mmx.tasks.transcribe`.
    """

    recognizer = "mmx.models.whisper.recognizer"

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: Iterable[tuple[bytes, bytes]],
        specials: Mapping[str, int],
        n_vocab: int | None = None,
    ) -> None:
        """Build from parts; `from_file` is the usual way.

        Args:
            tokens: The bytes of each token of text, by id.
            merges: Byte-pair merges, the first to be applied first.
            specials: Ids of the special tokens by name ("<|en|>"); timestamps may be left out.
            n_vocab: Number of ids of the model, when it has more than the tokenizer (padding).

        Raises:
            CheckpointError: A special token is missing or the model has too few ids.
        """

        def find(*names: str) -> int:
            for name in names:
                if f"<|{name}|>" in specials:
                    return specials[f"<|{name}|>"]
            raise CheckpointError(f"The tokenizer lacks <|{names[0]}|>. Use the tokenizer of a Whisper model.")

        self.eot = find("endoftext")
        self.sot = find("startoftranscript")
        self.translate = find("translate")
        self.transcribe = find("transcribe")
        self.sot_lm = find("startoflm")
        self.sot_prev = find("startofprev")
        self.no_speech = find("nospeech", "nocaptions")  # Hugging Face kept the older name
        self.no_timestamps = find("notimestamps")
        self.timestamp_begin = self.no_timestamps + 1
        own = self.timestamp_begin + TIMESTAMPS
        self.n_vocab = own if n_vocab is None else n_vocab
        if self.n_vocab < own:
            raise CheckpointError(
                f"The tokenizer has {own} tokens, the model {n_vocab}. Put the tokenizer.json that came with the model "
                "beside its weights; one of another size numbers its tokens otherwise."
            )
        self.multilingual = len(tokens) > 50256  # GPT-2's vocabulary; the multilingual one has a token more
        self.language_ids = {c: specials[f"<|{c}|>"] for c in LANGUAGES if f"<|{c}|>" in specials}
        self.control_ids = range(self.eot + 1, self.n_vocab)
        self._tokens = tuple(tokens)
        self._names = {i: name for name, i in specials.items()}
        self._bpe = _build_bpe(self._tokens, merges)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], n_vocab: int | None = None) -> "WhisperTokenizer":
        """Read a Hugging Face `tokenizer.json`, or OpenAI's `multilingual.tiktoken` or `gpt2.tiktoken`.

        Args:
            path: The file; its content decides what it is, not its name.
            n_vocab: Number of ids of the model. A `.tiktoken` file does not say whether its model has 99
                languages or 100 (large-v3): pass 51866 for the latter.

        Raises:
            InputError: There is no such file, or it cannot be read.
            CheckpointError: The file is not a Whisper tokenizer, or does not go with `n_vocab`.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"Cannot read the tokenizer {path}: {error.strerror}. Check the path.") from error
        except UnicodeDecodeError as error:
            raise _damaged(path, "it is not text") from error
        if text.lstrip().startswith("{"):
            tokens, merges, specials = _read_json(path, text)
            if n_vocab == LARGE_V3 and "<|yue|>" not in specials:  # lent by a model with a language less
                specials = _openai_specials(len(tokens), n_vocab)
            return cls(tokens, merges, specials, n_vocab)
        tokens = _read_ranks(path, text)
        specials = _openai_specials(len(tokens), n_vocab)
        return cls(tokens, _merges_of(tokens), specials, n_vocab)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens; "<|en|>" in it is text like any other."""
        # Lone surrogates have no bytes: they become U+FFFD, and pairs of them their character.
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self._bpe.encode(whole, add_special_tokens=False).ids

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = True) -> bytes:
        """Return the bytes of ids; they may begin or end within a UTF-8 character.

        Args:
            ids: Token ids in 0..n_vocab-1.
            skip_special: Leave special tokens and timestamps out instead of writing their names.

        Raises:
            InputError: An id is out of range.
        """
        return b"".join(self._bytes_of(int(i), skip_special) for i in ids)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Return the text of ids, with U+FFFD for what is not UTF-8; see `decode_bytes`."""
        return self.decode_bytes(ids, skip_special).decode("utf-8", "replace")

    def _bytes_of(self, i: int, skip_special: bool) -> bytes:
        if 0 <= i < len(self._tokens):
            return self._tokens[i]
        if not 0 <= i < self.n_vocab:
            raise InputError(f"Token id {i} is out of range: expected 0 to {self.n_vocab - 1}.")
        if skip_special:
            return b""
        if self.timestamp_begin <= i < self.timestamp_begin + TIMESTAMPS:
            return f"<|{self.timestamp(i):.2f}|>".encode()
        return self._names.get(i, f"<|{i}|>").encode()

    def lesson(self, text: str, src_lang: str, tgt_lang: str, task: str) -> tuple[list[int], list[int]]:
        """What training gives the decoder to write a text, and what it is to write then: text, without timestamps, and
        end. Raises `InputError` for a task or a language that the model does not have."""
        prompt = self.prompt(src_lang if self.multilingual else None, task)
        return prompt, [*self.encode(" " + text.strip()), self.eot]

    def prompt(self, language: str | None, task: str = "transcribe", timestamps: bool = False) -> list[int]:
        """Return the ids that start a transcript.

        Args:
            language: What is spoken, as `find_language` takes it; None is for English-only models.
            task: "transcribe" or "translate" (into English).
            timestamps: Whether the model is to write timestamps.

        Raises:
            InputError: The task is unknown, or the model does not have the language or the task.
        """
        tasks = {"transcribe": self.transcribe, "translate": self.translate}
        if task not in tasks:
            raise InputError(f"Unknown task {task!r}.{nearest(task, list(tasks))} Expected one of {', '.join(tasks)}.")
        end = [] if timestamps else [self.no_timestamps]
        if not self.multilingual:
            if task != "transcribe" or (language is not None and find_language(language) != "en"):
                raise InputError(
                    f"This model only transcribes English; got task {task!r}, language {language!r}. "
                    "Use a multilingual model (without '.en' in its name)."
                )
            return [self.sot, *end]
        if language is None:
            raise InputError("A multilingual model needs a language; give one such as 'de', or detect it first.")
        return [self.sot, self.language_ids[self.language(language)], tasks[task], *end]

    def language(self, text: str) -> str:
        """Return the code of a language. Raises `InputError` for one that the model does not have."""
        code = find_language(text)
        if code not in (self.language_ids if self.multilingual else ("en",)):
            raise InputError(f"This model does not know {LANGUAGES[code]}. Use a newer one, such as large-v3.")
        return code

    def timestamp(self, i: int) -> float:
        """Return the time of a timestamp token in its window, 0.0 to 30.0 s in steps of 0.02 s.

        Raises:
            InputError: The id is not a timestamp.
        """
        step = int(i) - self.timestamp_begin
        if not 0 <= step < TIMESTAMPS:
            last = self.timestamp_begin + TIMESTAMPS - 1
            raise InputError(f"Token {i} is not a timestamp: expected {self.timestamp_begin} to {last}.")
        return step / 50

    def non_speech_tokens(self) -> tuple[int, ...]:
        """Return the ids, sorted, that write what nobody said: speaker tags, notes and other symbols.

        Suppressing them is OpenAI's default. Punctuation of sentences is not among them; hyphens and
        apostrophes are only where they would begin a word.
        """
        return self._non_speech

    @cached_property
    def _non_speech(self) -> tuple[int, ...]:
        single = set('"#()*+/:;<=>@[\\]^_`{|}~「」『』')
        runs = {"<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))"}
        runs |= {"[[", "]]", "{{", "}}", "♪♪", "♪♪♪"}
        # Notes and accidentals may take several tokens. Their first one, two bytes of U+2640..U+267F, starts
        # only pictograms, so that it can be suppressed as well.
        notes = set("♩♪♫♬♭♮♯")
        found = {self.encode(" -")[0], self.encode(" '")[0]}
        for symbol in single | runs | notes:
            for ids in (self.encode(symbol), self.encode(f" {symbol}")):
                if len(ids) == 1 or symbol in notes:
                    found.add(ids[0])
        return tuple(sorted(found))

    def blank_tokens(self) -> list[int]:
        """Return the ids that a transcript must not begin with: a space and the end."""
        return [*self.encode(" "), self.eot]

    @property
    def special_names(self) -> list[str]:
        """The names of the special tokens, timestamps left out, in the order of their ids."""
        return [self._names[i] for i in sorted(self._names) if i < self.timestamp_begin]

    def to_json(self) -> str:
        """The `tokenizer.json` that Hugging Face's libraries read: text, special tokens and timestamps.

        A text encodes to what `encode` gives, between the tokens that begin and end a transcript without timestamps.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, processors

        whole = Tokenizer.from_str(self._bpe.to_str())
        whole.decoder = decoders.ByteLevel()
        names = self._names | {self.timestamp_begin + i: f"<|{i / 50:.2f}|>" for i in range(TIMESTAMPS)}
        # Ids follow the order in which tokens are added; those that have no name are filled up.
        for i in range(len(self._tokens), self.timestamp_begin + TIMESTAMPS):
            token = AddedToken(names.get(i, f"<|{i}|>"), special=i < self.timestamp_begin, normalized=False)
            (whole.add_special_tokens if i < self.timestamp_begin else whole.add_tokens)([token])
        around = {self._names[i]: i for i in (self.sot, self.no_timestamps, self.eot)}
        begin, plain, end = around
        whole.post_processor = processors.TemplateProcessing(
            single=f"{begin} {plain} $A {end}", pair=f"{begin} {plain} $A $B {end}", special_tokens=list(around.items())
        )
        return whole.to_str()

    def split_words(self, ids: Iterable[int], language: str = "") -> list[tuple[str, list[int]]]:
        """Group ids into words, as openai-whisper does for its word times.

        A word begins at a space, a punctuation mark or a special token; in languages written without spaces,
        each group of whole characters is a word. No UTF-8 character is ever divided.

        Args:
            ids: Token ids; special tokens are kept, written as their names.
            language: Code of the language, as in `LANGUAGES`; of one written with spaces where it is left out.

        Returns:
            Each word's text (with its leading space) and ids; the ids in order are the input.
        """
        characters = self._split_characters([int(i) for i in ids])
        if language in _SPLIT_BY_CHARACTER:
            return list(characters)
        words: list[tuple[str, list[int]]] = []
        for text, group in characters:
            # The second test also holds, as it should, for other white space: "" is in any string.
            begins = text.startswith(" ") or text.strip() in string.punctuation or group[0] >= self.eot
            if begins or not words:
                words.append((text, group))
            else:
                words[-1] = (words[-1][0] + text, words[-1][1] + group)
        return words

    def _split_characters(self, ids: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        """Yield the smallest groups of ids that end where a character of the whole text ends."""
        pieces = [self._bytes_of(i, skip_special=False) for i in ids]
        ends = _character_ends(b"".join(pieces))
        group: list[int] = []
        pending = b""
        position = 0
        for i, piece in zip(ids, pieces, strict=True):
            group.append(i)
            pending += piece
            position += len(piece)
            if position in ends:
                yield pending.decode("utf-8", "replace"), group
                group, pending = [], b""


def _character_ends(data: bytes) -> set[int]:
    """Return the byte offsets where a character, or a stretch that decodes to one U+FFFD, ends; and 0."""
    ends = {0}
    position = 0
    for char in data.decode("utf-8", "replace"):
        size = len(char.encode())
        if char == "\ufffd" and data[position : position + 3] != b"\xef\xbf\xbd":
            # Broken UTF-8: the longest beginning that still counts as one broken character.
            rest = data[position : position + 3]
            size = max(n for n in range(1, len(rest) + 1) if rest[:n].decode("utf-8", "replace") == char)
        position += size
        ends.add(position)
    return ends
