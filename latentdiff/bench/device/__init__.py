"""What has to work on an accelerator, checked one by one: `bench device`."""
