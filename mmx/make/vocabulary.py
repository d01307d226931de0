"""The vocabulary of a finished model: more languages (`extend`), or only those that are wanted (`trim`).

Both change the embedding, which is also the output projection, and the tokenizer; the Transformer between them stays as
it is. Right after either, what the model computes for the old tokens that are still there is what it was.

Letters: V vocabulary, D width.
"""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmx import api
from mmx.errors import InputError
from mmx.files import atomic_write
from mmx.interfaces import Embeds
from mmx.model import Model
from mmx.nn.decoder import TextDecoder
from mmx.text import byte_tokenizer, tokenizer_files
from mmx.text.languages import find_language
from mmx.text.shortlist import count_pieces
from mmx.text.train_tokenizer import FILE
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.train.manifest import read_manifest
from mmx.weights.card import Card
from mmx.weights.family import Family, import_family
from mmx.weights.folder import card_fields, new_folder, write_model
from mmx.weights.hub import Found

KEPT = "kept_ids.json"
"""In a trimmed folder: for each token its id in the model before, in order."""


def extend(
    model: str | Path,
    languages: Sequence[str],
    manifest: str | Path,
    out: str | Path,
    *,
    like: Mapping[str, str] | None = None,
    pieces: int = 1000,
) -> Path:
    """Give a translation model more languages, to be trained on (Tang et al. 2020, arXiv 2008.00401, section 3).

    A new language's token begins as the mean of all others, or as a relative's. Characters that the tokenizer has no
    pieces for get some, learned from the new text; each begins as the mean of what it was read as before. Then train
    with `init` = the folder, on the new data and the old: without the old, the old languages are forgotten.

    Args:
        model: name or path; its folder has a SentencePiece model or is one of bytes.
        languages: the new ones, as `mmx.text.languages.find_language` takes them.
        manifest: examples of the new languages, from or into any that the model has then; see `mmx.train.manifest`.
        out: the folder to write, which must not exist.
        like: for a new language one that the model has, whose token it begins as.
        pieces: to add at most, beyond one for each new character.

    Returns:
        The folder.

    Raises:
        InputError: a language is unknown or there already, the manifest has mistakes or lacks a language, `out` exists,
            or the model cannot be extended.
        OutputError: the folder cannot be written.
    """
    out = _new(out)
    source = _Source.of(model)
    tok = source.tokenizer
    names = _new_languages(languages, tok)
    relatives = _relatives(like or {}, names, tok)
    texts = _texts_of(names, manifest, tok)
    with tempfile.TemporaryDirectory(prefix="mmx-") as spare:
        settings = Path(spare)
        added = tokenizer_files.append(source.extendable(), tok, names, texts, pieces, settings)
        rows = [[tok.language_ids[relatives[n]]] if n in relatives else list(tok.language_ids.values()) for n in names]
        rows += [_old_ids(piece, tok) for piece in added]

        def grown(old_VD: Tensor) -> Tensor:
            new = [old_VD[ids].float().mean(0).to(old_VD.dtype) for ids in rows]
            return torch.cat([old_VD, torch.stack(new)])

        source.write(out, settings, grown, len(names) + len(added) + tok.n_vocab, [*tok.language_ids, *names])
    return out


def trim(
    model: str | Path,
    languages: Sequence[str],
    text: Sequence[str | Path],
    out: str | Path,
    *,
    min_probability: float = 1e-6,
) -> Path:
    """Keep of a model's vocabulary what some languages need (Ansell et al. 2023, arXiv 2306.01709, section 3).

    A piece is kept when its share of a text's pieces reaches `min_probability` in one of the texts. Special tokens,
    bytes, ASCII and all characters that occur are kept too. Text in other letters is then read as bytes or as unknown,
    with a warning when it is translated.

    Args:
        model: name or path.
        languages: those to keep, which the model has.
        text: files of plain text in UTF-8, best one for each language.
        out: the folder to write, which must not exist. Its `kept_ids.json` says which token was which.
        min_probability: see above.

    Returns:
        The folder.

    Raises:
        InputError: the model does not have a language, a text is empty or unreadable, `out` exists, or the model has
            no vocabulary that can be trimmed.
        OutputError: the folder cannot be written.
    """
    out = _new(out)
    if not 0 <= min_probability < 1:
        raise InputError(f"expected a min_probability from 0 to 1, got {min_probability}")
    if not languages or not text or isinstance(languages, str) or isinstance(text, str):
        raise InputError(f"expected a list of languages and one of files, got {languages!r} and {text!r}")
    source = _Source.of(model)
    tok = source.tokenizer
    names = list(dict.fromkeys(tok.language(code) for code in languages))
    corpora = [_lines(Path(path)) for path in text]
    wanted = set(tokenizer_files.characters(tok, (line for corpus in corpora for line in corpus)))
    for corpus in corpora:
        counts = count_pieces(tok, corpus)
        wanted |= {i for i, n in counts.items() if n >= min_probability * counts.total()}
    with tempfile.TemporaryDirectory(prefix="mmx-") as spare:
        settings = Path(spare)
        kept = tokenizer_files.keep(source.file, tok, wanted, names, settings)
        atomic_write(settings / KEPT, json.dumps(kept))
        source.write(out, settings, lambda old_VD: old_VD[kept], len(kept), names)
    return out


@dataclass(frozen=True)
class _Source:
    """A translation model whose weights are still in their file.

    Attributes:
        card: what it is.
        found: where its weights are.
        family: module that builds it.
        built: its structure, without weights.
        file: of its tokenizer.
        tokenizer: read from it.
    """

    card: Card
    found: Found
    family: Family
    built: Model
    file: Path
    tokenizer: TranslationTokenizer

    @classmethod
    def of(cls, model: str | Path) -> "_Source":
        card, found = api.locate(model)
        family = import_family(card.family)
        with torch.device("meta"):
            built = family.build(family.Config(**card.config))
        file, read = found.tokenizer, family.tokenizer
        if not _is_tied(built) or "vocab" not in card.config or file is None or read is None:
            raise InputError(
                f"expected a model that translates text, such as one from mmx train, got {card.name} of the "
                f"family {card.family}: its vocabulary cannot be changed"
            )
        if (file.parent / "vocab.json").is_file():
            raise InputError(
                f"expected a model whose tokenizer numbers its own pieces, got {card.name}, whose vocab.json renumbers "
                "them, as M2M-100's does: this kind cannot be changed"
            )
        return cls(card, found, family, built, file, read(file, family.Config(**card.config)))

    def extendable(self) -> Path:
        """The tokenizer's file, of a kind that takes more pieces."""
        beside = self.file.with_name(FILE)
        file = beside if self.file.name == tokenizer_files.JSON and beside.is_file() else self.file
        if file.name not in (FILE, byte_tokenizer.FILE):
            raise InputError(
                f"expected {FILE} or {byte_tokenizer.FILE} next to the weights of {self.card.name}, got {file.name} "
                "alone, which cannot be extended: put the publisher's SentencePiece model there"
            )
        return file

    def write(
        self, out: Path, settings: Path, change: Callable[[Tensor], Tensor], vocab: int, languages: Iterable[str]
    ) -> None:
        """The folder, with `change` made to the embedding."""
        decoder = self.built.decoder
        assert isinstance(decoder, TextDecoder)  # `_is_tied` saw to it
        name = next(n for n, p in self.built.named_parameters() if p is decoder.token.weight)
        numbers = {**dataclasses.asdict(self.family.Config(**self.card.config)), "vocab": vocab}
        spared = (decoder.token.num_embeddings - vocab) * decoder.token.embedding_dim
        fields = card_fields(self.card, self.built)
        fields.pop("writes", None)  # it may learn to write more
        fields |= {"name": out.name, "languages": _listed(languages), "parameters": fields["parameters"] - spared}

        def tensors() -> Iterator[tuple[str, Tensor]]:
            for key, value in api.converted(self.built, self.family, self.found):
                yield key, change(value) if key == name else value

        with new_folder(out) as folder:
            write_model(
                folder, tensors(), family=self.card.family, config=numbers, card=fields, tokenizer=settings, dtype=None
            )


def _is_tied(model: Model) -> bool:
    """Whether the model translates text, and one embedding serves all of it."""
    if model.decoder is None or set(model.encoders) != {"text"}:
        return False
    reads, writes = model.encoders["text"], model.decoder
    return isinstance(reads, Embeds) and isinstance(writes, Embeds) and reads.token is writes.token


def _new(out: str | Path) -> Path:
    out = Path(out).expanduser()
    if out.exists():
        raise InputError(f"expected a new folder, got {out}, which exists: choose another name or remove it")
    return out


def _listed(names: Iterable[str]) -> str:
    """Languages for the card."""
    every = [str(find_language(name)) for name in names]
    return ", ".join(every) if len(every) <= 12 else f"{len(every)} languages"


# -------------------- what is new


def _new_languages(languages: Sequence[str], tokenizer: TranslationTokenizer) -> list[str]:
    """The spelling of each new language, as NLLB spells them."""
    if not languages or isinstance(languages, str):
        raise InputError(f"expected a list of new languages, got {languages!r}")
    found = [find_language(code) for code in languages]
    have = {(known.code, known.script): name for name in tokenizer.language_ids for known in [find_language(name)]}
    there = [f"{language} ({have[language.code, language.script]})" for language in found
             if (language.code, language.script) in have]  # fmt: skip
    if there:
        raise InputError(f"expected languages that the model does not have, got {', '.join(there)}: leave them out")
    return list(dict.fromkeys(f"{language.code}_{language.script}" for language in found))


def _relatives(like: Mapping[str, str], names: Sequence[str], tokenizer: TranslationTokenizer) -> dict[str, str]:
    """New spelling to old spelling."""
    out = {}
    for new, old in like.items():
        language = find_language(new)
        spelled = f"{language.code}_{language.script}"
        if spelled not in names:
            raise InputError(f"expected like to be for one of the new languages {', '.join(names)}, got {new!r}")
        out[spelled] = tokenizer.language(old)
    return out


def _texts_of(names: Sequence[str], manifest: str | Path, tokenizer: TranslationTokenizer) -> list[str]:
    """The texts in the new languages; each must have some."""
    texts: dict[str, list[str]] = {name: [] for name in names}
    wanted = {(found.code, found.script): name for name in names for found in [find_language(name)]}
    for example in read_manifest(manifest, [*tokenizer.language_ids, *names]):
        for code, text in ((example.src_lang, example.source), (example.tgt_lang, example.target)):
            found = find_language(code)
            if (found.code, found.script) in wanted:
                texts[wanted[found.code, found.script]].append(text)
    missing = [str(find_language(name)) for name, own in texts.items() if not own]
    if missing:
        raise InputError(f"expected examples of every new language in {manifest}, got none of {', '.join(missing)}")
    return [text for own in texts.values() for text in own]


def _old_ids(piece: str, tokenizer: TranslationTokenizer) -> list[int]:
    """What a piece was read as: its old pieces or bytes; all pieces where it was unknown."""
    ids = [i for i in tokenizer.encode(piece.replace("\u2581", " ")) if tokenizer.is_text(i)]
    if not piece.startswith("\u2581") and len(ids) > 1 and tokenizer.pieces.texts[ids[0]] == "\u2581":
        ids = ids[1:]  # which encoding puts before every text
    return ids or [i for i in range(len(tokenizer.pieces.texts)) if tokenizer.is_text(i)]


# -------------------- what is kept


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"expected plain text in UTF-8 at {path}, got {getattr(e, 'strerror', None) or e}") from e
    found = [line for line in lines if line.strip()]
    if not found:
        raise InputError(f"expected text in {path}, got none: a text in each language shows which pieces it needs")
    return found
