"""Stages on a Ray cluster: a laptop submits them as jobs, and brings their small outputs back."""
