"""An inaudible mark in speech that was made, its detector, and signed provenance next to the sound."""
