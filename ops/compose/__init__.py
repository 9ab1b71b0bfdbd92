"""What compose.yaml needs beside images: the secrets and settings of its services, and the scripts that run in them."""
