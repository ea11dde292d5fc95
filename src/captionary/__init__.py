"""Captionary: from a catalogue's media and an event log to a ranker with caption features and an honest report."""

__version__ = "0.1.0"
