"""Monocular depth estimation: one RGB image in, a metric depth map out."""
