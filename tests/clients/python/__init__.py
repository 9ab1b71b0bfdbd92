"""Libraries for Python, one file each. A file offers the actions of `runner.py` that its library has."""
