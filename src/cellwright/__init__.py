"""cellwright: write the step of a recurrent cell as its equations."""

__version__ = "0.1.0"
