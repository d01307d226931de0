"""Three tiny families that live in tests/ alone: what mmx does for them it does for any family.

They are named as modules, `toys.pose_to_text`, where a recipe or a card says a family. `toys.data` makes what they
learn from.
"""
