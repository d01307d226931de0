"""A SentencePiece model with language tokens as the `tokenizer.json` that Hugging Face's libraries read."""

import json
from typing import Any

from mmx.text.sentencepiece_proto import Kind, is_bpe, normalization, read_pieces
from mmx.text.translation_tokenizer import TranslationTokenizer


def tokenizer_json(model: bytes, tokenizer: TranslationTokenizer, language: str) -> str:
    """The `tokenizer.json` of a translation model; a text becomes what `tokenizer.source` gives.

    Args:
        model: the SentencePiece model that `tokenizer` was read from.
        tokenizer: numbers the pieces, the four special tokens and the languages.
        language: the one of `tokenizer.language_ids` that stands before a text.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors

    s = tokenizer.specials
    controls = {s.bos: "<s>", s.pad: "<pad>", s.eos: "</s>", s.unk: "<unk>"}
    whole = Tokenizer(_model(model, tokenizer, controls))
    steps: list[Any] = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if charsmap := normalization(model):
        steps.insert(0, normalizers.Precompiled(charsmap))
    whole.normalizer = normalizers.Sequence(steps)
    whole.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=False)
    whole.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement="\u2581")])
    names = controls | {i: name for name, i in tokenizer.language_ids.items()}
    whole.add_special_tokens([AddedToken(names[i], special=True, normalized=False) for i in sorted(names)])
    around = [(language, tokenizer.language_ids[language]), ("</s>", s.eos)]
    whole.post_processor = processors.TemplateProcessing(single=f"{language} $A </s>", special_tokens=around)
    return whole.to_str()


def _model(model: bytes, tokenizer: TranslationTokenizer, controls: dict[int, str]) -> Any:
    from tokenizers import models

    pieces = read_pieces(model)
    scores = {p.text: p.score for p in pieces}
    names = controls | {i: name for name, i in tokenizer.language_ids.items()}
    size = max(len(tokenizer.pieces.texts), max(names) + 1)
    held = [*tokenizer.pieces.texts, *[""] * (size - len(tokenizer.pieces.texts))]
    texts = [names.get(i) or held[i] or f"<unused{i}>" for i in range(size)]
    bytes_too = any(p.kind == Kind.BYTE for p in pieces)
    if not is_bpe(model):
        lowest = min(scores.values())
        vocab = [(text, scores.get(text, lowest)) for text in texts]
        return models.Unigram(vocab, unk_id=tokenizer.specials.unk, byte_fallback=bytes_too)
    vocab = {text: i for i, text in enumerate(texts)}
    whole = [p for p in pieces if p.kind == Kind.NORMAL and p.text in vocab]
    known = {p.text for p in whole}
    merges = [
        (p.text[:cut], p.text[cut:])
        for p in sorted(whole, key=lambda p: -p.score)
        for cut in range(1, len(p.text))
        if p.text[:cut] in known and p.text[cut:] in known
    ]
    return models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=bytes_too)


def tokenizer_config(tokenizer: TranslationTokenizer, language: str, longest: int) -> str:
    """The `tokenizer_config.json` beside it."""
    languages = sorted(tokenizer.language_ids, key=tokenizer.language_ids.__getitem__)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", **names, "additional_special_tokens": languages,
        "model_max_length": longest, "src_lang": language,
    }  # fmt: skip
    return json.dumps(settings, indent=1)
