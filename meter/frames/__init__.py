"""One reader of frames per dialect. Pure; knows no tenant."""
