"""Checks task data before a run: rows, answers, lengths, and training rows that are evaluated too."""
