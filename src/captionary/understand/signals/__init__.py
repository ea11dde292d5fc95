"""Signals of any media: frames of videos and animations, speech, sounds, on-screen text, merged into one descriptor."""
