"""Scenes and event models: recordings whose content is known."""
