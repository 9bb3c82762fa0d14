"""Many trainings of one pipeline that differ in some parameters, and what they show."""
