"""The one form of file that lumbre writes; it knows no run."""
