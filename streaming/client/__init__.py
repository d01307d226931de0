"""`mmx live`: microphone, terminal, the session between them."""
