"""Preflight: errors of a long run are reported before it starts.

`node` inspects one machine, `nodes` inspects all of them; the other modules judge the facts, one
line a check. `examine` puts the checks together.
"""
