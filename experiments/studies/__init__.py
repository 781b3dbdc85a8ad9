"""Studies that need more than a sweep: agreement of masks, trials behind Plus."""
