"""Languages, sentences and tokenizers."""
