"""How each family of models is fed, where its decoder layers are, and how it answers."""
