"""Delayed-feedback methods side by side on one log; each module says what it must not know."""
