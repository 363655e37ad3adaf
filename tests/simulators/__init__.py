"""Simulators of upstream providers, written from their wire facts alone: nothing of ours is imported here."""
