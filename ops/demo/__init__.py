"""The proof of `neuronetz-gateway demo`. Nothing here serves production traffic."""
