"""How far a trained network is off, and a head that tells it: `sdt-distill uncertainty`.

`mistakes.py` runs the network and compares, `fit.py` fits the head to that, `score.py` says how good it is.
"""
