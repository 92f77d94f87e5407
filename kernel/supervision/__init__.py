"""Init at work: its file's tree, schedules, alarms, and what follows from an end."""
