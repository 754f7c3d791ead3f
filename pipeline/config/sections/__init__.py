"""Sections of `params.yaml` that have a module of their own."""
