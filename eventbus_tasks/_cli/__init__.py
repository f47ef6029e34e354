"""The command line ``ebt``. It uses what every application has: the public face."""
