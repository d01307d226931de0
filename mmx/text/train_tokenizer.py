"""A SentencePiece tokenizer of our own, laid out as NLLB's so that `TranslationTokenizer` reads it."""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmx.errors import InputError
from mmx.files import atomic_write
from mmx.text.languages import find_language
from mmx.text.translation_tokenizer import TranslationTokenizer

FILE = "sentencepiece.bpe.model"
"""The name under which tokenizers of this kind are found beside weights, unigram ones included."""


def train_tokenizer(texts: Iterable[str], languages: Sequence[str], vocab: int, folder: Path) -> TranslationTokenizer:
    """Train a unigram model (Kudo 2018, arXiv 1804.10959) on texts of all languages together and write it.

    Characters that are too rare for a piece of their own are written as bytes, so that no text is unknown.

    Args:
        texts: of the training data only.
        languages: those that get a token, as `mmx.text.languages.find_language` takes them.
        vocab: rows of the model's embedding: pieces, padding and language tokens.
        folder: receives the model and the small files that say where the special tokens are.

    Raises:
        InputError: the texts do not fill the vocabulary.
    """
    from sentencepiece import SentencePieceTrainer

    spelled = sorted({f"{(found := find_language(code)).code}_{found.script}" for code in languages})
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=vocab - 1 - len(spelled),
            model_type="unigram",
            byte_fallback=True,
            normalization_rule_name="nmt_nfkc",
            character_coverage=0.9998,
            num_threads=1,  # the result depends on it
            minloglevel=2,
        )
    except RuntimeError as e:
        raise InputError(f"expected texts for a vocabulary of {vocab}, got too few: lower vocab. ({e})") from e
    folder.mkdir(parents=True, exist_ok=True)
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}  # fairseq's, which move the pieces up by one
    atomic_write(folder / "config.json", json.dumps(ids))
    atomic_write(folder / "tokenizer_config.json", json.dumps({"additional_special_tokens": spelled}))
    atomic_write(folder / FILE, model.getvalue())
    return TranslationTokenizer.from_file(folder / FILE, vocab)
