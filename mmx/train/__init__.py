"""Training: recipes, manifests, data, objectives, the loop, checkpoints.

`python -m mmx.train recipe.toml` is `mmx train recipe.toml`.
"""
