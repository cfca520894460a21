"""Drawings from plain numbers; nothing here knows of runs."""
