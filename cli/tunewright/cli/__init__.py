"""The `tunewright` command. Speaks HTTP to a gateway and starts services as processes; imports none of them."""
