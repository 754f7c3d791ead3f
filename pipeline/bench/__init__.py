"""Measurements of this machine with the project's own code, each against the bar that it must
clear.
"""
