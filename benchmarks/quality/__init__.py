"""Figures of the pictures themselves: whether they show what was asked, not whether they are near a reference."""
