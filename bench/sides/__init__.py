"""The measured programs. Each module starts one of them on loopback and stops it again."""
