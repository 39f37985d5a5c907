"""Which node takes an instance: pure functions over values. `docs/placement.md` says what they promise."""
