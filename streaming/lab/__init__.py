"""Offline work on logs and runs: simulate, import, inspect, verify, report."""
