"""Axis analysis: what each axis of each tensor means (batch row, token slot, feature) and what padded slots hold."""
