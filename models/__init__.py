"""What a checkpoint is: readers, family adapters, the manifest, assembling a trunk."""
