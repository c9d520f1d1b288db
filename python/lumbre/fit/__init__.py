"""The things that a user holds, from `setup` to `Fitted`."""
