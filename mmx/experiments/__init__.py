"""Small experiments that show a mechanism at work: each is a module to run, `python -m mmx.experiments.<name>`."""
