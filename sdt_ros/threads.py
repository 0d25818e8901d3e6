"""How torch's CPU threads wait for each other. Importing this before torch makes them share the cores.

By default a thread of libgomp that has nothing to do spins for some 300,000 rounds before it sleeps. On a robot, where
other processes want the cores, the spinning thread holds the core that the working one waits for: a window took 5 s
instead of 0.25 s on two cores at a load of 2.5 (docs/lab_notebook.md). Spinning for 10,000 rounds costs nothing
measurable on quiet cores and avoids that. Whoever sets OMP_WAIT_POLICY or GOMP_SPINCOUNT decides for himself.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
