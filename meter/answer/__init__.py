"""From the chunks of an answer to its usage and its end. Pure."""
