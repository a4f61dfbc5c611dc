"""Measurements that explain a network's robustness, each with a function that draws it."""
