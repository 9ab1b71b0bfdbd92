"""Reads frames and whole answers, with one module per dialect. Pure; knows no tenant."""
