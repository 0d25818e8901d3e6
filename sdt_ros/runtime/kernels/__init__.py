"""Compiled loops of spiking layers, on as many threads as torch uses; training takes its neurons from here too."""
