"""A page with forms for those who use no shell, and the queue of run processes behind it."""
