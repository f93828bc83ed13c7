"""A stand-in for Moonshot's package of that name: what sarsteer uses of it, at the smallest size."""
