"""Scores of texts, of live sessions, and of what a model forgot."""
