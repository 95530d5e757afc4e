"""Where arrays live: NumPy always, CuPy where it is installed. Only this package imports an array library for a device."""
