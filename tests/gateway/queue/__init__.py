"""The contract of the queue, which its model and Redis fulfil."""
