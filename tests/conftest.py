"""Puts this folder on the path of every test below it, so that `from fabricate import ...` finds what tests share."""
