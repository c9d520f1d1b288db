"""What a user holds: from `setup` to `Fitted`."""
