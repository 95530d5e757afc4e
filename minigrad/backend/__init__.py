"""Where arrays live: NumPy always, CuPy where it is installed. Nothing else imports an array library for a device."""
