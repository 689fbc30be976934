"""The programs: everything that touches files, clocks and terminals."""
