"""Search in recordings: by words of their transcripts, by text that a model reads in them, or by example.

`index` keeps entries on disk, `embed` makes them with a model, `words` finds text in transcripts, `similarity` compares
token by token, `nearest` finds candidates, `query` puts them together.
"""
