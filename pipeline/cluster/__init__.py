"""Stages as jobs of a Ray cluster: submit, follow, fetch the outputs."""
