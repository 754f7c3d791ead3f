"""Preflight: what would go wrong in a long run is told before it starts.

`node` looks at a machine and `nodes` does so on all of them; the other modules judge what was
found, each check in one line. `examine` puts the checks together.
"""
