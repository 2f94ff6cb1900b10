"""A real Slurm with four nodes on one machine: ``python -m slurm.devcluster up|run|down|with``. Standard library only.

A cluster is one process, the holder (``holder.py``): every daemon and every job descends from it, so that its end is
theirs. Where the kernel lets us, it lives in namespaces of its own and each node has network and host name for itself.
"""
