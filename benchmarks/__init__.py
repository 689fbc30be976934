"""The programs: all files, clocks and terminals are here. See README.md beside."""
