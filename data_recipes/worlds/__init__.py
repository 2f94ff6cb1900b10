"""Stateful simulated domains, the trajectories that are sampled from them, and the replay that verifies those.

``TRAINING`` worlds make training data; ``HELDOUT`` ones are only ever measured on (eval/worldbench.py).
"""
