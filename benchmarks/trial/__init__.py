"""One trial: contestants take turns at the same pictures, and what each gave is timed, weighed and compared."""
