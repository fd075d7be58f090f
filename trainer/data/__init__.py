"""From a CSV and pictures to shards of examples, and from the shards to batches."""
