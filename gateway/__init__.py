"""The shared kernel: settings, values, names on the wire, stores. Imports none of the other packages."""

__version__ = "0.1.0"
