"""Many runs: seeds side by side, batches over the processes of one machine or of a cluster."""
