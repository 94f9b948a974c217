"""The version of this project. The build reads it here."""

VERSION = "0.1.0"
