"""How the embedded prior is trained: settings, pictures, networks, and the loop."""
