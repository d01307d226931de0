"""Small experiments that show, on a laptop, that a method does what it is there for.

Each is a module that prints its table: `python -m mmx.experiments.averaging --seeds 3`. Those on text train tiny models
with `mmx.train.loop` on numbers written out in several languages (`pip install 'mmx[experiments]'`).
"""
