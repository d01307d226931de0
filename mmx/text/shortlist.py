"""Vocabulary shortlists: a decoder that writes only some of its tokens, at a fraction of the head's cost.

A model for 200 languages has a head of 256,000 rows, of which one language uses a few thousand. Their rows are gathered
once. Greedy search then writes the same as with the whole head whenever its tokens are on the list; the scores are
over the list only, so that they are higher, and a beam may rank hypotheses differently: of 400 sentences of the model
en-es, 922 of whose 8,000 pieces were listed, beam 5 writes 301 as it does with the whole head. The head of NLLB-200, 5
hypotheses, float32 on 2 CPU threads, measured in one run: 256,206 rows 33 times as long as 8,000 (int8: 2.4 times).

Letters: B rows, R hypotheses, U tokens, D width, S tokens on the list.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Decoder
from mmx.seq import Seq
from mmx.state import State
from mmx.text.languages import find_language, is_written_with
from mmx.text.translation_tokenizer import TranslationTokenizer, byte_of


def count_pieces(tokenizer: TranslationTokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often each piece occurs in texts, by id."""
    return Counter(i for text in texts for i in tokenizer.encode(text) if tokenizer.is_text(i))


def from_texts(tokenizer: TranslationTokenizer, texts: Iterable[str], size: int | None = None) -> list[int]:
    """Ids of the pieces in texts of the target language, the `size` most frequent ones, ascending."""
    return sorted(i for i, _ in count_pieces(tokenizer, texts).most_common(size))


def from_script(tokenizer: TranslationTokenizer, language: str) -> list[int]:
    """Ids of the pieces without a letter of a script other than the language's, of bytes, and of short ones in ASCII,
    for names.

    It keeps all that the language may need, and for scripts other than Latin it is short.
    """
    script = find_language(tokenizer.language(language)).script
    pieces = tokenizer.pieces.texts

    def wanted(piece: str) -> bool:
        short = len(piece) < 3 and piece.isascii()
        return bool(piece) and (short or byte_of(piece) is not None or is_written_with(piece, script))

    return [i for i, piece in enumerate(pieces) if wanted(piece)]


def read(tokenizer: TranslationTokenizer, language: str, spec: str) -> list[int]:
    """What people ask for: `script` for `from_script`, or the path of a text in the target language for `from_texts`.

    Raises:
        InputError: there is no such text, or it holds nothing.
    """
    if spec == "script":
        return from_script(tokenizer, language)
    try:
        with Path(spec).open(encoding="utf-8") as lines:
            ids = from_texts(tokenizer, lines)
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"expected `script` or a UTF-8 text in {language} for a shortlist, got {spec}: {e}") from e
    if not ids:
        raise InputError(f"expected a text in {language} for a shortlist, got an empty one in {spec}")
    return ids


class ShortlistDecoder:
    """A `Decoder` whose vocabulary is a list of another's tokens: token s here is token `ids[s]` there.

    Args:
        decoder: what writes.
        weight_VD: of its output projection.
        ids: the tokens that may be written, and those of the prefix; ascending, each once.
    """

    def __init__(self, decoder: Decoder, weight_VD: Tensor, ids: Sequence[int]):
        self.decoder = decoder
        self.width, self.ctx, self.dtype, self.device = decoder.width, decoder.ctx, decoder.dtype, decoder.device
        if not ids or list(ids) != sorted(set(ids)) or ids[0] < 0 or ids[-1] >= len(weight_VD):
            raise InputError(f"expected ascending token ids below {len(weight_VD)}, got {list(ids[:8])}...")
        self.ids_S = torch.tensor(list(ids), device=weight_VD.device)
        self.rows_SD = weight_VD.detach()[self.ids_S]
        self.index = {token: s for s, token in enumerate(ids)}

    def forward(
        self,
        tokens: Tensor,
        memory: Seq,
        state: State | None = None,
        at: Sequence[int] | None = None,
        owner: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits `(R, U or len(at), S)`; see `mmx.interfaces.Decoder`."""
        x_RUD = self.hidden(tokens, memory, state, owner)
        return self.head(x_RUD if at is None else x_RUD[:, list(at)])

    def hidden(
        self, tokens: Tensor, memory: Seq, state: State | None = None, owner: Sequence[int] | None = None
    ) -> Tensor:
        """That of the whole decoder, `(R, U, D)`."""
        return self.decoder.hidden(self.ids_S[tokens], memory, state, owner)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits `(*, S)`."""
        return F.linear(hidden, self.rows_SD)

    def init_state(self, batch: int, capacity: int, hypotheses: int = 1) -> State:
        """That of the whole decoder."""
        return self.decoder.init_state(batch, capacity, hypotheses)

    def short(self, tokens: Iterable[int]) -> list[int]:
        """Places on the list of tokens that are on it."""
        return [self.index[t] for t in tokens if t in self.index]

    def long(self, places: Iterable[int]) -> list[int]:
        """Tokens at places of the list."""
        return [int(self.ids_S[s]) for s in places]
