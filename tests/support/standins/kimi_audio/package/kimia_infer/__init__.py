"""A stand-in for the parts of Moonshot's package ``kimia_infer`` that sarsteer uses."""
